//! Handing the listener of a filter with `SCMP_ACT_NOTIFY` to the agent (`config-linux.md`, "Seccomp").
//!
//! The process cannot send the listener itself: the filter that made it may forbid or hold up every call from then on.
//! So its caller takes it, and until it has, the process only looks at a page of memory that both share:
//!
//! ```text
//! caller                                        process
//!   ◀─────────── Listening + page, own pidfd ──── nothing is loaded yet
//!   connects to the agent
//!   Load ─────────────────────────────────────▶ loads the filter
//!   ◀ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ the page: number ─ ─ ─  no calls
//!   pidfd_getfd; state and listener to the agent
//!   ─ ─ ─ the page: taken ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ▶ execve, which closes its own copy
//! ```
//!
//! Where the caller may not take it (pidfd_getfd(2) asks for the rights of a tracer, which an ordinary user has not over a
//! process that is not dumpable), the process is told over the page to send it, and the filter must let it.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use oci::runtime::Spec;
use rustix::event::{PollFd, PollFlags};
use rustix::process::PidfdGetfdFlags;
use serde::Serialize;
use sys::Context as _;
use sys::shared::SharedPage;

use crate::error::{Doing, Error, ErrorKind, Result};
use crate::hooks::State;
use crate::link::{self, Answer, Link};
use crate::process;

/// The receiver of listeners whose profile names none, as crun has it.
const RECEIVER: &str = "run.oci.seccomp.receiver";

/// How long the agent may take to accept, and to read what it is sent.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often the caller looks at the page. The process is about to load its filter, which takes some microseconds.
const TURN: Duration = Duration::from_micros(100);

/// How often the process looks at the page before it gives up: a minute or so, at 20 to 60 nanoseconds a turn. It may not
/// ask for the time.
const LOOKS: u32 = 2_000_000_000;

/// The page's words: the listener's number and one, what the caller says.
const NUMBER: usize = 0;
const ORDER: usize = 1;

/// Orders: wait, go on, send the listener.
const WAIT: u32 = 0;
const TAKEN: u32 = 1;
const SEND: u32 = 2;

/// Who gets the listener, and what it is told of the container.
#[derive(Clone, Debug)]
pub struct Agent {
    path: PathBuf,
    metadata: String,
    oci_version: String,
    id: String,
    status: &'static str,
    bundle: PathBuf,
    annotations: BTreeMap<String, String>,
}

/// What an agent reads beside the listener (`runtime-linux.md` calls it the container process state).
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProcessState<'a> {
    oci_version: &'a str,
    fds: [&'static str; 1],
    pid: u32,
    #[serde(skip_serializing_if = "str::is_empty")]
    metadata: &'a str,
    state: State<'a>,
}

impl Agent {
    /// The agent of this configuration, if it names one. `status` is the container's while the process is made.
    #[must_use]
    pub fn of(spec: &Spec, id: &str, bundle: &Path, status: &'static str) -> Option<Self> {
        let path = listener_path(spec)?.to_owned();
        let metadata = spec.linux.as_ref().and_then(|linux| linux.seccomp.as_ref());
        Some(Self {
            path,
            metadata: metadata.map(|profile| profile.listener_metadata.clone()).unwrap_or_default(),
            oci_version: spec.oci_version.clone(),
            id: id.to_owned(),
            status,
            bundle: bundle.to_owned(),
            annotations: spec.annotations.clone(),
        })
    }

    fn message(&self, pid: u32) -> Result<Vec<u8>> {
        let state = State {
            oci_version: &self.oci_version,
            id: &self.id,
            status: self.status,
            pid: Some(pid),
            bundle: &self.bundle,
            annotations: &self.annotations,
        };
        let (oci_version, fds, metadata) = (&*self.oci_version, ["seccompFd"], &*self.metadata);
        serde_json::to_vec(&ProcessState { oci_version, fds, pid, metadata, state })
            .map_err(|error| Error::new(ErrorKind::System, format!("cannot describe the container: {error}")))
    }

    fn connect(&self) -> Result<OwnedFd> {
        sys::socket::connect_within(&self.path, PATIENCE)
            .doing(|| "linux.seccomp.listenerPath: failed to connect with seccomp agent".to_owned())
    }
}

