//! One loop that carries a process's streams: no threads, nothing lost, nobody kept waiting for somebody else.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use container::client::{Received, Session};
use container::protocol::{Attach, Event, Failure as StartFailure, Flow, Notice, Stream};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::keys::{Detach, Typed};
use super::signals::{FATAL, Signals, WINCH};
use super::streams::Sink;
use super::terminal;
use crate::failure::{Failure, Outcome};

/// Output of a container kept while ours is not taken, bytes; beyond it the container waits.
const MAX_WAITING: usize = 256 << 10;
/// Quiet time after which the caller may do a little housekeeping.
const IDLE: Duration = Duration::from_millis(100);
/// SIGINT and SIGTERM.
const STOP: [i32; 2] = [2, 15];
/// So many of them end the client although they are forwarded, as docker's.
const PATIENCE: u32 = 3;

/// Which streams are carried and how.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Ours goes to the process.
    pub(crate) stdin: bool,
    /// Its output comes to ours.
    pub(crate) stdout: bool,
    /// Its error output comes to ours.
    pub(crate) stderr: bool,
    /// The process has a terminal.
    pub(crate) tty: bool,
    /// The end of our input ends its input.
    pub(crate) forward_eof: bool,
    /// The process's input is closed when we leave.
    pub(crate) close_stdin: bool,
    /// Signals to us go to the process.
    pub(crate) forward_signals: bool,
    /// Keys that leave.
    pub(crate) detach: Detach,
}

impl Plan {
    /// What the monitor is told.
    pub(crate) fn attach(&self) -> Attach {
        Attach {
            stdin: self.stdin,
            stdout: self.stdout,
            stderr: self.stderr,
            close_stdin: self.close_stdin,
            flow: Flow::HoldBack,
        }
    }

    /// Refuses, before anything is made, a terminal for the process and an input of ours that is none: as docker.
    ///
    /// # Errors
    /// That.
    pub(crate) fn check(&self) -> Outcome<()> {
        if self.is_raw() && !terminal::is_terminal(io::stdin()) {
            return Err(Failure::usage_hint(
                "the input device is not a terminal",
                "leave out -t, or -i, when input comes from a file or pipe",
            ));
        }
        Ok(())
    }

    /// Whether keys go to the process as they are, ctrl-c included, so that signals are not the user's way to it.
    pub(crate) fn is_raw(&self) -> bool {
        self.tty && self.stdin
    }

    /// Blocks the signals that the loop reads, so that none is lost between the start and the loop.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn prepare(&self) -> Outcome<Stage> {
        Ok(Stage { signals: Signals::take(self.forward_signals && !self.is_raw(), self.tty)?, raw: self.is_raw() })
    }
}

/// Signals taken; the terminal still as it was.
#[derive(Debug)]
pub(crate) struct Stage {
    /// Where they are read.
    pub(crate) signals: Signals,
    raw: bool,
}

impl Stage {
    /// Raw mode, where the plan asks for it.
    ///
    /// # Errors
    /// The terminal's.
    pub(crate) fn raw(&self) -> Outcome<Option<terminal::Raw>> {
        self.raw.then(terminal::Raw::enter).transpose()
    }
}

/// How the loop ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The command ended.
    Exited(i32),
    /// The command could not be executed.
    Failed(StartFailure),
    /// The user left with the detach keys, or the monitor ended the session with a reason.
    Detached(Option<String>),
    /// A signal ended us.
    Signalled(i32),
    /// The user asked the process to end three times, and it has not.
    GivenUp,
    /// Nobody reads our output any more.
    OutputClosed,
    /// The monitor is gone without a word.
    Lost,
}

/// Standard input as a source: read only when there is something and somebody takes it.
#[derive(Debug)]
pub(crate) struct Input {
    open: bool,
    waiting: Vec<u8>,
}

/// What reading standard input gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// Bytes, or nothing yet.
    More,
    /// The end.
    Eof,
    /// The detach keys.
    Leave,
}

impl Input {
    /// Standard input, if the plan carries it.
    pub(crate) fn new(open: bool) -> Self {
        Self { open, waiting: Vec::new() }
    }

    /// Whether to poll it: open, and everything read before was taken.
    pub(crate) fn wants(&self) -> bool {
        self.open && self.waiting.is_empty()
    }

