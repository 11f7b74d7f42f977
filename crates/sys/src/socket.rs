//! Message sockets between lighter's own processes: whole messages, with descriptors beside them.
//!
//! Sockets with a name are reached through an open directory, since the name itself may be longer than the 107 bytes
//! that a socket's address holds (unix(7)).

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    recvmsg, sendmsg, socket_with, socketpair, sockopt,
};

use crate::error::{Context, Error, Result};

/// The most descriptors one message carries (`SCM_MAX_FD`, unix(7)).
pub const MAX_DESCRIPTORS: usize = 253;

/// A connected pair of `SOCK_SEQPACKET` sockets.
///
/// # Errors
/// socketpair(2)'s.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).at("socketpair", "")
}

/// What a socket carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Whole messages (`SOCK_SEQPACKET`).
    Messages,
    /// Bytes (`SOCK_STREAM`).
    Bytes,
}

impl Kind {
    fn new_socket(self) -> Result<OwnedFd> {
        let kind = match self {
            Self::Messages => SocketType::SEQPACKET,
            Self::Bytes => SocketType::STREAM,
        };
        socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).at("socket", "")
    }
}

/// Makes the message socket `name` in `dir`, which may be open with `O_PATH`, and listens on it.
///
/// # Errors
/// bind(2)'s: `EADDRINUSE` when the name is taken.
pub fn listen_in(dir: impl AsFd, name: &str) -> Result<OwnedFd> {
    let socket = Kind::Messages.new_socket()?;
    bind(&socket, &address(&dir, name)?).at("bind", name)?;
    listen(&socket, 16).at("listen", name)?;
    Ok(socket)
}

/// The next connection of a listening socket.
///
/// # Errors
/// accept4(2)'s.
pub fn accept(listener: impl AsFd) -> Result<OwnedFd> {
    loop {
        match accept_with(&listener, SocketFlags::CLOEXEC) {
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            other => return other.at("accept4", ""),
        }
    }
}

/// Connects to the socket `name` in `dir`, which may be open with `O_PATH`.
///
/// # Errors
/// connect(2)'s: `ECONNREFUSED` when nobody listens, `ENOENT` when there is no such socket.
pub fn connect_in(dir: impl AsFd, name: &str, kind: Kind) -> Result<OwnedFd> {
    let socket = kind.new_socket()?;
    connect(&socket, &address(&dir, name)?).at("connect", name)?;
    Ok(socket)
}

/// Whether somebody listens on the message socket `name` in `dir`. They see a connection that closes again.
///
/// # Errors
/// connect(2)'s, less those that are the answer.
pub fn is_listening(dir: impl AsFd, name: &str) -> Result<bool> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).at("socket", "")?;
    match connect(&socket, &address(&dir, name)?) {
        // A full queue is one that nobody has closed.
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(false),
        Err(errno) => Err(Error::new("connect", name, errno)),
    }
}

/// Connects to the socket at `path`.
///
/// # Errors
/// As [`connect_in`]; open(2)'s for the directory.
pub fn connect_to(path: &Path, kind: Kind) -> Result<OwnedFd> {
    let (dir, name) = place(path)?;
    connect_in(dir, &name, kind).map_err(|error| Error::new("connect", path.display(), error.errno()))
}

/// As [`connect_to`] for bytes; neither this nor a later [`send_all`] waits for longer than `limit` in one call.
///
/// # Errors
/// As [`connect_to`]; `EAGAIN` after the limit.
pub fn connect_within(path: &Path, limit: Duration) -> Result<OwnedFd> {
    let (dir, name) = place(path)?;
    let socket = Kind::Bytes.new_socket()?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(limit)).at("setsockopt", "SO_SNDTIMEO")?;
    connect(&socket, &address(&dir, &name)?).at("connect", path.display())?;
    Ok(socket)
}

/// The directory of the socket at `path`, and its name in there.
fn place(path: &Path) -> Result<(OwnedFd, String)> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(parent, flags, Mode::empty()).at("open", parent.display())?;
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| Error::new("connect", path.display(), Errno::INVAL))?;
    Ok((dir, name.to_owned()))
}

