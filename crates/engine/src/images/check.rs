//! `store check`: whether everything in the store is what it was when it came in.
//!
//! A check changes nothing. It holds the leases of whoever makes something, so that nothing is collected under it; what
//! other processes bring in meanwhile is complete as soon as it has a name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use container::ContainerDir;
use image::{ImageRecord, ImageStore};
use oci::{Digest, Reference};

use crate::{Engine, Result, VolumeFilter};

/// What a problem is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProblemKind {
    /// The record of an image, by its file name.
    Record(String),
    /// The record of an image, by its file name, that another version of this program wrote. Nothing is known about it.
    OtherRecord(String),
    /// A layer, by its chain id, that another version of this program unpacked.
    OtherLayer(Digest),
    /// An image whose record can be read and does not fit its parts.
    Image(Digest),
    /// A blob.
    Blob(Digest),
    /// An unpacked layer, by its chain id.
    Layer(Digest),
    /// The list of images that other tools read.
    Index,
    /// A volume's record.
    Volume(String),
    /// A container's record.
    Container(String),
}

impl ProblemKind {
    /// One word for the kind of object.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Record(_) | Self::OtherRecord(_) => "record",
            Self::Image(_) => "image",
            Self::Blob(_) => "blob",
            Self::Layer(_) | Self::OtherLayer(_) => "layer",
            Self::Index => "index",
            Self::Volume(_) => "volume",
            Self::Container(_) => "container",
        }
    }
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record(name) | Self::OtherRecord(name) | Self::Volume(name) | Self::Container(name) => {
                f.write_str(name)
            }
            Self::Image(digest) | Self::Blob(digest) | Self::Layer(digest) | Self::OtherLayer(digest) => digest.fmt(f),
            Self::Index => f.write_str("content/index.json"),
        }
    }
}

/// Something that is not as it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The object.
    pub kind: ProblemKind,
    /// What is wrong, as the end of a sentence that begins with the object.
    pub what: String,
    /// Names or ids of the images that need it.
    pub images: Vec<String>,
    /// Short ids of the containers that need it.
    pub containers: Vec<String>,
    /// What to do.
    pub remedy: String,
}

/// What a check saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreReport {
    /// Records of images that were read.
    pub images: usize,
    /// Blobs that were read through.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Layers that were counted again.
    pub layers: usize,
    /// Layers that were compared with what their blobs unpack to.
    pub compared: usize,
    /// Volumes whose records were read.
    pub volumes: usize,
    /// What is wrong; nothing is when the store is sound.
    pub problems: Vec<Problem>,
    /// What takes up space and does no harm, in sentences.
    pub leftovers: Vec<String>,
}

/// What to do about what another version wrote.
const OTHER: &str = "use that version; this one leaves it alone";

fn other_version(version: u32) -> String {
    format!("was written by another version of lighter: its format, {version}, is not known to this one")
}

/// Who stands on a layer.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing {
    /// Short ids.
    pub(super) containers: Vec<String>,
    /// Short id of one that runs.
    pub(super) running: Option<String>,
}

/// What an image is called, or its id when it lost its last name.
pub(super) fn called(record: &ImageRecord) -> String {
    record.reference.as_ref().map_or_else(|| record.id().to_string(), Reference::familiar)
}

impl Engine {
    /// Which containers stand on which layers, as far as their records can be read.
    pub(super) fn standing(&self) -> Result<BTreeMap<Digest, Standing>> {
        let mut standing: BTreeMap<Digest, Standing> = BTreeMap::new();
        for id in ContainerDir::list(&self.paths.containers())? {
            let Ok(dir) = self.container_dir(&id) else { continue };
            let Some(image) = dir.config().ok().and_then(|config| config.image) else { continue };
            // One whose status cannot be read may.
            let runs = dir.observe().map_or(true, |observed| container::dir::is_active(observed.state()));
            for layer in image.chain {
                let entry = standing.entry(layer).or_default();
                entry.containers.push(id.short().to_owned());
                if runs {
                    entry.running = Some(id.short().to_owned());
                }
            }
        }
        Ok(standing)
    }

