//! Makes text that came from an image, a container or a registry harmless on a terminal.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Text for one line: every control character, newlines included, and every character that reorders text is written
/// as an escape.
pub(crate) fn line(text: &str) -> Cow<'_, str> {
    escape(text, false)
}

/// Text that may have several lines: as [`line`], but newlines and tabs stay.
pub(crate) fn lines(text: &str) -> Cow<'_, str> {
    escape(text, true)
}

fn escape(text: &str, keep_lines: bool) -> Cow<'_, str> {
    let harmful = |c: char| {
        let control = c.is_control() && !(keep_lines && matches!(c, '\n' | '\t'));
        // Bidirectional overrides and isolates can make a name read as another one.
        control || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
    };
    if !text.chars().any(harmful) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        let _ = match c {
            c if !harmful(c) => write!(safe, "{c}"),
            '\n' => write!(safe, "\\n"),
            '\t' => write!(safe, "\\t"),
            '\r' => write!(safe, "\\r"),
            c if u32::from(c) < 0x100 => write!(safe, "\\x{:02x}", u32::from(c)),
            c => write!(safe, "\\u{{{:x}}}", u32::from(c)),
        };
    }
    Cow::Owned(safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(line("plain é 日本"), "plain é 日本");
        assert_eq!(line("a\x1b]0;t\x07b\nc\u{9b}d"), "a\\x1b]0;t\\x07b\\nc\\x9bd");
        assert_eq!(line("a\u{202e}b"), "a\\u{202e}b");
        assert_eq!(lines("a\n\tb\rc"), "a\n\tb\\rc");
        assert!(matches!(lines("a\nb"), Cow::Borrowed(_)));
    }
}
