//! Control groups of bundles: what the kernel has in force, on v1, hybrid and v2, made by us and by systemd.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use testkit::process::{DEADLINE, tool};
use testkit::{Host, cgroup, wait};

use crate::runtime_face::{bundle, path, runtime, state, unique};

/// A bundle of a sleeping process with this control group and these resources.
fn sleeper(host: &Host, group: &str, resources: &Value) -> PathBuf {
    let dir = bundle(host, "b", &["sleep", "1000"]);
    edit(&dir, |config| {
        config["linux"]["cgroupsPath"] = json!(group);
        config["linux"]["resources"] = resources.clone();
    });
    dir
}

fn edit(dir: &Path, change: impl FnOnce(&mut Value)) {
    let file = dir.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file).expect("readable")).expect("JSON");
    change(&mut config);
    std::fs::write(file, config.to_string()).expect("writable");
}

/// `FLAGS run --detach` of a bundle: the exit code and what was said. The container's streams go nowhere, so that nobody
/// waits for their end.
fn start(host: &Host, flags: &[&str], dir: &Path, id: &str) -> (i32, String) {
    let said = dir.join("said");
    let dir = path(dir);
    let mut command =
        host.runtime(&[flags, &["--log", &path(&said), "run", "--detach", "--bundle", &dir, id]].concat());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let code = command.status().expect("lighter-runtime runs").code().unwrap_or(-1);
    (code, std::fs::read_to_string(said).unwrap_or_default())
}

/// The group's files: the value of the first hierarchy that has the file.
fn read(group: &str, file: &str) -> Option<String> {
    let group = group.trim_start_matches('/');
    let dirs = cgroup::hierarchies().into_iter().map(|root| root.join(group).join(file));
    dirs.filter_map(|file| std::fs::read_to_string(file).ok()).map(|text| text.trim().to_owned()).next()
}

fn exists(group: &str) -> bool {
    cgroup::hierarchies().iter().any(|root| root.join(group.trim_start_matches('/')).exists())
}

/// The first file of v2 or v1 with the value it must have.
fn assert_limits(group: &str, v2: &[(&str, &str)], v1: &[(&str, &str)]) {
    for (file, value) in if cgroup::is_v2() { v2 } else { v1 } {
        assert_eq!(read(group, file).as_deref(), Some(*value), "{file} of {group}");
    }
}

#[test]
fn limits_are_converted_and_updated() {
    let host = Host::new();
    let id = unique("limits");
    let group = format!("/lighter-e2e-groups-{}/{id}", std::process::id());
    let resources = json!({
        "memory": {"limit": 67_108_864, "swap": 67_108_864, "reservation": 33_554_432},
        "cpu": {"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0"},
        "pids": {"limit": 50},
    });
    let dir = sleeper(&host, &group, &resources);
    assert_eq!(start(&host, &[], &dir, &id), (0, String::new()));
    assert_limits(
        &group,
        &[
            ("memory.max", "67108864"),
            ("memory.swap.max", "0"),
            ("memory.low", "33554432"),
            ("cpu.weight", "59"),
            ("cpu.max", "50000 100000"),
            ("cpuset.cpus", "0"),
            ("pids.max", "50"),
        ],
        &[
            ("memory.limit_in_bytes", "67108864"),
            ("memory.soft_limit_in_bytes", "33554432"),
            ("cpu.shares", "512"),
            ("cpu.cfs_quota_us", "50000"),
            ("cpuset.cpus", "0"),
            ("pids.max", "50"),
        ],
    );
    let more =
        ["update", "--memory", "128m", "--memory-swap", "256m", "--cpu-quota", "30000", "--pids-limit", "60", &id];
    if Path::new("/proc/swaps").exists() && cgroup::is_v2() || read(&group, "memory.memsw.limit_in_bytes").is_some() {
        runtime(&host, &more).ok();
        assert_limits(
            &group,
            &[
                ("memory.max", "134217728"),
                ("memory.swap.max", "134217728"),
                ("cpu.max", "30000 100000"),
                ("pids.max", "60"),
            ],
            &[("memory.limit_in_bytes", "134217728"), ("cpu.cfs_quota_us", "30000"), ("pids.max", "60")],
        );
    }
    let usage = runtime(&host, &["events", "--stats", &id]).ok().json();
    assert!(usage["data"]["pids"]["current"].as_u64().is_some_and(|count| count >= 1), "{usage}");
    assert_eq!(runtime(&host, &["ps", "--format", "json", &id]).ok().json().as_array().map(Vec::len), Some(1));
    runtime(&host, &["pause", &id]).ok();
    assert_eq!(state(&host, &id)["status"], "paused");
    runtime(&host, &["resume", &id]).ok();
    assert_eq!(state(&host, &id)["status"], "running");
    runtime(&host, &["delete", "--force", &id]).ok();
    assert!(!exists(&group), "the group is gone");
    // Groups above the container's are whoever's named them: here, the test's.
    for root in cgroup::hierarchies() {
        drop(std::fs::remove_dir(root.join(format!("lighter-e2e-groups-{}", std::process::id()))));
    }
    host.assert_clean();
}

