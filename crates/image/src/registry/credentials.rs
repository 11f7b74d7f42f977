//! Credentials, each bound to one registry.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oci::reference::DEFAULT_DOMAIN;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use serde::Deserialize;
use serde_json::{Map, Value};
use sys::Context;

use super::Proxies;
use super::credential_store::Helper;
use crate::content::{random_name, read_bounded};
use crate::{Error, Result};

/// Largest `config.json` read, in bytes.
const CONFIG_MAX: u64 = 1 << 20;
const WHAT: &str = "docker's config.json";
/// Under which Docker's own registry is filed.
const DOCKER_KEY: &str = "https://index.docker.io/v1/";

/// Who to be at a registry. Never shown, not even by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// User name; may be empty beside a token.
    pub username: String,
    /// What proves it.
    pub secret: Secret,
}

/// What proves who somebody is.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// Password or personal access token.
    Password(String),
    /// What a token server gave instead of the password (docker's `identitytoken`, OAuth's refresh token).
    IdentityToken(String),
    /// A token for the registry itself (docker's `registrytoken`).
    RegistryToken(String),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(…)")
    }
}

/// Logins by registry: some that are known, and files to look in when one is needed.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    by_registry: BTreeMap<String, Login>,
    files: Vec<ConfigFile>,
}

impl Credentials {
    /// Those of `files`, the first that has a login for a registry counting. Nothing is read, and no helper executed,
    /// before a registry asks for a login.
    #[must_use]
    pub fn in_files(files: Vec<ConfigFile>) -> Self {
        Self { by_registry: BTreeMap::new(), files }
    }

    /// Adds a login with a password. `registry` is a host with an optional port, or a URL of one.
    pub fn insert(&mut self, registry: &str, username: &str, password: &str) {
        let login = Login { username: username.to_owned(), secret: Secret::Password(password.to_owned()) };
        self.by_registry.insert(normalise(registry), login);
    }

    /// The login for a repository of `registry`, exactly: ports count.
    ///
    /// # Errors
    /// A file cannot be read or is not such a file; a credential helper fails.
    pub fn find(&self, registry: &str, repository: &str) -> Result<Option<Login>> {
        if let Some(login) = self.by_registry.get(&normalise(registry)) {
            return Ok(Some(login.clone()));
        }
        for file in &self.files {
            if let Some(login) = file.login(registry, repository)? {
                return Ok(Some(login));
            }
        }
        Ok(None)
    }
}

/// The logins in `auths`, by registry, or with `paths` by whatever they are filed under.
pub(super) fn parse(bytes: &[u8], paths: bool) -> Result<BTreeMap<String, Login>> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        auths: Option<BTreeMap<String, Auth>>,
    }
    #[derive(Deserialize)]
    struct Auth {
        #[serde(default)]
        auth: Option<String>,
        #[serde(default)]
        username: Option<String>,
        #[serde(default)]
        password: Option<String>,
        #[serde(default)]
        identitytoken: Option<String>,
        #[serde(default)]
        registrytoken: Option<String>,
    }
    if bytes.trim_ascii().is_empty() {
        return Ok(BTreeMap::new());
    }
    let config: Config = serde_json::from_slice(bytes).map_err(|e| unlike(&e))?;
    let mut logins = BTreeMap::new();
    for (registry, auth) in config.auths.unwrap_or_default() {
        let said = |value: Option<String>| value.filter(|value| !value.is_empty());
        let (mut username, mut password) = (auth.username, auth.password);
        if let Some(encoded) = said(auth.auth) {
            let bad = || Error::malformed(WHAT, format!("the auth of {registry:?} is not base64 of user:password"));
            let decoded = STANDARD.decode(encoded.trim()).map_err(|_| bad())?;
            let decoded = String::from_utf8(decoded).map_err(|_| bad())?;
            let (name, secret) = decoded.split_once(':').ok_or_else(bad)?;
            // Docker pads old entries with NUL.
            username = Some(name.to_owned());
            password = Some(secret.trim_end_matches('\0').to_owned());
        }
        let secret = match (said(auth.registrytoken), said(auth.identitytoken), said(password)) {
            (Some(token), _, _) => Secret::RegistryToken(token),
            (None, Some(token), _) => Secret::IdentityToken(token),
            (None, None, Some(password)) if username.is_some() => Secret::Password(password),
            _ => continue,
        };
        let key = if paths { without_scheme(&registry).to_owned() } else { normalise(&registry) };
        logins.insert(key, Login { username: username.unwrap_or_default(), secret });
    }
    Ok(logins)
}

