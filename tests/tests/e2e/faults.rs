//! Faults: killed at any moment, a full disk, no root, damaged records. The next command tells the truth.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use testkit::http::{Server, shelf};
use testkit::image::Packing;
use testkit::process::{DEADLINE, tool};
use testkit::{Host, Image, cgroup, leak, wait};

/// Milliseconds after which things are killed: dense where a start is in the making, sparse where it is done.
const MOMENTS: [u64; 24] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20, 25, 30, 35, 40, 50, 70, 100, 200];

/// The engine's own processes on this host: not this test, not what runs inside containers.
pub(crate) fn engine_processes(host: &Host) -> Vec<i32> {
    let dir = host.root().parent().expect("the host's directory");
    // The images of these tests have their programs in /bin; the engine's executable is nowhere there.
    let contained = |pid: &i32| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.starts_with("/bin"));
    leak::processes(dir).into_iter().filter(|pid| !contained(pid)).collect()
}

fn kill(pid: i32) {
    let pid = Pid::from_raw(pid).expect("a pid");
    // It may have ended by itself: that is one of the moments, too.
    let _ = kill_process(pid, Signal::KILL);
}

/// Whatever happened to it, a container can be asked about and removed, and its name used again.
#[track_caller]
fn recovers(host: &Host, name: &str, when: &str) {
    let list = host.lighter(&["ps", "-a", "--format", "json"]);
    list.ok();
    let inspect = host.lighter(&["inspect", name]);
    if inspect.status == 0 {
        let status = inspect.json()[0]["State"]["Status"].clone();
        let allowed = [json!("created"), json!("running"), json!("exited"), json!("removing")];
        assert!(allowed.contains(&status), "{when}: {status}");
    }
    let removal = host.lighter(&["rm", "-f", name]);
    assert!(removal.status == 0 || removal.err().contains(name), "{when}\n{removal}");
    let again = host.lighter(&["run", "--rm", "--name", name, "busybox", "sh", "-c", "exit 3"]);
    assert_eq!(again.status, 3, "{when}: the same name works again\n{again}");
}

#[test]
fn run_killed_at_any_moment() {
    let host = Host::with_busybox();
    for (n, moment) in MOMENTS.into_iter().enumerate() {
        let name = format!("killed-{n}");
        let running = host.spawn(&["run", "--name", &name, "busybox", "sleep", "1000"]);
        std::thread::sleep(Duration::from_millis(moment));
        kill(running.pid());
        running.finish(DEADLINE).exits(137);
        recovers(&host, &name, &format!("run killed after {moment} ms"));
    }
    host.assert_clean();
}

#[test]
fn run_with_rm_killed_at_any_moment_is_cleaned_by_the_next_command() {
    let host = Host::with_busybox();
    for moment in MOMENTS {
        let running = host.spawn(&["run", "--rm", "busybox", "sleep", "0.05"]);
        std::thread::sleep(Duration::from_millis(moment));
        kill(running.pid());
        running.finish(DEADLINE);
    }
    wait::becomes_true(Duration::from_secs(10), || host.lighter(&["ps", "-aq"]).ok().out().is_empty());
    // A container whose `run` died before it could start it was never asked to be kept.
    for id in host.lighter(&["ps", "-aq"]).ok().out().lines() {
        assert_eq!(host.inspect(id)["State"]["Status"], "created", "{id}");
        host.lighter(&["rm", "-f", id]).ok();
    }
    host.assert_clean();
}

#[test]
fn the_monitor_killed_at_any_moment() {
    let host = Host::with_busybox();
    for (n, moment) in MOMENTS.into_iter().enumerate() {
        let name = format!("orphan-{n}");
        let mut running = host.spawn(&["run", "--name", &name, "busybox", "sleep", "1000"]);
        std::thread::sleep(Duration::from_millis(moment));
        let own = running.pid();
        engine_processes(&host).into_iter().filter(|pid| *pid != own).for_each(kill);
        // Killed before there was a monitor, or a container: then it comes to run, and is ended as a user would.
        wait::until("run ends", DEADLINE, || {
            host.lighter(&["rm", "-f", &name]);
            running.ended().then_some(())
        });
        running.finish(DEADLINE);
        recovers(&host, &name, &format!("monitor killed after {moment} ms"));
    }
    host.assert_clean();
}

