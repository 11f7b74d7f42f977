//! Checkpoint and restore, by criu: a container's processes written to files, and made again from them.
//!
//! ```text
//! we                                             criu swrk
//!   request: options, what is the host's ──────▶
//!   ◀── setup-namespaces, orphan-pts-master, … ──  (each waits for our reply)
//!   ◀─────────────────────────── done, or not ───
//! ```
//!
//! criu is a program of the host's, and the only one that lighter executes here. It gets an environment of its own,
//! reads no configuration file, and works only in directories that nobody else can write to (`images.rs`). At a restore
//! it runs in a mount namespace of its own, where the root file system is bound over itself because criu wants a mount
//! there: however it ends, nothing stays on the host.

mod external;
mod images;
mod wire;
mod worker;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci::runtime::{NamespaceKind, Spec};
use rustix::fs::{AtFlags, Mode, OFlags};
use sys::mount::Propagation;
use sys::process::{CloneArgs, Namespaces};
use sys::{Context as _, Errno};

use crate::cgroup::{Cgroup, Layout};
use crate::created::Created;
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::grouping::{self, Asker};
use crate::launch::Groups;
use crate::plan::wrong;
use crate::{mounts, resctrl};

use images::Directory;
use wire::Message;
use worker::{Answer, Kind, Notice, Worker};

/// How criu treats control groups (`criu_cg_mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupMode {
    /// Leaves them alone.
    Ignore = 0,
    /// Restores limits of groups that it makes itself.
    #[default]
    Soft = 3,
    /// Restores limits always.
    Full = 4,
    /// Restores limits, and fails when that cannot be done.
    Strict = 5,
}

/// How criu keeps packets from connections meanwhile (`criu_network_lock_method`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkLock {
    /// By iptables-restore(8).
    Iptables = 1,
    /// By nftables.
    Nftables = 2,
    /// Not at all.
    Skip = 3,
}

/// What both directions are told.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program.
    pub criu: PathBuf,
    /// Where the images are; made for a checkpoint when missing.
    pub images: PathBuf,
    /// Where the log goes; with the images when absent.
    pub work: Option<PathBuf>,
    /// Whether established TCP connections are taken along.
    pub tcp_established: bool,
    /// Whether unix sockets may lead out of the container.
    pub ext_unix_sk: bool,
    /// Whether the container may be using a terminal of the host's.
    pub shell_job: bool,
    /// Whether file locks are taken along.
    pub file_locks: bool,
    /// Whether images are freed of pages that later ones hold.
    pub auto_dedup: bool,
    /// Whether memory is moved page by page when it is touched.
    pub lazy_pages: bool,
    /// What happens with control groups.
    pub cgroups: CgroupMode,
    /// Whether the network namespace comes back empty, for somebody else to fill.
    pub empty_network: bool,
    /// How the network is held.
    pub network_lock: Option<NetworkLock>,
}

/// A container to be written down.
#[derive(Debug)]
pub struct Checkpoint<'a> {
    /// What both directions are told.
    pub options: &'a Options,
    /// The container's configuration.
    pub spec: &'a Spec,
    /// Its first process, as the caller sees it.
    pub pid: u32,
    /// Its control group.
    pub cgroup: &'a Cgroup,
    /// Whether it goes on afterwards.
    pub leave_running: bool,
    /// Whether only memory is written, for a later dump to build on.
    pub pre_dump: bool,
    /// The dump before, relative to the images.
    pub parent: Option<&'a Path>,
    /// Whether connections that are not established yet are left out.
    pub tcp_skip_in_flight: bool,
    /// Whether unlinked files are linked again for a moment.
    pub link_remap: bool,
    /// Address and port of a page server that takes the memory.
    pub page_server: Option<(&'a str, u16)>,
    /// Hears a NUL byte when pages can be asked for.
    pub status: Option<BorrowedFd<'a>>,
}

