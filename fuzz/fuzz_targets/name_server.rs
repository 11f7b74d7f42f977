//! [`image::fuzzing::name_server`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| image::fuzzing::name_server(data));
