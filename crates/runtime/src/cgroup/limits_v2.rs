//! Limits in terms of cgroup v2 files (Documentation/admin-guide/cgroup-v2.rst of the kernel), converted where the
//! specification is written in terms of v1.

use oci::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::error::{Result, Setting};
use super::limits::*;
use super::limits_v1::{pids_max, rdma};

const NOT_IN_V2: &str = "cgroup v2 has no such limit";

/// The writes `resources` ask for, device rules aside. `present_quota` is the quota in force (`max` or microseconds),
/// needed only when a period comes without one.
///
/// `memory.kernel` and `memory.kernelTCP` are deprecated in the specification and part of all memory here; they are
/// passed over.
///
/// # Errors
/// A value out of its range, or a setting v2 does not have.
pub(super) fn plan(resources: &LinuxResources, present_quota: Option<&str>) -> Result<Vec<Write>> {
    let mut writes = Vec::new();
    if let Some(cpu) = &resources.cpu {
        plan_cpu(cpu, present_quota, &mut writes)?;
    }
    if let Some(memory) = &resources.memory {
        plan_memory(memory, &mut writes)?;
    }
    if let Some(limit) = resources.pids.as_ref().and_then(|pids| pids.limit) {
        writes.push(Write::new("pids", "pids.max", pids_max(limit), PIDS));
    }
    if let Some(block) = &resources.block_io {
        plan_block_io(block, &mut writes)?;
    }
    for limit in &resources.hugepage_limits {
        writes.extend(hugepages(limit, "max")?);
    }
    if let Some(network) = &resources.network {
        if network.class_id.is_some_and(|id| id != 0) {
            return Err(unsupported(CLASS_ID, NOT_IN_V2));
        }
        if !network.priorities.is_empty() {
            return Err(unsupported(PRIORITIES, NOT_IN_V2));
        }
    }
    writes.extend(rdma(resources)?);
    // Raw keys come last, so that they win over what the other settings said.
    for (key, value) in &resources.unified {
        let controller = match key.split_once('.') {
            Some((controller, rest)) if !controller.is_empty() && !rest.is_empty() && !key.contains('/') => controller,
            _ => return Err(invalid(UNIFIED, format_args!("{key:?}"), "it cannot name a control file")),
        };
        for line in value.lines() {
            let mut write = Write::new("", key.clone(), line, UNIFIED);
            write.controller = controller.to_owned().into();
            writes.push(write);
        }
    }
    Ok(writes)
}

/// `cpu.weight` for `shares`: a curve through (2, 1), (1024, 100) and (262144, 10000), so that the default stays the
/// default (runtime-spec `config-linux.md`, as runc 1.3.2 and crun 1.23 have it).
pub(crate) fn cpu_weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        shares => {
            #[expect(clippy::cast_precision_loss, reason = "below 2^18")]
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 1 to 10000")]
            let weight = 10_f64.powf(exponent).ceil() as u64;
            weight.clamp(1, 10_000)
        }
    }
}

/// `io.weight` for a v1 weight: 10 to 1000 onto 1 to 10000, linearly.
pub(crate) fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight.saturating_sub(10)) * 9999 / 990
}

fn plan_cpu(cpu: &LinuxCpu, present_quota: Option<&str>, writes: &mut Vec<Write>) -> Result<()> {
    if cpu.realtime_runtime.is_some_and(|runtime| runtime != 0) {
        return Err(unsupported(RT_RUNTIME, NOT_IN_V2));
    }
    if cpu.realtime_period.is_some_and(|period| period != 0) {
        return Err(unsupported(RT_PERIOD, NOT_IN_V2));
    }
    if let Some(idle) = cpu.idle {
        writes.push(Write::new("cpu", "cpu.idle", idle, IDLE));
    }
    // An idle group's weight is fixed.
    if let Some(shares) = cpu.shares.filter(|&shares| shares != 0 && cpu.idle != Some(1)) {
        writes.push(Write::new("cpu", "cpu.weight", cpu_weight(shares), SHARES));
    }
    let quota = cpu.quota.filter(|&quota| quota != 0);
    let period = cpu.period.filter(|&period| period != 0);
    let quota_text = match quota {
        Some(quota) => {
            at_least_minus_one(QUOTA, quota)?;
            Some(if quota == -1 { "max".to_owned() } else { quota.to_string() })
        }
        None => period.map(|_| present_quota.unwrap_or("max").to_owned()),
    };
    match (quota_text, period) {
        // Without a period the one in force stays.
        (Some(quota), None) => writes.push(Write::new("cpu", "cpu.max", quota, QUOTA)),
        (Some(text), Some(period)) => {
            let setting = if quota.is_some() { QUOTA } else { PERIOD };
            writes.push(Write::new("cpu", "cpu.max", format!("{text} {period}"), setting));
        }
        (None, _) => {}
    }
    if let Some(burst) = cpu.burst {
        writes.push(Write::new("cpu", "cpu.max.burst", burst, BURST));
    }
    if !cpu.cpus.is_empty() {
        writes.push(Write::new("cpuset", "cpuset.cpus", &cpu.cpus, CPUS));
    }
    if !cpu.mems.is_empty() {
        writes.push(Write::new("cpuset", "cpuset.mems", &cpu.mems, MEMS));
    }
    Ok(())
}

