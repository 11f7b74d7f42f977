//! System call filters: from a profile in the runtime specification's terms to a program the kernel runs.
//!
//! [`compile`] makes a [`Program`] from a profile, [`default_profile`] and [`read_profile`] make profiles, and a
//! [`CacheKey`] names a program so that it is compiled once. How a profile's rules are read is said at the head of
//! `policy`.

mod abi;
mod cache;
mod call_table;
mod calls;
mod codegen;
mod default_profile;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
#[cfg(any(test, feature = "fuzzing"))]
mod model;
#[cfg(test)]
mod model_tests;
mod policy;
mod profile_file;

use std::os::fd::OwnedFd;

use oci::runtime::LinuxSeccomp;
use sys::seccomp::{FilterFlags, Instruction};

pub use cache::CacheKey;
pub use default_profile::default_profile;
pub use profile_file::{MAX_PROFILE_BYTES, ProfileError, read_profile};

/// Why a profile cannot be made a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No such `SCMP_ACT_…`.
    #[error("seccomp: unknown action {0:?}")]
    Action(String),
    /// No such `SCMP_CMP_…`.
    #[error("seccomp: unknown operator {0:?}")]
    Operator(String),
    /// No such `SCMP_ARCH_…`.
    #[error("seccomp: unknown architecture {0:?}")]
    Architecture(String),
    /// No such `SECCOMP_FILTER_FLAG_…`.
    #[error("seccomp: unknown flag {0:?}")]
    Flag(String),
    /// System calls have six arguments.
    #[error("seccomp: no argument {0}; arguments are numbered 0 to 5")]
    Argument(u32),
    /// An errno or trace message out of range.
    #[error("seccomp: errno {0} is out of range")]
    Errno(u32),
    /// An errno beside an action that carries none.
    #[error("seccomp: {0} takes no errno")]
    ErrnoNotAllowed(String),
    /// A rule of runc's, kept so that a profile means the same under every runtime.
    #[error("seccomp: SCMP_ACT_NOTIFY cannot be used as default action")]
    NotifyDefault,
    /// As [`Error::NotifyDefault`].
    #[error("seccomp: SCMP_ACT_NOTIFY cannot be used for the write syscall")]
    NotifyWrite,
    /// More than the kernel takes.
    #[error("seccomp: the filter has {0} instructions, the kernel takes 4096; use fewer rules or architectures")]
    TooLong(usize),
}

/// A compiled filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    instructions: Vec<Instruction>,
    flags: FilterFlags,
}

impl Program {
    /// The instructions.
    #[must_use]
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// The flags it is loaded with; NEW_LISTENER when some call is handed to an agent.
    #[must_use]
    pub fn flags(&self) -> FilterFlags {
        self.flags
    }

    /// Whether loading gives a listener that an agent must serve.
    #[must_use]
    pub fn notifies(&self) -> bool {
        self.flags.contains(FilterFlags::NEW_LISTENER)
    }

    /// Puts the calling thread under the filter, for good, and gives the listener if there is one and somebody
    /// `listens`; otherwise the kernel answers what is for an agent with `ENOSYS`.
    ///
    /// Without `no_new_privs` this needs `CAP_SYS_ADMIN`, so it comes before capabilities are dropped. A kernel that
    /// does not know `SECCOMP_FILTER_FLAG_SPEC_ALLOW` (before 4.17) gets the filter without it.
    ///
    /// # Errors
    /// As [`sys::seccomp::load_filter`].
    pub fn load(&self, listens: bool) -> sys::Result<Option<OwnedFd>> {
        let unheard = FilterFlags::NEW_LISTENER | FilterFlags::WAIT_KILLABLE_RECV;
        let flags = if listens { self.flags } else { self.flags.without(unheard) };
        match sys::seccomp::load_filter(&self.instructions, flags) {
            Err(error) if error.errno() == sys::Errno::INVAL && flags.contains(FilterFlags::SPEC_ALLOW) => {
                sys::seccomp::load_filter(&self.instructions, flags.without(FilterFlags::SPEC_ALLOW))
            }
            other => other,
        }
    }
}

