//! Manifest lists that are being put together (`manifest create`, `annotate`, `push`): on disk until they are pushed.
//!
//! One file per list, `<name>.json`, replaced atomically. Readers take no lock; writers take one. The manifests
//! themselves lie in the record, because a list usually names images of other machines, which are not in the store.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oci::image::{Descriptor, media_type};
use oci::{Digest, Platform, Reference};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sys::Context;
use sys::fs::Lock;

use crate::content::{open_or_make_path, read_bounded};
use crate::{Error, Result};

/// Version of the records this program writes.
const VERSION: u32 = 1;
/// Most manifests of one list, as of an image's indexes.
const ENTRIES_MAX: usize = 1000;
/// Largest record read, in bytes.
const RECORD_MAX: u64 = 64 << 20;
/// A list in the making.
const TEMP: &str = "new.tmp";
/// How long others may be at work here: they write one file.
const LOCK_LIMIT: Duration = Duration::from_secs(10);

/// One manifest of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListEntry {
    /// What it was added by.
    pub reference: Reference,
    /// The manifest; its platform is what the list says of it.
    pub descriptor: Descriptor,
    /// The manifest itself.
    pub bytes: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    name: Reference,
    entries: Vec<EntryRecord>,
}

#[derive(Serialize, Deserialize)]
struct EntryRecord {
    reference: Reference,
    descriptor: Descriptor,
    /// In base64: the bytes are what the digest is of.
    manifest: String,
}

/// The lists of one data root.
#[derive(Clone, Debug)]
pub struct ListStore {
    dir: PathBuf,
}

impl ListStore {
    /// The lists in `dir`, which is made when the first one is.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// The list `name`, if there is one.
    ///
    /// # Errors
    /// [`Error::DamagedRecord`]; system call errors.
    pub fn get(&self, name: &Reference) -> Result<Option<Vec<ListEntry>>> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let path = self.dir.join(file_name(name));
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = match rustix::fs::open(&path, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            result => result.at("open", path.display())?,
        };
        let damaged = |reason: String| Error::DamagedRecord { name: file_name(name), reason };
        let bytes = read_bounded(&mut File::from(fd), RECORD_MAX, &file_name(name))?;
        let version: Version = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if version.version != VERSION {
            return Err(Error::OtherVersion { name: file_name(name), version: version.version, known: VERSION });
        }
        let record: Record = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if record.name != *name {
            return Err(damaged("it belongs to another name".to_owned()));
        }
        let entry = |entry: EntryRecord| {
            let bytes = STANDARD.decode(&entry.manifest).map_err(|error| damaged(error.to_string()))?;
            Ok(ListEntry { reference: entry.reference, descriptor: entry.descriptor, bytes })
        };
        record.entries.into_iter().map(entry).collect::<Result<_>>().map(Some)
    }

    /// Replaces the list `name` by what `change` makes of it, `None` being that there is none.
    ///
    /// # Errors
    /// Those of `change` and of [`ListStore::get`]; [`Error::TooLarge`].
    pub fn change<E: From<Error>>(
        &self,
        name: &Reference,
        change: impl FnOnce(Option<Vec<ListEntry>>) -> Result<Vec<ListEntry>, E>,
    ) -> Result<(), E> {
        let dir = open_or_make_path(&self.dir)?;
        let _lock = lock(&dir, LOCK_LIMIT)?;
        let entries = change(self.get(name)?)?;
        Ok(write(&dir, name, &entries)?)
    }

    /// Forgets the list `name`; false when there was none.
    ///
    /// # Errors
    /// System call errors.
    pub fn remove(&self, name: &Reference) -> Result<bool> {
        let dir = open_or_make_path(&self.dir)?;
        let _lock = lock(&dir, LOCK_LIMIT)?;
        let file = file_name(name);
        if let Err(error @ Error::OtherVersion { .. }) = self.get(name) {
            return Err(error);
        }
        match rustix::fs::unlinkat(&dir, &file, AtFlags::empty()) {
            Ok(()) => {
                rustix::fs::fsync(&dir).at("fsync", &file)?;
                Ok(true)
            }
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(sys::Error::new("unlinkat", &file, errno).into()),
        }
    }
}

fn file_name(name: &Reference) -> String {
    format!("{}.json", name.file_name())
}

