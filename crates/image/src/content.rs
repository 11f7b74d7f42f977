//! The content store: blobs by digest, laid out as an OCI image layout (`image-layout.md`).
//!
//! A blob is written into an unnamed file, hashed on the way, and gets its name only when digest and size are right
//! and the data is on disk; a killed writer leaves nothing. Where the file system has no `O_TMPFILE` a named file in
//! `ingest/` stands in, which its writer keeps locked, so that a sweep can tell abandoned ones. What the collector takes out
//! of the store goes there too, and is removed from the disk when nobody waits for it any more.
//!
//! Whoever adds blobs that no record names yet holds a [`Lease`]; the collector takes the same lock exclusively.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::OnceLock;

use oci::Digest;
use oci::digest::Algorithm;
use oci::image::{Descriptor, Index};
use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, RawMode};
use rustix::io::Errno;
use sha2::Digest as _;
use sys::Context;

use crate::{Error, Result};

const ALGORITHMS: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];
const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
/// Largest `index.json` this program reads back, in bytes.
const INDEX_MAX: u64 = 64 << 20;

/// Blobs in a directory, which is opened when first needed.
#[derive(Debug)]
pub struct ContentStore {
    path: PathBuf,
    dirs: OnceLock<Dirs>,
}

/// The open directories.
#[derive(Debug)]
struct Dirs {
    root: OwnedFd,
    ingest: OwnedFd,
}

/// Keeps the collector away from blobs that no record names yet. Dropping it lets the collector in again.
#[derive(Debug)]
pub struct Lease {
    _lock: OwnedFd,
}

/// The collector's exclusive hold on the store: no lease exists while it lives.
#[derive(Debug)]
pub struct Exclusive {
    _lock: OwnedFd,
}

