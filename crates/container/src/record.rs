//! A container's records on disk, each with its version: `config` (immutable), `status` (one writer, replaced by rename).

use std::path::PathBuf;
use std::sync::LazyLock;

use oci::runtime::Spec;
use serde::{Deserialize, Serialize};

use crate::{ContainerId, ContainerName};

/// The version written into both records.
pub const VERSION: u32 = 1;

/// `config`: what was meant at create; never changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// [`VERSION`].
    pub version: u32,
    /// The container.
    pub id: ContainerId,
    /// Its name at create.
    pub name: ContainerName,
    /// RFC 3339, UTC, nanoseconds.
    pub created: String,
    /// The image it was made from; `None` with `--rootfs`.
    pub image: Option<ImageRef>,
    /// The host directory used as root file system (`--rootfs`).
    pub rootfs_dir: Option<PathBuf>,
    /// The resolved configuration; id mappings are added at start.
    pub spec: Spec,
    /// `USER[:GROUP]` to look up inside.
    pub user: String,
    /// Additional groups to look up inside.
    pub groups: Vec<String>,
    /// `-t`.
    pub tty: bool,
    /// `-i`.
    pub open_stdin: bool,
    /// `--init`.
    pub init: bool,
    /// `--rm`.
    pub auto_remove: bool,
    /// Whether the container gets its own user namespace, and if not, why.
    pub userns: UsernsPosture,
    /// Signal of `stop`, as a number.
    pub stop_signal: i32,
    /// Seconds `stop` waits.
    pub stop_timeout: i64,
    /// Log rotation: bytes per file, number of files; `None` keeps no log.
    pub log: Option<(u64, u32)>,
    /// Labels.
    pub labels: std::collections::BTreeMap<String, String>,
    /// What was said, for `inspect`: the engine's own record.
    pub said: serde_json::Value,
}

/// The image of a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageRef {
    /// As the user wrote it.
    pub said: String,
    /// The image's id: digest of what the tag named.
    pub id: oci::Digest,
    /// Chain ids of its layers, bottom first.
    pub chain: Vec<oci::Digest>,
}

/// The user namespace in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UsernsPosture {
    /// An own one with its own range of host ids.
    Private,
    /// The host's, with the reason to show.
    Host {
        /// A sentence for the user.
        reason: String,
    },
}

/// `status`: what is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`VERSION`].
    pub version: u32,
    /// The state.
    pub state: State,
    /// The boot this was written in (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// Host pid of the container's process 1; 0 when none.
    pub pid: u32,
    /// Its start time in clock ticks since boot (`/proc/PID/stat`, field 22), against reuse of the pid.
    pub pid_start: u64,
    /// Host pid of the monitor; 0 when none.
    pub monitor: u32,
    /// First host id of the user namespace's range; `None` in the host's.
    pub host_ids: Option<u32>,
    /// RFC 3339; empty before the first start.
    pub started: String,
    /// RFC 3339; empty before the first exit.
    pub finished: String,
    /// Exit code: the process's own, 128 + signal, 125–127 when it did not start, 255 when unknown.
    pub exit_code: i32,
    /// Whether the memory limit killed a process of the container.
    pub oom_killed: bool,
    /// Why it did not start.
    pub error: String,
}

/// A container's state. The lifecycle module draws the transitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Made, never started.
    Created,
    /// A start is under way; whoever does it holds the lock.
    Starting,
    /// The monitor holds the lock.
    Running,
    /// Running, frozen.
    Paused,
    /// A stop is under way.
    Stopping,
    /// The process ended.
    Exited,
    /// A removal is under way.
    Removing,
    /// A record is damaged or a removal failed.
    Dead,
}

impl Status {
    /// A status of this boot in `state`, with nothing else known.
    #[must_use]
    pub fn new(state: State) -> Self {
        Self {
            version: VERSION,
            state,
            boot_id: BOOT_ID.clone(),
            pid: 0,
            pid_start: 0,
            monitor: 0,
            host_ids: None,
            started: String::new(),
            finished: String::new(),
            exit_code: 0,
            oom_killed: false,
            error: String::new(),
        }
    }

    /// Whether it was written since the machine was last started.
    #[must_use]
    pub fn is_of_this_boot(&self) -> bool {
        self.boot_id == *BOOT_ID
    }
}

/// This boot's id (`/proc/sys/kernel/random/boot_id`), read once; empty when `/proc` does not tell.
static BOOT_ID: LazyLock<String> = LazyLock::new(|| {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
});

/// The time now, as records write it: RFC 3339, UTC, up to nanoseconds.
#[must_use]
pub fn now() -> String {
    jiff::Timestamp::now().to_string()
}

/// When process `pid` started, in clock ticks since boot (`/proc/PID/stat`, field 22); `None` when it is gone.
#[must_use]
pub fn process_start(pid: u32) -> Option<u64> {
    start_in(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Field 22 of a `/proc/PID/stat`.
pub(crate) fn start_in(stat: &str) -> Option<u64> {
    // The command name, field 2, may hold spaces and parentheses; the last `)` ends it.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}
