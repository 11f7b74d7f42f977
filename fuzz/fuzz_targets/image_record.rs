//! [`image::fuzzing::image_record`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| image::fuzzing::image_record(data));
