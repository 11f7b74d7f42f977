//! A container's life, verb by verb.

use std::time::Duration;

use serde_json::{Value, json};
use testkit::{Host, process::DEADLINE};

/// Every line of `ps --format json`.
fn ps(host: &Host, flags: &[&str]) -> Vec<Value> {
    let text = host.lighter(&[&["ps", "--format", "json"], flags].concat()).ok().out();
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON object a line")).collect()
}

#[test]
fn create_start_wait_remove() {
    let host = Host::with_busybox();
    let id =
        host.lighter(&["create", "--name", "box", "busybox", "sh", "-c", "echo ran; sleep 0.3; exit 5"]).ok().out();
    assert_eq!(host.inspect("box")["State"]["Status"], "created");
    assert_eq!(host.inspect("box")["Id"], json!(id));
    assert_eq!(host.lighter(&["start", "box"]).ok().out(), "box");
    assert_eq!(host.lighter(&["wait", "box"]).ok().out(), "5");
    assert_eq!(host.inspect("box")["State"]["Status"], "exited");
    assert_eq!(host.lighter(&["start", "-a", "box"]).exits(5).out(), "ran");
    assert_eq!(host.lighter(&["wait", &id[..12]]).ok().out(), "5", "a short id is enough");
    assert_eq!(host.lighter(&["rm", "box"]).ok().out(), "box");
    host.lighter(&["inspect", "box"]).rejected("box");
    host.assert_clean();
}

#[test]
fn wait_waits_from_before_the_start() {
    let host = Host::with_busybox();
    host.lighter(&["create", "--name", "box", "busybox", "sh", "-c", "sleep 0.3; exit 6"]).ok();
    host.lighter(&["start", "box"]).ok();
    let waiting = host.spawn(&["wait", "box"]);
    assert_eq!(waiting.finish(DEADLINE).ok().out(), "6");
}

#[test]
fn stop_asks_first_and_kills_at_the_timeout() {
    let host = Host::with_busybox();
    let polite = ["sh", "-c", "trap 'exit 3' TERM; trap 'exit 4' INT; while :; do sleep 0.05; done"];
    let deaf = ["sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"];
    host.detached(&["--name", "polite"], &polite);
    host.lighter(&["exec", "polite", "sleep", "0.2"]).ok();
    host.lighter(&["stop", "polite"]).ok();
    assert_eq!(host.inspect("polite")["State"]["ExitCode"], 3);
    host.detached(&["--name", "asked", "--stop-signal", "INT"], &polite);
    host.lighter(&["exec", "asked", "sleep", "0.2"]).ok();
    host.lighter(&["stop", "asked"]).ok();
    assert_eq!(host.inspect("asked")["State"]["ExitCode"], 4);
    host.detached(&["--name", "deaf"], &deaf);
    let stop = host.lighter(&["stop", "-t", "1", "deaf"]);
    assert!((Duration::from_millis(900)..Duration::from_secs(6)).contains(&stop.ok().took), "{stop}");
    assert_eq!(host.inspect("deaf")["State"]["ExitCode"], 137);
    assert_eq!(host.inspect("deaf")["State"]["OOMKilled"], false);
    host.lighter(&["stop", "deaf"]).ok();
    host.lighter(&["stop", "no-such"]).rejected("no-such");
}

#[test]
fn kill_sends_the_signal_named() {
    let host = Host::with_busybox();
    host.detached(
        &["--name", "box"],
        &["sh", "-c", "trap 'echo usr' USR1; trap 'exit 9' HUP; echo up; while :; do sleep 0.05; done"],
    );
    testkit::wait::until("the traps are set", DEADLINE, || {
        host.lighter(&["logs", "box"]).out().contains("up").then_some(())
    });
    host.lighter(&["kill", "-s", "USR1", "box"]).ok();
    testkit::wait::until("the trap ran", DEADLINE, || {
        host.lighter(&["logs", "box"]).out().contains("usr").then_some(())
    });
    assert_eq!(host.inspect("box")["State"]["Status"], "running");
    host.lighter(&["kill", "--signal", "SIGHUP", "box"]).ok();
    assert_eq!(host.lighter(&["wait", "box"]).ok().out(), "9");
    host.lighter(&["kill", "box"]).rejected("not running");
    host.lighter(&["kill", "-s", "NONSENSE", "box"]).rejected("NONSENSE");
}

#[test]
fn a_running_container_is_removed_only_by_force() {
    let host = Host::with_busybox();
    host.detached(&["--name", "box"], &["sleep", "1000"]);
    host.lighter(&["rm", "box"]).rejected("running");
    host.lighter(&["rm", "-f", "box"]).ok();
    host.lighter(&["rm", "box"]).rejected("box");
    host.lighter(&["rm", "-f", "box"]).ok();
    host.assert_clean();
}

