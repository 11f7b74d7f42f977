//! From the command line to a verb: global flags, groups, help, and the report of what went wrong.

use std::ffi::OsString;
use std::fmt::Write as _;

use engine::Paths;

use crate::failure::{Class, Failure, Outcome};
use crate::flags::Verb;
use crate::verbs::{App, GROUPS, VERBS};
use crate::{manual, output};

/// Runs the command line after the program's name; gives the exit code. `started` is when the process began,
/// nanoseconds of CLOCK_MONOTONIC.
pub(crate) fn main(args: impl Iterator<Item = OsString>, started: u64) -> u8 {
    let mut class = Class::Plain;
    match dispatch(args, started, &mut class) {
        Ok(code) => code,
        Err(failure) => {
            failure.report();
            failure.code(class)
        }
    }
}

fn dispatch(mut args: impl Iterator<Item = OsString>, started: u64, class: &mut Class) -> Outcome<u8> {
    let mut paths = Paths::default();
    let word = loop {
        let Some(arg) = args.next() else {
            output::print(&overview())?;
            return Ok(0);
        };
        let text = arg.to_string_lossy();
        let (flag, attached) = match text.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (&*text, None),
        };
        match flag {
            "--root" | "--run" => {
                let value = attached.map(OsString::from).or_else(|| args.next()).filter(|value| !value.is_empty());
                let value = value.ok_or_else(|| Failure::usage(format!("{flag} needs a directory")))?;
                let value =
                    std::path::absolute(&value).map_err(|error| Failure::io(format!("{flag}: no such path"), error))?;
                *(if flag == "--root" { &mut paths.root } else { &mut paths.run }) = value;
            }
            "--help" | "-h" => {
                output::print(&overview())?;
                return Ok(0);
            }
            "--version" | "-v" => {
                output::line(&format!("lighter version {}", env!("CARGO_PKG_VERSION")))?;
                return Ok(0);
            }
            flag if flag.starts_with('-') => {
                return Err(Failure::line(format!("unknown flag {flag:?}"), "lighter --help", 125));
            }
            _ => break arg.to_string_lossy().into_owned(),
        }
    };
    let app = App { paths, started };
    if word == "help" {
        return help(args);
    }
    if word == "completions" || word == "man" {
        return manual::main(&word, args);
    }
    let (verb, line) = find(&word, args)?;
    let Some(verb) = verb else { return Ok(0) };
    *class = verb.class;
    match verb.read(line)? {
        Some(job) => job(&app),
        None => Ok(0),
    }
}

/// The verb for a word, or for the two words of a group; `None` when the group's help was asked for and printed.
fn find(word: &str, mut args: impl Iterator<Item = OsString>) -> Outcome<(Option<&'static Verb>, Vec<OsString>)> {
    if let Some(verb) = VERBS.iter().find(|verb| verb.name == word && !verb.name.contains(' ')) {
        return Ok((Some(verb), args.collect()));
    }
    let Some(group) = GROUPS.iter().find(|group| group.name == word) else {
        return Err(unknown(word, VERBS.iter().filter(|verb| !verb.hidden).map(|verb| verb.name)));
    };
    let Some(second) = args.next().filter(|second| second != "--help" && second != "-h") else {
        output::print(&group_overview(group.name))?;
        return Ok((None, Vec::new()));
    };
    let second = second.to_string_lossy().into_owned();
    let Some((_, target)) = group.words.iter().find(|(name, _)| *name == second) else {
        return Err(unknown(&format!("{word} {second}"), group.words.iter().map(|(name, _)| *name)));
    };
    Ok((VERBS.iter().find(|verb| verb.name == *target), args.collect()))
}

fn unknown(word: &str, known: impl Iterator<Item = &'static str>) -> Failure {
    let last = word.rsplit(' ').next().unwrap_or(word);
    let nearest = known.map(|name| (distance(last, name), name)).min();
    let hint = match nearest {
        Some((1..=2, name)) => format!("did you mean {name:?}? lighter --help lists the commands"),
        _ => "lighter --help lists the commands".into(),
    };
    Failure::usage_hint(format!("{word:?} is not a lighter command"), hint)
}

