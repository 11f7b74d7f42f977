//! File systems of a container: its own, the host's directories, memory.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use testkit::Host;

#[test]
fn a_containers_files_are_its_own() {
    let host = Host::new();
    let layer = testkit::Tar::new().file("srv/kept", 0o644, b"1").file("srv/removed", 0o644, b"1");
    host.load(&testkit::Image::busybox("busybox:latest").layer(layer.finish()));
    host.detached(&["--name", "one"], &["sleep", "1000"]);
    host.detached(&["--name", "two"], &["sleep", "1000"]);
    host.assert_exec_is_inside("one");
    host.lighter(&["exec", "one", "sh", "-c", "echo x >/srv/new; rm /srv/removed; chown 1000:1000 /srv/kept"]).ok();
    let pristine = "[ ! -e /srv/new ] && [ -e /srv/removed ] && [ $(stat -c %u /srv/kept) = 0 ]";
    let changed = "[ -e /srv/new ] && [ ! -e /srv/removed ] && [ $(stat -c %u /srv/kept) = 1000 ]";
    host.lighter(&["exec", "two", "sh", "-c", pristine]).ok();
    host.sh(&[], pristine).ok();
    host.lighter(&["exec", "one", "sh", "-c", changed]).ok();
    host.lighter(&["stop", "-t", "0", "one"]).ok();
    host.lighter(&["start", "one"]).ok();
    host.lighter(&["exec", "one", "sh", "-c", changed]).ok();
}

#[test]
fn bound_directories_keep_their_owners_on_both_sides() {
    let host = Host::with_busybox();
    let dir = host.scratch("shared");
    std::fs::write(dir.join("old"), "from the host").expect("write");
    chown(dir.join("old"), Some(1000), Some(1001)).expect("chown");
    std::fs::set_permissions(dir.join("old"), PermissionsExt::from_mode(0o640)).expect("chmod");
    let bind = format!("{}:/data", dir.display());
    let output = host.sh(&["-v", &bind], "stat -c '%u %g %a' /data/old; echo new >/data/new; chown 7:8 /data/new");
    assert_eq!(output.ok().out(), "1000 1001 640");
    let new = std::fs::metadata(dir.join("new")).expect("made by the container");
    assert_eq!((new.uid(), new.gid()), (7, 8));
    host.sh(&["-v", &bind, "-u", "alice"], "echo more >>/data/old").exits(0);
    host.sh(&["-v", &bind, "-u", "bob:bob"], "echo more >>/data/old").exits(1);
}

#[test]
fn ro_binds_and_read_only_roots_cannot_be_written() {
    let host = Host::with_busybox();
    let dir = host.scratch("shared");
    std::fs::create_dir(dir.join("below")).expect("mkdir");
    let bind = format!("{}:/data:ro", dir.display());
    for script in ["echo x >/data/x", "touch /data/below/x", "mount -o remount,rw /data && echo x >/data/x"] {
        assert_ne!(host.sh(&["-v", &bind], script).status, 0, "{script}");
    }
    assert_eq!(std::fs::read_dir(&dir).expect("list").count(), 1);
    host.sh(&["--read-only"], "touch /x").exits(1);
    host.sh(&["--read-only"], "touch /etc/hosts").exits(1);
    host.sh(&["--read-only", "--tmpfs", "/run", "--tmpfs", "/tmp:size=1m,mode=1777"], "touch /run/x /tmp/x /dev/shm/x")
        .ok();
    host.sh(&["--read-only", "-v", &format!("{}:/rw", dir.display())], "touch /rw/written").ok();
    assert!(dir.join("written").exists());
}

#[test]
fn tmpfs_has_the_size_and_mode_asked_for() {
    let host = Host::with_busybox();
    let output = host.sh(&["--tmpfs", "/mem:size=1m,mode=0700"], "stat -c %a /mem; head -c 2000000 /dev/zero >/mem/x");
    assert_eq!(output.exits(1).out(), "700");
    assert_eq!(
        host.sh(&["--tmpfs", "/mem:size=1m"], "df -k /mem | tail -n 1 | tr -s ' ' | cut -d' ' -f2").ok().out(),
        "1024"
    );
    host.sh(&["--tmpfs", "/mem:size=lots"], "true").refused(125, "lots");
}

#[test]
fn binds_are_checked_before_anything_starts() {
    let host = Host::with_busybox();
    host.sh(&["-v", "relative/path:/data/../.."], "true").refused(125, "");
    host.sh(&["-v", "/tmp:relative"], "true").refused(125, "relative");
    host.sh(&["-v", "/tmp:/x:sometimes"], "true").refused(125, "sometimes");
    host.sh(&["-v", "/tmp:/"], "true").refused(125, "/");
    // CVE-2015-3631, CVE-2019-16884: nothing may lie over /proc.
    let dir = host.scratch("proc").display().to_string();
    host.sh(&["-v", &format!("{dir}:/proc")], "true").refused(125, "/proc");
    host.assert_clean();
}

#[test]
fn a_file_can_be_bound_and_mount_points_are_made() {
    let host = Host::with_busybox();
    let file = host.scratch("shared").join("file");
    std::fs::write(&file, "content").expect("write");
    let bind = format!("{}:/deep/er/file:ro", file.display());
    assert_eq!(host.sh(&["-v", &bind], "cat /deep/er/file").ok().out(), "content");
}

/// CVE-2019-19921 and its family: a mount point that is a symlink stays inside the root.
#[test]
fn mount_points_that_are_symlinks_resolve_inside() {
    let host = Host::new();
    let bait = host.bait().parent().expect("a directory").display().to_string();
    let layer = testkit::Tar::new().symlink("escape", &bait).symlink("up", "../../../../../../..").finish();
    host.load(&testkit::Image::busybox("links:1").layer(layer));
    let dir = host.scratch("shared");
    std::fs::write(dir.join("mark"), "shared").expect("write");
    for target in ["/escape/sub", "/up/etc/sub", "/escape"] {
        let bind = format!("{}:{target}", dir.display());
        let output = host.lighter(&["run", "--rm", "-v", &bind, "links:1", "cat", &format!("{target}/mark")]);
        assert!(matches!(output.status, 0 | 125..=127), "{output}");
    }
    let entries = std::fs::read_dir(&bait).expect("list").count();
    assert_eq!(entries, 1, "nothing was made beside the bait");
}

#[test]
fn standard_devices_are_there_and_only_they() {
    let host = Host::with_busybox();
    let output =
        host.sh(&[], "ls /dev; head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c; echo x >/dev/null");
    let text = output.ok().out();
    let names: Vec<&str> = text.lines().collect();
    for name in
        ["fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"]
    {
        assert!(names.contains(&name), "{name} in {text}");
    }
    for name in ["sda", "vda", "mem", "kmsg", "kvm", "fuse", "loop0", "loop-control", "console"] {
        assert!(!names.contains(&name), "{name} in {text}");
    }
    assert_eq!(names.iter().filter(|line| **line == "4").count(), 2, "{text}");
}
