//! The project's own chores: `cargo xtask VERB`.
//!
//! - `test`: everything that must pass, from a clean checkout; installs what Debian packages it needs.
//! - `tidy`: the house rules that a machine can check.
//! - `bench`: the figures of the design against the peers on this machine.
//! - `callers`: the OCI face under Docker, Podman and containerd, beside the runtimes they come with.
//! - `roundtrip`: images that go to docker and podman and come back.
//! - `test-images`: the Debian root file systems for the end-to-end suites.
//! - `vm`: the end-to-end suite on another kernel, with control groups v2 alone, in a virtual machine.
//! - `fuzz`: the fuzz targets of `/fuzz`, one of them (`TARGET [--seconds N]`) or `all`; `keep TARGET` chooses the inputs
//!   that are kept; `tar-differential` reads the archives found with other readers too.
//! - `soak`: 500 runs one after the other, and 16 at a time.

mod bench;
mod callers;
mod checks;
mod fuzz;
mod images;
mod packages;
mod roundtrip;
mod tidy;
mod vm;

use std::io::Write;
use std::process::{Command, ExitCode};

/// What ended a chore.
type Outcome = Result<(), String>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["test"] => checks::test(),
        ["tidy"] => tidy::run(),
        ["bench", rest @ ..] => bench::run(rest),
        ["callers", rest @ ..] => callers::run(rest),
        ["roundtrip"] => roundtrip::run(),
        ["test-images"] => images::make(),
        ["vm", rest @ ..] => vm::run(rest),
        ["fuzz", rest @ ..] => fuzz::main(rest),
        ["soak"] => checks::soak(),
        _ => Err(
            "cargo xtask test | tidy | bench [ROUNDS|pull] | callers [FILTER...] | roundtrip | test-images | soak | \
             vm [--kernel 6.1|6.12|7.2] [--systemd] [FILTER...] | fuzz [TARGET | all [--seconds N] | keep TARGET | \
             tar-differential]"
                .to_owned(),
        ),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            complain(&message);
            ExitCode::FAILURE
        }
    }
}

/// Prints a line. A reader that left is no reason to stop a chore.
fn say(line: &str) {
    drop(writeln!(std::io::stdout(), "{line}"));
}

/// Prints a line on standard error.
fn complain(line: &str) {
    drop(writeln!(std::io::stderr(), "{line}"));
}

/// Runs a command with this process's streams; its failure is this chore's.
fn sh(program: &str, args: &[&str]) -> Outcome {
    run(Command::new(program).args(args))
}

/// As [`sh`], for a command with more to it.
fn run(command: &mut Command) -> Outcome {
    let shown = format!("{command:?}");
    say(&format!("+ {}", shown.replace('"', "")));
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{shown}: {status}")),
        Err(error) => Err(format!("{shown}: {error}")),
    }
}

/// The workspace's root.
fn root() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap_or_else(|_| ".".into())
}
