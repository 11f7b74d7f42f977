//! `lighter-runtime`: mounts, devices and hooks of bundles, as their callers ask for them.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde_json::{Value, json};
use testkit::Host;

use crate::runtime_face::{bundle, path, runtime, unique};

/// Changes the bundle's configuration.
fn edit(dir: &Path, change: impl FnOnce(&mut Value)) {
    let file = dir.join("config.json");
    let mut config = serde_json::from_slice(&std::fs::read(&file).expect("read")).expect("JSON");
    change(&mut config);
    std::fs::write(file, config.to_string()).expect("written");
}

fn add_mount(config: &mut Value, mount: Value) {
    config["mounts"].as_array_mut().expect("a list").push(mount);
}

/// Runs the bundle and gives what it said.
fn run(host: &Host, dir: &Path, id: &str) -> String {
    runtime(host, &["run", "--bundle", &path(dir), &unique(id)]).ok().out()
}

#[test]
fn id_mapped_mounts_change_owners_on_the_way_only() {
    let host = Host::new();
    let source = host.scratch("data");
    std::fs::write(source.join("file"), "x").expect("written");
    testkit::process::tool("chmod", &["777", &path(&source)]);
    let command = "stat -c %u:%g /data/file; touch /data/new; stat -c %u:%g /data/new";
    let dir = bundle(&host, "plain", &["sh", "-c", command]);
    let ids = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
    let mount = |options: &[&str], ids: Option<&Value>| {
        let mut mount = json!({"destination": "/data", "type": "bind", "source": source, "options": options});
        if let Some(ids) = ids {
            (mount["uidMappings"], mount["gidMappings"]) = (ids.clone(), ids.clone());
        }
        mount
    };
    edit(&dir, |config| {
        add_mount(config, mount(&["bind"], Some(&ids)));
        config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        config["process"]["args"] = json!(["sh", "-c", "stat -c %u:%g /data/file; echo y > /data/file"]);
    });
    assert_eq!(run(&host, &dir, "idmap"), "1000:1000");
    let meta = std::fs::metadata(source.join("file")).expect("there");
    assert_eq!((meta.uid(), meta.gid(), meta.len()), (0, 0, 2), "the host's owner stays");

    // In a user namespace: its own map, and by `idmap` alone the namespace's.
    let inside = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
    let namespaced = |name: &str, options: &[&str], expected: &str| {
        let dir = bundle(&host, name, &["sh", "-c", command]);
        // Root of the namespace is nobody in the bundle's root file system.
        for place in ["data", "proc", "dev", "sys"] {
            std::fs::create_dir_all(dir.join("rootfs").join(place)).expect("made");
        }
        edit(&dir, |config| {
            add_mount(config, mount(options, None));
            config["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({"type": "user"}));
            config["linux"]["uidMappings"] = inside.clone();
            config["linux"]["gidMappings"] = inside.clone();
        });
        assert_eq!(run(&host, &dir, name), expected);
        std::fs::remove_file(source.join("new")).expect("made by the container");
    };
    namespaced("own", &["bind", "idmap=uids=0-100005-10#20-100000-1;gids=@0-5-10#@20-0-1"], "5:5\n0:0");
    namespaced("theirs", &["bind", "ridmap"], "0:0\n0:0");

    let dir = bundle(&host, "none", &["true"]);
    edit(&dir, |config| add_mount(config, mount(&["bind", "idmap"], None)));
    let refused = runtime(&host, &["run", "--bundle", &path(&dir), &unique("none")]);
    assert!(refused.exits(1).err().contains("there is no user namespace"), "{}", refused.err());
}

#[test]
fn a_tmpfs_begins_with_what_it_covers() {
    let host = Host::new();
    let command = "cat /d/sub/f; readlink /d/l; stat -c '%a %u' /d /d/sub/f; touch /d/n; stat -c %a /e";
    let dir = bundle(&host, "b", &["sh", "-c", command]);
    let under = dir.join("rootfs/d");
    std::fs::create_dir_all(under.join("sub")).expect("made");
    std::fs::write(under.join("sub/f"), "content\n").expect("written");
    std::os::unix::fs::symlink("/nowhere", under.join("l")).expect("linked");
    std::fs::create_dir(dir.join("rootfs/e")).expect("made");
    testkit::process::tool("chmod", &["2750", &path(&under)]);
    testkit::process::tool("chmod", &["4711", &path(&under.join("sub/f"))]);
    testkit::process::tool("chmod", &["712", &path(&dir.join("rootfs/e"))]);
    edit(&dir, |config| {
        add_mount(config, json!({"destination": "d", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}));
        add_mount(config, json!({"destination": "/e", "type": "tmpfs", "source": "tmpfs", "options": ["ro"]}));
    });
    assert_eq!(run(&host, &dir, "copyup"), "content\n/nowhere\n2750 0\n4711 0\n712");
    assert!(!under.join("n").exists(), "what is written stays in the tmpfs");
}

#[test]
fn attributes_of_a_whole_tree_are_a_new_file_systems_too() {
    let host = Host::new();
    let command = "grep ' /n ' /proc/self/mountinfo | cut -d' ' -f6; touch /n/x 2>&1; touch /w/x && echo written; \
                   echo filled; ls /f; touch /f/x 2>&1";
    let dir = bundle(&host, "b", &["sh", "-c", command]);
    std::fs::create_dir_all(dir.join("rootfs/f/there")).expect("made");
    edit(&dir, |config| {
        let options = ["rro", "rnosuid", "rnoexec", "rnoatime"];
        add_mount(config, json!({"destination": "/n", "type": "tmpfs", "source": "tmpfs", "options": options}));
        add_mount(config, json!({"destination": "/w", "type": "tmpfs", "source": "tmpfs", "options": ["ro", "rrw"]}));
        add_mount(
            config,
            json!({"destination": "/f", "type": "tmpfs", "source": "tmpfs", "options": ["rro", "tmpcopyup"]}),
        );
    });
    let expected = "ro,nosuid,noexec,noatime\ntouch: /n/x: Read-only file system\nwritten\nfilled\nthere\n\
                    touch: /f/x: Read-only file system";
    assert_eq!(runtime(&host, &["run", "--bundle", &path(&dir), &unique("rro")]).exits(1).out(), expected);
}

#[test]
fn links_are_followed_inside_the_root_or_not_at_all() {
    let host = Host::new();
    let dir = bundle(&host, "b", &["sh", "-c", "cat /real/file; cat /link; readlink /copy; readlink /self"]);
    std::fs::write(dir.join("file"), "bound\n").expect("written");
    std::os::unix::fs::symlink("../../real/file", dir.join("rootfs/dangling")).expect("linked");
    std::os::unix::fs::symlink("/etc/never", dir.join("rootfs/link")).expect("linked");
    std::os::unix::fs::symlink("/some/where", dir.join("pointer")).expect("linked");
    let mount = |at: &str, from: &str, options: &[&str]| json!({"destination": at, "type": "none", "source": from, "options": options});
    edit(&dir, |config| {
        // Relative sources are the bundle's.
        add_mount(config, mount("/dangling", "file", &["bind", "ro"]));
        add_mount(config, mount("/link", "file", &["bind", "dest-nofollow"]));
        add_mount(config, mount("/copy", "pointer", &["bind", "copy-symlink"]));
        add_mount(config, mount("/self", "pointer", &["bind", "src-nofollow"]));
    });
    // The source of copy-symlink and src-nofollow is never looked behind: it leads nowhere.
    assert_eq!(run(&host, &dir, "links"), "bound\nbound\n/some/where\n/some/where");
    assert!(dir.join("rootfs/real/file").is_file());
    edit(&dir, |config| add_mount(config, mount("/proc/self", "pointer", &["bind", "src-nofollow", "dest-nofollow"])));
    let refused = runtime(&host, &["run", "--bundle", &path(&dir), &unique("self")]);
    assert!(refused.exits(1).err().contains("kernel's files"), "{}", refused.err());
}

#[test]
fn devices_are_where_they_are_asked_for() {
    let host = Host::new();
    let command = "stat -c '%F %t:%T %a %u' /own/null /fifo /dev/in/zero; echo x > /own/null";
    let dir = bundle(&host, "b", &["sh", "-c", command]);
    let devices = json!([
        {"path": "/own/null", "type": "u", "major": 1, "minor": 3, "fileMode": 0o620, "uid": 0, "gid": 7},
        {"path": "/fifo", "type": "p", "fileMode": 0o600},
        {"path": "/dev/in/zero", "type": "c", "major": 1, "minor": 5, "uid": 9},
    ]);
    edit(&dir, |config| config["linux"]["devices"] = devices.clone());
    let expected = "character special file 1:3 620 0\nfifo 0:0 600 0\ncharacter special file 1:5 666 9";
    assert_eq!(run(&host, &dir, "nodes"), expected);
    assert_eq!(run(&host, &dir, "nodes"), expected, "a second time, with the nodes still there");
}

#[test]
fn new_file_systems_are_listed_in_the_configurations_order() {
    let host = Host::new();
    // Sorted by mount id, which the kernel gives when a file system is made and not when it is attached.
    let dir = bundle(&host, "order", &["sh", "-c", "cut -d' ' -f5 /proc/self/mountinfo"]);
    edit(&dir, |config| {
        config["linux"]["maskedPaths"] = json!([]);
        config["linux"]["readonlyPaths"] = json!([]);
        add_mount(config, json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts"}));
        add_mount(config, json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["rro"]}));
    });
    assert_eq!(run(&host, &dir, "order"), "/\n/proc\n/dev\n/sys\n/dev/pts\n/dev/shm");
    edit(&dir, |config| config["process"]["args"] = json!(["sh", "-c", "touch /dev/shm/x && ls -l /dev/null"]));
    let output = runtime(&host, &["run", "--bundle", &path(&dir), &unique("order")]);
    assert!(output.exits(1).err().contains("Read-only"), "rro holds for a new file system: {output}");
}

