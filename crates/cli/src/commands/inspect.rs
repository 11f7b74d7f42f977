//! `inspect`, `container inspect`, `image inspect`.

use engine::{Engine, ErrorKind};
use serde::Serialize;
use serde_json::Value;

use crate::failure::{Class, Failure, Outcome};
use crate::flags::{Args, Job, bad_value};
use crate::format::template::Template;
use crate::inspect::container::Container;
use crate::inspect::image::Image;
use crate::output;

/// What to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Any,
    Container,
    Image,
    Volume,
}

/// One object found.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Object {
    Container(Box<Container>),
    Image(Box<Image>),
    Volume(Value),
}

/// Reads `inspect`'s flags.
///
/// # Errors
/// What does not fit.
pub(crate) fn parse(args: &Args) -> Outcome<Job> {
    let kind = match args.one("type") {
        None | Some("") => Kind::Any,
        Some("container") => Kind::Container,
        Some("image") => Kind::Image,
        Some("volume") => Kind::Volume,
        Some(other) => return Err(bad_value("type", other, &"only container, image and volume are available yet")),
    };
    read(args, kind, args.on("size"))
}

/// Reads `container inspect`'s flags.
///
/// # Errors
/// What does not fit.
pub(crate) fn parse_container(args: &Args) -> Outcome<Job> {
    read(args, Kind::Container, args.on("size"))
}

/// Reads `image inspect`'s flags.
///
/// # Errors
/// What does not fit.
pub(crate) fn parse_image(args: &Args) -> Outcome<Job> {
    read(args, Kind::Image, false)
}

fn read(args: &Args, kind: Kind, size: bool) -> Outcome<Job> {
    let names = args.word_list();
    let template = match args.one("format") {
        None | Some("") => None,
        Some("json") => Some(None),
        Some(text) => {
            let parsed = Template::parse(text);
            Some(Some(parsed.map_err(|error| Failure::usage(format!("--format: {error}")))?))
        }
    };
    Ok(Box::new(move |app| {
        let engine = app.engine()?;
        let mut found = Vec::new();
        let mut failures = Vec::new();
        for name in &names {
            match find(&engine, name, kind, size) {
                Ok(object) => found.push(object),
                Err(failure) => failures.push(failure),
            }
        }
        let printed = print(&found, template.as_ref());
        for failure in &failures {
            failure.report();
        }
        printed?;
        Ok(failures.iter().map(|failure| failure.code(Class::Plain)).max().unwrap_or(0))
    }))
}

fn find(engine: &Engine, name: &str, kind: Kind, size: bool) -> Outcome<Object> {
    let volume = || Ok(Object::Volume(super::volume::shown(&engine.inspect_volume(name)?)));
    if kind == Kind::Volume {
        return volume();
    }
    if kind != Kind::Image {
        match engine.lookup(name) {
            Ok(id) => return Ok(Object::Container(Box::new(Container::from(&engine.inspect(&id, size)?)))),
            Err(error) if kind == Kind::Any && error.kind() == ErrorKind::NoSuchContainer => {}
            Err(error) => return Err(error.into()),
        }
    }
    match engine.inspect_image(name) {
        Ok(details) => Ok(Object::Image(Box::new(Image::from(&details)))),
        Err(error) if kind == Kind::Any && matches!(error.kind(), ErrorKind::NoSuchImage | ErrorKind::Invalid) => {
            match engine.inspect_volume(name) {
                Err(error) if error.kind() == ErrorKind::NoSuchVolume => {}
                found => return Ok(Object::Volume(super::volume::shown(&found?))),
            }
            let missing = engine::Error::new(ErrorKind::NoSuchContainer, format!("no such object: {name}"));
            Err(missing.hint("lighter ps -a and lighter images list what there is").into())
        }
        Err(error) => Err(error.into()),
    }
}

/// An array, or a line per object: JSON, or what a template makes of it.
fn print(found: &[Object], template: Option<&Option<Template>>) -> Outcome<()> {
    let failed = |error: serde_json::Error| Failure::io("cannot write JSON", std::io::Error::other(error));
    let Some(template) = template else {
        return output::print(&indented(found).map_err(failed)?);
    };
    for object in found {
        let line = match template {
            None => serde_json::to_string(object).map_err(failed)?,
            Some(template) => {
                let value: Value = serde_json::to_value(object).map_err(failed)?;
                template.render(&value).map_err(|error| {
                    Failure::usage_hint(format!("--format: {error}"), "leave out --format to see every field")
                })?
            }
        };
        output::line(&line)?;
    }
    Ok(())
}

/// Docker's indentation: four blanks.
pub(crate) fn indented<T: Serialize>(value: &[T]) -> serde_json::Result<String> {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter))?;
    bytes.push(b'\n');
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::testing;

    #[test]
    fn nothing_found_is_an_empty_array() {
        assert_eq!(indented::<u8>(&[]).expect("serialises"), "[]\n");
        assert_eq!(indented(&[1, 2]).expect("serialises"), "[\n    1,\n    2\n]\n");
    }

    #[test]
    fn templates_see_dockers_fields() {
        let details = crate::inspect::container::tests::details();
        let value = serde_json::to_value(Object::Container(Box::new(Container::from(&details)))).expect("serialises");
        for (template, expected) in [
            ("{{.State.ExitCode}} {{.Name}}", "137 /web"),
            ("{{json .Config.Labels}}", "{\"a\":\"b\"}"),
            ("{{range .Mounts}}{{.Source}}:{{.Destination}}{{end}}", "/a:/b:/data:/w"),
            ("{{index .Config.Labels \"a\"}}", "b"),
            ("{{if .State.OOMKilled}}oom{{end}}", "oom"),
        ] {
            assert_eq!(Template::parse(template).expect("parses").render(&value).expect(template), expected);
        }
    }

    #[test]
    fn types_are_checked() {
        assert!(parse(&testing::args("inspect", &["--type", "network", "x"])).is_err());
        assert!(parse(&testing::args("inspect", &["--type", "volume", "x"])).is_ok());
        assert!(parse(&testing::args("inspect", &["-f", "{{", "x"])).is_err());
        assert!(parse(&testing::args("inspect", &["-sf", "{{.Id}}", "--type=image", "x"])).is_ok());
    }
}
