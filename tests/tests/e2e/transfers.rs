//! What goes over the wire: interrupted pulls, registries that do not do as they should, and the rarer kinds of content.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use testkit::http::{Body, Response, Server, shelf};
use testkit::image::{Members, Packing};
use testkit::terminal::Terminal;
use testkit::{Host, Image, Registry};

use crate::registries::{be_quick, big};

/// A registry that gives blobs slowly, and what was asked of it: ranges.
fn slow(layout: Members) -> Server {
    let slowly = Mutex::new(true);
    Server::start(move |request| {
        let right = shelf(&layout, request);
        match right.body.clone() {
            Body::Whole(bytes) if request.path.contains("/blobs/") && bytes.len() > 1 << 20 => {
                if request.range.is_some() || !std::mem::replace(&mut *slowly.lock().expect("not poisoned"), false) {
                    return right;
                }
                right.body(Body::Slow(bytes, 128 << 10, Duration::from_millis(100)))
            }
            _ => right,
        }
    })
}

/// What pulls have left, and how much of it: the largest first.
fn partials(host: &Host) -> Vec<(u64, std::path::PathBuf)> {
    let Ok(entries) = std::fs::read_dir(host.root().join("content/partial")) else { return Vec::new() };
    let entries = entries.flatten();
    let mut found: Vec<_> = entries.filter_map(|entry| Some((entry.metadata().ok()?.len(), entry.path()))).collect();
    found.sort_by(|a, b| b.cmp(a));
    found
}

/// Starts a pull, and gives it when a good part of the layer is here.
fn pull_half(host: &Host, name: &str) -> testkit::process::Running {
    let pull = host.spawn(&["pull", name]);
    testkit::wait::until("a part of the layer is here", Duration::from_secs(20), || {
        partials(host).first().filter(|(size, _)| *size > 1 << 20).map(drop)
    });
    pull
}

#[test]
fn a_killed_pull_is_taken_up_where_it_was() {
    for signal in [Signal::KILL, Signal::INT] {
        let host = Host::new();
        let server = slow(big());
        let name = format!("{}/app:1", server.address());
        let pull = pull_half(&host, &name);
        let begin = Instant::now();
        pull.signal(signal);
        let output = pull.finish(Duration::from_secs(5));
        assert!(begin.elapsed() < Duration::from_secs(2), "{signal:?} ends it at once: {output}");
        assert_eq!(host.lighter(&["images", "-q"]).ok().out(), "", "nothing half-made is visible");
        let mut had: Vec<u64> = partials(&host).into_iter().map(|(size, _)| size).filter(|size| *size > 0).collect();
        assert!(had.first().is_some_and(|size| *size > 1 << 20), "it is kept: {had:?}");
        let resumed = host.lighter(&["pull", &name]);
        assert!(resumed.ok().out().contains(": Resuming\n"), "{resumed}");
        let mut ranges: Vec<u64> = server.seen().iter().filter_map(|asked| Some(asked.range? as u64)).collect();
        // One that had arrived to its last byte needs no further request.
        let whole = blob_sizes(&host);
        had.retain(|size| !whole.contains(size));
        had.sort_unstable();
        ranges.sort_unstable();
        assert_eq!(ranges, had, "only the rest is fetched");
        assert_eq!(partials(&host), []);
        host.lighter(&["run", "--rm", &name, "ls", "/noise"]).ok();
    }
}

/// The sizes of what the content store holds, in bytes.
fn blob_sizes(host: &Host) -> Vec<u64> {
    let dir = host.root().join("content/blobs/sha256");
    let blobs = std::fs::read_dir(&dir).expect("the content store").flatten();
    blobs.map(|blob| blob.metadata().expect("a blob").len()).collect()
}

#[test]
fn what_an_earlier_pull_left_is_not_believed() {
    let host = Host::new();
    let server = slow(big());
    let name = format!("{}/app:1", server.address());
    let pull = pull_half(&host, &name);
    pull.signal(Signal::KILL);
    drop(pull.finish(Duration::from_secs(5)));
    // As a power cut may leave it: the right length, other bytes.
    let (_, path) = partials(&host).swap_remove(0);
    std::fs::write(&path, vec![0; 2 << 20]).expect("spoil it");
    host.lighter(&["pull", &name]).ok();
    host.lighter(&["run", "--rm", &name, "ls", "/noise"]).ok();
    assert_eq!(partials(&host), []);
}

