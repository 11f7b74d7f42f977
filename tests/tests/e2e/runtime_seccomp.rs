//! `lighter-runtime`: system calls that an agent answers (`SCMP_ACT_NOTIFY`).

use std::path::Path;

use serde_json::{Value, json};
use testkit::Host;
use testkit::agent::{Agent, Verdict};
use testkit::process::DEADLINE;

use crate::runtime_process::{bundle, detached, run, runtime, text, unique};

/// A filter that hands `names` to the agent at `path`.
fn notify(path: &Path, names: &[&str]) -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path, "listenerMetadata": "of the test",
        "syscalls": [{"names": names, "action": "SCMP_ACT_NOTIFY"}],
    })
}

/// Answers every call with ENOMEDIUM.
fn no_medium(path: &Path) -> Agent {
    Agent::listen(path, |_| Some(Verdict::Error(sys_error(123))))
}

fn sys_error(number: i32) -> rustix::io::Errno {
    rustix::io::Errno::from_raw_os_error(number)
}

const MKDIR: [&str; 2] = ["mkdir", "mkdirat"];

#[test]
fn an_agent_answers_for_the_kernel() {
    let host = Host::new();
    let agent = no_medium(&host.scratch("agent").join("socket"));
    for no_new_privileges in [false, true] {
        let dir = bundle(&host, &format!("b{no_new_privileges}"), "mkdir /made 2>&1; ls -d /made 2>&1", |config| {
            config["process"]["noNewPrivileges"] = json!(no_new_privileges);
            config["annotations"] = json!({"a": "b"});
            config["linux"]["seccomp"] = notify(agent.path(), &MKDIR);
        });
        let id = unique("run");
        let output = run(&host, &dir, &id);
        let refused = "mkdir: can't create directory '/made': No medium found\nls: /made: No such file or directory";
        assert_eq!(output.exits(1).out(), refused);
        let state = agent.state();
        assert_eq!((&state["ociVersion"], &state["fds"]), (&json!("1.3.0"), &json!(["seccompFd"])));
        assert_eq!((&state["metadata"], &state["pid"]), (&json!("of the test"), &state["state"]["pid"]));
        assert!(state["pid"].as_u64().is_some_and(|pid| pid > 1), "{state}");
        let inner = &state["state"];
        assert_eq!((&inner["id"], &inner["status"]), (&json!(id), &json!("creating")));
        assert_eq!((&inner["bundle"], &inner["annotations"]), (&json!(dir), &json!({"a": "b"})));
        assert!(agent.is_idle(), "one listener for one process");
    }
    host.assert_clean();
}

#[test]
fn whoever_starts_a_created_container_reaches_the_agent() {
    let host = Host::new();
    let socket = host.scratch("agent").join("socket");
    let id = unique("created");
    let dir = bundle(&host, "b", "mkdir /made; echo $? >/code; exec sleep 1000", |config| {
        config["linux"]["seccomp"] = notify(&socket, &MKDIR);
    });
    let mut create = host.runtime(&["create", "--bundle", &text(&dir), &id]);
    create.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    assert!(create.status().expect("runs").success(), "nobody has to listen yet");
    let agent = no_medium(&socket);
    runtime(&host, &["start", &id]).ok();
    let own: Value = serde_json::from_str(&runtime(&host, &["state", &id]).ok().out()).expect("JSON");
    assert_eq!(agent.state()["pid"], own["pid"]);
    let code = || std::fs::read_to_string(dir.join("rootfs/code")).ok().filter(|code| !code.is_empty());
    assert_eq!(testkit::wait::until("the code", DEADLINE, code), "1\n");

    let refused = runtime(&host, &["exec", &id, "mkdir", "/second"]);
    assert!(refused.exits(1).err().contains("No medium found"), "{refused}");
    let state = agent.state();
    assert_eq!(state["state"]["status"], "running");
    assert_ne!(state["pid"], own["pid"], "a listener of its own");
    runtime(&host, &["delete", "--force", &id]).ok();
    host.assert_clean();
}

#[test]
fn calls_of_the_set_up_itself_may_be_the_agents() {
    let host = Host::new();
    let agent = Agent::listen(&host.scratch("agent").join("socket"), |_| Some(Verdict::Continue));
    let calls = [
        "execve",
        "execveat",
        "open",
        "openat",
        "read",
        "close",
        "close_range",
        "prctl",
        "capset",
        "setresuid",
        "setresgid",
        "setgroups",
        "rt_sigaction",
        "rt_sigprocmask",
        "sendmsg",
        "recvmsg",
        "poll",
        "ppoll",
        "futex",
        "mmap",
        "munmap",
        "umask",
        "exit_group",
        "clone",
        "wait4",
        "rt_sigreturn",
        "sched_yield",
        "nanosleep",
    ];
    for no_new_privileges in [false, true] {
        let dir = bundle(&host, &format!("b{no_new_privileges}"), "echo done", |config| {
            config["process"]["noNewPrivileges"] = json!(no_new_privileges);
            config["linux"]["seccomp"] = notify(agent.path(), &calls);
            config["linux"]["seccomp"]["flags"] = json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]);
        });
        assert_eq!(run(&host, &dir, &unique("calls")).ok().out(), "done");
        assert_eq!(agent.state()["fds"], json!(["seccompFd"]));
    }
    host.assert_clean();
}

