//! The user's side of a running process: terminal, keys, signals, streams, progress.

pub(crate) mod exec;
pub(crate) mod keys;
pub(crate) mod progress;
pub(crate) mod relay;
pub(crate) mod signals;
pub(crate) mod streams;
pub(crate) mod terminal;
