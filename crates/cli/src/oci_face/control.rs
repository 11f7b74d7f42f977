//! `pause`, `resume`, `update`: what is done to a container's control group.

use std::io::Read as _;
use std::time::Duration;

use oci::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};
use runtime::cgroup::{Cgroup, Layout};
use sys::fs::Lock;

use super::arguments::Flags;
use super::failure::Failure;
use super::store::{Container, LONGEST_CONFIG, Status, Store, group};
use crate::parse::size;

/// How long processes may take to stop.
const PATIENCE: Duration = Duration::from_secs(10);

/// `pause`.
pub(super) fn pause(global: &Flags, flags: &Flags) -> Result<i32, Failure> {
    let (status, _container, _lock, group) = find(global, flags)?;
    match status {
        Status::Created | Status::Running => group.freeze(PATIENCE)?,
        other => return Err(Failure::new(format!("cannot pause a container that is {}", other.word()))),
    }
    Ok(0)
}

/// `resume`.
pub(super) fn resume(global: &Flags, flags: &Flags) -> Result<i32, Failure> {
    let (status, _container, _lock, group) = find(global, flags)?;
    // A created container that was paused is still said to be created.
    if status != Status::Paused && !group.is_frozen()? {
        return Err(Failure::new(format!("cannot resume a container that is {}, not paused", status.word())));
    }
    group.thaw()?;
    Ok(0)
}

/// `update`.
pub(super) fn update(global: &Flags, flags: &Flags) -> Result<i32, Failure> {
    let resources = match flags.get("resources") {
        Some(source) => read_resources(source)?,
        None => resources(flags)?,
    };
    let (_, container, _lock, group) = find(global, flags)?;
    if let Some(unit) = container.whole_record()?.unit {
        // First, so that the group's exact values are the last word.
        runtime::systemd::update(&unit, &resources, group.host().layout() == Layout::V2)?;
    }
    group.update(&resources)?;
    Ok(0)
}

fn find(global: &Flags, flags: &Flags) -> Result<(Status, Container, Lock, Cgroup), Failure> {
    let container = Store::new(global).open(flags.id())?;
    let lock = container.lock()?;
    let record = container.whole_record()?;
    let (status, _) = container.status(&record)?;
    let running = !matches!(status, Status::Stopped | Status::Creating);
    if running && record.cgroup.is_none() {
        return Err(Failure::new(format!(
            "container {:?} has no control group of its own, without which it can be neither paused nor limited",
            container.id
        )));
    }
    match group(&record)? {
        Some(group) if running => Ok((status, container, lock, group)),
        _ => Err(Failure::new("container not running")),
    }
}

fn read_resources(source: &str) -> Result<LinuxResources, Failure> {
    let wrong = |why: &dyn std::fmt::Display| Failure::new(format!("--resources {source}: {why}"));
    let mut bytes = Vec::new();
    let limit = u64::try_from(LONGEST_CONFIG).unwrap_or(u64::MAX);
    let read = if source == "-" {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(source).and_then(|file| file.take(limit).read_to_end(&mut bytes))
    };
    read.map_err(|error| wrong(&error))?;
    serde_json::from_slice(&bytes).map_err(|error| wrong(&error))
}

fn resources(flags: &Flags) -> Result<LinuxResources, Failure> {
    let bytes = |name: &str| -> Result<Option<i64>, Failure> {
        let read = |text| size::bytes_or_unlimited(text).map_err(|error| Failure::new(format!("--{name}: {error}")));
        flags.get(name).map(read).transpose()
    };
    let memory = LinuxMemory {
        limit: bytes("memory")?,
        reservation: bytes("memory-reservation")?,
        swap: bytes("memory-swap")?,
        kernel: bytes("kernel-memory")?,
        kernel_tcp: bytes("kernel-memory-tcp")?,
        ..LinuxMemory::default()
    };
    let shares = flags.number("cpu-share")?;
    let cpu = LinuxCpu {
        shares: if shares.is_some() { shares } else { flags.number("cpu-shares")? },
        quota: flags.number("cpu-quota")?,
        burst: flags.number("cpu-burst")?,
        period: flags.number("cpu-period")?,
        realtime_runtime: flags.number("cpu-rt-runtime")?,
        realtime_period: flags.number("cpu-rt-period")?,
        cpus: flags.get("cpuset-cpus").unwrap_or_default().to_owned(),
        mems: flags.get("cpuset-mems").unwrap_or_default().to_owned(),
        idle: flags.number("cpu-idle")?,
    };
    let pids = flags.number("pids-limit")?;
    let weight = flags.number("blkio-weight")?;
    Ok(LinuxResources {
        memory: (memory != LinuxMemory::default()).then_some(memory),
        cpu: (cpu != LinuxCpu::default()).then_some(cpu),
        pids: pids.map(|limit| LinuxPids { limit: Some(limit) }),
        block_io: weight.map(|weight| LinuxBlockIo { weight: Some(weight), ..LinuxBlockIo::default() }),
        ..LinuxResources::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci_face::arguments::{Command, parse};

    fn read(line: &str) -> Result<LinuxResources, Failure> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let (_, Ok(Command::Run("update", flags))) = parse(&words) else { panic!("{line}") };
        resources(&flags)
    }

    #[test]
    fn flags_are_resources() {
        let resources =
            read("update --memory 32M --memory-swap -1 --cpu-share 512 --pids-limit 7 --blkio-weight 20 c1");
        let resources = resources.expect("valid");
        let memory = resources.memory.expect("some");
        assert_eq!((memory.limit, memory.swap, memory.reservation), (Some(32 << 20), Some(-1), None));
        assert_eq!(resources.cpu.expect("some").shares, Some(512));
        assert_eq!(resources.pids.expect("some").limit, Some(7));
        assert_eq!(resources.block_io.expect("some").weight, Some(20));
        assert_eq!(read("update c1").expect("valid"), LinuxResources::default());
        for line in ["update --memory x c1", "update --cpu-share -5 c1", "update --pids-limit many c1"] {
            assert!(read(line).is_err(), "{line}");
        }
    }

    #[test]
    fn resources_come_from_a_file() {
        let path = std::env::temp_dir().join(format!("lighter-update-{}", std::process::id()));
        std::fs::write(&path, r#"{"pids": {"limit": 9}}"#).expect("written");
        let read = read_resources(path.to_str().expect("text"));
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(read.expect("valid").pids.expect("some").limit, Some(9));
        assert!(read_resources("/nonexistent").is_err());
    }
}
