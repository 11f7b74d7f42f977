//! Control groups: one group per container, in every hierarchy the host has (v1, hybrid, v2).
//!
//! A [`Cgroup`] is made with its limits before any process can enter. Processes enter without the global lock that a
//! pid written to `cgroup.procs` takes (milliseconds, spent waiting for an RCU grace period): into v2 by
//! `clone3(CLONE_INTO_CGROUP)` with [`Cgroup::v2_dir_fd`], into v1 by the new process itself writing `0` to the `tasks`
//! files it inherits open ([`Cgroup::entry_fds`]), which the kernel takes as "this thread" and does without the lock.
//!
//! Hierarchy roots and group directories are opened once and used by descriptor. A group is made in every v1 hierarchy,
//! also where nothing is limited: the root of a hierarchy is where a container would find itself otherwise.

mod control;
mod create;
mod devices;
mod ebpf;
mod error;
mod file;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod host;
mod limits;
mod limits_v1;
mod limits_v2;
#[cfg(any(test, feature = "fuzzing"))]
mod model;
mod path;
mod remove;
mod stats;
mod tree;

#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use oci::runtime::LinuxResources;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use rustix::process::Pid;
use sys::{Context as _, Errno};

pub use create::CreateOptions;
pub use error::{Error, Result, Setting};
pub use host::{Host, Layout, Version};
pub(crate) use limits_v2::{cpu_weight, io_weight};
pub use stats::{BlockDeviceStats, CpuStats, MemoryStats, PidsStats, Stats};

use devices::{Policy, State};
use file::Dir;
use limits::Write;
use path::GroupPath;

/// A container's control group: one directory in each hierarchy.
#[derive(Debug)]
pub struct Cgroup {
    host: Arc<Host>,
    path: GroupPath,
    /// One per hierarchy of the host, opened when first needed.
    dirs: Vec<OnceLock<OwnedFd>>,
}

/// A group's directory in one hierarchy.
#[derive(Debug)]
pub struct HierarchyDir<'a> {
    /// The hierarchy as `/proc/self/cgroup` names it (`cpu,cpuacct`, `name=systemd`); empty for the unified one.
    pub name: &'a str,
    /// The hierarchy's interface.
    pub version: Version,
    /// Where the hierarchy is mounted on the host; its last component is the customary name below `/sys/fs/cgroup`.
    pub mount: &'a std::path::Path,
    /// The group's directory on the host.
    pub path: PathBuf,
    /// The same, open for reading.
    pub fd: BorrowedFd<'a>,
}

/// The `tasks` files of a group's v1 directories, open for writing; by default there is nothing to enter.
#[derive(Debug, Default)]
pub struct EntryFds {
    /// Knows the names of the hierarchies; absent when there is nothing to enter.
    host: Option<Arc<Host>>,
    /// With the index of the hierarchy.
    tasks: Vec<(usize, OwnedFd)>,
}

impl EntryFds {
    /// Moves the calling thread into the group, in every v1 hierarchy. Its process must have no other thread, or they
    /// stay behind. Made of write(2) only; allocates only on failure.
    ///
    /// # Errors
    /// The kernel's: `ENOSPC` for a cpuset that allows no CPU or no memory node.
    pub fn enter_self(&self) -> sys::Result<()> {
        for (index, fd) in &self.tasks {
            file::write_fd(fd, "0").map_err(|errno| {
                let hierarchy = self.host.as_ref().and_then(|host| host.hierarchies().get(*index));
                let mount = hierarchy.map_or(std::path::Path::new(""), |hierarchy| hierarchy.mount.as_path());
                sys::Error::new("write", format_args!("{}/…/tasks", mount.display()), errno)
            })?;
        }
        Ok(())
    }

    /// Whether there is nothing to write: a host with v2 alone.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// The descriptors, for a caller that has to keep them open over a sweep of its own.
    pub fn as_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.tasks.iter().map(|(_, fd)| fd.as_fd())
    }
}

/// The group that a `/proc/PID/cgroup` names in the unified hierarchy.
fn unified_path(text: &str) -> Result<&str> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    // Outside the reader's cgroup namespace paths begin with `/..`.
    if path == "/" || path.starts_with("/../") {
        return Err(Error::NotFound { path: path.to_owned() });
    }
    Ok(path)
}

impl Cgroup {
    /// The group at `path` below the root of every hierarchy, made earlier. A hierarchy mounted since then, in which
    /// the group does not exist, is left out.
    ///
    /// # Errors
    /// [`Error::InvalidPath`]; [`Error::NotFound`] when no hierarchy has it; system call errors.
    pub fn open(host: &Arc<Host>, path: &str) -> Result<Self> {
        let group = Self::new(host, GroupPath::parse(path)?);
        for index in 0..group.dirs.len() {
            if group.dir(index)?.is_some() {
                return Ok(group);
            }
        }
        Err(Error::NotFound { path: group.path.to_string() })
    }

