//! Images leave as archives that others read, their history, and the room they take up.

use serde_json::{Value, json};
use testkit::image::Packing;
use testkit::process::tool;
use testkit::{Host, Image, Registry, Tar};

/// The digest that skopeo finds for an image in a place.
fn skopeo_digest(source: &str) -> String {
    tool("skopeo", &["inspect", "--format", "{{.Digest}}", source]).trim().to_owned()
}

#[test]
fn an_archive_goes_round_unchanged() {
    let host = Host::new();
    let dir = host.scratch("files");
    let layout = Image::busybox("team/box:1").file("etc/mark", 0o640, b"here").oci_layout(Packing::Gzip);
    host.lighter_reading(&["load"], &layout.tar()).ok();
    let id = host.lighter(&["images", "-q", "--no-trunc"]).ok().out();
    let file = dir.join("saved.tar").display().to_string();
    let saved = host.lighter(&["save", "-o", &file, "team/box:1"]);
    assert_eq!((saved.ok().out(), saved.err()), (String::new(), String::new()));
    let streamed = host.lighter(&["save", "team/box"]);
    assert_eq!(streamed.ok().stdout, std::fs::read(&file).expect("saved"), "always the same archive");

    host.lighter(&["rmi", "team/box:1"]).ok();
    assert_eq!(host.lighter(&["load", "-i", &file]).ok().out(), "Loaded image: team/box:1");
    assert_eq!(host.lighter(&["images", "-q", "--no-trunc"]).ok().out(), id);
    assert_eq!(host.lighter(&["run", "--rm", "team/box:1", "cat", "/etc/mark"]).ok().out(), "here");

    // Skopeo reads both formats, and copies the manifest's very bytes.
    assert_eq!(skopeo_digest(&format!("oci-archive:{file}:1")), id);
    let copied = dir.join("copied").display().to_string();
    let from = format!("docker-archive:{file}:docker.io/team/box:1");
    tool("skopeo", &["--insecure-policy", "copy", "--quiet", &from, &format!("dir:{copied}")]);
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(dir.join("copied/manifest.json")).expect("a manifest")).expect("JSON");
    let config = host.inspect("team/box:1")["Config"]["Cmd"].clone();
    assert_eq!(manifest["layers"].as_array().map(Vec::len), Some(2));
    assert_eq!(config, json!(["sh"]));
}

#[test]
fn several_images_share_one_archive() {
    let host = Host::new();
    host.load(&Image::busybox("one:1"));
    host.load(&Image::busybox("two:1").file("x", 0o644, b"y"));
    host.lighter(&["tag", "one:1", "one:2"]).ok();
    let archive = host.lighter(&["save", "one", "two:1"]).ok().stdout.clone();
    host.lighter(&["image", "prune", "-af"]).ok();
    assert_eq!(host.lighter(&["images", "-q"]).ok().out(), "");
    let mut loaded: Vec<String> =
        host.lighter_reading(&["load"], &archive).ok().out().lines().map(str::to_owned).collect();
    loaded.sort();
    assert_eq!(loaded, ["Loaded image: one:1", "Loaded image: one:2", "Loaded image: two:1"]);
    let id = host.lighter(&["images", "-q", "two:1"]).ok().out();
    let by_id = host.lighter(&["save", &id]).ok().stdout.clone();
    host.lighter(&["image", "prune", "-af"]).ok();
    assert!(host.lighter_reading(&["load"], &by_id).ok().out().starts_with("Loaded image ID: sha256:"));
}

