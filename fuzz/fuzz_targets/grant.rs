//! [`image::fuzzing::grant`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| image::fuzzing::grant(data));
