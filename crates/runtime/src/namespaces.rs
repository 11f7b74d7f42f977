//! Which namespaces a container has: made, joined by path, and the door that some of them have to be reached through.
//!
//! A process cannot move itself into pid and time namespaces, only its children; it cannot join the host's namespaces
//! from inside a new user namespace; and a time namespace takes its offsets only while nobody is in it. In these cases
//! the caller clones a door, which joins and sets what is needed and makes the first process as its own sibling.
//! Everything else stays one clone3.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use oci::runtime::{Linux, NamespaceKind, TimeOffset};
use rustix::fs::{Mode, OFlags};
use sys::process::{Child, CloneArgs, Namespaces};
use sys::{Context as _, Errno};

use crate::error::{Doing, Error, ErrorKind, Result};
use crate::init;
use crate::link::Link;
use crate::parent;
use crate::plan::{Plan, namespace_flag, wrong};

/// Magic number of the file system that namespace files are in (`NSFS_MAGIC`).
const NSFS: i64 = 0x6e73_6673;

/// Namespaces to join: what they are and their files.
pub(crate) type Joins = Vec<(Namespaces, OwnedFd)>;

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

/// The namespaces to make, those the first process joins by itself, and the door.
///
/// # Errors
/// A mistake in `linux.namespaces` or `linux.timeOffsets`, by name.
pub(crate) fn plan(linux: &Linux) -> Result<(Namespaces, Joins, Door)> {
    let mut seen = Namespaces::empty();
    let mut new = Namespaces::empty();
    let mut joins = Vec::new();
    for namespace in &linux.namespaces {
        let flag = namespace_flag(namespace.kind);
        if seen.contains(flag) {
            return Err(wrong("linux.namespaces", format_args!("{:?} is listed twice", namespace.kind)));
        }
        seen = seen.union(flag);
        match &namespace.path {
            None => new = new.union(flag),
            Some(path) => joins.push((flag, open(namespace.kind, path)?)),
        }
    }
    let offsets = time_offsets(&linux.time_offsets, new.contains(Namespaces::TIME))?;
    let by_door =
        |flag: Namespaces| new.contains(Namespaces::USER) || flag == Namespaces::PID || flag == Namespaces::TIME;
    let (outer, inner) = joins.into_iter().partition(|(flag, _)| by_door(*flag));
    Ok((new, inner, Door { joins: outer, offsets }))
}

/// Opens the file of a namespace to join, and makes sure of its kind.
fn open(kind: NamespaceKind, path: &Path) -> Result<OwnedFd> {
    if matches!(kind, NamespaceKind::User | NamespaceKind::Mount) {
        let sentence = format!("linux.namespaces: joining a {kind:?} namespace by path is not supported yet");
        return Err(Error::new(ErrorKind::Unsupported, sentence));
    }
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
            .map(|(new, joins, door)| (new, joins.len(), door))
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
        let (_, inner, door) =
            check(r#""namespaces": [{"type": "user"}, {"type": "ipc", "path": "/proc/self/ns/ipc"}]"#).expect("valid");
        assert_eq!((inner, door.joins.len()), (0, 1));
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
