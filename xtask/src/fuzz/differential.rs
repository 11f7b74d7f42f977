//! `fuzz tar-differential`: the archives that the fuzzers found, read by others too. A layer that one program scans and
//! another unpacks must be the same layer in both.

use std::process::Command;

use super::{build, corpora};
use crate::{Outcome, root, run};

/// Lists every archive of the two targets that read tar with our reader, Python's and GNU's; they must agree.
pub(super) fn run_all() -> Outcome {
    let lister = build(["--example", "tar_list"])?.join("examples/tar_list");
    let mut python = Command::new("python3");
    python.arg(root().join("fuzz/tar_differential.py")).arg(lister);
    for target in ["tar", "extraction"] {
        python.args(corpora(target)?);
    }
    run(&mut python)
}
