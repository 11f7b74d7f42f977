//! Networks of containers.
//!
//! Two kinds exist: [`Attachment::None`], an own network namespace with nothing but loopback, and [`Attachment::Host`],
//! the host's. [`files`] writes what the C library's resolver reads inside a container.

pub mod files;

use std::fmt;

/// What a container's processes see of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Attachment {
    /// An own namespace with loopback only.
    None,
    /// The host's namespace.
    Host,
}

impl Attachment {
    /// Whether the container has a network namespace of its own.
    #[must_use]
    pub fn is_private(self) -> bool {
        self == Self::None
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Host => "host",
        })
    }
}
