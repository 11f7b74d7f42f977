//! What may happen to a container, as a pure function of its state: [`step`] does no I/O, so that every transition can
//! be tested and every refusal is a value with the sentence the user reads.
//!
//! ```text
//!            Start            Started           Pause
//!  Created ────────▶ Starting ───────▶ Running ◀──────▶ Paused
//!     │                 │  ▲              │    Unpause     │
//!     │      StartFailed│  │Start         │Stop            │Stop
//!     │      Lost       ▼  │              ▼                │
//!     │               Exited ◀──────── Stopping ◀──────────┘
//!     │                 │    Ended
//!     │Remove           │Remove        Ended and Lost lead from Running, Paused and Stopping to Exited.
//!     ▼                 ▼              A forced Remove leads from those to Removing, killing first.
//!  Removing ◀───────────┘
//!     │ RemoveFailed
//!     ▼
//!   Dead ── Remove ──▶ Removing        Damaged leads from every state to Dead.
//! ```
//!
//! What the caller does for a transition is in [`Effects`], in order.

use crate::record::State;

/// Something that is asked of a container, or that happened to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// `start`.
    Start,
    /// The process executes its command.
    Started,
    /// The process could not be made or could not execute its command.
    StartFailed,
    /// `pause`.
    Pause,
    /// `unpause`.
    Unpause,
    /// `stop`.
    Stop,
    /// `kill`: a signal to the process.
    Kill,
    /// The process ended.
    Ended,
    /// The lock is free although the record says that a monitor lives.
    Lost,
    /// `exec`.
    Exec,
    /// `attach`.
    Attach,
    /// `rm`.
    Remove {
        /// `-f`.
        force: bool,
    },
    /// A removal could not be completed.
    RemoveFailed,
    /// A record cannot be read.
    Damaged,
}

/// One thing to do for a transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Write the new state.
    Record,
    /// Write the new state and sync it, where the container is durable.
    RecordDurably,
    /// Start a monitor.
    SpawnMonitor,
    /// Send the signal that was asked for.
    Signal,
    /// Send the stop signal and arm the timeout after which the container is killed.
    StopSignal,
    /// Kill every process of the container.
    KillAll,
    /// Freeze the control group.
    Freeze,
    /// Thaw the control group.
    Thaw,
    /// Tell attached clients and waiters.
    Announce,
    /// Take down control group, network and mounts.
    TearDown,
    /// Delete the container's directory and its name.
    Delete,
}

/// What to do, in order.
pub type Effects = &'static [Effect];

/// Why an event is not allowed now. [`Refused::sentence`] names the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refused {
    /// Needs a process, and there is none.
    #[error("the container is not running")]
    NotRunning,
    /// `start` of what runs.
    #[error("the container is already running")]
    AlreadyRunning,
    /// `start` while another start is under way.
    #[error("a start of the container is already in progress")]
    AlreadyStarting,
    /// `stop` of what does not run.
    #[error("the container is already stopped")]
    AlreadyStopped,
    /// `pause` of what is paused.
    #[error("the container is already paused")]
    AlreadyPaused,
    /// `unpause` of what is not paused.
    #[error("the container is not paused")]
    NotPaused,
    /// `start` of what is paused.
    #[error("cannot start a paused container: unpause it instead")]
    StartPaused,
    /// `exec` or `attach` on what is paused.
    #[error("the container is paused: unpause it first")]
    Paused,
    /// Not while a stop is under way.
    #[error("the container is being stopped")]
    BeingStopped,
    /// Not while a start is under way.
    #[error("the container is being started")]
    BeingStarted,
    /// `rm` without `-f` of what runs.
    #[error("cannot remove a running container: stop it or use -f")]
    RemoveRunning,
    /// `rm` without `-f` of what is paused.
    #[error("cannot remove a paused container: unpause and stop it or use -f")]
    RemovePaused,
    /// A removal is under way.
    #[error("removal of the container is already in progress")]
    RemovalInProgress,
    /// `start` of what is being removed or whose removal failed.
    #[error("the container is marked for removal and cannot be started")]
    MarkedForRemoval,
    /// The event cannot come from this state: two writers, or a bug.
    #[error("the container's state changed meanwhile: try again")]
    Unexpected,
}

