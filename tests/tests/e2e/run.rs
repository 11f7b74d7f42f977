//! `run`: what the command gets, and what the caller gets back.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use testkit::{Host, Image, process::DEADLINE};

#[test]
fn exit_codes_are_the_commands_own_or_say_why_there_is_none() {
    let host = Host::with_busybox();
    host.sh(&[], "exit 7").exits(7);
    host.sh(&[], "exit 255").exits(255);
    host.lighter(&["run", "--rm", "busybox", "no-such-command"]).refused(127, "no-such-command");
    host.lighter(&["run", "--rm", "busybox", "/no/such/file"]).refused(127, "/no/such/file");
    host.lighter(&["run", "--rm", "busybox", "/etc/passwd"]).refused(126, "/etc/passwd");
    host.lighter(&["run", "--rm", "busybox", "/etc"]).refused(126, "/etc");
    // Pid 1 is deaf to signals without a handler; under an init the command can kill itself.
    host.sh(&["--init"], "kill -USR1 $$; sleep 1").exits(138);
    host.assert_clean();
}

#[test]
fn a_script_without_its_interpreter_is_not_found() {
    let host = Host::new();
    host.load(
        &Image::busybox("scripts:1").file("bin/lost", 0o755, b"#!/no/such/shell\n").file("bin/bare", 0o755, b"echo\n"),
    );
    host.lighter(&["run", "--rm", "scripts:1", "lost"]).refused(127, "lost");
    host.lighter(&["run", "--rm", "scripts:1", "bare"]).refused(126, "bare");
}

#[test]
fn the_images_entrypoint_and_command_are_replaced_as_docker_does() {
    let host = Host::new();
    host.load(&Image::busybox("ep:1").set("Entrypoint", json!(["echo", "ep"])).set("Cmd", json!(["cmd"])));
    let run = |args: &[&str]| host.lighter(&[&["run", "--rm"], args].concat()).ok().out();
    assert_eq!(run(&["ep:1"]), "ep cmd");
    assert_eq!(run(&["ep:1", "mine"]), "ep mine");
    assert_eq!(run(&["--entrypoint", "printf", "ep:1", "%s-%s", "a", "b"]), "a-b");
    assert_eq!(run(&["--entrypoint", "echo", "ep:1"]), "", "another entrypoint drops the image's command");
    host.load(&Image::empty("none:1").layer(testkit::image::busybox_layer().to_vec()));
    host.lighter(&["run", "--rm", "none:1"]).refused(125, "command");
}

#[test]
fn environment_comes_from_image_file_and_flags() {
    let host = Host::new();
    host.load(&Image::busybox("env:1").set("Env", json!(["PATH=/bin", "FROM=image", "KEPT=yes"])));
    let file = host.scratch("files").join("env");
    std::fs::write(&file, "# a comment\nFROM=file\nFILE=a b=c\n\nHOSTVAR\nUNSET\n").expect("write the env file");
    let mut command = host.command(&[
        "run",
        "--rm",
        "--env-file",
        &file.to_string_lossy(),
        "-e",
        "FLAG=x y",
        "-e",
        "FROM=flag",
        "-e",
        "HOSTVAR2",
        "-e",
        "EMPTY=",
        "env:1",
        "env",
    ]);
    command.env("HOSTVAR", "one").env("HOSTVAR2", "two");
    let text = host.finish(command, None, DEADLINE).ok().out();
    let lines: Vec<&str> = text.lines().collect();
    for line in [
        "FROM=flag",
        "KEPT=yes",
        "FILE=a b=c",
        "FLAG=x y",
        "HOSTVAR=one",
        "HOSTVAR2=two",
        "EMPTY=",
        "PATH=/bin",
        "HOME=/root",
    ] {
        assert!(lines.contains(&line), "{line} in\n{text}");
    }
    assert!(!lines.iter().any(|line| line.starts_with("UNSET")), "{text}");
    assert_eq!(lines.iter().filter(|line| line.starts_with("FROM=")).count(), 1, "{text}");
    let hostname = lines.iter().find_map(|line| line.strip_prefix("HOSTNAME=")).expect("HOSTNAME is set");
    assert_eq!(hostname.len(), 12, "the id's first twelve digits");
}

