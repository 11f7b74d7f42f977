//! Capabilities: names, sets, Docker's `--cap-add` and `--cap-drop`, and putting a thread under them.

use std::fmt;
use std::io::Read;
use std::ops::{BitAnd, BitOr};

use oci::runtime::LinuxCapabilities;
use sys::capability::ThreadCapabilities;
use sys::{Context, Errno};

macro_rules! capabilities {
    ($($(#[$meta:meta])* $variant:ident = $name:literal,)*) => {
        /// A capability, by its number in linux/capability.h (see capabilities(7)).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Capability {
            $($(#[$meta])* $variant,)*
        }

        impl Capability {
            /// Every capability known here, in the order of their numbers.
            pub const ALL: [Self; 41] = [$(Self::$variant),*];

            /// Its name, `CAP_…`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!("CAP_", $name),)*
                }
            }
        }
    };
}

capabilities! {
    /// Change owners of files.
    Chown = "CHOWN",
    /// Pass over permissions of files.
    DacOverride = "DAC_OVERRIDE",
    /// Read any file and search any directory; open files by handle.
    DacReadSearch = "DAC_READ_SEARCH",
    /// Act as a file's owner.
    Fowner = "FOWNER",
    /// Keep set-id bits when a file changes.
    Fsetid = "FSETID",
    /// Signal any process.
    Kill = "KILL",
    /// Take any group id.
    Setgid = "SETGID",
    /// Take any user id.
    Setuid = "SETUID",
    /// Drop from the bounding set, change the secure bits.
    Setpcap = "SETPCAP",
    /// Set the immutable and append-only attributes.
    LinuxImmutable = "LINUX_IMMUTABLE",
    /// Bind privileged ports.
    NetBindService = "NET_BIND_SERVICE",
    /// Not used by the kernel.
    NetBroadcast = "NET_BROADCAST",
    /// Configure the network.
    NetAdmin = "NET_ADMIN",
    /// Raw and packet sockets.
    NetRaw = "NET_RAW",
    /// Lock memory.
    IpcLock = "IPC_LOCK",
    /// Pass over permissions of System V IPC.
    IpcOwner = "IPC_OWNER",
    /// Load kernel modules.
    SysModule = "SYS_MODULE",
    /// Ports and memory of devices.
    SysRawio = "SYS_RAWIO",
    /// chroot(2) and mount namespaces.
    SysChroot = "SYS_CHROOT",
    /// Trace any process.
    SysPtrace = "SYS_PTRACE",
    /// Process accounting.
    SysPacct = "SYS_PACCT",
    /// Nearly everything else.
    SysAdmin = "SYS_ADMIN",
    /// reboot(2) and kexec.
    SysBoot = "SYS_BOOT",
    /// Priorities and affinity of any process.
    SysNice = "SYS_NICE",
    /// Pass over limits.
    SysResource = "SYS_RESOURCE",
    /// Set clocks.
    SysTime = "SYS_TIME",
    /// Configure terminals.
    SysTtyConfig = "SYS_TTY_CONFIG",
    /// Make device nodes.
    Mknod = "MKNOD",
    /// Leases on any file.
    Lease = "LEASE",
    /// Write to the audit log.
    AuditWrite = "AUDIT_WRITE",
    /// Configure auditing.
    AuditControl = "AUDIT_CONTROL",
    /// Give capabilities to files.
    Setfcap = "SETFCAP",
    /// Pass over mandatory access control.
    MacOverride = "MAC_OVERRIDE",
    /// Configure mandatory access control.
    MacAdmin = "MAC_ADMIN",
    /// syslog(2).
    Syslog = "SYSLOG",
    /// Wake the system.
    WakeAlarm = "WAKE_ALARM",
    /// Keep the system awake.
    BlockSuspend = "BLOCK_SUSPEND",
    /// Read the audit log (3.16).
    AuditRead = "AUDIT_READ",
    /// perf_event_open(2) (5.8).
    Perfmon = "PERFMON",
    /// bpf(2) (5.8).
    Bpf = "BPF",
    /// Checkpoint and restore (5.9).
    CheckpointRestore = "CHECKPOINT_RESTORE",
}

/// A name that is no capability's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown capability {0:?}")]
pub struct UnknownCapability(pub String);

impl Capability {
    /// The capability named `name`, with or without `CAP_`, in either case.
    ///
    /// # Errors
    /// The name, when it is unknown.
    pub fn parse(name: &str) -> Result<Self, UnknownCapability> {
        let prefix = name.get(..4).filter(|prefix| prefix.eq_ignore_ascii_case("CAP_"));
        let short = &name[prefix.map_or(0, str::len)..];
        let found = Self::ALL.into_iter().find(|known| known.name()[4..].eq_ignore_ascii_case(short));
        found.ok_or_else(|| UnknownCapability(name.to_owned()))
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }
}

/// A set of capabilities.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct CapabilitySet(u64);

impl CapabilitySet {
    /// None.
    pub const EMPTY: Self = Self(0);
    /// All that are known here.
    pub const ALL: Self = Self((1 << Capability::ALL.len()) - 1);
    /// What a container gets: Docker's fourteen less MKNOD, NET_RAW and AUDIT_WRITE. Ping works without NET_RAW by
    /// `net.ipv4.ping_group_range`, sshd without AUDIT_WRITE by the default seccomp profile.
    pub const DEFAULT: Self = Self::of(&[
        Capability::Chown,
        Capability::DacOverride,
        Capability::Fowner,
        Capability::Fsetid,
        Capability::Kill,
        Capability::NetBindService,
        Capability::Setfcap,
        Capability::Setgid,
        Capability::Setpcap,
        Capability::Setuid,
        Capability::SysChroot,
    ]);

    /// The set of these.
    #[must_use]
    pub const fn of(capabilities: &[Capability]) -> Self {
        let mut bits = 0;
        let mut n = 0;
        while n < capabilities.len() {
            bits |= 1 << capabilities[n] as u8;
            n += 1;
        }
        Self(bits)
    }

    /// The set with these bits, bit n being capability n.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Its bits, bit n being capability n.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether it has `capability`.
    #[must_use]
    pub const fn contains(self, capability: Capability) -> bool {
        self.0 & (1 << capability as u8) != 0
    }

    /// Whether it has none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// These less `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Those of its capabilities that are known here, in the order of their numbers.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        Capability::ALL.into_iter().filter(move |capability| self.contains(*capability))
    }

    /// Their names as `config.json` has them.
    #[must_use]
    pub fn names(self) -> Vec<String> {
        self.iter().map(|capability| capability.name().to_owned()).collect()
    }

    /// The set named by `names`, and the names of no capability, which the specification wants warned about and
    /// ignored.
    pub fn from_names<N: AsRef<str>>(names: &[N]) -> (Self, Vec<UnknownCapability>) {
        let mut set = Self::EMPTY;
        let mut unknown = Vec::new();
        for name in names {
            match Capability::parse(name.as_ref()) {
                Ok(capability) => set = set | Self::of(&[capability]),
                Err(name) => unknown.push(name),
            }
        }
        (set, unknown)
    }

    /// The capabilities the running kernel has: 0 up to `cap_last_cap`.
    ///
    /// # Errors
    /// What keeps `/proc/sys/kernel/cap_last_cap` (3.2) from being read, `ERANGE` when it holds no number below 64.
    pub fn of_kernel() -> sys::Result<Self> {
        const PATH: &str = "/proc/sys/kernel/cap_last_cap";
        let file = std::fs::File::open(PATH).at("open", PATH)?;
        let mut text = String::new();
        file.take(16).read_to_string(&mut text).at("read", PATH)?;
        let last = text.trim().parse::<u32>().ok().filter(|last| *last < 64);
        let last = last.ok_or_else(|| sys::Error::new("read", PATH, Errno::RANGE))?;
        Ok(Self(u64::MAX >> (63 - last)))
    }
}

