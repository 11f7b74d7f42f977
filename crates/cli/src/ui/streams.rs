//! Bytes on their way to standard output and error, or to a process's standard input: nothing lost, nothing waited for.

use std::collections::VecDeque;
use std::os::fd::AsFd;

use rustix::fs::FileType;
use rustix::io::Errno;

/// So many bytes a writable pipe takes without waiting (pipe(7), `PIPE_BUF`).
const PIPE_BUF: usize = 4096;

/// A descriptor and the bytes it has not taken yet.
#[derive(Debug)]
pub(crate) struct Sink<F> {
    file: F,
    waiting: VecDeque<u8>,
    chunk: usize,
    broken: bool,
}

/// Why a sink takes no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken(pub(crate) Errno);

impl<F: AsFd> Sink<F> {
    /// Bytes for `file`, which may be in blocking mode: a pipe, socket or terminal is only written when it polls
    /// writable, and only as much as it takes without waiting.
    pub(crate) fn new(file: F) -> Self {
        let waits = rustix::fs::fstat(&file)
            .is_ok_and(|stat| !matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile));
        let chunk = if waits { PIPE_BUF } else { usize::MAX };
        Self { file, waiting: VecDeque::new(), chunk, broken: false }
    }

    /// The descriptor.
    pub(crate) fn file(&self) -> &F {
        &self.file
    }

    /// Whether bytes wait.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// How many bytes wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Adds bytes; a broken sink drops them.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if !self.broken {
            self.waiting.extend(bytes);
        }
    }

    /// Writes what the descriptor takes now.
    ///
    /// # Errors
    /// Nobody reads any more, or another failure of write(2): the waiting bytes are dropped.
    pub(crate) fn flush(&mut self) -> Result<(), Broken> {
        while !self.waiting.is_empty() {
            if self.chunk != usize::MAX && !self.is_writable() {
                return Ok(());
            }
            let (front, _) = self.waiting.as_slices();
            let length = front.len().min(self.chunk);
            match rustix::io::write(&self.file, &front[..length]) {
                Ok(written) => drop(self.waiting.drain(..written)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(errno) => {
                    self.waiting.clear();
                    self.broken = true;
                    return Err(Broken(errno));
                }
            }
        }
        Ok(())
    }

    fn is_writable(&self) -> bool {
        let mut entries = [rustix::event::PollFd::new(&self.file, rustix::event::PollFlags::OUT)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut entries, Some(&now)).is_ok_and(|ready| ready > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn a_full_pipe_keeps_the_rest_and_loses_nothing() {
        let (mut reader, writer) = std::io::pipe().expect("made");
        let mut sink = Sink::new(writer);
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        sink.push(&bytes);
        assert_eq!(sink.flush(), Ok(()));
        assert!(sink.is_waiting() && sink.len() < bytes.len());
        let mut read = Vec::new();
        let mut buffer = vec![0; 50_000];
        while read.len() < bytes.len() {
            let count = reader.read(&mut buffer).expect("read");
            read.extend_from_slice(&buffer[..count]);
            sink.flush().expect("flushed");
        }
        assert!(read == bytes && !sink.is_waiting());
    }

    #[test]
    fn a_reader_that_left_is_told_once() {
        let (reader, writer) = std::io::pipe().expect("made");
        drop(reader);
        let mut sink = Sink::new(writer);
        sink.push(b"x");
        assert_eq!(sink.flush(), Err(Broken(Errno::PIPE)));
        sink.push(b"y");
        assert!(!sink.is_waiting());
        assert_eq!(sink.flush(), Ok(()));
    }
}
