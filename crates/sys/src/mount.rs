//! The mount API of kernels 5.2 and newer, by descriptor: nothing here resolves a path twice.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_fd,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::error::{Context, Error, Result};
use rustix::io::Errno;

/// Attributes of a mount, set or cleared by [`set_attributes`] (`MOUNT_ATTR_*`, kernel 5.12).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes(u64);

impl Attributes {
    /// Read-only.
    pub const RDONLY: Self = Self(libc::MOUNT_ATTR_RDONLY);
    /// No set-user-ID, no file capabilities.
    pub const NOSUID: Self = Self(libc::MOUNT_ATTR_NOSUID);
    /// Device nodes cannot be opened.
    pub const NODEV: Self = Self(libc::MOUNT_ATTR_NODEV);
    /// Nothing can be executed.
    pub const NOEXEC: Self = Self(libc::MOUNT_ATTR_NOEXEC);
    /// Access times are not kept.
    pub const NOATIME: Self = Self(libc::MOUNT_ATTR_NOATIME);
    /// Access times are always kept.
    pub const STRICTATIME: Self = Self(libc::MOUNT_ATTR_STRICTATIME);
    /// All bits of the access-time field; cleared before another value is set.
    pub const ATIME: Self = Self(libc::MOUNT_ATTR__ATIME);
    /// Access times of directories are not kept.
    pub const NODIRATIME: Self = Self(libc::MOUNT_ATTR_NODIRATIME);
    /// Symbolic links are not followed (kernel 5.14).
    pub const NOSYMFOLLOW: Self = Self(libc::MOUNT_ATTR_NOSYMFOLLOW);

    /// No attribute.
    #[must_use]
    pub const fn empty() -> Self {
        Self(0)
    }

    /// Both.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The attributes of `self` that `other` lacks.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether no bit is set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether every bit of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    fn for_fsmount(self) -> MountAttrFlags {
        // fsmount(2) takes the same bits, as 32-bit flags.
        MountAttrFlags::from_bits_retain(u32::try_from(self.0).unwrap_or(0))
    }
}

impl std::ops::BitOr for Attributes {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.union(other)
    }
}

/// How a mount propagates (`MS_SHARED` and so on).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// Events go both ways.
    Shared,
    /// Events come in.
    Slave,
    /// No events.
    Private,
    /// No events, and it cannot be bound.
    Unbindable,
}

impl Propagation {
    fn bits(self) -> u64 {
        match self {
            Self::Shared => libc::MS_SHARED,
            Self::Slave => libc::MS_SLAVE,
            Self::Private => libc::MS_PRIVATE,
            Self::Unbindable => libc::MS_UNBINDABLE,
        }
    }
}

/// A change of mount attributes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change<'a> {
    /// Set these.
    pub set: Attributes,
    /// Clear these.
    pub clear: Attributes,
    /// Change how it propagates.
    pub propagation: Option<Propagation>,
    /// See it through this user namespace's id maps; only on a mount that was never attached (kernel 5.12).
    pub idmap: Option<BorrowedFd<'a>>,
    /// The whole tree below as well.
    pub recursive: bool,
}

/// mount_setattr(2) on the mount that `mount` (from [`clone_tree`] or [`NewFs::mount`]) stands for.
///
/// # Errors
/// `EINVAL` when the file system does not support id maps, or the mount is attached already; `EPERM` without
/// `CAP_SYS_ADMIN` over the mount's owner.
pub fn set_attributes(mount: impl AsFd, change: &Change<'_>) -> Result<()> {
    let mut attr = libc::mount_attr {
        attr_set: change.set.0,
        attr_clr: change.clear.0,
        propagation: change.propagation.map_or(0, Propagation::bits),
        userns_fd: 0,
    };
    if let Some(userns) = change.idmap {
        attr.attr_set |= libc::MOUNT_ATTR_IDMAP;
        attr.userns_fd = u64::try_from(userns.as_raw_fd()).unwrap_or(u64::MAX);
    }
    let mut flags = libc::AT_EMPTY_PATH;
    if change.recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the path is a NUL-terminated constant and `attr` lives across the call, which reads `size_of` bytes of it.
    let status = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if status == 0 { Ok(()) } else { Err(last("mount_setattr", describe(change))) }
}

fn describe(change: &Change<'_>) -> &'static str {
    if change.idmap.is_some() { "(idmap)" } else { "" }
}

fn last(call: &'static str, object: impl std::fmt::Display) -> Error {
    let errno = std::io::Error::last_os_error().raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
    Error::new(call, object, errno)
}

/// A detached copy of the mount at `path` below `dir`; with `recursive`, of every mount below it too.
///
/// # Errors
/// open_tree(2)'s.
pub fn clone_tree(dir: impl AsFd, path: &str, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if path.is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(dir, path, flags).at("open_tree", path)
}

/// A detached copy of the mount at host path `path`, following symbolic links.
///
/// # Errors
/// open_tree(2)'s.
pub fn clone_path(path: &std::path::Path, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(CWD, path, flags).at("open_tree", path.display())
}

/// As [`clone_path`], for the last component itself when that is a symbolic link.
///
/// # Errors
/// open_tree(2)'s.
pub fn clone_path_nofollow(path: &std::path::Path, recursive: bool) -> Result<OwnedFd> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(CWD, path, flags).at("open_tree", path.display())
}

