use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

use super::*;
use crate::archive::testing::Scratch;

fn store(scratch: &Scratch) -> VolumeStore {
    VolumeStore::new(scratch.path().join("volumes"))
}

fn volume(name: &str) -> Volume {
    Volume {
        name: name.parse().unwrap(),
        created: "2026-01-01T00:00:00Z".into(),
        anonymous: false,
        labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        options: BTreeMap::new(),
    }
}

#[test]
fn volumes_come_and_go() {
    let scratch = Scratch::new("volumes");
    let store = store(&scratch);
    assert_eq!(store.names().unwrap(), []);
    let db = volume("db");
    assert!(matches!(store.get(&db.name), Err(Error::NoSuchVolume(_))));
    assert!(store.create(&db, Durability::Durable).unwrap());
    fs::write(store.data(&db.name).join("file"), "12345").unwrap();
    assert!(!store.create(&volume("db"), Durability::Durable).unwrap(), "there is one");
    assert_eq!(fs::read(store.data(&db.name).join("file")).unwrap(), b"12345");
    assert_eq!(store.get(&db.name).unwrap(), db);
    assert!(store.create(&volume("aa"), Durability::Volatile).unwrap());
    assert_eq!(store.names().unwrap().iter().map(VolumeName::as_str).collect::<Vec<_>>(), ["aa", "db"]);
    assert_eq!(store.usage(&db.name).unwrap(), Usage { bytes: 5, inodes: 2 });
    let meta = fs::metadata(store.data(&db.name)).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o755, 0));
    store.remove(&db.name).unwrap();
    assert!(matches!(store.remove(&db.name), Err(Error::NoSuchVolume(_))));
    assert_eq!(fs::read_dir(scratch.path().join("volumes")).unwrap().count(), 1, "and nothing else");
}

#[test]
fn what_was_killed_is_swept_and_damage_is_told() {
    let scratch = Scratch::new("volumes-killed");
    let store = store(&scratch);
    store.create(&volume("db"), Durability::Volatile).unwrap();
    fs::create_dir_all(scratch.path().join("volumes/.new-1-x/_data")).unwrap();
    fs::create_dir_all(scratch.path().join("volumes/.gone-1-y/_data/deep")).unwrap();
    assert_eq!(store.names().unwrap().len(), 1);
    store.sweep().unwrap();
    assert_eq!(fs::read_dir(scratch.path().join("volumes")).unwrap().count(), 1);
    let record = scratch.path().join("volumes/db/record");
    for bad in ["", "{}", r#"{"version":2,"created":"","anonymous":false,"labels":{},"options":{}}"#] {
        fs::write(&record, bad).unwrap();
        assert!(matches!(store.get(&"db".parse().unwrap()), Err(Error::VolumeRecord { .. })), "{bad}");
    }
    store.remove(&"db".parse().unwrap()).unwrap();
}

/// Two layers: what the upper one removes, hides and adds.
fn layers(scratch: &Scratch) -> Vec<PathBuf> {
    let [low, top] = ["low", "top"].map(|name| scratch.path().join(name));
    fs::create_dir_all(low.join("srv/data/sub")).unwrap();
    fs::create_dir_all(top.join("srv/data/sub")).unwrap();
    for (path, text) in [("a", "low"), ("gone", "x"), ("sub/deep", "d")] {
        fs::write(low.join("srv/data").join(path), text).unwrap();
    }
    fs::hard_link(low.join("srv/data/a"), low.join("srv/data/sub/b")).unwrap();
    fs::write(top.join("srv/data/new"), "top").unwrap();
    chown(top.join("srv/data/new"), Some(7), Some(8)).unwrap();
    fs::set_permissions(top.join("srv/data/new"), fs::Permissions::from_mode(0o4750)).unwrap();
    symlink("/etc/passwd", top.join("srv/data/link")).unwrap();
    symlink("/srv/data", top.join("alias")).unwrap();
    symlink("../../../../../../../../etc", top.join("up")).unwrap();
    let dev = rustix::fs::makedev(0, 0);
    let null = rustix::fs::makedev(1, 3);
    let mode = Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(CWD, top.join("srv/data/gone"), rustix::fs::FileType::CharacterDevice, mode, dev).unwrap();
    rustix::fs::mknodat(CWD, top.join("srv/data/null"), rustix::fs::FileType::CharacterDevice, mode, null).unwrap();
    rustix::fs::mknodat(CWD, top.join("srv/data/pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    chown(top.join("srv/data"), Some(1000), Some(1001)).unwrap();
    fs::set_permissions(top.join("srv/data"), fs::Permissions::from_mode(0o1770)).unwrap();
    vec![top, low]
}

#[test]
fn an_empty_volume_gets_the_images_content() {
    let scratch = Scratch::new("seed");
    let store = store(&scratch);
    let layers = layers(&scratch);
    for (name, path) in [("direct", "/srv/data"), ("linked", "/alias")] {
        let name: VolumeName = name.parse().unwrap();
        store.create(&Volume { name: name.clone(), ..volume("xx") }, Durability::Volatile).unwrap();
        assert!(store.seed(&name, &layers, Path::new(path), Durability::Durable).unwrap());
        let data = store.data(&name);
        let meta = fs::metadata(&data).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o1770, 1000, 1001));
        let mut entries: Vec<_> =
            fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        entries.sort();
        assert_eq!(entries, ["a", "link", "new", "pipe", "sub"], "no device, nothing that the image removed");
        let new = fs::metadata(data.join("new")).unwrap();
        assert_eq!((new.mode() & 0o7777, new.uid(), new.gid()), (0o4750, 7, 8));
        assert_eq!(fs::read_link(data.join("link")).unwrap(), Path::new("/etc/passwd"));
        assert_eq!(fs::metadata(data.join("a")).unwrap().ino(), fs::metadata(data.join("sub/b")).unwrap().ino());
        assert_eq!(fs::read(data.join("sub/deep")).unwrap(), b"d");
        assert!(
            !store.seed(&name, &layers, Path::new(path), Durability::Volatile).unwrap(),
            "it is not empty any more"
        );
        assert_eq!(fs::read_dir(data.parent().unwrap()).unwrap().count(), 3, "record, lock, data");
    }
}

