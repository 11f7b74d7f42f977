//! A container's writable layer: `upper/` and `work/` in the container's directory.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci::Digest;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use sys::Context;

use crate::error::{Error, Result};
use crate::layers::{LayerStore, open_dir};
use crate::walk::{self, Usage};
use crate::xattr;

/// The parts of a container's overlay. Whoever mounts it opens the parts and passes descriptors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// The directory that all lower layers are in; with mapped ids this one is mapped, once.
    pub layers_dir: PathBuf,
    /// The lower layers' trees below `layers_dir`, `<chain hex>/diff`, topmost first as overlayfs wants them.
    pub lowers: Vec<String>,
    /// The writable layer.
    pub upper: PathBuf,
    /// overlayfs's own work directory, on the same file system.
    pub work: PathBuf,
}

fn open_container(container: &Path) -> sys::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(container, flags, Mode::empty()).at("open", container.display())
}

impl LayerStore {
    /// Makes the writable layer in the directory `container`, which exists, over an image's layers: `chain` is base
    /// first, as in the image. One that is there already is left as it is. Nothing is synchronised to the disk.
    ///
    /// The overlay's root shows the attributes of the upper directory, so it gets those of the topmost layer's root.
    ///
    /// # Errors
    /// [`Error::NoLayers`], [`Error::MissingLayer`], and those of the system calls.
    pub fn create_upper(&self, container: &Path, chain: &[Digest]) -> Result<Overlay> {
        let Some((top, below)) = chain.split_last() else { return Err(Error::NoLayers) };
        let root = self.dirs.open_diff(top)?;
        if let Some(missing) = below.iter().find_map(|layer| match self.contains(layer) {
            Ok(true) => None,
            Ok(false) => Some(Error::MissingLayer(layer.clone())),
            Err(error) => Some(error),
        }) {
            return Err(missing);
        }
        let dir = open_container(container)?;
        // `work` is made last: where it exists, `upper` has its attributes, and may have been changed since.
        if let Err(errno) = rustix::fs::statat(&dir, "work", AtFlags::SYMLINK_NOFOLLOW) {
            if errno != Errno::NOENT {
                return Err(sys::Error::new("fstatat", "work", errno).into());
            }
            make(&dir, "upper")?;
            let upper = open_dir(dir.as_fd(), "upper")?;
            let stat = rustix::fs::fstat(&root).at("fstat", top)?;
            if (stat.st_uid, stat.st_gid) != (0, 0) {
                let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
                rustix::fs::fchown(&upper, Some(uid), Some(gid)).at("fchown", "upper")?;
            }
            rustix::fs::fchmod(&upper, Mode::from_raw_mode(stat.st_mode)).at("fchmod", "upper")?;
            xattr::copy(&root, &upper)?;
            make(&dir, "work")?;
        }
        Ok(Overlay {
            layers_dir: self.layers_dir().to_owned(),
            lowers: chain.iter().rev().map(|layer| format!("{}/diff", layer.hex())).collect(),
            upper: container.join("upper"),
            work: container.join("work"),
        })
    }
}

impl LayerStore {
    /// Moves a container's writable layer to the trash, which takes no time however much it holds; what is gone is
    /// moved already. The overlay must not be mounted any more. [`LayerStore::empty_trash`] removes it for good.
    ///
    /// # Errors
    /// The first failure; EXDEV where the container is not on the store's file system ([`remove_upper`] works there).
    pub fn discard_upper(&self, container: &Path) -> Result<()> {
        let dir = match open_container(container) {
            Err(error) if error.errno() == Errno::NOENT => return Ok(()),
            dir => dir?,
        };
        // The work directory first: where it exists, `upper` counts as complete.
        let work = self.dirs.discard(dir.as_fd(), "work");
        let upper = self.dirs.discard(dir.as_fd(), "upper");
        work.and(upper).map(drop)
    }
}

fn make(dir: &OwnedFd, name: &str) -> sys::Result<()> {
    match rustix::fs::mkdirat(dir, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(sys::Error::new("mkdirat", name, errno)),
    }
}

