//! Image references as people write them: `[DOMAIN/]PATH[:TAG][@DIGEST]`.
//!
//! The grammar is that of the distribution project's reference package, which docker follows: a [`Reference`] always
//! carries a domain and a path, so `busybox` and `docker.io/library/busybox:latest` are one value. What is shown to
//! people is the *familiar* form, with the defaults left out again.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, InvalidDigest};

/// The registry of names that begin with none.
pub const DEFAULT_DOMAIN: &str = "docker.io";
/// The tag of references that carry neither tag nor digest.
pub const DEFAULT_TAG: &str = "latest";
const LEGACY_DEFAULT_DOMAIN: &str = "index.docker.io";
const OFFICIAL_PREFIX: &str = "library/";
/// Longest path the grammar admits, in bytes; the domain does not count (`RepositoryNameTotalLengthMax`,
/// github.com/distribution/reference 0.6).
const NAME_MAX: usize = 255;
/// Longest tag, in bytes.
const TAG_MAX: usize = 128;
/// Longest file name [`Reference::file_name`] gives, so that a suffix still fits a directory entry of 255 bytes.
const FILE_NAME_MAX: usize = 200;

/// A normalised reference to an image.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a string is not a reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReference {
    /// The string does not follow the grammar.
    #[error("invalid reference format: {0:?}")]
    Format(String),
    /// The path has upper-case letters.
    #[error("invalid reference format: repository name {0:?} must be lowercase")]
    Uppercase(String),
    /// The name is longer than the grammar admits.
    #[error("invalid reference format: repository name is longer than {NAME_MAX} bytes")]
    NameTooLong,
    /// The name would be mistaken for an image id.
    #[error("invalid repository name {0:?}: 64 hexadecimal characters are an image id")]
    LooksLikeId(String),
    /// The digest is malformed or of an unknown algorithm.
    #[error(transparent)]
    Digest(#[from] InvalidDigest),
}

impl Reference {
    /// The registry's domain, with a port when one was written.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository's path on the registry (`library/busybox`).
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Domain and path: `docker.io/library/busybox`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The name without what is understood: `busybox`.
    #[must_use]
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.name();
        }
        // Short forms must read back as the same name: only a lone component is found below the prefix again, and a
        // first component that could be a registry would be taken for one.
        match self.path.strip_prefix(OFFICIAL_PREFIX) {
            Some(short) if !short.contains('/') => short.to_owned(),
            _ if self.path.split('/').next().is_some_and(looks_like_domain) => self.name(),
            _ => self.path.clone(),
        }
    }

    /// The form shown to people: [`Self::familiar_name`] with tag and digest.
    #[must_use]
    pub fn familiar(&self) -> String {
        self.with_suffix(self.familiar_name())
    }

    /// Whether the registry is on this machine: `localhost`, a name below it, or a loopback address.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        is_loopback_host(host_of(&self.domain))
    }

    /// The same repository with `tag`, and no digest.
    ///
    /// # Errors
    /// When `tag` does not follow the grammar.
    pub fn with_tag(&self, tag: &str) -> Result<Self, InvalidReference> {
        if !is_tag(tag) {
            return Err(InvalidReference::Format(tag.to_owned()));
        }
        Ok(Self { domain: self.domain.clone(), path: self.path.clone(), tag: Some(tag.to_owned()), digest: None })
    }

    /// The same repository with `digest`, and no tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { domain: self.domain.clone(), path: self.path.clone(), tag: None, digest: Some(digest) }
    }

    /// Whether `other` names the same repository.
    #[must_use]
    pub fn same_repository(&self, other: &Self) -> bool {
        self.domain == other.domain && self.path == other.path
    }

    /// A file name for records about this reference: the full form, percent-encoded to one path component of at most
    /// 200 bytes. A longer reference is named by `~` and the hash of its full form; different references never share
    /// a name.
    #[must_use]
    pub fn file_name(&self) -> String {
        let full = self.to_string();
        let mut encoded = String::with_capacity(full.len() + 16);
        for byte in full.bytes() {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-') {
                encoded.push(char::from(byte));
            } else {
                encoded.push_str(&format!("%{byte:02X}"));
            }
        }
        if encoded.len() > FILE_NAME_MAX { format!("~{}", Digest::sha256_of(full.as_bytes()).hex()) } else { encoded }
    }

    fn with_suffix(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name.push(':');
            name.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            name.push('@');
            name.push_str(&digest.to_string());
        }
        name
    }
}

