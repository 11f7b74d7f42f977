//! `store check` and `store repair`: damage done to a store by hand is found, and cured.

use std::path::{Path, PathBuf};

use serde_json::Value;
use testkit::image::Packing;
use testkit::registry::Registry;
use testkit::tarball::Tar;
use testkit::{Host, Image};

/// The largest file, or the first directory, in `dir`.
fn largest(dir: &Path) -> PathBuf {
    let entries = std::fs::read_dir(dir).expect("a directory of the store").flatten();
    let size = |path: &PathBuf| path.symlink_metadata().map_or(0, |meta| meta.len());
    entries.map(|entry| entry.path()).max_by_key(size).expect("something is in it")
}

/// The directory of the only layer.
fn layer(host: &Host) -> PathBuf {
    let entries = std::fs::read_dir(host.root().join("layers")).expect("layers").flatten();
    let mut names = entries.map(|entry| entry.path()).filter(|path| !path.ends_with(".staging"));
    names.next().expect("a layer")
}

/// The directory of the layer that holds this text in the file `own`.
fn layer_of(host: &Host, own: &str) -> PathBuf {
    let mut layers = std::fs::read_dir(host.root().join("layers")).expect("layers").flatten().map(|entry| entry.path());
    layers.find(|dir| std::fs::read_to_string(dir.join("diff/own")).is_ok_and(|text| text == own)).expect("a layer")
}

fn check(host: &Host, code: i32) -> Value {
    host.lighter(&["store", "check", "--format", "json"]).exits(code).json()
}

/// The kinds of the problems a check finds.
#[track_caller]
fn kinds(host: &Host) -> Vec<String> {
    let report = check(host, 1);
    assert_eq!(report["Sound"], false);
    let problems = report["Problems"].as_array().expect("a list");
    problems.iter().map(|problem| problem["Kind"].as_str().expect("a kind").to_owned()).collect()
}

/// Repairs, and asserts that the image runs and the store is sound.
#[track_caller]
fn cured(host: &Host, image: &str) {
    host.lighter(&["store", "repair"]).ok();
    let report = check(host, 0);
    assert_eq!(report["Problems"].as_array().map(Vec::len), Some(0), "{report}");
    assert_eq!(host.lighter(&["run", "--rm", "--pull", "never", image, "echo", "whole"]).ok().out(), "whole");
}

#[test]
fn a_sound_store_is_sound() {
    let host = Host::with_busybox();
    host.lighter(&["volume", "create", "db"]).ok();
    let report = check(&host, 0);
    assert_eq!((&report["Sound"], &report["Images"], &report["Layers"]), (&true.into(), &1.into(), &1.into()));
    assert_eq!((&report["Blobs"], &report["Volumes"]), (&3.into(), &1.into()), "{report}");
    let text = host.lighter(&["store", "check"]).ok().out();
    assert!(text.starts_with("sound: checked 1 images, 3 blobs ("), "{text}");
    host.lighter(&["store", "repair"]).ok();
    assert_eq!(check(&host, 0), report, "a repair of a sound store changes nothing");
}

#[test]
fn damaged_layers_are_unpacked_again() {
    let host = Host::with_busybox();
    let dir = layer(&host);
    let program = dir.join("diff/bin/busybox");
    std::fs::remove_file(&program).expect("a file of the layer");
    assert_eq!(kinds(&host), ["layer"]);
    cured(&host, "busybox");
    let file = std::fs::OpenOptions::new().write(true).open(&program).expect("unpacked again");
    file.set_len(1000).expect("cut");
    assert_eq!(kinds(&host), ["layer"]);
    cured(&host, "busybox");
    std::fs::remove_dir_all(&dir).expect("removed");
    assert_eq!(kinds(&host), ["layer"]);
    cured(&host, "busybox");
    std::fs::write(dir.join("meta"), "{").expect("damaged");
    assert_eq!(kinds(&host), ["layer"]);
    cured(&host, "busybox");
}

