//! One entry of `mounts`: its options read, and, on the caller's side, what needs the host's privilege made.
//!
//! Option names are the specification's (`config.md`, "Linux mount options"); what is no mount option is the file
//! system's own.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use oci::runtime::{IdMapping, LinuxDevice, Mount};
use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid, makedev};
use sys::mount::{Attributes, Change, NewFs, Propagation};
use sys::{Context as _, Errno};

use crate::cgroup::{Cgroup, Layout, Version};
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::overlay;
use crate::plan::{Plan, wrong};

/// A mount to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MountPlan {
    /// Absolute, without `..`.
    pub(crate) target: PathBuf,
    pub(crate) source: Source,
    pub(crate) set: Attributes,
    pub(crate) clear: Attributes,
    /// Attributes for the whole tree (`rro` and its like).
    pub(crate) set_all: Attributes,
    pub(crate) propagation: Option<(Propagation, bool)>,
    pub(crate) data: Vec<(String, Option<String>)>,
}

/// Where a mount comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A path of the host; made by the caller.
    Bind { path: PathBuf, recursive: bool },
    /// The container's `/dev` with its nodes; made by the caller.
    Dev,
    /// The container's own control group; made by the caller.
    Cgroup,
    /// A new file system, made by the process so that it belongs to its namespaces.
    New { kind: String, source: Option<String> },
}

impl MountPlan {
    pub(crate) fn new(at: usize, mount: &Mount) -> Result<Self> {
        let field = format!("mounts[{at}]");
        let target = &mount.destination;
        if target.as_os_str().is_empty() || target.components().any(|c| matches!(c, Component::ParentDir)) {
            return Err(wrong(&field, format_args!("destination {target:?} is empty or has a `..`")));
        }
        if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
            let sentence = format!("{field}: id mappings of one mount are not supported yet");
            return Err(Error::new(ErrorKind::Unsupported, sentence));
        }
        let mut plan = Self {
            target: Path::new("/").join(target),
            source: Source::Cgroup,
            set: Attributes::empty(),
            clear: Attributes::empty(),
            set_all: Attributes::empty(),
            propagation: None,
            data: Vec::new(),
        };
        // Whether it is a bind mount is decided by the options; the type is a habit of callers.
        let mut bind = mount.kind == "bind" || mount.kind == "rbind";
        let mut recursive = mount.kind == "rbind";
        for option in &mount.options {
            match option.as_str() {
                "bind" => bind = true,
                "rbind" => (bind, recursive) = (true, true),
                option => plan.read_option(option),
            }
        }
        plan.source = if bind {
            let path = mount.source.clone().ok_or_else(|| wrong(&field, "a bind mount needs a source"))?;
            Source::Bind { path, recursive }
        } else {
            match mount.kind.as_str() {
                "" => return Err(wrong(&field, "has neither a type nor a bind option")),
                "cgroup" | "cgroup2" => Source::Cgroup,
                "tmpfs" if plan.target == Path::new("/dev") => Source::Dev,
                kind => Source::New {
                    kind: kind.to_owned(),
                    source: mount.source.as_ref().map(|source| source.to_string_lossy().into_owned()),
                },
            }
        };
        Ok(plan)
    }

    fn read_option(&mut self, option: &str) {
        if let Some((attribute, on)) = attribute(option) {
            let (add, remove) = if on { (&mut self.set, &mut self.clear) } else { (&mut self.clear, &mut self.set) };
            *add = *add | attribute;
            *remove = remove.without(attribute);
            return;
        }
        if let Some((attribute, true)) = option.strip_prefix('r').and_then(attribute) {
            self.set_all = self.set_all | attribute;
            return;
        }
        match option {
            "shared" => self.propagation = Some((Propagation::Shared, false)),
            "rshared" => self.propagation = Some((Propagation::Shared, true)),
            "slave" => self.propagation = Some((Propagation::Slave, false)),
            "rslave" => self.propagation = Some((Propagation::Slave, true)),
            "private" => self.propagation = Some((Propagation::Private, false)),
            "rprivate" => self.propagation = Some((Propagation::Private, true)),
            "unbindable" => self.propagation = Some((Propagation::Unbindable, false)),
            "runbindable" => self.propagation = Some((Propagation::Unbindable, true)),
            "defaults" | "relatime" | "norelatime" | "async" => {}
            other => self.data.push(match other.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (other.to_owned(), None),
            }),
        }
    }

    /// The change that turns a fresh copy of a mount into this one.
    fn change(&self) -> Change<'static> {
        let mut clear = self.clear;
        // The access-time policy is one field: it is cleared whenever a value is set (mount_setattr(2)).
        if self.set.contains(Attributes::NOATIME) || self.set.contains(Attributes::STRICTATIME) {
            clear = clear | Attributes::ATIME;
        }
        Change { set: self.set, clear, ..Change::default() }
    }

    /// Applies attributes and propagation to the detached `mount`.
    pub(crate) fn dress(&self, mount: &OwnedFd) -> sys::Result<()> {
        let change = self.change();
        if !change.set.is_empty() || !change.clear.is_empty() {
            sys::mount::set_attributes(mount, &change)?;
        }
        if !self.set_all.is_empty() {
            let all = Change { set: self.set_all, recursive: true, ..Change::default() };
            sys::mount::set_attributes(mount, &all)?;
        }
        if let Some((propagation, recursive)) = self.propagation {
            let change = Change { propagation: Some(propagation), recursive, ..Change::default() };
            sys::mount::set_attributes(mount, &change)?;
        }
        Ok(())
    }
}