impl BitOr for CapabilitySet {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for CapabilitySet {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl fmt::Debug for CapabilitySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(Capability::name)).finish()
    }
}

/// What `--cap-add` and `--cap-drop` make of `default`.
///
/// Docker's meaning: adding ALL is everything but what is dropped by name; otherwise dropping ALL leaves what is added;
/// otherwise what is dropped goes first and what is added comes after. ALL is what is known here: intersect the result
/// with [`CapabilitySet::of_kernel`].
///
/// # Errors
/// The first name that is unknown.
pub fn resolve<N: AsRef<str>>(
    default: CapabilitySet,
    add: &[N],
    drop: &[N],
) -> Result<CapabilitySet, UnknownCapability> {
    let (add_all, add) = requested(add)?;
    let (drop_all, drop) = requested(drop)?;
    Ok(match (add_all, drop_all) {
        (true, _) => CapabilitySet::ALL.without(drop),
        (false, true) => add,
        (false, false) => default.without(drop) | add,
    })
}

/// Whether ALL is among `names`, and the set of the others.
fn requested<N: AsRef<str>>(names: &[N]) -> Result<(bool, CapabilitySet), UnknownCapability> {
    let mut all = false;
    let mut set = CapabilitySet::EMPTY;
    for name in names {
        let name = name.as_ref();
        // Docker knows CAP_ALL as well.
        if name.eq_ignore_ascii_case("ALL") || name.eq_ignore_ascii_case("CAP_ALL") {
            all = true;
        } else {
            set = set | CapabilitySet::of(&[Capability::parse(name)?]);
        }
    }
    Ok((all, set))
}

