//! The caller's side of making a container: what needs the host's privilege, and the conversation with the process.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use oci::runtime::Linux;
use sys::process::{Child, CloneArgs};

use crate::capability::Capability;
use crate::cgroup::Cgroup;
use crate::created::Created;
use crate::error::{Error, ErrorKind, Result};
use crate::grouping::{self, Asker, Grouped};
use crate::hooks;
use crate::idmap;
use crate::init::{self, Inherited};
use crate::launch::{Bundle, Groups, Launch};
use crate::link::{self, Answer, Link};
use crate::mounts;
use crate::namespaces;
use crate::net_devices;
use crate::notify::Agent;
use crate::plan::{Confinement, Plan};
use crate::process;
use crate::resctrl;
use crate::seccomp::Program;

/// Makes the container's control group and first process, and leaves the process waiting for [`Created::start`].
///
/// The caller must be single-threaded. On failure nothing is left: no process, no group, no mount.
///
/// # Errors
/// [`ErrorKind::Config`] for a mistake in the configuration, before anything is made; the other kinds as they say.
pub fn create(launch: Launch<'_>) -> Result<Created> {
    if launch.spec.hooks.as_ref().is_some_and(|hooks| *hooks != oci::runtime::Hooks::default()) {
        return Err(Error::new(ErrorKind::Unsupported, "hooks are run by the runtime's own command line only"));
    }
    make(&launch, None)
}

/// As [`create`], for the runtime's own command line: the prestart, createRuntime and createContainer hooks are run, in
/// this order, and the start may be somebody else's.
///
/// All of them find the container's mounts attached in its mount namespace, below the bundle's root file system, and the
/// host's root still in place; the createContainer hooks run in the container's namespaces, in the bundle's directory.
///
/// # Errors
/// As [`create`]; those of the hooks.
pub fn create_bundle(launch: Launch<'_>, bundle: &Bundle<'_>) -> Result<Created> {
    if let Some(hooks) = &launch.spec.hooks {
        hooks::check(hooks)?;
    }
    make(&launch, Some(bundle))
}

fn make(launch: &Launch<'_>, bundle: Option<&Bundle<'_>>) -> Result<Created> {
    let plan = Plan::new(launch, bundle.is_some_and(|bundle| bundle.ordinary))?;
    let rdt = resctrl::make(plan.spec, plan.id)?;
    let made = make_in_groups(&plan, launch, bundle, rdt.as_ref());
    let resctrl = rdt.map(|groups| groups.made).unwrap_or_default();
    match made {
        Ok(created) => Ok(Created { resctrl, ..created }),
        Err(error) => {
            // The first error is the one to report.
            let _ = resctrl::remove(&resctrl);
            Err(error)
        }
    }
}

fn make_in_groups(
    plan: &Plan<'_>,
    launch: &Launch<'_>,
    bundle: Option<&Bundle<'_>>,
    rdt: Option<&resctrl::Groups>,
) -> Result<Created> {
    let path;
    let groups = match bundle {
        Some(bundle) => bundle.groups,
        None => {
            path = grouping::group_path(plan.spec, plan.id, false);
            Groups::Own(&path)
        }
    };
    if matches!(groups, Groups::None) {
        refuse_unguarded(&plan.confinement, plan.linux, plan.ordinary || plan.has_user_namespace())?;
    }
    let asker = Asker { linux: plan.linux, id: plan.id, ordinary: plan.ordinary };
    let mut grouped = grouping::make(&asker, groups)?;
    let mut made = clone_first(plan, launch, bundle, &grouped, rdt);
    if let Err(error) = &made
        && grouped.may_do_without(error)
    {
        grouped.undo();
        made = clone_first(plan, launch, bundle, &grouped, rdt);
    }
    match made {
        Ok((child, link, terminal)) => Ok(Created {
            pid: child.pid,
            pidfd: child.pidfd,
            terminal,
            cgroup: grouped.group,
            resctrl: Vec::new(),
            link: Some(link),
            agent: agent(plan, bundle),
        }),
        Err(error) => {
            grouped.undo();
            Err(error)
        }
    }
}

