//! `events`: what a container uses, in the JSON that containerd and runc's other callers read.

use std::time::Duration;

use runtime::cgroup::{BlockDeviceStats, Stats};
use serde_json::{Value, json};

use super::arguments::Flags;
use super::failure::Failure;
use super::print;
use super::store::{Container, Status, Store, group};

/// `events`: once with `--stats`, otherwise every `--interval` until the container stops.
pub(super) fn events(global: &Flags, flags: &Flags) -> Result<i32, Failure> {
    let container = Store::new(global).open(flags.id())?;
    let interval = match flags.get("interval") {
        None => Duration::from_secs(5),
        Some(text) => duration(text).ok_or_else(|| Failure::new(format!("--interval: {text:?} is no duration")))?,
    };
    if !report(&container)? {
        return Err(Failure::new("container not running"));
    }
    while !flags.is("stats") {
        std::thread::sleep(interval);
        if !report(&container)? {
            break;
        }
    }
    Ok(0)
}

/// Prints one line; whether the container is still there.
fn report(container: &Container) -> Result<bool, Failure> {
    let record = container.whole_record()?;
    let (status, _) = container.status(&record)?;
    let running = !matches!(status, Status::Stopped | Status::Creating);
    if running && record.cgroup.is_none() {
        return Err(Failure::new(format!(
            "container {:?} has no control group of its own, which would count what it uses",
            container.id
        )));
    }
    let Some(group) = group(&record)?.filter(|_| running) else {
        return Ok(false);
    };
    let event = json!({"type": "stats", "id": container.id, "data": data(&group.stats()?)});
    print(&format!("{event}\n"))?;
    Ok(true)
}

/// A Go duration of one unit, `5s` or `100ms`, or seconds.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok().filter(|number| *number > 0)?;
    Some(match &text[digits..] {
        "" | "s" => Duration::from_secs(number),
        "ms" => Duration::from_millis(number),
        "m" => Duration::from_secs(number.checked_mul(60)?),
        "h" => Duration::from_secs(number.checked_mul(3600)?),
        _ => return None,
    })
}

/// "No limit" as the kernel's v1 interface writes it, which is what readers expect.
const UNLIMITED: u64 = u64::MAX;

fn data(stats: &Stats) -> Value {
    let mut data = json!({});
    if let Some(cpu) = &stats.cpu {
        data["cpu"] = json!({
            "usage": {"total": cpu.usage_ns, "kernel": cpu.system_ns, "user": cpu.user_ns},
            "throttling": {
                "periods": cpu.periods,
                "throttledPeriods": cpu.throttled_periods,
                "throttledTime": cpu.throttled_ns,
            },
        });
    }
    if let Some(memory) = &stats.memory {
        let entry = |limit: Option<u64>, usage: u64, max: u64, failures: u64| json!({"limit": limit.unwrap_or(UNLIMITED), "usage": usage, "max": max, "failcnt": failures});
        data["memory"] = json!({
            "cache": memory.file,
            "usage": entry(memory.limit, memory.usage, memory.peak.unwrap_or(0), memory.failures),
            "swap": entry(memory.swap_limit, memory.swap_usage.unwrap_or(0), 0, 0),
            "raw": memory.detail,
        });
    }
    if let Some(pids) = &stats.pids {
        data["pids"] = json!({"current": pids.current, "limit": pids.limit.unwrap_or(0)});
    }
    let rows = |read: fn(&BlockDeviceStats) -> u64, write: fn(&BlockDeviceStats) -> u64| -> Vec<Value> {
        let row = |device: &BlockDeviceStats, op: &str, value: u64| json!({"major": device.major, "minor": device.minor, "op": op, "value": value});
        let both = |device: &BlockDeviceStats| [row(device, "Read", read(device)), row(device, "Write", write(device))];
        stats.block.iter().flat_map(both).collect()
    };
    data["blkio"] = json!({
        "ioServiceBytesRecursive": rows(|d| d.read_bytes, |d| d.write_bytes),
        "ioServicedRecursive": rows(|d| d.reads, |d| d.writes),
    });
    data
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime::cgroup::{CpuStats, MemoryStats, PidsStats};

    #[test]
    fn the_shape_is_what_callers_read() {
        let block = BlockDeviceStats { major: 8, minor: 1, read_bytes: 5, ..BlockDeviceStats::default() };
        let stats = Stats {
            cpu: Some(CpuStats { usage_ns: 7, ..CpuStats::default() }),
            memory: Some(MemoryStats { usage: 3, limit: Some(9), ..MemoryStats::default() }),
            pids: Some(PidsStats { current: 2, limit: None }),
            block: vec![block],
        };
        let data = data(&stats);
        assert_eq!(data["cpu"]["usage"]["total"], 7);
        assert_eq!(data["memory"]["usage"]["limit"], 9);
        assert_eq!(data["memory"]["swap"]["limit"], u64::MAX);
        assert_eq!(data["pids"], json!({"current": 2, "limit": 0}));
        let expected = json!({"major": 8, "minor": 1, "op": "Read", "value": 5});
        assert_eq!(data["blkio"]["ioServiceBytesRecursive"][0], expected);
    }

    #[test]
    fn intervals_are_gos() {
        assert_eq!(duration("5s"), Some(Duration::from_secs(5)));
        assert_eq!(duration("100ms"), Some(Duration::from_millis(100)));
        assert_eq!(duration("2"), Some(Duration::from_secs(2)));
        for text in ["", "0s", "s", "5 s", "5d", "-1s"] {
            assert_eq!(duration(text), None, "{text:?}");
        }
    }
}
