//! The volumes of a container: named when it is created, filled when it first starts, forgotten with it.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use container::ContainerId;
use container::record::{Config, ImageRef};
use oci::image::ContainerConfig;
use serde::Deserialize;
use storage::volumes::{Device, Held};
use storage::{Volume, VolumeName};
use sys::Context as _;
use sys::fs::Durability;

use super::{Said, SaidMount, make_dirs, random};
use crate::spec::{ContainerSpec, MountSpec, VolumeMount, VolumeOrigin};
use crate::specgen::mounts::clean_target;
use crate::volumes::{check_driver, check_options, device_of, parse_name};
use crate::{Engine, Error, ErrorKind, Result};

/// Volumes that an image may declare: each is a directory made, a lock held and a mount at every start. Real images have
/// fewer than ten.
const DECLARED_MOST: usize = 128;

/// Where a run notes the volumes it has mounted, by name: `<run>/containers/<id>/volumes`.
pub(super) const MARKS: &str = "volumes";

/// The part of [`Said`] that tells of volumes.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Declared {
    mounts: Vec<SaidMount>,
}

/// The volumes that a container's record names.
pub(crate) fn of(config: &Config) -> impl Iterator<Item = SaidMount> {
    let declared = Declared::deserialize(&config.said).unwrap_or_default();
    declared.mounts.into_iter().filter(|mount| mount.kind == "volume")
}

fn target(mount: &MountSpec) -> &Path {
    match mount {
        MountSpec::Bind { target, .. } | MountSpec::Tmpfs { target, .. } => target,
        MountSpec::Volume(volume) => &volume.target,
    }
}

fn covers(mounts: &[MountSpec], place: &Path) -> bool {
    mounts.iter().any(|mount| clean_target(target(mount)) == place)
}

impl Engine {
    /// The specification with every volume named and placed: those of other containers, those that have no name yet,
    /// those of the image. `None` when there is no volume at all.
    ///
    /// # Errors
    /// A name, an option or a container that does not fit.
    pub(super) fn with_volumes(&self, spec: &ContainerSpec, image: &ContainerConfig) -> Result<Option<ContainerSpec>> {
        let said = spec.mounts.iter().any(|mount| matches!(mount, MountSpec::Volume(_)));
        if let Some(driver) = &spec.volume_driver {
            check_driver(driver)?;
        }
        if !said && image.volumes.is_empty() && spec.volumes_from.is_empty() {
            return Ok(None);
        }
        if image.volumes.len() > DECLARED_MOST {
            let declared = image.volumes.len();
            let sentence =
                format!("the image declares {declared} volumes, more than the {DECLARED_MOST} that are allowed");
            return Err(Error::new(ErrorKind::BadImage, sentence));
        }
        let mut spec = spec.clone();
        let mut others = Vec::new();
        for from in &spec.volumes_from {
            for mount in self.mounts_of(from)? {
                let place = clean_target(target(&mount));
                if covers(&spec.mounts, &place) {
                    continue;
                }
                // Of several containers with something on one place, the last one's counts.
                others.retain(|other| clean_target(target(other)) != place);
                others.push(mount);
            }
        }
        spec.mounts.extend(others);
        for path in image.volumes.keys() {
            let plain = |component| matches!(component, Component::RootDir | Component::Normal(_));
            let declared = Path::new(path);
            // What an image may not ask for is left out; it is no reason not to run it (CVE-2022-23648).
            let fits = declared.is_absolute() && declared.components().all(plain) && !path.contains('\0');
            let place = clean_target(declared);
            let refused = place == Path::new("/") || place.starts_with("/proc");
            if fits && !refused && !covers(&spec.mounts, &place) {
                let origin = VolumeOrigin::Image;
                spec.mounts.push(MountSpec::Volume(VolumeMount { target: place, origin, ..VolumeMount::default() }));
            }
        }
        for mount in &mut spec.mounts {
            let MountSpec::Volume(volume) = mount else { continue };
            self.place(volume)?;
        }
        Ok(Some(spec))
    }

    fn place(&self, volume: &mut VolumeMount) -> Result<()> {
        check_driver(&volume.driver)?;
        check_options(&volume.options)?;
        check_subpath(&volume.subpath)?;
        if volume.name.is_empty() {
            volume.name = VolumeName::from_random(&random()?).to_string();
            volume.anonymous = true;
        }
        let name = parse_name(&volume.name)?;
        match self.volume_store().get(&name) {
            Ok(known) => volume.options = known.options,
            Err(storage::Error::NoSuchVolume(_)) => {}
            Err(error) => return Err(error.into()),
        }
        volume.source = device_of(&volume.options).unwrap_or_else(|| self.volume_store().data(&name));
        Ok(())
    }

