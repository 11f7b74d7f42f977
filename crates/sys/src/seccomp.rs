//! System call filters: seccomp(2) and `no_new_privs`.

use std::ops::{BitAnd, BitOr, BitOrAssign};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::io::Errno;

use crate::{Context, Error, Result};

/// Longest filter the kernel takes, in instructions (`BPF_MAXINSNS`, linux/bpf_common.h).
pub const MAX_INSTRUCTIONS: usize = 4096;

/// One instruction of classic BPF (`struct sock_filter`, linux/filter.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions skipped when a comparison holds.
    pub jt: u8,
    /// Instructions skipped when it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

const _: () = assert!(size_of::<Instruction>() == size_of::<libc::sock_filter>());
const _: () = assert!(align_of::<Instruction>() == align_of::<libc::sock_filter>());

/// Flags of `SECCOMP_SET_MODE_FILTER` (linux/seccomp.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FilterFlags(u32);

impl FilterFlags {
    /// Every thread of the process gets the filter (3.17).
    pub const TSYNC: Self = Self(1 << 0);
    /// Actions other than allow are logged (4.14).
    pub const LOG: Self = Self(1 << 1);
    /// Speculative store bypass is not mitigated because of this filter (4.17).
    pub const SPEC_ALLOW: Self = Self(1 << 2);
    /// The call returns a notification descriptor (5.0).
    pub const NEW_LISTENER: Self = Self(1 << 3);
    /// A thread that cannot be synchronised is `ESRCH`, not its id (5.7); needed for TSYNC with NEW_LISTENER.
    pub const TSYNC_ESRCH: Self = Self(1 << 4);
    /// A notified caller that the agent has received waits killably (5.19); needs NEW_LISTENER.
    pub const WAIT_KILLABLE_RECV: Self = Self(1 << 5);

    const KNOWN: u32 = (1 << 6) - 1;

    /// The flags' value as the kernel takes it.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Flags from a value; none when a bit is not known here.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Option<Self> {
        if bits & !Self::KNOWN == 0 { Some(Self(bits)) } else { None }
    }

    /// Whether all of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These flags less `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl BitOr for FilterFlags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for FilterFlags {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl BitAnd for FilterFlags {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// Puts the calling thread (with TSYNC the whole process) under `program`, for good.
///
/// Gives the notification descriptor when `flags` has NEW_LISTENER. Needs `no_new_privs` or `CAP_SYS_ADMIN` in the
/// thread's user namespace. Allocates nothing unless it fails.
///
/// # Errors
/// `EINVAL` for an empty, too long or malformed program or an unknown flag, `EACCES` without the right to load,
/// `EBUSY` when a filter with a listener exists already, `ESRCH` when another thread could not be synchronised.
pub fn load_filter(program: &[Instruction], flags: FilterFlags) -> Result<Option<OwnedFd>> {
    let too_long = || Error::new("seccomp", format_args!("filter of {} instructions", program.len()), Errno::INVAL);
    if program.len() > MAX_INSTRUCTIONS {
        return Err(too_long());
    }
    let len = libc::c_ushort::try_from(program.len()).map_err(|_| too_long())?;
    let filter = libc::sock_fprog { len, filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut() };
    let value = seccomp(libc::SECCOMP_SET_MODE_FILTER, flags.bits(), ptr::from_ref(&filter).cast())
        .at("seccomp", "SECCOMP_SET_MODE_FILTER")?;
    if flags.contains(FilterFlags::NEW_LISTENER) {
        let fd = RawFd::try_from(value).map_err(|_| Error::new("seccomp", "listener", Errno::BADF))?;
        // SAFETY: with NEW_LISTENER the kernel returned a descriptor it just made for this call, close-on-exec.
        return Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }));
    }
    if value != 0 {
        return Err(Error::new("seccomp", format_args!("thread {value}"), Errno::SRCH));
    }
    Ok(None)
}

/// Whether the kernel knows a filter's return action, for instance `SECCOMP_RET_USER_NOTIF` (the probe is of 4.14).
///
/// # Errors
/// `EINVAL` when the kernel has no such probe.
pub fn action_available(action: u32) -> Result<bool> {
    match seccomp(libc::SECCOMP_GET_ACTION_AVAIL, 0, ptr::from_ref(&action).cast()) {
        Ok(_) => Ok(true),
        Err(Errno::OPNOTSUPP) => Ok(false),
        Err(errno) => Err(errno).at("seccomp", "SECCOMP_GET_ACTION_AVAIL"),
    }
}

