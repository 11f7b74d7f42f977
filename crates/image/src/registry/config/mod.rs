//! Which endpoints a repository has, from four grammars that are in use: containers' `registries.conf` (and ours, which
//! is written the same way), containerd's `hosts.toml`, dockerd's `daemon.json`, and directories of certificates.
//!
//! The first of these that says something about where to find a registry counts, whole:
//!
//! 1. `lighter/registries.toml` of the user, then of the host;
//! 2. containers' `registries.conf` with its drop-ins;
//! 3. `HOST/hosts.toml` in a directory of certificates, then `_default/hosts.toml`;
//! 4. `registry-mirrors` of dockerd, for Docker's own registry only.
//!
//! What says whom to trust adds up: certificates for a host, and hosts declared insecure, hold wherever the endpoint
//! comes from. A registry that the first or second blocks is blocked.

mod daemon;
mod hosts_toml;
mod registries_conf;

use std::path::{Path, PathBuf};
use std::time::Duration;

use oci::Reference;
use oci::reference::DEFAULT_DOMAIN;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use sys::Context;

use super::endpoint::Endpoint;
use super::{Options, Proxies};
use crate::content::read_bounded;
use crate::{Error, Result};

/// Largest configuration file read, in bytes; Debian's list of short names has 30 KB.
const FILE_MAX: u64 = 1 << 20;
/// Most drop-ins or certificates of one directory.
const FILES_MAX: usize = 1000;

/// Where configuration is looked for. What is not there says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Our `registries.toml`s; an entry of an earlier one replaces that of a later one for the same prefix.
    pub own: Vec<PathBuf>,
    /// containers' `registries.conf`s: the first that is there counts. `NAME.d` beside it has its drop-ins.
    pub containers: Vec<PathBuf>,
    /// Directories with a directory for each host (`HOST`, or `HOST:PORT`).
    pub certs: Vec<PathBuf>,
    /// dockerd's `daemon.json`s: the first that is there counts.
    pub daemon: Vec<PathBuf>,
}

impl Places {
    /// This host's, for this process's user: below `XDG_CONFIG_HOME` (or `HOME/.config`), then below `/etc`.
    #[must_use]
    pub fn of_host() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let user = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
        let both = |below: &str| {
            let user = user.as_ref().map(|dir| dir.join(below));
            user.into_iter().chain([Path::new("/etc").join(below)]).collect::<Vec<_>>()
        };
        let certs = ["lighter", "containerd", "docker", "containers"].map(|who| both(&format!("{who}/certs.d")));
        Self {
            own: both("lighter/registries.toml"),
            containers: set("CONTAINERS_REGISTRIES_CONF")
                .map_or_else(|| both("containers/registries.conf"), |p| vec![p]),
            certs: certs.concat(),
            daemon: both("docker/daemon.json"),
        }
    }
}

/// What all of it says.
#[derive(Clone, Debug, Default)]
pub struct Configuration {
    own: registries_conf::Registries,
    containers: registries_conf::Registries,
    daemon: daemon::Daemon,
    certs: Vec<PathBuf>,
}

impl Configuration {
    /// Reads `places`.
    ///
    /// # Errors
    /// A file cannot be read, or is not written as it should be.
    pub fn read(places: &Places) -> Result<Self> {
        let mut own = registries_conf::Registries::default();
        for path in places.own.iter().rev() {
            if let Some(text) = read(path)? {
                own.add(registries_conf::Registries::parse(&text, path)?);
            }
        }
        let mut containers = registries_conf::Registries::default();
        for path in &places.containers {
            let text = read(path)?;
            let found = text.is_some();
            if let Some(text) = text {
                containers = registries_conf::Registries::parse(&text, path)?;
            }
            let mut drop_ins = PathBuf::from(path).into_os_string();
            drop_ins.push(".d");
            let names = files_in(Path::new(&drop_ins), &["conf"])?;
            for path in &names {
                if let Some(text) = read(path)? {
                    containers.add(registries_conf::Registries::parse(&text, path)?);
                }
            }
            if found || !names.is_empty() {
                break;
            }
        }
        let mut daemon = daemon::Daemon::default();
        for path in &places.daemon {
            if let Some(text) = read(path)? {
                daemon = daemon::Daemon::parse(&text, path)?;
                break;
            }
        }
        Ok(Self { own, containers, daemon, certs: places.certs.clone() })
    }

    /// The proxies that dockerd is told of.
    #[must_use]
    pub fn proxies(&self) -> Proxies {
        self.daemon.proxies.clone()
    }

    /// Applies what our own file says of waiting and trying to `options`.
    pub fn tune(&self, options: &mut Options) {
        let tuning = &self.own.tuning;
        let seconds = |said: Option<f64>, bound: &mut Duration| {
            if let Some(said) = said.and_then(|said| Duration::try_from_secs_f64(said).ok()) {
                *bound = said;
            }
        };
        seconds(tuning.connect_timeout, &mut options.timeouts.connect);
        seconds(tuning.response_timeout, &mut options.timeouts.response);
        seconds(tuning.idle_timeout, &mut options.timeouts.idle);
        options.timeouts.least_rate = tuning.least_rate.unwrap_or(options.timeouts.least_rate);
        options.attempts = tuning.attempts.unwrap_or(options.attempts).max(1);
    }

    /// What a short name, without registry and tag, stands for by containers' aliases. Docker's reading of names knows
    /// none; they hold where our own file says `short-names = "aliases"`.
    #[must_use]
    pub fn alias(&self, name: &str) -> Option<&str> {
        if self.own.short_names.as_deref() != Some("aliases") {
            return None;
        }
        self.own.aliases.get(name).or_else(|| self.containers.aliases.get(name)).map(String::as_str)
    }

