//! An archive to a file or to standard output: never to a terminal, and as a file whole or not at all.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::failure::{Failure, Outcome};

/// Bytes written at a time.
const BUFFER: usize = 1 << 20;

/// Lets `make` write an archive to the file `target`, or to standard output; `hint` says how to do without a terminal.
///
/// # Errors
/// Standard output is a terminal; what `make` says; those of writing.
pub(super) fn write(
    target: Option<&str>,
    hint: &str,
    mut make: impl FnMut(&mut dyn Write) -> Outcome<()>,
) -> Outcome<()> {
    match target {
        Some(path) => to_file(Path::new(path), &mut make),
        None if io::stdout().is_terminal() => {
            Err(Failure::usage_hint("refusing to write an archive to a terminal", hint))
        }
        None => to_stream(io::stdout().as_fd(), &mut make),
    }
}

fn to_stream(to: impl AsFd, make: &mut dyn FnMut(&mut dyn Write) -> Outcome<()>) -> Outcome<()> {
    let failed = |error: io::Error| Failure::io("cannot write the archive", error);
    let file = File::from(to.as_fd().try_clone_to_owned().map_err(failed)?);
    let mut out = BufWriter::with_capacity(BUFFER, file);
    make(&mut out)?;
    out.flush().map_err(failed)
}

/// Into a file that is there whole or not at all; what is no regular file is written to as it is.
fn to_file(path: &Path, make: &mut dyn FnMut(&mut dyn Write) -> Outcome<()>) -> Outcome<()> {
    let shown = path.display();
    let failed = |error: io::Error| Failure::io(format!("cannot write {shown}"), error);
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            return Err(Failure::usage_hint(format!("{shown} is a directory"), "name a file in it"));
        }
        Ok(found) if !found.is_file() => {
            return to_stream(File::options().write(true).open(path).map_err(failed)?, make);
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    // A link stays one: its target is replaced.
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let unfinished = Unfinished::beside(&path).map_err(failed)?;
    to_stream(&unfinished.file, make)?;
    rustix::fs::fsync(&unfinished.file).map_err(|errno| failed(errno.into()))?;
    unfinished.finish(&path).map_err(failed)
}

/// A file that goes away unless it is finished.
struct Unfinished {
    file: File,
    path: Option<PathBuf>,
}

impl Unfinished {
    fn beside(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy().into_owned();
        for attempt in 0..100 {
            let temp = path.with_file_name(format!(".{name}.{}-{attempt}", std::process::id()));
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match rustix::fs::openat(CWD, &temp, flags, Mode::RUSR | Mode::WUSR) {
                Ok(fd) => return Ok(Self { file: fd.into(), path: Some(temp) }),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn finish(mut self, path: &Path) -> io::Result<()> {
        if let Some(temp) = &self.path {
            rustix::fs::rename(temp, path)?;
        }
        self.path = None;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // The failure that brought us here is the one to tell.
            let _ = rustix::fs::unlink(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_when_it_is_finished() {
        let dir = std::env::temp_dir().join(format!("lighter-cli-archive-{}", std::process::id()));
        std::fs::create_dir(&dir).expect("a fresh directory");
        let path = dir.join("a.tar");
        std::fs::write(&path, "old").expect("written");
        drop(Unfinished::beside(&path).expect("made"));
        assert_eq!(std::fs::read(&path).expect("there"), b"old");
        let new = Unfinished::beside(&path).expect("made");
        (&new.file).write_all(b"new").expect("written");
        new.finish(&path).expect("renamed");
        assert_eq!(std::fs::read(&path).expect("there"), b"new");
        assert_eq!(std::fs::read_dir(&dir).expect("a directory").count(), 1);
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
