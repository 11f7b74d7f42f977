//! Why a container could not be made or started.

use std::fmt;

/// What went wrong, for a caller that must choose an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The configuration is wrong; nothing was made.
    Config,
    /// The command does not exist in the container.
    CommandNotFound,
    /// The command exists and cannot be executed.
    CommandNotExecutable,
    /// The user or group is not known in the container.
    UnknownUser,
    /// A limit is below what the process needs to start.
    Limit,
    /// A kernel feature or a privilege is missing.
    Unsupported,
    /// Any other refusal of the kernel.
    System,
}

/// A failed create, start or exec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    doing: String,
    cause: Option<sys::Error>,
}

/// The result of a runtime operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` while `doing` (a sentence without a final stop).
    pub fn new(kind: ErrorKind, doing: impl Into<String>) -> Self {
        Self { kind, doing: doing.into(), cause: None }
    }

    /// `doing` failed because the kernel refused.
    pub fn system(doing: impl Into<String>, cause: sys::Error) -> Self {
        Self { kind: ErrorKind::System, doing: doing.into(), cause: Some(cause) }
    }

    /// The same error under another kind.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What was being done.
    #[must_use]
    pub fn doing(&self) -> &str {
        &self.doing
    }

    /// The system call that failed.
    #[must_use]
    pub fn cause(&self) -> Option<&sys::Error> {
        self.cause.as_ref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.doing)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_ref().map(|cause| cause as _)
    }
}

/// Says what was being done when a system call failed.
pub trait Doing<T> {
    /// Adds the sentence.
    ///
    /// # Errors
    /// The error of `self` as a [`ErrorKind::System`].
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Doing<T> for sys::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|cause| Error::system(what(), cause))
    }
}