    /// What `--volumes-from CONTAINER[:ro|rw]` brings.
    fn mounts_of(&self, said: &str) -> Result<Vec<MountSpec>> {
        let (name, mode) = said.split_once(':').unwrap_or((said, ""));
        let read_only = match mode {
            "" | "rw" | "z" | "Z" => false,
            "ro" => true,
            other => {
                return Err(Error::new(ErrorKind::Invalid, format!("invalid mode for volumes-from: {other}"))
                    .hint("--volumes-from CONTAINER, CONTAINER:ro or CONTAINER:rw"));
            }
        };
        let config = self.container_dir(&self.lookup(name)?)?.config()?;
        let said = Said::deserialize(&config.said).unwrap_or_default();
        Ok(said
            .mounts
            .into_iter()
            .filter_map(|mount| match mount.kind.as_str() {
                "volume" => Some(MountSpec::Volume(VolumeMount {
                    name: mount.name,
                    target: mount.target.into(),
                    read_only: read_only || mount.read_only,
                    no_copy: mount.no_copy,
                    subpath: mount.subpath,
                    origin: VolumeOrigin::Other,
                    anonymous: mount.anonymous,
                    ..VolumeMount::default()
                })),
                "bind" => Some(MountSpec::Bind {
                    source: mount.source.into(),
                    target: mount.target.into(),
                    read_only: read_only || mount.read_only,
                    propagation: mount.propagation,
                    create_source: false,
                    recursive: true,
                }),
                _ => None,
            })
            .collect())
    }

    /// Makes the volumes that are not there yet, and holds all of them.
    pub(super) fn make_volumes(&self, spec: &ContainerSpec) -> Result<Vec<Held>> {
        let durability = if spec.auto_remove { Durability::Volatile } else { Durability::Durable };
        let mut held: Vec<Held> = Vec::new();
        let mut names: Vec<&str> = Vec::new();
        for mount in &spec.mounts {
            let MountSpec::Volume(volume) = mount else { continue };
            if names.contains(&volume.name.as_str()) {
                continue;
            }
            names.push(&volume.name);
            let durability = if volume.anonymous { durability } else { Durability::Durable };
            held.push(self.make_and_hold(volume, durability)?);
        }
        Ok(held)
    }

    fn make_and_hold(&self, volume: &VolumeMount, durability: Durability) -> Result<Held> {
        let store = self.volume_store();
        let name = parse_name(&volume.name)?;
        loop {
            match store.hold(&name) {
                Err(storage::Error::NoSuchVolume(_)) => {}
                held => return Ok(held?),
            }
            // Whoever removes one that was just made is quicker only so often.
            store.create(
                &Volume {
                    name: name.clone(),
                    created: container::record::now(),
                    anonymous: volume.anonymous,
                    labels: volume.labels.clone(),
                    options: volume.options.clone(),
                },
                durability,
            )?;
        }
    }

