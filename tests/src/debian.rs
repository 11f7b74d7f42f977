//! Real distributions: the Debian root file systems that `cargo xtask test-images` makes and keeps.

use std::path::PathBuf;

use crate::host::target_dir;

/// A Debian release with the packages its root file system has beside the minimal ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// The release's code name.
    pub suite: &'static str,
    /// Packages beside debootstrap's `minbase`.
    pub packages: &'static [&'static str],
}

/// Two releases with two versions of the C library; the second has Python.
pub const RELEASES: [Release; 2] =
    [Release { suite: "bookworm", packages: &[] }, Release { suite: "trixie", packages: &["python3-minimal"] }];

impl Release {
    /// Where the root file system's archive is kept.
    #[must_use]
    pub fn archive(&self) -> PathBuf {
        target_dir().join("test-images").join(format!("debian-{}.tar", self.suite))
    }
}

/// The archive of a release's root file system: an uncompressed tar.
///
/// # Panics
/// When it has not been made.
#[must_use]
pub fn rootfs(suite: &str) -> PathBuf {
    let release = RELEASES.iter().find(|release| release.suite == suite).expect("one of RELEASES");
    let path = release.archive();
    assert!(path.exists(), "no {}: run `cargo xtask test-images`", path.display());
    path
}
