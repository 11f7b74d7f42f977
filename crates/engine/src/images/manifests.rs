//! `manifest`: lists of images for several platforms, put together here and pushed as one name.

use std::collections::BTreeMap;

use image::lists::{self, ListEntry, ListStore};
use image::registry::{Client, Named, Outbound};
use image::{Quiet, Result as ImageResult};
use oci::image::{Descriptor, Document};
use oci::{Digest, Platform, Reference};

use crate::{Engine, Error, ErrorKind, Result};

/// One image's manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestDetails {
    /// What names it.
    pub reference: String,
    /// Its type, digest, size and platform.
    pub descriptor: Descriptor,
    /// The document.
    pub bytes: Vec<u8>,
}

/// What `manifest inspect` found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManifestFound {
    /// One image.
    Manifest(Box<ManifestDetails>),
    /// A list: its document, and, where they were asked for, its manifests.
    List {
        /// As it is pushed.
        document: Vec<u8>,
        /// Everything about its manifests.
        manifests: Vec<ManifestDetails>,
    },
}

/// What `manifest annotate` says of one manifest; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManifestAnnotation {
    /// Architecture.
    pub architecture: Option<String>,
    /// Operating system.
    pub os: Option<String>,
    /// Variant of the architecture.
    pub variant: Option<String>,
    /// Version of the operating system.
    pub os_version: Option<String>,
    /// Features of the operating system, added to those there are.
    pub os_features: Vec<String>,
}

/// What `manifest push` did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestListPushed {
    /// Manifests that were brought into the list's repository.
    pub adopted: Vec<(String, Digest)>,
    /// Digest of the list.
    pub digest: Digest,
}

impl From<ListEntry> for ManifestDetails {
    fn from(entry: ListEntry) -> Self {
        Self { reference: entry.reference.familiar(), descriptor: entry.descriptor, bytes: entry.bytes }
    }
}

fn no_such(name: &Reference) -> Error {
    Error::new(ErrorKind::NoSuchImage, format!("No such manifest: {}", name.familiar()))
        .hint("lighter manifest create makes a list; only images on a registry can be part of it")
}

/// A registry that does not know `name` has no such manifest.
fn missing(error: image::Error, name: &Reference) -> Error {
    match error {
        image::Error::NotFound { .. } => {
            Error::new(ErrorKind::NoSuchImage, format!("no such manifest: {}", name.familiar()))
                .because(error)
                .hint("see that the name is right; only images on a registry have a manifest that can be looked at")
        }
        error => error.into(),
    }
}

impl Engine {
    fn list_store(&self) -> ListStore {
        ListStore::new(&self.paths.root.join("manifests"))
    }

    fn registry_client(&self, reference: &Reference, insecure: bool) -> Result<Client> {
        Ok(Client::new(reference, self.registry_options(insecure)?)?)
    }

    /// The manifest that `name` stands for: of the local list `list` when one is given; else the local list `name`, or
    /// what its registry has. `whole` reads the manifests of a list on a registry too.
    ///
    /// # Errors
    /// [`ErrorKind::NoSuchImage`], [`ErrorKind::Registry`].
    pub fn inspect_manifest(
        &self,
        list: Option<&str>,
        name: &str,
        insecure: bool,
        whole: bool,
    ) -> Result<ManifestFound> {
        let reference: Reference = name.parse()?;
        if let Some(list) = list {
            let list: Reference = list.parse()?;
            let entries = self.list_store().get(&list)?.ok_or_else(|| no_such(&list))?;
            let entry = entries.into_iter().find(|entry| entry.reference == reference);
            let entry = entry.ok_or_else(|| no_such(&reference))?;
            return Ok(ManifestFound::Manifest(Box::new(entry.into())));
        }
        if let Some(entries) = self.list_store().get(&reference)? {
            let (_, document) = lists::document(entries.iter().map(|entry| &entry.descriptor))?;
            return Ok(ManifestFound::List { document, manifests: entries.into_iter().map(Into::into).collect() });
        }
        let client = self.registry_client(&reference, insecure)?;
        match client.named(&reference).map_err(|error| missing(error, &reference))? {
            Named::Manifest(entry) => Ok(ManifestFound::Manifest(Box::new((*entry).into()))),
            Named::List(children) => {
                let (_, document) = lists::document(&children)?;
                let mut manifests = Vec::new();
                for child in children.iter().filter(|_| whole) {
                    manifests.push(client.child(&reference, child)?.into());
                }
                Ok(ManifestFound::List { document, manifests })
            }
        }
    }

    /// Makes the list `name` of `manifests`, which have to be on their registries, or with `amend` adds them to it.
    /// Gives the list's name.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when the list is there and not to be amended; [`ErrorKind::NoSuchImage`],
    /// [`ErrorKind::Registry`]; [`ErrorKind::Invalid`] for a manifest that is itself a list.
    pub fn create_manifest_list(
        &self,
        name: &str,
        manifests: &[String],
        amend: bool,
        insecure: bool,
    ) -> Result<String> {
        let list: Reference = name.parse()?;
        let store = self.list_store();
        let taken = || {
            Error::new(ErrorKind::Conflict, "refusing to amend an existing manifest list with no --amend flag")
                .hint(format!("lighter manifest rm {} forgets it", list.familiar()))
        };
        // Refused before anything is asked over the network.
        if store.get(&list)?.is_some() && !amend {
            return Err(taken());
        }
        let mut new = Vec::new();
        for said in manifests {
            let reference: Reference = said.parse()?;
            let client = self.registry_client(&reference, insecure)?;
            match client.named(&reference).map_err(|error| missing(error, &reference))? {
                Named::Manifest(entry) => new.push(*entry),
                Named::List(_) => {
                    return Err(Error::new(ErrorKind::Invalid, format!("{} is a manifest list", reference.familiar()))
                        .hint("name its manifests by digest; lighter manifest inspect shows them"));
                }
            }
        }
        store.change(&list, |known| {
            if known.is_some() && !amend {
                return Err(taken());
            }
            let mut entries = known.unwrap_or_default();
            for entry in new {
                match entries.iter_mut().find(|known| known.reference == entry.reference) {
                    Some(known) => *known = entry,
                    None => entries.push(entry),
                }
            }
            Ok(entries)
        })?;
        Ok(list.familiar())
    }

