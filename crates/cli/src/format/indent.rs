//! JSON laid out anew: the document's own order, numbers and strings, only with other white space.

/// `text`, which is valid JSON, with each member on a line of its own, `unit` deeper than what it is in; as Go's
/// `json.Indent` does it. Of text that is no JSON, only white space changes.
pub(crate) fn json(text: &str, unit: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let mut depth = 0_usize;
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n(unit, depth));
    };
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '"' => {
                // Within a string, white space counts and brackets do not.
                let (string, after) = rest.split_at(end_of_string(rest));
                out.push('"');
                out.push_str(string);
                rest = after;
            }
            '{' | '[' => {
                out.push(c);
                rest = rest.trim_start();
                if let Some(after) = rest.strip_prefix(['}', ']']) {
                    out.push(if c == '{' { '}' } else { ']' });
                    rest = after;
                } else {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            ' ' | '\t' | '\n' | '\r' => {}
            other => out.push(other),
        }
    }
    out
}

/// Where the string ends that `text` is in, its closing quote included.
fn end_of_string(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_keep_their_order_and_strings() {
        let text = r#"{"b":[1,2.50,{}],"a":"x, {y}: \"z\\","e":[],"n":null}"#;
        let expected = "{\n\t\"b\": [\n\t\t1,\n\t\t2.50,\n\t\t{}\n\t],\n\t\"a\": \"x, {y}: \\\"z\\\\\",\n\t\"e\": [],\n\t\"n\": null\n}";
        assert_eq!(json(text, "\t"), expected);
        assert_eq!(json(expected, "\t"), expected, "laid out once, it stays");
        assert_eq!(json("{\"a\":\"unfinished", "  "), "{\n  \"a\": \"unfinished");
    }
}
