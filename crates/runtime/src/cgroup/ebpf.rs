//! Device rules for cgroup v2: compiled into one `BPF_PROG_TYPE_CGROUP_DEVICE` program.
//!
//! The kernel hands the program a device and the set of accesses wanted, and takes 1 for "allowed". The program walks
//! the rules from the last to the first, keeping the accesses nobody has decided yet in a register: a rule that denies
//! one of them ends the walk with 0, a rule that allows takes its accesses out, and when none are left the answer is 1.

use std::os::fd::BorrowedFd;

use sys::bpf::{self, Insn};

use super::devices::{Kind, Policy};
use super::error::Result;
use super::limits::{DEVICES, invalid};

/// `BPF_DEVCG_DEV_BLOCK` and `BPF_DEVCG_DEV_CHAR` (linux/bpf.h).
pub(super) const DEV_BLOCK: i32 = 1;
pub(super) const DEV_CHAR: i32 = 2;

// Operation codes (linux/bpf_common.h, linux/bpf.h): class | size or operand | operation.
pub(super) const LDX_W: u8 = 0x61;
pub(super) const MOV64_IMM: u8 = 0xb7;
pub(super) const MOV32_REG: u8 = 0xbc;
pub(super) const AND32_IMM: u8 = 0x54;
pub(super) const RSH32_IMM: u8 = 0x74;
pub(super) const JA: u8 = 0x05;
pub(super) const JSET32_IMM: u8 = 0x46;
pub(super) const JNE32_IMM: u8 = 0x56;
pub(super) const EXIT: u8 = 0x95;

// Registers: 0 holds the answer, 1 the context.
pub(super) const ANSWER: u8 = 0;
pub(super) const CONTEXT: u8 = 1;
const TYPE: u8 = 2;
const WANTED: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// More rules would come near the verifier's bound of a million instructions.
const MAX_RULES: usize = 50_000;

/// The program that decides as `policy` does.
pub(super) fn compile(policy: &Policy) -> Vec<Insn> {
    let imm = |code, dst, off, imm| Insn::new(code, dst, 0, off, imm);
    let mut program = Vec::with_capacity(8 + policy.rules.len() * 8);
    // struct bpf_cgroup_dev_ctx { __u32 access_type; __u32 major; __u32 minor; }, access_type = access << 16 | type
    program.extend([
        Insn::new(LDX_W, TYPE, CONTEXT, 0, 0),
        Insn::new(LDX_W, MAJOR, CONTEXT, 4, 0),
        Insn::new(LDX_W, MINOR, CONTEXT, 8, 0),
        Insn::new(MOV32_REG, WANTED, TYPE, 0, 0),
        imm(AND32_IMM, TYPE, 0, 0xffff),
        imm(RSH32_IMM, WANTED, 0, 16),
    ]);
    for rule in policy.rules.iter().rev() {
        let accesses = i32::from(rule.access);
        let verdict: [Insn; 4] = if rule.allow {
            [
                imm(AND32_IMM, WANTED, 0, !accesses),
                imm(JNE32_IMM, WANTED, 2, 0),
                imm(MOV64_IMM, ANSWER, 0, 1),
                imm(EXIT, 0, 0, 0),
            ]
        } else {
            [imm(JSET32_IMM, WANTED, 1, accesses), imm(JA, 0, 2, 0), imm(MOV64_IMM, ANSWER, 0, 0), imm(EXIT, 0, 0, 0)]
        };
        let kind = match rule.kind {
            Kind::Block => DEV_BLOCK,
            Kind::Char => DEV_CHAR,
        };
        let conditions =
            [(TYPE, Some(kind)), (MAJOR, rule.major.map(u32::cast_signed)), (MINOR, rule.minor.map(u32::cast_signed))];
        let mut left: i16 = conditions.iter().map(|(_, value)| i16::from(value.is_some())).sum();
        for (register, value) in conditions {
            if let Some(value) = value {
                left -= 1;
                // Over the remaining conditions and the four instructions of the verdict.
                program.push(imm(JNE32_IMM, register, left + 4, value));
            }
        }
        program.extend(verdict);
    }
    program.extend([imm(MOV64_IMM, ANSWER, 0, i32::from(policy.allow)), imm(EXIT, 0, 0, 0)]);
    program
}

/// Puts `policy` in force in the v2 group `cgroup`, in place of any device program attached before.
///
/// There is no moment without a program: a single old one is replaced atomically, several are detached after the new
/// one is in force (all attached programs have to agree).
pub(super) fn apply(policy: &Policy, cgroup: BorrowedFd<'_>, new_group: bool) -> Result<()> {
    if policy.rules.len() > MAX_RULES {
        return Err(invalid(DEVICES, format_args!("{} rules", policy.rules.len()), "there are too many"));
    }
    let old = if new_group { Vec::new() } else { bpf::attached_device_programs(cgroup)? };
    let unrestricted = policy.allow && policy.rules.is_empty();
    if !unrestricted {
        let program = bpf::load_device_program(&compile(policy))?;
        if let [single] = old.as_slice() {
            bpf::attach_device_program(cgroup, &program, Some(single))?;
            return Ok(());
        }
        bpf::attach_device_program(cgroup, &program, None)?;
    }
    for program in &old {
        bpf::detach_device_program(cgroup, program)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::devices::Rule;
    use super::super::model::{Request, interpret, model};
    use super::*;

    /// A small generator of pseudo-random numbers, so that the cases are the same every time.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % bound
        }

        fn number(&mut self) -> u32 {
            [0, 1, 5, u32::MAX][usize::try_from(self.below(4)).expect("small")]
        }

        fn rule(&mut self) -> Rule {
            let kind = if self.below(2) == 0 { Kind::Block } else { Kind::Char };
            let number = |random: &mut Self| (random.below(3) != 0).then(|| random.number());
            let (major, minor) = (number(self), number(self));
            let access = u8::try_from(self.below(7) + 1).expect("small");
            Rule { allow: self.below(2) == 0, kind, major, minor, access }
        }
    }

    fn every_request() -> impl Iterator<Item = Request> {
        let numbers = [0, 1, 5, 6, u32::MAX];
        let kinds = [Kind::Block, Kind::Char];
        (1..=7).flat_map(move |access| {
            kinds.into_iter().flat_map(move |kind| {
                numbers
                    .into_iter()
                    .flat_map(move |major| numbers.into_iter().map(move |minor| Request { kind, major, minor, access }))
            })
        })
    }

    #[test]
    fn programs_decide_as_the_rules_mean() {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for round in 0..400_u64 {
            let rules = (0..random.below(9)).map(|_| random.rule()).collect();
            let policy = Policy { allow: round % 2 == 0, rules };
            let program = compile(&policy);
            for request in every_request() {
                let answer = interpret(&program, request);
                assert_eq!(answer == 1, model(&policy, request), "{policy:?} {request:?}");
                assert!(answer <= 1);
            }
        }
    }

    #[test]
    fn the_verifier_accepts_what_is_generated() {
        let mut random = Random(7);
        for size in [0, 1, 13, 200] {
            let policy = Policy { allow: false, rules: (0..size).map(|_| random.rule()).collect() };
            match bpf::load_device_program(&compile(&policy)) {
                Ok(_) => {}
                Err(error) if error.errno() == sys::Errno::PERM || error.errno() == sys::Errno::NOSYS => return,
                Err(error) => panic!("{size} rules: {error}"),
            }
        }
    }
}
