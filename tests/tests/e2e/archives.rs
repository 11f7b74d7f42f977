//! Broken and hostile archives: one clear error, nothing kept, nothing touched.

use std::io::Read as _;
use std::time::Duration;

use flate2::Compression;
use flate2::read::GzEncoder;
use serde_json::json;
use testkit::image::Packing;
use testkit::tarball::Entry;
use testkit::{Host, Image, Output, Tar};

/// Loads `archive`, which must be refused, and sees that no trace of it stays.
#[track_caller]
fn refused(host: &Host, archive: &[u8], word: &str) -> Output {
    let output = host.lighter_reading(&["load"], archive);
    output.rejected(word);
    assert_eq!(host.lighter(&["images", "-q"]).ok().out(), "", "no image came of it\n{output}");
    let mut left = Vec::new();
    for place in ["layers", "content/blobs/sha256"] {
        let entries = std::fs::read_dir(host.root().join(place)).into_iter().flatten().flatten();
        left.extend(entries.filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b".")).map(|e| e.path()));
    }
    assert!(left.iter().all(|path| !path.starts_with(host.root().join("layers"))), "a half-made layer: {left:?}");
    output
}

fn evil(layer: Tar) -> Vec<u8> {
    Image::busybox("evil:1").layer(layer.finish()).docker_archive().tar()
}

#[test]
fn what_is_no_image_is_refused() {
    let host = Host::new();
    refused(&host, b"", "");
    refused(&host, b"this is no archive", "");
    refused(&host, &Tar::new().file("readme", 0o644, b"hello").finish(), "manifest");
    refused(&host, &Packing::Gzip.pack(b"not a tar inside"), "");
    host.lighter(&["load", "-i", "/does/not/exist.tar"]).rejected("/does/not/exist.tar");
}

#[test]
fn cut_off_archives_are_refused() {
    let host = Host::new();
    for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
        let whole = packing.pack(&Image::busybox("cut:1").docker_archive().tar());
        refused(&host, &whole[..whole.len() / 2], "");
        let layout = Image::busybox("cut:1").oci_layout(packing).tar();
        refused(&host, &layout[..layout.len() * 2 / 3], "");
    }
    let layer = testkit::image::busybox_layer();
    let half = layer[..layer.len() / 2].to_vec();
    refused(&host, &Image::empty("cut:2").layer(half).docker_archive().tar(), "");
}

#[test]
fn bytes_that_do_not_match_their_digest_are_refused() {
    let host = Host::new();
    for packing in [Packing::Plain, Packing::Gzip] {
        let mut layout = Image::busybox("wrong:1").oci_layout(packing);
        let (name, bytes) = layout.largest();
        let (name, mut bytes) = (name.to_owned(), bytes.to_vec());
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        layout.put(&name, bytes);
        refused(&host, &layout.tar(), "");
    }
    // A layer that is what its own digest says, but not what the configuration's diff id says.
    let mut archive = Image::busybox("wrong:2").docker_archive();
    archive.put("layer0/layer.tar", Tar::new().file("other", 0o644, b"bytes").finish());
    refused(&host, &archive.tar(), "");
}

#[test]
fn a_document_that_is_both_manifest_and_index_is_refused() {
    let host = Host::new();
    let mut layout = Image::busybox("both:1").oci_layout(Packing::Gzip);
    let index: serde_json::Value = serde_json::from_slice(layout.get("index.json")).expect("JSON");
    let digest = index["manifests"][0]["digest"].as_str().expect("a digest").to_owned();
    let mut manifest: serde_json::Value =
        serde_json::from_slice(layout.get(&format!("blobs/{}", digest.replace(':', "/")))).expect("JSON");
    manifest["manifests"] = index["manifests"].clone();
    let bytes = manifest.to_string().into_bytes();
    layout.edit("index.json", |index| {
        index["manifests"][0]["digest"] = json!(testkit::image::digest(&bytes));
        index["manifests"][0]["size"] = json!(bytes.len());
    });
    layout.put(&format!("blobs/sha256/{}", testkit::image::hex(&bytes)), bytes);
    refused(&host, &layout.tar(), "");
}

#[test]
fn digests_and_names_never_become_paths() {
    let host = Host::new();
    let bait = host.bait();
    let up = format!("../../../../../../../..{}", bait.display());
    for digest in ["sha256:../../../../etc/passwd", &format!("sha256:{up}"), "sha256:", "../x", "md5:00", "sha256:ABC"]
    {
        let mut layout = Image::busybox("path:1").oci_layout(Packing::Gzip);
        layout.edit("index.json", |index| index["manifests"][0]["digest"] = json!(digest));
        refused(&host, &layout.tar(), "");
    }
    for name in [up.as_str(), &bait.to_string_lossy(), "../x"] {
        let mut archive = Image::busybox("path:2").docker_archive();
        archive.edit("manifest.json", |manifest| manifest[0]["Layers"][0] = json!(name));
        refused(&host, &archive.tar(), "");
        let mut archive = Image::busybox("path:3").docker_archive();
        archive.edit("manifest.json", |manifest| manifest[0]["Config"] = json!(name));
        refused(&host, &archive.tar(), "");
    }
    // The archive's own member names lead outside: whatever comes of it, the bait stays as it is.
    let mut archive = Image::busybox("path:4").docker_archive();
    archive.put(&up, b"owned".to_vec());
    host.lighter_reading(&["load"], &archive.tar());
    assert_eq!(std::fs::read(bait).expect("the bait is there"), b"bait");
}

