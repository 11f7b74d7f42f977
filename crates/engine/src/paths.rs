//! Where everything is: the data root and the runtime directory.

use std::path::PathBuf;

use container::ContainerId;

/// The data root (survives a reboot) and the runtime directory (does not).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Images, layers, containers.
    pub root: PathBuf,
    /// Monitors' sockets, leases of ids.
    pub run: PathBuf,
    /// Docker's `config.json`, where logins to registries are kept; `None` uses none.
    pub logins: Option<PathBuf>,
}

impl Default for Paths {
    /// `LIGHTER_ROOT` and `LIGHTER_RUN` where set, otherwise `/var/lib/lighter` and `/run/lighter`; logins from
    /// `DOCKER_CONFIG`, otherwise from `.docker` in `HOME`.
    fn default() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let from = |name: &str, otherwise: &str| set(name).unwrap_or_else(|| PathBuf::from(otherwise));
        let docker = set("DOCKER_CONFIG").or_else(|| set("HOME").map(|home| home.join(".docker")));
        Self {
            root: from("LIGHTER_ROOT", "/var/lib/lighter"),
            run: from("LIGHTER_RUN", "/run/lighter"),
            logins: docker.map(|dir| dir.join("config.json")),
        }
    }
}

impl Paths {
    pub(crate) fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    pub(crate) fn container(&self, id: &ContainerId) -> PathBuf {
        self.containers().join(id.as_str())
    }

    pub(crate) fn names(&self) -> PathBuf {
        self.root.join("names")
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub(crate) fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(crate) fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    pub(crate) fn content(&self) -> PathBuf {
        self.root.join("content")
    }

    pub(crate) fn seccomp_cache(&self) -> PathBuf {
        self.root.join("cache").join("seccomp")
    }

    pub(crate) fn lease(&self) -> PathBuf {
        self.root.join("lease")
    }

    pub(crate) fn run_containers(&self) -> PathBuf {
        self.run.join("containers")
    }

    pub(crate) fn run_container(&self, id: &ContainerId) -> PathBuf {
        self.run_containers().join(id.as_str())
    }

    pub(crate) fn boot_stamp(&self) -> PathBuf {
        self.run.join("boot")
    }
}
