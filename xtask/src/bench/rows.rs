//! What is measured: each row of the design's table that exists so far.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use testkit::{Host, Image, debian, image};

use super::peers::Peers;
use super::report::Row;
use super::{Entry, memory, output, race, stores};

/// The peers' name for the benchmark's image.
const IMAGE: &str = "lighter-bench:1";

/// An image made from Debian's packages, one layer.
pub(super) const DEBIAN: &str = "lighter-bench-debian:1";

/// Rounds of rows whose commands take seconds.
pub(super) const FEW: usize = 3;

/// Containers that a crowd's row starts at the same time.
const CROWD: usize = 64;

/// Measures every row.
pub(super) fn measure(host: &Host, peers: &Peers, rounds: usize) -> Result<Vec<Row>, String> {
    host.load(&Image::busybox("busybox:latest"));
    let engines = engines(peers)?;
    let bundle = bundle(peers.shared())?;
    let full = full_bundle(host, peers.shared())?;
    let rows = vec![
        bare(host, peers, "OCI run of /bin/true from a bundle", &bundle, rounds),
        bare(host, peers, "the same with docker's default configuration: seccomp, masks, limits", &full, rounds),
        crowd(host, peers, &bundle),
        memory::peak(host, peers, &bundle)?,
        with_image(host, peers, &engines, rounds),
        exec(host, peers, &engines, rounds)?,
        memory::idle(host, peers, &engines, IMAGE)?,
        load(host, peers, &engines)?,
        stores::save(host, peers)?,
        stores::remove(host, peers)?,
        stores::create(host, peers, rounds)?,
    ];
    for engine in engines {
        if let Some(mut command) = peers.command(engine) {
            command.args(["rmi", "-f", IMAGE]);
            output(command)?;
        }
    }
    Ok(rows)
}

/// The engines with images among the peers, each with the benchmark's image.
fn engines(peers: &Peers) -> Result<Vec<&'static str>, String> {
    let layer = peers.shared().join("busybox.tar");
    write(&layer, image::busybox_layer())?;
    let mut engines = Vec::new();
    for engine in ["docker", "podman"] {
        if let Some(mut command) = peers.command(engine) {
            command.args(["import", "-c", "CMD [\"sh\"]"]).arg(peers.seen_by(engine, &layer)).arg(IMAGE);
            match output(command) {
                Ok(_) => engines.push(engine),
                Err(error) => crate::complain(&format!("{engine} is left out: {error}")),
            }
        }
    }
    Ok(engines)
}

pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    std::fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))
}

/// A bundle like the one that `runc spec` writes, running `/bin/true`.
fn bundle(shared: &Path) -> Result<PathBuf, String> {
    let dir = shared.join("bundle");
    let rootfs = dir.join("rootfs");
    std::fs::create_dir_all(&rootfs).map_err(|error| format!("{}: {error}", rootfs.display()))?;
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(&rootfs).arg("-xf").arg(shared.join("busybox.tar"));
    output(tar)?;
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let tmpfs = |place: &str, options: &[&str]| json!({"destination": place, "type": "tmpfs", "source": "tmpfs", "options": options});
    let config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0}, "args": ["/bin/true"], "cwd": "/", "env": ["PATH=/bin"],
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "bench",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            tmpfs("/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            tmpfs("/dev/shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
            "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    });
    write(&dir.join("config.json"), config.to_string().as_bytes())?;
    Ok(dir)
}

/// The bare runtimes' entries for the bundle.
pub(super) fn runtimes<'a>(peers: &'a Peers, bundle: &'a Path) -> Vec<Entry<'a>> {
    let mut entries = Vec::new();
    for name in ["crun", "runc"] {
        if peers.command(name).is_some() {
            let bundle = peers.seen_by(name, bundle);
            entries.push(Entry::new(name, move |round| {
                let mut command = peers.command(name).unwrap_or_else(|| Command::new(name));
                command.arg("run").arg("--bundle").arg(&bundle).arg(unique(name, round));
                command
            }));
        }
    }
    entries
}

pub(super) fn unique(name: &str, round: usize) -> String {
    format!("lighter-bench-{}-{name}-{round}", std::process::id())
}

/// The same root file system under what a container gets by default, in the host's users because runc and crun would
/// need files with owners of their own: the whole seccomp list, all masks, and limits in every controller.
fn full_bundle(host: &Host, shared: &Path) -> Result<PathBuf, String> {
    let dir = shared.join("full");
    std::fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let flags = ["--network", "none", "--userns", "host", "--cpus", "1", "--memory", "512m", "--pids-limit", "512"];
    let id = output(host.command(&[&["create"], flags.as_slice(), &["busybox", "/bin/true"]].concat()))?;
    let record = host.root().join("containers").join(&id).join("config");
    let text = std::fs::read(&record).map_err(|error| format!("{}: {error}", record.display()))?;
    output(host.command(&["rm", &id]))?;
    let record: Value = serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", record.display()))?;
    let mut config = record["spec"].clone();
    config["root"] = json!({"path": "../bundle/rootfs", "readonly": false});
    if let Some(linux) = config["linux"].as_object_mut() {
        linux.remove("cgroupsPath");
    }
    if let Some(mounts) = config["mounts"].as_array_mut() {
        // The files of /etc belong to a container's directory, which a bundle has not.
        mounts.retain(|mount| mount["type"] != "bind");
    }
    write(&dir.join("config.json"), config.to_string().as_bytes())?;
    Ok(dir)
}

