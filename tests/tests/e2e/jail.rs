//! The process that unpacks a layer: what it may do, seen from outside while a pull is on its way, and what becomes of the
//! pull when it ends before its time.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use testkit::http::{Body, Server, shelf};
use testkit::image::Packing;
use testkit::process::Running;
use testkit::tarball::Tar;
use testkit::{Host, Image, wait};

use crate::registries::big;

/// CHOWN, DAC_OVERRIDE, FOWNER, FSETID, MKNOD and SETFCAP (linux/capability.h).
const CAPABILITIES: &str = "000000008800001b";

/// A registry that gives large blobs slowly, every time.
fn slow() -> Server {
    let layout = big();
    Server::start(move |request| {
        let right = shelf(&layout, request);
        match right.body.clone() {
            Body::Whole(bytes) if request.path.contains("/blobs/") && bytes.len() > 1 << 20 => {
                right.body(Body::Slow(bytes, 128 << 10, Duration::from_millis(200)))
            }
            _ => right,
        }
    })
}

/// The processes that `parent` unpacks layers in.
fn jails(parent: i32) -> Vec<i32> {
    let processes = fs::read_dir("/proc").expect("processes").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_one = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(b"lighter-unpack") && field(*pid, "PPid").as_deref() == Some(&parent.to_string())
    };
    pids.filter(is_one).collect()
}

/// A field of a process's status.
fn field(pid: i32, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.split(':').next() == Some(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// A pull of the slow image, and the process that has begun to write its large layer.
fn pulling(host: &Host, server: &Server) -> (Running, i32) {
    let pull = host.spawn(&["pull", &format!("{}/app:1", server.address())]);
    let parent = pull.pid();
    let jail = wait::until("a layer is being unpacked", Duration::from_secs(20), || {
        let noise = staged(host).into_iter().find(|dir| dir.join("noise").exists())?;
        let inode = noise.metadata().ok()?.ino();
        let is_it = |pid: &i32| fs::metadata(format!("/proc/{pid}/root")).is_ok_and(|root| root.ino() == inode);
        jails(parent).into_iter().find(is_it)
    });
    (pull, jail)
}

/// The trees of layers that are being made.
fn staged(host: &Host) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(host.root().join("layers/.staging")) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path().join("diff")).collect()
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).expect("a pid"), signal).expect("it is alive");
}

/// Every mount that somebody outside can come by.
fn known_mounts() -> BTreeSet<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    text.lines().filter_map(|line| Some(line.split(' ').next()?.to_owned())).collect()
}

