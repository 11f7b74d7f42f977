//! What a process can learn about its own container.

use std::fs;
use std::path::Path;

/// The longest file of /proc or /sys that is read, bytes.
const MAX_FILE: u64 = 1 << 20;

/// Names of capabilities by number (capabilities(7), kernel 5.9).
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];
const NAMESPACES: [&str; 8] = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"];

/// A line of `/proc/self/uid_map`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IdRange {
    /// First id inside.
    pub(super) inside: u32,
    /// The same one outside.
    pub(super) outside: u32,
    /// How many.
    pub(super) length: u32,
}

/// A limit of a control group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Limit<T> {
    /// So much.
    Of(T),
    /// None.
    Unlimited,
    /// It cannot be read here.
    Unknown,
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// Where.
    pub(super) target: String,
    /// File system type.
    pub(super) kind: String,
    /// Whether it is read-only.
    pub(super) read_only: bool,
}

/// Everything gathered.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) pid: u32,
    pub(super) host_name: String,
    pub(super) kernel: String,
    /// Names and inode numbers.
    pub(super) namespaces: Vec<(String, String)>,
    pub(super) uid_map: Vec<IdRange>,
    /// Effective and bounding set.
    pub(super) capabilities: (u64, u64),
    /// 0 off, 1 strict, 2 filter, as `/proc/self/status` has it.
    pub(super) seccomp: Option<u32>,
    pub(super) no_new_privileges: Option<bool>,
    pub(super) memory: Limit<u64>,
    pub(super) cpus: Limit<f64>,
    pub(super) pids: Limit<u64>,
    pub(super) mounts: Vec<Mount>,
    /// From `run` to the first instruction, nanoseconds.
    pub(super) start: Option<u64>,
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    use std::io::Read as _;
    let mut text = String::new();
    fs::File::open(path).ok()?.take(MAX_FILE).read_to_string(&mut text).ok()?;
    Some(text)
}

impl Facts {
    /// Reads the container from inside.
    pub(super) fn gather(start: Option<u64>) -> Self {
        let status = read("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let mut lines = status.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
        };
        let set = |name: &str| field(name).and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0);
        let uname = rustix::system::uname();
        let groups = read("/proc/self/cgroup").unwrap_or_default();
        let from = |root: &str| Groups { root: root.into(), membership: groups.clone() };
        let groups = from("/sys/fs/cgroup");
        Self {
            pid: std::process::id(),
            host_name: uname.nodename().to_string_lossy().into_owned(),
            kernel: uname.release().to_string_lossy().into_owned(),
            namespaces: NAMESPACES.iter().filter_map(|name| namespace(name)).collect(),
            uid_map: id_map(&read("/proc/self/uid_map").unwrap_or_default()),
            capabilities: (set("CapEff"), set("CapBnd")),
            seccomp: field("Seccomp").and_then(|text| text.parse().ok()),
            no_new_privileges: field("NoNewPrivs").map(|text| text == "1"),
            memory: groups.memory(),
            cpus: groups.cpus(),
            pids: groups.pids(),
            mounts: mounts(&read("/proc/self/mountinfo").unwrap_or_default()),
            start,
        }
    }
}

fn namespace(name: &str) -> Option<(String, String)> {
    let link = fs::read_link(format!("/proc/self/ns/{name}")).ok()?;
    let text = link.to_string_lossy().into_owned();
    let inode = text.split_once('[')?.1.trim_end_matches(']').to_owned();
    Some((name.to_owned(), inode))
}

/// Reads the three columns of an id map.
pub(super) fn id_map(text: &str) -> Vec<IdRange> {
    let range = |line: &str| {
        let mut numbers = line.split_whitespace().map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(IdRange { inside: next()?, outside: next()?, length: next()? })
    };
    text.lines().filter_map(range).collect()
}

/// Names of the capabilities in a set.
pub(super) fn capability_names(set: u64) -> Vec<&'static str> {
    CAPABILITIES.iter().enumerate().filter(|(bit, _)| set >> bit & 1 == 1).map(|(_, name)| *name).collect()
}

/// How many capabilities there are by name.
pub(super) fn capability_count() -> usize {
    CAPABILITIES.len()
}

/// Reads `mountinfo` (proc_pid_mountinfo(5)): target, type after the dash, `ro` among the mount's options.
pub(super) fn mounts(text: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(4);
        let (target, options) = (left.next()?, left.next()?);
        let kind = right.split(' ').next()?;
        let read_only = options.split(',').any(|option| option == "ro");
        Some(Mount { target: target.to_owned(), kind: kind.to_owned(), read_only })
    };
    text.lines().filter_map(mount).collect()
}

/// The control groups this process is in, as mounted below `root`.
pub(super) struct Groups {
    pub(super) root: String,
    /// `/proc/self/cgroup`.
    pub(super) membership: String,
}

