//! What the first process and an `exec`ed one do alike, from the inside: streams, directory, user, confinement, execve.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use oci::runtime::{Process, Rlimit};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Resource};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use sys::signal::SignalSet;
use sys::{Context as _, Errno};

use crate::command::{self, Found};
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::identity::{self, Credentials};
use crate::launch::{Identity, Stdio};
use crate::link::Link;
use crate::notify::Handover;
use crate::plan::{Confinement, wrong};

/// A descriptor's text in `/proc` has a dozen lines, longest in bytes.
const LONGEST_FDINFO: usize = 64 << 10;

/// The file mode creation mask when the configuration names none: the C library's and docker's.
const UMASK: u32 = 0o022;

/// The process's ids, and its environment with `HOME` where the user is looked up.
pub(crate) fn identify(root: impl AsFd, process: &Process, identity: &Identity) -> Result<(Credentials, Vec<String>)> {
    let mut environment = process.env.clone();
    let credentials = match identity {
        Identity::Spec { keep_groups } => {
            if !environment.iter().any(|variable| variable.starts_with("HOME=")) {
                // Numbers are numbers whatever the image's lists say, so a damaged one only leaves the default.
                let home =
                    identity::look_up(&root, &process.user.uid.to_string(), &[]).ok().and_then(|found| found.home);
                environment.push(format!("HOME={}", home.as_deref().unwrap_or("/")));
            }
            Credentials {
                uid: process.user.uid,
                gid: process.user.gid,
                groups: if *keep_groups { Vec::new() } else { process.user.additional_gids.clone() },
                home: None,
            }
        }
        Identity::Lookup { user, groups } => {
            let found = identity::look_up(root, user, groups)?;
            if !environment.iter().any(|variable| variable.starts_with("HOME=")) {
                environment.push(format!("HOME={}", found.home.as_deref().unwrap_or("/")));
            }
            found
        }
    };
    Ok((credentials, environment))
}

/// Enters the working directory. It is opened inside the root, never through a magic link such as `/proc/self/fd/7`,
/// and must be reachable from the root afterwards (CVE-2024-21626).
pub(crate) fn enter_directory(root: impl AsFd, process: &Process, make: bool) -> Result<()> {
    let cwd = &process.cwd;
    let what = || format!("cannot enter the working directory {}", cwd.display());
    let directory = if make {
        sys::fs::make_dirs_in_root(&root, cwd, 0o755)
    } else {
        sys::fs::open_in_root(&root, cwd, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
    };
    let directory = directory.map_err(|cause| Error::system(what(), cause).with_kind(ErrorKind::CommandNotFound))?;
    rustix::process::fchdir(&directory)
        .at("fchdir", cwd.display())
        .map_err(|cause| Error::system(what(), cause).with_kind(ErrorKind::CommandNotExecutable))?;
    let now = rustix::process::getcwd(Vec::new()).at("getcwd", cwd.display()).doing(what)?;
    if !now.as_bytes().starts_with(b"/") {
        return Err(Error::new(ErrorKind::Config, format!("{}: it lies outside the container's root", what())));
    }
    Ok(())
}

/// Makes the working directory when it is missing.
pub(crate) fn make_directory(root: impl AsFd, process: &Process) -> Result<()> {
    let what = || format!("cannot make the working directory {}", process.cwd.display());
    sys::fs::make_dirs_in_root(root, &process.cwd, 0o755).doing(what).map(drop)
}

/// Finds the command; the working directory is entered and the root is the container's.
pub(crate) fn find_command(process: &Process, environment: &[String]) -> Result<Found> {
    command::find(&process.args, environment)
}

/// Takes on the user's ids and the confinement, in the order in which each step still has the privilege it needs.
///
/// Without `no_new_privs` the filter is loaded while `CAP_SYS_ADMIN` is held, so it has to allow the calls after it;
/// with it, the filter comes last.
///
/// A filter's listener is handed over by `handover`; without one nobody listens, and calls for an agent are ENOSYS.
/// `fixed_groups` is whether the user namespace lets nobody change supplementary groups, or they were asked to stay: then
/// those of the caller stay, whom they are known by outside only.
pub(crate) fn confine(
    confinement: &Confinement,
    process: &Process,
    who: &Credentials,
    handover: Option<&Handover<'_>>,
    fixed_groups: bool,
) -> Result<()> {
    if !confinement.no_new_privileges {
        load_filter(confinement, handover)?;
    }
    sys::capability::set_keep_capabilities(true).doing(|| "cannot keep capabilities".to_owned())?;
    become_user(who, fixed_groups)?;
    rustix::process::umask(Mode::from_raw_mode(process.user.umask.unwrap_or(UMASK)));
    confinement.capabilities.apply(confinement.kernel_capabilities).doing(|| "cannot set capabilities".to_owned())?;
    if confinement.no_new_privileges {
        sys::seccomp::set_no_new_privs().doing(|| "cannot set no_new_privs".to_owned())?;
        load_filter(confinement, handover)?;
    }
    Ok(())
}

/// Gives the standard streams to the user, as the specification's runtimes do, so that programs can open
/// `/dev/stdout` again. Best effort: a stream that cannot change hands can still be written.
pub(crate) fn own_streams(user: &Credentials) {
    if user.uid == 0 {
        return;
    }
    let null = rustix::fs::makedev(1, 3);
    for stream in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
        // The null device is everybody's, and a terminal's group, tty, is what lets others write to it.
        if let Ok(stat) = rustix::fs::fstat(stream)
            && stat.st_uid != user.uid
            && stat.st_rdev != null
        {
            let _ = rustix::fs::fchown(stream, Some(rustix::fs::Uid::from_raw(user.uid)), None);
        }
    }
}

