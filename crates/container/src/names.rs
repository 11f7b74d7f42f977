//! Names: `names/<name>` is a symbolic link whose target is the id. Making a link is exclusive, so two containers can
//! never have one name, without a lock.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, readlinkat, symlinkat, unlinkat};
use rustix::io::Errno;
use sys::Context;
use sys::fs::Durability;

use crate::error::{Doing, Error, Result};
use crate::{ContainerId, ContainerName};

/// The open directory of names.
#[derive(Debug)]
pub struct Names(OwnedFd);

impl Names {
    /// Opens the directory at `path`.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(CWD, path, flags, Mode::empty()).at("openat", path.display());
        dir.map(Self).doing("opening the directory of names")
    }

    /// Gives `name` to `id`.
    ///
    /// # Errors
    /// [`Error::NameInUse`] when another container has it.
    pub fn reserve(&self, name: &ContainerName, id: &ContainerId, durability: Durability) -> Result<()> {
        match symlinkat(id.as_str(), &self.0, name.as_str()) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                return match self.lookup(name)? {
                    Some(owner) if owner == *id => Ok(()),
                    Some(owner) => Err(Error::NameInUse { name: name.clone(), id: owner }),
                    None => Err(Error::Refused(crate::lifecycle::Refused::Unexpected)),
                };
            }
            Err(errno) => return Err(errno).at("symlinkat", name).doing("reserving the container's name"),
        }
        match durability {
            Durability::Durable => sys::fs::sync_dir(&self.0, "names").doing("syncing the directory of names"),
            Durability::Volatile => Ok(()),
        }
    }

    /// The container that has `name`.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the entry is no link to an id.
    pub fn lookup(&self, name: &ContainerName) -> Result<Option<ContainerId>> {
        let damaged = |reason: String| Error::Damaged { path: Path::new("names").join(name.as_str()), reason };
        match readlinkat(&self.0, name.as_str(), Vec::with_capacity(80)) {
            Ok(target) => {
                let target = target.to_string_lossy();
                target.parse().map(Some).map_err(|error: crate::id::InvalidId| damaged(error.to_string()))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::INVAL) => Err(damaged("it is no symbolic link".to_owned())),
            Err(errno) => Err(errno).at("readlinkat", name).doing("looking up the container's name"),
        }
    }

    /// Takes `name` from `id`; a name that belongs to another container, or to none, is left alone. The caller holds the
    /// lock of `id`.
    ///
    /// # Errors
    /// When the link cannot be removed.
    pub fn release(&self, name: &ContainerName, id: &ContainerId) -> Result<()> {
        if self.lookup(name)?.as_ref() != Some(id) {
            return Ok(());
        }
        match unlinkat(&self.0, name.as_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno).at("unlinkat", name).doing("releasing the container's name"),
        }
    }

    /// Every name with its container; a damaged entry is left out.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> Result<Vec<(ContainerName, ContainerId)>> {
        let mut found = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.0).at("getdents", "names").doing("listing names")? {
            let entry = entry.at("getdents", "names").doing("listing names")?;
            let Some(name) = entry.file_name().to_str().ok().and_then(|name| name.parse().ok()) else { continue };
            if let Ok(Some(id)) = self.lookup(&name) {
                found.push((name, id));
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn a_name_has_one_owner() {
        let scratch = Scratch::new("names");
        let names = Names::open(scratch.path()).expect("opened");
        let (one, two) = (ContainerId::from_random(&[1; 32]), ContainerId::from_random(&[2; 32]));
        let web: ContainerName = "web".parse().expect("a name");
        assert_eq!(names.lookup(&web).expect("looked up"), None);
        names.reserve(&web, &one, Durability::Durable).expect("reserved");
        names.reserve(&web, &one, Durability::Volatile).expect("its own already");
        let error = names.reserve(&web, &two, Durability::Volatile).expect_err("taken");
        assert_eq!(error.to_string(), format!("the container name \"web\" is already in use by container {one}"));
        names.release(&web, &two).expect("not its name");
        assert_eq!(names.list().expect("listed"), [(web.clone(), one.clone())]);
        names.release(&web, &one).expect("released");
        names.release(&web, &one).expect("released already");
        assert_eq!(names.lookup(&web).expect("looked up"), None);
        std::fs::write(scratch.path().join("web"), "x").expect("written");
        assert!(matches!(names.lookup(&web), Err(Error::Damaged { .. })));
    }
}
