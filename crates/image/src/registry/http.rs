//! Requests to one registry: scheme, authorisation, redirects, retries.
//!
//! TLS comes first; a registry on loopback, or one declared insecure, may answer without. Credentials and tokens are
//! sent to the registry's own origin only, whatever it redirects to.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use oci::Reference;
use oci::reference::{DEFAULT_DOMAIN, host_of, is_loopback_host};
use serde::Deserialize;
use ureq::http::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderName, LOCATION, RETRY_AFTER};
use ureq::http::{self, Method, Response, StatusCode, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Body, Proxy, SendBody};

use super::Options;
use super::auth::{Challenge, bearer, scopes};
use super::dns::HostResolver;
use crate::assemble::Cancel;
use crate::content::read_bounded;
use crate::{Error, Result};

/// Where Docker's images really are.
const DOCKER_REGISTRY: &str = "registry-1.docker.io";
const USER_AGENT: &str = concat!("lighter/", env!("CARGO_PKG_VERSION"));
const REDIRECTS_MAX: usize = 5;
/// Largest token answer or error body read, in bytes.
const ANSWER_MAX: u64 = 1 << 20;
const ROOTS_MAX: u64 = 16 << 20;
/// Longest wait a registry may ask for; beyond it the user decides.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
const BACKOFF_MAX: Duration = Duration::from_secs(8);
const TICK: Duration = Duration::from_millis(50);
/// Where distributions keep the trusted roots: Debian, Fedora, SUSE, Alpine.
const ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Https,
    Http,
}

/// A response, and whether it came from the origin that was asked or from where that redirected.
struct Answer {
    response: Response<Body>,
    at_home: bool,
}

/// What is asked of a repository, as scopes have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Nothing of any repository: whether a login is right.
    Login,
    Pull,
    Push,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A path (and query) of the registry itself.
    Path(String),
    /// Somewhere the registry sent us to. No login goes there.
    Elsewhere(Uri),
}

/// Opens a request's body from its beginning, and says how long it is.
pub(super) type Content<'a> = dyn Fn() -> Result<(Box<dyn std::io::Read + 'a>, u64)> + 'a;

/// What is sent.
pub(super) struct Request<'a> {
    pub(super) method: Method,
    pub(super) headers: &'a [(HeaderName, &'a str)],
    /// The body; none has length 0 for methods that have one.
    pub(super) content: Option<&'a Content<'a>>,
}

impl<'a> Request<'a> {
    /// Without a body.
    pub(super) fn new(method: Method, headers: &'a [(HeaderName, &'a str)]) -> Self {
        Self { method, headers, content: None }
    }

    fn is_read(&self) -> bool {
        matches!(self.method, Method::GET | Method::HEAD)
    }
}

/// Sends requests to one registry.
#[derive(Debug)]
pub(super) struct Http {
    /// Host and port requests go to.
    authority: String,
    /// The domain of the reference, under which credentials are filed.
    domain: String,
    options: Options,
    access: Access,
    on_loopback: bool,
    plain_allowed: bool,
    scheme: OnceLock<Scheme>,
    agent: OnceLock<Agent>,
    authorization: Mutex<Option<String>>,
}

impl Http {
    pub(super) fn new(reference: &Reference, options: Options, access: Access) -> Self {
        Self::of_domain(reference.domain().to_owned(), options, access)
    }

    /// For a registry by its host and port.
    pub(super) fn of_domain(domain: String, options: Options, access: Access) -> Self {
        let authority = if domain == DEFAULT_DOMAIN { DOCKER_REGISTRY.to_owned() } else { domain.clone() };
        let on_loopback = is_loopback_host(host_of(&domain));
        let plain_allowed = options.insecure || on_loopback;
        Self {
            authority,
            domain,
            options,
            access,
            on_loopback,
            plain_allowed,
            scheme: OnceLock::new(),
            agent: OnceLock::new(),
            authorization: Mutex::new(None),
        }
    }

    pub(super) fn attempts(&self) -> u32 {
        self.options.attempts.max(1)
    }

