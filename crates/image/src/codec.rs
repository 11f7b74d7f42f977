//! Decompression of layers and archives: gzip, zstd or none, told by their first bytes, and always bounded.

use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};

use flate2::bufread::GzDecoder;

/// Bytes read from below at a time.
const BUFFER: usize = 128 << 10;
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const XZ_MAGIC: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
const BZIP2_MAGIC: &[u8] = b"BZh";

/// How bytes are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Compression {
    fn name(self) -> &'static str {
        match self {
            Self::None => "uncompressed data",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// What the first bytes of a stream say; `None` is a known compression this program does not read.
    #[must_use]
    pub fn detect(first: &[u8]) -> Option<Self> {
        let skippable = first.len() >= 4 && (0x50..=0x5f).contains(&first[0]) && first[1..4] == [0x2a, 0x4d, 0x18];
        if first.starts_with(GZIP_MAGIC) {
            Some(Self::Gzip)
        } else if first.starts_with(ZSTD_MAGIC) || skippable {
            Some(Self::Zstd)
        } else if first.starts_with(XZ_MAGIC) || first.starts_with(BZIP2_MAGIC) {
            None
        } else {
            Some(Self::None)
        }
    }

    /// What a layer's media type says.
    ///
    /// # Errors
    /// [`CodecError::NotALayer`] when it is not the type of a file system layer.
    pub fn of_media_type(media_type: &str) -> Result<Option<Self>, CodecError> {
        match media_type {
            "" => Ok(None),
            t if t.ends_with("+gzip") || t.ends_with(".tar.gzip") => Ok(Some(Self::Gzip)),
            t if t.ends_with("+zstd") || t.ends_with(".tar.zstd") => Ok(Some(Self::Zstd)),
            t if t.ends_with(".tar") => Ok(Some(Self::None)),
            other => Err(CodecError::NotALayer(other.to_owned())),
        }
    }
}

/// Bounds on decompression.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most bytes one stream may give.
    pub max_output: u64,
    /// Most bytes of output for one of input, once output exceeds `ratio_after`.
    ///
    /// DEFLATE reaches 229 : 1 (at its fastest) to 1032 : 1 on zeros alone, zstd 100 000 : 1. Layers of programs stay
    /// below 20 : 1; a large empty file among them still keeps the whole far from this.
    pub max_ratio: u64,
    /// Output up to which the ratio does not matter, in bytes.
    pub ratio_after: u64,
    /// Largest zstd window, as a power of two; a decoder allocates that much.
    pub zstd_window_log: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_output: 64 << 30, max_ratio: 200, ratio_after: 1 << 30, zstd_window_log: 27 }
    }
}

/// Why a stream cannot be decompressed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The media type is not that of a layer.
    #[error("media type {0:?} is not that of a file system layer")]
    NotALayer(String),
    /// A compression this program does not read.
    #[error("compressed with a method that is not supported (xz or bzip2); use gzip, zstd or none")]
    Unsupported,
    /// The media type says one compression, the bytes another.
    #[error("said to be {declared}, but is {found}")]
    Disagrees {
        /// What the media type says.
        declared: &'static str,
        /// What the bytes are.
        found: &'static str,
    },
    /// The stream ends before its data does.
    #[error("{0} stream is truncated")]
    Truncated(&'static str),
    /// The stream is damaged.
    #[error("{codec} stream is corrupt: {reason}")]
    Corrupt {
        /// Which codec.
        codec: &'static str,
        /// The codec's reason.
        reason: String,
    },
    /// Bytes other than zero padding follow the last gzip member.
    #[error("gzip stream is followed by garbage")]
    Garbage,
    /// The stream gives more than the bound.
    #[error("decompresses to more than {0} bytes")]
    TooLong(u64),
    /// The stream is compressed more than the bound.
    #[error("decompresses to more than {0} times its size")]
    Ratio(u64),
}

impl CodecError {
    fn into_io(self) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, self)
    }
}

/// The compressed side: counts what is consumed and remembers whether reading from below failed.
struct Input<R> {
    reader: Chain<Cursor<Vec<u8>>, BufReader<R>>,
    consumed: u64,
    failed: bool,
}

impl<R: Read> Read for Input<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buf).inspect_err(|_| self.failed = true)?;
        self.consumed += n as u64;
        Ok(n)
    }
}

impl<R: Read> BufRead for Input<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.reader.fill_buf().inspect_err(|_| self.failed = true)
    }

    fn consume(&mut self, n: usize) {
        self.consumed += n as u64;
        self.reader.consume(n);
    }
}

/// Holds a gzip decoder's input, and nothing for the moment in which the decoder is reset around it.
struct Slot<R>(Option<Input<R>>);

impl<R: Read> Read for Slot<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.as_mut().map_or(Ok(0), |input| input.read(buf))
    }
}

