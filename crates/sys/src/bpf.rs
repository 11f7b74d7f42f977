//! bpf(2), as far as device control on cgroup v2 needs it: loading a `BPF_PROG_TYPE_CGROUP_DEVICE` program, and
//! attaching, replacing, listing and detaching such programs on a cgroup. Needs Linux 4.15 (`BPF_F_REPLACE`: 5.6).
#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper in rustix")]

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::{Context, Result};

const PROG_LOAD: u32 = 5;
const PROG_ATTACH: u32 = 8;
const PROG_DETACH: u32 = 9;
const PROG_GET_FD_BY_ID: u32 = 13;
const PROG_QUERY: u32 = 16;

const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 1 << 1;
const REPLACE: u32 = 1 << 2;

/// The kernel's own bound on programs attached to one cgroup (`BPF_CGROUP_MAX_PROGS`).
const MAX_PROGS: usize = 64;

/// One instruction of the kernel's virtual machine (`struct bpf_insn`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Insn {
    /// Operation: class, size or source, and code.
    pub code: u8,
    registers: u8,
    /// Offset of a jump, in instructions after this one, or of a memory access, in bytes.
    pub off: i16,
    /// Immediate operand.
    pub imm: i32,
}

impl Insn {
    /// An instruction with the registers `dst` and `src` (0 to 10; only the low four bits count).
    #[must_use]
    pub const fn new(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Self {
        let (dst, src) = (dst & 0xf, src & 0xf);
        // C bit fields: the first one takes the low bits on little-endian machines and the high bits on big-endian.
        let registers = if cfg!(target_endian = "little") { src << 4 | dst } else { dst << 4 | src };
        Self { code, registers, off, imm }
    }

    /// The destination register.
    #[must_use]
    pub const fn dst(self) -> u8 {
        if cfg!(target_endian = "little") { self.registers & 0xf } else { self.registers >> 4 }
    }

    /// The source register.
    #[must_use]
    pub const fn src(self) -> u8 {
        if cfg!(target_endian = "little") { self.registers >> 4 } else { self.registers & 0xf }
    }
}

/// The head of `union bpf_attr` for `BPF_PROG_LOAD`, to the end of `prog_name` (Linux 4.15).
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

/// `union bpf_attr` for `BPF_PROG_ATTACH` and `BPF_PROG_DETACH`.
#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

/// `union bpf_attr` for `BPF_PROG_GET_FD_BY_ID`.
#[repr(C)]
#[derive(Default)]
struct GetFdAttr {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// The head of `union bpf_attr` for `BPF_PROG_QUERY`.
#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    pad: u32,
}

fn bpf<T>(command: u32, attr: &mut T) -> Result<i32, Errno> {
    // SAFETY: `attr` is an exclusively borrowed, fully initialised prefix of `union bpf_attr` and its true size is
    // given; the pointers inside it were made by the callers from buffers that outlive the call, with their lengths.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 {
        let errno = std::io::Error::last_os_error().raw_os_error();
        return Err(errno.map_or(Errno::IO, Errno::from_raw_os_error));
    }
    i32::try_from(result).map_err(|_| Errno::OVERFLOW)
}

fn raw(fd: &impl AsFd) -> u32 {
    // A borrowed descriptor is never negative.
    fd.as_fd().as_raw_fd().cast_unsigned()
}

