//! The control group that a container gets: one made here, one that systemd makes, or none.

use oci::runtime::{Linux, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources, Spec};
use sys::Errno;

use crate::cgroup::{Cgroup, CreateOptions, Host, Layout};
use crate::error::{Error, ErrorKind, Result};
use crate::launch::Groups;
use crate::mounts::cgroup_error;
use crate::systemd::{self, Placeholder, Scope};

/// Ends every refusal of limits to a caller who may make no group, as runc's does, which its callers know.
const NEEDS_NONE: &str = "rootless needs no limits + no cgrouppath when no permission is granted for cgroups";

/// Who a control group is for.
#[derive(Clone, Copy)]
pub(crate) struct Asker<'a> {
    /// The container's configuration.
    pub(crate) linux: &'a Linux,
    /// The container's id.
    pub(crate) id: &'a str,
    /// Whether the caller is an ordinary user.
    pub(crate) ordinary: bool,
}

/// A container's control group, before there is a container.
pub(crate) struct Grouped<'a> {
    pub(crate) group: Option<Cgroup>,
    scope: Option<&'a Scope>,
    /// In a scope until the process is there too, or systemd would find it empty and remove it.
    _placeholder: Option<Placeholder>,
    /// Whether nobody asked for the group, and the caller has no privilege over the host's.
    optional: bool,
    /// Whether the caller turned out to be root of a user namespace only, or may be.
    pub(crate) nested: bool,
}

impl Grouped<'_> {
    /// Whether `error`, of the first process's making, is that the caller may not enter a group that nobody asked for.
    pub(crate) fn may_do_without(&self, error: &Error) -> bool {
        let denied = error.cause().is_some_and(|cause| cause.call() == "clone3" && cause.errno() == Errno::ACCESS);
        self.optional && self.group.is_some() && denied
    }

    /// Takes the group back after a failure, which is the one to report: a group that resists is found again by its path.
    pub(crate) fn undo(&mut self) {
        if let Some(group) = self.group.take() {
            let _ = group.remove();
        }
        if let Some(scope) = self.scope {
            let _ = systemd::stop(&scope.unit);
        }
    }
}

/// The control group's path of a container that is made with this configuration: the one it names, or one of the
/// container's name. On a host with v2 alone an ordinary user's is beside the caller's own group, where the user may
/// make groups if anywhere.
#[must_use]
pub fn group_path(spec: &Spec, id: &str, ordinary: bool) -> String {
    match spec.linux.as_ref().map(|linux| linux.cgroups_path.as_str()) {
        None | Some("") => {
            let above = if ordinary { above_own_group() } else { None };
            format!("{}/lighter-{id}", above.unwrap_or_default())
        }
        Some(path) => path.to_owned(),
    }
}

/// The group above the caller's own, where there is one hierarchy; empty for its root.
fn above_own_group() -> Option<String> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    parent_group(&text).map(str::to_owned)
}

/// The group above the one that `/proc/PID/cgroup` names, where v2 alone is there. One that is out of sight begins with
/// `/..` (cgroup_namespaces(7)).
fn parent_group(text: &str) -> Option<&str> {
    let path = text.strip_prefix("0::")?.strip_suffix('\n').filter(|path| !path.contains('\n'))?;
    path.rsplit_once('/').map(|(above, _)| above).filter(|above| !above.starts_with("/.."))
}

/// Makes the group.
///
/// # Errors
/// Those of the control groups and of systemd; nothing is left then.
pub(crate) fn make<'a>(asker: &Asker<'_>, groups: Groups<'a>) -> Result<Grouped<'a>> {
    let none = Grouped { group: None, scope: None, _placeholder: None, optional: false, nested: false };
    let resources = asker.linux.resources.as_ref();
    match groups {
        Groups::None => {
            if resources.is_some_and(asks) {
                // What nobody would enforce is not promised.
                let sentence = "linux.resources: limits are asked for, and control groups are disabled";
                return Err(Error::new(ErrorKind::Unsupported, sentence));
            }
            Ok(Grouped { nested: !asker.ordinary, ..none })
        }
        Groups::Scope(scope) => {
            let (group, placeholder) = make_scope(asker, scope)?;
            Ok(Grouped { group: Some(group), scope: Some(scope), _placeholder: Some(placeholder), ..none })
        }
        Groups::Own(path) => {
            let asked = !asker.linux.cgroups_path.is_empty() || resources.is_some_and(asks);
            let (group, denied) = make_own(asker, path, asked)?;
            let optional = !asked && (denied || asker.ordinary);
            Ok(Grouped { group, optional, nested: denied && !asker.ordinary, ..none })
        }
    }
}

