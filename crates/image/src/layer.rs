//! The seam between images and whoever unpacks their layers.
//!
//! A layer comes as a stream of tar, over three threads: the first reads the blob from its source, hashes and stores it, the
//! second decompresses, the third is the sink's, which hashes what it reads. None of the three alone takes half of the time.
//! The sink reads the stream and calls [`LayerStream::verify`]; once all layers of the image are there it makes them
//! visible.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use oci::Digest;

use crate::content::{Hasher, verify};
use crate::record::LayerRecord;
use crate::{BoxError, Error, Result};

/// Bytes handed from one thread to the next at a time.
const CHUNK: usize = 256 << 10;
/// Chunks that may wait for the next thread.
const CHUNKS_AHEAD: usize = 8;

/// Takes layers. Called from several threads at once, for different layers, in any order.
pub trait LayerSink: Sync {
    /// Whether the layer is complete already.
    fn contains(&self, chain_id: &Digest) -> bool;

    /// Unpacks one layer, and calls [`LayerStream::verify`] before anybody can see it.
    ///
    /// # Errors
    /// Whatever went wrong; nothing may be visible then.
    fn unpack(&self, job: LayerJob<'_>) -> Result<(), BoxError>;

    /// Makes the layers of one image durable and visible under their ChainIDs. `chain` is all of them, bottom first;
    /// each was unpacked or is contained. Called once an image, so that one synchronisation of the disk serves all of
    /// its layers.
    ///
    /// # Errors
    /// Whatever went wrong; the image does not come in then.
    fn commit(&self, chain: &[Digest]) -> Result<Committed, BoxError>;
}

/// What a sink knows of an image's layers when they are visible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// The greatest owner or group of any file in them.
    pub highest_id: Option<u32>,
    /// Containers need copies of them.
    pub copied: bool,
}

/// One layer to unpack.
#[derive(Debug)]
pub struct LayerJob<'a> {
    /// Digest of the uncompressed layer.
    pub diff_id: &'a Digest,
    /// Name of the layer together with all below it.
    pub chain_id: &'a Digest,
    /// ChainIDs of the layers below, bottom first. They may not be unpacked yet.
    pub parents: &'a [Digest],
    /// The layer's content.
    pub tar: &'a mut LayerStream,
}

/// What is happening to a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It is being fetched, and unpacked meanwhile.
    Downloading,
    /// What an earlier pull has got of it is being looked through.
    Resuming,
    /// It is being unpacked from the content store.
    Extracting,
    /// It was here already.
    Exists,
    /// It is complete.
    Done,
    /// It is being written into an archive.
    Saving,
    /// It is in the archive.
    Saved,
    /// It will be sent to a registry.
    Preparing,
    /// It is being sent.
    Pushing,
    /// It was sent.
    Pushed,
    /// The registry has it already.
    There,
    /// It may not be sent to registries.
    Foreign,
}

/// Hears how far work is. Called from several threads, and often: implementations return at once.
pub trait Progress: Sync {
    /// An image consists of these layers, bottom first; nothing has happened to them yet.
    fn begin(&self, layers: &[LayerRecord]);

    /// The layer with blob `layer` is in `phase`, `current` of `total` compressed bytes through.
    fn layer(&self, layer: &Digest, phase: Phase, current: u64, total: u64);

    /// The registry took the layer with blob `layer` over from its own repository `from`.
    fn mounted(&self, layer: &Digest, _from: &str) {
        self.layer(layer, Phase::Pushed, 0, 0);
    }

    /// Something that its user should read, such as a registry's own warning.
    fn warning(&self, _text: &str) {}
}

/// Progress nobody listens to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn begin(&self, _layers: &[LayerRecord]) {}

    fn layer(&self, _layer: &Digest, _phase: Phase, _current: u64, _total: u64) {}
}

/// A layer's uncompressed tar; between the first two threads also its blob.
#[derive(Debug)]
pub struct LayerStream {
    /// What the stream's digest must be, and what it is computed with.
    expected: Option<Expected>,
    chunks: Receiver<Message>,
    spent: Sender<Vec<u8>>,
    current: Vec<u8>,
    position: usize,
    end: Option<Result<()>>,
}

/// What a stream must turn out to be.
#[derive(Debug)]
struct Expected {
    what: String,
    digest: Digest,
    hasher: Hasher,
}

enum Message {
    Chunk(Vec<u8>),
    /// The last message: whether the whole of it came, and was right as far as the sender could tell.
    End(Result<()>),
}

impl LayerStream {
    /// Reads the rest of the stream and says whether the layer was what its image says: DiffID, digest and size.
    ///
    /// # Errors
    /// [`Error::Digest`], [`Error::Size`], [`Error::Codec`], or what went wrong below. The error is given once;
    /// later calls say [`Error::Cancelled`].
    pub fn verify(&mut self) -> Result<()> {
        while self.end.is_none() {
            self.advance();
        }
        match &mut self.end {
            Some(Ok(())) => Ok(()),
            Some(end) => std::mem::replace(end, Err(Error::Cancelled)),
            None => Err(Error::Cancelled),
        }
    }

    /// How the stream ended, when it did: `Ok` only when it was read to its end and was right.
    pub(crate) fn outcome(&mut self) -> Option<Result<()>> {
        self.end.take()
    }

