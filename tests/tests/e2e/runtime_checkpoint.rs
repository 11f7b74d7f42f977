//! `lighter-runtime checkpoint` and `restore`, with Debian's criu.
//!
//! A criu that is older than the kernel can do nothing there (`criu check`). What it says then is tested instead: the
//! refusal, and that the container lives on. `LIGHTER_CRIU` names another criu than the one that is installed.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use testkit::process::{DEADLINE, Output, Running};
use testkit::{Host, wait};

use crate::runtime_process::{bundle, runtime, text};

/// Counts, where everybody can see it.
const COUNT: &str = "trap 'exit 7' TERM; i=0; while :; do i=$((i+1)); echo $i > /count; sleep 0.1; done";

/// A name no other test's container has.
fn unique(word: &str) -> String {
    format!("e2e-criu-{}-{word}", std::process::id())
}

/// The criu to test with.
fn criu() -> PathBuf {
    if let Ok(path) = std::env::var("LIGHTER_CRIU") {
        return PathBuf::from(path);
    }
    let places = ["/usr/sbin/criu", "/usr/bin/criu", "/usr/local/sbin/criu"];
    places.map(PathBuf::from).into_iter().find(|path| path.exists()).expect("no criu: apt-get install criu")
}

/// Whether criu works on this kernel. When not, the test's name and the reason are said where they are seen.
fn works(test: &str, feature: Option<&str>) -> bool {
    let mut command = Command::new(criu());
    command.arg("check").stdin(Stdio::null());
    if let Some(feature) = feature {
        command.args(["--feature", feature]);
    }
    let output = command.output().expect("criu runs");
    if output.status.success() {
        return true;
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let reason = said.lines().find(|line| line.contains("Error")).or(said.lines().next()).unwrap_or_default();
    let what = feature.map(|feature| format!(" --feature {feature}")).unwrap_or_default();
    // Not through the test harness, which keeps what a passing test prints to itself.
    let _ = writeln!(std::io::stderr(), "{test}: NOT RUN IN FULL: criu check{what}: {reason}");
    false
}

fn with_criu(host: &Host, args: &[&str]) -> Command {
    host.runtime(&[&["--criu", &text(&criu())], args].concat())
}

fn act(host: &Host, args: &[&str]) -> Output {
    host.finish(with_criu(host, args), None, DEADLINE)
}

/// Runs `args`, whose streams go nowhere: they are the container's from then on.
fn quietly(mut command: Command) -> i32 {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().expect("lighter-runtime runs").code().unwrap_or(-1)
}

fn refused(output: &Output, word: &str) {
    assert!(output.status != 0 && output.err().contains(word), "{output}");
}

fn start(host: &Host, dir: &Path, id: &str) {
    assert_eq!(quietly(host.runtime(&["run", "-d", "--bundle", &text(dir), id])), 0);
}

fn state(host: &Host, id: &str) -> Value {
    runtime(host, &["state", id]).ok().json()
}

fn count(dir: &Path) -> u64 {
    let read = || std::fs::read_to_string(dir.join("rootfs/count")).ok()?.trim().parse().ok();
    wait::until("the container counts", DEADLINE, read)
}

fn counts_beyond(dir: &Path, number: u64) {
    wait::until("it counts on", DEADLINE, || (count(dir) > number).then_some(()));
}

#[test]
fn a_container_goes_on_where_it_was() {
    let host = Host::new();
    let id = unique("on");
    let outside = host.scratch("outside");
    std::fs::write(outside.join("file"), "of the host").expect("written");
    let dir = bundle(&host, "b", COUNT, |config| {
        config["mounts"].as_array_mut().expect("list").extend([
            json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]}),
            json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}),
            json!({"destination": "/data", "type": "bind", "source": text(&outside), "options": ["bind", "ro"]}),
        ]);
        config["linux"]["namespaces"].as_array_mut().expect("list").push(json!({"type": "cgroup"}));
        config["linux"]["maskedPaths"] = json!(["/proc/kcore", "/proc/keys", "/sys/firmware"]);
        config["linux"]["readonlyPaths"] = json!(["/proc/sys"]);
        config["linux"]["resources"] = json!({"pids": {"limit": 50}});
    });
    start(&host, &dir, &id);
    counts_beyond(&dir, 3);
    let images = text(&host.scratch("images"));
    if !works("a_container_goes_on_where_it_was", None) {
        let refused = act(&host, &["checkpoint", "--image-path", &images, &id]);
        assert_ne!(refused.status, 0);
        assert!(refused.err().contains("criu cannot checkpoint the container"), "{refused}");
        assert!(refused.err().contains("dump.log"), "{refused}");
        counts_beyond(&dir, count(&dir));
        runtime(&host, &["delete", "--force", &id]).ok();
        host.assert_clean();
        return;
    }
    act(&host, &["checkpoint", "--image-path", &images, "--leave-running", &id]).ok();
    assert_eq!(state(&host, &id)["status"], "running");
    let before = count(&dir);
    counts_beyond(&dir, before);
    act(&host, &["checkpoint", "--image-path", &images, &id]).ok();
    assert_ne!(runtime(&host, &["state", &id]).status, 0, "the container is gone, as runc's and crun's is");
    let before = count(&dir);

    // The root file system comes back without the places of mounts, as from an archive.
    std::fs::remove_dir(dir.join("rootfs/data")).expect("empty");
    let pid_file = dir.join("pid");
    let (bundle, pids) = (text(&dir), text(&pid_file));
    let args = ["restore", "--detach", "--image-path", &images, "--bundle", &bundle, "--pid-file", &pids, &id];
    assert_eq!(quietly(with_criu(&host, &args)), 0);
    let after = state(&host, &id);
    assert_eq!(after["status"], "running");
    assert_eq!(std::fs::read_to_string(&pid_file).expect("a pid file").trim(), after["pid"].to_string());
    counts_beyond(&dir, before);
    let seen = runtime(
        &host,
        &[
            "exec",
            &id,
            "sh",
            "-c",
            "cat /proc/1/comm /data/file; wc -c < /proc/keys; ls /sys/firmware | wc -l; echo x > /data/file || echo ro; cat /sys/fs/cgroup/pids/pids.max || cat /sys/fs/cgroup/pids.max",
        ],
    );
    assert_eq!(seen.ok().out().split_whitespace().collect::<Vec<_>>(), ["sh", "of", "the", "host0", "0", "ro", "50"]);
    runtime(&host, &["events", "--stats", &id]).ok();
    runtime(&host, &["pause", &id]).ok();
    assert_eq!(state(&host, &id)["status"], "paused");
    runtime(&host, &["resume", &id]).ok();
    assert_ne!(quietly(with_criu(&host, &args)), 0, "the id is taken");
    runtime(&host, &["kill", &id, "KILL"]).ok();
    wait::until("it stopped", DEADLINE, || (state(&host, &id)["status"] == "stopped").then_some(()));
    runtime(&host, &["delete", &id]).ok();
    host.assert_clean();
}