#[test]
fn working_directory_hostname_and_limits_are_set() {
    let host = Host::with_busybox();
    assert_eq!(host.sh(&["-w", "/made/for/me"], "pwd").ok().out(), "/made/for/me");
    host.sh(&["-w", "relative"], "pwd").refused(125, "relative");
    assert_eq!(host.sh(&["--hostname", "ship"], "hostname; cat /etc/hostname").ok().out(), "ship\nship");
    assert!(host.sh(&["--hostname", "ship"], "cat /etc/hosts").ok().out().contains("ship"));
    assert_eq!(host.sh(&["--ulimit", "nofile=123:456"], "ulimit -n; ulimit -Hn").ok().out(), "123\n456");
    assert_eq!(host.sh(&["--ulimit", "core=0"], "ulimit -c").ok().out(), "0");
    host.sh(&["--ulimit", "nofile=9:3"], "true").refused(125, "nofile");
    host.sh(&["--ulimit", "nonsense=1"], "true").refused(125, "nonsense");
}

#[test]
fn labels_and_names_are_seen_by_inspect() {
    let host = Host::with_busybox();
    host.lighter(&["create", "--name", "named", "--label", "a=1", "--label", "bare", "-l", "b=x=y", "busybox"]).ok();
    let labels = host.inspect("named")["Config"]["Labels"].clone();
    assert_eq!(labels, json!({"a": "1", "bare": "", "b": "x=y"}));
    assert_eq!(host.inspect("named")["Name"], "/named");
}

#[test]
fn two_containers_run_beside_each_other_and_names_are_unique() {
    let host = Host::with_busybox();
    let one = host.detached(&["--name", "one"], &["sleep", "1000"]);
    let two = host.detached(&["--name", "two"], &["sleep", "1000"]);
    assert_ne!(one, two);
    let output = host.lighter(&["run", "--name", "one", "busybox", "true"]);
    output.refused(125, "one");
    assert!(output.err().contains(&one[..12]), "says which container has the name\n{output}");
    host.lighter(&["run", "--name", "not/a/name", "busybox", "true"]).refused(125, "not/a/name");
    assert_eq!(host.lighter(&["ps", "-q", "--no-trunc"]).ok().out().lines().count(), 2);
    host.lighter(&["rm", "-f", "one", "two"]).ok();
    host.lighter(&["run", "--rm", "--name", "one", "busybox", "true"]).ok();
    host.assert_clean();
}

#[test]
fn signals_reach_the_command() {
    let host = Host::with_busybox();
    for (signal, name, code) in
        [(Signal::TERM, "TERM", 11), (Signal::INT, "INT", 12), (Signal::USR1, "USR1", 13), (Signal::HUP, "HUP", 14)]
    {
        let script = format!("trap 'exit {code}' {name}; echo ready; while :; do sleep 0.05; done");
        let mut running = host.spawn(&["run", "--rm", "busybox", "sh", "-c", &script]);
        running.wait_for("ready", DEADLINE);
        running.signal(signal);
        running.finish(Duration::from_secs(20)).exits(code);
    }
    host.assert_clean();
}

#[test]
fn whoever_asks_three_times_leaves_a_command_that_does_not_end() {
    let host = Host::with_busybox();
    let script = "trap 'echo asked' INT TERM; echo ready; while :; do sleep 0.05; done";
    let mut running = host.spawn(&["run", "--rm", "--name", "stubborn", "busybox", "sh", "-c", script]);
    running.wait_for("ready", DEADLINE);
    for signal in [Signal::INT, Signal::TERM] {
        running.signal(signal);
        running.wait_for("asked", DEADLINE);
    }
    running.signal(Signal::INT);
    running.finish(Duration::from_secs(20)).refused(1, "got 3 SIGTERM/SIGINTs");
    host.wait_status("stubborn", "running");
    host.lighter(&["kill", "stubborn"]).ok();
    let gone = || host.lighter(&["ps", "-aq"]).ok().out().is_empty();
    assert!(testkit::wait::becomes_true(DEADLINE, gone), "--rm holds without the client too");
    host.assert_clean();
}

