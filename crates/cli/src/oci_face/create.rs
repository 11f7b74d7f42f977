//! `create` and what `run` shares with it: a bundle read, a container registered, its first process made.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use oci::runtime::{LinuxDeviceCgroup, Mount, NamespaceKind, Process, Spec};
use runtime::cgroup::Cgroup;
use runtime::systemd::Scope;
use runtime::{Bundle, Created, Groups, Identity, Launch, Rootfs, Stdio};
use rustix::fs::{Mode, OFlags};
use sys::Context as _;
use sys::fs::Lock;

use super::arguments::Flags;
use super::failure::{self, Failure};
use super::store::{Container, LONGEST_CONFIG, ProcessId, RECORD_VERSION, Record, Store, write_file};
use super::{console, remove};

/// How the first process is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// Waiting at the gate for somebody's `start`.
    Later,
    /// Executed, and nobody's child.
    Detached,
    /// Executed, and this process's child until it ends.
    Attached,
}

/// A container whose first process was made.
pub(super) struct Made {
    pub(super) container: Container,
    pub(super) lock: Lock,
    pub(super) record: Record,
    pub(super) spec: Spec,
    pub(super) created: Created,
}

/// `create`.
pub(super) fn create(global: &Flags, flags: &Flags) -> Result<i32, Failure> {
    let handed = handed_on(flags, listening()?)?;
    make(global, flags, &handed, Start::Later)?;
    Ok(0)
}

/// Makes the container that the flags describe, up to and including its start where that is asked for. A failure leaves
/// nothing. `handed` is what [`handed_on`] found.
pub(super) fn make(global: &Flags, flags: &Flags, handed: &[bool], start: Start) -> Result<Made, Failure> {
    let bundle = bundle_directory(flags.get("bundle"))?;
    let config = bundle.join(flags.get("config").unwrap_or("config.json"));
    let (mut bytes, mut spec) = read_config(&config)?;
    seal_if_needed(&spec)?;
    let user = rustix::process::geteuid();
    let ordinary = !user.is_root();
    if ordinary && spec.namespace(NamespaceKind::User).is_none() {
        failure::warn(global, "linux.namespaces: an ordinary user needs a user namespace: the container gets one");
    }
    if runtime::default_mappings(&mut spec, ordinary)? {
        // Who joins the container later has to know its ids.
        bytes = serde_json::to_vec(&spec).map_err(|error| Failure::new(error.to_string()))?;
        seal_if_needed(&spec)?;
    }
    bind_from_bundle(&mut spec, &bundle);
    allow_tunnels(&mut spec);
    pass_listening(&mut spec)?;
    let preserve = preserved(handed)?;
    let stdio = match &spec.process {
        Some(process) => {
            warn_of_unknown(global, &spec, process);
            stdio(process, flags.get("console-socket"), start != Start::Attached)?
        }
        // "This property is REQUIRED when start is called" (config.md, "Process"), and not before.
        None if start == Start::Later => Stdio::Inherit,
        None => return Err(Failure::new("process: is missing")),
    };
    let scope = scope(global, &spec, flags.id())?;
    let path = runtime::group_path(&spec, flags.id(), ordinary);
    let groups = groups(global, scope.as_ref(), &path);
    let mut record = new_record(flags.id(), &spec, bundle, groups)?;
    let store = Store::new(global);
    let (container, lock) = store.reserve(flags.id())?;
    let registered = container.write_config(&bytes).and_then(|()| container.write_record(&record));
    let gate = match start {
        Start::Later => registered.and_then(|()| container.make_gate().map(Some)),
        Start::Detached | Start::Attached => registered.map(|()| None),
    };
    let made = gate.and_then(|gate| {
        let launch = Launch {
            id: flags.id(),
            spec: &spec,
            rootfs: Rootfs::AsIs(record.rootfs.clone()),
            stdio,
            preserve,
            identity: identity(&spec),
            init: false,
            make_cwd: true,
            die_with_caller: start == Start::Attached,
            seccomp_cache: Some(store.seccomp_cache()),
        };
        let bundle = Bundle {
            dir: &record.bundle,
            gate,
            private: &[lock.as_fd()],
            no_pivot: flags.is("no-pivot"),
            new_keyring: !flags.is("no-new-keyring"),
            groups,
            ordinary,
        };
        Ok(runtime::create_bundle(launch, &bundle)?)
    });
    let mut created = match made {
        Ok(created) => created,
        Err(failure) => {
            // The first failure is the one to report; what stays is found by `list` and `delete --force`.
            let _ = container.remove(Some(lock));
            return Err(failure);
        }
    };
    record.cgroup = created.cgroup.as_ref().map(Cgroup::path);
    // Not before it is ours: a unit of this name may have been somebody else's, and what systemd made is gone by itself
    // should this process end here.
    record.unit = scope.map(|scope| scope.unit);
    match announce(flags, &container, &mut record, &mut created, start) {
        Ok(()) => Ok(Made { container, lock, record, spec, created }),
        Err(failure) => {
            created.abandon();
            let _ = remove::take_down(global, container, lock, &record, Some(&spec));
            Err(failure)
        }
    }
}

