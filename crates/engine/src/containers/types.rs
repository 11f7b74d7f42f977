//! What the verbs on containers take and give.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use container::protocol::Stream;
use container::record::{ImageRef, State, UsernsPosture};
use container::{ContainerId, ContainerName};
use oci::Digest;
use oci::runtime::Spec;
use serde::{Deserialize, Serialize};

/// A container that was just made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedContainer {
    /// Its id.
    pub id: ContainerId,
    /// Its name, given or made up.
    pub name: ContainerName,
    /// Sentences the user should see.
    pub warnings: Vec<String>,
}

/// How to start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StartOptions {
    /// Size of the terminal: rows, columns.
    pub terminal_size: Option<(u16, u16)>,
    /// Whether the caller stays and calls [`reap`](crate::Engine::reap) after the exit.
    pub reap_here: bool,
}

/// How to remove.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemoveOptions {
    /// Kill it when it runs.
    pub force: bool,
    /// Remove its anonymous volumes with it.
    pub volumes: bool,
}

/// Which containers to list. Values of one key are alternatives; keys (and labels) must all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerFilter {
    /// Whether stopped ones are listed too. A filter on state or exit code implies it.
    pub all: bool,
    /// Parts of names.
    pub name: Vec<String>,
    /// Prefixes of ids.
    pub id: Vec<String>,
    /// `KEY` or `KEY=VALUE`.
    pub label: Vec<String>,
    /// States in docker's words: `created`, `running`, `paused`, `exited`, `removing`, `dead`.
    pub status: Vec<String>,
    /// Image name or id.
    pub ancestor: Vec<String>,
    /// Exit codes.
    pub exited: Vec<i32>,
    /// Only those made before this container.
    pub before: Option<String>,
    /// Only those made after this container.
    pub since: Option<String>,
    /// Names of volumes, or places inside where something is mounted.
    pub volume: Vec<String>,
    /// Whether sizes are measured.
    pub size: bool,
}

/// Disk space of a container, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SizeInfo {
    /// The writable layer.
    pub writable: u64,
    /// The writable layer and the image together.
    pub total: u64,
}

/// One line of `ps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerSummary {
    /// Id.
    pub id: ContainerId,
    /// Name.
    pub name: String,
    /// Image as the user wrote it, or the directory given with `--rootfs`.
    pub image: String,
    /// Image id.
    pub image_id: Option<Digest>,
    /// Command and arguments.
    pub command: Vec<String>,
    /// RFC 3339.
    pub created: String,
    /// State as it is now.
    pub state: State,
    /// RFC 3339; empty before the first start.
    pub started: String,
    /// RFC 3339; empty before the first exit.
    pub finished: String,
    /// Code of the last exit.
    pub exit_code: i32,
    /// Host pid of process 1; 0 when none.
    pub pid: u32,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Network's name.
    pub network: String,
    /// Sources of bind mounts, names of volumes.
    pub mounts: Vec<String>,
    /// Places inside where something of the user's is mounted.
    pub mount_points: Vec<String>,
    /// Names of volumes.
    pub volumes: Vec<String>,
    /// Sizes, when asked for.
    pub size: Option<SizeInfo>,
    /// Why its records cannot be read; the other fields are then guesses.
    pub damaged: Option<String>,
}

/// Everything about one container.
#[derive(Clone, Debug)]
pub struct ContainerDetails {
    /// Id.
    pub id: ContainerId,
    /// Name.
    pub name: String,
    /// RFC 3339.
    pub created: String,
    /// Image.
    pub image: Option<ImageRef>,
    /// Directory given with `--rootfs`.
    pub rootfs_dir: Option<PathBuf>,
    /// State as it is now.
    pub state: State,
    /// Host pid of process 1; 0 when none.
    pub pid: u32,
    /// Host pid of the monitor; 0 when none.
    pub monitor_pid: u32,
    /// RFC 3339; empty before the first start.
    pub started: String,
    /// RFC 3339; empty before the first exit.
    pub finished: String,
    /// Code of the last exit.
    pub exit_code: i32,
    /// Whether the memory limit killed a process of it.
    pub oom_killed: bool,
    /// Why it did not start.
    pub error: String,
    /// The resolved configuration.
    pub spec: Spec,
    /// `USER[:GROUP]` as resolved from flags and image.
    pub user: String,
    /// Additional groups.
    pub groups: Vec<String>,
    /// `-t`.
    pub tty: bool,
    /// `-i`.
    pub open_stdin: bool,
    /// `--init`.
    pub init: bool,
    /// `--rm`.
    pub auto_remove: bool,
    /// Number of the stop signal.
    pub stop_signal: i32,
    /// Seconds; −1 waits for ever.
    pub stop_timeout: i64,
    /// Bytes per log file and number of files; `None` keeps no log.
    pub log: Option<(u64, u32)>,
    /// Path of the log; empty when none is kept.
    pub log_path: PathBuf,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// What the user said.
    pub said: Said,
    /// The isolation in force.
    pub posture: Posture,
    /// Directory of the container's records.
    pub dir: PathBuf,
    /// Directory of the writable layer; `None` with `--rootfs`.
    pub upper: Option<PathBuf>,
    /// Layer directories, topmost first.
    pub layers: Vec<PathBuf>,
    /// Sizes, measured only by `inspect --size`.
    pub size: Option<SizeInfo>,
}

