//! The conversation between the caller and the first process: one message socket, a tag byte, descriptors beside it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use sys::Errno;

use crate::error::{Error, ErrorKind, Result};

/// How long either side waits for the other. Generous: a busy host, a cold disk; but never for ever.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The longest message. Errors are cut to fit.
const LONGEST: usize = 4096;

/// Descriptors in one message; below the kernel's limit.
const FILES_PER_MESSAGE: usize = 200;

const MAPPED: u8 = b'm';
const MAPPED_FIXED: u8 = b'n';
const MOUNTS: u8 = b'd';
const MOUNTS_LAST: u8 = b'D';
const READY: u8 = b'r';
const RELEASE: u8 = b'g';
const START: u8 = b's';
const PROCESS: u8 = b'p';
const FAILED: u8 = b'f';
const ATTACHED: u8 = b'a';
const HOOKED: u8 = b'h';
const LISTENING: u8 = b'l';
const LOAD: u8 = b'L';
const LISTENER: u8 = b'i';

/// What the first process says.
#[derive(Debug)]
pub(crate) enum Answer {
    /// It waits for the start; the terminal's master.
    Ready(Option<OwnedFd>),
    /// It executed: its end closed.
    Executed,
    /// It is going to load a filter whose listener somebody has to take: the page it says more on, its own descriptor.
    Listening(OwnedFd, OwnedFd),
}

/// One end of the conversation.
#[derive(Debug)]
pub(crate) struct Link(OwnedFd);

