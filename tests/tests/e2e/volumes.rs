//! Volumes: what outlives containers, the image's content in it, and what it cannot be made to do.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use testkit::{Host, Image, Tar, wait};

/// Busybox with `/data`, which an upper layer changes, declared as a volume or not.
fn image(name: &str, declared: bool) -> Image {
    let low = Tar::new().dir("data", 0o755).file("data/gone", 0o644, b"x").file("data/kept", 0o640, b"kept");
    let top = Tar::new()
        .dir("data", 0o1770)
        .file("data/.wh.gone", 0o644, b"")
        .owned("data/owned", 0o4750, (1000, 1001), b"owned")
        .hardlink("data/again", "data/owned")
        .symlink("data/link", "/etc/passwd")
        .device(b'3', "data/null", 1, 3)
        .symlink("alias", "/data")
        .symlink("up", "../../../../../../../../..");
    let image = Image::busybox(name).layer(low.finish()).layer(top.finish());
    if declared { image.set("Volumes", json!({"/data": {}, "/made/here": {}})) } else { image }
}

fn data(host: &Host, volume: &str) -> PathBuf {
    host.root().join("volumes").join(volume).join("_data")
}

fn volumes(host: &Host) -> BTreeSet<String> {
    host.lighter(&["volume", "ls", "-q"]).ok().out().lines().map(str::to_owned).collect()
}

const LISTING: &str = "cd /data && stat -c '%n %u:%g %a' . owned kept link && ls -A && cat kept";

#[test]
fn an_empty_volume_gets_the_images_content_and_keeps_its_own() {
    let host = Host::new();
    host.load(&image("data:1", false));
    let run = |flags: &[&str], script: &str| {
        host.lighter(&[&["run", "--rm"], flags, &["data:1", "sh", "-c", script]].concat())
    };
    let expected = "again\nkept\nlink\nowned";
    let output = run(&["-v", "db:/data"], LISTING);
    let text = output.ok().out();
    assert!(text.contains(". 0:0 1770\nowned 1000:1001 4750\nkept 0:0 640"), "{text}");
    assert!(text.contains(expected), "{text}");
    // On the host it belongs to the same ids: nothing was chowned into a range.
    let owned = std::fs::metadata(data(&host, "db").join("owned")).expect("copied");
    assert_eq!((owned.uid(), owned.gid(), owned.mode() & 0o7777, owned.nlink()), (1000, 1001, 0o4750, 2));
    run(&["-v", "db:/data"], "rm owned /data/owned; echo mine >/data/kept; mknod /data/null c 1 3; true").ok();
    // CVE-2020-1726: the volume's own bytes stay.
    assert_eq!(run(&["-v", "db:/data"], "cat /data/kept; [ -e /data/owned ] || echo gone").ok().out(), "mine\ngone");
    assert_eq!(run(&["-v", "db:/data:ro"], "echo x >/data/y || echo refused").ok().out(), "refused");
    // Through a link of the image it is the same directory; nocopy leaves the volume empty.
    assert!(run(&["-v", "two:/alias"], "ls /alias").ok().out().contains("owned"));
    assert_eq!(run(&["-v", "three:/data:nocopy"], "ls -A /data").ok().out(), "");
    assert_eq!(run(&["--mount", "source=four,target=/data,volume-nocopy"], "ls -A /data").ok().out(), "");
    assert_eq!(run(&["-v", "five:/nowhere/at/all"], "ls -A /nowhere/at/all").ok().out(), "");
    assert_eq!(volumes(&host).len(), 5);
}

#[test]
fn device_nodes_in_volumes_are_dead() {
    let host = Host::with_busybox();
    let script = "mknod /data/n c 1 3 && echo x >/data/n && echo alive; true";
    for flags in [["--privileged"].as_slice(), &["--userns=host", "--cap-add", "MKNOD"]] {
        let output = host.sh(&[flags, &["-v", "db:/data"]].concat(), script);
        assert!(!output.ok().out().contains("alive"), "{output}");
    }
}

