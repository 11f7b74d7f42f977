//! The ids of a user namespace: which there are when the configuration does not say, and how the kernel is told.
//!
//! Whoever holds the privilege over ids writes them; an ordinary user writes a map of the own id alone. Further ids are
//! lent to a user by `/etc/subuid` and `/etc/subgid` (subuid(5)), and only the set-user-id programs newuidmap(1) and
//! newgidmap(1) may map those: the one place where a program of the host's is executed for a container's set-up.

use std::fmt::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use oci::runtime::{IdMapping, Linux, LinuxNamespace, NamespaceKind, Spec};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::process::Signal;
use sys::process::{CloneArgs, Namespaces};
use sys::{Context as _, Errno};

use crate::error::{Doing, Error, ErrorKind, Result};
use crate::link;
use crate::parent::{clone_error, put_down};

/// Where newuidmap(1) and newgidmap(1) are looked for; never in a `PATH`, which may be anybody's. The last is NixOS's.
const HELPER_DIRS: [&str; 4] = ["/usr/bin", "/bin", "/usr/local/bin", "/run/wrappers/bin"];

/// How long such a helper may take: it reads two small files, or asks the network for them.
const HELPER_PATIENCE: Duration = Duration::from_secs(30);

/// Longest list of users or of lent ids that is read, in bytes.
const LONGEST_LIST: usize = 16 << 20;

/// Longest text of a helper that is passed on, in bytes.
const LONGEST_WORDS: usize = 4096;

/// Users or groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    User,
    Group,
}

impl Kind {
    fn file(self) -> &'static str {
        match self {
            Self::User => "uid_map",
            Self::Group => "gid_map",
        }
    }

    fn lent(self) -> &'static str {
        match self {
            Self::User => "/etc/subuid",
            Self::Group => "/etc/subgid",
        }
    }

    fn helper(self) -> &'static str {
        match self {
            Self::User => "newuidmap",
            Self::Group => "newgidmap",
        }
    }

    fn own(self) -> u32 {
        match self {
            Self::User => rustix::process::geteuid().as_raw(),
            Self::Group => rustix::process::getegid().as_raw(),
        }
    }
}

/// Gives an ordinary user's container a user namespace, without which there is none, and a new user namespace the ids that the configuration does not give it, as crun does: the caller's own id is that
/// of the container's process, and the ids lent to the caller by `/etc/subuid` and `/etc/subgid` are the others. Where
/// none are lent, or cannot be mapped, an ordinary user's own id is the only one, root's or the process's; and the host's
/// root maps the ids from its own to the process's as they are.
///
/// Tells whether the configuration is another one by that. `ordinary` is whether the caller has no privilege.
///
/// # Errors
/// System call errors.
pub fn default_mappings(spec: &mut Spec, ordinary: bool) -> Result<bool> {
    if ordinary && spec.namespace(NamespaceKind::User).is_none() {
        let linux = spec.linux.get_or_insert_with(Linux::default);
        linux.namespaces.push(LinuxNamespace { kind: NamespaceKind::User, path: None });
    }
    let new = spec.namespace(NamespaceKind::User).is_some_and(|namespace| namespace.path.is_none());
    let user = spec.process.as_ref().map_or((0, 0), |process| (process.user.uid, process.user.gid));
    let Some(linux) = spec.linux.as_mut().filter(|_| new) else { return Ok(false) };
    let missing = linux.uid_mappings.is_empty() || linux.gid_mappings.is_empty();
    if linux.uid_mappings.is_empty() {
        linux.uid_mappings = default_for(Kind::User, user.0)?;
    }
    if linux.gid_mappings.is_empty() {
        linux.gid_mappings = default_for(Kind::Group, user.1)?;
    }
    Ok(missing)
}

fn default_for(kind: Kind, process: u32) -> Result<Vec<IdMapping>> {
    let (own, owner) = (kind.own(), Kind::User.own());
    let lent = if owner == 0 || helper(kind).is_some() { lent(kind, owner)? } else { None };
    Ok(match lent {
        Some((first, count)) => around(process, own, first, count),
        None if owner == 0 => vec![IdMapping { container_id: 0, host_id: own, size: process.saturating_add(1) }],
        None => vec![IdMapping { container_id: process, host_id: own, size: 1 }],
    })
}

