//! From a target to a record: choose the platform, bring in configuration and layers, have them unpacked.
//!
//! Every way an image comes in ends here; they differ in the [`Source`] of documents and blobs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use oci::image::{Descriptor, Document, ImageConfig, Index, Manifest, chain_ids, media_type};
use oci::{Digest, Platform, Reference};

use crate::codec::{Compression, Decoder};
use crate::content::{BlobWriter, Hasher, verify};
use crate::layer::{Feed, LayerStream, layer_stream};
use crate::partial::Partial;
use crate::record::{self, ImageRecord, LayerRecord};
use crate::{BoxError, ContentStore, Error, LayerJob, LayerSink, Limits, Phase, Progress, Result};

/// Largest manifest or index, in bytes.
pub(crate) const MANIFEST_MAX: u64 = 4 << 20;
/// Largest image configuration, in bytes.
pub(crate) const CONFIG_MAX: u64 = 8 << 20;
/// Most indexes between a target and a manifest.
pub(crate) const INDEX_DEPTH: usize = 4;
/// Most layers of one image; the kernel stacks no more than 500.
const LAYERS_MAX: usize = 500;

/// Uncompressed bytes of layers after which the file system is synchronised while more is unpacked, so that the one
/// synchronisation that counts, at the end, has less to do. The kernel by itself leaves the disk idle for many seconds
/// (`vm.dirty_expire_centisecs`).
const FLUSH_AFTER: u64 = 256 << 20;
/// How often that is looked at.
const FLUSH_LOOK: Duration = Duration::from_millis(100);

/// Stops the other layers' work when one has failed.
#[derive(Debug, Default)]
pub(crate) struct Cancel(AtomicBool);

impl Cancel {
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Where documents and blobs come from that are not in the content store yet.
pub(crate) trait Source: Sync {
    /// A stream of the blob's bytes. The caller verifies it, and never reads more than the descriptor's size plus one.
    fn blob<'a>(&'a self, descriptor: &Descriptor, cancel: &'a Cancel) -> Result<Box<dyn Read + Send + 'a>>;

    /// The same from `offset` on, for sources that can resume.
    fn blob_from<'a>(
        &'a self,
        descriptor: &Descriptor,
        offset: u64,
        cancel: &'a Cancel,
    ) -> Result<Box<dyn Read + Send + 'a>> {
        let mut stream = self.blob(descriptor, cancel)?;
        let what = format!("blob {}", descriptor.digest);
        io::copy(&mut stream.by_ref().take(offset), &mut io::sink()).map_err(|error| Error::read(what, error))?;
        Ok(stream)
    }

    /// Whether blobs come from far away, so that what was fetched of one is worth keeping.
    fn is_remote(&self) -> bool {
        false
    }

    /// Ends every wait at once: what comes is not wanted any more.
    fn abandon(&self) {}

    /// Whether what comes is a mirror's, so that somebody else can be asked when it is wrong.
    fn is_mirrored(&self) -> bool {
        false
    }

    /// Does not ask that mirror any more.
    fn distrust(&self) {}

    /// A whole small document, not verified.
    fn document(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>> {
        let cancel = Cancel::default();
        let mut stream = self.blob(descriptor, &cancel)?;
        crate::content::read_bounded(&mut stream, limit, &format!("blob {}", descriptor.digest))
    }
}

/// Nothing but what the content store has.
pub(crate) struct Stored;

impl Source for Stored {
    fn blob<'a>(&'a self, descriptor: &Descriptor, _cancel: &'a Cancel) -> Result<Box<dyn Read + Send + 'a>> {
        Err(Error::MissingBlob(descriptor.digest.clone()))
    }
}

/// Everything that turns targets into records.
pub(crate) struct Assembly<'a> {
    pub(crate) content: &'a ContentStore,
    pub(crate) sink: &'a dyn LayerSink,
    pub(crate) progress: &'a dyn Progress,
    pub(crate) source: &'a dyn Source,
    pub(crate) limits: Limits,
    /// The platform asked for; the host's, leniently, when absent.
    pub(crate) platform: Option<Platform>,
    /// Layers worked on at a time, at least one.
    pub(crate) parallel: usize,
    /// Uncompressed bytes of layers so far.
    pub(crate) unpacked: AtomicU64,
}

