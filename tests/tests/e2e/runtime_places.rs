//! `lighter-runtime`: containers in user and mount namespaces of others, roots that are not pivoted, network devices.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use testkit::Host;
use testkit::process::{DEADLINE, Output};

use crate::runtime_process::{bundle, detached, run, runtime, text, unique};

/// A process in namespaces of its own, ended with the value.
struct Elsewhere(Child);

impl Elsewhere {
    fn new(flags: &[&str]) -> Self {
        let mut command = Command::new("unshare");
        command.args(flags).args(["--", "sleep", "1000"]).stdin(Stdio::null());
        let child = command.spawn().expect("unshare runs");
        let elsewhere = Self(child);
        testkit::wait::until("unshare has executed sleep", DEADLINE, || {
            let line = std::fs::read(format!("/proc/{}/cmdline", elsewhere.pid())).ok()?;
            line.starts_with(b"sleep\0").then_some(())
        });
        elsewhere
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn file(&self, name: &str) -> String {
        format!("/proc/{}/ns/{name}", self.pid())
    }

    fn link(&self, name: &str) -> String {
        link(&self.file(name))
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        // It may have been killed by the test.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn link(path: &str) -> String {
    std::fs::read_link(path).expect("a namespace").to_string_lossy().into_owned()
}

fn namespaces(config: &mut Value, list: &[(&str, Option<String>)]) {
    let entry = |(kind, path): &(&str, Option<String>)| match path {
        Some(path) => json!({"type": kind, "path": path}),
        None => json!({"type": kind}),
    };
    config["linux"]["namespaces"] = list.iter().map(entry).collect();
}

fn pid_of(host: &Host, id: &str) -> u64 {
    let state: Value = serde_json::from_str(&runtime(host, &["state", id]).ok().out()).expect("JSON");
    state["pid"].as_u64().expect("a pid")
}

const MAP: &str = r#"[{"containerID": 0, "hostID": 200000, "size": 1000}]"#;

fn map() -> Value {
    serde_json::from_str(MAP).expect("JSON")
}

#[test]
fn a_container_joins_anothers_user_namespace() {
    let host = Host::new();
    let first = unique("user-first");
    let dir = bundle(&host, "first", "exec sleep 1000", |config| {
        let all = ["user", "pid", "mount", "network", "ipc", "uts", "cgroup"].map(|kind| (kind, None));
        namespaces(config, &all);
        config["linux"]["uidMappings"] = map();
        config["linux"]["gidMappings"] = map();
    });
    detached(&host, &dir, &first);
    let pid = pid_of(&host, &first);
    let file = |name: &str| Some(format!("/proc/{pid}/ns/{name}"));
    let script = "for n in user pid net ipc uts cgroup; do readlink /proc/self/ns/$n; done; readlink /proc/self/ns/mnt; \
                  cat /proc/self/uid_map | tr -s ' '; touch /shared/made; exec sleep 1000 >/dev/null 2>&1";
    let second = unique("user-second");
    let shared = host.scratch("shared");
    rustix::fs::chmod(&shared, rustix::fs::Mode::from_raw_mode(0o777)).expect("chmod");
    let dir = bundle(&host, "second", &script.replace("exec sleep 1000 >/dev/null 2>&1", "id -u"), |config| {
        let joined = [
            ("user", "user"),
            ("pid", "pid"),
            ("network", "net"),
            ("ipc", "ipc"),
            ("uts", "uts"),
            ("cgroup", "cgroup"),
        ];
        let mut list: Vec<(&str, Option<String>)> = joined.iter().map(|(kind, name)| (*kind, file(name))).collect();
        list.push(("mount", None));
        namespaces(config, &list);
        let bind = json!({"destination": "/shared", "type": "bind", "source": text(&shared), "options": ["bind"]});
        config["mounts"].as_array_mut().expect("a list").push(bind);
    });
    // Root of those ids cannot make it.
    std::fs::create_dir(dir.join("rootfs/shared")).expect("mkdir");
    let out = run(&host, &dir, &second).ok().out();
    let lines: Vec<&str> = out.lines().collect();
    for (at, name) in ["user", "pid", "net", "ipc", "uts", "cgroup"].into_iter().enumerate() {
        assert_eq!(lines[at], link(&file(name).expect("a path")), "{name}");
    }
    assert_ne!(lines[6], link(&file("mnt").expect("a path")), "a mount namespace of its own");
    assert_eq!((lines[7].trim(), lines[8]), ("0 200000 1000", "0"), "{out}");
    let made = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(shared.join("made")).expect("made"));
    assert_eq!(made, 200_000);

    // What the configuration says of the ids has to be so.
    let with = |name: &str, map: Value| {
        let dir = bundle(&host, name, "id -u", |config| {
            namespaces(config, &[("user", file("user")), ("pid", None), ("mount", None)]);
            config["linux"]["uidMappings"] = map.clone();
            config["linux"]["gidMappings"] = map;
        });
        run(&host, &dir, &unique(name))
    };
    assert_eq!(with("same", map()).ok().out(), "0");
    let other = with("other", json!([{"containerID": 0, "hostID": 300_000, "size": 1000}]));
    assert!(other.exits(1).err().contains("linux.uidMappings: is not what the user namespace"), "{other}");
    runtime(&host, &["delete", "--force", &first]).ok();
    host.assert_clean();
}

#[test]
fn a_user_namespace_without_ids_gets_the_configurations() {
    let host = Host::new();
    let script = "cat /proc/self/uid_map | tr -s ' '; id -u; readlink /proc/self/ns/user; readlink /proc/self/ns/uts";
    let both = |elsewhere: &Elsewhere, name: &str, ids: bool| {
        let dir = bundle(&host, name, script, |config| {
            let list = [
                ("user", Some(elsewhere.file("user"))),
                ("uts", Some(elsewhere.file("uts"))),
                ("pid", None),
                ("mount", None),
            ];
            namespaces(config, &list);
            if ids {
                config["linux"]["uidMappings"] = map();
                config["linux"]["gidMappings"] = map();
            }
        });
        run(&host, &dir, &unique(name))
    };
    let elsewhere = Elsewhere::new(&["--user", "--uts"]);
    let none = both(&elsewhere, "none", false);
    assert!(none.exits(1).err().contains("linux.namespaces: the user namespace to join has no ids"), "{none}");
    let given = both(&elsewhere, "given", true).ok().out();
    assert_eq!(given.trim(), format!("0 200000 1000\n0\n{}\n{}", elsewhere.link("user"), elsewhere.link("uts")));
    // The runtime's own needs no joining.
    let dir = bundle(&host, "own", "id -u; readlink /proc/self/ns/user", |config| {
        namespaces(config, &[("user", Some("/proc/self/ns/user".to_owned())), ("pid", None), ("mount", None)]);
    });
    assert_eq!(run(&host, &dir, &unique("own")).ok().out(), format!("0\n{}", link("/proc/self/ns/user")));
    let dir = bundle(&host, "wrong", "true", |config| {
        namespaces(config, &[("user", Some(elsewhere.file("uts"))), ("mount", None)]);
    });
    let wrong = run(&host, &dir, &unique("wrong"));
    assert!(wrong.exits(1).err().contains("is not a User namespace"), "{wrong}");
    host.assert_clean();
}

#[test]
fn without_a_mount_namespace_nothing_of_the_hosts_changes() {
    let host = Host::new();
    let own = link("/proc/self/ns/mnt");
    let before = mounts(std::process::id());
    let first = unique("bare");
    let script = "readlink /proc/self/ns/mnt; ls /proc/self/root; grep -c . /proc/mounts; cat /proc/1/comm; mkdir /dev/here; \
                  echo secret | cat /masked 2>&1";
    let change = |config: &mut Value| {
        namespaces(config, &[("pid", None), ("network", None)]);
        config["linux"]["maskedPaths"] = json!(["/masked"]);
        config["linux"]["readonlyPaths"] = json!(["/proc/sys"]);
    };
    let dir = bundle(&host, "bare", script, change);
    std::fs::write(dir.join("rootfs/masked"), "secret").expect("written");
    let out = run(&host, &dir, &first);
    if !mounts_on_trees() {
        assert!(out.exits(1).err().contains("Linux 6.15 is needed"), "{out}");
        host.assert_clean();
        return;
    }
    let out = out.ok().out();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], own);
    assert!(lines.contains(&"bin") && lines.contains(&"masked") && !lines.contains(&"boot"), "{out}");
    assert!(lines.contains(&"sh") && !out.contains("secret"), "{out}");
    assert_eq!(mounts(std::process::id()), before);
    assert!(!dir.join("rootfs/dev/here").exists(), "/dev is the container's");

    let dir = bundle(&host, "stays", "touch /here; exec sleep 1000", |config| {
        namespaces(config, &[("pid", None), ("mount", Some("/proc/self/ns/mnt".to_owned()))]);
    });
    detached(&host, &dir, &first);
    assert_eq!(mounts(std::process::id()), before, "while it runs neither");
    let out = runtime(&host, &["exec", &first, "sh", "-c", "ls /here; readlink /proc/self/ns/mnt; cat /proc/1/comm"]);
    assert_eq!(out.ok().out(), format!("/here\n{own}\nsleep"));
    runtime(&host, &["delete", "--force", &first]).ok();
    let dir = bundle(&host, "users", "true", |config| {
        namespaces(config, &[("pid", None), ("user", None)]);
        config["linux"]["uidMappings"] = map();
        config["linux"]["gidMappings"] = map();
    });
    let refused = run(&host, &dir, &unique("users"));
    assert!(refused.exits(1).err().contains("linux.namespaces: a user namespace needs a mount namespace"), "{refused}");
    host.assert_clean();
}

