//! Tests of the compiler against a model: what a profile means, evaluated slowly and straight from its words, and the
//! kernel's interpreter of classic BPF.

use oci::runtime::{LinuxSeccomp, LinuxSeccompArg, LinuxSyscall};
use proptest::prelude::*;
use sys::seccomp::Instruction;

use super::abi::{Abi, Machine, multiplexed};
use super::calls::Call;
use super::{Error, compile_for};

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

const NAMES: [&str; 22] = [
    "read",
    "write",
    "open",
    "close",
    "socket",
    "socketcall",
    "ipc",
    "msgget",
    "accept",
    "send",
    "semop",
    "clone",
    "clone3",
    "personality",
    "ioctl",
    "execve",
    "preadv",
    "mmap2",
    "openat2",
    "set_tls",
    "futex_waitv",
    "nonsense",
];

const VALUES: [u64; 14] =
    [0, 1, 2, 5, 9, 16, 38, 0x7e02_0000, 0xffff_ffff, 1 << 32, (1 << 32) + 5, 1 << 63, u64::MAX - 1, u64::MAX];

const OPERATORS: [&str; 7] = ["EQ", "NE", "LT", "LE", "GT", "GE", "MASKED_EQ"];

fn any_action(notify: bool) -> impl Strategy<Value = (String, Option<u32>)> {
    let plain = proptest::sample::select(vec!["KILL", "KILL_THREAD", "KILL_PROCESS", "TRAP", "LOG", "ALLOW"])
        .prop_map(|name| (name.to_owned(), None));
    let with_data = (prop_oneof![Just("ERRNO"), Just("TRACE")], proptest::option::of(0..5u32))
        .prop_map(|(name, errno)| (name.to_owned(), errno));
    let all = prop_oneof![3 => plain, 3 => with_data, u32::from(notify) => Just(("NOTIFY".to_owned(), None))];
    all.prop_map(|(name, errno)| (format!("SCMP_ACT_{name}"), errno))
}

fn any_value() -> impl Strategy<Value = u64> {
    prop_oneof![8 => proptest::sample::select(&VALUES[..]), 1 => any::<u64>()]
}

fn any_argument() -> impl Strategy<Value = LinuxSeccompArg> {
    (0..6u32, any_value(), any_value(), proptest::sample::select(&OPERATORS[..])).prop_map(
        |(index, value, value_two, op)| LinuxSeccompArg { index, value, value_two, op: format!("SCMP_CMP_{op}") },
    )
}

fn any_rule() -> impl Strategy<Value = LinuxSyscall> {
    let names = proptest::collection::vec(proptest::sample::select(&NAMES[..]).prop_map(str::to_owned), 1..4);
    let args = prop_oneof![Just(Vec::new()), proptest::collection::vec(any_argument(), 1..4)];
    (names, any_action(true), args).prop_filter_map("notify for write", |(names, (action, errno_ret), args)| {
        let refused = action == "SCMP_ACT_NOTIFY" && names.iter().any(|name| name == "write");
        (!refused).then_some(LinuxSyscall { names, action, errno_ret, args })
    })
}

fn any_profile() -> impl Strategy<Value = LinuxSeccomp> {
    let architectures =
        ["SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_X86_64", "SCMP_ARCH_ARM", "SCMP_ARCH_AARCH64", "SCMP_ARCH_S390"];
    (
        any_action(false),
        proptest::sample::subsequence(architectures.to_vec(), 0..=6),
        prop_oneof![
            4 => proptest::collection::vec(any_rule(), 0..12),
            1 => proptest::collection::vec(any_rule(), 60..160),
        ],
    )
        .prop_map(|((default_action, default_errno_ret), architectures, syscalls)| LinuxSeccomp {
            default_action,
            default_errno_ret,
            architectures: architectures.into_iter().map(str::to_owned).collect(),
            syscalls,
            ..LinuxSeccomp::default()
        })
}

const ABIS: [Abi; 5] = [Abi::X86_64, Abi::X86, Abi::X32, Abi::Aarch64, Abi::Arm];

