use super::testing::{Head, Tar};
use super::*;

/// Names and sizes of an archive's entries, with their data read.
fn read(archive: &[u8], limits: &Limits) -> Result<Vec<(String, u64, Vec<u8>)>> {
    let mut source = archive;
    let mut reader = Reader::new(&mut source, limits);
    let mut entry = Entry::new();
    let mut found = Vec::new();
    while reader.next(&mut entry)? {
        let mut data = Vec::new();
        while let Some(piece) = reader.data(u64::MAX)? {
            data.extend_from_slice(piece);
        }
        found.push((lossy(&entry.path), entry.size, data));
    }
    assert!(source.is_empty(), "the source must be read to its end");
    Ok(found)
}

fn names(archive: &[u8]) -> Vec<String> {
    read(archive, &Limits::default()).unwrap().into_iter().map(|(name, ..)| name).collect()
}

fn reason(archive: &[u8]) -> &'static str {
    match read(archive, &Limits::default()) {
        Err(Error::Malformed { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pax_size_counts_and_the_headers_does_not() {
    // CVE-2025-62518: with the header's size of nothing, the data would be read as headers.
    let smuggled = Tar::new().file("smuggled", "x").open_end();
    let size = smuggled.len().to_string();
    let tar = Tar::new()
        .pax(&[("size", size.as_bytes())])
        .head(Head::new(b'0', "outer", 0))
        .data(&smuggled)
        .file("after", "");
    assert_eq!(names(&tar.end()), ["outer", "after"]);
    // And the other way round: a size of nothing over a header that claims more.
    let tar = Tar::new().pax(&[("size", b"0")]).head(Head::new(b'0', "a", 512)).file("b", "x");
    assert_eq!(names(&tar.end()), ["a", "b"]);
    // Entries without data have none, whatever they say.
    let tar = Tar::new().head(Head::new(b'5', "d", 512)).file("b", "x");
    assert_eq!(names(&tar.end()), ["d", "b"]);
    let tar = Tar::new().pax(&[("size", b"1024")]).symlink("l", "t").file("b", "x");
    assert_eq!(names(&tar.end()), ["l", "b"]);
    // A size for all entries is ignored, as a global header is.
    let tar = Tar::new().head(Head::new(b'g', "g", 9)).data(b"9 size=5\n").file("a", "xyz");
    assert_eq!(read(&tar.end(), &Limits::default()).unwrap(), [("a".to_owned(), 3, b"xyz".to_vec())]);
}

#[test]
fn names_come_from_one_place() {
    let long = "n".repeat(300);
    assert_eq!(names(&Tar::new().gnu_long(b'L', &long).file("short", "").end()), [&long[..]]);
    assert_eq!(
        names(&Tar::new().pax(&[("path", long.as_bytes())]).file("short", "").file("b", "").end()),
        [&long, "b"]
    );
    let mut prefixed = Head::new(b'0', "name", 0);
    prefixed.field(345, b"some/prefix");
    assert_eq!(names(&Tar::new().head(prefixed.clone()).end()), ["some/prefix/name"]);
    // GNU headers keep times where ustar has the prefix.
    prefixed.field(257, b"ustar  \0");
    assert_eq!(names(&Tar::new().head(prefixed).end()), ["name"]);
    let full = "f".repeat(100);
    assert_eq!(names(&Tar::new().file(&full, "").end()), [full]);

    let both = Tar::new().pax(&[("path", b"one")]).gnu_long(b'L', "two").file("three", "");
    assert_eq!(reason(&both.end()), "a PAX and a GNU name for one entry");
    let twice = Tar::new().gnu_long(b'L', "one").gnu_long(b'L', "two").file("three", "");
    assert_eq!(reason(&twice.end()), "two long names for one entry");
    let twice = Tar::new().pax(&[("path", b"one")]).pax(&[("path", b"two")]).file("three", "");
    assert_eq!(reason(&twice.end()), "two extended headers for one entry");
    assert_eq!(reason(&Tar::new().pax(&[("path", b"a\0b")]).file("c", "").end()), "a name has a NUL");
}

#[test]
fn the_v7_form_and_its_directories() {
    let mut dir = Head::new(0, "dir/", 0);
    dir.field(257, &[0; 8]);
    let mut file = Head::new(0, "file", 1);
    file.field(257, &[0; 8]);
    let archive = Tar::new().head(dir).head(file).data(b"x").end();
    let mut source = &archive[..];
    let limits = Limits::default();
    let mut reader = Reader::new(&mut source, &limits);
    let mut entry = Entry::new();
    assert!(reader.next(&mut entry).unwrap());
    assert_eq!(entry.kind, Kind::Directory);
    assert!(reader.next(&mut entry).unwrap());
    assert_eq!((entry.kind, entry.size), (Kind::File, 1));
    assert!(!reader.next(&mut entry).unwrap());
}

#[test]
fn what_is_damaged_is_an_error() {
    let mut wrong = Tar::new().file("a", "x").end();
    wrong[0] ^= 1;
    assert_eq!(reason(&wrong), "the header's checksum is wrong");
    for flag in [b'D', b'M', b'V', b'X', b'N', b'8', b'z', 0xff] {
        assert_eq!(reason(&Tar::new().head(Head::new(flag, "a", 0)).end()), "an unknown type of entry");
    }
    let mut negative = Head::new(b'0', "a", 0);
    negative.field(124, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff");
    assert_eq!(reason(&Tar::new().head(negative).end()), "the size is negative");
    let mut everyone = Head::new(b'0', "a", 0);
    everyone.field(108, b"\x80\0\0\0\xff\xff\xff\xff");
    assert_eq!(reason(&Tar::new().head(everyone).end()), "a user or group id is out of range");
    assert_eq!(reason(&Tar::new().pax(&[("path", b"a")]).end()), "an extended header without an entry after it");
    assert_eq!(reason(&Tar::new().raw(&[0; 512]).file("a", "").end()), "a lone zero block after this entry");
    assert_eq!(
        reason(&Tar::new().pax(&[("GNU.sparse.map", b"0,9")]).file("a", "x").end()),
        "a sparse region is outside of its file"
    );
    assert!(matches!(read(&[0xff; 2048], &Limits::default()), Err(Error::Malformed { .. })));
}

#[test]
fn a_truncated_archive_is_an_error_at_every_byte() {
    let whole = Tar::new()
        .pax(&[("path", b"long"), ("SCHILY.xattr.user.a", b"b")])
        .file("a", &"x".repeat(700))
        .dir("d")
        .gnu_long(b'K', "target")
        .symlink("l", "t")
        .open_end();
    for length in 0..whole.len() {
        let result = read(&whole[..length], &Limits::default());
        assert!(matches!(result, Err(Error::Truncated)), "{length}: {result:?}");
    }
    assert!(matches!(read(&whole, &Limits::default()), Err(Error::Truncated)));
    let lenient = Limits { missing_end: true, ..Limits::default() };
    assert_eq!(read(&whole, &lenient).unwrap().len(), 3);
    assert!(read(&whole[..whole.len() - 1], &lenient).is_err());
    let waiting = Tar::new().pax(&[("path", b"a")]).open_end();
    assert!(matches!(read(&waiting, &lenient), Err(Error::Truncated)));
    // One zero block at the end is enough, and padding after the end mark is read over.
    assert_eq!(read(&Tar::new().file("a", "").raw(&[0; 512]).open_end(), &Limits::default()).unwrap().len(), 1);
    assert_eq!(read(&Tar::new().file("a", "").raw(&[0; 700_000]).open_end(), &Limits::default()).unwrap().len(), 1);
}

#[test]
fn a_source_that_gives_little_or_fails() {
    struct Drip<'a>(&'a [u8], bool);
    impl Read for Drip<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.1 = !self.1;
            match self.0.split_first() {
                _ if self.1 => Err(ErrorKind::Interrupted.into()),
                Some((&first, rest)) if !buffer.is_empty() => {
                    buffer[0] = first;
                    self.0 = rest;
                    Ok(1)
                }
                _ => Err(std::io::Error::other("the network is down")),
            }
        }
    }
    let archive = Tar::new().file("a", "data").end();
    let limits = Limits::default();
    let mut source = Drip(&archive, false);
    let mut reader = Reader::new(&mut source, &limits);
    let error = reader.next(&mut Entry::new()).unwrap_err();
    assert!(matches!(&error, Error::Source(_)));
    assert_eq!(error.to_string(), "cannot read the layer archive: the network is down");
}

#[test]
fn random_bytes_never_panic() {
    // Headers with a right checksum but arbitrary fields, so that more than the checksum is tried.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let (mut good, mut bad) = (0, 0);
    for _ in 0..3000 {
        let flags = b"01234567xgLKS\0";
        let flag = flags[usize::try_from(random()).unwrap() % flags.len()];
        let mut head = Head::new(flag, "name", random() % 2000);
        for _ in 0..random() % 4 {
            let at = usize::try_from(random()).unwrap() % 500;
            head.0[at] = random().to_le_bytes()[0];
        }
        let data: Vec<u8> =
            (0..random() % 2048).map(|_| b"0123456789 =\n,path"[usize::try_from(random()).unwrap() % 18]).collect();
        let tar = Tar::new().head(head).data(&data).file("b", "x");
        match read(&tar.end(), &Limits::default()) {
            Ok(_) => good += 1,
            Err(_) => bad += 1,
        }
    }
    assert!(good > 0 && bad > 0, "{good} {bad}");
}
