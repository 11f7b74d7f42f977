//! What a group uses, in one shape for both versions.

use std::collections::BTreeMap;

use sys::Context as _;

use super::error::{Error, Result};
use super::file::{self, Dir, entries, keyed};
use super::host::Version;
use super::{Cgroup, tree};

/// What a group uses. A part is absent when its controller is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU time.
    pub cpu: Option<CpuStats>,
    /// Memory.
    pub memory: Option<MemoryStats>,
    /// Tasks.
    pub pids: Option<PidsStats>,
    /// Block I/O, by device.
    pub block: Vec<BlockDeviceStats>,
}

/// CPU time, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// In total.
    pub usage_ns: u64,
    /// In user mode. v1 counts it, and `system_ns`, in ticks of 10 ms on kernels before 4.17.
    pub user_ns: u64,
    /// In the kernel.
    pub system_ns: u64,
    /// Periods of the quota that passed.
    pub periods: u64,
    /// Periods in which the quota was used up.
    pub throttled_periods: u64,
    /// Time the group was kept from running.
    pub throttled_ns: u64,
}

/// Memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// In use, file cache included.
    pub usage: u64,
    /// The limit; absent is unlimited.
    pub limit: Option<u64>,
    /// The highest use so far; absent when the kernel does not keep it (v2 before 5.19).
    pub peak: Option<u64>,
    /// v1: memory and swap in use; v2: swap in use. Absent when the kernel does not count it.
    pub swap_usage: Option<u64>,
    /// The limit on the same; absent is unlimited.
    pub swap_limit: Option<u64>,
    /// How often the limit was hit.
    pub failures: u64,
    /// Processes killed for want of memory.
    pub oom_kills: u64,
    /// Anonymous memory.
    pub anonymous: u64,
    /// File cache.
    pub file: u64,
    /// File cache that was not used lately: what the kernel takes back first. Tools subtract it from `usage`.
    pub inactive_file: u64,
    /// All of `memory.stat`, with the kernel's names.
    pub detail: BTreeMap<String, u64>,
}

/// Tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PidsStats {
    /// How many there are.
    pub current: u64,
    /// The limit; absent is unlimited.
    pub limit: Option<u64>,
}

/// I/O of one block device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockDeviceStats {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Read operations.
    pub reads: u64,
    /// Write operations.
    pub writes: u64,
}

/// v1 writes "unlimited" as the largest multiple of the page size in an `i64`; pages may be up to 64 KiB.
const UNLIMITED: u64 = i64::MAX.cast_unsigned() - (1 << 16);

fn limit(value: Option<u64>) -> Option<u64> {
    value.filter(|&value| value < UNLIMITED)
}

impl Cgroup {
    /// What the group uses now.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the group is gone; [`Error::Malformed`]; system call errors.
    pub fn stats(&self) -> Result<Stats> {
        if self.hierarchies()?.is_empty() {
            return Err(Error::NotFound { path: self.path() });
        }
        let mut stats = Stats { cpu: self.cpu_stats()?, ..Stats::default() };
        if let Some(dir) = self.controller("memory")? {
            stats.memory = match dir.hierarchy.version {
                Version::V1 => Some(self.memory_v1(dir)?),
                Version::V2 => self.memory_v2(dir)?,
            };
        }
        if let Some(dir) = self.controller("pids")?
            && let Some(current) = dir.number("pids.current")?
        {
            stats.pids = Some(PidsStats { current, limit: limit(dir.number("pids.max")?) });
        }
        if let Some(dir) = self.controller("blkio")? {
            let bytes = dir.read_if_present("blkio.throttle.io_service_bytes_recursive")?.unwrap_or_default();
            let operations = dir.read_if_present("blkio.throttle.io_serviced_recursive")?.unwrap_or_default();
            stats.block = block_v1(&bytes, &operations);
        } else if let Some(dir) = self.controller("io")? {
            stats.block = block_v2(&dir.read_if_present("io.stat")?.unwrap_or_default());
        }
        Ok(stats)
    }

    /// How many processes the kernel has killed in the group for want of memory, those of groups below included as far
    /// as they still exist.
    ///
    /// # Errors
    /// System call errors. A group without the memory controller has none.
    pub fn oom_kills(&self) -> Result<u64> {
        let Some(dir) = self.controller("memory")? else { return Ok(0) };
        match dir.hierarchy.version {
            // Counted up to the top by the kernel.
            Version::V2 => {
                Ok(dir.read_if_present("memory.events")?.and_then(|text| keyed(&text, "oom_kill")).unwrap_or(0))
            }
            Version::V1 => {
                let mut total = 0;
                let counted = tree::visit(dir.fd, |fd| {
                    // The line came with Linux 4.13.
                    let text = file::read_at(fd, "memory.oom_control", file::SMALL)?;
                    total += keyed(&text, "oom_kill").unwrap_or(0);
                    Ok(())
                });
                counted.at("read", dir.label("memory.oom_control"))?;
                Ok(total)
            }
        }
    }

