//! `lighter-runtime`: what the kernel makes of a seccomp profile, call by call.
//!
//! `tests/programs/calls.c` makes the calls, by the numbers of x86-64.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::{Value, json};
use testkit::Host;
use testkit::process::{DEADLINE, Output, tool};

use crate::runtime_process::{bundle, run, unique};

/// fadvise64 with -1 for a descriptor: EBADF from the kernel, whatever its other arguments are.
const FADVISE: &str = "64:221:-1";
const EBADF: &str = "-9";
/// An errno that no call here gives by itself.
const REFUSED: u32 = 77;
const SIGSYS_CODE: i32 = 128 + 31;

fn program() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/programs/calls.c");
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (ours, built) = (dir.join(format!("calls-{}", std::process::id())), dir.join("calls"));
        tool("cc", &["-O1", "-static", "-o", &ours.to_string_lossy(), source]);
        // Another run of the suite may have it open.
        std::fs::rename(ours, &built).expect("renamed");
        built
    })
}

/// Runs `words` of the program under `seccomp`.
fn calls(host: &Host, seccomp: &Value, words: &[&str]) -> Output {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let name = format!("calls{}", COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    let dir = bundle(host, &name, "", |config| {
        config["process"]["args"] = json!([&["/calls"], words].concat());
        config["process"]["noNewPrivileges"] = json!(true);
        config["linux"]["seccomp"] = seccomp.clone();
    });
    std::fs::copy(program(), dir.join("rootfs/calls")).expect("copied");
    run(host, &dir, &unique(&name))
}

fn only(action: &str, call: &str) -> Value {
    json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [call], "action": action}]})
}

#[test]
fn every_action_is_the_kernels() {
    let host = Host::new();
    let fadvise = |action: &str| only(action, "fadvise64");
    for action in ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG"] {
        assert_eq!(calls(&host, &fadvise(action), &[FADVISE]).ok().out(), EBADF, "{action}");
    }
    for action in ["SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"] {
        assert_eq!(calls(&host, &fadvise(action), &["64:39", FADVISE]).exits(SIGSYS_CODE).out(), "1", "{action}");
    }
    let thread = ["thread:221:-1"];
    assert_eq!(calls(&host, &fadvise("SCMP_ACT_KILL"), &thread).ok().out(), "joined");
    assert_eq!(calls(&host, &fadvise("SCMP_ACT_KILL_THREAD"), &thread).ok().out(), "joined");
    assert_eq!(calls(&host, &fadvise("SCMP_ACT_KILL_PROCESS"), &thread).exits(SIGSYS_CODE).out(), "");
    let handled = ["handle", FADVISE];
    assert_eq!(calls(&host, &fadvise("SCMP_ACT_TRAP"), &handled).ok().out(), "SIGSYS for 221");
    assert_eq!(calls(&host, &fadvise("SCMP_ACT_KILL"), &handled).exits(SIGSYS_CODE).out(), "");
    // Nobody traces.
    assert_eq!(calls(&host, &fadvise("SCMP_ACT_TRACE"), &[FADVISE]).ok().out(), "-38");
    assert_eq!(calls(&host, &fadvise("SCMP_ACT_ERRNO"), &[FADVISE]).ok().out(), "-1");
    let mut chosen = fadvise("SCMP_ACT_ERRNO");
    chosen["syscalls"][0]["errnoRet"] = json!(REFUSED);
    assert_eq!(calls(&host, &chosen, &[FADVISE]).ok().out(), "-77");
    host.assert_clean();
}

/// An operator of `SCMP_CMP_…`, its operands, and arguments with whether the condition holds for them.
type Case = (&'static str, u64, u64, &'static [(u64, bool)]);

