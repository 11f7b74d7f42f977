//! A container's root file system as one flat archive: the merged view of its layers, written as a PAX tar.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use sys::Context;
use sys::mount::{Attributes, Change, Propagation};
use sys::overlay::Overlay;

use crate::error::{Error, Result, lossy};
use crate::layers::{LayerStore, open_dir};
use crate::walk::{self, Visitor};
use crate::xattr;

/// Size of a tar block (POSIX.1-2017, pax, "ustar Interchange Format").
const BLOCK: usize = 512;
/// Bytes of a file read at a time.
const CHUNK: usize = 256 << 10;
/// Most bytes of a file's list of attributes, and of one of them (`XATTR_LIST_MAX` and `XATTR_SIZE_MAX`, xattr(7)).
const XATTR_MAX: usize = 1 << 16;
/// Most bytes of a name in a ustar header; longer ones go into a PAX header.
const NAME_MAX: usize = 100;

impl LayerStore {
    /// The root file system of the container in the directory `container`, as it is now: a read-only mount that is in
    /// nobody's tree of mounts and goes with the descriptor. `chain` is base first. The container may be running; what it
    /// changes meanwhile may or may not be seen.
    ///
    /// # Errors
    /// [`Error::NoLayers`], [`Error::MissingLayer`], and those of the system calls.
    pub fn merged(&self, container: &std::path::Path, chain: &[oci::Digest]) -> Result<OwnedFd> {
        if chain.is_empty() {
            return Err(Error::NoLayers);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(container, flags, Mode::empty()).at("open", container.display())?;
        let mut lowers = vec![open_dir(dir.as_fd(), "upper")?];
        for layer in chain.iter().rev() {
            lowers.push(self.dirs.open_diff(layer)?);
        }
        together(&lowers, Attributes::RDONLY)
    }

    /// The layers of `chain`, base first, as one read-only tree: a mount that is in nobody's tree of mounts and goes with
    /// the descriptor unless it is attached. Nothing in it is executed with another's rights, and it has no devices.
    ///
    /// # Errors
    /// As [`LayerStore::merged`].
    pub fn view(&self, chain: &[oci::Digest]) -> Result<OwnedFd> {
        let attributes = Attributes::RDONLY | Attributes::NOSUID | Attributes::NODEV;
        let lowers = chain.iter().rev().map(|layer| self.dirs.open_diff(layer)).collect::<Result<Vec<_>>>()?;
        match &lowers[..] {
            [] => Err(Error::NoLayers),
            // An overlay has two layers at least.
            [only] => {
                let tree = sys::mount::clone_tree(only, "", false)?;
                let change = Change { set: attributes, propagation: Some(Propagation::Private), ..Change::default() };
                sys::mount::set_attributes(&tree, &change)?;
                Ok(tree)
            }
            _ => together(&lowers, attributes),
        }
    }
}

/// An overlay of nothing but `lowers`, topmost first, attached nowhere.
fn together(lowers: &[OwnedFd], attributes: Attributes) -> Result<OwnedFd> {
    let overlay = Overlay::new(lowers, None, |fs| {
        fs.set("source", "lighter")?;
        // The upper directory may be another mount's just now, which only an index forbids.
        ["index", "metacopy", "redirect_dir"].into_iter().try_for_each(|key| fs.set(key, "off"))
    })?;
    Ok(overlay.mount(attributes)?)
}

/// Writes everything below the directory `root` to `out`: owners, modes, links, devices and extended attributes, times in
/// whole seconds. Sockets are left out, as no archive can hold them, and what disappears meanwhile. Mounts below `root`
/// are not crossed.
///
/// # Errors
/// [`Error::Archive`] when `out` fails; those of the system calls.
pub fn export(root: impl AsFd, out: &mut dyn Write) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(root, c".", flags, Mode::empty()).at("openat", "/")?;
    let mut exporter =
        Exporter { out, dir: Vec::new(), names: HashMap::new(), buffer: vec![0; CHUNK], list: Vec::new() };
    walk::walk(root, &mut exporter)?;
    exporter.write(&[0; 2 * BLOCK])
}

struct Exporter<'a> {
    out: &'a mut dyn Write,
    /// The directory whose entries are being told, from the root, without slashes around it.
    dir: Vec<u8>,
    /// The first name of each file that has several.
    names: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
    /// Room for the names of a file's attributes, once a file has any.
    list: Vec<u8>,
}

