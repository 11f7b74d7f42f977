//! Against the kernel: groups of our own, named at random, taken away at the end. Without root, or without hierarchies,
//! there is nothing to show and the tests pass.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use oci::runtime::LinuxResources;

use super::devices::Policy;
use super::*;

const PATIENCE: Duration = Duration::from_secs(5);

fn resources(json: &str) -> LinuxResources {
    serde_json::from_str(json).expect("valid JSON")
}

fn name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let random = std::fs::read_to_string("/proc/sys/kernel/random/uuid").expect("readable");
    format!("/lighter-test-{}-{}", random.split('-').next().expect("a part"), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn host() -> Option<Arc<Host>> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    match Host::detect() {
        Ok(host) => Some(host),
        Err(Error::NotMounted) => None,
        Err(error) => panic!("{error}"),
    }
}

/// A host with the v1 hierarchies these tests are about.
fn v1_host() -> Option<Arc<Host>> {
    host().filter(|host| {
        host.layout() != Layout::V2
            && ["memory", "cpu", "cpuset", "devices", "freezer", "pids"].iter().all(|c| host.has_controller(c))
    })
}

/// A host of either version with the controllers most limits need.
fn limiting_host() -> Option<Arc<Host>> {
    host().filter(|host| ["memory", "cpu", "cpuset", "pids"].iter().all(|c| host.has_controller(c)))
}

/// A host with the unified hierarchy alone.
fn v2_host() -> Option<Arc<Host>> {
    limiting_host().filter(|host| host.layout() == Layout::V2)
}

/// A group that goes away with its processes when the test ends, however it ends.
struct Group(Cgroup);

impl Group {
    fn new(host: &Arc<Host>, json: &str) -> Self {
        let made = Cgroup::create(host, &name(), Some(&resources(json)), &CreateOptions::default());
        Self(made.expect("created"))
    }

    fn file(&self, controller: &str, file: &str) -> String {
        let dir = self.0.controller(controller).expect("readable").expect("present");
        dir.read(file).expect("readable").trim().to_owned()
    }

    fn paths(&self) -> Vec<PathBuf> {
        self.0.hierarchies().expect("readable").into_iter().map(|dir| dir.path).collect()
    }

    /// Starts a shell that enters the group by itself, everywhere, and then runs `script`; gives it when it is inside.
    fn spawn(&self, script: &str) -> Child {
        let mut text = String::new();
        for dir in self.0.hierarchies().expect("readable") {
            let file = if dir.version == Version::V1 { "tasks" } else { "cgroup.procs" };
            text.push_str(&format!("echo 0 > {}/{file} || exit 99\n", dir.path.display()));
        }
        text.push_str("echo in\n");
        text.push_str(script);
        let mut command = Command::new("sh");
        command.arg("-c").arg(text).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("a shell");
        let mut line = [0; 3];
        child.stdout.as_mut().expect("piped").read_exact(&mut line).expect("it is inside everywhere");
        child
    }

    fn wait_for_processes(&self, count: usize) {
        let start = Instant::now();
        while self.0.pids().expect("readable").len() != count {
            assert!(start.elapsed() < PATIENCE, "{:?}", self.0.pids());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.0.kill_all(PATIENCE);
        let _ = self.0.remove();
    }
}

#[test]
fn a_group_is_everywhere_has_its_limits_and_is_gone_after_removal() {
    let Some(host) = v1_host() else { return };
    let group = Group::new(
        &host,
        r#"{"memory": {"limit": 67108864, "reservation": 33554432, "swappiness": 10}, "pids": {"limit": 17},
            "cpu": {"shares": 512, "quota": 20000, "period": 50000, "cpus": "0"}}"#,
    );
    assert_eq!(group.paths().len(), host.hierarchies().len());
    assert_eq!(group.file("memory", "memory.limit_in_bytes"), "67108864");
    assert_eq!(group.file("memory", "memory.soft_limit_in_bytes"), "33554432");
    assert_eq!(group.file("pids", "pids.max"), "17");
    assert_eq!(group.file("cpu", "cpu.shares"), "512");
    assert_eq!(group.file("cpu", "cpu.cfs_quota_us"), "20000");
    assert_eq!(group.file("cpuset", "cpuset.cpus"), "0");
    assert_ne!(group.file("cpuset", "cpuset.mems"), "");
    let stats = group.0.stats().expect("readable");
    assert_eq!(stats.memory.expect("present").limit, Some(67_108_864));
    assert_eq!(stats.pids.expect("present"), PidsStats { current: 0, limit: Some(17) });