/// Attaches the detached `mount` at `target`, a descriptor of the very place.
///
/// # Errors
/// move_mount(2)'s.
pub fn attach(mount: impl AsFd, target: impl AsFd, name: impl std::fmt::Display) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags).at("move_mount", name)
}

/// A file system being configured (fsopen(2)).
#[derive(Debug)]
pub struct NewFs {
    fd: OwnedFd,
    kind: String,
}

impl NewFs {
    /// Begins a file system of type `kind`.
    ///
    /// # Errors
    /// `ENODEV` when the kernel has no such type.
    pub fn open(kind: &str) -> Result<Self> {
        let fd = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).at("fsopen", kind)?;
        Ok(Self { fd, kind: kind.to_owned() })
    }

    /// Sets `key` to `value` (at most 255 bytes).
    ///
    /// # Errors
    /// `EINVAL` when the type does not know the key or refuses the value.
    pub fn set(&self, key: &str, value: &str) -> Result<()> {
        fsconfig_set_string(&self.fd, key, value)
            .map_err(|errno| self.refused("fsconfig", &format!("{key}={value}"), errno))
    }

    /// Sets the flag `key`.
    ///
    /// # Errors
    /// `EINVAL` when the type does not know it.
    pub fn set_flag(&self, key: &str) -> Result<()> {
        fsconfig_set_flag(&self.fd, key).map_err(|errno| self.refused("fsconfig", key, errno))
    }

    /// Sets `key` to an open file (overlayfs layers: kernel 6.13).
    ///
    /// # Errors
    /// `EINVAL` on kernels that do not take descriptors for it.
    pub fn set_fd(&self, key: &str, file: impl AsFd) -> Result<()> {
        fsconfig_set_fd(&self.fd, key, file).map_err(|errno| self.refused("fsconfig", key, errno))
    }

    /// Creates it and gives a detached mount with `attributes`.
    ///
    /// # Errors
    /// The file system's own refusal (with the kernel's words where it gave some), or fsmount(2)'s.
    pub fn mount(self, attributes: Attributes) -> Result<OwnedFd> {
        fsconfig_create(&self.fd).map_err(|errno| self.refused("fsconfig", "create", errno))?;
        fsmount(&self.fd, FsMountFlags::FSMOUNT_CLOEXEC, attributes.for_fsmount())
            .map_err(|errno| self.refused("fsmount", "", errno))
    }

    /// The error with what the kernel wrote into the context's log ("e overlay: …"; fsopen(2), "message retrieval").
    fn refused(&self, call: &'static str, what: &str, errno: Errno) -> Error {
        let mut message = [0_u8; 512];
        let said = rustix::io::read(&self.fd, &mut message)
            .ok()
            .and_then(|length| std::str::from_utf8(&message[..length]).ok())
            .map(|text| text.trim_end().trim_start_matches("e ").to_owned());
        let object = match said {
            Some(said) => format!("{} {what} ({said})", self.kind),
            None => format!("{} {what}", self.kind),
        };
        Error::new(call, object.trim_end(), errno)
    }
}

/// Changes how the mount at `path` and all below it propagate (mount(2): the new API cannot address "/" of a copied
/// namespace more cheaply).
///
/// # Errors
/// mount(2)'s.
pub fn propagate_all(path: &str, propagation: Propagation) -> Result<()> {
    use rustix::mount::{MountPropagationFlags as Flags, mount_change};
    let kind = match propagation {
        Propagation::Shared => Flags::SHARED,
        Propagation::Slave => Flags::DOWNSTREAM,
        Propagation::Private => Flags::PRIVATE,
        Propagation::Unbindable => Flags::UNBINDABLE,
    };
    mount_change(path, kind | Flags::REC).at("mount", path)
}

/// Makes the current directory the root and lets go of the old one (pivot_root(2), "pivot_root(".", ".")").
///
/// # Errors
/// `EINVAL` when the current directory is not a mount's root, or the old root is the initial ramfs.
pub fn pivot_to_cwd() -> Result<()> {
    rustix::process::pivot_root(".", ".").at("pivot_root", ".")?;
    rustix::mount::unmount(".", rustix::mount::UnmountFlags::DETACH).at("umount2", "the old root")?;
    rustix::process::chdir("/").at("chdir", "/")
}