#[test]
fn no_process_at_all_is_a_limit_too() {
    let host = Host::new();
    let id = unique("nobody");
    let dir = sleeper(&host, &format!("/{id}"), &json!({"pids": {"limit": 0}}));
    edit(&dir, |config| config["process"]["args"] = json!(["sh", "-c", "echo alone; cat /proc/version; echo forked"]));
    let output = runtime(&host, &["run", "--bundle", &path(&dir), &id]);
    assert_eq!(output.out(), "alone", "{output}");
    assert!(output.err().contains("fork"), "{output}");
    assert!(!exists(&format!("/{id}")), "nothing is left");
    host.assert_clean();
}

#[test]
fn a_group_with_processes_is_refused() {
    let host = Host::new();
    let (id, other) = (unique("first"), unique("second"));
    let group = format!("/{id}");
    let dir = sleeper(&host, &group, &json!({}));
    assert_eq!(start(&host, &[], &dir, &id), (0, String::new()));
    let (code, said) = start(&host, &[], &dir, &other);
    assert!(code != 0 && said.contains("holds processes"), "{code} {said}");
    assert_eq!(state(&host, &id)["status"], "running");
    runtime(&host, &["delete", "--force", &id]).ok();
    assert!(!exists(&group));
    host.assert_clean();
}

#[test]
fn devices_are_what_the_rules_say() {
    let host = Host::new();
    let id = unique("devices");
    let dir = sleeper(&host, &format!("/{id}"), &json!({"devices": [{"allow": false, "access": "rwm"}]}));
    edit(&dir, |config| {
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = json!(["CAP_MKNOD"]);
        }
        // The kernel's log, which is none of the default devices.
        let script = "cat /dev/zero | head -c 1 | wc -c; mknod /dev/k c 1 11; head -c 1 /dev/k >/dev/null && echo read; \
                      mknod /dev/tunnel c 10 200; cat /dev/tunnel 2>&1 | grep -c permitted";
        config["process"]["args"] = json!(["sh", "-c", script]);
    });
    let output = runtime(&host, &["run", "--bundle", &path(&dir), &id]);
    // The tunnels' may be opened wherever a device may be made, as with runc and crun.
    assert_eq!(output.out(), "1\n0", "{output}");
    assert!(output.err().contains("not permitted"), "{output}");
    host.assert_clean();
}

#[test]
fn a_container_with_users_of_its_own_gets_its_group_if_it_may_write_there() {
    let host = Host::new();
    let id = unique("own");
    let dir = sleeper(&host, &format!("/{id}"), &json!({"pids": {"limit": 50}}));
    edit(&dir, |config| {
        let map = json!([{"containerID": 0, "hostID": 200_000, "size": 65_536}]);
        config["linux"]["uidMappings"] = map.clone();
        config["linux"]["gidMappings"] = map;
        config["linux"]["namespaces"]
            .as_array_mut()
            .expect("a list")
            .extend([json!({"type": "user"}), json!({"type": "cgroup"})]);
        let group = json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"});
        config["mounts"].as_array_mut().expect("a list").push(group);
        // As an init system does: no group has both processes and controllers for the groups below it.
        let script = "cd /sys/fs/cgroup; mkdir mine && echo $$ >mine/cgroup.procs && echo +pids >cgroup.subtree_control \
                      && echo 9 >mine/pids.max; echo 99 >pids.max; exec sleep 1000";
        config["process"]["args"] = json!(["sh", "-c", script]);
    });
    // Whose root has to see the bundle.
    tool("chown", &["-R", "200000:200000", &path(&dir.join("rootfs"))]);
    assert_eq!(start(&host, &[], &dir, &id), (0, String::new()));
    if cgroup::is_v2() {
        let inner = format!("{id}/mine");
        wait::until("the container has a group of its own", DEADLINE, || {
            (read(&inner, "pids.max").as_deref() == Some("9")).then_some(())
        });
        let output = runtime(&host, &["exec", &id, "cat", "/proc/self/cgroup"]);
        assert_eq!(output.ok().out(), "0::/mine", "{output}");
        assert_eq!(runtime(&host, &["ps", "--format", "json", &id]).ok().json().as_array().map(Vec::len), Some(1));
    }
    assert_eq!(read(&id, "pids.max").as_deref(), Some("50"), "its limits are the host's");
    runtime(&host, &["delete", "--force", &id]).ok();
    assert!(!exists(&id), "with what it made inside");
    host.assert_clean();
}

