//! `lighter-runtime mounts`, and containers without a process.

use std::os::unix::fs::symlink;

use serde_json::json;
use testkit::Host;
use testkit::process::{DEADLINE, Output};

use crate::runtime_process::{bundle, runtime, text};

fn unique(word: &str) -> String {
    format!("e2e-mounts-{}-{word}", std::process::id())
}

fn start(host: &Host, dir: &std::path::Path, id: &str) {
    let mut command = host.runtime(&["run", "-d", "--bundle", &text(dir), id]);
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    assert!(command.status().expect("lighter-runtime runs").success());
}

fn refused(output: &Output, word: &str) {
    assert!(output.status != 0 && output.err().contains(word), "{output}");
}

fn comes_and_goes(name: &str, users: bool) {
    let host = Host::new();
    let id = unique(name);
    let dir = bundle(&host, "b", "sleep 1000", |config| {
        if users {
            config["linux"]["namespaces"].as_array_mut().expect("list").push(json!({"type": "user"}));
            let map = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
            config["linux"]["uidMappings"] = map.clone();
            config["linux"]["gidMappings"] = map;
        }
    });
    let data = host.scratch("data");
    std::fs::write(data.join("file"), "of the host").expect("written");
    start(&host, &dir, &id);
    let list = dir.join("mounts.json");
    let mounts = json!([
        {"destination": "/data", "type": "bind", "source": text(&data), "options": ["bind", "ro"]},
        {"destination": "/one", "type": "bind", "source": text(&data.join("file")), "options": ["bind"]},
        {"destination": "/new/place", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k", "noexec"]},
    ]);
    std::fs::write(&list, mounts.to_string()).expect("written");
    runtime(&host, &["mounts", "add", &id, &text(&list)]).ok();
    let script = "cat /data/file /one; echo x > /data/file || echo ro; echo y > /new/place/f && cat /new/place/f; \
                  grep -c ' /new/place .*noexec.*size=64k' /proc/self/mountinfo";
    let seen = runtime(&host, &["exec", &id, "sh", "-c", script]).ok().out();
    assert_eq!(seen.replace('\n', " "), "of the hostof the hostro y 1");
    assert!(!std::fs::read_to_string("/proc/self/mountinfo").expect("read").contains(" /new/place "));

    // One that fails takes those before it away again.
    let bad = json!([
        {"destination": "/late", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/none", "type": "no-such-fs", "source": "none"},
    ]);
    std::fs::write(dir.join("bad.json"), bad.to_string()).expect("written");
    refused(&runtime(&host, &["mounts", "add", &id, &text(&dir.join("bad.json"))]), "no-such-fs");
    runtime(&host, &["exec", &id, "sh", "-c", "! grep ' /late ' /proc/self/mountinfo"]).ok();

    runtime(&host, &["mounts", "remove", &id, &text(&list)]).ok();
    let left = "ls /data | wc -l; grep -cE ' /(data|one|new/place) ' /proc/self/mountinfo";
    assert_eq!(runtime(&host, &["exec", &id, "sh", "-c", left]).out(), "0\n0");
    assert_eq!(std::fs::read_to_string(data.join("file")).expect("read"), "of the host");
    refused(&runtime(&host, &["mounts", "remove", &id, &text(&list)]), "cannot unmount");
    runtime(&host, &["delete", "--force", &id]).ok();
    refused(&runtime(&host, &["mounts", "add", &id, &text(&list)]), "does not exist");
    host.assert_clean();
}

#[test]
fn mounts_are_added_to_a_running_container_and_removed() {
    comes_and_goes("plain", false);
}

#[test]
fn mounts_are_added_to_a_running_container_with_users_of_its_own() {
    comes_and_goes("users", true);
}

/// A running container arranges its own paths: no link of its leads a mount, or an unmount, anywhere else.
#[test]
fn links_of_the_container_lead_no_mount() {
    let host = Host::new();
    let id = unique("links");
    let dir = bundle(&host, "b", "sleep 1000", |_| {});
    symlink("/proc", dir.join("rootfs/link")).expect("linked");
    symlink("/proc/self/fd", dir.join("rootfs/magic")).expect("linked");
    start(&host, &dir, &id);
    let list = dir.join("mounts.json");
    for destination in ["/link", "/link/sys", "/magic/5", "/"] {
        let mounts = json!([{"destination": destination, "type": "tmpfs", "source": "tmpfs"}]);
        std::fs::write(&list, mounts.to_string()).expect("written");
        for action in ["add", "remove"] {
            let output = runtime(&host, &["mounts", action, &id, &text(&list)]);
            assert_ne!(output.status, 0, "{action} {destination}: {output}");
        }
    }
    for (mount, word) in [
        (json!({"destination": "/c", "type": "cgroup", "source": "cgroup"}), "only bind mounts"),
        (json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}), "only bind mounts"),
        (json!({"destination": "/a/../b", "type": "tmpfs"}), "mounts[0]"),
    ] {
        std::fs::write(&list, json!([mount]).to_string()).expect("written");
        refused(&runtime(&host, &["mounts", "add", &id, &text(&list)]), word);
    }
    std::fs::write(&list, "{}").expect("written");
    refused(&runtime(&host, &["mounts", "add", &id, &text(&list)]), "mounts.json");
    std::fs::write(&list, "[]").expect("written");
    refused(&runtime(&host, &["mounts", "move", &id, &text(&list)]), "neither add nor remove");
    runtime(&host, &["exec", &id, "cat", "/proc/self/status"]).ok();
    runtime(&host, &["delete", "--force", &id]).ok();
    host.assert_clean();
}

#[test]
fn a_container_without_a_process_is_created_and_not_started() {
    let host = Host::new();
    let id = unique("none");
    let dir = bundle(&host, "b", "true", |config| {
        config.as_object_mut().expect("object").remove("process");
    });
    let mut command = host.runtime(&["create", "--bundle", &text(&dir), &id]);
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    assert!(command.status().expect("lighter-runtime runs").success());
    assert_eq!(runtime(&host, &["state", &id]).ok().json()["status"], "created");
    for _ in 0..2 {
        refused(&runtime(&host, &["start", &id]), "no process");
    }
    assert_eq!(runtime(&host, &["state", &id]).ok().json()["status"], "created");
    runtime(&host, &["delete", &id]).ok();
    refused(&host.finish(host.runtime(&["run", "--bundle", &text(&dir), &id]), None, DEADLINE), "process: is missing");
    host.assert_clean();
}
