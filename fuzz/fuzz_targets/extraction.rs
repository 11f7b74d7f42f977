//! [`storage::fuzzing::extraction`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| storage::fuzzing::extraction(data));
