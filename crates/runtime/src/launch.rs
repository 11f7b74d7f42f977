//! What a caller asks of [`create`](crate::create) and [`exec`](crate::exec): plain data and open files.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci::runtime::Spec;

use crate::systemd::Scope;

/// Everything needed to make one container's first process.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The container's id, for messages and the default host name.
    pub id: &'a str,
    /// The configuration; `linux.uidMappings` and `linux.gidMappings` are the ids in force.
    pub spec: &'a Spec,
    /// Where the root file system comes from.
    pub rootfs: Rootfs,
    /// The process's standard streams.
    pub stdio: Stdio,
    /// Descriptors kept open in the process as 3, 4, … in this order; the number of none stays closed.
    pub preserve: Vec<Option<OwnedFd>>,
    /// Who the process is, where the configuration leaves that to the image.
    pub identity: Identity,
    /// Whether a small init of ours is process 1, reaping and forwarding signals, and the command is its child.
    pub init: bool,
    /// Whether a missing working directory is made.
    pub make_cwd: bool,
    /// Whether the process is killed when the caller ends: for a caller that stays as its supervisor.
    pub die_with_caller: bool,
    /// Directory of compiled seccomp programs, made when absent; `None` compiles every time.
    pub seccomp_cache: Option<PathBuf>,
}

/// What the runtime's own command line adds to a [`Launch`].
#[derive(Debug)]
pub struct Bundle<'a> {
    /// The bundle's directory, for the state that hooks read.
    pub dir: &'a Path,
    /// A listening message socket: after [`Created::release`](crate::Created::release) the process waits there for its
    /// start. Without one it waits for [`Created::start`](crate::Created::start).
    pub gate: Option<OwnedFd>,
    /// Open files of the caller's own that the waiting process must not hold: locks pass to children.
    pub private: &'a [BorrowedFd<'a>],
    /// Whether the root is moved over the host's and entered by chroot(2), for a host whose own root cannot be pivoted: a
    /// ram disk's.
    pub no_pivot: bool,
    /// Whether the process gets a session keyring of its own.
    pub new_keyring: bool,
    /// Where the container's control group comes from.
    pub groups: Groups<'a>,
    /// Whether the caller is an ordinary user: the container's own privilege, over a user namespace of its own, is then
    /// all that there is to make its mounts with.
    pub ordinary: bool,
}

/// Where a container's control group comes from.
#[derive(Clone, Copy, Debug)]
pub enum Groups<'a> {
    /// It is made here, at this path below every hierarchy's root. A caller without privilege over the host's groups,
    /// whose configuration names neither a path nor limits, may find that no group can be made; then there is none.
    Own(&'a str),
    /// systemd makes it.
    Scope(&'a Scope),
    /// There is none: the container stays in its caller's.
    None,
}

/// The process's user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// `process.user` holds numbers.
    Spec {
        /// The caller's supplementary groups stay, which a user namespace may have no numbers for, instead of
        /// `additionalGids`.
        keep_groups: bool,
    },
    /// `USER[:GROUP]` and further groups by name or number, looked up in the container's own `/etc/passwd` and
    /// `/etc/group`; also sets `HOME` when the environment lacks it.
    Lookup {
        /// `USER[:GROUP]`; empty is root.
        user: String,
        /// Additional groups.
        groups: Vec<String>,
    },
}

impl Identity {
    pub(crate) fn keeps_groups(&self) -> bool {
        matches!(self, Self::Spec { keep_groups: true })
    }
}

/// The root file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rootfs {
    /// A directory of the host; with a user namespace its files keep their ids on both sides (idmapped).
    Directory(PathBuf),
    /// A directory of the host, used as it is: an OCI bundle's, whose files already have the ids they need.
    AsIs(PathBuf),
    /// Layers below a writable directory, joined by overlayfs. Layers and upper keep the image's ids on disk; with a
    /// user namespace they are seen through one idmapped mount.
    Overlay {
        /// Directory that holds every layer.
        layers_dir: PathBuf,
        /// Layer directories relative to `layers_dir`, topmost first.
        lowers: Vec<String>,
        /// Directory that holds `upper` and `work`.
        writable_dir: PathBuf,
        /// Skips syncing of the upper layer (kernel 5.10): for containers that do not outlive their process.
        volatile: bool,
    },
}

/// Standard streams.
#[derive(Debug)]
pub enum Stdio {
    /// Three descriptors.
    Fds {
        /// Standard input.
        stdin: OwnedFd,
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
    /// The caller's own.
    Inherit,
    /// A terminal made inside the container; its master comes back to the caller.
    Terminal {
        /// Rows and columns at start.
        size: Option<(u16, u16)>,
    },
}

/// A process that joins a running container.
#[derive(Debug)]
pub struct Exec<'a> {
    /// The container's id.
    pub id: &'a str,
    /// The container's first process.
    pub init: &'a OwnedFd,
    /// The container's configuration.
    pub spec: &'a Spec,
    /// Directory of the container's bundle, for what a seccomp agent is told; empty without one.
    pub bundle: &'a Path,
    /// The process to run.
    pub process: &'a oci::runtime::Process,
    /// Its standard streams.
    pub stdio: Stdio,
    /// Who it is.
    pub identity: Identity,
    /// Path of the container's control group; without one the process stays in the caller's.
    pub cgroup: Option<&'a str>,
    /// Whether the caller is an ordinary user.
    pub ordinary: bool,
    /// Descriptors kept open in the process as 3, 4, …; the number of none stays closed.
    pub preserve: Vec<Option<OwnedFd>>,
    /// Directory of compiled seccomp programs.
    pub seccomp_cache: Option<PathBuf>,
}
