//! Kernels and sandboxes that lack something, made by a filter that answers calls with their errno (`src/bin/without.rs`):
//! what there is a fall-back for works, and what is needed is asked for by name and leaves nothing behind. The table of
//! both is in docs/architecture.md.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use testkit::process::{DEADLINE, Output};
use testkit::{Host, Image, Tar, wait};

use crate::runtime_face::{bundle, create, path, runtime, unique};
use crate::runtime_process;

/// `command`, on a kernel without what `rules` say.
fn lacking(rules: &[&str], command: &Command) -> Command {
    let mut lacking = Command::new(env!("CARGO_BIN_EXE_without"));
    lacking.args(rules).arg("--").arg(command.get_program()).args(command.get_args());
    lacking.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    lacking.current_dir(command.get_current_dir().unwrap_or(Path::new("/")));
    lacking.stdin(std::process::Stdio::null());
    lacking
}

fn without(host: &Host, rules: &[&str], args: &[&str]) -> Output {
    host.finish(lacking(rules, &host.command(args)), None, DEADLINE)
}

fn runtime_without(host: &Host, rules: &[&str], args: &[&str]) -> Output {
    host.finish(lacking(rules, &host.runtime(args)), None, DEADLINE)
}

/// An image with a second layer, so that a container's root is an overlay of several.
fn layered(host: &Host) {
    let tar = Tar::new().dir("data/", 0o755).file("data/file", 0o644, b"from the layer").finish();
    host.load(&Image::busybox("layered").layer(tar));
}

/// `FSCONFIG_SET_FD` (linux/mount.h).
const SET_FD: &str = "fsconfig@1=5:EINVAL";

#[test]
fn the_filter_of_these_tests_takes_a_call_away_and_no_other() {
    let host = Host::new();
    let mut shell = Command::new("busybox");
    shell.args(["sh", "-c", "mknod node p && echo made"]).current_dir(host.scratch("own")).env_clear();
    shell.env("PATH", "/usr/bin:/bin");
    assert_eq!(host.finish(lacking(&["bpf:ENOSYS"], &shell), None, DEADLINE).ok().out(), "made");
    let mut shell = Command::new("busybox");
    shell.args(["mknod", "other", "p"]).current_dir(host.scratch("own")).env_clear().env("PATH", "/usr/bin:/bin");
    let refused = host.finish(lacking(&["mknod:EPERM", "mknodat:EPERM"], &shell), None, DEADLINE);
    assert!(refused.status != 0 && refused.err().contains("Operation not permitted"), "{refused}");
    let refused = host.finish(lacking(&["bogus:ENOSYS"], &shell), None, DEADLINE);
    assert_eq!(refused.exits(99).out(), "");
}

#[test]
fn layers_are_told_by_path_where_overlayfs_takes_no_descriptors() {
    let host = Host::new();
    layered(&host);
    let output = without(&host, &[SET_FD], &["run", "--rm", "layered", "cat", "/data/file"]);
    assert_eq!(output.ok().out(), "from the layer");
}

#[test]
fn a_volume_is_filled_without_descriptors_and_without_copying_in_the_kernel() {
    let host = Host::new();
    layered(&host);
    // It is filled from the layers merged.
    for rules in [
        &[SET_FD][..],
        &["copy_file_range:ENOSYS"],
        &["copy_file_range:EXDEV"],
        &["copy_file_range:EOPNOTSUPP"],
        &[SET_FD, "copy_file_range:ENOSYS"],
    ] {
        let output = without(&host, rules, &["run", "--rm", "-v", "/data", "layered", "cat", "/data/file"]);
        assert_eq!(output.ok().out(), "from the layer", "{rules:?}");
    }
}

#[test]
fn blobs_are_stored_on_file_systems_without_unnamed_files() {
    let host = Host::new();
    let archive = host.scratch("archives").join("image.tar");
    std::fs::write(&archive, Image::busybox("busybox").docker_archive().tar()).expect("written");
    // O_TMPFILE, with and without which openat(2) is the same call.
    let rule = "openat@2&0x410000=0x410000:EOPNOTSUPP";
    without(&host, &[rule], &["load", "-i", &path(&archive)]).ok();
    assert_eq!(host.sh(&[], "echo loaded").ok().out(), "loaded");
}

#[test]
fn a_filter_is_loaded_where_its_flag_is_unknown() {
    let host = Host::with_busybox();
    let script = "grep -c 'Seccomp:.2' /proc/self/status";
    // SECCOMP_FILTER_FLAG_SPEC_ALLOW, before 4.17.
    let output = without(&host, &["seccomp@1&4=4:EINVAL"], &["run", "--rm", "busybox", "sh", "-c", script]);
    assert_eq!(output.ok().out(), "1");
}

#[test]
fn a_container_does_without_keys_of_its_own() {
    let host = Host::new();
    let dir = bundle(&host, "b", &["echo", "ran"]);
    for rule in ["keyctl:ENOSYS", "keyctl:EPERM"] {
        let output = runtime_without(&host, &[rule], &["run", "--bundle", &path(&dir), &unique("keys")]);
        assert_eq!(output.ok().out(), "ran", "{rule}");
    }
}

