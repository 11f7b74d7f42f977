//! `search`.

use engine::{SearchHit, SearchOptions};
use serde_json::json;

use crate::failure::{Failure, Outcome};
use crate::flags::{Args, Job};
use crate::format::choice::{Format, Row};
use crate::format::table;
use crate::{output, parse};

const HEADERS: &[(&str, &str)] = &[
    ("Name", "NAME"),
    ("Description", "DESCRIPTION"),
    ("StarCount", "STARS"),
    ("IsOfficial", "OFFICIAL"),
    ("IsAutomated", "AUTOMATED"),
];
/// Characters of a description, as docker cuts it.
const DESCRIPTION_WIDTH: usize = 45;

/// Reads `search`'s flags.
///
/// # Errors
/// What does not fit.
pub(crate) fn parse(args: &Args) -> Outcome<Job> {
    let term = args.word(0).to_owned();
    let mut options = SearchOptions { limit: args.parsed("limit", limit)?, ..SearchOptions::default() };
    // Docker's 0 is as many as it likes.
    options.limit = options.limit.filter(|limit| *limit != 0);
    args.each("filter", |text| filter(text, &mut options))?;
    let format = Format::parse(args.one("format"))?;
    let whole = args.on("no-trunc");
    Ok(Box::new(move |app| {
        let found = app.engine()?.search(&term, &options)?;
        let rows = found.iter().map(|hit| row(hit, whole)).collect::<Result<_, _>>()?;
        output::print(&format.render(&["Name", "Description", "StarCount", "IsOfficial"], HEADERS, rows)?)?;
        Ok(0)
    }))
}

fn limit(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "it is no number".to_owned())
}

/// Adds one filter.
fn filter(text: &str, options: &mut SearchOptions) -> Result<(), String> {
    let (key, value) = parse::pair(text)?;
    let switch = || match value.as_str() {
        "1" | "true" => Ok(Some(true)),
        "0" | "false" => Ok(Some(false)),
        other => Err(format!("{other:?} is neither true nor false")),
    };
    match key.as_str() {
        "is-official" => options.official = switch()?,
        "is-automated" => options.automated = switch()?,
        "stars" => {
            let stars: u64 = value.parse().map_err(|_| format!("{value:?} is no number of stars"))?;
            options.stars = options.stars.max(stars);
        }
        other => return Err(format!("there is no filter {other:?}")),
    }
    Ok(())
}

fn row(hit: &SearchHit, whole: bool) -> Outcome<Row> {
    let description = hit.description.replace(['\n', '\r'], " ");
    let mark = |set: bool| if set { "[OK]" } else { "" };
    let fields = json!({
        "Name": hit.name,
        "Description": if whole { description } else { table::ellipsis(&description, DESCRIPTION_WIDTH) },
        "StarCount": hit.stars.to_string(),
        "IsOfficial": mark(hit.official),
        "IsAutomated": mark(hit.automated),
    });
    let serde_json::Value::Object(fields) = fields else {
        return Err(Failure::usage("a row is no object"));
    };
    Ok(Row { fields, methods: json!({}) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::testing;

    #[test]
    fn rows_read_as_dockers() {
        let hit = SearchHit {
            name: "busybox".into(),
            description: format!("Busybox\n{}", "x".repeat(60)),
            stars: 3000,
            official: true,
            automated: false,
        };
        let fields = row(&hit, false).expect("a row").fields;
        assert_eq!((&fields["StarCount"], &fields["IsOfficial"]), (&json!("3000"), &json!("[OK]")));
        assert_eq!(fields["Description"], format!("Busybox {}…", "x".repeat(36)));
        for (field, _) in HEADERS {
            assert!(fields.contains_key(*field), "{field}");
        }
        assert!(row(&hit, true).expect("a row").fields["Description"].as_str().is_some_and(|text| text.len() == 68));
    }

    #[test]
    fn filters_fit() {
        let mut options = SearchOptions::default();
        for text in ["is-official=true", "stars=3", "stars=2", "is-automated=0"] {
            filter(text, &mut options).expect(text);
        }
        assert_eq!((options.official, options.automated, options.stars), (Some(true), Some(false), 3));
        for bad in ["stars=x", "is-official=maybe", "bogus=1", "stars"] {
            assert!(filter(bad, &mut options).is_err(), "{bad}");
        }
        assert!(parse(&testing::args("search", &["--limit", "x", "box"])).is_err());
    }
}
