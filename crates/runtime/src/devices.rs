//! Device nodes: the ones every container has, and those of `linux.devices`.
//!
//! Only the host's root may make any: the process itself while it has that privilege, and whoever makes the container where
//! it has a user namespace. A node that even the latter cannot make, and one that belongs outside `/dev` while the container
//! has a user namespace, is mounted instead: an empty file marks the place, and the node, a copy of the host's own, comes
//! after all other mounts.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

use oci::runtime::LinuxDevice;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, makedev};
use sys::mount::{Attributes, Change, NewFs, Propagation};
use sys::{Context as _, Errno};

use crate::error::{Doing, Result};
use crate::mount_plan::{MountPlan, Source};
use crate::mounts::set_data;
use crate::plan::{Plan, wrong};

/// The nodes every container has (`config-linux.md`, "Default Devices"): name, major, minor.
const NODES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
    ("core", "/proc/kcore"),
];

/// `/dev`: made before the container's root is entered, since only the host's root makes device nodes, and one tmpfs with six
/// nodes is cheaper than six bind mounts. Everything belongs to the container's root. What has to be mounted goes to
/// `nodes`.
pub(crate) fn dev(plan: &Plan<'_>, mount: &MountPlan, nodes: &mut Vec<OwnedFd>) -> Result<OwnedFd> {
    let what = || "cannot make the container's /dev".to_owned();
    let (uid, gid) = plan.root_ids();
    let fs = NewFs::open("tmpfs").doing(what)?;
    fs.set("source", "tmpfs").doing(what)?;
    set_data(&fs, &mount.data).doing(what)?;
    fs.set("uid", &uid.to_string()).doing(what)?;
    fs.set("gid", &gid.to_string()).doing(what)?;
    // Nodes must be usable here whatever the options said of other device nodes; read-only would keep them from being
    // made, so it is set last, by the process.
    let dir = fs.mount(mount.set.without(Attributes::RDONLY).without(Attributes::NODEV)).doing(what)?;
    let before = rustix::process::umask(Mode::empty());
    let filled = fill_dev(plan, &dir, (uid, gid), nodes);
    rustix::process::umask(before);
    filled?;
    Ok(dir)
}

fn fill_dev(plan: &Plan<'_>, dir: &OwnedFd, root: (u32, u32), nodes: &mut Vec<OwnedFd>) -> Result<()> {
    for (name, major, minor) in NODES {
        let what = || format!("cannot make the container's /dev/{name}");
        let mode = Mode::from_raw_mode(0o666);
        let number = makedev(major, minor);
        match rustix::fs::mknodat(dir, name, FileType::CharacterDevice, mode, number) {
            Ok(()) => own(dir, name, root).doing(what)?,
            Err(Errno::PERM) => nodes.push(placeholder(dir, name, Path::new("/dev").join(name).as_path()).doing(what)?),
            Err(errno) => return Err(sys::Error::new("mknodat", name, errno)).doing(what),
        }
    }
    for (name, target) in LINKS {
        rustix::fs::symlinkat(target, dir, name)
            .at("symlinkat", name)
            .and_then(|()| own(dir, name, root))
            .doing(|| format!("cannot make the container's /dev/{name}"))?;
    }
    for device in &plan.linux.devices {
        let node = Node::read(plan, device)?;
        // Those are there already: a caller that lists all devices of its own /dev lists them as well.
        let Some(below) = node.below_dev().filter(|below| !is_known(below)) else { continue };
        let what = || format!("cannot make the container's {}", node.path.display());
        let (parent, name) = parent_of(dir, below).doing(what)?;
        match node.make(&parent, &name) {
            Err(cause) if cause.errno() == Errno::PERM => {
                nodes.push(placeholder(&parent, &name, node.path).doing(what)?);
            }
            other => other.doing(what)?,
        }
    }
    Ok(())
}

/// Marks the place of a node in `dir` and gives a copy of the host's at `path`.
fn placeholder(dir: &OwnedFd, name: &str, path: &Path) -> sys::Result<OwnedFd> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o666)).at("openat", path.display())?;
    copy_of(path)
}

/// A copy of the host's node.
fn copy_of(path: &Path) -> sys::Result<OwnedFd> {
    let tree = sys::mount::clone_path(path, false)?;
    let stat = rustix::fs::statat(&tree, "", AtFlags::EMPTY_PATH).at("fstat", path.display())?;
    if !matches!(FileType::from_raw_mode(stat.st_mode), FileType::CharacterDevice | FileType::BlockDevice) {
        return Err(sys::Error::new("mount", format!("{} (no device)", path.display()), Errno::NOTBLK));
    }
    // A node is opened, and nothing else is to be done with it.
    let set = Attributes::NOSUID | Attributes::NOEXEC;
    let change = Change { set, propagation: Some(Propagation::Private), ..Change::default() };
    sys::mount::set_attributes(&tree, &change)?;
    Ok(tree)
}