/// Whether the kernel attaches mounts to a tree that is itself attached nowhere (6.15).
fn mounts_on_trees() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 15)
}

/// The mounts a process sees.
fn mounts(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("readable")
}

#[test]
fn a_mount_namespace_is_joined_and_left_as_it_was() {
    let host = Host::new();
    for flags in [&["--mount"][..], &["--mount", "--user"]] {
        let elsewhere = Elsewhere::new(flags);
        let before = mounts(elsewhere.pid());
        let id = unique(&format!("mount{}", flags.len()));
        let user = flags.len() > 1;
        let dir = bundle(&host, &id, "readlink /proc/self/ns/mnt; ls -d /bin /boot 2>&1; exec sleep 1000", |config| {
            let mut list = vec![("pid", None), ("mount", Some(elsewhere.file("mnt")))];
            if user {
                list.push(("user", Some(elsewhere.file("user"))));
                config["linux"]["uidMappings"] = map();
                config["linux"]["gidMappings"] = map();
            }
            namespaces(config, &list);
        });
        let config = std::fs::read_to_string(dir.join("config.json")).expect("read");
        std::fs::write(dir.join("config.json"), config.replace("exec sleep 1000", "true")).expect("written");
        let out = run(&host, &dir, &id);
        if !mounts_on_trees() {
            assert!(out.exits(1).err().contains("Linux 6.15 is needed"), "{out}");
            continue;
        }
        let lines = out.ok().out();
        assert!(lines.starts_with(&elsewhere.link("mnt")), "{lines}");
        assert!(lines.lines().any(|line| line == "/bin") && lines.contains("ls: /boot: No such file"), "{lines}");
        std::fs::write(dir.join("config.json"), config).expect("written");
        detached(&host, &dir, &id);
        assert_eq!(mounts(elsewhere.pid()), before);
        let out = runtime(&host, &["exec", &id, "sh", "-c", "cat /proc/1/comm; readlink /proc/self/ns/mnt"]);
        assert_eq!(out.ok().out(), format!("sleep\n{}", elsewhere.link("mnt")));
        runtime(&host, &["delete", "--force", &id]).ok();
        assert_eq!(mounts(elsewhere.pid()), before);
    }
    host.assert_clean();
}

