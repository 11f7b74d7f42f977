//! `save`, `push`, `history`: what leaves, and how it was made.

use std::collections::BTreeMap;
use std::io::Write;

use image::archive::Chosen;
use image::registry::{Client, Outbound};
use image::{ImageRecord, ImageStore, Progress};
use oci::{Digest, Platform, Reference};

use super::inbound::platform;
use super::{HistoryStep, PushOptions, Pushed};
use crate::{Engine, Error, ErrorKind, Result};

impl Engine {
    /// Writes an archive of `images` to `out`: an OCI layout that docker's `load` reads too. A name without a tag
    /// stands for all tags of its repository. `platforms` is a list with commas; an image that is here for none of
    /// them is an error.
    ///
    /// # Errors
    /// [`ErrorKind::NoSuchImage`]; [`ErrorKind::Damaged`] for content that is gone; what `out` says.
    pub fn save(
        &self,
        images: &[String],
        platforms: Option<&str>,
        out: &mut dyn Write,
        progress: &dyn Progress,
    ) -> Result<()> {
        let mut only: Vec<Platform> = Vec::new();
        for said in platforms.unwrap_or_default().split(',').filter(|said| !said.is_empty()) {
            only.extend(platform(Some(said))?);
        }
        let _lease = self.lease()?;
        let content = self.content_store()?;
        let _blobs_stay = content.lease()?;
        let store = ImageStore::open(&self.paths.images(), std::sync::Arc::clone(&content))?;
        let mut chosen: Vec<Chosen> = Vec::new();
        for said in images {
            choose(&store, said, &mut chosen)?;
        }
        Ok(image::archive::save(&content, &chosen, &only, out, progress)?)
    }

    /// The references that `push NAME` means: itself, or with `all_tags` every tag of the repository that is here.
    ///
    /// # Errors
    /// No such image; a name that cannot be pushed.
    pub fn push_references(&self, name: &str, all_tags: bool) -> Result<Vec<Reference>> {
        let reference: Reference = name.parse()?;
        if reference.digest().is_some() {
            return Err(Error::new(ErrorKind::Invalid, "cannot push a digest reference")
                .hint("give the image a tag first: lighter tag IMAGE NAME:TAG"));
        }
        if all_tags && says_tag(name, &reference) {
            return Err(Error::new(ErrorKind::Invalid, "tag can't be used with --all-tags/-a"));
        }
        let store = self.image_store()?;
        let found = if all_tags { tags_of(&store, &reference)? } else { store.get(&reference)?.into_iter().collect() };
        let references: Vec<Reference> = found.into_iter().filter_map(|record| record.reference).collect();
        if references.is_empty() {
            let sentence = match all_tags {
                true => format!("An image does not exist locally with the tag: {}", reference.familiar_name()),
                false => format!("An image does not exist locally with the tag: {}", reference.familiar()),
            };
            return Err(Error::new(ErrorKind::NoSuchImage, sentence)
                .hint("lighter images lists what is here; lighter tag gives an image another name"));
        }
        Ok(references)
    }

    /// Sends the image `reference` names to its registry, under that name.
    ///
    /// # Errors
    /// [`ErrorKind::NoSuchImage`], [`ErrorKind::Registry`], [`ErrorKind::Damaged`].
    pub fn push(&self, reference: &Reference, options: &PushOptions, progress: &dyn Progress) -> Result<Pushed> {
        let wanted = platform(options.platform.as_deref())?;
        let _lease = self.lease()?;
        let content = self.content_store()?;
        let _blobs_stay = content.lease()?;
        let store = ImageStore::open(&self.paths.images(), std::sync::Arc::clone(&content))?;
        let record =
            store.get(reference)?.ok_or_else(|| Error::from(image::Error::NoSuchImage(reference.familiar())))?;
        if let Some(wanted) = wanted.as_ref().filter(|wanted| wanted.rank(&record.platform).is_none()) {
            return Err(Error::new(
                ErrorKind::NoSuchImage,
                format!("image {} is here for platform {} only, not {wanted}", reference.familiar(), record.platform),
            ));
        }
        let elsewhere = other_repositories(&store, reference, &record)?;
        let client = Client::to_push(reference, self.registry_options(options.insecure)?)?;
        let outbound = Outbound { content: &content, progress, elsewhere: &elsewhere };
        let tag = reference.tag().unwrap_or(oci::reference::DEFAULT_TAG);
        let pushed = client.push(&outbound, &record, tag, wanted.is_some());
        for warning in client.warnings() {
            progress.warning(&warning);
        }
        let pushed = pushed?;
        Ok(Pushed {
            digest: pushed.target.digest,
            size: pushed.target.size,
            left_out: pushed.single_platform.then(|| record.target.digest.clone()),
        })
    }

