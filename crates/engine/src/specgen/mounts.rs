//! Mounts: the defaults, the generated files of `/etc`, and what the user asked for.

use std::path::{Component, Path, PathBuf};

use oci::runtime::Mount;

use super::process::clean;
use super::{invalid, posture, refusal};
use crate::host::Host;
use crate::spec::{ContainerSpec, MountSpec, NamespaceMode};
use crate::{Error, ErrorKind, Result};

/// Bytes of `/dev/shm` when the user said nothing.
pub(super) const SHM_SIZE: u64 = 64 << 20;

/// Generated files, by name in the container's directory and path inside.
pub const FILES: [(&str, &str); 3] =
    [("hosts", "/etc/hosts"), ("hostname", "/etc/hostname"), ("resolv.conf", "/etc/resolv.conf")];

/// All mounts in the order they are made: outer before inner. The user's replace a default on the same place.
pub(super) fn mounts(spec: &ContainerSpec, dir: &Path, host: &dyn Host) -> Result<Vec<Mount>> {
    let mut said: Vec<Mount> = Vec::with_capacity(spec.mounts.len());
    for mount in &spec.mounts {
        let mount = match mount {
            MountSpec::Bind { source, target, read_only, propagation, create_source, recursive } => {
                let place = target_of(target)?;
                present(source, *create_source, host)?;
                bind(source, place, *read_only, propagation, *recursive, spec.privileged)?
            }
            MountSpec::Tmpfs { target, options } => tmpfs(target_of(target)?, options)?,
            MountSpec::Volume(volume) => {
                let place = target_of(&volume.target)?;
                plain(&volume.source)?;
                let mut mount = bind(&volume.source, place, volume.read_only, "", true, spec.privileged)?;
                // Also where the host's nodes are given otherwise: a volume is data.
                mount.options.retain(|option| option != "nodev");
                mount.options.push("nodev".to_owned());
                mount
            }
        };
        if said.iter().any(|other| other.destination == mount.destination) {
            return invalid(format!("Duplicate mount point: {}", mount.destination.display()));
        }
        said.push(mount);
    }
    let mut all = defaults(spec, host)?;
    let writable = if spec.read_only { "ro" } else { "rw" };
    all.extend(FILES.iter().map(|(name, path)| Mount {
        destination: PathBuf::from(path),
        kind: "bind".to_owned(),
        source: Some(dir.join(name)),
        options: words(&["bind", "rprivate", writable, "nosuid", "nodev", "noexec"]),
        ..Mount::default()
    }));
    all.retain(|mount| !said.iter().any(|other| other.destination == mount.destination));
    all.extend(said);
    // A stable sort: mounts of one depth keep their order.
    all.sort_by_key(|mount| mount.destination.components().count());
    Ok(all)
}

fn words(all: &[&str]) -> Vec<String> {
    all.iter().map(|&word| word.to_owned()).collect()
}

fn defaults(spec: &ContainerSpec, host: &dyn Host) -> Result<Vec<Mount>> {
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| Mount {
        destination: PathBuf::from(destination),
        kind: kind.to_owned(),
        source: Some(PathBuf::from(source)),
        options: words(options),
        ..Mount::default()
    };
    let access = if spec.privileged { "rw" } else { "ro" };
    let shm_size = match spec.shm_size {
        None => SHM_SIZE,
        Some(0) => return invalid("--shm-size must be greater than 0"),
        Some(size) => size,
    };
    let size = format!("size={shm_size}");
    let mut all = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access]),
    ];
    if spec.ipc == NamespaceMode::Host {
        // Not every host has a place for message queues.
        for place in ["/dev/shm", "/dev/mqueue"] {
            if host.node(Path::new(place))?.is_some() {
                all.push(mount(place, "bind", place, &["rbind", "rprivate", "nosuid", "noexec", "nodev"]));
            }
        }
    } else {
        all.push(mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]));
        all.push(mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &size]));
    }
    Ok(all)
}

/// The form in which places are compared.
pub(crate) fn clean_target(target: &Path) -> PathBuf {
    clean(target)
}

/// A mount's place inside: absolute, cleaned, neither the root nor what keeps `/proc` true.
fn target_of(target: &Path) -> Result<PathBuf> {
    let shown = target.display();
    if !target.is_absolute() {
        return invalid(format!("invalid mount path: '{shown}' mount path must be absolute"));
    }
    plain(target)?;
    if target.components().any(|component| component == Component::ParentDir) {
        return invalid(format!("invalid mount path: '{shown}' must not contain '..'"));
    }
    let place = clean(target);
    if place == Path::new("/") {
        return invalid("invalid specification: destination can't be '/'");
    }
    if !posture::may_cover(&place) {
        return invalid(format!("'{shown}' cannot be mounted on: it is inside /proc"));
    }
    Ok(place)
}

fn plain(path: &Path) -> Result<()> {
    let bytes = path.as_os_str().as_encoded_bytes();
    if bytes.contains(&0) || bytes.len() > 4095 {
        return invalid(format!("{:?} is not a path: it holds a NUL byte or is longer than 4095 bytes", path));
    }
    Ok(())
}

