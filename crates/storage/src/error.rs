//! What can go wrong with layers, snapshots and ranges.

use std::io;

use oci::Digest;

/// A failure of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[error(transparent)]
    Sys(#[from] sys::Error),
    /// The stream that the archive is read from failed.
    #[error("cannot read the layer archive: {0}")]
    Source(#[source] io::Error),
    /// The stream that an archive is written to failed.
    #[error("cannot write the archive: {0}")]
    Archive(#[source] io::Error),
    /// The archive ends in the middle.
    #[error("the layer archive is truncated")]
    Truncated,
    /// The archive's bytes are not a tar archive that every reader would read alike.
    #[error("the layer archive is malformed at {entry:?}: {reason}")]
    Malformed {
        /// Name of the entry, as far as it was known.
        entry: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A well-formed entry asks for something that no layer may have.
    #[error("the layer archive's entry {entry:?} is refused: {reason}")]
    Refused {
        /// Name of the entry.
        entry: String,
        /// Why it is refused.
        reason: &'static str,
    },
    /// The archive exceeds a bound.
    #[error("the layer archive exceeds the limit of {limit} {what}")]
    Limit {
        /// What is bounded.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
    /// What the process that unpacks found wrong with the archive, in the words of the errors above.
    #[error("{0}")]
    Unpack(String),
    /// The process that unpacks did not come to its end: it was killed, or has crashed.
    #[error("the process that unpacks the layer {0}")]
    Jail(String),
    /// A layer is not in the store.
    #[error("layer {0} is not in the store")]
    MissingLayer(Digest),
    /// A layer was committed without an archive that was applied to the end.
    #[error("the layer was not unpacked to its end")]
    Unfinished,
    /// A snapshot was asked for over no layer at all.
    #[error("an image without layers has no root file system")]
    NoLayers,
    /// A layer's record in another format than this program's. It may be right, and is left alone.
    #[error(
        "the record of layer {layer} was written by another version of lighter: its format is {version}, this one knows {known}"
    )]
    OtherVersion {
        /// The layer.
        layer: Digest,
        /// Its record's format.
        version: u32,
        /// This program's.
        known: u32,
    },
    /// A layer's record cannot be understood.
    #[error("the record of layer {layer} is damaged: {reason}")]
    Record {
        /// The layer.
        layer: Digest,
        /// What is wrong with the record.
        reason: String,
    },
    /// Parts of a tree could not be removed; everything else was.
    #[error("{failures} entries below {path:?} could not be removed; the first: {first}")]
    NotRemoved {
        /// The tree.
        path: String,
        /// How many entries failed.
        failures: u64,
        /// The first failure.
        first: sys::Error,
    },
    /// A directory was moved away while its tree was walked.
    #[error("the tree below {0:?} changed while it was walked")]
    Moved(String),
    /// A container id that cannot be a file name.
    #[error("container id {0:?} is not a file name")]
    InvalidId(String),
    /// There is no volume of this name.
    #[error("get {0}: no such volume")]
    NoSuchVolume(String),
    /// A volume's record cannot be understood.
    #[error("the record of volume {volume} is damaged: {reason}")]
    VolumeRecord {
        /// The volume.
        volume: String,
        /// What is wrong with the record.
        reason: String,
    },
    /// Every id range is leased.
    #[error("all {0} user id ranges are in use")]
    NoFreeRange(u16),
}

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An archive's name as text for people.
pub(crate) fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