/// To be called before [`confine`], by the process that executes the command: prepares for a filter with a listener.
pub(crate) fn prepare_handover<'a>(confinement: &Confinement, link: &'a Link) -> Result<Option<Handover<'a>>> {
    match &confinement.seccomp {
        Some(program) if program.notifies() => Handover::offer(link).map(Some),
        _ => Ok(None),
    }
}

fn load_filter(confinement: &Confinement, handover: Option<&Handover<'_>>) -> Result<()> {
    let Some(program) = &confinement.seccomp else { return Ok(()) };
    let listener = program.load(handover.is_some()).doing(|| "cannot load the seccomp filter".to_owned())?;
    match (listener, handover) {
        (Some(listener), Some(handover)) => handover.give(listener),
        _ => Ok(()),
    }
}

/// The process id that a descriptor of a process stands for; none once it was collected.
pub(crate) fn pid_of(pidfd: &OwnedFd) -> Result<Option<Pid>> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let file = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).at("open", &path);
    let text = file.and_then(|file| sys::fs::read_bounded(&file, LONGEST_FDINFO, &path));
    let text = text.doing(|| "cannot find the container's process".to_owned())?;
    let pid = String::from_utf8_lossy(&text).lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    // -1 once it was collected.
    Ok(pid.filter(|pid| *pid > 0).and_then(Pid::from_raw))
}

