//! Reading layer archives: uncompressed tar in the ustar, PAX, GNU, star and v7 forms.
//!
//! The reader is strict where readers are known to disagree, because a layer that one program scans and another unpacks
//! must be the same layer in both: a PAX size replaces the header's (CVE-2025-62518), two names for one entry are an
//! error, a sparse map must add up, and an archive without its end mark is truncated.

use std::io::{ErrorKind, Read};

use rustix::fs::Timespec;

use crate::error::{Error, Result, lossy};

mod header;
mod pax;
mod sparse;
#[cfg(test)]
pub(crate) mod testing;

use header::{BLOCK, Header, Reason, text};
use pax::Extended;
pub(crate) use sparse::Region;

/// Bounds on one layer archive. Exceeding one is [`Error::Limit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the whole uncompressed stream, padding and what follows the end mark included.
    pub stream_bytes: u64,
    /// Headers, extension headers included.
    pub entries: u64,
    /// Bytes of a name or link target. The kernel's own bound on a path is 4095 (`PATH_MAX` less the NUL).
    pub path_bytes: usize,
    /// Components of a name.
    pub path_depth: usize,
    /// Bytes of one PAX header or of one sparse map.
    pub header_bytes: u64,
    /// Bytes of one extended attribute's value. The kernel's own bound is 65536 (`XATTR_SIZE_MAX`).
    pub xattr_bytes: usize,
    /// Accept an archive that ends between two entries without the end mark. Some writers forget it; only a caller that
    /// verifies the stream's digest can tell that from a truncation.
    pub missing_end: bool,
}

impl Default for Limits {
    /// 128 GiB, five million headers, names of 4095 bytes and 1024 components, headers of 1 MiB, attributes of 64 KiB.
    fn default() -> Self {
        Self {
            stream_bytes: 128 << 30,
            entries: 5_000_000,
            path_bytes: 4095,
            path_depth: 1024,
            header_bytes: 1 << 20,
            xattr_bytes: 1 << 16,
            missing_end: false,
        }
    }
}

/// What an entry makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    #[default]
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// One entry, extension headers applied. Reused from entry to entry.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timespec,
    /// Size of the file in bytes, holes included.
    pub(crate) size: u64,
    /// Major and minor number of a device.
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the stored bytes belong; `None` for a file without holes.
    pub(crate) sparse: Option<Vec<Region>>,
}

impl Entry {
    pub(crate) fn new() -> Self {
        Self {
            kind: Kind::File,
            path: Vec::new(),
            link: Vec::new(),
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Timespec { tv_sec: 0, tv_nsec: 0 },
            size: 0,
            device: (0, 0),
            xattrs: Vec::new(),
            sparse: None,
        }
    }
}

/// Bytes read from the source at once, and so the largest write.
const BUFFER: usize = 256 << 10;

/// A reader of one archive.
pub(crate) struct Reader<'r> {
    source: &'r mut dyn Read,
    limits: &'r Limits,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes read from the source.
    taken: u64,
    headers: u64,
    /// Data of the current entry that was not taken yet, and the padding after it.
    data: u64,
    padding: u64,
    extended: Extended,
}

impl<'r> Reader<'r> {
    pub(crate) fn new(source: &'r mut dyn Read, limits: &'r Limits) -> Self {
        Self {
            source,
            limits,
            buffer: vec![0; BUFFER],
            start: 0,
            end: 0,
            taken: 0,
            headers: 0,
            data: 0,
            padding: 0,
            extended: Extended::default(),
        }
    }

    /// Reads the next entry; false after the end mark, when the source was read to its end too.
    pub(crate) fn next(&mut self, entry: &mut Entry) -> Result<bool> {
        self.skip_data()?;
        self.extended.clear();
        loop {
            let Some(block) = self.block()? else {
                if self.limits.missing_end && !self.extended.waits() {
                    return Ok(false);
                }
                return Err(Error::Truncated);
            };
            if block == [0; BLOCK] {
                self.end_mark(entry)?;
                return Ok(false);
            }
            self.headers += 1;
            if self.headers > self.limits.entries {
                return Err(Error::Limit { what: "entries", limit: self.limits.entries });
            }
            let malformed = |reason| Error::Malformed { entry: lossy(text(&block[..100])), reason };
            let header = Header::new(&block).map_err(malformed)?;
            match header.flag() {
                b'x' => {
                    if std::mem::replace(&mut self.extended.seen, true) {
                        return Err(malformed("two extended headers for one entry"));
                    }
                    let records = self.bounded(&header, self.limits.header_bytes, "bytes in an extended header")?;
                    self.extended.parse(&records).map_err(malformed)?;
                }
                b'g' => {
                    let records = self.bounded(&header, self.limits.header_bytes, "bytes in an extended header")?;
                    pax::check(&records).map_err(malformed)?;
                }
                flag @ (b'L' | b'K') => {
                    // One more for the NUL that GNU tar counts in.
                    let name = self.bounded(&header, self.limits.path_bytes as u64 + 1, "bytes in a name")?;
                    let slot = if flag == b'L' { &mut self.extended.gnu_path } else { &mut self.extended.gnu_link };
                    if slot.replace(text(&name).to_vec()).is_some() {
                        return Err(malformed("two long names for one entry"));
                    }
                }
                _ => {
                    self.finish(&header, entry)?;
                    return Ok(true);
                }
            }
        }
    }

