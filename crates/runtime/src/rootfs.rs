//! The container's mount tree, assembled by its first process inside its own mount namespace, by descriptor throughout.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use sys::mount::{Attributes, Change, NewFs, Propagation};
use sys::{Context as _, Errno};

use crate::error::{Doing, Error, ErrorKind, Result};
use crate::launch::{Bundle, Groups, Rootfs};
use crate::mount_plan::{MountPlan, Source};
use crate::mounts;
use crate::namespaces::MountSpace;
use crate::plan::{Confinement, Plan, wrong};
use crate::{copy_up, devices, move_root, new_mounts};

/// Magic numbers of procfs and sysfs (statfs(2)).
const PROC: i64 = 0x9fa0;
const SYSFS: i64 = 0x6265_6572;

/// File systems of the process's own namespaces, made while the caller prepares the rest: one per [`Source::New`], and
/// `/dev` where the process may make nodes. They get their mounts' numbers, by which `/proc/self/mountinfo` is sorted, in
/// the configuration's order.
#[derive(Debug, Default)]
pub(crate) struct Own {
    mounts: Vec<OwnedFd>,
    /// Nodes of its `/dev` that have to be mounted.
    nodes: Vec<OwnedFd>,
    /// The root of the container's procfs, which stays reachable here whatever is mounted over it; the caller's where the
    /// container mounts none of its own and something has to be set there.
    pub(crate) proc: Option<OwnedFd>,
    /// The container's devpts.
    pub(crate) devpts: Option<OwnedFd>,
}

/// Makes them, detached.
pub(crate) fn make_own(plan: &Plan<'_>) -> Result<Own> {
    let mut own = Own::default();
    for mount in &plan.mounts {
        let (kind, source) = match &mount.source {
            Source::New { kind, source } => (kind, source),
            Source::Dev if plan.makes_dev() => {
                own.mounts.push(devices::dev(plan, mount, &mut own.nodes)?);
                continue;
            }
            _ => continue,
        };
        let made = new_mounts::make(plan, mount, kind, source.as_deref())?;
        let copy = || made.try_clone().at("dup", kind).doing(|| format!("cannot keep {kind}"));
        match kind.as_str() {
            "proc" if own.proc.is_none() => own.proc = Some(copy()?),
            "devpts" if own.devpts.is_none() => own.devpts = Some(copy()?),
            _ => {}
        }
        own.mounts.push(made);
    }
    if own.proc.is_none() && needs_proc(plan) {
        own.proc = Some(callers_proc()?);
    }
    Ok(own)
}

/// Whether something is set through procfs.
fn needs_proc(plan: &Plan<'_>) -> bool {
    let Confinement { apparmor_profile, selinux_label, .. } = &plan.confinement;
    !plan.linux.sysctl.is_empty() || !apparmor_profile.is_empty() || !selinux_label.is_empty()
}

/// The procfs of the host, while it is still there. What is opened below it concerns the process that opens it, as in any
/// other (proc(5)).
fn callers_proc() -> Result<OwnedFd> {
    let what = || "cannot open the host's /proc".to_owned();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = rustix::fs::open("/proc", flags, Mode::empty()).at("open", "/proc").doing(what)?;
    if rustix::fs::fstatfs(&proc).at("fstatfs", "/proc").doing(what)?.f_type != PROC {
        return Err(Error::new(ErrorKind::Unsupported, format!("{}: it is no procfs", what())));
    }
    Ok(proc)
}

/// Where hooks find the container's mounts: the bundle's root file system and directory, as paths of the host.
#[derive(Debug)]
pub(crate) struct Stage {
    rootfs: OwnedFd,
    bundle: OwnedFd,
}

impl Stage {
    pub(crate) fn open(plan: &Plan<'_>, bundle: &Bundle<'_>) -> Result<Self> {
        let open = |path: &Path| {
            rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .at("open", path.display())
                .doing(|| "cannot prepare for the hooks".to_owned())
        };
        let root = plan.spec.root.as_ref().ok_or_else(|| wrong("root", "is missing"))?;
        Ok(Self { rootfs: open(&bundle.dir.join(&root.path))?, bundle: open(bundle.dir)? })
    }
}

