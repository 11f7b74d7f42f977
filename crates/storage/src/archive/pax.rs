//! PAX extended headers (POSIX.1-2001 pax, "pax Extended Header") and the GNU.sparse and SCHILY.xattr records in them.

use rustix::fs::Timespec;

use super::header::{Reason, id};
use super::sparse::Region;

/// Extended attributes one entry may have. ext4 holds a few kilobytes of them per inode.
const XATTRS: usize = 256;

/// What the extension headers before an entry said about it; cleared, not reallocated, between entries.
#[derive(Default)]
pub(super) struct Extended {
    /// An `x` header was read.
    pub(super) seen: bool,
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    /// From a GNU `L` header.
    pub(super) gnu_path: Option<Vec<u8>>,
    /// From a GNU `K` header.
    pub(super) gnu_link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Timespec>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: Sparse,
}

/// The GNU.sparse.* records of format 0.0, 0.1 or 1.0.
#[derive(Default)]
pub(super) struct Sparse {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    pub(super) map: Option<Vec<Region>>,
    /// An offset that waits for its length (format 0.0).
    offset: Option<u64>,
}

impl Extended {
    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        if self.seen || self.gnu_path.is_some() || self.gnu_link.is_some() {
            *self = Self::default();
        }
    }

    /// Whether any extension header is waiting for its entry.
    pub(super) fn waits(&self) -> bool {
        self.seen || self.gnu_path.is_some() || self.gnu_link.is_some()
    }

    /// Takes the records of one `x` header.
    pub(super) fn parse(&mut self, mut records: &[u8]) -> Result<(), Reason> {
        while !records.is_empty() {
            let Record { key, value, rest } = record(records)?;
            self.take(key, value)?;
            records = rest;
        }
        if self.sparse.offset.is_some() {
            return Err("a sparse region without a length");
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), Reason> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            if name.is_empty() || name.contains(&0) {
                return Err("an extended attribute's name is empty or has a NUL");
            }
            self.xattrs.retain(|(known, _)| known != name);
            if self.xattrs.len() == XATTRS {
                return Err("the entry has too many extended attributes");
            }
            self.xattrs.push((name.to_vec(), value.to_vec()));
            return Ok(());
        }
        if let Some(name) = key.strip_prefix(b"GNU.sparse.") {
            return self.sparse.take(name, value);
        }
        // An empty value takes an earlier record back, and the header's own field counts.
        match key {
            b"path" => self.path = file_name(value)?,
            b"linkpath" => self.link = file_name(value)?,
            b"size" => self.size = if value.is_empty() { None } else { Some(decimal(value)?) },
            b"uid" => self.uid = if value.is_empty() { None } else { Some(wide_id(value)?) },
            b"gid" => self.gid = if value.is_empty() { None } else { Some(wide_id(value)?) },
            b"mtime" => self.mtime = if value.is_empty() { None } else { Some(time(value)?) },
            _ => {}
        }
        Ok(())
    }
}

impl Sparse {
    fn take(&mut self, name: &[u8], value: &[u8]) -> Result<(), Reason> {
        match name {
            b"major" => self.major = Some(decimal(value)?),
            b"minor" => self.minor = Some(decimal(value)?),
            b"name" => self.name = file_name(value)?,
            b"size" | b"realsize" => self.real_size = Some(decimal(value)?),
            b"numblocks" => self.map = Some(self.map.take().unwrap_or_default()),
            b"offset" => {
                if self.offset.replace(decimal(value)?).is_some() {
                    return Err("a sparse region without a length");
                }
            }
            b"numbytes" => {
                let offset = self.offset.take().ok_or("a sparse region without an offset")?;
                self.map.get_or_insert_default().push(Region { offset, length: decimal(value)? });
            }
            b"map" => {
                let mut map = Vec::new();
                let mut numbers = value.split(|&b| b == b',');
                while let Some(offset) = numbers.next() {
                    let length = numbers.next().ok_or("a sparse region without a length")?;
                    map.push(Region { offset: decimal(offset)?, length: decimal(length)? });
                }
                self.map = Some(map);
            }
            _ => return Err("an unknown GNU.sparse record"),
        }
        Ok(())
    }
}

/// A record, and the records after it.
struct Record<'r> {
    key: &'r [u8],
    value: &'r [u8],
    rest: &'r [u8],
}

/// Splits the first record, `LENGTH KEY=VALUE\n`, off.
fn record(records: &[u8]) -> Result<Record<'_>, Reason> {
    const BAD: Reason = "an extended header's record is malformed";
    let space = records.iter().take(20).position(|&b| b == b' ').ok_or(BAD)?;
    let length = usize::try_from(decimal(&records[..space])?).map_err(|_| BAD)?;
    let body = records.get(space + 1..length).ok_or(BAD)?;
    let Some((b'\n', body)) = body.split_last() else { return Err(BAD) };
    let equals = body.iter().position(|&b| b == b'=').filter(|&at| at > 0).ok_or(BAD)?;
    Ok(Record { key: &body[..equals], value: &body[equals + 1..], rest: &records[length..] })
}

