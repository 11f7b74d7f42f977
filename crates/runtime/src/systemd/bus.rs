//! A connection to systemd: its own socket where we may use that, else the bus.
//!
//! systemd answers on its private socket without a bus between, so a busy or dead bus hinders nothing. Every call and
//! every wait for a job has a deadline.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use sys::Errno;
use sys::socket::Kind;

use super::wire::{self, Message, Reader, Target, Writer};
use super::{Error, Result};

/// How long one call may take; systemd may be busy with a reload.
const PATIENCE: Duration = Duration::from_secs(30);

/// Signals of finished jobs kept while a reply is awaited.
const MOST_JOBS: usize = 1024;

/// Longest line of the authentication.
const LONGEST_LINE: usize = 4096;

pub(super) const MANAGER: Target<'static> = Target {
    destination: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};

const BUS: Target<'static> =
    Target { destination: "org.freedesktop.DBus", path: "/org/freedesktop/DBus", interface: "org.freedesktop.DBus" };

/// What a finished job was about.
struct Finished {
    job: String,
    result: String,
}

/// A connection over which systemd answers.
pub(super) struct Bus {
    socket: OwnedFd,
    serial: u32,
    /// What was read and not yet used.
    pending: Vec<u8>,
    finished: Vec<Finished>,
    patience: Duration,
    /// What is waited for.
    doing: String,
}

