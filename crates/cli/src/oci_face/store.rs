//! Containers as they are registered below `--root`: one directory each, readable with `cat`.
//!
//! ```text
//! <root>/<id>/config.json   the configuration the container was made with
//!             state.json    the record; replaced by rename
//!             lock          held by whoever changes the container
//!             start         the gate's socket, while the container is created and not started
//! ```
//!
//! The directory reserves the id. A status is never stored: it follows from the processes and the gate, so it is true
//! after anything was killed at any point.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use oci::runtime::Spec;
use runtime::cgroup::{Cgroup, Host};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{AtFlags, Mode, OFlags};
use serde::{Deserialize, Serialize};
use sys::fs::{Durability, Lock};
use sys::socket::Kind;
use sys::{Context as _, Errno};

use super::arguments::{Flags, is_id};
use super::failure::Failure;

/// Where containers are registered when `--root` does not say.
const ROOT: &str = "/run/lighter-runtime";

/// The same, below the directory that belongs to a user's session, for whoever is not the host's root.
const USERS_ROOT: &str = "lighter-runtime";

/// Longest configuration, and longest record, in bytes.
pub(super) const LONGEST_CONFIG: usize = 16 << 20;

/// How long a command waits for another one that changes the same container.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);

const CONFIG: &str = "config.json";
const RECORD: &str = "state.json";
const LOCK: &str = "lock";
const GATE: &str = "start";

/// What is written about a container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    /// Version of this record's form.
    pub(super) version: u32,
    pub(super) id: String,
    /// Version of the specification the configuration is written for.
    pub(super) oci_version: String,
    pub(super) bundle: PathBuf,
    pub(super) rootfs: PathBuf,
    /// When it was made, RFC 3339.
    pub(super) created: String,
    /// The user who made it.
    pub(super) owner: u32,
    /// Path of its control group, if it has one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cgroup: Option<String>,
    /// The unit that systemd made for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) unit: Option<String>,
    /// Who makes it, for as long as there is no process.
    pub(super) creator: ProcessId,
    /// Its first process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) process: Option<ProcessId>,
    /// Directories of the resource control file system that were made for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) resctrl: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
}

/// The form of records this program writes. It also reads version 1, in which every container has a control group.
pub(super) const RECORD_VERSION: u32 = 2;

/// A process, told from a later one with the same number by its start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProcessId {
    pub(super) pid: u32,
    /// In clock ticks since boot (proc_pid_stat(5), field 22).
    pub(super) start: u64,
}

impl ProcessId {
    /// The process `pid`, which the caller knows to be alive or uncollected.
    pub(super) fn of(pid: u32) -> Result<Self, Failure> {
        let start = start_time(pid)?.ok_or_else(|| Failure::new(format!("process {pid} is gone")))?;
        Ok(Self { pid, start })
    }

    /// A descriptor of the process, unless it has ended.
    pub(super) fn open(self) -> Result<Option<OwnedFd>, Failure> {
        let pidfd = match sys::process::open_pid(self.pid) {
            Err(error) if matches!(error.errno(), Errno::SRCH | Errno::INVAL) => return Ok(None),
            other => other?,
        };
        // The descriptor pins the process, so the start time read now is its own.
        if start_time(self.pid)? != Some(self.start) {
            return Ok(None);
        }
        let mut entries = [PollFd::new(&pidfd, PollFlags::IN)];
        let ended = sys::process::poll_until(&mut entries, Some(Duration::ZERO))? > 0;
        Ok((!ended).then_some(pidfd))
    }
}

