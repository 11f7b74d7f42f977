//! [`runtime::fuzzing::seccomp_file`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| runtime::fuzzing::seccomp_file(data));
