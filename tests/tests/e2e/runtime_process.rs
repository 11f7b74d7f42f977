//! `lighter-runtime`: what a bundle's configuration says about the process itself.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use testkit::Host;
use testkit::process::{DEADLINE, Output};
use testkit::terminal::Terminal;

/// A bundle whose process is a shell with `script`, its configuration changed by `change`.
pub(crate) fn bundle(host: &Host, name: &str, script: &str, change: impl FnOnce(&mut Value)) -> PathBuf {
    let dir = host.bundle(name);
    let capabilities = json!(["CAP_KILL", "CAP_SYS_ADMIN"]);
    let mut config = json!({
        "ociVersion": "1.3.0",
        "process": {
            "user": {"uid": 0, "gid": 0}, "args": ["sh", "-c", script], "cwd": "/", "env": ["PATH=/bin"],
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        },
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]},
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}],
        },
    });
    change(&mut config);
    write(&dir, "config.json", &config);
    dir
}

fn write(dir: &Path, name: &str, value: &Value) {
    std::fs::write(dir.join(name), value.to_string()).expect("written");
}

/// A name no other test's container has: control groups are named after it.
pub(crate) fn unique(word: &str) -> String {
    format!("e2e-process-{}-{word}", std::process::id())
}

pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

pub(crate) fn runtime(host: &Host, args: &[&str]) -> Output {
    host.finish(host.runtime(args), None, DEADLINE)
}

pub(crate) fn run(host: &Host, dir: &Path, id: &str) -> Output {
    runtime(host, &["run", "--bundle", &text(dir), id])
}

/// Runs a container that stays. Its streams are its own from then on: they go nowhere, so that nobody waits for them.
pub(crate) fn detached(host: &Host, dir: &Path, id: &str) {
    let mut command = host.runtime(&["run", "--detach", "--bundle", &text(dir), id]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().expect("lighter-runtime runs").success());
}

#[test]
fn scheduling_memory_and_domain_are_the_configurations() {
    let host = Host::new();
    let script =
        "cut -d' ' -f19,41 /proc/self/stat; head -n1 /proc/self/numa_maps | cut -d' ' -f2; uname -m; ionice -p $$";
    let dir = bundle(&host, "b", script, |config| {
        config["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 7});
        config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6});
        config["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]});
        config["linux"]["personality"] = json!({"domain": "LINUX32"});
    });
    let output = run(&host, &dir, &unique("tuned"));
    let machine = if cfg!(target_arch = "x86_64") { "i686" } else { "armv8l" };
    assert_eq!(output.ok().out(), format!("7 3\nbind=static:0\n{machine}\nbest-effort: prio 6"));
    host.assert_clean();
}

