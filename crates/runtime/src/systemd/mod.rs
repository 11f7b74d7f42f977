//! Control groups that systemd makes: `--systemd-cgroup`, for hosts where it alone may.
//!
//! A container's group is a transient *scope*, delegated to us: systemd makes it in the slice asked for, keeps its
//! hands off what is inside, and removes it. A scope needs a process to begin with, and our group has to exist before
//! the container's first process is cloned into it: a placeholder, which sleeps until it is killed, is what systemd is
//! given. The group itself is then used like any other, by its path.
//!
//! Limits are said twice, as properties and as files of the group: see [`properties`].

mod bus;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod properties;
mod wire;

use std::time::Duration;

use oci::runtime::LinuxResources;
use sys::process::{Child, CloneArgs};

pub use wire::Value;

use bus::{Bus, MANAGER};
use properties::Property;
use wire::{Reader, Writer};

/// A refusal of systemd, or a failed conversation with it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody answers for systemd on this host.
    #[error("systemd cannot be reached ({0}): it must run as the host's init, or cgroupfs be used")]
    Absent(sys::Error),
    /// A system call failed.
    #[error(transparent)]
    Sys(#[from] sys::Error),
    /// We were not let in.
    #[error("systemd refuses the connection: {answer}")]
    Denied {
        /// The line that said so.
        answer: String,
    },
    /// A call was refused.
    #[error("systemd refuses {call}: {text} ({name})")]
    Refused {
        /// The method.
        call: String,
        /// The error's D-Bus name.
        name: String,
        /// What systemd says about it.
        text: String,
    },
    /// A job did not succeed.
    #[error("systemd's job for {call} ended with {result:?}")]
    Job {
        /// The method that began it.
        call: String,
        /// Its result.
        result: String,
    },
    /// Nothing came in time.
    #[error("systemd did not answer {call} within {waited:?}")]
    TimedOut {
        /// The method, or what came before the first.
        call: String,
        /// How long was waited.
        waited: Duration,
    },
    /// What came is no D-Bus message that we understand.
    #[error("systemd's answer is malformed")]
    Malformed,
    /// The control group's path is not one of systemd's.
    #[error("linux.cgroupsPath: {path:?} is not of the form slice:prefix:name, which --systemd-cgroup needs: {reason}")]
    Path {
        /// As it was given.
        path: String,
        /// What is wrong.
        reason: &'static str,
    },
}

/// The result of asking systemd for something.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Where a container's scope is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The slice it is in, as in `machine.slice`.
    pub slice: String,
    /// The unit's name, as in `prefix-name.scope`.
    pub unit: String,
}

impl Scope {
    /// The scope that `linux.cgroupsPath` names for the container `id`: `slice:prefix:name`, each of which may be
    /// empty; nothing at all means a scope of the container's name in the default slice.
    ///
    /// # Errors
    /// [`Error::Path`].
    pub fn parse(path: &str, id: &str) -> Result<Self> {
        let refuse = |reason| Err(Error::Path { path: path.chars().take(256).collect(), reason });
        let default = if rustix::process::geteuid().is_root() { "system.slice" } else { "user.slice" };
        let parts: Vec<&str> = path.split(':').collect();
        let (slice, prefix, name) = match parts.as_slice() {
            [""] => ("", "lighter", id),
            [slice, prefix, name] => (*slice, *prefix, *name),
            _ => return refuse("it has not three parts"),
        };
        let slice = if slice.is_empty() { default } else { slice };
        let stem = slice.strip_suffix(".slice").unwrap_or_default();
        // "-.slice" is the root of all slices.
        let well_formed = !stem.starts_with('-') && !stem.ends_with('-') && !stem.contains("--") && is_unit_name(stem);
        if slice != "-.slice" && !well_formed {
            return refuse("its first part names no slice");
        }
        if name.ends_with(".slice") {
            return refuse("a container's own group cannot be a slice");
        }
        let name = if name.is_empty() { id } else { name };
        let unit = if prefix.is_empty() { format!("{name}.scope") } else { format!("{prefix}-{name}.scope") };
        if !is_unit_name(&unit) {
            return refuse("it makes no name for a unit");
        }
        Ok(Self { slice: slice.to_owned(), unit })
    }

