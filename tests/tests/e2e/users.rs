//! Who the command runs as: names, numbers, and strings that try to become root.

use testkit::{Host, Image};

/// Lines that a sloppy reader takes for root, or trips over.
const TRAPS: &str = "root:x:0:0:root:/root:/bin/sh
alice:x:1000:1000:Alice:/home/alice:/bin/sh
4294967296:x:0:0:trap:/:/bin/sh
-1:x:0:0:trap:/:/bin/sh
99999999999999999999:x:0:0:trap:/:/bin/sh
empty:x:::trap:/:/bin/sh
words:x:zero:zero:trap:/:/bin/sh
huge:x:4294967296:4294967296:trap:/:/bin/sh
minus:x:-1:-1:trap:/:/bin/sh
short:x
:::::
\0\u{1}binary:x:0:0

1:x:0:0:named like a number:/:/bin/sh
";

#[test]
fn users_are_found_by_name_and_number() {
    let host = Host::with_busybox();
    let id = |user: &str| host.sh(&["-u", user], "id; echo $HOME").ok().out();
    let alice = id("alice");
    assert!(alice.starts_with("uid=1000(alice) gid=1000(alice) groups="), "{alice}");
    assert!(alice.contains("50(staff)") && alice.ends_with("\n/home/alice"), "{alice}");
    assert_eq!(host.sh(&["-u", "1000"], "id -u; id -g").ok().out(), "1000\n1000");
    assert_eq!(host.sh(&["-u", "4242"], "id -u; id -g; echo $HOME").ok().out(), "4242\n0\n/");
    assert_eq!(host.sh(&["-u", "4242:77"], "id -u; id -g").ok().out(), "4242\n77");
    assert_eq!(host.sh(&["-u", "alice:staff"], "id -u; id -g").ok().out(), "1000\n50");
    assert_eq!(host.sh(&["-u", "bob:1000"], "id -un; id -gn").ok().out(), "bob\nalice");
    assert_eq!(host.sh(&[], "id -u; id -g").ok().out(), "0\n0");
}

#[test]
fn unknown_users_are_refused() {
    let host = Host::with_busybox();
    host.sh(&["-u", "nobody-here"], "true").refused(125, "nobody-here");
    host.sh(&["-u", "alice:no-group"], "true").refused(125, "no-group");
    host.load(&Image::busybox("user:1").set("User", "who".into()));
    host.lighter(&["run", "--rm", "user:1", "true"]).refused(125, "who");
    host.assert_clean();
}

/// R12, CVE-2016-3697, CVE-2024-40635, CVE-2026-46680, CVE-2026-30892.
#[test]
fn no_user_string_becomes_root() {
    let host = Host::new();
    host.load(&Image::busybox("traps:1").file("etc/passwd", 0o644, TRAPS.as_bytes()));
    host.lighter(&["run", "-d", "--name", "box", "traps:1", "sleep", "1000"]).ok();
    let refused = [
        "4294967296",
        "4294967295",
        "-1",
        "99999999999999999999",
        "1000x",
        "0x0",
        "+0",
        "empty",
        "words",
        "huge",
        "minus",
        "short",
        "1000:-1",
        "1000:4294967296",
    ];
    for user in refused {
        let run = host.lighter(&["run", "--rm", "-u", user, "traps:1", "id", "-u"]);
        run.refused(125, "");
        assert_eq!(run.out(), "", "{run}");
        let exec = host.lighter(&["exec", "-u", user, "box", "id", "-u"]);
        assert_ne!(exec.status, 0, "{exec}");
        assert_eq!(exec.out(), "", "{exec}");
        host.load(&Image::busybox("trapped:1").file("etc/passwd", 0o644, TRAPS.as_bytes()).set("User", user.into()));
        let image = host.lighter(&["run", "--rm", "trapped:1", "id", "-u"]);
        assert_ne!(image.status, 0, "{image}");
        assert_eq!(image.out(), "", "{image}");
    }
    // A number is a number, whatever the file calls by it.
    assert_eq!(host.lighter(&["run", "--rm", "-u", "1", "traps:1", "id", "-u"]).ok().out(), "1");
    assert_eq!(host.lighter(&["exec", "-u", "1", "box", "id", "-u"]).ok().out(), "1");
    assert_eq!(host.lighter(&["exec", "-u", "1000", "box", "id", "-u"]).ok().out(), "1000");
}

/// CVE-2022-36109: a file that denies a group stays denied to it.
#[test]
fn supplementary_groups_are_set_for_run_and_exec() {
    let host = Host::new();
    let denied = testkit::Tar::new().owned("denied", 0o604, (0, 50), b"secret").finish();
    host.load(&Image::busybox("groups:1").layer(denied));
    host.lighter(&["run", "--rm", "-u", "alice", "groups:1", "cat", "/denied"]).exits(1);
    host.lighter(&["run", "--rm", "-u", "bob", "groups:1", "cat", "/denied"]).ok();
    host.lighter(&["run", "-d", "--name", "box", "groups:1", "sleep", "1000"]).ok();
    host.lighter(&["exec", "-u", "alice", "box", "cat", "/denied"]).exits(1);
    // None of the caller's own groups come in.
    assert_eq!(host.lighter(&["exec", "-u", "4242:4242", "box", "id", "-G"]).ok().out(), "4242");
}

/// CVE-2024-9341, CVE-2024-9676, CVE-2026-47262: the files are the container's, and bounded.
#[test]
fn user_files_that_are_no_files_end_quickly() {
    let host = Host::new();
    let bait = host.bait().display().to_string();
    let layers = [
        ("a fifo", testkit::Tar::new().entry(&testkit::tarball::Entry::new(b'6', "etc/passwd"))),
        ("a device", testkit::Tar::new().device(b'3', "etc/passwd", 1, 5)),
        ("a link to the host", testkit::Tar::new().symlink("etc/passwd", &bait)),
        ("a link to itself", testkit::Tar::new().symlink("etc/passwd", "passwd")),
        ("a directory", testkit::Tar::new().dir("etc/passwd", 0o755)),
        ("many groups", testkit::Tar::new().file("etc/group", 0o644, &b"g:x:1:alice\n".repeat(2_000_000))),
    ];
    for (n, (what, layer)) in layers.into_iter().enumerate() {
        let name = format!("odd:{n}");
        host.load(&Image::busybox(&name).layer(layer.finish()));
        let output = host.lighter(&["run", "--rm", "-u", "alice", &name, "id", "-u"]);
        assert!(output.status == 125 || output.out() == "1000", "{what}\n{output}");
        assert!(output.took < testkit::wait::patient(std::time::Duration::from_secs(60)), "{what}\n{output}");
        assert!(!output.err().contains("bait\n"), "{what}: no line of a host's file is shown\n{output}");
    }
}
