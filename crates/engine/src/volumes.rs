//! Volumes: the verbs, and what the local driver takes as options.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use container::ContainerId;
use storage::volumes::{Device, InvalidDevice, is_bind};
use storage::{Volume, VolumeName, VolumeStore};
use sys::fs::Durability;

use crate::containers::{VolumeUsers, has_label, random};
use crate::{Engine, Error, ErrorKind, PruneFilter, Result};

/// A volume to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewVolume {
    /// Its name; one is made up when empty.
    pub name: String,
    /// Empty or `local`.
    pub driver: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeDetails {
    /// Name.
    pub name: String,
    /// RFC 3339.
    pub created: String,
    /// Whether it was made without being named.
    pub anonymous: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// Where its content is on the host.
    pub mountpoint: PathBuf,
    /// The containers that use it, running or not.
    pub users: Vec<ContainerId>,
    /// Bytes it holds, where that was asked for.
    pub size: Option<u64>,
    /// Why its record cannot be read; the other fields are then guesses.
    pub damaged: Option<String>,
}

/// Which volumes to list. Values of one key are alternatives; keys (and labels) must all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeFilter {
    /// Only those that no container uses, or that one does.
    pub dangling: Option<bool>,
    /// Parts of names.
    pub name: Vec<String>,
    /// Drivers.
    pub driver: Vec<String>,
    /// `KEY` or `KEY=VALUE`.
    pub label: Vec<String>,
    /// Whether sizes are measured.
    pub size: bool,
}

/// The name of the only driver.
pub const DRIVER: &str = "local";

pub(crate) fn parse_name(name: &str) -> Result<VolumeName> {
    name.parse().map_err(|error: storage::volumes::InvalidVolumeName| {
        Error::new(ErrorKind::Invalid, format!("create {name}: {error}"))
    })
}

pub(crate) fn check_driver(driver: &str) -> Result<()> {
    if driver.is_empty() || driver == DRIVER {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Invalid, format!("error looking up volume plugin {driver}: plugin {driver:?} not found"))
        .hint("the only driver is local"))
}

/// The options of the local driver: `type`, `o` and `device`, as mount(8) has them.
pub(crate) fn check_options(options: &BTreeMap<String, String>) -> Result<()> {
    let invalid = |sentence: String| Error::new(ErrorKind::Invalid, sentence);
    if let Some(unknown) = options.keys().find(|key| !["type", "o", "device", "size"].contains(&key.as_str())) {
        return Err(invalid(format!("invalid option: {unknown:?}")).hint("options: type, o, device"));
    }
    if options.contains_key("size") {
        let sentence = "quota size requested but no quota support";
        return Err(Error::new(ErrorKind::Unsupported, sentence)
            .hint("bounded is what brings its own size: --opt type=tmpfs --opt device=tmpfs --opt o=size=64m"));
    }
    if options.is_empty() {
        return Ok(());
    }
    let value = |key: &str| options.get(key).map(String::as_str).unwrap_or_default();
    for needed in ["device", "type"] {
        if value(needed).is_empty() && !(needed == "type" && is_bind(options)) {
            return Err(invalid(format!("missing required option: {needed:?}")));
        }
    }
    if !is_bind(options) {
        return match Device::parse(options) {
            Ok(_) => Ok(()),
            Err(error @ InvalidDevice::Name(_)) => Err(invalid(error.to_string())
                .hint("the kernel looks up no names: write the server's address, as addr=192.0.2.1")),
            Err(error) => Err(invalid(error.to_string()).hint("o= takes what mount(8) hands to the kernel")),
        };
    }
    if let Some(other) = value("o").split(',').find(|option| !["", "bind", "rbind"].contains(option)) {
        return Err(invalid(format!("invalid mount option {other:?} of a bound directory"))
            .hint("say ro where it is mounted: -v NAME:/path:ro"));
    }
    let device = Path::new(value("device"));
    if !device.is_absolute() || value("device").contains('\0') {
        return Err(invalid(format!("invalid device {:?}: an absolute path is needed", value("device"))));
    }
    Ok(())
}

/// The host's directory that checked options stand for.
pub(crate) fn device_of(options: &BTreeMap<String, String>) -> Option<PathBuf> {
    options.get("device").filter(|_| is_bind(options)).map(PathBuf::from)
}

impl Engine {
    pub(crate) fn volume_store(&self) -> VolumeStore {
        VolumeStore::new(self.paths.volumes())
    }

