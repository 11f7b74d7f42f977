//! Names: `names/<name>` is a symbolic link whose target is the id. Making a link is exclusive, so two containers can
//! never have one name, without a lock.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, RenameFlags, openat, readlinkat, renameat, renameat_with, symlinkat, unlinkat,
};
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
        let mut made = symlinkat(id.as_str(), &self.0, name.as_str());
        if made == Err(Errno::EXIST) {
            match self.lookup(name)? {
                Some(owner) if owner == *id => return Ok(()),
                Some(owner) => return Err(Error::NameInUse { name: name.clone(), id: owner }),
                None => {
                    self.set_aside(name, id)?;
                    made = symlinkat(id.as_str(), &self.0, name.as_str());
                }
            }
        }
        if made == Err(Errno::EXIST)
            && let Some(owner) = self.lookup(name)?
        {
            return Err(Error::NameInUse { name: name.clone(), id: owner });
        }
        made.at("symlinkat", name).doing("reserving the container's name")?;
        match durability {
            Durability::Durable => sys::fs::sync_dir(&self.0, "names").doing("syncing the directory of names"),
            Durability::Volatile => Ok(()),
        }
    }

    /// Takes an entry that is no link to an id out of the way. What was there is removed, or kept under a name that no
    /// container can have when it is a directory with something in it.
    fn set_aside(&self, name: &ContainerName, id: &ContainerId) -> Result<()> {
        let aside = format!(".{}.{}", name.as_str(), id.short());
        match renameat(&self.0, name.as_str(), &self.0, &aside) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(errno).at("renameat", name).doing("setting a damaged name aside"),
        }
        if self.read(&aside, name)?.is_some() {
            // Somebody else repaired it between our look and our rename: theirs goes back.
            let back = renameat_with(&self.0, &aside, &self.0, name.as_str(), RenameFlags::NOREPLACE);
            return back.at("renameat2", name).doing("giving a name back");
        }
        // What cannot be removed is out of the way all the same.
        if unlinkat(&self.0, &aside, AtFlags::empty()).is_err() {
            let _ = unlinkat(&self.0, &aside, AtFlags::REMOVEDIR);
        }
        Ok(())
    }

    /// The container that has `name`. An entry that is no link to an id gives the name to nobody.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn lookup(&self, name: &ContainerName) -> Result<Option<ContainerId>> {
        self.read(name.as_str(), name)
    }

    fn read(&self, entry: &str, name: &ContainerName) -> Result<Option<ContainerId>> {
        match readlinkat(&self.0, entry, Vec::with_capacity(80)) {
            Ok(target) => Ok(target.to_string_lossy().parse().ok()),
            Err(Errno::NOENT | Errno::INVAL) => Ok(None),
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
    }

    #[test]
    fn a_damaged_entry_blocks_no_name() {
        let scratch = Scratch::new("names-damaged");
        let names = Names::open(scratch.path()).expect("opened");
        let (one, web) = (ContainerId::from_random(&[1; 32]), "web".parse::<ContainerName>().expect("a name"));
        let path = scratch.path().join("web");
        let spoil: [&dyn Fn(); 4] = [
            &|| std::fs::write(&path, "x").expect("written"),
            &|| std::fs::create_dir(&path).expect("made"),
            &|| std::os::unix::fs::symlink("nowhere", &path).expect("linked"),
            &|| std::fs::create_dir_all(path.join("full")).expect("made"),
        ];
        for spoil in spoil {
            spoil();
            assert_eq!(names.lookup(&web).expect("looked up"), None);
            names.release(&web, &one).expect("nothing to release");
            names.reserve(&web, &one, Durability::Durable).expect("reserved");
            assert_eq!(names.list().expect("listed"), [(web.clone(), one.clone())]);
            names.release(&web, &one).expect("released");
        }
    }
}