/// CVE-2024-3727: what is not a digest is never looked up, whatever it looks like.
#[test]
fn cve_2024_3727_forty_malformed_digests_are_refused() {
    let host = Host::new();
    let hex = testkit::image::hex(b"content");
    let part = &hex[..63];
    let upper = hex.to_uppercase();
    let forms = [
        String::new(),
        ":".to_owned(),
        "sha256".to_owned(),
        "sha256:".to_owned(),
        format!(":{hex}"),
        hex.clone(),
        format!("sha256:{part}"),
        format!("sha256:{hex}0"),
        format!("sha256:{part}g"),
        format!("sha256:{part} "),
        format!("sha256:{part}\n"),
        format!("sha256:{part}\0"),
        format!("sha256:{part}/"),
        format!("sha256:{part}%"),
        format!("sha256:{upper}"),
        format!("sha256:{part}\u{e9}"),
        format!(" sha256:{hex}"),
        format!("sha256:{hex} "),
        format!("sha256: {hex}"),
        format!("sha256:{hex}\n"),
        format!("sha256:{hex}\0"),
        format!("sha256:{hex}:{hex}"),
        format!("sha256:sha256:{hex}"),
        format!("SHA256:{hex}"),
        format!("sha-256:{hex}"),
        format!("sha256+b64:{hex}"),
        format!("sha1:{}", &hex[..40]),
        format!("md5:{}", &hex[..32]),
        format!("sha384:{hex}{}", &hex[..32]),
        format!("sha512:{hex}"),
        format!("sha512:{hex}{part}"),
        format!("blake3:{hex}"),
        format!("../sha256:{hex}"),
        format!("sha256:../{}", &hex[..61]),
        format!("sha256:{}/../x", &hex[..59]),
        format!("sha256/{hex}"),
        format!("sha256:/{part}"),
        format!("sha256:.{part}"),
        "sha256:..".to_owned(),
        format!("sha256:{}", "0".repeat(100_000)),
    ];
    assert_eq!(forms.len(), 40);
    for form in &forms {
        let mut layout = Image::busybox("digest:1").oci_layout(Packing::Gzip);
        layout.edit("index.json", |index| index["manifests"][0]["digest"] = json!(form));
        let output = refused(&host, &layout.tar(), "");
        assert!(output.err().len() < 2000, "{:?} is not repeated whole: {output}", &form[..form.len().min(80)]);
    }
}

/// CVE-2021-20291: a layer in a form that peers hand to a helper, cut off in its middle.
#[test]
fn cve_2021_20291_a_broken_xz_layer_ends_at_once() {
    let host = Host::new();
    let mut layer = b"\xfd7zXZ\0\0\x04\xe6\xd6\xb4\x46".to_vec();
    layer.extend(testkit::image::busybox_layer().iter().take(1 << 20));
    let output = refused(&host, &Image::empty("xz:1").layer(layer).docker_archive().tar(), "");
    assert!(output.took < Duration::from_secs(10), "{output}");
}

#[test]
fn members_of_a_layer_stay_inside_it() {
    let host = Host::new();
    let bait = host.bait();
    let baits = bait.parent().expect("in a directory").display().to_string();
    let bait_path = bait.display().to_string();
    let inner = bait_path.trim_start_matches('/');
    let layers = [
        ("parent names", Tar::new().file(&format!("../../../../../../..{bait_path}"), 0o644, b"owned")),
        ("absolute names", Tar::new().file(&bait_path, 0o644, b"owned")),
        ("absolute symlink", Tar::new().symlink("out", &baits).file("out/file", 0o644, b"owned")),
        (
            "relative symlink",
            Tar::new().symlink("out", &format!("../../../../../../../../{inner}/..")).file("out/file", 0o644, b"owned"),
        ),
        (
            "chained symlinks",
            Tar::new()
                .symlink("a", "/")
                .symlink("b", "a")
                .symlink("c", &format!("b/{inner}"))
                .file("c", 0o644, b"owned"),
        ),
        (
            "symlink, then a directory of its name",
            Tar::new().symlink("out", &baits).dir("out", 0o777).file("out/new", 0o644, b"owned"),
        ),
        ("symlink to the file, then the file", Tar::new().symlink("f", &bait_path).file("f", 0o777, b"owned")),
        ("hard link to the outside", Tar::new().hardlink("f", &bait_path).file("f", 0o644, b"owned")),
        (
            "hard link by parent names",
            Tar::new().hardlink("f", &format!("../../../../../../../..{bait_path}")).file("f", 0o644, b"owned"),
        ),
        (
            "hard link through a symlink",
            Tar::new().symlink("out", &baits).hardlink("f", "out/file").file("f", 0o777, b"owned"),
        ),
        ("whiteout through a symlink", Tar::new().symlink("out", &baits).file("out/.wh.file", 0o644, b"")),
        ("opaque marker through a symlink", Tar::new().symlink("out", &baits).file("out/.wh..wh..opq", 0o644, b"")),
        ("a device in its place", Tar::new().symlink("out", &baits).device(b'3', "out/null", 1, 3)),
        (
            "a pax name",
            Tar::new().pax(&[("path", &format!("../../../../../..{bait_path}"))]).file("x", 0o644, b"owned"),
        ),
    ];
    for (what, layer) in layers {
        // Refusing and keeping inside are both right; writing outside is not.
        let output = host.lighter_reading(&["load"], &evil(layer));
        assert!(matches!(output.status, 0 | 1 | 125), "{what}\n{output}");
        assert!(!output.err().contains("panicked"), "{what}\n{output}");
        assert_eq!(std::fs::read(&bait).expect("the bait is there"), b"bait", "{what}\n{output}");
        let beside = std::fs::read_dir(&baits).expect("the bait's directory").count();
        assert_eq!(beside, 1, "{what}: something new beside the bait\n{output}");
    }
}