/// The five sets of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Limits what execve(2) can ever give.
    pub bounding: CapabilitySet,
    /// What the kernel checks.
    pub effective: CapabilitySet,
    /// What may be made effective.
    pub permitted: CapabilitySet,
    /// Kept across execve(2) of files that inherit.
    pub inheritable: CapabilitySet,
    /// Kept across execve(2) of ordinary files; has to be inheritable.
    pub ambient: CapabilitySet,
}

impl Capabilities {
    /// The sets of a process that starts with `set`: inheritable and ambient are empty, so that a file's inheritable
    /// capabilities give nothing (CVE-2022-24769 and its like).
    #[must_use]
    pub fn starting_with(set: CapabilitySet) -> Self {
        Self { bounding: set, effective: set, permitted: set, ..Self::default() }
    }

    /// `process.capabilities`, and the names in it that are no capability's.
    #[must_use]
    pub fn from_oci(sets: &LinuxCapabilities) -> (Self, Vec<UnknownCapability>) {
        let mut unknown: Vec<UnknownCapability> = Vec::new();
        let mut read = |names: &[String]| {
            let (set, more) = CapabilitySet::from_names(names);
            let new: Vec<_> = more.into_iter().filter(|name| !unknown.contains(name)).collect();
            unknown.extend(new);
            set
        };
        let capabilities = Self {
            bounding: read(&sets.bounding),
            effective: read(&sets.effective),
            permitted: read(&sets.permitted),
            inheritable: read(&sets.inheritable),
            ambient: read(&sets.ambient),
        };
        (capabilities, unknown)
    }

    /// `process.capabilities` for these sets.
    #[must_use]
    pub fn to_oci(&self) -> LinuxCapabilities {
        LinuxCapabilities {
            bounding: self.bounding.names(),
            effective: self.effective.names(),
            inheritable: self.inheritable.names(),
            permitted: self.permitted.names(),
            ambient: self.ambient.names(),
        }
    }

