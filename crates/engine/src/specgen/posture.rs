//! Which namespaces a container gets, the user namespace above all.

use std::path::Path;

use container::record::UsernsPosture;
use oci::runtime::{LinuxNamespace, NamespaceKind};

use super::invalid;
use crate::host::{Host, NodeKind};
use crate::spec::{ContainerSpec, MountSpec, NamespaceMode, NetworkMode, Source, UsernsMode};
use crate::{Error, ErrorKind, Result};

/// Highest id an image may use inside a range of 65536 ids.
const HIGHEST_ID: u32 = 65_535;

/// Decides the user namespace: private unless something said or the host forbids it; the reason is kept and shown.
///
/// # Errors
/// [`ErrorKind::Unsupported`] when a private one is required and cannot be had.
pub(super) fn userns(spec: &ContainerSpec, layers: Option<u32>, host: &dyn Host) -> Result<UsernsPosture> {
    match reason_for_host(spec, layers, host)? {
        None => Ok(UsernsPosture::Private),
        Some(reason) if spec.userns == UsernsMode::Require => {
            Err(Error::new(ErrorKind::Unsupported, format!("a private user namespace is required, but {reason}"))
                .hint("without --userns=private the host's user namespace would be used, and inspect would say why"))
        }
        Some(reason) => Ok(UsernsPosture::Host { reason }),
    }
}

fn reason_for_host(spec: &ContainerSpec, layers: Option<u32>, host: &dyn Host) -> Result<Option<String>> {
    let by_flag = [
        (spec.userns == UsernsMode::Host, "--userns=host was given"),
        (spec.privileged, "--privileged was given"),
        (spec.network == NetworkMode::Host, "the host's network (--network=host) belongs to the host's user namespace"),
        (spec.pid == NamespaceMode::Host, "the host's processes (--pid=host) belong to the host's user namespace"),
        (spec.ipc == NamespaceMode::Host, "the host's IPC (--ipc=host) belongs to the host's user namespace"),
    ];
    if let Some((_, reason)) = by_flag.into_iter().find(|(given, _)| *given) {
        return Ok(Some(reason.to_owned()));
    }
    match (&spec.source, layers) {
        (Source::Rootfs(dir), _) => {
            if !host.idmappable(dir) {
                return Ok(Some(format!("the file system of {} cannot map ids", dir.display())));
            }
        }
        (Source::Image(_), Some(highest)) if highest > HIGHEST_ID => {
            // An image must not be able to choose the weaker confinement by itself.
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("the image has files of id {highest}, above {HIGHEST_ID}: they do not fit a user namespace"),
            )
            .hint("--userns=host runs it with the host's ids"));
        }
        (Source::Image(_), _) => {
            if !host.overlay_idmappable() {
                return Ok(Some("the data root's file system or this kernel cannot map the ids of layers".to_owned()));
            }
        }
    }
    for mount in &spec.mounts {
        let (source, propagation) = match mount {
            MountSpec::Bind { source, propagation, .. } => (source, propagation.as_str()),
            // Not there yet: its kind has to tell.
            MountSpec::Volume(volume) if let Some(device) = device(&volume.options) => {
                if !device.maps_ids(host.kernel()) {
                    return Ok(Some(format!("the file system of volume {} cannot map ids", volume.name)));
                }
                continue;
            }
            // Those of the data root lie beside the layers, which were asked above; others may be anywhere.
            MountSpec::Volume(volume) if !volume.options.is_empty() => (&volume.source, ""),
            MountSpec::Volume(_) | MountSpec::Tmpfs { .. } => continue,
        };
        if matches!(propagation, "shared" | "rshared") {
            return Ok(Some(format!("shared propagation of {} needs the host's user namespace", source.display())));
        }
        // A device or socket is reached through its own rights, whoever owns it; only files need mapping.
        let special = host.node(source)?.is_some_and(|node| matches!(node.kind, NodeKind::Block | NodeKind::Character));
        if !special && !host.idmappable(source) {
            return Ok(Some(format!("the file system of {} cannot map ids", source.display())));
        }
    }
    Ok(None)
}

fn device(options: &std::collections::BTreeMap<String, String>) -> Option<storage::volumes::Device> {
    storage::volumes::Device::parse(options).ok().flatten()
}

/// The namespaces the container gets of its own.
pub(super) fn namespaces(spec: &ContainerSpec, userns: &UsernsPosture, host: &dyn Host) -> Result<Vec<LinuxNamespace>> {
    let mut all = vec![NamespaceKind::Mount];
    let modes = [
        ("--pid", NamespaceKind::Pid, &spec.pid),
        ("--ipc", NamespaceKind::Ipc, &spec.ipc),
        ("--uts", NamespaceKind::Uts, &spec.uts),
        ("--cgroupns", NamespaceKind::Cgroup, &spec.cgroupns),
    ];
    for (flag, kind, mode) in modes {
        match mode {
            NamespaceMode::Private => all.push(kind),
            NamespaceMode::Host => {}
            NamespaceMode::Container(other) => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!(
                        "{flag}=container:{other} is not available yet: namespaces cannot be shared between containers"
                    ),
                ));
            }
        }
    }
    match &spec.network {
        NetworkMode::Default | NetworkMode::None => all.push(NamespaceKind::Network),
        NetworkMode::Host => {}
        NetworkMode::Named(name) => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("network {name} not found: networks are not available yet"),
            )
            .hint("use --network none (loopback only) or --network host"));
        }
    }
    if *userns == UsernsPosture::Private {
        all.push(NamespaceKind::User);
    }
    // Time namespaces exist since 5.6. No offsets: the clocks agree, but nobody inside can find the host's namespace.
    if host.kernel() >= (5, 6) {
        all.push(NamespaceKind::Time);
    }
    all.sort();
    Ok(all.into_iter().map(|kind| LinuxNamespace { kind, path: None }).collect())
}