impl Assembly<'_> {
    /// Brings in the image `target` describes. The record is returned, not stored.
    pub(crate) fn image(&self, target: &Descriptor, reference: Option<Reference>) -> Result<ImageRecord> {
        let (manifest_descriptor, manifest, path) = self.manifest(target)?;
        let config = self.config(&manifest)?;
        let platform = config.platform.normalised();
        if let Some(wanted) = self.platform.as_ref().filter(|wanted| wanted.rank(&platform).is_none()) {
            return Err(Error::NoPlatform {
                wanted: Box::new(wanted.clone()),
                offered: platform.to_string().escape_debug().to_string(),
            });
        }
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() || diff_ids.len() > LAYERS_MAX {
            let reason = format!(
                "the manifest has {} layers, the configuration {} (at most {LAYERS_MAX})",
                manifest.layers.len(),
                diff_ids.len()
            );
            return Err(Error::malformed(format!("image {}", target.digest), reason));
        }
        let layers: Vec<LayerRecord> = manifest
            .layers
            .iter()
            .zip(diff_ids)
            .zip(chain_ids(diff_ids))
            .map(|((descriptor, diff_id), chain_id)| LayerRecord {
                descriptor: descriptor.clone(),
                diff_id: diff_id.clone(),
                chain_id,
            })
            .collect();
        self.progress.begin(&layers);
        self.layers(&layers)?;
        let chain: Vec<Digest> = layers.iter().map(|layer| layer.chain_id.clone()).collect();
        let committed = self.sink.commit(&chain).map_err(|source| match source.downcast::<Error>() {
            Ok(own) => *own,
            Err(source) => Error::Commit { image: target.digest.clone(), source },
        })?;
        let size = layers.iter().map(|layer| layer.descriptor.size).fold(0, u64::saturating_add);
        Ok(ImageRecord {
            version: record::VERSION,
            reference,
            target: target.clone(),
            size: size.saturating_add(manifest.config.size).saturating_add(manifest_descriptor.size),
            manifest: manifest_descriptor,
            path,
            config_blob: manifest.config,
            platform,
            layers,
            highest_id: committed.highest_id,
            copied: committed.copied,
            created: config.created,
            author: config.author,
            comment: config.comment,
            config: config.config,
            history: config.history,
        })
    }

    /// A manifest, index or configuration by its descriptor, verified and stored.
    fn document(&self, descriptor: &Descriptor, limit: u64, what: &str) -> Result<Vec<u8>> {
        let what = format!("{what} {}", descriptor.digest);
        if descriptor.size > limit {
            return Err(Error::TooLarge { what, limit });
        }
        let stored = self.content.contains(&descriptor.digest)?;
        let bytes = if stored {
            self.content.read(&descriptor.digest, limit)?
        } else {
            self.source.document(descriptor, limit)?
        };
        if bytes.len() as u64 != descriptor.size {
            return Err(Error::Size { what, expected: descriptor.size, actual: bytes.len() as u64 });
        }
        if !stored {
            let mut hasher = Hasher::new(descriptor.digest.algorithm());
            hasher.update(&bytes);
            verify(&what, &descriptor.digest, &hasher.finish())?;
            let mut writer = self.content.writer(descriptor.digest.algorithm(), limit)?;
            writer.append(&bytes)?;
            writer.commit(Some(&descriptor.digest), Some(descriptor.size))?;
        }
        Ok(bytes)
    }

    fn manifest(&self, target: &Descriptor) -> Result<(Descriptor, Manifest, Vec<Digest>)> {
        let mut descriptor = target.clone();
        let mut path = Vec::new();
        for _ in 0..=INDEX_DEPTH {
            let what = format!("manifest {}", descriptor.digest);
            let bytes = self.document(&descriptor, MANIFEST_MAX, "manifest")?;
            let document = Document::parse(&bytes, &descriptor.media_type)
                .map_err(|source| Error::Document { what: what.clone(), source })?;
            match document {
                Document::Manifest(manifest) => {
                    path.retain(|digest| *digest != target.digest);
                    return Ok((descriptor, *manifest, path));
                }
                Document::Index(index) => {
                    let next = self.choose(&index)?;
                    path.push(std::mem::replace(&mut descriptor, next).digest);
                }
            }
        }
        Err(Error::malformed(format!("image {}", target.digest), "its indexes are nested too deeply"))
    }

    /// The first of the best entries of `index` for the platform.
    fn choose(&self, index: &Index) -> Result<Descriptor> {
        let wanted = self.platform.clone().unwrap_or_else(Platform::host);
        let usable = |entry: &&Descriptor| {
            let kind = entry.media_type.as_str();
            kind.is_empty() || media_type::is_manifest(kind) || media_type::is_index(kind)
        };
        let best = index
            .manifests
            .iter()
            .filter(usable)
            .filter_map(|entry| match &entry.platform {
                Some(platform) => wanted.rank(platform).map(|rank| (rank, entry)),
                // Whatever does not say what it runs on is tried when nothing better is there.
                None => Some((usize::MAX, entry)),
            })
            .min_by_key(|(rank, _)| *rank);
        best.map(|(_, entry)| entry.clone()).ok_or_else(|| {
            let offered: Vec<String> =
                index.manifests.iter().filter_map(|entry| entry.platform.as_ref()).map(ToString::to_string).collect();
            Error::NoPlatform { wanted: Box::new(wanted), offered: offered.join(", ").escape_debug().to_string() }
        })
    }

    fn config(&self, manifest: &Manifest) -> Result<ImageConfig> {
        let kind = manifest.config.media_type.as_str();
        if !matches!(kind, "" | media_type::OCI_CONFIG | media_type::DOCKER_CONFIG) {
            let artifact = if manifest.artifact_type.is_empty() { kind } else { &manifest.artifact_type };
            return Err(Error::Unsupported(format!(
                "this is not a container image but an artifact of type {}",
                artifact.escape_debug()
            )));
        }
        let bytes = self.document(&manifest.config, CONFIG_MAX, "image configuration")?;
        ImageConfig::from_json(&bytes).map_err(|error| {
            Error::malformed(format!("image configuration {}", manifest.config.digest), error.to_string())
        })
    }

    /// Brings in all layers, several at a time, largest first. Layers with one blob follow one another, so that it is
    /// fetched once.
    fn layers(&self, layers: &[LayerRecord]) -> Result<()> {
        let chain: Vec<Digest> = layers.iter().map(|layer| layer.chain_id.clone()).collect();
        let mut by_blob: BTreeMap<&Digest, Vec<usize>> = BTreeMap::new();
        for (position, layer) in layers.iter().enumerate() {
            by_blob.entry(&layer.descriptor.digest).or_default().push(position);
        }
        let mut jobs: Vec<Vec<usize>> = by_blob.into_values().collect();
        jobs.sort_by_key(|job| layers[job[0]].descriptor.size);
        let threads = self.parallel.clamp(1, jobs.len().max(1));
        let queue = Mutex::new(jobs);
        let cancel = Cancel::default();
        let first_error = Mutex::new(None);
        let work = || {
            while !cancel.is_set() {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let Some(job) = next else { return };
                for position in job {
                    if let Err(error) = self.layer(&layers[position], &chain[..position], &cancel) {
                        let mut first = first_error.lock().unwrap_or_else(PoisonError::into_inner);
                        if !cancel.is_set() || matches!(*first, Some(Error::Cancelled)) {
                            *first = Some(error);
                        }
                        cancel.set();
                        self.source.abandon();
                        return;
                    }
                }
            }
        };
        let (working, ended) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            if layers.iter().map(|layer| layer.descriptor.size).fold(0, u64::saturating_add) >= FLUSH_AFTER / 4 {
                scope.spawn(move || self.flush_until(&ended));
            }
            std::thread::scope(|scope| {
                for _ in 1..threads {
                    scope.spawn(work);
                }
                work();
            });
            drop(working);
        });
        match first_error.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Has the disk work meanwhile, until `ended` has no sender any more.
    fn flush_until(&self, ended: &Receiver<()>) {
        let mut flushed = 0;
        while ended.recv_timeout(FLUSH_LOOK) == Err(RecvTimeoutError::Timeout) {
            let unpacked = self.unpacked.load(Ordering::Relaxed);
            if unpacked - flushed >= FLUSH_AFTER {
                flushed = unpacked;
                // Only the last one counts: it tells of what these failed to write, because each descriptor is told.
                let _ = self.content.root().map(rustix::fs::syncfs);
            }
        }
    }

    fn layer(&self, layer: &LayerRecord, parents: &[Digest], cancel: &Cancel) -> Result<()> {
        let blob = &layer.descriptor;
        let what = format!("layer {}", blob.digest);
        let in_what = |source| Error::Codec { what: what.clone(), source };
        let declared = Compression::of_media_type(&blob.media_type).map_err(in_what)?;
        if declared == Some(Compression::None) && blob.digest.algorithm() == layer.diff_id.algorithm() {
            verify(&what, &layer.diff_id, &blob.digest)?;
        }
        let unpacked = self.sink.contains(&layer.chain_id);
        let stored = self.content.size(&blob.digest)?;
        if let Some(actual) = stored.filter(|size| *size != blob.size) {
            return Err(Error::Size { what, expected: blob.size, actual });
        }
        if unpacked && stored.is_some() {
            self.progress.layer(&blob.digest, Phase::Exists, blob.size, blob.size);
            return Ok(());
        }
        let mut fresh = false;
        loop {
            let mirrored = stored.is_none() && self.source.is_mirrored();
            let intake = Intake::open(self, blob, stored.is_some(), fresh, cancel)?;
            let resumed = intake.is_resumed();
            let error = match self.take_in(layer, parents, intake, declared, unpacked) {
                Ok(()) => break,
                Err(error) => error,
            };
            // What an earlier pull left may be wrong, or what a mirror has: the whole from elsewhere tells.
            if !is_about_content(&error) || !(resumed || mirrored) {
                return Err(error);
            }
            if !resumed {
                self.source.distrust();
            }
            fresh = true;
        }
        self.progress.layer(&blob.digest, Phase::Done, blob.size, blob.size);
        Ok(())
    }

    fn take_in(
        &self,
        layer: &LayerRecord,
        parents: &[Digest],
        mut intake: Intake<'_>,
        declared: Option<Compression>,
        unpacked: bool,
    ) -> Result<()> {
        let what = format!("layer {}", layer.descriptor.digest);
        if unpacked {
            io::copy(&mut intake, &mut io::sink()).map_err(|e| Error::read(&what, e))?;
            return intake.finish();
        }
        let (store, mut blob) = layer_stream(None);
        let (feed, mut stream) = layer_stream(Some((format!("uncompressed {what}"), &layer.diff_id)));
        let what = what.as_str();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let sent = store.send_all(&mut intake, what, &|_| {});
                store.end(sent.and_then(|()| intake.finish()));
            });
            scope.spawn(move || {
                let verdict = self.decode(&feed, &mut blob, declared, what);
                // Without its receiver the first thread ends at its next chunk.
                drop(blob);
                feed.end(verdict);
            });
            let job = LayerJob { diff_id: &layer.diff_id, chain_id: &layer.chain_id, parents, tar: &mut stream };
            let result = self.sink.unpack(job);
            let outcome = stream.outcome();
            // Without its receiver the feed ends at its next chunk, and the scope with it.
            drop(stream);
            unpacked_or_why(result, outcome, &layer.diff_id)
        })
    }

    /// Decompresses `blob` into `feed`; what is wrong below is why something is wrong here.
    fn decode(&self, feed: &Feed, blob: &mut LayerStream, declared: Option<Compression>, what: &str) -> Result<()> {
        let decoder = Decoder::new(&mut *blob, declared, self.limits).map_err(|error| Error::read(what, error));
        let sent = |bytes| {
            self.unpacked.fetch_add(bytes, Ordering::Relaxed);
        };
        match decoder.and_then(|mut decoder| feed.send_all(&mut decoder, what, &sent)) {
            Ok(()) => blob.verify(),
            Err(error) => match blob.outcome() {
                Some(Err(below)) => Err(below),
                _ => Err(error),
            },
        }
    }
}

