//! A container's directory: `config`, `status`, `lock`, `log`, `upper/`, `work/`.
//!
//! It is made under a temporary name and renamed, so a directory with an id as its name is always complete. Readers take
//! no lock. Whoever changes the container holds `lock`: a command for a moment, a monitor for as long as it lives.

use std::ffi::OsStr;
use std::fmt::Display;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, mkdirat, openat, renameat, unlinkat};
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sys::Context;
use sys::fs::{Durability, Lock};

use crate::ContainerId;
use crate::error::{Doing, Error, Result};
use crate::record::{self, Config, State, Status};

/// File and directory names inside a container's directory.
pub mod names {
    /// The immutable record.
    pub const CONFIG: &str = "config";
    /// The record of what is.
    pub const STATUS: &str = "status";
    /// The lock's file, empty.
    pub const LOCK: &str = "lock";
    /// The current log file; rotated ones are `log.1`, `log.2`, …
    pub const LOG: &str = "log";
    /// Upper layer of the overlay.
    pub const UPPER: &str = "upper";
    /// Work directory of the overlay.
    pub const WORK: &str = "work";
}

/// Most bytes of a `config`: specifications grow with mounts and environment.
pub(crate) const CONFIG_LIMIT: usize = 16 * 1024 * 1024;
/// Most bytes of a `status`.
const STATUS_LIMIT: usize = 256 * 1024;
/// Suffix of a container that is being deleted; one that is being made has its maker's pid there.
const DELETED: &str = "deleted";
/// Deepest directory tree that [`ContainerDir::delete`] descends: each level holds a descriptor.
const DEPTH_LIMIT: usize = 512;

/// An open container directory.
#[derive(Debug)]
pub struct ContainerDir {
    fd: OwnedFd,
    path: PathBuf,
}

impl ContainerDir {
    /// Makes the directory of `config.id` below `containers`, with `status` as its first status.
    ///
    /// # Errors
    /// When a call fails, for instance `EEXIST` for an id that exists; nothing of it is left then.
    pub fn create(containers: &Path, config: &Config, status: &Status, durability: Durability) -> Result<Self> {
        let parent = open_dir(CWD, containers).doing("opening the directory of containers")?;
        let id = config.id.as_str();
        let temporary = format!(".{id}.{}", std::process::id());
        let made = fill(&parent, &temporary, config, status, durability).and_then(|fd| {
            // An existing directory would be replaced when empty; a container's never is.
            renameat(&parent, &temporary, &parent, id).at("renameat", id).doing("naming the container's directory")?;
            if durability == Durability::Durable {
                sys::fs::sync_dir(&parent, containers.display()).doing("syncing the directory of containers")?;
            }
            Ok(Self { fd, path: containers.join(id) })
        });
        if made.is_err() {
            // The first failure is the one to report.
            let _ = delete_tree(parent.as_fd(), temporary.as_ref(), 0);
        }
        made
    }

    /// Opens `containers/<id>`.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such container.
    pub fn open(containers: &Path, id: &ContainerId) -> Result<Self> {
        Self::open_path(&containers.join(id.as_str()))
    }

    /// Opens a container's directory by its path.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such container.
    pub fn open_path(path: &Path) -> Result<Self> {
        match open_dir(CWD, path) {
            Ok(fd) => Ok(Self { fd, path: path.to_owned() }),
            Err(error) if error.errno() == Errno::NOENT => {
                let name = path.file_name().unwrap_or(path.as_os_str());
                Err(Error::NotFound(name.to_string_lossy().into_owned()))
            }
            Err(error) => Err(error).doing("opening the container's directory"),
        }
    }

