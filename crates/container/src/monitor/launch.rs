//! The runtime's container as the monitor's process.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use oci::runtime::{NamespaceKind, Spec};
use runtime::cgroup::Cgroup;
use runtime::{Created, ErrorKind, Identity, Launch, Rootfs, Stdio};
use rustix::fs::{Mode, OFlags};

use super::process::{ChildStdio, Process};
use crate::error::chain;
use crate::protocol::{Failure, FailureKind};
use crate::request::{RootfsRequest, StartRequest};

/// How long a freeze may take before it is undone and reported.
const FREEZE_LIMIT: Duration = Duration::from_secs(10);
/// How long killed processes may take to be gone at the end of a container.
const SWEEP_LIMIT: Duration = Duration::from_secs(2);

/// A container of the runtime.
#[derive(Debug)]
pub(crate) struct Container {
    created: Created,
    cgroup: Cgroup,
    /// Whether the end of the first process leaves others: without a pid namespace of its own, or in one it shares.
    leaves_others: bool,
}

/// Makes the container that `request` describes.
///
/// # Errors
/// What the runtime reports, with the exit code a user expects.
pub(crate) fn launch(request: &StartRequest, stdio: ChildStdio) -> Result<Container, Failure> {
    let places = match request.subpaths.is_empty() {
        true => None,
        false => Some(inside_volumes(request)?),
    };
    let launch = Launch {
        id: request.id.as_str(),
        spec: places.as_ref().map_or(&request.spec, |(spec, _)| spec),
        rootfs: rootfs(&request.rootfs),
        stdio: match stdio {
            ChildStdio::Fds { stdin, stdout, stderr } => Stdio::Fds { stdin, stdout, stderr },
            ChildStdio::Terminal { size } => Stdio::Terminal { size },
        },
        preserve: Vec::new(),
        identity: Identity::Lookup { user: request.user.clone(), groups: request.groups.clone() },
        init: request.init,
        make_cwd: true,
        die_with_caller: true,
        seccomp_cache: request.seccomp_cache.clone(),
    };
    let mut created = runtime::create(launch).map_err(|error| failure(&error))?;
    let Some(cgroup) = created.cgroup.take() else {
        let chain = vec!["the container was made without a control group".to_owned()];
        return Err(Failure { code: 125, kind: FailureKind::System, chain });
    };
    let namespaces = request.spec.linux.as_ref().map(|linux| &linux.namespaces[..]).unwrap_or_default();
    let own_pids = namespaces.iter().any(|namespace| namespace.kind == NamespaceKind::Pid && namespace.path.is_none());
    Ok(Container { created, cgroup, leaves_others: !own_pids })
}

/// The configuration with the places inside volumes that it mounts held open. Another container may change the volume
/// meanwhile, so a place is looked up once, without leaving the volume, and is what the descriptor stands for from then
/// on (CVE-2021-30465).
fn inside_volumes(request: &StartRequest) -> Result<(Spec, Vec<OwnedFd>), Failure> {
    let mut spec = request.spec.clone();
    let mut held = Vec::with_capacity(request.subpaths.len());
    for (at, path) in &request.subpaths {
        let Some(mount) = spec.mounts.get_mut(*at) else {
            // Without it all of the volume would be mounted.
            let chain = vec![format!("the configuration has no mount {at} for the path {path:?} of a volume")];
            return Err(Failure { code: 125, kind: FailureKind::System, chain });
        };
        let volume = mount.source.clone().unwrap_or_default();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let place = sys::Context::at(rustix::fs::open(&volume, flags, Mode::empty()), "open", volume.display())
            .and_then(|root| sys::fs::open_in_root(&root, path, OFlags::PATH, Mode::empty()))
            .map_err(|error| Failure {
                code: 125,
                kind: FailureKind::System,
                chain: vec![
                    format!("cannot mount the path {path:?} of a volume at {}", mount.destination.display()),
                    error.to_string(),
                ],
            })?;
        mount.source = Some(format!("/proc/self/fd/{}", place.as_raw_fd()).into());
        held.push(place);
    }
    Ok((spec, held))
}

fn rootfs(request: &RootfsRequest) -> Rootfs {
    match request {
        RootfsRequest::Directory(path) => Rootfs::Directory(path.clone()),
        RootfsRequest::Overlay { layers_dir, lowers, writable_dir, volatile } => Rootfs::Overlay {
            layers_dir: layers_dir.clone(),
            lowers: lowers.clone(),
            writable_dir: writable_dir.clone(),
            volatile: *volatile,
        },
    }
}

fn failure(error: &runtime::Error) -> Failure {
    // The codes of docker(1) "Exit status": 127 not found, 126 cannot be invoked, 125 everything else.
    let (kind, code) = match error.kind() {
        ErrorKind::Config => (FailureKind::Config, 125),
        ErrorKind::CommandNotFound => (FailureKind::CommandNotFound, 127),
        ErrorKind::CommandNotExecutable => (FailureKind::CommandNotExecutable, 126),
        ErrorKind::UnknownUser => (FailureKind::UnknownUser, 125),
        ErrorKind::Limit => (FailureKind::Limit, 125),
        ErrorKind::Unsupported => (FailureKind::Unsupported, 125),
        ErrorKind::System => (FailureKind::System, 125),
    };
    Failure { code, kind, chain: chain(error) }
}

impl Process for Container {
    fn pid(&self) -> u32 {
        self.created.pid
    }

    fn pidfd(&self) -> BorrowedFd<'_> {
        self.created.pidfd.as_fd()
    }

    fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.created.terminal.take()
    }

    fn start(&mut self) -> Result<(), Failure> {
        self.created.start().map_err(|error| failure(&error))
    }

    fn freeze(&mut self) -> Result<(), String> {
        self.cgroup.freeze(FREEZE_LIMIT).map_err(|error| sentence(&error))
    }

    fn thaw(&mut self) -> Result<(), String> {
        self.cgroup.thaw().map_err(|error| sentence(&error))
    }

    fn kill_all(&mut self) -> Result<(), String> {
        // Without patience every process is killed once and "processes remain" is no failure.
        match self.cgroup.kill_all(Duration::ZERO) {
            Err(runtime::cgroup::Error::TimedOut { .. }) => Ok(()),
            other => other.map_err(|error| sentence(&error)),
        }
    }

    fn oom_kills(&mut self) -> u64 {
        self.cgroup.oom_kills().unwrap_or(0)
    }

    fn remove(&mut self) -> Result<(), String> {
        // The kernel ends a pid namespace with its first process, before that one's end can be seen.
        let swept = if self.leaves_others { self.cgroup.kill_all(SWEEP_LIMIT) } else { Ok(()) };
        let removed = self.cgroup.remove().or_else(|_| {
            self.cgroup.kill_all(SWEEP_LIMIT)?;
            self.cgroup.remove()
        });
        swept.and(removed).map_err(|error| sentence(&error))
    }
}

fn sentence(error: &runtime::cgroup::Error) -> String {
    chain(error).join(": ")
}
