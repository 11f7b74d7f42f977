//! One run of one container: the loop that watches it.
//!
//! The loop polls a handful of descriptors whose set is derived anew from the state in each turn, so nothing is ever left
//! registered that should not be. Phases:
//!
//! ```text
//!  Prepared ── Start ──▶ Running ── process ends ──▶ Draining ── streams end ──▶ Lingering ── clients served ──▶ done
//!     └──── start fails, or its client leaves ─────────────────────────────────────▲
//! ```
//!
//! Signals to the monitor: SIGTERM is a `stop` with the container's own signal and timeout, so that a machine that shuts
//! down by terminating every process ends its containers gently and records their codes. Others keep their default: a
//! monitor that is killed leaves the lock free, and the next command finds the truth.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::process::WaitOptions;
use sys::fs::Durability;
use sys::process::Exit;
use sys::signal::SignalSet;

use super::listener::Listener;
use super::process::{ChildStdio, Process};
use super::sessions::Peer;
use super::streams::{Read, Streams};
use crate::dir::ContainerDir;
use crate::error::{Error, Result};
use crate::lifecycle;
use crate::log;
use crate::protocol::{Failure, FailureKind, HEADER, MAX_DATA, MAX_PACKET, Message, Notice, Request, Stream};
use crate::record::{State, Status, now, process_start};
use crate::request::StartRequest;

mod requests;

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;
const SIGCHLD: i32 = 17;

/// Limits of the monitor's waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// How long a prepared container waits for its start.
    pub(crate) prepared: Duration,
    /// How long output is read after the process's end while somebody holds the streams open.
    pub(crate) drain: Duration,
    /// How long clients may go without reading anything after the end.
    pub(crate) linger: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { prepared: Duration::from_secs(120), drain: Duration::from_secs(2), linger: Duration::from_secs(30) }
    }
}

/// How long a run lasts before its monitor gives back memory: short runs never pay for mapping their code again.
const REST_AFTER: Duration = Duration::from_secs(1);

/// Output bytes read after the process's end at most: its pipes hold less, so more comes from somebody who still writes.
const DRAIN_LIMIT: usize = 4 * 1024 * 1024;

/// Who reaps the container now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reaping {
    /// A client promised, and confirmed.
    Client,
    /// The monitor, by its reap command.
    Monitor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Prepared,
    Running,
    Draining,
    Lingering,
}

#[derive(Clone, Copy, Debug)]
enum Source {
    Listener,
    Signals,
    Process,
    Input,
    Output(Stream),
    Session(u64),
}

/// The monitor of one run.
pub(crate) struct Monitor<P> {
    request: StartRequest,
    dir: ContainerDir,
    limits: Limits,
    status: Status,
    phase: Phase,
    process: Option<P>,
    streams: Streams,
    log: Option<log::Writer>,
    sessions: Vec<Peer>,
    next_session: u64,
    listener: Option<Listener>,
    signals: Option<OwnedFd>,
    /// End of the current phase's patience.
    deadline: Option<Instant>,
    /// When a stop becomes a kill.
    kill_at: Option<Instant>,
    /// When a run has lasted long enough that giving memory back is worth it.
    rest_at: Option<Instant>,
    /// The process's end, when it was collected by accident among other children.
    collected: Option<Exit>,
    drained: usize,
    /// Whether a client confirmed that it reaps.
    confirmed: bool,
    buffer: Vec<u8>,
}

impl<P: Process> Monitor<P> {
    /// A monitor with one session, that of whoever spawned it. `launch` makes the process; its failure is told to the
    /// session and recorded, and the monitor only lingers then.
    ///
    /// # Errors
    /// When the monitor's own means cannot be made; nothing was launched then.
    pub(crate) fn new(
        request: StartRequest,
        dir: ContainerDir,
        session: OwnedFd,
        limits: Limits,
        launch: impl FnOnce(&StartRequest, ChildStdio) -> Result<P, Failure>,
    ) -> Result<Self> {
        let terminal = request.spec.process.as_ref().is_some_and(|process| process.terminal);
        let (streams, stdio) = Streams::new(terminal, request.open_stdin, request.terminal_size)?;
        let launched = launch(&request, stdio);
        let mut monitor = Self {
            request,
            dir,
            limits,
            status: Status::new(State::Starting),
            phase: Phase::Prepared,
            process: None,
            streams,
            log: None,
            sessions: vec![Peer::new(0, session, true)],
            next_session: 1,
            listener: None,
            signals: None,
            deadline: Some(Instant::now() + limits.prepared),
            kill_at: None,
            rest_at: None,
            collected: None,
            drained: 0,
            confirmed: false,
            buffer: Vec::new(),
        };
        // From here on the process prepares itself while this one does what is left.
        // Whoever took the lock recorded `starting`, with what only it knows, such as the ids.
        if let Ok(recorded) = monitor.dir.status() {
            monitor.status = Status { state: State::Starting, ..recorded };
        }
        monitor.status.monitor = std::process::id();
        match launched.and_then(|process| monitor.adopt(process)) {
            Ok(()) => {}
            Err(failure) => monitor.fail(failure),
        }
        Ok(monitor)
    }

