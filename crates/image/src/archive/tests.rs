use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use oci::image::{Descriptor, media_type};
use oci::{Digest, Platform};
use tar::EntryType;

use super::*;
use crate::codec::CodecError;
use crate::testing::{MemorySink, TempDir, gzip, tar_entry, tar_of};
use crate::{BoxError, ContentStore, ImageStore, LayerJob, LayerSink, Quiet};

struct Fixture {
    dir: TempDir,
    content: Arc<ContentStore>,
    images: ImageStore,
    sink: MemorySink,
}

impl Fixture {
    fn new(name: &str) -> Self {
        let dir = TempDir::new(name);
        let content = Arc::new(ContentStore::open(&dir.path().join("content")).expect("open"));
        let images = ImageStore::open(&dir.path().join("images"), content.clone()).expect("open");
        Self { dir, content, images, sink: MemorySink::default() }
    }

    fn inbound(&self) -> Inbound<'_> {
        Inbound::new(&self.content, &self.images, &self.sink, &Quiet)
    }

    fn load(&self, archive: &[u8]) -> Result<Vec<ImageRecord>> {
        self.inbound().load(&mut &archive[..])
    }

    /// Nothing is visible: no image, no layer.
    fn assert_untouched(&self) {
        assert!(self.images.list().expect("list").records.is_empty());
        assert!(self.sink.layers.lock().expect("not poisoned").is_empty());
        assert!(std::fs::read_dir(self.dir.path().join("content/ingest")).expect("dir").next().is_none());
    }
}

fn layer(text: &str) -> Vec<u8> {
    tar_of(&[("file", text.as_bytes())])
}

fn config(layers: &[&[u8]]) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|l| format!("\"{}\"", Digest::sha256_of(l))).collect();
    format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Cmd":["sh"],"Env":["A=1"]}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        diff_ids.join(",")
    )
    .into_bytes()
}

fn docker_manifest(config: &str, tags: &str, layers: &str) -> Vec<u8> {
    format!(r#"[{{"Config":"{config}","RepoTags":{tags},"Layers":{layers}}}]"#).into_bytes()
}

fn docker_archive() -> Vec<u8> {
    let (one, two) = (layer("one"), layer("two"));
    let config = config(&[&one, &two]);
    let config_name = format!("{}.json", Digest::sha256_of(&config).hex());
    let mut tar = Vec::new();
    tar_entry(&mut tar, "aaa/", EntryType::Directory, "", b"");
    tar_entry(&mut tar, "aaa/VERSION", EntryType::Regular, "", b"1.0");
    tar_entry(&mut tar, "aaa/json", EntryType::Regular, "", b"{}");
    tar_entry(&mut tar, "aaa/layer.tar", EntryType::Regular, "", &one);
    tar_entry(&mut tar, "bbb/layer.tar", EntryType::Symlink, "../ccc/layer.tar", b"");
    tar_entry(&mut tar, "ccc/layer.tar", EntryType::Regular, "", &two);
    tar_entry(&mut tar, &config_name, EntryType::Regular, "", &config);
    let manifest =
        docker_manifest(&config_name, r#"["app:1","example.com/app:2"]"#, r#"["aaa/layer.tar","bbb/layer.tar"]"#);
    tar_entry(&mut tar, "manifest.json", EntryType::Regular, "", &manifest);
    tar_entry(&mut tar, "repositories", EntryType::Regular, "", b"{}");
    tar.extend([0; 1024]);
    tar
}

fn manifest_of(config: &[u8], layers: &[(&str, &[u8])]) -> Vec<u8> {
    let layers: Vec<Descriptor> = layers.iter().map(|(kind, bytes)| Descriptor::of(kind, bytes)).collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": Descriptor::of(media_type::OCI_CONFIG, config), "layers": layers,
    });
    serde_json::to_vec(&manifest).expect("serialisable")
}

fn blob_name(bytes: &[u8]) -> String {
    format!("blobs/sha256/{}", Digest::sha256_of(bytes).hex())
}

