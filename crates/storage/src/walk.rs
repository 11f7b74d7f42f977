//! Walking and removing trees by descriptor: no recursion, any depth, no links followed, no mount crossed.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags};
use rustix::io::Errno;
use sys::Context;

use crate::error::{Error, Result, lossy};

/// Levels whose directories stay open; deeper down the way up is taken through `..` and checked.
const OPEN_LEVELS: usize = 32;

/// What the files of a tree take up. A file with several names counts once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in regular files, by their size.
    pub bytes: u64,
    /// Inodes, the tree's root included.
    pub inodes: u64,
}

/// What to do on a walk. An error from any function ends the walk.
pub(crate) trait Visitor {
    /// Something that is no directory, by its name in `dir`.
    fn entry(&mut self, dir: BorrowedFd<'_>, name: &CStr, kind: FileType) -> Result<()>;

    /// A directory, before its entries; `path` is from the walk's root, empty for the root itself.
    fn enter(&mut self, _path: &[u8], _inode: u64) -> Result<()> {
        Ok(())
    }

    /// The same directory, open, before its entries; after [`Visitor::enter`].
    fn opened(&mut self, _dir: BorrowedFd<'_>, _path: &[u8]) -> Result<()> {
        Ok(())
    }

    /// A directory, after everything below it.
    fn leave(&mut self, _dir: BorrowedFd<'_>, _inode: u64) -> Result<()> {
        Ok(())
    }

    /// A directory that was left, by its name in its parent.
    fn left(&mut self, _parent: BorrowedFd<'_>, _name: &CStr) -> Result<()> {
        Ok(())
    }

    /// A directory that could not be opened or read.
    fn failed(&mut self, error: sys::Error) -> Result<()> {
        Err(error.into())
    }
}

struct Level {
    /// Open while the level is one of the first [`OPEN_LEVELS`].
    dir: Option<OwnedFd>,
    device: u64,
    inode: u64,
    /// The directory's name in its parent.
    name: CString,
    /// Length of the path up to and without the directory's name.
    path: usize,
    /// Directories that remain to be walked.
    below: Vec<CString>,
}

/// Opens a directory by its name in another, following no link and crossing no mount.
pub(crate) fn open_below(dir: BorrowedFd<'_>, name: &CStr) -> sys::Result<OwnedFd> {
    rustix::fs::openat2(
        dir,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV,
    )
    .at("openat2", name.to_string_lossy())
}

/// Walks the tree below `root`, which is an open directory.
pub(crate) fn walk(root: OwnedFd, visitor: &mut dyn Visitor) -> Result<()> {
    let mut path = Vec::new();
    let mut levels = Vec::new();
    let mut buffer = vec![MaybeUninit::uninit(); 32 << 10];
    let mut current = root;
    let level = enter(&current, c"", 0, &path, &mut buffer, visitor)?;
    levels.push(level);
    while let Some(top) = levels.last_mut() {
        if let Some(name) = top.below.pop() {
            let child = match open_below(current.as_fd(), &name) {
                Ok(child) => child,
                Err(error) => {
                    visitor.failed(error)?;
                    continue;
                }
            };
            let parent = std::mem::replace(&mut current, child);
            if levels.len() <= OPEN_LEVELS
                && let Some(top) = levels.last_mut()
            {
                top.dir = Some(parent);
            }
            let before = path.len();
            if before > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name.to_bytes());
            levels.push(enter(&current, &name, before, &path, &mut buffer, visitor)?);
            continue;
        }
        let Some(done) = levels.pop() else { break };
        visitor.leave(current.as_fd(), done.inode)?;
        path.truncate(done.path);
        let Some(parent) = levels.last_mut() else { break };
        current = match parent.dir.take() {
            Some(dir) => dir,
            None => climb(&current, parent, &path)?,
        };
        visitor.left(current.as_fd(), &done.name)?;
    }
    Ok(())
}

/// Reads a directory: entries go to the visitor, directories are kept for later.
fn enter(
    dir: &OwnedFd,
    name: &CStr,
    before: usize,
    path: &[u8],
    buffer: &mut [MaybeUninit<u8>],
    visitor: &mut dyn Visitor,
) -> Result<Level> {
    let stat = rustix::fs::fstat(dir).at("fstat", lossy(path))?;
    let mut level = Level {
        dir: None,
        device: stat.st_dev,
        inode: stat.st_ino,
        name: name.to_owned(),
        path: before,
        below: Vec::new(),
    };
    visitor.enter(path, stat.st_ino)?;
    visitor.opened(dir.as_fd(), path)?;
    let mut entries = RawDir::new(dir, buffer);
    while let Some(entry) = entries.next() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(errno) => {
                visitor.failed(sys::Error::new("getdents64", lossy(path), errno))?;
                break;
            }
        };
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let kind = match entry.file_type() {
            // Some file systems leave the type out of their directories.
            FileType::Unknown => match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                Err(errno) => {
                    visitor.failed(sys::Error::new("fstatat", name.to_string_lossy(), errno))?;
                    continue;
                }
            },
            kind => kind,
        };
        if kind == FileType::Directory {
            level.below.push(name.to_owned());
        } else {
            visitor.entry(dir.as_fd(), name, kind)?;
        }
    }
    Ok(level)
}

/// Opens the parent of a deep directory and makes sure that it is the one the walk came from.
fn climb(from: &OwnedFd, parent: &Level, path: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(from, c"..", flags, Mode::empty()).at("openat", lossy(path))?;
    let stat = rustix::fs::fstat(&dir).at("fstat", lossy(path))?;
    if (stat.st_dev, stat.st_ino) != (parent.device, parent.inode) {
        return Err(Error::Moved(lossy(path)));
    }
    Ok(dir)
}

