//! How a process runs: its scheduling, its I/O priority, its processors, its memory's nodes, its execution domain.
//! Read and checked from the configuration before anything is made; set once the process is in its control group.

use oci::runtime::{CpuAffinity, IoPriority, Linux, MemoryPolicy, Personality, Process, Scheduler};
use rustix::thread::CpuSet;
use sys::schedule::{self, Attributes};
use sys::{Context as _, Errno};

use crate::error::{Doing as _, Error, ErrorKind, Result};
use crate::plan::wrong;

/// One more than the highest processor or node in a list; the kernel's own limits are lower (8192 and 1024 on x86_64).
const MOST_BITS: u32 = 1 << 15;

const SCHED_FIFO: u32 = 1;
const SCHED_RR: u32 = 2;
const SCHED_DEADLINE: u32 = 6;

/// The shortest run time of a deadline, in nanoseconds (`DL_SCALE`, kernel/sched/deadline.c).
const SHORTEST_RUNTIME: u64 = 1024;

const MPOL_DEFAULT: u32 = 0;
const MPOL_PREFERRED: u32 = 1;
const MPOL_BIND: u32 = 2;
const MPOL_LOCAL: u32 = 4;
const MPOL_PREFERRED_MANY: u32 = 5;
const MPOL_F_NUMA_BALANCING: u32 = 1 << 13;
const MPOL_F_RELATIVE_NODES: u32 = 1 << 14;
const MPOL_F_STATIC_NODES: u32 = 1 << 15;

/// A set of numbers as the kernel reads it: bit 0 of the first word is 0.
type Mask = Vec<u64>;

/// What was asked for; nothing where nothing was.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Tuning {
    scheduler: Option<Attributes>,
    /// Class and level.
    io_priority: Option<(u8, u8)>,
    /// Mode with flags, and nodes.
    memory_policy: Option<(u32, Mask)>,
    personality: Option<u32>,
}

impl Tuning {
    /// Reads what the configuration says.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] with the field's name.
    pub(crate) fn new(process: &Process, linux: &Linux) -> Result<Self> {
        Ok(Self {
            scheduler: process.scheduler.as_ref().map(read_scheduler).transpose()?,
            io_priority: process.io_priority.as_ref().map(read_io_priority).transpose()?,
            memory_policy: linux.memory_policy.as_ref().map(read_memory_policy).transpose()?,
            personality: linux.personality.as_ref().map(read_personality).transpose()?,
        })
    }

    /// Sets from outside, by whoever has the privilege, what can be set from there. Process `pid` is in its control group
    /// by now and waits for its start, so that a realtime policy starves nobody during the set-up.
    pub(crate) fn set_on(&self, pid: u32) -> Result<()> {
        if let Some(attributes) = &self.scheduler {
            schedule::set_attributes(pid, attributes).map_err(refused("process.scheduler"))?;
        }
        if let Some((class, level)) = self.io_priority {
            schedule::set_io_priority(pid, class, level).map_err(refused("process.ioPriority"))?;
        }
        Ok(())
    }

    /// Sets the rest from inside.
    pub(crate) fn set_on_self(&self) -> Result<()> {
        if let Some((mode, nodes)) = &self.memory_policy {
            schedule::set_memory_policy(*mode, nodes).map_err(refused("linux.memoryPolicy"))?;
        }
        if let Some(domain) = self.personality {
            schedule::set_personality(domain).map_err(refused("linux.personality"))?;
        }
        Ok(())
    }
}

/// The processors of an `exec`.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Affinity {
    initial: Option<Mask>,
    last: Option<Mask>,
}

impl Affinity {
    /// Reads `process.execCPUAffinity`, which is about processes of `exec` only.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] with the field's name.
    pub(crate) fn new(affinity: Option<&CpuAffinity>) -> Result<Self> {
        let Some(affinity) = affinity else { return Ok(Self::default()) };
        let read = |field: &str, text: &str| (!text.is_empty()).then(|| read_list(field, text)).transpose();
        Ok(Self {
            initial: read("process.execCPUAffinity.initial", &affinity.initial)?,
            last: read("process.execCPUAffinity.final", &affinity.last)?,
        })
    }

