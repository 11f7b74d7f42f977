//! What root inside a container cannot do, and what it can see.

use std::collections::BTreeMap;

use testkit::Host;

/// Docker's fourteen capabilities less MKNOD, NET_RAW and AUDIT_WRITE, as /proc writes them.
const DEFAULT_CAPABILITIES: &str = "00000000800405fb";

/// Kernel interfaces that must give nothing, when this machine's kernel has them.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Kernel interfaces that may be read but not written.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The capability sets of `/proc/self/status`, by name.
fn capabilities(status: &str) -> BTreeMap<&str, &str> {
    status.lines().filter_map(|line| line.strip_prefix("Cap")?.split_once(":\t")).collect()
}

#[track_caller]
fn assert_sets(status: &str, held: &str, bounding: &str) {
    let none = "0000000000000000";
    let expected = BTreeMap::from([("Inh", none), ("Prm", held), ("Eff", held), ("Bnd", bounding), ("Amb", none)]);
    assert_eq!(capabilities(status), expected);
}

#[test]
fn capability_sets_are_exact() {
    let host = Host::with_busybox();
    let status = |flags: &[&str]| host.sh(flags, "cat /proc/self/status").ok().out();
    assert_sets(&status(&[]), DEFAULT_CAPABILITIES, DEFAULT_CAPABILITIES);
    let one = ["--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE"];
    assert_sets(&status(&one), "0000000000000400", "0000000000000400");
    assert_sets(&status(&["--cap-drop", "all"]), "0000000000000000", "0000000000000000");
    assert_sets(&status(&["--cap-add", "CAP_NET_RAW"]), "00000000800425fb", "00000000800425fb");
    assert_sets(&status(&["--cap-drop", "chown"]), "00000000800405fa", "00000000800405fa");
    // Another user holds none, but could be given one by a set-user-id program.
    assert_sets(&status(&["-u", "alice"]), "0000000000000000", DEFAULT_CAPABILITIES);
    host.detached(&["--name", "box", "--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE"], &["sleep", "1000"]);
    let exec = host.lighter(&["exec", "box", "cat", "/proc/self/status"]).ok().out();
    assert_sets(&exec, "0000000000000400", "0000000000000400");
}

#[test]
fn the_default_posture_is_in_force_and_told() {
    let host = Host::with_busybox();
    let id = host.detached(&[], &["sleep", "1000"]);
    let pid = host.inspect(&id)["State"]["Pid"].as_i64().expect("a pid");
    for namespace in ["mnt", "pid", "net", "ipc", "uts", "user", "cgroup", "time"] {
        let link = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/{namespace}")).expect("a namespace");
        assert_ne!(link(&pid.to_string()), link("self"), "its own {namespace} namespace");
    }
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
    assert_eq!(field("Seccomp:"), "2", "a filter");
    let uid: u64 = field("Uid:").split_whitespace().next().and_then(|word| word.parse().ok()).expect("a uid");
    assert!(uid >= 65536, "root inside is uid {uid} outside");
    let posture = host.inspect(&id)["Posture"].to_string().to_lowercase();
    for word in ["user", "seccomp", "cap"] {
        assert!(posture.contains(word), "{word} in {posture}");
    }
    assert_ne!(field("NoNewPrivs:"), "", "{status}");
    let strict = host.sh(&["--security-opt", "no-new-privileges"], "grep NoNewPrivs /proc/self/status").ok().out();
    assert_eq!(strict, "NoNewPrivs:\t1");
}

#[test]
fn two_containers_have_different_users_outside() {
    let host = Host::with_busybox();
    let start = |name: &str| {
        let id = host.detached(&["--name", name], &["sleep", "1000"]);
        let pid = host.inspect(&id)["State"]["Pid"].as_i64().expect("a pid");
        std::fs::read_to_string(format!("/proc/{pid}/uid_map")).expect("a map")
    };
    assert_ne!(start("one"), start("two"));
}