/// Where the profile's listener goes, if anywhere.
pub(crate) fn listener_path(spec: &Spec) -> Option<&Path> {
    let profile = spec.linux.as_ref()?.seccomp.as_ref()?;
    if !profile.listener_path.as_os_str().is_empty() {
        return Some(&profile.listener_path);
    }
    spec.annotations.get(RECEIVER).filter(|path| !path.is_empty()).map(Path::new)
}

// The caller's side.

/// Waits until the process has executed its command; on the way its listener goes to `agent`.
///
/// # Errors
/// What the process failed at, or the agent; the process has ended then or is about to.
pub(crate) fn await_executed(link: &Link, patience: Duration, agent: Option<&Agent>) -> Result<()> {
    match link.answer(patience)? {
        Answer::Executed => return Ok(()),
        Answer::Ready(_) => return Err(link::ended()),
        Answer::Listening(page, pidfd) => hand_over(link, &page, &pidfd, agent)?,
    }
    match link.answer(patience)? {
        Answer::Executed => Ok(()),
        Answer::Ready(_) | Answer::Listening(..) => Err(link::ended()),
    }
}

fn hand_over(link: &Link, page: &OwnedFd, pidfd: &OwnedFd, agent: Option<&Agent>) -> Result<()> {
    let handed = || {
        let agent = agent.ok_or_else(|| {
            Error::new(ErrorKind::Config, "linux.seccomp.listenerPath: is empty, and SCMP_ACT_NOTIFY needs an agent")
        })?;
        let pid = process::pid_of(pidfd)?.map_or(0, |pid| pid.as_raw_nonzero().get().unsigned_abs());
        let message = agent.message(pid)?;
        let page = SharedPage::map(page).doing(|| "cannot share a page with the container's process".to_owned())?;
        let connection = agent.connect()?;
        link.send_load()?;
        let number = await_number(link, &page.words()[NUMBER])?;
        let listener = take(link, &page.words()[ORDER], pidfd, number)?;
        let files = [std::os::fd::AsFd::as_fd(&listener)];
        sys::socket::send_all(&connection, &message, &files)
            .doing(|| format!("cannot send the listener to the seccomp agent at {}", agent.path.display()))?;
        page.words()[ORDER].store(TAKEN, Ordering::Release);
        Ok(())
    };
    handed().inspect_err(|_| {
        // It may be looking at the page for a long time yet, and the error is the one to report.
        let _ = sys::process::send_signal(pidfd, rustix::process::Signal::KILL.as_raw());
    })
}

/// The listener's number in the process, once it has loaded its filter.
fn await_number(link: &Link, word: &AtomicU32) -> Result<i32> {
    let begin = Instant::now();
    loop {
        match word.load(Ordering::Acquire) {
            0 => {}
            number => return i32::try_from(number - 1).map_err(|_| link::ended()),
        }
        // What comes over the link now can only be a failure.
        let mut entries = [PollFd::new(link, PollFlags::IN)];
        let ready = sys::process::poll_until(&mut entries, Some(TURN))
            .doing(|| "cannot wait for the container's process to load its filter".to_owned())?;
        if ready > 0 {
            return Err(link.answer(Duration::ZERO).err().unwrap_or_else(link::ended));
        }
        if begin.elapsed() > PATIENCE {
            return Err(Error::new(ErrorKind::System, "the container's process does not load its filter"));
        }
    }
}

fn take(link: &Link, order: &AtomicU32, pidfd: &OwnedFd, number: i32) -> Result<OwnedFd> {
    let what = || "cannot take the listener of the container's filter".to_owned();
    let taken = rustix::process::pidfd_getfd(pidfd, number, PidfdGetfdFlags::empty());
    let listener = match taken {
        Ok(listener) => listener,
        Err(sys::Errno::PERM | sys::Errno::NOSYS) => {
            order.store(SEND, Ordering::Release);
            // A filter that hands sendmsg to the agent holds up the process here, and one that forbids it says nothing.
            link.await_listener(PATIENCE).map_err(|_| {
                let what = "linux.seccomp: without CAP_SYS_PTRACE the container's process has to send its listener itself, \
                            and the filter keeps it from calling sendmsg";
                Error::new(ErrorKind::Unsupported, what)
            })?
        }
        Err(errno) => return Err(errno).at("pidfd_getfd", number).doing(what),
    };
    let path = format!("/proc/self/fd/{}", listener.as_raw_fd());
    let kind = rustix::fs::readlink(&path, Vec::new()).at("readlink", &path).doing(what)?;
    if kind.as_bytes() != b"anon_inode:seccomp notify" {
        return Err(Error::new(ErrorKind::System, format!("{}: {kind:?} is none", what())));
    }
    Ok(listener)
}