/// Removes what it meets and goes on past what it cannot remove.
#[derive(Default)]
struct Remover {
    failures: u64,
    first: Option<sys::Error>,
}

impl Remover {
    fn note(&mut self, result: sys::Result<()>) {
        if let Err(error) = result
            && error.errno() != Errno::NOENT
        {
            self.failures += 1;
            self.first.get_or_insert(error);
        }
    }
}

impl Visitor for Remover {
    fn entry(&mut self, dir: BorrowedFd<'_>, name: &CStr, _kind: FileType) -> Result<()> {
        self.note(rustix::fs::unlinkat(dir, name, AtFlags::empty()).at("unlinkat", name.to_string_lossy()));
        Ok(())
    }

    fn left(&mut self, parent: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        self.note(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR).at("unlinkat", name.to_string_lossy()));
        Ok(())
    }

    fn failed(&mut self, error: sys::Error) -> Result<()> {
        self.note(Err(error));
        Ok(())
    }
}

/// Removes `name` in `dir`, whatever it is, with everything below it. What is absent is removed already.
///
/// # Errors
/// [`Error::NotRemoved`] when something is left, after everything else was removed.
pub(crate) fn remove(dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // Linux says EISDIR for a directory, POSIX says EPERM; a file that may not be removed fails again below.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(sys::Error::new("unlinkat", name.to_string_lossy(), errno).into()),
    }
    let mut remover = Remover::default();
    match open_below(dir, name) {
        Ok(root) => {
            walk(root, &mut remover)?;
            remover.left(dir, name)?;
        }
        Err(error) => remover.note(Err(error)),
    }
    match remover.first {
        None => Ok(()),
        Some(first) => {
            Err(Error::NotRemoved { path: name.to_string_lossy().into_owned(), failures: remover.failures, first })
        }
    }
}

/// Adds up a tree. What disappears meanwhile does not count.
#[derive(Default)]
pub(crate) struct Meter {
    pub(crate) usage: Usage,
    /// Files with several names that were counted.
    seen: HashSet<(u64, u64)>,
}

impl Visitor for Meter {
    fn entry(&mut self, dir: BorrowedFd<'_>, name: &CStr, kind: FileType) -> Result<()> {
        let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(sys::Error::new("fstatat", name.to_string_lossy(), errno).into()),
        };
        if stat.st_nlink > 1 && !self.seen.insert((stat.st_dev, stat.st_ino)) {
            return Ok(());
        }
        self.usage.inodes += 1;
        if kind == FileType::RegularFile {
            self.usage.bytes += u64::try_from(stat.st_size).unwrap_or(0);
        }
        Ok(())
    }

    fn enter(&mut self, _path: &[u8], _inode: u64) -> Result<()> {
        self.usage.inodes += 1;
        Ok(())
    }

    fn failed(&mut self, error: sys::Error) -> Result<()> {
        // Gone meanwhile, or a mount that is not part of the tree.
        if matches!(error.errno(), Errno::NOENT | Errno::XDEV) { Ok(()) } else { Err(error.into()) }
    }
}

/// Measures the tree below the open directory `root`.
pub(crate) fn usage(root: OwnedFd) -> Result<Usage> {
    let mut meter = Meter::default();
    walk(root, &mut meter)?;
    Ok(meter.usage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::testing::Scratch;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn open(path: &std::path::Path) -> OwnedFd {
        fs::File::open(path).expect("a directory of the test").into()
    }

    #[test]
    fn removes_a_tree_deeper_than_any_path() {
        let scratch = Scratch::new("deep");
        fs::create_dir(scratch.path().join("tree")).unwrap();
        let mut dir = open(&scratch.path().join("tree"));
        for _ in 0..3000 {
            rustix::fs::mkdirat(&dir, "deeper", Mode::from_raw_mode(0o755)).unwrap();
            dir = open_below(dir.as_fd(), c"deeper").unwrap();
        }
        drop(dir);
        assert_eq!(usage(open(&scratch.path().join("tree"))).unwrap(), Usage { bytes: 0, inodes: 3001 });
        remove(open(scratch.path()).as_fd(), c"tree").unwrap();
        assert!(!scratch.path().join("tree").exists());
        remove(open(scratch.path()).as_fd(), c"tree").unwrap();
    }

    #[test]
    fn removal_follows_no_link() {
        let scratch = Scratch::new("nolink");
        fs::create_dir_all(scratch.path().join("keep/below")).unwrap();
        fs::write(scratch.path().join("keep/file"), "stays").unwrap();
        fs::create_dir(scratch.path().join("tree")).unwrap();
        symlink("../keep", scratch.path().join("tree/link")).unwrap();
        symlink("keep", scratch.path().join("top")).unwrap();
        let root = open(scratch.path());
        remove(root.as_fd(), c"tree").unwrap();
        remove(root.as_fd(), c"top").unwrap();
        assert_eq!(fs::read(scratch.path().join("keep/file")).unwrap(), b"stays");
        assert!(scratch.path().join("keep/below").exists());
    }

    #[test]
    fn hard_links_count_once() {
        let scratch = Scratch::new("links");
        fs::write(scratch.path().join("a"), "12345").unwrap();
        fs::hard_link(scratch.path().join("a"), scratch.path().join("b")).unwrap();
        fs::create_dir(scratch.path().join("d")).unwrap();
        assert_eq!(usage(open(scratch.path())).unwrap(), Usage { bytes: 5, inodes: 3 });
    }
}