#[test]
fn an_index_keeps_its_digest() {
    let host = Host::new();
    let registry = Registry::start();
    let images = [Image::busybox("x").platform("arm64", Some("v8")).file("p", 0o644, b"arm"), Image::busybox("x")];
    registry.push_layout(&Image::oci_index(&images, Packing::Gzip), "many:1");
    let name = registry.reference("many:1");
    host.lighter(&["pull", &name]).ok();
    let id = host.lighter(&["images", "-q", "--no-trunc"]).ok().out();
    let whole = host.lighter(&["save", &name]).ok().stdout.clone();
    let one = host.lighter(&["save", "--platform", "linux/amd64", &name]).ok().stdout.clone();
    host.lighter(&["save", "--platform", "linux/arm64", &name]).rejected("linux/arm64");
    host.lighter(&["rmi", &name]).ok();
    host.lighter_reading(&["load"], &whole).ok();
    assert_eq!(host.lighter(&["images", "-q", "--no-trunc"]).ok().out(), id);
    host.lighter(&["rmi", &name]).ok();
    host.lighter_reading(&["load"], &one).ok();
    assert_ne!(host.lighter(&["images", "-q", "--no-trunc"]).ok().out(), id);
    host.lighter(&["run", "--rm", &name, "true"]).ok();
}

#[test]
fn a_failed_save_leaves_no_file() {
    let host = Host::with_busybox();
    let dir = host.scratch("files");
    let file = dir.join("out.tar");
    std::fs::write(&file, "old").expect("write");
    let path = file.display().to_string();
    host.lighter(&["save", "-o", &path, "busybox", "nothing:1"]).rejected("No such image: nothing:1");
    host.lighter(&["save", "-o", &dir.display().to_string(), "busybox"]).rejected("directory");
    host.lighter(&["save", "-o", "/dev/full", "busybox"]).rejected("space");
    assert_eq!(std::fs::read(&file).expect("still there"), b"old");
    assert_eq!(std::fs::read_dir(&dir).expect("a directory").count(), 1, "nothing half-made");
}

#[test]
fn history_tells_how_an_image_was_made() {
    let host = Host::new();
    let steps = json!([
        {"created": "2020-01-01T00:00:00Z", "created_by": "ADD rootfs /"},
        {"created": "2020-01-02T00:00:00Z", "created_by": "CMD [\"sh\"]", "empty_layer": true, "comment": "note"},
    ]);
    let image = Image::busybox("told:1").set("x", json!(0));
    let mut archive = image.docker_archive();
    let manifest: Value = serde_json::from_slice(archive.get("manifest.json")).expect("JSON");
    let old = manifest[0]["Config"].as_str().expect("a name").to_owned();
    archive.edit(&old, |config| config["history"] = steps);
    let bytes = archive.get(&old).to_vec();
    archive.remove(&old);
    let new = format!("{}.json", testkit::image::hex(&bytes));
    archive.put(&new, bytes);
    archive.edit("manifest.json", |manifest| manifest[0]["Config"] = json!(new));
    host.lighter_reading(&["load"], &archive.tar()).ok();

    let shown = host.lighter(&["history", "told:1"]).ok().out();
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines.len(), 3, "{shown}");
    assert!(lines[0].starts_with("IMAGE ") && lines[0].contains("CREATED BY"), "{shown}");
    assert!(lines[1].contains("CMD [\"sh\"]") && lines[1].contains("0B") && lines[1].ends_with("note"), "{shown}");
    assert!(lines[2].starts_with("<missing>") && lines[2].contains("ADD rootfs /"), "{shown}");
    let plain = host.lighter(&["history", "-H=false", "--format", "{{.CreatedAt}} {{.Size}}", "told:1"]).ok().out();
    assert!(plain.starts_with("2020-01-02T00:00:00Z 0\n2020-01-01T00:00:00Z "), "{plain}");
    assert_eq!(host.lighter(&["history", "-q", "told:1"]).ok().out().lines().last(), Some("<missing>"));
    host.lighter(&["history", "nothing:1"]).rejected("No such image");
}

