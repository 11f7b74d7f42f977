//! Volumes: directories that outlive the containers that use them.
//!
//! ```text
//! volumes/<name>/
//!   record       versioned JSON, never changed
//!   _data/       what containers see; owned as they see it, the mount maps ids
//!   lock         held while the volume gets an image's content
//!   seed/        that content, incomplete: thrown away by whoever comes next
//!   seed.ready/  that content, complete: moved into `_data` by whoever comes next
//! ```
//!
//! A volume exists as soon as its name does: it is built as `.new-…` and renamed, and removed by being renamed to
//! `.gone-…` first. A name is free of links and separators ([`VolumeName`]), so that it may become a path. There is no
//! lock on the store: making and removing are decided by rename(2).
//!
//! A volume with a device of its own ([`Device`]) has it mounted on `_data` while it is used, and is seeded within it.

mod device;
mod name;
pub(crate) mod seed;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sys::Context;
use sys::fs::Durability;

use crate::error::{Error, Result};
use crate::walk::{self, Usage};

pub use device::{Device, InvalidDevice};
pub use name::{InvalidVolumeName, VolumeName};

/// The version this program writes. It reads no other.
const VERSION: u32 = 1;
/// Bytes a record may have.
const MOST: usize = 1 << 20;
/// The directory that containers see.
const DATA: &str = "_data";
const RECORD: &str = "record";
const LOCK: &str = "lock";
/// How long making a container, or deciding on a removal, may keep others waiting.
const LOCK_LIMIT: Duration = Duration::from_secs(10);
/// How long to wait before looking again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Begins the names of volumes that are being made or removed.
const HIDDEN: char = '.';

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: VolumeName,
    /// RFC 3339.
    pub created: String,
    /// Whether it was made for one container without being named.
    pub anonymous: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Options of the local driver: `type`, `o`, `device`.
    pub options: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    created: String,
    anonymous: bool,
    labels: BTreeMap<String, String>,
    options: BTreeMap<String, String>,
}

