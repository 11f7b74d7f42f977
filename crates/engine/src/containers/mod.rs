//! Containers: the verbs, each in its file, and what they take and give.
//!
//! A container is a directory `<root>/containers/<id>`. It exists for others as soon as `names/<name>` links to it;
//! everything before that is staging, everything after its name is gone is trash.

mod create;
mod exec;
mod export;
mod files;
mod inspect;
mod list;
mod lookup;
mod names;
mod reconcile;
mod remove;
mod start;
mod state;
mod types;
mod volumes;

pub use container::protocol::Stream;
pub(crate) use create::random;
pub(crate) use list::has_label;
pub use types::{
    ContainerDetails, ContainerFilter, ContainerSummary, CreatedContainer, ExecSession, LogEntry, LogOptions, Posture,
    RemoveOptions, Repair, Said, SaidMount, SizeInfo, StartOptions,
};
pub(crate) use volumes::VolumeUsers;

use std::os::fd::OwnedFd;
use std::path::Path;

use container::ContainerDir;
use container::names::Names;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use sys::Context;

use crate::{ContainerId, Engine, Result};

/// Keeps garbage collection and the repair of half-made containers away while something is being made.
#[derive(Debug)]
pub(crate) struct Lease(#[expect(dead_code, reason = "closing the file is what ends the lease")] OwnedFd);

impl Engine {
    /// A lease shared with everybody else who makes something.
    pub(crate) fn lease(&self) -> Result<Lease> {
        let file = self.lease_file()?;
        loop {
            match rustix::fs::flock(&file, FlockOperation::LockShared) {
                Ok(()) => return Ok(Lease(file)),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(sys::Error::new("flock", self.paths.lease().display(), errno).into()),
            }
        }
    }

    /// The lease of whoever removes what nobody needs; `None` while anything is being made.
    pub(crate) fn try_exclusive(&self) -> Result<Option<Lease>> {
        let file = self.lease_file()?;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(Lease(file))),
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(sys::Error::new("flock", self.paths.lease().display(), errno).into()),
            }
        }
    }

    fn lease_file(&self) -> Result<OwnedFd> {
        let path = self.paths.lease();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let open = || rustix::fs::openat(CWD, &path, flags, Mode::from_raw_mode(0o600)).at("openat", path.display());
        match open() {
            Err(error) if error.errno() == Errno::NOENT => {
                make_dirs(&self.paths.root)?;
                Ok(open()?)
            }
            other => Ok(other?),
        }
    }

    pub(crate) fn names(&self) -> Result<Names> {
        let path = self.paths.names();
        Names::open(&path).or_else(|_| {
            make_dirs(&path)?;
            Ok(Names::open(&path)?)
        })
    }

    pub(crate) fn container_dir(&self, id: &ContainerId) -> Result<ContainerDir> {
        Ok(ContainerDir::open(&self.paths.containers(), id)?)
    }
}

/// Makes a directory for nobody but root, with those above it.
pub(crate) fn make_dirs(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).at("mkdir", path.display())?;
    Ok(())
}

#[cfg(test)]
mod tests;