impl Bus {
    /// Connects to the manager of this user: the system's for root.
    pub(super) fn connect() -> Result<Self> {
        let uid = rustix::process::geteuid();
        let (private, bus) = if uid.is_root() {
            (PathBuf::from("/run/systemd/private"), PathBuf::from("/run/dbus/system_bus_socket"))
        } else {
            let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| Path::new(dir).is_absolute());
            let runtime = runtime.map_or_else(|| PathBuf::from(format!("/run/user/{}", uid.as_raw())), PathBuf::from);
            (runtime.join("systemd/private"), runtime.join("bus"))
        };
        if let Ok(socket) = sys::socket::connect_to(&private, Kind::Bytes) {
            return Self::begin(socket, uid.as_raw(), false, PATIENCE);
        }
        let socket = sys::socket::connect_to(&bus, Kind::Bytes).map_err(Error::Absent)?;
        Self::begin(socket, uid.as_raw(), true, PATIENCE)
    }

    /// Authenticates on a fresh connection, and asks for the signals of finished jobs. `through_bus` says whether there
    /// is a bus between, which wants to be greeted.
    pub(super) fn begin(socket: OwnedFd, uid: u32, through_bus: bool, patience: Duration) -> Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true).map_err(|errno| sys::Error::new("ioctl", "FIONBIO", errno))?;
        let mut bus = Self {
            socket,
            serial: 0,
            pending: Vec::new(),
            finished: Vec::new(),
            patience,
            doing: "the greeting".to_owned(),
        };
        let deadline = Instant::now() + patience;
        let identity: String = uid.to_string().bytes().map(|byte| format!("{byte:02x}")).collect();
        // Both at once, as systemd's own clients say it: a BEGIN that arrives together with the first call would leave
        // that call in systemd's buffer, where it is looked at only when more comes.
        bus.send(format!("\0AUTH EXTERNAL {identity}\r\nBEGIN\r\n").as_bytes(), deadline)?;
        let answer = bus.line(deadline)?;
        if !answer.starts_with("OK ") {
            return Err(Error::Denied { answer });
        }
        if through_bus {
            bus.call(BUS, "Hello", "", &[])?;
            let mut rule = Writer::default();
            rule.text("type='signal',sender='org.freedesktop.systemd1',member='JobRemoved'");
            bus.call(BUS, "AddMatch", "s", &rule.0)?;
        }
        bus.call(MANAGER, "Subscribe", "", &[])?;
        Ok(bus)
    }

    /// Calls a method and gives the body of its reply.
    pub(super) fn call(&mut self, target: Target<'_>, member: &str, signature: &str, body: &[u8]) -> Result<Vec<u8>> {
        self.serial += 1;
        member.clone_into(&mut self.doing);
        let (serial, deadline) = (self.serial, Instant::now() + self.patience);
        self.send(&wire::call(serial, target, member, signature, body), deadline)?;
        loop {
            let message = self.message(deadline)?;
            match message.kind {
                wire::REPLY if message.reply_to == serial => return Ok(message.body),
                wire::ERROR if message.reply_to == serial => {
                    let text = Reader::new(&message.body).text().unwrap_or_default().to_owned();
                    return Err(Error::Refused { call: member.to_owned(), name: message.error, text });
                }
                _ => self.note(&message)?,
            }
        }
    }

    /// Calls a method that begins a job, and waits for the job's end.
    pub(super) fn job(&mut self, member: &str, signature: &str, body: &[u8]) -> Result<()> {
        let reply = self.call(MANAGER, member, signature, body)?;
        self.doing = format!("{member} with the end of its job");
        let job = Reader::new(&reply).text().ok_or(Error::Malformed)?.to_owned();
        let deadline = Instant::now() + self.patience;
        loop {
            if let Some(at) = self.finished.iter().position(|finished| finished.job == job) {
                let result = self.finished.swap_remove(at).result;
                if result == "done" {
                    return Ok(());
                }
                return Err(Error::Job { call: member.to_owned(), result });
            }
            let message = self.message(deadline)?;
            self.note(&message)?;
        }
    }

    /// Keeps what a signal says about a finished job; other messages are none of ours.
    fn note(&mut self, message: &Message) -> Result<()> {
        if message.kind != wire::SIGNAL || message.member != "JobRemoved" {
            return Ok(());
        }
        let mut body = Reader::new(&message.body);
        // Number, job, unit, result.
        let read = (body.u32(), body.text(), body.text(), body.text());
        let (Some(_), Some(job), Some(_), Some(result)) = read else { return Err(Error::Malformed) };
        if self.finished.len() == MOST_JOBS {
            self.finished.remove(0);
        }
        self.finished.push(Finished { job: job.to_owned(), result: result.to_owned() });
        Ok(())
    }

    fn message(&mut self, deadline: Instant) -> Result<Message> {
        while self.pending.len() < wire::FIXED {
            self.receive(deadline)?;
        }
        let mut fixed = [0; wire::FIXED];
        fixed.copy_from_slice(&self.pending[..wire::FIXED]);
        let total = wire::total(&fixed).ok_or(Error::Malformed)?;
        while self.pending.len() < total {
            self.receive(deadline)?;
        }
        let bytes: Vec<u8> = self.pending.drain(..total).collect();
        wire::parse(&bytes).ok_or(Error::Malformed)
    }

    /// A line of the authentication, without its end.
    fn line(&mut self, deadline: Instant) -> Result<String> {
        loop {
            if let Some(end) = self.pending.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.pending.drain(..end + 2).take(end).collect();
                return String::from_utf8(line).map_err(|_| Error::Malformed);
            }
            if self.pending.len() > LONGEST_LINE {
                return Err(Error::Malformed);
            }
            self.receive(deadline)?;
        }
    }

    fn receive(&mut self, deadline: Instant) -> Result<()> {
        let mut buffer = [0; 4096];
        loop {
            match rustix::io::read(&self.socket, &mut buffer) {
                Ok(0) => return Err(sys::Error::new("read", "systemd's socket", Errno::PIPE).into()),
                Ok(count) => {
                    self.pending.extend(&buffer[..count]);
                    return Ok(());
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(PollFlags::IN, deadline)?,
                Err(errno) => return Err(sys::Error::new("read", "systemd's socket", errno).into()),
            }
        }
    }

    fn send(&mut self, bytes: &[u8], deadline: Instant) -> Result<()> {
        let mut left = bytes;
        while !left.is_empty() {
            // Not write(2): a peer that is gone must not raise SIGPIPE.
            match rustix::net::send(&self.socket, left, rustix::net::SendFlags::NOSIGNAL) {
                Ok(count) => left = &left[count..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, deadline)?,
                Err(errno) => return Err(sys::Error::new("send", "systemd's socket", errno).into()),
            }
        }
        Ok(())
    }

    fn wait(&self, what: PollFlags, deadline: Instant) -> Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut entries = [PollFd::new(&self.socket, what)];
        match sys::process::poll_until(&mut entries, Some(left))? {
            0 => Err(Error::TimedOut { call: self.doing.clone(), waited: self.patience }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::thread::JoinHandle;

    use super::*;

    const SHORT: Duration = Duration::from_secs(10);

    /// A bus that answers the authentication, then each message with what `answer` makes of its member and serial.
    fn fake(answer: impl Fn(&str, u32) -> Vec<Vec<u8>> + Send + 'static) -> (OwnedFd, JoinHandle<Vec<String>>) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let server = std::thread::spawn(move || {
            let mut stream = theirs;
            let mut seen = Vec::new();
            let mut line = Vec::new();
            for _ in 0..2 {
                line.clear();
                while !line.ends_with(b"\r\n") {
                    let mut byte = [0];
                    if stream.read_exact(&mut byte).is_err() {
                        return seen;
                    }
                    line.push(byte[0]);
                }
                seen.push(String::from_utf8_lossy(&line).trim_end().to_owned());
                if seen.len() == 1 {
                    stream.write_all(b"OK 0123\r\n").expect("written");
                }
            }
            let mut fixed = [0; wire::FIXED];
            while stream.read_exact(&mut fixed).is_ok() {
                let mut bytes = fixed.to_vec();
                bytes.resize(wire::total(&fixed).expect("a message"), 0);
                stream.read_exact(&mut bytes[wire::FIXED..]).expect("the rest");
                let serial = u32::from_le_bytes(fixed[8..12].try_into().expect("four bytes"));
                let message = wire::parse(&bytes).expect("well-formed");
                seen.push(message.member.clone());
                for reply in answer(&message.member, serial) {
                    // In two pieces, as a stream may give them.
                    let (head, tail) = reply.split_at(reply.len() / 2);
                    stream.write_all(head).and_then(|()| stream.flush()).expect("written");
                    stream.write_all(tail).expect("written");
                }
            }
            seen
        });
        (ours.into(), server)
    }

    /// A message of `kind` about call `serial`.
    fn message(kind: u8, serial: u32, member: &str, error: &str, body: &[u8]) -> Vec<u8> {
        let mut out = Writer(vec![b'l', kind, 0, 1]);
        out.u32(u32::try_from(body.len()).expect("small"));
        out.u32(99);
        out.array(8, |out| {
            out.0.extend([5, 1, b'u', 0]);
            out.u32(serial);
            for (field, text) in [(3, member), (4, error)] {
                if !text.is_empty() {
                    out.align(8);
                    out.0.push(field);
                    out.signature("s");
                    out.text(text);
                }
            }
        });
        out.align(8);
        out.0.extend(body);
        out.0
    }

    fn text(text: &str) -> Vec<u8> {
        let mut out = Writer::default();
        out.text(text);
        out.0
    }

    fn removed(job: &str, result: &str) -> Vec<u8> {
        let mut out = Writer::default();
        out.u32(1);
        for word in [job, "x.scope", result] {
            out.text(word);
        }
        message(wire::SIGNAL, 0, "JobRemoved", "", &out.0)
    }

    #[test]
    fn a_job_is_awaited_also_when_it_ends_before_the_reply() {
        let (socket, server) = fake(|member, serial| match member {
            "Early" => vec![removed("/j/1", "done"), message(wire::REPLY, serial, "", "", &text("/j/1"))],
            "Late" => vec![
                message(wire::REPLY, serial, "", "", &text("/j/2")),
                removed("/j/7", "done"),
                removed("/j/2", "failed"),
            ],
            _ => vec![message(wire::REPLY, serial, "", "", &[])],
        });
        let mut bus = Bus::begin(socket, 1000, true, SHORT).expect("connected");
        bus.job("Early", "", &[]).expect("done");
        let error = bus.job("Late", "", &[]).expect_err("failed").to_string();
        assert!(error.contains("Late") && error.contains("failed"), "{error}");
        drop(bus);
        let seen = server.join().expect("no panic");
        assert_eq!(seen, ["\0AUTH EXTERNAL 31303030", "BEGIN", "Hello", "AddMatch", "Subscribe", "Early", "Late"]);
    }

    #[test]
    fn an_error_keeps_its_name_and_words() {
        let (socket, server) = fake(|member, serial| match member {
            "Subscribe" => vec![message(wire::REPLY, serial, "", "", &[])],
            _ => vec![message(wire::ERROR, serial, "", "org.x.NoSuchUnit", &text("not loaded"))],
        });
        let mut bus = Bus::begin(socket, 0, false, SHORT).expect("connected");
        match bus.call(MANAGER, "StopUnit", "", &[]) {
            Err(Error::Refused { call, name, text }) => {
                assert_eq!(
                    (call.as_str(), name.as_str(), text.as_str()),
                    ("StopUnit", "org.x.NoSuchUnit", "not loaded")
                );
            }
            other => panic!("{other:?}"),
        }
        drop(bus);
        server.join().expect("no panic");
    }

    #[test]
    fn silence_has_a_deadline_and_an_end_is_told_from_it() {
        let (socket, server) = fake(|_, _| Vec::new());
        match Bus::begin(socket, 0, false, Duration::from_millis(50)) {
            Err(Error::TimedOut { .. }) => {}
            other => panic!("{:?}", other.map(|_| ())),
        }
        server.join().expect("no panic");
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        drop(theirs);
        assert!(matches!(Bus::begin(ours.into(), 0, false, SHORT), Err(Error::Sys(_))));
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        theirs.write_all(b"REJECTED EXTERNAL\r\n").expect("written");
        assert!(matches!(Bus::begin(ours.into(), 0, false, SHORT), Err(Error::Denied { .. })));
    }
}
