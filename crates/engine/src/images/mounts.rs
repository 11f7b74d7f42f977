//! `image mount`: an image's files on the host, read-only, for whoever wants to look at them.
//!
//! `<run>/images/<id>/` holds `record` and `root`, where the layers are mounted together. The record is there before the
//! mount and goes after it: one without a mount was left by a kill or an earlier boot, means nothing, and is cleared away
//! by whoever comes next. Everybody who changes something holds the lock of `<run>/images`.

use std::path::{Path, PathBuf};

use oci::{Digest, Reference};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use serde::{Deserialize, Serialize};
use sys::Context;
use sys::fs::{Durability, Lock};

use crate::containers::make_dirs;
use crate::{Engine, Error, ErrorKind, Result};

const VERSION: u32 = 1;
/// Bytes a record may have.
const MOST: usize = 1 << 20;
const RECORD: &str = "record";
const ROOT: &str = "root";
/// How long others may be at work here: they mount and unmount.
const LOCK_LIMIT: std::time::Duration = std::time::Duration::from_secs(10);

/// A mounted image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedImage {
    /// Image id.
    pub id: Digest,
    /// Familiar names it has now.
    pub names: Vec<String>,
    /// Where it is.
    pub path: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    id: Digest,
    chain: Vec<Digest>,
    /// How often it was mounted: so often it has to be unmounted.
    count: u32,
}

impl Engine {
    fn image_mounts(&self) -> PathBuf {
        self.paths.run.join("images")
    }

    fn lock_image_mounts(&self) -> Result<Lock> {
        let dir = self.image_mounts();
        make_dirs(&dir)?;
        let path = dir.join("lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(CWD, &path, flags, Mode::RUSR | Mode::WUSR).at("openat", path.display())?;
        Ok(Lock::take(file, LOCK_LIMIT)?)
    }

    /// Mounts an image, or notes that somebody else wants it mounted, and gives the place.
    ///
    /// # Errors
    /// [`ErrorKind::NoSuchImage`]; what the kernel says.
    pub fn mount_image(&self, name: &str) -> Result<MountedImage> {
        self.ensure_run()?;
        let _lease = self.lease()?;
        let store = self.image_store()?;
        let image = store.resolve(name)?;
        let names = store.names_of(image.id())?.iter().map(Reference::familiar).collect();
        let _lock = self.lock_image_mounts()?;
        self.sweep_image_mounts()?;
        let dir = self.image_mounts().join(image.id().hex());
        let root = dir.join(ROOT);
        make_dirs(&root)?;
        let mounted = is_mounted(&root)?;
        let known = if mounted { read(&dir)? } else { None };
        let record = Record {
            version: VERSION,
            id: image.id().clone(),
            chain: image.chain().cloned().collect(),
            count: known.map_or(0, |known| known.count).saturating_add(1),
        };
        write(&dir, &record)?;
        if !mounted {
            let view = self.layers()?.view(&record.chain)?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let place = rustix::fs::openat(CWD, &root, flags, Mode::empty()).at("openat", root.display())?;
            sys::mount::attach(view, place, root.display())?;
        }
        Ok(MountedImage { id: record.id, names, path: root })
    }

    /// The images that are mounted, by id.
    ///
    /// # Errors
    /// A directory or record that cannot be read.
    pub fn mounted_images(&self) -> Result<Vec<MountedImage>> {
        let store = self.image_store()?;
        let mut found = Vec::new();
        for (dir, record) in self.image_mount_records()? {
            let names = store.names_of(&record.id)?.iter().map(Reference::familiar).collect();
            found.push(MountedImage { id: record.id, names, path: dir.join(ROOT) });
        }
        Ok(found)
    }

    /// Takes one mount of an image away, and with the last one, or with `force`, the place; gives the image's id.
    ///
    /// # Errors
    /// [`ErrorKind::NoSuchImage`]; [`ErrorKind::Conflict`] when it is not mounted, or somebody is in there.
    pub fn unmount_image(&self, name: &str, force: bool) -> Result<Digest> {
        let _lock = self.lock_image_mounts()?;
        let id = match self.image_store()?.resolve(name) {
            Ok(image) => image.id().clone(),
            // It may have been removed all the same, by force.
            Err(error) => match self.image_mount_records()?.into_iter().find(|(_, known)| is_named(&known.id, name)) {
                Some((_, known)) => known.id,
                None => return Err(error.into()),
            },
        };
        let dir = self.image_mounts().join(id.hex());
        let known = if is_mounted(&dir.join(ROOT))? { read(&dir)? } else { None };
        let Some(record) = known else {
            clear(&dir)?;
            return Err(Error::new(ErrorKind::Conflict, format!("image {name} is not mounted"))
                .hint("lighter image mount lists those that are"));
        };
        if record.count > 1 && !force {
            write(&dir, &Record { count: record.count - 1, ..record })?;
            return Ok(id);
        }
        let root = dir.join(ROOT);
        let flags = if force { UnmountFlags::DETACH } else { UnmountFlags::empty() } | UnmountFlags::NOFOLLOW;
        match rustix::mount::unmount(&root, flags) {
            Ok(()) => {}
            Err(Errno::BUSY) => {
                return Err(Error::new(ErrorKind::Conflict, format!("image {name} is in use at {}", root.display()))
                    .hint("leave that directory, or use lighter image unmount --force"));
            }
            Err(errno) => return Err(sys::Error::new("umount2", root.display(), errno).into()),
        }
        clear(&dir)?;
        Ok(id)
    }

    /// Clears away what is not mounted: kills and reboots leave it. The lock is held.
    fn sweep_image_mounts(&self) -> Result<()> {
        for entry in std::fs::read_dir(self.image_mounts())?.flatten() {
            let dir = entry.path();
            if entry.file_type()?.is_dir() && !is_mounted(&dir.join(ROOT))? {
                clear(&dir)?;
            }
        }
        Ok(())
    }

    /// Layers that mounted images stand on.
    pub(super) fn chains_of_mounts(&self) -> Result<Vec<Digest>> {
        Ok(self.image_mount_records()?.into_iter().flat_map(|(_, record)| record.chain).collect())
    }

    /// Whether the image is mounted.
    pub(super) fn is_image_mounted(&self, id: &Digest) -> Result<bool> {
        is_mounted(&self.image_mounts().join(id.hex()).join(ROOT))
    }

    /// Directories and records of what is mounted.
    fn image_mount_records(&self) -> Result<Vec<(PathBuf, Record)>> {
        let entries = match std::fs::read_dir(self.image_mounts()) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found = Vec::new();
        for entry in entries.flatten() {
            let dir = entry.path();
            if is_mounted(&dir.join(ROOT))? {
                let damaged = || Error::new(ErrorKind::Damaged, format!("{} has no record", dir.display()));
                found.push((dir.clone(), read(&dir)?.ok_or_else(damaged)?));
            }
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(found)
    }
}

/// Whether `said` is an id, or the beginning of one.
fn is_named(id: &Digest, said: &str) -> bool {
    let said = said.strip_prefix("sha256:").unwrap_or(said);
    said.len() >= 4 && id.hex().starts_with(said)
}

/// Whether `path` is the root of a mount (`STATX_ATTR_MOUNT_ROOT`, kernel 5.8); what is not there is none.
fn is_mounted(path: &Path) -> Result<bool> {
    match rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty()) {
        Ok(stat) => Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(errno) => Err(sys::Error::new("statx", path.display(), errno).into()),
    }
}

fn open(dir: &Path) -> Result<std::os::fd::OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, dir, flags, Mode::empty()).at("openat", dir.display())?)
}

