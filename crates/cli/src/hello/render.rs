//! The page that `hello` prints.

use std::fmt::Write as _;

use super::facts::{Facts, Limit, Mount, capability_count, capability_names};
use crate::format::units;

/// Width of the labels.
const LABEL: usize = 14;
/// Text wraps before this column.
const WIDTH: usize = 100;

/// The page for these facts.
pub(super) fn page(facts: &Facts) -> String {
    let mut page = String::from("\nHello from inside a container!\n\n");
    let mut line = |label: &str, text: &str| {
        let mut column = 0;
        let mut row = String::new();
        for word in text.split(' ') {
            if column > 0 && column + word.chars().count() >= WIDTH - LABEL {
                let _ = write!(row, "\n{:LABEL$}", "");
                column = 0;
            }
            let _ = write!(row, "{}{word}", if column > 0 { " " } else { "" });
            column += word.chars().count() + 1;
        }
        let _ = writeln!(page, "{label:<LABEL$}{row}");
    };
    line("process", &process(facts.pid));
    line("host name", &facts.host_name);
    line("kernel", &format!("{}, the host's: containers share it", facts.kernel));
    line("root here", &root(facts));
    let namespaces: Vec<String> = facts.namespaces.iter().map(|(name, inode)| format!("{name}:{inode}")).collect();
    line("namespaces", &format!("{} (compare: ls -l /proc/self/ns)", namespaces.join(" ")));
    line("capabilities", &capabilities(facts.capabilities.0));
    if facts.capabilities.1 != facts.capabilities.0 {
        line("  at most", &capabilities(facts.capabilities.1));
    }
    line("system calls", &system_calls(facts));
    line("memory", &limit(facts.memory, units::binary));
    line("cpus", &limit(facts.cpus, |cpus| format!("{}", (cpus * 100.0).round() / 100.0)));
    line("processes", &limit(facts.pids, |pids| pids.to_string()));
    line("mounts", &mounts(&facts.mounts));
    line("start", &start(facts.start));
    page.push_str("\nNow try one of your own:  lighter run --rm -it IMAGE sh\n\n");
    page
}

fn process(pid: u32) -> String {
    match pid {
        1 => "I am process 1: the first of my own process tree".into(),
        pid => format!("I am process {pid}, not process 1: an init, or another pid namespace, is above me"),
    }
}

fn root(facts: &Facts) -> String {
    let range = facts.uid_map.iter().find(|range| range.inside == 0);
    match range {
        Some(range) if range.outside == 0 => "root here is root outside: this container shares the host's users".into(),
        Some(range) => {
            format!("root here is uid {} outside: nobody there ({} ids mapped)", range.outside, range.length)
        }
        None => "root is not mapped here".into(),
    }
}

fn capabilities(set: u64) -> String {
    let names = capability_names(set);
    match names.len() {
        0 => "none".into(),
        count if count == capability_count() => format!("all {count}"),
        count => format!("{count} of {}: {}", capability_count(), names.join(" ").to_lowercase()),
    }
}

fn system_calls(facts: &Facts) -> String {
    let filter = match facts.seccomp {
        Some(0) => "not filtered",
        Some(1) => "strict: read, write, exit",
        Some(_) => "filtered by seccomp",
        None => "filter unknown",
    };
    let privileges = match facts.no_new_privileges {
        Some(true) => "no new privileges by exec",
        Some(false) => "set-user-id programs work within the map",
        None => "no_new_privs unknown",
    };
    format!("{filter}; {privileges}")
}

fn limit<T>(limit: Limit<T>, show: impl FnOnce(T) -> String) -> String {
    match limit {
        Limit::Of(value) => format!("at most {}", show(value)),
        Limit::Unlimited => "no limit of its own".into(),
        Limit::Unknown => "limit not visible from here".into(),
    }
}

fn mounts(mounts: &[Mount]) -> String {
    let shown = mounts.iter().filter(|mount| {
        matches!(mount.target.as_str(), "/" | "/proc" | "/sys" | "/dev" | "/dev/shm" | "/sys/fs/cgroup")
    });
    let shown: Vec<String> = shown
        .map(|mount| format!("{} {}{}", mount.target, mount.kind, if mount.read_only { ",ro" } else { "" }))
        .collect();
    format!("{}: {}", mounts.len(), shown.join("; "))
}

#[expect(clippy::cast_precision_loss, reason = "shown with one decimal of a millisecond")]
fn start(nanoseconds: Option<u64>) -> String {
    match nanoseconds {
        Some(nanoseconds) => format!("{:.1} ms from lighter run to my first instruction", nanoseconds as f64 / 1e6),
        None => "not measured: started without lighter run".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::IdRange;
    use super::*;

    fn facts() -> Facts {
        Facts {
            pid: 1,
            host_name: "0123456789ab".into(),
            kernel: "6.18".into(),
            namespaces: vec![("user".into(), "4026531837".into()), ("mnt".into(), "4026532837".into())],
            uid_map: vec![IdRange { inside: 0, outside: 131_072, length: 65_536 }],
            capabilities: (0b11, 0b11),
            seccomp: Some(2),
            no_new_privileges: Some(false),
            memory: Limit::Of(64 << 20),
            cpus: Limit::Of(0.5),
            pids: Limit::Of(2048),
            mounts: vec![Mount { target: "/".into(), kind: "overlay".into(), read_only: false }],
            start: Some(12_345_678),
        }
    }

    #[test]
    fn the_page_says_what_a_container_is() {
        let page = page(&facts());
        for part in [
            "process       I am process 1",
            "root here     root here is uid 131072 outside",
            "capabilities  2 of 41: chown dac_override",
            "system calls  filtered by seccomp",
            "memory        at most 64MiB",
            "cpus          at most 0.5",
            "processes     at most 2048",
            "mounts        1: / overlay",
            "start         12.3 ms",
        ] {
            assert!(page.contains(part), "{part}\n{page}");
        }
        assert!(!page.contains("at most 2 of"), "equal sets are shown once");
    }

    #[test]
    fn a_weaker_container_is_told_as_such() {
        let weak = Facts {
            pid: 7,
            uid_map: vec![IdRange { inside: 0, outside: 0, length: u32::MAX }],
            seccomp: Some(0),
            capabilities: (0, u64::MAX >> 23),
            memory: Limit::Unlimited,
            start: None,
            ..facts()
        };
        let page = page(&weak);
        for part in [
            "process 7, not process 1",
            "is root outside",
            "not filtered",
            "  at most     all 41",
            "no limit",
            "not measured",
        ] {
            assert!(page.contains(part), "{part}\n{page}");
        }
        assert!(page.lines().all(|line| line.chars().count() <= WIDTH), "{page}");
    }
}
