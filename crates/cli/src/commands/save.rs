//! `save`.

use engine::{Progress, Quiet};

use super::archive_file;
use crate::failure::Outcome;
use crate::flags::{Args, Job};
use crate::output;
use crate::ui::progress::{Lines, Shown};

/// Reads `save`'s flags.
///
/// # Errors
/// None.
pub(crate) fn parse(args: &Args) -> Outcome<Job> {
    let names = args.word_list();
    let platforms = Some(args.list("platform").join(",")).filter(|list| !list.is_empty());
    let target = args.owned("output").filter(|path| !path.is_empty());
    Ok(Box::new(move |app| {
        archive_file::write(target.as_deref(), "lighter save -o FILE, or redirect standard output", |out| {
            let engine = app.engine()?;
            let shown = Shown::new(Lines::Stderr, None);
            let progress: &dyn Progress = if output::draws() { &shown } else { &Quiet };
            engine.save(&names, platforms.as_deref(), out, progress)?;
            shown.close();
            Ok(())
        })?;
        Ok(0)
    }))
}
