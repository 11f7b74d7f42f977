//! Images: where they are kept, how they come in, and how they go out.
//!
//! - [`content`]: blobs by digest, in an OCI image layout other tools can read.
//! - [`store`]: what is named what: one small record per reference, with everything `run` needs.
//! - [`codec`]: gzip and zstd, bounded.
//! - [`layer`]: the seam to whoever unpacks layers, and progress.
//! - [`lists`]: manifest lists that are being put together.
//! - [`archive`]: images from archives, layouts and root file systems, and archives from images.
//! - [`registry`]: images from registries, and to them.
//!
//! An image becomes visible when its record is written, after every blob and layer it needs is durable; whatever a
//! crash leaves behind before that is unreferenced and collected.

pub mod archive;
mod assemble;
pub mod check;
mod closure;
pub mod codec;
pub mod content;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod inbound;
pub mod layer;
pub mod lists;
mod partial;
pub mod record;
pub mod registry;
pub mod store;
#[cfg(test)]
mod testing;

pub use codec::Limits;
pub use content::ContentStore;
pub use error::{BoxError, Error, Result};
pub use inbound::Inbound;
pub use layer::{Committed, LayerJob, LayerSink, LayerStream, Phase, Progress, Quiet};
pub use record::{ImageRecord, LayerRecord};
pub use store::ImageStore;