fn without_scheme(registry: &str) -> &str {
    registry.strip_prefix("https://").or_else(|| registry.strip_prefix("http://")).unwrap_or(registry)
}

fn normalise(registry: &str) -> String {
    let host = without_scheme(registry).split('/').next().unwrap_or_default().to_ascii_lowercase();
    match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" => DEFAULT_DOMAIN.to_owned(),
        _ => host,
    }
}

/// Docker's `config.json` or containers' `auth.json`, where logins are kept, and the helpers it names.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    path: PathBuf,
    /// Whether entries may be for a part of a registry (containers-auth.json(5)).
    paths: bool,
}

/// Where a login was put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// In the file, for everybody to read who can read that.
    File(PathBuf),
    /// With a credential helper.
    Helper,
}

impl ConfigFile {
    /// Docker's file at `path`, which need not be there.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), paths: false }
    }

    /// containers' `auth.json` at `path`, which need not be there.
    #[must_use]
    pub fn of_containers(path: &Path) -> Self {
        Self { path: path.to_owned(), paths: true }
    }

    /// The login to use with a repository of `registry` (host and port): its helper's, or else the file's, where the
    /// entry for the most of the repository's path counts.
    ///
    /// # Errors
    /// The file cannot be read or is not such a file; the helper fails.
    pub fn login(&self, registry: &str, repository: &str) -> Result<Option<Login>> {
        let bytes = self.bytes()?;
        if let Some(helper) = helper(&as_object(&bytes)?, registry)?
            && let Some(login) = helper.get(&key(registry))?
        {
            return Ok(Some(login));
        }
        let mut logins = parse(&bytes, self.paths)?;
        if self.paths {
            let name = format!("{}/{repository}", normalise(registry));
            // The whole name, then without its last component, and so on.
            let ends = std::iter::once(name.len()).chain(name.rmatch_indices('/').map(|(end, _)| end));
            for end in ends {
                if let Some(login) = logins.remove(&name[..end]) {
                    return Ok(Some(login));
                }
            }
        }
        Ok(logins
            .into_iter()
            .find(|(known, _)| normalise(known) == normalise(registry) && is_host(known))
            .map(|(_, login)| login))
    }

    /// The proxies that the file has for containers (`proxies.default`), for want of better ones.
    ///
    /// # Errors
    /// As [`ConfigFile::login`].
    pub fn proxies(&self) -> Result<Proxies> {
        let config = self.read()?;
        let default = config.get("proxies").and_then(|proxies| proxies.get("default"));
        let said = |key: &str| default?.get(key)?.as_str().filter(|value| !value.is_empty()).map(str::to_owned);
        Ok(Proxies { http: said("httpProxy"), https: said("httpsProxy"), except: said("noProxy").unwrap_or_default() })
    }

    /// Keeps `login` for `registry`: with its helper, or else in the file, whose other content stays.
    ///
    /// # Errors
    /// As [`ConfigFile::credentials`], and those of writing.
    pub fn store(&self, registry: &str, login: &Login) -> Result<Kept> {
        let mut config = self.read()?;
        let helper = helper(&config, registry)?;
        let entry = match &helper {
            Some(helper) => {
                helper.store(&key(registry), login)?;
                Value::Object(Map::new())
            }
            None => match &login.secret {
                Secret::Password(password) => {
                    serde_json::json!({"auth": STANDARD.encode(format!("{}:{password}", login.username))})
                }
                Secret::IdentityToken(token) => serde_json::json!({
                    "auth": STANDARD.encode(format!("{}:", login.username)), "identitytoken": token,
                }),
                Secret::RegistryToken(token) => serde_json::json!({"registrytoken": token}),
            },
        };
        let mut auths = take_auths(&mut config);
        auths.insert(key(registry), entry);
        config.insert("auths".to_owned(), Value::Object(auths));
        self.write(&config)?;
        Ok(if helper.is_some() { Kept::Helper } else { Kept::File(self.path.clone()) })
    }

    /// Forgets the login for `registry`; false when there was none.
    ///
    /// # Errors
    /// As [`ConfigFile::store`].
    pub fn erase(&self, registry: &str) -> Result<bool> {
        let mut config = self.read()?;
        let mut auths = take_auths(&mut config);
        let before = auths.len();
        auths.retain(|known, _| normalise(known) != normalise(registry));
        let was_there = auths.len() < before;
        config.insert("auths".to_owned(), Value::Object(auths));
        if let Some(helper) = helper(&config, registry)? {
            helper.erase(&key(registry))?;
        }
        if was_there {
            self.write(&config)?;
        }
        Ok(was_there)
    }

    fn read(&self) -> Result<Map<String, Value>> {
        as_object(&self.bytes()?)
    }

    /// What the file says; nothing when it is missing.
    fn bytes(&self) -> Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = match rustix::fs::openat(CWD, &self.path, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
            Err(errno) => return Err(sys::Error::new("openat", self.path.display(), errno).into()),
        };
        read_bounded(&mut File::from(fd), CONFIG_MAX, WHAT)
    }

    /// Replaces the file, or what it is a link to, by one that only its owner reads.
    fn write(&self, config: &Map<String, Value>) -> Result<()> {
        let path = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let dir = path.parent().unwrap_or(Path::new("."));
        let mut builder = std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(builder.recursive(true), 0o700)
            .create(dir)
            .at("mkdir", dir.display())?;
        let mut bytes = Vec::new();
        let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        serde::Serialize::serialize(config, &mut serde_json::Serializer::with_formatter(&mut bytes, tabs))
            .map_err(|e| unlike(&e))?;
        let temp = dir.join(format!("config.json.{}", random_name()?));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, &temp, flags, Mode::RUSR | Mode::WUSR).at("openat", temp.display())?;
        let mut file = File::from(fd);
        let written = file.write_all(&bytes).at("write", temp.display()).and_then(|()| {
            rustix::fs::fsync(&file).at("fsync", temp.display())?;
            rustix::fs::rename(&temp, &path).at("rename", path.display())
        });
        if let Err(error) = written {
            // The failure above is the one to tell.
            let _ = rustix::fs::unlink(&temp);
            return Err(error.into());
        }
        let dir_fd = rustix::fs::openat(CWD, dir, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        Ok(rustix::fs::fsync(dir_fd.at("openat", dir.display())?).at("fsync", dir.display())?)
    }
}