fn attribute(option: &str) -> Option<(Attributes, bool)> {
    Some(match option {
        "ro" => (Attributes::RDONLY, true),
        "rw" => (Attributes::RDONLY, false),
        "nosuid" => (Attributes::NOSUID, true),
        "suid" => (Attributes::NOSUID, false),
        "nodev" => (Attributes::NODEV, true),
        "dev" => (Attributes::NODEV, false),
        "noexec" => (Attributes::NOEXEC, true),
        "exec" => (Attributes::NOEXEC, false),
        "noatime" => (Attributes::NOATIME, true),
        "strictatime" => (Attributes::STRICTATIME, true),
        "atime" | "nostrictatime" => (Attributes::ATIME, false),
        "nodiratime" => (Attributes::NODIRATIME, true),
        "diratime" => (Attributes::NODIRATIME, false),
        "nosymfollow" => (Attributes::NOSYMFOLLOW, true),
        "symfollow" => (Attributes::NOSYMFOLLOW, false),
        _ => return None,
    })
}

/// The mounts that the caller makes for the process, in the order the process attaches them: for each plan of its
/// own one, for the control groups of a v1 host a tmpfs and one each.
pub(crate) fn make_callers(plan: &Plan<'_>, cgroup: &Cgroup, userns: Option<BorrowedFd<'_>>) -> Result<Vec<OwnedFd>> {
    let mut made = Vec::new();
    for mount in &plan.mounts {
        match &mount.source {
            Source::Bind { path, recursive } => made.push(bind(mount, path, *recursive, userns)?),
            Source::Dev => made.push(dev(plan, mount)?),
            Source::Cgroup => {
                hand_over(plan, mount, cgroup)?;
                cgroups(plan, mount, cgroup, &mut made)?;
            }
            Source::New { .. } => {}
        }
    }
    Ok(made)
}

fn bind(mount: &MountPlan, path: &Path, recursive: bool, userns: Option<BorrowedFd<'_>>) -> Result<OwnedFd> {
    let what = || format!("cannot mount {} at {}", path.display(), mount.target.display());
    let tree = sys::mount::clone_path(path, recursive).doing(what)?;
    if let Some(userns) = userns {
        map_ids(&tree, userns, recursive).map_err(|cause| {
            let sentence = format!("{}: its file system cannot map ids into the container's user namespace", what());
            Error::system(sentence, cause).with_kind(ErrorKind::Unsupported)
        })?;
    }
    mount.dress(&tree).doing(what)?;
    Ok(tree)
}

/// Shows a detached tree through the container's id maps. Mounts below its top that refuse keep their own ids; a device
/// node, socket or fifo on a file system that refuses has no ids worth mapping.
pub(crate) fn map_ids(tree: &OwnedFd, userns: BorrowedFd<'_>, recursive: bool) -> sys::Result<()> {
    let change = Change { idmap: Some(userns), recursive, ..Change::default() };
    match sys::mount::set_attributes(tree, &change) {
        Err(cause) if recursive && cause.errno() == Errno::INVAL => map_ids(tree, userns, false),
        Err(cause) if cause.errno() == Errno::INVAL => {
            let stat = rustix::fs::statat(tree, "", AtFlags::EMPTY_PATH).at("fstat", "")?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile | FileType::Directory => Err(cause),
                _ => Ok(()),
            }
        }
        other => other,
    }
}

