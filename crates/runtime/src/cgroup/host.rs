//! The hierarchies this host has mounted, found with one small read and one `openat` each.
//!
//! `/proc/self/cgroup` names the hierarchies in one line each, however many mounts there are; where they are mounted is
//! a convention that `fstatfs` confirms. Only a hierarchy that is not at its place makes us read the mount table, whose
//! length grows with the number of containers.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use sys::{Context as _, Errno};

use super::error::{Error, Result};
use super::file;

const MOUNT: &str = "/sys/fs/cgroup";
/// `statfs.f_type` of cgroup v1 (linux/magic.h).
const CGROUP_SUPER_MAGIC: u64 = 0x0027_e0eb;
/// `statfs.f_type` of cgroup v2 (linux/magic.h).
const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;

/// The version of a hierarchy's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One of several hierarchies, each with its own controllers.
    V1,
    /// The unified hierarchy.
    V2,
}

/// How the host's hierarchies are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Only cgroup v1.
    V1,
    /// cgroup v1 with the controllers, and the unified hierarchy beside it.
    Hybrid,
    /// Only the unified hierarchy.
    V2,
}

/// One mounted hierarchy.
#[derive(Debug)]
pub(super) struct Hierarchy {
    /// As in `/proc/self/cgroup`: `cpu,cpuacct`, `name=systemd`; empty for the unified one.
    pub(super) name: String,
    /// Where it is mounted.
    pub(super) mount: PathBuf,
    /// Its interface.
    pub(super) version: Version,
    root: OwnedFd,
}

impl Hierarchy {
    /// The root group, an `O_PATH` descriptor.
    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    fn has(&self, controller: &str) -> bool {
        self.name.split(',').any(|name| name == controller)
    }
}

/// The host's control group hierarchies, with their roots open.
#[derive(Debug)]
pub struct Host {
    hierarchies: Vec<Hierarchy>,
    layout: Layout,
    /// Controllers the unified hierarchy offers, separated by spaces; read when first asked for.
    v2_controllers: OnceLock<String>,
}

impl Host {
    /// Looks at what is mounted at `/sys/fs/cgroup`, or elsewhere when it is not there.
    ///
    /// # Errors
    /// [`Error::NotMounted`] when there is no hierarchy at all; system call errors.
    pub fn detect() -> Result<Arc<Self>> {
        let base = match open_dir(CWD, MOUNT) {
            Ok(base) => Some(base),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(errno).at("openat", MOUNT).map_err(Error::from),
        };
        if let Some(base) = &base
            && magic(base)? == CGROUP2_SUPER_MAGIC
        {
            let root = base.try_clone().at("fcntl", MOUNT)?;
            return Self::new(vec![Hierarchy {
                name: String::new(),
                mount: PathBuf::from(MOUNT),
                version: Version::V2,
                root,
            }]);
        }
        let mut hierarchies = Vec::with_capacity(16);
        let mut missing = Vec::new();
        let memberships = file::read_at(CWD, "/proc/self/cgroup", file::SMALL).at("read", "/proc/self/cgroup")?;
        for line in memberships.lines() {
            let mut fields = line.splitn(3, ':');
            let (Some(_), Some(name)) = (fields.next(), fields.next()) else {
                return Err(Error::Malformed { file: "/proc/self/cgroup".to_owned(), text: line.to_owned() });
            };
            match base.as_ref().map(|base| find_by_convention(base, name)).transpose()?.flatten() {
                Some(hierarchy) => hierarchies.push(hierarchy),
                None => missing.push(name.to_owned()),
            }
        }
        // The unified hierarchy has a line in /proc/self/cgroup even when nobody ever mounted it.
        if missing.iter().any(|name| !name.is_empty()) || hierarchies.is_empty() {
            let table = file::read_at(CWD, "/proc/self/mountinfo", file::LARGE).at("read", "/proc/self/mountinfo")?;
            for name in &missing {
                if let Some((mount, version)) = mounted_at(&table, name)
                    && let Ok(root) = open_dir(CWD, &mount)
                {
                    hierarchies.push(Hierarchy { name: name.clone(), mount, version, root });
                }
            }
        }
        Self::new(hierarchies)
    }

    fn new(hierarchies: Vec<Hierarchy>) -> Result<Arc<Self>> {
        let unified = hierarchies.iter().find(|hierarchy| hierarchy.version == Version::V2);
        let layout = match (hierarchies.len(), unified.is_some()) {
            (0, _) => return Err(Error::NotMounted),
            (1, true) => Layout::V2,
            (_, true) => Layout::Hybrid,
            (_, false) => Layout::V1,
        };
        Ok(Arc::new(Self { hierarchies, layout, v2_controllers: OnceLock::new() }))
    }

    /// A stand-in for the unified hierarchy rooted in an ordinary directory.
    #[cfg(test)]
    pub(super) fn fake_v2(root: &Path) -> Result<Arc<Self>> {
        let mount = root.to_owned();
        let root = open_dir(CWD, &mount).at("openat", mount.display())?;
        Self::new(vec![Hierarchy { name: String::new(), mount, version: Version::V2, root }])
    }

    /// How the hierarchies are arranged.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Whether limits can be set on `controller` (`memory`, `pids`, `cpu`, `io` or `blkio`, …).
    #[must_use]
    pub fn has_controller(&self, controller: &str) -> bool {
        self.index_of(controller).is_some()
    }