/// What an entry's headers say.
struct Entry<'a> {
    name: &'a [u8],
    kind: u8,
    stat: &'a Stat,
    size: u64,
    link: &'a [u8],
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Visitor for Exporter<'_> {
    fn entry(&mut self, dir: BorrowedFd<'_>, name: &CStr, kind: FileType) -> Result<()> {
        let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            stat => stat.at("fstatat", name.to_string_lossy())?,
        };
        if FileType::from_raw_mode(stat.st_mode) != kind {
            // Replaced since the directory was read.
            return Ok(());
        }
        let mut path = self.dir.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.to_bytes());
        let mut entry = Entry { name: &path, kind: b'0', stat: &stat, size: 0, link: &[], attributes: Vec::new() };
        let target;
        match kind {
            FileType::RegularFile
            | FileType::Symlink
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Fifo => {}
            _ => return Ok(()),
        }
        let identity = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1 {
            if let Some(first) = self.names.get(&identity).cloned() {
                return self.header(&Entry { kind: b'1', link: &first, ..entry });
            }
            self.names.insert(identity, path.clone());
        }
        entry.attributes = attributes(dir, name, &mut self.list)?;
        match kind {
            FileType::RegularFile => return self.file(dir, name, entry),
            FileType::Symlink => {
                target = rustix::fs::readlinkat(dir, name, Vec::new()).at("readlinkat", name.to_string_lossy())?;
                entry.link = target.to_bytes();
                entry.kind = b'2';
            }
            FileType::CharacterDevice => entry.kind = b'3',
            FileType::BlockDevice => entry.kind = b'4',
            _ => entry.kind = b'6',
        }
        self.header(&entry)
    }

    fn opened(&mut self, dir: BorrowedFd<'_>, path: &[u8]) -> Result<()> {
        self.dir = path.to_vec();
        if path.is_empty() {
            return Ok(());
        }
        let stat = rustix::fs::fstat(dir).at("fstat", lossy(path))?;
        let attributes = attributes(dir, c".", &mut self.list)?;
        let name = [path, b"/"].concat();
        self.header(&Entry { name: &name, kind: b'5', stat: &stat, size: 0, link: &[], attributes })
    }

    fn failed(&mut self, error: sys::Error) -> Result<()> {
        // Gone meanwhile, or a mount that is not part of the tree.
        if matches!(error.errno(), Errno::NOENT | Errno::XDEV) { Ok(()) } else { Err(error.into()) }
    }
}

impl Exporter<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(Error::Archive)
    }

    fn pad(&mut self, size: u64) -> Result<()> {
        let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
        if over > 0 { self.write(&[0; BLOCK][over..]) } else { Ok(()) }
    }

    fn file(&mut self, dir: BorrowedFd<'_>, name: &CStr, entry: Entry<'_>) -> Result<()> {
        let shown = || name.to_string_lossy().into_owned();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut file = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::LOOP) => return Ok(()),
            file => File::from(file.at("openat", shown())?),
        };
        let size = u64::try_from(entry.stat.st_size).unwrap_or(0);
        self.header(&Entry { size, ..entry })?;
        let mut left = size;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let count = file.read(&mut self.buffer[..most]).at("read", shown())?;
            // A file that shrank meanwhile is filled up: its size is said already.
            let count = if count == 0 {
                self.buffer[..most].fill(0);
                most
            } else {
                count
            };
            self.out.write_all(&self.buffer[..count]).map_err(Error::Archive)?;
            left -= count as u64;
        }
        self.pad(size)
    }

    /// The headers of an entry: what a ustar header has no room for goes before it, into a PAX header.
    fn header(&mut self, entry: &Entry<'_>) -> Result<()> {
        let mut records = Vec::new();
        for (key, value) in [("path", entry.name), ("linkpath", entry.link)] {
            if value.len() > NAME_MAX || !value.is_ascii() {
                record(&mut records, key.as_bytes(), value);
            }
        }
        let stat = entry.stat;
        let (seconds, uid, gid) = (stat.st_mtime, u64::from(stat.st_uid), u64::from(stat.st_gid));
        let time = u64::try_from(seconds).ok();
        for (key, value, width) in [("size", entry.size, 12), ("uid", uid, 8), ("gid", gid, 8)] {
            if !fits(value, width) {
                record(&mut records, key.as_bytes(), value.to_string().as_bytes());
            }
        }
        if time.is_none_or(|time| !fits(time, 12)) {
            record(&mut records, b"mtime", seconds.to_string().as_bytes());
        }
        for (name, value) in &entry.attributes {
            record(&mut records, &[b"SCHILY.xattr.", &name[..]].concat(), value);
        }
        if !records.is_empty() {
            let size = records.len() as u64;
            self.write(&block(b"PaxHeaders.0/entry", b'x', 0o644, [0, 0, size, 0], b"", (0, 0)))?;
            self.write(&records)?;
            self.pad(size)?;
        }
        let or_zero = |value: u64, width: usize| if fits(value, width) { value } else { 0 };
        let numbers =
            [or_zero(uid, 8), or_zero(gid, 8), or_zero(entry.size, 12), time.map_or(0, |time| or_zero(time, 12))];
        let device = match entry.kind {
            b'3' | b'4' => (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
            _ => (0, 0),
        };
        self.write(&block(entry.name, entry.kind, stat.st_mode & 0o7777, numbers, entry.link, device))
    }
}