impl ContentStore {
    /// The store at `dir`, which is opened, made (mode 0700) and swept of what dead writers left when it is first needed.
    /// Costs no system call: a command that reads a record alone never opens it.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { path: dir.to_owned(), dirs: OnceLock::new() }
    }

    /// The same, opened at once.
    ///
    /// # Errors
    /// System call errors.
    pub fn open(dir: &Path) -> Result<Self> {
        let store = Self::new(dir);
        store.dirs()?;
        Ok(store)
    }

    fn dirs(&self) -> Result<&Dirs> {
        match self.dirs.get() {
            Some(dirs) => Ok(dirs),
            None => {
                let opened = Dirs::open(&self.path)?;
                Ok(self.dirs.get_or_init(|| opened))
            }
        }
    }

    pub(crate) fn root(&self) -> Result<&OwnedFd> {
        Ok(&self.dirs()?.root)
    }

    /// Takes a shared lease.
    ///
    /// # Errors
    /// System call errors.
    pub fn lease(&self) -> Result<Lease> {
        let lock = self.lock_file()?;
        retry(|| rustix::fs::flock(&lock, FlockOperation::LockShared)).at("flock", "lease")?;
        Ok(Lease { _lock: lock })
    }

    /// Takes the exclusive hold, or `None` while any lease is out.
    ///
    /// # Errors
    /// System call errors.
    pub fn try_exclusive(&self) -> Result<Option<Exclusive>> {
        let lock = self.lock_file()?;
        match retry(|| rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)) {
            Ok(()) => Ok(Some(Exclusive { _lock: lock })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(sys::Error::new("flock", "lease", errno).into()),
        }
    }

    fn lock_file(&self) -> Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(rustix::fs::openat(self.root()?, "lease", flags, Mode::from_raw_mode(0o600)).at("openat", "lease")?)
    }

    /// Whether the blob is here.
    ///
    /// # Errors
    /// System call errors other than its absence.
    pub fn contains(&self, digest: &Digest) -> Result<bool> {
        exists(self.root()?, &blob_path(digest))
    }

    /// The blob's size in bytes, or `None` when it is not here.
    ///
    /// # Errors
    /// System call errors other than its absence.
    pub fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        match rustix::fs::statat(self.root()?, blob_path(digest), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(u64::try_from(stat.st_size).unwrap_or(0))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(sys::Error::new("statat", digest, errno).into()),
        }
    }

    /// Opens the blob for reading. Its content was verified when it was stored, not now.
    ///
    /// # Errors
    /// [`Error::MissingBlob`]; system call errors.
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match rustix::fs::openat(self.root()?, blob_path(digest), flags, Mode::empty()) {
            Ok(fd) => Ok(File::from(fd)),
            Err(Errno::NOENT) => Err(Error::MissingBlob(digest.clone())),
            Err(errno) => Err(sys::Error::new("openat", digest, errno).into()),
        }
    }

    /// Reads the whole blob, at most `limit` bytes, and verifies its digest.
    ///
    /// # Errors
    /// [`Error::MissingBlob`], [`Error::TooLarge`], [`Error::Digest`]; system call errors.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let what = format!("blob {digest}");
        let bytes = read_bounded(&mut self.open_blob(digest)?, limit, &what)?;
        let mut hasher = Hasher::new(digest.algorithm());
        hasher.update(&bytes);
        verify(&what, digest, &hasher.finish())?;
        Ok(bytes)
    }

    /// Begins a blob of at most `limit` bytes.
    ///
    /// # Errors
    /// System call errors.
    pub fn writer(&self, algorithm: Algorithm, limit: u64) -> Result<BlobWriter<'_>> {
        let dirs = self.dirs()?;
        let (file, name) = dirs.ingest_file()?;
        Ok(BlobWriter { dirs, file, name, hasher: Hasher::new(algorithm), written: 0, limit })
    }

    /// Stores `bytes` and returns their digest.
    ///
    /// # Errors
    /// System call errors.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::sha256_of(bytes);
        if !self.contains(&digest)? {
            let mut writer = self.writer(Algorithm::Sha256, bytes.len() as u64)?;
            writer.append(bytes)?;
            writer.commit(Some(&digest), Some(bytes.len() as u64))?;
        }
        Ok(digest)
    }

    /// Removes the blob; it is no error when it is not here.
    ///
    /// # Errors
    /// System call errors.
    pub fn remove(&self, digest: &Digest, _held: &Exclusive) -> Result<()> {
        match rustix::fs::unlinkat(self.root()?, blob_path(digest), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(sys::Error::new("unlinkat", digest, errno).into()),
        }
    }

    /// Takes every blob that is not in `keep`, and old parts of blobs, out of the store, and says how many bytes
    /// [`Self::sweep`] will give back, which is to be called when the hold has ended.
    ///
    /// # Errors
    /// System call errors.
    pub fn retain(&self, keep: &BTreeSet<Digest>, held: &Exclusive) -> Result<u64> {
        let mut freed = self.drop_partials(crate::partial::KEPT, held)?;
        for (digest, size) in self.list()? {
            if !keep.contains(&digest) {
                self.discard(self.root()?, &blob_path(&digest))?;
                freed += size;
            }
        }
        Ok(freed)
    }

    /// All blobs, in no order, with their sizes in bytes.
    ///
    /// # Errors
    /// System call errors.
    pub fn list(&self) -> Result<Vec<(Digest, u64)>> {
        let mut found = Vec::new();
        for algorithm in ALGORITHMS {
            let path = format!("blobs/{}", algorithm.as_str());
            for name in file_names_at(self.root()?, &path)?.0 {
                let Ok(digest) = Digest::from_str(&format!("{}:{name}", algorithm.as_str())) else { continue };
                if let Some(size) = self.size(&digest)? {
                    found.push((digest, size));
                }
            }
        }
        Ok(found)
    }

    /// Replaces `index.json` with one that lists `manifests`.
    ///
    /// # Errors
    /// System call errors.
    pub fn write_index(&self, manifests: Vec<Descriptor>) -> Result<()> {
        self.dirs()?.write_file("index.json", &index(manifests)?)
    }

    /// The manifests `index.json` lists.
    ///
    /// # Errors
    /// When it cannot be read or is not an index.
    pub fn read_index(&self) -> Result<Vec<Descriptor>> {
        let fd = rustix::fs::openat(self.root()?, "index.json", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .at("openat", "index.json")?;
        let bytes = read_bounded(&mut File::from(fd), INDEX_MAX, "index.json")?;
        let index: Index = serde_json::from_slice(&bytes).map_err(|e| Error::malformed("index.json", e.to_string()))?;
        Ok(index.manifests)
    }

    /// Moves a file out of sight, to where [`Self::sweep`] removes it.
    pub(crate) fn discard(&self, from: &OwnedFd, name: &str) -> Result<()> {
        match rustix::fs::renameat(from, name, &self.dirs()?.ingest, random_name()?) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(sys::Error::new("renameat", name, errno).into()),
        }
    }

    /// Removes from the disk what was taken out of the store and what dead writers left. That may take long, and needs no
    /// hold on the store.
    ///
    /// # Errors
    /// System call errors.
    pub fn sweep(&self) -> Result<()> {
        self.dirs()?.sweep()
    }
}

