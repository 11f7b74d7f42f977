//! A layer's record on disk: `meta`, JSON, beside the layer's tree.

use oci::Digest;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The version this program writes. It reads no other.
pub(crate) const VERSION: u32 = 1;

/// Bytes a record may have.
pub(crate) const MOST: usize = 64 << 10;

/// What is known about a complete layer without walking it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub(crate) version: u32,
    /// Bytes in regular files.
    pub(crate) diff_bytes: u64,
    pub(crate) inodes: u64,
    /// The greatest owner and group; a container's id range must reach so far.
    pub(crate) max_uid: u32,
    pub(crate) max_gid: u32,
}

/// What every version of the record has.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

impl LayerRecord {
    /// Reads a record's bytes.
    pub(crate) fn parse(layer: &Digest, bytes: &[u8]) -> Result<Self> {
        let damaged = |error: serde_json::Error| Error::Record { layer: layer.clone(), reason: error.to_string() };
        // Another version may have other fields.
        let Version { version } = serde_json::from_slice(bytes).map_err(damaged)?;
        if version != VERSION {
            return Err(Error::OtherVersion { layer: layer.clone(), version, known: VERSION });
        }
        serde_json::from_slice(bytes).map_err(damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torn_records_are_damage_and_other_versions_are_not() {
        let layer = Digest::sha256_of(b"layer");
        let record = LayerRecord { version: VERSION, diff_bytes: 1, inodes: 2, max_uid: 3, max_gid: 4 };
        let bytes = serde_json::to_vec(&record).unwrap();
        assert_eq!(LayerRecord::parse(&layer, &bytes).unwrap(), record);
        let later = br#"{"version":2,"form":"erofs"}"#;
        assert!(matches!(LayerRecord::parse(&layer, later), Err(Error::OtherVersion { version: 2, known: 1, .. })));
        for bad in [&bytes[..bytes.len() - 1], b"", br#"{"version":1}"#] {
            assert!(matches!(LayerRecord::parse(&layer, bad), Err(Error::Record { .. })));
        }
    }
}