#[test]
fn prunes_take_what_nobody_uses() {
    let host = Host::with_busybox();
    host.load(&Image::busybox("spare:1").file("s", 0o644, b"s"));
    host.load(&Image::busybox("spare:1").file("t", 0o644, b"t"));
    host.lighter(&["create", "--name", "kept", "busybox"]).ok();
    let asked = host.lighter_reading(&["image", "prune"], b"n\n");
    asked.rejected("cancelled");
    let pruned = host.lighter_reading(&["image", "prune"], b"y\n").ok().out();
    assert!(pruned.contains("Deleted Images:\ndeleted: sha256:"), "{pruned}");
    assert!(!pruned.contains("untagged:") && !pruned.ends_with("space: 0B"), "{pruned}");
    let later = host.lighter(&["image", "prune", "-af", "--filter", "label=none"]).ok().out();
    assert_eq!(later, "Total reclaimed space: 0B");
    let all = host.lighter(&["image", "prune", "-af"]).ok().out();
    assert!(all.contains("untagged: spare:1") && !all.contains("busybox"), "{all}");

    let usage = host.lighter(&["system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}}"]).ok().out();
    assert_eq!(usage, "Images 1 1\nContainers 1 0\nLocal Volumes 0 0\nBuild Cache 0 0");
    assert!(host.lighter(&["system", "df", "-v"]).ok().out().contains("busybox"));
    let system = host.lighter(&["system", "prune", "-af"]).ok().out();
    assert!(system.contains("Deleted Containers:\n") && system.contains("untagged: busybox:latest"), "{system}");
    assert_eq!(host.lighter(&["ps", "-aq"]).ok().out(), "");
    let usage = host.lighter(&["system", "df"]).ok().out();
    assert!(usage.lines().nth(1).is_some_and(|line| line.contains("0B")), "{usage}");
}

/// What `find` shows of every file below a directory, without the root itself.
fn listing(dir: &std::path::Path) -> Vec<String> {
    let shown = "%P %y %m %U:%G %s %n %l\n";
    let text = tool("find", &[&dir.display().to_string(), "-mindepth", "1", "!", "-type", "d", "-printf", shown]);
    let dirs = "%P %y %m %U:%G\n";
    let text =
        text + "\n" + &tool("find", &[&dir.display().to_string(), "-mindepth", "1", "-type", "d", "-printf", dirs]);
    let mut lines: Vec<String> = text.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.sort();
    lines
}

#[test]
fn an_exported_container_is_its_files() {
    let host = Host::with_busybox();
    let long = "n".repeat(120);
    let script = format!(
        "mkdir -p /d/e && echo one >/d/one && ln /d/one /d/two && ln -s one /d/link && mkfifo /d/pipe && \
         echo x >/d/{long} && chown 1234:4321 /d/e && chmod 2750 /d/e && rm /bin/vi && head -c 70000 /dev/zero >/d/big"
    );
    let made = host.lighter(&["run", "--name", "box", "busybox", "sh", "-c", &script]);
    made.ok();
    let dir = host.scratch("files");
    let file = dir.join("box.tar").display().to_string();
    host.lighter(&["export", "-o", &file, "box"]).ok();
    assert_eq!(host.lighter(&["export", "box"]).ok().stdout, std::fs::read(&file).expect("exported"));
    let out = dir.join("out");
    std::fs::create_dir(&out).expect("made");
    tool("tar", &["--numeric-owner", "-xpf", &file, "-C", &out.display().to_string()]);
    let lines = listing(&out);
    let has = |line: &str| assert!(lines.iter().any(|l| l == line), "{line}\n{}", lines.join("\n"));
    has("d/one f 644 0:0 4 2");
    has("d/two f 644 0:0 4 2");
    has("d/link l 777 0:0 3 1 one");
    has("d/pipe p 644 0:0 0 1");
    has("d/e d 2750 1234:4321");
    has(&format!("d/{long} f 644 0:0 2 1"));
    has("d/big f 644 0:0 70000 1");
    assert!(!lines.iter().any(|line| line.starts_with("bin/vi ")), "a deleted file stays deleted");

    host.lighter_reading(&["import", "-", "again:1"], &std::fs::read(&file).expect("exported")).ok();
    assert_eq!(host.lighter(&["run", "--rm", "again:1", "/bin/busybox", "cat", "/d/two"]).ok().out(), "one");
    host.lighter(&["create", "--name", "fresh", "busybox", "true"]).ok();
    assert!(host.lighter(&["export", "fresh"]).ok().stdout.len() > 10_000);
    host.lighter(&["export", "nosuch"]).refused(1, "No such container: nosuch");
    host.lighter(&["rm", "box", "fresh"]).ok();
}

