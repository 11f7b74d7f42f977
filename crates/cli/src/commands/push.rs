//! `push`.

use engine::{Progress, PushOptions, Quiet};
use oci::reference::Reference;

use super::pull::{name_hint, signatures_unchecked};
use crate::failure::Outcome;
use crate::flags::{Args, Job};
use crate::output;
use crate::ui::progress::{Lines, Shown};

/// Reads `push`'s flags.
///
/// # Errors
/// What does not fit.
pub(crate) fn parse(args: &Args) -> Outcome<Job> {
    let said = args.word(0).to_owned();
    let (quiet, all_tags) = (args.on("quiet"), args.on("all-tags"));
    signatures_unchecked(args)?;
    let options = PushOptions { platform: args.owned("platform"), insecure: args.on("insecure") };
    Ok(Box::new(move |app| {
        let engine = app.engine()?;
        let reference: Reference = said.parse().map_err(name_hint)?;
        let tag = reference.tag().unwrap_or_default();
        let default_tag = !all_tags && reference.digest().is_none() && !said.ends_with(&format!(":{tag}"));
        if default_tag && !quiet {
            output::line(&format!("Using default tag: {tag}"))?;
        }
        let references = engine.push_references(&said, all_tags)?;
        if !quiet {
            output::line(&format!("The push refers to repository [{}]", reference.name()))?;
        }
        for reference in &references {
            let shown = Shown::new(Lines::Stdout, None);
            let progress: &dyn Progress = if quiet { &Quiet } else { &shown };
            let pushed = engine.push(reference, &options, progress)?;
            shown.close();
            if quiet {
                continue;
            }
            let tag = reference.tag().unwrap_or_default();
            output::line(&format!("{tag}: digest: {} size: {}", pushed.digest, pushed.size))?;
            if let Some(index) = &pushed.left_out {
                output::warning(&format!(
                    "Note: not everything that the index names is here, so only this platform's image was pushed: \
                     {index} -> {}",
                    pushed.digest
                ));
            }
        }
        if quiet {
            let whole = if all_tags { reference.name() } else { reference.to_string() };
            output::line(&whole)?;
        }
        Ok(0)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure;
    use crate::verbs::testing;

    #[test]
    fn flags_fit() {
        assert!(parse(&testing::args("push", &["-q", "-a", "localhost:5000/x"])).is_ok());
        assert!(parse(&testing::args("push", &["--disable-content-trust", "x"])).is_ok());
        assert!(parse(&testing::args("push", &["--disable-content-trust=false", "x"])).is_err());
        let bad: Result<Reference, Failure> = "team/UPPER".parse().map_err(name_hint);
        assert!(bad.expect_err("refused").render(false).contains("Hint: names look like"));
    }
}