    /// Bytes of an upload's chunk, at least one.
    pub(super) fn chunk(&self) -> u64 {
        self.options.chunk.max(1)
    }

    /// The conversation broke in a way that is worth another attempt.
    pub(super) fn broken(&self, reason: &str) -> Error {
        Error::Transport { registry: self.domain.clone(), reason: printable(reason) }
    }

    /// Waits before attempt `attempt + 1`, as long as the registry asks or else ever longer.
    pub(super) fn pause(&self, attempt: u32, retry_after: Option<Duration>, cancel: &Cancel) -> Result<()> {
        let doubled = self.options.backoff.saturating_mul(1 << attempt.saturating_sub(1).min(10)).min(BACKOFF_MAX);
        let until = Instant::now() + retry_after.unwrap_or(doubled);
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            if cancel.is_set() {
                return Err(Error::Cancelled);
            }
            std::thread::sleep(left.min(TICK));
        }
        Ok(())
    }

    /// GETs `path`, with everything it takes to get a good answer.
    pub(super) fn get(
        &self,
        repository: &str,
        path: &str,
        headers: &[(HeaderName, &str)],
        cancel: &Cancel,
    ) -> Result<Response<Body>> {
        self.request(repository, &Target::Path(path.to_owned()), &Request::new(Method::GET, headers), cancel)
    }

    /// Sends `request`, again and again where that may help.
    pub(super) fn request(
        &self,
        repository: &str,
        target: &Target,
        request: &Request<'_>,
        cancel: &Cancel,
    ) -> Result<Response<Body>> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let error = match self.once(repository, target, request) {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            let Some(wait) = wait_before_retry(&error) else { return Err(error) };
            if attempt >= self.attempts() {
                return Err(error);
            }
            self.pause(attempt, wait, cancel)?;
        }
    }

    /// Sends `request` once, or twice when the first answer asks for authorisation.
    pub(super) fn once(&self, repository: &str, target: &Target, request: &Request<'_>) -> Result<Response<Body>> {
        let path = match target {
            Target::Path(path) => path,
            Target::Elsewhere(uri) => {
                let Answer { response, .. } = self.send(uri, request, None)?;
                return self.good(response, repository, uri.path());
            }
        };
        let used = self.authorization().clone();
        let Answer { response, at_home } = self.to_registry(path, request, used.as_deref())?;
        // A challenge from where a redirect led is not the registry's, and must not be answered with its login.
        if response.status() != StatusCode::UNAUTHORIZED || !at_home {
            return self.good(response, repository, path);
        }
        let Some(challenge) = Challenge::of(response.headers()) else {
            return self.good(response, repository, path);
        };
        let fresh = self.answer(&challenge, repository)?;
        let Answer { response, .. } = self.to_registry(path, request, Some(&fresh))?;
        *self.authorization() = Some(fresh);
        self.good(response, repository, path)
    }

    /// Where `response`, the answer to a request to `asked`, says to go on.
    pub(super) fn location(&self, response: &Response<Body>, asked: &Target) -> Result<Target> {
        let base = match asked {
            Target::Path(path) => self.uri(self.scheme.get().copied().unwrap_or(Scheme::Https), path)?,
            Target::Elsewhere(uri) => uri.clone(),
        };
        let said = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let next = said.and_then(|said| resolve(&base, said));
        let next = next.ok_or_else(|| self.broken("it does not say where to send to"))?;
        // Behind a proxy that ends TLS, registries name themselves without it.
        if next.authority().is_some_and(|authority| authority.as_str().eq_ignore_ascii_case(&self.authority)) {
            return Ok(Target::Path(next.path_and_query().map_or("/", |path| path.as_str()).to_owned()));
        }
        if next.scheme_str() != Some("https") && !self.plain_allowed {
            return Err(self.refused(&format!("it wants content sent to {} without TLS", place(&next))));
        }
        Ok(Target::Elsewhere(next))
    }

    fn authorization(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.authorization.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, challenge: &Challenge, repository: &str) -> Result<String> {
        let denied = |reason: &str| Error::Denied {
            registry: self.domain.clone(),
            repository: repository.to_owned(),
            reason: printable(reason),
        };
        let login = self.options.credentials.get(&self.domain);
        let Some(url) = challenge.token_url(&scopes(challenge, repository, self.access)) else {
            return login.map(super::Login::basic).ok_or_else(|| denied("it requires a login"));
        };
        let realm: Uri = url.parse().map_err(|_| denied("it names a token server that is no URL"))?;
        let secure = realm.scheme_str() == Some("https");
        let on_loopback = self.plain_allowed && realm.host().is_some_and(is_loopback_host);
        let same_host = self.plain_allowed && realm.host() == Some(host_of(&self.authority));
        if !secure && !on_loopback && !same_host {
            return Err(denied(&format!("its token server {realm} does not use TLS")));
        }
        let basic = login.map(super::Login::basic);
        let request = Request::new(Method::GET, &[]);
        let Answer { response, .. } = self.send(&realm, &request, basic.as_deref())?;
        let status = response.status();
        if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN {
            let reason = if login.is_some() { "the login is not accepted" } else { "it requires a login" };
            return Err(denied(reason));
        }
        let response = self.good(response, repository, "its token server")?;
        let answer = read_bounded(&mut response.into_body().into_reader(), ANSWER_MAX, "a token server's answer")?;
        bearer(&answer).ok_or_else(|| denied("its token server's answer has no token"))
    }

    /// A response that is a success, or the error its status is.
    fn good(&self, response: Response<Body>, repository: &str, path: &str) -> Result<Response<Body>> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let retry_after =
            response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let reason = reason_of(response);
        let registry = self.domain.clone();
        let name = path.rsplit('/').next().unwrap_or_default();
        Err(match status.as_u16() {
            401 | 403 => {
                let reason = if reason.is_empty() { "it may require a login".to_owned() } else { reason };
                Error::Denied { registry, repository: repository.to_owned(), reason }
            }
            404 => Error::NotFound { registry, what: format!("{repository} {name}") },
            status => {
                let reason = if reason.is_empty() { reason } else { format!(": {reason}") };
                Error::Status {
                    registry,
                    what: path.to_owned(),
                    status,
                    reason,
                    retry_after: retry_after.map(Duration::from_secs),
                }
            }
        })
    }

    /// Sends to the registry, deciding on first contact whether it speaks TLS.
    fn to_registry(&self, path: &str, request: &Request<'_>, authorization: Option<&str>) -> Result<Answer> {
        if let Some(scheme) = self.scheme.get() {
            return self.send(&self.uri(*scheme, path)?, request, authorization);
        }
        let secure = self.send(&self.uri(Scheme::Https, path)?, request, authorization);
        let (scheme, result) = match secure {
            Err(Error::Transport { .. } | Error::Unreachable { .. }) if self.plain_allowed => {
                (Scheme::Http, self.send(&self.uri(Scheme::Http, path)?, request, authorization))
            }
            result => (Scheme::Https, result),
        };
        if result.is_ok() {
            self.scheme.get_or_init(|| scheme);
        }
        result
    }

    fn uri(&self, scheme: Scheme, path: &str) -> Result<Uri> {
        let scheme = if scheme == Scheme::Https { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.authority).parse().map_err(|_| self.broken("its name is not a host's"))
    }

    /// One exchange, redirects followed. `authorization` never leaves the origin of `uri`.
    fn send(&self, uri: &Uri, request: &Request<'_>, authorization: Option<&str>) -> Result<Answer> {
        let origin = origin_of(uri);
        let mut at = uri.clone();
        for _ in 0..=REDIRECTS_MAX {
            let login = authorization.filter(|_| origin_of(&at) == origin);
            let response = self.exchange(&at, request, login)?;
            let status = response.status();
            // Only these two keep method and body.
            let keeps = matches!(status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT);
            if !status.is_redirection() || !(request.is_read() || keeps) {
                return Ok(Answer { response, at_home: origin_of(&at) == origin });
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| resolve(&at, location));
            let next = next.ok_or_else(|| self.broken(&format!("{} redirects to nowhere", place(&at))))?;
            if at.scheme_str() == Some("https") && next.scheme_str() != Some("https") && !self.plain_allowed {
                return Err(self.refused(&format!("{} redirects to {} without TLS", place(&at), place(&next))));
            }
            at = next;
        }
        Err(self.refused("it redirects too often"))
    }

    fn exchange(&self, at: &Uri, request: &Request<'_>, authorization: Option<&str>) -> Result<Response<Body>> {
        let mut head = http::Request::builder().method(request.method.clone()).uri(at);
        for (name, value) in request.headers {
            head = head.header(name, *value);
        }
        if let Some(value) = authorization {
            head = head.header(AUTHORIZATION, value);
        }
        let unfit = |error: http::Error| self.refused(&error.to_string());
        let sent = match request.content {
            Some(content) => {
                let (mut reader, length) = content()?;
                let head = head.header(CONTENT_LENGTH, length).body(SendBody::from_reader(&mut *reader));
                self.agent()?.run(head.map_err(unfit)?)
            }
            None if request.is_read() => self.agent()?.run(head.body(()).map_err(unfit)?),
            None => self.agent()?.run(head.body(&[] as &[u8]).map_err(unfit)?),
        };
        sent.map_err(|error| self.failed(at, error))
    }

    /// The error for a request to `at` that got no response.
    fn failed(&self, at: &Uri, error: ureq::Error) -> Error {
        use std::io::ErrorKind as Kind;
        let lasting = match &error {
            ureq::Error::HostNotFound | ureq::Error::BadUri(_) | ureq::Error::Tls(_) | ureq::Error::Rustls(_) => true,
            // TLS reports a certificate it does not trust as invalid data.
            ureq::Error::Io(io) => matches!(
                io.kind(),
                Kind::ConnectionRefused | Kind::NetworkUnreachable | Kind::HostUnreachable | Kind::InvalidData
            ),
            _ => false,
        };
        let words = match &error {
            ureq::Error::Io(io) => io.to_string().split(" (os error").next().unwrap_or_default().to_owned(),
            other => other.to_string(),
        };
        let reason = format!("{}: {words}", place(at));
        if lasting {
            Error::Unreachable { registry: self.domain.clone(), reason: printable(&reason) }
        } else {
            self.broken(&reason)
        }
    }

    fn refused(&self, reason: &str) -> Error {
        Error::Unsupported(format!("registry {}: {}", self.domain, printable(reason)))
    }

    fn agent(&self) -> Result<&Agent> {
        if let Some(agent) = self.agent.get() {
            return Ok(agent);
        }
        let tls = if self.plain_allowed {
            TlsConfig::builder().disable_verification(true).build()
        } else {
            TlsConfig::builder().root_certs(self.roots()?).build()
        };
        let timeouts = self.options.timeouts;
        let proxy = if self.options.proxy_from_env && !self.on_loopback { Proxy::try_from_env() } else { None };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(USER_AGENT)
            .proxy(proxy)
            .tls_config(tls)
            .timeout_resolve(Some(timeouts.connect))
            .timeout_connect(Some(timeouts.connect))
            .timeout_send_request(Some(timeouts.response))
            .timeout_recv_response(Some(timeouts.response))
            .timeout_per_read(Some(timeouts.idle))
            .timeout_per_write(Some(timeouts.idle))
            .build();
        Ok(self.agent.get_or_init(|| Agent::with_parts(config, DefaultConnector::default(), HostResolver::default())))
    }

    /// The roots of trust: the option's, the host's, or those this program was built with.
    fn roots(&self) -> Result<RootCerts> {
        let read = |path: &std::path::Path| -> Result<Option<Vec<u8>>> {
            match std::fs::File::open(path) {
                Ok(mut file) => read_bounded(&mut file, ROOTS_MAX, &path.display().to_string()).map(Some),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(Error::Read { what: path.display().to_string(), source }),
            }
        };
        let pem = match &self.options.roots {
            Some(path) => {
                Some(read(path)?.ok_or_else(|| Error::malformed(path.display().to_string(), "no such file"))?)
            }
            None => {
                let mut found = None;
                for path in ROOTS {
                    found = read(path.as_ref())?;
                    if found.is_some() {
                        break;
                    }
                }
                found
            }
        };
        let Some(pem) = pem else { return Ok(RootCerts::WebPki) };
        let certificates: Vec<_> = parse_pem(&pem)
            .filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            })
            .collect();
        Ok(RootCerts::new_with_certs(&certificates))
    }
}

