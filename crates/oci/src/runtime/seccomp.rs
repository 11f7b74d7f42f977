//! `linux.seccomp` (`config-linux.md`, "Seccomp").

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{is_default, record};

record! {
    /// `linux.seccomp`.
    LinuxSeccomp {
        /// `SCMP_ACT_…` for calls no rule matches.
        default_action: String,
        /// errno of a default `SCMP_ACT_ERRNO`; absent is EPERM.
        #[serde(skip_serializing_if = "Option::is_none")]
        default_errno_ret: Option<u32>,
        /// `SCMP_ARCH_…`; empty is the native one.
        #[serde(skip_serializing_if = "is_default")]
        architectures: Vec<String>,
        /// `SECCOMP_FILTER_FLAG_…`.
        #[serde(skip_serializing_if = "is_default")]
        flags: Vec<String>,
        /// Socket of a notification agent.
        #[serde(skip_serializing_if = "is_default")]
        listener_path: PathBuf,
        /// Opaque data for the agent.
        #[serde(skip_serializing_if = "is_default")]
        listener_metadata: String,
        /// Rules.
        #[serde(skip_serializing_if = "is_default")]
        syscalls: Vec<LinuxSyscall>,
    }
}

record! {
    /// One seccomp rule.
    LinuxSyscall {
        /// System call names.
        names: Vec<String>,
        /// `SCMP_ACT_…`.
        action: String,
        /// errno of `SCMP_ACT_ERRNO`, or the value of `SCMP_ACT_TRACE`.
        #[serde(skip_serializing_if = "Option::is_none")]
        errno_ret: Option<u32>,
        /// Conditions, all of which must hold.
        #[serde(skip_serializing_if = "is_default")]
        args: Vec<LinuxSeccompArg>,
    }
}

record! {
    /// A condition on one argument.
    LinuxSeccompArg {
        /// 0 to 5.
        index: u32,
        /// Operand.
        value: u64,
        /// Second operand (`SCMP_CMP_MASKED_EQ`: the value compared with, `value` being the mask).
        #[serde(skip_serializing_if = "is_default")]
        value_two: u64,
        /// `SCMP_CMP_…`.
        op: String,
    }
}