fn bytes(value: i64) -> String {
    if value == -1 { "max".to_owned() } else { value.to_string() }
}

fn plan_memory(memory: &LinuxMemory, writes: &mut Vec<Write>) -> Result<()> {
    let limit = memory.limit.filter(|&limit| limit != 0);
    let swap = memory.swap.filter(|&swap| swap != 0);
    let reservation = memory.reservation.filter(|&reservation| reservation != 0);
    for (setting, value) in [(MEMORY, limit), (SWAP, swap), (RESERVATION, reservation)] {
        value.map_or(Ok(()), |value| at_least_minus_one(setting, value))?;
    }
    // v1 counts memory and swap together, v2 swap alone. Swap goes first: with less memory the rest is swapped out.
    let swap_max = match (limit, swap) {
        (_, Some(-1)) | (Some(-1), None) => Some("max".to_owned()),
        (Some(limit), Some(swap)) if limit != -1 && swap >= limit => Some((swap - limit).to_string()),
        (Some(limit), Some(swap)) => {
            let reason = format_args!("it counts memory and swap, and memory alone may take {limit}").to_string();
            return Err(invalid(SWAP, swap, reason));
        }
        (None, Some(swap)) => return Err(invalid(SWAP, swap, "it needs a limit on memory (--memory) beside it")),
        (_, None) => None,
    };
    if let Some(swap_max) = swap_max {
        // No swap at all is also what a kernel without swap gives.
        let absent = if swap_max == "max" || swap_max == "0" { Absent::Skip } else { Absent::Refuse };
        writes.push(Write::new("memory", "memory.swap.max", swap_max, SWAP).or(absent));
    }
    if let Some(limit) = limit {
        writes.push(Write::new("memory", "memory.max", bytes(limit), MEMORY));
    }
    if let Some(reservation) = reservation {
        writes.push(Write::new("memory", "memory.low", bytes(reservation), RESERVATION));
    }
    if memory.swappiness.is_some() {
        return Err(unsupported(SWAPPINESS, NOT_IN_V2));
    }
    if memory.disable_oom_killer == Some(true) {
        return Err(unsupported(OOM_KILLER, "cgroup v2 cannot keep the kernel from killing"));
    }
    if memory.use_hierarchy == Some(false) {
        return Err(unsupported(USE_HIERARCHY, "cgroup v2 always counts hierarchically"));
    }
    Ok(())
}

