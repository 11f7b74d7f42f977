//! A container's root file system as a plain copy of its image's, where overlayfs cannot write: it refuses some file
//! systems as the place of its upper directory (another overlay, network file systems), and reads layers from them all the
//! same. A copy takes room and time, and is better than no container.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use oci::Digest;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use sys::Context;
use sys::mount::{Attributes, NewFs};

use crate::error::{Error, Result};
use crate::layers::{LayerStore, open_dir};
use crate::staging::Staging;
use crate::volumes::seed;
use crate::walk;

/// The copy in a container's directory.
pub const ROOT: &str = "rootfs";
/// The copy in the making.
const PART: &str = "rootfs.part";

impl LayerStore {
    /// Whether the store's file system can hold the writable layer of an overlay, by mounting one.
    ///
    /// # Errors
    /// Those of making the directories it takes. Every refusal but `EINVAL` counts as "can": it has another reason, which
    /// the first start tells.
    pub fn takes_overlay(&self) -> Result<bool> {
        let staging = Staging::new(Arc::clone(&self.dirs))?;
        let dir = staging.directory();
        for name in ["upper", "work"] {
            rustix::fs::mkdirat(dir, name, Mode::RWXU).at("mkdirat", name)?;
        }
        let place = |name: &str| {
            use std::os::fd::AsRawFd;
            format!("/proc/self/fd/{}/{name}", dir.as_raw_fd())
        };
        let mounted = NewFs::open("overlay").and_then(|fs| {
            for (key, name) in [("lowerdir", "diff"), ("upperdir", "upper"), ("workdir", "work")] {
                fs.set(key, &place(name))?;
            }
            fs.mount(Attributes::RDONLY)
        });
        let refused = matches!(&mounted, Err(error) if error.errno() == Errno::INVAL);
        drop(mounted);
        staging.remove()?;
        Ok(!refused)
    }

    /// Makes `rootfs` in the directory `container` a copy of an image's merged layers, `chain` base first, durably; one that
    /// is there already is left as it is. Devices and sockets are left out.
    ///
    /// # Errors
    /// [`Error::NoLayers`], [`Error::MissingLayer`], and those of the system calls. The next call begins anew.
    pub fn copy_root(&self, container: &Path, chain: &[Digest]) -> Result<()> {
        if chain.is_empty() {
            return Err(Error::NoLayers);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(CWD, container, flags, Mode::empty()).at("open", container.display())?;
        match rustix::fs::statat(&dir, ROOT, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => return Ok(()),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(sys::Error::new("fstatat", ROOT, errno).into()),
        }
        if let Some(missing) = chain.iter().find(|layer| !self.contains(layer).unwrap_or(true)) {
            return Err(Error::MissingLayer(missing.clone()));
        }
        walk::remove(dir.as_fd(), c"rootfs.part")?;
        rustix::fs::mkdirat(&dir, PART, Mode::RWXU).at("mkdirat", PART)?;
        let part = open_dir(dir.as_fd(), PART)?;
        let layers: Vec<_> = chain.iter().rev().map(|layer| self.layers_dir().join(layer.hex()).join("diff")).collect();
        seed::copy(seed::merged(&layers)?, &part)?;
        rustix::fs::syncfs(&part).at("syncfs", PART)?;
        Ok(rustix::fs::renameat(&dir, PART, &dir, ROOT).at("renameat", ROOT)?)
    }
}

/// Removes what [`LayerStore::copy_root`] made; what is gone is removed already. Nothing may be mounted below it.
///
/// # Errors
/// The first failure, after everything else was removed.
pub fn remove_root(container: &Path) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = match rustix::fs::openat(CWD, container, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        dir => dir.at("open", container.display())?,
    };
    let part = walk::remove(dir.as_fd(), c"rootfs.part");
    let root = walk::remove(dir.as_fd(), c"rootfs");
    part.and(root)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limits;
    use crate::archive::testing::{Scratch, Tar};
    use std::fs;

    #[test]
    fn a_copy_is_what_the_overlay_would_show() {
        let scratch = Scratch::new("flat");
        let store = LayerStore::open(&scratch.path().join("store")).unwrap();
        assert!(store.takes_overlay().unwrap(), "this machine's temporary directory can hold one");
        assert_eq!(fs::read_dir(scratch.path().join("store/layers/.staging")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(scratch.path().join("store/trash")).unwrap().count(), 0);
        let chain = [Digest::sha256_of(b"base"), Digest::sha256_of(b"top")];
        let base = Tar::new().dir("d").file("d/gone", "1").file("kept", "2").file("changed", "3");
        let top = Tar::new().file("d/.wh.gone", "").file("changed", "4").hard_link("again", "changed");
        let mut parents = Vec::new();
        for (id, tar) in chain.iter().zip([base, top]) {
            let mut staging = store.stage().unwrap();
            staging.apply(&mut &tar.end()[..], &Limits::default()).unwrap();
            staging.commit(id, &parents).unwrap();
            parents.push(id.clone());
        }
        let container = scratch.path().join("container");
        fs::create_dir_all(container.join("rootfs.part/killed")).unwrap();
        store.copy_root(&container, &chain).unwrap();
        let root = container.join("rootfs");
        let read = |name: &str| fs::read_to_string(root.join(name)).ok();
        assert_eq!((read("kept").as_deref(), read("changed").as_deref()), (Some("2"), Some("4")));
        assert_eq!(read("again").as_deref(), Some("4"));
        assert!(root.join("d").is_dir() && read("d/gone").is_none());
        fs::write(root.join("kept"), "mine").unwrap();
        store.copy_root(&container, &chain).unwrap();
        assert_eq!(read("kept").as_deref(), Some("mine"), "a copy that is there is the container's");
        remove_root(&container).unwrap();
        remove_root(&container).unwrap();
        assert_eq!(fs::read_dir(&container).unwrap().count(), 0);
        assert!(matches!(store.copy_root(&container, &[]), Err(Error::NoLayers)));
        let other = [Digest::sha256_of(b"other")];
        assert!(matches!(store.copy_root(&container, &other), Err(Error::MissingLayer(_))));
    }
}
