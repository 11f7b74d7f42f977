//! Copy-up: an empty volume gets what the image has at the place where it is mounted.
//!
//! The image is seen through an overlay of its layers that is mounted nowhere, read-only, and the place is resolved
//! inside it (`openat2`): a link leads nowhere else. The content is first copied to `seed/`, which becomes
//! `seed.ready/` when it is whole, and is then moved entry by entry into `_data`. Whoever finds `seed` begins anew,
//! whoever finds `seed.ready` goes on; a container that uses the empty volume meanwhile keeps the directory it has, and
//! what it made there is never replaced (CVE-2020-1726).

use std::collections::HashMap;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RawDir, RenameFlags, SeekFrom, Stat, Timespec, Timestamps, Uid,
};
use rustix::io::Errno;
use sys::Context;
use sys::fs::{Durability, Lock};
use sys::mount::Attributes;
use sys::overlay::Overlay;

use super::{LOCK, VolumeName, VolumeStore, open_data, remove, shown};
use crate::error::{Error, Result, lossy};
use crate::tree;
use crate::walk::{self, Visitor};
use crate::xattr;

const SEED: &str = "seed";
const READY: &str = "seed.ready";
/// The same within a volume that is mounted, where they can be moved into place.
const SEED_INSIDE: &str = ".lighter-seed";
const READY_INSIDE: &str = ".lighter-seed.ready";
/// How long to wait for another container that fills the volume: a large one is tens of gigabytes.
const LIMIT: Duration = Duration::from_secs(1800);
/// Bytes copied by one call.
const CHUNK: usize = 1 << 30;

impl VolumeStore {
    /// Gives the volume, if it is empty, the content that an image has at `path`; true when it did. `layers` are the
    /// image's layers, topmost first. Devices and sockets are left out.
    ///
    /// # Errors
    /// Those of the system calls; the next call takes it up again.
    pub fn seed(&self, name: &VolumeName, layers: &[PathBuf], path: &Path, durability: Durability) -> Result<bool> {
        let volume = self.open_volume(name)?;
        let data = open_data(&volume)?;
        let stage = match super::device::mounted(&volume)? {
            true => Stage { dir: &data, seed: SEED_INSIDE, ready: READY_INSIDE },
            false => Stage { dir: &volume, seed: SEED, ready: READY },
        };
        // Without the lock: a volume in use is not even looked at twice.
        if !is_empty(&data)? && !exists(stage.dir, stage.ready)? {
            return Ok(false);
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = rustix::fs::openat(&volume, LOCK, flags, Mode::RUSR | Mode::WUSR).at("openat", LOCK)?;
        let lock = Lock::take(lock, LIMIT)?;
        if !exists(stage.dir, stage.ready)? {
            remove(stage.dir, stage.seed)?;
            if !is_empty(&data)? {
                return Ok(false);
            }
            let Some(source) = find(layers, path)? else { return Ok(false) };
            rustix::fs::mkdirat(stage.dir, stage.seed, Mode::RWXU).at("mkdirat", SEED)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let seed = sys::fs::open_beneath(stage.dir, stage.seed, flags, Mode::empty())?;
            copy(source, &seed)?;
            if durability == Durability::Durable {
                rustix::fs::syncfs(&seed).at("syncfs", SEED)?;
            }
            rustix::fs::renameat(stage.dir, stage.seed, stage.dir, stage.ready).at("renameat", SEED)?;
        }
        take_over(&stage, &data)?;
        if durability == Durability::Durable {
            sys::fs::sync_dir(&data, name)?;
            sys::fs::sync_dir(&volume, name)?;
        }
        drop(lock);
        Ok(true)
    }
}

/// Where content is put together, and what it is called there.
struct Stage<'a> {
    dir: &'a OwnedFd,
    seed: &'a str,
    ready: &'a str,
}

fn exists(dir: &OwnedFd, name: &str) -> sys::Result<bool> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(sys::Error::new("fstatat", name, errno)),
    }
}

