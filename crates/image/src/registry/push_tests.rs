use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use oci::image::media_type;
use oci::{Platform, Reference};

use super::super::{Credentials, Options};
use super::*;
use crate::record::{self, LayerRecord};
use crate::testing::TempDir;

/// How a registry differs from one that just works.
#[derive(Default)]
struct Quirks {
    /// Uploads in one piece are refused.
    no_whole: bool,
    /// So many requests with content are cut off after half of it.
    cuts: AtomicU32,
    /// A token is wanted that allows pushing.
    token: bool,
    /// Repository a blob may be mounted from.
    mounts: Option<&'static str>,
    /// Second chunks fail, so many times, and the first is forgotten with them.
    forgets: AtomicU32,
    /// Least bytes of a chunk but the last.
    chunk_min: usize,
    /// What a request to mount without a source is answered with, if not with an upload.
    anonymous: Option<u16>,
}

#[derive(Default)]
struct State {
    blobs: BTreeMap<String, Vec<u8>>,
    uploads: Vec<Vec<u8>>,
    manifests: Vec<(String, String, Vec<u8>)>,
    log: Vec<String>,
}

/// A registry of one repository, `a/app`, in memory.
struct Registry {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
}

struct Asked {
    method: String,
    path: String,
    authorization: String,
    content_range: String,
    content: Vec<u8>,
    whole: bool,
}

impl Registry {
    fn start(quirks: Quirks) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("bound");
        let (state, stop) = (Arc::new(Mutex::new(State::default())), Arc::new(AtomicBool::new(false)));
        let (shared, stopped, quirks) = (state.clone(), stop.clone(), Arc::new(quirks));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (shared, quirks) = (shared.clone(), quirks.clone());
                std::thread::spawn(move || drop(serve(stream, &shared, &quirks, address)));
            }
        });
        Self { address, state, stop }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }

    fn count(&self, what: &str) -> usize {
        self.state().log.iter().filter(|line| line.starts_with(what)).count()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the accepting thread so that it sees the flag.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut stream: TcpStream, state: &Mutex<State>, quirks: &Quirks, address: SocketAddr) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    // A TLS hello: this server speaks none.
    if reader.fill_buf()?.first() == Some(&0x16) {
        return Ok(());
    }
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ').map(str::to_owned);
    let mut asked = Asked {
        method: words.next().unwrap_or_default(),
        path: words.next().unwrap_or_default(),
        authorization: String::new(),
        content_range: String::new(),
        content: Vec::new(),
        whole: true,
    };
    let mut length = 0;
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap_or(0),
            "content-range" => asked.content_range = value.to_owned(),
            "authorization" => asked.authorization = value.to_owned(),
            _ => {}
        }
    }
    let cut = |left: u32| left.checked_sub(1);
    if length > 1 && quirks.cuts.fetch_update(Ordering::Relaxed, Ordering::Relaxed, cut).is_ok() {
        length /= 2;
        asked.whole = false;
    }
    reader.take(length).read_to_end(&mut asked.content)?;
    let (status, headers, body) = answer(&asked, &mut state.lock().expect("not poisoned"), quirks, address);
    if !asked.whole {
        return Ok(());
    }
    let head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    if asked.method == "HEAD" { Ok(()) } else { stream.write_all(body.as_bytes()) }
}

