//! `save`: an OCI layout as a tar, with `manifest.json` beside it, so that readers of either format find their images.
//!
//! The archive of the same images is always the same, byte for byte: members have no owner and no time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};

use oci::image::{ANNOTATION_CONTAINERD_NAME, ANNOTATION_REF_NAME, Descriptor, Index, media_type};
use oci::{Digest, Platform, Reference};
use serde::Serialize;

use crate::closure::Closure;
use crate::content::{Hasher, verify};
use crate::{ContentStore, Error, ImageRecord, Phase, Progress, Result};

const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
/// Bytes copied at a time.
const CHUNK: usize = 256 << 10;

/// An image to save, and the names it is saved under; none for one that was chosen by its id.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The image.
    pub record: ImageRecord,
    /// Its names.
    pub names: Vec<Reference>,
}

/// An entry of docker's `manifest.json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Writes the archive of `images` to `out`. With `only`, the image for that platform alone is named in `index.json`,
/// even where the name stands for an index.
///
/// # Errors
/// [`Error::NoPlatform`] for an image that is not here for one of `only`; [`Error::MissingBlob`] and
/// [`Error::Digest`] for content that is damaged, with the archive cut off there; those of writing.
pub fn save(
    content: &ContentStore,
    images: &[Chosen],
    only: &[Platform],
    out: &mut dyn Write,
    progress: &dyn Progress,
) -> Result<()> {
    let mut documents: BTreeMap<Digest, Vec<u8>> = BTreeMap::new();
    let mut blobs: BTreeMap<Digest, Descriptor> = BTreeMap::new();
    let mut entries = Vec::new();
    let mut items: Vec<(Digest, Item)> = Vec::new();
    for Chosen { record, names } in images {
        if !only.is_empty() && !only.iter().any(|wanted| wanted.rank(&record.platform).is_some()) {
            let wanted = Box::new(only[0].clone());
            return Err(Error::NoPlatform { wanted, offered: record.platform.to_string() });
        }
        let target = if only.is_empty() { &record.target } else { &record.manifest };
        // What runs here must be whole, whatever else an index names.
        let chosen = Closure::of(content, &record.manifest)?;
        let all = if target == &record.manifest { None } else { Some(Closure::of(content, target)?) };
        for closure in std::iter::once(chosen).chain(all) {
            documents.extend(closure.documents.into_iter().map(|(descriptor, bytes)| (descriptor.digest, bytes)));
            blobs.extend(closure.blobs.into_iter().map(|blob| (blob.digest.clone(), blob)));
        }
        entries.extend(index_entries(target, names));
        add_item(&mut items, record, names);
    }
    let mut layers_said = BTreeSet::new();
    for Chosen { record, .. } in images {
        if layers_said.insert(record.id().clone()) {
            progress.begin(&record.layers);
        }
    }
    let mut archive = Archive { tar: tar::Builder::new(out) };
    archive.dir("blobs/")?;
    let algorithms: BTreeSet<&str> = documents.keys().chain(blobs.keys()).map(|d| d.algorithm().as_str()).collect();
    for algorithm in algorithms {
        archive.dir(&format!("blobs/{algorithm}/"))?;
    }
    for (digest, bytes) in &documents {
        archive.bytes(&path_of(digest), bytes)?;
    }
    for descriptor in blobs.values().filter(|blob| !documents.contains_key(&blob.digest)) {
        archive.blob(content, descriptor, progress)?;
    }
    let index = Index {
        schema_version: 2,
        media_type: media_type::OCI_INDEX.to_owned(),
        manifests: entries,
        annotations: BTreeMap::new(),
    };
    let items: Vec<Item> = items.into_iter().map(|(_, item)| item).collect();
    archive.bytes("index.json", &json(&index)?)?;
    archive.bytes("manifest.json", &json(&items)?)?;
    archive.bytes("oci-layout", LAYOUT)?;
    archive.tar.finish().map_err(failed)
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| Error::malformed("image archive", error.to_string()))
}

