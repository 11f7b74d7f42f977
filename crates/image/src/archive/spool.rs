//! An archive's members, moved into the content store as they come.

use std::collections::BTreeMap;
use std::io::Read;

use oci::Digest;
use oci::digest::Algorithm;
use serde::Deserialize;

use super::members::{Kind, Members};
use crate::assemble::MANIFEST_MAX;
use crate::content::read_bounded;
use crate::{ContentStore, Error, Result};

const BUFFER: usize = 128 << 10;
const LAYOUT_MAX: u64 = 4 << 10;
/// Most files of one archive.
const FILES_MAX: usize = 1 << 16;
/// Most links followed for one name.
const LINKS_MAX: usize = 16;

/// What an archive held.
#[derive(Debug, Default)]
pub(crate) struct Spooled {
    /// `manifest.json`: docker's list of images.
    pub(crate) manifest: Option<Vec<u8>>,
    /// `index.json`: an OCI layout's list of images.
    pub(crate) index: Option<Vec<u8>>,
    files: BTreeMap<String, (Digest, u64)>,
    links: BTreeMap<String, String>,
}

impl Spooled {
    /// Digest and size of the file called `name` in the archive, through its links.
    pub(crate) fn file(&self, name: &str) -> Result<&(Digest, u64)> {
        let mut at = clean(name)?;
        for _ in 0..LINKS_MAX {
            if let Some(found) = self.files.get(&at) {
                return Ok(found);
            }
            let Some(next) = self.links.get(&at) else { break };
            at.clone_from(next);
        }
        Err(Error::malformed("image archive", format!("it has no file {name:?}, which its manifest names")))
    }
}

/// Reads the archive to its end. A file named by a digest must have it.
pub(crate) fn spool(content: &ContentStore, reader: impl Read, file_max: u64) -> Result<Spooled> {
    let mut members = Members::new(reader);
    let mut spooled = Spooled::default();
    let mut buffer = vec![0; BUFFER];
    while let Some(member) = members.next()? {
        let target = match &member.kind {
            Kind::Other => continue,
            Kind::File => None,
            Kind::Symlink(target) => Some(join(&clean(&member.name)?, target)?),
            Kind::Hardlink(target) => Some(clean(target)?),
        };
        let name = clean(&member.name)?;
        if spooled.files.len() + spooled.links.len() >= FILES_MAX {
            return Err(Error::malformed("image archive", "it has too many files"));
        }
        if let Some(target) = target {
            spooled.links.insert(name, target);
            continue;
        }
        match name.as_str() {
            "manifest.json" => once(&mut spooled.manifest, &mut members, &name)?,
            "index.json" => once(&mut spooled.index, &mut members, &name)?,
            "oci-layout" => check_layout(&read_bounded(&mut members, LAYOUT_MAX, &name)?)?,
            _ if is_legacy_metadata(&name) => {}
            _ => {
                if member.size > file_max {
                    return Err(Error::TooLarge { what: format!("archive member {name:?}"), limit: file_max });
                }
                let found = store(content, &mut members, &name, member.size, &mut buffer)?;
                match spooled.files.insert(name.clone(), found.clone()) {
                    Some(before) if before != found => {
                        let reason = format!("{name:?} occurs twice with different content");
                        return Err(Error::malformed("image archive", reason));
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(spooled)
}

fn once(slot: &mut Option<Vec<u8>>, reader: &mut dyn Read, name: &str) -> Result<()> {
    let bytes = read_bounded(reader, MANIFEST_MAX, &format!("{name} of the image archive"))?;
    match slot.replace(bytes) {
        Some(before) if slot.as_deref() != Some(&before[..]) => {
            Err(Error::malformed("image archive", format!("{name:?} occurs twice with different content")))
        }
        _ => Ok(()),
    }
}

/// Files of the oldest archives that say nothing `manifest.json` does not.
fn is_legacy_metadata(name: &str) -> bool {
    name == "repositories" || name.ends_with("/json") || name.ends_with("/VERSION")
}

pub(crate) fn check_layout(bytes: &[u8]) -> Result<()> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Layout {
        image_layout_version: String,
    }
    let layout: Layout = serde_json::from_slice(bytes).map_err(|e| Error::malformed("oci-layout", e.to_string()))?;
    if layout.image_layout_version.starts_with("1.") {
        return Ok(());
    }
    Err(Error::Unsupported(format!("image layout version {:?} is not supported", layout.image_layout_version)))
}

fn store(
    content: &ContentStore,
    members: &mut dyn Read,
    name: &str,
    size: u64,
    buffer: &mut [u8],
) -> Result<(Digest, u64)> {
    let expected = match name.strip_prefix("blobs/") {
        Some(rest) => {
            let digest = rest.replacen('/', ":", 1).parse::<Digest>();
            Some(digest.map_err(|e| Error::malformed(format!("archive member {name:?}"), e.to_string()))?)
        }
        None => None,
    };
    if let Some(digest) = &expected
        && content.size(digest)? == Some(size)
    {
        return Ok((digest.clone(), size));
    }
    let algorithm = expected.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
    let mut writer = content.writer(algorithm, size)?;
    loop {
        let n = members.read(buffer).map_err(|e| Error::read("image archive", e))?;
        if n == 0 {
            break;
        }
        writer.append(&buffer[..n])?;
    }
    writer.commit(expected.as_ref(), Some(size)).map_err(|error| match error {
        Error::Digest { expected, actual, .. } => {
            Error::Digest { what: format!("archive member {name:?}"), expected, actual }
        }
        other => other,
    })
}

/// A member's name without `.` and empty components.
///
/// Names are only looked up, never opened; one that climbs or is absolute is refused all the same, because nobody
/// writes such an archive in good faith.
pub(super) fn clean(name: &str) -> Result<String> {
    let parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if name.starts_with('/') || parts.contains(&"..") || parts.is_empty() {
        return Err(Error::malformed("image archive", format!("{name:?} is not a name inside the archive")));
    }
    Ok(parts.join("/"))
}

/// The name a symbolic link at `link` points to, which must be inside the archive.
pub(super) fn join(link: &str, target: &str) -> Result<String> {
    let outside = || Error::malformed("image archive", format!("{link:?} is a link out of the archive"));
    if target.starts_with('/') {
        return Err(outside());
    }
    let mut parts: Vec<&str> = link.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop().ok_or_else(outside)?;
            }
            other => parts.push(other),
        }
    }
    if parts.is_empty() { Err(outside()) } else { Ok(parts.join("/")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside() {
        assert_eq!(clean("./a//b/").expect("valid"), "a/b");
        for bad in ["", "/", ".", "/a", "../a", "a/../../b", "a/.."] {
            assert!(clean(bad).is_err(), "{bad}");
        }
        assert_eq!(join("x/layer.tar", "../y/layer.tar").expect("valid"), "y/layer.tar");
        for bad in ["/etc/passwd", "../../etc/passwd", "..", "../../../../x"] {
            assert!(join("x/layer.tar", bad).is_err(), "{bad}");
        }
    }
}
