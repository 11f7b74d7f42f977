//! What a front-end says: a container as the user described it, before image, host and defaults are consulted.
//!
//! Front-ends translate into these types and never into each other's. Nothing here is written to disk.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// A container as asked for by `create` and `run`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerSpec {
    /// `--name`; a name is made up when absent.
    pub name: Option<String>,
    /// What it runs from.
    pub source: Source,
    /// `--platform`.
    pub platform: Option<String>,
    /// `--pull`.
    pub pull: PullPolicy,
    /// Command and arguments; empty takes the image's.
    pub command: Vec<String>,
    /// `--entrypoint`; an empty string inside clears the image's.
    pub entrypoint: Option<Vec<String>>,
    /// `-e`, `--env-file`: `NAME=value`, already resolved against the caller's environment; `NAME` alone removes it.
    pub env: Vec<String>,
    /// `-w`.
    pub workdir: Option<String>,
    /// `-u`.
    pub user: Option<String>,
    /// `--group-add`.
    pub groups: Vec<String>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// `--annotation`.
    pub annotations: BTreeMap<String, String>,
    /// `--hostname`.
    pub hostname: Option<String>,
    /// `--domainname`.
    pub domainname: Option<String>,
    /// `--add-host`: name and address.
    pub extra_hosts: Vec<(String, String)>,
    /// `--dns`.
    pub dns: Vec<String>,
    /// `--dns-search`.
    pub dns_search: Vec<String>,
    /// `--dns-option`.
    pub dns_options: Vec<String>,
    /// `-t`.
    pub tty: bool,
    /// `-i`.
    pub open_stdin: bool,
    /// `--init`.
    pub init: bool,
    /// `--rm`.
    pub auto_remove: bool,
    /// `--read-only`.
    pub read_only: bool,
    /// `-v`, `--mount`, `--tmpfs`.
    pub mounts: Vec<MountSpec>,
    /// `--volumes-from`: `CONTAINER[:ro|rw]`.
    pub volumes_from: Vec<String>,
    /// `--volume-driver`.
    pub volume_driver: Option<String>,
    /// `--shm-size`, bytes.
    pub shm_size: Option<u64>,
    /// `--device`.
    pub devices: Vec<DeviceSpec>,
    /// `--device-cgroup-rule`.
    pub device_rules: Vec<String>,
    /// Limits.
    pub resources: Resources,
    /// `--ulimit`: name without `RLIMIT_`, soft, hard (−1 is unlimited).
    pub ulimits: Vec<(String, i64, i64)>,
    /// `--sysctl`.
    pub sysctls: BTreeMap<String, String>,
    /// `--cap-add`.
    pub cap_add: Vec<String>,
    /// `--cap-drop`.
    pub cap_drop: Vec<String>,
    /// `--security-opt`, as written; `seccomp=` already carries the profile's text instead of its path.
    pub security_opts: Vec<String>,
    /// `--privileged`.
    pub privileged: bool,
    /// `--userns`.
    pub userns: UsernsMode,
    /// `--network`.
    pub network: NetworkMode,
    /// `--pid`.
    pub pid: NamespaceMode,
    /// `--ipc`.
    pub ipc: NamespaceMode,
    /// `--uts`.
    pub uts: NamespaceMode,
    /// `--cgroupns`.
    pub cgroupns: NamespaceMode,
    /// `--cgroup-parent`.
    pub cgroup_parent: Option<String>,
    /// `--stop-signal`: name or number.
    pub stop_signal: Option<String>,
    /// `--stop-timeout`, seconds; −1 waits for ever.
    pub stop_timeout: Option<i64>,
    /// `--oom-score-adj`.
    pub oom_score_adj: Option<i32>,
    /// `--log-driver`: `json-file` (default) or `none`.
    pub log_driver: Option<String>,
    /// `--log-opt`.
    pub log_opts: BTreeMap<String, String>,
}

/// What a container runs from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// An image's name or id.
    Image(String),
    /// A directory of the host (`--rootfs`).
    Rootfs(PathBuf),
}

impl Default for Source {
    fn default() -> Self {
        Self::Image(String::new())
    }
}

/// `--pull`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// When the image is not here.
    #[default]
    Missing,
    /// Every time.
    Always,
    /// Not at all.
    Never,
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountSpec {
    /// A host path.
    Bind {
        /// Absolute host path.
        source: PathBuf,
        /// Absolute path inside.
        target: PathBuf,
        /// `ro`.
        read_only: bool,
        /// `private`, `rprivate`, `slave`, …; empty is `rprivate`.
        propagation: String,
        /// Whether a missing source is made as a directory (`-v` does, `--mount` refuses).
        create_source: bool,
        /// Whether mounts below the source come along.
        recursive: bool,
    },
    /// A memory file system.
    Tmpfs {
        /// Absolute path inside.
        target: PathBuf,
        /// Mount options as written, comma-separated.
        options: String,
    },
    /// A volume.
    Volume(VolumeMount),
}

