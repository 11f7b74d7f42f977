//! What an image's target reaches in the content store: the documents and blobs that go out together.
//!
//! An index usually names manifests for machines other than this one, which were never brought in. Those are left out;
//! whoever needs the whole index asks whether anything was.

use std::collections::BTreeSet;

use oci::image::{Descriptor, Document};

use crate::assemble::{INDEX_DEPTH, MANIFEST_MAX};
use crate::{ContentStore, Error, Result};

/// Most documents below one target.
const DOCUMENTS_MAX: usize = 1000;

/// A target and everything below it that is here.
#[derive(Debug)]
pub(crate) struct Closure {
    /// Manifests and indexes with their bytes, each after those it names.
    pub(crate) documents: Vec<(Descriptor, Vec<u8>)>,
    /// Configurations and layers, each once.
    pub(crate) blobs: Vec<Descriptor>,
    /// Whether nothing that an index names is missing.
    pub(crate) complete: bool,
}

impl Closure {
    /// Follows `target`.
    ///
    /// # Errors
    /// [`Error::MissingBlob`] when the target itself, or what a target that is a manifest names, is not here;
    /// [`Error::Document`]; [`Error::Digest`]; system call errors.
    pub(crate) fn of(content: &ContentStore, target: &Descriptor) -> Result<Self> {
        let mut closure = Self { documents: Vec::new(), blobs: Vec::new(), complete: true };
        let mut seen = BTreeSet::new();
        closure.follow(content, target, 0, &mut seen)?;
        Ok(closure)
    }

    fn follow(
        &mut self,
        content: &ContentStore,
        descriptor: &Descriptor,
        depth: usize,
        seen: &mut BTreeSet<oci::Digest>,
    ) -> Result<()> {
        if self.documents.len() >= DOCUMENTS_MAX || depth > INDEX_DEPTH {
            return Err(Error::malformed(format!("image {}", descriptor.digest), "its indexes name too much"));
        }
        let what = format!("manifest {}", descriptor.digest);
        let bytes = content.read(&descriptor.digest, MANIFEST_MAX)?;
        let document =
            Document::parse(&bytes, &descriptor.media_type).map_err(|source| Error::Document { what, source })?;
        match document {
            Document::Manifest(manifest) => {
                for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
                    if !content.contains(&blob.digest)? {
                        return Err(Error::MissingBlob(blob.digest.clone()));
                    }
                    if seen.insert(blob.digest.clone()) {
                        self.blobs.push(blob.clone());
                    }
                }
            }
            Document::Index(index) => {
                for child in &index.manifests {
                    let before = self.blobs.len();
                    let followed = self.follow(content, child, depth + 1, seen);
                    if let Err(Error::MissingBlob(_)) = followed {
                        for blob in self.blobs.drain(before..) {
                            seen.remove(&blob.digest);
                        }
                        self.complete = false;
                    } else {
                        followed?;
                    }
                }
            }
        }
        if seen.insert(descriptor.digest.clone()) {
            self.documents.push((descriptor.clone(), bytes));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use oci::Digest;
    use oci::image::{Index, Manifest, media_type};

    use super::*;
    use crate::testing::TempDir;

    fn manifest(content: &ContentStore, text: &[u8], layer_is_here: bool) -> Descriptor {
        let config = content.put(text).expect("stored");
        let layer = [text, b" layer"].concat();
        let digest = if layer_is_here { content.put(&layer).expect("stored") } else { Digest::sha256_of(&layer) };
        let manifest = Manifest {
            schema_version: 2,
            media_type: media_type::OCI_MANIFEST.to_owned(),
            artifact_type: String::new(),
            config: Descriptor::new(media_type::OCI_CONFIG, config, text.len() as u64),
            layers: vec![Descriptor::new(media_type::OCI_LAYER, digest, layer.len() as u64)],
            subject: None,
            annotations: BTreeMap::new(),
        };
        let bytes = serde_json::to_vec(&manifest).expect("JSON");
        content.put(&bytes).expect("stored");
        Descriptor::of(media_type::OCI_MANIFEST, &bytes)
    }

    fn index(content: &ContentStore, manifests: Vec<Descriptor>) -> Descriptor {
        let index = Index {
            schema_version: 2,
            media_type: media_type::OCI_INDEX.to_owned(),
            manifests,
            annotations: BTreeMap::new(),
        };
        let bytes = serde_json::to_vec(&index).expect("JSON");
        content.put(&bytes).expect("stored");
        Descriptor::of(media_type::OCI_INDEX, &bytes)
    }

    #[test]
    fn an_index_comes_after_what_it_names_and_without_what_is_missing() {
        let dir = TempDir::new("closure");
        let content = ContentStore::open(&dir.path().join("content")).expect("opens");
        let here = manifest(&content, b"{\"a\":1}", true);
        let half = manifest(&content, b"{\"b\":2}", false);
        let whole = Closure::of(&content, &index(&content, vec![here.clone(), here.clone()])).expect("follows");
        assert!(whole.complete);
        assert_eq!((whole.documents.len(), whole.blobs.len()), (2, 2));
        assert_eq!(whole.documents[0].0, here);
        let elsewhere = Descriptor::of(media_type::OCI_MANIFEST, b"never seen");
        let partial = Closure::of(&content, &index(&content, vec![half.clone(), elsewhere, here])).expect("follows");
        assert!(!partial.complete);
        assert_eq!((partial.documents.len(), partial.blobs.len()), (2, 2));
        assert!(matches!(Closure::of(&content, &half), Err(Error::MissingBlob(_))));
    }
}
