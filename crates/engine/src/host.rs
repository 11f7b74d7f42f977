//! Facts about the host that decide how a container is made, asked for only when a specification depends on them.

use std::cell::OnceCell;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use container::capability::CapabilitySet;
use rustix::process::{Resource, Rlimit};

use crate::{Error, ErrorKind, Result};

/// What stands at a host path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodeKind {
    /// A directory.
    Directory,
    /// A block device.
    Block,
    /// A character device.
    Character,
    /// A file, a socket, a pipe.
    Other,
}

/// A host path's inode, symbolic links followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// Its kind.
    pub(crate) kind: NodeKind,
    /// Permission bits.
    pub(crate) mode: u32,
    /// Device number of a device node.
    pub(crate) device: (u32, u32),
    /// Owner.
    pub(crate) owner: (u32, u32),
}

/// The questions that [`specgen`](crate::specgen) asks; tests answer them from tables.
pub(crate) trait Host {
    /// Kernel version: major, minor.
    fn kernel(&self) -> (u32, u32);
    /// CPUs this process may run on.
    fn cpus(&self) -> usize;
    /// Host name.
    fn name(&self) -> String;
    /// Own soft and hard limit (`None` is unlimited).
    fn limit(&self, resource: Resource) -> Rlimit;
    /// Whether hard limits may be raised (`CAP_SYS_RESOURCE`).
    fn may_raise_limits(&self) -> bool;
    /// The inode at `path`, `None` when nothing is there.
    ///
    /// # Errors
    /// The path cannot be looked up.
    fn node(&self, path: &Path) -> Result<Option<Node>>;
    /// Whether files at `path` (or its nearest existing parent) can be seen through an idmapped mount.
    fn idmappable(&self, path: &Path) -> bool;
    /// Whether layers can be mounted through an idmapped overlay.
    fn overlay_idmappable(&self) -> bool;
    /// Whether AppArmor confines processes here.
    fn apparmor(&self) -> bool;
    /// The kernel's list of online CPUs (`cpu`) or memory nodes (`node`).
    fn online(&self, what: &str) -> Option<String>;
    /// Whether the kernel can limit swap.
    fn swap_limit(&self) -> bool;
    /// Every capability the kernel knows.
    ///
    /// # Errors
    /// `/proc` does not tell.
    fn capabilities(&self) -> Result<CapabilitySet>;
    /// The device nodes below `/dev`, for privileged containers.
    ///
    /// # Errors
    /// `/dev` cannot be read.
    fn devices(&self) -> Result<Vec<(PathBuf, Node)>>;
}

/// This machine, seen from an engine whose layers are below `layers`.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    layers: &'a Path,
    system: OnceCell<rustix::system::Uname>,
}

impl<'a> Machine<'a> {
    pub(crate) fn new(layers: &'a Path) -> Self {
        Self { layers, system: OnceCell::new() }
    }

    fn uname(&self) -> &rustix::system::Uname {
        self.system.get_or_init(rustix::system::uname)
    }
}

