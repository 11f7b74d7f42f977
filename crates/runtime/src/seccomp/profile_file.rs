//! Profiles users write: `--security-opt seccomp=FILE`.
//!
//! Two formats, told apart by nothing but the fields they use: the runtime specification's `linux.seccomp`, and
//! Docker's, which adds conditions on the machine, the kernel and the capabilities of the container a rule is for
//! (`archMap`, `includes`, `excludes`, moby/profiles `seccomp`).

use std::path::PathBuf;

use oci::runtime::{LinuxSeccomp, LinuxSeccompArg, LinuxSyscall};
use serde::Deserialize;

use super::abi::Machine;
use crate::capability::CapabilitySet;

/// Longest profile read, in bytes. Docker's own has 17 thousand.
pub const MAX_PROFILE_BYTES: usize = 1 << 20;

/// Why a file is not a profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Longer than [`MAX_PROFILE_BYTES`].
    #[error("seccomp profile has {0} bytes, at most {MAX_PROFILE_BYTES} are read")]
    TooLong(usize),
    /// Not JSON, or a field of another type.
    #[error("seccomp profile is not valid JSON")]
    Json(#[from] serde_json::Error),
    /// Both ways to name architectures are used.
    #[error("seccomp profile has both architectures and archMap; use one")]
    ArchitecturesTwice,
    /// Both ways to name a system call are used.
    #[error("seccomp profile has a rule with both name and names ({0:?}); use names")]
    NamesTwice(String),
    /// `minKernel` is not VERSION.PATCHLEVEL.
    #[error("seccomp profile has minKernel {0:?}, which is not of the form 4.8")]
    KernelVersion(String),
}

