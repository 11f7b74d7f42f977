//! The path of a group below a hierarchy's root: checked before it names anything.

use std::fmt;

use super::error::{Error, Result};

/// Longest path taken, in bytes: what still leaves room for a control file's name below `PATH_MAX`.
const MAX_LEN: usize = 3800;

/// The path of a group, relative to the root of every hierarchy: at least one component, none of them `.` or `..`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GroupPath(String);

impl GroupPath {
    /// Takes `text` with or without slashes around it.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let refuse = |reason| Err(Error::InvalidPath { path: text.chars().take(256).collect(), reason });
        if text.len() > MAX_LEN {
            return refuse("it is too long");
        }
        if text.contains(['\0', '\n']) {
            return refuse("it contains a NUL or a line break");
        }
        if text.matches(':').count() == 2 && !text.contains('/') {
            return refuse("it is of the form slice:prefix:name, for which systemd would have to be asked");
        }
        let mut path = String::with_capacity(text.len());
        for component in text.split('/').filter(|component| !component.is_empty()) {
            if component == "." || component == ".." {
                return refuse("`.` and `..` components are not allowed");
            }
            if component.len() > 255 {
                return refuse("a component is longer than 255 bytes");
            }
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(component);
        }
        if path.is_empty() {
            return refuse("it names the root of the hierarchy");
        }
        Ok(Self(path))
    }

    /// The path of `sub` below this one.
    pub(super) fn join(&self, sub: &str) -> Result<Self> {
        let sub = Self::parse(sub)?;
        Self::parse(&format!("{}/{}", self.0, sub.0))
    }

    /// The path, relative to a hierarchy's root.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The paths of all groups above this one, the outermost first, without the root.
    pub(super) fn ancestors(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('/').map(|(at, _)| &self.0[..at])
    }
}

impl fmt::Display for GroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_are_folded_and_escapes_refused() {
        assert_eq!(GroupPath::parse("//a//b/").expect("valid").as_str(), "a/b");
        assert_eq!(GroupPath::parse("a/b/c").expect("valid").ancestors().collect::<Vec<_>>(), ["a", "a/b"]);
        for bad in ["", "/", "..", "/a/../b", "a/.", "a\nb", "a\0", "system.slice:x:y"] {
            assert!(GroupPath::parse(bad).is_err(), "{bad:?}");
        }
        assert!(GroupPath::parse(&"a".repeat(256)).is_err());
        assert!(GroupPath::parse(&"a/".repeat(3000)).is_err());
        assert_eq!(GroupPath::parse("a").expect("valid").join("/b/c").expect("valid").to_string(), "/a/b/c");
        assert!(GroupPath::parse("a").expect("valid").join("..").is_err());
    }
}
