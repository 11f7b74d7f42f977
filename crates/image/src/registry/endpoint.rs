//! Where a repository's images can be had: an ordered list of endpoints, whatever configuration it came from.
//!
//! Mirrors come first and the registry itself last. Each endpoint has its own address, its own name for the repository,
//! its own trust and its own login: what is configured for one is never used with another.

use std::path::PathBuf;
use std::time::Duration;

use oci::reference::{DEFAULT_DOMAIN, host_of, is_loopback_host};

/// Where Docker's images really are.
const DOCKER_REGISTRY: &str = "registry-1.docker.io";
/// Where the interface begins (distribution specification, "Endpoints").
const ROOT: &str = "/v2";

/// How an endpoint is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Https,
    Http,
}

impl Scheme {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
        }
    }
}

/// What an endpoint may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Abilities {
    /// Content by its digest.
    pub(super) pull: bool,
    /// What a tag stands for.
    pub(super) resolve: bool,
    /// Taking content in.
    pub(super) push: bool,
}

impl Abilities {
    pub(super) const ALL: Self = Self { pull: true, resolve: true, push: true };
    pub(super) const READ: Self = Self { pull: true, resolve: true, push: false };
}

/// Whom an endpoint's connections trust, and who this program says to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Trust {
    /// PEM files of private authorities, beside the host's usual ones.
    pub(super) authorities: Vec<PathBuf>,
    /// PEM files of a certificate and of its key, which may be one file.
    pub(super) client: Option<(PathBuf, PathBuf)>,
    /// Take any certificate.
    pub(super) anybody: bool,
}

/// One place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Host and port requests go to.
    pub(super) authority: String,
    /// Where logins for it are filed, and what it is called in messages.
    pub(super) account: String,
    /// The path before the repository's name, without a slash at its end.
    pub(super) root: String,
    /// What the repository is called there.
    pub(super) repository: String,
    /// The one way to speak to it, when configuration says so; TLS otherwise, and else see `plain`.
    pub(super) scheme: Option<Scheme>,
    /// Whether it may answer without TLS.
    pub(super) plain: bool,
    pub(super) trust: Trust,
    pub(super) can: Abilities,
    /// Headers sent to it, and nowhere else.
    pub(super) headers: Vec<(String, String)>,
    /// Bound on connecting; the client's when absent.
    pub(super) connect: Option<Duration>,
    /// The registry it stands in for, told with every request (containerd's `?ns=`).
    pub(super) namespace: Option<String>,
}

impl Endpoint {
    /// The registry `domain` itself.
    pub(super) fn of(domain: &str, repository: &str) -> Self {
        let authority = if domain == DEFAULT_DOMAIN { DOCKER_REGISTRY } else { domain };
        Self {
            authority: authority.to_owned(),
            account: domain.to_owned(),
            root: ROOT.to_owned(),
            repository: repository.to_owned(),
            scheme: None,
            plain: false,
            trust: Trust::default(),
            can: Abilities::ALL,
            headers: Vec::new(),
            connect: None,
            namespace: None,
        }
    }

    /// What `url` (or a bare host, with a path or not) is the address of. With `whole`, its path is all there is before
    /// the repository's name; otherwise the interface's own root follows it.
    pub(super) fn at(url: &str, repository: &str, whole: bool) -> Option<Self> {
        let (scheme, rest) = match url.split_once("://") {
            Some(("https", rest)) => (Some(Scheme::Https), rest),
            Some(("http", rest)) => (Some(Scheme::Http), rest),
            Some(_) => return None,
            None => (None, url),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = path.trim_matches('/');
        if authority.is_empty() || authority.contains(['@', '?', '#', ' ']) || path.contains(['?', '#', ' ']) {
            return None;
        }
        let above = if path.is_empty() { String::new() } else { format!("/{path}") };
        let root = if whole || above.ends_with(ROOT) { above } else { format!("{above}{ROOT}") };
        Some(Self { root, scheme, ..Self::of(&authority.to_ascii_lowercase(), repository) })
    }

    /// Lets a registry on this machine, or one declared `insecure`, answer without TLS or with a certificate nobody
    /// vouches for. An authority that is configured counts more than a loopback address.
    pub(super) fn relax(&mut self, insecure: bool) {
        let at_home = is_loopback_host(host_of(&self.authority)) && self.trust.authorities.is_empty();
        if insecure || at_home {
            self.plain = self.scheme.is_none();
            self.trust.anybody = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        let at = |url: &str, whole| Endpoint::at(url, "a/b", whole).map(|e| (e.authority, e.root, e.scheme));
        let owned = |host: &str, root: &str, scheme| Some((host.to_owned(), root.to_owned(), scheme));
        assert_eq!(at("https://M.example:5000", false), owned("m.example:5000", "/v2", Some(Scheme::Https)));
        assert_eq!(at("http://m.example/", false), owned("m.example", "/v2", Some(Scheme::Http)));
        assert_eq!(at("m.example/v2/", false), owned("m.example", "/v2", None));
        assert_eq!(at("https://m.example/proxy", false), owned("m.example", "/proxy/v2", Some(Scheme::Https)));
        assert_eq!(at("https://m.example/v2/proxy", true), owned("m.example", "/v2/proxy", Some(Scheme::Https)));
        for bad in ["", "ftp://x", "https://", "https://user@host", "https://host/?x", "/path"] {
            assert_eq!(at(bad, false), None, "{bad}");
        }
        let docker = Endpoint::of("docker.io", "library/x");
        assert_eq!((docker.authority.as_str(), docker.account.as_str()), (DOCKER_REGISTRY, "docker.io"));
    }

    #[test]
    fn only_what_is_here_or_declared_may_do_without_trust() {
        let relaxed = |domain: &str, insecure, authority: Option<&str>| {
            let mut endpoint = Endpoint::of(domain, "a");
            endpoint.trust.authorities = authority.map(PathBuf::from).into_iter().collect();
            endpoint.relax(insecure);
            (endpoint.plain, endpoint.trust.anybody)
        };
        assert_eq!(relaxed("localhost:5000", false, None), (true, true));
        assert_eq!(relaxed("localhost:5000", false, Some("ca.crt")), (false, false));
        assert_eq!(relaxed("reg.example", false, None), (false, false));
        assert_eq!(relaxed("reg.example", true, None), (true, true));
    }
}