/// Files of a layout: an index over a manifest for this machine and one for another, whose blobs are not there.
fn layout_files() -> Vec<(String, Vec<u8>)> {
    let (one, two) = (layer("one"), layer("two"));
    let (one_gz, two_zst) = (gzip(&one), zstd::encode_all(&two[..], 3).expect("in memory"));
    let config = config(&[&one, &two]);
    let manifest =
        manifest_of(&config, &[(media_type::OCI_LAYER_GZIP, &one_gz), (media_type::OCI_LAYER_ZSTD, &two_zst)]);
    let mut here = Descriptor::of(media_type::OCI_MANIFEST, &manifest);
    here.platform = Some(Platform::host());
    let mut elsewhere = Descriptor::of(media_type::OCI_MANIFEST, b"not here");
    elsewhere.platform = Some(Platform::new("linux", "s390x", ""));
    let index =
        serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "manifests": [elsewhere, here]})).expect("json");
    let mut entry = Descriptor::of(media_type::OCI_INDEX, &index);
    entry.annotations.insert("io.containerd.image.name".to_owned(), "docker.io/library/app:1".to_owned());
    let mut again = entry.clone();
    again.annotations.insert("io.containerd.image.name".to_owned(), "docker.io/library/app:2".to_owned());
    let top = serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "manifests": [entry, again]})).expect("json");
    vec![
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        (blob_name(&config), config),
        (blob_name(&one_gz), one_gz),
        (blob_name(&two_zst), two_zst),
        (blob_name(&manifest), manifest),
        (blob_name(&index), index),
        ("index.json".to_owned(), top),
    ]
}

fn tar_of_owned(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    tar_of(&files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect::<Vec<_>>())
}

#[test]
fn docker_archives_load() {
    let f = Fixture::new("docker-archive");
    let archive = docker_archive();
    let loaded = f.load(&archive).expect("loads");
    let names: Vec<String> = loaded.iter().filter_map(|r| r.reference.as_ref()).map(|r| r.familiar()).collect();
    assert_eq!(names, ["app:1", "example.com/app:2"]);
    let record = f.images.resolve("app:1").expect("named");
    assert_eq!(record.config.cmd.as_deref(), Some(&["sh".to_owned()][..]));
    assert_eq!(record.layers.len(), 2);
    assert_eq!(record.layers[0].descriptor.media_type, media_type::OCI_LAYER);
    let layers = f.sink.layers.lock().expect("not poisoned").clone();
    assert_eq!(layers[&record.layers[0].chain_id], layer("one"));
    assert_eq!(layers[&record.layers[1].chain_id], layer("two"));
    for blob in record.blobs() {
        assert!(f.content.contains(blob).expect("stat"), "{blob}");
    }
    for compressed in [gzip(&archive), zstd::encode_all(&archive[..], 1).expect("in memory")] {
        let again = f.load(&compressed).expect("loads");
        assert_eq!(again[0].id(), record.id(), "the same archive gives the same image");
    }
    let other = Fixture::new("docker-archive-2");
    assert_eq!(other.load(&archive).expect("loads")[0].id(), record.id());
}

#[test]
fn layouts_load_from_archives_and_directories() {
    let f = Fixture::new("layout");
    let files = layout_files();
    let loaded = f.load(&tar_of_owned(&files)).expect("loads");
    assert_eq!(loaded.len(), 2);
    let record = f.images.resolve("app:2").expect("named");
    assert_eq!(record.id(), &Digest::sha256_of(&files[5].1), "the id is the index's digest");
    assert_eq!(record.manifest.digest, Digest::sha256_of(&files[4].1));
    assert_eq!(f.sink.layers.lock().expect("not poisoned")[&record.layers[1].chain_id], layer("two"));

    let d = Fixture::new("layout-dir");
    let source = d.dir.path().join("layout");
    std::fs::create_dir_all(source.join("blobs/sha256")).expect("mkdir");
    for (name, bytes) in &files {
        std::fs::write(source.join(name), bytes).expect("write");
    }
    assert_eq!(d.inbound().load_layout(&source).expect("loads")[0].id(), record.id());

    let s390x = Some(Platform::new("linux", "s390x", ""));
    let wanted = d.inbound().platform(s390x).load_layout(&source);
    assert!(wanted.is_err(), "the other platform's blobs are not in the layout");
    let arm = Some(Platform::new("linux", "riscv64", ""));
    assert!(
        matches!(d.inbound().platform(arm).load_layout(&source), Err(Error::NoPlatform { offered, .. }) if offered.contains("s390x"))
    );

    std::fs::remove_file(source.join("oci-layout")).expect("remove");
    std::os::unix::fs::symlink("/proc/self/fd/0", source.join("oci-layout")).expect("symlink");
    assert!(d.inbound().load_layout(&source).is_err(), "a magic link is not followed");
}

#[test]
fn every_truncation_is_an_error_and_leaves_nothing() {
    let archive = docker_archive();
    // What follows manifest.json is not needed.
    let end = archive.len() - 2048;
    for cut in (0..end).step_by(512).chain([100, end - 700, 513]) {
        let f = Fixture::new("truncated");
        assert!(f.load(&archive[..cut]).is_err(), "cut at {cut}");
        f.assert_untouched();
    }
    let compressed = gzip(&archive);
    let f = Fixture::new("truncated-gzip");
    assert!(matches!(
        f.load(&compressed[..compressed.len() / 2]),
        Err(Error::Codec { source: CodecError::Truncated(_), .. })
    ));
    f.assert_untouched();
}

