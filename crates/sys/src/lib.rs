//! The kernel, fenced: every `unsafe` block and every system call that rustix lacks.
//!
//! Functions take `AsFd` and give `OwnedFd`, always close-on-exec. A failure is an [`Error`] that names the call, the
//! object it was made on and the errno.

#![expect(unsafe_code, reason = "this crate is the one place for it; every block says why it is sound")]

pub mod bpf;
pub mod capability;
pub mod error;
pub mod file_calls;
pub mod fs;
pub mod memory;
pub mod mount;
pub mod net;
pub mod notification;
pub mod overlay;
pub mod process;
pub mod pty;
pub mod route;
pub mod schedule;
pub mod sealed;
pub mod seccomp;
pub mod shared;
pub mod signal;
pub mod socket;

pub use error::{Context, Error, Result};
pub use rustix::io::Errno;
