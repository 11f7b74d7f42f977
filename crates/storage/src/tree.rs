//! A layer tree under construction: names are resolved from its root by the kernel, parents are made when missing.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use sys::Context;

use crate::error::{Error, Result, lossy};
use crate::walk;

/// Tries of `openat2` that end in EAGAIN: the kernel gives up on a `..` below a root while anything anywhere is renamed
/// or mounted (openat2(2)).
const TRIES: usize = 1000;

/// The tree.
pub(crate) struct Tree {
    root: OwnedFd,
    /// The directory that was used last, by its path.
    cached: Option<(Vec<u8>, OwnedFd)>,
    /// Inodes of directories that no entry described.
    pub(crate) implicit: HashSet<u64>,
    /// Inodes of directories that hide what lower layers have in them. They are marked when the tree is complete.
    pub(crate) opaque: HashSet<u64>,
    /// Something was replaced, so counts made on the way are wrong.
    pub(crate) replaced: bool,
    /// Inodes made on the way, the root included.
    pub(crate) inodes: u64,
    /// Bytes written on the way.
    pub(crate) bytes: u64,
}

/// Whether a node hides a name of lower layers.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Opens a directory below a root, links in the path resolved inside.
pub(crate) fn open_dir(root: impl AsFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let mut tries = TRIES;
    loop {
        tries -= 1;
        match rustix::fs::openat2(
            root.as_fd(),
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV,
        ) {
            Err(Errno::AGAIN) if tries > 0 => {}
            result => return result,
        }
    }
}

/// The directory and the last component of a cleaned path.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

impl Tree {
    /// A tree on an open, empty directory, which is implicit until an entry describes it.
    pub(crate) fn new(root: OwnedFd) -> Result<Self> {
        let inode = rustix::fs::fstat(&root).at("fstat", "the layer's root")?.st_ino;
        Ok(Self {
            root,
            cached: None,
            implicit: HashSet::from([inode]),
            opaque: HashSet::new(),
            replaced: false,
            inodes: 1,
            bytes: 0,
        })
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The directory at `path`, made with its parents when missing.
    pub(crate) fn dir(&mut self, path: &[u8]) -> Result<BorrowedFd<'_>> {
        let fresh = !matches!(&self.cached, Some((cached, _)) if cached == path);
        if fresh {
            let dir = match open_dir(&self.root, path) {
                Err(Errno::NOENT | Errno::NOTDIR) => self.make(path)?,
                dir => dir.at("openat2", lossy(path))?,
            };
            // The allocation of the name that was cached before is used again.
            let mut name = self.cached.take().map(|(name, _)| name).unwrap_or_default();
            name.clear();
            name.extend_from_slice(path);
            self.cached = Some((name, dir));
        }
        match &self.cached {
            Some((_, dir)) => Ok(dir.as_fd()),
            None => Ok(self.root.as_fd()),
        }
    }

