//! The loop of `exec`: our streams to and from descriptors of a process that was put into a container.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use container::protocol::Stream;
use engine::ExecSession;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::relay::{End, Input, Outputs, Plan, Read, Stage, output_failed};
use super::signals::{FATAL, WINCH};
use super::streams::Sink;
use super::terminal;
use crate::failure::{Failure, Outcome};

/// How long output is still awaited after the process ended, when others hold its streams.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// One output stream of the process.
#[derive(Debug)]
struct Source {
    file: Option<OwnedFd>,
    stream: Stream,
    /// Bytes that it held when the process ended and that are not read yet.
    owed: u64,
}

/// Carries the streams of `exec` until the process ended and its output was read.
///
/// # Errors
/// Our own streams', and the engine's.
pub(crate) fn exec(mut process: ExecSession, plan: &mut Plan, stage: &Stage) -> Outcome<End> {
    let signals = &stage.signals;
    let mut sources = Vec::new();
    let mut sink = None;
    if let Some(terminal) = process.terminal.take() {
        let failed = |errno: Errno| Failure::io("cannot use the process's terminal", errno);
        let writer = terminal.try_clone().map_err(|error| Failure::io("cannot use the process's terminal", error))?;
        let flags = rustix::fs::fcntl_getfl(&terminal).map_err(failed)?;
        rustix::fs::fcntl_setfl(&terminal, flags | OFlags::NONBLOCK).map_err(failed)?;
        sink = plan.stdin.then(|| Sink::new(writer));
        sources.push(Source { file: Some(terminal), stream: Stream::Stdout, owed: 0 });
    } else {
        sink = process.stdin.take().map(Sink::new).or(sink);
        sources.push(Source { file: process.stdout.take(), stream: Stream::Stdout, owed: 0 });
        sources.push(Source { file: process.stderr.take(), stream: Stream::Stderr, owed: 0 });
    }
    let mut input = Input::new(plan.stdin && sink.is_some());
    let mut outputs = Outputs::new();
    let mut deadline = None;
    loop {
        let listens = outputs.has_room();
        let is_done = deadline.is_some() && sources.iter().all(|source| source.file.is_none());
        let is_late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
        let is_owed = sources.iter().any(|source| source.file.is_some() && source.owed > 0);
        if is_done || (is_late && listens && !is_owed) {
            let code = process.wait()?;
            // What the process's end was still counts, even if its last words found no reader.
            let _ = outputs.finish(signals);
            return Ok(End::Exited(code));
        }
        let ready = poll(&process, stage, &sources, sink.as_ref(), &input, &outputs, deadline)?;
        if let Err(errno) = outputs.flush() {
            return output_failed(errno);
        }
        if ready.exited {
            deadline = Some(Instant::now() + LAST_WORDS);
            for source in &mut sources {
                let held = source.file.as_ref().map(rustix::io::ioctl_fionread);
                source.owed = held.and_then(Result::ok).unwrap_or(0);
            }
        }
        while let Some(signal) = signals.next()? {
            match signal {
                WINCH if plan.tty => {
                    if let Some((rows, columns)) = terminal::size() {
                        // A process that is gone needs no size.
                        let _ = process.resize(rows, columns);
                    }
                }
                signal if FATAL.contains(&signal) && (plan.is_raw() || !plan.forward_signals) => {
                    return Ok(End::Signalled(signal));
                }
                // A process that is gone hears nothing; its end is noticed above.
                signal => drop(process.signal(signal)),
            }
        }
        if ready.stdin {
            let read = input.read(plan.tty.then_some(&mut plan.detach));
            if let Some(sink) = &mut sink {
                sink.push(input.waiting());
                input.waiting().clear();
            }
            match read {
                Read::Leave => return Ok(End::Detached(None)),
                Read::Eof => plan.stdin = false,
                Read::More => {}
            }
        }
        if let Some(open) = &mut sink
            && (open.flush().is_err() || (!plan.stdin && !open.is_waiting() && !plan.tty))
        {
            // The process has closed its input, or ours has ended: closing the pipe tells it.
            sink = None;
            input = Input::new(false);
        }
        for (source, is_ready) in sources.iter_mut().zip(ready.sources) {
            if is_ready && let Err(errno) = source.pump(&mut outputs) {
                return output_failed(errno);
            }
        }
    }
}

impl Source {
    /// Reads once; the end closes it.
    fn pump(&mut self, outputs: &mut Outputs) -> Result<(), Errno> {
        let Some(file) = &self.file else { return Ok(()) };
        let mut buffer = [0_u8; 32 << 10];
        match rustix::io::read(file, &mut buffer) {
            Ok(length) if length > 0 => {
                self.owed = self.owed.saturating_sub(u64::try_from(length).unwrap_or(u64::MAX));
                return outputs.push(self.stream, &buffer[..length]);
            }
            Err(Errno::INTR | Errno::AGAIN) => return Ok(()),
            // EIO is how a terminal ends whose last user has closed it.
            Ok(_) | Err(_) => self.file = None,
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Ready {
    exited: bool,
    stdin: bool,
    sources: [bool; 2],
}

fn poll(
    process: &ExecSession,
    stage: &Stage,
    sources: &[Source],
    sink: Option<&Sink<OwnedFd>>,
    input: &Input,
    outputs: &Outputs,
    deadline: Option<Instant>,
) -> Outcome<Ready> {
    #[derive(Clone, Copy)]
    enum Who {
        Process,
        Stdin,
        Source(usize),
        Other,
    }
    let stdin = io::stdin();
    let mut who = vec![Who::Other];
    let mut entries = vec![PollFd::new(&stage.signals, PollFlags::IN)];
    if deadline.is_none() {
        who.push(Who::Process);
        entries.push(PollFd::new(&process.pidfd, PollFlags::IN));
    }
    let sink_has_room = sink.is_some_and(|sink| !sink.is_waiting());
    if input.wants() && sink_has_room {
        who.push(Who::Stdin);
        entries.push(PollFd::new(&stdin, PollFlags::IN));
    }
    if let Some(sink) = sink.filter(|sink| sink.is_waiting()) {
        who.push(Who::Other);
        entries.push(PollFd::new(sink.file(), PollFlags::OUT));
    }
    if outputs.has_room() {
        for (index, source) in sources.iter().enumerate() {
            if let Some(file) = &source.file {
                who.push(Who::Source(index));
                entries.push(PollFd::from_borrowed_fd(file.as_fd(), PollFlags::IN));
            }
        }
    }
    entries.extend(outputs.entries().map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)));
    // Past the deadline only our own reader is waited for, without turning in circles.
    let limit =
        deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero());
    sys::process::poll_until(&mut entries, limit)
        .map_err(|error| Failure::io("cannot wait for the process", error.errno()))?;
    let mut ready = Ready::default();
    for (who, entry) in who.iter().zip(&entries) {
        if entry.revents().is_empty() {
            continue;
        }
        match who {
            Who::Process => ready.exited = true,
            Who::Stdin => ready.stdin = true,
            Who::Source(index) => ready.sources[*index] = true,
            Who::Other => {}
        }
    }
    Ok(ready)
}