    fn cpu_stats(&self) -> Result<Option<CpuStats>> {
        let mut cpu = CpuStats::default();
        let mut found = false;
        if let Some(dir) = self.controller("cpuacct")? {
            found = true;
            cpu.usage_ns = dir.number("cpuacct.usage")?.unwrap_or(0);
            cpu.user_ns = dir.number("cpuacct.usage_user")?.unwrap_or(0);
            cpu.system_ns = dir.number("cpuacct.usage_sys")?.unwrap_or(0);
        }
        let dir = match self.controller("cpu")? {
            Some(dir) => Some(dir),
            // v2 counts time in every group, with or without the controller.
            None if !found => self.controller("cgroup")?,
            None => None,
        };
        if let Some(dir) = dir {
            let text = dir.read_if_present("cpu.stat")?.unwrap_or_default();
            let value = |key| keyed(&text, key).unwrap_or(0);
            cpu.periods = value("nr_periods");
            cpu.throttled_periods = value("nr_throttled");
            match dir.hierarchy.version {
                Version::V1 => cpu.throttled_ns = value("throttled_time"),
                Version::V2 => {
                    cpu.usage_ns = value("usage_usec").saturating_mul(1000);
                    cpu.user_ns = value("user_usec").saturating_mul(1000);
                    cpu.system_ns = value("system_usec").saturating_mul(1000);
                    cpu.throttled_ns = value("throttled_usec").saturating_mul(1000);
                }
            }
            found = true;
        }
        Ok(found.then_some(cpu))
    }

    fn memory_v1(&self, dir: Dir<'_>) -> Result<MemoryStats> {
        let detail = detail(&dir.read("memory.stat")?);
        let value = |key: &str| detail.get(key).copied().unwrap_or(0);
        Ok(MemoryStats {
            usage: dir.number("memory.usage_in_bytes")?.unwrap_or(0),
            limit: limit(dir.number("memory.limit_in_bytes")?),
            peak: dir.number("memory.max_usage_in_bytes")?,
            swap_usage: dir.number("memory.memsw.usage_in_bytes")?,
            swap_limit: limit(dir.number("memory.memsw.limit_in_bytes")?),
            failures: dir.number("memory.failcnt")?.unwrap_or(0),
            oom_kills: self.oom_kills()?,
            anonymous: value("total_rss"),
            file: value("total_cache"),
            inactive_file: value("total_inactive_file"),
            detail,
        })
    }

    fn memory_v2(&self, dir: Dir<'_>) -> Result<Option<MemoryStats>> {
        // Missing when the group above does not hand the controller down.
        let Some(usage) = dir.number("memory.current")? else { return Ok(None) };
        let detail = detail(&dir.read("memory.stat")?);
        let value = |key: &str| detail.get(key).copied().unwrap_or(0);
        let events = dir.read_if_present("memory.events")?.unwrap_or_default();
        Ok(Some(MemoryStats {
            usage,
            limit: limit(dir.number("memory.max")?),
            peak: dir.number("memory.peak")?,
            swap_usage: dir.number("memory.swap.current")?,
            swap_limit: limit(dir.number("memory.swap.max")?),
            failures: keyed(&events, "max").unwrap_or(0),
            oom_kills: keyed(&events, "oom_kill").unwrap_or(0),
            anonymous: value("anon"),
            file: value("file"),
            inactive_file: value("inactive_file"),
            detail,
        }))
    }
}

pub(super) fn detail(text: &str) -> BTreeMap<String, u64> {
    entries(text).map(|(key, value)| (key.to_owned(), value)).collect()
}

fn device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Reads two files of lines `major:minor Operation number`.
pub(super) fn block_v1(bytes: &str, operations: &str) -> Vec<BlockDeviceStats> {
    let mut devices: BTreeMap<(u32, u32), BlockDeviceStats> = BTreeMap::new();
    for (text, counts_bytes) in [(bytes, true), (operations, false)] {
        for line in text.lines() {
            let mut fields = line.split_ascii_whitespace();
            let (Some((major, minor)), Some(operation), Some(Ok(value))) =
                (fields.next().and_then(device), fields.next(), fields.next().map(str::parse))
            else {
                continue;
            };
            let stats = devices.entry((major, minor)).or_insert_with(|| BlockDeviceStats {
                major,
                minor,
                ..BlockDeviceStats::default()
            });
            match (operation, counts_bytes) {
                ("Read", true) => stats.read_bytes = value,
                ("Write", true) => stats.write_bytes = value,
                ("Read", false) => stats.reads = value,
                ("Write", false) => stats.writes = value,
                _ => {}
            }
        }
    }
    devices.into_values().collect()
}

/// Reads lines `major:minor key=number …`.
pub(super) fn block_v2(text: &str) -> Vec<BlockDeviceStats> {
    let line = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (major, minor) = device(fields.next()?)?;
        let mut stats = BlockDeviceStats { major, minor, ..BlockDeviceStats::default() };
        for (key, value) in fields.filter_map(|field| field.split_once('=')) {
            let Ok(value) = value.parse() else { continue };
            match key {
                "rbytes" => stats.read_bytes = value,
                "wbytes" => stats.write_bytes = value,
                "rios" => stats.reads = value,
                "wios" => stats.writes = value,
                _ => {}
            }
        }
        Some(stats)
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_lines_of_both_versions_mean_the_same() {
        let v1 = block_v1(
            "8:0 Read 4096\n8:0 Write 8192\n8:0 Sync 0\n8:0 Total 12288\nTotal 12288\n",
            "8:0 Read 1\n8:0 Write 2\n8:0 Total 3\nTotal 3\n",
        );
        let v2 = block_v2("8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n");
        let expected =
            BlockDeviceStats { major: 8, minor: 0, read_bytes: 4096, write_bytes: 8192, reads: 1, writes: 2 };
        assert_eq!(v1, [expected]);
        assert_eq!(v1, v2);
        assert!(block_v2("odd line\n").is_empty());
    }

    #[test]
    fn unlimited_is_absent() {
        assert_eq!(limit(Some(9_223_372_036_854_771_712)), None);
        assert_eq!(limit(Some(u64::MAX)), None);
        assert_eq!(limit(Some(4096)), Some(4096));
    }
}
