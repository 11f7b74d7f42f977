//! The image store: what is named what.
//!
//! One file per reference, named by the encoded reference, replaced atomically. Readers take no lock; writers take
//! one, so that renaming a tag and keeping what it pointed to are one step. A record that cannot be read counts for
//! itself only.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use oci::image::{ANNOTATION_CONTAINERD_NAME, ANNOTATION_REF_NAME, Descriptor};
use oci::{Digest, Reference};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::Deserialize;
use sys::Context;

use crate::content::{ContentStore, file_names, open_or_make_path, random_name, read_bounded};
use crate::record::{self, ImageRecord, dangling_file_name};
use crate::{Error, Result};

const SUFFIX: &str = ".json";
const TEMP_SUFFIX: &str = ".tmp";
/// Largest record read, in bytes: an image configuration's bound and its layers.
const RECORD_MAX: u64 = 16 << 20;
/// Shortest prefix taken for an image id, as in docker.
const ID_PREFIX_MIN: usize = 4;

/// Names and what they point to.
#[derive(Debug)]
pub struct ImageStore {
    dir: OwnedFd,
    content: Arc<ContentStore>,
}

/// All records that could be read, and what was wrong with the others.
#[derive(Debug, Default)]
pub struct Listing {
    /// Sound records, by file name.
    pub records: Vec<ImageRecord>,
    /// The reasons for the others.
    pub damaged: Vec<Error>,
}

/// What images still need; everything else may go.
#[derive(Debug, Default)]
pub struct Marked {
    /// Blobs.
    pub blobs: BTreeSet<Digest>,
    /// Layers, by ChainID.
    pub chains: BTreeSet<Digest>,
}

/// Who uses an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Use {
    /// Nobody.
    Unused,
    /// A container with this id that does not run.
    Stopped(String),
    /// A container with this id that runs.
    Running(String),
}

/// What a removal did, in order; docker prints one line for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// This name is gone (familiar form).
    Untagged(String),
    /// This image is gone.
    Deleted(Digest),
}

impl ImageStore {
    /// Opens the store at `dir`, making it (mode 0700) when it is not there. `content` holds the images' blobs; its
    /// `index.json` is kept in step.
    ///
    /// # Errors
    /// System call errors.
    pub fn open(dir: &Path, content: Arc<ContentStore>) -> Result<Self> {
        Ok(Self { dir: open_or_make_path(dir)?, content })
    }

    /// The record of exactly `reference`, or `None`.
    ///
    /// # Errors
    /// [`Error::DamagedRecord`], [`Error::OtherVersion`]; system call errors.
    pub fn get(&self, reference: &Reference) -> Result<Option<ImageRecord>> {
        self.load(&canonical(reference).file_name())
    }

    /// Writes `record` durably, replacing what its reference named; an image that loses its last name thereby stays,
    /// unnamed.
    ///
    /// # Errors
    /// [`Error::OtherVersion`] when the name is another version's; system call errors.
    pub fn put(&self, mut record: ImageRecord) -> Result<()> {
        let _lock = self.lock()?;
        record.reference = record.reference.as_ref().map(canonical);
        let mut listing = self.list()?;
        let file = record.file_name();
        let others = |error: &Error| matches!(error, Error::OtherVersion { name, .. } if *name == file);
        if let Some(position) = listing.damaged.iter().position(others) {
            return Err(listing.damaged.swap_remove(position));
        }
        let named = |id: &Digest, but: Option<&Reference>| {
            listing.records.iter().any(|r| r.id() == id && r.reference.is_some() && r.reference.as_ref() != but)
        };
        let dangling = dangling_file_name(record.id());
        match &record.reference {
            Some(reference) => {
                let old = listing.records.iter().find(|r| r.reference.as_ref() == Some(reference));
                if let Some(old) = old.filter(|old| old.id() != record.id() && !named(old.id(), Some(reference))) {
                    self.write(&ImageRecord { reference: None, ..old.clone() })?;
                }
                self.write(&record)?;
                self.unlink(&dangling)?;
            }
            None if named(record.id(), None) => {}
            None => self.write(&record)?,
        }
        self.publish()
    }