/// The nodes outside `/dev` that the container cannot make itself.
pub(crate) fn callers(plan: &Plan<'_>, nodes: &mut Vec<OwnedFd>) -> Result<()> {
    if !plan.has_user_namespace() {
        return Ok(());
    }
    if !has_dev(plan) {
        for (name, ..) in NODES {
            nodes.push(
                copy_of(&Path::new("/dev").join(name)).doing(|| format!("cannot give the container /dev/{name}"))?,
            );
        }
    }
    for_each_outside(plan, |node| {
        if node.kind != FileType::Fifo {
            let what = || format!("cannot give the container the host's {}", node.path.display());
            nodes.push(copy_of(node.path).doing(what)?);
        }
        Ok(())
    })
}

/// Puts the nodes into their places that the caller could not put there: `nodes` are those to be mounted. Without
/// a mount at `/dev` the root file system's own directory gets the nodes and links.
pub(crate) fn place(plan: &Plan<'_>, root: &OwnedFd, nodes: &mut dyn Iterator<Item = OwnedFd>) -> Result<()> {
    let mut nodes = nodes.peekable();
    if nodes.peek().is_some() && plan.mounts.iter().any(|mount| mount.source == Source::Dev) {
        let listed = plan.linux.devices.iter().map(|device| device.path.clone());
        for path in NODES.iter().map(|(name, ..)| Path::new("/dev").join(name)).chain(listed) {
            let what = || format!("cannot mount the container's {}", path.display());
            if !path.starts_with("/dev") {
                continue;
            }
            let target = sys::fs::open_in_root_no_symlinks(root, &path, OFlags::PATH).doing(what)?;
            let stat = rustix::fs::statat(&target, "", AtFlags::EMPTY_PATH).at("fstat", path.display()).doing(what)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
                && let Some(node) = nodes.next()
            {
                sys::mount::attach(&node, &target, path.display()).doing(what)?;
            }
        }
    }
    if !has_dev(plan) {
        place_defaults(plan, root, &mut nodes)?;
    }
    for_each_outside(plan, |node| {
        let what = || format!("cannot make the container's {}", node.path.display());
        let below = node.path.strip_prefix("/").unwrap_or(node.path);
        let (parent, name) = parent_of(root, below).doing(what)?;
        let before = rustix::process::umask(Mode::empty());
        let made = if node.kind != FileType::Fifo && plan.has_user_namespace() {
            let flags = OFlags::CREATE | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
            let file = rustix::fs::openat(&parent, &name, flags, Mode::from_raw_mode(0o666)).at("openat", &name);
            match (file, nodes.next()) {
                (Ok(_), Some(tree)) => sys::fs::open_in_root_no_symlinks(&parent, &name, OFlags::PATH)
                    .and_then(|target| sys::mount::attach(&tree, &target, node.path.display())),
                (Ok(_), None) => Err(sys::Error::new("mount", node.path.display(), Errno::NODEV)),
                (Err(cause), _) => Err(cause),
            }
        } else {
            match node.make(&parent, &name) {
                // A bundle that was run before has it; it has to be the same one.
                Err(cause) if cause.errno() == Errno::EXIST && node.is_at(&parent, &name) => Ok(()),
                other => other,
            }
        };
        rustix::process::umask(before);
        made.doing(what)
    })
}

/// The nodes and links that every container has, in the root file system's own `/dev`. What the image has there already
/// stays; on a file system that takes no nodes there are none.
fn place_defaults(plan: &Plan<'_>, root: &OwnedFd, nodes: &mut dyn Iterator<Item = OwnedFd>) -> Result<()> {
    let what = || "cannot fill the container's /dev".to_owned();
    let dir = match sys::fs::open_in_root_no_symlinks(root, "dev", OFlags::PATH | OFlags::DIRECTORY) {
        Err(cause) if cause.errno() == Errno::NOENT => {
            match rustix::fs::mkdirat(root, "dev", Mode::from_raw_mode(0o755)) {
                Err(Errno::ROFS | Errno::ACCESS) => return Ok(()),
                made => {
                    made.at("mkdirat", "/dev").doing(what)?;
                    sys::fs::open_in_root_no_symlinks(root, "dev", OFlags::PATH | OFlags::DIRECTORY).doing(what)?
                }
            }
        }
        other => other.doing(|| "/dev must be a plain directory of the image".to_owned())?,
    };
    let before = rustix::process::umask(Mode::empty());
    let mut fill = || -> sys::Result<()> {
        for (name, major, minor) in NODES {
            let mode = Mode::from_raw_mode(0o666);
            if plan.has_user_namespace() {
                let flags = OFlags::CREATE | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
                let node = nodes.next();
                if rustix::fs::openat(&dir, name, flags, mode).is_ok()
                    && let Some(node) = node
                {
                    let target = sys::fs::open_in_root_no_symlinks(&dir, name, OFlags::PATH)?;
                    sys::mount::attach(&node, &target, name)?;
                }
                continue;
            }
            match rustix::fs::mknodat(&dir, name, FileType::CharacterDevice, mode, makedev(major, minor)) {
                Ok(()) | Err(Errno::EXIST | Errno::ROFS) => {}
                Err(errno) => return Err(sys::Error::new("mknodat", name, errno)),
            }
        }
        for (name, target) in LINKS {
            match rustix::fs::symlinkat(target, &dir, name) {
                Ok(()) | Err(Errno::EXIST | Errno::ROFS | Errno::ACCESS) => {}
                Err(errno) => return Err(sys::Error::new("symlinkat", name, errno)),
            }
        }
        Ok(())
    };
    let filled = fill();
    rustix::process::umask(before);
    filled.doing(what)
}

