//! Any bytes as what a registry answers, and as what is configured about registries.

use oci::Reference;
use ureq::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use ureq::http::{HeaderMap, HeaderValue, Uri};

use super::auth::{Challenge, Scopes};
use super::place::{percent_encode, printable, resolve};
use super::proxy::Proxies;
use super::{config, credentials, dns, failure, listing, token};

/// Headers: the same bytes as each of those that are read.
pub(crate) fn headers(bytes: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(bytes) {
        let mut headers = HeaderMap::new();
        headers.insert(WWW_AUTHENTICATE, value.clone());
        headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"x\""));
        headers.insert(RETRY_AFTER, value);
        // The one above is always there to be answered.
        if let Some(Challenge::Bearer { realm, scope, .. }) = Challenge::of(&headers) {
            assert!(!realm.is_empty());
            let mut scopes = Scopes::of_repository("a/b", "pull");
            let before = scopes.clone();
            scopes.add(&scope);
            assert!(scopes.covers(&before) && scopes.covers(&scopes), "{scope:?}");
            let mut again = Scopes::default();
            again.add(&scopes.words().join(" "));
            assert_eq!(again, scopes, "{scope:?}");
        }
        let _ = failure::retry_after(&headers);
    }
    let text = String::from_utf8_lossy(bytes);
    if let Some(next) = listing::next_of(&text) {
        assert!(text.contains(&next));
    }
    if let Some(warning) = failure::warning(&text) {
        assert!(!warning.chars().any(char::is_control));
    }
    assert!(!printable(&text).chars().any(char::is_control));
    assert!(percent_encode(&text).is_ascii());
    let from = Uri::from_static("https://registry.example:5000/v2/a/blobs/x");
    if let Some(uri) = resolve(&from, &text) {
        assert!(matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty()));
    }
    let except = Proxies { http: None, https: Some("http://proxy.example".to_owned()), except: text.into_owned() };
    let _ = except.on_the_way_to(&from);
    let _ = except.on_the_way_to(&Uri::from_static("https://[fd00::1]/"));
}

/// A token server's answer.
pub(crate) fn grant(bytes: &[u8]) {
    let Some(grant) = token::Grant::read(bytes) else { return };
    if let Some(header) = grant.header() {
        assert!(HeaderValue::from_str(&header).is_ok(), "{header:?}");
    }
    let _ = grant.life();
}

/// `registries.conf`, `hosts.toml`, `daemon.json`.
pub(crate) fn configuration(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for name in ["registry.example:5000/a/b/c:1", "busybox"] {
        let reference: Reference = name.parse().expect("a reference");
        config::fuzz(text, &reference);
    }
}

/// `config.json` and `auth.json`. What is not read is told without its secrets.
pub(crate) fn logins(bytes: &[u8]) {
    for paths in [false, true] {
        if let Ok(logins) = credentials::parse(bytes, paths) {
            for login in logins.values() {
                for header in [login.basic(), login.basic_or_token()].into_iter().flatten() {
                    assert!(header.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{header:?}");
                }
            }
        }
    }
}

/// `hosts` and `resolv.conf`, NUL, and a name server's answer.
pub(crate) fn names(bytes: &[u8]) {
    let split = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let (text, message) = bytes.split_at(split);
    dns::fuzz(&String::from_utf8_lossy(text), message.get(1..).unwrap_or_default());
}
