//! Registries that want tokens or certificates, and that stand behind mirrors and proxies.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use testkit::authority::Authority;
use testkit::http::{Body, Response, Server, shelf};
use testkit::image::{Members, Packing};
use testkit::tokens::{self, Habits};
use testkit::tunnel::Tunnel;
use testkit::{Host, Image, Registry};

/// Writes below the user's configuration, `~/.config`.
fn configure(host: &Host, name: &str, text: impl AsRef<[u8]>) {
    let path = host.home().join(".config").join(name);
    std::fs::create_dir_all(path.parent().expect("below a directory")).expect("make the directory");
    std::fs::write(path, text).expect("write the configuration");
}

/// Registries that answer only in time, tried twice.
pub(crate) fn be_quick(host: &Host, more: &str) {
    let text = format!("[client]\nattempts = 2\nidle-timeout = 1\nresponse-timeout = 2\nleast-rate = 1000\n{more}");
    configure(host, "lighter/registries.toml", text);
}

fn copy(from: &Path, host: &Host, name: &str) {
    configure(host, name, std::fs::read(from).expect("read the certificate"));
}

/// An image whose second layer does not compress: 4 MiB.
pub(crate) fn big() -> Members {
    let noise: Vec<u8> =
        (0_u32..1 << 20).flat_map(|n| n.wrapping_mul(2_654_435_761).rotate_left(n % 31).to_le_bytes()).collect();
    Image::busybox("x").file("noise", 0o644, &noise).oci_layout(Packing::Gzip)
}

/// Debian's registry with tokens that `authority` signs, and the server that gives them.
fn token_registry(authority: Authority, habits: Habits) -> (Registry, Server) {
    let bundle = authority.certificate();
    let server = tokens::serve(authority, habits);
    let auth = format!(
        "auth: {{token: {{realm: \"http://{}/token\", service: {}, issuer: {}, rootcertbundle: {}}}}}\n",
        server.address(),
        tokens::SERVICE,
        tokens::ISSUER,
        bundle.display()
    );
    (Registry::configured(None, &auth), server)
}

#[test]
fn tokens_let_in_whoever_logged_in() {
    let host = Host::with_busybox();
    for habits in [Habits { no_post: false, life: 1 }, Habits { no_post: true, life: 300 }] {
        let authority = Authority::new(host.scratch(if habits.no_post { "get" } else { "post" }));
        let (registry, server) = token_registry(authority, habits);
        let (name, place) = (registry.reference("team/box:1"), registry.address());
        host.lighter(&["tag", "busybox", &name]).ok();
        host.lighter(&["push", &name]).rejected("lighter login");
        host.lighter_reading(&["login", "-u", "ann", "--password-stdin", &place], b"wrong").rejected("login refused");
        host.lighter_reading(&["login", "-u", "ann", "--password-stdin", &place], b"secret").ok();
        let config = std::fs::read(host.home().join(".docker/config.json")).expect("the login is kept");
        let config: Value = serde_json::from_slice(&config).expect("JSON");
        let kept = &config["auths"][&place];
        if habits.no_post {
            assert_eq!(kept["auth"], "YW5uOnNlY3JldA==", "an identity token is of no use where OAuth is not spoken");
            assert_eq!(kept["identitytoken"], Value::Null);
        } else {
            assert_eq!(kept["identitytoken"], tokens::IDENTITY, "{config}");
            assert_eq!(kept["auth"], "YW5uOg==", "the password is not kept");
        }
        host.lighter(&["push", &name]).ok();
        let other = registry.reference("other/box:1");
        host.lighter(&["tag", "busybox", &other]).ok();
        assert!(host.lighter(&["push", &other]).ok().out().contains(": Mounted from team/box"), "a scope for both");
        host.lighter(&["rmi", &name, &other]).ok();
        host.lighter(&["run", "--rm", &name, "true"]).ok();
        let posted = server.seen().iter().any(|request| request.method == "POST" && !request.body.is_empty());
        assert!(posted, "OAuth comes first");
        let right =
            |request: &testkit::http::Request| request.authorization.as_deref() == Some("Basic YW5uOnNlY3JldA==");
        let got = server.seen().iter().any(|request| request.method == "GET" && right(request));
        assert_eq!(got, habits.no_post, "and the older way where it is not taken");
        host.lighter(&["logout", &place]).ok();
        host.lighter(&["rmi", &name]).ok();
        host.lighter(&["pull", &name]).rejected("lighter login");
    }
}

