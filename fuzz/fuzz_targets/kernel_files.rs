//! [`runtime::fuzzing::kernel_files`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| runtime::fuzzing::kernel_files(data));