/// What systemd says of a unit's property.
fn property(unit: &str, name: &str) -> String {
    tool("systemctl", &["show", "--value", "-p", name, unit]).trim().to_owned()
}

#[test]
fn systemd_makes_the_group_and_keeps_its_limits() {
    let host = Host::new();
    let id = unique("scope");
    let resources = json!({
        "memory": {"limit": 67_108_864, "swap": 67_108_864},
        "cpu": {"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0"},
        "pids": {"limit": 50},
        "devices": [{"allow": false, "access": "rwm"}],
    });
    let dir = sleeper(&host, &format!("lightertest.slice:e2e:{id}"), &resources);
    if !Path::new("/run/systemd/system").exists() {
        let (code, said) = start(&host, &["--systemd-cgroup"], &dir, &id);
        assert!(code != 0 && said.contains("systemd cannot be reached"), "{code} {said}");
        host.assert_clean();
        return;
    }
    assert_eq!(start(&host, &["--systemd-cgroup"], &dir, &id), (0, String::new()));
    let unit = format!("e2e-{id}.scope");
    let group = property(&unit, "ControlGroup");
    assert_eq!(group, format!("/lightertest.slice/{unit}"));
    let holds = || {
        assert_limits(
            &group,
            &[
                ("memory.max", "67108864"),
                ("memory.swap.max", "0"),
                ("cpu.weight", "59"),
                ("cpu.max", "50000 100000"),
                ("cpuset.cpus", "0"),
                ("pids.max", "50"),
            ],
            &[("memory.limit_in_bytes", "67108864"), ("pids.max", "50")],
        );
        let script = "echo x >/dev/null && head -c 1 /dev/zero | wc -c; mknod /dev/k c 1 11 2>/dev/null; cat /dev/k";
        let inside = runtime(&host, &["--systemd-cgroup", "exec", "--cap", "CAP_MKNOD", &id, "sh", "-c", script]);
        assert_eq!(inside.out(), "1", "{inside}");
    };
    for (name, value) in
        [("MemoryMax", "67108864"), ("TasksMax", "50"), ("CPUWeight", "59"), ("Delegate", "yes"), ("AllowedCPUs", "0")]
    {
        assert_eq!(property(&unit, name), value, "{name}");
    }
    holds();
    tool("systemctl", &["daemon-reload"]);
    holds();
    runtime(
        &host,
        &["--systemd-cgroup", "update", "--pids-limit", "77", "--memory", "128m", "--memory-swap", "128m", &id],
    )
    .ok();
    tool("systemctl", &["daemon-reload"]);
    assert_eq!((property(&unit, "TasksMax").as_str(), read(&group, "pids.max").as_deref()), ("77", Some("77")));
    assert_eq!(property(&unit, "MemoryMax"), "134217728");
    // A unit of the same name is refused, and stays.
    let elsewhere = path(&host.scratch("other"));
    let (code, said) = start(&host, &["--root", &elsewhere, "--systemd-cgroup"], &dir, &id);
    assert!(code != 0 && said.contains("StartTransientUnit"), "{code} {said}");
    assert_eq!(state(&host, &id)["status"], "running");
    runtime(&host, &["--systemd-cgroup", "delete", "--force", &id]).ok();
    wait::until("systemd forgets the unit", DEADLINE, || {
        (property(&unit, "LoadState") == "not-found" || property(&unit, "ActiveState") == "inactive").then_some(())
    });
    assert!(!exists(&group), "the group is gone");
    // One whose process fails leaves nothing either.
    edit(&dir, |config| config["process"]["args"] = json!(["no-such-command"]));
    assert_ne!(start(&host, &["--systemd-cgroup"], &dir, &id).0, 0);
    assert!(!exists(&group), "the group is gone");
    assert_eq!(property(&unit, "ActiveState"), "inactive");
    tool("systemctl", &["stop", "lightertest.slice"]);
    host.assert_clean();
}

#[test]
fn only_slices_and_names_are_paths_for_systemd() {
    let host = Host::new();
    let id = unique("path");
    let dir = sleeper(&host, "/a/b", &json!({}));
    let output = runtime(&host, &["--systemd-cgroup", "run", "--bundle", &path(&dir), &id]);
    assert_ne!(output.status, 0);
    assert!(output.err().contains("slice:prefix:name"), "{output}");
    host.assert_clean();
}
