//! `image prune`, `container prune`, `system prune`.

use std::io::{self, BufRead as _, Read as _};

use engine::{PruneFilter, Pruned, Removed};
use jiff::Timestamp;

use super::volume;
use crate::failure::{Failure, Outcome};
use crate::flags::{Args, Job};
use crate::format::units;
use crate::output;
use crate::parse::filter;

fn filters(args: &Args, now: Timestamp) -> Outcome<PruneFilter> {
    let mut wanted = PruneFilter::default();
    args.each("filter", |text| filter::prune(text, now, &mut wanted))?;
    Ok(wanted)
}

/// Asks, unless forced; an answer other than yes is a failure, as docker has it.
pub(crate) fn confirm(force: bool, verb: &str, warning: &str) -> Outcome<()> {
    if force {
        return Ok(());
    }
    output::bytes(format!("WARNING! {warning}\nAre you sure you want to continue? [y/N] ").as_bytes())?;
    let mut answer = String::new();
    let read = io::stdin().lock().take(1024).read_line(&mut answer);
    read.map_err(|error| Failure::io("cannot read the answer", error))?;
    match answer.trim() {
        "y" | "Y" => Ok(()),
        _ => Err(Failure::usage_hint(format!("{verb} has been cancelled"), "-f does not ask")),
    }
}

/// The filters that were said, as docker lists them before it asks.
fn filtered(mut said: Vec<String>) -> String {
    if said.is_empty() {
        return String::new();
    }
    said.sort();
    let lines = said.iter().map(|filter| format!("  - {filter}\n")).collect::<String>();
    format!("\n  Items to be pruned will be filtered with:\n{lines}")
}

fn text(pruned: &Pruned, volumes: &[String]) -> String {
    let mut text = String::new();
    if !pruned.containers.is_empty() {
        text.push_str("Deleted Containers:\n");
        pruned.containers.iter().for_each(|id| text.push_str(&format!("{id}\n")));
        text.push('\n');
    }
    text.push_str(&volume::deleted(volumes));
    if !pruned.images.is_empty() {
        text.push_str("Deleted Images:\n");
        for removed in &pruned.images {
            text.push_str(&match removed {
                Removed::Untagged(name) => format!("untagged: {name}\n"),
                Removed::Deleted(name) => format!("deleted: {name}\n"),
            });
        }
        text.push('\n');
    }
    text.push_str(&format!("Total reclaimed space: {}\n", units::decimal(pruned.reclaimed)));
    text
}

/// Reads `image prune`'s flags.
///
/// # Errors
/// What does not fit.
pub(crate) fn parse_image(args: &Args) -> Outcome<Job> {
    let mut wanted = filters(args, Timestamp::now())?;
    wanted.all |= args.on("all");
    let force = args.on("force");
    Ok(Box::new(move |app| {
        let what = match wanted.all {
            true => "This will remove all images without at least one container associated to them.",
            false => "This will remove all dangling images.",
        };
        confirm(force, "image prune", what)?;
        let engine = app.engine()?;
        drop(engine.reconcile());
        output::print(&text(&engine.prune_images(&wanted)?, &[]))?;
        Ok(0)
    }))
}

/// Reads `container prune`'s flags.
///
/// # Errors
/// What does not fit.
pub(crate) fn parse_container(args: &Args) -> Outcome<Job> {
    let wanted = filters(args, Timestamp::now())?;
    let force = args.on("force");
    Ok(Box::new(move |app| {
        confirm(force, "container prune", "This will remove all stopped containers.")?;
        let engine = app.engine()?;
        drop(engine.reconcile());
        output::print(&text(&engine.prune_containers(&wanted)?, &[]))?;
        Ok(0)
    }))
}

/// Reads `system prune`'s flags.
///
/// # Errors
/// What does not fit.
pub(crate) fn parse_system(args: &Args) -> Outcome<Job> {
    let mut wanted = filters(args, Timestamp::now())?;
    wanted.all |= args.on("all");
    let force = args.on("force");
    let said = filtered(args.list("filter"));
    let with_volumes = args.on("volumes");
    if with_volumes && wanted.until.is_some() {
        return Err(Failure::usage("the \"until\" filter is not supported with \"--volumes\""));
    }
    Ok(Box::new(move |app| {
        let images = if wanted.all {
            "all images without at least one container associated to them"
        } else {
            "all dangling images"
        };
        let volumes = if with_volumes { "  - all anonymous volumes not used by at least one container\n" } else { "" };
        let what = format!("This will remove:\n  - all stopped containers\n{volumes}  - {images}\n{said}");
        confirm(force, "system prune", &what)?;
        let engine = app.engine()?;
        drop(engine.reconcile());
        let containers = engine.prune_containers(&wanted)?;
        let (names, freed) = match with_volumes {
            // As docker has it: `-a` speaks of images, named volumes stay.
            true => engine.prune_volumes(&PruneFilter { all: false, ..wanted.clone() })?,
            false => (Vec::new(), 0),
        };
        let images = engine.prune_images(&wanted)?;
        let reclaimed = containers.reclaimed.saturating_add(images.reclaimed).saturating_add(freed);
        let pruned = Pruned { containers: containers.containers, images: images.images, reclaimed };
        output::print(&text(&pruned, &names))?;
        Ok(0)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::testing;

    #[test]
    fn what_went_is_told_as_docker_tells_it() {
        let pruned = Pruned {
            containers: vec!["abc".into()],
            images: vec![Removed::Untagged("a:1".into()), Removed::Deleted("sha256:0".into())],
            reclaimed: 1500,
        };
        let expected = "Deleted Containers:\nabc\n\nDeleted Images:\nuntagged: a:1\ndeleted: sha256:0\n\n\
                        Total reclaimed space: 1.5kB\n";
        assert_eq!(text(&pruned, &[]), expected);
        let with_volumes = text(&Pruned::default(), &["db".into()]);
        assert_eq!(with_volumes, "Deleted Volumes:\ndb\n\nTotal reclaimed space: 0B\n");
        let said = vec!["until=1h".to_owned(), "label=x".to_owned()];
        assert_eq!(filtered(said), "\n  Items to be pruned will be filtered with:\n  - label=x\n  - until=1h\n");
        assert_eq!(filtered(Vec::new()), "");
        assert_eq!(text(&Pruned::default(), &[]), "Total reclaimed space: 0B\n");
        assert!(parse_image(&testing::args("image prune", &["--filter", "bogus=1"])).is_err());
        assert!(parse_system(&testing::args("system prune", &["-af", "--filter", "until=24h"])).is_ok());
        assert!(parse_system(&testing::args("system prune", &["--volumes", "--filter", "until=24h"])).is_err());
    }
}
