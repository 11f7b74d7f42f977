//! A configuration's resources as properties of a unit (systemd.resource-control(5)).
//!
//! The exact limits are written to the group itself afterwards. What is said here keeps systemd from putting its own
//! idea back when it looks at the unit again (`daemon-reload`, a change of another property), so every limit that it
//! knows is said, and none that it would refuse. Device rules that it cannot express are said too widely: on v2 our own
//! program and systemd's have to agree, and ours is exact.

use oci::runtime::{LinuxBlockIo, LinuxDeviceCgroup, LinuxResources, LinuxThrottleDevice};

use super::wire::Value;
use crate::cgroup::{cpu_weight, io_weight};

/// The period in force when a quota comes without one, in microseconds (sched-bwc.rst of the kernel).
const DEFAULT_PERIOD: u64 = 100_000;

/// systemd keeps quotas as whole percents of a CPU: microseconds a second.
const PERCENT: u64 = 10_000;

/// One property.
pub(super) type Property = (String, Value);

/// The properties that `resources` ask for; `v2` says whether control groups are v2 alone.
pub(super) fn of(resources: &LinuxResources, v2: bool) -> Vec<Property> {
    let mut all = Vec::new();
    let mut put = |name: &str, value: Value| all.push((name.to_owned(), value));
    if let Some(memory) = &resources.memory {
        let limit = memory.limit.filter(|&limit| limit != 0);
        if let Some(limit) = limit {
            put(if v2 { "MemoryMax" } else { "MemoryLimit" }, bytes(limit));
        }
        if v2 && let Some(reservation) = memory.reservation.filter(|&reservation| reservation != 0) {
            put("MemoryLow", bytes(reservation));
        }
        // v1 counts memory and swap together, v2 swap alone.
        match (memory.swap.filter(|&swap| swap != 0), limit) {
            (Some(-1), _) | (None, Some(-1)) if v2 => put("MemorySwapMax", Value::U64(u64::MAX)),
            (Some(swap), Some(limit)) if v2 && limit > 0 && swap >= limit => put("MemorySwapMax", bytes(swap - limit)),
            _ => {}
        }
    }
    if let Some(cpu) = &resources.cpu {
        match cpu.shares.filter(|&shares| shares != 0) {
            _ if v2 && cpu.idle == Some(1) => put("CPUWeight", Value::U64(0)),
            Some(shares) if v2 => put("CPUWeight", Value::U64(cpu_weight(shares))),
            Some(shares) => put("CPUShares", Value::U64(shares.clamp(2, 262_144))),
            None => {}
        }
        let period = cpu.period.filter(|&period| period != 0);
        if let Some(period) = period {
            put("CPUQuotaPeriodUSec", Value::U64(period));
        }
        if let Some(quota) = cpu.quota.filter(|&quota| quota != 0) {
            let quota = u64::try_from(quota).ok();
            let each_second = quota.map(|quota| quota.saturating_mul(1_000_000) / period.unwrap_or(DEFAULT_PERIOD));
            let rounded = each_second.map_or(u64::MAX, |usec| usec.div_ceil(PERCENT).saturating_mul(PERCENT));
            put("CPUQuotaPerSecUSec", Value::U64(rounded));
        }
        if v2 {
            for (name, list) in [("AllowedCPUs", &cpu.cpus), ("AllowedMemoryNodes", &cpu.mems)] {
                if let Some(mask) = mask(list).filter(|mask| !mask.is_empty()) {
                    put(name, Value::Bytes(mask));
                }
            }
        }
    }
    if let Some(limit) = resources.pids.as_ref().and_then(|pids| pids.limit) {
        // systemd refuses 0, which a group takes.
        put("TasksMax", Value::U64(u64::try_from(limit).map_or(u64::MAX, |limit| limit.max(1))));
    }
    if let Some(block) = &resources.block_io {
        block_io(block, v2, &mut put);
    }
    if v2 {
        for (key, value) in &resources.unified {
            if let Some((name, value)) = raw(key, value.trim()) {
                put(name, value);
            }
        }
    }
    all
}

fn bytes(value: i64) -> Value {
    Value::U64(u64::try_from(value).unwrap_or(u64::MAX))
}

