//! Which namespaces a container has: made, joined by path, and the door that some of them have to be reached through.
//!
//! A process cannot move itself into pid and time namespaces, only its children; it cannot join the host's namespaces
//! from inside a user namespace; what it makes belongs to the user namespace it is in; and a time namespace takes its
//! offsets only while nobody is in it. In these cases the caller clones a door, which joins and sets what is needed and
//! makes the first process as its own sibling. Everything else stays one clone3.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use oci::runtime::{IdMapping, Linux, NamespaceKind, TimeOffset};
use rustix::fs::{Mode, OFlags};
use sys::process::{Child, CloneArgs, Namespaces};
use sys::{Context as _, Errno};

use crate::error::{Doing, Error, ErrorKind, Result};
use crate::init;
use crate::link::{Link, PATIENCE};
use crate::parent;
use crate::plan::{Plan, namespace_flag, wrong};

/// Magic number of the file system that namespace files are in (`NSFS_MAGIC`).
const NSFS: i64 = 0x6e73_6673;

/// The longest `uid_map` read, in bytes: it has 340 lines at most (user_namespaces(7)).
const LONGEST_MAP: usize = 64 << 10;

/// Namespaces to join: what they are and their files.
pub(crate) type Joins = Vec<(Namespaces, OwnedFd)>;

/// Whose mount namespace the container is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MountSpace {
    /// One of its own: its root becomes the namespace's.
    New,
    /// The caller's. Nothing is attached there: the container's root is a tree that is attached nowhere.
    Callers,
    /// One that is joined by path, in the same way.
    Joined,
}

/// Which namespaces a container has.
#[derive(Debug)]
pub(crate) struct Chosen {
    /// To be made.
    pub(crate) new: Namespaces,
    /// Joined by the first process itself.
    pub(crate) joins: Joins,
    /// Joined before.
    pub(crate) door: Door,
    pub(crate) mount: MountSpace,
}

impl Chosen {
    /// Everything that is joined.
    pub(crate) fn all_joins(&self) -> impl Iterator<Item = &(Namespaces, OwnedFd)> + Clone {
        self.joins.iter().chain(&self.door.joins)
    }

    /// The user namespace that is joined.
    pub(crate) fn joined_user(&self) -> Option<&OwnedFd> {
        self.all_joins().find(|(flag, _)| *flag == Namespaces::USER).map(|(_, file)| file)
    }
}

/// What is done before the first process is made, by a process of its own.
#[derive(Debug, Default)]
pub(crate) struct Door {
    joins: Joins,
    /// What `/proc/self/timens_offsets` takes; empty for none.
    offsets: String,
}

impl Door {
    /// Whether nothing of this is needed.
    pub(crate) fn is_closed(&self) -> bool {
        self.joins.is_empty() && self.offsets.is_empty()
    }

    /// The namespaces that are joined here, before the first process is made.
    pub(crate) fn joins(&self) -> &[(Namespaces, OwnedFd)] {
        &self.joins
    }
}

/// The namespaces that `linux` asks for. One that is the caller's own already needs no joining.
///
/// # Errors
/// A mistake in `linux.namespaces` or `linux.timeOffsets`, by name.
pub(crate) fn plan(linux: &Linux) -> Result<Chosen> {
    let mut seen = Namespaces::empty();
    let mut new = Namespaces::empty();
    let mut joins = Vec::new();
    let mut mount = MountSpace::Callers;
    for namespace in &linux.namespaces {
        let flag = namespace_flag(namespace.kind);
        if seen.contains(flag) {
            return Err(wrong("linux.namespaces", format_args!("{:?} is listed twice", namespace.kind)));
        }
        seen = seen.union(flag);
        match &namespace.path {
            None => new = new.union(flag),
            Some(path) => {
                let file = open(namespace.kind, path)?;
                let own = match namespace.kind {
                    NamespaceKind::User => Some("/proc/self/ns/user"),
                    NamespaceKind::Mount => Some("/proc/self/ns/mnt"),
                    _ => None,
                };
                if own.map_or(Ok(false), |own| is_own(&file, own))? {
                    continue;
                }
                if flag == Namespaces::MOUNT {
                    mount = MountSpace::Joined;
                }
                joins.push((flag, file));
            }
        }
    }
    if new.contains(Namespaces::MOUNT) {
        mount = MountSpace::New;
    }
    let user_joined = joins.iter().any(|(flag, _)| *flag == Namespaces::USER);
    if mount != MountSpace::New && new.contains(Namespaces::USER) || mount == MountSpace::Callers && user_joined {
        return Err(wrong("linux.namespaces", "a user namespace needs a mount namespace that belongs to it"));
    }
    let offsets = time_offsets(&linux.time_offsets, new.contains(Namespaces::TIME))?;
    let by_door = |flag: Namespaces| {
        user_joined || new.contains(Namespaces::USER) || flag == Namespaces::PID || flag == Namespaces::TIME
    };
    let (mut outer, inner): (Joins, Joins) = joins.into_iter().partition(|(flag, _)| by_door(*flag));
    if user_joined {
        // The host's root has the rights to join the others before that; everybody else gets them there.
        let root = rustix::process::geteuid().is_root();
        outer.sort_by_key(|(flag, _)| (*flag == Namespaces::USER) == root);
    }
    Ok(Chosen { new, joins: inner, door: Door { joins: outer, offsets }, mount })
}

