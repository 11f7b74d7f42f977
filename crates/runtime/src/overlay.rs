//! The overlay mount: layers below one directory, a writable layer above them, told to the kernel by descriptor.
//!
//! Before 6.15 the layers must lie on mounts that are attached in the namespace of whoever mounts: a child with a
//! namespace of its own does it there, and the host never sees the id-mapped views.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use sys::mount::{Attributes, Change, Propagation};
use sys::overlay::{Overlay, Writable};
use sys::process::{CloneArgs, Namespaces};
use sys::{Context as _, Errno};

use crate::error::{Doing as _, Result};

/// What an overlay is made of.
#[derive(Clone, Copy)]
pub(crate) struct Layers<'a> {
    /// Directory that holds every layer.
    pub(crate) dir: &'a Path,
    /// Names below it, the topmost first.
    pub(crate) lowers: &'a [String],
    /// Directory that holds `upper` and `work`.
    pub(crate) writable: &'a Path,
    /// Whether syncing of the upper layer is skipped.
    pub(crate) volatile: bool,
}

const DOING: &str = "cannot mount the image's layers";

/// How long the helper of [`elsewhere`] may take: it does a handful of system calls.
const PATIENCE: Duration = Duration::from_secs(10);

/// Mounts `layers`, detached; seen through the ids of `userns` if there is one, whose root is `root_ids` here.
///
/// # Errors
/// System call errors; `EINVAL` for more layers than kernels before 6.5 can be told of, some seventy.
pub(crate) fn mount(layers: Layers<'_>, root_ids: (u32, u32), userns: Option<BorrowedFd<'_>>) -> Result<OwnedFd> {
    let view = |path: &Path| -> sys::Result<OwnedFd> {
        let tree = sys::mount::clone_path(path, false)?;
        if let Some(userns) = userns {
            sys::mount::set_attributes(&tree, &Change { idmap: Some(userns), ..Change::default() })?;
        }
        Ok(tree)
    };
    let mounted = || -> sys::Result<OwnedFd> {
        // One id-mapped view of the directory that holds all layers, however many there are.
        let (lower, upper) = (view(layers.dir)?, view(layers.writable)?);
        let ids = userns.map(|_| root_ids);
        match assemble(layers, &lower, &upper, ids) {
            // Layers on mounts that are attached nowhere: refused before 6.15. What is refused there as well has another
            // reason, of which the kernel has told us the first time.
            Err(error) if error.errno() == Errno::INVAL => {
                elsewhere(layers, &lower, &upper, ids).map_err(|again| match again.errno() {
                    Errno::INVAL => error,
                    _ => again,
                })
            }
            other => other,
        }
    };
    mounted().doing(|| DOING.to_owned())
}

/// Makes the overlay from views of the two directories. `ids` are those it is mounted with, if not ours.
fn assemble(layers: Layers<'_>, lower: &OwnedFd, upper: &OwnedFd, ids: Option<(u32, u32)>) -> sys::Result<OwnedFd> {
    let open =
        |dir: &OwnedFd, name: &str| sys::fs::open_in_root(dir, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
    let lowers = layers.lowers.iter().map(|name| open(lower, name)).collect::<sys::Result<Vec<_>>>()?;
    let (upper, work) = (open(upper, "upper")?, open(upper, "work")?);
    let overlay = Overlay::new(&lowers, Some(Writable { upper: &upper, work: &work }), |fs| {
        fs.set("source", "lighter")?;
        // With an index a reused upper directory fails (ESTALE); the other two make the upper directory no plain diff.
        for key in ["index", "metacopy", "redirect_dir"] {
            fs.set(key, "off")?;
        }
        if layers.volatile {
            fs.set_flag("volatile")?;
        }
        Ok(())
    })?;
    let make = || overlay.mount(Attributes::empty());
    match ids {
        None => make(),
        // Overlayfs works in the upper layer with the ids of whoever mounts it, and through the id map the host's root
        // is nobody (EOVERFLOW, and the mount turns read-only): it is mounted with the ids of the container's root.
        Some((uid, gid)) => sys::process::with_fs_ids(uid, gid, make),
    }
}

/// As [`assemble`], in a mount namespace where the two views are attached, by a child that sends the overlay back.
fn elsewhere(layers: Layers<'_>, lower: &OwnedFd, upper: &OwnedFd, ids: Option<(u32, u32)>) -> sys::Result<OwnedFd> {
    let (ours, theirs) = sys::socket::pair()?;
    let args = CloneArgs { namespaces: Namespaces::MOUNT, cgroup: None, sibling: false };
    let child = sys::process::clone_process(&args, || {
        let attach = |view: &OwnedFd, path: &Path| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let target = rustix::fs::open(path, flags, Mode::empty()).at("open", path.display())?;
            sys::mount::attach(view, target, path.display())
        };
        let made = sys::mount::propagate_all("/", Propagation::Private)
            .and_then(|()| attach(lower, layers.dir))
            .and_then(|()| attach(upper, layers.writable))
            .and_then(|()| assemble(layers, lower, upper, ids));
        let sent = match made {
            Ok(overlay) => sys::socket::send(&theirs, &[0; 4], &[overlay.as_fd()]),
            Err(error) => sys::socket::send(&theirs, &error.errno().raw_os_error().to_ne_bytes(), &[]),
        };
        i32::from(sent.is_err())
    })?;
    drop(theirs);
    let mut answer = [0; 4];
    let mut entries = [PollFd::new(&ours, PollFlags::IN)];
    let received = match sys::process::poll_until(&mut entries, Some(PATIENCE)) {
        Ok(0) => Err(sys::Error::new("poll", "the overlay's maker", Errno::TIMEDOUT)),
        Ok(_) => sys::socket::receive(&ours, &mut answer),
        Err(error) => Err(error),
    };
    if received.is_ok() {
        crate::parent::put_down_gently(&child.pidfd, PATIENCE);
    } else {
        crate::parent::put_down(&child.pidfd, PATIENCE);
    }
    let (length, mut files) = received?;
    match (length, files.pop()) {
        (4, Some(overlay)) => Ok(overlay),
        (4, None) => {
            let errno = Errno::from_raw_os_error(i32::from_ne_bytes(answer));
            Err(sys::Error::new("mount", "overlay, in a namespace of its own", errno))
        }
        _ => Err(sys::Error::new("recvmsg", "the overlay's maker", Errno::PIPE)),
    }
}
