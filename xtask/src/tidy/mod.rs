//! The house rules that a machine can check. What it finds is named by file, line and rule.

mod deps;
mod lexer;
mod source;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Outcome, root, say};

/// One breach of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Breach {
    /// File below the workspace's root, with a line where there is one.
    pub(crate) place: String,
    /// The rule, in words.
    pub(crate) rule: String,
}

impl Breach {
    fn new(place: impl Into<String>, rule: impl Into<String>) -> Self {
        Self { place: place.into(), rule: rule.into() }
    }
}

/// Checks the whole workspace.
pub(crate) fn run() -> Outcome {
    let root = root();
    let output = Command::new("cargo")
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(&root)
        .output()
        .map_err(|error| format!("cargo metadata: {error}"))?;
    let metadata = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("cargo metadata: {error}\n{}", String::from_utf8_lossy(&output.stderr)))?;
    let mut breaches = deps::check(&metadata);
    for path in manifests(&root) {
        let text = read(&path)?;
        breaches.extend(deps::check_manifest(&relative(&root, &path), &text));
    }
    let sources = sources(&root);
    for path in &sources {
        breaches.extend(source::check(&relative(&root, path), &read(path)?));
    }
    if breaches.is_empty() {
        say(&format!("tidy: {} files keep the rules", sources.len()));
        return Ok(());
    }
    let lines: Vec<String> = breaches.iter().map(|breach| format!("{}: {}", breach.place, breach.rule)).collect();
    Err(lines.join("\n"))
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

/// The manifests of all crates.
fn manifests(root: &Path) -> Vec<PathBuf> {
    let crates = std::fs::read_dir(root.join("crates")).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut all: Vec<PathBuf> =
        crates.chain([root.join("tests"), root.join("xtask")]).map(|dir| dir.join("Cargo.toml")).collect();
    all.retain(|path| path.exists());
    all.sort();
    all
}

/// Every Rust file of the workspace.
fn sources(root: &Path) -> Vec<PathBuf> {
    let mut stack = vec![root.join("crates"), root.join("tests"), root.join("xtask"), root.join("fuzz")];
    let mut all = Vec::new();
    while let Some(dir) = stack.pop() {
        for path in std::fs::read_dir(&dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                stack.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                all.push(path);
            }
        }
    }
    all.sort();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_workspaces_files() {
        let root = root();
        assert!(manifests(&root).len() > 5);
        let files: Vec<String> = sources(&root).iter().map(|path| relative(&root, path)).collect();
        assert!(files.iter().any(|file| file == "xtask/src/tidy/mod.rs"), "{files:?}");
    }
}