/// Whether another attempt after `error` may succeed, and how long the registry wants it to be put off.
pub(super) fn wait_before_retry(error: &Error) -> Option<Option<Duration>> {
    match error {
        Error::Transport { .. } => Some(None),
        Error::Status { status: 429 | 500 | 502..=504, retry_after, .. }
            if retry_after.is_none_or(|wait| wait <= RETRY_AFTER_MAX) =>
        {
            Some(*retry_after)
        }
        _ => None,
    }
}

/// Scheme, host and port; what credentials are bound to.
fn origin_of(uri: &Uri) -> (String, String, u16) {
    let scheme = uri.scheme_str().unwrap_or_default().to_owned();
    let default = if scheme == "https" { 443 } else { 80 };
    (scheme, uri.host().unwrap_or_default().to_ascii_lowercase(), uri.port_u16().unwrap_or(default))
}

/// A URL for people: no query, which may hold a signature.
fn place(uri: &Uri) -> String {
    let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
    format!("{}://{authority}{}", uri.scheme_str().unwrap_or_default(), uri.path())
}

/// The target of a redirect from `from`.
fn resolve(from: &Uri, location: &str) -> Option<Uri> {
    let (scheme, authority) = (from.scheme_str()?, from.authority()?);
    let absolute = if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        location.to_owned()
    };
    let uri: Uri = absolute.parse().ok()?;
    let web = matches!(uri.scheme_str(), Some("http" | "https"));
    (web && uri.host().is_some_and(|host| !host.is_empty())).then_some(uri)
}

