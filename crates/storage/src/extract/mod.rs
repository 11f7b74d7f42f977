//! Unpacking a layer archive into a tree, in overlayfs's own form.
//!
//! Whiteouts are always written, never applied: a layer is unpacked without its parents, and they may come later. Every
//! entry is made new under its last component (`O_EXCL`), owner before mode before attributes, so that nothing that
//! was there before is written to or followed; times of directories come last, when nothing touches them any more.

use std::collections::HashMap;
use std::ffi::CStr;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid};
use rustix::io::Errno;
use sys::Context;

use crate::archive::{Entry, Kind, Limits, Reader};
use crate::error::{Error, Result, lossy};
use crate::tree::{Tree, is_whiteout, open_dir, open_last, split};
use crate::walk::{Meter, Visitor};
use crate::{walk, xattr};

mod name;
#[cfg(test)]
mod tests;

use name::Meaning;

/// What unpacking found out.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Bytes in regular files, holes not counted.
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
    pub(crate) max_uid: u32,
    pub(crate) max_gid: u32,
    /// Directories that no entry described, by their real path; the root's is empty.
    pub(crate) implicit: Vec<Vec<u8>>,
    /// The root hides everything below it.
    pub(crate) root_opaque: bool,
    /// Directories that hide what lower layers have in them, by their real path.
    pub(crate) opaque: Vec<Vec<u8>>,
    /// Attributes that only the host's administrator may set.
    pub(crate) trusted: Vec<Trusted>,
}

/// An extended attribute in the `trusted` name space, which takes a privilege that unpacking does without: it is set
/// when the tree is complete. The inode tells whether the name still is that file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Trusted {
    pub(crate) path: Vec<u8>,
    pub(crate) inode: u64,
    pub(crate) name: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

/// Bytes that all trusted attributes of a layer may have together, names and paths included.
const TRUSTED_BYTES: u64 = 16 << 20;

/// Unpacks an archive. What takes `CAP_SYS_ADMIN` is left to [`finish`].
///
/// # Errors
/// Those of reading the archive, of names that lead out, of limits, and of the system calls that make the entries.
pub(crate) fn extract(tree: &mut Tree, source: &mut dyn Read, limits: &Limits) -> Result<Outcome> {
    let mut reader = Reader::new(source, limits);
    let mut entry = Entry::new();
    let mut extractor = Extractor {
        tree,
        limits,
        times: HashMap::new(),
        outcome: Outcome::default(),
        trusted_bytes: 0,
        path: Vec::new(),
        link: Vec::new(),
    };
    while reader.next(&mut entry)? {
        extractor.entry(&mut reader, &entry)?;
    }
    extractor.finish()
}

/// Does what [`extract`] left over: marks directories as opaque and sets trusted attributes. `outcome` may come from a
/// process that the archive has taken over, so every name is resolved inside the tree, and only files and directories
/// are opened.
///
/// # Errors
/// Those of the system calls.
pub(crate) fn finish(root: BorrowedFd<'_>, outcome: &Outcome) -> Result<()> {
    for path in &outcome.opaque {
        // Step by step: the real path of a directory may be longer than one that can be named.
        let mut dir = open_dir(root, b"").at("openat2", ".")?;
        for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            dir = open_last(dir.as_fd(), name).at("openat", lossy(path))?;
        }
        xattr::set_opaque(&dir)?;
    }
    for Trusted { path, inode, name, value } in &outcome.trusted {
        let (parent, last) = split(path);
        let last = if last.is_empty() { b"." } else { last };
        let dir = match open_dir(root, parent) {
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            dir => dir.at("openat2", lossy(path))?,
        };
        match rustix::fs::statat(&dir, last, AtFlags::SYMLINK_NOFOLLOW) {
            // A later entry took its place.
            Err(Errno::NOENT) => continue,
            Ok(stat) if stat.st_ino != *inode => continue,
            Ok(stat) => {
                let kind = FileType::from_raw_mode(stat.st_mode);
                if !matches!(kind, FileType::RegularFile | FileType::Directory) || !xattr::allowed(name) {
                    return Err(Error::Refused { entry: lossy(path), reason: "it can have no trusted attribute" });
                }
            }
            Err(errno) => return Err(sys::Error::new("fstatat", lossy(path), errno).into()),
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&dir, last, flags, Mode::empty()).at("openat", lossy(path))?;
        xattr::set(&file, name, value)?;
    }
    Ok(())
}

struct Extractor<'t> {
    tree: &'t mut Tree,
    limits: &'t Limits,
    /// Modification times that directories get at the end, by inode.
    times: HashMap<u64, Timespec>,
    outcome: Outcome,
    trusted_bytes: u64,
    /// The current entry's cleaned names.
    path: Vec<u8>,
    link: Vec<u8>,
}