fn as_object(bytes: &[u8]) -> Result<Map<String, Value>> {
    if bytes.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_slice(bytes).map_err(|e| unlike(&e))
}

/// Whether a login is filed under a registry, not under a part of one. Docker files its own under a URL with a version.
fn is_host(known: &str) -> bool {
    without_scheme(known).split_once('/').is_none_or(|(_, rest)| matches!(rest, "" | "v1/" | "v1" | "v2/" | "v2"))
}

/// The reason is not repeated: it could quote a password.
fn unlike(error: &serde_json::Error) -> Error {
    Error::malformed(WHAT, format!("line {} column {} is not as it should be", error.line(), error.column()))
}

/// What `registry` is filed under.
fn key(registry: &str) -> String {
    let registry = normalise(registry);
    if registry == DEFAULT_DOMAIN { DOCKER_KEY.to_owned() } else { registry }
}

/// Takes the logins out, to be changed and put back.
fn take_auths(config: &mut Map<String, Value>) -> Map<String, Value> {
    match config.remove("auths") {
        Some(Value::Object(auths)) => auths,
        _ => Map::new(),
    }
}

/// The helper for `registry`: its own, or the one for all.
fn helper(config: &Map<String, Value>, registry: &str) -> Result<Option<Helper>> {
    let own = config.get("credHelpers").and_then(Value::as_object).into_iter().flatten();
    let own =
        own.filter(|(known, _)| normalise(known) == normalise(registry)).filter_map(|(_, name)| name.as_str()).next();
    let name = own.or_else(|| config.get("credsStore").and_then(Value::as_str)).filter(|name| !name.is_empty());
    name.map(Helper::new).transpose()
}

impl Login {
    /// The value of an `Authorization` header with the password, if this is one.
    pub(super) fn basic(&self) -> Option<String> {
        match &self.secret {
            Secret::Password(password) => Some(self.encoded(password)),
            Secret::IdentityToken(_) | Secret::RegistryToken(_) => None,
        }
    }

    /// The same, with an identity token in the password's place: some token servers take it there.
    pub(super) fn basic_or_token(&self) -> Option<String> {
        match &self.secret {
            Secret::Password(secret) | Secret::IdentityToken(secret) => Some(self.encoded(secret)),
            Secret::RegistryToken(_) => None,
        }
    }

