//! `lighter-runtime` without privilege: as an ordinary user, as root of a user namespace, without control groups.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use testkit::process::{DEADLINE, Output};
use testkit::terminal::Terminal;
use testkit::{Host, wait};

use crate::runtime_process::{self, detached, run, runtime, text};

/// The user's id and name, of no account on this machine; and the first of the ids that are lent to it.
const UID: u32 = 7531;
const NAME: &str = "annie";
const LENT: u32 = 1_310_720_000;

/// Becomes the user, in a mount namespace where the machine's lists of users and the binary's place are the test's own.
const BECOME: &str = r#"set -e
for name in passwd subuid subgid; do mount --bind "$LISTS/$name" "/etc/$name"; done
mount --bind "$BIN" "$FACE"
eval "$BEFORE"
exec setpriv --reuid "$USER_ID" --regid "$USER_ID" --clear-groups -- "$FACE" "$@""#;

/// Hides a file of every procfs there is.
const HIDE: &str = r#"for place in $(awk '$3 == "proc" { print $2 }' /proc/mounts); do
    test ! -e "$place/meminfo" || mount --bind /dev/null "$place/meminfo"
done"#;

/// A user without any privilege, with a bundle and a place for the state of containers.
struct User {
    host: Host,
    dir: PathBuf,
    /// What is done in the user's mount namespace as root beforehand.
    before: String,
}

impl User {
    /// One to whom ids are lent, or not.
    fn new(lent: bool) -> Self {
        let host = Host::new();
        let dir = host.scratch("user");
        let lists = host.scratch("lists");
        let lent = if lent { format!("{NAME}:{LENT}:65536\n") } else { String::new() };
        let users = format!("root:x:0:0:root:/root:/bin/sh\n{NAME}:x:{UID}:{UID}::/:/bin/sh\n");
        for (name, list) in [("passwd", &users), ("subuid", &lent), ("subgid", &lent)] {
            std::fs::write(lists.join(name), list).expect("write a list");
        }
        std::fs::write(dir.join("lighter-runtime"), "").expect("make the binary's place");
        for place in ["session", "bundle"] {
            std::fs::create_dir(dir.join(place)).expect("mkdir");
            chown(dir.join(place), Some(UID), Some(UID)).expect("chown");
        }
        Self { host, dir, before: ":".to_owned() }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", BECOME, "sh"]).args(args).env_clear().stdin(Stdio::null());
        command.current_dir(self.bundle()).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("USER_ID", UID.to_string());
        command.env("LISTS", self.host.scratch("lists")).env("BIN", self.host.bin()).env("BEFORE", &self.before);
        command.env("FACE", self.dir.join("lighter-runtime")).env("XDG_RUNTIME_DIR", self.dir.join("session"));
        command
    }

    fn does(&self, args: &[&str]) -> Output {
        self.host.finish(self.command(args), None, DEADLINE)
    }

    /// As [`User::does`], for a command whose streams become the container's: they go nowhere. It has to succeed.
    fn leaves(&self, args: &[&str]) {
        let log = text(&self.bundle().join("log"));
        let mut command = self.command(&[&["--log", &log], args].concat());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let status = command.status().expect("unshare of util-linux");
        assert!(status.success(), "{args:?}: {}", std::fs::read_to_string(log).unwrap_or_default());
    }

    fn bundle(&self) -> PathBuf {
        self.dir.join("bundle")
    }

