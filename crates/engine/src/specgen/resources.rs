//! Limits: checked as docker checks them, and turned into the control group's part of the configuration.

use std::collections::BTreeSet;
use std::path::Path;

use oci::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources, LinuxThrottleDevice, LinuxWeightDevice,
};

use super::{invalid, refusal};
use crate::Result;
use crate::host::{Host, NodeKind};
use crate::spec::Resources;

/// The least memory a limit may leave: below it even a static program and its page tables do not start.
pub(super) const MIN_MEMORY: i64 = 512 * 1024;

/// Tasks of a container whose user said nothing: enough for any service, and no fork bomb takes the host.
const DEFAULT_PIDS: i64 = 2048;

/// Microseconds of a CPU period when only a share of CPUs is given.
const CPU_PERIOD: u64 = 100_000;

pub(super) fn resources(said: &Resources, host: &dyn Host, warnings: &mut Vec<String>) -> Result<LinuxResources> {
    let pids = match said.pids_limit {
        None => Some(DEFAULT_PIDS),
        Some(0 | -1) => None,
        Some(limit) if limit > 0 => Some(limit),
        Some(limit) => return invalid(format!("invalid --pids-limit {limit}: a positive number, or -1 for unlimited")),
    };
    Ok(LinuxResources {
        memory: memory(said, host, warnings)?,
        cpu: cpu(said, host)?,
        pids: pids.map(|limit| LinuxPids { limit: Some(limit) }),
        block_io: block_io(said, host)?,
        ..LinuxResources::default()
    })
}

fn memory(said: &Resources, host: &dyn Host, warnings: &mut Vec<String>) -> Result<Option<LinuxMemory>> {
    let limit = said.memory.filter(|&limit| limit != 0 && limit != -1);
    let reservation = said.memory_reservation.filter(|&soft| soft != 0);
    for (flag, value) in [("-m", limit), ("--memory-reservation", reservation)] {
        if let Some(value) = value.filter(|&value| value < MIN_MEMORY) {
            return Err(refusal(format!(
                "{flag} {value}: the minimum memory limit allowed is {MIN_MEMORY} bytes (512 KiB)"
            ))
            .hint("most programs need a few megabytes to start; sizes take a unit, as in 64m"));
        }
    }
    if let (Some(limit), Some(soft)) = (limit, reservation)
        && soft > limit
    {
        return invalid("the memory reservation must not be larger than the memory limit (-m)");
    }
    let said_swap = said.memory_swap.filter(|&swap| swap != 0);
    let mut swap = match (limit, said_swap) {
        (None, Some(swap)) if swap > 0 => {
            return invalid("--memory-swap needs a memory limit: give -m with it");
        }
        (_, Some(swap)) if swap < -1 => return invalid(format!("invalid --memory-swap {swap}")),
        (Some(limit), Some(swap)) if swap != -1 && swap < limit => {
            return invalid("--memory-swap is memory and swap together and must not be below the memory limit (-m)");
        }
        (Some(limit), None) => limit.checked_mul(2),
        (_, said) => said,
    };
    if swap.is_some() && !host.swap_limit() {
        if said_swap.is_some() {
            warnings.push("this kernel cannot limit swap: --memory-swap is ignored".to_owned());
        }
        swap = None;
    }
    if let Some(swappiness) = said.memory_swappiness.filter(|&value| value > 100) {
        return invalid(format!("invalid --memory-swappiness {swappiness}: valid range is 0-100"));
    }
    if said.oom_kill_disable && limit.is_none() {
        warnings.push(
            "OOM killer is disabled for the container, but no memory limit is set: this can make the host run out of memory"
                .to_owned(),
        );
    }
    let memory = LinuxMemory {
        limit,
        reservation,
        swap,
        swappiness: said.memory_swappiness,
        disable_oom_killer: said.oom_kill_disable.then_some(true),
        ..LinuxMemory::default()
    };
    Ok((memory != LinuxMemory::default()).then_some(memory))
}

