//! A seccomp agent: listens on a socket, takes listeners, answers the calls that wait there.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use serde_json::Value;
use sys::Errno;
pub use sys::notification::{Notification, Verdict};

use crate::wait::patient;

/// More than any state that is sent here.
const LONGEST_STATE: usize = 64 << 10;

/// What the agent decides about a call; `None` lets go of the listener, so that the kernel decides from then on.
type Decide = Arc<dyn Fn(&Notification) -> Option<Verdict> + Send + Sync>;

/// An agent that runs until the test program ends.
pub struct Agent {
    path: PathBuf,
    states: Receiver<Value>,
}

impl Agent {
    /// Listens at `path` and answers as `decide` says.
    ///
    /// # Panics
    /// When nothing can be bound there.
    #[must_use]
    pub fn listen(path: &Path, decide: impl Fn(&Notification) -> Option<Verdict> + Send + Sync + 'static) -> Self {
        let listener = UnixListener::bind(path).expect("bind the agent's socket");
        let (told, states) = channel();
        let decide: Decide = Arc::new(decide);
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let (connection, told, decide) = (connection.expect("accepted"), told.clone(), decide.clone());
                std::thread::spawn(move || serve(&connection, &told, &decide));
            }
        });
        Self { path: path.to_owned(), states }
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What came with the next listener.
    ///
    /// # Panics
    /// When none comes.
    #[must_use]
    pub fn state(&self) -> Value {
        self.states.recv_timeout(patient(Duration::from_secs(30))).expect("a listener arrives")
    }

    /// Whether no other listener came.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.states.try_recv().is_err()
    }
}

fn serve(connection: &UnixStream, told: &Sender<Value>, decide: &Decide) {
    let mut text = Vec::new();
    let mut listener = None;
    loop {
        let mut buffer = vec![0; LONGEST_STATE];
        let (length, files) = sys::socket::receive(connection, &mut buffer).expect("received");
        for file in files {
            assert!(listener.replace(file).is_none(), "the listener comes once");
        }
        if length == 0 {
            break;
        }
        text.extend_from_slice(&buffer[..length]);
    }
    let state = serde_json::from_slice(&text).expect("a state in JSON");
    // The test may have seen enough and ended.
    let _ = told.send(state);
    answer(&listener.expect("a listener beside the state"), decide);
}

fn answer(listener: &OwnedFd, decide: &Decide) {
    loop {
        let mut entries = [PollFd::new(listener, PollFlags::IN)];
        if poll(&mut entries, None).is_err() || !entries[0].revents().contains(PollFlags::IN) {
            return;
        }
        let notice = match sys::notification::receive(listener) {
            Err(error) if error.errno() == Errno::NOENT => continue,
            other => other.expect("a notification"),
        };
        let Some(verdict) = decide(&notice) else { return };
        // The caller may have been killed meanwhile.
        let _ = sys::notification::answer(listener, notice.id, verdict);
    }
}