/// Opens the file of a namespace to join, and makes sure of its kind.
fn open(kind: NamespaceKind, path: &Path) -> Result<OwnedFd> {
    let what = || format!("linux.namespaces: cannot open the {kind:?} namespace to join");
    // Not waiting for the other end of whatever else may lie there.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).at("open", path.display()).doing(what)?;
    let system = rustix::fs::fstatfs(&file).at("fstatfs", path.display()).doing(what)?;
    if system.f_type != NSFS {
        return Err(wrong("linux.namespaces", format_args!("{} is no namespace", path.display())));
    }
    if sys::process::namespace_kind(&file).doing(what)? != namespace_flag(kind) {
        return Err(wrong("linux.namespaces", format_args!("{} is not a {kind:?} namespace", path.display())));
    }
    Ok(file)
}

/// Whether `file` is the caller's own namespace, whose file is `path`.
///
/// # Errors
/// stat(2)'s for either.
pub(crate) fn is_own(file: &OwnedFd, path: &str) -> Result<bool> {
    let what = || "linux.namespaces: cannot compare the namespace to join with the caller's".to_owned();
    let joined = rustix::fs::fstat(file).at("fstat", path).doing(what)?;
    let own = rustix::fs::stat(path).at("stat", path).doing(what)?;
    Ok((joined.st_dev, joined.st_ino) == (own.st_dev, own.st_ino))
}

/// The id maps of the user namespace `file`, as they are seen from the caller's own.
///
/// # Errors
/// clone3(2)'s and setns(2)'s; those of reading.
fn id_maps(file: &OwnedFd) -> Result<[Vec<IdMapping>; 2]> {
    let (ours, theirs) = Link::pair()?;
    let inside = sys::process::clone_process(&CloneArgs::default(), || {
        sys::process::close_borrowed(&ours);
        visit(file, &theirs)
    })
    .map_err(parent::clone_error)?;
    drop(theirs);
    let read = |name: &str| {
        let path = format!("/proc/{}/{name}", inside.pid);
        let file = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).at("open", &path);
        let text = file.and_then(|file| sys::fs::read_bounded(file, LONGEST_MAP, &path));
        let text = text.doing(|| "cannot read the ids of the user namespace to join".to_owned())?;
        Ok(String::from_utf8_lossy(&text).lines().filter_map(read_mapping).collect())
    };
    let maps = ours.answer(PATIENCE).and_then(|_| Ok([read("uid_map")?, read("gid_map")?]));
    drop(ours);
    parent::put_down(&inside.pidfd, Duration::from_secs(10));
    maps
}

/// The life of a process that joins a user namespace to be looked at. It still is the host's root, with the host's files:
/// hidden from whoever is in there and sees the host's processes.
fn visit(file: &OwnedFd, link: &Link) -> i32 {
    let hidden = sys::process::set_undumpable().doing(|| "cannot hide the set-up from the container".to_owned());
    let joined =
        hidden.and_then(|()| sys::process::join(file, Namespaces::USER).doing(|| "cannot join a namespace".to_owned()));
    match joined.and_then(|()| link.send_ready(None)) {
        // Ends with its caller's end of the conversation.
        Ok(()) => link.await_mapped().map_or(0, |_| 0),
        Err(error) => {
            link.send_failure(&error);
            init::exit_code(&error)
        }
    }
}

fn read_mapping(line: &str) -> Option<IdMapping> {
    let mut numbers = line.split_ascii_whitespace().map(|word| word.parse().ok());
    let mut next = || numbers.next().flatten();
    Some(IdMapping { container_id: next()?, host_id: next()?, size: next()? })
}

/// The ids of the container's user namespace.
#[derive(Debug)]
pub(crate) struct IdMaps<'a> {
    pub(crate) uids: Cow<'a, [IdMapping]>,
    pub(crate) gids: Cow<'a, [IdMapping]>,
    /// Whether they have yet to be written.
    pub(crate) write: bool,
}