    /// Gives the image `record` describes another name.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn tag(&self, record: &ImageRecord, reference: &Reference) -> Result<()> {
        self.put(ImageRecord { reference: Some(reference.clone()), ..record.clone() })
    }

    /// Takes `names` away from the image `image` means, all it has when there are none; the image stays, unnamed in the
    /// end. Gives the names that are gone.
    ///
    /// # Errors
    /// As [`Self::resolve`]; [`Error::NoSuchImage`] for a name that the image does not have, and then none is taken.
    pub fn untag(&self, image: &str, names: &[Reference]) -> Result<Vec<Reference>> {
        let _lock = self.lock()?;
        let record = self.resolve(image)?;
        let own = self.names_of(record.id())?;
        let mut gone: Vec<Reference> = names.iter().map(canonical).collect();
        if let Some(other) = gone.iter().find(|name| !own.contains(name)) {
            return Err(Error::NoSuchImage(other.familiar()));
        }
        if gone.is_empty() {
            gone.clone_from(&own);
        }
        gone.dedup();
        if own.iter().all(|name| gone.contains(name)) {
            self.write(&ImageRecord { reference: None, ..record })?;
        }
        for name in &gone {
            self.unlink(&name.file_name())?;
        }
        self.publish()?;
        Ok(gone)
    }

    /// All records.
    ///
    /// # Errors
    /// System call errors on the directory itself.
    pub fn list(&self) -> Result<Listing> {
        let mut names = file_names(&self.dir)?;
        names.sort_unstable();
        let mut listing = Listing::default();
        for name in names.iter().filter_map(|name| name.strip_suffix(SUFFIX)) {
            match self.load(name) {
                Ok(Some(record)) => listing.records.push(record),
                Ok(None) => {}
                Err(error) => listing.damaged.push(error),
            }
        }
        Ok(listing)
    }

    /// The image a user means by `name`: a reference, a digest, or the beginning of an id.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], [`Error::Ambiguous`], [`Error::DamagedRecord`], [`Error::OtherVersion`]; system call errors.
    pub fn resolve(&self, name: &str) -> Result<ImageRecord> {
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        let reference = if hex.len() == name.len() { name.parse::<Reference>().ok() } else { None };
        if let Some(reference) = &reference {
            if let Some(record) = self.get(reference)? {
                return Ok(record);
            }
            if let Some(digest) = reference.digest() {
                let listing = self.list()?;
                let of_digest = |r: &&ImageRecord| r.id() == digest || r.manifest.digest == *digest;
                let in_repository =
                    |r: &&ImageRecord| r.reference.as_ref().is_some_and(|own| own.same_repository(reference));
                let found = listing.records.iter().filter(of_digest).find(in_repository);
                return found.cloned().ok_or_else(|| Error::NoSuchImage(name.to_owned()));
            }
        }
        let is_prefix = (ID_PREFIX_MIN..=128).contains(&hex.len())
            && hex.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'));
        if !is_prefix {
            return Err(Error::NoSuchImage(name.to_owned()));
        }
        self.resolve_id(hex, name)
    }

    fn resolve_id(&self, hex: &str, name: &str) -> Result<ImageRecord> {
        let listing = self.list()?;
        let by_id = |digest_of: fn(&ImageRecord) -> &Digest| -> Result<Option<ImageRecord>> {
            let matching: Vec<&ImageRecord> =
                listing.records.iter().filter(|r| digest_of(r).hex().starts_with(hex)).collect();
            let ids: BTreeSet<&Digest> = matching.iter().map(|r| r.id()).collect();
            if ids.len() > 1 {
                let candidates = ids.iter().map(ToString::to_string).collect();
                return Err(Error::Ambiguous { prefix: name.to_owned(), candidates });
            }
            Ok(matching.first().map(|r| (*r).clone()))
        };
        // Docker's id is the target's digest; other engines show the configuration's, so that is taken too.
        let meanings: [fn(&ImageRecord) -> &Digest; 3] =
            [ImageRecord::id, |r| &r.manifest.digest, |r| &r.config_blob.digest];
        for digest_of in meanings {
            if let Some(record) = by_id(digest_of)? {
                return Ok(record);
            }
        }
        Err(Error::NoSuchImage(name.to_owned()))
    }

    /// The names of the image with `id`.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub fn names_of(&self, id: &Digest) -> Result<Vec<Reference>> {
        let listing = self.list()?;
        Ok(listing.records.into_iter().filter(|r| r.id() == id).filter_map(|r| r.reference).collect())
    }

    /// `rmi`: removes the name `name`, or the image when `name` is its id or its last name. `users` says who uses an
    /// image; `force` overrides several names and stopped containers, whose image then stays unnamed. Blobs and
    /// layers are left to the collector.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], [`Error::Ambiguous`], [`Error::Conflict`]; system call errors.
    pub fn remove(&self, name: &str, force: bool, users: &dyn Fn(&Digest) -> Use) -> Result<Vec<Removed>> {
        let _lock = self.lock()?;
        let record = match self.resolve(name) {
            Err(Error::DamagedRecord { name: file, .. }) => return self.remove_damaged(name, &file),
            result => result?,
        };
        let id = record.id().clone();
        let mut same: Vec<ImageRecord> = self.list()?.records.into_iter().filter(|r| *r.id() == id).collect();
        let by_name = match &record.reference {
            Some(reference) => name.parse().is_ok_and(|wanted: Reference| canonical(&wanted) == *reference),
            None => false,
        };
        if by_name {
            let others = same.iter().filter(|r| r.reference != record.reference).count();
            if others > 0 {
                self.unlink(&record.file_name())?;
                self.publish()?;
                return Ok(vec![Removed::Untagged(shown(&record))]);
            }
            same.retain(|r| r.reference == record.reference);
        }
        self.remove_image(&record, &same, name, by_name, force, &users(&id))
    }

    fn remove_image(
        &self,
        record: &ImageRecord,
        same: &[ImageRecord],
        name: &str,
        by_name: bool,
        force: bool,
        used: &Use,
    ) -> Result<Vec<Removed>> {
        let id = record.id();
        let short = id.short();
        let tags = same.iter().filter(|r| r.reference.as_ref().is_some_and(|n| n.tag().is_some())).count();
        if !by_name && !force && tags > 1 {
            let reason =
                format!("unable to delete {short} (must be forced) - image is referenced in multiple repositories");
            return Err(Error::Conflict(reason));
        }
        let reason = match used {
            Use::Running(container) if by_name && !force => format!(
                "unable to remove repository reference {name:?} (must force) - container {container} is using its referenced image {short}"
            ),
            Use::Running(container) if !by_name => format!(
                "unable to delete {short} (cannot be forced) - image is being used by running container {container}"
            ),
            Use::Stopped(container) if by_name && !force => format!(
                "unable to remove repository reference {name:?} (must force) - container {container} is using its referenced image {short}"
            ),
            Use::Stopped(container) if !force => format!(
                "unable to delete {short} (must be forced) - image is being used by stopped container {container}"
            ),
            _ => String::new(),
        };
        if !reason.is_empty() {
            return Err(Error::Conflict(reason));
        }
        let mut removed = Vec::new();
        let keep = *used != Use::Unused;
        if keep {
            self.write(&ImageRecord { reference: None, ..record.clone() })?;
        }
        for record in same {
            if record.reference.is_none() && keep {
                continue;
            }
            self.unlink(&record.file_name())?;
            if record.reference.is_some() {
                removed.push(Removed::Untagged(shown(record)));
            }
        }
        if !keep {
            removed.push(Removed::Deleted(id.clone()));
        }
        self.publish()?;
        Ok(removed)
    }

    fn remove_damaged(&self, name: &str, file: &str) -> Result<Vec<Removed>> {
        self.unlink(file)?;
        self.publish()?;
        Ok(vec![Removed::Untagged(name.to_owned())])
    }

    /// Removes the record in `file`, whatever is in it, and brings `index.json` into step.
    pub(crate) fn forget(&self, file: &str) -> Result<()> {
        let _lock = self.lock()?;
        self.unlink(file)?;
        self.publish()
    }

    pub(crate) fn publish_alone(&self) -> Result<()> {
        let _lock = self.lock()?;
        self.publish()
    }

    pub(crate) fn content(&self) -> &ContentStore {
        &self.content
    }

    /// What the images need. A record that cannot be understood makes this an error: nothing may be collected while it is
    /// unknown what it needed.
    ///
    /// # Errors
    /// [`Error::DamagedRecord`], [`Error::OtherVersion`]; system call errors.
    pub fn mark(&self) -> Result<Marked> {
        let listing = self.list()?;
        if let Some(error) = listing.damaged.into_iter().next() {
            return Err(error);
        }
        let mut marked = Marked::default();
        for record in &listing.records {
            marked.blobs.extend(record.blobs().cloned());
            marked.chains.extend(record.chain().cloned());
        }
        Ok(marked)
    }

    /// Keeps index.json, from which other tools read the layout, in step with the records.
    fn publish(&self) -> Result<()> {
        let manifests = self.list()?.records.iter().map(index_entry).collect();
        self.content.write_index(manifests)
    }

    /// When the record was written, which is when the image got this name; `None` when it is gone.
    #[must_use]
    pub fn written(&self, record: &ImageRecord) -> Option<jiff::Timestamp> {
        let name = format!("{}{SUFFIX}", record.file_name());
        let stat = rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        jiff::Timestamp::new(stat.st_mtime, i32::try_from(stat.st_mtime_nsec).ok()?).ok()
    }

    fn load(&self, name: &str) -> Result<Option<ImageRecord>> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let damaged = |reason: String| Error::DamagedRecord { name: name.to_owned(), reason };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = match rustix::fs::openat(&self.dir, format!("{name}{SUFFIX}"), flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            result => result.at("openat", name)?,
        };
        let bytes = read_bounded(&mut File::from(fd), RECORD_MAX, name).map_err(|e| damaged(e.to_string()))?;
        let version: Version = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        if version.version != record::VERSION {
            let version = version.version;
            return Err(Error::OtherVersion { name: name.to_owned(), version, known: record::VERSION });
        }
        let record: ImageRecord = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        if record.file_name() != name {
            return Err(damaged("it belongs to another name".to_owned()));
        }
        Ok(Some(record))
    }

    fn write(&self, record: &ImageRecord) -> Result<()> {
        let name = format!("{}{SUFFIX}", record.file_name());
        let bytes = serde_json::to_vec(record).map_err(|e| Error::malformed(&name, e.to_string()))?;
        let temp = format!("{}{TEMP_SUFFIX}", random_name()?);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.dir, &temp, flags, Mode::from_raw_mode(0o600)).at("openat", &temp)?;
        let mut file = File::from(fd);
        let written = file
            .write_all(&bytes)
            .at("write", &name)
            .and_then(|()| rustix::fs::fsync(&file).at("fsync", &name))
            .and_then(|()| rustix::fs::renameat(&self.dir, &temp, &self.dir, &name).at("renameat", &name))
            .and_then(|()| rustix::fs::fsync(&self.dir).at("fsync", &name));
        if written.is_err() {
            // The error that made the temporary file useless is the one to report.
            let _ = rustix::fs::unlinkat(&self.dir, &temp, AtFlags::empty());
        }
        Ok(written?)
    }

    fn unlink(&self, name: &str) -> Result<()> {
        match rustix::fs::unlinkat(&self.dir, format!("{name}{SUFFIX}"), AtFlags::empty()) {
            Ok(()) => Ok(rustix::fs::fsync(&self.dir).at("fsync", name)?),
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(sys::Error::new("unlinkat", name, errno).into()),
        }
    }

    /// Takes the writers' lock, and removes what a writer that died with it left.
    fn lock(&self) -> Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let lock = rustix::fs::openat(&self.dir, "lock", flags, Mode::from_raw_mode(0o600)).at("openat", "lock")?;
        while let Err(errno) = rustix::fs::flock(&lock, FlockOperation::LockExclusive) {
            if errno != Errno::INTR {
                return Err(sys::Error::new("flock", "images/lock", errno).into());
            }
        }
        for name in file_names(&self.dir)?.iter().filter(|name| name.ends_with(TEMP_SUFFIX)) {
            match rustix::fs::unlinkat(&self.dir, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(sys::Error::new("unlinkat", name, errno).into()),
            }
        }
        Ok(lock)
    }
}

/// A tag beside a digest says nothing: the digest decides.
fn canonical(reference: &Reference) -> Reference {
    match reference.digest() {
        Some(digest) => reference.with_digest(digest.clone()),
        None => reference.clone(),
    }
}

fn shown(record: &ImageRecord) -> String {
    record.reference.as_ref().map_or_else(|| record.id().to_string(), Reference::familiar)
}

fn index_entry(record: &ImageRecord) -> Descriptor {
    let mut entry = record.target.clone();
    if let Some(reference) = &record.reference {
        entry.annotations.insert(ANNOTATION_CONTAINERD_NAME.to_owned(), reference.to_string());
        let short = reference.tag().map_or_else(|| reference.to_string(), str::to_owned);
        entry.annotations.insert(ANNOTATION_REF_NAME.to_owned(), short);
    }
    entry
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
