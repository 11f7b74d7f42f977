//! Images: the verbs, and the seam between the registry client, the archives and the layer store.

mod check;
mod collect;
mod compare;
mod filter;
mod inbound;
mod manifests;
mod mounts;
mod outbound;
mod reclaim;
mod registry;
mod repair;
mod sink;
mod tree;
mod types;

use std::collections::BTreeMap;
use std::sync::Arc;

use image::{ContentStore, ImageRecord, ImageStore};
use jiff::Timestamp;
use oci::image::ImageConfig;
use oci::{Digest, Reference};

pub(crate) use sink::highest_id;

pub use check::{Problem, ProblemKind, StoreReport};
pub use manifests::{ManifestAnnotation, ManifestDetails, ManifestFound, ManifestListPushed};
pub use mounts::MountedImage;
pub use reclaim::{DiskUsage, LayerShare, PruneFilter, Pruned};
pub use repair::{RepairReport, Repaired};
pub use tree::{ImageTree, PlatformImage};
pub use types::{
    HistoryStep, ImageDetails, ImageFilter, ImageSummary, ImportOptions, Loaded, LoginKept, PullOptions, PushOptions,
    Pushed, Removed, SearchHit, SearchOptions,
};

use crate::{Engine, Error, ErrorKind, Result};

/// Most bytes of an image's configuration document.
const CONFIG_LIMIT: u64 = 8 << 20;

/// What a table shows where there is no name.
const NONE: &str = "<none>";

impl Engine {
    pub(crate) fn content_store(&self) -> Result<Arc<ContentStore>> {
        Ok(Arc::new(ContentStore::new(&self.paths.content())))
    }

    pub(crate) fn image_store(&self) -> Result<ImageStore> {
        Ok(ImageStore::open(&self.paths.images(), self.content_store()?)?)
    }

