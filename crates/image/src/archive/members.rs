//! The members of a tar archive, one after the other, with bounds on everything that is kept in memory.

use std::io::{self, Read};

use tar::{EntryType, Header};

use crate::content::read_bounded;
use crate::{Error, Result};

const BLOCK: u64 = 512;
/// Largest extended header (long name, PAX record), in bytes.
const EXTENDED_MAX: u64 = 1 << 20;
/// Most members of one archive.
const MEMBERS_MAX: u64 = 1 << 20;
const WHAT: &str = "image archive";

/// What a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A regular file, whose bytes [`Members`] gives when read.
    File,
    /// A symbolic link to this name.
    Symlink(String),
    /// A hard link to this member.
    Hardlink(String),
    /// A directory or anything else without bytes of interest.
    Other,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) size: u64,
}

/// Reads members; between two calls of [`Members::next`] it reads as the bytes of the current one.
pub(crate) struct Members<R> {
    reader: R,
    /// Unread bytes of the current member.
    remaining: u64,
    /// Bytes that pad it to a block.
    padding: u64,
    seen: u64,
}

#[derive(Default)]
struct Extended {
    name: Option<String>,
    link: Option<String>,
    size: Option<u64>,
}

impl<R: Read> Members<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, remaining: 0, padding: 0, seen: 0 }
    }

    /// The next member, or `None` at the end of the archive.
    pub(crate) fn next(&mut self) -> Result<Option<Member>> {
        let mut extended = Extended::default();
        loop {
            self.skip_rest()?;
            let Some(header) = self.header()? else { return Ok(None) };
            self.seen += 1;
            if self.seen > MEMBERS_MAX {
                return Err(malformed("it has too many members"));
            }
            let kind = header.entry_type();
            let size = header.entry_size().map_err(|e| malformed(e.to_string()))?;
            self.begin(size);
            match kind {
                EntryType::GNULongName => extended.name = Some(self.long_name()?),
                EntryType::GNULongLink => extended.link = Some(self.long_name()?),
                EntryType::XHeader => self.pax(&mut extended)?,
                EntryType::XGlobalHeader => {}
                _ => return self.member(&header, kind, extended).map(Some),
            }
        }
    }

    fn member(&mut self, header: &Header, kind: EntryType, extended: Extended) -> Result<Member> {
        if let Some(size) = extended.size {
            self.begin(size);
        }
        let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let name = extended.name.unwrap_or_else(|| lossy(&header.path_bytes()));
        let link = extended.link.unwrap_or_else(|| header.link_name_bytes().map(|l| lossy(&l)).unwrap_or_default());
        let kind = match kind {
            EntryType::Regular | EntryType::Continuous if !name.ends_with('/') => Kind::File,
            EntryType::Symlink => Kind::Symlink(link),
            EntryType::Link => Kind::Hardlink(link),
            EntryType::GNUSparse => return Err(malformed(format!("member {name:?} is a sparse file"))),
            _ => Kind::Other,
        };
        if matches!(kind, Kind::Symlink(_) | Kind::Hardlink(_)) {
            // Some writers give links the size of their target; no bytes follow.
            self.begin(0);
        }
        Ok(Member { name, kind, size: self.remaining })
    }

    fn begin(&mut self, size: u64) {
        self.remaining = size;
        self.padding = size.next_multiple_of(BLOCK).saturating_sub(size);
    }

    fn header(&mut self) -> Result<Option<Header>> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        match fill(&mut self.reader, block)? {
            0 => return Ok(None),
            n if (n as u64) < BLOCK => return Err(malformed("it is truncated")),
            _ => {}
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let checksum = header.cksum().map_err(|_| malformed("it is not a tar archive"))?;
        let sum = |range: &[u8]| range.iter().map(|byte| u32::from(*byte)).sum::<u32>();
        let bytes = header.as_bytes();
        // The checksum's own eight bytes count as spaces.
        if sum(&bytes[..148]) + 8 * 32 + sum(&bytes[156..]) != checksum {
            return Err(malformed("it is not a tar archive, or damaged: a header's checksum is wrong"));
        }
        Ok(Some(header))
    }

    fn long_name(&mut self) -> Result<String> {
        let bytes = self.extended()?;
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }

    /// PAX records: `LENGTH KEY=VALUE\n`, where LENGTH counts the whole record.
    fn pax(&mut self, extended: &mut Extended) -> Result<()> {
        let bytes = self.extended()?;
        let bad = || malformed("a PAX header is damaged");
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let space = rest.iter().position(|byte| *byte == b' ').ok_or_else(bad)?;
            let length: usize =
                std::str::from_utf8(&rest[..space]).ok().and_then(|digits| digits.parse().ok()).ok_or_else(bad)?;
            if length <= space + 1 || length > rest.len() || rest[length - 1] != b'\n' {
                return Err(bad());
            }
            let record = String::from_utf8_lossy(&rest[space + 1..length - 1]);
            let (key, value) = record.split_once('=').ok_or_else(bad)?;
            match key {
                "path" => extended.name = Some(value.to_owned()),
                "linkpath" => extended.link = Some(value.to_owned()),
                "size" => extended.size = Some(value.parse().map_err(|_| bad())?),
                "GNU.sparse.major" | "GNU.sparse.map" => return Err(malformed("it has a sparse file")),
                _ => {}
            }
            rest = &rest[length..];
        }
        Ok(())
    }

    fn extended(&mut self) -> Result<Vec<u8>> {
        if self.remaining > EXTENDED_MAX {
            return Err(Error::TooLarge { what: "a header of the image archive".to_owned(), limit: EXTENDED_MAX });
        }
        let size = self.remaining;
        let bytes = read_bounded(self, EXTENDED_MAX, WHAT)?;
        if bytes.len() as u64 != size {
            return Err(malformed("it is truncated"));
        }
        Ok(bytes)
    }

    fn skip_rest(&mut self) -> Result<()> {
        let rest = self.remaining.saturating_add(self.padding);
        let skipped = io::copy(&mut self.reader.by_ref().take(rest), &mut io::sink());
        if skipped.map_err(|e| Error::read(WHAT, e))? < rest {
            return Err(malformed("it is truncated"));
        }
        (self.remaining, self.padding) = (0, 0);
        Ok(())
    }
}

