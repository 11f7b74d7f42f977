//! Limits in terms of cgroup v1 files (Documentation/admin-guide/cgroup-v1 of the kernel).

use oci::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::error::{Result, Setting};
use super::limits::*;

/// The writes `resources` ask for, device rules aside.
///
/// `memory.kernel` is deprecated in the specification and without effect since Linux 5.16; it is passed over.
///
/// # Errors
/// A value out of its range, or a setting only cgroup v2 has.
pub(super) fn plan(resources: &LinuxResources) -> Result<Vec<Write>> {
    let mut writes = Vec::new();
    if let Some(cpu) = &resources.cpu {
        plan_cpu(cpu, &mut writes)?;
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
        writes.extend(hugepages(limit, "limit_in_bytes")?);
    }
    if let Some(network) = &resources.network {
        if let Some(id) = network.class_id {
            writes.push(Write::new("net_cls", "net_cls.classid", id, CLASS_ID));
        }
        for entry in &network.priorities {
            if entry.name.is_empty() || entry.name.contains(char::is_whitespace) {
                return Err(invalid(PRIORITIES, format_args!("{:?}", entry.name), "it cannot name an interface"));
            }
            let value = format!("{} {}", entry.name, entry.priority);
            writes.push(Write::new("net_prio", "net_prio.ifpriomap", value, PRIORITIES));
        }
    }
    writes.extend(rdma(resources)?);
    if let Some(key) = resources.unified.keys().next() {
        return Err(unsupported(UNIFIED, format_args!("{key} belongs to cgroup v2, and this host has v1")));
    }
    Ok(writes)
}

/// `rdma.max`, the same in both versions.
pub(super) fn rdma(resources: &LinuxResources) -> Result<Vec<Write>> {
    let mut writes = Vec::new();
    for (device, limit) in &resources.rdma {
        if device.is_empty() || device.contains(char::is_whitespace) {
            return Err(invalid(RDMA, format_args!("{device:?}"), "it cannot name a device"));
        }
        let mut value = device.clone();
        for (key, number) in [("hca_handle", limit.hca_handles), ("hca_object", limit.hca_objects)] {
            if let Some(number) = number {
                value.push_str(&format!(" {key}={number}"));
            }
        }
        writes.push(Write::new("rdma", "rdma.max", value, RDMA));
    }
    Ok(writes)
}

/// The text of `pids.max`; 0 is a limit of none, negative is unlimited.
pub(super) fn pids_max(limit: i64) -> String {
    if limit < 0 { "max".to_owned() } else { limit.to_string() }
}

fn plan_cpu(cpu: &LinuxCpu, writes: &mut Vec<Write>) -> Result<()> {
    // 0 means "not set" to every program that writes these.
    if let Some(shares) = cpu.shares.filter(|&shares| shares != 0) {
        writes.push(Write::new("cpu", "cpu.shares", shares, SHARES));
    }
    if let Some(period) = cpu.period.filter(|&period| period != 0) {
        writes.push(Write::new("cpu", "cpu.cfs_period_us", period, PERIOD));
    }
    if let Some(quota) = cpu.quota.filter(|&quota| quota != 0) {
        at_least_minus_one(QUOTA, quota)?;
        writes.push(Write::new("cpu", "cpu.cfs_quota_us", quota, QUOTA));
    }
    if let Some(burst) = cpu.burst {
        writes.push(Write::new("cpu", "cpu.cfs_burst_us", burst, BURST));
    }
    if let Some(period) = cpu.realtime_period.filter(|&period| period != 0) {
        writes.push(Write::new("cpu", "cpu.rt_period_us", period, RT_PERIOD));
    }
    if let Some(runtime) = cpu.realtime_runtime.filter(|&runtime| runtime != 0) {
        writes.push(Write::new("cpu", "cpu.rt_runtime_us", runtime, RT_RUNTIME));
    }
    if let Some(idle) = cpu.idle {
        writes.push(Write::new("cpu", "cpu.idle", idle, IDLE));
    }
    if !cpu.cpus.is_empty() {
        writes.push(Write::new("cpuset", "cpuset.cpus", &cpu.cpus, CPUS));
    }
    if !cpu.mems.is_empty() {
        writes.push(Write::new("cpuset", "cpuset.mems", &cpu.mems, MEMS));
    }
    Ok(())
}