    /// The images a filter lets through, newest first: one entry for each name.
    ///
    /// # Errors
    /// A directory that cannot be read; a filter that names no image.
    pub fn images(&self, filter: &ImageFilter) -> Result<Vec<ImageSummary>> {
        let store = self.image_store()?;
        let created_of = |said: &Option<String>| -> Result<Option<Timestamp>> {
            match said {
                None => Ok(None),
                Some(said) => Ok(Some(moment(store.resolve(said)?.created.as_deref()))),
            }
        };
        let (before, since) = (created_of(&filter.before)?, created_of(&filter.since)?);
        let users = self.users()?;
        let mut found = Vec::new();
        for record in store.list()?.records {
            let summary = self.summary_of(&record, &users)?;
            let created = moment(record.created.as_deref());
            let in_time = before.is_none_or(|before| created < before)
                && since.is_none_or(|since| created > since)
                && filter.until.is_none_or(|until| created < until);
            if in_time && filter::admits(filter, &record, &summary) {
                found.push(summary);
            }
        }
        found.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.reference.cmp(&b.reference)));
        Ok(found)
    }

    pub(crate) fn summary_of(&self, record: &ImageRecord, users: &BTreeMap<Digest, Users>) -> Result<ImageSummary> {
        let reference = record.reference.as_ref();
        let mut size: u64 = 0;
        for layer in record.chain() {
            // A layer that is damaged or gone is said where it is needed, not in a list.
            size = size.saturating_add(self.layers()?.usage(layer).map_or(0, |usage| usage.bytes));
        }
        Ok(ImageSummary {
            id: record.id().clone(),
            reference: reference.map(Reference::familiar),
            repository: reference.map_or_else(|| NONE.to_owned(), Reference::familiar_name),
            tag: reference.and_then(Reference::tag).unwrap_or(NONE).to_owned(),
            digest: record.target.digest.clone(),
            created: record.created.clone().unwrap_or_default(),
            size,
            labels: record.config.labels.clone(),
            platform: record.platform.to_string(),
            containers: users.get(record.id()).map_or(0, |users| users.count),
            changed: false,
        })
    }

    /// Gives the image `source` one more name.
    ///
    /// # Errors
    /// No such image; a name that is none.
    pub fn tag(&self, source: &str, target: &str) -> Result<()> {
        let reference: Reference = target.parse()?;
        if reference.digest().is_some() {
            return Err(Error::new(ErrorKind::Invalid, "refusing to create a tag with a digest reference"));
        }
        let _lease = self.lease()?;
        let store = self.image_store()?;
        let record = store.resolve(source)?;
        Ok(store.tag(&record, &reference)?)
    }

    /// Takes names away from an image, all of them when `names` is empty; the image stays. Gives the names that are gone.
    ///
    /// # Errors
    /// [`ErrorKind::NoSuchImage`]; a name that is none, or that the image does not have.
    pub fn untag(&self, image: &str, names: &[String]) -> Result<Vec<String>> {
        let wanted = names.iter().map(|name| name.parse()).collect::<std::result::Result<Vec<Reference>, _>>()?;
        let _lease = self.lease()?;
        let gone = self.image_store()?.untag(image, &wanted)?;
        Ok(gone.iter().map(Reference::familiar).collect())
    }

    /// Removes a name, and the image with its last one. With `no_prune` its layers stay until the next collection.
    ///
    /// # Errors
    /// [`ErrorKind::NoSuchImage`]; [`ErrorKind::Conflict`] when containers need it, in docker's words.
    pub fn remove_image(&self, name: &str, force: bool, no_prune: bool) -> Result<Vec<Removed>> {
        let users = self.users()?;
        let store = self.image_store()?;
        let image = store.resolve(name)?.id().clone();
        if self.is_image_mounted(&image)? && (name.parse::<Reference>().is_err() || store.names_of(&image)?.len() < 2) {
            if !force {
                let sentence = format!("conflict: unable to remove {name}: the image is mounted");
                return Err(Error::new(ErrorKind::Conflict, sentence)
                    .hint("lighter image unmount first, or remove it by force"));
            }
            self.unmount_image(&image.to_string(), true)?;
        }
        let removed = store.remove(name, force, &|id| match users.get(id) {
            None => image::store::Use::Unused,
            Some(Users { running: Some(container), .. }) => image::store::Use::Running(container.clone()),
            Some(users) => image::store::Use::Stopped(users.any.clone()),
        })?;
        if !no_prune {
            self.collect()?;
        }
        Ok(removed.into_iter().map(Removed::from).collect())
    }

    /// Everything about an image.
    ///
    /// # Errors
    /// [`ErrorKind::NoSuchImage`]; a configuration that is gone or damaged.
    pub fn inspect_image(&self, name: &str) -> Result<ImageDetails> {
        let content = self.content_store()?;
        let store = ImageStore::open(&self.paths.images(), Arc::clone(&content))?;
        let record = store.resolve(name)?;
        let bytes = content.read(&record.config_blob.digest, CONFIG_LIMIT)?;
        let config = ImageConfig::from_json(&bytes).map_err(|error| {
            Error::new(ErrorKind::BadImage, format!("the configuration of {name} is damaged")).because(error)
        })?;
        let names = store.names_of(record.id())?;
        let digest = record.id();
        let mut repo_digests: Vec<String> =
            names.iter().map(|name| format!("{}@{digest}", name.familiar_name())).collect();
        repo_digests.sort();
        repo_digests.dedup();
        let summary = self.summary_of(&record, &BTreeMap::new())?;
        let dir = self.paths.layers();
        let mut layers: Vec<_> = record.chain().map(|chain| dir.join(chain.hex()).join("diff")).collect();
        layers.reverse();
        Ok(ImageDetails {
            id: digest.clone(),
            repo_tags: names.iter().filter(|name| name.tag().is_some()).map(Reference::familiar).collect(),
            repo_digests,
            manifest: record.manifest.digest.clone(),
            media_type: record.target.media_type.clone(),
            target_size: record.target.size,
            config,
            size: summary.size,
            layers,
            tagged: store.written(&record).map_or_else(String::new, |time| time.to_string()),
        })
    }
}

/// When an image was made; one that does not say is old.
fn moment(created: Option<&str>) -> Timestamp {
    created.and_then(|text| text.parse().ok()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Who uses an image.
#[derive(Clone, Debug, Default)]
pub(crate) struct Users {
    /// Containers made from it.
    pub(crate) count: usize,
    /// Short id of a running one.
    pub(crate) running: Option<String>,
    /// Short id of any.
    pub(crate) any: String,
}

#[cfg(test)]
pub(crate) mod tests;
