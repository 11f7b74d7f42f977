//! Digests: `algorithm:hex`, the content addresses of the image specification (`descriptor.md`, "Digests").
//!
//! A [`Digest`] can only hold a string that matched the grammar, so its parts are safe as file names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// A digest algorithm registered by the image specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, 64 hex characters.
    Sha256,
    /// SHA-512, 128 hex characters.
    Sha512,
}

impl Algorithm {
    /// The algorithm's name as written before the colon.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Length of the encoded part, in characters.
    #[must_use]
    pub fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// A valid digest.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest {
    algorithm: Algorithm,
    hex: String,
}

/// Why a string is not a digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDigest {
    /// No known algorithm stands before the colon.
    #[error("digest {0:?} does not begin with sha256: or sha512:")]
    Algorithm(String),
    /// The encoded part is not lower-case hex of the algorithm's length.
    #[error("digest {0:?} does not end in the lower-case hex of its algorithm")]
    Encoded(String),
}

impl Digest {
    /// The SHA-256 digest of `bytes`.
    #[must_use]
    pub fn sha256_of(bytes: &[u8]) -> Self {
        Self::from_sha256(&sha2::Sha256::digest(bytes))
    }

    /// The digest whose raw SHA-256 value is `raw` (32 bytes).
    ///
    /// # Panics
    /// When `raw` is not 32 bytes long.
    #[must_use]
    pub fn from_sha256(raw: &[u8]) -> Self {
        assert_eq!(raw.len(), 32, "a SHA-256 value has 32 bytes");
        Self { algorithm: Algorithm::Sha256, hex: to_hex(raw) }
    }

    /// The digest whose raw SHA-512 value is `raw` (64 bytes).
    ///
    /// # Panics
    /// When `raw` is not 64 bytes long.
    #[must_use]
    pub fn from_sha512(raw: &[u8]) -> Self {
        assert_eq!(raw.len(), 64, "a SHA-512 value has 64 bytes");
        Self { algorithm: Algorithm::Sha512, hex: to_hex(raw) }
    }

    /// The algorithm.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The encoded part: lower-case hex, safe as a file name.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// The first twelve hex characters, as shown to people.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.hex[..12]
    }
}

fn to_hex(raw: &[u8]) -> String {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    raw.iter().flat_map(|b| [HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]).map(char::from).collect()
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.as_str(), self.hex)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(s: &str) -> Result<Self, InvalidDigest> {
        let Some((name, hex)) = s.split_once(':') else {
            return Err(InvalidDigest::Algorithm(shown(s)));
        };
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => return Err(InvalidDigest::Algorithm(shown(s))),
        };
        let valid = hex.len() == algorithm.hex_len() && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !valid {
            return Err(InvalidDigest::Encoded(shown(s)));
        }
        Ok(Self { algorithm, hex: hex.to_owned() })
    }
}

/// Characters of what is no digest that its error repeats: those of the longest one that is.
const SHOWN: usize = "sha512:".len() + 128;

/// The beginning of what a stranger called a digest.
fn shown(s: &str) -> String {
    match s.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &s[..end]),
        None => s.to_owned(),
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;

    fn try_from(s: String) -> Result<Self, InvalidDigest> {
        s.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_repeats_no_more_than_a_digest_has() {
        let error = format!("sha256:{}", "\u{e9}".repeat(100_000)).parse::<Digest>().expect_err("too long").to_string();
        assert!(error.len() < 1000 && error.contains("\u{e9}..."), "{error}");
    }

    #[test]
    fn round_trips_and_refuses_paths() {
        let digest = Digest::sha256_of(b"");
        assert_eq!(digest.to_string(), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        let long = "a".repeat(63);
        for bad in [
            "",
            "sha256",
            "sha256:",
            "sha256:../../etc/passwd",
            "md5:d41d8cd98f00b204e9800998ecf8427e",
            &format!("sha256:{long}"),
            &format!("sha256:{long}A"),
            &format!("sha256:{long}a\n"),
            &format!("sha256:{long}/"),
            &format!("SHA256:{long}a"),
            &format!("sha512:{long}a"),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad:?}");
        }
    }
}
