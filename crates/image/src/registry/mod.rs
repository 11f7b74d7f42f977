//! Images from registries and to them (distribution specification 1.1): `pull`, `push`, `login`.
//!
//! One [`Client`] speaks to one repository's registry. It is blocking; layers come in on several threads.

mod auth;
mod body;
mod credential_store;
mod credentials;
mod dns;
mod http;
mod push;

pub use credentials::{ConfigFile, Credentials, Kept, Login};
pub use push::{Outbound, Pushed};

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use oci::digest::Algorithm;
use oci::image::{Descriptor, Document, media_type};
use oci::{Digest, Reference};
use ureq::http::header::{ACCEPT, CONTENT_TYPE};

use crate::assemble::{Cancel, MANIFEST_MAX, Source};
use crate::content::{Hasher, read_bounded, verify};
use crate::{Error, ImageRecord, Inbound, Result};

/// How to speak to registries.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who to be.
    pub credentials: Credentials,
    /// Whether this registry may be spoken to without TLS, or with a certificate nobody vouches for. Registries on
    /// loopback addresses always may.
    pub insecure: bool,
    /// A PEM file of trusted roots; the host's usual ones when absent.
    pub roots: Option<PathBuf>,
    /// Whether `HTTPS_PROXY` and its kin are honoured; never for registries on loopback.
    pub proxy_from_env: bool,
    /// Bounds on waiting.
    pub timeouts: Timeouts,
    /// How often a request is tried before it is given up, at least once.
    pub attempts: u32,
    /// Wait before the second attempt; doubled for each further one.
    pub backoff: Duration,
    /// Bytes of a chunk where a registry does not take uploads in one piece; more when it asks for more.
    pub chunk: u64,
}

/// Bounds on waiting.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// For the head of a response.
    pub response: Duration,
    /// For the next bytes of a body.
    pub idle: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            credentials: Credentials::default(),
            insecure: false,
            roots: None,
            proxy_from_env: true,
            timeouts: Timeouts {
                connect: Duration::from_secs(15),
                response: Duration::from_secs(60),
                idle: Duration::from_secs(60),
            },
            attempts: 5,
            backoff: Duration::from_millis(500),
            chunk: 16 << 20,
        }
    }
}

/// Speaks to the registry of one repository.
#[derive(Debug)]
pub struct Client {
    http: http::Http,
    repository: String,
}

impl Client {
    /// A client for `reference`'s repository. Nothing is sent yet.
    #[must_use]
    pub fn new(reference: &Reference, options: Options) -> Self {
        Self { repository: reference.path().to_owned(), http: http::Http::new(reference, options, http::Access::Pull) }
    }

    /// The same, with what it asks for including the right to push.
    #[must_use]
    pub fn to_push(reference: &Reference, options: Options) -> Self {
        Self { repository: reference.path().to_owned(), http: http::Http::new(reference, options, http::Access::Push) }
    }

    /// Asks `registry` (host and port) whether it accepts the login that `options` have for it.
    ///
    /// # Errors
    /// [`Error::Login`] when it does not; [`Error::Transport`], [`Error::Unreachable`], [`Error::Status`].
    pub fn check_login(registry: &str, options: Options) -> Result<()> {
        let http = http::Http::of_domain(registry.to_owned(), options, http::Access::Login);
        http.get("", "/v2/", &[], &Cancel::default()).map(drop).map_err(|error| match error {
            Error::Denied { registry, reason, .. } => Error::Login { registry, reason },
            other => other,
        })
    }

