//! Volumes that are mounted from somewhere: a memory file system, a server, a block device, an overlay.
//!
//! Such a volume's `_data` is empty until a container starts with it. The first user mounts the device there, the last one
//! takes it away again; who uses it is what the caller says, under the volume's lock. A mount is made detached and moved
//! into place, so that a kill leaves it in place or not there at all.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use sys::Context;
use sys::fs::Lock;
use sys::mount::{Attributes, NewFs};

use super::{DATA, LOCK, LOCK_LIMIT, VolumeName, VolumeStore, open_data};
use crate::error::{Error, Result};

/// What `type`, `device` and `o` say, as mount(8) reads them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    kind: String,
    source: String,
    /// Flags and `key=value` for the file system itself.
    options: Vec<(String, Option<String>)>,
    attributes: Attributes,
}

/// Why options are none of a device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDevice {
    /// The option asks for what only mount(8) does.
    #[error("mount option {0:?} is not supported for volumes")]
    Unsupported(String),
    /// A value is longer than the kernel takes, or holds what cannot be in one.
    #[error("mount option {0:?} is too long")]
    TooLong(String),
    /// A server's address that is a name.
    #[error("addr={0:?} is no address")]
    Name(String),
}

/// Longest value of fsconfig(2), in bytes.
const VALUE_MAX: usize = 255;

/// Options of every mount: what they set or clear.
fn attribute(option: &str) -> Option<(Attributes, bool)> {
    Some(match option {
        "noexec" => (Attributes::NOEXEC, true),
        "exec" => (Attributes::NOEXEC, false),
        "nosuid" => (Attributes::NOSUID, true),
        "suid" => (Attributes::NOSUID, false),
        "nodev" => (Attributes::NODEV, true),
        "dev" => (Attributes::NODEV, false),
        "noatime" => (Attributes::NOATIME, true),
        "atime" | "relatime" => (Attributes::NOATIME, false),
        "strictatime" => (Attributes::STRICTATIME, true),
        "nodiratime" => (Attributes::NODIRATIME, true),
        "diratime" => (Attributes::NODIRATIME, false),
        "nosymfollow" => (Attributes::NOSYMFOLLOW, true),
        _ => return None,
    })
}

impl Device {
    /// The device that the options of a volume describe; `None` when they describe none of its own.
    ///
    /// # Errors
    /// See [`InvalidDevice`].
    pub fn parse(options: &BTreeMap<String, String>) -> Result<Option<Self>, InvalidDevice> {
        let value = |key: &str| options.get(key).map(String::as_str).unwrap_or_default();
        let (kind, source) = (value("type"), value("device"));
        if source.is_empty() || super::is_bind(options) {
            return Ok(None);
        }
        let mut device = Self { kind: kind.to_owned(), source: source.to_owned(), ..Self::default() };
        let mut attributes = Attributes::empty();
        for option in value("o").split(',').map(str::trim).filter(|option| !option.is_empty()) {
            if let Some((bit, set)) = attribute(option) {
                attributes = if set { attributes.union(bit) } else { attributes.without(bit) };
                continue;
            }
            match option {
                // About when and by whom mount(8) mounts.
                "defaults" | "auto" | "noauto" | "user" | "nouser" | "users" | "owner" | "group" | "_netdev"
                | "nofail" | "rw" => {}
                "ro" => {
                    attributes = attributes.union(Attributes::RDONLY);
                    device.options.push(("ro".to_owned(), None));
                }
                "loop" | "remount" | "bind" | "rbind" | "move" | "shared" | "private" | "slave" | "unbindable"
                | "rshared" | "rprivate" | "rslave" | "runbindable" => {
                    return Err(InvalidDevice::Unsupported(option.to_owned()));
                }
                _ => {
                    let (key, value) = match option.split_once('=') {
                        Some((key, value)) => (key, Some(value.to_owned())),
                        None => (option, None),
                    };
                    device.options.push((key.to_owned(), value));
                }
            }
        }
        let too_long = |(key, value): &&(String, Option<String>)| {
            key.len() > VALUE_MAX || value.as_ref().is_some_and(|value| value.len() > VALUE_MAX)
        };
        if let Some((key, _)) = device.options.iter().find(too_long) {
            return Err(InvalidDevice::TooLong(key.clone()));
        }
        if source.len() > VALUE_MAX || source.contains('\0') || value("o").contains('\0') {
            return Err(InvalidDevice::TooLong("device".to_owned()));
        }
        // The kernel resolves no names, and mount.nfs(8), which does, is not run.
        let address = device.options.iter().find(|(key, _)| key == "addr").and_then(|(_, value)| value.as_deref());
        if let Some(address) = address.filter(|text| text.parse::<std::net::IpAddr>().is_err()) {
            return Err(InvalidDevice::Name(address.to_owned()));
        }
        device.attributes = attributes;
        Ok(Some(device))
    }

    /// Whether files can be moved there as on a disk of the host's: what is served over a network takes its time, and some
    /// of it knows no renameat2(2).
    #[must_use]
    pub fn is_local(&self) -> bool {
        matches!(self.kind.as_str(), "tmpfs" | "ext2" | "ext3" | "ext4" | "xfs" | "btrfs" | "f2fs")
    }