    /// The endpoints of `reference`'s repository, in the order in which they are to be asked; the registry itself is
    /// the last one.
    ///
    /// # Errors
    /// [`Error::Blocked`]; a file that cannot be read or is not written as it should be.
    pub(super) fn endpoints(&self, reference: &Reference, insecure: bool) -> Result<Vec<Endpoint>> {
        let name = reference.name();
        let found = [&self.own, &self.containers].map(|registries| registries.find(&name));
        if found.iter().flatten().any(|entry| entry.blocked) {
            return Err(Error::Blocked { registry: reference.domain().to_owned(), repository: name });
        }
        let (domain, path) = (reference.domain(), reference.path());
        let mut endpoints = match found.into_iter().flatten().next() {
            Some(entry) => entry.endpoints(reference)?,
            None => match hosts_toml::find(&self.certs, domain)? {
                Some(hosts) => hosts.endpoints(domain, path)?,
                None if domain == DEFAULT_DOMAIN => {
                    let mut all = self.daemon.mirrors(path)?;
                    all.push(Endpoint::of(domain, path));
                    all
                }
                None => vec![Endpoint::of(domain, path)],
            },
        };
        let last = endpoints.len().saturating_sub(1);
        for (position, endpoint) in endpoints.iter_mut().enumerate() {
            self.certificates(endpoint)?;
            let declared = endpoint.plain || self.daemon.is_insecure(&endpoint.authority);
            endpoint.relax(declared || (insecure && position == last));
        }
        Ok(endpoints)
    }

    /// The registry at `domain` itself, for a login.
    pub(super) fn registry(&self, domain: &str, insecure: bool) -> Result<Endpoint> {
        let mut endpoint = Endpoint::of(domain, "");
        let declared =
            [&self.own, &self.containers].into_iter().any(|all| all.find(domain).is_some_and(|entry| entry.insecure));
        if let Some(own) = hosts_toml::find(&self.certs, domain)?.map(|hosts| hosts.server(domain, "")).transpose()? {
            endpoint = own;
        }
        self.certificates(&mut endpoint)?;
        endpoint.relax(insecure || declared || self.daemon.is_insecure(&endpoint.authority));
        Ok(endpoint)
    }

    /// Adds the certificates that lie in directories for the endpoint's host: `*.crt` are authorities, a `*.cert` and
    /// the `*.key` of its name are the client's.
    fn certificates(&self, endpoint: &mut Endpoint) -> Result<()> {
        for dir in &self.certs {
            let mut hosts = vec![endpoint.authority.as_str()];
            if endpoint.account != endpoint.authority {
                hosts.push(&endpoint.account);
            }
            for host in hosts {
                let dir = dir.join(host);
                endpoint.trust.authorities.extend(files_in(&dir, &["crt"])?);
                if endpoint.trust.client.is_none()
                    && let Some(certificate) = files_in(&dir, &["cert"])?.into_iter().next()
                {
                    let key = certificate.with_extension("key");
                    if !key.exists() {
                        let what = certificate.display().to_string();
                        return Err(Error::configuration(what, "the key of its name, ending in .key, is missing"));
                    }
                    endpoint.trust.client = Some((certificate, key));
                }
            }
        }
        Ok(())
    }
}

/// The text of the file, if it is there.
fn read(path: &Path) -> Result<Option<String>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Err(sys::Error::new("openat", path.display(), errno).into()),
    };
    let what = path.display().to_string();
    let bytes = read_bounded(&mut std::fs::File::from(fd), FILE_MAX, &what)?;
    String::from_utf8(bytes).map(Some).map_err(|_| Error::configuration(what, "it is not UTF-8"))
}

/// The files in `dir` whose names end in one of `endings`, by name; none when it is not there.
fn files_in(dir: &Path, endings: &[&str]) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir).at("opendir", dir.display()) {
        Ok(entries) => entries,
        Err(error) if matches!(error.errno(), Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let fits = |path: &PathBuf| path.extension().is_some_and(|ending| endings.iter().any(|known| ending == *known));
    let mut paths: Vec<PathBuf> = paths.filter(fits).take(FILES_MAX).collect();
    paths.sort();
    Ok(paths)
}

/// Reads `text` in each of the four forms, and asks for the endpoints of `reference`; for the fuzz target.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn fuzz(text: &str, reference: &Reference) {
    let path = Path::new("fuzz");
    let alone = |own, containers, daemon| Configuration { own, containers, daemon, certs: Vec::new() };
    let none = registries_conf::Registries::default;
    let mut read = Vec::new();
    if let Ok(registries) = registries_conf::Registries::parse(text, path) {
        read.push(alone(registries.clone(), none(), daemon::Daemon::default()));
        read.push(alone(none(), registries, daemon::Daemon::default()));
    }
    if let Ok(daemon) = daemon::Daemon::parse(text, path) {
        read.push(alone(none(), none(), daemon));
    }
    for configuration in read {
        let _ = configuration.alias(reference.path());
        configuration.tune(&mut Options::default());
        if let Ok(endpoints) = configuration.endpoints(reference, false) {
            assert!(endpoints.iter().all(|endpoint| !endpoint.authority.is_empty()), "{endpoints:?}");
        }
    }
    if let Ok(hosts) = hosts_toml::Hosts::parse(text, path)
        && let Ok(endpoints) = hosts.endpoints(reference.domain(), reference.path())
    {
        assert!(endpoints.iter().all(|endpoint| !endpoint.authority.is_empty()), "{endpoints:?}");
    }
}

/// An error in a configuration file.
fn wrong(path: &Path, reason: impl Into<String>) -> Error {
    Error::configuration(path.display().to_string(), reason.into())
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
