//! The client's half of the conversation with a monitor. It knows nothing of terminals.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use sys::Context;

use crate::dir::ContainerDir;
use crate::error::{Doing, Error, Result};
use crate::monitor::SOCKET;
use crate::protocol::{Attach, Event, MAX_DATA, MAX_PACKET, Message, Notice, Request, STDIN_WINDOW};

/// How long a monitor may take to read what it is told: it never waits for anything but its disk.
const SEND_LIMIT: Duration = Duration::from_secs(30);

/// A conversation with the monitor of one run of a container. Dropping it detaches.
#[derive(Debug)]
pub struct Session {
    socket: OwnedFd,
    buffer: Vec<u8>,
    window: usize,
    reaper: Reaper,
    /// The monitor's process, of which whoever spawned it is the parent.
    child: Option<std::process::Child>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reaper {
    No,
    Announced,
    Mine,
    Other,
}

/// What [`Session::recv`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// The monitor said something.
    Event(Event),
    /// Nothing within the limit.
    Nothing,
    /// The monitor has closed the session: nothing more comes. If it did not say [`Notice::Exited`] or
    /// [`Notice::Failed`] before, the status record knows, or the container is lost.
    Closed,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The command ended.
    Exited {
        /// The process's own code, or 128 + signal.
        code: i32,
        /// Whether the memory limit killed a process of the container.
        oom_killed: bool,
    },
    /// The command could not be executed.
    Failed(crate::protocol::Failure),
}

/// Connects to the monitor that listens in `run_dir`.
///
/// # Errors
/// [`Error::MonitorGone`] when none does.
pub fn connect(run_dir: &Path) -> Result<Session> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = match openat(CWD, run_dir, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Err(Error::MonitorGone),
        other => other.at("openat", run_dir.display()).doing("connecting to the container's monitor")?,
    };
    let address = socket_address(&dir)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .at("socket", "")
        .doing("connecting to the container's monitor")?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) => Ok(Session::new(socket, None)),
        Err(Errno::NOENT | Errno::CONNREFUSED) => Err(Error::MonitorGone),
        Err(errno) => {
            Err(errno).at("connect", run_dir.join(SOCKET).display()).doing("connecting to the container's monitor")
        }
    }
}