/// Gives every name in a directory to `each`, until that says stop.
fn entries(dir: &OwnedFd, mut each: impl FnMut(&CStr) -> Result<bool>) -> Result<()> {
    let dir = sys::fs::open_beneath(dir, ".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
    let mut buffer = [MaybeUninit::uninit(); 8192];
    let mut list = RawDir::new(&dir, &mut buffer);
    while let Some(entry) = list.next() {
        let entry = entry.at("getdents64", "")?;
        if entry.file_name() != c"." && entry.file_name() != c".." && !each(entry.file_name())? {
            break;
        }
    }
    Ok(())
}

fn is_empty(dir: &OwnedFd) -> Result<bool> {
    let mut empty = true;
    entries(dir, |name| {
        // Content that is being put together is none yet.
        empty = [SEED_INSIDE, READY_INSIDE].iter().any(|own| name.to_bytes() == own.as_bytes());
        Ok(empty)
    })?;
    Ok(empty)
}

/// Moves complete content into place, and the directory's own attributes.
fn take_over(stage: &Stage<'_>, data: &OwnedFd) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let ready = sys::fs::open_beneath(stage.dir, stage.ready, flags, Mode::empty())?;
    let mut names = Vec::new();
    entries(&ready, |name| {
        names.push(name.to_owned());
        Ok(true)
    })?;
    for name in names {
        match rustix::fs::renameat_with(&ready, &name, data, &name, RenameFlags::NOREPLACE) {
            // A container that was quicker keeps what it wrote.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(sys::Error::new("renameat2", name.to_string_lossy(), errno).into()),
        }
    }
    let stat = rustix::fs::fstat(&ready).at("fstat", READY)?;
    xattr::copy(&ready, data)?;
    adopt(data, &stat)?;
    remove(stage.dir, stage.ready)
}

/// The image's directory at `path`; `None` when it has none there.
fn find(layers: &[PathBuf], path: &Path) -> Result<Option<OwnedFd>> {
    if layers.is_empty() {
        return Ok(None);
    }
    let root = merged(layers)?;
    match tree::open_dir(&root, path.as_os_str().as_encoded_bytes()) {
        Ok(dir) => Ok(Some(dir)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(errno) => Err(sys::Error::new("openat2", shown(path), errno).into()),
    }
}

/// The root of all layers together, attached to no place.
pub(crate) fn merged(layers: &[PathBuf]) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = |path: &PathBuf| rustix::fs::open(path, flags, Mode::empty()).at("open", path.display());
    let mut opened = layers.iter().map(open).collect::<sys::Result<Vec<_>>>()?;
    if opened.len() == 1 {
        return Ok(opened.remove(0));
    }
    let attributes = Attributes::RDONLY | Attributes::NOSUID | Attributes::NODEV | Attributes::NOEXEC;
    let mount = Overlay::new(&opened, None, |_| Ok(()))?.mount(attributes)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(&mount, ".", flags, Mode::empty()).at("openat", "the image's root")?)
}

/// Owner and permissions, in this order: a change of owner clears set-id bits.
fn adopt(file: impl AsFd, stat: &Stat) -> sys::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(&file, Some(uid), Some(gid)).at("fchown", "")?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(stat.st_mode & 0o7777)).at("fchmod", "")
}