/// Many bare runs at the same time: the time until the last has ended.
fn crowd(host: &Host, peers: &Peers, bundle: &Path) -> Row {
    let words = |name: &str, command: &Command, round: usize| {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let words: Vec<_> = words.map(|word| format!("'{}'", word.to_string_lossy())).collect();
        let script = format!(
            "for i in $(seq {CROWD}); do {} --bundle '{}' {}-$i & pids=\"$pids $!\"; done; \
             for p in $pids; do wait $p || exit 1; done",
            words.join(" "),
            peers.seen_by(name, bundle).display(),
            unique(name, round),
        );
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(script);
        shell
    };
    let mut entries =
        vec![Entry::new("lighter-runtime", move |round| words("own", &peers.alike(host.runtime(&["run"])), round))];
    for name in ["crun", "runc"] {
        if peers.command(name).is_some() {
            entries.push(Entry::new(name, move |round| {
                let mut command = peers.command(name).unwrap_or_else(|| Command::new(name));
                command.arg("run");
                words(name, &command, round)
            }));
        }
    }
    race("OCI run of /bin/true, 64 at the same time", &entries, FEW)
}

fn bare(host: &Host, peers: &Peers, name: &'static str, bundle: &Path, rounds: usize) -> Row {
    let mut entries = vec![Entry::new("lighter-runtime", |round| {
        peers.alike(host.runtime(&["run", "--bundle", &bundle.to_string_lossy(), &unique("own", round)]))
    })];
    entries.extend(runtimes(peers, bundle));
    race(name, &entries, rounds)
}

fn with_image(host: &Host, peers: &Peers, engines: &[&'static str], rounds: usize) -> Row {
    let bundle = peers.shared().join("bundle");
    let own = || peers.alike(host.command(&["run", "--rm", "--network", "none", "busybox", "true"]));
    let mut entries = vec![Entry::new("lighter", move |_| own())];
    for engine in engines.iter().copied() {
        entries.push(Entry::new(engine, move |_| {
            let mut command = peers.command(engine).unwrap_or_else(|| Command::new(engine));
            command.args(["run", "--rm", "--network", "none", IMAGE, "true"]);
            command
        }));
    }
    // The budget of this row is a multiple of bare crun.
    entries.extend(runtimes(peers, &bundle).into_iter().filter(|entry| entry.name == "crun"));
    race("run --rm --network none IMAGE true", &entries, rounds)
}

/// A running container of each contestant, removed on drop.
pub(super) struct Idle<'a> {
    host: &'a Host,
    peers: &'a Peers,
    pub(super) name: &'static str,
    pub(super) id: String,
}

impl<'a> Idle<'a> {
    /// Starts one; `lighter` is the engine under test.
    pub(super) fn start(host: &'a Host, peers: &'a Peers, name: &'static str, image: &str) -> Result<Self, String> {
        let args = |image| ["run", "-d", "--network", "none", image, "sleep", "100000"];
        let command = match peers.command(name) {
            None => host.command(&args("busybox")),
            Some(mut command) => {
                command.args(args(image));
                command
            }
        };
        Ok(Self { host, peers, name, id: output(command)? })
    }

    /// A command about this container: the verb, the id, and what follows.
    pub(super) fn command(&self, verb: &[&str], rest: &[&str]) -> Command {
        let words = [verb, &[self.id.as_str()], rest].concat();
        match self.peers.command(self.name) {
            None => self.peers.alike(self.host.command(&words)),
            Some(mut command) => {
                command.args(words);
                command
            }
        }
    }
}

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        drop(output(self.command(&["rm", "-f"], &[])));
    }
}

fn exec(host: &Host, peers: &Peers, engines: &[&'static str], rounds: usize) -> Result<Row, String> {
    let names = ["lighter"].into_iter().chain(engines.iter().copied());
    let idle: Vec<Idle<'_>> = names.map(|name| Idle::start(host, peers, name, IMAGE)).collect::<Result<_, _>>()?;
    let entries: Vec<Entry<'_>> =
        idle.iter().map(|idle| Entry::new(idle.name, move |_| idle.command(&["exec"], &["true"]))).collect();
    Ok(race("exec CONTAINER true", &entries, rounds))
}

fn load(host: &Host, peers: &Peers, engines: &[&'static str]) -> Result<Row, String> {
    let rootfs = debian::rootfs("bookworm");
    let layer = std::fs::read(&rootfs).map_err(|error| format!("{}: {error}", rootfs.display()))?;
    let archive = peers.shared().join("debian.tar");
    write(&archive, &Image::empty(DEBIAN).layer(layer).docker_archive().tar())?;
    let file = archive.to_string_lossy().into_owned();
    let mut entries = vec![
        Entry::new("lighter", |_| peers.alike(host.command(&["load", "-i", &file])))
            .after(|_| host.command(&["rmi", "-f", DEBIAN])),
    ];
    for engine in engines.iter().copied() {
        let file = peers.seen_by(engine, &archive);
        let base = move || peers.command(engine).unwrap_or_else(|| Command::new(engine));
        let make = move |_| {
            let mut command = base();
            command.args(["load", "-i"]).arg(&file);
            command
        };
        entries.push(Entry::new(engine, make).after(move |_| {
            let mut command = base();
            command.args(["rmi", "-f", DEBIAN]);
            command
        }));
    }
    Ok(race("load of a Debian image, one layer", &entries, FEW))
}
