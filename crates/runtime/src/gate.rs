//! The gate of a created container: whoever made it is gone, and its first process waits for whoever starts it.
//!
//! The process listens on a socket in the container's state directory. The connection that says "start" becomes the
//! link of [`link`](crate::link): it carries why the command could not be executed, or closes when it was. A connection
//! that says nothing and closes is somebody who only asked whether the container is still waiting.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use crate::error::{Doing, ErrorKind, Result};
use crate::link::Link;
use crate::notify::{self, Agent};

/// Lets a container that waits at its gate execute its command, by a connection to that gate; returns when it did. The
/// listener of a filter that has one goes to `agent`.
///
/// # Errors
/// Why the command could not be executed within `patience`; the process has ended or is about to.
pub fn open_gate(connection: OwnedFd, patience: Duration, agent: Option<&Agent>) -> Result<()> {
    let link = Link::from(connection);
    link.send_start()?;
    notify::await_executed(&link, patience, agent)
}

/// The process's side: waits, for as long as the container stays created, for the connection that starts it.
pub(crate) fn wait(listener: &OwnedFd) -> Result<Link> {
    let what = || "cannot wait for the start".to_owned();
    loop {
        let mut entries = [PollFd::new(listener, PollFlags::IN)];
        sys::process::poll_until(&mut entries, None).doing(what)?;
        let link = Link::from(sys::socket::accept(listener).doing(what)?);
        match link.hear_start() {
            Ok(()) => return Ok(link),
            // Gone again, out of step, or silent: the gate stays shut for the next one.
            Err(error) if error.kind() == ErrorKind::System => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_word_opens_the_gate() {
        let path = std::env::temp_dir().join(format!("lighter-gate-{}", std::process::id()));
        std::fs::create_dir(&path).expect("made");
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
        let dir = rustix::fs::open(&path, flags, rustix::fs::Mode::empty()).expect("opened");
        let listener = sys::socket::listen_in(&dir, "start").expect("made");
        let process = std::thread::spawn(move || {
            let link = wait(&listener).expect("opened");
            link.send_failure(&crate::Error::new(ErrorKind::CommandNotFound, "no such command"));
        });
        let connect = || sys::socket::connect_in(&dir, "start", sys::socket::Kind::Messages).expect("connected");
        drop(connect());
        let error = open_gate(connect(), Duration::from_secs(30), None).expect_err("the process says so");
        assert_eq!((error.kind(), error.doing()), (ErrorKind::CommandNotFound, "no such command"));
        process.join().expect("ended");
        std::fs::remove_dir_all(&path).expect("removed");
    }
}
