//! Images from files: `docker save` archives, OCI layouts (as archives or directories) and root file systems.
//!
//! Archives are streams: members go into the content store as they come, named by the digest of what they hold, and
//! are looked up by their names in the archive afterwards. No name from an archive ever becomes a path.

mod changes;
mod docker;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod import;
mod layout;
mod members;
mod save;
mod spool;

pub use import::ImportOptions;
pub use save::{Chosen, save};

use std::io::Read;

use crate::assemble::Stored;
use crate::codec::Decoder;
use crate::{Error, ImageRecord, Inbound, Limits, Result};

/// How much more an archive may hold than one layer.
const ARCHIVE_FACTOR: u64 = 8;

impl Inbound<'_> {
    /// `load`: the images of an archive, compressed with gzip or zstd or not at all. The archive is read once, from
    /// its beginning, so it may be a pipe.
    ///
    /// # Errors
    /// What is wrong with the archive; system call errors; the sink's.
    pub fn load(&self, reader: &mut dyn Read) -> Result<Vec<ImageRecord>> {
        let _lease = self.content.lease()?;
        let limits = Limits { max_output: self.limits.max_output.saturating_mul(ARCHIVE_FACTOR), ..self.limits };
        let decoder = Decoder::new(reader, None, limits).map_err(|e| Error::read("image archive", e))?;
        let spooled = spool::spool(self.content, decoder, self.limits.max_output)?;
        if let Some(index) = &spooled.index {
            return layout::load(self, index, &Stored);
        }
        if let Some(manifest) = &spooled.manifest {
            return docker::load(self, manifest, &spooled);
        }
        Err(Error::malformed(
            "image archive",
            "it has neither manifest.json nor index.json; to make an image of a root file system use import",
        ))
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

#[cfg(test)]
#[path = "save_tests.rs"]
mod save_tests;
