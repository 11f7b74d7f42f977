//! Names of registries to addresses, without the C library: a static binary must not load NSS.
//!
//! Literal addresses, `localhost`, `/etc/hosts`, and then the servers of `/etc/resolv.conf` (resolv.conf(5)), asked
//! for A and AAAA records (RFC 1035, RFC 3596) over UDP, and over TCP when an answer does not fit.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use oci::reference::is_loopback_host;
use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// Largest configuration file read, in bytes.
const FILE_MAX: u64 = 1 << 20;
/// Largest answer over UDP, in bytes; also what is offered to servers.
const UDP_MAX: usize = 4096;
/// Addresses the HTTP client takes.
const ADDRESSES_MAX: usize = 16;
const SERVERS_MAX: usize = 3;
const NAME_MAX: usize = 253;
/// All of a look-up, when the HTTP client sets no bound.
const LOOKUP_MAX: Duration = Duration::from_secs(15);

const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const CLASS_IN: u16 = 1;

/// Resolves names as described above.
#[derive(Debug)]
pub(super) struct HostResolver {
    hosts: &'static str,
    resolv_conf: &'static str,
}

impl Default for HostResolver {
    fn default() -> Self {
        Self { hosts: "/etc/hosts", resolv_conf: "/etc/resolv.conf" }
    }
}

impl Resolver for HostResolver {
    fn resolve(&self, uri: &Uri, _config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let host = uri.host().ok_or(Error::HostNotFound)?;
        let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(default);
        let deadline = Instant::now() + (*timeout.after).min(LOOKUP_MAX);
        let addresses = self.lookup(host, deadline)?;
        let mut resolved = self.empty();
        for address in addresses.into_iter().take(ADDRESSES_MAX) {
            resolved.push(SocketAddr::new(address, port));
        }
        if resolved.is_empty() { Err(Error::HostNotFound) } else { Ok(resolved) }
    }
}