#[test]
fn a_changed_byte_is_seen_by_a_deep_check_and_repaired() {
    use std::os::unix::fs::{PermissionsExt as _, lchown};
    let tar = Tar::new()
        .dir("etc", 0o755)
        .file("etc/secret", 0o600, b"the same length")
        .symlink("etc/link", "secret")
        .hardlink("etc/second", "etc/secret")
        .device(b'3', "etc/null", 1, 3)
        // Its parents are not described, so they take after the layer below, or after nothing.
        .file("bin/deep/down/file", 0o644, b"x")
        .file("alone/down/file", 0o644, b"x")
        .file("bin/.wh.cat", 0, b"")
        .finish();
    let host = Host::new();
    host.load(&Image::busybox("box:1").layer(tar));
    let deep = |code: i32| host.lighter(&["store", "check", "--deep", "--format", "json"]).exits(code).json();
    let sound = deep(0);
    assert_eq!((&sound["Layers"], &sound["Compared"]), (&2.into(), &2.into()));
    let layers = std::fs::read_dir(host.root().join("layers")).expect("layers").flatten();
    let layer =
        layers.map(|entry| entry.path().join("diff")).find(|diff| diff.join("etc/secret").exists()).expect("it");
    let secret = layer.join("etc/secret");
    let damages: [(&str, &dyn Fn()); 7] = [
        ("has other bytes in /etc/se", &|| {
            let time = secret.metadata().and_then(|meta| meta.modified()).expect("a time");
            std::fs::write(&secret, b"the same lenght").expect("change it");
            let file = std::fs::File::options().write(true).open(&secret).expect("open it");
            file.set_modified(time).expect("hide it");
        }),
        ("has another time in /etc/se", &|| {
            std::fs::write(&secret, b"the same length").expect("touch it");
        }),
        ("has another owner or mode in /etc/se", &|| {
            let mode = std::fs::Permissions::from_mode(0o644);
            std::fs::set_permissions(&secret, mode).expect("change it");
        }),
        ("has another owner or mode in /etc/link", &|| {
            lchown(layer.join("etc/link"), Some(1), None).expect("change it")
        }),
        // The directory's time tells of an exchange in it.
        ("has another time in /etc", &|| {
            std::fs::remove_file(layer.join("etc/link")).expect("remove it");
            std::os::unix::fs::symlink("second", layer.join("etc/link")).expect("another");
        }),
        ("has other extended attributes in /alone/down", &|| {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(layer.join("alone/down"), "user.x", b"y", flags).expect("an attribute");
        }),
        ("has another time in /etc", &|| {
            std::fs::remove_file(layer.join("etc/null")).expect("remove it");
            std::fs::write(layer.join("etc/null"), b"").expect("another");
        }),
    ];
    for (words, damage) in damages {
        damage();
        assert_eq!(
            check(&host, 0)["Problems"].as_array().map(Vec::len),
            Some(0),
            "{words}: only counting does not see it"
        );
        let report = deep(1);
        let problems = report["Problems"].as_array().expect("a list");
        assert_eq!(problems.len(), 1, "{report}");
        assert_eq!(problems[0]["Kind"], "layer");
        let what = problems[0]["What"].as_str().expect("words");
        assert!(what.starts_with(words), "{words}: {what}");
        let repaired = host.lighter(&["store", "repair", "--deep"]);
        assert!(repaired.ok().out().contains("(2 compared with their blobs)"), "{repaired}");
        assert_eq!(deep(0)["Problems"].as_array().map(Vec::len), Some(0));
    }
    let leftovers = deep(0)["Leftovers"].clone();
    host.lighter(&["image", "prune", "-f"]).ok();
    assert!(std::fs::read_dir(host.root().join("layers/.staging")).expect("staging").next().is_none(), "{leftovers}");
}

