//! Devices: nodes, and the control group's rules about which may be used.

use std::path::Path;

use oci::runtime::{LinuxDevice, LinuxDeviceCgroup, Mount};

use super::{invalid, mounts, posture, refusal};
use crate::Result;
use crate::host::{Host, Node, NodeKind};
use crate::spec::ContainerSpec;

/// What a container gets of devices.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Devices {
    /// Nodes made by the runtime.
    pub(super) nodes: Vec<LinuxDevice>,
    /// Nodes bound from the host, outside `/dev`.
    pub(super) mounts: Vec<Mount>,
    /// Rules, in order.
    pub(super) rules: Vec<LinuxDeviceCgroup>,
}

/// Nothing, but: making any node (whoever lacks CAP_MKNOD cannot), null, zero, full, random, urandom, tty, ptmx and
/// the container's own terminals.
const DEFAULT_RULES: [(&str, Option<i64>, Option<i64>, &str); 10] = [
    ("c", None, None, "m"),
    ("b", None, None, "m"),
    ("c", Some(1), Some(3), "rwm"),
    ("c", Some(1), Some(5), "rwm"),
    ("c", Some(1), Some(7), "rwm"),
    ("c", Some(1), Some(8), "rwm"),
    ("c", Some(1), Some(9), "rwm"),
    ("c", Some(5), Some(0), "rwm"),
    ("c", Some(5), Some(2), "rwm"),
    ("c", Some(136), None, "rwm"),
];

pub(super) fn devices(spec: &ContainerSpec, host: &dyn Host) -> Result<Devices> {
    let mut all = Devices::default();
    if spec.privileged {
        all.rules.push(rule("a", None, None, "rwm"));
        all.nodes = host.devices()?.iter().map(|(path, node)| made(path, node, "rwm")).collect();
    } else {
        all.rules.push(LinuxDeviceCgroup { allow: false, ..rule("a", None, None, "rwm") });
        all.rules.extend(DEFAULT_RULES.iter().map(|&(kind, major, minor, access)| rule(kind, major, minor, access)));
    }
    for device in &spec.devices {
        let (source, target) = (device.source.as_path(), super::process::clean(&device.target));
        if !device.target.is_absolute() || !posture::may_cover(&target) {
            return invalid(format!("'{}' is not a place for a device: it must be absolute", device.target.display()));
        }
        let access = access(&device.access)?;
        let node = match host.node(source)? {
            Some(node) if matches!(node.kind, NodeKind::Block | NodeKind::Character) => node,
            Some(_) => return invalid(format!("{} is not a device node", source.display())),
            None => {
                return invalid(format!("error gathering device information: {}: no such device", source.display()));
            }
        };
        let (major, minor) = (node.device.0.into(), node.device.1.into());
        all.rules.push(rule(letter(&node), Some(major), Some(minor), access));
        // Nodes are made on the container's own /dev only; elsewhere the host's is bound.
        if target.starts_with("/dev") {
            all.nodes.retain(|other| other.path != target);
            all.nodes.push(made(&target, &node, access));
        } else {
            all.mounts.push(mounts::bound_device(source, &target, access));
        }
    }
    for said in &spec.device_rules {
        all.rules.push(parse_rule(said)?);
    }
    Ok(all)
}

fn rule(kind: &str, major: Option<i64>, minor: Option<i64>, access: &str) -> LinuxDeviceCgroup {
    LinuxDeviceCgroup { allow: true, kind: kind.to_owned(), major, minor, access: access.to_owned() }
}

fn letter(node: &Node) -> &'static str {
    if node.kind == NodeKind::Block { "b" } else { "c" }
}

fn made(path: &Path, node: &Node, access: &str) -> LinuxDevice {
    // A node that may only be made or read keeps the host's mode; the rules decide.
    let mode = if access.contains('w') { node.mode } else { node.mode & 0o7555 };
    LinuxDevice {
        kind: letter(node).to_owned(),
        path: path.to_owned(),
        major: node.device.0.into(),
        minor: node.device.1.into(),
        file_mode: Some(mode & 0o777),
        uid: Some(node.owner.0),
        gid: Some(node.owner.1),
    }
}

