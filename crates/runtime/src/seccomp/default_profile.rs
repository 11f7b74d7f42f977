//! The filter a container gets when its user names none.
//!
//! What is not listed is refused with EPERM, as Docker has it (its profile of 2026-06 is what this list was checked
//! against), so that images behave alike under both. Where we differ:
//!
//! - x32 is off: no distribution uses it, and it doubles the ways to reach the kernel.
//! - Without `CAP_AUDIT_WRITE` an audit socket is refused with EINVAL, which sshd, login and sudo take as "no auditing
//!   here" and go on, where EPERM makes them give up.
//! - Calls newer than the newest one named here get ENOSYS, by the rule for all profiles.
//!
//! What stays open: a 32-bit program can make any socket by socketcall(2), whose arguments a filter cannot see. Most
//! 32-bit programs in images need that call.
//!
//! Absent on purpose, whatever the capabilities: io_uring (its operations pass the filter by), keyrings (not
//! namespaced), userfaultfd (stretches races in the kernel), pivot_root, swap, kexec, obsolete calls.

use oci::runtime::{LinuxSeccomp, LinuxSeccompArg, LinuxSyscall};

use super::abi::Machine;
use crate::capability::{Capability, CapabilitySet};

/// To be raised whenever the profile changes; part of the default's cache key.
pub(super) const VERSION: u32 = 1;

const EINVAL: u32 = 22;
const ENOSYS: u32 = 38;
const EPERM: u32 = 1;

const AF_NETLINK: u64 = 16;
const NETLINK_AUDIT: u64 = 9;
/// The first address family beyond the unbroken run that is allowed: AF_DECnet, gone since 6.1.
const AF_DECNET: u64 = 12;

/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET (linux/sched.h). NEWTIME is clone3's only.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

/// Allowed to every container: names, apart by white space.
const ALWAYS: [&str; 15] = [
    // Files by name or descriptor: permissions decide, within the container's own mounts.
    "access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 \
     fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 \
     fdatasync flock fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futimesat getcwd getdents \
     getdents64 ioctl lchown lchown32 link linkat _llseek lseek lstat lstat64 mkdir mkdirat mknod mknodat \
     name_to_handle_at newfstatat open openat openat2 readlink readlinkat rename renameat renameat2 rmdir stat \
     stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range syncfs truncate truncate64 umask unlink \
     unlinkat utime utimensat utimensat_time64 utimes",
    // Reading, writing and moving bytes.
    "pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readv sendfile sendfile64 splice tee \
     vmsplice write writev",
    // Extended attributes: permissions and namespaces of names decide.
    "fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr listxattrat llistxattr \
     lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat",
    // Watching descriptors and files. fanotify_mark is of use only with a group, which fanotify_init makes.
    "cachestat epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old \
     eventfd eventfd2 fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch _newselect poll \
     ppoll ppoll_time64 pselect6 pselect6_time64 select signalfd signalfd4 timerfd_create timerfd_gettime \
     timerfd_gettime64 timerfd_settime timerfd_settime64",
    // The older asynchronous I/O, which databases need where io_uring is off.
    "io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioprio_get ioprio_set",
    // Memory of the process itself.
    "brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mmap2 \
     mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect remap_file_pages",
    // Processes and threads. clone has rules of its own.
    "execve execveat exit exit_group fork futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake \
     get_robust_list get_thread_area getcpu getpgid getpgrp getpid getppid getpriority getrlimit getrusage getsid \
     gettid pause pidfd_open pidfd_send_signal prctl prlimit64 process_mrelease restart_syscall rseq set_robust_list \
     set_thread_area set_tid_address setpgid setpriority setrlimit setsid sysinfo times ugetrlimit uname vfork wait4 \
     waitid waitpid",
    // Who a process is: capabilities decide.
    "capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getresgid getresgid32 \
     getresuid getresuid32 getuid getuid32 setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups \
     setgroups32 setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setuid setuid32",
    // Signals.
    "kill rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait \
     rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack sigprocmask sigreturn tgkill tkill",
    // Scheduling: capabilities and limits decide.
    "sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler \
     sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam \
     sched_setscheduler sched_yield",
    // Time. Adjusting a clock is refused by capability; reading how it is adjusted is not.
    "adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 \
     clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time timer_create \
     timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64",
    // Sockets that exist; making one has rules of its own. socketcall: see the module's head.
    "accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmmsg_time64 \
     recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair",
    // System V IPC and message queues: the container's own by its IPC namespace.
    "ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 \
     mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt \
     shmget",
    // Restricting oneself further, and looking at one's own mounts.
    "landlock_add_rule landlock_create_ruleset landlock_restrict_self listmount seccomp statmount",
    // Randomness, and what the kernel has a traced program call on its behalf.
    "getrandom uprobe uretprobe",
];