    /// Before a start: volumes that went away are made again, and at the first one empty volumes get the image's
    /// content. Gives the mounts of paths inside volumes, for the monitor.
    pub(super) fn ready_volumes(&self, config: &Config, first: bool) -> Result<Vec<(usize, PathBuf)>> {
        let mut subpaths = Vec::new();
        for mount in of(config) {
            let name = parse_name(&mount.name)?;
            if self.volume_store().data(&name) == Path::new(&mount.source) {
                let again =
                    VolumeMount { name: mount.name.clone(), anonymous: mount.anonymous, ..VolumeMount::default() };
                let held = self.make_and_hold(&again, Durability::Durable)?;
                let local = !mount.mounted || self.attach_volume(&config.id, &name)?;
                let fills = local && first && mount.subpath.is_empty();
                if let (true, Some(image), false) = (fills, &config.image, mount.no_copy) {
                    self.fill(&name, &mount, image, config.auto_remove && mount.anonymous)?;
                }
                drop(held);
            } else if !Path::new(&mount.source).exists() {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!("the device {} of volume {name} does not exist", mount.source),
                )
                .hint("make it, or remove the volume with lighter volume rm"));
            }
            if !mount.subpath.is_empty() {
                let at = config.spec.mounts.iter().position(|made| made.destination == Path::new(&mount.target));
                // Never all of the volume instead of a part.
                let at = at.ok_or_else(|| {
                    Error::new(ErrorKind::Invalid, format!("the configuration has no mount at {}", mount.target))
                })?;
                subpaths.push((at, PathBuf::from(&mount.subpath)));
            }
        }
        Ok(subpaths)
    }

    /// Has the volume's device mounted for a container, and notes that it uses it; false for one that is not to be
    /// filled with an image's content.
    fn attach_volume(&self, id: &ContainerId, name: &VolumeName) -> Result<bool> {
        let store = self.volume_store();
        let options = store.get(name)?.options;
        // Made anew since the container was: a plain directory.
        let Ok(Some(device)) = Device::parse(&options) else { return Ok(true) };
        let marks = self.paths.run_container(id).join(MARKS);
        let mark = || -> Result<()> {
            make_dirs(&marks)?;
            let mark = marks.join(name.as_str());
            std::fs::File::create(&mark).at("open", mark.display())?;
            Ok(())
        };
        store.attach(name, &device, mark).map_err(|error| {
            let place = store.data(name);
            let sentence = format!("error while mounting volume '{}'", place.display());
            let hint = format!("see that {} is there and that type= and o= fit: {}", device.source(), said(&options));
            Error::new(error.kind(), sentence).because(error).hint(hint)
        })?;
        Ok(device.is_local())
    }

    /// Takes away the devices of the volumes that a container used, where it was the last one. Whoever reaps and whoever
    /// removes may do it at the same time.
    pub(super) fn let_go_of_volumes(&self, id: &ContainerId) -> Result<()> {
        let marks = self.paths.run_container(id).join(MARKS);
        let entries = match std::fs::read_dir(&marks) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            entries => entries.at("opendir", marks.display())?,
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(volume) = name.to_str().and_then(|name| name.parse::<VolumeName>().ok()) else { continue };
            self.volume_store().detach(&volume, || -> Result<bool> {
                let all = self.paths.run_containers();
                for other in std::fs::read_dir(&all).at("opendir", all.display())?.flatten() {
                    let own = other.file_name() == id.as_str();
                    if !own && other.path().join(MARKS).join(&name).exists() {
                        return Ok(false);
                    }
                }
                Ok(true)
            })?;
            match std::fs::remove_file(entry.path()) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                removed => removed.at("unlink", entry.path().display())?,
            }
        }
        Ok(())
    }

    fn fill(&self, name: &VolumeName, mount: &SaidMount, image: &ImageRef, passing: bool) -> Result<()> {
        let layers: Vec<PathBuf> =
            image.chain.iter().rev().map(|layer| self.paths.layers().join(layer.hex()).join("diff")).collect();
        let durability = if passing { Durability::Volatile } else { Durability::Durable };
        self.volume_store().seed(name, &layers, Path::new(&mount.target), durability).map_err(|error| {
            let sentence = format!("volume {name} cannot be filled with what the image has at {}", mount.target);
            let error = Error::from(error);
            Error::new(error.kind(), sentence)
                .because(error)
                .hint("free some space, or leave it empty with nocopy: -v NAME:/path:nocopy")
        })?;
        Ok(())
    }

    /// Removes the volumes that were made for a container without being named, unless another container uses them.
    /// What cannot be removed stays for `volume prune`.
    pub(super) fn forget_volumes(&self, config: &Config) {
        for mount in of(config).filter(|mount| mount.anonymous) {
            if let Ok(name) = parse_name(&mount.name) {
                let _ = self.remove_unused_volume(&name);
            }
        }
    }

    /// Which containers use which volume.
    pub(crate) fn volume_users(&self) -> Result<VolumeUsers> {
        let mut users = VolumeUsers::default();
        for id in container::ContainerDir::list(&self.paths.containers())? {
            let config = match self.container_dir(&id) {
                Err(error) if error.kind() == ErrorKind::NoSuchContainer => continue,
                dir => dir.and_then(|dir| Ok(dir.config()?)),
            };
            let Ok(config) = config else {
                users.unknown.push(id);
                continue;
            };
            for mount in of(&config) {
                users.known.entry(mount.name).or_default().push(id.clone());
            }
        }
        Ok(users)
    }
}

/// Options of a volume for people.
fn said(options: &BTreeMap<String, String>) -> String {
    options.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

/// Who uses which volume.
#[derive(Debug, Default)]
pub(crate) struct VolumeUsers {
    /// Containers by volume.
    pub(crate) known: BTreeMap<String, Vec<container::ContainerId>>,
    /// Containers whose records cannot be read: they may use any volume.
    pub(crate) unknown: Vec<container::ContainerId>,
}

fn check_subpath(subpath: &str) -> Result<()> {
    let path = Path::new(subpath);
    let inside = |component| matches!(component, Component::Normal(_) | Component::CurDir);
    if path.components().all(inside) && !subpath.contains('\0') && subpath.len() < 4096 {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Invalid,
        format!("invalid volume-subpath {subpath:?}: it must be a relative path within the volume"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subpaths_stay_inside() {
        for (subpath, fits) in [
            ("", true),
            ("a/b", true),
            ("./a", true),
            ("/a", false),
            ("../a", false),
            ("a/../../b", false),
            ("a\0", false),
        ] {
            assert_eq!(check_subpath(subpath).is_ok(), fits, "{subpath:?}");
        }
    }
}
