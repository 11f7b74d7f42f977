//! Entry points of the fuzz targets (`/fuzz`): each takes any bytes, and panics when something that must hold does not.

use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use oci::Digest;

use crate::archive::{Entry, Kind, Limits, Reader};
use crate::extract::extract;
use crate::record;
use crate::tree::Tree;

/// Small enough that an input of a few kilobytes can reach each of them.
fn limits() -> Limits {
    Limits {
        stream_bytes: 1 << 20,
        entries: 200,
        path_bytes: 300,
        path_depth: 20,
        header_bytes: 4096,
        xattr_bytes: 256,
        missing_end: false,
    }
}

/// One entry of an archive, as other readers of tar show it too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// `-` for a file, `h` for a hard link, `l`, `c`, `b`, `d`, `p` as in ls(1).
    pub kind: char,
    /// The entry's name, as it is written.
    pub path: Vec<u8>,
    /// The link's target, for the two kinds that have one.
    pub link: Vec<u8>,
    /// Permission bits, with the set-id bits.
    pub mode: u32,
    /// The size with holes in bytes, of a file.
    pub size: u64,
    /// The owner.
    pub ids: (u32, u32),
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Hash of the stored bytes of a file.
    pub content: Digest,
}

/// All entries of an archive, or why it is refused.
///
/// # Errors
/// The reader's.
pub fn list(bytes: &[u8], limits: &Limits) -> Result<Vec<Listed>, String> {
    let mut source = bytes;
    let mut reader = Reader::new(&mut source, limits);
    let mut entry = Entry::new();
    let mut all = Vec::new();
    loop {
        match reader.next(&mut entry) {
            Ok(true) => {}
            Ok(false) => return Ok(all),
            Err(error) => return Err(error.to_string()),
        }
        let mut content = Vec::new();
        while let Some(piece) = reader.data(u64::MAX).map_err(|error| error.to_string())? {
            content.extend_from_slice(piece);
        }
        let (kind, linked) = match entry.kind {
            Kind::File => ('-', false),
            Kind::HardLink => ('h', true),
            Kind::Symlink => ('l', true),
            Kind::CharDevice => ('c', false),
            Kind::BlockDevice => ('b', false),
            Kind::Directory => ('d', false),
            Kind::Fifo => ('p', false),
        };
        let stored = entry.sparse.as_ref().map_or(entry.size, |map| map.iter().map(|region| region.length).sum());
        assert_eq!(content.len() as u64, stored, "{entry:?}");
        all.push(Listed {
            kind,
            path: entry.path.clone(),
            link: if linked { entry.link.clone() } else { Vec::new() },
            mode: entry.mode,
            size: entry.size,
            ids: (entry.uid, entry.gid),
            device: entry.device,
            content: Digest::sha256_of(&content),
        });
    }
}

/// An archive is read; nothing is made up that is not in it.
pub fn tar(bytes: &[u8]) {
    let limits = limits();
    if let Ok(all) = list(bytes, &limits) {
        assert!(all.len() * 512 <= bytes.len(), "{} entries in {} bytes", all.len(), bytes.len());
    }
}

/// An archive is unpacked; nothing outside its directory changes.
pub fn extraction(bytes: &[u8]) {
    // No input of this size makes more than the limits allow.
    if bytes.len() > 64 << 10 {
        return;
    }
    let place = Place::new();
    let root = rustix::fs::openat(
        rustix::fs::CWD,
        &place.root,
        rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    );
    let root: OwnedFd = root.expect("made before");
    let mut tree = Tree::new(root).expect("an open directory");
    let mut source = bytes;
    // A refusal is as good as an unpacked tree.
    let _ = extract(&mut tree, &mut source, &limits());
    place.check();
}

const SECRET: &str = "outside";

/// A directory to unpack into, and beside it a file and a directory that must stay as they are.
struct Place {
    all: PathBuf,
    root: PathBuf,
}

impl Place {
    fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let all = base.join(format!("lighter-fuzz-{}-{:?}", std::process::id(), std::thread::current().id()));
        // What a crash of the process before left.
        let _ = std::fs::remove_dir_all(&all);
        let root = all.join("root");
        for dir in [&root, &all.join("etc")] {
            std::fs::create_dir_all(dir).expect("made");
        }
        std::fs::write(all.join("etc/passwd"), SECRET).expect("made");
        for path in ["etc", "etc/passwd"] {
            std::fs::set_permissions(all.join(path), std::fs::Permissions::from_mode(0o700)).expect("made");
        }
        Self { all, root }
    }

    fn check(&self) {
        let names = |path: &Path| {
            let entries = std::fs::read_dir(path).expect("still there");
            let mut names: Vec<_> = entries.map(|entry| entry.expect("an entry").file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&self.all), ["etc", "root"]);
        assert_eq!(names(&self.all.join("etc")), ["passwd"]);
        assert_eq!(std::fs::read_to_string(self.all.join("etc/passwd")).expect("still there"), SECRET);
        for path in ["etc", "etc/passwd"] {
            let mode = std::fs::symlink_metadata(self.all.join(path)).expect("still there").permissions().mode();
            assert_eq!(mode & 0o7777, 0o700, "{path}");
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.all);
    }
}

/// A layer's record on disk.
pub fn layer_record(bytes: &[u8]) {
    let _ = record::LayerRecord::parse(&Digest::sha256_of(b""), bytes);
}

/// A target.
pub type Target = fn(&[u8]);

/// The targets by name.
pub const TARGETS: [(&str, Target); 3] = [("tar", tar), ("extraction", extraction), ("layer_record", layer_record)];

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::{TARGETS, replay};

    #[test]
    fn what_the_fuzzers_found_is_read_without_fault() {
        replay::all(&TARGETS);
    }
}
