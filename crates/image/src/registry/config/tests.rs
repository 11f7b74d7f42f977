use super::super::endpoint::{Abilities, Scheme};
use super::*;
use crate::testing::TempDir;

/// A host with these files.
struct Files {
    dir: TempDir,
    places: Places,
}

impl Files {
    fn new() -> Self {
        let dir = TempDir::new("registry-config");
        let at = |name: &str| dir.path().join(name);
        let places = Places {
            own: vec![at("own-user.toml"), at("own-host.toml")],
            containers: vec![at("registries.conf")],
            certs: vec![at("certs.d")],
            daemon: vec![at("daemon.json")],
        };
        Self { dir, places }
    }

    fn with(self, name: &str, text: &str) -> Self {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("below the directory")).expect("made");
        std::fs::write(path, text).expect("written");
        self
    }

    fn endpoints(&self, reference: &str) -> Result<Vec<Endpoint>> {
        Configuration::read(&self.places)?.endpoints(&reference.parse().expect("a reference"), false)
    }

    /// `AUTHORITY ROOT REPOSITORY` of each endpoint.
    fn shown(&self, reference: &str) -> Vec<String> {
        let show = |e: &Endpoint| format!("{} {} {}", e.authority, e.root, e.repository);
        self.endpoints(reference).expect("read").iter().map(show).collect()
    }

    fn refused(&self) -> String {
        self.endpoints("reg.example/a/b:1").expect_err("refused").to_string()
    }
}

#[test]
fn without_configuration_there_is_the_registry() {
    let files = Files::new();
    assert_eq!(files.shown("busybox"), ["registry-1.docker.io /v2 library/busybox"]);
    assert_eq!(files.shown("reg.example:5000/a/b"), ["reg.example:5000 /v2 a/b"]);
    let endpoint = &files.endpoints("reg.example/a").expect("read")[0];
    assert!(!endpoint.plain && !endpoint.trust.anybody && endpoint.can == Abilities::ALL);
}

const REGISTRIES: &str = r#"
unqualified-search-registries = ["docker.io"]

[[registry]]
prefix = "reg.example"
location = "moved.example:5000/all"
insecure = true

[[registry]]
prefix = "reg.example/team"
location = "reg.example/team"
[[registry.mirror]]
location = "m1.example/cache"
[[registry.mirror]]
location = "m2.example"
insecure = true
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "m3.example"
pull-from-mirror = "tag-only"

[[registry]]
prefix = "*.corp.example"
[[registry.mirror]]
location = "docker.io/mirrored"

[[registry]]
location = "bad.example"
blocked = true
"#;

#[test]
fn the_longest_prefix_counts_and_locations_are_rewritten() {
    let files = Files::new().with("registries.conf", REGISTRIES);
    assert_eq!(files.shown("reg.example/x/y:1"), ["moved.example:5000 /v2 all/x/y"]);
    assert!(files.endpoints("reg.example/x/y:1").expect("read")[0].plain);
    let team = ["m1.example /v2 cache/app", "m3.example /v2 app", "reg.example /v2 team/app"];
    assert_eq!(files.shown("reg.example/team/app:1"), team);
    let digest = format!("reg.example/team/app@sha256:{}", "0".repeat(64));
    let by_digest = files.endpoints(&digest).expect("read");
    let hosts: Vec<_> = by_digest.iter().map(|e| (e.authority.as_str(), e.plain, e.can.push)).collect();
    assert_eq!(hosts, [("m1.example", false, false), ("m2.example", true, false), ("reg.example", false, true)]);
    assert_eq!(files.shown("reg.example/teams/app"), ["moved.example:5000 /v2 all/teams/app"], "no prefix of a word");
    let wild = ["registry-1.docker.io /v2 mirrored/a", "x.corp.example /v2 a"];
    assert_eq!(files.shown("x.corp.example/a"), wild);
    assert_eq!(files.endpoints("x.corp.example/a").expect("read")[0].account, "docker.io", "its own login");
    assert_eq!(files.shown("corp.example/a"), ["corp.example /v2 a"]);
    assert!(matches!(files.endpoints("bad.example/a"), Err(Error::Blocked { .. })));
    assert!(files.endpoints("bad.example.org/a").is_ok());
}

#[test]
fn ours_comes_first_and_drop_ins_replace() {
    let files = Files::new()
        .with("registries.conf", REGISTRIES)
        .with("registries.conf.d/10.conf", "[[registry]]\nprefix=\"reg.example\"\nlocation=\"dropped.example\"\n")
        .with("registries.conf.d/ignored", "not toml");
    assert_eq!(files.shown("reg.example/a"), ["dropped.example /v2 a"]);
    let files = files
        .with(
            "own-host.toml",
            "[[registry]]\nprefix=\"reg.example\"\nlocation=\"host.example\"\n[client]\nattempts=7\n",
        )
        .with("certs.d/reg.example/hosts.toml", "[host.\"https://never.example\"]\n");
    assert_eq!(files.shown("reg.example/a"), ["host.example /v2 a"]);
    let files = files.with(
        "own-user.toml",
        "short-names=\"aliases\"\n[[registry]]\nprefix=\"reg.example\"\nlocation=\"user.example\"\n\
         [client]\nidle-timeout=1.5\n[aliases]\nmine=\"reg.example/mine\"\n",
    );
    assert_eq!(files.shown("reg.example/a"), ["user.example /v2 a"]);
    let configuration = Configuration::read(&files.places).expect("read");
    let mut options = Options::default();
    configuration.tune(&mut options);
    assert_eq!((options.attempts, options.timeouts.idle), (7, Duration::from_millis(1500)));
    assert_eq!(configuration.alias("mine"), Some("reg.example/mine"));
    assert_eq!(configuration.alias("other"), None);
    // What is blocked stays so, whatever is said of mirrors.
    let files = files.with("own-user.toml", "[[registry]]\nprefix=\"bad.example\"\nlocation=\"good.example\"\n");
    assert!(matches!(files.endpoints("bad.example/a"), Err(Error::Blocked { .. })));
}

