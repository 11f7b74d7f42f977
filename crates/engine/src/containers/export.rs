//! `export`: a container's root file system as one flat archive.

use std::io::Write;

use sys::Context;

use super::start::LOCK_LIMIT;
use crate::{ContainerId, Engine, Error, ErrorKind, Result};

impl Engine {
    /// Writes the root file system of the container to `out` as a tar, running or not: what its image and it itself made
    /// of it, without what is mounted into it.
    ///
    /// # Errors
    /// [`ErrorKind::NoSuchContainer`]; [`ErrorKind::Conflict`] when it is removed meanwhile; what `out` says.
    pub fn export(&self, id: &ContainerId, out: &mut dyn Write) -> Result<()> {
        let _layers_stay = self.lease()?;
        let dir = self.container_dir(id)?;
        let config = dir.config()?;
        let root = match (&config.image, &config.rootfs_dir) {
            (Some(image), Some(rootfs)) => {
                if rustix::fs::stat(rootfs).is_err() {
                    let _at_rest = dir.lock(LOCK_LIMIT)?;
                    self.layers()?.copy_root(dir.path(), &image.chain)?;
                }
                sys::mount::clone_path(rootfs, false)?
            }
            (None, Some(rootfs)) => sys::mount::clone_path(rootfs, false)?,
            (Some(image), None) => {
                let layers = self.layers()?;
                if rustix::fs::stat(dir.path().join("work")).is_err() {
                    // Never started: its writable layer is made as the first start would make it, and by one of us.
                    let _at_rest = dir.lock(LOCK_LIMIT)?;
                    layers.create_upper(dir.path(), &image.chain)?;
                }
                layers.merged(dir.path(), &image.chain)?
            }
            (None, None) => {
                return Err(Error::new(
                    ErrorKind::Damaged,
                    format!("container {} has no root file system", id.short()),
                ));
            }
        };
        storage::export::export(&root, out)?;
        // Its files went one by one while they were read: the archive may lack any of them.
        if rustix::fs::stat(dir.path().join("work")).at("stat", dir.path().display()).is_err()
            && config.rootfs_dir.is_none()
        {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("container {} was removed while it was exported", id.short()),
            ));
        }
        Ok(())
    }
}
