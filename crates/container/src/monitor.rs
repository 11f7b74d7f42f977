//! The monitor: the process that owns one run of one container.
//!
//! It is this same program, executed from a detached read-only copy of itself so that no container can write it, and told
//! by its first argument what to be. It gets three descriptors where others have their standard streams: 0 the request,
//! in a sealed memory file; 1 the container's lock, held; 2 its session with whoever spawned it.
//!
//! The lock stays held for as long as the monitor lives, and ends with it however it ends.
//!
//! Decisions:
//! - A monitor is a subreaper: with `--pid host` a container's orphans become its children and are collected. Orphans of
//!   `exec` are not its descendants and go to the system's init.
//! - Its out-of-memory score is lowered, where the privilege allows, only after the container's process was made: children
//!   inherit the score. For the same reason signals are blocked only then.
//! - A client that asked for [`Flow::HoldBack`](crate::protocol::Flow) slows the container down like a pipe; an onlooker
//!   that lags is detached instead. Writing the log never waits: what a full disk refuses is counted and reported.
//! - After the process's end, output is read to its end, or for two seconds when somebody outside holds the streams.

mod launch;
mod listener;
mod process;
mod run;
mod sessions;
mod streams;
#[cfg(test)]
mod tests;

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags, openat};
use sys::Context;
use sys::fs::{Durability, Lock};

use crate::client::Session;
use crate::dir::{CONFIG_LIMIT, ContainerDir};
use crate::error::{Doing, Error, Result};
use crate::protocol::{Failure, FailureKind, Notice};
use crate::record::{State, Status, now};
use crate::request::StartRequest;
use run::{Limits, Monitor, Reaping};

/// How the first argument of a monitor begins. The program looks at it before anything else and calls [`main`].
pub const ARGUMENT_PREFIX: &str = "lighter-monitor";

/// Name of the socket in a container's run directory.
pub(crate) const SOCKET: &str = "sock";

const REQUEST: i32 = 0;
const LOCK: i32 = 1;
const SESSION: i32 = 2;

/// Where commands are looked up by what the monitor executes: the reap command and hooks. The caller's own is not trusted.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables of the caller that the reap command needs to find the same state.
const ENVIRONMENT: [&str; 3] = ["HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"];

const OOM_SCORE: &str = "/proc/self/oom_score_adj";

/// Starts a monitor, which makes the container's process at once and executes its command on
/// [`Session::start`]. The lock passes to it; the caller has recorded [`Starting`](crate::record::State::Starting).
///
/// The monitor inherits the environment's `LIGHTER_*` variables and those that say where state is.
///
/// # Errors
/// When the program cannot be executed; the lock is free then. A failure to make the container comes as
/// [`Notice::Failed`].
pub fn spawn(request: &StartRequest, lock: Lock) -> Result<Session> {
    let doing = "starting the container's monitor";
    let (ours, theirs) = sys::socket::pair().doing(doing)?;
    // Kept open until the program is executed: the path leads through it.
    let (program, _file) = if sys::sealed::is_sealed() {
        ("/proc/self/exe".to_owned(), None)
    } else {
        let file = sys::sealed::executable().doing(doing)?;
        (format!("/proc/self/fd/{}", file.as_raw_fd()), Some(file))
    };
    let inherited = std::env::vars_os().filter(|(name, _)| {
        name.to_str().is_some_and(|name| name.starts_with("LIGHTER_") || ENVIRONMENT.contains(&name))
    });
    let child = Command::new(program)
        .arg0(format!("{ARGUMENT_PREFIX}: {}", request.id.short()))
        .env_clear()
        .env("PATH", PATH)
        .envs(inherited)
        .stdin(Stdio::from(sealed(request)?))
        .stdout(Stdio::from(lock.into_file()))
        .stderr(Stdio::from(theirs))
        .spawn()
        .at("execve", ARGUMENT_PREFIX)
        .doing(doing)?;
    Ok(Session::new(ours, Some(child)))
}

/// The request in a memory file that cannot be changed any more.
fn sealed(request: &StartRequest) -> Result<OwnedFd> {
    let doing = "handing the request to the container's monitor";
    let bytes = serde_json::to_vec(request).map_err(|error| Error::Protocol(error.to_string()))?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create("request", flags).at("memfd_create", "request").doing(doing)?;
    sys::fs::write_all(&file, &bytes, "request").doing(doing)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&file, seals).at("fcntl", "F_ADD_SEALS").doing(doing)?;
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)).at("lseek", "request").doing(doing)?;
    Ok(file)
}

/// The monitor's whole life, entered before arguments are parsed and while there is one thread. Gives the exit code,
/// which nobody reads: what is to be known is in the container's status.
#[must_use]
pub fn main() -> i32 {
    match take_over() {
        Ok(inheritance) => watch(inheritance),
        // Not spawned by this program: there is nobody to tell, and nothing to watch.
        Err(_) => 125,
    }
}

struct Inheritance {
    request: OwnedFd,
    lock: OwnedFd,
    session: OwnedFd,
}

