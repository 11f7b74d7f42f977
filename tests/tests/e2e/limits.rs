//! Limits: measured from outside, by the kernel's own counters.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;
use testkit::{Host, cgroup, process::tool};

use crate::runtime_process::{bundle, runtime, text, unique};

#[test]
fn a_memory_hog_is_killed_and_inspect_says_why() {
    let host = Host::new();
    host.load(&crate::armed("armed:1"));
    let output = host.lighter(&["run", "--name", "hog", "-m", "64m", "armed:1", "payload", "hog", "256"]);
    output.exits(137);
    let state = host.inspect("hog")["State"].clone();
    assert_eq!(
        (&state["OOMKilled"], &state["ExitCode"], &state["Status"]),
        (&json!(true), &json!(137), &json!("exited"))
    );
    let fits = host.lighter(&["run", "--name", "fits", "-m", "64m", "armed:1", "payload", "hog", "32"]);
    assert_eq!(fits.ok().out(), "held 32 MiB");
    assert_eq!(host.inspect("fits")["State"]["OOMKilled"], false);
}

#[test]
fn half_a_mebibyte_is_enough_to_start() {
    let host = Host::new();
    let limited = |name: &str, script: &str| {
        let dir = bundle(&host, name, script, |config| {
            config["linux"]["resources"] = json!({"memory": {"limit": 512 * 1024, "swap": 512 * 1024}});
        });
        runtime(&host, &["run", "--bundle", &text(&dir), &unique(name)])
    };
    assert_eq!(limited("half", "echo started").ok().out(), "started");
    // The limit is one: what asks for sixteen times as much is killed.
    limited("hog", "exec dd if=/dev/zero of=/dev/null bs=8M count=1").exits(137);
}

#[test]
fn a_fork_bomb_stays_in_its_limit() {
    let host = Host::alone();
    host.load(&crate::armed("busybox:latest"));
    let id = host.detached(&["--name", "bomb", "--pids-limit", "64"], &["payload", "bomb"]);
    // No bomb goes off without its limit.
    assert_eq!(cgroup::read(&id, "pids.max").as_deref(), Some("64"));
    let end = Instant::now() + Duration::from_secs(4);
    let mut most = 0;
    while Instant::now() < end {
        // The list, not pids.current: that one counts an attempt until it is refused.
        most = most.max(cgroup::pids(&id).len());
        let start = Instant::now();
        tool("true", &[]);
        assert!(start.elapsed() < testkit::wait::patient(Duration::from_secs(1)), "the host answers");
    }
    assert!((60..=64).contains(&most), "at most 64 processes, and it did bomb: {most}");
    let removal = host.lighter(&["rm", "-f", "bomb"]);
    assert!(removal.ok().took < testkit::wait::patient(Duration::from_secs(10)), "{removal}");
    host.assert_clean();
}

#[test]
fn a_tenth_of_a_cpu_is_a_tenth_of_a_cpu() {
    let host = Host::alone();
    host.load(&crate::armed("busybox:latest"));
    let id = host.detached(&["--cpus", "0.1"], &["payload", "spin", "30"]);
    std::thread::sleep(Duration::from_millis(500));
    let (start, used) = (Instant::now(), cgroup::cpu_used(&id));
    std::thread::sleep(Duration::from_secs(4));
    let share = (cgroup::cpu_used(&id) - used).as_secs_f64() / start.elapsed().as_secs_f64();
    // A busy machine may give less than the limit allows; what says that it was reached is the throttling.
    assert!((0.02..=0.13).contains(&share), "used {share:.3} of a core");
    // On v1 the empty v2 group beside it has a file of that name too, without the line.
    let stats = cgroup::dirs(&id).into_iter().filter_map(|dir| std::fs::read_to_string(dir.join("cpu.stat")).ok());
    let stats: Vec<String> = stats.collect();
    let throttled = stats.iter().flat_map(|text| text.lines()).find_map(|line| line.strip_prefix("nr_throttled "));
    assert_ne!(throttled.expect("nr_throttled").trim(), "0", "it wanted more than it got");
}

#[test]
fn default_and_given_limits_reach_the_kernel() {
    let host = Host::with_busybox();
    let plain = host.detached(&[], &["sleep", "1000"]);
    assert_eq!(cgroup::read(&plain, "pids.max").as_deref(), Some("2048"));
    let id = host.detached(
        &["-m", "100m", "--memory-swap", "100m", "--cpus", "1.5", "--cpu-shares", "512", "--cpuset-cpus", "0"],
        &["sleep", "1000"],
    );
    let bytes = (100u64 << 20).to_string();
    if cgroup::is_v2() {
        assert_eq!(cgroup::read(&id, "memory.max"), Some(bytes));
        assert_eq!(cgroup::read(&id, "memory.swap.max").as_deref(), Some("0"));
        assert_eq!(cgroup::read(&id, "cpu.max").as_deref(), Some("150000 100000"));
    } else {
        assert_eq!(cgroup::read(&id, "memory.limit_in_bytes"), Some(bytes));
        assert_eq!(cgroup::read(&id, "cpu.cfs_quota_us").as_deref(), Some("150000"));
        assert_eq!(cgroup::read(&id, "cpu.shares").as_deref(), Some("512"));
    }
    assert_eq!(cgroup::read(&id, "cpuset.cpus").as_deref(), Some("0"));
    assert_eq!(host.lighter(&["exec", &id, "nproc"]).ok().out(), "1");
    let config = host.inspect(&id)["HostConfig"].clone();
    assert_eq!(
        (&config["NanoCpus"], &config["CpuShares"], &config["CpusetCpus"]),
        (&json!(1_500_000_000u64), &json!(512), &json!("0"))
    );
}

/// The disk under `path`: the whole device, which is what throttling takes.
fn disk(path: &std::path::Path) -> Option<PathBuf> {
    let device = std::fs::metadata(path).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let mut entry = std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    if entry.join("partition").exists() {
        entry.pop();
    }
    Some(PathBuf::from("/dev").join(entry.file_name()?))
}

#[test]
fn device_write_bps_throttles() {
    let host = Host::alone();
    host.load(&testkit::Image::busybox("busybox:latest"));
    let disk = disk(host.root()).expect("the data root is on a disk");
    // Direct writes: control groups v1 see no others.
    let script = "dd if=/dev/zero of=/x bs=256k count=16 oflag=direct 2>/dev/null && rm /x";
    let write = |flags: &[&str]| {
        let start = Instant::now();
        host.sh(flags, script).ok();
        start.elapsed()
    };
    let free = write(&[]);
    let throttled = write(&["--device-write-bps", &format!("{}:1mb", disk.display())]);
    // Four MiB at one MiB a second.
    assert!(throttled > Duration::from_secs(2), "4 MiB took {throttled:?}, and {free:?} without a limit");
    assert!(throttled < testkit::wait::patient(Duration::from_secs(15)), "4 MiB took {throttled:?}");
    assert!(free < testkit::wait::patient(Duration::from_secs(2)), "4 MiB took {free:?} without a limit");
}
