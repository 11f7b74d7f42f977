//! `image prune`, `system prune`, `system df`: what takes up the disk, and giving it back.

use std::collections::{BTreeMap, BTreeSet};

use container::record::State;
use jiff::Timestamp;
use oci::Digest;

use super::{ImageSummary, Removed};
use crate::containers::has_label;
use crate::{ContainerFilter, ContainerSummary, Engine, RemoveOptions, Result};

/// What to prune among what is not used. All conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruneFilter {
    /// Images: tagged ones too.
    pub all: bool,
    /// Only what was made before this moment.
    pub until: Option<Timestamp>,
    /// `KEY` or `KEY=VALUE` that must be there.
    pub label: Vec<String>,
    /// `KEY` or `KEY=VALUE` that must not be there.
    pub label_not: Vec<String>,
}

/// What a pruning removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Ids of containers.
    pub containers: Vec<String>,
    /// Names and images.
    pub images: Vec<Removed>,
    /// Bytes that came free.
    pub reclaimed: u64,
}

/// How much of an image's unpacked layers other images use too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerShare {
    /// Bytes in layers of other images too.
    pub shared: u64,
    /// Bytes in layers of this image alone.
    pub unique: u64,
}

/// What takes up the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// One entry for each name of each image.
    pub images: Vec<(ImageSummary, LayerShare)>,
    /// How many images there are, each counted once.
    pub image_count: usize,
    /// How many of them containers are made from.
    pub images_active: usize,
    /// Bytes of all layers and of the blobs they came from.
    pub images_size: u64,
    /// Bytes of those that only images without containers need, or nothing at all.
    pub images_reclaimable: u64,
    /// All containers, with their sizes.
    pub containers: Vec<ContainerSummary>,
    /// How many of them run.
    pub containers_active: usize,
    /// Bytes of their writable layers.
    pub containers_size: u64,
    /// Bytes of the writable layers of those that do not run.
    pub containers_reclaimable: u64,
    /// All volumes, with their sizes.
    pub volumes: Vec<crate::VolumeDetails>,
}

fn admits(filter: &PruneFilter, created: &str, labels: &BTreeMap<String, String>) -> bool {
    // What does not say when it was made is old.
    let made = created.parse::<Timestamp>().unwrap_or(Timestamp::UNIX_EPOCH);
    filter.until.is_none_or(|until| made < until)
        && filter.label.iter().all(|label| has_label(labels, label))
        && !filter.label_not.iter().any(|label| has_label(labels, label))
}

fn is_running(state: State) -> bool {
    !matches!(state, State::Created | State::Exited | State::Dead | State::Removing)
}

impl Engine {
    /// Removes images that no container is made from: untagged ones, or with [`PruneFilter::all`] all of them.
    ///
    /// # Errors
    /// A directory that cannot be read; what was removed until then stays removed.
    pub fn prune_images(&self, filter: &PruneFilter) -> Result<Pruned> {
        let users = self.users()?;
        let store = self.image_store()?;
        let mut ids: BTreeSet<Digest> = BTreeSet::new();
        for record in store.list()?.records {
            let wanted = filter.all || record.reference.is_none();
            let created = record.created.as_deref().unwrap_or_default();
            if wanted
                && !self.is_image_mounted(record.id())?
                && !users.contains_key(record.id())
                && admits(filter, created, &record.config.labels)
            {
                ids.insert(record.id().clone());
            }
        }
        let mut pruned = Pruned::default();
        for id in ids {
            let removed = match store.remove(&id.to_string(), true, &|_| image::store::Use::Unused) {
                // Somebody was quicker.
                Err(image::Error::NoSuchImage(_)) => continue,
                removed => removed?,
            };
            pruned.images.extend(removed.into_iter().map(Removed::from));
        }
        pruned.reclaimed = self.forget_partials()?.saturating_add(self.collect()?);
        Ok(pruned)
    }

