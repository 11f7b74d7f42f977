//! `spec` and `features`: a configuration to begin with, and what this runtime can do.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use serde_json::{Value, json};
use sys::{Context as _, Errno};

use super::arguments::Flags;
use super::failure::Failure;
use super::{create, print};

/// `spec`.
pub(super) fn spec(flags: &Flags) -> Result<i32, Failure> {
    let bundle = create::bundle_directory(flags.get("bundle"))?;
    let path = bundle.join(flags.get("config").unwrap_or("config.json"));
    let ids = flags.is("rootless").then(|| (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()));
    let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file: OwnedFd = match rustix::fs::open(&path, create, Mode::from_raw_mode(0o644)) {
        Err(Errno::EXIST) => {
            return Err(Failure::new(format!("the file {} already exists: remove it first", path.display())));
        }
        other => other.at("open", path.display())?,
    };
    let text = serde_json::to_string_pretty(&configuration(ids)).map_err(|error| Failure::new(error.to_string()))?;
    sys::fs::write_all(&file, format!("{text}\n").as_bytes(), path.display())?;
    Ok(0)
}

/// A shell in a read-only root. With `rootless`, for the user with these ids: one id is mapped, and nothing is asked for
/// that such a user may not do.
fn configuration(rootless: Option<(u32, u32)>) -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    let pts_group: &[&str] = if rootless.is_some() { &[] } else { &["gid=5"] };
    let pts: Vec<&str> = [&["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"], pts_group].concat();
    let sys = match rootless {
        // sysfs belongs to the network namespace, which such a user shares with the host.
        Some(_) => mount("/sys", "none", "/sys", &["rbind", "nosuid", "noexec", "nodev", "ro"]),
        None => mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    };
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &[]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", "devpts", &pts),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        sys,
    ];
    let mut kinds = vec!["pid", "ipc", "uts", "mount", "cgroup"];
    if rootless.is_some() {
        kinds.push("user");
    } else {
        kinds.push("network");
        mounts.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]));
    }
    let mut linux = json!({
        "namespaces": kinds.iter().map(|kind| json!({"type": kind})).collect::<Vec<_>>(),
        "maskedPaths": [
            "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
            "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap",
            "/sys/firmware",
        ],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    });
    match rootless {
        Some((uid, gid)) => {
            linux["uidMappings"] = json!([{"containerID": 0, "hostID": uid, "size": 1}]);
            linux["gidMappings"] = json!([{"containerID": 0, "hostID": gid, "size": 1}]);
        }
        None => linux["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]}),
    }
    json!({
        "ociVersion": oci::runtime::VERSION,
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "lighter",
        "mounts": mounts,
        "linux": linux,
    })
}

/// `features` (`features.md`).
pub(super) fn features() -> Result<i32, Failure> {
    let text = serde_json::to_string_pretty(&abilities()).map_err(|error| Failure::new(error.to_string()))?;
    print(&format!("{text}\n"))?;
    Ok(0)
}

fn abilities() -> Value {
    let capabilities: Vec<&str> = runtime::capability::Capability::ALL.iter().map(|one| one.name()).collect();
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": oci::runtime::VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": [
            "async", "atime", "bind", "copy-symlink", "defaults", "dest-nofollow", "dev", "diratime", "dirsync",
            "exec", "idmap", "iversion", "lazytime", "loud", "mand", "noatime", "nodev", "nodiratime", "noexec",
            "noiversion", "nolazytime", "nomand", "norelatime", "nostrictatime", "nosuid", "nosymfollow", "private",
            "ratime", "rbind", "rdev", "rdiratime", "relatime", "rexec", "ridmap", "rnoatime", "rnodev",
            "rnodiratime", "rnoexec", "rnorelatime", "rnostrictatime", "rnosuid", "rnosymfollow", "ro", "rprivate",
            "rrelatime", "rro", "rrw", "rshared", "rslave", "rstrictatime", "rsuid", "rsymfollow", "runbindable",
            "rw", "shared", "silent", "slave", "src-nofollow", "strictatime", "suid", "symfollow", "sync",
            "tmpcopyup", "unbindable",
        ],
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": capabilities,
            "cgroup": {"v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": true},
            "seccomp": {
                "enabled": true,
                "actions": [
                    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP",
                ],
                "knownFlags": runtime::seccomp::FLAG_NAMES,
                "supportedFlags": runtime::seccomp::supported_flags(),
                "operators": [
                    "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ",
                    "SCMP_CMP_NE",
                ],
            },
            "apparmor": {"enabled": true},
            "selinux": {"enabled": true},
            "intelRdt": {"enabled": true, "schemata": true, "monitoring": true},
            "memoryPolicy": {
                "modes": [
                    "MPOL_DEFAULT", "MPOL_PREFERRED", "MPOL_BIND", "MPOL_INTERLEAVE", "MPOL_LOCAL",
                    "MPOL_PREFERRED_MANY", "MPOL_WEIGHTED_INTERLEAVE",
                ],
                "flags": ["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"],
            },
            "mountExtensions": {"idmap": {"enabled": true}},
            "netDevices": {"enabled": true},
        },
        "annotations": {"org.lighter.version": env!("CARGO_PKG_VERSION")},
        "potentiallyUnsafeConfigAnnotations": [
            "run.oci.hooks.stderr", "run.oci.hooks.stdout", "run.oci.keep_original_groups", "run.oci.seccomp.receiver",
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_configurations() {
        for rootless in [None, Some((1000, 1000))] {
            let text = serde_json::to_vec(&configuration(rootless)).expect("text");
            let spec = oci::runtime::Spec::from_json(&text).expect("valid");
            let linux = spec.linux.expect("present");
            assert_eq!(linux.uid_mappings.len(), usize::from(rootless.is_some()));
            assert_eq!(spec.process.expect("present").args, ["sh"]);
        }
    }

    #[test]
    fn features_name_what_callers_ask_for() {
        let features = abilities();
        assert_eq!(features["linux"]["mountExtensions"]["idmap"]["enabled"], true);
        assert!(features["linux"]["capabilities"].as_array().expect("list").contains(&"CAP_SYS_ADMIN".into()));
    }
}