impl HostResolver {
    fn lookup(&self, host: &str, deadline: Instant) -> Result<Vec<IpAddr>, Error> {
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(vec![address]);
        }
        if is_loopback_host(host) {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        let known = in_hosts(&read_text(self.hosts)?, &name);
        if !known.is_empty() {
            return Ok(known);
        }
        let settings = Settings::parse(&read_text(self.resolv_conf)?);
        for candidate in settings.candidates(&name, host.ends_with('.')) {
            let found = ask_servers(&settings, &candidate, deadline)?;
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Err(Error::HostNotFound)
    }
}

/// A configuration file; one that is missing is empty.
fn read_text(path: &str) -> io::Result<String> {
    let mut bytes = Vec::new();
    match File::open(Path::new(path)) {
        Ok(file) => file.take(FILE_MAX).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn without_comment(line: &str) -> &str {
    line.split(['#', ';']).next().unwrap_or_default()
}

fn in_hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
        if words.any(|word| word.eq_ignore_ascii_case(name)) && !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

/// What `/etc/resolv.conf` says.
#[derive(Debug, PartialEq, Eq)]
struct Settings {
    servers: Vec<SocketAddr>,
    search: Vec<String>,
    ndots: usize,
    timeout: Duration,
    attempts: u32,
}

impl Settings {
    fn parse(text: &str) -> Self {
        let mut settings =
            Self { servers: Vec::new(), search: Vec::new(), ndots: 1, timeout: Duration::from_secs(5), attempts: 2 };
        for line in text.lines() {
            let mut words = without_comment(line).split_whitespace();
            match words.next() {
                Some("nameserver") if settings.servers.len() < SERVERS_MAX => {
                    let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                    settings.servers.extend(address.map(|address| SocketAddr::new(address, 53)));
                }
                Some("search" | "domain") => settings.search = words.take(6).map(str::to_ascii_lowercase).collect(),
                Some("options") => words.for_each(|word| settings.option(word)),
                _ => {}
            }
        }
        if settings.servers.is_empty() {
            settings.servers.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53));
        }
        settings
    }

    fn option(&mut self, word: &str) {
        let Some((name, Ok(number))) = word.split_once(':').map(|(name, n)| (name, n.parse::<u32>())) else { return };
        match name {
            "ndots" => self.ndots = number.min(15) as usize,
            "timeout" => self.timeout = Duration::from_secs(u64::from(number.clamp(1, 30))),
            "attempts" => self.attempts = number.clamp(1, 5),
            _ => {}
        }
    }

    /// The names to ask for, in order.
    fn candidates(&self, name: &str, rooted: bool) -> Vec<String> {
        let mut list: Vec<String> = Vec::new();
        if !rooted {
            list.extend(self.search.iter().map(|domain| format!("{name}.{}", domain.trim_end_matches('.'))));
        }
        let dots = name.bytes().filter(|b| *b == b'.').count();
        if dots >= self.ndots || rooted {
            list.insert(0, name.to_owned());
        } else {
            list.push(name.to_owned());
        }
        list.retain(|candidate| candidate.len() <= NAME_MAX);
        list
    }
}

/// Asks one server after the other until one answers; no address is an answer too.
fn ask_servers(settings: &Settings, name: &str, deadline: Instant) -> Result<Vec<IpAddr>, Error> {
    let mut last = io::Error::new(io::ErrorKind::TimedOut, "no name server answers");
    for _ in 0..settings.attempts {
        for server in &settings.servers {
            let until = deadline.min(Instant::now() + settings.timeout);
            match ask(*server, name, until) {
                Ok(found) => return Ok(found),
                Err(error) => last = error,
            }
            if Instant::now() >= deadline {
                return Err(Error::Io(last));
            }
        }
    }
    Err(Error::Io(last))
}

/// Asks `server` for both kinds of address, IPv4 first in the result.
fn ask(server: SocketAddr, name: &str, until: Instant) -> io::Result<Vec<IpAddr>> {
    let local: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(local)?;
    socket.connect(server)?;
    let mut open: Vec<Question> = vec![Question::new(name, TYPE_A)?, Question::new(name, TYPE_AAAA)?];
    for question in &open {
        socket.send(&question.message)?;
    }
    let mut found: Vec<IpAddr> = Vec::new();
    let mut buffer = [0; UDP_MAX];
    while !open.is_empty() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            // Some servers drop AAAA queries; what is known is worth more than an error.
            if found.is_empty() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("name server {server} does not answer")));
            }
            break;
        }
        socket.set_read_timeout(Some(left))?;
        let n = match socket.recv(&mut buffer) {
            Ok(n) => n,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => continue,
            Err(error) => return Err(error),
        };
        let message = &buffer[..n];
        let Some(position) = open.iter().position(|question| question.is_answered_by(message)) else { continue };
        let question = open.swap_remove(position);
        let truncated = message[2] & 0x02 != 0;
        let addresses = if truncated {
            addresses(&question, &ask_tcp(server, &question, until)?)?
        } else {
            addresses(&question, message)?
        };
        found.extend(addresses);
    }
    found.sort_by_key(IpAddr::is_ipv6);
    Ok(found)
}

fn ask_tcp(server: SocketAddr, question: &Question, until: Instant) -> io::Result<Vec<u8>> {
    let left = || until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let mut stream = TcpStream::connect_timeout(&server, left())?;
    stream.set_write_timeout(Some(left()))?;
    let length = u16::try_from(question.message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], &question.message].concat())?;
    let mut length = [0; 2];
    stream.set_read_timeout(Some(left()))?;
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.set_read_timeout(Some(left()))?;
    stream.read_exact(&mut message)?;
    if question.is_answered_by(&message) { Ok(message) } else { Err(damaged()) }
}

/// One query, and how to know its answer.
struct Question {
    kind: u16,
    message: Vec<u8>,
}

impl Question {
    fn new(name: &str, kind: u16) -> io::Result<Self> {
        let mut id = [0; 2];
        rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
        // Recursion desired, one question.
        let mut message = vec![id[0], id[1], 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length));
            let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a host name"))?;
            message.push(length);
            message.extend(label.bytes());
        }
        message.push(0);
        message.extend(kind.to_be_bytes());
        message.extend(CLASS_IN.to_be_bytes());
        Ok(Self { kind, message })
    }

    /// Whether `message` is a response with this id and this very question.
    fn is_answered_by(&self, message: &[u8]) -> bool {
        let question = &self.message[12..];
        message.len() >= self.message.len()
            && message[..2] == self.message[..2]
            && message[2] & 0x80 != 0
            && message[4..6] == [0, 1]
            && message[12..12 + question.len()].eq_ignore_ascii_case(question)
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a name server's answer is damaged")
}

