//! From decisions to classic BPF.
//!
//! The program looks at the architecture, finds the number's range by binary search and, for a call with conditions,
//! looks at its arguments. Jumps only go forward, so it is written from its end to its beginning: whatever an
//! instruction jumps to is already there, and its distance known. A conditional jump reaches 255 instructions; for a
//! farther target a return is repeated, or an unconditional jump (32 bits) is put in between.
//!
//! Up to the arguments only those instructions are used that the kernel can evaluate when the filter is loaded
//! (`seccomp_is_const_allow`, 5.11): a call that is always allowed then costs one bit test, whatever the size of the
//! program. Loading costs about 0.15 µs for each instruction, and again for each one on the way of a known number, so
//! both are kept few.

use sys::seccomp::{Instruction, MAX_INSTRUCTIONS};

use super::Error;
use super::policy::{Action, Condition, Decision, Policy, Range, Rule, Section, Test};

const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_GREATER: u16 = 0x25;
const JUMP_IF_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;
const AND: u16 = 0x54;

/// Offsets in `struct seccomp_data` (linux/seccomp.h).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

/// How far a conditional jump may go when up to two instructions are still to be put between it and its target.
const REACH: usize = 253;

/// How many single numbers are compared one after the other rather than by halving.
const FEW: usize = 3;

/// Numbers up to here are assumed to be equally likely, others not to occur: loading, the kernel evaluates a filter once
/// for each number it knows.
const LIKELY: u64 = 512;

/// The value of `offset` of an argument's low and high half; both machines are little-endian.
const fn halves(argument: u8) -> (u32, u32) {
    let low = 16 + 8 * argument as u32;
    (low, low + 4)
}

const fn low(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}

const fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

/// Where to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// To the instruction at this index, counted from the program's end.
    At(usize),
    /// Out of the filter.
    Return(Action),
}

/// A program being written, last instruction first.
struct Writer {
    backwards: Vec<Instruction>,
    /// The nearest return of each action.
    returns: Vec<(Action, usize)>,
}

impl Writer {
    fn put(&mut self, code: u16, k: u32, jt: u8, jf: u8) -> usize {
        self.backwards.push(Instruction { code, jt, jf, k });
        self.backwards.len() - 1
    }

    /// How many instructions one that is put next must skip to come to `index`.
    fn distance(&self, index: usize) -> usize {
        self.backwards.len() - 1 - index
    }

    /// The index of something that leads to `target` and that the next three instructions can reach.
    fn reachable(&mut self, target: Target) -> usize {
        match target {
            Target::At(index) if self.distance(index) <= REACH => index,
            Target::At(index) => {
                // The program is far shorter than 2^32.
                let skip = u32::try_from(self.distance(index)).unwrap_or(u32::MAX);
                self.put(JUMP, skip, 0, 0)
            }
            Target::Return(action) => self.return_near(action),
        }
    }

    fn return_near(&mut self, action: Action) -> usize {
        let known = self.returns.iter().position(|(known, _)| *known == action);
        if let Some(known) = known
            && self.distance(self.returns[known].1) <= REACH
        {
            return self.returns[known].1;
        }
        let index = self.put(RETURN, action.0, 0, 0);
        match known {
            Some(known) => self.returns[known].1 = index,
            None => self.returns.push((action, index)),
        }
        index
    }

    /// A conditional jump.
    fn branch(&mut self, code: u16, k: u32, yes: Target, no: Target) -> Target {
        if yes == no {
            return yes;
        }
        let yes = self.reachable(yes);
        let no = self.reachable(no);
        // Both are within REACH plus the two instructions that made them reachable.
        let skip = |distance: usize| u8::try_from(distance).unwrap_or(u8::MAX);
        let (jt, jf) = (skip(self.distance(yes)), skip(self.distance(no)));
        Target::At(self.put(code, k, jt, jf))
    }

    /// What looks at the accumulator from `next` on, with the word at `offset` in it.
    fn load(&mut self, offset: u32, next: Target) -> Target {
        self.before(LOAD, offset, next)
    }

    /// An instruction that goes on to `next`, unless nothing there looks at its outcome.
    fn before(&mut self, code: u16, k: u32, next: Target) -> Target {
        match next {
            Target::Return(_) => next,
            Target::At(index) if self.distance(index) == 0 => Target::At(self.put(code, k, 0, 0)),
            Target::At(index) => {
                let skip = u32::try_from(self.distance(index)).unwrap_or(u32::MAX);
                self.put(JUMP, skip, 0, 0);
                Target::At(self.put(code, k, 0, 0))
            }
        }
    }

