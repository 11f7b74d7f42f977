//! `volume create`, `volume ls`, `volume inspect`, `volume rm`, `volume prune`.

use std::collections::BTreeMap;

use engine::{NewVolume, PruneFilter, VolumeDetails, VolumeFilter, volumes};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{for_each, prune};
use crate::failure::{Class, Failure, Outcome};
use crate::flags::{Args, Job};
use crate::format::choice::{Format, Row};
use crate::format::template::Template;
use crate::format::units;
use crate::output;
use crate::parse::{env, filter, pair};

const HEADERS: &[(&str, &str)] = &[
    ("Driver", "DRIVER"),
    ("Name", "VOLUME NAME"),
    ("Scope", "SCOPE"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Labels", "LABELS"),
    ("Links", "LINKS"),
    ("Size", "SIZE"),
    ("Availability", "AVAILABILITY"),
    ("Group", "GROUP"),
    ("Status", "STATUS"),
];

/// Reads `volume create`'s flags.
///
/// # Errors
/// What does not fit.
pub(crate) fn parse_create(args: &Args) -> Outcome<Job> {
    let mut labels = BTreeMap::new();
    args.each("label", |text| env::label(text, &mut labels))?;
    let named = args.owned("name").unwrap_or_default();
    let word = args.words().next().unwrap_or_default().to_owned();
    if !named.is_empty() && !word.is_empty() {
        return Err(Failure::usage(
            "conflicting options: cannot specify a volume-name through both --name and as an argument",
        ));
    }
    let new = NewVolume {
        name: if word.is_empty() { named } else { word },
        driver: args.owned("driver").unwrap_or_default(),
        labels,
        options: args.each("opt", pair)?.into_iter().collect(),
    };
    Ok(Box::new(move |app| {
        let name = app.engine()?.create_volume(&new)?;
        output::line(&name)?;
        Ok(0)
    }))
}

/// Reads `volume ls`'s flags.
///
/// # Errors
/// What does not fit.
pub(crate) fn parse_list(args: &Args) -> Outcome<Job> {
    let mut wanted = VolumeFilter::default();
    args.each("filter", |text| filter::volume(text, &mut wanted))?;
    let format = Format::parse(args.one("format"))?;
    let quiet = args.on("quiet");
    wanted.size = args.one("format").is_some_and(|text| text.contains(".Size"));
    Ok(Box::new(move |app| {
        let list = app.engine()?.volumes(&wanted)?;
        for damaged in &list {
            if let Some(reason) = &damaged.damaged {
                output::warning(reason);
            }
        }
        if quiet && matches!(format, Format::Table) {
            let names = list.iter().map(|volume| format!("{}\n", volume.name));
            return output::print(&names.collect::<String>()).map(|()| 0);
        }
        let rows = list.iter().map(row).collect::<Result<_, _>>()?;
        output::print(&format.render(&["Driver", "Name"], HEADERS, rows)?)?;
        Ok(0)
    }))
}

/// A volume's fields.
pub(crate) fn row(volume: &VolumeDetails) -> Outcome<Row> {
    let labels = volume.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
    let fields = json!({
        "Driver": volumes::DRIVER,
        "Name": volume.name,
        "Scope": "local",
        "Mountpoint": volume.mountpoint.display().to_string(),
        "Labels": labels,
        "Links": volume.size.map_or_else(|| "N/A".into(), |_| volume.users.len().to_string()),
        "Size": volume.size.map_or_else(|| "N/A".into(), units::decimal),
        "Availability": "N/A",
        "Group": "N/A",
        "Status": "N/A",
    });
    let Value::Object(fields) = fields else { return Err(Failure::usage("a row is no object")) };
    Ok(Row { fields, methods: json!({ "Label": volume.labels }) })
}

/// A volume as `docker volume inspect` shows it.
pub(crate) fn shown(volume: &VolumeDetails) -> Value {
    let some = |map: &BTreeMap<String, String>| if map.is_empty() { Value::Null } else { json!(map) };
    let mut labels = volume.labels.clone();
    if volume.anonymous {
        labels.insert("com.docker.volume.anonymous".into(), String::new());
    }
    json!({
        "CreatedAt": volume.created,
        "Driver": volumes::DRIVER,
        "Labels": some(&labels),
        "Mountpoint": volume.mountpoint.display().to_string(),
        "Name": volume.name,
        "Options": some(&volume.options),
        "Scope": "local",
    })
}

/// Reads `volume inspect`'s flags.
///
/// # Errors
/// What does not fit.
pub(crate) fn parse_inspect(args: &Args) -> Outcome<Job> {
    let names = args.word_list();
    let template = match args.one("format") {
        None | Some("") => None,
        Some("json") => Some(None),
        Some(text) => Some(Some(Template::parse(text).map_err(|error| Failure::usage(format!("--format: {error}")))?)),
    };
    Ok(Box::new(move |app| {
        let engine = app.engine()?;
        let (mut found, mut failures) = (Vec::new(), Vec::new());
        for name in &names {
            match engine.inspect_volume(name) {
                Ok(volume) => found.push(shown(&volume)),
                Err(error) => failures.push(Failure::from(error)),
            }
        }
        match &template {
            None => output::print(
                &super::inspect::indented(&found)
                    .map_err(|error| Failure::io("cannot write JSON", std::io::Error::other(error)))?,
            )?,
            Some(template) => {
                for volume in &found {
                    output::line(&match template {
                        None => volume.to_string(),
                        Some(template) => {
                            template.render(volume).map_err(|error| Failure::usage(format!("--format: {error}")))?
                        }
                    })?;
                }
            }
        }
        for failure in &failures {
            failure.report();
        }
        Ok(failures.iter().map(|failure| failure.code(Class::Plain)).max().unwrap_or(0))
    }))
}

/// Reads `volume rm`'s flags.
///
/// # Errors
/// None.
pub(crate) fn parse_remove(args: &Args) -> Outcome<Job> {
    let names = args.word_list();
    let force = args.on("force");
    Ok(Box::new(move |app| {
        let engine = app.engine()?;
        drop(engine.reconcile());
        for_each(&names, |name| {
            match engine.remove_volume(name) {
                // What is gone is what was wanted.
                Err(error) if force && error.kind() == engine::ErrorKind::NoSuchVolume => {}
                removed => removed?,
            }
            output::line(name)
        })
    }))
}

/// Reads `volume prune`'s flags.
///
/// # Errors
/// What does not fit.
pub(crate) fn parse_prune(args: &Args) -> Outcome<Job> {
    let mut wanted = PruneFilter::default();
    args.each("filter", |text| match text.split_once('=') {
        Some(("all", "1" | "true")) => {
            wanted.all = true;
            Ok(())
        }
        Some(("all", "0" | "false")) => Ok(()),
        Some(("dangling", _)) => Err("there is no filter \"dangling\"".to_owned()),
        _ => filter::prune(text, Timestamp::now(), &mut wanted),
    })?;
    wanted.all |= args.on("all");
    let force = args.on("force");
    Ok(Box::new(move |app| {
        let what = match wanted.all {
            true => "This will remove all local volumes not used by at least one container.",
            false => "This will remove anonymous local volumes not used by at least one container.",
        };
        prune::confirm(force, "volume prune", what)?;
        let engine = app.engine()?;
        drop(engine.reconcile());
        let (names, reclaimed) = engine.prune_volumes(&wanted)?;
        output::print(&format!("{}Total reclaimed space: {}\n", deleted(&names), units::decimal(reclaimed)))?;
        Ok(0)
    }))
}

/// The volumes that a prune removed, as docker lists them.
pub(crate) fn deleted(names: &[String]) -> String {
    if names.is_empty() {
        return String::new();
    }
    format!("Deleted Volumes:\n{}\n\n", names.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::testing;

    fn volume() -> VolumeDetails {
        VolumeDetails {
            name: "db".into(),
            created: "2026-01-01T00:00:00Z".into(),
            anonymous: false,
            labels: BTreeMap::from([("a".into(), "b".into())]),
            options: BTreeMap::new(),
            mountpoint: "/v/db/_data".into(),
            users: Vec::new(),
            size: None,
            damaged: None,
        }
    }

    #[test]
    fn volumes_read_as_dockers() {
        let fields = row(&volume()).expect("a row").fields;
        for (field, _) in HEADERS {
            assert!(fields.contains_key(*field), "{field}");
        }
        assert_eq!((&fields["Size"], &fields["Labels"]), (&json!("N/A"), &json!("a=b")));
        let expected = json!({"CreatedAt": "2026-01-01T00:00:00Z", "Driver": "local", "Labels": {"a": "b"},
            "Mountpoint": "/v/db/_data", "Name": "db", "Options": null, "Scope": "local"});
        assert_eq!(shown(&volume()), expected);
        let unnamed = VolumeDetails { anonymous: true, labels: BTreeMap::new(), ..volume() };
        assert_eq!(shown(&unnamed)["Labels"], json!({"com.docker.volume.anonymous": ""}));
        assert_eq!(deleted(&["a".into(), "b".into()]), "Deleted Volumes:\na\nb\n\n");
    }

    #[test]
    fn flags_are_checked() {
        assert!(parse_create(&testing::args("volume create", &["--name", "a", "b"])).is_err());
        assert!(parse_create(&testing::args("volume create", &["-o", "type", "b"])).is_err());
        assert!(parse_create(&testing::args("volume create", &["-d", "local", "--label", "x", "b"])).is_ok());
        assert!(parse_list(&testing::args("volume ls", &["-f", "bogus=1"])).is_err());
        assert!(parse_list(&testing::args("volume ls", &["-qf", "dangling=true"])).is_ok());
        assert!(parse_inspect(&testing::args("volume inspect", &["-f", "{{", "x"])).is_err());
        assert!(parse_prune(&testing::args("volume prune", &["--filter", "dangling=true"])).is_err());
        assert!(parse_prune(&testing::args("volume prune", &["-af", "--filter", "all=1"])).is_ok());
        assert!(parse_remove(&testing::args("volume rm", &["-f", "x"])).is_ok());
    }
}