#[test]
fn a_dead_monitor_is_noticed_and_its_container_is_not_running() {
    let host = Host::with_busybox();
    let id = host.detached(&["--name", "orphan"], &["sleep", "1000"]);
    let monitors = engine_processes(&host);
    assert_eq!(monitors.len(), 1, "one monitor a container: {monitors:?}");
    kill(monitors[0]);
    wait::until("the monitor is gone", DEADLINE, || (!engine_processes(&host).contains(&monitors[0])).then_some(()));
    wait::until("the truth is told", DEADLINE, || {
        host.lighter(&["ps", "-a"]).ok();
        (host.inspect("orphan")["State"]["Status"] == "exited").then_some(())
    });
    let state = host.inspect("orphan")["State"].clone();
    assert!(state["ExitCode"] == 255 || state["ExitCode"] == 137, "unknown is 255, never 0: {state}");
    assert_eq!(cgroup::pids(&id), Vec::<i32>::new(), "what the monitor watched does not run on without it");
    host.lighter(&["start", "orphan"]).ok();
    host.lighter(&["exec", "orphan", "true"]).ok();
    host.lighter(&["rm", "-f", "orphan"]).ok();
    host.assert_clean();
}

#[test]
fn the_first_process_killed_from_outside_is_an_exit_like_any_other() {
    let host = Host::with_busybox();
    let id = host.detached(&["--name", "shot"], &["sleep", "1000"]);
    let pid = host.inspect("shot")["State"]["Pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("a pid");
    assert!(cgroup::pids(&id).contains(&pid));
    kill(pid);
    assert_eq!(host.lighter(&["wait", "shot"]).ok().out(), "137");
    assert_eq!(host.inspect("shot")["State"]["OOMKilled"], false);
}

#[test]
fn stop_and_rm_killed_half_way_can_be_said_again() {
    let host = Host::with_busybox();
    for (n, moment) in MOMENTS.into_iter().take(16).enumerate() {
        let name = format!("half-{n}");
        host.detached(&["--name", &name], &["sleep", "1000"]);
        let running = host.spawn(&["rm", "-f", &name]);
        std::thread::sleep(Duration::from_millis(moment));
        kill(running.pid());
        running.finish(DEADLINE);
        recovers(&host, &name, &format!("rm killed after {moment} ms"));
    }
    host.assert_clean();
}

#[test]
fn load_killed_at_any_moment_leaves_no_half_image() {
    let host = Host::new();
    let archive = Image::busybox("busybox:latest").docker_archive().tar();
    let file = host.scratch("files").join("busybox.tar");
    std::fs::write(&file, archive).expect("write the archive");
    let args = ["load", "-i", &file.to_string_lossy()];
    for moment in MOMENTS {
        let running = host.spawn(&args);
        std::thread::sleep(Duration::from_millis(moment));
        kill(running.pid());
        running.finish(DEADLINE);
        // There is the whole image or none.
        let run = host.lighter(&["run", "--rm", "--network", "none", "busybox", "true"]);
        let images = host.lighter(&["images", "-q"]).ok().out();
        assert_eq!(run.status == 0, !images.is_empty(), "after {moment} ms\n{run}");
        if !images.is_empty() {
            host.lighter(&["rmi", "busybox"]).ok();
        }
    }
    host.lighter(&args).ok();
    host.sh(&[], "true").ok();
}

/// A small ext4 in a file, mounted beside the test's directory; unmounted and removed on drop.
struct SmallDisk {
    dir: PathBuf,
}

impl SmallDisk {
    fn new(mebibytes: u64) -> Self {
        let dir = std::env::temp_dir().join(format!("lighter-small-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("mount")).expect("mkdir");
        let file = dir.join("disk");
        std::fs::File::create(&file).and_then(|file| file.set_len(mebibytes << 20)).expect("a sparse file");
        tool("mkfs.ext4", &["-q", "-F", &file.to_string_lossy()]);
        tool("mount", &["-o", "loop", &file.to_string_lossy(), &dir.join("mount").to_string_lossy()]);
        Self { dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.join("mount")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount").arg(self.path()).status();
        if unmounted.is_ok_and(|status| status.success()) {
            drop(std::fs::remove_dir_all(&self.dir));
        }
    }
}

#[test]
fn a_full_disk_is_said_so_and_breaks_nothing() {
    let disk = SmallDisk::new(64);
    let mut host = Host::new();
    host.set_root(disk.path().join("root"));
    host.load(&Image::busybox("busybox:latest"));
    let output = host.sh(&[], "dd if=/dev/zero of=/x bs=1M count=200");
    assert_ne!(output.status, 0);
    assert!(output.err().contains("No space left"), "{output}");
    host.sh(&[], "true").ok();

    let mut noise = vec![0u8; 80 << 20];
    let mut word = 1u64;
    for byte in &mut noise {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *byte = (word >> 56) as u8;
    }
    let big = Image::busybox("big:1").file("noise", 0o644, &noise);
    host.lighter_reading(&["load"], &big.docker_archive().tar()).rejected("space");
    assert_eq!(host.lighter(&["images", "-q"]).ok().out().lines().count(), 1);
    let layout = big.oci_layout(Packing::Plain);
    let server = Server::start(move |request| shelf(&layout, request));
    host.lighter(&["pull", &format!("{}/big:1", server.address())]).rejected("space");
    assert_eq!(host.lighter(&["images", "-q"]).ok().out().lines().count(), 1);
    let kept = std::fs::read_dir(host.root().join("content/partial")).expect("pulls keep parts there");
    assert_eq!(kept.count(), 0, "what fills the disk is not kept for later");
    host.sh(&[], "true").ok();

    // Not a byte left: what ran is known to have run, and removing works.
    host.detached(&["--name", "witness"], &["sleep", "1000"]);
    let filler = disk.path().join("filler");
    drop(std::fs::write(&filler, vec![1; 80 << 20]));
    let failed = host.sh(&[], "true");
    assert!(failed.status == 0 || failed.status == 125, "{failed}");
    host.lighter(&["ps", "-a"]).ok();
    host.lighter(&["kill", "witness"]).ok();
    host.lighter(&["rm", "-f", "witness"]).ok();
    std::fs::remove_file(filler).expect("remove the filler");
    host.sh(&[], "true").ok();
    host.assert_clean();
    drop(host);
    drop(disk);
}

#[test]
fn without_root_it_says_what_is_needed() {
    let mut host = Host::with_busybox();
    host.use_own_binary();
    let line = host.command(&["run", "--rm", "busybox", "true"]);
    let mut command = std::process::Command::new("setpriv");
    command
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(line.get_program())
        .args(line.get_args());
    host.finish(command, None, DEADLINE).refused(125, "root");
}

#[test]
fn a_damaged_record_spoils_its_own_container_only() {
    let host = Host::with_busybox();
    let bad = host.lighter(&["create", "--name", "bad", "busybox"]).ok().out();
    host.detached(&["--name", "good"], &["sleep", "1000"]);
    let dir = host.root().join("containers").join(&bad);
    let records: Vec<PathBuf> = std::fs::read_dir(&dir)
        .expect("the container's directory")
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    assert!(!records.is_empty());
    for text in ["", "{", "{\"version\": 999999}", "\0\0\0\0"] {
        for record in &records {
            let whole = std::fs::read(record).expect("read");
            std::fs::write(record, text).expect("spoil");
            host.lighter(&["ps", "-a"]).ok();
            host.lighter(&["exec", "good", "true"]).ok();
            let output = host.lighter(&["inspect", "bad"]);
            assert!(!output.err().contains("panicked"), "{output}");
            std::fs::write(record, whole).expect("mend");
        }
    }
    for record in &records {
        std::fs::write(record, "").expect("spoil");
    }
    host.lighter(&["rm", "-f", &bad]).ok();
    assert_eq!(host.lighter(&["ps", "-aq"]).ok().out().lines().count(), 1);
    assert!(!Path::new(&dir).exists());
}

#[test]
fn run_state_of_another_boot_is_not_believed() {
    let host = Host::with_busybox();
    host.detached(&["--name", "before"], &["sleep", "1000"]);
    engine_processes(&host).into_iter().for_each(kill);
    let pid = host.containers().iter().flat_map(|id| cgroup::pids(id)).collect::<Vec<_>>();
    pid.into_iter().for_each(kill);
    // A reboot empties the run directory and ends every process.
    std::fs::remove_dir_all(host.run_dir()).expect("empty the run directory");
    host.lighter(&["ps", "-a"]).ok();
    let state = host.inspect("before")["State"].clone();
    assert_eq!(state["Running"], false, "{state}");
    assert_ne!(state["ExitCode"], 0, "{state}");
    host.lighter(&["start", "before"]).ok();
    host.lighter(&["rm", "-f", "before"]).ok();
    host.assert_clean();
}

#[test]
fn a_pull_killed_at_any_moment_can_be_said_again() {
    let host = Host::new();
    let layout = crate::registries::big();
    let server = Server::start(move |request| shelf(&layout, request));
    let name = format!("{}/app:1", server.address());
    for moment in MOMENTS {
        let pull = host.spawn(&["pull", &name]);
        std::thread::sleep(Duration::from_millis(moment));
        kill(pull.pid());
        drop(pull.finish(DEADLINE));
        // Whole or not at all.
        let known = host.lighter(&["images", "-q"]).ok().out();
        if known.is_empty() {
            continue;
        }
        host.lighter(&["run", "--rm", "--pull", "never", &name, "ls", "/noise"]).ok();
        host.lighter(&["rmi", &name]).ok();
    }
    host.lighter(&["pull", &name]).ok();
    host.lighter(&["run", "--rm", &name, "ls", "/noise"]).ok();
}
