//! Docker's JSON shapes of `inspect`: the wire family, made from the engine's types and never read back.

pub(crate) mod container;
pub(crate) mod host_config;
pub(crate) mod image;
pub(crate) mod posture;

/// Docker's notation of a moment that has not come.
pub(crate) const NEVER: &str = "0001-01-01T00:00:00Z";

/// `text`, or the moment that has not come.
pub(crate) fn moment(text: &str) -> String {
    if text.is_empty() { NEVER.to_owned() } else { text.to_owned() }
}
