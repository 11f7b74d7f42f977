//! What can go wrong with images.

use std::io;
use std::time::Duration;

use oci::image::InvalidDocument;
use oci::{Digest, Platform};

use crate::codec::CodecError;

/// Any error, as sinks give it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// The result of work on images.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of this crate; each kind says what the user can look at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[error(transparent)]
    Sys(#[from] sys::Error),
    /// Reading from a stream failed.
    #[error("cannot read {what}: {source}")]
    Read {
        /// Which stream.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// Writing to a stream of the caller failed.
    #[error("cannot write {what}: {source}")]
    Write {
        /// Which stream.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// A stream or document is larger than its bound.
    #[error("{what} is larger than {limit} bytes")]
    TooLarge {
        /// What is too large.
        what: String,
        /// The bound, in bytes.
        limit: u64,
    },
    /// Content does not have the digest it was named by.
    #[error("{what} has digest {actual}, expected {expected}")]
    Digest {
        /// What was verified.
        what: String,
        /// The digest it was named by.
        expected: Digest,
        /// The digest it has.
        actual: Digest,
    },
    /// Content does not have the size its descriptor says.
    #[error("{what} has {actual} bytes, expected {expected}")]
    Size {
        /// What was verified.
        what: String,
        /// The size it should have.
        expected: u64,
        /// The size it has.
        actual: u64,
    },
    /// A layer cannot be decompressed.
    #[error("{what}: {source}")]
    Codec {
        /// Which stream.
        what: String,
        /// Why.
        source: CodecError,
    },
    /// A manifest or index is not acceptable.
    #[error("{what}: {source}")]
    Document {
        /// Which document.
        what: String,
        /// Why.
        source: InvalidDocument,
    },
    /// Input does not follow its format.
    #[error("{what}: {reason}")]
    Malformed {
        /// What is malformed.
        what: String,
        /// How.
        reason: String,
    },
    /// The input is of a kind this program does not handle.
    #[error("{0}")]
    Unsupported(String),
    /// The image has no manifest for the platform.
    #[error("no image for platform {wanted}; it is offered for: {offered}")]
    NoPlatform {
        /// The platform asked for.
        wanted: Box<Platform>,
        /// The platforms there are, separated by commas.
        offered: String,
    },
    /// No image has this name or id.
    #[error("No such image: {0}")]
    NoSuchImage(String),
    /// Several images match an id prefix.
    #[error("image id {prefix:?} is ambiguous: {candidates:?}")]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// The ids that match.
        candidates: Vec<String>,
    },
    /// The request contradicts what exists.
    #[error("conflict: {0}")]
    Conflict(String),
    /// A blob that must be here is not.
    #[error("blob {0} is missing from the content store")]
    MissingBlob(Digest),
    /// A record cannot be understood.
    #[error("image record {name:?} is damaged: {reason}")]
    DamagedRecord {
        /// File name of the record.
        name: String,
        /// How.
        reason: String,
    },
    /// A record in another format than this program's. It may be right, and is left alone.
    #[error(
        "image record {name:?} was written by another version of lighter: its format is {version}, this one knows {known}"
    )]
    OtherVersion {
        /// File name of the record.
        name: String,
        /// Its format.
        version: u32,
        /// This program's.
        known: u32,
    },
    /// Unpacking a layer failed.
    #[error("cannot unpack layer {diff_id}: {source}")]
    Unpack {
        /// The layer.
        diff_id: Digest,
        /// The sink's reason.
        source: BoxError,
    },
    /// The unpacked layers could not be made visible.
    #[error("cannot commit the layers of image {image}: {source}")]
    Commit {
        /// The image's id.
        image: Digest,
        /// The sink's reason.
        source: BoxError,
    },
    /// Work stopped because other work on the same image failed.
    #[error("cancelled")]
    Cancelled,
    /// The registry cannot be reached, and another attempt would not change that.
    #[error("registry {registry} cannot be reached: {reason}")]
    Unreachable {
        /// Host and port.
        registry: String,
        /// What happened.
        reason: String,
    },
    /// The conversation with the registry broke.
    #[error("registry {registry}: {reason}")]
    Transport {
        /// Host and port.
        registry: String,
        /// What happened.
        reason: String,
    },
    /// What is configured for registries cannot be used.
    #[error("{what}: {reason}")]
    Configuration {
        /// The file, or the setting.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Configuration forbids to use the registry.
    #[error("registry {registry} is blocked by configuration: {repository}")]
    Blocked {
        /// Host and port.
        registry: String,
        /// Registry and repository.
        repository: String,
    },
    /// The registry wants other credentials, or any.
    #[error("registry {registry}: access to {repository} denied: {reason}")]
    Denied {
        /// Host and port.
        registry: String,
        /// Path of the repository.
        repository: String,
        /// The registry's words.
        reason: String,
    },
    /// The registry does not accept a login.
    #[error("registry {registry}: login refused: {reason}")]
    Login {
        /// Host and port.
        registry: String,
        /// The registry's words.
        reason: String,
    },
    /// A credential helper does not do its work.
    #[error("{program}: {reason}")]
    Helper {
        /// The program.
        program: String,
        /// What it says, or what is wrong with it.
        reason: String,
    },
    /// The registry does not have it.
    #[error("registry {registry}: {what} not found")]
    NotFound {
        /// Host and port.
        registry: String,
        /// Repository and tag or digest.
        what: String,
    },
    /// The registry answered with a status nobody expects.
    #[error("registry {registry}: unexpected status {status} from {what}{reason}")]
    Status {
        /// Host and port.
        registry: String,
        /// What was asked for.
        what: String,
        /// HTTP status.
        status: u16,
        /// The registry's words, with a leading colon, or nothing.
        reason: String,
        /// How long the registry asks to wait.
        retry_after: Option<Duration>,
    },
}

impl Error {
    pub(crate) fn configuration(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Configuration { what: what.into(), reason: reason.into() }
    }

    pub(crate) fn malformed(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Malformed { what: what.into(), reason: reason.into() }
    }

    /// The error for a failed read of `what`; an error of ours that travelled inside `source` comes out again.
    pub(crate) fn read(what: impl Into<String>, source: io::Error) -> Self {
        match Self::from_io(source) {
            Ok(own) => own,
            Err(source) => Self::Read { what: what.into(), source },
        }
    }

    fn from_io(source: io::Error) -> std::result::Result<Self, io::Error> {
        if source.get_ref().is_some_and(|inner| inner.is::<Self>()) {
            let Some(inner) = source.into_inner() else { return Ok(Self::Cancelled) };
            return match inner.downcast::<Self>() {
                Ok(own) => Ok(*own),
                Err(other) => Err(io::Error::other(other)),
            };
        }
        if source.get_ref().is_some_and(|inner| inner.is::<CodecError>()) {
            let Some(inner) = source.into_inner() else { return Ok(Self::Cancelled) };
            return match inner.downcast::<CodecError>() {
                Ok(codec) => Ok(Self::Codec { what: "compressed stream".to_owned(), source: *codec }),
                Err(other) => Err(io::Error::other(other)),
            };
        }
        Err(source)
    }

    /// This error inside an `io::Error`, to travel through `Read`.
    pub(crate) fn into_io(self) -> io::Error {
        io::Error::other(self)
    }
}
