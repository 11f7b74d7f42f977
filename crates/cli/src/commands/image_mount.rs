//! `image mount`, `image unmount`.

use engine::MountedImage;
use serde_json::{Value, json};

use super::for_each;
use crate::failure::{Failure, Outcome};
use crate::flags::{Args, Job};
use crate::output;

/// Reads `image mount`'s flags.
///
/// # Errors
/// Flags that exclude each other.
pub(crate) fn parse_mount(args: &Args) -> Outcome<Job> {
    let words = args.word_list();
    let all = args.on("all");
    if all && !words.is_empty() {
        return Err(Failure::usage("when using the --all switch, you may not pass any image names or IDs"));
    }
    let as_json = match args.one("format") {
        None | Some("") => false,
        Some("json") => true,
        Some(other) => return Err(Failure::usage(format!("unknown --format argument: {other:?}"))),
    };
    Ok(Box::new(move |app| {
        let engine = app.engine()?;
        let mut mounted: Vec<MountedImage> = Vec::new();
        let mut code = 0;
        if all {
            let mut seen = std::collections::BTreeSet::new();
            let images = engine.images(&engine::ImageFilter::default())?;
            for image in images.into_iter().filter(|image| seen.insert(image.id.to_string())) {
                mounted.push(engine.mount_image(&image.id.to_string())?);
            }
        } else if words.is_empty() {
            mounted = engine.mounted_images()?;
        } else {
            code = for_each(&words, |word| {
                mounted.push(engine.mount_image(word)?);
                Ok(())
            })?;
        }
        let alone = words.len() == 1 && !as_json;
        output::print(&match &mounted[..] {
            [one] if alone => format!("{}\n", one.path.display()),
            list if as_json => super::inspect::indented(&list.iter().map(shown).collect::<Vec<_>>())
                .map_err(|error| Failure::io("cannot write JSON", std::io::Error::other(error)))?,
            list => list.iter().map(line).collect(),
        })?;
        Ok(code)
    }))
}

fn line(image: &MountedImage) -> String {
    let name = image.names.first().map_or_else(|| image.id.short().to_owned(), Clone::clone);
    format!("{name} {}\n", image.path.display())
}

fn shown(image: &MountedImage) -> Value {
    json!({ "id": image.id.hex(), "Repositories": image.names, "mountpoint": image.path.display().to_string() })
}

/// Reads `image unmount`'s flags.
///
/// # Errors
/// Neither an image nor `--all`, or both.
pub(crate) fn parse_unmount(args: &Args) -> Outcome<Job> {
    let words = args.word_list();
    let (all, force) = (args.on("all"), args.on("force"));
    match (all, words.is_empty()) {
        (true, false) => {
            return Err(Failure::usage("when using the --all switch, you may not pass any image names or IDs"));
        }
        (false, true) => return Err(Failure::usage("image name or ID must be specified")),
        _ => {}
    }
    Ok(Box::new(move |app| {
        let engine = app.engine()?;
        let words = match all {
            true => engine.mounted_images()?.iter().map(|image| image.id.to_string()).collect(),
            false => words,
        };
        for_each(&words, |word| output::line(engine.unmount_image(word, force)?.hex()))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::testing;

    #[test]
    fn mounts_read_as_podmans() {
        let id = oci::Digest::sha256_of(b"x");
        let image = MountedImage { id: id.clone(), names: vec!["box:1".into()], path: "/run/x/root".into() };
        assert_eq!(line(&image), "box:1 /run/x/root\n");
        assert_eq!(line(&MountedImage { names: Vec::new(), ..image.clone() }), format!("{} /run/x/root\n", id.short()));
        assert_eq!(shown(&image), json!({"id": id.hex(), "Repositories": ["box:1"], "mountpoint": "/run/x/root"}));
        assert!(parse_mount(&testing::args("image mount", &["-a", "x"])).is_err());
        assert!(parse_mount(&testing::args("image mount", &["--format", "table"])).is_err());
        assert!(parse_unmount(&testing::args("image unmount", &[])).is_err());
        assert!(parse_unmount(&testing::args("image unmount", &["-af"])).is_ok());
    }
}
