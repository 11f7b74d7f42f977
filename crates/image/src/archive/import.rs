//! `import`: an image of one layer, made of a root file system's tar.

use std::collections::BTreeMap;
use std::io::{self, Read};

use oci::digest::Algorithm;
use oci::image::{ContainerConfig, Descriptor, History, ImageConfig, Manifest, RootFs, media_type};
use oci::{Digest, Platform, Reference};

use super::changes;
use super::docker::store_manifest;
use crate::assemble::Stored;
use crate::codec::{Compression, Decoder};
use crate::content::{BlobWriter, Hasher};
use crate::{Error, ImageRecord, Inbound, Result};

const BUFFER: usize = 128 << 10;
const DEFAULT_MESSAGE: &str = "Imported from -";

/// What `import` is told.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// The image's name; none leaves it unnamed.
    pub reference: Option<Reference>,
    /// Dockerfile instructions applied to the configuration, in order.
    pub changes: Vec<String>,
    /// The history's remark.
    pub message: Option<String>,
    /// What the file system runs on; the host's platform when absent.
    pub platform: Option<Platform>,
}

impl Inbound<'_> {
    /// Makes an image of a root file system, given as a tar that may be compressed with gzip or zstd. It is stored as
    /// it comes.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a change that is none; [`Error::Codec`]; system call errors; the sink's.
    pub fn import(&self, reader: &mut dyn Read, options: &ImportOptions) -> Result<ImageRecord> {
        let mut container = ContainerConfig::default();
        for change in &options.changes {
            changes::apply(&mut container, change)?;
        }
        let _lease = self.content.lease()?;
        let (layer, diff_id) = self.take_in(reader)?;
        let created = jiff::Timestamp::now().to_string();
        let comment = options.message.clone().unwrap_or_else(|| DEFAULT_MESSAGE.to_owned());
        let history = History { created: Some(created.clone()), comment: comment.clone(), ..History::default() };
        let config = ImageConfig {
            created: Some(created),
            platform: options.platform.as_ref().map_or_else(Platform::host, Platform::normalised),
            config: container,
            rootfs: RootFs { diff_ids: vec![diff_id], ..RootFs::default() },
            history: vec![history],
            comment,
            ..ImageConfig::default()
        };
        let bytes = serde_json::to_vec(&config).map_err(|e| Error::malformed("image configuration", e.to_string()))?;
        let config_digest = self.content.put(&bytes)?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: media_type::OCI_MANIFEST.to_owned(),
            artifact_type: String::new(),
            config: Descriptor::new(media_type::OCI_CONFIG, config_digest, bytes.len() as u64),
            layers: vec![layer],
            subject: None,
            annotations: BTreeMap::new(),
        };
        let target = store_manifest(self.content, &manifest)?;
        let assembly = crate::assemble::Assembly { platform: None, ..self.assembly(&Stored) };
        let record = assembly.image(&target, options.reference.clone())?;
        self.images.put(record.clone())?;
        Ok(record)
    }

    /// Stores the tar as it comes and tells its DiffID.
    fn take_in(&self, reader: &mut dyn Read) -> Result<(Descriptor, Digest)> {
        let what = "root file system archive";
        let read = |error| match Error::read(what, error) {
            Error::Codec { source, .. } => Error::Codec { what: what.to_owned(), source },
            other => other,
        };
        let mut tee = Tee { reader, writer: self.content.writer(Algorithm::Sha256, self.limits.max_output)? };
        let mut decoder = Decoder::new(&mut tee, None, self.limits).map_err(read)?;
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut buffer = vec![0; BUFFER];
        loop {
            let n = decoder.read(&mut buffer).map_err(read)?;
            if n == 0 {
                break;
            }
            hasher.update(&buffer[..n]);
        }
        let media_type = match decoder.compression() {
            Compression::None => media_type::OCI_LAYER,
            Compression::Gzip => media_type::OCI_LAYER_GZIP,
            Compression::Zstd => media_type::OCI_LAYER_ZSTD,
        };
        drop(decoder);
        if tee.writer.written() == 0 {
            return Err(Error::malformed(what, "it is empty"));
        }
        let (digest, size) = tee.writer.commit(None, None)?;
        Ok((Descriptor::new(media_type, digest, size), hasher.finish()))
    }
}

struct Tee<'a> {
    reader: &'a mut dyn Read,
    writer: BlobWriter<'a>,
}

impl Read for Tee<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buf)?;
        self.writer.append(&buf[..n]).map_err(Error::into_io)?;
        Ok(n)
    }
}