fn present(source: &Path, create_source: bool, host: &dyn Host) -> Result<()> {
    plain(source)?;
    let shown = source.display();
    if !source.is_absolute() {
        return invalid(format!("invalid bind source '{shown}': it must be absolute"));
    }
    if !create_source && host.node(source)?.is_none() {
        return Err(Error::new(ErrorKind::Invalid, format!("bind source path does not exist: {shown}"))
            .hint("-v makes a missing directory; --mount does not"));
    }
    Ok(())
}

fn bind(
    source: &Path,
    destination: PathBuf,
    read_only: bool,
    propagation: &str,
    recursive: bool,
    privileged: bool,
) -> Result<Mount> {
    const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "slave", "rslave", "shared", "rshared"];
    let propagation = if propagation.is_empty() { "rprivate" } else { propagation };
    if !PROPAGATIONS.contains(&propagation) {
        return invalid(format!("invalid propagation {propagation:?}: one of {}", PROPAGATIONS.join(", ")));
    }
    let mut options = words(&[if recursive { "rbind" } else { "bind" }, propagation]);
    options.push(match (read_only, recursive) {
        (false, _) => "rw".to_owned(),
        (true, false) => "ro".to_owned(),
        // Mounts below a read-only one are read-only too; with `ro` alone they would stay writable.
        (true, true) => "rro".to_owned(),
    });
    // Device nodes in data are an attack; devices themselves are bound on purpose.
    if !privileged && !source.starts_with("/dev") {
        options.push("nodev".to_owned());
    }
    Ok(Mount { destination, kind: "bind".to_owned(), source: Some(source.to_owned()), options, ..Mount::default() })
}

fn tmpfs(destination: PathBuf, said: &str) -> Result<Mount> {
    const FLAGS: [&str; 18] = [
        "ro",
        "rw",
        "exec",
        "noexec",
        "suid",
        "nosuid",
        "dev",
        "nodev",
        "sync",
        "async",
        "dirsync",
        "atime",
        "noatime",
        "diratime",
        "nodiratime",
        "relatime",
        "norelatime",
        "strictatime",
    ];
    const KEYS: [&str; 6] = ["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks"];
    let mut options = words(&["noexec", "nosuid", "nodev"]);
    for option in said.split(',').filter(|option| !option.is_empty()) {
        let known = match option.split_once('=') {
            None => FLAGS.contains(&option),
            Some((key, value)) => {
                let digits = value.trim_end_matches(['k', 'K', 'm', 'M', 'g', 'G', '%']);
                KEYS.contains(&key) && !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
            }
        };
        if !known {
            return Err(refusal(format!("invalid tmpfs option {option:?}")).hint(format!(
                "known: {}, and {}=NUMBER",
                FLAGS.join(", "),
                KEYS.join("=, ")
            )));
        }
        // The opposite of a default replaces it.
        options.retain(|default| default.strip_prefix("no") != Some(option) && default != option);
        options.push(option.to_owned());
    }
    Ok(Mount {
        destination,
        kind: "tmpfs".to_owned(),
        source: Some(PathBuf::from("tmpfs")),
        options,
        ..Mount::default()
    })
}

/// Sources that a start has to make as directories.
pub(crate) fn missing_sources<'a>(spec: &'a ContainerSpec, host: &'a dyn Host) -> impl Iterator<Item = &'a Path> {
    spec.mounts.iter().filter_map(|mount| match mount {
        MountSpec::Bind { source, create_source: true, .. } => {
            let absent = matches!(host.node(source), Ok(None));
            absent.then_some(source.as_path())
        }
        _ => None,
    })
}

