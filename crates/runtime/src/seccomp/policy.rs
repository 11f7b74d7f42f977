//! From a profile's words to decisions per system call number, before any instruction is written.
//!
//! The rules for rules, chosen after what runc with libseccomp does (runc `libcontainer/seccomp`, 1.5):
//!
//! - A rule whose action is the default action says nothing and is dropped.
//! - A rule without conditions wins over conditional ones for the same call; of several, the first.
//! - Conditional rules are tried in the profile's order; the first whose conditions all hold decides. (libseccomp
//!   leaves overlapping conditions with different actions undefined.)
//! - A rule with two conditions on one argument is as many rules with one condition each, any of which may hold.
//!   Docker's profiles have been written for this.
//! - Names of no system call are passed over.
//! - When the default forbids, a number above the highest one the profile names is answered with ENOSYS: the profile's
//!   author cannot have judged it, and programs fall back to an older call on ENOSYS only.
//! - A call of another architecture, or of x32 where the profile does not list it, kills the thread.

use oci::runtime::{LinuxSeccomp, LinuxSeccompArg, LinuxSyscall};

use super::Error;
use super::abi::{Abi, Machine, X32_BIT, multiplexed};
use super::calls::Call;

/// `EPERM`, what a refusal says when the profile names no errno.
const EPERM: u32 = 1;
/// The largest errno the kernel returns from a filter (`MAX_ERRNO`, linux/err.h).
const MAX_ERRNO: u32 = 4095;
/// The bits of a return value that are the action (`SECCOMP_RET_ACTION_FULL`).
const ACTION_BITS: u32 = 0xffff_0000;

/// What a filter returns (`SECCOMP_RET_*`, linux/seccomp.h): an action and 16 bits of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Action(pub(super) u32);

impl Action {
    pub(super) const KILL_THREAD: Self = Self(0);
    pub(super) const KILL_PROCESS: Self = Self(0x8000_0000);
    pub(super) const TRAP: Self = Self(0x0003_0000);
    pub(super) const NOTIFY: Self = Self(0x7fc0_0000);
    pub(super) const LOG: Self = Self(0x7ffc_0000);
    pub(super) const ALLOW: Self = Self(0x7fff_0000);
    pub(super) const ENOSYS: Self = Self::errno(38);

    pub(super) const fn errno(errno: u16) -> Self {
        Self(0x0005_0000 | errno as u32)
    }

    pub(super) const fn trace(message: u16) -> Self {
        Self(0x7ff0_0000 | message as u32)
    }

    /// # Errors
    /// [`Error::Action`] for an unknown name, [`Error::ErrnoNotAllowed`] for an errno the action cannot carry (the
    /// specification wants that refused), [`Error::Errno`] for one out of range.
    pub(super) fn parse(name: &str, errno: Option<u32>) -> Result<Self, Error> {
        let data = |limit: u32| {
            let value = errno.unwrap_or(EPERM);
            u16::try_from(value).ok().filter(|_| value <= limit).ok_or(Error::Errno(value))
        };
        let action = match name {
            "SCMP_ACT_ERRNO" => return data(MAX_ERRNO).map(Self::errno),
            "SCMP_ACT_TRACE" => return data(u16::MAX.into()).map(Self::trace),
            "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Self::KILL_THREAD,
            "SCMP_ACT_KILL_PROCESS" => Self::KILL_PROCESS,
            "SCMP_ACT_TRAP" => Self::TRAP,
            "SCMP_ACT_ALLOW" => Self::ALLOW,
            "SCMP_ACT_LOG" => Self::LOG,
            "SCMP_ACT_NOTIFY" => Self::NOTIFY,
            _ => return Err(Error::Action(name.to_owned())),
        };
        match errno {
            Some(_) => Err(Error::ErrnoNotAllowed(name.to_owned())),
            None => Ok(action),
        }
    }

    /// Whether the kernel would prefer this action over `other` if two filters disagreed (it compares them as signed).
    fn restricts_more_than(self, other: Self) -> bool {
        (self.0 & ACTION_BITS).cast_signed() < (other.0 & ACTION_BITS).cast_signed()
    }

    /// Whether calls nobody judged go through as they are: then there is nothing to say about new ones.
    fn lets_through(self) -> bool {
        matches!(self.0 & ACTION_BITS, 0x7fff_0000 | 0x7ffc_0000 | 0x7ff0_0000)
    }
}

/// How an argument is compared with a condition's value, both unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// The argument under this mask; the value is under it too.
    MaskedEqual(u64),
}

