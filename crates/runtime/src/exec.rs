//! A further process in a running container.
//!
//! ```text
//! caller ──clone──▶ door: setns(pidfd, everything) ──clone(CLONE_PARENT)──▶ process, the caller's child
//! ```
//!
//! The door exists because joining a pid namespace takes effect for children only, and because the caller stays
//! outside, where it relays the streams. It ends at once.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use oci::runtime::{IdMapping, LinuxNamespace, NamespaceKind};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, setsid};
use sys::process::{CloneArgs, Namespaces};
use sys::{Context as _, Errno};

use crate::cgroup::{Cgroup, EntryFds, Host};
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::init::exit_code;
use crate::launch::{Exec, Stdio};
use crate::link::{self, Answer, Link};
use crate::plan::{Confinement, namespace_flag, wrong};
use crate::tuning::{Affinity, Tuning};
use crate::{idmap, lsm, mounts, namespaces, notify, parent, process, resctrl};

/// Magic number of devpts (statfs(2)).
const DEVPTS: i64 = 0x1cd1;

/// A process that was executed in the container; a child of the caller.
#[derive(Debug)]
pub struct Joined {
    /// Process id as the caller sees it.
    pub pid: u32,
    /// The process's descriptor: readable when it ended.
    pub pidfd: OwnedFd,
    /// Master of the terminal, when one was asked for.
    pub terminal: Option<OwnedFd>,
}

/// Runs a process in the container of `exec.init`; returns when its command was executed.
///
/// The caller must be single-threaded.
///
/// # Errors
/// [`ErrorKind::CommandNotFound`] and the other kinds as they say; the process is gone then.
pub fn exec(exec: &Exec<'_>) -> Result<Joined> {
    check(exec)?;
    let linux = exec.spec.linux.as_ref().ok_or_else(|| wrong("linux", "is missing"))?;
    let confinement = Confinement::new(exec.spec, exec.process, exec.seccomp_cache.as_deref())?;
    let tuning = Tuning::new(exec.process, linux)?;
    let affinity = Affinity::new(exec.process.exec_cpu_affinity.as_ref())?;
    let rdt = resctrl::existing(exec.spec, exec.id)?;
    let namespaces = linux.namespaces.iter().map(|n: &LinuxNamespace| namespace_flag(n.kind));
    let mut namespaces = namespaces.fold(Namespaces::empty(), Namespaces::union);
    let joined = |kind| exec.spec.namespace(kind).is_some_and(|namespace| namespace.path.is_some());
    // Nobody can join the user namespace he is in.
    if joined(NamespaceKind::User) && is_callers(exec)? {
        namespaces = namespaces.without(Namespaces::USER);
    }
    if exec.cgroup.is_none() {
        parent::refuse_unguarded(&confinement, linux, exec.ordinary || namespaces.contains(Namespaces::USER))?;
    }
    // A container in a mount namespace of others has a root of its own there.
    let shared = exec.spec.namespace(NamespaceKind::Mount).is_none() || joined(NamespaceKind::Mount);
    let root = if shared { Some(open_first(exec, "root", OFlags::PATH | OFlags::DIRECTORY)?) } else { None };
    let group_error = |error| mounts::cgroup_error("cannot open the container's control group", error);
    let cgroup = match exec.cgroup {
        Some(path) => Some(Host::detect().and_then(|host| Cgroup::open(&host, path)).map_err(group_error)?),
        None => None,
    };
    let entry = cgroup.as_ref().map(Cgroup::entry_fds).transpose().map_err(group_error)?.unwrap_or_default();
    let (ours, theirs) = Link::pair()?;
    let inside = Inside {
        exec,
        namespaces,
        root,
        confinement: &confinement,
        tuning: &tuning,
        affinity: &affinity,
        entry: &entry,
        link: &theirs,
    };
    // In the unified hierarchy the door is made inside already, with the host's rights: from within the container's
    // namespaces its group is out of reach (ENOENT where the hierarchy is mounted with `nsdelegate`), and a delegated
    // one belongs to the container's root.
    let make_door = |group: Option<BorrowedFd<'_>>| {
        let args = CloneArgs { cgroup: group, ..CloneArgs::default() };
        sys::process::clone_process(&args, || {
            sys::process::close_borrowed(&ours);
            match open_door(&inside) {
                Ok(()) => 0,
                Err(error) => {
                    theirs.send_failure(&error);
                    exit_code(&error)
                }
            }
        })
    };
    let before = affinity.begin()?;
    let group = cgroup.as_ref().map(Cgroup::v2_dir_fd).transpose().map_err(group_error)?.flatten();
    let door = match (make_door(group), &cgroup) {
        // A container with groups of its own has moved its processes there: no group has both processes and controllers
        // for those below it, and threaded groups take no processes.
        (Err(error), Some(cgroup)) if matches!(error.errno(), Errno::BUSY | Errno::OPNOTSUPP) => {
            let own = Cgroup::of_process_v2(cgroup.host(), first_process(exec)?).map_err(group_error)?;
            make_door(own.v2_dir_fd().map_err(group_error)?)
        }
        (other, _) => other,
    }
    .doing(|| "cannot make a process in the container's control group".to_owned())?;
    drop(theirs);
    affinity.end(before);
    let joined = meet(exec, &tuning, rdt.as_ref(), &ours);
    parent::put_down_gently(&door.pidfd, Duration::from_secs(10));
    joined
}

