//! Repair: what killed commands, killed monitors and lost power left behind.
//!
//! Every run leaves a directory below `<run>/containers` until it is reaped, so only those are looked at, not every
//! container there is. Live commands are told apart by the container's lock, creations by the lease.

use std::path::Path;

use container::record::State;
use container::{ContainerDir, ContainerId};

use super::Repair;
use crate::{Engine, Result};

impl Engine {
    /// Puts right what was left half-done: containers whose monitor died, runs nobody reaped, creations and removals
    /// that were killed, a runtime directory of an earlier boot. Idempotent; leaves alone what living commands are at
    /// work on.
    pub fn reconcile(&self) -> Vec<Repair> {
        let mut repairs = Vec::new();
        if !self.paths.root.is_dir() {
            return repairs;
        }
        match self.ensure_run() {
            Ok(false) => {}
            Ok(true) => {
                repairs.push(Repair::NewBoot);
                self.after_boot(&mut repairs);
            }
            Err(error) => repairs.push(Repair::Failed(error)),
        }
        self.settle_runs(&mut repairs);
        if let Err(error) = self.sweep(&mut repairs) {
            repairs.push(Repair::Failed(error));
        }
        repairs
    }

    /// Every run that has a directory.
    fn settle_runs(&self, repairs: &mut Vec<Repair>) {
        let Ok(entries) = std::fs::read_dir(self.paths.run_containers()) else { return };
        for entry in entries.flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<ContainerId>().ok()) else {
                continue;
            };
            if let Err(error) = self.settle(&id, repairs) {
                repairs.push(Repair::Failed(error));
            }
        }
    }

    /// One container that ran in this boot: recovered when lost, reaped when nobody did.
    fn settle(&self, id: &ContainerId, repairs: &mut Vec<Repair>) -> Result<()> {
        let dir = match ContainerDir::open(&self.paths.containers(), id) {
            Err(container::Error::NotFound(_)) => {
                self.release(id)?;
                repairs.push(Repair::Released(id.clone()));
                return Ok(());
            }
            dir => dir?,
        };
        if dir.is_locked()? {
            return Ok(());
        }
        // A client that has promised to reap may be about to: whoever comes second finds nothing to do.
        let config = self.config_of(&dir)?;
        if dir.observe()?.is_lost() && self.recover(&dir, &config)? {
            repairs.push(Repair::MonitorDied(id.clone()));
            if !config.auto_remove {
                return Ok(());
            }
        }
        let state = dir.status()?.state;
        if container::dir::is_active(state) {
            return Ok(());
        }
        self.reap(id)?;
        repairs.push(if config.auto_remove { Repair::Removed(id.clone()) } else { Repair::Released(id.clone()) });
        Ok(())
    }

    /// Every container once, the first time after a boot: nothing that was active still is.
    fn after_boot(&self, repairs: &mut Vec<Repair>) {
        let ids = match ContainerDir::list(&self.paths.containers()) {
            Ok(ids) => ids,
            Err(error) => return repairs.push(Repair::Failed(error.into())),
        };
        for id in ids {
            if let Err(error) = self.settle_after_boot(&id, repairs) {
                repairs.push(Repair::Failed(error));
            }
        }
        let layers = self.layers().and_then(|layers| {
            layers.sweep()?;
            Ok(layers.empty_trash()?)
        });
        if let Err(error) = layers {
            repairs.push(Repair::Failed(error));
        }
    }

    fn settle_after_boot(&self, id: &ContainerId, repairs: &mut Vec<Repair>) -> Result<()> {
        let dir = self.container_dir(id)?;
        let config = dir.config()?;
        if dir.observe()?.is_lost() && self.recover(&dir, &config)? {
            repairs.push(Repair::MonitorDied(id.clone()));
        }
        // One with `--rm` that never started was made for a command that went down with the machine.
        let status = dir.status()?;
        if config.auto_remove && !container::dir::is_active(status.state) && !status.is_of_this_boot() {
            self.reap(id)?;
            repairs.push(Repair::Removed(id.clone()));
        }
        Ok(())
    }

    /// Half-made and half-removed directories, and names without one.
    fn sweep(&self, repairs: &mut Vec<Repair>) -> Result<()> {
        let containers = self.paths.containers();
        let (ids, leftovers) = listing(&containers)?;
        let names = count(&self.paths.names());
        let removing = self.removals(&ids);
        if leftovers.is_empty() && names == ids.len() && removing.is_empty() {
            return Ok(());
        }
        let Some(_exclusive) = self.try_exclusive()? else { return Ok(()) };
        for id in removing {
            self.finish_removal(&id, repairs)?;
        }
        for name in leftovers {
            discard(&containers, &name)?;
            repairs.push(Repair::Discarded(name));
        }
        if names == ids.len() {
            return Ok(());
        }
        let names = self.names()?;
        for (name, owner) in names.list()? {
            if !self.paths.container(&owner).is_dir() {
                names.release(&name, &owner)?;
                repairs.push(Repair::Discarded(name.to_string()));
            }
        }
        Ok(())
    }

    /// Containers whose removal nobody is at work on. Only looked for among those that left a mark.
    fn removals(&self, ids: &[ContainerId]) -> Vec<ContainerId> {
        let marked = |id: &&ContainerId| {
            // A removal deletes `work` before anything else, so only what lacks it needs a closer look.
            let dir = self.paths.container(id);
            dir.is_dir() && !dir.join(container::dir::names::WORK).exists()
        };
        ids.iter().filter(marked).cloned().collect()
    }

    fn finish_removal(&self, id: &ContainerId, repairs: &mut Vec<Repair>) -> Result<()> {
        let dir = self.container_dir(id)?;
        let Ok(config) = dir.config() else { return Ok(()) };
        let Ok(lock) = dir.try_lock() else { return Ok(()) };
        // A damaged record is its own container's affair: the sweep goes on.
        let Ok(status) = dir.status() else { return Ok(()) };
        let state = status.state;
        if state == State::Removing || (config.auto_remove && state == State::Exited) {
            self.delete(dir, &config)?;
            self.release(id)?;
            repairs.push(Repair::Removed(id.clone()));
        }
        drop(lock);
        Ok(())
    }
}

/// Ids, and names that begin with a dot: what `create` and `rm` leave when killed.
fn listing(containers: &Path) -> Result<(Vec<ContainerId>, Vec<String>)> {
    let (mut ids, mut leftovers) = (Vec::new(), Vec::new());
    let entries = match std::fs::read_dir(containers) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((ids, leftovers)),
        Err(error) => return Err(error.into()),
    };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        match name.parse() {
            Ok(id) => ids.push(id),
            Err(_) if name.starts_with('.') => leftovers.push(name),
            Err(_) => {}
        }
    }
    Ok((ids, leftovers))
}

fn count(dir: &Path) -> usize {
    std::fs::read_dir(dir).map_or(0, Iterator::count)
}

/// Deletes a half-made or half-deleted container's directory. Nothing was ever mounted below a half-made one, and a
/// removal begins after its mounts are gone.
fn discard(containers: &Path, name: &str) -> Result<()> {
    let path = containers.join(name);
    storage::snapshot::remove_upper(&path)?;
    storage::flat::remove_root(&path)?;
    match std::fs::remove_dir_all(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