#[test]
fn a_restore_in_the_foreground_has_streams_and_an_exit_code() {
    let host = Host::new();
    let id = unique("fg");
    let script = "trap 'echo goodbye; exit 7' TERM; i=0; while :; do i=$((i+1)); echo $i > /count; echo to stdout; sleep 0.1; done";
    let dir = bundle(&host, "b", script, |_| {});
    if !works("a_restore_in_the_foreground_has_streams_and_an_exit_code", None) {
        return;
    }
    let mut run = Running::start(host.runtime(&["run", "--bundle", &text(&dir), &id]));
    run.wait_for("to stdout", DEADLINE);
    let images = text(&host.scratch("images"));
    act(&host, &["checkpoint", "--image-path", &images, &id]).ok();
    run.finish(DEADLINE);
    let before = count(&dir);
    let mut again =
        Running::start(with_criu(&host, &["restore", "--image-path", &images, "--bundle", &text(&dir), &id]));
    again.wait_for("to stdout", DEADLINE);
    let lives = wait::becomes_true(DEADLINE, || again.ended() || count(&dir) > before);
    assert!(lives && !again.ended(), "{}", again.finish(DEADLINE));
    runtime(&host, &["kill", &id, "TERM"]).ok();
    let output = again.finish(DEADLINE);
    assert!(output.exits(7).out().contains("goodbye"), "{output}");
    assert_ne!(runtime(&host, &["state", &id]).status, 0, "restore cleans up after itself");
    host.assert_clean();
}