impl Refused {
    /// The sentence with the container's name, in docker's words where scripts match them.
    #[must_use]
    pub fn sentence(self, name: &str) -> String {
        match self {
            Self::NotRunning => format!("container {name} is not running"),
            Self::AlreadyRunning => format!("container {name} is already running"),
            Self::AlreadyStarting => format!("a start of container {name} is already in progress"),
            Self::AlreadyStopped => format!("container {name} is already stopped"),
            Self::AlreadyPaused => format!("container {name} is already paused"),
            Self::NotPaused => format!("container {name} is not paused"),
            Self::StartPaused => format!("cannot start the paused container {name}: unpause it instead"),
            Self::Paused => format!("container {name} is paused: unpause it first"),
            Self::BeingStopped => format!("container {name} is being stopped"),
            Self::BeingStarted => format!("container {name} is being started"),
            Self::RemoveRunning => format!("cannot remove a running container {name}: stop it or use -f"),
            Self::RemovePaused => format!("cannot remove a paused container {name}: unpause and stop it or use -f"),
            Self::RemovalInProgress => format!("removal of container {name} is already in progress"),
            Self::MarkedForRemoval => format!("container {name} is marked for removal and cannot be started"),
            Self::Unexpected => format!("the state of container {name} changed meanwhile: try again"),
        }
    }
}

/// The transition of `event` from `state`.
///
/// # Errors
/// [`Refused`] when the event is not allowed; the state is then unchanged.
pub fn step(state: State, event: &Event) -> Result<(State, Effects), Refused> {
    match state {
        State::Created | State::Exited => at_rest(state, event),
        State::Starting => starting(event),
        State::Running => running(event),
        State::Paused => paused(event),
        State::Stopping => stopping(event),
        State::Removing => removing(event),
        State::Dead => dead(event),
    }
}

const END: Effects = &[Effect::KillAll, Effect::TearDown, Effect::RecordDurably, Effect::Announce];
const DELETE: Effects = &[Effect::Record, Effect::TearDown, Effect::Delete];
const KILL_AND_DELETE: Effects = &[Effect::Record, Effect::KillAll, Effect::TearDown, Effect::Delete];
const DAMAGED: Result<(State, Effects), Refused> = Ok((State::Dead, &[]));

fn at_rest(state: State, event: &Event) -> Result<(State, Effects), Refused> {
    match event {
        Event::Start => Ok((State::Starting, &[Effect::Record, Effect::SpawnMonitor])),
        Event::Stop => Err(Refused::AlreadyStopped),
        Event::Pause | Event::Kill | Event::Exec | Event::Attach => Err(Refused::NotRunning),
        Event::Unpause => Err(Refused::NotPaused),
        Event::Remove { .. } => Ok((State::Removing, DELETE)),
        Event::Damaged => DAMAGED,
        // Nothing lives, so nothing can be lost: reconciling twice is not an error.
        Event::Lost => Ok((state, &[])),
        Event::Started | Event::StartFailed | Event::Ended | Event::RemoveFailed => Err(Refused::Unexpected),
    }
}

fn starting(event: &Event) -> Result<(State, Effects), Refused> {
    match event {
        Event::Start => Err(Refused::AlreadyStarting),
        Event::Started => Ok((State::Running, &[Effect::Record, Effect::Announce])),
        Event::StartFailed | Event::Lost | Event::Ended => Ok((State::Exited, END)),
        // A stop of a start that is under way ends it: there is no process to be gentle with.
        Event::Stop | Event::Kill => Ok((State::Stopping, &[Effect::KillAll])),
        Event::Pause | Event::Exec => Err(Refused::BeingStarted),
        Event::Unpause => Err(Refused::NotPaused),
        Event::Attach => Ok((State::Starting, &[])),
        Event::Remove { force: true } => Ok((State::Removing, KILL_AND_DELETE)),
        Event::Remove { force: false } => Err(Refused::RemoveRunning),
        Event::Damaged => DAMAGED,
        Event::RemoveFailed => Err(Refused::Unexpected),
    }
}

