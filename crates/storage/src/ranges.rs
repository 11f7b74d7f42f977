//! Leases of user and group id ranges for the user namespaces of running containers.
//!
//! A range is 65536 ids, aligned, from 0x7000_0000 up to and including the one at 0x7FFD_0000: space that systemd's table
//! of ids (UIDS-GIDS.md) leaves free, above its own container ranges and below its foreign and dynamic ones. A lease is
//! the exclusive symbolic link `<run>/ids/<slot>` to the container's id, made by one atomic call. It lives on the run-time
//! file system, so that a reboot ends all leases.
//!
//! `<run>/ids/of/<container>` points back at the slot and is written *before* the lease: a hint where to look first, so
//! that a process that died in between leaves no lease behind that the next `acquire` would not find.

use std::fs::DirBuilder;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use sys::Context;

use crate::error::{Error, Result};
use crate::inherit::each_name;
use crate::layers::open_dir;

/// First id of the first range.
const BASE: u32 = 0x7000_0000;
/// Ids in a range.
const LENGTH: u32 = 0x1_0000;
/// Number of ranges; the last begins at 0x7FFD_0000.
const SLOTS: u16 = 4094;
/// Bytes of a container id.
const LONGEST_ID: usize = 255;

/// A leased range. It holds for users and for groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The range's number, from 0.
    pub slot: u16,
    /// The host's id that is 0 inside.
    pub start: u32,
    /// Number of ids.
    pub len: u32,
}

impl Range {
    fn of_slot(slot: u16) -> Self {
        Self { slot, start: BASE + u32::from(slot) * LENGTH, len: LENGTH }
    }
}

/// The leases below one run-time directory. Each container is handled by one process at a time, which holds the
/// container's lock; different containers need no lock between them.
pub struct Ranges {
    /// `<run>/ids`.
    slots: OwnedFd,
    /// `<run>/ids/of`.
    hints: OwnedFd,
}

impl Ranges {
    /// Opens the leases below `run`, making the directories when missing.
    ///
    /// # Errors
    /// Those of making and opening the directories.
    pub fn open(run: &Path) -> Result<Self> {
        let path = run.join("ids");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::open(&path, flags, Mode::empty()).at("open", path.display());
        let slots = match open() {
            Err(error) if error.errno() == Errno::NOENT => {
                DirBuilder::new().recursive(true).mode(0o700).create(&path).at("mkdir", path.display())?;
                open()?
            }
            slots => slots?,
        };
        let hints = match open_dir(slots.as_fd(), "of") {
            Err(error) if error.errno() == Errno::NOENT => match rustix::fs::mkdirat(&slots, "of", Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => open_dir(slots.as_fd(), "of")?,
                Err(errno) => return Err(sys::Error::new("mkdirat", "of", errno).into()),
            },
            hints => hints?,
        };
        Ok(Self { slots, hints })
    }

    /// Leases a range to a container; one that it has already is given again.
    ///
    /// # Errors
    /// [`Error::NoFreeRange`], [`Error::InvalidId`], and those of the system calls.
    pub fn acquire(&self, container: &str) -> Result<Range> {
        check_id(container)?;
        let first = match self.hint(container)? {
            Some(slot) => slot,
            None => {
                let slot = start(container);
                self.set_hint(container, slot)?;
                slot
            }
        };
        let mut slot = first;
        loop {
            match rustix::fs::symlinkat(container, &self.slots, slot.to_string()) {
                Ok(()) => return Ok(Range::of_slot(slot)),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(sys::Error::new("symlinkat", slot, errno).into()),
            }
            if self.owner(slot)?.as_deref() == Some(container) {
                return Ok(Range::of_slot(slot));
            }
            slot = (slot + 1) % SLOTS;
            if slot == first {
                self.clear_hint(container)?;
                return Err(Error::NoFreeRange(SLOTS));
            }
            self.set_hint(container, slot)?;
        }
    }

    /// Ends a container's lease; one that has ended is no error.
    ///
    /// # Errors
    /// [`Error::InvalidId`], and those of the system calls.
    pub fn release(&self, container: &str) -> Result<()> {
        check_id(container)?;
        let Some(slot) = self.hint(container)? else { return Ok(()) };
        if self.owner(slot)?.as_deref() == Some(container) {
            unlink(&self.slots, &slot.to_string())?;
        }
        self.clear_hint(container)
    }

    /// The container that has the range with this number.
    ///
    /// # Errors
    /// That of reading the lease.
    pub fn owner(&self, slot: u16) -> Result<Option<String>> {
        read_link(&self.slots, &slot.to_string())
    }

    /// Every lease, in no order: the range and its container.
    ///
    /// # Errors
    /// Those of reading the directory and the leases.
    pub fn list(&self) -> Result<Vec<(Range, String)>> {
        let mut slots = Vec::new();
        let dir = open_dir(self.slots.as_fd(), ".")?;
        each_name(dir.as_fd(), |name| slots.extend(name.to_str().ok().and_then(parse_slot)))?;
        let mut leases = Vec::with_capacity(slots.len());
        for slot in slots {
            if let Some(owner) = self.owner(slot)? {
                leases.push((Range::of_slot(slot), owner));
            }
        }
        Ok(leases)
    }

    fn hint(&self, container: &str) -> Result<Option<u16>> {
        Ok(read_link(&self.hints, container)?.as_deref().and_then(parse_slot))
    }

