//! The text of `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a container: pure functions of checked input.
//!
//! All three are line-based, so nothing that holds a line break, a NUL or (inside a field) white space may enter them
//! (R13 of the security reference: CVE-2022-4318 and its kin).

use std::fmt::Write as _;
use std::net::IpAddr;

/// Why a value cannot be written into one of the files.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A host name with characters that host names do not have.
    #[error("{0:?} is not a host name: letters, digits, '-', '_' and '.' are allowed, at most 253 characters")]
    HostName(String),
    /// Not an IP address.
    #[error("{0:?} is not an IP address")]
    Address(String),
    /// A search domain or resolver option with white space or control characters.
    #[error("{0:?} cannot be written into resolv.conf")]
    Word(String),
}

/// What the user said about name resolution.
#[derive(Clone, Copy, Debug, Default)]
pub struct Resolver<'a> {
    /// Name servers; empty takes the host's.
    pub servers: &'a [String],
    /// Search domains; empty takes the host's, a single `.` means none.
    pub search: &'a [String],
    /// Options; empty takes the host's.
    pub options: &'a [String],
}

/// Checks a host name (RFC 1123 with underscores, as container names have them).
///
/// # Errors
/// [`Invalid::HostName`].
pub fn check_host_name(name: &str) -> Result<(), Invalid> {
    let fits = !name.is_empty() && name.len() <= 253 && !name.starts_with(['-', '.']);
    let clean = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if fits && clean { Ok(()) } else { Err(Invalid::HostName(name.to_owned())) }
}

/// The text of `/etc/hosts`: loopback, the container's own name, then `extra` names with their addresses.
///
/// Without a network of its own address the container's name stands for loopback, so that programs which resolve their
/// own host name keep working.
///
/// # Errors
/// A name or address that cannot be written.
pub fn hosts(host_name: &str, domain_name: &str, extra: &[(String, String)]) -> Result<String, Invalid> {
    check_host_name(host_name)?;
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    text.push_str("127.0.0.1\t");
    if !domain_name.is_empty() {
        check_host_name(domain_name)?;
        push(&mut text, format_args!("{host_name}.{domain_name} "));
    }
    push(&mut text, format_args!("{host_name}\n"));
    for (name, address) in extra {
        check_host_name(name)?;
        let address: IpAddr = address.parse().map_err(|_| Invalid::Address(address.clone()))?;
        push(&mut text, format_args!("{address}\t{name}\n"));
    }
    Ok(text)
}

/// The host's `/etc/hosts` with `extra` names added, for containers in the host's network.
///
/// # Errors
/// A name or address that cannot be written.
pub fn hosts_of_host(host_text: &str, extra: &[(String, String)]) -> Result<String, Invalid> {
    let mut text = host_text.to_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    for (name, address) in extra {
        check_host_name(name)?;
        let address: IpAddr = address.parse().map_err(|_| Invalid::Address(address.clone()))?;
        push(&mut text, format_args!("{address}\t{name}\n"));
    }
    Ok(text)
}

/// The text of `/etc/resolv.conf`, from the host's and what the user said.
///
/// In an own network namespace the host's loopback name servers are dropped: nothing listens there. No public server is
/// put in their place, because names of a private network would be sent to it.
///
/// # Errors
/// A server that is no address; a domain or option that cannot be written.
pub fn resolv_conf(host_text: &str, said: Resolver<'_>, private: bool) -> Result<String, Invalid> {
    if !private && said.servers.is_empty() && said.search.is_empty() && said.options.is_empty() {
        return Ok(host_text.to_owned());
    }
    let mut text = String::new();
    let mut search = words(said.search)?;
    let mut options = words(said.options)?;
    let mut servers = Vec::new();
    for server in said.servers {
        server.parse::<IpAddr>().map_err(|_| Invalid::Address(server.clone()))?;
        servers.push(server.as_str());
    }
    let own_search = !search.is_empty();
    let own_options = !options.is_empty();
    let own_servers = !servers.is_empty();
    for line in host_text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut fields = line.split_whitespace();
        match fields.next() {
            Some("nameserver") if !own_servers => {
                servers.extend(fields.next().filter(|server| !private || !is_loopback(server)));
            }
            // The last of several `search` and `domain` lines wins (resolv.conf(5)).
            Some("search" | "domain") if !own_search => search = fields.collect(),
            Some("options") if !own_options => options.extend(fields),
            _ => {}
        }
    }
    for server in servers {
        push(&mut text, format_args!("nameserver {server}\n"));
    }
    if !search.is_empty() && search != ["."] {
        push(&mut text, format_args!("search {}\n", search.join(" ")));
    }
    if !options.is_empty() {
        push(&mut text, format_args!("options {}\n", options.join(" ")));
    }
    Ok(text)
}

