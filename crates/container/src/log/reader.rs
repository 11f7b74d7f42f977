//! Reading the log: rotated files first, from the last so many records on, and along with the writer.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::inotify;
use rustix::io::Errno;
use serde::Deserialize;
use sys::Context;

use super::rotated;
use crate::error::{Doing, Result};
use crate::protocol::Stream;

/// Most bytes of one record: [`MAX_LINE`](super::MAX_LINE) with every byte escaped, and the rest of the record.
const RECORD_LIMIT: u64 = 256 * 1024;
/// Most rotated files looked for.
const FILES_LIMIT: u32 = 1024;
/// Block size of the search for the last records.
const BLOCK: usize = 64 * 1024;
/// How long a follower waits at most before it asks again whether the container has ended: inotify tells of writes, not
/// of ends.
const TICK: Duration = Duration::from_millis(500);

/// What of the log is read.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Standard output, or the terminal.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Only the last so many records.
    pub tail: Option<u64>,
    /// Only what was written at or after this time.
    pub since: Option<Timestamp>,
    /// Only what was written before this time.
    pub until: Option<Timestamp>,
    /// Whether to go on with what is written from now on, until the container ends.
    pub follow: bool,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { stdout: true, stderr: true, tail: None, since: None, until: None, follow: false }
    }
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When it was written.
    pub time: Timestamp,
    /// The stream.
    pub stream: Stream,
    /// The line with its `\n`; without one, a part of a line.
    pub text: String,
}

impl Entry {
    /// The time as `--timestamps` shows it: RFC 3339 with nine digits of nanoseconds.
    #[must_use]
    pub fn timestamp(&self) -> String {
        format!("{:.9}", self.time)
    }
}

/// Reads the log whose current file is `path`. `ended` tells a follower that nothing more will be written: it is asked
/// when there is nothing to read, at least every half second, and what was written before is still read. A log that does
/// not exist is empty.
///
/// # Errors
/// When a file cannot be opened or searched.
pub fn read<'a>(path: &Path, options: &LogOptions, ended: impl FnMut() -> bool + 'a) -> Result<Reader<'a>> {
    let watch = if options.follow { Some(watch(path)?) } else { None };
    // From the newest on: a rotation in the middle then shows a file twice, which is seen by its inode, never not at all.
    let mut files: Vec<Open> = Vec::new();
    for index in 0..FILES_LIMIT {
        let file = open(&rotated(path, index)).at("open", path.display()).doing("reading the container's log")?;
        let Some(file) = file else {
            if index == 0 {
                continue;
            }
            break;
        };
        if !files.iter().any(|known| known.id == file.id) {
            files.push(file);
        }
    }
    if let Some(tail) = options.tail {
        let mut wanted = tail;
        let mut keep = 0;
        for file in &mut files {
            keep += 1;
            let start = tail_start(&file.file, file.length, &mut wanted).at("pread", path.display());
            file.start = start.doing("reading the container's log")?;
            if wanted == 0 {
                break;
            }
        }
        files.truncate(keep);
    }
    Ok(Reader {
        path: path.to_owned(),
        options: options.clone(),
        ended: Box::new(ended),
        files,
        current: None,
        pending: Vec::new(),
        watch,
        leaving: false,
        last_pass: false,
        done: false,
    })
}

/// Entries of a log, in the order they were written. Damaged records, such as one torn by a crash, are skipped.
pub struct Reader<'a> {
    path: PathBuf,
    options: LogOptions,
    ended: Box<dyn FnMut() -> bool + 'a>,
    /// Files still to read; the oldest is last.
    files: Vec<Open>,
    current: Option<Current>,
    /// The beginning of a record whose end is not written yet.
    pending: Vec<u8>,
    watch: Option<OwnedFd>,
    /// Whether the current file is being read for the last time: it has a successor.
    leaving: bool,
    /// Whether the container has ended, and what it wrote before is being read.
    last_pass: bool,
    done: bool,
}

impl std::fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("path", &self.path).field("options", &self.options).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Open {
    file: File,
    /// Device and inode.
    id: (u64, u64),
    length: u64,
    start: u64,
}

#[derive(Debug)]
struct Current {
    reader: BufReader<std::io::Take<File>>,
    id: (u64, u64),
}

#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    log: std::borrow::Cow<'a, str>,
    stream: Stream,
    #[serde(borrow)]
    time: std::borrow::Cow<'a, str>,
}

enum Line {
    Whole(Vec<u8>),
    TooLong,
    None,
}

impl Iterator for Reader<'_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.done {
            match self.step() {
                Ok(Some(entry)) => return Some(Ok(entry)),
                Ok(None) => {}
                Err(error) => {
                    self.done = true;
                    return Some(Err(error).doing("reading the container's log"));
                }
            }
        }
        None
    }
}

