//! What this crate's tests share: temporary directories, a sink that remembers, and byte-level archives.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use oci::Digest;

use crate::{BoxError, LayerJob, LayerSink};

/// A directory that goes away with its owner.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("lighter-image-{name}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(unique);
        std::fs::create_dir(&path).expect("a fresh temporary directory");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // A failed clean-up must not hide the test's own verdict.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A sink that keeps every layer's tar in memory.
#[derive(Default)]
pub(crate) struct MemorySink {
    staged: Mutex<BTreeMap<Digest, Vec<u8>>>,
    /// What was committed.
    pub(crate) layers: Mutex<BTreeMap<Digest, Vec<u8>>>,
}

impl LayerSink for MemorySink {
    fn contains(&self, chain_id: &Digest) -> bool {
        self.layers.lock().expect("not poisoned").contains_key(chain_id)
    }

    fn unpack(&self, job: LayerJob<'_>) -> Result<(), BoxError> {
        let mut bytes = Vec::new();
        job.tar.read_to_end(&mut bytes)?;
        job.tar.verify()?;
        self.staged.lock().expect("not poisoned").insert(job.chain_id.clone(), bytes);
        Ok(())
    }

    fn commit(&self, chain: &[Digest]) -> Result<crate::Committed, BoxError> {
        let (mut staged, mut layers) =
            (self.staged.lock().expect("not poisoned"), self.layers.lock().expect("not poisoned"));
        for id in chain {
            if let Some(bytes) = staged.remove(id) {
                layers.insert(id.clone(), bytes);
            }
            assert!(layers.contains_key(id), "a commit names only layers that are here");
        }
        Ok(crate::Committed::default())
    }
}

/// A tar of regular files.
pub(crate) fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (name, bytes) in files {
        tar_entry(&mut tar, name, tar::EntryType::Regular, "", bytes);
    }
    tar.extend([0; 1024]);
    tar
}

/// Appends one entry, whatever its name is.
pub(crate) fn tar_entry(tar: &mut Vec<u8>, name: &str, kind: tar::EntryType, link: &str, bytes: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    tar.extend(header.as_bytes());
    tar.extend(bytes);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("in memory");
    encoder.finish().expect("in memory")
}
