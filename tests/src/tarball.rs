//! Tar archives byte by byte: well-formed ones, and every kind of ill-formed one.

/// One archive member, header field by header field.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The name as it stands in the header: at most 100 bytes.
    pub name: String,
    /// The type flag: `0` file, `1` hard link, `2` symlink, `3` and `4` devices, `5` directory, `6` fifo.
    pub kind: u8,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The link's target: at most 100 bytes.
    pub link: String,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// The member's bytes.
    pub data: Vec<u8>,
    /// The size the header claims when it is to lie.
    pub claimed: Option<u64>,
}

impl Entry {
    /// A member of type `kind` with nothing in it, mode 0644, owned by root.
    #[must_use]
    pub fn new(kind: u8, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            link: String::new(),
            device: (0, 0),
            data: Vec::new(),
            claimed: None,
        }
    }
}

/// An archive in the making.
#[derive(Clone, Debug, Default)]
pub struct Tar {
    bytes: Vec<u8>,
}

impl Tar {
    /// An empty archive.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a member as it is.
    ///
    /// # Panics
    /// When a name is longer than a header holds.
    #[must_use]
    pub fn entry(mut self, entry: &Entry) -> Self {
        self.bytes.extend(header(entry));
        self.bytes.extend(&entry.data);
        self.pad();
        self
    }

    /// Adds a directory.
    #[must_use]
    pub fn dir(self, name: &str, mode: u32) -> Self {
        self.entry(&Entry { mode, ..Entry::new(b'5', name) })
    }

    /// Adds a regular file.
    #[must_use]
    pub fn file(self, name: &str, mode: u32, data: &[u8]) -> Self {
        self.entry(&Entry { mode, data: data.to_vec(), ..Entry::new(b'0', name) })
    }

    /// Adds a regular file of another owner.
    #[must_use]
    pub fn owned(self, name: &str, mode: u32, owner: (u32, u32), data: &[u8]) -> Self {
        self.entry(&Entry { mode, uid: owner.0, gid: owner.1, data: data.to_vec(), ..Entry::new(b'0', name) })
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(&Entry { mode: 0o777, link: target.to_owned(), ..Entry::new(b'2', name) })
    }

    /// Adds a hard link.
    #[must_use]
    pub fn hardlink(self, name: &str, target: &str) -> Self {
        self.entry(&Entry { link: target.to_owned(), ..Entry::new(b'1', name) })
    }

    /// Adds a device node: `kind` is `3` (character) or `4` (block).
    #[must_use]
    pub fn device(self, kind: u8, name: &str, major: u32, minor: u32) -> Self {
        self.entry(&Entry { mode: 0o666, device: (major, minor), ..Entry::new(kind, name) })
    }

    /// Adds an extended header for the member that follows.
    #[must_use]
    pub fn pax(self, records: &[(&str, &str)]) -> Self {
        let data = records.iter().map(|(key, value)| pax_record(key, value)).collect::<String>().into_bytes();
        self.entry(&Entry { data, ..Entry::new(b'x', "PaxHeaders/next") })
    }

    /// Adds bytes as they are.
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self
    }

    /// Adds the members of another archive.
    #[must_use]
    pub fn append(mut self, other: &Tar) -> Self {
        self.bytes.extend(&other.bytes);
        self
    }

    /// The archive with its closing blocks.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.extend([0; 1024]);
        self.bytes
    }

    fn pad(&mut self) {
        let over = self.bytes.len() % 512;
        if over != 0 {
            self.bytes.resize(self.bytes.len() + 512 - over, 0);
        }
    }
}

/// `LENGTH KEY=VALUE\n`, where the length counts its own digits (POSIX.1-2001 pax, extended header records).
fn pax_record(key: &str, value: &str) -> String {
    let body = format!(" {key}={value}\n");
    let mut length = body.len() + 1;
    while length != body.len() + length.to_string().len() {
        length = body.len() + length.to_string().len();
    }
    format!("{length}{body}")
}

fn header(entry: &Entry) -> [u8; 512] {
    let mut block = [0u8; 512];
    let mut put = |at: usize, room: usize, bytes: &[u8]| {
        assert!(bytes.len() <= room, "a tar header field holds {room} bytes: {:?}", String::from_utf8_lossy(bytes));
        block[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(0, 100, entry.name.as_bytes());
    put(100, 8, format!("{:07o}", entry.mode).as_bytes());
    put(108, 8, format!("{:07o}", entry.uid).as_bytes());
    put(116, 8, format!("{:07o}", entry.gid).as_bytes());
    let size = entry.claimed.unwrap_or(entry.data.len() as u64);
    put(124, 12, format!("{size:011o}").as_bytes());
    // 2020-01-01, so that archives do not depend on when they are made.
    put(136, 12, format!("{:011o}", 1_577_836_800u32).as_bytes());
    put(148, 8, b"        ");
    put(156, 1, &[entry.kind]);
    put(157, 100, entry.link.as_bytes());
    put(257, 8, b"ustar\x0000");
    put(329, 8, format!("{:07o}", entry.device.0).as_bytes());
    put(337, 8, format!("{:07o}", entry.device.1).as_bytes());
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_tar_reads_it() {
        let dir = std::env::temp_dir().join(format!("lighter-testkit-tar-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("temp dir");
        let path = dir.join("a.tar");
        let long = format!("long/{}", "n".repeat(150));
        let tar = Tar::new()
            .dir("d/", 0o750)
            .owned("d/f", 0o640, (7, 8), b"hello")
            .symlink("d/s", "../x")
            .hardlink("d/h", "d/f")
            .device(b'3', "d/null", 1, 3)
            .pax(&[("path", &long)])
            .file("short", 0o644, b"x");
        std::fs::write(&path, tar.finish()).expect("write");
        let listing = crate::process::tool("tar", &["--numeric-owner", "-tvf", &path.to_string_lossy()]);
        std::fs::remove_dir_all(&dir).expect("clean up");
        let line = |name: &str| listing.lines().find(|line| line.contains(name)).unwrap_or_default().to_owned();
        assert!(line(" d/f").starts_with("-rw-r----- 7/8"), "{listing}");
        assert!(line(" d/s").contains("-> ../x"), "{listing}");
        assert!(line(" d/h").contains("link to d/f"), "{listing}");
        assert!(line(" d/null").contains("1,3"), "{listing}");
        assert!(line(&long).starts_with("-rw-r--r--"), "{listing}");
    }

    #[test]
    fn a_pax_record_counts_its_own_length() {
        assert_eq!(pax_record("a", "b"), "6 a=b\n");
        let long = pax_record("path", &"n".repeat(90));
        assert_eq!(long.split(' ').next().and_then(|digits| digits.parse().ok()), Some(long.len()));
    }
}
