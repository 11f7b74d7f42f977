//! Proxies between here and a registry: which one, and for which hosts none.
//!
//! The environment comes first (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`, in either case), then dockerd's `proxies`, then
//! those of docker's `config.json`. Nothing on this machine is ever asked through a proxy.

use std::net::IpAddr;

use oci::reference::is_loopback_host;
use ureq::http::Uri;

use super::place::port_of;

/// What to go through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    /// URL of the proxy for requests without TLS.
    pub http: Option<String>,
    /// URL of the proxy for requests with TLS.
    pub https: Option<String>,
    /// Hosts that are spoken to directly, separated by commas: names (and all below them), addresses, ranges
    /// (`10.0.0.0/8`), each with a port or not; `*` for all.
    pub except: String,
}

impl Proxies {
    /// Those of this process's environment.
    #[must_use]
    pub fn of_environment() -> Self {
        let said = |upper: &str, lower: &str| {
            let value = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
            value(upper).or_else(|| value(lower))
        };
        Self {
            http: said("HTTP_PROXY", "http_proxy"),
            https: said("HTTPS_PROXY", "https_proxy"),
            except: said("NO_PROXY", "no_proxy").unwrap_or_default(),
        }
    }

    /// These, and where they say nothing `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            http: self.http.or(other.http),
            https: self.https.or(other.https),
            except: if self.except.is_empty() { other.except } else { self.except },
        }
    }

    /// The proxy on the way to `uri`.
    pub(super) fn on_the_way_to(&self, uri: &Uri) -> Option<&str> {
        let host = uri.host().unwrap_or_default();
        let proxy = if uri.scheme_str() == Some("https") { &self.https } else { &self.http };
        let proxy = proxy.as_deref()?;
        let direct = is_loopback_host(host) || self.excepts(host, port_of(uri));
        (!direct).then_some(proxy)
    }

    fn excepts(&self, host: &str, port: u16) -> bool {
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let address: Option<IpAddr> = bare.parse().ok();
        self.except.split(',').map(|entry| entry.trim().to_ascii_lowercase()).any(|entry| {
            if entry == "*" {
                return true;
            }
            if let Some((network, bits)) = entry.split_once('/') {
                let network = network.parse::<IpAddr>().ok().zip(bits.parse::<u32>().ok());
                return address.zip(network).is_some_and(|(address, (network, bits))| within(address, network, bits));
            }
            if let Ok(only) = entry.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
                return address == Some(only);
            }
            let (name, only_port) = match entry.rsplit_once(':') {
                Some((name, said)) => match said.parse::<u16>() {
                    Ok(said) => (name, Some(said)),
                    Err(_) => return false,
                },
                None => (entry.as_str(), None),
            };
            let name = name.trim_start_matches('*').trim_start_matches('.');
            let below = bare.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
            !name.is_empty() && below && only_port.is_none_or(|only| only == port)
        })
    }
}

/// Whether `address` lies in the network of `bits` leading bits.
pub(super) fn within(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    let same =
        |a: u128, b: u128, width: u32| bits <= width && (bits == 0 || a >> (width - bits) == b >> (width - bits));
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(u128::from(a.to_bits()), u128::from(b.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(except: &str, url: &str) -> Option<String> {
        let proxies =
            Proxies { http: Some("http://p:1".into()), https: Some("http://p:2".into()), except: except.to_owned() };
        proxies.on_the_way_to(&url.parse().expect("valid")).map(str::to_owned)
    }

    #[test]
    fn each_scheme_has_its_proxy_and_this_machine_none() {
        assert_eq!(way("", "https://reg.example/v2/").as_deref(), Some("http://p:2"));
        assert_eq!(way("", "http://reg.example/v2/").as_deref(), Some("http://p:1"));
        for here in ["http://localhost:5000/", "https://127.0.0.1/", "http://[::1]:5000/"] {
            assert_eq!(way("", here), None, "{here}");
        }
        let only_plain = Proxies { http: Some("http://p:1".into()), ..Proxies::default() };
        assert_eq!(only_plain.on_the_way_to(&"https://reg.example/".parse().expect("valid")), None);
    }

    #[test]
    fn exceptions_are_names_addresses_and_networks() {
        for (except, url, direct) in [
            ("reg.example", "https://reg.example/", true),
            ("reg.example", "https://a.reg.example/", true),
            (".reg.example", "https://a.reg.example/", true),
            ("*.reg.example", "https://a.reg.example/", true),
            ("reg.example", "https://areg.example/", false),
            ("x, REG.example:5000", "https://reg.example:5000/", true),
            ("reg.example:5000", "https://reg.example/", false),
            ("10.0.0.0/8", "http://10.1.2.3:5000/", true),
            ("10.0.0.0/8", "http://11.1.2.3:5000/", false),
            ("fd00::/8", "http://[fd00::1]:5000/", true),
            ("192.0.2.1", "http://192.0.2.1/", true),
            ("*", "https://any.example/", true),
            ("", "https://any.example/", false),
            ("/,:,::/x,a:b", "https://any.example/", false),
        ] {
            assert_eq!(way(except, url).is_none(), direct, "{except} {url}");
        }
    }
}