/// Go writes empty lists as null.
type List<T> = Option<Vec<T>>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    default_action: String,
    default_errno_ret: Option<u32>,
    architectures: List<String>,
    arch_map: List<Architecture>,
    flags: List<String>,
    listener_path: Option<PathBuf>,
    listener_metadata: Option<String>,
    syscalls: List<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Architecture {
    architecture: String,
    sub_architectures: List<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    name: Option<String>,
    names: List<String>,
    action: String,
    errno_ret: Option<u32>,
    args: List<Argument>,
    includes: Option<Filter>,
    excludes: Option<Filter>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u32,
    #[serde(default)]
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Filter {
    caps: List<String>,
    arches: List<String>,
    min_kernel: Option<String>,
}

/// What a rule's filters are held against.
struct Circumstances {
    machine: Machine,
    bounding: CapabilitySet,
    kernel: (u32, u32),
}

impl Circumstances {
    fn has_capability(&self, name: &str) -> bool {
        self.bounding.iter().any(|capability| capability.name() == name)
    }

    fn is_machine(&self, name: &str) -> bool {
        self.machine.docker_name() == name
    }

    /// Whether `filter`, as `includes`, lets a rule in: everything it names has to be so.
    fn include(&self, filter: &Filter) -> Result<bool, ProfileError> {
        let arches = list(filter.arches.as_ref());
        Ok((arches.is_empty() || arches.iter().any(|name| self.is_machine(name)))
            && list(filter.caps.as_ref()).iter().all(|name| self.has_capability(name))
            && min_kernel(filter)?.is_none_or(|least| self.kernel >= least))
    }

    /// Whether `filter`, as `excludes`, keeps a rule out: one thing it names being so is enough.
    fn exclude(&self, filter: &Filter) -> Result<bool, ProfileError> {
        Ok(list(filter.arches.as_ref()).iter().any(|name| self.is_machine(name))
            || list(filter.caps.as_ref()).iter().any(|name| self.has_capability(name))
            || min_kernel(filter)?.is_some_and(|least| self.kernel >= least))
    }

    fn admit(&self, rule: &Rule) -> Result<bool, ProfileError> {
        let included = rule.includes.as_ref().map_or(Ok(true), |filter| self.include(filter))?;
        let excluded = rule.excludes.as_ref().map_or(Ok(false), |filter| self.exclude(filter))?;
        Ok(included && !excluded)
    }
}

fn list<T>(list: Option<&Vec<T>>) -> &[T] {
    list.map_or(&[], Vec::as_slice)
}

fn min_kernel(filter: &Filter) -> Result<Option<(u32, u32)>, ProfileError> {
    let Some(text) = filter.min_kernel.as_deref().filter(|text| !text.is_empty()) else { return Ok(None) };
    let number = |part: &str| part.parse::<u8>().ok().map(u32::from);
    let version = text.split_once('.').and_then(|(version, level)| Some((number(version)?, number(level)?)));
    match version {
        Some(version) if version != (0, 0) => Ok(Some(version)),
        _ => Err(ProfileError::KernelVersion(text.to_owned())),
    }
}

/// Reads a profile in either format for a container with `bounding` as its bounding set, on Linux `kernel` (version,
/// patch level). None when it has neither a default action nor rules, which means no filter.
///
/// The words in it (actions, operators, names) are [`super::compile`]'s business.
///
/// # Errors
/// What the bytes are not.
pub fn read_profile(
    bytes: &[u8],
    bounding: CapabilitySet,
    kernel: (u32, u32),
) -> Result<Option<LinuxSeccomp>, ProfileError> {
    if bytes.len() > MAX_PROFILE_BYTES {
        return Err(ProfileError::TooLong(bytes.len()));
    }
    let file: File = serde_json::from_slice(bytes)?;
    let rules = file.syscalls.unwrap_or_default();
    if file.default_action.is_empty() && rules.is_empty() {
        return Ok(None);
    }
    let here = Circumstances { machine: Machine::NATIVE, bounding, kernel };
    let mut syscalls = Vec::with_capacity(rules.len());
    for rule in rules {
        if here.admit(&rule)? {
            syscalls.push(syscall(rule)?);
        }
    }
    Ok(Some(LinuxSeccomp {
        default_action: file.default_action,
        default_errno_ret: file.default_errno_ret,
        architectures: architectures(
            here.machine,
            file.architectures.unwrap_or_default(),
            file.arch_map.unwrap_or_default(),
        )?,
        flags: file.flags.unwrap_or_default(),
        listener_path: file.listener_path.unwrap_or_default(),
        listener_metadata: file.listener_metadata.unwrap_or_default(),
        syscalls,
    }))
}

fn architectures(
    machine: Machine,
    listed: Vec<String>,
    mapped: Vec<Architecture>,
) -> Result<Vec<String>, ProfileError> {
    if !listed.is_empty() && !mapped.is_empty() {
        return Err(ProfileError::ArchitecturesTwice);
    }
    let own = mapped.into_iter().find(|entry| entry.architecture == machine.scmp_name());
    Ok(own.map_or(listed, |entry| {
        std::iter::once(entry.architecture).chain(entry.sub_architectures.unwrap_or_default()).collect()
    }))
}

fn syscall(rule: Rule) -> Result<LinuxSyscall, ProfileError> {
    let mut names = rule.names.unwrap_or_default();
    if let Some(name) = rule.name.filter(|name| !name.is_empty()) {
        if !names.is_empty() {
            return Err(ProfileError::NamesTwice(name));
        }
        names.push(name);
    }
    let args = rule.args.unwrap_or_default().into_iter().map(|argument| LinuxSeccompArg {
        index: argument.index,
        value: argument.value,
        value_two: argument.value_two,
        op: argument.op,
    });
    Ok(LinuxSyscall { names, action: rule.action, errno_ret: rule.errno_ret, args: args.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::Capability;
    use crate::seccomp::{compile, unknown_names};

    fn names(profile: &LinuxSeccomp) -> Vec<&str> {
        profile.syscalls.iter().flat_map(|rule| &rule.names).map(String::as_str).collect()
    }

    const DOCKER: &str = r#"{
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": null}
        ],
        "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": null, "includes": {}, "excludes": {}},
            {"name": "write", "action": "SCMP_ACT_ALLOW", "args": []},
            {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_BPF", "CAP_KILL"]}},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["swapcontext"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["ppc64le"]}},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
             "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
             "excludes": {"arches": ["s390", "amd64", "arm64"]}}
        ]
    }"#;

    #[test]
    fn dockers_conditions_are_decided() {
        let read = |caps, kernel| read_profile(DOCKER.as_bytes(), caps, kernel).expect("valid").expect("a filter");
        let plain = read(CapabilitySet::DEFAULT, (6, 1));
        assert_eq!(names(&plain), ["read", "write", "clone3", "ptrace"]);
        assert_eq!(plain.architectures[0], Machine::NATIVE.scmp_name());
        assert_eq!(plain.default_errno_ret, Some(1));
        assert_eq!(plain.syscalls[2].errno_ret, Some(38));
        assert!(compile(&plain).is_ok());
        assert_eq!(names(&read(CapabilitySet::ALL, (4, 7))), ["read", "write", "bpf"]);
        let only_bpf = CapabilitySet::of(&[Capability::Bpf]);
        assert_eq!(names(&read(only_bpf, (4, 19))), ["read", "write", "clone3", "ptrace"]);
    }

    #[test]
    fn the_specifications_format_is_read() {
        let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"], "listenerPath": "/run/agent", "listenerMetadata": "m",
            "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY",
                          "args": [{"index": 1, "value": 18446744073709551615, "op": "SCMP_CMP_EQ"}]}]}"#;
        let profile = read_profile(text.as_bytes(), CapabilitySet::EMPTY, (6, 1)).expect("valid").expect("a filter");
        let same: LinuxSeccomp = serde_json::from_str(text).expect("valid");
        assert_eq!(profile, same);
    }

    #[test]
    fn our_own_profile_survives_the_file_format() {
        let profile = crate::seccomp::default_profile(CapabilitySet::DEFAULT, (6, 18));
        let text = serde_json::to_vec(&profile).expect("serialisable");
        let again = read_profile(&text, CapabilitySet::EMPTY, (6, 18)).expect("valid");
        assert_eq!(again.as_ref(), Some(&profile));
        assert_eq!(unknown_names(&profile), Vec::<&str>::new());
    }

    #[test]
    fn an_empty_profile_is_no_filter() {
        for text in ["{}", r#"{"syscalls": null}"#, r#"{"defaultAction": "", "syscalls": []}"#] {
            assert_eq!(read_profile(text.as_bytes(), CapabilitySet::EMPTY, (6, 1)).expect("valid"), None);
        }
    }

    #[test]
    fn mistakes_are_told() {
        let error = |text: &str| read_profile(text.as_bytes(), CapabilitySet::EMPTY, (6, 1)).expect_err("invalid");
        let rule = |rest: &str| {
            format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{{"action": "SCMP_ACT_KILL", {rest}}}]}}"#)
        };
        assert!(matches!(error("[]"), ProfileError::Json(_)));
        assert!(
            matches!(error(&rule(r#""names": ["a"], "name": "b""#)), ProfileError::NamesTwice(name) if name == "b")
        );
        for version in ["4", "4.8.1", "x.1", "0.0", "4.256", "-4.8"] {
            let text = rule(&format!(r#""names": ["a"], "includes": {{"minKernel": "{version}"}}"#));
            assert!(matches!(error(&text), ProfileError::KernelVersion(told) if told == version), "{version}");
        }
        let both = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"],
            "archMap": [{"architecture": "SCMP_ARCH_X86_64"}]}"#;
        assert!(matches!(error(both), ProfileError::ArchitecturesTwice));
        let long = " ".repeat(MAX_PROFILE_BYTES + 1);
        assert!(matches!(error(&long), ProfileError::TooLong(n) if n == MAX_PROFILE_BYTES + 1));
    }
}
