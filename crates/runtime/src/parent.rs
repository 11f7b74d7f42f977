//! The caller's side of making a container: what needs the host's privilege, and the conversation with the process.

use std::fmt::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use oci::runtime::IdMapping;
use rustix::fs::{Mode, OFlags};
use sys::Context as _;
use sys::process::{Child, CloneArgs, Namespaces};

use crate::cgroup::{Cgroup, CreateOptions, Host, Layout};
use crate::created::Created;
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::hooks;
use crate::init::{self, Inherited};
use crate::launch::{Bundle, Launch, Rootfs};
use crate::link::{self, Answer, Link};
use crate::mounts;
use crate::namespaces;
use crate::notify::Agent;
use crate::plan::Plan;
use crate::process;
use crate::resctrl;
use crate::seccomp::Program;
use crate::systemd::{self, Placeholder, Scope};

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

/// The control group's path of a container that is made with this configuration.
#[must_use]
pub fn group_path(spec: &oci::runtime::Spec, id: &str) -> String {
    match spec.linux.as_ref().map(|linux| linux.cgroups_path.as_str()) {
        None | Some("") => format!("/lighter-{id}"),
        Some(path) => path.to_owned(),
    }
}

fn make(launch: &Launch<'_>, bundle: Option<&Bundle<'_>>) -> Result<Created> {
    let plan = Plan::new(launch)?;
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
    let scope = bundle.and_then(|bundle| bundle.scope);
    // In a scope until the process is there too, or systemd would find it empty and remove it.
    let (cgroup, _placeholder) = match scope {
        Some(scope) => make_scope(plan, scope).map(|(group, placeholder)| (group, Some(placeholder)))?,
        None => (make_group(plan)?, None),
    };
    match clone_first(plan, launch, bundle, &cgroup, rdt) {
        Ok((child, link, terminal)) => Ok(Created {
            pid: child.pid,
            pidfd: child.pidfd,
            terminal,
            cgroup,
            resctrl: Vec::new(),
            link: Some(link),
            agent: agent(plan, bundle),
        }),
        Err(error) => {
            // The first error is the one to report. A group that resists is found again by its path.
            let _ = cgroup.remove();
            if let Some(scope) = scope {
                let _ = systemd::stop(&scope.unit);
            }
            Err(error)
        }
    }
}

/// Who gets the listener of the container's filter.
fn agent(plan: &Plan<'_>, bundle: Option<&Bundle<'_>>) -> Option<Agent> {
    if !plan.confinement.seccomp.as_ref().is_some_and(Program::notifies) {
        return None;
    }
    let dir = bundle.map_or(Path::new(""), |bundle| bundle.dir);
    Agent::of(plan.spec, plan.id, dir, "creating")
}

/// Has systemd make the group, and puts the exact limits in force there.
fn make_scope(plan: &Plan<'_>, scope: &Scope) -> Result<(Cgroup, Placeholder)> {
    let host = Host::detect().map_err(|error| mounts::cgroup_error("cannot find the control groups", error))?;
    let resources = plan.linux.resources.as_ref();
    let placeholder = scope.start(plan.id, resources, host.layout() == Layout::V2).map_err(systemd_error)?;
    let options = CreateOptions { handed_over: true, ..CreateOptions::default() };
    let made = placeholder.group().map_err(systemd_error).and_then(|path| {
        Cgroup::create(&host, &path, resources, &options)
            .map_err(|error| mounts::cgroup_error("cannot set up the control group that systemd made", error))
    });
    match made {
        Ok(group) => Ok((group, placeholder)),
        Err(error) => {
            drop(placeholder);
            // The first error is the one to report; an empty scope goes by itself.
            let _ = systemd::stop(&scope.unit);
            Err(error)
        }
    }
}

fn systemd_error(error: systemd::Error) -> Error {
    let kind = match error {
        systemd::Error::Absent(_) | systemd::Error::Denied { .. } => ErrorKind::Unsupported,
        systemd::Error::Path { .. } => ErrorKind::Config,
        _ => ErrorKind::System,
    };
    Error::new(kind, error.to_string())
}

