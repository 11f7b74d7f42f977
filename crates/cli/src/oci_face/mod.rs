//! `lighter-runtime`: the OCI runtime's command line, as runc's and crun's callers write it (Go-style flags, so it is
//! parsed by hand).
//!
//! Each command is one short process; what they share is a directory per container below `--root` (`store.rs`). A
//! created container waits at a gate, a socket in that directory, until `start` opens it.

mod arguments;
mod checkpoint;
mod console;
mod control;
mod create;
mod events;
mod exec;
mod failure;
mod kill;
mod members;
mod mounts;
mod remove;
mod report;
mod run;
mod start;
mod store;
mod template;

use std::ffi::OsString;
use std::io::Write as _;

use arguments::{Command, Flags};
use failure::Failure;

/// Runs the runtime's command line after the program's name; gives the exit code.
pub(crate) fn main(args: Vec<OsString>) -> i32 {
    let args: Result<Vec<String>, OsString> = args.into_iter().map(OsString::into_string).collect();
    let (global, outcome) = match args {
        Ok(args) => {
            let (global, command) = arguments::parse(&args);
            match failure::open_log(&global) {
                // Where there is no log, nothing is to be written to it.
                Err(failure) => (Flags::default(), Err(failure)),
                Ok(()) => {
                    let outcome = command.map_err(Failure::from).and_then(|command| act(&global, command));
                    (global, outcome)
                }
            }
        }
        Err(odd) => (Flags::default(), Err(Failure::new(format!("argument {odd:?} is not UTF-8")))),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            failure.report(&global);
            failure.code
        }
    }
}

/// Reads a command line, words separated by NUL, and does nothing; for the fuzz target.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let words: Vec<String> = text.split('\0').map(str::to_owned).collect();
    let (global, command) = arguments::parse(&words);
    let _ = check_global(&global);
    if let Ok(Command::Run(name, flags)) = command {
        // Commands without a container have no words.
        assert!(flags.words.is_empty() || arguments::is_id(flags.id()), "{name} {flags:?}");
        for flag in ["memory", "interval", "preserve-fds", "pids-limit"] {
            let _ = flags.number::<i64>(flag);
        }
    }
}

fn act(global: &Flags, command: Command) -> Result<i32, Failure> {
    check_global(global)?;
    let (name, flags) = match command {
        Command::Version => {
            let version = env!("CARGO_PKG_VERSION");
            print(&format!("lighter-runtime version {version}\nspec: {}\n", oci::runtime::VERSION))?;
            return Ok(0);
        }
        Command::Help(command) => {
            print(&arguments::help(command))?;
            return Ok(0);
        }
        Command::Run(name, flags) => (name, flags),
    };
    match name {
        "checkpoint" => checkpoint::checkpoint(global, &flags),
        "restore" => checkpoint::restore(global, &flags),
        "mounts" => mounts::mounts(global, &flags),
        "create" => create::create(global, &flags),
        "run" => run::run(global, &flags),
        "start" => start::start(global, &flags),
        "state" => report::state(global, &flags),
        "list" => report::list(global, &flags),
        "ps" => report::ps(global, &flags),
        "kill" => kill::kill(global, &flags),
        "delete" => remove::delete(global, &flags),
        "exec" => exec::exec(global, &flags),
        "pause" => control::pause(global, &flags),
        "resume" => control::resume(global, &flags),
        "update" => control::update(global, &flags),
        "events" => events::events(global, &flags),
        "spec" => template::spec(&flags),
        "features" => template::features(),
        other => Err(Failure::new(format!("unknown command {other:?}"))),
    }
}

fn check_global(global: &Flags) -> Result<(), Failure> {
    match global.get("cgroup-manager") {
        None | Some("cgroupfs" | "systemd" | "disabled") => {}
        Some(other) => {
            return Err(Failure::new(format!("--cgroup-manager: {other:?} is none of cgroupfs, systemd and disabled")));
        }
    }
    match global.get("log-level") {
        None | Some("error" | "warning" | "warn" | "info" | "debug") => {}
        Some(other) => return Err(Failure::new(format!("--log-level: {other:?} is none of error, warning and debug"))),
    }
    match global.get("rootless") {
        None | Some("true" | "false" | "auto") => {}
        Some(other) => return Err(Failure::new(format!("--rootless: {other:?} is none of true, false and auto"))),
    }
    match global.get("log-format") {
        None | Some("json" | "text") => Ok(()),
        Some(other) => Err(Failure::new(format!("--log-format: {other:?} is neither json nor text"))),
    }
}

fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    let printed = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    printed.map_err(|error| Failure::new(format!("cannot write to standard output: {error}")))
}