    /// Puts the caller, whose children may be born in the control group, on the initial processors; gives those before,
    /// for [`Affinity::end`].
    pub(crate) fn begin(&self) -> Result<Option<CpuSet>> {
        let Some(mask) = &self.initial else { return Ok(None) };
        let before = rustix::thread::sched_getaffinity(None)
            .at("sched_getaffinity", "")
            .doing(|| "cannot read on which processors lighter runs".to_owned())?;
        schedule::set_affinity(0, mask).map_err(refused("process.execCPUAffinity.initial"))?;
        Ok(Some(before))
    }

    /// Puts the caller back.
    pub(crate) fn end(&self, before: Option<CpuSet>) {
        if let Some(before) = before {
            // Where it was is where it may be, unless its own group has changed meanwhile: then the kernel has moved it.
            let _ = rustix::thread::sched_setaffinity(None, &before);
        }
    }

    /// Puts the process itself, in its control group by now, on the final processors.
    pub(crate) fn finish(&self) -> Result<()> {
        let Some(mask) = &self.last else { return Ok(()) };
        schedule::set_affinity(0, mask).map_err(refused("process.execCPUAffinity.final"))
    }
}

/// The kernel's refusal of what `field` asks for.
fn refused(field: &'static str) -> impl FnOnce(sys::Error) -> Error {
    move |cause| {
        // A control group without realtime run time of its own, as v1 makes them, takes no realtime process.
        let hint = if field == "process.scheduler" && cause.errno() == Errno::PERM {
            ": CAP_SYS_NICE is missing, or a linux.resources.cpu.realtimeRuntime"
        } else {
            ""
        };
        let kind = match cause.errno() {
            Errno::PERM | Errno::NOSYS => ErrorKind::Unsupported,
            Errno::INVAL => ErrorKind::Config,
            Errno::BUSY => ErrorKind::Limit,
            _ => ErrorKind::System,
        };
        Error::system(format!("cannot set {field}{hint}"), cause).with_kind(kind)
    }
}

fn read_scheduler(scheduler: &Scheduler) -> Result<Attributes> {
    const FIELD: &str = "process.scheduler";
    let policy = match scheduler.policy.as_str() {
        "SCHED_OTHER" => 0,
        "SCHED_FIFO" => SCHED_FIFO,
        "SCHED_RR" => SCHED_RR,
        "SCHED_BATCH" => 3,
        "SCHED_IDLE" => 5,
        "SCHED_DEADLINE" => SCHED_DEADLINE,
        "SCHED_ISO" => return Err(wrong("process.scheduler.policy", "SCHED_ISO is reserved, no kernel has it")),
        other => return Err(wrong("process.scheduler.policy", format_args!("{other:?} is no policy"))),
    };
    let mut flags = 0;
    for name in &scheduler.flags {
        flags |= match name.as_str() {
            "SCHED_FLAG_RESET_ON_FORK" => 0x01,
            "SCHED_FLAG_RECLAIM" => 0x02,
            "SCHED_FLAG_DL_OVERRUN" => 0x04,
            "SCHED_FLAG_KEEP_POLICY" => 0x08,
            "SCHED_FLAG_KEEP_PARAMS" => 0x10,
            "SCHED_FLAG_UTIL_CLAMP_MIN" => 0x20,
            "SCHED_FLAG_UTIL_CLAMP_MAX" => 0x40,
            other => return Err(wrong("process.scheduler.flags", format_args!("{other:?} is no flag"))),
        };
    }
    if !(-20..=19).contains(&scheduler.nice) {
        return Err(wrong("process.scheduler.nice", format_args!("{} is not within -20 to 19", scheduler.nice)));
    }
    let realtime = policy == SCHED_FIFO || policy == SCHED_RR;
    let levels = if realtime { 1..=99 } else { 0..=0 };
    if !levels.contains(&scheduler.priority) {
        let why = format!("{} is not within {} to {}", scheduler.priority, levels.start(), levels.end());
        return Err(wrong("process.scheduler.priority", format_args!("{why} for {}", scheduler.policy)));
    }
    let Scheduler { runtime, deadline, period, .. } = *scheduler;
    if policy == SCHED_DEADLINE {
        if runtime < SHORTEST_RUNTIME {
            let why = format!("{runtime} ns is below {SHORTEST_RUNTIME} ns, the least for SCHED_DEADLINE");
            return Err(wrong("process.scheduler.runtime", why));
        }
        // A period of 0 is as long as the deadline.
        if runtime > deadline || (period != 0 && deadline > period) || deadline.max(period) >> 63 != 0 {
            let why = format!("runtime {runtime}, deadline {deadline}, period {period}: none may be over the next");
            return Err(wrong(FIELD, why));
        }
    } else if (runtime, deadline, period) != (0, 0, 0) {
        return Err(wrong(FIELD, "runtime, deadline and period are for SCHED_DEADLINE only"));
    }
    let priority = scheduler.priority.unsigned_abs();
    let nice = scheduler.nice;
    Ok(Attributes { policy, flags, nice, priority, runtime, deadline, period })
}