/// The addresses in the answer section of `message`, which answers `question`.
fn addresses(question: &Question, message: &[u8]) -> io::Result<Vec<IpAddr>> {
    match message[3] & 0x0f {
        0 => {}
        // The name does not exist.
        3 => return Ok(Vec::new()),
        code => return Err(io::Error::other(format!("a name server answers with error {code}"))),
    }
    let count = u16::from_be_bytes([message[6], message[7]]);
    let mut at = question.message.len();
    let mut found = BTreeSet::new();
    for _ in 0..count {
        at = skip_name(message, at).ok_or_else(damaged)?;
        let head: [u8; 10] = message.get(at..at + 10).and_then(|slice| slice.try_into().ok()).ok_or_else(damaged)?;
        let kind = u16::from_be_bytes([head[0], head[1]]);
        let class = u16::from_be_bytes([head[2], head[3]]);
        let length = usize::from(u16::from_be_bytes([head[8], head[9]]));
        let data = message.get(at + 10..at + 10 + length).ok_or_else(damaged)?;
        at += 10 + length;
        if kind != question.kind || class != CLASS_IN {
            continue;
        }
        if let Ok(v4) = <[u8; 4]>::try_from(data) {
            found.insert(IpAddr::from(v4));
        } else if let Ok(v6) = <[u8; 16]>::try_from(data) {
            found.insert(IpAddr::from(v6));
        }
    }
    Ok(found.into_iter().collect())
}

/// Where the name at `at` ends. Compressed names are not followed: only what comes after them is of interest.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length if length & 0xc0 == 0xc0 => return Some(at + 2),
            length if length & 0xc0 == 0 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
}

