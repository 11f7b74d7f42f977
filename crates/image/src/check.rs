//! Looking whether what is stored is still what was stored, and bringing back what is not.

use std::collections::BTreeSet;
use std::io::Read;

use oci::image::{ImageConfig, chain_ids};
use oci::{Digest, Reference};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};

use crate::assemble::{CONFIG_MAX, Stored};
use crate::content::{Hasher, file_names_at};
use crate::registry::{Client, Options};
use crate::{ContentStore, Error, ImageRecord, ImageStore, Inbound, Result};

/// Bytes read at a time.
const CHUNK: usize = 256 << 10;

/// What takes up space in the content store besides blobs, and does no harm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContentLeftovers {
    /// Files of writers that were killed.
    pub ingest: usize,
    /// Beginnings of blobs that the next pull goes on with, and their bytes.
    pub partial: (usize, u64),
    /// Names in `partial/` that no pull would take up.
    pub unknown: Vec<String>,
}

impl ContentStore {
    /// Reads a blob through and gives its size in bytes when its digest is right, otherwise what is wrong, as the end of
    /// a sentence about it.
    ///
    /// # Errors
    /// [`Error::MissingBlob`].
    pub fn check(&self, digest: &Digest) -> Result<Result<u64, String>> {
        let mut file = match self.open_blob(digest) {
            Ok(file) => file,
            Err(error @ Error::MissingBlob(_)) => return Err(error),
            Err(error) => return Ok(Err(format!("cannot be opened: {error}"))),
        };
        let mut hasher = Hasher::new(digest.algorithm());
        let mut buffer = vec![0; CHUNK];
        let mut size = 0;
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    hasher.update(&buffer[..n]);
                    size += n as u64;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Ok(Err(format!("cannot be read at byte {size}: {error}"))),
            }
        }
        let actual = hasher.finish();
        if actual == *digest { Ok(Ok(size)) } else { Ok(Err(format!("holds {size} bytes of digest {actual}"))) }
    }

    /// What killed processes left. What living ones are at work on does not count as theirs.
    ///
    /// # Errors
    /// System call errors.
    pub fn leftovers(&self) -> Result<ContentLeftovers> {
        let mut left = ContentLeftovers::default();
        let (names, ingest) = file_names_at(self.root()?, "ingest")?;
        for name in names {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let Some(Ok(fd)) = ingest.as_ref().map(|dir| rustix::fs::openat(dir, &name, flags, Mode::empty())) else {
                continue;
            };
            left.ingest += usize::from(rustix::fs::flock(&fd, FlockOperation::NonBlockingLockShared).is_ok());
        }
        let (names, partial) = file_names_at(self.root()?, "partial")?;
        for name in names {
            if name.replacen('-', ":", 1).parse::<Digest>().is_err() {
                left.unknown.push(name);
            } else if let Some(Ok(stat)) =
                partial.as_ref().map(|dir| rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW))
            {
                left.partial.0 += 1;
                left.partial.1 += u64::try_from(stat.st_size).unwrap_or(0);
            }
        }
        Ok(left)
    }
}

impl ImageStore {
    /// What is wrong with a record, as the end of a sentence about it: its layers must be those of its configuration, and
    /// its sizes those of the blobs. Blobs that are missing or damaged are not this check's affair.
    #[must_use]
    pub fn check(&self, record: &ImageRecord) -> Option<String> {
        let diff_ids: Vec<Digest> = record.layers.iter().map(|layer| layer.diff_id.clone()).collect();
        if !chain_ids(&diff_ids).iter().eq(record.chain()) {
            return Some("names layers under chain ids that are not theirs".to_owned());
        }
        if let Ok(bytes) = self.content().read(&record.config_blob.digest, CONFIG_MAX) {
            match ImageConfig::from_json(&bytes) {
                Err(error) => return Some(format!("names a configuration that is none: {error}")),
                Ok(config) if config.rootfs.diff_ids != diff_ids => {
                    return Some("names other layers than its configuration".to_owned());
                }
                Ok(_) => {}
            }
        }
        let described = [&record.target, &record.manifest, &record.config_blob];
        for blob in described.into_iter().chain(record.layers.iter().map(|layer| &layer.descriptor)) {
            if let Ok(Some(size)) = self.content().size(&blob.digest)
                && size != blob.size
                // A blob that was cut says so itself.
                && self.content().check(&blob.digest).is_ok_and(|sound| sound.is_ok())
            {
                return Some(format!("says that {} has {} bytes, but it has {size}", blob.digest, blob.size));
            }
        }
        None
    }

