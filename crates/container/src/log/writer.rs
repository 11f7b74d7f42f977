//! Writing the log. A failed write loses records, counted and told in the log itself as soon as it can be written again;
//! it never blocks or ends the container.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use super::{MAX_LINE, rotated};
use crate::protocol::Stream;
use crate::record::now;
use crate::request::LogRequest;

/// Bytes of records collected before they are written, so that a burst of short lines is one write(2).
const BATCH: usize = 32 * 1024;

/// The log of a running container.
#[derive(Debug)]
pub(crate) struct Writer {
    path: PathBuf,
    max_size: u64,
    max_files: u32,
    /// `None` when the file could not be opened: tried again with every batch.
    file: Option<OwnedFd>,
    /// Bytes of whole records in the file.
    size: u64,
    batch: Vec<u8>,
    batched: u64,
    partial: [Vec<u8>; 2],
    lost: u64,
    reason: Option<Errno>,
}

impl Writer {
    /// The log at `request.path`, continued where an earlier run left it. Never fails: a log that cannot be opened is
    /// tried again with each write.
    pub(crate) fn open(request: &LogRequest) -> Self {
        let mut writer = Self {
            path: request.path.clone(),
            max_size: request.max_size,
            max_files: request.max_files,
            file: None,
            size: 0,
            batch: Vec::new(),
            batched: 0,
            partial: [Vec::new(), Vec::new()],
            lost: 0,
            reason: None,
        };
        writer.reopen();
        writer
    }

    /// Adds bytes of a stream and writes what is complete.
    pub(crate) fn append(&mut self, stream: Stream, mut bytes: &[u8]) {
        let time = now();
        while !bytes.is_empty() {
            let partial = &mut self.partial[slot(stream)];
            let room = MAX_LINE - partial.len();
            let newline = bytes.iter().take(room).position(|&byte| byte == b'\n');
            match newline {
                Some(end) if partial.is_empty() => {
                    self.push(stream, &bytes[..=end], &time);
                    bytes = &bytes[end + 1..];
                }
                Some(end) => {
                    partial.extend_from_slice(&bytes[..=end]);
                    let line = std::mem::take(partial);
                    self.push(stream, &line, &time);
                    bytes = &bytes[end + 1..];
                }
                None => {
                    let taken = room.min(bytes.len());
                    partial.extend_from_slice(&bytes[..taken]);
                    bytes = &bytes[taken..];
                    if partial.len() == MAX_LINE {
                        let mut part = std::mem::take(partial);
                        let rest = part.split_off(whole_characters(&part));
                        self.partial[slot(stream)] = rest;
                        self.push(stream, &part, &time);
                    }
                }
            }
        }
        self.flush();
    }

