//! The directories that criu works in, and what a checkpoint notes beside criu's own images.
//!
//! criu reads and writes them with root's rights and follows what links it finds there. A directory that somebody else
//! can write to, or that came with links in it, would let them choose files of the host to be overwritten or read: it is
//! refused. What the images themselves say is for criu to judge; whoever restores them trusts their maker.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir};
use sys::fs::Durability;
use sys::{Context as _, Errno};

use crate::error::{Doing, Error, ErrorKind, Result};

/// Where the targets of the standard streams are noted: runc's and crun's name and form, a list of three strings.
const DESCRIPTORS: &str = "descriptors.json";
/// Longest such file, in bytes.
const LONGEST_DESCRIPTORS: usize = 1 << 16;
/// criu's link to the images of the dump before.
const PARENT: &str = "parent";
/// How many dumps may build on each other.
const LONGEST_CHAIN: usize = 64;

/// A directory that criu may be given.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) path: PathBuf,
    pub(super) file: OwnedFd,
}

impl Directory {
    /// Opens it, and makes it when it is missing and `make` says so.
    pub(super) fn open(path: &Path, make: bool) -> Result<Self> {
        let what = || format!("cannot use the directory {}", path.display());
        if make {
            use std::os::unix::fs::DirBuilderExt as _;
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(|error| Error::new(ErrorKind::System, format!("{}: {error}", what())))?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::empty()).at("open", path.display()).doing(what)?;
        let directory = Self { path: path.to_owned(), file };
        directory.check(LONGEST_CHAIN)?;
        Ok(directory)
    }

    /// The same directory, opened once more: in another mount namespace it is then seen through that one's mounts.
    pub(super) fn reopen(&self) -> Result<OwnedFd> {
        let what = || format!("cannot use the directory {}", self.path.display());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let file = rustix::fs::open(&self.path, flags, Mode::empty()).at("open", self.path.display()).doing(what)?;
        let identity = |file: &OwnedFd| rustix::fs::fstat(file).map(|stat| (stat.st_dev, stat.st_ino));
        if identity(&file).ok() != identity(&self.file).ok() {
            return Err(self.refuse("it was exchanged meanwhile"));
        }
        Ok(file)
    }

    fn check(&self, left: usize) -> Result<()> {
        let what = || format!("cannot use the directory {}", self.path.display());
        let stat = rustix::fs::fstat(&self.file).at("fstat", self.path.display()).doing(what)?;
        let us = rustix::process::geteuid().as_raw();
        if stat.st_uid != 0 && stat.st_uid != us {
            return Err(self.refuse(format_args!("it belongs to user {}", stat.st_uid)));
        }
        // The group root is as good as its user.
        if stat.st_mode & 0o002 != 0 || (stat.st_mode & 0o020 != 0 && stat.st_gid != 0) {
            return Err(self.refuse("others can write to it"));
        }
        let mut buffer = Vec::with_capacity(16 << 10);
        let mut entries = RawDir::new(&self.file, buffer.spare_capacity_mut());
        let mut parent = false;
        while let Some(entry) = entries.next() {
            let entry = entry.at("getdents64", self.path.display()).doing(what)?;
            let name = entry.file_name().to_string_lossy();
            if name == "." || name == ".." {
                continue;
            }
            let kind = rustix::fs::statat(&self.file, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)
                .map(|stat| FileType::from_raw_mode(stat.st_mode));
            match kind {
                // criu's statistics and unfinished files come and go.
                Err(Errno::NOENT) | Ok(FileType::RegularFile) => {}
                Err(errno) => return Err(sys::Error::new("statat", &name, errno)).doing(what),
                Ok(FileType::Symlink) if name == PARENT => parent = true,
                // Nothing is opened through it by accident: criu names files, not directories.
                Ok(FileType::Directory) => {}
                Ok(_) => {
                    let name: String = name.chars().take(64).flat_map(char::escape_debug).collect();
                    return Err(self.refuse(format_args!("{name} in it is no regular file")));
                }
            }
        }
        // The descriptor is read from its start again by nobody else, but the position is criu's as well.
        rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Start(0)).at("lseek", self.path.display()).doing(what)?;
        if !parent {
            return Ok(());
        }
        let left = left.checked_sub(1).ok_or_else(|| self.refuse("the dumps before it go in a circle"))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = self.path.join(PARENT);
        let file = rustix::fs::openat(&self.file, PARENT, flags, Mode::empty()).at("openat", path.display());
        Self { file: file.doing(what)?, path }.check(left)
    }

    fn refuse(&self, why: impl std::fmt::Display) -> Error {
        let path = self.path.display();
        Error::new(
            ErrorKind::Config,
            format!("refusing {path} as a directory for criu, which has root's rights there: {why}"),
        )
    }

    /// Notes where the streams led.
    pub(super) fn write_descriptors(&self, streams: &[String]) -> Result<()> {
        let what = || format!("cannot write {DESCRIPTORS}");
        let text = serde_json::to_vec(streams).map_err(|error| Error::new(ErrorKind::System, error.to_string()))?;
        sys::fs::replace(&self.file, DESCRIPTORS, &text, 0o600, Durability::Volatile).doing(what)
    }

    /// Where the streams led; nothing when nobody noted it.
    pub(super) fn descriptors(&self) -> Result<Vec<String>> {
        let what = || format!("cannot read {}", self.path.join(DESCRIPTORS).display());
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let file = match sys::fs::open_beneath(&self.file, DESCRIPTORS, flags, Mode::empty()) {
            Err(error) if error.errno() == Errno::NOENT => return Ok(Vec::new()),
            other => other.doing(what)?,
        };
        let bytes = sys::fs::read_regular(&file, LONGEST_DESCRIPTORS, DESCRIPTORS).doing(what)?;
        let read: Vec<String> = serde_json::from_slice(&bytes)
            .map_err(|error| Error::new(ErrorKind::Config, format!("{}: {error}", what())))?;
        Ok(read)
    }

    /// What the log says went wrong: its first complaint that is one, on one line.
    pub(super) fn complaint(&self, log: &str) -> Option<String> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let file = sys::fs::open_beneath(&self.file, log, flags, Mode::empty()).ok()?;
        let bytes = sys::fs::read_regular(file, LONGEST_LOG, log).ok()?;
        complaint(&String::from_utf8_lossy(&bytes))
    }
}