/// Whether a layer is unpacked, from what the sink says and how the stream it was given ended.
fn unpacked_or_why(result: Result<(), BoxError>, outcome: Option<Result<()>>, diff_id: &Digest) -> Result<()> {
    match (result, outcome) {
        (Ok(()), Some(Ok(()))) => Ok(()),
        // The sink only saw this one's message.
        (_, Some(Err(error))) if !matches!(error, Error::Cancelled) => Err(error),
        (Ok(()), _) => Err(Error::Unpack {
            diff_id: diff_id.clone(),
            source: "the layer was committed without being verified".into(),
        }),
        (Err(source), _) => Err(match source.downcast::<Error>() {
            Ok(own) => *own,
            Err(source) => Error::Unpack { diff_id: diff_id.clone(), source },
        }),
    }
}

/// Whether other bytes could make the difference.
fn is_about_content(error: &Error) -> bool {
    matches!(
        error,
        Error::Digest { .. }
            | Error::Size { .. }
            | Error::TooLarge { .. }
            | Error::Codec { .. }
            | Error::Malformed { .. }
            | Error::Unpack { .. }
    )
}

/// Where a blob is written.
enum Destination<'a> {
    /// It is here already.
    Nowhere,
    /// Under no name until it is whole.
    Writer(BlobWriter<'a>),
    /// Under a name by which a later pull finds it.
    Partial(Partial<'a>),
}

/// A blob on its way in: from the source through the content store, or from the content store.
struct Intake<'a> {
    reader: Box<dyn Read + Send + 'a>,
    destination: Destination<'a>,
    descriptor: &'a Descriptor,
    progress: &'a dyn Progress,
    cancel: &'a Cancel,
    phase: Phase,
    passed: u64,
}

