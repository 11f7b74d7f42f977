//! Trees of files as text, so that what two programs unpacked can be compared line by line.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::image::hex;

/// What stands at each path below `dir`, the directory itself (`.`) included: kind, mode, owner, time, device, link, extended
/// attributes, content, and which names are one file. Only the name counts of what overlayfs takes for a whiteout.
///
/// # Errors
/// The first thing that cannot be read.
pub fn of(dir: &Path) -> std::io::Result<BTreeMap<String, String>> {
    let mut lines = BTreeMap::new();
    let mut names: BTreeMap<(u64, u64), String> = BTreeMap::new();
    let mut left = vec![PathBuf::new()];
    let mut files = Vec::new();
    while let Some(path) = left.pop() {
        let full = if path.as_os_str().is_empty() { dir.to_owned() } else { dir.join(&path) };
        let meta = full.symlink_metadata()?;
        let name = match path.as_os_str().as_bytes() {
            b"" => ".".to_owned(),
            name => name.escape_ascii().to_string(),
        };
        if meta.is_dir() {
            for entry in std::fs::read_dir(&full)? {
                left.push(path.join(entry?.file_name()));
            }
        } else if meta.nlink() > 1 {
            let first = names.entry((meta.dev(), meta.ino())).or_insert_with(|| name.clone());
            if name < *first {
                first.clone_from(&name);
            }
        }
        files.push((name, full, meta));
    }
    for (name, full, meta) in files {
        let same = names.get(&(meta.dev(), meta.ino())).map(|first| format!(" file {first}")).unwrap_or_default();
        lines.insert(name, line(&full, &meta)? + &same);
    }
    Ok(lines)
}

fn line(path: &Path, meta: &std::fs::Metadata) -> std::io::Result<String> {
    let kind = meta.file_type();
    if kind.is_char_device() && meta.rdev() == 0 {
        return Ok("whiteout".to_owned());
    }
    let what = if kind.is_dir() {
        "directory".to_owned()
    } else if kind.is_symlink() {
        format!("link to {}", std::fs::read_link(path)?.as_os_str().as_bytes().escape_ascii())
    } else if kind.is_file() {
        format!("{} bytes {}", meta.len(), &hex(&std::fs::read(path)?)[..12])
    } else if kind.is_fifo() {
        "fifo".to_owned()
    } else {
        let letter = if kind.is_char_device() { 'c' } else { 'b' };
        format!("{letter} {}:{}", rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()))
    };
    let mode = meta.mode() & 0o7777;
    let owner = format!("{}:{}", meta.uid(), meta.gid());
    let time = format!("{}.{:09}", meta.mtime(), meta.mtime_nsec());
    Ok(format!("{what} {mode:04o} {owner} {time}{}", attributes(path)?))
}

fn attributes(path: &Path) -> std::io::Result<String> {
    let mut names = vec![0; 65536];
    let length = rustix::fs::llistxattr(path, &mut names[..])?;
    let mut names: Vec<&[u8]> = names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()).collect();
    names.sort_unstable();
    let mut text = String::new();
    for name in names {
        let mut value = vec![0; 65536];
        let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..])?;
        text += &format!(" {}={}", name.escape_ascii(), value[..length].escape_ascii());
    }
    Ok(text)
}

/// Each path at which the listings differ, with what either has there.
#[must_use]
pub fn differences(one: &BTreeMap<String, String>, other: &BTreeMap<String, String>) -> Vec<String> {
    let mut paths: Vec<&String> = one.keys().chain(other.keys()).collect();
    paths.sort();
    paths.dedup();
    let said = |listing: &BTreeMap<String, String>, path: &String| {
        listing.get(path).map_or_else(|| "nothing".to_owned(), Clone::clone)
    };
    paths
        .into_iter()
        .filter(|path| one.get(*path) != other.get(*path))
        .map(|path| format!("{path}:\n    {}\n    {}", said(one, path), said(other, path)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_told() {
        let dir = std::env::temp_dir().join(format!("lighter-testkit-listing-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("a")).expect("temp dir");
        std::fs::write(dir.join("a/file"), "one").expect("write");
        let before = of(&dir).expect("a listing");
        assert_eq!(before.keys().collect::<Vec<_>>(), [".", "a", "a/file"]);
        assert!(before["a/file"].starts_with("3 bytes 7692c3ad3540 0"), "{before:?}");
        assert_eq!(differences(&before, &of(&dir).expect("a listing")), Vec::<String>::new());
        std::fs::hard_link(dir.join("a/file"), dir.join("link")).expect("link");
        let after = of(&dir).expect("a listing");
        let told = differences(&before, &after);
        std::fs::remove_dir_all(&dir).expect("clean up");
        assert!(after["link"].ends_with(" file a/file") && after["a/file"].ends_with(" file a/file"), "{after:?}");
        assert!(told.iter().any(|line| line.starts_with("link:\n    nothing\n")), "{told:?}");
    }
}
