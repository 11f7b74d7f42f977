//! Network devices by rtnetlink(7): what it takes to move one to another network namespace with its addresses.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with, sockopt};

use crate::error::{Context, Error, Result};
use crate::process::{Namespaces, join};

/// Longest name of a network device, in bytes (`IFNAMSIZ` less its NUL).
pub const LONGEST_NAME: usize = libc::IFNAMSIZ - 1;

/// The kernel answers at once; this is for one that does not.
const PATIENCE: Duration = Duration::from_secs(10);
/// The kernel's largest answer to a dump is half of it (`NLMSG_GOODSIZE` and what callers offer, af_netlink.c).
const LONGEST: usize = 64 << 10;

/// Sizes of `nlmsghdr`, `ifinfomsg` and `ifaddrmsg` (linux/netlink.h, linux/rtnetlink.h, linux/if_addr.h).
const HEADER: usize = 16;
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;

const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFA_LABEL: u16 = 3;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;

/// `IFA_F_…` that somebody chose; the others say how the kernel is getting on with the address.
const CHOSEN_FLAGS: u32 = IFA_F_NODAD | IFA_F_HOMEADDRESS | IFA_F_MANAGETEMPADDR | IFA_F_NOPREFIXROUTE;
const IFA_F_NODAD: u32 = 0x02;
const IFA_F_HOMEADDRESS: u32 = 0x10;
const IFA_F_PERMANENT: u32 = 0x80;
const IFA_F_MANAGETEMPADDR: u32 = 0x100;
const IFA_F_NOPREFIXROUTE: u32 = 0x200;
/// `RT_SCOPE_UNIVERSE`.
const GLOBAL: u8 = 0;

/// A socket to one network namespace's devices.
#[derive(Debug)]
pub struct Route(OwnedFd);

/// An address of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    family: u8,
    prefix: u8,
    flags: u32,
    scope: u8,
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Address {
    /// Whether it was given to the device for good and is valid everywhere.
    #[must_use]
    pub fn is_permanent_and_global(&self) -> bool {
        self.flags & IFA_F_PERMANENT != 0 && self.scope == GLOBAL
    }
}

impl Route {
    /// Of the network namespace this thread is in.
    ///
    /// # Errors
    /// socket(2)'s.
    pub fn open() -> Result<Self> {
        // NETLINK_ROUTE is protocol 0.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None);
        let socket = socket.at("socket", "NETLINK_ROUTE")?;
        for direction in [sockopt::Timeout::Recv, sockopt::Timeout::Send] {
            sockopt::set_socket_timeout(&socket, direction, Some(PATIENCE)).at("setsockopt", "SO_RCVTIMEO")?;
        }
        Ok(Self(socket))
    }

    /// Of `namespace`, where this thread is for that moment; `own` is the one it goes back to. For a process with one
    /// thread.
    ///
    /// # Errors
    /// setns(2)'s and socket(2)'s. Should going back fail, the thread is still there, and its process has to end.
    pub fn open_in(namespace: impl AsFd, own: impl AsFd) -> Result<Self> {
        join(namespace, Namespaces::NETWORK)?;
        let opened = Self::open();
        join(own, Namespaces::NETWORK)?;
        opened
    }

    /// The index of the device called `name`.
    ///
    /// # Errors
    /// `ENODEV` when there is none.
    pub fn index(&self, name: &str) -> Result<i32> {
        let mut message = Message::new(libc::RTM_GETLINK, libc::NLM_F_ACK);
        message.link(0, 0, 0);
        message.name(name);
        let mut index = None;
        self.exchange("RTM_GETLINK", name, message, |kind, body| {
            if kind == libc::RTM_NEWLINK {
                index = index_of_link(body);
            }
        })?;
        index.ok_or_else(|| Error::new("RTM_GETLINK", name, Errno::NODEV))
    }

