//! Making, addressing and replacing processes.
//!
//! [`clone_process`] is the only place in lighter that makes a process without executing: it refuses in a process with
//! more than one thread, since the child would inherit locks whose owners do not exist there.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::error::{Context, Error, Result};

/// Namespaces to make in [`clone_process`] or to join by [`join`] (`CLONE_NEW*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Namespaces(u64);

impl Namespaces {
    /// Mounts.
    pub const MOUNT: Self = Self(libc::CLONE_NEWNS as u64);
    /// Process ids.
    pub const PID: Self = Self(libc::CLONE_NEWPID as u64);
    /// Network.
    pub const NETWORK: Self = Self(libc::CLONE_NEWNET as u64);
    /// System V IPC and message queues.
    pub const IPC: Self = Self(libc::CLONE_NEWIPC as u64);
    /// Host name.
    pub const UTS: Self = Self(libc::CLONE_NEWUTS as u64);
    /// Users.
    pub const USER: Self = Self(libc::CLONE_NEWUSER as u64);
    /// Control groups.
    pub const CGROUP: Self = Self(libc::CLONE_NEWCGROUP as u64);
    /// Clocks; in clone3 since kernel 5.6.
    pub const TIME: Self = Self(libc::CLONE_NEWTIME as u64);

    /// None.
    #[must_use]
    pub const fn empty() -> Self {
        Self(0)
    }

    /// Both.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The namespaces of `self` that `other` lacks.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of `other` are in it.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// How [`clone_process`] makes the child.
#[derive(Clone, Copy, Debug, Default)]
pub struct CloneArgs<'a> {
    /// New namespaces of the child.
    pub namespaces: Namespaces,
    /// Directory of a cgroup v2 group the child is born into (`CLONE_INTO_CGROUP`, kernel 5.7).
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Makes the child a sibling of the caller (`CLONE_PARENT`).
    pub sibling: bool,
}

/// A child process.
#[derive(Debug)]
pub struct Child {
    /// Its id in the caller's pid namespace.
    pub pid: u32,
    /// Its descriptor: readable when it ended.
    pub pidfd: OwnedFd,
}

/// Whether this process came from [`clone_process`] and is single-threaded by that; its `/proc` may be out of reach.
static IS_CLONE: AtomicBool = AtomicBool::new(false);

/// `CLONE_INTO_CGROUP` (`linux/sched.h`); the C library's constant is an int, which it does not fit.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Makes a child that runs `child` and ends with the code it gives.
///
/// # Errors
/// `EAGAIN` with the words "more than one thread" when the caller is not single-threaded; otherwise clone3(2)'s (kernel
/// 5.3): `EPERM` without the privilege for a namespace, `ENOSPC` over a namespace limit, `EBUSY` for a cgroup with
/// controllers enabled below it.
pub fn clone_process(args: &CloneArgs<'_>, child: impl FnOnce() -> i32) -> Result<Child> {
    if !IS_CLONE.load(Ordering::Relaxed) && thread_count()? != 1 {
        return Err(Error::new("clone3", "(refused: more than one thread)", Errno::AGAIN));
    }
    let mut pidfd: RawFd = -1;
    let mut raw = libc::clone_args {
        flags: args.namespaces.0 | libc::CLONE_PIDFD as u64,
        pidfd: (&raw mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        // With CLONE_PARENT the exit signal is the caller's own and must be left out.
        exit_signal: if args.sibling { 0 } else { libc::SIGCHLD as u64 },
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    if args.sibling {
        raw.flags |= libc::CLONE_PARENT as u64;
    }
    if let Some(cgroup) = args.cgroup {
        raw.flags |= CLONE_INTO_CGROUP;
        raw.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM the child runs on a copy of this single-threaded process, whose memory and locks are
    // therefore consistent; `raw` and `pidfd` live across the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const raw, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(last("clone3", "")),
        0 => {
            IS_CLONE.store(true, Ordering::Relaxed);
            exit_now(child())
        }
        pid => {
            // SAFETY: the kernel stored a new descriptor that nothing else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Child { pid: u32::try_from(pid).unwrap_or(0), pidfd })
        }
    }
}

/// How many threads this process has: the link count of its task directory less `.` and `..`.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn thread_count() -> Result<u64> {
    let stat = rustix::fs::stat("/proc/self/task").at("stat", "/proc/self/task")?;
    Ok(stat.st_nlink.saturating_sub(2))
}

/// Ends the process at once: no destructors, no exit handlers, no flushing.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) takes any value and does not return.
    unsafe { libc::_exit(code) }
}

