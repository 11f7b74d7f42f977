//! Other container engines, on this machine or in a tree of their own.

use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::Host;

use super::output;
use crate::{packages, root, say};

/// Where a peer's program is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// On this machine's path.
    Here(PathBuf),
    /// In the peers' tree.
    Tree,
}

/// The peers that answer, and a directory that they and this machine both see.
pub(crate) struct Peers {
    found: Vec<(&'static str, Place, String)>,
    tree: Option<PathBuf>,
    shared: PathBuf,
}

/// The engines that the design names. The word after each proves that it works here.
const KNOWN: [(&str, &[&str]); 4] = [
    ("crun", &["--version"]),
    ("runc", &["--version"]),
    ("docker", &["version", "--format", "{{.Server.Version}}"]),
    ("podman", &["--version"]),
];

impl Peers {
    /// Looks for peers. The tree is used when it is there; it is never made here.
    pub(crate) fn find(host: &Host) -> Result<Self, String> {
        let tree = enter_tree();
        let shared = match &tree {
            Some(tree) => tree.join(format!("tmp/lighter-bench-{}", std::process::id())),
            None => host.scratch("bench"),
        };
        std::fs::create_dir_all(&shared).map_err(|error| format!("{}: {error}", shared.display()))?;
        let mut peers = Self { found: Vec::new(), tree, shared };
        for (name, proof) in KNOWN {
            let places =
                packages::find(name).map(Place::Here).into_iter().chain(peers.tree.as_ref().map(|_| Place::Tree));
            for place in places {
                let mut command = peers.at(&place, name);
                command.args(proof);
                if let Ok(version) = output(command) {
                    peers.found.push((name, place, version.lines().next().unwrap_or_default().to_owned()));
                    break;
                }
            }
        }
        for (name, place, version) in &peers.found {
            say(&format!("peer {name}: {version} ({place:?})"));
        }
        Ok(peers)
    }

    /// A command of this peer; none when the machine has no such peer.
    pub(crate) fn command(&self, name: &str) -> Option<Command> {
        let (_, place, _) = self.found.iter().find(|(known, ..)| *known == name)?;
        Some(self.at(place, name))
    }

    /// `command` as peers are run: through chroot(8) when they are.
    pub(crate) fn alike(&self, command: Command) -> Command {
        if self.tree.is_none() {
            return command;
        }
        let mut wrapped = Command::new("chroot");
        wrapped.arg("/").arg(command.get_program()).args(command.get_args()).env_clear();
        wrapped.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
        wrapped
    }

    fn at(&self, place: &Place, name: &str) -> Command {
        match (place, &self.tree) {
            (Place::Here(path), None) => Command::new(path),
            (Place::Here(path), Some(_)) => self.alike(Command::new(path)),
            (Place::Tree, tree) => {
                let mut command = Command::new("chroot");
                command.arg(tree.as_deref().unwrap_or(Path::new("/"))).arg(name);
                command
            }
        }
    }

    /// Where the engine under test keeps what describes running containers: beside the peers' own, in memory like theirs.
    pub(super) fn state(&self) -> Option<PathBuf> {
        Some(self.tree.as_ref()?.join(format!("run/lighter-bench-{}", std::process::id())))
    }

    /// The shared directory, as this machine names it.
    pub(crate) fn shared(&self) -> &Path {
        &self.shared
    }

    /// `path`, below the shared directory, as the peer called `name` sees it.
    pub(crate) fn seen_by(&self, name: &str, path: &Path) -> PathBuf {
        let in_tree = self.found.iter().any(|(known, place, _)| *known == name && *place == Place::Tree);
        match &self.tree {
            Some(tree) if in_tree => Path::new("/").join(path.strip_prefix(tree).unwrap_or(path)),
            _ => path.to_owned(),
        }
    }

    /// `path`, as the peer called `name` sees it, as this machine names it.
    pub(crate) fn seen_here(&self, name: &str, path: &Path) -> PathBuf {
        let in_tree = self.found.iter().any(|(known, place, _)| *known == name && *place == Place::Tree);
        match &self.tree {
            Some(tree) if in_tree => tree.join(path.strip_prefix("/").unwrap_or(path)),
            _ => path.to_owned(),
        }
    }

    /// Name and version of each peer.
    pub(crate) fn described(&self) -> Vec<String> {
        self.found.iter().map(|(name, _, version)| format!("{name}: {version}")).collect()
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        // Only what was made here; with no tree it lies below the host, which goes by itself.
        if self.tree.is_some() {
            drop(std::fs::remove_dir_all(&self.shared));
        }
    }
}

/// Has the peers' script prepare its tree, if there are both, and starts its daemon.
fn enter_tree() -> Option<PathBuf> {
    let beside = root().join("../shared/bench/peers");
    let script = std::env::var_os("PEERS_SCRIPT").map_or(beside, PathBuf::from);
    let tree = std::env::var_os("PEERS").map_or_else(|| PathBuf::from("/var/lib/lighter-peers"), PathBuf::from);
    if !script.exists() || !tree.join("usr/bin").exists() {
        return None;
    }
    // The script starts the daemon when docker is asked for; a tree without docker still has the others.
    let prepared = [["run", "docker", "version"].as_slice(), &["run", "true"]].into_iter().any(|words| {
        let mut command = Command::new("bash");
        command.arg(&script).args(words);
        output(command).is_ok()
    });
    prepared.then_some(tree)
}