fn become_user(who: &Credentials, fixed_groups: bool) -> Result<()> {
    let id = |what: &str, number: u32| {
        if number == u32::MAX {
            Err(wrong("process.user", format_args!("{what} {number} is no id")))
        } else {
            Ok(number)
        }
    };
    let unmapped = |what: String| {
        move |cause: sys::Error| {
            if cause.errno() == Errno::INVAL {
                let sentence = format!("{what} is not among the ids of the container's user namespace");
                Error::system(sentence, cause).with_kind(ErrorKind::UnknownUser)
            } else {
                Error::system(format!("cannot become {what}"), cause)
            }
        }
    };
    let gid = rustix::fs::Gid::from_raw(id("gid", who.gid)?);
    let uid = rustix::fs::Uid::from_raw(id("uid", who.uid)?);
    let groups: Vec<_> = who.groups.iter().map(|gid| rustix::fs::Gid::from_raw(*gid)).collect();
    if !fixed_groups {
        set_thread_groups(&groups)
            .at("setgroups", format_args!("{:?}", who.groups))
            .map_err(unmapped("one of the supplementary groups".to_owned()))?;
    } else if !groups.is_empty() {
        let sentence = "process.user.additionalGids: an ordinary user whose own group is the only one mapped cannot \
                        change supplementary groups";
        return Err(Error::new(ErrorKind::Unsupported, sentence));
    }
    set_thread_res_gid(gid, gid, gid).at("setresgid", who.gid).map_err(unmapped(format!("gid {}", who.gid)))?;
    set_thread_res_uid(uid, uid, uid).at("setresuid", who.uid).map_err(unmapped(format!("uid {}", who.uid)))
}

/// Makes the terminal the process's own: session, controlling terminal, the three streams.
pub(crate) fn take_terminal(slave: &OwnedFd) -> Result<()> {
    sys::pty::control(slave).doing(|| "cannot take the terminal".to_owned())
}

/// The three streams in their places, then the preserved descriptors, then nothing but a copy of `keep`: everything
/// else is closed now and not at execve, which looks the program up before that: `/proc/self/fd/N/../bin/x` would lead
/// out of the root (CVE-2024-21626). The caller must end by `exit_now`, without drops.
pub(crate) fn place_streams(
    streams: Option<[BorrowedFd<'_>; 3]>,
    preserve: &[Option<OwnedFd>],
    keep: BorrowedFd<'_>,
) -> Result<OwnedFd> {
    let what = || "cannot arrange the process's descriptors".to_owned();
    let files = places(streams, preserve);
    // What must survive until execve moves out of the way of the places.
    let count = i32::try_from(files.len()).unwrap_or(i32::MAX);
    let kept = rustix::io::fcntl_dupfd_cloexec(keep, count).at("fcntl", "F_DUPFD_CLOEXEC").doing(what)?;
    sys::process::place_descriptors(&files).doing(what)?;
    sys::process::close_from_except(u32::try_from(count).unwrap_or(3), &kept).doing(what)?;
    Ok(kept)
}

/// What goes to the places 0, 1, 2, …: the three streams, then what is handed on.
fn places<'a>(streams: Option<[BorrowedFd<'a>; 3]>, preserve: &'a [Option<OwnedFd>]) -> Vec<Option<BorrowedFd<'a>>> {
    let streams = streams.unwrap_or_else(|| [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()]);
    let handed_on = preserve.iter().map(|file| file.as_ref().map(AsFd::as_fd));
    streams.into_iter().map(Some).chain(handed_on).collect()
}

