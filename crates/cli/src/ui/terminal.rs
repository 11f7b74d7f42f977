//! Raw mode that is always left again: when the guard is dropped, on a panic, and on signals (which the relay reads as
//! messages and answers by returning).

use std::os::fd::AsFd;
use std::sync::{Mutex, Once};

use rustix::termios::{self, OptionalActions, Termios};

use crate::failure::{Failure, Outcome};

/// The settings to go back to, for the panic hook.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);
static HOOK: Once = Once::new();

/// Standard input in raw mode until dropped.
#[derive(Debug)]
pub(crate) struct Raw(());

impl Raw {
    /// Puts the terminal on standard input into raw mode.
    ///
    /// # Errors
    /// It is no terminal, or its settings cannot be changed.
    pub(crate) fn enter() -> Outcome<Self> {
        let stdin = std::io::stdin();
        let failed = |errno: rustix::io::Errno| Failure::io("cannot set the terminal to raw mode", errno);
        let before = termios::tcgetattr(&stdin).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        HOOK.call_once(|| {
            let inner = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                restore();
                inner(info);
            }));
        });
        // The hook must know the old settings before they change.
        if let Ok(mut slot) = BEFORE.lock() {
            *slot = Some(before);
        }
        let guard = Self(());
        termios::tcsetattr(&stdin, OptionalActions::Now, &raw).map_err(failed)?;
        Ok(guard)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    if let Ok(mut slot) = BEFORE.try_lock()
        && let Some(before) = slot.take()
    {
        // The terminal may be gone; there is nobody to tell.
        let _ = termios::tcsetattr(std::io::stdin(), OptionalActions::Drain, &before);
    }
}

/// Whether `fd` is a terminal.
pub(crate) fn is_terminal(fd: impl AsFd) -> bool {
    termios::isatty(fd)
}

/// Rows and columns of the terminal on standard output, else on standard input.
pub(crate) fn size() -> Option<(u16, u16)> {
    let known = |(rows, columns): (u16, u16)| (rows > 0 && columns > 0).then_some((rows, columns));
    sys::pty::size(std::io::stdout())
        .ok()
        .and_then(known)
        .or_else(|| sys::pty::size(std::io::stdin()).ok().and_then(known))
}