#[test]
fn a_registry_that_drips_is_given_up() {
    let host = Host::new();
    be_quick(&host, "");
    let layout = Image::busybox("x").oci_layout(Packing::Gzip);
    let server = Server::start(move |request| {
        let right = shelf(&layout, request);
        match right.body.clone() {
            Body::Whole(bytes) if request.path.contains("/blobs/") => {
                right.body(Body::Slow(bytes, 1, Duration::from_millis(200)))
            }
            _ => right,
        }
    });
    let output = host.lighter(&["pull", &format!("{}/box:1", server.address())]);
    output.rejected("bytes came in");
    assert!(output.took < Duration::from_secs(30), "{output}");
    let silent = Server::start(|_| Response::status(200).body(Body::Silence));
    let output = host.lighter(&["pull", &format!("{}/box:1", silent.address())]);
    output.rejected(&silent.address());
    assert!(output.took < Duration::from_secs(30), "{output}");
}

#[test]
fn lies_end_in_an_error_and_nothing_is_left() {
    let host = Host::new();
    be_quick(&host, "");
    let right = Image::busybox("x").oci_layout(Packing::Gzip);
    let old = Image::busybox("x").file("old", 0o644, b"old").oci_layout(Packing::Gzip);
    let index: Value = serde_json::from_slice(right.get("index.json")).expect("JSON");
    let digest = index["manifests"][0]["digest"].as_str().expect("a digest").to_owned();
    let refused = |reference: &str, answer: Box<dyn Fn(&testkit::http::Request) -> Response + Send + Sync>| {
        let server = Server::start(answer);
        let output = host.lighter(&["pull", &format!("{}/{reference}", server.address())]);
        output.rejected("Error:");
        assert!(output.took < Duration::from_secs(40), "{output}");
        assert_eq!(host.lighter(&["images", "-q"]).ok().out(), "");
        output.err()
    };
    // Old content under a digest that names other.

    let said = refused(
        &format!("box@{digest}"),
        Box::new(move |request| match request.path.contains("/manifests/") {
            true => shelf(&old, &testkit::http::Request { path: "/v2/box/manifests/1".into(), ..request.clone() }),
            false => shelf(&old, request),
        }),
    );
    assert!(said.contains(&digest), "{said}");
    // A digest that is no digest, in the registry's own words.
    let manifest = |bad: &str| {
        let mut layout = right.clone();
        let member = format!("blobs/{}", digest.replace(':', "/"));
        layout.edit(&member, |manifest| manifest["layers"][0]["digest"] = json!(bad));
        layout
    };
    for bad in ["sha256:../../../../etc/passwd", "sha256:short", "md5:d41d8cd98f00b204e9800998ecf8427e", ""] {
        let layout = manifest(bad);
        refused("box:1", Box::new(move |request| shelf(&layout, request)));
    }
    // Sizes that are none of the blobs'.
    for size in [json!(0), json!(1), json!(u64::MAX), json!(-1), json!(1.5)] {
        let mut layout = right.clone();
        let member = format!("blobs/{}", digest.replace(':', "/"));
        layout.edit(&member, |manifest| manifest["layers"][0]["size"] = size);
        refused("box:1", Box::new(move |request| shelf(&layout, request)));
    }
    // Bodies without end, redirects without end, and redirects to what is no registry.
    let layout = right.clone();
    refused(
        "box:1",
        Box::new(move |request| match request.path.contains("/blobs/") {
            true => shelf(&layout, request).body(Body::Endless),
            false => shelf(&layout, request),
        }),
    );
    refused("box:1", Box::new(|request| Response::status(307).header("Location", &request.path)));
    for target in ["file:///etc/passwd", "http://", "gopher://127.0.0.1/", "//", "\u{7f}"] {
        refused("box:1", Box::new(move |_| Response::status(302).header("Location", target)));
    }
    refused(
        "box:1",
        Box::new(|_| Response::status(401).header("WWW-Authenticate", "Bearer realm=\"file:///etc/passwd\"")),
    );
}

#[test]
fn a_registrys_warning_is_passed_on() {
    let host = Host::new();
    let layout = Image::busybox("x").oci_layout(Packing::Gzip);
    let server =
        Server::start(move |request| shelf(&layout, request).header("Warning", "299 - \"this registry will close\""));
    let output = host.lighter(&["pull", &format!("{}/box:1", server.address())]);
    let told = output.ok().err();
    assert_eq!(told.matches("this registry will close").count(), 1, "{told:?}");
}

