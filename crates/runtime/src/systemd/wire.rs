//! D-Bus messages as bytes (D-Bus specification, "Message Protocol"): as much of it as talking to systemd takes.
//!
//! Values are aligned to their size from the start of the message. Messages are written and read in little-endian
//! order, which every machine we run on has.

/// Longest message that is read; systemd's replies to us are some hundred bytes.
pub(super) const LONGEST: usize = 1 << 20;

/// Length of the fixed part of a header.
pub(super) const FIXED: usize = 16;

/// Kinds of messages.
pub(super) const CALL: u8 = 1;
pub(super) const REPLY: u8 = 2;
pub(super) const ERROR: u8 = 3;
pub(super) const SIGNAL: u8 = 4;

// Fields of a header.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// A property's value, in the types that systemd's properties have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `b`
    Bool(bool),
    /// `i`
    I32(i32),
    /// `u`
    U32(u32),
    /// `t`
    U64(u64),
    /// `s`
    Text(String),
    /// `as`
    Texts(Vec<String>),
    /// `au`
    Numbers(Vec<u32>),
    /// `ay`
    Bytes(Vec<u8>),
    /// `a(ss)`
    Pairs(Vec<(String, String)>),
    /// `a(st)`
    Rates(Vec<(String, u64)>),
}

impl Value {
    fn signature(&self) -> &'static str {
        match self {
            Self::Bool(_) => "b",
            Self::I32(_) => "i",
            Self::U32(_) => "u",
            Self::U64(_) => "t",
            Self::Text(_) => "s",
            Self::Texts(_) => "as",
            Self::Numbers(_) => "au",
            Self::Bytes(_) => "ay",
            Self::Pairs(_) => "a(ss)",
            Self::Rates(_) => "a(st)",
        }
    }
}

/// Bytes in the making.
#[derive(Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.align(4);
        self.0.extend(value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.align(8);
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn bool(&mut self, value: bool) {
        self.u32(value.into());
    }

    /// A string or an object path.
    pub(super) fn text(&mut self, text: &str) {
        self.u32(length(text.len()));
        self.0.extend(text.bytes());
        self.0.push(0);
    }

    pub(super) fn signature(&mut self, text: &str) {
        self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.0.extend(text.bytes());
        self.0.push(0);
    }

    /// An array of elements aligned to `to`: its length does not count the padding before the first.
    pub(super) fn array(&mut self, to: usize, fill: impl FnOnce(&mut Self)) {
        self.u32(0);
        let at = self.0.len();
        self.align(to);
        let start = self.0.len();
        fill(self);
        let length = length(self.0.len() - start).to_le_bytes();
        self.0[at - 4..at].copy_from_slice(&length);
    }

    fn variant(&mut self, value: &Value) {
        self.signature(value.signature());
        match value {
            Value::Bool(value) => self.bool(*value),
            Value::I32(value) => self.u32(value.cast_unsigned()),
            Value::U32(value) => self.u32(*value),
            Value::U64(value) => self.u64(*value),
            Value::Text(text) => self.text(text),
            Value::Texts(texts) => self.array(4, |out| texts.iter().for_each(|text| out.text(text))),
            Value::Numbers(numbers) => self.array(4, |out| numbers.iter().for_each(|number| out.u32(*number))),
            Value::Bytes(bytes) => self.array(1, |out| out.0.extend(bytes)),
            Value::Pairs(pairs) => self.array(8, |out| {
                for (first, second) in pairs {
                    out.align(8);
                    out.text(first);
                    out.text(second);
                }
            }),
            Value::Rates(rates) => self.array(8, |out| {
                for (path, rate) in rates {
                    out.align(8);
                    out.text(path);
                    out.u64(*rate);
                }
            }),
        }
    }

    /// `a(sv)`.
    pub(super) fn properties(&mut self, properties: &[(String, Value)]) {
        self.array(8, |out| {
            for (name, value) in properties {
                out.align(8);
                out.text(name);
                out.variant(value);
            }
        });
    }
}

/// Lengths are of things we made, and far below four gigabytes.
fn length(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// Where a call goes.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) destination: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
}

/// The message that calls `member` of `target` with `body`.
pub(super) fn call(serial: u32, target: Target<'_>, member: &str, signature: &str, body: &[u8]) -> Vec<u8> {
    let mut out = Writer(vec![b'l', CALL, 0, 1]);
    out.u32(length(body.len()));
    out.u32(serial);
    out.array(8, |out| {
        let texts = [
            (PATH, "o", target.path),
            (INTERFACE, "s", target.interface),
            (MEMBER, "s", member),
            (DESTINATION, "s", target.destination),
        ];
        for (field, kind, text) in texts {
            out.align(8);
            out.0.push(field);
            out.signature(kind);
            out.text(text);
        }
        if !signature.is_empty() {
            out.align(8);
            out.0.push(SIGNATURE);
            out.signature("g");
            out.signature(signature);
        }
    });
    out.align(8);
    out.0.extend(body);
    out.0
}