    fn adopt(&mut self, mut process: P) -> Result<(), Failure> {
        let terminal = process.take_terminal();
        let pid = process.pid();
        self.status.pid = pid;
        self.process = Some(process);
        if let Some(terminal) = terminal {
            self.streams.set_terminal(terminal).map_err(|error| internal(&error))?;
        }
        self.log = self.request.log.as_ref().map(log::Writer::open);
        self.listener = Some(Listener::bind(&self.request.run_dir).map_err(|error| internal(&error))?);
        self.tell_all(&Notice::Created { pid });
        Ok(())
    }

    /// Receives the signals of `set`, which the caller has blocked, from `descriptor`.
    pub(crate) fn set_signals(&mut self, descriptor: OwnedFd) {
        self.signals = Some(descriptor);
    }

    /// The signals [`Monitor::set_signals`] wants.
    pub(crate) fn wanted_signals() -> SignalSet {
        SignalSet::empty().with(SIGTERM).with(SIGCHLD)
    }

    /// The command to execute when the monitor reaps.
    pub(crate) fn reap_command(&self) -> &[String] {
        &self.request.reap
    }

    /// Watches the run to its end. Should watching itself become impossible, the container is killed and that recorded.
    pub(crate) fn run(&mut self) -> Reaping {
        self.buffer = vec![0; MAX_PACKET];
        loop {
            if self.phase == Phase::Lingering
                && let Some(reaping) = self.served()
            {
                return reaping;
            }
            if let Err(error) = self.turn() {
                if self.phase != Phase::Lingering {
                    self.fail(internal(&error));
                }
                return Reaping::Monitor;
            }
        }
    }

    fn turn(&mut self) -> Result<()> {
        let ready = self.poll()?;
        for (source, flags) in ready {
            match source {
                Source::Session(id) => self.serve(id, flags),
                Source::Listener => self.accept(),
                Source::Signals => self.read_signals(),
                Source::Input => self.write_input(),
                Source::Output(stream) => self.relay(stream),
                Source::Process => self.collect(),
            }
        }
        self.on_time();
        self.drop_closed();
        if self.phase == Phase::Draining && self.streams.is_at_end() {
            self.conclude();
        }
        Ok(())
    }

