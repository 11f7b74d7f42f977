//! Bad input: one clear error with a hint, the right exit code, nothing left behind.

use testkit::Host;

#[test]
fn bad_flags_are_named() {
    let host = Host::with_busybox();
    let run = |flags: &[&str]| host.sh(flags, "true");
    run(&["-m", "lots"]).refused(125, "lots");
    run(&["-m", "-5"]).refused(125, "-5");
    run(&["-m", "64m", "--memory-swap", "32m"]).refused(125, "memory");
    run(&["--cpus", "many"]).refused(125, "many");
    run(&["--cpus", "-1"]).refused(125, "-1");
    run(&["--cpus", "100000"]).refused(125, "cpus");
    run(&["--cpuset-cpus", "99999"]).refused(125, "99999");
    run(&["--pids-limit", "some"]).refused(125, "some");
    run(&["--cap-add", "MAKE_COFFEE"]).refused(125, "MAKE_COFFEE");
    run(&["--cap-drop", "NOT_A_CAP"]).refused(125, "NOT_A_CAP");
    run(&["--network", "no-such-network"]).refused(125, "no-such-network");
    run(&["--security-opt", "nonsense=1"]).refused(125, "nonsense");
    run(&["--security-opt", "seccomp=/no/such/profile.json"]).refused(125, "/no/such/profile.json");
    run(&["--userns", "nonsense"]).refused(125, "nonsense");
    run(&["--device-write-bps", "/no/such/device:1mb"]).refused(125, "/no/such/device");
    run(&["--device-write-bps", "/dev/null"]).refused(125, "");
    run(&["--env-file", "/no/such/file"]).refused(125, "/no/such/file");
    run(&["--hostname", "not a name"]).refused(125, "not a name");
    run(&["--stop-signal", "NOSIG"]).refused(125, "NOSIG");
    run(&["--no-such-flag"]).refused(125, "no-such-flag");
    // As docker's: flags that cannot be read are 125 for every verb, a wrong number of words is 1.
    for verb in [&["ps"][..], &["rm", "x"], &["images"], &["volume", "ls"], &["system", "df"], &["start", "x"]] {
        host.lighter(&[verb, &["--no-such-flag"]].concat()).refused(125, "no-such-flag");
    }
    host.lighter(&["--no-such-flag", "ps"]).refused(125, "no-such-flag");
    host.lighter(&["ps", "-n", "some"]).refused(125, "some");
    host.lighter(&["ps", "--filter", "some=thing"]).refused(1, "some");
    for verb in ["run", "create", "exec", "rm", "logs", "inspect"] {
        host.lighter(&[verb]).refused(1, "argument");
    }
    assert_eq!(host.lighter(&["ps", "-aq"]).ok().out(), "");
    host.assert_clean();
}

#[test]
fn limits_below_what_a_process_needs_are_refused() {
    let host = Host::with_busybox();
    let output = host.sh(&["-m", "4k"], "true");
    output.refused(125, "memory");
    host.sh(&["--ulimit", "nofile=1:1"], "true");
    host.sh(&["--pids-limit", "1"], "true").ok();
    assert_eq!(host.lighter(&["ps", "-aq"]).ok().out(), "");
    host.assert_clean();
}

#[test]
fn unknown_things_are_said_to_be_unknown() {
    let host = Host::with_busybox();
    for verb in ["start", "stop", "kill", "wait", "rm", "logs", "inspect"] {
        host.lighter(&[verb, "no-such-thing"]).rejected("no-such-thing");
    }
    host.lighter(&["exec", "no-such-thing", "true"]).rejected("no-such-thing");
    host.lighter(&["tag", "no-such-thing", "x:1"]).rejected("no-such-thing");
    host.lighter(&["rmi", "no-such-thing"]).rejected("no-such-thing");
    let verb = host.lighter(&["floooot"]);
    assert_ne!(verb.status, 0);
    assert!(verb.err().contains("floooot"), "{verb}");
}

#[test]
fn several_targets_are_done_as_far_as_they_go() {
    let host = Host::with_busybox();
    host.detached(&["--name", "there"], &["sleep", "1000"]);
    let output = host.lighter(&["stop", "-t", "0", "missing", "there"]);
    assert_ne!(output.status, 0);
    assert!(output.out().contains("there") && output.err().contains("missing"), "{output}");
    assert_eq!(host.inspect("there")["State"]["Status"], "exited");
}

/// R13: text of a user never breaks a line of a file or of the terminal.
#[test]
fn control_characters_stay_data() {
    let host = Host::with_busybox();
    let value = "one\ntwo\rthree\u{1b}[31m";
    let output =
        host.lighter(&["run", "--rm", "-e", &format!("ODD={value}"), "busybox", "sh", "-c", "printf %s \"$ODD\""]);
    assert_eq!(output.ok().stdout, value.as_bytes());
    host.lighter(&["create", "--name", "odd", "--label", &format!("l={value}"), "busybox"]).ok();
    assert_eq!(host.inspect("odd")["Config"]["Labels"]["l"], value);
    for name in ["a\nb", "a b", "../x", "-x", "a/b"] {
        assert_eq!(host.lighter(&["create", "--name", name, "busybox"]).status, 125, "{name:?}");
    }
    host.sh(&["--hostname", "a\nb"], "true").exits(125);
    let listing = host.lighter(&["ps", "-a", "--no-trunc"]).ok().stdout.clone();
    assert!(!listing.contains(&0x1b), "no escape of a user's reaches the terminal");
    // CVE-2022-4318: HOME with a newline adds no line to the user file.
    let home = "HOME=/x\nevil:x:0:0::/:/bin/sh";
    assert_eq!(host.sh(&["-e", home], "grep -c evil /etc/passwd").exits(1).out(), "0");
}
