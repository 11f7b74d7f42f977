//! One bundle, one process: namespaces, root file system, control group, seccomp, capabilities.
//!
//! [`create`] makes a container's first process with one `clone3` and leaves it waiting; [`Created::start`] lets it
//! execute. Nothing of lighter is executed a second time, and nothing but open files and one-byte messages passes
//! between the two sides:
//!
//! ```text
//! caller (parent.rs)                           first process (init.rs)
//!   plan, group, filter
//!   clone3 ───────────────────────────────────▶ enters v1 groups
//!   id maps, rlimits                            waits
//!   Mapped ───────────────────────────────────▶ own proc, sysfs, devpts, … (detached)
//!   overlay, binds, /dev (detached)
//!   Mounts + descriptors ─────────────────────▶ attaches, pivots, masks, user, command
//!   ◀──────────────────────── Ready (+ terminal)
//!   start: Start ─────────────────────────────▶ filter, capabilities, execve
//!   ◀───────────────────────── end of messages (started) or Failed
//! ```
//!
//! The caller makes what needs the host's privilege, the process what has to belong to its own namespaces. Both must be
//! single-threaded (invariant 5 of the design).

pub mod capability;
pub mod cgroup;
pub mod created;
pub mod criu;
pub mod error;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod hooks;
pub mod launch;
pub mod resctrl;
pub mod seccomp;
pub mod systemd;

mod command;
mod copy_up;
mod devices;
mod exec;
mod gate;
mod grouping;
mod identity;
mod idmap;
mod init;
mod link;
mod lsm;
mod mount_plan;
mod mounts;
mod move_root;
mod namespaces;
mod net_devices;
mod new_mounts;
mod notify;
mod overlay;
mod parent;
mod plan;
mod process;
mod reaper;
mod rootfs;
mod running_mounts;
mod tuning;

pub use created::Created;
pub use error::{Error, ErrorKind, Result};
pub use exec::{Joined, exec};
pub use gate::open_gate;
pub use grouping::group_path;
pub use idmap::default_mappings;
pub use launch::{Bundle, Exec, Groups, Identity, Launch, Rootfs, Stdio};
pub use lsm::unused_label;
pub use notify::Agent;
pub use parent::{create, create_bundle};
pub use running_mounts::{Target, add_mounts, remove_mounts};