#[test]
fn what_images_declare_gets_volumes_that_go_with_their_container() {
    let host = Host::new();
    host.load(&image("data:1", true));
    let text = host.lighter(&["run", "--rm", "data:1", "sh", "-c", LISTING]).ok().out();
    assert!(text.contains("owned 1000:1001 4750"), "{text}");
    assert_eq!(volumes(&host).len(), 0, "--rm takes them along");
    host.lighter(&["run", "--name", "one", "-v", "/extra", "data:1", "sh", "-c", "echo 1 >/made/here/x"]).ok();
    let names = volumes(&host);
    assert_eq!(names.len(), 3);
    assert!(names.iter().all(|name| name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())));
    let inspected = host.inspect("one");
    let mounts = inspected["Mounts"].as_array().expect("a list");
    assert_eq!(mounts.len(), 3);
    for mount in mounts {
        assert_eq!((&mount["Type"], &mount["Driver"], &mount["RW"]), (&json!("volume"), &json!("local"), &json!(true)));
        assert!(names.contains(mount["Name"].as_str().expect("a name")), "{mount}");
    }
    // A restart finds the same bytes, another container has its own, and named mounts replace the declared ones.
    host.lighter(&["start", "one"]).ok();
    host.wait_status("one", "exited");
    host.lighter(&[
        "run",
        "--rm",
        "--volumes-from",
        "one:ro",
        "data:1",
        "sh",
        "-c",
        "cat /made/here/x && ! touch /made/here/y",
    ])
    .ok();
    assert_eq!(volumes(&host), names, "what another container uses stays");
    host.lighter(&["run", "--rm", "-v", "db:/data", "--tmpfs", "/made/here", "data:1", "true"]).ok();
    host.lighter(&["rm", "-v", "one"]).ok();
    assert_eq!(volumes(&host), BTreeSet::from(["db".to_owned()]));
    host.lighter(&["create", "--name", "two", "data:1"]).ok();
    host.lighter(&["rm", "two"]).ok();
    assert_eq!(volumes(&host).len(), 3, "without -v they stay");
    let pruned = host.lighter(&["volume", "prune", "-f"]).ok().out();
    assert!(pruned.starts_with("Deleted Volumes:\n") && pruned.ends_with("Total reclaimed space: 0B"), "{pruned}");
    assert_eq!(volumes(&host), BTreeSet::from(["db".to_owned()]), "named ones stay");
    // A start that fails leaves none behind.
    host.lighter(&["run", "--rm", "data:1", "/no/such/command"]).exits(127);
    let gone = wait::becomes_true(Duration::from_secs(10), || volumes(&host).len() == 1);
    assert!(gone, "{:?}", volumes(&host));
}