    /// Reads once.
    pub(crate) fn read(&mut self, keys: Option<&mut Detach>) -> Read {
        let mut buffer = [0_u8; 32 << 10];
        let length = match rustix::io::read(io::stdin(), &mut buffer) {
            Ok(length) => length,
            Err(Errno::INTR | Errno::AGAIN) => return Read::More,
            // No input, or a terminal that has hung up: nothing more comes.
            Err(_) => 0,
        };
        if length == 0 {
            self.open = false;
            return Read::Eof;
        }
        match keys.map(|keys| keys.feed(&buffer[..length])) {
            None => self.waiting.extend_from_slice(&buffer[..length]),
            Some(Typed::Pass(bytes)) => self.waiting = bytes,
            Some(Typed::Leave(bytes)) => {
                self.waiting = bytes;
                return Read::Leave;
            }
        }
        Read::More
    }

    /// What was read and not taken yet.
    pub(crate) fn waiting(&mut self) -> &mut Vec<u8> {
        &mut self.waiting
    }
}

/// Our standard output and error.
#[derive(Debug)]
pub(crate) struct Outputs {
    out: Sink<io::Stdout>,
    err: Sink<io::Stderr>,
}

impl Outputs {
    pub(crate) fn new() -> Self {
        Self { out: Sink::new(io::stdout()), err: Sink::new(io::stderr()) }
    }

    /// Adds bytes and writes what goes.
    ///
    /// # Errors
    /// Nobody reads standard output any more.
    pub(crate) fn push(&mut self, stream: Stream, bytes: &[u8]) -> Result<(), Errno> {
        match stream {
            Stream::Stdout => self.out.push(bytes),
            Stream::Stderr => self.err.push(bytes),
        }
        self.flush()
    }

    /// Writes what goes. A broken error output is dropped in silence: it is where one would complain.
    ///
    /// # Errors
    /// Nobody reads standard output any more.
    pub(crate) fn flush(&mut self) -> Result<(), Errno> {
        let _ = self.err.flush();
        self.out.flush().map_err(|broken| broken.0)
    }

    /// Whether there is room for more.
    pub(crate) fn has_room(&self) -> bool {
        self.out.len().max(self.err.len()) < MAX_WAITING
    }

    /// Whether something waits.
    pub(crate) fn is_waiting(&self) -> bool {
        self.out.is_waiting() || self.err.is_waiting()
    }

    /// What to poll for.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let out = self.out.is_waiting().then(|| (self.out.file().as_fd(), PollFlags::OUT));
        let err = self.err.is_waiting().then(|| (self.err.file().as_fd(), PollFlags::OUT));
        out.into_iter().chain(err)
    }

    /// Writes everything, but lets a fatal signal end the wait for a reader that does not read.
    ///
    /// # Errors
    /// As [`flush`](Self::flush); `EINTR` after a signal.
    pub(crate) fn finish(&mut self, signals: &Signals) -> Result<(), Errno> {
        loop {
            self.flush()?;
            if !self.is_waiting() {
                return Ok(());
            }
            let mut entries: Vec<PollFd<'_>> =
                self.entries().map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)).collect();
            entries.push(PollFd::new(signals, PollFlags::IN));
            sys::process::poll_until(&mut entries, None).map_err(|error| error.errno())?;
            if let Ok(Some(signal)) = signals.next()
                && FATAL.contains(&signal)
            {
                return Err(Errno::INTR);
            }
        }
    }
}

/// How a failed write to standard output ends the loop or the command.
pub(crate) fn output_failed(errno: Errno) -> Outcome<End> {
    match errno {
        Errno::PIPE => Ok(End::OutputClosed),
        Errno::INTR => Ok(End::Signalled(2)),
        errno => Err(Failure::io("cannot write to standard output", errno)),
    }
}

/// What polling found ready.
#[derive(Clone, Copy, Debug, Default)]
struct Ready {
    session: bool,
    stdin: bool,
    signals: bool,
}