/// Checks the records of a global header, whose contents do not count: Docker and containerd, whose layers these are,
/// ignore them too, and a size or a name for all entries at once would only serve to make readers disagree.
pub(super) fn check(mut records: &[u8]) -> Result<(), Reason> {
    while !records.is_empty() {
        records = record(records)?.rest;
    }
    Ok(())
}

fn file_name(value: &[u8]) -> Result<Option<Vec<u8>>, Reason> {
    if value.contains(&0) {
        return Err("a name has a NUL");
    }
    Ok(if value.is_empty() { None } else { Some(value.to_vec()) })
}

/// An unsigned decimal number, digits only.
pub(super) fn decimal(text: &[u8]) -> Result<u64, Reason> {
    const BAD: Reason = "a number of an extended header is not a number";
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err(BAD);
    }
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(BAD)
}

fn wide_id(text: &[u8]) -> Result<u32, Reason> {
    id(i64::try_from(decimal(text)?).unwrap_or(i64::MAX))
}

/// Seconds since 1970 with an optional sign and fraction. What does not fit is cut to what does; the kernel cuts
/// further, to what the file system can hold.
fn time(text: &[u8]) -> Result<Timespec, Reason> {
    const BAD: Reason = "a time stamp is not a number";
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(text) => (true, text),
        None => (false, text),
    };
    let (whole, fraction) = match text.iter().position(|&b| b == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    if whole.is_empty() || !whole.iter().chain(fraction).all(u8::is_ascii_digit) {
        return Err(BAD);
    }
    let mut seconds = 0_i64;
    for digit in whole {
        seconds = seconds.saturating_mul(10).saturating_add(i64::from(digit - b'0'));
    }
    let mut nanoseconds = 0_i64;
    for at in 0..9 {
        nanoseconds = nanoseconds * 10 + fraction.get(at).map_or(0, |digit| i64::from(digit - b'0'));
    }
    Ok(match (negative, nanoseconds) {
        (false, _) => Timespec { tv_sec: seconds, tv_nsec: nanoseconds },
        (true, 0) => Timespec { tv_sec: -seconds, tv_nsec: 0 },
        (true, _) => Timespec { tv_sec: (-seconds).saturating_sub(1), tv_nsec: 1_000_000_000 - nanoseconds },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_exact() {
        let mut extended = Extended::default();
        assert_eq!(
            extended.parse(b"12 path=a/b\n25 SCHILY.xattr.user.x=a\0b\n9 size=5\n"),
            Err("an extended header's record is malformed")
        );
        extended = Extended::default();
        assert_eq!(extended.parse(b"12 path=a/b\n9 size=5\n14 uid=100000\n"), Ok(()));
        assert_eq!(
            (extended.path.as_deref(), extended.size, extended.uid),
            (Some(&b"a/b"[..]), Some(5), Some(100_000))
        );
        for bad in [
            &b"12 path=a/b"[..],
            b"13 path=a/b\n",
            b"path=a\n",
            b" 9 size=5\n",
            b"5 =x\n\n",
            b"9 size=x\n",
            b"-9 size=5\n",
            b"99999999999999999999999 path=a\n",
            b"10 path=a\0\n",
            b"18 uid=4294967295\n",
            b"24 GNU.sparse.offset=5\n",
            b"30 size=18446744073709551616\n",
            b"0 path=a\n",
            b"2 \n",
        ] {
            assert!(Extended::default().parse(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn an_empty_value_takes_a_record_back() {
        let mut extended = Extended::default();
        assert_eq!(extended.parse(b"12 path=a/b\n9 size=5\n8 path=\n8 size=\n"), Ok(()));
        assert_eq!((extended.path, extended.size), (None, None));
    }

    #[test]
    fn times() {
        let at = |text: &[u8]| time(text).map(|time| (time.tv_sec, time.tv_nsec));
        assert_eq!(at(b"12.5"), Ok((12, 500_000_000)));
        assert_eq!(at(b"-1.5"), Ok((-2, 500_000_000)));
        assert_eq!(at(b"-3"), Ok((-3, 0)));
        assert_eq!(at(b"1.0000000019"), Ok((1, 1)));
        assert_eq!(at(b"99999999999999999999"), Ok((i64::MAX, 0)));
        assert!(at(b"").is_err() && at(b".5").is_err() && at(b"1e9").is_err() && at(b"--1").is_err());
    }
}