    fn encoded(&self, secret: &str) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{secret}", self.username)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn logins_belong_to_one_registry() {
        let json = br#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpwOnE="},"reg.example:5000":{"username":"a","password":"b"},
            "empty.example":{}},"credsStore":"desktop"}"#;
        let credentials = Credentials { by_registry: parse(json, false).expect("valid"), files: Vec::new() };
        let find = |registry: &str| credentials.find(registry, "a/b").expect("no file");
        let login = find("docker.io").expect("present");
        assert_eq!(login, Login { username: "u".to_owned(), secret: Secret::Password("p:q".to_owned()) });
        assert_eq!(login.basic().as_deref(), Some("Basic dTpwOnE="));
        assert!(find("reg.example:5000").is_some());
        for other in ["reg.example", "reg.example:5001", "empty.example", "example:5000", ""] {
            assert!(find(other).is_none(), "{other}");
        }
        assert!(!format!("{credentials:?}").contains("p:q"), "a password must not be printed");
    }

    #[test]
    fn tokens_are_told_from_passwords() {
        let json =
            br#"{"auths":{"a.example":{"auth":"YW5uOg==","identitytoken":"idt"},"b.example":{"registrytoken":"rt"},
            "c.example":{"username":"x"}}}"#;
        let logins = parse(json, false).expect("valid");
        assert_eq!(logins.len(), 2);
        let ann = &logins["a.example"];
        assert_eq!((ann.username.as_str(), &ann.secret), ("ann", &Secret::IdentityToken("idt".to_owned())));
        assert_eq!((ann.basic(), ann.basic_or_token().as_deref()), (None, Some("Basic YW5uOmlkdA==")));
        assert_eq!(logins["b.example"].secret, Secret::RegistryToken("rt".to_owned()));
    }

    #[test]
    fn the_most_of_a_path_counts() {
        let dir = TempDir::new("auth-json");
        let path = dir.path().join("auth.json");
        let auth = |name: &str| serde_json::json!({"auth": STANDARD.encode(format!("{name}:p"))});
        let config = serde_json::json!({"auths": {
            "reg.example": auth("all"), "reg.example/team": auth("team"), "reg.example/team/app": auth("app"),
            "other.example/team": auth("other"), "https://index.docker.io/v1/": auth("hub"),
        }});
        std::fs::write(&path, config.to_string()).expect("written");
        let file = ConfigFile::of_containers(&path);
        let name = |registry: &str, repository: &str| {
            file.login(registry, repository).expect("read").map(|login| login.username)
        };
        assert_eq!(name("reg.example", "team/app").as_deref(), Some("app"));
        assert_eq!(name("reg.example", "team/web").as_deref(), Some("team"));
        assert_eq!(name("reg.example", "teams").as_deref(), Some("all"));
        assert_eq!(name("other.example", "x"), None);
        assert_eq!(name("docker.io", "library/x").as_deref(), Some("hub"));
    }

    #[test]
    fn logins_come_and_go_and_the_rest_stays() {
        let dir = TempDir::new("logins");
        let path = dir.path().join("docker/config.json");
        let file = ConfigFile::new(&path);
        let login = Login { username: "ann".to_owned(), secret: Secret::Password("s:t".to_owned()) };
        assert_eq!(file.store("docker.io", &login).expect("stored"), Kept::File(path.clone()));
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).expect("there")).expect("JSON");
        assert_eq!(config["auths"][DOCKER_KEY]["auth"], STANDARD.encode("ann:s:t"));
        config["psFormat"] = "kept".into();
        std::fs::write(&path, config.to_string()).expect("written");
        file.store("reg.example:5000", &login).expect("stored");
        for registry in ["reg.example:5000", "docker.io"] {
            assert_eq!(file.login(registry, "a").expect("read"), Some(login.clone()));
        }
        assert!(file.erase("docker.io").expect("erased"));
        assert!(!file.erase("docker.io").expect("erased"));
        let config: Value = serde_json::from_slice(&std::fs::read(&path).expect("there")).expect("JSON");
        assert_eq!(config["psFormat"], "kept");
        assert!(config["auths"].as_object().expect("an object").len() == 1);
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).expect("there"));
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path().join("docker")).expect("a directory").count(), 1);
    }

    #[test]
    fn errors_do_not_quote_secrets() {
        for bad in [
            &br#"{"auths":{"r":{"auth":"c2VjcmV0"}}}"#[..],
            br#"{"auths":{"r":{"auth":"secret!"}}}"#,
            br#"{"auths":"secret"}"#,
        ] {
            let error = parse(bad, false).expect_err("invalid").to_string();
            assert!(!error.contains("secret") && !error.contains("c2Vj"), "{error}");
        }
        let absent = ConfigFile::new(Path::new("/nonexistent/config.json"));
        assert!(absent.login("reg.example", "a").expect("no file, no login").is_none());
    }
}
