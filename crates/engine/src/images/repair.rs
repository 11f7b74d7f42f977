//! `store repair`: bringing back what a check found missing or damaged, and removing what cannot be brought back.
//!
//! Blobs come from the image's registry by digest, layers from the blobs. What a running container stands on stays as it
//! is, and an image that containers are made from is never removed: both are told instead. A repair that is killed is
//! taken up by the next: whatever it removed, it removed because it was useless.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use image::{ImageRecord, ImageStore, Inbound, Progress};
use oci::{Digest, Reference};

use super::check::{Problem, ProblemKind, StoreReport, called};
use super::sink::Sink;
use super::{PullOptions, Removed};
use crate::{Engine, Error, ErrorKind, Result, hello};

/// How long a repair waits for whoever is making something.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Something that a repair did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// The object.
    pub kind: ProblemKind,
    /// What was done, as the end of a sentence that begins with the object.
    pub what: String,
}

/// What a repair did, and how the store is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// In order.
    pub done: Vec<Repaired>,
    /// A check after it.
    pub after: StoreReport,
}

impl RepairReport {
    fn note(&mut self, kind: ProblemKind, what: impl Into<String>) {
        self.done.push(Repaired { kind, what: what.into() });
    }
}

impl Engine {
    /// Repairs what [`Engine::check_store`] finds, with its `deep`, and checks again.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when something is being made for longer than ten seconds; a directory that cannot be read
    /// or changed. What was repaired until then stays repaired.
    pub fn repair_store(&self, deep: bool, progress: &dyn Progress) -> Result<RepairReport> {
        let mut report = RepairReport::default();
        let found = self.check_store(deep)?;
        let content = self.content_store()?;
        let store = ImageStore::open(&self.paths.images(), Arc::clone(&content))?;
        self.repair_records(&store, &found.problems, progress, &mut report)?;
        let blobs: BTreeSet<&Digest> = found.problems.iter().filter_map(damaged_blob).collect();
        if !blobs.is_empty() {
            self.alone(|| {
                let held = content.try_exclusive()?.ok_or_else(busy)?;
                for blob in &blobs {
                    if content.contains(blob)? {
                        content.remove(blob, &held)?;
                        report.note(ProblemKind::Blob((*blob).clone()), "removed: it was damaged");
                    }
                }
                Ok(())
            })?;
        }
        let mut images: BTreeMap<Digest, Vec<ImageRecord>> = BTreeMap::new();
        for record in store.list()?.records {
            images.entry(record.id().clone()).or_default().push(record);
        }
        let mut lost = BTreeSet::new();
        for (id, records) in &images {
            let Some(record) = records.first() else { continue };
            if !record.blobs().any(|blob| blobs.contains(blob)) {
                continue;
            }
            match self.fetch_again(&store, records, progress) {
                Ok(name) => report.note(ProblemKind::Image(id.clone()), format!("is whole again: fetched from {name}")),
                Err(error) => {
                    lost.insert(id.clone());
                    self.give_up(&store, records, &error, &mut report)?;
                }
            }
        }
        self.repair_layers(&store, &images, &lost, &found.problems, progress, &mut report)?;
        if found.problems.iter().any(|problem| problem.kind == ProblemKind::Index) {
            store.rewrite_index()?;
            report.note(ProblemKind::Index, "written anew");
        }
        self.collect()?;
        report.after = self.check_store(deep)?;
        Ok(report)
    }