/// The process id of the container's first process, as its descriptor tells.
fn first_process(exec: &Exec<'_>) -> Result<Pid> {
    process::pid_of(exec.init)?.ok_or_else(|| Error::new(ErrorKind::System, "container not running"))
}

/// Whether the container is in the caller's user namespace.
fn is_callers(exec: &Exec<'_>) -> Result<bool> {
    namespaces::is_own(&open_first(exec, "ns/user", OFlags::RDONLY)?, "/proc/self/ns/user")
}

/// A file of the first process's in `/proc`.
fn open_first(exec: &Exec<'_>, name: &str, flags: OFlags) -> Result<OwnedFd> {
    let path = format!("/proc/{}/{name}", first_process(exec)?.as_raw_nonzero());
    let file = rustix::fs::open(&path, flags | OFlags::CLOEXEC, Mode::empty()).at("open", &path);
    let file = file.doing(|| "cannot look at the container's first process".to_owned())?;
    // Had it ended before that, the number could have been another's.
    first_process(exec).map(|_| file)
}

fn check(exec: &Exec<'_>) -> Result<()> {
    if exec.process.args.is_empty() {
        return Err(wrong("process.args", "is empty"));
    }
    if !exec.process.cwd.is_absolute() {
        return Err(wrong("process.cwd", format_args!("{:?} is not absolute", exec.process.cwd)));
    }
    Ok(())
}

/// The caller's side: limits the process from outside, then lets it go on.
fn meet(exec: &Exec<'_>, tuning: &Tuning, rdt: Option<&resctrl::Groups>, link: &Link) -> Result<Joined> {
    let (pid, pidfd) = link.await_process()?;
    let finish = || -> Result<Option<OwnedFd>> {
        process::set_rlimits(pid, &exec.process.rlimits)?;
        // Whoever could make no group may be root of a user namespace only.
        let unprivileged = exec.ordinary || exec.cgroup.is_none();
        if !exec.ordinary {
            process::set_oom_score(pid, exec.process.oom_score_adj, unprivileged)?;
        }
        rdt.map_or(Ok(()), |groups| groups.enter(pid))?;
        link.send_mapped(unprivileged && idmap::groups_are_fixed(pid)?)?;
        let terminal = match link.answer(link::PATIENCE)? {
            Answer::Ready(terminal) => terminal,
            Answer::Executed | Answer::Listening(..) => return Err(link::ended()),
        };
        tuning.set_on(pid)?;
        link.send_start()?;
        let agent = notify::Agent::of(exec.spec, exec.id, exec.bundle, "running");
        notify::await_executed(link, link::PATIENCE, agent.as_ref())?;
        Ok(terminal)
    };
    match finish() {
        Ok(terminal) => Ok(Joined { pid, pidfd, terminal }),
        Err(error) => {
            parent::put_down(&pidfd, Duration::from_secs(10));
            Err(error)
        }
    }
}

/// What both processes inside see of the caller's memory.
struct Inside<'a> {
    exec: &'a Exec<'a>,
    namespaces: Namespaces,
    /// Its root, where that is not the mount namespace's.
    root: Option<OwnedFd>,
    confinement: &'a Confinement,
    tuning: &'a Tuning,
    affinity: &'a Affinity,
    entry: &'a EntryFds,
    link: &'a Link,
}