    /// Removes containers that do not run, and those whose removal was interrupted.
    ///
    /// # Errors
    /// A directory that cannot be read; a container that cannot be removed, after the others were.
    pub fn prune_containers(&self, filter: &PruneFilter) -> Result<Pruned> {
        let all = ContainerFilter { all: true, size: true, ..ContainerFilter::default() };
        let (mut pruned, mut failed) = (Pruned::default(), None);
        for summary in self.list(&all)? {
            let stopped = !is_running(summary.state);
            if !stopped || summary.damaged.is_some() || !admits(filter, &summary.created, &summary.labels) {
                continue;
            }
            match self.remove(&summary.id, RemoveOptions::default()) {
                Ok(()) => {
                    pruned.containers.push(summary.id.to_string());
                    let writable = summary.size.map_or(0, |size| size.writable);
                    pruned.reclaimed = pruned.reclaimed.saturating_add(writable);
                }
                // It was started, or removed, meanwhile.
                Err(error)
                    if matches!(error.kind(), crate::ErrorKind::Conflict | crate::ErrorKind::NoSuchContainer) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(pruned), Err)
    }

    /// What takes up the disk. Layers and blobs are not walked: their sizes are known; writable layers are.
    ///
    /// # Errors
    /// A directory that cannot be read.
    pub fn disk_usage(&self) -> Result<DiskUsage> {
        let (users, store, layers) = (self.users()?, self.image_store()?, self.layers()?);
        let records = store.list()?.records;
        let mut owners: BTreeMap<&Digest, BTreeSet<&Digest>> = BTreeMap::new();
        for record in &records {
            for chain in record.chain() {
                owners.entry(chain).or_default().insert(record.id());
            }
        }
        let size_of = |chain: &Digest| layers.usage(chain).map_or(0, |usage| usage.bytes);
        let mut usage = DiskUsage::default();
        for record in &records {
            let mut share = LayerShare::default();
            for chain in record.chain() {
                let shared = owners.get(chain).is_some_and(|owners| owners.len() > 1);
                *(if shared { &mut share.shared } else { &mut share.unique }) += size_of(chain);
            }
            usage.images.push((self.summary_of(record, &users)?, share));
        }
        usage.images.sort_by(|(a, _), (b, _)| b.created.cmp(&a.created).then_with(|| a.reference.cmp(&b.reference)));
        let ids: BTreeSet<&Digest> = records.iter().map(|record| record.id()).collect();
        usage.image_count = ids.len();
        usage.images_active = ids.iter().filter(|id| users.contains_key(**id)).count();
        let active = || records.iter().filter(|record| users.contains_key(record.id()));
        let mut needed: BTreeSet<Digest> = active().flat_map(|record| record.chain().cloned()).collect();
        needed.extend(self.chains_of_containers()?.unwrap_or_default());
        let needed_blobs: BTreeSet<&Digest> = active().flat_map(|record| record.blobs()).collect();
        let mut add = |size: u64, is_needed: bool| {
            usage.images_size = usage.images_size.saturating_add(size);
            if !is_needed {
                usage.images_reclaimable = usage.images_reclaimable.saturating_add(size);
            }
        };
        for layer in layers.list()? {
            add(size_of(&layer), needed.contains(&layer));
        }
        for (blob, size) in self.content_store()?.list()? {
            add(size, needed_blobs.contains(&blob));
        }
        usage.containers = self.list(&ContainerFilter { all: true, size: true, ..ContainerFilter::default() })?;
        usage.volumes = self.volumes(&crate::VolumeFilter { size: true, ..crate::VolumeFilter::default() })?;
        for container in &usage.containers {
            let size = container.size.map_or(0, |size| size.writable);
            usage.containers_size = usage.containers_size.saturating_add(size);
            if is_running(container.state) {
                usage.containers_active += 1;
            } else {
                usage.containers_reclaimable = usage.containers_reclaimable.saturating_add(size);
            }
        }
        Ok(usage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_hold_together() {
        let labels: BTreeMap<String, String> = [("keep".to_owned(), "yes".to_owned())].into();
        let at = |text: &str| Some(text.parse::<Timestamp>().expect("a moment"));
        let until = |text| PruneFilter { until: at(text), ..PruneFilter::default() };
        assert!(admits(&PruneFilter::default(), "2026-01-01T00:00:00Z", &labels));
        assert!(admits(&until("2026-01-02T00:00:00Z"), "2026-01-01T00:00:00Z", &labels));
        assert!(!admits(&until("2026-01-01T00:00:00Z"), "2026-01-01T00:00:00Z", &labels));
        assert!(admits(&until("2026-01-01T00:00:00Z"), "", &labels));
        for (label, label_not, expected) in
            [("keep", "", true), ("keep=no", "", false), ("", "keep", false), ("", "keep=no", true)]
        {
            let list = |text: &str| if text.is_empty() { Vec::new() } else { vec![text.to_owned()] };
            let filter = PruneFilter { label: list(label), label_not: list(label_not), ..PruneFilter::default() };
            assert_eq!(admits(&filter, "", &labels), expected, "{label} {label_not}");
        }
    }
}
