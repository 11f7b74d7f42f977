//! The seam between images and storage: layers come in any order and from several threads, and are committed from the
//! base upwards, because each takes over what it leaves unsaid from those below it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use image::{BoxError, LayerJob, LayerSink};
use oci::Digest;
use storage::{LayerStore, Limits, Staging};

/// Unpacks layers into a [`LayerStore`].
pub(super) struct Sink<'a> {
    layers: &'a LayerStore,
    waiting: Mutex<HashMap<Digest, Waiting>>,
}

/// A layer that is unpacked and verified, and waits for those below it.
struct Waiting {
    staging: Staging,
    parents: Vec<Digest>,
}

impl<'a> Sink<'a> {
    pub(super) fn new(layers: &'a LayerStore) -> Self {
        Self { layers, waiting: Mutex::new(HashMap::new()) }
    }

    /// Commits every waiting layer whose parents are there, or wait as well, with one synchronisation a chain. Layers
    /// that still miss a parent go on waiting: it is under way, and calls again.
    fn commit(&self) -> Result<(), BoxError> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let mut ready: Option<Digest> = None;
            for (id, layer) in waiting.iter() {
                let mut complete = true;
                for parent in &layer.parents {
                    if !waiting.contains_key(parent) && !self.layers.contains(parent)? {
                        complete = false;
                        break;
                    }
                }
                let longest = ready.as_ref().and_then(|id| waiting.get(id)).map_or(0, |other| other.parents.len());
                if complete && (ready.is_none() || layer.parents.len() > longest) {
                    ready = Some(id.clone());
                }
            }
            let Some(top) = ready else { return Ok(()) };
            let parents = waiting.get(&top).map(|layer| layer.parents.clone()).unwrap_or_default();
            let chain = parents.into_iter().chain([top]);
            let chain = chain.map(|id| {
                let staging = waiting.remove(&id).map(|layer| layer.staging);
                (id, staging)
            });
            self.layers.commit_all(chain.collect())?;
        }
    }
}

impl LayerSink for Sink<'_> {
    fn contains(&self, chain_id: &Digest) -> bool {
        self.layers.contains(chain_id).unwrap_or(false)
    }

    fn unpack(&self, job: LayerJob<'_>) -> Result<(), BoxError> {
        let mut staging = self.layers.stage()?;
        staging.apply(job.tar, &Limits::default())?;
        job.tar.verify()?;
        let parents = job.parents.to_vec();
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(job.chain_id.clone(), Waiting { staging, parents });
        self.commit()
    }
}
