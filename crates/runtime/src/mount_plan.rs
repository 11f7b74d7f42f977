//! One entry of `mounts`, read: where it comes from, where it goes, what its options say.
//!
//! Option names are the specification's (`config.md`, "Linux mount options") and, where callers use them, crun's
//! (crun(1), "mount options"); what is no mount option is the file system's own.

use std::os::fd::BorrowedFd;
use std::path::{Component, Path, PathBuf};

use oci::runtime::{IdMapping, Mount};
use sys::Errno;
use sys::mount::{Attributes, Change, Propagation};

use crate::error::Result;
use crate::plan::wrong;

/// A mount to be made.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MountPlan {
    /// Absolute, without `..`.
    pub(crate) target: PathBuf,
    pub(crate) source: Source,
    pub(crate) set: Attributes,
    pub(crate) clear: Attributes,
    /// Attributes for the whole tree (`rro` and its like).
    pub(crate) set_all: Attributes,
    /// The same, taken away (`rrw` and its like).
    pub(crate) clear_all: Attributes,
    pub(crate) propagation: Option<(Propagation, bool)>,
    pub(crate) ids: Ids,
    /// A tmpfs begins with what its mount point holds (`tmpcopyup`).
    pub(crate) copy_up: bool,
    /// A last symbolic link of the source is mounted itself (`src-nofollow`).
    pub(crate) source_nofollow: bool,
    /// A last symbolic link of the target is mounted over itself (`dest-nofollow`).
    pub(crate) target_nofollow: bool,
    pub(crate) data: Vec<(String, Option<String>)>,
}

/// Where a mount comes from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Source {
    /// A path of the host; made by the caller.
    Bind { path: PathBuf, recursive: bool },
    /// The container's `/dev` with its nodes; made by the caller.
    Dev,
    /// The container's own control group; made by the caller.
    Cgroup,
    /// A new file system, made by the process so that it belongs to its namespaces.
    New { kind: String, source: Option<String> },
    /// No mount: a symbolic link like the source is made (`copy-symlink`).
    Link { to: PathBuf },
}

/// Through which id map a bind mount is seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Ids {
    /// As the launch says for all.
    #[default]
    Default,
    /// The container's user namespace (`idmap`, `ridmap`).
    Container { recursive: bool },
    /// A map of its own.
    Own { uids: Vec<IdMapping>, gids: Vec<IdMapping>, recursive: bool },
}

