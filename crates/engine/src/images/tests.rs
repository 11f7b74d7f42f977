use std::io::{Cursor, Read};

use image::Quiet;

use super::*;
use crate::testing::Scratch;

/// A tar of files with their content.
pub(crate) fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, content) in files {
        bytes.extend(crate::hello::header(name, b'0', content.len() as u64).expect("small"));
        bytes.extend_from_slice(content.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

pub(crate) fn import(engine: &Engine, name: Option<&str>, content: &str) -> ImageSummary {
    let options = ImportOptions {
        reference: name.map(str::to_owned),
        changes: vec!["CMD [\"/true\"]".to_owned(), "LABEL tier=web".to_owned()],
        ..ImportOptions::default()
    };
    engine.import(Cursor::new(tar(&[("true", content)])), &options, &Quiet).expect("imported")
}

#[test]
fn an_image_comes_in_and_goes_with_everything_it_brought() {
    let scratch = Scratch::new("images");
    let engine = scratch.engine();
    assert!(engine.images(&ImageFilter::default()).expect("listed").is_empty());
    let summary = import(&engine, Some("box"), "one");
    assert_eq!(summary.reference.as_deref(), Some("box:latest"));
    engine.tag("box", "other:2").expect("tagged");
    let listed = engine.images(&ImageFilter::default()).expect("listed");
    assert_eq!(listed.len(), 2);
    assert!(listed.iter().all(|image| image.id == summary.id && image.size > 0));
    let one = ImageFilter { reference: vec!["oth*".into()], ..ImageFilter::default() };
    assert_eq!(engine.images(&one).expect("listed").len(), 1);
    let labelled = ImageFilter { label: vec!["tier=db".into()], ..ImageFilter::default() };
    assert!(engine.images(&labelled).expect("listed").is_empty());
    let until = |text: &str| ImageFilter { until: text.parse().ok(), ..ImageFilter::default() };
    assert!(engine.images(&until("2020-01-01T00:00:00Z")).expect("listed").is_empty());
    assert_eq!(engine.images(&until("2120-01-01T00:00:00Z")).expect("listed").len(), 2);
    let details = engine.inspect_image("other:2").expect("inspected");
    assert_eq!(details.config.config.cmd.as_deref(), Some(&["/true".to_owned()][..]));
    assert_eq!(details.repo_tags.len(), 2);

    assert_eq!(engine.remove_image("other:2", false, false).expect("removed"), [Removed::Untagged("other:2".into())]);
    assert_eq!(engine.layers().expect("opened").list().expect("listed").len(), 1);
    let removed = engine.remove_image("box", false, false).expect("removed");
    assert_eq!(removed[0], Removed::Untagged("box:latest".into()));
    assert!(matches!(&removed[1], Removed::Deleted(id) if *id == summary.id.to_string()));
    assert!(engine.layers().expect("opened").list().expect("listed").is_empty());
    assert!(engine.content_store().expect("opened").list().expect("listed").is_empty());
    assert_eq!(engine.remove_image("box", false, false).expect_err("gone").kind(), ErrorKind::NoSuchImage);
}

#[test]
fn a_broken_archive_leaves_nothing() {
    let scratch = Scratch::new("broken");
    let engine = scratch.engine();
    let whole = tar(&[("true", "content that is longer than what will be left of it")]);
    for bytes in [b"no archive at all".to_vec(), whole[..600].to_vec(), Vec::new()] {
        let error = engine.load(Cursor::new(bytes.clone()), None, &Quiet).expect_err("broken");
        assert_eq!(error.kind(), ErrorKind::BadImage, "{error}");
    }
    let error = engine.import(Cursor::new(&whole[..600]), &ImportOptions::default(), &Quiet).expect_err("truncated");
    assert_eq!(error.kind(), ErrorKind::BadImage, "{error}");
    let evil = tar(&[("../../escape", "x")]);
    assert!(engine.import(Cursor::new(evil), &ImportOptions::default(), &Quiet).is_err());
    assert!(engine.images(&ImageFilter::default()).expect("listed").is_empty());
    engine.collect().expect("collected");
    assert!(engine.layers().expect("opened").list().expect("listed").is_empty());
    assert!(engine.content_store().expect("opened").list().expect("listed").is_empty());
}

#[test]
fn what_is_being_made_is_not_collected() {
    let scratch = Scratch::new("leases");
    let engine = scratch.engine();
    import(&engine, Some("box"), "one");
    let lease = engine.lease().expect("leased");
    engine.remove_image("box", false, false).expect("removed");
    assert_eq!(engine.layers().expect("opened").list().expect("listed").len(), 1, "somebody may be building on it");
    drop(lease);
    engine.collect().expect("collected");
    assert!(engine.layers().expect("opened").list().expect("listed").is_empty());
}

#[test]
fn layers_are_committed_from_the_base_upwards_whatever_order_they_come_in() {
    // A docker archive whose upper layer is the larger one, so that it is unpacked first.
    let scratch = Scratch::new("order");
    let engine = scratch.engine();
    let base = tar(&[("dir/base", "below")]);
    let top = tar(&[("dir/top", &"x".repeat(100_000))]);
    let diff = |bytes: &[u8]| Digest::sha256_of(bytes).to_string();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Cmd":["/x"]}},"rootfs":{{"type":"layers","diff_ids":["{}","{}"]}}}}"#,
        diff(&base),
        diff(&top)
    );
    let manifest = r#"[{"Config":"config.json","RepoTags":["two:1"],"Layers":["a.tar","b.tar"]}]"#;
    let mut archive = Vec::new();
    let members: [(&str, &[u8]); 4] =
        [("manifest.json", manifest.as_bytes()), ("config.json", config.as_bytes()), ("a.tar", &base), ("b.tar", &top)];
    for (name, content) in members {
        archive.extend(crate::hello::header(name, b'0', content.len() as u64).expect("small"));
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    let loaded = engine.load(Cursor::new(archive).take(u64::MAX), None, &Quiet).expect("loaded");
    assert_eq!(loaded[0].reference.as_deref(), Some("two:1"));
    let record = engine.image_store().expect("opened").resolve("two:1").expect("there");
    let chain: Vec<Digest> = record.chain().cloned().collect();
    assert_eq!(chain.len(), 2);
    for layer in &chain {
        assert!(engine.layers().expect("opened").contains(layer).expect("looked"));
    }
}

#[test]
fn what_a_broken_image_brought_is_thrown_away_at_once() {
    let scratch = Scratch::new("thrown");
    let engine = scratch.engine();
    import(&engine, Some("box"), "one");
    let before = engine.content_store().expect("opened").list().expect("listed").len();
    let mut evil = tar(&[("file", "good"), ("../../escape", "x")]);
    evil.truncate(evil.len() - 1024);
    engine.import(Cursor::new(evil), &ImportOptions::default(), &Quiet).expect_err("refused");
    assert_eq!(engine.content_store().expect("opened").list().expect("listed").len(), before);
    assert_eq!(std::fs::read_dir(engine.paths.root.join("trash")).expect("listed").count(), 0);
}