#[test]
fn a_restored_terminal_is_handed_over() {
    let host = Host::new();
    let id = unique("tty");
    let script = "while read line; do echo \"got $line\"; done";
    let dir = bundle(&host, "b", script, |config| config["process"]["terminal"] = json!(true));
    if !works("a_restored_terminal_is_handed_over", None) {
        return;
    }
    let socket = dir.join("console");
    let listener = UnixListener::bind(&socket).expect("bound");
    let (console, bundle) = (text(&socket), text(&dir));
    assert_eq!(quietly(host.runtime(&["run", "-d", "--bundle", &bundle, "--console-socket", &console, &id])), 0);
    let first = receive(&listener);
    assert_eq!(talk(&first, "one\n", "got one"), "got one");
    let images = text(&host.scratch("images"));
    act(&host, &["checkpoint", "--image-path", &images, &id]).ok();
    drop(first);
    let args = ["restore", "-d", "--image-path", &images, "--bundle", &bundle, &id];
    assert_ne!(quietly(with_criu(&host, &args)), 0, "nobody would have the terminal");
    let args = [&args[..6], &["--console-socket", &console, &id]].concat();
    assert_eq!(quietly(with_criu(&host, &args)), 0);
    let second = receive(&listener);
    assert_eq!(talk(&second, "two\n", "got two"), "got two");
    runtime(&host, &["delete", "--force", &id]).ok();
    host.assert_clean();
}

/// The descriptor that comes over a console socket.
fn receive(listener: &UnixListener) -> OwnedFd {
    let (connection, _) = listener.accept().expect("accepted");
    let (_, mut files) = sys_receive(&connection);
    files.pop().expect("a terminal")
}

fn sys_receive(connection: &std::os::unix::net::UnixStream) -> (usize, Vec<OwnedFd>) {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [std::mem::MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut buffer = [0; 64];
    let received =
        recvmsg(connection, &mut [std::io::IoSliceMut::new(&mut buffer)], &mut ancillary, RecvFlags::CMSG_CLOEXEC);
    let mut files = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            files.extend(rights);
        }
    }
    (received.expect("received").bytes, files)
}

/// Says `line` and waits for `answer`, which it gives.
fn talk(terminal: &OwnedFd, line: &str, answer: &str) -> String {
    rustix::io::write(terminal, line.as_bytes()).expect("written");
    let mut heard = String::new();
    let mut buffer = [0; 256];
    wait::until("the terminal answers", DEADLINE, || {
        let length = rustix::io::read(terminal, &mut buffer).expect("read");
        heard += &String::from_utf8_lossy(&buffer[..length]);
        heard.contains(answer).then(|| answer.to_owned())
    })
}

#[test]
fn memory_is_written_ahead() {
    let host = Host::new();
    let id = unique("pre");
    let dir = bundle(&host, "b", COUNT, |_| {});
    start(&host, &dir, &id);
    counts_beyond(&dir, 1);
    let images = host.scratch("images");
    let (first, second) = (text(&images.join("first")), text(&images.join("second")));
    if !works("memory_is_written_ahead", Some("mem_dirty_track")) {
        let refused = act(&host, &["checkpoint", "--pre-dump", "--image-path", &first, &id]);
        assert_ne!(refused.status, 0);
        let known = ["CONFIG_MEM_SOFT_DIRTY", "criu"];
        assert!(known.iter().any(|word| refused.err().contains(word)), "{refused}");
        assert_eq!(state(&host, &id)["status"], "running");
        runtime(&host, &["delete", "--force", &id]).ok();
        return;
    }
    act(&host, &["checkpoint", "--pre-dump", "--image-path", &first, &id]).ok();
    assert_eq!(state(&host, &id)["status"], "running");
    refused(&act(&host, &["checkpoint", "--parent-path", &first, "--image-path", &second, &id]), "relative");
    act(&host, &["checkpoint", "--parent-path", "../first", "--image-path", &second, &id]).ok();
    let before = count(&dir);
    let restore = ["restore", "-d", "--image-path", &second, "--bundle", &text(&dir), &id];
    assert_eq!(quietly(with_criu(&host, &restore)), 0);
    counts_beyond(&dir, before);
    runtime(&host, &["delete", "--force", &id]).ok();
    host.assert_clean();
}

