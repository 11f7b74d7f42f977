//! Signals: masks, dispositions and signalfd.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::error::{Error, Result};

/// A set of signal numbers, 1 to 64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignalSet(u64);

impl SignalSet {
    /// No signal.
    #[must_use]
    pub const fn empty() -> Self {
        Self(0)
    }

    /// Every signal that can be blocked.
    #[must_use]
    pub const fn all() -> Self {
        Self(u64::MAX)
    }

    /// The set with `signal` in it; a number outside 1 to 64 changes nothing.
    #[must_use]
    pub const fn with(self, signal: i32) -> Self {
        if signal < 1 || signal > 64 { self } else { Self(self.0 | 1 << (signal - 1)) }
    }

    /// The set with `signal` left out.
    #[must_use]
    pub const fn without(self, signal: i32) -> Self {
        if signal < 1 || signal > 64 { self } else { Self(self.0 & !(1 << (signal - 1))) }
    }
}

/// Size of the kernel's signal set, in bytes.
const KERNEL_SET: usize = 8;

/// Blocks exactly the signals of `set` and gives the set that was blocked before. The kernel's call, not the C
/// library's: that one would leave its internal signals out.
///
/// # Errors
/// rt_sigprocmask(2)'s.
pub fn block(set: SignalSet) -> Result<SignalSet> {
    let mut before = 0_u64;
    // SAFETY: both sets are eight bytes, the size given.
    let status = unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const set.0, &raw mut before, KERNEL_SET)
    };
    if status == 0 { Ok(SignalSet(before)) } else { Err(last("rt_sigprocmask", "")) }
}

/// A descriptor that reads the signals of `set`, which the caller has blocked.
///
/// # Errors
/// signalfd(2)'s.
pub fn descriptor(set: SignalSet) -> Result<OwnedFd> {
    let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
    // SAFETY: the set is eight bytes, the size given; −1 asks for a new descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_signalfd4, -1, &raw const set.0, KERNEL_SET, flags) };
    match i32::try_from(fd) {
        // SAFETY: a new descriptor that nothing else owns.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(last("signalfd4", "")),
    }
}

/// The next signal of a [`descriptor`], with its sender's pid; `None` when there is none now.
///
/// # Errors
/// read(2)'s.
pub fn next(descriptor: &OwnedFd) -> Result<Option<(i32, u32)>> {
    let mut info = [0_u8; size_of::<libc::signalfd_siginfo>()];
    loop {
        // SAFETY: the buffer has the length given.
        let length = unsafe { libc::read(descriptor.as_raw_fd(), info.as_mut_ptr().cast(), info.len()) };
        if length >= 0 {
            break;
        }
        match last("read", "signalfd") {
            error if error.errno() == Errno::INTR => {}
            error if error.errno() == Errno::AGAIN => return Ok(None),
            error => return Err(error),
        }
    }
    // signalfd_siginfo (signalfd(2)): ssi_signo at 0, ssi_errno 4, ssi_code 8, ssi_pid 12.
    let word = |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
    Ok(Some((i32::try_from(word(0)).unwrap_or(0), word(12))))
}

/// Gives every signal its default disposition, as a program expects that a container starts: ignored signals survive
/// execve(2). The kernel's call, since the C library keeps its two internal signals to itself, and its posix_spawn
/// leaves them ignored.
pub fn reset_dispositions() {
    // struct sigaction of the kernel: handler, flags, restorer, mask. All zero is SIG_DFL.
    let default = [0_u64; 4];
    let none = std::ptr::null_mut::<u64>();
    for signal in 1..=64 {
        // SAFETY: the kernel reads one sigaction and stores none; it refuses SIGKILL and SIGSTOP, which is fine.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), none, KERNEL_SET) };
    }
}

/// Ignores `signal`.
pub fn ignore(signal: i32) {
    // SAFETY: SIG_IGN installs no handler.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

fn last(call: &'static str, object: &str) -> Error {
    let errno = std::io::Error::last_os_error().raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
    Error::new(call, object, errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_is_read() {
        let before = block(SignalSet::empty().with(libc::SIGUSR2)).expect("blocked");
        let fd = descriptor(SignalSet::empty().with(libc::SIGUSR2)).expect("made");
        assert_eq!(next(&fd), Ok(None));
        // SAFETY: the call only asks for this thread's handle.
        let this = unsafe { libc::pthread_self() };
        // SAFETY: a signal to this very thread, which blocks it.
        unsafe { libc::pthread_kill(this, libc::SIGUSR2) };
        let (signal, pid) = next(&fd).expect("read").expect("pending");
        assert_eq!((signal, pid), (libc::SIGUSR2, std::process::id()));
        block(before).expect("restored");
    }
}