fn running(event: &Event) -> Result<(State, Effects), Refused> {
    match event {
        Event::Start => Err(Refused::AlreadyRunning),
        Event::Pause => Ok((State::Paused, &[Effect::Freeze, Effect::Record])),
        Event::Unpause => Err(Refused::NotPaused),
        Event::Stop => Ok((State::Stopping, &[Effect::Record, Effect::StopSignal])),
        Event::Kill => Ok((State::Running, &[Effect::Signal])),
        Event::Exec | Event::Attach => Ok((State::Running, &[])),
        Event::Ended | Event::Lost => Ok((State::Exited, END)),
        Event::Remove { force: true } => Ok((State::Removing, KILL_AND_DELETE)),
        Event::Remove { force: false } => Err(Refused::RemoveRunning),
        Event::Damaged => DAMAGED,
        Event::Started | Event::StartFailed | Event::RemoveFailed => Err(Refused::Unexpected),
    }
}

fn paused(event: &Event) -> Result<(State, Effects), Refused> {
    match event {
        Event::Start => Err(Refused::StartPaused),
        Event::Pause => Err(Refused::AlreadyPaused),
        Event::Unpause => Ok((State::Running, &[Effect::Thaw, Effect::Record])),
        // Frozen processes take signals only when thawed; the signal is queued first so that nothing runs in between.
        Event::Stop => Ok((State::Stopping, &[Effect::Record, Effect::StopSignal, Effect::Thaw])),
        Event::Kill => Ok((State::Paused, &[Effect::Signal])),
        Event::Exec | Event::Attach => Err(Refused::Paused),
        Event::Ended | Event::Lost => Ok((State::Exited, END)),
        Event::Remove { force: true } => Ok((State::Removing, KILL_AND_DELETE)),
        Event::Remove { force: false } => Err(Refused::RemovePaused),
        Event::Damaged => DAMAGED,
        Event::Started | Event::StartFailed | Event::RemoveFailed => Err(Refused::Unexpected),
    }
}

fn stopping(event: &Event) -> Result<(State, Effects), Refused> {
    match event {
        Event::Start | Event::Pause | Event::Exec => Err(Refused::BeingStopped),
        Event::Unpause => Err(Refused::NotPaused),
        // A second stop may be more urgent than the first: its signal is sent and its timeout counts from now.
        Event::Stop => Ok((State::Stopping, &[Effect::StopSignal])),
        Event::Kill => Ok((State::Stopping, &[Effect::Signal])),
        Event::Attach => Ok((State::Stopping, &[])),
        Event::Ended | Event::Lost | Event::StartFailed => Ok((State::Exited, END)),
        Event::Remove { force: true } => Ok((State::Removing, KILL_AND_DELETE)),
        Event::Remove { force: false } => Err(Refused::RemoveRunning),
        Event::Damaged => DAMAGED,
        Event::Started | Event::RemoveFailed => Err(Refused::Unexpected),
    }
}

fn removing(event: &Event) -> Result<(State, Effects), Refused> {
    match event {
        Event::Start => Err(Refused::MarkedForRemoval),
        Event::Stop => Err(Refused::AlreadyStopped),
        Event::Pause | Event::Kill | Event::Exec | Event::Attach => Err(Refused::NotRunning),
        Event::Unpause => Err(Refused::NotPaused),
        Event::Remove { .. } => Err(Refused::RemovalInProgress),
        // The remover died: what it left is removed by the next `rm`.
        Event::RemoveFailed | Event::Lost => Ok((State::Dead, &[Effect::Record])),
        Event::Ended => Ok((State::Removing, &[])),
        Event::Damaged => DAMAGED,
        Event::Started | Event::StartFailed => Err(Refused::Unexpected),
    }
}

