//! The socket on which a monitor can be found.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use sys::Context;

use super::SOCKET;
use crate::client::socket_address;
use crate::error::{Doing, Result};

const BACKLOG: i32 = 64;

/// A listening socket, gone from the file system when dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    dir: OwnedFd,
    socket: OwnedFd,
}

impl Listener {
    /// Listens in `run_dir`, which is made if its parent exists. What a dead monitor left there is replaced: the caller
    /// holds the container's lock.
    ///
    /// # Errors
    /// When a call fails.
    pub(crate) fn bind(run_dir: &Path) -> Result<Self> {
        let doing = "making the monitor's socket";
        match mkdirat(CWD, run_dir, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).at("mkdirat", run_dir.display()).doing(doing),
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = openat(CWD, run_dir, flags, Mode::empty()).at("openat", run_dir.display()).doing(doing)?;
        match unlinkat(&dir, SOCKET, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno).at("unlinkat", SOCKET).doing(doing),
        }
        let kind = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, kind, None)
            .at("socket", "")
            .doing(doing)?;
        // bind(2) makes the file with the socket's own mode less the umask; nobody can reach it in between anyway, since
        // the directory is the owner's alone.
        rustix::fs::fchmod(&socket, Mode::from_raw_mode(0o600)).at("fchmod", SOCKET).doing(doing)?;
        rustix::net::bind(&socket, &socket_address(&dir)?).at("bind", run_dir.join(SOCKET).display()).doing(doing)?;
        rustix::net::listen(&socket, BACKLOG).at("listen", SOCKET).doing(doing)?;
        Ok(Self { dir, socket })
    }

    /// The next client; `None` when there is none now.
    pub(crate) fn accept(&self) -> Option<OwnedFd> {
        loop {
            match rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC) {
                Ok(socket) => return Some(socket),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => return None,
                Err(_) => {
                    // Out of descriptors or memory: the client stays in the queue, and the loop must not spin on it.
                    std::thread::sleep(Duration::from_millis(10));
                    return None;
                }
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // A socket that stays is replaced by the next monitor, and connecting to it fails at once.
        let _ = unlinkat(&self.dir, SOCKET, AtFlags::empty());
    }
}