#[test]
fn without_its_agent_a_container_does_not_start() {
    let host = Host::new();
    let id = unique("absent");
    let dir = bundle(&host, "absent", "true", |config| {
        config["linux"]["seccomp"] = notify(Path::new("/nonexistent/agent"), &MKDIR);
    });
    let output = run(&host, &dir, &id);
    assert_eq!(output.status, 1, "{output}");
    assert!(output.err().contains("linux.seccomp.listenerPath: failed to connect with seccomp agent"), "{output}");
    assert_ne!(runtime(&host, &["state", &id]).status, 0, "nothing is left of it");
    // It needs none where no call is for it.
    let unused = bundle(&host, "unused", "mkdir /made", |config| {
        config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/nonexistent/agent"});
    });
    run(&host, &unused, &id).ok();
    // One that lets go of its listener leaves the calls to the kernel.
    let gone = Agent::listen(&host.scratch("gone").join("socket"), |_| None);
    let dir = bundle(&host, "gone", "mkdir /made 2>&1", |config| {
        config["linux"]["seccomp"] = notify(gone.path(), &MKDIR);
    });
    let output = run(&host, &dir, &id);
    assert!(output.exits(1).out().contains("Function not implemented"), "{output}");
    for (name, action, words) in
        [("write", "SCMP_ACT_ALLOW", "for the write syscall"), ("x", "SCMP_ACT_NOTIFY", "default")]
    {
        let dir = bundle(&host, name, "true", |config| {
            config["linux"]["seccomp"] = notify(gone.path(), &[name]);
            config["linux"]["seccomp"]["defaultAction"] = json!(action);
        });
        let output = run(&host, &dir, &id);
        assert!(output.exits(1).err().contains(words), "{output}");
    }
    host.assert_clean();
}

#[test]
fn an_annotation_names_the_agent_as_well() {
    let host = Host::new();
    let agent = no_medium(&host.scratch("agent").join("socket"));
    let dir = bundle(&host, "b", "mkdir /made 2>&1", |config| {
        config["linux"]["seccomp"] = notify(Path::new(""), &MKDIR);
        config["annotations"] = json!({"run.oci.seccomp.receiver": agent.path()});
    });
    let output = run(&host, &dir, &unique("annotated"));
    assert!(output.exits(1).out().contains("No medium found"), "{output}");
    host.assert_clean();
}

#[test]
fn who_may_not_trace_is_sent_the_listener() {
    let host = Host::new();
    let agent = no_medium(&host.scratch("agent").join("socket"));
    let unprivileged = |dir: &Path| {
        let inner = host.runtime(&["run", "--bundle", &text(dir), &unique("weak")]);
        let mut outer = std::process::Command::new("setpriv");
        outer.args(["--bounding-set=-sys_ptrace", "--"]).arg(inner.get_program()).args(inner.get_args());
        outer.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        host.finish(outer, None, DEADLINE)
    };
    let dir = bundle(&host, "sent", "mkdir /made 2>&1", |config| {
        config["linux"]["seccomp"] = notify(agent.path(), &MKDIR);
    });
    let output = unprivileged(&dir);
    assert!(output.exits(1).out().contains("No medium found"), "{output}");
    let dir = bundle(&host, "forbidden", "true", |config| {
        let mut filter = notify(agent.path(), &MKDIR);
        let forbid = json!({"names": ["sendmsg"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1});
        filter["syscalls"].as_array_mut().expect("a list").push(forbid);
        config["linux"]["seccomp"] = filter;
    });
    let output = unprivileged(&dir);
    assert!(output.exits(1).err().contains("calling sendmsg"), "{output}");
    host.assert_clean();
}

#[test]
fn the_engines_containers_have_agents_too() {
    let host = Host::with_busybox();
    let agent = no_medium(&host.scratch("agent").join("socket"));
    let profile = host.scratch("profile").join("seccomp.json");
    std::fs::write(&profile, notify(agent.path(), &MKDIR).to_string()).expect("written");
    let option = format!("seccomp={}", text(&profile));
    for init in [&[][..], &["--init"]] {
        let output = host.sh(&[&["--security-opt", &option][..], init].concat(), "mkdir /made 2>&1");
        assert!(output.exits(1).out().contains("No medium found"), "{output}");
        assert_eq!(agent.state()["metadata"], "of the test");
    }
    host.assert_clean();
}

#[test]
fn an_agent_outlives_a_detached_start() {
    let host = Host::new();
    let agent = no_medium(&host.scratch("agent").join("socket"));
    let id = unique("detached");
    let dir = bundle(&host, "b", "mkdir /made; echo $? >/code; exec sleep 1000", |config| {
        config["linux"]["seccomp"] = notify(agent.path(), &MKDIR);
    });
    detached(&host, &dir, &id);
    let code = || std::fs::read_to_string(dir.join("rootfs/code")).ok().filter(|code| !code.is_empty());
    assert_eq!(testkit::wait::until("the code", DEADLINE, code), "1\n");
    runtime(&host, &["delete", "--force", &id]).ok();
    host.assert_clean();
}
