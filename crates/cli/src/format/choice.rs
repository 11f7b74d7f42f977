//! `--format` as lists know it: a table by default, `json` for a line per object, `table TEMPLATE`, or a template.

use serde_json::{Map, Value};

use super::table;
use super::template::Template;
use crate::failure::{Failure, Outcome};

/// How a list is printed.
#[derive(Debug)]
pub(crate) enum Format {
    /// The verb's own columns.
    Table,
    /// One JSON object a line.
    Json,
    /// A template a line; with headers when it began with `table`.
    Template {
        /// The template.
        template: Template,
        /// Whether the result is a table with a line of headers.
        table: bool,
    },
}

/// One object of a list.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// Its fields, all of them strings as docker's formatters have them.
    pub(crate) fields: Map<String, Value>,
    /// What `.Label "key"` looks into.
    pub(crate) methods: Value,
}

impl Format {
    /// Reads the flag.
    ///
    /// # Errors
    /// A template that does not parse.
    pub(crate) fn parse(text: Option<&str>) -> Outcome<Self> {
        let template = |text: &str| {
            let text = text.replace("\\t", "\t").replace("\\n", "\n");
            Template::parse(&text).map_err(|error| {
                Failure::usage_hint(
                    format!("--format: {error}"),
                    "for example --format '{{.ID}}: {{.Status}}', or --format json for every field",
                )
            })
        };
        Ok(match text {
            None | Some("" | "table") => Self::Table,
            Some("json") => Self::Json,
            Some(text) => match text.strip_prefix("table").filter(|rest| rest.starts_with([' ', '\t', '\\'])) {
                Some(rest) => Self::Template { template: template(rest.trim_start_matches([' ', '\t']))?, table: true },
                None => Self::Template { template: template(text)?, table: false },
            },
        })
    }

    /// The text of a list. `columns` are the verb's own; `headers` name every field for `table TEMPLATE`.
    ///
    /// # Errors
    /// A template with a field that does not exist.
    pub(crate) fn render(&self, columns: &[&str], headers: &[(&str, &str)], rows: Vec<Row>) -> Outcome<String> {
        match self {
            Self::Table => {
                let title =
                    |column: &str| headers.iter().find(|(name, _)| *name == column).map_or("", |(_, title)| title);
                let mut lines = vec![columns.iter().map(|column| title(column).to_owned()).collect::<Vec<_>>()];
                lines.extend(rows.iter().map(|row| columns.iter().map(|column| cell(row, column)).collect()));
                Ok(table::align(&lines))
            }
            Self::Json => Ok(rows.into_iter().map(|row| format!("{}\n", Value::Object(row.fields))).collect()),
            Self::Template { template, table: false } => {
                let mut text = String::new();
                for row in rows {
                    text.push_str(&line(template, row)?);
                    text.push('\n');
                }
                Ok(text)
            }
            Self::Template { template, table: true } => {
                let titles = headers.iter().map(|(name, title)| ((*name).to_owned(), (*title).into())).collect();
                let methods = serde_json::json!({"Label": {}});
                let mut lines = vec![line(template, Row { fields: titles, methods })?];
                for row in rows {
                    lines.push(line(template, row)?);
                }
                let cells = |line: &String| line.split('\t').map(str::to_owned).collect::<Vec<_>>();
                Ok(table::align(&lines.iter().map(cells).collect::<Vec<_>>()))
            }
        }
    }
}

fn cell(row: &Row, column: &str) -> String {
    match row.fields.get(column) {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => String::new(),
    }
}

fn line(template: &Template, row: Row) -> Outcome<String> {
    let value = Value::Object(row.fields);
    template.render_with(&value, &row.methods).map_err(|error| {
        let known = value.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>().join(", ")).unwrap_or_default();
        Failure::usage_hint(format!("--format: {error}"), format!("there are {known}"))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HEADERS: &[(&str, &str)] = &[("ID", "CONTAINER ID"), ("Names", "NAMES")];

    fn render(format: Option<&str>) -> Result<String, String> {
        let row = |id: &str, name: &str| Row {
            fields: json!({"ID": id, "Names": name}).as_object().cloned().expect("object"),
            methods: json!({"Label": {"a": "b"}}),
        };
        let rows = vec![row("0123", "web"), row("4567", "a\nb")];
        let format = Format::parse(format).map_err(|failure| failure.render(false))?;
        format.render(&["ID", "Names"], HEADERS, rows).map_err(|failure| failure.render(false))
    }

    #[test]
    fn lists_have_four_forms() {
        assert_eq!(render(None).expect("fits"), "CONTAINER ID   NAMES\n0123           web\n4567           a\\nb\n");
        assert_eq!(render(Some("json")).expect("fits").lines().next(), Some(r#"{"ID":"0123","Names":"web"}"#));
        assert_eq!(render(Some("{{.ID}}={{.Label \"a\"}}")).expect("fits"), "0123=b\n4567=b\n");
        let table = render(Some("table {{.Names}}\\t{{.ID}}")).expect("fits");
        assert_eq!(table.lines().take(2).collect::<Vec<_>>(), ["NAMES     CONTAINER ID", "web       0123"]);
        assert!(render(Some("{{.Bogus}}")).expect_err("no field").contains("there are ID, Names"));
        assert!(render(Some("{{")).is_err());
    }
}
