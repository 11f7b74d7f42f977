//! `login` and `logout`, and who to be at a registry.

use image::registry::{Client, ConfigFile, Credentials, Kept, Login, Options};

use super::LoginKept;
use crate::{Engine, Error, ErrorKind, Result};

impl Engine {
    /// How to speak to `registry` (host and port): with the login that is kept for it.
    pub(crate) fn registry_options(&self, registry: &str, insecure: bool) -> Result<Options> {
        let credentials = match &self.paths.logins {
            Some(path) => ConfigFile::new(path).credentials(registry)?,
            None => Credentials::default(),
        };
        Ok(Options { credentials, insecure, ..Options::default() })
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
        let credentials = ConfigFile::new(path).credentials(registry)?;
        Ok(credentials.get(registry).map(|login| login.username.clone()))
    }

    /// Asks `registry` whether it accepts the login that is kept for it.
    ///
    /// # Errors
    /// [`ErrorKind::Registry`] when it does not.
    pub fn check_login(&self, registry: &str) -> Result<()> {
        Ok(Client::check_login(registry, self.registry_options(registry, false)?)?)
    }

    /// Asks `registry` whether it accepts this name and password, and keeps them if so.
    ///
    /// # Errors
    /// [`ErrorKind::Registry`] when it does not; those of writing docker's `config.json`, or the helper's.
    pub fn login(&self, registry: &str, username: &str, password: &str) -> Result<LoginKept> {
        let mut credentials = Credentials::default();
        credentials.insert(registry, username, password);
        Client::check_login(registry, Options { credentials, ..Options::default() })?;
        let login = Login { username: username.to_owned(), password: password.to_owned() };
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