fn block_io(block: &LinuxBlockIo, v2: bool, put: &mut impl FnMut(&str, Value)) {
    let path = |major: i64, minor: i64| format!("/dev/block/{major}:{minor}");
    if let Some(weight) = block.weight.filter(|&weight| weight != 0) {
        match v2 {
            true => put("IOWeight", Value::U64(io_weight(weight))),
            false => put("BlockIOWeight", Value::U64(weight.into())),
        }
    }
    if !v2 {
        return;
    }
    let weights = block.weight_device.iter().filter_map(|device| Some((device, device.weight.filter(|&w| w != 0)?)));
    let weights: Vec<_> =
        weights.map(|(device, weight)| (path(device.major, device.minor), io_weight(weight))).collect();
    if !weights.is_empty() {
        put("IODeviceWeight", Value::Rates(weights));
    }
    let mut throttle = |name: &str, devices: &[LinuxThrottleDevice]| {
        let rate = |rate: u64| if rate == 0 { u64::MAX } else { rate };
        let rates: Vec<_> =
            devices.iter().map(|device| (path(device.major, device.minor), rate(device.rate))).collect();
        if !rates.is_empty() {
            put(name, Value::Rates(rates));
        }
    };
    throttle("IOReadBandwidthMax", &block.throttle_read_bps_device);
    throttle("IOWriteBandwidthMax", &block.throttle_write_bps_device);
    throttle("IOReadIOPSMax", &block.throttle_read_iops_device);
    throttle("IOWriteIOPSMax", &block.throttle_write_iops_device);
}

/// The raw keys of control groups v2 that a unit has a property for.
fn raw(key: &str, value: &str) -> Option<(&'static str, Value)> {
    let number = || if value == "max" { Some(u64::MAX) } else { value.parse().ok() };
    let name = match key {
        "cpuset.cpus" => return Some(("AllowedCPUs", Value::Bytes(mask(value)?))),
        "cpuset.mems" => return Some(("AllowedMemoryNodes", Value::Bytes(mask(value)?))),
        "pids.max" => return Some(("TasksMax", Value::U64(number()?.max(1)))),
        "memory.min" => "MemoryMin",
        "memory.low" => "MemoryLow",
        "memory.high" => "MemoryHigh",
        "memory.max" => "MemoryMax",
        "memory.swap.max" => "MemorySwapMax",
        "memory.zswap.max" => "MemoryZSwapMax",
        "cpu.weight" => "CPUWeight",
        _ => return None,
    };
    Some((name, Value::U64(number()?)))
}

/// Highest CPU or node number taken: what the kernel itself is built for at most (`CONFIG_NR_CPUS`).
const HIGHEST: usize = 8191;

/// A list such as `0-3,7` as a mask, the lowest byte first; `None` for what is none.
fn mask(list: &str) -> Option<Vec<u8>> {
    let mut mask = Vec::new();
    for range in list.split(',').map(str::trim).filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last > HIGHEST {
            return None;
        }
        for bit in first..=last {
            if mask.len() <= bit / 8 {
                mask.resize(bit / 8 + 1, 0);
            }
            mask[bit / 8] |= 1 << (bit % 8);
        }
    }
    Some(mask)
}

/// What every container may use besides its own list: the specification's default devices, and any terminal.
const DEFAULT_DEVICES: [(&str, &str); 9] = [
    ("/dev/char/1:3", "rwm"),
    ("/dev/char/1:5", "rwm"),
    ("/dev/char/1:7", "rwm"),
    ("/dev/char/1:8", "rwm"),
    ("/dev/char/1:9", "rwm"),
    ("/dev/char/5:0", "rwm"),
    ("/dev/char/5:2", "rwm"),
    ("char-pts", "rwm"),
    ("char-*", "m"),
];

/// `DevicePolicy` and `DeviceAllow` for rules in order: everything, when the last rule for everything allows it.
pub(super) fn devices(rules: &[LinuxDeviceCgroup]) -> Vec<Property> {
    let everything = |rule: &&LinuxDeviceCgroup| {
        matches!(rule.kind.as_str(), "" | "a") && number(rule.major).is_none() && number(rule.minor).is_none()
    };
    let open = rules.iter().rfind(everything).is_some_and(|rule| rule.allow);
    if open {
        let none = Value::Pairs(Vec::new());
        return vec![("DevicePolicy".to_owned(), Value::Text("auto".to_owned())), ("DeviceAllow".to_owned(), none)];
    }
    let mut allowed: Vec<(String, String)> =
        DEFAULT_DEVICES.iter().map(|(device, access)| ((*device).to_owned(), (*access).to_owned())).collect();
    allowed.push(("block-*".to_owned(), "m".to_owned()));
    for rule in rules.iter().filter(|rule| rule.allow) {
        let kinds: &[&str] = match rule.kind.as_str() {
            "b" => &["block"],
            "c" | "u" => &["char"],
            _ => &["char", "block"],
        };
        let access = if rule.access.is_empty() { "rwm" } else { rule.access.as_str() };
        for kind in kinds {
            let device = match (number(rule.major), number(rule.minor)) {
                (Some(major), Some(minor)) => format!("/dev/{kind}/{major}:{minor}"),
                // A major number alone would have to be named, as in /proc/devices: wider than was asked for.
                _ => format!("{kind}-*"),
            };
            allowed.push((device, access.to_owned()));
        }
    }
    vec![
        ("DevicePolicy".to_owned(), Value::Text("strict".to_owned())),
        // Empty first: a list is added to the one in force.
        ("DeviceAllow".to_owned(), Value::Pairs(Vec::new())),
        ("DeviceAllow".to_owned(), Value::Pairs(allowed)),
    ]
}