/// Whether `host` (no port) can only be this machine.
#[must_use]
pub fn is_loopback_host(host: &str) -> bool {
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    let lower = host.to_ascii_lowercase();
    if lower == "localhost" || lower.ends_with(".localhost") {
        return true;
    }
    host.parse::<IpAddr>().is_ok_and(|address| match address {
        IpAddr::V4(v4) => v4.is_loopback(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback()),
    })
}

/// The host of `domain`, without a port; an IPv6 address keeps its brackets.
#[must_use]
pub fn host_of(domain: &str) -> &str {
    if domain.starts_with('[') {
        return domain.find(']').map_or(domain, |end| &domain[..=end]);
    }
    domain.split_once(':').map_or(domain, |(host, _)| host)
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_suffix(self.name()))
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(s: &str) -> Result<Self, InvalidReference> {
        let format = || InvalidReference::Format(s.to_owned());
        if s.len() == 64 && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(InvalidReference::LooksLikeId(s.to_owned()));
        }
        let (rest, digest) = match s.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
            None => (s, None),
        };
        // A colon after the last slash begins a tag; one before it begins a port.
        let after_slash = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[after_slash..].rfind(':') {
            Some(colon) => (&rest[..after_slash + colon], Some(&rest[after_slash + colon + 1..])),
            None => (rest, None),
        };
        let (domain, path) = split_domain(name);
        if path.is_empty() {
            return Err(format());
        }
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(InvalidReference::Uppercase(path));
        }
        if !is_domain(domain) || !path.split('/').all(is_path_component) || !tag.is_none_or(is_tag) {
            return Err(format());
        }
        if path.len() > NAME_MAX {
            return Err(InvalidReference::NameTooLong);
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some(DEFAULT_TAG.to_owned()),
        };
        Ok(Self { domain: domain.to_owned(), path, tag, digest })
    }
}

fn split_domain(name: &str) -> (&str, String) {
    let (domain, path) = match name.split_once('/') {
        Some((first, rest)) if looks_like_domain(first) => (first, rest),
        _ => (DEFAULT_DOMAIN, name),
    };
    let domain = if domain == LEGACY_DEFAULT_DOMAIN { DEFAULT_DOMAIN } else { domain };
    if domain == DEFAULT_DOMAIN && !path.is_empty() && !path.contains('/') {
        return (domain, format!("{OFFICIAL_PREFIX}{path}"));
    }
    (domain, path.to_owned())
}

fn looks_like_domain(first: &str) -> bool {
    // Upper case is illegal in a path, so such a component can only have been meant as a domain.
    first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_domain(domain: &str) -> bool {
    let host = host_of(domain);
    let port = &domain[host.len()..];
    let port_ok = match port.strip_prefix(':') {
        Some(digits) => !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()),
        None => port.is_empty(),
    };
    let host_ok = match host.strip_prefix('[') {
        Some(rest) => rest
            .strip_suffix(']')
            .is_some_and(|address| !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':')),
        None => host.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        }),
    };
    port_ok && host_ok
}

/// `[a-z0-9]+((?:[._]|__|[-]+)[a-z0-9]+)*`
fn is_path_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    if !bytes.first().copied().is_some_and(alphanumeric) || !bytes.last().copied().is_some_and(alphanumeric) {
        return false;
    }
    bytes
        .split(|b| alphanumeric(*b))
        .all(|separator| matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-'))
}

/// `[\w][\w.-]{0,127}`
fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= TAG_MAX
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

impl TryFrom<String> for Reference {
    type Error = InvalidReference;

