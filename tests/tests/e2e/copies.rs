//! A data root whose file system cannot hold the writable layer of an overlay: containers get copies of their image.

use std::path::PathBuf;

use testkit::process::tool;
use testkit::tarball::Tar;
use testkit::{Host, Image};

/// An overlay, on which no other overlay can write; unmounted and removed on drop.
struct Refusing {
    dir: PathBuf,
}

impl Refusing {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("lighter-refusing-{name}-{}", std::process::id()));
        let path = |name: &str| dir.join(name).display().to_string();
        for name in ["lower", "upper", "work", "merged"] {
            std::fs::create_dir_all(dir.join(name)).expect("mkdir");
        }
        let options = format!("lowerdir={},upperdir={},workdir={}", path("lower"), path("upper"), path("work"));
        tool("mount", &["-t", "overlay", "overlay", "-o", &options, &path("merged")]);
        Self { dir }
    }

    fn root(&self) -> PathBuf {
        self.dir.join("merged/root")
    }
}

impl Drop for Refusing {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount").arg(self.dir.join("merged")).status();
        if unmounted.is_ok_and(|status| status.success()) {
            drop(std::fs::remove_dir_all(&self.dir));
        }
    }
}

#[test]
fn containers_run_on_copies() {
    let disk = Refusing::new("runs");
    let mut host = Host::new();
    host.set_root(disk.root());
    let tar = Tar::new().owned("mine", 0o4751, (5, 6), b"of the image").symlink("link", "mine").finish();
    host.load(&Image::busybox("busybox:latest").layer(tar));
    let output = host.lighter(&["run", "--rm", "--network", "none", "busybox", "stat", "-c", "%a %u %g", "/mine"]);
    assert_eq!(output.ok().out(), "4751 5 6");
    assert!(output.err().contains("gets a copy of the image"), "{output}");
    assert_eq!(host.lighter(&["ps", "-aq"]).ok().out(), "");
    // What it writes is its own, and stays until it is removed.
    let script = "cat /link; cat /file || echo written > /file";
    let create = ["create", "--name", "kept", "--network", "none", "busybox", "sh", "-c", script];
    let id = host.lighter(&create).ok().out();
    assert_eq!(host.lighter(&["start", "-a", "kept"]).ok().out(), "of the image");
    assert_eq!(host.lighter(&["start", "-a", "kept"]).ok().out(), "of the imagewritten");
    let file = host.scratch("export").join("kept.tar");
    host.lighter(&["export", "-o", &file.display().to_string(), "kept"]).ok();
    let names = tool("tar", &["-tf", &file.display().to_string()]);
    assert!(names.lines().any(|name| name == "file") && names.lines().any(|name| name == "mine"), "{names}");
    let other = host.lighter(&["run", "--rm", "--network", "none", "busybox", "ls", "/file"]);
    assert_ne!(other.status, 0, "{other}");
    let dir = host.root().join("containers").join(&id);
    assert!(dir.join("rootfs/file").exists());
    host.lighter(&["rm", "kept"]).ok();
    assert!(!dir.exists());
    let never = ["create", "--name", "never", "--network", "none", "busybox", "true"];
    host.lighter(&never).ok();
    host.lighter(&["export", "-o", &file.display().to_string(), "never"]).ok();
    assert!(tool("tar", &["-tf", &file.display().to_string()]).lines().any(|name| name == "bin/busybox"));
    host.lighter(&["rm", "never"]).ok();
    host.lighter(&["rmi", "busybox"]).ok();
    assert!(host.lighter(&["store", "check"]).ok().out().contains("sound:"));
    host.assert_clean();
    drop(host);
    drop(disk);
}

#[test]
fn what_cannot_be_unpacked_there_is_said() {
    let disk = Refusing::new("whiteouts");
    let mut host = Host::new();
    host.set_root(disk.root());
    // An overlay has no whiteouts of its own in it.
    let archive =
        Image::busybox("less:1").layer(Tar::new().file("bin/.wh.cat", 0, b"").finish()).docker_archive().tar();
    let output = host.lighter_reading(&["load", "-q"], &archive);
    output.rejected("mknodat bin/cat");
    assert_eq!(host.lighter(&["images", "-q"]).ok().out(), "");
    assert!(host.lighter(&["store", "check"]).ok().out().contains("sound:"));
    host.assert_clean();
    drop(host);
    drop(disk);
}