    /// Makes the scope, with the placeholder in it. Returns when systemd has made the group.
    ///
    /// # Errors
    /// systemd's.
    pub(crate) fn start(&self, id: &str, resources: Option<&LinuxResources>, v2: bool) -> Result<Placeholder> {
        let placeholder = Placeholder::new()?;
        let mut all: Vec<Property> = [
            ("Description", Value::Text(format!("container {id}"))),
            ("Slice", Value::Text(self.slice.clone())),
            ("Delegate", Value::Bool(true)),
            ("DefaultDependencies", Value::Bool(false)),
            ("CollectMode", Value::Text("inactive-or-failed".to_owned())),
            ("PIDs", Value::Numbers(vec![placeholder.0.pid])),
        ]
        .into_iter()
        .chain(
            ["CPUAccounting", "MemoryAccounting", "IOAccounting", "TasksAccounting"]
                .map(|name| (name, Value::Bool(true))),
        )
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        let rules = resources.map(|resources| resources.devices.as_slice()).unwrap_or_default();
        all.extend(properties::devices(rules));
        all.extend(resources.map(|resources| properties::of(resources, v2)).unwrap_or_default());
        let mut body = Writer::default();
        body.text(&self.unit);
        body.text("fail");
        body.properties(&all);
        // No auxiliary units.
        body.array(8, |_| {});
        let mut bus = Bus::connect()?;
        let begin = |bus: &mut Bus| bus.job("StartTransientUnit", "ssa(sv)a(sa(sv))", &body.0);
        match begin(&mut bus) {
            // Left by a container of the same name that failed: forgotten, once.
            Err(Error::Refused { name, .. }) if name == "org.freedesktop.systemd1.UnitExists" => {
                reset_failed(&mut bus, &self.unit)?;
                begin(&mut bus)?;
            }
            other => other?,
        }
        Ok(placeholder)
    }
}

/// Whether `text` consists of what unit names are made of (systemd.unit(5)), and is not too long for one.
fn is_unit_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    !text.is_empty() && text.len() <= 255 && text.bytes().all(allowed)
}

/// Tells systemd about changed limits of the unit `unit`.
///
/// # Errors
/// systemd's.
pub fn update(unit: &str, resources: &LinuxResources, v2: bool) -> Result<()> {
    let mut all = properties::of(resources, v2);
    if !resources.devices.is_empty() {
        all.extend(properties::devices(&resources.devices));
    }
    if all.is_empty() {
        return Ok(());
    }
    let mut body = Writer::default();
    body.text(unit);
    // Until the next boot: the unit itself lives no longer.
    body.bool(true);
    body.properties(&all);
    Bus::connect()?.call(MANAGER, "SetUnitProperties", "sba(sv)", &body.0).map(drop)
}

/// Stops the unit `unit`, and has systemd forget that it failed. Of no effect where there is no such unit.
///
/// # Errors
/// systemd's.
pub fn stop(unit: &str) -> Result<()> {
    let mut bus = Bus::connect()?;
    let mut body = Writer::default();
    body.text(unit);
    body.text("replace");
    let stopped = match bus.job("StopUnit", "ss", &body.0) {
        Err(Error::Refused { name, .. }) if is_absent(&name) => Ok(()),
        other => other,
    };
    reset_failed(&mut bus, unit).and(stopped)
}

fn reset_failed(bus: &mut Bus, unit: &str) -> Result<()> {
    let mut body = Writer::default();
    body.text(unit);
    match bus.call(MANAGER, "ResetFailedUnit", "s", &body.0) {
        Err(Error::Refused { name, .. }) if is_absent(&name) => Ok(()),
        other => other.map(drop),
    }
}

fn is_absent(error: &str) -> bool {
    error == "org.freedesktop.systemd1.NoSuchUnit"
}

