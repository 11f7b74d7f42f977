//! Any bytes as a container's output, and as a log that something has damaged.

use std::path::PathBuf;

use super::reader::{LogOptions, parse, read};
use super::writer::encode;
use crate::protocol::Stream;

const TIME: &str = "2026-01-02T03:04:05.678901234Z";

/// What is written comes back; a damaged log gives its whole records, and the last few are the last of all.
pub(crate) fn log(bytes: &[u8]) {
    let mut record = Vec::new();
    encode(&mut record, Stream::Stderr, bytes, TIME);
    assert_eq!(record.iter().filter(|byte| **byte == b'\n').count(), 1, "one record is one line");
    let entry = parse(&record).expect("what was written can be read");
    let chunks = bytes.utf8_chunks();
    let expected: String =
        chunks.map(|chunk| format!("{}{}", chunk.valid(), "\u{fffd}".repeat(chunk.invalid().len()))).collect();
    assert_eq!(entry.text, expected);
    assert_eq!((entry.stream, entry.time.to_string().as_str()), (Stream::Stderr, TIME));

    let file = LogFile::new(bytes);
    let texts = |tail| -> Vec<_> {
        let options = LogOptions { tail, ..LogOptions::default() };
        let entries = read(&file.0, &options, || true).expect("there");
        entries.map(|entry| entry.expect("readable").text).collect()
    };
    let all = texts(None);
    assert!(all.len() <= bytes.iter().filter(|byte| **byte == b'\n').count());
    let last = texts(Some(2));
    assert!(last.len() <= 2 && all.ends_with(&last), "{last:?}");
}

/// A log of these bytes, gone with the value.
struct LogFile(PathBuf);

impl LogFile {
    fn new(bytes: &[u8]) -> Self {
        let memory = PathBuf::from("/dev/shm");
        let base = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let path = base.join(format!("lighter-fuzz-log-{}-{:?}", std::process::id(), std::thread::current().id()));
        std::fs::write(&path, bytes).expect("written");
        Self(path)
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