    /// The comparison of one argument. `yes` and `no` must not use the accumulator.
    fn condition(&mut self, condition: &Condition, narrow: bool, yes: Target, no: Target) -> Target {
        let value = condition.value;
        match condition.test {
            Test::Equal => self.equal(condition.argument, u64::MAX, value, narrow, yes, no),
            Test::NotEqual => self.equal(condition.argument, u64::MAX, value, narrow, no, yes),
            Test::MaskedEqual(mask) => self.equal(condition.argument, mask, value, narrow, yes, no),
            Test::Greater => self.above(condition.argument, JUMP_IF_GREATER, value, narrow, yes, no),
            Test::GreaterOrEqual => self.above(condition.argument, JUMP_IF_GREATER_OR_EQUAL, value, narrow, yes, no),
            Test::Less => self.above(condition.argument, JUMP_IF_GREATER_OR_EQUAL, value, narrow, no, yes),
            Test::LessOrEqual => self.above(condition.argument, JUMP_IF_GREATER, value, narrow, no, yes),
        }
    }

    fn equal(&mut self, argument: u8, mask: u64, value: u64, narrow: bool, yes: Target, no: Target) -> Target {
        let (low_offset, high_offset) = halves(argument);
        let mut next = yes;
        let words = [(low_offset, low(mask), low(value)), (high_offset, high(mask), high(value))];
        for (offset, mask, value) in &words[..if narrow { 1 } else { 2 }] {
            if *mask == 0 {
                continue;
            }
            next = self.branch(JUMP_IF_EQUAL, *value, next, no);
            if *mask != u32::MAX {
                next = self.before(AND, *mask, next);
            }
            next = self.load(*offset, next);
        }
        next
    }

    /// `code` compares the low half once the high halves are equal.
    fn above(&mut self, argument: u8, code: u16, value: u64, narrow: bool, yes: Target, no: Target) -> Target {
        let (low_offset, high_offset) = halves(argument);
        let next = self.branch(code, low(value), yes, no);
        let next = self.load(low_offset, next);
        if narrow {
            return next;
        }
        let next = self.branch(JUMP_IF_EQUAL, high(value), next, no);
        let next = self.branch(JUMP_IF_GREATER, high(value), yes, next);
        self.load(high_offset, next)
    }

    /// The rules of one call, tried in order.
    fn rules(&mut self, rules: &[Rule], narrow: bool, default: Action) -> Target {
        let mut next = Target::Return(default);
        let mut rest = rules;
        while let Some((last, before)) = rest.split_last() {
            let alike = Interval::of(last, narrow).map_or(0, |one| {
                let like = |rule: &&Rule| {
                    let other = Interval::of(rule, narrow);
                    rule.action == last.action && other.is_some_and(|other| one.word() == other.word())
                };
                before.iter().rev().take_while(like).count()
            });
            let start = before.len() - alike;
            let yes = Target::Return(last.action);
            if alike > 0 {
                let intervals = rest[start..].iter().filter_map(|rule| Interval::of(rule, narrow)).collect();
                next = self.any_of(intervals, narrow, yes, next);
            } else {
                let no = next;
                next = last.conditions.iter().rev().fold(yes, |yes, one| self.condition(one, narrow, yes, no));
            }
            rest = &rest[..start];
        }
        next
    }

    /// Intervals of one argument with one high half: its halves are loaded once, the low one is searched for.
    fn any_of(&mut self, mut intervals: Vec<Interval>, narrow: bool, yes: Target, no: Target) -> Target {
        intervals.sort_unstable_by_key(|interval| interval.first);
        let Some((argument, high)) = intervals.first().map(Interval::word) else { return no };
        let (low_offset, high_offset) = halves(argument);
        let leaves = [no, yes];
        let mut ranges: Vec<Range> = Vec::with_capacity(2 * intervals.len() + 1);
        let mut end = 0;
        for interval in intervals {
            let first = u64::from(interval.first);
            if first > end || ranges.is_empty() {
                if first > 0 {
                    ranges.push(Range { first: low(end), decision: 0 });
                }
                ranges.push(Range { first: interval.first, decision: 1 });
            }
            end = end.max(u64::from(interval.last) + 1);
        }
        if end <= u32::MAX.into() {
            ranges.push(Range { first: low(end), decision: 0 });
        }
        let next = self.search(&ranges, 1 << 32, &leaves);
        let next = self.load(low_offset, next);
        if narrow {
            return next;
        }
        let next = self.branch(JUMP_IF_EQUAL, high, next, no);
        self.load(high_offset, next)
    }

