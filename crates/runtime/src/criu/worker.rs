//! A criu process and the conversation with it: requests and answers as messages over a socket (`criu swrk`, criu's
//! `images/rpc.proto`).

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use sys::Errno;
use sys::process::{Child, CloneArgs, Command};

use super::wire::{self, Message, Value};
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::{parent, process};

/// The number of the socket in criu's process; the streams are before it, what else is handed on follows.
const SOCKET: usize = 3;
/// The same for the kernel.
const SOCKET_NUMBER: i32 = 3;
/// Longest message of criu's, in bytes; its answers are some hundred.
const LONGEST: usize = 1 << 16;
/// How long criu may be silent: it writes the memory of the whole container in between.
const PATIENCE: Duration = Duration::from_secs(3600);
/// How long criu may take to end.
const LAST: Duration = Duration::from_secs(10);
/// Where criu finds the programs it runs (tar, iptables-restore, ip); nothing else of our environment reaches it, and
/// no configuration file: it reads none in this mode unless told to.
const ENVIRONMENT: [&str; 1] = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"];
/// First byte of a message that the process sends before criu runs in it: no message of criu's begins like this.
const NOT_BEGUN: u8 = 0;
/// The one message of the process that brings the socket.
const BEGUN: u8 = 1;

/// What to do: `criu_req_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Dump = 1,
    Restore = 2,
    PreDump = 4,
    Features = 9,
}

/// `criu_req_type` of a notification and its answer.
const NOTIFY: u64 = 6;

/// What criu tells in the middle of its work, which waits for the answer.
#[derive(Debug)]
pub(super) struct Notice {
    /// `setup-namespaces`, `post-restore`, `orphan-pts-master` and others.
    pub(super) what: String,
    /// The restored tree's first process, where there is one.
    pub(super) pid: Option<u32>,
    /// What came with it.
    pub(super) files: Vec<OwnedFd>,
}

/// What criu answered.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) success: bool,
    /// `cr_errno`.
    pub(super) errno: Option<i32>,
    /// `cr_errmsg`.
    pub(super) message: Option<String>,
    /// The restored tree's first process.
    pub(super) pid: Option<u32>,
    /// Whether the kernel tells which pages changed.
    pub(super) memory_tracking: bool,
    /// Whether pages can be fetched when they are touched.
    pub(super) lazy_pages: bool,
}

/// A running criu.
#[derive(Debug)]
pub(super) struct Worker {
    socket: OwnedFd,
    child: Child,
}

impl Worker {
    /// Starts it. What `prepare` gives, in the process before criu runs there, and then `files` are numbers [`SOCKET`] + 1
    /// and following of criu's.
    ///
    /// criu looks for descriptors in the process that made the socket, and has to find mounts of its own mount namespace:
    /// it is therefore its own process that makes the pair, and sends us the other end.
    pub(super) fn start(
        program: &Path,
        args: &CloneArgs<'_>,
        files: &[BorrowedFd<'_>],
        prepare: impl FnOnce() -> Result<Vec<OwnedFd>>,
    ) -> Result<Self> {
        let what = || format!("cannot run {}", program.display());
        let (ours, theirs) = sys::socket::pair().doing(what)?;
        let path = CString::new(program.as_os_str().as_bytes())
            .map_err(|_| Error::new(ErrorKind::Config, format!("{}: its path holds a NUL byte", what())))?;
        let command = Command::new(["criu", "swrk", &SOCKET.to_string()], ENVIRONMENT).doing(what)?;
        let meet = || -> Result<(Vec<OwnedFd>, OwnedFd)> {
            let made = prepare()?;
            process::reset_signals()?;
            let (socket, other) = sys::socket::pair().doing(what)?;
            sys::socket::send(&theirs, &[BEGUN], &[other.as_fd()]).doing(what)?;
            Ok((made, socket))
        };
        let child = sys::process::clone_process(args, || {
            let (made, socket) = match meet() {
                Ok(met) => met,
                Err(error) => {
                    tell(theirs.as_fd(), &error);
                    sys::process::exit_now(127);
                }
            };
            let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr(), socket.as_fd()];
            let all: Vec<Option<BorrowedFd<'_>>> = streams
                .into_iter()
                .chain(made.iter().map(AsFd::as_fd))
                .chain(files.iter().copied())
                .map(Some)
                .collect();
            let count = u32::try_from(all.len()).unwrap_or(u32::MAX);
            // From here on numbers are all that counts, and the process ends here, past every owner of what they were.
            let placed = sys::process::place_descriptors(&all).and_then(|()| sys::process::close_from(count));
            let error = match placed {
                Ok(()) => {
                    let cause = command.exec(&path);
                    let missing = matches!(cause.errno(), Errno::NOENT | Errno::ACCESS | Errno::NOEXEC);
                    let kind = if missing { ErrorKind::Unsupported } else { ErrorKind::System };
                    Error::system(what(), cause).with_kind(kind)
                }
                Err(cause) => Error::system(what(), cause),
            };
            if let Ok(socket) = sys::process::inherited(SOCKET_NUMBER) {
                tell(socket.as_fd(), &error);
            }
            sys::process::exit_now(127)
        })
        .map_err(parent::clone_error)?;
        drop(theirs);
        let mut worker = Self { socket: ours, child };
        let (_, files) = worker.receive()?;
        worker.socket = files.into_iter().next().ok_or_else(|| lost("it gave no socket"))?;
        Ok(worker)
    }

