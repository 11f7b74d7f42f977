//! `create`: one name, one directory, two small records. Everything else is made by the first start.
//!
//! The name is reserved first: it decides conflicts, and a name without a directory is the only thing a killed create
//! leaves that anybody can see. [`reconcile`](Engine::reconcile) takes it back.

use container::names::Names;
use container::record::{ImageRef, State, Status};
use container::{ContainerDir, ContainerId, ContainerName};
use image::Progress;
use oci::image::ContainerConfig;
use sys::fs::Durability;

use super::{CreatedContainer, files, make_dirs, names};
use crate::host::Machine;
use crate::images::highest_id;
use crate::spec::{ContainerSpec, Source};
use crate::specgen::{self, Inputs, mounts};
use crate::{Engine, Error, ErrorKind, Result};

/// Made-up names tried before giving up; they get longer after a few.
const ATTEMPTS: u32 = 64;

/// What an image gives to a container.
struct Basis {
    config: ContainerConfig,
    image: Option<ImageRef>,
    highest_id: Option<u32>,
    copied: bool,
}

impl Engine {
    /// Makes a container, pulling its image first when it is not here and the specification allows.
    ///
    /// # Errors Everything that is wrong with the specification ([`ErrorKind::Invalid`], [`ErrorKind::Unsupported`]), a
    /// name that is taken ([`ErrorKind::Conflict`]), a missing image; nothing is left then.
    pub fn create(&self, spec: &ContainerSpec, progress: &dyn Progress) -> Result<CreatedContainer> {
        let given: Option<ContainerName> = match spec.name.as_deref().map(|name| name.strip_prefix('/').unwrap_or(name))
        {
            None => None,
            Some(name) => Some(
                name.parse()
                    .map_err(|error: container::id::InvalidName| Error::new(ErrorKind::Invalid, error.to_string()))?,
            ),
        };
        if let Some(name) = &given {
            self.free_abandoned(name)?;
        }
        self.taking_in(|| {
            let basis = self.basis(spec, progress)?;
            let id = ContainerId::from_random(&random()?);
            let names = self.names()?;
            let durability = if spec.auto_remove { Durability::Volatile } else { Durability::Durable };
            let name = Self::reserve(&names, given.as_ref(), &id, durability)?;
            match self.make(spec, basis, &id, &name, durability) {
                Ok(warnings) => Ok(CreatedContainer { id, name, warnings }),
                Err(error) => {
                    self.unmake(&names, &name, &id);
                    Err(error)
                }
            }
        })
    }

    fn basis(&self, spec: &ContainerSpec, progress: &dyn Progress) -> Result<Basis> {
        match &spec.source {
            Source::Image(said) => {
                let record = self.provide(said, spec, progress)?;
                let chain: Vec<oci::Digest> = record.chain().cloned().collect();
                let highest = match record.highest_id {
                    Some(highest) => highest,
                    None => highest_id(self.layers()?, &chain)?,
                };
                let image = ImageRef { said: said.clone(), id: record.id().clone(), chain };
                Ok(Basis {
                    config: record.config,
                    image: Some(image),
                    highest_id: Some(highest),
                    copied: record.copied,
                })
            }
            Source::Rootfs(dir) => {
                if !dir.is_absolute() || !dir.is_dir() {
                    return Err(Error::new(ErrorKind::Invalid, format!("--rootfs {}: not a directory", dir.display()))
                        .hint("an absolute path of a directory that holds a root file system"));
                }
                Ok(Basis { config: ContainerConfig::default(), image: None, highest_id: None, copied: false })
            }
        }
    }

    fn reserve(
        names: &Names,
        given: Option<&ContainerName>,
        id: &ContainerId,
        durability: Durability,
    ) -> Result<ContainerName> {
        if let Some(name) = given {
            names.reserve(name, id, durability)?;
            return Ok(name.clone());
        }
        for attempt in 0..ATTEMPTS {
            let bytes = random()?;
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[..8]);
            let Some(name) = names::made_up(u64::from_ne_bytes(word), attempt) else { continue };
            match names.reserve(&name, id, durability) {
                Err(container::Error::NameInUse { .. }) => {}
                reserved => {
                    reserved?;
                    return Ok(name);
                }
            }
        }
        Err(Error::new(ErrorKind::Conflict, "no free name could be made up").hint("choose one with --name"))
    }

    /// Frees `name` if whoever reserved it was killed before it made the container. With the exclusive lease nothing is
    /// being made, so a name without a directory has lost its creator.
    fn free_abandoned(&self, name: &ContainerName) -> Result<()> {
        let names = self.names()?;
        let Some(owner) = names.lookup(name)? else { return Ok(()) };
        if self.paths.container(&owner).exists() {
            return Ok(());
        }
        let Some(_exclusive) = self.try_exclusive()? else { return Ok(()) };
        if !self.paths.container(&owner).exists() {
            names.release(name, &owner)?;
        }
        Ok(())
    }

    fn make(
        &self,
        spec: &ContainerSpec,
        basis: Basis,
        id: &ContainerId,
        name: &ContainerName,
        durability: Durability,
    ) -> Result<Vec<String>> {
        let path = self.paths.container(id);
        let layers = self.paths.layers();
        let host = Machine::new(&layers);
        let with_volumes = self.with_volumes(spec, &basis.config)?;
        let spec = with_volumes.as_ref().unwrap_or(spec);
        let meant = specgen::generate(Inputs {
            spec,
            id,
            name: name.clone(),
            image: &basis.config,
            image_ref: basis.image,
            highest_id: basis.highest_id,
            copied: basis.copied,
            dir: &path,
            host: &host,
        })?;
        files::check(&meant.config)?;
        for source in mounts::missing_sources(spec, &host) {
            std::fs::create_dir_all(source).map_err(|error| {
                let sentence = format!("the bind source {} cannot be made", source.display());
                Error::new(Error::from(error).kind(), sentence)
            })?;
        }
        // Held until the container's record tells that it uses them.
        let volumes = self.make_volumes(spec).inspect_err(|_| self.forget_volumes(&meant.config))?;
        let containers = self.paths.containers();
        let status = Status::new(State::Created);
        let made = match ContainerDir::create(&containers, &meant.config, &status, durability) {
            Err(container::Error::System { source, .. })
                if source.errno() == sys::Errno::NOENT && !containers.exists() =>
            {
                make_dirs(&containers)?;
                ContainerDir::create(&containers, &meant.config, &status, durability)
            }
            made => made,
        };
        drop(volumes);
        if let Err(error) = made {
            self.forget_volumes(&meant.config);
            return Err(error.into());
        }
        self.remember(meant.config);
        Ok(meant.warnings)
    }

    fn unmake(&self, names: &Names, name: &ContainerName, id: &ContainerId) {
        // The failure that led here is the one to report; whatever stays is swept by the next command.
        if let Ok(dir) = self.container_dir(id) {
            let _ = dir.delete();
        }
        let _ = names.release(name, id);
    }
}

pub(crate) fn random() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    let mut have = 0;
    while have < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[have..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => have += count,
            Err(sys::Errno::INTR) => {}
            Err(errno) => return Err(sys::Error::new("getrandom", "", errno).into()),
        }
    }
    Ok(bytes)
}
