//! Images as files: load, import, list, tag, inspect, remove.

use serde_json::json;
use testkit::image::{Packing, digest};
use testkit::{Host, Image, Tar};

#[test]
fn a_tree_shows_the_platforms_of_an_index() {
    let host = Host::new();
    let registry = testkit::Registry::start();
    let arm = Image::busybox("x").platform("arm64", Some("v8")).file("p", 0o644, b"arm");
    let layout = Image::oci_index(&[Image::busybox("x"), arm], testkit::image::Packing::Gzip);
    registry.push_layout(&layout, "many:1");
    let name = registry.reference("many:1");
    host.lighter(&["pull", "-q", &name]).ok();
    let other = registry.reference("other:2");
    host.lighter(&["tag", &name, &other]).ok();
    host.load(&Image::busybox("plain:1"));
    host.lighter(&["create", "--name", "box", &name, "true"]).ok();
    let tree = host.lighter(&["images", "--tree"]).ok().out();
    let row = |start: &str| tree.lines().find(|line| line.starts_with(start)).unwrap_or_default().to_owned();
    assert!(row("├─ linux/amd64").ends_with("    U") && !row("├─ linux/amd64").contains(" 0B"), "{tree}");
    let absent = row("└─ linux/arm64");
    assert_eq!(absent.split_whitespace().collect::<Vec<_>>()[3..], ["0B", "0B"], "{tree}");
    assert!(tree.contains(&name) && tree.contains(&other) && row("plain:1").contains("MB"), "{tree}");
    assert_eq!(tree.lines().filter(|line| line.starts_with("├─")).count(), 1, "one tree for both names: {tree}");
    let one = host.lighter(&["images", "--tree", "plain"]).ok().out();
    assert!(one.contains("plain:1") && !one.contains(&name), "{one}");
    host.lighter(&["images", "--tree", "-q"]).refused(1, "not yet supported with --tree");
    host.lighter(&["rm", "box"]).ok();
}

#[test]
fn loads_a_docker_archive_from_a_file() {
    let host = Host::new();
    let file = host.scratch("files").join("busybox.tar");
    std::fs::write(&file, Image::busybox("busybox:1").docker_archive().tar()).expect("write the archive");
    let output = host.lighter(&["load", "-i", &file.to_string_lossy()]);
    assert_eq!(output.ok().out().lines().last(), Some("Loaded image: busybox:1"), "{output}");
    host.lighter(&["run", "--rm", "busybox:1", "true"]).ok();
}

#[test]
fn loads_every_packing_of_both_formats() {
    let host = Host::new();
    for (n, outer) in [Packing::Plain, Packing::Gzip, Packing::Zstd].into_iter().enumerate() {
        let name = format!("docker:{n}");
        let archive = Image::busybox(&name).file("mark", 0o644, name.as_bytes()).docker_archive().tar();
        host.lighter_reading(&["load"], &outer.pack(&archive)).ok();
        assert_eq!(host.lighter(&["run", "--rm", &name, "cat", "/mark"]).ok().out(), name);
        for (m, inner) in [Packing::Plain, Packing::Gzip, Packing::Zstd].into_iter().enumerate() {
            let name = format!("layout:{n}{m}");
            let archive = Image::busybox(&name).file("mark", 0o644, name.as_bytes()).oci_layout(inner).tar();
            host.lighter_reading(&["load"], &outer.pack(&archive)).ok();
            assert_eq!(host.lighter(&["run", "--rm", &name, "cat", "/mark"]).ok().out(), name);
        }
    }
}

#[test]
fn an_image_of_sixty_layers_runs() {
    let host = Host::new();
    let many = (0..60).fold(Image::busybox("many:1"), |image, n| image.file(&format!("layers/{n}"), 0o644, b""));
    host.load(&many);
    let output = host.lighter(&["run", "--rm", "many:1", "sh", "-c", "ls /layers | wc -l; cat /proc/self/cmdline"]);
    assert!(output.ok().out().starts_with("60\n"), "{output}");
}

