//! Whom connections trust: the host's authorities, private ones, client certificates.

use std::path::Path;

use rustix::io::Errno;
use sys::Context;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use super::endpoint::Trust;
use crate::content::read_bounded;
use crate::{Error, Result};

/// Largest file of certificates read, in bytes.
const PEM_MAX: u64 = 16 << 20;
/// Where distributions keep the trusted roots: Debian, Fedora, SUSE, Alpine.
const ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What to do at a handshake with the endpoint that `trust` is for.
pub(super) fn config(trust: &Trust, roots: Option<&Path>) -> Result<TlsConfig> {
    let client = trust.client.as_ref().map(|(certificate, key)| client(certificate, key)).transpose()?;
    let builder = TlsConfig::builder().client_cert(client);
    if trust.anybody {
        return Ok(builder.disable_verification(true).build());
    }
    let usual = usual_roots(roots)?;
    if trust.authorities.is_empty() && usual.is_empty() {
        // A host without any: those this program was built with.
        return Ok(builder.root_certs(RootCerts::WebPki).build());
    }
    let mut known = usual;
    for path in &trust.authorities {
        let found = certificates(&read(path)?);
        if found.is_empty() {
            return Err(Error::configuration(path.display().to_string(), "it holds no certificate"));
        }
        known.extend(found);
    }
    Ok(builder.root_certs(RootCerts::new_with_certs(&known)).build())
}

/// The roots of trust: the option's, those `SSL_CERT_FILE` names, or the host's.
fn usual_roots(said: Option<&Path>) -> Result<Vec<Certificate<'static>>> {
    if let Some(path) = said {
        return Ok(certificates(&read(path)?));
    }
    if let Some(path) = std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty()) {
        return Ok(certificates(&read(Path::new(&path))?));
    }
    for path in ROOTS {
        match read(Path::new(path)) {
            Ok(pem) => return Ok(certificates(&pem)),
            Err(Error::Sys(error)) if error.errno() == Errno::NOENT => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Vec::new())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let what = path.display().to_string();
    let mut file = std::fs::File::open(path).at("open", &what)?;
    read_bounded(&mut file, PEM_MAX, &what)
}

fn certificates(pem: &[u8]) -> Vec<Certificate<'static>> {
    let certificate = |item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    };
    parse_pem(pem).filter_map(certificate).collect()
}

fn client(certificate: &Path, key: &Path) -> Result<ClientCert> {
    let chain = certificates(&read(certificate)?);
    if chain.is_empty() {
        return Err(Error::configuration(certificate.display().to_string(), "it holds no certificate"));
    }
    // The reason is not repeated: it could quote the key.
    let key = PrivateKey::from_pem(&read(key)?)
        .map_err(|_| Error::configuration(key.display().to_string(), "it holds no private key"))?;
    Ok(ClientCert::new_with_certs(&chain, key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn files_that_hold_nothing_are_named() {
        let dir = TempDir::new("tls");
        let empty = dir.path().join("empty.crt");
        std::fs::write(&empty, "nothing").expect("written");
        let trust = Trust { authorities: vec![empty.clone()], ..Trust::default() };
        assert!(config(&trust, None).expect_err("refused").to_string().contains("empty.crt"));
        let trust = Trust { client: Some((empty.clone(), empty)), ..Trust::default() };
        assert!(config(&trust, None).expect_err("refused").to_string().contains("no certificate"));
        let trust = Trust { authorities: vec![dir.path().join("absent.crt")], ..Trust::default() };
        assert!(config(&trust, None).expect_err("refused").to_string().contains("absent.crt"));
        assert!(config(&Trust { anybody: true, ..Trust::default() }, None).expect("allowed").disable_verification());
        assert!(!config(&Trust::default(), None).expect("usual").disable_verification());
    }
}
