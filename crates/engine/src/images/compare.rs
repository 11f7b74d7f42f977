//! `store check --deep`: every layer is unpacked once more, beside the store, and compared with the one that is there.
//!
//! A count of files does not see a byte that changed in place. A digest over each tree would, at the price of reading
//! everything once more on every pull; the blobs are here and say the same, so the price is paid by who asks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use image::{BoxError, Committed, ImageRecord, Inbound, LayerJob, LayerSink, Quiet};
use oci::Digest;
use storage::LayerStore;

use super::check::{ProblemKind, StoreReport};
use super::sink::unpack;
use crate::{Engine, Result};

/// What is known of the layers that were compared: in what they differ.
type Verdicts = BTreeMap<Digest, Option<String>>;

/// Unpacks layers to compare them, and keeps nothing.
struct Comparing<'a> {
    layers: &'a LayerStore,
    verdicts: Mutex<Verdicts>,
}

impl LayerSink for Comparing<'_> {
    /// What is compared already need not be unpacked again, and what is not in the store cannot be compared.
    fn contains(&self, chain_id: &Digest) -> bool {
        let known = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner).contains_key(chain_id);
        known || !self.layers.contains(chain_id).unwrap_or(false)
    }

    fn unpack(&self, job: LayerJob<'_>) -> std::result::Result<(), BoxError> {
        let mut staging = self.layers.stage()?;
        unpack(&mut staging, job.tar)?;
        job.tar.verify()?;
        let verdict = match staging.compare(job.chain_id, job.parents) {
            Ok(verdict) => verdict,
            // A layer below is not there: that is told of that one.
            Err(storage::Error::MissingLayer(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner).insert(job.chain_id.clone(), verdict);
        Ok(())
    }

    fn commit(&self, _chain: &[Digest]) -> std::result::Result<Committed, BoxError> {
        Ok(Committed::default())
    }
}

impl Engine {
    /// Compares the layers of these images with their blobs. What `report` already says of a blob is not said again.
    pub(super) fn compare_layers(&self, records: &[ImageRecord], report: &StoreReport) -> Result<Verdicts> {
        let damaged: BTreeSet<&Digest> = report
            .problems
            .iter()
            .filter_map(|problem| match &problem.kind {
                ProblemKind::Blob(digest) => Some(digest),
                _ => None,
            })
            .collect();
        let (content, store, layers) = (self.content_store()?, self.image_store()?, self.layers()?);
        let sink = Comparing { layers, verdicts: Mutex::default() };
        for record in records {
            if record.blobs().any(|blob| damaged.contains(blob)) {
                continue;
            }
            let inbound = Inbound::new(&content, &store, &sink, &Quiet).platform(Some(record.platform.clone()));
            inbound.restore(record, None)?;
        }
        Ok(sink.verdicts.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}