#[test]
fn loads_an_unpacked_layout_and_several_images_of_one_archive() {
    let host = Host::new();
    let dir = host.scratch("layout");
    Image::busybox("unpacked:1").oci_layout(Packing::Gzip).write_below(&dir);
    host.lighter(&["load", "-i", &dir.to_string_lossy()]).ok();
    host.lighter(&["run", "--rm", "unpacked:1", "true"]).ok();

    let mut both = Image::busybox("one:1").docker_archive();
    let other = Image::busybox("two:1").set("Env", json!(["TWO=2"])).docker_archive();
    let mut entry = serde_json::Value::Null;
    let mut config = String::new();
    let mut copy = other.clone();
    copy.edit("manifest.json", |manifest| {
        entry = manifest[0].clone();
        manifest[0]["Config"].as_str().unwrap_or_default().clone_into(&mut config);
    });
    both.put(&config, other.get(&config).to_vec());
    both.edit("manifest.json", |manifest| manifest.as_array_mut().expect("a list").push(entry));
    host.lighter_reading(&["load"], &both.tar()).ok();
    host.lighter(&["run", "--rm", "one:1", "true"]).ok();
    assert_eq!(host.lighter(&["run", "--rm", "two:1", "sh", "-c", "echo $TWO"]).ok().out(), "2");
}

#[test]
fn imports_a_root_file_system_with_changes() {
    let host = Host::new();
    let layer = testkit::image::busybox_layer();
    let file = host.scratch("files").join("rootfs.tar.gz");
    std::fs::write(&file, Packing::Gzip.pack(layer)).expect("write the archive");
    let changes = [
        "CMD [\"sh\", \"-c\", \"echo $GREETING from $PWD as $(id -un)\"]",
        "ENV GREETING=hello",
        "WORKDIR /srv",
        "USER alice",
        "LABEL org.example.kind=test",
        "EXPOSE 80/tcp",
        "STOPSIGNAL SIGINT",
    ];
    let mut args = vec!["import"];
    for change in changes {
        args.extend(["-c", change]);
    }
    let path = file.to_string_lossy();
    args.extend([path.as_ref(), "imported:1"]);
    let output = host.lighter(&args);
    assert!(output.ok().out().starts_with("sha256:"), "{output}");
    assert_eq!(host.lighter(&["run", "--rm", "imported:1"]).ok().out(), "hello from /srv as alice");
    let image = host.inspect("imported:1");
    assert_eq!(image["Config"]["Labels"]["org.example.kind"], "test");
    assert_eq!(image["Config"]["StopSignal"], "SIGINT");
    assert!(image["Config"]["ExposedPorts"]["80/tcp"].is_object(), "{image}");

    host.lighter_reading(&["import", "-", "piped:1"], layer).ok();
    host.lighter(&["run", "--rm", "piped:1", "true"]).ok();
    host.lighter_reading(&["import", "-c", "FROM scratch", "-", "bad:1"], layer).rejected("FROM");
}

#[test]
fn upper_layers_hide_what_they_delete() {
    let host = Host::new();
    let below = Tar::new()
        .dir("d/", 0o755)
        .file("d/kept", 0o644, b"1")
        .file("d/deleted", 0o644, b"1")
        .dir("opaque/", 0o755)
        .file("opaque/old", 0o644, b"1")
        .file("replaced", 0o600, b"old");
    // The opaque marker comes after its sibling on purpose: both orders are legal.
    let above = Tar::new()
        .file("d/.wh.deleted", 0o644, b"")
        .file("opaque/new", 0o644, b"2")
        .file("opaque/.wh..wh..opq", 0o644, b"")
        .file("replaced", 0o644, b"new");
    host.load(&Image::busybox("layers:1").layer(below.finish()).layer(above.finish()));
    let script = "ls d opaque; cat replaced; stat -c %a replaced";
    let output = host.lighter(&["run", "--rm", "-w", "/", "layers:1", "sh", "-c", script]);
    assert_eq!(output.ok().out().split_whitespace().collect::<Vec<_>>(), ["d:", "kept", "opaque:", "new", "new644"]);
}

