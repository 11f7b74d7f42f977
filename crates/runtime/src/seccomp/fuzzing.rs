//! Any bytes as a profile and as system calls made under it: the program has to decide as the model does.

use oci::runtime::{LinuxSeccomp, LinuxSeccompArg, LinuxSyscall};

use super::abi::{Abi, Machine};
use super::call_table::CALLS;
use super::calls::Call;
use super::model::{Data, interpret, reference};
use super::{CacheKey, Error, compile, compile_for, read_profile, unknown_names};
use crate::capability::CapabilitySet;
use crate::fuzzing::Draw;

const ACTIONS: [&str; 10] = [
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_LOG",
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_ERRNO",
];
const OPERATORS: [&str; 7] =
    ["SCMP_CMP_EQ", "SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_GT", "SCMP_CMP_GE", "SCMP_CMP_MASKED_EQ"];
const ARCHITECTURES: [&str; 6] =
    ["SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_X86_64", "SCMP_ARCH_ARM", "SCMP_ARCH_AARCH64", "SCMP_ARCH_S390"];
const ABIS: [Abi; 5] = [Abi::X86_64, Abi::X86, Abi::X32, Abi::Aarch64, Abi::Arm];

fn action(draw: &mut Draw<'_>) -> (String, Option<u32>) {
    let name = draw.of(&ACTIONS);
    let carries = matches!(name, "SCMP_ACT_ERRNO" | "SCMP_ACT_TRACE");
    let errno = (carries && draw.byte() & 1 == 0).then(|| u32::from(draw.byte()));
    (name.to_owned(), errno)
}

fn value(draw: &mut Draw<'_>) -> u64 {
    match draw.byte() % 4 {
        0 => u64::from(draw.byte()),
        1 => u64::from(draw.byte()) << (draw.byte() % 64),
        2 => u64::MAX - u64::from(draw.byte()),
        _ => draw.number(),
    }
}

fn rule(draw: &mut Draw<'_>) -> LinuxSyscall {
    let names = (0..=draw.byte() % 4).map(|_| call(draw).name.to_owned()).collect();
    let (action, errno_ret) = action(draw);
    let args = (0..draw.byte() % 4).map(|_| LinuxSeccompArg {
        index: u32::from(draw.byte() % 6),
        op: draw.of(&OPERATORS).to_owned(),
        value: value(draw),
        value_two: value(draw),
    });
    LinuxSyscall { names, action, errno_ret, args: args.collect() }
}

fn call(draw: &mut Draw<'_>) -> &'static Call {
    &CALLS[usize::from(u16::from_be_bytes([draw.byte(), draw.byte()])) % CALLS.len()]
}

fn profile(draw: &mut Draw<'_>) -> LinuxSeccomp {
    let (default_action, default_errno_ret) = action(draw);
    let listed = draw.byte();
    let architectures = ARCHITECTURES.iter().enumerate().filter(|(n, _)| listed >> n & 1 == 1);
    LinuxSeccomp {
        default_action,
        default_errno_ret,
        architectures: architectures.map(|(_, name)| (*name).to_owned()).collect(),
        syscalls: (0..draw.byte() % 24).map(|_| rule(draw)).collect(),
        ..LinuxSeccomp::default()
    }
}

fn data(draw: &mut Draw<'_>, profile: &LinuxSeccomp) -> Data {
    let abi = draw.of(&ABIS);
    let rule = profile.syscalls.get(usize::from(draw.byte()) % profile.syscalls.len().max(1));
    let named = rule.and_then(|rule| rule.names.first()).and_then(|name| Call::named(name));
    let number = match draw.byte() % 8 {
        0 => draw.number() as u32,
        1 => call(draw).number(abi).unwrap_or(abi.number_bit()),
        step => named.and_then(|call| call.number(abi)).unwrap_or(0).wrapping_add(u32::from(step == 2)),
    };
    let mut arguments = [0; 6];
    for (index, argument) in arguments.iter_mut().enumerate() {
        let wanted = rule.and_then(|rule| rule.args.iter().find(|argument| argument.index as usize == index));
        *argument = match (wanted, draw.byte() % 4) {
            (Some(wanted), 0) => wanted.value,
            (Some(wanted), 1) => wanted.value.wrapping_add(1),
            (Some(wanted), 2) => wanted.value_two,
            _ => value(draw),
        };
    }
    Data { number, architecture: abi.audit_arch(), arguments }
}

/// Compiles for both machines; the program decides as the model does, or the profile is refused for its length or for
/// what it does with agents.
pub(crate) fn program(bytes: &[u8]) {
    let mut draw = Draw(bytes);
    let profile = profile(&mut draw);
    for machine in [Machine::X86_64, Machine::Aarch64] {
        match compile_for(machine, &profile) {
            Ok(program) => {
                let mut draw = draw;
                for _ in 0..32 {
                    let data = data(&mut draw, &profile);
                    let found = interpret(program.instructions(), &data).value;
                    assert_eq!(found, reference(machine, &profile, &data), "{machine:?} {data:?} {profile:?}");
                }
            }
            Err(Error::TooLong(_) | Error::NotifyDefault | Error::NotifyWrite) => {}
            Err(error) => panic!("{error}: {profile:?}"),
        }
    }
}

/// A profile's file, in either format.
pub(crate) fn file(bytes: &[u8]) {
    let Ok(Some(profile)) = read_profile(bytes, CapabilitySet::DEFAULT, (6, 18)) else { return };
    let _ = unknown_names(&profile);
    let _ = CacheKey::of_profile(&profile);
    if let Ok(program) = compile(&profile) {
        for number in 0..512 {
            let data = Data { number, architecture: Machine::NATIVE.main_abi().audit_arch(), arguments: [0; 6] };
            let found = interpret(program.instructions(), &data).value;
            assert_eq!(found, reference(Machine::NATIVE, &profile, &data), "{data:?}");
        }
    }
}
