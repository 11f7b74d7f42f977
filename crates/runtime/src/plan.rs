//! A configuration, checked as a whole and translated into what the kernel is asked for, before anything is made.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::OnceLock;

use oci::runtime::{IdMapping, Linux, NamespaceKind, Process, Spec};
use rustix::fs::{Mode, OFlags};
use sys::process::Namespaces;

use crate::capability::{Capabilities, CapabilitySet};
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::idmap;
use crate::launch::{Identity, Launch, Stdio};
use crate::mount_plan::MountPlan;
use crate::namespaces::{self, Chosen, Door, IdMaps, Joins, MountSpace};
use crate::seccomp::Program;
use crate::tuning::{Affinity, Tuning};
use crate::{lsm, net_devices, notify};

/// What is going to be made.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) id: &'a str,
    pub(crate) spec: &'a Spec,
    pub(crate) process: &'a Process,
    pub(crate) linux: &'a Linux,
    /// New namespaces, the control group's left out: that one is entered after the group.
    pub(crate) namespaces: Namespaces,
    pub(crate) new_cgroup_namespace: bool,
    /// Namespaces that the first process joins by itself.
    pub(crate) joins: Joins,
    /// Those it is made in.
    pub(crate) door: Door,
    pub(crate) mount_space: MountSpace,
    user_namespace: bool,
    /// The ids of its user namespace, if it has one.
    pub(crate) ids: IdMaps<'a>,
    /// What SELinux calls the container's file systems; none where SELinux is not in force.
    pub(crate) mount_label: Option<&'a str>,
    pub(crate) mounts: Vec<MountPlan>,
    pub(crate) root_read_only: bool,
    pub(crate) confinement: Confinement,
    pub(crate) tuning: Tuning,
    pub(crate) identity: &'a Identity,
    pub(crate) terminal: Option<Option<(u16, u16)>>,
    pub(crate) init: bool,
    pub(crate) make_cwd: bool,
    pub(crate) die_with_caller: bool,
    /// Whether the caller is an ordinary user, and the process makes all of its mounts itself.
    pub(crate) ordinary: bool,
}

/// What a process may not do.
#[derive(Debug)]
pub(crate) struct Confinement {
    pub(crate) capabilities: Capabilities,
    pub(crate) kernel_capabilities: CapabilitySet,
    pub(crate) no_new_privileges: bool,
    pub(crate) seccomp: Option<Program>,
    pub(crate) apparmor_profile: String,
    pub(crate) selinux_label: String,
}

fn no_linux() -> &'static Linux {
    static EMPTY: OnceLock<Linux> = OnceLock::new();
    EMPTY.get_or_init(Linux::default)
}

/// What a container without a process waits as: root, in the root, and nothing to execute.
fn no_process() -> &'static Process {
    static NONE: OnceLock<Process> = OnceLock::new();
    NONE.get_or_init(|| Process { cwd: "/".into(), ..Process::default() })
}

/// A mistake in the configuration at `field`.
pub(crate) fn wrong(field: &str, what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Config, format!("{field}: {what}"))
}

impl<'a> Plan<'a> {
    pub(crate) fn new(launch: &'a Launch<'_>, ordinary: bool) -> Result<Self> {
        let spec = launch.spec;
        check_version(&spec.oci_version)?;
        let process = spec.process.as_ref().unwrap_or_else(|| no_process());
        if spec.process.is_some() {
            check_process(process, matches!(launch.stdio, Stdio::Terminal { .. }))?;
        }
        let linux = spec.linux.as_ref().unwrap_or_else(|| no_linux());
        Affinity::new(process.exec_cpu_affinity.as_ref())?;
        let chosen = namespaces::plan(linux)?;
        let new_cgroup_namespace = chosen.new.contains(Namespaces::CGROUP);
        let namespaces = chosen.new.without(Namespaces::CGROUP);
        let user_joined = chosen.joined_user().is_some();
        check_mappings(linux, namespaces.contains(Namespaces::USER), user_joined)?;
        if ordinary {
            check_ordinary(linux, &chosen)?;
        }
        check_sysctls(spec, linux, chosen.all_joins())?;
        check_names(spec, namespaces, chosen.all_joins())?;
        net_devices::check(linux, &chosen)?;
        let ids = IdMaps::new(linux, &chosen)?;
        let maps = (&ids.uids[..], &ids.gids[..]);
        let mounts =
            spec.mounts.iter().enumerate().map(|(at, mount)| MountPlan::new(at, mount, maps)).collect::<Result<_>>()?;
        let Chosen { joins, door, mount: mount_space, .. } = chosen;
        Ok(Self {
            id: launch.id,
            spec,
            process,
            linux,
            namespaces,
            new_cgroup_namespace,
            joins,
            door,
            mount_space,
            user_namespace: user_joined || namespaces.contains(Namespaces::USER),
            ids,
            mount_label: lsm::mount_label(linux)?,
            mounts,
            root_read_only: spec.root.as_ref().is_some_and(|root| root.readonly),
            tuning: Tuning::new(process, linux)?,
            confinement: Confinement::new(spec, process, launch.seccomp_cache.as_deref())?,
            identity: &launch.identity,
            terminal: match launch.stdio {
                Stdio::Terminal { size } => Some(size),
                Stdio::Fds { .. } | Stdio::Inherit => None,
            },
            init: launch.init,
            make_cwd: launch.make_cwd,
            die_with_caller: launch.die_with_caller,
            ordinary,
        })
    }