impl Dirs {
    fn open(dir: &Path) -> Result<Self> {
        let root = open_or_make_path(dir)?;
        let blobs = open_or_make_dir(&root, Path::new("blobs"))?;
        for algorithm in ALGORITHMS {
            open_or_make_dir(&blobs, Path::new(algorithm.as_str()))?;
        }
        let ingest = open_or_make_dir(&root, Path::new("ingest"))?;
        let dirs = Self { root, ingest };
        if !exists(&dirs.root, "oci-layout")? {
            dirs.write_file("oci-layout", LAYOUT)?;
        }
        if !exists(&dirs.root, "index.json")? {
            dirs.write_file("index.json", &index(Vec::new())?)?;
        }
        dirs.sweep()?;
        Ok(dirs)
    }

    /// Writes a small file so that it is there whole or not at all, now and after a crash.
    fn write_file(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let (mut file, temp) = self.named_ingest_file()?;
        file.write_all(bytes).at("write", name)?;
        rustix::fs::fsync(&file).at("fsync", name)?;
        rustix::fs::renameat(&self.ingest, &temp, &self.root, name).at("renameat", name)?;
        Ok(rustix::fs::fsync(&self.root).at("fsync", name)?)
    }

    fn ingest_file(&self) -> Result<(File, Option<String>)> {
        let unnamed = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.ingest, ".", unnamed, Mode::from_raw_mode(0o600)) {
            Ok(fd) => Ok((File::from(fd), None)),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let (file, name) = self.named_ingest_file()?;
                Ok((file, Some(name)))
            }
            Err(errno) => Err(sys::Error::new("openat", "ingest (O_TMPFILE)", errno).into()),
        }
    }

    fn named_ingest_file(&self) -> Result<(File, String)> {
        loop {
            let name = random_name()?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let fd = match rustix::fs::openat(&self.ingest, &name, flags, Mode::from_raw_mode(0o600)) {
                Err(Errno::EXIST) => continue,
                result => result.at("openat", format_args!("ingest/{name}"))?,
            };
            // A sweeper may have seen the file before it was locked; then its name is gone and another is needed.
            match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => continue,
                Err(errno) => return Err(sys::Error::new("flock", format_args!("ingest/{name}"), errno).into()),
            }
            let stat = rustix::fs::fstat(&fd).at("fstat", format_args!("ingest/{name}"))?;
            if stat.st_nlink > 0 {
                return Ok((File::from(fd), name));
            }
        }
    }

    fn sweep(&self) -> Result<()> {
        for name in file_names(&self.ingest)? {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let Ok(fd) = rustix::fs::openat(&self.ingest, &name, flags, Mode::empty()) else { continue };
            if rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive).is_ok() {
                match rustix::fs::unlinkat(&self.ingest, &name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(errno) => return Err(sys::Error::new("unlinkat", format_args!("ingest/{name}"), errno).into()),
                }
            }
        }
        Ok(())
    }
}

