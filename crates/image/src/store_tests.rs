use oci::Platform;
use oci::image::{ContainerConfig, media_type};

use super::*;
use crate::record::LayerRecord;
use crate::testing::TempDir;

struct Fixture {
    dir: TempDir,
    content: Arc<ContentStore>,
    images: ImageStore,
}

fn fixture(name: &str) -> Fixture {
    let dir = TempDir::new(name);
    let content = Arc::new(ContentStore::open(&dir.path().join("content")).expect("open"));
    let images = ImageStore::open(&dir.path().join("images"), content.clone()).expect("open");
    Fixture { dir, content, images }
}

fn reference(name: &str) -> Reference {
    name.parse().expect("valid")
}

fn image(seed: &str, name: Option<&str>) -> ImageRecord {
    let digest = |part: &str| Digest::sha256_of(format!("{seed}{part}").as_bytes());
    let descriptor = |part: &str| Descriptor::new(media_type::OCI_MANIFEST, digest(part), 10);
    ImageRecord {
        version: record::VERSION,
        reference: name.map(reference),
        target: descriptor("target"),
        manifest: descriptor("manifest"),
        path: Vec::new(),
        config_blob: descriptor("config"),
        platform: Platform::new("linux", "amd64", ""),
        layers: vec![LayerRecord {
            descriptor: descriptor("layer"),
            diff_id: digest("diff"),
            chain_id: digest("diff"),
        }],
        highest_id: None,
        copied: false,
        size: 40,
        created: None,
        author: String::new(),
        comment: String::new(),
        config: ContainerConfig { env: vec!["A=1".to_owned()], ..ContainerConfig::default() },
        history: Vec::new(),
    }
}

fn unused(_: &Digest) -> Use {
    Use::Unused
}

#[test]
fn records_round_trip_and_resolve() {
    let f = fixture("store");
    let record = image("a", Some("busybox"));
    f.images.put(record.clone()).expect("put");
    let id = record.id();
    for name in [
        "busybox",
        "busybox:latest",
        "docker.io/library/busybox",
        &id.to_string(),
        id.hex(),
        &id.hex()[..4],
        &format!("sha256:{}", &id.hex()[..12]),
        &format!("busybox@{id}"),
        &format!("busybox:any@{id}"),
        record.config_blob.digest.hex(),
        &record.manifest.digest.to_string(),
    ] {
        assert_eq!(f.images.resolve(name).expect(name), record);
    }
    for name in ["busybox:1", &id.hex()[..3], "", "../x", "sha256:zz", &format!("other@{id}"), "sha256:busybox"] {
        assert!(matches!(f.images.resolve(name), Err(Error::NoSuchImage(_))), "{name}");
    }
    let index = f.content.read_index().expect("index");
    assert_eq!(index[0].annotations[ANNOTATION_CONTAINERD_NAME], "docker.io/library/busybox:latest");
    assert_eq!(index[0].annotations[ANNOTATION_REF_NAME], "latest");
}

#[test]
fn ambiguous_prefixes_are_refused() {
    let f = fixture("store-ambiguous");
    let mut seen: std::collections::BTreeMap<String, Digest> = std::collections::BTreeMap::new();
    for n in 0_u32.. {
        let record = image(&n.to_string(), None);
        let prefix = record.id().hex()[..4].to_owned();
        if let Some(twin) = seen.insert(prefix.clone(), record.id().clone()) {
            let twin_seed = (0..n).find(|m| *image(&m.to_string(), None).id() == twin).expect("made above");
            f.images.put(record.clone()).expect("put");
            f.images.put(image(&twin_seed.to_string(), None)).expect("put");
            assert!(
                matches!(f.images.resolve(&prefix), Err(Error::Ambiguous { candidates, .. }) if candidates.len() == 2)
            );
            assert_eq!(f.images.resolve(record.id().hex()).expect("whole"), record);
            return;
        }
    }
}

#[test]
fn a_moved_tag_leaves_the_old_image_unnamed() {
    let f = fixture("store-move");
    let (old, new) = (image("old", Some("app")), image("new", Some("app")));
    f.images.put(old.clone()).expect("put");
    f.images.put(new.clone()).expect("put");
    assert_eq!(f.images.resolve("app").expect("new"), new);
    let unnamed = f.images.resolve(old.id().hex()).expect("kept");
    assert_eq!(unnamed.reference, None);
    f.images.tag(&unnamed, &reference("app:old")).expect("tag");
    let listing = f.images.list().expect("list");
    assert_eq!(listing.records.len(), 2, "naming an image again removes its unnamed record");
    assert_eq!(f.images.names_of(old.id()).expect("names"), [reference("app:old")]);
    f.images.put(ImageRecord { reference: None, ..new }).expect("put");
    assert_eq!(f.images.list().expect("list").records.len(), 2, "a named image needs no unnamed record");
}

#[test]
fn rmi_follows_docker() {
    let f = fixture("store-rmi");
    let record = image("a", Some("app:1"));
    f.images.put(record.clone()).expect("put");
    f.images.tag(&record, &reference("app:2")).expect("tag");
    f.images.tag(&record, &reference("other")).expect("tag");
    let id = record.id().clone();

    assert!(matches!(f.images.remove(id.hex(), false, &unused), Err(Error::Conflict(_))));
    let by_name = f.images.remove("app:2", false, &|_: &Digest| Use::Running("c1".to_owned())).expect("untags");
    assert_eq!(by_name, [Removed::Untagged("app:2".to_owned())]);
    let running = |_: &Digest| Use::Running("c1".to_owned());
    assert!(matches!(f.images.remove(id.hex(), true, &running), Err(Error::Conflict(_))));
    let removed = f.images.remove(id.hex(), true, &unused).expect("forced");
    assert_eq!(
        removed,
        [Removed::Untagged("app:1".to_owned()), Removed::Untagged("other:latest".to_owned()), Removed::Deleted(id)]
    );
    assert!(f.images.list().expect("list").records.is_empty());
    assert!(f.content.read_index().expect("index").is_empty());
    assert!(matches!(f.images.remove("app", false, &unused), Err(Error::NoSuchImage(_))));
}

