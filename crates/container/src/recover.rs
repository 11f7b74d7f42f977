//! Finding the truth about a container whose monitor died: killed, or with the machine.

use std::path::Path;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, unlinkat};
use sys::fs::{Durability, Lock};

use crate::dir::{ContainerDir, is_active};
use crate::error::{Error, Result};
use crate::record::{State, Status, now, process_start};

/// How long the container's processes may take to die.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Exit code of a process whose own is not known.
pub const UNKNOWN_EXIT: i32 = 255;

/// What [`recover`] found.
#[derive(Debug)]
pub enum Recovered {
    /// Somebody holds the lock, or the record says that nothing lives: there was nothing to do.
    Nothing,
    /// The container was lost. Its processes are gone, its end is recorded, and the caller holds its lock to undo the
    /// rest: network, user id range, `--rm`.
    Lost {
        /// The container's lock.
        lock: Lock,
        /// The status that was recorded.
        status: Status,
        /// What could not be taken down, as sentences.
        left: Vec<String>,
    },
}

/// Puts right a container that its record calls active although nobody holds its lock: kills what still runs of it,
/// removes its control group at `cgroup` (as in [`runtime::cgroup::Cgroup::path`]) and the socket in `run_dir`, and
/// records the end with code 255. Safe to call at any time and from several processes.
///
/// A container whose status record is damaged is treated as lost, too.
///
/// # Errors
/// When the directory or the lock cannot be used, or the end cannot be recorded.
pub fn recover(dir: &ContainerDir, run_dir: &Path, cgroup: Option<&str>) -> Result<Recovered> {
    match dir.status() {
        Ok(status) if !is_active(status.state) => return Ok(Recovered::Nothing),
        Ok(_) | Err(Error::Damaged { .. }) => {}
        Err(error) => return Err(error),
    }
    let lock = match dir.try_lock() {
        Ok(lock) => lock,
        Err(Error::Locked) => return Ok(Recovered::Nothing),
        Err(error) => return Err(error),
    };
    // Read again under the lock: its last holder may have recorded the end after the first look.
    let mut status = match dir.status() {
        Ok(status) if !is_active(status.state) => return Ok(Recovered::Nothing),
        Ok(status) => status,
        Err(Error::Damaged { reason, .. }) => {
            let mut status = Status::new(State::Running);
            status.error = format!("the status record was damaged: {reason}");
            status
        }
        Err(error) => return Err(error),
    };
    let mut left = Vec::new();
    if status.is_of_this_boot() {
        kill_first(&status, &mut left);
        if let Some(path) = cgroup {
            left.extend(take_down(path));
        }
    }
    // An absent socket is the common case, and one that stays does no harm: nobody listens.
    let _ = unlinkat(CWD, run_dir.join(crate::monitor::SOCKET), AtFlags::empty());
    status.state = State::Exited;
    status.pid = 0;
    status.pid_start = 0;
    status.monitor = 0;
    status.finished = now();
    status.exit_code = UNKNOWN_EXIT;
    if status.error.is_empty() {
        status.error = if status.is_of_this_boot() {
            "the container's monitor was killed".to_owned()
        } else {
            "the machine went down while the container ran".to_owned()
        };
    }
    dir.write_status(&status, Durability::Durable)?;
    Ok(Recovered::Lost { lock, status, left })
}

/// Kills the container's first process, if the pid is still that process's.
fn kill_first(status: &Status, left: &mut Vec<String>) {
    let Ok(pidfd) = sys::process::open_pid(status.pid) else { return };
    // Checked with the descriptor open: from here on the pid cannot become another process's unseen.
    if status.pid_start == 0 || process_start(status.pid) != Some(status.pid_start) {
        return;
    }
    match sys::process::send_signal(&pidfd, 9) {
        Ok(()) => {}
        Err(error) if error.errno() == sys::Errno::SRCH => return,
        Err(error) => return left.push(error.to_string()),
    }
    let mut entries = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    match sys::process::poll_until(&mut entries, Some(KILL_LIMIT)) {
        Ok(0) => left.push(format!("process {} does not end", status.pid)),
        Ok(_) => {}
        Err(error) => left.push(error.to_string()),
    }
}

