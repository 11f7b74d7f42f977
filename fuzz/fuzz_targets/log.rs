//! [`container::fuzzing::log`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| container::fuzzing::log(data));
