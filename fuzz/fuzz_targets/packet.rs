//! [`container::fuzzing::packet`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| container::fuzzing::packet(data));
