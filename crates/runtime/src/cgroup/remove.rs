//! Removing a group: in every hierarchy, with what was made inside, past every failure.

use std::time::{Duration, Instant};

use rustix::fs::AtFlags;
use sys::Errno;

use super::error::{Error, Result};
use super::{Cgroup, tree};

/// How long a group may stay busy: processes that were killed take a moment to leave.
const PATIENCE: Duration = Duration::from_secs(2);
/// First pause between two rounds; it doubles, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

impl Cgroup {
    /// Removes the group and all groups below it, in every hierarchy. Waits up to two seconds for processes on their
    /// way out, and kills none. Where the group does not exist there is nothing to do: it may be called again.
    ///
    /// # Errors
    /// [`Error::NotRemoved`] with a failure for each directory that is left; the others are gone.
    pub fn remove(&self) -> Result<()> {
        let start = Instant::now();
        let mut pause = FIRST_PAUSE;
        let mut left: Vec<usize> = (0..self.dirs.len()).collect();
        loop {
            let mut failures = Vec::new();
            let mut hopeful = false;
            left.retain(|&index| match self.remove_in(index) {
                Ok(()) => false,
                Err(errno) => {
                    hopeful |= errno == Errno::BUSY;
                    let object = self.host.hierarchies()[index].mount.join(self.path.as_str());
                    failures.push(sys::Error::new("rmdir", object.display(), errno));
                    true
                }
            });
            if failures.is_empty() {
                return Ok(());
            }
            if !hopeful || start.elapsed() >= PATIENCE {
                return Err(Error::NotRemoved { group: self.path.to_string(), failures });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn remove_in(&self, index: usize) -> Result<(), Errno> {
        let root = self.host.hierarchies()[index].root();
        let rmdir = || match rustix::fs::unlinkat(root, self.path.as_str(), AtFlags::REMOVEDIR) {
            Err(Errno::NOENT) => Ok(()),
            result => result,
        };
        // Nearly always there is nothing inside.
        match rmdir() {
            Err(Errno::BUSY | Errno::NOTEMPTY) => {}
            result => return result,
        }
        let dir = match self.dir(index) {
            Ok(Some(dir)) => dir,
            Ok(None) => return Ok(()),
            Err(Error::Sys(error)) => return Err(error.errno()),
            Err(_) => return Err(Errno::IO),
        };
        match tree::remove_below(dir.fd) {
            Ok(()) | Err(Errno::BUSY | Errno::NODEV | Errno::NOENT) => rmdir(),
            Err(errno) => Err(errno),
        }
    }
}