/// The isolation in force, for audits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posture {
    /// Own user namespace, or the host's and why.
    pub userns: UsernsPosture,
    /// First host id and length of the range while it runs in an own user namespace.
    pub host_ids: Option<(u32, u32)>,
    /// Namespaces of its own, in the specification's words.
    pub namespaces: Vec<String>,
    /// Namespaces shared with the host.
    pub shared_namespaces: Vec<String>,
    /// Capabilities of the bounding set.
    pub capabilities: Vec<String>,
    /// `default`, `custom` or `unconfined`.
    pub seccomp: String,
    /// Whether `no_new_privs` is set.
    pub no_new_privileges: bool,
    /// AppArmor profile; empty when none.
    pub apparmor: String,
    /// Whether the root file system is read-only.
    pub read_only_rootfs: bool,
    /// Hidden paths.
    pub masked_paths: Vec<String>,
    /// Read-only paths.
    pub readonly_paths: Vec<String>,
    /// Bytes of memory; `None` is unlimited.
    pub memory: Option<i64>,
    /// Billionths of a CPU; `None` is unlimited.
    pub nano_cpus: Option<i64>,
    /// Tasks; `None` is unlimited.
    pub pids: Option<i64>,
    /// `--privileged`.
    pub privileged: bool,
}

/// A repair made by [`reconcile`](crate::Engine::reconcile).
#[derive(Debug)]
pub enum Repair {
    /// The monitor had died; the exit code is unknown and recorded as 255.
    MonitorDied(ContainerId),
    /// What an exited container held was released.
    Released(ContainerId),
    /// A container with `--rm`, or a half-removed one, was removed.
    Removed(ContainerId),
    /// A half-made container or layer was thrown away.
    Discarded(String),
    /// The runtime directory of an earlier boot was swept.
    NewBoot,
    /// A repair failed; the next call tries again.
    Failed(crate::Error),
}

/// Which lines of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Goes on until the container stops.
    pub follow: bool,
    /// Only the last so many lines.
    pub tail: Option<u64>,
    /// Only lines from this moment on.
    pub since: Option<jiff::Timestamp>,
    /// Only lines before this moment.
    pub until: Option<jiff::Timestamp>,
}

/// One piece of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// RFC 3339 with nanoseconds, as recorded.
    pub time: String,
    /// Where it was written.
    pub stream: Stream,
    /// The text, its line feed included when it had one.
    pub line: Vec<u8>,
}

/// A process started by `exec`. Dropping it lets the process run.
#[derive(Debug)]
pub struct ExecSession {
    /// Host pid.
    pub pid: u32,
    /// Readable when the process ended.
    pub pidfd: OwnedFd,
    /// The writing end of its standard input.
    pub stdin: Option<OwnedFd>,
    /// The reading end of its standard output.
    pub stdout: Option<OwnedFd>,
    /// The reading end of its standard error.
    pub stderr: Option<OwnedFd>,
    /// Master of its terminal.
    pub terminal: Option<OwnedFd>,
}