    /// The number that the file at `index` of those handed on has in criu's process.
    pub(super) fn number_of(index: usize) -> u64 {
        u64::try_from(SOCKET + 1 + index).unwrap_or(u64::MAX)
    }

    /// Asks for `kind` with `options`, and gives the answer. `each` is called for every notice; when it fails, so does
    /// criu, and its failure is given.
    pub(super) fn ask(
        &mut self,
        kind: Kind,
        options: &Message,
        each: &mut dyn FnMut(Notice) -> Result<()>,
    ) -> Result<Answer> {
        self.send(&request(kind, options))?;
        let mut failed = None;
        loop {
            let (bytes, files) = self.receive()?;
            match read(&bytes, files).ok_or_else(|| lost("its answer is damaged"))? {
                Said::Answer(answer) => return failed.map_or(Ok(answer), Err),
                Said::Notice(notice) => {
                    let outcome = each(notice);
                    let mut reply = Message::default();
                    reply.number(1, NOTIFY).flag(3, outcome.is_ok());
                    self.send(&reply)?;
                    failed = failed.or(outcome.err());
                }
            }
        }
    }

    fn send(&self, message: &Message) -> Result<()> {
        match sys::socket::send(&self.socket, message.as_bytes(), &[]) {
            // Why it is gone is in what it said last.
            Err(cause) if cause.errno() == Errno::PIPE => Ok(()),
            other => other.doing(|| "cannot talk to criu".to_owned()),
        }
    }

