use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;
use crate::archive::testing::{Head, Scratch, Tar, record};

/// A layer's root inside a directory that also holds what must not change.
struct Jail {
    scratch: Scratch,
    before: Vec<(PathBuf, String)>,
}

impl Jail {
    fn new(name: &str) -> Self {
        let scratch = Scratch::new(name);
        let canary = scratch.path().join("canary");
        fs::create_dir_all(canary.join("dir")).unwrap();
        fs::write(canary.join("file"), "alive").unwrap();
        fs::set_permissions(canary.join("file"), fs::Permissions::from_mode(0o640)).unwrap();
        fs::set_permissions(canary.join("dir"), fs::Permissions::from_mode(0o711)).unwrap();
        fs::create_dir(scratch.path().join("root")).unwrap();
        let before = look(&canary);
        Self { scratch, before }
    }

    fn root(&self) -> PathBuf {
        self.scratch.path().join("root")
    }

    fn apply_with(&self, archive: &[u8], limits: &Limits) -> Result<Outcome> {
        let root = fs::File::open(self.root()).unwrap().into();
        let mut tree = Tree::new(root).unwrap();
        let result = extract(&mut tree, &mut &archive[..], limits);
        let result = result.and_then(|outcome| finish(tree.root(), &outcome).map(|()| outcome));
        assert_eq!(look(&self.scratch.path().join("canary")), self.before, "the canary changed");
        assert_eq!(fs::read_dir(self.scratch.path()).unwrap().count(), 2, "something appeared outside");
        result
    }

    fn apply(&self, archive: &[u8]) -> Result<Outcome> {
        self.apply_with(archive, &Limits::default())
    }

    fn refuses(&self, archive: &[u8]) {
        let error = self.apply(archive).expect_err("the archive must be refused");
        assert!(matches!(error, Error::Refused { .. }), "{error}");
    }

    fn meta(&self, path: &str) -> fs::Metadata {
        fs::symlink_metadata(self.root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).unwrap()
    }

    fn is_whiteout(&self, path: &str) -> bool {
        let meta = self.meta(path);
        meta.file_type().is_char_device() && meta.rdev() == 0
    }

    fn is_opaque(&self, path: &str) -> bool {
        xattr::is_opaque(fs::File::open(self.root().join(path)).unwrap()).unwrap()
    }
}

/// Everything about a tree that an escape could change.
fn look(dir: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(path) = waiting.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let bytes = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        let line = format!(
            "{} {:o} {} {} {} {} {:?}",
            meta.ino(),
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.nlink(),
            meta.mtime(),
            bytes
        );
        if meta.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        found.push((path, line));
    }
    found.sort();
    found
}

#[test]
fn names_that_lead_out_are_refused() {
    for name in ["../canary/file", "a/../../canary/file", "..", "/../canary/file", "./../canary/new"] {
        Jail::new("dotdot").refuses(&Tar::new().file(name, "dead").end());
    }
}

#[test]
fn absolute_names_are_inside() {
    let jail = Jail::new("absolute");
    let outside = jail.scratch.path().join("canary/file");
    jail.apply(&Tar::new().file(outside.to_str().unwrap(), "inside").end()).unwrap();
    let inside = format!("{}/canary/file", jail.scratch.path().display());
    assert_eq!(jail.read(inside.trim_start_matches('/')), "inside");
}

#[test]
fn links_lead_nowhere_but_inside() {
    // A link up, a chain of links, an absolute link: what is written through them stays in the root.
    for (name, links) in [
        ("up", vec![("link", "../canary")]),
        ("far", vec![("link", "../../../../../../../../canary")]),
        ("chain", vec![("a", ".."), ("b", "a/.."), ("link", "b/canary")]),
        ("absolute-link", vec![("link", "/canary")]),
        ("loop", vec![("link", "other"), ("other", "link")]),
        ("magic", vec![("link", "/proc/self/cwd")]),
    ] {
        let jail = Jail::new(name);
        let tar = links.iter().fold(Tar::new(), |tar, (name, target)| tar.symlink(name, target));
        assert!(jail.apply(&tar.clone().file("link/file", "dead").end()).is_err(), "{name}");
        if name == "loop" || name == "magic" {
            continue;
        }
        let jail = Jail::new(name);
        jail.apply(&Tar::new().dir("canary").raw(&tar.open_end()).file("link/file", "inside").end()).unwrap();
        assert_eq!(jail.read("canary/file"), "inside", "{name}");
    }
}

