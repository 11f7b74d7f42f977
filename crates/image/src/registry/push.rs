//! `push`: blobs first, several at a time, then manifests, each after those it names.
//!
//! A blob is asked for before it is sent; one that another repository of the registry has is taken over from there. The
//! rest goes in one request, or, where a registry refuses that or it keeps breaking, in chunks that resume.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::{Mutex, PoisonError};

use oci::Digest;
use oci::image::{Descriptor, media_type};
use ureq::http::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderName, RANGE};
use ureq::http::{Method, StatusCode};

use super::Client;
use super::failure::wait_before_retry;
use super::http::{Http, Request, Target};
use crate::assemble::Cancel;
use crate::closure::Closure;
use crate::content::verify;
use crate::{ContentStore, Error, ImageRecord, Phase, Progress, Result};

/// Blobs sent at a time.
const PARALLEL: usize = 4;
/// Largest chunk a registry may ask for.
const CHUNK_MAX: u64 = 1 << 30;
/// Failures of an upload in one piece before it is tried in chunks.
const WHOLE_FAILURES: u32 = 2;
const OCTETS: &str = "application/octet-stream";

/// What is needed to send images out.
pub struct Outbound<'a> {
    /// Where the blobs are.
    pub content: &'a ContentStore,
    /// Hears how far it is.
    pub progress: &'a dyn Progress,
    /// Other repositories of the same registry that should have a blob.
    pub elsewhere: &'a BTreeMap<Digest, String>,
}

/// What was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// What the tag stands for on the registry now.
    pub target: Descriptor,
    /// Whether the image's index was left out because not everything it names is here.
    pub single_platform: bool,
}

impl Client {
    /// Sends `record`'s image and names it `tag`. Its index goes along only when all it names is here; otherwise, or
    /// with `single_platform`, `tag` stands for the manifest of the record's platform.
    ///
    /// # Errors
    /// [`Error::MissingBlob`], [`Error::Denied`], [`Error::Transport`], [`Error::Status`] and their kin.
    pub fn push(&self, out: &Outbound<'_>, record: &ImageRecord, tag: &str, single_platform: bool) -> Result<Pushed> {
        let whole = if single_platform { None } else { Some(Closure::of(out.content, &record.target)?) };
        let (closure, target, left_out) = match whole {
            Some(closure) if closure.complete => (closure, &record.target, false),
            other => (Closure::of(out.content, &record.manifest)?, &record.manifest, other.is_some()),
        };
        out.progress.begin(&record.layers);
        for layer in &record.layers {
            out.progress.layer(&layer.descriptor.digest, Phase::Preparing, 0, layer.descriptor.size);
        }
        let shown = |digest: &Digest| record.layers.iter().any(|layer| layer.descriptor.digest == *digest);
        // Whoever made those does not want them sent on; their URLs say where they are.
        let (foreign, blobs): (Vec<_>, Vec<_>) =
            closure.blobs.into_iter().partition(|blob| media_type::is_foreign(&blob.media_type));
        for blob in foreign.iter().filter(|blob| shown(&blob.digest)) {
            out.progress.layer(&blob.digest, Phase::Foreign, blob.size, blob.size);
        }
        self.blobs(out, &blobs, &shown)?;
        for (descriptor, bytes) in &closure.documents {
            let name = if descriptor.digest == target.digest { tag.to_owned() } else { descriptor.digest.to_string() };
            self.put_manifest(&name, descriptor, bytes)?;
        }
        Ok(Pushed { target: target.clone(), single_platform: left_out })
    }

