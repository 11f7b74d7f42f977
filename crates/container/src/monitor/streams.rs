//! A container's standard streams: the monitor's ends of its pipes or of its terminal.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use sys::Context;

use super::process::ChildStdio;
use crate::error::{Doing, Result};
use crate::protocol::{MAX_DATA, Stream};

/// How long a terminal rests that nobody has open: a process may close its streams and open `/dev/console` later.
const REST: Duration = Duration::from_millis(100);

/// The monitor's ends.
#[derive(Debug)]
pub(crate) struct Streams {
    stdin: Sink,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
    rest_until: Option<Instant>,
    input: VecDeque<Input>,
    /// Whether standard input is closed when `input` is written.
    closing: bool,
}

#[derive(Debug)]
enum Sink {
    Closed,
    Pipe(OwnedFd),
    Terminal,
}

#[derive(Debug)]
struct Input {
    session: u64,
    bytes: Vec<u8>,
    written: usize,
}

/// What a read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// So many bytes.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// The stream's end.
    End,
}

impl Streams {
    /// Pipes, or with `terminal` none yet: its master comes from the process.
    ///
    /// # Errors
    /// When they cannot be made.
    pub(crate) fn new(terminal: bool, open_stdin: bool, size: Option<(u16, u16)>) -> Result<(Self, ChildStdio)> {
        let mut streams = Self {
            stdin: Sink::Closed,
            stdout: None,
            stderr: None,
            terminal: None,
            rest_until: None,
            input: VecDeque::new(),
            closing: false,
        };
        if terminal {
            if open_stdin {
                streams.stdin = Sink::Terminal;
            }
            return Ok((streams, ChildStdio::Terminal { size }));
        }
        let pipe = || pipe_with(PipeFlags::CLOEXEC).at("pipe2", "").doing("making the container's streams");
        let (stdout, theirs_out) = pipe()?;
        let (stderr, theirs_err) = pipe()?;
        // Only our ends do not block: that is a property of each end's open file, and the container expects its own to.
        do_not_block(&stdout)?;
        do_not_block(&stderr)?;
        let theirs_in = if open_stdin {
            let (theirs, stdin) = pipe()?;
            do_not_block(&stdin)?;
            streams.stdin = Sink::Pipe(stdin);
            theirs
        } else {
            openat(CWD, "/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .at("openat", "/dev/null")
                .doing("making the container's streams")?
        };
        streams.stdout = Some(stdout);
        streams.stderr = Some(stderr);
        Ok((streams, ChildStdio::Fds { stdin: theirs_in, stdout: theirs_out, stderr: theirs_err }))
    }

    /// Takes the terminal's master.
    pub(crate) fn set_terminal(&mut self, master: OwnedFd) -> Result<()> {
        do_not_block(&master)?;
        self.terminal = Some(master);
        Ok(())
    }

    /// The terminal's master.
    pub(crate) fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.as_ref().map(AsFd::as_fd)
    }

    /// The streams to read, those at rest left out.
    pub(crate) fn readable(&self) -> impl Iterator<Item = (Stream, BorrowedFd<'_>)> {
        let terminal = self.terminal.as_ref().filter(|_| self.rest_until.is_none());
        let stdout = self.stdout.as_ref().or(terminal).map(|file| (Stream::Stdout, file.as_fd()));
        let stderr = self.stderr.as_ref().map(|file| (Stream::Stderr, file.as_fd()));
        stdout.into_iter().chain(stderr)
    }

    /// Whether every output stream has ended.
    pub(crate) fn is_at_end(&self) -> bool {
        self.stdout.is_none() && self.stderr.is_none() && self.terminal.is_none()
    }

    /// When a resting terminal is looked at again.
    pub(crate) fn rests_until(&self) -> Option<Instant> {
        self.rest_until
    }

    /// Ends the rest of a terminal that has rested long enough.
    pub(crate) fn wake(&mut self, now: Instant) {
        if self.rest_until.is_some_and(|until| now >= until) {
            self.rest_until = None;
        }
    }

    /// Reads once from a stream into `buffer`. `ended` tells that the process is gone, so a terminal without users has
    /// ended and does not only rest.
    pub(crate) fn read(&mut self, stream: Stream, buffer: &mut [u8], ended: bool) -> Read {
        let length = buffer.len().min(MAX_DATA);
        let (slot, is_terminal) = match stream {
            Stream::Stdout if self.terminal.is_some() => (&mut self.terminal, true),
            Stream::Stdout => (&mut self.stdout, false),
            Stream::Stderr => (&mut self.stderr, false),
        };
        let Some(file) = slot.as_ref() else { return Read::End };
        let result = loop {
            match rustix::io::read(file, &mut buffer[..length]) {
                Err(Errno::INTR) => {}
                other => break other,
            }
        };
        match result {
            Ok(length) if length > 0 => Read::Bytes(length),
            Err(Errno::AGAIN) => Read::Nothing,
            // A terminal whose other side nobody has open gives EIO; so does one whose last user left.
            Err(Errno::IO) if is_terminal && !ended => {
                self.rest_until = Some(Instant::now() + REST);
                Read::Nothing
            }
            Ok(_) | Err(_) => {
                *slot = None;
                Read::End
            }
        }
    }

