//! The system call ABIs of a machine, and how a filter tells them apart.

use super::Error;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("filters are written for x86_64 and aarch64 only");

/// An ABI through which a process makes system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Abi {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
}

/// Set in the number of every x32 call (`__X32_SYSCALL_BIT`, asm/unistd.h); x32 shares x86_64's `seccomp_data.arch`.
pub(super) const X32_BIT: u32 = 0x4000_0000;

impl Abi {
    /// The value of `seccomp_data.arch` (`AUDIT_ARCH_*`, linux/audit.h).
    pub(super) const fn audit_arch(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// What is set in every number of this ABI.
    pub(super) const fn number_bit(self) -> u32 {
        if matches!(self, Self::X32) { X32_BIT } else { 0 }
    }

    /// Whether arguments have 32 bits: only their low halves are then compared, so that -1 is the same on every ABI.
    /// On x32 the kernel passes whole registers on, so there whole registers are compared.
    pub(super) const fn has_narrow_arguments(self) -> bool {
        matches!(self, Self::X86 | Self::Arm)
    }
}

/// A kind of processor, with the ABIs it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Machine {
    X86_64,
    Aarch64,
}

impl Machine {
    /// The machine this program was built for.
    pub(super) const NATIVE: Self = if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 };

    /// The ABI that is always filtered by rules, listed or not.
    pub(super) const fn main_abi(self) -> Abi {
        match self {
            Self::X86_64 => Abi::X86_64,
            Self::Aarch64 => Abi::Aarch64,
        }
    }

    /// The specification's name of the main ABI.
    pub(super) const fn scmp_name(self) -> &'static str {
        match self {
            Self::X86_64 => "SCMP_ARCH_X86_64",
            Self::Aarch64 => "SCMP_ARCH_AARCH64",
        }
    }

    /// The name profiles in Docker's format have for the machine.
    pub(super) const fn docker_name(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// The ABIs a profile's `architectures` stand for here, the main one first. Those of other machines are left out:
    /// their calls cannot happen.
    ///
    /// # Errors
    /// [`Error::Architecture`] for a name the specification does not have.
    pub(super) fn abis(self, architectures: &[String]) -> Result<Vec<Abi>, Error> {
        let mut abis = vec![self.main_abi()];
        for name in architectures {
            let abi = match (self, name.as_str()) {
                (Self::X86_64, "SCMP_ARCH_X86") => Abi::X86,
                (Self::X86_64, "SCMP_ARCH_X32") => Abi::X32,
                (Self::Aarch64, "SCMP_ARCH_ARM") => Abi::Arm,
                (_, name) if ARCHITECTURES.contains(&name) => continue,
                _ => return Err(Error::Architecture(name.clone())),
            };
            if !abis.contains(&abi) {
                abis.push(abi);
            }
        }
        Ok(abis)
    }
}

/// `architectures` of the runtime specification (config-linux.md, "Seccomp") and of libseccomp 2.6.
const ARCHITECTURES: [&str; 24] = [
    "SCMP_ARCH_NATIVE",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
];

/// The old way to make `name` on `abi`: a call that multiplexes many, and its first argument for this one (ipc(2),
/// socketcall(2); linux/net.h, linux/ipc.h).
pub(super) fn multiplexed(abi: Abi, name: &str) -> Option<(&'static str, u64)> {
    if abi != Abi::X86 {
        return None;
    }
    let selector = match name {
        "socket" => ("socketcall", 1),
        "bind" => ("socketcall", 2),
        "connect" => ("socketcall", 3),
        "listen" => ("socketcall", 4),
        "accept" => ("socketcall", 5),
        "getsockname" => ("socketcall", 6),
        "getpeername" => ("socketcall", 7),
        "socketpair" => ("socketcall", 8),
        "send" => ("socketcall", 9),
        "recv" => ("socketcall", 10),
        "sendto" => ("socketcall", 11),
        "recvfrom" => ("socketcall", 12),
        "shutdown" => ("socketcall", 13),
        "setsockopt" => ("socketcall", 14),
        "getsockopt" => ("socketcall", 15),
        "sendmsg" => ("socketcall", 16),
        "recvmsg" => ("socketcall", 17),
        "accept4" => ("socketcall", 18),
        "recvmmsg" => ("socketcall", 19),
        "sendmmsg" => ("socketcall", 20),
        "semop" => ("ipc", 1),
        "semget" => ("ipc", 2),
        "semctl" => ("ipc", 3),
        "semtimedop" => ("ipc", 4),
        "msgsnd" => ("ipc", 11),
        "msgrcv" => ("ipc", 12),
        "msgget" => ("ipc", 13),
        "msgctl" => ("ipc", 14),
        "shmat" => ("ipc", 21),
        "shmdt" => ("ipc", 22),
        "shmget" => ("ipc", 23),
        "shmctl" => ("ipc", 24),
        _ => return None,
    };
    Some(selector)
}