    /// Changes what the local list `list` says of the manifest `name`.
    ///
    /// # Errors
    /// [`ErrorKind::NoSuchImage`] when the list or the manifest in it is not there; [`ErrorKind::Invalid`] for a platform
    /// that is none.
    pub fn annotate_manifest(&self, list: &str, name: &str, said: &ManifestAnnotation) -> Result<()> {
        let (list, name): (Reference, Reference) = (list.parse()?, name.parse()?);
        self.list_store().change(&list, |entries| {
            let mut entries = entries.unwrap_or_default();
            let Some(entry) = entries.iter_mut().find(|entry| entry.reference == name) else {
                let sentence = format!("manifest for image {} does not exist in {}", name.familiar(), list.familiar());
                return Err(Error::new(ErrorKind::NoSuchImage, sentence)
                    .hint("lighter manifest create --amend adds a manifest to a list"));
            };
            let platform = entry.descriptor.platform.get_or_insert_with(Platform::default);
            set(&mut platform.os, said.os.as_ref());
            set(&mut platform.architecture, said.architecture.as_ref());
            set(&mut platform.variant, said.variant.as_ref());
            set(&mut platform.os_version, said.os_version.as_ref());
            for feature in &said.os_features {
                if !platform.os_features.contains(feature) {
                    platform.os_features.push(feature.clone());
                }
            }
            if !platform.is_known() {
                let Platform { os, architecture, .. } = platform;
                let sentence =
                    format!("manifest entry for image has unsupported os/arch combination: {os}/{architecture}");
                return Err(Error::new(ErrorKind::Invalid, sentence).hint("write them as in linux/arm64"));
            }
            Ok(entries)
        })
    }

    /// Sends the local list `name` to its registry, after the manifests it names that are in other repositories; with
    /// `purge` forgets it then.
    ///
    /// # Errors
    /// [`ErrorKind::NoSuchImage`]; [`ErrorKind::Invalid`] when a manifest's platform is not known;
    /// [`ErrorKind::Registry`].
    pub fn push_manifest_list(&self, name: &str, insecure: bool, purge: bool) -> Result<ManifestListPushed> {
        let list: Reference = name.parse()?;
        let tag = list.tag().ok_or_else(|| {
            Error::new(ErrorKind::Invalid, format!("{name} is no name with a tag")).hint("a list is pushed to a tag")
        })?;
        let entries = self.list_store().get(&list)?.ok_or_else(|| no_such(&list))?;
        if let Some(entry) = entries.iter().find(|entry| !entry.descriptor.platform.as_ref().is_some_and(is_said)) {
            let sentence = format!(
                "manifest {} must have an OS and Architecture to be pushed to a registry",
                entry.reference.familiar()
            );
            return Err(
                Error::new(ErrorKind::Invalid, sentence).hint("lighter manifest annotate --os --arch sets them")
            );
        }
        let _lease = self.lease()?;
        let content = self.content_store()?;
        let _blobs_stay = content.lease()?;
        let target = Client::to_push(&list, self.registry_options(insecure)?)?;
        let mut adopted = Vec::new();
        for entry in entries.iter().filter(|entry| !entry.reference.same_repository(&list)) {
            let mut elsewhere = BTreeMap::new();
            if entry.reference.domain() == list.domain() {
                for blob in blobs_of(entry) {
                    elsewhere.insert(blob, entry.reference.path().to_owned());
                }
            }
            let source = self.registry_client(&entry.reference, insecure)?;
            let fetch = |blob: &Descriptor| -> ImageResult<()> { source.fetch_blob(&content, blob) };
            let out = Outbound { content: &content, progress: &Quiet, elsewhere: &elsewhere };
            target.adopt(&out, entry, &fetch)?;
            let digest = entry.descriptor.digest.clone();
            adopted.push((list.with_digest(digest.clone()).familiar(), digest));
        }
        let (descriptor, bytes) = lists::document(entries.iter().map(|entry| &entry.descriptor))?;
        target.push_document(tag, &descriptor, &bytes)?;
        if purge {
            self.list_store().remove(&list)?;
        }
        Ok(ManifestListPushed { adopted, digest: descriptor.digest })
    }

    /// Forgets the local list `name`.
    ///
    /// # Errors
    /// [`ErrorKind::NoSuchImage`].
    pub fn remove_manifest_list(&self, name: &str) -> Result<()> {
        let list: Reference = name.parse()?;
        if self.list_store().remove(&list)? { Ok(()) } else { Err(no_such(&list)) }
    }
}

fn is_said(platform: &Platform) -> bool {
    !platform.os.is_empty() && !platform.architecture.is_empty()
}

fn blobs_of(entry: &ListEntry) -> Vec<Digest> {
    match Document::parse(&entry.bytes, &entry.descriptor.media_type) {
        Ok(Document::Manifest(manifest)) => std::iter::once(manifest.config.digest)
            .chain(manifest.layers.into_iter().map(|layer| layer.digest))
            .collect(),
        _ => Vec::new(),
    }
}

/// Replaces `text` by what was said, if anything was.
fn set(text: &mut String, said: Option<&String>) {
    if let Some(said) = said.filter(|said| !said.is_empty()) {
        said.clone_into(text);
    }
}
