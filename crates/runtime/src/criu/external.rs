//! What of a container belongs to the host and is therefore no part of its images: bind mounts and control groups. criu
//! is told their places, and at the restore what to mount there.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci::runtime::{NamespaceKind, Spec};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use sys::{Context as _, Errno};

use crate::cgroup::{Cgroup, Version};
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::mount_plan::{MountPlan, Source};
use crate::mounts;

/// A mount of the host's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct External {
    /// Its place in the container, symbolic links followed.
    pub(super) place: PathBuf,
    /// What is mounted there, a path of the host.
    pub(super) source: PathBuf,
    /// Whether mounts below it come along.
    recursive: bool,
}

/// The mounts of a configuration.
pub(super) fn plans(spec: &Spec) -> Result<Vec<MountPlan>> {
    let ids =
        spec.linux.as_ref().map_or((&[][..], &[][..]), |linux| (&linux.uid_mappings[..], &linux.gid_mappings[..]));
    spec.mounts.iter().enumerate().map(|(at, mount)| MountPlan::new(at, mount, ids)).collect()
}

/// Those that are the host's. `root` is the container's root, or what will be.
pub(super) fn list(spec: &Spec, plans: &[MountPlan], cgroup: &Cgroup, root: &OwnedFd) -> Result<Vec<External>> {
    let mut found = Vec::new();
    for plan in plans {
        let place = place_of(root, &plan.target)?;
        match &plan.source {
            Source::Bind { path, recursive } => {
                found.push(External { place, source: path.clone(), recursive: *recursive });
            }
            Source::Cgroup => groups(spec, &place, cgroup, &mut found)?,
            Source::Dev | Source::New { .. } | Source::Link { .. } => {}
        }
    }
    Ok(found)
}

/// Where `target` is in the container, symbolic links followed: those are the image's, and criu is told
/// `mnt[PLACE]:SOURCE`.
fn place_of(root: &OwnedFd, target: &Path) -> Result<PathBuf> {
    let what = || "cannot find the places of the container's mounts".to_owned();
    let place = Path::new("/").join(sys::fs::follow_in_root(root, target).doing(what)?);
    if place.as_os_str().as_encoded_bytes().contains(&b']') {
        let sentence = format!("{}: criu cannot be told of a mount at a place with this name", place.display());
        return Err(Error::new(ErrorKind::Unsupported, sentence));
    }
    Ok(place)
}

fn groups(spec: &Spec, place: &Path, cgroup: &Cgroup, found: &mut Vec<External>) -> Result<()> {
    let hierarchies =
        cgroup.hierarchies().map_err(|error| mounts::cgroup_error("cannot open the control group", error))?;
    if let [only] = &hierarchies[..]
        && only.version == Version::V2
    {
        // As it was made: all of it without a namespace of its own.
        let own = spec.namespace(NamespaceKind::Cgroup).is_some();
        let source = if own { only.path.clone() } else { only.mount.to_owned() };
        found.push(External { place: place.to_owned(), source, recursive: false });
        return Ok(());
    }
    for hierarchy in hierarchies {
        let name = hierarchy.mount.file_name().unwrap_or_default();
        found.push(External { place: place.join(name), source: hierarchy.path, recursive: false });
    }
    Ok(())
}

/// Adds what is mounted below recursive ones, by the mount table they are in: the container's (`by_place`), or the
/// host's. Places that are mounts of the configuration stay those.
pub(super) fn add_nested(externals: &mut Vec<External>, plans: &[MountPlan], table: &str, by_place: bool) {
    let mut nested = Vec::new();
    for external in externals.iter().filter(|external| external.recursive) {
        let top = if by_place { &external.place } else { &external.source };
        for point in table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape) {
            let Ok(rest) = Path::new(&point).strip_prefix(top) else { continue };
            let place = external.place.join(rest);
            let known = |other: &External| other.place == place;
            if rest.as_os_str().is_empty()
                || plans.iter().any(|plan| plan.target == place)
                || externals.iter().chain(&nested).any(known)
            {
                continue;
            }
            nested.push(External { place, source: external.source.join(rest), recursive: false });
        }
    }
    externals.append(&mut nested);
}

