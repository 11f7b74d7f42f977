//! The record of one named image: everything `run` needs, in one small file.

use oci::image::{ContainerConfig, Descriptor, History};
use oci::{Digest, Platform, Reference};
use serde::{Deserialize, Serialize};

/// Version of the records this program writes.
pub const VERSION: u32 = 1;

/// What a reference names, resolved to one platform.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// Version of the record's format.
    pub version: u32,
    /// The name; absent for an image that lost its last one.
    pub reference: Option<Reference>,
    /// What the name points to, a manifest or an index. Its digest is the image's id.
    pub target: Descriptor,
    /// The manifest chosen for this machine; the target itself unless that is an index.
    pub manifest: Descriptor,
    /// The manifests and indexes between target and manifest, both excluded.
    #[serde(default)]
    pub path: Vec<Digest>,
    /// The image configuration's blob.
    pub config_blob: Descriptor,
    /// What the image runs on.
    pub platform: Platform,
    /// The layers, bottom first.
    pub layers: Vec<LayerRecord>,
    /// The greatest owner or group of any file in the layers, so that `create` need not ask each layer. Records of the
    /// first versions do not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub highest_id: Option<u32>,
    /// Each container gets a copy of the layers: when the image came in, the store's file system refused to hold the writable
    /// layer of an overlay.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub copied: bool,
    /// Bytes of manifest, configuration and layers as stored, compressed.
    pub size: u64,
    /// When the image was made, RFC 3339, as its configuration says.
    pub created: Option<String>,
    /// Who made it.
    #[serde(default)]
    pub author: String,
    /// Docker's free-form remark.
    #[serde(default)]
    pub comment: String,
    /// How containers of the image run by default.
    pub config: ContainerConfig,
    /// How the image was made.
    #[serde(default)]
    pub history: Vec<History>,
}

/// One layer of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// The blob.
    pub descriptor: Descriptor,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Name of the layer together with all below it: where storage keeps it.
    pub chain_id: Digest,
}

impl ImageRecord {
    /// The image's id: the digest of its target.
    #[must_use]
    pub fn id(&self) -> &Digest {
        &self.target.digest
    }

    /// The ChainIDs of the layers, bottom first.
    pub fn chain(&self) -> impl Iterator<Item = &Digest> {
        self.layers.iter().map(|layer| &layer.chain_id)
    }

    /// The blobs this image needs.
    pub fn blobs(&self) -> impl Iterator<Item = &Digest> {
        [&self.target.digest, &self.manifest.digest, &self.config_blob.digest]
            .into_iter()
            .chain(&self.path)
            .chain(self.layers.iter().map(|layer| &layer.descriptor.digest))
    }

    /// The record's file name.
    #[must_use]
    pub(crate) fn file_name(&self) -> String {
        match &self.reference {
            Some(reference) => reference.file_name(),
            None => dangling_file_name(self.id()),
        }
    }
}

/// The file name of an unnamed image's record. No reference's name begins with `@`.
pub(crate) fn dangling_file_name(id: &Digest) -> String {
    format!("@{}-{}", id.algorithm().as_str(), id.hex())
}