#[test]
fn device_nodes_are_bound_where_they_cannot_be_made() {
    let host = Host::with_busybox();
    let script = "echo gone > /dev/null && stat -c %t:%T /dev/null /dev/urandom | tr '\\n' ' '";
    for flags in [&[][..], &["--userns=host"]] {
        let args = [&["run", "--rm"], flags, &["busybox", "sh", "-c", script]].concat();
        assert_eq!(without(&host, &["mknodat:EPERM"], &args).ok().out(), "1:3 1:9", "{flags:?}");
    }
}

#[test]
fn exec_runs_from_a_sealed_copy_where_nothing_can_be_mounted() {
    let host = Host::new();
    let id = unique("sealed");
    let dir = bundle(&host, "b", &["sleep", "1000"]);
    assert_eq!(create(&host, &[], &dir, &id), 0);
    runtime(&host, &["start", &id]).ok();
    // MFD_EXEC is unknown before 6.3.
    for rules in [&["open_tree:ENOSYS"][..], &["open_tree:EPERM", "memfd_create@1&0x10=0x10:EINVAL"]] {
        let output = runtime_without(&host, rules, &["exec", &id, "echo", "inside"]);
        assert_eq!(output.ok().out(), "inside", "{rules:?}");
    }
    let refused = runtime_without(&host, &["open_tree:ENOSYS", "memfd_create:ENOSYS"], &["exec", &id, "true"]);
    assert_ne!(refused.status, 0);
    assert!(refused.err().contains("memfd_create"), "{refused}");
    runtime(&host, &["delete", "--force", &id]).ok();
}

/// Each of these came before 6.1, which is the oldest kernel lighter runs on; a sandbox may still refuse them.
#[test]
fn what_is_needed_is_named_when_it_is_missing_and_nothing_is_left() {
    let host = Host::new();
    layered(&host);
    for call in ["clone3", "close_range", "fsconfig", "fsmount", "fsopen", "mount_setattr", "move_mount", "open_tree"] {
        for errno in ["ENOSYS", "EPERM"] {
            let rule = format!("{call}:{errno}");
            let refused = without(&host, &[&rule], &["run", "--rm", "layered", "true"]);
            assert_eq!(refused.status, 125, "{rule}\n{refused}");
            let said = refused.err();
            assert!(said.contains("Error:") && !said.contains("panicked"), "{rule}\n{refused}");
            // The C library makes the monitor by clone3 too, and does without it only after ENOSYS.
            let names = [call, if rule == "clone3:EPERM" { "lighter-monitor" } else { call }];
            assert!(names.iter().any(|name| said.contains(name)), "{rule}\n{refused}");
        }
    }
    let gone = || host.lighter(&["ps", "-aq"]).ok().out().is_empty();
    assert!(wait::becomes_true(Duration::from_secs(10), gone), "no container is left");
    assert_eq!(host.lighter(&["run", "--rm", "layered", "echo", "works"]).ok().out(), "works");
}

/// Records are read by openat2(2), so that without it nothing is cleared up either.
#[test]
fn what_a_sandbox_keeps_from_being_removed_is_removed_outside_it() {
    let host = Host::new();
    layered(&host);
    for errno in ["ENOSYS", "EPERM"] {
        let refused = without(&host, &[&format!("openat2:{errno}")], &["run", "--rm", "layered", "true"]);
        assert_eq!(refused.status, 125, "{refused}");
        assert!(refused.err().contains("openat2"), "{refused}");
        let left = host.lighter(&["ps", "-aq"]).ok().out();
        host.lighter(&["rm", "-f", &left]).ok();
    }
}

#[test]
fn exec_names_what_it_needs() {
    let host = Host::with_busybox();
    host.detached(&["--name", "cell"], &["sleep", "1000"]);
    for call in ["setns", "clone3"] {
        let refused = without(&host, &[&format!("{call}:ENOSYS")], &["exec", "cell", "true"]);
        assert_ne!(refused.status, 0, "{call}\n{refused}");
        assert!(refused.err().contains(call), "{refused}");
    }
    assert_eq!(host.lighter(&["exec", "cell", "echo", "inside"]).ok().out(), "inside");
    host.lighter(&["rm", "-f", "cell"]).ok();
}

#[test]
fn scheduling_that_cannot_be_set_is_told_by_its_field() {
    let host = Host::new();
    for (rule, field, value) in [
        ("sched_setattr:ENOSYS", "scheduler", json!({"policy": "SCHED_BATCH", "nice": 1})),
        ("ioprio_set:EPERM", "ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 5})),
    ] {
        let dir = runtime_process::bundle(&host, field, "true", |config| config["process"][field] = value);
        let refused = runtime_without(&host, &[rule], &["run", "--bundle", &path(&dir), &unique(field)]);
        assert_ne!(refused.status, 0);
        assert!(refused.err().contains(&format!("process.{field}")), "{refused}");
    }
}