#[test]
fn exec_in_a_place_that_is_not_there_is_127() {
    let host = Host::with_busybox();
    let id = host.detached(&[], &["sleep", "1000"]);
    host.lighter(&["exec", "-w", "/nosuch", &id, "true"]).refused(127, "/nosuch");
    host.lighter(&["exec", "-w", "/bin/busybox", &id, "true"]).refused(127, "/bin/busybox");
    host.lighter(&["exec", "-w", "relative", &id, "true"]).refused(125, "relative");
    host.lighter(&["exec", &id, "/nosuch"]).refused(127, "/nosuch");
    host.lighter(&["exec", &id, "/etc"]).refused(126, "/etc");
    assert_eq!(host.lighter(&["exec", "-w", "/bin", &id, "pwd"]).ok().out(), "/bin");
    host.lighter(&["rm", "-f", &id]).ok();
}

#[test]
fn moments_are_shown_where_the_caller_is() {
    let host = Host::with_busybox();
    host.lighter(&["create", "--name", "box", "busybox", "true"]).ok();
    let shown = |zone: &str| {
        let mut command = host.command(&["ps", "-a", "--format", "{{.CreatedAt}}"]);
        command.env("TZ", zone);
        host.finish(command, None, DEADLINE).ok().out()
    };
    assert!(shown("UTC0").ends_with(" +0000 UTC"), "{}", shown("UTC0"));
    assert!(shown("AAA-3:30").ends_with(" +0330 AAA"), "{}", shown("AAA-3:30"));
    host.lighter(&["rm", "box"]).ok();
}

#[test]
fn a_command_killed_by_a_signal_gives_128_and_its_number() {
    let host = Host::with_busybox();
    let mut running =
        host.spawn(&["run", "--rm", "--name", "victim", "busybox", "sh", "-c", "echo ready; exec sleep 1000"]);
    running.wait_for("ready", DEADLINE);
    host.lighter(&["kill", "victim"]).ok();
    running.finish(Duration::from_secs(20)).exits(137);
    // Under an init, a signal's default action applies to the command.
    let mut running = host.spawn(&["run", "--rm", "--init", "busybox", "sh", "-c", "echo ready; exec sleep 1000"]);
    running.wait_for("ready", DEADLINE);
    running.signal(Signal::TERM);
    running.finish(Duration::from_secs(20)).exits(143);
    host.assert_clean();
}

#[test]
fn init_reaps_orphans() {
    let host = Host::with_busybox();
    let script = "for i in 1 2 3 4 5; do sh -c 'sleep 0.1 & exit' ; done; sleep 1; ps -o stat | grep -c Z; true";
    assert_eq!(host.sh(&["--init"], script).ok().out(), "0");
    assert_eq!(host.sh(&["--init"], "exit 9").exits(9).out(), "");
    assert_ne!(host.sh(&["--init"], "echo $$").ok().out(), "1");
    assert_eq!(host.sh(&[], "echo $$").ok().out(), "1");
}

#[test]
fn rm_leaves_nothing_even_when_the_command_cannot_start() {
    let host = Host::with_busybox();
    host.sh(&[], "true").ok();
    host.lighter(&["run", "--rm", "busybox", "missing"]).exits(127);
    host.sh(&["-u", "nobody-here"], "true").exits(125);
    assert_eq!(host.lighter(&["ps", "-aq"]).ok().out(), "");
    host.assert_clean();
}

#[test]
fn without_rm_the_container_stays_and_remembers() {
    let host = Host::with_busybox();
    host.lighter(&["run", "--name", "kept", "busybox", "sh", "-c", "echo out; exit 3"]).exits(3);
    let state = host.inspect("kept")["State"].clone();
    assert_eq!((&state["Status"], &state["ExitCode"], &state["Running"]), (&json!("exited"), &json!(3), &json!(false)));
    assert_eq!(host.lighter(&["logs", "kept"]).ok().out(), "out");
}

#[test]
fn rootfs_directory_runs_without_an_image() {
    let host = Host::new();
    let dir = host.bundle("bundle").join("rootfs");
    let output = host.lighter(&["run", "--rm", "--rootfs", &dir.to_string_lossy(), "sh", "-c", "id -u; exit 4"]);
    assert_eq!(output.exits(4).out(), "0");
}
