//! Where and how a process runs: scheduling policy, I/O priority, processors, memory nodes, execution domain.

use rustix::io::Errno;

use crate::error::{Error, Result};

/// How a process is scheduled (sched_setattr(2), kernel 3.14).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Nice value, for `SCHED_OTHER` and `SCHED_BATCH`.
    pub nice: i32,
    /// Static priority, for `SCHED_FIFO` and `SCHED_RR`.
    pub priority: u32,
    /// `SCHED_DEADLINE`: run time in nanoseconds.
    pub runtime: u64,
    /// `SCHED_DEADLINE`: deadline in nanoseconds.
    pub deadline: u64,
    /// `SCHED_DEADLINE`: period in nanoseconds.
    pub period: u64,
}

/// `struct sched_attr` in its first form (linux/sched/types.h).
#[repr(C)]
struct Raw {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

const _: () = assert!(size_of::<Raw>() == 48);

/// Sets how process `pid` is scheduled; 0 is the caller.
///
/// # Errors
/// sched_setattr(2)'s: `EPERM` without `CAP_SYS_NICE` for what needs it, `EINVAL` for attributes that make no sense,
/// `EBUSY` when the deadline cannot be admitted.
pub fn set_attributes(pid: u32, attributes: &Attributes) -> Result<()> {
    let Attributes { policy, flags, nice, priority, runtime, deadline, period } = *attributes;
    let raw = Raw { size: size_of::<Raw>() as u32, policy, flags, nice, priority, runtime, deadline, period };
    // SAFETY: `raw` has the layout of sched_attr and says its own size; the kernel only reads it.
    let status = unsafe { libc::syscall(libc::SYS_sched_setattr, pid, &raw const raw, 0 as libc::c_uint) };
    if status == 0 { Ok(()) } else { Err(last("sched_setattr", pid)) }
}

/// Sets the I/O priority of process `pid`; 0 is the caller. `class` is an `IOPRIO_CLASS_*`, `level` is 0 (highest) to 7.
///
/// # Errors
/// ioprio_set(2)'s: `EPERM` for the realtime class without `CAP_SYS_NICE`.
pub fn set_io_priority(pid: u32, class: u8, level: u8) -> Result<()> {
    /// `IOPRIO_WHO_PROCESS` (linux/ioprio.h).
    const PROCESS: libc::c_int = 1;
    let value = (libc::c_int::from(class) << 13) | libc::c_int::from(level);
    // SAFETY: ioprio_set takes three integers.
    let status = unsafe { libc::syscall(libc::SYS_ioprio_set, PROCESS, pid, value) };
    if status == 0 { Ok(()) } else { Err(last("ioprio_set", format!("class {class}, level {level}"))) }
}

/// Puts process `pid`, 0 being the caller, on the processors whose bits are set in `mask`, lowest first.
///
/// # Errors
/// `EINVAL` when none of them may be used.
pub fn set_affinity(pid: u32, mask: &[u64]) -> Result<()> {
    // SAFETY: the kernel reads as many bytes as the slice has.
    let status = unsafe { libc::syscall(libc::SYS_sched_setaffinity, pid, size_of_val(mask), mask.as_ptr()) };
    if status == 0 { Ok(()) } else { Err(last("sched_setaffinity", pid)) }
}

/// Sets the caller's memory policy: `mode` is an `MPOL_*` with its flags, `nodes` a mask of nodes, lowest first.
///
/// # Errors
/// set_mempolicy(2)'s: `EINVAL` for a mode, flags and nodes that do not go together and for nodes without memory.
pub fn set_memory_policy(mode: u32, nodes: &[u64]) -> Result<()> {
    let pointer = if nodes.is_empty() { std::ptr::null() } else { nodes.as_ptr() };
    // The kernel takes one bit less than it is told.
    let bits = if nodes.is_empty() { 0 } else { nodes.len() * 64 + 1 };
    // SAFETY: the kernel reads `bits - 1` bits, all of which are in the slice; null goes with none.
    let status = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, bits) };
    if status == 0 { Ok(()) } else { Err(last("set_mempolicy", format!("mode {mode:#x}"))) }
}

/// Sets the caller's execution domain (personality(2)).
///
/// # Errors
/// `EINVAL` for a domain the kernel does not know.
pub fn set_personality(domain: u32) -> Result<()> {
    // SAFETY: personality takes one integer and changes what later calls of this process mean only.
    let status = unsafe { libc::personality(libc::c_ulong::from(domain)) };
    if status >= 0 { Ok(()) } else { Err(last("personality", format!("{domain:#x}"))) }
}

fn last(call: &'static str, object: impl std::fmt::Display) -> Error {
    let errno = std::io::Error::last_os_error().raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
    Error::new(call, object, errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is set is the thread's own, so a thread is all that is changed.
    fn aside<T: Send + 'static>(action: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(action).join().expect("joined")
    }

    #[test]
    fn a_thread_is_scheduled_as_asked() {
        let stat = aside(|| {
            let batch = Attributes { policy: libc::SCHED_BATCH as u32, nice: 5, ..Attributes::default() };
            set_attributes(0, &batch).expect("allowed");
            std::fs::read_to_string("/proc/thread-self/stat").expect("readable")
        });
        let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
        assert_eq!((fields[16], fields[38]), ("5", "3"), "{stat}");
        let wrong = Attributes { policy: 99, ..Attributes::default() };
        assert_eq!(aside(move || set_attributes(0, &wrong)).expect_err("no policy").errno(), Errno::INVAL);
    }

    #[test]
    fn masks_reach_the_kernel_whole() {
        let allowed = aside(|| {
            // More words than the kernel has processors: what is beyond is ignored.
            let mut mask = [0; 64];
            mask[0] = 1;
            set_affinity(0, &mask).expect("processor 0");
            std::fs::read_to_string("/proc/thread-self/status").expect("readable")
        });
        assert!(allowed.lines().any(|line| line == "Cpus_allowed_list:\t0"), "{allowed}");
        assert_eq!(aside(|| set_affinity(0, &[0])).expect_err("none").errno(), Errno::INVAL);
        // MPOL_BIND to node 0, by a mask of 1024 bits; to none; MPOL_DEFAULT.
        let mut nodes = [0; 16];
        nodes[0] = 1;
        assert_eq!(aside(move || set_memory_policy(2, &nodes)), Ok(()));
        assert_eq!(aside(|| set_memory_policy(2, &[])).expect_err("no node").errno(), Errno::INVAL);
        assert_eq!(aside(|| set_memory_policy(0, &[])), Ok(()));
    }

    #[test]
    fn io_priority_and_domain_are_set() {
        assert_eq!(aside(|| set_io_priority(0, 3, 0)), Ok(()));
        assert_eq!(aside(|| set_io_priority(0, 7, 0)).expect_err("no class").errno(), Errno::INVAL);
        let domain = aside(|| {
            set_personality(8).expect("LINUX32");
            std::fs::read_to_string("/proc/thread-self/personality").expect("readable")
        });
        assert_eq!(domain.trim(), "00000008");
    }
}