#[test]
fn hosts_toml_is_containerds() {
    let text = r#"
server = "https://up.example/registry"
[host."https://z.example:5000"]
  capabilities = ["pull"]
  ca = ["z.pem", "/abs.pem"]
  client = [["c.cert", "c.key"]]
  dial_timeout = "3s"
  [host."https://z.example:5000".header]
    x-one = "1"
    x-many = ["2", "3"]
[host."http://a.example/v2/proxy"]
  override_path = true
  skip_verify = true
"#;
    let files = Files::new().with("certs.d/reg.example/hosts.toml", text);
    let all = files.endpoints("reg.example/a:1").expect("read");
    let order = ["z.example:5000 /v2 a", "a.example /v2/proxy a", "up.example /registry/v2 a"];
    assert_eq!(files.shown("reg.example/a:1"), order, "in the order of the file");
    let dir = files.dir.path().join("certs.d/reg.example");
    assert_eq!(all[0].trust.authorities, [dir.join("z.pem"), PathBuf::from("/abs.pem")]);
    assert_eq!(all[0].trust.client, Some((dir.join("c.cert"), dir.join("c.key"))));
    assert_eq!(all[0].can, Abilities { pull: true, resolve: false, push: false });
    assert_eq!((all[0].connect, all[0].headers.len()), (Some(Duration::from_secs(3)), 3));
    assert!(all[1].trust.anybody && all[1].scheme == Some(Scheme::Http) && !all[1].plain);
    assert!(all.iter().all(|e| e.namespace.as_deref() == Some("reg.example") && e.account != "reg.example"));

    let files = files.with("certs.d/_default/hosts.toml", "[host.\"https://every.example\"]\n");
    assert_eq!(files.shown("other.example:5000/a"), ["every.example /v2 a", "other.example:5000 /v2 a"]);
    let files = files.with("certs.d/docker.io/hosts.toml", "server = \"https://registry-1.docker.io\"\n");
    let docker = &files.endpoints("busybox").expect("read")[0];
    assert_eq!((docker.account.as_str(), &docker.namespace), ("docker.io", &None));
}

#[test]
fn dockerds_mirrors_are_for_dockers_registry() {
    let files = Files::new().with(
        "daemon.json",
        r#"{"registry-mirrors":["https://m.example/","http://n.example/p"],"storage-driver":"x",
            "insecure-registries":["reg.example:5000","10.0.0.0/8"],"proxies":{"https-proxy":"http://p:1","no-proxy":"x"}}"#,
    );
    let all = [
        "m.example /v2 library/busybox",
        "n.example /p/v2 library/busybox",
        "registry-1.docker.io /v2 library/busybox",
    ];
    assert_eq!(files.shown("busybox"), all);
    assert_eq!(files.shown("reg.example/a").len(), 1);
    let plain = |reference: &str| files.endpoints(reference).expect("read")[0].plain;
    assert!(plain("reg.example:5000/a") && plain("10.1.2.3:80/a"));
    assert!(!plain("reg.example/a") && !plain("11.1.2.3:80/a"));
    let proxies = Configuration::read(&files.places).expect("read").proxies();
    assert_eq!((proxies.https.as_deref(), proxies.except.as_str()), (Some("http://p:1"), "x"));
}

#[test]
fn certificates_lie_in_a_directory_of_the_host() {
    let files = Files::new()
        .with("certs.d/reg.example/ca.crt", "")
        .with("certs.d/reg.example/me.cert", "")
        .with("certs.d/reg.example/me.key", "")
        .with("certs.d/half.example/me.cert", "");
    let trust = &files.endpoints("reg.example/a").expect("read")[0].trust;
    let dir = files.dir.path().join("certs.d/reg.example");
    assert_eq!(trust.authorities, [dir.join("ca.crt")]);
    assert_eq!(trust.client, Some((dir.join("me.cert"), dir.join("me.key"))));
    assert!(files.endpoints("half.example/a").expect_err("no key").to_string().contains("me.cert"));
    assert!(files.endpoints("other.example/a").expect("read")[0].trust.authorities.is_empty());
}

#[test]
fn mistakes_are_told_with_their_file() {
    for (name, text) in [
        ("registries.conf", "[[registry]\n"),
        ("registries.conf", "[[registry]]\nblocked=true\n"),
        ("registries.conf", "[[registry]]\nprefix=\"a*.b\"\nlocation=\"x\"\n"),
        (
            "registries.conf",
            "[[registry]]\nlocation=\"x\"\n[[registry.mirror]]\nlocation=\"y\"\npull-from-mirror=\"z\"\n",
        ),
        ("registries.conf", "[[registry]]\nlocation=\"x\"\n[[registry.mirror]]\nlocation=\"https://y\"\n"),
        ("own-user.toml", "[client]\ntypo=1\n"),
        ("own-host.toml", "short-names=\"guess\"\n"),
        ("daemon.json", "{"),
        ("certs.d/reg.example/hosts.toml", "[host.\"ftp://x\"]\n"),
        ("certs.d/reg.example/hosts.toml", "capabilities=[\"fly\"]\n"),
        ("certs.d/reg.example/hosts.toml", "dial_timeout=\"soon\"\n"),
        ("certs.d/_default/hosts.toml", "server = [1]\n"),
    ] {
        let said = Files::new().with(name, text).refused();
        assert!(said.contains(name), "{name} {text}: {said}");
    }
}