/// A volume that stays; ends when dropped.
#[derive(Debug)]
pub struct Held(#[expect(dead_code, reason = "closing the directory is what lets go of it")] OwnedFd);

/// All volumes of one data root. Opening it costs nothing; its directory is made with the first volume.
#[derive(Clone, Debug)]
pub struct VolumeStore {
    dir: PathBuf,
}

impl VolumeStore {
    /// The store in `dir`, which need not exist.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The directory that containers see of a volume, whether it exists or not.
    #[must_use]
    pub fn data(&self, name: &VolumeName) -> PathBuf {
        self.dir.join(name.as_str()).join(DATA)
    }

    /// Makes a volume; false when there is one of this name, which is left as it is.
    ///
    /// # Errors
    /// Those of the system calls; nothing visible is left then.
    pub fn create(&self, volume: &Volume, durability: Durability) -> Result<bool> {
        let dir = match self.open() {
            Err(error) if error.errno() == Errno::NOENT => {
                use std::os::unix::fs::DirBuilderExt;
                let mut builder = std::fs::DirBuilder::new();
                builder.recursive(true).mode(0o700).create(&self.dir).at("mkdir", self.dir.display())?;
                self.open()?
            }
            dir => dir?,
        };
        let staging = hidden("new")?;
        let made = build(&dir, &staging, volume, durability).and_then(|()| {
            let renamed = rustix::fs::renameat_with(&dir, &staging, &dir, volume.name.as_str(), RenameFlags::NOREPLACE);
            match renamed {
                Ok(()) => Ok(true),
                Err(Errno::EXIST) => Ok(false),
                Err(errno) => Err(sys::Error::new("renameat2", &volume.name, errno).into()),
            }
        });
        match made {
            Ok(true) => {
                if durability == Durability::Durable {
                    sys::fs::sync_dir(&dir, self.dir.display())?;
                }
                Ok(true)
            }
            unmade => {
                remove(&dir, &staging)?;
                unmade
            }
        }
    }

    /// Reads a volume's record.
    ///
    /// # Errors
    /// [`Error::NoSuchVolume`], [`Error::VolumeRecord`].
    pub fn get(&self, name: &VolumeName) -> Result<Volume> {
        let volume = self.open_volume(name)?;
        let damaged = |reason: String| Error::VolumeRecord { volume: name.to_string(), reason };
        let file = sys::fs::open_beneath(&volume, RECORD, OFlags::RDONLY | OFlags::NOFOLLOW, Mode::empty())
            .map_err(|error| damaged(error.to_string()))?;
        let bytes = sys::fs::read_regular(&file, MOST, RECORD).map_err(|error| damaged(error.to_string()))?;
        let record: Record = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if record.version != VERSION {
            return Err(damaged(format!("its version is {}, not {VERSION}", record.version)));
        }
        Ok(Volume {
            name: name.clone(),
            created: record.created,
            anonymous: record.anonymous,
            labels: record.labels,
            options: record.options,
        })
    }

    /// The names of all volumes, in order.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn names(&self) -> Result<Vec<VolumeName>> {
        let mut names: Vec<VolumeName> = self.entries()?.iter().filter_map(|name| name.parse().ok()).collect();
        names.sort();
        Ok(names)
    }

    /// Keeps a volume from being removed for as long as the result lives, which a container that is being made does
    /// until its record says that it uses the volume.
    ///
    /// # Errors
    /// [`Error::NoSuchVolume`]; `ETIMEDOUT` when a removal takes longer than ten seconds to decide.
    pub fn hold(&self, name: &VolumeName) -> Result<Held> {
        self.lock(name, FlockOperation::NonBlockingLockShared)
    }

    /// Keeps a volume from being taken into use, to look whether it is used and to remove it.
    ///
    /// # Errors
    /// As [`VolumeStore::hold`].
    pub fn claim(&self, name: &VolumeName) -> Result<Held> {
        self.lock(name, FlockOperation::NonBlockingLockExclusive)
    }

    fn lock(&self, name: &VolumeName, operation: FlockOperation) -> Result<Held> {
        let deadline = Instant::now() + LOCK_LIMIT;
        loop {
            let volume = self.open_volume(name)?;
            match rustix::fs::flock(&volume, operation) {
                Ok(()) => {
                    // The name may have been given to another volume meanwhile.
                    let inode = |dir: &OwnedFd| rustix::fs::fstat(dir).at("fstat", name).map(|stat| stat.st_ino);
                    if inode(&self.open_volume(name)?)? == inode(&volume)? {
                        return Ok(Held(volume));
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(LOOK_AGAIN),
                Err(Errno::WOULDBLOCK) => return Err(sys::Error::new("flock", name, Errno::TIMEDOUT).into()),
                Err(errno) => return Err(sys::Error::new("flock", name, errno).into()),
            }
        }
    }

    /// Removes a volume with all it holds. Whoever calls has [claimed](VolumeStore::claim) it and seen that nobody uses it.
    ///
    /// # Errors
    /// [`Error::NoSuchVolume`]; [`Error::NotRemoved`], when its name is free all the same.
    pub fn remove(&self, name: &VolumeName) -> Result<()> {
        let dir = match self.open() {
            Err(error) if error.errno() == Errno::NOENT => return Err(Error::NoSuchVolume(name.to_string())),
            dir => dir?,
        };
        let gone = hidden("gone")?;
        match rustix::fs::renameat(&dir, name.as_str(), &dir, &gone) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Err(Error::NoSuchVolume(name.to_string())),
            Err(errno) => return Err(sys::Error::new("renameat", name, errno).into()),
        }
        sys::fs::sync_dir(&dir, self.dir.display())?;
        remove(&dir, &gone)
    }

    /// Throws away what killed makers and removers left. Nobody may be making or removing a volume.
    ///
    /// # Errors
    /// The first failure, after everything else was removed.
    pub fn sweep(&self) -> Result<()> {
        let mut result = Ok(());
        for entry in self.entries()?.iter().filter(|name| name.starts_with(HIDDEN)) {
            let removed = self.open().map_err(Error::from).and_then(|dir| remove(&dir, entry));
            result = result.and(removed);
        }
        result
    }

    /// What a volume holds, by walking it; it may be in use.
    ///
    /// # Errors
    /// [`Error::NoSuchVolume`]; those of the walk.
    pub fn usage(&self, name: &VolumeName) -> Result<Usage> {
        walk::usage(open_data(&self.open_volume(name)?)?)
    }

    fn entries(&self) -> Result<Vec<String>> {
        let entries = match std::fs::read_dir(&self.dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.at("opendir", self.dir.display())?,
        };
        Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
    }

    fn open(&self) -> sys::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, &self.dir, flags, Mode::empty()).at("openat", self.dir.display())
    }

    fn open_volume(&self, name: &VolumeName) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let opened = self.open().and_then(|dir| sys::fs::open_beneath(dir, name.as_str(), flags, Mode::empty()));
        match opened {
            Err(error) if error.errno() == Errno::NOENT => Err(Error::NoSuchVolume(name.to_string())),
            opened => Ok(opened?),
        }
    }
}

