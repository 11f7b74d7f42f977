//! Detach keys: a sequence of keys that leaves a container without stopping it.

/// The sequence without `--detach-keys`.
pub(crate) const DEFAULT: &str = "ctrl-p,ctrl-q";

/// Longest sequence, in keys.
const MAX_KEYS: usize = 16;

/// Finds the sequence in what is typed. Keys of a begun sequence are held back until they turn out to be something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Detach {
    keys: Vec<u8>,
    matched: usize,
}

/// Whether to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    /// Hand these bytes on.
    Pass(Vec<u8>),
    /// Hand these bytes on, then leave.
    Leave(Vec<u8>),
}

impl Detach {
    /// Reads `a,ctrl-p,DEL`: letters, digits and other single characters, or `ctrl-` and one of `a`–`z`, `@`, `[`, `\`,
    /// `]`, `^`, `_`. Empty text is no sequence.
    ///
    /// # Errors
    /// Anything else.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut keys = Vec::new();
        for key in text.split(',').filter(|_| !text.is_empty()) {
            let control = key.get(..5).filter(|head| head.eq_ignore_ascii_case("ctrl-")).and_then(|_| key.get(5..));
            let byte = match (control.map(str::as_bytes), key.as_bytes()) {
                (Some([c @ (b'a'..=b'z' | b'A'..=b'Z')]), _) => c.to_ascii_lowercase() - b'a' + 1,
                (Some([c @ (b'@' | b'['..=b'_')]), _) => c - b'@',
                (None, [c]) if c.is_ascii_graphic() || *c == b' ' => *c,
                (None, b"DEL") => 0x7f,
                _ => return Err(format!("{key:?} is no key: expected a character or ctrl- and a letter")),
            };
            keys.push(byte);
        }
        if keys.len() > MAX_KEYS {
            return Err(format!("more than {MAX_KEYS} keys"));
        }
        Ok(Self { keys, matched: 0 })
    }

    /// Looks at what was typed.
    pub(crate) fn feed(&mut self, typed: &[u8]) -> Typed {
        let mut pass = Vec::with_capacity(typed.len() + self.matched);
        for byte in typed {
            while self.keys.get(self.matched) != Some(byte) && self.matched > 0 {
                // What was held back was no detach sequence, but its tail may begin one.
                let next = self.longest_border();
                pass.extend_from_slice(&self.keys[..self.matched - next]);
                self.matched = next;
            }
            if self.keys.get(self.matched) == Some(byte) {
                self.matched += 1;
            } else {
                pass.push(*byte);
            }
            if !self.keys.is_empty() && self.matched == self.keys.len() {
                self.matched = 0;
                return Typed::Leave(pass);
            }
        }
        Typed::Pass(pass)
    }

    /// The length of the longest proper prefix of the keys that ends the matched part.
    fn longest_border(&self) -> usize {
        (0..self.matched)
            .rev()
            .find(|length| self.keys[..*length] == self.keys[self.matched - length..self.matched])
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(keys: &str, typed: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut detach = Detach::parse(keys).expect("parses");
        let mut all = Vec::new();
        for part in typed {
            match detach.feed(part) {
                Typed::Pass(bytes) => all.extend(bytes),
                Typed::Leave(bytes) => {
                    all.extend(bytes);
                    return (all, true);
                }
            }
        }
        (all, false)
    }

    #[test]
    fn sequences_are_found_across_reads() {
        assert_eq!(feed(DEFAULT, &[b"ab\x10\x11cd"]), (b"ab".to_vec(), true));
        assert_eq!(feed(DEFAULT, &[b"ab\x10", b"\x11"]), (b"ab".to_vec(), true));
        assert_eq!(feed(DEFAULT, &[b"\x10x\x10\x10", b"y"]), (b"\x10x\x10\x10y".to_vec(), false));
        assert_eq!(feed(DEFAULT, &[b"\x10\x10\x11"]), (b"\x10".to_vec(), true));
        assert_eq!(feed("a,a,b", &[b"aaab"]), (b"a".to_vec(), true));
        assert_eq!(feed("a,b,a,c", &[b"ababac"]), (b"ab".to_vec(), true));
        assert_eq!(feed("", &[b"\x10\x11"]), (b"\x10\x11".to_vec(), false));
    }

    #[test]
    fn keys_parse() {
        for (text, keys) in [
            ("ctrl-a", vec![1]),
            ("ctrl-P,ctrl-q", vec![16, 17]),
            ("ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_", vec![0, 27, 28, 29, 30, 31]),
            ("a,1,DEL", vec![b'a', b'1', 0x7f]),
            ("", vec![]),
        ] {
            assert_eq!(Detach::parse(text).map(|detach| detach.keys), Ok(keys), "{text}");
        }
        for bad in ["ctrl-", "ctrl-1", "ab", "a,,b", "ctrl-ab", "é", ","] {
            assert!(Detach::parse(bad).is_err(), "{bad}");
        }
    }
}
