//! `Posture`: the isolation in force, which docker's shape has no place for.

use container::record::UsernsPosture;
use serde::Serialize;

/// The isolation in force.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Posture {
    user_namespace: UserNamespace,
    namespaces: Vec<String>,
    shared_with_host: Vec<String>,
    capabilities: Vec<String>,
    seccomp: String,
    no_new_privileges: bool,
    app_armor: String,
    read_only_rootfs: bool,
    privileged: bool,
    limits: Limits,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct UserNamespace {
    /// `private` or `host`.
    mode: &'static str,
    /// Why it is the host's; empty otherwise.
    reason: String,
    host_ids: Option<HostIds>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct HostIds {
    first: u32,
    length: u32,
}

/// `null` is unlimited.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Limits {
    memory: Option<i64>,
    nano_cpus: Option<i64>,
    pids: Option<i64>,
}

impl From<&engine::Posture> for Posture {
    fn from(posture: &engine::Posture) -> Self {
        let (mode, reason) = match &posture.userns {
            UsernsPosture::Private => ("private", String::new()),
            UsernsPosture::Host { reason } => ("host", reason.clone()),
        };
        let host_ids = posture.host_ids.map(|(first, length)| HostIds { first, length });
        Self {
            user_namespace: UserNamespace { mode, reason, host_ids },
            namespaces: posture.namespaces.clone(),
            shared_with_host: posture.shared_namespaces.clone(),
            capabilities: posture.capabilities.clone(),
            seccomp: posture.seccomp.clone(),
            no_new_privileges: posture.no_new_privileges,
            app_armor: posture.apparmor.clone(),
            read_only_rootfs: posture.read_only_rootfs,
            privileged: posture.privileged,
            limits: Limits { memory: posture.memory, nano_cpus: posture.nano_cpus, pids: posture.pids },
        }
    }
}
