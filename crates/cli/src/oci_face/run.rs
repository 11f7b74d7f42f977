//! `run`: create and start; in the foreground also wait and clean up, with signals passed to the container.

use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;
use sys::signal::SignalSet;

use super::arguments::Flags;
use super::console::Relay;
use super::create::{self, Made, Start};
use super::failure::Failure;
use super::{remove, start};

/// `run`.
pub(super) fn run(global: &Flags, flags: &Flags) -> Result<i32, Failure> {
    let handed = create::handed_on(flags, create::listening()?)?;
    if flags.is("detach") {
        let Made { container, lock, record, spec, .. } = create::make(global, flags, &handed, Start::Detached)?;
        let hooked = start::poststart(&container, &record, &spec);
        if hooked.is_err() {
            // The hook's failure is the one to report; what stays is there to be deleted.
            let _ = remove::take_down(global, container, lock, &record, Some(&spec));
        }
        return hooked.map(|()| 0);
    }
    let signals = take_signals()?;
    let Made { container, lock, record, spec, mut created } = create::make(global, flags, &handed, Start::Attached)?;
    let started = start::poststart(&container, &record, &spec);
    drop(lock);
    let ended = started.and_then(|()| attend(&created.pidfd, created.terminal.take(), &signals));
    if ended.is_err() {
        created.abandon();
    }
    if flags.is("keep") {
        return ended;
    }
    // Somebody's `delete --force` may have been faster.
    let removed = match container.lock() {
        Ok(lock) => remove::take_down(global, container, lock, &record, Some(&spec)),
        Err(_) => Ok(()),
    };
    let code = ended?;
    removed?;
    Ok(code)
}

/// Blocks every signal that can be passed on; gives the descriptor they are read from. To be called before the process
/// is made, so that none is lost.
pub(super) fn take_signals() -> Result<OwnedFd, Failure> {
    let all = SignalSet::all().without(Signal::SEGV.as_raw()).without(Signal::BUS.as_raw());
    sys::signal::block(all)?;
    Ok(sys::signal::descriptor(all)?)
}

/// Stays with a child until it ends: passes signals on, relays the terminal. Gives its exit code.
pub(super) fn attend(pidfd: &OwnedFd, terminal: Option<OwnedFd>, signals: &OwnedFd) -> Result<i32, Failure> {
    let mut relay = terminal.map(Relay::new).transpose()?;
    loop {
        let mut entries = vec![PollFd::new(pidfd, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        if let Some(relay) = &relay {
            entries.extend(relay.entries());
        }
        sys::process::poll_until(&mut entries, None)?;
        let ready: Vec<PollFlags> = entries.iter().map(PollFd::revents).collect();
        drop(entries);
        while let Some((signal, _)) = sys::signal::next(signals)? {
            let ours = [Signal::CHILD, Signal::TTIN, Signal::TTOU, Signal::PIPE].map(Signal::as_raw);
            if let (Some(relay), true) = (&relay, signal == Signal::WINCH.as_raw()) {
                relay.resize();
            } else if !ours.contains(&signal) {
                // It may have ended this very moment; that is seen next.
                let _ = sys::process::send_signal(pidfd, signal);
            }
        }
        if let Some(relay) = &mut relay {
            relay.pump(&ready[2..])?;
        }
        if let Some(exit) = sys::process::try_wait(pidfd)? {
            if let Some(relay) = relay {
                relay.drain()?;
            }
            return Ok(exit.shell_code());
        }
    }
}