/// Connects to the monitor of the container in `dir`, which listens in `run_dir`. While somebody holds the container's
/// lock and nobody listens yet, a start is under way and is waited for, at most `limit`.
///
/// # Errors
/// [`Error::MonitorGone`] when the container does not live; [`Error::Timeout`].
pub fn connect_to(dir: &ContainerDir, run_dir: &Path, limit: Duration) -> Result<Session> {
    let deadline = Instant::now() + limit;
    loop {
        match connect(run_dir) {
            Err(Error::MonitorGone) if dir.is_alive() => {}
            other => return other,
        }
        if Instant::now() >= deadline {
            return Err(Error::Timeout("waiting for the container's monitor to listen"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The address of the socket in `dir`. Through the descriptor, since an address has at most 108 bytes.
pub(crate) fn socket_address(dir: &OwnedFd) -> Result<SocketAddrUnix> {
    let path = format!("/proc/self/fd/{}/{SOCKET}", std::os::fd::AsRawFd::as_raw_fd(dir));
    SocketAddrUnix::new(path.as_str()).at("sockaddr_un", path).doing("addressing the container's monitor")
}

impl Session {
    pub(crate) fn new(socket: OwnedFd, child: Option<std::process::Child>) -> Self {
        Self { socket, buffer: vec![0; MAX_PACKET], window: STDIN_WINDOW, reaper: Reaper::No, child }
    }

    /// Sends a request.
    ///
    /// # Errors
    /// [`Error::MonitorGone`].
    pub fn request(&mut self, request: &Request) -> Result<()> {
        self.send(&request.encode())
    }

    /// Takes part in the streams.
    ///
    /// # Errors
    /// [`Error::MonitorGone`].
    pub fn attach(&mut self, attach: Attach) -> Result<()> {
        self.request(&Request::Attach(attach))
    }

    /// Lets a prepared container execute its command.
    ///
    /// # Errors
    /// [`Error::MonitorGone`].
    pub fn start(&mut self) -> Result<()> {
        self.request(&Request::Start)
    }

    /// Tells the terminal's size.
    ///
    /// # Errors
    /// [`Error::MonitorGone`].
    pub fn resize(&mut self, rows: u16, cols: u16) -> Result<()> {
        self.request(&Request::Resize { rows, cols })
    }

    /// Asks for a signal to the container's first process; the answer is an event.
    ///
    /// # Errors
    /// [`Error::MonitorGone`].
    pub fn signal(&mut self, signal: i32) -> Result<()> {
        self.request(&Request::Signal(signal))
    }

    /// Promises to reap the container after its exit. On receipt of the end the promise is confirmed to the monitor; ask
    /// [`Session::must_reap`] then.
    ///
    /// # Errors
    /// [`Error::MonitorGone`].
    pub fn take_over_reaping(&mut self) -> Result<()> {
        self.request(&Request::TakeOverReaping)?;
        self.reaper = Reaper::Announced;
        Ok(())
    }

    /// Whether this process reaps: the end was received, and the monitor had not lost patience with a slow reader and
    /// executed the reap command itself.
    #[must_use]
    pub fn must_reap(&self) -> bool {
        self.reaper == Reaper::Mine
    }

    /// How many bytes of standard input may be sent now. Each [`Notice::StdinTaken`] gives more.
    #[must_use]
    pub fn stdin_window(&self) -> usize {
        self.window
    }

    /// Sends the beginning of `bytes` to standard input and tells how many; 0 while the window is closed.
    ///
    /// # Errors
    /// [`Error::MonitorGone`].
    pub fn send_stdin(&mut self, bytes: &[u8]) -> Result<usize> {
        let length = bytes.len().min(self.window).min(MAX_DATA);
        if length > 0 {
            self.send(&Message::Stdin(bytes[..length].to_vec()).encode())?;
            self.window -= length;
        }
        Ok(length)
    }

    /// Tells that standard input has ended.
    ///
    /// # Errors
    /// [`Error::MonitorGone`].
    pub fn close_stdin(&mut self) -> Result<()> {
        self.request(&Request::StdinEof)
    }

    /// The next event, waiting at most `limit`; `None` waits as long as the monitor lives. With a limit of zero it does
    /// not wait: use [`Session::as_fd`] to poll.
    ///
    /// # Errors
    /// [`Error::Protocol`] when the monitor speaks another version.
    pub fn recv(&mut self, limit: Option<Duration>) -> Result<Received> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        loop {
            match rustix::net::recv(&self.socket, &mut self.buffer[..], RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
                Ok((_, 0)) => return Ok(Received::Closed),
                Ok((_, length)) if length > MAX_PACKET => {
                    return Err(Error::Protocol(format!("a packet of {length} bytes")));
                }
                Ok((_, length)) => {
                    let event = Event::decode(&self.buffer[..length])?;
                    self.note(&event);
                    return Ok(Received::Event(event));
                }
                Err(Errno::AGAIN) => {
                    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
                    if left == Some(Duration::ZERO) {
                        return Ok(Received::Nothing);
                    }
                    let mut entries = [PollFd::new(&self.socket, PollFlags::IN)];
                    sys::process::poll_until(&mut entries, left).doing("waiting for the container's monitor")?;
                }
                // Told once when the monitor closed with words of ours unread; its own last words are still there.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(errno) => return Err(errno).at("recv", "session").doing("listening to the container's monitor"),
            }
        }
    }

    /// Waits for the run's end, discarding output, at most `limit`.
    ///
    /// # Errors
    /// [`Error::Timeout`]; [`Error::MonitorGone`] when the monitor ended without a word: the status record knows more.
    pub fn wait(&mut self, limit: Option<Duration>) -> Result<Ended> {
        self.until(limit, "waiting for the container's end", |notice| match notice {
            Notice::Exited { code, oom_killed } => Some(Ok(Ended::Exited { code, oom_killed })),
            Notice::Failed(failure) => Some(Ok(Ended::Failed(failure))),
            _ => None,
        })
    }

    /// Sends a request that is answered and waits for the answer, at most `limit`. The end of the container is an answer
    /// too: there is nothing left to ask for.
    ///
    /// # Errors
    /// [`Error::Request`] when the monitor refuses; [`Error::Timeout`]; [`Error::MonitorGone`].
    pub fn ask(&mut self, request: &Request, limit: Duration) -> Result<()> {
        self.request(request)?;
        if !request.is_answered() {
            return Ok(());
        }
        self.until(Some(limit), "waiting for the monitor's answer", |notice| match notice {
            Notice::Done | Notice::Exited { .. } | Notice::Failed(_) => Some(Ok(())),
            Notice::Refused(reason) => Some(Err(Error::Request(reason))),
            _ => None,
        })
    }

    /// Stops the container and waits for its end, at most `limit`: the stop signal, then SIGKILL after `timeout` seconds
    /// (negative never; `None` as the container was created).
    ///
    /// # Errors
    /// As [`Session::ask`] and [`Session::wait`].
    pub fn stop(&mut self, signal: Option<i32>, timeout: Option<i64>, limit: Option<Duration>) -> Result<Ended> {
        self.request(&Request::Stop { signal, timeout })?;
        self.until(limit, "waiting for the container to stop", |notice| match notice {
            Notice::Refused(reason) => Some(Err(Error::Request(reason))),
            Notice::Exited { code, oom_killed } => Some(Ok(Ended::Exited { code, oom_killed })),
            Notice::Failed(failure) => Some(Ok(Ended::Failed(failure))),
            _ => None,
        })
    }

    fn until<T>(
        &mut self,
        limit: Option<Duration>,
        what: &'static str,
        mut choose: impl FnMut(Notice) -> Option<Result<T>>,
    ) -> Result<T> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            match self.recv(left)? {
                Received::Event(Event::Notice(notice)) => {
                    if let Some(result) = choose(notice) {
                        return result;
                    }
                }
                Received::Event(Event::Output { .. }) => {}
                Received::Nothing => return Err(Error::Timeout(what)),
                Received::Closed => return Err(Error::MonitorGone),
            }
            if left == Some(Duration::ZERO) {
                return Err(Error::Timeout(what));
            }
        }
    }

    fn note(&mut self, event: &Event) {
        match event {
            Event::Notice(Notice::StdinTaken(bytes)) => {
                self.window = self.window.saturating_add(*bytes).min(STDIN_WINDOW);
            }
            Event::Notice(Notice::Exited { .. } | Notice::Failed(_)) if self.reaper == Reaper::Announced => {
                // The monitor closes its ear before it reaps, so exactly one of the two does.
                let confirmed = self.request(&Request::Reaping);
                self.reaper = if confirmed.is_ok() { Reaper::Mine } else { Reaper::Other };
            }
            _ => {}
        }
    }

    fn send(&self, packet: &[u8]) -> Result<()> {
        let deadline = Instant::now() + SEND_LIMIT;
        loop {
            match rustix::net::send(&self.socket, packet, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let mut entries = [PollFd::new(&self.socket, PollFlags::OUT)];
                    let ready = sys::process::poll_until(&mut entries, Some(left));
                    if ready.doing("talking to the container's monitor")? == 0 {
                        return Err(Error::Timeout("talking to the container's monitor"));
                    }
                }
                Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => return Err(Error::MonitorGone),
                Err(errno) => return Err(errno).at("send", "session").doing("talking to the container's monitor"),
            }
        }
    }
}

impl AsFd for Session {
    /// Readable when [`Session::recv`] has something.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Collects a monitor that has ended; one that lives on is inherited by the system's init.
        if let Some(child) = &mut self.child {
            let _ = child.try_wait();
        }
    }
}