fn index(manifests: Vec<Descriptor>) -> Result<Vec<u8>> {
    let index = Index {
        schema_version: 2,
        media_type: oci::image::media_type::OCI_INDEX.to_owned(),
        manifests,
        annotations: BTreeMap::new(),
    };
    serde_json::to_vec(&index).map_err(|e| Error::malformed("index.json", e.to_string()))
}

/// A blob being written. Dropping it discards it.
#[derive(Debug)]
pub struct BlobWriter<'a> {
    dirs: &'a Dirs,
    file: File,
    /// Name in `ingest/`; `None` when the file has none.
    name: Option<String>,
    hasher: Hasher,
    written: u64,
    limit: u64,
}

impl BlobWriter<'_> {
    /// Adds `bytes` at the end.
    ///
    /// # Errors
    /// [`Error::TooLarge`] beyond the limit; system call errors, such as a full disk.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        if self.written + bytes.len() as u64 > self.limit {
            return Err(Error::TooLarge { what: "blob".to_owned(), limit: self.limit });
        }
        self.file.write_all(bytes).at("write", "blob")?;
        self.hasher.update(bytes);
        write_behind(&self.file, self.written, bytes.len() as u64);
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Bytes so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Verifies digest and size where they are known, makes the data durable and gives the blob its name.
    ///
    /// # Errors
    /// [`Error::Size`], [`Error::Digest`]; system call errors. Nothing is stored then.
    pub fn commit(mut self, expected: Option<&Digest>, size: Option<u64>) -> Result<(Digest, u64)> {
        if let Some(expected) = size.filter(|size| *size != self.written) {
            return Err(Error::Size { what: "blob".to_owned(), expected, actual: self.written });
        }
        let digest = std::mem::replace(&mut self.hasher, Hasher::new(Algorithm::Sha256)).finish();
        if let Some(expected) = expected {
            verify("blob", expected, &digest)?;
        }
        let path = blob_path(&digest);
        if !exists(&self.dirs.root, &path)? {
            rustix::fs::fsync(&self.file).at("fsync", &path)?;
            self.link(&path)?;
            let dir = format!("blobs/{}", digest.algorithm().as_str());
            let dir_fd = open_or_make_dir(&self.dirs.root, Path::new(&dir))?;
            rustix::fs::fsync(&dir_fd).at("fsync", &dir)?;
        }
        Ok((digest, self.written))
    }

    fn link(&mut self, path: &str) -> Result<()> {
        let linked = match self.name.take() {
            None => {
                let fd_path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                rustix::fs::linkat(CWD, fd_path, &self.dirs.root, path, AtFlags::SYMLINK_FOLLOW).at("linkat", path)
            }
            Some(name) => rustix::fs::renameat(&self.dirs.ingest, &name, &self.dirs.root, path).at("renameat", path),
        };
        match linked {
            Err(error) if error.errno() == Errno::EXIST => Ok(()),
            result => Ok(result?),
        }
    }
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.append(bytes).map_err(Error::into_io)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for BlobWriter<'_> {
    fn drop(&mut self) {
        if let Some(name) = self.name.take() {
            // Whatever stays behind is unlocked with this writer's death and swept by the next open.
            let _ = rustix::fs::unlinkat(&self.dirs.ingest, &name, AtFlags::empty());
        }
    }
}

/// Bytes of a blob after which the kernel is told to begin writing them: it would wait for the sync that ends the blob, and
/// the disk would do nothing until then.
const WRITE_BEHIND: u64 = 8 << 20;

