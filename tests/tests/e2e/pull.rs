//! Pulling from registries: Debian's, and one that lies.

use std::time::Duration;

use serde_json::{Value, json};
use testkit::http::{Body, Response, Server};
use testkit::image::{Packing, digest};
use testkit::{Host, Image, Registry};

/// The login file that `docker login` would write.
fn log_in(host: &Host, registry: &str, auth: &str) {
    let dir = host.home().join(".docker");
    std::fs::create_dir_all(&dir).expect("make ~/.docker");
    let config = json!({"auths": {registry: {"auth": auth}}});
    std::fs::write(dir.join("config.json"), config.to_string()).expect("write the login file");
}

#[test]
fn pulls_from_an_open_registry() {
    let host = Host::new();
    let registry = Registry::start();
    registry.push_layout(&Image::busybox("x").oci_layout(Packing::Gzip), "team/busybox:1");
    let name = registry.reference("team/busybox:1");
    host.lighter(&["pull", &name]).ok();
    assert_eq!(host.lighter(&["run", "--rm", &name, "echo", "pulled"]).ok().out(), "pulled");
    let again = host.lighter(&["pull", &name]);
    assert!(again.ok().out().to_lowercase().contains("up to date"), "{again}");

    let id = host.inspect(&name)["RepoDigests"][0].as_str().expect("a digest").to_owned();
    host.lighter(&["rmi", &name]).ok();
    host.lighter(&["pull", &id]).ok();
    host.lighter(&["run", "--rm", &id, "true"]).ok();
}

#[test]
fn run_pulls_what_is_missing() {
    let host = Host::new();
    let registry = Registry::start();
    registry.push_layout(&Image::busybox("x").oci_layout(Packing::Zstd), "busybox:1");
    let output = host.lighter(&["run", "--rm", &registry.reference("busybox:1"), "echo", "ran"]);
    assert_eq!(output.ok().out(), "ran", "progress is no part of standard output");
    host.lighter(&["run", "--rm", &registry.reference("busybox:2"), "true"]).refused(125, "busybox:2");
    host.lighter(&["run", "--rm", &registry.reference("nothing"), "true"]).refused(125, "nothing");
}

#[test]
fn a_password_is_wanted_and_kept_to_its_registry() {
    let host = Host::new();
    let registry = Registry::with_password("ann", "secret");
    registry.push_layout(&Image::busybox("x").oci_layout(Packing::Gzip), "busybox:1");
    let name = registry.reference("busybox:1");
    host.lighter(&["pull", &name]).rejected("login");
    let server = name.split('/').next().unwrap_or_default().to_owned();
    // "ann:wrong", then "ann:secret".
    log_in(&host, &server, "YW5uOndyb25n");
    let wrong = host.lighter(&["pull", &name]);
    wrong.rejected("denied");
    assert!(!wrong.err().contains("YW5uOndyb25n") && !wrong.err().contains("ann:wrong"), "{wrong}");
    log_in(&host, &server, "YW5uOnNlY3JldA==");
    host.lighter(&["pull", &name]).ok();
    host.lighter(&["run", "--rm", &name, "true"]).ok();
}

#[test]
fn chooses_the_platform_from_an_index() {
    let host = Host::new();
    let registry = Registry::start();
    let mark = |text: &str| Image::busybox("x").file("platform", 0o644, text.as_bytes());
    let images = [mark("arm").platform("arm64", Some("v8")), mark("intel"), mark("power").platform("ppc64le", None)];
    registry.push_layout(&Image::oci_index(&images, Packing::Gzip), "many:1");
    let name = registry.reference("many:1");
    assert_eq!(host.lighter(&["run", "--rm", &name, "cat", "/platform"]).ok().out(), "intel");
    host.lighter(&["rmi", &name]).ok();
    host.lighter(&["pull", "--platform", "linux/arm64", &name]).ok();
    assert_eq!(host.inspect(&name)["Architecture"], "arm64");
    host.lighter(&["pull", "--platform", "linux/s390x", &name]).rejected("s390x");
    host.lighter(&["pull", "--platform", "nonsense/", &name]).rejected("platform");
}

#[test]
fn a_spoiled_blob_is_refused() {
    let host = Host::new();
    let registry = Registry::start();
    let layout = Image::busybox("x").oci_layout(Packing::Gzip);
    registry.push_layout(&layout, "busybox:1");
    let (_, layer) = layout.largest();
    let file = registry.blob(&digest(layer));
    let mut bytes = std::fs::read(&file).expect("the registry's copy of the layer");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(&file, bytes).expect("spoil the layer");
    host.lighter(&["pull", &registry.reference("busybox:1")]).rejected("");
    assert_eq!(host.lighter(&["images", "-q"]).ok().out(), "");
    std::fs::write(&file, layer).expect("mend the layer");
    host.lighter(&["pull", &registry.reference("busybox:1")]).ok();
}

#[test]
fn a_registry_that_is_not_there_is_said_so() {
    let host = Host::new();
    let port = testkit::registry::free_port();
    let name = format!("127.0.0.1:{port}/busybox:1");
    let output = host.lighter(&["pull", &name]);
    output.rejected(&format!("127.0.0.1:{port}"));
    assert!(output.took < testkit::wait::patient(Duration::from_secs(60)), "{output}");
    host.lighter(&["pull", "Not A Name"]).rejected("Not A Name");
    host.lighter(&["pull", "127.0.0.1:5/../../etc"]).rejected("");
}