#[test]
fn an_absolute_link_out_of_the_root_is_not_followed() {
    let jail = Jail::new("host-link");
    let canary = jail.scratch.path().join("canary");
    let tar = Tar::new().symlink("link", canary.to_str().unwrap());
    assert!(jail.apply(&tar.clone().file("link/file", "dead").end()).is_err());
    // A file over a link replaces the link; a directory over a link too, and its mode goes to the new directory.
    jail.apply(&tar.clone().file("link", "a file").end()).unwrap();
    assert_eq!(jail.read("link"), "a file");
    jail.apply(&tar.dir_of("link", 0o777, 1, 1).file("link/new", "inside").end()).unwrap();
    assert_eq!(jail.meta("link").mode() & 0o7777, 0o777);
    assert!(jail.meta("link").is_dir() && jail.is_opaque("link"));
    assert_eq!(jail.read("link/new"), "inside");
}

#[test]
fn hard_links_stay_inside_and_follow_nothing() {
    let jail = Jail::new("hard");
    let canary = jail.scratch.path().join("canary/file");
    let canary = canary.to_str().unwrap();
    jail.refuses(&Tar::new().hard_link("out", "../canary/file").end());
    jail.refuses(&Tar::new().hard_link("out", canary).end());
    jail.refuses(&Tar::new().hard_link("out", "missing").end());
    jail.refuses(&Tar::new().hard_link("out", "").end());
    jail.refuses(&Tar::new().dir("d").hard_link("out", "d").end());
    jail.refuses(&Tar::new().file(".wh.gone", "").hard_link("out", "gone").end());
    jail.refuses(&Tar::new().symlink("up", "../canary").hard_link("out", "up/file").end());
    // A link as the target is linked itself; what is written to the name afterwards replaces it.
    let tar = Tar::new().symlink("link", canary).hard_link("same", "link").file("same", "inside");
    jail.apply(&tar.end()).unwrap();
    assert!(jail.meta("link").is_symlink());
    assert_eq!(jail.read("same"), "inside");
    // One that names itself stays.
    let jail = Jail::new("hard-self");
    jail.apply(&Tar::new().file("a", "1").hard_link("b", "/a").hard_link("b", "a").hard_link("a", "./a").end())
        .unwrap();
    assert_eq!((jail.read("a"), jail.meta("b").nlink()), ("1".to_owned(), 2));
}

#[test]
fn nothing_that_was_there_is_written_to() {
    // The second file of a name is a new one: the first's other name keeps its bytes.
    let jail = Jail::new("duplicate");
    let mut suid = Head::new(b'0', "a", 3);
    suid.octal(100, 8, 0o4755).octal(108, 8, 70_000);
    let tar = Tar::new().file("a", "one").hard_link("b", "a").head(suid).data(b"two");
    let outcome = jail.apply(&tar.end()).unwrap();
    assert_eq!((jail.read("a"), jail.read("b")), ("two".to_owned(), "one".to_owned()));
    assert_eq!((jail.meta("a").mode() & 0o7777, jail.meta("a").uid()), (0o4755, 70_000));
    assert_eq!((outcome.bytes, outcome.inodes, outcome.max_uid), (6, 3, 70_000));
}

#[test]
fn entries_replace_each_other() {
    let jail = Jail::new("replace");
    let tar = Tar::new()
        .dir("d")
        .file("d/kept", "1")
        .dir_of("d", 0o700, 0, 0)
        .dir("e")
        .file("e/gone", "1")
        .file("e", "file")
        .file("f", "file")
        .dir("f")
        .file("f/new", "2");
    jail.apply(&tar.end()).unwrap();
    assert_eq!((jail.read("d/kept"), jail.meta("d").mode() & 0o777), ("1".to_owned(), 0o700));
    assert!(!jail.is_opaque("d"));
    assert_eq!(jail.read("e"), "file");
    assert_eq!(jail.read("f/new"), "2");
    assert!(jail.is_opaque("f"), "the file hid the lower directory, so the directory after it must");
    jail.refuses(&Tar::new().file("x", "file").file("x/y", "below a file").end());
    jail.refuses(&Tar::new().file("./", "the root as a file").end());
}

