//! [`runtime::fuzzing::resources`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| runtime::fuzzing::resources(data));
