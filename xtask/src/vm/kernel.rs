//! Debian's cloud kernels: found through an apt of our own that also knows the suites this machine does not use, and
//! unpacked without being installed.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{fresh, write};
use crate::images::{self, quiet};
use crate::{Outcome, packages, say};

/// Suites that between them have every kernel we support.
const SUITES: [&str; 3] = ["bookworm", "trixie", "sid"];

/// What the kernel needs to find and mount its root, with everything these need in turn.
const BOOT_MODULES: [&str; 3] = ["virtio_pci", "virtio_blk", "ext4"];

/// A kernel ready to be booted.
pub(super) struct Kernel {
    /// As `uname -r` gives it.
    pub(super) version: String,
    /// The compressed image.
    pub(super) image: PathBuf,
    /// The initial file system.
    pub(super) initrd: PathBuf,
    /// The directory of its modules, called after the version.
    pub(super) modules: PathBuf,
}

/// The newest cloud kernel of the series `series`, downloaded once.
pub(super) fn get(dir: &Path, series: &str) -> Result<Kernel, String> {
    let place = dir.join("kernels").join(series);
    let note = place.join("version");
    if !note.exists() {
        let work = fresh(dir.join("kernels").join(format!("{series}.part")))?;
        let version = download(dir, series, &work)?;
        unpack(&work, &version)?;
        write(&work.join("version"), &version)?;
        if place.exists() {
            std::fs::remove_dir_all(&place).map_err(|error| format!("{}: {error}", place.display()))?;
        }
        std::fs::rename(&work, &place).map_err(|error| format!("{}: {error}", place.display()))?;
    }
    let version = std::fs::read_to_string(&note).map_err(|error| format!("{}: {error}", note.display()))?;
    Ok(Kernel {
        image: place.join("boot").join(format!("vmlinuz-{version}")),
        initrd: place.join("initrd"),
        modules: modules(&place, &version).ok_or_else(|| format!("no modules below {}", place.display()))?,
        version,
    })
}

/// Where a kernel's packages put its modules: `/usr` is merged in the newer ones.
fn modules(place: &Path, version: &str) -> Option<PathBuf> {
    ["usr/lib/modules", "lib/modules"].iter().map(|at| place.join(at).join(version)).find(|dir| dir.is_dir())
}

/// A command of apt's that looks at our suites and keeps its files below `dir`.
fn apt(dir: &Path, program: &str) -> Command {
    let apt = dir.join("apt");
    let mut command = Command::new(program);
    let mut set = |key: &str, value: &OsStr| {
        let mut option = std::ffi::OsString::from(format!("{key}="));
        option.push(value);
        command.arg("-o").arg(option);
    };
    set("Dir::Etc::sourcelist", apt.join("sources.list").as_os_str());
    set("Dir::Etc::sourceparts", OsStr::new("-"));
    set("Dir::State::lists", apt.join("lists").as_os_str());
    set("Dir::Cache", apt.join("cache").as_os_str());
    // Otherwise the download user of apt has to be able to write below our build directory.
    set("APT::Sandbox::User", OsStr::new("root"));
    command
}

/// Downloads the packages of the newest kernel of `series` into `work`, and gives its version.
fn download(dir: &Path, series: &str, work: &Path) -> Result<String, String> {
    say(&format!("looking for a cloud kernel {series}"));
    let mirror = images::mirror().ok_or("no Debian mirror in this machine's apt sources")?;
    for sub in ["apt/lists/partial", "apt/cache/archives/partial"] {
        std::fs::create_dir_all(dir.join(sub)).map_err(|error| format!("{sub}: {error}"))?;
    }
    let sources: String = SUITES.iter().map(|suite| format!("deb {mirror} {suite} main\n")).collect();
    write(&dir.join("apt/sources.list"), sources)?;
    quiet(apt(dir, "apt-get").args(["-q", "update"]))?;
    let pattern = format!("^linux-image-{}\\.[0-9].*-cloud-amd64$", series.replace('.', "\\."));
    let listed = apt(dir, "apt-cache").args(["search", "--names-only", &pattern]).output();
    let listed = listed.map_err(|error| format!("apt-cache: {error}"))?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let package = newest(&listed).ok_or_else(|| {
        format!(
            "Debian's {} have no cloud kernel {series}; `apt-cache search linux-image` shows others",
            SUITES.join(", ")
        )
    })?;
    quiet(apt(dir, "apt-get").args(["-q", "download", package]).current_dir(work))?;
    let version = package.trim_start_matches("linux-image-").to_owned();
    // The image's package may be only a list of others that hold the parts.
    let parts = dependencies(work, &version)?;
    if !parts.is_empty() {
        quiet(apt(dir, "apt-get").args(["-q", "download"]).args(&parts).current_dir(work))?;
    }
    Ok(version)
}

/// The package with the highest version in `apt-cache search`'s list.
fn newest(list: &str) -> Option<&str> {
    let names = list.lines().filter_map(|line| line.split_whitespace().next());
    names.max_by_key(|name| {
        name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect::<Vec<u64>>()
    })
}

/// The packages of this very version that the one in `work` depends on.
fn dependencies(work: &Path, version: &str) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    for package in archives(work)? {
        let output = Command::new("dpkg-deb").arg("-f").arg(&package).arg("Depends").output();
        let output = output.map_err(|error| format!("dpkg-deb: {error}"))?;
        names.extend(parts_of(&String::from_utf8_lossy(&output.stdout), version));
    }
    Ok(names)
}

