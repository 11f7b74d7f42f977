//! The mounts of a container that need the host's privilege, made detached by the caller, who then sends them to the
//! container's first process.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use oci::runtime::IdMapping;
use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid};
use sys::mount::{Attributes, Change, NewFs, Propagation};
use sys::{Context as _, Errno};

use crate::cgroup::{Cgroup, Layout, Version};
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::launch::Rootfs;
use crate::mount_plan::{Ids, MountPlan, Source};
use crate::namespaces::MountSpace;
use crate::overlay;
use crate::plan::{Plan, wrong};
use crate::{devices, idmap};

/// The root file system, then what [`make_callers`] makes. Made by the caller; by the process itself, in namespaces of its
/// own by then, where the caller is an ordinary user.
pub(crate) fn make(
    plan: &Plan<'_>,
    rootfs: &Rootfs,
    cgroup: Option<&Cgroup>,
    userns: Option<BorrowedFd<'_>>,
) -> Result<Vec<OwnedFd>> {
    let mut mounts = Vec::new();
    // What is in a mount namespace that is joined only the process finds.
    if plan.mount_space != MountSpace::Joined {
        mounts.push(make_root(plan, rootfs, cgroup.is_some(), userns)?);
    }
    // A bundle's ids are its maker's affair; elsewhere files keep their owners on both sides.
    let map_binds = !matches!(rootfs, Rootfs::AsIs(_));
    mounts.extend(make_callers(plan, cgroup, userns, map_binds)?);
    Ok(mounts)
}

/// The mounts that the caller makes for the process, in the order the process attaches them: for each plan of its
/// own one, for the control groups of a v1 host a tmpfs and one each; then the device nodes that have to be mounted.
/// `map_binds` is whether bind mounts are seen through the container's id map when they do not say anything else.
fn make_callers(
    plan: &Plan<'_>,
    cgroup: Option<&Cgroup>,
    userns: Option<BorrowedFd<'_>>,
    map_binds: bool,
) -> Result<Vec<OwnedFd>> {
    let mut made = Vec::new();
    let mut nodes = Vec::new();
    for mount in &plan.mounts {
        match &mount.source {
            Source::Bind { path, recursive } => {
                made.push(bind(plan, mount, path, *recursive, if map_binds { userns } else { None }, userns)?);
            }
            Source::Dev if plan.makes_dev() => {}
            Source::Dev => made.push(devices::dev(plan, mount, &mut nodes)?),
            Source::Cgroup => match cgroup {
                Some(cgroup) => {
                    hand_over(plan, mount, cgroup)?;
                    cgroups(plan, mount, cgroup, &mut made)?;
                }
                None => made.push(no_groups(mount)?),
            },
            Source::New { .. } | Source::Link { .. } => {}
        }
    }
    devices::callers(plan, &mut nodes)?;
    made.append(&mut nodes);
    Ok(made)
}

fn bind(
    plan: &Plan<'_>,
    mount: &MountPlan,
    path: &Path,
    recursive: bool,
    default: Option<BorrowedFd<'_>>,
    userns: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd> {
    let what = || format!("cannot mount {} at {}", path.display(), mount.target.display());
    let tree = if mount.source_nofollow {
        sys::mount::clone_path_nofollow(path, recursive).doing(what)?
    } else {
        sys::mount::clone_path(path, recursive).doing(what)?
    };
    let refused = |cause: sys::Error| {
        let sentence = format!("{}: its file system cannot map ids into the container's user namespace", what());
        Error::system(sentence, cause).with_kind(ErrorKind::Unsupported)
    };
    if plan.ordinary && mount.ids != Ids::Default {
        let sentence = format!("{}: an ordinary user cannot map the ids of a file system", what());
        return Err(Error::new(ErrorKind::Unsupported, sentence));
    }
    let map = |userns: BorrowedFd<'_>, recursive: bool| {
        let change = Change { idmap: Some(userns), recursive, ..Change::default() };
        sys::mount::set_attributes(&tree, &change).map_err(refused)
    };
    match &mount.ids {
        Ids::Default => {
            if let Some(userns) = default {
                map_ids(&tree, userns, recursive).map_err(refused)?;
            }
        }
        Ids::Container { recursive } => {
            let userns = userns.ok_or_else(|| {
                let target = mount.target.display();
                wrong("mounts", format_args!("{target} has idmap without mappings, and there is no user namespace"))
            })?;
            map(userns, *recursive)?;
        }
        Ids::Own { uids, gids, recursive } => {
            let userns = idmap::for_mounts(uids, gids)?;
            map(userns.as_fd(), *recursive)?;
        }
    }
    mount.dress(tree.as_fd()).doing(what)?;
    Ok(tree)
}