    /// Whether its file system can be seen through an id map on a kernel of this release (major and minor).
    #[must_use]
    pub fn maps_ids(&self, kernel: (u32, u32)) -> bool {
        let since = match self.kind.as_str() {
            "ext2" | "ext3" | "ext4" | "xfs" | "vfat" => (5, 12),
            "btrfs" => (5, 15),
            "f2fs" => (5, 18),
            "erofs" => (5, 19),
            "squashfs" => (6, 2),
            "tmpfs" => (6, 3),
            _ => return false,
        };
        kernel >= since
    }

    /// What is mounted, for messages.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    fn mount(&self) -> sys::Result<OwnedFd> {
        let fs = NewFs::open(&self.kind)?;
        fs.set("source", &self.source)?;
        for (key, value) in &self.options {
            match value {
                Some(value) => fs.set(key, value)?,
                None => fs.set_flag(key)?,
            }
        }
        fs.mount(self.attributes)
    }
}

impl VolumeStore {
    /// Mounts `device` as the volume's content, unless it is mounted; `mark` notes the new user before. Both happen
    /// under the volume's lock.
    ///
    /// # Errors
    /// [`Error::NoSuchVolume`]; the kernel's refusal, with its own words where it has some; those of `mark`.
    pub fn attach<E: From<Error>>(
        &self,
        name: &VolumeName,
        device: &Device,
        mark: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let volume = self.open_volume(name)?;
        let _lock = lock(&volume)?;
        mark()?;
        if mounted(&volume)? {
            return Ok(());
        }
        let place = open_data(&volume).map_err(Error::from)?;
        let mount = device.mount().map_err(Error::from)?;
        Ok(sys::mount::attach(mount, place, name).map_err(Error::from)?)
    }

    /// Takes the volume's device away when `unused` says, under the volume's lock, that it has no user left; nothing
    /// happens when there is no volume or nothing mounted.
    ///
    /// # Errors
    /// Those of `unused`; umount2(2)'s.
    pub fn detach<E: From<Error>>(&self, name: &VolumeName, unused: impl FnOnce() -> Result<bool, E>) -> Result<(), E> {
        let volume = match self.open_volume(name) {
            Err(Error::NoSuchVolume(_)) => {
                unused()?;
                return Ok(());
            }
            volume => volume?,
        };
        let _lock = lock(&volume)?;
        if !unused()? || !mounted(&volume)? {
            return Ok(());
        }
        let path = self.data(name);
        // Whoever still looks into it on the host keeps it until they let go; new users get a mount of their own.
        let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        rustix::mount::unmount(&path, flags).at("umount2", path.display()).map_err(Error::from)?;
        Ok(())
    }

    /// Whether something is mounted as the volume's content.
    ///
    /// # Errors
    /// [`Error::NoSuchVolume`]; statx(2)'s.
    pub fn is_mounted(&self, name: &VolumeName) -> Result<bool> {
        mounted(&self.open_volume(name)?)
    }
}

fn lock(volume: &OwnedFd) -> Result<Lock> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(volume, LOCK, flags, Mode::RUSR | Mode::WUSR).at("openat", LOCK)?;
    Ok(Lock::take(file, LOCK_LIMIT)?)
}

/// Whether `_data` is the root of a mount (`STATX_ATTR_MOUNT_ROOT`, kernel 5.8).
pub(super) fn mounted(volume: &OwnedFd) -> Result<bool> {
    let stat = rustix::fs::statx(volume, DATA, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty());
    match stat {
        Ok(stat) => Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(sys::Error::new("statx", DATA, errno).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[(&str, &str)]) -> Result<Option<Device>, InvalidDevice> {
        Device::parse(&options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn options_are_mounts_own_or_the_file_systems() {
        assert_eq!(parse(&[]), Ok(None));
        assert_eq!(parse(&[("type", "none"), ("o", "bind"), ("device", "/srv")]), Ok(None));
        let device =
            parse(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m,uid=5,noexec,ro,defaults,inode64")]);
        let device = device.expect("fits").expect("a device");
        assert_eq!((device.kind.as_str(), device.source()), ("tmpfs", "tmpfs"));
        assert!(device.maps_ids((6, 18)) && !device.maps_ids((6, 1)));
        let options: Vec<_> = device.options.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
        assert_eq!(options, [("size", Some("1m")), ("uid", Some("5")), ("ro", None), ("inode64", None)]);
        assert_eq!(device.attributes, Attributes::NOEXEC | Attributes::RDONLY);
        let nfs = |o: &str| parse(&[("type", "nfs"), ("device", ":/x"), ("o", o)]);
        assert!(nfs("addr=10.0.0.1,vers=4.2,soft").is_ok() && nfs("addr=fd00::1").is_ok());
        assert_eq!(nfs("addr=server"), Err(InvalidDevice::Name("server".into())));
        assert_eq!(nfs("loop"), Err(InvalidDevice::Unsupported("loop".into())));
        assert_eq!(nfs(&format!("x={}", "y".repeat(300))), Err(InvalidDevice::TooLong("x".into())));
    }
}
