//! `lighter-runtime`: the OCI runtime's command line (Go-style flags, so it is parsed by hand).
//!
//! `run` is here: the container in the foreground, with the caller's streams. The commands that leave a container
//! behind (`create`, `start`, …) answer that they are not available yet.

mod arguments;
mod run;

use std::ffi::OsString;
use std::io::Write as _;

use arguments::{Command, Global};

/// Runs the runtime's command line after the program's name; gives the exit code.
pub(crate) fn main(args: Vec<OsString>) -> i32 {
    let args: Result<Vec<String>, OsString> = args.into_iter().map(OsString::into_string).collect();
    let outcome = match args {
        Ok(args) => arguments::parse(&args).map_err(Failure::from).and_then(|(global, command)| act(&global, command)),
        Err(odd) => Err(Failure::from(format!("argument {odd:?} is not UTF-8"))),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            // Standard error is the last resort: a failure to write there has nowhere to go.
            let _ = writeln!(std::io::stderr().lock(), "{failure}");
            1
        }
    }
}

fn act(global: &Global, command: Command) -> Result<i32, Failure> {
    match command {
        Command::Version => {
            let text =
                format!("lighter-runtime version {}\nspec: {}\n", env!("CARGO_PKG_VERSION"), oci::runtime::VERSION);
            std::io::stdout().lock().write_all(text.as_bytes()).map_err(|error| Failure::from(error.to_string()))?;
            Ok(0)
        }
        Command::Run(options) => run::run(global, &options),
        Command::Later(name) => Err(Failure::from(format!("the command {name:?} is not available yet"))),
    }
}

/// What ends the program: a sentence and what caused it, on one line each.
#[derive(Debug)]
struct Failure(String);

impl From<String> for Failure {
    fn from(sentence: String) -> Self {
        Self(sentence)
    }
}

impl From<runtime::Error> for Failure {
    fn from(error: runtime::Error) -> Self {
        match error.cause() {
            Some(cause) => Self(format!("{error}: {cause}")),
            None => Self(error.to_string()),
        }
    }
}

impl From<sys::Error> for Failure {
    fn from(error: sys::Error) -> Self {
        Self(error.to_string())
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "lighter-runtime: {}", self.0)
    }
}
