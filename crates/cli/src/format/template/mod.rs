//! `--format`: the part of Go's text/template that docker's users write, over JSON values.
//!
//! Actions: fields (`.A.B`), `if`/`else if`/`else`, `range` (with `$i, $x :=` and `else`), `with`, variables, pipelines,
//! parentheses, comments and trim markers. Functions: see [`functions`]. Whatever else is written is an error that shows
//! where.

mod eval;
mod functions;
mod lex;
mod parse;

use serde_json::Value;

/// A parsed template.
#[derive(Debug)]
pub(crate) struct Template {
    nodes: Vec<parse::Node>,
}

/// A template that does not parse, or does not fit the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TemplateError(String);

impl std::fmt::Display for TemplateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "template: {}", self.0)
    }
}

impl std::error::Error for TemplateError {}

impl TemplateError {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl Template {
    /// Parses `text`.
    ///
    /// # Errors
    /// Unbalanced actions, unknown functions and keywords, bad literals.
    pub(crate) fn parse(text: &str) -> Result<Self, TemplateError> {
        Ok(Self { nodes: parse::parse(lex::lex(text)?)? })
    }

    /// The text for `value`.
    ///
    /// # Errors
    /// A field that does not exist, a function on a value it does not take.
    pub(crate) fn render(&self, value: &Value) -> Result<String, TemplateError> {
        self.render_with(value, &Value::Null)
    }

    /// The text for `value`, with `methods`: an object of objects, so that `.Label "key"` looks into `methods.Label`.
    ///
    /// # Errors
    /// As [`render`](Self::render).
    pub(crate) fn render_with(&self, value: &Value, methods: &Value) -> Result<String, TemplateError> {
        let mut out = String::new();
        eval::Scope::new(value, methods).run(&self.nodes, &mut out)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(template: &str) -> Result<String, String> {
        let value = json!({
            "ID": "abc", "N": 3, "Zero": 0, "Flag": true, "Empty": "", "Null": null,
            "List": ["a", "b"], "None": [],
            "Map": {"x": {"IP": "1.2.3.4"}, "y": {"IP": "5.6.7.8"}},
            "State": {"Pid": 42, "Status": "running"}, "Odd": {"com.example/key": "v"},
            "Labels": "a=1,b=2", "Text": "<&\">",
        });
        Template::parse(template).and_then(|t| t.render(&value)).map_err(|error| error.to_string())
    }

    #[test]
    fn renders_what_users_write() {
        for (template, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("{{.ID}}-{{ .N }}", "abc-3"),
            ("{{.State.Status}}", "running"),
            ("{{(index .Map \"x\").IP}}", "1.2.3.4"),
            ("{{index .Odd \"com.example/key\"}}", "v"),
            ("{{index .List 1}}", "b"),
            ("{{json .State}}", r#"{"Pid":42,"Status":"running"}"#),
            ("{{.State | json}}", r#"{"Pid":42,"Status":"running"}"#),
            ("{{json .Text}}", r#""<&\">""#),
            ("{{join .List \",\"}}", "a,b"),
            ("{{.ID | upper | printf \"%s!\"}}", "ABC!"),
            ("{{title \"hello world\"}} {{lower \"ABC\"}}", "Hello World abc"),
            ("{{len .List}}{{len .ID}}{{len .Map}}", "232"),
            ("{{if .Flag}}y{{else}}n{{end}}", "y"),
            ("{{if .Zero}}a{{else if .Empty}}b{{else if .None}}c{{else}}d{{end}}", "d"),
            ("{{range .List}}[{{.}}]{{end}}", "[a][b]"),
            ("{{range $i, $x := .List}}{{$i}}={{$x}};{{end}}", "0=a;1=b;"),
            ("{{range $k, $v := .Map}}{{$k}}:{{$v.IP}} {{end}}", "x:1.2.3.4 y:5.6.7.8 "),
            ("{{range .Map}}{{.IP}} {{end}}", "1.2.3.4 5.6.7.8 "),
            ("{{range .None}}x{{else}}none{{end}}", "none"),
            ("{{range .List}}{{$.ID}}{{end}}", "abcabc"),
            ("{{with .State}}{{.Pid}}{{end}}{{with .Empty}}x{{else}}e{{end}}", "42e"),
            ("{{$x := .N}}{{$x}}{{if true}}{{$x = 4}}{{end}}{{$x}}", "34"),
            ("a {{- .ID -}} b", "aabcb"),
            ("{{/* note */}}x", "x"),
            ("{{split .Labels \",\"}}", "[a=1 b=2]"),
            ("{{println .ID 1}}{{print 1 2}}", "abc 1\n1 2"),
            ("{{printf \"%5d|%-4s|%q|%v|%%|%.2s|%04d\" .N .ID .ID .Flag .ID .N}}", "    3|abc |\"abc\"|true|%|ab|0003"),
            (
                "{{eq .N 3}} {{ne .ID \"abc\"}} {{lt 1 2}} {{and .Flag .N}} {{or .Zero .ID}} {{not .Flag}}",
                "true false true 3 abc false",
            ),
            ("{{if and (eq .N 3) (ne .ID \"x\")}}ok{{end}}", "ok"),
            ("{{`raw \\n`}}{{\"a\\tb\"}}", "raw \\na\tb"),
            ("{{.Null}}{{.Flag}}", "<no value>true"),
            ("{{.State}}", "map[Pid:42 Status:running]"),
            ("{{truncate .Labels 3}}{{pad .ID 1 2}}", "a=1 abc  "),
            ("}} {", "}} {"),
        ] {
            assert_eq!(render(template).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn refuses_what_it_cannot_do() {
        for (template, part) in [
            ("{{.Missing}}", "no field \"Missing\""),
            ("{{.State.Missing}}", "no field \"Missing\""),
            ("{{.ID.X}}", "no field \"X\""),
            ("{{.ID", "unclosed action"),
            ("{{if .ID}}", "without its {{end}}"),
            ("{{end}}", "unexpected {{end}}"),
            ("{{else}}", "unexpected {{else}}"),
            ("{{frobnicate .ID}}", "function \"frobnicate\" does not exist"),
            ("{{define \"x\"}}{{end}}", "does not exist"),
            ("{{$x}}", "undefined variable $x"),
            ("{{\"abc}}", "unclosed string"),
            ("{{join .ID}}", "join"),
            ("{{index .List 9}}", "out of range"),
            ("{{range .ID}}{{end}}", "range"),
            ("{{.ID | }}", "missing"),
            ("{{(.ID}}", "parenthesis"),
            ("{{/* x }}", "unclosed comment"),
        ] {
            let error = render(template).expect_err(template);
            assert!(error.contains(part), "{template}: {error}");
        }
    }

    #[test]
    fn methods_take_a_key() {
        let template = Template::parse("{{.Label \"a\"}}{{.Label \"none\"}}{{json .}}").expect("parses");
        let text = template.render_with(&json!({"ID": 1}), &json!({"Label": {"a": "x,y"}})).expect("renders");
        assert_eq!(text, "x,y{\"ID\":1}");
    }

    #[test]
    fn nesting_has_a_bound() {
        let deep = format!("{{{{{}.ID{}}}}}", "(".repeat(5000), ")".repeat(5000));
        assert!(render(&deep).expect_err("too deep").contains("nested too deeply"));
        let deep = format!("{}x{}", "{{if 1}}".repeat(5000), "{{end}}".repeat(5000));
        assert!(render(&deep).expect_err("too deep").contains("nested too deeply"));
        let wide = "{{printf \"%999999999d\" 1}}";
        assert!(render(wide).is_err());
    }
}