/// How much of a log is looked at; the log of a large container has a few megabytes.
const LONGEST_LOG: usize = 64 << 20;

/// Complaints that end nothing: criu asks for more open files than a caller without `CAP_SYS_RESOURCE` gets, and whether
/// there are tunnels, which the container's device rules deny.
const HARMLESS: [&str; 2] = ["Can't setup RLIMIT_NOFILE", "Unable to create tun"];

fn complaint(log: &str) -> Option<String> {
    let says = |line: &str| line.split_once("Error (").map(|(_, rest)| rest.trim().to_owned());
    let said = log.lines().filter(|line| !HARMLESS.iter().any(|known| line.contains(known))).find_map(says)?;
    // Names in it may be the container's.
    Some(said.chars().take(300).map(|c| if c.is_control() { '?' } else { c }).collect())
}

/// A `--parent-path`: relative to the images and there already.
pub(super) fn check_parent(images: &Directory, parent: &Path) -> Result<()> {
    let wrong = |why: &str| Error::new(ErrorKind::Config, format!("the parent path {}: {why}", parent.display()));
    if parent.is_absolute() || !parent.components().any(|c| matches!(c, Component::Normal(_))) {
        return Err(wrong("it has to be relative to the images"));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&images.file, parent, flags, Mode::empty())
        .at("openat", parent.display())
        .doing(|| format!("cannot find the dump before at {}", parent.display()))?;
    Directory { file, path: images.path.join(parent) }.check(LONGEST_CHAIN)
}

/// Where the three standard streams of process `pid` lead: as `/proc` says it, and for a file outside the container's
/// own mounts criu's name of it, `file[mount:inode]`.
pub(super) fn streams(pid: u32) -> Result<Vec<String>> {
    let what = || "cannot see where the standard streams lead".to_owned();
    let mounts = mount_ids(&mount_table(pid)?);
    let mut streams = Vec::with_capacity(3);
    for number in 0..3 {
        let path = format!("/proc/{pid}/fd/{number}");
        let target = match rustix::fs::readlink(&path, Vec::new()) {
            Ok(target) => target.to_string_lossy().into_owned(),
            Err(Errno::NOENT) => String::new(),
            Err(errno) => return Err(sys::Error::new("readlink", &path, errno)).doing(what),
        };
        let external = target.starts_with('/').then(|| outside(pid, number, &mounts)).transpose()?.flatten();
        streams.push(external.unwrap_or(target));
    }
    Ok(streams)
}

fn outside(pid: u32, number: u32, mounts: &BTreeSet<u64>) -> Result<Option<String>> {
    let what = || "cannot see where the standard streams lead".to_owned();
    let info = read_proc(&format!("/proc/{pid}/fdinfo/{number}")).doing(what)?;
    let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:")).and_then(|text| text.trim().parse().ok());
    let Some(mount) = mount.filter(|mount: &u64| !mounts.contains(mount)) else { return Ok(None) };
    let path = format!("/proc/{pid}/fd/{number}");
    let stat = rustix::fs::stat(&path).at("stat", &path).doing(what)?;
    // A terminal is criu's --shell-job.
    if FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && rustix::fs::major(stat.st_rdev) != 1 {
        return Ok(None);
    }
    Ok(Some(format!("file[{mount:x}:{:x}]", stat.st_ino)))
}