    /// Makes the bundle: what `spec --rootless` says, without a terminal, its process a shell with `script`.
    fn prepare(&self, script: &str, change: impl FnOnce(&mut Value)) {
        let made = runtime_process::bundle(&self.host, "made", "true", |_| ());
        let rootfs = self.bundle().join("rootfs");
        if !rootfs.exists() {
            std::fs::rename(made.join("rootfs"), &rootfs).expect("move the root file system");
            own(&rootfs);
        }
        let path = self.bundle().join("config.json");
        if path.exists() {
            std::fs::remove_file(&path).expect("remove the last one");
        }
        self.does(&["spec", "--rootless"]).ok();
        let text = std::fs::read_to_string(&path).expect("a configuration");
        let mut config: Value = serde_json::from_str(&text).expect("JSON");
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["sh", "-c", script]);
        change(&mut config);
        std::fs::write(&path, config.to_string()).expect("write the configuration");
    }

    fn pid(&self, id: &str) -> u64 {
        self.does(&["state", id]).ok().json()["pid"].as_u64().expect("a pid")
    }

    fn status(&self, id: &str) -> String {
        self.does(&["state", id]).ok().json()["status"].as_str().expect("a status").to_owned()
    }

    fn assert_clean(&self) {
        let left: Vec<_> = std::fs::read_dir(self.dir.join("session/lighter-runtime"))
            .map(|entries| entries.map(|entry| entry.expect("readable").file_name()).collect())
            .unwrap_or_default();
        assert!(left.is_empty(), "{left:?}");
        self.host.assert_clean();
    }
}

fn own(dir: &Path) {
    std::os::unix::fs::lchown(dir, Some(UID), Some(UID)).expect("chown");
    if dir.is_dir() && !dir.is_symlink() {
        for entry in std::fs::read_dir(dir).expect("readable") {
            own(&entry.expect("readable").path());
        }
    }
}

/// No ids of its own choice: those of the template go.
fn without_map(config: &mut Value) {
    for map in ["uidMappings", "gidMappings"] {
        config["linux"].as_object_mut().expect("an object").remove(map);
    }
}

#[test]
fn the_template_is_a_bundle_that_an_ordinary_user_runs() {
    let user = User::new(false);
    let script = "id -u; cat /proc/self/uid_map /proc/self/setgroups; echo x >/dev/null; echo $$; \
                  touch /x 2>/dev/null || echo read-only; ls /dev/pts /dev/mqueue /dev/shm >/dev/null; hostname; exit 7";
    user.prepare(script, |_| ());
    let out = user.does(&["run", "c"]).exits(7).out();
    let words: Vec<&str> = out.split_whitespace().collect();
    assert_eq!(words, ["0", "0", "7531", "1", "deny", "1", "read-only", "lighter"], "{out}");

    user.prepare("", |config| {
        config["process"]["terminal"] = json!(true);
        config["process"]["args"] = json!(["sh"]);
    });
    let mut terminal = Terminal::start(&user.command(&["run", "c"]));
    terminal.expect("# ");
    terminal.send(b"tty; exit 5\n");
    terminal.expect("/dev/pts/0");
    assert_eq!(terminal.finish(), 5);
    user.assert_clean();
}

