//! Entry points of the fuzz targets (`/fuzz`): each takes any bytes, and panics when something that must hold does not.

use crate::image::{Document, ImageConfig, chain_ids};
use crate::runtime::Spec;
use crate::{Digest, Platform, Reference};

/// References: what is read is written and read back as the same, in every form it is shown or stored in.
pub fn reference(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(reference) = text.parse::<Reference>() else { return };
    for form in [reference.to_string(), reference.familiar()] {
        assert_eq!(form.parse().as_ref(), Ok(&reference), "{text:?} as {form:?}");
    }
    let file = reference.file_name();
    assert!(!file.is_empty() && file.len() <= 255 && !file.contains(['/', '\0']) && !file.starts_with('.'), "{file:?}");
}

/// Digests: what is read is safe as a path's component, and written as it was read.
pub fn digest(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(digest) = text.parse::<Digest>() else { return };
    assert_eq!(digest.to_string(), text);
    assert!(digest.hex().bytes().all(|byte| byte.is_ascii_hexdigit()), "{digest}");
}

/// Manifests, indexes and configurations: the first line is the media type that was said, the rest the document.
pub fn image_document(bytes: &[u8]) {
    let split = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (media_type, document) = bytes.split_at(split);
    let media_type = String::from_utf8_lossy(media_type);
    if let Ok(document) = Document::parse(document, &media_type) {
        let known = document.media_type().to_owned();
        match document {
            Document::Index(index) => {
                let host = Platform::host();
                let offered = index.manifests.iter().filter_map(|entry| entry.platform.as_ref());
                assert!(offered.filter_map(|offered| host.rank(offered)).all(|rank| rank < host.accepts().len()));
                same(&index);
            }
            Document::Manifest(manifest) => same(&*manifest),
        }
        assert!(!known.is_empty());
    }
    if let Ok(config) = ImageConfig::from_json(document) {
        assert_eq!(chain_ids(&config.rootfs.diff_ids).len(), config.rootfs.diff_ids.len());
        same(&config);
    }
}

/// `config.json`: what is read is written and read back as the same.
pub fn runtime_spec(bytes: &[u8]) {
    if let Ok(spec) = Spec::from_json(bytes) {
        same(&spec);
    }
}

/// Reads what a value is written as, and compares.
fn same<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T) {
    let text = serde_json::to_vec(value).expect("what was read can be written");
    let again: T = serde_json::from_slice(&text).expect("what was written can be read");
    assert_eq!(&again, value);
}

/// A target.
pub type Target = fn(&[u8]);

/// The targets by name.
pub const TARGETS: [(&str, Target); 4] =
    [("reference", reference), ("digest", digest), ("image_document", image_document), ("runtime_spec", runtime_spec)];

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::{TARGETS, replay};

    #[test]
    fn what_the_fuzzers_found_is_read_without_fault() {
        replay::all(&TARGETS);
    }
}