// The process's side.

/// The process's half, before its filter is loaded.
#[derive(Debug)]
pub(crate) struct Handover<'a> {
    link: &'a Link,
    page: SharedPage,
}

impl<'a> Handover<'a> {
    /// Tells the caller that a listener will come, and waits until it may.
    pub(crate) fn offer(link: &'a Link) -> Result<Self> {
        let what = || "cannot prepare for the seccomp agent".to_owned();
        let (page, file) = SharedPage::create().doing(what)?;
        let own = sys::process::open_pid(std::process::id()).doing(what)?;
        link.send_listening(&file, &own)?;
        link.await_load()?;
        Ok(Self { link, page })
    }

    /// Shows the caller the listener; comes back when the agent has it. Makes no system call unless it is told to. The
    /// listener stays open until execve, for closing it would be a call too.
    pub(crate) fn give(&self, listener: OwnedFd) -> Result<()> {
        let words = self.page.words();
        words[NUMBER].store(listener.as_raw_fd().unsigned_abs() + 1, Ordering::Release);
        let mut sent = false;
        for _ in 0..LOOKS {
            match words[ORDER].load(Ordering::Acquire) {
                TAKEN => {
                    std::mem::forget(listener);
                    return Ok(());
                }
                SEND if !sent => {
                    self.link.send_listener(&listener)?;
                    sent = true;
                }
                WAIT | SEND => {}
                other => return Err(Error::new(ErrorKind::System, format!("order {other} on the shared page"))),
            }
            std::hint::spin_loop();
        }
        Err(link::caller_gone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> Spec {
        Spec::from_json(json.as_bytes()).expect("valid JSON")
    }

    #[test]
    fn the_agent_is_told_what_the_specification_says() {
        let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/a", "listenerMetadata": "m"}"#;
        let spec = spec(&format!(
            r#"{{"ociVersion": "1.2.0", "annotations": {{"a": "b"}}, "linux": {{"seccomp": {profile}}}}}"#
        ));
        let agent = Agent::of(&spec, "c", Path::new("/bundle"), "creating").expect("named");
        let message: serde_json::Value = serde_json::from_slice(&agent.message(7).expect("text")).expect("JSON");
        let expected = serde_json::json!({
            "ociVersion": "1.2.0", "fds": ["seccompFd"], "pid": 7, "metadata": "m",
            "state": {"ociVersion": "1.2.0", "id": "c", "status": "creating", "pid": 7, "bundle": "/bundle",
                      "annotations": {"a": "b"}},
        });
        assert_eq!(message, expected);
    }

    #[test]
    fn the_profiles_path_goes_before_the_annotation() {
        let with = |path: &str, annotation: &str| {
            let profile = format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "{path}"}}"#);
            let spec = spec(&format!(
                r#"{{"ociVersion": "1.2.0", "annotations": {{"{RECEIVER}": "{annotation}"}}, "linux": {{"seccomp": {profile}}}}}"#
            ));
            listener_path(&spec).map(Path::to_owned)
        };
        assert_eq!(with("/a", "/b"), Some("/a".into()));
        assert_eq!(with("", "/b"), Some("/b".into()));
        assert_eq!(with("", ""), None);
        let annotation = format!(r#"{{"ociVersion": "1.2.0", "annotations": {{"{RECEIVER}": "/b"}}, "linux": {{}}}}"#);
        assert_eq!(listener_path(&spec(&annotation)), None);
    }

    #[test]
    fn nothing_but_a_listener_is_taken() {
        let (ours, theirs) = Link::pair().expect("made");
        let own = sys::process::open_pid(std::process::id()).expect("opened");
        let file = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).expect("open");
        let error = take(&ours, &AtomicU32::new(0), &own, file.as_raw_fd()).expect_err("no listener");
        assert!(error.doing().contains("/dev/null"), "{error}");
        assert_eq!(take(&ours, &AtomicU32::new(0), &own, 9999).expect_err("closed").kind(), ErrorKind::System);
        drop(theirs);
    }
}