    /// Puts the calling thread under these sets, for good: bounding, then effective, permitted and inheritable, then
    /// ambient. Gives the permitted and inheritable capabilities that were asked for but are out of the thread's reach.
    ///
    /// `kernel` is [`CapabilitySet::of_kernel`], read beforehand because `/proc` may be the container's by now. After a
    /// change of user id the caller must have kept the permitted set ([`sys::capability::set_keep_capabilities`]). What
    /// is ambient but not inheritable is left out. Allocates nothing unless it fails.
    ///
    /// # Errors
    /// `EPERM` when the thread may not drop from its bounding set; whatever else the kernel says.
    pub fn apply(&self, kernel: CapabilitySet) -> sys::Result<CapabilitySet> {
        use sys::capability;

        let held = capability::get()?;
        let all_effective = ThreadCapabilities { effective: held.permitted, ..held };
        if all_effective != held {
            // A kept permitted set is not effective, and the bounding set is only changed with CAP_SETPCAP in effect.
            capability::replace(all_effective)?;
        }
        let mut inheritable = self.inheritable.0 & self.bounding.0 & held.permitted;
        for number in 0..64u8 {
            let bit = 1u64 << number;
            if kernel.0 & bit != 0 && self.bounding.0 & bit == 0 {
                match capability::drop_from_bounding_set(number) {
                    // Without CAP_SETPCAP, but there is nothing to drop.
                    Err(error) if error.errno() == Errno::PERM && !capability::in_bounding_set(number)? => {}
                    other => other?,
                }
            } else if inheritable & bit != 0 && !capability::in_bounding_set(number)? {
                inheritable &= !bit;
            }
        }
        let permitted = self.permitted.0 & held.permitted;
        capability::replace(ThreadCapabilities { effective: self.effective.0 & permitted, permitted, inheritable })?;
        capability::clear_ambient_set()?;
        for number in 0..64u8 {
            if self.ambient.0 & inheritable & permitted & (1 << number) != 0 {
                capability::raise_ambient(number)?;
            }
        }
        Ok(CapabilitySet(self.permitted.0 & !permitted | self.inheritable.0 & !inheritable))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree() {
        assert_eq!(Capability::Chown.number(), 0);
        assert_eq!(Capability::SysAdmin.number(), 21);
        assert_eq!(Capability::Setfcap.number(), 31);
        assert_eq!(Capability::CheckpointRestore.number(), 40);
        for (n, capability) in Capability::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(capability.number()), n);
            assert_eq!(Capability::parse(capability.name()), Ok(capability));
            assert_eq!(Capability::parse(&capability.name()[4..].to_lowercase()), Ok(capability));
        }
        assert_eq!(Capability::parse("cap_Net_Raw"), Ok(Capability::NetRaw));
        for bad in ["", "CAP_", "CAP_FLY", "ALL", "NET-RAW", "CAP_CAP_KILL", "é_CHOWN", "CAPé"] {
            assert_eq!(Capability::parse(bad), Err(UnknownCapability(bad.to_owned())));
        }
    }

    #[test]
    fn the_default_is_dockers_less_three() {
        assert_eq!(CapabilitySet::DEFAULT.iter().count(), 11);
        for absent in [Capability::Mknod, Capability::NetRaw, Capability::AuditWrite, Capability::SysAdmin] {
            assert!(!CapabilitySet::DEFAULT.contains(absent));
        }
        let sets = Capabilities::starting_with(CapabilitySet::DEFAULT);
        assert!(sets.inheritable.is_empty() && sets.ambient.is_empty());
        assert!(sets.to_oci().bounding.contains(&"CAP_SETFCAP".to_owned()));
    }

    #[test]
    fn add_and_drop_as_docker_does() {
        let default = CapabilitySet::DEFAULT;
        let kill = CapabilitySet::of(&[Capability::Kill]);
        let raw = CapabilitySet::of(&[Capability::NetRaw]);
        let table: [(&[&str], &[&str], CapabilitySet); 8] = [
            (&[], &[], default),
            (&["net_raw"], &["CAP_KILL"], default.without(kill) | raw),
            (&["ALL"], &["kill"], CapabilitySet::ALL.without(kill)),
            (&["all"], &["ALL"], CapabilitySet::ALL),
            (&["NET_RAW"], &["ALL"], raw),
            (&["KILL"], &["KILL"], default),
            (&["KILL"], &["ALL", "KILL"], kill),
            (&[], &["ALL"], CapabilitySet::EMPTY),
        ];
        for (add, drop, expected) in table {
            assert_eq!(resolve(default, add, drop), Ok(expected), "add {add:?} drop {drop:?}");
        }
        assert_eq!(resolve(default, &["FLY"], &[]), Err(UnknownCapability("FLY".into())));
        assert_eq!(resolve(default, &["ALL"], &["FLY"]), Err(UnknownCapability("FLY".into())));
    }

    #[test]
    fn unknown_names_are_told_once() {
        let sets = LinuxCapabilities {
            bounding: vec!["CAP_KILL".into(), "CAP_FLY".into()],
            permitted: vec!["CAP_FLY".into()],
            ..LinuxCapabilities::default()
        };
        let (capabilities, unknown) = Capabilities::from_oci(&sets);
        assert_eq!(capabilities.bounding, CapabilitySet::of(&[Capability::Kill]));
        assert_eq!(unknown, [UnknownCapability("CAP_FLY".into())]);
    }

    fn status(name: &str) -> u64 {
        let status = std::fs::read_to_string("/proc/thread-self/status").expect("readable");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("present");
        u64::from_str_radix(line.trim(), 16).expect("hexadecimal")
    }

    #[test]
    fn a_thread_is_put_under_its_sets() {
        std::thread::spawn(|| {
            let kernel = CapabilitySet::of_kernel().expect("readable");
            let kill = CapabilitySet::of(&[Capability::Kill]);
            let two = CapabilitySet::of(&[Capability::Kill, Capability::Chown]);
            let sets = Capabilities { ambient: two, inheritable: kill, ..Capabilities::starting_with(two) };
            assert_eq!(sets.apply(kernel), Ok(CapabilitySet::EMPTY));
            assert_eq!(status("CapBnd:"), two.bits());
            assert_eq!(status("CapPrm:"), two.bits());
            assert_eq!(status("CapEff:"), two.bits());
            assert_eq!(status("CapInh:"), kill.bits());
            // Ambient only where inheritable.
            assert_eq!(status("CapAmb:"), kill.bits());
            // What is gone stays gone, and is told.
            let wanted = CapabilitySet::of(&[Capability::Kill, Capability::SysTime]);
            let again = Capabilities { bounding: two, ..Capabilities::starting_with(wanted) };
            assert_eq!(again.apply(kernel), Ok(CapabilitySet::of(&[Capability::SysTime])));
            assert_eq!(status("CapPrm:"), kill.bits());
            assert_eq!(status("CapAmb:"), 0);
        })
        .join()
        .expect("joined");
    }

    #[test]
    fn kept_capabilities_are_applied_after_the_user_changed() {
        std::thread::spawn(|| {
            let kernel = CapabilitySet::of_kernel().expect("readable");
            sys::capability::set_keep_capabilities(true).expect("unlocked");
            let nobody = rustix::process::Uid::from_raw(65534);
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).expect("root may");
            assert_eq!(status("CapEff:"), 0);
            let kill = CapabilitySet::of(&[Capability::Kill]);
            assert_eq!(Capabilities::starting_with(kill).apply(kernel), Ok(CapabilitySet::EMPTY));
            assert_eq!((status("CapEff:"), status("CapBnd:")), (kill.bits(), kill.bits()));
        })
        .join()
        .expect("joined");
    }

    #[test]
    fn the_kernel_has_at_least_the_old_ones() {
        let kernel = CapabilitySet::of_kernel().expect("readable");
        assert!(kernel.contains(Capability::AuditRead));
        assert_eq!(kernel.bits().count_ones(), kernel.bits().trailing_ones());
    }
}