/// Shows a detached tree through the container's id maps. Mounts below its top that refuse keep their own ids; a device
/// node, socket or fifo on a file system that refuses has no ids worth mapping.
pub(crate) fn map_ids(tree: &OwnedFd, userns: BorrowedFd<'_>, recursive: bool) -> sys::Result<()> {
    let change = Change { idmap: Some(userns), recursive, ..Change::default() };
    match sys::mount::set_attributes(tree, &change) {
        Err(cause) if recursive && cause.errno() == Errno::INVAL => map_ids(tree, userns, false),
        Err(cause) if cause.errno() == Errno::INVAL => {
            let stat = rustix::fs::statat(tree, "", AtFlags::EMPTY_PATH).at("fstat", "")?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile | FileType::Directory => Err(cause),
                _ => Ok(()),
            }
        }
        other => other,
    }
}

/// Names below `/sys/fs/cgroup` of a v1 or hybrid host: what the process attaches after the tmpfs.
pub(crate) fn cgroup_names(cgroup: &Cgroup) -> Result<Vec<String>> {
    let hierarchies = cgroup.hierarchies().map_err(|error| cgroup_error("cannot open the control group", error))?;
    if let [only] = &hierarchies[..]
        && only.version == Version::V2
    {
        return Ok(Vec::new());
    }
    let name = |mount: &Path| mount.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(hierarchies.iter().map(|hierarchy| name(hierarchy.mount)).collect())
}

fn cgroups(plan: &Plan<'_>, mount: &MountPlan, cgroup: &Cgroup, made: &mut Vec<OwnedFd>) -> Result<()> {
    let what = || format!("cannot show the control group at {}", mount.target.display());
    let names = cgroup_names(cgroup)?;
    if !names.is_empty() {
        let (uid, gid) = plan.root_ids();
        let fs = NewFs::open("tmpfs").doing(what)?;
        for (key, value) in [("source", "tmpfs"), ("mode", "755"), ("uid", &uid.to_string()), ("gid", &gid.to_string())]
        {
            fs.set(key, value).doing(what)?;
        }
        label(&fs, plan, "tmpfs").doing(what)?;
        let dir = fs.mount(mount.set.without(Attributes::RDONLY)).doing(what)?;
        for name in &names {
            rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755)).at("mkdirat", name).doing(what)?;
        }
        // A controller that shares its hierarchy is found under its own name as well.
        for name in names.iter().filter(|name| name.contains(',')) {
            for controller in name.split(',') {
                rustix::fs::symlinkat(name, &dir, controller).at("symlinkat", controller).doing(what)?;
            }
        }
        if mount.set.contains(Attributes::RDONLY) {
            sys::mount::set_attributes(&dir, &Change { set: Attributes::RDONLY, ..Change::default() }).doing(what)?;
        }
        made.push(dir);
    }
    let hierarchies = cgroup.hierarchies().map_err(|error| cgroup_error("cannot open the control group", error))?;
    for hierarchy in hierarchies {
        // Without a namespace of its own the container sees all of the one hierarchy of v2, and of several just its own
        // group in each: so do runc and crun, and programs that read their limits rely on it.
        let tree = if plan.new_cgroup_namespace || !names.is_empty() {
            if plan.ordinary {
                // The descriptor is of the caller's mount namespace, which no longer is this one.
                sys::mount::clone_path(&hierarchy.path, false).doing(what)?
            } else {
                sys::mount::clone_tree(hierarchy.fd, "", false).doing(what)?
            }
        } else {
            sys::mount::clone_path(hierarchy.mount, false).doing(what)?
        };
        sys::mount::set_attributes(&tree, &Change { set: mount.set, ..Change::default() }).doing(what)?;
        made.push(tree);
    }
    Ok(())
}

/// An empty directory: a container without a control group of its own has none to see, and those of the host are none of
/// its business.
fn no_groups(mount: &MountPlan) -> Result<OwnedFd> {
    let what = || format!("cannot mount at {}", mount.target.display());
    let fs = NewFs::open("tmpfs").doing(what)?;
    for (key, value) in [("source", "tmpfs"), ("mode", "755"), ("size", "0"), ("nr_inodes", "1")] {
        fs.set(key, value).doing(what)?;
    }
    fs.mount(mount.set | Attributes::RDONLY | Attributes::NOSUID | Attributes::NODEV | Attributes::NOEXEC).doing(what)
}

