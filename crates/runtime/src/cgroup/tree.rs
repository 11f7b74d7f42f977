//! The groups below a group: whatever a container made inside its own. Walked with one descriptor at a time, so that
//! no depth a container can build exhausts ours.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir as Directory, FileType, Mode, OFlags};
use sys::Errno;

/// The groups directly below `dir`.
fn children(dir: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    // kernfs counts subdirectories in the link count: most groups have none, and reading the directory would list some
    // forty control files to learn that.
    if rustix::fs::fstat(dir)?.st_nlink <= 2 {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in Directory::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type() == FileType::Directory && name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn open(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

/// One level of a walk: the group's name in its parent, and its children not yet visited.
struct Level {
    name: CString,
    pending: Vec<CString>,
}

/// Visits `top` and every group below it, each after its parent. A group below that vanishes meanwhile is passed over.
pub(super) fn visit(
    top: BorrowedFd<'_>,
    mut each: impl FnMut(BorrowedFd<'_>) -> Result<(), Errno>,
) -> Result<(), Errno> {
    each(top)?;
    let mut pending = children(top)?;
    let mut levels: Vec<Level> = Vec::new();
    let mut below: Option<OwnedFd> = None;
    loop {
        let current = below.as_ref().map_or(top, AsFd::as_fd);
        if let Some(name) = pending.pop() {
            let child = match open(current, &name) {
                Ok(child) => child,
                Err(Errno::NOENT | Errno::NODEV) => continue,
                Err(errno) => return Err(errno),
            };
            match each(child.as_fd()).and_then(|()| children(child.as_fd())) {
                Ok(names) => {
                    levels.push(Level { name, pending: std::mem::replace(&mut pending, names) });
                    below = Some(child);
                }
                Err(Errno::NOENT | Errno::NODEV) => {}
                Err(errno) => return Err(errno),
            }
        } else if let Some(level) = levels.pop() {
            below = if levels.is_empty() { None } else { Some(open(current, c"..")?) };
            pending = level.pending;
        } else {
            return Ok(());
        }
    }
}

/// Removes every group below `top`, children first; goes on past failures and gives the first.
pub(super) fn remove_below(top: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut pending = children(top)?;
    let mut levels: Vec<Level> = Vec::new();
    let mut below: Option<OwnedFd> = None;
    let mut failure = None;
    loop {
        let current = below.as_ref().map_or(top, AsFd::as_fd);
        if let Some(name) = pending.pop() {
            match rustix::fs::unlinkat(current, &name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => continue,
                // Processes in it, or children: only the latter can be helped.
                Err(Errno::BUSY | Errno::NOTEMPTY) => {}
                Err(errno) => {
                    failure.get_or_insert(errno);
                    continue;
                }
            }
            match open(current, &name).and_then(|child| Ok((children(child.as_fd())?, child))) {
                Ok((names, child)) => {
                    levels.push(Level { name, pending: std::mem::replace(&mut pending, names) });
                    below = Some(child);
                }
                Err(Errno::NOENT | Errno::NODEV) => {}
                Err(errno) => {
                    failure.get_or_insert(errno);
                }
            }
        } else if let Some(level) = levels.pop() {
            let parent = if levels.is_empty() { None } else { Some(open(current, c"..")?) };
            let at = parent.as_ref().map_or(top, AsFd::as_fd);
            match rustix::fs::unlinkat(at, &level.name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => {
                    failure.get_or_insert(errno);
                }
            }
            below = parent;
            pending = level.pending;
        } else {
            return failure.map_or(Ok(()), Err);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("lighter-cgroup-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("writable");
        dir
    }

    fn open_path(path: &std::path::Path) -> OwnedFd {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(rustix::fs::CWD, path, flags, Mode::empty()).expect("a directory")
    }

    #[test]
    fn a_tree_is_visited_and_removed_whole() {
        let top = scratch("tree");
        for path in ["a/b/c", "a/d", "e", "f/g"] {
            std::fs::create_dir_all(top.join(path)).expect("writable");
        }
        let fd = open_path(&top);
        let mut count = 0;
        visit(fd.as_fd(), |_| {
            count += 1;
            Ok(())
        })
        .expect("readable");
        assert_eq!(count, 8);
        remove_below(fd.as_fd()).expect("removable");
        assert_eq!(std::fs::read_dir(&top).expect("readable").count(), 0);
        std::fs::remove_dir(&top).expect("empty");
    }

    #[test]
    fn a_tree_deeper_than_paths_and_descriptors_reach_is_removed() {
        let top = scratch("deep");
        let fd = open_path(&top);
        let mut at = fd.try_clone().expect("duplicable");
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).expect("writable");
            at = open(at.as_fd(), c"d").expect("just made");
        }
        drop(at);
        remove_below(fd.as_fd()).expect("removable");
        std::fs::remove_dir(&top).expect("empty");
    }

    #[test]
    fn a_failure_does_not_stop_the_rest() {
        let top = scratch("stuck");
        std::fs::create_dir_all(top.join("a/b")).expect("writable");
        std::fs::write(top.join("a/file"), "").expect("writable");
        std::fs::create_dir_all(top.join("c/d")).expect("writable");
        let fd = open_path(&top);
        assert!(remove_below(fd.as_fd()).is_err());
        assert!(!top.join("c").exists() && !top.join("a/b").exists());
        std::fs::remove_dir_all(&top).expect("removable");
    }
}
