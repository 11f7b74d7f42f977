//! [`oci::fuzzing::runtime_spec`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| oci::fuzzing::runtime_spec(data));
