//! `start`: opens the gate of a created container, then the poststart hooks.

use std::time::Duration;

use oci::runtime::Spec;

use super::arguments::Flags;
use super::failure::Failure;
use super::remove;
use super::store::{Container, Record, Status, Store};

/// How long the command may take to be executed, startContainer hooks excepted.
const PATIENCE: Duration = Duration::from_secs(60);
/// The same with startContainer hooks, which have timeouts of their own.
const PATIENCE_WITH_HOOKS: Duration = Duration::from_secs(24 * 3600);

/// `start`.
///
/// When the command cannot be executed, that is this command's failure, and the container is stopped: it is there to be
/// deleted.
pub(super) fn start(global: &Flags, flags: &Flags) -> Result<i32, Failure> {
    let container = Store::new(global).open(flags.id())?;
    let lock = container.lock()?;
    let record = container.whole_record()?;
    let spec = container.spec()?;
    let (status, _) = container.status(&record)?;
    let gate = match status {
        Status::Created => container.gate()?,
        _ => None,
    };
    let Some(gate) = gate else {
        return Err(match status {
            Status::Stopped => Failure::new("cannot start a container that has stopped: container not running"),
            other => Failure::new(format!("cannot start a container that is {}", other.word())),
        });
    };
    if spec.process.is_none() {
        // The container stays created, to be deleted.
        return Err(Failure::new("cannot start a container whose configuration has no process"));
    }
    let hooked = spec.hooks.as_ref().is_some_and(|hooks| !hooks.start_container.is_empty());
    let agent = runtime::Agent::of(&spec, &record.id, &record.bundle, "creating");
    let opened = runtime::open_gate(gate, if hooked { PATIENCE_WITH_HOOKS } else { PATIENCE }, agent.as_ref());
    container.remove_gate()?;
    opened?;
    let hooked = poststart(&container, &record, &spec);
    if hooked.is_err() {
        // The hook's failure is the one to report; what stays is there to be deleted.
        let _ = remove::take_down(global, container, lock, &record, Some(&spec));
    }
    hooked.map(|()| 0)
}

/// Runs the poststart hooks; a failure of one ends the container (specification 1.3).
pub(super) fn poststart(container: &Container, record: &Record, spec: &Spec) -> Result<(), Failure> {
    let Some(hooks) = spec.hooks.as_ref().filter(|hooks| !hooks.poststart.is_empty()) else { return Ok(()) };
    let state = hook_state(record, "running");
    runtime::hooks::run("poststart", &hooks.poststart, &state, None).map_err(|error| {
        // The hook's failure is the one to report.
        let _ = remove::kill(container, record);
        Failure::from(error)
    })
}

/// The state that hooks outside the container read.
pub(super) fn hook_state<'a>(record: &'a Record, status: &'a str) -> runtime::hooks::State<'a> {
    runtime::hooks::State {
        oci_version: &record.oci_version,
        id: &record.id,
        status,
        pid: record.process.filter(|_| status != "stopped").map(|process| process.pid),
        bundle: &record.bundle,
        annotations: &record.annotations,
    }
}
