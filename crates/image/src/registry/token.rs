//! Tokens: how they are asked for, and how long they are kept (distribution's token specification, RFC 6749).
//!
//! Who has a login asks by POST as OAuth wants it, and where a token server does not take that, as many do not, by GET.
//! Tokens are kept by what they allow until they expire; requests that need one at the same time fetch one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use oci::reference::{host_of, is_loopback_host};
use serde::Deserialize;
use ureq::Body;
use ureq::http::header::CONTENT_TYPE;
use ureq::http::{Method, Response, Uri};

use super::auth::{Challenge, Scopes};
use super::http::{Answer, Http, Request};
use super::place::percent_encode;
use super::{Login, Secret};
use crate::content::read_bounded;
use crate::{Error, Result};

/// Largest token answer read, in bytes.
const ANSWER_MAX: u64 = 1 << 20;
/// How long a token lives whose server does not say (token specification, `expires_in`).
const LIFE: Duration = Duration::from_secs(60);
/// A token is renewed this long before its end, or when a quarter of its life is left.
const MARGIN: Duration = Duration::from_secs(10);
/// The longest life that is believed: servers that say more could say anything, and clocks have an end.
const LIFE_MAX: Duration = Duration::from_secs(24 * 3600);
const CLIENT: &str = "lighter";
const FORM: &str = "application/x-www-form-urlencoded";

/// What is known about being let in at one endpoint.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    challenge: Mutex<Option<Challenge>>,
    kept: Mutex<Vec<Kept>>,
    /// Held while a token is fetched, so that others wait for it instead of fetching their own.
    fetching: Mutex<()>,
    /// The token server does not take POST.
    no_oauth: AtomicBool,
}

#[derive(Debug)]
struct Kept {
    scopes: Scopes,
    header: String,
    until: Instant,
}

/// A token server's answer.
#[derive(Default, Deserialize)]
pub(super) struct Grant {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    refresh_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
}

impl Grant {
    pub(super) fn read(answer: &[u8]) -> Option<Self> {
        serde_json::from_slice(answer).ok()
    }

    /// The token as the value of an `Authorization` header.
    pub(super) fn header(&self) -> Option<String> {
        let token = self.token.as_ref().filter(|t| !t.is_empty()).or(self.access_token.as_ref())?;
        let sound = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
        sound.then(|| format!("Bearer {token}"))
    }

    pub(super) fn life(&self) -> Duration {
        let life = self.expires_in.filter(|seconds| *seconds > 0).map_or(LIFE, Duration::from_secs).min(LIFE_MAX);
        life - MARGIN.min(life / 4)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Http {
    /// The `Authorization` header for `scopes`, as far as it is known what the registry wants.
    pub(super) fn authorization(&self, scopes: &Scopes) -> Result<Option<String>> {
        let challenge = lock(&self.tokens.challenge).clone();
        challenge.map(|challenge| self.answer(&challenge, scopes, None)).transpose()
    }

    /// The same after the registry answered with `challenge` to a request with the header `used`.
    pub(super) fn authorize(&self, challenge: Challenge, scopes: &Scopes, used: Option<&str>) -> Result<String> {
        let header = self.answer(&challenge, scopes, used)?;
        *lock(&self.tokens.challenge) = Some(challenge);
        Ok(header)
    }

    fn answer(&self, challenge: &Challenge, scopes: &Scopes, refused: Option<&str>) -> Result<String> {
        let Challenge::Bearer { scope, .. } = challenge else {
            let login = self.login()?.ok_or_else(|| self.denied("it requires a login"))?;
            return login.basic().ok_or_else(|| self.denied("it wants a password, not an identity token"));
        };
        let mut wanted = scopes.clone();
        // Of a challenge that was kept, the scope was another request's.
        if refused.is_some() || lock(&self.tokens.challenge).is_none() {
            wanted.add(scope);
        }
        let _one = lock(&self.tokens.fetching);
        let now = Instant::now();
        let known = {
            let mut kept = lock(&self.tokens.kept);
            kept.retain(|kept| kept.until > now && Some(kept.header.as_str()) != refused);
            kept.iter().find(|kept| kept.scopes.covers(&wanted)).map(|kept| kept.header.clone())
        };
        if let Some(header) = known {
            return Ok(header);
        }
        let (grant, header) = self.grant(challenge, &wanted, false)?;
        lock(&self.tokens.kept).push(Kept { scopes: wanted, header: header.clone(), until: now + grant.life() });
        Ok(header)
    }

    /// Asks for a token that needs no password again: an identity token, if the server gives any.
    pub(super) fn identity(&self, challenge: &Challenge) -> Result<Option<String>> {
        if !matches!(challenge, Challenge::Bearer { .. }) {
            return Ok(None);
        }
        let (grant, _) = self.grant(challenge, &Scopes::default(), true)?;
        if self.tokens.no_oauth.load(Ordering::Relaxed) {
            // It could not be used: identity tokens are exchanged by OAuth only.
            return Ok(None);
        }
        Ok(grant.refresh_token.filter(|token| !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic())))
    }

    fn grant(&self, challenge: &Challenge, scopes: &Scopes, offline: bool) -> Result<(Grant, String)> {
        let Challenge::Bearer { realm, service, .. } = challenge else { return Ok(Default::default()) };
        let login = self.login()?;
        if let Some(Login { secret: Secret::RegistryToken(token), .. }) = &login {
            return Ok((Grant::default(), format!("Bearer {token}")));
        }
        let realm = self.trusted(realm)?;
        let by_post = match &login {
            Some(login) if !self.tokens.no_oauth.load(Ordering::Relaxed) => {
                self.post(&realm, service, scopes, login, offline)?
            }
            _ => None,
        };
        let answer = match by_post {
            Some(answer) => answer,
            None => self.get_token(&realm, service, scopes, login.as_ref(), offline)?,
        };
        if matches!(answer.status().as_u16(), 401 | 403) {
            let reason = if login.is_some() { "the login is not accepted" } else { "it requires a login" };
            return Err(self.denied(reason));
        }
        let answer = self.good(answer, "its token server")?;
        let bytes = read_bounded(&mut self.paced(answer), ANSWER_MAX, "a token server's answer")?;
        let grant = Grant::read(&bytes);
        let header = grant.as_ref().and_then(Grant::header);
        grant.zip(header).ok_or_else(|| self.denied("its token server's answer has no token"))
    }

    /// The token server, when it may be told a password.
    fn trusted(&self, realm: &str) -> Result<Uri> {
        let uri: Uri = realm.parse().map_err(|_| self.denied("it names a token server that is no URL"))?;
        let plain = self.endpoint.plain || self.endpoint.scheme == Some(super::endpoint::Scheme::Http);
        let on_loopback = plain && uri.host().is_some_and(is_loopback_host);
        let same_host = plain && uri.host() == Some(host_of(&self.endpoint.authority));
        if uri.scheme_str() == Some("https") || on_loopback || same_host {
            return Ok(uri);
        }
        Err(self.denied(&format!("its token server {realm} does not use TLS")))
    }

    /// By OAuth; `None` when the server does not take that.
    fn post(
        &self,
        realm: &Uri,
        service: &str,
        scopes: &Scopes,
        login: &Login,
        offline: bool,
    ) -> Result<Option<Response<Body>>> {
        let scope = scopes.words().join(" ");
        let access = if offline { "offline" } else { "online" };
        let mut fields = vec![("client_id", CLIENT), ("service", service), ("scope", &scope), ("access_type", access)];
        match &login.secret {
            Secret::IdentityToken(token) => fields.extend([("grant_type", "refresh_token"), ("refresh_token", token)]),
            Secret::Password(password) => {
                fields.extend([("grant_type", "password"), ("username", &login.username), ("password", password)]);
            }
            Secret::RegistryToken(_) => return Ok(None),
        }
        let form: Vec<String> = fields
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| format!("{name}={}", percent_encode(value)))
            .collect();
        let form = form.join("&");
        let content = || Ok((Box::new(form.as_bytes()) as Box<dyn std::io::Read>, form.len() as u64));
        let headers = [(CONTENT_TYPE, FORM)];
        let request = Request { content: Some(&content), secret: true, ..Request::new(Method::POST, &headers) };
        let Answer { response, .. } = self.send(realm, &request, None)?;
        if matches!(response.status().as_u16(), 400 | 401 | 404 | 405) {
            // Some do not know this way, others not this kind of login by it: the other way has the last word.
            self.tokens.no_oauth.store(true, Ordering::Relaxed);
            return Ok(None);
        }
        Ok(Some(response))
    }

