//! Compiled programs on disk, one file each, named by what they were compiled from.
//!
//! A file is only believed when it is a regular file of ours that nobody else may write, of exactly the size its head
//! says. Anything else is as good as no file: the program is compiled again and replaces it.

use std::io::{Read, Write};
use std::os::fd::AsFd;

use oci::runtime::LinuxSeccomp;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use sys::seccomp::{FilterFlags, Instruction, MAX_INSTRUCTIONS};
use sys::{Context, Errno};

use super::abi::Machine;
use super::{Program, default_profile};
use crate::capability::CapabilitySet;

/// To be raised when the same profile is compiled into something else; part of every key.
const COMPILER_VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"lighterF";
/// Version of the file's layout: magic, version, flags, number of instructions, instructions; all little-endian.
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 20;
const INSTRUCTION_BYTES: usize = 8;

/// The name of a compiled program: the same for the same input, another for another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CacheKey(String);

impl CacheKey {
    /// The key of [`default_profile`] with the same arguments, made without the profile.
    #[must_use]
    pub fn of_default(bounding: CapabilitySet, kernel: (u32, u32)) -> Self {
        let (machine, profile) = (Machine::NATIVE.docker_name(), default_profile::VERSION);
        let ((major, minor), caps) = (kernel, bounding.bits());
        Self(format!("default-{COMPILER_VERSION}.{profile}-{machine}-{caps:x}-{major}.{minor}"))
    }

    /// The key of any profile, from the digest of all of it.
    ///
    /// # Errors
    /// A path in the profile that is not UTF-8.
    pub fn of_profile(profile: &LinuxSeccomp) -> Result<Self, serde_json::Error> {
        let digest = oci::Digest::sha256_of(&serde_json::to_vec(profile)?);
        let (machine, hex) = (Machine::NATIVE.docker_name(), digest.hex());
        Ok(Self(format!("profile-{COMPILER_VERSION}-{machine}-{hex}")))
    }

    /// The key as a file name: letters, digits, dots and dashes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Program {
    /// The program stored under `key` in `directory`, or none when there is none that can be believed.
    ///
    /// # Errors
    /// What keeps the file from being opened or read, other than its absence.
    pub fn load_cached(directory: impl AsFd, key: &CacheKey) -> sys::Result<Option<Self>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match fs::openat(&directory, key.as_str(), flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::LOOP) => return Ok(None),
            Err(errno) => return Err(errno).at("openat", key.as_str()),
        };
        let stat = fs::fstat(&file).at("fstat", key.as_str())?;
        let ours = stat.st_uid == rustix::process::geteuid().as_raw()
            && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && stat.st_mode & 0o022 == 0;
        let size = usize::try_from(stat.st_size).unwrap_or(usize::MAX);
        if !ours || size > HEAD_BYTES + INSTRUCTION_BYTES * MAX_INSTRUCTIONS {
            return Ok(None);
        }
        let mut bytes = Vec::with_capacity(size + 1);
        let limit = u64::try_from(size).unwrap_or(u64::MAX).saturating_add(1);
        std::fs::File::from(file).take(limit).read_to_end(&mut bytes).at("read", key.as_str())?;
        Ok(decode(&bytes))
    }

    /// Stores the program under `key` in `directory`, mode 0600, in place of what is there. Durable when it returns.
    ///
    /// # Errors
    /// What keeps the file from being written. Nothing is left behind then.
    pub fn store(&self, directory: impl AsFd, key: &CacheKey) -> sys::Result<()> {
        let temporary = temporary_name(key)?;
        let written = self.write_to(&directory, &temporary).and_then(|()| {
            fs::renameat(&directory, &temporary, &directory, key.as_str()).at("renameat", key.as_str())?;
            // The caller's descriptor may be an O_PATH one, which cannot be synced.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = fs::openat(&directory, c".", flags, Mode::empty()).at("openat", ".")?;
            fs::fsync(&directory).at("fsync", key.as_str())
        });
        if written.is_err() {
            // What matters is why; the temporary file may never have been made.
            let _ = fs::unlinkat(&directory, &temporary, AtFlags::empty());
        }
        written
    }

    fn write_to(&self, directory: impl AsFd, name: &str) -> sys::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR).at("openat", name)?;
        let mut file = std::fs::File::from(file);
        file.write_all(&self.encode()).at("write", name)?;
        fs::fsync(&file).at("fsync", name)
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + INSTRUCTION_BYTES * self.instructions.len());
        // A program has at most 4096 instructions.
        let count = u32::try_from(self.instructions.len()).unwrap_or(u32::MAX);
        bytes.extend(MAGIC);
        for word in [VERSION, self.flags.bits(), count] {
            bytes.extend(word.to_le_bytes());
        }
        for instruction in &self.instructions {
            bytes.extend(instruction.code.to_le_bytes());
            bytes.extend([instruction.jt, instruction.jf]);
            bytes.extend(instruction.k.to_le_bytes());
        }
        bytes
    }
}

