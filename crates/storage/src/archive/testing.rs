//! For tests: a directory of one's own, and archives made byte by byte.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory that goes away with the value.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("lighter-storage-{}-{count}-{name}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let parent = std::fs::File::open(self.0.parent().unwrap()).unwrap();
        let name = std::ffi::CString::new(self.0.file_name().unwrap().as_encoded_bytes()).unwrap();
        let removed = crate::walk::remove(std::os::fd::AsFd::as_fd(&parent), &name);
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

/// One header; fields are bytes so that a test can put anything there.
#[derive(Clone)]
pub(crate) struct Head(pub(crate) [u8; 512]);

impl Head {
    /// A ustar header of root's, mode 0644, modified at 1000000000.
    pub(crate) fn new(flag: u8, name: &str, size: u64) -> Self {
        let mut head = Self([0; 512]);
        head.field(0, name.as_bytes());
        head.octal(100, 8, 0o644).octal(108, 8, 0).octal(116, 8, 0).octal(124, 12, size).octal(136, 12, 1_000_000_000);
        head.0[156] = flag;
        head.field(257, b"ustar\x0000");
        head
    }

    pub(crate) fn field(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub(crate) fn octal(&mut self, at: usize, width: usize, value: u64) -> &mut Self {
        let text = format!("{value:0width$o}\0", width = width - 1);
        self.field(at, text.as_bytes())
    }

    pub(crate) fn sealed(mut self) -> [u8; 512] {
        self.0[148..156].fill(b' ');
        let sum: u64 = self.0.iter().map(|&b| u64::from(b)).sum();
        self.field(148, format!("{sum:06o}\0 ").as_bytes());
        self.0
    }
}

/// An archive.
#[derive(Clone, Default)]
pub(crate) struct Tar(Vec<u8>);

impl Tar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn head(self, head: Head) -> Self {
        self.raw(&head.sealed())
    }

    /// Data and its padding.
    pub(crate) fn data(mut self, data: &[u8]) -> Self {
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: &str, data: &str) -> Self {
        self.head(Head::new(b'0', name, data.len() as u64)).data(data.as_bytes())
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.dir_of(name, 0o755, 0, 0)
    }

    pub(crate) fn dir_of(self, name: &str, mode: u64, uid: u64, gid: u64) -> Self {
        let mut head = Head::new(b'5', name, 0);
        head.octal(100, 8, mode).octal(108, 8, uid).octal(116, 8, gid);
        self.head(head)
    }

    pub(crate) fn link(self, flag: u8, name: &str, target: &str) -> Self {
        let mut head = Head::new(flag, name, 0);
        head.field(157, target.as_bytes());
        self.head(head)
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.link(b'2', name, target)
    }

    pub(crate) fn hard_link(self, name: &str, target: &str) -> Self {
        self.link(b'1', name, target)
    }

    pub(crate) fn device(self, flag: u8, name: &str, major: u64, minor: u64) -> Self {
        let mut head = Head::new(flag, name, 0);
        head.octal(329, 8, major).octal(337, 8, minor);
        self.head(head)
    }

    /// An `x` header with these records.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let bytes: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
        self.head(Head::new(b'x', "PaxHeaders/x", bytes.len() as u64)).data(&bytes)
    }

    /// A GNU long name (`L`) or link (`K`).
    pub(crate) fn gnu_long(self, flag: u8, name: &str) -> Self {
        let bytes = [name.as_bytes(), b"\0"].concat();
        self.head(Head::new(flag, "././@LongLink", bytes.len() as u64)).data(&bytes)
    }

    /// The archive so far, without an end mark.
    pub(crate) fn open_end(self) -> Vec<u8> {
        self.0
    }

    /// The archive with its end mark.
    pub(crate) fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).0
    }
}

/// A PAX record with its own length in front.
pub(crate) fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key.as_bytes(), b"=", value, b"\n"].concat()
}