    /// Reads through everything in the store and compares it with what was recorded. With `deep`, also unpacks every
    /// layer again and compares it file by file, which takes as long as loading all images, and as much room as the
    /// largest layers.
    ///
    /// # Errors
    /// A directory that cannot be read; with `deep`, a layer that cannot be unpacked. What is wrong with an object is no error but a [`Problem`].
    pub fn check_store(&self, deep: bool) -> Result<StoreReport> {
        let _lease = self.lease()?;
        let store = self.image_store()?;
        let content = self.content_store()?;
        let _blobs_stay = content.lease()?;
        let mut report = StoreReport::default();
        let listing = store.list()?;
        for error in listing.damaged {
            let removes = "lighter store repair removes it and fetches the image again";
            let (name, what, remedy) = match &error {
                image::Error::DamagedRecord { name, reason } => {
                    (name.clone(), format!("cannot be read: {reason}"), removes)
                }
                image::Error::OtherVersion { name, version, .. } => (name.clone(), other_version(*version), OTHER),
                other => (String::new(), other.to_string(), removes),
            };
            let images = image::check::reference_of_file(&name).map(|name| name.familiar()).into_iter().collect();
            let kind = match error {
                image::Error::OtherVersion { .. } => ProblemKind::OtherRecord(name),
                _ => ProblemKind::Record(name),
            };
            report.problems.push(Problem { kind, what, images, containers: Vec::new(), remedy: remedy.to_owned() });
        }
        report.images = listing.records.len();
        self.check_blobs(&listing.records, &mut report)?;
        self.check_images(&store, &listing.records, &mut report)?;
        self.check_layers(&listing.records, deep, &mut report)?;
        self.check_containers_and_volumes(&mut report)?;
        match store.is_index_in_step() {
            Ok(true) => {}
            Ok(false) => report.leftovers.push(
                "content/index.json is older than the images; the next change of an image brings it into step"
                    .to_owned(),
            ),
            Err(error) => report.problems.push(Problem {
                kind: ProblemKind::Index,
                what: format!("cannot be read: {error}"),
                images: Vec::new(),
                containers: Vec::new(),
                remedy: "lighter store repair writes it anew".to_owned(),
            }),
        }
        self.leftovers(&mut report)?;
        Ok(report)
    }

    fn check_blobs(&self, records: &[ImageRecord], report: &mut StoreReport) -> Result<()> {
        let content = self.content_store()?;
        let users = self.users()?;
        let mut needed: BTreeMap<&Digest, Vec<&ImageRecord>> = BTreeMap::new();
        for record in records {
            for blob in record.blobs() {
                needed.entry(blob).or_default().push(record);
            }
        }
        let stored: BTreeSet<Digest> = content.list()?.into_iter().map(|(digest, _)| digest).collect();
        let mut unneeded = (0_usize, 0_u64);
        for blob in stored.iter().chain(needed.keys().copied().filter(|blob| !stored.contains(*blob))) {
            let what = match content.check(blob) {
                Ok(Ok(size)) => {
                    report.blobs += 1;
                    report.bytes = report.bytes.saturating_add(size);
                    if !needed.contains_key(blob) {
                        unneeded = (unneeded.0 + 1, unneeded.1.saturating_add(size));
                    }
                    continue;
                }
                Ok(Err(what)) => what,
                Err(_) => "is missing".to_owned(),
            };
            let owners = needed.get(blob).map_or(&[][..], Vec::as_slice);
            let containers = owners.iter().filter_map(|record| users.get(record.id())).map(|user| user.any.clone());
            report.problems.push(Problem {
                kind: ProblemKind::Blob(blob.clone()),
                what,
                images: owners.iter().map(|record| called(record)).collect(),
                containers: containers.collect::<BTreeSet<_>>().into_iter().collect(),
                remedy: match owners.is_empty() {
                    true => "lighter store repair removes it: no image needs it",
                    false => "lighter store repair fetches it again, or removes the image",
                }
                .to_owned(),
            });
        }
        if unneeded.0 > 0 {
            let (blobs, bytes) = unneeded;
            report.leftovers.push(format!("{blobs} blobs with {bytes} bytes that no image needs"));
        }
        Ok(())
    }

    fn check_images(&self, store: &ImageStore, records: &[ImageRecord], report: &mut StoreReport) -> Result<()> {
        let users = self.users()?;
        for record in records {
            let Some(what) = store.check(record) else { continue };
            report.problems.push(Problem {
                kind: ProblemKind::Image(record.id().clone()),
                what,
                images: vec![called(record)],
                containers: users.get(record.id()).map(|user| user.any.clone()).into_iter().collect(),
                remedy: "lighter store repair removes its record and fetches the image again".to_owned(),
            });
        }
        Ok(())
    }

