//! Entry points of the fuzz targets (`/fuzz`): each takes any bytes, and panics when something that must hold does not.

use std::path::Path;

use oci::runtime::{Linux, Process, Spec};

use crate::capability::Capabilities;
use crate::launch::{Identity, Launch, Rootfs, Stdio};
use crate::plan::{Confinement, Plan};
use crate::tuning::{Affinity, Tuning};
use crate::{cgroup, identity, resctrl, seccomp, systemd};

/// Values made of bytes, in order; zeros when there are no more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draw<'a>(pub(crate) &'a [u8]);

impl Draw<'_> {
    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub(crate) fn number(&mut self) -> u64 {
        (0..8).fold(0, |number, _| number << 8 | u64::from(self.byte()))
    }

    pub(crate) fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::from(self.byte()) % all.len()]
    }
}

/// `config.json`, as far as a plan. Of the namespaces to join only the caller's own are opened.
pub fn config(bytes: &[u8]) {
    let Ok(mut spec) = Spec::from_json(bytes) else { return };
    for namespace in spec.linux.iter_mut().flat_map(|linux| &mut linux.namespaces) {
        namespace.path = namespace.path.take().filter(|path| path.starts_with("/proc/self/ns"));
    }
    let terminal = spec.process.as_ref().is_some_and(|process| process.terminal);
    let launch = Launch {
        id: "fuzz",
        spec: &spec,
        rootfs: Rootfs::AsIs("/".into()),
        stdio: if terminal { Stdio::Terminal { size: None } } else { Stdio::Inherit },
        preserve: Vec::new(),
        identity: Identity::Spec { keep_groups: false },
        init: false,
        make_cwd: false,
        die_with_caller: false,
        seccomp_cache: None,
    };
    for ordinary in [false, true] {
        if let Ok(plan) = Plan::new(&launch, ordinary) {
            let _ = plan.root_ids();
            assert!(plan.mounts.len() == spec.mounts.len());
        }
        let _ = crate::group_path(&spec, "fuzz", ordinary);
    }
    if let Some(rdt) = spec.linux.as_ref().and_then(|linux| linux.intel_rdt.as_ref()) {
        resctrl::check(rdt);
    }
}

/// The process of `exec`.
pub fn process(bytes: &[u8]) {
    let Ok(process) = serde_json::from_slice::<Process>(bytes) else { return };
    let linux = Linux::default();
    let _ = Tuning::new(&process, &linux);
    let _ = Affinity::new(process.exec_cpu_affinity.as_ref());
    let _ = Confinement::new(&Spec::default(), &process, None::<&Path>);
    if let Some(sets) = &process.capabilities {
        let (sets, _) = Capabilities::from_oci(sets);
        assert_eq!(Capabilities::from_oci(&sets.to_oci()), (sets, Vec::new()));
    }
}

/// Users and groups: the user, `/etc/passwd` and `/etc/group`, separated by NUL.
pub fn passwd(bytes: &[u8]) {
    let mut parts = bytes.splitn(3, |byte| *byte == 0).map(String::from_utf8_lossy);
    let mut next = || parts.next().unwrap_or_default();
    let (user, passwd, group) = (next(), next(), next());
    let Ok(said) = identity::Said::parse(&user) else { return };
    let Ok(found) = identity::resolve(said, &[], &passwd, &group) else { return };
    assert!(found.uid != u32::MAX && found.groups.iter().all(|gid| *gid != u32::MAX), "{found:?}");
    assert_eq!(found.groups.first(), Some(&found.gid), "{found:?}");
    let name = user.split_once(':').map_or(&*user, |(name, _)| name);
    match name.parse::<u32>() {
        Ok(number) => assert_eq!(found.uid, number),
        // A name that is nowhere at the beginning of a line is nobody.
        Err(_) => assert!(name.is_empty() || passwd.lines().any(|line| line.starts_with(name)), "{name:?}"),
    }
}

/// The kernel's files.
pub fn kernel_files(bytes: &[u8]) {
    cgroup::fuzzing::files(bytes);
}

/// Profiles and calls, compiled and interpreted, against a model.
pub fn seccomp(bytes: &[u8]) {
    seccomp::fuzzing::program(bytes);
}

/// Files of profiles.
pub fn seccomp_file(bytes: &[u8]) {
    seccomp::fuzzing::file(bytes);
}

/// Device rules in both forms, against a model.
pub fn devices(bytes: &[u8]) {
    cgroup::fuzzing::devices(bytes);
}

/// `linux.resources`, as `update` takes them.
pub fn resources(bytes: &[u8]) {
    cgroup::fuzzing::resources(bytes);
}

/// systemd's messages.
pub fn bus_message(bytes: &[u8]) {
    systemd::fuzzing::message(bytes);
}

/// What names a scope, and limits as systemd's properties.
pub fn scope(bytes: &[u8]) {
    systemd::fuzzing::scope(bytes);
}

/// A target.
pub type Target = fn(&[u8]);

/// The targets by name.
pub const TARGETS: [(&str, Target); 10] = [
    ("config", config),
    ("process", process),
    ("passwd", passwd),
    ("kernel_files", kernel_files),
    ("seccomp", seccomp),
    ("seccomp_file", seccomp_file),
    ("devices", devices),
    ("resources", resources),
    ("bus_message", bus_message),
    ("scope", scope),
];

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::{TARGETS, replay};

    #[test]
    fn what_the_fuzzers_found_is_read_without_fault() {
        replay::all(&TARGETS);
    }
}
