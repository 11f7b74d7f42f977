//! Which file systems can be mounted with mapped ids (`MOUNT_ATTR_IDMAP` of mount_setattr(2)).
//!
//! A file system says so by `FS_ALLOW_IDMAP` in its type. There is no way to ask for that flag other than to try, so the
//! table below has it by magic number and by the release that brought it, from mount_setattr(2) "ID-mapped mounts" and
//! the kernel's history of the flag. What the table does not have is not mappable, whatever a later kernel may say.

use std::os::fd::AsFd;
use std::path::Path;

use sys::Context;

use crate::error::Result;

/// A file system's magic number (statfs(2), linux/magic.h) and the first release that maps ids on it.
struct Mappable {
    magic: u32,
    since: (u32, u32),
}

const TABLE: &[Mappable] = &[
    // ext4, and ext2 and ext3 as ext4's driver mounts them.
    Mappable { magic: 0xEF53, since: (5, 12) },
    // xfs.
    Mappable { magic: 0x5846_5342, since: (5, 12) },
    // vfat and msdos.
    Mappable { magic: 0x4d44, since: (5, 12) },
    // btrfs.
    Mappable { magic: 0x9123_683E, since: (5, 15) },
    // ntfs3.
    Mappable { magic: 0x7366_746e, since: (5, 15) },
    // f2fs.
    Mappable { magic: 0xF2F5_2010, since: (5, 18) },
    // erofs.
    Mappable { magic: 0xE0F5_E1E2, since: (5, 19) },
    // squashfs.
    Mappable { magic: 0x7371_7368, since: (6, 2) },
    // tmpfs.
    Mappable { magic: 0x0102_1994, since: (6, 3) },
    // ceph.
    Mappable { magic: 0x00c3_6400, since: (6, 7) },
    // hugetlbfs.
    Mappable { magic: 0x9584_58f6, since: (6, 9) },
];

/// Whether a mount of the file system that holds an open file can map ids, on the kernel that runs. False for those
/// where it depends on more than the kernel: fuse (since 6.12, if its server asks for it) and overlayfs itself, whose
/// layers can be mapped but not its own mounts.
///
/// # Errors
/// That of `fstatfs`.
pub fn idmappable(file: impl AsFd) -> Result<bool> {
    let magic = rustix::fs::fstatfs(file).at("fstatfs", "")?.f_type;
    let uname = rustix::system::uname();
    Ok(known(magic.cast_unsigned(), release(&uname.release().to_string_lossy())))
}

/// As [`idmappable`], by path; the last component may be a link.
///
/// # Errors
/// That of `statfs`.
pub fn idmappable_path(path: &Path) -> Result<bool> {
    let magic = rustix::fs::statfs(path).at("statfs", path.display())?.f_type;
    let uname = rustix::system::uname();
    Ok(known(magic.cast_unsigned(), release(&uname.release().to_string_lossy())))
}

fn known(magic: u64, kernel: (u32, u32)) -> bool {
    // The field is wider than the numbers, and some of them fill the sign of 32 bits.
    TABLE.iter().any(|entry| u64::from(entry.magic) == magic & 0xffff_ffff && kernel >= entry.since)
}

/// Major and minor of a release such as `6.18.0-1-amd64`; what cannot be read counts as ancient.
fn release(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases() {
        assert_eq!(release("6.18.0-1-amd64"), (6, 18));
        assert_eq!(release("5.12"), (5, 12));
        assert_eq!(release("odd"), (0, 0));
    }

    #[test]
    fn the_table_counts_from_the_release_on() {
        assert!(!known(0x0102_1994, (6, 2)) && known(0x0102_1994, (6, 3)));
        assert!(known(0xEF53, (6, 18)) && !known(0xEF53, (5, 11)));
        assert!(known(0xffff_ffff_9123_683e, (5, 15)));
        // procfs and overlayfs.
        assert!(!known(0x9fa0, (7, 0)) && !known(0x794c_7630, (7, 0)));
    }

    #[test]
    fn proc_is_not_mappable() {
        assert!(!idmappable_path(Path::new("/proc")).unwrap());
        assert!(!idmappable(std::fs::File::open("/proc").unwrap()).unwrap());
        assert!(idmappable_path(Path::new("/nowhere-at-all")).is_err());
    }
}
