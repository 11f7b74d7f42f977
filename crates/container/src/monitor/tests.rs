//! The monitor's loop around a plain process instead of a container.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use rustix::pty::OpenptFlags;
use sys::fs::{Durability, Lock};

use super::process::{ChildStdio, Process};
use super::run::{Limits, Monitor, Reaping};
use crate::client::{Ended, Received, Session, connect};
use crate::dir::ContainerDir;
use crate::log::{LogOptions, read};
use crate::protocol::{Attach, Event, Failure, FailureKind, Flow, Notice, Request, Stream};
use crate::record::{State, Status};
use crate::request::{LogRequest, RootfsRequest, StartRequest};
use crate::scratch::{Scratch, config};

const LONG: Duration = Duration::from_secs(20);

/// A shell that waits for its start at a named pipe.
struct Shell {
    pid: u32,
    pidfd: OwnedFd,
    terminal: Option<OwnedFd>,
    gate: PathBuf,
    fails: bool,
}

impl Shell {
    fn launch(gate: &Path, script: &str, stdio: ChildStdio) -> Self {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "read _ < \"$0\"; exec /bin/sh -c \"$1\""]).arg(gate).arg(script).process_group(0);
        let terminal = match stdio {
            ChildStdio::Fds { stdin, stdout, stderr } => {
                command.stdin(Stdio::from(stdin)).stdout(Stdio::from(stdout)).stderr(Stdio::from(stderr));
                None
            }
            ChildStdio::Terminal { size } => {
                let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
                let master = rustix::pty::openpt(flags).expect("a terminal");
                rustix::pty::unlockpt(&master).expect("unlocked");
                let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).expect("a slave");
                if let Some((rows, columns)) = size {
                    sys::pty::resize(&master, rows, columns).expect("resized");
                }
                let copy = || Stdio::from(slave.try_clone().expect("copied"));
                command.stdin(copy()).stdout(copy()).stderr(copy());
                Some(master)
            }
        };
        let pid = command.spawn().expect("spawned").id();
        let pidfd = sys::process::open_pid(pid).expect("alive");
        Self { pid, pidfd, terminal, gate: gate.to_owned(), fails: script == "fail" }
    }

    fn signal_all(&self, signal: Signal) -> Result<(), String> {
        let group = Pid::from_raw(self.pid.cast_signed()).expect("a pid");
        kill_process_group(group, signal)
            .or_else(|errno| if errno == rustix::io::Errno::SRCH { Ok(()) } else { Err(errno.to_string()) })
    }
}

impl Process for Shell {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    fn start(&mut self) -> Result<(), Failure> {
        if self.fails {
            let chain = vec!["cannot execute \"nope\"".to_owned(), "execve nope: No such file".to_owned()];
            return Err(Failure { code: 127, kind: FailureKind::CommandNotFound, chain });
        }
        std::fs::write(&self.gate, "go\n").expect("opened the gate");
        Ok(())
    }

    fn freeze(&mut self) -> Result<(), String> {
        self.signal_all(Signal::STOP)
    }

    fn thaw(&mut self) -> Result<(), String> {
        self.signal_all(Signal::CONT)
    }

    fn kill_all(&mut self) -> Result<(), String> {
        self.signal_all(Signal::KILL)
    }

    fn oom_kills(&mut self) -> u64 {
        0
    }

    fn remove(&mut self) -> Result<(), String> {
        Ok(())
    }
}

struct Run {
    scratch: Scratch,
    dir: ContainerDir,
    session: Option<Session>,
    thread: JoinHandle<(Reaping, Vec<String>)>,
}

#[derive(Default)]
struct Setup {
    stdin: bool,
    terminal: bool,
    stop_timeout: i64,
}

