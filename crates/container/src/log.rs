//! A container's log: docker's json-file form, one record a line, rotated by size.
//!
//! ```text
//! {"log":"hello\n","stream":"stdout","time":"2026-01-02T03:04:05.678901234Z"}
//! ```
//!
//! A record without `\n` at the end of `log` is a part of a line longer than [`MAX_LINE`] bytes, or the last line of a
//! process that ended without one. Text is UTF-8: each byte that is not becomes U+FFFD, as with docker; every other
//! byte, NUL too, comes back as it was.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod reader;
mod writer;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

pub use reader::{Entry, LogOptions, Reader, read};
pub(crate) use writer::Writer;

/// Longest text of one record, in bytes; longer lines are cut into several.
pub const MAX_LINE: usize = 16 * 1024;

/// The path of the log's file that was rotated `index` times; 0 is the current one.
fn rotated(path: &Path, index: u32) -> PathBuf {
    if index == 0 {
        return path.to_owned();
    }
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(format!(".{index}"));
    name.into()
}