/// Whether a number fits into an octal field of `width` bytes, the end mark included.
fn fits(value: u64, width: usize) -> bool {
    value < 1 << (3 * (width - 1))
}

/// A ustar header. `numbers` are user, group, size and time, all of which fit; names are cut to what fits.
fn block(
    name: &[u8],
    kind: u8,
    mode: u32,
    [uid, gid, size, time]: [u64; 4],
    link: &[u8],
    device: (u32, u32),
) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    let octal = |value: u64, width: usize| format!("{value:0digits$o}\0", digits = width - 1);
    put(0, &name[..name.len().min(NAME_MAX)]);
    put(100, octal(mode.into(), 8).as_bytes());
    put(108, octal(uid, 8).as_bytes());
    put(116, octal(gid, 8).as_bytes());
    put(124, octal(size, 12).as_bytes());
    put(136, octal(time, 12).as_bytes());
    put(148, b"        ");
    put(156, &[kind]);
    put(157, &link[..link.len().min(NAME_MAX)]);
    put(257, b"ustar\x0000");
    put(329, octal(device.0.into(), 8).as_bytes());
    put(337, octal(device.1.into(), 8).as_bytes());
    let sum: u64 = header.iter().map(|&byte| u64::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// Adds a PAX record, whose length counts its own digits.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + rest.to_string().len();
    if length.to_string().len() > rest.to_string().len() {
        length += 1;
    }
    records.extend_from_slice(format!("{length} ").as_bytes());
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// The extended attributes that an image may bring, of a file that may be of any kind. One whose name has an equals sign
/// cannot be said in a PAX header. `list` is room that is used again: most files have none, and none costs no memory.
fn attributes(dir: BorrowedFd<'_>, name: &CStr, list: &mut Vec<u8>) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    // By path, because a link or device cannot be opened for it; the last component is not followed.
    let path = [format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(), name.to_bytes()].concat();
    let Ok(path) = CString::new(path) else { return Ok(Vec::new()) };
    let shown = || name.to_string_lossy().into_owned();
    let missing = |errno| matches!(errno, Errno::NOENT | Errno::NODATA | Errno::OPNOTSUPP);
    // A question of its own: with an empty buffer, rustix says 0 whatever there is.
    match rustix::fs::llistxattr_query(&path) {
        Ok(0) => return Ok(Vec::new()),
        Ok(_) => list.resize(XATTR_MAX, 0),
        Err(errno) if missing(errno) => return Ok(Vec::new()),
        Err(errno) => return Err(sys::Error::new("llistxattr", shown(), errno).into()),
    }
    let size = match rustix::fs::llistxattr(&path, &mut list[..]) {
        Err(errno) if missing(errno) => return Ok(Vec::new()),
        size => size.at("llistxattr", shown())?,
    };
    let mut found = Vec::new();
    for key in list[..size].split(|&byte| byte == 0).filter(|key| xattr::allowed(key) && !key.contains(&b'=')) {
        let mut value = vec![0; XATTR_MAX];
        let size = match rustix::fs::lgetxattr(&path, key, &mut value[..]) {
            Err(errno) if missing(errno) => continue,
            size => size.at("lgetxattr", shown())?,
        };
        value.truncate(size);
        value.shrink_to_fit();
        found.push((key.to_vec(), value));
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_count_their_own_digits() {
        for (key, value, expected) in [("a", 1, 6), ("path", 90, 99), ("path", 91, 101), ("path", 93, 103)] {
            let mut records = Vec::new();
            record(&mut records, key.as_bytes(), "x".repeat(value).as_bytes());
            assert!(records.starts_with(format!("{expected} {key}=").as_bytes()), "{key} {value}");
            assert_eq!(records.len(), expected);
        }
    }

    #[test]
    fn fields_end_where_their_digits_do() {
        assert!(fits(0o777_7777, 8) && !fits(0o1000_0000, 8));
        assert!(fits((8 << 30) - 1, 12) && !fits(8 << 30, 12));
    }
}
