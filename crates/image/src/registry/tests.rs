use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use oci::Platform;

use super::*;
use crate::testing::{MemorySink, TempDir, gzip, tar_of};
use crate::{ContentStore, ImageStore, Quiet};

struct Request {
    path: String,
    host: String,
    authorization: Option<String>,
    range: Option<u64>,
}

#[derive(Clone, Default)]
struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Bytes of the body after which the connection is cut.
    cut: Option<usize>,
    /// Whether the connection stays open and silent after `cut`.
    stall: bool,
    chunked: bool,
    endless: bool,
}

impl Reply {
    fn ok(body: &[u8]) -> Self {
        Self { status: 200, body: body.to_vec(), ..Self::default() }
    }

    fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// Paths asked for, and with what authorisation.
type Log = Mutex<Vec<(String, Option<String>)>>;

/// An HTTP server on loopback that answers one request a connection.
struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    log: Arc<Log>,
}

impl Server {
    fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("bound");
        let stop = Arc::new(AtomicBool::new(false));
        let log = Arc::new(Mutex::new(Vec::new()));
        let (handler, stopped, logged) = (Arc::new(handler), stop.clone(), log.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (handler, logged, stopped) = (handler.clone(), logged.clone(), stopped.clone());
                std::thread::spawn(move || {
                    // A client that goes away is part of the tests.
                    let _ = stream.and_then(|stream| serve(stream, &*handler, &logged, &stopped));
                });
            }
        });
        Self { address, stop, log }
    }

    fn reference(&self, rest: &str) -> Reference {
        format!("{}/{rest}", self.address).parse().expect("valid")
    }

    fn log(&self) -> Vec<(String, Option<String>)> {
        self.log.lock().expect("not poisoned").clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the accepting thread so that it sees the flag.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(
    mut stream: TcpStream,
    handler: &(impl Fn(&Request) -> Reply + ?Sized),
    log: &Log,
    stop: &AtomicBool,
) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    // A TLS hello: this server speaks none.
    if reader.fill_buf()?.first() == Some(&0x16) {
        return Ok(());
    }
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut request = Request { path, host: String::new(), authorization: None, range: None };
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "host" => request.host = value.to_owned(),
            "authorization" => request.authorization = Some(value.to_owned()),
            "range" => request.range = value.strip_prefix("bytes=").and_then(|v| v.trim_end_matches('-').parse().ok()),
            _ => {}
        }
    }
    log.lock().expect("not poisoned").push((request.path.clone(), request.authorization.clone()));
    let reply = handler(&request);
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if reply.chunked || reply.endless {
        head.push_str("Transfer-Encoding: chunked\r\n");
    } else if !reply.headers.iter().any(|(name, _)| name == "Content-Length") {
        head.push_str(&format!("Content-Length: {}\r\n", reply.body.len()));
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if reply.endless {
        loop {
            stream.write_all(format!("10000\r\n{}\r\n", " ".repeat(0x10000)).as_bytes())?;
        }
    }
    let body = &reply.body[..reply.cut.unwrap_or(reply.body.len())];
    if reply.chunked {
        stream.write_all(format!("{:x}\r\n", body.len()).as_bytes())?;
        stream.write_all(body)?;
        stream.write_all(b"\r\n0\r\n\r\n")?;
    } else {
        stream.write_all(body)?;
    }
    while reply.stall && !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// An image on a registry: two layers, an index over its manifest.
struct Image {
    blobs: Vec<Vec<u8>>,
    manifest: Vec<u8>,
    index: Vec<u8>,
    layers: Vec<Vec<u8>>,
}

fn image() -> Image {
    let noise: Vec<u8> = (0_u32..300_000).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let layers = vec![tar_of(&[("one", &noise)]), tar_of(&[("two", b"2")])];
    let diff_ids: Vec<String> = layers.iter().map(|l| Digest::sha256_of(l).to_string()).collect();
    let config = serde_json::to_vec(&serde_json::json!({
        "architecture": Platform::host().architecture, "os": "linux", "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }))
    .expect("json");
    let packed: Vec<Vec<u8>> = layers.iter().map(|l| gzip(l)).collect();
    let descriptors: Vec<Descriptor> =
        packed.iter().map(|blob| Descriptor::of(media_type::DOCKER_LAYER_GZIP, blob)).collect();
    let manifest = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::DOCKER_MANIFEST,
        "config": Descriptor::of(media_type::DOCKER_CONFIG, &config), "layers": descriptors,
    }))
    .expect("json");
    let mut entry = Descriptor::of(media_type::DOCKER_MANIFEST, &manifest);
    entry.platform = Some(Platform::host());
    let mut attestation = Descriptor::of(media_type::OCI_MANIFEST, b"attestation");
    attestation.platform = Some(Platform::new("unknown", "unknown", ""));
    let index = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::DOCKER_LIST, "manifests": [attestation, entry],
    }))
    .expect("json");
    let blobs = [vec![config], packed].concat();
    Image { blobs, manifest, index, layers }
}

