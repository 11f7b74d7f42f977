//! Debian's `docker-registry` on a port and a directory of its own, dead when dropped.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::image::Members;
use crate::process::tool;
use crate::wait;

/// A registry that serves plain HTTP on loopback.
pub struct Registry {
    dir: PathBuf,
    port: u16,
    child: Child,
    login: Option<(String, String)>,
}

impl Registry {
    /// Starts one with more of its own configuration: YAML, where `http` is taken but for what `tls` says.
    ///
    /// # Panics
    /// As [`Registry::start`].
    #[must_use]
    pub fn configured(tls: Option<&str>, more: &str) -> Self {
        Self::with(None, tls, more)
    }

    /// Starts one that lets everybody in.
    ///
    /// # Panics
    /// When `docker-registry` is missing or does not answer.
    #[must_use]
    pub fn start() -> Self {
        Self::with_login(None)
    }

    /// Starts one that wants this name and password.
    ///
    /// # Panics
    /// As [`Registry::start`], and when `htpasswd` is missing.
    #[must_use]
    pub fn with_password(name: &str, password: &str) -> Self {
        Self::with_login(Some((name.to_owned(), password.to_owned())))
    }

    fn with_login(login: Option<(String, String)>) -> Self {
        Self::with(login, None, "")
    }

    fn with(login: Option<(String, String)>, tls: Option<&str>, more: &str) -> Self {
        let port = free_port();
        // Not below the host's own directory by name: what holds on to that counts as left behind.
        let dir = std::env::temp_dir().join(format!("lighter-registry-{}-{port}", std::process::id()));
        std::fs::create_dir_all(dir.join("data")).expect("make the registry's directory");
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"127.0.0.1:{port}\"{}}}\n{more}",
            dir.join("data").display(),
            tls.map(|tls| format!(", tls: {{{tls}}}")).unwrap_or_default()
        );
        if let Some((name, password)) = &login {
            let file = dir.join("htpasswd");
            std::fs::write(&file, tool("htpasswd", &["-Bbn", name, password])).expect("write the password file");
            config += &format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", file.display());
        }
        std::fs::write(dir.join("config.yml"), config).expect("write the registry's configuration");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(dir.join("config.yml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("no docker-registry: install Debian's package (`cargo xtask test` does)");
        let registry = Self { dir, port, child, login };
        wait::until("the registry answers", Duration::from_secs(20), || {
            TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(())
        });
        registry
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `127.0.0.1:PORT/NAME`.
    #[must_use]
    pub fn reference(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }

    /// Pushes an unpacked or packed image with skopeo: `source` is a skopeo transport name such as `oci:/dir:tag`.
    ///
    /// # Panics
    /// When the push fails.
    pub fn push(&self, source: &str, name: &str) {
        let login = self.login.as_ref().map(|(name, password)| format!("{name}:{password}"));
        let mut args = vec!["--insecure-policy", "copy", "--quiet", "--all", "--dest-tls-verify=false"];
        if let Some(login) = &login {
            args.extend(["--dest-creds", login]);
        }
        let target = format!("docker://{}", self.reference(name));
        args.extend([source, &target]);
        tool("skopeo", &args);
    }

    /// Pushes an OCI layout made by the testkit.
    ///
    /// # Panics
    /// As [`Registry::push`].
    pub fn push_layout(&self, layout: &Members, name: &str) {
        let dir = self.dir.join(format!("push-{}", name.replace(['/', ':'], "-")));
        layout.write_below(&dir);
        self.push(&format!("oci:{}", dir.display()), name);
    }

    /// Where the registry keeps its blobs.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.dir
    }

    /// The file that holds the blob of this digest, to be spoiled.
    #[must_use]
    pub fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        self.dir.join(format!("data/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        drop(std::fs::remove_dir_all(&self.dir));
    }
}

/// A port that nobody listens on at this moment.
///
/// # Panics
/// When loopback has none left.
#[must_use]
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}
