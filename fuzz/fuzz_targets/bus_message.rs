//! [`runtime::fuzzing::bus_message`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| runtime::fuzzing::bus_message(data));