/// A program with its arguments and environment, laid out for execve(2).
#[derive(Debug)]
pub struct Command {
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Command {
    /// Lays them out.
    ///
    /// # Errors
    /// `EINVAL` when a string contains a NUL byte.
    pub fn new<'a>(
        arguments: impl IntoIterator<Item = &'a str>,
        environment: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self> {
        fn lay<'a>(strings: impl IntoIterator<Item = &'a str>) -> Result<Vec<CString>> {
            let nul = |text: &str| Error::new("execve", format!("{text:?} (NUL byte)"), Errno::INVAL);
            strings.into_iter().map(|text| CString::new(text).map_err(|_| nul(text))).collect()
        }
        Ok(Self { arguments: lay(arguments)?, environment: lay(environment)? })
    }

    /// Replaces the process by the program at `path`; returns only on failure.
    pub fn exec(&self, path: &CStr) -> Error {
        let (arguments, environment) = self.pointers();
        // SAFETY: both arrays end in a null pointer and point to strings that `self` keeps alive.
        unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
        last("execve", path.to_string_lossy())
    }

    /// Replaces the process by the program open as `file`; returns only on failure.
    pub fn exec_fd(&self, file: impl AsFd) -> Error {
        let (arguments, environment) = self.pointers();
        // SAFETY: as in `exec`; the path is an empty constant.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                file.as_fd().as_raw_fd(),
                c"".as_ptr(),
                arguments.as_ptr(),
                environment.as_ptr(),
                libc::AT_EMPTY_PATH,
            )
        };
        last("execveat", self.arguments.first().map(|name| name.to_string_lossy()).unwrap_or_default())
    }

    fn pointers(&self) -> (Vec<*const libc::c_char>, Vec<*const libc::c_char>) {
        let list = |strings: &[CString]| {
            strings.iter().map(|text| text.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
        };
        (list(&self.arguments), list(&self.environment))
    }
}

/// Closes every descriptor from `first` on (close_range(2), kernel 5.9). For a process that came from
/// [`clone_process`] and goes on without executing: whatever still owns one of them must never be used or dropped.
///
/// # Errors
/// close_range(2)'s.
pub fn close_from(first: u32) -> Result<()> {
    // SAFETY: by contract no owner of a closed descriptor is used again; the process ends by `exit_now`, without drops.
    let status = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0 as libc::c_uint) };
    if status == 0 { Ok(()) } else { Err(last("close_range", first)) }
}

/// Closes every descriptor from `first` on but `kept`, under the contract of [`close_from`]. Marking them close-on-exec
/// is not enough before execve(2): the kernel looks the program up first, so `/proc/self/fd/N/..` leads out of the root.
///
/// # Errors
/// close_range(2)'s.
pub fn close_from_except(first: u32, kept: impl AsFd) -> Result<()> {
    let kept = u32::try_from(kept.as_fd().as_raw_fd()).unwrap_or(u32::MAX);
    if kept > first {
        // SAFETY: by contract no owner of a closed descriptor is used or dropped again.
        let status = unsafe { libc::syscall(libc::SYS_close_range, first, kept - 1, 0 as libc::c_uint) };
        if status != 0 {
            return Err(last("close_range", first));
        }
    }
    close_from(kept.saturating_add(1).max(first))
}

/// Closes this process's copy of a descriptor whose owner lives on in the process it was cloned from. For a process that
/// came from [`clone_process`]: it must not use or drop the owner.
pub fn close_borrowed(file: impl AsFd) {
    // SAFETY: by contract the owner is not used in this process, which ends by `exit_now` and so never drops it.
    unsafe { libc::close(file.as_fd().as_raw_fd()) };
}

/// Puts `files` in the places 0, 1, 2, … of the descriptor table, without close-on-exec; the place of none is closed.
/// Meant for a process about to execute: whatever owned those numbers before is replaced.
///
/// # Errors
/// fcntl(2)'s and dup3(2)'s.
pub fn place_descriptors(files: &[Option<BorrowedFd<'_>>]) -> Result<()> {
    let count = i32::try_from(files.len()).unwrap_or(i32::MAX);
    // First out of the way of the places, so that no step closes what a later one needs.
    let mut moved = Vec::with_capacity(files.len());
    for file in files {
        let copy = |file| rustix::io::fcntl_dupfd_cloexec(file, count).at("fcntl", "F_DUPFD_CLOEXEC");
        moved.push(file.map(copy).transpose()?);
    }
    for (place, file) in (0..count).zip(&moved) {
        let Some(file) = file else {
            // SAFETY: as for dup2 below: the owner of `place`, if there is one, has given it up.
            unsafe { libc::close(place) };
            continue;
        };
        // SAFETY: dup2 replaces the table entry `place`; the owners of the standard streams hold no resource by it, and
        // higher places belong to descriptors that the caller gives up by contract.
        let status = unsafe { libc::dup2(file.as_raw_fd(), place) };
        if status < 0 {
            return Err(last("dup2", place));
        }
    }
    Ok(())
}

/// Takes ownership of an inherited descriptor by number.
///
/// # Errors
/// `EBADF` when it is not open.
pub fn inherited(number: RawFd) -> Result<OwnedFd> {
    // SAFETY: F_GETFD on any number is harmless and tells whether it is open.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags < 0 {
        return Err(last("fcntl", number));
    }
    // SAFETY: it is open, and by the caller's protocol with its parent nothing else in this process owns it.
    let file = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::CLOEXEC).at("fcntl", number)?;
    Ok(file)
}

