//! The runtime specification's configuration (`config.json`, version 1.3), as read and as written.
//!
//! Fields keep the specification's names and meaning (`config.md`, `config-linux.md`). Unknown fields are ignored, as
//! the specification asks of a runtime ("Extensibility"); absent lists read as empty.

mod resources;
mod seccomp;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use resources::*;
pub use seccomp::*;

/// The version of the specification written into new configurations.
pub const VERSION: &str = "1.3.0";

macro_rules! record {
    ($(#[$meta:meta])* $name:ident { $($(#[$fmeta:meta])* $field:ident : $type:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        pub struct $name { $($(#[$fmeta])* pub $field: $type,)* }
    };
}

pub(crate) use record;

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

record! {
    /// The root object of `config.json`.
    Spec {
        /// `ociVersion`: the version of the specification the bundle complies with.
        oci_version: String,
        /// The container's root file system.
        #[serde(skip_serializing_if = "Option::is_none")]
        root: Option<Root>,
        /// Mounts beyond the root, in order.
        #[serde(skip_serializing_if = "is_default")]
        mounts: Vec<Mount>,
        /// The container process; absent in a bundle that is only created.
        #[serde(skip_serializing_if = "Option::is_none")]
        process: Option<Process>,
        /// Host name in the uts namespace.
        #[serde(skip_serializing_if = "is_default")]
        hostname: String,
        /// NIS domain name in the uts namespace.
        #[serde(skip_serializing_if = "is_default")]
        domainname: String,
        /// Life-cycle hooks.
        #[serde(skip_serializing_if = "Option::is_none")]
        hooks: Option<Hooks>,
        /// Arbitrary metadata.
        #[serde(skip_serializing_if = "is_default")]
        annotations: BTreeMap<String, String>,
        /// Linux-specific configuration.
        #[serde(skip_serializing_if = "Option::is_none")]
        linux: Option<Linux>,
    }
}

record! {
    /// `root`: where the root file system is.
    Root {
        /// Path of the root file system, relative to the bundle or absolute.
        path: PathBuf,
        /// Whether it is read-only inside the container.
        #[serde(skip_serializing_if = "is_default")]
        readonly: bool,
    }
}

record! {
    /// One entry of `mounts`.
    Mount {
        /// Where inside the container.
        destination: PathBuf,
        /// File system type, or `bind`.
        #[serde(rename = "type", skip_serializing_if = "is_default")]
        kind: String,
        /// Device, path or name.
        #[serde(skip_serializing_if = "Option::is_none")]
        source: Option<PathBuf>,
        /// Options as fstab writes them.
        #[serde(skip_serializing_if = "is_default")]
        options: Vec<String>,
        /// User id mappings of an idmapped mount.
        #[serde(skip_serializing_if = "is_default")]
        uid_mappings: Vec<IdMapping>,
        /// Group id mappings of an idmapped mount.
        #[serde(skip_serializing_if = "is_default")]
        gid_mappings: Vec<IdMapping>,
    }
}

record! {
    /// `process`: what runs.
    Process {
        /// Whether a terminal is attached.
        #[serde(skip_serializing_if = "is_default")]
        terminal: bool,
        /// Size of the terminal, in characters.
        #[serde(skip_serializing_if = "Option::is_none")]
        console_size: Option<ConsoleSize>,
        /// Ids the process runs with.
        user: User,
        /// The command and its arguments.
        args: Vec<String>,
        /// Environment, `NAME=value`.
        #[serde(skip_serializing_if = "is_default")]
        env: Vec<String>,
        /// Working directory, absolute.
        cwd: PathBuf,
        /// Capability sets; absent keeps none.
        #[serde(skip_serializing_if = "Option::is_none")]
        capabilities: Option<LinuxCapabilities>,
        /// Resource limits.
        #[serde(skip_serializing_if = "is_default")]
        rlimits: Vec<Rlimit>,
        /// Whether `no_new_privs` is set; absent and false are one case.
        #[serde(skip_serializing_if = "is_default")]
        no_new_privileges: bool,
        /// AppArmor profile.
        #[serde(skip_serializing_if = "is_default")]
        apparmor_profile: String,
        /// `oom_score_adj` of the process.
        #[serde(skip_serializing_if = "Option::is_none")]
        oom_score_adj: Option<i32>,
        /// SELinux label.
        #[serde(skip_serializing_if = "is_default")]
        selinux_label: String,
        /// Scheduling policy.
        #[serde(skip_serializing_if = "Option::is_none")]
        scheduler: Option<Scheduler>,
        /// I/O priority.
        #[serde(skip_serializing_if = "Option::is_none")]
        io_priority: Option<IoPriority>,
        /// CPU affinity of processes made by `exec` (1.2.1).
        #[serde(rename = "execCPUAffinity", skip_serializing_if = "Option::is_none")]
        exec_cpu_affinity: Option<CpuAffinity>,
    }
}

record! {
    /// Size of a terminal, in characters.
    ConsoleSize {
        /// Rows.
        height: u16,
        /// Columns.
        width: u16,
    }
}

record! {
    /// `process.user`.
    User {
        /// User id inside the container.
        uid: u32,
        /// Group id inside the container.
        gid: u32,
        /// File mode creation mask.
        #[serde(skip_serializing_if = "Option::is_none")]
        umask: Option<u32>,
        /// Supplementary groups; all others are dropped.
        #[serde(skip_serializing_if = "is_default")]
        additional_gids: Vec<u32>,
    }
}

record! {
    /// `process.capabilities`: names as in capabilities(7).
    LinuxCapabilities {
        /// Bounding set.
        #[serde(skip_serializing_if = "is_default")]
        bounding: Vec<String>,
        /// Effective set.
        #[serde(skip_serializing_if = "is_default")]
        effective: Vec<String>,
        /// Inheritable set.
        #[serde(skip_serializing_if = "is_default")]
        inheritable: Vec<String>,
        /// Permitted set.
        #[serde(skip_serializing_if = "is_default")]
        permitted: Vec<String>,
        /// Ambient set.
        #[serde(skip_serializing_if = "is_default")]
        ambient: Vec<String>,
    }
}

record! {
    /// One resource limit.
    Rlimit {
        /// `RLIMIT_NOFILE` and so on.
        #[serde(rename = "type")]
        kind: String,
        /// Soft limit.
        soft: u64,
        /// Hard limit.
        hard: u64,
    }
}

record! {
    /// `process.scheduler`: see sched_setattr(2).
    Scheduler {
        /// `SCHED_OTHER`, `SCHED_FIFO`, …
        policy: String,
        /// Nice value.
        #[serde(skip_serializing_if = "is_default")]
        nice: i32,
        /// Static priority.
        #[serde(skip_serializing_if = "is_default")]
        priority: i32,
        /// `SCHED_FLAG_…`.
        #[serde(skip_serializing_if = "is_default")]
        flags: Vec<String>,
        /// Deadline: run time in nanoseconds.
        #[serde(skip_serializing_if = "is_default")]
        runtime: u64,
        /// Deadline in nanoseconds.
        #[serde(skip_serializing_if = "is_default")]
        deadline: u64,
        /// Deadline: period in nanoseconds.
        #[serde(skip_serializing_if = "is_default")]
        period: u64,
    }
}

record! {
    /// `process.ioPriority`: see ioprio_set(2).
    IoPriority {
        /// `IOPRIO_CLASS_RT`, `IOPRIO_CLASS_BE` or `IOPRIO_CLASS_IDLE`.
        class: String,
        /// 0 (highest) to 7.
        priority: i32,
    }
}

record! {
    /// `process.execCPUAffinity`: CPU lists.
    CpuAffinity {
        /// Before the process joins the control group.
        #[serde(skip_serializing_if = "is_default")]
        initial: String,
        /// After it joined.
        #[serde(rename = "final", skip_serializing_if = "is_default")]
        last: String,
    }
}

record! {
    /// Life-cycle hooks, run in order.
    Hooks {
        /// Deprecated; before createRuntime.
        #[serde(skip_serializing_if = "is_default")]
        prestart: Vec<Hook>,
        /// In the runtime's namespaces, after the container's were made.
        #[serde(skip_serializing_if = "is_default")]
        create_runtime: Vec<Hook>,
        /// In the container's namespaces, before pivot_root.
        #[serde(skip_serializing_if = "is_default")]
        create_container: Vec<Hook>,
        /// In the container, before the process runs.
        #[serde(skip_serializing_if = "is_default")]
        start_container: Vec<Hook>,
        /// In the runtime's namespaces, after the process started.
        #[serde(skip_serializing_if = "is_default")]
        poststart: Vec<Hook>,
        /// In the runtime's namespaces, after the container was deleted.
        #[serde(skip_serializing_if = "is_default")]
        poststop: Vec<Hook>,
    }
}

record! {
    /// One hook.
    Hook {
        /// Absolute path.
        path: PathBuf,
        /// `argv`, the zeroth included.
        #[serde(skip_serializing_if = "is_default")]
        args: Vec<String>,
        /// Environment.
        #[serde(skip_serializing_if = "is_default")]
        env: Vec<String>,
        /// Seconds until it is given up.
        #[serde(skip_serializing_if = "Option::is_none")]
        timeout: Option<i64>,
    }
}

record! {
    /// `linux`.
    Linux {
        /// User id mappings of the user namespace.
        #[serde(skip_serializing_if = "is_default")]
        uid_mappings: Vec<IdMapping>,
        /// Group id mappings of the user namespace.
        #[serde(skip_serializing_if = "is_default")]
        gid_mappings: Vec<IdMapping>,
        /// Kernel parameters set in the container's namespaces.
        #[serde(skip_serializing_if = "is_default")]
        sysctl: BTreeMap<String, String>,
        /// Control group limits.
        #[serde(skip_serializing_if = "Option::is_none")]
        resources: Option<LinuxResources>,
        /// Path of the control group below the hierarchy's root, or the systemd driver's `slice:prefix:name`.
        #[serde(skip_serializing_if = "is_default")]
        cgroups_path: String,
        /// Namespaces made or joined.
        #[serde(skip_serializing_if = "is_default")]
        namespaces: Vec<LinuxNamespace>,
        /// Network devices moved into the container (1.3), by host name.
        #[serde(skip_serializing_if = "is_default")]
        net_devices: BTreeMap<String, NetDevice>,
        /// Device nodes.
        #[serde(skip_serializing_if = "is_default")]
        devices: Vec<LinuxDevice>,
        /// System call filter.
        #[serde(skip_serializing_if = "Option::is_none")]
        seccomp: Option<LinuxSeccomp>,
        /// Propagation of the root mount: `shared`, `slave`, `private`, `unbindable` and their `r…` forms.
        #[serde(skip_serializing_if = "is_default")]
        rootfs_propagation: String,
        /// Paths hidden inside the container.
        #[serde(skip_serializing_if = "is_default")]
        masked_paths: Vec<String>,
        /// Paths read-only inside the container.
        #[serde(skip_serializing_if = "is_default")]
        readonly_paths: Vec<String>,
        /// SELinux label of mounts.
        #[serde(skip_serializing_if = "is_default")]
        mount_label: String,
        /// Execution domain.
        #[serde(skip_serializing_if = "Option::is_none")]
        personality: Option<Personality>,
        /// From which nodes the process's memory comes (1.3).
        #[serde(skip_serializing_if = "Option::is_none")]
        memory_policy: Option<MemoryPolicy>,
        /// Cache and memory bandwidth, by Intel's resource director.
        #[serde(skip_serializing_if = "Option::is_none")]
        intel_rdt: Option<IntelRdt>,
        /// Clock offsets of the time namespace, by clock name (`boottime`, `monotonic`).
        #[serde(skip_serializing_if = "is_default")]
        time_offsets: BTreeMap<String, TimeOffset>,
    }
}

record! {
    /// One line of a uid or gid map.
    IdMapping {
        /// First id inside the container.
        #[serde(rename = "containerID")]
        container_id: u32,
        /// First id on the host.
        #[serde(rename = "hostID")]
        host_id: u32,
        /// How many ids.
        size: u32,
    }
}

/// A kind of namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamespaceKind {
    /// Process ids.
    Pid,
    /// Network.
    Network,
    /// Mounts.
    Mount,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Host and domain name.
    Uts,
    /// User and group ids.
    User,
    /// Control groups.
    Cgroup,
    /// Clocks.
    Time,
}