/// A name that nobody has: process ids repeat, in other pid namespaces at the same time, and a volume's own name may be as
/// long as names can be.
fn hidden(what: &str) -> Result<String> {
    let mut bytes = [0_u8; 16];
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).at("getrandom", "")?;
    if got < bytes.len() {
        return Err(sys::Error::new("getrandom", "", Errno::IO).into());
    }
    Ok(format!("{HIDDEN}{what}-{:032x}", u128::from_ne_bytes(bytes)))
}

/// The content: a name of ours, no link, and another file system's root when a device is mounted there.
fn open_data(volume: &OwnedFd) -> sys::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(volume, DATA, flags, Mode::empty()).at("openat", DATA)
}

fn build(dir: &OwnedFd, staging: &str, volume: &Volume, durability: Durability) -> Result<()> {
    rustix::fs::mkdirat(dir, staging, Mode::RWXU).at("mkdirat", staging)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let made = sys::fs::open_beneath(dir, staging, flags, Mode::empty())?;
    rustix::fs::mkdirat(&made, DATA, Mode::RWXU).at("mkdirat", DATA)?;
    // As docker makes them: everybody may look in; the umask has no say.
    rustix::fs::fchmod(open_data(&made)?, Mode::from_raw_mode(0o755)).at("fchmod", DATA)?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    rustix::fs::openat(&made, LOCK, flags, Mode::RUSR | Mode::WUSR).at("openat", LOCK)?;
    let record = Record {
        version: VERSION,
        created: volume.created.clone(),
        anonymous: volume.anonymous,
        labels: volume.labels.clone(),
        options: volume.options.clone(),
    };
    let bytes = serde_json::to_vec(&record)
        .map_err(|error| Error::VolumeRecord { volume: volume.name.to_string(), reason: error.to_string() })?;
    if bytes.len() > MOST {
        let reason = format!("labels and options exceed {MOST} bytes");
        return Err(Error::VolumeRecord { volume: volume.name.to_string(), reason });
    }
    sys::fs::replace(&made, RECORD, &bytes, 0o600, durability)?;
    if durability == Durability::Durable {
        sys::fs::sync_dir(&made, staging)?;
    }
    Ok(())
}

/// Removes an entry of the store by a name of our own making.
fn remove(dir: &OwnedFd, name: &str) -> Result<()> {
    match CString::new(name) {
        Ok(name) => walk::remove(dir.as_fd(), &name),
        Err(_) => Ok(()),
    }
}

/// Whether the local driver's options stand for a directory of the host.
#[must_use]
pub fn is_bind(options: &BTreeMap<String, String>) -> bool {
    let value = |key: &str| options.get(key).map(String::as_str).unwrap_or_default();
    matches!(value("type"), "" | "none" | "bind") && value("o").split(',').any(|o| matches!(o, "bind" | "rbind"))
}

/// The path of an image's directory, as text that a container configuration has: absolute.
fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests;
