//! An image with everything in it that engines are known to lose.

use serde_json::json;
use testkit::tarball::Entry;
use testkit::{Image, Tar};

/// Bytes of a capability set (`struct vfs_cap_data`, revision 2, effective): CAP_NET_BIND_SERVICE.
const CAPABILITY: &str = "\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// Directories that a layer's archive leaves out although there is something in them, by the number of the layer. We give
/// them the attributes that the layers below have there, as containerd does; docker 28 makes all of them root's, with mode
/// 0755, and does so with a layer's own root even when the archive describes it.
pub(super) const IMPLIED: [(usize, &str); 7] =
    [(0, "."), (1, "."), (1, "left-out"), (1, "left-out/below"), (2, "."), (3, "."), (4, ".")];

/// The image, five layers.
pub(super) fn image(name: &str) -> Image {
    let history = json!([
        {"created": "2020-01-01T00:00:00Z", "created_by": "/bin/sh -c #(nop) ADD base in / ", "comment": "with \"quotes\" & <tags>"},
        {"created": "2020-01-02T03:04:05.678901234Z", "created_by": "ENV A=b", "empty_layer": true},
        {"created": "2020-01-03T00:00:00Z", "created_by": "RUN rm and replace", "author": "somebody"},
        {"created": "2020-01-03T00:00:00Z", "created_by": "RUN back again"},
        {"created": "2020-01-04T00:00:00+01:00", "created_by": "RUN nothing # ünïcödé"},
        {"created": "2020-01-05T00:00:00Z", "created_by": "RUN the same again"},
    ]);
    Image::empty(name)
        .layer(base().finish())
        .layer(over().finish())
        .layer(again().finish())
        .layer(Tar::new().finish())
        .layer(base().finish())
        .history(history)
        .set("Cmd", json!(["/bin/true", "a b", "\"quoted\""]))
        .set("Labels", json!({"plain": "label", "odd \u{e4}": "line\nbreak\ttab \u{1F6A2}"}))
        .set("Env", json!(["PATH=/bin", "EMPTY=", "SPACES=a  b"]))
        .set("ExposedPorts", json!({"80/tcp": {}, "53/udp": {}}))
        .set("Volumes", json!({"/data": {}}))
        .set("StopSignal", json!("SIGUSR1"))
        .set("User", json!("1000:70000"))
        .set("WorkingDir", json!("/owned"))
}