    /// Whether the process makes `/dev` itself: it keeps the host's root's privilege for that in the host's user namespace
    /// alone.
    pub(crate) fn makes_dev(&self) -> bool {
        !self.ordinary && !self.has_user_namespace()
    }

    /// Whether it has a user namespace other than the caller's, new or joined.
    pub(crate) fn has_user_namespace(&self) -> bool {
        self.user_namespace
    }

    /// Whether that is one that was there before.
    pub(crate) fn joins_user_namespace(&self) -> bool {
        self.user_namespace && !self.namespaces.contains(Namespaces::USER)
    }

    /// Whether the group `gid` exists in the container's new user namespace.
    pub(crate) fn maps_gid(&self, gid: u32) -> bool {
        idmap::contains(&self.ids.gids, gid)
    }

    /// The container's ids that it is set up with, in a new user namespace: root's, where that is mapped.
    pub(crate) fn set_up_ids(&self) -> (u32, u32) {
        (idmap::set_up_id(&self.ids.uids), idmap::set_up_id(&self.ids.gids))
    }

    /// The ids of the container's root, as whoever makes its files sees them: what such a file must belong to.
    pub(crate) fn root_ids(&self) -> (u32, u32) {
        if !self.has_user_namespace() {
            return (0, 0);
        }
        if self.ordinary {
            return self.set_up_ids();
        }
        let host = |map: &[IdMapping]| map.iter().find(|m| m.container_id == 0).map_or(0, |m| m.host_id);
        (host(&self.ids.uids), host(&self.ids.gids))
    }
}

impl Confinement {
    pub(crate) fn new(spec: &Spec, process: &Process, cache: Option<&Path>) -> Result<Self> {
        lsm::check(process)?;
        // Unknown names are a warning by the specification; what the kernel does not know cannot be held.
        let (capabilities, _unknown) = process.capabilities.as_ref().map(Capabilities::from_oci).unwrap_or_default();
        let kernel_capabilities =
            CapabilitySet::of_kernel().doing(|| "cannot read which capabilities the kernel knows".to_owned())?;
        let seccomp = match spec.linux.as_ref().and_then(|linux| linux.seccomp.as_ref()) {
            Some(profile) => Some(program(profile, cache)?),
            None => None,
        };
        // Without an agent the kernel answers such calls with ENOSYS.
        if seccomp.as_ref().is_some_and(Program::notifies) && notify::listener_path(spec).is_none() {
            return Err(wrong("linux.seccomp.listenerPath", "is empty, and SCMP_ACT_NOTIFY needs an agent"));
        }
        Ok(Self {
            capabilities,
            kernel_capabilities,
            no_new_privileges: process.no_new_privileges,
            seccomp,
            apparmor_profile: process.apparmor_profile.clone(),
            selinux_label: process.selinux_label.clone(),
        })
    }
}