#[test]
fn ids_that_are_lent_are_mapped_when_the_configuration_says_nothing() {
    let user = User::new(true);
    user.prepare("cat /proc/self/uid_map /proc/self/gid_map; chown 33:34 /tmp/file; ls -ln /tmp/file", |config| {
        without_map(config);
        config["root"]["readonly"] = json!(false);
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = json!(["CAP_CHOWN"]);
        }
    });
    std::fs::write(user.bundle().join("rootfs/tmp/file"), "").expect("write");
    own(&user.bundle().join("rootfs/tmp/file"));
    let out = user.does(&["run", "c"]).ok().out();
    let words: Vec<&str> = out.split_whitespace().collect();
    let lent = LENT.to_string();
    assert_eq!(words[..6], ["0", "7531", "1", "1", &lent, "65536"], "{out}");
    assert_eq!(words[6..12], words[..6], "{out}");
    assert_eq!(words[14..16], ["33", "34"], "{out}");
    let metadata = std::fs::metadata(user.bundle().join("rootfs/tmp/file")).expect("there");
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&metadata), LENT + 32);

    // A process that is not root: its id is the user's own, and the lent ones lie around it.
    user.prepare("id -u; id -G; cat /proc/self/uid_map; cat >/dev/null", |config| {
        without_map(config);
        config["process"]["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [5]});
    });
    let out = user.does(&["run", "c"]).ok().out();
    let words: Vec<&str> = out.split_whitespace().collect();
    let above = (LENT + 1000).to_string();
    assert_eq!(words, ["1000", "1000", "5", "0", &lent, "1000", "1000", "7531", "1", "1001", &above, "64536"], "{out}");
    user.leaves(&["run", "-d", "c"]);
    user.does(&["delete", "--force", "c"]).ok();
    user.assert_clean();

    // Nor does it take a user namespace: an ordinary user's container has one.
    user.prepare("id -u; cat /proc/self/uid_map", |config| {
        without_map(config);
        config["linux"]["namespaces"].as_array_mut().expect("a list").retain(|kind| kind["type"] != "user");
    });
    let output = user.does(&["run", "c"]);
    let words: Vec<String> = output.ok().out().split_whitespace().map(str::to_owned).collect();
    assert_eq!(words, ["0", "0", "7531", "1", "1", &lent, "65536"], "{output}");
    assert!(output.err().contains("warning: linux.namespaces: an ordinary user needs"), "{output}");

    // The same without a single id that is lent: the own one is the process's, and there is no root.
    let user = {
        drop(user);
        User::new(false)
    };
    user.prepare("id -u; cat /proc/self/uid_map; stat -c %u /dev; exec sleep 1000", |config| {
        without_map(config);
        config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    });
    user.leaves(&["run", "-d", "c"]);
    let out = user.does(&["exec", "c", "sh", "-c", "id -u; cat /proc/self/uid_map; stat -c %u /dev"]).ok().out();
    assert_eq!(out.split_whitespace().collect::<Vec<_>>(), ["1000", "1000", "7531", "1", "1000"], "{out}");
    user.does(&["delete", "--force", "c"]).ok();
    user.assert_clean();
}

#[test]
fn every_command_is_an_ordinary_users_too() {
    let user = User::new(true);
    for lent in [false, true] {
        user.prepare("exec sleep 1000", |config| {
            if lent {
                without_map(config);
            }
            config["process"]["oomScoreAdj"] = json!(-1000);
        });
        user.leaves(&["create", "--pid-file", &text(&user.bundle().join("pid")), "c"]);
        assert_eq!(user.status("c"), "created");
        let pid = user.pid("c");
        assert_eq!(std::fs::read_to_string(user.bundle().join("pid")).expect("a pid file"), pid.to_string());
        user.does(&["start", "c"]).ok();
        assert_eq!(user.status("c"), "running");
        assert!(user.does(&["list"]).ok().out().contains("running"));
        let groups = if lent { "allow" } else { "deny" };
        let script = "cat /proc/self/setgroups /proc/self/oom_score_adj; cat /proc/1/comm; exit 9";
        assert_eq!(user.does(&["exec", "c", "sh", "-c", script]).exits(9).out(), format!("{groups}\n0\nsleep"));
        let mut terminal = Terminal::start(&user.command(&["exec", "-t", "c", "sh", "-c", "tty; read x; exit 4"]));
        terminal.expect("/dev/pts/");
        terminal.send(b"\n");
        assert_eq!(terminal.finish(), 4);
        let other = user.does(&["exec", "--user", "5:6", "c", "id", "-u"]);
        if lent {
            assert_eq!(other.ok().out(), "5");
        } else {
            assert!(other.exits(255).err().contains("not among the ids"), "{other}");
        }
        assert_eq!(user.does(&["ps", "--format", "json", "c"]).ok().json(), json!([pid]));
        for args in
            [&["pause", "c"][..], &["resume", "c"], &["update", "--memory", "8M", "c"], &["events", "--stats", "c"]]
        {
            let output = user.does(args);
            assert!(output.exits(1).err().contains("has no control group of its own"), "{output}");
        }
        assert!(user.does(&["delete", "c"]).exits(1).err().contains("not stopped"));
        user.does(&["kill", "--all", "c", "KILL"]).ok();
        wait::until("it stopped", DEADLINE, || (user.status("c") == "stopped").then_some(()));
        user.does(&["delete", "c"]).ok();
    }
    user.assert_clean();
}

/// What is done to a configuration.
type Change<'a> = &'a dyn Fn(&mut Value);