fn make_group(plan: &Plan<'_>) -> Result<Cgroup> {
    let host = Host::detect().map_err(|error| mounts::cgroup_error("cannot find the control groups", error))?;
    let path = group_path(plan.spec, plan.id);
    Cgroup::create(&host, &path, plan.linux.resources.as_ref(), &CreateOptions::default())
        .map_err(|error| mounts::cgroup_error("cannot make the control group", error))
}

fn clone_first(
    plan: &Plan<'_>,
    launch: &Launch<'_>,
    bundle: Option<&Bundle<'_>>,
    cgroup: &Cgroup,
    rdt: Option<&resctrl::Groups>,
) -> Result<(Child, Link, Option<OwnedFd>)> {
    let group_error = |error| mounts::cgroup_error("cannot open the control group", error);
    let entry = cgroup.entry_fds().map_err(group_error)?;
    let names = mounts::cgroup_names(cgroup)?;
    let (ours, theirs) = Link::pair()?;
    let args =
        CloneArgs { namespaces: plan.namespaces, cgroup: cgroup.v2_dir_fd().map_err(group_error)?, sibling: false };
    let first = || {
        let inherited = Inherited {
            plan,
            link: &theirs,
            entry: &entry,
            cgroup_names: &names,
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
    match entered.and_then(|()| converse(plan, launch, bundle, cgroup, &child, &ours)) {
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
    cgroup: &Cgroup,
    child: &Child,
    link: &Link,
) -> Result<Option<OwnedFd>> {
    let prepared = prepare(plan, launch, bundle, cgroup, child, link);
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
    cgroup: &Cgroup,
    child: &Child,
    link: &Link,
) -> Result<()> {
    process::set_rlimits(child.pid, &plan.process.rlimits)?;
    process::set_oom_score(child.pid, plan.process.oom_score_adj)?;
    let userns = if plan.has_user_namespace() {
        write_map(child.pid, "uid_map", &plan.linux.uid_mappings)?;
        write_map(child.pid, "gid_map", &plan.linux.gid_mappings)?;
        Some(open_userns(child.pid)?)
    } else {
        None
    };
    link.send_mapped()?;
    let userns = userns.as_ref().map(AsFd::as_fd);
    let mut mounts = vec![mounts::make_root(&launch.rootfs, plan.root_ids(), userns, &plan.linux.rootfs_propagation)?];
    // A bundle's ids are its maker's affair; elsewhere files keep their owners on both sides.
    let map_binds = !matches!(launch.rootfs, Rootfs::AsIs(_));
    mounts.extend(mounts::make_callers(plan, cgroup, userns, map_binds)?);
    link.send_mounts(&mounts)?;
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

/// A user namespace that is nothing but an id map for mounts: it is its one process's, which lives until the map is read.
///
/// # Errors
/// clone3(2)'s, and those of the map.
pub(crate) fn id_map(uids: &[IdMapping], gids: &[IdMapping]) -> Result<OwnedFd> {
    let args = CloneArgs { namespaces: Namespaces::USER, ..CloneArgs::default() };
    let child = sys::process::clone_process(&args, || {
        // Killed below; ends by itself when this process was killed first.
        let _ = sys::process::die_with_parent(rustix::process::Signal::KILL.as_raw());
        std::thread::sleep(link::PATIENCE);
        0
    })
    .map_err(clone_error)?;
    let made = write_map(child.pid, "uid_map", uids)
        .and_then(|()| write_map(child.pid, "gid_map", gids))
        .and_then(|()| open_userns(child.pid));
    put_down(&child.pidfd, Duration::from_secs(10));
    made
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

fn write_map(pid: u32, name: &str, map: &[IdMapping]) -> Result<()> {
    let mut text = String::new();
    for m in map {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} {} {}", m.container_id, m.host_id, m.size);
    }
    let path = format!("/proc/{pid}/{name}");
    rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .at("open", &path)
        .and_then(|file| sys::fs::write_all(file, text.as_bytes(), &path))
        .doing(|| "cannot map the container's ids".to_owned())
}

fn open_userns(pid: u32) -> Result<OwnedFd> {
    let path = format!("/proc/{pid}/ns/user");
    rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .at("open", &path)
        .doing(|| "cannot open the container's user namespace".to_owned())
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