    /// The group that the process `pid` is in, in the unified hierarchy. For joining a container that has moved its
    /// processes below its own group, where v2 lets no other process in. The caller sees to it that `pid` stays itself.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the process is in the root or out of sight; `ENOENT` when there is no such process;
    /// system call errors.
    pub fn of_process_v2(host: &Arc<Host>, pid: Pid) -> Result<Self> {
        let file = format!("/proc/{}/cgroup", pid.as_raw_nonzero());
        let text = file::read_at(rustix::fs::CWD, &file, file::SMALL).at("read", &file)?;
        Self::open(host, unified_path(&text)?)
    }

    fn new(host: &Arc<Host>, path: GroupPath) -> Self {
        let dirs = std::iter::repeat_with(OnceLock::new).take(host.hierarchies().len()).collect();
        Self { host: Arc::clone(host), path, dirs }
    }

    /// The group `sub` below this one, which exists already.
    ///
    /// # Errors
    /// As [`Cgroup::open`].
    pub fn nested(&self, sub: &str) -> Result<Self> {
        Self::open(&self.host, &self.path.join(sub)?.to_string())
    }

    /// The group's path below the root of every hierarchy, with a slash before it: what [`Cgroup::open`] takes.
    #[must_use]
    pub fn path(&self) -> String {
        self.path.to_string()
    }

