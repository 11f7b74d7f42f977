//! The overlay mount: layers below one directory, a writable layer above them, told to the kernel by descriptor.
//!
//! Three generations of kernels take them in three ways:
//!
//! | kernel | layers | looked up |
//! |---|---|---|
//! | 6.13 | descriptors | not at all |
//! | 6.5 | one path each | as they are told |
//! | before | one list of 255 bytes | at the mount: names of descriptors, relative to `/proc/self/fd`, keep it short |

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use sys::mount::{Attributes, Change, NewFs};
use sys::{Context as _, Errno};

use crate::error::{Doing as _, Result};

/// Mounts the layers `lowers` (names below `layers_dir`, the topmost first) with the writable layer below
/// `writable_dir`, detached; seen through the ids of `userns` if there is one, whose root is `root_ids` here.
///
/// # Errors
/// System call errors; `EINVAL` for more layers than kernels before 6.5 can be told of, some seventy.
pub(crate) fn mount(
    layers_dir: &Path,
    lowers: &[String],
    writable_dir: &Path,
    volatile: bool,
    root_ids: (u32, u32),
    userns: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd> {
    let what = || "cannot mount the image's layers".to_owned();
    let view = |path: &Path| -> sys::Result<OwnedFd> {
        let tree = sys::mount::clone_path(path, false)?;
        if let Some(userns) = userns {
            sys::mount::set_attributes(&tree, &Change { idmap: Some(userns), ..Change::default() })?;
        }
        Ok(tree)
    };
    // One id-mapped view of the directory that holds all layers, however many there are.
    let (layers, writable) = (view(layers_dir).doing(what)?, view(writable_dir).doing(what)?);
    let open = |dir: &OwnedFd, name: &str| {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
        sys::fs::open_in_root(dir, name, flags, Mode::empty())
    };
    let lowers = lowers.iter().map(|name| open(&layers, name)).collect::<sys::Result<Vec<_>>>().doing(what)?;
    let (upper, work) = (open(&writable, "upper").doing(what)?, open(&writable, "work").doing(what)?);
    let fs = NewFs::open("overlay").doing(what)?;
    fs.set("source", "lighter").doing(what)?;
    // With an index a reused upper directory fails (ESTALE); the other two make the upper directory no plain diff.
    for key in ["index", "metacopy", "redirect_dir"] {
        fs.set(key, "off").doing(what)?;
    }
    if volatile {
        fs.set_flag("volatile").doing(what)?;
    }
    let told = tell_layers(&fs, &lowers, &upper, &work).doing(what)?;
    let make = || match told {
        Told::Whole => fs.mount(Attributes::empty()),
        Told::ByNumber => among_descriptors(|| fs.mount(Attributes::empty())),
    };
    if userns.is_none() {
        return make().doing(what);
    }
    // Overlayfs works in the upper layer with the ids of whoever mounts it, and through the id map the host's root is
    // nobody (EOVERFLOW, and the mount turns read-only): it is mounted with the ids that the container's root has here.
    sys::process::with_fs_ids(root_ids.0, root_ids.1, make).doing(what)
}

/// How the kernel knows the layers.
enum Told {
    /// It has them.
    Whole,
    /// By names that mean something in `/proc/self/fd` only, where the mount has to be made.
    ByNumber,
}

fn tell_layers(fs: &NewFs, lowers: &[OwnedFd], upper: &OwnedFd, work: &OwnedFd) -> sys::Result<Told> {
    let path = |file: &OwnedFd| format!("/proc/self/fd/{}", file.as_raw_fd());
    let refused = |error: &sys::Error| matches!(error.errno(), Errno::INVAL | Errno::BADF);
    match lowers.iter().try_for_each(|lower| fs.set_fd("lowerdir+", lower.as_fd())) {
        Ok(()) => {
            fs.set_fd("upperdir", upper)?;
            fs.set_fd("workdir", work)?;
            return Ok(Told::Whole);
        }
        Err(error) if refused(&error) => {}
        // Overlayfs before 6.5 takes its options as one string, and would find out about `lowerdir+` at the mount only.
        Err(error) if error.errno() == Errno::OPNOTSUPP => return tell_numbers(fs, lowers, upper, work),
        Err(error) => return Err(error),
    }
    match lowers.iter().try_for_each(|lower| fs.set("lowerdir+", &path(lower))) {
        Err(error) if refused(&error) => return tell_numbers(fs, lowers, upper, work),
        other => other?,
    }
    fs.set("upperdir", &path(upper))?;
    fs.set("workdir", &path(work))?;
    Ok(Told::Whole)
}

fn tell_numbers(fs: &NewFs, lowers: &[OwnedFd], upper: &OwnedFd, work: &OwnedFd) -> sys::Result<Told> {
    let name = |file: &OwnedFd| file.as_raw_fd().to_string();
    fs.set("lowerdir", &lowers.iter().map(name).collect::<Vec<_>>().join(":"))?;
    fs.set("upperdir", &name(upper))?;
    fs.set("workdir", &name(work))?;
    Ok(Told::ByNumber)
}

/// Does `work` in the directory of this process's descriptors, and comes back.
fn among_descriptors<T>(work: impl FnOnce() -> sys::Result<T>) -> sys::Result<T> {
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
            among_descriptors(|| std::fs::read_to_string(&name).map_err(|_| sys::Error::new("read", &name, Errno::IO)));
        assert_eq!(read.expect("found by number"), std::fs::read_to_string("/proc/version").expect("readable"));
        assert_eq!(std::env::current_dir().expect("a directory"), before);
    }
}
