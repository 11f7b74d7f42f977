//! The runtime directory: of this boot, or swept.

use std::path::Path;

use container::record::{State, Status};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use sys::Context;
use sys::fs::Durability;

use super::make_dirs;
use crate::{Engine, Result};

/// Most bytes of the stamp: an id as in `/proc/sys/kernel/random/boot_id`.
const STAMP_LIMIT: usize = 256;

impl Engine {
    /// Makes sure that the runtime directory is of this boot; true when an earlier boot's had to be swept.
    ///
    /// What an earlier boot left there (sockets, leases of ids) stands for processes that no longer exist.
    pub(crate) fn ensure_run(&self) -> Result<bool> {
        let boot = Status::new(State::Created).boot_id;
        if stamp(&self.paths.boot_stamp())?.as_deref() == Some(boot.as_str()) {
            return Ok(false);
        }
        make_dirs(&self.paths.run)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let run = &self.paths.run;
        let dir = rustix::fs::openat(CWD, run, flags, Mode::empty()).at("openat", run.display())?;
        while let Err(errno) = rustix::fs::flock(&dir, FlockOperation::LockExclusive) {
            if errno != Errno::INTR {
                return Err(sys::Error::new("flock", run.display(), errno).into());
            }
        }
        let old = stamp(&self.paths.boot_stamp())?;
        if old.as_deref() == Some(boot.as_str()) {
            return Ok(false);
        }
        for name in ["containers", "ids"] {
            match std::fs::remove_dir_all(run.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(crate::Error::from(error));
                }
                _ => {}
            }
        }
        make_dirs(&self.paths.run_containers())?;
        make_dirs(&self.paths.seccomp_cache())?;
        sys::fs::replace(&dir, "boot", boot.as_bytes(), 0o600, Durability::Volatile)?;
        Ok(old.is_some())
    }
}

fn stamp(path: &Path) -> Result<Option<String>> {
    match rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => {
            let bytes = sys::fs::read_regular(file, STAMP_LIMIT, path.display())?;
            Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
        }
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(sys::Error::new("openat", path.display(), errno).into()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_earlier_boots_directory_is_swept_once() {
        let scratch = crate::testing::Scratch::new("boot");
        let engine = scratch.engine();
        assert!(!engine.ensure_run().expect("made"), "a first use is no reboot");
        let stale = engine.paths.run_containers().join("stale");
        std::fs::create_dir_all(&stale).expect("made");
        assert!(!engine.ensure_run().expect("same boot"));
        assert!(stale.exists());
        std::fs::write(engine.paths.boot_stamp(), "another-boot").expect("written");
        assert!(engine.ensure_run().expect("swept"));
        assert!(!stale.exists());
        assert!(!engine.ensure_run().expect("same boot"));
    }
}