/// Where a container's control group comes from; `path` is its own where nobody else makes it.
pub(super) fn groups<'a>(global: &Flags, scope: Option<&'a Scope>, path: &'a str) -> Groups<'a> {
    match scope {
        Some(scope) => Groups::Scope(scope),
        None if global.get("cgroup-manager") == Some("disabled") => Groups::None,
        None => Groups::Own(path),
    }
}

/// What is written about a container before it has a process.
pub(super) fn new_record(id: &str, spec: &Spec, bundle: PathBuf, groups: Groups<'_>) -> Result<Record, Failure> {
    let root = spec.root.as_ref().ok_or_else(|| Failure::new("root: is missing"))?;
    Ok(Record {
        version: RECORD_VERSION,
        id: id.to_owned(),
        oci_version: spec.oci_version.clone(),
        rootfs: bundle.join(&root.path),
        bundle,
        created: jiff::Timestamp::now().to_string(),
        owner: rustix::process::geteuid().as_raw(),
        cgroup: match groups {
            Groups::Own(path) => Some(path.to_owned()),
            // systemd's own choice is known once it has made it.
            Groups::Scope(scope) => Some(format!("/{}", scope.unit)),
            Groups::None => None,
        },
        unit: None,
        creator: ProcessId::of(std::process::id())?,
        process: None,
        resctrl: runtime::resctrl::to_be_made(spec, id)?,
        annotations: spec.annotations.clone(),
    })
}

/// What is passed over is said: capabilities that nobody knows (`config.md`, "Linux Process"), labels of a module that is
/// not there.
fn warn_of_unknown(global: &Flags, spec: &Spec, process: &Process) {
    if let Some(warning) = runtime::unused_label(spec) {
        failure::warn(global, warning);
    }
    if let Some(sets) = &process.capabilities {
        for unknown in runtime::capability::Capabilities::from_oci(sets).1 {
            failure::warn(global, &format!("process.capabilities: {unknown}"));
        }
    }
}

/// Makes the process known, then lets it go.
fn announce(
    flags: &Flags,
    container: &Container,
    record: &mut Record,
    created: &mut Created,
    start: Start,
) -> Result<(), Failure> {
    record.resctrl.clone_from(&created.resctrl);
    record.process = Some(ProcessId::of(created.pid)?);
    container.write_record(record)?;
    if let Some(path) = flags.get("pid-file") {
        write_file(Path::new(path), &created.pid.to_string())?;
    }
    if let Some(path) = flags.get("pidfd-socket") {
        console::send_file(Path::new(path), "pidfd", &created.pidfd)?;
    }
    if let Some(path) = flags.get("console-socket")
        && let Some(master) = created.terminal.take()
    {
        console::send_file(Path::new(path), "/dev/ptmx", &master)?;
    }
    match start {
        Start::Later => created.release()?,
        Start::Detached | Start::Attached => created.start()?,
    }
    Ok(())
}

/// The scope that `--systemd-cgroup` asks for.
pub(super) fn scope(global: &Flags, spec: &Spec, id: &str) -> Result<Option<Scope>, Failure> {
    // The manager's name is the later flag, and says more.
    if global.get("cgroup-manager").map_or(!global.is("systemd-cgroup"), |manager| manager != "systemd") {
        return Ok(None);
    }
    let path = spec.linux.as_ref().map(|linux| linux.cgroups_path.as_str()).unwrap_or_default();
    Ok(Some(Scope::parse(path, id)?))
}

/// The bundle's directory, absolute.
pub(super) fn bundle_directory(given: Option<&str>) -> Result<PathBuf, Failure> {
    let here = || std::env::current_dir().map_err(|error| Failure::new(format!("no current directory: {error}")));
    match given.filter(|given| !given.is_empty()) {
        None => here(),
        Some(given) if Path::new(given).is_absolute() => Ok(PathBuf::from(given)),
        Some(given) => Ok(here()?.join(given)),
    }
}

/// Sources of bind mounts may be relative to the bundle (`config.md`, "Mounts").
pub(super) fn bind_from_bundle(spec: &mut Spec, bundle: &Path) {
    bind_below(&mut spec.mounts, bundle);
}

/// The same for a list of mounts.
pub(super) fn bind_below(mounts: &mut [Mount], bundle: &Path) {
    for mount in mounts {
        let bind = |word: &str| word == "bind" || word == "rbind";
        if let Some(source) = &mut mount.source
            && source.is_relative()
            && (bind(&mount.kind) || mount.options.iter().any(|option| bind(option)))
        {
            *source = bundle.join(&source);
        }
    }
}

/// The process's user; crun's annotation, which Podman sets for `--group-add keep-groups`, leaves it the caller's groups.
pub(super) fn identity(spec: &Spec) -> Identity {
    const KEEP: &str = "run.oci.keep_original_groups";
    Identity::Spec { keep_groups: spec.annotations.get(KEEP).is_some_and(|value| value == "1") }
}

