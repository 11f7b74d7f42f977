//! The root without pivot_root(2), for hosts whose own root is a ram disk: that one cannot be pivoted away.
//!
//! The new root is moved over "/" and entered by chroot(2); the old one stays below it. Who holds `CAP_SYS_ADMIN` can take
//! the cover away and find it, so everything that was mounted on it goes first. What came from a more privileged namespace
//! cannot go (mount_namespaces(7)): of that procfs and sysfs are covered, the rest stays with the ram disk itself.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::mount::UnmountFlags;
use sys::Context as _;
use sys::mount::{Attributes, NewFs};

use crate::error::{Doing, Result};

const TABLE: &str = "/proc/self/mountinfo";
/// The longest table read, in bytes: a host with ten thousand mounts has about two megabytes.
const LONGEST_TABLE: usize = 64 << 20;

/// A mount of the old root.
#[derive(Debug, PartialEq)]
struct Old {
    id: u64,
    parent: u64,
    place: PathBuf,
    /// Whether it shows the host's kernel: procfs or sysfs.
    kernels: bool,
}

/// Makes `root` the root. Where it is attached already, it is moved.
pub(crate) fn enter(root: &OwnedFd) -> Result<()> {
    let what = || "cannot enter the root file system".to_owned();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let old = rustix::fs::open("/", flags, Mode::empty()).at("open", "/").doing(what)?;
    let table = rustix::fs::openat(CWD, TABLE, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).at("open", TABLE);
    let table = table.and_then(|file| sys::fs::read_bounded(file, LONGEST_TABLE, TABLE)).doing(what)?;
    // First of all it goes where it is going: what it is attached to now would take it along.
    sys::mount::attach(root, &old, "/").doing(what)?;
    // What is attached below the new root already went along.
    let own = rustix::fs::statx(root, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).at("statx", "").doing(what)?;
    let mut gone = vec![own.stx_mnt_id];
    for mount in read(&String::from_utf8_lossy(&table)) {
        // With a mount goes what is mounted on it.
        if gone.contains(&mount.id) || gone.contains(&mount.parent) {
            gone.push(mount.id);
            continue;
        }
        match rustix::mount::unmount(&mount.place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => gone.push(mount.id),
            // One that came from a more privileged namespace stays (mount_namespaces(7)).
            Err(_) if mount.kernels => hide(&mount.place)?,
            Err(_) => {}
        }
    }
    rustix::process::fchdir(root).at("fchdir", "the new root").doing(what)?;
    rustix::process::chroot(".").at("chroot", "the new root").doing(what)
}

fn hide(place: &Path) -> Result<()> {
    let what = || format!("cannot hide the host's {}", place.display());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = rustix::fs::open(place, flags, Mode::empty()).at("open", place.display()).doing(what)?;
    let cover = NewFs::open("tmpfs").and_then(|fs| fs.mount(Attributes::RDONLY)).doing(what)?;
    sys::mount::attach(cover, &target, place.display()).doing(what)
}

/// The mounts of proc_pid_mountinfo(5), parents first, without the root.
fn read(table: &str) -> Vec<Old> {
    let line = |line: &str| {
        let mut fields = line.split(' ');
        let id = fields.next()?.parse().ok()?;
        let parent = fields.next()?.parse().ok()?;
        let place = unescape(fields.nth(2)?);
        let kind = line.split_once(" - ")?.1.split(' ').next()?;
        let kernels = kind == "proc" || kind == "sysfs";
        Some(Old { id, parent, place, kernels }).filter(|mount| mount.place != Path::new("/"))
    };
    table.lines().filter_map(line).collect()
}

/// White space and backslashes are written as three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(char::from(byte));
                plain.push_str(&part[3..]);
            }
            None => plain.push_str(part),
        }
    }
    plain.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read() {
        let table = "\
1 0 8:1 / / rw - ext4 /dev/x rw
20 1 0:5 / /proc rw,nosuid shared:3 - proc proc rw
21 1 0:6 / /a\\040b\\134c rw - tmpfs x rw
nonsense";
        let old = |id, place: &str, kernels| Old { id, parent: 1, place: place.into(), kernels };
        assert_eq!(read(table), [old(20, "/proc", true), old(21, "/a b\\c", false)]);
    }
}
