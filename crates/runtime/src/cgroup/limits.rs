//! Limits as a list of writes, and how such a list is carried out.
//!
//! What to write is planned by pure functions (`limits_v1`, `limits_v2`); here the order is settled. Several settings
//! bound each other (memory and memory+swap; quota, period and burst), and which must go first depends on the values in
//! force. The kernel answers `EINVAL` to a write that has to wait, so such writes are held back and tried again once
//! others went through.

use std::borrow::Cow;

use oci::runtime::{LinuxHugepageLimit, LinuxResources};
use sys::Errno;

use super::error::{Error, Result, Setting};
use super::file::{self, Dir};
use super::host::Version;

macro_rules! settings {
    ($($name:ident = $field:literal, $flag:literal;)*) => {
        $(pub(super) const $name: Setting = Setting { field: $field, flag: $flag };)*
    };
}

settings! {
    MEMORY = "memory.limit", "--memory";
    RESERVATION = "memory.reservation", "--memory-reservation";
    SWAP = "memory.swap", "--memory-swap";
    KERNEL_TCP = "memory.kernelTCP", "";
    SWAPPINESS = "memory.swappiness", "--memory-swappiness";
    OOM_KILLER = "memory.disableOOMKiller", "--oom-kill-disable";
    USE_HIERARCHY = "memory.useHierarchy", "";
    SHARES = "cpu.shares", "--cpu-shares";
    QUOTA = "cpu.quota", "--cpus or --cpu-quota";
    PERIOD = "cpu.period", "--cpu-period";
    BURST = "cpu.burst", "";
    RT_RUNTIME = "cpu.realtimeRuntime", "--cpu-rt-runtime";
    RT_PERIOD = "cpu.realtimePeriod", "--cpu-rt-period";
    IDLE = "cpu.idle", "";
    CPUS = "cpu.cpus", "--cpuset-cpus";
    MEMS = "cpu.mems", "--cpuset-mems";
    PIDS = "pids.limit", "--pids-limit";
    WEIGHT = "blockIO.weight", "--blkio-weight";
    LEAF_WEIGHT = "blockIO.leafWeight", "";
    WEIGHT_DEVICE = "blockIO.weightDevice", "--blkio-weight-device";
    READ_BPS = "blockIO.throttleReadBpsDevice", "--device-read-bps";
    WRITE_BPS = "blockIO.throttleWriteBpsDevice", "--device-write-bps";
    READ_IOPS = "blockIO.throttleReadIOPSDevice", "--device-read-iops";
    WRITE_IOPS = "blockIO.throttleWriteIOPSDevice", "--device-write-iops";
    HUGEPAGES = "hugepageLimits", "";
    CLASS_ID = "network.classID", "";
    PRIORITIES = "network.priorities", "";
    RDMA = "rdma", "";
    UNIFIED = "unified", "";
    DEVICES = "devices", "--device-cgroup-rule";
}

/// What is done when a control file does not exist.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Absent {
    /// The setting cannot be honoured.
    Refuse,
    /// It is of no consequence.
    Skip,
    /// Another file takes it, with a value of its own scale.
    Else { file: &'static str, value: String },
}

/// One write to a control file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) controller: Cow<'static, str>,
    pub(super) file: Cow<'static, str>,
    pub(super) value: String,
    pub(super) setting: Setting,
    pub(super) absent: Absent,
}

impl Write {
    pub(super) fn new(
        controller: &'static str,
        file: impl Into<Cow<'static, str>>,
        value: impl ToString,
        setting: Setting,
    ) -> Self {
        Self {
            controller: Cow::Borrowed(controller),
            file: file.into(),
            value: value.to_string(),
            setting,
            absent: Absent::Refuse,
        }
    }

    pub(super) fn or(mut self, absent: Absent) -> Self {
        self.absent = absent;
        self
    }
}

/// The two files of one huge page limit, reservations first: a fault limit alone is only felt as a SIGBUS.
pub(super) fn hugepages(limit: &LinuxHugepageLimit, leaf: &str) -> Result<[Write; 2]> {
    let size = limit.page_size.as_str();
    let digits = size.trim_end_matches(|c: char| c.is_ascii_uppercase());
    let valid = !digits.is_empty()
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && matches!(&size[digits.len()..], "KB" | "MB" | "GB");
    if !valid {
        return Err(invalid(HUGEPAGES, size, "a page size is a number with KB, MB or GB"));
    }
    let write = |file: String| Write::new("hugetlb", file, limit.limit, HUGEPAGES);
    Ok([write(format!("hugetlb.{size}.rsvd.{leaf}")).or(Absent::Skip), write(format!("hugetlb.{size}.{leaf}"))])
}

/// Refuses negative numbers that a field does not define.
pub(super) fn at_least_minus_one(setting: Setting, value: i64) -> Result<()> {
    if value < -1 { Err(invalid(setting, value, "it is negative; -1 means unlimited")) } else { Ok(()) }
}

/// Refuses values outside the range the specification gives.
pub(super) fn in_range(setting: Setting, value: u64, range: std::ops::RangeInclusive<u64>) -> Result<()> {
    if range.contains(&value) {
        Ok(())
    } else {
        Err(invalid(setting, value, format_args!("it is not from {} to {}", range.start(), range.end())))
    }
}