fn dead(event: &Event) -> Result<(State, Effects), Refused> {
    match event {
        Event::Start => Err(Refused::MarkedForRemoval),
        Event::Stop => Err(Refused::AlreadyStopped),
        Event::Pause | Event::Kill | Event::Exec | Event::Attach => Err(Refused::NotRunning),
        Event::Unpause => Err(Refused::NotPaused),
        // Nothing is known about a dead container, so its processes are killed whatever the flag says.
        Event::Remove { .. } => Ok((State::Removing, KILL_AND_DELETE)),
        Event::Damaged | Event::Lost => Ok((State::Dead, &[])),
        Event::Started | Event::StartFailed | Event::Ended | Event::RemoveFailed => Err(Refused::Unexpected),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STATES: [State; 8] = [
        State::Created,
        State::Starting,
        State::Running,
        State::Paused,
        State::Stopping,
        State::Exited,
        State::Removing,
        State::Dead,
    ];

    const EVENTS: [Event; 15] = [
        Event::Start,
        Event::Started,
        Event::StartFailed,
        Event::Pause,
        Event::Unpause,
        Event::Stop,
        Event::Kill,
        Event::Ended,
        Event::Lost,
        Event::Exec,
        Event::Attach,
        Event::Remove { force: false },
        Event::Remove { force: true },
        Event::RemoveFailed,
        Event::Damaged,
    ];

    fn lives(state: State) -> bool {
        matches!(state, State::Starting | State::Running | State::Paused | State::Stopping)
    }

    proptest! {
        #[test]
        fn a_state_with_processes_is_left_only_by_killing_them(
            events in proptest::collection::vec(proptest::sample::select(&EVENTS[..14]), 0..64),
        ) {
            let mut state = State::Created;
            for event in events {
                let Ok((next, effects)) = step(state, &event) else { continue };
                if lives(state) && !lives(next) {
                    prop_assert!(effects.contains(&Effect::KillAll), "{state:?} {event:?}");
                }
                if !lives(state) && lives(next) {
                    prop_assert_eq!(event, Event::Start);
                    prop_assert!(effects.contains(&Effect::SpawnMonitor));
                }
                if state != next && next == State::Exited {
                    let durable = effects.iter().position(|e| *e == Effect::RecordDurably);
                    let told = effects.iter().position(|e| *e == Effect::Announce);
                    prop_assert!(durable < told && durable.is_some(), "recorded before it is announced");
                }
                if state != next && next == State::Running && state == State::Paused {
                    prop_assert_eq!(effects[0], Effect::Thaw);
                }
                if matches!(state, State::Removing | State::Dead) {
                    prop_assert!(matches!(next, State::Removing | State::Dead), "a removal is never undone");
                }
                state = next;
            }
        }

        #[test]
        fn every_state_can_be_removed_by_force_and_reconciled(index in 0..8_usize) {
            let state = STATES[index];
            let (lost, _) = step(state, &Event::Lost).expect("reconciling is never refused");
            prop_assert!(!lives(lost));
            prop_assert_eq!(step(lost, &Event::Lost).map(|(state, _)| state), Ok(lost), "and is idempotent");
            let removed = step(state, &Event::Remove { force: true });
            if state == State::Removing {
                prop_assert_eq!(removed, Err(Refused::RemovalInProgress));
            } else {
                let (next, effects) = removed.expect("-f is never refused");
                prop_assert_eq!(next, State::Removing);
                prop_assert_eq!(effects.last(), Some(&Effect::Delete));
            }
        }
    }

    #[test]
    fn a_refusal_changes_nothing_and_names_the_container() {
        for state in STATES {
            for event in EVENTS {
                if let Err(refused) = step(state, &event) {
                    assert!(refused.sentence("web").contains("web"), "{refused:?}");
                    assert!(!refused.to_string().ends_with('.'));
                }
            }
        }
    }

    #[test]
    fn refusals_say_what_docker_says() {
        let refused = |state, event| step(state, &event).expect_err("refused").sentence("web");
        assert_eq!(refused(State::Exited, Event::Kill), "container web is not running");
        assert_eq!(refused(State::Running, Event::Start), "container web is already running");
        assert_eq!(
            refused(State::Running, Event::Remove { force: false }),
            "cannot remove a running container web: stop it or use -f"
        );
        assert_eq!(
            refused(State::Removing, Event::Remove { force: true }),
            "removal of container web is already in progress"
        );
    }

    #[test]
    fn a_paused_container_is_stopped_without_running_a_step_more() {
        let (next, effects) = step(State::Paused, &Event::Stop).expect("allowed");
        assert_eq!(next, State::Stopping);
        let signal = effects.iter().position(|e| *e == Effect::StopSignal);
        let thaw = effects.iter().position(|e| *e == Effect::Thaw);
        assert!(signal < thaw && signal.is_some());
    }
}