impl Image {
    /// A well-behaved registry's answer.
    fn answer(&self, request: &Request) -> Reply {
        let name = request.path.rsplit('/').next().unwrap_or_default();
        let is = |bytes: &[u8]| name == Digest::sha256_of(bytes).to_string();
        if request.path == "/v2/a/app/manifests/1" || is(&self.index) {
            return Reply::ok(&self.index).header("Content-Type", media_type::DOCKER_LIST);
        }
        if is(&self.manifest) {
            return Reply::ok(&self.manifest).header("Content-Type", media_type::DOCKER_MANIFEST);
        }
        let Some(blob) = self.blobs.iter().find(|blob| is(blob)) else {
            return Reply { body: br#"{"errors":[{"code":"X","message":"unknown"}]}"#.to_vec(), ..Reply::status(404) };
        };
        match request.range {
            Some(from) => Reply { status: 206, ..Reply::ok(&blob[from as usize..]) }
                .header("Content-Range", &format!("bytes {from}-{}/{}", blob.len() - 1, blob.len())),
            None => Reply::ok(blob),
        }
    }

    fn is_big_layer(&self, request: &Request) -> bool {
        request.path.ends_with(&Digest::sha256_of(&self.blobs[1]).to_string())
    }
}

struct Store {
    _dir: TempDir,
    content: Arc<ContentStore>,
    images: ImageStore,
    sink: MemorySink,
}

impl Store {
    fn new() -> Self {
        let dir = TempDir::new("registry");
        let content = Arc::new(ContentStore::open(&dir.path().join("content")).expect("open"));
        let images = ImageStore::open(&dir.path().join("images"), content.clone()).expect("open");
        Self { _dir: dir, content, images, sink: MemorySink::default() }
    }

