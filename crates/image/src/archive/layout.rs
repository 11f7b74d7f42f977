//! OCI image layouts: `index.json` names manifests and indexes, `blobs/` holds everything.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use oci::image::{ANNOTATION_CONTAINERD_NAME, ANNOTATION_REF_NAME, Descriptor, Index, media_type};
use oci::{Digest, Platform, Reference};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use sys::Context;

use super::spool::check_layout;
use crate::assemble::{Cancel, MANIFEST_MAX, Source};
use crate::content::read_bounded;
use crate::{Error, ImageRecord, Inbound, Result};

const LAYOUT_MAX: u64 = 4 << 10;

impl Inbound<'_> {
    /// `load` from an OCI layout that is a directory. Its blobs are copied.
    ///
    /// # Errors
    /// What is wrong with the layout; system call errors; the sink's.
    pub fn load_layout(&self, dir: &Path) -> Result<Vec<ImageRecord>> {
        let _lease = self.content.lease()?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, dir, flags, Mode::empty()).at("openat", dir.display())?;
        let directory = Directory { root };
        check_layout(&read_bounded(&mut directory.open("oci-layout")?, LAYOUT_MAX, "oci-layout")?)?;
        let index = read_bounded(&mut directory.open("index.json")?, MANIFEST_MAX, "index.json")?;
        load(self, &index, &directory)
    }
}

struct Directory {
    root: OwnedFd,
}

impl Directory {
    /// Opens a regular file below the root; nothing else, so that nobody waits for a pipe to open.
    fn open(&self, path: &str) -> Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let fd = rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve).at("openat2", path)?;
        let stat = rustix::fs::fstat(&fd).at("fstat", path)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::malformed(path, "it is not a regular file"));
        }
        Ok(File::from(fd))
    }
}

impl Source for Directory {
    fn blob<'a>(&'a self, descriptor: &Descriptor, _cancel: &'a Cancel) -> Result<Box<dyn Read + Send + 'a>> {
        let digest = &descriptor.digest;
        Ok(Box::new(self.open(&format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex()))?))
    }
}

/// Loads every image that `index` (the bytes of `index.json`) lists and that suits the platform.
pub(super) fn load(inbound: &Inbound<'_>, index: &[u8], source: &dyn Source) -> Result<Vec<ImageRecord>> {
    let index: Index = serde_json::from_slice(index).map_err(|e| Error::malformed("index.json", e.to_string()))?;
    if index.schema_version != 2 {
        return Err(Error::malformed("index.json", format!("schemaVersion is {}, not 2", index.schema_version)));
    }
    let usable = |entry: &&Descriptor| {
        let kind = entry.media_type.as_str();
        media_type::is_manifest(kind) || media_type::is_index(kind)
    };
    let entries: Vec<&Descriptor> = index.manifests.iter().filter(usable).collect();
    let wanted = inbound.platform.clone().unwrap_or_else(Platform::host);
    // An archive of several images may have some for other machines; a lone one is taken if nobody asked otherwise.
    let alone = entries.len() == 1 && inbound.platform.is_none();
    let suits = |entry: &Descriptor| alone || entry.platform.as_ref().is_none_or(|p| wanted.rank(p).is_some());
    let assembly = inbound.assembly(source);
    let mut records: BTreeMap<&Digest, ImageRecord> = BTreeMap::new();
    let mut loaded = Vec::new();
    for entry in entries.iter().filter(|entry| suits(entry)) {
        if !records.contains_key(&entry.digest) {
            let mut target = (*entry).clone();
            target.annotations.remove(ANNOTATION_CONTAINERD_NAME);
            target.annotations.remove(ANNOTATION_REF_NAME);
            records.insert(&entry.digest, assembly.image(&target, None)?);
        }
        if let Some(record) = records.get(&entry.digest) {
            loaded.push(ImageRecord { reference: name_of(entry)?, ..record.clone() });
        }
    }
    if loaded.is_empty() {
        let offered: Vec<String> =
            entries.iter().filter_map(|e| e.platform.as_ref()).map(ToString::to_string).collect();
        return Err(match offered.is_empty() {
            true => Error::malformed("index.json", "it lists no image"),
            false => {
                Error::NoPlatform { wanted: Box::new(wanted), offered: offered.join(", ").escape_debug().to_string() }
            }
        });
    }
    for record in &loaded {
        inbound.images.put(record.clone())?;
    }
    Ok(loaded)
}

/// The name an entry carries. A bare tag (`latest`), as the specification has it, names no repository.
fn name_of(entry: &Descriptor) -> Result<Option<Reference>> {
    let parse = |name: &String| {
        name.parse::<Reference>().map(Some).map_err(|e| Error::malformed("index.json", format!("image name: {e}")))
    };
    if let Some(full) = entry.annotations.get(ANNOTATION_CONTAINERD_NAME) {
        return parse(full);
    }
    match entry.annotations.get(ANNOTATION_REF_NAME) {
        Some(name) if name.contains(['/', ':', '@']) => parse(name),
        _ => Ok(None),
    }
}