#[test]
fn a_private_authority_is_trusted_where_it_is_configured() {
    let host = Host::with_busybox();
    let authority = Authority::new(host.scratch("authority"));
    let (certificate, key) = authority.server("registry", "IP:127.0.0.1");
    let tls = format!("certificate: {}, key: {}", certificate.display(), key.display());
    let registry = Registry::configured(Some(&tls), "");
    let name = registry.reference("team/box:1");
    host.lighter(&["tag", "busybox", &name]).ok();
    let place = registry.address();
    let stranger = Authority::new(host.scratch("stranger"));
    copy(&stranger.certificate(), &host, &format!("docker/certs.d/{place}/ca.crt"));
    let refused = host.lighter(&["push", &name]);
    refused.rejected("certificate");
    copy(&authority.certificate(), &host, &format!("docker/certs.d/{place}/ca.crt"));
    host.lighter(&["push", &name]).ok();
    host.lighter(&["rmi", &name]).ok();
    host.lighter(&["run", "--rm", &name, "true"]).ok();
    std::fs::remove_dir_all(host.home().join(".config/docker")).expect("take the certificates away");
    // The same by containerd's file.
    let text = format!("server = \"https://{place}\"\nca = {:?}\n", stranger.certificate());
    configure(&host, &format!("containerd/certs.d/{place}/hosts.toml"), text);
    host.lighter(&["pull", &name]).rejected("certificate");
    let text = format!("server = \"https://{place}\"\nca = {:?}\n", authority.certificate());
    configure(&host, &format!("containerd/certs.d/{place}/hosts.toml"), text);
    host.lighter(&["pull", &name]).ok();
}

#[test]
fn a_client_shows_its_certificate() {
    let host = Host::with_busybox();
    let authority = Authority::new(host.scratch("authority"));
    let (certificate, key) = authority.server("registry", "IP:127.0.0.1");
    let ca = authority.certificate();
    let tls = format!("certificate: {}, key: {}, clientcas: [{}]", certificate.display(), key.display(), ca.display());
    let registry = Registry::configured(Some(&tls), "");
    let (name, place) = (registry.reference("box:1"), registry.address());
    host.lighter(&["tag", "busybox", &name]).ok();
    copy(&ca, &host, &format!("docker/certs.d/{place}/ca.crt"));
    host.lighter(&["push", &name]).rejected(&place);
    let (certificate, key) = authority.client("ann");
    copy(&certificate, &host, &format!("docker/certs.d/{place}/ann.cert"));
    host.lighter(&["push", &name]).rejected("ann.cert");
    copy(&key, &host, &format!("docker/certs.d/{place}/ann.key"));
    host.lighter(&["push", &name]).ok();
}

#[test]
fn a_proxy_leads_to_registries_elsewhere() {
    let host = Host::with_busybox();
    let authority = Authority::new(host.scratch("authority"));
    let (certificate, key) = authority.server("registry", "DNS:registry.test");
    let tls = format!("certificate: {}, key: {}", certificate.display(), key.display());
    let registry = Registry::configured(Some(&tls), "");
    let tunnel = Tunnel::to(registry.address());
    let name = "registry.test:5000/team/box:1";
    host.lighter(&["tag", "busybox", name]).ok();
    let through = |args: &[&str], variables: &[(&str, &str)]| {
        let mut command = host.command(args);
        command.envs(variables.iter().copied());
        host.finish(command, None, testkit::process::DEADLINE)
    };
    let url = tunnel.url();
    let ca = authority.certificate().display().to_string();
    through(&["push", name], &[("https_proxy", &url)]).rejected("certificate");
    through(&["push", name], &[("https_proxy", &url), ("SSL_CERT_FILE", &ca)]).ok();
    assert!(tunnel.asked().iter().all(|asked| asked == "registry.test:5000"), "{:?}", tunnel.asked());
    host.lighter(&["rmi", name]).ok();
    let before = tunnel.asked().len();
    through(&["pull", name], &[("HTTPS_PROXY", &url), ("NO_PROXY", "registry.test"), ("SSL_CERT_FILE", &ca)])
        .rejected("registry.test");
    assert_eq!(tunnel.asked().len(), before, "an exception is spoken to directly");
    configure(&host, "docker/daemon.json", json!({"proxies": {"https-proxy": url}}).to_string());
    copy(&authority.certificate(), &host, "containers/certs.d/registry.test:5000/ca.crt");
    host.lighter(&["pull", name]).ok();
    assert!(tunnel.asked().len() > before);
    host.lighter(&["run", "--rm", name, "true"]).ok();
}

