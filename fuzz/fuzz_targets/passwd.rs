//! [`runtime::fuzzing::passwd`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| runtime::fuzzing::passwd(data));
