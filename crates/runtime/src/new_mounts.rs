//! New file systems of the container's own, and what takes their place where the kernel refuses one.
//!
//! In a user namespace the kernel gives out procfs, sysfs and mqueue only with privilege over the pid, network or ipc
//! namespace they show, and the first two only if they show no more than what is there already, where a file may be
//! hidden under another mount (mount_namespaces(7)). The caller's own takes their place where it shows the very same:
//! when the container shares that namespace with the caller. Everything else is an error, for the caller's would show
//! the container what it is to be kept from.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use sys::mount::{Attributes, Change, NewFs};
use sys::process::Namespaces;
use sys::{Context as _, Errno};

use crate::error::{Doing, Error, ErrorKind, Result};
use crate::mount_plan::MountPlan;
use crate::mounts::{label, set_data};
use crate::plan::Plan;

/// A file system that shows a namespace: its type, the namespace, where the caller has its own, and its magic number
/// (statfs(2)).
struct Shown {
    kind: &'static str,
    namespace: Namespaces,
    what: &'static str,
    place: &'static str,
    magic: i64,
}

const SHOWN: [Shown; 3] = [
    Shown { kind: "proc", namespace: Namespaces::PID, what: "pid", place: "/proc", magic: 0x9fa0 },
    Shown { kind: "sysfs", namespace: Namespaces::NETWORK, what: "network", place: "/sys", magic: 0x6265_6572 },
    Shown { kind: "mqueue", namespace: Namespaces::IPC, what: "ipc", place: "/dev/mqueue", magic: 0x1980_0202 },
];

/// Makes the file system `kind` of `mount`, detached, by the process whose namespaces it is to show.
///
/// # Errors
/// The kernel's; [`ErrorKind::Unsupported`] where it refuses one that nothing can take the place of.
pub(crate) fn make(plan: &Plan<'_>, mount: &MountPlan, kind: &str, source: Option<&str>) -> Result<OwnedFd> {
    let what = || format!("cannot mount {kind} at {}", mount.target.display());
    match new(plan, mount, kind, source) {
        Err(cause) if cause.errno() == Errno::PERM => match SHOWN.iter().find(|shown| shown.kind == kind) {
            Some(shown) => callers(plan, mount, shown, cause),
            None => Err(cause).doing(what),
        },
        other => other.doing(what),
    }
}

fn new(plan: &Plan<'_>, mount: &MountPlan, kind: &str, source: Option<&str>) -> sys::Result<OwnedFd> {
    let fs = NewFs::open(kind)?;
    if let Some(source) = source {
        fs.set("source", source)?;
    }
    if kind == "devpts" && plan.has_user_namespace() {
        // A group that is not mapped cannot own a terminal; its owner can use it all the same.
        let mapped = |value: &str| value.parse().is_ok_and(|gid| plan.maps_gid(gid));
        let known = |(key, value): &&(String, Option<String>)| key != "gid" || value.as_deref().is_some_and(mapped);
        set_data(&fs, &mount.data.iter().filter(known).cloned().collect::<Vec<_>>())?;
    } else {
        set_data(&fs, &mount.data)?;
    }
    label(&fs, plan, kind)?;
    // What is filled first becomes read-only when it is attached.
    let late = if kind == "tmpfs" { Attributes::RDONLY } else { Attributes::empty() };
    let made = fs.mount(mount.set.without(late))?;
    if let Some((propagation, recursive)) = mount.propagation {
        let change = Change { propagation: Some(propagation), recursive, ..Change::default() };
        sys::mount::set_attributes(&made, &change)?;
    }
    Ok(made)
}

/// The caller's own file system in place of a new one, where it shows the same. With all that is mounted below it, which
/// may be there to hide something.
fn callers(plan: &Plan<'_>, mount: &MountPlan, shown: &Shown, refused: sys::Error) -> Result<OwnedFd> {
    let Shown { kind, namespace, what, place, magic } = *shown;
    let at = mount.target.display();
    let joins = plan.joins.iter().chain(plan.door.joins());
    let shared = !plan.namespaces.contains(namespace) && !joins.into_iter().any(|(flag, _)| *flag == namespace);
    if !shared {
        let sentence = format!(
            "cannot mount {kind} at {at}: the kernel gives the container's own {what} namespace none, for one that is \
             here has files hidden (an outer container's, perhaps), or the namespace is not the container's to show; \
             {place} in its place would show the host's"
        );
        return Err(Error::system(sentence, refused).with_kind(ErrorKind::Unsupported));
    }
    let doing = || format!("cannot mount {place} in place of a new {kind} at {at}");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let there = rustix::fs::open(place, flags, Mode::empty()).at("open", place).doing(doing)?;
    let is_that = rustix::fs::fstatfs(&there).at("fstatfs", place).doing(doing)?.f_type == magic;
    if !is_that || (kind == "proc" && !shows_us(&there)) {
        let sentence = format!("{}: what is there is another one", doing());
        return Err(Error::system(sentence, refused).with_kind(ErrorKind::Unsupported));
    }
    let tree = sys::mount::clone_path(Path::new(place), true).doing(doing)?;
    mount.dress(tree.as_fd()).doing(doing)?;
    // Not the container's own, so it is not the container's to write either; and with all that is mounted below.
    let read_only = if kind == "sysfs" { Attributes::RDONLY } else { Attributes::empty() };
    let set = mount.set.without(Attributes::NOATIME).without(Attributes::STRICTATIME) | read_only;
    sys::mount::set_attributes(&tree, &Change { set, recursive: true, ..Change::default() }).doing(doing)?;
    Ok(tree)
}

/// Whether the procfs `proc` is of this process's pid namespace.
fn shows_us(proc: &OwnedFd) -> bool {
    let own = rustix::process::getpid().as_raw_nonzero().to_string();
    rustix::fs::readlinkat(proc, "self", Vec::new()).is_ok_and(|name| name.as_bytes() == own.as_bytes())
}
