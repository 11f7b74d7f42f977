//! Comparing a layer with what its blob unpacks to, file by file: the check that sees a changed byte.

use std::collections::HashSet;
use std::ffi::CStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use sys::Context;

use crate::error::{Error, Result, lossy};
use crate::staging::Staging;
use crate::tree::{is_whiteout, open_last};
use crate::walk::{self, Visitor};
use crate::xattr;

/// Bytes of two files that are compared at a time.
const CHUNK: usize = 256 << 10;

impl Staging {
    /// In what the stored layer `chain` differs from this one, which was unpacked from the same archive and is not
    /// committed: the end of a sentence, or `None`. `parents` are the layers below, base first, as they are in the store.
    ///
    /// # Errors
    /// [`Error::MissingLayer`], [`Error::Unfinished`], and those of the system calls.
    pub fn compare(&self, chain: &oci::Digest, parents: &[oci::Digest]) -> Result<Option<String>> {
        let lowers = parents.iter().map(|parent| self.dirs().open_diff(parent)).collect::<Result<Vec<_>>>()?;
        let fresh = self.settle(&lowers)?;
        drop(lowers);
        let mut comparison = Comparison {
            stored: self.dirs().open_diff(chain)?,
            dir: None,
            implicit: self.implicit().iter().map(Vec::as_slice).collect(),
            path: Vec::new(),
            buffers: [vec![0; CHUNK], vec![0; CHUNK]],
            found: None,
        };
        match walk::walk(fresh, &mut comparison) {
            // The walk is over at the first difference.
            Err(Error::Unfinished) if comparison.found.is_some() => {}
            walked => walked?,
        }
        Ok(comparison.found)
    }
}

struct Comparison<'a> {
    stored: OwnedFd,
    /// The stored directory whose fresh counterpart is being read.
    dir: Option<OwnedFd>,
    /// Directories that no entry described: their times are those of the unpacking.
    implicit: HashSet<&'a [u8]>,
    /// Of the directory.
    path: Vec<u8>,
    buffers: [Vec<u8>; 2],
    found: Option<String>,
}

impl Comparison<'_> {
    fn differs(&mut self, name: &[u8], how: &str) -> Result<()> {
        let mut path = self.path.clone();
        if !path.is_empty() && !name.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        self.found = Some(format!("has {how} in /{}", lossy(&path).escape_debug()));
        Err(Error::Unfinished)
    }

    /// Compares what stat(2) tells; `with_time` where the archive sets it.
    fn attributes(&mut self, name: &[u8], fresh: &Stat, stored: &Stat, with_time: bool) -> Result<()> {
        let type_of = |stat: &Stat| FileType::from_raw_mode(stat.st_mode);
        if type_of(fresh) != type_of(stored) || fresh.st_rdev != stored.st_rdev {
            return self.differs(name, "a file of another type");
        }
        if (fresh.st_mode, fresh.st_uid, fresh.st_gid) != (stored.st_mode, stored.st_uid, stored.st_gid) {
            return self.differs(name, "another owner or mode");
        }
        let is_dir = type_of(fresh) == FileType::Directory;
        if !is_dir && (fresh.st_size, fresh.st_nlink) != (stored.st_size, stored.st_nlink) {
            return self.differs(name, "another size or number of links");
        }
        if with_time && (fresh.st_mtime, fresh.st_mtime_nsec) != (stored.st_mtime, stored.st_mtime_nsec) {
            return self.differs(name, "another time");
        }
        Ok(())
    }

    fn extended(&mut self, name: &[u8], fresh: impl AsFd, stored: impl AsFd) -> Result<()> {
        if xattr::all(fresh)? == xattr::all(stored)? { Ok(()) } else { self.differs(name, "other extended attributes") }
    }

    fn contents(&mut self, dirs: [BorrowedFd<'_>; 2], name: &CStr) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = |dir: BorrowedFd<'_>| rustix::fs::openat(dir, name, flags, Mode::empty()).map(File::from);
        let [fresh, stored] = dirs.map(open);
        let (mut fresh, mut stored) = (fresh.at("openat", shown(name))?, stored.at("openat", shown(name))?);
        self.extended(name.to_bytes(), &fresh, &stored)?;
        loop {
            let [ours, theirs] = &mut self.buffers;
            let count = fill(&mut fresh, ours).at("read", shown(name))?;
            // A sector that cannot be read is a difference like any other.
            let same =
                matches!(fill(&mut stored, theirs), Ok(other) if other == count) && ours[..count] == theirs[..count];
            if !same {
                return self.differs(name.to_bytes(), "other bytes");
            }
            if count == 0 {
                return Ok(());
            }
        }
    }
}

impl Visitor for Comparison<'_> {
    fn entry(&mut self, dir: BorrowedFd<'_>, name: &CStr, kind: FileType) -> Result<()> {
        let Some(other) = self.dir.take() else { return Ok(()) };
        let result = self.one(dir, other.as_fd(), name, kind);
        self.dir = Some(other);
        result
    }

    fn opened(&mut self, dir: BorrowedFd<'_>, path: &[u8]) -> Result<()> {
        // Step by step: a path in a layer may be longer than one that can be named.
        let mut other = open_last(self.stored.as_fd(), b".").at("openat", ".")?;
        for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            other = match open_last(other.as_fd(), name) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                    self.path.clear();
                    return self.differs(path, "no directory");
                }
                other => other.at("openat", lossy(path))?,
            };
        }
        path.clone_into(&mut self.path);
        let fresh = rustix::fs::fstat(dir).at("fstat", lossy(path))?;
        let stored = rustix::fs::fstat(&other).at("fstat", lossy(path))?;
        let with_time = !self.implicit.contains(path);
        self.attributes(b"", &fresh, &stored, with_time)?;
        self.extended(b"", dir, &other)?;
        self.dir = Some(other);
        Ok(())
    }
}

impl Comparison<'_> {
    fn one(&mut self, dir: BorrowedFd<'_>, other: BorrowedFd<'_>, name: &CStr, kind: FileType) -> Result<()> {
        let fresh = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).at("fstatat", shown(name))?;
        let stored = match rustix::fs::statat(other, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return self.differs(name.to_bytes(), "no file"),
            stored => stored.at("fstatat", shown(name))?,
        };
        self.attributes(name.to_bytes(), &fresh, &stored, !is_whiteout(&fresh))?;
        match kind {
            FileType::RegularFile => self.contents([dir, other], name),
            FileType::Symlink => {
                let target = |dir| rustix::fs::readlinkat(dir, name, Vec::new()).at("readlinkat", shown(name));
                if target(dir)? == target(other)? {
                    Ok(())
                } else {
                    self.differs(name.to_bytes(), "another link target")
                }
            }
            _ => Ok(()),
        }
    }
}

fn shown(name: &CStr) -> String {
    lossy(name.to_bytes())
}

fn fill(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut have = 0;
    while have < buffer.len() {
        match file.read(&mut buffer[have..]) {
            Ok(0) => break,
            Ok(count) => have += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(have)
}