/// A number that is given, and is not the wildcard.
fn number(number: Option<i64>) -> Option<i64> {
    number.filter(|&number| number >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(json: &str) -> Vec<(String, Value)> {
        of(&serde_json::from_str(json).expect("valid JSON"), true)
    }

    fn find(all: &[Property], name: &str) -> Option<Value> {
        all.iter().rfind(|(known, _)| known == name).map(|(_, value)| value.clone())
    }

    #[test]
    fn limits_have_the_names_and_scales_of_systemd() {
        let all = v2(r#"{"memory": {"limit": 1000, "swap": 3000, "reservation": 500},
                "cpu": {"shares": 1024, "quota": 12345, "period": 100000, "cpus": "0-2,9", "mems": "0"},
                "pids": {"limit": 0},
                "blockIO": {"weight": 1000, "throttleReadBpsDevice": [{"major": 8, "minor": 1, "rate": 7}]},
                "unified": {"memory.high": "max", "pids.max": "9", "io.max": "8:0 rbps=1"}}"#);
        let expected = [
            ("MemoryMax", Value::U64(1000)),
            ("MemorySwapMax", Value::U64(2000)),
            ("MemoryLow", Value::U64(500)),
            ("MemoryHigh", Value::U64(u64::MAX)),
            ("CPUWeight", Value::U64(100)),
            ("CPUQuotaPeriodUSec", Value::U64(100_000)),
            ("CPUQuotaPerSecUSec", Value::U64(130_000)),
            ("AllowedCPUs", Value::Bytes(vec![7, 2])),
            ("AllowedMemoryNodes", Value::Bytes(vec![1])),
            ("TasksMax", Value::U64(9)),
            ("IOWeight", Value::U64(10_000)),
            ("IOReadBandwidthMax", Value::Rates(vec![("/dev/block/8:1".to_owned(), 7)])),
        ];
        for (name, value) in expected {
            assert_eq!(find(&all, name), Some(value), "{name}");
        }
        assert_eq!(v2(r#"{"pids": {"limit": 0}}"#), [("TasksMax".to_owned(), Value::U64(1))]);
        assert_eq!(v2("{}"), []);
    }

    #[test]
    fn no_limit_is_the_largest_number() {
        let all = v2(r#"{"memory": {"limit": -1}, "cpu": {"quota": -1}, "pids": {"limit": -1}}"#);
        for name in ["MemoryMax", "MemorySwapMax", "CPUQuotaPerSecUSec", "TasksMax"] {
            assert_eq!(find(&all, name), Some(Value::U64(u64::MAX)), "{name}");
        }
    }

    #[test]
    fn devices_are_a_list_unless_everything_is_allowed() {
        let rules = |json: &str| devices(&serde_json::from_str::<Vec<LinuxDeviceCgroup>>(json).expect("valid JSON"));
        let open = rules(r#"[{"allow": false}, {"allow": true, "type": "a"}]"#);
        assert_eq!(find(&open, "DevicePolicy"), Some(Value::Text("auto".to_owned())));
        let some = rules(
            r#"[{"allow": false}, {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
                {"allow": true, "type": "b", "major": 8, "access": "r"}]"#,
        );
        assert_eq!(find(&some, "DevicePolicy"), Some(Value::Text("strict".to_owned())));
        let Some(Value::Pairs(pairs)) = find(&some, "DeviceAllow") else { panic!("{some:?}") };
        for (device, access) in [("/dev/char/10:229", "rw"), ("block-*", "r"), ("char-pts", "rwm")] {
            assert!(pairs.contains(&(device.to_owned(), access.to_owned())), "{device} in {pairs:?}");
        }
    }

    #[test]
    fn a_list_of_numbers_is_a_mask_or_nothing() {
        assert_eq!(mask("0,15"), Some(vec![1, 128]));
        assert_eq!(mask(""), Some(Vec::new()));
        for bad in ["x", "3-1", "1-", "9999", "0-99999999999"] {
            assert_eq!(mask(bad), None, "{bad}");
        }
    }
}
