//! `lighter-runtime`: namespaces joined by path, and clocks of one's own.

use serde_json::{Value, json};
use testkit::Host;

use crate::runtime_process::{bundle, detached, run, runtime, text, unique};

/// The configuration with the namespaces of `pid` of these types in place of its own.
fn join(config: &mut Value, pid: u64, kinds: &[(&str, &str)]) {
    let list = config["linux"]["namespaces"].as_array_mut().expect("a list");
    for (kind, file) in kinds {
        list.retain(|namespace| namespace["type"] != *kind);
        list.push(json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")}));
    }
}

#[test]
fn a_container_joins_anothers_namespaces() {
    let host = Host::new();
    let first = unique("first");
    let dir = bundle(&host, "first", "exec sleep 1000", |_| ());
    detached(&host, &dir, &first);
    let state: Value = serde_json::from_str(&runtime(&host, &["state", &first]).ok().out()).expect("JSON");
    let pid = state["pid"].as_u64().expect("a pid");
    let theirs = |name: &str| {
        std::fs::read_link(format!("/proc/{pid}/ns/{name}")).expect("a link").to_string_lossy().into_owned()
    };

    let kinds = [("pid", "pid"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts")];
    let script = "cat /proc/1/cmdline | tr '\\0' ' '; for n in pid net ipc uts; do readlink /proc/self/ns/$n; done";
    let expected = format!("sleep 1000 {}\n{}\n{}\n{}", theirs("pid"), theirs("net"), theirs("ipc"), theirs("uts"));
    let joined = bundle(&host, "joined", script, |config| join(config, pid, &kinds));
    assert_eq!(run(&host, &joined, &unique("joined")).ok().out(), expected);

    let script = "for n in net ipc uts; do readlink /proc/self/ns/$n; done; cat /proc/self/uid_map";
    let users = bundle(&host, "users", script, |config| {
        join(config, pid, &kinds[1..]);
        config["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({"type": "user"}));
        let map = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
        config["linux"]["uidMappings"] = map.clone();
        config["linux"]["gidMappings"] = map;
    });
    let out = run(&host, &users, &unique("users")).ok().out();
    let words: Vec<&str> = out.split_whitespace().collect();
    assert_eq!(words, [&*theirs("net"), &theirs("ipc"), &theirs("uts"), "0", "0", "65536"]);

    let named = bundle(&host, "named", "cat /proc/sys/kernel/hostname", |config| {
        join(config, pid, &[("uts", "uts")]);
        config["hostname"] = json!("joined");
    });
    assert_eq!(run(&host, &named, &unique("named")).ok().out(), "joined");
    for field in ["hostname", "domainname"] {
        let hosts = bundle(&host, field, "true", |config| {
            join(config, std::process::id().into(), &[("uts", "uts")]);
            config.as_object_mut().expect("an object").remove("hostname");
            config[field] = json!("changed");
        });
        let output = run(&host, &hosts, &unique(field));
        assert_eq!(output.status, 1, "{output}");
        assert!(output.err().contains(&format!("{field}: would change the host's")), "{output}");
    }

    let id = unique("wrong");
    let wrong = bundle(&host, "wrong", "true", |config| join(config, pid, &[("pid", "net")]));
    let output = run(&host, &wrong, &id);
    assert_eq!(output.status, 1, "{output}");
    assert!(output.err().contains("linux.namespaces") && output.err().contains("is not a Pid namespace"), "{output}");
    assert_ne!(runtime(&host, &["state", &id]).status, 0, "nothing is left of it");

    assert_eq!(runtime(&host, &["delete", "--force", &first]).status, 0);
    host.assert_clean();
}

#[test]
fn clocks_are_set_before_anybody_reads_them() {
    let host = Host::new();
    let dir = bundle(&host, "clocks", "cat /proc/self/timens_offsets; cut -d. -f1 /proc/uptime", |config| {
        config["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({"type": "time"}));
        config["linux"]["timeOffsets"] =
            json!({"boottime": {"secs": 1_000_000_000, "nanosecs": 5}, "monotonic": {"secs": 7}});
    });
    let out = run(&host, &dir, &unique("clocks")).ok().out();
    let words: Vec<&str> = out.split_whitespace().collect();
    assert_eq!(words[..6], ["monotonic", "7", "0", "boottime", "1000000000", "5"], "{}", text(&dir));
    assert!(words[6].parse::<u64>().expect("a number") > 1_000_000_000, "{out}");

    let config = dir.join("config.json");
    let past = std::fs::read_to_string(&config).expect("read").replace("1000000000", "-9000000000");
    std::fs::write(&config, past).expect("written");
    let output = run(&host, &dir, &unique("past"));
    assert_eq!(output.status, 1, "{output}");
    assert!(output.err().contains("linux.timeOffsets"), "{output}");
    host.assert_clean();
}