    fn pull(&self, reference: &Reference, options: Options) -> Result<ImageRecord> {
        Inbound::new(&self.content, &self.images, &self.sink, &Quiet).pull(reference, options)
    }
}

fn options() -> Options {
    Options {
        backoff: Duration::from_millis(1),
        timeouts: Timeouts {
            connect: Duration::from_secs(5),
            response: Duration::from_secs(5),
            idle: Duration::from_millis(300),
            least_rate: 0,
        },
        ..Options::default()
    }
}

/// Pulls from a registry that answers `handler`, and else as it should.
fn pull_with(
    handler: impl Fn(&Image, &Request) -> Option<Reply> + Send + Sync + 'static,
) -> (Result<ImageRecord>, Store) {
    let image = image();
    let server = Server::start(move |request| handler(&image, request).unwrap_or_else(|| image.answer(request)));
    let store = Store::new();
    let result = store.pull(&server.reference("a/app:1"), options());
    if result.is_err() {
        assert!(store.images.list().expect("list").records.is_empty(), "a failed pull shows nothing");
    }
    (result, store)
}

#[test]
fn images_are_pulled_verified_and_complete() {
    let image = image();
    let (result, store) = pull_with(|_, _| None);
    let record = result.expect("pulls");
    assert_eq!(record.id(), &Digest::sha256_of(&image.index));
    assert_eq!(record.manifest.digest, Digest::sha256_of(&image.manifest));
    assert_eq!(record.config.cmd.as_deref(), Some(&["sh".to_owned()][..]));
    let layers = store.sink.layers.lock().expect("not poisoned");
    for (layer, expected) in record.layers.iter().zip(&image.layers) {
        assert_eq!(&layers[&layer.chain_id], expected);
    }
    for blob in record.blobs() {
        assert!(store.content.contains(blob).expect("stat"), "{blob}");
    }
    assert_eq!(store.images.list().expect("list").records, [record]);
}

#[test]
fn a_second_pull_fetches_no_layer() {
    let image = image();
    let server = Server::start(move |request| image.answer(request));
    let store = Store::new();
    let reference = server.reference("a/app:1");
    let first = store.pull(&reference, options()).expect("pulls");
    let before = server.log().len();
    let by_digest = reference.with_digest(first.id().clone());
    assert_eq!(store.pull(&by_digest, options()).expect("pulls").id(), first.id());
    assert_eq!(server.log().len() - before, 1, "only the index is asked for again: {:?}", server.log());
}

#[test]
fn a_lost_blob_comes_back_without_unpacking() {
    let image = image();
    let server = Server::start(move |request| image.answer(request));
    let store = Store::new();
    let reference = server.reference("a/app:1");
    let record = store.pull(&reference, options()).expect("pulls");
    let blob = &record.layers[0].descriptor.digest;
    store.content.remove(blob, &store.content.try_exclusive().expect("lock").expect("free")).expect("remove");
    store.sink.layers.lock().expect("not poisoned").insert(record.layers[0].chain_id.clone(), b"kept".to_vec());
    store.pull(&reference, options()).expect("pulls");
    assert!(store.content.contains(blob).expect("stat"));
    assert_eq!(store.sink.layers.lock().expect("not poisoned")[&record.layers[0].chain_id], b"kept");
}

#[test]
fn tokens_answer_challenges_and_stay_at_home() {
    let image = Arc::new(image());
    let behind = image.clone();
    let cdn = Server::start(move |request| behind.answer(request));
    let cdn_url = format!("http://{}", cdn.address);
    let front = image;
    let tokens = Arc::new(AtomicUsize::new(0));
    let counted = tokens.clone();
    let server = Server::start(move |request| {
        if request.path.starts_with("/token?") {
            counted.fetch_add(1, Ordering::Relaxed);
            assert!(request.path.contains("scope=repository:a/app:pull"), "{}", request.path);
            let known = request.authorization.as_deref() == Some("Basic dTpw");
            return if known { Reply::ok(br#"{"token":"tok"}"#) } else { Reply::status(401) };
        }
        match request.authorization.as_deref() {
            Some("Bearer tok") if request.path.contains("/blobs/") => {
                Reply::status(307).header("Location", &format!("{cdn_url}{}", request.path))
            }
            Some("Bearer tok") => front.answer(request),
            _ => {
                let challenge = format!("Bearer realm=\"http://{}/token\",service=\"s\"", request.host);
                Reply::status(401).header("WWW-Authenticate", &challenge)
            }
        }
    });
    let reference = server.reference("a/app:1");
    let with = |user: &str, registry: &str| {
        let mut credentials = Credentials::default();
        credentials.insert(registry, user, "p");
        Options { credentials, ..options() }
    };
    let store = Store::new();
    store.pull(&reference, with("u", &server.address.to_string())).expect("pulls");
    assert_eq!(tokens.load(Ordering::Relaxed), 1, "one token serves all requests");
    assert!(!cdn.log().is_empty());
    assert!(cdn.log().iter().all(|(_, authorization)| authorization.is_none()), "{:?}", cdn.log());

    for options in [with("wrong", &server.address.to_string()), options(), with("u", "127.0.0.1:1")] {
        assert!(matches!(Store::new().pull(&reference, options), Err(Error::Denied { .. })));
    }
}

#[test]
fn a_password_is_not_sent_on() {
    let elsewhere = Server::start(|_| Reply::ok(br#"{"token":"tok"}"#));
    let target = format!("http://{}/token", elsewhere.address);
    let server = Server::start(move |request| match request.path.starts_with("/token") {
        true => Reply::status(307).header("Location", &target),
        false => {
            let challenge = format!("Bearer realm=\"http://{}/token\"", request.host);
            Reply::status(401).header("WWW-Authenticate", &challenge)
        }
    });
    let mut credentials = Credentials::default();
    credentials.insert(&server.address.to_string(), "u", "p");
    let result = Store::new().pull(&server.reference("a/app:1"), Options { credentials, ..options() });
    assert!(matches!(result, Err(Error::Unsupported(_))), "{result:?}");
    assert!(elsewhere.log().is_empty(), "{:?}", elsewhere.log());
}

#[test]
fn a_token_that_ends_in_the_middle_is_renewed() {
    let image = image();
    let given = AtomicUsize::new(0);
    let served = AtomicUsize::new(0);
    let server = Server::start(move |request| {
        if request.path.starts_with("/token") {
            let number = given.fetch_add(1, Ordering::Relaxed);
            return Reply::ok(format!("{{\"token\":\"t{number}\",\"expires_in\":300}}").as_bytes());
        }
        // Each token is good for two answers, whatever the server said.
        let newest = format!("Bearer t{}", given.load(Ordering::Relaxed).wrapping_sub(1));
        if request.authorization.as_deref() == Some(&newest) && served.fetch_add(1, Ordering::Relaxed) % 3 != 2 {
            return image.answer(request);
        }
        let challenge = format!("Bearer realm=\"http://{}/token\"", request.host);
        Reply::status(401).header("WWW-Authenticate", &challenge)
    });
    let store = Store::new();
    let reference = server.reference("a/app:1");
    let inbound = Inbound::new(&store.content, &store.images, &store.sink, &Quiet).parallel(1);
    inbound.pull(&reference, options()).expect("goes on with new tokens");
    assert!(server.log().iter().filter(|(path, _)| path.starts_with("/token")).count() > 1);
}

#[test]
fn a_challenge_from_elsewhere_is_not_answered() {
    let elsewhere = Server::start(|request| {
        let challenge = format!("Bearer realm=\"http://{}/token\"", request.host);
        Reply::status(401).header("WWW-Authenticate", &challenge)
    });
    let image = image();
    let target = format!("http://{}/blob", elsewhere.address);
    let server = Server::start(move |request| match request.path.contains("/blobs/") {
        true => Reply::status(307).header("Location", &target),
        false => image.answer(request),
    });
    let mut credentials = Credentials::default();
    credentials.insert(&server.address.to_string(), "u", "p");
    let result = Store::new().pull(&server.reference("a/app:1"), Options { credentials, ..options() });
    assert!(matches!(result, Err(Error::Denied { .. })), "{result:?}");
    assert!(elsewhere.log().iter().all(|(path, authorization)| path == "/blob" && authorization.is_none()));
}

#[test]
fn basic_logins_are_sent_when_asked_for() {
    let image = image();
    let server = Server::start(move |request| match request.authorization.as_deref() {
        Some("Basic dTpw") => image.answer(request),
        _ => Reply::status(401).header("WWW-Authenticate", "Basic realm=\"r\""),
    });
    let mut credentials = Credentials::default();
    credentials.insert(&server.address.to_string(), "u", "p");
    Store::new().pull(&server.reference("a/app:1"), Options { credentials, ..options() }).expect("pulls");
    assert_eq!(server.log()[0].1, None, "nothing is sent before it is asked for");
    assert!(matches!(Store::new().pull(&server.reference("a/app:1"), options()), Err(Error::Denied { .. })));
}

#[test]
fn broken_bodies_are_resumed() {
    // A part, the whole, refused, and another part than was asked for.
    for ranges in 0..4 {
        let cuts = AtomicUsize::new(0);
        let (result, store) = pull_with(move |image, request| {
            if !image.is_big_layer(request) {
                return None;
            }
            let whole = Request { path: request.path.clone(), host: String::new(), authorization: None, range: None };
            let full = match (ranges, request.range) {
                (0, _) | (_, None) => image.answer(request),
                (1, _) => image.answer(&whole),
                (2, _) => return Some(Reply::status(416)),
                (_, Some(_)) => {
                    let all = image.answer(&whole);
                    let range = format!("bytes 0-{0}/{0}", all.body.len());
                    return Some(Reply { status: 206, ..all }.header("Content-Range", &range));
                }
            };
            let half = full.body.len() / 2;
            Some(if cuts.fetch_add(1, Ordering::Relaxed) < 3 { Reply { cut: Some(half), ..full } } else { full })
        });
        let record = result.expect("resumes");
        assert!(store.content.contains(&record.layers[0].descriptor.digest).expect("stat"));
    }
}

#[test]
fn a_registry_that_never_delivers_is_given_up() {
    let begin = Instant::now();
    let (result, _) = pull_with(|image, request| {
        image.is_big_layer(request).then(|| {
            let blob = &image.blobs[1];
            Reply { cut: Some(10), stall: true, ..Reply::ok(blob) }
        })
    });
    assert!(matches!(result, Err(Error::Transport { .. })), "{result:?}");
    assert!(begin.elapsed() < Duration::from_secs(20));
}

#[test]
fn lies_are_noticed() {
    let (result, _) =
        pull_with(|image, request| image.is_big_layer(request).then(|| Reply::ok(&image.blobs[1][..100])));
    assert!(matches!(result, Err(Error::Size { .. })), "a length that is not the descriptor's: {result:?}");

    let (result, _) = pull_with(|image, request| {
        image.is_big_layer(request).then(|| Reply { chunked: true, ..Reply::ok(&[&image.blobs[1][..], b"x"].concat()) })
    });
    assert!(matches!(result, Err(Error::TooLarge { .. })), "more than the descriptor's size: {result:?}");

    let (result, _) = pull_with(|image, request| {
        image.is_big_layer(request).then(|| {
            let mut blob = image.blobs[1].clone();
            blob[4] ^= 1;
            Reply::ok(&blob)
        })
    });
    assert!(matches!(result, Err(Error::Digest { .. })), "other bytes, even in an unused header field: {result:?}");

    let (result, _) = pull_with(|_, request| {
        request.path.ends_with("manifests/1").then(|| Reply { endless: true, ..Reply::status(200) })
    });
    assert!(matches!(result, Err(Error::TooLarge { .. })), "an endless manifest: {result:?}");

    let (result, _) = pull_with(|image, request| {
        let digest = Digest::sha256_of(b"other").to_string();
        request.path.ends_with("manifests/1").then(|| Reply::ok(&image.index).header("Docker-Content-Digest", &digest))
    });
    assert!(matches!(result, Err(Error::Digest { .. })), "a digest that is not the manifest's: {result:?}");

    let (result, _) = pull_with(|image, request| {
        let is_manifest = request.path.ends_with(&Digest::sha256_of(&image.manifest).to_string());
        is_manifest.then(|| Reply::ok(&image.manifest.to_ascii_uppercase()))
    });
    assert!(matches!(result, Err(Error::Digest { .. })), "another manifest than the index names: {result:?}");
}

#[test]
fn busy_registries_are_asked_again() {
    let refused = AtomicUsize::new(0);
    let (result, _) = pull_with(move |_, request| {
        let busy = request.path.contains("/blobs/") && refused.fetch_add(1, Ordering::Relaxed) < 4;
        let status = if refused.load(Ordering::Relaxed).is_multiple_of(2) { 429 } else { 503 };
        busy.then(|| Reply::status(status).header("Retry-After", "0"))
    });
    result.expect("pulls in the end");
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let (result, _) = pull_with(move |_, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        Some(Reply::status(503))
    });
    assert!(matches!(result, Err(Error::Status { status: 503, .. })), "{result:?}");
    assert_eq!(asked.load(Ordering::Relaxed), 5, "as often as the options say");
}

#[test]
fn refusals_are_told_apart() {
    let answer = |status: u16, body: &'static [u8]| {
        pull_with(move |_, _| Some(Reply { body: body.to_vec(), ..Reply::status(status) })).0
    };
    let later = pull_with(|_, _| Some(Reply::status(429).header("Retry-After", "3600"))).0;
    assert!(matches!(later, Err(Error::Status { status: 429, retry_after: Some(_), .. })), "{later:?}");
    assert!(matches!(answer(404, b""), Err(Error::NotFound { what, .. }) if what.contains("a/app")));
    let denied = br#"{"errors":[{"code":"DENIED","message":"go \u001b[2Jaway"}]}"#;
    assert!(matches!(answer(403, denied), Err(Error::Denied { reason, .. }) if reason == "go [2Jaway"));
    assert!(matches!(answer(418, b""), Err(Error::Status { status: 418, .. })));
    let schema1 = br#"{"schemaVersion":1,"fsLayers":[],"history":[]}"#;
    assert!(matches!(answer(200, schema1), Err(Error::Document { source: oci::image::InvalidDocument::Schema1, .. })));
    let (result, _) = pull_with(|_, request| Some(Reply::status(302).header("Location", &request.path)));
    assert!(result.is_err(), "a redirect in circles");
    let (result, _) = pull_with(|_, _| Some(Reply::status(302).header("Location", "file:///etc/passwd")));
    assert!(result.is_err(), "a redirect to a file");
    let artifact = br#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.cncf.helm.config.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0},"layers":[]}"#;
    assert!(matches!(answer(200, artifact), Err(Error::Unsupported(reason)) if reason.contains("helm")));
}

#[test]
fn a_closed_port_is_not_tried_again() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let reference = format!("{address}/a:1").parse().expect("valid");
    let patient = Options { backoff: Duration::from_secs(100), ..options() };
    assert!(matches!(Store::new().pull(&reference, patient), Err(Error::Unreachable { .. })));
}

#[test]
fn plain_http_is_for_loopback_only() {
    let reference: Reference = "192.0.2.1:5000/a:1".parse().expect("valid");
    assert!(!reference.is_loopback());
    let quick = Timeouts { connect: Duration::from_millis(50), ..options().timeouts };
    let options = Options { attempts: 1, timeouts: quick, ..options() };
    let result = Store::new().pull(&reference, options);
    let tried = match &result {
        Err(Error::Transport { reason, .. } | Error::Unreachable { reason, .. }) => reason.as_str(),
        other => panic!("{other:?}"),
    };
    assert!(tried.contains("https://"), "{tried}");
}

#[test]
fn referrers_come_from_the_interface_or_from_a_tag() {
    let subject = Digest::sha256_of(b"subject");
    let entry = |kind: &str| {
        let mut entry = Descriptor::of(media_type::OCI_MANIFEST, kind.as_bytes());
        entry.artifact_type = kind.to_owned();
        entry
    };
    let index = |entries: &[Descriptor]| {
        serde_json::to_vec(&serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries,
        }))
        .expect("JSON")
    };
    let (first, second) = (index(&[entry("a/sig"), entry("a/sbom")]), index(&[entry("a/more")]));
    for by_tag in [false, true] {
        let (first, second, path) = (first.clone(), second.clone(), format!("/v2/a/app/referrers/{subject}"));
        let tag = format!("/v2/a/app/manifests/sha256-{}", subject.hex());
        let server = Server::start(move |request| match request.path.split('?').next() {
            Some(asked) if asked == path && !by_tag && request.path.contains("page=2") => Reply::ok(&second),
            Some(asked) if asked == path && !by_tag => {
                Reply::ok(&first).header("Link", &format!("<{path}?page=2>; rel=\"next\""))
            }
            Some(asked) if asked == tag && by_tag => Reply::ok(&first).header("Content-Type", media_type::OCI_INDEX),
            _ => Reply::status(404),
        });
        let client = Client::new(&server.reference("a/app:1"), options()).expect("configured");
        let kinds = |kind: Option<&str>| -> Vec<String> {
            let found = client.referrers(&subject, kind).expect("listed");
            found.into_iter().map(|referrer| referrer.artifact_type).collect()
        };
        let all = if by_tag { vec!["a/sig", "a/sbom"] } else { vec!["a/sig", "a/sbom", "a/more"] };
        assert_eq!(kinds(None), all);
        assert_eq!(kinds(Some("a/sbom")), ["a/sbom"], "filtered here when not there");
        let none = client.referrers(&Digest::sha256_of(b"other"), None).expect("no failure");
        assert!(none.is_empty());
    }
}

