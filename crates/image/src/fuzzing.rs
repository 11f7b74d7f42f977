//! Entry points of the fuzz targets (`/fuzz`): each takes any bytes, and panics when something that must hold does not.

use std::io::Read as _;

use crate::codec::{Compression, Decoder, Limits};
use crate::{ImageRecord, archive, registry};

/// Most bytes a stream gives in the target [`compressed`].
const MOST: u64 = 1 << 20;

/// Compressed streams end, within their bounds, and whatever is read is the same in small pieces.
pub fn compressed(bytes: &[u8]) {
    let limits = Limits { max_output: MOST, max_ratio: 200, ratio_after: 64 << 10, zstd_window_log: 20 };
    let read = |piece: usize| {
        let mut decoder = Decoder::new(bytes, None, limits).ok()?;
        let mut all = Vec::new();
        let mut buffer = vec![0; piece];
        let outcome = loop {
            match decoder.read(&mut buffer) {
                Ok(0) => break Ok(()),
                Ok(length) => all.extend_from_slice(&buffer[..length]),
                Err(error) => break Err(error.to_string()),
            }
        };
        assert!(all.len() as u64 <= MOST + piece as u64);
        Some((all, outcome))
    };
    let (Some((large, end)), Some((small, small_end))) = (read(64 << 10), read(37)) else { return };
    assert_eq!(end.is_ok(), small_end.is_ok(), "{end:?} {small_end:?}");
    if end.is_ok() {
        assert!(large == small);
    }
    for media_type in ["application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.oci.image.layer.v1.tar+zstd"] {
        let declared = Compression::of_media_type(media_type).expect("a layer's");
        let _ = Decoder::new(bytes, declared, limits).map(drop);
    }
}

/// An image's record on disk.
pub fn image_record(bytes: &[u8]) {
    if let Ok(record) = serde_json::from_slice::<ImageRecord>(bytes) {
        assert!(!record.file_name().contains('/'));
        let text = serde_json::to_vec(&record).expect("what was read can be written");
        assert_eq!(serde_json::from_slice::<ImageRecord>(&text).ok(), Some(record));
    }
}

/// Headers of registries.
pub fn headers(bytes: &[u8]) {
    registry::fuzzing::headers(bytes);
}

/// A token server's answer.
pub fn grant(bytes: &[u8]) {
    registry::fuzzing::grant(bytes);
}

/// `registries.conf`, `hosts.toml`, `daemon.json`.
pub fn registries(bytes: &[u8]) {
    registry::fuzzing::configuration(bytes);
}

/// `config.json` and `auth.json`.
pub fn logins(bytes: &[u8]) {
    registry::fuzzing::logins(bytes);
}

/// `hosts` and `resolv.conf`, and a name server's answer.
pub fn name_server(bytes: &[u8]) {
    registry::fuzzing::names(bytes);
}

/// Members of image archives.
pub fn archive_members(bytes: &[u8]) {
    archive::fuzzing::members(bytes);
}

/// Instructions of `import --change`.
pub fn change(bytes: &[u8]) {
    archive::fuzzing::change(bytes);
}

/// A target.
pub type Target = fn(&[u8]);

/// The targets by name.
pub const TARGETS: [(&str, Target); 9] = [
    ("compressed", compressed),
    ("image_record", image_record),
    ("headers", headers),
    ("grant", grant),
    ("registries", registries),
    ("logins", logins),
    ("name_server", name_server),
    ("archive_members", archive_members),
    ("change", change),
];

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
