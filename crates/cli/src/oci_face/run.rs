//! `run`: create, start, wait, clean up; signals go to the container.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci::runtime::{NamespaceKind, Spec};
use runtime::{Identity, Launch, Rootfs, Stdio};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Signal;
use sys::Context as _;
use sys::fs::Durability;
use sys::signal::SignalSet;

use super::Failure;
use super::arguments::{Global, Run};

/// Where containers are registered when `--root` does not say.
const ROOT: &str = "/run/lighter-runtime";

/// Longest `config.json`, in bytes.
const LONGEST_CONFIG: usize = 16 << 20;

pub(crate) fn run(global: &Global, options: &Run) -> Result<i32, Failure> {
    let bundle = match &options.bundle {
        Some(bundle) => bundle.clone(),
        None => std::env::current_dir().map_err(|error| Failure::from(format!("no bundle: {error}")))?,
    };
    let spec = read_config(&bundle)?;
    seal_if_needed(&spec)?;
    let root = spec.root.as_ref().ok_or_else(|| Failure::from("root: is missing".to_owned()))?;
    let registration = Registration::new(global.root.as_deref().unwrap_or(Path::new(ROOT)), &options.id)?;
    let result = run_registered(options, &bundle, &spec, &bundle.join(&root.path), &registration);
    registration.remove()?;
    result
}

fn run_registered(
    options: &Run,
    bundle: &Path,
    spec: &Spec,
    rootfs: &Path,
    registration: &Registration,
) -> Result<i32, Failure> {
    if spec.process.as_ref().is_some_and(|process| process.terminal) {
        return Err(Failure::from("process.terminal: not available yet in run".to_owned()));
    }
    let all = SignalSet::all().without(Signal::SEGV.as_raw()).without(Signal::BUS.as_raw());
    sys::signal::block(all)?;
    let signals = sys::signal::descriptor(all)?;
    let mut created = runtime::create(Launch {
        id: &options.id,
        spec,
        rootfs: Rootfs::AsIs(rootfs.to_owned()),
        stdio: Stdio::Inherit,
        preserve: Vec::new(),
        identity: Identity::Spec,
        init: false,
        make_cwd: true,
        die_with_caller: true,
        seccomp_cache: Some(registration.cache()),
    })?;
    let started = announce(options, bundle, created.pid, registration).and_then(|()| Ok(created.start()?));
    let ended = started.and_then(|()| wait(&created.pidfd, &signals));
    if ended.is_err() {
        created.abandon();
    }
    let removed = created.cgroup.remove();
    let code = ended?;
    removed.map_err(|error| Failure::from(error.to_string()))?;
    Ok(code)
}

fn read_config(bundle: &Path) -> Result<Spec, Failure> {
    let path = bundle.join("config.json");
    let file = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).at("open", path.display())?;
    let bytes = sys::fs::read_regular(&file, LONGEST_CONFIG, path.display())?;
    Spec::from_json(&bytes).map_err(|error| Failure::from(format!("{}: {error}", path.display())))
}

/// Without a user namespace of its own the container's root could write the program that sets it up (CVE-2019-5736):
/// it then runs from a protected copy.
fn seal_if_needed(spec: &Spec) -> Result<(), Failure> {
    if spec.namespace(NamespaceKind::User).is_some() || sys::sealed::is_sealed() {
        return Ok(());
    }
    let arguments: Vec<String> = std::env::args().collect();
    let environment: Vec<String> = std::env::vars().map(|(name, value)| format!("{name}={value}")).collect();
    let command =
        sys::process::Command::new(arguments.iter().map(String::as_str), environment.iter().map(String::as_str))?;
    Err(Failure::from(command.exec_fd(sys::sealed::executable()?)))
}

fn announce(options: &Run, bundle: &Path, pid: u32, registration: &Registration) -> Result<(), Failure> {
    let state = serde_json::json!({
        "ociVersion": oci::runtime::VERSION,
        "id": options.id,
        "status": "running",
        "pid": pid,
        "bundle": bundle,
    });
    sys::fs::replace(&registration.dir, "state.json", state.to_string().as_bytes(), 0o600, Durability::Volatile)?;
    if let Some(path) = &options.pid_file {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(parent, flags, Mode::empty()).at("open", parent.display())?;
        sys::fs::replace(dir, &name, pid.to_string().as_bytes(), 0o644, Durability::Volatile)?;
    }
    Ok(())
}

fn wait(pidfd: &OwnedFd, signals: &OwnedFd) -> Result<i32, Failure> {
    loop {
        let mut entries = [PollFd::new(pidfd, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        sys::process::poll_until(&mut entries, None)?;
        while let Some((signal, _)) = sys::signal::next(signals)? {
            let ours = [Signal::CHILD, Signal::TTIN, Signal::TTOU, Signal::PIPE].map(Signal::as_raw);
            if !ours.contains(&signal) {
                // It may have ended this very moment; that is seen next.
                let _ = sys::process::send_signal(pidfd, signal);
            }
        }
        if let Some(exit) = sys::process::try_wait(pidfd)? {
            return Ok(exit.shell_code());
        }
    }
}

/// The container's directory below the root: its existence reserves the id.
struct Registration {
    root: PathBuf,
    id: String,
    dir: OwnedFd,
}

impl Registration {
    fn new(root: &Path, id: &str) -> Result<Self, Failure> {
        let path = root.join(id);
        let make = || rustix::fs::mkdir(&path, Mode::RWXU);
        let made = match make() {
            Err(Errno::NOENT) => {
                std::fs::create_dir_all(root).at("mkdir", root.display())?;
                make()
            }
            other => other,
        };
        if made == Err(Errno::EXIST) {
            return Err(Failure::from(format!("container with id {id:?} already exists")));
        }
        made.at("mkdir", path.display())?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::open(&path, flags, Mode::empty()).at("open", path.display())?;
        Ok(Self { root: root.to_owned(), id: id.to_owned(), dir })
    }

    fn cache(&self) -> PathBuf {
        self.root.join(".seccomp")
    }

    fn remove(self) -> Result<(), Failure> {
        match rustix::fs::unlinkat(&self.dir, "state.json", AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(Failure::from(sys::Error::new("unlinkat", "state.json", errno))),
        }
        rustix::fs::rmdir(self.root.join(&self.id)).at("rmdir", &self.id)?;
        Ok(())
    }
}
