//! [`oci::fuzzing::image_document`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| oci::fuzzing::image_document(data));
