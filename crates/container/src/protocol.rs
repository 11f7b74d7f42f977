//! The conversation between a monitor and its clients: the wire types.
//!
//! One message is one packet of a `SOCK_SEQPACKET` socket. Byte 0 is the version, byte 1 the kind; then the bytes of a
//! standard stream as they are, or a record in JSON. A packet has at most [`MAX_PACKET`] bytes.
//!
//! Standard input is flow-controlled by credit, so that the monitor never has to stop reading a session and a signal
//! never waits behind data: a client may have [`STDIN_WINDOW`] bytes on the way, and each [`Event::StdinTaken`] gives
//! bytes back.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The version in byte 0 of every packet.
pub const VERSION: u8 = 1;

/// Most bytes in a packet.
pub const MAX_PACKET: usize = 64 * 1024;

/// Most bytes of a standard stream in a packet.
pub const MAX_DATA: usize = 32 * 1024;

/// Bytes before the payload.
pub(crate) const HEADER: usize = 2;

/// Bytes of standard input that a client may have sent without their having been taken.
pub const STDIN_WINDOW: usize = 64 * 1024;

const KIND_RECORD: u8 = 0;
const KIND_STDIN: u8 = 1;
const KIND_STDOUT: u8 = 2;
const KIND_STDERR: u8 = 3;

/// A standard stream that a container writes. A terminal is one stream, [`Stream::Stdout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// The first bytes of a packet that carries this stream.
    pub(crate) fn header(self) -> [u8; HEADER] {
        match self {
            Self::Stdout => [VERSION, KIND_STDOUT],
            Self::Stderr => [VERSION, KIND_STDERR],
        }
    }

    /// As written in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// What happens to a session that reads slower than the container writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Flow {
    /// The container waits, as with a pipe: for the client whose terminal or pipe the container's streams are.
    HoldBack,
    /// The session is detached when it lags: for onlookers.
    DropOut,
}

/// Which streams a session takes part in. Earlier output is not replayed: it is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// Whether it writes standard input.
    pub stdin: bool,
    /// Whether it gets standard output, or the terminal.
    pub stdout: bool,
    /// Whether it gets standard error.
    pub stderr: bool,
    /// Whether standard input is closed when the session ends without [`Message::StdinEof`].
    pub close_stdin: bool,
    /// Who waits for whom.
    pub flow: Flow,
}

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Bytes for standard input, at most [`MAX_DATA`]. Not answered.
    Stdin(Vec<u8>),
    /// Anything else.
    Request(Request),
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Execute the command of a prepared container. Answered by [`Event::Started`] or [`Event::Failed`].
    Start,
    /// Take part in the streams. Not answered.
    Attach(Attach),
    /// Standard input has ended. Not answered.
    StdinEof,
    /// The terminal's new size, in characters. Not answered.
    Resize {
        /// Rows.
        rows: u16,
        /// Columns.
        cols: u16,
    },
    /// Send a signal, by number, to the container's first process. Answered by [`Event::Done`] or [`Event::Refused`].
    Signal(i32),
    /// Send the stop signal, and kill after the timeout. Answered as soon as the signal is sent.
    Stop {
        /// Signal number; `None` is the container's own.
        signal: Option<i32>,
        /// Seconds; negative waits for ever; `None` is the container's own.
        timeout: Option<i64>,
    },
    /// Freeze. Answered.
    Pause,
    /// Thaw. Answered.
    Unpause,
    /// This client reaps the container after its exit, unless it ends before. Not answered.
    TakeOverReaping,
    /// The client that took over reaping has seen the end and reaps now. Not answered.
    Reaping,
}

/// What a monitor says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The container's output.
    Output {
        /// Which stream.
        stream: Stream,
        /// At most [`MAX_DATA`] bytes.
        data: Vec<u8>,
    },
    /// Anything else.
    Notice(Notice),
}

/// What a monitor tells beside output. Every session gets [`Notice::Exited`] or [`Notice::Failed`], whether attached or
/// not: to wait is to be connected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notice {
    /// The container is prepared: its namespaces exist, its command does not run yet.
    Created {
        /// Host pid of its first process.
        pid: u32,
    },
    /// The command runs.
    Started {
        /// Host pid of its first process.
        pid: u32,
    },
    /// So many bytes of this session's standard input were taken or discarded.
    StdinTaken(usize),
    /// The oldest unanswered request is done.
    Done,
    /// The oldest unanswered request is refused, with the reason.
    Refused(String),
    /// The session no longer gets output.
    Detached(String),
    /// The command ended; status is recorded.
    Exited {
        /// The process's own code, or 128 + signal.
        code: i32,
        /// Whether the memory limit killed a process of the container.
        oom_killed: bool,
    },
    /// The command could not be executed; status is recorded.
    Failed(Failure),
}

/// Why a container did not start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Exit code for the user: 125, 126 or 127.
    pub code: i32,
    /// What went wrong.
    pub kind: FailureKind,
    /// What was being done and its causes, outermost first.
    pub chain: Vec<String>,
}

/// What went wrong in a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The configuration is wrong.
    Config,
    /// The command does not exist in the container.
    CommandNotFound,
    /// The command cannot be executed.
    CommandNotExecutable,
    /// The user or group is not known in the container.
    UnknownUser,
    /// A limit is below what the process needs.
    Limit,
    /// A kernel feature or a privilege is missing.
    Unsupported,
    /// Any other refusal of the kernel.
    System,
    /// Whoever asked for the start went away before it, or killed it.
    Abandoned,
}