/// Refuses a process without a control group that could make the nodes of devices it is denied: with the host's root's
/// privilege, which is not an ordinary user's nor that of a user namespace (`harmless`).
pub(crate) fn refuse_unguarded(confinement: &Confinement, linux: &Linux, harmless: bool) -> Result<()> {
    let makes = confinement.capabilities.bounding.contains(Capability::Mknod);
    let denied = linux.resources.as_ref().is_some_and(|r| r.devices.iter().any(|rule| !rule.allow));
    if makes && denied && !harmless && !sys::process::in_user_namespace() {
        let sentence = "linux.resources.devices: control groups are disabled, and CAP_MKNOD would make nodes of the devices \
                        that are denied: take it from process.capabilities, or give the container a user namespace";
        return Err(Error::new(ErrorKind::Unsupported, sentence));
    }
    Ok(())
}

/// Who gets the listener of the container's filter.
fn agent(plan: &Plan<'_>, bundle: Option<&Bundle<'_>>) -> Option<Agent> {
    if !plan.confinement.seccomp.as_ref().is_some_and(Program::notifies) {
        return None;
    }
    let dir = bundle.map_or(Path::new(""), |bundle| bundle.dir);
    Agent::of(plan.spec, plan.id, dir, "creating")
}

fn clone_first(
    plan: &Plan<'_>,
    launch: &Launch<'_>,
    bundle: Option<&Bundle<'_>>,
    grouped: &Grouped<'_>,
    rdt: Option<&resctrl::Groups>,
) -> Result<(Child, Link, Option<OwnedFd>)> {
    let group_error = |error| mounts::cgroup_error("cannot open the control group", error);
    let cgroup = grouped.group.as_ref();
    let entry = cgroup.map(Cgroup::entry_fds).transpose().map_err(group_error)?.unwrap_or_default();
    let names = cgroup.map(mounts::cgroup_names).transpose()?.unwrap_or_default();
    let (ours, theirs) = Link::pair()?;
    let group = cgroup.map(Cgroup::v2_dir_fd).transpose().map_err(group_error)?.flatten();
    let args = CloneArgs { namespaces: plan.namespaces, cgroup: group, sibling: false };
    let first = || {
        let inherited = Inherited {
            plan,
            link: &theirs,
            entry: &entry,
            cgroup,
            cgroup_names: &names,
            rootfs: &launch.rootfs,
            stdio: &launch.stdio,
            preserve: &launch.preserve,
            bundle,
        };
        // The caller's end must not be held open here, or its death would go unnoticed.
        sys::process::close_borrowed(&ours);
        for file in bundle.map(|bundle| bundle.private).unwrap_or_default() {
            sys::process::close_borrowed(file);
        }
        init::run(&inherited)
    };
    let by_door = !plan.door.is_closed();
    let made = if by_door {
        namespaces::make_door(plan, &args, &theirs, first)
    } else {
        sys::process::clone_process(&args, first)
    };
    let mut child = made.map_err(clone_error)?;
    drop(theirs);
    if by_door {
        child = namespaces::meet(&child, &ours)?;
    }
    let entered = rdt.map_or(Ok(()), |groups| groups.enter(child.pid));
    match entered.and_then(|()| converse(plan, launch, bundle, grouped, &child, &ours)) {
        Ok(terminal) => Ok((child, ours, terminal)),
        Err(error) => {
            drop(ours);
            put_down(&child.pidfd, Duration::from_secs(10));
            Err(error)
        }
    }
}

fn converse(
    plan: &Plan<'_>,
    launch: &Launch<'_>,
    bundle: Option<&Bundle<'_>>,
    grouped: &Grouped<'_>,
    child: &Child,
    link: &Link,
) -> Result<Option<OwnedFd>> {
    let prepared = prepare(plan, launch, bundle, grouped, child, link);
    // When the process failed first, its own words say more than the broken conversation.
    let answer = match prepared {
        Ok(()) => link.answer(patience(plan))?,
        Err(error) => match link.answer(Duration::ZERO) {
            Err(theirs) if theirs.kind() != ErrorKind::System || theirs.cause().is_some_and(|c| c.call() != "poll") => {
                return Err(theirs);
            }
            _ => return Err(error),
        },
    };
    match answer {
        Answer::Ready(terminal) => plan.tuning.set_on(child.pid).map(|()| terminal),
        Answer::Executed | Answer::Listening(..) => Err(link::ended()),
    }
}