/// One namespace: new, or joined by path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinuxNamespace {
    /// Which namespace.
    #[serde(rename = "type")]
    pub kind: NamespaceKind,
    /// A namespace file to join; absent makes a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
}

record! {
    /// A network device moved into the container.
    NetDevice {
        /// Its name inside.
        #[serde(skip_serializing_if = "is_default")]
        name: String,
    }
}

record! {
    /// A device node made in the container.
    LinuxDevice {
        /// `c`, `b`, `u` or `p`.
        #[serde(rename = "type")]
        kind: String,
        /// Path inside.
        path: PathBuf,
        /// Major number.
        #[serde(skip_serializing_if = "is_default")]
        major: i64,
        /// Minor number.
        #[serde(skip_serializing_if = "is_default")]
        minor: i64,
        /// Permission bits.
        #[serde(skip_serializing_if = "Option::is_none")]
        file_mode: Option<u32>,
        /// Owner inside.
        #[serde(skip_serializing_if = "Option::is_none")]
        uid: Option<u32>,
        /// Group inside.
        #[serde(skip_serializing_if = "Option::is_none")]
        gid: Option<u32>,
    }
}

record! {
    /// Offset of one clock.
    TimeOffset {
        /// Seconds.
        secs: i64,
        /// Nanoseconds.
        nanosecs: u32,
    }
}

