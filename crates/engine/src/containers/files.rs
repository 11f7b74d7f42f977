//! The generated files of a container: `/etc/hosts`, `/etc/hostname`, `/etc/resolv.conf`.

use std::os::fd::{AsFd, OwnedFd};

use container::record::Config;
use network::files::{Resolver, hosts, hosts_of_host, resolv_conf};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use serde::Deserialize;
use sys::Context;

use crate::specgen::FILES;
use crate::{Error, ErrorKind, Result};

/// Most bytes taken from the host's own files.
const LIMIT: usize = 1 << 20;

/// What decides the files' texts: the part of [`Said`](super::Said) that is about names.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    network: String,
    extra_hosts: Vec<(String, String)>,
    dns: Vec<String>,
    dns_search: Vec<String>,
    dns_options: Vec<String>,
}

/// What the files say.
#[derive(Debug)]
pub(super) struct Texts([String; 3]);

/// Whether everything said can be written into the files.
///
/// # Errors
/// What cannot.
pub(super) fn check(config: &Config) -> Result<()> {
    make_up(config, |_| Ok(String::new())).map(|_| ())
}

/// Makes up the files' texts, with what the host's own say now.
///
/// # Errors
/// Something said cannot be written into them; the host's files cannot be read.
pub(super) fn texts(config: &Config) -> Result<Texts> {
    make_up(config, of_host)
}

fn make_up(config: &Config, of_host: impl Fn(&str) -> Result<String>) -> Result<Texts> {
    let said = Said::deserialize(&config.said)
        .map_err(|error| Error::new(ErrorKind::Damaged, "the container's record is damaged").because(error))?;
    let host_name = match config.spec.hostname.as_str() {
        "" => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        name => name.to_owned(),
    };
    let shared = said.network == "host";
    let resolver = Resolver { servers: &said.dns, search: &said.dns_search, options: &said.dns_options };
    let hosts = if shared {
        hosts_of_host(&of_host("/etc/hosts")?, &said.extra_hosts)?
    } else {
        hosts(&host_name, &config.spec.domainname, &said.extra_hosts)?
    };
    let resolv_conf = resolv_conf(&of_host("/etc/resolv.conf")?, resolver, !shared)?;
    Ok(Texts([hosts, format!("{host_name}\n"), resolv_conf]))
}

/// Writes them into the container's directory. They can be made again from nothing, so they are not synced.
pub(super) fn write(dir: impl AsFd, texts: &Texts) -> Result<()> {
    for ((name, _), text) in FILES.iter().zip(&texts.0) {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&dir, *name, flags, Mode::from_raw_mode(0o644)).at("openat", name)?;
        // The mode again, past the umask: whatever user the container runs as has to read them.
        rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644)).at("fchmod", name)?;
        sys::fs::write_all(&file, text.as_bytes(), name)?;
    }
    Ok(())
}

/// A text of the host's; one that does not exist is empty.
fn of_host(path: &str) -> Result<String> {
    let open = |path: &str| -> sys::Result<Option<OwnedFd>> {
        match rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(sys::Error::new("openat", path, errno)),
        }
    };
    let Some(file) = open(path)? else { return Ok(String::new()) };
    let bytes = sys::fs::read_regular(file, LIMIT, path)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::*;

    fn config(said: serde_json::Value) -> Config {
        let mut config = crate::testing::config(oci::runtime::Process::default());
        config.spec.hostname = "web".to_owned();
        config.said = said;
        config
    }

    #[test]
    fn files_are_readable_by_anyone_inside() {
        let scratch = crate::testing::Scratch::new("files");
        let config = config(json!({"network": "none", "extra_hosts": [["db", "10.0.0.2"]], "dns": ["9.9.9.9"]}));
        check(&config).expect("valid");
        let dir = std::fs::File::open(scratch.path()).expect("opened");
        write(&dir, &texts(&config).expect("valid")).expect("written");
        write(&dir, &texts(&config).expect("valid")).expect("written again");
        let read = |name: &str| std::fs::read_to_string(scratch.path().join(name)).expect("read");
        for (name, _) in FILES {
            let mode = std::fs::metadata(scratch.path().join(name)).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o644, "{name}");
        }
        assert!(read("hosts").contains("127.0.0.1\tweb\n") && read("hosts").contains("10.0.0.2\tdb\n"));
        assert_eq!(read("hostname"), "web\n");
        assert!(read("resolv.conf").starts_with("nameserver 9.9.9.9\n"));
    }

    #[test]
    fn what_cannot_be_written_is_found_at_create() {
        for said in [
            json!({"dns": ["x\ny"]}),
            json!({"extra_hosts": [["a b", "10.0.0.1"]]}),
            json!({"dns_search": ["a b"]}),
            json!({"network": "host", "extra_hosts": [["a", "b"]]}),
        ] {
            assert_eq!(check(&config(said)).expect_err("refused").kind(), ErrorKind::Invalid);
        }
    }
}
