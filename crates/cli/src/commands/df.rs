//! `system df`.

use engine::DiskUsage;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::ps::{ago, status};
use super::{images, ps, volume};
use crate::failure::{Failure, Outcome};
use crate::flags::{Args, Job};
use crate::format::choice::{Format, Row};
use crate::format::{table, units};
use crate::output;

const HEADERS: &[(&str, &str)] = &[
    ("Type", "TYPE"),
    ("TotalCount", "TOTAL"),
    ("Active", "ACTIVE"),
    ("Size", "SIZE"),
    ("Reclaimable", "RECLAIMABLE"),
];
const COMMAND_WIDTH: usize = 20;

/// Reads `system df`'s flags.
///
/// # Errors
/// What does not fit.
pub(crate) fn parse(args: &Args) -> Outcome<Job> {
    let format = Format::parse(args.one("format"))?;
    let verbose = args.on("verbose");
    Ok(Box::new(move |app| {
        let engine = app.engine()?;
        drop(engine.reconcile());
        let usage = engine.disk_usage()?;
        if verbose {
            let now = Timestamp::now();
            output::print(&match &format {
                Format::Table => details(&usage, now),
                Format::Json => format!("{}\n", whole(&usage, now)?),
                Format::Template { template, .. } => {
                    let text = template.render(&whole(&usage, now)?);
                    format!("{}\n", text.map_err(|error| Failure::usage(format!("--format: {error}")))?)
                }
            })?;
        } else {
            let columns = ["Type", "TotalCount", "Active", "Size", "Reclaimable"];
            output::print(&format.render(&columns, HEADERS, rows(&usage)?)?)?;
        }
        Ok(0)
    }))
}

fn rows(usage: &DiskUsage) -> Outcome<Vec<Row>> {
    let part = |bytes: u64, of: u64| {
        let percent = u128::from(bytes) * 100;
        let percent = percent.checked_div(u128::from(of)).map(|percent| format!(" ({percent}%)"));
        format!("{}{}", units::decimal(bytes), percent.unwrap_or_default())
    };
    let row = |kind: &str, total: usize, active: usize, size: u64, reclaimable: String| {
        let fields = json!({
            "Type": kind,
            "TotalCount": total.to_string(),
            "Active": active.to_string(),
            "Size": units::decimal(size),
            "Reclaimable": reclaimable,
        });
        let serde_json::Value::Object(fields) = fields else {
            return Err(Failure::usage("a row is no object"));
        };
        Ok(Row { fields, methods: json!({}) })
    };
    let DiskUsage { images_size, images_reclaimable, containers_size, containers_reclaimable, .. } = *usage;
    let size = |used: bool| {
        let counted = usage.volumes.iter().filter(move |volume| used || volume.users.is_empty());
        counted.fold(0_u64, |sum, volume| sum.saturating_add(volume.size.unwrap_or(0)))
    };
    let (volumes_size, volumes_unused) = (size(true), size(false));
    Ok(vec![
        row("Images", usage.image_count, usage.images_active, images_size, part(images_reclaimable, images_size))?,
        row(
            "Containers",
            usage.containers.len(),
            usage.containers_active,
            containers_size,
            part(containers_reclaimable, containers_size),
        )?,
        row(
            "Local Volumes",
            usage.volumes.len(),
            usage.volumes.iter().filter(|volume| !volume.users.is_empty()).count(),
            volumes_size,
            part(volumes_unused, volumes_size),
        )?,
        // Nothing is built here yet, so there is no cache.
        row("Build Cache", 0, 0, 0, part(0, 0))?,
    ])
}

