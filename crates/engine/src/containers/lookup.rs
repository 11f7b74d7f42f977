//! From what a user writes to an id, and from an id to its records.

use std::sync::PoisonError;

use container::ContainerDir;
use container::record::Config;

use crate::{ContainerId, Engine, Error, ErrorKind, Result};

impl Engine {
    /// The container with this id, name, or beginning of an id.
    ///
    /// # Errors
    /// [`ErrorKind::NoSuchContainer`]; [`ErrorKind::Invalid`] when several ids begin so.
    pub fn lookup(&self, said: &str) -> Result<ContainerId> {
        let none = || Error::new(ErrorKind::NoSuchContainer, format!("No such container: {said}"));
        let exists = |id: &ContainerId| self.paths.container(id).is_dir();
        if let Ok(id) = said.parse::<ContainerId>()
            && exists(&id)
        {
            return Ok(id);
        }
        if let Ok(name) = said.strip_prefix('/').unwrap_or(said).parse()
            && self.paths.names().is_dir()
            && let Some(id) = self.names()?.lookup(&name)?.filter(exists)
        {
            return Ok(id);
        }
        let prefix = (1..64).contains(&said.len()) && said.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !prefix {
            return Err(none());
        }
        let mut matching = ContainerDir::list(&self.paths.containers())?;
        matching.retain(|id| id.as_str().starts_with(said));
        match matching.as_slice() {
            [] => Err(none()),
            [id] => Ok(id.clone()),
            several => Err(Error::new(
                ErrorKind::Invalid,
                format!("multiple containers found with provided prefix: {said} ({} of them)", several.len()),
            )
            .hint("give more characters of the id, or the name")),
        }
    }

    /// Keeps the configuration just made, for the start that follows in the same process.
    pub(super) fn remember(&self, config: Config) {
        *self.made.lock().unwrap_or_else(PoisonError::into_inner) = Some(config);
    }

    /// A container's configuration: from memory when this process made it, otherwise from its record.
    pub(super) fn config_of(&self, dir: &ContainerDir) -> Result<Config> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        match made.as_ref() {
            Some(config) if dir.path().ends_with(config.id.as_str()) => Ok(config.clone()),
            _ => Ok(dir.config()?),
        }
    }
}
