//! One record of comma-separated values (RFC 4180), as `--mount` is written.

/// The fields of `text`.
///
/// # Errors
/// Unbalanced quotes.
pub(crate) fn fields(text: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        let mut field = String::new();
        if chars.next_if_eq(&'"').is_some() {
            loop {
                match chars.next() {
                    Some('"') if chars.next_if_eq(&'"').is_some() => field.push('"'),
                    Some('"') => break,
                    Some(c) => field.push(c),
                    None => return Err("a quote is not closed".into()),
                }
            }
            if chars.peek().is_some_and(|c| *c != ',') {
                return Err("text follows a closing quote".into());
            }
        } else {
            while let Some(c) = chars.next_if(|c| *c != ',') {
                if c == '"' {
                    return Err("a quote inside a field".into());
                }
                field.push(c);
            }
        }
        fields.push(field);
        if chars.next().is_none() {
            return Ok(fields);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_protect_commas() {
        assert_eq!(fields("a=1,b=2").expect("fits"), ["a=1", "b=2"]);
        assert_eq!(fields("\"source=/a,b\",\"x=\"\"q\"\"\"").expect("fits"), ["source=/a,b", "x=\"q\""]);
        assert_eq!(fields("").expect("fits"), [""]);
        for bad in ["\"a", "\"a\"b", "a\"b"] {
            assert!(fields(bad).is_err(), "{bad}");
        }
    }
}
