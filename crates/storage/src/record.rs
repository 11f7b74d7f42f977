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

impl LayerRecord {
    /// Reads a record's bytes.
    pub(crate) fn parse(layer: &Digest, bytes: &[u8]) -> Result<Self> {
        let damaged = |reason: String| Error::Record { layer: layer.clone(), reason };
        let record: Self = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        if record.version != VERSION {
            return Err(damaged(format!("its version is {}, not {VERSION}", record.version)));
        }
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_versions_and_torn_records_are_damage() {
        let layer = Digest::sha256_of(b"layer");
        let record = LayerRecord { version: VERSION, diff_bytes: 1, inodes: 2, max_uid: 3, max_gid: 4 };
        let bytes = serde_json::to_vec(&record).unwrap();
        assert_eq!(LayerRecord::parse(&layer, &bytes).unwrap(), record);
        let later = LayerRecord { version: 2, ..record };
        for bad in [&serde_json::to_vec(&later).unwrap()[..], &bytes[..bytes.len() - 1], b""] {
            assert!(matches!(LayerRecord::parse(&layer, bad), Err(Error::Record { .. })));
        }
    }
}
