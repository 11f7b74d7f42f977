//! `fuzz tar-differential`: the archives that the fuzzers found, read by others too. A layer that one program scans and
//! another unpacks must be the same layer in both.

use std::process::Command;

use super::{TRIPLE, corpora};
use crate::{Outcome, root, run, sh};

/// Lists every archive of the two targets that read tar with our reader, Python's and GNU's; they must agree.
pub(super) fn run_all() -> Outcome {
    sh("cargo", &["build", "--package", "storage", "--features", "fuzzing", "--example", "tar_list"])?;
    let lister = root().join("target").join(TRIPLE).join("debug/examples/tar_list");
    let mut python = Command::new("python3");
    python.arg(root().join("fuzz/tar_differential.py")).arg(lister);
    for target in ["tar", "extraction"] {
        python.args(corpora(target)?);
    }
    run(&mut python)
}
