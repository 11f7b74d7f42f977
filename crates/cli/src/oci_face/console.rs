//! Terminals: the master handed to whoever asked for it, or relayed to our own standard streams.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::termios::{OptionalActions, Termios};
use sys::socket::Kind;
use sys::{Context as _, Errno};

use super::failure::Failure;

/// Sends `file` with its `name` to the stream socket at `path`.
pub(super) fn send_file(path: &Path, name: &str, file: &OwnedFd) -> Result<(), Failure> {
    let socket = sys::socket::connect_to(path, Kind::Bytes)
        .map_err(|error| Failure::from(error).within(&format!("cannot reach the socket {}", path.display())))?;
    Ok(sys::socket::send(socket, name.as_bytes(), &[file.as_fd()])?)
}

/// How long output may take to arrive after the process has ended.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// A container's terminal behind our own standard input and output.
pub(super) struct Relay {
    master: OwnedFd,
    /// Settings of our own terminal, to be put back.
    before: Option<Termios>,
    input_open: bool,
    output_open: bool,
}

impl Relay {
    /// Begins: our own terminal, if standard input is one, becomes raw and gives its size to the container's.
    pub(super) fn new(master: OwnedFd) -> Result<Self, Failure> {
        let stdin = rustix::stdio::stdin();
        let before = rustix::termios::tcgetattr(stdin).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            rustix::termios::tcsetattr(stdin, OptionalActions::Now, &raw).at("ioctl", "TCSETS")?;
        }
        let relay = Self { master, before, input_open: true, output_open: true };
        relay.resize();
        Ok(relay)
    }

    /// What to wait for; [`Relay::pump`] takes the answers in the same order.
    pub(super) fn entries(&self) -> [PollFd<'_>; 2] {
        let wanted = |open: bool| if open { PollFlags::IN } else { PollFlags::empty() };
        let input = PollFd::from_borrowed_fd(rustix::stdio::stdin(), wanted(self.input_open));
        [input, PollFd::new(&self.master, wanted(self.output_open))]
    }

    /// Carries over what is there.
    pub(super) fn pump(&mut self, ready: &[PollFlags]) -> Result<(), Failure> {
        let [input, output] = ready else { return Ok(()) };
        if self.output_open && !output.is_empty() {
            self.output_open = carry(&self.master, rustix::stdio::stdout())?;
        }
        if self.input_open && !input.is_empty() {
            self.input_open = carry(rustix::stdio::stdin(), &self.master)?;
        }
        Ok(())
    }

    /// Carries over the last output of a process that has ended.
    pub(super) fn drain(mut self) -> Result<(), Failure> {
        while self.output_open {
            let mut entries = [PollFd::new(&self.master, PollFlags::IN)];
            if sys::process::poll_until(&mut entries, Some(LAST_WORDS))? == 0 {
                break;
            }
            self.output_open = carry(&self.master, rustix::stdio::stdout())?;
        }
        Ok(())
    }

    /// Gives the container's terminal the size of ours. A size is a service: without one the default stays.
    pub(super) fn resize(&self) {
        if let Ok((rows, columns)) = sys::pty::size(rustix::stdio::stdin()) {
            let _ = sys::pty::resize(&self.master, rows, columns);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // A terminal that hung up has no settings to restore.
            let _ = rustix::termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Reads once and writes all of it; whether there may be more.
fn carry(from: impl AsFd, to: impl AsFd) -> Result<bool, Failure> {
    let mut buffer = [0; 4096];
    match rustix::io::read(from, &mut buffer) {
        // EIO is how a terminal ends whose last slave closed.
        Ok(0) | Err(Errno::IO) => Ok(false),
        Ok(length) => match sys::fs::write_all(to, &buffer[..length], "the terminal") {
            Err(error) if matches!(error.errno(), Errno::IO | Errno::PIPE) => Ok(false),
            other => other.map(|()| true).map_err(Failure::from),
        },
        Err(Errno::AGAIN | Errno::INTR) => Ok(true),
        Err(errno) => Err(sys::Error::new("read", "the terminal", errno).into()),
    }
}
