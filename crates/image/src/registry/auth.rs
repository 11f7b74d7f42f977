//! Challenges (RFC 9110 §11, distribution's token specification) and the tokens that answer them.

use serde::Deserialize;
use ureq::http::{HeaderMap, header::WWW_AUTHENTICATE};

use super::http::Access;

/// Longest header that is looked at, in bytes.
const HEADER_MAX: usize = 8 << 10;

/// What a registry asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User name and password with every request.
    Basic,
    /// A token from `realm`.
    Bearer { realm: String, service: String, scope: String },
}

impl Challenge {
    /// The challenge to answer: a token when one is offered.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let all: Vec<Self> = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .filter(|value| value.len() <= HEADER_MAX)
            .flat_map(parse)
            .collect();
        let bearer = all.iter().find(|challenge| matches!(challenge, Self::Bearer { .. }));
        bearer.or_else(|| all.first()).cloned()
    }

    /// Where to fetch the token for `scopes`, for `Bearer`.
    pub(super) fn token_url(&self, scopes: &[String]) -> Option<String> {
        let Self::Bearer { realm, service, .. } = self else { return None };
        let mut url = realm.clone();
        let mut separator = if url.contains('?') { '&' } else { '?' };
        let parameters =
            std::iter::once(("service", service.as_str())).chain(scopes.iter().map(|s| ("scope", s.as_str())));
        for (key, value) in parameters.filter(|(_, value)| !value.is_empty()) {
            url.push(separator);
            url.push_str(key);
            url.push('=');
            url.push_str(&percent_encode(value));
            separator = '&';
        }
        Some(url)
    }
}

/// What to ask the token server for: what the registry says, and what this program will need of `repository` next, so
/// that one token does for all of a push.
pub(super) fn scopes(challenge: &Challenge, repository: &str, access: Access) -> Vec<String> {
    let Challenge::Bearer { scope, .. } = challenge else { return Vec::new() };
    let said = scope.split_whitespace().map(str::to_owned);
    match access {
        Access::Login => said.collect(),
        Access::Pull if scope.trim().is_empty() => vec![format!("repository:{repository}:pull")],
        Access::Pull => said.collect(),
        Access::Push => {
            let prefix = format!("repository:{repository}:");
            let own = format!("{prefix}pull,push");
            std::iter::once(own).chain(said.filter(|scope| !scope.starts_with(&prefix))).collect()
        }
    }
}

fn percent_encode(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/' | b':' | b',') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// All challenges of one header: `Scheme key=value, key="value", Scheme …`.
fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut rest = header.trim();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c == ',' || c.is_whitespace()).unwrap_or(rest.len());
        let word = rest[..end].to_ascii_lowercase();
        rest = rest[end..].trim_start();
        if let Some(value) = rest.strip_prefix('=') {
            let (value, after) = value_of(value.trim_start());
            if let Some((_, parameters)) = challenges.last_mut() {
                parameters.push((word, value));
            }
            rest = after;
        } else if !word.is_empty() {
            challenges.push((word, Vec::new()));
        }
        rest = rest.trim_start_matches(|c: char| c == ',' || c.is_whitespace());
    }
    challenges
        .into_iter()
        .filter_map(|(scheme, parameters)| {
            let get = |key: &str| parameters.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone()).unwrap_or_default();
            match scheme.as_str() {
                "basic" => Some(Challenge::Basic),
                "bearer" if !get("realm").is_empty() => {
                    Some(Challenge::Bearer { realm: get("realm"), service: get("service"), scope: get("scope") })
                }
                _ => None,
            }
        })
        .collect()
}

/// A token or quoted string at the start of `text`, and what follows it.
fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|c: char| c == ',' || c.is_whitespace()).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

/// The token in a token server's answer, as the value of an `Authorization` header.
pub(super) fn bearer(answer: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        token: Option<String>,
        #[serde(default)]
        access_token: Option<String>,
    }
    let answer: Answer = serde_json::from_slice(answer).ok()?;
    let token = answer.token.filter(|t| !t.is_empty()).or(answer.access_token)?;
    let sound = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
    sound.then(|| format!("Bearer {token}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_parsed() {
        let bearer = Challenge::Bearer {
            realm: "https://auth.example/token".to_owned(),
            service: "reg, \"x\"".to_owned(),
            scope: "repository:a/b:pull".to_owned(),
        };
        assert_eq!(
            parse(
                r#"Basic realm="x", Bearer realm="https://auth.example/token",service="reg, \"x\"",scope="repository:a/b:pull""#
            ),
            [Challenge::Basic, bearer.clone()]
        );
        assert_eq!(
            bearer.token_url(&scopes(&bearer, "unused", Access::Pull)).expect("a url"),
            "https://auth.example/token?service=reg%2C%20%22x%22&scope=repository:a/b:pull".replace("%2C", ",")
        );
        assert_eq!(
            parse("bearer realm=r"),
            [Challenge::Bearer { realm: "r".to_owned(), service: String::new(), scope: String::new() }]
        );
        for nothing in ["", ",,,", "=", "Negotiate", "Bearer", "Bearer service=x", "\"", "a=\"b"] {
            assert_eq!(parse(nothing), [], "{nothing}");
        }
    }

    #[test]
    fn a_push_asks_for_everything_at_once() {
        let bearer = |scope: &str| Challenge::Bearer {
            realm: "https://auth.example/token".to_owned(),
            service: String::new(),
            scope: scope.to_owned(),
        };
        let own = "repository:a/b:pull,push";
        assert_eq!(scopes(&bearer("repository:a/b:pull"), "a/b", Access::Push), [own]);
        let both = bearer("repository:a/b:pull,push repository:c:pull");
        assert_eq!(scopes(&both, "a/b", Access::Push), [own, "repository:c:pull"]);
        assert_eq!(
            both.token_url(&scopes(&both, "a/b", Access::Push)).expect("a url"),
            "https://auth.example/token?scope=repository:a/b:pull,push&scope=repository:c:pull"
        );
        assert_eq!(scopes(&bearer(""), "a/b", Access::Pull), ["repository:a/b:pull"]);
        assert_eq!(scopes(&bearer(""), "", Access::Login), [""; 0]);
    }

    #[test]
    fn tokens_must_fit_a_header() {
        assert_eq!(bearer(br#"{"token":"abc","expires_in":300}"#).as_deref(), Some("Bearer abc"));
        assert_eq!(bearer(br#"{"token":"","access_token":"x.y"}"#).as_deref(), Some("Bearer x.y"));
        for bad in [&b"{}"[..], b"", b"[]", br#"{"token":"a\r\nX: y"}"#, br#"{"token":null}"#, br#"{"token":"a b"}"#] {
            assert_eq!(bearer(bad), None);
        }
    }
}