/// The mount table of process `pid`.
pub(super) fn mount_table(pid: u32) -> Result<String> {
    read_proc(&format!("/proc/{pid}/mountinfo")).doing(|| "cannot read the container's mounts".to_owned())
}

/// The longest mount table read: 100,000 mounts, the kernel's own limit for a namespace, of 160 bytes.
const LONGEST_TABLE: usize = 16 << 20;

fn read_proc(path: &str) -> sys::Result<String> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).at("open", path)?;
    let bytes = sys::fs::read_bounded(file.as_fd(), LONGEST_TABLE, path)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn mount_ids(table: &str) -> BTreeSet<u64> {
    table.lines().filter_map(|line| line.split(' ').next()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("lighter-criu-{name}-{}", std::process::id()));
            std::fs::create_dir(&path).expect("made");
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).expect("removed");
        }
    }

    fn refusal(path: &Path) -> String {
        Directory::open(path, false).expect_err("refused").to_string()
    }

    #[test]
    fn a_directory_with_links_is_refused() {
        let scratch = Scratch::new("links");
        std::fs::write(scratch.0.join("core-1.img"), "").expect("written");
        Directory::open(&scratch.0, false).expect("plain files are what criu writes");
        symlink("/etc/passwd", scratch.0.join("dump.log")).expect("linked");
        assert!(refusal(&scratch.0).contains("dump.log in it is no regular file"));
        std::fs::remove_file(scratch.0.join("dump.log")).expect("removed");
        rustix::fs::mknodat(rustix::fs::CWD, scratch.0.join("f"), FileType::Fifo, Mode::RUSR, 0).expect("made");
        assert!(refusal(&scratch.0).contains("no regular file"));
    }

    #[test]
    fn a_directory_that_others_write_to_is_refused() {
        let scratch = Scratch::new("mode");
        std::fs::set_permissions(&scratch.0, std::fs::Permissions::from_mode(0o777)).expect("changed");
        assert!(refusal(&scratch.0).contains("others can write to it"));
        assert!(refusal(Path::new("/tmp")).contains("others can write to it"));
        assert!(Directory::open(&scratch.0.join("missing"), false).is_err());
        std::fs::set_permissions(&scratch.0, std::fs::Permissions::from_mode(0o755)).expect("changed");
        Directory::open(&scratch.0.join("a/b"), true).expect("made");
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&scratch.0, Some(4711), None).expect("changed");
            assert!(refusal(&scratch.0).contains("belongs to user 4711"));
        }
    }

    #[test]
    fn the_dumps_before_are_looked_at_too() {
        let scratch = Scratch::new("parents");
        let (first, second) = (scratch.0.join("first"), scratch.0.join("second"));
        for dir in [&first, &second] {
            std::fs::create_dir(dir).expect("made");
        }
        symlink("../first", second.join("parent")).expect("linked");
        let images = Directory::open(&second, false).expect("a chain of one");
        check_parent(&images, Path::new("../first")).expect("is there");
        for bad in ["/etc", ".", "", "../none"] {
            assert!(check_parent(&images, Path::new(bad)).is_err(), "{bad:?}");
        }
        symlink("../second", first.join("parent")).expect("linked");
        assert!(refusal(&second).contains("in a circle"));
        std::fs::remove_file(first.join("parent")).expect("removed");
        symlink("/etc/passwd", first.join("pages-1.img")).expect("linked");
        assert!(refusal(&second).contains("pages-1.img"));
    }

    #[test]
    fn streams_are_noted_and_read_back() {
        let scratch = Scratch::new("streams");
        let images = Directory::open(&scratch.0, false).expect("opened");
        assert_eq!(images.descriptors().expect("none"), Vec::<String>::new());
        let streams = ["/dev/null", "pipe:[7]", "file[1a:2b]"].map(str::to_owned);
        images.write_descriptors(&streams).expect("written");
        assert_eq!(images.descriptors().expect("read"), streams);
        std::fs::write(scratch.0.join(DESCRIPTORS), "{}").expect("written");
        assert!(images.descriptors().is_err());
    }

    #[test]
    fn the_first_complaint_is_told() {
        let log = "(00.1) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: EPERM\n\
                   (00.2) Error (criu/files.c:1): Can't lookup\x1b[2J mount=24\n(00.3) Error (criu/x.c:2): later\n";
        assert_eq!(complaint(log).as_deref(), Some("criu/files.c:1): Can't lookup?[2J mount=24"));
        assert_eq!(complaint("(00.1) fine\n"), None);
    }
}
