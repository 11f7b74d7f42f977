//! [`cli::fuzzing::runtime_arguments`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cli::fuzzing::runtime_arguments(data));
