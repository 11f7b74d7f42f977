//! The container's mount tree, assembled by its first process inside its own mount namespace, by descriptor throughout.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use sys::mount::{Attributes, Change, NewFs, Propagation};
use sys::{Context as _, Errno};

use crate::error::{Doing, Error, ErrorKind, Result};
use crate::mounts::{MountPlan, Source, set_data};
use crate::plan::{Plan, wrong};

/// Magic numbers of procfs and sysfs (statfs(2)).
const PROC: i64 = 0x9fa0;
const SYSFS: i64 = 0x6265_6572;

/// File systems of the process's own namespaces, made while the caller prepares the rest: one per [`Source::New`].
#[derive(Debug, Default)]
pub(crate) struct Own {
    mounts: Vec<OwnedFd>,
    /// The root of the container's procfs, which stays reachable here whatever is mounted over it.
    pub(crate) proc: Option<OwnedFd>,
    /// The container's devpts.
    pub(crate) devpts: Option<OwnedFd>,
}

/// Makes them, detached.
pub(crate) fn make_own(plan: &Plan<'_>) -> Result<Own> {
    let mut own = Own::default();
    for mount in &plan.mounts {
        let Source::New { kind, source } = &mount.source else { continue };
        let made = make_new(mount, kind, source.as_deref())
            .doing(|| format!("cannot mount {kind} at {}", mount.target.display()))?;
        let copy = || made.try_clone().at("dup", kind).doing(|| format!("cannot keep {kind}"));
        match kind.as_str() {
            "proc" if own.proc.is_none() => own.proc = Some(copy()?),
            "devpts" if own.devpts.is_none() => own.devpts = Some(copy()?),
            _ => {}
        }
        own.mounts.push(made);
    }
    Ok(own)
}

fn make_new(mount: &MountPlan, kind: &str, source: Option<&str>) -> sys::Result<OwnedFd> {
    let fs = NewFs::open(kind)?;
    if let Some(source) = source {
        fs.set("source", source)?;
    }
    set_data(&fs, &mount.data)?;
    fs.mount(mount.set)
}

/// Attaches everything and makes the result the root. `names` are the control group directories' below their tmpfs.
pub(crate) fn assemble(plan: &Plan<'_>, own: &mut Own, callers: Vec<OwnedFd>, names: &[String]) -> Result<OwnedFd> {
    leave_chroot()?;
    let mut callers = callers.into_iter();
    let mut missing = || Error::new(ErrorKind::System, "a mount is missing from what the caller sent");
    let root = callers.next().ok_or_else(&mut missing)?;
    enter_root(&root)?;
    let mut news = std::mem::take(&mut own.mounts).into_iter();
    for mount in &plan.mounts {
        match &mount.source {
            Source::New { .. } => {
                let made = news.next().ok_or_else(&mut missing)?;
                attach(&root, mount, &made)?;
            }
            Source::Cgroup => {
                let made = callers.next().ok_or_else(&mut missing)?;
                attach(&root, mount, &made)?;
                for name in names {
                    let group = callers.next().ok_or_else(&mut missing)?;
                    attach_at(&made, Path::new(name), &group)
                        .doing(|| format!("cannot show the control group {name}"))?;
                }
            }
            Source::Bind { .. } | Source::Dev => {
                let made = callers.next().ok_or_else(&mut missing)?;
                attach(&root, mount, &made)?;
            }
        }
    }
    Ok(root)
}

/// Goes to the root of the mount namespace, which is not "/" when lighter itself runs in a chroot. pivot_root would change
/// that chroot only, and whoever joins the namespace later, such as an `exec`, would find itself in the host's root.
fn leave_chroot() -> Result<()> {
    const OWN: &str = "/proc/self/ns/mnt";
    let what = || "cannot go to the root of the mount namespace".to_owned();
    let mount_of_root = || {
        let stat = rustix::fs::statx(rustix::fs::CWD, "/", AtFlags::empty(), rustix::fs::StatxFlags::MNT_ID);
        stat.map(|stat| stat.stx_mnt_id).at("statx", "/").doing(what)
    };
    let before = mount_of_root()?;
    let own = rustix::fs::open(OWN, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).at("open", OWN).doing(what)?;
    sys::process::join(&own, sys::process::Namespaces::MOUNT).doing(what)?;
    if mount_of_root()? != before {
        sys::mount::propagate_all("/", Propagation::Slave).doing(what)?;
    }
    Ok(())
}

/// Puts the detached `root` over "/" and lets go of everything else. "/" is the one place that a process without any
/// privilege on the host can always name.
fn enter_root(root: &OwnedFd) -> Result<()> {
    let what = || "cannot enter the root file system".to_owned();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let old = rustix::fs::open("/", flags, Mode::empty()).at("open", "/").doing(what)?;
    sys::mount::attach(root, &old, "/").doing(what)?;
    rustix::process::fchdir(root).at("fchdir", "the new root").doing(what)?;
    sys::mount::pivot_to_cwd().doing(what)
}

