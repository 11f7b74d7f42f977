//! Memory of a process that is about to wait for a long time.

use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::error::{Context, Error, Result};
use crate::fs::read_bounded;

const MAPS: &str = "/proc/self/maps";
/// Most bytes read of it: a line has about a hundred, and a process that waits has few mappings.
const MAPS_LIMIT: usize = 1024 * 1024;

/// Gives back what is not needed while waiting: free heap, and the mapped pages of the program's code and constants.
/// These stay in the page cache and are mapped again when they are used (madvise(2), `MADV_DONTNEED` on a file mapping).
///
/// # Errors
/// When `/proc` is not mounted, or madvise(2)'s; nothing is lost then.
pub fn release_idle() -> Result<()> {
    // SAFETY: it only returns free memory of the C library's heap to the kernel.
    unsafe { libc::malloc_trim(0) };
    let file = openat(CWD, MAPS, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).at("openat", MAPS)?;
    let maps = read_bounded(file, MAPS_LIMIT, MAPS)?;
    for (start, end) in unwritten(&String::from_utf8_lossy(&maps)) {
        let address = std::ptr::without_provenance_mut(start);
        // SAFETY: the range is one private mapping of a file that was never writable, so its pages come back from the
        // file as they were.
        let status = unsafe { libc::madvise(address, end - start, libc::MADV_DONTNEED) };
        if status != 0 {
            let errno = std::io::Error::last_os_error()
                .raw_os_error()
                .map_or(crate::Errno::IO, crate::Errno::from_raw_os_error);
            return Err(Error::new("madvise", format!("{start:x}"), errno));
        }
    }
    Ok(())
}

/// The ranges of `maps` (proc_pid_maps(5)) that map a file and were never writable: its code, and the first segment of a
/// program, which holds headers and constants. Other read-only mappings may hold pages that were relocated before they
/// were protected.
fn unwritten(maps: &str) -> Vec<(usize, usize)> {
    let range = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let (access, offset, _device, inode) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let first = access == "r--p" && offset == "00000000";
        let address = |text| usize::from_str_radix(text, 16).ok();
        if inode != "0" && (access == "r-xp" || first) { Some((address(start)?, address(end)?)) } else { None }
    };
    maps.lines().filter_map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_never_writable_is_chosen() {
        let maps = "\
55e0a0000000-55e0a0010000 r--p 00000000 fe:01 1234  /usr/bin/x
55e0a0010000-55e0a0200000 r-xp 00010000 fe:01 1234  /usr/bin/x
55e0a0200000-55e0a0208000 r--p 00200000 fe:01 1234  /usr/bin/x
55e0a0208000-55e0a0210000 rw-p 00200000 fe:01 1234  /usr/bin/x
7f0000000000-7f0000001000 r--p 00000000 00:00 0
7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0     [vdso]
garbage
";
        let chosen = [(0x55e0_a000_0000, 0x55e0_a001_0000), (0x55e0_a001_0000, 0x55e0_a020_0000)];
        assert_eq!(unwritten(maps), chosen);
    }

    #[test]
    fn the_program_goes_on_afterwards() {
        let before = vec![7_u8; 100_000];
        release_idle().expect("released");
        release_idle().expect("released twice");
        assert!(before.iter().all(|&byte| byte == 7));
        assert_eq!("still 42", format!("still {}", 6 * 7));
    }
}
