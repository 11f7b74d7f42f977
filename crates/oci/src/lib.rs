//! Types of the Open Container Initiative's specifications, and nothing else: no I/O, no policy.
//!
//! - [`digest`]: content addresses, grammar-checked before they can become a path.
//! - [`duration`]: spans of time, as the formats around them write them.
//! - [`image`]: manifests, indexes and image configurations.
//! - [`platform`]: what an image runs on.
//! - [`reference`]: names of images.
//! - [`runtime`]: the runtime specification's `config.json`.

pub mod digest;
pub mod duration;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod image;
pub mod platform;
pub mod reference;
pub mod runtime;

pub use digest::Digest;
pub use platform::Platform;
pub use reference::Reference;
