//! What can go wrong with a control group, told apart by what the caller can do about it.

use std::fmt;
use std::time::Duration;

/// A resource setting: its name in `linux.resources` and the command-line flag that usually asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Field below `linux.resources`, as in `memory.limit`.
    pub field: &'static str,
    /// The flag, as in `--memory`; empty when none exists.
    pub flag: &'static str,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.flag.is_empty() { f.write_str(self.field) } else { write!(f, "{} ({})", self.flag, self.field) }
    }
}

/// A failed operation on a control group.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed for a reason not told apart below.
    #[error(transparent)]
    Sys(#[from] sys::Error),
    /// The host has no control group hierarchy mounted.
    #[error("no control group hierarchy is mounted at /sys/fs/cgroup")]
    NotMounted,
    /// The path cannot name a container's group.
    #[error("control group path {path:?}: {reason}")]
    InvalidPath {
        /// The path as given.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No hierarchy has a group at this path.
    #[error("there is no control group {path}")]
    NotFound {
        /// The group's path.
        path: String,
    },
    /// A group to be created exists and holds processes.
    #[error("control group {group} exists and holds processes")]
    InUse {
        /// The group's directory.
        group: String,
    },
    /// A group to be created exists and is frozen: a process entering it would never run.
    #[error("control group {group} exists and is frozen")]
    Frozen {
        /// The group's directory.
        group: String,
    },
    /// A limit needs a controller that this host does not offer.
    #[error("{setting} needs the cgroup controller {controller}, which is not available on this host")]
    NoController {
        /// The controller.
        controller: String,
        /// The setting that needs it.
        setting: Setting,
    },
    /// The host's control groups cannot do what the setting asks for.
    #[error("{setting} is not supported here: {reason}")]
    Unsupported {
        /// The setting.
        setting: Setting,
        /// Why not.
        reason: String,
    },
    /// The value of a setting is not acceptable.
    #[error("{setting}: {value} is not accepted: {reason}")]
    Invalid {
        /// The setting.
        setting: Setting,
        /// The value.
        value: String,
        /// Why not.
        reason: String,
    },
    /// A memory limit is lower than what the group uses and cannot give back.
    #[error("{setting}: {limit} is below what the container uses now ({usage} bytes)")]
    BelowUsage {
        /// The setting.
        setting: Setting,
        /// The limit asked for.
        limit: String,
        /// Bytes in use.
        usage: u64,
    },
    /// A control file holds something unexpected.
    #[error("{file} holds {text:?}")]
    Malformed {
        /// The file.
        file: String,
        /// The beginning of what it holds.
        text: String,
    },
    /// The group did not reach a state in time.
    #[error("control group {group} was not {state} after {waited:?}")]
    TimedOut {
        /// The group's path.
        group: String,
        /// `frozen`, `thawed` or `empty`.
        state: &'static str,
        /// How long was waited.
        waited: Duration,
    },
    /// Some directories of a group could not be removed.
    #[error("control group {group} was not removed completely: {}", list(.failures))]
    NotRemoved {
        /// The group's path.
        group: String,
        /// One failure per directory.
        failures: Vec<sys::Error>,
    },
}

fn list(failures: &[sys::Error]) -> String {
    failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// The result of an operation on a control group.
pub type Result<T, E = Error> = std::result::Result<T, E>;