fn answer(asked: &Asked, state: &mut State, quirks: &Quirks, address: SocketAddr) -> (u16, String, String) {
    let nothing = String::new;
    let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
    state.log.push(format!("{} {}", asked.method, asked.path));
    if path == "/token" {
        let granted = query.contains("scope=repository:a/app:pull,push");
        return (200, nothing(), format!("{{\"token\":\"{}\"}}", if granted { "all" } else { "little" }));
    }
    if quirks.token && asked.authorization != "Bearer all" {
        let challenge = format!("Bearer realm=\"http://{address}/token\",scope=\"repository:a/app:pull\"");
        return (401, format!("WWW-Authenticate: {challenge}\r\n"), nothing());
    }
    let name = path.rsplit('/').next().unwrap_or_default();
    let place = |upload: usize| format!("Location: /v2/a/app/blobs/uploads/{upload}?_state=x\r\n");
    let upload = name.parse::<usize>().ok().filter(|_| path.contains("/uploads/"));
    match (asked.method.as_str(), upload) {
        ("HEAD", _) => (if state.blobs.contains_key(name) { 200 } else { 404 }, nothing(), nothing()),
        ("POST", _) if quirks.mounts.is_some_and(|from| query.ends_with(&format!("&from={from}"))) => {
            (201, nothing(), nothing())
        }
        ("POST", _) if query.starts_with("mount=") && quirks.anonymous.is_some() => {
            (quirks.anonymous.unwrap_or(202), nothing(), nothing())
        }
        ("POST", _) => {
            state.uploads.push(Vec::new());
            let least = format!("OCI-Chunk-Min-Length: {}\r\n", quirks.chunk_min);
            (202, place(state.uploads.len() - 1) + &least, nothing())
        }
        ("PATCH", Some(upload)) => {
            let start = asked.content_range.split('-').next().and_then(|start| start.parse().ok());
            if start != Some(state.uploads[upload].len()) {
                return (416, nothing(), nothing());
            }
            let once = |left: u32| left.checked_sub(1);
            if start > Some(0) && quirks.forgets.fetch_update(Ordering::Relaxed, Ordering::Relaxed, once).is_ok() {
                state.uploads[upload].clear();
                return (500, nothing(), nothing());
            }
            state.uploads[upload].extend(&asked.content);
            (202, place(upload), nothing())
        }
        ("GET", Some(upload)) => {
            let end = state.uploads[upload].len().saturating_sub(1);
            (204, format!("{}Range: 0-{end}\r\n", place(upload)), nothing())
        }
        ("PUT", Some(_)) if quirks.no_whole && !asked.content.is_empty() => (413, nothing(), nothing()),
        ("PUT", Some(upload)) => {
            let content = [state.uploads[upload].as_slice(), &asked.content].concat();
            let digest = Digest::sha256_of(&content).to_string();
            if !asked.whole || !query.ends_with(&format!("digest={digest}")) {
                return (400, nothing(), nothing());
            }
            state.blobs.insert(digest, content);
            (201, nothing(), nothing())
        }
        ("PUT", None) => {
            let digest = Digest::sha256_of(&asked.content);
            state.manifests.push((name.to_owned(), digest.to_string(), asked.content.clone()));
            (201, format!("Docker-Content-Digest: {digest}\r\n"), nothing())
        }
        ("DELETE", Some(_)) => (204, nothing(), nothing()),
        _ => (405, nothing(), nothing()),
    }
}

/// Progress that remembers how things ended.
#[derive(Default)]
struct Ends(Mutex<Vec<String>>);

impl Progress for Ends {
    fn begin(&self, _layers: &[LayerRecord]) {}

    fn layer(&self, _layer: &Digest, phase: Phase, _current: u64, _total: u64) {
        if matches!(phase, Phase::Pushed | Phase::There) {
            self.0.lock().expect("not poisoned").push(format!("{phase:?}"));
        }
    }

    fn mounted(&self, _layer: &Digest, from: &str) {
        self.0.lock().expect("not poisoned").push(format!("mounted {from}"));
    }
}

struct Local {
    _dir: TempDir,
    content: ContentStore,
    record: ImageRecord,
    layer: Vec<u8>,
}

fn local() -> Local {
    let dir = TempDir::new("push");
    let content = ContentStore::open(&dir.path().join("content")).expect("open");
    let layer: Vec<u8> = (0_u32..200_000).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let config = br#"{"architecture":"amd64","os":"linux"}"#;
    for bytes in [&layer[..], config] {
        content.put(bytes).expect("stored");
    }
    let descriptor = Descriptor::of(media_type::OCI_LAYER, &layer);
    let config_blob = Descriptor::of(media_type::OCI_CONFIG, config);
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config_blob, "layers": [descriptor],
    });
    let manifest = serde_json::to_vec(&manifest).expect("JSON");
    content.put(&manifest).expect("stored");
    let manifest = Descriptor::of(media_type::OCI_MANIFEST, &manifest);
    let digest = descriptor.digest.clone();
    let record = ImageRecord {
        version: record::VERSION,
        reference: None,
        target: manifest.clone(),
        manifest,
        path: Vec::new(),
        config_blob,
        platform: Platform::host(),
        layers: vec![LayerRecord { descriptor, diff_id: digest.clone(), chain_id: digest }],
        highest_id: None,
        copied: false,
        size: 0,
        created: None,
        author: String::new(),
        comment: String::new(),
        config: oci::image::ContainerConfig::default(),
        history: Vec::new(),
    };
    Local { _dir: dir, content, record, layer }
}

fn push(registry: &Registry, local: &Local, elsewhere: &BTreeMap<Digest, String>) -> (Result<Pushed>, Vec<String>) {
    let reference: Reference = format!("{}/a/app:1", registry.address).parse().expect("valid");
    let options = Options {
        credentials: Credentials::default(),
        backoff: Duration::from_millis(1),
        chunk: 64 << 10,
        ..Options::default()
    };
    let ends = Ends::default();
    let out = Outbound { content: &local.content, progress: &ends, elsewhere };
    let result = Client::to_push(&reference, options).expect("configured").push(&out, &local.record, "1", false);
    (result, ends.0.into_inner().expect("not poisoned"))
}

#[track_caller]
fn pushes(registry: &Registry, local: &Local) {
    let (pushed, ends) = push(registry, local, &BTreeMap::new());
    assert_eq!(pushed.expect("pushed").target, local.record.target);
    assert_eq!(ends, ["Pushed"]);
    let state = registry.state();
    assert_eq!(state.blobs[&local.record.layers[0].diff_id.to_string()], local.layer);
    assert_eq!(state.blobs.len(), 2);
    let names: BTreeSet<&str> = state.manifests.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["1"].into());
    assert_eq!(state.manifests[0].1, local.record.target.digest.to_string());
}