#[test]
fn a_busy_registry_is_waited_for() {
    let host = Host::new();
    let layout = Image::busybox("x").oci_layout(Packing::Gzip);
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let server = Server::start(move |request| match count.fetch_add(1, Ordering::Relaxed) {
        1 => Response::status(429).header("Retry-After", "1"),
        2 => Response::status(503),
        _ => shelf(&layout, request),
    });
    let output = host.lighter(&["pull", &format!("{}/box:1", server.address())]);
    output.ok();
    assert!(output.took >= Duration::from_secs(1), "as long as it asked for: {output}");
}

/// An image on a shelf, its manifest changed; the layer's bytes are given to whoever changes it.
fn changed(change: impl FnOnce(&mut Members, &mut Value, &[u8])) -> Members {
    let mut layout = Image::busybox("x").oci_layout(Packing::Gzip);
    let index: Value = serde_json::from_slice(layout.get("index.json")).expect("JSON");
    let member = format!("blobs/{}", index["manifests"][0]["digest"].as_str().expect("a digest").replace(':', "/"));
    let mut manifest: Value = serde_json::from_slice(layout.get(&member)).expect("JSON");
    let layer = layout.largest().1.to_vec();
    change(&mut layout, &mut manifest, &layer);
    layout.put(&member, manifest.to_string().into_bytes());
    layout
}