record! {
    /// `linux.personality`: see personality(2).
    Personality {
        /// `LINUX` or `LINUX32`.
        domain: String,
        /// Additional flags.
        #[serde(skip_serializing_if = "is_default")]
        flags: Vec<String>,
    }
}

record! {
    /// `linux.memoryPolicy` (1.3): see set_mempolicy(2).
    MemoryPolicy {
        /// `MPOL_DEFAULT`, `MPOL_BIND`, …
        mode: String,
        /// Nodes, as a list of numbers and ranges.
        #[serde(skip_serializing_if = "is_default")]
        nodes: String,
        /// `MPOL_F_…`.
        #[serde(skip_serializing_if = "is_default")]
        flags: Vec<String>,
    }
}

record! {
    /// `linux.intelRdt`: a group of resctrl(5).
    IntelRdt {
        /// The group's name; empty is the container's id, `/` the root group.
        #[serde(rename = "closID", skip_serializing_if = "is_default")]
        clos_id: String,
        /// Lines of the group's `schemata` (1.3).
        #[serde(skip_serializing_if = "is_default")]
        schemata: Vec<String>,
        /// Lines about the level 3 cache.
        #[serde(skip_serializing_if = "is_default")]
        l3_cache_schema: String,
        /// Line about memory bandwidth.
        #[serde(skip_serializing_if = "is_default")]
        mem_bw_schema: String,
        /// Whether the container gets a monitoring group of its own (1.3).
        #[serde(skip_serializing_if = "is_default")]
        enable_monitoring: bool,
    }
}

