//! The Debian root file systems of the end-to-end suites: made once, kept below the build directory.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use testkit::debian::{RELEASES, Release};

use crate::{Outcome, packages, say};

/// Makes what is missing, all at the same time: most of the work is waiting for one core.
pub(crate) fn make() -> Outcome {
    let missing: Vec<&Release> = RELEASES.iter().filter(|release| !release.archive().exists()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    packages::install()?;
    let mirror = mirror().ok_or("no Debian mirror in this machine's apt sources")?;
    let failures: Vec<String> = std::thread::scope(|scope| {
        let makers: Vec<_> = missing.iter().map(|release| scope.spawn(|| one(release, &mirror))).collect();
        makers
            .into_iter()
            .filter_map(|maker| maker.join().unwrap_or_else(|_| Err("a maker panicked".to_owned())).err())
            .collect()
    });
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

/// The first mirror that apt uses, in either form of its sources.
pub(crate) fn mirror() -> Option<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    files
        .extend(std::fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path()));
    files.sort_by_key(|file| !file.to_string_lossy().contains("debian"));
    files.iter().filter_map(|file| std::fs::read_to_string(file).ok()).find_map(|text| mirror_of(&text))
}

fn mirror_of(sources: &str) -> Option<String> {
    sources.lines().find_map(|line| {
        let words = line.strip_prefix("URIs:").or_else(|| line.strip_prefix("deb "))?;
        words.split_whitespace().find(|word| word.starts_with("http")).map(str::to_owned)
    })
}

fn one(release: &Release, mirror: &str) -> Outcome {
    let archive = release.archive();
    let work = archive.with_extension("work");
    drop(std::fs::remove_dir_all(&work));
    std::fs::create_dir_all(&work).map_err(|error| format!("{}: {error}", work.display()))?;
    let result = build(release, mirror, &work, &archive);
    drop(std::fs::remove_dir_all(&work));
    result
}

fn build(release: &Release, mirror: &str, work: &Path, archive: &Path) -> Outcome {
    say(&format!("debootstrap {}", release.suite));
    let rootfs = work.join("rootfs");
    let mut command = Command::new(packages::find("debootstrap").ok_or("no debootstrap")?);
    command.arg("--variant=minbase");
    if !release.packages.is_empty() {
        command.arg(format!("--include={}", release.packages.join(",")));
    }
    command.arg(release.suite).arg(&rootfs).arg(mirror);
    quiet(&mut command)?;
    for dir in ["var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"] {
        let dir = rootfs.join(dir);
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let gone = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            gone.map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    let part = archive.with_extension("part");
    let mut tar = Command::new("tar");
    tar.args(["--numeric-owner", "--sort=name", "-C"]).arg(&rootfs).arg("-cf").arg(&part).arg(".");
    quiet(&mut tar)?;
    std::fs::rename(&part, archive).map_err(|error| format!("{}: {error}", archive.display()))?;
    say(&format!("made {}", archive.display()));
    Ok(())
}

/// Runs a command that talks a lot; its last words are shown when it fails.
pub(crate) fn quiet(command: &mut Command) -> Outcome {
    let shown = format!("{command:?}");
    let mut child = command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("{shown}: {error}"))?;
    let mut last = std::collections::VecDeque::new();
    for line in child.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines).map_while(Result::ok) {
        last.push_back(line);
        if last.len() > 20 {
            last.pop_front();
        }
    }
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{shown}: {status}\n{}", Vec::from(last).join("\n"))),
        Err(error) => Err(format!("{shown}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_forms_of_apt_sources() {
        let new = "Types: deb\nURIs: http://mirror.example/debian\nSuites: x\n";
        assert_eq!(mirror_of(new).as_deref(), Some("http://mirror.example/debian"));
        let old = "# comment\ndeb [signed-by=/x] http://mirror.example/debian bookworm main\n";
        assert_eq!(mirror_of(old).as_deref(), Some("http://mirror.example/debian"));
        assert_eq!(mirror_of("deb cdrom:[x]/ y"), None);
    }
}