fn plan_block_io(block: &LinuxBlockIo, writes: &mut Vec<Write>) -> Result<()> {
    // bfq takes weights of v1's scale, io.weight (the cost model) of v2's.
    let weight = |prefix: String, value: u16, setting: Setting| -> Result<Write> {
        in_range(setting, value.into(), 10..=1000)?;
        let other = format!("{prefix}{}", io_weight(value));
        let write = Write::new("io", "io.bfq.weight", format!("{prefix}{value}"), setting);
        Ok(write.or(Absent::Else { file: "io.weight", value: other }))
    };
    if let Some(value) = block.weight.filter(|&weight| weight != 0) {
        writes.push(weight(String::new(), value, WEIGHT)?);
    }
    if block.leaf_weight.is_some_and(|weight| weight != 0) {
        return Err(unsupported(LEAF_WEIGHT, NOT_IN_V2));
    }
    for device in &block.weight_device {
        if device.leaf_weight.is_some_and(|weight| weight != 0) {
            return Err(unsupported(LEAF_WEIGHT, NOT_IN_V2));
        }
        if let Some(value) = device.weight.filter(|&weight| weight != 0) {
            writes.push(weight(format!("{}:{} ", device.major, device.minor), value, WEIGHT_DEVICE)?);
        }
    }
    let mut throttle = |key: &str, devices: &[LinuxThrottleDevice], setting: Setting| {
        writes.extend(devices.iter().map(|device| {
            // 0 lifts the limit in v1.
            let rate = if device.rate == 0 { "max".to_owned() } else { device.rate.to_string() };
            Write::new("io", "io.max", format!("{}:{} {key}={rate}", device.major, device.minor), setting)
        }));
    };
    throttle("rbps", &block.throttle_read_bps_device, READ_BPS);
    throttle("wbps", &block.throttle_write_bps_device, WRITE_BPS);
    throttle("riops", &block.throttle_read_iops_device, READ_IOPS);
    throttle("wiops", &block.throttle_write_iops_device, WRITE_IOPS);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(json: &str) -> Result<Vec<String>> {
        let resources: LinuxResources = serde_json::from_str(json).expect("valid JSON");
        Ok(plan(&resources, None)?.into_iter().map(|write| format!("{}={}", write.file, write.value)).collect())
    }

    fn writes(json: &str) -> Vec<String> {
        planned(json).expect("accepted")
    }

    #[test]
    fn weights_keep_the_ends_and_the_default() {
        assert_eq!([0, 1, 2, 1024, 262_144, u64::MAX].map(cpu_weight), [1, 1, 1, 100, 10_000, 10_000]);
        let weights: Vec<u64> = (2..262_144).step_by(97).map(cpu_weight).collect();
        assert!(weights.is_sorted() && weights.iter().all(|weight| (1..=10_000).contains(weight)));
        assert_eq!([10, 100, 1000].map(io_weight), [1, 910, 10_000]);
    }

    #[test]
    fn memory_and_swap_are_split() {
        assert_eq!(
            writes(r#"{"memory": {"limit": 100, "swap": 300, "reservation": 50}}"#),
            ["memory.swap.max=200", "memory.max=100", "memory.low=50"]
        );
        assert_eq!(writes(r#"{"memory": {"limit": 100, "swap": 100}}"#), ["memory.swap.max=0", "memory.max=100"]);
        assert_eq!(writes(r#"{"memory": {"limit": 100, "swap": -1}}"#), ["memory.swap.max=max", "memory.max=100"]);
        assert_eq!(writes(r#"{"memory": {"limit": -1}}"#), ["memory.swap.max=max", "memory.max=max"]);
        assert_eq!(writes(r#"{"memory": {"limit": 100}}"#), ["memory.max=100"]);
        for bad in [
            r#"{"memory": {"limit": 100, "swap": 50}}"#,
            r#"{"memory": {"swap": 50}}"#,
            r#"{"memory": {"limit": -1, "swap": 50}}"#,
            r#"{"memory": {"swappiness": 10}}"#,
            r#"{"memory": {"disableOOMKiller": true}}"#,
        ] {
            assert!(planned(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn quota_and_period_share_a_file() {
        assert_eq!(writes(r#"{"cpu": {"quota": 5000, "period": 10000}}"#), ["cpu.max=5000 10000"]);
        assert_eq!(writes(r#"{"cpu": {"quota": -1, "period": 10000}}"#), ["cpu.max=max 10000"]);
        assert_eq!(writes(r#"{"cpu": {"quota": 5000}}"#), ["cpu.max=5000"]);
        assert_eq!(writes(r#"{"cpu": {"period": 5000}}"#), ["cpu.max=max 5000"]);
        let resources: LinuxResources = serde_json::from_str(r#"{"cpu": {"period": 5000}}"#).expect("valid");
        assert_eq!(plan(&resources, Some("2000")).expect("accepted")[0].value, "2000 5000");
        assert_eq!(writes(r#"{"cpu": {"shares": 1024}}"#), ["cpu.weight=100"]);
    }

    #[test]
    fn block_io_is_converted_and_raw_keys_are_last() {
        assert_eq!(
            writes(
                r#"{"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 5}],
                                "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 0}]},
                    "pids": {"limit": 5},
                    "unified": {"pids.max": "7", "io.max": "8:0 rbps=1\n8:16 rbps=2"}}"#
            ),
            [
                "pids.max=5",
                "io.max=8:0 rbps=5",
                "io.max=8:16 wiops=max",
                "io.max=8:0 rbps=1",
                "io.max=8:16 rbps=2",
                "pids.max=7"
            ]
        );
        let resources: LinuxResources = serde_json::from_str(r#"{"blockIO": {"weight": 100}}"#).expect("valid");
        let write = &plan(&resources, None).expect("accepted")[0];
        assert_eq!((write.file.as_ref(), write.value.as_str()), ("io.bfq.weight", "100"));
        assert_eq!(write.absent, Absent::Else { file: "io.weight", value: "910".to_owned() });
        for bad in [r#"{"unified": {"../x.y": "1"}}"#, r#"{"unified": {"x": "1"}}"#, r#"{"network": {"classID": 1}}"#] {
            assert!(planned(bad).is_err(), "{bad}");
        }
    }
}
