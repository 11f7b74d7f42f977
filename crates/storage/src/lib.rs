//! Layers on disk, the writable layer of a container, and what user namespaces need of a file system.
//!
//! - [`layers`]: immutable layers, complete as soon as their name exists; [`staging`] is how one comes to be.
//! - [`jail`]: the process that an archive is unpacked in.
//! - [`archive`]: bounds on layer archives; reading tar is ours, so that no reader disagrees with the one that writes.
//! - [`snapshot`]: upper and work directory of a container, and the overlay they form with an image's layers.
//! - [`flat`]: a copy of an image's root, where there can be no overlay.
//! - [`volumes`]: directories that outlive containers, and the image's content they get at first.
//! - [`export`]: a root file system written as one archive.
//! - [`ranges`]: leases of user and group id ranges.
//! - [`idmap`]: which file systems can be mounted with mapped ids.
//!
//! Every path inside a layer is resolved by the kernel from an open directory (`openat2`, `RESOLVE_IN_ROOT`) and used by
//! descriptor; nothing here follows a link out of a layer, executes, or prints.

pub mod archive;
mod check;
mod compare;
pub mod error;
pub mod export;
mod extract;
pub mod flat;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod idmap;
mod inherit;
pub mod jail;
pub mod layers;
pub mod ranges;
mod record;
pub mod snapshot;
pub mod staging;
mod tree;
pub mod volumes;
mod walk;
mod xattr;

pub use archive::Limits;
pub use check::Leftovers;
pub use error::{Error, Result};
pub use layers::LayerStore;
pub use staging::{LayerStats, Staging};
pub use volumes::{Volume, VolumeName, VolumeStore};
pub use walk::Usage;
