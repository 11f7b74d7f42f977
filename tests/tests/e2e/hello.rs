//! The first thing a new user does: `lighter run lighter.local/hello` on a machine without a network.

use testkit::Host;

#[test]
fn hello_needs_no_network_and_tells_what_a_container_is() {
    let host = Host::new();
    let output = host.lighter(&["run", "--rm", "lighter.local/hello"]);
    let text = output.ok().out().to_lowercase();
    for word in [
        "process 1",
        "namespace",
        "root",
        "outside",
        "capabilit",
        "seccomp",
        "memory",
        "cpu",
        "processes",
        "mount",
        "ms",
    ] {
        assert!(text.contains(word), "says something of {word:?}\n{output}");
    }
    host.assert_clean();
}

#[test]
fn version_and_info_answer_on_a_fresh_machine() {
    let host = Host::new();
    let version = host.lighter(&["version"]);
    assert!(version.ok().out().contains(env!("CARGO_PKG_VERSION")), "{version}");
    let info = host.lighter(&["info"]);
    assert!(info.ok().out().contains(&host.root().display().to_string()), "{info}");
}
