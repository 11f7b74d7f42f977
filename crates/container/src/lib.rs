//! One container: its records on disk, its pure lifecycle, the monitor that owns one run of it, and the client's half of
//! the conversation with that monitor.

pub mod client;
pub mod dir;
pub mod error;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod id;
pub mod lifecycle;
pub mod log;
pub mod monitor;
pub mod names;
pub mod protocol;
pub mod record;
pub mod recover;
pub mod request;
#[cfg(test)]
mod scratch;

pub use client::Session;
pub use dir::{ContainerDir, Observed};
pub use error::{Error, Result};
pub use id::{ContainerId, ContainerName};

// The engine resolves capabilities and filters when a container is made, joins processes to it, and does not know the
// runtime otherwise.
pub use runtime::{Error as RuntimeError, ErrorKind as RuntimeErrorKind};
pub use runtime::{Exec, Identity, Joined, Stdio, capability, exec, seccomp};
