//! Control files: read whole and bounded, written in one call.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use sys::{Context as _, Errno};

use super::error::{Error, Result};
use super::host::Hierarchy;

/// Bound on files of a few lines, in bytes.
pub(super) const SMALL: usize = 1 << 20;
/// Bound on files with a line per process or per mount, in bytes.
pub(super) const LARGE: usize = 64 << 20;

/// The whole text of `name` below `at`, up to `bound` bytes; more is `EFBIG`.
pub(super) fn read_at(at: impl AsFd, name: &str, bound: usize) -> Result<String, Errno> {
    let fd = rustix::fs::openat(at, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = Vec::with_capacity(512);
    loop {
        match rustix::io::read(&fd, rustix::buffer::spare_capacity(&mut bytes)) {
            Ok(0) => break,
            Ok(_) if bytes.len() > bound => return Err(Errno::FBIG),
            Ok(_) => bytes.reserve(512),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    String::from_utf8(bytes).map_err(|_| Errno::ILSEQ)
}

/// Writes `value` to `name` below `at` in one call, as control files want it.
pub(super) fn write_at(at: impl AsFd, name: &str, value: &str) -> Result<(), Errno> {
    write_fd(open_for_writing(at, name)?, value)
}

/// Opens a control file for one or more writes.
pub(super) fn open_for_writing(at: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(at, name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Writes `value` to an open control file in one call.
pub(super) fn write_fd(fd: impl AsFd, value: &str) -> Result<(), Errno> {
    loop {
        match rustix::io::write(&fd, value.as_bytes()) {
            Ok(written) if written == value.len() => return Ok(()),
            Ok(_) => return Err(Errno::IO),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// One group's directory in one hierarchy.
#[derive(Clone, Copy)]
pub(super) struct Dir<'a> {
    pub(super) fd: BorrowedFd<'a>,
    pub(super) hierarchy: &'a Hierarchy,
    pub(super) path: &'a str,
}

impl Dir<'_> {
    /// The name of a control file for messages.
    pub(super) fn label(&self, name: &str) -> String {
        self.hierarchy.mount.join(self.path).join(name).display().to_string()
    }

    /// Writes a control file.
    pub(super) fn write(&self, name: &str, value: &str) -> Result<()> {
        write_at(self.fd, name, value).map_err(|errno| sys::Error::new("write", self.label(name), errno).into())
    }

    /// Reads a control file.
    pub(super) fn read(&self, name: &str) -> Result<String> {
        read_at(self.fd, name, SMALL).map_err(|errno| sys::Error::new("read", self.label(name), errno).into())
    }

    /// Reads a control file that not every kernel or configuration has.
    pub(super) fn read_if_present(&self, name: &str) -> Result<Option<String>> {
        match read_at(self.fd, name, SMALL) {
            Ok(text) => Ok(Some(text)),
            Err(Errno::NOENT | Errno::OPNOTSUPP) => Ok(None),
            Err(errno) => Err(errno).at("read", self.label(name)).map_err(Error::from),
        }
    }

    /// Reads a file of one number; `max` is the largest.
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>> {
        let Some(text) = self.read_if_present(name)? else { return Ok(None) };
        match text.trim() {
            "max" => Ok(Some(u64::MAX)),
            number => number.parse().map(Some).map_err(|_| self.malformed(name, &text)),
        }
    }

    /// The error for a file whose text is not what the kernel documents.
    pub(super) fn malformed(&self, name: &str, text: &str) -> Error {
        Error::Malformed { file: self.label(name), text: text.chars().take(80).collect() }
    }
}

/// The value of `key` in a flat keyed file (`key value` lines).
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    entries(text).find(|(name, _)| *name == key).map(|(_, value)| value)
}

/// The entries of a flat keyed file; lines of another form are passed over.
pub(super) fn entries(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key, value.trim().parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyed_files_are_read_by_key() {
        let text = "low 0\nhigh 12\noom_kill 3\nodd\nmax max\n";
        assert_eq!(keyed(text, "oom_kill"), Some(3));
        assert_eq!(keyed(text, "oom"), None);
        assert_eq!(keyed(text, "max"), None);
        assert_eq!(entries(text).count(), 3);
    }

    #[test]
    fn reading_is_bounded() {
        assert_eq!(read_at(rustix::fs::CWD, "/proc/self/status", 16), Err(Errno::FBIG));
        assert!(read_at(rustix::fs::CWD, "/proc/self/status", SMALL).expect("readable").contains("Pid:"));
    }
}