impl<R: Read> Read for Members<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buf.len());
        let n = self.reader.read(&mut buf[..most])?;
        self.remaining -= n as u64;
        if n == 0 && most > 0 {
            return Err(malformed("it is truncated").into_io());
        }
        Ok(n)
    }
}

fn malformed(reason: impl Into<String>) -> Error {
    Error::malformed(WHAT, reason)
}

fn fill(reader: &mut impl Read, block: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match reader.read(&mut block[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::read(WHAT, error)),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{tar_entry, tar_of};

    fn all(tar: &[u8]) -> Result<Vec<(Member, Vec<u8>)>> {
        let mut members = Members::new(tar);
        let mut list = Vec::new();
        while let Some(member) = members.next()? {
            let mut bytes = Vec::new();
            members.read_to_end(&mut bytes).map_err(|e| Error::read(WHAT, e))?;
            list.push((member, bytes));
        }
        Ok(list)
    }

    #[test]
    fn members_and_long_names() {
        let long = format!("dir/{}", "n".repeat(300));
        let mut tar = Vec::new();
        tar_entry(&mut tar, "a", EntryType::Regular, "", b"hello");
        tar_entry(&mut tar, "././@LongLink", EntryType::GNULongName, "", format!("{long}\0").as_bytes());
        tar_entry(&mut tar, "short", EntryType::Regular, "", &[7; 513]);
        tar_entry(&mut tar, "pax", EntryType::XHeader, "", b"12 path=p/q\n19 linkpath=../tgt\n");
        tar_entry(&mut tar, "l", EntryType::Symlink, "x", b"");
        tar.extend([0; 1024]);
        let list = all(&tar).expect("valid");
        assert_eq!(list[0], (Member { name: "a".to_owned(), kind: Kind::File, size: 5 }, b"hello".to_vec()));
        assert_eq!((list[1].0.name.as_str(), list[1].1.len()), (long.as_str(), 513));
        assert_eq!(list[2].0, Member { name: "p/q".to_owned(), kind: Kind::Symlink("../tgt".to_owned()), size: 0 });
        assert_eq!(list.len(), 3);
    }

    #[test]
    fn damage_is_an_error() {
        let tar = tar_of(&[("a", b"hello")]);
        assert!(all(&tar[..512]).is_err(), "no body");
        assert!(all(&tar[..515]).is_err(), "half a body");
        assert!(all(&tar[..100]).is_err(), "half a header");
        assert_eq!(all(&tar[..1024]).expect("the end may be missing").len(), 1);
        let mut flipped = tar;
        flipped[0] ^= 1;
        assert!(all(&flipped).is_err());
        assert!(all(&[b'x'; 2048]).is_err());
        for pax in [&b"5 a=b"[..], b"99 path=x\n", b"0 \n", b"x path=y\n", b"8 path=\n", b"12 size=-100\n"] {
            let mut tar = Vec::new();
            tar_entry(&mut tar, "pax", EntryType::XHeader, "", pax);
            tar_entry(&mut tar, "a", EntryType::Regular, "", b"");
            let parsed = all(&tar);
            assert!(parsed.is_err() || parsed.is_ok_and(|l| l[0].0.name.is_empty()), "{pax:?}");
        }
    }

    #[test]
    fn a_long_name_without_end_is_bounded() {
        let mut tar = Vec::new();
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(8 << 30);
        header.set_cksum();
        tar.extend(header.as_bytes());
        let endless = (&tar[..]).chain(io::repeat(b'a'));
        assert!(matches!(Members::new(endless).next(), Err(Error::TooLarge { .. })));
    }
}
