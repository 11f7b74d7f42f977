//! `tmpcopyup`: a tmpfs that begins with what the directory under it holds.
//!
//! It is done by the container's first process, with the container's own ids, by descriptor; the tmpfs's size is the bound.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use sys::{Context as _, Errno, Error, Result};

/// Directories inside each other: one descriptor each is held open.
const DEEPEST: usize = 200;

/// Gives the root of the tmpfs `made` the mode and owner of the directory `from`.
pub(crate) fn copy_mode(from: &OwnedFd, made: &OwnedFd) -> Result<()> {
    let stat = rustix::fs::fstat(from).at("fstat", "the mount point")?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Ok(());
    }
    like(&open_dir(made.as_fd(), c".")?, &stat)
}

/// Copies everything in `from` into the tmpfs `made`; with `mode` its root becomes like `from` as well.
pub(crate) fn copy(from: &OwnedFd, made: &OwnedFd, mode: bool) -> Result<()> {
    let (from, to) = (open_dir(from.as_fd(), c".")?, open_dir(made.as_fd(), c".")?);
    copy_entries(&from, &to, 0)?;
    let stat = rustix::fs::fstat(&from).at("fstat", "the mount point")?;
    if mode { like(&to, &stat) } else { Ok(()) }
}

fn open_dir(dir: impl AsFd, name: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty()).at("openat", name.to_string_lossy())
}

fn copy_entries(from: &OwnedFd, to: &OwnedFd, depth: usize) -> Result<()> {
    if depth > DEEPEST {
        return Err(Error::new("openat", "(too many directories inside each other)", Errno::NAMETOOLONG));
    }
    for entry in Dir::read_from(from).at("getdents64", "")? {
        let entry = entry.at("getdents64", "")?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        copy_entry(from, to, name, depth)?;
    }
    Ok(())
}

fn copy_entry(from: &OwnedFd, to: &OwnedFd, name: &CStr, depth: usize) -> Result<()> {
    let said = || name.to_string_lossy().into_owned();
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).at("fstatat", said())?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            rustix::fs::mkdirat(to, name, Mode::RWXU).at("mkdirat", said())?;
            let (below, copy) = (open_dir(from, name)?, open_dir(to, name)?);
            copy_entries(&below, &copy, depth + 1)?;
            copy_attributes(&below, &copy)?;
            like(&copy, &stat)
        }
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let source = rustix::fs::openat(from, name, flags, Mode::empty()).at("openat", said())?;
            // Another container may share the directory and have changed it since.
            let stat = rustix::fs::fstat(&source).at("fstat", said())?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return Err(Error::new("openat", format!("{} (changed meanwhile)", said()), Errno::AGAIN));
            }
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let copy = rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR).at("openat", said())?;
            let mut left = u64::try_from(stat.st_size).unwrap_or(0);
            while left > 0 {
                let length = usize::try_from(left.min(1 << 30)).unwrap_or(1 << 30);
                match rustix::fs::sendfile(&copy, &source, None, length).at("sendfile", said())? {
                    0 => break,
                    copied => left = left.saturating_sub(copied as u64),
                }
            }
            copy_attributes(&source, &copy)?;
            like(&copy, &stat)
        }
        FileType::Symlink => {
            let target: CString = rustix::fs::readlinkat(from, name, Vec::new()).at("readlinkat", said())?;
            rustix::fs::symlinkat(&target, to, name).at("symlinkat", said())?;
            own(to, name, &stat)
        }
        // Device nodes, sockets and fifos are no content; a node could not be made in a user namespace anyway.
        _ => Ok(()),
    }
}

fn own(dir: &OwnedFd, name: &CStr, stat: &Stat) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    match rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW) {
        // An id that the container's map lacks cannot be given; the copy stays the container's root's.
        Err(Errno::INVAL) => Ok(()),
        other => other.at("fchownat", name.to_string_lossy()),
    }
}

/// Owner, mode and times, in this order: a change of the owner takes set-user-ID away.
fn like(copy: &OwnedFd, stat: &Stat) -> Result<()> {
    match rustix::fs::fchown(copy, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid))) {
        Ok(()) | Err(Errno::INVAL) => {}
        Err(errno) => return Err(Error::new("fchown", "the copy", errno)),
    }
    rustix::fs::fchmod(copy, Mode::from_raw_mode(stat.st_mode & 0o7777)).at("fchmod", "the copy")?;
    let times = Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime, tv_nsec: nanoseconds(stat.st_atime_nsec) },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: nanoseconds(stat.st_mtime_nsec) },
    };
    rustix::fs::futimens(copy, &times).at("utimensat", "the copy")
}

fn nanoseconds(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(0)
}

/// Extended attributes, as far as the tmpfs and the user namespace take them: labels and capabilities may not be.
fn copy_attributes(from: &OwnedFd, to: &OwnedFd) -> Result<()> {
    let mut names = vec![0_u8; 64 << 10];
    let length = match rustix::fs::flistxattr(from, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(errno) => return Err(Error::new("flistxattr", "", errno)),
    };
    let mut value = vec![0_u8; 64 << 10];
    for name in names[..length].split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        let Ok(length) = rustix::fs::fgetxattr(from, name, &mut value[..]) else { continue };
        match rustix::fs::fsetxattr(to, name, &value[..length], XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS | Errno::INVAL) => {}
            Err(errno) => return Err(Error::new("fsetxattr", name.to_string_lossy(), errno)),
        }
    }
    Ok(())
}
