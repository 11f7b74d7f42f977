//! What dockerd's `daemon.json` says of registries: `registry-mirrors`, `insecure-registries`, `proxies`.

use std::net::IpAddr;
use std::path::Path;

use oci::reference::host_of;
use serde::Deserialize;

use super::super::Proxies;
use super::super::endpoint::{Abilities, Endpoint};
use super::super::proxy::within;
use super::wrong;
use crate::{Error, Result};

/// What it says.
#[derive(Clone, Debug, Default)]
pub(super) struct Daemon {
    mirrors: Vec<String>,
    insecure: Vec<String>,
    pub(super) proxies: Proxies,
}

impl Daemon {
    pub(super) fn parse(text: &str, path: &Path) -> Result<Self> {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        struct File {
            #[serde(default)]
            registry_mirrors: Vec<String>,
            #[serde(default)]
            insecure_registries: Vec<String>,
            #[serde(default)]
            proxies: Through,
        }
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        struct Through {
            #[serde(default)]
            http_proxy: Option<String>,
            #[serde(default)]
            https_proxy: Option<String>,
            #[serde(default)]
            no_proxy: Option<String>,
        }
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let file: File = serde_json::from_str(text).map_err(|error| wrong(path, error.to_string()))?;
        let said = |value: Option<String>| value.filter(|value| !value.is_empty());
        let proxies = Proxies {
            http: said(file.proxies.http_proxy),
            https: said(file.proxies.https_proxy),
            except: file.proxies.no_proxy.unwrap_or_default(),
        };
        Ok(Self { mirrors: file.registry_mirrors, insecure: file.insecure_registries, proxies })
    }

    /// The mirrors of Docker's registry.
    pub(super) fn mirrors(&self, repository: &str) -> Result<Vec<Endpoint>> {
        let mirror = |url: &String| {
            let endpoint = Endpoint::at(url, repository, false);
            let endpoint =
                endpoint.ok_or_else(|| Error::configuration("daemon.json", format!("mirror {url:?} is no URL")));
            endpoint.map(|endpoint| Endpoint { can: Abilities::READ, ..endpoint })
        };
        self.mirrors.iter().map(mirror).collect()
    }

    /// Whether the host, with its port or without, or a network it is in is declared insecure.
    pub(super) fn is_insecure(&self, authority: &str) -> bool {
        let host = host_of(authority);
        let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
        self.insecure.iter().any(|entry| {
            let entry = entry.strip_prefix("http://").or_else(|| entry.strip_prefix("https://")).unwrap_or(entry);
            let network = entry.split_once('/').and_then(|(net, bits)| Some((net.parse().ok()?, bits.parse().ok()?)));
            let inside = |address| network.is_some_and(|(network, bits)| within(address, network, bits));
            let entry = entry.trim_end_matches('/');
            entry.eq_ignore_ascii_case(authority) || entry.eq_ignore_ascii_case(host) || address.is_some_and(inside)
        })
    }
}
