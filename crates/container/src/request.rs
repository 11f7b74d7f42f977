//! What the engine asks a monitor to do: the wire type between the two processes.

use std::path::PathBuf;

use oci::runtime::Spec;
use serde::{Deserialize, Serialize};

use crate::ContainerId;

/// One run of one container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StartRequest {
    /// The container.
    pub id: ContainerId,
    /// `<root>/containers/<id>`: records, log.
    pub dir: PathBuf,
    /// `<run>/containers/<id>`: the monitor's socket.
    pub run_dir: PathBuf,
    /// The configuration in force, id mappings included.
    pub spec: Spec,
    /// The root file system.
    pub rootfs: RootfsRequest,
    /// Mounts of the configuration whose source is a path inside a volume: their number and that path.
    #[serde(default)]
    pub subpaths: Vec<(usize, PathBuf)>,
    /// `USER[:GROUP]`, looked up inside the container; empty is root.
    pub user: String,
    /// Additional groups by name or number.
    pub groups: Vec<String>,
    /// Whether standard input stays open (`-i`); otherwise it is `/dev/null`.
    pub open_stdin: bool,
    /// Whether the terminal has a size at start: rows, columns.
    pub terminal_size: Option<(u16, u16)>,
    /// Whether a small init is process 1.
    pub init: bool,
    /// The log; `None` keeps none.
    pub log: Option<LogRequest>,
    /// Whether records are synced to disk: false for `--rm`, which leaves nothing to lose.
    pub durable: bool,
    /// Signal of `stop`, as a number.
    pub stop_signal: i32,
    /// Seconds between that signal and SIGKILL; negative waits for ever.
    pub stop_timeout: i64,
    /// Directory of compiled seccomp programs.
    pub seccomp_cache: Option<PathBuf>,
    /// The command executed last when no client took over reaping: absolute path and arguments.
    pub reap: Vec<String>,
}

/// Where the root file system comes from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum RootfsRequest {
    /// A directory of the host (`--rootfs`).
    Directory(PathBuf),
    /// Layers below the container's own writable directory.
    Overlay {
        /// Directory that holds every layer.
        layers_dir: PathBuf,
        /// Layer directories relative to it, topmost first.
        lowers: Vec<String>,
        /// Directory that holds `upper` and `work`.
        writable_dir: PathBuf,
        /// Skips syncing of the upper layer.
        volatile: bool,
    },
}

/// A rotated log in docker's json-file form.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogRequest {
    /// The current file.
    pub path: PathBuf,
    /// Bytes after which it is rotated.
    pub max_size: u64,
    /// How many files are kept, the current one included.
    pub max_files: u32,
}
