//! The unpacking process's own side.
//!
//! In this order: other descriptors are closed, the layer becomes the root, limits are set, capabilities go, and the
//! filter comes last. Only then is the first byte of the archive read.

use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags};
use rustix::process::{Resource, Rlimit, Signal};
use sys::Context;
use sys::capability::ThreadCapabilities;
use sys::process::inherited;
use sys::seccomp::FilterFlags;

use super::report::Report;
use crate::archive::Limits;
use crate::error::Result;
use crate::extract::{Outcome, extract};
use crate::tree::Tree;

const ARCHIVE: i32 = 0;
const REPORT: i32 = 1;
const DIRECTORY: i32 = 2;

/// CHOWN, DAC_OVERRIDE, FOWNER, FSETID and SETFCAP (linux/capability.h): files of any owner, mode and capability.
const CAPABILITIES: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 31;
/// MKNOD, where the mount opens no device.
const DEVICES: u64 = 1 << 27;

/// Address space in bytes: five million directories' times and names, four times over.
const MEMORY: u64 = 2 << 30;
/// Descriptors: a walk keeps 32 directories open.
const DESCRIPTORS: u64 = 128;

/// The process's whole life, entered before arguments are parsed and while there is one thread. Ends the process; the
/// report says how it went.
pub fn main() -> ! {
    sys::process::exit_now(i32::from(run().is_err()))
}

fn run() -> Result<()> {
    sys::process::die_with_parent(Signal::KILL.as_raw())?;
    // Whatever else was inherited.
    sys::process::close_from(3)?;
    let (archive, report) = (inherited(ARCHIVE)?, inherited(REPORT)?);
    let result = confine(inherited(DIRECTORY)?).map_err(Into::into).and_then(|root| unpack(root, archive));
    Ok(sys::fs::write_all(&report, &Report::from(result).bytes(), "report")?)
}

fn unpack(root: OwnedFd, archive: OwnedFd) -> Result<Outcome> {
    extract(&mut Tree::new(root)?, &mut File::from(archive), &Limits::default())
}

/// Gives everything up but what making files below `dir` takes, and gives `dir` as the root.
fn confine(dir: OwnedFd) -> sys::Result<OwnedFd> {
    let knows_devices = !rustix::fs::fstatvfs(&dir).at("fstatvfs", "/")?.f_flag.contains(StatVfsMountFlags::NODEV);
    rustix::process::fchdir(&dir).at("fchdir", "/")?;
    rustix::process::chroot(".").at("chroot", "/")?;
    // Opened again from inside, since `..` of the old descriptor might lead out where the mount is the host's own.
    drop(dir);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, ".", flags, Mode::empty()).at("openat", "/")?;
    // Modes are the archive's alone.
    rustix::process::umask(Mode::empty());
    let bound = |most| Rlimit { current: Some(most), maximum: Some(most) };
    for (resource, most) in
        [(Resource::Core, 0), (Resource::As, MEMORY), (Resource::Nofile, DESCRIPTORS), (Resource::Nproc, 0)]
    {
        rustix::process::setrlimit(resource, bound(most)).at("setrlimit", "")?;
    }
    sys::process::set_undumpable()?;
    let held = sys::capability::get()?.permitted;
    let kept = held & if knows_devices { CAPABILITIES } else { CAPABILITIES | DEVICES };
    sys::capability::clear_ambient_set()?;
    sys::capability::replace(ThreadCapabilities { effective: kept, permitted: kept, inheritable: 0 })?;
    sys::seccomp::set_no_new_privs()?;
    sys::seccomp::load_filter(&sys::file_calls::filter(), FilterFlags::default())?;
    Ok(root)
}