/// setns(2) by `file`: a pidfd with several namespaces (kernel 5.8), or one namespace's file with that namespace.
///
/// # Errors
/// setns(2)'s.
pub fn join(file: impl AsFd, namespaces: Namespaces) -> Result<()> {
    // The flags fit: CLONE_NEW* are bits below 2^31.
    let flags = namespaces.0 as libc::c_int;
    // SAFETY: setns changes only the calling thread's namespaces.
    let status = unsafe { libc::setns(file.as_fd().as_raw_fd(), flags) };
    if status == 0 { Ok(()) } else { Err(last("setns", format!("{flags:#x}"))) }
}

/// The kind of namespace that `file` is, which must be in the namespaces' file system (ioctl_nsfs(2),
/// `NS_GET_NSTYPE`, kernel 4.11).
///
/// # Errors
/// ioctl(2)'s.
pub fn namespace_kind(file: impl AsFd) -> Result<Namespaces> {
    // `_IO(0xb7, 3)` of `linux/nsfs.h`.
    const GET_KIND: libc::Ioctl = 0xb703;
    // SAFETY: the request takes no argument and writes no memory.
    let kind = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), GET_KIND) };
    match u64::try_from(kind) {
        Ok(kind) => Ok(Namespaces(kind)),
        Err(_) => Err(last("ioctl", "NS_GET_NSTYPE")),
    }
}

/// unshare(2) of namespaces.
///
/// # Errors
/// unshare(2)'s.
pub fn unshare(namespaces: Namespaces) -> Result<()> {
    // SAFETY: only CLONE_NEW* bits are passed, which do not touch memory or descriptors.
    let status = unsafe { libc::unshare(namespaces.0 as libc::c_int) };
    if status == 0 { Ok(()) } else { Err(last("unshare", format!("{:#x}", namespaces.0))) }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By exit(2), with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// The code a shell and docker show: the process's own, or 128 + signal.
    #[must_use]
    pub fn shell_code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// Collects the child behind `pidfd` if it has ended.
///
/// # Errors
/// `ECHILD` when it is not this process's child or was collected already.
pub fn try_wait(pidfd: impl AsFd) -> Result<Option<Exit>> {
    let status =
        waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG).at("waitid", "pidfd")?;
    Ok(status.map(|status| match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Code(255),
    }))
}

/// Waits until the child behind `pidfd` has ended, and collects it; `None` when `limit` passed first.
///
/// # Errors
/// As [`try_wait`].
pub fn wait_for(pidfd: impl AsFd, limit: Duration) -> Result<Option<Exit>> {
    let mut entries = [PollFd::new(&pidfd, PollFlags::IN)];
    poll_until(&mut entries, Some(limit))?;
    try_wait(pidfd)
}

/// poll(2) that starts again after a signal, with what is left of `limit`.
///
/// # Errors
/// poll(2)'s, less `EINTR`.
pub fn poll_until(entries: &mut [PollFd<'_>], limit: Option<Duration>) -> Result<usize> {
    let deadline = limit.map(|limit| std::time::Instant::now() + limit);
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(std::time::Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(entries, left.as_ref()) {
            Err(Errno::INTR) => {}
            other => return other.at("poll", ""),
        }
    }
}

/// Sends signal number `signal` (0 only probes) to the process behind `pidfd` (kernel 5.1).
///
/// # Errors
/// `ESRCH` when it has ended, `EINVAL` for a number that is no signal.
pub fn send_signal(pidfd: impl AsFd, signal: i32) -> Result<()> {
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo asks the kernel to fill one in.
    let status = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_fd().as_raw_fd(), signal, info, 0 as libc::c_uint)
    };
    if status == 0 { Ok(()) } else { Err(last("pidfd_send_signal", signal)) }
}

/// The descriptor of process `pid` (kernel 5.3).
///
/// # Errors
/// `ESRCH` when there is none.
pub fn open_pid(pid: u32) -> Result<OwnedFd> {
    let raw = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    let raw = raw.ok_or_else(|| Error::new("pidfd_open", pid, Errno::SRCH))?;
    rustix::process::pidfd_open(raw, rustix::process::PidfdFlags::empty()).at("pidfd_open", pid)
}