fn lock(dir: &OwnedFd, limit: Duration) -> Result<Lock> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let lock = rustix::fs::openat(dir, "lock", flags, Mode::from_raw_mode(0o600)).at("openat", "lock")?;
    Ok(Lock::take(lock, limit)?)
}

fn write(dir: &OwnedFd, name: &Reference, entries: &[ListEntry]) -> Result<()> {
    if entries.len() > ENTRIES_MAX {
        return Err(Error::TooLarge { what: format!("manifest list {name}"), limit: ENTRIES_MAX as u64 });
    }
    let entry = |entry: &ListEntry| EntryRecord {
        reference: entry.reference.clone(),
        descriptor: entry.descriptor.clone(),
        manifest: STANDARD.encode(&entry.bytes),
    };
    let record = Record { version: VERSION, name: name.clone(), entries: entries.iter().map(entry).collect() };
    let file = file_name(name);
    let bytes = serde_json::to_vec(&record).map_err(|error| Error::malformed(&file, error.to_string()))?;
    // The lock is held: whatever has this name was left by a writer that died.
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, TEMP, flags, Mode::from_raw_mode(0o600)).at("openat", TEMP)?;
    let mut out = File::from(fd);
    let written = out
        .write_all(&bytes)
        .at("write", &file)
        .and_then(|()| rustix::fs::fsync(&out).at("fsync", &file))
        .and_then(|()| rustix::fs::renameat(dir, TEMP, dir, &file).at("renameat", &file))
        .and_then(|()| rustix::fs::fsync(dir).at("fsync", &file));
    if written.is_err() {
        // The error that made the temporary file useless is the one to report.
        let _ = rustix::fs::unlinkat(dir, TEMP, AtFlags::empty());
    }
    Ok(written?)
}

/// The document that a list is: a manifest list of Docker's, or an OCI index when its first manifest is OCI's. Laid out
/// as docker does it, so that both make the same digest of the same list.
///
/// # Errors
/// [`Error::Malformed`], which only a failing allocator could cause.
pub fn document<'a>(descriptors: impl IntoIterator<Item = &'a Descriptor>) -> Result<(Descriptor, Vec<u8>)> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct List<'a> {
        schema_version: u32,
        media_type: &'a str,
        manifests: Vec<Item<'a>>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Item<'a> {
        media_type: &'a str,
        size: u64,
        digest: &'a Digest,
        #[serde(skip_serializing_if = "Option::is_none")]
        platform: Option<Shown<'a>>,
    }
    let manifests: Vec<Item<'_>> = descriptors
        .into_iter()
        .map(|descriptor| Item {
            media_type: &descriptor.media_type,
            size: descriptor.size,
            digest: &descriptor.digest,
            platform: descriptor.platform.as_ref().map(Shown::of),
        })
        .collect();
    let is_oci = manifests.first().is_some_and(|first| first.media_type == media_type::OCI_MANIFEST);
    let media_type = if is_oci { media_type::OCI_INDEX } else { media_type::DOCKER_LIST };
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"   ");
    List { schema_version: 2, media_type, manifests }
        .serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter))
        .map_err(|error| Error::malformed("manifest list", error.to_string()))?;
    Ok((Descriptor::of(media_type, &bytes), bytes))
}

/// A platform in the order of fields that docker writes.
#[derive(Debug, Serialize)]
pub struct Shown<'a> {
    architecture: &'a str,
    os: &'a str,
    #[serde(rename = "os.version", skip_serializing_if = "str::is_empty")]
    os_version: &'a str,
    #[serde(rename = "os.features", skip_serializing_if = "<[String]>::is_empty")]
    os_features: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    variant: &'a str,
}

