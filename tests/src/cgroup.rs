//! A container's control groups, seen from outside, on v1, hybrid and v2.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the hierarchies are mounted.
const MOUNTS: &str = "/sys/fs/cgroup";

/// The mount point of every hierarchy: on v2 the one, on v1 each controller's.
#[must_use]
pub fn hierarchies() -> Vec<PathBuf> {
    if Path::new(MOUNTS).join("cgroup.controllers").exists() {
        return vec![PathBuf::from(MOUNTS)];
    }
    std::fs::read_dir(MOUNTS)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

/// Whether this machine has the one v2 hierarchy only.
#[must_use]
pub fn is_v2() -> bool {
    Path::new(MOUNTS).join("cgroup.controllers").exists()
}

/// The directories of container `id` that exist.
#[must_use]
pub fn dirs(id: &str) -> Vec<PathBuf> {
    hierarchies().into_iter().map(|root| root.join(format!("lighter-{id}"))).filter(|dir| dir.exists()).collect()
}

/// The names of every container's directory at the hierarchies' roots.
#[must_use]
pub fn all() -> BTreeSet<PathBuf> {
    let entries = hierarchies().into_iter().flat_map(|root| std::fs::read_dir(root).into_iter().flatten().flatten());
    entries
        .filter(|entry| entry.file_name().to_str().and_then(|name| name.strip_prefix("lighter-")).is_some_and(is_id))
        .map(|entry| entry.path())
        .collect()
}

/// Whether `text` is a container's id: 64 hex digits.
#[must_use]
pub fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// CPU time that container `id` has used.
///
/// # Panics
/// When its control group has no accounting.
#[must_use]
pub fn cpu_used(id: &str) -> Duration {
    for dir in dirs(id) {
        if let Ok(text) = std::fs::read_to_string(dir.join("cpuacct.usage")) {
            return Duration::from_nanos(text.trim().parse().expect("cpuacct.usage is a number"));
        }
        if let Ok(text) = std::fs::read_to_string(dir.join("cpu.stat"))
            && let Some(usec) = text.lines().find_map(|line| line.strip_prefix("usage_usec "))
        {
            return Duration::from_micros(usec.parse().expect("usage_usec is a number"));
        }
    }
    panic!("no CPU accounting for lighter-{id}")
}

/// The contents of `file` in the first of container `id`'s directories that has it.
#[must_use]
pub fn read(id: &str, file: &str) -> Option<String> {
    dirs(id).iter().find_map(|dir| std::fs::read_to_string(dir.join(file)).ok()).map(|text| text.trim().to_owned())
}

/// The processes in container `id`.
#[must_use]
pub fn pids(id: &str) -> Vec<i32> {
    let text = dirs(id).iter().find_map(|dir| std::fs::read_to_string(dir.join("cgroup.procs")).ok());
    text.unwrap_or_default().lines().filter_map(|line| line.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_hierarchies() {
        assert!(!hierarchies().is_empty());
        assert!(dirs(&"0".repeat(64)).is_empty());
        assert!(is_id(&"af".repeat(32)) && !is_id("af") && !is_id(&"xy".repeat(32)));
    }
}