    fn check_layers(&self, records: &[ImageRecord], deep: bool, report: &mut StoreReport) -> Result<()> {
        let layers = self.layers()?;
        let mut verdicts = if deep { self.compare_layers(records, report)? } else { BTreeMap::new() };
        report.compared = verdicts.len();
        let standing = self.standing()?;
        let mut needed: BTreeMap<&Digest, BTreeSet<String>> = BTreeMap::new();
        for record in records {
            for chain in record.chain() {
                needed.entry(chain).or_default().insert(called(record));
            }
        }
        let mut all: BTreeSet<Digest> = layers.list()?.into_iter().collect();
        let unneeded = all.iter().filter(|chain| !needed.contains_key(chain) && !standing.contains_key(chain)).count();
        if unneeded > 0 {
            report.leftovers.push(format!("{unneeded} layers that no image and no container needs"));
        }
        all.extend(needed.keys().map(|chain| (*chain).clone()));
        all.extend(standing.keys().cloned());
        for chain in all {
            let checked = layers.check(&chain).map(|what| what.or_else(|| verdicts.remove(&chain).flatten()));
            let images: Vec<String> = needed.get(&chain).into_iter().flatten().cloned().collect();
            let stands = standing.get(&chain).cloned().unwrap_or_default();
            let what = match checked {
                Ok(None) => {
                    report.layers += 1;
                    continue;
                }
                Ok(Some(what)) => what,
                Err(storage::Error::OtherVersion { version, .. }) => {
                    let (kind, what) = (ProblemKind::OtherLayer(chain), other_version(version));
                    let containers = stands.containers;
                    report.problems.push(Problem { kind, what, images, containers, remedy: OTHER.to_owned() });
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let remedy = match (&stands.running, images.is_empty(), stands.containers.first()) {
                (Some(running), _, _) => {
                    format!("stop container {running}, which runs on it; then lighter store repair")
                }
                (None, false, _) => "lighter store repair unpacks it again".to_owned(),
                (None, true, Some(container)) => {
                    format!("load or pull the image again, or lighter rm {container}; then lighter store repair")
                }
                (None, true, None) => "lighter store repair removes it: nothing needs it".to_owned(),
            };
            let kind = ProblemKind::Layer(chain);
            report.problems.push(Problem { kind, what, images, containers: stands.containers, remedy });
        }
        Ok(())
    }

    fn check_containers_and_volumes(&self, report: &mut StoreReport) -> Result<()> {
        for id in ContainerDir::list(&self.paths.containers())? {
            let Ok(dir) = self.container_dir(&id) else { continue };
            if let Err(error @ container::Error::Damaged { .. }) = dir.config() {
                report.problems.push(Problem {
                    kind: ProblemKind::Container(id.to_string()),
                    what: error.to_string(),
                    images: Vec::new(),
                    containers: vec![id.short().to_owned()],
                    remedy: format!("lighter rm -f {}; until then nothing is collected", id.short()),
                });
            }
        }
        for volume in self.volumes(&VolumeFilter::default())? {
            report.volumes += 1;
            let Some(what) = volume.damaged else { continue };
            report.problems.push(Problem {
                kind: ProblemKind::Volume(volume.name.clone()),
                what,
                images: Vec::new(),
                containers: volume.users.iter().map(|id| id.short().to_owned()).collect(),
                remedy: format!(
                    "copy {} to safety, then lighter volume rm {}",
                    volume.mountpoint.display(),
                    volume.name
                ),
            });
        }
        Ok(())
    }

    fn leftovers(&self, report: &mut StoreReport) -> Result<()> {
        let layers = self.layers()?.leftovers()?;
        let content = self.content_store()?.leftovers()?;
        let mut say = |count: usize, what: &str| {
            if count > 0 {
                report.leftovers.push(format!("{count} {what}"));
            }
        };
        say(layers.staging, "half-unpacked layers of killed processes");
        say(layers.trash, "removed trees that are still on the disk");
        say(content.ingest, "half-written files of killed processes");
        say(content.unknown.len(), "files in content/partial that are none of lighter's");
        let (partial, bytes) = content.partial;
        say(partial, &format!("beginnings of blobs with {bytes} bytes, which the next pull goes on with"));
        Ok(())
    }
}
