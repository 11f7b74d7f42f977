//! The process that a layer is unpacked in.
//!
//! What reads an archive of a stranger's should be worth nothing to whoever takes it over. A layer is therefore unpacked
//! by a fresh copy of this program, entered before arguments are parsed and told by its first argument what to be. It
//! gets three descriptors where others have their standard streams: 0 the uncompressed archive, 1 a pipe for its report,
//! 2 the layer's directory, on a detached mount of its own that opens no device. That directory becomes its root; it
//! keeps the capabilities that making files takes, and a filter leaves it the system calls of files ([`inside`]).
//!
//! Decompressing and hashing stay outside: the digest that a layer goes by must be computed by somebody whom the layer
//! cannot take over, or it could pass for another one. One process serves one layer for the same reason.

pub(crate) mod inside;
mod report;

use std::io::{BufRead, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use sys::Context;
use sys::mount::{Attributes, Change};

use crate::error::{Error, Result};
use crate::extract::Outcome;
use report::Report;

pub use inside::main;

/// What the first argument of such a process begins with. The program looks at it before anything else and calls
/// [`main`].
pub const ARGUMENT: &str = "lighter-unpack";

/// Bytes in the pipe of the archive; what users without privilege may ask for (`/proc/sys/fs/pipe-max-size`).
const PIPE: usize = 1 << 20;

/// How long nothing may move: a disk that does not take a megabyte in that time has failed.
const STALL: Duration = Duration::from_secs(300);

/// How long the last look over an unpacked layer may take, which is made of millions of files at most.
const FINISH: Duration = Duration::from_secs(1800);

/// How long a process may need to end after it closed its report.
const END: Duration = Duration::from_secs(10);

/// Bytes a report may have: some hundred thousand names of directories.
const REPORT_MOST: usize = 64 << 20;

/// The process at work. Dropped early, it is killed and collected.
pub(crate) struct Jail {
    child: Child,
    /// Taken when the archive has ended.
    archive: Option<OwnedFd>,
    report: OwnedFd,
    collected: bool,
}

impl Jail {
    /// Starts it on an empty directory.
    ///
    /// # Errors
    /// Those of making the pipes and of executing the program.
    pub(crate) fn start(dir: BorrowedFd<'_>) -> Result<Self> {
        let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).at("pipe2", "");
        let (theirs, archive) = pipe()?;
        let (report, report_end) = pipe()?;
        // Slower without, that is all.
        let _ = rustix::pipe::fcntl_setpipe_size(&archive, PIPE);
        rustix::fs::fcntl_setfl(&archive, OFlags::NONBLOCK).at("fcntl", "F_SETFL")?;
        let child = Command::new("/proc/self/exe")
            .arg0(ARGUMENT)
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::from(report_end))
            .stderr(Stdio::from(own_mount(dir)?))
            .spawn()
            .at("execve", ARGUMENT)?;
        Ok(Self { child, archive: Some(archive), report, collected: false })
    }

    /// Hands the archive over, to its end or until the process wants no more of it.
    ///
    /// # Errors
    /// [`Error::Source`] when `archive` fails, [`Error::Jail`] when nothing moves any more.
    pub(crate) fn feed(&mut self, archive: &mut dyn BufRead) -> Result<()> {
        let Some(pipe) = self.archive.take() else { return Ok(()) };
        loop {
            let piece = match archive.fill_buf() {
                Ok([]) => return Ok(()),
                Ok(piece) => piece,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::Source(error)),
            };
            match rustix::io::write(&pipe, piece) {
                Ok(count) => archive.consume(count),
                Err(Errno::INTR) => {}
                // It has ended, and its report or its end says why.
                Err(Errno::PIPE) => return Ok(()),
                Err(Errno::AGAIN) => {
                    let mut entries = [PollFd::new(&pipe, PollFlags::OUT)];
                    if sys::process::poll_until(&mut entries, Some(STALL))? == 0 {
                        return Err(Error::Jail(format!("has not gone on for {} s", STALL.as_secs())));
                    }
                }
                Err(errno) => return Err(sys::Error::new("write", "the archive's pipe", errno).into()),
            }
        }
    }

    /// What the process found out, once it has ended.
    ///
    /// # Errors
    /// [`Error::Unpack`] and [`Error::Sys`] as it reports them; [`Error::Jail`] when it ended in another way.
    pub(crate) fn finish(mut self) -> Result<Outcome> {
        drop(self.archive.take());
        let bytes = self.read_report()?;
        let status = self.collect(END)?;
        match Report::parse(&bytes) {
            Ok(report) if status.success() => report.into_outcome(),
            Err(reason) if status.success() => Err(Error::Jail(format!("gave a report that makes no sense: {reason}"))),
            _ => Err(Error::Jail(match (status.signal(), status.code()) {
                (Some(signal), _) => format!("was killed by signal {signal}"),
                (None, code) => format!("ended with code {}", code.unwrap_or_default()),
            })),
        }
    }

    fn read_report(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut buffer = [0; 16 << 10];
        loop {
            let mut entries = [PollFd::new(&self.report, PollFlags::IN)];
            if sys::process::poll_until(&mut entries, Some(FINISH))? == 0 {
                return Err(Error::Jail(format!("has not ended after {} s", FINISH.as_secs())));
            }
            match rustix::io::read(&self.report, &mut buffer) {
                Ok(0) => return Ok(bytes),
                Ok(count) => bytes.extend_from_slice(&buffer[..count]),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(sys::Error::new("read", "the report's pipe", errno).into()),
            }
            if bytes.len() > REPORT_MOST {
                return Err(Error::Jail(format!("reports more than {REPORT_MOST} bytes")));
            }
        }
    }

    /// Waits for the process's end; one that takes longer than `limit` is killed.
    fn collect(&mut self, limit: Duration) -> Result<ExitStatus> {
        let ended = sys::process::open_pid(self.child.id()).and_then(|pidfd| {
            let mut entries = [PollFd::new(&pidfd, PollFlags::IN)];
            sys::process::poll_until(&mut entries, Some(limit))
        });
        if !matches!(ended, Ok(1..)) {
            self.child.kill().at("kill", ARGUMENT)?;
        }
        let status = self.child.wait().at("waitid", ARGUMENT)?;
        self.collected = true;
        Ok(status)
    }
}

impl Drop for Jail {
    fn drop(&mut self) {
        if !self.collected {
            // It is this process's child, not yet collected: both can only fail for a reason that ends us as well.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The directory on a detached mount that knows no devices, no programs and no way up. A kernel without mount_setattr(2)
/// (before 5.12) gets the directory itself: the process then gives up the right to make devices.
fn own_mount(dir: BorrowedFd<'_>) -> Result<OwnedFd> {
    let set = Attributes::NODEV | Attributes::NOSUID | Attributes::NOEXEC;
    let change = Change { set, ..Change::default() };
    let mount = sys::mount::clone_tree(dir, "", false).and_then(|mount| {
        sys::mount::set_attributes(&mount, &change)?;
        Ok(mount)
    });
    match mount {
        Err(error) if matches!(error.errno(), Errno::NOSYS | Errno::PERM | Errno::INVAL) => {
            Ok(rustix::io::fcntl_dupfd_cloexec(dir.as_fd(), 0).at("fcntl", "F_DUPFD_CLOEXEC")?)
        }
        mount => Ok(mount?),
    }
}