    /// Gives up the output streams that have not ended.
    pub(crate) fn abandon(&mut self) {
        self.stdout = None;
        self.stderr = None;
        self.terminal = None;
        self.stdin = Sink::Closed;
        self.input.clear();
    }

    /// The standard input to poll for room: there is something to write.
    pub(crate) fn writable(&self) -> Option<BorrowedFd<'_>> {
        self.input.front()?;
        match &self.stdin {
            Sink::Closed => None,
            Sink::Pipe(pipe) => Some(pipe.as_fd()),
            Sink::Terminal => self.terminal(),
        }
    }

    /// Queues bytes of a session for standard input. How many sessions may queue how much is the protocol's window.
    pub(crate) fn push_input(&mut self, session: u64, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.input.push_back(Input { session, bytes, written: 0 });
        }
    }

    /// Bytes that a session has waiting.
    pub(crate) fn waiting(&self, session: u64) -> usize {
        self.input.iter().filter(|input| input.session == session).map(|input| input.bytes.len() - input.written).sum()
    }

    /// Standard input ends when what is queued is written. A terminal has no end; what its user types ends programs.
    pub(crate) fn close_input(&mut self) {
        self.closing = true;
    }

    /// Writes what fits into standard input. `taken` is told which session's bytes were written or, when nobody reads
    /// standard input, discarded.
    pub(crate) fn write_input(&mut self, mut taken: impl FnMut(u64, usize)) {
        while let Some(input) = self.input.front_mut() {
            let file = match &self.stdin {
                Sink::Closed => None,
                Sink::Pipe(pipe) => Some(pipe),
                Sink::Terminal => self.terminal.as_ref(),
            };
            let rest = &input.bytes[input.written..];
            let written = match file.map(|file| rustix::io::write(file, rest)) {
                Some(Ok(written)) => written,
                Some(Err(Errno::INTR)) => continue,
                Some(Err(Errno::AGAIN)) => return,
                Some(Err(_)) | None => {
                    self.stdin = Sink::Closed;
                    rest.len()
                }
            };
            taken(input.session, written);
            input.written += written;
            if input.written == input.bytes.len() {
                self.input.pop_front();
            }
        }
        if self.closing && matches!(self.stdin, Sink::Pipe(_)) {
            self.stdin = Sink::Closed;
        }
    }
}

fn do_not_block(file: &OwnedFd) -> Result<()> {
    let flags = rustix::fs::fcntl_getfl(file).at("fcntl", "F_GETFL").doing("making the container's streams")?;
    rustix::fs::fcntl_setfl(file, flags | OFlags::NONBLOCK)
        .at("fcntl", "F_SETFL")
        .doing("making the container's streams")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_is_written_in_order_credited_and_then_closed() {
        let (mut streams, ChildStdio::Fds { stdin, .. }) = Streams::new(false, true, None).expect("made") else {
            panic!("pipes expected")
        };
        streams.push_input(1, vec![b'a'; 50_000]);
        streams.push_input(2, vec![b'b'; 50_000]);
        streams.close_input();
        let mut credit = [0; 3];
        streams.write_input(|session, bytes| credit[usize::try_from(session).expect("small")] += bytes);
        assert!(credit[1] == 50_000 && credit[2] < 50_000 && streams.writable().is_some(), "{credit:?}");
        assert_eq!(streams.waiting(2), 50_000 - credit[2]);
        let mut got = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match rustix::io::read(&stdin, &mut buffer).expect("read") {
                0 => break,
                length => got.extend_from_slice(&buffer[..length]),
            }
            streams.write_input(|session, bytes| credit[usize::try_from(session).expect("small")] += bytes);
        }
        assert_eq!(credit[1..], [50_000, 50_000]);
        assert!(got[..50_000].iter().all(|&byte| byte == b'a') && got[50_000..].iter().all(|&byte| byte == b'b'));
    }

    #[test]
    fn input_that_nobody_reads_is_discarded_and_credited() {
        let (mut streams, child) = Streams::new(false, true, None).expect("made");
        drop(child);
        streams.push_input(7, vec![b'a'; 1000]);
        let mut credit = 0;
        streams.write_input(|_, bytes| credit += bytes);
        assert_eq!((credit, streams.writable().is_none()), (1000, true));
    }
}
