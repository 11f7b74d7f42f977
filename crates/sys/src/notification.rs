//! The agent's side of seccomp(2)'s `SECCOMP_RET_USER_NOTIF` (kernel 5.0): calls that wait for an answer.

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::process::last;

/// `SECCOMP_IOCTL_NOTIF_RECV` and `SECCOMP_IOCTL_NOTIF_SEND` (linux/seccomp.h): `_IOWR('!', n, struct …)`.
const RECEIVE: libc::Ioctl = request(0, size_of::<libc::seccomp_notif>());
const SEND: libc::Ioctl = request(1, size_of::<libc::seccomp_notif_resp>());

#[expect(clippy::cast_possible_truncation, reason = "the structures are 80 and 24 bytes")]
const fn request(number: u32, size: usize) -> libc::Ioctl {
    ((3 << 30) | ((size as u32) << 16) | ((b'!' as u32) << 8) | number) as libc::Ioctl
}

/// A system call that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Names it in the answer.
    pub id: u64,
    /// The thread, as the agent's pid namespace numbers it; 0 when it is not in there.
    pub pid: u32,
    /// Number of the call, in the caller's architecture.
    pub call: i32,
    /// `AUDIT_ARCH_…`.
    pub architecture: u32,
    /// The call's arguments. Memory they point to can change at any time.
    pub arguments: [u64; 6],
}

/// What a waiting call gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This value.
    Value(i64),
    /// This error.
    Error(Errno),
    /// What the kernel says: the call is made (5.5). It may be another one by then, so this is no permission.
    Continue,
}

/// The next call that waits; blocks until there is one.
///
/// # Errors
/// `ENOENT` when the caller was killed meanwhile: there may be others.
pub fn receive(listener: impl AsFd) -> Result<Notification> {
    let data = libc::seccomp_data { nr: 0, arch: 0, instruction_pointer: 0, args: [0; 6] };
    // The kernel insists on zeros.
    let mut notice = libc::seccomp_notif { id: 0, pid: 0, flags: 0, data };
    loop {
        // SAFETY: the request's size is the structure's, which lives across the call.
        let status = unsafe { libc::ioctl(listener.as_fd().as_raw_fd(), RECEIVE, &raw mut notice) };
        if status == 0 {
            let data = notice.data;
            return Ok(Notification {
                id: notice.id,
                pid: notice.pid,
                call: data.nr,
                architecture: data.arch,
                arguments: data.args,
            });
        }
        let error = last("ioctl", "SECCOMP_IOCTL_NOTIF_RECV");
        if error.errno() != Errno::INTR {
            return Err(error);
        }
    }
}

/// Lets the call `id` go on.
///
/// # Errors
/// `ENOENT` when nobody waits for the answer any more.
pub fn answer(listener: impl AsFd, id: u64, verdict: Verdict) -> Result<()> {
    let (val, error, flags) = match verdict {
        Verdict::Value(value) => (value, 0, 0),
        Verdict::Error(errno) => (0, -errno.raw_os_error(), 0),
        Verdict::Continue => (0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE),
    };
    let flags = u32::try_from(flags).map_err(|_| Error::new("ioctl", "SECCOMP_IOCTL_NOTIF_SEND", Errno::INVAL))?;
    let mut response = libc::seccomp_notif_resp { id, val, error, flags };
    // SAFETY: the request's size is the structure's, which lives across the call.
    let status = unsafe { libc::ioctl(listener.as_fd().as_raw_fd(), SEND, &raw mut response) };
    if status == 0 { Ok(()) } else { Err(last("ioctl", "SECCOMP_IOCTL_NOTIF_SEND")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::{FilterFlags, Instruction, load_filter, set_no_new_privs};

    #[test]
    fn an_agent_answers() {
        let number = u32::try_from(libc::SYS_getppid).expect("small");
        let step = |code: u16, jt: u8, jf: u8, k: u32| Instruction { code, jt, jf, k };
        let program = [
            step(0x20, 0, 0, 0),
            step(0x15, 0, 1, number),
            step(0x06, 0, 0, libc::SECCOMP_RET_USER_NOTIF),
            step(0x06, 0, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let (give, take) = std::sync::mpsc::channel();
        let caller = std::thread::spawn(move || {
            set_no_new_privs().expect("no_new_privs");
            let listener = load_filter(&program, FilterFlags::NEW_LISTENER).expect("loaded").expect("a listener");
            give.send(listener).expect("the agent waits");
            let getppid = || {
                // SAFETY: getppid takes nothing and changes nothing.
                let value = unsafe { libc::syscall(libc::SYS_getppid) };
                (value, std::io::Error::last_os_error().raw_os_error())
            };
            (getppid().0, getppid(), getppid().0)
        });
        let listener = take.recv().expect("given");
        for verdict in [Verdict::Value(5), Verdict::Error(Errno::NODEV), Verdict::Continue] {
            let notice = receive(&listener).expect("a call");
            assert_eq!(notice.call, i32::try_from(number).expect("small"));
            answer(&listener, notice.id, verdict).expect("answered");
        }
        let (value, error, real) = caller.join().expect("ended");
        assert_eq!((value, error), (5, (-1, Some(libc::ENODEV))));
        assert!(real > 0);
        assert_eq!(answer(&listener, 1, Verdict::Continue).expect_err("nobody waits").errno(), Errno::NOENT);
    }
}