/// Takes ownership of the descriptor a successful bpf(2) returned; the kernel makes them close-on-exec.
fn own(fd: i32) -> OwnedFd {
    // SAFETY: bpf(2) just returned this descriptor to us, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Loads `program` for cgroup device control.
///
/// # Errors
/// What the verifier or the kernel answers; when the verifier refused, the object ends with its last words.
pub fn load_device_program(program: &[Insn]) -> Result<OwnedFd> {
    // No kernel function restricted to GPL programs is called, so any licence string is accepted.
    let license = c"Apache-2.0";
    let count = u32::try_from(program.len()).map_err(|_| Errno::TOOBIG).at("bpf", "BPF_PROG_LOAD")?;
    let mut attr = LoadAttr {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: count,
        insns: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        prog_name: *b"lighter_devices\0",
        ..LoadAttr::default()
    };
    let errno = match bpf(PROG_LOAD, &mut attr) {
        Ok(fd) => return Ok(own(fd)),
        Err(errno) => errno,
    };
    if errno != Errno::INVAL && errno != Errno::ACCESS {
        return Err(errno).at("bpf", "BPF_PROG_LOAD");
    }
    // Once more with the verifier's log, which costs time and is only of use when something is wrong.
    let mut log = vec![0_u8; 64 << 10];
    attr.log_level = 1;
    attr.log_size = 64 << 10;
    attr.log_buf = log.as_mut_ptr() as u64;
    match bpf(PROG_LOAD, &mut attr) {
        Ok(fd) => Ok(own(fd)),
        Err(errno) => {
            let text = log.split(|&byte| byte == 0).next().unwrap_or_default();
            let text = String::from_utf8_lossy(text);
            let tail: Vec<&str> = text.lines().rev().take(2).collect();
            Err(errno).at("bpf", format_args!("BPF_PROG_LOAD ({} instructions): {}", program.len(), tail.join("; ")))
        }
    }
}

/// Attaches `program` to `cgroup` (a cgroup v2 directory) beside programs of others, in place of `replaced` if given.
///
/// # Errors
/// The kernel's: `EPERM` without CAP_NET_ADMIN or CAP_BPF, or when an ancestor forbids programs below it.
pub fn attach_device_program(cgroup: impl AsFd, program: impl AsFd, replaced: Option<&OwnedFd>) -> Result<()> {
    let mut attr = AttachAttr {
        target_fd: raw(&cgroup),
        attach_bpf_fd: raw(&program),
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: ALLOW_MULTI | if replaced.is_some() { REPLACE } else { 0 },
        replace_bpf_fd: replaced.map_or(0, raw),
    };
    bpf(PROG_ATTACH, &mut attr).at("bpf", "BPF_PROG_ATTACH")?;
    Ok(())
}

/// Detaches `program` from `cgroup`.
///
/// # Errors
/// The kernel's: `ENOENT` when it is not attached there.
pub fn detach_device_program(cgroup: impl AsFd, program: impl AsFd) -> Result<()> {
    let mut attr = AttachAttr {
        target_fd: raw(&cgroup),
        attach_bpf_fd: raw(&program),
        attach_type: ATTACH_CGROUP_DEVICE,
        ..AttachAttr::default()
    };
    bpf(PROG_DETACH, &mut attr).at("bpf", "BPF_PROG_DETACH")?;
    Ok(())
}

/// The device programs attached to `cgroup` itself, oldest first. One that vanishes meanwhile is left out.
///
/// # Errors
/// The kernel's.
pub fn attached_device_programs(cgroup: impl AsFd) -> Result<Vec<OwnedFd>> {
    let mut ids = [0_u32; MAX_PROGS];
    let mut attr = QueryAttr {
        target_fd: raw(&cgroup),
        attach_type: ATTACH_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: 64,
        ..QueryAttr::default()
    };
    bpf(PROG_QUERY, &mut attr).at("bpf", "BPF_PROG_QUERY")?;
    let count = usize::try_from(attr.prog_cnt).unwrap_or(MAX_PROGS).min(MAX_PROGS);
    let mut programs = Vec::with_capacity(count);
    for &id in &ids[..count] {
        match bpf(PROG_GET_FD_BY_ID, &mut GetFdAttr { id, ..GetFdAttr::default() }) {
            Ok(fd) => programs.push(own(fd)),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno).at("bpf", format_args!("BPF_PROG_GET_FD_BY_ID {id}")),
        }
    }
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOV64_IMM: u8 = 0xb7;
    const EXIT: u8 = 0x95;

    #[test]
    fn the_layout_is_the_kernels() {
        assert_eq!(size_of::<Insn>(), 8);
        assert_eq!(size_of::<LoadAttr>(), 64);
        assert_eq!(size_of::<QueryAttr>(), 32);
        let insn = Insn::new(MOV64_IMM, 3, 7, -1, 5);
        assert_eq!((insn.dst(), insn.src(), insn.off, insn.imm), (3, 7, -1, 5));
    }

    #[test]
    fn a_program_is_loaded_and_a_wrong_one_refused_with_the_verifiers_words() {
        let right = [Insn::new(MOV64_IMM, 0, 0, 0, 1), Insn::new(EXIT, 0, 0, 0, 0)];
        match load_device_program(&right) {
            Ok(_) => {}
            // Not root, or bpf(2) kept from this machine: then nothing more can be shown here.
            Err(error) if error.errno() == Errno::PERM || error.errno() == Errno::NOSYS => return,
            Err(error) => panic!("{error}"),
        }
        // r0 is never set.
        let wrong = [Insn::new(EXIT, 0, 0, 0, 0)];
        let error = load_device_program(&wrong).expect_err("the verifier refuses it");
        assert_eq!(error.errno(), Errno::ACCESS);
        assert!(error.object().contains("R0"), "{error}");
    }
}