#[test]
fn an_exec_reaches_the_hosts_network_from_a_user_namespace() {
    let host = Host::new();
    let id = unique("netns");
    let own = link("/proc/self/ns/net");
    let dir = bundle(&host, "b", "exec sleep 1000", |config| {
        let path = format!("/proc/{}/ns/net", std::process::id());
        namespaces(config, &[("pid", None), ("mount", None), ("user", None), ("network", Some(path))]);
        config["linux"]["uidMappings"] = map();
        config["linux"]["gidMappings"] = map();
    });
    detached(&host, &dir, &id);
    let out = runtime(
        &host,
        &["exec", &id, "sh", "-c", "readlink /proc/self/ns/net; id -u; cat /proc/self/uid_map | tr -s ' '"],
    );
    assert_eq!(out.ok().out(), format!("{own}\n0\n 0 200000 1000"));
    runtime(&host, &["delete", "--force", &id]).ok();
    host.assert_clean();
}

#[test]
fn a_root_is_moved_where_it_cannot_be_pivoted() {
    let host = Host::new();
    let script = "echo here >/made; cat /made; ls /proc/self/root | tr '\\n' ' '; cut -d' ' -f5 /proc/self/mountinfo; \
                  umount /proc/self/root 2>/dev/null; cat /hooked; ls -d /boot 2>&1";
    for user in [false, true] {
        let mut lists = vec![("pid", None), ("mount", None), ("network", None)];
        let name = format!("moved-{user}");
        if user {
            lists.push(("user", None));
        }
        let dir = bundle(&host, &name, script, |config| {
            namespaces(config, &lists);
            if user {
                config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 0, "size": 1000}]);
                config["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 0, "size": 1000}]);
            }
            let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", "echo hooked >rootfs/hooked"]});
            config["hooks"] = json!({"createContainer": [hook]});
        });
        let command = ["run", "--no-pivot", "--bundle", &text(&dir), &unique(&name)];
        let out = runtime(&host, &command).exits(1).out();
        assert!(
            out.starts_with("here\nbin ")
                && ["/dev", "/proc", "/dev/pts"].iter().all(|place| out.lines().any(|line| line == *place)),
            "{out}"
        );
        assert!(out.contains("hooked\nls: /boot: No such file"), "{out}");
        assert_eq!(std::fs::read_to_string(dir.join("rootfs/made")).expect("made"), "here\n");
    }
    // Taking the cover away shows the host's bare root: what was mounted on it is gone.
    let attack =
        "cd /proc/self/ns && umount -l / && exec nsenter -m./mnt /bin/sh -c 'ls -d /proc/1 /sys/kernel; echo seen'";
    let dir = bundle(&host, "attack", attack, |config| {
        let all = json!(["CAP_SYS_ADMIN", "CAP_SYS_CHROOT"]);
        config["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
    });
    let out = runtime(&host, &["run", "--no-pivot", "--bundle", &text(&dir), &unique("attack")]);
    assert_eq!(out.ok().out(), "seen", "the host's kernel is not: {out}");
    let id = unique("moved-created");
    let dir = bundle(&host, "created", "exec sleep 1000", |_| ());
    let mut create = host.runtime(&["create", "--no-pivot", "--bundle", &text(&dir), &id]);
    create.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(create.status().expect("runs").success());
    runtime(&host, &["start", &id]).ok();
    assert_eq!(runtime(&host, &["exec", &id, "cat", "/proc/1/comm"]).ok().out(), "sleep");
    runtime(&host, &["delete", "--force", &id]).ok();
    host.assert_clean();
}