fn take_down(path: &str) -> Option<String> {
    let cgroup = runtime::cgroup::Host::detect().and_then(|host| runtime::cgroup::Cgroup::open(&host, path));
    let cgroup = match cgroup {
        Ok(cgroup) => cgroup,
        Err(runtime::cgroup::Error::NotFound { .. } | runtime::cgroup::Error::NotMounted) => return None,
        Err(error) => return Some(error.to_string()),
    };
    let killed = cgroup.kill_all(KILL_LIMIT);
    let removed = cgroup.remove();
    killed.and(removed).err().map(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;
    use crate::dir::names;
    use crate::scratch::{Scratch, config};

    fn running(scratch: &Scratch, pid: u32, pid_start: u64) -> ContainerDir {
        let status = Status { pid, pid_start, monitor: 1, ..Status::new(State::Running) };
        ContainerDir::create(scratch.path(), &config(5), &status, Durability::Volatile).expect("created")
    }

    fn sleeper() -> Child {
        Command::new("/bin/sleep").arg("60").spawn().expect("spawned")
    }

    #[test]
    fn what_a_dead_monitor_left_is_killed_and_recorded_once() {
        let scratch = Scratch::new("recover-lost");
        let mut child = sleeper();
        let dir = running(&scratch, child.id(), process_start(child.id()).expect("alive"));
        let held = dir.try_lock().expect("free");
        assert!(matches!(recover(&dir, scratch.path(), None), Ok(Recovered::Nothing)), "its monitor lives");
        drop(held);
        // Waited for: a process that another test spawns holds every descriptor until it executes.
        drop(dir.lock(KILL_LIMIT).expect("free"));
        let Recovered::Lost { lock, status, left } = recover(&dir, scratch.path(), None).expect("recovered") else {
            panic!("lost")
        };
        assert_eq!(left, [""; 0]);
        assert_eq!((status.state, status.exit_code, status.pid), (State::Exited, UNKNOWN_EXIT, 0));
        assert_eq!(dir.status().expect("recorded"), status);
        assert!(dir.is_locked().expect("looked"), "the caller holds the lock");
        drop(lock);
        assert!(matches!(recover(&dir, scratch.path(), None), Ok(Recovered::Nothing)));
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.wait().expect("waited")), Some(9));
    }

    #[test]
    fn a_pid_that_became_another_process_is_left_alone() {
        let scratch = Scratch::new("recover-reuse");
        let mut child = sleeper();
        let dir = running(&scratch, child.id(), process_start(child.id()).expect("alive") + 1);
        assert!(matches!(recover(&dir, scratch.path(), None), Ok(Recovered::Lost { .. })));
        assert_eq!(child.try_wait().expect("asked"), None, "still running");
        let other_boot = Status { boot_id: "before".into(), ..dir.status().expect("recorded") };
        let start = process_start(child.id()).expect("alive");
        let other_boot =
            Status { state: State::Running, pid: child.id(), pid_start: start, error: String::new(), ..other_boot };
        dir.write_status(&other_boot, Durability::Volatile).expect("written");
        let Ok(Recovered::Lost { status, .. }) = recover(&dir, scratch.path(), None) else { panic!("lost") };
        assert_eq!((status.exit_code, &status.error[..]), (255, "the machine went down while the container ran"));
        assert_eq!(child.try_wait().expect("asked"), None, "another boot's pid means nothing");
        child.kill().expect("killed");
        child.wait().expect("waited");
    }

    #[test]
    fn a_damaged_status_is_replaced() {
        let scratch = Scratch::new("recover-damaged");
        let dir = running(&scratch, 0, 0);
        std::fs::write(dir.path().join(names::STATUS), "").expect("written");
        let Ok(Recovered::Lost { status, .. }) = recover(&dir, scratch.path(), None) else { panic!("lost") };
        assert!(status.error.starts_with("the status record was damaged"), "{}", status.error);
        assert_eq!(dir.status().expect("readable again").exit_code, 255);
    }
}
