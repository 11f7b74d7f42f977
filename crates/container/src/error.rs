//! Errors of this crate.

use std::path::PathBuf;

use crate::lifecycle::Refused;
use crate::{ContainerId, ContainerName};

/// Why an operation on a container failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused.
    #[error("{doing}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// The call, its object and the errno.
        source: sys::Error,
    },
    /// A record on disk cannot be used. Only this container is affected.
    #[error("record {} is damaged: {reason}", path.display())]
    Damaged {
        /// The record.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no such container.
    #[error("no such container: {0}")]
    NotFound(String),
    /// The name belongs to another container.
    #[error("the container name \"{name}\" is already in use by container {id}")]
    NameInUse {
        /// The name.
        name: ContainerName,
        /// Its owner.
        id: ContainerId,
    },
    /// The lifecycle does not allow it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Another process holds the container's lock.
    #[error("the container is in use by another command")]
    Locked,
    /// A wait ended without its event.
    #[error("timed out {0}")]
    Timeout(&'static str),
    /// No monitor answers, or it went away in the middle of a conversation.
    #[error("the container's monitor has gone away")]
    MonitorGone,
    /// A monitor or a client said something that is not in the protocol.
    #[error("unintelligible message between monitor and client: {0}")]
    Protocol(String),
    /// The monitor refused a request, in its own words.
    #[error("{0}")]
    Request(String),
}

/// The result of an operation on a container.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Says what was being done when a system call failed.
pub(crate) trait Doing<T> {
    /// Adds the sentence.
    fn doing(self, doing: &'static str) -> Result<T>;
}

impl<T> Doing<T> for sys::Result<T> {
    fn doing(self, doing: &'static str) -> Result<T> {
        self.map_err(|source| Error::System { doing, source })
    }
}

/// An error and its causes, outermost first, as sentences.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> Vec<String> {
    let mut sentences = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        sentences.push(error.to_string());
        cause = error.source();
    }
    sentences
}
