//! Images from registries and to them (distribution specification 1.1): `pull`, `push`, `login`.
//!
//! One [`Client`] speaks for one repository, to its mirrors and to the registry itself: [`endpoint`] is what is known of
//! each, [`config`] where that comes from. It is blocking; layers come in on several threads.

mod auth;
mod body;
mod config;
mod credential_store;
mod credentials;
mod dns;
mod endpoint;
mod failure;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod http;
mod listing;
mod lists;
mod pace;
mod place;
mod proxy;
mod push;
mod search;
mod tls;
mod token;

pub use config::{Configuration, Places};
pub use credentials::{ConfigFile, Credentials, Kept, Login, Secret};
pub use lists::Named;
pub use proxy::Proxies;
pub use push::{Outbound, Pushed};
pub use search::Hit;

use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oci::digest::Algorithm;
use oci::image::{Descriptor, Document, media_type};
use oci::{Digest, Reference};
use ureq::http::header::{ACCEPT, CONTENT_TYPE};

use self::endpoint::Endpoint;
use self::http::{Access, Http, Target};
use crate::assemble::{Cancel, MANIFEST_MAX, Source};
use crate::content::{Hasher, read_bounded, verify};
use crate::{Error, ImageRecord, Inbound, Result};

/// How to speak to registries.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who to be.
    pub credentials: Credentials,
    /// Mirrors, certificates, hosts without TLS.
    pub configuration: Configuration,
    /// Whether this registry may be spoken to without TLS, or with a certificate nobody vouches for, whatever is
    /// configured. Registries on loopback addresses may unless an authority is configured for them.
    pub insecure: bool,
    /// A PEM file of trusted roots; `SSL_CERT_FILE` or the host's usual ones when absent.
    pub roots: Option<PathBuf>,
    /// What to go through; never for registries on loopback.
    pub proxies: Proxies,
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
    /// Least bytes a second of a body, over any time of waiting as long as `idle`.
    pub least_rate: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            response: Duration::from_secs(60),
            idle: Duration::from_secs(60),
            least_rate: 1 << 10,
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            credentials: Credentials::default(),
            configuration: Configuration::default(),
            insecure: false,
            roots: None,
            proxies: Proxies::default(),
            timeouts: Timeouts::default(),
            attempts: 5,
            backoff: Duration::from_millis(500),
            chunk: 16 << 20,
        }
    }
}

/// What an endpoint is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Resolve,
    Pull,
}

/// Speaks for one repository to the registry it is on, and to that registry's mirrors.
#[derive(Debug)]
pub struct Client {
    /// In the order in which they are asked, the registry itself last; at least one.
    endpoints: Vec<Http>,
    warnings: Arc<Mutex<Vec<String>>>,
}

impl Client {
    /// A client for `reference`'s repository. Nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Blocked`]; configuration that cannot be understood.
    pub fn new(reference: &Reference, options: Options) -> Result<Self> {
        let endpoints = options.configuration.endpoints(reference, options.insecure)?;
        Ok(Self::of(endpoints, options, Access::Pull))
    }

    /// One that may push, and so speaks to the first endpoint that takes content in: the registry itself, unless
    /// configured otherwise.
    ///
    /// # Errors
    /// As [`Client::new`]; [`Error::Unsupported`] when nothing takes content in.
    pub fn to_push(reference: &Reference, options: Options) -> Result<Self> {
        let endpoints = options.configuration.endpoints(reference, options.insecure)?;
        let target = endpoints.into_iter().find(|endpoint| endpoint.can.push);
        let target = target.ok_or_else(|| {
            Error::Unsupported(format!("no host that is configured for {} takes pushes", reference.domain()))
        })?;
        Ok(Self::of(vec![target], options, Access::Push))
    }

    fn of(endpoints: Vec<Endpoint>, options: Options, access: Access) -> Self {
        let (options, warnings) = (Arc::new(options), Arc::<Mutex<Vec<String>>>::default());
        let last = endpoints.len().saturating_sub(1);
        let make = |(position, endpoint)| {
            Http::new(endpoint, Arc::clone(&options), access, position < last, Arc::clone(&warnings))
        };
        let endpoints = endpoints.into_iter().enumerate().map(make).collect();
        Self { endpoints, warnings }
    }

