//! Which processes a container has: those of its control group, or where it has none of its own, those of its pid
//! namespace.

use std::os::fd::AsFd as _;

use oci::runtime::NamespaceKind;
use rustix::fs::{AtFlags, Mode, OFlags};
use sys::{Context as _, Errno};

use super::failure::Failure;
use super::store::{Container, Record, group};

/// Their ids here, in no order; none when the container has ended.
///
/// # Errors
/// There is neither a group nor a pid namespace of its own to tell them by; system call errors.
pub(super) fn pids(container: &Container, record: &Record) -> Result<Vec<i32>, Failure> {
    if record.cgroup.is_some() {
        let Some(group) = group(record)? else { return Ok(Vec::new()) };
        return Ok(group.pids()?.into_iter().map(|pid| pid.as_raw_nonzero().get()).collect());
    }
    let (Some(process), (_, Some(_alive))) = (record.process, container.status(record)?) else {
        return Ok(Vec::new());
    };
    if container.spec()?.namespace(NamespaceKind::Pid).is_none_or(|pid| pid.path.is_some()) {
        return Err(Failure::new(format!(
            "container {:?} has neither a control group nor a pid namespace of its own: its processes are not told from \
             others",
            container.id
        )));
    }
    in_pid_namespace(process.pid)
}

/// The processes in the pid namespace of `first`.
fn in_pid_namespace(first: u32) -> Result<Vec<i32>, Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = rustix::fs::open("/proc", flags, Mode::empty()).at("open", "/proc")?;
    let namespace = |pid: &str| {
        let stat = rustix::fs::statat(proc.as_fd(), format!("{pid}/ns/pid"), AtFlags::empty());
        stat.map(|stat| (stat.st_dev, stat.st_ino))
    };
    let wanted = match namespace(&first.to_string()) {
        Err(Errno::NOENT | Errno::SRCH) => return Ok(Vec::new()),
        other => other.at("stat", format_args!("/proc/{first}/ns/pid"))?,
    };
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc").at("opendir", "/proc")? {
        let name = entry.at("readdir", "/proc")?.file_name();
        // Others' processes do not show us their namespaces; the container's do, as its user namespace is ours.
        if let Some((name, pid)) = name.to_str().and_then(|name| Some((name, name.parse().ok()?)))
            && namespace(name) == Ok(wanted)
        {
            pids.push(pid);
        }
    }
    Ok(pids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_namespace_has_its_processes() {
        let own = std::process::id();
        let pids = in_pid_namespace(own).expect("readable");
        assert!(pids.contains(&own.cast_signed()));
        assert_eq!(in_pid_namespace(u32::MAX >> 1).expect("no such process"), Vec::<i32>::new());
    }
}