    let paths = group.paths();
    std::fs::create_dir(paths[0].join("inner")).expect("root may");
    std::fs::create_dir(paths[0].join("inner/most")).expect("root may");
    group.0.remove().expect("removable");
    assert!(paths.iter().all(|path| !path.exists()));
    group.0.remove().expect("nothing to do");
    assert!(matches!(Cgroup::open(&host, &group.0.path()), Err(Error::NotFound { .. })));
}

#[test]
fn a_thread_enters_by_itself_and_another_handle_sees_it() {
    let Some(host) = v1_host() else { return };
    let group = Group::new(&host, "{}");
    let again = Cgroup::open(&host, &group.0.path()).expect("exists");
    let fds = again.entry_fds().expect("writable");
    let memberships = std::thread::spawn(move || {
        fds.enter_self().expect("permitted");
        std::fs::read_to_string("/proc/thread-self/cgroup").expect("readable")
    })
    .join()
    .expect("no panic");
    let path = group.0.path();
    for line in memberships.lines().filter(|line| !line.starts_with("0:")) {
        assert!(line.ends_with(&path), "{line}");
    }
    assert!(memberships.lines().count() >= host.hierarchies().len());
}

#[test]
fn a_failure_leaves_nothing_and_names_the_flag() {
    let Some(host) = limiting_host() else { return };
    for (json, flag) in [
        (r#"{"cpu": {"cpus": "4095"}}"#, "--cpuset-cpus"),
        (r#"{"cpu": {"quota": 5, "period": 100000}}"#, "--cpu-quota"),
        (r#"{"blockIO": {"throttleReadBpsDevice": [{"major": 4000, "minor": 9, "rate": 5}]}}"#, "--device-read-bps"),
        (r#"{"rdma": {"none": {"hcaHandles": 1}}}"#, "rdma"),
        (r#"{"devices": [{"allow": true, "type": "x"}]}"#, "--device-cgroup-rule"),
    ] {
        let (outer, path) = (name(), format!("{}/inner", name()));
        let path = format!("{outer}{path}");
        let error =
            Cgroup::create(&host, &path, Some(&resources(json)), &CreateOptions::default()).expect_err("not possible");
        assert!(error.to_string().contains(flag), "{error}");
        for hierarchy in host.hierarchies() {
            assert!(!hierarchy.mount.join(outer.trim_start_matches('/')).exists(), "{}", hierarchy.mount.display());
        }
    }
}

#[test]
fn groups_above_are_made_usable() {
    let Some(host) = v1_host() else { return };
    let cpuset = &host.hierarchies()[host.index_of("cpuset").expect("mounted")].mount;
    let outer = name();
    let made = Cgroup::create(&host, &format!("{outer}/inner"), None, &CreateOptions::default());
    let outer = Group(Cgroup::open(&host, &outer).expect("made on the way"));
    let inner = made.expect("created");
    assert_eq!(
        outer.file("cpuset", "cpuset.mems"),
        std::fs::read_to_string(cpuset.join("cpuset.mems")).expect("readable").trim()
    );
    assert_eq!(outer.0.nested("inner").expect("exists").path(), inner.path());
    inner.remove().expect("removable");
    // A group above that another process made and has not filled yet.
    let bare = name();
    std::fs::create_dir(cpuset.join(bare.trim_start_matches('/'))).expect("root may");
    let bare = Group(Cgroup::open(&host, &bare).expect("exists"));
    let inner = Cgroup::create(&host, &format!("{}/inner", bare.0.path()), None, &CreateOptions::default());
    assert_ne!(bare.file("cpuset", "cpuset.cpus"), "");
    inner.expect("created").remove().expect("removable");
    assert_eq!(outer.paths().len(), host.hierarchies().len());
}

#[test]
fn a_group_in_use_or_frozen_is_refused_and_an_empty_one_taken_over() {
    let Some(host) = limiting_host() else { return };
    let group = Group::new(&host, "{}");
    let create = || Cgroup::create(&host, &group.0.path(), None, &CreateOptions::default());
    create().expect("empty");
    group.0.freeze(PATIENCE).expect("freezable");
    assert!(matches!(create(), Err(Error::Frozen { .. })));
    group.0.thaw().expect("frozen");
    let mut child = group.spawn("exec sleep 60");
    group.wait_for_processes(1);
    assert!(matches!(create(), Err(Error::InUse { .. })));
    group.0.kill_all(PATIENCE).expect("killable");
    child.wait().expect("ours");
    create().expect("empty again");
}

#[test]
fn all_processes_are_frozen_thawed_and_killed() {
    let Some(host) = limiting_host() else { return };
    let group = Group::new(&host, "{}");
    let mut child = group.spawn("sleep 61 & sleep 62 & wait");
    group.wait_for_processes(3);
    assert!(!group.0.is_frozen().expect("readable"));
    group.0.freeze(PATIENCE).expect("freezable");
    assert!(group.0.is_frozen().expect("readable"));
    group.0.thaw().expect("frozen");
    assert!(!group.0.is_frozen().expect("readable"));
    group.0.freeze(PATIENCE).expect("freezable");
    let start = Instant::now();
    group.0.kill_all(PATIENCE).expect("killable while frozen");
    assert!(start.elapsed() < PATIENCE);
    assert!(group.0.pids().expect("readable").is_empty());
    assert!(!child.wait().expect("ours").success());
    group.0.remove().expect("empty");
    group.0.kill_all(PATIENCE).expect("nothing to kill");
}

#[test]
fn processes_that_only_v1_knows_are_killed_too() {
    let Some(host) = v1_host() else { return };
    let group = Group::new(&host, "{}");
    let path = group.0.controller("freezer").expect("readable").expect("present").label("tasks");
    let mut child = Command::new("sh")
        .arg("-c")
        .arg(format!("echo 0 > {path} && (while :; do sleep 60 & sleep 0.01; done)"))
        .spawn()
        .expect("a shell");
    group.wait_for_processes(5);
    group.0.kill_all(PATIENCE).expect("killable while forking");
    child.wait().expect("ours");
    assert!(group.0.pids().expect("readable").is_empty());
}

#[test]
fn a_busy_group_is_reported_and_kept() {
    let Some(host) = limiting_host() else { return };
    let group = Group::new(&host, "{}");
    let mut child = group.spawn("exec sleep 60");
    group.wait_for_processes(1);
    match group.0.remove() {
        Err(Error::NotRemoved { failures, .. }) => assert_eq!(failures.len(), host.hierarchies().len()),
        other => panic!("{other:?}"),
    }
    group.0.kill_all(PATIENCE).expect("killable");
    child.wait().expect("ours");
}

#[test]
fn limits_that_bound_each_other_move_both_ways() {
    let Some(host) = v1_host() else { return };
    let group = Group::new(&host, r#"{"cpu": {"quota": 50000, "period": 100000}}"#);
    let set = |json: &str| group.0.update(&resources(json));
    let swap = host.limits_swap();
    for (limit, total) in [(64 << 20, 128 << 20), (256 << 20, 512 << 20), (32 << 20, 33 << 20), (-1, -1)] {
        let json = if swap {
            format!(r#"{{"memory": {{"limit": {limit}, "swap": {total}}}}}"#)
        } else {
            format!(r#"{{"memory": {{"limit": {limit}}}}}"#)
        };
        set(&json).expect("settable");
        let memory = group.0.stats().expect("readable").memory.expect("present");
        assert_eq!(memory.limit, u64::try_from(limit).ok());
        if swap {
            assert_eq!(memory.swap_limit, u64::try_from(total).ok());
        }
    }
    set(r#"{"cpu": {"quota": 2000, "period": 1000}}"#).expect("settable");
    set(r#"{"cpu": {"quota": 500000, "period": 1000000, "burst": 400000}}"#).expect("settable");
    set(r#"{"cpu": {"quota": 1000, "period": 1000, "burst": 0}}"#).expect("settable");
    assert_eq!(group.file("cpu", "cpu.cfs_quota_us"), "1000");
}

#[test]
fn a_memory_limit_below_the_use_is_refused_and_a_kill_is_counted() {
    let Some(host) = limiting_host() else { return };
    let group = Group::new(&host, r#"{"memory": {"limit": 33554432}}"#);
    assert_eq!(group.0.oom_kills().expect("readable"), 0);
    // One line without an end: held in memory by the reader.
    let mut child = group.spawn("exec tail -n 1 /dev/zero");
    assert!(!child.wait().expect("ours").success());
    assert!(group.0.oom_kills().expect("readable") >= 1);
    let stats = group.0.stats().expect("readable").memory.expect("present");
    assert!(stats.failures > 0 && stats.oom_kills >= 1, "{stats:?}");

    let mut child = group.spawn("head -c 16000000 /dev/zero | tail -n 1 | sleep 60");
    let start = Instant::now();
    let use_now = || group.0.stats().expect("readable").memory.expect("present").anonymous;
    while use_now() < 8 << 20 && start.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(5));
    }
    let json = r#"{"memory": {"limit": 65536, "checkBeforeUpdate": true}}"#;
    let error = group.0.update(&resources(json)).expect_err("too little");
    assert!(matches!(error, Error::BelowUsage { usage, .. } if usage > 65536), "{error}");
    group.0.kill_all(PATIENCE).expect("killable");
    child.wait().expect("ours");
}

#[test]
fn v1_device_rules_are_in_force_and_replaced() {
    let Some(host) = v1_host() else { return };
    let group = Group::new(
        &host,
        r#"{"devices": [{"allow": false}, {"allow": true, "type": "c", "major": 10, "minor": 229}]}"#,
    );
    let list = || group.file("devices", "devices.list");
    assert!(list().contains("c 10:229 rwm") && list().contains("c 1:3 rwm") && !list().contains("a *:*"), "{}", list());
    let update = r#"{"devices": [{"allow": false}, {"allow": true, "type": "b", "major": 8, "access": "r"}]}"#;
    group.0.update(&resources(update)).expect("settable");
    assert!(list().contains("b 8:* r") && list().contains("c 1:3 rwm") && !list().contains("10:229"), "{}", list());
    group.0.update(&resources(r#"{"devices": [{"allow": true}]}"#)).expect("settable");
    assert_eq!(list(), "a *:* rwm");
    let options = CreateOptions { devices: false, ..CreateOptions::default() };
    let free = Group(Cgroup::create(&host, &name(), None, &options).expect("created"));
    assert_eq!(free.file("devices", "devices.list"), "a *:* rwm");
}

#[test]
fn v2_controllers_are_handed_down_and_limits_set() {
    let Some(host) = v2_host() else { return };
    let outer = name();
    let json = r#"{"memory": {"limit": 67108864, "swap": 67108864, "reservation": 33554432}, "pids": {"limit": 17},
                   "cpu": {"shares": 1024, "quota": 20000, "period": 50000, "cpus": "0", "mems": "0"},
                   "unified": {"memory.high": "50331648"},
                   "devices": [{"allow": false}]}"#;
    let made = Cgroup::create(&host, &format!("{outer}/inner"), Some(&resources(json)), &CreateOptions::default());
    let outer = Group(Cgroup::open(&host, &outer).expect("made on the way"));
    let group = Group(made.expect("created"));
    let files = ["memory.max", "memory.low", "memory.high", "pids.max", "cpu.weight", "cpu.max", "cpuset.cpus"];
    let wanted = ["67108864", "33554432", "50331648", "17", "100", "20000 50000", "0"];
    assert_eq!(files.map(|file| group.file(file.split('.').next().expect("a controller"), file)), wanted);
    let dir = group.0.v2_dir_fd().expect("open").expect("present");
    assert_eq!(sys::bpf::attached_device_programs(dir).expect("readable").len(), 1);
    group.0.update(&resources(r#"{"devices": [{"allow": false}], "cpu": {"period": 25000}}"#)).expect("settable");
    assert_eq!(sys::bpf::attached_device_programs(dir).expect("readable").len(), 1);
    assert_eq!(group.file("cpu", "cpu.max"), "20000 25000");

    let mut child = group.spawn("exec sleep 60");
    let pid = Pid::from_child(&child);
    assert_eq!(Cgroup::of_process_v2(&host, pid).expect("visible").path(), group.0.path());
    let stats = outer.0.stats().expect("readable");
    assert_eq!(stats.pids.expect("present").current, 1);
    assert!(stats.memory.expect("present").usage > 0 && stats.cpu.expect("present").usage_ns > 0);
    assert_eq!(outer.0.pids().expect("readable").len(), 1);
    outer.0.kill_all(PATIENCE).expect("killable from above");
    child.wait().expect("ours");
    group.0.delegate(Uid::from_raw(1000), Gid::from_raw(1000)).expect("root may");
    let path = &group.paths()[0];
    let owner =
        |file: &str| std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(path.join(file)).expect("readable"));
    assert_eq!([owner(""), owner("cgroup.procs"), owner("memory.max")], [1000, 1000, 0]);
    outer.0.remove().expect("with what is inside");
    assert!(!path.exists());
}

#[test]
fn v2_device_programs_are_in_force_and_replaced() {
    let Some(host) = host() else { return };
    let Some(unified) = host.unified() else { return };
    // Without v1's device control in the way.
    let options = CreateOptions { devices: false, ..CreateOptions::default() };
    let group = Group(Cgroup::create(&host, &name(), None, &options).expect("created"));
    let dir = group.0.dir(unified).expect("readable").expect("present");
    let policy = |json: &str| Policy::new(&resources(json).devices).expect("accepted");
    let attached = || sys::bpf::attached_device_programs(dir.fd).expect("readable").len();
    let succeeds = |script: &str| {
        let text = format!("echo 0 > {} || exit 99; {script}", dir.label("cgroup.procs"));
        let status = Command::new("sh").arg("-c").arg(text).stderr(Stdio::null()).stdout(Stdio::null()).status();
        status.expect("a shell").success()
    };
    let (read_null, read_kmsg) = ("exec < /dev/null", "exec < /dev/kmsg");
    assert!(succeeds(read_kmsg));
    super::ebpf::apply(&policy(r#"{"devices": [{"allow": false}]}"#), dir.fd, true).expect("attachable");
    assert_eq!(attached(), 1);
    assert!(succeeds(read_null) && !succeeds(read_kmsg));
    let with_kmsg =
        r#"{"devices": [{"allow": false}, {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}]}"#;
    super::ebpf::apply(&policy(with_kmsg), dir.fd, false).expect("replaceable");
    assert_eq!(attached(), 1);
    assert!(succeeds(read_null) && succeeds(read_kmsg) && !succeeds("exec > /dev/kmsg"));
    super::ebpf::apply(&policy(r#"{"devices": [{"allow": true}]}"#), dir.fd, false).expect("detachable");
    assert_eq!(attached(), 0);
}

/// An ordinary directory in the place of a v2 group: shows what is written and read, not what the kernel makes of it.
struct Pretend {
    top: PathBuf,
}

impl Pretend {
    fn new(files: &[(&str, &str)]) -> Self {
        let top = std::env::temp_dir().join(name().trim_start_matches('/'));
        std::fs::create_dir_all(top.join("group")).expect("writable");
        let pretend = Self { top };
        pretend.put("cgroup.controllers", "cpu io memory pids\n");
        pretend.put("cgroup.subtree_control", "cpu io memory pids\n");
        for (file, text) in files {
            pretend.put(&format!("group/{file}"), text);
        }
        pretend
    }

    fn put(&self, file: &str, text: &str) {
        std::fs::write(self.top.join(file), text).expect("writable");
    }

    fn get(&self, file: &str) -> String {
        std::fs::read_to_string(self.top.join("group").join(file)).expect("readable")
    }

    fn open(&self) -> Cgroup {
        let host = Host::fake_v2(Path::new(&self.top)).expect("readable");
        assert_eq!(host.layout(), Layout::V2);
        Cgroup::open(&host, "group").expect("exists")
    }
}

impl Drop for Pretend {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.top);
    }
}

#[test]
fn v2_limits_go_to_their_files_and_missing_controllers_are_named() {
    let names = ["memory.max", "memory.swap.max", "cpu.weight", "pids.max", "io.weight"];
    let mut files: Vec<(&str, &str)> = names.iter().map(|name| (*name, "")).collect();
    files.extend([("cpu.max", "3000 10000\n"), ("cgroup.controllers", "cpu io memory pids\n")]);
    let pretend = Pretend::new(&files);
    let group = pretend.open();
    let json = r#"{"memory": {"limit": 100, "swap": 300}, "cpu": {"shares": 1024, "period": 50000},
                   "pids": {"limit": -1}, "blockIO": {"weight": 1000}}"#;
    group.update(&resources(json)).expect("settable");
    let wanted = ["100", "200", "100", "max", "10000"];
    assert_eq!(names.map(|name| pretend.get(name)), wanted);
    assert_eq!(pretend.get("cpu.max").trim_end(), "3000 50000");
    let error = group.update(&resources(r#"{"cpu": {"cpus": "0"}}"#)).expect_err("no cpuset");
    assert!(matches!(&error, Error::NoController { controller, .. } if controller == "cpuset"), "{error}");
    let error = group.update(&resources(r#"{"unified": {"memory.high": "1"}}"#)).expect_err("no such file");
    assert!(error.to_string().contains("memory.high"), "{error}");
    assert!(group.entry_fds().expect("none needed").is_empty());
    assert!(group.v2_dir_fd().expect("open").is_some());
}

#[test]
fn v2_use_is_read() {
    let pretend = Pretend::new(&[
        ("memory.current", "4096\n"),
        ("memory.max", "max\n"),
        ("memory.stat", "anon 10\nfile 20\ninactive_file 5\n"),
        ("memory.events", "low 0\nhigh 0\nmax 7\noom 2\noom_kill 3\n"),
        ("cpu.stat", "usage_usec 9\nuser_usec 5\nsystem_usec 4\nnr_periods 2\nnr_throttled 1\nthrottled_usec 8\n"),
        ("pids.current", "3\n"),
        ("pids.max", "64\n"),
        ("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n"),
    ]);
    let group = pretend.open();
    let stats = group.stats().expect("readable");
    let memory = stats.memory.expect("present");
    assert_eq!((memory.usage, memory.limit, memory.peak, memory.swap_usage), (4096, None, None, None));
    assert_eq!((memory.anonymous, memory.file, memory.inactive_file), (10, 20, 5));
    assert_eq!((memory.failures, memory.oom_kills, group.oom_kills().expect("readable")), (7, 3, 3));
    let cpu = stats.cpu.expect("present");
    assert_eq!((cpu.usage_ns, cpu.user_ns, cpu.system_ns, cpu.throttled_ns), (9000, 5000, 4000, 8000));
    assert_eq!(stats.pids, Some(PidsStats { current: 3, limit: Some(64) }));
    assert_eq!(stats.block[0].writes, 4);
    pretend.put("group/pids.current", "many\n");
    assert!(matches!(group.stats(), Err(Error::Malformed { .. })));
}