    /// The search among `ranges`, the last of which ends before `end`, with the number in the accumulator.
    fn search(&mut self, ranges: &[Range], end: u64, leaves: &[Target]) -> Target {
        let width = |n: usize| ranges.get(n + 1).map_or(end, |next| next.first.into()) - u64::from(ranges[n].first);
        let Some(widest) = (0..ranges.len()).max_by_key(|n| width(*n)) else {
            return Target::Return(Action::KILL_THREAD);
        };
        let base = ranges[widest].decision;
        let exceptions = || (0..ranges.len()).filter(|n| ranges[*n].decision != base);
        if exceptions().count() <= FEW && exceptions().all(|n| width(n) == 1) {
            return exceptions().rev().fold(leaves[base], |next, n| {
                self.branch(JUMP_IF_EQUAL, ranges[n].first, leaves[ranges[n].decision], next)
            });
        }
        let middle = middle(ranges, end);
        let above = self.search(&ranges[middle..], end, leaves);
        let below = self.search(&ranges[..middle], ranges[middle].first.into(), leaves);
        self.branch(JUMP_IF_GREATER_OR_EQUAL, ranges[middle].first, above, below)
    }

    fn section(&mut self, section: &Section, default: Action) -> Target {
        let leaves: Vec<_> = section
            .decisions
            .iter()
            .map(|decision| match decision {
                Decision::Fixed(action) => Target::Return(*action),
                Decision::Rules(rules) => self.rules(rules, section.narrow_arguments, default),
            })
            .collect();
        let search = self.search(&section.ranges, 1 << 32, &leaves);
        self.load(NUMBER, search)
    }
}

/// Where to split `ranges`, of which there are two at least: numbers are about as many on both sides.
fn middle(ranges: &[Range], end: u64) -> usize {
    let likely = |number: u64| number.min(LIKELY);
    let whole = likely(end) + likely(ranges[0].first.into());
    // Twice the distance from the middle number; of equals, the one that leaves as many ranges on both sides.
    (1..ranges.len())
        .min_by_key(|n| {
            let first = likely(ranges[*n].first.into());
            ((2 * first).abs_diff(whole), n.abs_diff(ranges.len() / 2))
        })
        .unwrap_or(1)
}

/// The values of one argument for which a rule with a single, simple condition holds.
struct Interval {
    argument: u8,
    /// Their common high half.
    high: u32,
    /// The first and last low half.
    first: u32,
    last: u32,
}

impl Interval {
    fn of(rule: &Rule, narrow: bool) -> Option<Self> {
        let [Condition { argument, test, value }] = *rule.conditions.as_slice() else { return None };
        let high = if narrow { 0 } else { high(value) };
        let (first, last) = match test {
            Test::Equal => (low(value), low(value)),
            Test::Less if high == 0 => (0, low(value).checked_sub(1)?),
            Test::LessOrEqual if high == 0 => (0, low(value)),
            _ => return None,
        };
        Some(Self { argument, high, first, last })
    }

    fn word(&self) -> (u8, u32) {
        (self.argument, self.high)
    }
}

/// Writes the program for `policy`.
///
/// # Errors
/// [`Error::TooLong`] when the kernel would not take it.
pub(super) fn generate(policy: &Policy) -> Result<Vec<Instruction>, Error> {
    let mut writer = Writer { backwards: Vec::with_capacity(1024), returns: Vec::new() };
    let sections: Vec<_> =
        policy.sections.iter().rev().map(|s| (s.audit_arch, writer.section(s, policy.default))).collect();
    let mut next = Target::Return(Action::KILL_THREAD);
    for (audit_arch, section) in sections {
        next = writer.branch(JUMP_IF_EQUAL, audit_arch, section, next);
    }
    if let Target::Return(action) = writer.load(ARCHITECTURE, next) {
        writer.put(RETURN, action.0, 0, 0);
    }
    let mut program = writer.backwards;
    program.reverse();
    if program.len() > MAX_INSTRUCTIONS {
        return Err(Error::TooLong(program.len()));
    }
    Ok(program)
}