fn times(stat: &Stat) -> Timestamps {
    let at = |seconds: i64, nanos: u64| Timespec { tv_sec: seconds, tv_nsec: nanos.try_into().unwrap_or(0) };
    Timestamps {
        last_access: at(stat.st_atime, stat.st_atime_nsec),
        last_modification: at(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Copies the tree below `source` into the empty directory `to`.
pub(crate) fn copy(source: OwnedFd, to: &OwnedFd) -> Result<()> {
    let mut copier = Copier { to, current: None, path: Vec::new(), names: HashMap::new(), left: Vec::new() };
    walk::walk(source, &mut copier)
}

struct Copier<'a> {
    to: &'a OwnedFd,
    /// The copy of the directory whose entries come now.
    current: Option<OwnedFd>,
    path: Vec<u8>,
    /// Where files with several names were first copied to.
    names: HashMap<(u64, u64), Vec<u8>>,
    /// Directories that were entered and not yet left.
    left: Vec<Vec<u8>>,
}

impl Copier<'_> {
    fn here(&self) -> BorrowedFd<'_> {
        self.current.as_ref().unwrap_or(self.to).as_fd()
    }

    fn below(&self, name: &CStr) -> Vec<u8> {
        let mut path = self.path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.to_bytes());
        path
    }

    fn file(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        let shown = || name.to_string_lossy();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let from = rustix::fs::openat(dir, name, flags, Mode::empty()).at("openat", shown())?;
        let stat = rustix::fs::fstat(&from).at("fstat", shown())?;
        if stat.st_nlink > 1 {
            if let Some(first) = self.names.get(&(stat.st_dev, stat.st_ino)) {
                let (parent, last) = tree::split(first);
                let parent = tree::open_dir(self.to, parent).at("openat2", lossy(first))?;
                rustix::fs::linkat(parent, last, self.here(), name, AtFlags::empty()).at("linkat", shown())?;
                return Ok(());
            }
            self.names.insert((stat.st_dev, stat.st_ino), self.below(name));
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let to = rustix::fs::openat(self.here(), name, flags, Mode::RUSR | Mode::WUSR).at("openat", shown())?;
        copy_bytes(&from, &to, u64::try_from(stat.st_size).unwrap_or(0))?;
        adopt(&to, &stat)?;
        // After the owner: changing that takes a program's capabilities away.
        xattr::copy(&from, &to)?;
        Ok(rustix::fs::futimens(&to, &times(&stat)).at("futimens", shown())?)
    }

    fn link(&self, dir: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> sys::Result<()> {
        let target = rustix::fs::readlinkat(dir, name, Vec::new()).at("readlinkat", name.to_string_lossy())?;
        rustix::fs::symlinkat(&target, self.here(), name).at("symlinkat", name.to_string_lossy())?;
        self.own(name, stat)
    }

    fn pipe(&self, name: &CStr, stat: &Stat) -> sys::Result<()> {
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        rustix::fs::mknodat(self.here(), name, FileType::Fifo, mode, 0).at("mknodat", name.to_string_lossy())?;
        self.own(name, stat)?;
        // Past the umask; nobody else can reach the copy, so the name is still the pipe.
        rustix::fs::chmodat(self.here(), name, mode, AtFlags::empty()).at("fchmodat", name.to_string_lossy())
    }

    fn own(&self, name: &CStr, stat: &Stat) -> sys::Result<()> {
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        rustix::fs::chownat(self.here(), name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .at("fchownat", name.to_string_lossy())?;
        rustix::fs::utimensat(self.here(), name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
            .at("utimensat", name.to_string_lossy())
    }
}

impl Visitor for Copier<'_> {
    fn entry(&mut self, dir: BorrowedFd<'_>, name: &CStr, kind: FileType) -> Result<()> {
        if kind == FileType::RegularFile {
            return self.file(dir, name);
        }
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).at("fstatat", name.to_string_lossy())?;
        match kind {
            FileType::Symlink => Ok(self.link(dir, name, &stat)?),
            FileType::Fifo => Ok(self.pipe(name, &stat)?),
            // A device node in a volume would be an image's way to a device, a socket has nobody who listens.
            _ => Ok(()),
        }
    }

    fn enter(&mut self, path: &[u8], _inode: u64) -> Result<()> {
        if !path.is_empty() {
            let (parent, name) = tree::split(path);
            let parent = tree::open_dir(self.to, parent).at("openat2", lossy(path))?;
            rustix::fs::mkdirat(&parent, name, Mode::RWXU).at("mkdirat", lossy(path))?;
        }
        self.current = Some(tree::open_dir(self.to, path).at("openat2", lossy(path))?);
        self.path = path.to_vec();
        self.left.push(path.to_vec());
        Ok(())
    }

    fn leave(&mut self, dir: BorrowedFd<'_>, _inode: u64) -> Result<()> {
        let Some(path) = self.left.pop() else { return Err(Error::Moved(String::new())) };
        let copy = tree::open_dir(self.to, &path).at("openat2", lossy(&path))?;
        let stat = rustix::fs::fstat(dir).at("fstat", lossy(&path))?;
        adopt(&copy, &stat)?;
        xattr::copy(dir, &copy)?;
        Ok(rustix::fs::futimens(&copy, &times(&stat)).at("futimens", lossy(&path))?)
    }
}

/// All of a file, its holes as holes: an image's few bytes must not become terabytes on the host.
fn copy_bytes(from: &OwnedFd, to: &OwnedFd, size: u64) -> sys::Result<()> {
    rustix::fs::ftruncate(to, size).at("ftruncate", "a volume's file")?;
    let mut at = 0;
    while at < size {
        let data = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => return Ok(()),
            // A file system that knows of no holes.
            Err(Errno::INVAL) => at,
            Err(errno) => return Err(sys::Error::new("lseek", "", errno)),
        };
        let end = match rustix::fs::seek(from, SeekFrom::Hole(data)) {
            Ok(end) => end.min(size),
            Err(Errno::INVAL) => size,
            Err(errno) => return Err(sys::Error::new("lseek", "", errno)),
        };
        copy_range(from, to, data, end)?;
        at = end.max(data + 1);
    }
    Ok(())
}

/// The bytes from `at` to `end`, by the kernel where both file systems can, else through memory.
fn copy_range(from: &OwnedFd, to: &OwnedFd, mut at: u64, end: u64) -> sys::Result<()> {
    while at < end {
        let most = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
        let (mut source, mut target) = (at, at);
        match rustix::fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), most) {
            Ok(0) => return Ok(()),
            Ok(count) => at += count as u64,
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => break,
            Err(errno) => return Err(sys::Error::new("copy_file_range", "", errno)),
        }
    }
    if at == end {
        return Ok(());
    }
    let mut buffer = vec![0; 128 << 10];
    rustix::fs::seek(to, SeekFrom::Start(at)).at("lseek", "a volume's file")?;
    while at < end {
        let most = usize::try_from(end - at).unwrap_or(buffer.len()).min(buffer.len());
        match rustix::io::pread(from, &mut buffer[..most], at) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                sys::fs::write_all(to, &buffer[..count], "a volume's file")?;
                at += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(sys::Error::new("pread64", "", errno)),
        }
    }
    Ok(())
}