/// What a new container of an image holds, as tar tells of it, by name.
fn held(host: &Host, image: &str, file: &str) -> Vec<String> {
    host.lighter(&["create", "--name", "held", image, "sh"]).ok();
    host.lighter(&["export", "-o", file, "held"]).ok();
    host.lighter(&["rm", "held"]).ok();
    let text = tool("tar", &["--numeric-owner", "--xattrs", "--xattrs-include=*", "-tvvf", file]);
    // An attribute has a line of its own, after that of its file.
    let mut lines: Vec<String> = text.replace("\n  x:", " x:").lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn every_kind_of_file_goes_round_through_skopeo() {
    let host = Host::new();
    let dir = host.scratch("files");
    let path = |name: &str| dir.join(name).display().to_string();
    let below = Tar::new().dir("k", 0o755).owned("k/one", 0o4750, (12, 34), b"one").hardlink("k/two", "k/one");
    let below = below.device(b'3', "k/null", 1, 3).device(b'4', "k/loop", 7, 0).symlink("k/link", "one");
    let below = below.pax(&[("SCHILY.xattr.user.colour", "red")]).file("k/marked", 0o644, b"m");
    let below = below.file("k/gone", 0o644, b"g").dir("k/hidden", 0o700).file("k/hidden/old", 0o644, b"o");
    let above = Tar::new().file("k/.wh.gone", 0o644, b"").file("k/hidden/.wh..wh..opq", 0o644, b"");
    let above = above.file("k/hidden/new", 0o600, b"n");
    let image = Image::busybox("team/kinds:1").layer(below.finish()).layer(above.finish());
    host.lighter_reading(&["load"], &image.oci_layout(Packing::Gzip).tar()).ok();

    let id = host.lighter(&["images", "-q", "--no-trunc"]).ok().out();
    let layers = host.inspect("team/kinds:1")["RootFS"].clone();
    let files = held(&host, "team/kinds:1", &path("files.tar"));
    let told = |start: &str, end: &str| files.iter().any(|line| line.starts_with(start) && line.ends_with(end));
    let all = files.join("\n");
    assert!(told("crw", " k/null") && told("brw", " k/loop") && told("lrwx", " k/link -> one"), "{all}");
    assert!(told("-rw", " user.colour") && all.contains("-rwsr-x---  12/34 ") && told("-rw", " k/hidden/new"), "{all}");
    assert!(all.contains("link to k/"), "{all}");
    assert!(!all.contains("k/gone") && !all.contains("k/hidden/old") && !all.contains(".wh."), "{all}");

    let saved = path("saved.tar");
    host.lighter(&["save", "-o", &saved, "team/kinds:1"]).ok();
    let oci = format!("oci-archive:{saved}:1");
    let docker = format!("docker-archive:{saved}:docker.io/team/kinds:1");
    assert_eq!(skopeo_digest(&oci), id);
    let config = |source: &str| tool("skopeo", &["inspect", "--config", "--raw", source]);
    assert_eq!(config(&oci), config(&docker), "one configuration in both formats");
    let copied = |from: &str, to: &str, more: &[&str]| {
        tool("skopeo", &[&["--insecure-policy", "copy", "--quiet"], more, &[from, to]].concat());
    };
    copied(&oci, &format!("oci-archive:{}:team/kinds:1", path("oci.tar")), &["--preserve-digests"]);
    copied(&docker, &format!("docker-archive:{}:team/kinds:1", path("docker.tar")), &[]);
    assert_eq!(config(&format!("docker-archive:{}", path("docker.tar"))), config(&oci));

    for (archive, same_manifest) in [("oci.tar", true), ("docker.tar", false)] {
        host.lighter(&["rmi", "team/kinds:1"]).ok();
        host.lighter(&["load", "-i", &path(archive)]).ok();
        let loaded = host.lighter(&["images", "-q", "--no-trunc"]).ok().out();
        // Docker's format has no manifest of the registry's kind: layers lie in it unpacked.
        assert_eq!(loaded == id, same_manifest, "{archive}: {loaded}");
        assert_eq!(host.inspect("team/kinds:1")["RootFS"], layers, "{archive}");
        assert_eq!(held(&host, "team/kinds:1", &path("files.tar")), files, "{archive}");
    }
}