impl Spec {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// The position and kind of the first mistake, as serde_json words it.
    pub fn from_json(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// The `linux` object's namespace of `kind`, when listed.
    #[must_use]
    pub fn namespace(&self, kind: NamespaceKind) -> Option<&LinuxNamespace> {
        self.linux.as_ref()?.namespaces.iter().find(|namespace| namespace.kind == kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_specifications() {
        let text = r#"{
            "ociVersion": "1.2.0",
            "process": {"args": ["sh"], "cwd": "/", "user": {"uid": 1, "gid": 2, "additionalGids": [3]},
                        "noNewPrivileges": true, "execCPUAffinity": {"initial": "0", "final": "0-1"}},
            "linux": {
                "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}],
                "namespaces": [{"type": "pid"}, {"type": "network", "path": "/run/netns/x"}],
                "resources": {"blockIO": {"throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 5}]},
                              "memory": {"disableOOMKiller": false, "kernelTCP": 1}}
            }
        }"#;
        let spec = Spec::from_json(text.as_bytes()).expect("valid");
        let again = Spec::from_json(&serde_json::to_vec(&spec).expect("serialisable")).expect("valid");
        assert_eq!(spec, again);
        let linux = spec.linux.as_ref().expect("present");
        assert_eq!(linux.uid_mappings[0], IdMapping { container_id: 0, host_id: 1000, size: 1 });
        let resources = linux.resources.as_ref().expect("present");
        assert_eq!(resources.block_io.as_ref().expect("present").throttle_write_iops_device[0].rate, 5);
        assert_eq!(resources.memory.as_ref().expect("present").kernel_tcp, Some(1));
        assert_eq!(
            spec.namespace(NamespaceKind::Network).and_then(|n| n.path.as_deref()),
            Some("/run/netns/x".as_ref())
        );
        assert_eq!(spec.process.expect("present").exec_cpu_affinity.expect("present").last, "0-1");
    }

    #[test]
    fn a_wrong_type_is_a_mistake_with_a_position() {
        let error = Spec::from_json(br#"{"ociVersion": "1.0.0", "mounts": 3}"#).expect_err("invalid");
        assert!(error.to_string().contains("line 1"), "{error}");
    }
}