#[test]
fn devices_and_fifos_are_made_as_they_are() {
    let jail = Jail::new("devices");
    let mut fifo = Head::new(b'6', "fifo", 0);
    fifo.octal(100, 8, 0o622).octal(108, 8, 5);
    let tar = Tar::new().device(b'3', "null", 1, 3).device(b'4', "disk", 7, 0).head(fifo).device(b'3', "wh", 0, 0);
    jail.apply(&tar.end()).unwrap();
    assert!(jail.meta("null").file_type().is_char_device());
    assert_eq!(jail.meta("null").rdev(), rustix::fs::makedev(1, 3));
    assert_eq!((jail.meta("null").mode() & 0o7777, jail.meta("null").mtime()), (0o644, 1_000_000_000));
    assert!(jail.meta("disk").file_type().is_block_device());
    assert!(jail.meta("fifo").file_type().is_fifo());
    assert_eq!((jail.meta("fifo").mode() & 0o7777, jail.meta("fifo").uid()), (0o622, 5));
    assert!(jail.is_whiteout("wh"));
}

#[test]
fn whiteouts_take_overlay_form() {
    let jail = Jail::new("whiteouts");
    let tar = Tar::new()
        .file("a/.wh.gone", "")
        .file("a/sibling", "1")
        .file("a/.wh..wh..opq", "")
        .file("a/late", "2")
        .file(".wh.back", "")
        .file("back", "again")
        .file(".wh.dir", "")
        .dir("dir")
        .file("dir/x", "3")
        .file(".wh.parent", "")
        .file("parent/x", "4")
        .dir("away")
        .file("away/x", "5")
        .file(".wh.away", "")
        .file(".wh.twice", "")
        .file(".wh.twice", "")
        .file(".wh..wh.aufs", "")
        .dir(".wh..wh.plnk")
        .file(".wh..wh.plnk/1.2", "x")
        .dir("b")
        .link(b'2', "b/.wh.link", "anywhere");
    let outcome = jail.apply(&tar.end()).unwrap();
    for path in ["a/gone", "away", "twice", "b/link"] {
        assert!(jail.is_whiteout(path), "{path}");
    }
    assert!(jail.is_opaque("a") && jail.is_opaque("dir") && jail.is_opaque("parent") && !jail.is_opaque("b"));
    assert_eq!(jail.read("a/sibling") + &jail.read("a/late") + &jail.read("back"), "12again");
    assert_eq!(jail.read("dir/x") + &jail.read("parent/x"), "34");
    let mut names: Vec<_> =
        fs::read_dir(jail.root()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["a", "away", "b", "back", "dir", "parent", "twice"]);
    let mut implicit = outcome.implicit;
    implicit.sort();
    assert_eq!(implicit, [&b""[..], b"a", b"parent"].map(<[u8]>::to_vec));
    assert!(!outcome.root_opaque);
    for bad in [".wh.", "a/.wh..", ".wh...", ".wh.x/y"] {
        jail.refuses(&Tar::new().file(bad, "").end());
    }
    assert!(jail.apply(&Tar::new().file(".wh..wh..opq", "").end()).unwrap().root_opaque);
}