#[test]
fn what_an_ordinary_user_may_not_have_is_said() {
    let user = User::new(true);
    let own = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
    let cases: [(&str, Change<'_>, &str); 7] = [
        ("root's id", &|config| config["linux"]["uidMappings"] = own(0), "newuidmap refuses"),
        ("another's id", &|config| config["linux"]["gidMappings"] = own(50), "newgidmap refuses"),
        (
            "groups",
            &|config| config["process"]["user"]["additionalGids"] = json!([5]),
            "process.user.additionalGids: an ordinary user",
        ),
        (
            "limits",
            &|config| config["linux"]["resources"] = json!({"pids": {"limit": 20}}),
            "cannot set pids limit: container could not join or create cgroup",
        ),
        (
            "a group by name",
            &|config| config["linux"]["cgroupsPath"] = json!("/e2e-rootless"),
            "rootless needs no limits + no cgrouppath when no permission is granted for cgroups",
        ),
        (
            "the host's network by path",
            &|config| {
                let namespaces = config["linux"]["namespaces"].as_array_mut().expect("a list");
                namespaces.push(json!({"type": "network", "path": "/proc/self/ns/net"}));
            },
            "an ordinary user can neither join",
        ),
        (
            "ids of mounts",
            &|config| {
                let mount = json!({"destination": "/x", "source": "/usr", "options": ["bind", "idmap"]});
                config["mounts"].as_array_mut().expect("a list").push(mount);
                config["root"]["readonly"] = json!(false);
            },
            "an ordinary user cannot map the ids of a file system",
        ),
    ];
    for (what, change, words) in cases {
        user.prepare("echo ran", change);
        let output = user.does(&["run", "c"]);
        assert!(output.exits(1).err().contains(words), "{what}: {output}");
        assert_eq!(output.out(), "", "{what}");
    }
    let mut command = user.command(&["run", "c"]);
    command.env_remove("XDG_RUNTIME_DIR");
    let output = user.host.finish(command, None, DEADLINE);
    assert!(output.exits(1).err().contains("XDG_RUNTIME_DIR"), "{output}");
    user.assert_clean();
}

#[test]
fn mounts_take_the_place_of_what_the_kernel_refuses() {
    let user = User::new(false);
    let script = "grep -q ' /sys .*sysfs' /proc/mounts && echo sysfs; touch /sys/x 2>&1 | grep -c Read-only; \
                  grep ' /sys ' /proc/mounts | grep -c ' ro,'; stat -f -c %t /dev/mqueue; stat -c %g /dev/pts/ptmx; \
                  grep ' /dev/null ' /proc/mounts | grep -c nosuid.*noexec; cat /proc/sys/kernel/domainname";
    user.prepare(script, |config| {
        // The file of which is root's alone.
        config["linux"]["sysctl"] = json!({"kernel.domainname": "port"});
        config["linux"]["namespaces"].as_array_mut().expect("a list").retain(|kind| kind["type"] != "network");
        for mount in config["mounts"].as_array_mut().expect("a list") {
            match mount["destination"].as_str() {
                Some("/sys") => *mount = json!({"destination": "/sys", "type": "sysfs", "source": "sysfs"}),
                // A group that nobody mapped.
                Some("/dev/pts") => mount["options"].as_array_mut().expect("a list").push(json!("gid=5")),
                _ => {}
            }
        }
    });
    let output = user.does(&["run", "c"]);
    assert_eq!(output.ok().out(), "sysfs\n1\n1\n19800202\n0\n1\nport", "{output}");
    user.assert_clean();
}

/// The kernel gives no procfs to a user namespace while a file of the procfs at hand is hidden. The host's own in its place
/// would show the container every process of the host, and what is in its environment.
#[test]
fn a_procfs_that_is_refused_is_not_the_hosts_instead() {
    let mut user = User::new(false);
    user.before = HIDE.to_owned();
    user.prepare("ls /proc; cat /proc/*/cmdline | tr '\\0' ' '; grep -c . /proc/meminfo", |_| ());
    let output = user.does(&["run", "c"]);
    assert!(output.exits(1).err().contains("cannot mount proc at /proc"), "{output}");
    assert!(output.err().contains("pid namespace") && output.out().is_empty(), "{output}");

    // Whoever shares the host's processes sees no more than before; and what is hidden stays so.
    user.prepare(
        "readlink /proc/self >/dev/null && echo own; wc -c </proc/meminfo; umount /proc/meminfo || echo kept",
        |config| {
            config["linux"]["namespaces"].as_array_mut().expect("a list").retain(|kind| kind["type"] != "pid");
            config["process"]["capabilities"]["effective"] = json!(["CAP_SYS_ADMIN"]);
            config["process"]["capabilities"]["permitted"] = json!(["CAP_SYS_ADMIN"]);
            config["process"]["capabilities"]["bounding"] = json!(["CAP_SYS_ADMIN"]);
        },
    );
    assert_eq!(user.does(&["run", "c"]).ok().out(), "own\n0\nkept");
    user.assert_clean();

    // The same for the host's root, whose containers have users of their own.
    let host = {
        drop(user);
        Host::new()
    };
    let dir = runtime_process::bundle(&host, "root", "ls /proc; cat /proc/*/cmdline", |config| {
        config["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({"type": "user"}));
        let map = json!([{"containerID": 0, "hostID": LENT, "size": 65536}]);
        config["linux"]["uidMappings"] = map.clone();
        config["linux"]["gidMappings"] = map;
    });
    let id = runtime_process::unique("hidden");
    let face = host.runtime(&["run", "--bundle", &text(&dir), &id]);
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &format!("{HIDE}; exec \"$@\""), "sh"]);
    command.arg(face.get_program()).args(face.get_args()).stdin(Stdio::null());
    let output = host.finish(command, None, DEADLINE);
    assert!(output.exits(1).err().contains("cannot mount proc at /proc"), "{output}");
    assert_eq!(output.out(), "", "{output}");
    host.assert_clean();
}