    /// Does `work` while nobody makes anything.
    fn alone<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(_exclusive) = self.try_exclusive()? {
                return work();
            }
            if Instant::now() >= until {
                return Err(busy());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Records that cannot be read or do not fit their parts go, and their images are fetched by name.
    fn repair_records(
        &self,
        store: &ImageStore,
        problems: &[Problem],
        progress: &dyn Progress,
        report: &mut RepairReport,
    ) -> Result<()> {
        let mut names: BTreeSet<String> = BTreeSet::new();
        for problem in problems {
            match &problem.kind {
                ProblemKind::Record(file) => {
                    store.discard(file)?;
                    report.note(problem.kind.clone(), "removed: it could not be read");
                }
                ProblemKind::Image(id) => {
                    let force = true;
                    for name in &problem.images {
                        match store.remove(name, force, &|_| image::store::Use::Unused) {
                            Ok(_) | Err(image::Error::NoSuchImage(_)) => {}
                            Err(error) => return Err(error.into()),
                        }
                    }
                    report.note(ProblemKind::Image(id.clone()), "its record is removed: it did not fit its parts");
                }
                _ => continue,
            }
            names.extend(problem.images.iter().filter(|name| !name.starts_with("sha256:")).cloned());
        }
        for name in names {
            let reference: Reference = name.parse()?;
            let fetched = match hello::is_hello(&reference) {
                true => self.provide_hello(progress).map(drop),
                false => self.pull(&name, &PullOptions::default(), progress).map(drop),
            };
            let kind = ProblemKind::Record(name.clone());
            match fetched {
                Ok(()) => report.note(kind, "fetched again"),
                Err(error) => {
                    report.note(kind, format!("not fetched again: {}; load or pull it", sentence(&error)));
                }
            }
        }
        Ok(())
    }

    /// Brings an image's missing blobs back from wherever one of its names points; gives that name.
    fn fetch_again(&self, store: &ImageStore, records: &[ImageRecord], progress: &dyn Progress) -> Result<String> {
        let mut failed = None;
        for record in records {
            let Some(reference) = &record.reference else { continue };
            let result = match hello::is_hello(reference) {
                true => self.provide_hello(progress).map(drop),
                false => self
                    .registry_options(false)
                    .and_then(|options| self.restore(store, record, Some((reference, options)), progress)),
            };
            match result {
                Ok(()) => return Ok(called(record)),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        Err(failed.unwrap_or_else(|| Error::new(ErrorKind::NoSuchImage, "it has no name to fetch it by")))
    }

    fn restore(
        &self,
        store: &ImageStore,
        record: &ImageRecord,
        from: Option<(&Reference, image::registry::Options)>,
        progress: &dyn Progress,
    ) -> Result<()> {
        let _lease = self.lease()?;
        let content = self.content_store()?;
        let sink = Sink::new(self.layers()?);
        let inbound = Inbound::new(&content, store, &sink, progress).platform(Some(record.platform.clone()));
        Ok(inbound.restore(record, from)?)
    }

    /// Removes an image that cannot be made whole, unless containers are made from it.
    fn give_up(
        &self,
        store: &ImageStore,
        records: &[ImageRecord],
        error: &Error,
        report: &mut RepairReport,
    ) -> Result<()> {
        let Some(record) = records.first() else { return Ok(()) };
        let (id, why) = (record.id(), sentence(error));
        if let Some(users) = self.users()?.get(id) {
            let what = format!(
                "stays broken, because container {} is made from it, and cannot be fetched: {why}; load it again",
                users.any
            );
            report.note(ProblemKind::Image(id.clone()), what);
            return Ok(());
        }
        let removed = store.remove(&id.to_string(), true, &|_| image::store::Use::Unused)?;
        for removed in removed.into_iter().map(Removed::from) {
            if let Removed::Untagged(name) = removed {
                let what = format!("{name} removed: it is broken and cannot be fetched: {why}; load it again");
                report.note(ProblemKind::Image(id.clone()), what);
            }
        }
        Ok(())
    }

    /// Takes damaged layers out and unpacks them again from their blobs.
    fn repair_layers(
        &self,
        store: &ImageStore,
        images: &BTreeMap<Digest, Vec<ImageRecord>>,
        lost: &BTreeSet<Digest>,
        problems: &[Problem],
        progress: &dyn Progress,
        report: &mut RepairReport,
    ) -> Result<()> {
        let damaged: BTreeSet<&Digest> = problems
            .iter()
            .filter_map(|problem| match &problem.kind {
                ProblemKind::Layer(chain) => Some(chain),
                _ => None,
            })
            .collect();
        if damaged.is_empty() {
            return Ok(());
        }
        let whole = |chain: &Digest| {
            let records = images.iter().filter(|(id, _)| !lost.contains(*id)).flat_map(|(_, records)| records);
            records.into_iter().find(|record| record.chain().any(|own| own == chain)).cloned()
        };
        let mut again: BTreeMap<Digest, ImageRecord> = BTreeMap::new();
        self.alone(|| {
            // Nobody can start a container on them now; one that cannot say may run on any of them.
            if self.chains_of_containers()?.is_none() {
                for chain in damaged {
                    let what = "stays as it is: a container's record cannot be read; lighter rm removes it first";
                    report.note(ProblemKind::Layer(chain.clone()), what);
                }
                return Ok(());
            }
            let (layers, standing) = (self.layers()?, self.standing()?);
            let unknown = problems.iter().any(|problem| matches!(problem.kind, ProblemKind::OtherRecord(_)));
            for chain in damaged {
                let kind = ProblemKind::Layer(chain.clone());
                let stands = standing.get(chain).cloned().unwrap_or_default();
                if let Some(running) = stands.running {
                    report.note(kind, format!("stays as it is: container {running} runs on it; stop it first"));
                    continue;
                }
                match (whole(chain), stands.containers.first()) {
                    (None, Some(container)) => {
                        let what = format!(
                            "stays as it is: container {container} stands on it, and no image is here to unpack it from"
                        );
                        report.note(kind, what);
                        continue;
                    }
                    (None, None) if unknown => {
                        let what = "stays as it is: an image of another version of lighter may stand on it";
                        report.note(kind, what);
                        continue;
                    }
                    (None, None) => {}
                    (Some(record), container) => {
                        if let Some(container) = container {
                            report.note(kind.clone(), format!("stopped container {container} gets it anew"));
                        }
                        again.insert(record.id().clone(), record);
                    }
                }
                if layers.remove(chain)? {
                    report.note(kind, "removed: it was damaged");
                }
            }
            Ok(())
        })?;
        for (id, record) in again {
            match self.restore(store, &record, None, progress) {
                Ok(()) => report.note(ProblemKind::Image(id), "its layers are unpacked again"),
                Err(error) => {
                    let records = images.get(&id).map_or(&[][..], Vec::as_slice);
                    self.give_up(store, records, &error, report)?;
                }
            }
        }
        Ok(())
    }
}

fn damaged_blob(problem: &Problem) -> Option<&Digest> {
    match &problem.kind {
        ProblemKind::Blob(digest) => Some(digest),
        _ => None,
    }
}

fn busy() -> Error {
    Error::new(ErrorKind::Conflict, "something is being made in this store")
        .hint("wait until pulls, loads and creations have ended, and repair again")
}

/// An error with its causes in one line.
fn sentence(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(below) = cause {
        text.push_str(&format!(": {below}"));
        cause = below.source();
    }
    text
}