    fn receive(&self) -> Result<(Vec<u8>, Vec<OwnedFd>)> {
        let what = || "cannot talk to criu".to_owned();
        let mut entries = [PollFd::new(&self.socket, PollFlags::IN)];
        if sys::process::poll_until(&mut entries, Some(PATIENCE)).doing(what)? == 0 {
            return Err(lost("it says nothing any more"));
        }
        let mut buffer = vec![0; LONGEST];
        // Ended with a request of ours unread, it leaves a reset before its last words.
        let received = sys::socket::receive(&self.socket, &mut buffer).or_else(|cause| match cause.errno() {
            Errno::CONNRESET => sys::socket::receive(&self.socket, &mut buffer),
            _ => Err(cause),
        });
        let (length, files) = received.doing(what)?;
        buffer.truncate(length);
        match buffer.split_first() {
            None => Err(lost("it ended in the middle")),
            Some((&NOT_BEGUN, words)) => {
                Err(Error::new(ErrorKind::Unsupported, String::from_utf8_lossy(words).into_owned()))
            }
            Some(_) => Ok((buffer, files)),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        parent::put_down_gently(&self.child.pidfd, LAST);
    }
}

/// Says what went wrong before criu ran.
fn tell(socket: BorrowedFd<'_>, error: &Error) {
    let cause = error.cause().map(|cause| format!(": {cause}")).unwrap_or_default();
    let mut words = vec![NOT_BEGUN];
    words.extend_from_slice(format!("{error}{cause}").as_bytes());
    // Whoever asked sees the end of the conversation in any case.
    let _ = sys::socket::send(socket, &words, &[]);
}

fn lost(why: &str) -> Error {
    Error::new(ErrorKind::System, format!("criu failed: {why}"))
}

/// `criu_req`.
fn request(kind: Kind, options: &Message) -> Message {
    let mut request = Message::default();
    request.number(1, kind as u64);
    match kind {
        Kind::Features => {
            // Both are asked for; the answer says which are there.
            let mut wanted = Message::default();
            wanted.flag(1, true).flag(2, true);
            request.message(5, &wanted)
        }
        Kind::Dump | Kind::Restore | Kind::PreDump => request.message(2, options),
    };
    request
}

enum Said {
    Answer(Answer),
    Notice(Notice),
}

/// `criu_resp`.
fn read(bytes: &[u8], files: Vec<OwnedFd>) -> Option<Said> {
    let fields = wire::read(bytes)?;
    let pid = |value: Value<'_>| value.number().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);
    let mut answer = Answer::default();
    let mut kind = None;
    let mut notice = (String::new(), None);
    for (field, value) in fields {
        match field {
            1 => kind = value.number(),
            2 => answer.success = value.number() == Some(1),
            4 => {
                let inner = wire::read(value.bytes()?)?;
                answer.pid = inner.iter().find(|(field, _)| *field == 1).and_then(|(_, value)| pid(*value));
            }
            5 => {
                for (field, value) in wire::read(value.bytes()?)? {
                    match field {
                        1 => notice.0 = value.text()?,
                        2 => notice.1 = pid(value),
                        _ => {}
                    }
                }
            }
            // An int32: the sign is carried through all 64 bits.
            7 => answer.errno = value.number().map(|number| number.cast_signed()).and_then(|n| i32::try_from(n).ok()),
            8 => {
                for (field, value) in wire::read(value.bytes()?)? {
                    let there = value.number() == Some(1);
                    match field {
                        1 => answer.memory_tracking = there,
                        2 => answer.lazy_pages = there,
                        _ => {}
                    }
                }
            }
            9 => answer.message = value.text(),
            _ => {}
        }
    }
    match kind? {
        NOTIFY => Some(Said::Notice(Notice { what: notice.0, pid: notice.1, files })),
        _ => Some(Said::Answer(answer)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_notices_are_told_apart() {
        let mut inner = Message::default();
        inner.text(1, "post-restore").number(2, 4711);
        let mut message = Message::default();
        message.number(1, NOTIFY).number(2, 1).message(5, &inner);
        let Some(Said::Notice(notice)) = read(message.as_bytes(), Vec::new()) else { panic!("{message:?}") };
        assert_eq!((notice.what.as_str(), notice.pid), ("post-restore", Some(4711)));

        let mut pid = Message::default();
        pid.number(1, 12);
        let mut message = Message::default();
        message.number(1, Kind::Restore as u64).number(2, 1).message(4, &pid);
        let Some(Said::Answer(answer)) = read(message.as_bytes(), Vec::new()) else { panic!("{message:?}") };
        assert_eq!(answer, Answer { success: true, pid: Some(12), ..Answer::default() });

        let mut message = Message::default();
        message.number(1, Kind::Dump as u64).number(2, 0).number(7, u64::MAX).text(9, "why");
        let Some(Said::Answer(answer)) = read(message.as_bytes(), Vec::new()) else { panic!("{message:?}") };
        let expected = Answer { errno: Some(-1), message: Some("why".to_owned()), ..Answer::default() };
        assert_eq!(answer, expected);
        assert!(read(b"\x0a", Vec::new()).is_none() && read(b"", Vec::new()).is_none());
    }

    #[test]
    fn requests_are_criu_s() {
        let mut options = Message::default();
        options.number(1, 5);
        assert_eq!(request(Kind::Dump, &options).as_bytes(), [0x08, 1, 0x12, 2, 0x08, 5]);
        assert_eq!(request(Kind::Features, &options).as_bytes(), [0x08, 9, 0x2a, 4, 0x08, 1, 0x10, 1]);
    }
}
