//! The clients of a monitor: what each takes part in, and what waits to be sent to it. Memory per session is bounded.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use crate::protocol::{Attach, Flow, HEADER, MAX_PACKET, Message, Notice, Stream};

/// Most sessions at a time; one more is turned away.
pub(crate) const MAX_SESSIONS: usize = 64;
/// Bytes an onlooker may lag behind before it is detached.
const LAG: usize = 256 * 1024;
/// Bytes queued for any session before it is closed: more than what a container can leave in its pipes at its end.
const HARD_LIMIT: usize = 8 * 1024 * 1024;
/// Messages taken from one session before the others have their turn.
pub(crate) const TURN: usize = 16;

/// One client.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Number of the session, never given twice.
    pub(crate) id: u64,
    /// Its socket.
    pub(crate) socket: OwnedFd,
    /// What it takes part in.
    pub(crate) attach: Option<Attach>,
    /// Whether it asked for the start, so that its leaving before is the start's end.
    pub(crate) starter: bool,
    /// Whether it promised to reap.
    pub(crate) reaper: bool,
    /// Whether it is gone, and removed at the end of the turn.
    pub(crate) closed: bool,
    queue: VecDeque<Vec<u8>>,
    queued: usize,
}

impl Peer {
    pub(crate) fn new(id: u64, socket: OwnedFd, starter: bool) -> Self {
        Self { id, socket, attach: None, starter, reaper: false, closed: false, queue: VecDeque::new(), queued: 0 }
    }

    /// Whether packets wait to be sent.
    pub(crate) fn is_behind(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether the container has to wait for it.
    pub(crate) fn holds_back(&self) -> bool {
        self.is_behind() && self.attach.is_some_and(|attach| attach.flow == Flow::HoldBack)
    }

    /// Sends a notice, now or when the client has read what came before.
    pub(crate) fn tell(&mut self, notice: &Notice) {
        self.post(&notice.encode());
    }

    /// Sends a packet of output if the client takes part in `stream`. Its header holds the stream.
    pub(crate) fn show(&mut self, stream: Stream, packet: &[u8]) {
        let Some(attach) = self.attach else { return };
        let wanted = match stream {
            Stream::Stdout => attach.stdout,
            Stream::Stderr => attach.stderr,
        };
        if !wanted || packet.len() <= HEADER {
            return;
        }
        if attach.flow == Flow::DropOut && self.queued + packet.len() > LAG {
            self.attach = None;
            self.queue.clear();
            self.queued = 0;
            self.tell(&Notice::Detached(format!("read too slowly: more than {} KiB behind", LAG / 1024)));
            return;
        }
        self.post(packet);
    }

    /// Sends a packet, now or when the client has read what came before.
    pub(crate) fn post(&mut self, packet: &[u8]) {
        if self.closed {
            return;
        }
        if self.queue.is_empty() {
            match send(&self.socket, packet) {
                Ok(()) => return,
                Err(Errno::AGAIN | Errno::NOBUFS) => {}
                Err(_) => {
                    self.closed = true;
                    return;
                }
            }
        }
        self.queued += packet.len();
        if self.queued > HARD_LIMIT {
            self.closed = true;
            return;
        }
        self.queue.push_back(packet.to_vec());
    }

    /// Sends what waits; tells whether any of it was taken.
    pub(crate) fn flush(&mut self) -> bool {
        let mut progress = false;
        while let Some(packet) = self.queue.front() {
            match send(&self.socket, packet) {
                Ok(()) => {
                    progress = true;
                    self.queued -= packet.len();
                    self.queue.pop_front();
                }
                Err(Errno::AGAIN | Errno::NOBUFS) => break,
                Err(_) => {
                    self.closed = true;
                    break;
                }
            }
        }
        progress
    }

    /// Gives the socket room for everything that waits, so that a slow reader need not be waited for. Without the
    /// privilege for it the reader is waited for.
    pub(crate) fn widen(&mut self) {
        if self.is_behind() {
            // The kernel doubles the figure for its own overhead; what is in the socket already counts too.
            let room = self.queued * 2 + 512 * 1024;
            let _ = rustix::net::sockopt::set_socket_send_buffer_size_force(&self.socket, room);
            self.flush();
        }
    }

    /// The next message; `None` when there is none now, or the session is closed: by its client, or because it said
    /// something that is not in the protocol.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> Option<Message> {
        loop {
            match rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
                Ok((_, length)) if length > 0 && length <= MAX_PACKET => match Message::decode(&buffer[..length]) {
                    Ok(message) => return Some(message),
                    Err(error) => {
                        self.tell(&Notice::Refused(error.to_string()));
                        self.closed = true;
                        return None;
                    }
                },
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return None,
                Ok(_) | Err(_) => {
                    self.closed = true;
                    return None;
                }
            }
        }
    }

    /// Refuses further messages, so that a client's later confirmation fails; those that came before can be received.
    pub(crate) fn stop_listening(&self) {
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Read);
    }
}