impl<'a> Shown<'a> {
    /// `platform`, to be written.
    #[must_use]
    pub fn of(platform: &'a Platform) -> Self {
        Self {
            architecture: &platform.architecture,
            os: &platform.os,
            os_version: &platform.os_version,
            os_features: &platform.os_features,
            variant: &platform.variant,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn entry(name: &str, bytes: &[u8], platform: &Platform) -> ListEntry {
        let descriptor =
            Descriptor { platform: Some(platform.clone()), ..Descriptor::of(media_type::DOCKER_MANIFEST, bytes) };
        ListEntry { reference: name.parse().expect("a name"), descriptor, bytes: bytes.to_vec() }
    }

    #[test]
    fn a_list_is_kept_changed_and_forgotten() {
        let dir = TempDir::new("lists");
        let store = ListStore::new(&dir.path().join("manifests"));
        let name: Reference = "reg.example/app:1".parse().expect("a name");
        assert_eq!(store.get(&name).expect("reads"), None);
        let first = entry("reg.example/app:amd64", b"{\"a\":1}", &Platform::new("linux", "amd64", ""));
        let second = entry("reg.example/app:arm", b"{ \"b\" : 2 }", &Platform::new("linux", "arm64", "v8"));
        let made = store.change(&name, |known| {
            assert_eq!(known, None);
            Ok::<_, Error>(vec![first.clone()])
        });
        made.expect("written");
        let refused = store.change(&name, |_| Err(Error::Cancelled));
        assert!(matches!(refused, Err(Error::Cancelled)));
        let added =
            store.change(&name, |known| Ok::<_, Error>([known.unwrap_or_default(), vec![second.clone()]].concat()));
        added.expect("written");
        assert_eq!(store.get(&name).expect("reads"), Some(vec![first, second]));
        let path = dir.path().join("manifests").join(file_name(&name));
        std::fs::write(&path, b"{\"version\":9,\"name\":\"a:b\",\"entries\":[]}").expect("written");
        assert!(matches!(store.get(&name), Err(Error::OtherVersion { version: 9, .. })));
        assert!(matches!(store.remove(&name), Err(Error::OtherVersion { version: 9, .. })), "it is left alone");
        std::fs::write(&path, b"no record").expect("written");
        assert!(matches!(store.get(&name), Err(Error::DamagedRecord { .. })));
        assert!(store.remove(&name).expect("removed"));
        assert!(!store.remove(&name).expect("not there"));
    }

    #[test]
    fn a_writer_waits_so_long_and_takes_over_what_another_left() {
        let dir = TempDir::new("lists-lock");
        let store = ListStore::new(dir.path());
        let handle = open_or_make_path(dir.path()).expect("opened");
        let held = lock(&handle, LOCK_LIMIT).expect("free");
        assert!(lock(&handle, Duration::from_millis(5)).is_err());
        drop(held);
        std::fs::write(dir.path().join(TEMP), "x".repeat(4096)).expect("written");
        let name: Reference = "reg.example/app:1".parse().expect("a name");
        let first = entry("reg.example/app:amd64", b"{}", &Platform::new("linux", "amd64", ""));
        store.change(&name, |_| Ok::<_, Error>(vec![first.clone()])).expect("written");
        assert_eq!(store.get(&name).expect("reads"), Some(vec![first]));
        assert!(!dir.path().join(TEMP).exists());
    }

    #[test]
    fn a_document_has_the_digest_that_docker_makes_of_it() {
        // What Docker 28.5 pushes for these two.
        let manifest = |hex: &str, size, platform| Descriptor {
            platform: Some(platform),
            ..Descriptor::new(media_type::DOCKER_MANIFEST, format!("sha256:{hex}").parse().expect("a digest"), size)
        };
        let arm = Platform {
            os_version: "1.2".to_owned(),
            os_features: vec!["a".to_owned(), "b".to_owned()],
            variant: "v8".to_owned(),
            architecture: "arm64".to_owned(),
            os: "linux".to_owned(),
        };
        let both = [
            manifest(
                "e8a12fd0bf7c4938849b8cda7a2756e43f3b24482b3e0ec9cca2e07229a4cbef",
                527,
                Platform::new("linux", "amd64", ""),
            ),
            manifest("b8a2f0e7fd7dbb7243a72af95ae8b07522eef7f2ccf31afa19e8169ac7ded393", 528, arm),
        ];
        let (descriptor, bytes) = document(&both).expect("written");
        assert_eq!(
            descriptor.digest.to_string(),
            "sha256:4a5c843959b73a38e42e7c709dd43cafaca107ce4e08b56ed75e0140cf6cc12e",
            "{}",
            String::from_utf8_lossy(&bytes)
        );
        assert_eq!(descriptor.media_type, media_type::DOCKER_LIST);
        let oci = Descriptor::of(media_type::OCI_MANIFEST, b"{}");
        assert_eq!(document([&oci]).expect("written").0.media_type, media_type::OCI_INDEX);
    }
}