/// One condition on one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    /// 0 to 5.
    pub(super) argument: u8,
    pub(super) test: Test,
    pub(super) value: u64,
}

impl Condition {
    fn parse(argument: &LinuxSeccompArg) -> Result<Self, Error> {
        let index = u8::try_from(argument.index).ok().filter(|index| *index < 6);
        let index = index.ok_or(Error::Argument(argument.index))?;
        let mut value = argument.value;
        let test = match argument.op.as_str() {
            "SCMP_CMP_EQ" => Test::Equal,
            "SCMP_CMP_NE" => Test::NotEqual,
            "SCMP_CMP_LT" => Test::Less,
            "SCMP_CMP_LE" => Test::LessOrEqual,
            "SCMP_CMP_GT" => Test::Greater,
            "SCMP_CMP_GE" => Test::GreaterOrEqual,
            "SCMP_CMP_MASKED_EQ" => {
                value = argument.value_two & argument.value;
                Test::MaskedEqual(argument.value)
            }
            other => return Err(Error::Operator(other.to_owned())),
        };
        Ok(Self { argument: index, test, value })
    }
}

/// Conditions that must all hold, and what then happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) conditions: Vec<Condition>,
    pub(super) action: Action,
}

/// What is done about a system call number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Always the same.
    Fixed(Action),
    /// The first rule that holds, else the default action. Every rule has conditions.
    Rules(Vec<Rule>),
}

/// Numbers from `first` up to the next range's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u32,
    /// Index into [`Section::decisions`].
    pub(super) decision: usize,
}

/// All that is decided for one value of `seccomp_data.arch`.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) audit_arch: u32,
    pub(super) narrow_arguments: bool,
    /// Cover every number: the first begins at 0, neighbours differ.
    pub(super) ranges: Vec<Range>,
    pub(super) decisions: Vec<Decision>,
}

impl Section {
    fn new(abi: Abi) -> Self {
        Self {
            audit_arch: abi.audit_arch(),
            narrow_arguments: abi.has_narrow_arguments(),
            ranges: Vec::new(),
            decisions: Vec::new(),
        }
    }

    fn push(&mut self, first: u32, decision: Decision) {
        let known = self.decisions.iter().position(|known| *known == decision);
        let decision = known.unwrap_or_else(|| {
            self.decisions.push(decision);
            self.decisions.len() - 1
        });
        if self.ranges.last().is_none_or(|last| last.decision != decision) {
            self.ranges.push(Range { first, decision });
        }
    }
}

/// A profile, understood.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) default: Action,
    pub(super) sections: Vec<Section>,
    /// Whether some call is handed to a listener.
    pub(super) notifies: bool,
}

/// A rule of the profile and the calls it is about.
struct Statement {
    calls: Vec<&'static Call>,
    rules: Vec<Rule>,
}

impl Statement {
    fn parse(syscall: &LinuxSyscall, default: Action) -> Result<Self, Error> {
        let action = Action::parse(&syscall.action, syscall.errno_ret)?;
        if action == Action::NOTIFY && syscall.names.iter().any(|name| name == "write") {
            return Err(Error::NotifyWrite);
        }
        let conditions = syscall.args.iter().map(Condition::parse).collect::<Result<Vec<_>, _>>()?;
        let calls = syscall.names.iter().filter_map(|name| Call::named(name)).collect();
        if action == default {
            return Ok(Self { calls, rules: Vec::new() });
        }
        let repeated =
            conditions.iter().enumerate().any(|(n, one)| conditions[..n].iter().any(|c| c.argument == one.argument));
        let rules = if repeated {
            conditions.into_iter().map(|condition| Rule { conditions: vec![condition], action }).collect()
        } else {
            vec![Rule { conditions, action }]
        };
        Ok(Self { calls, rules })
    }
}