#[test]
fn the_verbs_speak_dockers_words() {
    let host = Host::with_busybox();
    assert_eq!(host.lighter(&["volume", "create", "--label", "a=b", "db"]).ok().out(), "db");
    assert_eq!(host.lighter(&["volume", "create", "db"]).ok().out(), "db");
    let unnamed = host.lighter(&["volume", "create"]).ok().out();
    assert_eq!(unnamed.len(), 64);
    let all = host.lighter(&["volume", "inspect", "db"]).ok().json();
    assert_eq!(all[0]["Labels"], json!({"a": "b"}));
    assert_eq!(all[0]["Mountpoint"], json!(data(&host, "db").display().to_string()));
    assert_eq!(host.lighter(&["inspect", "-f", "{{.Driver}} {{.Scope}}", "db"]).ok().out(), "local local");
    let format = "{{.Name}}|{{.Driver}}|{{.Label \"a\"}}";
    assert_eq!(host.lighter(&["volume", "ls", "-f", "label=a=b", "--format", format]).ok().out(), "db|local|b");
    host.lighter(&["run", "-d", "--name", "user", "-v", "db:/data", "busybox", "sleep", "1000"]).ok();
    assert_eq!(host.lighter(&["volume", "ls", "-qf", "dangling=true"]).ok().out(), unnamed);
    assert_eq!(host.lighter(&["volume", "ls", "-qf", "dangling=false", "-f", "name=d"]).ok().out(), "db");
    for filter in ["volume=db", "volume=/data"] {
        assert_eq!(
            host.lighter(&["ps", "--filter", filter, "--format", "{{.Names}} {{.Mounts}}"]).ok().out(),
            "user db"
        );
    }
    assert_eq!(host.lighter(&["ps", "-q", "--filter", "volume=d"]).ok().out(), "");
    host.lighter(&["exec", "user", "sh", "-c", "head -c 3000 /dev/zero >/data/x"]).ok();
    let df = host.lighter(&["system", "df", "--format", "{{.Type}}|{{.TotalCount}}|{{.Active}}|{{.Size}}"]).ok().out();
    assert!(df.contains("Local Volumes|2|1|3kB"), "{df}");
    assert!(host.lighter(&["system", "df", "-v"]).ok().out().contains("VOLUME NAME"));
    host.lighter(&["volume", "rm", "db"]).refused(1, "volume is in use");
    host.lighter(&["volume", "rm", "-f", "db"]).refused(1, "volume is in use");
    host.lighter(&["volume", "prune", "-af"]).ok();
    assert_eq!(volumes(&host), BTreeSet::from(["db".to_owned()]));
    host.lighter(&["rm", "-fv", "user"]).ok();
    assert_eq!(volumes(&host).len(), 1, "a named volume outlives rm -v");
    host.lighter(&["volume", "rm", "nope"]).refused(1, "no such volume");
    assert_eq!(host.lighter(&["volume", "rm", "-f", "nope"]).ok().out(), "nope");
    host.lighter(&["volume", "inspect", "nope"]).refused(1, "no such volume");
    for bad in ["x", "a/b", "../x", ".hidden", "a b"] {
        host.lighter(&["volume", "create", bad]).refused(1, "volume name");
        host.lighter(&["volume", "inspect", bad]).refused(1, "no such volume");
        host.lighter(&["volume", "rm", bad]).refused(1, "no such volume");
    }
    host.lighter(&["volume", "create", "-d", "nfs", "xx"]).refused(1, "plugin");
    host.lighter(&["volume", "create", "-o", "bogus=1", "xx"]).refused(1, "invalid option");
    assert_eq!(host.lighter(&["volume", "rm", "db"]).ok().out(), "db");
    let pruned = host.lighter(&["system", "prune", "--volumes", "-f"]).ok().out();
    assert!(!pruned.contains("db"), "{pruned}");
    assert_eq!(volumes(&host).len(), 0);
}

#[test]
fn the_grammar_of_mounts_is_checked_before_anything_is_made() {
    let host = Host::with_busybox();
    for (flags, word) in [
        (["-v", "db:/"].as_slice(), "destination can't be '/'"),
        (&["-v", "db:/proc"], "/proc"),
        (&["-v", "/proc"], "/proc"),
        (&["-v", "db:/data/../.."], ".."),
        (&["-v", "db:/data:shared"], "shared"),
        (&["-v", "db:/data:ro,rw"], "invalid mode"),
        (&["-v", "db:/data:sometimes"], "sometimes"),
        (&["-v", "a:/data"], "too short"),
        (&["-v", "a/b:/data"], "invalid characters"),
        (&["-v", "db:/data", "-v", "dc:/data/"], "Duplicate mount point"),
        (&["-v", "db:/data", "--tmpfs", "/data"], "Duplicate mount point"),
        (&["-v", "db:/data", "--mount", "source=dc,target=/data"], "Duplicate mount point"),
        (&["--mount", "source=db,target=/data,volume-subpath=../x"], "volume-subpath"),
        (&["--mount", "source=db,target=/data,volume-subpath=/x"], "volume-subpath"),
        (&["--mount", "target=/data,volume-subpath=x"], "volume-subpath"),
        (&["--mount", "source=db,target=/data,bind-propagation=shared"], "type=bind"),
        (&["--mount", "source=db,target=/data,volume-driver=odd"], "plugin"),
        (&["--volume-driver", "odd", "-v", "db:/data"], "plugin"),
        (&["--volumes-from", "nobody"], "nobody"),
        (&["--volumes-from", "nobody:often"], "often"),
    ] {
        host.sh(flags, "true").refused(125, word);
    }
    assert_eq!(volumes(&host).len(), 0);
    host.assert_clean();
}

