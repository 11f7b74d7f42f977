//! A model of the compiler, for tests and fuzz targets: what a profile means, evaluated slowly and straight from its
//! words, and the kernel's interpreter of classic BPF.

use oci::runtime::{LinuxSeccomp, LinuxSeccompArg, LinuxSyscall};
use sys::seccomp::Instruction;

use super::abi::{Abi, Machine, multiplexed};
use super::calls::Call;

/// `struct seccomp_data` without the instruction pointer, which no profile speaks of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Data {
    pub(super) number: u32,
    pub(super) architecture: u32,
    pub(super) arguments: [u64; 6],
}

/// What a program did with some data.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) value: u32,
    /// Whether an argument was looked at.
    pub(super) looked_at_arguments: bool,
}

/// Runs `program`, with the kernel's checks: jumps stay inside, loads are aligned words of the data.
pub(super) fn interpret(program: &[Instruction], data: &Data) -> Outcome {
    let mut words = vec![data.number, data.architecture, 0, 0];
    for argument in data.arguments {
        words.extend([argument as u32, (argument >> 32) as u32]);
    }
    assert_eq!(program.last().map(|last| last.code), Some(0x06), "the last instruction returns");
    let (mut at, mut accumulator, mut looked_at_arguments) = (0, 0u32, false);
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        let mut skip = |condition: bool| at += usize::from(if condition { jt } else { jf });
        match code {
            0x20 => {
                assert!(k % 4 == 0);
                looked_at_arguments |= k >= 16;
                accumulator = words[k as usize / 4];
            }
            0x05 => at += k as usize,
            0x15 => skip(accumulator == k),
            0x25 => skip(accumulator > k),
            0x35 => skip(accumulator >= k),
            0x54 => accumulator &= k,
            0x06 => return Outcome { value: k, looked_at_arguments },
            _ => panic!("instruction {code:#x} is not expected"),
        }
        assert!(at < program.len());
    }
}

fn action(name: &str, errno: Option<u32>) -> u32 {
    match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => 0,
        "SCMP_ACT_KILL_PROCESS" => 0x8000_0000,
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_ERRNO" => 0x0005_0000 + errno.unwrap_or(1),
        "SCMP_ACT_TRACE" => 0x7ff0_0000 + errno.unwrap_or(1),
        "SCMP_ACT_LOG" => 0x7ffc_0000,
        "SCMP_ACT_NOTIFY" => 0x7fc0_0000,
        "SCMP_ACT_ALLOW" => 0x7fff_0000,
        _ => panic!("{name}"),
    }
}

/// From the strictest to the most lenient.
const ORDER: [u32; 8] = [0x8000_0000, 0, 0x0003_0000, 0x0005_0000, 0x7fc0_0000, 0x7ff0_0000, 0x7ffc_0000, 0x7fff_0000];

fn strictness(value: u32) -> usize {
    ORDER.iter().position(|action| *action == value & 0xffff_0000).expect("an action")
}

fn holds(argument: &LinuxSeccompArg, abi: Abi, arguments: &[u64; 6]) -> bool {
    let width = if matches!(abi, Abi::X86 | Abi::Arm) { u64::from(u32::MAX) } else { u64::MAX };
    let actual = arguments[argument.index as usize] & width;
    let value = argument.value & width;
    match argument.op.as_str() {
        "SCMP_CMP_EQ" => actual == value,
        "SCMP_CMP_NE" => actual != value,
        "SCMP_CMP_LT" => actual < value,
        "SCMP_CMP_LE" => actual <= value,
        "SCMP_CMP_GT" => actual > value,
        "SCMP_CMP_GE" => actual >= value,
        "SCMP_CMP_MASKED_EQ" => actual & value == argument.value_two & value,
        other => panic!("{other}"),
    }
}

fn rule_holds(rule: &LinuxSyscall, abi: Abi, arguments: &[u64; 6]) -> bool {
    let repeated = (0..6).any(|index| rule.args.iter().filter(|argument| argument.index == index).count() > 1);
    let mut held = rule.args.iter().map(|argument| holds(argument, abi, arguments));
    if repeated { held.any(|held| held) } else { held.all(|held| held) }
}

/// What `profile` means for `data`.
pub(super) fn reference(machine: Machine, profile: &LinuxSeccomp, data: &Data) -> u32 {
    let default = action(&profile.default_action, profile.default_errno_ret);
    let listed = |name: &str| profile.architectures.iter().any(|listed| listed == name);
    let x32_number = data.number >= 0x4000_0000;
    let abi = match (machine, data.architecture) {
        (Machine::X86_64, 0xc000_003e) if x32_number && listed("SCMP_ARCH_X32") => Abi::X32,
        (Machine::X86_64, 0xc000_003e) if data.number == u32::MAX => return default,
        (Machine::X86_64, 0xc000_003e) if !x32_number => Abi::X86_64,
        (Machine::X86_64, 0x4000_0003) if listed("SCMP_ARCH_X86") => Abi::X86,
        (Machine::Aarch64, 0xc000_00b7) => Abi::Aarch64,
        (Machine::Aarch64, 0x4000_0028) if listed("SCMP_ARCH_ARM") => Abi::Arm,
        _ => return 0,
    };
    let number = |name: &str| Call::named(name).and_then(|call| call.number(abi));
    let rules: Vec<_> = profile.syscalls.iter().flat_map(|rule| rule.names.iter().map(move |n| (n, rule))).collect();
    let effective = |rule: &LinuxSyscall| action(&rule.action, rule.errno_ret) != default;
    let mut named: Vec<u32> = rules.iter().filter_map(|(name, _)| number(name)).collect();

    let mut first_unconditional = None;
    let mut first_held = None;
    for (name, rule) in rules.iter().filter(|(_, rule)| effective(rule)) {
        if number(name) == Some(data.number) {
            let value = action(&rule.action, rule.errno_ret);
            if rule.args.is_empty() {
                first_unconditional = first_unconditional.or(Some(value));
            } else if rule_holds(rule, abi, &data.arguments) {
                first_held = first_held.or(Some(value));
            }
        }
    }
    for (name, rule) in rules.iter().filter(|(_, rule)| effective(rule)) {
        let Some((carrier, selector)) = multiplexed(abi, name) else { continue };
        let value = action(&rule.action, rule.errno_ret);
        if !rule.args.is_empty() && strictness(value) >= strictness(default) {
            continue;
        }
        named.extend(number(carrier));
        let width = if carrier == "ipc" { 0xffff } else { 0xffff_ffff };
        if number(carrier) == Some(data.number) && data.arguments[0] & width == selector {
            first_held = first_held.or(Some(value));
        }
    }
    let unjudged = named.iter().max().is_some_and(|highest| data.number > *highest);
    let lenient = strictness(default) >= strictness(0x7ff0_0000);
    first_unconditional.or(first_held).unwrap_or(if unjudged && !lenient { 0x0005_0026 } else { default })
}