/// Allowed from this kernel on: before 4.8 a tracer could change a call after the filter had seen it.
const TRACING: &str = "process_vm_readv process_vm_writev ptrace";
const TRACING_KERNEL: (u32, u32) = (4, 8);

/// Allowed on x86: thread-local storage, and segments for Wine and old languages.
const X86_ONLY: &str = "arch_prctl modify_ldt";
/// Allowed on arm: what it has instead of other calls.
const ARM_ONLY: &str = "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2";

/// Allowed with a capability that is worthless without them. Without it the kernel would refuse nearly all of them
/// anyway; the filter keeps their code out of reach.
const WITH: [(Capability, &str); 14] = [
    (Capability::DacReadSearch, "open_by_handle_at"),
    (
        Capability::SysAdmin,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr \
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree open_tree_attr perf_event_open \
         quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    (Capability::SysBoot, "reboot"),
    (Capability::SysChroot, "chroot"),
    (Capability::SysModule, "delete_module finit_module init_module"),
    (Capability::SysPacct, "acct"),
    (Capability::SysPtrace, "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    (Capability::SysRawio, "ioperm iopl"),
    (Capability::SysTime, "clock_settime clock_settime64 settimeofday stime"),
    (Capability::SysTtyConfig, "vhangup"),
    (Capability::SysNice, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    (Capability::Syslog, "syslog"),
    (Capability::Bpf, "bpf"),
    (Capability::Perfmon, "perf_event_open"),
];

/// Execution domains that only change what uname(2) says: PER_LINUX, PER_LINUX32, UNAME26 and both; and the query.
/// Others switch address randomisation off.
const PERSONALITIES: [u64; 5] = [0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Address families above AF_DECNET, AF_NETLINK aside, that may be had. Left out are those the kernel gave up (ECONET
/// 19, ATMSVC 20, IRDA 23, WANPIPE 25, ISDN 34, CAIF 37), AF_ALG (38: the kernel's cryptography, CVE-2026-31431) and
/// AF_VSOCK (40: not namespaced by default, reaches the hypervisor).
const FAMILIES: [u64; 24] =
    [13, 14, 15, 17, 18, 21, 22, 24, 26, 27, 28, 29, 30, 31, 32, 33, 35, 36, 39, 41, 42, 43, 44, 45];

fn allow<'a>(names: impl Iterator<Item = &'a str>) -> LinuxSyscall {
    LinuxSyscall {
        names: names.map(str::to_owned).collect(),
        action: "SCMP_ACT_ALLOW".to_owned(),
        ..LinuxSyscall::default()
    }
}

fn allow_if(name: &str, args: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    LinuxSyscall { args, ..allow(std::iter::once(name)) }
}

fn refuse(name: &str, errno: u32, args: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    LinuxSyscall { names: vec![name.to_owned()], action: "SCMP_ACT_ERRNO".to_owned(), errno_ret: Some(errno), args }
}

fn compare(index: u32, op: &str, value: u64) -> LinuxSeccompArg {
    LinuxSeccompArg { index, value, value_two: 0, op: format!("SCMP_CMP_{op}") }
}

/// The default profile for a container with `bounding` as its bounding set, on Linux `kernel` (version, patch level).
#[must_use]
pub fn default_profile(bounding: CapabilitySet, kernel: (u32, u32)) -> LinuxSeccomp {
    let mut syscalls = vec![allow(ALWAYS.into_iter().flat_map(str::split_whitespace))];
    if kernel >= TRACING_KERNEL {
        syscalls.push(allow(TRACING.split_whitespace()));
    }
    let architectures = match Machine::NATIVE {
        Machine::X86_64 => {
            syscalls.push(allow(X86_ONLY.split_whitespace()));
            ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
        }
        Machine::Aarch64 => {
            syscalls.push(allow(ARM_ONLY.split_whitespace()));
            ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
        }
    };
    for (capability, names) in WITH {
        if bounding.contains(capability) {
            syscalls.push(allow(names.split_whitespace()));
        }
    }
    if !bounding.contains(Capability::SysAdmin) {
        syscalls.push(allow_if("clone", vec![compare(0, "MASKED_EQ", CLONE_NAMESPACES)]));
        // Its flags are in memory, out of a filter's sight; C libraries fall back to clone on ENOSYS only.
        syscalls.push(refuse("clone3", ENOSYS, Vec::new()));
    }
    syscalls.extend(PERSONALITIES.map(|value| allow_if("personality", vec![compare(0, "EQ", value)])));
    socket_rules(&mut syscalls, bounding);
    LinuxSeccomp {
        default_action: "SCMP_ACT_ERRNO".to_owned(),
        default_errno_ret: Some(EPERM),
        architectures: architectures.map(str::to_owned).to_vec(),
        syscalls,
        ..LinuxSeccomp::default()
    }
}

/// The rules for socket(2) do not overlap, so that any runtime reads them alike.
fn socket_rules(syscalls: &mut Vec<LinuxSyscall>, bounding: CapabilitySet) {
    syscalls.push(allow_if("socket", vec![compare(0, "LT", AF_DECNET)]));
    syscalls.extend(FAMILIES.map(|family| allow_if("socket", vec![compare(0, "EQ", family)])));
    if bounding.contains(Capability::AuditWrite) {
        syscalls.push(allow_if("socket", vec![compare(0, "EQ", AF_NETLINK)]));
    } else {
        let netlink = |op| vec![compare(0, "EQ", AF_NETLINK), compare(2, op, NETLINK_AUDIT)];
        syscalls.push(allow_if("socket", netlink("NE")));
        syscalls.push(refuse("socket", EINVAL, netlink("EQ")));
    }
}

#[cfg(test)]
mod tests {
    use super::super::abi::Abi;
    use super::super::calls::Call;
    use super::super::model::{Data, interpret, reference};
    use super::super::{Program, compile_for};
    use super::*;

    const ALLOWED: u32 = 0x7fff_0000;
    const KERNEL: (u32, u32) = (6, 18);

    fn errno(errno: u32) -> u32 {
        0x0005_0000 + errno
    }

    fn compiled(bounding: CapabilitySet, kernel: (u32, u32)) -> Program {
        compile_for(Machine::X86_64, &default_profile(bounding, kernel)).expect("valid")
    }

    fn outcome(program: &Program, abi: Abi, name: &str, arguments: [u64; 6]) -> u32 {
        let number = Call::named(name).and_then(|call| call.number(abi)).expect("exists");
        let data = Data { number, architecture: abi.audit_arch(), arguments };
        interpret(program.instructions(), &data).value
    }

    fn plain(program: &Program, name: &str) -> u32 {
        outcome(program, Abi::X86_64, name, [0; 6])
    }

    #[test]
    fn ordinary_calls_are_allowed_without_a_look_at_arguments() {
        let program = compiled(CapabilitySet::DEFAULT, KERNEL);
        for abi in [Abi::X86_64, Abi::X86] {
            let exist =
                ALWAYS.into_iter().flat_map(str::split_whitespace).filter_map(|name| Call::named(name)?.number(abi));
            for number in exist {
                let data = Data { number, architecture: abi.audit_arch(), arguments: [u64::MAX; 6] };
                let outcome = interpret(program.instructions(), &data);
                assert_eq!((outcome.value, outcome.looked_at_arguments), (ALLOWED, false), "{number} of {abi:?}");
            }
        }
    }

    #[test]
    fn the_kernels_dangerous_corners_are_refused() {
        let program = compiled(CapabilitySet::DEFAULT, KERNEL);
        let refused = "io_uring_setup io_uring_enter io_uring_register add_key request_key keyctl userfaultfd \
             open_by_handle_at mount umount2 fsopen open_tree move_mount setns unshare pivot_root bpf \
             perf_event_open kexec_load kexec_file_load init_module reboot swapon settimeofday acct iopl quotactl \
             uselib migrate_pages move_pages process_madvise pidfd_getfd kcmp mbind fanotify_init sethostname \
             syslog";
        for name in refused.split_whitespace() {
            assert_eq!(plain(&program, name), errno(EPERM), "{name}");
        }
    }

    #[test]
    fn new_namespaces_need_sys_admin() {
        let without = compiled(CapabilitySet::DEFAULT, KERNEL);
        let clone = |program, flags| outcome(program, Abi::X86_64, "clone", [flags, 0, 0, 0, 0, 0]);
        assert_eq!(clone(&without, 0x003d_0f00), ALLOWED);
        for namespace in [0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000] {
            assert_eq!(clone(&without, namespace | 17), errno(EPERM), "{namespace:#x}");
        }
        assert_eq!(plain(&without, "clone3"), errno(ENOSYS));
        let with = compiled(CapabilitySet::ALL, KERNEL);
        assert_eq!(clone(&with, 0x1000_0000), ALLOWED);
        for name in ["clone3", "mount", "unshare", "setns", "bpf", "open_by_handle_at"] {
            assert_eq!(plain(&with, name), ALLOWED, "{name}");
        }
        assert_eq!(plain(&with, "io_uring_setup"), errno(EPERM));
        assert_eq!(plain(&with, "keyctl"), errno(EPERM));
    }

    #[test]
    fn sockets_by_family() {
        let program = compiled(CapabilitySet::DEFAULT, KERNEL);
        for abi in [Abi::X86_64, Abi::X86] {
            let socket = |family, protocol| outcome(&program, abi, "socket", [family, 3, protocol, 0, 0, 0]);
            for family in (0..12).chain(FAMILIES).chain([16]) {
                assert_eq!(socket(family, 0), ALLOWED, "{family}");
            }
            for family in [12, 19, 20, 23, 25, 34, 37, 38, 40, 46, 1000, 0xffff_ffff] {
                assert_eq!(socket(family, 0), errno(EPERM), "{family}");
            }
            assert_eq!(socket(AF_NETLINK, NETLINK_AUDIT), errno(EINVAL));
            let with = compiled(CapabilitySet::of(&[Capability::AuditWrite]), KERNEL);
            assert_eq!(outcome(&with, abi, "socket", [AF_NETLINK, 3, NETLINK_AUDIT, 0, 0, 0]), ALLOWED);
        }
        // The upper half of a 64-bit register does not smuggle a family past.
        assert_eq!(outcome(&program, Abi::X86_64, "socket", [1 << 32 | 38, 3, 0, 0, 0, 0]), errno(EPERM));
        assert_eq!(outcome(&program, Abi::X86, "socketcall", [1, 0, 0, 0, 0, 0]), ALLOWED);
    }

    #[test]
    fn numbers_nobody_judged() {
        let program = compiled(CapabilitySet::DEFAULT, KERNEL);
        let of = |architecture, number| {
            interpret(program.instructions(), &Data { number, architecture, arguments: [0; 6] }).value
        };
        for abi in [Abi::X86_64, Abi::X86] {
            assert_eq!(of(abi.audit_arch(), 466), ALLOWED);
            for number in [467, 471, 512, 547, 5000, 0x3fff_ffff] {
                assert_eq!(of(abi.audit_arch(), number), errno(ENOSYS), "{number}");
            }
        }
        // x32 and foreign architectures.
        assert_eq!(of(Abi::X32.audit_arch(), 0x4000_0000), 0);
        assert_eq!(of(Abi::X32.audit_arch(), 0x4000_0000 | 520), 0);
        assert_eq!(of(Abi::Aarch64.audit_arch(), 63), 0);
        assert_eq!(of(Abi::X86_64.audit_arch(), u32::MAX), errno(EPERM));
    }

    #[test]
    fn single_capabilities_and_old_kernels() {
        for (capability, names) in WITH {
            let program = compiled(CapabilitySet::of(&[capability]), KERNEL);
            let exist = |name: &&str| Call::named(name).is_some_and(|c| c.number(Abi::X86_64).is_some());
            for name in names.split_whitespace().filter(exist) {
                assert_eq!(plain(&program, name), ALLOWED, "{name}");
            }
        }
        assert_eq!(plain(&compiled(CapabilitySet::EMPTY, (4, 8)), "ptrace"), ALLOWED);
        assert_eq!(plain(&compiled(CapabilitySet::EMPTY, (4, 7)), "ptrace"), errno(EPERM));
        let tracer = CapabilitySet::of(&[Capability::SysPtrace]);
        assert_eq!(plain(&compiled(tracer, (4, 7)), "ptrace"), ALLOWED);
        let program = compiled(CapabilitySet::EMPTY, KERNEL);
        let personality = |value| outcome(&program, Abi::X86_64, "personality", [value, 0, 0, 0, 0, 0]);
        assert!(PERSONALITIES.into_iter().all(|value| personality(value) == ALLOWED));
        // ADDR_NO_RANDOMIZE.
        assert_eq!(personality(0x004_0000), errno(EPERM));
    }

    #[test]
    fn every_number_is_as_the_model_has_it() {
        for bounding in [CapabilitySet::DEFAULT, CapabilitySet::EMPTY, CapabilitySet::ALL] {
            let profile = default_profile(bounding, KERNEL);
            let program = compile_for(Machine::X86_64, &profile).expect("valid");
            for abi in [Abi::X86_64, Abi::X86, Abi::X32] {
                for number in (0..600).map(|number| number | abi.number_bit()) {
                    for first in [0, 1, 16, 38, 0x1000_0000] {
                        let arguments = [first, 0, 9, 0, 0, 0];
                        let data = Data { number, architecture: abi.audit_arch(), arguments };
                        let value = interpret(program.instructions(), &data).value;
                        assert_eq!(value, reference(Machine::X86_64, &profile, &data), "{data:?}");
                    }
                }
            }
        }
    }

    /// A stored program outlives the program that compiled it: when this fails because the compiler or the profile was
    /// changed on purpose, raise `VERSION` here or `COMPILER_VERSION` in `cache`, then write the new digest down.
    #[test]
    fn a_change_of_the_program_needs_a_new_version() {
        let program = compiled(CapabilitySet::DEFAULT, KERNEL);
        let text = format!("{:?}", program.instructions());
        assert_eq!(oci::Digest::sha256_of(text.as_bytes()).short(), "777214f27a5e");
    }
}
