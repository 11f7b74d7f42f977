//! containerd's `certs.d/HOST/hosts.toml`: the hosts that serve a registry, in the order of the file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::super::endpoint::{Abilities, Endpoint};
use super::{read, wrong};
use crate::Result;

/// A file, and the directory its relative paths are in.
#[derive(Debug)]
pub(super) struct Hosts {
    path: PathBuf,
    file: File,
}

#[derive(Debug, Deserialize)]
struct File {
    #[serde(default)]
    server: Option<String>,
    #[serde(flatten)]
    own: Host,
    #[serde(default)]
    host: BTreeMap<String, Host>,
    /// The names of `host` in the order in which they are written.
    #[serde(skip)]
    order: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Host {
    capabilities: Option<Vec<String>>,
    ca: Option<Texts>,
    client: Option<Clients>,
    skip_verify: Option<bool>,
    #[serde(default)]
    header: BTreeMap<String, Texts>,
    override_path: Option<bool>,
    dial_timeout: Option<String>,
}

/// One text, or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(Vec<String>),
}

impl Texts {
    fn all(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// A file with certificate and key, or pairs of files.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Clients {
    One(String),
    Many(Vec<Texts>),
}

/// The names of the tables below `host`, in order: the positions of keys tell.
fn order(text: &str) -> std::result::Result<Vec<String>, toml::de::Error> {
    #[derive(Deserialize)]
    struct Keys {
        #[serde(default)]
        host: BTreeMap<toml::Spanned<String>, toml::Value>,
    }
    let keys: Keys = toml::from_str(text)?;
    let mut names: Vec<_> = keys.host.into_keys().collect();
    names.sort_by_key(|name| name.span().start);
    Ok(names.into_iter().map(toml::Spanned::into_inner).collect())
}

/// The file for `domain` in the first of `dirs` that has one, or else the one for all.
pub(super) fn find(dirs: &[PathBuf], domain: &str) -> Result<Option<Hosts>> {
    // A colon is no part of a file name everywhere.
    let with_port = domain.rsplit_once(':').map(|(host, port)| format!("{host}_{port}_"));
    for name in [Some(domain.to_owned()), with_port, Some("_default".to_owned())].into_iter().flatten() {
        for dir in dirs {
            let path = dir.join(&name).join("hosts.toml");
            if let Some(text) = read(&path)? {
                return Hosts::parse(&text, &path).map(Some);
            }
        }
    }
    Ok(None)
}

impl Hosts {
    pub(super) fn parse(text: &str, path: &Path) -> Result<Self> {
        let in_file = |error: toml::de::Error| wrong(path, error.message().to_owned());
        let mut file: File = toml::from_str(text).map_err(in_file)?;
        file.order = order(text).map_err(in_file)?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// All hosts, and the registry `domain` itself.
    pub(super) fn endpoints(&self, domain: &str, repository: &str) -> Result<Vec<Endpoint>> {
        let mut endpoints = Vec::new();
        for url in &self.file.order {
            let Some(host) = self.file.host.get(url) else { continue };
            let whole = host.override_path.unwrap_or(false);
            let endpoint = Endpoint::at(url, repository, whole);
            let mut endpoint =
                endpoint.ok_or_else(|| wrong(&self.path, format!("host {url:?} is no URL of a host")))?;
            let itself = Endpoint::of(domain, repository);
            if endpoint.authority == itself.authority {
                endpoint.account = itself.account;
            } else {
                endpoint.namespace = Some(domain.to_owned());
            }
            self.apply(host, &mut endpoint)?;
            endpoints.push(endpoint);
        }
        endpoints.push(self.server(domain, repository)?);
        Ok(endpoints)
    }

    /// The registry itself, as the file describes it.
    pub(super) fn server(&self, domain: &str, repository: &str) -> Result<Endpoint> {
        let mut endpoint = Endpoint::of(domain, repository);
        if let Some(url) = self.file.server.as_ref().filter(|url| !url.is_empty()) {
            let whole = self.file.own.override_path.unwrap_or(false);
            let at = Endpoint::at(url, repository, whole);
            let at = at.ok_or_else(|| wrong(&self.path, format!("server {url:?} is no URL of a host")))?;
            let itself = at.authority == endpoint.authority || at.authority == endpoint.account;
            endpoint = match itself {
                true => Endpoint { account: endpoint.account, authority: endpoint.authority, ..at },
                false => Endpoint { namespace: Some(domain.to_owned()), ..at },
            };
        }
        self.apply(&self.file.own, &mut endpoint)?;
        Ok(endpoint)
    }

    fn apply(&self, host: &Host, endpoint: &mut Endpoint) -> Result<()> {
        let below = |path: &String| self.path.parent().unwrap_or(Path::new("/")).join(path);
        if let Some(said) = host.capabilities.as_ref().filter(|said| !said.is_empty()) {
            let can = |what: &str| said.iter().any(|word| word == what);
            if let Some(unknown) =
                said.iter().find(|word| !matches!(word.as_str(), "pull" | "resolve" | "push" | "referrers"))
            {
                return Err(wrong(&self.path, format!("capability {unknown:?} is not known")));
            }
            endpoint.can = Abilities { pull: can("pull"), resolve: can("resolve"), push: can("push") };
        }
        if let Some(files) = &host.ca {
            endpoint.trust.authorities.extend(files.all().iter().map(below));
        }
        endpoint.trust.client = match &host.client {
            None => endpoint.trust.client.take(),
            Some(Clients::One(file)) => Some((below(file), below(file))),
            // The first one counts; a server cannot be offered several.
            Some(Clients::Many(pairs)) => match pairs.first().map(Texts::all) {
                Some([certificate, key]) => Some((below(certificate), below(key))),
                Some([both]) => Some((below(both), below(both))),
                _ => return Err(wrong(&self.path, "client is a file, or a list of certificates with their keys")),
            },
        };
        if host.skip_verify == Some(true) {
            endpoint.trust.anybody = true;
        }
        for (name, values) in &host.header {
            endpoint.headers.extend(values.all().iter().map(|value| (name.clone(), value.clone())));
        }
        if let Some(said) = &host.dial_timeout {
            let bound = oci::duration::parse(said.trim())
                .ok_or_else(|| wrong(&self.path, format!("dial_timeout {said:?} is no time")))?;
            endpoint.connect = Some(bound);
        }
        Ok(())
    }
}
