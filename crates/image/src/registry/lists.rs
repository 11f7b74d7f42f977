//! Manifest lists: what a name stands for on its registry, read without its layers, and a list on its way out.

use std::io::Read;

use oci::image::{Descriptor, Document, ImageConfig};
use oci::{Platform, Reference};

use super::Client;
use super::push::{Outbound, Upload};
use crate::assemble::{CONFIG_MAX, Cancel, MANIFEST_MAX, Source};
use crate::lists::ListEntry;
use crate::{ContentStore, Error, Result};

/// Bytes copied at a time.
const BUFFER: usize = 1 << 17;

/// What a name stands for.
#[derive(Clone, Debug)]
pub enum Named {
    /// One image's manifest, with the platform its configuration says.
    Manifest(Box<ListEntry>),
    /// A list or index: its own document, and what it names.
    List(Vec<Descriptor>),
}

impl Client {
    /// What `reference` names on its registry.
    ///
    /// # Errors
    /// Those of [`Client::resolve`]; a configuration that cannot be read.
    pub fn named(&self, reference: &Reference) -> Result<Named> {
        let (descriptor, bytes) = self.resolve(reference)?;
        match parse(&descriptor, &bytes)? {
            Document::Index(index) => Ok(Named::List(index.manifests)),
            Document::Manifest(manifest) => {
                let platform = self.platform(&manifest.config)?;
                let descriptor = Descriptor { platform, ..descriptor };
                Ok(Named::Manifest(Box::new(ListEntry { reference: reference.clone(), descriptor, bytes })))
            }
        }
    }

    /// The manifest that `child`, one of `reference`'s list, stands for.
    ///
    /// # Errors
    /// As [`Client::named`]; [`Error::Malformed`] for a list within a list.
    pub fn child(&self, reference: &Reference, child: &Descriptor) -> Result<ListEntry> {
        let reference = reference.with_digest(child.digest.clone());
        let (found, bytes) = self.resolve(&reference)?;
        match parse(&found, &bytes)? {
            Document::Index(_) => Err(Error::malformed(reference.to_string(), "a list within a list")),
            Document::Manifest(_) => {
                let descriptor = Descriptor { platform: child.platform.clone(), ..found };
                Ok(ListEntry { reference, descriptor, bytes })
            }
        }
    }

    fn platform(&self, config: &Descriptor) -> Result<Option<Platform>> {
        if config.size > CONFIG_MAX {
            let what = format!("image configuration {}", config.digest);
            return Err(Error::TooLarge { what, limit: CONFIG_MAX });
        }
        let bytes = self.document(config, CONFIG_MAX)?;
        // An artifact's configuration is anything, and says no platform.
        let Ok(config) = ImageConfig::from_json(&bytes) else { return Ok(None) };
        let platform = config.platform;
        Ok((!platform.os.is_empty() || !platform.architecture.is_empty()).then_some(platform))
    }

    /// Copies a blob of this client's repository into `content`, verified.
    ///
    /// # Errors
    /// Those of reading it from the registry; [`Error::Digest`], [`Error::Size`]; a full disk.
    pub fn fetch_blob(&self, content: &ContentStore, blob: &Descriptor) -> Result<()> {
        if content.contains(&blob.digest)? {
            return Ok(());
        }
        let cancel = Cancel::default();
        let mut stream = self.blob(blob, &cancel)?;
        let mut writer = content.writer(blob.digest.algorithm(), blob.size)?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let count = match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::read(format!("blob {}", blob.digest), error)),
            };
            writer.append(&buffer[..count])?;
        }
        writer.commit(Some(&blob.digest), Some(blob.size)).map(drop)
    }

    /// Brings `entry`, a manifest of another repository, into this client's: its blobs, then itself by its digest. What
    /// the registry does not take over by itself comes from `out`'s store, after `fetch` put it there.
    ///
    /// # Errors
    /// As [`Client::push`]; those of `fetch`.
    pub fn adopt(
        &self,
        out: &Outbound<'_>,
        entry: &ListEntry,
        fetch: &(dyn Fn(&Descriptor) -> Result<()> + Sync),
    ) -> Result<()> {
        if let Document::Manifest(manifest) = parse(&entry.descriptor, &entry.bytes)? {
            let cancel = Cancel::default();
            for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
                if !oci::image::media_type::is_foreign(&blob.media_type) {
                    Upload { client: self, out, blob, cancel: &cancel, shown: false, fetch: Some(fetch) }.run()?;
                }
            }
        }
        self.put_manifest(&entry.descriptor.digest.to_string(), &entry.descriptor, &entry.bytes)
    }

    /// Gives the list `bytes` the name `tag`; all it names has to be there.
    ///
    /// # Errors
    /// As [`Client::push`].
    pub fn push_document(&self, tag: &str, descriptor: &Descriptor, bytes: &[u8]) -> Result<()> {
        if bytes.len() as u64 > MANIFEST_MAX {
            return Err(Error::TooLarge { what: "manifest list".to_owned(), limit: MANIFEST_MAX });
        }
        self.put_manifest(tag, descriptor, bytes)
    }
}

fn parse(descriptor: &Descriptor, bytes: &[u8]) -> Result<Document> {
    let what = format!("manifest {}", descriptor.digest);
    Document::parse(bytes, &descriptor.media_type).map_err(|source| Error::Document { what, source })
}