#[test]
fn what_a_running_container_stands_on_stays() {
    let host = Host::with_busybox();
    let id = host.detached(&[], &["sleep", "1000"]);
    let dir = layer(&host);
    std::fs::write(dir.join("diff/extra"), "").expect("one file too many");
    let output = host.lighter(&["store", "repair"]);
    assert!(output.exits(1).out().contains(&format!("container {} runs on it", &id[..12])), "{output}");
    host.lighter(&["exec", &id, "true"]).ok();
    host.lighter(&["kill", &id]).ok();
    host.lighter(&["wait", &id]).ok();
    let output = host.lighter(&["store", "repair"]);
    assert!(output.ok().out().contains(&format!("stopped container {} gets it anew", &id[..12])), "{output}");
    host.lighter(&["start", &id]).ok();
    host.lighter(&["exec", &id, "true"]).ok();
}

#[test]
fn damaged_blobs_come_from_the_registry() {
    let registry = Registry::start();
    let host = Host::new();
    let name = registry.reference("app:1");
    registry.push_layout(&Image::busybox("app:1").oci_layout(Packing::Gzip), "app:1");
    host.lighter(&["pull", "-q", &name]).ok();
    let blobs = host.root().join("content/blobs/sha256");
    let blob = largest(&blobs);
    let bytes = std::fs::read(&blob).expect("a blob");
    for damage in ["flipped", "truncated", "missing"] {
        match damage {
            "flipped" => {
                let mut bytes = bytes.clone();
                bytes[1000] ^= 1;
                std::fs::write(&blob, bytes).expect("damaged");
            }
            "truncated" => std::fs::write(&blob, &bytes[..5000]).expect("damaged"),
            _ => std::fs::remove_file(&blob).expect("removed"),
        }
        assert_eq!(kinds(&host), ["blob"], "{damage}");
        cured(&host, &name);
        assert_eq!(std::fs::read(&blob).expect("a blob again"), bytes, "{damage}");
    }
    // All documents and the layer at once.
    for entry in std::fs::read_dir(&blobs).expect("blobs").flatten() {
        std::fs::write(entry.path(), "damaged").expect("damaged");
    }
    assert_eq!(kinds(&host), ["blob", "blob", "blob"]);
    std::fs::remove_dir_all(layer(&host)).expect("removed");
    cured(&host, &name);
    let record = largest(&host.root().join("images"));
    let text = std::fs::read(&record).expect("a record");
    std::fs::write(&record, &text[..text.len() / 2]).expect("damaged");
    assert_eq!(kinds(&host)[0], "record");
    cured(&host, &name);
}

#[test]
fn what_cannot_be_fetched_is_removed_and_said() {
    let host = Host::new();
    // Nobody listens there.
    host.load(&Image::busybox("127.0.0.1:1/gone:1"));
    let blob = largest(&host.root().join("content/blobs/sha256"));
    std::fs::write(&blob, "cut").expect("damaged");
    host.lighter(&["create", "--name", "user", "127.0.0.1:1/gone:1", "true"]).ok();
    let output = host.lighter(&["store", "repair"]);
    assert!(output.exits(1).out().contains("is made from it, and cannot be fetched"), "{output}");
    host.lighter(&["start", "-a", "user"]).ok();
    host.lighter(&["rm", "user"]).ok();
    let output = host.lighter(&["store", "repair"]);
    assert!(output.ok().out().contains("127.0.0.1:1/gone:1 removed: it is broken"), "{output}");
    assert_eq!(host.lighter(&["images", "-q"]).ok().out(), "");
    assert_eq!(check(&host, 0)["Blobs"], 0);
}