/// CVE-2019-5736 for a user with a binary of the own: root of the container is that user, and might write it.
#[test]
fn a_users_own_binary_is_out_of_the_containers_reach() {
    let mut user = User::new(false);
    user.prepare("exec sleep 1000", |_| ());
    let exe = |user: &User| {
        user.leaves(&["create", "c"]);
        let exe = std::fs::read_link(format!("/proc/{}/exe", user.pid("c"))).expect("the host's root may look");
        user.does(&["delete", "--force", "c"]).ok();
        text(&exe)
    };
    let roots = exe(&user);
    assert!(!roots.starts_with("/memfd:"), "{roots}: root's binary is nothing a user can write");
    user.host.use_own_binary();
    chown(user.host.bin(), Some(UID), Some(UID)).expect("chown");
    std::fs::set_permissions(user.host.bin(), PermissionsExt::from_mode(0o755)).expect("chmod");
    assert_eq!(exe(&user), "/memfd:lighter (deleted)");
    user.assert_clean();
}

/// A group that root has made and given to the user, in every hierarchy, with a group below it for the user's own
/// processes: as systemd's is for a session.
struct Delegated {
    name: String,
}

impl Delegated {
    fn new() -> Self {
        let name = runtime_process::unique("delegated");
        for root in testkit::cgroup::hierarchies() {
            let top = root.join(&name);
            if testkit::cgroup::is_v2() {
                std::fs::write(root.join("cgroup.subtree_control"), "+pids +memory").expect("the controllers");
            }
            std::fs::create_dir(&top).expect("make a group");
            if !testkit::cgroup::is_v2() && root.join("cpuset.cpus").exists() {
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    let all = std::fs::read_to_string(root.join(file)).expect("readable");
                    std::fs::write(top.join(file), all.trim()).expect("written");
                }
            }
            std::fs::create_dir(top.join("session")).expect("make a group");
            for dir in [top.clone(), top.join("session")] {
                for file in ["", "cgroup.procs", "tasks", "cgroup.threads", "cgroup.subtree_control"] {
                    let file = dir.join(file);
                    if file.exists() {
                        chown(file, Some(UID), Some(UID)).expect("chown");
                    }
                }
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    if dir.join(file).exists() && !testkit::cgroup::is_v2() {
                        let all = std::fs::read_to_string(root.join(file)).expect("readable");
                        std::fs::write(dir.join(file), all.trim()).expect("written");
                    }
                }
            }
        }
        Self { name }
    }

    /// The shell's words that enter it.
    fn enter(&self) -> String {
        let line = |root: PathBuf| format!("echo $$ >{}/{}/session/cgroup.procs", root.display(), self.name);
        testkit::cgroup::hierarchies().into_iter().map(line).collect::<Vec<_>>().join("; ")
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        for root in testkit::cgroup::hierarchies() {
            for dir in [root.join(&self.name).join("session"), root.join(&self.name)] {
                // A test that failed may have left more, which is found by name.
                let _ = std::fs::remove_dir(dir);
            }
        }
    }
}

