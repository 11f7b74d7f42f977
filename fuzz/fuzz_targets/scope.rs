//! [`runtime::fuzzing::scope`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| runtime::fuzzing::scope(data));
