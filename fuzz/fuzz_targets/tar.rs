//! [`storage::fuzzing::tar`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| storage::fuzzing::tar(data));