fn address(dir: impl AsFd, name: &str) -> Result<SocketAddrUnix> {
    SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", dir.as_fd().as_raw_fd())).at("bind", name)
}

/// Sends one message with `files` beside it.
///
/// # Errors
/// `EPIPE` when the peer is gone, `EMSGSIZE` when the message is too long, `EAGAIN` when the socket does not block.
pub fn send(socket: impl AsFd, bytes: &[u8], files: &[BorrowedFd<'_>]) -> Result<()> {
    send_some(socket, bytes, files).map(drop)
}

/// Sends all of `bytes` over a stream, `files` beside the first of them.
///
/// # Errors
/// As [`send`].
pub fn send_all(socket: impl AsFd, bytes: &[u8], files: &[BorrowedFd<'_>]) -> Result<()> {
    let mut sent = send_some(&socket, bytes, files)?;
    while sent < bytes.len() {
        sent += send_some(&socket, &bytes[sent..], &[])?;
    }
    Ok(())
}

fn send_some(socket: impl AsFd, bytes: &[u8], files: &[BorrowedFd<'_>]) -> Result<usize> {
    let mut space = vec![MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut space = SendAncillaryBuffer::new(if files.is_empty() { &mut [] } else { &mut space[..] });
    if !files.is_empty() && !space.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(Error::new("sendmsg", format!("{} descriptors", files.len()), Errno::TOOBIG));
    }
    loop {
        match sendmsg(&socket, &[IoSlice::new(bytes)], &mut space, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            other => return other.at("sendmsg", ""),
        }
    }
}

/// Receives one message into `buffer`: its length and the descriptors beside it. Length 0 means that the peer is gone.
///
/// # Errors
/// `EMSGSIZE` when the message or its descriptors did not fit (what arrived is closed), `EAGAIN` when nothing is there
/// and the socket does not block.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(&socket, &mut [IoSliceMut::new(buffer)], &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            other => break other.at("recvmsg", "")?,
        }
    };
    let mut files = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            files.extend(rights);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(Error::new("recvmsg", "(message cut short)", Errno::MSGSIZE));
    }
    Ok((received.bytes, files))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_sockets_are_reached_through_their_directory() {
        let path = std::env::temp_dir().join(format!("lighter-socket-{}-{}", std::process::id(), "x".repeat(120)));
        std::fs::create_dir(&path).expect("made");
        let dir = rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).expect("opened");
        let listener = listen_in(&dir, "s").expect("made");
        let client = connect_to(&path.join("s"), Kind::Messages).expect("connected");
        let server = accept(&listener).expect("accepted");
        send(&client, b"hello", &[]).expect("sent");
        let mut buffer = [0; 8];
        assert_eq!(receive(&server, &mut buffer).expect("received").0, 5);
        assert_eq!(is_listening(&dir, "s"), Ok(true));
        drop((listener, server));
        assert_eq!(is_listening(&dir, "s"), Ok(false));
        let refused = connect_in(&dir, "s", Kind::Messages).expect_err("nobody listens");
        assert_eq!(refused.errno(), Errno::CONNREFUSED);
        std::fs::remove_dir_all(&path).expect("removed");
    }

    #[test]
    fn messages_keep_their_borders_and_descriptors() {
        let (a, b) = pair().expect("made");
        let (reader, writer) = rustix::pipe::pipe().expect("made");
        send(&a, b"one", &[reader.as_fd()]).expect("sent");
        send(&a, b"two", &[]).expect("sent");
        let mut buffer = [0; 16];
        let (length, mut files) = receive(&b, &mut buffer).expect("received");
        assert_eq!((&buffer[..length], files.len()), (&b"one"[..], 1));
        rustix::io::write(&writer, b"!").expect("written");
        let mut byte = [0; 1];
        rustix::io::read(files.pop().expect("one"), &mut byte).expect("read");
        assert_eq!(&byte, b"!");
        assert_eq!(receive(&b, &mut buffer).expect("received").0, 3);
        send(&a, b"three", &[]).expect("sent");
        assert_eq!(receive(&b, &mut [0; 2]).expect_err("cut").errno(), Errno::MSGSIZE);
        drop(a);
        assert_eq!(receive(&b, &mut buffer).expect("end").0, 0);
    }
}