/// Attaches everything and makes the result the root. `names` are the control group directories' below their tmpfs.
/// With a `stage` the mounts are first attached there and `hooks` is called; the root is changed after it.
pub(crate) fn assemble(
    plan: &Plan<'_>,
    own: &mut Own,
    callers: Vec<OwnedFd>,
    names: &[String],
    bundle: Option<&Bundle<'_>>,
    stage: Option<&Stage>,
    hooks: impl FnOnce() -> Result<()>,
) -> Result<OwnedFd> {
    let mut callers = callers.into_iter();
    if plan.mount_space != MountSpace::New {
        return assemble_apart(plan, own, callers, names, bundle, stage, hooks);
    }
    leave_chroot()?;
    let root = callers.next().ok_or_else(missing)?;
    let no_pivot = bundle.is_some_and(|bundle| bundle.no_pivot);
    let Some(stage) = stage else {
        if no_pivot {
            move_root::enter(&root)?;
        } else {
            enter_root(&root)?;
        }
        attach_all(plan, own, &root, callers, names)?;
        return Ok(root);
    };
    let what = || "cannot enter the root file system".to_owned();
    sys::mount::attach(&root, &stage.rootfs, "the bundle's root file system").doing(what)?;
    attach_all(plan, own, &root, callers, names)?;
    rustix::process::fchdir(&stage.bundle).at("fchdir", "the bundle").doing(what)?;
    hooks()?;
    if no_pivot {
        move_root::enter(&root)?;
    } else {
        rustix::process::fchdir(&root).at("fchdir", "the new root").doing(what)?;
        sys::mount::pivot_to_cwd().doing(what)?;
    }
    Ok(root)
}

/// As [`assemble`], in a mount namespace that others are in too: nothing there changes. The root and what is mounted
/// below it stay a tree of their own, attached nowhere, which only this process and its children see and which goes with
/// the last of them.
fn assemble_apart(
    plan: &Plan<'_>,
    own: &mut Own,
    mut callers: std::vec::IntoIter<OwnedFd>,
    names: &[String],
    bundle: Option<&Bundle<'_>>,
    stage: Option<&Stage>,
    hooks: impl FnOnce() -> Result<()>,
) -> Result<OwnedFd> {
    // Whether a control group decides on devices.
    let guarded = bundle.is_none_or(|bundle| !matches!(bundle.groups, Groups::None));
    let root = match plan.mount_space {
        MountSpace::Joined => root_in_joined(plan, bundle, guarded)?,
        MountSpace::New | MountSpace::Callers => callers.next().ok_or_else(missing)?,
    };
    attach_all(plan, own, &root, callers, names)?;
    let what = || "cannot enter the root file system".to_owned();
    if let Some(stage) = stage {
        rustix::process::fchdir(&stage.bundle).at("fchdir", "the bundle").doing(what)?;
        hooks()?;
    }
    rustix::process::fchdir(&root).at("fchdir", "the new root").doing(what)?;
    rustix::process::chroot(".").at("chroot", "the new root").doing(what)?;
    Ok(root)
}

/// The bundle's root file system as the namespace that was joined has it.
fn root_in_joined(plan: &Plan<'_>, bundle: Option<&Bundle<'_>>, guarded: bool) -> Result<OwnedFd> {
    let (Some(bundle), Some(root)) = (bundle, &plan.spec.root) else { return Err(wrong("root", "is missing")) };
    let rootfs = Rootfs::AsIs(bundle.dir.join(&root.path));
    mounts::make_root(plan, &rootfs, guarded, None)
}

fn missing() -> Error {
    Error::new(ErrorKind::System, "a mount is missing from what the caller sent")
}

fn attach_all(
    plan: &Plan<'_>,
    own: &mut Own,
    root: &OwnedFd,
    mut callers: std::vec::IntoIter<OwnedFd>,
    names: &[String],
) -> Result<()> {
    let apart = plan.mount_space != MountSpace::New;
    let mut news = std::mem::take(&mut own.mounts).into_iter();
    for mount in &plan.mounts {
        match &mount.source {
            Source::Dev if !plan.makes_dev() => {
                let made = callers.next().ok_or_else(missing)?;
                attach(root, mount, &made, apart)?;
            }
            Source::New { .. } | Source::Dev => {
                let made = news.next().ok_or_else(missing)?;
                attach(root, mount, &made, apart)?;
            }
            Source::Cgroup => {
                let made = callers.next().ok_or_else(missing)?;
                attach(root, mount, &made, apart)?;
                for name in names {
                    let group = callers.next().ok_or_else(missing)?;
                    attach_at(&made, Path::new(name), &group)
                        .doing(|| format!("cannot show the control group {name}"))?;
                }
            }
            Source::Bind { .. } => {
                let made = callers.next().ok_or_else(missing)?;
                attach(root, mount, &made, apart)?;
            }
            Source::Link { to } => link_like(root, mount, to)?,
        }
    }
    devices::place(plan, root, &mut std::mem::take(&mut own.nodes).into_iter().chain(callers))
}

