//! `delete`, and taking a container down.

use std::time::Duration;

use oci::runtime::Spec;
use rustix::process::Signal;
use sys::fs::Lock;

use super::arguments::Flags;
use super::failure::{self, Failure};
use super::start;
use super::store::{Container, Record, Status, Store, group};

/// How long killed processes may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// `delete`; with `--regex` every container whose id matches. Goes on past failures; gives the first.
pub(super) fn delete(global: &Flags, flags: &Flags) -> Result<i32, Failure> {
    let store = Store::new(global);
    let force = flags.is("force");
    if !flags.is("regex") {
        return delete_one(global, &store, flags.id(), force).map(|()| 0);
    }
    store.each_matching(flags.id(), |id| delete_one(global, &store, id, force)).map(|()| 0)
}

fn delete_one(global: &Flags, store: &Store, id: &str, force: bool) -> Result<(), Failure> {
    if force && !store.has(id) {
        return Ok(());
    }
    let container = store.open(id)?;
    let lock = container.lock()?;
    let record = match container.record() {
        Ok(Some(record)) => record,
        // Its processes and its control group would stay, and nobody would know of them any more.
        Err(error) if container.is_other_versions() => {
            return Err(error.within("delete it with the version of lighter-runtime that made it"));
        }
        // Whoever made it was killed at the very beginning, or the record is damaged: the directory is all there is to
        // be found of it.
        Ok(None) | Err(_) if force => return container.remove(Some(lock)),
        Ok(None) => return Err(Failure::new(format!("container {id:?} was not made whole: use --force"))),
        Err(error) => return Err(error),
    };
    let (status, _) = container.status(&record)?;
    if !force && !matches!(status, Status::Stopped | Status::Created) {
        let word = status.word();
        return Err(Failure::new(format!("cannot delete container {id:?} that is not stopped: {word}")));
    }
    kill(&container, &record)?;
    // Its hooks are all that the configuration is still needed for; a damaged one must not keep the container.
    let spec = container.spec().ok();
    take_down(global, container, lock, &record, spec.as_ref())
}

/// Kills everything in the container and waits until it is gone.
pub(super) fn kill(container: &Container, record: &Record) -> Result<(), Failure> {
    let (_, pidfd) = container.status(record)?;
    if let Some(pidfd) = &pidfd {
        // It may have ended this very moment.
        let _ = sys::process::send_signal(pidfd, Signal::KILL.as_raw());
    }
    if let Some(group) = group(record)? {
        group.kill_all(PATIENCE)?;
    }
    if let Some(pidfd) = pidfd {
        let mut entries = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
        if sys::process::poll_until(&mut entries, Some(PATIENCE))? == 0 {
            return Err(Failure::new(format!("container {:?} does not end after SIGKILL", container.id)));
        }
    }
    Ok(())
}

/// Removes a container whose first process has ended: what is left in its group, the group, the directory; then the
/// poststop hooks, whose failure is none of the container's. Goes on past failures; gives the first.
pub(super) fn take_down(
    global: &Flags,
    container: Container,
    lock: Lock,
    record: &Record,
    spec: Option<&Spec>,
) -> Result<(), Failure> {
    let grouped = group(record).and_then(|group| match group {
        Some(group) => {
            let killed = group.kill_all(PATIENCE).map_err(Failure::from);
            group.remove().map_err(Failure::from).and(killed)
        }
        None => Ok(()),
    });
    let stopped = record.unit.as_deref().map_or(Ok(()), runtime::systemd::stop).map_err(Failure::from);
    // A group that resists is found again only through the record, which therefore stays.
    grouped.and(stopped)?;
    runtime::resctrl::remove(&record.resctrl)?;
    let removed = container.remove(Some(lock));
    if let Some(hooks) = spec.and_then(|spec| spec.hooks.as_ref()) {
        for hook in &hooks.poststop {
            let state = start::hook_state(record, "stopped");
            // "The runtime MUST log a warning, but continue" (runtime.md, "Lifecycle").
            if let Err(error) = runtime::hooks::run("poststop", std::slice::from_ref(hook), &state, None) {
                failure::warn(global, &Failure::from(error).to_string());
            }
        }
    }
    removed
}