fn plan_memory(memory: &LinuxMemory, writes: &mut Vec<Write>) -> Result<()> {
    let set = |value: Option<i64>, setting| -> Result<Option<i64>> {
        let value = value.filter(|&value| value != 0);
        value.map_or(Ok(()), |value| at_least_minus_one(setting, value))?;
        Ok(value)
    };
    let limit = set(memory.limit, MEMORY)?;
    let swap = set(memory.swap, SWAP)?;
    if let (Some(limit), Some(swap)) = (limit, swap)
        && swap != -1
        && (limit == -1 || swap < limit)
    {
        return Err(invalid(SWAP, swap, format_args!("it counts memory and swap, and memory alone may take {limit}")));
    }
    if let Some(limit) = limit {
        writes.push(Write::new("memory", "memory.limit_in_bytes", limit, MEMORY));
    }
    // Unlimited memory cannot have a limit on memory and swap.
    if let Some(swap) = swap.or(limit.filter(|&limit| limit == -1)) {
        // Kernels without swap accounting have no limit anyway.
        let absent = if swap == -1 { Absent::Skip } else { Absent::Refuse };
        writes.push(Write::new("memory", "memory.memsw.limit_in_bytes", swap, SWAP).or(absent));
    }
    if let Some(reservation) = set(memory.reservation, RESERVATION)? {
        writes.push(Write::new("memory", "memory.soft_limit_in_bytes", reservation, RESERVATION));
    }
    if let Some(limit) = set(memory.kernel_tcp, KERNEL_TCP)? {
        writes.push(Write::new("memory", "memory.kmem.tcp.limit_in_bytes", limit, KERNEL_TCP).or(Absent::Skip));
    }
    if let Some(swappiness) = memory.swappiness {
        in_range(SWAPPINESS, swappiness, 0..=100)?;
        writes.push(Write::new("memory", "memory.swappiness", swappiness, SWAPPINESS));
    }
    if let Some(disable) = memory.disable_oom_killer {
        // The default is not worth a write, nor a failure where the file is missing.
        let absent = if disable { Absent::Refuse } else { Absent::Skip };
        writes.push(Write::new("memory", "memory.oom_control", u8::from(disable), OOM_KILLER).or(absent));
    }
    if let Some(hierarchy) = memory.use_hierarchy {
        let absent = if hierarchy { Absent::Skip } else { Absent::Refuse };
        writes.push(Write::new("memory", "memory.use_hierarchy", u8::from(hierarchy), USE_HIERARCHY).or(absent));
    }
    Ok(())
}

