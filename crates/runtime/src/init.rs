//! The container's first process, from its first instruction to execve. It runs on a copy of the caller's memory,
//! single-threaded, and says every failure over the link.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::setsid;
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use sys::Context as _;
use sys::mount::Propagation;
use sys::process::Namespaces;

use crate::cgroup::{Cgroup, EntryFds};
use crate::command::Found;
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::identity::Credentials;
use crate::launch::{Bundle, Rootfs, Stdio};
use crate::link::{self, Link};
use crate::namespaces::MountSpace;
use crate::plan::Plan;
use crate::{gate, hooks, lsm, mounts, parent, process, reaper, rootfs};

/// What the first process inherits.
pub(crate) struct Inherited<'a> {
    pub(crate) plan: &'a Plan<'a>,
    pub(crate) link: &'a Link,
    pub(crate) entry: &'a EntryFds,
    pub(crate) cgroup: Option<&'a Cgroup>,
    /// Names of the v1 hierarchies, for the directories below `/sys/fs/cgroup`.
    pub(crate) cgroup_names: &'a [String],
    pub(crate) rootfs: &'a Rootfs,
    pub(crate) stdio: &'a Stdio,
    pub(crate) preserve: &'a [Option<OwnedFd>],
    pub(crate) bundle: Option<&'a Bundle<'a>>,
}

/// What is ready to run.
struct Prepared {
    /// The command; absent when the configuration has no process, which is an error at the start.
    found: Option<Found>,
    credentials: Credentials,
    /// Whether the supplementary groups are what they are.
    fixed_groups: bool,
}

/// Runs the process; what it gives is an exit code for a failure before execve, or the command's under `--init`.
pub(crate) fn run(inherited: &Inherited<'_>) -> i32 {
    let result = prepare(inherited).and_then(|(prepared, slave)| start(inherited, &prepared, slave.as_ref()));
    match result {
        Ok(code) => code,
        Err(error) => {
            inherited.link.send_failure(&error);
            exit_code(&error)
        }
    }
}

pub(crate) fn exit_code(error: &Error) -> i32 {
    match error.kind() {
        ErrorKind::CommandNotFound => 127,
        ErrorKind::CommandNotExecutable => 126,
        ErrorKind::Config | ErrorKind::UnknownUser | ErrorKind::Limit | ErrorKind::Unsupported | ErrorKind::System => {
            125
        }
    }
}

