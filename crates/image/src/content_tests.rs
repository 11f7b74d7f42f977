use super::*;
use crate::testing::TempDir;

#[test]
fn blobs_appear_whole_and_verified() {
    let dir = TempDir::new("content");
    let store = ContentStore::open(dir.path()).expect("open");
    let digest = Digest::sha256_of(b"hello");
    let mut writer = store.writer(Algorithm::Sha256, 5).expect("writer");
    writer.append(b"hel").expect("append");
    assert!(!store.contains(&digest).expect("stat"));
    writer.append(b"lo").expect("append");
    assert!(matches!(writer.append(b"!"), Err(Error::TooLarge { limit: 5, .. })));
    assert_eq!(writer.commit(Some(&digest), Some(5)).expect("commit"), (digest.clone(), 5));
    assert_eq!(store.read(&digest, 5).expect("read"), b"hello");
    assert!(matches!(store.read(&digest, 4), Err(Error::TooLarge { .. })));
    assert_eq!(store.list().expect("list"), [(digest.clone(), 5)]);
    let held = store.try_exclusive().expect("lock").expect("no lease");
    store.remove(&digest, &held).expect("remove");
    store.remove(&digest, &held).expect("idempotent");
    assert!(matches!(store.read(&digest, 5), Err(Error::MissingBlob(_))));
}

#[test]
fn only_what_is_kept_stays() {
    let dir = TempDir::new("content-retain");
    let store = ContentStore::open(dir.path()).expect("open");
    let kept = store.put(b"kept").expect("put");
    store.put(b"garbage").expect("put");
    let held = store.try_exclusive().expect("lock").expect("no lease");
    assert_eq!(store.retain(&BTreeSet::from([kept.clone()]), &held).expect("retain"), 7);
    assert_eq!(store.list().expect("list"), [(kept, 4)]);
    // The bytes go when nobody has to wait for it any more.
    drop(held);
    let _lease = store.lease().expect("no wait");
    let waiting = || file_names(&store.dirs().expect("open").ingest).expect("list").len();
    assert_eq!(waiting(), 1);
    store.sweep().expect("swept");
    assert_eq!(waiting(), 0);
}

#[test]
fn a_store_is_made_when_first_needed() {
    let dir = TempDir::new("content-lazy");
    let path = dir.path().join("above/content");
    let store = ContentStore::new(&path);
    assert!(!path.exists());
    let digest = store.put(b"content").expect("put");
    assert!(path.join(blob_path(&digest)).exists());
}

#[test]
fn wrong_content_is_never_stored() {
    let dir = TempDir::new("content-wrong");
    let store = ContentStore::open(dir.path()).expect("open");
    let digest = Digest::sha256_of(b"hello");
    let write = |bytes: &[u8]| {
        let mut writer = store.writer(Algorithm::Sha256, 100).expect("writer");
        writer.append(bytes).expect("append");
        writer
    };
    assert!(matches!(write(b"jello").commit(Some(&digest), Some(5)), Err(Error::Digest { .. })));
    assert!(matches!(write(b"hell").commit(Some(&digest), Some(5)), Err(Error::Size { actual: 4, .. })));
    drop(write(b"hello"));
    assert!(store.list().expect("list").is_empty());
    assert!(file_names(&store.dirs().expect("open").ingest).expect("list").is_empty());
    let mut long = store.writer(Algorithm::Sha512, 9).expect("writer");
    long.append(b"hello").expect("append");
    let (digest, _) = long.commit(None, None).expect("commit");
    assert_eq!(digest.algorithm(), Algorithm::Sha512);
    assert_eq!(store.read(&digest, 5).expect("read"), b"hello");
}

#[test]
fn damaged_blobs_are_noticed() {
    let dir = TempDir::new("content-damaged");
    let store = ContentStore::open(dir.path()).expect("open");
    let digest = store.put(b"data").expect("put");
    std::fs::write(dir.path().join(blob_path(&digest)), b"atad").expect("write");
    assert!(matches!(store.read(&digest, 10), Err(Error::Digest { .. })));
}

#[test]
fn abandoned_ingest_files_are_swept_and_live_ones_kept() {
    let dir = TempDir::new("content-sweep");
    let store = ContentStore::open(dir.path()).expect("open");
    let (live, name) = store.dirs().expect("open").named_ingest_file().expect("ingest");
    std::fs::write(dir.path().join("ingest/abandoned"), b"x").expect("write");
    let again = ContentStore::open(dir.path()).expect("open");
    assert_eq!(file_names(&again.dirs().expect("open").ingest).expect("list"), [name]);
    drop(live);
    let last = ContentStore::open(dir.path()).expect("open");
    assert!(file_names(&last.dirs().expect("open").ingest).expect("list").is_empty());
}

#[test]
fn named_ingest_files_commit_too() {
    let dir = TempDir::new("content-named");
    let store = ContentStore::open(dir.path()).expect("open");
    let (file, name) = store.dirs().expect("open").named_ingest_file().expect("ingest");
    let hasher = Hasher::new(Algorithm::Sha256);
    let mut writer =
        BlobWriter { dirs: store.dirs().expect("open"), file, name: Some(name), hasher, written: 0, limit: 10 };
    writer.append(b"abc").expect("append");
    let (digest, _) = writer.commit(None, None).expect("commit");
    assert_eq!(store.read(&digest, 3).expect("read"), b"abc");
    assert!(file_names(&store.dirs().expect("open").ingest).expect("list").is_empty());
}

#[test]
fn leases_keep_the_collector_out() {
    let dir = TempDir::new("content-lease");
    let store = ContentStore::open(dir.path()).expect("open");
    let (one, two) = (store.lease().expect("lease"), store.lease().expect("lease"));
    assert!(store.try_exclusive().expect("lock").is_none());
    drop(one);
    assert!(store.try_exclusive().expect("lock").is_none());
    drop(two);
    assert!(store.try_exclusive().expect("lock").is_some());
}

#[test]
fn the_store_is_a_layout() {
    let dir = TempDir::new("content-layout");
    let path = dir.path().join("content");
    let store = ContentStore::open(&path).expect("open");
    assert_eq!(std::fs::read(path.join("oci-layout")).expect("read"), LAYOUT);
    assert!(store.read_index().expect("index").is_empty());
    let descriptor = Descriptor::of(oci::image::media_type::OCI_MANIFEST, b"{}");
    store.write_index(vec![descriptor.clone()]).expect("write");
    assert_eq!(store.read_index().expect("index"), [descriptor]);
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&path).expect("stat").permissions().mode() & 0o777, 0o700);
}