/// A mirror that answers every second request with an error or half of what it promised.
fn flaky(layout: Members) -> Server {
    let count = AtomicUsize::new(0);
    Server::start(move |request| {
        let right = shelf(&layout, request);
        match count.fetch_add(1, Ordering::Relaxed) % 4 {
            1 => Response::status(500),
            3 => match right.body {
                Body::Whole(bytes) => {
                    Response { body: Body::CutShort(bytes[..bytes.len() / 2].to_vec(), bytes.len() as u64), ..right }
                }
                _ => Response::status(502),
            },
            _ => right,
        }
    })
}

#[test]
fn a_mirror_that_fails_half_the_time_is_no_hindrance() {
    let host = Host::new();
    let registry = Registry::start();
    let layout = big();
    registry.push_layout(&layout, "team/app:1");
    let mirror = flaky(layout);
    let (name, place) = (registry.reference("team/app:1"), registry.address());
    let ours = format!(
        "[[registry]]\nprefix = \"{place}\"\nlocation = \"{place}\"\n[[registry.mirror]]\nlocation = \"{}\"\n",
        mirror.address()
    );
    let theirs = format!(
        "server = \"http://{place}\"\n[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
        mirror.address()
    );
    for (file, text) in [
        ("lighter/registries.toml".to_owned(), &ours),
        ("containers/registries.conf".to_owned(), &ours),
        (format!("containerd/certs.d/{place}/hosts.toml"), &theirs),
    ] {
        configure(&host, &file, text);
        let before = mirror.seen().len();
        for _ in 0..3 {
            host.lighter(&["pull", &name]).ok();
            host.lighter(&["run", "--rm", &name, "ls", "/noise"]).ok();
            host.lighter(&["rmi", &name]).ok();
        }
        assert!(mirror.seen().len() > before + 3, "the mirror is asked first");
        std::fs::remove_file(host.home().join(".config").join(&file)).expect("take it away");
    }
    assert!(mirror.seen().iter().any(|request| request.path.contains(&format!("ns={place}"))), "containerd's ns");
}

#[test]
fn a_mirror_gets_no_login_of_the_registrys() {
    let host = Host::new();
    let registry = Registry::with_password("ann", "secret");
    let layout = Image::busybox("x").oci_layout(Packing::Gzip);
    registry.push_layout(&layout, "box:1");
    let mirror = Server::start(|_| Response::status(401).header("WWW-Authenticate", "Basic realm=\"mirror\""));
    let (name, place) = (registry.reference("box:1"), registry.address());
    let text = format!(
        "[[registry]]\nlocation = \"{place}\"\n[[registry.mirror]]\nlocation = \"{}\"\n[[registry.mirror]]\nlocation = \"{}\"\n",
        mirror.address(),
        // Nobody is there.
        format_args!("127.0.0.1:{}", testkit::registry::free_port())
    );
    configure(&host, "containers/registries.conf", text);
    host.lighter_reading(&["login", "-u", "ann", "--password-stdin", &place], b"secret").ok();
    host.lighter(&["pull", &name]).ok();
    assert!(!mirror.seen().is_empty());
    assert!(mirror.seen().iter().all(|request| request.authorization.is_none()), "{:?}", mirror.seen());
    host.lighter(&["rmi", &name]).ok();
    // A login of its own is used, also one that containers' tools have kept for a part of it.
    let auth = json!({"auths": {format!("{}/box", mirror.address()): {"auth": "bWU6bWluZQ=="}}});
    configure(&host, "containers/auth.json", auth.to_string());
    host.lighter(&["pull", &name]).ok();
    let said: Vec<_> = mirror.seen().into_iter().filter_map(|request| request.authorization).collect();
    assert!(!said.is_empty() && said.iter().all(|auth| auth == "Basic bWU6bWluZQ=="), "{said:?}");
}