    /// The host whose hierarchies the group is in.
    #[must_use]
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// The group's directories, one per hierarchy that has it.
    ///
    /// # Errors
    /// System call errors.
    pub fn hierarchies(&self) -> Result<Vec<HierarchyDir<'_>>> {
        let mut found = Vec::with_capacity(self.dirs.len());
        for index in 0..self.dirs.len() {
            if let Some(Dir { fd, hierarchy, path }) = self.dir(index)? {
                found.push(HierarchyDir {
                    name: &hierarchy.name,
                    version: hierarchy.version,
                    mount: &hierarchy.mount,
                    path: hierarchy.mount.join(path),
                    fd,
                });
            }
        }
        Ok(found)
    }

    /// The group's directory in the unified hierarchy, for `clone3(CLONE_INTO_CGROUP)`; none on a host with v1 alone.
    ///
    /// # Errors
    /// System call errors.
    pub fn v2_dir_fd(&self) -> Result<Option<BorrowedFd<'_>>> {
        let Some(index) = self.host.unified() else { return Ok(None) };
        Ok(self.dir(index)?.map(|dir| dir.fd))
    }

    /// Opens what a new process needs to enter the group's v1 directories; empty on a host with v2 alone.
    ///
    /// The permission to move is that of the opener, so the writer may be in a user namespace of its own by then.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the group is gone; system call errors.
    pub fn entry_fds(&self) -> Result<EntryFds> {
        let mut opened = Vec::with_capacity(self.dirs.len());
        let mut expected = false;
        let tasks = format!("{}/tasks", self.path.as_str());
        for (index, hierarchy) in self.host.hierarchies().iter().enumerate() {
            if hierarchy.version == Version::V2 {
                continue;
            }
            expected = true;
            let file = match self.dirs[index].get() {
                Some(dir) => file::open_for_writing(dir, "tasks"),
                None => file::open_for_writing(hierarchy.root(), &tasks),
            };
            match file {
                Ok(fd) => opened.push((index, fd)),
                Err(Errno::NOENT | Errno::NODEV) => {}
                Err(errno) => {
                    return Err(errno).at("openat", hierarchy.mount.join(&tasks).display()).map_err(Error::from);
                }
            }
        }
        if expected && opened.is_empty() {
            return Err(Error::NotFound { path: self.path.to_string() });
        }
        Ok(EntryFds { host: Some(Arc::clone(&self.host)), tasks: opened })
    }

    /// Moves the calling process, which must be single-threaded, into the group in every hierarchy. In the unified one
    /// this takes the kernel's lock on all thread groups and milliseconds: processes that are yet to be made should be
    /// cloned into the group instead.
    ///
    /// # Errors
    /// As [`Cgroup::entry_fds`] and [`EntryFds::enter_self`].
    pub fn join_current_process(&self) -> Result<()> {
        self.entry_fds()?.enter_self()?;
        match self.host.unified() {
            Some(index) => self.dir(index)?.map_or(Ok(()), |dir| dir.write("cgroup.procs", "0")),
            None => Ok(()),
        }
    }

    /// Puts the limits of `resources` in force, leaving those it does not mention. Device rules are replaced as a whole,
    /// and only when the list is not empty. After a failure the settings before the refused one are in force.
    ///
    /// # Errors
    /// [`Error::NoController`], [`Error::Unsupported`], [`Error::Invalid`], [`Error::BelowUsage`]; system call errors.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        self.check_before_update(resources)?;
        if !resources.devices.is_empty() {
            self.apply_devices(&Policy::new(&resources.devices)?, State::InUse)?;
        }
        self.apply_limits(resources)
    }

    /// Gives the group in the unified hierarchy to the user `owner`, so that it can make groups inside: the directory
    /// and the files the kernel names as safe (`/sys/kernel/cgroup/delegate`, Linux 4.15). Limits stay ours.
    ///
    /// # Errors
    /// System call errors.
    pub fn delegate(&self, owner: Uid, group: Gid) -> Result<()> {
        let Some(index) = self.host.unified() else { return Ok(()) };
        let Some(dir) = self.dir(index)? else { return Ok(()) };
        let list = match file::read_at(rustix::fs::CWD, "/sys/kernel/cgroup/delegate", file::SMALL) {
            Ok(list) => list,
            Err(Errno::NOENT) => "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n".to_owned(),
            Err(errno) => return Err(errno).at("read", "/sys/kernel/cgroup/delegate").map_err(Error::from),
        };
        rustix::fs::fchown(dir.fd, Some(owner), Some(group)).at("fchown", dir.label(""))?;
        for name in list.lines().filter(|name| !name.is_empty() && !name.contains('/')) {
            match rustix::fs::chownat(dir.fd, name, Some(owner), Some(group), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno).at("fchownat", dir.label(name)).map_err(Error::from),
            }
        }
        Ok(())
    }

    /// The group's directory in the hierarchy `index`, or nothing when it does not exist there.
    fn dir(&self, index: usize) -> Result<Option<Dir<'_>>> {
        let hierarchy = &self.host.hierarchies()[index];
        let path = self.path.as_str();
        let fd = match self.dirs[index].get() {
            Some(fd) => fd.as_fd(),
            None => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                match rustix::fs::openat(hierarchy.root(), path, flags, Mode::empty()) {
                    Ok(fd) => self.dirs[index].get_or_init(|| fd).as_fd(),
                    Err(Errno::NOENT) => return Ok(None),
                    Err(errno) => {
                        let object = hierarchy.mount.join(path);
                        return Err(errno).at("openat", object.display()).map_err(Error::from);
                    }
                }
            }
        };
        Ok(Some(Dir { fd, hierarchy, path }))
    }

    /// The group's directory where `controller` is, or nothing when the host has no such controller.
    fn controller(&self, controller: &str) -> Result<Option<Dir<'_>>> {
        // The core's own files, which the specification's raw keys may name.
        let index = if controller == "cgroup" { self.host.unified() } else { self.host.index_of(controller) };
        index.map_or(Ok(None), |index| self.dir(index))
    }

    fn apply_limits(&self, resources: &LinuxResources) -> Result<()> {
        if !limits::asks_for_limits(resources) {
            return Ok(());
        }
        limits::apply(self.plan(resources)?, |controller| self.controller(controller))
    }

    fn plan(&self, resources: &LinuxResources) -> Result<Vec<Write>> {
        if self.host.layout() != Layout::V2 {
            return limits_v1::plan(resources);
        }
        let period_alone = resources.cpu.as_ref().is_some_and(|cpu| cpu.period.is_some() && cpu.quota.is_none());
        let present = if period_alone {
            self.controller("cpu")?.map(|dir| dir.read_if_present("cpu.max")).transpose()?.flatten()
        } else {
            None
        };
        limits_v2::plan(resources, present.as_deref().and_then(|text| text.split_ascii_whitespace().next()))
    }

    fn apply_devices(&self, policy: &Policy, state: State) -> Result<()> {
        if let Some(dir) = self.controller("devices")? {
            return devices::apply_v1(policy, dir, state);
        }
        let unrestricted = policy.allow && policy.rules.is_empty();
        match self.host.unified() {
            Some(index) => match self.dir(index)? {
                Some(dir) => ebpf::apply(policy, dir.fd, state == State::New),
                None => Err(Error::NotFound { path: self.path.to_string() }),
            },
            None if unrestricted => Ok(()),
            None => Err(Error::NoController { controller: "devices".to_owned(), setting: limits::DEVICES }),
        }
    }

    /// Refuses a memory limit below the present use when the configuration asks for that check.
    fn check_before_update(&self, resources: &LinuxResources) -> Result<()> {
        let Some(memory) = resources.memory.as_ref().filter(|memory| memory.check_before_update == Some(true)) else {
            return Ok(());
        };
        let Some(limit) = memory.limit.and_then(|limit| u64::try_from(limit).ok()).filter(|&limit| limit != 0) else {
            return Ok(());
        };
        let Some(dir) = self.controller("memory")? else { return Ok(()) };
        let name = match dir.hierarchy.version {
            Version::V1 => "memory.usage_in_bytes",
            Version::V2 => "memory.current",
        };
        match dir.number(name)? {
            Some(usage) if usage > limit => {
                Err(Error::BelowUsage { setting: limits::MEMORY, limit: limit.to_string(), usage })
            }
            _ => Ok(()),
        }
    }
}