#[test]
fn an_endless_manifest_ends() {
    let host = Host::new();
    let server = Server::start(|request| match request.path.as_str() {
        "/v2/" => Response::status(200),
        _ => Response::ok("application/vnd.oci.image.manifest.v1+json", b"").body(Body::Endless),
    });
    let output = host.lighter(&["pull", &format!("{}/endless:1", server.address())]);
    output.rejected("");
    assert!(output.took < testkit::wait::patient(Duration::from_secs(60)), "{output}");
}

/// A registry with one image whose blobs are somewhere else.
fn redirecting(blobs: &str) -> (Server, Vec<u8>) {
    let layout = Image::busybox("x").oci_layout(Packing::Gzip);
    let index: Value = serde_json::from_slice(layout.get("index.json")).expect("JSON");
    let digest = index["manifests"][0]["digest"].as_str().expect("a digest").replace(':', "/");
    let manifest = layout.get(&format!("blobs/{digest}")).to_vec();
    let (served, elsewhere) = (manifest.clone(), blobs.to_owned());
    let server = Server::start(move |request| {
        if request.authorization.as_deref() != Some("Basic YW5uOnNlY3JldA==") {
            return Response::status(401).header("WWW-Authenticate", "Basic realm=\"test\"");
        }
        match request.path.rsplit_once("/blobs/") {
            Some((_, digest)) => Response::status(307).header("Location", &format!("http://{elsewhere}/{digest}")),
            None if request.path.contains("/manifests/") => {
                Response::ok("application/vnd.oci.image.manifest.v1+json", &served)
            }
            None => Response::status(200),
        }
    });
    (server, manifest)
}

/// CVE-2020-15157: a manifest names a place of its maker's for a layer, and that place asks for a password.
#[test]
fn cve_2020_15157_a_password_never_goes_to_a_layers_own_place() {
    let host = Host::new();
    let thief = Server::start(|_| Response::status(401).header("WWW-Authenticate", "Basic realm=\"test\""));
    let layout = Image::busybox("x").oci_layout(Packing::Gzip);
    let index: Value = serde_json::from_slice(layout.get("index.json")).expect("JSON");
    let digest = index["manifests"][0]["digest"].as_str().expect("a digest").replace(':', "/");
    let mut manifest: Value = serde_json::from_slice(layout.get(&format!("blobs/{digest}"))).expect("JSON");
    let layer = &mut manifest["layers"][0];
    let left_out = layer["digest"].as_str().expect("a digest").to_owned();
    layer["mediaType"] = json!("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip");
    layer["urls"] = json!([format!("http://{}/v2/x/blobs/{left_out}", thief.address())]);
    let manifest = manifest.to_string().into_bytes();
    let registry = Server::start(move |request| {
        if request.authorization.as_deref() != Some("Basic YW5uOnNlY3JldA==") {
            return Response::status(401).header("WWW-Authenticate", "Basic realm=\"test\"");
        }
        match request.path.rsplit_once("/blobs/") {
            Some((_, digest)) => match layout.find(&format!("blobs/{}", digest.replace(':', "/"))) {
                Some(blob) if digest != left_out => Response::ok("application/octet-stream", blob),
                _ => Response::status(404),
            },
            None if request.path.contains("/manifests/") => {
                Response::ok("application/vnd.oci.image.manifest.v1+json", &manifest)
            }
            None => Response::status(200),
        }
    });
    log_in(&host, &registry.address(), "YW5uOnNlY3JldA==");
    host.lighter(&["pull", &format!("{}/foreign:1", registry.address())]).rejected("");
    assert!(!thief.seen().is_empty(), "it was asked");
    for request in thief.seen() {
        assert_eq!(request.authorization, None, "{request:?}");
    }
}

#[test]
fn a_password_never_follows_a_redirect() {
    let host = Host::new();
    let layout = Image::busybox("x").oci_layout(Packing::Gzip);
    let store = Server::start(move |request| {
        let digest = request.path.trim_start_matches('/').replace(':', "/");
        Response::ok("application/octet-stream", layout.get(&format!("blobs/{digest}")))
    });
    let (registry, _) = redirecting(&store.address());
    log_in(&host, &registry.address(), "YW5uOnNlY3JldA==");
    let name = format!("{}/moved:1", registry.address());
    host.lighter(&["pull", &name]).ok();
    host.lighter(&["run", "--rm", &name, "true"]).ok();
    assert!(!store.seen().is_empty());
    for request in store.seen() {
        assert_eq!(request.authorization, None, "{request:?}");
    }
}

#[test]
fn a_body_that_is_cut_short_is_no_image() {
    let host = Host::new();
    let store = Server::start(|_| Response::status(200).body(Body::CutShort(vec![0; 1000], 100_000)));
    let (registry, _) = redirecting(&store.address());
    log_in(&host, &registry.address(), "YW5uOnNlY3JldA==");
    host.lighter(&["pull", &format!("{}/cut:1", registry.address())]).rejected("");
    assert_eq!(host.lighter(&["images", "-q"]).ok().out(), "");
}