impl<'a> IdMaps<'a> {
    /// Those of the configuration, or of the user namespace that is joined.
    ///
    /// # Errors
    /// When a configuration contradicts the namespace, or neither has any.
    pub(crate) fn new(linux: &'a Linux, chosen: &Chosen) -> Result<Self> {
        let said = (Cow::Borrowed(&linux.uid_mappings[..]), Cow::Borrowed(&linux.gid_mappings[..]));
        let Some(file) = chosen.joined_user() else {
            return Ok(Self { uids: said.0, gids: said.1, write: chosen.new.contains(Namespaces::USER) });
        };
        let [uids, gids] = id_maps(file)?;
        if uids.is_empty() && gids.is_empty() {
            if said.0.is_empty() || said.1.is_empty() {
                return Err(wrong("linux.namespaces", "the user namespace to join has no ids, and none are given"));
            }
            return Ok(Self { uids: said.0, gids: said.1, write: true });
        }
        for (field, said, theirs) in [("linux.uidMappings", &said.0, &uids), ("linux.gidMappings", &said.1, &gids)] {
            if !said.is_empty() && said[..] != theirs[..] {
                return Err(wrong(field, "is not what the user namespace to join has"));
            }
        }
        Ok(Self { uids: uids.into(), gids: gids.into(), write: false })
    }
}

/// `linux.timeOffsets` as `/proc/PID/timens_offsets` takes them (time_namespaces(7)).
fn time_offsets(offsets: &BTreeMap<String, TimeOffset>, new: bool) -> Result<String> {
    const FIELD: &str = "linux.timeOffsets";
    if !offsets.is_empty() && !new {
        return Err(wrong(FIELD, "needs a new time namespace"));
    }
    let mut text = String::new();
    for (clock, offset) in offsets {
        if clock != "monotonic" && clock != "boottime" {
            return Err(wrong(FIELD, format_args!("{clock:?} is neither monotonic nor boottime")));
        }
        if offset.nanosecs > 999_999_999 {
            return Err(wrong(FIELD, format_args!("{clock}: {} nanoseconds are a second or more", offset.nanosecs)));
        }
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{clock} {} {}", offset.secs, offset.nanosecs);
    }
    Ok(text)
}

/// Makes the door, which makes the first process by `args` and says so over `link`; [`meet`] hears of it.
///
/// # Errors
/// clone3(2)'s for the door itself.
pub(crate) fn make_door(
    plan: &Plan<'_>,
    args: &CloneArgs<'_>,
    link: &Link,
    first: impl FnOnce() -> i32,
) -> sys::Result<Child> {
    sys::process::clone_process(&CloneArgs::default(), || match pass(plan, args, link, first) {
        Ok(()) => 0,
        Err(error) => {
            link.send_failure(&error);
            init::exit_code(&error)
        }
    })
}

fn pass(plan: &Plan<'_>, args: &CloneArgs<'_>, link: &Link, first: impl FnOnce() -> i32) -> Result<()> {
    let Door { joins, offsets } = &plan.door;
    let mut namespaces = args.namespaces;
    if !offsets.is_empty() {
        namespaces = namespaces.without(Namespaces::TIME);
        sys::process::unshare(Namespaces::TIME).doing(|| "cannot make a time namespace".to_owned())?;
        set_offsets(offsets)?;
    }
    // Before the first process is among those of another container.
    sys::process::set_undumpable().doing(|| "cannot hide the set-up from the container".to_owned())?;
    for (flag, file) in joins {
        sys::process::join(file, *flag).doing(|| "cannot join a namespace".to_owned())?;
    }
    let args = CloneArgs { namespaces, sibling: true, ..*args };
    let process = sys::process::clone_process(&args, first).map_err(parent::clone_error)?;
    link.send_process(process.pid, &process.pidfd)
}

