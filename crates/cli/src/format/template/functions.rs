//! The functions of templates, and how values print.

use std::cmp::Ordering;
use std::fmt::Write as _;

use serde_json::Value;

use super::TemplateError;

/// The widest field `printf` makes.
const MAX_WIDTH: usize = 1000;

macro_rules! functions {
    ($($variant:ident $name:literal),* $(,)?) => {
        /// A function by name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Function { $(#[doc = $name] $variant),* }

        impl Function {
            /// The function called `name`.
            pub(super) fn named(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }

            fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}

functions! {
    And "and", Eq "eq", Ge "ge", Gt "gt", Index "index", Join "join", Json "json", Le "le", Len "len", Lower "lower",
    Lt "lt", Ne "ne", Not "not", Or "or", Pad "pad", Print "print", Printf "printf", Println "println", Split "split",
    Title "title", Truncate "truncate", Upper "upper",
}

impl Function {
    /// Its value for `operands`.
    pub(super) fn call(self, operands: &[Value]) -> Result<Value, TemplateError> {
        let wrong = || TemplateError::new(format!("{} does not take these operands", self.name()));
        let text = |index: usize| operands.get(index).map(shown).ok_or_else(wrong);
        Ok(match (self, operands) {
            (Self::Json, [value]) => value.to_string().into(),
            (Self::Upper, [_]) => text(0)?.to_uppercase().into(),
            (Self::Lower, [_]) => text(0)?.to_lowercase().into(),
            (Self::Title, [_]) => title(&text(0)?).into(),
            (Self::Join, [Value::Array(list), separator]) => {
                list.iter().map(shown).collect::<Vec<_>>().join(&shown(separator)).into()
            }
            (Self::Join, [Value::Null, _]) => "".into(),
            (Self::Split, [_, _]) => {
                let (text, separator) = (text(0)?, text(1)?);
                Value::Array(text.split(&separator).map(Value::from).collect())
            }
            (Self::Len, [Value::Array(list)]) => list.len().into(),
            (Self::Len, [Value::Object(map)]) => map.len().into(),
            (Self::Len, [Value::String(text)]) => text.len().into(),
            (Self::Len, [Value::Null]) => 0.into(),
            (Self::Index, [value, keys @ ..]) => index(value, keys)?,
            (Self::Truncate, [_, length]) => {
                let length = size(length).ok_or_else(wrong)?;
                text(0)?.chars().take(length).collect::<String>().into()
            }
            (Self::Pad, [Value::String(text), before, after]) if text.is_empty() => {
                let _ = (size(before).ok_or_else(wrong)?, size(after).ok_or_else(wrong)?);
                "".into()
            }
            (Self::Pad, [_, before, after]) => {
                let before = " ".repeat(size(before).filter(|n| *n <= MAX_WIDTH).ok_or_else(wrong)?);
                let after = " ".repeat(size(after).filter(|n| *n <= MAX_WIDTH).ok_or_else(wrong)?);
                format!("{before}{}{after}", text(0)?).into()
            }
            (Self::Print, list) => print(list).into(),
            (Self::Println, list) => format!("{}\n", list.iter().map(shown).collect::<Vec<_>>().join(" ")).into(),
            (Self::Printf, [Value::String(format), list @ ..]) => printf(format, list)?.into(),
            (Self::Not, [value]) => (!truth(value)).into(),
            (Self::And, [.., last]) => operands.iter().find(|value| !truth(value)).unwrap_or(last).clone(),
            (Self::Or, [.., last]) => operands.iter().find(|value| truth(value)).unwrap_or(last).clone(),
            (Self::Eq, [first, rest @ ..]) if !rest.is_empty() => rest.iter().any(|value| same(first, value)).into(),
            (Self::Ne, [a, b]) => (!same(a, b)).into(),
            (Self::Lt, [a, b]) => (order(a, b).ok_or_else(wrong)? == Ordering::Less).into(),
            (Self::Le, [a, b]) => (order(a, b).ok_or_else(wrong)? != Ordering::Greater).into(),
            (Self::Gt, [a, b]) => (order(a, b).ok_or_else(wrong)? == Ordering::Greater).into(),
            (Self::Ge, [a, b]) => (order(a, b).ok_or_else(wrong)? != Ordering::Less).into(),
            _ => return Err(wrong()),
        })
    }
}

fn size(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|number| usize::try_from(number).ok())
}

fn index(value: &Value, keys: &[Value]) -> Result<Value, TemplateError> {
    let mut value = value;
    for key in keys {
        value = match (value, key) {
            (Value::Array(list), Value::Number(number)) => number
                .as_u64()
                .and_then(|at| list.get(usize::try_from(at).ok()?))
                .ok_or_else(|| TemplateError::new(format!("index {number} is out of range")))?,
            (Value::Object(map), Value::String(key)) => map.get(key).unwrap_or(&Value::Null),
            _ => return Err(TemplateError::new(format!("index cannot look up {key} here"))),
        };
    }
    // A key that is not there reads as nothing, as in Go a missing entry of a map of strings.
    Ok(if value.is_null() && !keys.is_empty() { "".into() } else { value.clone() })
}

fn title(text: &str) -> String {
    let mut start = true;
    text.chars()
        .map(|c| {
            let upper = start && c.is_alphabetic();
            start = c.is_whitespace();
            if upper { c.to_uppercase().next().unwrap_or(c) } else { c }
        })
        .collect()
}

/// Go's `Print`: blanks only between operands that are both no strings.
fn print(operands: &[Value]) -> String {
    let mut out = String::new();
    for (at, value) in operands.iter().enumerate() {
        if at > 0 && !value.is_string() && !operands[at - 1].is_string() {
            out.push(' ');
        }
        display(value, &mut out);
    }
    out
}

fn printf(format: &str, operands: &[Value]) -> Result<String, TemplateError> {
    let mut out = String::new();
    let mut operands = operands.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let (mut left, mut zero) = (false, false);
        while let Some(flag) = chars.next_if(|c| matches!(c, '-' | '0' | '+' | ' ' | '#')) {
            left |= flag == '-';
            zero |= flag == '0';
        }
        let mut count = |initial: Option<usize>| {
            let mut number = initial;
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                let digit = digit.to_digit(10).unwrap_or(0) as usize;
                number = Some(number.unwrap_or(0).saturating_mul(10).saturating_add(digit));
            }
            number
        };
        let width = count(None).unwrap_or(0);
        let precision = if chars.next_if_eq(&'.').is_some() {
            let mut number = 0_usize;
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                number = number.saturating_mul(10).saturating_add(digit.to_digit(10).unwrap_or(0) as usize);
            }
            Some(number)
        } else {
            None
        };
        if width > MAX_WIDTH || precision.is_some_and(|number| number > MAX_WIDTH) {
            return Err(TemplateError::new("printf width is too large"));
        }
        let Some(verb) = chars.next() else { return Err(TemplateError::new("printf ends in %")) };
        if verb == '%' {
            out.push('%');
            continue;
        }
        let value = operands.next().ok_or_else(|| TemplateError::new("printf has too few operands"))?;
        let mut text = match verb {
            'v' | 's' | 'd' => shown(value),
            'q' => Value::String(shown(value)).to_string(),
            't' => truth(value).to_string(),
            'f' => format!("{:.*}", precision.unwrap_or(6), value.as_f64().unwrap_or(f64::NAN)),
            'x' => value.as_i64().map_or_else(|| hex(&shown(value)), |number| format!("{number:x}")),
            other => return Err(TemplateError::new(format!("printf knows no %{other}"))),
        };
        if let (Some(precision), 's' | 'v') = (precision, verb) {
            text = text.chars().take(precision).collect();
        }
        let fill = width.saturating_sub(text.chars().count());
        match (left, zero && verb != 's') {
            (true, _) => out.extend(text.chars().chain(std::iter::repeat_n(' ', fill))),
            (false, true) => out.extend(std::iter::repeat_n('0', fill).chain(text.chars())),
            (false, false) => out.extend(std::iter::repeat_n(' ', fill).chain(text.chars())),
        }
    }
    if operands.next().is_some() {
        return Err(TemplateError::new("printf has too many operands"));
    }
    Ok(out)
}

fn hex(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a.total_cmp(&b) == Ordering::Equal,
        _ => a == b,
    }
}

fn order(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Number(a), Value::Number(b)) => a.as_f64()?.partial_cmp(&b.as_f64()?),
        _ => None,
    }
}

/// Whether a value counts as true: not nothing, false, zero or empty.
pub(super) fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(yes) => *yes,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

fn shown(value: &Value) -> String {
    let mut out = String::new();
    display(value, &mut out);
    out
}

/// Appends a value as Go prints it: `[a b]`, `map[k:v]`.
pub(super) fn display(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("<no value>"),
        Value::String(text) => out.push_str(text),
        Value::Bool(_) | Value::Number(_) => {
            let _ = write!(out, "{value}");
        }
        Value::Array(list) => {
            out.push('[');
            for (at, item) in list.iter().enumerate() {
                if at > 0 {
                    out.push(' ');
                }
                display(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push_str("map[");
            for (at, (key, item)) in map.iter().enumerate() {
                if at > 0 {
                    out.push(' ');
                }
                let _ = write!(out, "{key}:");
                display(item, out);
            }
            out.push(']');
        }
    }
}