    fn get_token(
        &self,
        realm: &Uri,
        service: &str,
        scopes: &Scopes,
        login: Option<&Login>,
        offline: bool,
    ) -> Result<Response<Body>> {
        let mut url = realm.to_string();
        let words = scopes.words();
        let mut fields = vec![("service", service)];
        fields.extend(words.iter().map(|word| ("scope", word.as_str())));
        if let Some(login) = login.filter(|login| !login.username.is_empty()) {
            fields.push(("account", &login.username));
        }
        if offline {
            fields.extend([("client_id", CLIENT), ("offline_token", "true")]);
        }
        for (name, value) in fields.into_iter().filter(|(_, value)| !value.is_empty()) {
            url.push(if url.contains('?') { '&' } else { '?' });
            url.push_str(&format!("{name}={}", percent_encode(value)));
        }
        let uri: Uri = url.parse().map_err(|_| self.denied("it names a token server that is no URL"))?;
        let basic = login.and_then(|login| login.basic_or_token());
        Ok(self.send(&uri, &Request::new(Method::GET, &[]), basic.as_deref())?.response)
    }

    fn login(&self) -> Result<Option<Login>> {
        self.options.credentials.find(&self.endpoint.account, &self.endpoint.repository)
    }

    /// The registry does not let this program in.
    pub(super) fn denied(&self, reason: &str) -> Error {
        Error::Denied {
            registry: self.endpoint.account.clone(),
            repository: self.endpoint.repository.clone(),
            reason: super::place::printable(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_must_fit_a_header() {
        let bearer = |answer: &[u8]| Grant::read(answer).and_then(|grant| grant.header());
        assert_eq!(bearer(br#"{"token":"abc","expires_in":300}"#).as_deref(), Some("Bearer abc"));
        assert_eq!(bearer(br#"{"token":"","access_token":"x.y"}"#).as_deref(), Some("Bearer x.y"));
        for bad in [&b"{}"[..], b"", b"[]", br#"{"token":"a\r\nX: y"}"#, br#"{"token":null}"#, br#"{"token":"a b"}"#] {
            assert_eq!(bearer(bad), None);
        }
    }

    #[test]
    fn tokens_are_renewed_before_their_end() {
        let life = |seconds| Grant { expires_in: seconds, ..Grant::default() }.life();
        assert_eq!(life(Some(300)), Duration::from_secs(290));
        assert_eq!(life(Some(4)), Duration::from_secs(3));
        assert_eq!(life(None), Duration::from_secs(50));
        assert_eq!(life(Some(0)), Duration::from_secs(50));
        assert_eq!(life(Some(u64::MAX)), LIFE_MAX - MARGIN, "a clock's end is never reached");
    }
}