#[test]
fn attributes_are_filtered() {
    let jail = Jail::new("xattrs");
    let records: &[(&str, &[u8])] = &[
        ("SCHILY.xattr.user.mine", b"a\0=\nb"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.security.capability", b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
    ];
    jail.apply(&Tar::new().pax(records).file("f", "x").pax(&records[..4]).dir("d").end()).unwrap();
    let names = |path: &str| {
        let file = fs::File::open(jail.root().join(path)).unwrap();
        let mut names = vec![0; 4096];
        let length = rustix::fs::flistxattr(&file, &mut names[..]).unwrap();
        let mut names: Vec<_> = names[..length]
            .split(|&b| b == 0)
            .filter(|n| !n.is_empty())
            .map(|n| String::from_utf8_lossy(n).into_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names("f"), ["security.capability", "user.mine"]);
    assert_eq!(names("d"), ["user.mine"]);
    let mut value = [0; 16];
    let file = fs::File::open(jail.root().join("f")).unwrap();
    assert_eq!(rustix::fs::fgetxattr(&file, "user.mine", &mut value[..]), Ok(5));
    assert_eq!(&value[..5], b"a\0=\nb");
}

#[test]
fn times_of_directories_come_last() {
    let jail = Jail::new("times");
    let mut negative = Head::new(b'5', "old", 0);
    negative.field(136, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe");
    let tar = Tar::new()
        .dir("d")
        .file("d/f", "x")
        .dir("d/e")
        .file("d/e/f", "y")
        .head(negative)
        .pax(&[("mtime", b"99999999999999999999.5")])
        .file("future", "");
    jail.apply(&tar.end()).unwrap();
    for path in ["d", "d/f", "d/e", "d/e/f"] {
        assert_eq!(jail.meta(path).mtime(), 1_000_000_000, "{path}");
    }
    assert_eq!(jail.meta("old").mtime(), -2);
    assert!(jail.meta("future").mtime() > 4_000_000_000);
}

#[test]
fn implicit_directories_are_known_by_their_real_path() {
    let jail = Jail::new("implicit");
    let tar = Tar::new().dir("./").dir("real").symlink("link", "real").file("link/x/y/f", "1").dir("real/x/y");
    let outcome = jail.apply(&tar.end()).unwrap();
    assert_eq!(outcome.implicit, [b"real/x".to_vec()]);
    assert_eq!(jail.meta("real/x").mode() & 0o7777, 0o755);
}

#[test]
fn sparse_files_have_holes() {
    let jail = Jail::new("sparse");
    let size = 1_u64 << 30;
    let mut map = b"2\n0\n4\n1048576\n4\n".to_vec();
    map.resize(512, 0);
    let tar = Tar::new()
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"one"),
            ("GNU.sparse.realsize", size.to_string().as_bytes()),
        ])
        .head(Head::new(b'0', "GNUSparseFile.0/one", 512 + 8))
        .data(&[&map[..], b"headmid!"].concat())
        .pax(&[("GNU.sparse.map", b"4096,4"), ("GNU.sparse.size", b"8192"), ("GNU.sparse.numblocks", b"1")])
        .file("zero-one", "four");
    let mut old = Head::new(b'S', "old", 4);
    old.field(257, b"ustar  \0").octal(386, 12, 8192).octal(398, 12, 4).octal(483, 12, 16384);
    let outcome = jail.apply(&tar.head(old).data(b"tail").end()).unwrap();
    assert_eq!((jail.meta("one").len(), jail.meta("one").blocks() < 64), (size, true));
    let one = fs::File::open(jail.root().join("one")).unwrap();
    let mut bytes = [1; 8];
    std::os::unix::fs::FileExt::read_exact_at(&one, &mut bytes, 1_048_574).unwrap();
    assert_eq!(&bytes, b"\0\0mid!\0\0");
    assert_eq!(jail.meta("zero-one").len(), 8192);
    assert_eq!(&fs::read(jail.root().join("zero-one")).unwrap()[4096..4100], b"four");
    assert_eq!(&fs::read(jail.root().join("old")).unwrap()[8192..8196], b"tail");
    assert_eq!(outcome.bytes, 16);
}