fn start_time(pid: u32) -> Result<Option<u64>, Failure> {
    let path = format!("/proc/{pid}/stat");
    let file = match rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::NOENT | Errno::SRCH) => return Ok(None),
        other => other.at("open", &path)?,
    };
    match sys::fs::read_bounded(file, 1 << 16, &path) {
        Ok(bytes) => Ok(start_field(&String::from_utf8_lossy(&bytes))),
        Err(error) if error.errno() == Errno::SRCH => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Field 22; the command's name, field 2, may hold anything, but it ends at the last parenthesis.
fn start_field(text: &str) -> Option<u64> {
    text.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// What a container is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    /// The specification's word; `paused` is runc's.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// All containers below one root.
pub(super) struct Store {
    root: PathBuf,
}

impl Store {
    /// The one that the caller named, or the one for its user.
    pub(super) fn new(global: &Flags) -> Self {
        Self { root: global.get("root").filter(|root| !root.is_empty()).map_or_else(default_root, PathBuf::from) }
    }

    /// Directory of compiled seccomp programs; no id begins with a dot.
    pub(super) fn seccomp_cache(&self) -> PathBuf {
        self.root.join(".seccomp")
    }

    /// Does `act` to every container in whose id the regular expression `text` is found. Goes on past failures; gives the
    /// first, with its container's id.
    ///
    /// # Errors
    /// It is no regular expression; the first of `act`.
    pub(super) fn each_matching(
        &self,
        text: &str,
        mut act: impl FnMut(&str) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let wanted = regex_lite::Regex::new(text)
            .map_err(|error| Failure::new(format!("--regex: {text:?} is no regular expression: {error}")))?;
        let mut first = Ok(());
        for id in self.ids()?.iter().filter(|id| wanted.is_match(id)) {
            first = first.and(act(id).map_err(|failure| failure.within(&format!("container {id:?}"))));
        }
        first
    }

    /// Reserves `id` and takes its lock.
    pub(super) fn reserve(&self, id: &str) -> Result<(Container, Lock), Failure> {
        let path = self.root.join(id);
        let make = || rustix::fs::mkdir(&path, Mode::RWXU);
        let made = match make() {
            Err(Errno::NOENT) => {
                std::fs::create_dir_all(&self.root)
                    .at("mkdir", self.root.display())
                    .map_err(|error| self.unusable(error))?;
                make()
            }
            other => other,
        };
        if made == Err(Errno::EXIST) {
            return Err(Failure::new(format!("container with id {id:?} already exists")));
        }
        made.at("mkdir", path.display()).map_err(|error| self.unusable(error))?;
        let container = self.open(id)?;
        let lock = container.lock()?;
        Ok((container, lock))
    }

    fn unusable(&self, error: sys::Error) -> Failure {
        if error.errno() == Errno::ACCESS && self.root == Path::new(ROOT) {
            let failure = Failure::from(error);
            return Failure::new(format!("{failure}: an ordinary user has to set XDG_RUNTIME_DIR, or to give --root"));
        }
        error.into()
    }

    /// The container `id`.
    pub(super) fn open(&self, id: &str) -> Result<Container, Failure> {
        let path = self.root.join(id);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(dir) => Ok(Container { id: id.to_owned(), path, dir }),
            Err(Errno::NOENT) => Err(absent(id)),
            Err(errno) => Err(sys::Error::new("open", path.display(), errno).into()),
        }
    }

    /// Whether there is a container `id`.
    pub(super) fn has(&self, id: &str) -> bool {
        rustix::fs::lstat(self.root.join(id)).is_ok()
    }

    /// The ids of all containers, sorted.
    pub(super) fn ids(&self) -> Result<Vec<String>, Failure> {
        let entries = match std::fs::read_dir(&self.root) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.at("opendir", self.root.display())?,
        };
        let mut ids = Vec::new();
        for entry in entries {
            let entry = entry.at("readdir", self.root.display())?;
            if let Ok(id) = entry.file_name().into_string()
                && is_id(&id)
            {
                ids.push(id);
            }
        }
        ids.sort_unstable();
        Ok(ids)
    }
}

/// An ordinary user's is below `XDG_RUNTIME_DIR`, and so is that of a root who is one of a user namespace only, as Podman
/// makes them. The host's own root may have that variable too.
fn default_root() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_absolute()) {
        Some(dir) if !rustix::process::geteuid().is_root() || sys::process::in_user_namespace() => dir.join(USERS_ROOT),
        _ => PathBuf::from(ROOT),
    }
}

fn absent(id: &str) -> Failure {
    Failure::new(format!("container {id:?} does not exist"))
}

/// One container's directory.
pub(super) struct Container {
    pub(super) id: String,
    path: PathBuf,
    dir: OwnedFd,
}