    /// Removes the record in this file, which cannot be read.
    ///
    /// # Errors
    /// System call errors.
    pub fn discard(&self, file: &str) -> Result<()> {
        self.forget(file)
    }

    /// Writes `index.json` anew.
    ///
    /// # Errors
    /// System call errors.
    pub fn rewrite_index(&self) -> Result<()> {
        self.publish_alone()
    }

    /// Whether `index.json` lists what the records say.
    ///
    /// # Errors
    /// When it cannot be read or is no index.
    pub fn is_index_in_step(&self) -> Result<bool> {
        let listed: BTreeSet<Digest> = self.content().read_index()?.into_iter().map(|entry| entry.digest).collect();
        Ok(self.list()?.records.iter().all(|record| listed.contains(record.id())))
    }
}

impl Inbound<'_> {
    /// Brings back the blobs and unpacked layers that `record` names and that are not here: from the stored blobs alone,
    /// or, with `from`, from its registry. No record is written.
    ///
    /// # Errors
    /// [`Error::MissingBlob`] without `from`; otherwise those of [`Inbound::pull`]; [`Error::Digest`] when what came is
    /// another image.
    pub fn restore(&self, record: &ImageRecord, from: Option<(&Reference, Options)>) -> Result<()> {
        let _lease = self.content.lease()?;
        let image = match from {
            None => self.assembly(&Stored).image(&record.target, None)?,
            Some((reference, options)) => {
                let client = Client::new(&reference.with_digest(record.id().clone()), options)?;
                self.assembly(&client).image(&record.target, None)?
            }
        };
        crate::content::verify("the restored image's manifest", &record.manifest.digest, &image.manifest.digest)
    }
}

/// The reference that a record's file is named by, where the name tells.
#[must_use]
pub fn reference_of_file(file: &str) -> Option<Reference> {
    let mut decoded = Vec::with_capacity(file.len());
    let mut rest = file.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            decoded.push(*first);
            continue;
        }
        let code = std::str::from_utf8(rest.get(..2)?).ok()?;
        decoded.push(u8::from_str_radix(code, 16).ok()?);
        rest = rest.get(2..)?;
    }
    let reference: Reference = String::from_utf8(decoded).ok()?.parse().ok()?;
    (reference.file_name() == file).then_some(reference)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn a_blob_is_read_through() {
        let dir = TempDir::new("check");
        let content = ContentStore::open(&dir.path().join("content")).expect("opens");
        let digest = content.put(b"content").expect("stored");
        assert_eq!(content.check(&digest).expect("there"), Ok(7));
        let path = dir.path().join("content").join(crate::content::blob_path(&digest));
        std::fs::write(&path, b"c0ntent").expect("damaged");
        assert!(content.check(&digest).expect("there").is_err_and(|what| what.contains("7 bytes")));
        std::fs::remove_file(&path).expect("removed");
        assert!(matches!(content.check(&digest), Err(Error::MissingBlob(_))));
    }

    #[test]
    fn file_names_lead_back_to_references() {
        let reference: Reference = "localhost:5000/a/b:v1".parse().expect("valid");
        assert_eq!(reference_of_file(&reference.file_name()), Some(reference));
        for bad in ["", "%", "%4", "%zz", "~00", "@sha256-00", "a%3"] {
            assert_eq!(reference_of_file(bad), None, "{bad}");
        }
    }
}
