//! `callers`: `lighter-runtime` under Docker, Podman and containerd, row by row beside the runtime they come with.
//!
//! Each row is some of a caller's commands, run with runc (Podman's with crun) and with ours; what is printed and the exit
//! codes are compared. The callers are those of the peers' tree, started in namespaces of their own, in which everything
//! ends with the run. A row whose outputs may differ says why after its name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Outcome, checks, packages, root, say};

/// The scripts and the rows, as the script in the tree finds them.
const FILES: [(&str, &str); 4] = [
    ("inside.sh", include_str!("inside.sh")),
    ("docker.rows", include_str!("docker.rows")),
    ("podman.rows", include_str!("podman.rows")),
    ("ctr.rows", include_str!("ctr.rows")),
];

/// How many lines of a difference are shown.
const SHOWN: usize = 12;

/// How one row came out.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Same,
    /// It differs, and why that is right.
    Known(String),
    /// It was expected to differ.
    Agrees,
    Differs,
}

/// Runs the rows whose `CALLER/NAME` contains one of the words, or all, and prints a table.
pub(crate) fn run(words: &[&str]) -> Outcome {
    let tree = std::env::var_os("PEERS").map_or_else(|| PathBuf::from("/var/lib/lighter-peers"), PathBuf::from);
    for program in ["dockerd", "podman", "containerd", "crun", "runc"] {
        if !["usr/bin", "usr/sbin"].iter().any(|dir| tree.join(dir).join(program).exists()) {
            return Err(format!("no {program} in {}: PEERS names the tree with the callers", tree.display()));
        }
    }
    packages::install()?;
    checks::build()?;
    let binary = testkit::host::binary();
    let dir = std::env::temp_dir().join(format!("lighter-callers-{}", std::process::id()));
    let outcome = compare(&tree, &binary, &dir, words);
    drop(std::fs::remove_dir_all(&dir));
    outcome
}

fn compare(tree: &Path, binary: &Path, dir: &Path, words: &[&str]) -> Outcome {
    let (rows, out) = (dir.join("rows"), dir.join("out"));
    for dir in [&rows, &out] {
        std::fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    }
    for (name, text) in FILES {
        std::fs::write(rows.join(name), text).map_err(|error| format!("{name}: {error}"))?;
    }
    let world = root().join("xtask/src/callers/world.sh");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--net", "--fork", "--kill-child", "--propagation", "private", "sh"]);
    command.arg(world).arg(tree).arg(binary).arg(&rows).arg(&out).args(words);
    command.stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().map_err(|error| format!("unshare: {error}"))?;
    if !output.status.success() {
        return Err(format!("the callers could not be run: {}", output.status));
    }
    let known = known();
    let mut counts = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let [caller, name, other] = line.split(' ').collect::<Vec<_>>()[..] else {
            return Err(format!("not a row: {line:?}"));
        };
        let read = |runtime: &str| {
            let path = out.join(caller).join(format!("{name}.{runtime}"));
            std::fs::read(&path)
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                .map_err(|error| format!("{}: {error}", path.display()))
        };
        let (theirs, ours) = (read(other)?, read("lighter")?);
        let row = format!("{caller}/{name}");
        let verdict = judge(&theirs, &ours, known.get(&row));
        let word = match &verdict {
            Verdict::Same => "same",
            Verdict::Known(_) => "known",
            Verdict::Agrees => "AGREES",
            Verdict::Differs => "DIFFERS",
        };
        *counts.entry(word).or_insert(0_u32) += 1;
        match verdict {
            Verdict::Known(reason) => say(&format!("{word:8} {row} ({other}): {reason}")),
            Verdict::Same | Verdict::Agrees => say(&format!("{word:8} {row} ({other})")),
            Verdict::Differs => {
                say(&format!("{word:8} {row} ({other})"));
                difference(&theirs, &ours).iter().for_each(|line| say(&format!("         {line}")));
            }
        }
    }
    let total: u32 = counts.values().sum();
    let listed: Vec<String> = counts.iter().map(|(word, count)| format!("{count} {word}")).collect();
    say(&format!("{total} rows: {}", listed.join(", ")));
    match (total, counts.get("DIFFERS"), counts.get("AGREES")) {
        (0, ..) => Err("no row has such a name".to_owned()),
        (_, None, None) => Ok(()),
        _ => Err("rows differ that should not, or agree that should not".to_owned()),
    }
}

/// The reasons that stand in the rows' files, by `CALLER/NAME`.
fn known() -> BTreeMap<String, String> {
    let mut reasons = BTreeMap::new();
    for (file, text) in FILES {
        let Some(caller) = file.strip_suffix(".rows") else { continue };
        for line in text.lines() {
            if let Some((name, reason)) = line.strip_prefix("## ").and_then(|line| line.split_once(": ")) {
                reasons.insert(format!("{caller}/{name}"), reason.to_owned());
            }
        }
    }
    reasons
}

fn judge(theirs: &str, ours: &str, known: Option<&String>) -> Verdict {
    match (theirs == ours, known) {
        (true, None) => Verdict::Same,
        (true, Some(_)) => Verdict::Agrees,
        (false, Some(reason)) => Verdict::Known(reason.clone()),
        (false, None) => Verdict::Differs,
    }
}

/// The lines that only one of the two has.
fn difference(theirs: &str, ours: &str) -> Vec<String> {
    let only = |mark: char, these: &str, those: &str| -> Vec<String> {
        let those: Vec<&str> = those.lines().collect();
        these.lines().filter(|line| !those.contains(line)).map(|line| format!("{mark} {line}")).collect()
    };
    let mut lines = only('-', theirs, ours);
    lines.extend(only('+', ours, theirs));
    lines.truncate(SHOWN);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_needs_a_reason_and_a_reason_needs_a_difference() {
        let reason = "since".to_owned();
        assert_eq!(judge("a", "a", None), Verdict::Same);
        assert_eq!(judge("a", "b", None), Verdict::Differs);
        assert_eq!(judge("a", "b", Some(&reason)), Verdict::Known(reason.clone()));
        assert_eq!(judge("a", "a", Some(&reason)), Verdict::Agrees);
        assert_eq!(difference("same\nout", "same\nin"), ["- out", "+ in"]);
    }

    #[test]
    fn reasons_belong_to_rows() {
        let reasons = known();
        assert!(reasons.contains_key("docker/cgroup-mount"));
        assert!(reasons.keys().all(|row| row.split('/').all(|part| !part.is_empty() && !part.contains(' '))));
    }
}
