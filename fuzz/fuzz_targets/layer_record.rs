//! [`storage::fuzzing::layer_record`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| storage::fuzzing::layer_record(data));