/// Whether the kernel takes this combination of flags. Changes nothing: the filter offered has no address.
///
/// # Errors
/// `ENOSYS` and whatever else keeps seccomp(2) from being called.
pub fn flags_supported(flags: FilterFlags) -> Result<bool> {
    match seccomp(libc::SECCOMP_SET_MODE_FILTER, flags.bits(), ptr::null()) {
        // Flags are checked before the filter is read.
        Ok(_) | Err(Errno::FAULT) => Ok(true),
        Err(Errno::INVAL) => Ok(false),
        Err(errno) => Err(errno).at("seccomp", "SECCOMP_SET_MODE_FILTER"),
    }
}

/// Promises that no execve(2) of this thread or its children grants privileges (3.5). Cannot be taken back.
///
/// # Errors
/// Whatever prctl(2) says.
pub fn set_no_new_privs() -> Result<()> {
    rustix::thread::set_no_new_privs(true).at("prctl", "PR_SET_NO_NEW_PRIVS")
}

/// Whether the calling thread made that promise.
///
/// # Errors
/// Whatever prctl(2) says.
pub fn no_new_privs() -> Result<bool> {
    rustix::thread::no_new_privs().at("prctl", "PR_GET_NO_NEW_PRIVS")
}

fn seccomp(operation: libc::c_uint, flags: u32, argument: *const libc::c_void) -> Result<libc::c_long, Errno> {
    // SAFETY: the kernel only reads through `argument`, which is null or points to what `operation` asks for (a u32, or
    // a sock_fprog whose instructions outlive the call).
    let value = unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, argument) };
    if value == -1 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

    fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
        Instruction { code, jt, jf, k }
    }

    #[test]
    fn a_thread_alone_is_filtered() {
        // getppid answers ENOTTY, which it never does by itself.
        let number = u32::try_from(libc::SYS_getppid).expect("small");
        let program = [
            instruction(0x20, 0, 0, 0),
            instruction(0x15, 0, 1, number),
            instruction(0x06, 0, 0, libc::SECCOMP_RET_ERRNO | 25),
            instruction(0x06, 0, 0, ALLOW),
        ];
        let getppid = || {
            // SAFETY: getppid takes nothing and changes nothing.
            let value = unsafe { libc::syscall(libc::SYS_getppid) };
            (value, std::io::Error::last_os_error().raw_os_error())
        };
        let inside = std::thread::spawn(move || {
            set_no_new_privs().expect("no_new_privs");
            assert_eq!(no_new_privs(), Ok(true));
            assert!(load_filter(&program, FilterFlags::default()).expect("loaded").is_none());
            getppid()
        });
        assert_eq!(inside.join().expect("joined"), (-1, Some(libc::ENOTTY)));
        assert!(getppid().0 > 0);
    }

    #[test]
    fn a_listener_is_given() {
        let program = [instruction(0x06, 0, 0, ALLOW)];
        let listener = std::thread::spawn(move || {
            set_no_new_privs().expect("no_new_privs");
            load_filter(&program, FilterFlags::NEW_LISTENER)
        });
        let listener = listener.join().expect("joined").expect("loaded").expect("listener");
        let flags = rustix::io::fcntl_getfd(&listener).expect("open");
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }

    #[test]
    fn malformed_programs_are_refused() {
        assert_eq!(load_filter(&[], FilterFlags::default()).expect_err("empty").errno(), Errno::INVAL);
        let endless = vec![instruction(0x06, 0, 0, ALLOW); MAX_INSTRUCTIONS + 1];
        assert_eq!(load_filter(&endless, FilterFlags::default()).expect_err("long").errno(), Errno::INVAL);
        let no_return = [instruction(0x20, 0, 0, 0)];
        let refused = std::thread::spawn(move || {
            set_no_new_privs().expect("no_new_privs");
            load_filter(&no_return, FilterFlags::default())
        });
        assert_eq!(refused.join().expect("joined").expect_err("no return").errno(), Errno::INVAL);
    }

    #[test]
    fn probes_answer() {
        assert_eq!(action_available(ALLOW), Ok(true));
        assert_eq!(action_available(0x1234_0000), Ok(false));
        assert_eq!(flags_supported(FilterFlags::TSYNC | FilterFlags::LOG), Ok(true));
        assert_eq!(flags_supported(FilterFlags(1 << 30)), Ok(false));
        assert_eq!(FilterFlags::from_bits(1 << 30), None);
        assert_eq!(FilterFlags::from_bits(3), Some(FilterFlags::TSYNC | FilterFlags::LOG));
    }
}