    fn advance(&mut self) {
        let spent = std::mem::take(&mut self.current);
        if spent.capacity() > 0 {
            // The decoder may be gone already; then nobody needs the buffer.
            let _ = self.spent.send(spent);
        }
        self.position = 0;
        match self.chunks.recv() {
            Ok(Message::Chunk(chunk)) => {
                if let Some(expected) = &mut self.expected {
                    expected.hasher.update(&chunk);
                }
                self.current = chunk;
            }
            Ok(Message::End(end)) => self.end = Some(end.and_then(|()| self.check())),
            Err(_) => self.end = Some(Err(Error::Cancelled)),
        }
    }
}

impl LayerStream {
    /// Whether all of it has the right digest.
    fn check(&mut self) -> Result<()> {
        match self.expected.take() {
            None => Ok(()),
            Some(Expected { what, digest, hasher }) => verify(&what, &digest, &hasher.finish()),
        }
    }
}

impl BufRead for LayerStream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.position == self.current.len() {
            match &self.end {
                None => self.advance(),
                Some(Ok(())) => break,
                Some(Err(error)) => return Err(io::Error::other(error.to_string())),
            }
        }
        Ok(&self.current[self.position..])
    }

    fn consume(&mut self, n: usize) {
        self.position = (self.position + n).min(self.current.len());
    }
}

impl Read for LayerStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buf)?;
        self.consume(n);
        Ok(n)
    }
}

/// The other end of a [`LayerStream`].
pub(crate) struct Feed {
    chunks: SyncSender<Message>,
    spent: Receiver<Vec<u8>>,
}

/// A stream and the feed that fills it. The stream is only right when it has the digest `expected`, if that is given
/// with a name for errors.
pub(crate) fn layer_stream(expected: Option<(String, &Digest)>) -> (Feed, LayerStream) {
    let (chunks, receiver) = sync_channel(CHUNKS_AHEAD);
    let (sender, spent) = channel();
    let expected = expected.map(|(what, digest)| Expected {
        what,
        digest: digest.clone(),
        hasher: Hasher::new(digest.algorithm()),
    });
    let stream = LayerStream { expected, chunks: receiver, spent: sender, current: Vec::new(), position: 0, end: None };
    (Feed { chunks, spent }, stream)
}

impl Feed {
    /// Sends all of `reader`, and says to `sent` how many bytes went each time.
    ///
    /// # Errors
    /// Those of reading; [`Error::Cancelled`] when nobody listens any more.
    pub(crate) fn send_all(&self, reader: &mut dyn Read, what: &str, sent: &dyn Fn(u64)) -> Result<()> {
        loop {
            let mut chunk = self.spent.try_recv().unwrap_or_default();
            chunk.resize(CHUNK, 0);
            let n = fill(reader, &mut chunk).map_err(|error| match Error::read(what, error) {
                Error::Codec { source, .. } => Error::Codec { what: what.to_owned(), source },
                other => other,
            })?;
            chunk.truncate(n);
            if n == 0 {
                return Ok(());
            }
            let length = chunk.len() as u64;
            self.chunks.send(Message::Chunk(chunk)).map_err(|_| Error::Cancelled)?;
            sent(length);
        }
    }

    /// Ends the stream with a verdict.
    pub(crate) fn end(self, verdict: Result<()>) {
        // A sink that gave up has an error of its own to report.
        let _ = self.chunks.send(Message::End(verdict));
    }
}

fn fill(reader: &mut dyn Read, chunk: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < chunk.len() {
        match reader.read(&mut chunk[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Chunk(chunk) => write!(f, "Chunk({} bytes)", chunk.len()),
            Self::End(end) => write!(f, "End({end:?})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_arrive_whole_and_verdicts_last() {
        let bytes: Vec<u8> = (0..3 * CHUNK + 17).map(|n| n as u8).collect();
        let (feed, mut stream) = layer_stream(Some(("test".to_owned(), &Digest::sha256_of(&bytes))));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                feed.send_all(&mut &bytes[..], "test", &|_| {}).expect("sent");
                feed.end(Ok(()));
            });
            let mut first = vec![0; 100];
            stream.read_exact(&mut first).expect("read");
            assert_eq!(first, bytes[..100]);
            stream.verify().expect("drains and accepts");
        });
        assert_eq!(stream.read(&mut [0; 10]).expect("at the end"), 0);
    }

    #[test]
    fn a_broken_stream_says_why_once() {
        let (feed, mut stream) = layer_stream(None);
        feed.end(Err(Error::TooLarge { what: "x".to_owned(), limit: 1 }));
        assert!(stream.read(&mut [0; 10]).is_err());
        assert!(matches!(stream.verify(), Err(Error::TooLarge { .. })));
        assert!(matches!(stream.verify(), Err(Error::Cancelled)));
        let (feed, mut stream) = layer_stream(None);
        drop(feed);
        assert!(matches!(stream.verify(), Err(Error::Cancelled)));
        let (feed, mut stream) = layer_stream(Some(("test".to_owned(), &Digest::sha256_of(b"right"))));
        feed.send_all(&mut &b"wrong"[..], "test", &|_| {}).expect("sent");
        feed.end(Ok(()));
        assert!(matches!(stream.verify(), Err(Error::Digest { .. })));
    }
}
