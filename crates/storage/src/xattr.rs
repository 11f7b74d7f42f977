//! Extended attributes of layer files: which ones an image may bring, and overlayfs's own.

use std::os::fd::AsFd;

use rustix::fs::XattrFlags;
use rustix::io::Errno;
use sys::Context;

/// Marks a directory that hides what lower layers have in it (Documentation/filesystems/overlayfs.rst, "whiteouts and
/// opaque directories").
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";

/// Whether an image may set this attribute. overlayfs's own would forge whiteouts and redirects; access control lists
/// and labels of security modules belong to the host that made the archive.
pub(crate) fn allowed(name: &[u8]) -> bool {
    if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
        return false;
    }
    name == b"security.capability" || name.starts_with(b"user.") || name.starts_with(b"trusted.")
}

/// Sets an attribute that is [`allowed`]. A file system without support loses `user.` and `trusted.` attributes, as it
/// does with every other tool, but never capabilities: a program without them would fail in strange ways.
///
/// # Errors
/// Those of `fsetxattr`.
pub(crate) fn set(file: impl AsFd, name: &[u8], value: &[u8]) -> sys::Result<()> {
    match rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()) {
        Err(Errno::OPNOTSUPP) if name != b"security.capability" => Ok(()),
        result => result.at("fsetxattr", String::from_utf8_lossy(name)),
    }
}

/// Makes a directory hide what is below it in lower layers.
///
/// # Errors
/// Those of `fsetxattr`.
pub(crate) fn set_opaque(dir: impl AsFd) -> sys::Result<()> {
    rustix::fs::fsetxattr(dir, OPAQUE, b"y", XattrFlags::empty()).at("fsetxattr", OPAQUE)
}

/// Whether a directory hides what is below it.
///
/// # Errors
/// Those of `fgetxattr`.
pub(crate) fn is_opaque(dir: impl AsFd) -> sys::Result<bool> {
    let mut value = [0_u8; 2];
    match rustix::fs::fgetxattr(dir, OPAQUE, &mut value[..]) {
        Ok(length) => Ok(value[..length] == *b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(errno) => Err(sys::Error::new("fgetxattr", OPAQUE, errno)),
    }
}

/// Copies the attributes that are [`allowed`] from one file to another.
///
/// # Errors
/// Those of `flistxattr`, `fgetxattr` and `fsetxattr`.
pub(crate) fn copy(from: impl AsFd, to: impl AsFd) -> sys::Result<()> {
    let size = match rustix::fs::flistxattr_query(&from) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(()),
        size => size.at("flistxattr", "")?,
    };
    let mut names = vec![0; size];
    let size = rustix::fs::flistxattr(&from, &mut names[..]).at("flistxattr", "")?;
    for name in names[..size].split(|&b| b == 0).filter(|name| allowed(name)) {
        let size = rustix::fs::fgetxattr_query(&from, name).at("fgetxattr", String::from_utf8_lossy(name))?;
        let mut value = vec![0; size];
        let size = rustix::fs::fgetxattr(&from, name, &mut value[..]).at("fgetxattr", String::from_utf8_lossy(name))?;
        set(&to, name, &value[..size])?;
    }
    Ok(())
}

/// Every attribute that a layer's file has by its archive, or by overlayfs's mark, sorted.
///
/// # Errors
/// Those of `flistxattr` and `fgetxattr`.
pub(crate) fn all(file: impl AsFd) -> sys::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let size = match rustix::fs::flistxattr_query(&file) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        size => size.at("flistxattr", "")?,
    };
    let mut names = vec![0; size];
    let size = rustix::fs::flistxattr(&file, &mut names[..]).at("flistxattr", "")?;
    let mut found = Vec::new();
    for name in names[..size].split(|&b| b == 0).filter(|name| allowed(name) || *name == OPAQUE.as_bytes()) {
        let size = rustix::fs::fgetxattr_query(&file, name).at("fgetxattr", String::from_utf8_lossy(name))?;
        let mut value = vec![0; size];
        let size = rustix::fs::fgetxattr(&file, name, &mut value[..]).at("fgetxattr", String::from_utf8_lossy(name))?;
        value.truncate(size);
        found.push((name.to_vec(), value));
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_cannot_speak_to_overlayfs() {
        for name in ["user.x", "trusted.x", "security.capability"] {
            assert!(allowed(name.as_bytes()), "{name}");
        }
        for name in [
            "trusted.overlay.opaque",
            "trusted.overlay.redirect",
            "trusted.overlay.overlay.opaque",
            "user.overlay.opaque",
            "system.posix_acl_access",
            "security.selinux",
            "security.ima",
            "security.capability2",
            "",
        ] {
            assert!(!allowed(name.as_bytes()), "{name}");
        }
    }
}
