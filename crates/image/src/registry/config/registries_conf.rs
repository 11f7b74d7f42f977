//! containers-registries.conf(5), version 2, and our own file, which adds `[client]` and `short-names`.

use std::collections::BTreeMap;
use std::path::Path;

use oci::Reference;
use serde::Deserialize;

use super::super::endpoint::{Abilities, Endpoint};
use super::wrong;
use crate::{Error, Result};

/// A file, or several laid over one another.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Registries {
    #[serde(default, rename = "registry")]
    entries: Vec<Entry>,
    #[serde(default)]
    pub(super) aliases: BTreeMap<String, String>,
    #[serde(default, rename = "short-names")]
    pub(super) short_names: Option<String>,
    #[serde(default, rename = "client")]
    pub(super) tuning: Tuning,
}

/// `[client]`: how patient to be.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Tuning {
    /// Seconds.
    pub(super) connect_timeout: Option<f64>,
    /// Seconds.
    pub(super) response_timeout: Option<f64>,
    /// Seconds.
    pub(super) idle_timeout: Option<f64>,
    /// Bytes a second.
    pub(super) least_rate: Option<u64>,
    pub(super) attempts: Option<u32>,
}

/// `[[registry]]`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Entry {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    pub(super) insecure: bool,
    #[serde(default)]
    pub(super) blocked: bool,
    #[serde(default, rename = "mirror-by-digest-only")]
    by_digest_only: bool,
    #[serde(default, rename = "mirror")]
    mirrors: Vec<Mirror>,
}

/// `[[registry.mirror]]`.
#[derive(Clone, Debug, Deserialize)]
struct Mirror {
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default, rename = "pull-from-mirror")]
    from: String,
}

impl Registries {
    pub(super) fn parse(text: &str, path: &Path) -> Result<Self> {
        let mut parsed: Self = toml::from_str(text).map_err(|error| wrong(path, error.message().to_owned()))?;
        for entry in &mut parsed.entries {
            let trim = |text: &mut String| *text = text.trim_end_matches('/').to_owned();
            trim(&mut entry.prefix);
            trim(&mut entry.location);
            if entry.prefix.is_empty() {
                entry.prefix.clone_from(&entry.location);
            }
            if entry.prefix.is_empty() || entry.prefix.contains("://") || entry.location.contains("://") {
                return Err(wrong(path, "a registry has neither prefix nor location, or one with a scheme"));
            }
            let wild = entry.prefix.strip_prefix("*.").unwrap_or(&entry.prefix);
            if wild.is_empty() || wild.contains('*') {
                return Err(wrong(path, format!("prefix {:?}: a star stands for hosts below a name", entry.prefix)));
            }
            for mirror in &entry.mirrors {
                if !matches!(mirror.from.as_str(), "" | "all" | "digest-only" | "tag-only") {
                    return Err(wrong(path, format!("pull-from-mirror {:?} is not known", mirror.from)));
                }
                if mirror.location.contains("://") || mirror.location.is_empty() {
                    return Err(wrong(path, format!("mirror {:?}: a host is wanted, no URL", mirror.location)));
                }
            }
        }
        if parsed.short_names.as_deref().is_some_and(|said| !matches!(said, "docker" | "aliases")) {
            return Err(wrong(path, "short-names is \"docker\" or \"aliases\""));
        }
        Ok(parsed)
    }

    /// Lays `over` over this: its entries replace those of the same prefix.
    pub(super) fn add(&mut self, over: Self) {
        self.entries.retain(|known| over.entries.iter().all(|new| new.prefix != known.prefix));
        self.entries.extend(over.entries);
        self.aliases.extend(over.aliases);
        self.short_names = over.short_names.or(self.short_names.take());
        let (below, over) = (&mut self.tuning, over.tuning);
        below.connect_timeout = over.connect_timeout.or(below.connect_timeout);
        below.response_timeout = over.response_timeout.or(below.response_timeout);
        below.idle_timeout = over.idle_timeout.or(below.idle_timeout);
        below.least_rate = over.least_rate.or(below.least_rate);
        below.attempts = over.attempts.or(below.attempts);
    }

    /// The entry with the longest prefix of `name` (registry and repository).
    pub(super) fn find(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().filter_map(|entry| Some((entry.matched(name)?, entry))).max_by_key(|(n, _)| *n).map(|f| f.1)
    }
}

impl Entry {
    /// How many bytes of `name` the prefix stands for.
    fn matched(&self, name: &str) -> Option<usize> {
        let length = match self.prefix.strip_prefix('*') {
            Some(suffix) => {
                let at = name.find(suffix)?;
                // The star stands for a part of the host, which is not empty.
                (at > 0 && !name[..at].contains('/')).then_some(at + suffix.len())?
            }
            None => name.starts_with(&self.prefix).then_some(self.prefix.len())?,
        };
        let whole = matches!(name.as_bytes().get(length), None | Some(b'/' | b':' | b'@'));
        whole.then_some(length)
    }

    /// The mirrors that serve `reference`, and the registry itself.
    pub(super) fn endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>> {
        let name = reference.name();
        let length = self.matched(&name).unwrap_or(0);
        let by_digest = reference.digest().is_some();
        let at = |location: &str, insecure: bool| -> Result<Endpoint> {
            let moved = if location.is_empty() { name.clone() } else { format!("{location}{}", &name[length..]) };
            let (host, repository) = moved.split_once('/').unwrap_or((&moved, ""));
            if host.is_empty() || repository.is_empty() {
                return Err(Error::configuration(
                    "registries.conf",
                    format!("{moved:?} is not a host with a repository"),
                ));
            }
            let mut endpoint = Endpoint::of(host, repository);
            endpoint.plain = insecure;
            Ok(endpoint)
        };
        let mut endpoints = Vec::new();
        for mirror in &self.mirrors {
            let only_digests = self.by_digest_only || mirror.from == "digest-only";
            let serves = match mirror.from.as_str() {
                "tag-only" => !by_digest,
                _ => by_digest || !only_digests,
            };
            if serves {
                let mut endpoint = at(mirror.location.trim_end_matches('/'), mirror.insecure)?;
                endpoint.can = Abilities::READ;
                endpoints.push(endpoint);
            }
        }
        endpoints.push(at(&self.location, self.insecure)?);
        Ok(endpoints)
    }
}