/// Whether this process is in a user namespace other than the host's first one, which alone has all ids
/// (user_namespaces(7)). False where `/proc` is not mounted.
#[must_use]
pub fn in_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let numbers: Vec<&str> = map.split_ascii_whitespace().collect();
    !numbers.is_empty() && numbers != ["0", "0", "4294967295"]
}

/// Hides the process from ptrace and from `/proc/PID/{fd,mem,…}` of everyone without `CAP_SYS_PTRACE` over the user
/// namespace its memory was made in; execve(2) resets it (prctl(2), `PR_SET_DUMPABLE`).
///
/// # Errors
/// prctl(2)'s.
pub fn set_undumpable() -> Result<()> {
    // SAFETY: PR_SET_DUMPABLE takes one integer.
    let status = unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
    if status == 0 { Ok(()) } else { Err(last("prctl", "PR_SET_DUMPABLE")) }
}

/// Has the kernel send `signal` to this process when its parent ends (prctl(2), `PR_SET_PDEATHSIG`).
///
/// # Errors
/// `EINVAL` for a number that is no signal.
pub fn die_with_parent(signal: i32) -> Result<()> {
    // SAFETY: PR_SET_PDEATHSIG takes one integer.
    let status = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal, 0, 0, 0) };
    if status == 0 { Ok(()) } else { Err(last("prctl", "PR_SET_PDEATHSIG")) }
}

/// Makes orphaned descendants children of this process (prctl(2), `PR_SET_CHILD_SUBREAPER`).
///
/// # Errors
/// prctl(2)'s.
pub fn become_subreaper() -> Result<()> {
    // SAFETY: PR_SET_CHILD_SUBREAPER takes one integer.
    let status = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    if status == 0 { Ok(()) } else { Err(last("prctl", "PR_SET_CHILD_SUBREAPER")) }
}

/// Runs `action` with the file system ids `uid` and `gid` and with every permitted capability in effect, then returns to
/// the ids before (setfsuid(2); leaving uid 0 takes the file capabilities out of the effective set, so they are put
/// back).
///
/// # Errors
/// `EPERM` when an id could not be taken on or given back; otherwise those of `action`.
pub fn with_fs_ids<T>(uid: u32, gid: u32, action: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = (set_fs_id(libc::SYS_setfsuid, uid), set_fs_id(libc::SYS_setfsgid, gid));
    let changed = (set_fs_id(libc::SYS_setfsuid, uid), set_fs_id(libc::SYS_setfsgid, gid)) == (uid, gid);
    let raised = || -> Result<()> {
        let held = crate::capability::get()?;
        crate::capability::replace(crate::capability::ThreadCapabilities { effective: held.permitted, ..held })
    };
    let result = if changed {
        raised().and_then(|()| action())
    } else {
        Err(Error::new("setfsuid", format!("{uid}:{gid}"), Errno::PERM))
    };
    set_fs_id(libc::SYS_setfsuid, before.0);
    set_fs_id(libc::SYS_setfsgid, before.1);
    let back = (set_fs_id(libc::SYS_setfsuid, before.0), set_fs_id(libc::SYS_setfsgid, before.1)) == before;
    if back { result } else { Err(Error::new("setfsuid", format!("{}:{}", before.0, before.1), Errno::PERM)) }
}

/// Sets the id; gives the one before, which is also how a refusal shows.
fn set_fs_id(call: libc::c_long, id: u32) -> u32 {
    // SAFETY: the call takes one integer and always gives the previous id.
    let before = unsafe { libc::syscall(call, id) };
    // The kernel gives a uid_t in a long.
    before as u32
}

/// Gives the process a session keyring of its own, named `name` or without a name, so that it does not hold the caller's
/// keys (keyctl(2), `KEYCTL_JOIN_SESSION_KEYRING`).
///
/// # Errors
/// `EDQUOT` when the user has too many keys, `EACCES` when the name is somebody else's, `ENOSYS` without key support.
pub fn new_session_keyring(name: Option<&CStr>) -> Result<()> {
    let pointer = name.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: the name is NUL-terminated and only read; null stands for none.
    let status = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, pointer) };
    if status >= 0 { Ok(()) } else { Err(last("keyctl", name.unwrap_or_default().to_string_lossy())) }
}

pub(crate) fn last(call: &'static str, object: impl std::fmt::Display) -> Error {
    let errno = std::io::Error::last_os_error().raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
    Error::new(call, object, errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threaded_process_is_never_cloned() {
        // The test harness runs tests in threads of their own.
        let refused = clone_process(&CloneArgs::default(), || 0).expect_err("more than one thread");
        assert_eq!(refused.errno(), Errno::AGAIN);
    }

    #[test]
    fn commands_refuse_nul() {
        assert!(Command::new(["a\0b"], []).is_err());
    }
}