impl Policy {
    /// Reads `profile` for `machine`.
    ///
    /// # Errors
    /// The first word in the profile that has no meaning, or that the specification forbids.
    pub(super) fn resolve(machine: Machine, profile: &LinuxSeccomp) -> Result<Self, Error> {
        let default = Action::parse(&profile.default_action, profile.default_errno_ret)?;
        if default == Action::NOTIFY {
            return Err(Error::NotifyDefault);
        }
        let statements =
            profile.syscalls.iter().map(|s| Statement::parse(s, default)).collect::<Result<Vec<_>, _>>()?;
        let notifies = statements.iter().flat_map(|s| &s.rules).any(|rule| rule.action == Action::NOTIFY);
        let abis = machine.abis(&profile.architectures)?;
        let sections = abis
            .iter()
            .filter(|abi| **abi != Abi::X32)
            .map(|abi| {
                let mut section = Section::new(*abi);
                decide(&mut section, *abi, &statements, default);
                if *abi == Abi::X86_64 {
                    if abis.contains(&Abi::X32) {
                        decide(&mut section, Abi::X32, &statements, default);
                    } else {
                        section.push(X32_BIT, Decision::Fixed(Action::KILL_THREAD));
                        // A tracer that wants a call skipped sets its number to -1, which is not an x32 call.
                        section.push(u32::MAX, Decision::Fixed(default));
                    }
                }
                section
            })
            .collect();
        Ok(Self { default, sections, notifies })
    }
}

/// Appends to `section` the decisions for all numbers of `abi`, in their order.
fn decide(section: &mut Section, abi: Abi, statements: &[Statement], default: Action) {
    let mut entries: Vec<(u32, Entry<'_>)> = Vec::new();
    let mut highest = None;
    for statement in statements {
        for call in &statement.calls {
            if let Some(number) = call.number(abi) {
                highest = highest.max(Some(number));
                entries.extend(statement.rules.iter().map(|rule| (number, Entry::Said(rule))));
            }
        }
    }
    let implied = multiplexed_entries(abi, statements, default);
    highest = highest.max(implied.iter().map(|(number, _)| *number).max());
    entries.extend(implied);
    // Stable, so that the profile's order stays within a number and what it says itself comes first.
    entries.sort_by_key(|(number, _)| *number);

    let first = abi.number_bit();
    section.push(first, Decision::Fixed(default));
    for group in entries.chunk_by(|one, other| one.0 == other.0) {
        let number = group[0].0;
        let unconditional = group.iter().find(|(_, entry)| entry.rule().conditions.is_empty());
        let decision = match unconditional {
            Some((_, entry)) => Decision::Fixed(entry.rule().action),
            None => Decision::Rules(group.iter().map(|(_, entry)| entry.rule().clone()).collect()),
        };
        section.push(number, decision);
        section.push(number + 1, Decision::Fixed(default));
    }
    drop_empty_ranges(section);
    if let Some(highest) = highest
        && !default.lets_through()
    {
        section.push(highest + 1, Decision::Fixed(Action::ENOSYS));
        drop_empty_ranges(section);
    }
}

/// A rule for a number: one of the profile's, or one that follows from it.
enum Entry<'a> {
    Said(&'a Rule),
    Implied(Rule),
}

impl Entry<'_> {
    fn rule(&self) -> &Rule {
        match self {
            Self::Said(rule) => rule,
            Self::Implied(rule) => rule,
        }
    }
}

/// Rules for socketcall(2) and ipc(2) that follow from those for the calls they multiplex, as libseccomp has it.
///
/// The multiplexed call's arguments are out of a filter's sight. A conditional rule is therefore followed only where it
/// restricts, and then without its conditions: never is more let through than the profile says.
fn multiplexed_entries(abi: Abi, statements: &[Statement], default: Action) -> Vec<(u32, Entry<'static>)> {
    let mut entries = Vec::new();
    for statement in statements {
        for call in &statement.calls {
            let Some((carrier, selector)) = multiplexed(abi, call.name) else { continue };
            let Some(number) = Call::named(carrier).and_then(|carrier| carrier.number(abi)) else { continue };
            for rule in &statement.rules {
                if rule.conditions.is_empty() || rule.action.restricts_more_than(default) {
                    // The upper half of ipc's first argument is a version.
                    let test = if carrier == "ipc" { Test::MaskedEqual(0xffff) } else { Test::Equal };
                    let conditions = vec![Condition { argument: 0, test, value: selector }];
                    entries.push((number, Entry::Implied(Rule { conditions, action: rule.action })));
                }
            }
        }
    }
    entries
}

/// Removes ranges that a later one with the same first number has made empty, and joins what then is equal.
fn drop_empty_ranges(section: &mut Section) {
    let ranges = std::mem::take(&mut section.ranges);
    for (n, range) in ranges.iter().enumerate() {
        let empty = ranges.get(n + 1).is_some_and(|next| next.first <= range.first);
        if !empty && section.ranges.last().is_none_or(|last| last.decision != range.decision) {
            section.ranges.push(*range);
        }
    }
}