#[test]
fn fall_backs_are_visible() {
    let host = Host::with_busybox();
    let map = |flags: &[&str]| host.sh(flags, "cat /proc/self/uid_map").ok().out();
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    for flags in [["--userns", "host"].as_slice(), &["--privileged"], &["--network", "host"]] {
        assert_eq!(words(&map(flags)), ["0", "0", "4294967295"], "{flags:?}");
        let args = [&["create", "--name", "fallback"], flags, &["busybox"]].concat();
        host.lighter(&args).ok();
        assert!(host.inspect("fallback")["Posture"].to_string().contains("host"), "{flags:?}");
        host.lighter(&["rm", "fallback"]).ok();
    }
}

#[test]
fn network_none_has_loopback_only_and_host_has_the_hosts() {
    let host = Host::with_busybox();
    let links = |flags: &[&str]| {
        host.sh(flags, "ls /sys/class/net; ip -o link | wc -l; ip -o addr show lo | grep -q 127.0.0.1").ok().out()
    };
    assert_eq!(links(&["--network", "none"]), "lo\n1");
    assert_eq!(links(&[]), "lo\n1", "until there are networks, none is the default");
    let mine = std::fs::read_link("/proc/self/ns/net").expect("a namespace").display().to_string();
    assert_eq!(host.sh(&["--network", "host"], "readlink /proc/self/ns/net").ok().out(), mine);
    // CVE-2020-15257: with the host's network, no abstract socket of ours is there to be talked to.
    host.detached(&["--name", "box"], &["sleep", "1000"]);
    let sockets = host.sh(&["--network", "host"], "cat /proc/net/unix").ok().out();
    assert!(!sockets.lines().any(|line| line.contains(" @") && line.contains("lighter")), "{sockets}");
}

#[test]
fn kernel_interfaces_are_masked_or_read_only() {
    let host = Host::with_busybox();
    let script = "for f in $MASKED; do [ -e $f ] || continue; if [ -d $f ]; then ls -A $f; else cat $f; fi; done
                  (echo h >/proc/sysrq-trigger) 2>/dev/null && echo writable sysrq
                  (: >>/proc/sys/kernel/core_pattern) 2>/dev/null && echo writable core_pattern; true";
    let output = host.sh(&["-e", &format!("MASKED={}", MASKED.join(" "))], script);
    assert_eq!(output.ok().out(), "", "what a mask shows, or what can be written");
    // The mounts that do it, as a list: each of these that the kernel has.
    let mounts = host.sh(&[], "cut -d' ' -f5,6 /proc/self/mountinfo").ok().out();
    let points: BTreeMap<&str, &str> = mounts.lines().filter_map(|line| line.split_once(' ')).collect();
    for path in MASKED.iter().chain(&READ_ONLY).filter(|path| std::path::Path::new(path).exists()) {
        let options = points.get(path).unwrap_or_else(|| panic!("{path} has no mount of its own in\n{mounts}"));
        assert!(options.split(',').any(|option| option == "ro") || MASKED.contains(path), "{path} {options}");
    }
    let options = points.get("/sys").copied().unwrap_or_default();
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(options.split(',').any(|has| has == option), "/sys is {options}");
    }
}

/// CVE-2015-3630: nothing of /proc and /sys takes a write but what belongs to the process itself.
#[test]
fn nothing_of_the_kernels_can_be_written() {
    let host = Host::new();
    host.load(&crate::armed("armed:1"));
    let output = host.lighter(&["run", "--rm", "armed:1", "payload", "writable", "/proc", "/sys"]);
    assert_eq!(output.ok().out(), "", "these could be opened for writing");
}

#[test]
fn only_its_own_processes_are_seen() {
    let host = Host::with_busybox();
    let output = host.sh(&[], "ls -d /proc/[0-9]* | wc -l; kill -0 2 2>/dev/null || echo none; cat /proc/1/comm; true");
    let lines: Vec<String> = output.ok().out().lines().map(str::to_owned).collect();
    assert!(lines[0].trim().parse::<u32>().is_ok_and(|count| count <= 6), "{output}");
    assert_eq!(lines[2], "sh");
}