/// Path of the container's control group below each hierarchy's root.
pub(super) fn cgroup_path(spec: &ContainerSpec, id: &str) -> Result<String> {
    let Some(parent) = spec.cgroup_parent.as_deref().map(|parent| parent.trim_matches('/')).filter(|p| !p.is_empty())
    else {
        return Ok(format!("/lighter-{id}"));
    };
    let sound = |step: &str| {
        !matches!(step, "" | "." | "..")
            && step.len() <= 255
            && step.bytes().all(|b| b.is_ascii_graphic() && b != b':' && b != b'\\')
    };
    if !parent.split('/').all(sound) {
        return invalid(format!(
            "invalid --cgroup-parent {parent:?}: a path of plain names below the hierarchy's root"
        ));
    }
    Ok(format!("/{parent}/{id}"))
}

/// The container's host name: the user's, the host's in its network, else the short id.
pub(super) fn host_name(spec: &ContainerSpec, short: &str, host: &dyn Host) -> Result<String> {
    let name = match &spec.hostname {
        Some(said) if !said.is_empty() => {
            if spec.uts == NamespaceMode::Host {
                return invalid("conflicting options: --hostname and --uts=host");
            }
            said.clone()
        }
        _ if spec.network == NetworkMode::Host || spec.uts == NamespaceMode::Host => return Ok(host.name()),
        _ => short.to_owned(),
    };
    // The kernel takes at most 64 bytes (__NEW_UTS_LEN).
    if name.len() > 64 || network::files::check_host_name(&name).is_err() {
        return invalid(format!("invalid hostname {name:?}: letters, digits, '-', '_' and '.', at most 64 characters"));
    }
    Ok(name)
}

/// The network in force and what the user should know about it.
pub(super) fn attachment(spec: &ContainerSpec, warnings: &mut Vec<String>) -> network::Attachment {
    match spec.network {
        NetworkMode::Host => network::Attachment::Host,
        NetworkMode::Default => {
            warnings.push(
                "Note: networks are not available yet, so the container has loopback only (as with --network none)"
                    .to_owned(),
            );
            network::Attachment::None
        }
        NetworkMode::None | NetworkMode::Named(_) => network::Attachment::None,
    }
}

