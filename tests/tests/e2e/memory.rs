//! The engine in 256 MiB: images larger than that come in, and archives made to fill memory are refused.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use testkit::image::{Members, Packing};
use testkit::tarball::Entry;
use testkit::{Host, Image, Output, Tar, cgroup};

/// What the engine may use, page cache included.
const CAP: u64 = 256 << 20;
/// More than that.
const MUCH: usize = 300 << 20;
/// All of it goes through a pipe and a debug build.
const DEADLINE: Duration = Duration::from_secs(120);

/// A control group of the test's own with a limit on memory.
struct Capped(PathBuf);

impl Capped {
    fn new(name: &str) -> Self {
        let (root, file) = match cgroup::is_v2() {
            true => (Path::new("/sys/fs/cgroup"), "memory.max"),
            false => (Path::new("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        };
        if cgroup::is_v2() {
            std::fs::write(root.join("cgroup.subtree_control"), "+memory").expect("the memory controller");
        }
        let dir = root.join(format!("e2e-memory-{name}-{}", std::process::id()));
        std::fs::create_dir(&dir).expect("make a control group");
        let capped = Self(dir);
        std::fs::write(capped.0.join(file), CAP.to_string()).expect("set the limit");
        capped
    }

    /// `lighter ARGS` in the group.
    fn lighter(&self, host: &Host, args: &[&str], input: &[u8]) -> Output {
        let inner = host.command(args);
        let mut command = Command::new("/bin/sh");
        let script = r#"echo $$ > "$0/cgroup.procs" && exec "$@""#;
        command.args(["-c", script]).arg(&self.0).arg(inner.get_program()).args(inner.get_args());
        command.env_clear().envs(inner.get_envs().filter_map(|(key, value)| Some((key, value?))));
        host.finish(command, Some(input), DEADLINE)
    }
}

impl Drop for Capped {
    fn drop(&mut self) {
        drop(std::fs::remove_dir(&self.0));
    }
}

#[test]
fn an_image_larger_than_the_cap_comes_in_and_goes_out() {
    let host = Host::new();
    let group = Capped::new("large");
    let layer = Tar::new().file("large", 0o644, &vec![7; MUCH]).finish();
    let archive = Packing::Gzip.pack(&Image::busybox("large:1").layer(layer).docker_archive().tar());
    group.lighter(&host, &["load", "-q"], &archive).ok();
    group.lighter(&host, &["store", "check"], b"").ok();
    let out = host.scratch("out").join("saved.tar").display().to_string();
    group.lighter(&host, &["save", "-o", &out, "large:1"], b"").ok();
    let output = host.lighter(&["run", "--rm", "large:1", "stat", "-c", "%s", "/large"]);
    assert_eq!(output.ok().out(), MUCH.to_string());
}

#[test]
fn archives_made_to_fill_memory_are_refused_within_the_cap() {
    let host = Host::new();
    let group = Capped::new("hostile");
    let layered = |tar: Tar| Image::busybox("bad:1").layer(tar.finish()).docker_archive();
    let long = || vec![b'a'; MUCH];
    let with = |name: &str| {
        let mut members: Members = Image::busybox("bad:1").docker_archive();
        members.put(name, [&b"["[..], &vec![b' '; MUCH]].concat());
        members
    };
    let header =
        |kind| layered(Tar::new().entry(&Entry { data: long(), ..Entry::new(kind, "header") }).file("f", 0o644, b""));
    let cases = [
        ("an extended header", header(b'x')),
        ("a long name", header(b'L')),
        ("a list of images", with("manifest.json")),
    ];
    for (what, members) in cases {
        let archive = Packing::Gzip.pack(&members.tar());
        drop(members);
        let output = group.lighter(&host, &["load"], &archive);
        assert_eq!(output.status, 1, "{what}: an error, not a kill\n{output}");
        assert!(output.err().contains("Error:"), "{what}\n{output}");
        assert_eq!(host.lighter(&["images", "-q"]).ok().out(), "", "{what}");
        host.lighter(&["store", "check"]).ok();
    }
}
