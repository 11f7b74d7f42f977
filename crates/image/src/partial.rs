//! Blobs that are being fetched, under a name of their own, so that what a killed pull has got is taken up by the next.
//!
//! `partial/ALGORITHM-HEX` below the content store grows at its end and is locked by whoever writes it. What is there is
//! only taken for the blob's beginning: it is read back through the same hash as all that follows, and becomes a blob
//! when the whole has the right digest. After a power cut it may be anything; then the digest tells, and the blob is
//! fetched anew. The collector removes those that nobody has touched for a day.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use oci::Digest;
use oci::image::Descriptor;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use sys::Context;

use crate::content::{Exclusive, Hasher, blob_path, exists, file_names_at, open_or_make_dir, verify, write_behind};
use crate::{ContentStore, Error, Result};

const DIR: &str = "partial";
/// Smaller blobs are fetched again sooner than found again, in bytes.
const LEAST: u64 = 1 << 20;
/// After this time nobody will go on with a pull.
pub(crate) const KEPT: Duration = Duration::from_secs(24 * 3600);

/// A blob on its way in. Dropping it leaves what is there for the next pull.
#[derive(Debug)]
pub(crate) struct Partial<'a> {
    store: &'a ContentStore,
    dir: OwnedFd,
    name: String,
    file: File,
    hasher: Hasher,
    /// Bytes that were there.
    had: u64,
    /// Bytes read back or written.
    passed: u64,
    size: u64,
}

impl ContentStore {
    /// Takes up the blob, or with `fresh` begins it anew. `None` when another process is fetching it, or it is too
    /// small to be worth it.
    pub(crate) fn partial(&self, blob: &Descriptor, fresh: bool) -> Result<Option<Partial<'_>>> {
        if blob.size < LEAST {
            return Ok(None);
        }
        let dir = open_or_make_dir(self.root()?, Path::new(DIR))?;
        let name = format!("{}-{}", blob.digest.algorithm().as_str(), blob.digest.hex());
        let what = format!("{DIR}/{name}");
        let file = loop {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(&dir, &name, flags, Mode::RUSR | Mode::WUSR).at("openat", &what)?;
            match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(sys::Error::new("flock", &what, errno).into()),
            }
            // Whoever held it before may have made it a blob, which must not be written any more.
            let held = rustix::fs::fstat(&fd).at("fstat", &what)?;
            match rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(named) if (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino) => break File::from(fd),
                Ok(_) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(sys::Error::new("statat", &what, errno).into()),
            }
        };
        let mut had = file.metadata().at("fstat", &what)?.len();
        if fresh || had > blob.size {
            file.set_len(0).at("ftruncate", &what)?;
            had = 0;
        }
        let hasher = Hasher::new(blob.digest.algorithm());
        Ok(Some(Partial { store: self, dir, name, file, hasher, had, passed: 0, size: blob.size }))
    }

    /// Takes out what pulls have left that nobody has gone on with for `kept`; gives the bytes that
    /// [`ContentStore::sweep`] will free.
    ///
    /// # Errors
    /// System call errors.
    pub fn drop_partials(&self, kept: Duration, _held: &Exclusive) -> Result<u64> {
        let (names, Some(dir)) = file_names_at(self.root()?, DIR)? else { return Ok(0) };
        let mut freed = 0;
        for name in names {
            let Ok(stat) = rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
            // A clock that was put back makes files of the future, which are as old as anything.
            if changed.elapsed().is_ok_and(|age| age < kept) {
                continue;
            }
            self.discard(&dir, &name)?;
            freed += u64::try_from(stat.st_size).unwrap_or(0);
        }
        Ok(freed)
    }
}