    /// The indexes of all devices.
    ///
    /// # Errors
    /// The kernel's.
    pub fn indexes(&self) -> Result<Vec<i32>> {
        let mut message = Message::new(libc::RTM_GETLINK, libc::NLM_F_DUMP);
        message.link(0, 0, 0);
        let mut all = Vec::new();
        self.exchange("RTM_GETLINK", "", message, |kind, body| {
            if kind == libc::RTM_NEWLINK {
                all.extend(index_of_link(body));
            }
        })?;
        Ok(all)
    }

    /// The addresses of the device `index`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn addresses(&self, index: i32) -> Result<Vec<Address>> {
        let mut message = Message::new(libc::RTM_GETADDR, libc::NLM_F_DUMP);
        message.bytes(&[0; ADDRESS_HEADER]);
        let mut all = Vec::new();
        self.exchange("RTM_GETADDR", index, message, |kind, body| {
            if kind == libc::RTM_NEWADDR
                && let Some((device, address)) = read_address(body)
                && device == index
            {
                all.push(address);
            }
        })?;
        Ok(all)
    }

    /// Moves the device `index` to `namespace` and calls it `name` there; in the name `%d` is the first free number. It
    /// is down afterwards and has lost its addresses.
    ///
    /// # Errors
    /// `EEXIST` when the name is taken there, `EINVAL` for a name that is none or a device that stays where it is,
    /// `EPERM` without `CAP_NET_ADMIN` over both.
    pub fn move_to(&self, index: i32, namespace: impl AsFd, name: &str) -> Result<()> {
        let mut message = Message::new(libc::RTM_NEWLINK, libc::NLM_F_ACK);
        message.link(index, 0, 0);
        message.attribute(IFLA_NET_NS_FD, &namespace.as_fd().as_raw_fd().to_ne_bytes());
        message.name(name);
        self.exchange("RTM_NEWLINK", name, message, |_, _| {})
    }

    /// Gives the device `index` an address of another one; its label, which is a device's name, stays behind.
    ///
    /// # Errors
    /// The kernel's: `EPERM` without `CAP_NET_ADMIN`.
    pub fn add_address(&self, index: i32, address: &Address) -> Result<()> {
        let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let mut message = Message::new(libc::RTM_NEWADDR, flags);
        let [a, b, c, d] = index.to_ne_bytes();
        message.bytes(&[address.family, address.prefix, 0, address.scope, a, b, c, d]);
        for (kind, value) in &address.attributes {
            message.attribute(*kind, value);
        }
        message.attribute(IFA_FLAGS, &(address.flags & CHOSEN_FLAGS).to_ne_bytes());
        self.exchange("RTM_NEWADDR", index, message, |_, _| {})
    }

    /// Sets the device `index` up.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_up(&self, index: i32) -> Result<()> {
        let mut message = Message::new(libc::RTM_NEWLINK, libc::NLM_F_ACK);
        let up = libc::IFF_UP.unsigned_abs();
        message.link(index, up, up);
        self.exchange("RTM_NEWLINK", index, message, |_, _| {})
    }

    /// Sends `message` and hands on what the kernel says, up to its last word.
    fn exchange(
        &self,
        call: &'static str,
        object: impl std::fmt::Display,
        message: Message,
        mut each: impl FnMut(u16, &[u8]),
    ) -> Result<()> {
        let bytes = message.finish();
        let sent = send(&self.0, &bytes, SendFlags::empty()).at(call, &object)?;
        if sent != bytes.len() {
            return Err(Error::new(call, object, Errno::MSGSIZE));
        }
        let mut buffer = vec![0; LONGEST];
        loop {
            let (_, length) = recv(&self.0, &mut buffer[..], RecvFlags::TRUNC).at(call, &object)?;
            let mut rest = buffer.get(..length).ok_or_else(|| Error::new(call, &object, Errno::MSGSIZE))?;
            while let Some((kind, body, after)) = next_message(rest) {
                rest = after;
                match i32::from(kind) {
                    libc::NLMSG_ERROR | libc::NLMSG_DONE => {
                        let code = body.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                        return match code {
                            0 => Ok(()),
                            code => Err(Error::new(call, object, Errno::from_raw_os_error(-code))),
                        };
                    }
                    _ => each(kind, body),
                }
            }
        }
    }
}