fn program(profile: &oci::runtime::LinuxSeccomp, cache: Option<&Path>) -> Result<Program> {
    use crate::seccomp::{CacheKey, compile};
    let compile = || compile(profile).map_err(|error| wrong("linux.seccomp", error));
    let Some(cache) = cache else { return compile() };
    let key = CacheKey::of_profile(profile).map_err(|error| wrong("linux.seccomp", error))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // The cache only saves time: whatever is wrong with it, the program is compiled.
    let directory = rustix::fs::open(cache, flags, Mode::empty());
    if let Ok(directory) = &directory
        && let Ok(Some(program)) = Program::load_cached(directory, &key)
    {
        return Ok(program);
    }
    let program = compile()?;
    let directory = directory.or_else(|_| {
        rustix::fs::mkdir(cache, Mode::RWXU)?;
        rustix::fs::open(cache, flags, Mode::empty())
    });
    if let Ok(directory) = directory {
        let _ = program.store(directory, &key);
    }
    Ok(program)
}

/// Any 1.x is accepted: minor versions only add (`config.md`, "Specification version").
fn check_version(version: &str) -> Result<()> {
    let major = version.split('.').next().unwrap_or_default();
    if major == "1" || (major == "0" && version.len() > 1) {
        return Ok(());
    }
    Err(wrong("ociVersion", format_args!("{version:?} is not supported: 1.x is needed")))
}

fn check_process(process: &Process, terminal: bool) -> Result<()> {
    if process.args.is_empty() {
        return Err(wrong("process.args", "is empty"));
    }
    if !process.cwd.is_absolute() {
        return Err(wrong("process.cwd", format_args!("{:?} is not absolute", process.cwd)));
    }
    if process.terminal != terminal {
        return Err(wrong("process.terminal", "does not agree with the streams given"));
    }
    Ok(())
}

/// What an ordinary user has no privilege for.
fn check_ordinary(linux: &Linux, chosen: &Chosen) -> Result<()> {
    let refuse = |sentence: &str| Err(Error::new(ErrorKind::Unsupported, sentence));
    if !chosen.new.contains(Namespaces::USER) {
        return refuse("linux.namespaces: an ordinary user needs a new user namespace for a container");
    }
    if !chosen.door.is_closed() {
        return refuse(
            "linux.namespaces: an ordinary user can neither join the namespaces of others by path nor set \
             linux.timeOffsets",
        );
    }
    if !linux.net_devices.is_empty() {
        return refuse("linux.netDevices: an ordinary user has no network devices to give away");
    }
    Ok(())
}

pub(crate) fn namespace_flag(kind: NamespaceKind) -> Namespaces {
    match kind {
        NamespaceKind::Pid => Namespaces::PID,
        NamespaceKind::Network => Namespaces::NETWORK,
        NamespaceKind::Mount => Namespaces::MOUNT,
        NamespaceKind::Ipc => Namespaces::IPC,
        NamespaceKind::Uts => Namespaces::UTS,
        NamespaceKind::User => Namespaces::USER,
        NamespaceKind::Cgroup => Namespaces::CGROUP,
        NamespaceKind::Time => Namespaces::TIME,
    }
}

/// Names are only set in a uts namespace of the container's, new or joined, and never in the caller's own.
fn check_names<'j>(
    spec: &Spec,
    new: Namespaces,
    mut joins: impl Iterator<Item = &'j (Namespaces, OwnedFd)>,
) -> Result<()> {
    let field = match (spec.hostname.is_empty(), spec.domainname.is_empty()) {
        (false, _) => "hostname",
        (true, false) => "domainname",
        (true, true) => return Ok(()),
    };
    if new.contains(Namespaces::UTS) {
        return Ok(());
    }
    let Some((_, joined)) = joins.find(|(flag, _)| *flag == Namespaces::UTS) else {
        return Err(wrong(field, "needs a uts namespace"));
    };
    if namespaces::is_own(joined, "/proc/self/ns/uts")? {
        return Err(wrong(field, "would change the host's, whose uts namespace is joined"));
    }
    Ok(())
}

