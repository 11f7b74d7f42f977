//! `pull`.

use engine::{Engine, Progress, PullOptions, Quiet};
use oci::reference::Reference;

use crate::failure::{Failure, Outcome};
use crate::flags::{Args, Job};
use crate::output;
use crate::ui::progress::{Lines, Shown};

/// Reads `pull`'s flags.
///
/// # Errors
/// What does not fit.
pub(crate) fn parse(args: &Args) -> Outcome<Job> {
    let said = args.word(0).to_owned();
    let (quiet, all_tags) = (args.on("quiet"), args.on("all-tags"));
    signatures_unchecked(args)?;
    let options = PullOptions { platform: args.owned("platform"), insecure: args.on("insecure") };
    Ok(Box::new(move |app| {
        let engine = app.engine()?;
        let said = engine.long_name(&said)?;
        let reference: Reference = said.parse().map_err(name_hint)?;
        let says_tag = said.ends_with(&format!(":{}", reference.tag().unwrap_or("")));
        if all_tags {
            if says_tag || reference.digest().is_some() {
                return Err(Failure::usage("tag can't be used with --all-tags/-a"));
            }
            let mut changed = false;
            for tagged in engine.tags_on_registry(&reference, options.insecure)? {
                changed |= one(&engine, &tagged, &options, quiet)?;
            }
            if !quiet {
                output::line(&status(changed, &reference.familiar_name()))?;
            }
            output::line(&reference.name())?;
            return Ok(0);
        }
        if !quiet && reference.digest().is_none() && !says_tag {
            output::line(&format!("Using default tag: {}", reference.tag().unwrap_or("latest")))?;
        }
        let changed = one(&engine, &reference, &options, quiet)?;
        if !quiet {
            output::line(&status(changed, &reference.familiar()))?;
        }
        output::line(&match (reference.digest(), reference.tag()) {
            (Some(digest), _) => format!("{}@{digest}", reference.name()),
            (None, tag) => format!("{}:{}", reference.name(), tag.unwrap_or("latest")),
        })?;
        Ok(0)
    }))
}

/// Docker's flag for its first kind of signatures, which is refused where it would ask for their check.
///
/// # Errors
/// When it was turned off.
pub(super) fn signatures_unchecked(args: &Args) -> Outcome<()> {
    match args.switch("disable-content-trust") {
        Some(false) => Err(Failure::usage("--disable-content-trust=false: signatures cannot be checked")),
        Some(true) | None => Ok(()),
    }
}

fn status(changed: bool, name: &str) -> String {
    format!("Status: {} for {name}", if changed { "Downloaded newer image" } else { "Image is up to date" })
}

/// Pulls one image; says whether that brought anything new.
fn one(engine: &Engine, reference: &Reference, options: &PullOptions, quiet: bool) -> Outcome<bool> {
    if !quiet {
        let what =
            reference.digest().map_or_else(|| reference.tag().unwrap_or("latest").to_owned(), ToString::to_string);
        output::line(&format!("{what}: Pulling from {}", reference.path()))?;
    }
    let shown = Shown::new(Lines::Stdout, None);
    let progress: &dyn Progress = if quiet { &Quiet } else { &shown };
    let image = engine.pull(&reference.to_string(), options, progress)?;
    shown.close();
    if !quiet {
        output::line(&format!("Digest: {}", image.digest))?;
    }
    Ok(image.changed)
}

/// The failure for a name that is none.
#[expect(clippy::needless_pass_by_value, reason = "it stands where map_err wants it")]
pub(super) fn name_hint(error: oci::reference::InvalidReference) -> Failure {
    Failure::usage_hint(error.to_string(), "names look like busybox, busybox:1.36 or registry.example/team/app")
}