#[test]
fn a_criu_that_is_not_there_is_named() {
    let host = Host::new();
    let id = unique("none");
    let dir = bundle(&host, "b", COUNT, |_| {});
    start(&host, &dir, &id);
    let images = text(&host.scratch("images"));
    let broken = dir.join("broken");
    std::fs::write(&broken, "#!/bin/sh\nexit 3\n").expect("written");
    std::fs::set_permissions(&broken, std::fs::Permissions::from_mode(0o755)).expect("changed");
    for (criu, word) in [
        ("no-such-criu", "install criu"),
        ("/no/such/criu", "install it"),
        ("/etc/passwd", "cannot run /etc/passwd"),
        (&text(&broken), "criu failed: it ended in the middle"),
    ] {
        let refused = runtime(&host, &["--criu", criu, "checkpoint", "--image-path", &images, &id]);
        assert!(refused.status != 0 && refused.err().contains(word), "{criu}: {refused}");
        let refused =
            runtime(&host, &["--criu", criu, "restore", "-d", "--image-path", &images, "--bundle", &text(&dir), "r"]);
        assert!(refused.status != 0 && refused.err().contains(word), "{criu}: {refused}");
        assert_ne!(runtime(&host, &["state", "r"]).status, 0, "nothing stays of a failed restore");
    }
    assert_eq!(state(&host, &id)["status"], "running");
    runtime(&host, &["delete", "--force", &id]).ok();
    host.assert_clean();
}

/// criu writes and reads with root's rights and follows links: what an archive or another user put there must not choose
/// the files (CVE-2026-53489 and its kind).
#[test]
fn images_that_others_could_have_placed_are_refused() {
    let host = Host::new();
    let id = unique("hostile");
    let dir = bundle(&host, "b", COUNT, |_| {});
    start(&host, &dir, &id);
    let victim = host.scratch("victim").join("shadow");
    std::fs::write(&victim, "precious").expect("written");
    // A criu that would be executed says so.
    let ran = dir.join("ran");
    let fake = dir.join("criu");
    std::fs::write(&fake, format!("#!/bin/sh\ntouch {}\n", ran.display())).expect("written");
    std::fs::set_permissions(&fake, std::fs::Permissions::from_mode(0o755)).expect("changed");
    let refused_all = |images: &Path, word: &str| {
        let (images, fake, bundle) = (text(images), text(&fake), text(&dir));
        for args in [
            vec!["checkpoint", "--image-path", &images, &id],
            vec!["checkpoint", "--image-path", &bundle, "--work-path", &images, &id],
            vec!["restore", "-d", "--image-path", &images, "--bundle", &bundle, "r"],
        ] {
            let output = runtime(&host, &[&["--criu", &fake], &args[..]].concat());
            assert!(output.status != 0 && output.err().contains(word), "{args:?}: {output}");
        }
    };
    for link in ["dump.log", "restore.log", "core-1.img", "descriptors.json", "stats-dump"] {
        let images = host.scratch(&format!("link-{link}"));
        symlink(&victim, images.join(link)).expect("linked");
        refused_all(&images, "no regular file");
    }
    let images = host.scratch("chain");
    symlink("..", images.join("parent")).expect("linked");
    symlink(&victim, images.parent().expect("one").join("pages-1.img")).expect("linked");
    refused_all(&images, "no regular file");
    let images = host.scratch("open");
    std::fs::set_permissions(&images, std::fs::Permissions::from_mode(0o777)).expect("changed");
    refused_all(&images, "others can write to it");
    let images = host.scratch("owned");
    std::os::unix::fs::chown(&images, Some(4711), None).expect("changed");
    refused_all(&images, "belongs to user 4711");
    assert_eq!(std::fs::read_to_string(&victim).expect("read"), "precious");
    assert!(!ran.exists(), "criu is not even begun");
    std::fs::remove_file(images.parent().expect("one").join("pages-1.img")).expect("removed");
    runtime(&host, &["delete", "--force", &id]).ok();
    host.assert_clean();
}

