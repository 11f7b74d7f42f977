//! `ps`.

use container::record::State;
use engine::{ContainerFilter, ContainerSummary};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::json;

use crate::failure::{Failure, Outcome};
use crate::flags::{Args, Job};
use crate::format::choice::{Format, Row};
use crate::format::{table, units};
use crate::output;
use crate::parse::{filter, moment, size};

const HEADERS: &[(&str, &str)] = &[
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("State", "STATE"),
    ("Ports", "PORTS"),
    ("Names", "NAMES"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("Networks", "NETWORKS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Size", "SIZE"),
];
const COMMAND_WIDTH: usize = 20;

/// Reads `ps`'s flags.
///
/// # Errors
/// What does not fit.
pub(crate) fn parse(args: &Args) -> Outcome<Job> {
    let last = args.parsed("last", size::number::<i64>)?.and_then(|number| usize::try_from(number).ok());
    let last = if args.on("latest") { Some(1) } else { last };
    let format = Format::parse(args.one("format"))?;
    let whole = args.on("no-trunc");
    let quiet = args.on("quiet");
    let mut wanted = ContainerFilter {
        all: args.on("all") || last.is_some(),
        size: args.on("size") || args.one("format").is_some_and(|text| text.contains(".Size")),
        ..ContainerFilter::default()
    };
    let sized = args.on("size");
    args.each("filter", |text| filter::container(text, &mut wanted))?;
    Ok(Box::new(move |app| {
        let engine = app.engine()?;
        drop(engine.reconcile());
        let mut list = engine.list(&wanted)?;
        if let Some(last) = last {
            list.truncate(last);
        }
        for damaged in &list {
            if let Some(reason) = &damaged.damaged {
                output::warning(&format!("container {}: {reason}", damaged.id.short()));
            }
        }
        let id =
            |summary: &ContainerSummary| if whole { summary.id.as_str().into() } else { summary.id.short().to_owned() };
        if quiet && matches!(format, Format::Table) {
            return output::print(&list.iter().map(|summary| format!("{}\n", id(summary))).collect::<String>())
                .map(|()| 0);
        }
        let mut columns = vec!["ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names"];
        if sized {
            columns.push("Size");
        }
        let now = Timestamp::now();
        let rows = list.iter().map(|summary| row(summary, id(summary), whole, now)).collect::<Result<_, _>>()?;
        output::print(&format.render(&columns, HEADERS, rows)?)?;
        Ok(0)
    }))
}

/// A container's fields.
pub(crate) fn row(summary: &ContainerSummary, id: String, whole: bool, now: Timestamp) -> Outcome<Row> {
    let command = summary.command.join(" ");
    let command = if whole { command } else { table::ellipsis(&command, COMMAND_WIDTH) };
    let mounts: Vec<String> = match whole {
        true => summary.mounts.clone(),
        false => summary.mounts.iter().map(|mount| table::ellipsis(mount, 15)).collect(),
    };
    let labels = summary.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
    let size = summary.size.map_or_else(
        || "0B".to_owned(),
        |size| format!("{} (virtual {})", units::decimal(size.writable), units::decimal(size.total)),
    );
    let fields = json!({
        "ID": id,
        "Image": summary.image,
        "Command": format!("\"{command}\""),
        "CreatedAt": created_at(&summary.created),
        "RunningFor": ago(&summary.created, now),
        "Status": status(summary, now),
        "State": state(summary.state),
        "Ports": "",
        "Names": summary.name,
        "Labels": labels,
        "Mounts": mounts.join(","),
        "Networks": summary.network,
        "LocalVolumes": summary.volumes.len().to_string(),
        "Size": size,
    });
    let serde_json::Value::Object(fields) = fields else {
        return Err(Failure::usage("a row is no object"));
    };
    Ok(Row { fields, methods: json!({ "Label": summary.labels }) })
}

/// Docker's word for a state.
pub(crate) fn state(state: State) -> &'static str {
    match state {
        State::Created | State::Starting => "created",
        State::Running | State::Stopping => "running",
        State::Paused => "paused",
        State::Exited => "exited",
        State::Removing => "removing",
        State::Dead => "dead",
    }
}

