//! Runs a program on a kernel that lacks something: `without CALL[@ARGUMENT[&MASK]=VALUE]:ERRNO… -- PROGRAM [ARGUMENT…]`.
//!
//! A filter answers the calls named with the errno, for the program and all it starts; with `@` only those whose
//! argument (numbered from 0, its low 32 bits) is the value. Numbers may be hexadecimal with `0x`.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use sys::seccomp::{FilterFlags, Instruction, load_filter};

/// Calls that the suites take away.
const CALLS: [(&str, i64); 23] = [
    ("bpf", libc::SYS_bpf),
    ("clone3", libc::SYS_clone3),
    ("close_range", libc::SYS_close_range),
    ("copy_file_range", libc::SYS_copy_file_range),
    ("execveat", libc::SYS_execveat),
    ("fsconfig", libc::SYS_fsconfig),
    ("fsmount", libc::SYS_fsmount),
    ("fsopen", libc::SYS_fsopen),
    ("ioprio_set", libc::SYS_ioprio_set),
    ("keyctl", libc::SYS_keyctl),
    ("memfd_create", libc::SYS_memfd_create),
    // Only x86 has the older one.
    #[cfg(target_arch = "x86_64")]
    ("mknod", libc::SYS_mknod),
    #[cfg(not(target_arch = "x86_64"))]
    ("mknod", libc::SYS_mknodat),
    ("mknodat", libc::SYS_mknodat),
    ("mount_setattr", libc::SYS_mount_setattr),
    ("move_mount", libc::SYS_move_mount),
    ("open_tree", libc::SYS_open_tree),
    ("openat", libc::SYS_openat),
    ("openat2", libc::SYS_openat2),
    ("pidfd_open", libc::SYS_pidfd_open),
    ("pidfd_send_signal", libc::SYS_pidfd_send_signal),
    ("sched_setattr", libc::SYS_sched_setattr),
    ("seccomp", libc::SYS_seccomp),
    ("setns", libc::SYS_setns),
];

/// What a kernel or a sandbox answers.
const ERRNOS: [(&str, i32); 6] = [
    ("ENOSYS", libc::ENOSYS),
    ("EPERM", libc::EPERM),
    ("EINVAL", libc::EINVAL),
    ("EOPNOTSUPP", libc::EOPNOTSUPP),
    ("EXDEV", libc::EXDEV),
    ("EACCES", libc::EACCES),
];

// Operations of classic BPF (linux/bpf_common.h), places in `struct seccomp_data`, answers (linux/seccomp.h).
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;
const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
/// `AUDIT_ARCH_*` of this machine (linux/audit.h).
const NATIVE: u32 = if cfg!(target_arch = "aarch64") { 0xc000_00b7 } else { 0xc000_003e };

const fn step(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

/// Goes on when the value is `k`, and over the next `else_skip` instructions when it is not.
const fn unless(k: u32, else_skip: u8) -> Instruction {
    Instruction { code: JUMP_IF_EQUAL, jt: 0, jf: else_skip, k }
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn named<T: Copy>(table: &[(&str, T)], name: &str) -> Option<T> {
    table.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
}

/// The instructions of one word.
fn rule(word: &str) -> Option<Vec<Instruction>> {
    let (what, errno) = word.rsplit_once(':')?;
    let answer = step(RETURN, ERRNO | u32::try_from(named(&ERRNOS, errno)?).ok()?);
    let (call, condition) = match what.split_once('@') {
        Some((call, condition)) => (call, Some(condition)),
        None => (what, None),
    };
    let call = u32::try_from(named(&CALLS, call)?).ok()?;
    let Some(condition) = condition else {
        return Some(vec![step(LOAD, NUMBER), unless(call, 1), answer]);
    };
    let (argument, value) = condition.split_once('=')?;
    let (argument, mask) = argument.split_once('&').unwrap_or((argument, "0xffffffff"));
    let place = ARGUMENTS + 8 * number(argument).filter(|argument| *argument < 6)?;
    Some(vec![
        step(LOAD, NUMBER),
        unless(call, 4),
        step(LOAD, place),
        step(AND, number(mask)?),
        unless(number(value)?, 1),
        answer,
    ])
}

fn program(words: &[String]) -> Result<Vec<Instruction>, String> {
    let mut program = vec![step(LOAD, ARCHITECTURE), unless(NATIVE, 0)];
    for word in words {
        program.extend(rule(word).ok_or_else(|| format!("{word:?} is no CALL[@ARGUMENT[&MASK]=VALUE]:ERRNO"))?);
    }
    program.push(step(RETURN, ALLOW));
    // Calls of other architectures are none of ours.
    let last = u8::try_from(program.len() - 3).map_err(|_| "too many words".to_owned())?;
    program[1].jf = last;
    Ok(program)
}

fn run() -> Result<(), String> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let split = words.iter().position(|word| word == "--").ok_or("no -- before the program")?;
    let (rules, command) = (&words[..split], &words[split + 1..]);
    let (name, arguments) = command.split_first().ok_or("no program")?;
    load_filter(&program(rules)?, FilterFlags::default()).map_err(|error| error.to_string())?;
    Err(format!("{name}: {}", Command::new(name).args(arguments).exec()))
}

fn main() -> ExitCode {
    let Err(error) = run() else { return ExitCode::SUCCESS };
    drop(std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("without: {error}\n")));
    ExitCode::from(99)
}
