//! The guest's two disks: Debian with everything the tests call, and what changes from run to run.

use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::debian::RELEASES;

use super::kernel::Kernel;
use super::{SLOW, fresh, write};
use crate::images::{self, quiet};
use crate::{Outcome, packages, say};

/// The guest's release: its systemd is that of Debian stable.
const SUITE: &str = "trixie";

/// What the tests call, what the guest's script calls, and what the systemd guest needs.
const PACKAGES: [&str; 21] = [
    "apache2-utils",
    "apparmor",
    "busybox-static",
    "dbus",
    "docker-registry",
    "e2fsprogs",
    "gcc",
    "iproute2",
    "kmod",
    "libc6-dev",
    "libcap2-bin",
    // A network stack that skopeo's packages ask for; debootstrap does not choose one itself.
    "netavark",
    "procps",
    "skopeo",
    "strace",
    "systemd",
    "systemd-sysv",
    "uidmap",
    "util-linux",
    "xz-utils",
    "zstd",
];

/// Room for Debian, the test images and what tests write, in MiB. The file is sparse.
const BASE_SIZE: &str = "8192M";

/// The root disk. Made once; a later list of packages makes it anew.
pub(super) fn base(dir: &Path) -> Result<PathBuf, String> {
    let (disk, note) = (dir.join("base.ext4"), dir.join("base.packages"));
    let wanted = format!("{SUITE} {}", PACKAGES.join(" "));
    if disk.exists() && std::fs::read_to_string(&note).is_ok_and(|made| made == wanted) {
        return Ok(disk);
    }
    say(&format!("debootstrap {SUITE} for the guest"));
    let mirror = images::mirror().ok_or("no Debian mirror in this machine's apt sources")?;
    let root = fresh(dir.join("base.root"))?;
    let mut command = Command::new(packages::find("debootstrap").ok_or("no debootstrap")?);
    command.arg("--variant=minbase").arg(format!("--include={}", PACKAGES.join(",")));
    quiet(command.arg(SUITE).arg(&root).arg(mirror))?;
    furnish(&root)?;
    let part = dir.join("base.part");
    ext4(&root, &part, BASE_SIZE)?;
    std::fs::rename(&part, &disk).map_err(|error| format!("{}: {error}", disk.display()))?;
    write(&note, wanted)?;
    std::fs::remove_dir_all(&root).map_err(|error| format!("{}: {error}", root.display()))?;
    Ok(disk)
}

/// Adds to a fresh Debian what makes it the guest.
fn furnish(root: &Path) -> Outcome {
    let make = |path: &str| {
        std::fs::create_dir_all(root.join(path)).map_err(|error| format!("{path}: {error}"))?;
        Ok::<_, String>(root.join(path))
    };
    make("payload")?;
    let images = make("lighter/target/test-images")?;
    for release in RELEASES {
        let from = release.archive();
        let to = images.join(from.file_name().unwrap_or_default());
        std::fs::copy(&from, &to).map_err(|error| format!("{}: {error}", from.display()))?;
    }
    for archive in std::fs::read_dir(make("var/cache/apt/archives")?).into_iter().flatten().flatten() {
        if archive.path().extension().is_some_and(|kind| kind == "deb") {
            std::fs::remove_file(archive.path()).map_err(|error| format!("{}: {error}", archive.path().display()))?;
        }
    }
    write(&root.join("etc/fstab"), "")?;
    write(&root.join("etc/hostname"), "guest\n")?;
    write(&root.join("etc/subuid"), "root:100000:65536\n")?;
    write(&root.join("etc/subgid"), "root:100000:65536\n")?;
    let units = make("etc/systemd/system/multi-user.target.wants")?;
    let link = |to: &str, at: PathBuf| {
        std::os::unix::fs::symlink(to, &at).map_err(|error| format!("{}: {error}", at.display()))
    };
    link("/payload/guest.service", units.join("lighter-guest.service"))?;
    link("/payload/guest.service", root.join("etc/systemd/system/lighter-guest.service"))?;
    // Nobody logs in, and without udev its terminal is never there for it.
    link("/dev/null", root.join("etc/systemd/system/serial-getty@ttyS0.service"))?;
    // Where a kernel's modules are looked for.
    let modules = root.join("usr/lib/modules");
    drop(std::fs::remove_dir(&modules));
    link("/payload/modules", modules)
}