/// The nodes every container has (`config-linux.md`, "Default Devices"): name, major, minor.
const NODES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
    ("core", "/proc/kcore"),
];

/// `/dev`: made here and not in the container, since only the host's root makes device nodes, and one tmpfs with six
/// nodes is cheaper than six bind mounts. Everything belongs to the container's root.
fn dev(plan: &Plan<'_>, mount: &MountPlan) -> Result<OwnedFd> {
    let what = || "cannot make the container's /dev".to_owned();
    let (uid, gid) = plan.root_ids();
    let fs = NewFs::open("tmpfs").doing(what)?;
    fs.set("source", "tmpfs").doing(what)?;
    set_data(&fs, &mount.data).doing(what)?;
    fs.set("uid", &uid.to_string()).doing(what)?;
    fs.set("gid", &gid.to_string()).doing(what)?;
    // Nodes must be usable here whatever the options said of other device nodes; read-only would keep them from being
    // made, so it is set last.
    let dir = fs.mount(mount.set.without(Attributes::RDONLY).without(Attributes::NODEV)).doing(what)?;
    let before = rustix::process::umask(Mode::empty());
    let filled = fill_dev(plan, &dir, uid, gid);
    rustix::process::umask(before);
    filled?;
    if mount.set.contains(Attributes::RDONLY) {
        sys::mount::set_attributes(&dir, &Change { set: Attributes::RDONLY, ..Change::default() }).doing(what)?;
    }
    Ok(dir)
}

fn fill_dev(plan: &Plan<'_>, dir: &OwnedFd, uid: u32, gid: u32) -> Result<()> {
    let owner = |name: &str| own(dir, name, uid, gid);
    for (name, major, minor) in NODES {
        let mode = Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(dir, name, FileType::CharacterDevice, mode, makedev(major, minor))
            .at("mknodat", name)
            .and_then(|()| owner(name))
            .doing(|| format!("cannot make the container's /dev/{name}"))?;
    }
    for (name, target) in LINKS {
        rustix::fs::symlinkat(target, dir, name)
            .at("symlinkat", name)
            .and_then(|()| owner(name))
            .doing(|| format!("cannot make the container's /dev/{name}"))?;
    }
    for device in &plan.linux.devices {
        device_node(plan, dir, device, uid, gid)?;
    }
    Ok(())
}

fn own(dir: &OwnedFd, name: &str, uid: u32, gid: u32) -> sys::Result<()> {
    if (uid, gid) == (0, 0) {
        return Ok(());
    }
    let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
    rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).at("fchownat", name)
}

fn device_node(plan: &Plan<'_>, dir: &OwnedFd, device: &LinuxDevice, uid: u32, gid: u32) -> Result<()> {
    let field = "linux.devices";
    let path = &device.path;
    let Ok(below) = path.strip_prefix("/dev") else {
        return Err(wrong(field, format_args!("{} is not below /dev", path.display())));
    };
    if below.as_os_str().is_empty() || below.components().any(|c| !matches!(c, Component::Normal(_))) {
        return Err(wrong(field, format_args!("{} is no path of a device", path.display())));
    }
    // Those are there already: a caller that lists all devices of its own /dev lists them as well.
    let known = NODES.iter().map(|(name, ..)| name).chain(LINKS.iter().map(|(name, _)| name));
    if known.into_iter().any(|name| Path::new(name) == below) {
        return Ok(());
    }
    let kind = match device.kind.as_str() {
        "c" | "u" => FileType::CharacterDevice,
        "b" => FileType::BlockDevice,
        "p" => FileType::Fifo,
        other => return Err(wrong(field, format_args!("type {other:?} of {} is none of c, u, b, p", path.display()))),
    };
    let number =
        |value: i64| u32::try_from(value).map_err(|_| wrong(field, format_args!("{value} is no device number")));
    let device_number = makedev(number(device.major)?, number(device.minor)?);
    let mode = Mode::from_raw_mode(device.file_mode.unwrap_or(0o666) & 0o7777);
    let what = || format!("cannot make the container's {}", path.display());
    let parent = below.parent().unwrap_or(Path::new(""));
    let name = below.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let parent = sys::fs::make_dirs_in_root(dir, parent, 0o755).doing(what)?;
    rustix::fs::mknodat(&parent, &name, kind, mode, device_number).at("mknodat", path.display()).doing(what)?;
    let host = |id: Option<u32>, root: u32| match id {
        Some(id) if plan.has_user_namespace() => root.saturating_add(id),
        Some(id) => id,
        None => root,
    };
    own(&parent, &name, host(device.uid, uid), host(device.gid, gid)).doing(what)
}