    /// The manifest or index that `reference`'s digest or tag names, with its descriptor, verified as far as that can
    /// be.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Denied`], [`Error::Digest`], [`Error::TooLarge`], [`Error::Document`],
    /// [`Error::Transport`], [`Error::Status`].
    pub fn resolve(&self, reference: &Reference) -> Result<(Descriptor, Vec<u8>)> {
        let name = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.to_owned(),
            (None, None) => return Err(Error::malformed(reference.to_string(), "it has neither tag nor digest")),
        };
        let (bytes, content_type, said_digest) = self.manifest(&name)?;
        let what = format!("manifest of {}", reference.familiar());
        let expected = reference.digest().cloned().or(said_digest);
        let algorithm = expected.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let mut hasher = Hasher::new(algorithm);
        hasher.update(&bytes);
        let digest = hasher.finish();
        if let Some(expected) = &expected {
            verify(&what, expected, &digest)?;
        }
        let document = Document::parse(&bytes, &content_type).map_err(|source| Error::Document { what, source })?;
        let media_type = if known(&content_type) { content_type.as_str() } else { document.media_type() };
        Ok((Descriptor::new(media_type, digest, bytes.len() as u64), bytes))
    }

    fn manifest(&self, name: &str) -> Result<(Vec<u8>, String, Option<Digest>)> {
        let path = format!("/v2/{}/manifests/{name}", self.repository);
        let accept =
            [media_type::OCI_INDEX, media_type::OCI_MANIFEST, media_type::DOCKER_LIST, media_type::DOCKER_MANIFEST]
                .join(", ");
        let mut attempt = 0;
        loop {
            let response = self.http.get(&self.repository, &path, &[(ACCEPT, &accept)], &Cancel::default())?;
            let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
            let content_type = header(CONTENT_TYPE.as_str()).unwrap_or_default();
            let content_type = content_type.split(';').next().unwrap_or_default().trim().to_owned();
            let digest = header("docker-content-digest").and_then(|value| value.parse().ok());
            let what = format!("manifest {name:?} of {}", self.repository);
            let mut reader = response.into_body().into_reader();
            attempt += 1;
            match read_bounded(&mut reader, MANIFEST_MAX, &what) {
                Ok(bytes) => return Ok((bytes, content_type, digest)),
                Err(error @ Error::TooLarge { .. }) => return Err(error),
                Err(error) if attempt >= self.http.attempts() => return Err(self.http.broken(&error.to_string())),
                Err(_) => self.http.pause(attempt, None, &Cancel::default())?,
            }
        }
    }
}

fn known(content_type: &str) -> bool {
    media_type::is_index(content_type) || media_type::is_manifest(content_type)
}

impl Source for Client {
    fn blob<'a>(&'a self, descriptor: &Descriptor, cancel: &'a Cancel) -> Result<Box<dyn Read + Send + 'a>> {
        let path = format!("/v2/{}/blobs/{}", self.repository, descriptor.digest);
        Ok(Box::new(body::Body::open(&self.http, &self.repository, path, descriptor, cancel)?))
    }

    fn document(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>> {
        let kind = descriptor.media_type.as_str();
        if known(kind) || kind.is_empty() {
            return self.manifest(&descriptor.digest.to_string()).map(|(bytes, _, _)| bytes);
        }
        let cancel = Cancel::default();
        let mut stream = self.blob(descriptor, &cancel)?;
        read_bounded(&mut stream, limit, &format!("blob {}", descriptor.digest))
    }
}

impl Inbound<'_> {
    /// `pull`: the image that `reference` names on its registry.
    ///
    /// # Errors
    /// Those of [`Client::resolve`]; [`Error::NoPlatform`]; what is wrong with the image; system call errors; the
    /// sink's.
    pub fn pull(&self, reference: &Reference, options: Options) -> Result<ImageRecord> {
        let _lease = self.content.lease()?;
        let client = Client::new(reference, options);
        let (target, bytes) = client.resolve(reference)?;
        let mut writer = self.content.writer(target.digest.algorithm(), MANIFEST_MAX)?;
        writer.append(&bytes)?;
        writer.commit(Some(&target.digest), None)?;
        let record = self.assembly(&client).image(&target, Some(reference.clone()))?;
        self.images.put(record.clone())?;
        Ok(record)
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
