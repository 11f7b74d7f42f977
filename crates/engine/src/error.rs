//! Engine errors: a kind for the front-end's table of exit codes, a sentence, a cause, a hint.

use std::error::Error as StdError;
use std::fmt;

/// What went wrong, for front-ends that map it to exit codes or statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request is wrong.
    Invalid,
    /// No such container.
    NoSuchContainer,
    /// No such image.
    NoSuchImage,
    /// No such volume.
    NoSuchVolume,
    /// The name is taken, or the object's state forbids it.
    Conflict,
    /// The command does not exist in the container (127).
    CommandNotFound,
    /// The command cannot be executed (126).
    CommandNotExecutable,
    /// A privilege, a kernel feature or a file system feature is missing.
    Unsupported,
    /// The registry refused or could not be reached.
    Registry,
    /// An archive, manifest or layer is broken.
    BadImage,
    /// The disk is full.
    NoSpace,
    /// A record on disk is damaged.
    Damaged,
    /// The kernel refused.
    System,
}

/// A failed engine call.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The result of an engine call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` with a sentence for the user.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, source: None }
    }

    /// Adds what caused it.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What to do about it.
    #[must_use]
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
