//! `logs`.

use std::io::Write as _;

use engine::{LogOptions, Stream};
use jiff::Timestamp;

use crate::failure::{Failure, Outcome};
use crate::flags::{Args, Job};
use crate::parse::{moment, size};

/// Reads `logs`'s flags.
///
/// # Errors
/// What does not fit.
pub(crate) fn parse(args: &Args) -> Outcome<Job> {
    let name = args.word(0).to_owned();
    let now = Timestamp::now();
    let at = |text: &str| moment::parse(text, now);
    let options = LogOptions {
        follow: args.on("follow"),
        tail: args.parsed("tail", tail)?.flatten(),
        since: args.parsed("since", at)?,
        until: args.parsed("until", at)?,
    };
    let timestamps = args.on("timestamps");
    let details = args.on("details");
    Ok(Box::new(move |app| {
        let engine = app.engine()?;
        let id = engine.lookup(&name)?;
        let extra = if details { detail(&engine.inspect(&id, false)?) } else { String::new() };
        let mut stdout = std::io::BufWriter::new(std::io::stdout().lock());
        let mut stderr = std::io::stderr().lock();
        let failed = |error| Failure::io("cannot write the log", error);
        let follow = options.follow;
        for entry in engine.logs(&id, options)? {
            let entry = entry?;
            let mut line = Vec::with_capacity(entry.line.len() + 64);
            if timestamps {
                line.extend_from_slice(entry.time.as_bytes());
                line.push(b' ');
            }
            line.extend_from_slice(extra.as_bytes());
            line.extend_from_slice(&entry.line);
            match entry.stream {
                Stream::Stdout => stdout.write_all(&line).map_err(failed)?,
                Stream::Stderr => {
                    // The two streams keep their order on a shared terminal.
                    stdout.flush().map_err(failed)?;
                    stderr.write_all(&line).map_err(failed)?;
                }
            }
            if follow {
                stdout.flush().map_err(failed)?;
            }
        }
        stdout.flush().map_err(failed)?;
        Ok(0)
    }))
}

/// `all` and negative numbers are everything.
fn tail(text: &str) -> Result<Option<u64>, String> {
    if text == "all" {
        return Ok(None);
    }
    size::number::<i64>(text).map(|lines| u64::try_from(lines).ok()).map_err(|_| "expected a number, or all".into())
}

/// The labels and variables that the log options `labels` and `env` name, as docker puts them before each line.
fn detail(container: &engine::ContainerDetails) -> String {
    let options = &container.said.log_opts;
    let names = |key: &str| options.get(key).map(|list| list.split(',').map(str::trim).collect::<Vec<_>>());
    let mut pairs = Vec::new();
    for name in names("labels").unwrap_or_default() {
        pairs.extend(container.labels.get(name).map(|value| format!("{name}={value}")));
    }
    for name in names("env").unwrap_or_default() {
        let found = container.said.env.iter().filter_map(|entry| entry.split_once('=')).find(|(key, _)| *key == name);
        pairs.extend(found.map(|(_, value)| format!("{name}={value}")));
    }
    if pairs.is_empty() { String::new() } else { format!("{} ", pairs.join(",")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::testing;

    #[test]
    fn tails_are_numbers_or_all() {
        assert_eq!(tail("all"), Ok(None));
        assert_eq!(tail("-1"), Ok(None));
        assert_eq!(tail("0"), Ok(Some(0)));
        assert_eq!(tail("12"), Ok(Some(12)));
        assert!(tail("some").is_err());
        assert!(parse(&testing::args("logs", &["--since", "yesterday", "c"])).is_err());
        assert!(parse(&testing::args("logs", &["-ft", "-n", "3", "--since", "5m", "c"])).is_ok());
    }
}