fn read(dir: &Path) -> Result<Option<Record>> {
    let path = dir.join(RECORD);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(CWD, &path, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        file => file.at("openat", path.display())?,
    };
    let bytes = sys::fs::read_regular(&file, MOST, path.display())?;
    let damaged = |reason: String| {
        Error::new(ErrorKind::Damaged, format!("the record {} is damaged: {reason}", path.display()))
            .hint("unmount what is mounted beside it, and remove its directory")
    };
    let record: Record = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    match record.version {
        VERSION => Ok(Some(record)),
        other => Err(damaged(format!("version {other} is not known to this program"))),
    }
}

fn write(dir: &Path, record: &Record) -> Result<()> {
    let bytes = serde_json::to_vec(record)
        .map_err(|error| Error::new(ErrorKind::System, "a mount cannot be recorded").because(error))?;
    // Gone with the next boot, as the mount is.
    Ok(sys::fs::replace(&open(dir)?, RECORD, &bytes, 0o600, Durability::Volatile)?)
}

/// Removes the directory of an image that is not mounted: `root` only as an empty directory, never what may be below it.
fn clear(dir: &Path) -> Result<()> {
    for (name, flags) in [(ROOT, AtFlags::REMOVEDIR), (RECORD, AtFlags::empty())] {
        let path = dir.join(name);
        match rustix::fs::unlinkat(CWD, &path, flags) {
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => return Err(sys::Error::new("unlinkat", path.display(), errno).into()),
        }
    }
    match rustix::fs::unlinkat(CWD, dir, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(sys::Error::new("unlinkat", dir.display(), errno).into()),
    }
}