/// The id `own` as `process`, those before and after it from `first` on.
fn around(process: u32, own: u32, first: u32, count: u32) -> Vec<IdMapping> {
    let before = process.min(count);
    let own = IdMapping { container_id: process, host_id: own, size: 1 };
    let below = IdMapping { container_id: 0, host_id: first, size: before };
    let above = IdMapping {
        container_id: process.saturating_add(1),
        host_id: first.saturating_add(before),
        size: (count - before).min(u32::MAX - process.saturating_add(1)),
    };
    [below, own, above].into_iter().filter(|range| range.size > 0).collect()
}

/// The first range of ids lent to the user `owner`.
fn lent(kind: Kind, owner: u32) -> Result<Option<(u32, u32)>> {
    let Some(list) = read_list(kind.lent())? else { return Ok(None) };
    // Group ids are lent to users too; their names are looked up where there is a list at all.
    let users = read_list("/etc/passwd")?.unwrap_or_default();
    Ok(first_range(&list, name_of(&users, owner), owner))
}

fn read_list(path: &str) -> Result<Option<String>> {
    let what = || format!("cannot read {path}");
    match rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::NOENT) => Ok(None),
        other => {
            let file = other.at("open", path).doing(what)?;
            let bytes = sys::fs::read_regular(file, LONGEST_LIST, path).doing(what)?;
            Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
        }
    }
}

/// The name of the user `uid` in a passwd(5) list.
fn name_of(users: &str, uid: u32) -> Option<&str> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

/// The first usable line of subuid(5) whose owner is the name or the number.
fn first_range(list: &str, name: Option<&str>, uid: u32) -> Option<(u32, u32)> {
    list.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let (first, count): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let theirs = Some(owner) == name || owner.parse() == Ok(uid);
        (theirs && count > 0 && first > 0 && first.checked_add(count).is_some()).then_some((first, count))
    })
}

/// Whether the id `id` of the container is among `map`.
pub(crate) fn contains(map: &[IdMapping], id: u32) -> bool {
    map.iter().any(|range| id.checked_sub(range.container_id).is_some_and(|offset| offset < range.size))
}

/// The id with which a container with these ids is set up: root, or where there is none, the first.
pub(crate) fn set_up_id(map: &[IdMapping]) -> u32 {
    if contains(map, 0) { 0 } else { map.first().map_or(0, |range| range.container_id) }
}

/// Gives the user namespace of process `pid`, whose maker is the caller, its ids. `ordinary` is whether the caller has no
/// privilege over others'. Tells whether the namespace's supplementary groups are fixed by that.
///
/// # Errors
/// [`ErrorKind::Unsupported`] for ids that the caller may not map; system call errors.
pub(crate) fn write(pid: u32, linux: &Linux, ordinary: bool) -> Result<bool> {
    if !ordinary {
        write_map(pid, Kind::User, &linux.uid_mappings)?;
        write_map(pid, Kind::Group, &linux.gid_mappings)?;
        return Ok(false);
    }
    if is_own(&linux.uid_mappings, Kind::User) {
        write_map(pid, Kind::User, &linux.uid_mappings)?;
    } else {
        by_helper(pid, Kind::User, &linux.uid_mappings)?;
    }
    if is_own(&linux.gid_mappings, Kind::Group) {
        // A group can forbid what others may do, and its member would leave it (user_namespaces(7)).
        let path = format!("/proc/{pid}/setgroups");
        write_file(&path, "deny").doing(|| "cannot fix the container's groups".to_owned())?;
        write_map(pid, Kind::Group, &linux.gid_mappings)?;
    } else {
        by_helper(pid, Kind::Group, &linux.gid_mappings)?;
    }
    groups_are_fixed(pid)
}

