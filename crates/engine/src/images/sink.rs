//! The seam between images and storage: layers come in any order and from several threads, and an image's are committed
//! together, because each takes over what it leaves unsaid from those below it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use image::{BoxError, LayerJob, LayerSink};
use oci::Digest;
use storage::{LayerStore, Staging};

/// Unpacks layers into a [`LayerStore`].
pub(super) struct Sink<'a> {
    layers: &'a LayerStore,
    /// Unpacked and verified, and not committed yet.
    staged: Mutex<HashMap<Digest, Staging>>,
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
        // The program of this crate's own tests is not one that knows how to be the jail.
        #[cfg(not(test))]
        staging.unpack(job.tar)?;
        #[cfg(test)]
        staging.apply(job.tar, &storage::Limits::default())?;
        job.tar.verify()?;
        self.staged.lock().unwrap_or_else(PoisonError::into_inner).insert(job.chain_id.clone(), staging);
        Ok(())
    }

    fn commit(&self, chain: &[Digest]) -> Result<(), BoxError> {
        let mut staged = self.staged.lock().unwrap_or_else(PoisonError::into_inner);
        let layers = chain.iter().map(|id| (id.clone(), staged.remove(id)));
        Ok(self.layers.commit_all(layers.collect())?)
    }
}
