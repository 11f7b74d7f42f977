//! `mounts add` and `mounts remove`: a running container's mounts, from a list as in the configuration (crun's command).

use std::path::Path;

use oci::runtime::Mount;
use runtime::{Target, add_mounts, remove_mounts};
use rustix::fs::{Mode, OFlags};
use sys::Context as _;

use super::arguments::Flags;
use super::create;
use super::failure::Failure;
use super::store::{LONGEST_CONFIG, Store};

/// `mounts`.
pub(super) fn mounts(global: &Flags, flags: &Flags) -> Result<i32, Failure> {
    let [_, action, file] = &flags.words[..] else {
        return Err(Failure::new("mounts needs add or remove, ID and FILE"));
    };
    let mut list = read(Path::new(file))?;
    let container = Store::new(global).open(flags.id())?;
    let _lock = container.lock()?;
    let record = container.whole_record()?;
    let (_, pidfd) = container.status(&record)?;
    let (Some(init), Some(process)) = (pidfd, record.process) else {
        return Err(Failure::new("container not running"));
    };
    let spec = container.spec()?;
    create::seal_if_needed(&spec)?;
    create::bind_below(&mut list, &record.bundle);
    let target = Target { init: &init, pid: process.pid, spec: &spec };
    match action.as_str() {
        "add" => add_mounts(&target, &list)?,
        "remove" => remove_mounts(&target, &list)?,
        other => return Err(Failure::new(format!("mounts: {other:?} is neither add nor remove"))),
    }
    Ok(0)
}

fn read(path: &Path) -> Result<Vec<Mount>, Failure> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).at("open", path.display())?;
    let bytes = sys::fs::read_regular(&file, LONGEST_CONFIG, path.display())?;
    serde_json::from_slice(&bytes).map_err(|error| Failure::new(format!("{}: {error}", path.display())))
}
