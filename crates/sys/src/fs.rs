//! Files: resolution that cannot leave a root, bounded reads, replacement by rename, and locks that live as long as
//! their holder.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use crate::error::{Context, Error, Result};

/// How often openat2(2) is tried again when a rename races with its resolution (`EAGAIN`; openat2(2) asks callers to).
const RETRIES: u32 = 128;

/// Opens `path` as if `root` were `/`: symbolic links, absolute ones too, and `..` stay inside, magic links are refused.
///
/// # Errors
/// openat2(2)'s (kernel 5.6).
pub fn open_in_root(root: impl AsFd, path: impl AsRef<Path>, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    resolve(root, path.as_ref(), flags, mode, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

/// Opens `path` below `root` without leaving it, its mount, or following any symbolic link.
///
/// # Errors
/// openat2(2)'s: `ELOOP` for a symbolic link, `EXDEV` for a mount or a way out.
pub fn open_beneath(root: impl AsFd, path: impl AsRef<Path>, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    resolve(root, path.as_ref(), flags, mode, how)
}

/// Opens `path` of the procfs mounted as `proc` without leaving that mount: what was mounted over one of its files is
/// not seen. `self` and `thread-self` are symbolic links, so those are followed.
///
/// # Errors
/// openat2(2)'s: `EXDEV` when something is mounted on the way.
pub fn open_beneath_proc(proc: impl AsFd, path: impl AsRef<Path>, flags: OFlags) -> Result<OwnedFd> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    resolve(proc, path.as_ref(), flags, Mode::empty(), how)
}

/// Opens `path` as if `root` were `/`, refusing every symbolic link on the way: for places whose meaning an image must
/// not move, such as `/proc` and `/dev`.
///
/// # Errors
/// openat2(2)'s: `ELOOP` for a symbolic link.
pub fn open_in_root_no_symlinks(root: impl AsFd, path: impl AsRef<Path>, flags: OFlags) -> Result<OwnedFd> {
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    resolve(root, path.as_ref(), flags, Mode::empty(), how)
}

fn resolve(root: impl AsFd, path: &Path, flags: OFlags, mode: Mode, how: ResolveFlags) -> Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    for _ in 0..RETRIES {
        match openat2(&root, path, flags | OFlags::CLOEXEC, mode, how) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other.at("openat2", path.display()),
        }
    }
    Err(Error::new("openat2", path.display(), Errno::AGAIN))
}

/// Opens the directory `path` inside `root`, making what is missing with permission bits `mode`. Existing symbolic
/// links are followed inside the root; a dangling one is an error, not a directory made at its target.
///
/// # Errors
/// `ENOTDIR` when something that is no directory is in the way; otherwise openat2(2)'s and mkdirat(2)'s.
pub fn make_dirs_in_root(root: impl AsFd, path: impl AsRef<Path>, mode: u32) -> Result<OwnedFd> {
    let path = path.as_ref();
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    match open_in_root(&root, path, flags, Mode::empty()) {
        Err(error) if error.errno() == Errno::NOENT => {}
        other => return other,
    }
    // Walks by whole prefixes from the root: a `..` after a symbolic link then means what the kernel says it means.
    let mut prefix = std::path::PathBuf::new();
    let mut current = open_in_root(&root, ".", flags, Mode::empty())?;
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir | Component::Prefix(_) => continue,
            Component::ParentDir => prefix.push(".."),
            Component::Normal(name) => prefix.push(name),
        }
        current = match open_in_root(&root, &prefix, flags, Mode::empty()) {
            Err(error) if error.errno() == Errno::NOENT => {
                make_dir(&current, component.as_os_str(), mode)?;
                open_in_root(&root, &prefix, flags, Mode::empty())?
            }
            other => other?,
        };
    }
    Ok(current)
}

