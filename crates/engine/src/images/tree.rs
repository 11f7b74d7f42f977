//! `images --tree`: images with what they are for each platform.

use std::collections::BTreeMap;

use image::ImageRecord;
use oci::Digest;
use oci::image::{Descriptor, Document};

use super::ImageFilter;
use crate::{Engine, Result};

/// Largest index read, in bytes (distribution specification, "Pushing Manifests").
const INDEX_LIMIT: u64 = 4 << 20;

/// One image, under all its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageTree {
    /// Image id.
    pub id: Digest,
    /// Familiar names; none when it is untagged.
    pub names: Vec<String>,
    /// RFC 3339; empty when the image does not say.
    pub created: String,
    /// Bytes of its blobs, compressed, that are here.
    pub content: u64,
    /// Bytes of its unpacked layers.
    pub unpacked: u64,
    /// Whether a container is made from it.
    pub in_use: bool,
    /// What its index names, when it has one.
    pub platforms: Vec<PlatformImage>,
}

/// An image for one platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlatformImage {
    /// `OS/ARCH[/VARIANT]`.
    pub platform: String,
    /// Digest of its manifest.
    pub id: Digest,
    /// Bytes of its blobs that are here.
    pub content: u64,
    /// Bytes of its unpacked layers.
    pub unpacked: u64,
    /// Whether a container is made from it.
    pub in_use: bool,
}

impl Engine {
    /// The images a filter lets through, newest first, each once.
    ///
    /// # Errors
    /// As [`Engine::images`].
    pub fn image_tree(&self, filter: &ImageFilter) -> Result<Vec<ImageTree>> {
        let listed = self.images(filter)?;
        let store = self.image_store()?;
        let mut records: BTreeMap<Digest, Vec<ImageRecord>> = BTreeMap::new();
        for record in store.list()?.records {
            records.entry(record.id().clone()).or_default().push(record);
        }
        let mut trees: Vec<ImageTree> = Vec::new();
        for summary in listed {
            if let Some(known) = trees.iter_mut().find(|known| known.id == summary.id) {
                known.names.extend(summary.reference);
                continue;
            }
            // Removed meanwhile.
            let Some(same) = records.get(&summary.id) else { continue };
            let in_use = summary.containers > 0;
            let mut platforms = Vec::new();
            for child in self.children(&same[0].target)? {
                let here = same.iter().find(|record| record.manifest.digest == child.digest);
                platforms.push(PlatformImage {
                    platform: child.platform.as_ref().map_or_else(|| "unknown".to_owned(), ToString::to_string),
                    id: child.digest,
                    content: here.map_or(0, |record| record.size),
                    unpacked: match here {
                        Some(record) => self.summary_of(record, &BTreeMap::new())?.size,
                        None => 0,
                    },
                    in_use: in_use && here.is_some(),
                });
            }
            let sum = |part: fn(&PlatformImage) -> u64| platforms.iter().map(part).fold(0, u64::saturating_add);
            let whole = platforms.is_empty();
            trees.push(ImageTree {
                content: if whole { same[0].size } else { sum(|part| part.content) },
                unpacked: if whole { summary.size } else { sum(|part| part.unpacked) },
                id: summary.id,
                names: summary.reference.into_iter().collect(),
                created: summary.created,
                in_use,
                platforms,
            });
        }
        Ok(trees)
    }

    /// The images that `target` names, if it is an index that can be read: not signatures and the like, which are for
    /// no platform.
    fn children(&self, target: &Descriptor) -> Result<Vec<Descriptor>> {
        if !oci::image::media_type::is_index(&target.media_type) {
            return Ok(Vec::new());
        }
        // One that is gone or damaged is said where it is needed, not in a list.
        let Ok(bytes) = self.content_store()?.read(&target.digest, INDEX_LIMIT) else { return Ok(Vec::new()) };
        let Ok(Document::Index(index)) = Document::parse(&bytes, &target.media_type) else { return Ok(Vec::new()) };
        let is_image = |child: &Descriptor| child.platform.as_ref().is_none_or(|platform| platform.os != "unknown");
        Ok(index.manifests.into_iter().filter(is_image).collect())
    }
}