/// Everything as one object: what `-v` with a format is about.
fn whole(usage: &DiskUsage, now: Timestamp) -> Outcome<Value> {
    let mut images_shown = Vec::new();
    for (image, share) in &usage.images {
        let mut fields = images::row(image, image.id.to_string(), now)?.fields;
        fields.insert("SharedSize".into(), units::decimal(share.shared).into());
        fields.insert("UniqueSize".into(), units::decimal(share.unique).into());
        images_shown.push(Value::Object(fields));
    }
    let mut containers = Vec::new();
    for container in &usage.containers {
        containers.push(Value::Object(ps::row(container, container.id.to_string(), true, now)?.fields));
    }
    let mut volumes = Vec::new();
    for known in &usage.volumes {
        volumes.push(Value::Object(volume::row(known)?.fields));
    }
    Ok(json!({ "Images": images_shown, "Containers": containers, "Volumes": volumes, "BuildCache": [] }))
}

fn details(usage: &DiskUsage, now: Timestamp) -> String {
    let line = |cells: &[&str]| cells.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut images =
        vec![line(&["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE", "SHARED SIZE", "UNIQUE SIZE", "CONTAINERS"])];
    for (image, share) in &usage.images {
        images.push(line(&[
            &image.repository,
            &image.tag,
            image.id.short(),
            &ago(&image.created, now),
            &units::decimal(image.size),
            &units::decimal(share.shared),
            &units::decimal(share.unique),
            &image.containers.to_string(),
        ]));
    }
    let mut containers =
        vec![line(&["CONTAINER ID", "IMAGE", "COMMAND", "LOCAL VOLUMES", "SIZE", "CREATED", "STATUS", "NAMES"])];
    for container in &usage.containers {
        containers.push(line(&[
            container.id.short(),
            &container.image,
            &format!("\"{}\"", table::ellipsis(&container.command.join(" "), COMMAND_WIDTH)),
            &container.volumes.len().to_string(),
            &units::decimal(container.size.map_or(0, |size| size.writable)),
            &ago(&container.created, now),
            &status(container, now),
            &container.name,
        ]));
    }
    let mut volumes = vec![line(&["VOLUME NAME", "LINKS", "SIZE"])];
    for volume in &usage.volumes {
        let (links, size) = (volume.users.len().to_string(), units::decimal(volume.size.unwrap_or(0)));
        volumes.push(line(&[&volume.name, &links, &size]));
    }
    let cache = line(&["CACHE ID", "CACHE TYPE", "SIZE", "CREATED", "LAST USED", "USAGE", "SHARED"]);
    format!(
        "Images space usage:\n\n{}\nContainers space usage:\n\n{}\nLocal Volumes space usage:\n\n{}\n\
         Build cache usage: 0B\n\n{}",
        table::align(&images),
        table::align(&containers),
        table::align(&volumes),
        table::align(&[cache])
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::testing;

    #[test]
    fn totals_read_as_dockers() {
        let usage = DiskUsage {
            image_count: 3,
            images_active: 1,
            images_size: 4000,
            images_reclaimable: 1000,
            ..DiskUsage::default()
        };
        let rows = rows(&usage).expect("rows");
        let cells = |row: &Row| HEADERS.iter().map(|(field, _)| row.fields[*field].clone()).collect::<Vec<_>>();
        assert_eq!(cells(&rows[0]), [json!("Images"), json!("3"), json!("1"), json!("4kB"), json!("1kB (25%)")]);
        assert_eq!(cells(&rows[1]), [json!("Containers"), json!("0"), json!("0"), json!("0B"), json!("0B")]);
        assert_eq!(cells(&rows[2])[0], json!("Local Volumes"));
        assert_eq!(cells(&rows[3])[..2], [json!("Build Cache"), json!("0")]);
        let now = Timestamp::new(1_700_000_000, 0).expect("valid");
        let all = whole(&usage, now).expect("an object");
        assert_eq!(all, json!({"Images": [], "Containers": [], "Volumes": [], "BuildCache": []}));
        let text = details(&usage, now);
        assert!(text.contains("LOCAL VOLUMES") && text.ends_with("USAGE     SHARED\n"), "{text}");
        assert!(parse(&testing::args("system df", &["-v", "--format", "json"])).is_ok());
    }
}