    /// The next piece of the current entry's data, at most `most` bytes; `None` when it is all taken.
    pub(crate) fn data(&mut self, most: u64) -> Result<Option<&[u8]>> {
        let want = self.data.min(most);
        if want == 0 {
            return Ok(None);
        }
        if self.start == self.end {
            self.refill()?;
            if self.start == self.end {
                return Err(Error::Truncated);
            }
        }
        let have = self.end - self.start;
        let length = usize::try_from(want).map_or(have, |want| want.min(have));
        let piece = &self.buffer[self.start..self.start + length];
        self.start += length;
        self.data -= length as u64;
        Ok(Some(piece))
    }

    /// Fills the entry from its header and the extension headers before it.
    fn finish(&mut self, header: &Header<'_>, entry: &mut Entry) -> Result<()> {
        header.name(&mut entry.path);
        let malformed = |entry: &Entry, reason: Reason| Error::Malformed { entry: lossy(&entry.path), reason };
        let mut fields = || -> Result<(), Reason> {
            let extended = &mut self.extended;
            if (extended.path.is_some() && extended.gnu_path.is_some())
                || (extended.link.is_some() && extended.gnu_link.is_some())
            {
                return Err("a PAX and a GNU name for one entry");
            }
            if let Some(path) = extended.path.take().or(extended.gnu_path.take()) {
                entry.path = path;
            }
            match extended.link.take().or(extended.gnu_link.take()) {
                Some(link) => entry.link = link,
                None => {
                    entry.link.clear();
                    entry.link.extend_from_slice(header.link());
                }
            }
            entry.kind = match header.flag() {
                // v7 has no flag for directories, only the slash (POSIX pax, "typeflag").
                0 if entry.path.ends_with(b"/") => Kind::Directory,
                0 | b'0' | b'7' | b'S' => Kind::File,
                b'1' => Kind::HardLink,
                b'2' => Kind::Symlink,
                b'3' => Kind::CharDevice,
                b'4' => Kind::BlockDevice,
                b'5' => Kind::Directory,
                b'6' => Kind::Fifo,
                _ => return Err("an unknown type of entry"),
            };
            entry.mode = header.mode()?;
            entry.uid = extended.uid.map_or_else(|| header.uid(), Ok)?;
            entry.gid = extended.gid.map_or_else(|| header.gid(), Ok)?;
            entry.mtime = extended.mtime.map_or_else(|| header.mtime(), Ok)?;
            entry.device = match entry.kind {
                Kind::CharDevice | Kind::BlockDevice => header.device()?,
                _ => (0, 0),
            };
            entry.size = match extended.size {
                Some(size) => size,
                None => header.size()?,
            };
            // Only files have data; writers put all kinds of sizes on the others.
            if entry.kind != Kind::File {
                entry.size = 0;
            }
            entry.xattrs.clear();
            entry.xattrs.append(&mut extended.xattrs);
            Ok(())
        };
        fields().map_err(|reason| malformed(entry, reason))?;
        if entry.xattrs.iter().any(|(_, value)| value.len() > self.limits.xattr_bytes) {
            return Err(Error::Limit { what: "bytes in an extended attribute", limit: self.limits.xattr_bytes as u64 });
        }
        self.data = entry.size;
        self.padding = (BLOCK as u64 - entry.size % BLOCK as u64) % BLOCK as u64;
        self.sparse_map(header, entry)
    }

