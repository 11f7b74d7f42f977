//! `fuzz`: builds a fuzz target with the compiler's coverage instrumentation and runs it.
//!
//! The targets are laid out for cargo-fuzz (`fuzz/`), which is not needed: what it does with the compiler is done here.
//! New inputs go to `target/fuzz-corpus/TARGET`; `fuzz/corpus/TARGET` has the few that are kept, which the crates' unit
//! tests run through the same functions.

mod differential;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Outcome, complain, root, run, say};

/// How the compiler is told to instrument (as cargo-fuzz does, without a sanitizer: the code is safe Rust).
const FLAGS: [&str; 7] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg",
    "fuzzing",
];

/// What a target is built for.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// The program that is every target: one to link instead of dozens.
const ALL: &str = "any";

/// Seconds a target runs when nothing else is said.
const SECONDS: &str = "60";

/// Most bytes of inputs that are kept for one target.
const KEPT: u64 = 6 << 10;

/// Reads the words after `fuzz`.
pub(crate) fn main(words: &[&str]) -> Outcome {
    let all = targets()?;
    let known = |name: &str| match all.iter().find(|target| *target == name) {
        Some(target) => Ok(target.as_str()),
        None => Err(format!("there is no target {name:?}; there are {}", all.join(", "))),
    };
    match words {
        [] => {
            say(&all.join("\n"));
            Ok(())
        }
        ["tar-differential"] => differential::run_all(),
        ["keep", name] => keep(known(name)?),
        ["all", rest @ ..] => {
            let seconds = seconds(rest)?;
            let failed: Vec<_> = all.iter().filter(|target| complained(fuzz(target, seconds))).cloned().collect();
            if failed.is_empty() { Ok(()) } else { Err(format!("these targets failed: {}", failed.join(", "))) }
        }
        [name, rest @ ..] => fuzz(known(name)?, seconds(rest)?),
    }
}

fn seconds<'w>(words: &[&'w str]) -> Result<&'w str, String> {
    match words {
        [] => Ok(SECONDS),
        ["--seconds", seconds] if seconds.parse::<u32>().is_ok() => Ok(seconds),
        other => Err(format!("{other:?} is not --seconds N")),
    }
}

fn complained(outcome: Outcome) -> bool {
    outcome.inspect_err(|error| complain(error)).is_err()
}

/// The targets, which are the manifest's programs.
fn targets() -> Result<Vec<String>, String> {
    let dir = root().join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.path().file_stem().map(|stem| stem.to_string_lossy().into_owned()))
        .filter(|name| name != ALL)
        .collect();
    names.sort();
    Ok(names)
}

/// Builds the program of all targets; gives its path.
fn build() -> Result<PathBuf, String> {
    let place = root().join("target/fuzz");
    let mut cargo = Command::new("cargo");
    cargo
        .args(["build", "--release", "--target", TRIPLE, "--bin", ALL, "--target-dir"])
        .arg(&place)
        .current_dir(root().join("fuzz"))
        .env("RUSTFLAGS", FLAGS.join(" "));
    run(&mut cargo)?;
    Ok(place.join(TRIPLE).join("release").join(ALL))
}

/// The program of all targets, about to run one of them within its bounds.
fn target(name: &str) -> Result<Command, String> {
    let mut target = Command::new(build()?);
    target.env("FUZZ_TARGET", name).args(["-rss_limit_mb=1024", "-timeout=10"]);
    Ok(target)
}

fn made(path: PathBuf) -> Result<PathBuf, String> {
    fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}

/// Where inputs grow, and where those are that are kept.
fn corpora(name: &str) -> Result<[PathBuf; 2], String> {
    Ok([made(root().join("target/fuzz-corpus").join(name))?, made(root().join("fuzz/corpus").join(name))?])
}

fn fuzz(name: &str, seconds: &str) -> Outcome {
    let artifacts = made(root().join("fuzz/artifacts").join(name))?;
    let mut target = target(name)?;
    target
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg("-print_final_stats=1")
        .args(corpora(name)?);
    run(&mut target)
}

/// Replaces the inputs that are kept by the smallest of those that together reach everything known.
fn keep(name: &str) -> Outcome {
    let [grown, kept] = corpora(name)?;
    let chosen = root().join("target/fuzz-chosen").join(name);
    // What an earlier call left would be kept again.
    let _ = fs::remove_dir_all(&chosen);
    let chosen = made(chosen)?;
    let mut target = target(name)?;
    target.arg("-set_cover_merge=1").args([&chosen, &grown, &kept]);
    run(&mut target)?;
    let mut inputs = sizes(&chosen)?;
    inputs.sort();
    fs::remove_dir_all(&kept).map_err(|error| format!("{}: {error}", kept.display()))?;
    let kept = made(kept)?;
    let (mut bytes, mut count) = (0, 0);
    for (size, path) in inputs {
        bytes += size;
        if bytes > KEPT && count > 0 {
            break;
        }
        let to = kept.join(path.file_name().unwrap_or_default());
        fs::copy(&path, &to).map_err(|error| format!("{}: {error}", to.display()))?;
        count += 1;
    }
    say(&format!("{name}: {count} inputs are kept"));
    Ok(())
}

fn sizes(dir: &Path) -> Result<Vec<(u64, PathBuf)>, String> {
    let entries = fs::read_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    Ok(entries.flatten().filter_map(|entry| Some((entry.metadata().ok()?.len(), entry.path()))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_a_program_of_the_workspace_and_keeps_inputs() {
        let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).expect("readable");
        let all = targets().expect("listed");
        assert!(all.len() > 30, "{all:?}");
        for name in &all {
            assert!(manifest.contains(&format!("name = \"{name}\"\n")), "{name}");
            let kept = sizes(&root().join("fuzz/corpus").join(name)).expect("kept");
            assert!(!kept.is_empty() && kept.iter().map(|(size, _)| size).sum::<u64>() <= 16 << 10, "{name}");
        }
        assert_eq!(manifest.matches("[[bin]]").count(), all.len() + 1);
    }

    #[test]
    fn words_are_checked() {
        assert_eq!(seconds(&["--seconds", "5"]), Ok("5"));
        assert_eq!(seconds(&[]), Ok(SECONDS));
        assert!(seconds(&["--seconds"]).is_err() && seconds(&["--seconds", "x"]).is_err() && seconds(&["5"]).is_err());
        assert!(main(&["no-such-target"]).is_err());
    }
}