    fn poll(&self) -> Result<Vec<(Source, PollFlags)>> {
        let mut sources = Vec::with_capacity(8 + self.sessions.len());
        let mut entries = Vec::with_capacity(8 + self.sessions.len());
        let mut add = |source, file, flags| {
            sources.push(source);
            entries.push(PollFd::from_borrowed_fd(file, flags));
        };
        for peer in &self.sessions {
            let flags = if peer.is_behind() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            add(Source::Session(peer.id), peer.socket.as_fd(), flags);
        }
        if let Some(listener) = &self.listener {
            add(Source::Listener, listener.as_fd(), PollFlags::IN);
        }
        if let Some(signals) = &self.signals {
            add(Source::Signals, signals.as_fd(), PollFlags::IN);
        }
        if let Some(input) = self.streams.writable() {
            add(Source::Input, input, PollFlags::OUT);
        }
        // A slow foreground client is waited for by leaving the output in its pipe. After the process's end the rest,
        // which is at most a pipe's content, is read whatever happens.
        if self.phase == Phase::Draining || !self.sessions.iter().any(Peer::holds_back) {
            for (stream, file) in self.streams.readable() {
                add(Source::Output(stream), file, PollFlags::IN);
            }
        }
        // Last, so that output that was there before the end is relayed before it.
        if let Some(process) = &self.process
            && matches!(self.phase, Phase::Prepared | Phase::Running)
        {
            add(Source::Process, process.pidfd(), PollFlags::IN);
        }
        let next = [self.deadline, self.kill_at, self.rest_at, self.streams.rests_until()].into_iter().flatten().min();
        let left = next.map(|next| next.saturating_duration_since(Instant::now()));
        sys::process::poll_until(&mut entries, left)
            .map_err(|source| Error::System { doing: "watching the container", source })?;
        let ready = sources.into_iter().zip(entries.iter().map(PollFd::revents));
        Ok(ready.filter(|(_, flags)| !flags.is_empty()).collect())
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        self.streams.wake(now);
        if self.kill_at.is_some_and(|at| now >= at) {
            self.kill_at = None;
            // A failure leaves the container as it is: whoever waits for the stop times out and says so.
            let _ = self.kill();
        }
        if self.rest_at.is_some_and(|at| now >= at) {
            self.rest_at = None;
            // What could not be given back is kept.
            let _ = sys::memory::release_idle();
        }
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            match self.phase {
                Phase::Prepared => self.abandon("nobody started the prepared container"),
                Phase::Draining => self.streams.abandon(),
                Phase::Running | Phase::Lingering => {}
            }
        }
    }

    fn write_input(&mut self) {
        let sessions = &mut self.sessions;
        self.streams.write_input(|id, bytes| {
            if let Some(peer) = sessions.iter_mut().find(|peer| peer.id == id) {
                peer.tell(&Notice::StdinTaken(bytes));
            }
        });
    }

    fn relay(&mut self, stream: Stream) {
        let ended = self.phase == Phase::Draining;
        self.buffer[..HEADER].copy_from_slice(&stream.header());
        let Read::Bytes(length) = self.streams.read(stream, &mut self.buffer[HEADER..HEADER + MAX_DATA], ended) else {
            return;
        };
        if let Some(log) = &mut self.log {
            log.append(stream, &self.buffer[HEADER..HEADER + length]);
        }
        for peer in &mut self.sessions {
            peer.show(stream, &self.buffer[..HEADER + length]);
        }
        if ended {
            self.drained += length;
            if self.drained > DRAIN_LIMIT {
                self.streams.abandon();
            }
        }
    }

    fn go(&mut self) {
        if self.phase != Phase::Prepared {
            return;
        }
        let started = match &mut self.process {
            Some(process) => process.start(),
            None => return,
        };
        match started {
            Ok(()) => {
                self.phase = Phase::Running;
                self.deadline = None;
                self.status.state = State::Running;
                self.status.pid_start = process_start(self.status.pid).unwrap_or(0);
                self.status.started = now();
                self.write_status(Durability::Volatile);
                self.tell_all(&Notice::Started { pid: self.status.pid });
                // The configuration is the bulk of what the monitor holds, and is not needed again.
                self.request.spec = oci::runtime::Spec::default();
                self.rest_at = Some(Instant::now() + REST_AFTER);
            }
            Err(failure) => self.fail(failure),
        }
    }

    fn read_signals(&mut self) {
        let Some(signals) = &self.signals else { return };
        let (mut terminate, mut children) = (false, false);
        while let Ok(Some((signal, _))) = sys::signal::next(signals) {
            terminate |= signal == SIGTERM;
            children |= signal == SIGCHLD;
        }
        if children {
            self.collect_children();
        }
        if terminate {
            // Refused when the container is not running, which is what was wanted.
            let _ = self.step(&lifecycle::Event::Stop, None, None);
        }
    }

    /// Collects orphans of a container without a pid namespace of its own: the monitor is their reaper.
    fn collect_children(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if u32::try_from(pid.as_raw_pid()).is_ok_and(|pid| pid == self.status.pid && pid != 0) {
                self.collected = Some(match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => Exit::Code(code),
                    (None, Some(signal)) => Exit::Signal(signal),
                    (None, None) => Exit::Code(255),
                });
            }
        }
    }

    fn collect(&mut self) {
        let Some(process) = &self.process else { return };
        let exit = match self.collected.take() {
            Some(exit) => exit,
            None => match sys::process::try_wait(process.pidfd()) {
                Ok(Some(exit)) => exit,
                Ok(None) => return,
                // Not to be told any more: the code is unknown, and never 0 then.
                Err(_) => self.collected.take().unwrap_or(Exit::Code(255)),
            },
        };
        if self.phase == Phase::Prepared {
            let reason =
                format!("the container's process ended before its command was executed ({})", exit.shell_code());
            return self.fail(Failure { code: 125, kind: FailureKind::System, chain: vec![reason] });
        }
        self.status.exit_code = exit.shell_code();
        self.phase = Phase::Draining;
        self.kill_at = None;
        self.deadline = Some(Instant::now() + self.limits.drain);
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.drain(stream);
        }
    }

    /// Reads what a stream holds now.
    fn drain(&mut self, stream: Stream) {
        loop {
            let before = self.drained;
            self.relay(stream);
            if self.drained == before {
                return;
            }
        }
    }

    fn abandon(&mut self, reason: &str) {
        self.fail(Failure { code: 125, kind: FailureKind::Abandoned, chain: vec![reason.to_owned()] });
    }

    fn fail(&mut self, failure: Failure) {
        self.status.exit_code = failure.code;
        self.status.error = failure.chain.join(": ");
        let _ = self.kill();
        if let Some(process) = &self.process {
            // Its end is collected before its control group goes; a process that cannot be killed is left to the reaper.
            let _ = sys::process::wait_for(process.pidfd(), self.limits.drain);
        }
        self.end(&Notice::Failed(failure));
    }

    fn conclude(&mut self) {
        self.status.oom_killed = self.process.as_mut().is_some_and(|process| process.oom_kills() > 0);
        let notice = Notice::Exited { code: self.status.exit_code, oom_killed: self.status.oom_killed };
        self.end(&notice);
    }

    /// Takes down what the monitor made, records the end, and only then tells it.
    fn end(&mut self, notice: &Notice) {
        self.streams.abandon();
        if let Some(log) = &mut self.log {
            log.finish();
        }
        if let Some(mut process) = self.process.take()
            && let Err(reason) = process.remove()
        {
            // The reap command removes control groups again and reports; here the reason is kept for `inspect`.
            let note = format!("control group not removed: {reason}");
            self.status.error =
                if self.status.error.is_empty() { note } else { format!("{}; {note}", self.status.error) };
        }
        self.status.state = State::Exited;
        self.status.pid = 0;
        self.status.pid_start = 0;
        self.status.monitor = 0;
        self.status.finished = now();
        let durability = if self.request.durable { Durability::Durable } else { Durability::Volatile };
        self.write_status(durability);
        // Whoever connected in time is told; whoever comes later finds no socket, and the record.
        self.accept();
        self.listener = None;
        self.tell_all(notice);
        for peer in &mut self.sessions {
            peer.widen();
        }
        self.phase = Phase::Lingering;
        self.kill_at = None;
        self.deadline = Some(Instant::now() + self.limits.linger);
    }

    /// Writes the status. Where there is no room for a new record (a full disk) the old one is overwritten in its own
    /// blocks; where that fails too it stays, and since the lock will be free, readers see a lost container: code 255,
    /// never 0.
    fn write_status(&self, durability: Durability) {
        if self.dir.write_status(&self.status, durability).is_err() {
            let _ = self.dir.overwrite_status(&self.status);
        }
    }

    /// Who reaps, once every client has what it is owed or patience ran out.
    fn served(&mut self) -> Option<Reaping> {
        let behind = self.sessions.iter().any(Peer::is_behind);
        let undecided = !self.confirmed && self.sessions.iter().any(|peer| peer.reaper);
        let late = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if (behind || undecided) && !late {
            return None;
        }
        // A client that confirms from here on fails to, and knows that it does not reap.
        for peer in &self.sessions {
            peer.stop_listening();
        }
        for peer in self.sessions.iter_mut().filter(|peer| peer.reaper) {
            while let Some(message) = peer.receive(&mut self.buffer) {
                self.confirmed |= message == Message::Request(Request::Reaping);
            }
        }
        Some(if self.confirmed { Reaping::Client } else { Reaping::Monitor })
    }
}

fn internal(error: &Error) -> Failure {
    Failure { code: 125, kind: FailureKind::System, chain: crate::error::chain(error) }
}