fn read_io_priority(priority: &IoPriority) -> Result<(u8, u8)> {
    let class = match priority.class.as_str() {
        "IOPRIO_CLASS_RT" => 1,
        "IOPRIO_CLASS_BE" => 2,
        "IOPRIO_CLASS_IDLE" => 3,
        other => return Err(wrong("process.ioPriority.class", format_args!("{other:?} is no class"))),
    };
    match u8::try_from(priority.priority) {
        Ok(level @ 0..=7) => Ok((class, level)),
        _ => Err(wrong("process.ioPriority.priority", format_args!("{} is not within 0 to 7", priority.priority))),
    }
}

/// The rules are those of set_mempolicy(2) and of the kernel's `sanitize_mpol_flags` and `mpol_new`.
fn read_memory_policy(policy: &MemoryPolicy) -> Result<(u32, Mask)> {
    const NODES: &str = "linux.memoryPolicy.nodes";
    const FLAGS: &str = "linux.memoryPolicy.flags";
    let mode = match policy.mode.as_str() {
        "MPOL_DEFAULT" => MPOL_DEFAULT,
        "MPOL_PREFERRED" => MPOL_PREFERRED,
        "MPOL_BIND" => MPOL_BIND,
        "MPOL_INTERLEAVE" => 3,
        "MPOL_LOCAL" => MPOL_LOCAL,
        "MPOL_PREFERRED_MANY" => MPOL_PREFERRED_MANY,
        "MPOL_WEIGHTED_INTERLEAVE" => 6,
        other => return Err(wrong("linux.memoryPolicy.mode", format_args!("{other:?} is no mode"))),
    };
    let mut flags = 0;
    for name in &policy.flags {
        flags |= match name.as_str() {
            "MPOL_F_NUMA_BALANCING" => MPOL_F_NUMA_BALANCING,
            "MPOL_F_RELATIVE_NODES" => MPOL_F_RELATIVE_NODES,
            "MPOL_F_STATIC_NODES" => MPOL_F_STATIC_NODES,
            other => return Err(wrong(FLAGS, format_args!("{other:?} is no flag"))),
        };
    }
    let both = MPOL_F_RELATIVE_NODES | MPOL_F_STATIC_NODES;
    if flags & both == both {
        return Err(wrong(FLAGS, "MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other"));
    }
    if flags & MPOL_F_NUMA_BALANCING != 0 && mode != MPOL_BIND && mode != MPOL_PREFERRED_MANY {
        return Err(wrong(FLAGS, format_args!("MPOL_F_NUMA_BALANCING does not go with {}", policy.mode)));
    }
    let nodes = if policy.nodes.trim().is_empty() { Vec::new() } else { read_list(NODES, &policy.nodes)? };
    match (mode, nodes.is_empty()) {
        (MPOL_DEFAULT | MPOL_LOCAL, false) => {
            return Err(wrong(NODES, format_args!("has to be empty with {}", policy.mode)));
        }
        // Without nodes, preferred means the local one.
        (MPOL_DEFAULT | MPOL_LOCAL | MPOL_PREFERRED, true) if flags & both != 0 => {
            return Err(wrong(FLAGS, format_args!("{:?} need nodes", policy.flags)));
        }
        (MPOL_DEFAULT | MPOL_LOCAL | MPOL_PREFERRED, _) | (_, false) => {}
        (_, true) => return Err(wrong(NODES, format_args!("is empty, which {} does not allow", policy.mode))),
    }
    Ok((mode | flags, nodes))
}