/// A parameter is only set where it belongs to a namespace of the container: anything else would change the host.
fn check_sysctls<'j>(
    spec: &Spec,
    linux: &Linux,
    joins: impl Iterator<Item = &'j (Namespaces, OwnedFd)> + Clone,
) -> Result<()> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shm_rmid_forced",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
    ];
    for (key, value) in &linux.sysctl {
        let key = key.replace('/', ".");
        let refuse = |why: &str| Err(wrong("linux.sysctl", format_args!("{key:?} {why}")));
        let kind = if key.starts_with("net.") {
            NamespaceKind::Network
        } else if key.starts_with("fs.mqueue.") || IPC.contains(&key.as_str()) {
            NamespaceKind::Ipc
        } else if key == "kernel.domainname" {
            if !spec.domainname.is_empty() && spec.domainname != *value {
                return refuse("contradicts domainname");
            }
            NamespaceKind::Uts
        } else if key == "kernel.hostname" {
            return refuse("is set by hostname");
        } else {
            return refuse("belongs to no namespace and would change the host");
        };
        if spec.namespace(kind).is_none() {
            return refuse(&format!("needs a {kind:?} namespace"));
        }
        let own = match kind {
            NamespaceKind::Network => "/proc/self/ns/net",
            NamespaceKind::Ipc => "/proc/self/ns/ipc",
            _ => "/proc/self/ns/uts",
        };
        if let Some((_, joined)) = joins.clone().find(|(flag, _)| *flag == namespace_flag(kind))
            && namespaces::is_own(joined, own)?
        {
            return refuse(&format!("would change the host, whose {kind:?} namespace is joined"));
        }
    }
    Ok(())
}

fn check_mappings(linux: &Linux, user_namespace: bool, joined: bool) -> Result<()> {
    for (field, map) in [("linux.uidMappings", &linux.uid_mappings), ("linux.gidMappings", &linux.gid_mappings)] {
        if user_namespace && map.is_empty() {
            return Err(wrong(field, "is empty, and there is a new user namespace"));
        }
        if !user_namespace && !joined && !map.is_empty() {
            return Err(wrong(field, "is set without a user namespace"));
        }
        let fits = |m: &IdMapping| {
            m.size > 0 && m.container_id.checked_add(m.size).is_some() && m.host_id.checked_add(m.size).is_some()
        };
        if let Some(bad) = map.iter().find(|mapping| !fits(mapping)) {
            return Err(wrong(field, format_args!("{bad:?} is empty or runs past the last id")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) -> std::result::Result<(), String> {
        let spec = Spec::from_json(json.as_bytes()).expect("valid JSON");
        let launch = Launch {
            id: "test",
            spec: &spec,
            rootfs: crate::Rootfs::AsIs("/".into()),
            stdio: Stdio::Inherit,
            preserve: Vec::new(),
            identity: Identity::Spec { keep_groups: false },
            init: false,
            make_cwd: false,
            die_with_caller: false,
            seccomp_cache: None,
        };
        Plan::new(&launch, false).map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn mistakes_name_their_field() {
        let good = r#"{"ociVersion": "1.9.0", "process": {"args": ["x"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
                       "linux": {"namespaces": [{"type": "mount"}]}}"#;
        assert_eq!(check(good), Ok(()));
        for (from, to, field) in [
            ("1.9.0", "2.0.0", "ociVersion"),
            (r#"["x"]"#, "[]", "process.args"),
            (r#""cwd": "/""#, r#""cwd": "x""#, "process.cwd"),
            (r#"{"type": "mount"}"#, r#"{"type": "mount"}, {"type": "mount"}"#, "linux.namespaces"),
            (r#"{"type": "mount"}"#, r#"{"type": "user"}"#, "linux.namespaces"),
            (r#""namespaces""#, r#""mountLabel": "a\nb", "namespaces""#, "linux.mountLabel"),
            (r#""namespaces""#, r#""netDevices": {"eth9": {}}, "namespaces""#, "linux.netDevices"),
            (r#"{"type": "mount"}"#, r#"{"type": "mount"}, {"type": "user"}"#, "linux.uidMappings"),
            (r#""linux""#, r#""hostname": "h", "linux""#, "hostname"),
            (r#""linux""#, r#""domainname": "d", "linux""#, "domainname"),
            (r#""namespaces""#, r#""sysctl": {"net.ipv4.ip_forward": "1"}, "namespaces""#, "linux.sysctl"),
            (r#""namespaces""#, r#""sysctl": {"kernel.panic": "1"}, "namespaces""#, "linux.sysctl"),
            (
                r#""namespaces": ["#,
                r#""sysctl": {"net.core.somaxconn": "9"}, "namespaces": [{"type": "network", "path": "/proc/self/ns/net"}, "#,
                "linux.sysctl",
            ),
            (r#""linux""#, r#""mounts": [{"destination": "/x/../../y", "type": "bind"}], "linux""#, "mounts[0]"),
        ] {
            let error = check(&good.replace(from, to)).expect_err(to);
            assert!(error.starts_with(field), "{error} for {to}");
        }
    }
}
