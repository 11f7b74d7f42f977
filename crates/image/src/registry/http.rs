//! Requests to one endpoint: scheme, authorisation, redirects, retries.
//!
//! TLS comes first; an endpoint that is on loopback, or declared insecure, may answer without. Credentials, tokens and
//! configured headers are sent to the endpoint's own origin only, whatever it redirects to.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use oci::reference::{host_of, is_loopback_host};
use ureq::http::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderName, LOCATION};
use ureq::http::{self, Method, Response, StatusCode, Uri};
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Body, Proxy, SendBody};

use super::auth::{Challenge, Scopes};
use super::dns::HostResolver;
use super::endpoint::{Endpoint, Scheme, Trust};
use super::failure::wait_before_retry;
use super::pace::Paced;
use super::place::{origin_of, percent_encode, place, resolve};
use super::token::Tokens;
use super::{Options, tls};
use crate::assemble::Cancel;
use crate::{Error, Result};

const USER_AGENT: &str = concat!("lighter/", env!("CARGO_PKG_VERSION"));
const REDIRECTS_MAX: usize = 5;
const BACKOFF_MAX: Duration = Duration::from_secs(8);
const TICK: Duration = Duration::from_millis(50);
/// How often a mirror is tried: the registry itself is behind it.
const MIRROR_ATTEMPTS: u32 = 2;

/// A response, and whether it came from the origin that was asked or from where that redirected.
pub(super) struct Answer {
    pub(super) response: Response<Body>,
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
    /// Another repository of the registry that is read from.
    pub(super) also_from: Option<&'a str>,
    /// Whether the body is for nobody but whom it is sent to.
    pub(super) secret: bool,
}

impl<'a> Request<'a> {
    /// Without a body.
    pub(super) fn new(method: Method, headers: &'a [(HeaderName, &'a str)]) -> Self {
        Self { method, headers, content: None, also_from: None, secret: false }
    }

    fn is_read(&self) -> bool {
        matches!(self.method, Method::GET | Method::HEAD)
    }
}

/// Sends requests to one endpoint.
#[derive(Debug)]
pub(super) struct Http {
    pub(super) endpoint: Endpoint,
    pub(super) options: Arc<Options>,
    access: Access,
    /// Whether others come after it when it fails.
    is_mirror: bool,
    scheme: OnceLock<Scheme>,
    agents: Mutex<BTreeMap<(bool, Option<String>), Agent>>,
    pub(super) tokens: Tokens,
    /// It failed in a way that will last.
    given_up: AtomicBool,
    /// What registries want their users to read.
    pub(super) warnings: Arc<Mutex<Vec<String>>>,
}

impl Http {
    pub(super) fn new(
        endpoint: Endpoint,
        options: Arc<Options>,
        access: Access,
        is_mirror: bool,
        warnings: Arc<Mutex<Vec<String>>>,
    ) -> Self {
        let scheme = endpoint.scheme.map_or_else(OnceLock::new, OnceLock::from);
        Self {
            endpoint,
            options,
            access,
            is_mirror,
            scheme,
            agents: Mutex::default(),
            tokens: Tokens::default(),
            given_up: AtomicBool::new(false),
            warnings,
        }
    }

    pub(super) fn attempts(&self) -> u32 {
        let most = if self.is_mirror { MIRROR_ATTEMPTS } else { u32::MAX };
        self.options.attempts.clamp(1, most)
    }

    /// Bytes of an upload's chunk, at least one.
    pub(super) fn chunk(&self) -> u64 {
        self.options.chunk.max(1)
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    /// Does not ask this endpoint any more, when there are others.
    pub(super) fn give_up(&self) {
        self.given_up.store(self.is_mirror, Ordering::Relaxed);
    }

    /// Ends all connections at once, also those that somebody waits for; there will be no others.
    pub(super) fn shut(&self) {
        let agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        agents.values().cloned().for_each(Agent::shutdown);
    }

    /// The path of `rest` in the repository.
    pub(super) fn path(&self, rest: &str) -> Target {
        let mut path = format!("{}/{}/{rest}", self.endpoint.root, self.endpoint.repository);
        if let Some(namespace) = &self.endpoint.namespace {
            path.push(if path.contains('?') { '&' } else { '?' });
            path.push_str(&format!("ns={}", percent_encode(namespace)));
        }
        Target::Path(path)
    }

    /// The reader of a response's body, which a peer cannot draw out.
    pub(super) fn paced(&self, response: Response<Body>) -> Paced<ureq::BodyReader<'static>> {
        Paced::new(response.into_body().into_reader(), self.options.timeouts)
    }

