use std::sync::Arc;

use oci::Platform;

use super::*;
use crate::testing::{MemorySink, TempDir, gzip, tar_entry, tar_of};
use crate::{ContentStore, ImageStore, Quiet};

struct Store {
    dir: TempDir,
    content: Arc<ContentStore>,
    images: ImageStore,
    sink: MemorySink,
}

impl Store {
    fn new() -> Self {
        let dir = TempDir::new("save");
        let content = Arc::new(ContentStore::open(&dir.path().join("content")).expect("open"));
        let images = ImageStore::open(&dir.path().join("images"), content.clone()).expect("open");
        Self { dir, content, images, sink: MemorySink::default() }
    }

    fn load(&self, archive: &[u8]) -> Vec<ImageRecord> {
        Inbound::new(&self.content, &self.images, &self.sink, &Quiet).load(&mut &archive[..]).expect("loaded")
    }

    fn save(&self, records: &[ImageRecord], only: &[Platform]) -> Result<Vec<u8>> {
        let chosen: Vec<Chosen> = records
            .iter()
            .map(|record| Chosen { record: record.clone(), names: record.reference.iter().cloned().collect() })
            .collect();
        let mut out = Vec::new();
        save(&self.content, &chosen, only, &mut out, &Quiet)?;
        Ok(out)
    }
}

/// A docker archive of one image with two layers and two names.
fn archive() -> Vec<u8> {
    let layers = [tar_of(&[("one", b"1")]), gzip(&tar_of(&[("two", b"2")]))];
    let diff_ids = [oci::Digest::sha256_of(&layers[0]), oci::Digest::sha256_of(&tar_of(&[("two", b"2")]))];
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}","{}"]}}}}"#,
        diff_ids[0], diff_ids[1]
    );
    let manifest = r#"[{"Config":"c.json","RepoTags":["a:1","reg.example/b:2"],"Layers":["0.tar","1.tar"]}]"#;
    let mut tar = Vec::new();
    for (name, bytes) in [
        ("0.tar", &layers[0][..]),
        ("1.tar", &layers[1]),
        ("c.json", config.as_bytes()),
        ("manifest.json", manifest.as_bytes()),
    ] {
        tar_entry(&mut tar, name, tar::EntryType::Regular, "", bytes);
    }
    tar.extend([0; 1024]);
    tar
}

#[test]
fn what_is_saved_loads_as_it_was() {
    let (from, to) = (Store::new(), Store::new());
    let records = from.load(&archive());
    let saved = from.save(&records, &[]).expect("saved");
    assert_eq!(saved, from.save(&records, &[]).expect("saved"), "always the same archive");
    let mut loaded = to.load(&saved);
    loaded.iter_mut().zip(&records).for_each(|(loaded, record)| loaded.target = record.target.clone());
    assert_eq!(loaded, records);
    let mut blobs = (from.content.list().expect("list"), to.content.list().expect("list"));
    blobs.0.sort();
    blobs.1.sort();
    assert_eq!(blobs.0, blobs.1);
}

#[test]
fn docker_reads_one_entry_with_all_names() {
    let store = Store::new();
    let records = store.load(&archive());
    let saved = store.save(&records, &[]).expect("saved");
    let mut tar = tar::Archive::new(&saved[..]);
    let mut manifest = String::new();
    let mut names = Vec::new();
    for entry in tar.entries().expect("a tar") {
        let mut entry = entry.expect("an entry");
        names.push(entry.path().expect("a path").display().to_string());
        if names.last().is_some_and(|name| name == "manifest.json") {
            entry.read_to_string(&mut manifest).expect("text");
        }
    }
    let manifest: serde_json::Value = serde_json::from_str(&manifest).expect("JSON");
    assert_eq!(manifest.as_array().map(Vec::len), Some(1));
    assert_eq!(manifest[0]["RepoTags"], serde_json::json!(["a:1", "reg.example/b:2"]));
    for path in manifest[0]["Layers"].as_array().expect("a list").iter().chain([&manifest[0]["Config"]]) {
        assert!(names.iter().any(|name| path == name), "{path}");
    }
    assert_eq!(names[..2], ["blobs/", "blobs/sha256/"]);
}

#[test]
fn damage_and_other_platforms_are_errors() {
    let store = Store::new();
    let records = store.load(&archive());
    let arm = Platform::new("linux", "s390x", "");
    assert!(matches!(store.save(&records, &[arm]), Err(Error::NoPlatform { .. })));
    assert!(store.save(&records, &[Platform::new("linux", "amd64", "")]).is_ok());
    let layer = &records[0].layers[0].descriptor.digest;
    let file = store.dir.path().join(format!("content/blobs/sha256/{}", layer.hex()));
    let mut bytes = std::fs::read(&file).expect("there");
    bytes[0] ^= 1;
    std::fs::write(&file, bytes).expect("spoiled");
    assert!(matches!(store.save(&records, &[]), Err(Error::Digest { .. })));
    std::fs::remove_file(&file).expect("removed");
    assert!(matches!(store.save(&records, &[]), Err(Error::MissingBlob(_))));
}