/// Lets a container that may make devices use `/dev/net/tun`, as runc and crun do beyond the specification's own list: runc
/// 1.2.0 did not, and 1.2.4 took that back for the sake of those who make the device in the container.
pub(super) fn allow_tunnels(spec: &mut Spec) {
    let everything = |rule: &LinuxDeviceCgroup| {
        rule.allow && matches!(rule.kind.as_str(), "" | "a") && rule.major.is_none() && rule.minor.is_none()
    };
    if let Some(resources) = spec.linux.as_mut().and_then(|linux| linux.resources.as_mut())
        && !resources.devices.is_empty()
        && !resources.devices.iter().any(everything)
    {
        let (kind, access) = ("c".to_owned(), "rwm".to_owned());
        resources.devices.push(LinuxDeviceCgroup { allow: true, kind, major: Some(10), minor: Some(200), access });
    }
}

pub(super) fn read_config(path: &Path) -> Result<(Vec<u8>, Spec), Failure> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).at("open", path.display())?;
    let bytes = sys::fs::read_regular(&file, LONGEST_CONFIG, path.display())?;
    let spec = Spec::from_json(&bytes).map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
    Ok((bytes, spec))
}

/// Somebody in the container could write the program that sets it up (CVE-2019-5736) unless a user namespace keeps its
/// owner out: it then runs from a protected copy.
pub(super) fn seal_if_needed(spec: &Spec) -> Result<(), Failure> {
    if spec.namespace(NamespaceKind::User).is_some_and(|namespace| namespace.path.is_none()) {
        let owner = rustix::fs::stat("/proc/self/exe").at("stat", "/proc/self/exe")?.st_uid;
        let map = spec.linux.as_ref().map(|linux| &linux.uid_mappings[..]).unwrap_or_default();
        if !map.iter().any(|range| owner.checked_sub(range.host_id).is_some_and(|offset| offset < range.size)) {
            return Ok(());
        }
    }
    Ok(sys::sealed::execute_again()?)
}

/// How many sockets the caller was handed for its service (`LISTEN_FDS`, sd_listen_fds(3)).
pub(super) fn listening() -> Result<u16, Failure> {
    match std::env::var("LISTEN_FDS").ok().filter(|text| !text.is_empty()) {
        None => Ok(0),
        Some(text) => text.parse().map_err(|_| Failure::new(format!("LISTEN_FDS={text}: is not a valid number"))),
    }
}

/// Hands on that the first process is the one whom `LISTEN_FDS` is meant for, and the sockets' names.
fn pass_listening(spec: &mut Spec) -> Result<(), Failure> {
    let count = listening()?;
    if let (Some(process), 1..) = (&mut spec.process, count) {
        process.env.retain(|variable| !variable.starts_with("LISTEN_"));
        process.env.push(format!("LISTEN_FDS={count}"));
        process.env.push("LISTEN_PID=1".to_owned());
        if let Ok(names) = std::env::var("LISTEN_FDNAMES") {
            process.env.push(format!("LISTEN_FDNAMES={names}"));
        }
    }
    Ok(())
}

/// Which of the descriptors that are to be handed on, 3 and the following, are open: `first` of them before those of
/// `--preserve-fds`. One that is not stays closed in the container: Podman asks for all up to the highest that its user
/// named. To be called before any file is opened: a missing one would be one of our own by the time it is taken, and the
/// container would get that.
pub(super) fn handed_on(flags: &Flags, first: u16) -> Result<Vec<bool>, Failure> {
    let count = flags.number::<u16>("preserve-fds")?.unwrap_or(0).saturating_add(first);
    let open = |number: i32| std::fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_ok();
    Ok((3..3 + i32::from(count)).map(open).collect())
}

/// The descriptors that are handed on, of which `handed` says which are open.
pub(super) fn preserved(handed: &[bool]) -> Result<Vec<Option<OwnedFd>>, Failure> {
    let take = |(number, open): (i32, &bool)| {
        open.then(|| sys::process::inherited(number))
            .transpose()
            .map_err(|error| Failure::from(error).within(&format!("cannot hand on descriptor {number}")))
    };
    (3..).zip(handed).map(take).collect()
}

/// The process's streams: the caller's, or a terminal whose master goes to the console socket, or is relayed when this
/// process stays.
pub(super) fn stdio(process: &Process, socket: Option<&str>, leaves: bool) -> Result<Stdio, Failure> {
    match (process.terminal, socket) {
        (false, Some(_)) => Err(Failure::new("--console-socket is given, but process.terminal is false")),
        (false, None) => Ok(Stdio::Inherit),
        (true, None) if leaves => Err(Failure::new("process.terminal is true, so --console-socket has to be given")),
        (true, socket) => {
            let configured = process.console_size.as_ref().map(|size| (size.height, size.width));
            // A terminal that is relayed has the size of ours from its first moment on.
            let ours = || if socket.is_none() { sys::pty::size(rustix::stdio::stdin()).ok() } else { None };
            Ok(Stdio::Terminal { size: configured.or_else(ours) })
        }
    }
}