impl Partial<'_> {
    /// Bytes that were there already.
    pub(crate) fn had(&self) -> u64 {
        self.had
    }

    /// Reads back what was there; 0 at its end. All of it must be read before anything is appended.
    pub(crate) fn read_back(&mut self, buf: &mut [u8]) -> Result<usize> {
        let left = usize::try_from(self.had - self.passed).unwrap_or(usize::MAX).min(buf.len());
        let n = self.file.read_at(&mut buf[..left], self.passed).at("pread64", &self.name)?;
        if n == 0 && left > 0 {
            return Err(Error::Size { what: "a partial blob".to_owned(), expected: self.had, actual: self.passed });
        }
        self.hasher.update(&buf[..n]);
        self.passed += n as u64;
        if self.passed == self.had {
            std::io::Seek::seek(&mut self.file, std::io::SeekFrom::Start(self.had)).at("lseek", &self.name)?;
        }
        Ok(n)
    }

    /// Whether there is more to read back.
    pub(crate) fn is_behind(&self) -> bool {
        self.passed < self.had
    }

    /// Adds `bytes` at the end.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        if self.passed + bytes.len() as u64 > self.size {
            return Err(Error::TooLarge { what: "blob".to_owned(), limit: self.size });
        }
        self.file.write_all(bytes).at("write", "blob")?;
        self.hasher.update(bytes);
        write_behind(&self.file, self.passed, bytes.len() as u64);
        self.passed += bytes.len() as u64;
        Ok(())
    }

    /// Verifies it, makes it durable and gives it its name as a blob. What is wrong is removed.
    pub(crate) fn commit(self, digest: &Digest) -> Result<()> {
        let right = if self.passed == self.size {
            verify("blob", digest, &self.hasher.finish())
        } else {
            Err(Error::Size { what: "blob".to_owned(), expected: self.size, actual: self.passed })
        };
        let path = blob_path(digest);
        let gone = || match rustix::fs::unlinkat(&self.dir, &self.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(sys::Error::new("unlinkat", format_args!("{DIR}/{}", self.name), errno)),
        };
        if let Err(error) = right {
            gone()?;
            return Err(error);
        }
        let root = self.store.root()?;
        if exists(root, &path)? {
            return Ok(gone()?);
        }
        rustix::fs::fsync(&self.file).at("fsync", &path)?;
        rustix::fs::renameat(&self.dir, &self.name, root, &path).at("renameat", &path)?;
        let dir = format!("blobs/{}", digest.algorithm().as_str());
        let dir_fd = open_or_make_dir(root, Path::new(&dir))?;
        Ok(rustix::fs::fsync(&dir_fd).at("fsync", &dir)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn store() -> (TempDir, ContentStore, Vec<u8>, Descriptor) {
        let dir = TempDir::new("partial");
        let content = ContentStore::open(&dir.path().join("content")).expect("open");
        let bytes: Vec<u8> = (0_u32..1_500_000).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let blob = Descriptor::of("application/octet-stream", &bytes);
        (dir, content, bytes, blob)
    }

    fn read_back(partial: &mut Partial<'_>) -> Vec<u8> {
        let mut all = Vec::new();
        let mut buf = [0; 70_000];
        while partial.is_behind() {
            let n = partial.read_back(&mut buf).expect("read");
            all.extend_from_slice(&buf[..n]);
        }
        all
    }

    #[test]
    fn what_was_there_is_taken_up() {
        let (_dir, content, bytes, blob) = store();
        let mut first = content.partial(&blob, false).expect("open").expect("free");
        first.append(&bytes[..600_000]).expect("written");
        assert!(content.partial(&blob, false).expect("no error").is_none(), "one writer");
        drop(first);
        let mut second = content.partial(&blob, false).expect("open").expect("free");
        assert_eq!(second.had(), 600_000);
        assert_eq!(read_back(&mut second), bytes[..600_000]);
        second.append(&bytes[600_000..]).expect("written");
        second.commit(&blob.digest).expect("right");
        assert_eq!(content.read(&blob.digest, 2 << 20).expect("a blob"), bytes);
        assert_eq!(content.partial(&blob, false).expect("open").expect("free").had(), 0, "its name is free again");
    }

    #[test]
    fn what_is_wrong_is_no_blob_and_goes() {
        let (_dir, content, bytes, blob) = store();
        content.partial(&blob, false).expect("open").expect("free").append(&[1; 600_000]).expect("written");
        let mut second = content.partial(&blob, false).expect("open").expect("free");
        read_back(&mut second);
        second.append(&bytes[600_000..]).expect("written");
        assert!(matches!(second.append(b"x"), Err(Error::TooLarge { .. })));
        assert!(matches!(second.commit(&blob.digest), Err(Error::Digest { .. })));
        assert!(!content.contains(&blob.digest).expect("stat"));
        let again = content.partial(&blob, false).expect("open").expect("free");
        assert_eq!(again.had(), 0);
        assert!(matches!(again.commit(&blob.digest), Err(Error::Size { .. })));
        let small = Descriptor::of("x", b"small");
        assert!(content.partial(&small, false).expect("no error").is_none());
    }

    #[test]
    fn old_ones_are_collected() {
        let (_dir, content, bytes, blob) = store();
        content.partial(&blob, false).expect("open").expect("free").append(&bytes[..1000]).expect("written");
        let held = content.try_exclusive().expect("no error").expect("alone");
        assert_eq!(content.drop_partials(KEPT, &held).expect("collected"), 0);
        assert_eq!(content.partial(&blob, false).expect("open").expect("free").had(), 1000);
        assert_eq!(content.drop_partials(Duration::ZERO, &held).expect("collected"), 1000);
        assert_eq!(content.partial(&blob, false).expect("open").expect("free").had(), 0);
    }
}