/// A device bound from the host.
pub(super) fn bound_device(source: &Path, target: &Path, access: &str) -> Mount {
    let access = if access.contains('w') { "rw" } else { "ro" };
    Mount {
        destination: target.to_owned(),
        kind: "bind".to_owned(),
        source: Some(source.to_owned()),
        options: words(&["bind", "rprivate", access, "nosuid", "noexec"]),
        ..Mount::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::Table;

    fn bind_to(target: &str) -> MountSpec {
        MountSpec::Bind {
            source: "/srv/data".into(),
            target: target.into(),
            read_only: false,
            propagation: String::new(),
            create_source: false,
            recursive: true,
        }
    }

    fn of(mounts_said: Vec<MountSpec>) -> Result<Vec<Mount>> {
        let spec = ContainerSpec { mounts: mounts_said, ..ContainerSpec::default() };
        mounts(&spec, Path::new("/var/lib/lighter/containers/x"), &Table::default())
    }

    fn find<'a>(all: &'a [Mount], place: &str) -> &'a Mount {
        all.iter().find(|mount| mount.destination == Path::new(place)).expect("mounted")
    }

    #[test]
    fn defaults_are_the_golden_list() {
        let all = of(vec![]).expect("valid");
        let places: Vec<_> = all.iter().map(|mount| mount.destination.to_str().expect("text")).collect();
        assert_eq!(
            places,
            [
                "/proc",
                "/dev",
                "/sys",
                "/dev/pts",
                "/dev/mqueue",
                "/dev/shm",
                "/etc/hosts",
                "/etc/hostname",
                "/etc/resolv.conf",
                "/sys/fs/cgroup",
            ]
        );
        assert!(find(&all, "/sys").options.contains(&"ro".to_owned()));
        assert!(find(&all, "/sys/fs/cgroup").options.contains(&"ro".to_owned()));
        assert!(find(&all, "/dev/shm").options.contains(&"size=67108864".to_owned()));
        let hosts = find(&all, "/etc/hosts");
        assert_eq!(hosts.source.as_deref(), Some(Path::new("/var/lib/lighter/containers/x/hosts")));
    }

    #[test]
    fn targets_are_checked() {
        for (target, valid) in [
            ("/data", true),
            ("/data/", true),
            ("/a//b", true),
            ("data", false),
            ("", false),
            ("/", false),
            ("//", false),
            ("/.", false),
            ("/a/../b", false),
            ("/..", false),
            ("/proc", false),
            ("/proc/", false),
            ("/proc/sys/kernel", false),
            ("/proc/meminfo", true),
            ("/sys", true),
            ("/a\0b", false),
            ("/a:b", true),
        ] {
            assert_eq!(of(vec![bind_to(target)]).is_ok(), valid, "{target:?}");
        }
        assert!(of(vec![bind_to("/a"), bind_to("/a/")]).is_err());
        let tmpfs = MountSpec::Tmpfs { target: "/a".into(), options: String::new() };
        assert!(of(vec![bind_to("/a"), tmpfs]).is_err());
    }

    #[test]
    fn the_users_mounts_replace_defaults_and_come_in_order() {
        let all = of(vec![bind_to("/etc/deep/er"), bind_to("/etc"), bind_to("/dev/shm")]).expect("valid");
        assert_eq!(find(&all, "/dev/shm").kind, "bind");
        let place = |path: &str| all.iter().position(|mount| mount.destination == Path::new(path)).expect("mounted");
        assert!(place("/etc") < place("/etc/hosts") && place("/etc") < place("/etc/deep/er"));
        assert_eq!(all.iter().filter(|mount| mount.destination == Path::new("/dev/shm")).count(), 1);
    }

    #[test]
    fn bind_options() {
        let with = |read_only, propagation: &str, recursive, source: &str, create_source| MountSpec::Bind {
            source: source.into(),
            target: "/x".into(),
            read_only,
            propagation: propagation.to_owned(),
            create_source,
            recursive,
        };
        let options = |mount| of(vec![mount]).map(|all| find(&all, "/x").options.join(","));
        assert_eq!(options(with(false, "", true, "/srv/data", false)).expect("valid"), "rbind,rprivate,rw,nodev");
        assert_eq!(options(with(true, "slave", false, "/srv/data", false)).expect("valid"), "bind,slave,ro,nodev");
        assert_eq!(options(with(true, "", true, "/dev/fuse", false)).expect("valid"), "rbind,rprivate,rro");
        assert!(options(with(true, "both", true, "/srv/data", false)).is_err());
        assert!(options(with(true, "", true, "/not/there", false)).is_err());
        assert!(options(with(true, "", true, "/not/there", true)).is_ok());
        assert!(options(with(true, "", true, "relative", true)).is_err());
    }

    #[test]
    fn tmpfs_options() {
        let options = |said: &str| {
            of(vec![MountSpec::Tmpfs { target: "/x".into(), options: said.to_owned() }])
                .map(|all| find(&all, "/x").options.join(","))
        };
        assert_eq!(options("").expect("valid"), "noexec,nosuid,nodev");
        assert_eq!(options("rw,exec,size=64m,mode=1777").expect("valid"), "nosuid,nodev,rw,exec,size=64m,mode=1777");
        for bad in ["bind", "size=", "size=a", "context=x", "huge=always", "ro=1"] {
            assert!(options(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn shared_ipc_and_privilege_change_the_defaults() {
        let dir = Path::new("/c");
        let spec = ContainerSpec { ipc: NamespaceMode::Host, privileged: true, ..ContainerSpec::default() };
        let mut host = Table::default();
        host.nodes.insert("/dev/shm".into(), host.nodes[Path::new("/srv/data")]);
        let all = mounts(&spec, dir, &host).expect("valid");
        assert_eq!(find(&all, "/dev/shm").kind, "bind");
        assert!(!all.iter().any(|mount| mount.destination == Path::new("/dev/mqueue")), "this host has none");
        assert!(find(&all, "/sys").options.contains(&"rw".to_owned()));
        let spec = ContainerSpec { shm_size: Some(0), ..ContainerSpec::default() };
        assert!(mounts(&spec, dir, &Table::default()).is_err());
        let spec = ContainerSpec { read_only: true, ..ContainerSpec::default() };
        let all = mounts(&spec, dir, &Table::default()).expect("valid");
        assert!(find(&all, "/etc/hosts").options.contains(&"ro".to_owned()));
    }
}