impl<R: Read> BufRead for Slot<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.as_mut().map_or(Ok(&[]), BufRead::fill_buf)
    }

    fn consume(&mut self, n: usize) {
        if let Some(input) = &mut self.0 {
            input.consume(n);
        }
    }
}

enum Inner<R> {
    Plain(Input<R>),
    Gzip(Box<GzDecoder<Slot<R>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Input<R>>>),
}

/// A stream, decompressed. Reading fails with a [`CodecError`] inside the `io::Error`, or with the error from below.
pub struct Decoder<R> {
    inner: Inner<R>,
    compression: Compression,
    limits: Limits,
    produced: u64,
}

impl<R: Read> Decoder<R> {
    /// Decodes `reader`, whose first bytes tell how. `declared` is only believed when it says that there is no compression:
    /// docker 28 calls every layer of an image it pushes gzip, those too that the registry has as they were (plain or
    /// zstd).
    ///
    /// # Errors
    /// Those of reading the first bytes; [`CodecError::Unsupported`], [`CodecError::Disagrees`].
    pub fn new(mut reader: R, declared: Option<Compression>, limits: Limits) -> io::Result<Self> {
        let mut first = Vec::with_capacity(XZ_MAGIC.len());
        reader.by_ref().take(XZ_MAGIC.len() as u64).read_to_end(&mut first)?;
        let found = Compression::detect(&first);
        if let Some(declared) = declared.filter(|declared| *declared == Compression::None && Some(*declared) != found) {
            let found = found.map_or("another compression", Compression::name);
            return Err(CodecError::Disagrees { declared: declared.name(), found }.into_io());
        }
        let compression = found.ok_or_else(|| CodecError::Unsupported.into_io())?;
        let reader = Cursor::new(first).chain(BufReader::with_capacity(BUFFER, reader));
        let input = Input { reader, consumed: 0, failed: false };
        let inner = match compression {
            Compression::None => Inner::Plain(input),
            Compression::Gzip => Inner::Gzip(Box::new(GzDecoder::new(Slot(Some(input))))),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
                decoder.window_log_max(limits.zstd_window_log)?;
                Inner::Zstd(Box::new(decoder))
            }
        };
        Ok(Self { inner, compression, limits, produced: 0 })
    }

    /// How the stream is compressed.
    #[must_use]
    pub fn compression(&self) -> Compression {
        self.compression
    }

    fn input(&self) -> Option<&Input<R>> {
        match &self.inner {
            Inner::Plain(input) => Some(input),
            Inner::Gzip(decoder) => decoder.get_ref().0.as_ref(),
            Inner::Zstd(decoder) => Some(decoder.get_ref()),
        }
    }

    fn explain(&self, error: io::Error) -> io::Error {
        let from_below = self.input().is_some_and(|input| input.failed);
        let ours = error.get_ref().is_some_and(|inner| inner.is::<CodecError>());
        if from_below || ours {
            return error;
        }
        let codec = self.compression.name();
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return CodecError::Truncated(codec).into_io();
        }
        CodecError::Corrupt { codec, reason: error.to_string() }.into_io()
    }
}

fn read_gzip<R: Read>(decoder: &mut GzDecoder<Slot<R>>, buf: &mut [u8]) -> io::Result<usize> {
    loop {
        let n = decoder.read(buf)?;
        if n > 0 || buf.is_empty() {
            return Ok(n);
        }
        // A member is over. Another may follow, or zeros, with which some writers pad to a block.
        match decoder.get_mut().fill_buf()?.first() {
            None => return Ok(0),
            Some(0) => return skip_zeros(decoder.get_mut()).map(|()| 0),
            Some(_) => {
                let input = decoder.reset(Slot(None));
                decoder.reset(input);
            }
        }
    }
}