/// Reads `text` as the two files, and `message` as an answer; for the fuzz target.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn fuzz(text: &str, message: &[u8]) {
    let _ = in_hosts(text, "a.example");
    let settings = Settings::parse(text);
    assert!(settings.servers.len() <= SERVERS_MAX);
    let _ = settings.candidates("a.example", false);
    let Ok(question) = Question::new("a.example", 1) else { return };
    // As a server answers: the same id and question, and then anything.
    let mut answer = question.message.clone();
    for (at, byte) in message.iter().take(10).enumerate() {
        answer[2 + at] = *byte;
    }
    answer[2] |= 0x80;
    answer[4..6].copy_from_slice(&[0, 1]);
    answer.extend(message.iter().skip(10));
    assert!(question.is_answered_by(&answer));
    let _ = addresses(&question, &answer);
    if question.is_answered_by(message) {
        let _ = addresses(&question, message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(query: &[u8], flags: [u8; 2], records: &[(u16, &[u8])]) -> Vec<u8> {
        let mut message = query.to_vec();
        message[2..4].copy_from_slice(&flags);
        message[6..8].copy_from_slice(&(records.len() as u16).to_be_bytes());
        for (kind, data) in records {
            message.extend([0xc0, 12]);
            message.extend(kind.to_be_bytes());
            message.extend([0, 1, 0, 0, 0, 60]);
            message.extend((data.len() as u16).to_be_bytes());
            message.extend(*data);
        }
        message
    }

    fn kind_of(query: &[u8]) -> u16 {
        u16::from_be_bytes([query[query.len() - 4], query[query.len() - 3]])
    }

    #[test]
    fn servers_are_asked_and_answers_checked() {
        let server = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let address = server.local_addr().expect("bound");
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 512];
            for _ in 0..2 {
                let (n, client) = server.recv_from(&mut buffer).expect("query");
                let query = &buffer[..n];
                let mut forged = answer(query, [0x81, 0x80], &[(TYPE_A, &[6, 6, 6, 6])]);
                forged[0] ^= 0xff;
                server.send_to(&forged, client).expect("send");
                let good = match kind_of(query) {
                    TYPE_A => answer(query, [0x81, 0x80], &[(5, b"\x01a\0"), (TYPE_A, &[10, 0, 0, 1])]),
                    _ => answer(query, [0x81, 0x80], &[(TYPE_AAAA, &[0; 16])]),
                };
                server.send_to(&good, client).expect("send");
            }
        });
        let found = ask(address, "reg.example", Instant::now() + Duration::from_secs(10)).expect("answered");
        thread.join().expect("server");
        assert_eq!(found, [IpAddr::from([10, 0, 0, 1]), IpAddr::from([0_u8; 16])]);
    }

    #[test]
    fn truncated_answers_are_fetched_over_tcp() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = tcp.local_addr().expect("bound");
        let udp = UdpSocket::bind(address).expect("the same port");
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 512];
            for _ in 0..2 {
                let (n, client) = udp.recv_from(&mut buffer).expect("query");
                let flags = if kind_of(&buffer[..n]) == TYPE_A { [0x83, 0x80] } else { [0x81, 0x83] };
                udp.send_to(&answer(&buffer[..n], flags, &[]), client).expect("send");
            }
            let (mut stream, _) = tcp.accept().expect("connection");
            let mut length = [0; 2];
            stream.read_exact(&mut length).expect("length");
            let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut query).expect("query");
            let reply = answer(&query, [0x81, 0x80], &[(TYPE_A, &[10, 0, 0, 2])]);
            stream.write_all(&(reply.len() as u16).to_be_bytes()).expect("send");
            stream.write_all(&reply).expect("send");
        });
        let found = ask(address, "big.example", Instant::now() + Duration::from_secs(10)).expect("answered");
        thread.join().expect("server");
        assert_eq!(found, [IpAddr::from([10, 0, 0, 2])]);
    }

    #[test]
    fn a_silent_server_is_given_up() {
        let silent = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let address = silent.local_addr().expect("bound");
        let settings = Settings {
            servers: vec![address],
            search: Vec::new(),
            ndots: 1,
            timeout: Duration::from_millis(50),
            attempts: 2,
        };
        let error = ask_servers(&settings, "reg.example", Instant::now() + Duration::from_millis(400));
        assert!(matches!(error, Err(Error::Io(e)) if e.kind() == io::ErrorKind::TimedOut));
    }

    #[test]
    fn damaged_answers_are_errors() {
        let question = Question::new("a.b", TYPE_A).expect("valid");
        let good = answer(&question.message, [0x81, 0x80], &[(TYPE_A, &[1, 2, 3, 4])]);
        for cut in question.message.len()..good.len() {
            assert!(addresses(&question, &good[..cut]).is_err(), "{cut}");
        }
        let mut many = good;
        many[6..8].copy_from_slice(&[0xff, 0xff]);
        assert!(addresses(&question, &many).is_err());
        assert!(addresses(&question, &answer(&question.message, [0x81, 0x82], &[])).is_err(), "SERVFAIL");
        assert!(addresses(&question, &answer(&question.message, [0x81, 0x83], &[])).expect("NXDOMAIN").is_empty());
        for bad in ["", "a..b", &"x".repeat(64)] {
            assert!(Question::new(bad, TYPE_A).is_err(), "{bad}");
        }
    }

    #[test]
    fn files_are_followed() {
        let hosts = "127.0.0.1 localhost\n10.1.2.3\tReg reg.example # comment other\n::5 reg\nbad line\n";
        assert_eq!(in_hosts(hosts, "reg"), ["10.1.2.3".parse::<IpAddr>().expect("ip"), "::5".parse().expect("ip")]);
        assert!(in_hosts(hosts, "other").is_empty());
        let settings = Settings::parse(
            "# c\nnameserver 10.0.0.53\nnameserver ::1\nnameserver bad\nsearch a.example b.example\noptions ndots:2 timeout:1 attempts:9 x:y\n",
        );
        assert_eq!(settings.servers.len(), 2);
        assert_eq!((settings.ndots, settings.timeout, settings.attempts), (2, Duration::from_secs(1), 5));
        assert_eq!(settings.candidates("reg.x", false), ["reg.x.a.example", "reg.x.b.example", "reg.x"]);
        assert_eq!(settings.candidates("reg.x.y", false)[0], "reg.x.y");
        assert_eq!(settings.candidates("reg", true), ["reg"]);
        assert_eq!(Settings::parse("").servers, ["127.0.0.1:53".parse().expect("address")]);
    }

    #[test]
    fn literals_and_localhost_need_nobody() {
        let resolver = HostResolver { hosts: "/nonexistent", resolv_conf: "/nonexistent" };
        let soon = Instant::now() + Duration::from_secs(1);
        assert_eq!(resolver.lookup("10.0.0.1", soon).expect("literal"), [IpAddr::from([10, 0, 0, 1])]);
        assert_eq!(resolver.lookup("[::1]", soon).expect("literal"), [IpAddr::from(Ipv6Addr::LOCALHOST)]);
        assert_eq!(resolver.lookup("LocalHost", soon).expect("loopback")[0], IpAddr::from(Ipv4Addr::LOCALHOST));
    }
}