/// Kernel version from a release string: `6.18.0-rc1` is (6, 18); what is not a number reads as 0.
#[must_use]
pub(crate) fn version_of(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

impl Host for Machine<'_> {
    fn kernel(&self) -> (u32, u32) {
        version_of(&self.uname().release().to_string_lossy())
    }

    fn cpus(&self) -> usize {
        let own = rustix::thread::sched_getaffinity(None).map_or(0, |set| set.count());
        usize::try_from(own).unwrap_or(usize::MAX).max(1)
    }

    fn name(&self) -> String {
        self.uname().nodename().to_string_lossy().into_owned()
    }

    fn limit(&self, resource: Resource) -> Rlimit {
        rustix::process::getrlimit(resource)
    }

    fn may_raise_limits(&self) -> bool {
        rustix::thread::capabilities(None)
            .is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::SYS_RESOURCE))
    }

    fn node(&self, path: &Path) -> Result<Option<Node>> {
        match std::fs::metadata(path) {
            Ok(found) => Ok(Some(node_of(&found))),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
                Ok(None)
            }
            Err(error) => {
                Err(Error::new(ErrorKind::Invalid, format!("{} cannot be looked up", path.display())).because(error))
            }
        }
    }

    fn idmappable(&self, path: &Path) -> bool {
        let present = path.ancestors().find(|path| path.exists());
        present.is_some_and(|path| storage::idmap::idmappable_path(path).unwrap_or(false))
    }

    fn overlay_idmappable(&self) -> bool {
        // Overlay accepts idmapped layers since 5.19; the layers' file system must be able to be idmapped itself.
        self.kernel() >= (5, 19) && self.idmappable(self.layers)
    }

    fn apparmor(&self) -> bool {
        std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.first() == Some(&b'Y'))
    }

    fn online(&self, what: &str) -> Option<String> {
        let text = std::fs::read_to_string(format!("/sys/devices/system/{what}/online")).ok()?;
        Some(text.trim().to_owned())
    }

    fn swap_limit(&self) -> bool {
        // On cgroup v1 the file exists only with swap accounting; on v2 the limit is always there, but not at the root.
        !Path::new("/sys/fs/cgroup/memory").exists()
            || Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists()
    }

    fn capabilities(&self) -> Result<CapabilitySet> {
        CapabilitySet::of_kernel().map_err(Error::from)
    }

    fn devices(&self) -> Result<Vec<(PathBuf, Node)>> {
        // Those that every container gets its own of.
        const OWN: [&str; 6] = ["pts", "shm", "fd", "mqueue", "console", "ptmx"];
        const LIMIT: usize = 16_384;
        let mut found = Vec::new();
        let mut queue = vec![PathBuf::from("/dev")];
        while let Some(dir) = queue.pop() {
            let entries = std::fs::read_dir(&dir).map_err(|error| {
                Error::new(ErrorKind::System, format!("{} cannot be read", dir.display())).because(error)
            })?;
            for entry in entries.flatten() {
                if OWN.iter().any(|own| entry.file_name() == *own) {
                    continue;
                }
                let Ok(metadata) = entry.metadata() else { continue };
                let node = node_of(&metadata);
                match node.kind {
                    NodeKind::Directory => queue.push(entry.path()),
                    NodeKind::Block | NodeKind::Character if found.len() < LIMIT => found.push((entry.path(), node)),
                    _ => {}
                }
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }
}

fn node_of(metadata: &std::fs::Metadata) -> Node {
    let kind = match metadata.file_type() {
        kind if kind.is_dir() => NodeKind::Directory,
        kind if kind.is_block_device() => NodeKind::Block,
        kind if kind.is_char_device() => NodeKind::Character,
        _ => NodeKind::Other,
    };
    let device = metadata.rdev();
    Node {
        kind,
        mode: metadata.mode() & 0o7777,
        device: (rustix::fs::major(device), rustix::fs::minor(device)),
        owner: (metadata.uid(), metadata.gid()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A host made of tables.
    pub(crate) struct Table {
        pub(crate) kernel: (u32, u32),
        pub(crate) nodes: BTreeMap<PathBuf, Node>,
        pub(crate) not_idmappable: Vec<PathBuf>,
        pub(crate) may_raise: bool,
        pub(crate) apparmor: bool,
        pub(crate) swap: bool,
    }

    impl Default for Table {
        fn default() -> Self {
            let node = |kind, mode, device| Node { kind, mode, device, owner: (0, 0) };
            let nodes = [
                ("/srv/data", node(NodeKind::Directory, 0o755, (0, 0))),
                ("/etc/passwd", node(NodeKind::Other, 0o644, (0, 0))),
                ("/dev/fuse", node(NodeKind::Character, 0o666, (10, 229))),
                ("/dev/sda", node(NodeKind::Block, 0o660, (8, 0))),
            ];
            Self {
                kernel: (6, 18),
                nodes: nodes.into_iter().map(|(path, node)| (PathBuf::from(path), node)).collect(),
                not_idmappable: Vec::new(),
                may_raise: true,
                apparmor: false,
                swap: true,
            }
        }
    }

    impl Host for Table {
        fn kernel(&self) -> (u32, u32) {
            self.kernel
        }
        fn cpus(&self) -> usize {
            2
        }
        fn name(&self) -> String {
            "host".to_owned()
        }
        fn limit(&self, _resource: Resource) -> Rlimit {
            Rlimit { current: Some(1024), maximum: Some(20_000) }
        }
        fn may_raise_limits(&self) -> bool {
            self.may_raise
        }
        fn node(&self, path: &Path) -> Result<Option<Node>> {
            Ok(self.nodes.get(path).copied())
        }
        fn idmappable(&self, path: &Path) -> bool {
            !self.not_idmappable.iter().any(|other| other == path)
        }
        fn overlay_idmappable(&self) -> bool {
            self.kernel >= (5, 19)
        }
        fn apparmor(&self) -> bool {
            self.apparmor
        }
        fn online(&self, what: &str) -> Option<String> {
            Some(if what == "cpu" { "0-1" } else { "0" }.to_owned())
        }
        fn swap_limit(&self) -> bool {
            self.swap
        }
        fn capabilities(&self) -> Result<CapabilitySet> {
            Ok(CapabilitySet::ALL)
        }
        fn devices(&self) -> Result<Vec<(PathBuf, Node)>> {
            let device = |node: &Node| matches!(node.kind, NodeKind::Block | NodeKind::Character);
            Ok(self.nodes.iter().filter(|(_, node)| device(node)).map(|(path, &node)| (path.clone(), node)).collect())
        }
    }

    #[test]
    fn releases_of_all_makers() {
        for (release, version) in [
            ("6.18.0", (6, 18)),
            ("6.18-rc1", (6, 18)),
            ("5.4.0-150-generic", (5, 4)),
            ("6.1.0+deb12", (6, 1)),
            ("", (0, 0)),
            ("weird", (0, 0)),
        ] {
            assert_eq!(version_of(release), version, "{release:?}");
        }
    }

    #[test]
    fn this_machine_answers() {
        let machine = Machine::new(Path::new("/"));
        assert!(machine.kernel() >= (4, 0));
        assert!(machine.cpus() >= 1);
        assert_eq!(machine.node(Path::new("/dev/null")).expect("readable").map(|n| n.device), Some((1, 3)));
        assert_eq!(machine.node(Path::new("/no/such")).expect("readable"), None);
        assert_eq!(machine.node(Path::new("/etc/passwd/x")).expect("readable"), None);
    }
}