    fn try_from(s: String) -> Result<Self, InvalidReference> {
        s.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn normalises_as_docker_does() {
        for (written, full, familiar) in [
            ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
            ("user/app", "docker.io/user/app:latest", "user/app:latest"),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            ("localhost:5000/app:v1", "localhost:5000/app:v1", "localhost:5000/app:v1"),
            ("127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b:latest", "127.0.0.1:5000/a/b:latest"),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
            ("ghcr.io/o/p_q/r__s/t---u.v", "ghcr.io/o/p_q/r__s/t---u.v:latest", "ghcr.io/o/p_q/r__s/t---u.v:latest"),
            ("REG/app", "REG/app:latest", "REG/app:latest"),
            ("lighter.local/hello", "lighter.local/hello:latest", "lighter.local/hello:latest"),
            ("docker.io/a.b/c", "docker.io/a.b/c:latest", "docker.io/a.b/c:latest"),
            ("a:5000", "docker.io/library/a:5000", "a:5000"),
        ] {
            let reference: Reference = written.parse().unwrap_or_else(|error| panic!("{written}: {error}"));
            assert_eq!(reference.to_string(), full);
            assert_eq!(reference.familiar(), familiar);
            assert_eq!(full.parse(), Ok(reference.clone()), "{full}");
            assert_eq!(familiar.parse(), Ok(reference), "{familiar}");
        }
        let by_digest: Reference = format!("busybox@sha256:{HEX}").parse().expect("valid");
        assert_eq!((by_digest.tag(), by_digest.digest().map(Digest::hex)), (None, Some(HEX)));
        let both: Reference = format!("busybox:1@sha256:{HEX}").parse().expect("valid");
        assert_eq!(both.tag(), Some("1"));
        assert_eq!(both.to_string(), format!("docker.io/library/busybox:1@sha256:{HEX}"));
    }

    #[test]
    fn refuses_what_the_grammar_does_not_admit() {
        let long_tag = format!("a:{}", "t".repeat(129));
        let long_name = "a/".repeat(130) + "b";
        for bad in [
            "",
            ":tag",
            "a:",
            "a@",
            "/a",
            "a/",
            "a//b",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a._b",
            "../a",
            "a/../b",
            "a b",
            "a\n",
            "a:b c",
            "a:-x",
            "example.com/",
            "http://example.com/a",
            "-x.com/a",
            "x-.com/a",
            "a.com:/b",
            "a.com:x/b",
            "[::1/a",
            "[]/a",
            "a@sha256:abc",
            "a@md5:abc",
            "a\0",
            "ä",
            HEX,
            &long_tag,
            &long_name,
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?}");
        }
        assert!(matches!("Busybox".parse::<Reference>(), Err(InvalidReference::Uppercase(_))));
        assert!(matches!("docker.io/Busy".parse::<Reference>(), Err(InvalidReference::Uppercase(_))));
        assert!(matches!(HEX.parse::<Reference>(), Err(InvalidReference::LooksLikeId(_))));
    }

    #[test]
    fn loopback_registries_are_recognised() {
        for (name, loopback) in [
            ("localhost/a", true),
            ("LOCALHOST:5000/a", true),
            ("127.0.0.1/a", true),
            ("127.9.9.9:80/a", true),
            ("[::1]:5000/a", true),
            ("a", false),
            ("10.0.0.1/a", false),
            ("[fe80::1]/a", false),
            ("localhost.example.com/a", false),
            ("127.0.0.1.example.com/a", false),
            ("x.localhost:1/a", true),
        ] {
            assert_eq!(name.parse::<Reference>().expect("valid").is_loopback(), loopback, "{name}");
        }
    }

    #[test]
    fn file_names_are_one_component_and_distinct() {
        let reference: Reference = "localhost:5000/a/b:v1".parse().expect("valid");
        assert_eq!(reference.file_name(), "localhost%3A5000%2Fa%2Fb%3Av1");
        let long = |last: char| -> Reference {
            format!("example.com/{}/{}{last}:{}", "a".repeat(100), "b".repeat(100), "t".repeat(128))
                .parse()
                .expect("valid")
        };
        let (one, two) = (long('x').file_name(), long('y').file_name());
        assert_ne!(one, two);
        for name in [&one, &two] {
            assert!(name.starts_with('~') && name.len() < 255 && !name.contains('/'), "{name}");
        }
    }

    #[test]
    fn records_hold_the_full_form() {
        let reference: Reference = "busybox".parse().expect("valid");
        let json = serde_json::to_string(&reference).expect("serialisable");
        assert_eq!(json, r#""docker.io/library/busybox:latest""#);
        assert_eq!(serde_json::from_str::<Reference>(&json).expect("valid"), reference);
        assert!(serde_json::from_str::<Reference>(r#""../x""#).is_err());
    }
}