#[test]
fn create_hooks_find_the_mounts_in_place() {
    let host = Host::new();
    let dir = bundle(
        &host,
        "b",
        &["sh", "-c", "cat /bound /proc/version > /dev/null && cat /bound; mount | grep -c ' on /bound '"],
    );
    let log = dir.join("log");
    let hook = |name: &str, script: &str| {
        let script = format!("grep -o '\"status\":\"[a-z]*\"' | sed 's/^/{name} /' >> {}; {script}", path(&log));
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
    };
    std::fs::write(dir.join("rootfs/bound"), "image\n").expect("written");
    std::fs::write(dir.join("library"), "hook\n").expect("written");
    edit(&dir, |config| {
        config["hooks"] = json!({
            "prestart": hook("prestart", "true"),
            "createRuntime": hook("createRuntime", "true"),
            // As the hooks do that bring a graphics card's libraries.
            "createContainer": hook("createContainer", "test -e rootfs/proc/self && mount --bind library rootfs/bound"),
            "poststart": hook("poststart", "true"),
            "poststop": hook("poststop", "true"),
        });
    });
    assert_eq!(run(&host, &dir, "hooks"), "hook\n1");
    let said = std::fs::read_to_string(&log).expect("hooks ran");
    let expected = "prestart \"status\":\"creating\"\ncreateRuntime \"status\":\"creating\"\n\
                    createContainer \"status\":\"creating\"\npoststart \"status\":\"running\"\n\
                    poststop \"status\":\"stopped\"\n";
    assert_eq!(said, expected);
    assert_eq!(std::fs::read_to_string(dir.join("rootfs/bound")).expect("read"), "image\n", "nothing is left mounted");
    for name in ["prestart", "createRuntime", "createContainer"] {
        edit(&dir, |config| config["hooks"] = json!({name: [{"path": "/bin/false"}]}));
        let failed = runtime(&host, &["run", "--bundle", &path(&dir), &unique("hooks")]);
        assert!(failed.exits(1).err().contains(&format!("{name} hook failed with exit code 1")), "{}", failed.err());
        assert_ne!(runtime(&host, &["state", &unique("hooks")]).status, 0, "a failed hook leaves nothing");
    }
}