fn words(said: &[String]) -> Result<Vec<&str>, Invalid> {
    for word in said {
        let clean =
            !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'#' | b';'));
        if !clean {
            return Err(Invalid::Word(word.clone()));
        }
    }
    Ok(said.iter().map(String::as_str).collect())
}

fn is_loopback(server: &str) -> bool {
    let address = server.split('%').next().unwrap_or_default();
    address.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing into a String cannot fail.
    let _infallible = text.write_fmt(arguments);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn hosts_names_the_container_and_the_extra_hosts() {
        let text = hosts("web", "example.org", &[("db".into(), "10.0.0.2".into()), ("v6".into(), "fd00::1".into())])
            .expect("valid");
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.contains("127.0.0.1\tweb.example.org web\n"));
        assert!(text.ends_with("10.0.0.2\tdb\nfd00::1\tv6\n"));
    }

    #[test]
    fn nothing_smuggles_a_line() {
        for bad in ["a\nb", "a b", "a\tb", "", "-x", ".x", "a\0b", "a#b"] {
            assert!(hosts(bad, "", &[]).is_err(), "{bad:?}");
            assert!(hosts("a", "", &[(bad.to_owned(), "10.0.0.1".into())]).is_err(), "{bad:?}");
        }
        for bad in ["10.0.0.1\n1.1.1.1 x", "host-gateway", "", "1.2.3"] {
            assert!(hosts("a", "", &[("b".into(), bad.to_owned())]).is_err(), "{bad:?}");
        }
        for bad in ["a b", "x\nnameserver 6.6.6.6", "", "a;b"] {
            let list = strings(&[bad]);
            for said in [
                Resolver { servers: &list, ..Resolver::default() },
                Resolver { search: &list, ..Resolver::default() },
                Resolver { options: &list, ..Resolver::default() },
            ] {
                assert!(resolv_conf("", said, true).is_err(), "{bad:?}");
            }
        }
    }

    #[test]
    fn loopback_servers_stay_on_the_host() {
        let host = "# made by hand\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 10.1.1.1 # main\nsearch a.org b.org\n\
                    options edns0 trust-ad\n";
        let text = resolv_conf(host, Resolver::default(), true).expect("valid");
        assert_eq!(text, "nameserver 10.1.1.1\nsearch a.org b.org\noptions edns0 trust-ad\n");
        assert_eq!(resolv_conf(host, Resolver::default(), false).expect("valid"), host);
    }

    #[test]
    fn said_values_replace_the_hosts() {
        let servers = strings(&["9.9.9.9", "fd00::53"]);
        let none = strings(&["."]);
        let options = strings(&["ndots:2"]);
        let said = Resolver { servers: &servers, search: &none, options: &options };
        let text = resolv_conf("nameserver 10.1.1.1\nsearch a.org\noptions edns0\n", said, true).expect("valid");
        assert_eq!(text, "nameserver 9.9.9.9\nnameserver fd00::53\noptions ndots:2\n");
        let only_search = Resolver { search: &none, ..Resolver::default() };
        let text = resolv_conf("nameserver 127.0.0.1\nsearch a.org\n", only_search, false).expect("valid");
        assert_eq!(text, "nameserver 127.0.0.1\n");
    }

    #[test]
    fn the_hosts_own_table_gets_the_extra_names() {
        let text = hosts_of_host("10.0.0.9 me", &[("db".into(), "10.0.0.2".into())]).expect("valid");
        assert_eq!(text, "10.0.0.9 me\n10.0.0.2\tdb\n");
    }
}
