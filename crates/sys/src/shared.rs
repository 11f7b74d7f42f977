//! A page of numbers that two processes share: how one tells the other something when it may make no system call.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

use rustix::fs::{MemfdFlags, SealFlags};

use crate::error::{Context, Error, Result};
use crate::process::last;

/// How many numbers a page holds here.
pub const WORDS: usize = 4;

const LENGTH: usize = WORDS * size_of::<AtomicU32>();
const NAME: &str = "shared";

/// A mapping of the page, for as long as the value lives.
#[derive(Debug)]
pub struct SharedPage(NonNull<[AtomicU32; WORDS]>);

impl SharedPage {
    /// Makes a page of zeros; the file is for whoever maps it too.
    ///
    /// # Errors
    /// memfd_create(2)'s, fcntl(2)'s and mmap(2)'s.
    pub fn create() -> Result<(Self, OwnedFd)> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create(NAME, flags).at("memfd_create", NAME)?;
        rustix::fs::ftruncate(&file, LENGTH as u64).at("ftruncate", NAME)?;
        let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW;
        rustix::fs::fcntl_add_seals(&file, seals).at("fcntl", "F_ADD_SEALS")?;
        Ok((Self::map(&file)?, file))
    }

    /// Maps the page of another process.
    ///
    /// # Errors
    /// `EINVAL` for a file that is no such page or could become shorter, mmap(2)'s.
    pub fn map(file: impl AsFd) -> Result<Self> {
        let seals = rustix::fs::fcntl_get_seals(&file).at("fcntl", "F_GET_SEALS")?;
        let length = rustix::fs::fstat(&file).at("fstat", NAME)?.st_size;
        if !seals.contains(SealFlags::SHRINK) || usize::try_from(length) != Ok(LENGTH) {
            return Err(Error::new("mmap", NAME, rustix::io::Errno::INVAL));
        }
        let (access, number) = (libc::PROT_READ | libc::PROT_WRITE, file.as_fd().as_raw_fd());
        // SAFETY: the kernel chooses a place that nothing else uses.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), LENGTH, access, libc::MAP_SHARED, number, 0) };
        if address == libc::MAP_FAILED {
            return Err(last("mmap", NAME));
        }
        NonNull::new(address.cast()).map(Self).ok_or_else(|| Error::new("mmap", NAME, rustix::io::Errno::NOMEM))
    }

    /// The numbers.
    #[must_use]
    pub fn words(&self) -> &[AtomicU32; WORDS] {
        // SAFETY: the mapping is LENGTH bytes of a file that cannot shrink, aligned to a page, and lives as long as the
        // value; all bits are valid, and other processes' writes are what atomics are for.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        // SAFETY: it is this value's own mapping, and nobody borrows from it any more.
        unsafe { libc::munmap(self.0.as_ptr().cast(), LENGTH) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn both_mappings_are_one_page() {
        let (ours, file) = SharedPage::create().expect("made");
        let theirs = SharedPage::map(&file).expect("mapped");
        ours.words()[1].store(7, Ordering::Release);
        assert_eq!(theirs.words()[1].load(Ordering::Acquire), 7);
        assert_eq!(theirs.words()[0].load(Ordering::Acquire), 0);
    }

    #[test]
    fn a_file_that_may_shrink_is_not_mapped() {
        let file = rustix::fs::memfd_create("x", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("made");
        rustix::fs::ftruncate(&file, LENGTH as u64).expect("sized");
        assert_eq!(SharedPage::map(&file).expect_err("not sealed").errno(), rustix::io::Errno::INVAL);
    }
}
