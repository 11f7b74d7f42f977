//! Errors of system calls: call, object, errno.

use std::borrow::Cow;
use std::fmt;

use rustix::io::Errno;

/// A failed system call.
#[derive(Clone, PartialEq, Eq)]
pub struct Error {
    call: Cow<'static, str>,
    object: String,
    errno: Errno,
}

/// The result of a system call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// `call` on `object` failed with `errno`.
    pub fn new(call: impl Into<Cow<'static, str>>, object: impl fmt::Display, errno: Errno) -> Self {
        Self { call: call.into(), object: object.to_string(), errno }
    }

    /// The system call's name.
    #[must_use]
    pub fn call(&self) -> &str {
        &self.call
    }

    /// What the call was made on: a path, a mount type, a process.
    #[must_use]
    pub fn object(&self) -> &str {
        &self.object
    }

    /// The error number.
    #[must_use]
    pub fn errno(&self) -> Errno {
        self.errno
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // std knows the C library's sentence for each errno; its " (os error N)" tail is noise to a user.
        let sentence = std::io::Error::from_raw_os_error(self.errno.raw_os_error()).to_string();
        let sentence = sentence.split(" (os error").next().unwrap_or_default();
        if self.object.is_empty() {
            write!(f, "{}: {sentence}", self.call)
        } else {
            write!(f, "{} {}: {sentence}", self.call, self.object)
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} ({:?})", self.errno)
    }
}

impl std::error::Error for Error {}

/// Says which call on which object an errno came from.
pub trait Context<T> {
    /// Names the call and the object; the object is only formatted on failure.
    ///
    /// # Errors
    /// The error of `self`, with the call and the object added.
    fn at(self, call: &'static str, object: impl fmt::Display) -> Result<T>;
}

impl<T> Context<T> for std::result::Result<T, Errno> {
    fn at(self, call: &'static str, object: impl fmt::Display) -> Result<T> {
        self.map_err(|errno| Error::new(call, object, errno))
    }
}

impl<T> Context<T> for std::io::Result<T> {
    fn at(self, call: &'static str, object: impl fmt::Display) -> Result<T> {
        self.map_err(|error| {
            let errno = error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
            Error::new(call, object, errno)
        })
    }
}
