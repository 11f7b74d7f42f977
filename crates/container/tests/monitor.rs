//! A monitor as a process of its own: this program, executed again.

use std::path::Path;
use std::time::{Duration, Instant};

use container::client::{Ended, Received, connect};
use container::protocol::{Attach, Event, FailureKind, Flow, Notice, Request, Stream};
use container::record::{Config, State, Status, UsernsPosture};
use container::recover::{Recovered, recover};
use container::request::{RootfsRequest, StartRequest};
use container::{ContainerDir, ContainerId, Error, Session, monitor};
use oci::runtime::{Linux, LinuxNamespace, Mount, NamespaceKind, Process, Spec};
use sys::fs::Durability;

const LONG: Duration = Duration::from_secs(20);

/// This program's name inside a container.
const INSIDE: &str = "/inside";

/// What this program does as a container's command.
fn inside(what: &str) -> i32 {
    use std::io::{Read, Write};
    let mut text = String::new();
    match what {
        "count" => {
            let read = std::io::stdin().read_to_string(&mut text).is_ok();
            let told = writeln!(std::io::stdout(), "{} bytes", text.len()).is_ok();
            let erred = writeln!(std::io::stderr(), "pid {}", std::process::id()).is_ok();
            if read && told && erred { 7 } else { 1 }
        }
        "sleep" => {
            if writeln!(std::io::stdout(), "ready").is_err() {
                return 1;
            }
            std::thread::sleep(LONG * 3);
            0
        }
        _ => 2,
    }
}

fn main() {
    if std::env::args().next().is_some_and(|name| name.starts_with(monitor::ARGUMENT_PREFIX)) {
        std::process::exit(monitor::main());
    }
    if let Some(what) = std::env::args().nth(1).filter(|_| std::env::args().next().as_deref() == Some(INSIDE)) {
        std::process::exit(inside(&what));
    }
    let root = std::env::temp_dir().join(format!("lighter-container-spawn-{}", std::process::id()));
    std::fs::create_dir(&root).expect("made");
    a_container_that_cannot_be_made(&root);
    a_container_from_start_to_end(&root);
    a_command_that_does_not_exist(&root);
    a_monitor_that_is_killed(&root);
    a_terminal_a_freeze_and_a_stop(&root);
    std::fs::remove_dir_all(&root).expect("removed");
}

/// A root file system with this program in it, which is static.
fn rootfs(root: &Path) -> RootfsRequest {
    let rootfs = root.join("rootfs");
    if !rootfs.exists() {
        std::fs::create_dir_all(rootfs.join("proc")).expect("made");
        std::fs::copy(std::env::current_exe().expect("known"), rootfs.join("inside")).expect("copied");
    }
    RootfsRequest::Directory(rootfs)
}

fn cgroup(seed: u8) -> String {
    format!("/lighter-container-test-{}-{seed}", std::process::id())
}

fn spec(seed: u8, args: &[&str]) -> Spec {
    let namespace = |kind| LinuxNamespace { kind, path: None };
    let linux = Linux {
        namespaces: [NamespaceKind::Pid, NamespaceKind::Mount, NamespaceKind::Ipc, NamespaceKind::Network]
            .map(namespace)
            .to_vec(),
        cgroups_path: cgroup(seed),
        ..Linux::default()
    };
    let process =
        Process { args: args.iter().map(|&arg| arg.to_owned()).collect(), cwd: "/".into(), ..Process::default() };
    let proc = Mount { destination: "/proc".into(), kind: "proc".into(), ..Mount::default() };
    Spec {
        oci_version: oci::runtime::VERSION.to_owned(),
        process: Some(process),
        mounts: vec![proc],
        linux: Some(linux),
        ..Spec::default()
    }
}

fn has_cgroup(seed: u8) -> bool {
    Path::new("/sys/fs/cgroup/pids").join(&cgroup(seed)[1..]).exists()
        || Path::new("/sys/fs/cgroup").join(&cgroup(seed)[1..]).exists()
}