/// What the user said when the container was made, as `inspect` shows it: the engine's part of the `config` record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Said {
    /// Version of this record: 1.
    pub version: u32,
    /// Effective entrypoint.
    pub entrypoint: Vec<String>,
    /// Effective command.
    pub cmd: Vec<String>,
    /// Effective environment, without what is only added at start.
    pub env: Vec<String>,
    /// `--platform`.
    pub platform: Option<String>,
    /// `--domainname`.
    pub domainname: String,
    /// Mounts beyond the defaults.
    pub mounts: Vec<SaidMount>,
    /// `--volumes-from`.
    pub volumes_from: Vec<String>,
    /// `--volume-driver`.
    pub volume_driver: String,
    /// Directories the image declares as volumes.
    pub image_volumes: Vec<String>,
    /// Ports the image declares.
    pub exposed_ports: Vec<String>,
    /// `--network`: `none`, `host` or `default`.
    pub network: String,
    /// `--pid`: empty, `host` or `container:ID`.
    pub pid: String,
    /// `--ipc`: `private`, `host` or `container:ID`.
    pub ipc: String,
    /// `--uts`: empty or `host`.
    pub uts: String,
    /// `--userns`: empty, `private` or `host`.
    pub userns: String,
    /// `--cgroupns`: `private` or `host`.
    pub cgroupns: String,
    /// `--cgroup-parent`.
    pub cgroup_parent: String,
    /// `--privileged`.
    pub privileged: bool,
    /// `--read-only`.
    pub read_only: bool,
    /// `--cap-add`.
    pub cap_add: Vec<String>,
    /// `--cap-drop`.
    pub cap_drop: Vec<String>,
    /// `--security-opt`.
    pub security_opts: Vec<String>,
    /// `--device`: host path, path inside, access.
    pub devices: Vec<(String, String, String)>,
    /// `--device-cgroup-rule`.
    pub device_rules: Vec<String>,
    /// `--ulimit`: name, soft, hard.
    pub ulimits: Vec<(String, i64, i64)>,
    /// `--sysctl`.
    pub sysctls: BTreeMap<String, String>,
    /// `--add-host`.
    pub extra_hosts: Vec<(String, String)>,
    /// `--dns`.
    pub dns: Vec<String>,
    /// `--dns-search`.
    pub dns_search: Vec<String>,
    /// `--dns-option`.
    pub dns_options: Vec<String>,
    /// `--group-add`.
    pub group_add: Vec<String>,
    /// `--shm-size`, bytes.
    pub shm_size: u64,
    /// `--oom-score-adj`.
    pub oom_score_adj: i32,
    /// `--log-driver`.
    pub log_driver: String,
    /// `--log-opt`.
    pub log_opts: BTreeMap<String, String>,
    /// `-m`, bytes; 0 is unlimited.
    pub memory: i64,
    /// `--memory-reservation`, bytes.
    pub memory_reservation: i64,
    /// `--memory-swap`, bytes; −1 is unlimited.
    pub memory_swap: i64,
    /// `--memory-swappiness`.
    pub memory_swappiness: Option<u64>,
    /// `--oom-kill-disable`.
    pub oom_kill_disable: bool,
    /// `--cpus`, billionths.
    pub nano_cpus: i64,
    /// `--cpu-shares`.
    pub cpu_shares: u64,
    /// `--cpu-period`, microseconds.
    pub cpu_period: u64,
    /// `--cpu-quota`, microseconds.
    pub cpu_quota: i64,
    /// `--cpuset-cpus`.
    pub cpuset_cpus: String,
    /// `--cpuset-mems`.
    pub cpuset_mems: String,
    /// `--pids-limit`; `None` is the default.
    pub pids_limit: Option<i64>,
    /// `--blkio-weight`.
    pub blkio_weight: u16,
    /// `--blkio-weight-device`: path and weight.
    pub blkio_weight_devices: Vec<(String, u64)>,
    /// `--device-read-bps`: path and rate.
    pub device_read_bps: Vec<(String, u64)>,
    /// `--device-write-bps`.
    pub device_write_bps: Vec<(String, u64)>,
    /// `--device-read-iops`.
    pub device_read_iops: Vec<(String, u64)>,
    /// `--device-write-iops`.
    pub device_write_iops: Vec<(String, u64)>,
}

/// One mount the user asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SaidMount {
    /// `bind`, `tmpfs` or `volume`.
    pub kind: String,
    /// Host path; empty for `tmpfs`.
    pub source: String,
    /// Name of the volume.
    pub name: String,
    /// Whether the volume was made for this container without being named.
    pub anonymous: bool,
    /// Whether an empty volume is left empty.
    pub no_copy: bool,
    /// Path inside the volume that is mounted; empty is all of it.
    pub subpath: String,
    /// Who asked for the volume: empty for `-v`, or `mount`, `image`, `from`.
    pub origin: String,
    /// Options of the volume's `-v` as written.
    pub mode: String,
    /// Path inside.
    pub target: String,
    /// `ro`.
    pub read_only: bool,
    /// Propagation; empty is the default.
    pub propagation: String,
    /// Options of a `tmpfs`.
    pub options: String,
    /// Whether the volume has a device of its own, which is mounted while it is used.
    pub mounted: bool,
}