#[test]
fn ps_shows_what_runs_and_all_with_a() {
    let host = Host::with_busybox();
    let id = host.detached(&["--name", "up"], &["sleep", "1000"]);
    host.lighter(&["run", "--name", "down", "busybox", "sh", "-c", "exit 3"]).exits(3);
    host.lighter(&["create", "--name", "new", "busybox"]).ok();
    let running = ps(&host, &[]);
    assert_eq!(running.len(), 1);
    assert_eq!((&running[0]["Names"], &running[0]["Image"]), (&json!("up"), &json!("busybox")));
    assert!(id.starts_with(running[0]["ID"].as_str().expect("an id")));
    assert!(running[0]["Status"].as_str().is_some_and(|status| status.starts_with("Up")), "{running:?}");
    let all = ps(&host, &["-a"]);
    let state = |name: &str| all.iter().find(|row| row["Names"] == name).map(|row| row["State"].clone());
    assert_eq!(state("up"), Some(json!("running")));
    assert_eq!(state("down"), Some(json!("exited")));
    assert_eq!(state("new"), Some(json!("created")));
    assert!(
        all.iter().any(|row| row["Status"].as_str().is_some_and(|status| status.starts_with("Exited (3)"))),
        "{all:?}"
    );
    assert_eq!(host.lighter(&["ps", "-q"]).ok().out(), id[..12]);
    assert_eq!(host.lighter(&["ps", "-aq"]).ok().out().lines().count(), 3);
    let table = host.lighter(&["ps"]).ok().out();
    assert!(table.starts_with("CONTAINER ID") && table.contains("\"sleep 1000\""), "{table}");
}

#[test]
fn logs_follow_and_tail() {
    let host = Host::with_busybox();
    let script = "for i in 1 2 3 4 5; do echo line $i; done; echo to-stderr >&2; sleep 1; echo late; sleep 0.2";
    host.detached(&["--name", "box"], &["sh", "-c", script]);
    let follow = host.spawn(&["logs", "-f", "box"]);
    let output = follow.finish(DEADLINE);
    assert_eq!(output.ok().out(), "line 1\nline 2\nline 3\nline 4\nline 5\nlate");
    assert_eq!(output.err(), "to-stderr");
    assert_eq!(host.lighter(&["logs", "--tail", "1", "box"]).ok().out(), "late");
    assert_eq!(host.lighter(&["logs", "--tail", "0", "box"]).ok().out(), "");
    assert_eq!(host.lighter(&["logs", "--tail", "all", "box"]).ok().out().lines().count(), 6);
    host.lighter(&["logs", "--tail", "x", "box"]).rejected("x");
    host.lighter(&["logs", "no-such"]).rejected("no-such");
}

#[test]
fn exec_runs_beside_the_command_with_its_own_code() {
    let host = Host::with_busybox();
    let id = host.detached(&["--name", "box", "-e", "FROM=run", "-w", "/srv"], &["sleep", "1000"]);
    host.lighter(&["exec", "box", "sh", "-c", "exit 7"]).exits(7);
    host.lighter(&["exec", "box", "no-such-command"]).refused(127, "no-such-command");
    host.lighter(&["exec", "box", "/etc/passwd"]).refused(126, "/etc/passwd");
    host.lighter(&["exec", "box", "sh", "-c", "kill -9 $$"]).exits(137);
    let sh = |flags: &[&str], script: &str| {
        host.lighter(&[&["exec"], flags, &["box", "sh", "-c", script]].concat()).ok().out()
    };
    assert_eq!(sh(&[], "pwd; echo $FROM; hostname"), format!("/srv\nrun\n{}", &id[..12]));
    assert_eq!(sh(&["-e", "FROM=exec", "-w", "/tmp", "-u", "alice"], "pwd; echo $FROM; id -un"), "/tmp\nexec\nalice");
    assert_eq!(host.lighter_reading(&["exec", "-i", "box", "cat"], b"through").ok().out(), "through");
    assert_eq!(host.lighter(&["exec", "-d", "box", "sh", "-c", "echo x >/srv/mark; exec sleep 1000"]).ok().out(), "");
    testkit::wait::until("the detached exec ran", DEADLINE, || {
        (host.lighter(&["exec", "box", "cat", "/srv/mark"]).status == 0).then_some(())
    });
    assert_eq!(sh(&[], "ls /proc | grep -c '^[0-9]*$' | grep -q . && cat /proc/1/comm"), "sleep");
    host.lighter(&["stop", "-t", "0", "box"]).ok();
    host.lighter(&["exec", "box", "true"]).rejected("not running");
    host.lighter(&["rm", "box"]).ok();
    host.assert_clean();
}

#[test]
fn an_exec_is_as_confined_as_the_container() {
    let host = Host::with_busybox();
    host.detached(&["--name", "box", "--cap-drop", "ALL", "--pids-limit", "50"], &["sleep", "1000"]);
    let facts = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status; cat /proc/self/uid_map; \
                 for n in mnt pid net ipc uts user cgroup time; do readlink /proc/self/ns/$n; done";
    let mine = host.lighter(&["exec", "box", "sh", "-c", facts]).ok().out();
    let inits = facts.replace("/proc/self/", "/proc/1/");
    let inits = host.lighter(&["exec", "box", "sh", "-c", &inits]).ok().out();
    assert_eq!(mine, inits);
    assert!(mine.contains("CapBnd:\t0000000000000000"), "{mine}");
}