/// Names below `/sys/fs/cgroup` of a v1 or hybrid host: what the process attaches after the tmpfs.
pub(crate) fn cgroup_names(cgroup: &Cgroup) -> Result<Vec<String>> {
    let hierarchies = cgroup.hierarchies().map_err(|error| cgroup_error("cannot open the control group", error))?;
    if let [only] = &hierarchies[..]
        && only.version == Version::V2
    {
        return Ok(Vec::new());
    }
    let name = |mount: &Path| mount.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(hierarchies.iter().map(|hierarchy| name(hierarchy.mount)).collect())
}

fn cgroups(plan: &Plan<'_>, mount: &MountPlan, cgroup: &Cgroup, made: &mut Vec<OwnedFd>) -> Result<()> {
    let what = || format!("cannot show the control group at {}", mount.target.display());
    let names = cgroup_names(cgroup)?;
    if !names.is_empty() {
        let (uid, gid) = plan.root_ids();
        let fs = NewFs::open("tmpfs").doing(what)?;
        for (key, value) in [("source", "tmpfs"), ("mode", "755"), ("uid", &uid.to_string()), ("gid", &gid.to_string())]
        {
            fs.set(key, value).doing(what)?;
        }
        let dir = fs.mount(mount.set.without(Attributes::RDONLY)).doing(what)?;
        for name in &names {
            rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755)).at("mkdirat", name).doing(what)?;
        }
        // A controller that shares its hierarchy is found under its own name as well.
        for name in names.iter().filter(|name| name.contains(',')) {
            for controller in name.split(',') {
                rustix::fs::symlinkat(name, &dir, controller).at("symlinkat", controller).doing(what)?;
            }
        }
        if mount.set.contains(Attributes::RDONLY) {
            sys::mount::set_attributes(&dir, &Change { set: Attributes::RDONLY, ..Change::default() }).doing(what)?;
        }
        made.push(dir);
    }
    let hierarchies = cgroup.hierarchies().map_err(|error| cgroup_error("cannot open the control group", error))?;
    for hierarchy in hierarchies {
        // Without a namespace of its own the container sees all of the one hierarchy of v2, and of several just its own
        // group in each: so do runc and crun, and programs that read their limits rely on it.
        let tree = if plan.new_cgroup_namespace || !names.is_empty() {
            sys::mount::clone_tree(hierarchy.fd, "", false).doing(what)?
        } else {
            sys::mount::clone_path(hierarchy.mount, false).doing(what)?
        };
        sys::mount::set_attributes(&tree, &Change { set: mount.set, ..Change::default() }).doing(what)?;
        made.push(tree);
    }
    Ok(())
}

/// Gives a container that sees its own group of control groups v2, and may write there, that group: it can then make
/// groups inside. The owner is whoever its process is (config-linux.md, "Cgroup ownership"). Limits stay the host's.
fn hand_over(plan: &Plan<'_>, mount: &MountPlan, cgroup: &Cgroup) -> Result<()> {
    if mount.set.contains(Attributes::RDONLY)
        || !plan.new_cgroup_namespace
        || !plan.has_user_namespace()
        || cgroup.host().layout() != Layout::V2
    {
        return Ok(());
    }
    let on_host = |map: &[IdMapping], id: u32| {
        let range = map.iter().find(|m| id.checked_sub(m.container_id).is_some_and(|offset| offset < m.size))?;
        range.host_id.checked_add(id - range.container_id)
    };
    let user = &plan.process.user;
    let owner = on_host(&plan.linux.uid_mappings, user.uid).zip(on_host(&plan.linux.gid_mappings, user.gid));
    let Some((uid, gid)) = owner else { return Ok(()) };
    cgroup
        .delegate(Uid::from_raw(uid), Gid::from_raw(gid))
        .map_err(|error| cgroup_error("cannot hand the control group over", error))
}

