//! Tells a Rust file's code from its comments and its texts, line by line, so that rules look in the right place.

/// A line of a file, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    /// The code, with the contents of string and character literals left out.
    pub(super) code: String,
    /// The text of comments.
    pub(super) comment: String,
}

/// Where a byte stands.
enum Place {
    Code,
    LineComment,
    /// Block comments nest.
    BlockComment(u32),
    Text,
    /// A raw string ends with a quote and this many hashes.
    RawText(usize),
}

/// Takes a file apart.
pub(super) fn split(source: &str) -> Vec<Line> {
    let chars: Vec<char> = source.chars().collect();
    let mut lines = vec![Line::default()];
    let mut place = Place::Code;
    let mut at = 0;
    while at < chars.len() {
        let rest = &chars[at..];
        let starts = |text: &str| text.chars().enumerate().all(|(n, letter)| rest.get(n) == Some(&letter));
        if rest[0] == '\n' {
            if matches!(place, Place::LineComment) {
                place = Place::Code;
            }
            lines.push(Line::default());
            at += 1;
            continue;
        }
        let line = lines.last_mut().expect("there is always a line");
        let mut step = 1;
        match place {
            Place::Code if starts("//") => {
                place = Place::LineComment;
                step = 2;
            }
            Place::Code if starts("/*") => {
                place = Place::BlockComment(1);
                step = 2;
            }
            Place::Code => {
                let before = at.checked_sub(1).map(|before| chars[before]);
                let in_word = before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
                if let Some(hashes) = raw_string(rest).filter(|_| !in_word || before == Some('b')) {
                    line.code.push('"');
                    place = Place::RawText(hashes);
                    step = 2 + hashes;
                } else if rest[0] == '"' {
                    line.code.push('"');
                    place = Place::Text;
                } else if let Some(length) = character(rest) {
                    line.code.push_str("' '");
                    step = length;
                } else {
                    line.code.push(rest[0]);
                }
            }
            Place::LineComment => line.comment.push(rest[0]),
            Place::BlockComment(depth) if starts("*/") => {
                place = if depth == 1 { Place::Code } else { Place::BlockComment(depth - 1) };
                step = 2;
            }
            Place::BlockComment(depth) if starts("/*") => {
                place = Place::BlockComment(depth + 1);
                step = 2;
            }
            Place::BlockComment(_) => line.comment.push(rest[0]),
            // An escaped newline is left for the next round, which counts lines.
            Place::Text if rest[0] == '\\' => step = if rest.get(1) == Some(&'\n') { 1 } else { 2 },
            Place::Text => {
                if rest[0] == '"' {
                    line.code.push('"');
                    place = Place::Code;
                }
            }
            Place::RawText(hashes) => {
                if rest[0] == '"' && rest[1..].iter().take_while(|letter| **letter == '#').count() >= hashes {
                    line.code.push('"');
                    place = Place::Code;
                    step = 1 + hashes;
                }
            }
        }
        at += step;
    }
    lines
}

/// The number of hashes when a raw string starts here.
fn raw_string(rest: &[char]) -> Option<usize> {
    let after = rest.strip_prefix(&['r'])?;
    let hashes = after.iter().take_while(|letter| **letter == '#').count();
    (after.get(hashes) == Some(&'"')).then_some(hashes)
}

/// The length of the character literal that starts here; none for a lifetime.
fn character(rest: &[char]) -> Option<usize> {
    match rest {
        ['\'', '\\', _, tail @ ..] => Some(4 + tail.iter().position(|letter| *letter == '\'')?),
        ['\'', letter, '\'', ..] if *letter != '\'' => Some(3),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(source: &str) -> String {
        split(source).iter().map(|line| line.code.as_str()).collect::<Vec<_>>().join("\n")
    }

    fn comments(source: &str) -> String {
        split(source).iter().map(|line| line.comment.as_str()).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn leaves_out_texts_and_comments() {
        assert_eq!(code("a(\"unsafe\") // unsafe"), "a(\"\") ");
        assert_eq!(comments("a(\"unsafe\") // why"), " why");
        assert_eq!(code("a /* x /* y */ z */ b"), "a  b");
        assert_eq!(code("r#\"un\"safe\"# + b"), "\"\" + b");
        assert_eq!(code("\"a\\\"b\" c"), "\"\" c");
        assert_eq!(code("x = '\"'; y: &'a str = '\\''"), "x = ' '; y: &'a str = ' '");
        assert_eq!(code("for x in bar\"\""), "for x in bar\"\"");
    }

    #[test]
    fn keeps_lines() {
        assert_eq!(split("\"a\nb\\\nc\"\n// d\n").len(), 5);
        assert_eq!(split("/* a\nb */ c")[1], Line { code: " c".into(), comment: "b ".into() });
    }
}