    /// Reads the current entry's sparse map, if it has one.
    fn sparse_map(&mut self, header: &Header<'_>, entry: &mut Entry) -> Result<()> {
        entry.sparse = None;
        let records = std::mem::take(&mut self.extended.sparse);
        let malformed = |entry: &Entry, reason: Reason| Error::Malformed { entry: lossy(&entry.path), reason };
        let (map, real_size) = if header.flag() == b'S' {
            let (slots, mut more, real_size) = header.gnu_sparse().map_err(|reason| malformed(entry, reason))?;
            let mut map = Vec::new();
            let mut go_on = sparse::old_gnu(slots, &mut map).map_err(|reason| malformed(entry, reason))?;
            while more {
                let block = self.block()?.ok_or(Error::Truncated)?;
                if go_on {
                    go_on = sparse::old_gnu(&block[..504], &mut map).map_err(|reason| malformed(entry, reason))?;
                }
                more = block[504] != 0;
                self.check_map(map.len())?;
                // A chain of empty blocks is a flood too.
                if more && !go_on {
                    return Err(malformed(entry, "a sparse map goes on after its end"));
                }
            }
            (map, real_size)
        } else if records.major == Some(1) {
            if records.minor != Some(0) || entry.kind != Kind::File {
                return Err(malformed(entry, "an unknown form of sparse file"));
            }
            let mut reader = sparse::MapReader::default();
            let mut bytes = 0;
            loop {
                if self.data < BLOCK as u64 {
                    return Err(malformed(entry, "a sparse map is longer than its file"));
                }
                let block = self.block()?.ok_or(Error::Truncated)?;
                self.data -= BLOCK as u64;
                bytes += BLOCK as u64;
                if bytes > self.limits.header_bytes {
                    return Err(Error::Limit { what: "bytes in a sparse map", limit: self.limits.header_bytes });
                }
                if reader.block(&block).map_err(|reason| malformed(entry, reason))? {
                    break;
                }
            }
            let real_size = records.real_size.ok_or_else(|| malformed(entry, "a sparse file without a real size"))?;
            (reader.map, real_size)
        } else if let Some(map) = records.map {
            if records.major.is_some_and(|major| major != 0) || entry.kind != Kind::File {
                return Err(malformed(entry, "an unknown form of sparse file"));
            }
            (map, records.real_size.unwrap_or(entry.size))
        } else {
            return Ok(());
        };
        if let Some(name) = records.name {
            entry.path = name;
        }
        self.check_map(map.len())?;
        sparse::check(&map, self.data, real_size).map_err(|reason| malformed(entry, reason))?;
        entry.size = real_size;
        entry.sparse = Some(map);
        Ok(())
    }

    /// Bounds a sparse map by the bytes its shortest text form would take.
    fn check_map(&self, regions: usize) -> Result<()> {
        let limit = self.limits.header_bytes / 4;
        if regions as u64 > limit { Err(Error::Limit { what: "regions in a sparse map", limit }) } else { Ok(()) }
    }

    /// Reads the data of an extension header.
    fn bounded(&mut self, header: &Header<'_>, limit: u64, what: &'static str) -> Result<Vec<u8>> {
        let mut name = Vec::new();
        header.name(&mut name);
        let size = header.size().map_err(|reason| Error::Malformed { entry: lossy(&name), reason })?;
        if size > limit {
            return Err(Error::Limit { what, limit });
        }
        self.data = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        while let Some(piece) = self.data(u64::MAX)? {
            bytes.extend_from_slice(piece);
        }
        self.skip_data()?;
        Ok(bytes)
    }

    /// Takes what is left of the current entry's data and its padding.
    fn skip_data(&mut self) -> Result<()> {
        let mut left = self.data.saturating_add(self.padding);
        (self.data, self.padding) = (0, 0);
        while left > 0 {
            if self.start == self.end {
                self.refill()?;
                if self.start == self.end {
                    return Err(Error::Truncated);
                }
            }
            let have = self.end - self.start;
            let step = usize::try_from(left).map_or(have, |left| left.min(have));
            self.start += step;
            left -= step as u64;
        }
        Ok(())
    }

    /// Checks the second block of the end mark and reads the source to its end, so that a digest of it is complete.
    fn end_mark(&mut self, entry: &Entry) -> Result<()> {
        if self.extended.waits() {
            return Err(Error::Malformed {
                entry: lossy(&entry.path),
                reason: "an extended header without an entry after it",
            });
        }
        // The second zero block may be missing: some writers end with one.
        if self.block()?.is_some_and(|block| block != [0; BLOCK]) {
            return Err(Error::Malformed { entry: lossy(&entry.path), reason: "a lone zero block after this entry" });
        }
        loop {
            self.start = self.end;
            self.refill()?;
            if self.start == self.end {
                return Ok(());
            }
        }
    }

    /// The next 512 bytes; `None` at the end of the source.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        if self.end - self.start < BLOCK {
            self.refill()?;
        }
        match self.buffer[self.start..self.end].first_chunk() {
            Some(block) => {
                self.start += BLOCK;
                Ok(Some(*block))
            }
            None if self.start == self.end => Ok(None),
            None => Err(Error::Truncated),
        }
    }

    /// Moves what is left to the buffer's front and fills the buffer, so that a decoder that gives little at a time
    /// does not make for little writes. It is left unfilled only at the source's end.
    fn refill(&mut self) -> Result<()> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        while self.end < self.buffer.len() {
            match self.source.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(count) => {
                    self.end += count;
                    self.taken += count as u64;
                    if self.taken > self.limits.stream_bytes {
                        return Err(Error::Limit { what: "bytes", limit: self.limits.stream_bytes });
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Source(error)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