fn send(socket: &OwnedFd, packet: &[u8]) -> Result<(), Errno> {
    loop {
        match rustix::net::send(socket, packet, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            other => return other.map(|_| ()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Event, MAX_DATA, Request};
    use crate::{Session, client::Received};
    use std::time::Duration;

    fn pair(flow: Flow) -> (Peer, Session) {
        let (ours, theirs) = sys::socket::pair().expect("made");
        let mut peer = Peer::new(1, ours, true);
        peer.attach = Some(Attach { stdin: false, stdout: true, stderr: false, close_stdin: false, flow });
        (peer, Session::new(theirs, None))
    }

    fn packet(fill: u8) -> Vec<u8> {
        let mut packet = Stream::Stdout.header().to_vec();
        packet.resize(HEADER + MAX_DATA, fill);
        packet
    }

    #[test]
    fn a_slow_onlooker_is_detached_and_still_learns_the_end() {
        let (mut peer, mut session) = pair(Flow::DropOut);
        for fill in 0..200 {
            peer.show(Stream::Stdout, &packet(fill));
        }
        assert!(!peer.holds_back() && !peer.closed && peer.attach.is_none());
        peer.tell(&Notice::Exited { code: 3, oom_killed: false });
        let (mut output, mut detached) = (0, false);
        loop {
            peer.flush();
            match session.recv(Some(Duration::from_secs(5))).expect("received") {
                Received::Event(Event::Output { data, .. }) => output += data.len(),
                Received::Event(Event::Notice(Notice::Detached(why))) => detached = why.contains("256 KiB"),
                Received::Event(Event::Notice(Notice::Exited { code, .. })) => {
                    assert_eq!(code, 3);
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(detached && output < 1024 * 1024);
    }

    #[test]
    fn a_slow_foreground_client_loses_nothing() {
        let (mut peer, mut session) = pair(Flow::HoldBack);
        for fill in 0..100 {
            peer.show(Stream::Stdout, &packet(fill));
        }
        assert!(peer.holds_back());
        peer.show(Stream::Stderr, &packet(1));
        peer.widen();
        assert!(!peer.is_behind(), "root may widen the socket");
        drop(peer);
        for fill in 0..100 {
            let Received::Event(Event::Output { data, .. }) = session.recv(None).expect("received") else {
                panic!("output expected")
            };
            assert!(data.len() == MAX_DATA && data.iter().all(|&byte| byte == fill));
        }
        assert_eq!(session.recv(None).expect("received"), Received::Closed);
    }

    #[test]
    fn nonsense_ends_the_session_with_a_word() {
        let (mut peer, mut session) = pair(Flow::HoldBack);
        rustix::net::send(&session, &[7, 7, 7], SendFlags::empty()).expect("sent");
        assert_eq!(peer.receive(&mut vec![0; MAX_PACKET]), None);
        assert!(peer.closed);
        drop(peer);
        let refused = session.recv(None).expect("received");
        assert!(matches!(refused, Received::Event(Event::Notice(Notice::Refused(_)))), "{refused:?}");
    }

    #[test]
    fn exactly_one_of_two_reaps() {
        for late in [false, true] {
            let (mut peer, mut session) = pair(Flow::HoldBack);
            session.take_over_reaping().expect("sent");
            let mut buffer = vec![0; MAX_PACKET];
            assert_eq!(peer.receive(&mut buffer), Some(Message::Request(Request::TakeOverReaping)));
            peer.tell(&Notice::Exited { code: 0, oom_killed: false });
            if late {
                peer.stop_listening();
            }
            session.recv(None).expect("received");
            peer.stop_listening();
            let confirmed = peer.receive(&mut buffer) == Some(Message::Request(Request::Reaping));
            assert_eq!((session.must_reap(), confirmed), (!late, !late));
        }
    }
}