#[test]
fn tags_lists_and_removes_like_docker() {
    let host = Host::with_busybox();
    let id = host.lighter(&["images", "-q"]).ok().out();
    assert_eq!(id.lines().count(), 1);
    host.lighter(&["tag", "busybox", "example.org/team/tool:v2"]).ok();
    let list = host.lighter(&["images"]).ok().out();
    assert!(list.contains("busybox") && list.contains("example.org/team/tool"), "{list}");

    let image = host.inspect("busybox");
    assert!(image["Id"].as_str().is_some_and(|id| id.starts_with("sha256:") && id.len() == 71), "{image}");
    assert_eq!(image["Architecture"], "amd64");
    assert_eq!(image["Os"], "linux");
    assert_eq!(image["RootFS"]["Layers"], json!([digest(testkit::image::busybox_layer())]));
    let tags: Vec<&str> = image["RepoTags"].as_array().expect("a list").iter().filter_map(|tag| tag.as_str()).collect();
    assert!(tags.contains(&"busybox:latest") && tags.contains(&"example.org/team/tool:v2"), "{tags:?}");

    let short = id.trim_start_matches("sha256:").get(..12).expect("an id is longer");
    host.lighter(&["rmi", short]).rejected("");
    let untagged = host.lighter(&["rmi", "example.org/team/tool:v2"]);
    assert!(untagged.ok().out().contains("Untagged: example.org/team/tool:v2"), "{untagged}");
    host.lighter(&["run", "--rm", "busybox", "true"]).ok();

    host.lighter(&["create", "--name", "user", "busybox"]).ok();
    host.lighter(&["rmi", "busybox"]).rejected("using");
    host.lighter(&["rm", "user"]).ok();
    let deleted = host.lighter(&["rmi", "busybox"]);
    assert!(deleted.ok().out().contains("Deleted: "), "{deleted}");
    assert_eq!(host.lighter(&["images", "-q"]).ok().out(), "");
    host.lighter(&["rmi", "busybox"]).rejected("busybox");
    let layers = std::fs::read_dir(host.root().join("layers")).into_iter().flatten().flatten();
    let left: Vec<_> =
        layers.map(|entry| entry.file_name()).filter(|name| !name.as_encoded_bytes().starts_with(b".")).collect();
    assert!(left.is_empty(), "a deleted image's layers are gone: {left:?}");
}

#[test]
fn a_new_image_of_the_same_name_takes_the_name() {
    let host = Host::with_busybox();
    host.load(&Image::busybox("busybox:latest").file("mark", 0o644, b"second"));
    assert_eq!(host.lighter(&["run", "--rm", "busybox", "cat", "/mark"]).ok().out(), "second");
}

#[test]
fn the_content_store_is_a_layout_other_tools_read() {
    let host = Host::with_busybox();
    let content = host.root().join("content");
    let layout = std::fs::read_to_string(content.join("oci-layout")).expect("content/oci-layout");
    assert!(layout.contains("imageLayoutVersion"), "{layout}");
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(content.join("index.json")).expect("content/index.json")).expect("JSON");
    let digest = index["manifests"][0]["digest"].as_str().expect("a manifest").replace(':', "/");
    assert!(content.join("blobs").join(digest).exists());
}

#[test]
fn untagging_leaves_the_image_without_a_name() {
    let host = Host::with_busybox();
    let id = host.lighter(&["images", "-q", "--no-trunc", "busybox"]).ok().out();
    host.lighter(&["tag", "busybox", "other:1"]).ok();
    host.lighter(&["untag", "busybox", "nosuch:1"]).refused(1, "No such image: nosuch:1");
    host.lighter(&["untag", "other:1", "other:1"]).ok();
    assert_eq!(host.lighter(&["images", "-q", "other"]).ok().out(), "");
    host.lighter(&["image", "untag", "busybox"]).ok();
    let left = host.lighter(&["images", "-a", "--no-trunc", "--filter", "dangling=true", "--format", "{{.ID}}"]);
    assert_eq!(left.ok().out(), id);
    assert_eq!(host.lighter(&["images", "-aq", "--filter", "until=2001-01-01"]).ok().out(), "");
    host.lighter(&["run", "--rm", &id, "true"]).ok();
}

