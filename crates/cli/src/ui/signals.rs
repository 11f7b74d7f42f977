//! Signals as messages: blocked, and read from a descriptor by the relay.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use sys::signal::{self, SignalSet};

use crate::failure::{Failure, Outcome};

/// Signals that stay as they are: those that cannot be blocked (9, 19), faults of this very program (4, 5, 7, 8, 11),
/// and those about this process's own children, pipes, urgent data and job control (17, 13, 23, 21, 22).
const NOT_FORWARDED: [i32; 12] = [9, 19, 4, 5, 7, 8, 11, 17, 13, 23, 21, 22];
/// SIGWINCH.
pub(crate) const WINCH: i32 = 28;
/// Signals that end a program by default and that a terminal's user or its disappearance sends.
pub(crate) const FATAL: [i32; 4] = [1, 2, 3, 15];

/// Blocked signals and the descriptor they are read from; the former mask comes back when dropped.
#[derive(Debug)]
pub(crate) struct Signals {
    descriptor: OwnedFd,
    before: SignalSet,
}

impl Signals {
    /// Takes every signal that a process may want forwarded (`forward`), or only those that matter to a terminal.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn take(forward: bool, terminal: bool) -> Outcome<Self> {
        let mut set = SignalSet::empty();
        if forward {
            set = NOT_FORWARDED.iter().fold(SignalSet::all(), |set, signal| set.without(*signal));
            // The C library keeps 32 and 33 for its threads.
            set = set.without(32).without(33);
        } else if terminal {
            set = FATAL.iter().fold(SignalSet::empty().with(WINCH), |set, signal| set.with(*signal));
        }
        let failed = |error: sys::Error| Failure::io("cannot take signals", error.errno());
        let before = signal::block(set).map_err(failed)?;
        let descriptor = signal::descriptor(set).map_err(|error| {
            // The failure below is the one to tell.
            let _ = signal::block(before);
            failed(error)
        })?;
        Ok(Self { descriptor, before })
    }

    /// The next one, if any.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn next(&self) -> Outcome<Option<i32>> {
        let next = signal::next(&self.descriptor).map_err(|error| Failure::io("cannot read signals", error.errno()))?;
        Ok(next.map(|(signal, _)| signal))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // A mask that was in force before can be set again.
        let _ = signal::block(self.before);
    }
}