#[test]
fn mistakes_are_named_before_anything_is_made() {
    let host = Host::new();
    let id = unique("wrong");
    for (at, value, field) in [
        ("linux", json!({"memoryPolicy": {"mode": "MPOL_NONE"}}), "linux.memoryPolicy.mode"),
        ("linux", json!({"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "99999"}}), "linux.memoryPolicy.nodes"),
        ("linux", json!({"personality": {"domain": "BSD"}}), "linux.personality.domain"),
        ("linux", json!({"intelRdt": {"closID": "a/b"}}), "linux.intelRdt.closID"),
        (
            "linux",
            json!({"seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}],
            }}),
            "linux.seccomp.listenerPath",
        ),
        ("process", json!({"scheduler": {"policy": "SCHED_FIFO"}}), "process.scheduler.priority"),
        ("process", json!({"ioPriority": {"class": "X"}}), "process.ioPriority.class"),
        ("process", json!({"execCPUAffinity": {"final": "x"}}), "process.execCPUAffinity.final"),
    ] {
        let dir = bundle(&host, field, "true", |config| {
            let fields = value.as_object().expect("an object").clone();
            config[at].as_object_mut().expect("an object").extend(fields);
        });
        let output = run(&host, &dir, &id);
        assert_eq!(output.status, 1, "{output}");
        assert!(output.err().contains(field), "{output}");
        assert_ne!(runtime(&host, &["state", &id]).status, 0, "nothing is left of it");
    }
    host.assert_clean();
}

#[test]
fn an_exec_runs_on_the_processors_it_is_given() {
    let host = Host::new();
    let id = unique("affinity");
    let dir = bundle(&host, "b", "exec sleep 1000", |config| {
        config["process"]["execCPUAffinity"] = json!({"initial": "0", "final": "0"});
    });
    detached(&host, &dir, &id);
    let allowed = ["grep", "Cpus_allowed_list", "/proc/self/status"];
    let exec = |before: &[&str]| runtime(&host, &[&["exec"], before, &[&id], &allowed[..]].concat());
    assert_eq!(exec(&[]).ok().out(), "Cpus_allowed_list:\t0");
    let first = runtime(&host, &["exec", &id, "grep", "Cpus_allowed_list", "/proc/1/status"]);
    let own = std::fs::read_to_string("/proc/self/status").expect("readable");
    let own = own.lines().find(|line| line.starts_with("Cpus_allowed_list")).expect("a line");
    assert_eq!(first.ok().out(), own, "it is not about the first process");
    let process = json!({
        "args": allowed, "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"],
        "execCPUAffinity": {"initial": "0"}, "scheduler": {"policy": "SCHED_IDLE"},
    });
    write(&dir, "process.json", &process);
    let file = text(&dir.join("process.json"));
    let output = runtime(&host, &["exec", "--process", &file, &id]);
    // Before Linux 6.2 a control group of processors forgets whom it was asked for, which is what `final` is for.
    let forgets = testkit::kernel_before(6, 2) && testkit::cgroup::is_v2();
    assert_eq!(output.ok().out(), if forgets { own } else { "Cpus_allowed_list:\t0" });
    runtime(&host, &["delete", "--force", &id]).ok();
    host.assert_clean();
}

#[test]
fn a_missing_directory_is_made_on_a_read_only_root() {
    let host = Host::new();
    let dir = bundle(&host, "b", "pwd; touch here 2>&1", |config| {
        config["process"]["cwd"] = json!("/made/for/it");
        config["root"]["readonly"] = json!(true);
    });
    let output = run(&host, &dir, &unique("cwd"));
    assert_eq!(output.exits(1).out(), "/made/for/it\ntouch: here: Read-only file system");
    host.assert_clean();
}

#[test]
fn a_label_nobody_enforces_is_refused() {
    let host = Host::new();
    let enforced = |path: &str| std::fs::read_to_string(path).is_ok();
    let cases = [
        ("selinuxLabel", "system_u:system_r:container_t:s0", "/sys/fs/selinux/enforce"),
        ("apparmorProfile", "unconfined", "/sys/module/apparmor/parameters/enabled"),
    ];
    for (field, value, sign) in cases.iter().filter(|case| !enforced(case.2)) {
        let dir = bundle(&host, field, "true", |config| config["process"][field] = json!(value));
        let output = run(&host, &dir, &unique("label"));
        assert_eq!(output.status, 1, "{output}");
        assert!(output.err().contains(field) && output.err().contains("not enabled"), "{output} without {sign}");
    }
    let dir = bundle(&host, "plain", "exec sleep 1000", |_| {});
    let id = unique("label");
    detached(&host, &dir, &id);
    for (flag, field, sign) in [("--process-label", cases[0].0, cases[0].2), ("--apparmor", cases[1].0, cases[1].2)] {
        if !enforced(sign) {
            let output = runtime(&host, &["exec", flag, "x", &id, "true"]);
            assert!(output.exits(255).err().contains(field), "{output}");
        }
    }
    let status = runtime(&host, &["exec", "--no-new-privs", &id, "grep", "NoNewPrivs", "/proc/self/status"]);
    assert_eq!(status.ok().out(), "NoNewPrivs:\t1");
    let groups = runtime(&host, &["exec", "-u", "5:6", "-g", "7", "-g", "8", &id, "id", "-G"]);
    assert_eq!(groups.ok().out(), "6 7 8");
    runtime(&host, &["delete", "--force", &id]).ok();
    host.assert_clean();
}

#[test]
fn a_label_of_mounts_is_for_selinux_only() {
    let host = Host::new();
    let label = "system_u:object_r:container_file_t:s0";
    let dir = bundle(&host, "b", "grep -c 'context=' /proc/mounts", |config| {
        config["linux"]["mountLabel"] = json!(label);
    });
    let (log, path) = (text(&dir.join("log")), text(&dir));
    let output =
        runtime(&host, &["--log", &log, "--log-format", "json", "run", "--bundle", &path, &unique("mount-label")]);
    if std::fs::read_to_string("/sys/fs/selinux/enforce").is_ok() {
        assert_ne!(output.ok().out(), "0", "what is new has the label");
    } else {
        assert_eq!(output.exits(1).out(), "0");
        let lines = std::fs::read_to_string(&log).expect("a log");
        assert!(lines.contains("linux.mountLabel is passed over"), "{lines}");
    }
    host.assert_clean();
}

#[test]
fn only_descriptors_of_the_caller_are_handed_on() {
    let host = Host::new();
    let id = unique("fds");
    let dir = bundle(&host, "b", "echo $LISTEN_FDS $LISTEN_PID $LISTEN_FDNAMES; ls /proc/self/fd | wc -l", |_| {});
    let shell = |words: &[&str], line: &str| {
        let inner = host.runtime(words);
        let words =
            [inner.get_program()].into_iter().chain(inner.get_args()).map(|word| format!("'{}'", word.display()));
        let words: Vec<String> = words.collect();
        let mut outer = std::process::Command::new("sh");
        outer.args(["-c", &line.replace("RUNTIME", &words.join(" "))]);
        outer.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        host.finish(outer, None, DEADLINE)
    };
    let dir = text(&dir);
    let run = ["run", "--bundle", &dir, &id];
    let output = shell(&run, "exec 3</dev/null; LISTEN_FDS=1 LISTEN_FDNAMES=web RUNTIME");
    // The three streams, the one handed on, and ls's own.
    assert_eq!(output.ok().out(), "1 1 web\n5");
    // One that is not open stays closed, and is none of the runtime's own: conmon hands on none of LISTEN_FDS, and
    // Podman asks for all up to the highest that its user named.
    let output = shell(&run, "exec 3<&-; LISTEN_FDS=1 RUNTIME");
    assert_eq!(output.ok().out(), "1 1\n4");
    detached(&host, &bundle(&host, "long", "exec sleep 1000", |_| {}), &id);
    let exec = ["exec", "--preserve-fds", "4", &id, "ls", "/proc/self/fd"];
    let output = shell(&exec, "exec 3<&- 4</dev/null 5<&- 6<&-; RUNTIME");
    assert_eq!(output.ok().out(), "0\n1\n2\n3\n4");
    runtime(&host, &["delete", "--force", &id]).ok();
    host.assert_clean();
}

#[test]
fn what_was_got_over_is_in_the_log() {
    let host = Host::new();
    let dir = bundle(&host, "b", "true", |config| {
        config["process"]["capabilities"]["bounding"] = json!(["CAP_KILL", "CAP_SYS_ADMIN", "CAP_FLY"]);
        config["hooks"] = json!({"poststop": [{"path": "/bin/false"}]});
    });
    let log = text(&dir.join("log"));
    let bundle = text(&dir);
    let output =
        runtime(&host, &["--log", &log, "--log-format", "json", "run", "--bundle", &bundle, &unique("warning")]);
    output.ok();
    let lines = std::fs::read_to_string(&log).expect("a log");
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(lines.iter().all(|line| line["level"] == "warning"), "{lines:?}");
    let messages: Vec<&str> = lines.iter().map(|line| line["msg"].as_str().expect("text")).collect();
    assert!(messages[0].contains("CAP_FLY"), "{messages:?}");
    assert!(messages[1].contains("poststop hook") && messages[1].contains("/bin/false"), "{messages:?}");
    // A log that cannot be written is no reason to act without one.
    let output = runtime(&host, &["--log", &format!("{bundle}/nowhere/log"), "list"]);
    assert!(output.exits(1).err().contains("cannot write the log"), "{output}");
    assert_eq!(output.err().lines().count(), 1, "said once: {output}");
    host.assert_clean();
}

#[test]
fn the_callers_groups_stay_where_the_annotation_says_so() {
    let host = Host::new();
    for (name, annotation, groups) in [("kept", "1", "Groups:\t7 8"), ("dropped", "0", "Groups:\t9")] {
        let dir = bundle(&host, name, "grep Groups: /proc/self/status", |config| {
            config["annotations"] = json!({"run.oci.keep_original_groups": annotation});
            config["process"]["user"]["additionalGids"] = json!([9]);
        });
        let inner = host.runtime(&["run", "--bundle", &text(&dir), &unique("groups")]);
        let mut outer = std::process::Command::new("setpriv");
        outer.args(["--groups", "7,8"]).arg(inner.get_program()).args(inner.get_args());
        outer.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        assert_eq!(host.finish(outer, None, DEADLINE).ok().out(), groups, "{name}");
    }
    host.assert_clean();
}

#[test]
fn hooks_write_where_their_annotations_say() {
    let host = Host::new();
    let dir = host.scratch("output");
    let file = |name: &str| text(&dir.join(name));
    let bundle = bundle(&host, "b", "true", |config| {
        let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo out; echo err >&2"]}]);
        config["hooks"] = json!({"createRuntime": hook, "poststop": hook});
        let files = json!({"run.oci.hooks.stdout": file("out"), "run.oci.hooks.stderr": file("err")});
        config["annotations"] = files;
    });
    runtime(&host, &["run", "--bundle", &text(&bundle), &unique("hooks")]).ok();
    for (name, line) in [("out", "out\n"), ("err", "err\n")] {
        assert_eq!(std::fs::read_to_string(file(name)).expect("written"), line.repeat(2));
    }
    host.assert_clean();
}

#[test]
fn a_terminal_is_relayed_in_the_foreground() {
    let host = Host::new();
    let id = unique("terminal");
    let dir = bundle(&host, "b", "stty size; tty; read word; echo got $word; exit 6", |config| {
        config["process"]["terminal"] = json!(true);
    });
    let mut terminal = Terminal::start(&host.runtime(&["run", "--bundle", &text(&dir), &id]));
    terminal.expect("24 80");
    terminal.expect("/dev/");
    terminal.send(b"wo''rd\n");
    terminal.expect("got wo''rd");
    assert_eq!(terminal.finish(), 6);
    assert!(terminal.echoes(), "the terminal is given back as it was");
    detached(&host, &bundle(&host, "long", "exec sleep 1000", |_| {}), &id);
    let mut terminal = Terminal::start(&host.runtime(&["exec", "--tty", &id, "sh", "-c", "stty size; tty; exit 8"]));
    terminal.expect("24 80");
    terminal.expect("/dev/pts/0");
    assert_eq!(terminal.finish(), 8);
    runtime(&host, &["delete", "--force", &id]).ok();
    host.assert_clean();
}

#[test]
fn a_console_of_the_images_own_is_not_opened() {
    let host = Host::new();
    let dir = bundle(&host, "fifo", "tty; stat -c %t:%F /dev/console", |config| {
        config["process"]["terminal"] = true.into();
        config["mounts"].as_array_mut().expect("a list").remove(1);
    });
    // Opened for writing, it would wait for a reader.
    let console = dir.join("rootfs/dev/console");
    rustix::fs::mknodat(rustix::fs::CWD, &console, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .expect("made");
    let mut terminal = Terminal::start(&host.runtime(&["run", "--bundle", &text(&dir), &unique("fifo")]));
    terminal.expect("/dev/pts/0");
    terminal.expect("88:character special file");
    assert_eq!(terminal.finish(), 0);
    host.assert_clean();
}
