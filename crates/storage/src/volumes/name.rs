//! The grammar of volume names: the one place where a name becomes something that may be part of a path.

use std::fmt;
use std::str::FromStr;

/// A volume's name: a letter or digit, then at least one letter, digit, `_`, `.` or `-`; at most 255 bytes (docker's
/// grammar, `[a-zA-Z0-9][a-zA-Z0-9_.-]`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeName(String);

/// Not a volume's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidVolumeName {
    /// A single character or none: docker refuses it because it looks like a slip.
    #[error("volume name is too short, names should be at least two alphanumeric characters")]
    Short,
    /// More bytes than a file name has.
    #[error("volume name is too long, at most 255 bytes are allowed")]
    Long,
    /// Something other than the grammar's characters.
    #[error(
        "{0:?} includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. \
         If you intended to pass a host directory, use absolute path"
    )]
    Characters(String),
}

impl VolumeName {
    /// The name of a volume nobody named: 64 hexadecimal digits.
    #[must_use]
    pub fn from_random(bytes: &[u8; 32]) -> Self {
        use fmt::Write as _;
        let mut name = String::with_capacity(64);
        for byte in bytes {
            let _ = write!(name, "{byte:02x}");
        }
        Self(name)
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VolumeName {
    type Err = InvalidVolumeName;

    fn from_str(text: &str) -> Result<Self, InvalidVolumeName> {
        let grammatical = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        if text.len() < 2 {
            return Err(InvalidVolumeName::Short);
        }
        if text.len() > 255 {
            return Err(InvalidVolumeName::Long);
        }
        if !text.as_bytes()[0].is_ascii_alphanumeric() || !text.bytes().all(grammatical) {
            return Err(InvalidVolumeName::Characters(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dockers() {
        let long = "a".repeat(255);
        for good in ["db", "a.b-c_d", "0x", long.as_str()] {
            assert_eq!(good.parse::<VolumeName>().map(|name| name.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "a", ".a", "-a", "_a", "a/b", "..", "a b", "a\0", "a\n", "ä1", &"a".repeat(256)] {
            assert!(bad.parse::<VolumeName>().is_err(), "{bad:?}");
        }
        assert_eq!(VolumeName::from_random(&[0xab; 32]).as_str(), "ab".repeat(32));
    }
}
