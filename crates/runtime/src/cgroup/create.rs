//! Making a group: in every hierarchy, with its limits, or not at all.

use std::sync::Arc;

use oci::runtime::{LinuxPids, LinuxResources};
use rustix::fs::{AtFlags, Mode};
use sys::{Context as _, Errno};

use super::devices::{Policy, State};
use super::error::{Error, Result};
use super::file::{self, Dir};
use super::host::{Hierarchy, Host, Layout, Version};
use super::path::GroupPath;
use super::{Cgroup, tree};

/// How a group is made.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Whether device rules are put in force. Without them a group may use what the group above it may.
    pub devices: bool,
    /// Whether a hierarchy that this user may not write to is passed over, and device control that needs more
    /// privilege skipped: the user's own permissions then decide. Limits that cannot be set still fail.
    pub rootless: bool,
    /// Whether the group is one that somebody made for us, with a process of theirs inside: it is taken as it is.
    pub handed_over: bool,
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self { devices: true, rootless: false, handed_over: false }
    }
}

/// What was made so far, to be taken back when something fails.
struct Made<'a> {
    host: &'a Host,
    /// Index of the hierarchy and path of the group, in the order of creation.
    groups: Vec<(usize, String)>,
}

impl Made<'_> {
    /// Takes everything back, the last first. Called on failure only; a group that cannot be removed again has been
    /// entered by somebody else, and theirs it is.
    fn undo(self) {
        for (index, path) in self.groups.into_iter().rev() {
            let _ = rustix::fs::unlinkat(self.host.hierarchies()[index].root(), path, AtFlags::REMOVEDIR);
        }
    }
}

impl Cgroup {
    /// Makes the group at `path` in every hierarchy and puts the limits of `resources` in force, before any process can
    /// be inside. `path` is below the hierarchies' roots, with or without a slash before it; groups above it are made
    /// as needed and stay when it is removed. An existing group is taken over if it is empty.
    ///
    /// # Errors
    /// [`Error::InvalidPath`], [`Error::InUse`], [`Error::Frozen`]; [`Error::NoController`], [`Error::Unsupported`],
    /// [`Error::Invalid`] for a setting that cannot be honoured; system call errors. On failure nothing new remains.
    pub fn create(
        host: &Arc<Host>,
        path: &str,
        resources: Option<&LinuxResources>,
        options: &CreateOptions,
    ) -> Result<Self> {
        let group = Self::new(host, GroupPath::parse(path)?);
        let mut made = Made { host: host.as_ref(), groups: Vec::with_capacity(group.dirs.len()) };
        match group.fill(&mut made, resources, options) {
            Ok(()) => Ok(group),
            Err(error) => {
                made.undo();
                Err(error)
            }
        }
    }