#[test]
fn what_another_version_wrote_is_never_removed() {
    let host = Host::with_busybox();
    host.load(&Image::busybox("old:1").file("own", 0o644, b"old"));
    host.load(&Image::busybox("new:1").file("own", 0o644, b"new"));
    let images = host.root().join("images");
    let find = |word: &str| {
        let mut names = std::fs::read_dir(&images).expect("records").flatten().map(|entry| entry.path());
        names.find(|path| path.to_string_lossy().contains(word)).expect("a record")
    };
    let record = find("new");
    let text = std::fs::read_to_string(&record).expect("a record");
    // As a later version may leave them: a record, and a layer of the other image, with formats of their own.
    let later = text.replacen(r#""version":1"#, r#""version":2,"form":"erofs""#, 1);
    std::fs::write(&record, &later).expect("change it");
    let meta = layer_of(&host, "new").join("meta");
    let counted = std::fs::read(&meta).expect("the layer's record");
    std::fs::write(&meta, r#"{"version":2,"form":"erofs"}"#).expect("change it");
    assert_eq!(kinds(&host), ["record", "layer"]);
    for words in [&["store", "repair"][..], &["rmi", "-f", "new:1"], &["image", "prune", "-af"], &["store", "repair"]] {
        let output = host.lighter(words);
        if words[0] == "store" || words[0] == "rmi" {
            assert!(output.exits(1).to_string().contains("another version of lighter"), "{output}");
        }
        assert_eq!(std::fs::read_to_string(&record).expect("the record stays"), later);
        assert_eq!(
            std::fs::read_to_string(&meta).expect("the layer's record stays"),
            r#"{"version":2,"form":"erofs"}"#
        );
    }
    let loaded = host.lighter_reading(&["load"], &Image::busybox("new:1").docker_archive().tar());
    loaded.rejected("another version of lighter");
    assert_eq!(std::fs::read_to_string(&record).expect("the record stays"), later);
    // Back in the hands of the version that wrote them, all is as it was.
    std::fs::write(&record, text).expect("put it back");
    std::fs::write(&meta, counted).expect("put it back");
    assert_eq!(check(&host, 0)["Sound"], true);
    assert_eq!(host.lighter(&["run", "--rm", "new:1", "cat", "/own"]).ok().out(), "new");
}

#[test]
fn damaged_records_of_volumes_stay_with_their_data() {
    let host = Host::with_busybox();
    host.sh(&["-v", "db:/data"], "echo kept > /data/file").ok();
    let dir = host.root().join("volumes/db");
    std::fs::write(dir.join("record"), "{").expect("damaged");
    std::fs::write(host.root().join("content/index.json"), "{").expect("damaged");
    assert_eq!(kinds(&host), ["volume", "index"]);
    let output = host.lighter(&["store", "repair"]);
    assert!(output.exits(1).out().contains("lighter volume rm db"), "{output}");
    assert_eq!(std::fs::read_to_string(dir.join("_data/file")).expect("the data"), "kept\n");
    assert_eq!(kinds(&host), ["volume"], "the index is written anew");
    host.lighter(&["volume", "rm", "db"]).ok();
    assert_eq!(check(&host, 0)["Sound"], true);
}

#[test]
fn a_layer_stays_while_a_container_cannot_say_what_it_stands_on() {
    use std::os::unix::fs::MetadataExt as _;
    let host = Host::with_busybox();
    let id = host.detached(&["--name", "user"], &["sleep", "600"]);
    let diff = layer(&host).join("diff");
    std::fs::write(diff.join("added"), "x").expect("damaged");
    assert_eq!(kinds(&host), ["layer"]);
    let inode = || std::fs::metadata(&diff).expect("the layer stays").ino();
    let (before, record) = (inode(), host.root().join("containers").join(&id).join("config"));
    let right = std::fs::read_to_string(&record).expect("a record");
    // As another version of this program leaves it.
    std::fs::write(&record, right.replacen(r#""version":1"#, r#""version":99"#, 1)).expect("change it");
    let output = host.lighter(&["store", "repair"]);
    assert!(output.exits(1).out().contains("a container's record cannot be read"), "{output}");
    assert_eq!(inode(), before);
    std::fs::write(&record, right).expect("put it back");
    assert_eq!(host.lighter(&["exec", "user", "cat", "/added"]).ok().out(), "x");
    host.lighter(&["rm", "-f", "user"]).ok();
    host.lighter(&["store", "repair"]).ok();
}