#[test]
fn a_volume_may_stand_for_a_directory_of_the_host() {
    let host = Host::with_busybox();
    let dir = host.scratch("device");
    let device = format!("device={}", dir.display());
    host.lighter(&["volume", "create", "-o", "type=none", "-o", "o=bind", "-o", &device, "dev"]).ok();
    host.sh(&["-v", "dev:/data"], "echo x >/data/file; chown 7:8 /data/file").ok();
    assert_eq!(std::fs::metadata(dir.join("file")).expect("written").uid(), 7);
    let option = format!("source=by-flag,target=/data,volume-opt=type=none,volume-opt=o=bind,volume-opt={device}");
    assert_eq!(host.sh(&["--mount", &option], "cat /data/file").ok().out(), "x");
    assert_eq!(host.lighter(&["volume", "inspect", "by-flag"]).ok().json()[0]["Options"]["o"], "bind");
    host.lighter(&["volume", "rm", "dev", "by-flag"]).ok();
    assert!(dir.join("file").exists(), "the host's own stays");
    host.lighter(&["volume", "create", "-o", "type=none", "-o", "o=bind", "-o", "device=/no/such", "gone"]).ok();
    host.sh(&["-v", "gone:/data"], "true").refused(125, "/no/such");
}

/// CVE-2022-23648: an image's volume path copies the host's files.
#[test]
fn cve_2022_23648_an_images_volume_path_brings_nothing_of_the_host() {
    let host = Host::new();
    let bait = host.bait().parent().expect("a directory").display().to_string();
    let layer = Tar::new().symlink("escape", &bait).symlink("up", "../../../../../..").finish();
    let declared = json!({"/../../../../../..": {}, "/escape": {}, "/up": {}, "/proc": {}, "/": {}, "relative": {},
        format!("/../../../../../..{bait}"): {}});
    host.load(&Image::busybox("evil:1").layer(layer).set("Volumes", declared));
    let output = host.lighter(&["run", "--name", "evil", "evil:1", "cat", "/escape/file", "/up/file"]);
    assert!(!output.out().contains("bait"), "{output}");
    for volume in volumes(&host) {
        assert_eq!(std::fs::read_dir(data(&host, &volume)).expect("listed").count(), 0, "{volume}");
    }
    host.lighter(&["rm", "-fv", "evil"]).ok();
    assert_eq!(std::fs::read_dir(&bait).expect("listed").count(), 1, "nothing was made beside the bait");
}

/// A path inside a volume, swapped for a link to the host's root while it is mounted (CVE-2021-30465), or a link
/// already.
#[test]
fn cve_2021_30465_a_path_inside_a_volume_does_not_leave_it() {
    let host = Host::new();
    host.load(&crate::armed("evil:1"));
    host.lighter(&["volume", "create", "shared"]).ok();
    let inside = data(&host, "shared");
    let bait = host.bait();
    let below = bait.parent().expect("a directory").strip_prefix("/").expect("absolute");
    std::fs::create_dir_all(inside.join("dir").join(below)).expect("mkdir");
    symlink("/", inside.join("link")).expect("a link");
    symlink("../../../../../../../../..", inside.join("up")).expect("a link");
    let mount = |path: &str| format!("source=shared,target=/mnt,volume-subpath={path}");
    for path in ["link", "up", "up/up/link"] {
        let output = host.lighter(&["run", "--rm", "--mount", &mount(path), "evil:1", "ls", "/mnt"]);
        assert_eq!(output.ok().out(), "dir\nlink\nup", "a link leads to the volume's own root");
    }
    host.lighter(&["run", "--rm", "--mount", &mount("not/there"), "evil:1", "true"]).refused(125, "not/there");
    let racing = wait::patient(Duration::from_secs(12)).as_secs().to_string();
    let racer = ["payload", "swap", "/shared/dir", "/shared/link", &racing];
    host.lighter(&[&["run", "-d", "--name", "racer", "-v", "shared:/shared", "evil:1"], racer.as_slice()].concat())
        .ok();
    let path = format!("dir/{}", below.display());
    let end = std::time::Instant::now() + wait::patient(Duration::from_secs(6));
    let mut starts = 0;
    while std::time::Instant::now() < end {
        let output = host.lighter(&["run", "--rm", "--mount", &mount(&path), "evil:1", "cat", "/mnt/file"]);
        assert!(!output.out().contains("bait"), "{output}");
        starts += 1;
    }
    assert!(starts > 10, "only {starts} starts");
    assert_eq!(std::fs::read_dir(bait.parent().expect("a directory")).expect("listed").count(), 1);
    host.lighter(&["rm", "-f", "racer"]).ok();
}