fn begin(root: &Path, seed: u8, spec: Spec, rootfs: RootfsRequest) -> (ContainerDir, Session) {
    let id = ContainerId::from_random(&[seed; 32]);
    let config = Config {
        version: container::record::VERSION,
        id: id.clone(),
        name: format!("spawned-{seed}").parse().expect("a name"),
        created: container::record::now(),
        image: None,
        rootfs_dir: None,
        spec: spec.clone(),
        user: String::new(),
        groups: Vec::new(),
        tty: false,
        open_stdin: false,
        init: false,
        auto_remove: false,
        userns: UsernsPosture::Private,
        stop_signal: 15,
        stop_timeout: 10,
        log: None,
        labels: std::collections::BTreeMap::new(),
        said: serde_json::Value::Null,
    };
    let dir = ContainerDir::create(root, &config, &Status::new(State::Created), Durability::Volatile).expect("created");
    let lock = dir.try_lock().expect("free");
    dir.write_status(&Status::new(State::Starting), Durability::Volatile).expect("written");
    let request = StartRequest {
        dir: dir.path().to_owned(),
        run_dir: root.join(format!("run-{seed}")),
        id,
        spec,
        rootfs,
        subpaths: Vec::new(),
        user: String::new(),
        groups: Vec::new(),
        open_stdin: true,
        terminal_size: None,
        init: false,
        log: None,
        durable: true,
        stop_signal: 15,
        stop_timeout: 10,
        seccomp_cache: None,
        reap: vec!["/bin/touch".to_owned(), root.join(format!("reaped-{seed}")).display().to_string()],
    };
    let session = monitor::spawn(&request, lock).expect("spawned");
    (dir, session)
}

fn a_container_that_cannot_be_made(root: &Path) {
    let rootfs = RootfsRequest::Directory("/nonexistent".into());
    let (dir, mut session) = begin(root, 1, Spec::default(), rootfs);
    let ended = session.wait(Some(LONG)).expect("told");
    let Ended::Failed(failure) = ended else { panic!("{ended:?}") };
    assert_eq!(failure.code, 125, "{failure:?}");
    let status = dir.status().expect("recorded");
    assert_eq!((status.state, status.exit_code), (State::Exited, 125));
    assert!(!status.error.is_empty());
    drop(dir.lock(LONG).expect("free when the monitor is gone"));
    wait_for("the reap command", || root.join("reaped-1").exists());
    assert!(matches!(connect(&root.join("run-1")), Err(Error::MonitorGone)));
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < deadline, "waiting for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn attach() -> Attach {
    Attach { stdin: true, stdout: true, stderr: true, close_stdin: true, flow: Flow::HoldBack }
}