/// Makes an ext4 disk of what is below `tree`.
fn ext4(tree: &Path, disk: &Path, size: &str) -> Outcome {
    drop(std::fs::remove_file(disk));
    let mut command = Command::new(packages::find("mke2fs").ok_or("no mke2fs")?);
    command.args(["-q", "-F", "-t", "ext4", "-m", "0", "-E", "root_owner=0:0", "-d"]).arg(tree).arg(disk).arg(size);
    quiet(&mut command)
}

/// The disk of one run: binary, tests, their payload, modules, and the script.
pub(super) fn payload(dir: &Path, name: &str, kernel: &Kernel, filter: &[String]) -> Result<PathBuf, String> {
    let tree = fresh(dir.join(format!("payload-{name}")))?;
    let copy = |from: &Path, to: &str, mode: u32| -> Outcome {
        let to = tree.join(to);
        std::fs::copy(from, &to).map_err(|error| format!("{}: {error}", from.display()))?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(&to, mode).map_err(|error| format!("{}: {error}", to.display()))
    };
    let tests = tests()?;
    copy(&tests.program, "e2e", 0o755)?;
    copy(&testkit::host::binary(), "lighter", 0o755)?;
    copy(&tests.payload, "payload", 0o755)?;
    let quoted: Vec<String> = filter.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''"))).collect();
    let settings = format!(
        "export CARGO_TARGET_DIR=/lighter/target LIGHTER_BIN=/payload/lighter LIGHTER_TEST_SLOW={SLOW}\n\
         export RUST_BACKTRACE=0 RUST_TEST_THREADS=2\n\
         mkdir -p '{}'\ncp /payload/payload '{}'\nset -- {}\n",
        tests.payload.parent().unwrap_or(Path::new("/")).display(),
        tests.payload.display(),
        quoted.join(" "),
    );
    write(&tree.join("settings"), settings)?;
    write(&tree.join("guest.sh"), include_str!("guest.sh"))?;
    write(&tree.join("guest.service"), include_str!("guest.service"))?;
    quiet(Command::new("chmod").arg("755").arg(tree.join("guest.sh")))?;
    let modules = tree.join("modules");
    std::fs::create_dir(&modules).map_err(|error| format!("{}: {error}", modules.display()))?;
    quiet(Command::new("cp").args(["-rl"]).arg(&kernel.modules).arg(&modules))?;
    let disk = dir.join(format!("payload-{name}.ext4"));
    ext4(&tree, &disk, "1024M")?;
    std::fs::remove_dir_all(&tree).map_err(|error| format!("{}: {error}", tree.display()))?;
    Ok(disk)
}

/// What cargo builds for the end-to-end suite.
struct Tests {
    program: PathBuf,
    /// The program that attacks from inside: the tests know its absolute path.
    payload: PathBuf,
}

fn tests() -> Result<Tests, String> {
    say("+ cargo test --package tests --no-run");
    let mut command = Command::new("cargo");
    command.args(["test", "--quiet", "--package", "tests", "--test", "e2e", "--no-run", "--message-format=json"]);
    let output = command.stderr(std::process::Stdio::inherit()).output().map_err(|error| format!("cargo: {error}"))?;
    if !output.status.success() {
        return Err("the tests do not build".to_owned());
    }
    let messages: Vec<serde_json::Value> =
        String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let program = |name: &str| {
        let made =
            messages.iter().find(|message| message["target"]["name"] == name && message["executable"].is_string());
        made.and_then(|message| message["executable"].as_str()).map(PathBuf::from)
    };
    Ok(Tests {
        program: program("e2e").ok_or("cargo made no end-to-end tests")?,
        payload: program("payload").ok_or("cargo made no payload")?,
    })
}