#[test]
fn a_group_that_is_given_to_the_user_limits_its_containers() {
    let mut user = User::new(false);
    let group = Delegated::new();
    user.before = group.enter();
    let v2 = testkit::cgroup::is_v2();
    let script =
        "cat /proc/self/cgroup; (sleep 1 & sleep 1 & sleep 1 & sleep 1 & sleep 1 & wait) 2>&1; exec sleep 1000";
    user.prepare(script, |config| {
        config["linux"]["resources"] = json!({"pids": {"limit": 4}, "memory": {"limit": 64 << 20}});
        config["linux"]["namespaces"].as_array_mut().expect("a list").retain(|kind| kind["type"] != "cgroup");
        if !v2 {
            config["linux"]["cgroupsPath"] = json!(format!("/{}/lighter-c", group.name));
        }
    });
    user.leaves(&["create", "c"]);
    let own = std::fs::read_to_string(format!("/proc/{}/cgroup", user.pid("c"))).expect("readable");
    let here = format!("/{}/lighter-c", group.name);
    assert!(own.lines().all(|line| line.ends_with(&here)), "{own}");
    user.does(&["start", "c"]).ok();
    let read = |file: &str| {
        let mut roots = testkit::cgroup::hierarchies().into_iter().map(|root| root.join(&here[1..]).join(file));
        roots.find_map(|path| std::fs::read_to_string(path).ok()).unwrap_or_default().trim().to_owned()
    };
    let memory = if v2 { "memory.max" } else { "memory.limit_in_bytes" };
    assert_eq!((read("pids.max").as_str(), read(memory)), ("4", (64 << 20).to_string()));
    user.does(&["update", "--pids-limit", "9", "c"]).ok();
    assert_eq!(read("pids.max"), "9");
    user.does(&["pause", "c"]).ok();
    assert_eq!(user.status("c"), "paused");
    user.does(&["resume", "c"]).ok();
    assert!(user.does(&["exec", "c", "cat", "/proc/self/cgroup"]).ok().out().lines().all(|line| line.ends_with(&here)));
    assert_eq!(user.does(&["events", "--stats", "c"]).ok().json()["data"]["pids"]["limit"], 9);
    assert!(user.does(&["ps", "--format", "json", "c"]).ok().json().as_array().is_some_and(|pids| !pids.is_empty()));
    user.does(&["delete", "--force", "c"]).ok();
    assert!(!testkit::cgroup::hierarchies().iter().any(|root| root.join(&here[1..]).exists()), "the group is gone");
    user.assert_clean();
}