    /// Ids of the containers below `containers`, in no order. What is not an id (a half-made or half-deleted container)
    /// is left out.
    ///
    /// # Errors
    /// When the directory cannot be read; one that does not exist is empty.
    pub fn list(containers: &Path) -> Result<Vec<ContainerId>> {
        let dir = match open_dir(CWD, containers) {
            Ok(dir) => dir,
            Err(error) if error.errno() == Errno::NOENT => return Ok(Vec::new()),
            Err(error) => return Err(error).doing("opening the directory of containers"),
        };
        let mut ids = Vec::new();
        for entry in Dir::read_from(&dir).at("getdents", containers.display()).doing("listing containers")? {
            let entry = entry.at("getdents", containers.display()).doing("listing containers")?;
            if let Some(id) = entry.file_name().to_str().ok().and_then(|name| name.parse().ok()) {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    /// Deletes what commands that died left below `containers`: half-made and half-deleted containers. What a living
    /// process is making is left alone. Gives how many were deleted.
    ///
    /// # Errors
    /// When the directory cannot be read, or the first failed deletion's, after trying all.
    pub fn sweep(containers: &Path) -> Result<usize> {
        let dir = match open_dir(CWD, containers) {
            Ok(dir) => dir,
            Err(error) if error.errno() == Errno::NOENT => return Ok(0),
            Err(error) => return Err(error).doing("opening the directory of containers"),
        };
        let (mut swept, mut failed) = (0, None);
        for entry in Dir::read_from(&dir).at("getdents", containers.display()).doing("listing containers")? {
            let entry = entry.at("getdents", containers.display()).doing("listing containers")?;
            let Some(name) = entry.file_name().to_str().ok().filter(|name| is_leftover(name)) else { continue };
            match delete_tree(dir.as_fd(), name.as_ref(), 0) {
                Ok(()) => swept += 1,
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match failed {
            Some(error) => Err(error).doing("sweeping the directory of containers"),
            None => Ok(swept),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The current log file.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.path.join(names::LOG)
    }

    /// Reads `config`.
    ///
    /// # Errors
    /// [`Error::Damaged`] when it is not a record of this version.
    pub fn config(&self) -> Result<Config> {
        let config: Config = self.read(names::CONFIG, CONFIG_LIMIT)?;
        self.check_version(names::CONFIG, config.version)?;
        Ok(config)
    }

    /// Reads `status`. Another process may replace it at any time; see [`ContainerDir::observe`].
    ///
    /// # Errors
    /// [`Error::Damaged`] when it is not a record of this version.
    pub fn status(&self) -> Result<Status> {
        let status: Status = self.read(names::STATUS, STATUS_LIMIT)?;
        self.check_version(names::STATUS, status.version)?;
        Ok(status)
    }

    /// Replaces `status`. The caller holds the lock.
    ///
    /// # Errors
    /// When a call fails; the old status is then still there.
    pub fn write_status(&self, status: &Status, durability: Durability) -> Result<()> {
        write(&self.fd, names::STATUS, status, durability, self.path.display())
    }

    /// Replaces `status` in its own blocks: not atomic, but possible on a full disk. The caller holds the lock.
    ///
    /// # Errors
    /// When a call fails.
    pub fn overwrite_status(&self, status: &Status) -> Result<()> {
        let doing = "writing the container's record";
        let bytes = serde_json::to_vec(status).map_err(|error| Error::Protocol(error.to_string()))?;
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.fd, names::STATUS, flags, Mode::empty()).at("openat", names::STATUS).doing(doing)?;
        sys::fs::write_all(&file, &bytes, names::STATUS).doing(doing)?;
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        rustix::fs::ftruncate(&file, length).at("ftruncate", names::STATUS).doing(doing)
    }

    /// Takes the lock if nobody holds it.
    ///
    /// # Errors
    /// [`Error::Locked`] when somebody does.
    pub fn try_lock(&self) -> Result<Lock> {
        Lock::try_take(self.lock_file()?).doing("locking the container")?.ok_or(Error::Locked)
    }

    /// Waits for the lock, at most `limit`.
    ///
    /// # Errors
    /// [`Error::Locked`] when somebody still holds it then.
    pub fn lock(&self, limit: Duration) -> Result<Lock> {
        match Lock::take(self.lock_file()?, limit) {
            Err(error) if error.errno() == Errno::TIMEDOUT => Err(Error::Locked),
            other => other.doing("locking the container"),
        }
    }

    /// Whether somebody holds the lock.
    ///
    /// # Errors
    /// When the lock's file cannot be opened.
    pub fn is_locked(&self) -> Result<bool> {
        Lock::is_held(self.lock_file()?).doing("looking at the container's lock")
    }

    /// What is true of the container, for readers: the record, and whether anybody is there to keep it.
    ///
    /// # Errors
    /// As [`ContainerDir::status`].
    pub fn observe(&self) -> Result<Observed> {
        let status = self.status()?;
        if !is_active(status.state) {
            return Ok(Observed { status, held: false });
        }
        if self.is_locked()? {
            return Ok(Observed { status, held: true });
        }
        // Its monitor may have recorded the end and let go between the two looks; the record read now is its last.
        Ok(Observed { status: self.status()?, held: false })
    }

    /// Whether the container lives: what a follower of its log asks. A damaged record does not.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.observe().is_ok_and(|observed| is_active(observed.state()))
    }

    /// Deletes the directory and everything below. It is first renamed, so no reader sees half a container, and it never
    /// leaves the directory's mount or follows a link. The caller holds the lock and has unmounted what it mounted.
    ///
    /// # Errors
    /// `EXDEV` when something is still mounted below; what could be deleted is gone then.
    pub fn delete(self) -> Result<()> {
        let (Some(containers), Some(id)) = (self.path.parent(), self.path.file_name()) else {
            return Err(Error::NotFound(self.path.display().to_string()));
        };
        let parent = open_dir(CWD, containers).doing("opening the directory of containers")?;
        let trash = format!(".{}.{DELETED}", id.to_string_lossy());
        match renameat(&parent, id, &parent, trash.as_str()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno).at("renameat", self.path.display()).doing("deleting the container"),
        }
        delete_tree(parent.as_fd(), trash.as_ref(), 0).doing("deleting the container's files")
    }

    fn lock_file(&self) -> Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = match openat(&self.fd, names::LOCK, flags, Mode::from_raw_mode(0o600)) {
            // Looking at a lock needs no writing, so a read-only store still tells the truth.
            Err(Errno::ROFS) => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                openat(&self.fd, names::LOCK, flags, Mode::empty())
            }
            // The directory was deleted after it was opened.
            Err(Errno::NOENT) => return Err(self.not_found()),
            opened => opened,
        };
        opened.at("openat", self.path.join(names::LOCK).display()).doing("opening the container's lock")
    }

    fn not_found(&self) -> Error {
        Error::NotFound(self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned())
    }

    fn read<T: DeserializeOwned>(&self, name: &str, limit: usize) -> Result<T> {
        let damaged = |reason: String| Error::Damaged { path: self.path.join(name), reason };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let bytes = sys::fs::open_beneath(&self.fd, name, flags, Mode::empty())
            .and_then(|file| sys::fs::read_regular(file, limit, name));
        match bytes {
            Ok(bytes) if bytes.is_empty() => Err(damaged("it is empty".to_owned())),
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string())),
            // Deleted after it was opened: gone, not damaged.
            Err(error) if error.errno() == Errno::NOENT && !self.path.exists() => Err(self.not_found()),
            Err(error) if matches!(error.errno(), Errno::NOENT | Errno::INVAL | Errno::FBIG | Errno::LOOP) => {
                Err(damaged(error.to_string()))
            }
            Err(error) => Err(error).doing("reading the container's record"),
        }
    }

    fn check_version(&self, name: &str, version: u32) -> Result<()> {
        if version == record::VERSION {
            return Ok(());
        }
        let reason = format!("its version is {version}, this program knows {}", record::VERSION);
        Err(Error::Damaged { path: self.path.join(name), reason })
    }
}