fn open_door(inside: &Inside<'_>) -> Result<()> {
    if inside.exec.ordinary {
        // While this still is a process that its user may change.
        process::set_own_oom_score(inside.exec.process.oom_score_adj)?;
    }
    sys::process::set_undumpable().doing(|| "cannot hide the set-up from the container".to_owned())?;
    // Through the host's /proc, before the container's is all there is; fork(2) passes it on.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc =
        rustix::fs::open("/proc", flags, Mode::empty()).at("open", "/proc").doing(|| "cannot open /proc".to_owned())?;
    lsm::set_labels(Some(proc.as_fd()), inside.confinement)?;
    // Nothing of the host's that is not needed goes along: a container that may trace could see it there.
    drop(proc);
    sys::process::join(inside.exec.init, inside.namespaces).map_err(|cause| {
        if cause.errno() == Errno::SRCH {
            return Error::system("container not running", cause);
        }
        Error::system("cannot join the container's namespaces", cause)
    })?;
    if let Some(root) = &inside.root {
        let what = || "cannot enter the container's root".to_owned();
        rustix::process::fchdir(root).at("fchdir", "the container's root").doing(what)?;
        rustix::process::chroot(".").at("chroot", "the container's root").doing(what)?;
        sys::process::close_borrowed(root);
    }
    let args = CloneArgs { sibling: true, ..CloneArgs::default() };
    let process = sys::process::clone_process(&args, || match run(inside) {
        Ok(()) => 0,
        Err(error) => {
            inside.link.send_failure(&error);
            exit_code(&error)
        }
    })
    .doing(|| "cannot make a process in the container".to_owned())?;
    inside.link.send_process(process.pid, &process.pidfd)
}

fn run(inside: &Inside<'_>) -> Result<()> {
    let Inside { exec, namespaces, confinement, tuning, affinity, entry, link, .. } = *inside;
    entry.enter_self().doing(|| "cannot enter the control group".to_owned())?;
    affinity.finish()?;
    let fixed_groups = link.await_mapped()? || exec.identity.keeps_groups();
    if namespaces.contains(Namespaces::USER) {
        let linux = exec.spec.linux.as_ref();
        let id = |map: Option<&[IdMapping]>| map.filter(|map| !map.is_empty()).map_or(0, idmap::set_up_id);
        let uid = rustix::fs::Uid::from_raw(id(linux.map(|linux| &linux.uid_mappings[..])));
        let gid = rustix::fs::Gid::from_raw(id(linux.map(|linux| &linux.gid_mappings[..])));
        let what = || "cannot become root of the container's user namespace".to_owned();
        rustix::thread::set_thread_res_gid(gid, gid, gid).at("setresgid", gid.as_raw()).doing(what)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid).at("setresuid", uid.as_raw()).doing(what)?;
    }
    setsid().at("setsid", "").doing(|| "cannot become a session leader".to_owned())?;
    // The container's, by name; never the keys of whoever runs `exec`.
    lsm::join_keyring(exec.id, &confinement.selinux_label)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root =
        rustix::fs::open("/", flags, Mode::empty()).at("open", "/").doing(|| "cannot open the root".to_owned())?;
    let terminal = match exec.stdio {
        Stdio::Terminal { size } => Some(open_terminal(&root, size)?),
        Stdio::Fds { .. } | Stdio::Inherit => None,
    };
    let (credentials, environment) = process::identify(&root, exec.process, &exec.identity)?;
    process::enter_directory(&root, exec.process, false)?;
    let found = process::find_command(exec.process, &environment)?;
    tuning.set_on_self()?;
    let (master, slave) = terminal.unzip();
    link.send_ready(master.as_ref())?;
    drop(master);
    link.await_start()?;
    let streams = match &slave {
        Some(slave) => {
            process::take_terminal(slave)?;
            Some([slave.as_fd(), slave.as_fd(), slave.as_fd()])
        }
        None => process::streams(&exec.stdio),
    };
    let kept = Link::from(process::place_streams(streams, &exec.preserve, link.as_fd())?);
    let execute = || -> Result<()> {
        let handover = process::prepare_handover(confinement, &kept)?;
        process::confine(confinement, exec.process, &credentials, handover.as_ref(), fixed_groups)?;
        process::reset_signals()?;
        Err(found.exec())
    };
    // Nothing may be dropped any more: its descriptors are closed.
    sys::process::exit_now(execute().map_or_else(
        |error| {
            kept.send_failure(&error);
            exit_code(&error)
        },
        |()| 0,
    ))
}

/// The container may have put anything at `/dev/pts` by now: no symbolic link is followed, and it must be a devpts.
fn open_terminal(root: &OwnedFd, size: Option<(u16, u16)>) -> Result<(OwnedFd, OwnedFd)> {
    let what = || "cannot open a terminal in the container".to_owned();
    let devpts = sys::fs::open_in_root_no_symlinks(root, "dev/pts", OFlags::PATH | OFlags::DIRECTORY).doing(what)?;
    let kind = rustix::fs::fstatfs(&devpts).at("fstatfs", "/dev/pts").doing(what)?.f_type;
    if kind != DEVPTS {
        return Err(Error::new(ErrorKind::Config, format!("{}: /dev/pts is no devpts", what())));
    }
    let (master, slave) = sys::pty::open(&devpts).doing(what)?;
    if let Some((rows, columns)) = size {
        sys::pty::resize(&master, rows, columns).doing(what)?;
    }
    Ok((master, slave))
}