    fn blobs(&self, out: &Outbound<'_>, blobs: &[Descriptor], shown: &(dyn Fn(&Digest) -> bool + Sync)) -> Result<()> {
        // One request alone comes first: it finds out how to speak to the registry and gets the token.
        let Some((first, rest)) = blobs.split_first() else { return Ok(()) };
        let cancel = Cancel::default();
        let send = |blob: &Descriptor| {
            Upload { client: self, out, blob, cancel: &cancel, shown: shown(&blob.digest), fetch: None }.run()
        };
        send(first)?;
        let queue = Mutex::new(rest.iter().rev().collect::<Vec<_>>());
        let failure = Mutex::new(None);
        let work = || {
            while !cancel.is_set() {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let Some(blob) = next else { return };
                if let Err(error) = send(blob) {
                    let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                    if failure.is_none() {
                        *failure = Some(error);
                    }
                    cancel.set();
                    // Others may wait for a registry that says nothing.
                    self.registry().shut();
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..PARALLEL.min(rest.len()) {
                scope.spawn(work);
            }
            work();
        });
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    pub(super) fn put_manifest(&self, name: &str, descriptor: &Descriptor, bytes: &[u8]) -> Result<()> {
        let http = self.registry();
        let target = http.path(&format!("manifests/{name}"));
        let content = || Ok((Box::new(bytes) as Box<dyn Read>, bytes.len() as u64));
        let headers = [(CONTENT_TYPE, descriptor.media_type.as_str())];
        let request = Request { content: Some(&content), ..Request::new(Method::PUT, &headers) };
        let response = http.request(&target, &request, &Cancel::default())?;
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        if let Some(said) = header("docker-content-digest").and_then(|value| value.parse().ok()) {
            verify(&format!("manifest {name} on the registry"), &descriptor.digest, &said)?;
        }
        // A registry that keeps referrers says whose this is one of (distribution specification, "Pushing manifests
        // with subject").
        match subject_of(bytes) {
            Some(subject) if header("oci-subject").is_none() => self.refer(http, &subject, descriptor, bytes),
            _ => Ok(()),
        }
    }
}

/// The manifest that the document refers to.
fn subject_of(bytes: &[u8]) -> Option<Digest> {
    #[derive(serde::Deserialize)]
    struct Referrer {
        subject: Option<Descriptor>,
    }
    Some(serde_json::from_slice::<Referrer>(bytes).ok()?.subject?.digest)
}

/// Where an upload stands.
struct Session {
    at: Target,
    /// Least bytes of a chunk but the last.
    chunk_min: u64,
}

/// How the beginning of an upload was answered.
enum Begun {
    Mounted,
    Session(Session),
}

/// Brings a blob into the store.
pub(super) type Fetch<'a> = dyn Fn(&Descriptor) -> Result<()> + Sync + 'a;

/// One blob on its way out.
pub(super) struct Upload<'a> {
    pub(super) client: &'a Client,
    pub(super) out: &'a Outbound<'a>,
    pub(super) blob: &'a Descriptor,
    pub(super) cancel: &'a Cancel,
    /// Whether progress knows of it: layers, not configurations.
    pub(super) shown: bool,
    /// Brings the blob into the store, when it need not be there yet.
    pub(super) fetch: Option<&'a Fetch<'a>>,
}

impl Upload<'_> {
    fn tell(&self, phase: Phase, current: u64) {
        if self.shown {
            self.out.progress.layer(&self.blob.digest, phase, current, self.blob.size);
        }
    }

    pub(super) fn run(&self) -> Result<()> {
        let digest = &self.blob.digest;
        if self.is_there()? {
            self.tell(Phase::There, self.blob.size);
            return Ok(());
        }
        let session = match self.out.elsewhere.get(digest).and_then(|from| Some((from, self.mount(from)?))) {
            Some((from, Begun::Mounted)) => {
                if self.shown {
                    self.out.progress.mounted(digest, from);
                }
                return Ok(());
            }
            Some((_, Begun::Session(session))) => session,
            None => match self.find_or_begin()? {
                Begun::Session(session) => session,
                Begun::Mounted => {
                    self.tell(Phase::There, self.blob.size);
                    return Ok(());
                }
            },
        };
        if let Some(fetch) = self.fetch {
            fetch(self.blob)?;
        }
        self.send(session)?;
        self.tell(Phase::Pushed, self.blob.size);
        Ok(())
    }

    fn http(&self) -> &Http {
        self.client.registry()
    }

