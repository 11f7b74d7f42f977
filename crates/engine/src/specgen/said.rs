//! What the user said, kept for `inspect`.

use std::path::Path;

use oci::image::ContainerConfig;

use crate::containers::{Said, SaidMount};
use crate::spec::{ContainerSpec, MountSpec, NamespaceMode, NetworkMode, UsernsMode, VolumeOrigin};
use crate::{Error, ErrorKind, Result};

pub(super) fn said(
    spec: &ContainerSpec,
    image: &ContainerConfig,
    entrypoint: &[String],
    cmd: &[String],
    env: &[String],
) -> Result<serde_json::Value> {
    let resources = &spec.resources;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let rates = |all: &[(std::path::PathBuf, u64)]| all.iter().map(|(path, rate)| (text(path), *rate)).collect();
    let said = Said {
        version: 1,
        entrypoint: entrypoint.to_vec(),
        cmd: cmd.to_vec(),
        env: env.to_vec(),
        platform: spec.platform.clone(),
        domainname: spec.domainname.clone().unwrap_or_default(),
        mounts: spec.mounts.iter().map(mount).collect(),
        volumes_from: spec.volumes_from.clone(),
        volume_driver: spec.volume_driver.clone().unwrap_or_default(),
        image_volumes: image.volumes.keys().cloned().collect(),
        exposed_ports: image.exposed_ports.keys().cloned().collect(),
        network: match &spec.network {
            NetworkMode::Default => "default".to_owned(),
            NetworkMode::None => "none".to_owned(),
            NetworkMode::Host => "host".to_owned(),
            NetworkMode::Named(name) => name.clone(),
        },
        pid: mode(&spec.pid, ""),
        ipc: mode(&spec.ipc, "private"),
        uts: mode(&spec.uts, ""),
        userns: match spec.userns {
            UsernsMode::Auto => "",
            UsernsMode::Require => "private",
            UsernsMode::Host => "host",
        }
        .to_owned(),
        cgroupns: mode(&spec.cgroupns, "private"),
        cgroup_parent: spec.cgroup_parent.clone().unwrap_or_default(),
        privileged: spec.privileged,
        read_only: spec.read_only,
        cap_add: spec.cap_add.clone(),
        cap_drop: spec.cap_drop.clone(),
        security_opts: spec.security_opts.clone(),
        devices: spec.devices.iter().map(|d| (text(&d.source), text(&d.target), d.access.clone())).collect(),
        device_rules: spec.device_rules.clone(),
        ulimits: spec.ulimits.clone(),
        sysctls: spec.sysctls.clone(),
        extra_hosts: spec.extra_hosts.clone(),
        dns: spec.dns.clone(),
        dns_search: spec.dns_search.clone(),
        dns_options: spec.dns_options.clone(),
        group_add: spec.groups.clone(),
        shm_size: spec.shm_size.unwrap_or(super::mounts::SHM_SIZE),
        oom_score_adj: spec.oom_score_adj.unwrap_or(0),
        log_driver: spec.log_driver.clone().unwrap_or_else(|| "json-file".to_owned()),
        log_opts: spec.log_opts.clone(),
        memory: resources.memory.unwrap_or(0),
        memory_reservation: resources.memory_reservation.unwrap_or(0),
        memory_swap: resources.memory_swap.unwrap_or(0),
        memory_swappiness: resources.memory_swappiness,
        oom_kill_disable: resources.oom_kill_disable,
        nano_cpus: resources.nano_cpus.unwrap_or(0),
        cpu_shares: resources.cpu_shares.unwrap_or(0),
        cpu_period: resources.cpu_period.unwrap_or(0),
        cpu_quota: resources.cpu_quota.unwrap_or(0),
        cpuset_cpus: resources.cpuset_cpus.clone().unwrap_or_default(),
        cpuset_mems: resources.cpuset_mems.clone().unwrap_or_default(),
        pids_limit: resources.pids_limit,
        blkio_weight: resources.blkio_weight.unwrap_or(0),
        blkio_weight_devices: resources.blkio_weight_devices.iter().map(|(p, w)| (text(p), (*w).into())).collect(),
        device_read_bps: rates(&resources.device_read_bps),
        device_write_bps: rates(&resources.device_write_bps),
        device_read_iops: rates(&resources.device_read_iops),
        device_write_iops: rates(&resources.device_write_iops),
    };
    serde_json::to_value(said)
        .map_err(|error| Error::new(ErrorKind::Invalid, "the specification cannot be recorded").because(error))
}

fn mode(mode: &NamespaceMode, private: &str) -> String {
    match mode {
        NamespaceMode::Private => private.to_owned(),
        NamespaceMode::Host => "host".to_owned(),
        NamespaceMode::Container(other) => format!("container:{other}"),
    }
}

fn mount(mount: &MountSpec) -> SaidMount {
    match mount {
        MountSpec::Bind { source, target, read_only, propagation, .. } => SaidMount {
            kind: "bind".to_owned(),
            source: source.to_string_lossy().into_owned(),
            target: target.to_string_lossy().into_owned(),
            read_only: *read_only,
            propagation: propagation.clone(),
            ..SaidMount::default()
        },
        MountSpec::Tmpfs { target, options } => SaidMount {
            kind: "tmpfs".to_owned(),
            target: target.to_string_lossy().into_owned(),
            options: options.clone(),
            ..SaidMount::default()
        },
        MountSpec::Volume(volume) => SaidMount {
            kind: "volume".to_owned(),
            source: volume.source.to_string_lossy().into_owned(),
            name: volume.name.clone(),
            anonymous: volume.anonymous,
            no_copy: volume.no_copy,
            subpath: volume.subpath.clone(),
            origin: match volume.origin {
                VolumeOrigin::Flag => "",
                VolumeOrigin::Mount => "mount",
                VolumeOrigin::Image => "image",
                VolumeOrigin::Other => "from",
            }
            .to_owned(),
            mode: volume.mode.clone(),
            target: super::process::clean(&volume.target).to_string_lossy().into_owned(),
            read_only: volume.read_only,
            mounted: matches!(storage::volumes::Device::parse(&volume.options), Ok(Some(_))),
            ..SaidMount::default()
        },
    }
}
