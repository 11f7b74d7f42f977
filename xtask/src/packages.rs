//! Debian packages that the chores need, installed when they are missing.

use std::process::{Command, Stdio};

use crate::{Outcome, run, say, sh};

/// A program that proves a package, and the package.
const NEEDED: [(&str, &str); 12] = [
    ("busybox", "busybox-static"),
    ("docker-registry", "docker-registry"),
    ("debootstrap", "debootstrap"),
    ("skopeo", "skopeo"),
    ("htpasswd", "apache2-utils"),
    ("zstd", "zstd"),
    ("xz", "xz-utils"),
    ("mkfs.ext4", "e2fsprogs"),
    ("newuidmap", "uidmap"),
    ("strace", "strace"),
    ("cc", "gcc"),
    ("criu", "criu"),
];

/// What only the benchmark calls.
const MEASURES: [(&str, &str); 1] = [("time", "time")];

/// Where this machine has the program.
pub(crate) fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let places = path.split(':').chain(["/usr/sbin", "/sbin", "/usr/local/sbin"]);
    places.map(|place| std::path::Path::new(place).join(program)).find(|file| file.is_file())
}

/// What boots a guest: a program that proves a package, and the package.
const EMULATOR: [(&str, &str); 2] = [("qemu-system-x86_64", "qemu-system-x86"), ("depmod", "kmod")];

/// Installs what is missing.
pub(crate) fn install() -> Outcome {
    install_some(&NEEDED)
}

/// Installs what measures for `bench`, if it is missing.
pub(crate) fn install_measures() -> Outcome {
    install_some(&MEASURES)
}

/// Installs the emulator, which `vm` alone needs, if it is missing.
pub(crate) fn install_emulator() -> Outcome {
    install_some(&EMULATOR)
}

fn install_some(wanted: &[(&str, &str)]) -> Outcome {
    let missing: Vec<&str> =
        wanted.iter().filter(|(program, _)| find(program).is_none()).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    say(&format!("installing {}", missing.join(" ")));
    sh("apt-get", &["-qq", "update"])?;
    let mut command = Command::new("apt-get");
    command.args(["-qq", "install", "-y", "--no-install-recommends"]).args(&missing);
    // The registry's package starts a service where there is an init; the tests start their own.
    command.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1").stdin(Stdio::null());
    run(&mut command)
}