/// How many letters two words differ by, neighbours swapped counting once (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(40).collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = change.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

fn help(mut args: impl Iterator<Item = OsString>) -> Outcome<u8> {
    let text = match args.next() {
        None => overview(),
        Some(word) => {
            let (verb, _) = find(&word.to_string_lossy(), args)?;
            match verb {
                Some(verb) => verb.command().render_help().to_string(),
                None => return Ok(0),
            }
        }
    };
    output::print(&text)?;
    Ok(0)
}

/// The first page of help.
pub(crate) fn overview() -> String {
    let mut text = String::from(
        "lighter runs containers: isolated, limited, and cleaned up after, with no daemon.\n\n\
         Usage: lighter [--root DIR] [--run DIR] COMMAND\n\nTry it: lighter run --rm lighter.local/hello\n\nCommands:\n",
    );
    for verb in VERBS.iter().filter(|verb| !verb.hidden) {
        let _ = writeln!(text, "  {:<12} {}", verb.name, verb.about);
    }
    text.push_str("\nGroups:\n");
    for group in GROUPS {
        let _ = writeln!(text, "  {:<12} {}", group.name, group.about);
    }
    text.push_str(
        "\nOptions:\n\
         \x20 --root DIR    Images, layers, containers [LIGHTER_ROOT, /var/lib/lighter]\n\
         \x20 --run DIR     State until the next reboot [LIGHTER_RUN, /run/lighter]\n\
         \x20 -v, --version Print the version\n\
         \nlighter COMMAND --help tells more about a command.\n",
    );
    text
}

fn group_overview(name: &str) -> String {
    let mut text = String::new();
    for group in GROUPS.iter().filter(|group| group.name == name) {
        let _ = writeln!(text, "{}\n\nUsage: lighter {} COMMAND\n\nCommands:", group.about, group.name);
        for (word, target) in group.words {
            let about = VERBS.iter().find(|verb| verb.name == *target).map_or("", |verb| verb.about);
            let _ = writeln!(text, "  {word:<12} {about}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &[&str]) -> Result<u8, String> {
        let mut class = Class::Plain;
        dispatch(words.iter().map(OsString::from), 0, &mut class)
            .map_err(|failure| format!("{} {}", failure.code(class), failure.render(false)))
    }

    #[test]
    fn groups_lead_to_verbs() {
        for group in GROUPS {
            for (word, target) in group.words {
                assert!(VERBS.iter().any(|verb| verb.name == *target), "{} {word} leads nowhere", group.name);
            }
        }
        let (verb, line) = find("container", ["ls", "-a"].iter().map(OsString::from)).expect("there");
        assert_eq!((verb.expect("there").name, line.len()), ("ps", 1));
    }

    #[test]
    fn mistakes_are_explained() {
        for (words, code, part) in [
            (vec!["rnu"], "1", "did you mean \"run\""),
            (vec!["frobnicate"], "1", "lists the commands"),
            (vec!["--frob"], "125", "unknown flag"),
            (vec!["--root"], "1", "needs a directory"),
            (vec!["image", "lss"], "1", "did you mean \"ls\""),
            (vec!["run", "--frob", "x"], "125", "--frob"),
            (vec!["exec"], "1", "at least"),
            (vec!["ps", "--frob"], "125", "--frob"),
        ] {
            let error = run(&words).expect_err("refused");
            assert!(error.starts_with(&format!("{code} Error: ")) && error.contains(part), "{error}");
        }
    }

    #[test]
    fn help_lists_every_visible_command() {
        let text = overview();
        for verb in VERBS {
            assert_eq!(text.contains(&format!("\n  {:<12} ", verb.name)), !verb.hidden, "{}", verb.name);
        }
    }
}