#[test]
fn rmi_keeps_what_containers_use() {
    let f = fixture("store-used");
    let record = image("a", Some("app"));
    f.images.put(record.clone()).expect("put");
    let stopped = |_: &Digest| Use::Stopped("c1".to_owned());
    assert!(matches!(f.images.remove("app", false, &stopped), Err(Error::Conflict(_))));
    assert_eq!(f.images.remove("app", true, &stopped).expect("forced"), [Removed::Untagged("app:latest".to_owned())]);
    let kept = f.images.resolve(record.id().hex()).expect("kept for the container");
    assert_eq!(kept.reference, None);
    assert_eq!(f.images.mark().expect("mark").chains.len(), 1);
    assert_eq!(
        f.images.remove(record.id().hex(), false, &unused).expect("gone"),
        [Removed::Deleted(record.id().clone())]
    );
    assert!(f.images.mark().expect("mark").blobs.is_empty());
}

#[test]
fn a_damaged_record_counts_for_itself_only() {
    let f = fixture("store-damaged");
    f.images.put(image("a", Some("good"))).expect("put");
    f.images.put(image("b", Some("bad"))).expect("put");
    let path = f.dir.path().join("images").join(format!("{}.json", reference("bad").file_name()));
    let sound = std::fs::read(&path).expect("read");
    for damage in [&b""[..], b"{", b"{\"version\":-1}", &sound[..sound.len() / 2]] {
        std::fs::write(&path, damage).expect("write");
        assert!(matches!(f.images.resolve("bad"), Err(Error::DamagedRecord { .. })));
        f.images.resolve("good").expect("unaffected");
        let listing = f.images.list().expect("list");
        assert_eq!((listing.records.len(), listing.damaged.len()), (1, 1));
        assert!(f.images.mark().is_err(), "nothing is collected while a record is damaged");
    }
    let other = f.dir.path().join("images").join(format!("{}.json", reference("else").file_name()));
    std::fs::write(&other, &sound).expect("write");
    assert!(matches!(f.images.resolve("else"), Err(Error::DamagedRecord { .. })), "a record under another name");
    std::fs::remove_file(other).expect("remove");
    f.images.remove("bad", false, &unused).expect("a damaged record can be removed");
    assert!(f.images.mark().is_ok());
}

#[test]
fn a_record_of_another_version_is_left_alone() {
    let f = fixture("store-version");
    f.images.put(image("a", Some("good"))).expect("put");
    f.images.put(image("b", Some("other"))).expect("put");
    let path = f.dir.path().join("images").join(format!("{}.json", reference("other").file_name()));
    let text = std::fs::read_to_string(&path).expect("read");
    let later = text.replacen(r#""version":1"#, r#""version":2"#, 1);
    assert_ne!(later, text);
    std::fs::write(&path, &later).expect("write");
    let refused = |error: Error| assert!(matches!(error, Error::OtherVersion { version: 2, known: 1, .. }), "{error}");
    refused(f.images.resolve("other").expect_err("resolve"));
    refused(f.images.remove("other", true, &unused).expect_err("remove"));
    refused(f.images.put(image("c", Some("other"))).expect_err("put over it"));
    refused(f.images.mark().expect_err("nothing is collected"));
    f.images.put(image("c", Some("third"))).expect("other names are free");
    assert_eq!(std::fs::read_to_string(&path).expect("read"), later);
}

#[test]
fn a_dead_writers_leftovers_go() {
    let f = fixture("store-temp");
    let temp = f.dir.path().join("images/0123.tmp");
    std::fs::write(&temp, b"x").expect("write");
    f.images.put(image("a", Some("a"))).expect("put");
    assert!(!temp.exists());
}

#[test]
fn untagging_keeps_the_image() {
    let fixture = fixture("untag");
    let record = image("a", Some("box:1"));
    fixture.images.put(record.clone()).expect("put");
    fixture.images.tag(&record, &reference("box:2")).expect("tagged");
    let refused = fixture.images.untag("box:1", &[reference("box:2"), reference("other:1")]);
    assert!(matches!(refused, Err(Error::NoSuchImage(name)) if name == "other:1"));
    assert_eq!(fixture.images.names_of(record.id()).expect("listed").len(), 2);
    assert_eq!(fixture.images.untag("box:1", &[reference("box:1")]).expect("untagged"), [reference("box:1")]);
    assert_eq!(fixture.images.names_of(record.id()).expect("listed"), [reference("box:2")]);
    assert_eq!(fixture.images.untag("box:2", &[]).expect("untagged"), [reference("box:2")]);
    let left = fixture.images.list().expect("listed").records;
    assert_eq!(left.iter().map(|r| (r.id(), r.reference.is_none())).collect::<Vec<_>>(), [(record.id(), true)]);
    assert!(fixture.images.untag(record.id().hex(), &[]).expect("nothing left to take").is_empty());
}