#[test]
fn what_is_missing_is_sent_once() {
    let (registry, local) = (Registry::start(Quirks::default()), local());
    pushes(&registry, &local);
    assert_eq!((registry.count("PUT /v2/a/app/blobs"), registry.count("PATCH")), (2, 0));
    let (again, ends) = push(&registry, &local, &BTreeMap::new());
    again.expect("pushed");
    assert_eq!(ends, ["There"]);
    assert_eq!(registry.count("POST"), 2);
}

#[test]
fn registries_that_want_chunks_get_them() {
    let (registry, local) = (Registry::start(Quirks { no_whole: true, ..Quirks::default() }), local());
    pushes(&registry, &local);
    // 200 000 bytes in chunks of 64 KiB, and the configuration.
    assert_eq!(registry.count("PATCH"), 4 + 1);
    assert_eq!(registry.count("DELETE"), 2, "uploads that are not gone on with are cancelled");
    let least = Quirks { no_whole: true, chunk_min: 150_000, ..Quirks::default() };
    let registry = Registry::start(least);
    pushes(&registry, &local);
    assert_eq!(registry.count("PATCH"), 2 + 1, "as large as the registry wants them");
}

#[test]
fn broken_uploads_are_taken_up_again() {
    for cuts in [1, 2, 3] {
        let (registry, local) = (Registry::start(Quirks { cuts: cuts.into(), ..Quirks::default() }), local());
        pushes(&registry, &local);
    }
    let quirks = Quirks { no_whole: true, cuts: 3.into(), ..Quirks::default() };
    pushes(&Registry::start(quirks), &local());
    let (result, _) =
        push(&Registry::start(Quirks { cuts: 1000.into(), ..Quirks::default() }), &local(), &BTreeMap::new());
    assert!(matches!(result, Err(Error::Transport { .. })), "{result:?}");
}

#[test]
fn a_registry_that_forgets_is_not_sent_things_for_ever() {
    let quirks = Quirks { no_whole: true, forgets: 40.into(), ..Quirks::default() };
    let registry = Registry::start(quirks);
    let (result, _) = push(&registry, &local(), &BTreeMap::new());
    assert!(matches!(result, Err(Error::Status { status: 500, .. })), "{result:?}");
    let patches = registry.count("PATCH");
    assert!(patches <= 12, "{patches} chunks were sent");
    let quirks = Quirks { no_whole: true, forgets: 2.into(), ..Quirks::default() };
    pushes(&Registry::start(quirks), &local());
}

#[test]
fn blobs_are_taken_over_from_other_repositories() {
    let local = local();
    let elsewhere: BTreeMap<_, _> = local.record.blobs().map(|blob| (blob.clone(), "b/other".to_owned())).collect();
    let registry = Registry::start(Quirks { mounts: Some("b/other"), ..Quirks::default() });
    let (pushed, ends) = push(&registry, &local, &elsewhere);
    pushed.expect("pushed");
    assert_eq!(ends, ["mounted b/other"]);
    assert_eq!(registry.count("PUT /v2/a/app/blobs"), 0);
    // Where that is refused, the answer begins an upload, which is used.
    let registry = Registry::start(Quirks::default());
    let (pushed, ends) = push(&registry, &local, &elsewhere);
    pushed.expect("pushed");
    assert_eq!((ends, registry.count("POST")), (vec!["Pushed".to_owned()], 2));
}

#[test]
fn a_registry_may_find_a_blob_itself() {
    let registry = Registry::start(Quirks { anonymous: Some(201), ..Quirks::default() });
    let (pushed, ends) = push(&registry, &local(), &BTreeMap::new());
    pushed.expect("pushed");
    assert_eq!((ends, registry.count("PUT /v2/a/app/blobs")), (vec!["There".to_owned()], 0));
    for refusal in [400, 404, 405] {
        pushes(&Registry::start(Quirks { anonymous: Some(refusal), ..Quirks::default() }), &local());
    }
}

#[test]
fn one_token_does_for_all() {
    let (registry, local) = (Registry::start(Quirks { token: true, ..Quirks::default() }), local());
    pushes(&registry, &local);
    assert_eq!(registry.count("GET /token"), 1);
}

#[test]
fn what_is_damaged_here_is_not_sent() {
    let (registry, local) = (Registry::start(Quirks::default()), local());
    let held = local.content.try_exclusive().expect("no error").expect("alone");
    local.content.remove(&local.record.layers[0].diff_id, &held).expect("removed");
    let (result, _) = push(&registry, &local, &BTreeMap::new());
    assert!(matches!(result, Err(Error::MissingBlob(_))), "{result:?}");
    assert_eq!(registry.count(""), 0);
}
