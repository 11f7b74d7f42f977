//! What the end-to-end suites stand on: a host of their own, images made without a network, and proof that nothing
//! was left behind.
//!
//! - [`host`]: a data root, a run directory and the real binary; checks on drop that nothing leaked.
//! - [`process`]: run a command against a deadline, with both of its streams.
//! - [`tarball`], [`image`]: archives and images, byte by byte, so that broken and hostile ones can be made too.
//! - [`registry`], [`http`]: Debian's registry on a port of its own, and a server that misbehaves on purpose.
//! - [`authority`], [`tokens`], [`tunnel`]: certificates, a token server and a proxy, for registries that want them.
//! - [`terminal`]: a command on a pseudo-terminal.
//! - [`canary`], [`leak`]: what an attack must not change, and what a container must not leave.
//! - [`cgroup`]: a container's control groups seen from outside.
//! - [`agent`]: what answers the system calls that a filter holds up.
//! - [`listing`]: trees of files as text.
//! - [`debian`]: the Debian images that `cargo xtask test-images` makes.
//!
//! Every piece names its things after the process and a counter, so suites run in parallel and beside each other.

pub mod agent;
pub mod authority;
pub mod canary;
pub mod cgroup;
pub mod debian;
pub mod host;
pub mod http;
pub mod image;
pub mod leak;
pub mod listing;
pub mod process;
pub mod registry;
pub mod tarball;
pub mod terminal;
pub mod tokens;
pub mod tunnel;
pub mod wait;

pub use host::Host;
pub use image::Image;
pub use process::Output;
pub use registry::Registry;
pub use tarball::Tar;

/// Whether the kernel is older than this release.
///
/// # Panics
/// When it does not say which it is.
#[must_use]
pub fn kernel_before(major: u32, minor: u32) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
    let mut numbers = release.split(['.', '-']).map(|part| part.trim().parse::<u32>());
    let mut next = || numbers.next().and_then(Result::ok).expect("a number");
    (next(), next()) < (major, minor)
}