/// As [`place_streams`], for a process that is going to wait for long: everything but the places and `keep`, whose copy
/// is given, is closed, so that whoever waits for the end of one of those files does not wait for us. No owner of a
/// descriptor may be used or dropped afterwards.
pub(crate) fn keep_only(
    streams: Option<[BorrowedFd<'_>; 3]>,
    preserve: &[Option<OwnedFd>],
    keep: &OwnedFd,
) -> Result<OwnedFd> {
    let what = || "cannot arrange the process's descriptors".to_owned();
    let mut files = places(streams, preserve);
    let place = i32::try_from(files.len()).unwrap_or(i32::MAX);
    files.push(Some(keep.as_fd()));
    sys::process::place_descriptors(&files).doing(what)?;
    // What it needed for that has closed its own copies; from here on numbers are all that counts.
    drop(files);
    sys::process::close_from(place.unsigned_abs().saturating_add(1)).doing(what)?;
    sys::process::inherited(place).doing(what)
}

/// Signals as a program expects them at start.
pub(crate) fn reset_signals() -> Result<()> {
    sys::signal::reset_dispositions();
    sys::signal::block(SignalSet::empty()).map(drop).doing(|| "cannot unblock signals".to_owned())
}

/// The streams of the three descriptors asked for, if any were.
pub(crate) fn streams(stdio: &Stdio) -> Option<[BorrowedFd<'_>; 3]> {
    match stdio {
        Stdio::Fds { stdin, stdout, stderr } => Some([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]),
        Stdio::Inherit | Stdio::Terminal { .. } => None,
    }
}

/// Sets the limits of process `pid` from outside, where raising one may still be allowed.
pub(crate) fn set_rlimits(pid: u32, rlimits: &[Rlimit]) -> Result<()> {
    let target = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    for limit in rlimits {
        let Some(resource) = resource(&limit.kind) else {
            return Err(wrong("process.rlimits", format_args!("{:?} is no resource", limit.kind)));
        };
        if limit.soft > limit.hard {
            return Err(wrong(
                "process.rlimits",
                format_args!("{}: soft {} is over hard {}", limit.kind, limit.soft, limit.hard),
            ));
        }
        let bound = |value: u64| if value == u64::MAX { None } else { Some(value) };
        let new = rustix::process::Rlimit { current: bound(limit.soft), maximum: bound(limit.hard) };
        rustix::process::prlimit(target, resource, new).at("prlimit", &limit.kind).map_err(|cause| {
            let sentence = format!("cannot set the limit {} to {}:{}", limit.kind, limit.soft, limit.hard);
            Error::system(sentence, cause).with_kind(ErrorKind::Limit)
        })?;
    }
    Ok(())
}

fn resource(name: &str) -> Option<Resource> {
    Some(match name.strip_prefix("RLIMIT_")? {
        "AS" => Resource::As,
        "CORE" => Resource::Core,
        "CPU" => Resource::Cpu,
        "DATA" => Resource::Data,
        "FSIZE" => Resource::Fsize,
        "LOCKS" => Resource::Locks,
        "MEMLOCK" => Resource::Memlock,
        "MSGQUEUE" => Resource::Msgqueue,
        "NICE" => Resource::Nice,
        "NOFILE" => Resource::Nofile,
        "NPROC" => Resource::Nproc,
        "RSS" => Resource::Rss,
        "RTPRIO" => Resource::Rtprio,
        "RTTIME" => Resource::Rttime,
        "SIGPENDING" => Resource::Sigpending,
        "STACK" => Resource::Stack,
        _ => return None,
    })
}

/// As [`set_oom_score`], by the process of an ordinary user itself.
pub(crate) fn set_own_oom_score(score: Option<i32>) -> Result<()> {
    write_oom_score("/proc/self/oom_score_adj", score, true)
}

/// Sets `oom_score_adj` of process `pid`; a supervisor's own lowered score must not reach the container.
/// To lower it needs the host's privilege: with `or_stay` it stays where that is missing.
pub(crate) fn set_oom_score(pid: u32, score: Option<i32>, or_stay: bool) -> Result<()> {
    match score {
        Some(_) => write_oom_score(&format!("/proc/{pid}/oom_score_adj"), score, or_stay),
        None => Ok(()),
    }
}

fn write_oom_score(path: &str, score: Option<i32>, or_stay: bool) -> Result<()> {
    let Some(score) = score else { return Ok(()) };
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let written = rustix::fs::open(path, flags, Mode::empty())
        .at("open", path)
        .and_then(|file| sys::fs::write_all(file, score.to_string().as_bytes(), format_args!("{score} to {path}")));
    match written {
        Err(cause) if or_stay && matches!(cause.errno(), Errno::ACCESS | Errno::PERM) => Ok(()),
        other => other.map_err(|cause| {
            Error::system(format!("cannot set oom_score_adj to {score}"), cause).with_kind(ErrorKind::Limit)
        }),
    }
}