#[test]
fn all_tags_come_with_one_command() {
    let host = Host::with_busybox();
    let registry = Registry::start();
    for tag in ["1", "2", "three"] {
        host.lighter(&["tag", "busybox", &registry.reference(&format!("box:{tag}"))]).ok();
    }
    let name = registry.reference("box");
    host.lighter(&["push", "-q", "-a", &name]).ok();
    for tag in ["1", "2", "three"] {
        host.lighter(&["rmi", &format!("{name}:{tag}")]).ok();
    }
    let pulled = host.lighter(&["pull", "--all-tags", &name]).ok().out();
    for tag in ["1", "2", "three"] {
        assert!(pulled.contains(&format!("{tag}: Pulling from box\n")), "{pulled}");
        host.lighter(&["run", "--rm", "--pull", "never", &format!("{name}:{tag}"), "true"]).ok();
    }
    assert!(pulled.ends_with(&format!("for {name}\n{name}")), "{pulled}");
    assert_eq!(host.lighter(&["pull", "-qa", &name]).ok().out(), name);
    host.lighter(&["pull", "-a", &format!("{name}:1")]).rejected("all-tags");
    host.lighter(&["pull", "-a", &registry.reference("nothing")]).rejected("nothing");
    // In pages, as large registries have them.
    let pages = Server::start(|request| match request.path.split_once("last=") {
        _ if !request.path.contains("/tags/list") => Response::status(404),
        None => Response::ok("application/json", br#"{"name":"box","tags":["a"]}"#)
            .header("Link", "</v2/box/tags/list?last=a&n=1>; rel=\"next\""),
        Some(_) => Response::ok("application/json", br#"{"name":"box","tags":["b","../../x"]}"#),
    });
    host.lighter(&["pull", "-a", &format!("{}/box", pages.address())]).rejected("box a");
    assert!(pages.seen().iter().any(|request| request.path.contains("last=a")));
}

#[test]
fn a_layer_may_be_elsewhere_or_in_its_descriptor() {
    let host = Host::new();
    // A layer that registries do not have, but its maker does.
    let place = Arc::new(Mutex::new(Vec::new()));
    let given = Arc::clone(&place);
    let maker = Server::start(move |_| Response::ok("application/octet-stream", &given.lock().expect("not poisoned")));
    let foreign = changed(|layout, manifest, layer| {
        *place.lock().expect("not poisoned") = layer.to_vec();
        layout.remove(&format!("blobs/{}", testkit::image::digest(layer).replace(':', "/")));
        manifest["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip");
        manifest["layers"][0]["urls"] = json!(["file:///etc/passwd", format!("http://{}/layer", maker.address())]);
    });
    let server = Server::start(move |request| shelf(&foreign, request));
    let name = format!("{}/foreign:1", server.address());
    host.lighter(&["run", "--rm", &name, "true"]).ok();
    assert!(maker.seen().iter().any(|request| request.path == "/layer"));
    // It is not sent on.
    let registry = Registry::start();
    let copy = registry.reference("foreign:1");
    host.lighter(&["tag", &name, &copy]).ok();
    let pushed = host.lighter(&["push", &copy]);
    assert!(pushed.out().contains("Skipped foreign layer") && !pushed.out().contains("Pushed"), "{pushed}");
    // A configuration that the manifest brings along.
    let inline = changed(|layout, manifest, _| {
        use base64::Engine as _;
        let member = format!("blobs/{}", manifest["config"]["digest"].as_str().expect("a digest").replace(':', "/"));
        manifest["config"]["data"] = json!(base64::engine::general_purpose::STANDARD.encode(layout.get(&member)));
        layout.remove(&member);
    });
    let server = Server::start(move |request| shelf(&inline, request));
    host.lighter(&["run", "--rm", &format!("{}/inline:1", server.address()), "true"]).ok();
    // One that is not what the digest says is asked for instead.
    let wrong = changed(|_, manifest, _| manifest["config"]["data"] = json!("e30="));
    let server = Server::start(move |request| shelf(&wrong, request));
    host.lighter(&["run", "--rm", &format!("{}/wrong:1", server.address()), "true"]).ok();
}

#[test]
fn a_layer_that_is_called_gzip_may_be_packed_otherwise() {
    // So docker 28 pushes what it pulled: its manifest calls every layer gzip, and the registry has them as they were.
    let host = Host::new();
    for packing in [Packing::Plain, Packing::Zstd] {
        let layout = changed(|layout, manifest, layer| {
            layout.remove(&format!("blobs/{}", testkit::image::digest(layer).replace(':', "/")));
            let packed = packing.pack(testkit::image::busybox_layer());
            layout.put(&format!("blobs/{}", testkit::image::digest(&packed).replace(':', "/")), packed.clone());
            manifest["layers"][0]["digest"] = json!(testkit::image::digest(&packed));
            manifest["layers"][0]["size"] = json!(packed.len());
        });
        let server = Server::start(move |request| shelf(&layout, request));
        let name = format!("{}/called-gzip:1", server.address());
        host.lighter(&["run", "--rm", &name, "true"]).ok();
        host.lighter(&["rmi", &name]).ok();
    }
}

#[test]
fn digests_may_be_longer() {
    use sha2::Digest as _;
    let host = Host::new();
    let hex = |bytes: &[u8]| sha2::Sha512::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let layout = changed(|layout, manifest, layer| {
        layout.put(&format!("blobs/sha512/{}", hex(layer)), layer.to_vec());
        manifest["layers"][0]["digest"] = json!(format!("sha512:{}", hex(layer)));
    });
    let server = Server::start(move |request| shelf(&layout, request));
    let name = format!("{}/long:1", server.address());
    host.lighter(&["run", "--rm", &name, "true"]).ok();
    assert!(server.seen().iter().any(|request| request.path.contains("/blobs/sha512:")));
}

#[test]
fn a_terminal_shows_how_far_and_how_fast() {
    let host = Host::new();
    let server = slow(big());
    let name = format!("{}/app:1", server.address());
    let mut terminal = Terminal::start(&host.command(&["pull", &name]));
    terminal.expect("Downloading");
    terminal.expect("MB/s");
    let begin = Instant::now();
    terminal.send(b"\x03");
    assert_ne!(terminal.finish(), 0, "the interrupt key ends it");
    assert!(begin.elapsed() < Duration::from_secs(2));
    let mut terminal = Terminal::start(&host.command(&["pull", &name]));
    terminal.expect("Pull complete");
    terminal.expect(" MB in 2 layers, ");
    terminal.expect("Downloaded newer image");
    assert_eq!(terminal.finish(), 0);
    // A pipe gets lines, and nothing else.
    host.lighter(&["rmi", &name]).ok();
    let piped = host.lighter(&["pull", &name]);
    assert!(!piped.ok().out().contains('\x1b') && !piped.err().contains("MB"), "{piped}");
    assert_eq!(piped.out().matches(": Pull complete").count(), 2, "{piped}");
}

#[test]
fn what_refers_to_an_image_is_found_by_it() {
    let host = Host::with_busybox();
    let registry = Registry::start();
    let name = registry.reference("box:1");
    host.lighter(&["tag", "busybox", &name]).ok();
    host.lighter(&["push", "-q", &name]).ok();
    let id = host.lighter(&["images", "-q", "--no-trunc", &name]).ok().out();
    for round in 0..2 {
        let layout = changed(|_, manifest, _| {
            manifest["artifactType"] = json!("application/vnd.example.signature");
            manifest["annotations"] = json!({"round": round.to_string()});
            manifest["subject"] =
                json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": id, "size": 500});
        });
        let server = Server::start(move |request| shelf(&layout, request));
        let signature = format!("{}/signature:1", server.address());
        host.lighter(&["pull", &signature]).ok();
        let copy = registry.reference("box:signature");
        host.lighter(&["tag", &signature, &copy]).ok();
        host.lighter(&["push", &copy]).ok();
        host.lighter(&["push", &copy]).ok();
        let tag = format!("docker://{}", registry.reference(&format!("box:{}", id.replace(':', "-"))));
        let index = testkit::process::tool("skopeo", &["inspect", "--raw", "--tls-verify=false", &tag]);
        let index: Value = serde_json::from_str(&index).expect("JSON");
        let entries = index["manifests"].as_array().expect("a list");
        assert_eq!(entries.len(), round + 1, "each once: {index}");
        assert_eq!(entries[round]["artifactType"], "application/vnd.example.signature");
        assert_eq!(entries[round]["annotations"]["round"], round.to_string());
    }
}

#[test]
fn two_pulls_of_one_image_do_not_hinder_each_other() {
    let host = Host::new();
    let server = slow(big());
    let name = format!("{}/app:1", server.address());
    let first = pull_half(&host, &name);
    let second = host.spawn(&["pull", &name]);
    second.finish(Duration::from_secs(30)).ok();
    first.finish(Duration::from_secs(30)).ok();
    assert_eq!(partials(&host), []);
    host.lighter(&["run", "--rm", &name, "ls", "/noise"]).ok();
    host.lighter(&["rmi", &name]).ok();
}

#[test]
fn an_index_of_indexes_goes_through_whole() {
    let host = Host::new();
    let mut layout = Image::busybox("x").oci_layout(Packing::Gzip);
    let kind = "application/vnd.oci.image.index.v1+json";
    let index: Value = serde_json::from_slice(layout.get("index.json")).expect("JSON");
    let mut entry = index["manifests"][0].clone();
    entry.as_object_mut().expect("a descriptor").remove("annotations");
    entry["platform"] = json!({"os": "linux", "architecture": "amd64"});
    for _ in 0..2 {
        let nested = json!({"schemaVersion": 2, "mediaType": kind, "manifests": [entry]}).to_string().into_bytes();
        let digest = testkit::image::digest(&nested);
        layout.put(&format!("blobs/{}", digest.replace(':', "/")), nested.clone());
        entry = json!({"mediaType": kind, "digest": digest, "size": nested.len()});
    }
    layout.put("index.json", json!({"schemaVersion": 2, "manifests": [entry]}).to_string().into_bytes());
    let server = Server::start(move |request| shelf(&layout, request));
    let name = format!("{}/nested:1", server.address());
    host.lighter(&["run", "--rm", &name, "true"]).ok();
    let registry = Registry::start();
    let copy = registry.reference("nested:1");
    host.lighter(&["tag", &name, &copy]).ok();
    let pushed = host.lighter(&["push", &copy]).ok().out();
    let outer = entry["digest"].as_str().expect("a digest");
    assert!(pushed.contains(&format!("1: digest: {outer} ")), "{pushed}");
    host.lighter(&["rmi", &name, &copy]).ok();
    host.lighter(&["run", "--rm", &copy, "true"]).ok();
    assert_eq!(host.lighter(&["images", "-q", "--no-trunc", &copy]).ok().out(), outer);
}

#[test]
fn what_an_image_says_of_itself_forges_no_lines() {
    let host = Host::new();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let empty = json!({
        "mediaType": "application/vnd.oci.empty.v1+json", "size": 2,
        "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": kind, "artifactType": "x\nError: forged\nHint: run this",
        "config": empty, "layers": [],
    });
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{"mediaType": kind, "digest": empty["digest"], "size": 2,
                       "platform": {"os": "x\nError: forged", "architecture": "y\nHint: run this"}}],
    });
    let server = Server::start(move |request| {
        let document = if request.path.contains("/manifests/index") { &index } else { &manifest };
        Response::ok(document["mediaType"].as_str().expect("a type"), document.to_string().as_bytes())
    });
    for (tag, words) in [("artifact", "artifact of type"), ("index", "no image for platform")] {
        let output = host.lighter(&["pull", &format!("{}/a/b:{tag}", server.address())]);
        output.rejected(words);
        assert!(output.err().lines().all(|line| !line.starts_with("Error: forged")), "{output}");
    }
}