/// Gives the group, and whether it was denied to the caller, at least in some hierarchies.
fn make_own(asker: &Asker<'_>, path: &str, asked: bool) -> Result<(Option<Cgroup>, bool)> {
    use crate::cgroup::Error as Cause;
    let failed = |error| cgroup_error("cannot make the control group", error);
    let resources = asker.linux.resources.as_ref();
    let host = match Host::detect() {
        Err(Cause::NotMounted) if !asked && (asker.ordinary || sys::process::in_user_namespace()) => {
            return Ok((None, true));
        }
        other => other.map_err(|error| cgroup_error("cannot find the control groups", error))?,
    };
    if !asker.ordinary {
        match Cgroup::create(&host, path, resources, &CreateOptions::default()) {
            Err(error) if is_denied(&error) && sys::process::in_user_namespace() => {}
            other => return other.map(|group| (Some(group), false)).map_err(failed),
        }
    }
    // What the caller may make has to do: nothing, or in some hierarchies only.
    let options = CreateOptions { rootless: true, ..CreateOptions::default() };
    let refuse = |what: String| {
        let sentence = format!("cannot set {what}: container could not join or create cgroup ({NEEDS_NONE})");
        Error::new(ErrorKind::Unsupported, format!("{sentence}: permission denied"))
    };
    let group = match Cgroup::create(&host, path, resources, &options) {
        // runc's words for the settings, as in "pids limit".
        Err(Cause::NoController { setting, .. }) => return Err(refuse(setting.field.replace('.', " "))),
        other => other.map_err(failed)?,
    };
    let nowhere = group.hierarchies().map_err(failed)?.is_empty();
    match (nowhere, asked) {
        (true, true) => Err(refuse(format!("cgroupsPath {path}"))),
        (true, false) => Ok((None, true)),
        (false, _) => Ok((Some(group), !asker.ordinary)),
    }
}

/// Whether the caller has too little privilege over the host's groups, or over devices.
fn is_denied(error: &crate::cgroup::Error) -> bool {
    use crate::cgroup::Error as Cause;
    match error {
        Cause::Sys(cause) => matches!(cause.errno(), Errno::ACCESS | Errno::PERM | Errno::ROFS),
        Cause::Unsupported { setting, .. } => setting.field == "devices",
        _ => false,
    }
}

/// Whether there is a limit among `resources`. Device rules are none: what an ordinary user may open is the host's
/// decision already. Nor is "no limit" one.
fn asks(resources: &LinuxResources) -> bool {
    let limits = LinuxResources {
        devices: Vec::new(),
        pids: resources.pids.clone().filter(|LinuxPids { limit }| limit.is_some_and(|limit| limit > 0)),
        memory: resources.memory.clone().filter(|memory| *memory != LinuxMemory::default()),
        cpu: resources.cpu.clone().filter(|cpu| *cpu != LinuxCpu::default()),
        ..resources.clone()
    };
    limits != LinuxResources::default()
}

/// Has systemd make the group, and puts the exact limits in force there.
fn make_scope(asker: &Asker<'_>, scope: &Scope) -> Result<(Cgroup, Placeholder)> {
    let host = Host::detect().map_err(|error| cgroup_error("cannot find the control groups", error))?;
    let resources = asker.linux.resources.as_ref();
    let placeholder = scope.start(asker.id, resources, host.layout() == Layout::V2).map_err(systemd_error)?;
    let options = CreateOptions {
        handed_over: true,
        rootless: asker.ordinary || sys::process::in_user_namespace(),
        ..CreateOptions::default()
    };
    let made = placeholder.group().map_err(systemd_error).and_then(|path| {
        Cgroup::create(&host, &path, resources, &options)
            .map_err(|error| cgroup_error("cannot set up the control group that systemd made", error))
    });
    match made {
        Ok(group) => Ok((group, placeholder)),
        Err(error) => {
            drop(placeholder);
            // The first error is the one to report; an empty scope goes by itself.
            let _ = systemd::stop(&scope.unit);
            Err(error)
        }
    }
}

fn systemd_error(error: systemd::Error) -> Error {
    let kind = match error {
        systemd::Error::Absent(_) | systemd::Error::Denied { .. } => ErrorKind::Unsupported,
        systemd::Error::Path { .. } => ErrorKind::Config,
        _ => ErrorKind::System,
    };
    Error::new(kind, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_users_group_is_beside_its_own() {
        assert_eq!(parent_group("0::/user.slice/user-1000.slice/x.scope\n"), Some("/user.slice/user-1000.slice"));
        assert_eq!((parent_group("0::/\n"), parent_group("0::/a\n")), (Some(""), Some("")));
        assert_eq!(
            (parent_group("1:cpu:/a\n0::/a\n"), parent_group("0::/../a/b\n"), parent_group("")),
            (None, None, None)
        );
        let spec = Spec::from_json(br#"{"ociVersion": "1.2.0", "linux": {"cgroupsPath": "/x"}}"#).expect("valid");
        assert_eq!(group_path(&spec, "id", true), "/x");
        assert_eq!(group_path(&Spec::default(), "id", false), "/lighter-id");
    }

    #[test]
    fn only_limits_ask_for_a_group() {
        let read = |text: &str| -> LinuxResources { serde_json::from_str(text).expect("valid JSON") };
        for text in [
            "{}",
            r#"{"devices": [{"allow": false, "access": "rwm"}]}"#,
            r#"{"pids": {"limit": -1}}"#,
            r#"{"pids": {"limit": 0}}"#,
            r#"{"memory": {}, "cpu": {}}"#,
        ] {
            assert!(!asks(&read(text)), "{text}");
        }
        for text in [r#"{"pids": {"limit": 5}}"#, r#"{"memory": {"limit": 5}}"#, r#"{"unified": {"a.b": "c"}}"#] {
            assert!(asks(&read(text)), "{text}");
        }
    }
}
