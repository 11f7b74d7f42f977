//! `vm`: the end-to-end tests on other kernels, with control groups v2 alone, in a virtual machine.
//!
//! ```text
//! target/vm/apt/            an apt of our own: its sources are this machine's mirror with Debian's other suites
//! target/vm/kernels/6.1/    a cloud kernel's packages, unpacked; `version`, `initrd`
//! target/vm/base.ext4       Debian with what the tests call, made once; never written to by a guest
//! target/vm/payload-….ext4  the binary, the tests, and the kernel's modules, made for each run
//! target/vm/console-….log   what the kernel and the guest's init said
//! ```
//!
//! The guest's first process is `guest.sh`, or systemd, which starts `guest.sh` as a service. Its second serial port is
//! the tests' output, and the last line there their exit code.

mod disk;
mod kernel;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::{Outcome, checks, complain, images, packages, say};

/// The kernel that is booted when none is named.
const DEFAULT_KERNEL: &str = "6.12";

/// How much slower than this machine an emulated guest may be: deadlines in the tests are multiplied.
const SLOW: &str = "10";

/// What a whole run may take: the suite takes about a quarter of it under software emulation on two cores.
const LIMIT: Duration = Duration::from_secs(90 * 60);

/// How the guest's last line begins.
const LAST: &str = "lighter-vm: exit ";

/// What was asked for on the command line.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    kernel: String,
    systemd: bool,
    /// Arguments of the test program.
    filter: Vec<String>,
}

impl Asked {
    fn parse(words: &[&str]) -> Result<Self, String> {
        let mut asked = Self { kernel: DEFAULT_KERNEL.to_owned(), systemd: false, filter: Vec::new() };
        let mut words = words.iter();
        while let Some(&word) = words.next() {
            match word {
                "--systemd" => asked.systemd = true,
                "--kernel" => {
                    let kernel = words.next().ok_or("--kernel needs a version, as in --kernel 6.12")?;
                    if !kernel.starts_with(|c: char| c.is_ascii_digit())
                        || !kernel.chars().all(|c| c.is_ascii_digit() || c == '.')
                    {
                        return Err(format!("--kernel {kernel}: not a version such as 6.12"));
                    }
                    (*kernel).clone_into(&mut asked.kernel);
                }
                other => asked.filter.push(other.to_owned()),
            }
        }
        Ok(asked)
    }
}

/// Boots a guest, runs the tests there, and ends as they end.
pub(crate) fn run(words: &[&str]) -> Outcome {
    let asked = Asked::parse(words)?;
    packages::install()?;
    packages::install_emulator()?;
    images::make()?;
    checks::build()?;
    let dir = crate::root().join("target/vm");
    std::fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let kernel = kernel::get(&dir, &asked.kernel)?;
    let base = disk::base(&dir)?;
    let name = format!("{}{}", asked.kernel, if asked.systemd { "-systemd" } else { "" });
    let payload = disk::payload(&dir, &name, &kernel, &asked.filter)?;
    say(&format!("booting Linux {} {}", kernel.version, if asked.systemd { "with systemd" } else { "" }));
    let console = dir.join(format!("console-{name}.log"));
    let mut machine = machine(&kernel, &base, &payload, &console, asked.systemd);
    let code = watch(&mut machine);
    drop(std::fs::remove_file(&payload));
    match code? {
        Some(0) => Ok(()),
        Some(code) => Err(format!("the tests ended with {code} on Linux {}", kernel.version)),
        None => Err(format!("the guest ended without a result; its console is in {}", console.display())),
    }
}

/// The emulator's command.
fn machine(kernel: &kernel::Kernel, base: &Path, payload: &Path, console: &Path, systemd: bool) -> Command {
    let mut command = Command::new(packages::find("qemu-system-x86_64").unwrap_or_else(|| "qemu-system-x86_64".into()));
    // Software emulation everywhere: a result then means the same on every machine. In one thread, since QEMU 7.2 lets a
    // processor run the half of an instruction that another one is patching, and newer kernels patch theirs a lot.
    command.args(["-accel", "tcg,thread=single", "-cpu", "max", "-smp", "2", "-m", "4096"]);
    command.args(["-display", "none", "-no-reboot", "-nodefaults", "-net", "none"]);
    command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(&kernel.initrd);
    let init = if systemd { "/sbin/init" } else { "/payload/guest.sh" };
    let security = "apparmor=1 security=apparmor";
    command.arg("-append").arg(format!(
        "console=ttyS0 loglevel=4 panic=-1 root=/dev/vda rw {security} systemd.unified_cgroup_hierarchy=1 lighter.init={init}"
    ));
    let drive = |file: &Path, mode: &str| format!("if=virtio,format=raw,file={},{mode}", file.display());
    command.arg("-drive").arg(drive(base, "snapshot=on")).arg("-drive").arg(drive(payload, "readonly=on"));
    command.arg("-serial").arg(format!("file:{}", console.display())).args(["-serial", "stdio"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// Shows what the guest prints, and gives the code of its last line.
fn watch(machine: &mut Command) -> Result<Option<i32>, String> {
    let mut child = machine.spawn().map_err(|error| format!("{machine:?}: {error}"))?;
    let output = child.stdout.take().ok_or("the emulator has no output")?;
    let done = AtomicBool::new(false);
    let (code, late) = std::thread::scope(|scope| {
        let timer = scope.spawn(|| {
            let start = Instant::now();
            while !done.load(Ordering::Relaxed) {
                if start.elapsed() > LIMIT {
                    drop(child.kill());
                    return true;
                }
                std::thread::sleep(Duration::from_millis(200));
            }
            false
        });
        let mut code = None;
        let mut lines = BufReader::new(output).split(b'\n');
        while let Some(Ok(line)) = lines.next() {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            match line.strip_prefix(LAST) {
                Some(number) => code = number.parse().ok(),
                None => say(&line),
            }
        }
        done.store(true, Ordering::Relaxed);
        (code, timer.join().unwrap_or(false))
    });
    drop(child.wait());
    if late {
        complain(&format!("the guest was stopped after {LIMIT:?}"));
    }
    Ok(code)
}

/// Writes a file below `dir`.
fn write(path: &Path, bytes: impl AsRef<[u8]>) -> Outcome {
    std::fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))
}

/// Makes `dir` anew, empty.
fn fresh(dir: PathBuf) -> Result<PathBuf, String> {
    if dir.exists() {
        std::fs::remove_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    }
    std::fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_come_before_and_between_filters() {
        let asked = Asked::parse(&["limits", "--kernel", "6.1", "--systemd", "run"]).expect("accepted");
        assert_eq!((asked.kernel.as_str(), asked.systemd), ("6.1", true));
        assert_eq!(asked.filter, ["limits", "run"]);
        assert_eq!(Asked::parse(&[]).expect("accepted").kernel, DEFAULT_KERNEL);
        assert!(Asked::parse(&["--kernel"]).is_err());
        assert!(Asked::parse(&["--kernel", "newest"]).is_err());
    }
}
