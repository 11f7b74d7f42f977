//! Platforms: operating system, architecture and variant, and which of them a host can run.
//!
//! Names and rules are those of the image specification (`image-index.md`, "platform") and of containerd's platforms
//! package: names are normalised (`x86_64` is `amd64`), and a host accepts an ordered list of platforms, best first
//! (`arm/v7` before `arm/v6`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

/// What an image runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    /// `linux`, `windows`, …: Go's GOOS.
    #[serde(deserialize_with = "null_is_empty")]
    pub os: String,
    /// `amd64`, `arm64`, …: Go's GOARCH.
    #[serde(deserialize_with = "null_is_empty")]
    pub architecture: String,
    /// `v7` and the like; empty when there is one kind only.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// `os.version`, which only Windows images use.
    #[serde(rename = "os.version", deserialize_with = "null_is_empty", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// `os.features`, which only Windows images use.
    #[serde(rename = "os.features", deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
}

/// Why a string is not a platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid platform {0:?}: write OS/ARCH or OS/ARCH/VARIANT, such as linux/arm64")]
pub struct InvalidPlatform(pub String);

fn null_is_empty<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

const KNOWN_OS: &[&str] = &[
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "illumos",
    "ios",
    "js",
    "linux",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "wasip1",
    "windows",
];
const KNOWN_ARCHITECTURES: &[&str] = &[
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le", "riscv64",
    "s390x", "wasm",
];

impl Platform {
    /// A normalised platform.
    #[must_use]
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        let (architecture, variant) = normalise_architecture(architecture, variant);
        Self { os: normalise_os(os), architecture, variant, ..Self::default() }
    }

    /// The platform this program was built for, which is the one the host runs natively.
    #[must_use]
    pub fn host() -> Self {
        let variant = if cfg!(target_arch = "arm") { "v7" } else { "" };
        let architecture = match std::env::consts::ARCH {
            "x86" => "386",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            "loongarch64" => "loong64",
            other => other,
        };
        Self::new("linux", architecture, variant)
    }

    /// The same platform in normal form; `os.version` and `os.features` are kept.
    #[must_use]
    pub fn normalised(&self) -> Self {
        let (architecture, variant) = normalise_architecture(&self.architecture, &self.variant);
        Self {
            os: normalise_os(&self.os),
            architecture,
            variant,
            os_version: self.os_version.clone(),
            os_features: self.os_features.clone(),
        }
    }

    /// Whether operating system and architecture are both names that Go knows.
    #[must_use]
    pub fn is_known(&self) -> bool {
        KNOWN_OS.contains(&self.os.as_str()) && KNOWN_ARCHITECTURES.contains(&self.architecture.as_str())
    }

    /// The platforms a machine of this one can run, best first, beginning with itself.
    #[must_use]
    pub fn accepts(&self) -> Vec<Self> {
        let own = self.normalised();
        let of = |architecture: &str, variant: &str| Self::new(&own.os, architecture, variant);
        let number = own.variant.strip_prefix('v').and_then(|n| n.parse::<u32>().ok());
        let mut list = vec![of(&own.architecture, &own.variant)];
        match (own.architecture.as_str(), number) {
            ("amd64", level) => {
                list.extend((1..level.unwrap_or(1).min(9)).rev().map(|n| of("amd64", &format!("v{n}"))));
                list.push(of("386", ""));
            }
            ("arm", version) => {
                list.extend((5..version.unwrap_or(7).min(9)).rev().map(|n| of("arm", &format!("v{n}"))));
            }
            ("arm64", version) => {
                if version.is_some_and(|n| n > 8) {
                    list.push(of("arm64", "v8"));
                }
                list.extend((5..=8).rev().map(|n| of("arm", &format!("v{n}"))));
            }
            _ => {}
        }
        list
    }

    /// How well an image for `offered` suits a machine of this platform: 0 is best; `None` does not run.
    #[must_use]
    pub fn rank(&self, offered: &Self) -> Option<usize> {
        let offered = offered.normalised();
        self.accepts().iter().position(|accepted| {
            accepted.os == offered.os
                && accepted.architecture == offered.architecture
                && accepted.variant == offered.variant
        })
    }
}

