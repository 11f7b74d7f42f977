//! `pull`.

use engine::{Progress, PullOptions, Quiet};
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
    let quiet = args.on("quiet");
    let options = PullOptions { platform: args.owned("platform"), insecure: args.on("insecure") };
    Ok(Box::new(move |app| {
        let engine = app.engine()?;
        let reference: Reference = said.parse().map_err(name_hint)?;
        let default_tag =
            reference.digest().is_none() && !said.ends_with(&format!(":{}", reference.tag().unwrap_or("")));
        if !quiet {
            if default_tag {
                output::line(&format!("Using default tag: {}", reference.tag().unwrap_or("latest")))?;
            }
            let what =
                reference.digest().map_or_else(|| reference.tag().unwrap_or("latest").to_owned(), ToString::to_string);
            output::line(&format!("{what}: Pulling from {}", reference.path()))?;
        }
        let shown = Shown::new(Lines::Stdout, None);
        let progress: &dyn Progress = if quiet { &Quiet } else { &shown };
        let image = engine.pull(&said, &options, progress)?;
        let whole = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => format!("{}@{digest}", reference.name()),
            (None, tag) => format!("{}:{}", reference.name(), tag.unwrap_or("latest")),
        };
        if !quiet {
            let familiar = reference.familiar();
            let status = if image.changed { "Downloaded newer image" } else { "Image is up to date" };
            output::print(&format!("Digest: {}\nStatus: {status} for {familiar}\n", image.digest))?;
        }
        output::line(&whole)?;
        Ok(0)
    }))
}

/// The failure for a name that is none.
#[expect(clippy::needless_pass_by_value, reason = "it stands where map_err wants it")]
pub(super) fn name_hint(error: oci::reference::InvalidReference) -> Failure {
    Failure::usage_hint(error.to_string(), "names look like busybox, busybox:1.36 or registry.example/team/app")
}
