//! Sparse maps: where the stored bytes of a file with holes belong.

use super::header::{Reason, number};
use super::pax::decimal;

/// A run of stored bytes at its place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    /// Where the run begins in the file, in bytes.
    pub(crate) offset: u64,
    /// Its length in bytes.
    pub(crate) length: u64,
}

/// Adds the regions of one block of an old GNU map; false when the map ended in it.
pub(super) fn old_gnu(slots: &[u8], map: &mut Vec<Region>) -> Result<bool, Reason> {
    for slot in slots.chunks_exact(24) {
        if slot[0] == 0 {
            return Ok(false);
        }
        let part = |field| u64::try_from(number(field)?).map_err(|_| "a sparse region is negative");
        map.push(Region { offset: part(&slot[..12])?, length: part(&slot[12..])? });
    }
    Ok(true)
}

/// Reads the numbers of a format 1.0 map, `COUNT\nOFFSET\nLENGTH\n…`, as its blocks come in.
#[derive(Default)]
pub(super) struct MapReader {
    digits: Vec<u8>,
    count: Option<u64>,
    offset: Option<u64>,
    pub(super) map: Vec<Region>,
}

impl MapReader {
    /// Takes a block; true when the map is complete. What follows in the last block is padding.
    pub(super) fn block(&mut self, block: &[u8]) -> Result<bool, Reason> {
        for &byte in block {
            if byte != b'\n' {
                self.digits.push(byte);
                if self.digits.len() > 20 {
                    return Err("a number of a sparse map is too long");
                }
                continue;
            }
            let value = decimal(&self.digits)?;
            self.digits.clear();
            match (self.count, self.offset.take()) {
                (None, _) => self.count = Some(value),
                (Some(_), None) => self.offset = Some(value),
                (Some(_), Some(offset)) => self.map.push(Region { offset, length: value }),
            }
            if self.count == Some(self.map.len() as u64) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Checks that the regions are in order, apart, inside the file, and hold exactly the bytes that were stored.
pub(super) fn check(map: &[Region], stored: u64, real_size: u64) -> Result<(), Reason> {
    let (mut end, mut sum) = (0_u64, 0_u64);
    for region in map {
        if region.offset < end {
            return Err("sparse regions overlap or are out of order");
        }
        end = region.offset.checked_add(region.length).ok_or("a sparse region is out of range")?;
        // No overflow: every region ends after the one before, so the sum is at most `end`.
        sum += region.length;
    }
    if end > real_size {
        return Err("a sparse region is outside of its file");
    }
    if sum != stored {
        return Err("the sparse regions do not add up to the stored bytes");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(offset: u64, length: u64) -> Region {
        Region { offset, length }
    }

    #[test]
    fn maps_must_add_up() {
        assert_eq!(check(&[region(0, 5), region(10, 5), region(100, 0)], 10, 100), Ok(()));
        assert!(check(&[region(10, 5), region(0, 5)], 10, 100).is_err());
        assert!(check(&[region(0, 6), region(5, 5)], 11, 100).is_err());
        assert!(check(&[region(0, 5)], 6, 100).is_err());
        assert!(check(&[region(99, 2)], 2, 100).is_err());
        assert!(check(&[region(u64::MAX, 2)], 2, u64::MAX).is_err());
    }

    #[test]
    fn a_map_comes_in_blocks() {
        let mut reader = MapReader::default();
        assert_eq!(reader.block(b"2\n0\n51"), Ok(false));
        assert_eq!(reader.block(b"2\n1024\n1\n\0\0\0"), Ok(true));
        assert_eq!(reader.map, [region(0, 512), region(1024, 1)]);
        assert!(MapReader::default().block(b"x\n").is_err());
        assert!(MapReader::default().block(b"000000000000000000000000").is_err());
        assert_eq!(MapReader::default().block(b"0\n"), Ok(true));
    }
}