/// Lines `NAME NUMBER ARGUMENT...` of calls that must be refused, with arguments that do no harm where they are not; `B` stands for a zeroed buffer, text in quotes for itself.
const CALLS: &str = "
mount 165 'none' '/nonexistent' 'tmpfs' 0 0
umount 166 '/nonexistent' 2
pivot_root 155 '/nonexistent' '/nonexistent'
fsopen 430 'tmpfs' 0
open_tree 428 -100 '/nonexistent' 1
move_mount 429 -100 '/nonexistent' -100 '/nonexistent' 0
mount_setattr 442 -100 '/nonexistent' 0 B 32
unshare_user 272 268435456
unshare_mount 272 131072
unshare_net 272 1073741824
setns 308 0 0
mknod_memory 133 '/tmp/evil-mem' 8630 257
mknod_disk 133 '/tmp/evil-disk' 25014 2048
init_module 175 B 16 ''
finit_module 313 0 '' 0
delete_module 176 'nonexistent' 2048
kexec_load 246 0 0 0 0
bpf 321 5 B 64
perf_event_open 298 B 0 -1 -1 0
userfaultfd 323 0
io_uring_setup 425 8 B
io_uring_enter 426 0 0 0 0 0
io_uring_register 427 0 0 0 0
add_key 248 'user' 'evil' 'x' 1 -2
request_key 249 'user' 'evil' 0 0
keyctl 250 0 -2 1
open_by_handle_at 304 0 B 0
fanotify_init 300 0 0
quotactl 179 0 0 0 0
acct 163 '/nonexistent'
swapon 167 '/nonexistent' 0
iopl 172 3
ioperm 173 0 1 1
clock_settime 227 99 B
settimeofday 164 0 0
syslog 103 3 B 64
sethostname 170 'evil' 1000
reboot 169 0 0 0 0
personality_noaslr 135 262144
socket_alg 41 38 5 0
socket_vsock 41 40 1 0
socket_packet 41 17 3 768
socket_raw 41 2 3 1
lookup_dcookie 212 0 B 16
";

/// A program for perl, whose `syscall` makes any call with no library between.
fn caller() -> String {
    format!(
        r#"
for my $line (split /\n/, <<'CALLS') {{
{CALLS}
CALLS
    my ($name, @words) = split ' ', $line;
    next unless $name;
    my @arguments = map {{ /^'(.*)'$/ ? "$1" : $_ eq 'B' ? "\0" x 256 : 0 + $_ }} @words;
    $! = 0;
    my $result = syscall(shift @arguments, @arguments);
    print "$name ", ($result == -1 ? 0 + $! : "done"), "\n";
}}
"#
    )
}

#[test]
fn calls_that_reach_the_kernels_depths_are_refused() {
    let host = Host::new();
    super::debian::import(&host, "bookworm", "debian:bookworm");
    host.lighter(&["run", "-d", "--name", "box", "debian:bookworm", "sleep", "1000"]).ok();
    host.assert_exec_is_inside("box");
    let program = caller();
    let exec = host.lighter_reading(&["exec", "-i", "box", "perl", "-"], program.as_bytes()).ok().out();
    let run =
        host.lighter_reading(&["run", "--rm", "-i", "debian:bookworm", "perl", "-"], program.as_bytes()).ok().out();
    for (how, text) in [("run", run), ("exec", exec)] {
        let results: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once(' ')).collect();
        assert_eq!(results.len(), CALLS.trim().lines().count(), "{how}: every call came back\n{text}");
        // EPERM, ENOSYS, EACCES, EAFNOSUPPORT: refused. Anything else got as far as looking at the arguments.
        let reached: Vec<_> =
            results.iter().filter(|(_, result)| !matches!(*result, "1" | "38" | "13" | "97")).collect();
        assert!(reached.is_empty(), "{how}: {reached:?}");
        // The C library falls back to clone(2) only when clone3 is said not to exist.
        let clone3 = "my $b = \"\\0\" x 88; $! = 0; syscall(435, $b, 88); print 0 + $!";
        assert_eq!(host.lighter(&["exec", "box", "perl", "-e", clone3]).ok().out(), "38");
        let newer = "$! = 0; syscall(9999, 0); print 0 + $!";
        assert_eq!(host.lighter(&["exec", "box", "perl", "-e", newer]).ok().out(), "38", "unknown calls do not exist");
    }
}