impl AsFd for ContainerDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What a reader found.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// The record.
    pub status: Status,
    /// Whether somebody holds the lock of a container that is recorded as active.
    pub held: bool,
}

impl Observed {
    /// Whether the record says that the container lives while nobody keeps it: its monitor died, or the machine went
    /// down. [`recover`](crate::recover::recover) finds the truth.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        is_active(self.status.state) && !(self.held && self.status.is_of_this_boot())
    }

    /// The state to show: a lost container has exited.
    #[must_use]
    pub fn state(&self) -> State {
        if self.is_lost() { State::Exited } else { self.status.state }
    }
}

/// Whether a container in `state` has, or is about to have, processes and a lock that is held.
#[must_use]
pub fn is_active(state: State) -> bool {
    match state {
        State::Starting | State::Running | State::Paused | State::Stopping => true,
        State::Created | State::Exited | State::Removing | State::Dead => false,
    }
}

fn is_leftover(name: &str) -> bool {
    let Some((id, suffix)) = name.strip_prefix('.').and_then(|name| name.split_once('.')) else { return false };
    let is_ours = id.parse::<ContainerId>().is_ok();
    // The pid may be another process's by now; then the directory waits for a later sweep.
    let is_dead = || suffix.parse().is_ok_and(|pid| sys::process::open_pid(pid).is_err());
    is_ours && (suffix == DELETED || is_dead())
}

fn open_dir(base: impl AsFd, path: &Path) -> sys::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(base, path, flags, Mode::empty()).at("openat", path.display())
}