/// To be called after `length` bytes were written at `offset`, at a blob's end.
pub(crate) fn write_behind(file: &File, offset: u64, length: u64) {
    let end = offset + length;
    if offset / WRITE_BEHIND != end / WRITE_BEHIND {
        let from = offset - offset % WRITE_BEHIND;
        sys::fs::begin_writeback(file, from, end - end % WRITE_BEHIND - from);
    }
}

/// A running digest of either algorithm.
#[derive(Clone, Debug)]
pub(crate) enum Hasher {
    Sha256(sha2::Sha256),
    Sha512(Box<sha2::Sha512>),
}

impl Hasher {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Box::new(sha2::Sha512::new())),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> Digest {
        match self {
            Self::Sha256(hasher) => Digest::from_sha256(&hasher.finalize()),
            Self::Sha512(hasher) => Digest::from_sha512(&hasher.finalize()),
        }
    }
}

pub(crate) fn verify(what: &str, expected: &Digest, actual: &Digest) -> Result<()> {
    if expected == actual {
        return Ok(());
    }
    Err(Error::Digest { what: what.to_owned(), expected: expected.clone(), actual: actual.clone() })
}

/// Reads all of `reader`, or fails once it gives more than `limit` bytes.
pub(crate) fn read_bounded(reader: &mut dyn Read, limit: u64, what: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| Error::read(what, e))?;
    if bytes.len() as u64 > limit {
        return Err(Error::TooLarge { what: what.to_owned(), limit });
    }
    Ok(bytes)
}

/// Opens the directory `path` below `at`, making it with mode 0700 when it is missing.
pub(crate) fn open_or_make_dir(at: impl AsFd, path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::openat(&at, path, flags, Mode::empty()) {
        Err(Errno::NOENT) => {}
        result => return Ok(result.at("openat", path.display())?),
    }
    match rustix::fs::mkdirat(&at, path, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(sys::Error::new("mkdirat", path.display(), errno).into()),
    }
    Ok(rustix::fs::openat(&at, path, flags, Mode::empty()).at("openat", path.display())?)
}

/// Opens the directory `path`, making it and those above it with mode 0700 when they are missing.
pub(crate) fn open_or_make_path(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::NOENT) => {}
        result => return Ok(result.at("open", path.display())?),
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path).at("mkdir", path.display())?;
    Ok(rustix::fs::open(path, flags, Mode::empty()).at("open", path.display())?)
}

/// As [`file_names`] of the directory `path`; none when it is not there. Looking makes nothing: on a disk that is full
/// it could not.
pub(crate) fn file_names_at(at: impl AsFd, path: &str) -> Result<(Vec<String>, Option<OwnedFd>)> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::openat(at, path, flags, Mode::empty()) {
        Err(Errno::NOENT) => Ok((Vec::new(), None)),
        dir => {
            let dir = dir.at("openat", path)?;
            Ok((file_names(&dir)?, Some(dir)))
        }
    }
}

/// Names of the regular files in `dir` that are valid UTF-8.
pub(crate) fn file_names(dir: &OwnedFd) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir).at("getdents64", "directory")? {
        let entry = entry.at("getdents64", "directory")?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if name == "." || name == ".." {
            continue;
        }
        let regular = match entry.file_type() {
            FileType::Unknown => {
                let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
                stat.is_ok_and(|s| FileType::from_raw_mode(s.st_mode as RawMode) == FileType::RegularFile)
            }
            kind => kind == FileType::RegularFile,
        };
        if regular {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

pub(crate) fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

pub(crate) fn exists(dir: &OwnedFd, path: &str) -> Result<bool> {
    match rustix::fs::statat(dir, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(sys::Error::new("statat", path, errno).into()),
    }
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

pub(crate) fn random_name() -> Result<String> {
    let mut raw = [0_u8; 8];
    rustix::rand::getrandom(&mut raw, rustix::rand::GetRandomFlags::empty()).at("getrandom", "")?;
    Ok(format!("{:016x}", u64::from_ne_bytes(raw)))
}

#[cfg(test)]
#[path = "content_tests.rs"]
mod tests;