    /// The steps in which an image was made, the last one first.
    ///
    /// # Errors
    /// [`ErrorKind::NoSuchImage`].
    pub fn history(&self, name: &str, platform_said: Option<&str>) -> Result<Vec<HistoryStep>> {
        let wanted = platform(platform_said)?;
        let record = self.image_store()?.resolve(name)?;
        if wanted.is_some_and(|wanted| wanted.rank(&record.platform).is_none()) {
            let sentence = format!("image {name} is here for platform {} only", record.platform);
            return Err(Error::new(ErrorKind::NoSuchImage, sentence));
        }
        let layers = self.layers()?;
        // A layer that is damaged or gone is said where it is needed, not in a list.
        let mut sizes = record.chain().map(|chain| layers.usage(chain).map_or(0, |usage| usage.bytes));
        let mut steps = Vec::new();
        for step in &record.history {
            steps.push(HistoryStep {
                id: None,
                created: step.created.clone().unwrap_or_default(),
                created_by: step.created_by.clone(),
                size: if step.empty_layer { 0 } else { sizes.next().unwrap_or(0) },
                comment: step.comment.clone(),
            });
        }
        // Images need not tell how they were made; layers are there all the same.
        steps.extend(sizes.map(|size| HistoryStep {
            id: None,
            created: record.created.clone().unwrap_or_default(),
            created_by: String::new(),
            size,
            comment: String::new(),
        }));
        steps.reverse();
        if let Some(last) = steps.first_mut() {
            last.id = Some(record.id().clone());
        }
        Ok(steps)
    }
}

/// Whether `name`, read as `reference`, says a tag.
fn says_tag(name: &str, reference: &Reference) -> bool {
    reference.tag().is_some_and(|tag| name.ends_with(&format!(":{tag}")))
}

fn tags_of(store: &ImageStore, repository: &Reference) -> Result<Vec<ImageRecord>> {
    let is_tag = |name: &Reference| name.same_repository(repository) && name.tag().is_some() && name.digest().is_none();
    let mut records = store.list()?.records;
    records.retain(|record| record.reference.as_ref().is_some_and(is_tag));
    Ok(records)
}

/// Adds what `said` means; an image that is chosen twice is saved once, under all its names.
fn choose(store: &ImageStore, said: &str, chosen: &mut Vec<Chosen>) -> Result<()> {
    let reference = said.parse::<Reference>().ok();
    let mut found: Vec<(ImageRecord, Option<Reference>)> = Vec::new();
    if let Some(reference) = reference.as_ref().filter(|r| r.digest().is_none() && !says_tag(said, r)) {
        let tags = tags_of(store, reference)?;
        found.extend(tags.into_iter().map(|record| (record.clone(), record.reference)));
    }
    if found.is_empty() {
        let record = store.resolve(said)?;
        let by_name = reference.filter(|name| name.tag().is_some() && store.get(name).is_ok_and(|r| r.is_some()));
        found.push((record, by_name));
    }
    for (record, name) in found {
        let known = chosen.iter_mut().position(|known| known.record.id() == record.id());
        let at = known.unwrap_or_else(|| {
            chosen.push(Chosen { record, names: Vec::new() });
            chosen.len() - 1
        });
        if let Some(name) = name.filter(|name| !chosen[at].names.contains(name)) {
            chosen[at].names.push(name);
        }
    }
    Ok(())
}

/// Repositories of the same registry that images here come from or go to, by the blobs they should have.
fn other_repositories(store: &ImageStore, to: &Reference, record: &ImageRecord) -> Result<BTreeMap<Digest, String>> {
    let wanted: std::collections::BTreeSet<&Digest> = record.blobs().collect();
    let mut found = BTreeMap::new();
    for other in store.list()?.records {
        let Some(name) = other.reference.as_ref() else { continue };
        if name.domain() == to.domain() && !name.same_repository(to) {
            for blob in other.blobs().filter(|blob| wanted.contains(blob)) {
                found.entry(blob.clone()).or_insert_with(|| name.path().to_owned());
            }
        }
    }
    Ok(found)
}