fn fill(
    parent: &OwnedFd,
    temporary: &str,
    config: &Config,
    status: &Status,
    durability: Durability,
) -> Result<OwnedFd> {
    let make = |parent: &OwnedFd, name: &str, mode: u32| {
        mkdirat(parent, name, Mode::from_raw_mode(mode)).at("mkdirat", name).doing("making the container's directory")
    };
    make(parent, temporary, 0o700)?;
    let fd = open_dir(parent, Path::new(temporary)).doing("opening the container's directory")?;
    write(&fd, names::CONFIG, config, durability, temporary)?;
    write(&fd, names::STATUS, status, durability, temporary)?;
    Ok(fd)
}

fn write<T: Serialize>(
    dir: &OwnedFd,
    name: &str,
    record: &T,
    durability: Durability,
    place: impl Display,
) -> Result<()> {
    let bytes = serde_json::to_vec(record).map_err(|error| Error::Damaged {
        path: PathBuf::from(format!("{place}/{name}")),
        reason: error.to_string(),
    })?;
    sys::fs::replace(dir, name, &bytes, 0o600, durability).doing("writing the container's record")
}

/// How often a directory that fills again is emptied before that is an error.
const DELETE_ROUNDS: u32 = 16;

/// Deletes `name` in `dir` with everything below. Continues past failures and reports the first.
fn delete_tree(dir: BorrowedFd<'_>, name: &OsStr, depth: usize) -> sys::Result<()> {
    let shown = || Path::new(name).display();
    if depth > DEPTH_LIMIT {
        return Err(sys::Error::new("unlinkat", shown(), Errno::LOOP));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let child = match sys::fs::open_beneath(dir, Path::new(name), flags, Mode::empty()) {
        Ok(child) => child,
        Err(error) if error.errno() == Errno::NOENT => return Ok(()),
        Err(error) if matches!(error.errno(), Errno::NOTDIR | Errno::LOOP) => {
            return unlinkat(dir, name, AtFlags::empty()).at("unlinkat", shown());
        }
        Err(error) => return Err(error),
    };
    // Somebody who opened the directory before it was renamed may still be making a file in it, its lock for one: what
    // appeared since it was listed is deleted in the next round. Once it is gone nothing more can be made in it.
    for _ in 0..DELETE_ROUNDS {
        empty(&child, depth)?;
        match unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY) => {}
            other => return other.at("unlinkat", shown()),
        }
    }
    Err(sys::Error::new("unlinkat", shown(), Errno::NOTEMPTY))
}

