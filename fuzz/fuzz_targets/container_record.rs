//! [`container::fuzzing::container_record`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| container::fuzzing::container_record(data));
