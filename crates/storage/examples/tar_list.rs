//! Lists archives as our reader sees them, one line of JSON each, for `fuzz/tar_differential.py`.

use std::io::Write as _;

use storage::Limits;
use storage::fuzzing::{Listed, list};

/// A string with each byte as the character of its number.
fn text(bytes: &[u8]) -> String {
    let mut out = String::from("\"");
    for byte in bytes {
        out.push_str(&format!("\\u{byte:04x}"));
    }
    out.push('"');
    out
}

fn entry(entry: &Listed) -> String {
    let Listed { kind, path, link, mode, size, ids: (uid, gid), device: (major, minor), .. } = entry;
    let (path, link) = (text(path), text(link));
    format!(
        "{{\"kind\":\"{kind}\",\"path\":{path},\"link\":{link},\"mode\":{mode},\"size\":{size},\"uid\":{uid},\"gid\":{gid},\
         \"device\":[{major},{minor}]}}"
    )
}

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for path in std::env::args_os().skip(1) {
        match list(&std::fs::read(path)?, &Limits::default()) {
            Ok(all) => writeln!(out, "[{}]", all.iter().map(entry).collect::<Vec<_>>().join(","))?,
            Err(reason) => writeln!(out, "{}", text(reason.as_bytes()))?,
        }
    }
    Ok(())
}
