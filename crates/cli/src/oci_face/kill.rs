//! `kill`: a signal to the first process, or to every process of the container.

use oci::runtime::NamespaceKind;
use rustix::process::Signal;
use sys::Errno;

use super::arguments::Flags;
use super::failure::Failure;
use super::members;
use super::store::{Container, Record, Status, Store, group};
use crate::parse::signal;

/// How long killed processes may take to be gone.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// `kill`; with `--regex` every container whose id matches. Goes on past failures; gives the first.
pub(super) fn kill(global: &Flags, flags: &Flags) -> Result<i32, Failure> {
    let number = match flags.words.get(1) {
        Some(text) => signal::parse(text).map_err(|error| Failure::new(format!("kill: {error}")))?,
        None => Signal::TERM.as_raw(),
    };
    let store = Store::new(global);
    let all = flags.is("all");
    if !flags.is("regex") {
        return kill_one(&store, flags.id(), number, all).map(|()| 0);
    }
    store.each_matching(flags.id(), |id| kill_one(&store, id, number, all)).map(|()| 0)
}

fn kill_one(store: &Store, id: &str, number: i32, all: bool) -> Result<(), Failure> {
    let container = store.open(id)?;
    let record = container.whole_record()?;
    let (status, pidfd) = container.status(&record)?;
    if all {
        return kill_all(&container, &record, number);
    }
    let Some(pidfd) = pidfd else { return Err(Failure::new("container not running")) };
    match sys::process::send_signal(&pidfd, number) {
        Err(error) if error.errno() == Errno::SRCH => return Err(Failure::new("container not running")),
        other => other?,
    }
    if number == Signal::KILL.as_raw() {
        let own_pids = container.spec()?.namespace(NamespaceKind::Pid).is_some_and(|pid| pid.path.is_none());
        if !own_pids {
            // No pid namespace ends with the first process here. Without a group either, it was all that is known.
            if record.cgroup.is_some() {
                kill_all(&container, &record, number)?;
            }
        } else if status == Status::Paused
            && let Some(group) = group(&record)?
        {
            group.thaw()?;
        }
    }
    Ok(())
}

fn kill_all(container: &Container, record: &Record, number: i32) -> Result<(), Failure> {
    let killed = number == Signal::KILL.as_raw();
    if record.cgroup.is_some() {
        let Some(group) = group(record)? else { return Err(Failure::new("container not running")) };
        if killed {
            return Ok(group.kill_all(PATIENCE)?);
        }
    }
    for pid in members::pids(container, record)? {
        let sent = sys::process::open_pid(pid.unsigned_abs()).and_then(|pidfd| {
            // The number may have passed to another process before the descriptor was opened.
            let still = members::pids(container, record).is_ok_and(|pids| pids.contains(&pid));
            if still { sys::process::send_signal(pidfd, number) } else { Ok(()) }
        });
        match sent {
            Err(error) if error.errno() != Errno::SRCH => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}
