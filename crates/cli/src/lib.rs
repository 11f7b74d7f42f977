//! `lighter`: all that the only binary is made of. It is also the monitor of every container, the OCI runtime `lighter-runtime`, and the
//! program of the built-in image; which of them it is decides the name it was called by, before anything else happens.

mod app;
mod commands;
mod failure;
mod flags;
mod format;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod hello;
mod inspect;
mod manual;
mod oci_face;
mod output;
mod parse;
mod spec;
mod ui;
mod verbs;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

/// Does what the name it was called by and the arguments say; gives the exit code.
#[must_use]
pub fn main() -> ExitCode {
    // First of all: `hello` tells how long its start took.
    let started = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    let file_name = name.as_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let code = if name.as_bytes().starts_with(b"lighter-monitor") {
        container::monitor::main()
    } else if name == engine::jail::ARGUMENT {
        engine::jail::main()
    } else if file_name == b"lighter-runtime" {
        oci_face::main(args.collect())
    } else if file_name.ends_with(b"hello") && is_set("LIGHTER_HELLO") {
        hello::main(nanoseconds(started))
    } else {
        i32::from(app::main(args, nanoseconds(started)))
    };
    ExitCode::from(u8::try_from(code & 0xff).unwrap_or(u8::MAX))
}

fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| value != OsStr::new(""))
}

fn nanoseconds(time: rustix::time::Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}