/// Deletes what is in the directory `dir`. Continues past failures and reports the first.
fn empty(dir: &OwnedFd, depth: usize) -> sys::Result<()> {
    let mut failed = None;
    for entry in Dir::read_from(dir).at("getdents", "a container's directory")? {
        let entry = entry.at("getdents", "a container's directory")?;
        let entry_name = OsStr::from_bytes(entry.file_name().to_bytes());
        if entry_name == "." || entry_name == ".." {
            continue;
        }
        let gone = match entry.file_type() {
            FileType::Directory | FileType::Unknown => delete_tree(dir.as_fd(), entry_name, depth + 1),
            _ => unlinkat(dir, entry_name, AtFlags::empty()).at("unlinkat", Path::new(entry_name).display()),
        };
        failed = failed.or(gone.err());
    }
    failed.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::{Scratch, config};

    fn made(scratch: &Scratch) -> ContainerDir {
        ContainerDir::create(scratch.path(), &config(1), &Status::new(State::Created), Durability::Volatile)
            .expect("created")
    }

    #[test]
    fn a_container_is_created_whole_and_read_back() {
        let scratch = Scratch::new("dir-create");
        let dir = made(&scratch);
        assert_eq!(dir.config().expect("config").name.as_str(), "name-1");
        assert_eq!(dir.status().expect("status").state, State::Created);
        assert_eq!(ContainerDir::list(scratch.path()).expect("listed"), [config(1).id]);
        assert_eq!(std::fs::read_dir(scratch.path()).expect("listed").count(), 1, "no temporary directory stays");
        let again = ContainerDir::create(scratch.path(), &config(1), &Status::new(State::Created), Durability::Durable);
        assert!(again.is_err(), "an id is made once");
        assert_eq!(std::fs::read_dir(scratch.path()).expect("listed").count(), 1);
        assert_eq!(dir.status().expect("status").state, State::Created);
    }

    #[test]
    fn a_damaged_record_is_an_error_of_this_container_only() {
        let scratch = Scratch::new("dir-damaged");
        let dir = made(&scratch);
        let path = dir.path().join(names::STATUS);
        let good = std::fs::read(&path).expect("read");
        for bad in [&b""[..], &good[..good.len() / 2], b"\0\0\0\0", b"{\"version\":1}", b"[]"] {
            std::fs::write(&path, bad).expect("written");
            assert!(matches!(dir.status(), Err(Error::Damaged { .. })), "{bad:?}");
        }
        let newer = String::from_utf8(good).expect("text").replace("\"version\":1", "\"version\":2");
        std::fs::write(&path, newer).expect("written");
        let error = dir.status().expect_err("refused").to_string();
        assert!(error.contains("its version is 2, this program knows 1"), "{error}");
        std::fs::remove_file(&path).expect("removed");
        std::os::unix::fs::symlink("/etc/hostname", &path).expect("linked");
        assert!(matches!(dir.status(), Err(Error::Damaged { .. })));
        assert!(dir.config().is_ok());
    }

    #[test]
    fn a_running_record_without_a_lock_is_lost() {
        let scratch = Scratch::new("dir-observe");
        let dir = made(&scratch);
        let lock = dir.try_lock().expect("free");
        dir.write_status(&Status::new(State::Running), Durability::Volatile).expect("written");
        let observed = dir.observe().expect("observed");
        assert_eq!((observed.held, observed.is_lost(), observed.state()), (true, false, State::Running));
        assert!(matches!(dir.try_lock(), Err(Error::Locked)));
        assert!(matches!(dir.lock(Duration::from_millis(5)), Err(Error::Locked)));
        drop(lock);
        // Waited for: a process that another test spawns holds every descriptor until it executes.
        drop(dir.lock(Duration::from_secs(5)).expect("free"));
        let observed = dir.observe().expect("observed");
        assert_eq!((observed.held, observed.is_lost(), observed.state()), (false, true, State::Exited));
    }

    #[test]
    fn the_lock_lives_in_a_child_that_inherited_it() {
        let scratch = Scratch::new("dir-inherit");
        let dir = made(&scratch);
        let lock = dir.try_lock().expect("free");
        let mut child = std::process::Command::new("/bin/sh")
            .args(["-c", "read line"])
            .stdin(std::process::Stdio::piped())
            .stdout(lock.into_file())
            .spawn()
            .expect("spawned");
        assert!(dir.is_locked().expect("looked"));
        drop(child.stdin.take());
        child.wait().expect("waited");
        dir.lock(Duration::from_secs(5)).expect("freed by the child's end");
    }

    #[test]
    fn only_what_the_dead_left_is_swept() {
        let scratch = Scratch::new("dir-sweep");
        let dir = made(&scratch);
        let id = "ab".repeat(32);
        let kept = format!(".{id}.{}", std::process::id());
        for name in [&format!(".{id}.deleted"), &format!(".{id}.4194304"), &kept, ".other.deleted", "plain"] {
            std::fs::create_dir_all(scratch.path().join(name).join("upper/a")).expect("made");
        }
        assert_eq!(ContainerDir::sweep(scratch.path()).expect("swept"), 2);
        assert_eq!(ContainerDir::sweep(scratch.path()).expect("swept"), 0);
        assert!(scratch.path().join(kept).exists() && scratch.path().join("plain").exists());
        assert!(dir.status().is_ok());
        assert_eq!(ContainerDir::sweep(&scratch.path().join("absent")).expect("nothing there"), 0);
    }

    #[test]
    fn deleting_follows_no_link() {
        let scratch = Scratch::new("dir-delete");
        let outside = scratch.path().join("outside");
        std::fs::create_dir(&outside).expect("made");
        std::fs::write(outside.join("precious"), "x").expect("written");
        let dir = made(&scratch);
        let upper = dir.path().join(names::UPPER);
        std::fs::create_dir(&upper).expect("made");
        std::os::unix::fs::symlink(&outside, upper.join("link")).expect("linked");
        std::fs::create_dir_all(upper.join("a/b/c")).expect("made");
        std::fs::write(upper.join("a/b/file"), "x").expect("written");
        let lock = dir.try_lock().expect("free");
        let path = dir.path().to_owned();
        dir.delete().expect("deleted");
        drop(lock);
        assert!(!path.exists());
        assert!(outside.join("precious").exists());
        assert_eq!(std::fs::read_dir(scratch.path()).expect("listed").count(), 1);
        assert!(matches!(ContainerDir::open_path(&path), Err(Error::NotFound(_))));
    }
}
