//! `login` and `logout`, and who to be at a registry.

use std::path::PathBuf;

use image::registry::{Client, ConfigFile, Configuration, Credentials, Kept, Login, Options, Places, Proxies, Secret};

use oci::Reference;
use oci::reference::DEFAULT_DOMAIN;

use super::{LoginKept, SearchHit, SearchOptions};
use crate::{Engine, Error, ErrorKind, Result};

/// How many results a search gives when nothing is said, and at most: docker's bounds.
const SEARCH_LIMIT: u64 = 25;
const SEARCH_MAX: u64 = 100;

impl Engine {
    /// How to speak to registries: as this host and its user have configured it, with the logins that are kept.
    pub(crate) fn registry_options(&self, insecure: bool) -> Result<Options> {
        let configuration = Configuration::read(&Places::of_host())?;
        let docker = self.paths.logins.as_ref().map(|path| ConfigFile::new(path));
        let mut proxies = Proxies::of_environment().or(configuration.proxies());
        if let Some(docker) = &docker {
            proxies = proxies.or(docker.proxies()?);
        }
        let files = docker.into_iter().chain(containers_logins()).collect();
        let credentials = Credentials::in_files(files);
        let mut options = Options { credentials, insecure, proxies, ..Options::default() };
        configuration.tune(&mut options);
        options.configuration = configuration;
        Ok(options)
    }

    /// What `name` is short for, by the aliases of containers' tools where our configuration wants them; otherwise
    /// itself, as docker reads it.
    ///
    /// # Errors
    /// Configuration that cannot be understood.
    pub fn long_name(&self, name: &str) -> Result<String> {
        let end = name.find(['@', ':']).unwrap_or(name.len());
        let (short, rest) = name.split_at(end);
        if short.contains('/') {
            return Ok(name.to_owned());
        }
        let configuration = Configuration::read(&Places::of_host())?;
        Ok(configuration.alias(short).map_or_else(|| name.to_owned(), |long| format!("{long}{rest}")))
    }

    /// The repository with each of the tags it has on its registry.
    ///
    /// # Errors
    /// [`ErrorKind::Registry`].
    pub fn tags_on_registry(&self, repository: &Reference, insecure: bool) -> Result<Vec<Reference>> {
        let tags = Client::new(repository, self.registry_options(insecure)?)?.tags()?;
        // A tag that is none is the registry's mistake; it cannot be asked for.
        Ok(tags.iter().filter_map(|tag| repository.with_tag(tag).ok()).collect())
    }

    /// What a registry finds for `term`: Docker's, or the one that `term` begins with (`HOST[:PORT]/TERM`).
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a limit out of bounds; [`ErrorKind::Registry`]; [`ErrorKind::Unsupported`] when the
    /// registry can neither search nor list what it has.
    pub fn search(&self, term: &str, options: &SearchOptions) -> Result<Vec<SearchHit>> {
        let limit = options.limit.unwrap_or(SEARCH_LIMIT);
        if !(1..=SEARCH_MAX).contains(&limit) {
            let sentence = format!("limit {limit} is outside the range of [1, {SEARCH_MAX}]");
            return Err(Error::new(ErrorKind::Invalid, sentence).hint("--limit takes a number from 1 to 100"));
        }
        if term.contains("://") {
            let sentence = format!("invalid repository name ({term}): a name has no scheme");
            return Err(Error::new(ErrorKind::Invalid, sentence).hint("write HOST[:PORT]/TERM"));
        }
        // As in an image's name, a first part with a dot or a port is a registry.
        let (registry, words) = match term.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest),
            _ => (DEFAULT_DOMAIN, term),
        };
        let registry = if registry == "index.docker.io" { DEFAULT_DOMAIN } else { registry };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let found = Client::search(registry, self.registry_options(false)?, words, limit)?;
        let fits = |hit: &image::registry::Hit| {
            options.official.is_none_or(|wanted| hit.official == wanted)
                && options.automated.is_none_or(|wanted| hit.automated == wanted)
                && hit.stars >= options.stars
        };
        let hit = |hit: image::registry::Hit| SearchHit {
            name: hit.name,
            description: hit.description,
            stars: hit.stars,
            official: hit.official,
            automated: hit.automated,
        };
        Ok(found.into_iter().filter(fits).map(hit).collect())
    }

    fn logins(&self) -> Result<ConfigFile> {
        let path = self.paths.logins.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Invalid, "there is no place to keep logins")
                .hint("set HOME, or DOCKER_CONFIG to a directory")
        })?;
        Ok(ConfigFile::new(path))
    }

    /// The user name of the login kept for `registry`, if there is one.
    ///
    /// # Errors
    /// Docker's `config.json` cannot be read; a credential helper fails.
    pub fn login_name(&self, registry: &str) -> Result<Option<String>> {
        let Some(path) = &self.paths.logins else { return Ok(None) };
        Ok(ConfigFile::new(path).login(registry, "")?.map(|login| login.username))
    }

    /// Asks `registry` whether it accepts the login that is kept for it.
    ///
    /// # Errors
    /// [`ErrorKind::Registry`] when it does not.
    pub fn check_login(&self, registry: &str) -> Result<()> {
        Ok(Client::check_login(registry, self.registry_options(false)?).map(drop)?)
    }

    /// Asks `registry` whether it accepts this name and password, and keeps them if so: in the password's place the
    /// identity token that some registries give for it.
    ///
    /// # Errors
    /// [`ErrorKind::Registry`] when it does not; those of writing docker's `config.json`, or the helper's.
    pub fn login(&self, registry: &str, username: &str, password: &str) -> Result<LoginKept> {
        let mut credentials = Credentials::default();
        credentials.insert(registry, username, password);
        let identity = Client::check_login(registry, Options { credentials, ..self.registry_options(false)? })?;
        let secret = identity.map_or_else(|| Secret::Password(password.to_owned()), Secret::IdentityToken);
        let login = Login { username: username.to_owned(), secret };
        Ok(match self.logins()?.store(registry, &login)? {
            Kept::File(path) => LoginKept::File(path),
            Kept::Helper => LoginKept::Helper,
        })
    }

    /// Forgets the login kept for `registry`; false when there was none.
    ///
    /// # Errors
    /// As [`Engine::login`].
    pub fn logout(&self, registry: &str) -> Result<bool> {
        Ok(self.logins()?.erase(registry)?)
    }
}

/// Where containers' tools keep logins, in the order in which they look (containers-auth.json(5)).
fn containers_logins() -> Vec<ConfigFile> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let config = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
    let running = set("XDG_RUNTIME_DIR").map_or_else(
        || PathBuf::from(format!("/run/containers/{}/auth.json", rustix::process::geteuid().as_raw())),
        |dir| dir.join("containers/auth.json"),
    );
    [set("REGISTRY_AUTH_FILE"), Some(running), config.map(|dir| dir.join("containers/auth.json"))]
        .into_iter()
        .flatten()
        .map(|path| ConfigFile::of_containers(&path))
        .collect()
}
