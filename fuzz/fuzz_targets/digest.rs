//! [`oci::fuzzing::digest`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| oci::fuzzing::digest(data));