#[test]
fn eight_containers_that_use_a_volume_first_see_the_same() {
    let host = Host::new();
    let mut layer = Tar::new().dir("data", 0o755);
    for number in 0..300 {
        layer = layer.file(&format!("data/f{number}"), 0o644, &[b'x'; 5000]);
    }
    host.load(&Image::busybox("many:1").layer(layer.finish()).layer(Tar::new().file("z", 0o644, b"z").finish()));
    let args = ["run", "--rm", "-v", "shared:/data", "many:1", "sh", "-c", "ls /data | wc -l; cat /data/* | wc -c"];
    let running: Vec<_> = (0..8).map(|_| host.spawn(&args)).collect();
    for one in running {
        let output = one.finish(Duration::from_secs(60));
        assert_eq!(output.ok().out(), "300\n1500000");
    }
    let left: BTreeSet<_> = std::fs::read_dir(data(&host, "shared").parent().expect("a directory"))
        .expect("listed")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
        .collect();
    assert_eq!(left, ["_data", "lock", "record"].map(str::to_owned).into());
}

#[test]
fn a_copy_that_was_killed_is_finished_by_the_next_start() {
    let host = Host::new();
    let mut layer = Tar::new().dir("data", 0o700);
    for number in 0..400 {
        layer = layer.file(&format!("data/f{number}"), 0o644, &[b'y'; 20_000]);
    }
    host.load(&Image::busybox("many:1").layer(layer.finish()).layer(Tar::new().file("z", 0o644, b"z").finish()));
    let mut cut = 0;
    for round in 0..12 {
        let name = format!("vol{round}");
        let bind = format!("{name}:/data");
        let started = host.spawn(&["run", "--rm", "-v", &bind, "many:1", "true"]);
        let dir = data(&host, &name).parent().expect("a directory").to_owned();
        wait::until("the copy begins", Duration::from_secs(20), || {
            let begun = dir.join("seed").join(format!("f{}", round * 30)).exists();
            (begun || data(&host, &name).join("f1").exists()).then_some(())
        });
        started.signal(Signal::KILL);
        started.finish(Duration::from_secs(20));
        cut += u32::from(dir.join("seed").exists() || dir.join("seed.ready").exists());
        let script = "stat -c %a /data; ls /data | wc -l; cat /data/* | wc -c";
        let output = host.lighter(&["run", "--rm", "-v", &bind, "many:1", "sh", "-c", script]);
        assert_eq!(output.ok().out(), "700\n400\n8000000", "round {round}");
        assert!(!dir.join("seed").exists() && !dir.join("seed.ready").exists());
    }
    assert!(cut > 0, "no copy was caught in the middle");
    host.lighter(&["ps", "-a"]).ok();
    host.lighter(&["volume", "prune", "-af"]).ok();
}

#[test]
fn a_damaged_record_spoils_only_its_volume() {
    let host = Host::with_busybox();
    host.lighter(&["volume", "create", "good"]).ok();
    host.lighter(&["volume", "create", "bad"]).ok();
    std::fs::write(host.root().join("volumes/bad/record"), "{").expect("damage it");
    let output = host.lighter(&["volume", "ls", "-q"]);
    assert_eq!(output.ok().out(), "bad\ngood");
    assert!(output.err().contains("record of volume bad is damaged"), "{output}");
    host.sh(&["-v", "good:/data"], "touch /data/x").ok();
    host.sh(&["-v", "bad:/data"], "true").refused(125, "damaged");
    host.lighter(&["volume", "prune", "-af"]).ok();
    assert_eq!(host.lighter(&["volume", "ls", "-q"]).ok().out(), "bad", "prune leaves what it cannot judge");
    host.lighter(&["volume", "rm", "bad"]).ok();
}