    /// Makes a volume and gives its name. One of this name that is there already is left as it is.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a name, driver or option that cannot be; [`ErrorKind::Conflict`] when the volume is
    /// there with other options.
    pub fn create_volume(&self, new: &NewVolume) -> Result<String> {
        check_driver(&new.driver)?;
        check_options(&new.options)?;
        let anonymous = new.name.is_empty();
        let name = if anonymous { VolumeName::from_random(&random()?) } else { parse_name(&new.name)? };
        let volume = Volume {
            name: name.clone(),
            created: container::record::now(),
            anonymous,
            labels: new.labels.clone(),
            options: new.options.clone(),
        };
        let lease = self.lease()?;
        let made = self.volume_store().create(&volume, Durability::Durable)?;
        drop(lease);
        if !made && !new.options.is_empty() && self.volume_store().get(&name)?.options != new.options {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("create {name}: conflict: volume exists with other options"),
            )
            .hint("lighter volume inspect shows them"));
        }
        Ok(name.to_string())
    }

    /// Everything about a volume.
    ///
    /// # Errors
    /// [`ErrorKind::NoSuchVolume`]; a damaged record.
    pub fn inspect_volume(&self, name: &str) -> Result<VolumeDetails> {
        let missing = || Error::new(ErrorKind::NoSuchVolume, format!("get {name}: no such volume"));
        let parsed: VolumeName = name.parse().map_err(|_| missing())?;
        let volume = self.volume_store().get(&parsed)?;
        let users = self.volume_users()?.known.remove(name).unwrap_or_default();
        Ok(details(volume, &self.volume_store(), users))
    }

    /// The volumes a filter lets through, by name. One whose record is damaged is listed with what is known of it.
    ///
    /// # Errors
    /// A directory that cannot be read.
    pub fn volumes(&self, filter: &VolumeFilter) -> Result<Vec<VolumeDetails>> {
        let store = self.volume_store();
        let mut users = self.volume_users()?.known;
        let mut found = Vec::new();
        for name in store.names()? {
            let users = users.remove(name.as_str()).unwrap_or_default();
            let mut volume = match store.get(&name) {
                Ok(volume) => details(volume, &store, users),
                // Removed meanwhile.
                Err(storage::Error::NoSuchVolume(_)) => continue,
                Err(error) => VolumeDetails {
                    mountpoint: store.data(&name),
                    name: name.to_string(),
                    created: String::new(),
                    anonymous: false,
                    labels: BTreeMap::new(),
                    options: BTreeMap::new(),
                    users,
                    size: None,
                    damaged: Some(error.to_string()),
                },
            };
            if admits(filter, &volume) {
                if filter.size {
                    volume.size = Some(self.size_of_volume(&store, &volume)?);
                }
                found.push(volume);
            }
        }
        Ok(found)
    }

    /// A bound directory of the host is not the engine's to count.
    fn size_of_volume(&self, store: &VolumeStore, volume: &VolumeDetails) -> Result<u64> {
        if !volume.options.is_empty() {
            return Ok(0);
        }
        match store.usage(&parse_name(&volume.name)?) {
            Ok(usage) => Ok(usage.bytes),
            Err(storage::Error::NoSuchVolume(_)) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a volume with all it holds; a bound directory of the host stays.
    ///
    /// # Errors
    /// [`ErrorKind::NoSuchVolume`]; [`ErrorKind::Conflict`] when a container uses it, running or not.
    pub fn remove_volume(&self, name: &str) -> Result<()> {
        let missing = || Error::new(ErrorKind::NoSuchVolume, format!("get {name}: no such volume"));
        let parsed: VolumeName = name.parse().map_err(|_| missing())?;
        let users = self.remove_unused_volume(&parsed)?;
        if users.is_empty() {
            return Ok(());
        }
        let users: Vec<&str> = users.iter().map(ContainerId::as_str).collect();
        Err(Error::new(ErrorKind::Conflict, format!("remove {name}: volume is in use - [{}]", users.join(", ")))
            .hint("remove the containers that use it first: lighter ps -a --filter volume=NAME lists them"))
    }

    /// Removes a volume, or gives the containers that use it.
    pub(crate) fn remove_unused_volume(&self, name: &VolumeName) -> Result<Vec<ContainerId>> {
        let store = self.volume_store();
        let claimed = store.claim(name)?;
        let VolumeUsers { mut known, unknown } = self.volume_users()?;
        let users = known.remove(name.as_str()).unwrap_or_default();
        if users.is_empty() {
            // A record of another version, or a damaged one, is no reason to throw away what its container works on.
            if let Some(id) = unknown.first() {
                let sentence =
                    format!("remove {name}: the record of container {id} cannot be read: it may use the volume");
                return Err(Error::new(ErrorKind::Conflict, sentence).hint("lighter rm removes the container first"));
            }
            // Left by a container whose end nobody saw.
            store.detach(name, || Ok::<_, Error>(true))?;
            store.remove(name)?;
        }
        drop(claimed);
        Ok(users)
    }

    /// Removes volumes that no container uses: those that nobody named, or with [`PruneFilter::all`] all of them. Gives
    /// their names and how many bytes came free.
    ///
    /// # Errors
    /// A directory that cannot be read; a volume that cannot be removed, after the others were.
    pub fn prune_volumes(&self, filter: &PruneFilter) -> Result<(Vec<String>, u64)> {
        if filter.until.is_some() {
            return Err(Error::new(ErrorKind::Invalid, "The \"until\" filter is not supported with volumes"));
        }
        if let Some(_exclusive) = self.try_exclusive()? {
            self.volume_store().sweep()?;
        }
        let wanted = VolumeFilter { dangling: Some(true), size: true, ..VolumeFilter::default() };
        let (mut names, mut reclaimed, mut failed) = (Vec::new(), 0_u64, None);
        for volume in self.volumes(&wanted)? {
            let fits = (filter.all || volume.anonymous)
                && volume.damaged.is_none()
                && filter.label.iter().all(|label| has_label(&volume.labels, label))
                && !filter.label_not.iter().any(|label| has_label(&volume.labels, label));
            if !fits {
                continue;
            }
            match self.remove_unused_volume(&parse_name(&volume.name)?) {
                Ok(users) if users.is_empty() => {
                    reclaimed = reclaimed.saturating_add(volume.size.unwrap_or(0));
                    names.push(volume.name);
                }
                // Taken into use, or removed, meanwhile.
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NoSuchVolume => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok((names, reclaimed)), Err)
    }
}

fn details(volume: Volume, store: &VolumeStore, users: Vec<ContainerId>) -> VolumeDetails {
    // A container may use one volume at several places.
    let users: BTreeSet<ContainerId> = users.into_iter().collect();
    VolumeDetails {
        mountpoint: store.data(&volume.name),
        name: volume.name.to_string(),
        created: volume.created,
        anonymous: volume.anonymous,
        labels: volume.labels,
        options: volume.options,
        users: users.into_iter().collect(),
        size: None,
        damaged: None,
    }
}

fn admits(filter: &VolumeFilter, volume: &VolumeDetails) -> bool {
    let any = |values: &[String], holds: &dyn Fn(&str) -> bool| values.is_empty() || values.iter().any(|v| holds(v));
    filter.dangling.is_none_or(|dangling| dangling == volume.users.is_empty())
        && any(&filter.name, &|part| volume.name.contains(part))
        && any(&filter.driver, &|driver| driver == DRIVER)
        && filter.label.iter().all(|label| has_label(&volume.labels, label))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(said: &[(&str, &str)]) -> BTreeMap<String, String> {
        said.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn options_of_the_local_driver() {
        assert!(check_options(&options(&[])).is_ok());
        let bind = options(&[("type", "none"), ("o", "bind"), ("device", "/srv/data")]);
        assert!(check_options(&bind).is_ok());
        assert_eq!(device_of(&bind), Some("/srv/data".into()));
        let memory = options(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m")]);
        assert!(check_options(&memory).is_ok());
        assert_eq!(device_of(&memory), None);
        for (bad, part) in [
            (vec![("bogus", "1")], "invalid option"),
            (vec![("size", "1")], "quota"),
            (vec![("type", "none"), ("o", "bind")], "\"device\""),
            (vec![("device", "/x")], "\"type\""),
            (vec![("type", "none"), ("o", "bind"), ("device", "x")], "absolute"),
            (vec![("type", "none"), ("o", "bind,exec"), ("device", "/x")], "exec"),
            (vec![("type", "tmpfs")], "\"device\""),
            (vec![("type", "ext4"), ("device", "/dev/x"), ("o", "loop")], "loop"),
            (vec![("type", "nfs"), ("o", "addr=server"), ("device", ":/x")], "server"),
        ] {
            let error = check_options(&options(&bad)).expect_err("refused").to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn filters_hold_together() {
        let volume = VolumeDetails {
            name: "data-1".into(),
            created: String::new(),
            anonymous: false,
            labels: options(&[("a", "b")]),
            options: BTreeMap::new(),
            mountpoint: PathBuf::new(),
            users: Vec::new(),
            size: None,
            damaged: None,
        };
        let of = |change: fn(&mut VolumeFilter)| {
            let mut filter = VolumeFilter::default();
            change(&mut filter);
            admits(&filter, &volume)
        };
        assert!(of(|_| {}) && of(|f| f.dangling = Some(true)) && !of(|f| f.dangling = Some(false)));
        assert!(of(|f| f.name = vec!["x".into(), "ata".into()]) && !of(|f| f.name = vec!["x".into()]));
        assert!(of(|f| f.driver = vec!["local".into()]) && !of(|f| f.driver = vec!["nfs".into()]));
        assert!(of(|f| f.label = vec!["a=b".into()]) && !of(|f| f.label = vec!["a=c".into()]));
    }
}