fn record<T: Serialize>(value: &T) -> Vec<u8> {
    let mut packet = vec![VERSION, KIND_RECORD];
    // These types have string keys and no failing serializers, and writing to memory does not fail.
    if serde_json::to_writer(&mut packet, value).is_err() {
        packet.truncate(HEADER);
    }
    packet
}

fn data(header: [u8; HEADER], bytes: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(HEADER + bytes.len());
    packet.extend_from_slice(&header);
    packet.extend_from_slice(bytes);
    packet
}

fn split(packet: &[u8]) -> Result<(u8, &[u8])> {
    match packet {
        [VERSION, kind, payload @ ..] => Ok((*kind, payload)),
        [version, ..] => Err(Error::Protocol(format!("version {version}, expected {VERSION}"))),
        [] => Err(Error::Protocol("an empty packet".to_owned())),
    }
}

fn bounded(payload: &[u8]) -> Result<Vec<u8>> {
    if payload.len() > MAX_DATA {
        return Err(Error::Protocol(format!("{} bytes of data in one packet", payload.len())));
    }
    Ok(payload.to_vec())
}

fn parse<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T> {
    serde_json::from_slice(payload).map_err(|error| Error::Protocol(error.to_string()))
}

impl Request {
    /// As a packet.
    pub(crate) fn encode(&self) -> Vec<u8> {
        record(self)
    }

    /// Whether the monitor answers it with [`Notice::Done`] or [`Notice::Refused`].
    #[must_use]
    pub fn is_answered(&self) -> bool {
        matches!(self, Self::Signal(_) | Self::Stop { .. } | Self::Pause | Self::Unpause)
    }
}

impl Message {
    /// As a packet.
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Stdin(bytes) => data([VERSION, KIND_STDIN], bytes),
            Self::Request(request) => request.encode(),
        }
    }

    /// From a packet.
    pub(crate) fn decode(packet: &[u8]) -> Result<Self> {
        match split(packet)? {
            (KIND_STDIN, payload) => Ok(Self::Stdin(bounded(payload)?)),
            (KIND_RECORD, payload) => Ok(Self::Request(parse(payload)?)),
            (kind, _) => Err(Error::Protocol(format!("kind {kind} from a client"))),
        }
    }
}

impl Notice {
    /// As a packet.
    pub(crate) fn encode(&self) -> Vec<u8> {
        record(self)
    }
}

impl Event {
    /// From a packet.
    pub(crate) fn decode(packet: &[u8]) -> Result<Self> {
        match split(packet)? {
            (KIND_STDOUT, payload) => Ok(Self::Output { stream: Stream::Stdout, data: bounded(payload)? }),
            (KIND_STDERR, payload) => Ok(Self::Output { stream: Stream::Stderr, data: bounded(payload)? }),
            (KIND_RECORD, payload) => Ok(Self::Notice(parse(payload)?)),
            (kind, _) => Err(Error::Protocol(format!("kind {kind} from a monitor"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_survive_the_wire() {
        let attach = Attach { stdin: true, stdout: true, stderr: false, close_stdin: true, flow: Flow::HoldBack };
        let all_bytes: Vec<u8> = (0..=255).collect();
        for message in [
            Message::Stdin(all_bytes),
            Message::Request(Request::Start),
            Message::Request(Request::Attach(attach)),
            Message::Request(Request::Resize { rows: 24, cols: 80 }),
            Message::Request(Request::Signal(37)),
            Message::Request(Request::Stop { signal: None, timeout: Some(-1) }),
            Message::Request(Request::TakeOverReaping),
        ] {
            assert_eq!(Message::decode(&message.encode()).expect("decodes"), message);
        }
    }

    #[test]
    fn notices_survive_the_wire() {
        let failure = Failure { code: 127, kind: FailureKind::CommandNotFound, chain: vec!["a".into(), "b".into()] };
        for notice in [
            Notice::Created { pid: 7 },
            Notice::StdinTaken(9),
            Notice::Refused("no".into()),
            Notice::Exited { code: 137, oom_killed: true },
            Notice::Failed(failure),
        ] {
            assert_eq!(Event::decode(&notice.encode()).expect("decodes"), Event::Notice(notice));
        }
    }

    #[test]
    fn another_version_is_refused_with_its_number() {
        let error = Event::decode(&[9, 0, b'1']).expect_err("refused");
        assert!(error.to_string().contains("version 9"), "{error}");
        assert!(Message::decode(&[]).is_err());
        assert!(Message::decode(&[VERSION, KIND_STDOUT]).is_err(), "clients have no output");
    }

    proptest! {
        #[test]
        fn any_packet_decodes_or_is_refused(packet in proptest::collection::vec(any::<u8>(), 0..256)) {
            if let Ok(message) = Message::decode(&packet) {
                prop_assert_eq!(Message::decode(&message.encode()).expect("decodes again"), message);
            }
            if let Ok(Event::Output { data, .. }) = Event::decode(&packet) {
                prop_assert_eq!(&data[..], &packet[HEADER..]);
            }
        }
    }
}