/// Compiles `profile` for the machine this runs on.
///
/// # Errors
/// The first word in the profile that has no meaning or that the specification forbids, or [`Error::TooLong`].
pub fn compile(profile: &LinuxSeccomp) -> Result<Program, Error> {
    compile_for(abi::Machine::NATIVE, profile)
}

fn compile_for(machine: abi::Machine, profile: &LinuxSeccomp) -> Result<Program, Error> {
    let policy = policy::Policy::resolve(machine, profile)?;
    let flags = filter_flags(&profile.flags, policy.notifies)?;
    Ok(Program { instructions: codegen::generate(&policy)?, flags })
}

/// Names in `profile` that are no system call of any machine. They are passed over when the profile is compiled; a
/// rule that forbids one forbids nothing, which the user should hear.
#[must_use]
pub fn unknown_names(profile: &LinuxSeccomp) -> Vec<&str> {
    let names = profile.syscalls.iter().flat_map(|rule| &rule.names);
    names.map(String::as_str).filter(|name| calls::Call::named(name).is_none()).collect()
}

/// The names of `flags` that `config.json` may use, for the `features` command.
pub const FLAG_NAMES: [&str; 4] = [
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

/// Those of [`FLAG_NAMES`] that the running kernel takes.
#[must_use]
pub fn supported_flags() -> Vec<&'static str> {
    let takes = |name: &&str| {
        filter_flags(&[(*name).to_owned()], true).is_ok_and(|flags| sys::seccomp::flags_supported(flags) == Ok(true))
    };
    FLAG_NAMES.into_iter().filter(takes).collect()
}