#[test]
fn inspect_tells_state_configuration_and_posture() {
    let host = Host::with_busybox();
    let id = host.detached(&["--name", "box", "-m", "64m", "--pids-limit", "99", "--read-only"], &["sleep", "1000"]);
    let all = host.inspect("box");
    assert_eq!(all["Id"], json!(id));
    assert_eq!(all["State"]["Running"], true);
    assert_eq!(all["Path"], "sleep");
    assert_eq!(all["Args"], json!(["1000"]));
    assert_eq!(all["HostConfig"]["Memory"], 64 << 20);
    assert_eq!(all["HostConfig"]["PidsLimit"], 99);
    assert_eq!(all["HostConfig"]["ReadonlyRootfs"], true);
    assert!(all["Image"].as_str().is_some_and(|image| image.starts_with("sha256:")), "{all}");
    let pid = all["State"]["Pid"].as_i64().expect("a pid");
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).expect("the process is there");
    assert_eq!(words, b"sleep\x001000\0");
    assert!(all["Posture"].is_object(), "{all}");
    host.lighter(&["stop", "-t", "0", "box"]).ok();
    let state = host.inspect("box")["State"].clone();
    assert_eq!((&state["Running"], &state["Pid"]), (&json!(false), &json!(0)));
}

#[test]
fn a_stopped_container_starts_again_with_its_settings() {
    let host = Host::with_busybox();
    host.detached(&["--name", "box", "--hostname", "ship", "-e", "A=b"], &["sleep", "1000"]);
    for _ in 0..3 {
        assert_eq!(host.lighter(&["exec", "box", "sh", "-c", "hostname; echo $A"]).ok().out(), "ship\nb");
        host.lighter(&["stop", "-t", "0", "box"]).ok();
        host.lighter(&["start", "box"]).ok();
    }
    host.lighter(&["start", "box"]).ok();
    host.lighter(&["start", "no-such"]).rejected("no-such");
}

#[test]
fn a_start_and_a_forced_removal_at_once_leave_nothing() {
    let host = Host::with_busybox();
    for round in 0..8 {
        let name = format!("race-{round}");
        host.lighter(&["create", "--name", &name, "busybox", "sleep", "1000"]).ok();
        let start = host.spawn(&["start", &name]);
        let removed = host.lighter(&["rm", "-f", &name]);
        start.finish(DEADLINE);
        removed.ok();
        assert!(removed.took < testkit::wait::patient(Duration::from_secs(5)), "{removed}");
        assert!(host.lighter(&["ps", "-aq"]).ok().out().is_empty());
    }
}

#[test]
fn two_starts_at_once_start_it_once() {
    let host = Host::with_busybox();
    host.lighter(&["create", "--name", "box", "busybox", "sh", "-c", "echo started; exec sleep 1000"]).ok();
    let starts: Vec<_> = (0..8).map(|_| host.spawn(&["start", "box"])).collect();
    let done: Vec<i32> = starts.into_iter().map(|start| start.finish(DEADLINE).status).collect();
    assert!(done.contains(&0), "{done:?}");
    testkit::wait::until("it started", DEADLINE, || {
        host.lighter(&["logs", "box"]).out().contains("started").then_some(())
    });
    assert_eq!(host.lighter(&["logs", "box"]).ok().out(), "started");
    host.lighter(&["rm", "-f", "box"]).ok();
    host.assert_clean();
}

#[test]
fn starting_what_is_not_there_fails_with_one() {
    let host = Host::new();
    host.lighter(&["start", "nosuch"]).refused(1, "No such container: nosuch");
    host.lighter(&["start", "-a", "nosuch"]).refused(1, "No such container: nosuch");
}

#[test]
fn whoever_loses_a_race_of_starts_succeeds_too() {
    let host = Host::with_busybox();
    host.lighter(&["create", "--name", "web", "busybox", "sleep", "60"]).ok();
    let starts: Vec<_> = (0..4).map(|_| host.spawn(&["start", "web"])).collect();
    for start in starts {
        assert_eq!(start.finish(std::time::Duration::from_secs(60)).ok().out(), "web");
    }
    assert_eq!(host.inspect("web")["State"]["Status"], "running");
    host.lighter(&["rm", "-f", "web"]).ok();
}

#[test]
fn a_damaged_name_blocks_no_container() {
    let host = Host::with_busybox();
    host.lighter(&["create", "--name", "web", "busybox", "true"]).ok();
    let name = host.root().join("names/web");
    std::fs::remove_file(&name).expect("the name is a link");
    std::fs::write(&name, "not a link").expect("written");
    host.lighter(&["start", "web"]).refused(1, "No such container: web");
    host.lighter(&["create", "--name", "web", "busybox", "true"]).ok();
    host.lighter(&["start", "-a", "web"]).ok();
    host.lighter(&["rm", "web"]).ok();
    host.lighter(&["container", "prune", "-f"]).ok();
    assert!(!name.exists());
}