fn skip_zeros(input: &mut impl BufRead) -> io::Result<()> {
    loop {
        let rest = input.fill_buf()?;
        if rest.is_empty() {
            return Ok(());
        }
        if rest.iter().any(|byte| *byte != 0) {
            return Err(CodecError::Garbage.into_io());
        }
        let n = rest.len();
        input.consume(n);
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let result = match &mut self.inner {
            Inner::Plain(input) => input.read(buf),
            Inner::Gzip(decoder) => read_gzip(decoder, buf),
            Inner::Zstd(decoder) => decoder.read(buf),
        };
        let n = result.map_err(|error| self.explain(error))?;
        self.produced += n as u64;
        if self.produced > self.limits.max_output {
            return Err(CodecError::TooLong(self.limits.max_output).into_io());
        }
        if self.produced > self.limits.ratio_after {
            let consumed = self.input().map_or(0, |input| input.consumed);
            if self.produced / self.limits.max_ratio > consumed {
                return Err(CodecError::Ratio(self.limits.max_ratio).into_io());
            }
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::gzip;

    fn decode(bytes: &[u8], declared: Option<Compression>, limits: Limits) -> Result<Vec<u8>, CodecError> {
        let unwrap = |error: io::Error| *error.into_inner().expect("ours").downcast::<CodecError>().expect("ours");
        let mut out = Vec::new();
        let mut decoder = Decoder::new(bytes, declared, limits).map_err(unwrap)?;
        decoder.read_to_end(&mut out).map_err(unwrap)?;
        Ok(out)
    }

    #[test]
    fn streams_are_told_by_their_first_bytes() {
        let text = b"some text, some text, some text".repeat(10_000);
        let zstd = zstd::encode_all(&text[..], 3).expect("in memory");
        for (bytes, declared) in [
            (text.clone(), Compression::None),
            (gzip(&text), Compression::Gzip),
            (zstd.clone(), Compression::Zstd),
            ([&[0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9][..], &zstd].concat(), Compression::Zstd),
            ([gzip(&text[..1000]), gzip(&text[1000..])].concat(), Compression::Gzip),
            ([gzip(&text[..1]), gzip(b""), gzip(&text[1..]), vec![0; 600_000]].concat(), Compression::Gzip),
        ] {
            assert!(decode(&bytes, Some(declared), Limits::default()) == Ok(text.clone()));
            assert!(decode(&bytes, None, Limits::default()) == Ok(text.clone()));
        }
        assert_eq!(decode(b"", None, Limits::default()), Ok(Vec::new()));
        assert_eq!(decode(b"x", None, Limits::default()), Ok(b"x".to_vec()));
        assert!(matches!(
            decode(&gzip(b"x"), Some(Compression::None), Limits::default()),
            Err(CodecError::Disagrees { .. })
        ));
        let zstd = zstd::encode_all(&b"x"[..], 1).expect("in memory");
        for bytes in [&b"x"[..], &zstd] {
            assert_eq!(decode(bytes, Some(Compression::Gzip), Limits::default()), Ok(b"x".to_vec()));
        }
        assert_eq!(decode(XZ_MAGIC, None, Limits::default()), Err(CodecError::Unsupported));
    }

    #[test]
    fn damage_is_an_error() {
        let text = b"text ".repeat(1000);
        let compressed = gzip(&text);
        let truncated = &compressed[..compressed.len() - 9];
        assert!(matches!(decode(truncated, None, Limits::default()), Err(CodecError::Truncated("gzip"))));
        let mut flipped = compressed.clone();
        let crc = flipped.len() - 6;
        flipped[crc] ^= 1;
        assert!(matches!(decode(&flipped, None, Limits::default()), Err(CodecError::Corrupt { .. })));
        let garbage = [&compressed[..], b"\0\0garbage"].concat();
        assert_eq!(decode(&garbage, None, Limits::default()), Err(CodecError::Garbage));
        let garbage = [&compressed[..], b"garbage"].concat();
        assert!(decode(&garbage, None, Limits::default()).is_err());
        let zstd = zstd::encode_all(&text[..], 3).expect("in memory");
        assert!(decode(&zstd[..zstd.len() - 3], None, Limits::default()).is_err());
    }

    #[test]
    fn bombs_are_bounded() {
        let zeros = vec![0_u8; 8 << 20];
        let tight = Limits { max_output: 1 << 20, ..Limits::default() };
        assert_eq!(decode(&gzip(&zeros), None, tight), Err(CodecError::TooLong(1 << 20)));
        let ratio = Limits { ratio_after: 1 << 20, ..Limits::default() };
        let (low, high) = (Limits { max_ratio: 100, ..ratio }, Limits { max_ratio: 1032, ..ratio });
        assert!(decode(&gzip(&zeros), None, low) == Err(CodecError::Ratio(100)));
        assert!(decode(&gzip(&zeros), None, high).is_ok());
        let zstd = zstd::encode_all(&zeros[..], 19).expect("in memory");
        assert_eq!(decode(&zstd, None, ratio), Err(CodecError::Ratio(200)));
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("encoder");
        encoder.window_log(24).expect("window");
        std::io::Write::write_all(&mut encoder, &zeros).expect("in memory");
        let wide = encoder.finish().expect("in memory");
        assert!(decode(&wide, None, Limits { zstd_window_log: 20, ..Limits::default() }).is_err());
    }

    #[test]
    fn media_types_say_the_compression() {
        use oci::image::media_type as m;
        assert_eq!(Compression::of_media_type(m::OCI_LAYER), Ok(Some(Compression::None)));
        assert_eq!(Compression::of_media_type(m::OCI_LAYER_GZIP), Ok(Some(Compression::Gzip)));
        assert_eq!(Compression::of_media_type(m::OCI_LAYER_ZSTD), Ok(Some(Compression::Zstd)));
        assert_eq!(Compression::of_media_type(m::DOCKER_LAYER_GZIP), Ok(Some(Compression::Gzip)));
        assert_eq!(Compression::of_media_type(""), Ok(None));
        assert!(Compression::of_media_type("application/vnd.in-toto+json").is_err());
    }
}