/// systemd's version, as in `257.8-1`.
///
/// # Errors
/// systemd's.
pub fn version() -> Result<String> {
    let mut body = Writer::default();
    body.text(MANAGER.interface);
    body.text("Version");
    let target = wire::Target { interface: "org.freedesktop.DBus.Properties", ..MANAGER };
    let reply = Bus::connect()?.call(target, "Get", "ss", &body.0)?;
    // A variant: the signature "s" with its length and NUL, then the text at the next multiple of four.
    let text = reply.get(4..).and_then(|rest| Reader::new(rest).text());
    text.map(str::to_owned).ok_or(Error::Malformed)
}

/// How long a placeholder may live: longer than any start.
const PLACEHOLDER_LIFE: Duration = Duration::from_secs(24 * 3600);

/// The process that a scope begins with; killed when dropped, by when the container's own is inside.
#[derive(Debug)]
pub(crate) struct Placeholder(Child);

impl Placeholder {
    fn new() -> Result<Self> {
        let child = sys::process::clone_process(&CloneArgs::default(), || {
            // Locks and sockets of the caller's must end with the caller; so must this process.
            let alone = sys::process::die_with_parent(rustix::process::Signal::KILL.as_raw())
                .and_then(|()| sys::process::close_from(0));
            if alone.is_ok() {
                std::thread::sleep(PLACEHOLDER_LIFE);
            }
            0
        })?;
        Ok(Self(child))
    }

    /// The group that systemd put it into, below the hierarchy's root.
    pub(crate) fn group(&self) -> Result<String> {
        let path = format!("/proc/{}/cgroup", self.0.pid);
        let text = std::fs::read_to_string(&path).map_err(|error| {
            sys::Error::new("read", &path, sys::Errno::from_io_error(&error).unwrap_or(sys::Errno::IO))
        })?;
        own_group(&text).map(str::to_owned).ok_or(Error::Malformed)
    }
}

/// The path in the hierarchy that systemd keeps: the unified one, or before that the one of its name.
fn own_group(text: &str) -> Option<&str> {
    let of = |kind: &str| text.lines().find_map(|line| line.split_once(':')?.1.strip_prefix(kind));
    of("name=systemd:").or_else(|| of(":"))
}

impl Drop for Placeholder {
    fn drop(&mut self) {
        crate::parent::put_down(&self.0.pidfd, Duration::from_secs(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_scopes() {
        let parse = |path: &str| Scope::parse(path, "id").map(|scope| format!("{}/{}", scope.slice, scope.unit));
        assert_eq!(parse("machine.slice:libpod:abc").expect("valid"), "machine.slice/libpod-abc.scope");
        assert_eq!(parse("a-b.slice::abc").expect("valid"), "a-b.slice/abc.scope");
        assert_eq!(parse("-.slice:x:").expect("valid"), "-.slice/x-id.scope");
        assert!(parse("").expect("valid").ends_with(".slice/lighter-id.scope"));
        assert!(parse(":p:n").expect("valid").ends_with(".slice/p-n.scope"));
        for bad in [
            "/a/b",
            "a:b",
            "a:b:c",
            "a/b.slice:x:y",
            "-a.slice:x:y",
            "a--b.slice:x:y",
            "a.slice:x:y/z",
            "a.slice:x:y.slice",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_group_is_read_from_systemds_hierarchy() {
        assert_eq!(own_group("0::/system.slice/x.scope\n"), Some("/system.slice/x.scope"));
        assert_eq!(own_group("3:cpu:/\n1:name=systemd:/a/x.scope\n0::/b\n"), Some("/a/x.scope"));
        assert_eq!(own_group(""), None);
    }

    #[test]
    fn a_placeholder_ends_with_its_handle() {
        // Cloning needs a process of one thread, which a test's is not.
        match Placeholder::new() {
            Ok(placeholder) => assert!(placeholder.group().is_ok()),
            Err(Error::Sys(error)) => assert_eq!(error.errno(), sys::Errno::AGAIN),
            Err(error) => panic!("{error}"),
        }
    }
}
