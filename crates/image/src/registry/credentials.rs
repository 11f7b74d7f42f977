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

use super::credential_store::Helper;
use crate::content::{random_name, read_bounded};
use crate::{Error, Result};

/// Largest `config.json` read, in bytes.
const CONFIG_MAX: u64 = 1 << 20;
const WHAT: &str = "docker's config.json";
/// Under which Docker's own registry is filed.
const DOCKER_KEY: &str = "https://index.docker.io/v1/";

/// A user name and a password. Never shown, not even by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// User name.
    pub username: String,
    /// Password or access token.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(…)")
    }
}

/// Logins by registry.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    by_registry: BTreeMap<String, Login>,
}

impl Credentials {
    /// Reads `auths` of a docker `config.json`. A missing file has no credentials; helpers it names are not executed.
    ///
    /// # Errors
    /// When the file cannot be read, or is not such a file.
    pub fn from_docker_config(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Self::default()),
            Err(errno) => return Err(sys::Error::new("openat", path.display(), errno).into()),
        };
        Self::parse(&read_bounded(&mut File::from(fd), CONFIG_MAX, WHAT)?)
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
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
        }
        let config: Config = serde_json::from_slice(bytes).map_err(|e| unlike(&e))?;
        let mut credentials = Self::default();
        for (registry, auth) in config.auths.unwrap_or_default() {
            if let Some(encoded) = auth.auth.filter(|encoded| !encoded.is_empty()) {
                let bad = || Error::malformed(WHAT, format!("the auth of {registry:?} is not base64 of user:password"));
                let decoded = STANDARD.decode(encoded.trim()).map_err(|_| bad())?;
                let decoded = String::from_utf8(decoded).map_err(|_| bad())?;
                let (username, password) = decoded.split_once(':').ok_or_else(bad)?;
                // Docker pads old entries with NUL.
                credentials.insert(&registry, username, password.trim_end_matches('\0'));
            } else if let (Some(username), Some(password)) = (auth.username, auth.password) {
                credentials.insert(&registry, &username, &password);
            }
        }
        Ok(credentials)
    }

    /// Adds a login. `registry` is a host with an optional port, or a URL of one.
    pub fn insert(&mut self, registry: &str, username: &str, password: &str) {
        let login = Login { username: username.to_owned(), password: password.to_owned() };
        self.by_registry.insert(normalise(registry), login);
    }

    /// The login for `registry`, exactly: ports count.
    #[must_use]
    pub fn get(&self, registry: &str) -> Option<&Login> {
        self.by_registry.get(&normalise(registry))
    }
}

fn normalise(registry: &str) -> String {
    let rest = registry.strip_prefix("https://").or_else(|| registry.strip_prefix("http://")).unwrap_or(registry);
    let host = rest.split('/').next().unwrap_or_default().to_ascii_lowercase();
    match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" => DEFAULT_DOMAIN.to_owned(),
        _ => host,
    }
}

/// Docker's `config.json`, where logins are kept, and the helpers it names.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    path: PathBuf,
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
    /// The file at `path`, which need not be there.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// The logins to use with `registry` (host and port): its helper's, or else the file's.
    ///
    /// # Errors
    /// The file cannot be read or is not such a file; the helper fails.
    pub fn credentials(&self, registry: &str) -> Result<Credentials> {
        let mut credentials = Credentials::from_docker_config(&self.path)?;
        if let Some(helper) = helper(&self.read()?, registry)?
            && let Some(login) = helper.get(&key(registry))?
        {
            credentials.insert(registry, &login.username, &login.password);
        }
        Ok(credentials)
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
            None => serde_json::json!({"auth": STANDARD.encode(format!("{}:{}", login.username, login.password))}),
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
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = match rustix::fs::openat(CWD, &self.path, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Map::new()),
            Err(errno) => return Err(sys::Error::new("openat", self.path.display(), errno).into()),
        };
        let bytes = read_bounded(&mut File::from(fd), CONFIG_MAX, WHAT)?;
        if bytes.trim_ascii().is_empty() {
            return Ok(Map::new());
        }
        serde_json::from_slice(&bytes).map_err(|e| unlike(&e))
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
    /// The value of an `Authorization` header.
    pub(super) fn basic(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.username, self.password)))
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
        let credentials = Credentials::parse(json).expect("valid");
        let login = credentials.get("docker.io").expect("present");
        assert_eq!((login.username.as_str(), login.password.as_str()), ("u", "p:q"));
        assert_eq!(login.basic(), "Basic dTpwOnE=");
        assert!(credentials.get("reg.example:5000").is_some());
        for other in ["reg.example", "reg.example:5001", "empty.example", "example:5000", ""] {
            assert!(credentials.get(other).is_none(), "{other}");
        }
        assert!(!format!("{credentials:?}").contains('q'), "a password must not be printed");
    }

    #[test]
    fn logins_come_and_go_and_the_rest_stays() {
        let dir = TempDir::new("logins");
        let path = dir.path().join("docker/config.json");
        let file = ConfigFile::new(&path);
        let login = Login { username: "ann".to_owned(), password: "s:t".to_owned() };
        assert_eq!(file.store("docker.io", &login).expect("stored"), Kept::File(path.clone()));
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).expect("there")).expect("JSON");
        assert_eq!(config["auths"][DOCKER_KEY]["auth"], STANDARD.encode("ann:s:t"));
        config["psFormat"] = "kept".into();
        std::fs::write(&path, config.to_string()).expect("written");
        file.store("reg.example:5000", &login).expect("stored");
        let credentials = file.credentials("reg.example:5000").expect("read");
        assert_eq!(credentials.get("reg.example:5000"), Some(&login));
        assert_eq!(credentials.get("docker.io"), Some(&login));
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
            let error = Credentials::parse(bad).expect_err("invalid").to_string();
            assert!(!error.contains("secret") && !error.contains("c2Vj"), "{error}");
        }
        assert!(Credentials::from_docker_config(Path::new("/nonexistent/config.json")).is_ok());
    }
}
