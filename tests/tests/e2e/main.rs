//! End to end: the release binary, driven as a user drives it, on a host of each test's own.
//!
//! Modules are named after what the user sees. `cargo xtask test` builds everything these tests need.

mod archives;
mod bundle_mounts;
mod copies;
mod debian;
mod disk_faults;
mod exploits;
mod fallbacks;
mod faults;
mod groups;
mod hello;
mod images;
mod input;
mod interleavings;
mod isolation;
mod jail;
mod labels;
mod lifecycle;
mod limits;
mod manifests;
mod memory;
mod mounts;
mod pull;
mod push;
mod registries;
mod rootless;
mod run;
mod runtime_checkpoint;
mod runtime_crash;
mod runtime_face;
mod runtime_filters;
mod runtime_mounts;
mod runtime_namespaces;
mod runtime_places;
mod runtime_process;
mod runtime_seccomp;
mod save;
mod soak;
mod store;
mod streams;
mod terminals;
mod transfers;
mod users;
mod volumes;

use serde_json::json;
use testkit::Image;

/// The program that attacks: see `src/bin/payload.rs`.
fn payload() -> Vec<u8> {
    std::fs::read(env!("CARGO_BIN_EXE_payload")).expect("cargo builds the payload with the tests")
}

/// busybox with the payload as `/bin/payload`.
fn armed(name: &str) -> Image {
    Image::busybox(name).file("bin/payload", 0o755, &payload()).set("Cmd", json!(["sh"]))
}
