//! `store check`, `store repair`.

use std::fmt::Write as _;

use engine::{Problem, RepairReport, StoreReport};
use serde_json::{Value, json};

use super::system;
use crate::failure::Outcome;
use crate::flags::{Args, Job};
use crate::format::units;
use crate::output;

fn value(report: &StoreReport) -> Value {
    let problem = |problem: &Problem| {
        json!({
            "Kind": problem.kind.word(),
            "Object": problem.kind.to_string(),
            "What": problem.what,
            "Images": problem.images,
            "Containers": problem.containers,
            "Remedy": problem.remedy,
        })
    };
    json!({
        "Sound": report.problems.is_empty(),
        "Images": report.images,
        "Blobs": report.blobs,
        "Bytes": report.bytes,
        "Layers": report.layers,
        "Compared": report.compared,
        "Volumes": report.volumes,
        "Problems": report.problems.iter().map(problem).collect::<Vec<_>>(),
        "Leftovers": report.leftovers,
    })
}

fn text(report: &StoreReport) -> String {
    let mut text = String::new();
    for problem in &report.problems {
        let _ = writeln!(text, "{} {} {}", problem.kind.word(), problem.kind, problem.what);
        if !problem.images.is_empty() {
            let _ = writeln!(text, "    images:     {}", problem.images.join(", "));
        }
        if !problem.containers.is_empty() {
            let _ = writeln!(text, "    containers: {}", problem.containers.join(", "));
        }
        let _ = writeln!(text, "    what to do: {}", problem.remedy);
    }
    if !report.leftovers.is_empty() {
        let _ = writeln!(text, "left behind, harmless (lighter image prune):");
        report.leftovers.iter().for_each(|left| text.push_str(&format!("    {left}\n")));
    }
    let verdict = match report.problems.len() {
        0 => "sound".to_owned(),
        1 => "1 problem".to_owned(),
        many => format!("{many} problems"),
    };
    let compared = match report.compared {
        0 => String::new(),
        count => format!(" ({count} compared with their blobs)"),
    };
    let _ = writeln!(
        text,
        "{verdict}: checked {} images, {} blobs ({}), {} layers{compared}, {} volumes",
        report.images,
        report.blobs,
        units::decimal(report.bytes),
        report.layers,
        report.volumes
    );
    text
}

fn code(report: &StoreReport) -> u8 {
    u8::from(!report.problems.is_empty())
}

/// Reads `store check`'s flags.
///
/// # Errors
/// What does not fit.
pub(crate) fn parse_check(args: &Args) -> Outcome<Job> {
    let template = system::template(args)?;
    let deep = args.on("deep");
    Ok(Box::new(move |app| {
        let report = app.engine()?.check_store(deep)?;
        match &template {
            Some(template) => {
                system::show(template, &value(&report))?;
            }
            None => output::print(&text(&report))?,
        }
        Ok(code(&report))
    }))
}

/// Reads `store repair`'s flags.
///
/// # Errors
/// What does not fit.
pub(crate) fn parse_repair(args: &Args) -> Outcome<Job> {
    let template = system::template(args)?;
    let deep = args.on("deep");
    Ok(Box::new(move |app| {
        let engine = app.engine()?;
        drop(engine.reconcile());
        let RepairReport { done, after } = engine.repair_store(deep, &engine::Quiet)?;
        match &template {
            Some(template) => {
                let mut all = value(&after);
                let done = done
                    .iter()
                    .map(|done| json!({"Kind": done.kind.word(), "Object": done.kind.to_string(), "What": done.what}));
                all["Done"] = Value::Array(done.collect());
                system::show(template, &all)?;
            }
            None => {
                let mut all = String::new();
                for done in &done {
                    let _ = writeln!(all, "{} {}: {}", done.kind.word(), done.kind, done.what);
                }
                all.push_str(&text(&after));
                output::print(&all)?;
            }
        }
        Ok(code(&after))
    }))
}

#[cfg(test)]
mod tests {
    use engine::ProblemKind;

    use super::*;

    #[test]
    fn a_problem_says_what_it_is_and_what_to_do() {
        let problem = Problem {
            kind: ProblemKind::Volume("db".into()),
            what: "has a damaged record".into(),
            images: Vec::new(),
            containers: vec!["abc".into()],
            remedy: "lighter volume rm db".into(),
        };
        let report = StoreReport { problems: vec![problem], ..StoreReport::default() };
        let expected = "volume db has a damaged record\n    containers: abc\n    what to do: lighter volume rm db\n\
                        1 problem: checked 0 images, 0 blobs (0B), 0 layers, 0 volumes\n";
        assert_eq!((text(&report).as_str(), code(&report)), (expected, 1));
        assert_eq!(value(&report)["Problems"][0]["Object"], "db");
        let sound = StoreReport { leftovers: vec!["2 things".into()], ..StoreReport::default() };
        assert_eq!(code(&sound), 0);
        assert!(text(&sound).contains("    2 things\nsound: checked"), "{}", text(&sound));
    }
}
