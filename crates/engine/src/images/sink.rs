//! The seam between images and storage: layers come in any order and from several threads, and an image's are committed
//! together, because each takes over what it leaves unsaid from those below it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use image::{BoxError, Committed, LayerJob, LayerSink, LayerStream};
use oci::Digest;
use storage::{LayerStore, Staging};

/// Unpacks layers into a [`LayerStore`].
pub(super) struct Sink<'a> {
    layers: &'a LayerStore,
    /// Unpacked and verified, and not committed yet.
    staged: Mutex<HashMap<Digest, Staging>>,
}

/// Unpacks an archive into a new layer, in a process of its own.
pub(super) fn unpack(staging: &mut Staging, tar: &mut LayerStream) -> storage::Result<()> {
    // The program of this crate's own tests is not one that knows how to be the jail.
    #[cfg(not(test))]
    staging.unpack(tar)?;
    #[cfg(test)]
    staging.apply(tar, &storage::Limits::default())?;
    Ok(())
}

/// The greatest owner or group of any file in these layers.
pub(crate) fn highest_id<'c>(layers: &LayerStore, chain: impl IntoIterator<Item = &'c Digest>) -> storage::Result<u32> {
    let mut highest = 0;
    for layer in chain {
        let info = layers.info(layer)?;
        highest = highest.max(info.max_uid).max(info.max_gid);
    }
    Ok(highest)
}

impl<'a> Sink<'a> {
    pub(super) fn new(layers: &'a LayerStore) -> Self {
        Self { layers, staged: Mutex::new(HashMap::new()) }
    }
}

impl LayerSink for Sink<'_> {
    fn contains(&self, chain_id: &Digest) -> bool {
        self.layers.contains(chain_id).unwrap_or(false)
    }

    fn unpack(&self, job: LayerJob<'_>) -> Result<(), BoxError> {
        let mut staging = self.layers.stage()?;
        unpack(&mut staging, job.tar)?;
        job.tar.verify()?;
        self.staged.lock().unwrap_or_else(PoisonError::into_inner).insert(job.chain_id.clone(), staging);
        Ok(())
    }

    fn commit(&self, chain: &[Digest]) -> Result<Committed, BoxError> {
        let mut staged = self.staged.lock().unwrap_or_else(PoisonError::into_inner);
        let layers = chain.iter().map(|id| (id.clone(), staged.remove(id)));
        self.layers.commit_all(layers.collect())?;
        let highest_id = Some(highest_id(self.layers, chain)?);
        Ok(Committed { highest_id, copied: !self.layers.takes_overlay()? })
    }
}