impl<'a> Intake<'a> {
    fn open(
        assembly: &'a Assembly<'_>,
        descriptor: &'a Descriptor,
        stored: bool,
        fresh: bool,
        cancel: &'a Cancel,
    ) -> Result<Self> {
        let (content, source) = (assembly.content, assembly.source);
        let partial = if stored || !source.is_remote() { None } else { content.partial(descriptor, fresh)? };
        let (reader, destination): (Box<dyn Read + Send + 'a>, _) = match partial {
            _ if stored => (Box::new(content.open_blob(&descriptor.digest)?) as Box<File>, Destination::Nowhere),
            Some(partial) => (source.blob_from(descriptor, partial.had(), cancel)?, Destination::Partial(partial)),
            None => {
                let writer = content.writer(descriptor.digest.algorithm(), descriptor.size)?;
                (source.blob(descriptor, cancel)?, Destination::Writer(writer))
            }
        };
        let phase = if stored { Phase::Extracting } else { Phase::Downloading };
        assembly.progress.layer(&descriptor.digest, phase, 0, descriptor.size);
        Ok(Self { reader, destination, descriptor, progress: assembly.progress, cancel, phase, passed: 0 })
    }

    /// Whether a part of it comes from an earlier pull.
    fn is_resumed(&self) -> bool {
        matches!(&self.destination, Destination::Partial(partial) if partial.had() > 0)
    }