/// A control group's refusal in the runtime's terms.
pub(crate) fn cgroup_error(doing: &str, error: crate::cgroup::Error) -> Error {
    use crate::cgroup::Error as Cause;
    match error {
        Cause::Sys(cause) => Error::system(doing, cause),
        Cause::NoController { .. } | Cause::NotMounted | Cause::Unsupported { .. } => {
            Error::new(ErrorKind::Unsupported, error.to_string())
        }
        Cause::Invalid { .. } | Cause::InvalidPath { .. } => Error::new(ErrorKind::Config, error.to_string()),
        other => Error::new(ErrorKind::System, other.to_string()),
    }
}

/// Gives a file system its own options.
pub(crate) fn set_data(fs: &NewFs, data: &[(String, Option<String>)]) -> sys::Result<()> {
    for (key, value) in data {
        match value {
            Some(value) => fs.set(key, value)?,
            None => fs.set_flag(key)?,
        }
    }
    Ok(())
}

/// The root file system, detached. `root_ids` are the host's ids of the container's root.
pub(crate) fn make_root(
    rootfs: &crate::launch::Rootfs,
    root_ids: (u32, u32),
    userns: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd> {
    use crate::launch::Rootfs;
    let tree = match rootfs {
        Rootfs::Directory(path) => {
            let what = || format!("cannot use {} as the root file system", path.display());
            let tree = sys::mount::clone_path(path, true).doing(what)?;
            if let Some(userns) = userns {
                map_ids(&tree, userns, true).map_err(|cause| {
                    let sentence = format!("{}: its file system cannot map ids", what());
                    Error::system(sentence, cause).with_kind(ErrorKind::Unsupported)
                })?;
            }
            tree
        }
        Rootfs::AsIs(path) => sys::mount::clone_path(path, true)
            .doing(|| format!("cannot use {} as the root file system", path.display()))?,
        Rootfs::Overlay { layers_dir, lowers, writable_dir, volatile } => {
            let layers = overlay::Layers { dir: layers_dir, lowers, writable: writable_dir, volatile: *volatile };
            overlay::mount(layers, root_ids, userns)?
        }
    };
    // Device nodes of an image are dead; the ones of /dev sit on their own mount. Without a user namespace MKNOD may
    // have been granted, whose nodes must then work: the control group decides.
    let set = if userns.is_some() { Attributes::NODEV } else { Attributes::empty() };
    let change = Change { set, propagation: Some(Propagation::Private), recursive: true, ..Change::default() };
    sys::mount::set_attributes(&tree, &change).doing(|| "cannot set up the root file system".to_owned())?;
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(kind: &str, options: &[&str]) -> MountPlan {
        let mount = Mount {
            destination: "/x".into(),
            kind: kind.to_owned(),
            source: Some("/src".into()),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            ..Mount::default()
        };
        MountPlan::new(0, &mount).expect("valid")
    }

    #[test]
    fn options_are_read_in_order() {
        let mount = plan("bind", &["rbind", "ro", "rw", "nosuid", "rprivate"]);
        assert_eq!(mount.source, Source::Bind { path: "/src".into(), recursive: true });
        assert_eq!((mount.set, mount.clear), (Attributes::NOSUID, Attributes::RDONLY));
        assert_eq!(mount.propagation, Some((Propagation::Private, true)));
        let mount = plan("none", &["bind", "rro"]);
        assert_eq!((mount.set, mount.set_all), (Attributes::empty(), Attributes::RDONLY));
        let mount = plan("tmpfs", &["size=1m", "mode=1777", "noswap", "noexec"]);
        assert_eq!(mount.source, Source::New { kind: "tmpfs".to_owned(), source: Some("/src".to_owned()) });
        assert_eq!(mount.data[0], ("size".to_owned(), Some("1m".to_owned())));
        assert_eq!(mount.data[2], ("noswap".to_owned(), None));
    }

    #[test]
    fn a_bind_without_source_and_a_mount_without_type_are_mistakes() {
        let bad = |kind: &str| {
            let mount = Mount { destination: "/x".into(), kind: kind.to_owned(), ..Mount::default() };
            MountPlan::new(3, &mount).expect_err("wrong").to_string()
        };
        assert!(bad("bind").starts_with("mounts[3]"));
        assert!(bad("").starts_with("mounts[3]"));
    }
}