/// CVE-2020-1726, CVE-2022-23648, and a place that the image does not have.
#[test]
fn nothing_is_overwritten_and_nothing_comes_from_outside() {
    let scratch = Scratch::new("seed-refused");
    let store = store(&scratch);
    let layers = layers(&scratch);
    let full = volume("full");
    store.create(&full, Durability::Volatile).unwrap();
    fs::write(store.data(&full.name).join("a"), "mine").unwrap();
    assert!(!store.seed(&full.name, &layers, Path::new("/srv/data"), Durability::Volatile).unwrap());
    assert_eq!(fs::read(store.data(&full.name).join("a")).unwrap(), b"mine");
    assert_eq!(fs::read_dir(store.data(&full.name)).unwrap().count(), 1);
    let empty = volume("empty");
    store.create(&empty, Durability::Volatile).unwrap();
    for path in ["/../../../../../../../../etc", "/up", "/nowhere", "/srv/data/a", "/srv/data/link"] {
        assert!(!store.seed(&empty.name, &layers, Path::new(path), Durability::Volatile).unwrap(), "{path}");
    }
    assert_eq!(fs::read_dir(store.data(&empty.name)).unwrap().count(), 0);
    assert!(!store.seed(&empty.name, &[], Path::new("/srv/data"), Durability::Volatile).unwrap());
}

#[test]
fn what_was_killed_in_the_middle_is_finished() {
    let scratch = Scratch::new("seed-killed");
    let store = store(&scratch);
    let layers = layers(&scratch);
    let torn = volume("torn");
    store.create(&torn, Durability::Volatile).unwrap();
    let dir = scratch.path().join("volumes/torn");
    // Killed while it copied: half of it is there.
    fs::create_dir(dir.join("seed")).unwrap();
    fs::write(dir.join("seed/half"), "h").unwrap();
    assert!(store.seed(&torn.name, &layers, Path::new("/srv/data"), Durability::Volatile).unwrap());
    assert!(!dir.join("seed").exists() && !dir.join("_data/half").exists() && dir.join("_data/new").exists());
    // Killed while it moved: the rest follows, and what a container wrote meanwhile stays.
    fs::create_dir(dir.join("seed.ready")).unwrap();
    fs::write(dir.join("seed.ready/late"), "l").unwrap();
    fs::write(dir.join("seed.ready/new"), "image's").unwrap();
    fs::write(dir.join("_data/new"), "container's").unwrap();
    assert!(store.seed(&torn.name, &layers, Path::new("/srv/data"), Durability::Volatile).unwrap());
    assert_eq!(fs::read(dir.join("_data/new")).unwrap(), b"container's");
    assert_eq!(fs::read(dir.join("_data/late")).unwrap(), b"l");
    assert!(!dir.join("seed.ready").exists());
}

#[test]
fn a_name_may_be_as_long_as_names_can_be() {
    let scratch = Scratch::new("volumes-long");
    let store = store(&scratch);
    let long = volume(&"a".repeat(255));
    assert!(store.create(&long, Durability::Volatile).unwrap());
    store.remove(&long.name).unwrap();
    assert_eq!(fs::read_dir(scratch.path().join("volumes")).unwrap().count(), 0);
}

#[test]
fn holes_stay_holes() {
    let scratch = Scratch::new("volumes-holes");
    let store = store(&scratch);
    let layer = scratch.path().join("layer");
    fs::create_dir_all(layer.join("data")).unwrap();
    let huge = fs::File::create(layer.join("data/huge")).unwrap();
    let (middle, size) = (3_u64 << 30, (6_u64 << 30) + 5);
    for (text, at) in [("begin", 0), ("middle", middle), ("the end", size - 7)] {
        std::os::unix::fs::FileExt::write_all_at(&huge, text.as_bytes(), at).unwrap();
    }
    let hole = fs::File::create(layer.join("data/hole")).unwrap();
    hole.set_len(1 << 30).unwrap();
    let db = volume("db");
    store.create(&db, Durability::Volatile).unwrap();
    assert!(store.seed(&db.name, &[layer], Path::new("/data"), Durability::Volatile).unwrap());
    let copy = fs::File::open(store.data(&db.name).join("huge")).unwrap();
    assert_eq!(copy.metadata().unwrap().len(), size);
    for (text, at) in [("begin", 0), ("middle", middle), ("\0\0the end", size - 9)] {
        let mut bytes = vec![0; text.len()];
        std::os::unix::fs::FileExt::read_exact_at(&copy, &mut bytes, at).unwrap();
        assert_eq!(bytes, text.as_bytes());
    }
    assert_eq!(fs::metadata(store.data(&db.name).join("hole")).unwrap().len(), 1 << 30);
    assert!(copy.metadata().unwrap().blocks() < 2048, "{} blocks", copy.metadata().unwrap().blocks());
}
