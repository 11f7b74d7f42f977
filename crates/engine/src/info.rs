//! What this engine has and what its host offers.

use container::ContainerDir;
use container::record::State;
use rustix::system::{sysinfo, uname};

use crate::host::{Host, Machine};
use crate::{Engine, Result};

/// Answer of `info`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Containers, all states.
    pub containers: usize,
    /// Running ones.
    pub running: usize,
    /// Paused ones.
    pub paused: usize,
    /// All others.
    pub stopped: usize,
    /// Images, each counted once.
    pub images: usize,
    /// Data root.
    pub root: std::path::PathBuf,
    /// Runtime directory.
    pub run: std::path::PathBuf,
    /// This engine's version.
    pub version: String,
    /// Kernel release.
    pub kernel: String,
    /// `PRETTY_NAME` of the host's os-release.
    pub operating_system: String,
    /// Machine: `x86_64`.
    pub architecture: String,
    /// Host name.
    pub name: String,
    /// CPUs this process may use.
    pub cpus: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// `1`, `2`, or `1 (hybrid)`.
    pub cgroup_version: String,
    /// How layers are stored.
    pub storage: String,
    /// File system of the data root.
    pub filesystem: String,
    /// Isolation features in force by default.
    pub security_options: Vec<String>,
    /// What is missing on this host and what follows from it.
    pub warnings: Vec<String>,
}

/// Magic numbers of file systems (statfs(2)) that a data root is likely to be on.
const FILESYSTEMS: [(u64, &str); 8] = [
    (0xef53, "extfs"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x0102_1994, "tmpfs"),
    (0x794c_7630, "overlayfs"),
    (0x2fc1_2fc1, "zfs"),
    (0xf2f5_2010, "f2fs"),
    (0x6969, "nfs"),
];

/// Magic number of cgroup v2 (statfs(2)).
const CGROUP2: u64 = 0x6367_7270;

impl Engine {
    /// What this engine has and what its host offers.
    ///
    /// # Errors
    /// A directory that cannot be read.
    pub fn info(&self) -> Result<Info> {
        let layers = self.paths.layers();
        let host = Machine::new(&layers);
        let (mut running, mut paused, mut stopped) = (0, 0, 0);
        for id in ContainerDir::list(&self.paths.containers())? {
            let observed = self.container_dir(&id).ok().and_then(|dir| dir.observe().ok());
            match observed.map(|observed| observed.state()) {
                Some(State::Running | State::Starting | State::Stopping) => running += 1,
                Some(State::Paused) => paused += 1,
                _ => stopped += 1,
            }
        }
        let records = self.image_store()?.list()?.records;
        let images: std::collections::BTreeSet<_> = records.iter().map(|record| record.id().clone()).collect();
        let uname = uname();
        let memory = sysinfo();
        let private = host.overlay_idmappable();
        Ok(Info {
            containers: running + paused + stopped,
            running,
            paused,
            stopped,
            images: images.len(),
            root: self.paths.root.clone(),
            run: self.paths.run.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: uname.release().to_string_lossy().into_owned(),
            operating_system: operating_system(),
            architecture: uname.machine().to_string_lossy().into_owned(),
            name: uname.nodename().to_string_lossy().into_owned(),
            cpus: host.cpus(),
            memory: memory.totalram.saturating_mul(u64::from(memory.mem_unit.max(1))),
            cgroup_version: cgroup_version().to_owned(),
            storage: "overlay".to_owned(),
            filesystem: filesystem(&self.paths.root),
            security_options: security_options(&host, private),
            warnings: warnings(&host, private),
        })
    }
}

fn magic(path: &std::path::Path) -> Option<u64> {
    // Some magic numbers fill the sign of 32 bits.
    rustix::fs::statfs(path).ok().map(|found| found.f_type.cast_unsigned() & 0xffff_ffff)
}

fn filesystem(path: &std::path::Path) -> String {
    let magic = magic(path);
    let known = FILESYSTEMS.iter().find(|(number, _)| Some(*number) == magic);
    match (known, magic) {
        (Some((_, name)), _) => (*name).to_owned(),
        (None, Some(magic)) => format!("{magic:#x}"),
        (None, None) => "unknown".to_owned(),
    }
}

fn cgroup_version() -> &'static str {
    let is_v2 = |path: &str| magic(path.as_ref()) == Some(CGROUP2);
    match (is_v2("/sys/fs/cgroup"), is_v2("/sys/fs/cgroup/unified")) {
        (true, _) => "2",
        (false, true) => "1 (hybrid)",
        (false, false) => "1",
    }
}

fn operating_system() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

fn security_options(host: &dyn Host, private: bool) -> Vec<String> {
    let mut options = vec!["seccomp (default profile)".to_owned(), "cgroupns".to_owned()];
    if private {
        options.push("userns (private)".to_owned());
    }
    if host.kernel() >= (5, 6) {
        options.push("timens".to_owned());
    }
    if host.apparmor() {
        options.push("apparmor (no profile by default)".to_owned());
    }
    options
}

fn warnings(host: &dyn Host, private: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    if !private {
        warnings.push(
            "containers share the host's user namespace: the kernel or the data root's file system cannot map ids"
                .to_owned(),
        );
    }
    if !host.swap_limit() {
        warnings.push("no swap limit support".to_owned());
    }
    if !host.may_raise_limits() {
        warnings.push(
            "CAP_SYS_RESOURCE is missing: hard limits (--ulimit) cannot be set above this program's own".to_owned(),
        );
    }
    warnings
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_fresh_root_is_described() {
        let scratch = crate::testing::Scratch::new("info");
        let info = scratch.engine().info().expect("described");
        assert_eq!((info.containers, info.images), (0, 0));
        assert!(info.cpus >= 1 && info.memory > 1 << 20);
        assert!(["1", "2", "1 (hybrid)"].contains(&info.cgroup_version.as_str()));
        assert!(!info.kernel.is_empty() && !info.filesystem.is_empty());
    }
}