#[test]
fn a_list_that_leads_elsewhere_or_nowhere_ends() {
    let server = Server::start(|_| Reply::ok(br#"{"tags":["a"]}"#).header("Link", "<http://127.0.0.1:1/x>; rel=next"));
    let client = Client::new(&server.reference("a/app:1"), options()).expect("configured");
    assert!(matches!(client.tags(), Err(Error::Unsupported(_))));
    let server = Server::start(|request| {
        let next = format!("<{}x>; rel=next", request.path);
        Reply::ok(br#"{"tags":["a"]}"#).header("Link", if request.path.len() > 60 { "" } else { &next })
    });
    let client = Client::new(&server.reference("a/app:1"), options()).expect("configured");
    assert_eq!(client.tags().expect("listed"), ["a"]);
}

#[test]
fn one_failure_ends_all_waiting() {
    let image = image();
    let server = Server::start(move |request| {
        let is_small = request.path.ends_with(&Digest::sha256_of(&image.blobs[2]).to_string());
        match request.path.contains("/blobs/") {
            true if image.is_big_layer(request) => Reply { cut: Some(10), stall: true, ..image.answer(request) },
            true if is_small => {
                // After the other has begun to wait.
                std::thread::sleep(Duration::from_millis(300));
                Reply::status(403)
            }
            _ => image.answer(request),
        }
    });
    let store = Store::new();
    let patient = Timeouts { idle: Duration::from_secs(60), ..options().timeouts };
    let begin = Instant::now();
    let inbound = Inbound::new(&store.content, &store.images, &store.sink, &Quiet).parallel(2);
    let result = inbound.pull(&server.reference("a/app:1"), Options { timeouts: patient, ..options() });
    assert!(matches!(result, Err(Error::Denied { .. })), "{result:?}");
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}
