//! `reap` after a run, and `rm`.

use std::time::Instant;

use container::client;
use container::lifecycle::{Event, step};
use container::record::{Config, State, Status};
use container::{ContainerDir, ContainerId};
use sys::fs::Durability;

use super::RemoveOptions;
use super::start::{LOCK_LIMIT, LOOK_AGAIN, durability_of};
use crate::{Engine, Error, ErrorKind, Result};

/// Number of SIGKILL.
const SIGKILL: i32 = 9;

impl Engine {
    /// Undoes what a run left: gives back its range of ids and its runtime directory, and with `--rm` removes the
    /// container. For a container that is gone or runs there is nothing to do.
    ///
    /// # Errors
    /// Something stays; the next reap, or the next command of any kind, tries again.
    pub fn reap(&self, id: &ContainerId) -> Result<()> {
        let dir = match self.container_dir(id) {
            Err(error) if error.kind() == ErrorKind::NoSuchContainer => return self.release(id),
            dir => dir?,
        };
        let config = self.config_of(&dir)?;
        // The monitor holds the lock for a moment after it announced the end.
        let lock = match dir.try_lock() {
            Err(container::Error::Locked) => match dir.observe()?.state() {
                State::Exited | State::Dead | State::Removing | State::Created => dir.lock(LOCK_LIMIT)?,
                State::Starting | State::Running | State::Paused | State::Stopping => return Ok(()),
            },
            lock => lock?,
        };
        // Active by the record, and nobody held the lock: it was lost.
        if container::dir::is_active(dir.status()?.state) {
            drop(lock);
            self.recover(&dir, &config)?;
            return if config.auto_remove { self.reap(id) } else { Ok(()) };
        }
        let result = if config.auto_remove { self.delete(dir, &config) } else { Ok(()) };
        let released = self.release(id);
        drop(lock);
        result.and(released)
    }

    /// Removes a container, with `force` even when it runs.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when it runs and is not to be forced.
    pub fn remove(&self, id: &ContainerId, options: RemoveOptions) -> Result<()> {
        self.remove_until(id, options, Instant::now() + LOCK_LIMIT)
    }

    fn remove_until(&self, id: &ContainerId, options: RemoveOptions, deadline: Instant) -> Result<()> {
        let dir = self.container_dir(id)?;
        let config = dir.config();
        let status = match dir.observe() {
            Ok(observed) if observed.is_lost() => {
                self.recover_for_removal(&dir, config.as_ref().ok(), id)?;
                Status { state: State::Exited, ..dir.status()? }
            }
            Ok(observed) => observed.status,
            // A damaged record must not keep its container from being removed.
            Err(container::Error::Damaged { .. }) if options.force => {
                if dir.is_locked()? {
                    self.kill_for_removal(&dir, id)?;
                } else {
                    self.recover_for_removal(&dir, config.as_ref().ok(), id)?;
                }
                Status::new(State::Dead)
            }
            Err(error) => return Err(error.into()),
        };
        let name = config.as_ref().map_or_else(|_| id.to_string(), |config| config.name.to_string());
        if let Err(refused) = step(status.state, &Event::Remove { force: options.force }) {
            use container::lifecycle::Refused;
            return Err(match refused {
                Refused::RemoveRunning | Refused::RemovePaused => Error::new(
                    ErrorKind::Conflict,
                    format!("cannot remove container \"/{name}\": container is {}", word(status.state)),
                )
                .hint("stop the container before removing it, or force the removal with -f"),
                // A removal that was interrupted is taken up again below, under the lock.
                Refused::RemovalInProgress => return self.take_up_removal(dir, config, id),
                other => Error::of_container(other.into(), &name),
            });
        }
        if container::dir::is_active(status.state) {
            self.kill_for_removal(&dir, id)?;
        }
        let lock = match dir.lock(LOOK_AGAIN) {
            // Its own `--rm` may have been quicker.
            Err(_) if !dir.path().exists() => return Ok(()),
            // A start may have been: what holds now is looked at again.
            Err(container::Error::Locked) if Instant::now() < deadline => {
                return match self.remove_until(id, options, deadline) {
                    Err(error) if error.kind() == ErrorKind::NoSuchContainer => Ok(()),
                    removed => removed,
                };
            }
            lock => lock?,
        };
        if !dir.path().exists() {
            return Ok(());
        }
        let removing = Status { state: State::Removing, ..status };
        // Only a mark, so that an interrupted removal is taken up: a full disk must not keep it from being emptied.
        let _ = dir.write_status(&removing, config.as_ref().map_or(Durability::Volatile, durability_of));
        let deleted = match &config {
            Ok(config) => self.delete(dir, config),
            Err(_) => self.delete_damaged(dir, id),
        };
        if options.volumes
            && let (Ok(()), Ok(config)) = (&deleted, &config)
        {
            self.forget_volumes(config);
        }
        let released = self.release(id);
        drop(lock);
        deleted.and(released)
    }

