//! Names in layer archives: cleaning, and the meaning of `.wh.` (image specification, `layer.md`, "Whiteouts").

use crate::archive::Limits;
use crate::error::{Error, Result, lossy};

/// What an entry's name says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning<'n> {
    /// The entry itself.
    Plain,
    /// This directory of the entry's hides what lower layers have in it.
    Opaque,
    /// This name beside the entry is hidden.
    Whiteout(&'n [u8]),
    /// The bookkeeping of aufs, which no layer needs.
    Ignored,
}

/// Makes a name relative to the layer's root, without `.`, `..` and repeated slashes; the root itself becomes empty.
/// A `..` may go back to where the name has been, as in Docker, but not above the root.
///
/// # Errors
/// [`Error::Refused`] for a name that leads out, [`Error::Limit`] for one that is too long or too deep.
pub(super) fn clean(raw: &[u8], limits: &Limits, clean: &mut Vec<u8>) -> Result<()> {
    clean.clear();
    if raw.len() > limits.path_bytes {
        return Err(Error::Limit { what: "bytes in a name", limit: limits.path_bytes as u64 });
    }
    let mut depth = 0_usize;
    for component in raw.split(|&b| b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                if depth == 0 {
                    return Err(Error::Refused { entry: lossy(raw), reason: "the name leads out of the layer" });
                }
                depth -= 1;
                let end = clean.iter().rposition(|&b| b == b'/').unwrap_or(0);
                clean.truncate(end);
            }
            component => {
                depth += 1;
                if depth > limits.path_depth {
                    return Err(Error::Limit { what: "components in a name", limit: limits.path_depth as u64 });
                }
                if !clean.is_empty() {
                    clean.push(b'/');
                }
                clean.extend_from_slice(component);
            }
        }
    }
    Ok(())
}

/// What a cleaned name says.
///
/// # Errors
/// The reason why the name says nothing that can be done.
pub(super) fn meaning(path: &[u8]) -> Result<Meaning<'_>, &'static str> {
    let mut components = path.split(|&b| b == b'/').rev();
    let last = components.next().unwrap_or_default();
    for component in components {
        if component.starts_with(b".wh..wh.") {
            return Ok(Meaning::Ignored);
        }
        if component.starts_with(b".wh.") {
            return Err("a directory above it has a whiteout's name");
        }
    }
    match last.strip_prefix(b".wh.") {
        None => Ok(Meaning::Plain),
        Some(b".wh..opq") => Ok(Meaning::Opaque),
        Some(hidden) if hidden.starts_with(b".wh.") => Ok(Meaning::Ignored),
        Some(b"" | b"." | b"..") => Err("a whiteout of nothing"),
        Some(hidden) => Ok(Meaning::Whiteout(hidden)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning() {
        let limits = Limits::default();
        let mut out = Vec::new();
        for (raw, expected) in [
            ("./a//b/", "a/b"),
            ("/a/b", "a/b"),
            ("a/../b", "b"),
            ("a/b/..", "a"),
            ("./", ""),
            ("/", ""),
            ("a/..", ""),
            ("a/./b/../../c/d", "c/d"),
            ("...", "..."),
            ("..a/b", "..a/b"),
        ] {
            clean(raw.as_bytes(), &limits, &mut out).unwrap();
            assert_eq!(String::from_utf8_lossy(&out), expected, "{raw}");
        }
        for raw in ["..", "../a", "a/../../b", "/../a", "./..", "a/b/../../.."] {
            assert!(matches!(clean(raw.as_bytes(), &limits, &mut out), Err(Error::Refused { .. })), "{raw}");
        }
        assert!(matches!(clean(&[b'a'; 4096], &limits, &mut out), Err(Error::Limit { .. })));
        assert!(matches!(clean(&b"a/".repeat(1025), &limits, &mut out), Err(Error::Limit { .. })));
        clean(&b"a/".repeat(1024), &limits, &mut out).unwrap();
    }

    #[test]
    fn meanings() {
        assert_eq!(meaning(b"a/b"), Ok(Meaning::Plain));
        assert_eq!(meaning(b"a/.wh.b"), Ok(Meaning::Whiteout(b"b")));
        assert_eq!(meaning(b".wh..b"), Ok(Meaning::Whiteout(b".b")));
        assert_eq!(meaning(b"a/.wh..wh..opq"), Ok(Meaning::Opaque));
        assert_eq!(meaning(b".wh..wh.aufs"), Ok(Meaning::Ignored));
        assert_eq!(meaning(b".wh..wh.plnk/12.34"), Ok(Meaning::Ignored));
        for bad in ["a/.wh.", ".wh..", ".wh...", ".wh.a/b"] {
            assert!(meaning(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