/// A container to be made again.
#[derive(Debug)]
pub struct Restore<'a> {
    /// What both directions are told.
    pub options: &'a Options,
    /// The container's id.
    pub id: &'a str,
    /// Its configuration.
    pub spec: &'a Spec,
    /// Its root file system.
    pub rootfs: &'a Path,
    /// Where its control group comes from; without one it cannot be restored.
    pub groups: Groups<'a>,
    /// Whether established TCP connections come back closed.
    pub tcp_close: bool,
    /// `TYPE:NAME` of another security profile.
    pub lsm_profile: Option<&'a str>,
    /// Another `context=` for mounts.
    pub lsm_mount_context: Option<&'a str>,
}

/// Where a restore is, for a caller that has something to do there. The container waits meanwhile, and a failure ends it.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// The namespaces are there, and nothing in them.
    Namespaces {
        /// The first process.
        pid: u32,
    },
    /// Everything is there, and goes on after this.
    Restored {
        /// The first process.
        pid: u32,
        /// Its control group.
        cgroup: &'a Cgroup,
        /// As [`Created::resctrl`].
        resctrl: &'a [String],
    },
}

/// Writes the container's processes to files. Unless they are left running, they are gone afterwards; the control group
/// stays.
///
/// # Errors
/// [`ErrorKind::Unsupported`] when criu is missing or the kernel lacks something, [`ErrorKind::Config`] for a directory
/// that is not safe, otherwise criu's refusal with its first complaint and the place of its log. The container runs on
/// then.
pub fn checkpoint(checkpoint: &Checkpoint<'_>) -> Result<()> {
    let options = checkpoint.options;
    let log = if checkpoint.pre_dump { "pre-dump.log" } else { "dump.log" };
    if checkpoint.spec.namespace(NamespaceKind::User).is_some() {
        // criu fills the container's /dev from inside its user namespace, where no device node can be made.
        let sentence = "a container with a user namespace cannot be restored, so it is not checkpointed";
        return Err(Error::new(ErrorKind::Unsupported, sentence));
    }
    let place = Place::open(options, true, log)?;
    if let Some(parent) = checkpoint.parent {
        images::check_parent(&place.images, parent)?;
    }
    check_features(options, checkpoint.pre_dump || checkpoint.parent.is_some())?;
    let mut request = common(options, log);
    number(&mut request, option::PID, u64::from(checkpoint.pid));
    request
        .flag(option::LEAVE_RUNNING, checkpoint.leave_running)
        .flag(option::TCP_SKIP_IN_FLIGHT, checkpoint.tcp_skip_in_flight)
        .flag(option::LINK_REMAP, checkpoint.link_remap)
        .flag(option::TRACK_MEM, checkpoint.pre_dump || checkpoint.parent.is_some());
    if let Some(parent) = checkpoint.parent {
        request.text(option::PARENT_IMG, &parent.to_string_lossy());
    }
    if let Some((address, port)) = checkpoint.page_server {
        let mut server = Message::default();
        server.text(1, address).number(2, u64::from(port));
        request.message(option::PAGE_SERVER, &server);
    }
    let status: Vec<BorrowedFd<'_>> = checkpoint.status.into_iter().collect();
    if !status.is_empty() {
        number(&mut request, option::STATUS_FD, Worker::number_of(FIRST_OWN));
    }
    if let Some(path) = freezer(checkpoint.cgroup)? {
        request.text(option::FREEZE_CGROUP, &path);
    }
    // A first dump needs none of this, and criu refuses what it does not expect there.
    let streams = images::streams(checkpoint.pid)?;
    if !checkpoint.pre_dump {
        say_what_is_outside(checkpoint, &streams, &mut request)?;
        place.images.write_descriptors(&streams)?;
    }
    let kind = if checkpoint.pre_dump { Kind::PreDump } else { Kind::Dump };
    let mut worker = Worker::start(&options.criu, &CloneArgs::default(), &status, || place.reopen())?;
    let answer = worker.ask(kind, &request, &mut |_| Ok(()));
    place.judge(answer, "checkpoint", log).map(drop)
}