/// A volume and where it is mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeMount {
    /// Its name; empty makes one for this container alone.
    pub name: String,
    /// Absolute path inside.
    pub target: PathBuf,
    /// `ro`.
    pub read_only: bool,
    /// `nocopy`: an empty volume does not get the image's content.
    pub no_copy: bool,
    /// Only this path inside the volume; empty is all of it.
    pub subpath: String,
    /// Driver: empty or `local`.
    pub driver: String,
    /// Labels, for a volume that is made now.
    pub labels: BTreeMap<String, String>,
    /// Driver options, for a volume that is made now.
    pub options: BTreeMap<String, String>,
    /// Who asked for it.
    pub origin: VolumeOrigin,
    /// Options of `-v` as written.
    pub mode: String,
    /// Where its content is: filled in by the engine.
    pub source: PathBuf,
    /// Whether it was made without being named: filled in by the engine.
    pub anonymous: bool,
}

/// Who asked for a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VolumeOrigin {
    /// `-v`.
    #[default]
    Flag,
    /// `--mount`.
    Mount,
    /// `VOLUME` of the image.
    Image,
    /// `--volumes-from`.
    Other,
}

/// One device of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSpec {
    /// Host path.
    pub source: PathBuf,
    /// Path inside.
    pub target: PathBuf,
    /// Of `r`, `w`, `m`.
    pub access: String,
}

/// Limits. Absent is unlimited unless a default is named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// `-m`, bytes.
    pub memory: Option<i64>,
    /// `--memory-reservation`, bytes.
    pub memory_reservation: Option<i64>,
    /// `--memory-swap`, bytes of memory and swap together; −1 is unlimited.
    pub memory_swap: Option<i64>,
    /// `--memory-swappiness`, 0 to 100.
    pub memory_swappiness: Option<u64>,
    /// `--oom-kill-disable`.
    pub oom_kill_disable: bool,
    /// `--cpus`, in billionths of a CPU.
    pub nano_cpus: Option<i64>,
    /// `--cpu-shares`.
    pub cpu_shares: Option<u64>,
    /// `--cpu-period`, microseconds.
    pub cpu_period: Option<u64>,
    /// `--cpu-quota`, microseconds.
    pub cpu_quota: Option<i64>,
    /// `--cpuset-cpus`.
    pub cpuset_cpus: Option<String>,
    /// `--cpuset-mems`.
    pub cpuset_mems: Option<String>,
    /// `--pids-limit`; 0 or −1 is unlimited, absent is 2048.
    pub pids_limit: Option<i64>,
    /// `--blkio-weight`, 10 to 1000.
    pub blkio_weight: Option<u16>,
    /// `--blkio-weight-device`: device path and weight.
    pub blkio_weight_devices: Vec<(PathBuf, u16)>,
    /// `--device-read-bps`: device path and bytes per second.
    pub device_read_bps: Vec<(PathBuf, u64)>,
    /// `--device-write-bps`.
    pub device_write_bps: Vec<(PathBuf, u64)>,
    /// `--device-read-iops`: operations per second.
    pub device_read_iops: Vec<(PathBuf, u64)>,
    /// `--device-write-iops`.
    pub device_write_iops: Vec<(PathBuf, u64)>,
}

/// `--userns`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UsernsMode {
    /// Private where possible, the host's with a visible reason otherwise.
    #[default]
    Auto,
    /// Private or refused (`--userns=private`).
    Require,
    /// The host's.
    Host,
}

/// `--network`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NetworkMode {
    /// The default network.
    #[default]
    Default,
    /// Loopback only.
    None,
    /// The host's.
    Host,
    /// Another name, refused until networks exist.
    Named(String),
}

/// `--pid`, `--ipc`, `--uts`, `--cgroupns`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NamespaceMode {
    /// An own namespace.
    #[default]
    Private,
    /// The host's.
    Host,
    /// That of another container, by name or id.
    Container(String),
}

/// A process asked for by `exec`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecSpec {
    /// Command and arguments.
    pub command: Vec<String>,
    /// `-e`.
    pub env: Vec<String>,
    /// `-w`.
    pub workdir: Option<String>,
    /// `-u`.
    pub user: Option<String>,
    /// `-t`.
    pub tty: bool,
    /// `-i`.
    pub open_stdin: bool,
    /// `-d`.
    pub detach: bool,
    /// `--privileged`.
    pub privileged: bool,
    /// Size of the terminal: rows, columns.
    pub terminal_size: Option<(u16, u16)>,
}