impl MountPlan {
    pub(crate) fn new(at: usize, mount: &Mount, container: (&[IdMapping], &[IdMapping])) -> Result<Self> {
        let field = format!("mounts[{at}]");
        let target = &mount.destination;
        if target.as_os_str().is_empty() || target.components().any(|c| matches!(c, Component::ParentDir)) {
            return Err(wrong(&field, format_args!("destination {target:?} is empty or has a `..`")));
        }
        let mut plan = Self {
            target: Path::new("/").join(target),
            source: Source::Cgroup,
            set: Attributes::empty(),
            clear: Attributes::empty(),
            set_all: Attributes::empty(),
            clear_all: Attributes::empty(),
            propagation: None,
            ids: Ids::Default,
            copy_up: false,
            source_nofollow: false,
            target_nofollow: false,
            data: Vec::new(),
        };
        // Whether it is a bind mount is decided by the options; the type is a habit of callers.
        let mut bind = mount.kind == "bind" || mount.kind == "rbind";
        let mut recursive = mount.kind == "rbind";
        let mut copy_symlink = false;
        let mut ids = None;
        for option in &mount.options {
            match option.as_str() {
                "bind" => bind = true,
                "rbind" => (bind, recursive) = (true, true),
                "copy-symlink" => copy_symlink = true,
                "src-nofollow" => plan.source_nofollow = true,
                "dest-nofollow" => plan.target_nofollow = true,
                "tmpcopyup" => plan.copy_up = true,
                "idmap" => ids = Some((false, "")),
                "ridmap" => ids = Some((true, "")),
                option => match option.strip_prefix("idmap=").map(|text| (false, text)) {
                    Some(given) => ids = Some(given),
                    None => match option.strip_prefix("ridmap=") {
                        Some(text) => ids = Some((true, text)),
                        None => plan.read_option(option),
                    },
                },
            }
        }
        plan.ids = read_ids(&field, mount, ids, container)?;
        plan.source = if bind {
            let path = mount.source.clone().ok_or_else(|| wrong(&field, "a bind mount needs a source"))?;
            match copy_symlink.then(|| std::fs::read_link(&path)) {
                Some(Ok(to)) => Source::Link { to },
                _ => Source::Bind { path, recursive },
            }
        } else {
            match mount.kind.as_str() {
                "" => return Err(wrong(&field, "has neither a type nor a bind option")),
                _ if plan.ids != Ids::Default => {
                    return Err(wrong(&field, "id mappings are for bind mounts only"));
                }
                "cgroup" | "cgroup2" => Source::Cgroup,
                "tmpfs" if plan.target == Path::new("/dev") => Source::Dev,
                kind => Source::New {
                    kind: kind.to_owned(),
                    source: mount.source.as_ref().map(|source| source.to_string_lossy().into_owned()),
                },
            }
        };
        if !matches!(plan.source, Source::Bind { .. }) {
            // Nothing is mounted below a new file system: it is all that `rro` and its like have to change.
            plan.set = plan.set.without(plan.clear_all) | plan.set_all;
            plan.clear = plan.clear | plan.clear_all;
            (plan.set_all, plan.clear_all) = (Attributes::empty(), Attributes::empty());
        }
        if plan.copy_up && plan.target == Path::new("/") {
            return Err(wrong(&field, "tmpcopyup cannot be the root's: there would be nothing left to copy"));
        }
        if plan.copy_up && !matches!(&plan.source, Source::New { kind, .. } if kind == "tmpfs") {
            // Podman says it of every tmpfs, /dev included, which is filled by the runtime.
            plan.copy_up = false;
            if plan.source != Source::Dev {
                return Err(wrong(&field, "tmpcopyup is for tmpfs only"));
            }
        }
        Ok(plan)
    }

    fn read_option(&mut self, option: &str) {
        if let Some((attribute, on)) = attribute(option) {
            change_sets(attribute, on, &mut self.set, &mut self.clear);
            return;
        }
        if let Some((attribute, on)) = option.strip_prefix('r').and_then(attribute) {
            change_sets(attribute, on, &mut self.set_all, &mut self.clear_all);
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
            // The opposite of a flag that no new file system has; Podman's `--systemd` writes an option without a name.
            "" | "defaults" | "norelatime" | "async" | "nomand" | "loud" | "rnorelatime" | "silent" | "iversion"
            | "noiversion" => {}
            other => self.data.push(match other.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (other.to_owned(), None),
            }),
        }
    }

    /// Whether the file system is told `key`.
    pub(crate) fn has_data(&self, key: &str) -> bool {
        self.data.iter().any(|(known, _)| known == key)
    }

    /// Applies attributes and propagation to the detached `mount`, a copy of another one.
    pub(crate) fn dress(&self, mount: BorrowedFd<'_>) -> sys::Result<()> {
        change(mount, self.set, self.clear, false)?;
        change(mount, self.set_all, self.clear_all, true)?;
        // A copy is a peer of what it was copied from, and what is mounted inside would appear on the host.
        let (propagation, recursive) = self.propagation.unwrap_or((Propagation::Private, true));
        let change = Change { propagation: Some(propagation), recursive, ..Change::default() };
        sys::mount::set_attributes(mount, &change)
    }
}

/// Changes attributes. Those that a less privileged user namespace finds locked stay as they are (mount_namespaces(7),
/// "Restrictions on mount namespaces"): what is asked for on top of them is added.
fn change(mount: BorrowedFd<'_>, set: Attributes, clear: Attributes, recursive: bool) -> sys::Result<()> {
    if set.is_empty() && clear.is_empty() {
        return Ok(());
    }
    // The access-time policy is one field: it is cleared whenever a value is set (mount_setattr(2)).
    let timed = set.contains(Attributes::NOATIME) || set.contains(Attributes::STRICTATIME);
    let all = if timed { clear | Attributes::ATIME } else { clear };
    match sys::mount::set_attributes(mount, &Change { set, clear: all, recursive, ..Change::default() }) {
        Err(cause) if cause.errno() == Errno::PERM && !all.is_empty() => {
            let set = set.without(Attributes::NOATIME).without(Attributes::STRICTATIME);
            if set.is_empty() {
                return Ok(());
            }
            sys::mount::set_attributes(mount, &Change { set, recursive, ..Change::default() })
        }
        other => other,
    }
}

