//! H1: what no container may change on the host, looked at before and after.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::image::hex;

/// Files of this machine that escapes like to write, when they are there.
const SENTINELS: [&str; 8] = [
    "/etc/passwd",
    "/etc/shadow",
    "/etc/group",
    "/etc/ld.so.cache",
    "/bin/sh",
    "/usr/bin/xz",
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
];

/// Where an escaped mount would hurt; other tests and other people mount elsewhere.
const GUARDED: [&str; 8] = ["/etc", "/usr", "/bin", "/sbin", "/lib", "/home", "/boot", "/proc/sys"];

/// A snapshot of sentinels: hash, inode and mode of files, and the mounts on guarded places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canary(BTreeMap<String, String>);

impl Canary {
    /// Looks at the machine's sentinels and at `own`, files or directories that this test put up as bait.
    #[must_use]
    pub fn look(own: &[PathBuf]) -> Self {
        let mut seen = BTreeMap::new();
        for path in SENTINELS.iter().map(Path::new).chain(own.iter().map(PathBuf::as_path)) {
            seen.insert(path.display().to_string(), portrait(path));
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for line in mounts.lines() {
            let point = line.split(' ').nth(4).unwrap_or_default();
            if GUARDED.iter().any(|guarded| Path::new(point).starts_with(guarded)) {
                seen.insert(format!("mount {point}"), line.to_owned());
            }
        }
        Self(seen)
    }

    /// What is different now: nothing when all is well.
    #[must_use]
    pub fn changes(&self, now: &Self) -> Vec<String> {
        let keys = self.0.keys().chain(now.0.keys()).collect::<std::collections::BTreeSet<_>>();
        keys.into_iter()
            .filter(|key| self.0.get(*key) != now.0.get(*key))
            .map(|key| format!("{key}: was {:?}, is {:?}", self.0.get(key), now.0.get(key)))
            .collect()
    }
}

/// Hash, inode, mode and owner of a file; a directory's are those of its entries, sorted.
fn portrait(path: &Path) -> String {
    let Ok(meta) = std::fs::symlink_metadata(path) else { return "absent".to_owned() };
    // The kernel's own files get another number whenever its caches were dropped.
    let inode = if path.starts_with("/proc") { 0 } else { meta.ino() };
    let mut text = format!("inode {inode} mode {:o} owner {}:{}", meta.mode(), meta.uid(), meta.gid());
    // Sentinels are all world-known small files; a device or fifo put in their place must not be opened.
    if meta.is_file() {
        let sum = std::fs::read(path).map_or_else(|error| error.to_string(), |bytes| hex(&bytes));
        write!(text, " sha256 {sum}").expect("write to a string");
    } else if meta.is_dir() {
        let mut names: Vec<PathBuf> =
            std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        names.sort();
        for name in names {
            write!(text, "\n{}: {}", name.display(), portrait(&name)).expect("write to a string");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_a_changed_file_and_a_new_one() {
        let dir = std::env::temp_dir().join(format!("lighter-testkit-canary-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("temp dir");
        std::fs::write(dir.join("bait"), "a").expect("write");
        let bait = [dir.clone()];
        let before = Canary::look(&bait);
        assert_eq!(before.changes(&Canary::look(&bait)), Vec::<String>::new());
        std::fs::write(dir.join("bait"), "b").expect("write");
        let changed = before.changes(&Canary::look(&bait));
        std::fs::write(dir.join("bait"), "a").expect("write");
        std::fs::write(dir.join("new"), "").expect("write");
        let added = before.changes(&Canary::look(&bait));
        std::fs::remove_dir_all(&dir).expect("clean up");
        assert_eq!((changed.len(), added.len()), (1, 1));
    }
}
