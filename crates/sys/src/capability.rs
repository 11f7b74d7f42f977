//! Capability sets of the calling thread, as bit masks: capget(2), capset(2), prctl(2). Bit n is capability n.

use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets};

use crate::{Context, Errno, Error, Result};

/// The three sets of capget(2), as 64-bit masks (`_LINUX_CAPABILITY_VERSION_3`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadCapabilities {
    /// What the kernel checks.
    pub effective: u64,
    /// What may be made effective.
    pub permitted: u64,
    /// What execve(2) keeps for files that inherit.
    pub inheritable: u64,
}

fn set(bits: u64) -> CapabilitySet {
    CapabilitySet::from_bits_retain(bits)
}

fn single(capability: u8) -> Result<CapabilitySet> {
    let bit = 1u64.checked_shl(capability.into());
    bit.map(set).ok_or_else(|| Error::new("prctl", format_args!("capability {capability}"), Errno::INVAL))
}

/// The calling thread's sets.
///
/// # Errors
/// Whatever capget(2) says.
pub fn get() -> Result<ThreadCapabilities> {
    let sets = rustix::thread::capabilities(None).at("capget", "")?;
    Ok(ThreadCapabilities {
        effective: sets.effective.bits(),
        permitted: sets.permitted.bits(),
        inheritable: sets.inheritable.bits(),
    })
}

/// Replaces the calling thread's sets.
///
/// # Errors
/// `EPERM` when a set would grow beyond what capset(2) lets it.
pub fn replace(sets: ThreadCapabilities) -> Result<()> {
    let ThreadCapabilities { effective, permitted, inheritable } = sets;
    let raw = CapabilitySets { effective: set(effective), permitted: set(permitted), inheritable: set(inheritable) };
    rustix::thread::set_capabilities(None, raw)
        .at("capset", format_args!("effective {effective:#x} permitted {permitted:#x} inheritable {inheritable:#x}"))
}

/// Whether capability `capability` is in the bounding set.
///
/// # Errors
/// `EINVAL` for a capability the kernel does not know.
pub fn in_bounding_set(capability: u8) -> Result<bool> {
    rustix::thread::capability_is_in_bounding_set(single(capability)?)
        .at("prctl", format_args!("PR_CAPBSET_READ {capability}"))
}

/// Removes capability `capability` from the bounding set, for good.
///
/// # Errors
/// `EPERM` without `CAP_SETPCAP`, `EINVAL` for a capability the kernel does not know.
pub fn drop_from_bounding_set(capability: u8) -> Result<()> {
    rustix::thread::remove_capability_from_bounding_set(single(capability)?)
        .at("prctl", format_args!("PR_CAPBSET_DROP {capability}"))
}

/// Empties the ambient set (4.3).
///
/// # Errors
/// Whatever prctl(2) says.
pub fn clear_ambient_set() -> Result<()> {
    rustix::thread::clear_ambient_capability_set().at("prctl", "PR_CAP_AMBIENT_CLEAR_ALL")
}

/// Adds capability `capability` to the ambient set (4.3).
///
/// # Errors
/// `EPERM` unless it is both permitted and inheritable, or when the secure bits forbid it.
pub fn raise_ambient(capability: u8) -> Result<()> {
    rustix::thread::configure_capability_in_ambient_set(single(capability)?, true)
        .at("prctl", format_args!("PR_CAP_AMBIENT_RAISE {capability}"))
}

/// Whether capability `capability` is in the ambient set (4.3).
///
/// # Errors
/// `EINVAL` for a capability the kernel does not know.
pub fn is_ambient(capability: u8) -> Result<bool> {
    rustix::thread::capability_is_in_ambient_set(single(capability)?)
        .at("prctl", format_args!("PR_CAP_AMBIENT_IS_SET {capability}"))
}

/// Whether permitted capabilities survive the change of all user ids from zero; execve(2) clears it.
///
/// # Errors
/// `EPERM` when the secure bits lock it.
pub fn set_keep_capabilities(keep: bool) -> Result<()> {
    rustix::thread::set_keep_capabilities(keep).at("prctl", "PR_SET_KEEPCAPS")
}

/// The calling thread's secure bits (`SECBIT_*`, linux/securebits.h).
///
/// # Errors
/// Whatever prctl(2) says.
pub fn secure_bits() -> Result<u32> {
    Ok(rustix::thread::capabilities_secure_bits().at("prctl", "PR_GET_SECUREBITS")?.bits())
}

/// Replaces the calling thread's secure bits.
///
/// # Errors
/// `EPERM` without `CAP_SETPCAP` or against a lock.
pub fn set_secure_bits(bits: u32) -> Result<()> {
    rustix::thread::set_capabilities_secure_bits(CapabilitiesSecureBits::from_bits_retain(bits))
        .at("prctl", format_args!("PR_SET_SECUREBITS {bits:#x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAP_CHOWN: u8 = 0;
    const CAP_KILL: u8 = 5;

    #[test]
    fn sets_shrink_in_one_thread_only() {
        let before = get().expect("capget");
        let inside = std::thread::spawn(move || {
            let kept = ThreadCapabilities { inheritable: 0, effective: 0, permitted: before.permitted & 1 };
            replace(kept).expect("shrinking is always allowed");
            (get().expect("capget"), replace(ThreadCapabilities { permitted: 2, ..kept }))
        });
        let (after, growth) = inside.join().expect("joined");
        assert_eq!(after.permitted, before.permitted & 1);
        assert_eq!(growth.expect_err("growing is not").errno(), Errno::PERM);
        assert_eq!(get().expect("capget"), before);
    }

    #[test]
    fn bounding_and_ambient_sets() {
        std::thread::spawn(|| {
            let now = get().expect("capget");
            assert!(in_bounding_set(CAP_KILL).expect("known"));
            drop_from_bounding_set(CAP_KILL).expect("root may");
            assert!(!in_bounding_set(CAP_KILL).expect("known"));
            replace(ThreadCapabilities { inheritable: 1 << CAP_CHOWN, ..now }).expect("permitted");
            raise_ambient(CAP_CHOWN).expect("permitted and inheritable");
            assert!(is_ambient(CAP_CHOWN).expect("known"));
            clear_ambient_set().expect("always allowed");
            assert!(!is_ambient(CAP_CHOWN).expect("known"));
            assert_eq!(raise_ambient(CAP_KILL).expect_err("not inheritable").errno(), Errno::PERM);
            assert_eq!(in_bounding_set(63).expect_err("unknown").errno(), Errno::INVAL);
            assert_eq!(in_bounding_set(64).expect_err("no such bit").errno(), Errno::INVAL);
        })
        .join()
        .expect("joined");
    }

    #[test]
    fn keep_capabilities_is_a_secure_bit() {
        std::thread::spawn(|| {
            let before = secure_bits().expect("readable");
            set_keep_capabilities(true).expect("unlocked");
            assert_eq!(secure_bits().expect("readable"), before | 0x10);
            set_secure_bits(before).expect("root may");
            assert_eq!(secure_bits().expect("readable"), before);
        })
        .join()
        .expect("joined");
    }
}