/// No flags at all means SPEC_ALLOW, as with runc since 1.2: the mitigation it waives costs much and has been off by
/// default for filtered processes since 5.16.
fn filter_flags(names: &[String], notifies: bool) -> Result<FilterFlags, Error> {
    let mut flags = if names.is_empty() { FilterFlags::SPEC_ALLOW } else { FilterFlags::default() };
    for name in names {
        flags |= match name.as_str() {
            // A container's first process has one thread when it loads its filter, and every later one inherits it.
            "SECCOMP_FILTER_FLAG_TSYNC" => FilterFlags::default(),
            "SECCOMP_FILTER_FLAG_LOG" => FilterFlags::LOG,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => FilterFlags::SPEC_ALLOW,
            // The kernel refuses it where nothing waits for an agent.
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" if notifies => FilterFlags::WAIT_KILLABLE_RECV,
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => FilterFlags::default(),
            _ => return Err(Error::Flag(name.clone())),
        };
    }
    if notifies {
        flags |= FilterFlags::NEW_LISTENER;
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use oci::runtime::LinuxSyscall;

    use super::*;

    fn profile(default_action: &str, syscalls: Vec<LinuxSyscall>) -> LinuxSeccomp {
        LinuxSeccomp { default_action: default_action.to_owned(), syscalls, ..LinuxSeccomp::default() }
    }

    fn rule(name: &str, action: &str, errno_ret: Option<u32>) -> LinuxSyscall {
        LinuxSyscall { names: vec![name.to_owned()], action: action.to_owned(), errno_ret, args: Vec::new() }
    }

    #[test]
    fn a_loaded_program_decides() {
        let rules = vec![rule("mkdir", "SCMP_ACT_ERRNO", Some(71)), rule("mkdirat", "SCMP_ACT_ERRNO", Some(71))];
        let program = compile(&profile("SCMP_ACT_ALLOW", rules)).expect("valid");
        assert!(!program.notifies());
        let path = "/nonexistent/directory";
        let inside = std::thread::spawn(move || {
            sys::seccomp::set_no_new_privs().expect("no_new_privs");
            assert!(program.load(false).expect("loaded").is_none());
            let status = std::fs::read_to_string("/proc/thread-self/status").expect("readable");
            assert!(status.lines().any(|line| line == "Seccomp:\t2"), "{status}");
            std::fs::create_dir(path).expect_err("refused").raw_os_error()
        });
        assert_eq!(inside.join().expect("joined"), Some(71));
        assert_eq!(std::fs::create_dir(path).expect_err("absent").kind(), std::io::ErrorKind::NotFound);
    }

    #[test]
    fn the_default_profile_holds_in_the_kernel() {
        use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with};

        let profile = default_profile(crate::capability::CapabilitySet::DEFAULT, (6, 18));
        let program = compile(&profile).expect("valid");
        let inside = std::thread::spawn(move || {
            sys::seccomp::set_no_new_privs().expect("no_new_privs");
            assert!(program.load(false).expect("loaded").is_none());
            let socket = |family, protocol| {
                socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(Protocol::from_raw(protocol))).err()
            };
            let audit = std::num::NonZeroU32::new(9).expect("not zero");
            let alg = socket_with(AddressFamily::from_raw(38), SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).err();
            (alg, socket(AddressFamily::NETLINK, audit), std::fs::read_dir("/").map(|_| ()).is_ok())
        });
        let refused = (Some(sys::Errno::PERM), Some(sys::Errno::INVAL), true);
        assert_eq!(inside.join().expect("joined"), refused);
    }

    #[test]
    fn mistakes_are_named() {
        let error = |profile| compile(&profile).expect_err("invalid");
        assert_eq!(error(profile("SCMP_ACT_MAYBE", vec![])), Error::Action("SCMP_ACT_MAYBE".into()));
        assert_eq!(error(profile("SCMP_ACT_NOTIFY", vec![])), Error::NotifyDefault);
        let with = |rule| profile("SCMP_ACT_ALLOW", vec![rule]);
        assert_eq!(error(with(rule("write", "SCMP_ACT_NOTIFY", None))), Error::NotifyWrite);
        assert_eq!(error(with(rule("read", "SCMP_ACT_KILL", Some(1)))), Error::ErrnoNotAllowed("SCMP_ACT_KILL".into()));
        assert_eq!(error(with(rule("read", "SCMP_ACT_ERRNO", Some(4096)))), Error::Errno(4096));
        let mut odd = profile("SCMP_ACT_ALLOW", vec![]);
        odd.architectures = vec!["SCMP_ARCH_PDP11".into()];
        assert_eq!(error(odd), Error::Architecture("SCMP_ARCH_PDP11".into()));
        let mut odd = profile("SCMP_ACT_ALLOW", vec![]);
        odd.flags = vec!["SECCOMP_FILTER_FLAG_NEW_LISTENER".into()];
        assert_eq!(error(odd), Error::Flag("SECCOMP_FILTER_FLAG_NEW_LISTENER".into()));
    }

    #[test]
    fn flags_follow_the_profile() {
        let flags = |names: &[&str], notifies| {
            filter_flags(&names.iter().map(ToString::to_string).collect::<Vec<_>>(), notifies).expect("known")
        };
        assert_eq!(flags(&[], false), FilterFlags::SPEC_ALLOW);
        assert_eq!(flags(&["SECCOMP_FILTER_FLAG_LOG"], false), FilterFlags::LOG);
        assert_eq!(flags(&["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"], false), FilterFlags::default());
        let both = FilterFlags::WAIT_KILLABLE_RECV | FilterFlags::NEW_LISTENER;
        assert_eq!(flags(&["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"], true), both);
        for name in FLAG_NAMES {
            assert!(filter_flags(&[name.to_owned()], true).is_ok(), "{name}");
        }
        let notifying = profile("SCMP_ACT_ALLOW", vec![rule("mkdir", "SCMP_ACT_NOTIFY", None)]);
        assert!(compile(&notifying).expect("valid").notifies());
    }

    #[test]
    fn names_of_no_call_are_reported() {
        let mut profile = profile("SCMP_ACT_ALLOW", vec![rule("mkdri", "SCMP_ACT_ERRNO", None)]);
        profile.syscalls.push(rule("s390_pci_mmio_read", "SCMP_ACT_ERRNO", None));
        assert_eq!(unknown_names(&profile), ["mkdri"]);
        assert!(compile(&profile).is_ok());
    }
}