    fn is_there(&self) -> Result<bool> {
        let target = self.http().path(&format!("blobs/{}", self.blob.digest));
        match self.request(&target, &Request::new(Method::HEAD, &[])) {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn request(&self, target: &Target, request: &Request<'_>) -> Result<ureq::http::Response<ureq::Body>> {
        self.http().request(target, request, self.cancel)
    }

    /// Has the registry take the blob over from `from`; `None` when that was refused, which is no failure.
    fn mount(&self, from: &str) -> Option<Begun> {
        self.post(&format!("?mount={}&from={from}", self.blob.digest), Some(from)).ok()
    }

    /// Has the registry look for the blob itself (distribution specification 1.1, mounting without `from`), and begins an
    /// upload otherwise; in a way that all registries know, where this one is not understood.
    fn find_or_begin(&self) -> Result<Begun> {
        match self.post(&format!("?mount={}", self.blob.digest), None) {
            Err(Error::Status { status: 400..=499, .. } | Error::NotFound { .. }) => self.begin().map(Begun::Session),
            begun => begun,
        }
    }

    fn begin(&self) -> Result<Session> {
        match self.post("", None)? {
            Begun::Session(session) => Ok(session),
            Begun::Mounted => Err(self.http().broken("it says that an upload is complete that has not begun")),
        }
    }

    fn post(&self, query: &str, also_from: Option<&str>) -> Result<Begun> {
        let target = self.http().path(&format!("blobs/uploads/{query}"));
        let response = self.request(&target, &Request { also_from, ..Request::new(Method::POST, &[]) })?;
        if response.status() == StatusCode::CREATED {
            return Ok(Begun::Mounted);
        }
        let least = response.headers().get("oci-chunk-min-length").and_then(|value| value.to_str().ok()?.parse().ok());
        let at = self.http().location(&response, &target)?;
        Ok(Begun::Session(Session { at, chunk_min: least.unwrap_or(0) }))
    }

    /// In one piece, and when that does not work in chunks.
    fn send(&self, mut session: Session) -> Result<()> {
        let mut failures = 0;
        loop {
            let error = match self.put_whole(&session.at) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            self.abandon(&session.at);
            if self.cancel.is_set() {
                return Err(Error::Cancelled);
            }
            failures += 1;
            let refused = matches!(error, Error::Status { status: 405 | 411 | 413 | 416 | 501, .. });
            let wait = wait_before_retry(&error);
            // Who asks for a pause asks for patience, not for chunks.
            let broken = failures >= WHOLE_FAILURES && matches!(wait, Some(None));
            if refused || broken {
                return self.in_chunks(self.begin()?);
            }
            let Some(wait) = wait else { return Err(error) };
            if failures >= self.http().attempts() {
                return Err(error);
            }
            self.http().pause(failures, wait, self.cancel)?;
            session = self.begin()?;
        }
    }

    /// Tells the registry that an upload will not be finished. It notices by itself in time, if this fails.
    fn abandon(&self, at: &Target) {
        let _ = self.http().once(at, &Request::new(Method::DELETE, &[]));
    }

    fn put_whole(&self, at: &Target) -> Result<()> {
        self.send_part(Method::PUT, &with_digest(at, &self.blob.digest)?, 0, self.blob.size, &[]).map(drop)
    }

    fn send_part(
        &self,
        method: Method,
        at: &Target,
        start: u64,
        length: u64,
        headers: &[(HeaderName, &str)],
    ) -> Result<ureq::http::Response<ureq::Body>> {
        let content = || -> Result<(Box<dyn Read + '_>, u64)> {
            let mut file = self.out.content.open_blob(&self.blob.digest)?;
            file.seek(SeekFrom::Start(start))
                .map_err(|error| Error::read(format!("blob {}", self.blob.digest), error))?;
            Ok((Box::new(Part { upload: self, file: file.take(length), passed: start }), length))
        };
        let headers: Vec<_> = headers.iter().cloned().chain([(CONTENT_TYPE, OCTETS)]).collect();
        let request = Request { content: Some(&content), ..Request::new(method, &headers) };
        self.http().once(at, &request)
    }

    fn in_chunks(&self, session: Session) -> Result<()> {
        let mut at = session.at;
        let sent = self.chunks(&mut at, session.chunk_min);
        if sent.is_err() {
            self.abandon(&at);
        }
        sent
    }

    /// Sends all of the blob to `at`, which is where the upload goes on, whatever happens.
    fn chunks(&self, at: &mut Target, least: u64) -> Result<()> {
        let chunk = self.http().chunk().max(least.min(CHUNK_MAX));
        let (mut offset, mut furthest, mut failures) = (0, 0, 0);
        while offset < self.blob.size {
            let length = chunk.min(self.blob.size - offset);
            let range = format!("{offset}-{}", offset + length - 1);
            let error = match self.send_part(Method::PATCH, at, offset, length, &[(CONTENT_RANGE, &range)]) {
                Ok(response) => {
                    *at = self.http().location(&response, at)?;
                    offset += length;
                    // What was sent before is no progress: a registry may forget it again and again.
                    if offset > furthest {
                        (furthest, failures) = (offset, 0);
                    }
                    continue;
                }
                Err(_) if self.cancel.is_set() => return Err(Error::Cancelled),
                Err(error) => error,
            };
            failures += 1;
            let disagrees = matches!(error, Error::Status { status: 416, .. });
            let wait = wait_before_retry(&error);
            if failures >= self.http().attempts() || (wait.is_none() && !disagrees) {
                return Err(error);
            }
            self.http().pause(failures, wait.flatten(), self.cancel)?;
            (*at, offset) = self.resume(at)?;
        }
        let last = with_digest(at, &self.blob.digest)?;
        self.request(&last, &Request::new(Method::PUT, &[])).map(drop)
    }

    /// How much of an upload the registry has, and where it goes on.
    fn resume(&self, at: &Target) -> Result<(Target, u64)> {
        let response = self.request(at, &Request::new(Method::GET, &[]))?;
        let range = response.headers().get(RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let end = range.rsplit('-').next().and_then(|end| end.parse::<u64>().ok());
        let offset = end.map_or(0, |end| if end == 0 { 0 } else { end.saturating_add(1) });
        if offset > self.blob.size {
            return Err(self.http().broken("it has more of an upload than was sent"));
        }
        Ok((self.http().location(&response, at)?, offset))
    }
}

/// The last step of an upload names what was uploaded.
fn with_digest(at: &Target, digest: &Digest) -> Result<Target> {
    let add = |text: &str| format!("{text}{}digest={digest}", if text.contains('?') { '&' } else { '?' });
    Ok(match at {
        Target::Path(path) => Target::Path(add(path)),
        Target::Elsewhere(uri) => {
            let uri = add(&uri.to_string());
            Target::Elsewhere(uri.parse().map_err(|_| Error::malformed("the registry's answer", "no such place"))?)
        }
    })
}

/// A part of a blob being sent.
struct Part<'a> {
    upload: &'a Upload<'a>,
    file: io::Take<File>,
    passed: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.upload.cancel.is_set() {
            return Err(Error::Cancelled.into_io());
        }
        let n = self.file.read(buf)?;
        self.passed += n as u64;
        self.upload.tell(Phase::Pushing, self.passed);
        Ok(n)
    }
}

#[cfg(test)]
#[path = "push_tests.rs"]
mod tests;
