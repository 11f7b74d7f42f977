//! `lighter-runtime`: the OCI runtime command line over bundles.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use testkit::process::{DEADLINE, Output};
use testkit::{Host, wait};

/// A bundle whose process runs `args`.
pub(crate) fn bundle(host: &Host, name: &str, args: &[&str]) -> PathBuf {
    let dir = host.bundle(name);
    let config = json!({
        "ociVersion": "1.2.0",
        "process": {
            "terminal": false, "user": {"uid": 0, "gid": 0}, "args": args, "cwd": "/",
            "env": ["PATH=/bin"], "noNewPrivileges": true,
            "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
        },
        "root": {"path": "rootfs"},
        "hostname": "bundle",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}],
            "maskedPaths": ["/proc/kcore"], "readonlyPaths": ["/proc/sys"],
        },
    });
    std::fs::write(dir.join("config.json"), config.to_string()).expect("write config.json");
    dir
}

pub(crate) fn runtime(host: &Host, args: &[&str]) -> Output {
    host.finish(host.runtime(args), None, DEADLINE)
}

/// `create`, whose streams are the container's own from then on: they go nowhere, so that nobody waits for their end.
pub(crate) fn create(host: &Host, flags: &[&str], dir: &Path, id: &str) -> i32 {
    let dir = path(dir);
    let args = [&["create", "--bundle", &dir], flags, &[id]].concat();
    let mut command = host.runtime(&args);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().expect("lighter-runtime runs").code().unwrap_or(-1)
}

pub(crate) fn state(host: &Host, id: &str) -> Value {
    runtime(host, &["state", id]).ok().json()
}

/// A name no other test's bundle has: control groups are named after it.
pub(crate) fn unique(word: &str) -> String {
    format!("e2e-{}-{word}", std::process::id())
}

pub(crate) fn path(dir: &Path) -> String {
    dir.to_string_lossy().into_owned()
}

#[test]
fn run_passes_streams_and_the_exit_code() {
    let host = Host::new();
    let dir = bundle(&host, "b", &["sh", "-c", "hostname; echo err >&2; grep CapEff /proc/self/status; exit 7"]);
    let output = runtime(&host, &["run", "--bundle", &path(&dir), &unique("run")]);
    assert_eq!(output.exits(7).out(), "bundle\nCapEff:\t0000000000000020");
    assert_eq!(output.err(), "err");
    assert_ne!(runtime(&host, &["state", &unique("run")]).status, 0, "run cleans up after itself");
}

#[test]
fn create_start_kill_delete() {
    let host = Host::new();
    let id = unique("life");
    let dir = bundle(&host, "b", &["sleep", "1000"]);
    let pid_file = dir.join("pid");
    assert_eq!(create(&host, &["--pid-file", &path(&pid_file)], &dir, &id), 0);
    let created = state(&host, &id);
    assert_eq!((&created["status"], &created["id"]), (&json!("created"), &json!(id)));
    assert_eq!(created["bundle"], json!(path(&dir)));
    assert_eq!(std::fs::read_to_string(&pid_file).expect("a pid file").trim(), created["pid"].to_string());
    runtime(&host, &["start", &id]).ok();
    assert_eq!(state(&host, &id)["status"], "running");
    assert_ne!(runtime(&host, &["start", &id]).status, 0, "a running container is not started again");
    assert_eq!(runtime(&host, &["exec", &id, "cat", "/proc/1/comm"]).ok().out(), "sleep");
    runtime(&host, &["exec", &id, "sh", "-c", "exit 9"]).exits(9);
    assert_ne!(runtime(&host, &["delete", &id]).status, 0, "a running container is not deleted");
    runtime(&host, &["kill", &id, "KILL"]).ok();
    wait::until("it stopped", DEADLINE, || (state(&host, &id)["status"] == "stopped").then_some(()));
    runtime(&host, &["delete", &id]).ok();
    assert_ne!(runtime(&host, &["state", &id]).status, 0);
    host.assert_clean();
}