pub(super) fn invalid(setting: Setting, value: impl ToString, reason: impl ToString) -> Error {
    Error::Invalid { setting, value: value.to_string(), reason: reason.to_string() }
}

pub(super) fn unsupported(setting: Setting, reason: impl ToString) -> Error {
    Error::Unsupported { setting, reason: reason.to_string() }
}

/// Whether anything but device rules is asked for.
pub(super) fn asks_for_limits(resources: &LinuxResources) -> bool {
    let LinuxResources { devices: _, memory, cpu, pids, block_io, hugepage_limits, network, rdma, unified } = resources;
    memory.is_some()
        || cpu.is_some()
        || pids.is_some()
        || block_io.is_some()
        || !hugepage_limits.is_empty()
        || network.is_some()
        || !rdma.is_empty()
        || !unified.is_empty()
}

/// Carries out `writes`; `dir` gives the group's directory for a controller, or nothing when the host has none.
pub(super) fn apply<'a>(writes: Vec<Write>, mut dir: impl FnMut(&str) -> Result<Option<Dir<'a>>>) -> Result<()> {
    let mut pending = writes;
    while !pending.is_empty() {
        let before = pending.len();
        let mut held = Vec::new();
        let mut first = None;
        for write in pending {
            let Some(dir) = dir(&write.controller)? else {
                if write.absent == Absent::Skip {
                    continue;
                }
                return Err(Error::NoController { controller: write.controller.into_owned(), setting: write.setting });
            };
            match attempt(&write, dir) {
                Ok(()) => {}
                Err(Errno::INVAL) => {
                    first.get_or_insert((dir, held.len()));
                    held.push(write);
                }
                Err(errno) => return Err(explain(&write, dir, errno)),
            }
        }
        if let Some((dir, index)) = first
            && held.len() == before
        {
            return Err(explain(&held[index], dir, Errno::INVAL));
        }
        pending = held;
    }
    Ok(())
}

fn attempt(write: &Write, dir: Dir<'_>) -> Result<(), Errno> {
    match file::write_at(dir.fd, &write.file, &write.value) {
        Err(Errno::NOENT) => match &write.absent {
            Absent::Refuse => Err(Errno::NOENT),
            Absent::Skip => Ok(()),
            Absent::Else { file, value } => file::write_at(dir.fd, file, value),
        },
        // Huge page reservations and TCP buffers exist as files in some kernels that no longer honour them.
        Err(Errno::OPNOTSUPP) if write.absent == Absent::Skip => Ok(()),
        result => result,
    }
}

/// Whether the group above hands `controller` down; in v1 a hierarchy always does.
fn is_enabled(controller: &str, dir: Dir<'_>) -> bool {
    dir.hierarchy.version == Version::V1
        || file::read_at(dir.fd, "cgroup.controllers", file::SMALL)
            .is_ok_and(|list| list.split_ascii_whitespace().any(|name| name == controller))
}

/// A refused write in terms of the setting it came from.
fn explain(write: &Write, dir: Dir<'_>, errno: Errno) -> Error {
    let (setting, value) = (write.setting, write.value.as_str());
    let refused = |reason: &str| invalid(setting, value, reason);
    match errno {
        Errno::NOENT if !is_enabled(&write.controller, dir) => {
            Error::NoController { controller: write.controller.clone().into_owned(), setting }
        }
        Errno::NOENT => unsupported(setting, format_args!("this kernel has no {}", write.file)),
        Errno::OPNOTSUPP => unsupported(setting, format_args!("this kernel refuses writes to {}", write.file)),
        Errno::BUSY if write.controller == "memory" => {
            let usage = match write.file.as_ref() {
                "memory.memsw.limit_in_bytes" => "memory.memsw.usage_in_bytes",
                "memory.kmem.tcp.limit_in_bytes" => "memory.kmem.tcp.usage_in_bytes",
                _ => "memory.usage_in_bytes",
            };
            let usage = dir.number(usage).ok().flatten().unwrap_or(0);
            Error::BelowUsage { setting, limit: value.to_owned(), usage }
        }
        Errno::NODEV | Errno::NXIO => refused("there is no such device on this host"),
        Errno::RANGE => refused("it is out of the range this kernel takes"),
        Errno::ACCESS | Errno::NOSPC if write.controller == "cpuset" => {
            refused("the group above does not have all of these")
        }
        Errno::INVAL => refused(match setting {
            SWAP | MEMORY => "memory plus swap (--memory-swap) must not be less than memory (--memory)",
            QUOTA | PERIOD | BURST => {
                "periods are 1000 to 1000000 µs, quotas 1000 µs or more, not above the group above, nor below the burst"
            }
            RT_RUNTIME | RT_PERIOD => "the group above has no real-time budget to give",
            CPUS | MEMS => "it is not a list of what this host has",
            _ => "the kernel calls it invalid",
        }),
        errno => sys::Error::new("write", dir.label(&write.file), errno).into(),
    }
}
