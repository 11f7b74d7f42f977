//! What the fuzz targets share: all of them by name, and the grammar of references.

use std::sync::LazyLock;

use regex::Regex;

/// `reference.go`, "Grammar", of github.com/distribution/reference 0.6: domain, path, tag, digest.
static GRAMMAR: LazyLock<Regex> = LazyLock::new(|| {
    let label = "(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])";
    let domain = format!(r"(?:{label}(?:\.{label})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?");
    let component = "[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*";
    let tag = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}";
    // The algorithms that the image specification registers and docker implements.
    let digest = "sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128}";
    let whole = format!(r"\A({domain})/({component}(?:/{component})*)(?::({tag}))?(?:@({digest}))?\z");
    Regex::new(&whole).expect("a grammar")
});

/// The domain that is meant, and what follows it.
fn split(text: &str) -> (&str, String) {
    let (domain, rest) = match text.split_once('/') {
        Some((first, rest)) if first == "localhost" || first.contains(['.', ':']) || first.to_lowercase() != first => {
            (if first == "index.docker.io" { "docker.io" } else { first }, rest.to_owned())
        }
        _ => ("docker.io", text.to_owned()),
    };
    if domain == "docker.io" && !rest.contains('/') { (domain, format!("library/{rest}")) } else { (domain, rest) }
}

/// Domain, path, tag and digest.
type Parts = (String, String, Option<String>, Option<String>);

fn by_grammar(text: &str) -> Option<Parts> {
    if text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let (domain, rest) = split(text);
    let whole = format!("{domain}/{rest}");
    let found = GRAMMAR.captures(&whole)?;
    let part = |index| found.get(index).map(|part: regex::Match<'_>| part.as_str().to_owned());
    let (domain, path) = (part(1)?, part(2)?);
    (path.len() <= 255).then(|| (domain, path, part(3), part(4)))
}

/// References, and the grammar: what the distribution project's normalised references accept.
///
/// # Panics
/// When we disagree.
pub fn reference(bytes: &[u8]) {
    oci::fuzzing::reference(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let ours = text.parse::<oci::Reference>().ok().map(|reference| {
        let digest = reference.digest().map(ToString::to_string);
        (reference.domain().to_owned(), reference.path().to_owned(), reference.tag().map(str::to_owned), digest)
    });
    let mut theirs = by_grammar(text);
    if let Some((_, _, tag @ None, None)) = &mut theirs {
        *tag = Some("latest".to_owned());
    }
    assert_eq!(ours, theirs, "{text:?}");
}

/// The target `name`.
#[must_use]
pub fn find(name: &str) -> Option<oci::fuzzing::Target> {
    let all = [
        &oci::fuzzing::TARGETS[..],
        &runtime::fuzzing::TARGETS,
        &storage::fuzzing::TARGETS,
        &image::fuzzing::TARGETS,
        &container::fuzzing::TARGETS,
        &cli::fuzzing::TARGETS,
    ];
    let found = all.into_iter().flatten().find(|(known, _)| *known == name)?;
    Some(if name == "reference" { reference } else { found.1 })
}
