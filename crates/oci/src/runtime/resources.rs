//! `linux.resources` (`config-linux.md`, "Control groups").

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{is_default, record};

record! {
    /// `linux.resources`: control group limits.
    LinuxResources {
        /// Device rules, in order.
        #[serde(skip_serializing_if = "is_default")]
        devices: Vec<LinuxDeviceCgroup>,
        /// Memory.
        #[serde(skip_serializing_if = "Option::is_none")]
        memory: Option<LinuxMemory>,
        /// CPU.
        #[serde(skip_serializing_if = "Option::is_none")]
        cpu: Option<LinuxCpu>,
        /// Number of tasks.
        #[serde(skip_serializing_if = "Option::is_none")]
        pids: Option<LinuxPids>,
        /// Block I/O.
        #[serde(rename = "blockIO", skip_serializing_if = "Option::is_none")]
        block_io: Option<LinuxBlockIo>,
        /// Huge pages.
        #[serde(skip_serializing_if = "is_default")]
        hugepage_limits: Vec<LinuxHugepageLimit>,
        /// Network class and priorities (v1).
        #[serde(skip_serializing_if = "Option::is_none")]
        network: Option<LinuxNetwork>,
        /// RDMA, by device.
        #[serde(skip_serializing_if = "is_default")]
        rdma: BTreeMap<String, LinuxRdma>,
        /// cgroup v2 files, written raw.
        #[serde(skip_serializing_if = "is_default")]
        unified: BTreeMap<String, String>,
    }
}

record! {
    /// One device rule.
    LinuxDeviceCgroup {
        /// Allow or deny.
        allow: bool,
        /// `a`, `c` or `b`; absent is all.
        #[serde(rename = "type", skip_serializing_if = "is_default")]
        kind: String,
        /// Major number; absent or −1 is any.
        #[serde(skip_serializing_if = "Option::is_none")]
        major: Option<i64>,
        /// Minor number; absent or −1 is any.
        #[serde(skip_serializing_if = "Option::is_none")]
        minor: Option<i64>,
        /// Of `r`, `w`, `m`; absent is all.
        #[serde(skip_serializing_if = "is_default")]
        access: String,
    }
}

record! {
    /// Memory limits, in bytes; −1 is unlimited.
    LinuxMemory {
        /// Hard limit.
        #[serde(skip_serializing_if = "Option::is_none")]
        limit: Option<i64>,
        /// Soft limit.
        #[serde(skip_serializing_if = "Option::is_none")]
        reservation: Option<i64>,
        /// Memory and swap together.
        #[serde(skip_serializing_if = "Option::is_none")]
        swap: Option<i64>,
        /// Kernel memory (v1, deprecated).
        #[serde(skip_serializing_if = "Option::is_none")]
        kernel: Option<i64>,
        /// TCP buffers (v1, deprecated).
        #[serde(rename = "kernelTCP", skip_serializing_if = "Option::is_none")]
        kernel_tcp: Option<i64>,
        /// 0 to 100.
        #[serde(skip_serializing_if = "Option::is_none")]
        swappiness: Option<u64>,
        /// Whether processes wait at the limit instead of being killed.
        #[serde(rename = "disableOOMKiller", skip_serializing_if = "Option::is_none")]
        disable_oom_killer: Option<bool>,
        /// Hierarchical accounting (v1, deprecated).
        #[serde(skip_serializing_if = "Option::is_none")]
        use_hierarchy: Option<bool>,
        /// Refuse a limit below the present usage.
        #[serde(skip_serializing_if = "Option::is_none")]
        check_before_update: Option<bool>,
    }
}