/// Undoes the octal escapes of space, tab, line break and backslash in the mount table.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// Makes the places of mounts that a root file system lacks: criu mounts, but makes none. What lies in another mount is
/// there with that one.
pub(super) fn make_places(plans: &[MountPlan], root: &OwnedFd) -> Result<()> {
    for plan in plans {
        let path = &plan.target;
        let below = |other: &MountPlan| other.target != *path && path.starts_with(&other.target);
        if plans.iter().any(below) || matches!(plan.source, Source::Link { .. }) {
            continue;
        }
        let what = || format!("cannot make the mount point {}", path.display());
        match sys::fs::open_in_root(root, path, OFlags::PATH, Mode::empty()) {
            Err(cause) if cause.errno() == Errno::NOENT => {}
            other => {
                other.doing(what)?;
                continue;
            }
        }
        let is_file = match &plan.source {
            Source::Bind { path, .. } => {
                let stat = rustix::fs::stat(path).at("stat", path.display()).doing(what)?;
                FileType::from_raw_mode(stat.st_mode) != FileType::Directory
            }
            Source::Dev | Source::Cgroup | Source::New { .. } | Source::Link { .. } => false,
        };
        let resolved = sys::fs::follow_in_root(root, path).doing(what)?;
        if !is_file {
            sys::fs::make_dirs_in_root(root, &resolved, 0o755).doing(what)?;
            continue;
        }
        let (Some(parent), Some(name)) = (resolved.parent(), resolved.file_name()) else { continue };
        let parent = sys::fs::make_dirs_in_root(root, parent, 0o755).doing(what)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644))
            .at("openat", path.display())
            .doing(what)?;
    }
    Ok(())
}

/// The inode of the namespace that a configuration joins by path.
pub(super) fn joined(spec: &Spec, kind: NamespaceKind) -> Result<Option<(OwnedFd, u64)>> {
    let Some(path) = spec.namespace(kind).and_then(|namespace| namespace.path.as_ref()) else { return Ok(None) };
    let what = || format!("cannot open the {kind:?} namespace {}", path.display());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).at("open", path.display()).doing(what)?;
    let stat = rustix::fs::statat(file.as_fd(), "", AtFlags::EMPTY_PATH).at("fstat", path.display()).doing(what)?;
    Ok(Some((file, stat.st_ino)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_below_a_recursive_one_are_found_on_either_side() {
        let mut externals = vec![
            External { place: "/data".into(), source: "/srv/d".into(), recursive: true },
            External { place: "/one".into(), source: "/srv/o".into(), recursive: false },
        ];
        let table = "1 0 8:1 / /data rw - ext4 x rw\n2 1 8:2 / /data/a\\040b rw - ext4 x rw\n\
                     3 1 8:2 / /one/x rw - ext4 x rw\n4 1 8:3 / /database rw - ext4 x rw\n";
        add_nested(&mut externals, &[], table, true);
        let nested = External { place: "/data/a b".into(), source: "/srv/d/a b".into(), recursive: false };
        assert_eq!(&externals[2..], std::slice::from_ref(&nested));
        externals.truncate(2);
        add_nested(&mut externals, &[], "1 0 8:1 / /srv/d rw - e x rw\n2 1 8:2 / /srv/d/a\\040b rw - e x rw\n", false);
        assert_eq!(externals[2..], [nested]);
    }

    #[test]
    fn no_link_of_the_image_forges_a_place() {
        let dir = std::env::temp_dir().join(format!("lighter-criu-places-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("x]:host")).expect("made");
        std::fs::create_dir_all(dir.join("plain")).expect("made");
        std::os::unix::fs::symlink("x]:host", dir.join("data")).expect("a link");
        let root = OwnedFd::from(std::fs::File::open(&dir).expect("opened"));
        assert_eq!(place_of(&root, Path::new("/plain")).expect("a plain place"), Path::new("/plain"));
        let error = place_of(&root, Path::new("/data")).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