#[test]
fn arguments_are_compared_with_all_their_bits() {
    let host = Host::new();
    const BIT32: u64 = 1 << 32;
    let cases: [Case; 7] = [
        ("NE", BIT32 + 5, 0, &[(BIT32 + 5, false), (5, true), (BIT32, true)]),
        ("EQ", BIT32 + 5, 0, &[(BIT32 + 5, true), (5, false), (2 * BIT32 + 5, false), (BIT32 + 6, false)]),
        (
            "LT",
            BIT32 + 5,
            0,
            &[(BIT32 + 4, true), (BIT32 + 5, false), (6, true), (2 * BIT32, false), (u64::MAX, false)],
        ),
        ("LE", BIT32 + 5, 0, &[(BIT32 + 5, true), (BIT32 + 6, false), (BIT32 - 1, true), (2 * BIT32, false)]),
        ("GE", BIT32, 0, &[(BIT32, true), (BIT32 - 1, false), (2 * BIT32, true), (u64::MAX, true), (0, false)]),
        ("GT", BIT32, 0, &[(BIT32, false), (BIT32 + 1, true), (BIT32 - 1, false), (2 * BIT32, true), (u64::MAX, true)]),
        (
            "MASKED_EQ",
            0xff00_0000_0000_00f0,
            0x1100_0000_0000_0030,
            &[
                (0x11ab_cdef_0000_003f, true),
                (0x1100_0000_0000_0030, true),
                (0x1200_0000_0000_0030, false),
                (0x1100_0000_0000_0040, false),
                (0x30, false),
            ],
        ),
    ];
    for (operator, value, second, given) in cases {
        let mut profile = only("SCMP_ACT_ERRNO", "fadvise64");
        profile["syscalls"][0]["errnoRet"] = json!(REFUSED);
        profile["syscalls"][0]["args"] =
            json!([{"index": 1, "value": value, "valueTwo": second, "op": format!("SCMP_CMP_{operator}")}]);
        let words: Vec<String> = given.iter().map(|(argument, _)| format!("{FADVISE}:{argument}")).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let expected: Vec<&str> = given.iter().map(|(_, holds)| if *holds { "-77" } else { EBADF }).collect();
        assert_eq!(calls(&host, &profile, &words).ok().out(), expected.join("\n"), "{operator} {value:#x} {words:?}");
    }
    // All of several conditions have to hold.
    let mut both = only("SCMP_ACT_ERRNO", "fadvise64");
    both["syscalls"][0]["errnoRet"] = json!(REFUSED);
    let equal = |index: u32, value: u64| json!({"index": index, "value": value, "op": "SCMP_CMP_EQ"});
    both["syscalls"][0]["args"] = json!([equal(1, 3), equal(3, 4)]);
    let words = ["64:221:-1:3:0:4", "64:221:-1:3:0:5", "64:221:-1:2:0:4"];
    assert_eq!(calls(&host, &both, &words).ok().out(), format!("-77\n{EBADF}\n{EBADF}"));
    host.assert_clean();
}

#[test]
fn calls_of_another_architecture_have_numbers_of_their_own() {
    let host = Host::new();
    // getppid is 64 there, which here is semget; 110 here, which there is iopl.
    let mut profile = only("SCMP_ACT_ERRNO", "getppid");
    profile["syscalls"][0]["errnoRet"] = json!(REFUSED);
    let mut listed = profile.clone();
    listed["architectures"] = json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]);
    assert_eq!(calls(&host, &listed, &["64:110", "64:39"]).ok().out(), "-77\n1");
    // x32, whose numbers are these with a bit, is not listed in either.
    for profile in [&profile, &listed] {
        assert_eq!(calls(&host, profile, &["64:39", "64:0x4000006e"]).exits(SIGSYS_CODE).out(), "1");
    }
    // A kernel without 32-bit calls answers int 0x80 with a signal: there is nothing more to see on such a host.
    let mut outside = std::process::Command::new(program());
    outside.arg("32:20");
    if host.finish(outside, None, DEADLINE).status == 0 {
        assert_eq!(calls(&host, &listed, &["32:64", "32:20"]).ok().out(), "-77\n1");
        assert_eq!(calls(&host, &profile, &["64:39", "32:20"]).exits(SIGSYS_CODE).out(), "1");
    }
    host.assert_clean();
}

#[test]
fn a_call_the_profile_cannot_know_is_not_there() {
    let host = Host::new();
    // What a static program needs, and mseal, the newest that is named.
    let names = [
        "execve",
        "brk",
        "arch_prctl",
        "set_tid_address",
        "set_robust_list",
        "rseq",
        "prlimit64",
        "readlinkat",
        "readlink",
        "getrandom",
        "mprotect",
        "write",
        "exit_group",
        "newfstatat",
        "fstat",
        "getpid",
        "prctl",
        "rt_sigaction",
        "rt_sigprocmask",
        "poll",
        "ppoll",
        "mmap",
        "munmap",
        "close",
        "sendmsg",
        "futex",
        "mseal",
    ];
    let profile = json!({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": REFUSED,
        "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}],
    });
    // mseal is 462: what came after it is unknown, what came before it is refused.
    let words = ["64:39", "64:110", "64:461", "64:463", "64:999"];
    assert_eq!(calls(&host, &profile, &words).ok().out(), "1\n-77\n-77\n-38\n-38");
    host.assert_clean();
}