fn change_sets(attribute: Attributes, on: bool, set: &mut Attributes, clear: &mut Attributes) {
    let (add, remove) = if on { (set, clear) } else { (clear, set) };
    // One field for the access-time policy: the last word counts.
    if Attributes::ATIME.contains(attribute) {
        *remove = remove.without(Attributes::ATIME);
        *add = add.without(Attributes::ATIME);
    }
    *add = *add | attribute;
    *remove = remove.without(attribute);
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
        "atime" | "nostrictatime" | "relatime" => (Attributes::ATIME, false),
        "nodiratime" => (Attributes::NODIRATIME, true),
        "diratime" => (Attributes::NODIRATIME, false),
        "nosymfollow" => (Attributes::NOSYMFOLLOW, true),
        "symfollow" => (Attributes::NOSYMFOLLOW, false),
        _ => return None,
    })
}

/// The id map of a mount: `option` is what `idmap` or `ridmap` said (recursive, text after the `=`).
fn read_ids(
    field: &str,
    mount: &Mount,
    option: Option<(bool, &str)>,
    container: (&[IdMapping], &[IdMapping]),
) -> Result<Ids> {
    let recursive = option.is_some_and(|(recursive, _)| recursive);
    let own = !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty();
    let (uids, gids) = match option {
        Some((_, text)) if !text.is_empty() => {
            if own {
                return Err(wrong(field, "has both id mappings and an idmap option with mappings"));
            }
            parse_ids(field, text, container)?
        }
        _ if own => (mount.uid_mappings.clone(), mount.gid_mappings.clone()),
        Some(_) => return Ok(Ids::Container { recursive }),
        None => return Ok(Ids::Default),
    };
    if uids.is_empty() || gids.is_empty() {
        return Err(wrong(field, "uidMappings and gidMappings have to be given together"));
    }
    let fits = |m: &IdMapping| {
        m.size > 0 && m.container_id.checked_add(m.size).is_some() && m.host_id.checked_add(m.size).is_some()
    };
    if let Some(bad) = uids.iter().chain(&gids).find(|mapping| !fits(mapping)) {
        return Err(wrong(field, format_args!("{bad:?} is empty or runs past the last id")));
    }
    Ok(Ids::Own { uids, gids, recursive })
}