fn cpu(said: &Resources, host: &dyn Host) -> Result<Option<LinuxCpu>> {
    let period = said.cpu_period.filter(|&period| period != 0);
    let quota = said.cpu_quota.filter(|&quota| quota != 0);
    let nano = said.nano_cpus.filter(|&nano| nano != 0);
    let mut cpu = LinuxCpu { period, quota, ..LinuxCpu::default() };
    if let Some(nano) = nano {
        if period.is_some() || quota.is_some() {
            return invalid("conflicting options: --cpus cannot be used with --cpu-period or --cpu-quota");
        }
        let cpus = i64::try_from(host.cpus()).unwrap_or(i64::MAX);
        if !(10_000_000..=cpus.saturating_mul(1_000_000_000)).contains(&nano) {
            return invalid(format!(
                "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
            ));
        }
        cpu.period = Some(CPU_PERIOD);
        // Billionths of a CPU times microseconds: 10⁻⁹ × 10⁵ = 10⁻⁴.
        cpu.quota = Some((nano / 10_000).max(1_000));
    }
    if let Some(period) = period.filter(|period| !(1_000..=1_000_000).contains(period)) {
        return invalid(format!("CPU period {period} is out of range: 1000 (1 ms) to 1000000 (1 s)"));
    }
    if let Some(quota) = quota.filter(|&quota| quota != -1 && quota < 1_000) {
        return invalid(format!("CPU quota {quota} is below the least, 1000 (1 ms)"));
    }
    if let Some(shares) = said.cpu_shares.filter(|&shares| shares != 0) {
        if shares > 262_144 {
            return invalid(format!("--cpu-shares {shares} is above the most, 262144"));
        }
        cpu.shares = Some(shares.max(2));
    }
    cpu.cpus = list("CPUs", "--cpuset-cpus", "cpu", said.cpuset_cpus.as_deref(), host)?;
    cpu.mems = list("memory nodes", "--cpuset-mems", "node", said.cpuset_mems.as_deref(), host)?;
    Ok((cpu != LinuxCpu::default()).then_some(cpu))
}

/// A list of CPUs or nodes, checked against what the host has online.
fn list(what: &str, flag: &str, kind: &str, said: Option<&str>, host: &dyn Host) -> Result<String> {
    let Some(said) = said.filter(|said| !said.is_empty()) else { return Ok(String::new()) };
    let Some(wanted) = parse_list(said) else {
        return invalid(format!("invalid value {said:?} for {flag}: a list such as 0-2,5"));
    };
    // Kernels without NUMA support have node 0 and no list.
    let online = host.online(kind).unwrap_or_else(|| "0".to_owned());
    if parse_list(&online).is_some_and(|online| !wanted.is_subset(&online)) {
        return invalid(format!("requested {what} are not available - requested {said}, available: {online}"));
    }
    Ok(said.to_owned())
}

fn parse_list(text: &str) -> Option<BTreeSet<u32>> {
    const HIGHEST: u32 = 8192;
    let number = |text: &str| -> Option<u32> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if digits { text.parse().ok().filter(|&number| number < HIGHEST) } else { None }
    };
    let mut all = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

fn block_io(said: &Resources, host: &dyn Host) -> Result<Option<LinuxBlockIo>> {
    let weight = said.blkio_weight.filter(|&weight| weight != 0);
    if weight.is_some_and(|weight| !(10..=1000).contains(&weight)) {
        return invalid("range of blkio weight is from 10 to 1000");
    }
    let mut weight_device = Vec::new();
    for (path, weight) in &said.blkio_weight_devices {
        if !(10..=1000).contains(weight) && *weight != 0 {
            return invalid(format!("range of blkio weight is from 10 to 1000 ({})", path.display()));
        }
        let (major, minor) = block_device(path, host)?;
        weight_device.push(LinuxWeightDevice { major, minor, weight: Some(*weight), leaf_weight: None });
    }
    let throttle = |devices: &[(std::path::PathBuf, u64)]| -> Result<Vec<LinuxThrottleDevice>> {
        let rate = |(path, rate): &(std::path::PathBuf, u64)| {
            let (major, minor) = block_device(path, host)?;
            Ok(LinuxThrottleDevice { major, minor, rate: *rate })
        };
        devices.iter().map(rate).collect()
    };
    let block_io = LinuxBlockIo {
        weight,
        weight_device,
        throttle_read_bps_device: throttle(&said.device_read_bps)?,
        throttle_write_bps_device: throttle(&said.device_write_bps)?,
        throttle_read_iops_device: throttle(&said.device_read_iops)?,
        throttle_write_iops_device: throttle(&said.device_write_iops)?,
        ..LinuxBlockIo::default()
    };
    Ok((block_io != LinuxBlockIo::default()).then_some(block_io))
}