/// The registry's own words in an error response, made safe to print.
fn reason_of(response: Response<Body>) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        errors: Vec<Item>,
    }
    #[derive(Deserialize)]
    struct Item {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let body = read_bounded(&mut response.into_body().into_reader(), ANSWER_MAX, "error").unwrap_or_default();
    let Ok(refusal) = serde_json::from_slice::<Refusal>(&body) else { return String::new() };
    let Some(first) = refusal.errors.into_iter().next() else { return String::new() };
    printable(if first.message.is_empty() { &first.code } else { &first.message })
}

/// `text` from a peer, without control characters and not too long.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(400).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_resolved() {
        let from: Uri = "https://reg.example:5000/v2/a/blobs/x".parse().expect("valid");
        let to = |location: &str| resolve(&from, location).map(|uri| uri.to_string());
        assert_eq!(to("/other").as_deref(), Some("https://reg.example:5000/other"));
        assert_eq!(to("//cdn.example/x").as_deref(), Some("https://cdn.example/x"));
        assert_eq!(to("http://cdn.example/x?sig=1").as_deref(), Some("http://cdn.example/x?sig=1"));
        for bad in ["", "file:///etc/passwd", "ftp://x/y", "x y", "javascript:1", "http://"] {
            assert_eq!(to(bad), None, "{bad}");
        }
        let same = |a: &str, b: &str| origin_of(&a.parse().expect("valid")) == origin_of(&b.parse().expect("valid"));
        assert!(same("https://a/x", "https://A:443/y"));
        assert!(!same("https://a/x", "http://a/x"));
        assert!(!same("https://a/x", "https://a:444/x"));
        assert!(!same("https://a/x", "https://b.a/x"));
    }

    #[test]
    fn a_peers_words_cannot_drive_a_terminal() {
        assert_eq!(printable("a\x1b[2Jb\r\nc\u{9b}d"), "a[2Jbcd");
        assert_eq!(printable(&"x".repeat(10_000)).len(), 400);
    }
}