fn path_of(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

/// One entry of `index.json` for each name, or one without a name.
fn index_entries(target: &Descriptor, names: &[Reference]) -> Vec<Descriptor> {
    let named = |name: &Reference| {
        let mut entry = target.clone();
        entry.annotations.insert(ANNOTATION_CONTAINERD_NAME.to_owned(), name.to_string());
        if let Some(tag) = name.tag() {
            entry.annotations.insert(ANNOTATION_REF_NAME.to_owned(), tag.to_owned());
        }
        entry
    };
    if names.is_empty() { vec![target.clone()] } else { names.iter().map(named).collect() }
}

/// Adds an image to `manifest.json`: one entry for each manifest, with all names that lead there.
fn add_item(items: &mut Vec<(Digest, Item)>, record: &ImageRecord, names: &[Reference]) {
    let tags: Vec<String> = names.iter().filter(|name| name.tag().is_some()).map(Reference::familiar).collect();
    if let Some((_, item)) = items.iter_mut().find(|(digest, _)| *digest == record.manifest.digest) {
        let known = item.repo_tags.get_or_insert_default();
        for tag in tags {
            if !known.contains(&tag) {
                known.push(tag);
            }
        }
        return;
    }
    let item = Item {
        config: path_of(&record.config_blob.digest),
        repo_tags: (!tags.is_empty()).then_some(tags),
        layers: record.layers.iter().map(|layer| path_of(&layer.descriptor.digest)).collect(),
    };
    items.push((record.manifest.digest.clone(), item));
}

fn failed(source: std::io::Error) -> Error {
    match Error::read("image archive", source) {
        Error::Read { source, .. } => Error::Write { what: "the image archive".to_owned(), source },
        own => own,
    }
}

struct Archive<'a> {
    tar: tar::Builder<&'a mut dyn Write>,
}

impl Archive<'_> {
    fn dir(&mut self, name: &str) -> Result<()> {
        let mut header = header(tar::EntryType::Directory, 0o755, 0);
        self.tar.append_data(&mut header, name, std::io::empty()).map_err(failed)
    }

    fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut header = header(tar::EntryType::Regular, 0o644, bytes.len() as u64);
        self.tar.append_data(&mut header, name, bytes).map_err(failed)
    }

    /// Copies a blob and sees that it is still what its name says.
    fn blob(&mut self, content: &ContentStore, descriptor: &Descriptor, progress: &dyn Progress) -> Result<()> {
        let digest = &descriptor.digest;
        let size = content.size(digest)?.ok_or_else(|| Error::MissingBlob(digest.clone()))?;
        let is_layer = descriptor.media_type.contains("layer") || descriptor.media_type.contains("rootfs");
        let mut reader = Watched {
            file: content.open_blob(digest)?,
            hasher: Hasher::new(digest.algorithm()),
            progress: is_layer.then_some(progress),
            digest,
            passed: 0,
            size,
        };
        let mut header = header(tar::EntryType::Regular, 0o644, size);
        let buffered = std::io::BufReader::with_capacity(CHUNK, &mut reader);
        self.tar.append_data(&mut header, path_of(digest), buffered.take(size)).map_err(failed)?;
        let what = format!("blob {digest}");
        if reader.passed != size {
            return Err(Error::Size { what, expected: size, actual: reader.passed });
        }
        verify(&what, digest, &reader.hasher.finish())?;
        if is_layer {
            progress.layer(digest, Phase::Saved, size, size);
        }
        Ok(())
    }
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// A blob on its way out.
struct Watched<'a> {
    file: File,
    hasher: Hasher,
    progress: Option<&'a dyn Progress>,
    digest: &'a Digest,
    passed: u64,
    size: u64,
}

impl Read for Watched<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read(buf)?;
        self.hasher.update(&buf[..n]);
        self.passed += n as u64;
        if let Some(progress) = self.progress {
            progress.layer(self.digest, Phase::Saving, self.passed, self.size);
        }
        Ok(n)
    }
}