fn prepare(inherited: &Inherited<'_>) -> Result<(Prepared, Option<OwnedFd>)> {
    let Inherited { plan, link, entry, .. } = *inherited;
    let hide = || sys::process::set_undumpable().doing(|| "cannot hide the set-up from the container".to_owned());
    if plan.ordinary {
        // What is hidden belongs to the host's root, and the caller could not map the ids. In namespaces that are all new
        // there is nobody yet to hide from.
        process::set_own_oom_score(plan.process.oom_score_adj)?;
    } else {
        hide()?;
    }
    entry.enter_self().doing(|| "cannot enter the control group".to_owned())?;
    for (flag, file) in &plan.joins {
        sys::process::join(file, *flag).doing(|| "cannot join a namespace".to_owned())?;
    }
    let fixed_groups = link.await_mapped()? || plan.identity.keeps_groups();
    if plan.ordinary {
        hide()?;
    }
    // Root of a user namespace of its own may not find its way there.
    let stage = match inherited.bundle {
        Some(bundle) if parent::has_create_hooks(plan) => Some(rootfs::Stage::open(plan, bundle)?),
        _ => None,
    };
    if plan.has_user_namespace() {
        become_root(plan.set_up_ids(), fixed_groups)?;
    }
    if plan.new_cgroup_namespace {
        // Its root is the group the process is in, hence after entering it.
        sys::process::unshare(Namespaces::CGROUP).doing(|| "cannot make a cgroup namespace".to_owned())?;
    }
    setsid().at("setsid", "").doing(|| "cannot become a session leader".to_owned())?;
    if inherited.bundle.is_none_or(|bundle| bundle.new_keyring) {
        lsm::join_keyring(plan.id, &plan.confinement.selinux_label)?;
    }
    if plan.namespaces.contains(Namespaces::NETWORK) {
        sys::net::loopback_up().doing(|| "cannot set the loopback interface up".to_owned())?;
    }
    // A namespace that is not ours stays as it is.
    if plan.mount_space == MountSpace::New {
        sys::mount::propagate_all("/", Propagation::Slave)
            .doing(|| "cannot detach from the host's mounts".to_owned())?;
    }
    let mut own = rootfs::make_own(plan)?;
    let callers = if plan.ordinary {
        mounts::make(plan, inherited.rootfs, inherited.cgroup, None)?
    } else {
        link.await_mounts(parent::patience(plan))?
    };
    let (names, bundle) = (inherited.cgroup_names, inherited.bundle);
    let root = rootfs::assemble(plan, &mut own, callers, names, bundle, stage.as_ref(), || {
        link.await_hooks(parent::patience(plan))?;
        match (inherited.bundle, &plan.spec.hooks) {
            (Some(bundle), Some(hooks)) if !hooks.create_container.is_empty() => {
                let state = parent::hook_state(plan, bundle, "creating", host_pid());
                hooks::run("createContainer", &hooks.create_container, &state, None)
            }
            _ => Ok(()),
        }
    })?;

    let terminal = match plan.terminal {
        Some(size) => Some(open_terminal(&root, &own, size)?),
        None => None,
    };
    rootfs::set_sysctls(plan, &own)?;
    if plan.make_cwd && plan.root_read_only {
        // Later nothing can be made any more.
        process::make_directory(&root, plan.process)?;
    }
    rootfs::protect(plan, &root)?;
    name_host(plan)?;
    let (credentials, environment) = process::identify(&root, plan.process, plan.identity)?;
    process::enter_directory(&root, plan.process, plan.make_cwd)?;
    let found = match &plan.spec.process {
        Some(process) => Some(process::find_command(process, &environment)?),
        None => None,
    };
    plan.tuning.set_on_self()?;
    lsm::set_labels(own.proc.as_ref().map(AsFd::as_fd), &plan.confinement)?;
    let (master, slave) = terminal.unzip();
    link.send_ready(master.as_ref())?;
    Ok((Prepared { found, credentials, fixed_groups }, slave))
}

fn start(inherited: &Inherited<'_>, prepared: &Prepared, slave: Option<&OwnedFd>) -> Result<i32> {
    let link = inherited.link;
    let Some(listener) = inherited.bundle.and_then(|bundle| bundle.gate.as_ref()) else {
        link.await_start()?;
        run_start_hooks(inherited)?;
        let streams = streams(inherited, slave)?;
        let kept = Link::from(process::place_streams(streams, inherited.preserve, link.as_fd())?);
        return Ok(execute(inherited, prepared, slave.is_some(), &kept));
    };
    link.await_release()?;
    let listener = process::keep_only(streams(inherited, slave)?, inherited.preserve, listener)?;
    // The caller may be gone by now: whoever opens the gate is told. The process ends here, past every owner of what
    // was closed.
    let code = match gate::wait(&listener) {
        Ok(link) => match run_start_hooks(inherited) {
            Ok(()) => execute(inherited, prepared, slave.is_some(), &link),
            Err(error) => report(&error, &link),
        },
        Err(error) => exit_code(&error),
    };
    sys::process::exit_now(code)
}

fn run_start_hooks(inherited: &Inherited<'_>) -> Result<()> {
    let plan = inherited.plan;
    let (Some(bundle), Some(hooks)) = (inherited.bundle, &plan.spec.hooks) else { return Ok(()) };
    let own = rustix::process::getpid().as_raw_nonzero().get().unsigned_abs();
    let state = parent::hook_state(plan, bundle, "created", own);
    hooks::run("startContainer", &hooks.start_container, &state, Some(&plan.process.env))
}

fn streams<'a>(inherited: &'a Inherited<'_>, slave: Option<&'a OwnedFd>) -> Result<Option<[BorrowedFd<'a>; 3]>> {
    let Some(slave) = slave else { return Ok(process::streams(inherited.stdio)) };
    process::take_terminal(slave)?;
    Ok(Some([slave.as_fd(), slave.as_fd(), slave.as_fd()]))
}

fn no_process() -> Error {
    crate::plan::wrong("process", "is missing: there is nothing to start")
}

