//! The binary. Everything is in the library beside it, where fuzz targets reach the parsers too.

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