/// Whether something is mounted at `/dev`.
fn has_dev(plan: &Plan<'_>) -> bool {
    plan.mounts.iter().any(|mount| mount.target == Path::new("/dev"))
}

/// Calls `act` for every node that `/dev`'s file system does not hold: those outside it, and without a mount at `/dev`
/// all of them. A `/dev` of the host's is left as it is.
fn for_each_outside(plan: &Plan<'_>, mut act: impl FnMut(&Node<'_>) -> Result<()>) -> Result<()> {
    let mounted = has_dev(plan);
    for device in &plan.linux.devices {
        let node = Node::read(plan, device)?;
        if node.below_dev().is_none() || (!mounted && node.below_dev().is_some_and(|below| !is_known(below))) {
            act(&node)?;
        }
    }
    Ok(())
}

fn is_known(below: &Path) -> bool {
    let mut known = NODES.iter().map(|(name, ..)| *name).chain(LINKS.iter().map(|(name, _)| *name));
    known.any(|name| Path::new(name) == below)
}

/// The directory of `path` inside `dir`, made when missing, and the last name.
fn parent_of(dir: &OwnedFd, path: &Path) -> sys::Result<(OwnedFd, String)> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let parent = sys::fs::make_dirs_in_root(dir, path.parent().unwrap_or(Path::new("")), 0o755)?;
    Ok((parent, name))
}

fn own(dir: &OwnedFd, name: &str, (uid, gid): (u32, u32)) -> sys::Result<()> {
    if (uid, gid) == (0, 0) {
        return Ok(());
    }
    let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
    rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).at("fchownat", name)
}

/// An entry of `linux.devices`, read.
struct Node<'a> {
    path: &'a Path,
    kind: FileType,
    number: u64,
    mode: Mode,
    /// The owner, in the ids of whoever makes it.
    owner: (u32, u32),
}

impl<'a> Node<'a> {
    fn read(plan: &Plan<'_>, device: &'a LinuxDevice) -> Result<Self> {
        let field = "linux.devices";
        let path = device.path.as_path();
        let plain = path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
        if !path.is_absolute() || !plain || path.file_name().is_none() || path == Path::new("/dev") {
            return Err(wrong(field, format_args!("{} is no path of a device", path.display())));
        }
        let kind = match device.kind.as_str() {
            "c" | "u" => FileType::CharacterDevice,
            "b" => FileType::BlockDevice,
            "p" => FileType::Fifo,
            other => {
                return Err(wrong(field, format_args!("type {other:?} of {} is none of c, u, b, p", path.display())));
            }
        };
        let number =
            |value: i64| u32::try_from(value).map_err(|_| wrong(field, format_args!("{value} is no device number")));
        // A fifo has no number; callers leave whatever they like there.
        let number = if kind == FileType::Fifo { 0 } else { makedev(number(device.major)?, number(device.minor)?) };
        let mode = Mode::from_raw_mode(device.file_mode.unwrap_or(0o666) & 0o7777);
        let (uid, gid) = plan.root_ids();
        let host = |id: Option<u32>, root: u32| match id {
            Some(id) if plan.has_user_namespace() => root.saturating_add(id),
            Some(id) => id,
            None => root,
        };
        Ok(Self { path, kind, number, mode, owner: (host(device.uid, uid), host(device.gid, gid)) })
    }

    fn below_dev(&self) -> Option<&'a Path> {
        self.path.strip_prefix("/dev").ok()
    }

    fn make(&self, parent: &OwnedFd, name: &str) -> sys::Result<()> {
        rustix::fs::mknodat(parent, name, self.kind, self.mode, self.number).at("mknodat", self.path.display())?;
        own(parent, name, self.owner)
    }

    fn is_at(&self, parent: &OwnedFd, name: &str) -> bool {
        let stat = rustix::fs::statat(parent.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW);
        stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == self.kind && stat.st_rdev == self.number)
    }
}