/// Gives a container that sees its own group of control groups v2, and may write there, that group: it can then make
/// groups inside. The owner is whoever its process is (config-linux.md, "Cgroup ownership"). Limits stay the host's.
fn hand_over(plan: &Plan<'_>, mount: &MountPlan, cgroup: &Cgroup) -> Result<()> {
    if mount.set.contains(Attributes::RDONLY)
        || !plan.new_cgroup_namespace
        || !plan.has_user_namespace()
        || plan.ordinary
        || cgroup.host().layout() != Layout::V2
    {
        return Ok(());
    }
    let on_host = |map: &[IdMapping], id: u32| {
        let range = map.iter().find(|m| id.checked_sub(m.container_id).is_some_and(|offset| offset < m.size))?;
        range.host_id.checked_add(id - range.container_id)
    };
    let user = &plan.process.user;
    let owner = on_host(&plan.ids.uids, user.uid).zip(on_host(&plan.ids.gids, user.gid));
    let Some((uid, gid)) = owner else { return Ok(()) };
    cgroup
        .delegate(Uid::from_raw(uid), Gid::from_raw(gid))
        .map_err(|error| cgroup_error("cannot hand the control group over", error))
}

/// A control group's refusal in the runtime's terms.
pub(crate) fn cgroup_error(doing: &str, error: crate::cgroup::Error) -> Error {
    use crate::cgroup::Error as Cause;
    match error {
        Cause::Sys(cause) => Error::system(doing, cause),
        Cause::NoController { .. } | Cause::NotMounted | Cause::Unsupported { .. } => {
            Error::new(ErrorKind::Unsupported, error.to_string())
        }
        Cause::Invalid { .. } | Cause::InvalidPath { .. } => Error::new(ErrorKind::Config, error.to_string()),
        other => Error::new(ErrorKind::System, other.to_string()),
    }
}

/// Gives a file system its own options.
pub(crate) fn set_data(fs: &NewFs, data: &[(String, Option<String>)]) -> sys::Result<()> {
    for (key, value) in data {
        match value {
            Some(value) => fs.set(key, value)?,
            None => fs.set_flag(key)?,
        }
    }
    Ok(())
}

/// Has SELinux call all files of a new file system by `linux.mountLabel`. What the kernel makes up, and what takes no such
/// option, has labels by the host's policy.
pub(crate) fn label(fs: &NewFs, plan: &Plan<'_>, kind: &str) -> sys::Result<()> {
    match plan.mount_label {
        Some(label) if !matches!(kind, "proc" | "sysfs" | "mqueue" | "cgroup" | "cgroup2") => fs.set("context", label),
        _ => Ok(()),
    }
}

/// The root file system, detached. `guarded` is whether a control group decides on devices.
pub(crate) fn make_root(
    plan: &Plan<'_>,
    rootfs: &Rootfs,
    guarded: bool,
    userns: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd> {
    let tree = match rootfs {
        Rootfs::Directory(path) => {
            let what = || format!("cannot use {} as the root file system", path.display());
            let tree = sys::mount::clone_path(path, true).doing(what)?;
            if let Some(userns) = userns {
                map_ids(&tree, userns, true).map_err(|cause| {
                    let sentence = format!("{}: its file system cannot map ids", what());
                    Error::system(sentence, cause).with_kind(ErrorKind::Unsupported)
                })?;
            }
            tree
        }
        Rootfs::AsIs(path) => sys::mount::clone_path(path, true)
            .doing(|| format!("cannot use {} as the root file system", path.display()))?,
        Rootfs::Overlay { layers_dir, lowers, writable_dir, volatile } => {
            let layers = overlay::Layers { dir: layers_dir, lowers, writable: writable_dir, volatile: *volatile };
            overlay::mount(layers, plan.root_ids(), userns)?
        }
    };
    // Device nodes of an image are dead; the ones of /dev sit on their own mount. Without a user namespace MKNOD may
    // have been granted, whose nodes must then work: the control group decides. Without one nobody would.
    let set = if plan.has_user_namespace() || !guarded { Attributes::NODEV } else { Attributes::empty() };
    // The one that hears of the host's later mounts has to stay related to where it was copied from.
    let propagation = if matches!(plan.linux.rootfs_propagation.as_str(), "slave" | "rslave") {
        Propagation::Slave
    } else {
        Propagation::Private
    };
    let change = Change { set, propagation: Some(propagation), recursive: true, ..Change::default() };
    sys::mount::set_attributes(&tree, &change).doing(|| "cannot set up the root file system".to_owned())?;
    Ok(tree)
}