fn set_offsets(offsets: &str) -> Result<()> {
    const PATH: &str = "/proc/self/timens_offsets";
    rustix::fs::open(PATH, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .at("open", PATH)
        .and_then(|file| sys::fs::write_all(file, offsets.as_bytes(), PATH))
        .map_err(|cause| match cause.errno() {
            Errno::RANGE => {
                Error::system("linux.timeOffsets: a clock would leave its range", cause).with_kind(ErrorKind::Config)
            }
            _ => Error::system("linux.timeOffsets: cannot set the clocks", cause),
        })
}

/// The first process, once the door has made it; the door is gone then.
///
/// # Errors
/// What the door failed at.
pub(crate) fn meet(door: &Child, link: &Link) -> Result<Child> {
    let met = link.await_process();
    parent::put_down_gently(&door.pidfd, Duration::from_secs(10));
    met.map(|(pid, pidfd)| Child { pid, pidfd })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) -> std::result::Result<(Namespaces, usize, Door), String> {
        let json = format!(r#"{{"ociVersion": "1.2.0", "linux": {{{json}}}}}"#);
        let spec = oci::runtime::Spec::from_json(json.as_bytes()).expect("valid JSON");
        plan(spec.linux.as_ref().expect("linux"))
            .map(|chosen| (chosen.new, chosen.joins.len(), chosen.door))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn only_what_needs_a_door_goes_through_one() {
        let (new, inner, door) = check(
            r#""namespaces": [{"type": "mount"}, {"type": "network", "path": "/proc/self/ns/net"},
                              {"type": "time"}, {"type": "cgroup", "path": "/proc/self/ns/cgroup"}]"#,
        )
        .expect("valid");
        assert_eq!((new, inner), (Namespaces::MOUNT.union(Namespaces::TIME), 2));
        assert!(door.is_closed());
        let (_, inner, door) = check(
            r#""namespaces": [{"type": "pid", "path": "/proc/self/ns/pid"}, {"type": "ipc", "path": "/proc/self/ns/ipc"}]"#,
        )
        .expect("valid");
        assert_eq!((inner, door.joins.len()), (1, 1));
        let (_, inner, door) = check(
            r#""namespaces": [{"type": "user"}, {"type": "mount"}, {"type": "ipc", "path": "/proc/self/ns/ipc"}]"#,
        )
        .expect("valid");
        assert_eq!((inner, door.joins.len()), (0, 1));
    }

    #[test]
    fn the_callers_own_namespaces_need_no_joining() {
        let (new, inner, door) = check(
            r#""namespaces": [{"type": "user", "path": "/proc/self/ns/user"}, {"type": "mount", "path": "/proc/self/ns/mnt"}]"#,
        )
        .expect("valid");
        assert_eq!((new, inner), (Namespaces::empty(), 0));
        assert!(door.is_closed());
        for namespaces in [r#"{"type": "user"}"#, r#"{"type": "user"}, {"type": "mount", "path": "/proc/self/ns/mnt"}"#]
        {
            let error = check(&format!(r#""namespaces": [{namespaces}]"#)).map(drop).expect_err(namespaces);
            assert!(error.contains("a user namespace needs a mount namespace"), "{error}");
        }
    }

    #[test]
    fn a_visitor_is_hidden_before_it_joins_a_user_namespace() {
        use rustix::process::{DumpableBehavior, dumpable_behavior, set_dumpable_behavior};
        let (ours, theirs) = Link::pair().expect("made");
        let none = rustix::fs::open("/dev/null", OFlags::RDONLY, Mode::empty()).expect("opened");
        // Another test of this program may have hidden it already.
        set_dumpable_behavior(DumpableBehavior::Dumpable).expect("shown");
        assert_ne!(visit(&none, &theirs), 0, "it is no namespace");
        let then = dumpable_behavior().expect("asked");
        set_dumpable_behavior(DumpableBehavior::Dumpable).expect("set back");
        assert_eq!(then, DumpableBehavior::NotDumpable);
        assert!(ours.answer(PATIENCE).expect_err("told").doing().contains("cannot join a namespace"));
    }

    #[test]
    fn maps_are_read_as_the_kernel_writes_them() {
        let mapping = IdMapping { container_id: 0, host_id: 100_000, size: 65536 };
        assert_eq!(read_mapping("         0     100000      65536"), Some(mapping));
        assert_eq!(read_mapping("0 1"), None);
        assert_eq!(read_mapping("a b c"), None);
    }

    #[test]
    fn mistakes_name_their_field() {
        for (json, words) in [
            (r#""namespaces": [{"type": "pid", "path": "/proc/self/ns/net"}]"#, "is not a Pid namespace"),
            (r#""namespaces": [{"type": "ipc", "path": "/proc/self/stat"}]"#, "is no namespace"),
            (r#""namespaces": [{"type": "uts", "path": "/nonexistent"}]"#, "cannot open the Uts namespace"),
            (r#""namespaces": [{"type": "uts"}, {"type": "uts", "path": "/proc/self/ns/uts"}]"#, "listed twice"),
        ] {
            let error = check(json).map(drop).expect_err(json);
            assert!(error.starts_with("linux.namespaces: ") && error.contains(words), "{error}");
        }
        let offset = |clock: &str, nanosecs: u32, kind: &str| {
            check(&format!(
                r#""namespaces": [{{"type": "{kind}"}}], "timeOffsets": {{"{clock}": {{"secs": 5, "nanosecs": {nanosecs}}}}}"#
            ))
        };
        assert_eq!(offset("boottime", 7, "time").expect("valid").2.offsets, "boottime 5 7\n");
        for (clock, nanosecs, kind) in
            [("real", 0, "time"), ("boottime", 1_000_000_000, "time"), ("boottime", 0, "uts")]
        {
            let error = offset(clock, nanosecs, kind).map(drop).expect_err(clock);
            assert!(error.starts_with("linux.timeOffsets: "), "{error}");
        }
    }
}
