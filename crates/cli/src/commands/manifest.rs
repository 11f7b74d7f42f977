//! `manifest inspect`, `create`, `annotate`, `push`, `rm`.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use engine::{ManifestAnnotation, ManifestDetails, ManifestFound};
use oci::Platform;
use oci::image::media_type;
use serde_json::{Value, json};

use super::for_each;
use crate::failure::Outcome;
use crate::flags::{Args, Job};
use crate::format::indent;
use crate::output;

/// Reads `manifest inspect`'s flags.
///
/// # Errors
/// None.
pub(crate) fn parse_inspect(args: &Args) -> Outcome<Job> {
    let words = args.word_list();
    let (insecure, verbose) = (args.on("insecure"), args.on("verbose"));
    Ok(Box::new(move |app| {
        let (list, name) = match &words[..] {
            [list, name] => (Some(list.as_str()), name.as_str()),
            [name, ..] => (None, name.as_str()),
            [] => (None, ""),
        };
        let found = app.engine()?.inspect_manifest(list, name, insecure, verbose)?;
        output::line(&shown(&found, verbose))?;
        Ok(0)
    }))
}

fn shown(found: &ManifestFound, verbose: bool) -> String {
    match found {
        ManifestFound::Manifest(manifest) if verbose => indent::json(&whole(manifest), "\t"),
        ManifestFound::Manifest(manifest) => indent::json(&String::from_utf8_lossy(&manifest.bytes), "\t"),
        ManifestFound::List { manifests, .. } if verbose => {
            let all = manifests.iter().map(whole).collect::<Vec<_>>().join(",");
            indent::json(&format!("[{all}]"), "\t")
        }
        ManifestFound::List { document, .. } => String::from_utf8_lossy(document).into_owned(),
    }
}

/// Everything about a manifest, in docker's order of fields.
fn whole(manifest: &ManifestDetails) -> String {
    let descriptor = &manifest.descriptor;
    let mut text = format!(
        "{{\"Ref\":{},\"Descriptor\":{{\"mediaType\":{},\"digest\":\"{}\",\"size\":{}",
        json!(manifest.reference),
        json!(descriptor.media_type),
        descriptor.digest,
        descriptor.size
    );
    if let Some(platform) = &descriptor.platform {
        text.push_str(&platform_of(platform));
    }
    let kind = if descriptor.media_type == media_type::OCI_MANIFEST { "OCIManifest" } else { "SchemaV2Manifest" };
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "}},\"Raw\":\"{}\",\"{kind}\":{}}}",
        STANDARD.encode(&manifest.bytes),
        String::from_utf8_lossy(&manifest.bytes)
    );
    text
}

fn platform_of(platform: &Platform) -> String {
    let mut text =
        format!(",\"platform\":{{\"architecture\":{},\"os\":{}", json!(platform.architecture), json!(platform.os));
    let said = |text: &String| Some(Value::from(text.as_str())).filter(|_| !text.is_empty());
    let features = Some(json!(platform.os_features)).filter(|_| !platform.os_features.is_empty());
    for (key, value) in
        [("os.version", said(&platform.os_version)), ("os.features", features), ("variant", said(&platform.variant))]
    {
        if let Some(value) = value {
            let _ = write!(text, ",\"{key}\":{value}");
        }
    }
    text.push('}');
    text
}

/// Reads `manifest create`'s flags.
///
/// # Errors
/// None.
pub(crate) fn parse_create(args: &Args) -> Outcome<Job> {
    let words = args.word_list();
    let (amend, insecure) = (args.on("amend"), args.on("insecure"));
    Ok(Box::new(move |app| {
        let Some((list, manifests)) = words.split_first() else { return Ok(0) };
        let name = app.engine()?.create_manifest_list(list, manifests, amend, insecure)?;
        output::line(&format!("Created manifest list {name}"))?;
        Ok(0)
    }))
}

/// Reads `manifest annotate`'s flags.
///
/// # Errors
/// None.
pub(crate) fn parse_annotate(args: &Args) -> Outcome<Job> {
    let (list, name) = (args.word(0).to_owned(), args.word(1).to_owned());
    let features = args.many("os-features").flat_map(|value| value.split(','));
    let said = ManifestAnnotation {
        architecture: args.owned("arch"),
        os: args.owned("os"),
        variant: args.owned("variant"),
        os_version: args.owned("os-version"),
        os_features: features.filter(|feature| !feature.is_empty()).map(str::to_owned).collect(),
    };
    Ok(Box::new(move |app| {
        app.engine()?.annotate_manifest(&list, &name, &said)?;
        Ok(0)
    }))
}

/// Reads `manifest push`'s flags.
///
/// # Errors
/// None.
pub(crate) fn parse_push(args: &Args) -> Outcome<Job> {
    let name = args.word(0).to_owned();
    let (insecure, purge) = (args.on("insecure"), args.on("purge"));
    Ok(Box::new(move |app| {
        let pushed = app.engine()?.push_manifest_list(&name, insecure, purge)?;
        for (reference, digest) in &pushed.adopted {
            output::line(&format!("Pushed ref {reference} with digest: {digest}"))?;
        }
        output::line(&pushed.digest.to_string())?;
        Ok(0)
    }))
}

/// Reads `manifest rm`'s words.
///
/// # Errors
/// None.
pub(crate) fn parse_remove(args: &Args) -> Outcome<Job> {
    let names = args.word_list();
    Ok(Box::new(move |app| {
        let engine = app.engine()?;
        for_each(&names, |name| Ok(engine.remove_manifest_list(name)?))
    }))
}

#[cfg(test)]
mod tests {
    use oci::image::Descriptor;

    use super::*;

    #[test]
    fn manifests_read_as_dockers() {
        let bytes = br#"{"schemaVersion":2,"config":{}}"#.to_vec();
        let platform =
            Platform { os_version: "1.2".into(), variant: "v8".into(), ..Platform::new("linux", "arm64", "") };
        let descriptor = Descriptor { platform: Some(platform), ..Descriptor::of(media_type::DOCKER_MANIFEST, &bytes) };
        let manifest = ManifestDetails { reference: "reg.example/a:1".into(), descriptor, bytes };
        let plain = shown(&ManifestFound::Manifest(Box::new(manifest.clone())), false);
        assert_eq!(plain, "{\n\t\"schemaVersion\": 2,\n\t\"config\": {}\n}");
        let list = ManifestFound::List { document: b"{}".to_vec(), manifests: vec![manifest] };
        assert_eq!(shown(&list, false), "{}");
        let verbose = shown(&list, true);
        let value: Value = serde_json::from_str(&verbose).expect("JSON");
        assert_eq!(value[0]["Descriptor"]["platform"]["os.version"], "1.2");
        assert_eq!(value[0]["SchemaV2Manifest"]["schemaVersion"], 2);
        let order = ["\"Ref\"", "\"Descriptor\"", "\"architecture\"", "\"variant\"", "\"Raw\"", "\"SchemaV2Manifest\""];
        let places: Vec<_> = order.iter().map(|key| verbose.find(key)).collect();
        assert!(places.is_sorted() && places[0].is_some(), "{verbose}");
    }
}