/// Where `path` leads inside `root` when its missing parts were made: symbolic links, dangling ones above all, are
/// replaced by what they say. The answer may be out of date by the time it is used, so it has to be opened inside the
/// root like any other path.
///
/// # Errors
/// `ELOOP` after 40 links, as the kernel has it (path_resolution(7)); readlinkat(2)'s.
pub fn follow_in_root(root: impl AsFd, path: &Path) -> Result<std::path::PathBuf> {
    let mut left: Vec<std::ffi::OsString> = Vec::new();
    let push = |left: &mut Vec<std::ffi::OsString>, path: &Path| {
        left.extend(path.components().rev().map(|component| component.as_os_str().to_owned()));
    };
    push(&mut left, path);
    let mut done = std::path::PathBuf::new();
    let mut links = 0;
    while let Some(name) = left.pop() {
        match Path::new(&name).components().next() {
            Some(Component::Normal(_)) => {}
            Some(Component::ParentDir) => {
                done.pop();
                continue;
            }
            Some(Component::RootDir) => {
                done.clear();
                continue;
            }
            _ => continue,
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let to = match open_in_root(&root, &done, flags, Mode::empty()) {
            Ok(dir) => rustix::fs::readlinkat(&dir, name.as_os_str(), Vec::new()).map_err(Some),
            Err(error) if matches!(error.errno(), Errno::NOENT | Errno::NOTDIR) => Err(None),
            Err(error) => return Err(error),
        };
        match to {
            Ok(to) => {
                links += 1;
                if links > 40 {
                    return Err(Error::new("readlinkat", path.display(), Errno::LOOP));
                }
                push(&mut left, Path::new(OsStr::from_bytes(to.as_bytes())));
            }
            Err(None | Some(Errno::NOENT | Errno::INVAL)) => done.push(name),
            Err(Some(errno)) => return Err(Error::new("readlinkat", path.display(), errno)),
        }
    }
    Ok(done)
}

fn make_dir(parent: &OwnedFd, name: &OsStr, mode: u32) -> Result<()> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(mode)) {
        Err(Errno::EXIST) => Ok(()),
        other => other.at("mkdirat", Path::new(name).display()),
    }
}

/// Reads an open regular file to its end, at most `limit` bytes.
///
/// # Errors
/// `EINVAL` when it is no regular file, `EFBIG` when it is longer than `limit`.
pub fn read_regular(file: impl AsFd, limit: usize, name: impl std::fmt::Display) -> Result<Vec<u8>> {
    let stat = rustix::fs::fstat(&file).at("fstat", &name)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
        return Err(Error::new("read", format!("{name} (no regular file)"), Errno::INVAL));
    }
    read_bounded(file, limit, name)
}

/// Reads to the end, at most `limit` bytes; for files of `/proc`, whose size says nothing.
///
/// # Errors
/// `EFBIG` when there is more than `limit`; otherwise read(2)'s.
pub fn read_bounded(file: impl AsFd, limit: usize, name: impl std::fmt::Display) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut length = 0;
    loop {
        if length == bytes.len() {
            // One byte past the limit is enough to know that there is more.
            bytes.resize((length * 2).max(4096).min(limit.saturating_add(1)), 0);
        }
        match rustix::io::read(&file, &mut bytes[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::new("read", name, errno)),
        }
        if length > limit {
            return Err(Error::new("read", format!("{name} (over {limit} bytes)"), Errno::FBIG));
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

/// Writes all of `bytes` to an open file.
///
/// # Errors
/// write(2)'s.
pub fn write_all(file: impl AsFd, mut bytes: &[u8], name: impl std::fmt::Display) -> Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(&file, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::new("write", name, errno)),
        }
    }
    Ok(())
}

/// Sets the permission bits of what `name` in `dir` is, never of what it links to (fchmodat2(2), kernel 6.6; before, a look
/// that it is no link comes first, so nobody else may be at work in `dir`).
///
/// # Errors
/// `ELOOP` or `EOPNOTSUPP` for a symbolic link, otherwise fchmodat2(2)'s.
pub fn chmod_no_follow(dir: impl AsFd, name: &[u8], mode: u32) -> Result<()> {
    let shown = || String::from_utf8_lossy(name).into_owned();
    let path = std::ffi::CString::new(name).map_err(|_| Error::new("fchmodat2", shown(), Errno::INVAL))?;
    // SAFETY: the path is NUL-terminated and lives across the call; the other arguments are integers.
    let status = unsafe {
        libc::syscall(
            crate::file_calls::SYS_FCHMODAT2,
            dir.as_fd().as_raw_fd(),
            path.as_ptr(),
            mode,
            libc::AT_SYMLINK_NOFOLLOW,
        )
    };
    if status == 0 {
        return Ok(());
    }
    match Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO) {
        Errno::NOSYS => {}
        errno => return Err(Error::new("fchmodat2", shown(), errno)),
    }
    let stat = rustix::fs::statat(&dir, &path, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).at("fstatat", shown())?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Symlink {
        return Err(Error::new("fchmodat", shown(), Errno::LOOP));
    }
    rustix::fs::chmodat(dir, &path, Mode::from_raw_mode(mode), rustix::fs::AtFlags::empty()).at("fchmodat", shown())
}