fn attach(root: &OwnedFd, mount: &MountPlan, made: &OwnedFd) -> Result<()> {
    let what = || format!("cannot attach the mount at {}", mount.target.display());
    let target = target(root, mount, made)?;
    sys::mount::attach(made, &target, mount.target.display()).doing(what)?;
    if let (Source::New { .. }, Some((propagation, recursive))) = (&mount.source, mount.propagation) {
        let change = Change { propagation: Some(propagation), recursive, ..Change::default() };
        sys::mount::set_attributes(made, &change).doing(what)?;
    }
    Ok(())
}

/// The place of a mount inside the root, made when missing: a directory, or an empty file for a mounted file.
fn target(root: &OwnedFd, mount: &MountPlan, made: &OwnedFd) -> Result<OwnedFd> {
    let path = &mount.target;
    let what = || format!("cannot make the mount point {}", path.display());
    // An image that moves /proc, /sys or /dev by a symbolic link would have us write to its choice of files
    // (CVE-2019-16884 and its returns).
    let pinned = match &mount.source {
        Source::New { kind, .. } => kind == "proc" || kind == "sysfs",
        Source::Dev | Source::Cgroup => true,
        Source::Bind { .. } => false,
    };
    if pinned {
        match sys::fs::open_in_root_no_symlinks(root, path, OFlags::PATH) {
            Err(cause) if cause.errno() == Errno::NOENT => {}
            other => return other.doing(|| format!("{} must be a plain directory of the image", path.display())),
        }
        return sys::fs::make_dirs_in_root(root, path, 0o755).doing(what);
    }
    match sys::fs::open_in_root(root, path, OFlags::PATH, Mode::empty()) {
        Err(cause) if cause.errno() == Errno::NOENT => {}
        Err(cause) => return Err(cause).doing(what),
        Ok(target) => {
            // A link of the image must not lay a mount over the kernel's files when nobody asked for that.
            let kind = rustix::fs::fstatfs(&target).at("fstatfs", path.display()).doing(what)?.f_type;
            let asked = path.starts_with("/proc") || path.starts_with("/sys");
            if (kind == PROC || kind == SYSFS) && !asked {
                return Err(wrong("mounts", format_args!("{} leads into the kernel's files", path.display())));
            }
            return Ok(target);
        }
    }
    let stat = rustix::fs::statat(made, "", AtFlags::EMPTY_PATH).at("fstat", path.display()).doing(what)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return sys::fs::make_dirs_in_root(root, path, 0o755).doing(what);
    }
    let name = path.file_name().ok_or_else(|| wrong("mounts", format_args!("{} is no file", path.display())))?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    let parent = sys::fs::make_dirs_in_root(root, parent, 0o755).doing(what)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644)).at("openat", path.display()).doing(what)?;
    sys::fs::open_in_root(root, path, OFlags::PATH, Mode::empty()).doing(what)
}

fn attach_at(root: &OwnedFd, path: &Path, mount: &OwnedFd) -> sys::Result<()> {
    let target = sys::fs::open_in_root_no_symlinks(root, path, OFlags::PATH)?;
    sys::mount::attach(mount, target, path.display())
}

/// `/dev/console`: the terminal's own node, taken from the devpts by number and attached by descriptor.
pub(crate) fn attach_console(root: &OwnedFd, own: &Own, master: &OwnedFd) -> Result<()> {
    let what = || "cannot make /dev/console".to_owned();
    let Some(devpts) = &own.devpts else { return Ok(()) };
    let dev = match sys::fs::open_in_root_no_symlinks(root, "dev", OFlags::PATH | OFlags::DIRECTORY) {
        Err(cause) if cause.errno() == Errno::NOENT => return Ok(()),
        other => other.doing(what)?,
    };
    let number = sys::pty::number(master).doing(what)?;
    let node = sys::mount::clone_tree(devpts, &number.to_string(), false).doing(what)?;
    let flags = OFlags::CREATE | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::openat(&dev, "console", flags, Mode::from_raw_mode(0o600)) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno).at("openat", "/dev/console").doing(what),
    }
    let target = sys::fs::open_in_root_no_symlinks(&dev, "console", OFlags::PATH).doing(what)?;
    sys::mount::attach(node, target, "/dev/console").doing(what)
}

