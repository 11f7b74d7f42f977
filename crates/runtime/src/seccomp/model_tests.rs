//! The compiler against its model.

use oci::runtime::{LinuxSeccomp, LinuxSeccompArg, LinuxSyscall};
use proptest::prelude::*;

use super::abi::{Abi, Machine};
use super::calls::Call;
use super::model::{Data, interpret, reference};
use super::{Error, compile_for};

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
