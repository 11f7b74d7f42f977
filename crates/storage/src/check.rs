//! Comparing layers with what was recorded when they were unpacked, and finding what killed processes left.

use std::collections::HashSet;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use oci::Digest;
use rustix::fs::{AtFlags, FileType, FlockOperation};
use rustix::io::Errno;
use sys::Context;

use crate::error::{Error, Result};
use crate::inherit::each_name;
use crate::layers::{LayerStore, open_dir};
use crate::walk::{self, Visitor};

/// Bytes of a block as `st_blocks` counts them (stat(2)).
const BLOCK: u64 = 512;

/// What is on its way out of the store already. It takes up space and does no harm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Layers that a killed process was unpacking.
    pub staging: usize,
    /// Removed trees that are still on the disk.
    pub trash: usize,
}

/// Counts a layer again. A sparse file's record counts what it holds, or its size where the layer was counted by a walk,
/// so that its bytes are only known to lie between two bounds.
#[derive(Default)]
struct Recount {
    inodes: u64,
    least: u64,
    most: u64,
    seen: HashSet<u64>,
}

impl Visitor for Recount {
    fn entry(&mut self, dir: BorrowedFd<'_>, name: &CStr, kind: FileType) -> Result<()> {
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).at("fstatat", name.to_string_lossy())?;
        if stat.st_nlink > 1 && !self.seen.insert(stat.st_ino) {
            return Ok(());
        }
        self.inodes += 1;
        if kind == FileType::RegularFile {
            let size = u64::try_from(stat.st_size).unwrap_or(0);
            self.most = self.most.saturating_add(size);
            // What a file system packs into fewer blocks looks sparse, and is taken as such.
            if u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(BLOCK) >= size {
                self.least = self.least.saturating_add(size);
            }
        }
        Ok(())
    }

    fn enter(&mut self, _path: &[u8], _inode: u64) -> Result<()> {
        self.inodes += 1;
        Ok(())
    }
}

impl LayerStore {
    /// What is wrong with a layer, as the end of a sentence about it; `None` when it is as it was unpacked, as far as the
    /// number of its files and their sizes tell.
    ///
    /// # Errors
    /// [`Error::OtherVersion`], of whose layers nothing is known; those that say nothing about the layer: a lack of memory or
    /// of descriptors.
    pub fn check(&self, chain: &Digest) -> Result<Option<String>> {
        let result = self.info(chain).and_then(|info| {
            let mut recount = Recount::default();
            walk::walk(self.dirs.open_diff(chain)?, &mut recount)?;
            Ok((info.usage, recount))
        });
        let (recorded, found) = match result {
            Ok(both) => both,
            Err(Error::MissingLayer(_)) if self.contains(chain)? => return Ok(Some("has lost its files".to_owned())),
            Err(Error::MissingLayer(_)) => return Ok(Some("is missing".to_owned())),
            Err(error @ Error::OtherVersion { .. }) => return Err(error),
            Err(Error::Record { reason, .. }) => return Ok(Some(format!("has a damaged record: {reason}"))),
            Err(Error::Sys(error)) if matches!(error.errno(), Errno::MFILE | Errno::NFILE | Errno::NOMEM) => {
                return Err(error.into());
            }
            Err(error) => return Ok(Some(format!("cannot be read: {error}"))),
        };
        if found.inodes != recorded.inodes {
            return Ok(Some(format!("has {} files, not the {} that were unpacked", found.inodes, recorded.inodes)));
        }
        if !(found.least..=found.most).contains(&recorded.bytes) {
            return Ok(Some(format!("has {} bytes, not the {} that were unpacked", found.most, recorded.bytes)));
        }
        Ok(None)
    }

    /// What killed processes left, and what waits to be removed. What living ones are at work on does not count.
    ///
    /// # Errors
    /// Those of reading the directories.
    pub fn leftovers(&self) -> Result<Leftovers> {
        let mut names = Vec::new();
        let staging = open_dir(self.dirs.staging.as_fd(), ".")?;
        each_name(staging.as_fd(), |name| names.push(name.to_string_lossy().into_owned()))?;
        let mut left = Leftovers::default();
        for name in names {
            let Ok(dir) = open_dir(staging.as_fd(), &name) else { continue };
            if rustix::fs::flock(&dir, FlockOperation::NonBlockingLockShared).is_ok() {
                left.staging += 1;
            }
        }
        let trash = open_dir(self.dirs.trash.as_fd(), ".")?;
        each_name(trash.as_fd(), |_| left.trash += 1)?;
        Ok(left)
    }
}