    /// Asks `registry` (host and port) whether it accepts the login that `options` have for it. Gives the identity
    /// token to keep in the password's place, where a registry offers one.
    ///
    /// # Errors
    /// [`Error::Login`] when it does not; [`Error::Transport`], [`Error::Unreachable`], [`Error::Status`].
    pub fn check_login(registry: &str, options: Options) -> Result<Option<String>> {
        let endpoint = options.configuration.registry(registry, options.insecure)?;
        let client = Self::of(vec![endpoint], options, Access::Login);
        client.registry().check_login().map_err(|error| match error {
            Error::Denied { registry, reason, .. } => Error::Login { registry, reason },
            other => other,
        })
    }

    /// What registries wanted their users to read, once.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The registry itself, or whatever is asked last.
    fn registry(&self) -> &Http {
        &self.endpoints[self.endpoints.len() - 1]
    }

    /// Those that serve `need`, in order.
    fn serving(&self, need: Need) -> Vec<&Http> {
        let able = |http: &&Http| match need {
            Need::Resolve => http.endpoint.can.resolve,
            Need::Pull => http.endpoint.can.pull,
        };
        let serving: Vec<&Http> = self.endpoints.iter().filter(able).filter(|http| !http.is_given_up()).collect();
        if serving.is_empty() { vec![self.registry()] } else { serving }
    }

    /// Does `work` with the first endpoint that succeeds. The error is the last one's.
    fn first<T>(&self, need: Need, work: impl Fn(&Http) -> Result<T>) -> Result<T> {
        let serving = self.serving(need);
        let (last, mirrors) = serving.split_last().ok_or(Error::Cancelled)?;
        let mut before = Vec::new();
        for mirror in mirrors {
            match work(mirror) {
                Ok(done) => return Ok(done),
                Err(error @ (Error::Cancelled | Error::Sys(_))) => return Err(error),
                Err(error) => {
                    if matches!(error, Error::Unreachable { .. }) {
                        mirror.give_up();
                    }
                    before.push(error.to_string());
                }
            }
        }
        work(last)
            .inspect_err(|_| before.iter().for_each(|error| last.note(&format!("a mirror failed before: {error}"))))
    }

    /// The manifest or index that `reference`'s digest or tag names, with its descriptor, verified as far as that can
    /// be.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Denied`], [`Error::Digest`], [`Error::TooLarge`], [`Error::Document`],
    /// [`Error::Transport`], [`Error::Status`].
    pub fn resolve(&self, reference: &Reference) -> Result<(Descriptor, Vec<u8>)> {
        let (name, need) = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => (digest.to_string(), Need::Pull),
            (None, Some(tag)) => (tag.to_owned(), Need::Resolve),
            (None, None) => return Err(Error::malformed(reference.to_string(), "it has neither tag nor digest")),
        };
        let what = format!("manifest of {}", reference.familiar());
        self.first(need, |http| {
            let (bytes, content_type, said_digest) = manifest(http, &name)?;
            let expected = reference.digest().cloned().or(said_digest);
            let algorithm = expected.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
            let mut hasher = Hasher::new(algorithm);
            hasher.update(&bytes);
            let digest = hasher.finish();
            if let Some(expected) = &expected {
                verify(&what, expected, &digest)?;
            }
            let document = Document::parse(&bytes, &content_type);
            let document = document.map_err(|source| Error::Document { what: what.clone(), source })?;
            let media_type = if known(&content_type) { content_type.as_str() } else { document.media_type() };
            Ok((Descriptor::new(media_type, digest, bytes.len() as u64), bytes))
        })
    }
}

/// A manifest or index by tag or digest: its bytes, its type, and the digest the registry says it has.
fn manifest(http: &Http, name: &str) -> Result<(Vec<u8>, String, Option<Digest>)> {
    let target = http.path(&format!("manifests/{name}"));
    let accept =
        [media_type::OCI_INDEX, media_type::OCI_MANIFEST, media_type::DOCKER_LIST, media_type::DOCKER_MANIFEST]
            .join(", ");
    let mut attempt = 0;
    loop {
        let response = http.get(&target, &[(ACCEPT, &accept)], &Cancel::default())?;
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let content_type = header(CONTENT_TYPE.as_str()).unwrap_or_default();
        let content_type = content_type.split(';').next().unwrap_or_default().trim().to_owned();
        let digest = header("docker-content-digest").and_then(|value| value.parse().ok());
        let what = format!("manifest {name:?} of {}", http.endpoint.repository);
        let mut reader = http.paced(response);
        attempt += 1;
        match read_bounded(&mut reader, MANIFEST_MAX, &what) {
            Ok(bytes) => return Ok((bytes, content_type, digest)),
            Err(error @ Error::TooLarge { .. }) => return Err(error),
            Err(error) if attempt >= http.attempts() => return Err(http.broken(&error.to_string())),
            Err(_) => http.pause(attempt, None, &Cancel::default())?,
        }
    }
}

