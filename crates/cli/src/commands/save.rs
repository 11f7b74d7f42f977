//! `save`.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write as _};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use engine::{Engine, Progress, Quiet};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::failure::{Failure, Outcome};
use crate::flags::{Args, Job};
use crate::output;
use crate::ui::progress::{Lines, Shown};

/// Bytes written at a time.
const BUFFER: usize = 1 << 20;

/// Reads `save`'s flags.
///
/// # Errors
/// None.
pub(crate) fn parse(args: &Args) -> Outcome<Job> {
    let names = args.word_list();
    let platforms = Some(args.list("platform").join(",")).filter(|list| !list.is_empty());
    let target = args.owned("output").filter(|path| !path.is_empty());
    Ok(Box::new(move |app| {
        if target.is_none() && io::stdout().is_terminal() {
            let hint = "lighter save -o FILE, or redirect standard output";
            return Err(Failure::usage_hint("refusing to write an archive to a terminal", hint));
        }
        let engine = app.engine()?;
        let shown = Shown::new(Lines::Stderr, None);
        let progress: &dyn Progress = if output::draws() { &shown } else { &Quiet };
        let job = Saving { engine: &engine, names: &names, platforms: platforms.as_deref(), progress };
        match target {
            Some(path) => job.to_file(Path::new(&path))?,
            None => job.write(io::stdout().as_fd())?,
        }
        Ok(0)
    }))
}

struct Saving<'a> {
    engine: &'a Engine,
    names: &'a [String],
    platforms: Option<&'a str>,
    progress: &'a dyn Progress,
}

impl Saving<'_> {
    fn write(&self, to: impl AsFd) -> Outcome<()> {
        let failed = |error: io::Error| Failure::io("cannot write the archive", error);
        let file = File::from(to.as_fd().try_clone_to_owned().map_err(failed)?);
        let mut out = BufWriter::with_capacity(BUFFER, file);
        self.engine.save(self.names, self.platforms, &mut out, self.progress)?;
        out.flush().map_err(failed)
    }

    /// Into a file that is there whole or not at all; what is no regular file is written to as it is.
    fn to_file(&self, path: &Path) -> Outcome<()> {
        let shown = path.display();
        let failed = |error: io::Error| Failure::io(format!("cannot write {shown}"), error);
        match std::fs::metadata(path) {
            Ok(found) if found.is_dir() => {
                return Err(Failure::usage_hint(format!("{shown} is a directory"), "name a file in it"));
            }
            Ok(found) if !found.is_file() => {
                return self.write(File::options().write(true).open(path).map_err(failed)?);
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        // A link stays one: its target is replaced.
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let unfinished = Unfinished::beside(&path).map_err(failed)?;
        self.write(&unfinished.file)?;
        rustix::fs::fsync(&unfinished.file).map_err(|errno| failed(errno.into()))?;
        unfinished.finish(&path).map_err(failed)
    }
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
        let dir = std::env::temp_dir().join(format!("lighter-cli-save-{}", std::process::id()));
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