/// Makes a symbolic link at the mount's place; one that is there already has to be the same.
fn link_like(root: &OwnedFd, mount: &MountPlan, to: &Path) -> Result<()> {
    let path = &mount.target;
    let what = || format!("cannot make the symbolic link {}", path.display());
    let name = path.file_name().ok_or_else(|| wrong("mounts", format_args!("{} is no link", path.display())))?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    let parent = sys::fs::make_dirs_in_root(root, parent, 0o755).doing(what)?;
    match rustix::fs::symlinkat(to, &parent, name) {
        Err(Errno::EXIST) => {
            let there =
                rustix::fs::readlinkat(&parent, name, Vec::new()).at("readlinkat", path.display()).doing(what)?;
            if there.as_bytes() == to.as_os_str().as_encoded_bytes() {
                return Ok(());
            }
            Err(sys::Error::new("symlinkat", path.display(), Errno::EXIST)).doing(what)
        }
        other => other.at("symlinkat", path.display()).doing(what),
    }
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

/// Attaches `made` at the mount's place, which is made when missing; `apart` is whether the root is a tree that is attached
/// nowhere.
pub(crate) fn attach(root: &OwnedFd, mount: &MountPlan, made: &OwnedFd, apart: bool) -> Result<()> {
    let what = || format!("cannot attach the mount at {}", mount.target.display());
    let (target, new) = target(root, mount, made)?;
    if let Source::New { kind, .. } = &mount.source
        && kind == "tmpfs"
    {
        fill(mount, &target, made, new).doing(|| format!("cannot fill {}", mount.target.display()))?;
    }
    sys::mount::attach(made, &target, mount.target.display()).map_err(|cause| {
        if apart && cause.errno() == Errno::INVAL {
            let sentence = format!("{}: without a mount namespace of its own Linux 6.15 is needed for that", what());
            return Error::system(sentence, cause).with_kind(ErrorKind::Unsupported);
        }
        Error::system(what(), cause)
    })
}

/// Gives the tmpfs `made` what it is to begin with: the mode of its mount point, unless a mode was asked for or the mount
/// point was made just now, and with `tmpcopyup` all that is in there. Read-only, if at all, comes last.
fn fill(mount: &MountPlan, target: &OwnedFd, made: &OwnedFd, new: bool) -> sys::Result<()> {
    if mount.copy_up && !new {
        copy_up::copy(target, made, !mount.has_data("mode"))?;
    } else if !new && !mount.has_data("mode") {
        copy_up::copy_mode(target, made)?;
    }
    if mount.set.contains(Attributes::RDONLY) {
        sys::mount::set_attributes(made, &Change { set: Attributes::RDONLY, ..Change::default() })?;
    }
    Ok(())
}

/// The place of a mount inside the root, made when missing: a directory, or an empty file for a mounted file. Also gives
/// whether it was made.
fn target(root: &OwnedFd, mount: &MountPlan, made: &OwnedFd) -> Result<(OwnedFd, bool)> {
    let path = &mount.target;
    let what = || format!("cannot make the mount point {}", path.display());
    // An image that moves /proc, /sys or /dev by a symbolic link would have us write to its choice of files
    // (CVE-2019-16884 and its returns).
    let pinned = match &mount.source {
        Source::New { kind, .. } => kind == "proc" || kind == "sysfs",
        Source::Dev | Source::Cgroup => true,
        Source::Bind { .. } | Source::Link { .. } => false,
    };
    if pinned {
        match sys::fs::open_in_root_no_symlinks(root, path, OFlags::PATH) {
            Err(cause) if cause.errno() == Errno::NOENT => {}
            other => {
                let found = other.doing(|| format!("{} must be a plain directory of the image", path.display()))?;
                return Ok((found, false));
            }
        }
        return Ok((sys::fs::make_dirs_in_root(root, path, 0o755).doing(what)?, true));
    }
    let follow = if mount.target_nofollow { OFlags::NOFOLLOW } else { OFlags::empty() };
    match sys::fs::open_in_root(root, path, OFlags::PATH | follow, Mode::empty()) {
        Err(cause) if cause.errno() == Errno::NOENT => {}
        Err(cause) => return Err(cause).doing(what),
        Ok(target) => {
            // A link of the image must not lay a mount over the kernel's files when nobody asked for that; and nothing
            // may change what the kernel's own links say, /proc/self above all.
            let kind = rustix::fs::fstatfs(&target).at("fstatfs", path.display()).doing(what)?.f_type;
            if kind == PROC || kind == SYSFS {
                let asked = path.starts_with("/proc") || path.starts_with("/sys");
                if !asked || (mount.target_nofollow && is_link(&target).doing(what)?) {
                    return Err(wrong("mounts", format_args!("{} leads into the kernel's files", path.display())));
                }
            }
            return Ok((target, false));
        }
    }
    let stat = rustix::fs::statat(made, "", AtFlags::EMPTY_PATH).at("fstat", path.display()).doing(what)?;
    // Where a dangling link of the image leads is the place, inside the root.
    let path = &sys::fs::follow_in_root(root, path).doing(what)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Ok((sys::fs::make_dirs_in_root(root, path, 0o755).doing(what)?, true));
    }
    let name = path.file_name().ok_or_else(|| wrong("mounts", format_args!("{} is no file", path.display())))?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    let parent = sys::fs::make_dirs_in_root(root, parent, 0o755).doing(what)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644)).at("openat", path.display()).doing(what)?;
    Ok((sys::fs::open_in_root(root, path, OFlags::PATH, Mode::empty()).doing(what)?, true))
}