#[test]
fn limits_hold() {
    let jail = Jail::new("limits");
    let limited = |tar: Tar, limits: Limits| match jail.apply_with(&tar.end(), &limits) {
        Err(Error::Limit { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    let files = |count| (0..count).fold(Tar::new(), |tar, n| tar.file(&format!("f{n}"), "x"));
    assert_eq!(limited(files(11), Limits { entries: 10, ..Limits::default() }), "entries");
    assert_eq!(limited(files(11), Limits { stream_bytes: 5000, ..Limits::default() }), "bytes");
    let deep = "d/".repeat(1025) + "f";
    assert_eq!(limited(Tar::new().gnu_long(b'L', &deep).file("f", ""), Limits::default()), "components in a name");
    let long = "d/".repeat(2050);
    assert_eq!(limited(Tar::new().gnu_long(b'L', &long).file("f", ""), Limits::default()), "bytes in a name");
    assert_eq!(
        limited(Tar::new().pax(&[("path", long.as_bytes())]).file("f", ""), Limits::default()),
        "bytes in a name"
    );
    let big = vec![b'x'; (1 << 16) + 1];
    let tar = Tar::new().pax(&[("SCHILY.xattr.user.big", &big)]).file("f", "");
    assert_eq!(limited(tar, Limits::default()), "bytes in an extended attribute");
    let flood = vec![b'x'; 1 << 20];
    assert_eq!(
        limited(Tar::new().pax(&[("comment", &flood)]).file("f", ""), Limits::default()),
        "bytes in an extended header"
    );
    // Headers that never come to an entry count as entries.
    let globals = (0..20).fold(Tar::new(), |tar, _| tar.head(Head::new(b'g', "g", 0)));
    assert_eq!(limited(globals, Limits { entries: 10, ..Limits::default() }), "entries");
    // Padding after the end mark is bounded by the stream.
    let limits = Limits { stream_bytes: 100_000, ..Limits::default() };
    assert_eq!(limited(Tar::new().file("f", "x").raw(&[0; 200_000]), limits), "bytes");
}

#[test]
fn a_real_tree_comes_out_as_gnu_tar_makes_it() {
    let scratch = Scratch::new("differential");
    let source = scratch.path().join("source");
    make_tree(&source);
    for format in ["gnu", "pax", "ustar", "oldgnu"] {
        let archive = scratch.path().join(format!("{format}.tar"));
        let mut tar = Command::new("tar");
        tar.arg("--format").arg(format).args(["--numeric-owner", "-C"]).arg(&source).arg("-cf").arg(&archive);
        if format == "pax" || format == "gnu" {
            tar.arg("--sparse");
        }
        if format == "ustar" {
            // What that form cannot say.
            tar.args(["--exclude=./long*", "--exclude=./deep*", "--exclude=./owner"]);
        }
        assert!(tar.arg(".").status().unwrap().success(), "{format}");
        let (ours, theirs) =
            (scratch.path().join(format!("{format}-ours")), scratch.path().join(format!("{format}-tar")));
        fs::create_dir(&ours).unwrap();
        fs::create_dir(&theirs).unwrap();
        let untar = Command::new("tar").args(["--numeric-owner", "-xpf"]).arg(&archive).arg("-C").arg(&theirs).status();
        assert!(untar.unwrap().success());
        let root = fs::File::open(&ours).unwrap().into();
        let mut file = fs::File::open(&archive).unwrap();
        let outcome = extract(&mut Tree::new(root).unwrap(), &mut file, &Limits::default()).unwrap();
        assert_eq!(outcome.implicit, Vec::<Vec<u8>>::new());
        let (ours, theirs) = (listing(&ours), listing(&theirs));
        assert_eq!(ours, theirs, "{format}");
        assert!(ours.len() > 1000, "{format}: only {} bytes of listing", ours.len());
    }
}

fn make_tree(root: &Path) {
    fs::create_dir(root).unwrap();
    for n in 0..40 {
        fs::create_dir_all(root.join(format!("d{}/e{n}", n % 7))).unwrap();
        fs::write(root.join(format!("d{}/e{n}/file", n % 7)), vec![b'a' + n % 26; usize::from(n) * 997]).unwrap();
    }
    fs::write(root.join("big"), vec![7; 3 << 20]).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    for at in [0_u64, 1 << 20, 5 << 20, 40 << 20] {
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"data", at).unwrap();
    }
    sparse.set_len(64 << 20).unwrap();
    let many = fs::File::create(root.join("sparse-many")).unwrap();
    for n in 0..60_u64 {
        std::os::unix::fs::FileExt::write_all_at(&many, b"x", n << 16).unwrap();
    }
    symlink("d0/e0/file", root.join("link")).unwrap();
    symlink("t".repeat(300), root.join("long-link")).unwrap();
    fs::write(root.join("long-".to_owned() + &"n".repeat(200)), "long").unwrap();
    let deep = root.join("deep/".to_owned() + &"directory/".repeat(40));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("end"), "x").unwrap();
    fs::hard_link(root.join("big"), root.join("d1/big-again")).unwrap();
    fs::write(root.join("owner"), "x").unwrap();
    std::os::unix::fs::chown(root.join("owner"), Some(3_000_000_000), Some(70_000)).unwrap();
    for (name, mode) in [("suid", 0o4755), ("sgid", 0o2711), ("none", 0o000)] {
        fs::write(root.join(name), "x").unwrap();
        std::os::unix::fs::chown(root.join(name), Some(1000), Some(100)).unwrap();
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::set_permissions(root.join("d2"), fs::Permissions::from_mode(0o3770)).unwrap();
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"bytes \xff\n")), "x").unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, root.join("fifo"), Mode::RWXU).unwrap();
}

/// What find(1) says of a tree, and a checksum per file.
fn listing(root: &Path) -> String {
    let find = Command::new("find")
        .current_dir(root)
        .args([".", "-type", "d", "-printf", "%P|%y|%m|%U|%G|%n|%l|%T@\n"])
        .args(["-o", "-printf", "%P|%y|%m|%U|%G|%n|%l|%T@|%s\n"])
        .output()
        .unwrap();
    let sums = Command::new("sh")
        .current_dir(root)
        .args(["-c", "find . -type f -print0 | LC_ALL=C sort -z | xargs -0 cksum"])
        .output()
        .unwrap();
    assert!(find.status.success() && sums.status.success());
    let mut lines: Vec<_> =
        find.stdout.split(|&b| b == b'\n').map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    lines.sort();
    lines.join("\n") + &String::from_utf8_lossy(&sums.stdout)
}

#[test]
fn pax_records_of_archives_and_their_own_lengths() {
    assert_eq!(record("path", b"a/b"), b"12 path=a/b\n");
    assert_eq!(record("k", &[b'v'; 93]).len(), 99);
    assert_eq!(record("k", &[b'v'; 94]).len(), 101);
}