/// Every kind of file, owner, mode, time, name and attribute.
fn base() -> Tar {
    let long = format!("names/{}", "n".repeat(250));
    let deep = format!("names/{0}/", "deep".repeat(40));
    let owned = |kind, name: &str, mode, uid, gid| Entry { mode, uid, gid, ..Entry::new(kind, name) };
    Tar::new()
        .entry(&owned(b'5', "./", 0o711, 3, 4))
        .dir("bin/", 0o755)
        .file("bin/plain", 0o644, b"plain")
        .file("bin/setuid", 0o4755, b"setuid")
        .file("bin/setgid", 0o2755, b"setgid")
        .file("bin/all-bits", 0o7777, b"all")
        .file("bin/no-bits", 0, b"none")
        .entry(&Entry { data: b"owned".to_vec(), ..owned(b'0', "bin/setuid-of-another", 0o6755, 1000, 1001) })
        .pax(&[("SCHILY.xattr.security.capability", CAPABILITY)])
        .file("bin/capable", 0o755, b"capable")
        .pax(&[("SCHILY.xattr.security.capability", CAPABILITY)])
        .owned("bin/capable-of-another", 0o755, (1000, 1000), b"capable")
        .pax(&[
            ("SCHILY.xattr.user.one", "value = with equals"),
            ("SCHILY.xattr.user.two", "line\nbreak\0null"),
            ("SCHILY.xattr.user.empty", ""),
            ("SCHILY.xattr.trusted.three", "trusted"),
        ])
        .file("bin/attributes", 0o644, b"attributes")
        .entry(&owned(b'5', "owned/", 0o2770, 1000, 70_000))
        .entry(&Entry { data: b"inside".to_vec(), ..owned(b'0', "owned/file", 0o640, 70_000, 2_000_000) })
        .pax(&[("uid", "3000000000"), ("gid", "4294967294")])
        .file("owned/far", 0o644, b"far")
        .dir("sticky/", 0o1777)
        .pax(&[("SCHILY.xattr.user.of-a-directory", "yes"), ("mtime", "1000000000.5")])
        .dir("sticky/attributes/", 0o700)
        .dir("times/", 0o755)
        .pax(&[("mtime", "1234567890.123456789")])
        .file("times/fraction", 0o644, b"f")
        .pax(&[("mtime", "0")])
        .file("times/epoch", 0o644, b"e")
        .pax(&[("mtime", "8000000000")])
        .file("times/far", 0o644, b"f")
        .pax(&[("mtime", "1111111111.25"), ("atime", "1.5"), ("ctime", "2.5")])
        .symlink("times/link", "fraction")
        .dir("links/", 0o755)
        .entry(&Entry { mode: 0o4755, link: "bin/setuid".to_owned(), ..Entry::new(b'1', "links/hard") })
        .hardlink("links/dotted", "./bin/plain")
        .hardlink("links/absolute", "/bin/plain")
        .symlink("links/soft", "../bin/plain")
        .symlink("links/dangling", "/nowhere/at/all")
        .symlink("links/self", "self")
        .hardlink("links/hard-to-soft", "links/soft")
        .pax(&[("linkpath", &"t".repeat(200))])
        .symlink("links/long", "t")
        .entry(&Entry { link: "../bin".to_owned(), ..owned(b'2', "links/owned", 0o777, 1000, 70_000) })
        .dir("nodes/", 0o755)
        .device(b'3', "nodes/null", 1, 3)
        .device(b'4', "nodes/loop", 7, 300)
        .entry(&Entry { mode: 0o4622, uid: 5, gid: 6, ..Entry::new(b'6', "nodes/fifo") })
        .dir("names/", 0o755)
        .pax(&[("path", &long)])
        .file("names/long", 0o644, b"long")
        .pax(&[("path", &deep)])
        .dir("names/deep", 0o750)
        .file("names/with space", 0o644, b"s")
        .file("names/line\nbreak", 0o644, b"n")
        .file("names/back\\slash", 0o644, b"b")
        .pax(&[("path", "names/\u{fc}n\u{ef}code \u{1F6A2}")])
        .file("names/unicode", 0o644, b"u")
        .file("names/.hidden", 0o644, b"h")
        .file("names/...", 0o644, b"dots")
        .dir("empty/", 0o755)
        .file("empty-file", 0o600, b"")
        .dir("gone/", 0o755)
        .file("gone/file", 0o644, b"gone")
        .dir("gone/dir/", 0o755)
        .file("gone/dir/file", 0o644, b"gone too")
        .dir("hidden/", 0o755)
        .file("hidden/old", 0o644, b"old")
        .dir("left-out/", 0o700)
        .dir("left-out/below/", 0o711)
        .file("left-out/below/file", 0o644, b"first")
        .file("file-then-dir", 0o644, b"a file")
        .dir("dir-then-file/", 0o755)
        .file("dir-then-file/inside", 0o644, b"inside")
        .dir("etc/", 0o755)
        .file("etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\n")
}

/// An image with a sparse file in GNU's form 1.0. It can only be loaded: docker 28 and podman 5.8 remember headers
/// of layers beside the files, and cannot put such a layer together again, nor take it from a registry.
pub(super) fn sparse(name: &str) -> Image {
    // The map, padded to a block, then the pieces.
    let mut bytes = b"3\n0\n5\n1000000\n6\n3000000\n0\n".to_vec();
    bytes.resize(512, 0);
    bytes.extend(b"beginmiddle");
    let layer = Tar::new()
        .dir("sparse/", 0o755)
        .pax(&[
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.name", "sparse/holes"),
            ("GNU.sparse.realsize", "3000000"),
        ])
        .file("sparse/GNUSparseFile.0/holes", 0o644, &bytes);
    Image::empty(name).layer(layer.finish())
}

/// Whiteouts, opaque directories, replacements, and directories that are left out.
fn over() -> Tar {
    Tar::new()
        .file("gone/.wh.file", 0o644, b"")
        .file("gone/.wh.dir", 0o644, b"")
        .file(".wh.never-there", 0o644, b"")
        .dir("gone/", 0o711)
        .dir("hidden/", 0o755)
        .file("hidden/new", 0o644, b"new")
        .file("hidden/.wh..wh..opq", 0o644, b"")
        .file("left-out/below/file", 0o600, b"second")
        .dir("file-then-dir/", 0o755)
        .file("file-then-dir/inside", 0o644, b"inside")
        .file("dir-then-file", 0o644, b"a file")
        .dir("etc/", 0o700)
}

/// What was removed comes back, and what is hidden is filled.
fn again() -> Tar {
    Tar::new()
        .dir("gone/", 0o755)
        .symlink("gone/file", "../bin/plain")
        .dir("gone/dir/", 0o755)
        .file("gone/dir/.wh..wh..opq", 0o644, b"")
        .file("gone/dir/back", 0o644, b"back")
        .dir("sticky/", 0o1770)
        .file(".wh.nodes", 0o644, b"")
}
