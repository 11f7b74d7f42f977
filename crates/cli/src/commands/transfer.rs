//! `load` and `import`.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::path::Path;

use engine::{ImportOptions, Progress, Quiet};

use crate::failure::{Failure, Outcome};
use crate::flags::{Args, Job};
use crate::format::escape;
use crate::output;
use crate::ui::progress::{Lines, Shown};

/// Reads `load`'s flags.
///
/// # Errors
/// What does not fit.
pub(crate) fn parse_load(args: &Args) -> Outcome<Job> {
    let input = args.owned("input");
    let platform = args.owned("platform");
    let quiet = args.on("quiet");
    Ok(Box::new(move |app| {
        let engine = app.engine()?;
        let shown = Shown::new(Lines::Stdout, None);
        // As docker: bars on a terminal, and otherwise only what was loaded.
        let progress: &dyn Progress = if quiet || !output::draws() { &Quiet } else { &shown };
        let layout = input.as_deref().map(Path::new).filter(|path| path.is_dir());
        let images = match layout {
            Some(layout) => engine.load_layout(layout, platform.as_deref(), progress)?,
            None => {
                let mut reader = open(input.as_deref(), "lighter load -i FILE, or lighter load < FILE")?;
                engine.load(&mut reader, platform.as_deref(), progress)?
            }
        };
        shown.close();
        for image in images {
            let said = match image.reference {
                Some(reference) => format!("Loaded image: {}", escape::line(&reference)),
                None => format!("Loaded image ID: {}", image.id),
            };
            output::line(&said)?;
        }
        Ok(0)
    }))
}

/// Reads `import`'s flags.
///
/// # Errors
/// What does not fit.
pub(crate) fn parse_import(args: &Args) -> Outcome<Job> {
    let source = args.word(0).to_owned();
    let options = ImportOptions {
        changes: args.list("change"),
        message: args.owned("message"),
        platform: args.owned("platform"),
        reference: args.words().nth(1).map(str::to_owned),
    };
    if source.starts_with("http://") || source.starts_with("https://") {
        let hint = "fetch the file first, then: lighter import FILE";
        return Err(Failure::usage_hint("importing from a URL is not available yet", hint));
    }
    Ok(Box::new(move |app| {
        let engine = app.engine()?;
        let path = Some(source.as_str()).filter(|source| *source != "-");
        let mut reader = open(path, "lighter import FILE, or lighter import - < FILE")?;
        let image = engine.import(&mut reader, &options, &Quiet)?;
        output::line(&image.id.to_string())?;
        Ok(0)
    }))
}

/// The file, or standard input unless a person sits there.
fn open(path: Option<&str>, hint: &str) -> Outcome<Box<dyn Read>> {
    match path {
        Some(path) => {
            let file = File::open(path).map_err(|error| Failure::io(format!("cannot open {path:?}"), error))?;
            Ok(Box::new(file))
        }
        None if io::stdin().is_terminal() => {
            Err(Failure::usage_hint("standard input is a terminal, not an archive", hint))
        }
        None => Ok(Box::new(io::stdin().lock())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::testing;

    #[test]
    fn sources_are_files_or_standard_input() {
        assert!(open(Some("/does/not/exist"), "").is_err());
        assert!(open(Some("/proc/self/exe"), "").is_ok());
        assert!(parse_import(&testing::args("import", &["https://example.org/x.tar"])).is_err());
        assert!(parse_import(&testing::args("import", &["-", "name:tag"])).is_ok());
    }
}