record! {
    /// CPU limits.
    LinuxCpu {
        /// Relative weight, 2 to 262144; 1024 is one share.
        #[serde(skip_serializing_if = "Option::is_none")]
        shares: Option<u64>,
        /// Microseconds of run time in one period.
        #[serde(skip_serializing_if = "Option::is_none")]
        quota: Option<i64>,
        /// Microseconds that may be carried over.
        #[serde(skip_serializing_if = "Option::is_none")]
        burst: Option<u64>,
        /// Microseconds.
        #[serde(skip_serializing_if = "Option::is_none")]
        period: Option<u64>,
        /// Microseconds of real-time run time.
        #[serde(skip_serializing_if = "Option::is_none")]
        realtime_runtime: Option<i64>,
        /// Microseconds.
        #[serde(skip_serializing_if = "Option::is_none")]
        realtime_period: Option<u64>,
        /// CPU list.
        #[serde(skip_serializing_if = "is_default")]
        cpus: String,
        /// Memory node list.
        #[serde(skip_serializing_if = "is_default")]
        mems: String,
        /// 1 puts the group into SCHED_IDLE.
        #[serde(skip_serializing_if = "Option::is_none")]
        idle: Option<i64>,
    }
}

record! {
    /// Task limit.
    LinuxPids {
        /// Number of tasks; absent or negative is unlimited, 0 is a limit of none.
        #[serde(skip_serializing_if = "Option::is_none")]
        limit: Option<i64>,
    }
}

record! {
    /// Block I/O limits.
    LinuxBlockIo {
        /// 10 to 1000.
        #[serde(skip_serializing_if = "Option::is_none")]
        weight: Option<u16>,
        /// 10 to 1000, against the group's own children.
        #[serde(skip_serializing_if = "Option::is_none")]
        leaf_weight: Option<u16>,
        /// Weights by device.
        #[serde(skip_serializing_if = "is_default")]
        weight_device: Vec<LinuxWeightDevice>,
        /// Bytes per second.
        #[serde(skip_serializing_if = "is_default")]
        throttle_read_bps_device: Vec<LinuxThrottleDevice>,
        /// Bytes per second.
        #[serde(skip_serializing_if = "is_default")]
        throttle_write_bps_device: Vec<LinuxThrottleDevice>,
        /// Operations per second.
        #[serde(rename = "throttleReadIOPSDevice", skip_serializing_if = "is_default")]
        throttle_read_iops_device: Vec<LinuxThrottleDevice>,
        /// Operations per second.
        #[serde(rename = "throttleWriteIOPSDevice", skip_serializing_if = "is_default")]
        throttle_write_iops_device: Vec<LinuxThrottleDevice>,
    }
}

record! {
    /// Weight of one block device.
    LinuxWeightDevice {
        /// Major number.
        major: i64,
        /// Minor number.
        minor: i64,
        /// 10 to 1000.
        #[serde(skip_serializing_if = "Option::is_none")]
        weight: Option<u16>,
        /// 10 to 1000.
        #[serde(skip_serializing_if = "Option::is_none")]
        leaf_weight: Option<u16>,
    }
}

record! {
    /// Rate of one block device.
    LinuxThrottleDevice {
        /// Major number.
        major: i64,
        /// Minor number.
        minor: i64,
        /// Bytes or operations per second.
        rate: u64,
    }
}

record! {
    /// Limit on huge pages of one size.
    LinuxHugepageLimit {
        /// `2MB`, `1GB`, …
        page_size: String,
        /// Bytes.
        limit: u64,
    }
}

record! {
    /// net_cls and net_prio (v1).
    LinuxNetwork {
        /// Class identifier.
        #[serde(rename = "classID", skip_serializing_if = "Option::is_none")]
        class_id: Option<u32>,
        /// Priorities by interface.
        #[serde(skip_serializing_if = "is_default")]
        priorities: Vec<LinuxInterfacePriority>,
    }
}

record! {
    /// Priority of one interface (v1).
    LinuxInterfacePriority {
        /// Interface name.
        name: String,
        /// Priority.
        priority: u32,
    }
}

record! {
    /// RDMA limits of one device.
    LinuxRdma {
        /// Handles.
        #[serde(skip_serializing_if = "Option::is_none")]
        hca_handles: Option<u32>,
        /// Objects.
        #[serde(skip_serializing_if = "Option::is_none")]
        hca_objects: Option<u32>,
    }
}
