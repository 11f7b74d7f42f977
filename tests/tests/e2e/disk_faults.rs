//! A disk that is full, out of inodes or broken, and a kill, at every step of what writes: the command fails or succeeds as a
//! whole, nothing half-made is visible, and the next command works.
//!
//! `strace` makes single system calls fail, or kills at them. That is the one way to meet every step: a disk that is full at
//! some point is full at the next as well.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use testkit::image::Packing;
use testkit::process::{Output, tool};
use testkit::registry::Registry;
use testkit::tarball::Tar;
use testkit::{Host, Image, wait};

const DEADLINE: Duration = Duration::from_secs(120);

/// Calls that write, grouped as a disk refuses them; those that a command may not make at all are known to strace anyway.
const WRITES: &str = "write,pwrite64,ftruncate";
const NAMES: &str = "mkdirat,mkdir,mknodat,symlinkat,linkat,renameat,renameat2";
const SYNCS: &str = "fsync,fdatasync,syncfs";
const ATTRIBUTES: &str = "fchmod,fchown,fchownat,utimensat,fsetxattr";

/// The occurrences of a call at which something happens: each of the first, fewer of the later ones.
fn moments() -> impl Iterator<Item = u32> {
    (1..=10).chain([12, 14, 17, 20, 24, 29, 35, 42, 50, 60, 80])
}