/// Whether a change is on the disk before the call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Synced: the file before its rename, the directory after it.
    Durable,
    /// Left to the kernel: atomic for every reader, lost in a power failure.
    Volatile,
}

/// Replaces `name` in `dir` by a file of `bytes` with permission bits `mode`: written under a temporary name, then
/// renamed, so a reader sees the old or the new content and nothing between.
///
/// # Errors
/// The failing call's; the temporary file is removed.
pub fn replace(dir: impl AsFd, name: &str, bytes: &[u8], mode: u32, durability: Durability) -> Result<()> {
    let temporary = format!(".{name}.{}", std::process::id());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&dir, &temporary, flags, Mode::from_raw_mode(mode)).at("openat", &temporary)?;
    let written = write_all(&file, bytes, &temporary).and_then(|()| {
        if durability == Durability::Durable {
            rustix::fs::fsync(&file).at("fsync", &temporary)?;
        }
        rustix::fs::renameat(&dir, &temporary, &dir, name).at("renameat", name)
    });
    if let Err(error) = written {
        // The first failure is the one to report; a temporary file that stays is swept with its directory.
        let _ = rustix::fs::unlinkat(&dir, &temporary, rustix::fs::AtFlags::empty());
        return Err(error);
    }
    match durability {
        Durability::Durable => sync_dir(dir, name),
        Durability::Volatile => Ok(()),
    }
}

/// fsync(2) of a directory, which may be open with `O_PATH`.
///
/// # Errors
/// open(2)'s and fsync(2)'s.
pub fn sync_dir(dir: impl AsFd, name: impl std::fmt::Display) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, ".", flags, Mode::empty()).at("openat", &name)?;
    rustix::fs::fsync(&file).at("fsync", name)
}

/// A write lock on a whole file that belongs to the open file description (`F_OFD_SETLK`, kernel 3.15): it passes to
/// children with the descriptor and ends when the last copy of it is closed, however its holders die.
#[derive(Debug)]
pub struct Lock(OwnedFd);

impl Lock {
    /// Takes the lock on `file` (open for writing) if nobody holds it.
    ///
    /// # Errors
    /// fcntl(2)'s, less "somebody holds it".
    pub fn try_take(file: OwnedFd) -> Result<Option<Self>> {
        match fcntl_lock(&file, libc::F_OFD_SETLK, libc::F_WRLCK) {
            Ok(_) => Ok(Some(Self(file))),
            Err(error) if matches!(error.errno(), Errno::AGAIN | Errno::ACCESS) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits for the lock, at most `limit`.
    ///
    /// # Errors
    /// `ETIMEDOUT` when it is still held then; otherwise fcntl(2)'s.
    pub fn take(file: OwnedFd, limit: std::time::Duration) -> Result<Self> {
        let deadline = std::time::Instant::now() + limit;
        // Holders give it up within milliseconds in the common case, so the first sleeps are short.
        let mut pause = std::time::Duration::from_micros(50);
        loop {
            match fcntl_lock(&file, libc::F_OFD_SETLK, libc::F_WRLCK) {
                Ok(_) => return Ok(Self(file)),
                Err(error) if matches!(error.errno(), Errno::AGAIN | Errno::ACCESS) => {}
                Err(error) => return Err(error),
            }
            if std::time::Instant::now() >= deadline {
                return Err(Error::new("fcntl", "F_OFD_SETLK", Errno::TIMEDOUT));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(std::time::Duration::from_millis(20));
        }
    }

    /// Whether anybody holds a lock on `file`, without taking it.
    ///
    /// # Errors
    /// fcntl(2)'s.
    pub fn is_held(file: impl AsFd) -> Result<bool> {
        Ok(fcntl_lock(file, libc::F_OFD_GETLK, libc::F_WRLCK)? != libc::F_UNLCK)
    }

    /// The descriptor, to pass on.
    #[must_use]
    pub fn into_file(self) -> OwnedFd {
        self.0
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Has the kernel begin to write `length` bytes from `offset` on to the disk, so that a later fsync(2) has less to wait for.
/// Nothing is promised, and nothing is lost where a file system cannot.
pub fn begin_writeback(file: impl AsFd, offset: u64, length: u64) {
    let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) else { return };
    // SAFETY: sync_file_range(2) takes numbers only.
    let _ = unsafe { libc::sync_file_range(file.as_fd().as_raw_fd(), offset, length, libc::SYNC_FILE_RANGE_WRITE) };
}

fn fcntl_lock(file: impl AsFd, command: libc::c_int, kind: libc::c_int) -> Result<libc::c_int> {
    let mut lock = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: the three OFD commands read and write one flock structure.
    let status = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), command, &raw mut lock) };
    if status == 0 {
        return Ok(libc::c_int::from(lock.l_type));
    }
    let errno = std::io::Error::last_os_error().raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
    Err(Error::new("fcntl", "lock", errno))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> (Self, OwnedFd) {
            let path = std::env::temp_dir().join(format!("lighter-sys-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).expect("made");
            let dir = rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).expect("opened");
            (Self(path), dir)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).expect("removed");
        }
    }