#[test]
fn the_unpacking_process_has_its_layer_and_nothing_else() {
    let host = Host::new();
    let server = slow();
    let (pull, jail) = pulling(&host, &server);
    assert_eq!(field(jail, "Seccomp").as_deref(), Some("2"));
    assert_eq!(field(jail, "NoNewPrivs").as_deref(), Some("1"));
    assert_eq!(field(jail, "Threads").as_deref(), Some("1"));
    for set in ["CapEff", "CapPrm"] {
        assert_eq!(field(jail, set).as_deref(), Some(CAPABILITIES), "{set}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(field(jail, set).as_deref(), Some("0000000000000000"), "{set}");
    }
    let layer = staged(&host).into_iter().find(|dir| dir.join("noise").exists()).expect("the layer");
    let place = |meta: &fs::Metadata| (meta.dev(), meta.ino());
    let layer = place(&layer.metadata().expect("a directory"));
    for link in ["root", "cwd"] {
        let meta = fs::metadata(format!("/proc/{jail}/{link}")).expect("readable by root");
        assert_eq!(place(&meta), layer, "{link}");
    }
    let (mut pipes, mut others, mounts) = (0, 0, known_mounts());
    for entry in fs::read_dir(format!("/proc/{jail}/fd")).expect("descriptors").flatten() {
        let number = entry.file_name().into_string().expect("a number");
        if fs::metadata(entry.path()).expect("an open file").file_type().is_fifo() {
            pipes += 1;
            continue;
        }
        others += 1;
        let info = fs::read_to_string(format!("/proc/{jail}/fdinfo/{number}")).expect("its mount");
        let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:")).expect("its mount").trim().to_owned();
        assert!(!mounts.contains(&mount), "descriptor {number} leads to a mount of the host's: {info}");
    }
    assert_eq!(pipes, 2, "the archive and the report");
    // The root, the directory written to and the file.
    assert!((1..=3).contains(&others), "{others}");
    let limits = fs::read_to_string(format!("/proc/{jail}/limits")).expect("limits");
    for name in ["Max core file size", "Max processes"] {
        let line = limits.lines().find(|line| line.starts_with(name)).expect("a limit");
        assert!(line[name.len()..].split_whitespace().take(2).eq(["0", "0"]), "{line}");
    }
    pull.finish(Duration::from_secs(60)).ok();
    assert!(!Path::new(&format!("/proc/{jail}")).exists(), "it is collected");
    host.lighter(&["run", "--rm", &format!("{}/app:1", server.address()), "ls", "/noise"]).ok();
}

#[test]
fn a_killed_unpacking_is_said_and_leaves_nothing() {
    for (how, words) in [(Signal::KILL, "killed by signal 9"), (Signal::ABORT, "killed by signal 6")] {
        let host = Host::new();
        let server = slow();
        let (pull, jail) = pulling(&host, &server);
        signal(jail, how);
        let output = pull.finish(Duration::from_secs(30));
        output.rejected(words);
        output.explains("cannot unpack layer");
        assert_eq!(host.lighter(&["images", "-q"]).ok().out(), "");
        assert_eq!(staged(&host), Vec::<PathBuf>::new());
        let check = host.lighter(&["store", "check"]);
        assert!(check.ok().out().contains("sound:"), "{check}");
        host.lighter(&["pull", &format!("{}/app:1", server.address())]).ok();
        assert!(host.lighter(&["store", "check"]).ok().out().contains("sound:"));
    }
}

#[test]
fn an_unpacking_ends_with_its_pull() {
    let host = Host::new();
    let server = slow();
    let (pull, jail) = pulling(&host, &server);
    pull.signal(Signal::KILL);
    pull.finish(Duration::from_secs(10)).exits(137);
    let gone = || !Path::new(&format!("/proc/{jail}/root")).exists() || field(jail, "State").is_none();
    assert!(wait::becomes_true(Duration::from_secs(5), gone), "{:?}", field(jail, "State"));
}

#[test]
fn what_takes_privileges_is_unpacked_all_the_same() {
    // A capability as files carry it (linux/capability.h, VFS_CAP_REVISION_2, effective): CAP_NET_RAW.
    let capability = "\u{1}\0\0\u{2}\0\u{20}\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let tar = Tar::new()
        .dir("dev", 0o755)
        .device(b'3', "dev/mem", 1, 1)
        .device(b'4', "dev/disk", 8, 0)
        .pax(&[("SCHILY.xattr.security.capability", capability)])
        .owned("ping", 0o4755, (70_000, 70_001), b"a program")
        .pax(&[("SCHILY.xattr.trusted.mark", "kept"), ("SCHILY.xattr.trusted.overlay.opaque", "y")])
        .file("marked", 0o600, b"")
        .pax(&[("SCHILY.xattr.trusted.mark", "on a directory")])
        .dir("dir", 0o2770)
        .file("dir/.wh..wh..opq", 0, b"")
        .file(".wh.gone", 0, b"")
        .finish();
    let host = Host::new();
    let lower = Tar::new().dir("dir", 0o755).file("dir/hidden", 0o644, b"x").file("gone", 0o644, b"x").finish();
    host.load(&Image::empty("odd:1").layer(lower).layer(tar));
    let layers = fs::read_dir(host.root().join("layers")).expect("layers").flatten();
    let layer = layers.map(|entry| entry.path().join("diff")).find(|diff| diff.join("ping").exists()).expect("it");
    let device = |name: &str| {
        let meta = layer.join(name).symlink_metadata().expect("a device");
        (meta.file_type().is_char_device(), rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()), meta.mode())
    };
    assert_eq!(device("dev/mem"), (true, 1, 1, 0o020_666));
    assert_eq!(device("dev/disk"), (false, 8, 0, 0o060_666));
    let (character, major, minor, _) = device("gone");
    assert_eq!((character, major, minor), (true, 0, 0), "a whiteout");
    let ping = layer.join("ping").metadata().expect("a file");
    assert_eq!((ping.uid(), ping.gid(), ping.permissions().mode() & 0o7777), (70_000, 70_001, 0o4755));
    let attribute = |file: &str, name: &str| {
        let mut value = [0; 100];
        rustix::fs::lgetxattr(layer.join(file), name, &mut value[..]).map(|length| value[..length].to_vec())
    };
    assert_eq!(attribute("ping", "security.capability").as_deref(), Ok(capability.as_bytes()));
    assert_eq!(attribute("marked", "trusted.mark").as_deref(), Ok(&b"kept"[..]));
    assert_eq!(attribute("marked", "trusted.overlay.opaque"), Err(rustix::io::Errno::NODATA));
    assert_eq!(attribute("dir", "trusted.mark").as_deref(), Ok(&b"on a directory"[..]));
    assert_eq!(attribute("dir", "trusted.overlay.opaque").as_deref(), Ok(&b"y"[..]));
    assert_eq!(layer.join("dir").metadata().expect("a directory").mode() & 0o7777, 0o2770);
    assert!(host.lighter(&["store", "check"]).ok().out().contains("sound:"));
}

#[test]
fn what_is_wrong_with_an_archive_is_still_told_in_full() {
    let host = Host::new();
    let broken = Tar::new().file("a/b", 0o644, b"x").finish();
    for (layer, words) in [
        (Tar::new().file("../escape", 0o644, b"x").finish(), "is refused"),
        (Tar::new().hardlink("a", "b").finish(), "the hard link's target is not in the layer"),
        (broken[..broken.len() - 1024].to_vec(), "truncated"),
    ] {
        let archive = Image::empty("bad:1").layer(layer).oci_layout(Packing::Gzip).tar();
        let output = host.lighter_reading(&["load"], &archive);
        output.rejected(words);
        output.explains("cannot unpack layer");
    }
    assert_eq!(host.lighter(&["images", "-q"]).ok().out(), "");
}