#[test]
fn delete_force_ends_what_runs() {
    let host = Host::new();
    let id = unique("force");
    let dir = bundle(&host, "b", &["sleep", "1000"]);
    assert_eq!(create(&host, &[], &dir, &id), 0);
    runtime(&host, &["start", &id]).ok();
    assert_ne!(runtime(&host, &["create", "--bundle", &path(&dir), &id]).status, 0, "the id is taken");
    runtime(&host, &["delete", "--force", &id]).ok();
    runtime(&host, &["delete", "--force", &id]).ok();
    host.assert_clean();
}

#[test]
fn delete_force_leaves_what_another_version_made() {
    let host = Host::new();
    let id = unique("version");
    let dir = bundle(&host, "b", &["sleep", "1000"]);
    assert_eq!(create(&host, &[], &dir, &id), 0);
    runtime(&host, &["start", &id]).ok();
    let pid = state(&host, &id)["pid"].clone();
    let record = host.scratch("bundles").join(&id).join("state.json");
    let ours = std::fs::read_to_string(&record).expect("a record");
    for theirs in [ours.replace("\"version\":2", "\"version\":9"), "{\"version\":9}".to_owned()] {
        assert_ne!(theirs, ours);
        std::fs::write(&record, theirs).expect("written");
        for args in [&["delete", "--force", &id][..], &["delete", "--force", "--regex", &id]] {
            let output = runtime(&host, args);
            assert!(output.exits(1).err().contains("the version of lighter-runtime that made it"), "{output}");
        }
    }
    std::fs::write(&record, ours).expect("written");
    let now = state(&host, &id);
    assert_eq!((&now["status"], &now["pid"]), (&"running".into(), &pid));
    runtime(&host, &["delete", "--force", &id]).ok();
    host.assert_clean();
}

#[test]
fn bad_bundles_are_refused() {
    let host = Host::new();
    let dir = bundle(&host, "b", &["no-such-command"]);
    let id = unique("bad");
    let output = runtime(&host, &["run", "--bundle", &path(&dir), &id]);
    assert_ne!(output.status, 0);
    assert!(output.err().contains("no-such-command"), "{output}");
    for text in ["", "{", "[]", "{\"ociVersion\": 1}", "{\"ociVersion\": \"1.2.0\"}"] {
        std::fs::write(dir.join("config.json"), text).expect("write config.json");
        let output = runtime(&host, &["run", "--bundle", &path(&dir), &id]);
        assert_ne!(output.status, 0, "{text}");
        assert!(!output.err().contains("panicked"), "{output}");
    }
    assert_ne!(runtime(&host, &["run", "--bundle", "/no/such/bundle", &id]).status, 0);
    for id in ["", "..", "a/b", "../x", "a\nb"] {
        assert_ne!(runtime(&host, &["run", "--bundle", &path(&dir), id]).status, 0, "{id:?}");
    }
    host.assert_clean();
}

#[test]
fn several_are_killed_and_deleted_by_an_expression() {
    let host = Host::new();
    let dir = bundle(&host, "b", &["sleep", "1000"]);
    let ids = ["web-1", "web-2", "db"].map(|name| unique(&format!("re-{name}")));
    for id in &ids {
        assert_eq!(create(&host, &[], &dir, id), 0);
        runtime(&host, &["start", id]).ok();
    }
    let web = format!("{}web-[0-9]+$", unique("re-"));
    let refused = runtime(&host, &["delete", "--regex", &web]);
    assert!(refused.status == 1 && refused.err().contains(&ids[0]), "{refused}");
    runtime(&host, &["kill", "--regex", &web, "KILL"]).ok();
    for id in &ids[..2] {
        wait::until("it stopped", DEADLINE, || (state(&host, id)["status"] == "stopped").then_some(()));
    }
    assert_eq!(state(&host, &ids[2])["status"], "running");
    runtime(&host, &["delete", "--regex", &web]).ok();
    assert_eq!(runtime(&host, &["list", "-q"]).ok().out(), ids[2]);
    let refused = runtime(&host, &["kill", "--regex", "(", "KILL"]);
    assert!(refused.status == 1 && refused.err().contains("no regular expression"), "{refused}");
    runtime(&host, &["delete", "--force", "--regex", "."]).ok();
    host.assert_clean();
}
