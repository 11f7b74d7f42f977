//! Rows about images at rest: writing one out, removing one, and what its number of layers costs a container.

use std::process::Command;

use testkit::{Host, Image, Tar};

use super::peers::Peers;
use super::report::Row;
use super::rows::{DEBIAN, FEW, write};
use super::{Entry, output, race};

/// What the peers' script puts into its registry on this machine: 1.1 GB, 4 layers, some 40,000 files.
const BIG: &str = "127.0.0.1:5000/bigapp:1";

/// How many layers the images of the last row have.
const LAYERS: [(usize, &str); 3] = [(5, "lighter, 5 layers"), (50, "lighter, 50 layers"), (200, "lighter, 200 layers")];

/// Each engine's own command, and what it needs first.
fn engine(host: &Host, peers: &Peers, name: &str, words: &[&str]) -> Command {
    match peers.command(name) {
        None => peers.alike(host.command(words)),
        Some(mut command) => {
            command.args(words);
            command
        }
    }
}

/// The engines that have the Debian image after loading it from `archive`, which an earlier row wrote.
fn loaded(host: &Host, peers: &Peers) -> Vec<&'static str> {
    let archive = peers.shared().join("debian.tar");
    let mut engines = Vec::new();
    for name in ["lighter", "docker", "podman"] {
        let file = peers.seen_by(name, &archive).to_string_lossy().into_owned();
        if (name == "lighter" || peers.command(name).is_some())
            && output(engine(host, peers, name, &["load", "-i", &file])).is_ok()
        {
            engines.push(name);
        }
    }
    engines
}

/// `save` of the Debian image into a file.
pub(super) fn save(host: &Host, peers: &Peers) -> Result<Row, String> {
    let engines = loaded(host, peers);
    let entries: Vec<Entry<'_>> = engines
        .iter()
        .map(|name| {
            let path = peers.shared().join(format!("saved-{name}.tar"));
            let file = peers.seen_by(name, &path).to_string_lossy().into_owned();
            Entry::new(name, move |_| engine(host, peers, name, &["save", "-o", &file, DEBIAN])).after(move |_| {
                let mut remove = Command::new("rm");
                remove.arg("-f").arg(&path);
                remove
            })
        })
        .collect();
    let row = race("save of that image", &entries, FEW);
    for name in &engines {
        output(engine(host, peers, name, &["rmi", "-f", DEBIAN]))?;
    }
    Ok(row)
}

/// `rmi` of the Debian image, loaded anew before each time.
pub(super) fn remove(host: &Host, peers: &Peers) -> Result<Row, String> {
    let engines = loaded(host, peers);
    let archive = peers.shared().join("debian.tar");
    let entries: Vec<Entry<'_>> = engines
        .iter()
        .map(|name| {
            let file = peers.seen_by(name, &archive).to_string_lossy().into_owned();
            Entry::new(name, move |_| engine(host, peers, name, &["rmi", "-f", DEBIAN]))
                .after(move |_| engine(host, peers, name, &["load", "-i", &file]))
        })
        .collect();
    let row = race("rmi of that image", &entries, FEW);
    for name in &engines {
        output(engine(host, peers, name, &["rmi", "-f", DEBIAN]))?;
    }
    Ok(row)
}

/// `create` of a container whose image has few and many layers. Peers are not asked: docker takes no more than 127.
pub(super) fn create(host: &Host, peers: &Peers, rounds: usize) -> Result<Row, String> {
    let mut names = Vec::new();
    for (layers, label) in LAYERS {
        let name = format!("lighter-bench-layers:{layers}");
        let mut image = Image::busybox(&name);
        for number in 1..layers {
            image = image.layer(Tar::new().file(&format!("layer-{number}"), 0o644, b"one of many").finish());
        }
        let file = peers.shared().join(format!("layers-{layers}.tar"));
        write(&file, &image.docker_archive().tar())?;
        output(host.command(&["load", "-i", &file.to_string_lossy()]))?;
        names.push((label, name));
    }
    let entries: Vec<Entry<'_>> = names
        .iter()
        .map(|(label, name)| {
            let own = move |round: usize| format!("layers-{}-{round}", name.rsplit(':').next().unwrap_or_default());
            Entry::new(label, move |round| {
                peers.alike(host.command(&["create", "--network", "none", "--name", &own(round), name, "true"]))
            })
            .after(move |round| host.command(&["rm", &own(round)]))
        })
        .collect();
    Ok(race("create, by the image's number of layers", &entries, rounds))
}

/// `pull` of a large image from the registry on this machine that the peers' script fills. Each pull finds neither the
/// image nor anything in the page cache.
pub(super) fn pull(host: &Host, peers: &Peers) -> Row {
    let mut entries = Vec::new();
    for name in ["lighter", "docker", "podman"] {
        if name != "lighter" && peers.command(name).is_none() {
            continue;
        }
        let words: &[&str] = match name {
            "podman" => &["pull", "-q", "--tls-verify=false", BIG],
            _ => &["pull", "-q", BIG],
        };
        let entry = Entry::new(name, move |_| engine(host, peers, name, words)).after(move |_| {
            let remove = engine(host, peers, name, &["rmi", "-f", BIG]);
            let mut cold = Command::new("sh");
            cold.args(["-c", "\"$@\"; sync; echo 3 > /proc/sys/vm/drop_caches", "sh"]);
            cold.arg(remove.get_program()).args(remove.get_args());
            cold.env_clear().envs(remove.get_envs().filter_map(|(key, value)| Some((key, value?))));
            cold
        });
        entries.push(entry);
    }
    race("pull of bigapp:1 (1.1 GB) from a registry on this machine, cold", &entries, 1)
}