/// As Podman runs it for an ordinary user: as root of a user namespace that has all there is to have.
#[test]
fn root_of_a_user_namespace_has_containers_without_another() {
    let user = User::new(false);
    user.prepare("id -u; cat /proc/self/setgroups /proc/self/oom_score_adj /proc/sys/net/ipv4/ip_forward", |config| {
        without_map(config);
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("a list");
        namespaces.retain(|kind| kind["type"] != "user" && kind["type"] != "pid");
        namespaces.push(json!({"type": "network"}));
        let mounts = config["mounts"].as_array_mut().expect("a list");
        mounts[0] = json!({"destination": "/proc", "source": "/proc", "options": ["rbind"]});
        for path in ["maskedPaths", "readonlyPaths"] {
            config["linux"].as_object_mut().expect("an object").remove(path);
        }
        config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
        config["process"]["oomScoreAdj"] = json!(-1000);
    });
    let face = text(&user.dir.join("lighter-runtime"));
    let nested = |manager: &str| {
        let mut command = user.command(&[]);
        // The same words, in a user namespace with the own id alone.
        let words = BECOME.replace("-- \"$FACE\"", "-- unshare --user --map-root-user --mount \"$FACE\"");
        command = {
            let mut nested = Command::new("unshare");
            nested.args(["--mount", "sh", "-c", &words, "sh", "--cgroup-manager", manager, "run", "c"]);
            nested.env_clear().envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
            nested.current_dir(user.bundle()).stdin(Stdio::null());
            nested
        };
        user.host.finish(command, None, DEADLINE)
    };
    for manager in ["cgroupfs", "disabled"] {
        let output = nested(manager);
        assert_eq!(output.ok().out(), "0\ndeny\n0\n1", "{face} {output}");
    }
    assert!(user.dir.join("session/lighter-runtime").exists(), "it is not the host's root");
    user.assert_clean();
}

#[test]
fn containers_do_without_control_groups() {
    let host = Host::new();
    let id = runtime_process::unique("disabled");
    let dir = runtime_process::bundle(&host, "b", "cat /proc/self/cgroup; ls /sys/fs/cgroup", |config| {
        let mounts = config["mounts"].as_array_mut().expect("a list");
        mounts.push(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}));
    });
    let disabled = |args: &[&str]| runtime(&host, &[&["--cgroup-manager", "disabled"], args].concat());
    let own = std::fs::read_to_string("/proc/self/cgroup").expect("readable");
    assert_eq!(disabled(&["run", "--bundle", &text(&dir), &id]).ok().out(), own.trim_end());
    assert_ne!(run(&host, &dir, &id).ok().out(), own.trim_end(), "with groups it has one of its own");

    let dir = runtime_process::bundle(&host, "stays", "sleep 1000 & exec sleep 1001", |_| ());
    let mut command = host.runtime(&["--cgroup-manager=disabled", "run", "--detach", "--bundle", &text(&dir), &id]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().expect("lighter-runtime runs").success());
    assert_eq!(runtime(&host, &["exec", &id, "cat", "/proc/self/cgroup"]).ok().out(), own.trim_end());
    let state = runtime(&host, &["state", &id]).ok().json();
    assert_eq!(state["status"], "running");
    let pids = runtime(&host, &["ps", "--format", "json", &id]).ok().json();
    let pids = pids.as_array().expect("a list");
    assert!(pids.len() == 2 && pids.contains(&state["pid"]), "{pids:?}");
    for args in [&["pause", &id][..], &["resume", &id], &["update", "--memory", "8M", &id], &["events", "--stats", &id]]
    {
        let output = runtime(&host, args);
        assert!(output.exits(1).err().contains("has no control group of its own"), "{output}");
    }
    runtime(&host, &["exec", "--cgroup", "x", &id, "true"]).exits(255);
    runtime(&host, &["kill", "--all", &id, "KILL"]).ok();
    wait::until("it stopped", DEADLINE, || {
        (runtime(&host, &["state", &id]).ok().json()["status"] == "stopped").then_some(())
    });
    runtime(&host, &["delete", &id]).ok();

    let dir = runtime_process::bundle(&host, "limited", "echo ran", |config| {
        config["linux"]["resources"] = json!({"memory": {"limit": 8 << 20}});
    });
    let output = disabled(&["run", "--bundle", &text(&dir), &id]);
    assert!(output.exits(1).err().contains("linux.resources: limits are asked for"), "{output}");

    // Without a namespace of their own the processes cannot be told from others.
    let dir = runtime_process::bundle(&host, "shared", "exec sleep 1000", |config| {
        config["linux"]["namespaces"].as_array_mut().expect("a list").retain(|kind| kind["type"] != "pid");
    });
    let mut command = host.runtime(&["--cgroup-manager=disabled", "run", "--detach", "--bundle", &text(&dir), &id]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().expect("lighter-runtime runs").success());
    assert!(runtime(&host, &["kill", "--all", &id, "TERM"]).exits(1).err().contains("pid namespace of its own"));
    runtime(&host, &["delete", "--force", &id]).ok();
    let output = runtime(&host, &["--cgroup-manager", "other", "list"]);
    assert!(output.exits(1).err().contains("none of cgroupfs, systemd and disabled"), "{output}");
    detached(&host, &dir, &id);
    runtime(&host, &["delete", "--force", &id]).ok();
    host.assert_clean();
}

