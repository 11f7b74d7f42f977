//! A container as `docker inspect` shows it, and the isolation in force.

use std::collections::BTreeMap;

use container::record::State as Is;
use engine::ContainerDetails;
use serde::Serialize;
use serde_json::{Map, Value};

use super::host_config::HostConfig;
use super::moment;
use super::posture::Posture;
use crate::commands::ps;
use crate::parse::signal;

/// The root object.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Container {
    id: String,
    created: String,
    path: String,
    args: Vec<String>,
    state: State,
    image: String,
    resolv_conf_path: String,
    hostname_path: String,
    hosts_path: String,
    log_path: String,
    name: String,
    restart_count: u32,
    driver: &'static str,
    platform: &'static str,
    mount_label: String,
    process_label: String,
    app_armor_profile: String,
    #[serde(rename = "ExecIDs")]
    exec_ids: Option<Vec<String>>,
    host_config: HostConfig,
    graph_driver: GraphDriver,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_rw: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_root_fs: Option<u64>,
    mounts: Vec<Mount>,
    config: Config,
    network_settings: NetworkSettings,
    posture: Posture,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    status: &'static str,
    running: bool,
    paused: bool,
    restarting: bool,
    #[serde(rename = "OOMKilled")]
    oom_killed: bool,
    dead: bool,
    pid: u32,
    exit_code: i32,
    error: String,
    started_at: String,
    finished_at: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct GraphDriver {
    data: Option<BTreeMap<&'static str, String>>,
    name: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Mount {
    #[serde(rename = "Type")]
    kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    source: String,
    destination: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    driver: &'static str,
    mode: String,
    #[serde(rename = "RW")]
    rw: bool,
    propagation: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    hostname: String,
    domainname: String,
    user: String,
    attach_stdin: bool,
    attach_stdout: bool,
    attach_stderr: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    exposed_ports: BTreeMap<String, Value>,
    tty: bool,
    open_stdin: bool,
    stdin_once: bool,
    env: Vec<String>,
    cmd: Option<Vec<String>>,
    image: String,
    volumes: Option<BTreeMap<String, Value>>,
    working_dir: String,
    entrypoint: Option<Vec<String>>,
    on_build: Option<Vec<String>>,
    labels: BTreeMap<String, String>,
    stop_signal: String,
    stop_timeout: i64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettings {
    sandbox_key: String,
    ports: BTreeMap<String, Value>,
    networks: BTreeMap<String, Value>,
}

fn listed(list: &[String]) -> Option<Vec<String>> {
    (!list.is_empty()).then(|| list.to_vec())
}

fn keys(list: &[String]) -> BTreeMap<String, Value> {
    list.iter().map(|key| (key.clone(), Value::Object(Map::new()))).collect()
}

impl From<&ContainerDetails> for Container {
    fn from(details: &ContainerDetails) -> Self {
        let said = &details.said;
        let process = details.spec.process.clone().unwrap_or_default();
        let mut command = process.args.iter().cloned();
        let file = |name: &str| {
            let source = details.spec.mounts.iter().find(|mount| mount.destination.as_os_str() == name);
            source.and_then(|mount| mount.source.as_ref()).map_or_else(String::new, |path| path.display().to_string())
        };
        let exposed = said.exposed_ports.iter().map(|port| (port.clone(), Value::Null)).collect();
        Self {
            id: details.id.to_string(),
            created: details.created.clone(),
            path: command.next().unwrap_or_default(),
            args: command.collect(),
            state: state(details),
            image: details.image.as_ref().map_or_else(String::new, |image| image.id.to_string()),
            resolv_conf_path: file("/etc/resolv.conf"),
            hostname_path: file("/etc/hostname"),
            hosts_path: file("/etc/hosts"),
            log_path: details.log_path.display().to_string(),
            name: format!("/{}", details.name),
            restart_count: 0,
            driver: "overlayfs",
            platform: "linux",
            mount_label: details.spec.linux.as_ref().map_or_else(String::new, |linux| linux.mount_label.clone()),
            process_label: process.selinux_label,
            app_armor_profile: process.apparmor_profile,
            exec_ids: None,
            host_config: HostConfig::from(details),
            graph_driver: graph_driver(details),
            size_rw: details.size.map(|size| size.writable),
            size_root_fs: details.size.map(|size| size.total),
            mounts: said.mounts.iter().map(Mount::from).collect(),
            config: Config {
                hostname: details.spec.hostname.clone(),
                domainname: said.domainname.clone(),
                user: details.user.clone(),
                attach_stdin: details.open_stdin,
                attach_stdout: true,
                attach_stderr: !details.tty,
                exposed_ports: keys(&said.exposed_ports),
                tty: details.tty,
                open_stdin: details.open_stdin,
                stdin_once: details.open_stdin && !details.tty,
                env: said.env.clone(),
                cmd: listed(&said.cmd),
                image: image_name(details),
                volumes: (!said.image_volumes.is_empty()).then(|| keys(&said.image_volumes)),
                working_dir: process.cwd.display().to_string(),
                entrypoint: listed(&said.entrypoint),
                on_build: None,
                labels: details.labels.clone(),
                stop_signal: signal::name(details.stop_signal),
                stop_timeout: details.stop_timeout,
            },
            network_settings: NetworkSettings {
                sandbox_key: match details.pid {
                    0 => String::new(),
                    pid => format!("/proc/{pid}/ns/net"),
                },
                ports: exposed,
                networks: BTreeMap::from([(network_name(&said.network), Value::Object(Map::new()))]),
            },
            posture: Posture::from(&details.posture),
        }
    }
}

/// Until networks exist the default network is loopback alone, which docker calls `none`.
fn network_name(said: &str) -> String {
    if said == "host" { "host".into() } else { "none".into() }
}

fn image_name(details: &ContainerDetails) -> String {
    match (&details.image, &details.rootfs_dir) {
        (Some(image), _) => image.said.clone(),
        (None, Some(dir)) => dir.display().to_string(),
        (None, None) => String::new(),
    }
}

fn state(details: &ContainerDetails) -> State {
    State {
        status: ps::state(details.state),
        running: matches!(details.state, Is::Running | Is::Paused | Is::Stopping),
        paused: details.state == Is::Paused,
        restarting: false,
        oom_killed: details.oom_killed,
        dead: details.state == Is::Dead,
        pid: details.pid,
        exit_code: details.exit_code,
        error: details.error.clone(),
        started_at: moment(&details.started),
        finished_at: moment(&details.finished),
    }
}

fn graph_driver(details: &ContainerDetails) -> GraphDriver {
    let data = details.upper.as_ref().map(|upper| {
        let layers: Vec<String> = details.layers.iter().map(|layer| layer.display().to_string()).collect();
        BTreeMap::from([
            ("ID", details.id.to_string()),
            ("LowerDir", layers.join(":")),
            ("UpperDir", upper.display().to_string()),
            ("WorkDir", upper.with_file_name("work").display().to_string()),
        ])
    });
    GraphDriver { data, name: "overlayfs" }
}

impl From<&engine::containers::SaidMount> for Mount {
    fn from(mount: &engine::containers::SaidMount) -> Self {
        Self {
            kind: mount.kind.clone(),
            name: mount.name.clone(),
            source: mount.source.clone(),
            destination: mount.target.clone(),
            driver: if mount.kind == "volume" { engine::volumes::DRIVER } else { "" },
            mode: match (mount.kind.as_str(), mount.mode.as_str(), mount.origin.as_str()) {
                // Docker's default for volumes that were asked for.
                ("volume", "", "" | "mount") => "z".into(),
                ("volume", mode, _) => mode.to_owned(),
                _ => mount.options.clone(),
            },
            rw: !mount.read_only,
            propagation: match (mount.kind.as_str(), mount.propagation.as_str()) {
                ("bind", "") => "rprivate".into(),
                (_, propagation) => propagation.to_owned(),
            },
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use engine::containers::{Said, SaidMount};
    use engine::{ContainerDetails, Posture};
    use oci::runtime::{Process, Spec};
    use serde_json::json;

    use super::*;

    pub(crate) fn details() -> ContainerDetails {
        let process =
            Process { args: vec!["sh".into(), "-c".into(), "x".into()], cwd: "/w".into(), ..Process::default() };
        ContainerDetails {
            id: "ab".repeat(32).parse().expect("an id"),
            name: "web".into(),
            created: "2026-01-01T00:00:00.5Z".into(),
            image: None,
            rootfs_dir: Some("/srv/root".into()),
            state: Is::Exited,
            pid: 0,
            monitor_pid: 0,
            started: "2026-01-01T00:00:01Z".into(),
            finished: String::new(),
            exit_code: 137,
            oom_killed: true,
            error: String::new(),
            spec: Spec { process: Some(process), hostname: "h".into(), ..Spec::default() },
            user: "1:2".into(),
            groups: Vec::new(),
            tty: false,
            open_stdin: true,
            init: true,
            auto_remove: false,
            stop_signal: 15,
            stop_timeout: 10,
            log: Some((1 << 20, 3)),
            log_path: "/log".into(),
            labels: BTreeMap::from([("a".into(), "b".into())]),
            said: Said {
                cmd: vec!["x".into()],
                memory: 64 << 20,
                ulimits: vec![("nofile".into(), 1, 2)],
                mounts: vec![
                    SaidMount {
                        kind: "bind".into(),
                        source: "/a".into(),
                        target: "/b".into(),
                        read_only: true,
                        ..SaidMount::default()
                    },
                    SaidMount {
                        kind: "volume".into(),
                        name: "db".into(),
                        target: "/data".into(),
                        mode: "nocopy".into(),
                        no_copy: true,
                        ..SaidMount::default()
                    },
                    SaidMount {
                        kind: "volume".into(),
                        name: "web".into(),
                        target: "/w".into(),
                        origin: "mount".into(),
                        read_only: true,
                        ..SaidMount::default()
                    },
                ],
                ..Said::default()
            },
            posture: Posture {
                userns: container::record::UsernsPosture::Private,
                host_ids: Some((65536, 65536)),
                namespaces: vec!["user".into(), "pid".into()],
                shared_namespaces: Vec::new(),
                capabilities: vec!["CAP_KILL".into()],
                seccomp: "default".into(),
                no_new_privileges: false,
                apparmor: String::new(),
                read_only_rootfs: false,
                masked_paths: Vec::new(),
                readonly_paths: Vec::new(),
                memory: Some(64 << 20),
                nano_cpus: None,
                pids: Some(2048),
                privileged: false,
            },
            dir: "/d".into(),
            upper: None,
            layers: Vec::new(),
            size: None,
        }
    }

    #[test]
    fn the_shape_is_dockers() {
        let shown = serde_json::to_value(Container::from(&details())).expect("serialises");
        for (pointer, expected) in [
            ("/Name", json!("/web")),
            ("/Path", json!("sh")),
            ("/Args", json!(["-c", "x"])),
            ("/State/Status", json!("exited")),
            ("/State/OOMKilled", json!(true)),
            ("/State/ExitCode", json!(137)),
            ("/State/FinishedAt", json!("0001-01-01T00:00:00Z")),
            ("/Config/User", json!("1:2")),
            ("/Config/Cmd", json!(["x"])),
            ("/Config/Entrypoint", json!(null)),
            ("/Config/Image", json!("/srv/root")),
            ("/Config/Labels/a", json!("b")),
            ("/Config/StopSignal", json!("SIGTERM")),
            ("/Config/WorkingDir", json!("/w")),
            ("/HostConfig/Memory", json!(64 << 20)),
            ("/HostConfig/Init", json!(true)),
            ("/HostConfig/Binds/0", json!("/a:/b:ro")),
            ("/HostConfig/Ulimits/0", json!({"Name": "nofile", "Hard": 2, "Soft": 1})),
            ("/HostConfig/LogConfig/Config/max-file", json!("3")),
            ("/HostConfig/RestartPolicy/Name", json!("no")),
            ("/HostConfig/Binds/1", json!("db:/data:nocopy")),
            ("/HostConfig/Mounts/0", json!({"Type": "volume", "Source": "web", "Target": "/w", "ReadOnly": true})),
            ("/Mounts/1/Name", json!("db")),
            ("/Mounts/1/Driver", json!("local")),
            ("/Mounts/1/Mode", json!("nocopy")),
            ("/Mounts/0/RW", json!(false)),
            ("/Mounts/0/Propagation", json!("rprivate")),
            ("/Posture/UserNamespace/Mode", json!("private")),
            ("/Posture/UserNamespace/HostIds/First", json!(65536)),
            ("/Posture/Limits/Pids", json!(2048)),
        ] {
            assert_eq!(shown.pointer(pointer), Some(&expected), "{pointer}");
        }
        assert_eq!(shown.pointer("/Mounts/0/Name"), None);
        let text = serde_json::to_string(&Container::from(&details())).expect("serialises");
        assert!(text.starts_with("{\"Id\":\"abab") && text.contains("\"ExecIDs\":null"));
    }
}