impl Extractor<'_> {
    fn entry(&mut self, reader: &mut Reader<'_>, entry: &Entry) -> Result<()> {
        let mut path = std::mem::take(&mut self.path);
        name::clean(&entry.path, self.limits, &mut path)?;
        let result = self.named(reader, entry, &path);
        self.path = path;
        result
    }

    fn named(&mut self, reader: &mut Reader<'_>, entry: &Entry, path: &[u8]) -> Result<()> {
        match name::meaning(path).map_err(|reason| Error::Refused { entry: lossy(path), reason })? {
            Meaning::Plain => {}
            Meaning::Ignored => return Ok(()),
            Meaning::Opaque => {
                let dir = split(path).0;
                let inode = rustix::fs::fstat(self.tree.dir(dir)?).at("fstat", lossy(dir))?.st_ino;
                self.tree.opaque.insert(inode);
                return Ok(());
            }
            Meaning::Whiteout(hidden) => {
                let mut path = split(path).0.to_vec();
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(hidden);
                return self.whiteout(&path);
            }
        }
        if path.is_empty() && entry.kind != Kind::Directory {
            return Err(Error::Refused { entry: lossy(&entry.path), reason: "the layer's root must be a directory" });
        }
        self.outcome.max_uid = self.outcome.max_uid.max(entry.uid);
        self.outcome.max_gid = self.outcome.max_gid.max(entry.gid);
        match entry.kind {
            Kind::File => self.file(reader, entry, path),
            Kind::Directory => self.directory(entry, path),
            Kind::Symlink => self.symlink(entry, path),
            Kind::HardLink => self.hard_link(entry, path),
            // overlayfs takes such a device for a whiteout; archives made from its upper directories have them.
            Kind::CharDevice if entry.device == (0, 0) => self.whiteout(path),
            Kind::CharDevice => self.special(entry, path, FileType::CharacterDevice),
            Kind::BlockDevice => self.special(entry, path, FileType::BlockDevice),
            Kind::Fifo => self.special(entry, path, FileType::Fifo),
        }
    }

    fn file(&mut self, reader: &mut Reader<'_>, entry: &Entry, path: &[u8]) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = self
            .tree
            .node(path, "openat", |dir, name| rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR))?;
        self.tree.inodes += 1;
        let mut stored = 0;
        match &entry.sparse {
            None => stored = write(reader, file.as_fd(), 0, entry.size, path)?,
            Some(map) => {
                for region in map {
                    stored += write(reader, file.as_fd(), region.offset, region.length, path)?;
                }
                rustix::fs::ftruncate(&file, entry.size).at("ftruncate", lossy(path))?;
            }
        }
        self.tree.bytes += stored;
        own(file.as_fd(), entry, path)?;
        self.attributes(file.as_fd(), entry, path)?;
        rustix::fs::futimens(&file, &modified(entry.mtime)).at("futimens", lossy(path))?;
        Ok(())
    }

    fn directory(&mut self, entry: &Entry, path: &[u8]) -> Result<()> {
        let dir = self.tree.described_dir(path)?;
        own(dir.as_fd(), entry, path)?;
        self.attributes(dir.as_fd(), entry, path)?;
        let inode = rustix::fs::fstat(&dir).at("fstat", lossy(path))?.st_ino;
        self.times.insert(inode, entry.mtime);
        Ok(())
    }

    fn attributes(&mut self, file: BorrowedFd<'_>, entry: &Entry, path: &[u8]) -> Result<()> {
        for (name, value) in entry.xattrs.iter().filter(|(name, _)| xattr::allowed(name)) {
            if !name.starts_with(b"trusted.") {
                xattr::set(file, name, value)?;
                continue;
            }
            self.trusted_bytes += (path.len() + name.len() + value.len()) as u64;
            if self.trusted_bytes > TRUSTED_BYTES {
                return Err(Error::Limit { what: "bytes in trusted attributes", limit: TRUSTED_BYTES });
            }
            let inode = rustix::fs::fstat(file).at("fstat", lossy(path))?.st_ino;
            let (path, name, value) = (path.to_vec(), name.clone(), value.clone());
            self.outcome.trusted.push(Trusted { path, inode, name, value });
        }
        Ok(())
    }

    fn symlink(&mut self, entry: &Entry, path: &[u8]) -> Result<()> {
        if entry.link.is_empty() || entry.link.len() > self.limits.path_bytes {
            return Err(Error::Refused { entry: lossy(path), reason: "the link's target is empty or too long" });
        }
        self.tree.node(path, "symlinkat", |dir, name| rustix::fs::symlinkat(&entry.link[..], dir, name))?;
        self.tree.inodes += 1;
        let (parent, name) = split(path);
        let dir = self.tree.dir(parent)?;
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).at("fchownat", lossy(path))?;
        rustix::fs::utimensat(dir, name, &modified(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .at("utimensat", lossy(path))?;
        Ok(())
    }

    /// The target is named from the layer's root and must be there already; a link as the target is not followed.
    fn hard_link(&mut self, entry: &Entry, path: &[u8]) -> Result<()> {
        let missing = || Error::Refused { entry: lossy(path), reason: "the hard link's target is not in the layer" };
        let mut target = std::mem::take(&mut self.link);
        name::clean(&entry.link, self.limits, &mut target)?;
        let (parent, name) = split(&target);
        if name.is_empty() {
            return Err(missing());
        }
        let from = match open_dir(self.tree.root(), parent) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(missing()),
            from => from.at("openat2", lossy(parent))?,
        };
        let stat = match rustix::fs::statat(&from, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Err(missing()),
            stat => stat.at("fstatat", lossy(&target))?,
        };
        if is_whiteout(&stat) || FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(missing());
        }
        self.tree.node(path, "linkat", |dir, new| {
            match rustix::fs::linkat(&from, name, dir, new, AtFlags::empty()) {
                // A link to itself is there already, and must not be removed to make room for itself.
                Err(Errno::EXIST) => match rustix::fs::statat(dir, new, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(there) if there.st_ino == stat.st_ino => Ok(()),
                    _ => Err(Errno::EXIST),
                },
                linked => linked,
            }
        })?;
        self.link = target;
        Ok(())
    }

    fn special(&mut self, entry: &Entry, path: &[u8], kind: FileType) -> Result<()> {
        let device = rustix::fs::makedev(entry.device.0, entry.device.1);
        self.tree
            .node(path, "mknodat", |dir, name| rustix::fs::mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, device))?;
        self.tree.inodes += 1;
        let (parent, name) = split(path);
        let dir = self.tree.dir(parent)?;
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).at("fchownat", lossy(path))?;
        // Not by descriptor: opening a device for real would reach its driver.
        sys::fs::chmod_no_follow(dir, name, entry.mode)?;
        rustix::fs::utimensat(dir, name, &modified(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .at("utimensat", lossy(path))?;
        Ok(())
    }

    fn whiteout(&mut self, path: &[u8]) -> Result<()> {
        self.tree.node(path, "mknodat", make_whiteout)?;
        self.tree.inodes += 1;
        Ok(())
    }

    /// Gives directories their times, finds the implicit ones and, after replacements, counts again.
    fn finish(self) -> Result<Outcome> {
        let Self { tree, times, mut outcome, .. } = self;
        let meter = tree.replaced.then(Meter::default);
        let mut last = Last { tree, times, implicit: Vec::new(), opaque: Vec::new(), meter };
        let root = open_dir(last.tree.root(), b"").at("openat2", ".")?;
        walk::walk(root, &mut last)?;
        outcome.implicit = last.implicit;
        // The walk begins with the root, whose path is empty.
        outcome.root_opaque = last.opaque.first().is_some_and(Vec::is_empty);
        outcome.opaque = last.opaque;
        (outcome.bytes, outcome.inodes) = match last.meter {
            Some(meter) => (meter.usage.bytes, meter.usage.inodes),
            None => (last.tree.bytes, last.tree.inodes),
        };
        Ok(outcome)
    }
}