/// Takes the three descriptors and leaves `/dev/null` in their places.
fn take_over() -> Result<Inheritance> {
    let doing = "taking over the container";
    let take = |number| -> Result<OwnedFd> {
        let file = sys::process::inherited(number).doing(doing)?;
        let copy = rustix::io::fcntl_dupfd_cloexec(&file, SESSION + 1).at("fcntl", "F_DUPFD_CLOEXEC").doing(doing);
        // Its number is about to be given to /dev/null: nothing may close it later.
        let _ = file.into_raw_fd();
        copy
    };
    let inheritance = Inheritance { request: take(REQUEST)?, lock: take(LOCK)?, session: take(SESSION)? };
    let null = openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let null = null.at("openat", "/dev/null").doing(doing)?;
    sys::process::place_descriptors(&[Some(null.as_fd()); 3]).doing(doing)?;
    Ok(inheritance)
}

fn watch(inheritance: Inheritance) -> i32 {
    let Inheritance { request, lock, session } = inheritance;
    let telephone = rustix::io::fcntl_dupfd_cloexec(&session, 0);
    match prepare(&request, session) {
        Ok(mut monitor) => {
            drop(request);
            drop(telephone);
            let score = settle(&mut monitor);
            let reaping = monitor.run();
            let command = monitor.reap_command().to_vec();
            // In this order: whoever sees the session's end finds the lock free.
            drop(lock);
            drop(monitor);
            match reaping {
                Reaping::Client => 0,
                Reaping::Monitor => reap(&command, score),
            }
        }
        Err(error) => {
            let failure = Failure { code: 125, kind: FailureKind::System, chain: crate::error::chain(&error) };
            drop(lock);
            if let Ok(telephone) = telephone {
                let _ = sys::socket::send(&telephone, &Notice::Failed(failure).encode(), &[]);
            }
            125
        }
    }
}

fn prepare(request: &OwnedFd, session: OwnedFd) -> Result<Monitor<launch::Container>> {
    // A session of its own: no terminal's signals or hang-up reach the monitor.
    rustix::process::setsid().at("setsid", "").doing("starting the container's monitor")?;
    rustix::process::chdir("/").at("chdir", "/").doing("starting the container's monitor")?;
    let bytes = sys::fs::read_bounded(request, CONFIG_LIMIT, "request").doing("reading the request")?;
    let request: StartRequest =
        serde_json::from_slice(&bytes).map_err(|error| Error::Protocol(format!("the request: {error}")))?;
    let dir = ContainerDir::open_path(&request.dir)?;
    let path = request.dir.clone();
    Monitor::new(request, dir, session, Limits::default(), launch::launch).inspect_err(|error| record(&path, error))
}

/// Records that a monitor could not even begin. Should that fail as well, the status stays `starting` and the lock is
/// free: the container is lost, and recovered by the next command.
fn record(path: &Path, error: &Error) {
    let Ok(dir) = ContainerDir::open_path(path) else { return };
    let mut status = dir.status().unwrap_or_else(|_| Status::new(State::Exited));
    status.state = State::Exited;
    status.finished = now();
    status.exit_code = 125;
    status.error = crate::error::chain(error).join(": ");
    let _ = dir.write_status(&status, Durability::Durable);
}

/// What a monitor does to itself once its container's process is made, and before it waits. Each is an improvement that
/// may fail; gives the out-of-memory score to restore.
fn settle(monitor: &mut Monitor<launch::Container>) -> Option<String> {
    let _ = rustix::thread::set_name(c"lighter-monitor");
    let _ = sys::process::become_subreaper();
    if sys::signal::block(Monitor::<launch::Container>::wanted_signals()).is_ok()
        && let Ok(signals) = sys::signal::descriptor(Monitor::<launch::Container>::wanted_signals())
    {
        monitor.set_signals(signals);
    }
    let before = std::fs::read_to_string(OOM_SCORE).ok()?;
    std::fs::write(OOM_SCORE, "-999").ok().map(|()| before)
}

/// Becomes the reap command, with everything undone that [`settle`] did and that survives execution.
fn reap(command: &[String], score: Option<String>) -> i32 {
    let Some(program) = command.first() else { return 0 };
    if let Some(score) = score {
        let _ = std::fs::write(OOM_SCORE, score.trim());
    }
    let _ = rustix::process::set_child_subreaper(None);
    let _ = sys::signal::block(sys::signal::SignalSet::empty());
    sys::signal::reset_dispositions();
    let environment: Vec<String> = std::env::vars_os()
        .filter_map(|(name, value)| Some(format!("{}={}", name.to_str()?, value.to_str()?)))
        .collect();
    let laid = sys::process::Command::new(command.iter().map(String::as_str), environment.iter().map(String::as_str));
    if let (Ok(laid), Ok(program)) = (laid, CString::new(program.as_str())) {
        // Returns only on failure; what is left to reap is found by the next command.
        drop(laid.exec(&program));
    }
    127
}