/// A request.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: i32) -> Self {
        let flags = u16::try_from(flags | libc::NLM_F_REQUEST).unwrap_or(0);
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        Self(bytes)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        self.0.resize(aligned(self.0.len()), 0);
    }

    /// `struct ifinfomsg`.
    fn link(&mut self, index: i32, flags: u32, change: u32) {
        self.bytes(&[0; 4]);
        self.bytes(&index.to_ne_bytes());
        self.bytes(&flags.to_ne_bytes());
        self.bytes(&change.to_ne_bytes());
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        let [a, b] = length.to_ne_bytes();
        let [c, d] = kind.to_ne_bytes();
        self.bytes(&[a, b, c, d]);
        self.bytes(value);
    }

    fn name(&mut self, name: &str) {
        self.attribute(IFLA_IFNAME, &[name.as_bytes(), b"\0"].concat());
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// The first message of `bytes`: type, body, what follows.
fn next_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(HEADER..length)?;
    Some((kind, body, bytes.get(aligned(length)..).unwrap_or_default()))
}

fn index_of_link(body: &[u8]) -> Option<i32> {
    body.get(..LINK_HEADER)?.get(4..)?.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes))
}

fn read_address(body: &[u8]) -> Option<(i32, Address)> {
    let (header, mut rest) = body.split_at_checked(ADDRESS_HEADER)?;
    let index = i32::from_ne_bytes(*header.get(4..)?.first_chunk()?);
    let mut address = Address {
        family: header[0],
        prefix: header[1],
        flags: header[2].into(),
        scope: header[3],
        attributes: Vec::new(),
    };
    while let (Some(length), Some(kind)) = (rest.first_chunk(), rest.get(2..).and_then(<[u8]>::first_chunk)) {
        let (length, kind) = (usize::from(u16::from_ne_bytes(*length)), u16::from_ne_bytes(*kind));
        let value = rest.get(4..length)?;
        match kind {
            IFA_FLAGS => address.flags = value.first_chunk().map_or(address.flags, |bytes| u32::from_ne_bytes(*bytes)),
            IFA_LABEL | IFA_CACHEINFO => {}
            kind => address.attributes.push((kind, value.to_vec())),
        }
        rest = rest.get(aligned(length)..).unwrap_or_default();
    }
    // What is left is an attribute cut short.
    rest.is_empty().then_some((index, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_namespace_has_a_loopback_device() {
        let route = Route::open().expect("opened");
        let index = route.index("lo").expect("lo");
        assert!(route.indexes().expect("listed").contains(&index));
        assert_eq!(route.index("no-such-device").expect_err("absent").errno(), Errno::NODEV);
        // Where it is up it has addresses, and none of them is global.
        let addresses = route.addresses(index).expect("listed");
        assert!(addresses.iter().all(|address| !address.is_permanent_and_global()), "{addresses:?}");
    }

    #[test]
    fn addresses_are_read_without_what_belongs_to_the_device() {
        let mut message = Message::new(libc::RTM_NEWADDR, 0);
        message.bytes(&[2, 24, 0x80, 0, 7, 0, 0, 0]);
        message.attribute(2, &[10, 0, 0, 1]);
        message.attribute(IFA_LABEL, b"eth0\0");
        message.attribute(IFA_FLAGS, &0x280_u32.to_ne_bytes());
        let bytes = message.finish();
        let (kind, body, rest) = next_message(&bytes).expect("whole");
        assert_eq!((kind, rest.len()), (libc::RTM_NEWADDR, 0));
        let (index, address) = read_address(body).expect("an address");
        assert_eq!((index, address.prefix, address.flags), (i32::from_ne_bytes([7, 0, 0, 0]), 24, 0x280));
        assert!(address.is_permanent_and_global());
        assert_eq!(address.attributes, [(2, vec![10, 0, 0, 1])]);
        assert_eq!(next_message(&bytes[..bytes.len() - 1]), None);
        assert_eq!(read_address(&body[..body.len() - 5]), None);
    }
}