fn is_link(file: &OwnedFd) -> sys::Result<bool> {
    let stat = rustix::fs::statat(file, "", AtFlags::EMPTY_PATH).at("fstat", "")?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
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
    // Only a file that is made here is opened: an image's own may be a fifo, which would be waited for, or a device.
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
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
                    let made = empty_directory(plan).doing(what)?;
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
        // Related to the host or not, that was settled when it was copied.
        "" | "private" | "rprivate" | "slave" | "rslave" => None,
        "shared" | "rshared" => Some(Propagation::Shared),
        "unbindable" | "runbindable" => Some(Propagation::Unbindable),
        other => return Err(wrong("linux.rootfsPropagation", format_args!("{other:?} is no propagation"))),
    };
    if let Some(propagation) = propagation {
        // Mounts below it have propagation of their own.
        let change = Change { propagation: Some(propagation), ..Change::default() };
        sys::mount::set_attributes(root, &change).doing(|| "cannot set the root's propagation".to_owned())?;
    }
    if plan.mounts.iter().any(|mount| mount.source == Source::Dev && mount.set.contains(Attributes::RDONLY)) {
        let what = || "cannot make /dev read-only".to_owned();
        let dev = sys::fs::open_in_root_no_symlinks(root, "dev", OFlags::PATH).doing(what)?;
        sys::mount::set_attributes(&dev, &Change { set: Attributes::RDONLY, ..Change::default() }).doing(what)?;
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

fn empty_directory(plan: &Plan<'_>) -> sys::Result<OwnedFd> {
    let fs = NewFs::open("tmpfs")?;
    for (key, value) in [("source", "tmpfs"), ("size", "0"), ("nr_inodes", "1"), ("mode", "755")] {
        fs.set(key, value)?;
    }
    mounts::label(&fs, plan, "tmpfs")?;
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
        let what = || format!("cannot set the kernel parameter {key}");
        if key.replace('/', ".") == "kernel.domainname" {
            // The file is the host's root's alone; the call is whoever's the uts namespace is.
            rustix::system::setdomainname(value.as_bytes()).at("setdomainname", value).doing(what)?;
            continue;
        }
        let path = format!("sys/{}", key.replace('.', "/"));
        sys::fs::open_beneath_proc(proc.as_fd(), &path, OFlags::WRONLY)
            .and_then(|file| sys::fs::write_all(file, value.as_bytes(), format_args!("{value} to {key}")))
            .doing(what)?;
    }
    Ok(())
}