fn normalise_os(os: &str) -> String {
    match os.to_ascii_lowercase().as_str() {
        "" => "linux".to_owned(),
        "macos" => "darwin".to_owned(),
        other => other.to_owned(),
    }
}

fn normalise_architecture(architecture: &str, variant: &str) -> (String, String) {
    let architecture = architecture.to_ascii_lowercase();
    let variant = variant.to_ascii_lowercase();
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("i386" | "i486" | "i586" | "i686", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
        ("aarch64" | "arm64", variant) => ("arm64", variant),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        (architecture, variant) => (architecture, variant),
    };
    (architecture.to_owned(), variant.to_owned())
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

impl FromStr for Platform {
    type Err = InvalidPlatform;

    fn from_str(s: &str) -> Result<Self, InvalidPlatform> {
        let invalid = || InvalidPlatform(s.to_owned());
        let parts: Vec<&str> = s.split('/').collect();
        let plain = |part: &&str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        if !parts.iter().all(plain) {
            return Err(invalid());
        }
        match parts[..] {
            [one] => {
                let os = normalise_os(one);
                if KNOWN_OS.contains(&os.as_str()) {
                    let host = Self::host();
                    return Ok(Self { os, ..host });
                }
                let (architecture, variant) = normalise_architecture(one, "");
                if KNOWN_ARCHITECTURES.contains(&architecture.as_str()) {
                    return Ok(Self::new("linux", &architecture, &variant));
                }
                Err(invalid())
            }
            [os, architecture] => Ok(Self::new(os, architecture, "")),
            [os, architecture, variant] => Ok(Self::new(os, architecture, variant)),
            _ => Err(invalid()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised() {
        for (written, normal) in [
            ("linux/x86_64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/arm/6", "linux/arm/v6"),
            ("macOS/arm64", "darwin/arm64"),
            ("i386", "linux/386"),
            ("arm64", "linux/arm64"),
            ("windows/amd64", "windows/amd64"),
        ] {
            assert_eq!(written.parse::<Platform>().expect(written).to_string(), normal);
        }
        for bad in ["", "/", "linux/", "/amd64", "linux/amd64/", "linux/amd64/v1/x", "toaster", "linux /amd64", "a\n/b"]
        {
            assert!(bad.parse::<Platform>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn hosts_accept_in_order() {
        let rank =
            |host: &str, offered: &str| host.parse::<Platform>().expect("valid").rank(&offered.parse().expect("valid"));
        assert_eq!(rank("linux/amd64", "linux/amd64"), Some(0));
        assert_eq!(rank("linux/amd64", "linux/386"), Some(1));
        assert_eq!(rank("linux/amd64", "linux/amd64/v2"), None);
        assert_eq!(rank("linux/amd64/v3", "linux/amd64"), Some(2));
        assert_eq!(rank("linux/arm/v7", "linux/arm/v6"), Some(1));
        assert_eq!(rank("linux/arm/v7", "linux/arm/v8"), None);
        assert_eq!(rank("linux/arm64", "linux/arm64/v8"), Some(0));
        assert_eq!(rank("linux/arm64", "linux/arm/v7"), Some(2));
        assert_eq!(rank("linux/arm64", "linux/amd64"), None);
        assert_eq!(rank("linux/amd64", "windows/amd64"), None);
        assert_eq!(rank("linux/riscv64", "linux/riscv64"), Some(0));
    }

    #[test]
    fn descriptors_may_hold_null_and_unknown() {
        let platform: Platform =
            serde_json::from_str(r#"{"architecture":"amd64","os":"linux","variant":null,"os.features":null}"#)
                .expect("valid");
        assert_eq!(platform, Platform::new("linux", "amd64", ""));
        let unknown: Platform = serde_json::from_str(r#"{"architecture":"unknown","os":"unknown"}"#).expect("valid");
        assert_eq!(Platform::new("linux", "amd64", "").rank(&unknown), None);
    }
}
