//! `pull`, `load`, `import`, and the image a container is made from.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use image::{ImageRecord, ImageStore, Inbound, Progress};
use oci::{Platform, Reference};

use super::sink::Sink;
use super::{ImageSummary, ImportOptions, Loaded, PullOptions};
use crate::spec::{ContainerSpec, PullPolicy};
use crate::{Engine, Error, ErrorKind, Result, hello};

impl Engine {
    /// Fetches an image from its registry, whatever is here already.
    ///
    /// # Errors
    /// [`ErrorKind::Registry`], [`ErrorKind::BadImage`], [`ErrorKind::NoSuchImage`] for a platform that is not offered.
    pub fn pull(&self, reference: &str, options: &PullOptions, progress: &dyn Progress) -> Result<ImageSummary> {
        let parsed: Reference = reference.parse()?;
        let (record, changed) = self.taking_in(|| {
            if hello::is_hello(&parsed) {
                return Ok((self.provide_hello(progress)?, false));
            }
            self.fetch(&parsed, options, progress)
        })?;
        Ok(ImageSummary { changed, ..self.summary_of(&record, &BTreeMap::new())? })
    }

    fn fetch(
        &self,
        reference: &Reference,
        options: &PullOptions,
        progress: &dyn Progress,
    ) -> Result<(ImageRecord, bool)> {
        let platform = platform(options.platform.as_deref())?;
        let client = self.registry_options(options.insecure)?;
        self.bring_in(progress, |inbound, store| {
            let before = store.get(reference)?.map(|record| record.id().clone());
            let record = inbound.platform(platform).pull(reference, client)?;
            let changed = before.as_ref() != Some(record.id());
            Ok((record, changed))
        })
    }

    /// Takes in the images of an archive (docker's or an OCI layout's, compressed or not), read once from its
    /// beginning.
    ///
    /// # Errors
    /// [`ErrorKind::BadImage`]; [`ErrorKind::NoSpace`]; nothing half-made is visible then.
    pub fn load(
        &self,
        mut reader: impl Read,
        platform_said: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<Vec<Loaded>> {
        let platform = platform(platform_said)?;
        let records = self
            .taking_in(|| self.bring_in(progress, |inbound, _| Ok(inbound.platform(platform).load(&mut reader)?)))?;
        Ok(loaded(&records))
    }

    /// The same from an OCI layout that is a directory.
    ///
    /// # Errors
    /// As [`Engine::load`].
    pub fn load_layout(&self, dir: &Path, platform_said: Option<&str>, progress: &dyn Progress) -> Result<Vec<Loaded>> {
        let platform = platform(platform_said)?;
        let records = self
            .taking_in(|| self.bring_in(progress, |inbound, _| Ok(inbound.platform(platform).load_layout(dir)?)))?;
        Ok(loaded(&records))
    }

    /// Makes an image of a root file system's tar, compressed or not.
    ///
    /// # Errors
    /// A change that is no instruction; [`ErrorKind::BadImage`]; [`ErrorKind::NoSpace`].
    pub fn import(
        &self,
        mut reader: impl Read,
        options: &ImportOptions,
        progress: &dyn Progress,
    ) -> Result<ImageSummary> {
        let below = image::archive::ImportOptions {
            reference: options.reference.as_deref().map(str::parse).transpose()?,
            changes: options.changes.clone(),
            message: options.message.clone(),
            platform: platform(options.platform.as_deref())?,
        };
        let record =
            self.taking_in(|| self.bring_in(progress, |inbound, _| Ok(inbound.import(&mut reader, &below)?)))?;
        Ok(ImageSummary { changed: true, ..self.summary_of(&record, &BTreeMap::new())? })
    }

    /// Does `work` under a lease, and throws away what it brought when that is of no use: a broken image's parts, and
    /// whatever fills a full disk. What a broken connection left is taken up by the next pull.
    pub(crate) fn taking_in<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let lease = self.lease()?;
        let result = work();
        drop(lease);
        if let Err(error) = &result
            && matches!(error.kind(), ErrorKind::BadImage | ErrorKind::NoSpace)
        {
            // The failure above is the one to report; what stays goes with the next collection.
            let _ = self.forget_partials();
            let _ = self.collect();
        }
        result
    }

    /// Opens what a way in needs, and runs it.
    pub(crate) fn bring_in<T>(
        &self,
        progress: &dyn Progress,
        way: impl FnOnce(Inbound<'_>, &ImageStore) -> Result<T>,
    ) -> Result<T> {
        let content = self.content_store()?;
        let store = ImageStore::open(&self.paths.images(), Arc::clone(&content))?;
        let sink = Sink::new(self.layers()?);
        way(Inbound::new(&content, &store, &sink, progress), &store)
    }

    /// The image a specification names, fetched first as its policy says.
    pub(crate) fn provide(&self, name: &str, spec: &ContainerSpec, progress: &dyn Progress) -> Result<ImageRecord> {
        let wanted = platform(spec.platform.as_deref())?;
        let parsed = name.parse::<Reference>().ok();
        if parsed.as_ref().is_some_and(hello::is_hello) {
            return self.provide_hello(progress);
        }
        if spec.pull != PullPolicy::Always {
            match self.image_store()?.resolve(name) {
                Ok(record) if wanted.as_ref().is_none_or(|wanted| wanted.rank(&record.platform).is_some()) => {
                    return Ok(record);
                }
                Ok(record) if spec.pull == PullPolicy::Never => {
                    return Err(Error::new(
                        ErrorKind::NoSuchImage,
                        format!("image {name} is here for platform {} only", record.platform),
                    ));
                }
                Err(image::Error::NoSuchImage(_)) if spec.pull == PullPolicy::Never => {
                    return Err(Error::new(ErrorKind::NoSuchImage, format!("No such image: {name}"))
                        .hint("--pull never was given; lighter pull fetches it, lighter load takes an archive"));
                }
                Ok(_) | Err(image::Error::NoSuchImage(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let long = self.long_name(name)?;
        if long != name
            && spec.pull != PullPolicy::Always
            && let Ok(record) = self.image_store()?.resolve(&long)
            && wanted.as_ref().is_none_or(|wanted| wanted.rank(&record.platform).is_some())
        {
            return Ok(record);
        }
        let reference = long.parse()?;
        let options = PullOptions { platform: spec.platform.clone(), insecure: false };
        match self.fetch(&reference, &options, progress) {
            Ok((record, _)) => Ok(record),
            Err(error) if error.kind() == ErrorKind::Registry => {
                Err(Error::new(ErrorKind::Registry, format!("image {name} is not here and cannot be pulled"))
                    .because(error)
                    .hint("check the name; lighter images lists what is here, lighter load takes an archive"))
            }
            Err(error) => Err(error),
        }
    }
}

fn loaded(records: &[ImageRecord]) -> Vec<Loaded> {
    let loaded = |record: &ImageRecord| Loaded {
        reference: record.reference.as_ref().map(Reference::familiar),
        id: record.id().clone(),
    };
    records.iter().map(loaded).collect()
}

pub(super) fn platform(said: Option<&str>) -> Result<Option<Platform>> {
    match said {
        None | Some("") => Ok(None),
        Some(said) => {
            match said.parse::<Platform>() {
                Ok(platform) => Ok(Some(platform)),
                Err(error) => Err(Error::new(ErrorKind::Invalid, error.to_string())
                    .hint("the form is OS/ARCH[/VARIANT]: linux/arm64")),
            }
        }
    }
}