/// Carries the streams of one run until it ends. `idle` is called once, when nothing has happened for a moment.
///
/// # Errors
/// Our own streams' and the conversation's.
pub(crate) fn session(
    session: &mut Session,
    plan: &mut Plan,
    signals: &Signals,
    already_started: bool,
    idle: impl FnOnce(),
) -> Outcome<End> {
    let mut idle = Some(idle);
    let mut input = Input::new(plan.stdin);
    let mut outputs = Outputs::new();
    let mut started = already_started;
    let mut pending_signals = Vec::new();
    let mut asked = 0;
    let mut eof_to_send = false;
    loop {
        // First of all: what was heard in the last turn may have opened the window for what waits.
        if send_input(session, input.waiting()) && input.waiting().is_empty() && eof_to_send {
            eof_to_send = false;
            let _ = session.close_stdin();
        }
        let wants_input = input.wants() && session.stdin_window() > 0;
        let limit = idle.as_ref().map(|_| IDLE);
        let Some(ready) = poll(session, signals, &outputs, wants_input, limit)? else {
            if let Some(idle) = idle.take() {
                idle();
            }
            continue;
        };
        if let Err(errno) = outputs.flush() {
            return output_failed(errno);
        }
        if ready.signals {
            while let Some(signal) = signals.next()? {
                match signal {
                    WINCH if plan.tty => resize(session),
                    // Nothing runs yet that could hear it.
                    signal if FATAL.contains(&signal) && (plan.is_raw() || !plan.forward_signals || !started) => {
                        return Ok(End::Signalled(signal));
                    }
                    signal => {
                        asked += u32::from(STOP.contains(&signal));
                        pending_signals.push(signal);
                    }
                }
            }
        }
        if started {
            for signal in pending_signals.drain(..) {
                // A monitor that is gone is noticed when it is listened to.
                let _ = session.signal(signal);
            }
        }
        if asked >= PATIENCE {
            return Ok(End::GivenUp);
        }
        if ready.stdin {
            match input.read(plan.tty.then_some(&mut plan.detach)) {
                Read::More => {}
                Read::Eof => eof_to_send = plan.forward_eof,
                Read::Leave => {
                    let _ = session.send_stdin(input.waiting());
                    return Ok(End::Detached(None));
                }
            }
        }
        while ready.session && outputs.has_room() {
            let end = match session.recv(Some(Duration::ZERO)).map_err(|error| conversation(&error))? {
                Received::Nothing => break,
                Received::Closed => End::Lost,
                Received::Event(Event::Output { stream, data }) => match outputs.push(stream, &data) {
                    Ok(()) => continue,
                    Err(errno) => return output_failed(errno),
                },
                Received::Event(Event::Notice(notice)) => match notice {
                    Notice::Started { .. } => {
                        started = true;
                        if plan.tty {
                            resize(session);
                        }
                        continue;
                    }
                    Notice::Created { .. } | Notice::StdinTaken(_) | Notice::Done | Notice::Refused(_) => continue,
                    Notice::Detached(reason) => End::Detached(Some(reason)),
                    Notice::Exited { code, .. } => End::Exited(code),
                    Notice::Failed(failure) => End::Failed(failure),
                },
            };
            return match outputs.finish(signals) {
                Ok(()) => Ok(end),
                // What the process's end was still counts, even if its last words found no reader.
                Err(_) if matches!(end, End::Exited(_) | End::Failed(_)) => Ok(end),
                Err(errno) => output_failed(errno),
            };
        }
    }
}

/// Waits for something to do; `None` when `limit` passed.
fn poll(
    session: &Session,
    signals: &Signals,
    outputs: &Outputs,
    wants_input: bool,
    limit: Option<Duration>,
) -> Outcome<Option<Ready>> {
    let stdin = io::stdin();
    let mut entries = vec![PollFd::new(signals, PollFlags::IN)];
    // A descriptor in the list would report a hang-up at once, again and again, even with no flag set.
    let listens = outputs.has_room();
    if listens {
        entries.push(PollFd::new(session, PollFlags::IN));
    }
    if wants_input {
        entries.push(PollFd::new(&stdin, PollFlags::IN));
    }
    entries.extend(outputs.entries().map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)));
    let deadline = limit.map(|limit| Instant::now() + limit);
    let count = sys::process::poll_until(&mut entries, limit)
        .map_err(|error| Failure::io("cannot wait for the container", error.errno()))?;
    if count == 0 && deadline.is_some() {
        return Ok(None);
    }
    let is_ready = |index: usize| entries.get(index).is_some_and(|entry| !entry.revents().is_empty());
    let stdin = wants_input && is_ready(1 + usize::from(listens));
    Ok(Some(Ready { signals: is_ready(0), session: listens && is_ready(1), stdin }))
}

/// Sends what the window takes; `false` once the monitor is gone, when input has nowhere to go.
fn send_input(session: &mut Session, waiting: &mut Vec<u8>) -> bool {
    while !waiting.is_empty() {
        match session.send_stdin(waiting) {
            Ok(0) => break,
            Ok(sent) => drop(waiting.drain(..sent)),
            Err(_) => {
                waiting.clear();
                return false;
            }
        }
    }
    true
}

fn resize(session: &mut Session) {
    if let Some((rows, columns)) = terminal::size() {
        // A monitor that is gone is noticed when it is listened to.
        let _ = session.resize(rows, columns);
    }
}

/// A conversation that broke.
pub(crate) fn conversation(error: &container::Error) -> Failure {
    Failure::Engine(
        engine::Error::new(engine::ErrorKind::System, "lost the container's monitor").because(error.to_string()),
    )
}
