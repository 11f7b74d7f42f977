//! Mounts added to a running container, and taken away again.
//!
//! The caller makes what comes from the host, detached. A process that joins the container's namespaces makes what
//! belongs to them, attaches everything by descriptor and ends. By now the paths in there are the container's to arrange:
//! no symbolic link is followed, and what is unmounted is the mount that a descriptor stands for.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use oci::runtime::{IdMapping, Mount, NamespaceKind, Spec};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::mount::UnmountFlags;
use sys::mount::{Attributes, Change, NewFs};
use sys::process::{CloneArgs, Namespaces};
use sys::{Context as _, Errno};

use crate::error::{Doing, Error, ErrorKind, Result};
use crate::link::{self, Answer, Link};
use crate::mount_plan::{Ids, MountPlan, Source};
use crate::plan::{namespace_flag, wrong};
use crate::{idmap, mounts, parent, rootfs};

/// A running container.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Its first process.
    pub init: &'a OwnedFd,
    /// The same, as the caller sees its number.
    pub pid: u32,
    /// Its configuration.
    pub spec: &'a Spec,
}

/// Adds those of `list` in their order; when one fails, those before it are taken away again. The caller must be
/// single-threaded.
///
/// # Errors
/// [`ErrorKind::Config`] for a mistake in one of them, [`ErrorKind::Unsupported`] for control groups and symbolic links,
/// otherwise the kernel's refusal: `ELOOP` when a symbolic link is on the way.
pub fn add_mounts(target: &Target<'_>, list: &[Mount]) -> Result<()> {
    let plans = plans(target, list)?;
    let mut binds = Vec::new();
    for plan in &plans {
        binds.push(match &plan.source {
            Source::Bind { .. } => Some(bind(target, plan)?),
            Source::New { .. } => None,
            Source::Dev | Source::Cgroup | Source::Link { .. } => {
                let sentence = format!("{}: only bind mounts and new file systems can be added", plan.target.display());
                return Err(Error::new(ErrorKind::Unsupported, sentence));
            }
        });
    }
    inside(target, |root, descriptors| {
        let mut attached: Vec<OwnedFd> = Vec::new();
        for (plan, bind) in plans.iter().zip(binds) {
            match attach(root, plan, bind) {
                Ok(made) => attached.push(made),
                Err(error) => {
                    for made in attached.iter().rev() {
                        // The first error is the one to report.
                        let _ = unmount(descriptors, made, "");
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    })
}

/// Takes away what is mounted at the destinations of `list`, the last first; their other fields are not looked at.
///
/// # Errors
/// `EINVAL` when nothing is mounted there, `ELOOP` when a symbolic link is on the way. Those after it stay mounted.
pub fn remove_mounts(target: &Target<'_>, list: &[Mount]) -> Result<()> {
    let bare =
        |mount: &Mount| Mount { destination: mount.destination.clone(), kind: "tmpfs".to_owned(), ..Mount::default() };
    let plans = plans(target, &list.iter().map(bare).collect::<Vec<_>>())?;
    inside(target, |root, descriptors| {
        for plan in plans.iter().rev() {
            let what = || format!("cannot unmount {}", plan.target.display());
            let place = sys::fs::open_in_root_no_symlinks(root, &plan.target, OFlags::PATH).doing(what)?;
            unmount(descriptors, &place, plan.target.display()).doing(what)?;
        }
        Ok(())
    })
}

fn plans(target: &Target<'_>, list: &[Mount]) -> Result<Vec<MountPlan>> {
    let plans: Vec<MountPlan> = list
        .iter()
        .enumerate()
        .map(|(at, mount)| MountPlan::new(at, mount, maps(target.spec)))
        .collect::<Result<_>>()?;
    match plans.iter().position(|plan| plan.target.parent().is_none()) {
        Some(at) => Err(wrong(&format!("mounts[{at}]"), "the root of a running container cannot be changed")),
        None => Ok(plans),
    }
}

fn maps(spec: &Spec) -> (&[IdMapping], &[IdMapping]) {
    spec.linux.as_ref().map_or((&[], &[]), |linux| (&linux.uid_mappings[..], &linux.gid_mappings[..]))
}

/// A bind mount of the host's, detached.
fn bind(target: &Target<'_>, plan: &MountPlan) -> Result<OwnedFd> {
    let Source::Bind { path, recursive } = &plan.source else { return Err(wrong("mounts", "is no bind mount")) };
    let what = || format!("cannot mount {} at {}", path.display(), plan.target.display());
    let tree = if plan.source_nofollow {
        sys::mount::clone_path_nofollow(path, *recursive).doing(what)?
    } else {
        sys::mount::clone_path(path, *recursive).doing(what)?
    };
    let userns = match &plan.ids {
        Ids::Default => None,
        Ids::Container { recursive } => Some((idmap::open_namespace(target.pid)?, *recursive)),
        Ids::Own { uids, gids, recursive } => Some((idmap::for_mounts(uids, gids)?, *recursive)),
    };
    if let Some((userns, recursive)) = userns {
        let change = Change { idmap: Some(userns.as_fd()), recursive, ..Change::default() };
        sys::mount::set_attributes(&tree, &change).doing(what)?;
    }
    plan.dress(tree.as_fd()).doing(what)?;
    Ok(tree)
}

fn attach(root: &OwnedFd, plan: &MountPlan, bind: Option<OwnedFd>) -> Result<OwnedFd> {
    let what = || format!("cannot mount at {}", plan.target.display());
    match sys::fs::open_in_root_no_symlinks(root, &plan.target, OFlags::PATH) {
        Err(cause) if cause.errno() != Errno::NOENT => return Err(cause).doing(what),
        _ => {}
    }
    let made = match (&plan.source, bind) {
        (Source::New { kind, source }, None) => new(plan, kind, source.as_deref()).doing(what)?,
        (_, Some(bind)) => bind,
        (_, None) => return Err(wrong("mounts", "is no bind mount")),
    };
    rootfs::attach(root, plan, &made, false)?;
    Ok(made)
}

/// A new file system of the container's namespaces, which the process has joined by now.
fn new(plan: &MountPlan, kind: &str, source: Option<&str>) -> sys::Result<OwnedFd> {
    let fs = NewFs::open(kind)?;
    if let Some(source) = source {
        fs.set("source", source)?;
    }
    mounts::set_data(&fs, &plan.data)?;
    // What is filled first becomes read-only when it is attached.
    let late = if kind == "tmpfs" { Attributes::RDONLY } else { Attributes::empty() };
    fs.mount(plan.set.without(late))
}

/// Unmounts what `file` stands for. umount2(2) takes a path alone: it is the descriptor's name in our own table, read from
/// the host's `/proc`, which the container cannot have changed.
fn unmount(descriptors: &OwnedFd, file: &OwnedFd, name: impl std::fmt::Display) -> sys::Result<()> {
    let number = std::os::fd::AsRawFd::as_raw_fd(file).to_string();
    rustix::process::fchdir(descriptors).at("fchdir", "/proc/self/fd")?;
    rustix::mount::unmount(&*number, UnmountFlags::DETACH).at("umount2", name)
}

/// Does `act` in a process inside the container's namespaces, with its root and our own table of descriptors.
fn inside(target: &Target<'_>, act: impl FnOnce(&OwnedFd, &OwnedFd) -> Result<()>) -> Result<()> {
    let (ours, theirs) = Link::pair()?;
    let child = sys::process::clone_process(&CloneArgs::default(), || {
        sys::process::close_borrowed(&ours);
        match enter(target)
            .and_then(|(root, descriptors)| act(&root, &descriptors))
            .and_then(|()| theirs.send_ready(None))
        {
            Ok(()) => 0,
            Err(error) => {
                theirs.send_failure(&error);
                1
            }
        }
    })
    .map_err(parent::clone_error)?;
    drop(theirs);
    let answer = ours.answer(link::PATIENCE);
    parent::put_down_gently(&child.pidfd, Duration::from_secs(10));
    match answer? {
        Answer::Ready(_) => Ok(()),
        _ => Err(link::ended()),
    }
}

fn enter(target: &Target<'_>) -> Result<(OwnedFd, OwnedFd)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // Before the container can see this process.
    sys::process::set_undumpable().doing(|| "cannot hide the set-up from the container".to_owned())?;
    let descriptors = rustix::fs::open("/proc/self/fd", flags, Mode::empty())
        .at("open", "/proc/self/fd")
        .doing(|| "cannot open the host's /proc".to_owned())?;
    let kinds = target.spec.linux.iter().flat_map(|linux| linux.namespaces.iter().map(|one| namespace_flag(one.kind)));
    let namespaces = kinds.fold(Namespaces::empty(), Namespaces::union);
    sys::process::join(target.init, namespaces).doing(|| "cannot join the container's namespaces".to_owned())?;
    if target.spec.namespace(NamespaceKind::User).is_some() {
        let what = || "cannot become root of the container's user namespace".to_owned();
        let id = |map: &[IdMapping]| if map.is_empty() { 0 } else { idmap::set_up_id(map) };
        let (uids, gids) = maps(target.spec);
        let (uid, gid) = (Uid::from_raw(id(uids)), Gid::from_raw(id(gids)));
        rustix::thread::set_thread_res_gid(gid, gid, gid).at("setresgid", gid.as_raw()).doing(what)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid).at("setresuid", uid.as_raw()).doing(what)?;
    }
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let root =
        rustix::fs::open("/", flags, Mode::empty()).at("open", "/").doing(|| "cannot open the root".to_owned())?;
    Ok((root, descriptors))
}