fn parts_of(depends: &str, version: &str) -> Vec<String> {
    let alternatives = depends.split([',', '|']).filter_map(|entry| entry.split_whitespace().next());
    alternatives.filter(|name| name.starts_with("linux-") && name.ends_with(version)).map(str::to_owned).collect()
}

fn archives(work: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = std::fs::read_dir(work).map_err(|error| format!("{}: {error}", work.display()))?;
    Ok(entries.flatten().map(|entry| entry.path()).filter(|path| path.extension() == Some(OsStr::new("deb"))).collect())
}

/// Unpacks the packages in `work`, and makes the modules' index and the initial file system.
fn unpack(work: &Path, version: &str) -> Outcome {
    for package in archives(work)? {
        quiet(Command::new("dpkg-deb").arg("-x").arg(&package).arg(work))?;
        std::fs::remove_file(&package).map_err(|error| format!("{}: {error}", package.display()))?;
    }
    // The binary package of newer kernels has the image beside the modules.
    let modules = modules(work, version).ok_or("the kernel's packages have no modules")?;
    let image = work.join("boot").join(format!("vmlinuz-{version}"));
    if !image.exists() {
        std::fs::create_dir_all(work.join("boot")).map_err(|error| format!("boot: {error}"))?;
        std::fs::copy(modules.join("vmlinuz"), &image).map_err(|error| format!("vmlinuz: {error}"))?;
    }
    // The initial file system has nothing that reads the compressed forms.
    let inflate =
        "find \"$0\" -name '*.ko.xz' -exec xz -d {} + && find \"$0\" -name '*.ko.zst' -exec zstd -q -d --rm {} +";
    quiet(Command::new("sh").args(["-c", inflate]).arg(&modules))?;
    let depmod = packages::find("depmod").ok_or("no depmod")?;
    let base = if modules.starts_with(work.join("usr")) { work.join("usr") } else { work.to_owned() };
    quiet(Command::new(depmod).arg("-b").arg(&base).arg(version))?;
    initrd(work, version, &modules)
}

/// Packs the initial file system: busybox, and what the kernel needs to see its disks.
fn initrd(work: &Path, version: &str, modules: &Path) -> Outcome {
    let tree = fresh(work.join("initrd.tree"))?;
    for sub in ["bin", "dev", "proc", "sys", "root", "modules"] {
        std::fs::create_dir(tree.join(sub)).map_err(|error| format!("{sub}: {error}"))?;
    }
    write(&tree.join("bin/busybox"), testkit::image::busybox_program())?;
    write(&tree.join("init"), include_str!("initrd.sh"))?;
    let index = modules.join("modules.dep");
    let index = std::fs::read_to_string(&index).map_err(|error| format!("{}: {error}", index.display()))?;
    for (number, module) in in_order(&index, &BOOT_MODULES).iter().enumerate() {
        // The shell's `*` sorts, so the order is in the names.
        let to = tree.join(format!("modules/{number:02}.ko"));
        std::fs::copy(modules.join(module), to).map_err(|error| format!("{module} of {version}: {error}"))?;
    }
    let pack = "chmod 755 init bin/busybox && find . | busybox cpio -o -H newc >../initrd 2>/dev/null";
    quiet(Command::new("sh").args(["-c", pack]).current_dir(&tree))?;
    std::fs::remove_dir_all(&tree).map_err(|error| format!("{}: {error}", tree.display()))
}

/// The files of `names` and of all they need, the needed ones first, by the lines `FILE: NEEDED…` of modules.dep.
/// A module that has no line is built in.
fn in_order(index: &str, names: &[&str]) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    for name in names {
        let line = index.lines().filter_map(|line| line.split_once(':')).find(|(file, _)| {
            let stem = Path::new(file).file_name().and_then(OsStr::to_str).and_then(|file| file.split('.').next());
            stem.is_some_and(|stem| stem.replace('-', "_") == *name)
        });
        let Some((file, needed)) = line else { continue };
        // depmod lists what is needed from the nearest to the deepest.
        for file in needed.split_whitespace().rev().chain([file]) {
            if !order.iter().any(|known| known == file) {
                order.push(file.to_owned());
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_by_number() {
        let list = "linux-image-6.1.0-9-cloud-amd64 - x\nlinux-image-6.1.0-50-cloud-amd64 - x\n";
        assert_eq!(newest(list), Some("linux-image-6.1.0-50-cloud-amd64"));
        assert_eq!(newest(""), None);
    }

    #[test]
    fn the_parts_are_those_of_one_version() {
        let depends = "dracut | initramfs-tools (>= 0.1), linux-binary-7.2.1-cloud-amd64 (= 7), linux-base (>= 4)";
        assert_eq!(parts_of(depends, "7.2.1-cloud-amd64"), ["linux-binary-7.2.1-cloud-amd64"]);
    }

    #[test]
    fn modules_come_after_what_they_need() {
        let index = "k/virtio_blk.ko: k/virtio.ko k/ring.ko\nk/virtio.ko: k/ring.ko\nk/ring.ko:\nk/virtio-pci.ko: k/virtio.ko k/ring.ko\n";
        let order = in_order(index, &["virtio_pci", "virtio_blk", "ext4"]);
        assert_eq!(order, ["k/ring.ko", "k/virtio.ko", "k/virtio-pci.ko", "k/virtio_blk.ko"]);
    }
}
