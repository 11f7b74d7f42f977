//! The layers of an overlay, told to the kernel by descriptor.
//!
//! Three generations of kernels take them in three ways:
//!
//! | kernel | layers | looked up |
//! |---|---|---|
//! | 6.13 | descriptors | not at all |
//! | 6.5 | one path each | as they are told |
//! | before | one list of 255 bytes | at the mount: names of descriptors, relative to `/proc/self/fd`, keep it short |
//!
//! Before 6.15 they must also lie on mounts that are attached in the namespace of whoever mounts.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::mount::{Attributes, NewFs};

/// The directories of an overlay that can be written to, both on one file system.
#[derive(Clone, Copy, Debug)]
pub struct Writable<'a> {
    /// What is changed.
    pub upper: &'a OwnedFd,
    /// The kernel's own.
    pub work: &'a OwnedFd,
}

/// An overlay whose layers the kernel has been told of.
#[derive(Debug)]
pub struct Overlay {
    fs: NewFs,
    told: Told,
}

/// How the kernel knows the layers.
#[derive(Debug)]
enum Told {
    /// It has them.
    Whole,
    /// By names that mean something in `/proc/self/fd` only, where the mount has to be made.
    ByNumber,
}

impl Overlay {
    /// An overlay of `lowers`, the topmost first. `options` sets everything else. Without `writable` there have to be two
    /// layers.
    ///
    /// # Errors
    /// fsopen(2)'s and fsconfig(2)'s; `EINVAL` for more layers than kernels before 6.5 can be told of, some seventy.
    pub fn new(
        lowers: &[OwnedFd],
        writable: Option<Writable<'_>>,
        options: impl FnOnce(&NewFs) -> Result<()>,
    ) -> Result<Self> {
        let fs = NewFs::open("overlay")?;
        options(&fs)?;
        let told = tell(&fs, lowers, writable)?;
        Ok(Self { fs, told })
    }

    /// Mounts it, detached. Before kernel 6.5 the process works in another directory for a moment.
    ///
    /// # Errors
    /// The file system's own refusal; `EINVAL` also for layers on detached mounts before kernel 6.15.
    pub fn mount(self, attributes: Attributes) -> Result<OwnedFd> {
        match self.told {
            Told::Whole => self.fs.mount(attributes),
            Told::ByNumber => among_descriptors(|| self.fs.mount(attributes)),
        }
    }
}

fn tell(fs: &NewFs, lowers: &[OwnedFd], writable: Option<Writable<'_>>) -> Result<Told> {
    let path = |file: &OwnedFd| format!("/proc/self/fd/{}", file.as_raw_fd());
    let refused = |error: &Error| matches!(error.errno(), Errno::INVAL | Errno::BADF);
    match lowers.iter().try_for_each(|lower| fs.set_fd("lowerdir+", lower.as_fd())) {
        Ok(()) => {
            if let Some(Writable { upper, work }) = writable {
                fs.set_fd("upperdir", upper)?;
                fs.set_fd("workdir", work)?;
            }
            return Ok(Told::Whole);
        }
        Err(error) if refused(&error) => {}
        // Overlayfs before 6.5 takes its options as one string, and would find out about `lowerdir+` at the mount only.
        Err(error) if error.errno() == Errno::OPNOTSUPP => return tell_numbers(fs, lowers, writable),
        Err(error) => return Err(error),
    }
    match lowers.iter().try_for_each(|lower| fs.set("lowerdir+", &path(lower))) {
        Err(error) if refused(&error) => return tell_numbers(fs, lowers, writable),
        other => other?,
    }
    if let Some(Writable { upper, work }) = writable {
        fs.set("upperdir", &path(upper))?;
        fs.set("workdir", &path(work))?;
    }
    Ok(Told::Whole)
}

fn tell_numbers(fs: &NewFs, lowers: &[OwnedFd], writable: Option<Writable<'_>>) -> Result<Told> {
    let name = |file: &OwnedFd| file.as_raw_fd().to_string();
    fs.set("lowerdir", &lowers.iter().map(name).collect::<Vec<_>>().join(":"))?;
    if let Some(Writable { upper, work }) = writable {
        fs.set("upperdir", &name(upper))?;
        fs.set("workdir", &name(work))?;
    }
    Ok(Told::ByNumber)
}

/// Does `work` in the directory of this process's descriptors, and comes back.
fn among_descriptors<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let here =
        rustix::fs::open(".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).at("open", ".")?;
    rustix::process::chdir("/proc/self/fd").at("chdir", "/proc/self/fd")?;
    let result = work();
    rustix::process::fchdir(&here).at("fchdir", "the directory before")?;
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_names_where_they_are_looked_up() {
        let file = std::fs::File::open("/proc/version").expect("readable");
        let before = std::env::current_dir().expect("a directory");
        let name = file.as_raw_fd().to_string();
        let read =
            among_descriptors(|| std::fs::read_to_string(&name).map_err(|_| Error::new("read", &name, Errno::IO)));
        assert_eq!(read.expect("found by number"), std::fs::read_to_string("/proc/version").expect("readable"));
        assert_eq!(std::env::current_dir().expect("a directory"), before);
    }
}