    fn set_hint(&self, container: &str, slot: u16) -> Result<()> {
        self.clear_hint(container)?;
        match rustix::fs::symlinkat(slot.to_string(), &self.hints, container) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(sys::Error::new("symlinkat", container, errno).into()),
        }
    }

    fn clear_hint(&self, container: &str) -> Result<()> {
        unlink(&self.hints, container)
    }
}

fn unlink(dir: &OwnedFd, name: &str) -> Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(sys::Error::new("unlinkat", name, errno).into()),
    }
}

fn read_link(dir: &OwnedFd, name: &str) -> Result<Option<String>> {
    let mut buffer = [0_u8; LONGEST_ID + 1];
    match rustix::fs::readlinkat_raw(dir, name, &mut buffer[..]) {
        Ok(length) => Ok(Some(String::from_utf8_lossy(&buffer[..length]).into_owned())),
        // EINVAL: something that is no link, and so no lease.
        Err(Errno::NOENT | Errno::INVAL) => Ok(None),
        Err(errno) => Err(sys::Error::new("readlinkat", name, errno).into()),
    }
}

fn parse_slot(name: &str) -> Option<u16> {
    name.parse().ok().filter(|&slot| slot < SLOTS)
}

/// Where to begin to look: FNV-1a of the id, so that containers seldom meet.
fn start(container: &str) -> u16 {
    let hash = container
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    u16::try_from(hash % u64::from(SLOTS)).unwrap_or(0)
}

fn check_id(container: &str) -> Result<()> {
    let fits = (1..=LONGEST_ID).contains(&container.len())
        && !container.starts_with('.')
        && container.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-' | b'+'));
    if fits { Ok(()) } else { Err(Error::InvalidId(container.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::testing::Scratch;
    use std::collections::HashSet;

    #[test]
    fn ranges_are_aligned_and_end_where_the_table_says() {
        assert_eq!(Range::of_slot(0).start, 0x7000_0000);
        let last = Range::of_slot(SLOTS - 1);
        assert_eq!((last.start, last.start + (last.len - 1)), (0x7FFD_0000, 0x7FFD_FFFF));
    }

    #[test]
    fn a_lease_is_exclusive_and_found_again() {
        let scratch = Scratch::new("ranges");
        let ranges = Ranges::open(&scratch.path().join("run")).unwrap();
        let one = ranges.acquire("one").unwrap();
        assert_eq!(ranges.acquire("one").unwrap(), one);
        assert_eq!(ranges.owner(one.slot).unwrap().as_deref(), Some("one"));
        assert_eq!(ranges.list().unwrap(), [(one, "one".to_owned())]);
        ranges.release("one").unwrap();
        ranges.release("one").unwrap();
        assert_eq!(ranges.owner(one.slot).unwrap(), None);
        assert_eq!(ranges.list().unwrap(), []);
    }

    #[test]
    fn a_taken_slot_is_probed_past_and_the_lease_is_found_after_it_is_free() {
        let scratch = Scratch::new("probe");
        let ranges = Ranges::open(scratch.path()).unwrap();
        let slot = start("late");
        rustix::fs::symlinkat("early", &ranges.slots, slot.to_string()).unwrap();
        let lease = ranges.acquire("late").unwrap();
        assert_eq!(lease.slot, (slot + 1) % SLOTS);
        rustix::fs::unlinkat(&ranges.slots, slot.to_string(), AtFlags::empty()).unwrap();
        assert_eq!(ranges.acquire("late").unwrap(), lease);
        // Death between hint and lease: the hint alone leads to the slot.
        rustix::fs::unlinkat(&ranges.slots, lease.slot.to_string(), AtFlags::empty()).unwrap();
        assert_eq!(ranges.acquire("late").unwrap(), lease);
        // Somebody else's slot is not released.
        rustix::fs::unlinkat(&ranges.slots, lease.slot.to_string(), AtFlags::empty()).unwrap();
        rustix::fs::symlinkat("other", &ranges.slots, lease.slot.to_string()).unwrap();
        ranges.release("late").unwrap();
        assert_eq!(ranges.owner(lease.slot).unwrap().as_deref(), Some("other"));
    }

    #[test]
    fn parallel_leases_are_apart_and_a_full_table_says_so() {
        let scratch = Scratch::new("full");
        let ranges = Ranges::open(scratch.path()).unwrap();
        let slots: HashSet<u16> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|thread| {
                    let ranges = &ranges;
                    scope.spawn(move || -> Vec<u16> {
                        (0..50).map(|n| ranges.acquire(&format!("c{thread}-{n}")).unwrap().slot).collect()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(slots.len(), 200);
        for slot in 0..SLOTS {
            let _ = rustix::fs::symlinkat("filler", &ranges.slots, slot.to_string());
        }
        assert!(matches!(ranges.acquire("one-more"), Err(Error::NoFreeRange(4094))));
        assert_eq!(ranges.hint("one-more").unwrap(), None);
    }

    #[test]
    fn ids_are_file_names() {
        let scratch = Scratch::new("ids");
        let ranges = Ranges::open(scratch.path()).unwrap();
        for bad in ["", ".", "..", "a/b", ".hidden", "a\n", "a\0", &"a".repeat(256)] {
            assert!(matches!(ranges.acquire(bad), Err(Error::InvalidId(_))), "{bad:?}");
        }
    }
}
