//! Credentials, each bound to one registry.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oci::reference::DEFAULT_DOMAIN;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use serde::Deserialize;

use crate::content::read_bounded;
use crate::{Error, Result};

/// Largest `config.json` read, in bytes.
const CONFIG_MAX: u64 = 1 << 20;
const WHAT: &str = "docker's config.json";

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
        // The reason is not repeated: it could quote a password.
        let config: Config = serde_json::from_slice(bytes).map_err(|e| {
            Error::malformed(WHAT, format!("line {} column {} is not as it should be", e.line(), e.column()))
        })?;
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

impl Login {
    /// The value of an `Authorization` header.
    pub(super) fn basic(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.username, self.password)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