#[test]
fn mounted_images_are_read_only_and_stay() {
    let host = Host::new();
    let layered =
        Image::busybox("layers:1").file("below", 0o644, b"one").layer(Tar::new().file("above", 0o644, b"two").finish());
    host.load(&layered);
    host.load(&Image::busybox("plain:1"));
    let place = host.lighter(&["image", "mount", "layers:1"]).ok().out();
    let file = |name: &str| std::path::Path::new(&place).join(name);
    assert_eq!(std::fs::read(file("below")).expect("there"), b"one");
    assert_eq!(std::fs::read(file("above")).expect("there"), b"two");
    assert_eq!(std::fs::write(file("new"), "x").expect_err("read-only").kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    let plain = host.lighter(&["image", "mount", "plain:1"]).ok().out();
    assert!(std::path::Path::new(&plain).join("bin/busybox").exists());
    assert_eq!(host.lighter(&["image", "mount"]).ok().out().lines().count(), 2);
    let listed = host.lighter(&["image", "mount", "--format", "json"]).json();
    let known: Vec<_> = listed.as_array().into_iter().flatten().map(|image| image["mountpoint"].clone()).collect();
    assert!(known.contains(&json!(place)) && known.contains(&json!(plain)), "{listed}");

    host.lighter(&["rmi", "layers:1"]).refused(1, "mounted");
    host.lighter(&["image", "prune", "-af"]).ok();
    assert_eq!(std::fs::read(file("above")).expect("still there"), b"two");
    // Mounted twice, it is unmounted twice.
    assert_eq!(host.lighter(&["image", "mount", "plain:1"]).ok().out(), plain);
    for _ in 0..2 {
        host.lighter(&["image", "unmount", "plain:1"]).ok();
    }
    host.lighter(&["image", "umount", "plain:1"]).refused(1, "not mounted");
    let busy = std::fs::File::open(file("bin")).expect("opened");
    host.lighter(&["image", "unmount", "layers:1"]).refused(1, "in use");
    host.lighter(&["rmi", "-f", "layers:1"]).ok();
    drop(busy);
    assert_eq!(host.lighter(&["image", "mount"]).ok().out(), "");
    assert!(!file("bin").exists());
    host.lighter(&["image", "mount", "--all"]).ok();
    host.lighter(&["image", "unmount", "--all"]).ok();
    host.lighter(&["image", "prune", "-af"]).ok();
    host.lighter(&["store", "check"]).ok();
    host.assert_clean();
}

#[test]
fn a_mount_that_went_away_is_forgotten() {
    let host = Host::new();
    host.load(&Image::busybox("plain:1"));
    let place = host.lighter(&["image", "mount", "plain:1"]).ok().out();
    // As a reboot would, or somebody's own umount(8).
    testkit::process::tool("umount", &[&place]);
    assert_eq!(host.lighter(&["image", "mount"]).ok().out(), "");
    assert_eq!(host.lighter(&["image", "mount", "plain:1"]).ok().out(), place);
    host.lighter(&["image", "unmount", "plain:1"]).ok();
    host.lighter(&["image", "mount", "plain:1"]).ok();
    testkit::process::tool("umount", &[&place]);
    host.lighter(&["rmi", "plain:1"]).ok();
    // What another boot left is swept by the next mount; what is mounted is never looked into.
    host.load(&Image::busybox("other:1").file("x", 0o644, b"x"));
    let other = host.lighter(&["image", "mount", "other:1"]).ok().out();
    assert!(!std::path::Path::new(&place).exists());
    std::fs::write(host.run_dir().join("boot"), "another-boot").expect("written");
    host.lighter(&["ps", "-a"]).ok();
    assert_eq!(std::fs::read(std::path::Path::new(&other).join("x")).expect("still mounted"), b"x");
    host.lighter(&["image", "unmount", "other:1"]).ok();
    host.assert_clean();
}