impl Reader<'_> {
    /// One line, one file, or one wait further.
    fn step(&mut self) -> sys::Result<Option<Entry>> {
        match self.line()? {
            Line::Whole(line) => {
                self.last_pass = false;
                Ok(self.accept(&line))
            }
            Line::TooLong => Ok(None),
            Line::None => {
                if !self.next_file()? {
                    self.wait()?;
                }
                Ok(None)
            }
        }
    }

    fn accept(&mut self, line: &[u8]) -> Option<Entry> {
        let entry = parse(line)?;
        if self.options.until.is_some_and(|until| entry.time >= until) {
            self.done = true;
            return None;
        }
        let wanted = match entry.stream {
            Stream::Stdout => self.options.stdout,
            Stream::Stderr => self.options.stderr,
        };
        (wanted && self.options.since.is_none_or(|since| entry.time >= since)).then_some(entry)
    }

    fn line(&mut self) -> sys::Result<Line> {
        let Some(current) = &mut self.current else { return Ok(Line::None) };
        let room = (RECORD_LIMIT + 1).saturating_sub(self.pending.len() as u64);
        (&mut current.reader).take(room).read_until(b'\n', &mut self.pending).at("read", self.path.display())?;
        if self.pending.last() == Some(&b'\n') {
            return Ok(Line::Whole(std::mem::take(&mut self.pending)));
        }
        if self.pending.len() as u64 > RECORD_LIMIT {
            // What follows up to the next newline parses as nothing, and is skipped in the same way.
            self.pending.clear();
            return Ok(Line::TooLong);
        }
        Ok(Line::None)
    }

    /// Goes to the next file: of those found at first, then, for a follower, of those made since.
    fn next_file(&mut self) -> sys::Result<bool> {
        if let Some(next) = self.files.pop() {
            return self.begin(next);
        }
        if !self.options.follow {
            self.done = true;
            return Ok(true);
        }
        let Some(here) = self.current.as_ref().map(|current| current.id) else {
            let first = open(&self.path).at("open", self.path.display())?;
            return first.map_or(Ok(false), |first| self.begin(first));
        };
        let mut newer: Option<Open> = None;
        for index in 0..FILES_LIMIT {
            let Some(file) = open(&rotated(&self.path, index)).at("open", self.path.display())? else {
                if index == 0 {
                    continue;
                }
                break;
            };
            if file.id == here {
                break;
            }
            newer = Some(file);
        }
        let Some(newer) = newer else { return Ok(false) };
        // The file read so far was rotated away, perhaps after its last bytes were written: they come first.
        if !std::mem::replace(&mut self.leaving, true) {
            return Ok(true);
        }
        self.begin(newer)
    }

    fn begin(&mut self, mut next: Open) -> sys::Result<bool> {
        self.pending.clear();
        self.leaving = false;
        next.file.seek(SeekFrom::Start(next.start)).at("lseek", self.path.display())?;
        // Without following, a container that writes as fast as this reads must not make it endless.
        let limit = if self.options.follow { u64::MAX } else { next.length.saturating_sub(next.start) };
        self.current = Some(Current { reader: BufReader::new(next.file.take(limit)), id: next.id });
        Ok(true)
    }

    fn wait(&mut self) -> sys::Result<()> {
        if self.last_pass || self.options.until.is_some_and(|until| Timestamp::now() >= until) {
            self.done = true;
            return Ok(());
        }
        if (self.ended)() {
            // Whatever was written before the end is in the file now: one more pass reads it.
            self.last_pass = true;
            return Ok(());
        }
        let Some(watch) = &self.watch else {
            self.done = true;
            return Ok(());
        };
        sys::process::poll_until(&mut [PollFd::new(watch, PollFlags::IN)], Some(TICK))?;
        let mut events = [0_u8; 4096];
        while rustix::io::read(watch, &mut events).is_ok_and(|length| length == events.len()) {}
        Ok(())
    }
}

pub(super) fn parse(line: &[u8]) -> Option<Entry> {
    // After a power failure a file may begin with blocks of zeros.
    let start = line.iter().position(|&byte| byte != 0)?;
    let record: Record<'_> = serde_json::from_slice(&line[start..]).ok()?;
    Some(Entry { time: record.time.parse().ok()?, stream: record.stream, text: record.log.into_owned() })
}

fn open(path: &Path) -> Result<Option<Open>, std::io::Error> {
    let mut how = File::options();
    how.read(true).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
    let file = match how.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    Ok(Some(Open { id: (metadata.dev(), metadata.ino()), length: metadata.len(), start: 0, file }))
}

/// Where the last `wanted` records of a file begin; `wanted` becomes what is still to be found in older files.
fn tail_start(file: &File, length: u64, wanted: &mut u64) -> std::io::Result<u64> {
    if *wanted == 0 {
        return Ok(length);
    }
    let mut block = vec![0; BLOCK];
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(BLOCK as u64);
        let size = usize::try_from(end - start).unwrap_or(BLOCK);
        file.read_exact_at(&mut block[..size], start)?;
        for at in (0..size).rev() {
            let position = start + at as u64;
            // The newline at the very end ends the last record; every other one begins one.
            if block[at] == b'\n' && position + 1 < length {
                *wanted -= 1;
                if *wanted == 0 {
                    return Ok(position + 1);
                }
            }
        }
        end = start;
    }
    if length > 0 {
        *wanted -= 1;
    }
    Ok(0)
}

