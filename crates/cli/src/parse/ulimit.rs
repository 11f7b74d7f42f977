//! `--ulimit NAME=SOFT[:HARD]`.

/// Names without `RLIMIT_`, as getrlimit(2) has them.
const NAMES: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// Name, soft and hard limit; −1 is unlimited.
///
/// # Errors
/// An unknown name, no number, a soft limit above the hard one.
pub(crate) fn parse(text: &str) -> Result<(String, i64, i64), String> {
    let (name, limits) = text.split_once('=').ok_or("expected NAME=SOFT[:HARD]")?;
    if !NAMES.contains(&name) {
        return Err(format!("{name:?} is no resource limit; there are {}", NAMES.join(", ")));
    }
    let number = |text: &str| match text.trim() {
        "-1" | "unlimited" => Ok(-1),
        digits => digits.parse::<i64>().ok().filter(|n| *n >= 0).ok_or(format!("{text:?} is no limit")),
    };
    let (soft, hard) = match limits.split_once(':') {
        Some((soft, hard)) => (number(soft)?, number(hard)?),
        None => (number(limits)?, number(limits)?),
    };
    if hard != -1 && (soft == -1 || soft > hard) {
        return Err("the soft limit is above the hard limit".into());
    }
    Ok((name.to_owned(), soft, hard))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_parse() {
        assert_eq!(parse("nofile=1024:2048"), Ok(("nofile".into(), 1024, 2048)));
        assert_eq!(parse("core=0"), Ok(("core".into(), 0, 0)));
        assert_eq!(parse("memlock=-1:-1"), Ok(("memlock".into(), -1, -1)));
        assert_eq!(parse("stack=8192:-1"), Ok(("stack".into(), 8192, -1)));
        for bad in ["nofile", "bogus=1", "nofile=a", "nofile=2:1", "nofile=-1:5", "nofile=1:2:3", "nofile=-2"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