/// Whether processes in the user namespace of `pid` may not change their supplementary groups.
///
/// # Errors
/// System call errors.
pub(crate) fn groups_are_fixed(pid: u32) -> Result<bool> {
    let path = format!("/proc/{pid}/setgroups");
    let what = || "cannot tell whether the container's groups are fixed".to_owned();
    let file = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).at("open", &path);
    let text = file.and_then(|file| sys::fs::read_bounded(file, 64, &path)).doing(what)?;
    Ok(!text.starts_with(b"allow"))
}

fn is_own(map: &[IdMapping], kind: Kind) -> bool {
    matches!(map, [one] if one.size == 1 && one.host_id == kind.own())
}

fn write_map(pid: u32, kind: Kind, map: &[IdMapping]) -> Result<()> {
    let mut text = String::new();
    for m in map {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} {} {}", m.container_id, m.host_id, m.size);
    }
    write_file(&format!("/proc/{pid}/{}", kind.file()), &text).doing(|| "cannot map the container's ids".to_owned())
}

fn write_file(path: &str, text: &str) -> sys::Result<()> {
    rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .at("open", path)
        .and_then(|file| sys::fs::write_all(file, text.as_bytes(), path))
}

fn helper(kind: Kind) -> Option<std::path::PathBuf> {
    let mut places = HELPER_DIRS.iter().map(|dir| Path::new(dir).join(kind.helper()));
    places.find(|place| rustix::fs::access(place, rustix::fs::Access::EXEC_OK).is_ok())
}

fn by_helper(pid: u32, kind: Kind, map: &[IdMapping]) -> Result<()> {
    let name = kind.helper();
    let refused = |why: &str| {
        let sentence = format!(
            "cannot map the container's ids: {name} {why}; an ordinary user maps the own id alone ({} to any one of the \
             container's), or ids that {} lends, by {name} (Debian: uidmap)",
            kind.own(),
            kind.lent()
        );
        Error::new(ErrorKind::Unsupported, sentence)
    };
    let Some(program) = helper(kind) else { return Err(refused("is not installed")) };
    let what = || format!("cannot run {}", program.display());
    let words = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC).at("memfd_create", name).doing(what)?;
    let stderr = words.try_clone().at("dup", name).doing(what)?;
    let numbers = map.iter().flat_map(|m| [m.container_id, m.host_id, m.size]).map(|number| number.to_string());
    let mut command = Command::new(&program);
    command.arg(pid.to_string()).args(numbers).env_clear().current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::from(stderr));
    let mut child = command.spawn().at("execve", program.display()).doing(what)?;
    let pidfd = sys::process::open_pid(child.id()).doing(what)?;
    let in_time = sys::process::poll_until(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(HELPER_PATIENCE));
    if !matches!(in_time, Ok(1..)) {
        // It may end this very moment.
        let _ = child.kill();
    }
    let status = child.wait().at("wait4", program.display()).doing(what)?;
    if status.success() {
        return Ok(());
    }
    rustix::fs::seek(&words, rustix::fs::SeekFrom::Start(0)).at("lseek", name).doing(what)?;
    let said = sys::fs::read_bounded(words.as_fd(), LONGEST_WORDS, name).unwrap_or_default();
    Err(refused(&format!("refuses ({})", String::from_utf8_lossy(&said).trim())))
}

/// A user namespace that is nothing but an id map for mounts: it is its one process's, which lives until the map is read.
///
/// # Errors
/// clone3(2)'s, and those of the map.
pub(crate) fn for_mounts(uids: &[IdMapping], gids: &[IdMapping]) -> Result<OwnedFd> {
    let args = CloneArgs { namespaces: Namespaces::USER, ..CloneArgs::default() };
    let child = sys::process::clone_process(&args, || {
        // Killed below; ends by itself when this process was killed first.
        let _ = sys::process::die_with_parent(Signal::KILL.as_raw());
        std::thread::sleep(link::PATIENCE);
        0
    })
    .map_err(clone_error)?;
    let made = write_map(child.pid, Kind::User, uids)
        .and_then(|()| write_map(child.pid, Kind::Group, gids))
        .and_then(|()| open_namespace(child.pid));
    put_down(&child.pidfd, Duration::from_secs(10));
    made
}