/// Runs `lighter ARGS` with `what` done to the `moment`th call of `calls` in each of its threads and processes. `None` when
/// there were no so many.
fn with_fault(host: &Host, args: &[&str], calls: &str, what: &str, moment: u32) -> Option<Output> {
    let log = host.scratch("faults").join("log");
    let line = host.command(args);
    let mut command = Command::new("strace");
    command.args(["-f", "-qqq", "-o"]).arg(&log);
    command.arg("-e").arg(format!("trace={calls}")).arg("-e").arg(format!("inject={calls}:{what}:when={moment}"));
    command.arg("--").arg(line.get_program()).args(line.get_args());
    command.env_clear().envs(line.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdin(std::process::Stdio::null());
    let output = host.finish(command, None, DEADLINE);
    let text = std::fs::read_to_string(&log).expect("strace writes a log");
    (text.contains("(INJECTED)") || text.contains("killed by SIGKILL")).then_some(output)
}

/// Every fault at every moment of `args`, with `before` it and `after` it.
#[track_caller]
fn at_every_step(
    host: &Host,
    args: &[&str],
    faults: &[(&str, &str)],
    before: impl Fn(),
    after: impl Fn(&Output, &str),
) {
    let mut met = 0;
    for (calls, what) in faults {
        for moment in moments() {
            before();
            let Some(output) = with_fault(host, args, calls, what, moment) else { break };
            met += 1;
            let when = format!("{what} at call {moment} of {calls}\n{output}");
            assert!(!output.err().contains("panicked"), "{when}");
            assert!([0, 1, 125, 137].contains(&output.status), "{when}");
            let check = host.lighter(&["store", "check"]);
            assert_eq!(check.status, 0, "{when}{check}");
            after(&output, &when);
        }
    }
    assert!(met >= faults.len(), "only {met} faults were met: is strace at work?");
}

const FULL: &str = "error=ENOSPC";
const BROKEN: &str = "error=EIO";
const KILLED: &str = "signal=KILL";

fn archive(host: &Host) -> String {
    let tar = Tar::new()
        .dir("etc", 0o755)
        .owned("etc/file", 0o640, (5, 6), &[7; 5000])
        .symlink("etc/link", "file")
        .hardlink("etc/second", "etc/file")
        .device(b'3', "null", 1, 3)
        .file("etc/.wh..wh..opq", 0, b"")
        .finish();
    let file = host.scratch("archives").join("box.tar");
    std::fs::write(&file, Image::busybox("box:1").layer(tar).oci_layout(Packing::Gzip).tar()).expect("an archive");
    file.display().to_string()
}

#[test]
fn a_load_meets_every_fault() {
    let host = Host::new();
    let file = archive(&host);
    let faults = [
        (WRITES, FULL),
        (WRITES, BROKEN),
        (NAMES, FULL),
        (NAMES, KILLED),
        (SYNCS, BROKEN),
        (SYNCS, KILLED),
        (ATTRIBUTES, FULL),
        (ATTRIBUTES, KILLED),
    ];
    let before = || {
        host.lighter(&["rmi", "-f", "box:1"]);
    };
    at_every_step(&host, &["load", "-q", "-i", &file], &faults, before, |output, when| {
        let here = !host.lighter(&["images", "-q"]).ok().out().is_empty();
        assert!(here || output.status != 0, "{when}: it is not there");
        if here {
            let run = host.lighter(&["run", "--rm", "--network", "none", "box:1", "cat", "/etc/second"]);
            assert_eq!(run.status, 0, "{when}\n{run}");
            host.lighter(&["rmi", "-f", "box:1"]).ok();
        }
        let check = host.lighter(&["store", "check"]);
        assert_eq!(check.status, 0, "{when}{check}");
    });
    host.lighter(&["load", "-q", "-i", &file]).ok();
    let report = host.lighter(&["store", "check", "--deep", "--format", "json"]).ok().json();
    assert_eq!(report["Compared"], 2, "{report}");
    host.lighter(&["image", "prune", "-af"]).ok();
    let report = host.lighter(&["store", "check", "--format", "json"]).ok().json();
    assert_eq!(report["Leftovers"].as_array().map(Vec::len), Some(0), "everything can go: {report}");
}

#[test]
fn names_of_images_meet_every_fault() {
    let host = Host::new();
    host.load(&Image::busybox("box:1"));
    let faults = [(WRITES, FULL), (NAMES, BROKEN), (NAMES, KILLED), (SYNCS, BROKEN)];
    let before = || {
        host.lighter(&["untag", "box:1", "box:2"]);
    };
    at_every_step(&host, &["tag", "box:1", "box:2"], &faults, before, |output, when| {
        let names = host.lighter(&["images", "--format", "{{.Repository}}:{{.Tag}}"]).ok().out();
        assert!(names.contains("box:1"), "{when}: {names}");
        assert!(output.status != 0 || names.contains("box:2"), "{when}: {names}");
    });
    host.lighter(&["tag", "box:1", "box:3"]).ok();
}

#[test]
fn a_create_and_a_run_meet_every_fault() {
    let host = Host::new();
    host.load(&Image::busybox("busybox:latest"));
    let create = ["create", "--name", "made", "-v", "vol:/data", "busybox", "true"];
    let before = || {
        host.lighter(&["rm", "-f", "made"]);
    };
    let faults = [(WRITES, FULL), (NAMES, FULL), (NAMES, KILLED), (SYNCS, BROKEN), (ATTRIBUTES, BROKEN)];
    at_every_step(&host, &create[..], &faults, before, |output, when| {
        // There is a whole container or none, and the name is free in the second case.
        let listed = host.lighter(&["ps", "-aq"]).ok().out().lines().count();
        if output.status == 0 {
            assert_eq!(listed, 1, "{when}");
        }
        if listed == 0 {
            host.lighter(&create).ok();
        }
        let start = host.lighter(&["start", "-a", "made"]);
        assert_eq!(start.status, 0, "{when}\n{start}");
        host.lighter(&["rm", "made"]).ok();
    });
    let run = ["run", "--rm", "--name", "gone", "--network", "none", "busybox", "true"];
    at_every_step(
        &host,
        &run,
        &[(NAMES, FULL), (WRITES, BROKEN), (NAMES, KILLED)],
        || {},
        |_, when| {
            let again = host.lighter(&["rm", "-f", "gone"]);
            assert!(again.status == 0 || again.err().contains("No such container"), "{when}\n{again}");
            let again = host.lighter(&run);
            assert_eq!(again.status, 0, "{when}\n{again}");
        },
    );
    host.lighter(&["volume", "rm", "vol"]);
}

#[test]
fn a_pull_meets_every_fault() {
    let registry = Registry::start();
    let noise: Vec<u8> =
        (0_u32..1 << 19).flat_map(|n| n.wrapping_mul(2_654_435_761).rotate_left(n % 31).to_le_bytes()).collect();
    let image = Image::busybox("app:1").file("noise", 0o644, &noise);
    registry.push_layout(&image.oci_layout(Packing::Gzip), "app:1");
    let name = registry.reference("app:1");
    let host = Host::new();
    let faults = [(WRITES, FULL), (WRITES, KILLED), (NAMES, BROKEN), (NAMES, KILLED), (SYNCS, BROKEN)];
    let before = || {
        host.lighter(&["rmi", "-f", &name]);
    };
    at_every_step(&host, &["pull", "-q", &name], &faults, before, |output, when| {
        let here = !host.lighter(&["images", "-q"]).ok().out().is_empty();
        assert!(here || output.status != 0, "{when}: it is not there");
        if here {
            let run = host.lighter(&["run", "--rm", "--network", "none", "--pull", "never", &name, "ls", "/noise"]);
            assert_eq!(run.status, 0, "{when}\n{run}");
        }
    });
    host.lighter(&["pull", "-q", &name]).ok();
    let report = host.lighter(&["store", "check", "--deep", "--format", "json"]).ok().json();
    assert_eq!(report["Compared"], 2, "{report}");
}

#[test]
fn a_removal_meets_every_fault() {
    let host = Host::new();
    let file = archive(&host);
    let removes = "unlinkat,renameat,renameat2";
    let faults = [(removes, BROKEN), (removes, KILLED), (SYNCS, BROKEN), (WRITES, FULL), (WRITES, KILLED)];
    for verb in [&["rmi", "box:1"][..], &["image", "prune", "-af"], &["system", "prune", "-af"]] {
        let before = || {
            host.lighter(&["load", "-q", "-i", &file]).ok();
        };
        at_every_step(&host, verb, &faults, before, |output, when| {
            let here = !host.lighter(&["images", "-q"]).ok().out().is_empty();
            assert!(!here || output.status != 0, "{when}: it is still there");
            if here {
                let run = host.lighter(&["run", "--rm", "--network", "none", "--pull", "never", "box:1", "true"]);
                assert_eq!(run.status, 0, "{when}\n{run}");
            }
            host.lighter(&["image", "prune", "-af"]).ok();
            let report = host.lighter(&["store", "check", "--format", "json"]).ok().json();
            let of = |key: &str| report[key].as_u64();
            assert_eq!((of("Images"), of("Blobs"), of("Layers")), (Some(0), Some(0), Some(0)), "{when}{report}");
            assert_eq!(report["Leftovers"].as_array().map(Vec::len), Some(0), "{when}{report}");
        });
    }
}

/// A small ext4 in a file, mounted beside the test's directory; unmounted and removed on drop.
struct SmallDisk {
    dir: PathBuf,
}

impl SmallDisk {
    fn new(name: &str, mebibytes: u64, inodes: u32) -> Self {
        let dir = std::env::temp_dir().join(format!("lighter-{name}-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("mount")).expect("mkdir");
        let file = dir.join("disk");
        std::fs::File::create(&file).and_then(|file| file.set_len(mebibytes << 20)).expect("a sparse file");
        tool("mkfs.ext4", &["-q", "-F", "-m", "0", "-N", &inodes.to_string(), &file.to_string_lossy()]);
        tool("mount", &["-o", "loop", &file.to_string_lossy(), &dir.join("mount").to_string_lossy()]);
        Self { dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.join("mount")
    }

    /// Leaves this many kibibytes free.
    fn leave(&self, kibibytes: u64) {
        let filler = self.path().join("filler");
        drop(std::fs::remove_file(&filler));
        // What was removed is free when the journal is written.
        let dir = std::fs::File::open(self.path()).expect("the disk");
        rustix::fs::syncfs(dir.as_fd()).expect("synced");
        let stat = rustix::fs::statvfs(self.path()).expect("a file system");
        let file = std::fs::File::create(&filler).expect("a file");
        let length = (stat.f_bavail * stat.f_bsize).saturating_sub(kibibytes << 10);
        // The map of a long file takes blocks, too.
        let fits = |less: &u64| {
            let length = length.saturating_sub(*less);
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, length.max(1)).is_ok()
        };
        assert!((0..64).map(|step| step * 4096).any(|less| fits(&less)), "{length} bytes cannot be filled");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.path()).status();
        if unmounted.is_ok_and(|status| status.success()) {
            drop(std::fs::remove_dir_all(&self.dir));
        }
    }
}

#[test]
fn a_disk_fills_up_at_any_point() {
    let disk = SmallDisk::new("filling", 48, 4000);
    let mut host = Host::new();
    host.set_root(disk.path().join("root"));
    host.load(&Image::busybox("busybox:latest"));
    let noise: Vec<u8> =
        (0_u32..1 << 20).flat_map(|n| n.wrapping_mul(2_654_435_761).rotate_left(n % 31).to_le_bytes()).collect();
    let layout = Image::busybox("big:1").file("noise", 0o644, &noise).oci_layout(Packing::Gzip);
    let file = host.scratch("archives").join("big.tar");
    std::fs::write(&file, layout.tar()).expect("an archive");
    let registry = Registry::start();
    registry.push_layout(&layout, "big:1");
    let (name, file) = (registry.reference("big:1"), file.display().to_string());
    let mut succeeded = 0;
    for kibibytes in [0, 8, 64, 512, 2048, 4096, 5000, 8500, 9500, 16384] {
        disk.leave(kibibytes);
        for (args, image) in [(["load", "-q", "-i", &file], "big:1"), (["pull", "-q", &name, "--quiet"], &name[..])] {
            let output = host.lighter(&args);
            let here = host.lighter(&["images", "-q", image]).ok().out();
            if output.status == 0 {
                succeeded += 1;
                host.lighter(&["run", "--rm", "--network", "none", image, "ls", "/noise"]);
                host.lighter(&["rmi", image]).ok();
            } else {
                assert!(output.err().contains("No space left"), "{kibibytes}: {output}");
                assert_eq!(here, "", "{kibibytes}: {output}");
            }
            let check = host.lighter(&["store", "check"]);
            assert_eq!(check.status, 0, "{kibibytes}: {output}{check}");
        }
        let output = host.lighter(&["run", "--rm", "--network", "none", "busybox", "true"]);
        assert!(output.status == 0 || output.err().contains("No space left"), "{kibibytes}: {output}");
        assert_eq!(host.lighter(&["ps", "-aq"]).ok().out(), "", "{kibibytes}: {output}");
    }
    assert!((2..20).contains(&succeeded), "there is room for some, not for all: {succeeded}");
    host.sh(&[], "true").ok();
    host.assert_clean();
    drop(host);
    drop(disk);
}

#[test]
fn a_disk_without_inodes_is_a_full_disk() {
    let disk = SmallDisk::new("inodes", 64, 700);
    let mut host = Host::new();
    host.set_root(disk.path().join("root"));
    host.load(&Image::busybox("busybox:latest"));
    let mut tar = Tar::new();
    for number in 0..1000 {
        tar = tar.file(&format!("many/{number}"), 0o644, b"");
    }
    let archive = Image::busybox("many:1").layer(tar.finish()).oci_layout(Packing::Gzip).tar();
    host.lighter_reading(&["load", "-q"], &archive).rejected("No space left");
    assert_eq!(host.lighter(&["images", "-q"]).ok().out().lines().count(), 1);
    host.lighter(&["store", "check"]).ok();
    host.sh(&[], "true").ok();
    let full = host.sh(&[], "mkdir /many && cd /many && for n in $(seq 1000); do : > $n; done");
    assert!(full.status != 0 && full.err().contains("No space left"), "{full}");
    host.sh(&[], "true").ok();
    host.lighter(&["store", "check"]).ok();
    host.assert_clean();
    drop(host);
    drop(disk);
}

/// How many layers the store has.
fn layers(root: &Path) -> usize {
    std::fs::read_dir(root.join("layers")).expect("layers").count() - 1
}

#[test]
fn pulls_of_one_image_at_once_all_succeed() {
    let registry = Registry::start();
    let image = Image::busybox("app:1").file("a", 0o644, &[1; 300_000]).file("b", 0o644, &[2; 300_000]);
    registry.push_layout(&image.oci_layout(Packing::Gzip), "app:1");
    let name = registry.reference("app:1");
    let host = Host::new();
    for round in 0..5 {
        let mut pulls: Vec<_> = (0..4).map(|_| host.spawn(&["pull", "-q", &name])).collect();
        if round % 2 == 1 {
            // One that dies does not take the others with it.
            pulls.remove(0).signal(rustix::process::Signal::KILL);
        }
        for pull in pulls {
            pull.finish(DEADLINE).ok();
        }
        host.lighter(&["run", "--rm", "--network", "none", "--pull", "never", &name, "cat", "/b"]).ok();
        assert_eq!(layers(host.root()), 3);
        let report = host.lighter(&["store", "check", "--deep", "--format", "json"]).ok().json();
        assert_eq!((&report["Images"], &report["Compared"]), (&1.into(), &3.into()), "{report}");
        host.lighter(&["rmi", &name]).ok();
        let gone = || layers(host.root()) == 0;
        assert!(wait::becomes_true(Duration::from_secs(5), gone), "{}", layers(host.root()));
    }
}
