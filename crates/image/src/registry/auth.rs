//! Challenges (RFC 9110 §11, distribution's token specification), and the scopes that tokens are asked for.

use std::collections::{BTreeMap, BTreeSet};

use ureq::http::{HeaderMap, header::WWW_AUTHENTICATE};

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
}

/// What a token allows: actions by resource (`repository:NAME`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Scopes(BTreeMap<String, BTreeSet<String>>);

impl Scopes {
    /// `actions`, separated by commas, in one repository.
    pub(super) fn of_repository(repository: &str, actions: &str) -> Self {
        let mut scopes = Self::default();
        scopes.add(&format!("repository:{repository}:{actions}"));
        scopes
    }

    /// Adds what `text`, scopes separated by white space, says.
    pub(super) fn add(&mut self, text: &str) {
        for scope in text.split_whitespace() {
            // The name may have colons of its own, of a port.
            let Some((resource, actions)) = scope.rsplit_once(':') else { continue };
            let known = self.0.entry(resource.to_owned()).or_default();
            known.extend(actions.split(',').filter(|action| !action.is_empty()).map(str::to_owned));
        }
    }

    /// Whether all that `other` says is here.
    pub(super) fn covers(&self, other: &Self) -> bool {
        other.0.iter().all(|(resource, actions)| self.0.get(resource).is_some_and(|known| known.is_superset(actions)))
    }

    /// As token servers want them.
    pub(super) fn words(&self) -> Vec<String> {
        let word = |(resource, actions): (&String, &BTreeSet<String>)| {
            format!("{resource}:{}", actions.iter().map(String::as_str).collect::<Vec<_>>().join(","))
        };
        self.0.iter().map(word).collect()
    }
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
            [Challenge::Basic, bearer]
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
    fn scopes_are_joined_by_resource() {
        let mut scopes = Scopes::of_repository("a/b", "pull,push");
        scopes.add("repository:a/b:pull repository:c:pull nonsense registry:catalog:*");
        assert_eq!(scopes.words(), ["registry:catalog:*", "repository:a/b:pull,push", "repository:c:pull"]);
        assert!(scopes.covers(&Scopes::of_repository("a/b", "pull")));
        assert!(scopes.covers(&Scopes::default()));
        assert!(!scopes.covers(&Scopes::of_repository("a/b", "delete")));
        assert!(!scopes.covers(&Scopes::of_repository("a", "pull")));
    }
}