fn any_data() -> impl Strategy<Value = Data> {
    let named = (proptest::sample::select(&NAMES[..]), proptest::sample::select(&ABIS[..]), -1..2i32).prop_map(
        |(name, abi, step)| {
            let number = Call::named(name).and_then(|call| call.number(abi)).unwrap_or(abi.number_bit());
            (number.wrapping_add_signed(step), abi.audit_arch())
        },
    );
    let other = (
        prop_oneof![0..600u32, any::<u32>(), Just(u32::MAX)],
        prop_oneof![proptest::sample::select(&ABIS[..]).prop_map(Abi::audit_arch), any::<u32>()],
    );
    (prop_oneof![4 => named, 1 => other], proptest::array::uniform6(any_value()))
        .prop_map(|((number, architecture), arguments)| Data { number, architecture, arguments })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn programs_do_what_profiles_say(profile in any_profile(), data in proptest::collection::vec(any_data(), 200)) {
        for machine in [Machine::X86_64, Machine::Aarch64] {
            match compile_for(machine, &profile) {
                Ok(program) => for data in &data {
                    let outcome = interpret(program.instructions(), data);
                    prop_assert_eq!(outcome.value, reference(machine, &profile, data), "{:?} {:?}", machine, data);
                },
                Err(error) => prop_assert!(matches!(error, Error::TooLong(_)), "{}", error),
            }
        }
    }
}

/// A rule for `name` that holds when argument `n % 6` is `n`, for which nothing can be shared.
fn distinct_rule(name: &str, n: u32) -> LinuxSyscall {
    let condition =
        |index, op: &str, value| LinuxSeccompArg { index, value, value_two: 0, op: format!("SCMP_CMP_{op}") };
    LinuxSyscall {
        names: vec![name.to_owned()],
        action: "SCMP_ACT_ERRNO".to_owned(),
        errno_ret: Some(n),
        args: vec![condition(n % 6, "GE", n.into()), condition((n + 1) % 6, "MASKED_EQ", (7 << 40) | 7)],
    }
}

fn profile_of(syscalls: Vec<LinuxSyscall>) -> LinuxSeccomp {
    LinuxSeccomp { default_action: "SCMP_ACT_ALLOW".to_owned(), syscalls, ..LinuxSeccomp::default() }
}

#[test]
fn long_jumps_arrive() {
    let named = NAMES.iter().filter(|name| Call::named(name).is_some_and(|call| call.number(Abi::X86_64).is_some()));
    let rules = named.zip(0..).flat_map(|(name, k)| (1..12).map(move |n| distinct_rule(name, 12 * k + n))).collect();
    let profile = profile_of(rules);
    let program = compile_for(Machine::X86_64, &profile).expect("valid");
    assert!(program.instructions().len() > 1000, "{}", program.instructions().len());
    for number in 0..480 {
        for n in (0..240).step_by(7) {
            let arguments = [n, 7 << 40 | 7, n, 7 << 40 | 7, 7 << 40 | 7, n];
            let data = Data { number, architecture: Abi::X86_64.audit_arch(), arguments };
            let outcome = interpret(program.instructions(), &data);
            assert_eq!(outcome.value, reference(Machine::X86_64, &profile, &data), "{data:?}");
        }
    }
}

#[test]
fn what_the_kernel_would_not_take_is_an_error() {
    let profile = profile_of((1..600).map(|n| distinct_rule("ioctl", n)).collect());
    let error = compile_for(Machine::X86_64, &profile).expect_err("too long");
    assert!(matches!(error, Error::TooLong(n) if n > 4096), "{error}");
    assert!(error.to_string().contains("4096"));
}

#[test]
fn equal_neighbours_share_a_range() {
    let all: Vec<String> =
        (0..335).map(|_| String::new()).chain(["read", "write", "open"].map(str::to_owned)).collect();
    let rule = LinuxSyscall { names: all, action: "SCMP_ACT_ERRNO".to_owned(), ..LinuxSyscall::default() };
    let program = compile_for(Machine::X86_64, &profile_of(vec![rule])).expect("valid");
    // Load and test the architecture, load the number, one comparison each for 3, x32 and -1, three returns.
    assert!(program.instructions().len() <= 9, "{:#?}", program.instructions());
}
