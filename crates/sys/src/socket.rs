//! Message sockets between lighter's own processes: whole messages, with descriptors beside them.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
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

/// Sends one message with `files` beside it.
///
/// # Errors
/// `EPIPE` when the peer is gone, `EMSGSIZE` when the message is too long, `EAGAIN` when the socket does not block.
pub fn send(socket: impl AsFd, bytes: &[u8], files: &[BorrowedFd<'_>]) -> Result<()> {
    let mut space = vec![MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut space = SendAncillaryBuffer::new(if files.is_empty() { &mut [] } else { &mut space[..] });
    if !files.is_empty() && !space.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(Error::new("sendmsg", format!("{} descriptors", files.len()), Errno::TOOBIG));
    }
    loop {
        match sendmsg(&socket, &[IoSlice::new(bytes)], &mut space, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            other => return other.map(drop).at("sendmsg", ""),
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
