//! Many runs, one after the other and many at a time: no failure, no leak.
//!
//! `LIGHTER_SOAK` says how many (default 100); `cargo xtask soak` asks for 500.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use testkit::process::{DEADLINE, run};
use testkit::{Host, Image, cgroup, leak, wait};

/// How many containers are started at the same time.
const AT_A_TIME: usize = 16;

fn rounds() -> usize {
    std::env::var("LIGHTER_SOAK").ok().and_then(|text| text.parse().ok()).unwrap_or(100)
}

/// What containers leave when they leak, counted over the whole machine.
#[derive(Debug, PartialEq, Eq)]
struct Counts {
    control_groups: BTreeSet<std::path::PathBuf>,
    mounts: usize,
    processes: usize,
    network_namespaces: usize,
    files: BTreeSet<String>,
}

/// Every name below `dir`, whatever it is.
fn names(dir: &Path, into: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        into.insert(entry.path().display().to_string());
        // Layers do not change, and are large.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && entry.file_name() != "layers" {
            names(&entry.path(), into);
        }
    }
}

fn count(host: &Host) -> Counts {
    let dir = host.root().parent().expect("the host's directory");
    let namespaces: BTreeSet<_> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path().join("ns/net")).ok())
        .collect();
    let mut files = BTreeSet::new();
    names(host.root(), &mut files);
    names(host.run_dir(), &mut files);
    Counts {
        control_groups: cgroup::all(),
        mounts: leak::mounts(dir).len(),
        processes: leak::processes(dir).len(),
        network_namespaces: namespaces.len(),
        files,
    }
}

/// Compares with `before` once teardown had time to end.
fn assert_back_to(before: &Counts, host: &Host) {
    wait::becomes_true(Duration::from_secs(15), || count(host) == *before);
    let after = count(host);
    let news: Vec<_> = after.files.difference(&before.files).collect();
    assert!(news.is_empty(), "new files: {news:#?}");
    let groups: Vec<_> = after.control_groups.difference(&before.control_groups).collect();
    assert!(groups.is_empty(), "new control groups: {groups:#?}");
    assert_eq!(
        (after.mounts, after.processes, after.network_namespaces),
        (before.mounts, before.processes, before.network_namespaces),
        "mounts, processes, network namespaces"
    );
}

#[test]
fn soak_many_runs_one_after_the_other() {
    let host = Host::alone();
    host.load(&Image::busybox("busybox:latest"));
    host.sh(&[], "true").ok();
    let before = count(&host);
    for n in 0..rounds() {
        let code = i32::try_from(n % 100).expect("below 100");
        host.sh(&[], &format!("exit {code}")).exits(code);
    }
    assert_back_to(&before, &host);
}

#[test]
fn soak_many_runs_at_a_time() {
    let host = Host::alone();
    host.load(&Image::busybox("busybox:latest"));
    host.sh(&[], "true").ok();
    let before = count(&host);
    let (next, rounds) = (AtomicUsize::new(0), rounds());
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= rounds {
                        break;
                    }
                    let script = format!("echo {n}; exit 3");
                    let command = command(&host, &script);
                    assert_eq!(run(command, None, DEADLINE).exits(3).out(), n.to_string());
                }
            });
        }
    });
    assert_back_to(&before, &host);
}

fn command(host: &Host, script: &str) -> std::process::Command {
    host.command(&["run", "--rm", "busybox", "sh", "-c", script])
}

#[test]
fn soak_many_execs_in_one_container() {
    let host = Host::alone();
    host.load(&Image::busybox("busybox:latest"));
    let id = host.detached(&[], &["sleep", "1000"]);
    host.lighter(&["exec", &id, "true"]).ok();
    let pid = engine_descriptors(&host);
    let before = count(&host);
    for n in 0..rounds() {
        assert_eq!(host.lighter(&["exec", &id, "echo", &n.to_string()]).ok().out(), n.to_string());
    }
    assert_back_to(&before, &host);
    assert_eq!(engine_descriptors(&host), pid, "the monitor holds as many descriptors as before");
}

/// How many descriptors the engine's processes hold.
fn engine_descriptors(host: &Host) -> usize {
    let dir = host.root().parent().expect("the host's directory");
    let count = |pid: i32| std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    leak::processes(dir).into_iter().map(count).sum()
}
