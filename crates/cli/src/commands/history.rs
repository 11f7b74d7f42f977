//! `history`.

use engine::HistoryStep;
use jiff::Timestamp;
use serde_json::json;

use super::ps::ago;
use crate::failure::{Failure, Outcome};
use crate::flags::{Args, Job};
use crate::format::choice::{Format, Row};
use crate::format::{table, units};
use crate::output;

const HEADERS: &[(&str, &str)] = &[
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];
const COMMAND_WIDTH: usize = 45;

/// Reads `history`'s flags.
///
/// # Errors
/// What does not fit.
pub(crate) fn parse(args: &Args) -> Outcome<Job> {
    let name = args.word(0).to_owned();
    let format = Format::parse(args.one("format"))?;
    let (whole, quiet) = (args.on("no-trunc"), args.on("quiet"));
    let human = args.switch("human").unwrap_or(true);
    let platform = args.owned("platform");
    Ok(Box::new(move |app| {
        let steps = app.engine()?.history(&name, platform.as_deref())?;
        let now = Timestamp::now();
        if quiet && matches!(format, Format::Table) {
            return output::print(&steps.iter().map(|step| format!("{}\n", id(step, whole))).collect::<String>())
                .map(|()| 0);
        }
        let created = if human { "CreatedSince" } else { "CreatedAt" };
        let rows = steps.iter().map(|step| row(step, whole, human, now)).collect::<Result<_, _>>()?;
        output::print(&format.render(&["ID", created, "CreatedBy", "Size", "Comment"], HEADERS, rows)?)?;
        Ok(0)
    }))
}

fn id(step: &HistoryStep, whole: bool) -> String {
    match &step.id {
        None => "<missing>".into(),
        Some(id) if whole => id.to_string(),
        Some(id) => id.short().into(),
    }
}

fn row(step: &HistoryStep, whole: bool, human: bool, now: Timestamp) -> Outcome<Row> {
    let command = step.created_by.replace('\t', " ");
    let fields = json!({
        "ID": id(step, whole),
        "CreatedSince": ago(&step.created, now),
        "CreatedAt": step.created,
        "CreatedBy": if whole { command } else { table::ellipsis(&command, COMMAND_WIDTH) },
        "Size": if human { units::decimal(step.size) } else { step.size.to_string() },
        "Comment": step.comment,
    });
    let serde_json::Value::Object(fields) = fields else {
        return Err(Failure::usage("a row is no object"));
    };
    Ok(Row { fields, methods: json!({}) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_read_as_dockers() {
        let now = Timestamp::new(1_700_000_300, 0).expect("valid");
        let step = HistoryStep {
            id: None,
            created: "2023-11-14T22:13:20Z".into(),
            created_by: format!("/bin/sh -c\t{}", "x".repeat(60)),
            size: 4_261_502,
            comment: "imported".into(),
        };
        let shown = row(&step, false, true, now).expect("a row").fields;
        assert_eq!((&shown["ID"], &shown["CreatedSince"]), (&json!("<missing>"), &json!("5 minutes ago")));
        assert_eq!(shown["CreatedBy"], format!("/bin/sh -c {}…", "x".repeat(33)));
        assert_eq!(shown["Size"], "4.262MB");
        let id = oci::Digest::sha256_of(b"x");
        let last = HistoryStep { id: Some(id.clone()), ..step };
        let shown = row(&last, true, false, now).expect("a row").fields;
        assert_eq!((&shown["ID"], &shown["Size"]), (&json!(id.to_string()), &json!("4261502")));
        for (field, _) in HEADERS {
            assert!(shown.contains_key(*field), "{field}");
        }
    }
}