fn block_device(path: &Path, host: &dyn Host) -> Result<(i64, i64)> {
    match host.node(path)? {
        Some(node) if node.kind == NodeKind::Block => Ok((node.device.0.into(), node.device.1.into())),
        Some(_) => invalid(format!("{} is not a block device", path.display())),
        None => invalid(format!("{}: no such device", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::Table;

    fn of(said: &Resources) -> Result<LinuxResources> {
        resources(said, &Table::default(), &mut Vec::new())
    }

    #[test]
    fn nothing_said_is_only_the_task_limit() {
        let got = of(&Resources::default()).expect("valid");
        let expected = LinuxResources { pids: Some(LinuxPids { limit: Some(2048) }), ..LinuxResources::default() };
        assert_eq!(got, expected);
        for unlimited in [0, -1] {
            let said = Resources { pids_limit: Some(unlimited), ..Resources::default() };
            assert_eq!(of(&said).expect("valid").pids, None);
        }
        assert!(of(&Resources { pids_limit: Some(-2), ..Resources::default() }).is_err());
    }

    #[test]
    fn memory_and_swap() {
        const MIB: i64 = 1 << 20;
        type Row = (Option<i64>, Option<i64>, Option<(Option<i64>, Option<i64>)>);
        let rows: [Row; 10] = [
            (Some(64 * MIB), None, Some((Some(64 * MIB), Some(128 * MIB)))),
            (Some(64 * MIB), Some(64 * MIB), Some((Some(64 * MIB), Some(64 * MIB)))),
            (Some(64 * MIB), Some(-1), Some((Some(64 * MIB), Some(-1)))),
            (Some(64 * MIB), Some(0), Some((Some(64 * MIB), Some(128 * MIB)))),
            (Some(64 * MIB), Some(63 * MIB), None),
            (None, Some(64 * MIB), None),
            (Some(64 * MIB), Some(-2), None),
            (Some(MIN_MEMORY), None, Some((Some(MIN_MEMORY), Some(2 * MIN_MEMORY)))),
            (Some(MIN_MEMORY - 1), None, None),
            (Some(-5), None, None),
        ];
        for (memory, memory_swap, expected) in rows {
            let got = of(&Resources { memory, memory_swap, ..Resources::default() });
            let got = got.ok().and_then(|resources| resources.memory).map(|memory| (memory.limit, memory.swap));
            assert_eq!(got, expected, "{memory:?} {memory_swap:?}");
        }
        let host = Table { swap: false, ..Table::default() };
        let said = Resources { memory: Some(64 * MIB), memory_swap: Some(70 * MIB), ..Resources::default() };
        let mut warnings = Vec::new();
        let got = resources(&said, &host, &mut warnings).expect("valid").memory.expect("limited");
        assert_eq!((got.swap, warnings.len()), (None, 1));
        let soft = Some(65 * MIB);
        assert!(of(&Resources { memory: Some(64 * MIB), memory_reservation: soft, ..Resources::default() }).is_err());
        assert!(of(&Resources { memory_swappiness: Some(101), ..Resources::default() }).is_err());
    }

    #[test]
    fn cpus_as_quota() {
        for (nano, expected) in [
            (500_000_000, Some(50_000)),
            (2_000_000_000, Some(200_000)),
            (10_000_000, Some(1_000)),
            (9_999_999, None),
            (2_000_000_001, None),
            (-1, None),
        ] {
            let got = of(&Resources { nano_cpus: Some(nano), ..Resources::default() }).ok().and_then(|r| r.cpu?.quota);
            assert_eq!(got, expected, "{nano}");
        }
        let both = Resources { nano_cpus: Some(1_000_000_000), cpu_quota: Some(1_000), ..Resources::default() };
        assert!(of(&both).is_err());
        for (period, valid) in [(999, false), (1_000, true), (1_000_000, true), (1_000_001, false)] {
            assert_eq!(of(&Resources { cpu_period: Some(period), ..Resources::default() }).is_ok(), valid, "{period}");
        }
        let one = of(&Resources { cpu_shares: Some(1), ..Resources::default() }).expect("valid");
        assert_eq!(one.cpu.and_then(|cpu| cpu.shares), Some(2));
    }

    #[test]
    fn lists_of_cpus() {
        for (said, valid) in [
            ("0", true),
            ("0-1", true),
            ("0,1", true),
            ("1-0", false),
            ("2", false),
            ("0-7", false),
            ("a", false),
            ("0,", false),
            ("-1", false),
            ("0-99999999", false),
            ("0 1", false),
        ] {
            let resources = Resources { cpuset_cpus: Some(said.to_owned()), ..Resources::default() };
            assert_eq!(of(&resources).is_ok(), valid, "{said:?}");
        }
    }

    #[test]
    fn block_devices() {
        let rate = |path: &str| Resources { device_write_bps: vec![(path.into(), 5)], ..Resources::default() };
        let got = of(&rate("/dev/sda")).expect("valid").block_io.expect("limited").throttle_write_bps_device;
        assert_eq!((got[0].major, got[0].minor, got[0].rate), (8, 0, 5));
        assert!(of(&rate("/dev/fuse")).is_err());
        assert!(of(&rate("/dev/nothing")).is_err());
        for (weight, valid) in [(9, false), (10, true), (1000, true), (1001, false)] {
            assert_eq!(
                of(&Resources { blkio_weight: Some(weight), ..Resources::default() }).is_ok(),
                valid,
                "{weight}"
            );
        }
    }
}