    fn fill(&self, made: &mut Made<'_>, resources: Option<&LinuxResources>, options: &CreateOptions) -> Result<()> {
        let mut state = State::New;
        for (index, hierarchy) in self.host.hierarchies().iter().enumerate() {
            match self.make_in(made, index, hierarchy, options) {
                Ok(State::New) => {}
                Ok(State::InUse) => state = State::InUse,
                Err(Error::Sys(error)) if options.rootless && is_denied(error.errno()) => {}
                Err(error) => return Err(error),
            }
        }
        if let Some(resources) = resources {
            self.apply_first_limits(resources)?;
        }
        if options.devices {
            let rules = resources.map(|resources| resources.devices.as_slice()).unwrap_or_default();
            match self.apply_devices(&Policy::new(rules)?, state) {
                Err(Error::Sys(error)) if options.rootless && is_denied(error.errno()) => {}
                Err(Error::NotFound { .. } | Error::Unsupported { .. }) if options.rootless => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// The limits of a group that a process will be cloned into. In v2 that counts against the limit, in v1, where it
    /// enters by itself, it does not: "no process" becomes the one that is there, which either way cannot fork.
    fn apply_first_limits(&self, resources: &LinuxResources) -> Result<()> {
        let none = resources.pids.as_ref().is_some_and(|pids| pids.limit == Some(0));
        if !none || self.host.layout() != Layout::V2 {
            return self.apply_limits(resources);
        }
        let pids = LinuxPids { limit: Some(1) };
        self.apply_limits(&LinuxResources { pids: Some(pids), ..resources.clone() })
    }

    /// Makes the group's directory in one hierarchy; tells whether it was there before.
    fn make_in(
        &self,
        made: &mut Made<'_>,
        index: usize,
        hierarchy: &Hierarchy,
        options: &CreateOptions,
    ) -> Result<State> {
        if hierarchy.version == Version::V2 && self.host.layout() == Layout::V2 {
            self.make_ancestors(made, index, hierarchy)?;
        }
        let path = self.path.as_str();
        let state = match mkdir(made, index, path) {
            Ok(()) => State::New,
            Err(Errno::NOENT) => {
                self.make_ancestors(made, index, hierarchy)?;
                mkdir(made, index, path).at("mkdirat", hierarchy.mount.join(path).display())?;
                State::New
            }
            Err(Errno::EXIST) => {
                if !options.handed_over {
                    self.refuse_unless_idle(index)?;
                }
                State::InUse
            }
            Err(errno) => return Err(errno).at("mkdirat", hierarchy.mount.join(path).display()).map_err(Error::from),
        };
        if is_cpuset_v1(hierarchy)
            && let Some(dir) = self.dir(index)?
        {
            let above = self.path.ancestors().last();
            if !inherit_cpuset(hierarchy, above, dir, state)? {
                // Somebody else made the group above this moment, and has not filled it yet.
                self.make_ancestors(made, index, hierarchy)?;
                inherit_cpuset(hierarchy, above, dir, State::InUse)?;
            }
        }
        Ok(state)
    }

    /// Makes the groups above this one where they are missing, and hands down what they do not inherit by themselves:
    /// v2's controllers, and the CPUs and memory nodes of v1's cpuset.
    fn make_ancestors(&self, made: &mut Made<'_>, index: usize, hierarchy: &Hierarchy) -> Result<()> {
        let enable = hierarchy.version == Version::V2 && self.host.layout() == Layout::V2;
        if enable {
            self.enable_controllers(Dir { fd: hierarchy.root(), hierarchy, path: "" })?;
        }
        let mut above = None;
        for path in self.path.ancestors() {
            let state = match mkdir(made, index, path) {
                Ok(()) => State::New,
                Err(Errno::EXIST) => State::InUse,
                Err(errno) => {
                    return Err(errno).at("mkdirat", hierarchy.mount.join(path).display()).map_err(Error::from);
                }
            };
            if enable || is_cpuset_v1(hierarchy) {
                let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
                let fd = rustix::fs::openat(hierarchy.root(), path, flags, Mode::empty())
                    .at("openat", hierarchy.mount.join(path).display())?;
                let dir = Dir { fd: std::os::fd::AsFd::as_fd(&fd), hierarchy, path };
                if enable {
                    self.enable_controllers(dir)?;
                } else {
                    inherit_cpuset(hierarchy, above, dir, state)?;
                }
            }
            above = Some(path);
        }
        Ok(())
    }

    /// Enables, for the groups below `dir`, every controller the host has. One that cannot be enabled (processes in the
    /// group, or no permission) is found missing when a limit needs it.
    fn enable_controllers(&self, dir: Dir<'_>) -> Result<()> {
        let enabled = dir.read("cgroup.subtree_control")?;
        let missing: Vec<&str> = self
            .host
            .v2_controllers()
            .filter(|controller| !enabled.split_ascii_whitespace().any(|name| name == *controller))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let all = missing.iter().map(|name| format!("+{name}")).collect::<Vec<_>>().join(" ");
        if file::write_at(dir.fd, "cgroup.subtree_control", &all).is_err() {
            // One at a time: the kernel takes all of a line or nothing.
            for name in missing {
                let _ = file::write_at(dir.fd, "cgroup.subtree_control", &format!("+{name}"));
            }
        }
        Ok(())
    }

    /// Refuses an existing group that holds processes or is frozen, in it or below it.
    fn refuse_unless_idle(&self, index: usize) -> Result<()> {
        let Some(dir) = self.dir(index)? else { return Ok(()) };
        let idle = tree::visit(dir.fd, |fd| match file::read_at(fd, "cgroup.procs", file::LARGE) {
            Ok(text) if text.is_empty() => Ok(()),
            Ok(_) => Err(Errno::BUSY),
            // A threaded group does not list processes; its threads are listed by the group above it.
            Err(Errno::OPNOTSUPP) => Ok(()),
            Err(errno) => Err(errno),
        });
        match idle {
            Ok(()) => {}
            Err(Errno::BUSY) => return Err(Error::InUse { group: dir.label("") }),
            Err(errno) => return Err(errno).at("read", dir.label("cgroup.procs")).map_err(Error::from),
        }
        let frozen = match dir.hierarchy.version {
            Version::V1 => dir.read_if_present("freezer.state")?.is_some_and(|text| text.trim() != "THAWED"),
            Version::V2 => dir.read_if_present("cgroup.freeze")?.is_some_and(|text| text.trim() == "1"),
        };
        if frozen { Err(Error::Frozen { group: dir.label("") }) } else { Ok(()) }
    }
}

fn is_denied(errno: Errno) -> bool {
    matches!(errno, Errno::ACCESS | Errno::PERM | Errno::ROFS)
}

fn is_cpuset_v1(hierarchy: &Hierarchy) -> bool {
    hierarchy.version == Version::V1 && hierarchy.name.split(',').any(|name| name == "cpuset")
}

fn mkdir(made: &mut Made<'_>, index: usize, path: &str) -> Result<(), Errno> {
    rustix::fs::mkdirat(made.host.hierarchies()[index].root(), path, Mode::from_raw_mode(0o755))?;
    made.groups.push((index, path.to_owned()));
    Ok(())
}

/// A new v1 cpuset has no CPUs and no memory nodes, and cannot be entered until it has: they are copied from the group
/// above (`above`, or the root). Tells whether that one had any.
fn inherit_cpuset(hierarchy: &Hierarchy, above: Option<&str>, dir: Dir<'_>, state: State) -> Result<bool> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        // An existing group's own choice stays.
        if state == State::InUse && !dir.read(name)?.trim().is_empty() {
            continue;
        }
        let source = above.map_or_else(|| name.to_owned(), |above| format!("{above}/{name}"));
        let value = file::read_at(hierarchy.root(), &source, file::SMALL)
            .at("read", hierarchy.mount.join(&source).display())?;
        if value.trim().is_empty() {
            return Ok(false);
        }
        dir.write(name, value.trim())?;
    }
    Ok(true)
}