impl From<OwnedFd> for Link {
    fn from(end: OwnedFd) -> Self {
        Self(end)
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Link {
    /// Both ends: the caller's, the process's.
    pub(crate) fn pair() -> Result<(Self, Self)> {
        let (ours, theirs) =
            sys::socket::pair().map_err(|cause| Error::system("cannot make a socket to the container", cause))?;
        Ok((Self(ours), Self(theirs)))
    }

    // The caller's half.

    /// Says that the ids are there, and whether the supplementary groups are fixed by them.
    pub(crate) fn send_mapped(&self, fixed_groups: bool) -> Result<()> {
        self.send(&[if fixed_groups { MAPPED_FIXED } else { MAPPED }], &[])
    }

    pub(crate) fn send_mounts(&self, mounts: &[OwnedFd]) -> Result<()> {
        let mut chunks = mounts.chunks(FILES_PER_MESSAGE).peekable();
        loop {
            let files: Vec<BorrowedFd<'_>> = chunks.next().unwrap_or_default().iter().map(AsFd::as_fd).collect();
            let last = chunks.peek().is_none();
            self.send(&[if last { MOUNTS_LAST } else { MOUNTS }], &files)?;
            if last {
                return Ok(());
            }
        }
    }

    /// Waits until the mounts are in place, before the root is changed.
    pub(crate) fn await_attached(&self, patience: Duration) -> Result<()> {
        let mut buffer = [0; LONGEST];
        let (length, _) = self.receive(&mut buffer, patience)?;
        match buffer[..length].split_first() {
            None => Err(ended()),
            Some((&ATTACHED, _)) => Ok(()),
            Some((&FAILED, rest)) => Err(decode(rest)),
            Some((&tag, _)) => Err(out_of_step(tag)),
        }
    }

    pub(crate) fn send_hooked(&self) -> Result<()> {
        self.send(&[HOOKED], &[])
    }

    pub(crate) fn send_release(&self) -> Result<()> {
        self.send(&[RELEASE], &[])
    }

    pub(crate) fn send_start(&self) -> Result<()> {
        self.send(&[START], &[])
    }

    /// Waits for the process's next word.
    pub(crate) fn answer(&self, patience: Duration) -> Result<Answer> {
        let mut buffer = [0; LONGEST];
        let (length, mut files) = self.receive(&mut buffer, patience)?;
        match buffer[..length].split_first() {
            None => Ok(Answer::Executed),
            Some((&READY, _)) => Ok(Answer::Ready(files.pop())),
            Some((&LISTENING, _)) => match (files.pop(), files.pop()) {
                (Some(own), Some(page)) => Ok(Answer::Listening(page, own)),
                _ => Err(out_of_step(LISTENING)),
            },
            Some((&FAILED, rest)) => Err(decode(rest)),
            Some((&tag, _)) => Err(out_of_step(tag)),
        }
    }

    /// Lets the process load the filter whose listener is awaited.
    pub(crate) fn send_load(&self) -> Result<()> {
        self.send(&[LOAD], &[])
    }

    /// The listener, from the process itself.
    pub(crate) fn await_listener(&self, patience: Duration) -> Result<OwnedFd> {
        let mut buffer = [0; LONGEST];
        let (length, mut files) = self.receive(&mut buffer, patience)?;
        match buffer[..length].split_first() {
            None => Err(ended()),
            Some((&LISTENER, _)) => files.pop().ok_or_else(|| out_of_step(LISTENER)),
            Some((&FAILED, rest)) => Err(decode(rest)),
            Some((&tag, _)) => Err(out_of_step(tag)),
        }
    }

    /// Waits for word of the process that the door made: its id here and its descriptor.
    pub(crate) fn await_process(&self) -> Result<(u32, OwnedFd)> {
        let mut buffer = [0; LONGEST];
        let (length, mut files) = self.receive(&mut buffer, PATIENCE)?;
        match buffer[..length].split_first() {
            None => Err(ended()),
            Some((&PROCESS, &[a, b, c, d])) => {
                let pidfd = files.pop().ok_or_else(ended)?;
                Ok((u32::from_le_bytes([a, b, c, d]), pidfd))
            }
            Some((&FAILED, rest)) => Err(decode(rest)),
            Some((&tag, _)) => Err(out_of_step(tag)),
        }
    }

    // The process's half.

    pub(crate) fn send_process(&self, pid: u32, pidfd: &OwnedFd) -> Result<()> {
        let [a, b, c, d] = pid.to_le_bytes();
        self.send(&[PROCESS, a, b, c, d], &[pidfd.as_fd()])
    }

    /// Waits for the ids; gives whether the supplementary groups are fixed.
    pub(crate) fn await_mapped(&self) -> Result<bool> {
        let mut buffer = [0; 1];
        match self.receive(&mut buffer, PATIENCE)? {
            (0, _) => Err(caller_gone()),
            _ if buffer[0] == MAPPED => Ok(false),
            _ if buffer[0] == MAPPED_FIXED => Ok(true),
            _ => Err(out_of_step(buffer[0])),
        }
    }

    /// Waits for the mounts; `patience` covers what the caller does before, hooks included.
    pub(crate) fn await_mounts(&self, patience: Duration) -> Result<Vec<OwnedFd>> {
        let mut mounts = Vec::new();
        loop {
            let mut buffer = [0; 1];
            let (length, files) = self.receive(&mut buffer, patience)?;
            mounts.extend(files);
            match (length, buffer[0]) {
                (1, MOUNTS) => {}
                (1, MOUNTS_LAST) => return Ok(mounts),
                (0, _) => return Err(caller_gone()),
                (_, tag) => return Err(out_of_step(tag)),
            }
        }
    }

    /// Says that the mounts are in place, and waits for the caller's hooks.
    pub(crate) fn await_hooks(&self, patience: Duration) -> Result<()> {
        self.send(&[ATTACHED], &[])?;
        self.expect_within(HOOKED, patience)
    }

    pub(crate) fn send_ready(&self, terminal: Option<&OwnedFd>) -> Result<()> {
        let files: Vec<BorrowedFd<'_>> = terminal.iter().map(|file| file.as_fd()).collect();
        self.send(&[READY], &files)
    }

    /// Waits for the start, for as long as the caller lives: a created container may stay one.
    pub(crate) fn await_start(&self) -> Result<()> {
        let mut entries = [PollFd::new(&self.0, PollFlags::IN)];
        sys::process::poll_until(&mut entries, None)
            .map_err(|cause| Error::system("cannot wait for the start", cause))?;
        self.expect(START)
    }

    /// Whether the caller has ended: then nobody will end what would be executed now.
    pub(crate) fn caller_is_gone(&self) -> bool {
        let mut entries = [PollFd::new(&self.0, PollFlags::empty())];
        matches!(sys::process::poll_until(&mut entries, Some(Duration::ZERO)), Ok(1))
    }

    pub(crate) fn send_listening(&self, page: &OwnedFd, own: &OwnedFd) -> Result<()> {
        self.send(&[LISTENING], &[page.as_fd(), own.as_fd()])
    }

    pub(crate) fn await_load(&self) -> Result<()> {
        self.expect(LOAD)
    }

    pub(crate) fn send_listener(&self, listener: &OwnedFd) -> Result<()> {
        self.send(&[LISTENER], &[listener.as_fd()])
    }

    /// Waits until the caller has registered the container and leaves it to itself.
    pub(crate) fn await_release(&self) -> Result<()> {
        self.expect(RELEASE)
    }

    /// The word of a connection to the gate.
    pub(crate) fn hear_start(&self) -> Result<()> {
        self.expect(START)
    }

    /// Tells the caller why there will be no container. There is nobody else to tell when that fails.
    pub(crate) fn send_failure(&self, error: &Error) {
        let _ = self.send(&encode(error), &[]);
    }

    fn expect(&self, tag: u8) -> Result<()> {
        self.expect_within(tag, PATIENCE)
    }

    fn expect_within(&self, tag: u8, patience: Duration) -> Result<()> {
        let mut buffer = [0; 1];
        match self.receive(&mut buffer, patience)? {
            (0, _) => Err(caller_gone()),
            _ if buffer[0] == tag => Ok(()),
            _ => Err(out_of_step(buffer[0])),
        }
    }

    fn send(&self, bytes: &[u8], files: &[BorrowedFd<'_>]) -> Result<()> {
        sys::socket::send(&self.0, bytes, files).map_err(|cause| match cause.errno() {
            Errno::PIPE | Errno::CONNRESET => ended(),
            _ => Error::system("cannot talk to the container's first process", cause),
        })
    }

    fn receive(&self, buffer: &mut [u8], patience: Duration) -> Result<(usize, Vec<OwnedFd>)> {
        let mut entries = [PollFd::new(&self.0, PollFlags::IN)];
        let ready = sys::process::poll_until(&mut entries, Some(patience))
            .map_err(|cause| Error::system("cannot wait for the container's first process", cause))?;
        if ready == 0 {
            let cause = sys::Error::new("poll", format!("{} s", patience.as_secs()), Errno::TIMEDOUT);
            return Err(Error::system("the container's first process does not answer", cause));
        }
        let received = match sys::socket::receive(&self.0, &mut *buffer) {
            // Told once when the other side ended with words of ours unread; its own last words are still there.
            Err(cause) if cause.errno() == Errno::CONNRESET => sys::socket::receive(&self.0, buffer),
            other => other,
        };
        match received {
            Err(cause) if cause.errno() == Errno::CONNRESET => Ok((0, Vec::new())),
            other => other.map_err(|cause| Error::system("cannot hear the container's first process", cause)),
        }
    }
}

/// The first process ended before it said why.
pub(crate) fn ended() -> Error {
    Error::new(ErrorKind::System, "the container's first process ended while it was set up")
}

pub(crate) fn caller_gone() -> Error {
    Error::new(ErrorKind::System, "whoever makes the container is gone")
}

fn out_of_step(tag: u8) -> Error {
    Error::new(ErrorKind::System, format!("message {:?} out of turn while setting up the container", char::from(tag)))
}

const KINDS: [ErrorKind; 7] = [
    ErrorKind::Config,
    ErrorKind::CommandNotFound,
    ErrorKind::CommandNotExecutable,
    ErrorKind::UnknownUser,
    ErrorKind::Limit,
    ErrorKind::Unsupported,
    ErrorKind::System,
];

/// Tag, kind, errno (0 for none), then what was being done, the call and its object, separated by NUL bytes.
fn encode(error: &Error) -> Vec<u8> {
    let kind = KINDS.iter().position(|kind| *kind == error.kind()).unwrap_or(KINDS.len() - 1);
    let errno = error.cause().map_or(0, |cause| cause.errno().raw_os_error());
    let mut bytes = vec![FAILED, u8::try_from(kind).unwrap_or(0)];
    bytes.extend(errno.to_le_bytes());
    for text in [error.doing(), error.cause().map_or("", |c| c.call()), error.cause().map_or("", |c| c.object())] {
        bytes.extend(text.bytes().filter(|byte| *byte != 0).take(LONGEST / 4));
        bytes.push(0);
    }
    bytes
}

fn decode(bytes: &[u8]) -> Error {
    let Some((&[kind, a, b, c, d], texts)) = bytes.split_first_chunk::<5>() else {
        return ended();
    };
    let mut texts = texts.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned());
    let doing = texts.next().unwrap_or_default();
    let errno = i32::from_le_bytes([a, b, c, d]);
    let kind = KINDS.get(usize::from(kind)).copied().unwrap_or(ErrorKind::System);
    if errno == 0 {
        return Error::new(kind, doing);
    }
    let (call, object) = (texts.next().unwrap_or_default(), texts.next().unwrap_or_default());
    Error::system(doing, sys::Error::new(call, object, Errno::from_raw_os_error(errno))).with_kind(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_cross_whole() {
        let cause = sys::Error::new("mount", "/proc", Errno::PERM);
        for error in [
            Error::system("cannot mount", cause).with_kind(ErrorKind::Unsupported),
            Error::new(ErrorKind::CommandNotFound, "no command \"x\""),
        ] {
            assert_eq!(decode(&encode(&error)[1..]), error);
        }
        let long = Error::new(ErrorKind::Config, "x".repeat(100_000));
        assert!(encode(&long).len() <= LONGEST);
        assert_eq!(decode(&[]).kind(), ErrorKind::System);
    }

    #[test]
    fn descriptors_come_in_any_number() {
        let (ours, theirs) = Link::pair().expect("made");
        for count in [0, 1, FILES_PER_MESSAGE, FILES_PER_MESSAGE + 1] {
            let file =
                rustix::fs::open("/dev/null", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).expect("opened");
            let files: Vec<OwnedFd> = (0..count).map(|_| file.try_clone().expect("copied")).collect();
            ours.send_mounts(&files).expect("sent");
            assert_eq!(theirs.await_mounts(PATIENCE).expect("received").len(), count);
        }
        drop(theirs);
        assert!(matches!(ours.answer(PATIENCE), Ok(Answer::Executed)));
    }
}
