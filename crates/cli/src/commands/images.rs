//! `images`, `tag`, `rmi`.

use engine::{ImageFilter, ImageSummary, Removed};
use jiff::Timestamp;
use serde_json::json;

use super::for_each;
use super::ps::{ago, created_at};
use crate::failure::{Failure, Outcome};
use crate::flags::{Args, Job};
use crate::format::choice::{Format, Row};
use crate::format::units;
use crate::output;
use crate::parse::filter;

const HEADERS: &[(&str, &str)] = &[
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("VirtualSize", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("Containers", "CONTAINERS"),
    ("Platform", "PLATFORM"),
];

/// Reads `images`'s flags.
///
/// # Errors
/// What does not fit.
pub(crate) fn parse_list(args: &Args) -> Outcome<Job> {
    let mut wanted = ImageFilter::default();
    let now = Timestamp::now();
    args.each("filter", |text| filter::image(text, now, &mut wanted))?;
    wanted.reference.extend(args.words().map(str::to_owned));
    let all = args.on("all");
    let format = Format::parse(args.one("format"))?;
    let whole = args.on("no-trunc");
    let quiet = args.on("quiet");
    let digests = args.on("digests");
    let tree = args.on("tree");
    if tree {
        let said =
            [("quiet", quiet), ("no-trunc", whole), ("digests", digests), ("format", args.one("format").is_some())];
        if let Some((flag, _)) = said.iter().find(|(_, said)| *said) {
            return Err(Failure::usage(format!("--{flag} is not yet supported with --tree")));
        }
    }
    Ok(Box::new(move |app| {
        if tree {
            let mut trees = app.engine()?.image_tree(&wanted)?;
            trees.retain(|tree| {
                all || wanted.dangling.is_some() || wanted.reference.is_empty() || !tree.names.is_empty()
            });
            return output::bytes(super::tree::render(&trees).as_bytes()).map(|()| 0);
        }
        // Untagged images are shown as docker shows them: with -a, or when asked for by filter.
        let all = all || wanted.dangling.is_some() || wanted.reference.is_empty();
        let mut list = app.engine()?.images(&wanted)?;
        list.retain(|image| all || image.reference.is_some());
        let id = |image: &ImageSummary| if whole { image.id.to_string() } else { image.id.short().to_owned() };
        if quiet && matches!(format, Format::Table) {
            let mut seen = std::collections::BTreeSet::new();
            let ids =
                list.iter().filter(|image| seen.insert(image.id.to_string())).map(|image| format!("{}\n", id(image)));
            return output::print(&ids.collect::<String>()).map(|()| 0);
        }
        let mut columns = vec!["Repository", "Tag", "ID", "CreatedSince", "Size"];
        if digests {
            columns.insert(2, "Digest");
        }
        let now = Timestamp::now();
        let rows = list.iter().map(|image| row(image, id(image), now)).collect::<Result<_, _>>()?;
        output::print(&format.render(&columns, HEADERS, rows)?)?;
        Ok(0)
    }))
}

/// An image's fields.
pub(crate) fn row(image: &ImageSummary, id: String, now: Timestamp) -> Outcome<Row> {
    let digest = if image.reference.is_some() { image.digest.to_string() } else { "<none>".into() };
    let fields = json!({
        "Repository": image.repository,
        "Tag": image.tag,
        "Digest": digest,
        "ID": id,
        "CreatedSince": ago(&image.created, now),
        "CreatedAt": created_at(&image.created),
        "Size": units::decimal(image.size),
        "VirtualSize": units::decimal(image.size),
        "SharedSize": "N/A",
        "UniqueSize": "N/A",
        "Containers": image.containers.to_string(),
        "Platform": image.platform,
    });
    let serde_json::Value::Object(fields) = fields else {
        return Err(Failure::usage("a row is no object"));
    };
    Ok(Row { fields, methods: json!({ "Label": image.labels }) })
}

/// Reads `tag`'s words.
///
/// # Errors
/// None.
pub(crate) fn parse_tag(args: &Args) -> Outcome<Job> {
    let (source, target) = (args.word(0).to_owned(), args.word(1).to_owned());
    Ok(Box::new(move |app| {
        app.engine()?.tag(&source, &target)?;
        Ok(0)
    }))
}

/// Reads `untag`'s words.
///
/// # Errors
/// None.
pub(crate) fn parse_untag(args: &Args) -> Outcome<Job> {
    let words = args.word_list();
    Ok(Box::new(move |app| {
        let Some((image, names)) = words.split_first() else { return Ok(0) };
        app.engine()?.untag(image, names)?;
        Ok(0)
    }))
}

/// Reads `rmi`'s flags.
///
/// # Errors
/// None.
pub(crate) fn parse_remove(args: &Args) -> Outcome<Job> {
    let names = args.word_list();
    let (force, no_prune) = (args.on("force"), args.on("no-prune"));
    Ok(Box::new(move |app| {
        let engine = app.engine()?;
        drop(engine.reconcile());
        for_each(&names, |name| {
            let removed = engine.remove_image(name, force, no_prune)?;
            let said = removed.iter().map(|removed| match removed {
                Removed::Untagged(name) => format!("Untagged: {name}\n"),
                Removed::Deleted(name) => format!("Deleted: {name}\n"),
            });
            output::print(&said.collect::<String>())
        })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::testing;

    #[test]
    fn rows_read_as_dockers() {
        let digest = oci::Digest::sha256_of(b"x");
        let image = ImageSummary {
            id: digest.clone(),
            reference: Some("busybox:latest".into()),
            repository: "busybox".into(),
            tag: "latest".into(),
            digest: digest.clone(),
            created: String::new(),
            size: 4_261_502,
            labels: std::collections::BTreeMap::new(),
            platform: "linux/amd64".into(),
            containers: 2,
            changed: false,
        };
        let now = Timestamp::new(1_700_000_000, 0).expect("valid");
        let fields = row(&image, digest.short().into(), now).expect("a row").fields;
        assert_eq!((&fields["Size"], &fields["CreatedSince"]), (&json!("4.262MB"), &json!("N/A")));
        assert_eq!(fields["Digest"], digest.to_string());
        for (field, _) in HEADERS {
            assert!(fields.contains_key(*field), "{field}");
        }
        assert!(parse_list(&testing::args("images", &["-f", "bogus=1"])).is_err());
    }
}
