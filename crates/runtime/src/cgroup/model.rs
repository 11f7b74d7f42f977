//! A model of device rules, for tests and fuzz targets: what they mean, and the kernel's interpreter of what they are
//! compiled to.

use sys::bpf::Insn;

use super::devices::{Kind, Policy, access};
use super::ebpf::{
    AND32_IMM, ANSWER, CONTEXT, DEV_BLOCK, DEV_CHAR, EXIT, JA, JNE32_IMM, JSET32_IMM, LDX_W, MOV32_REG, MOV64_IMM,
    RSH32_IMM,
};

/// One request as the kernel makes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) kind: Kind,
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) access: u8,
}

/// What the rules mean: every access wanted is decided on its own by the last rule about it.
pub(super) fn model(policy: &Policy, request: Request) -> bool {
    [access::MKNOD, access::READ, access::WRITE].iter().filter(|&&bit| request.access & bit != 0).all(|&bit| {
        let decisive = policy.rules.iter().rev().find(|rule| {
            rule.kind == request.kind
                && rule.major.is_none_or(|major| major == request.major)
                && rule.minor.is_none_or(|minor| minor == request.minor)
                && rule.access & bit != 0
        });
        decisive.map_or(policy.allow, |rule| rule.allow)
    })
}

/// Runs a program; any step outside what the generator may emit is a failure.
pub(super) fn interpret(program: &[Insn], request: Request) -> u64 {
    let kind = if request.kind == Kind::Block { DEV_BLOCK } else { DEV_CHAR };
    let context = [u32::from(request.access) << 16 | kind.cast_unsigned(), request.major, request.minor];
    let mut registers: [Option<u64>; 11] = [None; 11];
    let mut at = 0_usize;
    for _ in 0..program.len() {
        let insn = program[at];
        at += 1;
        let (dst, immediate) = (usize::from(insn.dst()), insn.imm.cast_unsigned());
        let low = |register: usize| u32::try_from(registers[register].expect("set") & 0xffff_ffff).expect("masked");
        let jump = usize::try_from(insn.off);
        match insn.code {
            LDX_W => {
                assert_eq!(insn.src(), CONTEXT);
                registers[dst] = Some(context[usize::try_from(insn.off).expect("positive") / 4].into());
            }
            MOV64_IMM => registers[dst] = Some(i64::from(insn.imm).cast_unsigned()),
            MOV32_REG => registers[dst] = Some(low(usize::from(insn.src())).into()),
            AND32_IMM => registers[dst] = Some((low(dst) & immediate).into()),
            RSH32_IMM => registers[dst] = Some((low(dst) >> immediate).into()),
            JA => at += jump.expect("forward"),
            JSET32_IMM if low(dst) & immediate != 0 => at += jump.expect("forward"),
            JNE32_IMM if low(dst) != immediate => at += jump.expect("forward"),
            JSET32_IMM | JNE32_IMM => {}
            EXIT => return registers[usize::from(ANSWER)].expect("an answer"),
            code => panic!("unknown operation {code:#x}"),
        }
    }
    panic!("no end");
}
