//! Garbage: what no image and no container needs any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use container::ContainerDir;
use image::{ContentStore, ImageStore};
use oci::Digest;

use super::Users;
use crate::{Engine, ErrorKind, Result};

impl Engine {
    /// Which containers are made from which image.
    pub(crate) fn users(&self) -> Result<BTreeMap<Digest, Users>> {
        let mut users: BTreeMap<Digest, Users> = BTreeMap::new();
        for id in ContainerDir::list(&self.paths.containers())? {
            let Ok(dir) = self.container_dir(&id) else { continue };
            let Some(image) = dir.config().ok().and_then(|config| config.image) else { continue };
            let entry = users.entry(image.id).or_default();
            entry.count += 1;
            entry.any = id.short().to_owned();
            if dir.observe().is_ok_and(|observed| container::dir::is_active(observed.state())) {
                entry.running = Some(id.short().to_owned());
            }
        }
        Ok(users)
    }

    /// Removes blobs and layers that nothing marks, and empties the trash; gives the bytes that came free. Does nothing
    /// while anything is being made: the next collection comes with the next removal.
    ///
    /// Whoever wants to make something waits while things are renamed, not while they are removed from the disk.
    pub(crate) fn collect(&self) -> Result<u64> {
        let content = self.content_store()?;
        // What is on its way out goes first: on a disk that is full to the last inode nothing else works before.
        self.layers()?.empty_trash()?;
        let Some(freed) = self.take_out(&content)? else { return Ok(0) };
        content.sweep()?;
        self.layers()?.empty_trash()?;
        Ok(freed)
    }

    /// Takes out of the stores what nothing marks; `None` while that cannot be told.
    fn take_out(&self, content: &Arc<ContentStore>) -> Result<Option<u64>> {
        let Some(_exclusive) = self.try_exclusive()? else { return Ok(None) };
        let Some(held) = content.try_exclusive()? else { return Ok(None) };
        let store = ImageStore::open(&self.paths.images(), Arc::clone(content))?;
        // A record that cannot be understood may name anything, so nothing is removed until it is gone.
        let marked = match store.mark() {
            Err(image::Error::DamagedRecord { .. } | image::Error::OtherVersion { .. }) => return Ok(None),
            marked => marked?,
        };
        let Some(mut chains) = self.chains_of_containers()? else { return Ok(None) };
        chains.extend(self.chains_of_mounts()?);
        let mut freed = content.retain(&marked.blobs, &held)?;
        let layers = self.layers()?;
        for layer in layers.list()? {
            if !marked.chains.contains(&layer) && !chains.contains(&layer) {
                let bytes = layers.usage(&layer).map_or(0, |usage| usage.bytes);
                if layers.remove(&layer)? {
                    freed = freed.saturating_add(bytes);
                }
            }
        }
        layers.sweep()?;
        Ok(Some(freed))
    }

    /// Removes what interrupted pulls have fetched so far, unless anything is being made.
    pub(crate) fn forget_partials(&self) -> Result<u64> {
        let content = self.content_store()?;
        let Some(held) = content.try_exclusive()? else { return Ok(0) };
        let freed = content.drop_partials(std::time::Duration::ZERO, &held)?;
        drop(held);
        content.sweep()?;
        Ok(freed)
    }

    /// Layers that containers stand on; `None` when one of them cannot say.
    pub(super) fn chains_of_containers(&self) -> Result<Option<BTreeSet<Digest>>> {
        let mut chains = BTreeSet::new();
        for id in ContainerDir::list(&self.paths.containers())? {
            let dir = match self.container_dir(&id) {
                Err(error) if error.kind() == ErrorKind::NoSuchContainer => continue,
                dir => dir?,
            };
            match dir.config() {
                Ok(config) => chains.extend(config.image.into_iter().flat_map(|image| image.chain)),
                Err(container::Error::Damaged { .. }) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(chains))
    }
}