/// Removes a container's writable layer; what is gone is removed already. The overlay must not be mounted any more.
/// Mounts inside are not crossed.
///
/// # Errors
/// The first failure, after everything else was removed.
pub fn remove_upper(container: &Path) -> Result<()> {
    let dir = match open_container(container) {
        Err(error) if error.errno() == Errno::NOENT => return Ok(()),
        dir => dir?,
    };
    // The work directory first: where it exists, `upper` counts as complete.
    let work = walk::remove(dir.as_fd(), c"work");
    let upper = walk::remove(dir.as_fd(), c"upper");
    work.and(upper)
}

/// What the container's writable layer holds, by walking it; it may be in use.
///
/// # Errors
/// Those of the walk, other than that something disappeared.
pub fn upper_usage(container: &Path) -> Result<Usage> {
    let dir = open_container(container)?;
    match open_dir(dir.as_fd(), "upper") {
        Err(error) if error.errno() == Errno::NOENT => Ok(Usage::default()),
        upper => walk::usage(upper?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limits;
    use crate::archive::testing::{Scratch, Tar};
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn store_with(scratch: &Scratch, tar: Tar) -> (LayerStore, Digest) {
        let store = LayerStore::open(&scratch.path().join("store")).unwrap();
        let mut staging = store.stage().unwrap();
        staging.apply(&mut &tar.end()[..], &Limits::default()).unwrap();
        let id = Digest::sha256_of(b"one");
        staging.commit(&id, &[]).unwrap();
        (store, id)
    }

    #[test]
    fn the_upper_root_looks_like_the_image_root() {
        let scratch = Scratch::new("upper");
        let (store, id) = store_with(&scratch, Tar::new().dir_of("./", 0o1751, 7, 8));
        let container = scratch.path().join("c1");
        fs::create_dir(&container).unwrap();
        let overlay = store.create_upper(&container, std::slice::from_ref(&id)).unwrap();
        assert_eq!(overlay.lowers, [format!("{}/diff", id.hex())]);
        assert_eq!(overlay.layers_dir, scratch.path().join("store/layers"));
        let meta = fs::metadata(&overlay.upper).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o1751, 7, 8));

        fs::set_permissions(&overlay.upper, fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(overlay.upper.join("file"), "12345").unwrap();
        assert_eq!(store.create_upper(&container, std::slice::from_ref(&id)).unwrap(), overlay);
        assert_eq!(fs::metadata(&overlay.upper).unwrap().mode() & 0o7777, 0o700);
        assert_eq!(upper_usage(&container).unwrap(), Usage { bytes: 5, inodes: 2 });

        fs::create_dir(overlay.work.join("work")).unwrap();
        fs::set_permissions(overlay.work.join("work"), fs::Permissions::from_mode(0o000)).unwrap();
        remove_upper(&container).unwrap();
        remove_upper(&container).unwrap();
        assert_eq!(fs::read_dir(&container).unwrap().count(), 0);
        assert_eq!(upper_usage(&container).unwrap(), Usage::default());

        store.create_upper(&container, std::slice::from_ref(&id)).unwrap();
        store.discard_upper(&container).unwrap();
        store.discard_upper(&container).unwrap();
        assert_eq!(fs::read_dir(&container).unwrap().count(), 0);
        assert_eq!(store.empty_trash().unwrap(), 2);
    }

    #[test]
    fn layers_must_be_there() {
        let scratch = Scratch::new("upper-missing");
        let (store, id) = store_with(&scratch, Tar::new());
        let other = Digest::sha256_of(b"other");
        for chain in [vec![id.clone(), other.clone()], vec![other.clone(), id]] {
            let error = store.create_upper(scratch.path(), &chain).unwrap_err();
            assert!(matches!(error, Error::MissingLayer(missing) if missing == other));
        }
        assert!(matches!(store.create_upper(scratch.path(), &[]), Err(Error::NoLayers)));
        assert!(!scratch.path().join("upper").exists());
    }
}