/// The user namespace of process `pid`.
///
/// # Errors
/// open(2)'s.
pub(crate) fn open_namespace(pid: u32) -> Result<OwnedFd> {
    let path = format!("/proc/{pid}/ns/user");
    rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .at("open", &path)
        .doing(|| "cannot open the container's user namespace".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(container_id: u32, host_id: u32, size: u32) -> IdMapping {
        IdMapping { container_id, host_id, size }
    }

    #[test]
    fn the_own_id_is_the_processes_and_the_lent_ones_are_around_it() {
        assert_eq!(around(0, 1000, 100_000, 65_536), [map(0, 1000, 1), map(1, 100_000, 65_536)]);
        assert_eq!(around(5, 1000, 100, 20), [map(0, 100, 5), map(5, 1000, 1), map(6, 105, 15)]);
        assert_eq!(around(50, 1000, 100, 20), [map(0, 100, 20), map(50, 1000, 1)]);
        assert_eq!(around(u32::MAX - 1, 7, 100, u32::MAX - 100).len(), 2);
    }

    #[test]
    fn lent_ranges_are_found_by_name_and_by_number() {
        let users = "root:x:0:0::/:\nbroken\nannie:x:1000:1000::/home/annie:/bin/sh\n";
        assert_eq!((name_of(users, 1000), name_of(users, 1001)), (Some("annie"), None));
        let list = "# comment\nbob:1:2\nannie:x:3\nannie:0:9\nannie:4294967295:2\nannie:100000:65536\n1001:7:8\n";
        assert_eq!(first_range(list, Some("annie"), 1000), Some((100_000, 65_536)));
        assert_eq!(first_range(list, None, 1001), Some((7, 8)));
        assert_eq!(first_range(list, None, 1000), None);
    }

    #[test]
    fn set_up_is_done_as_root_where_there_is_one() {
        assert_eq!(set_up_id(&[map(1, 7, 9), map(0, 5, 1)]), 0);
        assert_eq!(set_up_id(&[map(1000, 7, 1)]), 1000);
        assert!(contains(&[map(5, 7, 2)], 6) && !contains(&[map(5, 7, 2)], 7) && !contains(&[map(5, 7, 2)], 4));
    }

    #[test]
    fn only_new_namespaces_without_ids_are_given_some() {
        let fill = |linux: &str| {
            let json = format!(r#"{{"ociVersion": "1.2.0", "linux": {linux}}}"#);
            let mut spec = Spec::from_json(json.as_bytes()).expect("valid JSON");
            let before = spec.clone();
            assert_eq!(default_mappings(&mut spec, false).expect("readable lists"), spec != before);
            let linux = spec.linux.expect("linux");
            (linux.uid_mappings.len(), linux.gid_mappings.len())
        };
        assert_eq!(fill(r#"{"namespaces": [{"type": "pid"}]}"#), (0, 0));
        let mut spec = Spec::default();
        assert_eq!(default_mappings(&mut spec, true), Ok(true));
        assert!(spec.namespace(NamespaceKind::User).is_some(), "an ordinary user cannot do without");
        assert_eq!(fill(r#"{"namespaces": [{"type": "user", "path": "/proc/self/ns/user"}]}"#), (0, 0));
        let (uids, gids) = fill(r#"{"namespaces": [{"type": "user"}]}"#);
        assert!(uids > 0 && gids > 0);
        let own = r#"[{"containerID": 0, "hostID": 5, "size": 1}, {"containerID": 1, "hostID": 50, "size": 1}, {"containerID": 2, "hostID": 60, "size": 1}, {"containerID": 3, "hostID": 70, "size": 1}]"#;
        let (uids, gids) = fill(&format!(r#"{{"namespaces": [{{"type": "user"}}], "uidMappings": {own}}}"#));
        assert!(uids == 4 && gids > 0 && gids < 4);
    }
}