/// No control group keeps such a container from the host's devices, so that no node may work there: not one that its
/// image brings, and not one that it makes.
#[test]
fn without_control_groups_there_are_no_more_devices() {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
    let host = Host::new();
    let id = runtime_process::unique("devices");
    let opens = "(: < /full) && echo opened; mknod /dev/d c 1 7 && (: < /dev/d) && echo made; echo ran";
    let dir = runtime_process::bundle(&host, "b", opens, |config| {
        config["linux"]["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
    });
    let mode = Mode::from_raw_mode(0o666);
    mknodat(CWD, dir.join("rootfs/full"), FileType::CharacterDevice, mode, makedev(1, 7)).expect("a node");
    let disabled = || runtime(&host, &["--cgroup-manager", "disabled", "run", "--bundle", &text(&dir), &id]);
    assert_eq!(disabled().ok().out(), "ran");
    let stays = runtime_process::bundle(&host, "stays", "exec sleep 1000", |config| {
        config["linux"]["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
    });
    let mut command = host.runtime(&["--cgroup-manager=disabled", "run", "--detach", "--bundle", &text(&stays), &id]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().expect("lighter-runtime runs").success());
    let output = runtime(&host, &["exec", "--cap", "CAP_MKNOD", &id, "mknod", "/dev/d", "c", "1", "7"]);
    assert!(output.exits(255).err().contains("linux.resources.devices: control groups are disabled"), "{output}");
    runtime(&host, &["exec", &id, "true"]).ok();
    runtime(&host, &["delete", "--force", &id]).ok();

    let path = dir.join("config.json");
    let read = || -> serde_json::Value { serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("JSON") };
    let mut config = read();
    for set in ["bounding", "effective", "permitted"] {
        config["process"]["capabilities"][set] = json!(["CAP_MKNOD"]);
    }
    std::fs::write(&path, config.to_string()).expect("written");
    let output = disabled();
    assert!(output.exits(1).err().contains("linux.resources.devices: control groups are disabled"), "{output}");
    let output = run(&host, &dir, &id);
    assert!(output.ok().out().ends_with("ran"), "{output}");
    host.assert_clean();
}

#[test]
fn a_user_namespace_of_roots_has_ids_by_default() {
    let host = Host::new();
    let lists = host.scratch("lists");
    let dir = runtime_process::bundle(&host, "b", "id -u; cat /proc/self/uid_map", |config| {
        config["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({"type": "user"}));
        config["process"]["user"] = json!({"uid": 3, "gid": 3});
    });
    let id = runtime_process::unique("default");
    let with = |lent: &str| {
        for name in ["subuid", "subgid"] {
            std::fs::write(lists.join(name), lent).expect("write a list");
        }
        let face = host.runtime(&["run", "--bundle", &text(&dir), &id]);
        let script = "for n in subuid subgid; do mount --bind \"$0/$n\" /etc/$n || exit 99; done; exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]).arg(&lists).arg(face.get_program()).args(face.get_args());
        command.stdin(Stdio::null());
        host.finish(command, None, DEADLINE).ok().out().split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(with(""), "3 0 0 4");
    assert_eq!(with(&format!("root:{LENT}:10\n")), format!("3 0 {LENT} 3 3 0 1 4 {} 7", LENT + 3));
    host.assert_clean();
}