    /// Whether swap can be limited. On v1 that depends on how the kernel was built and started.
    #[must_use]
    pub fn limits_swap(&self) -> bool {
        match self.index_of("memory") {
            None => false,
            Some(index) => match self.hierarchies[index].version {
                Version::V2 => rustix::fs::access("/proc/swaps", rustix::fs::Access::EXISTS).is_ok(),
                Version::V1 => exists(self.hierarchies[index].root(), "memory.memsw.limit_in_bytes"),
            },
        }
    }

    pub(super) fn hierarchies(&self) -> &[Hierarchy] {
        &self.hierarchies
    }

    /// The hierarchy that `controller` is in.
    pub(super) fn index_of(&self, controller: &str) -> Option<usize> {
        self.hierarchies.iter().position(|hierarchy| match hierarchy.version {
            Version::V1 => hierarchy.has(controller),
            Version::V2 => self.v2_controllers().any(|name| name == controller),
        })
    }

    /// The unified hierarchy.
    pub(super) fn unified(&self) -> Option<usize> {
        self.hierarchies.iter().position(|hierarchy| hierarchy.version == Version::V2)
    }

    /// Controllers the unified hierarchy offers; none when the list cannot be read.
    pub(super) fn v2_controllers(&self) -> impl Iterator<Item = &str> {
        let list = self.v2_controllers.get_or_init(|| {
            let root = self.unified().map(|index| self.hierarchies[index].root());
            root.and_then(|root| file::read_at(root, "cgroup.controllers", file::SMALL).ok()).unwrap_or_default()
        });
        list.split_ascii_whitespace()
    }
}

/// Whether `dir` has a file `name`.
pub(super) fn exists(dir: BorrowedFd<'_>, name: &str) -> bool {
    rustix::fs::accessat(dir, name, rustix::fs::Access::EXISTS, AtFlags::empty()).is_ok()
}

fn open_dir(at: impl AsFd, path: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(at, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn magic(dir: &OwnedFd) -> Result<u64> {
    let statfs = rustix::fs::fstatfs(dir).at("fstatfs", MOUNT)?;
    // The type of the field differs between architectures; magic numbers are positive in all of them.
    Ok(u64::try_from(statfs.f_type).unwrap_or(0))
}

/// The hierarchy `name` where distributions mount it: below its full name, or a link named after one controller.
fn find_by_convention(base: &OwnedFd, name: &str) -> Result<Option<Hierarchy>> {
    let (version, wanted) =
        if name.is_empty() { (Version::V2, CGROUP2_SUPER_MAGIC) } else { (Version::V1, CGROUP_SUPER_MAGIC) };
    let full = if name.is_empty() { "unified" } else { name.strip_prefix("name=").unwrap_or(name) };
    let single = full.split(',').filter(|part| part.len() != full.len());
    for candidate in std::iter::once(full).chain(single) {
        match open_dir(base, candidate) {
            Ok(root) if magic(&root)? == wanted => {
                let mount = Path::new(MOUNT).join(candidate);
                return Ok(Some(Hierarchy { name: name.to_owned(), mount, version, root }));
            }
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => return Err(errno).at("openat", format_args!("{MOUNT}/{candidate}")).map_err(Error::from),
        }
    }
    Ok(None)
}

/// Where the mount table says the hierarchy `name` is; the first mount wins, since later ones are often copies of it.
pub(super) fn mounted_at(table: &str, name: &str) -> Option<(PathBuf, Version)> {
    for line in table.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut right = right.split(' ');
        let (kind, options) = (right.next()?, right.nth(1).unwrap_or_default());
        let version = match kind {
            "cgroup2" if name.is_empty() => Version::V2,
            "cgroup" if !name.is_empty() && name.split(',').all(|part| options.split(',').any(|o| o == part)) => {
                Version::V1
            }
            _ => continue,
        };
        return left.split(' ').nth(4).map(|mount| (PathBuf::from(unescape(mount)), version));
    }
    None
}

/// Undoes the octal escapes of space, tab, line break and backslash in the mount table.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hierarchy_is_found_in_the_mount_table() {
        let table = "24 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                     33 24 0:29 / /odd\\040place/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
                     34 24 0:30 / /x/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                     35 24 0:31 / /x/unified rw - cgroup2 cgroup2 rw,nsdelegate\n\
                     36 24 0:31 / /copy rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let at = |name| mounted_at(table, name).map(|(path, version)| (path.display().to_string(), version));
        assert_eq!(at("cpu,cpuacct"), Some(("/odd place/cpu,cpuacct".to_owned(), Version::V1)));
        assert_eq!(at("name=systemd"), Some(("/x/systemd".to_owned(), Version::V1)));
        assert_eq!(at(""), Some(("/x/unified".to_owned(), Version::V2)));
        assert_eq!(at("memory"), None);
    }

    #[test]
    fn this_hosts_hierarchies_are_the_ones_the_kernel_names() {
        let host = match Host::detect() {
            Ok(host) => host,
            Err(Error::NotMounted) => return,
            Err(error) => panic!("{error}"),
        };
        let memberships = std::fs::read_to_string("/proc/self/cgroup").expect("readable");
        for hierarchy in host.hierarchies() {
            assert!(memberships.contains(&format!(":{}:", hierarchy.name)), "{hierarchy:?}");
            let (by_path, by_fd) = (rustix::fs::stat(&hierarchy.mount), rustix::fs::fstat(hierarchy.root()));
            assert_eq!(by_path.expect("mounted").st_dev, by_fd.expect("open").st_dev);
        }
        assert!(!host.has_controller("no-such-controller"));
    }
}
