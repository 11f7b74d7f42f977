//! What the monitor needs of the process it watches. The runtime's container is one; tests bring another.

use std::os::fd::{BorrowedFd, OwnedFd};

use crate::protocol::Failure;

/// The process's standard streams.
#[derive(Debug)]
pub(crate) enum ChildStdio {
    /// Three descriptors.
    Fds {
        /// Standard input.
        stdin: OwnedFd,
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
    /// A terminal, whose master comes back from [`Process::take_terminal`].
    Terminal {
        /// Rows and columns at start.
        size: Option<(u16, u16)>,
    },
}

/// A process that was made and waits to execute its command, or does; and the control group it is in. Dropping it kills
/// a process that was not started.
pub(crate) trait Process {
    /// Its pid, as the monitor sees it.
    fn pid(&self) -> u32;
    /// Its descriptor.
    fn pidfd(&self) -> BorrowedFd<'_>;
    /// The master of its terminal, once.
    fn take_terminal(&mut self) -> Option<OwnedFd>;
    /// Has it execute its command; returns when that succeeded or failed.
    fn start(&mut self) -> Result<(), Failure>;
    /// Stops all processes of the container.
    fn freeze(&mut self) -> Result<(), String>;
    /// Lets them run again.
    fn thaw(&mut self) -> Result<(), String>;
    /// Kills all processes of the container, frozen or not, without waiting for their end.
    fn kill_all(&mut self) -> Result<(), String>;
    /// How many of them the memory limit killed.
    fn oom_kills(&mut self) -> u64;
    /// After the process's end: kills what may be left and removes the control group.
    fn remove(&mut self) -> Result<(), String>;
}