impl Container {
    /// Takes the lock that every change needs.
    ///
    /// # Errors
    /// The container is gone by then; somebody holds the lock too long.
    pub(super) fn lock(&self) -> Result<Lock, Failure> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.dir, LOCK, flags, Mode::RUSR | Mode::WUSR) {
            Err(Errno::NOENT) => return Err(absent(&self.id)),
            other => other.at("openat", LOCK)?,
        };
        let lock = Lock::take(file, LOCK_PATIENCE).map_err(|error| {
            if error.errno() == Errno::TIMEDOUT {
                Failure::new(format!("container {:?} is being changed by another command", self.id))
            } else {
                error.into()
            }
        })?;
        // The holder before may have deleted the container, lock and all.
        if rustix::fs::fstat(&lock).is_ok_and(|stat| stat.st_nlink == 0) {
            return Err(absent(&self.id));
        }
        Ok(lock)
    }

    /// The record; `None` when whoever made the container was killed before it was written.
    pub(super) fn record(&self) -> Result<Option<Record>, Failure> {
        let Some(bytes) = self.read(RECORD)? else { return Ok(None) };
        let damaged = |why: String| Failure::new(format!("{}: {why}", self.path.join(RECORD).display()));
        let record: Record = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if !(1..=RECORD_VERSION).contains(&record.version) || (record.version == 1 && record.cgroup.is_none()) {
            return Err(damaged(format!("version {} is not known", record.version)));
        }
        Ok(Some(record))
    }

    /// Whether the record is another version's, which knows what belongs to the container, as this one does not.
    pub(super) fn is_other_versions(&self) -> bool {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let record = self.read(RECORD).ok().flatten();
        let version = record.and_then(|bytes| serde_json::from_slice::<Version>(&bytes).ok());
        version.is_some_and(|found| !(1..=RECORD_VERSION).contains(&found.version))
    }

    /// The record of a container that was made whole.
    pub(super) fn whole_record(&self) -> Result<Record, Failure> {
        self.record()?.ok_or_else(|| absent(&self.id))
    }

    pub(super) fn write_record(&self, record: &Record) -> Result<(), Failure> {
        let bytes = serde_json::to_vec(record).map_err(|error| Failure::new(error.to_string()))?;
        // The directory is of a file system that does not outlive the machine's run, as the processes do not.
        Ok(sys::fs::replace(&self.dir, RECORD, &bytes, 0o600, Durability::Volatile)?)
    }

    pub(super) fn write_config(&self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(sys::fs::replace(&self.dir, CONFIG, bytes, 0o600, Durability::Volatile)?)
    }

    /// The configuration the container was made with.
    pub(super) fn spec(&self) -> Result<Spec, Failure> {
        let bytes = self.read(CONFIG)?.ok_or_else(|| absent(&self.id))?;
        Spec::from_json(&bytes).map_err(|error| Failure::new(format!("{}: {error}", self.path.join(CONFIG).display())))
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Failure> {
        match rustix::fs::openat(&self.dir, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(sys::Error::new("openat", self.path.join(name).display(), errno).into()),
            Ok(file) => Ok(Some(sys::fs::read_regular(file, LONGEST_CONFIG, self.path.join(name).display())?)),
        }
    }

    /// Makes the gate at which the first process will wait.
    pub(super) fn make_gate(&self) -> Result<OwnedFd, Failure> {
        Ok(sys::socket::listen_in(&self.dir, GATE)?)
    }

    /// A connection to the gate; `None` when nobody waits there.
    pub(super) fn gate(&self) -> Result<Option<OwnedFd>, Failure> {
        match sys::socket::connect_in(&self.dir, GATE, Kind::Messages) {
            Ok(connection) => Ok(Some(connection)),
            Err(error) if matches!(error.errno(), Errno::NOENT | Errno::CONNREFUSED) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the gate away after the start.
    pub(super) fn remove_gate(&self) -> Result<(), Failure> {
        match rustix::fs::unlinkat(&self.dir, GATE, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(sys::Error::new("unlinkat", GATE, errno).into()),
        }
    }

    /// What the container is doing, and its first process while that lives.
    pub(super) fn status(&self, record: &Record) -> Result<(Status, Option<OwnedFd>), Failure> {
        let Some(process) = record.process else {
            let status = if record.creator.open()?.is_some() { Status::Creating } else { Status::Stopped };
            return Ok((status, None));
        };
        let Some(pidfd) = process.open()? else { return Ok((Status::Stopped, None)) };
        // The socket's name is gone once the container is started, so the common case asks nobody.
        let named = rustix::fs::statat(&self.dir, GATE, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        if named && sys::socket::is_listening(&self.dir, GATE)? {
            return Ok((Status::Created, Some(pidfd)));
        }
        let paused = match group(record)? {
            // A host without a freezer pauses nothing.
            Some(group) => group.is_frozen().unwrap_or(false),
            None => false,
        };
        Ok((if paused { Status::Paused } else { Status::Running }, Some(pidfd)))
    }

    /// Removes the directory, whatever it holds, with the lock of its owner.
    pub(super) fn remove(self, lock: Option<Lock>) -> Result<(), Failure> {
        let listing = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.dir.as_fd()));
        for entry in std::fs::read_dir(&listing).at("opendir", self.path.display())? {
            let name = entry.at("readdir", self.path.display())?.file_name();
            match rustix::fs::unlinkat(&self.dir, &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(sys::Error::new("unlinkat", self.path.join(name).display(), errno).into()),
            }
        }
        let removed = rustix::fs::rmdir(&self.path);
        drop(lock);
        match removed {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(sys::Error::new("rmdir", self.path.display(), errno).into()),
        }
    }
}

/// The container's control group; `None` when it is gone, or when there never was one.
pub(super) fn group(record: &Record) -> Result<Option<Cgroup>, Failure> {
    let Some(path) = &record.cgroup else { return Ok(None) };
    let host: Arc<Host> = Host::detect()?;
    match Cgroup::open(&host, path) {
        Ok(group) => Ok(Some(group)),
        Err(runtime::cgroup::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Writes `text` to `path` by rename.
pub(super) fn write_file(path: &Path, text: &str) -> Result<(), Failure> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| Failure::new(format!("{path:?} names no file")))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(parent, flags, Mode::empty()).at("open", parent.display())?;
    Ok(sys::fs::replace(dir, name, text.as_bytes(), 0o644, Durability::Volatile)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> Store {
        Store { root: std::env::temp_dir().join(format!("lighter-oci-{name}-{}", std::process::id())) }
    }

    fn record(id: &str) -> Record {
        Record {
            version: RECORD_VERSION,
            id: id.to_owned(),
            oci_version: "1.0.0".to_owned(),
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            created: "2026-01-01T00:00:00Z".to_owned(),
            owner: 0,
            cgroup: Some("/lighter-test-absent".to_owned()),
            unit: None,
            creator: ProcessId::of(std::process::id()).expect("alive"),
            process: None,
            resctrl: Vec::new(),
            annotations: BTreeMap::new(),
        }
    }

    #[test]
    fn a_container_is_registered_once_and_removed_whole() {
        let store = scratch("store");
        let (container, lock) = store.reserve("c1").expect("reserved");
        assert!(store.reserve("c1").is_err());
        assert_eq!(container.record().expect("none yet"), None);
        container.write_config(b"{\"ociVersion\": \"1.0.0\"}").expect("written");
        container.write_record(&record("c1")).expect("written");
        assert_eq!(store.ids().expect("listed"), ["c1"]);
        assert_eq!(container.whole_record().expect("read"), record("c1"));
        assert_eq!(container.spec().expect("read").oci_version, "1.0.0");
        container.remove(Some(lock)).expect("removed");
        assert!(!store.has("c1") && store.open("c1").is_err());
        std::fs::remove_dir(&store.root).expect("empty");
    }

    #[test]
    fn ids_are_matched_and_failures_passed_by() {
        let store = scratch("regex");
        for id in ["web-1", "web-2", "db"] {
            store.reserve(id).expect("reserved");
        }
        let mut seen = Vec::new();
        let failed = store.each_matching("^web", |id| {
            seen.push(id.to_owned());
            Err(Failure::new("no"))
        });
        assert_eq!(failed.expect_err("the first").to_string(), "container \"web-1\": no");
        assert_eq!(seen, ["web-1", "web-2"]);
        assert!(store.each_matching("(", |_| Ok(())).is_err());
        store.each_matching("nothing", |id| panic!("{id}")).expect("none");
        store.each_matching(".", |id| store.open(id)?.remove(None)).expect("removed");
        std::fs::remove_dir(&store.root).expect("empty");
    }

    #[test]
    fn status_is_what_the_processes_say() {
        let store = scratch("status");
        let (container, lock) = store.reserve("c1").expect("reserved");
        let mut record = record("c1");
        assert_eq!(container.status(&record).expect("known").0, Status::Creating);
        record.creator.start += 1;
        assert_eq!(container.status(&record).expect("known").0, Status::Stopped, "another process has the number");
        record.process = Some(ProcessId::of(std::process::id()).expect("alive"));
        assert_eq!(container.status(&record).expect("known").0, Status::Running);
        let gate = container.make_gate().expect("made");
        assert_eq!(container.status(&record).expect("known").0, Status::Created);
        drop(gate);
        assert_eq!(container.status(&record).expect("known").0, Status::Running, "started, the name left behind");
        container.remove(Some(lock)).expect("removed");
        std::fs::remove_dir(&store.root).expect("empty");
    }

    #[test]
    fn a_record_of_another_version_is_refused() {
        let store = scratch("version");
        let (container, lock) = store.reserve("c1").expect("reserved");
        container.write_record(&Record { version: RECORD_VERSION + 1, ..record("c1") }).expect("written");
        assert!(container.record().is_err());
        container.write_record(&Record { version: 1, ..record("c1") }).expect("written");
        assert_eq!(container.whole_record().expect("read").cgroup, record("c1").cgroup);
        let without = Record { cgroup: None, ..record("c1") };
        container.write_record(&without).expect("written");
        assert_eq!(container.whole_record().expect("read"), without);
        container.write_record(&Record { version: 1, ..without }).expect("written");
        assert!(container.record().is_err(), "version 1 has none without a group");
        container.remove(Some(lock)).expect("removed");
        std::fs::remove_dir(&store.root).expect("empty");
    }

    #[test]
    fn start_times_are_found_behind_any_name() {
        let text = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(start_field(text), Some(4711));
        assert_eq!(start_field("7 (x"), None);
    }
}