#[test]
fn a_device_node_of_an_image_opens_nothing() {
    let host = Host::new();
    // Major 1 minor 1 is the machine's memory; the block device is whatever the kernel gave number 8:0 or 254:0.
    let layer = Tar::new().device(b'3', "mem", 1, 1).device(b'4', "sda", 8, 0).device(b'4', "vda", 254, 0);
    let output = host.lighter_reading(&["load"], &evil(layer));
    if output.status == 0 {
        let script = "for f in /mem /sda /vda; do [ ! -e $f ] || head -c 1 $f && echo OPENED $f; done; true";
        let output = host.lighter(&["run", "--rm", "evil:1", "sh", "-c", script]);
        assert!(!output.ok().out().contains("OPENED /"), "{output}");
    } else {
        output.rejected("");
    }
}

#[test]
fn a_gzip_bomb_ends_early() {
    let host = Host::new();
    // 8 GiB of zeros from 8 MiB, a thousand to one: gzip members follow each other.
    let header = Tar::new().entry(&Entry { claimed: Some(0o77_777_777_777), ..Entry::new(b'0', "bomb") });
    let mut start = header.finish();
    start.truncate(512);
    let mut packed = Packing::Gzip.pack(&start);
    let mut member = Vec::new();
    let zeros = std::io::repeat(0).take(64 << 20);
    GzEncoder::new(zeros, Compression::best()).read_to_end(&mut member).expect("in memory");
    for _ in 0..128 {
        packed.extend(&member);
    }
    let mut layout = Image::busybox("bomb:1").oci_layout(Packing::Gzip);
    let name = layout.largest().0.to_owned();
    layout.remove(&name);
    let index: serde_json::Value = serde_json::from_slice(layout.get("index.json")).expect("JSON");
    let old = index["manifests"][0]["digest"].as_str().expect("a digest").replace(':', "/");
    let old = format!("blobs/{old}");
    layout.edit(&old, |manifest| {
        manifest["layers"][0]["digest"] = json!(testkit::image::digest(&packed));
        manifest["layers"][0]["size"] = json!(packed.len());
    });
    let manifest = layout.get(&old).to_vec();
    layout.remove(&old);
    layout.edit("index.json", |index| {
        index["manifests"][0]["digest"] = json!(testkit::image::digest(&manifest));
        index["manifests"][0]["size"] = json!(manifest.len());
    });
    layout.put(&format!("blobs/sha256/{}", testkit::image::hex(&manifest)), manifest);
    layout.put(&format!("blobs/sha256/{}", testkit::image::hex(&packed)), packed);
    refused(&host, &layout.tar(), "decompresses to more than 200 times its size");
}

#[test]
fn a_manifest_of_a_gigabyte_is_refused_at_once() {
    let host = Host::new();
    let file = host.scratch("files").join("huge.tar");
    let mut start = Tar::new().entry(&Entry { claimed: Some(1 << 30), ..Entry::new(b'0', "manifest.json") }).finish();
    start.truncate(512);
    std::fs::write(&file, start).expect("write the header");
    let size = 512 + (1 << 30) + 1024;
    std::fs::File::options().write(true).open(&file).and_then(|file| file.set_len(size)).expect("a sparse file");
    let output = host.lighter(&["load", "-i", &file.to_string_lossy()]);
    output.rejected("manifest");
    assert!(output.took < testkit::wait::patient(Duration::from_secs(60)), "{output}");
}

#[test]
fn bad_imports_leave_no_image() {
    let host = Host::new();
    host.lighter_reading(&["import", "-", "bad:1"], b"no tar at all, but long enough to be looked at").rejected("");
    host.lighter_reading(&["import", "-", "NOT A NAME"], testkit::image::busybox_layer()).rejected("NOT A NAME");
    assert_eq!(host.lighter(&["images", "-q"]).ok().out(), "");
}