fn a_container_from_start_to_end(root: &Path) {
    let (dir, mut session) = begin(root, 2, spec(2, &[INSIDE, "count"]), rootfs(root));
    session.take_over_reaping().expect("sent");
    session.attach(attach()).expect("sent");
    session.start().expect("sent");
    assert_eq!(session.send_stdin(b"0123456789").expect("sent"), 10);
    session.close_stdin().expect("sent");
    let (mut out, mut err, mut started) = (Vec::new(), Vec::new(), false);
    let code = loop {
        match session.recv(Some(LONG)).expect("received") {
            Received::Event(Event::Output { stream: Stream::Stdout, data }) => out.extend(data),
            Received::Event(Event::Output { stream: Stream::Stderr, data }) => err.extend(data),
            Received::Event(Event::Notice(Notice::Started { pid })) => started = pid > 1,
            Received::Event(Event::Notice(Notice::Exited { code, oom_killed: false })) => break code,
            Received::Event(Event::Notice(Notice::Created { .. } | Notice::StdinTaken(_))) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((code, &out[..], &err[..], started), (7, &b"10 bytes\n"[..], &b"pid 1\n"[..], true));
    let status = dir.status().expect("recorded");
    assert_eq!((status.state, status.exit_code, &status.error[..]), (State::Exited, 7, ""));
    assert!(!has_cgroup(2));
    assert!(session.must_reap());
    drop(dir.lock(LONG).expect("free when the monitor is gone"));
    assert!(!root.join("reaped-2").exists(), "this process promised to reap");
}

fn a_command_that_does_not_exist(root: &Path) {
    let (dir, mut session) = begin(root, 3, spec(3, &["/nope"]), rootfs(root));
    session.start().expect("sent");
    let ended = session.wait(Some(LONG)).expect("told");
    let Ended::Failed(failure) = ended else { panic!("{ended:?}") };
    assert_eq!((failure.code, failure.kind), (127, FailureKind::CommandNotFound), "{failure:?}");
    assert_eq!(dir.status().expect("recorded").exit_code, 127);
    assert!(!has_cgroup(3));
    wait_for("the reap command", || root.join("reaped-3").exists());
}

fn a_monitor_that_is_killed(root: &Path) {
    let (dir, mut session) = begin(root, 4, spec(4, &[INSIDE, "sleep"]), rootfs(root));
    session.start().expect("sent");
    wait_for("the start", || dir.status().expect("recorded").state == State::Running);
    let status = dir.status().expect("recorded");
    let monitor = sys::process::open_pid(status.monitor).expect("alive");
    sys::process::send_signal(&monitor, 9).expect("sent");
    assert!(matches!(session.wait(Some(LONG)), Err(Error::MonitorGone)));
    wait_for("the lock", || dir.observe().expect("observed").is_lost());
    let recovered = recover(&dir, &root.join("run-4"), Some(&cgroup(4))).expect("recovered");
    let Recovered::Lost { status, left, .. } = recovered else { panic!("{recovered:?}") };
    assert_eq!((status.state, status.exit_code, left), (State::Exited, 255, Vec::new()));
    assert!(!has_cgroup(4));
}

fn a_terminal_a_freeze_and_a_stop(root: &Path) {
    let mut spec = spec(5, &[INSIDE, "sleep"]);
    if let Some(process) = &mut spec.process {
        process.terminal = true;
    }
    let mount = |place: &str, kind: &str, options: &[&str]| Mount {
        destination: place.into(),
        kind: kind.to_owned(),
        source: Some(kind.into()),
        options: options.iter().map(|&option| option.to_owned()).collect(),
        ..Mount::default()
    };
    spec.mounts.push(mount("/dev", "tmpfs", &["mode=755"]));
    spec.mounts.push(mount("/dev/pts", "devpts", &["newinstance", "ptmxmode=0666", "mode=0620"]));
    let (dir, mut session) = begin(root, 5, spec, rootfs(root));
    session.attach(attach()).expect("sent");
    session.start().expect("sent");
    let mut out = Vec::new();
    while !out.ends_with(b"ready\r\n") {
        match session.recv(Some(LONG)).expect("received") {
            Received::Event(Event::Output { data, .. }) => out.extend(data),
            Received::Event(Event::Notice(Notice::Created { .. } | Notice::Started { .. })) => {}
            other => panic!("{other:?}"),
        }
    }
    let mut other = connect(&root.join("run-5")).expect("connected");
    other.resize(30, 90).expect("sent");
    other.ask(&Request::Pause, LONG).expect("frozen");
    assert_eq!(dir.observe().expect("observed").state(), State::Paused);
    other.ask(&Request::Unpause, LONG).expect("thawed");
    other.ask(&Request::Pause, LONG).expect("frozen");
    // Process 1 of a pid namespace ignores signals it does not handle: only the kill after the timeout ends it.
    let ended = other.stop(None, Some(0), Some(LONG)).expect("stopped");
    assert_eq!(ended, Ended::Exited { code: 137, oom_killed: false });
    assert_eq!(session.wait(Some(LONG)).expect("told"), ended);
    assert!(!has_cgroup(5));
    wait_for("the reap command", || root.join("reaped-5").exists());
}