fn plan_block_io(block: &LinuxBlockIo, writes: &mut Vec<Write>) -> Result<()> {
    // The bfq scheduler's file took the place of CFQ's in Linux 5.0.
    let weight = |file: &'static str, bfq: &'static str, value: String, setting| {
        Write::new("blkio", bfq, value.clone(), setting).or(Absent::Else { file, value })
    };
    if let Some(value) = block.weight.filter(|&weight| weight != 0) {
        in_range(WEIGHT, value.into(), 10..=1000)?;
        writes.push(weight("blkio.weight", "blkio.bfq.weight", value.to_string(), WEIGHT));
    }
    if let Some(value) = block.leaf_weight.filter(|&weight| weight != 0) {
        in_range(LEAF_WEIGHT, value.into(), 10..=1000)?;
        writes.push(Write::new("blkio", "blkio.leaf_weight", value, LEAF_WEIGHT));
    }
    for device in &block.weight_device {
        let (major, minor) = (device.major, device.minor);
        if let Some(value) = device.weight.filter(|&weight| weight != 0) {
            in_range(WEIGHT_DEVICE, value.into(), 10..=1000)?;
            let value = format!("{major}:{minor} {value}");
            writes.push(weight("blkio.weight_device", "blkio.bfq.weight_device", value, WEIGHT_DEVICE));
        }
        if let Some(value) = device.leaf_weight.filter(|&weight| weight != 0) {
            in_range(WEIGHT_DEVICE, value.into(), 10..=1000)?;
            let value = format!("{major}:{minor} {value}");
            writes.push(Write::new("blkio", "blkio.leaf_weight_device", value, WEIGHT_DEVICE));
        }
    }
    let mut throttle = |file: &'static str, devices: &[LinuxThrottleDevice], setting: Setting| {
        writes.extend(devices.iter().map(|device| {
            let value = format!("{}:{} {}", device.major, device.minor, device.rate);
            Write::new("blkio", file, value, setting)
        }));
    };
    throttle("blkio.throttle.read_bps_device", &block.throttle_read_bps_device, READ_BPS);
    throttle("blkio.throttle.write_bps_device", &block.throttle_write_bps_device, WRITE_BPS);
    throttle("blkio.throttle.read_iops_device", &block.throttle_read_iops_device, READ_IOPS);
    throttle("blkio.throttle.write_iops_device", &block.throttle_write_iops_device, WRITE_IOPS);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::error::Error;
    use super::*;

    fn planned(json: &str) -> Result<Vec<(String, String)>> {
        let resources: LinuxResources = serde_json::from_str(json).expect("valid JSON");
        Ok(plan(&resources)?.into_iter().map(|write| (write.file.into_owned(), write.value)).collect())
    }

    fn writes(json: &str) -> Vec<String> {
        planned(json).expect("accepted").into_iter().map(|(file, value)| format!("{file}={value}")).collect()
    }

    #[test]
    fn every_setting_has_its_file() {
        assert_eq!(
            writes(
                r#"{"memory": {"limit": 1048576, "swap": 2097152, "reservation": 4096, "swappiness": 0,
                               "disableOOMKiller": true, "kernel": 5},
                    "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0-1", "mems": "0"},
                    "pids": {"limit": 0},
                    "hugepageLimits": [{"pageSize": "2MB", "limit": 9}],
                    "network": {"classID": 7, "priorities": [{"name": "eth0", "priority": 3}]},
                    "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10}},
                    "blockIO": {"weight": 100, "weightDevice": [{"major": 8, "minor": 0, "weight": 10}],
                                "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 5}]}}"#
            ),
            [
                "cpu.shares=512",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=50000",
                "cpuset.cpus=0-1",
                "cpuset.mems=0",
                "memory.limit_in_bytes=1048576",
                "memory.memsw.limit_in_bytes=2097152",
                "memory.soft_limit_in_bytes=4096",
                "memory.swappiness=0",
                "memory.oom_control=1",
                "pids.max=0",
                "blkio.bfq.weight=100",
                "blkio.bfq.weight_device=8:0 10",
                "blkio.throttle.read_bps_device=8:0 5",
                "hugetlb.2MB.rsvd.limit_in_bytes=9",
                "hugetlb.2MB.limit_in_bytes=9",
                "net_cls.classid=7",
                "net_prio.ifpriomap=eth0 3",
                "rdma.max=mlx5_1 hca_handle=3 hca_object=10",
            ]
        );
    }

    #[test]
    fn zero_is_unset_except_for_pids_and_minus_one_is_unlimited() {
        assert!(
            writes(r#"{"memory": {"limit": 0, "swap": 0}, "cpu": {"shares": 0, "quota": 0, "period": 0}}"#).is_empty()
        );
        assert_eq!(writes(r#"{"pids": {"limit": -1}}"#), ["pids.max=max"]);
        assert_eq!(
            writes(r#"{"memory": {"limit": -1}}"#),
            ["memory.limit_in_bytes=-1", "memory.memsw.limit_in_bytes=-1"]
        );
    }

    #[test]
    fn nonsense_is_refused_with_the_flag() {
        for (json, flag) in [
            (r#"{"memory": {"limit": 200, "swap": 100}}"#, "--memory-swap"),
            (r#"{"memory": {"limit": -5}}"#, "--memory"),
            (r#"{"memory": {"swappiness": 101}}"#, "--memory-swappiness"),
            (r#"{"blockIO": {"weight": 9}}"#, "--blkio-weight"),
            (r#"{"unified": {"memory.high": "1"}}"#, "memory.high"),
            (r#"{"hugepageLimits": [{"pageSize": "../x", "limit": 9}]}"#, "page size"),
            (r#"{"network": {"priorities": [{"name": "a b", "priority": 3}]}}"#, "interface"),
        ] {
            let error = planned(json).expect_err(json);
            assert!(error.to_string().contains(flag), "{error}");
            assert!(matches!(error, Error::Invalid { .. } | Error::Unsupported { .. }), "{error:?}");
        }
    }
}