/// Hides `linux.maskedPaths` and write-protects `linux.readonlyPaths`; then the root, when it is read-only.
///
/// A file is hidden by `/dev/null`, proven to be character device 1:3 (CVE-2025-31133), a directory by one empty
/// read-only tmpfs, of which the further ones get copies.
pub(crate) fn protect(plan: &Plan<'_>, root: &OwnedFd) -> Result<()> {
    let linux = plan.linux;
    let mut empty: Option<OwnedFd> = None;
    let mut null: Option<OwnedFd> = None;
    for path in &linux.masked_paths {
        let what = || format!("cannot hide {path}");
        let Some(target) = existing(root, path).doing(what)? else { continue };
        let stat = rustix::fs::statat(&target, "", AtFlags::EMPTY_PATH).at("fstat", path).doing(what)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            match &empty {
                Some(first) => {
                    let copy = sys::mount::clone_tree(first, "", false).doing(what)?;
                    sys::mount::attach(copy, &target, path).doing(what)?;
                }
                None => {
                    let made = empty_directory().doing(what)?;
                    sys::mount::attach(&made, &target, path).doing(what)?;
                    empty = Some(made);
                }
            }
        } else {
            let source = match &null {
                Some(null) => null,
                None => null.insert(null_device(root)?),
            };
            let copy = sys::mount::clone_tree(source, "", false).doing(what)?;
            sys::mount::attach(copy, &target, path).doing(what)?;
        }
    }
    for path in &linux.readonly_paths {
        let what = || format!("cannot make {path} read-only");
        let Some(target) = existing(root, path).doing(what)? else { continue };
        let copy = sys::mount::clone_tree(&target, "", true).doing(what)?;
        let change = Change { set: Attributes::RDONLY, recursive: true, ..Change::default() };
        sys::mount::set_attributes(&copy, &change).doing(what)?;
        sys::mount::attach(copy, &target, path).doing(what)?;
    }
    let propagation = match linux.rootfs_propagation.as_str() {
        "" | "private" | "rprivate" => None,
        "slave" | "rslave" => Some(Propagation::Slave),
        "shared" | "rshared" => Some(Propagation::Shared),
        "unbindable" | "runbindable" => Some(Propagation::Unbindable),
        other => return Err(wrong("linux.rootfsPropagation", format_args!("{other:?} is no propagation"))),
    };
    if let Some(propagation) = propagation {
        let recursive = linux.rootfs_propagation.starts_with("rs") || linux.rootfs_propagation.starts_with("ru");
        let change = Change { propagation: Some(propagation), recursive, ..Change::default() };
        sys::mount::set_attributes(root, &change).doing(|| "cannot set the root's propagation".to_owned())?;
    }
    if plan.root_read_only {
        let change = Change { set: Attributes::RDONLY, ..Change::default() };
        sys::mount::set_attributes(root, &change).doing(|| "cannot make the root read-only".to_owned())?;
    }
    Ok(())
}

/// The path inside the root without following a last symbolic link; `None` when there is nothing.
fn existing(root: &OwnedFd, path: &str) -> sys::Result<Option<OwnedFd>> {
    match sys::fs::open_in_root(root, path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(target) => Ok(Some(target)),
        Err(cause) if matches!(cause.errno(), Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(cause) => Err(cause),
    }
}

fn empty_directory() -> sys::Result<OwnedFd> {
    let fs = NewFs::open("tmpfs")?;
    for (key, value) in [("source", "tmpfs"), ("size", "0"), ("nr_inodes", "1"), ("mode", "755")] {
        fs.set(key, value)?;
    }
    fs.mount(Attributes::RDONLY | Attributes::NOSUID | Attributes::NODEV | Attributes::NOEXEC)
}

fn null_device(root: &OwnedFd) -> Result<OwnedFd> {
    let what = || "cannot use the container's /dev/null to hide files".to_owned();
    let null = sys::fs::open_in_root_no_symlinks(root, "dev/null", OFlags::PATH | OFlags::NOFOLLOW).doing(what)?;
    let stat = rustix::fs::statat(&null, "", AtFlags::EMPTY_PATH).at("fstat", "/dev/null").doing(what)?;
    let is_null =
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == rustix::fs::makedev(1, 3);
    if is_null {
        Ok(null)
    } else {
        Err(Error::new(ErrorKind::Config, format!("{}: it is not the null device", what())))
    }
}

/// Sets `linux.sysctl` through the container's own procfs, past anything mounted over it (CVE-2025-52881).
pub(crate) fn set_sysctls(plan: &Plan<'_>, own: &Own) -> Result<()> {
    if plan.linux.sysctl.is_empty() {
        return Ok(());
    }
    let Some(proc) = &own.proc else { return Err(wrong("linux.sysctl", "needs a /proc in the container")) };
    for (key, value) in &plan.linux.sysctl {
        let valid = !key.is_empty() && !key.contains("..") && !key.starts_with(['/', '.']) && !key.contains('\0');
        if !valid {
            return Err(wrong("linux.sysctl", format_args!("{key:?} is no parameter")));
        }
        let path = format!("sys/{}", key.replace('.', "/"));
        sys::fs::open_beneath_proc(proc.as_fd(), &path, OFlags::WRONLY)
            .and_then(|file| sys::fs::write_all(file, value.as_bytes(), format_args!("{value} to {key}")))
            .doing(|| format!("cannot set the kernel parameter {key}"))?;
    }
    Ok(())
}
