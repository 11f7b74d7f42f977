//! The target that the environment variable `FUZZ_TARGET` names: all of them in one program, which is linked once.
#![no_main]

use std::sync::LazyLock;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET is set");
    fuzz::find(&name).expect("FUZZ_TARGET is a target")
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET(data));
