//! Docker's grammars of values: text to the engine's types, with a sentence for what does not fit.

pub(crate) mod csv;
pub(crate) mod device;
pub(crate) mod env;
pub(crate) mod filter;
pub(crate) mod moment;
pub(crate) mod mount;
pub(crate) mod signal;
pub(crate) mod size;
pub(crate) mod ulimit;

/// Splits `KEY=VALUE`.
///
/// # Errors
/// No `=`, or nothing before it.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".into()),
    }
}