fn access(said: &str) -> Result<&str> {
    let said = if said.is_empty() { "rwm" } else { said };
    let once = |letter| said.matches(letter).count() <= 1;
    if said.bytes().all(|byte| matches!(byte, b'r' | b'w' | b'm')) && ['r', 'w', 'm'].into_iter().all(once) {
        Ok(said)
    } else {
        invalid(format!("invalid device access {said:?}: letters of r, w and m"))
    }
}

/// `TYPE MAJOR:MINOR ACCESS`, as in the kernel's device list: `c 10:229 rwm`, `b *:* r`.
fn parse_rule(said: &str) -> Result<LinuxDeviceCgroup> {
    let wrong = || {
        refusal(format!("invalid device cgroup rule {said:?}"))
            .hint("the form is 'TYPE MAJOR:MINOR ACCESS': 'c 10:229 rwm'")
    };
    let mut fields = said.split(' ');
    let (Some(kind), Some(numbers), Some(letters), None) = (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(wrong());
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(wrong)?;
    let number = |text: &str| match text {
        "*" => Ok(None),
        digits if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse::<u32>().map(|number| Some(number.into())).map_err(|_| wrong())
        }
        _ => Err(wrong()),
    };
    if !matches!(kind, "a" | "b" | "c") || letters.is_empty() {
        return Err(wrong());
    }
    Ok(rule(kind, number(major)?, number(minor)?, access(letters)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::Table;
    use crate::spec::DeviceSpec;

    fn with(source: &str, target: &str, access: &str) -> ContainerSpec {
        let device = DeviceSpec { source: source.into(), target: target.into(), access: access.to_owned() };
        ContainerSpec { devices: vec![device], ..ContainerSpec::default() }
    }

    #[test]
    fn everything_is_denied_first() {
        let all = devices(&ContainerSpec::default(), &Table::default()).expect("valid");
        assert!(!all.rules[0].allow && all.rules[0].kind == "a");
        assert_eq!(all.rules.len(), 11);
        assert!(all.nodes.is_empty() && all.mounts.is_empty());
        for rule in &all.rules[1..] {
            assert!(rule.major.is_some() || rule.access == "m", "{rule:?}");
        }
    }

    #[test]
    fn devices_are_bound_or_made() {
        let bound = devices(&with("/dev/fuse", "/srv/f", "rw"), &Table::default()).expect("valid");
        assert_eq!((bound.nodes.len(), bound.mounts.len()), (0, 1));
        assert_eq!(bound.mounts[0].destination, Path::new("/srv/f"));
        assert_eq!(bound.rules.last(), Some(&rule("c", Some(10), Some(229), "rw")));
        let made = devices(&with("/dev/fuse", "/dev/f", "rw"), &Table::default()).expect("valid");
        assert_eq!((made.nodes.len(), made.mounts.len()), (1, 0));
        assert_eq!((made.nodes[0].major, made.nodes[0].file_mode), (10, Some(0o666)));
        for bad in [
            with("/srv/data", "/dev/x", "r"),
            with("/dev/none", "/dev/x", "r"),
            with("/dev/fuse", "dev", "r"),
            with("/dev/fuse", "/proc/x", "r"),
            with("/dev/fuse", "/", "r"),
            with("/dev/fuse", "/dev/x", "rr"),
            with("/dev/fuse", "/dev/x", "x"),
        ] {
            assert!(devices(&bad, &Table::default()).is_err(), "{:?}", bad.devices);
        }
    }

    #[test]
    fn privileged_has_them_all() {
        let spec = ContainerSpec { privileged: true, ..ContainerSpec::default() };
        let all = devices(&spec, &Table::default()).expect("valid");
        assert_eq!(all.rules, [rule("a", None, None, "rwm")]);
        assert_eq!(all.nodes.len(), 2);
    }

    #[test]
    fn rules_of_the_user() {
        assert_eq!(parse_rule("c 1:3 mr").expect("valid"), rule("c", Some(1), Some(3), "mr"));
        assert_eq!(parse_rule("a *:* rwm").expect("valid"), rule("a", None, None, "rwm"));
        for bad in
            ["", "c", "c 1:3", "c 1 r", "d 1:3 r", "c 1:3 x", "c -1:3 r", "c 1:3 r ", "c  1:3 r", "c 99999999999:1 r"]
        {
            assert!(parse_rule(bad).is_err(), "{bad:?}");
        }
    }
}