#[test]
fn wrong_digests_are_refused() {
    let f = Fixture::new("wrong-digest");
    let mut files = layout_files();
    files[2].1 = gzip(&layer("something else"));
    assert!(matches!(f.load(&tar_of_owned(&files)), Err(Error::Digest { what, .. }) if what.contains("blobs/sha256")));
    f.assert_untouched();

    let (one, other) = (layer("one"), layer("other"));
    let config = config(&[&one]);
    for (config_name, layer_bytes) in
        [("c.json".to_owned(), &other), (format!("{}.json", Digest::sha256_of(b"x").hex()), &one)]
    {
        let manifest = docker_manifest(&config_name, "null", r#"["l.tar"]"#);
        let archive = tar_of(&[("manifest.json", &manifest), (&config_name, &config), ("l.tar", layer_bytes)]);
        assert!(matches!(f.load(&archive), Err(Error::Digest { .. })), "{config_name}");
        f.assert_untouched();
    }
    let packed = gzip(&other);
    let manifest = docker_manifest("c.json", "null", r#"["l.tar"]"#);
    let archive = tar_of(&[("manifest.json", &manifest), ("c.json", &config), ("l.tar", &packed)]);
    assert!(matches!(f.load(&archive), Err(Error::Digest { what, .. }) if what.contains("uncompressed")), "DiffID");
    f.assert_untouched();
}

#[test]
fn hostile_names_are_refused() {
    let f = Fixture::new("hostile");
    let sentinel = f.dir.path().join("sentinel");
    std::fs::write(&sentinel, "untouched").expect("write");
    for name in ["../x", "/etc/x", "a/../../x", "blobs/sha256/../../../sentinel", "blobs/sha256/zz", "blobs/x"] {
        assert!(f.load(&tar_of(&[(name, b"evil")])).is_err(), "{name}");
    }
    for target in ["../../../sentinel", "/etc/passwd"] {
        let mut tar = Vec::new();
        tar_entry(&mut tar, "x/layer.tar", EntryType::Symlink, target, b"");
        assert!(f.load(&tar).is_err(), "{target}");
    }
    for config in ["../x", "/etc/passwd", "missing.json", ""] {
        let manifest = docker_manifest(config, "null", "[]");
        assert!(f.load(&tar_of(&[("manifest.json", &manifest)])).is_err(), "{config}");
    }
    let mut circle = Vec::new();
    tar_entry(&mut circle, "a", EntryType::Symlink, "b", b"");
    tar_entry(&mut circle, "b", EntryType::Symlink, "a", b"");
    tar_entry(&mut circle, "manifest.json", EntryType::Regular, "", &docker_manifest("a", "null", "[]"));
    assert!(f.load(&circle).is_err());
    let bad_tag = docker_manifest("c.json", r#"["../../x"]"#, "[]");
    assert!(f.load(&tar_of(&[("manifest.json", &bad_tag), ("c.json", &config(&[]))])).is_err());
    assert_eq!(std::fs::read_to_string(&sentinel).expect("read"), "untouched");
    f.assert_untouched();
}

#[test]
fn ambiguous_and_oversized_documents_are_refused() {
    let f = Fixture::new("documents");
    let manifest = String::from_utf8(manifest_of(&config(&[]), &[])).expect("text");
    let both = manifest.replace(r#""layers":[]"#, r#""layers":[],"manifests":[]"#).into_bytes();
    let entry = Descriptor::of(media_type::OCI_MANIFEST, &both);
    let index = serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "manifests": [entry]})).expect("json");
    let archive = tar_of(&[(&blob_name(&both), &both), ("index.json", &index)]);
    assert!(matches!(f.load(&archive), Err(Error::Document { .. })));

    let huge = vec![b' '; 5 << 20];
    for name in ["manifest.json", "index.json"] {
        assert!(matches!(f.load(&tar_of(&[(name, &huge)])), Err(Error::TooLarge { .. })), "{name}");
    }
    let twice = tar_of(&[("a", b"1"), ("./a", b"2")]);
    assert!(matches!(f.load(&twice), Err(Error::Malformed { reason, .. }) if reason.contains("twice")));
    for (manifest, what) in [(&b"[]"[..], "empty"), (b"{", "broken"), (b"null", "null")] {
        assert!(f.load(&tar_of(&[("manifest.json", manifest)])).is_err(), "{what}");
    }
    let mut header = tar::Header::new_gnu();
    header.set_path("manifest.json").expect("short");
    header.set_size(1 << 30);
    header.set_cksum();
    let mut endless = io::Read::chain(&header.as_bytes()[..], io::repeat(b' '));
    assert!(matches!(f.inbound().load(&mut endless), Err(Error::TooLarge { .. })), "a manifest of 1 GB");
    for not_an_image in [&b""[..], b"hello", &layer("x")] {
        assert!(f.load(not_an_image).is_err());
    }
    f.assert_untouched();
}

#[test]
fn bombs_end_at_the_bound() {
    let f = Fixture::new("bomb");
    let zeros = vec![0_u8; 4 << 20];
    let config = config(&[&zeros]);
    let manifest = docker_manifest("c.json", "null", r#"["l.tar"]"#);
    let archive = tar_of(&[("manifest.json", &manifest), ("c.json", &config), ("l.tar", &gzip(&zeros))]);
    let limits = Limits { max_output: 1 << 20, ..Limits::default() };
    let loaded = f.inbound().limits(limits).load(&mut &archive[..]);
    assert!(matches!(loaded, Err(Error::Codec { source: CodecError::TooLong(_), .. })), "{loaded:?}");
    f.assert_untouched();
    let mut endless = io::repeat(0);
    let imported = f.inbound().limits(limits).import(&mut endless, &ImportOptions::default());
    assert!(imported.is_err());
    f.assert_untouched();
}

#[test]
fn file_systems_import() {
    let f = Fixture::new("import");
    let root = layer("root");
    let options = ImportOptions {
        reference: Some("base:1".parse().expect("valid")),
        changes: vec!["CMD [\"sh\"]".to_owned(), "ENV A=1".to_owned()],
        message: Some("mine".to_owned()),
        platform: Some(Platform::new("linux", "arm64", "v8")),
    };
    for (bytes, kind) in [(root.clone(), media_type::OCI_LAYER), (gzip(&root), media_type::OCI_LAYER_GZIP)] {
        let record = f.inbound().import(&mut &bytes[..], &options).expect("imports");
        assert_eq!(f.images.resolve("base:1").expect("named"), record);
        assert_eq!(record.layers[0].descriptor.media_type, kind);
        assert_eq!(record.layers[0].diff_id, Digest::sha256_of(&root));
        assert_eq!(record.platform.to_string(), "linux/arm64");
        assert_eq!((record.comment.as_str(), record.config.env.join(" ").as_str()), ("mine", "A=1"));
        assert!(record.created.as_deref().is_some_and(|time| time.ends_with('Z')));
        assert_eq!(f.sink.layers.lock().expect("not poisoned")[&record.layers[0].chain_id], root);
    }
    let bad = ImportOptions { changes: vec!["RUN x".to_owned()], ..ImportOptions::default() };
    assert!(f.inbound().import(&mut &root[..], &bad).is_err());
    assert!(f.inbound().import(&mut &b""[..], &ImportOptions::default()).is_err());
}

/// What a [`BadSink`] does.
#[derive(Clone, Copy, PartialEq)]
enum Vice {
    FailsToUnpack,
    DoesNotVerify,
    FailsToCommit,
}

struct BadSink {
    vice: Vice,
    called: AtomicBool,
}

impl LayerSink for BadSink {
    fn contains(&self, _chain_id: &Digest) -> bool {
        false
    }

    fn unpack(&self, job: LayerJob<'_>) -> std::result::Result<(), BoxError> {
        self.called.store(true, Ordering::Relaxed);
        match self.vice {
            Vice::FailsToUnpack => Err("disk full".into()),
            Vice::DoesNotVerify => Ok(()),
            Vice::FailsToCommit => Ok(job.tar.verify()?),
        }
    }

    fn commit(&self, _chain: &[Digest]) -> std::result::Result<crate::Committed, BoxError> {
        Err("disk full".into())
    }
}

#[test]
fn a_sink_that_fails_or_cheats_fails_the_load() {
    for vice in [Vice::FailsToUnpack, Vice::DoesNotVerify, Vice::FailsToCommit] {
        let f = Fixture::new("bad-sink");
        let sink = BadSink { vice, called: AtomicBool::new(false) };
        let inbound = Inbound::new(&f.content, &f.images, &sink, &Quiet);
        let error = inbound.load(&mut &docker_archive()[..]).expect_err("fails");
        match vice {
            Vice::FailsToCommit => assert!(matches!(error, Error::Commit { .. }), "{error}"),
            _ => assert!(matches!(error, Error::Unpack { .. }), "{error}"),
        }
        assert!(sink.called.load(Ordering::Relaxed));
        f.assert_untouched();
    }
}
