//! The running program, protected from containers (CVE-2019-5736).
//!
//! A container can get hold of the program that set it up through `/proc/self/exe`. What lighter executes next to a
//! container is therefore opened through a detached, read-only copy of its mount: no namespace can reach that mount to
//! make it writable, and no byte is copied. Without the privilege for it, a sealed memory file takes its place.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags, StatVfsMountFlags};

use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::mount::{Attributes, Change, clone_path, set_attributes};
use crate::process::Command;

const SELF: &str = "/proc/self/exe";

/// Opens the running program so that whoever gets at it cannot write it.
///
/// # Errors
/// When neither a detached mount (`CAP_SYS_ADMIN`, kernel 5.12) nor a memory file can be made.
pub fn executable() -> Result<OwnedFd> {
    detached().or_else(|_| copied())
}

/// Whether the running program already sits on a read-only mount or in a sealed memory file.
#[must_use]
pub fn is_sealed() -> bool {
    let Ok(file) = rustix::fs::openat(CWD, SELF, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) else {
        return false;
    };
    let read_only = rustix::fs::fstatvfs(&file).is_ok_and(|stat| stat.f_flag.contains(StatVfsMountFlags::RDONLY));
    read_only || rustix::fs::fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(SealFlags::WRITE))
}

/// Executes the running program again from a protected copy, with the same arguments and environment; comes back at
/// once when it runs from one already. For a program about to put a process of its own into a container whose root is
/// the host's. Open descriptors that are not close-on-exec go along.
///
/// # Errors
/// As [`executable`], `EINVAL` for arguments or an environment that are not UTF-8, or execveat(2)'s.
pub fn execute_again() -> Result<()> {
    if is_sealed() {
        return Ok(());
    }
    let odd = |text: std::ffi::OsString| Error::new("execveat", format!("{text:?} (not UTF-8)"), Errno::INVAL);
    let arguments = std::env::args_os().map(|word| word.into_string().map_err(odd)).collect::<Result<Vec<_>>>()?;
    let environment = std::env::vars_os()
        .map(|(name, value)| Ok(format!("{}={}", name.into_string().map_err(odd)?, value.into_string().map_err(odd)?)))
        .collect::<Result<Vec<_>>>()?;
    let command = Command::new(arguments.iter().map(String::as_str), environment.iter().map(String::as_str))?;
    Err(command.exec_fd(executable()?))
}

fn detached() -> Result<OwnedFd> {
    let path = std::fs::read_link(SELF).at("readlink", SELF)?;
    // open_tree cannot copy a magic link's target when that was itself opened through a detached mount, so the path is
    // tried first and counts only while it is still the running file.
    let mount = clone_path(&path, false)?;
    let (here, there) = (rustix::fs::stat(SELF).at("stat", SELF)?, rustix::fs::fstat(&mount).at("fstat", SELF)?);
    if (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino) {
        return Err(Error::new("open_tree", path.display(), Errno::STALE));
    }
    set_attributes(&mount, &Change { set: Attributes::RDONLY, ..Change::default() })?;
    Ok(mount)
}

fn copied() -> Result<OwnedFd> {
    let source = rustix::fs::openat(CWD, SELF, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).at("open", SELF)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Said since 6.3, and needed where `vm.memfd_noexec` makes memory files that cannot be executed; unknown before.
    let copy = match rustix::fs::memfd_create("lighter", flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => rustix::fs::memfd_create("lighter", flags),
        made => made,
    }
    .at("memfd_create", "lighter")?;
    let length = rustix::fs::fstat(&source).at("fstat", SELF)?.st_size;
    let mut left = usize::try_from(length).unwrap_or(0);
    while left > 0 {
        let sent = rustix::fs::sendfile(&copy, &source, None, left).at("sendfile", SELF)?;
        if sent == 0 {
            break;
        }
        left -= sent;
    }
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(copy.as_fd(), seals).at("fcntl", "F_ADD_SEALS")?;
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sealed_program_cannot_be_written() {
        for file in [detached(), copied()] {
            let file = file.expect("made as root");
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
            let error = std::fs::OpenOptions::new()
                .append(true)
                .open(&path)
                .and_then(|mut again| std::io::Write::write_all(&mut again, b"x"));
            assert!(error.is_err(), "{path} took a write");
        }
    }
}