/// Whether `path` is one of those below `/proc` that may be covered (what lxcfs provides); nothing else of `/proc` may,
/// or the runtime's own writes there could be redirected (CVE-2015-3631, CVE-2019-16884).
pub(super) fn may_cover(path: &Path) -> bool {
    const ALLOWED: [&str; 10] = [
        "/proc/cpuinfo",
        "/proc/diskstats",
        "/proc/meminfo",
        "/proc/stat",
        "/proc/swaps",
        "/proc/uptime",
        "/proc/loadavg",
        "/proc/slabinfo",
        "/proc/net/dev",
        "/proc/sys/kernel/ns_last_pid",
    ];
    path != Path::new("/") && (!path.starts_with("/proc") || ALLOWED.iter().any(|allowed| path == Path::new(allowed)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::Table;

    fn bind(source: &str, propagation: &str) -> MountSpec {
        MountSpec::Bind {
            source: source.into(),
            target: "/x".into(),
            read_only: false,
            propagation: propagation.to_owned(),
            create_source: false,
            recursive: true,
        }
    }

    #[test]
    fn private_unless_something_forbids_it() {
        type Change = fn(&mut ContainerSpec);
        let rows: [(Change, Option<&str>); 13] = [
            (|_| {}, None),
            (|spec| spec.privileged = true, Some("--privileged")),
            (|spec| spec.userns = UsernsMode::Host, Some("--userns=host")),
            (|spec| spec.network = NetworkMode::Host, Some("--network=host")),
            (|spec| spec.pid = NamespaceMode::Host, Some("--pid=host")),
            (|spec| spec.ipc = NamespaceMode::Host, Some("--ipc=host")),
            (|spec| spec.uts = NamespaceMode::Host, None),
            (|spec| spec.mounts.push(bind("/srv/data", "")), None),
            (|spec| spec.mounts.push(bind("/srv/data", "rshared")), Some("propagation")),
            (|spec| spec.mounts.push(bind("/nfs", "")), Some("/nfs")),
            (|spec| spec.mounts.push(bind("/dev/fuse", "")), None),
            (|spec| spec.source = Source::Rootfs("/srv".into()), None),
            (|spec| spec.source = Source::Rootfs("/nfs".into()), Some("/nfs")),
        ];
        let host = Table { not_idmappable: vec!["/nfs".into(), "/dev/fuse".into()], ..Table::default() };
        for (index, (change, expected)) in rows.into_iter().enumerate() {
            let mut spec = ContainerSpec::default();
            change(&mut spec);
            match (userns(&spec, Some(1000), &host).expect("auto never fails"), expected) {
                (UsernsPosture::Private, None) => {}
                (UsernsPosture::Host { reason }, Some(part)) => assert!(reason.contains(part), "{index}: {reason}"),
                (got, _) => panic!("row {index}: {got:?}"),
            }
            if spec.userns == UsernsMode::Auto {
                spec.userns = UsernsMode::Require;
                assert_eq!(userns(&spec, Some(1000), &host).is_err(), expected.is_some(), "row {index}");
            }
        }
        let spec = ContainerSpec::default();
        let old = userns(&spec, Some(0), &Table { kernel: (5, 18), ..Table::default() }).expect("auto never fails");
        assert_ne!(old, UsernsPosture::Private, "no idmapped layers there");
        let high = userns(&spec, Some(65_536), &Table::default()).expect_err("the image would decide");
        assert_eq!(high.kind(), ErrorKind::Unsupported);
        let said = ContainerSpec { userns: UsernsMode::Host, ..spec };
        assert!(userns(&said, Some(65_536), &Table::default()).is_ok());
    }

    #[test]
    fn eight_namespaces_by_default() {
        let kinds = |spec: &ContainerSpec, userns: &UsernsPosture, kernel| {
            let host = Table { kernel, ..Table::default() };
            namespaces(spec, userns, &host).expect("valid").iter().map(|n| n.kind).collect::<Vec<_>>()
        };
        let spec = ContainerSpec::default();
        assert_eq!(kinds(&spec, &UsernsPosture::Private, (6, 18)).len(), 8);
        assert!(!kinds(&spec, &UsernsPosture::Private, (5, 5)).contains(&NamespaceKind::Time));
        let host = UsernsPosture::Host { reason: String::new() };
        let shared = ContainerSpec {
            network: NetworkMode::Host,
            pid: NamespaceMode::Host,
            ipc: NamespaceMode::Host,
            uts: NamespaceMode::Host,
            cgroupns: NamespaceMode::Host,
            ..ContainerSpec::default()
        };
        assert_eq!(kinds(&shared, &host, (6, 18)), [NamespaceKind::Mount, NamespaceKind::Time]);
        let named = ContainerSpec { network: NetworkMode::Named("web".into()), ..ContainerSpec::default() };
        assert!(namespaces(&named, &host, &Table::default()).is_err());
        let joined = ContainerSpec { pid: NamespaceMode::Container("web".into()), ..ContainerSpec::default() };
        assert!(namespaces(&joined, &host, &Table::default()).is_err());
    }

    #[test]
    fn control_groups_stay_below_their_parent() {
        for (parent, expected) in [
            (None, Some("/lighter-abc")),
            (Some(""), Some("/lighter-abc")),
            (Some("/jobs/web/"), Some("/jobs/web/abc")),
            (Some("jobs"), Some("/jobs/abc")),
            (Some("../x"), None),
            (Some("a/./b"), None),
            (Some("a//b"), None),
            (Some("system.slice:x:y"), None),
            (Some("a\nb"), None),
        ] {
            let spec = ContainerSpec { cgroup_parent: parent.map(str::to_owned), ..ContainerSpec::default() };
            assert_eq!(cgroup_path(&spec, "abc").ok().as_deref(), expected, "{parent:?}");
        }
    }

    #[test]
    fn host_names() {
        let of = |change: fn(&mut ContainerSpec)| {
            let mut spec = ContainerSpec::default();
            change(&mut spec);
            host_name(&spec, "0123456789ab", &Table::default()).ok()
        };
        assert_eq!(of(|_| {}).as_deref(), Some("0123456789ab"));
        assert_eq!(of(|spec| spec.hostname = Some("web.example".into())).as_deref(), Some("web.example"));
        assert_eq!(of(|spec| spec.network = NetworkMode::Host).as_deref(), Some("host"));
        assert_eq!(of(|spec| spec.hostname = Some("a b".into())), None);
        assert_eq!(of(|spec| spec.hostname = Some("a".repeat(65))), None);
        let both = |spec: &mut ContainerSpec| {
            spec.hostname = Some("web".into());
            spec.uts = NamespaceMode::Host;
        };
        assert_eq!(of(both), None);
    }

    #[test]
    fn proc_is_not_covered() {
        for (path, allowed) in [
            ("/", false),
            ("/proc", false),
            ("/proc/self", false),
            ("/proc/sys", false),
            ("/proc/meminfo", true),
            ("/proc/meminfo/x", false),
            ("/procedure", true),
            ("/sys", true),
            ("/data", true),
        ] {
            assert_eq!(may_cover(Path::new(path)), allowed, "{path}");
        }
    }
}
