//! Standard streams: apart, whole, and never held open.

use std::time::Duration;

use testkit::image::hex;
use testkit::{Host, process::DEADLINE};

/// Ten megabytes and a bit, so that no buffer's size divides it.
const MUCH: usize = 10 * 1024 * 1024 + 17;

fn pattern() -> Vec<u8> {
    (0..251u8).cycle().take(MUCH).collect()
}

#[test]
fn both_streams_arrive_whole_and_apart() {
    let host = Host::new();
    host.load(&crate::armed("armed:1"));
    let script = format!("/bin/payload pattern {MUCH} & /bin/payload pattern {MUCH} >&2; wait");
    let output = host.lighter(&["run", "--rm", "--network", "none", "armed:1", "sh", "-c", &script]);
    assert_eq!(output.ok().stdout.len(), MUCH);
    assert_eq!(output.stderr.len(), MUCH);
    let expected = hex(&pattern());
    assert_eq!((hex(&output.stdout), hex(&output.stderr)), (expected.clone(), expected));
}

#[test]
fn standard_input_arrives_whole_and_ends() {
    let host = Host::with_busybox();
    let input = pattern();
    let output = host.lighter_reading(&["run", "--rm", "-i", "busybox", "sha256sum"], &input);
    assert_eq!(output.ok().out().split(' ').next(), Some(hex(&input).as_str()));
    let output = host.lighter_reading(&["run", "--rm", "-i", "busybox", "cat"], &input);
    assert_eq!(hex(&output.ok().stdout), hex(&input));
    // Without -i there is nothing to read.
    let output = host.lighter_reading(&["run", "--rm", "busybox", "cat"], b"not for you");
    assert_eq!(output.ok().out(), "");
}

#[test]
fn input_flows_while_output_flows() {
    let host = Host::with_busybox();
    let mut running =
        host.spawn(&["run", "--rm", "-i", "busybox", "sh", "-c", "while read line; do echo got $line; done"]);
    for word in ["one", "two", "three"] {
        running.write(format!("{word}\n").as_bytes());
        running.wait_for(&format!("got {word}"), DEADLINE);
    }
    running.close_stdin();
    running.finish(DEADLINE).ok();
}

#[test]
fn the_last_line_needs_no_newline() {
    let host = Host::with_busybox();
    let output = host.lighter(&["run", "--name", "torn", "busybox", "printf", "no newline"]);
    assert_eq!(output.ok().stdout, b"no newline");
    assert_eq!(host.lighter(&["logs", "torn"]).ok().stdout, b"no newline");
}

#[test]
fn all_bytes_pass_unchanged() {
    let host = Host::with_busybox();
    let all: Vec<u8> = (0..=255).collect();
    let output = host.lighter_reading(&["run", "--rm", "-i", "busybox", "cat"], &all);
    assert_eq!(output.ok().stdout, all);
    host.detached(&["--name", "box"], &["sleep", "1000"]);
    assert_eq!(host.lighter_reading(&["exec", "-i", "box", "cat"], &all).ok().stdout, all);
}

#[test]
fn exec_loses_nothing_to_a_reader_that_sleeps() {
    let host = Host::with_busybox();
    host.detached(&["--name", "box"], &["sleep", "1000"]);
    // More than is kept here, less than that and the pipes together: the process ends long before it is read.
    let exec = format!("{:?}", host.command(&["exec", "box", "head", "-c", "380000", "/dev/zero"]));
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &format!("({exec}) | (sleep 4; wc -c)")]);
    let output = host.finish(shell, None, DEADLINE);
    assert_eq!(output.ok().out(), "380000");
}

#[test]
fn logs_keep_all_characters() {
    let host = Host::with_busybox();
    let all: Vec<u8> = (0..=255).collect();
    host.lighter_reading(&["run", "-i", "--name", "bytes", "busybox", "cat"], &all).ok();
    // The log is JSON, docker's json-file: what is not UTF-8 is replaced there as docker does, NUL and the rest stay.
    let kept = String::from_utf8_lossy(&all).into_owned();
    assert_eq!(host.lighter(&["logs", "bytes"]).ok().out(), kept.trim_end());
}

#[test]
fn a_reader_that_leaves_does_not_hang_the_command() {
    let host = Host::with_busybox();
    let mut command = std::process::Command::new("sh");
    let line = host.command(&["run", "--rm", "busybox", "yes"]);
    command.args(["-c", "\"$@\" | head -n 1", "sh"]).arg(line.get_program()).args(line.get_args());
    let output = host.finish(command, None, Duration::from_secs(30));
    assert_eq!(output.ok().out(), "y");
    // Whether the command goes on without a reader is its own business; that it can be ended is ours.
    for id in host.lighter(&["ps", "-q"]).ok().out().lines() {
        host.lighter(&["rm", "-f", id]).ok();
    }
    host.assert_clean();
}

#[test]
fn a_detached_container_holds_nothing_of_the_caller() {
    let host = Host::with_busybox();
    // `detached` fails by itself when a stream stays open after the command's end.
    let id = host.detached(&[], &["sh", "-c", "echo hello; exec sleep 1000"]);
    let said = || host.lighter(&["logs", &id]).ok().out() == "hello";
    assert!(testkit::wait::becomes_true(Duration::from_secs(5), said));
}

#[test]
fn a_grandchild_that_keeps_the_streams_does_not_keep_the_caller() {
    let host = Host::with_busybox();
    let output = host.sh(&[], "sleep 1000 & echo started");
    assert_eq!(output.ok().out(), "started");
    assert!(output.took < testkit::wait::patient(Duration::from_secs(60)), "{output}");
    host.assert_clean();
}
