//! What answers that are no success mean, and which of them are worth another attempt.

use std::time::Duration;

use serde::Deserialize;
use ureq::Body;
use ureq::http::header::{RETRY_AFTER, WARNING};
use ureq::http::{HeaderMap, Response, Uri};

use super::http::Http;
use super::place::{place, printable};
use crate::content::read_bounded;
use crate::{Error, Result};

/// Largest error body read, in bytes.
const ANSWER_MAX: u64 = 1 << 20;
/// Longest wait a registry may ask for; beyond it the user decides.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// Most warnings kept of one client.
const WARNINGS_MAX: usize = 20;

impl Http {
    /// A response that is a success, or the error its status is.
    pub(super) fn good(&self, response: Response<Body>, path: &str) -> Result<Response<Body>> {
        self.heed(response.headers());
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let retry_after = retry_after(response.headers());
        let reason = self.reason_of(response);
        let registry = self.endpoint.account.clone();
        let name = path.split('?').next().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
        Err(match status.as_u16() {
            401 | 403 if reason.is_empty() => self.denied("it may require a login"),
            401 | 403 => self.denied(&reason),
            404 => Error::NotFound { registry, what: format!("{} {name}", self.endpoint.repository) },
            status => {
                let reason = if reason.is_empty() { reason } else { format!(": {reason}") };
                Error::Status { registry, what: path.to_owned(), status, reason, retry_after }
            }
        })
    }

    /// The registry's own words in an error response, made safe to print.
    fn reason_of(&self, response: Response<Body>) -> String {
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
        let body = read_bounded(&mut self.paced(response), ANSWER_MAX, "error").unwrap_or_default();
        let Ok(refusal) = serde_json::from_slice::<Refusal>(&body) else { return String::new() };
        let Some(first) = refusal.errors.into_iter().next() else { return String::new() };
        printable(if first.message.is_empty() { &first.code } else { &first.message })
    }

    /// Keeps what the registry wants its users to read (distribution specification, "Warnings").
    fn heed(&self, headers: &HeaderMap) {
        for value in headers.get_all(WARNING).iter().filter_map(|value| value.to_str().ok()) {
            let Some(text) = warning(value) else { continue };
            self.note(&format!("registry {}: {text}", self.endpoint.account));
        }
    }

    /// Keeps something for users to read, once.
    pub(super) fn note(&self, text: &str) {
        let mut warnings = self.warnings.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if warnings.len() < WARNINGS_MAX && warnings.iter().all(|known| known != text) {
            warnings.push(text.to_owned());
        }
    }

    /// The error for a request to `at` that got no response.
    pub(super) fn failed(&self, at: &Uri, error: ureq::Error) -> Error {
        use std::io::ErrorKind as Kind;
        let lasting = match &error {
            ureq::Error::HostNotFound
            | ureq::Error::BadUri(_)
            | ureq::Error::Tls(_)
            | ureq::Error::Rustls(_)
            | ureq::Error::InvalidProxyUrl => true,
            // TLS reports a certificate it does not trust as invalid data.
            ureq::Error::Io(io) => matches!(
                io.kind(),
                Kind::ConnectionRefused | Kind::NetworkUnreachable | Kind::HostUnreachable | Kind::InvalidData
            ),
            _ => false,
        };
        let error = match error {
            // What the reader of a request's content said: not the connection's failure.
            ureq::Error::Io(io) if io.get_ref().is_some_and(|inner| inner.is::<Error>()) => {
                return Error::read("content to send", io);
            }
            ureq::Error::Io(io) => io.to_string().split(" (os error").next().unwrap_or_default().to_owned(),
            other => other.to_string(),
        };
        let reason = format!("{}: {error}", place(at));
        if lasting {
            Error::Unreachable { registry: self.endpoint.account.clone(), reason: printable(&reason) }
        } else {
            self.broken(&reason)
        }
    }

    /// The conversation broke in a way that is worth another attempt.
    pub(super) fn broken(&self, reason: &str) -> Error {
        Error::Transport { registry: self.endpoint.account.clone(), reason: printable(reason) }
    }

    pub(super) fn refused(&self, reason: &str) -> Error {
        Error::Unsupported(format!("registry {}: {}", self.endpoint.account, printable(reason)))
    }
}

/// How long the peer wants to be left alone: seconds or a date (RFC 9110 §10.2.3).
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let said = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = said.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().relaxed_weekday(true).parse_timestamp(said).ok()?;
    let seconds = date.as_second().saturating_sub(jiff::Timestamp::now().as_second());
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// The text of a `Warning` header with code 299 and no agent.
pub(super) fn warning(value: &str) -> Option<String> {
    let rest = value.trim().strip_prefix("299 - \"")?;
    let mut text = String::new();
    let mut chars = rest.chars();
    loop {
        match chars.next()? {
            '"' => break,
            '\\' => text.extend(chars.next()),
            other => text.push(other),
        }
    }
    let text = printable(&text);
    (!text.is_empty()).then_some(text)
}

/// Whether another attempt after `error` may succeed, and how long the registry wants it to be put off.
pub(super) fn wait_before_retry(error: &Error) -> Option<Option<Duration>> {
    match error {
        Error::Transport { .. } => Some(None),
        Error::Status { status: 408 | 429 | 500 | 502..=504, retry_after, .. }
            if retry_after.is_none_or(|wait| wait <= RETRY_AFTER_MAX) =>
        {
            Some(*retry_after)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_seconds_or_dates() {
        let after = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().expect("a value"));
            retry_after(&headers)
        };
        assert_eq!(after(" 7"), Some(Duration::from_secs(7)));
        assert_eq!(after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert!(after("Wed, 21 Oct 2715 07:28:00 GMT").is_some_and(|wait| wait > RETRY_AFTER_MAX));
        assert_eq!(after("soon"), None);
    }

    #[test]
    fn warnings_are_those_for_people() {
        assert_eq!(warning("299 - \"this is \\\"old\\\"\"").as_deref(), Some("this is \"old\""));
        for other in ["199 - \"x\"", "299 agent \"x\"", "299 - \"open", "299 - \"\"", ""] {
            assert_eq!(warning(other), None, "{other}");
        }
    }
}