/// A message that was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: u8,
    pub(super) reply_to: u32,
    pub(super) member: String,
    pub(super) error: String,
    pub(super) body: Vec<u8>,
}

/// How long the message is whose fixed part is `fixed`; `None` for what is no message, or too long.
pub(super) fn total(fixed: &[u8; FIXED]) -> Option<usize> {
    if fixed[0] != b'l' || fixed[3] != 1 {
        return None;
    }
    let number = |at: usize| {
        let bytes = fixed.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let (body, fields) = (number(4)?, number(12)?);
    let total = FIXED.checked_add(fields)?.next_multiple_of(8).checked_add(body)?;
    (fields <= LONGEST && total <= LONGEST).then_some(total)
}

/// Takes a whole message apart; `None` when it is malformed.
pub(super) fn parse(bytes: &[u8]) -> Option<Message> {
    let fixed: &[u8; FIXED] = bytes.get(..FIXED)?.try_into().ok()?;
    if total(fixed)? != bytes.len() {
        return None;
    }
    let mut reader = Reader { bytes, at: 12 };
    let end = usize::try_from(reader.u32()?).ok()?.checked_add(FIXED)?;
    let mut message = Message { kind: fixed[1], ..Message::default() };
    while reader.at < end {
        reader.align(8)?;
        let field = reader.u8()?;
        match (field, reader.signature()?) {
            (MEMBER, "s") => message.member = reader.text()?.to_owned(),
            (ERROR_NAME, "s") => message.error = reader.text()?.to_owned(),
            (REPLY_SERIAL, "u") => message.reply_to = reader.u32()?,
            (_, "s" | "o") => drop(reader.text()?),
            (_, "g") => drop(reader.signature()?),
            (_, "u") => drop(reader.u32()?),
            _ => return None,
        }
    }
    message.body = bytes.get(end.next_multiple_of(8)..)?.to_vec();
    Some(message)
}

/// Bytes being read; every step is `None` past their end.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(count)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn align(&mut self, to: usize) -> Option<()> {
        let next = self.at.next_multiple_of(to);
        self.take(next - self.at).map(drop)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.align(4)?;
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        let length = usize::try_from(self.u32()?).ok()?;
        self.ended(length)
    }

    fn signature(&mut self) -> Option<&'a str> {
        let length = self.u8()?.into();
        self.ended(length)
    }

    /// Text of `length` bytes and the NUL after it.
    fn ended(&mut self, length: usize) -> Option<&'a str> {
        let text = std::str::from_utf8(self.take(length)?).ok()?;
        (self.u8()? == 0).then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Target<'static> = Target { destination: "a.b", path: "/c", interface: "d.e" };

    #[test]
    fn a_call_is_laid_out_as_the_specification_says() {
        let mut body = Writer::default();
        body.text("x");
        let bytes = call(7, TARGET, "Do", "s", &body.0);
        assert_eq!(&bytes[..12], [b'l', 1, 0, 1, 6, 0, 0, 0, 7, 0, 0, 0]);
        // The first field: path, of type o, "/c".
        assert_eq!(&bytes[16..27], [1, 1, b'o', 0, 2, 0, 0, 0, b'/', b'c', 0]);
        assert_eq!(&bytes[bytes.len() - 6..], [1, 0, 0, 0, b'x', 0]);
        let message = parse(&bytes).expect("well-formed");
        assert_eq!((message.kind, message.member.as_str(), message.body.as_slice()), (CALL, "Do", body.0.as_slice()));
    }

    #[test]
    fn values_are_aligned() {
        let mut out = Writer::default();
        out.properties(&[("A".to_owned(), Value::U64(5)), ("B".to_owned(), Value::Rates(vec![("p".to_owned(), 9)]))]);
        // Length, padding to 8; "A" with its NUL ends at 14, signature "t" at 17, padded to 24.
        assert_eq!(out.0[8..14], [1, 0, 0, 0, b'A', 0]);
        assert_eq!(out.0[14..17], [1, b't', 0]);
        assert_eq!(out.0[24..32], 5_u64.to_le_bytes());
        assert_eq!(out.0[0..4], length(out.0.len() - 8).to_le_bytes());
        assert!(out.0.ends_with(&9_u64.to_le_bytes()));
    }

    #[test]
    fn nothing_malformed_is_believed() {
        let good = call(1, TARGET, "Do", "", &[]);
        for cut in 0..good.len() {
            assert_eq!(parse(&good[..cut]), None, "cut at {cut}");
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0xff;
            // Any answer but a panic.
            let _ = parse(&bad);
        }
        let mut long = [0; FIXED];
        long[..4].copy_from_slice(&[b'l', 1, 0, 1]);
        long[12..].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(total(&long), None);
    }
}