    /// Writes unterminated last lines: the streams have ended.
    pub(crate) fn finish(&mut self) {
        let time = now();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = std::mem::take(&mut self.partial[slot(stream)]);
            if !rest.is_empty() {
                self.push(stream, &rest, &time);
            }
        }
        self.flush();
    }

    fn push(&mut self, stream: Stream, text: &[u8], time: &str) {
        let before = self.batch.len();
        encode(&mut self.batch, stream, text, time);
        let length = self.batch.len() - before;
        if self.max_size > 0 && self.size + self.batch.len() as u64 > self.max_size && self.size + before as u64 > 0 {
            let record = self.batch.split_off(before);
            self.flush();
            self.rotate();
            self.batch = record;
        }
        self.batched += 1;
        if self.batch.len() >= BATCH.max(length) {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        if self.file.is_none() {
            self.reopen();
        }
        if self.lost > 0 {
            let why = self.reason.map(|errno| std::io::Error::from(errno).to_string()).unwrap_or_default();
            let mut notice = Vec::new();
            let text = format!("[lighter] {} log records were lost: {why}\n", self.lost);
            encode(&mut notice, Stream::Stderr, text.as_bytes(), &now());
            self.batch.splice(0..0, notice);
        }
        match self.write() {
            Ok(()) => {
                self.size += self.batch.len() as u64;
                self.lost = 0;
                self.reason = None;
            }
            Err(errno) => {
                self.lost += self.batched;
                self.reason = Some(errno);
                self.cut_back();
            }
        }
        self.batch.clear();
        self.batched = 0;
    }

    fn write(&self) -> Result<(), Errno> {
        let file = self.file.as_ref().ok_or(self.reason.unwrap_or(Errno::IO))?;
        let mut rest = &self.batch[..];
        while !rest.is_empty() {
            match rustix::io::write(file, rest) {
                Ok(0) => return Err(Errno::IO),
                Ok(written) => rest = &rest[written..],
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// After a failed write: no half record may stay before the next one.
    fn cut_back(&mut self) {
        if let Some(file) = &self.file
            && rustix::fs::ftruncate(file, self.size).is_err()
        {
            // A file that takes neither bytes nor cuts is opened afresh; opening ends a torn record.
            self.file = None;
        }
    }

    fn reopen(&mut self) {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(CWD, &self.path, flags, Mode::from_raw_mode(0o600)) {
            Ok(file) => {
                self.size =
                    rustix::fs::fstat(&file).ok().and_then(|stat| u64::try_from(stat.st_size).ok()).unwrap_or(0);
                let mut last = [b'\n'];
                let torn =
                    self.size > 0 && rustix::io::pread(&file, &mut last, self.size - 1).is_ok() && last[0] != b'\n';
                if torn && rustix::io::write(&file, b"\n") == Ok(1) {
                    self.size += 1;
                }
                self.file = Some(file);
            }
            Err(errno) => self.reason = Some(errno),
        }
    }

    /// Renames `log` → `log.1` → …; the oldest is replaced. Renames that fail leave the current file in use, which is
    /// then longer than asked: too much log is better than none.
    fn rotate(&mut self) {
        if self.file.is_none() {
            return;
        }
        for index in (0..self.max_files.saturating_sub(1)).rev() {
            move_away(&rotated(&self.path, index), &rotated(&self.path, index + 1));
        }
        if self.max_files <= 1 && std::fs::remove_file(&self.path).is_err() {
            return;
        }
        self.file = None;
        self.reopen();
    }
}

fn move_away(from: &Path, to: &Path) {
    // Most often the file does not exist yet. Any other failure keeps what is there.
    let _ = std::fs::rename(from, to);
}

fn slot(stream: Stream) -> usize {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
    }
}

/// Length of the longest prefix that ends between characters, if `bytes` ends inside one; otherwise all of it.
fn whole_characters(bytes: &[u8]) -> usize {
    let tail = bytes.len().saturating_sub(3);
    let lead = bytes[tail..].iter().rposition(|&byte| byte & 0b1100_0000 != 0b1000_0000).map(|at| at + tail);
    match lead {
        Some(at) if at > 0 => {
            let wants = match bytes[at] {
                0xC2..=0xDF => 2,
                0xE0..=0xEF => 3,
                0xF0..=0xF4 => 4,
                _ => 1,
            };
            if at + wants > bytes.len() { at } else { bytes.len() }
        }
        _ => bytes.len(),
    }
}

pub(super) fn encode(out: &mut Vec<u8>, stream: Stream, text: &[u8], time: &str) {
    out.reserve(text.len() + 80);
    out.extend_from_slice(b"{\"log\":\"");
    for chunk in text.utf8_chunks() {
        escape(out, chunk.valid().as_bytes());
        for _ in chunk.invalid() {
            out.extend_from_slice("\u{FFFD}".as_bytes());
        }
    }
    out.extend_from_slice(b"\",\"stream\":\"");
    out.extend_from_slice(stream.as_str().as_bytes());
    out.extend_from_slice(b"\",\"time\":\"");
    out.extend_from_slice(time.as_bytes());
    out.extend_from_slice(b"\"}\n");
}

fn escape(out: &mut Vec<u8>, text: &[u8]) {
    let mut start = 0;
    for (at, &byte) in text.iter().enumerate() {
        let short: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0..0x20 => b"",
            _ => continue,
        };
        out.extend_from_slice(&text[start..at]);
        start = at + 1;
        if short.is_empty() {
            // Writing to memory does not fail.
            let _ = write!(out, "\\u{byte:04x}");
        } else {
            out.extend_from_slice(short);
        }
    }
    out.extend_from_slice(&text[start..]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::{LogOptions, read};
    use crate::scratch::Scratch;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn text_comes_back_however_it_was_read(
            text in "(\\PC|[\\n\\r\\t\\x00\"\\\\]){0,200}",
            cuts in proptest::collection::vec(0..800_usize, 0..12),
            max_size in 0..2000_u64,
        ) {
            let scratch = Scratch::new("log-any");
            let path = scratch.path().join("log");
            let mut writer = open(&path, max_size, 1000);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.sort_unstable();
            let mut start = 0;
            for cut in cuts.into_iter().chain([text.len()]) {
                writer.append(Stream::Stdout, &text.as_bytes()[start..cut]);
                start = cut;
            }
            writer.finish();
            prop_assert_eq!(texts(&path).concat(), text);
        }
    }

    fn texts(path: &Path) -> Vec<String> {
        read(path, &LogOptions::default(), || true).expect("opened").map(|entry| entry.expect("read").text).collect()
    }

    fn open(path: &Path, max_size: u64, max_files: u32) -> Writer {
        Writer::open(&LogRequest { path: path.to_owned(), max_size, max_files })
    }

    #[test]
    fn every_byte_survives_as_with_docker() {
        let scratch = Scratch::new("log-bytes");
        let path = scratch.path().join("log");
        let mut writer = open(&path, 0, 1);
        let ascii: Vec<u8> = (0..0x80).filter(|byte| *byte != b'\n').chain([b'\n']).collect();
        writer.append(Stream::Stdout, &ascii);
        writer.append(Stream::Stdout, b"high \x80\xff\xc3 bytes\n");
        writer.append(Stream::Stderr, "ünïcödé \u{2028} \u{1F6A2}\n".as_bytes());
        let texts = texts(&path);
        assert_eq!(texts[0].as_bytes(), ascii);
        assert_eq!(texts[1], "high \u{FFFD}\u{FFFD}\u{FFFD} bytes\n");
        assert_eq!(texts[2], "ünïcödé \u{2028} \u{1F6A2}\n");
        let raw = std::fs::read_to_string(&path).expect("text");
        assert_eq!(raw.lines().count(), 3);
        for line in raw.lines() {
            let record: serde_json::Value = serde_json::from_str(line).expect("JSON");
            assert!(record["time"].as_str().expect("a time").ends_with('Z'));
        }
    }

    #[test]
    fn lines_are_joined_across_reads_and_cut_at_16_kib() {
        let scratch = Scratch::new("log-lines");
        let path = scratch.path().join("log");
        let mut writer = open(&path, 0, 1);
        writer.append(Stream::Stdout, b"one");
        writer.append(Stream::Stderr, b"other\n");
        writer.append(Stream::Stdout, b" line\ntwo");
        let long = "é".repeat(20_000);
        writer.append(Stream::Stderr, long.as_bytes());
        writer.append(Stream::Stderr, b"\n");
        writer.finish();
        let texts = texts(&path);
        assert_eq!(texts[..2], ["other\n", "one line\n"]);
        assert_eq!(texts[2..4].iter().map(String::len).collect::<Vec<_>>(), [16_384, 16_384]);
        assert_eq!(texts[5], "two", "the last, unterminated line is kept, after what was written before it");
        assert_eq!(texts[2..5].concat(), format!("{long}\n"));
    }

    #[test]
    fn an_odd_cut_falls_between_characters() {
        let mut bytes = vec![b'a'];
        bytes.extend_from_slice("é".repeat(20).as_bytes());
        for length in 1..bytes.len() {
            let whole = whole_characters(&bytes[..length]);
            assert!(std::str::from_utf8(&bytes[..whole]).is_ok() && length - whole < 2, "{length}");
        }
        assert_eq!(whole_characters(&[0x80; 8]), 8, "bytes that are no text are not waited for");
    }

    #[test]
    fn rotation_tears_no_record_and_keeps_so_many_files() {
        let scratch = Scratch::new("log-rotate");
        let path = scratch.path().join("log");
        let mut writer = open(&path, 1000, 3);
        for number in 0..100 {
            writer.append(Stream::Stdout, format!("line {number}\nand {number}\n").as_bytes());
        }
        assert_eq!(std::fs::read_dir(scratch.path()).expect("listed").count(), 3);
        for index in 0..3 {
            let content = std::fs::read_to_string(rotated(&path, index)).expect("read");
            assert!(content.len() <= 1000 && content.ends_with("}\n"), "{index}");
        }
        let texts = texts(&path);
        assert_eq!(texts.last().map(String::as_str), Some("and 99\n"));
        assert!(texts.len() > 20 && texts.len() < 40);
        let first = texts[0].trim_start_matches("line ").trim_start_matches("and ").trim().parse::<usize>().expect("n");
        assert!(first > 80, "the oldest are gone, the rest has no gap");
        let mut single = open(&scratch.path().join("single"), 200, 1);
        for _ in 0..10 {
            single.append(Stream::Stdout, b"x\n");
        }
        assert!(!scratch.path().join("single.1").exists());
    }

    #[test]
    fn a_torn_record_does_not_spoil_the_next() {
        let scratch = Scratch::new("log-torn");
        let path = scratch.path().join("log");
        open(&path, 0, 1).append(Stream::Stdout, b"before\n");
        let mut content = std::fs::read(&path).expect("read");
        content.extend_from_slice(b"{\"log\":\"torn");
        std::fs::write(&path, &content).expect("written");
        open(&path, 0, 1).append(Stream::Stdout, b"after\n");
        assert_eq!(texts(&path), ["before\n", "after\n"]);
    }

    #[test]
    fn a_full_disk_loses_records_and_says_so() {
        let mut writer = open(Path::new("/dev/full"), 0, 1);
        writer.append(Stream::Stdout, b"one\ntwo\n");
        writer.append(Stream::Stdout, b"three\n");
        assert_eq!((writer.lost, writer.reason), (3, Some(Errno::NOSPC)));
        let scratch = Scratch::new("log-full");
        writer.path = scratch.path().join("log");
        writer.file = None;
        writer.append(Stream::Stdout, b"four\n");
        let texts = texts(&writer.path);
        assert_eq!(texts.len(), 2);
        assert!(texts[0].starts_with("[lighter] 3 log records were lost: No space left on device"), "{}", texts[0]);
        assert_eq!(texts[1], "four\n");
    }
}
