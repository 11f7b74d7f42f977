//! `HostConfig` of a container.

use std::collections::BTreeMap;

use engine::ContainerDetails;
use serde::Serialize;
use serde_json::Value;

/// What the host gives and takes, as it was said.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct HostConfig {
    binds: Option<Vec<String>>,
    #[serde(rename = "ContainerIDFile")]
    container_id_file: String,
    log_config: LogConfig,
    network_mode: String,
    port_bindings: BTreeMap<String, Value>,
    restart_policy: RestartPolicy,
    auto_remove: bool,
    volume_driver: String,
    volumes_from: Option<Vec<String>>,
    cap_add: Option<Vec<String>>,
    cap_drop: Option<Vec<String>>,
    cgroupns_mode: String,
    dns: Vec<String>,
    dns_options: Vec<String>,
    dns_search: Vec<String>,
    extra_hosts: Option<Vec<String>>,
    group_add: Option<Vec<String>>,
    ipc_mode: String,
    cgroup: String,
    oom_score_adj: i32,
    pid_mode: String,
    privileged: bool,
    publish_all_ports: bool,
    readonly_rootfs: bool,
    security_opt: Option<Vec<String>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tmpfs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mounts: Vec<Value>,
    #[serde(rename = "UTSMode")]
    uts_mode: String,
    userns_mode: String,
    shm_size: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    sysctls: BTreeMap<String, String>,
    runtime: &'static str,
    cpu_shares: u64,
    memory: i64,
    nano_cpus: i64,
    cgroup_parent: String,
    blkio_weight: u16,
    blkio_weight_device: Vec<WeightDevice>,
    blkio_device_read_bps: Vec<RateDevice>,
    blkio_device_write_bps: Vec<RateDevice>,
    #[serde(rename = "BlkioDeviceReadIOps")]
    blkio_device_read_iops: Vec<RateDevice>,
    #[serde(rename = "BlkioDeviceWriteIOps")]
    blkio_device_write_iops: Vec<RateDevice>,
    cpu_period: u64,
    cpu_quota: i64,
    cpuset_cpus: String,
    cpuset_mems: String,
    devices: Vec<Device>,
    device_cgroup_rules: Option<Vec<String>>,
    device_requests: Option<Vec<Value>>,
    memory_reservation: i64,
    memory_swap: i64,
    memory_swappiness: Option<u64>,
    oom_kill_disable: bool,
    pids_limit: Option<i64>,
    ulimits: Vec<Ulimit>,
    masked_paths: Vec<String>,
    readonly_paths: Vec<String>,
    init: bool,
    console_size: [u16; 2],
    links: Option<Vec<String>>,
    isolation: &'static str,
    cpu_realtime_period: u64,
    cpu_realtime_runtime: i64,
    cpu_count: u64,
    cpu_percent: u64,
    #[serde(rename = "IOMaximumIOps")]
    io_maximum_iops: u64,
    #[serde(rename = "IOMaximumBandwidth")]
    io_maximum_bandwidth: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct LogConfig {
    #[serde(rename = "Type")]
    kind: String,
    config: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct RestartPolicy {
    name: &'static str,
    maximum_retry_count: u32,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct WeightDevice {
    path: String,
    weight: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct RateDevice {
    path: String,
    rate: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Device {
    path_on_host: String,
    path_in_container: String,
    cgroup_permissions: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Ulimit {
    name: String,
    hard: i64,
    soft: i64,
}

fn listed(list: &[String]) -> Option<Vec<String>> {
    (!list.is_empty()).then(|| list.to_vec())
}

fn rates(list: &[(String, u64)]) -> Vec<RateDevice> {
    list.iter().map(|(path, rate)| RateDevice { path: path.clone(), rate: *rate }).collect()
}

/// A volume of `--mount`.
fn mount(mount: &engine::containers::SaidMount) -> Value {
    let mut shown = serde_json::json!({ "Type": mount.kind, "Target": mount.target });
    if !mount.anonymous {
        shown["Source"] = mount.name.clone().into();
    }
    if mount.read_only {
        shown["ReadOnly"] = true.into();
    }
    let mut options = serde_json::Map::new();
    if mount.no_copy {
        options.insert("NoCopy".into(), true.into());
    }
    if !mount.subpath.is_empty() {
        options.insert("Subpath".into(), mount.subpath.clone().into());
    }
    if !options.is_empty() {
        shown["VolumeOptions"] = options.into();
    }
    shown
}

impl From<&ContainerDetails> for HostConfig {
    fn from(details: &ContainerDetails) -> Self {
        let said = &details.said;
        let binds: Vec<String> = said
            .mounts
            .iter()
            .filter(|mount| mount.kind == "bind" || (mount.kind == "volume" && mount.origin.is_empty()))
            .filter(|mount| !mount.anonymous)
            .map(|mount| {
                if mount.kind == "volume" {
                    let colon = if mount.mode.is_empty() { "" } else { ":" };
                    return format!("{}:{}{colon}{}", mount.name, mount.target, mount.mode);
                }
                let mut options = vec![if mount.read_only { "ro" } else { "" }, mount.propagation.as_str()];
                options.retain(|option| !option.is_empty());
                let options = options.join(",");
                let colon = if options.is_empty() { "" } else { ":" };
                format!("{}:{}{colon}{options}", mount.source, mount.target)
            })
            .collect();
        let tmpfs = said.mounts.iter().filter(|mount| mount.kind == "tmpfs");
        let hosts: Vec<String> = said.extra_hosts.iter().map(|(name, address)| format!("{name}:{address}")).collect();
        Self {
            binds: listed(&binds),
            container_id_file: String::new(),
            log_config: log_config(details),
            network_mode: said.network.clone(),
            port_bindings: BTreeMap::new(),
            restart_policy: RestartPolicy { name: "no", maximum_retry_count: 0 },
            auto_remove: details.auto_remove,
            volume_driver: said.volume_driver.clone(),
            volumes_from: listed(&said.volumes_from),
            mounts: said.mounts.iter().filter(|mount| mount.origin == "mount").map(mount).collect(),
            cap_add: listed(&said.cap_add),
            cap_drop: listed(&said.cap_drop),
            cgroupns_mode: said.cgroupns.clone(),
            dns: said.dns.clone(),
            dns_options: said.dns_options.clone(),
            dns_search: said.dns_search.clone(),
            extra_hosts: listed(&hosts),
            group_add: listed(&said.group_add),
            ipc_mode: said.ipc.clone(),
            cgroup: String::new(),
            oom_score_adj: said.oom_score_adj,
            pid_mode: said.pid.clone(),
            privileged: said.privileged,
            publish_all_ports: false,
            readonly_rootfs: said.read_only,
            security_opt: listed(&said.security_opts),
            tmpfs: tmpfs.map(|mount| (mount.target.clone(), mount.options.clone())).collect(),
            uts_mode: said.uts.clone(),
            userns_mode: said.userns.clone(),
            shm_size: said.shm_size,
            sysctls: said.sysctls.clone(),
            runtime: "lighter",
            cpu_shares: said.cpu_shares,
            memory: said.memory,
            nano_cpus: said.nano_cpus,
            cgroup_parent: said.cgroup_parent.clone(),
            blkio_weight: said.blkio_weight,
            blkio_weight_device: said
                .blkio_weight_devices
                .iter()
                .map(|(path, weight)| WeightDevice { path: path.clone(), weight: *weight })
                .collect(),
            blkio_device_read_bps: rates(&said.device_read_bps),
            blkio_device_write_bps: rates(&said.device_write_bps),
            blkio_device_read_iops: rates(&said.device_read_iops),
            blkio_device_write_iops: rates(&said.device_write_iops),
            cpu_period: said.cpu_period,
            cpu_quota: said.cpu_quota,
            cpuset_cpus: said.cpuset_cpus.clone(),
            cpuset_mems: said.cpuset_mems.clone(),
            devices: said
                .devices
                .iter()
                .map(|(host, inside, access)| Device {
                    path_on_host: host.clone(),
                    path_in_container: inside.clone(),
                    cgroup_permissions: access.clone(),
                })
                .collect(),
            device_cgroup_rules: listed(&said.device_rules),
            device_requests: None,
            memory_reservation: said.memory_reservation,
            memory_swap: said.memory_swap,
            memory_swappiness: said.memory_swappiness,
            oom_kill_disable: said.oom_kill_disable,
            pids_limit: said.pids_limit,
            ulimits: said
                .ulimits
                .iter()
                .map(|(name, soft, hard)| Ulimit { name: name.clone(), hard: *hard, soft: *soft })
                .collect(),
            masked_paths: details.posture.masked_paths.clone(),
            readonly_paths: details.posture.readonly_paths.clone(),
            init: details.init,
            // Of other systems, of the caller's terminal, or not there yet: as docker shows what is not set.
            console_size: [0, 0],
            links: None,
            isolation: "",
            cpu_realtime_period: 0,
            cpu_realtime_runtime: 0,
            cpu_count: 0,
            cpu_percent: 0,
            io_maximum_iops: 0,
            io_maximum_bandwidth: 0,
        }
    }
}

fn log_config(details: &ContainerDetails) -> LogConfig {
    let mut config = details.said.log_opts.clone();
    if let Some((size, files)) = details.log {
        config.entry("max-size".into()).or_insert_with(|| size.to_string());
        config.entry("max-file".into()).or_insert_with(|| files.to_string());
    }
    LogConfig { kind: if details.log.is_some() { "json-file".into() } else { "none".into() }, config }
}