#[test]
fn a_container_that_cannot_be_read_may_use_any_volume() {
    let host = Host::with_busybox();
    let id = host.detached(&["--name", "user", "-v", "keep:/data"], &["sh", "-c", "echo precious >/data/x; sleep 600"]);
    wait::until("it is written", Duration::from_secs(20), || data(&host, "keep").join("x").exists().then_some(()));
    let record = host.root().join("containers").join(&id).join("config");
    let right = std::fs::read_to_string(&record).expect("a record");
    // As another version of this program leaves it.
    std::fs::write(&record, right.replacen(r#""version":1"#, r#""version":99"#, 1)).expect("change it");
    host.lighter(&["volume", "rm", "keep"]).rejected("may use the volume");
    host.lighter(&["volume", "prune", "-af"]).rejected("may use the volume");
    std::fs::write(&record, right).expect("put it back");
    assert_eq!(host.lighter(&["exec", "user", "cat", "/data/x"]).ok().out(), "precious");
    host.lighter(&["rm", "-f", "user"]).ok();
    host.lighter(&["volume", "rm", "keep"]).ok();
}

#[test]
fn what_cannot_be_made_leaves_no_volumes() {
    let host = Host::new();
    let declaring = |count: usize| -> serde_json::Value {
        let declared = (0..count).map(|number| (format!("/v/{number}"), json!({})));
        declared.collect::<serde_json::Map<_, _>>().into()
    };
    host.load(&Image::busybox("flood:1").set("Volumes", declaring(100_000)));
    host.lighter(&["create", "flood:1"])
        .rejected("the image declares 100000 volumes, more than the 128 that are allowed");
    host.load(&Image::busybox("many:1").set("Volumes", declaring(128)));
    let create = host.command(&["create", "many:1"]);
    // Each volume is held open by a descriptor until the container's record is there.
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", r#"ulimit -n 60; exec "$0" "$@""#]).arg(create.get_program()).args(create.get_args());
    limited.stdin(std::process::Stdio::null());
    host.finish(limited, None, Duration::from_secs(60)).rejected("Too many open files");
    assert_eq!(volumes(&host), BTreeSet::new());
    host.lighter(&["volume", "prune", "-f"]).ok();
}

/// What is mounted below the host's data root.
fn mounted(host: &Host) -> Vec<std::path::PathBuf> {
    testkit::leak::mounts(host.root())
}

#[test]
fn a_volume_of_memory_is_there_while_it_is_used() {
    let host = Host::new();
    host.load(&Image::busybox("busybox").file("srv/page", 0o640, b"of the image"));
    let options = ["-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m,noexec"];
    host.lighter(&[&["volume", "create"][..], &options, &["mem"]].concat()).ok();
    let first = host.detached(&["-v", "mem:/srv"], &["sleep", "1000"]);
    assert_eq!(mounted(&host).len(), 1, "once for all of its users");
    let second = host.detached(&["-v", "mem:/srv"], &["sleep", "1000"]);
    assert_eq!(mounted(&host).len(), 1);
    let seen = host.lighter(&["exec", &second, "cat", "/srv/page"]).ok().out();
    assert_eq!(seen, "of the image", "an empty volume gets what the image has there");
    let shown = host.lighter(&["exec", &first, "sh", "-c", "grep ' /srv ' /proc/mounts"]).ok().out();
    assert!(shown.contains("tmpfs") && shown.contains("noexec") && shown.contains("size=1024k"), "{shown}");
    let full = host.lighter(&["exec", &first, "dd", "if=/dev/zero", "of=/srv/x", "bs=64k", "count=32"]);
    assert!(full.err().contains("No space left"), "{full}");
    host.lighter(&["volume", "rm", "mem"]).refused(1, "in use");
    host.lighter(&["rm", "-f", &first]).ok();
    assert_eq!(mounted(&host).len(), 1, "another container uses it");
    assert_eq!(host.lighter(&["exec", &second, "ls", "/srv"]).ok().out().lines().count(), 2);
    // Its monitor is killed: the next command takes the mount away.
    for monitor in crate::faults::engine_processes(&host) {
        let monitor = rustix::process::Pid::from_raw(monitor).expect("a process");
        rustix::process::kill_process(monitor, Signal::KILL).expect("killed");
    }
    let gone = || {
        host.lighter(&["ps", "-a"]).ok();
        mounted(&host).is_empty()
    };
    assert!(wait::becomes_true(Duration::from_secs(20), gone), "the last user takes the device away");
    host.lighter(&["rm", &second]).ok();
    host.lighter(&["volume", "rm", "mem"]).ok();
    host.assert_clean();
}

/// A file as a block device, as long as it lives.
struct LoopDevice(String);

impl LoopDevice {
    fn of(file: &str) -> Self {
        Self(testkit::process::tool("losetup", &["--find", "--show", file]).trim().to_owned())
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        testkit::process::tool("losetup", &["--detach", &self.0]);
    }
}

#[test]
fn a_volume_on_a_disk_keeps_its_content() {
    let host = Host::with_busybox();
    let image = host.scratch("disk").join("ext4");
    std::fs::File::create(&image).and_then(|file| file.set_len(16 << 20)).expect("a sparse file");
    let image = image.display().to_string();
    testkit::process::tool("mkfs.ext4", &["-q", &image]);
    let disk = LoopDevice::of(&image);
    let volume = ["volume", "create", "-o", "type=ext4", "-o", &format!("device={}", disk.0), "disk"];
    host.lighter(&volume).ok();
    host.sh(&["-v", "disk:/data"], "echo kept > /data/file; ls -d /data/lost+found").ok();
    assert!(mounted(&host).is_empty(), "{:?}", mounted(&host));
    assert_eq!(host.sh(&["-v", "disk:/data:ro"], "cat /data/file").ok().out(), "kept");
    let refused = host.sh(&["-v", "disk:/data:ro"], "touch /data/x");
    assert!(refused.err().contains("Read-only"), "{refused}");
    // A command that cannot start leaves nothing mounted either; its monitor clears up after it has told.
    host.lighter(&["run", "--rm", "-v", "disk:/data", "busybox", "missing"]).exits(127);
    assert!(wait::becomes_true(Duration::from_secs(20), || mounted(&host).is_empty()), "{:?}", mounted(&host));
    host.lighter(&["volume", "rm", "disk"]).ok();
    drop(disk);
    host.assert_clean();
}

#[test]
fn devices_that_cannot_be_mounted_are_explained() {
    let host = Host::with_busybox();
    let create = |name: &str, options: &[&str]| {
        let options: Vec<&str> = options.iter().flat_map(|option| ["-o", option]).collect();
        host.lighter(&[&["volume", "create"][..], &options, &[name]].concat())
    };
    create("named", &["type=nfs", "device=:/x", "o=addr=server.example"]).refused(1, "server.example");
    create("looped", &["type=ext4", "device=/srv/disk", "o=loop"]).refused(1, "loop");
    create("sized", &["size=10g"]).refused(1, "quota");
    create("half", &["type=tmpfs"]).refused(1, "device");
    create("gone", &["type=ext4", "device=/dev/no-such-disk"]).ok();
    host.sh(&["-v", "gone:/data"], "true").refused(125, "/dev/no-such-disk");
    create("odd", &["type=no-such-fs", "device=none"]).ok();
    host.sh(&["-v", "odd:/data"], "true").refused(125, "no-such-fs");
    create("wrong", &["type=tmpfs", "device=tmpfs", "o=flavour=mint"]).ok();
    host.sh(&["-v", "wrong:/data"], "true").refused(125, "flavour");
    assert!(wait::becomes_true(Duration::from_secs(20), || mounted(&host).is_empty()), "{:?}", mounted(&host));
    let dirs = host.scratch("overlay");
    for name in ["lower", "upper", "work"] {
        std::fs::create_dir(dirs.join(name)).expect("made");
    }
    std::fs::write(dirs.join("lower/file"), "below").expect("written");
    let shown = dirs.display();
    let option = format!("o=lowerdir={shown}/lower,upperdir={shown}/upper,workdir={shown}/work");
    create("over", &["type=overlay", "device=overlay", &option]).ok();
    assert_eq!(host.sh(&["-v", "over:/data"], "cat /data/file; echo above > /data/new").ok().out(), "below");
    assert_eq!(std::fs::read_to_string(dirs.join("upper/new")).expect("written"), "above\n");
    host.assert_clean();
}
