//! `docker save`'s own format: `manifest.json` names a configuration and layer tars for each image.
//!
//! Such an archive has no manifest of the kind registries have, so one is made of it: always the same for the same
//! archive, so that loading twice gives one image.

use std::collections::BTreeMap;
use std::io::Read;

use oci::image::{Descriptor, Manifest, media_type};
use oci::{Digest, Reference};
use serde::Deserialize;

use super::spool::Spooled;
use crate::assemble::{CONFIG_MAX, Stored};
use crate::codec::{CodecError, Compression};
use crate::content::verify;
use crate::{ContentStore, Error, ImageRecord, Inbound, Result};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// Loads every image `manifest` (the bytes of `manifest.json`) lists.
pub(super) fn load(inbound: &Inbound<'_>, manifest: &[u8], spooled: &Spooled) -> Result<Vec<ImageRecord>> {
    let malformed = |reason: String| Error::malformed("manifest.json of the image archive", reason);
    let items: Vec<Item> = serde_json::from_slice(manifest).map_err(|e| malformed(e.to_string()))?;
    if items.is_empty() {
        return Err(malformed("it lists no image".to_owned()));
    }
    let mut loaded = Vec::new();
    for item in &items {
        let mut names: Vec<Option<Reference>> = Vec::new();
        for tag in item.repo_tags.iter().flatten() {
            names.push(Some(tag.parse().map_err(|e| malformed(format!("RepoTags: {e}")))?));
        }
        if names.is_empty() {
            names.push(None);
        }
        let target = synthesise(inbound.content, item, spooled)?;
        let record = inbound.assembly(&Stored).image(&target, None)?;
        for reference in names {
            loaded.push(ImageRecord { reference, ..record.clone() });
        }
    }
    for record in &loaded {
        inbound.images.put(record.clone())?;
    }
    Ok(loaded)
}

fn synthesise(content: &ContentStore, item: &Item, spooled: &Spooled) -> Result<Descriptor> {
    let (config, config_size) = spooled.file(&item.config)?;
    if *config_size > CONFIG_MAX {
        return Err(Error::TooLarge { what: format!("image configuration {:?}", item.config), limit: CONFIG_MAX });
    }
    let stem = item.config.strip_suffix(".json").unwrap_or_default();
    if let Ok(named) = format!("sha256:{stem}").parse::<Digest>() {
        verify(&format!("archive member {:?}", item.config), &named, config)?;
    }
    let mut layers = Vec::new();
    for name in item.layers.iter().flatten() {
        let (digest, size) = spooled.file(name)?;
        let media_type = match compression(content, digest)? {
            Some(Compression::None) => media_type::OCI_LAYER,
            Some(Compression::Gzip) => media_type::OCI_LAYER_GZIP,
            Some(Compression::Zstd) => media_type::OCI_LAYER_ZSTD,
            None => {
                return Err(Error::Codec { what: format!("archive member {name:?}"), source: CodecError::Unsupported });
            }
        };
        layers.push(Descriptor::new(media_type, digest.clone(), *size));
    }
    let manifest = Manifest {
        schema_version: 2,
        media_type: media_type::OCI_MANIFEST.to_owned(),
        artifact_type: String::new(),
        config: Descriptor::new(media_type::OCI_CONFIG, config.clone(), *config_size),
        layers,
        subject: None,
        annotations: BTreeMap::new(),
    };
    store_manifest(content, &manifest)
}

/// Stores `manifest` and describes it.
pub(super) fn store_manifest(content: &ContentStore, manifest: &Manifest) -> Result<Descriptor> {
    let bytes = serde_json::to_vec(manifest).map_err(|e| Error::malformed("manifest", e.to_string()))?;
    let digest = content.put(&bytes)?;
    Ok(Descriptor::new(&manifest.media_type, digest, bytes.len() as u64))
}

fn compression(content: &ContentStore, digest: &Digest) -> Result<Option<Compression>> {
    let mut first = Vec::new();
    let opened = content.open_blob(digest)?.take(8).read_to_end(&mut first);
    opened.map_err(|e| Error::read(format!("blob {digest}"), e))?;
    Ok(Compression::detect(&first))
}
