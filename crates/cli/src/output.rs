//! Standard output: whole, quiet when its reader has gone.

use std::io::{self, IsTerminal as _, Write as _};

use crate::failure::{Failure, Outcome};

/// Prints text: as it is, but on a terminal with control characters shown as escapes, since templates and JSON carry
/// what images and containers say.
///
/// # Errors
/// What the write says; a broken pipe ends the command quietly.
pub(crate) fn print(text: &str) -> Outcome<()> {
    if io::stdout().is_terminal() {
        return bytes(crate::format::escape::lines(text).as_bytes());
    }
    bytes(text.as_bytes())
}

/// Prints a line.
///
/// # Errors
/// As [`print`].
pub(crate) fn line(text: &str) -> Outcome<()> {
    print(&format!("{text}\n"))
}

/// Prints bytes as they are.
///
/// # Errors
/// As [`print`].
pub(crate) fn bytes(bytes: &[u8]) -> Outcome<()> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    written.map_err(|error| Failure::io("cannot write to standard output", error))
}

/// Prints a warning on standard error.
pub(crate) fn warning(text: &str) {
    let text = crate::format::escape::lines(text);
    let text = if text.starts_with("Note:") { text.into_owned() } else { format!("Warning: {text}") };
    // Nothing can be said about a standard error that cannot be written.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Whether standard error is a terminal that may be drawn on.
pub(crate) fn draws() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}
