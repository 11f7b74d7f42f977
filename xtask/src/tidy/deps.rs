//! Dependencies point down only; every crate takes the workspace's lints.

use serde_json::Value;

use super::Breach;

/// Who may use whom, among the workspace's own crates. `oci` and `sys` are for everyone and use nothing of ours.
const ALLOWED: [(&str, &[&str]); 14] = [
    ("oci", &[]),
    ("sys", &[]),
    ("runtime", &["oci", "sys"]),
    ("container", &["runtime", "oci", "sys"]),
    ("image", &["oci", "sys"]),
    ("storage", &["oci", "sys"]),
    ("network", &["oci", "sys"]),
    ("engine", &["container", "image", "storage", "network", "oci", "sys"]),
    ("build", &["engine", "oci", "sys"]),
    ("api", &["build", "engine", "oci", "sys"]),
    ("cri", &["build", "engine", "oci", "sys"]),
    // The runtime's own command line and the monitor are entered from the binary's dispatch.
    ("cli", &["api", "cri", "build", "engine", "container", "runtime", "oci", "sys"]),
    // Test agents make system calls that rustix lacks, and filters take calls away; what is tested is the binary.
    ("tests", &["sys"]),
    ("xtask", &["tests"]),
];

/// Async executors: nothing below the servers has one.
const EXECUTORS: [&str; 5] = ["tokio", "async-std", "smol", "futures-executor", "async-executor"];

/// Where an executor may be.
const SERVERS: [&str; 2] = ["api", "cri"];

/// Crates that the design forbids everywhere, with the reason.
const BANNED: [(&str, &str); 3] = [
    ("nix", "system calls go through rustix and sys"),
    ("libcontainer", "the runtime is our own"),
    ("tokio-tar", "the extractor is our own"),
];

/// Checks the direction of dependencies in cargo's metadata.
pub(super) fn check(metadata: &Value) -> Vec<Breach> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages = list(&metadata["packages"]);
    let own: Vec<String> = packages.iter().map(|package| text(&package["name"])).collect();
    let mut breaches = Vec::new();
    for package in &packages {
        let name = text(&package["name"]);
        let place = format!("crate {name}");
        let allowed = ALLOWED.iter().find(|(known, _)| *known == name).map(|(_, below)| *below);
        if allowed.is_none() {
            breaches.push(Breach::new(&place, "is not on the map: say in xtask/src/tidy/deps.rs what it may use"));
        }
        for dependency in list(&package["dependencies"]) {
            let used = text(&dependency["name"]);
            if own.contains(&used) && !allowed.unwrap_or_default().contains(&used.as_str()) {
                breaches.push(Breach::new(&place, format!("must not depend on {used}: dependencies point down only")));
            }
            if EXECUTORS.contains(&used.as_str()) && !SERVERS.contains(&name.as_str()) {
                breaches.push(Breach::new(
                    &place,
                    format!("must not depend on {used}: no async executor below the servers"),
                ));
            }
            if let Some((_, reason)) = BANNED.iter().find(|(banned, _)| *banned == used) {
                breaches.push(Breach::new(&place, format!("must not depend on {used}: {reason}")));
            }
        }
    }
    breaches
}

/// Checks that a manifest takes the workspace's lints.
pub(super) fn check_manifest(place: &str, text: &str) -> Vec<Breach> {
    let mut lines = text.lines().map(str::trim).skip_while(|line| *line != "[lints]").skip(1);
    if lines.find(|line| !line.is_empty()) == Some("workspace = true") {
        return Vec::new();
    }
    vec![Breach::new(place, "must take the workspace's lints: [lints] workspace = true")]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn metadata(packages: &[(&str, &[&str])]) -> Value {
        let packages: Vec<Value> = packages
            .iter()
            .map(|(name, uses)| json!({"name": name, "dependencies": uses.iter().map(|used| json!({"name": used})).collect::<Vec<_>>()}))
            .collect();
        json!({ "packages": packages })
    }

    fn rules(packages: &[(&str, &[&str])]) -> Vec<String> {
        check(&metadata(packages)).into_iter().map(|breach| format!("{} {}", breach.place, breach.rule)).collect()
    }

    #[test]
    fn accepts_dependencies_that_point_down() {
        let good: [(&str, &[&str]); 5] = [
            ("oci", &["serde"]),
            ("sys", &["libc"]),
            ("runtime", &["oci", "sys"]),
            ("container", &["runtime"]),
            ("engine", &["container", "rustix"]),
        ];
        assert_eq!(rules(&good), Vec::<String>::new());
    }

    #[test]
    fn finds_siblings_upward_and_sideways_dependencies() {
        for (name, used) in [
            ("image", "storage"),
            ("storage", "image"),
            ("runtime", "container"),
            ("oci", "sys"),
            ("engine", "runtime"),
            ("image", "runtime"),
            ("sys", "tests"),
            ("engine", "cli"),
        ] {
            let found = rules(&[(name, &[used]), (used, &[])]);
            assert_eq!(
                found.iter().filter(|rule| rule.contains("point down only")).count(),
                1,
                "{name} -> {used}: {found:?}"
            );
        }
    }

    #[test]
    fn finds_executors_banned_crates_and_strangers() {
        assert!(rules(&[("engine", &["tokio"])])[0].contains("no async executor"));
        assert_eq!(rules(&[("api", &["tokio"])]), Vec::<String>::new());
        assert!(rules(&[("sys", &["nix"])])[0].contains("rustix"));
        assert!(rules(&[("extras", &[])])[0].contains("not on the map"));
    }

    #[test]
    fn finds_a_crate_without_the_lints() {
        assert_eq!(check_manifest("a", "[package]\nname = \"a\"\n\n[lints]\nworkspace = true\n"), Vec::new());
        assert_eq!(check_manifest("a", "[package]\nname = \"a\"\n").len(), 1);
        assert_eq!(check_manifest("a", "[lints]\n\n[dependencies]\nworkspace = true\n").len(), 1);
    }
}
