//! What the verbs do: each reads its flags, then asks the engine and shows the answer.

mod archive_file;
pub(crate) mod attach;
pub(crate) mod df;
pub(crate) mod exec;
pub(crate) mod export;
pub(crate) mod history;
pub(crate) mod image_mount;
pub(crate) mod images;
pub(crate) mod inspect;
pub(crate) mod lifecycle;
pub(crate) mod login;
pub(crate) mod logs;
pub(crate) mod manifest;
pub(crate) mod prune;
pub(crate) mod ps;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod run;
pub(crate) mod save;
pub(crate) mod search;
pub(crate) mod start;
pub(crate) mod store;
pub(crate) mod system;
pub(crate) mod transfer;
mod tree;
pub(crate) mod volume;

use crate::failure::{Class, Failure, Outcome};

/// Does `act` for every name; failures are told as they come and the others go on.
///
/// # Errors
/// One, told already, when any failed.
fn for_each(names: &[String], mut act: impl FnMut(&str) -> Outcome<()>) -> Outcome<u8> {
    let mut code = 0;
    for name in names {
        match act(name) {
            Ok(()) => {}
            // Nobody reads our answers: going on would be pointless for us, but not for the containers.
            Err(Failure::Io { error, .. }) if error.kind() == std::io::ErrorKind::BrokenPipe => code = 141,
            Err(failure) => {
                failure.report();
                code = code.max(failure.code(Class::Plain));
            }
        }
    }
    Ok(code)
}
