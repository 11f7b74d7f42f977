//! `test` and `soak`: builds the release binary, makes the images, runs every suite, and looks for leftovers.

use std::collections::BTreeSet;
use std::process::Command;

use crate::{Outcome, images, packages, run, say, sh};

/// How many containers `soak` starts each way.
const SOAK: &str = "500";

/// Everything that must pass.
pub(crate) fn test() -> Outcome {
    prepare()?;
    let before = traces();
    sh("cargo", &["test", "--workspace", "--exclude", "tests"])?;
    sh("cargo", &["test", "--package", "tests"])?;
    let left: Vec<String> = traces().difference(&before).cloned().collect();
    if !left.is_empty() {
        return Err(format!("left on this machine:\n  {}", left.join("\n  ")));
    }
    say("nothing left behind: no mount, control group, process or file");
    Ok(())
}

/// The long version of the soak tests.
pub(crate) fn soak() -> Outcome {
    prepare()?;
    let mut command = Command::new("cargo");
    command.args(["test", "--package", "tests", "--test", "e2e", "soak"]).env("LIGHTER_SOAK", SOAK);
    run(&mut command)
}

fn prepare() -> Outcome {
    packages::install()?;
    build()?;
    images::make()
}

/// Builds the release binary, unless `LIGHTER_BIN` names one that is to be used.
pub(crate) fn build() -> Outcome {
    if std::env::var_os("LIGHTER_BIN").is_some() {
        return Ok(());
    }
    sh("cargo", &["build", "--release", "--package", "cli"])
}

/// Everything on this machine that bears the tests' names.
fn traces() -> BTreeSet<String> {
    let ours =
        |text: &str| ["lighter-e2e-", "lighter-small-", "lighter-registry-"].iter().any(|word| text.contains(word));
    let mut found = BTreeSet::new();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    found.extend(mounts.lines().filter(|line| ours(line)).map(|line| format!("mount {line}")));
    found.extend(testkit::cgroup::all().iter().map(|dir| format!("control group {}", dir.display())));
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        if ours(&words) {
            found.insert(format!("process {} {words}", entry.file_name().to_string_lossy()));
        }
    }
    let files = std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
    found.extend(files.map(|entry| entry.path().display().to_string()).filter(|path| ours(path)));
    found
}
