//! Pseudo-terminals of a container's own devpts, and window sizes.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pty::OpenptFlags;

use crate::error::{Context, Error, Result};

/// Opens a new terminal of the devpts mounted as `devpts`: its master and its slave. The slave comes from the master
/// (TIOCGPTPEER, kernel 4.13), never from a path that a container could replace (CVE-2025-52565).
///
/// # Errors
/// open(2)'s and ioctl(2)'s.
pub fn open(devpts: impl AsFd) -> Result<(OwnedFd, OwnedFd)> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let master = rustix::fs::openat(devpts, "ptmx", flags, Mode::empty()).at("openat", "ptmx")?;
    rustix::pty::unlockpt(&master).at("ioctl", "TIOCSPTLCK")?;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
        .at("ioctl", "TIOCGPTPEER")?;
    Ok((master, slave))
}

/// The number of a terminal below its devpts.
///
/// # Errors
/// ioctl(2)'s.
pub fn number(master: impl AsFd) -> Result<u32> {
    let mut number: libc::c_uint = 0;
    // SAFETY: TIOCGPTN stores one unsigned integer.
    let status = unsafe { libc::ioctl(master.as_fd().as_raw_fd(), libc::TIOCGPTN, &raw mut number) };
    if status == 0 {
        return Ok(number);
    }
    let errno = std::io::Error::last_os_error().raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
    Err(Error::new("ioctl", "TIOCGPTN", errno))
}

/// Sets a terminal's size.
///
/// # Errors
/// `ENOTTY` when it is no terminal.
pub fn resize(terminal: impl AsFd, rows: u16, columns: u16) -> Result<()> {
    let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size).at("ioctl", "TIOCSWINSZ")
}

/// A terminal's size: rows and columns.
///
/// # Errors
/// `ENOTTY` when it is no terminal.
pub fn size(terminal: impl AsFd) -> Result<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(terminal).at("ioctl", "TIOCGWINSZ")?;
    Ok((size.ws_row, size.ws_col))
}

/// Makes `terminal` the controlling terminal of this process, which has just become a session leader.
///
/// # Errors
/// ioctl(2)'s.
pub fn control(terminal: impl AsFd) -> Result<()> {
    rustix::process::ioctl_tiocsctty(terminal).at("ioctl", "TIOCSCTTY")
}