#[test]
fn a_mirror_with_other_content_is_not_believed() {
    let host = Host::new();
    let registry = Registry::start();
    let layout = big();
    registry.push_layout(&layout, "app:1");
    let mirror = Server::start(move |request| {
        if request.path.contains("nothing") {
            return Response::status(404);
        }
        let right = shelf(&layout, request);
        match right.body.clone() {
            Body::Whole(mut bytes) if request.path.contains("/blobs/") && !bytes.is_empty() => {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0x40;
                right.body(Body::Whole(bytes))
            }
            _ => right,
        }
    });
    let (name, place) = (registry.reference("app:1"), registry.address());
    let text =
        format!("[[registry]]\nlocation = \"{place}\"\n[[registry.mirror]]\nlocation = \"{}\"\n", mirror.address());
    configure(&host, "containers/registries.conf", text);
    host.lighter(&["run", "--rm", &name, "ls", "/noise"]).ok();
    assert!(mirror.seen().iter().any(|request| request.path.contains("/blobs/")));
    // When nobody has it, what the mirrors said is told as well.
    let missing = host.lighter(&["pull", &registry.reference("nothing:1")]);
    missing.rejected("nothing 1 not found");
    assert!(missing.err().contains(&format!("a mirror failed before: registry {}", mirror.address())), "{missing}");
}

#[test]
fn what_is_blocked_or_wrongly_configured_is_said() {
    let host = Host::new();
    configure(&host, "containers/registries.conf", "[[registry]]\nlocation = \"127.0.0.1:1/bad\"\nblocked = true\n");
    host.lighter(&["pull", "127.0.0.1:1/bad/box:1"]).rejected("blocked");
    host.lighter(&["run", "--rm", "127.0.0.1:1/bad/box:1", "true"]).refused(125, "blocked");
    configure(&host, "lighter/registries.toml", "[client]\nattempts = \"many\"\n");
    host.lighter(&["pull", "127.0.0.1:1/box:1"]).rejected("registries.toml");
}

#[test]
fn short_names_are_dockers_unless_wanted_otherwise() {
    let host = Host::new();
    let registry = Registry::start();
    registry.push_layout(&Image::busybox("x").oci_layout(Packing::Gzip), "team/box:1");
    let aliases = format!("[aliases]\nshortbox = \"{}\"\n", registry.reference("team/box"));
    configure(&host, "containers/registries.conf", &aliases);
    be_quick(&host, "");
    host.lighter(&["create", "--pull", "never", "shortbox:1"]).rejected("No such image: shortbox:1");
    configure(&host, "lighter/registries.toml", "short-names = \"aliases\"\n");
    let name = registry.reference("team/box:1");
    assert!(host.lighter(&["pull", "shortbox:1"]).ok().out().ends_with(&name));
    host.lighter(&["run", "--rm", "shortbox:1", "true"]).ok();
    assert_eq!(host.lighter(&["images", "-q"]).ok().out().lines().count(), 1);
}

#[test]
fn a_credential_helper_keeps_an_identity_token() {
    use std::os::unix::fs::PermissionsExt as _;
    let host = Host::with_busybox();
    let (registry, _server) =
        token_registry(Authority::new(host.scratch("authority")), Habits { no_post: false, life: 60 });
    let (name, place) = (registry.reference("box:1"), registry.address());
    let dir = host.scratch("helpers");
    let script = format!(
        "#!/bin/sh\ncd {} || exit 1\ncase $1 in\nstore) cat > kept ;;\nget) cat kept ;;\nesac\n",
        dir.display()
    );
    let helper = dir.join("docker-credential-vault");
    std::fs::write(&helper, script).expect("write the helper");
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).expect("make it a program");
    std::fs::create_dir_all(host.home().join(".docker")).expect("make ~/.docker");
    let config = json!({"credsStore": "vault"}).to_string();
    std::fs::write(host.home().join(".docker/config.json"), config).expect("name the helper");
    let lighter = |args: &[&str], input: &[u8]| {
        let mut command = host.command(args);
        command.env("PATH", format!("{}:/usr/bin:/bin", dir.display())).stdin(std::process::Stdio::piped());
        host.finish(command, Some(input), testkit::process::DEADLINE)
    };
    lighter(&["login", "-u", "ann", "--password-stdin", &place], b"secret").ok();
    let kept: Value = serde_json::from_slice(&std::fs::read(dir.join("kept")).expect("kept")).expect("JSON");
    assert_eq!((&kept["Username"], &kept["Secret"]), (&json!("<token>"), &json!(tokens::IDENTITY)));
    host.lighter(&["tag", "busybox", &name]).ok();
    lighter(&["push", &name], b"").ok();
    lighter(&["rmi", &name], b"").ok();
    lighter(&["pull", &name], b"").ok();
}