/// Makes a whiteout, which needs no privilege since Linux 5.8.
pub(crate) fn make_whiteout(dir: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    rustix::fs::mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), 0)
}

/// The last walk over a layer.
struct Last<'t> {
    tree: &'t Tree,
    times: HashMap<u64, Timespec>,
    implicit: Vec<Vec<u8>>,
    opaque: Vec<Vec<u8>>,
    meter: Option<Meter>,
}

impl Visitor for Last<'_> {
    fn entry(&mut self, dir: BorrowedFd<'_>, name: &CStr, kind: FileType) -> Result<()> {
        self.meter.as_mut().map_or(Ok(()), |meter| meter.entry(dir, name, kind))
    }

    fn enter(&mut self, path: &[u8], inode: u64) -> Result<()> {
        if self.tree.implicit.contains(&inode) {
            self.implicit.push(path.to_vec());
        }
        if self.tree.opaque.contains(&inode) {
            self.opaque.push(path.to_vec());
        }
        self.meter.as_mut().map_or(Ok(()), |meter| meter.enter(path, inode))
    }

    fn leave(&mut self, dir: BorrowedFd<'_>, inode: u64) -> Result<()> {
        if let Some(&time) = self.times.get(&inode) {
            rustix::fs::futimens(dir, &modified(time)).at("futimens", "a directory of the layer")?;
        }
        Ok(())
    }
}

/// Copies `length` bytes of the current entry to `offset` of a file; gives `length`.
fn write(reader: &mut Reader<'_>, file: BorrowedFd<'_>, offset: u64, length: u64, path: &[u8]) -> Result<u64> {
    let mut done = 0;
    while done < length {
        let Some(mut piece) = reader.data(length - done)? else { return Err(Error::Truncated) };
        while !piece.is_empty() {
            match rustix::io::pwrite(file, piece, offset + done) {
                Ok(0) => return Err(sys::Error::new("pwrite", lossy(path), Errno::IO).into()),
                Ok(count) => {
                    piece = &piece[count..];
                    done += count as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(sys::Error::new("pwrite", lossy(path), errno).into()),
            }
        }
    }
    Ok(length)
}

/// Owner, then mode: a change of owner takes the set-id bits away.
fn own(file: BorrowedFd<'_>, entry: &Entry, path: &[u8]) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    rustix::fs::fchown(file, Some(uid), Some(gid)).at("fchown", lossy(path))?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode)).at("fchmod", lossy(path))?;
    Ok(())
}

/// Times with only the modification time set.
pub(crate) fn modified(time: Timespec) -> Timestamps {
    Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification: time }
}
