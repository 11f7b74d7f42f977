//! The system call filter of a process that reads a stream and makes files, and does nothing else.
//!
//! A list of what is allowed, because what is not thought of must be refused: no program can be executed, no process
//! made or traced, no socket, mount, key or BPF program, no device driven, and no memory made executable.

use crate::seccomp::Instruction;

/// What such a process calls: its streams and files, memory for the allocator, randomness for hash tables, its end.
const ALLOWED: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_pwrite64,
    libc::SYS_close,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_getdents64,
    libc::SYS_ftruncate,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_unlinkat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    SYS_FCHMODAT2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_fsetxattr,
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigreturn,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Allowed as long as the third argument, the protection, asks for no execution.
const OF_MEMORY: &[libc::c_long] = &[libc::SYS_mmap, libc::SYS_mprotect];

/// fchmodat2(2), kernel 6.6; the number is the same for every architecture.
pub(crate) const SYS_FCHMODAT2: libc::c_long = 452;

/// `AUDIT_ARCH_*` of this program (linux/audit.h).
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
/// `AUDIT_ARCH_*` of this program (linux/audit.h).
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

// Operations of classic BPF (linux/bpf_common.h) and offsets into `struct seccomp_data` (linux/seccomp.h).
const LOAD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_SET: u16 = 0x45;
const RETURN: u16 = 0x06;
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
/// The low half of the third argument; both architectures are little-endian.
const THIRD_ARGUMENT: u32 = 32;

/// The filter, for [`load_filter`](crate::seccomp::load_filter). A call that is not allowed fails with `ENOSYS`, so that
/// the C library falls back where it can; one of another architecture kills the process.
#[must_use]
pub fn filter() -> Vec<Instruction> {
    let step = |code, jt, jf, k| Instruction { code, jt, jf, k };
    let number = |call: libc::c_long| u32::try_from(call).unwrap_or(u32::MAX);
    // After the comparisons: refuse; the two steps for memory; refuse; allow.
    let total = ALLOWED.len() + OF_MEMORY.len();
    let distance = |from: usize, to: usize| u8::try_from(to - from - 1).unwrap_or(u8::MAX);
    let mut program = vec![
        step(LOAD, 0, 0, ARCHITECTURE),
        step(JUMP_IF_EQUAL, 1, 0, ARCH),
        step(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        step(LOAD, 0, 0, NUMBER),
    ];
    for (at, call) in ALLOWED.iter().enumerate() {
        program.push(step(JUMP_IF_EQUAL, distance(at, total + 4), 0, number(*call)));
    }
    for (at, call) in OF_MEMORY.iter().enumerate() {
        program.push(step(JUMP_IF_EQUAL, distance(ALLOWED.len() + at, total + 1), 0, number(*call)));
    }
    let refuse = |errno: i32| step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | errno.unsigned_abs());
    program.extend([
        refuse(libc::ENOSYS),
        step(LOAD, 0, 0, THIRD_ARGUMENT),
        step(JUMP_IF_SET, 0, 1, libc::PROT_EXEC.unsigned_abs()),
        refuse(libc::EACCES),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]);
    program
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::{FilterFlags, load_filter, set_no_new_privs};

    /// The errno of a call with these arguments, 0 when it succeeds.
    fn errno_of(call: libc::c_long, arguments: [usize; 4]) -> i32 {
        let [a, b, c, d] = arguments;
        // SAFETY: every call below is either refused by the filter or harmless with the arguments given to it.
        let value = unsafe { libc::syscall(call, a, b, c, d, usize::MAX, 0) };
        if value == -1 { std::io::Error::last_os_error().raw_os_error().unwrap_or(0) } else { 0 }
    }

    #[test]
    fn nothing_but_files_is_left() {
        let refused = [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_ptrace,
            libc::SYS_socket,
            libc::SYS_mount,
            libc::SYS_move_mount,
            libc::SYS_fsopen,
            libc::SYS_open_tree,
            libc::SYS_bpf,
            libc::SYS_keyctl,
            libc::SYS_add_key,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_chroot,
            libc::SYS_pivot_root,
            libc::SYS_ioctl,
            libc::SYS_io_uring_setup,
            libc::SYS_userfaultfd,
            libc::SYS_kill,
            libc::SYS_pidfd_open,
            libc::SYS_process_vm_writev,
            libc::SYS_open_by_handle_at,
            libc::SYS_init_module,
            libc::SYS_perf_event_open,
            libc::SYS_memfd_create,
            libc::SYS_setxattr,
            libc::SYS_prctl,
        ];
        let pages = |protection: i32| {
            let protection = usize::try_from(protection).expect("bits");
            let kind = usize::try_from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).expect("bits");
            errno_of(libc::SYS_mmap, [0, 4096, protection, kind])
        };
        let found = std::thread::spawn(move || {
            set_no_new_privs().expect("no_new_privs");
            assert!(load_filter(&filter(), FilterFlags::default()).expect("loaded").is_none());
            let refused = refused.map(|call| (call, errno_of(call, [0; 4])));
            let readable = pages(libc::PROT_READ | libc::PROT_WRITE);
            (refused, readable, pages(libc::PROT_READ | libc::PROT_EXEC), errno_of(libc::SYS_close, [9999, 0, 0, 0]))
        });
        let (refused, readable, executable, close) = found.join().expect("the thread lives");
        for (call, errno) in refused {
            assert_eq!(errno, libc::ENOSYS, "call {call}");
        }
        assert_eq!((readable, executable), (0, libc::EACCES));
        assert_eq!(close, libc::EBADF, "an allowed call reaches the kernel");
    }
}