fn say_what_is_outside(checkpoint: &Checkpoint<'_>, streams: &[String], request: &mut Message) -> Result<()> {
    let what = || "cannot open the container's root".to_owned();
    let path = format!("/proc/{}/root", checkpoint.pid);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&path, flags, Mode::empty()).at("open", &path).doing(what)?;
    let plans = external::plans(checkpoint.spec)?;
    let mut externals = external::list(checkpoint.spec, &plans, checkpoint.cgroup, &root)?;
    external::add_nested(&mut externals, &plans, &images::mount_table(checkpoint.pid)?, true);
    for external in &externals {
        let place = external.place.display();
        request.text(option::EXTERNAL, &format!("mnt[{place}]:{place}"));
    }
    for (kind, key, word) in JOINED {
        if let Some((_, inode)) = external::joined(checkpoint.spec, kind)? {
            request.text(option::EXTERNAL, &format!("{word}[{inode}]:{key}"));
        }
    }
    let mut said: Vec<&String> = Vec::new();
    for stream in streams.iter().filter(|stream| stream.starts_with("file[")) {
        if !said.contains(&stream) {
            request.text(option::EXTERNAL, stream);
            said.push(stream);
        }
    }
    Ok(())
}

/// Namespaces that criu leaves out when they were joined by path: runc's and crun's names for them.
const JOINED: [(NamespaceKind, &str, &str); 2] =
    [(NamespaceKind::Network, "extRootNetNS", "net"), (NamespaceKind::Pid, "extRootPidNS", "pid")];

/// Makes the container again. Its first process is a child of the caller's, whose standard streams it has where it had
/// pipes or files of the host before. `each` is called at every [`Step`].
///
/// # Errors
/// As [`checkpoint`]; those of `each`. On failure nothing is left: no process, no group.
pub fn restore(restore: &Restore<'_>, each: &mut dyn FnMut(Step<'_>) -> Result<()>) -> Result<Created> {
    let place = Place::open(restore.options, false, RESTORE_LOG)?;
    check_features(restore.options, false)?;
    let rdt = resctrl::make(restore.spec, restore.id)?;
    let resctrl = rdt.as_ref().map(|groups| groups.made.clone()).unwrap_or_default();
    let made = make(restore, &place, rdt.as_ref(), &resctrl, each);
    match made {
        Ok(created) => Ok(Created { resctrl, ..created }),
        Err(error) => {
            // The first error is the one to report.
            let _ = resctrl::remove(&resctrl);
            Err(error)
        }
    }
}

