//! [`image::fuzzing::archive_members`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| image::fuzzing::archive_members(data));