fn known(content_type: &str) -> bool {
    media_type::is_index(content_type) || media_type::is_manifest(content_type)
}

/// The blob that its descriptor brings along (`descriptor.md`, "Embedded Content"), if it is the right one.
fn inline(descriptor: &Descriptor) -> Option<Vec<u8>> {
    let bytes = STANDARD.decode(&descriptor.data).ok().filter(|bytes| !bytes.is_empty())?;
    let mut hasher = Hasher::new(descriptor.digest.algorithm());
    hasher.update(&bytes);
    (bytes.len() as u64 == descriptor.size && hasher.finish() == descriptor.digest).then_some(bytes)
}

fn blob_at<'a>(http: &'a Http, descriptor: &Descriptor) -> (&'a Http, Target) {
    (http, http.path(&format!("blobs/{}", descriptor.digest)))
}

impl Source for Client {
    fn blob<'a>(&'a self, descriptor: &Descriptor, cancel: &'a Cancel) -> Result<Box<dyn Read + Send + 'a>> {
        self.blob_from(descriptor, 0, cancel)
    }

    fn blob_from<'a>(
        &'a self,
        descriptor: &Descriptor,
        offset: u64,
        cancel: &'a Cancel,
    ) -> Result<Box<dyn Read + Send + 'a>> {
        if let Some(bytes) = inline(descriptor) {
            let mut stream = std::io::Cursor::new(bytes);
            stream.set_position(offset);
            return Ok(Box::new(stream));
        }
        let of_blob = |http| blob_at(http, descriptor);
        let mut serving: Vec<_> = self.serving(Need::Pull).into_iter().map(of_blob).collect();
        if media_type::is_foreign(&descriptor.media_type) {
            let registry = self.registry();
            let elsewhere = descriptor.urls.iter().filter_map(|url| registry.elsewhere(url));
            serving.extend(elsewhere.map(|target| (registry, target)));
        }
        Ok(Box::new(body::Body::open(serving, descriptor, offset, cancel)?))
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn abandon(&self) {
        self.endpoints.iter().for_each(Http::shut);
    }

    fn is_mirrored(&self) -> bool {
        self.serving(Need::Pull).len() > 1
    }

    fn distrust(&self) {
        let serving = self.serving(Need::Pull);
        if let [mirror, _, ..] = serving[..] {
            mirror.give_up();
        }
    }

    fn document(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>> {
        let kind = descriptor.media_type.as_str();
        let what = format!("document {}", descriptor.digest);
        if let Some(bytes) = inline(descriptor) {
            return Ok(bytes);
        }
        // Verified here too, so that what a mirror has wrong is asked of the registry.
        self.first(Need::Pull, |http| {
            let bytes = if known(kind) || kind.is_empty() {
                manifest(http, &descriptor.digest.to_string())?.0
            } else {
                let cancel = Cancel::default();
                let mut stream = body::Body::open(vec![blob_at(http, descriptor)], descriptor, 0, &cancel)?;
                read_bounded(&mut stream, limit, &what)?
            };
            let mut hasher = Hasher::new(descriptor.digest.algorithm());
            hasher.update(&bytes);
            verify(&what, &descriptor.digest, &hasher.finish())?;
            Ok(bytes)
        })
    }
}

impl Inbound<'_> {
    /// `pull`: the image that `reference` names on its registry.
    ///
    /// # Errors
    /// Those of [`Client::new`] and [`Client::resolve`]; [`Error::NoPlatform`]; what is wrong with the image; system
    /// call errors; the sink's.
    pub fn pull(&self, reference: &Reference, options: Options) -> Result<ImageRecord> {
        let _lease = self.content.lease()?;
        let client = Client::new(reference, options)?;
        let pulled = self.pull_from(&client, reference);
        for warning in client.warnings() {
            self.progress.warning(&warning);
        }
        pulled
    }

    fn pull_from(&self, client: &Client, reference: &Reference) -> Result<ImageRecord> {
        let (target, bytes) = client.resolve(reference)?;
        let mut writer = self.content.writer(target.digest.algorithm(), MANIFEST_MAX)?;
        writer.append(&bytes)?;
        writer.commit(Some(&target.digest), None)?;
        let record = self.assembly(client).image(&target, Some(reference.clone()))?;
        self.images.put(record.clone())?;
        Ok(record)
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
