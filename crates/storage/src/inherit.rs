//! What a layer takes from the layers below it when it is committed: the attributes of directories that its archive
//! left out, and the names that an opaque root hides.
//!
//! Archives may leave parent directories out. Unpacked onto its parents such a layer would find them; unpacked alone it
//! made them with default attributes, which in an overlay would hide the real ones.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RawDir, Timespec, Uid};
use rustix::io::Errno;
use sys::Context;

use crate::error::{Result, lossy};
use crate::extract::{make_whiteout, modified};
use crate::{tree, xattr};

/// What the layers below have at a path.
enum Found {
    Directory(OwnedFd),
    /// Nothing, and further layers are to be asked.
    Absent,
    /// Nothing, and nothing below counts.
    Hidden,
}

/// Gives each directory in `paths` the attributes it has in the merged layers below. `lowers` are the open roots of the
/// layers below, the base first.
///
/// # Errors
/// Those of the system calls.
pub(crate) fn attributes(layer: BorrowedFd<'_>, paths: &[Vec<u8>], lowers: &[OwnedFd]) -> Result<()> {
    for path in paths {
        let Some(lower) = find(lowers, path)? else { continue };
        let dir = match tree::open_dir(layer, path) {
            // Deeper than any path that could be named; nothing below can have it either.
            Err(Errno::NAMETOOLONG) => continue,
            dir => dir.at("openat2", lossy(path))?,
        };
        copy(lower.as_fd(), dir.as_fd(), path)?;
    }
    Ok(())
}

/// Copies owner, mode, extended attributes and modification time from one directory to another.
///
/// # Errors
/// Those of the system calls.
pub(crate) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, path: &[u8]) -> Result<()> {
    let stat = rustix::fs::fstat(from).at("fstat", lossy(path))?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(to, Some(uid), Some(gid)).at("fchown", lossy(path))?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode)).at("fchmod", lossy(path))?;
    xattr::copy(from, to)?;
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0) };
    rustix::fs::futimens(to, &modified(time)).at("futimens", lossy(path))?;
    Ok(())
}

/// The topmost directory that the merged layers show at `path`.
fn find(lowers: &[OwnedFd], path: &[u8]) -> Result<Option<OwnedFd>> {
    for root in lowers.iter().rev() {
        match find_in(root, path)? {
            Found::Directory(dir) => return Ok(Some(dir)),
            Found::Hidden => return Ok(None),
            Found::Absent => {}
        }
    }
    Ok(None)
}

fn find_in(root: &OwnedFd, path: &[u8]) -> Result<Found> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut dir = tree::open_dir(root, b"").at("openat2", ".")?;
    for component in path.split(|&b| b == b'/').filter(|component| !component.is_empty()) {
        dir = match rustix::fs::openat(&dir, component, flags, Mode::empty()) {
            Ok(next) => next,
            Err(Errno::NOENT) => {
                return Ok(if xattr::is_opaque(&dir)? { Found::Hidden } else { Found::Absent });
            }
            // A whiteout, a link or a file has the name.
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(Found::Hidden),
            Err(errno) => return Err(sys::Error::new("openat", lossy(path), errno).into()),
        };
    }
    Ok(Found::Directory(dir))
}

/// Hides everything that the layers below have in their roots. overlayfs does not look for its opaque mark on the root
/// of a layer, so each name is hidden instead: by a whiteout, or by making the directory of that name opaque. Gives the
/// number of whiteouts made.
///
/// # Errors
/// Those of the system calls.
pub(crate) fn hide_roots(layer: BorrowedFd<'_>, lowers: &[OwnedFd]) -> Result<u64> {
    let mut names = BTreeSet::new();
    for root in lowers {
        collect_names(root, &mut names)?;
    }
    let stat = rustix::fs::fstat(layer).at("fstat", ".")?;
    let mut made = 0;
    for name in names {
        match rustix::fs::statat(layer, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                let dir = tree::open_dir(layer, name.to_bytes()).at("openat2", name.to_string_lossy())?;
                xattr::set_opaque(&dir)?;
            }
            Ok(_) => {}
            Err(Errno::NOENT) => {
                make_whiteout(layer, name.to_bytes()).at("mknodat", name.to_string_lossy())?;
                made += 1;
            }
            Err(errno) => return Err(sys::Error::new("fstatat", name.to_string_lossy(), errno).into()),
        }
    }
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0) };
    rustix::fs::futimens(layer, &modified(time)).at("futimens", ".")?;
    Ok(made)
}

fn collect_names(dir: &OwnedFd, names: &mut BTreeSet<CString>) -> Result<()> {
    // An own descriptor, so that the shared one keeps its place.
    let dir = tree::open_dir(dir, b"").at("openat2", ".")?;
    each_name(dir.as_fd(), |name| {
        names.insert(name.to_owned());
    })
}

/// Calls back with each name in a directory that was just opened.
///
/// # Errors
/// Those of `getdents64`.
pub(crate) fn each_name(dir: BorrowedFd<'_>, mut call: impl FnMut(&CStr)) -> Result<()> {
    let mut buffer = [std::mem::MaybeUninit::uninit(); 8192];
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry.at("getdents64", ".")?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            call(entry.file_name());
        }
    }
    Ok(())
}
