//! What is done to all processes of a group at once: list, freeze, thaw, kill.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal};
use sys::{Context as _, Errno};

use super::error::{Error, Result};
use super::file::{self, Dir};
use super::host::Version;
use super::{Cgroup, tree};

/// First pause between two looks at a state; it doubles, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_micros(200);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
/// How long a freeze is waited for before a kill: it only keeps new processes from appearing.
const KILL_FREEZE: Duration = Duration::from_millis(100);

/// How long killed processes get to be gone before more is done about them.
const KILL_GRACE: Duration = Duration::from_millis(10);

/// Asks until the answer is yes or `patience` is over; tells which.
fn wait_until(patience: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<bool> {
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        if done()? {
            return Ok(true);
        }
        if start.elapsed() >= patience {
            return Ok(false);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

impl Cgroup {
    /// The processes in the group and in all groups below it, as seen from the caller's pid namespace, in ascending
    /// order. Processes of other pid namespaces that the caller cannot see are left out.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the group is gone; system call errors.
    pub fn pids(&self) -> Result<Vec<Pid>> {
        let Some(dir) = self.members()? else {
            return Err(Error::NotFound { path: self.path.to_string() });
        };
        let mut pids = Vec::new();
        let collected = tree::visit(dir.fd, |fd| match file::read_at(fd, "cgroup.procs", file::LARGE) {
            Ok(text) => {
                pids.extend(text.lines().filter_map(|line| line.parse().ok()).filter_map(Pid::from_raw));
                Ok(())
            }
            // The processes of a threaded group are listed by the group above it.
            Err(Errno::OPNOTSUPP) => Ok(()),
            Err(errno) => Err(errno),
        });
        match collected {
            Ok(()) => {}
            // Opened before it was removed.
            Err(Errno::NODEV | Errno::NOENT) => return Err(Error::NotFound { path: self.path.to_string() }),
            Err(errno) => return Err(errno).at("read", dir.label("cgroup.procs")).map_err(Error::from),
        }
        pids.sort_unstable_by_key(|pid: &Pid| pid.as_raw_nonzero());
        pids.dedup();
        Ok(pids)
    }

    /// Stops every process of the group, and waits up to `patience` for all of them. A group that could not be frozen
    /// is thawed again.
    ///
    /// # Errors
    /// [`Error::TimedOut`]; [`Error::NoController`] on a v1 host without the freezer; system call errors.
    pub fn freeze(&self, patience: Duration) -> Result<()> {
        let dir = self.freezer()?;
        let done = match dir.hierarchy.version {
            Version::V1 => wait_until(patience, || {
                // Written at each look: v1 retries a task it could not freeze only when asked again.
                dir.write("freezer.state", "FROZEN")?;
                Ok(dir.read("freezer.state")?.trim() == "FROZEN")
            })?,
            Version::V2 => {
                dir.write("cgroup.freeze", "1")?;
                wait_until(patience, || Ok(file::keyed(&dir.read("cgroup.events")?, "frozen") == Some(1)))?
            }
        };
        if done {
            return Ok(());
        }
        self.thaw()?;
        Err(Error::TimedOut { group: self.path.to_string(), state: "frozen", waited: patience })
    }

    /// Lets the processes of a frozen group run again; of no effect on one that is not frozen.
    ///
    /// # Errors
    /// [`Error::NoController`] on a v1 host without the freezer; system call errors.
    pub fn thaw(&self) -> Result<()> {
        let dir = self.freezer()?;
        match dir.hierarchy.version {
            Version::V1 => dir.write("freezer.state", "THAWED"),
            Version::V2 => dir.write("cgroup.freeze", "0"),
        }
    }

    /// Whether the group is frozen, or on its way there.
    ///
    /// # Errors
    /// [`Error::NoController`] on a v1 host without the freezer; system call errors.
    pub fn is_frozen(&self) -> Result<bool> {
        let dir = self.freezer()?;
        Ok(match dir.hierarchy.version {
            Version::V1 => dir.read("freezer.state")?.trim() != "THAWED",
            Version::V2 => dir.read("cgroup.freeze")?.trim() == "1",
        })
    }

    /// Kills every process of the group, frozen or not, and waits up to `patience` for the group to be empty. A group
    /// that does not exist is empty.
    ///
    /// # Errors
    /// [`Error::TimedOut`] when processes remain (uninterruptible sleep, or faster at forking than we at killing);
    /// system call errors.
    pub fn kill_all(&self, patience: Duration) -> Result<()> {
        self.signal_unified()?;
        let Some(dir) = self.members()? else { return Ok(()) };
        // Left after the signal above: what is frozen by v1, or was never in the unified hierarchy.
        if dir.hierarchy.version == Version::V1 && !wait_until(KILL_GRACE, || self.is_empty())? {
            return self.kill_v1(patience);
        }
        let empty = wait_until(patience, || {
            if self.is_empty()? {
                return Ok(true);
            }
            // Of use before `cgroup.kill`, when there were more processes than descriptors.
            self.signal_unified().map(|()| false)
        })?;
        if empty {
            return Ok(());
        }
        Err(Error::TimedOut { group: self.path.to_string(), state: "empty", waited: patience })
    }

    /// `cgroup.kill` (Linux 5.14) where the group is in the unified hierarchy, which on a hybrid host it is too; before
    /// that, a signal to each process.
    fn signal_unified(&self) -> Result<()> {
        let Some(index) = self.host.unified() else { return Ok(()) };
        let Some(dir) = self.dir(index)? else { return Ok(()) };
        match file::write_at(dir.fd, "cgroup.kill", "1") {
            Ok(()) | Err(Errno::NODEV) => Ok(()),
            // Signalled while frozen, so that none can fork: v2 lets frozen processes die.
            Err(Errno::NOENT | Errno::OPNOTSUPP) => {
                let _ = self.freeze(KILL_FREEZE);
                self.signal_members()
            }
            Err(errno) => Err(errno).at("write", dir.label("cgroup.kill")).map_err(Error::from),
        }
    }

    /// Rounds of freezing, signalling and thawing: a frozen process of v1 dies only when it is thawed.
    fn kill_v1(&self, patience: Duration) -> Result<()> {
        let can_freeze = self.host.has_controller("freezer");
        let empty = wait_until(patience, || {
            if can_freeze {
                match self.freeze(KILL_FREEZE) {
                    Ok(()) | Err(Error::TimedOut { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            let signalled = self.signal_members();
            if can_freeze {
                self.thaw()?;
            }
            signalled?;
            // Most die at once, and then no second round is needed.
            wait_until(KILL_GRACE, || self.is_empty())
        })?;
        if empty {
            return Ok(());
        }
        Err(Error::TimedOut { group: self.path.to_string(), state: "empty", waited: patience })
    }

    /// SIGKILL to every process of the group, and to no other: a descriptor is taken for each pid listed, and a process
    /// that has one is only signalled if its pid is still listed afterwards.
    fn signal_members(&self) -> Result<()> {
        let mut processes = Vec::new();
        let listed = |pids: Result<Vec<Pid>>| match pids {
            Err(Error::NotFound { .. }) => Ok(Vec::new()),
            other => other,
        };
        for pid in listed(self.pids())? {
            match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
                Ok(fd) => processes.push((pid, fd)),
                Err(Errno::SRCH) => {}
                // The next round takes the rest.
                Err(Errno::MFILE | Errno::NFILE) if !processes.is_empty() => break,
                Err(errno) => return Err(errno).at("pidfd_open", pid.as_raw_nonzero()).map_err(Error::from),
            }
        }
        let still: HashSet<Pid> = listed(self.pids())?.into_iter().collect();
        for (pid, fd) in processes.iter().filter(|(pid, _)| still.contains(pid)) {
            match rustix::process::pidfd_send_signal(fd, Signal::KILL) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => return Err(errno).at("pidfd_send_signal", pid.as_raw_nonzero()).map_err(Error::from),
            }
        }
        Ok(())
    }

    /// Whether no process is in the group or below it; a group that does not exist is empty.
    fn is_empty(&self) -> Result<bool> {
        // v2 keeps the answer, and counts processes of pid namespaces out of our sight too.
        if let Some(dir) = self.members()?.filter(|dir| dir.hierarchy.version == Version::V2) {
            return match file::read_at(dir.fd, "cgroup.events", file::SMALL) {
                Ok(text) => Ok(file::keyed(&text, "populated") == Some(0)),
                Err(Errno::NOENT | Errno::NODEV) => Ok(true),
                Err(errno) => Err(errno).at("read", dir.label("cgroup.events")).map_err(Error::from),
            };
        }
        match self.pids() {
            Ok(pids) => Ok(pids.is_empty()),
            Err(Error::NotFound { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The directory whose list of processes counts: where freezing happens, so that both speak of the same ones.
    fn members(&self) -> Result<Option<Dir<'_>>> {
        let preferred = self.host.index_of("freezer").or_else(|| self.host.unified()).unwrap_or(0);
        if let Some(dir) = self.dir(preferred)? {
            return Ok(Some(dir));
        }
        for index in 0..self.dirs.len() {
            if let Some(dir) = self.dir(index)? {
                return Ok(Some(dir));
            }
        }
        Ok(None)
    }

    /// v1's freezer where it is mounted (other programs look there), else the unified hierarchy's.
    fn freezer(&self) -> Result<Dir<'_>> {
        let Some(index) = self.host.index_of("freezer").or_else(|| self.host.unified()) else {
            let setting = super::Setting { field: "freezer", flag: "pause" };
            return Err(Error::NoController { controller: "freezer".to_owned(), setting });
        };
        self.dir(index)?.ok_or_else(|| Error::NotFound { path: self.path.to_string() })
    }
}
