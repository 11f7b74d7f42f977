//! System call numbers of the ABIs a filter is written for.
//!
//! Numbers are the kernel's user-space interface (asm/unistd_64.h, asm/unistd_32.h, asm/unistd_x32.h and
//! asm-generic/unistd.h, their tables under arch/ and scripts/), up to Linux 7.1. A name that none of these ABIs has
//! belongs to another machine; it is listed so that a profile that names it is not thought to be misspelt.

use super::abi::Abi;
use super::call_table::CALLS;

/// A system call's name and its numbers on x86_64, x86, x32 (without the ABI's bit), aarch64 and arm; -1 where it does
/// not exist.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) name: &'static str,
    pub(super) numbers: [i16; 5],
}

impl Call {
    /// The call named `name`, or none when no machine has it.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        let mut slot = hash(name.as_bytes()) % SLOTS;
        loop {
            let call = CALLS.get(usize::from(INDEX[slot]))?;
            if call.name == name {
                return Some(call);
            }
            slot = (slot + 1) % SLOTS;
        }
    }

    /// Its number as `seccomp_data.nr` has it on `abi`.
    pub(super) fn number(&self, abi: Abi) -> Option<u32> {
        let column = match abi {
            Abi::X86_64 => 0,
            Abi::X86 => 1,
            Abi::X32 => 2,
            Abi::Aarch64 => 3,
            Abi::Arm => 4,
        };
        if abi == Abi::Arm
            && let Some((_, number)) = ARM_PRIVATE.iter().find(|(name, _)| *name == self.name)
        {
            return Some(*number);
        }
        u32::try_from(self.numbers[column]).ok().map(|number| number | abi.number_bit())
    }
}

/// Size of the hash table over the names, about twice their number. A profile names hundreds, at every start.
const SLOTS: usize = 1024;
/// What an empty slot holds: no index.
const EMPTY: u16 = u16::MAX;
/// Indices into [`CALLS`] by the hash of the name, with linear probing; made by the compiler.
static INDEX: [u16; SLOTS] = {
    let mut index = [EMPTY; SLOTS];
    let mut n = 0;
    while n < CALLS.len() {
        let mut slot = hash(CALLS[n].name.as_bytes()) % SLOTS;
        while index[slot] != EMPTY {
            slot = (slot + 1) % SLOTS;
        }
        index[slot] = n as u16;
        n += 1;
    }
    index
};

/// FNV-1a (32 bits), folded so that all of it takes part in the slot.
const fn hash(name: &[u8]) -> usize {
    let mut hash = 0x811c_9dc5u32;
    let mut n = 0;
    while n < name.len() {
        hash = (hash ^ name[n] as u32).wrapping_mul(0x0100_0193);
        n += 1;
    }
    (hash ^ (hash >> 15)) as usize
}

/// Calls of arm's private range (`__ARM_NR_BASE`, asm/unistd.h).
const ARM_PRIVATE: [(&str, u32); 6] = [
    ("breakpoint", 0xf0001),
    ("cacheflush", 0xf0002),
    ("usr26", 0xf0003),
    ("usr32", 0xf0004),
    ("set_tls", 0xf0005),
    ("get_tls", 0xf0006),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_sorted_and_numbers_are_unique() {
        assert!(CALLS.windows(2).all(|pair| pair[0].name < pair[1].name));
        for abi in [Abi::X86_64, Abi::X86, Abi::X32, Abi::Aarch64, Abi::Arm] {
            let mut numbers: Vec<_> = CALLS.iter().filter_map(|call| call.number(abi)).collect();
            let count = numbers.len();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), count, "{abi:?}");
        }
    }

    #[test]
    fn numbers_are_the_kernels() {
        let number = |name, abi| Call::named(name).expect("known").number(abi);
        assert_eq!(number("openat2", Abi::X86_64), Some(437));
        assert_eq!(number("socketcall", Abi::X86_64), None);
        assert_eq!(number("socketcall", Abi::X86), Some(102));
        assert_eq!(number("execve", Abi::X32), Some(0x4000_0000 | 520));
        assert_eq!(number("openat", Abi::Aarch64), Some(56));
        assert_eq!(number("set_tls", Abi::Arm), Some(0xf0005));
        assert!(Call::named("no_such_call").is_none());
    }
}
