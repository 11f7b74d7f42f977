//! What a container must not leave: mounts, control groups, processes, files. Everything is found by what it holds on
//! to, so that the containers of other tests are never mistaken for ours.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use crate::cgroup;

/// Mount points at or below `dir`, or mounted from there, deepest first.
#[must_use]
pub fn mounts(dir: &Path) -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let needle = dir.display().to_string();
    text.lines()
        .filter(|line| line.contains(&needle))
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .rev()
        .collect()
}

/// Processes that hold on to `dir`: by command line, environment, an open file, or a mount in their namespace. This
/// process and its parents do not count.
#[must_use]
pub fn processes(dir: &Path) -> Vec<i32> {
    let needle = dir.as_os_str().as_bytes();
    let own = family();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if own.contains(&pid) {
            continue;
        }
        let proc = entry.path();
        let file_has = |name: &str| std::fs::read(proc.join(name)).is_ok_and(|bytes| contains(&bytes, needle));
        let holds_file = || {
            std::fs::read_dir(proc.join("fd")).into_iter().flatten().flatten().any(|fd| {
                std::fs::read_link(fd.path()).is_ok_and(|target| target.as_os_str().as_bytes().starts_with(needle))
            })
        };
        // Another thread's child between fork and exec still shows this process's files: it has our executable.
        let forked = std::fs::read_link(proc.join("exe")).ok() == std::env::current_exe().ok();
        if !forked && (file_has("cmdline") || file_has("environ") || holds_file() || foreign_mount(&proc, needle)) {
            found.push(pid);
        }
    }
    found
}

/// Whether a process in another mount namespace has a mount that names `needle`.
fn foreign_mount(proc: &Path, needle: &[u8]) -> bool {
    let namespace = |dir: &Path| std::fs::read_link(dir.join("ns/mnt")).ok();
    namespace(proc) != namespace(Path::new("/proc/self"))
        && std::fs::read(proc.join("mountinfo")).is_ok_and(|bytes| contains(&bytes, needle))
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|piece| piece == needle)
}

/// This process and those above it.
fn family() -> Vec<i32> {
    let mut pid = i32::try_from(std::process::id()).unwrap_or_default();
    let mut all = Vec::new();
    while pid > 1 {
        all.push(pid);
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let parent =
            status.lines().find_map(|line| line.strip_prefix("PPid:")).and_then(|text| text.trim().parse().ok());
        pid = parent.unwrap_or(0);
    }
    all
}

/// A process as a person would name it.
fn describe(pid: i32) -> String {
    let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let words = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
    let name = String::from_utf8_lossy(&read("comm")).trim().to_owned();
    format!("process {pid} ({name}) {words}")
}

/// Everything that `dir` and the containers `ids` have left behind; empty when nothing.
#[must_use]
pub fn find(dir: &Path, run: &Path, ids: &BTreeSet<String>) -> Vec<String> {
    let mut left: Vec<String> = mounts(dir).iter().map(|point| format!("mount {}", point.display())).collect();
    left.extend(processes(dir).into_iter().map(describe));
    for id in ids {
        left.extend(cgroup::dirs(id).iter().map(|dir| format!("cgroup {}", dir.display())));
    }
    let mut stack = vec![run.to_owned()];
    while let Some(dir) = stack.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if ids.iter().any(|id| name.contains(id.as_str()) || name.contains(&id[..12])) {
                left.push(format!("file {}", entry.path().display()));
            } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                stack.push(entry.path());
            }
        }
    }
    left
}

/// Removes by force what a failed test left: processes, then mounts, then control groups.
pub fn sweep(dir: &Path, ids: &BTreeSet<String>) {
    let contained = ids.iter().flat_map(|id| cgroup::pids(id));
    for pid in processes(dir).into_iter().chain(contained).filter_map(Pid::from_raw) {
        // Gone already is as good.
        let _ = kill_process(pid, Signal::KILL);
    }
    for point in mounts(dir) {
        let _ = unmount(&point, UnmountFlags::DETACH);
    }
    for group in ids.iter().flat_map(|id| cgroup::dirs(id)) {
        crate::wait::becomes_true(std::time::Duration::from_secs(2), || {
            std::fs::remove_dir(&group).is_ok() || !group.exists()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_a_process_by_its_command_line_and_ends_it() {
        let dir = std::env::temp_dir().join(format!("lighter-testkit-leak-{}", std::process::id()));
        let mut child = std::process::Command::new("sleep").arg("100").env("HOLDS", &dir).spawn().expect("sleep");
        let pid = i32::try_from(child.id()).expect("a pid");
        let seen = crate::wait::becomes_true(std::time::Duration::from_secs(5), || processes(&dir).contains(&pid));
        let told = find(&dir, &dir, &BTreeSet::new());
        sweep(&dir, &BTreeSet::new());
        let status = child.wait().expect("wait");
        assert!(seen);
        assert!(told.iter().any(|line| line.contains("sleep")), "{told:?}");
        assert_eq!(crate::process::code(status), 137);
    }
}
