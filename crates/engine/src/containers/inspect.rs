//! `inspect`, and the log.

use container::log;
use container::record::{Config, State, UsernsPosture};
use container::{ContainerDir, ContainerId};
use oci::runtime::NamespaceKind;

use super::{ContainerDetails, LogEntry, LogOptions, Posture, Said, SizeInfo};
use crate::{Engine, Error, ErrorKind, Result};

/// Ids of one range.
const RANGE: u32 = 65_536;

impl Engine {
    /// Everything about a container; its disk space only with `size`, because that walks the writable layer.
    ///
    /// # Errors
    /// No such container; a damaged record.
    pub fn inspect(&self, id: &ContainerId, size: bool) -> Result<ContainerDetails> {
        let dir = self.container_dir(id)?;
        let config = dir.config()?;
        let observed = dir.observe()?;
        let state = observed.state();
        let status = observed.status;
        let said: Said = serde_json::from_value(config.said.clone()).map_err(|error| {
            Error::new(ErrorKind::Damaged, format!("the record of container {id} is damaged")).because(error)
        })?;
        let active = container::dir::is_active(state);
        let size = if size { Some(self.size_of(&dir, &config)?) } else { None };
        let layers = config.image.as_ref().map_or_else(Vec::new, |image| {
            image.chain.iter().rev().map(|layer| self.paths.layers().join(layer.hex()).join("diff")).collect()
        });
        Ok(ContainerDetails {
            posture: posture(&config, &said, status.host_ids.filter(|_| active)),
            name: config.name.to_string(),
            pid: if active { status.pid } else { 0 },
            monitor_pid: if active { status.monitor } else { 0 },
            // A monitor that died has recorded no end; the next repair writes down that the code is unknown.
            exit_code: if state != status.state && state == State::Exited {
                container::recover::UNKNOWN_EXIT
            } else {
                status.exit_code
            },
            state,
            started: status.started,
            finished: status.finished,
            oom_killed: status.oom_killed,
            error: status.error,
            log_path: if config.log.is_some() { dir.log_path() } else { std::path::PathBuf::new() },
            upper: config.image.as_ref().map(|_| dir.path().join(container::dir::names::UPPER)),
            dir: dir.path().to_owned(),
            layers,
            size,
            said,
            id: config.id,
            created: config.created,
            image: config.image,
            rootfs_dir: config.rootfs_dir,
            spec: config.spec,
            user: config.user,
            groups: config.groups,
            tty: config.tty,
            open_stdin: config.open_stdin,
            init: config.init,
            auto_remove: config.auto_remove,
            stop_signal: config.stop_signal,
            stop_timeout: config.stop_timeout,
            log: config.log,
            labels: config.labels,
        })
    }

    /// Disk space of a container.
    pub(super) fn size_of(&self, dir: &ContainerDir, config: &Config) -> Result<SizeInfo> {
        let writable = storage::snapshot::upper_usage(dir.path())?.bytes;
        let mut total = writable;
        for layer in config.image.iter().flat_map(|image| &image.chain) {
            total = total.saturating_add(self.layers()?.usage(layer)?.bytes);
        }
        Ok(SizeInfo { writable, total })
    }

    /// The lines a container wrote. With `follow` the iterator waits for more until the container stops.
    ///
    /// # Errors
    /// No such container; one that keeps no log.
    pub fn logs(
        &self,
        id: &ContainerId,
        options: LogOptions,
    ) -> Result<impl Iterator<Item = Result<LogEntry>> + use<>> {
        let dir = self.container_dir(id)?;
        if dir.config()?.log.is_none() {
            return Err(Error::new(ErrorKind::Unsupported, "configured logging driver does not support reading")
                .hint("the container was made with --log-driver none"));
        }
        let below = log::LogOptions {
            tail: options.tail,
            since: options.since,
            until: options.until,
            follow: options.follow,
            ..log::LogOptions::default()
        };
        let path = dir.log_path();
        let ended = move || match dir.observe() {
            Ok(observed) => !container::dir::is_active(observed.state()),
            Err(_) => true,
        };
        let entries = log::read(&path, &below, ended)?;
        Ok(entries.map(|entry| {
            let entry = entry?;
            Ok(LogEntry { time: entry.timestamp(), stream: entry.stream, line: entry.text.into_bytes() })
        }))
    }
}

/// The isolation a configuration means.
fn posture(config: &Config, said: &Said, host_ids: Option<u32>) -> Posture {
    const KINDS: [(NamespaceKind, &str); 8] = [
        (NamespaceKind::Pid, "pid"),
        (NamespaceKind::Network, "network"),
        (NamespaceKind::Mount, "mount"),
        (NamespaceKind::Ipc, "ipc"),
        (NamespaceKind::Uts, "uts"),
        (NamespaceKind::User, "user"),
        (NamespaceKind::Cgroup, "cgroup"),
        (NamespaceKind::Time, "time"),
    ];
    let linux = config.spec.linux.clone().unwrap_or_default();
    let process = config.spec.process.clone().unwrap_or_default();
    let own = |kind: &NamespaceKind| linux.namespaces.iter().any(|namespace| namespace.kind == *kind);
    let names = |wanted: bool| {
        KINDS.iter().filter(|(kind, _)| own(kind) == wanted).map(|(_, name)| (*name).to_owned()).collect()
    };
    let resources = linux.resources.unwrap_or_default();
    let cpu = resources.cpu.unwrap_or_default();
    let nano_cpus = cpu.quota.filter(|&quota| quota > 0).map(|quota| {
        let period = i64::try_from(cpu.period.unwrap_or(100_000)).unwrap_or(i64::MAX).max(1);
        quota.saturating_mul(1_000_000_000) / period
    });
    let custom = said.security_opts.iter().any(|option| {
        let value = option.strip_prefix("seccomp=").or_else(|| option.strip_prefix("seccomp:"));
        value.is_some_and(|value| !matches!(value, "builtin" | "default"))
    });
    Posture {
        userns: config.userns.clone(),
        host_ids: match config.userns {
            UsernsPosture::Private => host_ids.map(|start| (start, RANGE)),
            UsernsPosture::Host { .. } => None,
        },
        namespaces: names(true),
        shared_namespaces: names(false),
        capabilities: process.capabilities.unwrap_or_default().bounding,
        seccomp: match (&linux.seccomp, custom) {
            (None, _) => "unconfined",
            (Some(_), true) => "custom",
            (Some(_), false) => "default",
        }
        .to_owned(),
        no_new_privileges: process.no_new_privileges,
        apparmor: process.apparmor_profile,
        read_only_rootfs: config.spec.root.as_ref().is_some_and(|root| root.readonly),
        masked_paths: linux.masked_paths,
        readonly_paths: linux.readonly_paths,
        memory: resources.memory.and_then(|memory| memory.limit),
        nano_cpus,
        pids: resources.pids.and_then(|pids| pids.limit),
        privileged: said.privileged,
    }
}