impl Groups {
    /// A file of this process's group: v2 first, then the v1 hierarchy of `controller`. The path in the membership is
    /// relative to the cgroup namespace, and so is the mount.
    fn file(&self, v2: &str, controller: &str, v1: &str) -> Option<String> {
        for line in self.membership.lines() {
            let mut parts = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
            let path = path.trim_end_matches('/');
            if controllers.is_empty() {
                let found = read(format!("{}{path}/{v2}", self.root));
                if found.is_some() {
                    return found;
                }
            } else if controllers.split(',').any(|name| name == controller) {
                for hierarchy in [controllers, controller] {
                    let found = read(format!("{}/{hierarchy}{path}/{v1}", self.root));
                    if found.is_some() {
                        return found;
                    }
                }
            }
        }
        None
    }

    fn number(text: Option<String>) -> Limit<u64> {
        match text.as_deref().map(str::trim) {
            None => Limit::Unknown,
            Some("max") => Limit::Unlimited,
            // v1 writes the largest multiple of the page size for no limit.
            Some(text) => match text.parse::<u64>() {
                Ok(number) if number > 1 << 62 => Limit::Unlimited,
                Ok(number) => Limit::Of(number),
                Err(_) => Limit::Unknown,
            },
        }
    }

    pub(super) fn memory(&self) -> Limit<u64> {
        Self::number(self.file("memory.max", "memory", "memory.limit_in_bytes"))
    }

    pub(super) fn pids(&self) -> Limit<u64> {
        Self::number(self.file("pids.max", "pids", "pids.max"))
    }

    #[expect(clippy::cast_precision_loss, reason = "microseconds of a CPU quota are far below 2^52")]
    pub(super) fn cpus(&self) -> Limit<f64> {
        let Some(text) = self.file("cpu.max", "cpu", "cpu.cfs_quota_us") else { return Limit::Unknown };
        let mut words = text.split_whitespace();
        let quota = words.next().unwrap_or_default();
        if quota == "max" || quota.starts_with('-') {
            return Limit::Unlimited;
        }
        let period = match words.next() {
            Some(period) => period.to_owned(),
            None => self.file("cpu.max", "cpu", "cpu.cfs_period_us").unwrap_or_default(),
        };
        match (quota.parse::<u64>(), period.trim().parse::<u64>()) {
            (Ok(quota), Ok(period)) if period > 0 => Limit::Of(quota as f64 / period as f64),
            _ => Limit::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read() {
        let map = id_map("         0     131072      65536\nbroken\n");
        assert_eq!(map, [IdRange { inside: 0, outside: 131_072, length: 65_536 }]);
        let info =
            "22 1 0:20 / / ro,relatime - overlay overlay rw,lowerdir=x\n23 22 0:5 / /proc rw shared:1 - proc proc rw\n";
        let mounts = mounts(info);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0], Mount { target: "/".into(), kind: "overlay".into(), read_only: true });
        assert!(!mounts[1].read_only);
        assert_eq!(capability_names(0b1010_0001), ["CHOWN", "KILL", "SETUID"]);
    }

    #[test]
    fn limits_are_read_on_both_versions() {
        let dir = std::env::temp_dir().join(format!("lighter-cli-hello-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, text).expect("written");
        };
        let root = dir.to_str().expect("UTF-8").to_owned();
        write("v2/memory.max", "67108864\n");
        write("v2/cpu.max", "50000 100000\n");
        write("v2/pids.max", "max\n");
        let groups = Groups { root: format!("{root}/v2"), membership: "0::/\n".into() };
        assert_eq!(groups.memory(), Limit::Of(67_108_864));
        assert_eq!(groups.cpus(), Limit::Of(0.5));
        assert_eq!(groups.pids(), Limit::Unlimited);
        write("v1/memory/a/memory.limit_in_bytes", "9223372036854771712\n");
        write("v1/cpu,cpuacct/a/cpu.cfs_quota_us", "200000\n");
        write("v1/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n");
        let membership = "5:memory:/a\n4:cpu,cpuacct:/a\n3:pids:/a\n0::/\n".into();
        let groups = Groups { root: format!("{root}/v1"), membership };
        assert_eq!(groups.memory(), Limit::Unlimited);
        assert_eq!(groups.cpus(), Limit::Of(2.0));
        assert_eq!(groups.pids(), Limit::Unknown);
        fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn gathering_works_anywhere() {
        let facts = Facts::gather(Some(1));
        assert_eq!(facts.pid, std::process::id());
        assert!(facts.namespaces.iter().any(|(name, inode)| name == "mnt" && inode.parse::<u64>().is_ok()));
        assert!(!facts.mounts.is_empty());
    }
}