    /// Makes the missing components of a path, one by one.
    fn make(&mut self, path: &[u8]) -> Result<OwnedFd> {
        let mut dir = open_dir(&self.root, b"").at("openat2", ".")?;
        let ends = path.iter().enumerate().filter(|&(_, &b)| b == b'/').map(|(at, _)| at).chain([path.len()]);
        for end in ends {
            let prefix = &path[..end];
            dir = match open_dir(&self.root, prefix) {
                Err(Errno::NOENT | Errno::NOTDIR) => {
                    let (_, name) = split(prefix);
                    let made = self.make_one(dir.as_fd(), name, prefix)?;
                    rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755)).at("fchmod", lossy(prefix))?;
                    // A set-group-id parent hands its group down (inode(7)); an implicit directory is root's.
                    let root = (rustix::fs::Uid::ROOT, rustix::fs::Gid::ROOT);
                    rustix::fs::fchown(&made, Some(root.0), Some(root.1)).at("fchown", lossy(prefix))?;
                    let inode = rustix::fs::fstat(&made).at("fstat", lossy(prefix))?.st_ino;
                    self.implicit.insert(inode);
                    made
                }
                found => found.at("openat2", lossy(prefix))?,
            };
        }
        Ok(dir)
    }

    /// Makes one parent. Only a whiteout may stand in its way.
    fn make_one(&mut self, dir: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<OwnedFd> {
        let opaque = match rustix::fs::mkdirat(dir, name, Mode::RWXU) {
            Ok(()) => false,
            Err(Errno::EXIST) => {
                let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).at("fstatat", lossy(path))?;
                if !is_whiteout(&stat) {
                    return Err(Error::Refused { entry: lossy(path), reason: "a parent is not a directory" });
                }
                rustix::fs::unlinkat(dir, name, AtFlags::empty()).at("unlinkat", lossy(path))?;
                rustix::fs::mkdirat(dir, name, Mode::RWXU).at("mkdirat", lossy(path))?;
                self.replaced = true;
                true
            }
            Err(errno) => return Err(sys::Error::new("mkdirat", lossy(path), errno).into()),
        };
        self.inodes += 1;
        let made = open_last(dir, name).at("openat", lossy(path))?;
        self.note_new(&made, opaque, path)?;
        Ok(made)
    }

    /// Takes note of a new directory, whose inode number may have been a removed one's; gives the number.
    fn note_new(&mut self, dir: &OwnedFd, opaque: bool, path: &[u8]) -> Result<u64> {
        let inode = rustix::fs::fstat(dir).at("fstat", lossy(path))?.st_ino;
        if opaque {
            self.opaque.insert(inode);
        } else {
            self.opaque.remove(&inode);
        }
        Ok(inode)
    }

    /// The directory that an entry describes: made, or the one that is there with what it holds. What was not a
    /// directory is replaced by an opaque one, since it hid the lower layers' directory of that name.
    pub(crate) fn described_dir(&mut self, path: &[u8]) -> Result<OwnedFd> {
        if path.is_empty() {
            let root = open_dir(&self.root, b"").at("openat2", ".")?;
            self.implicit.remove(&rustix::fs::fstat(&root).at("fstat", ".")?.st_ino);
            return Ok(root);
        }
        let (parent, name) = split(path);
        let dir = self.dir(parent)?;
        let (mut opaque, mut new) = (false, true);
        match rustix::fs::mkdirat(dir, name, Mode::RWXU) {
            Ok(()) => self.inodes += 1,
            Err(Errno::EXIST) => {
                let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).at("fstatat", lossy(path))?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    rustix::fs::unlinkat(dir, name, AtFlags::empty()).at("unlinkat", lossy(path))?;
                    rustix::fs::mkdirat(dir, name, Mode::RWXU).at("mkdirat", lossy(path))?;
                    opaque = true;
                } else {
                    new = false;
                }
            }
            Err(errno) => return Err(sys::Error::new("mkdirat", lossy(path), errno).into()),
        }
        if opaque {
            self.forget();
        }
        let dir = open_last(self.dir(parent)?, name).at("openat", lossy(path))?;
        let inode = if new {
            self.note_new(&dir, opaque, path)?
        } else {
            rustix::fs::fstat(&dir).at("fstat", lossy(path))?.st_ino
        };
        self.implicit.remove(&inode);
        Ok(dir)
    }

    /// Makes a node that is no directory, in place of whatever has its name.
    pub(crate) fn node<T>(
        &mut self,
        path: &[u8],
        call: &'static str,
        make: impl Fn(BorrowedFd<'_>, &[u8]) -> rustix::io::Result<T>,
    ) -> Result<T> {
        let (parent, name) = split(path);
        let dir = self.dir(parent)?;
        match make(dir, name) {
            Err(Errno::EXIST) => {
                // A name without NUL, since it came from a path.
                let c_name = std::ffi::CString::new(name)
                    .map_err(|_| Error::Refused { entry: lossy(path), reason: "the name has a NUL" })?;
                walk::remove(dir, &c_name)?;
                self.forget();
                make(self.dir(parent)?, name).at(call, lossy(path)).map_err(Error::from)
            }
            made => made.at(call, lossy(path)).map_err(Error::from),
        }
    }

    /// After a replacement the cached directory may be gone, or be reached by another path.
    fn forget(&mut self) {
        self.cached = None;
        self.replaced = true;
    }
}

/// Opens a directory by its last component, following no link.
pub(crate) fn open_last(dir: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}