    /// Waits before attempt `attempt + 1`, as long as the registry asks or else ever longer, and never quite as long as
    /// others that were sent away at the same time.
    pub(super) fn pause(&self, attempt: u32, retry_after: Option<Duration>, cancel: &Cancel) -> Result<()> {
        let doubled = self.options.backoff.saturating_mul(1 << attempt.saturating_sub(1).min(10)).min(BACKOFF_MAX);
        let mut noise = [0_u8; 1];
        // Without randomness everybody waits alike; that is no failure.
        let _ = rustix::rand::getrandom(&mut noise, rustix::rand::GetRandomFlags::NONBLOCK);
        let jitter = doubled / 2 * u32::from(noise[0]) / 256;
        let until = Instant::now() + retry_after.map_or(doubled / 2, |said| said) + jitter;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            if cancel.is_set() {
                return Err(Error::Cancelled);
            }
            std::thread::sleep(left.min(TICK));
        }
        Ok(())
    }

    /// GETs `target`, with everything it takes to get a good answer.
    pub(super) fn get(
        &self,
        target: &Target,
        headers: &[(HeaderName, &str)],
        cancel: &Cancel,
    ) -> Result<Response<Body>> {
        self.request(target, &Request::new(Method::GET, headers), cancel)
    }

    /// Sends `request`, again and again where that may help.
    pub(super) fn request(&self, target: &Target, request: &Request<'_>, cancel: &Cancel) -> Result<Response<Body>> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let error = match self.once(target, request) {
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
    pub(super) fn once(&self, target: &Target, request: &Request<'_>) -> Result<Response<Body>> {
        let path = match target {
            Target::Path(path) => path,
            Target::Elsewhere(uri) => {
                let Answer { response, .. } = self.send(uri, request, None)?;
                return self.good(response, uri.path());
            }
        };
        let scopes = self.scopes(request);
        let used = self.authorization(&scopes)?;
        let Answer { response, at_home } = self.to_registry(path, request, used.as_deref())?;
        // A challenge from where a redirect led is not the registry's, and must not be answered with its login.
        if response.status() != StatusCode::UNAUTHORIZED || !at_home {
            return self.good(response, path);
        }
        let Some(challenge) = Challenge::of(response.headers()) else {
            return self.good(response, path);
        };
        let fresh = self.authorize(challenge, &scopes, used.as_deref())?;
        let Answer { response, .. } = self.to_registry(path, request, Some(&fresh))?;
        self.good(response, path)
    }

    fn scopes(&self, request: &Request<'_>) -> Scopes {
        let actions = match self.access {
            Access::Login => return Scopes::default(),
            Access::Pull => "pull",
            Access::Push => "pull,push",
        };
        let mut scopes = Scopes::of_repository(&self.endpoint.repository, actions);
        if let Some(from) = request.also_from {
            scopes.add(&format!("repository:{from}:pull"));
        }
        scopes
    }

    /// Whether the registry accepts the login there is for it; an identity token, if it gives one for the password.
    pub(super) fn check_login(&self) -> Result<Option<String>> {
        let path = format!("{}/", self.endpoint.root);
        let request = Request::new(Method::GET, &[]);
        let Answer { response, at_home } = self.to_registry(&path, &request, None)?;
        let challenge = Challenge::of(response.headers()).filter(|_| at_home);
        if response.status() != StatusCode::UNAUTHORIZED {
            return self.good(response, &path).map(|_| None);
        }
        let Some(challenge) = challenge else { return self.good(response, &path).map(|_| None) };
        let identity = self.identity(&challenge)?;
        self.get(&Target::Path(path), &[], &Cancel::default())?;
        Ok(identity)
    }

    /// Where `response`, the answer to a request to `asked`, says to go on.
    pub(super) fn location(&self, response: &Response<Body>, asked: &Target) -> Result<Target> {
        let said = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        self.follow(asked, said.unwrap_or_default())
    }

    /// Where `link`, said in the answer to a request to `asked`, leads.
    pub(super) fn follow(&self, asked: &Target, link: &str) -> Result<Target> {
        let base = match asked {
            Target::Path(path) => self.uri(self.scheme.get().copied().unwrap_or(Scheme::Https), path)?,
            Target::Elsewhere(uri) => uri.clone(),
        };
        let next = resolve(&base, link).ok_or_else(|| self.broken("it does not say where to go on"))?;
        // Behind a proxy that ends TLS, registries name themselves without it.
        let home = |authority: &http::uri::Authority| authority.as_str().eq_ignore_ascii_case(&self.endpoint.authority);
        if next.authority().is_some_and(home) {
            return Ok(Target::Path(next.path_and_query().map_or("/", |path| path.as_str()).to_owned()));
        }
        if next.scheme_str() != Some("https") && !self.may_be_plain() {
            return Err(self.refused(&format!("it wants content sent to {} without TLS", place(&next))));
        }
        Ok(Target::Elsewhere(next))
    }

    fn may_be_plain(&self) -> bool {
        self.endpoint.plain || self.endpoint.scheme == Some(Scheme::Http)
    }

    /// Somewhere else that content may be fetched from, without any login.
    pub(super) fn elsewhere(&self, url: &str) -> Option<Target> {
        let uri: Uri = url.parse().ok()?;
        let fit = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => self.may_be_plain(),
            _ => false,
        };
        (fit && uri.host().is_some()).then_some(Target::Elsewhere(uri))
    }

    /// Sends to the registry, deciding on first contact whether it speaks TLS.
    fn to_registry(&self, path: &str, request: &Request<'_>, authorization: Option<&str>) -> Result<Answer> {
        if let Some(scheme) = self.scheme.get() {
            return self.send(&self.uri(*scheme, path)?, request, authorization);
        }
        let secure = self.send(&self.uri(Scheme::Https, path)?, request, authorization);
        let (scheme, result) = match secure {
            Err(Error::Transport { .. } | Error::Unreachable { .. }) if self.endpoint.plain => {
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
        let uri = format!("{}://{}{path}", scheme.as_str(), self.endpoint.authority);
        uri.parse().map_err(|_| self.broken("its name is not a host's"))
    }

    /// One exchange, redirects followed. `authorization` never leaves the origin of `uri`.
    pub(super) fn send(&self, uri: &Uri, request: &Request<'_>, authorization: Option<&str>) -> Result<Answer> {
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
            if at.scheme_str() == Some("https") && next.scheme_str() != Some("https") && !self.may_be_plain() {
                return Err(self.refused(&format!("{} redirects to {} without TLS", place(&at), place(&next))));
            }
            if request.secret && origin_of(&next) != origin {
                return Err(self.refused(&format!("{} wants a login sent on to {}", place(&at), place(&next))));
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
        if at.authority().is_some_and(|authority| authority.as_str().eq_ignore_ascii_case(&self.endpoint.authority)) {
            for (name, value) in &self.endpoint.headers {
                head = head.header(name, value);
            }
        }
        if let Some(value) = authorization {
            head = head.header(AUTHORIZATION, value);
        }
        let unfit = |error: http::Error| self.refused(&error.to_string());
        let agent = self.agent(at)?;
        let sent = match request.content {
            Some(content) => {
                let (mut reader, length) = content()?;
                let head = head.header(CONTENT_LENGTH, length).body(SendBody::from_reader(&mut *reader));
                agent.run(head.map_err(unfit)?)
            }
            None if request.is_read() => agent.run(head.body(()).map_err(unfit)?),
            None => agent.run(head.body(&[] as &[u8]).map_err(unfit)?),
        };
        sent.map_err(|error| self.failed(at, error))
    }

    /// The connections to the host of `at`: what is configured for the endpoint's host holds for no other.
    fn agent(&self, at: &Uri) -> Result<Agent> {
        let host = at.host().unwrap_or_default();
        let own = host.eq_ignore_ascii_case(host_of(&self.endpoint.authority))
            || (self.endpoint.plain && is_loopback_host(host));
        let proxy = self.options.proxies.on_the_way_to(at).map(str::to_owned);
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = agents.get(&(own, proxy.clone())) {
            return Ok(agent.clone());
        }
        let trust = match own {
            true => self.endpoint.trust.clone(),
            false => Trust { authorities: self.endpoint.trust.authorities.clone(), ..Trust::default() },
        };
        let through = |url: &String| {
            Proxy::new(url).map_err(|_| Error::configuration("the proxy that is configured", "it is no URL of a proxy"))
        };
        let timeouts = self.options.timeouts;
        let connect = self.endpoint.connect.unwrap_or(timeouts.connect);
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(USER_AGENT)
            .proxy(proxy.as_ref().map(through).transpose()?)
            .tls_config(tls::config(&trust, self.options.roots.as_deref())?)
            .timeout_resolve(Some(connect))
            .timeout_connect(Some(connect))
            .timeout_send_request(Some(timeouts.response))
            .timeout_recv_response(Some(timeouts.response))
            .timeout_per_read(Some(timeouts.idle))
            .timeout_per_write(Some(timeouts.idle))
            .build();
        let agent = Agent::with_parts(config, DefaultConnector::default(), HostResolver::default());
        agents.insert((own, proxy), agent.clone());
        Ok(agent)
    }
}
