//! The program of the built-in image: tells, from inside, what a container is.
//!
//! It reads /proc and /sys of the container and asks nobody; what it cannot read it says so.

mod facts;
mod render;

use std::io::Write as _;

/// Reads text as the kernel's files; for the fuzz target.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.lines().count();
    assert!(facts::id_map(&text).len() <= lines && facts::mounts(&text).len() <= lines);
}

/// Prints the page; gives the exit code. `now` is this process's first instruction, nanoseconds of CLOCK_MONOTONIC.
pub(crate) fn main(now: u64) -> i32 {
    let since = std::env::var("LIGHTER_RUN_STARTED").ok().and_then(|text| text.parse::<u64>().ok());
    let page = render::page(&facts::Facts::gather(since.and_then(|start| now.checked_sub(start))));
    match std::io::stdout().lock().write_all(page.as_bytes()) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}
