//! Names and numbers of signals (signal(7); the numbers are those of every architecture but alpha, mips and sparc).

const NAMES: [(&str, i32); 34] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// SIGRTMIN as programs see it: the C library keeps the first two real-time signals.
const RT_MIN: i32 = 34;
const RT_MAX: i32 = 64;

/// The number of a signal given as docker takes it: `9`, `KILL`, `SIGKILL`, `RTMIN+3`, in any case.
#[must_use]
pub fn parse_signal(said: &str) -> Option<i32> {
    if said.bytes().all(|byte| byte.is_ascii_digit()) {
        return said.parse().ok().filter(|number| (1..=RT_MAX).contains(number));
    }
    let upper = said.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(&(_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Some(number);
    }
    let offset = |text: &str| -> Option<i32> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if digits { text.parse().ok() } else { None }
    };
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(""), _) => RT_MIN,
        (_, Some("")) => RT_MAX,
        (Some(rest), _) => RT_MIN.checked_add(offset(rest.strip_prefix('+')?)?)?,
        (_, Some(rest)) => RT_MAX.checked_sub(offset(rest.strip_prefix('-')?)?)?,
        (None, None) => return None,
    };
    (RT_MIN..=RT_MAX).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_numbers_and_nonsense() {
        for (said, number) in [
            ("9", Some(9)),
            ("KILL", Some(9)),
            ("sigkill", Some(9)),
            ("SIGTERM", Some(15)),
            ("RTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("rtmax-1", Some(63)),
            ("64", Some(64)),
            ("0", None),
            ("65", None),
            ("-9", None),
            ("+9", None),
            ("", None),
            ("SIG", None),
            ("RTMIN+99", None),
            ("RTMIN+", None),
            ("RTMIN-1", None),
            ("RTMAX+1", None),
            ("KILL ", None),
            ("99999999999", None),
            ("RTMIN+2147483647", None),
        ] {
            assert_eq!(parse_signal(said), number, "{said:?}");
        }
    }
}