    fn finish(self) -> Result<()> {
        let (expected, size) = (&self.descriptor.digest, self.descriptor.size);
        match self.destination {
            Destination::Writer(writer) => {
                writer.commit(Some(expected), Some(size)).map(drop).map_err(|error| name_layer(error, expected))
            }
            Destination::Partial(partial) => partial.commit(expected).map_err(|error| name_layer(error, expected)),
            Destination::Nowhere if self.passed != size => {
                Err(Error::Size { what: format!("layer {expected}"), expected: size, actual: self.passed })
            }
            Destination::Nowhere => Ok(()),
        }
    }
}

fn name_layer(error: Error, layer: &Digest) -> Error {
    let what = format!("layer {layer}");
    match error {
        Error::Size { expected, actual, .. } => Error::Size { what, expected, actual },
        Error::Digest { expected, actual, .. } => Error::Digest { what, expected, actual },
        other => other,
    }
}

impl Read for Intake<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_set() {
            return Err(Error::Cancelled.into_io());
        }
        if let Destination::Partial(partial) = &mut self.destination
            && partial.is_behind()
        {
            let n = partial.read_back(buf).map_err(Error::into_io)?;
            self.passed += n as u64;
            self.progress.layer(&self.descriptor.digest, Phase::Resuming, self.passed, self.descriptor.size);
            return Ok(n);
        }
        let n = self.reader.read(buf)?;
        self.passed += n as u64;
        if self.passed > self.descriptor.size {
            let what = format!("layer {}", self.descriptor.digest);
            return Err(Error::TooLarge { what, limit: self.descriptor.size }.into_io());
        }
        match &mut self.destination {
            Destination::Writer(writer) => writer.append(&buf[..n]).map_err(Error::into_io)?,
            Destination::Partial(partial) => partial.append(&buf[..n]).map_err(Error::into_io)?,
            Destination::Nowhere => {}
        }
        self.progress.layer(&self.descriptor.digest, self.phase, self.passed, self.descriptor.size);
        Ok(n)
    }
}