fn watch(path: &Path) -> Result<OwnedFd> {
    let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
    let watch = inotify::init(flags).at("inotify_init1", "").doing("following the container's log")?;
    let dir = path.parent().unwrap_or(Path::new("."));
    let events = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
    match inotify::add_watch(&watch, dir, events) {
        // Without a watch a follower still works, by its tick.
        Ok(_) | Err(Errno::NOSPC) => Ok(watch),
        Err(errno) => Err(errno).at("inotify_add_watch", dir.display()).doing("following the container's log"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::log::Writer;
    use crate::request::LogRequest;
    use crate::scratch::Scratch;

    fn writer(path: &Path, max_size: u64, max_files: u32) -> Writer {
        Writer::open(&LogRequest { path: path.to_owned(), max_size, max_files })
    }

    fn collect(path: &Path, options: &LogOptions) -> Vec<String> {
        read(path, options, || true).expect("opened").map(|entry| entry.expect("read").text).collect()
    }

    #[test]
    fn tail_counts_across_rotated_files() {
        let scratch = Scratch::new("read-tail");
        let path = scratch.path().join("log");
        let mut log = writer(&path, 400, 10);
        for number in 0..20 {
            log.append(Stream::Stdout, format!("{number}\n").as_bytes());
        }
        assert!(rotated(&path, 3).exists());
        for tail in 0..25_u64 {
            let got = collect(&path, &LogOptions { tail: Some(tail), ..LogOptions::default() });
            let want: Vec<String> = (20_u64.saturating_sub(tail)..20).map(|number| format!("{number}\n")).collect();
            assert_eq!(got, want, "{tail}");
        }
    }

    #[test]
    fn streams_and_times_are_chosen() {
        let scratch = Scratch::new("read-choose");
        let path = scratch.path().join("log");
        let mut log = writer(&path, 0, 1);
        log.append(Stream::Stdout, b"out\n");
        std::thread::sleep(Duration::from_millis(2));
        let between = Timestamp::now();
        std::thread::sleep(Duration::from_millis(2));
        log.append(Stream::Stderr, b"err\n");
        let all = LogOptions::default();
        assert_eq!(collect(&path, &all), ["out\n", "err\n"]);
        assert_eq!(collect(&path, &LogOptions { stdout: false, ..LogOptions::default() }), ["err\n"]);
        assert_eq!(collect(&path, &LogOptions { since: Some(between), ..LogOptions::default() }), ["err\n"]);
        assert_eq!(collect(&path, &LogOptions { until: Some(between), ..LogOptions::default() }), ["out\n"]);
        assert_eq!(collect(&scratch.path().join("absent"), &all), [""; 0]);
        let entry = read(&path, &all, || true).expect("opened").next().expect("one").expect("read");
        assert_eq!(entry.timestamp().len(), "2026-01-02T03:04:05.678901234Z".len());
    }

    #[test]
    fn damage_is_skipped() {
        let scratch = Scratch::new("read-damage");
        let path = scratch.path().join("log");
        let record =
            |text: &str| format!("{{\"log\":\"{text}\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-02T03:04:05Z\"}}\n");
        let mut content = Vec::new();
        content.extend_from_slice(&[0; 5000]);
        content.extend_from_slice(record("zeros before").as_bytes());
        content.extend_from_slice(b"{\"log\":\"torn\n\n\0\0\n");
        content.extend_from_slice(&vec![b'x'; 1_000_000]);
        content.push(b'\n');
        content.extend_from_slice(record("nul \\u0000 inside").as_bytes());
        content.extend_from_slice(b"{\"log\":\"never finished");
        std::fs::write(&path, content).expect("written");
        assert_eq!(collect(&path, &LogOptions::default()), ["zeros before\n", "nul \0 inside\n"]);
        assert_eq!(collect(&path, &LogOptions { follow: true, ..LogOptions::default() }).len(), 2);
    }

    #[test]
    fn a_follower_sees_every_record_across_rotation_and_ends() {
        let scratch = Scratch::new("read-follow");
        let path = scratch.path().join("log");
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut log = writer(&path, 2000, 8);
                for number in 0..200 {
                    log.append(Stream::Stdout, format!("{number}\n").as_bytes());
                    std::thread::sleep(Duration::from_micros(500));
                }
                ended.store(true, Ordering::SeqCst);
            });
            let options = LogOptions { follow: true, ..LogOptions::default() };
            let got: Vec<String> = read(&path, &options, || ended.load(Ordering::SeqCst))
                .expect("opened")
                .map(|entry| entry.expect("read").text)
                .collect();
            let want: Vec<String> = (0..200).map(|number| format!("{number}\n")).collect();
            assert_eq!(got, want);
        });
    }
}