/// The specification allows no flags so far.
fn read_personality(personality: &Personality) -> Result<u32> {
    if !personality.flags.is_empty() {
        return Err(wrong("linux.personality.flags", "none is defined"));
    }
    match personality.domain.as_str() {
        "LINUX" => Ok(0),
        "LINUX32" => Ok(8),
        other => Err(wrong("linux.personality.domain", format_args!("{other:?} is neither LINUX nor LINUX32"))),
    }
}

/// A list such as `0-3,7`.
fn read_list(field: &str, text: &str) -> Result<Mask> {
    let bad = || wrong(field, format_args!("{text:?} is no list of numbers below {MOST_BITS} such as 0-3,7"));
    let number = |text: &str| -> Result<u32> {
        let text = text.trim();
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = if digits { text.parse().ok() } else { None };
        number.filter(|number| *number < MOST_BITS).ok_or_else(bad)
    };
    let mut mask = Mask::new();
    for part in text.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if first > last {
            return Err(bad());
        }
        for bit in first..=last {
            let word = usize::try_from(bit / 64).unwrap_or(usize::MAX);
            if mask.len() <= word {
                mask.resize(word + 1, 0);
            }
            mask[word] |= 1 << (bit % 64);
        }
    }
    Ok(mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuning(process: &str, linux: &str) -> std::result::Result<Tuning, String> {
        let process: Process = serde_json::from_str(&format!("{{{process}}}")).expect("valid JSON");
        let linux: Linux = serde_json::from_str(&format!("{{{linux}}}")).expect("valid JSON");
        Tuning::new(&process, &linux).map_err(|error| error.to_string())
    }

    fn policy(text: &str) -> std::result::Result<(u32, Mask), String> {
        tuning("", &format!("\"memoryPolicy\": {text}")).map(|tuning| tuning.memory_policy.expect("asked for"))
    }

    #[test]
    fn nothing_is_set_that_nobody_asked_for() {
        assert_eq!(tuning("", ""), Ok(Tuning::default()));
        assert_eq!(Affinity::new(None), Ok(Affinity::default()));
    }

    #[test]
    fn lists_are_masks() {
        assert_eq!(read_list("f", "0"), Ok(vec![1]));
        assert_eq!(read_list("f", "0-3, 7"), Ok(vec![0x8f]));
        assert_eq!(read_list("f", "64,1023").map(|mask| (mask.len(), mask[1], mask[15])), Ok((16, 1, 1 << 63)));
        for text in ["", ",", "x", "-1", "3-1", "1-", "+1", "32768", "10284838", "0-4294967295", "1,,2"] {
            assert!(read_list("f", text).expect_err(text).to_string().starts_with("f: "), "{text}");
        }
    }

    #[test]
    fn schedulers_are_read_whole() {
        let read = |text: &str| tuning(&format!("\"scheduler\": {text}"), "").map(|t| t.scheduler.expect("asked for"));
        let fifo = read(r#"{"policy": "SCHED_FIFO", "priority": 10, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}"#);
        assert_eq!(fifo.map(|a| (a.policy, a.priority, a.flags)), Ok((1, 10, 1)));
        let deadline = r#"{"policy": "SCHED_DEADLINE", "runtime": 10000000, "deadline": 20000000, "period": 30000000}"#;
        assert_eq!(read(deadline).map(|a| (a.runtime, a.deadline, a.period)), Ok((10_000_000, 20_000_000, 30_000_000)));
        for (text, field) in [
            (r#"{"policy": "SCHED_X"}"#, "process.scheduler.policy"),
            (r#"{"policy": "SCHED_ISO"}"#, "process.scheduler.policy"),
            (r#"{"policy": "SCHED_OTHER", "nice": 20}"#, "process.scheduler.nice"),
            (r#"{"policy": "SCHED_OTHER", "priority": 1}"#, "process.scheduler.priority"),
            (r#"{"policy": "SCHED_RR"}"#, "process.scheduler.priority"),
            (r#"{"policy": "SCHED_FIFO", "priority": 100}"#, "process.scheduler.priority"),
            (r#"{"policy": "SCHED_OTHER", "flags": ["X"]}"#, "process.scheduler.flags"),
            (r#"{"policy": "SCHED_BATCH", "runtime": 5000}"#, "process.scheduler: "),
            (r#"{"policy": "SCHED_DEADLINE", "deadline": 5000}"#, "process.scheduler.runtime"),
            (r#"{"policy": "SCHED_DEADLINE", "runtime": 5000}"#, "process.scheduler: "),
            (
                r#"{"policy": "SCHED_DEADLINE", "runtime": 5000, "deadline": 6000, "period": 5500}"#,
                "process.scheduler: ",
            ),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.starts_with(field), "{error}");
        }
    }

    #[test]
    fn memory_policies_follow_the_kernels_rules() {
        assert_eq!(policy(r#"{"mode": "MPOL_DEFAULT"}"#), Ok((0, vec![])));
        assert_eq!(policy(r#"{"mode": "MPOL_PREFERRED", "nodes": ""}"#), Ok((1, vec![])));
        let bind = r#"{"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_NUMA_BALANCING", "MPOL_F_STATIC_NODES"]}"#;
        assert_eq!(policy(bind), Ok((2 | 1 << 13 | 1 << 15, vec![1])));
        for (text, field) in [
            ("{}", "linux.memoryPolicy.mode"),
            (r#"{"mode": "BAD"}"#, "linux.memoryPolicy.mode"),
            (r#"{"mode": "MPOL_BIND", "flags": ["BAD"], "nodes": "0"}"#, "linux.memoryPolicy.flags"),
            (r#"{"mode": "MPOL_PREFERRED", "flags": ["MPOL_F_NUMA_BALANCING"]}"#, "linux.memoryPolicy.flags"),
            (r#"{"mode": "MPOL_PREFERRED", "flags": ["MPOL_F_STATIC_NODES"]}"#, "linux.memoryPolicy.flags"),
            (
                r#"{"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"]}"#,
                "linux.memoryPolicy.flags",
            ),
            (r#"{"mode": "MPOL_INTERLEAVE"}"#, "linux.memoryPolicy.nodes"),
            (r#"{"mode": "MPOL_LOCAL", "nodes": "0"}"#, "linux.memoryPolicy.nodes"),
            (r#"{"mode": "MPOL_PREFERRED", "nodes": "bad"}"#, "linux.memoryPolicy.nodes"),
        ] {
            let error = policy(text).expect_err(text);
            assert!(error.starts_with(field), "{error}");
        }
    }

    #[test]
    fn the_rest_names_its_field_too() {
        for (process, linux, field) in [
            (r#""ioPriority": {"class": "IOPRIO_CLASS_NONE"}"#, "", "process.ioPriority.class"),
            (r#""ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 8}"#, "", "process.ioPriority.priority"),
            ("", r#""personality": {"domain": "BSD"}"#, "linux.personality.domain"),
            ("", r#""personality": {"domain": "LINUX", "flags": ["X"]}"#, "linux.personality.flags"),
        ] {
            let error = tuning(process, linux).expect_err(field);
            assert!(error.starts_with(field), "{error}");
        }
        let affinity = |text: &str| Affinity::new(Some(&serde_json::from_str(text).expect("valid JSON")));
        assert!(affinity(r#"{"initial": "x"}"#).expect_err("no list").to_string().contains("execCPUAffinity.initial"));
        assert_eq!(affinity(r#"{"final": "1"}"#), Ok(Affinity { initial: None, last: Some(vec![2]) }));
    }
}
