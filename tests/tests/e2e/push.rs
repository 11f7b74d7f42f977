//! Pushing to Debian's registry, and logging in there.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use testkit::image::Packing;
use testkit::process::tool;
use testkit::{Host, Image, Registry};

fn server(reference: &str) -> String {
    reference.split('/').next().unwrap_or_default().to_owned()
}

#[test]
fn a_pushed_image_comes_back() {
    let host = Host::with_busybox();
    let registry = Registry::start();
    let name = registry.reference("team/box:1");
    host.lighter(&["tag", "busybox", &name]).ok();
    let pushed = host.lighter(&["push", &name]).ok().out();
    let id = host.lighter(&["images", "-q", "--no-trunc", &name]).ok().out();
    let lines: Vec<&str> = pushed.lines().collect();
    assert_eq!(lines[0], format!("The push refers to repository [{}]", registry.reference("team/box")));
    assert!(lines.iter().any(|line| line.ends_with(": Pushed")), "{pushed}");
    assert!(lines.last().is_some_and(|line| line.starts_with(&format!("1: digest: {id} size: "))), "{pushed}");
    let seen =
        tool("skopeo", &["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &format!("docker://{name}")]);
    assert_eq!(seen.trim(), id);

    let again = host.lighter(&["push", &name]).ok().out();
    assert!(again.contains(": Layer already exists") && !again.contains(": Pushed"), "{again}");
    let other = registry.reference("other/box:1");
    host.lighter(&["tag", "busybox", &other]).ok();
    assert!(host.lighter(&["push", &other]).ok().out().contains(": Mounted from team/box"));
    assert_eq!(host.lighter(&["push", "-q", &other]).ok().out(), other);

    host.lighter(&["image", "prune", "-af"]).ok();
    host.lighter(&["run", "--rm", &other, "true"]).ok();
    assert_eq!(host.lighter(&["images", "-q", "--no-trunc", &other]).ok().out(), id);
}

#[test]
fn all_tags_go_with_one_command() {
    let host = Host::with_busybox();
    let registry = Registry::start();
    for tag in ["1", "2", "3"] {
        host.lighter(&["tag", "busybox", &registry.reference(&format!("box:{tag}"))]).ok();
    }
    let name = registry.reference("box");
    let pushed = host.lighter(&["push", "--all-tags", &name]).ok().out();
    for tag in ["1", "2", "3"] {
        assert!(pushed.lines().any(|line| line.starts_with(&format!("{tag}: digest: sha256:"))), "{pushed}");
    }
    let tags = tool("skopeo", &["list-tags", "--tls-verify=false", &format!("docker://{name}")]);
    let tags: Value = serde_json::from_str(&tags).expect("JSON");
    let mut tags: Vec<&str> = tags["Tags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    tags.sort_unstable();
    assert_eq!(tags, ["1", "2", "3"]);
    host.lighter(&["push", "-a", &registry.reference("box:1")]).rejected("all-tags");
    host.lighter(&["push", &registry.reference("box:9")]).rejected("box:9");
    host.lighter(&["push", &name]).rejected("box:latest");
}

#[test]
fn of_an_index_goes_what_is_here() {
    let host = Host::new();
    let registry = Registry::start();
    let images = [Image::busybox("x").platform("arm64", Some("v8")).file("p", 0o644, b"arm"), Image::busybox("x")];
    registry.push_layout(&Image::oci_index(&images, Packing::Gzip), "many:1");
    host.lighter(&["pull", &registry.reference("many:1")]).ok();
    let name = registry.reference("copy:1");
    host.lighter(&["tag", &registry.reference("many:1"), &name]).ok();
    let pushed = host.lighter(&["push", &name]);
    assert!(pushed.ok().err().contains("only this platform's image"), "{pushed}");
    let other = Registry::start();
    let whole = other.reference("whole:1");
    let single = Image::oci_index(&[Image::busybox("x")], Packing::Zstd);
    registry.push_layout(&single, "single:1");
    host.lighter(&["pull", &registry.reference("single:1")]).ok();
    host.lighter(&["tag", &registry.reference("single:1"), &whole]).ok();
    let id = host.lighter(&["images", "-q", "--no-trunc", &whole]).ok().out();
    assert!(host.lighter(&["push", &whole]).ok().out().contains(&id), "an index that is whole here goes along");
}

#[test]
fn a_login_is_checked_kept_and_forgotten() {
    let host = Host::with_busybox();
    let registry = Registry::with_password("ann", "secret");
    let name = registry.reference("box:1");
    let server = server(&name);
    host.lighter(&["tag", "busybox", &name]).ok();
    host.lighter(&["push", &name]).rejected("login");
    host.lighter_reading(&["login", "-u", "ann", "--password-stdin", &server], b"wrong\n").rejected("login refused");
    assert!(!host.home().join(".docker/config.json").exists(), "a login that is refused is not kept");
    host.lighter(&["login", &server]).rejected("terminal");
    host.lighter_reading(&["login", "--password-stdin", &server], b"secret").rejected("--username");
    let output = host.lighter_reading(&["login", "-u", "ann", "--password-stdin", &server], b"secret\n");
    assert_eq!(output.ok().out(), "Login Succeeded");
    assert!(output.err().contains("unencrypted") && !output.err().contains("secret"), "{output}");
    let config = host.home().join(".docker/config.json");
    assert_eq!(std::fs::metadata(&config).expect("kept").permissions().mode() & 0o777, 0o600);
    host.lighter(&["push", &name]).ok();
    assert!(host.lighter(&["login", &server]).ok().out().contains("Username: ann"));
    assert_eq!(host.lighter(&["logout", &server]).ok().out(), format!("Removing login credentials for {server}"));
    assert_eq!(host.lighter(&["logout", &server]).ok().out(), format!("Not logged in to {server}"));
    host.lighter(&["push", &name]).rejected("login");
}

#[test]
fn a_credential_helper_keeps_the_login() {
    let host = Host::with_busybox();
    let registry = Registry::with_password("ann", "secret");
    let name = registry.reference("box:1");
    let server = server(&name);
    host.lighter(&["tag", "busybox", &name]).ok();
    let dir = host.scratch("helpers");
    let helper = dir.join("docker-credential-test");
    let script = format!(
        "#!/bin/sh\ncd {} || exit 1\ncase $1 in\nstore) cat > kept ;;\nerase) cat > /dev/null; rm -f kept ;;\n\
         get) cat > asked; [ -f kept ] && cat kept || {{ echo credentials not found in native keychain; exit 1; }} ;;\n\
         esac\n",
        dir.display()
    );
    std::fs::write(&helper, script).expect("write the helper");
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).expect("make it a program");
    std::fs::create_dir_all(host.home().join(".docker")).expect("make ~/.docker");
    let config = host.home().join(".docker/config.json");
    std::fs::write(&config, json!({"credHelpers": {&server: "test"}}).to_string()).expect("name the helper");
    let lighter = |args: &[&str], input: &[u8]| {
        let mut command = host.command(args);
        command.env("PATH", format!("{}:/usr/bin:/bin", dir.display())).stdin(std::process::Stdio::piped());
        host.finish(command, Some(input), testkit::process::DEADLINE)
    };
    lighter(&["push", &name], b"").rejected("login");
    let login = lighter(&["login", "-u", "ann", "--password-stdin", &server], b"secret");
    assert!(!login.ok().err().contains("unencrypted"), "{login}");
    assert!(!std::fs::read_to_string(&config).expect("there").contains("YW5u"), "the file has no password");
    lighter(&["push", &name], b"").ok();
    assert_eq!(std::fs::read_to_string(dir.join("asked")).expect("it was asked"), server);
    lighter(&["logout", &server], b"").ok();
    assert!(!dir.join("kept").exists());
    lighter(&["push", &name], b"").rejected("login");
}