fn decode(bytes: &[u8]) -> Option<Program> {
    let (magic, rest) = bytes.split_first_chunk()?;
    let (version, rest) = rest.split_first_chunk()?;
    let (flags, rest) = rest.split_first_chunk()?;
    let (count, rest) = rest.split_first_chunk()?;
    let flags = FilterFlags::from_bits(u32::from_le_bytes(*flags))?;
    let (raw, remainder) = rest.as_chunks::<INSTRUCTION_BYTES>();
    let count = usize::try_from(u32::from_le_bytes(*count)).ok()?;
    let sound = *magic == MAGIC && u32::from_le_bytes(*version) == VERSION && raw.len() == count;
    if !sound || count == 0 || count > MAX_INSTRUCTIONS || !remainder.is_empty() {
        return None;
    }
    let instructions = raw
        .iter()
        .map(|&[c0, c1, jt, jf, k0, k1, k2, k3]| Instruction {
            code: u16::from_le_bytes([c0, c1]),
            jt,
            jf,
            k: u32::from_le_bytes([k0, k1, k2, k3]),
        })
        .collect();
    Some(Program { instructions, flags })
}

fn temporary_name(key: &CacheKey) -> sys::Result<String> {
    let mut random = [0u8; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).at("getrandom", "")?;
    Ok(format!(".{}.{:016x}", key.as_str(), u64::from_le_bytes(random)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

    use super::*;
    use crate::seccomp::{compile, default_profile};

    /// A directory that goes when the test ends.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("lighter-seccomp-{name}-{}", std::process::id()));
            std::fs::create_dir(&path).expect("new directory");
            Self(path)
        }

        fn open(&self) -> std::fs::File {
            std::fs::File::open(&self.0).expect("directory")
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).expect("removable");
        }
    }

    fn program() -> (Program, CacheKey) {
        let profile = default_profile(CapabilitySet::DEFAULT, (6, 18));
        (compile(&profile).expect("valid"), CacheKey::of_profile(&profile).expect("serialisable"))
    }

    #[test]
    fn what_is_stored_is_loaded() {
        let scratch = Scratch::new("store");
        let (program, key) = program();
        assert_eq!(Program::load_cached(scratch.open(), &key), Ok(None));
        program.store(scratch.open(), &key).expect("stored");
        let path = fs::open(&scratch.0, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).expect("directory");
        program.store(&path, &key).expect("replaced");
        assert_eq!(Program::load_cached(path, &key), Ok(Some(program)));
        let names: Vec<_> = std::fs::read_dir(&scratch.0).expect("readable").map(|e| e.expect("entry")).collect();
        assert_eq!(names.len(), 1, "{names:?}");
        assert_eq!(names[0].metadata().expect("metadata").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn doubtful_files_are_passed_over() {
        let scratch = Scratch::new("doubt");
        let (program, key) = program();
        program.store(scratch.open(), &key).expect("stored");
        let path = scratch.0.join(key.as_str());
        let good = std::fs::read(&path).expect("readable");
        let load = || Program::load_cached(scratch.open(), &key).expect("no error");
        let mut wrong_version = good.clone();
        wrong_version[8] ^= 0x80;
        let mut wrong_count = good.clone();
        wrong_count[16] ^= 1;
        let mut longer = good.clone();
        longer.extend([0; 8]);
        for bad in [&[][..], &good[..good.len() - 1], &good[..good.len() - 8], &wrong_version, &wrong_count, &longer] {
            std::fs::write(&path, bad).expect("written");
            assert_eq!(load(), None);
        }
        std::fs::write(&path, &good).expect("written");
        assert_eq!(load().as_ref(), Some(&program));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o620)).expect("chmod");
        assert_eq!(load(), None);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
        std::os::unix::fs::chown(&path, Some(12345), None).expect("chown");
        assert_eq!(load(), None);
        std::fs::remove_file(&path).expect("removed");
        symlink("/dev/zero", &path).expect("linked");
        assert_eq!(load(), None);
        program.store(scratch.open(), &key).expect("stored over the link");
        assert_eq!(load(), Some(program));
    }

    #[test]
    fn keys_tell_inputs_apart() {
        let default = CapabilitySet::DEFAULT;
        let key = CacheKey::of_default(default, (6, 18));
        assert_eq!(key, CacheKey::of_default(default, (6, 18)));
        assert_ne!(key, CacheKey::of_default(CapabilitySet::EMPTY, (6, 18)));
        assert_ne!(key, CacheKey::of_default(default, (6, 1)));
        let mut profile = default_profile(default, (6, 18));
        let one = CacheKey::of_profile(&profile).expect("serialisable");
        profile.default_errno_ret = Some(2);
        assert_ne!(one, CacheKey::of_profile(&profile).expect("serialisable"));
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        assert!(one.as_str().chars().all(plain) && key.as_str().chars().all(plain));
    }
}