/// How long one side waits for the other: without hooks, whose time is theirs to limit, not long.
pub(crate) fn patience(plan: &Plan<'_>) -> Duration {
    match &plan.spec.hooks {
        None => link::PATIENCE,
        Some(_) => Duration::from_secs(24 * 3600),
    }
}

fn prepare(
    plan: &Plan<'_>,
    launch: &Launch<'_>,
    bundle: Option<&Bundle<'_>>,
    grouped: &Grouped<'_>,
    child: &Child,
    link: &Link,
) -> Result<()> {
    process::set_rlimits(child.pid, &plan.process.rlimits)?;
    let mut userns = None;
    if plan.ordinary {
        // The rest is done by the process itself, which has the privilege for it.
        link.send_mapped(idmap::write(child.pid, plan.linux, true)?)?;
    } else {
        process::set_oom_score(child.pid, plan.process.oom_score_adj, grouped.nested)?;
        if plan.has_user_namespace() {
            if plan.ids.write {
                idmap::write(child.pid, plan.linux, false)?;
            }
            userns = Some(idmap::open_namespace(child.pid)?);
        }
        net_devices::move_all(plan, child.pid)?;
        // Somebody else's maps may have fixed them.
        let fixed = (grouped.nested || plan.joins_user_namespace()) && idmap::groups_are_fixed(child.pid)?;
        link.send_mapped(fixed)?;
        let cgroup = grouped.group.as_ref();
        link.send_mounts(&mounts::make(plan, &launch.rootfs, cgroup, userns.as_ref().map(AsFd::as_fd))?)?;
    }
    if let (Some(bundle), Some(hooks), true) = (bundle, &plan.spec.hooks, has_create_hooks(plan)) {
        // They find the container's mounts in place, in its mount namespace below the bundle's root file system.
        link.await_attached(patience(plan))?;
        let state = hook_state(plan, bundle, "creating", child.pid);
        hooks::run("prestart", &hooks.prestart, &state, None)?;
        hooks::run("createRuntime", &hooks.create_runtime, &state, None)?;
        link.send_hooked()?;
    }
    Ok(())
}

/// Whether there are hooks between the mounts and the change of the root.
pub(crate) fn has_create_hooks(plan: &Plan<'_>) -> bool {
    plan.spec.hooks.as_ref().is_some_and(|hooks| {
        !hooks.prestart.is_empty() || !hooks.create_runtime.is_empty() || !hooks.create_container.is_empty()
    })
}

/// The state that the hooks of this container read.
pub(crate) fn hook_state<'a>(plan: &Plan<'a>, bundle: &Bundle<'a>, status: &'a str, pid: u32) -> hooks::State<'a> {
    hooks::State {
        oci_version: &plan.spec.oci_version,
        id: plan.id,
        status,
        pid: Some(pid),
        bundle: bundle.dir,
        annotations: &plan.spec.annotations,
    }
}

pub(crate) fn clone_error(cause: sys::Error) -> Error {
    use sys::Errno;
    let (kind, what) = match cause.errno() {
        Errno::PERM => (ErrorKind::Unsupported, "cannot make the container's namespaces: not permitted"),
        Errno::NOSPC | Errno::USERS => (ErrorKind::Limit, "cannot make another namespace: a limit is reached"),
        Errno::AGAIN | Errno::NOMEM => (ErrorKind::Limit, "cannot make the container's first process"),
        _ => (ErrorKind::System, "cannot make the container's first process"),
    };
    Error::system(what, cause).with_kind(kind)
}

/// Kills and collects a process that will not be used.
pub(crate) fn put_down(pidfd: &OwnedFd, patience: Duration) {
    // It may have ended and been collected already; nothing else can be done about a failure here.
    let _ = sys::process::send_signal(pidfd, rustix::process::Signal::KILL.as_raw());
    let _ = sys::process::wait_for(pidfd, patience);
}

/// Collects a process that is about to end by itself; kills it when it does not.
pub(crate) fn put_down_gently(pidfd: &OwnedFd, patience: Duration) {
    if !matches!(sys::process::wait_for(pidfd, patience), Ok(Some(_))) {
        put_down(pidfd, patience);
    }
}
