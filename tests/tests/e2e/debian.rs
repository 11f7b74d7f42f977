//! Real distributions: two Debians with two C libraries.

use std::time::Duration;

use testkit::{Host, Registry, debian, image, process::tool};

/// Long enough to extract a distribution on a slow disk.
const SLOW: Duration = Duration::from_secs(180);

/// Makes `name` from a release's root file system.
pub(crate) fn import(host: &Host, suite: &str, name: &str) {
    let archive = debian::rootfs(suite);
    let args = ["import", "-c", "CMD [\"bash\"]", &archive.to_string_lossy(), name];
    host.finish(host.command(&args), None, SLOW).ok();
}

#[test]
fn two_debians_with_different_c_libraries_run_side_by_side() {
    let host = Host::new();
    import(&host, "bookworm", "debian:bookworm");
    import(&host, "trixie", "debian:trixie");
    let run = |name: &str, args: &[&str]| host.lighter(&[&["run", "--rm", name], args].concat());
    let output = run("debian:bookworm", &["sh", "-c", "id; cat /proc/self/uid_map; exit 7"]);
    assert!(output.exits(7).out().starts_with("uid=0(root) gid=0(root)"), "{output}");
    let map: Vec<u64> = output
        .out()
        .lines()
        .last()
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    assert_eq!((map.len(), map[0], map[2]), (3, 0, 65536), "{output}");
    assert!(map[1] >= 65536 && map[1].is_multiple_of(65536), "root inside is nobody outside\n{output}");

    assert!(run("debian:bookworm", &["apt-get", "--version"]).ok().out().starts_with("apt "));
    assert_eq!(run("debian:bookworm", &["perl", "-e", "print 6*7"]).ok().out(), "42");
    assert_eq!(run("debian:trixie", &["python3", "-c", "print(6*7)"]).ok().out(), "42");
    run(
        "debian:trixie",
        &["python3", "-c", "import subprocess, threading, socket; subprocess.run(['ls'], check=True)"],
    )
    .ok();
    run("debian:bookworm", &["sh", "-c", "useradd -m carol && su carol -c 'id -un' | grep -q carol"]).ok();
    run("debian:bookworm", &["dpkg", "--verify", "base-files"]).ok();

    for (name, suite) in [("one", "bookworm"), ("two", "trixie")] {
        host.lighter(&["run", "-d", "--name", name, &format!("debian:{suite}"), "sleep", "1000"]).ok();
    }
    let libc = |name: &str| host.lighter(&["exec", name, "ldd", "--version"]).ok().out();
    assert!(libc("one").contains("2.36"), "{}", libc("one"));
    assert!(libc("two").contains("2.41"), "{}", libc("two"));
}

#[test]
fn a_debian_travels_through_skopeo_and_a_registry() {
    let host = Host::new();
    let registry = Registry::start();
    let rootfs = std::fs::read(debian::rootfs("bookworm")).expect("the root file system");
    let archive = host.scratch("files").join("debian.tar");
    let made = testkit::Image::empty("debian:bookworm").layer(rootfs).set("Cmd", serde_json::json!(["bash"]));
    std::fs::write(&archive, made.docker_archive().tar()).expect("write the archive");
    let source = format!("docker-archive:{}", archive.display());
    registry.push(&source, "debian:bookworm");
    let name = registry.reference("debian:bookworm");
    host.finish(host.command(&["pull", &name]), None, SLOW).ok();
    host.lighter(&["run", "--rm", &name, "perl", "-e", "exit 7"]).exits(7);

    let saved = host.scratch("files").join("saved.tar");
    tool(
        "skopeo",
        &["--insecure-policy", "copy", "--quiet", &source, &format!("oci-archive:{}:debian:saved", saved.display())],
    );
    host.finish(host.command(&["load", "-i", &saved.to_string_lossy()]), None, SLOW).ok();
    host.finish(host.command(&["load", "-i", &archive.to_string_lossy()]), None, SLOW).ok();
    host.lighter(&["run", "--rm", "debian:bookworm", "apt-get", "--version"]).ok();

    // The same bytes, whichever way they came.
    let layers = |name: &str| host.inspect(name)["RootFS"]["Layers"].clone();
    assert_eq!(layers(&name), layers("debian:bookworm"));
    assert_eq!(
        layers(&name)[0],
        image::digest(&std::fs::read(debian::rootfs("bookworm")).expect("the root file system"))
    );
}