    fn take_up_removal(&self, dir: ContainerDir, config: container::Result<Config>, id: &ContainerId) -> Result<()> {
        let lock = match dir.try_lock() {
            Err(container::Error::Locked) => {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("removal of container {id} is already in progress"),
                ));
            }
            lock => lock?,
        };
        let deleted = match &config {
            Ok(config) => self.delete(dir, config),
            Err(_) => self.delete_damaged(dir, id),
        };
        let released = self.release(id);
        drop(lock);
        deleted.and(released)
    }

    fn kill_for_removal(&self, dir: &ContainerDir, id: &ContainerId) -> Result<()> {
        let cannot = |error: container::Error| {
            Error::new(ErrorKind::System, format!("cannot kill container {}", id.short())).because(error)
        };
        match client::connect(&self.paths.run_container(id)) {
            Ok(mut session) => match session.stop(Some(SIGKILL), Some(0), Some(LOCK_LIMIT)) {
                Ok(_) | Err(container::Error::MonitorGone) => {}
                Err(error) => return Err(cannot(error)),
            },
            // Between two looks it ended, or its monitor was killed.
            Err(container::Error::MonitorGone) => {}
            Err(error) => return Err(cannot(error)),
        }
        if dir.observe().is_ok_and(|observed| observed.is_lost()) {
            self.recover_for_removal(dir, dir.config().ok().as_ref(), id)?;
        }
        Ok(())
    }

    /// Takes down what a dead monitor left, where its control group is by default if the configuration does not say.
    fn recover_for_removal(&self, dir: &ContainerDir, config: Option<&Config>, id: &ContainerId) -> Result<()> {
        let recovered = match config {
            Some(config) => self.recover(dir, config),
            None => self.recover_at(dir, id, Some(&format!("/lighter-{id}"))),
        };
        match recovered {
            // Recording comes last, and the record is about to go.
            Err(error) if error.kind() == ErrorKind::NoSpace => Ok(()),
            recovered => recovered.map(|_| ()),
        }
    }

    /// Deletes a container's directory and gives its name back. The caller holds the lock; nothing is mounted below.
    pub(super) fn delete(&self, dir: ContainerDir, config: &Config) -> Result<()> {
        // The writable layer first and by itself: it may be deeper than any other tree here.
        storage::snapshot::remove_upper(dir.path())?;
        if config.image.is_some() && config.rootfs_dir.is_some() {
            storage::flat::remove_root(dir.path())?;
        }
        dir.delete()?;
        self.names()?.release(&config.name, &config.id)?;
        if config.auto_remove {
            self.forget_volumes(config);
        }
        Ok(())
    }

    /// The same for one whose configuration cannot be read: its name is found by its owner.
    fn delete_damaged(&self, dir: ContainerDir, id: &ContainerId) -> Result<()> {
        storage::snapshot::remove_upper(dir.path())?;
        storage::flat::remove_root(dir.path())?;
        dir.delete()?;
        let names = self.names()?;
        for (name, owner) in names.list()? {
            if owner == *id {
                names.release(&name, id)?;
            }
        }
        Ok(())
    }
}

/// A state in docker's word.
pub(super) fn word(state: State) -> &'static str {
    match state {
        State::Created => "created",
        State::Starting | State::Running | State::Stopping => "running",
        State::Paused => "paused",
        State::Exited => "exited",
        State::Removing => "removing",
        State::Dead => "dead",
    }
}
