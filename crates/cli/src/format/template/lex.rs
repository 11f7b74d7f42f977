//! Text to pieces: literal text, and actions as token lists.

use super::TemplateError;

/// A stretch of the template.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Piece {
    /// Printed as it is.
    Text(String),
    /// What stood between `{{` and `}}`.
    Action(Vec<Token>),
}

/// A token of an action.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// `.A.B`; empty is `.` itself. `glued` follows a token without a blank: a field of its value.
    Fields { names: Vec<String>, glued: bool },
    /// `$name`; empty is `$`.
    Variable(String),
    /// A function or keyword.
    Word(String),
    /// A quoted string, unescaped.
    Text(String),
    /// A number.
    Number(serde_json::Number),
    /// `|`
    Pipe,
    /// `(`
    Open,
    /// `)`
    Close,
    /// `:=`
    Declare,
    /// `=`
    Assign,
    /// `,`
    Comma,
}

/// Splits a template. Trim markers are applied here.
pub(super) fn lex(template: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut rest = template;
    let mut trim_next = false;
    while !rest.is_empty() {
        let (text, action) = match rest.find("{{") {
            Some(at) => (&rest[..at], Some(&rest[at + 2..])),
            None => (rest, None),
        };
        let trim_this = action.is_some_and(|a| a.starts_with("- ") || a.starts_with("-\n") || a.starts_with("-\t"));
        let mut text = text;
        if trim_next {
            text = text.trim_start();
        }
        if trim_this {
            text = text.trim_end();
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(text.to_owned()));
        }
        let Some(action) = action else { break };
        let body = if trim_this { &action[1..] } else { action };
        let trimmed = body.trim_start();
        let after = if let Some(comment) = trimmed.strip_prefix("/*") {
            let end = comment.find("*/").ok_or_else(|| TemplateError::new("unclosed comment"))?;
            let tail = comment[end + 2..].trim_start();
            trim_next = tail.starts_with("-}}");
            let tail = tail.strip_prefix('-').unwrap_or(tail);
            tail.strip_prefix("}}").ok_or_else(|| TemplateError::new("a comment must be alone in its action"))?
        } else {
            let (tokens, tail, trims) = action_tokens(body)?;
            pieces.push(Piece::Action(tokens));
            trim_next = trims;
            tail
        };
        rest = after;
    }
    Ok(pieces)
}

/// The tokens up to `}}`, what follows it, and whether it was `-}}`.
fn action_tokens(body: &str) -> Result<(Vec<Token>, &str, bool), TemplateError> {
    let mut tokens = Vec::new();
    let mut rest = body;
    loop {
        let before = rest.len();
        rest = rest.trim_start();
        let blank = rest.len() != before || tokens.is_empty();
        if let Some(tail) = rest.strip_prefix("}}") {
            return Ok((tokens, tail, false));
        }
        if blank && let Some(tail) = rest.strip_prefix("-}}") {
            return Ok((tokens, tail, true));
        }
        let Some(first) = rest.chars().next() else { return Err(TemplateError::new("unclosed action")) };
        let (token, used) = match first {
            '|' => (Token::Pipe, 1),
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            ',' => (Token::Comma, 1),
            ':' if rest.starts_with(":=") => (Token::Declare, 2),
            '=' => (Token::Assign, 1),
            '"' => quoted(rest)?,
            '`' => {
                let end = rest[1..].find('`').ok_or_else(|| TemplateError::new("unclosed string"))?;
                (Token::Text(rest[1..=end].to_owned()), end + 2)
            }
            '.' => {
                let glued = !blank && matches!(tokens.last(), Some(Token::Close | Token::Variable(_)));
                fields(rest, glued)
            }
            '$' => {
                let length = word_length(&rest[1..]);
                (Token::Variable(rest[1..=length].to_owned()), length + 1)
            }
            '0'..='9' | '-' | '+' => number(rest)?,
            c if c.is_alphabetic() || c == '_' => {
                let length = word_length(rest);
                (Token::Word(rest[..length].to_owned()), length)
            }
            c => return Err(TemplateError::new(format!("unexpected {c:?} in an action"))),
        };
        tokens.push(token);
        rest = &rest[used..];
    }
}

fn word_length(text: &str) -> usize {
    text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())
}

fn fields(text: &str, glued: bool) -> (Token, usize) {
    let mut names = Vec::new();
    let mut used = 0;
    while text[used..].starts_with('.') {
        let length = word_length(&text[used + 1..]);
        if length == 0 {
            used += usize::from(names.is_empty());
            break;
        }
        names.push(text[used + 1..used + 1 + length].to_owned());
        used += 1 + length;
    }
    (Token::Fields { names, glued }, used)
}

fn number(text: &str) -> Result<(Token, usize), TemplateError> {
    let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_');
    let length = 1 + text[1..].find(|c: char| !part(c)).unwrap_or(text.len() - 1);
    let literal = &text[..length];
    let number = match literal.parse::<i64>() {
        Ok(number) => Some(number.into()),
        Err(_) => literal.parse::<f64>().ok().and_then(serde_json::Number::from_f64),
    };
    number
        .map(|number| (Token::Number(number), length))
        .ok_or_else(|| TemplateError::new(format!("bad number {literal:?}")))
}

/// A double-quoted string with Go's simple escapes.
fn quoted(text: &str) -> Result<(Token, usize), TemplateError> {
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((Token::Text(value), at + 1)),
            '\n' => break,
            '\\' => match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, 't')) => value.push('\t'),
                Some((_, 'r')) => value.push('\r'),
                Some((_, c @ ('"' | '\\' | '\''))) => value.push(c),
                other => {
                    let shown = other.map_or_else(String::new, |(_, c)| c.to_string());
                    return Err(TemplateError::new(format!("unknown escape \\{shown} in a string")));
                }
            },
            c => value.push(c),
        }
    }
    Err(TemplateError::new("unclosed string"))
}
