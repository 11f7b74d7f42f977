//! `export`.

use super::archive_file;
use crate::failure::Outcome;
use crate::flags::{Args, Job};

/// Reads `export`'s flags.
///
/// # Errors
/// None.
pub(crate) fn parse(args: &Args) -> Outcome<Job> {
    let name = args.word(0).to_owned();
    let target = args.owned("output").filter(|path| !path.is_empty());
    Ok(Box::new(move |app| {
        archive_file::write(
            target.as_deref(),
            "lighter export -o FILE CONTAINER, or redirect standard output",
            |out| {
                let engine = app.engine()?;
                Ok(engine.export(&engine.lookup(&name)?, out)?)
            },
        )?;
        Ok(0)
    }))
}
