//! One 512-byte tar header: ustar (POSIX.1-1988), GNU, star and the v7 original.

use rustix::fs::Timespec;

/// Size of a tar block, in bytes.
pub(super) const BLOCK: usize = 512;

/// Which fields a header has beside those of v7.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    V7,
    Ustar,
    Star,
    Gnu,
}

/// A header whose checksum was right.
pub(super) struct Header<'b> {
    block: &'b [u8; BLOCK],
    dialect: Dialect,
}

/// Why a field cannot be used.
pub(super) type Reason = &'static str;

impl<'b> Header<'b> {
    /// Takes a block as a header.
    pub(super) fn new(block: &'b [u8; BLOCK]) -> Result<Self, Reason> {
        let stated = number(&block[148..156])?;
        // Both sums are in the wild: some old writers added signed characters (POSIX pax, "ustar Interchange Format").
        let (mut unsigned, mut signed) = (0_i64, 0_i64);
        for (at, &byte) in block.iter().enumerate() {
            let byte = if (148..156).contains(&at) { b' ' } else { byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        if stated != unsigned && stated != signed {
            return Err("the header's checksum is wrong");
        }
        let dialect = match (&block[257..263], &block[263..265]) {
            (b"ustar\0", b"00") if &block[508..512] == b"tar\0" => Dialect::Star,
            (b"ustar\0", _) => Dialect::Ustar,
            (b"ustar ", b" \0") => Dialect::Gnu,
            _ => Dialect::V7,
        };
        Ok(Self { block, dialect })
    }

    pub(super) fn flag(&self) -> u8 {
        self.block[156]
    }

    /// Writes the entry's name, prefix included, to `name`.
    pub(super) fn name(&self, name: &mut Vec<u8>) {
        name.clear();
        let prefix = match self.dialect {
            Dialect::Ustar => text(&self.block[345..500]),
            Dialect::Star => text(&self.block[345..476]),
            Dialect::V7 | Dialect::Gnu => b"",
        };
        if !prefix.is_empty() {
            name.extend_from_slice(prefix);
            name.push(b'/');
        }
        name.extend_from_slice(text(&self.block[..100]));
    }

    pub(super) fn link(&self) -> &'b [u8] {
        text(&self.block[157..257])
    }

    /// Permission bits with set-id and sticky; other bits that some writers store are dropped.
    pub(super) fn mode(&self) -> Result<u32, Reason> {
        let mode = number(&self.block[100..108])?;
        Ok(u32::try_from(mode & 0o7777).unwrap_or(0))
    }

    pub(super) fn uid(&self) -> Result<u32, Reason> {
        id(number(&self.block[108..116])?)
    }

    pub(super) fn gid(&self) -> Result<u32, Reason> {
        id(number(&self.block[116..124])?)
    }

    /// Bytes of data after the header, before padding.
    pub(super) fn size(&self) -> Result<u64, Reason> {
        u64::try_from(number(&self.block[124..136])?).map_err(|_| "the size is negative")
    }

    pub(super) fn mtime(&self) -> Result<Timespec, Reason> {
        Ok(Timespec { tv_sec: number(&self.block[136..148])?, tv_nsec: 0 })
    }

    /// Major and minor number of a device.
    pub(super) fn device(&self) -> Result<(u32, u32), Reason> {
        if self.dialect == Dialect::V7 {
            return Err("a device without a number");
        }
        let part = |field| u32::try_from(number(field)?).map_err(|_| "a device number is out of range");
        Ok((part(&self.block[329..337])?, part(&self.block[337..345])?))
    }

    /// The old GNU sparse map's first part, whether it goes on in a further block, and the file's real size.
    pub(super) fn gnu_sparse(&self) -> Result<(&'b [u8], bool, u64), Reason> {
        if self.dialect != Dialect::Gnu {
            return Err("an old GNU sparse file outside of a GNU header");
        }
        let real = u64::try_from(number(&self.block[483..495])?).map_err(|_| "the size is negative")?;
        Ok((&self.block[386..482], self.block[482] != 0, real))
    }
}

/// A user or group id. `u32::MAX` means "leave it" to chown(2), so it is no id.
pub(super) fn id(value: i64) -> Result<u32, Reason> {
    u32::try_from(value).ok().filter(|&id| id != u32::MAX).ok_or("a user or group id is out of range")
}

/// A field up to its first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.iter().position(|&b| b == 0).map_or(field, |end| &field[..end])
}

/// A numeric field: octal text between spaces or NULs, or GNU base-256 (top bit set, two's complement, big-endian).
pub(super) fn number(field: &[u8]) -> Result<i64, Reason> {
    const BAD: Reason = "a numeric field is not a number";
    let Some(&first) = field.first() else { return Err(BAD) };
    if first & 0x80 != 0 {
        // Bit 6 of the first byte is the sign; the value is what remains, sign-extended.
        let negative = first & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (at, &byte) in field.iter().enumerate() {
            let byte = match (at, negative) {
                (0, true) => byte | 0x80,
                (0, false) => byte & 0x7f,
                _ => byte,
            };
            value = (value << 8) | i128::from(byte);
        }
        return i64::try_from(value).map_err(|_| "a numeric field is out of range");
    }
    let blank = |b: &u8| *b == b' ' || *b == 0;
    let start = field.iter().position(|b| !blank(b)).unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(blank).unwrap_or(digits.len());
    if digits[end..].iter().any(|b| !blank(b)) {
        return Err(BAD);
    }
    let mut value = 0_i64;
    for &digit in &digits[..end] {
        if !(b'0'..=b'7').contains(&digit) {
            return Err(BAD);
        }
        // Twelve octal digits are at most 36 bits: no overflow.
        value = value * 8 + i64::from(digit - b'0');
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(number(b"0000755\0"), Ok(0o755));
        assert_eq!(number(b"  755 \0\0"), Ok(0o755));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Ok(0));
        assert_eq!(number(b"777777777777"), Ok(0o777_777_777_777));
        assert_eq!(number(b"\x80\0\0\0\0\0\0\0\0\0\x01\x00"), Ok(256));
        assert_eq!(number(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), Ok(-1));
        assert_eq!(number(b"\xff\xff\xff\xff\xff\xff\xff\xfe"), Ok(-2));
        assert_eq!(number(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"), Ok(i64::MAX));
        assert!(number(b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff").is_err());
        assert!(number(b"-0000001").is_err());
        assert!(number(b"12 34\0\0\0").is_err());
        assert!(number(b"0000008\0").is_err());
        assert!(id(i64::from(u32::MAX)).is_err());
        assert_eq!(id(i64::from(u32::MAX) - 1), Ok(u32::MAX - 1));
    }
}