/// The second set of call numbers of x86-64 doubles the kernel's surface for nobody.
#[test]
fn calls_of_the_x32_abi_are_refused() {
    let host = Host::new();
    super::debian::import(&host, "bookworm", "debian:bookworm");
    let getpid = "$! = 0; my $r = syscall(0x40000000 + 39); print $r == -1 ? 0 + $! : 'done'";
    let output = host.lighter(&["run", "--rm", "debian:bookworm", "perl", "-e", getpid]);
    // Killed by SIGSYS, or told EPERM or ENOSYS.
    assert!(output.status == 128 + 31 || matches!(output.out().as_str(), "1" | "38"), "{output}");
}

#[test]
fn words_for_the_same_are_refused_too() {
    let host = Host::with_busybox();
    let refused = [
        "mount -t tmpfs none /mnt",
        "mount -t proc none /mnt",
        "mount -o remount,rw /proc/sys",
        "umount /proc/sys",
        "umount /proc/kcore",
        "mknod /x c 1 1",
        "mknod /x b 8 0",
        "insmod /bin/busybox",
        "modprobe dummy",
        "unshare -U true",
        "unshare -m true",
        "nsenter -t 1 -m -- mount -t tmpfs none /mnt",
        "hostname evil",
        "swapon /dev/zero",
        "cat /proc/sys/kernel/core_pattern >/proc/sys/kernel/core_pattern",
        "echo 1 >/proc/sys/vm/drop_caches",
        "cat /proc/1/root/../../../../../../var/lib/dpkg/status",
        "chroot /proc/1/root/.. ls /boot/grub",
    ];
    let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("a host name");
    for script in refused {
        let output = host.sh(&[], &format!("{script} 2>&1 && echo DONE; true"));
        assert!(!output.ok().out().contains("DONE"), "{script}\n{output}");
    }
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/hostname").expect("a host name"), host_name);
}

#[test]
fn ping_and_low_ports_still_work() {
    let host = Host::new();
    host.load(&crate::armed("busybox:latest"));
    // busybox's own ping knows raw sockets only; modern ones use the kernel's ping sockets.
    assert_eq!(host.sh(&[], "payload ping").ok().out(), "echoed");
    assert_eq!(host.sh(&["-u", "alice"], "payload ping").ok().out(), "echoed");
    let serve = "httpd -p 127.0.0.1:80 -h /etc && sleep 0.2 && wget -q -O - http://127.0.0.1:80/group";
    assert!(host.sh(&["-u", "alice"], serve).ok().out().contains("staff"));
}

#[test]
fn no_descriptor_of_the_engines_comes_in() {
    let host = Host::new();
    host.load(&crate::armed("armed:1"));
    host.lighter(&["run", "-d", "--name", "box", "armed:1", "sleep", "1000"]).ok();
    for args in [["run", "--rm", "armed:1"].as_slice(), &["exec", "box"]] {
        let output = host.lighter(&[args, &["payload", "descriptors"]].concat());
        assert_eq!(output.ok().out(), "cwd /", "{args:?}");
    }
}

/// R14: the engine's directories are root's alone.
#[test]
fn others_cannot_look_into_the_store() {
    let host = Host::with_busybox();
    host.detached(&["--name", "box"], &["sleep", "1000"]);
    for dir in [host.root(), host.run_dir()] {
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(dir).expect("a directory"));
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "ls"]).arg(dir);
        let output = testkit::process::run(command, None, testkit::process::DEADLINE);
        assert_ne!(output.status, 0, "{} has mode {mode:o}\n{output}", dir.display());
    }
}
