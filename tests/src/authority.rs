//! A certificate authority of a test's own, by the `openssl` program.

use std::path::{Path, PathBuf};

use crate::process::tool;

/// The authority and all it issues, in a directory of the test's.
pub struct Authority {
    dir: PathBuf,
}

/// Without it, the program's own configuration would add extensions.
const CONFIG: &str = "[req]\ndistinguished_name=dn\n[dn]\n";

impl Authority {
    /// A new one, with its files in `dir`.
    ///
    /// # Panics
    /// When `openssl` is missing.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        std::fs::write(dir.join("openssl.cnf"), CONFIG).expect("write openssl's configuration");
        let authority = Self { dir };
        authority.issue("ca", &["basicConstraints=critical,CA:TRUE", "keyUsage=keyCertSign"], false);
        authority
    }

    /// A certificate for a server with these names (`DNS:…`, `IP:…`), and its key.
    #[must_use]
    pub fn server(&self, name: &str, names: &str) -> (PathBuf, PathBuf) {
        let names = format!("subjectAltName={names}");
        self.issue(name, &["basicConstraints=critical,CA:FALSE", "extendedKeyUsage=serverAuth", &names], true)
    }

    /// A certificate for a client, and its key.
    #[must_use]
    pub fn client(&self, name: &str) -> (PathBuf, PathBuf) {
        let names = format!("subjectAltName=DNS:{name}");
        self.issue(name, &["basicConstraints=critical,CA:FALSE", "extendedKeyUsage=clientAuth", &names], true)
    }

    /// The authority's own certificate.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// Signs by the authority's key, RSA with SHA-256.
    ///
    /// # Panics
    /// When `openssl` fails.
    #[must_use]
    pub fn sign(&self, text: &str) -> Vec<u8> {
        let (input, output) = (self.dir.join("signed.txt"), self.dir.join("signature"));
        std::fs::write(&input, text).expect("write what is to be signed");
        let key = self.dir.join("ca.key");
        tool("openssl", &["dgst", "-sha256", "-sign", of(&key), "-out", of(&output), of(&input)]);
        std::fs::read(&output).expect("read the signature")
    }

    /// The authority's certificate without PEM's wrapping: base64 of DER.
    ///
    /// # Panics
    /// When it is not there.
    #[must_use]
    pub fn bare(&self) -> String {
        let pem = std::fs::read_to_string(self.certificate()).expect("read the certificate");
        pem.lines().filter(|line| !line.starts_with("-----")).collect()
    }

    fn issue(&self, name: &str, extensions: &[&str], by_authority: bool) -> (PathBuf, PathBuf) {
        let (certificate, key) = (self.dir.join(format!("{name}.crt")), self.dir.join(format!("{name}.key")));
        let (config, subject) = (self.dir.join("openssl.cnf"), format!("/CN={name}"));
        let (ca, ca_key) = (self.dir.join("ca.crt"), self.dir.join("ca.key"));
        let mut args = vec!["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-config", of(&config)];
        args.extend(["-subj", &subject, "-keyout", of(&key), "-out", of(&certificate)]);
        for extension in extensions {
            args.extend(["-addext", extension]);
        }
        if by_authority {
            args.extend(["-CA", of(&ca), "-CAkey", of(&ca_key)]);
        }
        tool("openssl", &args);
        (certificate, key)
    }
}

fn of(path: &Path) -> &str {
    path.to_str().expect("the test's paths are UTF-8")
}