fn make(
    restore: &Restore<'_>,
    place: &Place,
    rdt: Option<&resctrl::Groups>,
    resctrl: &[String],
    each: &mut dyn FnMut(Step<'_>) -> Result<()>,
) -> Result<Created> {
    let linux = restore.spec.linux.as_ref().ok_or_else(|| wrong("linux", "is missing"))?;
    let asker = Asker { linux, id: restore.id, ordinary: false };
    let mut grouped = grouping::make(&asker, restore.groups)?;
    let restored = match &grouped.group {
        Some(cgroup) => run(restore, place, cgroup, &mut |step| match step {
            Step::Namespaces { .. } => each(step),
            Step::Restored { pid, cgroup, .. } => {
                rdt.map_or(Ok(()), |groups| groups.enter(pid))?;
                each(Step::Restored { pid, cgroup, resctrl })
            }
        }),
        None => Err(Error::new(ErrorKind::Unsupported, "a restored container needs a control group of its own")),
    };
    // Not collected by anybody else: it is a child of ours.
    let found = restored.and_then(|(pid, terminal)| {
        let pidfd = sys::process::open_pid(pid).doing(|| "cannot find the restored container".to_owned())?;
        Ok((pid, pidfd, terminal))
    });
    match found {
        Ok((pid, pidfd, terminal)) => {
            let cgroup = grouped.group.take();
            Ok(Created { pid, pidfd, terminal, cgroup, resctrl: Vec::new(), link: None, agent: None })
        }
        Err(error) => {
            grouped.undo();
            Err(error)
        }
    }
}

/// Index of the first file handed to criu after the two of [`Place::reopen`].
const FIRST_OWN: usize = 2;
/// criu's log of a restore.
const RESTORE_LOG: &str = "restore.log";

fn run(
    restore: &Restore<'_>,
    place: &Place,
    cgroup: &Cgroup,
    each: &mut dyn FnMut(Step<'_>) -> Result<()>,
) -> Result<(u32, Option<OwnedFd>)> {
    let options = restore.options;
    let root = open_root(restore.rootfs)?;
    let plans = external::plans(restore.spec)?;
    external::make_places(&plans, &root)?;
    let mut externals = external::list(restore.spec, &plans, cgroup, &root)?;
    external::add_nested(&mut externals, &plans, &images::mount_table(std::process::id())?, false);
    let mut request = common(options, RESTORE_LOG);
    request
        .flag(option::RST_SIBLING, true)
        .flag(option::TCP_CLOSE, restore.tcp_close)
        .text(option::ROOT, &restore.rootfs.to_string_lossy());
    for external in &externals {
        request.text(option::EXTERNAL, &format!("mnt[{}]:{}", external.place.display(), external.source.display()));
    }
    let joined = JOINED
        .iter()
        .map(|(kind, key, _)| Ok(external::joined(restore.spec, *kind)?.map(|(file, _)| (*key, file))))
        .filter_map(Result::transpose)
        .collect::<Result<Vec<_>>>()?;
    let mut inherited: Vec<(String, BorrowedFd<'_>)> =
        joined.iter().map(|(key, file)| ((*key).to_owned(), file.as_fd())).collect();
    let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    for (stream, file) in place.images.descriptors()?.into_iter().zip(streams) {
        // One of them is enough: the key stands for the pipe or file, wherever it was open. It is a copy, for criu closes
        // what it was given, and asks its own standard input for a terminal.
        if (stream.starts_with("pipe:") || stream.starts_with("file["))
            && inherited.iter().all(|(key, _)| *key != stream)
        {
            inherited.push((stream, file));
        }
    }
    for (at, (key, _)) in inherited.iter().enumerate() {
        let mut entry = Message::default();
        entry.text(1, key).number(2, Worker::number_of(FIRST_OWN + at));
        request.message(option::INHERIT_FD, &entry);
    }
    for hierarchy in group_paths(cgroup)? {
        request.message(option::CG_ROOT, &hierarchy);
    }
    let texts = [(option::LSM_PROFILE, restore.lsm_profile), (option::LSM_MOUNT_CONTEXT, restore.lsm_mount_context)];
    for (field, value) in texts {
        if let Some(value) = value {
            request.text(field, value);
        }
    }
    let group_error = |error| mounts::cgroup_error("cannot open the control group", error);
    let entry = cgroup.entry_fds().map_err(group_error)?;
    let args =
        CloneArgs { namespaces: Namespaces::MOUNT, cgroup: cgroup.v2_dir_fd().map_err(group_error)?, sibling: false };
    let files: Vec<BorrowedFd<'_>> = inherited.iter().map(|(_, file)| *file).collect();
    let mut worker = Worker::start(&options.criu, &args, &files, || {
        entry.enter_self().doing(|| "cannot enter the control group".to_owned())?;
        let what = || "cannot make the root file system a mount for criu".to_owned();
        sys::mount::propagate_all("/", Propagation::Slave).doing(what)?;
        let root = open_root(restore.rootfs)?;
        let tree = sys::mount::clone_path(restore.rootfs, true).doing(what)?;
        sys::mount::attach(&tree, &root, restore.rootfs.display()).doing(what)?;
        place.reopen()
    })?;
    let mut terminal = None;
    let answer = worker.ask(Kind::Restore, &request, &mut |notice: Notice| match notice.what.as_str() {
        "setup-namespaces" => notice.pid.map_or(Ok(()), |pid| each(Step::Namespaces { pid })),
        "post-restore" => notice.pid.map_or(Ok(()), |pid| each(Step::Restored { pid, cgroup, resctrl: &[] })),
        "orphan-pts-master" => {
            terminal = notice.files.into_iter().next();
            Ok(())
        }
        _ => Ok(()),
    });
    let answer = place.judge(answer, "restore", RESTORE_LOG)?;
    let pid = answer.pid.ok_or_else(|| Error::new(ErrorKind::System, "criu did not say which process it restored"))?;
    Ok((pid, terminal))
}

fn open_root(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .at("open", path.display())
        .doing(|| format!("cannot use {} as the root file system", path.display()))
}

/// Field numbers of `criu_opts`.
mod option {
    pub(super) const IMAGES_DIR_FD: u32 = 1;
    pub(super) const PID: u32 = 2;
    pub(super) const LEAVE_RUNNING: u32 = 3;
    pub(super) const EXT_UNIX_SK: u32 = 4;
    pub(super) const TCP_ESTABLISHED: u32 = 5;
    pub(super) const SHELL_JOB: u32 = 7;
    pub(super) const FILE_LOCKS: u32 = 8;
    pub(super) const LOG_LEVEL: u32 = 9;
    pub(super) const LOG_FILE: u32 = 10;
    pub(super) const PAGE_SERVER: u32 = 11;
    pub(super) const NOTIFY_SCRIPTS: u32 = 12;
    pub(super) const ROOT: u32 = 13;
    pub(super) const PARENT_IMG: u32 = 14;
    pub(super) const TRACK_MEM: u32 = 15;
    pub(super) const AUTO_DEDUP: u32 = 16;
    pub(super) const WORK_DIR_FD: u32 = 17;
    pub(super) const LINK_REMAP: u32 = 18;
    pub(super) const MANAGE_CGROUPS: u32 = 24;
    pub(super) const CG_ROOT: u32 = 25;
    pub(super) const RST_SIBLING: u32 = 26;
    pub(super) const INHERIT_FD: u32 = 27;
    pub(super) const MANAGE_CGROUPS_MODE: u32 = 34;
    pub(super) const EXTERNAL: u32 = 37;
    pub(super) const EMPTY_NS: u32 = 38;
    pub(super) const FREEZE_CGROUP: u32 = 44;
    pub(super) const TCP_SKIP_IN_FLIGHT: u32 = 46;
    pub(super) const LAZY_PAGES: u32 = 48;
    pub(super) const STATUS_FD: u32 = 49;
    pub(super) const ORPHAN_PTS_MASTER: u32 = 50;
    pub(super) const TCP_CLOSE: u32 = 52;
    pub(super) const LSM_PROFILE: u32 = 53;
    pub(super) const LSM_MOUNT_CONTEXT: u32 = 63;
    pub(super) const NETWORK_LOCK: u32 = 64;
}

/// criu's level at which the log tells what it does, for whoever has to find out why it failed.
const LOG_LEVEL: u64 = 4;
/// `CLONE_NEWNET`.
const NETWORK_NAMESPACE: u64 = 0x4000_0000;

fn number(message: &mut Message, field: u32, value: u64) {
    message.number(field, value);
}

fn common(options: &Options, log: &str) -> Message {
    let mut request = Message::default();
    request
        .number(option::IMAGES_DIR_FD, Worker::number_of(0))
        .number(option::WORK_DIR_FD, Worker::number_of(1))
        .number(option::LOG_LEVEL, LOG_LEVEL)
        .text(option::LOG_FILE, log)
        .flag(option::NOTIFY_SCRIPTS, true)
        .flag(option::ORPHAN_PTS_MASTER, true)
        .flag(option::TCP_ESTABLISHED, options.tcp_established)
        .flag(option::EXT_UNIX_SK, options.ext_unix_sk)
        .flag(option::SHELL_JOB, options.shell_job)
        .flag(option::FILE_LOCKS, options.file_locks)
        .flag(option::AUTO_DEDUP, options.auto_dedup)
        .flag(option::LAZY_PAGES, options.lazy_pages)
        .flag(option::MANAGE_CGROUPS, true)
        .number(option::MANAGE_CGROUPS_MODE, options.cgroups as u64);
    if options.empty_network {
        number(&mut request, option::EMPTY_NS, NETWORK_NAMESPACE);
    }
    if let Some(method) = options.network_lock {
        number(&mut request, option::NETWORK_LOCK, method as u64);
    }
    request
}

/// Where criu stops the container: its freezer on v1, its group on v2.
fn freezer(cgroup: &Cgroup) -> Result<Option<String>> {
    let hierarchies =
        cgroup.hierarchies().map_err(|error| mounts::cgroup_error("cannot open the control group", error))?;
    let v2 = cgroup.host().layout() == Layout::V2;
    let found = hierarchies.iter().find(|hierarchy| v2 || hierarchy.name.split(',').any(|name| name == "freezer"));
    Ok(found.map(|hierarchy| hierarchy.path.to_string_lossy().into_owned()))
}

/// `cgroup_root`: where the container's groups are now, by hierarchy.
fn group_paths(cgroup: &Cgroup) -> Result<Vec<Message>> {
    let hierarchies =
        cgroup.hierarchies().map_err(|error| mounts::cgroup_error("cannot open the control group", error))?;
    let path = cgroup.path();
    let root = |name: &str| {
        let mut root = Message::default();
        root.text(1, name).text(2, &path);
        root
    };
    Ok(hierarchies
        .iter()
        .filter(|hierarchy| !hierarchy.name.is_empty())
        .map(|hierarchy| root(hierarchy.name))
        .collect())
}

/// Asks whether the kernel can do what only some dumps need.
fn check_features(options: &Options, memory_tracking: bool) -> Result<()> {
    if !memory_tracking && !options.lazy_pages {
        return Ok(());
    }
    let mut worker = Worker::start(&options.criu, &CloneArgs::default(), &[], || Ok(Vec::new()))?;
    let answer = worker.ask(Kind::Features, &Message::default(), &mut |_| Ok(()))?;
    let missing = match () {
        () if memory_tracking && !answer.memory_tracking => {
            "--pre-dump and --parent-path need a kernel that tracks changed memory (CONFIG_MEM_SOFT_DIRTY)"
        }
        () if options.lazy_pages && !answer.lazy_pages => {
            "--lazy-pages needs a kernel with userfaultfd (CONFIG_USERFAULTFD) and its use permitted"
        }
        () => return Ok(()),
    };
    Err(Error::new(ErrorKind::Unsupported, missing))
}

/// The directories of one run.
#[derive(Debug)]
struct Place {
    images: Directory,
    work: Option<Directory>,
}

impl Place {
    fn open(options: &Options, make: bool, log: &str) -> Result<Self> {
        if !options.criu.is_absolute() || matches!(rustix::fs::stat(&options.criu), Err(Errno::NOENT)) {
            let path = options.criu.display();
            return Err(Error::new(ErrorKind::Unsupported, format!("there is no criu at {path}: install it (criu)")));
        }
        let place = Self {
            images: Directory::open(&options.images, make)?,
            // Only a log goes there, so it may be made in both directions.
            work: options.work.as_deref().map(|work| Directory::open(work, true)).transpose()?,
        };
        // The complaint that is told has to be of this time.
        match rustix::fs::unlinkat(&place.logs().file, log, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(place),
            Err(errno) => Err(sys::Error::new("unlinkat", log, errno)).doing(|| "cannot begin a log".to_owned()),
        }
    }

    /// The images' directory and the log's, for criu's process, which is where this is to be called.
    fn reopen(&self) -> Result<Vec<OwnedFd>> {
        Ok(vec![self.images.reopen()?, self.logs().reopen()?])
    }

    fn logs(&self) -> &Directory {
        self.work.as_ref().unwrap_or(&self.images)
    }

    /// What the answer means, with what the log says when it is a refusal.
    fn judge(&self, answer: Result<Answer>, doing: &str, log: &str) -> Result<Answer> {
        let directory = self.logs();
        let complaint = || directory.complaint(log);
        let (errno, message) = match answer {
            Ok(answer) if answer.success => return Ok(answer),
            Ok(answer) => (answer.errno, answer.message),
            // A failure before criu began, or one of ours in the middle.
            Err(error) if error.kind() != ErrorKind::System || complaint().is_none() => return Err(error),
            Err(_) => (None, None),
        };
        let errno = errno.filter(|errno| *errno != 0).map(|errno| format!(" (errno {errno})")).unwrap_or_default();
        let said = complaint().or(message).map(|said| format!(": {said}")).unwrap_or_default();
        let path = directory.path.join(log);
        Err(Error::new(
            ErrorKind::System,
            format!("criu cannot {doing} the container{errno}{said} (log file: {})", path.display()),
        ))
    }
}