    #[test]
    fn a_root_is_not_left() {
        let (scratch, root) = Scratch::new("root");
        std::fs::create_dir(scratch.0.join("etc")).expect("made");
        std::fs::write(scratch.0.join("etc/passwd"), "inside").expect("written");
        std::os::unix::fs::symlink("/etc/passwd", scratch.0.join("absolute")).expect("linked");
        std::os::unix::fs::symlink("../../../../etc/passwd", scratch.0.join("upwards")).expect("linked");
        for path in ["absolute", "upwards", "/etc/passwd", "../../etc/passwd"] {
            let file = open_in_root(&root, path, OFlags::RDONLY, Mode::empty()).expect("opened");
            assert_eq!(read_regular(&file, 100, path).expect("read"), b"inside", "{path}");
        }
        assert!(open_beneath(&root, "absolute", OFlags::RDONLY, Mode::empty()).is_err());
        make_dirs_in_root(&root, "/../a/b/../c", 0o755).expect("made");
        assert!(scratch.0.join("a/c").is_dir() && scratch.0.join("a/b").is_dir());
        std::os::unix::fs::symlink("/nowhere", scratch.0.join("dangling")).expect("linked");
        assert!(make_dirs_in_root(&root, "dangling/x", 0o755).is_err());
        assert!(!scratch.0.join("nowhere").exists());
    }

    #[test]
    fn reads_are_bounded() {
        let (scratch, root) = Scratch::new("bounded");
        std::fs::write(scratch.0.join("f"), vec![7; 10_000]).expect("written");
        let open = || open_beneath(&root, "f", OFlags::RDONLY, Mode::empty()).expect("opened");
        assert_eq!(read_regular(open(), 10_000, "f").expect("read").len(), 10_000);
        assert_eq!(read_regular(open(), 9_999, "f").expect_err("over").errno(), Errno::FBIG);
        assert_eq!(read_regular(&root, 10, "dir").expect_err("directory").errno(), Errno::INVAL);
    }

    #[test]
    fn replacing_is_whole() {
        let (scratch, root) = Scratch::new("replace");
        for (text, durability) in [("one", Durability::Durable), ("two", Durability::Volatile)] {
            replace(&root, "record", text.as_bytes(), 0o600, durability).expect("replaced");
            assert_eq!(std::fs::read_to_string(scratch.0.join("record")).expect("read"), text);
        }
        assert_eq!(std::fs::read_dir(&scratch.0).expect("listed").count(), 1);
    }

    #[test]
    fn a_lock_has_one_holder() {
        let (scratch, root) = Scratch::new("lock");
        std::fs::write(scratch.0.join("lock"), "").expect("written");
        let open = || open_beneath(&root, "lock", OFlags::RDWR, Mode::empty()).expect("opened");
        let held = Lock::try_take(open()).expect("asked").expect("free");
        assert!(Lock::try_take(open()).expect("asked").is_none());
        assert!(Lock::is_held(open()).expect("asked"));
        let waited = Lock::take(open(), std::time::Duration::from_millis(5)).expect_err("held");
        assert_eq!(waited.errno(), Errno::TIMEDOUT);
        drop(held);
        assert!(!Lock::is_held(open()).expect("asked"));
    }
}
