//! A layer that is being made.

use std::io::{BufRead, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use oci::Digest;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use sys::Context;

use crate::archive::Limits;
use crate::error::{Error, Result};
use crate::extract::{self, Outcome, extract};
use crate::inherit;
use crate::jail::Jail;
use crate::layers::{Dirs, LayerStore, open_dir, unique_name};
use crate::record::{LayerRecord, VERSION};
use crate::tree::{self, Tree};
use crate::walk;

/// Tries to make a directory that no sweep takes away before it is locked.
const TRIES: usize = 16;

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerStats {
    /// Bytes in regular files, holes not counted.
    pub bytes: u64,
    /// Inodes, the layer's root included.
    pub inodes: u64,
    /// The greatest owner of an entry.
    pub max_uid: u32,
    /// The greatest group of an entry.
    pub max_gid: u32,
    /// Directories that no entry described, the layer's root among them if it is one. They take their attributes from
    /// the layers below at commit, so that the layer's content depends on its chain.
    pub implicit_dirs: u64,
}

/// A layer in the making, in a directory of its own. Dropped without a commit it goes to the trash.
pub struct Staging {
    dirs: Arc<Dirs>,
    name: String,
    /// The directory, locked for as long as it is open.
    dir: OwnedFd,
    tree: Tree,
    /// What the archives held; `None` until one was applied, and again after one failed.
    outcome: Option<Outcome>,
    published: bool,
}

impl Staging {
    pub(crate) fn new(dirs: Arc<Dirs>) -> Result<Self> {
        for _ in 0..TRIES {
            let name = unique_name()?;
            rustix::fs::mkdirat(&dirs.staging, &name, Mode::RWXU).at("mkdirat", &name)?;
            // Between mkdir and flock a sweep may take the directory for an abandoned one.
            let dir = match open_dir(dirs.staging.as_fd(), &name) {
                Err(error) if error.errno() == Errno::NOENT => continue,
                dir => dir?,
            };
            match rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => continue,
                Err(errno) => return Err(sys::Error::new("flock", &name, errno).into()),
            }
            match rustix::fs::statat(&dirs.staging, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => {}
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(sys::Error::new("fstatat", &name, errno).into()),
            }
            rustix::fs::mkdirat(&dir, "diff", Mode::RWXU).at("mkdirat", "diff")?;
            let diff = open_dir(dir.as_fd(), "diff")?;
            rustix::fs::fchmod(&diff, Mode::from_raw_mode(0o755)).at("fchmod", "diff")?;
            let tree = Tree::new(diff)?;
            return Ok(Self { dirs, name, dir, tree, outcome: None, published: false });
        }
        Err(sys::Error::new("flock", "a new staging directory", Errno::WOULDBLOCK).into())
    }

    /// Unpacks an uncompressed tar archive into the layer and reads the stream to its end. A second archive goes on top
    /// of the first, in the same layer. After an error the layer can only be dropped.
    ///
    /// # Errors
    /// [`Error::Source`], [`Error::Truncated`], [`Error::Malformed`], [`Error::Refused`] and [`Error::Limit`] for what
    /// is wrong with the archive, [`Error::Sys`] for what is wrong here.
    pub fn apply(&mut self, tar: &mut dyn Read, limits: &Limits) -> Result<LayerStats> {
        let before = self.outcome.take().unwrap_or_default();
        let mut outcome = extract(&mut self.tree, tar, limits)?;
        extract::finish(self.tree.root(), &outcome)?;
        outcome.max_uid = outcome.max_uid.max(before.max_uid);
        outcome.max_gid = outcome.max_gid.max(before.max_gid);
        outcome.root_opaque |= before.root_opaque;
        Ok(self.unpacked(outcome))
    }

    /// Unpacks an uncompressed tar archive into the empty layer, in a process of its own that is confined to it (see
    /// [`jail`](crate::jail)), within [`Limits::default`]. The running program must be one that enters
    /// [`jail::main`](crate::jail::main). After an error the layer can only be dropped.
    ///
    /// # Errors
    /// [`Error::Source`]; [`Error::Unpack`] for what is wrong with the archive; [`Error::Jail`] when the process did not
    /// come to its end; [`Error::Sys`] for what is wrong here.
    pub fn unpack(&mut self, tar: &mut dyn BufRead) -> Result<LayerStats> {
        let mut jail = Jail::start(self.tree.root())?;
        jail.feed(tar)?;
        let outcome = jail.finish()?;
        extract::finish(self.tree.root(), &outcome)?;
        Ok(self.unpacked(outcome))
    }

    /// The private directory, in which the layer's tree is `diff`.
    pub(crate) fn directory(&self) -> &OwnedFd {
        &self.dir
    }

    /// Removes it at once, with whatever is in it.
    pub(crate) fn remove(self) -> Result<()> {
        let name = std::ffi::CString::new(self.name.as_str()).unwrap_or_default();
        walk::remove(self.dirs.staging.as_fd(), &name)
    }

    pub(crate) fn dirs(&self) -> &Dirs {
        &self.dirs
    }

    /// Directories that no entry described, by their real path.
    pub(crate) fn implicit(&self) -> &[Vec<u8>] {
        self.outcome.as_ref().map_or(&[], |outcome| &outcome.implicit)
    }

    fn unpacked(&mut self, outcome: Outcome) -> LayerStats {
        let stats = LayerStats {
            bytes: outcome.bytes,
            inodes: outcome.inodes,
            max_uid: outcome.max_uid,
            max_gid: outcome.max_gid,
            implicit_dirs: outcome.implicit.len() as u64,
        };
        self.outcome = Some(outcome);
        stats
    }

    /// Makes the layer durable and puts it into the store under its chain id. `parents` is the chain below it, base
    /// first. A layer of that name that is there already wins, which is no error: equal names mean equal layers.
    ///
    /// # Errors
    /// Those of [`LayerStore::commit_all`]; the layer is discarded then.
    pub fn commit(self, chain_id: &Digest, parents: &[Digest]) -> Result<()> {
        let store = LayerStore { dirs: Arc::clone(&self.dirs) };
        let parents = parents.iter().map(|parent| (parent.clone(), None));
        store.commit_all(parents.chain([(chain_id.clone(), Some(self))]).collect())
    }

    /// Takes over what the layers below have, writes the record and gives the layer's root.
    pub(crate) fn settle(&self, lowers: &[OwnedFd]) -> Result<OwnedFd> {
        let outcome = self.outcome.as_ref().ok_or(Error::Unfinished)?;
        inherit::attributes(self.tree.root(), &outcome.implicit, lowers)?;
        let mut inodes = outcome.inodes;
        if outcome.root_opaque {
            inodes += inherit::hide_roots(self.tree.root(), lowers)?;
        }
        let record = LayerRecord {
            version: VERSION,
            diff_bytes: outcome.bytes,
            inodes,
            max_uid: outcome.max_uid,
            max_gid: outcome.max_gid,
        };
        let bytes = serde_json::to_vec(&record).map_err(|error| sys::Error::new("write", error, Errno::INVAL))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.dir, "meta", flags, Mode::RUSR | Mode::WUSR).at("openat", "meta")?;
        std::io::Write::write_all(&mut std::fs::File::from(file), &bytes).at("write", "meta")?;
        Ok(tree::open_dir(self.tree.root(), b"").at("openat2", ".")?)
    }

    /// Gives the layer its name. It must be on the disk already.
    pub(crate) fn publish(mut self, chain: &Digest) -> Result<()> {
        let renamed = rustix::fs::renameat_with(
            &self.dirs.staging,
            &self.name,
            &self.dirs.layers,
            chain.hex(),
            RenameFlags::NOREPLACE,
        );
        match renamed {
            Ok(()) => self.published = true,
            // Somebody was faster.
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(sys::Error::new("renameat2", chain, errno).into()),
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.published {
            // What cannot be moved now is swept later: the lock goes with the descriptor.
            let _ = self.dirs.discard(self.dirs.staging.as_fd(), &self.name);
        }
    }
}