/// crun's form: `uids=0-1000-1#1-2000-10;gids=…`, each source-target-count. An `@` before a triple means that its target is
/// an id of the container and not of the host.
fn parse_ids(
    field: &str,
    text: &str,
    (uids, gids): (&[IdMapping], &[IdMapping]),
) -> Result<(Vec<IdMapping>, Vec<IdMapping>)> {
    let bad = |what: &str| wrong(field, format_args!("idmap={text}: {what}"));
    let host = |id: u32, size: u32, map: &[IdMapping]| {
        let within = |m: &&IdMapping| {
            id >= m.container_id && u64::from(id - m.container_id) + u64::from(size) <= u64::from(m.size)
        };
        map.iter().find(within).map(|m| m.host_id + (id - m.container_id))
    };
    let mut read = (Vec::new(), Vec::new());
    for part in text.split(';').filter(|part| !part.is_empty()) {
        let (list, map, triples) = match part.split_once('=') {
            Some(("uids", triples)) => (&mut read.0, uids, triples),
            Some(("gids", triples)) => (&mut read.1, gids, triples),
            _ => return Err(bad("neither uids= nor gids=")),
        };
        for triple in triples.split('#').filter(|triple| !triple.is_empty()) {
            let relative = triple.strip_prefix('@');
            let numbers: Vec<u32> =
                relative.unwrap_or(triple).split('-').map_while(|number| number.parse().ok()).collect();
            let &[container_id, host_id, size] = &numbers[..] else { return Err(bad("not source-target-count")) };
            let host_id = match relative {
                None => host_id,
                Some(_) => host(host_id, size, map).ok_or_else(|| bad("no such ids in the container"))?,
            };
            list.push(IdMapping { container_id, host_id, size });
        }
    }
    Ok(read)
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
        MountPlan::new(0, &mount, (&[], &[])).expect("valid")
    }

    #[test]
    fn options_are_read_in_order() {
        let mount = plan("bind", &["rbind", "ro", "rw", "nosuid", "rprivate"]);
        assert_eq!(mount.source, Source::Bind { path: "/src".into(), recursive: true });
        assert_eq!((mount.set, mount.clear), (Attributes::NOSUID, Attributes::RDONLY));
        assert_eq!(mount.propagation, Some((Propagation::Private, true)));
        let mount = plan("none", &["bind", "rro"]);
        assert_eq!((mount.set, mount.set_all), (Attributes::empty(), Attributes::RDONLY));
        let mount = plan("tmpfs", &["", "size=1m", "mode=1777", "noswap", "noexec"]);
        assert_eq!(mount.source, Source::New { kind: "tmpfs".to_owned(), source: Some("/src".to_owned()) });
        assert_eq!(mount.data[0], ("size".to_owned(), Some("1m".to_owned())));
        assert_eq!(mount.data[2], ("noswap".to_owned(), None));
        assert_eq!(plan("tmpfs", &["rro"]).set, Attributes::RDONLY);
    }

    #[test]
    fn a_bind_without_source_and_a_mount_without_type_are_mistakes() {
        let bad = |kind: &str| {
            let mount = Mount { destination: "/x".into(), kind: kind.to_owned(), ..Mount::default() };
            MountPlan::new(3, &mount, (&[], &[])).expect_err("wrong").to_string()
        };
        assert!(bad("bind").starts_with("mounts[3]"));
        assert!(bad("").starts_with("mounts[3]"));
    }

    #[test]
    fn the_last_word_on_access_times_counts() {
        let mount = plan("bind", &["bind", "noatime", "relatime"]);
        assert_eq!((mount.set, mount.clear), (Attributes::empty(), Attributes::ATIME));
        let mount = plan("bind", &["bind", "relatime", "noatime", "rnosuid", "rrw"]);
        assert_eq!((mount.set, mount.clear), (Attributes::NOATIME, Attributes::empty()));
        assert_eq!((mount.set_all, mount.clear_all), (Attributes::NOSUID, Attributes::RDONLY));
    }

    #[test]
    fn id_maps_come_from_the_entry_or_from_the_option() {
        let map = |container_id, host_id, size| IdMapping { container_id, host_id, size };
        let container = [map(0, 100_000, 1000)];
        let read = |option: &str, own: &[IdMapping]| {
            let mount = Mount {
                destination: "/x".into(),
                source: Some("/src".into()),
                options: vec!["bind".to_owned(), option.to_owned()],
                uid_mappings: own.to_vec(),
                gid_mappings: own.to_vec(),
                ..Mount::default()
            };
            MountPlan::new(0, &mount, (&container, &container)).map(|plan| plan.ids)
        };
        assert_eq!(read("ro", &[]).expect("valid"), Ids::Default);
        assert_eq!(read("ridmap", &[]).expect("valid"), Ids::Container { recursive: true });
        let own = vec![map(0, 7, 1)];
        let expected = Ids::Own { uids: own.clone(), gids: own.clone(), recursive: false };
        assert_eq!(read("idmap", &own).expect("valid"), expected);
        let text = "idmap=uids=0-5-1#@1-10-2;gids=0-6-1";
        let uids = vec![map(0, 5, 1), map(1, 100_010, 2)];
        assert_eq!(read(text, &[]).expect("valid"), Ids::Own { uids, gids: vec![map(0, 6, 1)], recursive: false });
        for bad in ["idmap=0-1-2", "idmap=uids=0-1", "idmap=uids=0-1-1", "idmap=uids=@0-999-2;gids=0-0-1"] {
            assert!(read(bad, &[]).expect_err(bad).to_string().starts_with("mounts[0]"));
        }
        assert!(read("idmap", &[map(0, u32::MAX, 2)]).is_err());
    }
}