/// Tells the caller through `kept`, and gives the exit code. The number of the link itself may be one of the streams'.
fn report(error: &Error, kept: &Link) -> i32 {
    kept.send_failure(error);
    exit_code(error)
}

/// Executes the command; what it gives is an exit code for a failure, or the command's under `--init`. The descriptors
/// are in their places.
fn execute(inherited: &Inherited<'_>, prepared: &Prepared, terminal: bool, kept: &Link) -> i32 {
    let Inherited { plan, preserve, .. } = *inherited;
    if inherited.bundle.is_some() {
        process::own_streams(&prepared.credentials);
    }
    let execute = || -> Result<i32> {
        let handover = process::prepare_handover(&plan.confinement, kept)?;
        process::confine(
            &plan.confinement,
            plan.process,
            &prepared.credentials,
            handover.as_ref(),
            prepared.fixed_groups,
        )?;
        process::reset_signals()?;
        if plan.die_with_caller && !plan.init {
            sys::process::die_with_parent(rustix::process::Signal::KILL.as_raw())
                .doing(|| "cannot tie the process to its supervisor".to_owned())?;
            // It may have ended just before that, and then no signal comes.
            if kept.caller_is_gone() {
                return Err(link::caller_gone());
            }
        }
        Err(prepared.found.as_ref().map_or_else(no_process, Found::exec))
    };
    let report = |error: &Error| report(error, kept);
    if !plan.init {
        // Nothing may be dropped any more: its descriptors are closed.
        sys::process::exit_now(execute().unwrap_or_else(|error| report(&error)));
    }
    let first_kept = 3 + u32::try_from(preserve.len()).unwrap_or(0);
    let setup = reaper::Setup { terminal, die_with_caller: plan.die_with_caller, close_from: first_kept };
    let begun = reaper::run(
        &setup,
        || execute().unwrap_or_else(|error| report(&error)),
        || process::confine(&plan.confinement, plan.process, &prepared.credentials, None, prepared.fixed_groups),
    );
    match begun {
        Ok(never) => match never {},
        Err(error) => sys::process::exit_now(report(&error)),
    }
}

/// This process's id as the caller sees it, while the host's `/proc` is still there; 0 without one.
fn host_pid() -> u32 {
    std::fs::read_link("/proc/self").ok().and_then(|name| name.to_str()?.parse().ok()).unwrap_or(0)
}

/// Becomes root of the new user namespace, which the caller has just mapped; or whoever it is set up by.
fn become_root((uid, gid): (u32, u32), fixed_groups: bool) -> Result<()> {
    let what = || "cannot become root of the user namespace".to_owned();
    let ids = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
    set_thread_res_gid(ids.1, ids.1, ids.1).at("setresgid", gid).doing(what)?;
    set_thread_res_uid(ids.0, ids.0, ids.0).at("setresuid", uid).doing(what)?;
    if fixed_groups {
        return Ok(());
    }
    set_thread_groups(&[]).at("setgroups", "").doing(what)
}

fn open_terminal(root: &OwnedFd, own: &rootfs::Own, size: Option<(u16, u16)>) -> Result<(OwnedFd, OwnedFd)> {
    let what = || "cannot open a terminal in the container".to_owned();
    let Some(devpts) = &own.devpts else {
        return Err(crate::plan::wrong("process.terminal", "needs a devpts mount"));
    };
    let (master, slave) = sys::pty::open(devpts).doing(what)?;
    if let Some((rows, columns)) = size {
        sys::pty::resize(&master, rows, columns).doing(what)?;
    }
    rootfs::attach_console(root, own, &master)?;
    Ok((master, slave))
}

fn name_host(plan: &Plan<'_>) -> Result<()> {
    let spec = plan.spec;
    if !spec.hostname.is_empty() {
        rustix::system::sethostname(spec.hostname.as_bytes())
            .at("sethostname", &spec.hostname)
            .doing(|| "cannot set the host name".to_owned())?;
    }
    if !spec.domainname.is_empty() {
        rustix::system::setdomainname(spec.domainname.as_bytes())
            .at("setdomainname", &spec.domainname)
            .doing(|| "cannot set the domain name".to_owned())?;
    }
    Ok(())
}
