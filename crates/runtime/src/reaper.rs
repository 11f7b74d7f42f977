//! `--init`: a process 1 that reaps orphans, forwards signals to the command and ends with its exit code.
//!
//! It is the set-up process itself, which stays instead of executing: no program has to be found or mounted.

use std::convert::Infallible;

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, setpgid, wait};
use sys::Context as _;
use sys::process::{CloneArgs, Exit};
use sys::signal::SignalSet;

use crate::error::{Doing, Result};

/// How process 1 behaves.
pub(crate) struct Setup {
    /// Whether the command becomes the terminal's foreground group, so that ^C reaches it once and not through us too.
    pub(crate) terminal: bool,
    /// Whether the container ends with the caller.
    pub(crate) die_with_caller: bool,
    /// The first descriptor that is not the command's.
    pub(crate) close_from: u32,
}

/// Makes `command` a child, stays until it ends and then ends with its code; `confine` puts process 1 under the same
/// confinement. Comes back only when it could not begin: once the descriptors are closed, nothing that owned one may be
/// used or dropped again.
pub(crate) fn run(
    setup: &Setup,
    command: impl FnOnce() -> i32,
    confine: impl FnOnce() -> Result<()>,
) -> Result<Infallible> {
    let what = || "cannot run the init process".to_owned();
    let mask = sys::signal::block(SignalSet::all()).doing(what)?;
    let terminal = setup.terminal;
    let child = sys::process::clone_process(&CloneArgs::default(), move || {
        if terminal {
            // SIGTTOU is blocked here, so the change of the foreground group does not stop us.
            let moved = setpgid(None, None).at("setpgid", "");
            let foreground = rustix::process::getpgrp();
            let given = rustix::termios::tcsetpgrp(rustix::stdio::stdin(), foreground).at("tcsetpgrp", "");
            if moved.and(given).is_err() {
                return 125;
            }
        }
        match sys::signal::block(mask) {
            Ok(_) => command(),
            Err(_) => 125,
        }
    })
    .doing(what)?;
    confine()?;
    if setup.die_with_caller {
        sys::process::die_with_parent(Signal::KILL.as_raw()).doing(what)?;
    }
    // The link closes with the rest, which tells the caller that the command runs.
    std::mem::forget(child.pidfd);
    sys::process::close_from(setup.close_from).doing(what)?;
    let child = i32::try_from(child.pid).ok().and_then(Pid::from_raw);
    // Nobody is left to hear why it failed; 125 is lighter's own code.
    sys::process::exit_now(supervise(child).unwrap_or(125))
}

fn supervise(child: Option<Pid>) -> sys::Result<i32> {
    let signals = sys::signal::descriptor(SignalSet::all())?;
    loop {
        let mut entries = [PollFd::new(&signals, PollFlags::IN)];
        sys::process::poll_until(&mut entries, None)?;
        while let Some((signal, _)) = sys::signal::next(&signals)? {
            // Not yet collected, so the id is still the command's; it may have ended this very moment all the same.
            if let (Some(signal), Some(child)) = (forwarded(signal), child) {
                let _ = kill_process(child, signal);
            }
        }
        if let Some(exit) = collect(child) {
            return Ok(exit.shell_code());
        }
    }
}

/// What is passed on: not the news of children, and not the terminal's stops, which are about us.
fn forwarded(signal: i32) -> Option<Signal> {
    Signal::from_named_raw(signal).filter(|signal| !matches!(*signal, Signal::CHILD | Signal::TTIN | Signal::TTOU))
}

/// Collects everything that ended; the command's own end, if it is among them.
fn collect(child: Option<Pid>) -> Option<Exit> {
    let mut ended = None;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if Some(pid) == child {
            ended = Some(match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, Some(signal)) => Exit::Signal(signal),
                (None, None) => Exit::Code(255),
            });
        }
    }
    ended
}
