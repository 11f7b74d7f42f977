//! Manifest lists that are put together here, and searches of registries.

use serde_json::{Value, json};
use testkit::http::{Response, Server};
use testkit::image::Packing;
use testkit::process::tool;
use testkit::{Host, Image, Registry};

fn raw(reference: &str) -> Value {
    let text = tool("skopeo", &["inspect", "--raw", "--tls-verify=false", &format!("docker://{reference}")]);
    serde_json::from_str(&text).expect("JSON")
}

/// A registry with one image for two platforms under names of their own.
fn two_platforms() -> Registry {
    let registry = Registry::start();
    registry.push_layout(&Image::busybox("x").oci_layout(Packing::Gzip), "amd:1");
    let arm = Image::busybox("x").platform("arm64", Some("v8")).file("p", 0o644, b"arm");
    registry.push_layout(&arm.oci_layout(Packing::Gzip), "arm:1");
    registry
}

#[test]
fn a_list_of_two_platforms_is_pulled_by_each() {
    let host = Host::new();
    let registry = two_platforms();
    let (amd, arm) = (registry.reference("amd:1"), registry.reference("arm:1"));
    let list = registry.reference("both:1");
    let made = host.lighter(&["manifest", "create", &list, &amd]).ok().out();
    assert_eq!(made, format!("Created manifest list {list}"));
    host.lighter(&["manifest", "create", &list, &arm]).refused(1, "--amend");
    host.lighter(&["manifest", "create", "--amend", &list, &arm]).ok();
    host.lighter(&["manifest", "annotate", "--os-version", "6.1", "--os-features", "a,b", &list, &arm]).ok();
    let local = host.lighter(&["manifest", "inspect", &list]).json();
    assert_eq!(local["manifests"][0]["platform"], json!({"architecture": "amd64", "os": "linux"}));
    let said = json!({"architecture": "arm64", "os": "linux", "os.version": "6.1", "os.features": ["a", "b"],
        "variant": "v8"});
    assert_eq!(local["manifests"][1]["platform"], said);

    let pushed = host.lighter(&["manifest", "push", &list]).ok().out();
    let lines: Vec<&str> = pushed.lines().collect();
    assert!(lines[0].starts_with(&format!("Pushed ref {}@sha256:", registry.reference("both"))), "{pushed}");
    assert_eq!((lines.len(), lines[2].starts_with("sha256:")), (3, true), "{pushed}");
    assert_eq!(raw(&list), local, "what inspect shows is what is pushed");
    let digest =
        tool("skopeo", &["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &format!("docker://{list}")]);
    assert_eq!(digest.trim(), lines[2]);
    host.lighter(&["pull", "-q", &list]).ok();
    host.lighter(&["run", "--rm", &list, "true"]).ok();
    host.lighter(&["pull", "-q", "--platform", "linux/arm64", &list]).ok();
    assert_eq!(host.inspect(&list)["Architecture"], "arm64");

    host.lighter(&["manifest", "push", "--purge", &list]).ok();
    host.lighter(&["manifest", "rm", &list]).refused(1, "No such manifest");
    let remote = host.lighter(&["manifest", "inspect", &list]).json();
    assert_eq!(remote, local, "after the purge the registry is asked");
    let verbose = host.lighter(&["manifest", "inspect", "-v", &list]).json();
    assert_eq!(verbose.as_array().map(Vec::len), Some(2));
    assert_eq!(verbose[1]["Descriptor"]["platform"]["variant"], "v8");
    assert_eq!(verbose[1]["OCIManifest"]["schemaVersion"], 2);
}

#[test]
fn manifests_come_over_from_another_registry() {
    let host = Host::new();
    let (registry, other) = (two_platforms(), Registry::start());
    let list = other.reference("team/both:1");
    let args = ["manifest", "create", &list, &registry.reference("amd:1"), &registry.reference("arm:1")];
    host.lighter(&args).ok();
    host.lighter(&["manifest", "push", &list]).ok();
    drop(registry);
    host.lighter(&["pull", "-q", &list]).ok();
    host.lighter(&["run", "--rm", &list, "true"]).ok();
    assert_eq!(raw(&list)["manifests"].as_array().map(Vec::len), Some(2));
    host.lighter(&["rmi", "-f", &list]).ok();
    host.lighter(&["store", "check"]).ok();
}

#[test]
fn mistakes_with_manifests_are_explained() {
    let host = Host::new();
    let registry = two_platforms();
    let (amd, arm, list) = (registry.reference("amd:1"), registry.reference("arm:1"), registry.reference("both:1"));
    host.lighter(&["manifest", "inspect", &registry.reference("none:1")]).refused(1, "no such manifest");
    host.lighter(&["manifest", "create", &list, &registry.reference("none:1")]).refused(1, "no such manifest");
    host.lighter(&["manifest", "push", &list]).refused(1, "No such manifest");
    host.lighter(&["manifest", "annotate", &list, &amd, "--arch", "arm64"]).refused(1, "does not exist in");
    host.lighter(&["manifest", "create", &list, &amd]).ok();
    host.lighter(&["manifest", "annotate", "--arch", "abacus", &list, &amd]).refused(1, "linux/abacus");
    host.lighter(&["manifest", "annotate", "--arch", "arm64", &list, &arm]).refused(1, "does not exist in");
    host.lighter(&["manifest", "inspect", &list, &arm]).refused(1, "No such manifest");
    let one = host.lighter(&["manifest", "inspect", &list, &amd]).json();
    assert_eq!(one, raw(&amd));
    host.lighter(&["manifest", "push", &list]).ok();
    host.lighter(&["manifest", "rm", &list, &registry.reference("zork:1")]).refused(1, "zork:1");
    host.lighter(&["manifest", "create", &registry.reference("more:1"), &list]).refused(1, "is a manifest list");
    host.lighter(&["manifest", "create", &list]).refused(1, "at least 2 arguments");
}

#[test]
fn a_search_asks_the_index_or_reads_the_catalog() {
    let host = Host::new();
    let found = json!({"results": [
        {"name": "busybox", "description": format!("Busybox base image.\n{}", "x".repeat(60)), "star_count": 3000,
            "is_official": true, "is_automated": false},
        {"name": "team/busybox", "description": null, "star_count": 2, "is_official": false},
    ]});
    let body = found.to_string();
    let server = Server::start(move |request| match request.path.starts_with("/v1/search?") {
        true => Response::ok("application/json", body.as_bytes()),
        false => Response::status(404),
    });
    let term = format!("{}/busy box", server.address());
    let text = host.lighter(&["search", &term]).ok().out();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), ["NAME", "DESCRIPTION", "STARS", "OFFICIAL"]);
    assert!(lines[1].contains("xxx…") && lines[1].ends_with("3000      [OK]"), "{text}");
    assert!(server.seen().iter().any(|request| request.path == "/v1/search?q=busy%20box&n=25"));
    let names = |more: &[&str]| {
        let args = [&["search", "--format", "{{.Name}}"], more, &[&term]].concat();
        host.lighter(&args).ok().out()
    };
    assert_eq!(names(&["--filter", "is-official=true"]), "busybox");
    assert_eq!(names(&["--filter", "stars=1", "--filter", "is-official=false"]), "team/busybox");
    assert_eq!(names(&["--limit", "1"]), "busybox");
    assert!(host.lighter(&["search", "--no-trunc", &term]).ok().out().contains(&"x".repeat(60)));
    host.lighter(&["search", "--limit", "101", &term]).refused(1, "[1, 100]");
    host.lighter(&["search", "--filter", "bogus=1", &term]).refused(1, "bogus");

    let registry = two_platforms();
    let term = registry.reference("ar");
    assert_eq!(host.lighter(&["search", "--format", "{{.Name}}", &term]).ok().out(), registry.reference("arm"));
    assert_eq!(host.lighter(&["search", &registry.reference("zork")]).ok().out().lines().count(), 1);
    drop(server);
    host.lighter(&["search", "127.0.0.1:1/x"]).refused(1, "cannot be reached");
}