/// A program of the host's that runs with root's rights gets nothing from the caller but its place.
#[test]
fn criu_gets_an_environment_of_its_own() {
    let host = Host::new();
    let id = unique("env");
    let dir = bundle(&host, "b", COUNT, |_| {});
    start(&host, &dir, &id);
    let (fake, seen) = (dir.join("criu"), dir.join("seen"));
    let script = format!(
        "#!/bin/sh\n{{ echo \"$@\"; tr '\\0' '\\n' < /proc/$$/environ; ls /proc/$$/fd; }} > {}\n",
        seen.display()
    );
    std::fs::write(&fake, script).expect("written");
    std::fs::set_permissions(&fake, std::fs::Permissions::from_mode(0o755)).expect("changed");
    let images = text(&host.scratch("images"));
    let mut command = host.runtime(&["--criu", &text(&fake), "checkpoint", "--image-path", &images, &id]);
    command.env("CRIU_CONFIG_FILE", "/evil").env("LD_PRELOAD_OF_OURS", "/evil").env("HOME", "/evil");
    assert_ne!(host.finish(command, None, DEADLINE).status, 0);
    let seen = std::fs::read_to_string(&seen).expect("it ran");
    let lines: Vec<&str> = seen.lines().collect();
    assert_eq!(lines[0], "swrk 3");
    assert!(lines[1].starts_with("PATH=/usr/local/sbin:") && !seen.contains("/evil"), "{seen}");
    // Streams, socket, images, log; the shell's own script is the last.
    let files: Vec<u32> = lines[2..].iter().filter_map(|line| line.parse().ok()).filter(|file| *file < 10).collect();
    assert_eq!(files, [0, 1, 2, 3, 4, 5], "{seen}");
    runtime(&host, &["delete", "--force", &id]).ok();
    host.assert_clean();
}

#[test]
fn what_cannot_be_checkpointed_is_said() {
    let host = Host::new();
    let id = unique("not");
    let dir = bundle(&host, "b", COUNT, |config| {
        config["linux"]["namespaces"].as_array_mut().expect("list").push(json!({"type": "user"}));
        let map = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
        config["linux"]["uidMappings"] = map.clone();
        config["linux"]["gidMappings"] = map;
    });
    let images = text(&host.scratch("images"));
    refused(&act(&host, &["checkpoint", "--image-path", &images, &id]), "does not exist");
    start(&host, &dir, &id);
    refused(&act(&host, &["checkpoint", "--image-path", &images, &id]), "user namespace");
    for (flag, word) in [
        (&["--manage-cgroups-mode", "none"][..], "none of soft, full, strict and ignore"),
        (&["--network-lock", "no"], "none of iptables, nftables and skip"),
        (&["--empty-ns", "pid"], "only network can"),
        (&["--lazy-pages"], "--page-server"),
        (&["--page-server", "here"], "ADDRESS:PORT"),
        (&["--status-fd", "77"], "--status-fd 77"),
        (&["--frob"], "not known"),
    ] {
        let output = act(&host, &[&["checkpoint", "--image-path", &images], flag, &[&id]].concat());
        assert!(output.status != 0 && output.err().contains(word), "{flag:?}: {output}");
    }
    refused(&act(&host, &["restore", "--no-pivot", &id]), "--no-pivot");
    runtime(&host, &["delete", "--force", &id]).ok();
    for command in ["checkpoint", "restore"] {
        assert!(runtime(&host, &[command, "--help"]).ok().out().contains("--image-path VALUE"));
    }
    host.assert_clean();
}
