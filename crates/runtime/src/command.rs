//! Finding the command inside the container, as execvp(3) would, and saying what is wrong with it.

use std::ffi::CString;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use sys::Errno;
use sys::process::Command;

use crate::error::{Error, ErrorKind, Result};

/// `PATH` of a process whose environment has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command that was found.
#[derive(Debug)]
pub(crate) struct Found {
    path: CString,
    command: Command,
    name: String,
}

impl Found {
    /// Replaces the process; returns only on failure.
    pub(crate) fn exec(&self) -> Error {
        let cause = self.command.exec(&self.path);
        let (kind, why) = match cause.errno() {
            // The file was there a moment ago, so what is missing is its interpreter or loader.
            Errno::NOENT => (ErrorKind::CommandNotFound, "no such file or directory"),
            Errno::ACCESS | Errno::PERM => (ErrorKind::CommandNotExecutable, "permission denied"),
            Errno::NOEXEC => (ErrorKind::CommandNotExecutable, "exec format error"),
            _ => (ErrorKind::CommandNotExecutable, "it does not start"),
        };
        Error::system(format!("cannot execute {:?}: {why}", self.name), cause).with_kind(kind)
    }
}

/// Looks `arguments[0]` up: as a path when it has a slash, in the environment's `PATH` otherwise. The current directory
/// and root are the container's.
pub(crate) fn find(arguments: &[String], environment: &[String]) -> Result<Found> {
    let Some(name) = arguments.first().filter(|name| !name.is_empty()) else {
        return Err(Error::new(ErrorKind::Config, "no command to run"));
    };
    let command = Command::new(arguments.iter().map(String::as_str), environment.iter().map(String::as_str)).map_err(
        |cause| Error::system("the command or its environment has a NUL byte", cause).with_kind(ErrorKind::Config),
    )?;
    let path = if name.contains('/') { probe(name).map(|()| name.clone()) } else { search(name, environment) };
    let path = path.map_err(|refusal| refusal.into_error(name))?;
    let path = CString::new(path)
        .map_err(|_| Error::new(ErrorKind::Config, format!("the command {name:?} has a NUL byte")))?;
    Ok(Found { path, command, name: name.clone() })
}

/// Why a path is no command.
enum Refusal {
    NotFound,
    NotExecutable(&'static str),
}

impl Refusal {
    /// Docker, Podman and their users match on these sentences.
    fn into_error(self, name: &str) -> Error {
        match self {
            Self::NotFound if name.contains('/') => Error::new(
                ErrorKind::CommandNotFound,
                format!("exec: {name:?}: stat {name}: no such file or directory"),
            ),
            Self::NotFound => {
                Error::new(ErrorKind::CommandNotFound, format!("exec: {name:?}: executable file not found in $PATH"))
            }
            Self::NotExecutable(why) => Error::new(ErrorKind::CommandNotExecutable, format!("exec: {name:?}: {why}")),
        }
    }
}

fn search(name: &str, environment: &[String]) -> std::result::Result<String, Refusal> {
    let path = environment.iter().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let mut refusal = Refusal::NotFound;
    for dir in path.split(':') {
        let candidate = if dir.is_empty() { format!("./{name}") } else { format!("{dir}/{name}") };
        match probe(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(Refusal::NotFound) => {}
            Err(other) => refusal = other,
        }
    }
    Err(refusal)
}

fn probe(path: &str) -> std::result::Result<(), Refusal> {
    // O_PATH opens devices, fifos and sockets without touching them.
    let file = match rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::ACCESS) => return Err(Refusal::NotExecutable("permission denied")),
        Err(_) => return Err(Refusal::NotFound),
    };
    let stat = rustix::fs::statat(&file, "", AtFlags::EMPTY_PATH).map_err(|_| Refusal::NotFound)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Err(Refusal::NotExecutable("is a directory")),
        FileType::RegularFile if stat.st_mode & 0o111 != 0 => Ok(()),
        _ => Err(Refusal::NotExecutable("permission denied")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(arguments: &[&str], environment: &[&str]) -> std::result::Result<CString, ErrorKind> {
        let own = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        find(&own(arguments), &own(environment)).map(|found| found.path).map_err(|error| error.kind())
    }

    #[test]
    fn commands_are_found_as_a_shell_would() {
        assert_eq!(kind(&["sh"], &["PATH=/nonexistent:/bin"]), Ok(c"/bin/sh".to_owned()));
        assert_eq!(kind(&["/bin/sh"], &[]), Ok(c"/bin/sh".to_owned()));
        assert_eq!(kind(&["no-such-command"], &[]), Err(ErrorKind::CommandNotFound));
        assert_eq!(kind(&["sh"], &["PATH="]), Err(ErrorKind::CommandNotFound));
        assert_eq!(kind(&["/etc"], &[]), Err(ErrorKind::CommandNotExecutable));
        assert_eq!(kind(&["/etc/passwd"], &[]), Err(ErrorKind::CommandNotExecutable));
        assert_eq!(kind(&["passwd"], &["PATH=/etc"]), Err(ErrorKind::CommandNotExecutable));
        assert_eq!(kind(&["/dev/null"], &[]), Err(ErrorKind::CommandNotExecutable));
        assert_eq!(kind(&[], &[]), Err(ErrorKind::Config));
        assert_eq!(kind(&[""], &[]), Err(ErrorKind::Config));
        assert_eq!(kind(&["a\0b"], &[]), Err(ErrorKind::Config));
    }
}
