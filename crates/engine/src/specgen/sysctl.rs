//! Kernel parameters of a container: only those that belong to a namespace of its own.

use std::collections::BTreeMap;

use network::Attachment;

use super::invalid;
use crate::Result;
use crate::spec::{ContainerSpec, NamespaceMode};

/// Parameters of the IPC namespace: System V shared memory, semaphores and messages.
const IPC: [&str; 11] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
    "kernel.msg_next_id",
    "kernel.sem_next_id",
    "kernel.shm_next_id",
];

/// Parameters set for the container: defaults of its network namespace, then what the user said.
///
/// Any user inside may bind low ports and send ping's datagrams, which is what the capabilities NET_BIND_SERVICE and
/// NET_RAW were for; both concern the container's own network only. The range of groups must lie within the user
/// namespace's map or the kernel refuses it.
pub(super) fn sysctls(
    spec: &ContainerSpec,
    network: Attachment,
    private_userns: bool,
) -> Result<BTreeMap<String, String>> {
    let own_network = network.is_private();
    let mut all = BTreeMap::new();
    if own_network {
        all.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
        let last = if private_userns { 65_535 } else { 2_147_483_647_u32 };
        all.insert("net.ipv4.ping_group_range".to_owned(), format!("0 {last}"));
    }
    for (name, value) in &spec.sysctls {
        check(name, value, own_network, spec.ipc == NamespaceMode::Private, spec.uts == NamespaceMode::Private)?;
        all.insert(name.clone(), value.clone());
    }
    Ok(all)
}

fn check(name: &str, value: &str, own_network: bool, own_ipc: bool, own_uts: bool) -> Result<()> {
    // A name becomes a path below /proc/sys with its dots as slashes (an interface's own dots are written as slashes).
    let clean =
        name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/' | b':'));
    let steps = name.split(['.', '/']);
    if !clean || name.len() > 256 || steps.clone().any(str::is_empty) {
        return invalid(format!("{name:?} is not the name of a sysctl"));
    }
    if value.len() > 4096 || value.bytes().any(|byte| !(byte.is_ascii_graphic() || matches!(byte, b' ' | b'\t'))) {
        return invalid(format!("sysctl {name}: the value {value:?} is not one line of text"));
    }
    let dotted = name.replace('/', ".");
    let (belongs, own, flag) = if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
        (true, own_ipc, "--ipc=host")
    } else if dotted.starts_with("net.") {
        (true, own_network, "--network=host")
    } else if dotted == "kernel.domainname" {
        (true, own_uts, "--uts=host")
    } else {
        (false, false, "")
    };
    if !belongs {
        return invalid(format!("sysctl '{name}' is not allowed: it does not belong to one container's namespaces"));
    }
    if !own {
        return invalid(format!("sysctl '{name}' is not allowed with {flag}: it would change the host"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, value: &str, network: Attachment, change: impl FnOnce(&mut ContainerSpec)) -> bool {
        let mut spec = ContainerSpec::default();
        spec.sysctls.insert(name.to_owned(), value.to_owned());
        change(&mut spec);
        sysctls(&spec, network, true).is_ok()
    }

    #[test]
    fn only_those_of_own_namespaces() {
        for (name, valid) in [
            ("kernel.shmmax", true),
            ("kernel.msgmax", true),
            ("kernel.sem", true),
            ("fs.mqueue.msg_max", true),
            ("net.core.somaxconn", true),
            ("net/ipv4/conf/eth0.1/forwarding", true),
            ("kernel.domainname", true),
            ("kernel.core_pattern", false),
            ("kernel.hostname", false),
            ("vm.swappiness", false),
            ("kernel.shm_foo", false),
            ("kernel.semx", false),
            ("net", false),
            ("net..x", false),
            ("net.ipv4/../../kernel/core_pattern", false),
            ("kernel/core_pattern", false),
            ("net.a b", false),
            ("net.x\n", false),
            ("", false),
            ("fs.mqueue.", false),
        ] {
            assert_eq!(of(name, "1", Attachment::None, |_| {}), valid, "{name:?}");
        }
    }

    #[test]
    fn not_in_the_hosts_namespaces() {
        assert!(!of("net.core.somaxconn", "1", Attachment::Host, |_| {}));
        assert!(of("kernel.shmmax", "1", Attachment::Host, |_| {}));
        assert!(!of("kernel.shmmax", "1", Attachment::None, |spec| spec.ipc = NamespaceMode::Host));
        assert!(!of("kernel.domainname", "x", Attachment::None, |spec| spec.uts = NamespaceMode::Host));
    }

    #[test]
    fn values_are_one_line() {
        assert!(of("kernel.sem", "250\t32000 100 128", Attachment::None, |_| {}));
        for bad in ["1\n2", "1\0", "é"] {
            assert!(!of("kernel.shmmax", bad, Attachment::None, |_| {}), "{bad:?}");
        }
    }

    #[test]
    fn defaults_fit_the_map_and_the_network() {
        let spec = ContainerSpec::default();
        let range =
            |private| sysctls(&spec, Attachment::None, private).expect("valid")["net.ipv4.ping_group_range"].clone();
        assert_eq!((range(true).as_str(), range(false).as_str()), ("0 65535", "0 2147483647"));
        assert!(sysctls(&spec, Attachment::Host, false).expect("valid").is_empty());
    }
}