/// Runs a container from a network namespace with the device `given`, a veth with addresses, and `taken`, its peer.
fn with_devices(host: &Host, dir: &Path, id: &str) -> Output {
    let inner = host.runtime(&["run", "--bundle", &text(dir), id]);
    let words: Vec<String> =
        [inner.get_program()].into_iter().chain(inner.get_args()).map(|word| format!("'{}'", word.display())).collect();
    let script = format!(
        "busybox ip link add given type veth && busybox ip link set veth0 name taken && \
         busybox ip addr add 10.9.8.7/24 dev given && busybox ip addr add 10.9.8.6/32 dev given && \
         busybox ip -6 addr add fd00::5/64 dev given && busybox ip addr add 169.254.1.1/16 scope link dev given && \
         busybox ip link set given up && {}; code=$?; echo left: $(busybox ip -o link | cut -d: -f2 | sed 's/@.*//'); exit $code",
        words.join(" ")
    );
    let mut outer = Command::new("unshare");
    outer.args(["--net", "sh", "-c", &script]);
    outer.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    host.finish(outer, None, DEADLINE)
}

#[test]
fn network_devices_become_the_containers() {
    let host = Host::new();
    let script = "ip -o addr | sed 's/  */ /g' | cut -d' ' -f2-4; ip -o link show dev inside | grep -c ',UP'";
    for user in [false, true] {
        let name = format!("devices-{user}");
        let dir = bundle(&host, &name, script, |config| {
            if user {
                config["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({"type": "user"}));
                config["linux"]["uidMappings"] = map();
                config["linux"]["gidMappings"] = map();
            }
            config["linux"]["netDevices"] = json!({"given": {"name": "inside"}, "taken": {}});
        });
        let out = with_devices(&host, &dir, &unique(&name));
        let text = out.ok().out();
        for line in ["inside inet 10.9.8.7/24", "inside inet 10.9.8.6/32", "inside inet6 fd00::5/64"] {
            assert!(text.lines().any(|found| found == line), "{line}: {out}");
        }
        assert!(!text.contains("169.254"), "not what is valid on one link only: {out}");
        assert!(text.contains("\n1\nleft: lo"), "it is up, and gone from here: {out}");
    }
    for (name, devices, words) in [
        ("absent", json!({"nothere": {}}), "linux.netDevices[\"nothere\"]: there is no such device"),
        ("twice", json!({"given": {"name": "lo"}}), "linux.netDevices[\"given\"]: the container has a device \"lo\""),
        ("bad", json!({"given": {"name": "a b"}}), "linux.netDevices[\"given\"]: \"a b\" is no name"),
    ] {
        let dir = bundle(&host, name, "true", |config| config["linux"]["netDevices"] = devices);
        let out = with_devices(&host, &dir, &unique(name));
        assert!(out.exits(1).err().contains(words), "{out}");
        assert!(out.out().contains("given"), "it stays where it was: {out}");
    }
    let dir = bundle(&host, "hosts", "true", |config| {
        namespaces(config, &[("pid", None), ("mount", None)]);
        config["linux"]["netDevices"] = json!({"given": {}});
    });
    let out = with_devices(&host, &dir, &unique("hosts"));
    assert!(out.exits(1).err().contains("linux.netDevices: needs a network namespace"), "{out}");
    host.assert_clean();
}
