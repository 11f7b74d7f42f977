//! The OCI runtime killed at any moment of create, start, kill and delete: what it says afterwards is true, and what it
//! was doing can be done again or undone.
//!
//! `LIGHTER_SOAK` makes twenty cycles of each of its rounds (default: 60 cycles); 500 rounds are 10,000 cycles.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use testkit::process::Output;
use testkit::{Host, cgroup, leak, wait};

use crate::runtime_face::{bundle, path, runtime, unique};

/// Longest that a doomed command is left alone: about as long as the slowest of them takes.
const LONGEST_LIFE: u64 = 12_000;

fn cycles() -> usize {
    std::env::var("LIGHTER_SOAK").ok().and_then(|text| text.parse::<usize>().ok()).map_or(60, |rounds| rounds * 20)
}

/// xorshift64: the same sequence in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Runs `command`, one time in two with SIGKILL somewhere on its way. `None` when it was killed.
fn perhaps_killed(command: &mut Command, dice: &mut Dice) -> Option<i32> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("lighter-runtime starts");
    if dice.below(2) == 0 {
        std::thread::sleep(Duration::from_micros(dice.below(LONGEST_LIFE)));
        child.kill().expect("SIGKILL");
    }
    child.wait().expect("its exit").code()
}

/// What `state` says: the status, or `None` when there is no such container.
fn status(host: &Host, id: &str) -> Option<String> {
    let output: Output = runtime(host, &["state", id]);
    if output.status != 0 {
        assert!(output.err().contains("does not exist"), "no other reason will do\n{output}");
        return None;
    }
    let state: serde_json::Value = serde_json::from_str(&output.out()).unwrap_or_else(|e| panic!("{e}\n{output}"));
    assert_eq!(state["id"], id, "{output}");
    let status = state["status"].as_str().unwrap_or_else(|| panic!("a status\n{output}")).to_owned();
    let pid = state["pid"].as_i64().unwrap_or_default();
    if matches!(status.as_str(), "created" | "running") {
        assert!(Path::new(&format!("/proc/{pid}")).exists(), "said to be {status} without its process\n{output}");
    }
    Some(status)
}

fn cycle(host: &Host, dir: &Path, id: &str, dice: &mut Dice) {
    let created = perhaps_killed(&mut host.runtime(&["create", "--bundle", &path(dir), id]), dice);
    let after = status(host, id);
    if created == Some(0) {
        assert_eq!(after.as_deref(), Some("created"), "create said that it had");
    } else {
        assert!(created.is_none(), "create fails only when it is killed");
    }
    if after.as_deref() == Some("created") {
        let started = perhaps_killed(&mut host.runtime(&["start", id]), dice);
        let after = status(host, id);
        // Whom a killed `create` leaves may be dying of that, and `start` be the last to have seen it alive.
        if started == Some(0) && created == Some(0) {
            assert_eq!(after.as_deref(), Some("running"), "start said that it had");
        }
        if after.as_deref() == Some("running") {
            perhaps_killed(&mut host.runtime(&["kill", id, "KILL"]), dice);
            status(host, id);
        }
    }
    perhaps_killed(&mut host.runtime(&["delete", "--force", id]), dice);
    runtime(host, &["delete", "--force", id]).ok();
    assert_eq!(status(host, id), None, "deleted is gone");
    let groups = cgroup::dirs(id);
    assert!(groups.is_empty(), "control groups of a deleted container: {groups:?}");
}

#[test]
fn soak_a_runtime_killed_at_any_moment_tells_the_truth() {
    let host = Host::new();
    let dir = bundle(&host, "b", &["sleep", "1000"]);
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for n in 0..cycles() {
        cycle(&host, &dir, &unique(&format!("crash-{n}")), &mut dice);
    }
    assert_eq!(runtime(&host, &["list", "-q"]).ok().out(), "");
    let scratch = dir.parent().expect("the host's directory").to_owned();
    wait::becomes_true(Duration::from_secs(15), || leak::processes(&scratch).is_empty());
    assert_eq!(leak::processes(&scratch), Vec::<i32>::new(), "processes left behind");
    assert_eq!(leak::mounts(&scratch), Vec::<std::path::PathBuf>::new(), "mounts left behind");
    let names: Vec<_> = std::fs::read_dir(scratch.join("bundles")).into_iter().flatten().flatten().collect();
    assert!(names.is_empty(), "left in the state directory: {names:?}");
}