/// "Up 2 hours", "Exited (0) 3 minutes ago".
pub(crate) fn status(summary: &ContainerSummary, now: Timestamp) -> String {
    let since = |text: &str| moment::age(text, now).map_or_else(|| "some time".into(), units::duration);
    match summary.state {
        State::Created => "Created".into(),
        State::Starting => "Starting".into(),
        State::Running | State::Stopping => format!("Up {}", since(&summary.started)),
        State::Paused => format!("Up {} (Paused)", since(&summary.started)),
        State::Exited => format!("Exited ({}) {} ago", summary.exit_code, since(&summary.finished)),
        State::Removing => "Removal In Progress".into(),
        State::Dead => "Dead".into(),
    }
}

/// "3 minutes ago"; "N/A" when the time is not known.
pub(crate) fn ago(text: &str, now: Timestamp) -> String {
    moment::age(text, now).map_or_else(|| "N/A".into(), |seconds| format!("{} ago", units::duration(seconds)))
}

/// Docker's notation of a moment, in the time zone of `TZ` or of the host.
pub(crate) fn created_at(text: &str) -> String {
    moment_in(text, &TimeZone::system())
}

fn moment_in(text: &str, zone: &TimeZone) -> String {
    let Ok(moment) = text.parse::<Timestamp>() else { return "N/A".into() };
    moment.to_zoned_datetime(zone.clone()).strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::verbs::testing;

    fn summary(state: State) -> ContainerSummary {
        ContainerSummary {
            id: "ab".repeat(32).parse().expect("an id"),
            name: "web".into(),
            image: "busybox".into(),
            image_id: None,
            command: vec!["sh".into(), "-c".into(), "echo a long command line".into()],
            created: "2023-11-14T22:13:20.5Z".into(),
            state,
            started: "2023-11-14T22:14:20Z".into(),
            finished: "2023-11-14T22:15:20Z".into(),
            exit_code: 7,
            pid: 0,
            labels: BTreeMap::from([("a".into(), "1".into()), ("b".into(), "2".into())]),
            network: "none".into(),
            mounts: vec!["/a/long/host/path/indeed".into()],
            mount_points: Vec::new(),
            volumes: vec!["db".into()],
            size: None,
            damaged: None,
        }
    }

    #[test]
    fn rows_read_as_dockers() {
        let now = Timestamp::new(1_700_000_300, 0).expect("valid");
        let shown = row(&summary(State::Exited), "abababababab".into(), false, now).expect("a row").fields;
        for (field, expected) in [
            ("Command", "\"sh -c echo a long c…\""),
            ("RunningFor", "5 minutes ago"),
            ("Status", "Exited (7) 3 minutes ago"),
            ("State", "exited"),
            ("Labels", "a=1,b=2"),
            ("Mounts", "/a/long/host/p…"),
            ("LocalVolumes", "1"),
        ] {
            assert_eq!(shown[field], expected);
        }
        for (state, words) in [
            (State::Created, "Created"),
            (State::Running, "Up 4 minutes"),
            (State::Paused, "Up 4 minutes (Paused)"),
            (State::Removing, "Removal In Progress"),
        ] {
            assert_eq!(status(&summary(state), now), words);
        }
        for (field, _) in HEADERS {
            assert!(shown.contains_key(*field), "{field}");
        }
    }

    #[test]
    fn moments_are_shown_in_a_time_zone() {
        let zone = |rule: &str| TimeZone::posix(rule).expect("a rule of POSIX");
        let moment = "2023-07-14T22:13:20.5Z";
        assert_eq!(moment_in(moment, &TimeZone::UTC), "2023-07-14 22:13:20 +0000 UTC");
        assert_eq!(moment_in(moment, &zone("EST5EDT,M3.2.0,M11.1.0")), "2023-07-14 18:13:20 -0400 EDT");
        assert_eq!(moment_in("soon", &TimeZone::UTC), "N/A");
    }

    #[test]
    fn flags_are_checked() {
        assert!(parse(&testing::args("ps", &["-f", "bogus=1"])).is_err());
        assert!(parse(&testing::args("ps", &["-n", "x"])).is_err());
        assert!(parse(&testing::args("ps", &["-aqs", "-n", "-1", "--format", "json"])).is_ok());
    }
}