fn run(name: &str, script: &'static str, setup: &Setup) -> Run {
    let scratch = Scratch::new(&format!("monitor-{name}"));
    let config = config(3);
    let dir = ContainerDir::create(scratch.path(), &config, &Status::new(State::Created), Durability::Volatile)
        .expect("created");
    let lock = dir.try_lock().expect("free");
    dir.write_status(&Status::new(State::Starting), Durability::Volatile).expect("written");
    let gate = scratch.path().join("gate");
    rustix::fs::mknodat(rustix::fs::CWD, &gate, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("made");
    let process = oci::runtime::Process { terminal: setup.terminal, ..oci::runtime::Process::default() };
    let spec = oci::runtime::Spec { process: Some(process), ..oci::runtime::Spec::default() };
    let request = StartRequest {
        id: config.id,
        dir: dir.path().to_owned(),
        run_dir: scratch.path().join("run"),
        spec,
        rootfs: RootfsRequest::Directory("/".into()),
        subpaths: Vec::new(),
        user: String::new(),
        groups: Vec::new(),
        open_stdin: setup.stdin,
        terminal_size: Some((24, 80)),
        init: false,
        log: Some(LogRequest { path: dir.log_path(), max_size: 0, max_files: 1 }),
        durable: true,
        stop_signal: 15,
        stop_timeout: setup.stop_timeout,
        seccomp_cache: None,
        reap: vec!["/bin/reap".to_owned()],
    };
    let (ours, theirs) = sys::socket::pair().expect("made");
    let path = dir.path().to_owned();
    let thread = std::thread::spawn(move || watch(request, &path, lock, theirs, &gate, script));
    Run { scratch, dir, session: Some(Session::new(ours, None)), thread }
}

fn watch(
    request: StartRequest,
    path: &Path,
    lock: Lock,
    session: OwnedFd,
    gate: &Path,
    script: &str,
) -> (Reaping, Vec<String>) {
    let limits = Limits { prepared: LONG, drain: Duration::from_millis(300), linger: Duration::from_millis(500) };
    let dir = ContainerDir::open_path(path).expect("opened");
    let mut monitor =
        Monitor::new(request, dir, session, limits, |_, stdio| Ok(Shell::launch(gate, script, stdio))).expect("made");
    let reaping = monitor.run();
    let command = monitor.reap_command().to_vec();
    drop(lock);
    (reaping, command)
}

fn attach(stdin: bool, flow: Flow) -> Attach {
    Attach { stdin, stdout: true, stderr: true, close_stdin: stdin, flow }
}

impl Run {
    fn session(&mut self) -> &mut Session {
        self.session.as_mut().expect("a session")
    }

    fn go(&mut self, stdin: bool) {
        let session = self.session();
        session.attach(attach(stdin, Flow::HoldBack)).expect("attached");
        session.start().expect("started");
    }

    fn connect(&self) -> Session {
        connect(&self.scratch.path().join("run")).expect("connected")
    }

    fn finish(mut self) -> (Status, Reaping) {
        drop(self.session.take());
        let (reaping, command) = self.thread.join().expect("no panic");
        assert_eq!(command, ["/bin/reap"]);
        // Waited for: a process that another test spawns holds every descriptor until it executes.
        drop(self.dir.lock(LONG).expect("free"));
        assert!(!self.scratch.path().join("run/sock").exists());
        (self.dir.status().expect("recorded"), reaping)
    }

    fn log(&self) -> Vec<(Stream, String)> {
        let entries = read(&self.dir.log_path(), &LogOptions::default(), || true).expect("opened");
        entries.map(|entry| entry.expect("read")).map(|entry| (entry.stream, entry.text)).collect()
    }
}

/// Output of both streams until the end.
fn collect(session: &mut Session) -> (Vec<u8>, Vec<u8>, Ended) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    loop {
        match session.recv(Some(LONG)).expect("received") {
            Received::Event(Event::Output { stream: Stream::Stdout, data }) => out.extend(data),
            Received::Event(Event::Output { stream: Stream::Stderr, data }) => err.extend(data),
            Received::Event(Event::Notice(Notice::Exited { code, oom_killed })) => {
                return (out, err, Ended::Exited { code, oom_killed });
            }
            Received::Event(Event::Notice(Notice::Failed(failure))) => return (out, err, Ended::Failed(failure)),
            Received::Event(Event::Notice(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn wait_for_output(session: &mut Session, wanted: &str) {
    let mut seen = String::new();
    while !seen.contains(wanted) {
        match session.recv(Some(LONG)).expect("received") {
            Received::Event(Event::Output { data, .. }) => seen.push_str(&String::from_utf8_lossy(&data)),
            Received::Event(Event::Notice(_)) => {}
            other => panic!("{other:?} after {seen:?}"),
        }
    }
}

fn exited(code: i32) -> Ended {
    Ended::Exited { code, oom_killed: false }
}

#[test]
fn streams_are_kept_apart_and_the_code_is_recorded_before_it_is_told() {
    let mut run = run("apart", "echo out; echo err >&2; printf last; exit 7", &Setup::default());
    run.session().take_over_reaping().expect("sent");
    run.go(false);
    let (out, err, ended) = collect(run.session());
    assert_eq!(run.dir.status().expect("recorded").state, State::Exited);
    assert_eq!((&out[..], &err[..], ended), (&b"out\nlast"[..], &b"err\n"[..], exited(7)));
    assert!(run.session().must_reap());
    let log = run.log();
    assert!(log.contains(&(Stream::Stderr, "err\n".into())) && log.contains(&(Stream::Stdout, "last".into())));
    let (status, reaping) = run.finish();
    assert_eq!((status.exit_code, status.pid, reaping), (7, 0, Reaping::Client));
    assert!(!status.started.is_empty() && status.finished > status.started);
}

#[test]
fn a_slow_client_gets_every_byte() {
    let mut run = run("slow", "head -c 3000000 /dev/zero | tr '\\0' x; head -c 3 /dev/zero", &Setup::default());
    run.go(false);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(run.dir.status().expect("recorded").state, State::Running, "held back");
    let (out, _, ended) = collect(run.session());
    assert_eq!((out.len(), ended), (3_000_003, exited(0)));
    assert_eq!(out.iter().filter(|&&byte| byte == b'x').count(), 3_000_000);
    assert_eq!(run.finish().1, Reaping::Monitor);
}

#[test]
fn standard_input_flows_and_ends() {
    let mut run = run("stdin", "wc -c", &Setup { stdin: true, ..Setup::default() });
    run.go(true);
    let mut left = 500_000;
    while left > 0 {
        let sent = run.session().send_stdin(&vec![b'a'; left]).expect("sent");
        left -= sent;
        if sent == 0 {
            assert_eq!(run.session().stdin_window(), 0);
            run.session().recv(Some(LONG)).expect("credit");
        }
    }
    run.session().close_stdin().expect("closed");
    let (out, _, ended) = collect(run.session());
    assert_eq!((String::from_utf8_lossy(&out).trim(), ended), ("500000", exited(0)));
    run.finish();
}

#[test]
fn a_client_that_leaves_closes_the_input_it_brought() {
    let mut run = run("leave", "cat; echo end", &Setup { stdin: true, ..Setup::default() });
    run.go(true);
    run.session().send_stdin(b"some\n").expect("sent");
    wait_for_output(run.session(), "some");
    let mut waiter = run.connect();
    waiter.request(&Request::Resize { rows: 1, cols: 1 }).expect("no terminal, no harm");
    run.session = None;
    assert_eq!(waiter.wait(Some(LONG)).expect("ended"), exited(0));
    assert_eq!(run.log().last(), Some(&(Stream::Stdout, "end\n".to_owned())));
    run.finish();
}

#[test]
fn a_stop_that_is_ignored_becomes_a_kill() {
    let script = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    let mut run = run("stop", script, &Setup { stop_timeout: 1, ..Setup::default() });
    run.go(false);
    wait_for_output(run.session(), "ready");
    let began = Instant::now();
    let ended = run.connect().stop(None, None, Some(LONG)).expect("stopped");
    assert_eq!(ended, exited(137));
    assert!((Duration::from_millis(900)..Duration::from_secs(10)).contains(&began.elapsed()));
    assert_eq!(run.finish().0.exit_code, 137);
}

#[test]
fn signals_pause_and_refusals() {
    let script = "trap 'echo caught' USR1; echo ready; while :; do sleep 0.02; done";
    let mut run = run("signals", script, &Setup::default());
    let early = run.session().ask(&Request::Pause, LONG).expect_err("refused").to_string();
    assert!(early.ends_with("is being started"), "{early}");
    run.go(false);
    wait_for_output(run.session(), "ready");
    let mut other = run.connect();
    other.ask(&Request::Signal(10), LONG).expect("sent");
    wait_for_output(run.session(), "caught");
    assert!(other.ask(&Request::Signal(999), LONG).is_err());
    other.ask(&Request::Pause, LONG).expect("paused");
    assert_eq!(run.dir.status().expect("recorded").state, State::Paused);
    let again = other.ask(&Request::Pause, LONG).expect_err("refused").to_string();
    assert!(again.ends_with("is already paused"), "{again}");
    other.ask(&Request::Unpause, LONG).expect("unpaused");
    assert_eq!(run.dir.status().expect("recorded").state, State::Running);
    other.ask(&Request::Pause, LONG).expect("paused");
    assert_eq!(other.stop(Some(9), Some(5), Some(LONG)).expect("stopped"), exited(137));
    run.finish();
}

#[test]
fn a_failed_start_says_why_and_is_recorded() {
    let mut run = run("fail", "fail", &Setup::default());
    run.go(false);
    let (_, _, ended) = collect(run.session());
    let Ended::Failed(failure) = ended else { panic!("{ended:?}") };
    assert_eq!((failure.code, failure.kind, failure.chain.len()), (127, FailureKind::CommandNotFound, 2));
    let (status, reaping) = run.finish();
    assert_eq!((status.state, status.exit_code, reaping), (State::Exited, 127, Reaping::Monitor));
    assert_eq!(status.error, "cannot execute \"nope\": execve nope: No such file");
}

#[test]
fn a_start_whose_client_dies_is_undone_and_a_started_one_goes_on() {
    let abandoned = run("abandoned", "echo never", &Setup::default());
    let (status, _) = abandoned.finish();
    assert_eq!((status.state, status.exit_code), (State::Exited, 125));
    assert!(status.error.contains("went away"), "{}", status.error);

    let mut run = run("goes-on", "read line; echo got $line; exit 3", &Setup { stdin: true, ..Setup::default() });
    run.session().start().expect("started");
    loop {
        if let Received::Event(Event::Notice(Notice::Started { pid })) = run.session().recv(Some(LONG)).expect("told") {
            assert!(pid > 0);
            break;
        }
    }
    run.session = None;
    let mut later = run.connect();
    later.attach(attach(true, Flow::DropOut)).expect("attached");
    later.send_stdin(b"it\n").expect("sent");
    let (out, _, ended) = collect(&mut later);
    assert_eq!((&out[..], ended), (&b"got it\n"[..], exited(3)));
    drop(later);
    assert_eq!(run.finish().0.exit_code, 3);
}

#[test]
fn a_descendant_with_the_streams_does_not_hold_up_the_end() {
    let mut run = run("descendant", "setsid sleep 5 & echo done; exit 4", &Setup::default());
    run.go(false);
    let began = Instant::now();
    let (out, _, ended) = collect(run.session());
    assert_eq!((&out[..], ended), (&b"done\n"[..], exited(4)));
    assert!(began.elapsed() < Duration::from_secs(4));
    run.finish();
}

#[test]
fn a_promised_reaper_that_dies_is_replaced() {
    let mut run = run("replaced", "exit 0", &Setup::default());
    run.session().take_over_reaping().expect("sent");
    run.go(false);
    loop {
        if let Received::Event(Event::Notice(Notice::Started { .. })) = run.session().recv(Some(LONG)).expect("told") {
            break;
        }
    }
    assert_eq!(run.finish().1, Reaping::Monitor);
}

#[test]
fn a_terminal_echoes_resizes_and_ends() {
    let script = "stty size; read line; stty size; exit 5";
    let mut run = run("terminal", script, &Setup { stdin: true, terminal: true, ..Setup::default() });
    run.go(true);
    wait_for_output(run.session(), "24 80\r\n");
    run.session().resize(40, 132).expect("resized");
    run.session().send_stdin(b"typed\r").expect("sent");
    let (out, err, ended) = collect(run.session());
    let out = String::from_utf8_lossy(&out);
    assert!(out.contains("typed") && out.ends_with("40 132\r\n"), "{out:?}");
    assert_eq!((err.len(), ended), (0, exited(5)));
    run.finish();
}
