//! Flags: one table per verb, from which the parser, the help, the man pages and the completions are made.
//!
//! A verb's `parse` reads every flag of its table and gives a [`Job`]; a test runs each `parse` and fails when a flag of
//! the table was not read, so none is silently ignored. Flags of docker that mean nothing here yet are in the tables
//! too, as [`Kind::Later`], and answer with what they wait for.

pub(crate) mod container;
pub(crate) mod later;

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::failure::{Class, Failure, Outcome};
use crate::verbs::App;

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing, or `=true`, `=false`.
    Switch,
    /// One value, called this in the help; the last one given counts.
    One(&'static str),
    /// A value each time it is given.
    Many(&'static str),
    /// Not available yet: whether it takes a value, and what it waits for.
    Later {
        /// Whether it takes a value.
        value: bool,
        /// The sentence's end: "…comes with".
        with: &'static str,
    },
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flag {
    /// Without the two dashes.
    pub(crate) long: &'static str,
    /// The one-letter form.
    pub(crate) short: Option<char>,
    /// Other names that docker accepts.
    pub(crate) aliases: &'static [&'static str],
    /// What it takes.
    pub(crate) kind: Kind,
    /// One line of help.
    pub(crate) help: &'static str,
}

impl Flag {
    const fn new(long: &'static str, kind: Kind, help: &'static str) -> Self {
        Self { long, short: None, aliases: &[], kind, help }
    }

    /// A flag that is there or not.
    pub(crate) const fn switch(long: &'static str, help: &'static str) -> Self {
        Self::new(long, Kind::Switch, help)
    }

    /// A flag with a value.
    pub(crate) const fn one(long: &'static str, value: &'static str, help: &'static str) -> Self {
        Self::new(long, Kind::One(value), help)
    }

    /// A flag that may be given many times.
    pub(crate) const fn many(long: &'static str, value: &'static str, help: &'static str) -> Self {
        Self::new(long, Kind::Many(value), help)
    }

    /// A flag that is not available yet.
    pub(crate) const fn later(long: &'static str, value: bool, with: &'static str) -> Self {
        Self::new(long, Kind::Later { value, with }, "")
    }

    /// With its one-letter form.
    pub(crate) const fn short(mut self, short: char) -> Self {
        self.short = Some(short);
        self
    }

    /// With other names.
    pub(crate) const fn alias(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    fn arg(&self) -> Arg {
        let mut arg = Arg::new(self.long).long(self.long).help(self.help).aliases(self.aliases.iter().copied());
        if let Some(short) = self.short {
            arg = arg.short(short);
        }
        let switch = |arg: Arg| {
            let arg = arg.num_args(0..=1).require_equals(true).default_missing_value("true");
            arg.value_parser(clap::builder::ValueParser::new(parse_bool)).hide_possible_values(true).value_name("")
        };
        match self.kind {
            Kind::Switch => switch(arg).action(ArgAction::Set).hide_default_value(true),
            Kind::One(value) => arg.action(ArgAction::Set).value_name(value).allow_hyphen_values(true),
            Kind::Many(value) => arg.action(ArgAction::Append).value_name(value).allow_hyphen_values(true),
            Kind::Later { value: true, .. } => arg.action(ArgAction::Append).allow_hyphen_values(true).hide(true),
            Kind::Later { value: false, .. } => switch(arg).action(ArgAction::Append).hide(true),
        }
    }
}

/// Booleans as Go reads them.
fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        other => Err(format!("{other:?} is neither true nor false")),
    }
}

/// What a parsed command line does: gives the exit code.
pub(crate) type Job = Box<dyn FnOnce(&App) -> Outcome<u8>>;

/// The words after the flags.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words {
    /// As the usage line shows them: `CONTAINER [CONTAINER...]`.
    pub(crate) usage: &'static str,
    /// At least so many.
    pub(crate) min: usize,
    /// At most so many; `None` is any number.
    pub(crate) max: Option<usize>,
    /// Whether flags end at the first word, because the rest is somebody else's command line.
    pub(crate) command_follows: bool,
}

impl Words {
    /// `min` to `max` words.
    pub(crate) const fn new(usage: &'static str, min: usize, max: Option<usize>) -> Self {
        Self { usage, min, max, command_follows: false }
    }

    /// At least `min` words, the first of which ends the flags.
    pub(crate) const fn command(usage: &'static str, min: usize) -> Self {
        Self { usage, min, max: None, command_follows: true }
    }
}

/// One verb.
#[derive(Clone, Copy)]
pub(crate) struct Verb {
    /// Its name.
    pub(crate) name: &'static str,
    /// One line of help.
    pub(crate) about: &'static str,
    /// Its flags, in parts that verbs share.
    pub(crate) flags: &'static [&'static [Flag]],
    /// Its words.
    pub(crate) words: Words,
    /// Its column of the table of exit codes.
    pub(crate) class: Class,
    /// Whether the help lists it.
    pub(crate) hidden: bool,
    /// Reads the flags.
    pub(crate) parse: fn(&Args) -> Outcome<Job>,
}

impl Verb {
    /// All flags.
    pub(crate) fn all_flags(&self) -> impl Iterator<Item = &'static Flag> + use<> {
        self.flags.iter().flat_map(|part| part.iter())
    }

    /// The parser for this verb alone.
    pub(crate) fn command(&self) -> Command {
        let usage = format!("lighter {} [OPTIONS] {}", self.name, self.words.usage);
        let words = Arg::new(WORDS)
            .value_name("WORD")
            .hide(true)
            .num_args(0..)
            .action(ArgAction::Append)
            .trailing_var_arg(self.words.command_follows);
        let help = Arg::new("help").long("help").action(ArgAction::SetTrue).help("Print this help").display_order(999);
        Command::new(self.name)
            .bin_name(format!("lighter {}", self.name))
            .about(self.about)
            .override_usage(usage.trim_end().to_owned())
            .hide(self.hidden)
            .disable_help_flag(true)
            .disable_version_flag(true)
            .args_override_self(true)
            .max_term_width(110)
            .args(self.all_flags().map(Flag::arg))
            .arg(help)
            .arg(words)
    }

    /// Reads a command line after the verb; `None` when it only asked for help, which is printed.
    ///
    /// # Errors
    /// Whatever is wrong with it.
    pub(crate) fn read(&self, line: impl IntoIterator<Item = std::ffi::OsString>) -> Outcome<Option<Job>> {
        let hint = || format!("lighter {} --help", self.name);
        let mut command = self.command().no_binary_name(true);
        let matches = command.try_get_matches_from_mut(line).map_err(|error| {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
            Failure::line(first, hint(), BAD_FLAG)
        })?;
        if matches.get_flag("help") {
            crate::output::print(&command.render_help().to_string())?;
            return Ok(None);
        }
        let args = Args::new(matches);
        self.refuse_later(&args)?;
        let count = args.words().count();
        let Words { min, max, usage, .. } = self.words;
        if count < min || max.is_some_and(|max| count > max) {
            let message = match (min, max) {
                (min, Some(max)) if min == max => format!("{} takes {}", self.name, counted(min)),
                (min, None) => format!("{} takes at least {}", self.name, counted(min)),
                (0, Some(max)) => format!("{} takes at most {}", self.name, counted(max)),
                (min, Some(max)) => format!("{} takes {min} to {}", self.name, counted(max)),
            };
            let hint = format!("lighter {} [OPTIONS] {usage}", self.name);
            return Err(Failure::line(message, hint.trim_end(), BAD_COUNT));
        }
        (self.parse)(&args).map(Some)
    }

    fn refuse_later(&self, args: &Args) -> Outcome<()> {
        for flag in self.all_flags() {
            if let Kind::Later { with, value } = flag.kind
                && args.is_said(flag.long)
                && !(value && later::is_default(flag.long, args.said_values(flag.long)))
            {
                return Err(Failure::line(
                    format!("--{} is not available yet", flag.long),
                    format!("it comes with {with}; leave it out until then"),
                    BAD_FLAG,
                ));
            }
        }
        Ok(())
    }
}

fn counted(count: usize) -> String {
    match count {
        0 => "no arguments".into(),
        1 => "one argument".into(),
        n => format!("{n} arguments"),
    }
}

const WORDS: &str = "words";
/// Exit code for flags that cannot be read, of every verb, as docker has it.
const BAD_FLAG: u8 = 125;
/// Exit code for too few or too many words, of every verb, as docker has it.
const BAD_COUNT: u8 = 1;

/// What was given for a verb's flags and words.
pub(crate) struct Args {
    matches: ArgMatches,
    #[cfg(test)]
    read: std::cell::RefCell<std::collections::BTreeSet<String>>,
}

impl Args {
    fn new(matches: ArgMatches) -> Self {
        Self {
            matches,
            #[cfg(test)]
            read: std::cell::RefCell::default(),
        }
    }

    #[cfg(test)]
    pub(crate) fn for_test(verb: &Verb, words: &[&str]) -> Self {
        let line = words.iter().map(std::ffi::OsString::from);
        Self::new(verb.command().no_binary_name(true).try_get_matches_from(line).expect("parses"))
    }

    #[cfg(test)]
    fn note(&self, flag: &str) {
        self.read.borrow_mut().insert(flag.to_owned());
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "tests keep a list of the flags that were read")]
    fn note(&self, _flag: &str) {}

    /// Whether a switch is on.
    pub(crate) fn on(&self, flag: &str) -> bool {
        self.switch(flag).unwrap_or(false)
    }

    /// A switch, when given.
    pub(crate) fn switch(&self, flag: &str) -> Option<bool> {
        self.note(flag);
        self.matches.get_one::<bool>(flag).copied()
    }

    /// A value, when given.
    pub(crate) fn one(&self, flag: &str) -> Option<&str> {
        self.note(flag);
        self.matches.get_one::<String>(flag).map(String::as_str)
    }

    /// A value as an owned string, when given.
    pub(crate) fn owned(&self, flag: &str) -> Option<String> {
        self.one(flag).map(str::to_owned)
    }

    /// A value read by `parse`, when given; a failure names the flag.
    ///
    /// # Errors
    /// What `parse` says.
    pub(crate) fn parsed<T, E: std::fmt::Display>(
        &self,
        flag: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Outcome<Option<T>> {
        self.one(flag).map(|text| parse(text).map_err(|error| bad_value(flag, text, &error))).transpose()
    }

    /// All values of a flag.
    pub(crate) fn many(&self, flag: &str) -> impl Iterator<Item = &str> {
        self.note(flag);
        self.matches.get_many::<String>(flag).into_iter().flatten().map(String::as_str)
    }

    /// All values of a flag as owned strings.
    pub(crate) fn list(&self, flag: &str) -> Vec<String> {
        self.many(flag).map(str::to_owned).collect()
    }

    /// All values of a flag read by `parse`; a failure names the flag.
    ///
    /// # Errors
    /// What `parse` says.
    pub(crate) fn each<T, E: std::fmt::Display>(
        &self,
        flag: &str,
        mut parse: impl FnMut(&str) -> Result<T, E>,
    ) -> Outcome<Vec<T>> {
        self.many(flag).map(|text| parse(text).map_err(|error| bad_value(flag, text, &error))).collect()
    }

    /// The words after the flags.
    pub(crate) fn words(&self) -> impl Iterator<Item = &str> {
        self.matches.get_many::<String>(WORDS).into_iter().flatten().map(String::as_str)
    }

    /// The words as owned strings.
    pub(crate) fn word_list(&self) -> Vec<String> {
        self.words().map(str::to_owned).collect()
    }

    /// The word at `index`; empty when it is not there, which the verb's [`Words`] exclude for those it needs.
    pub(crate) fn word(&self, index: usize) -> &str {
        self.words().nth(index).unwrap_or_default()
    }

    fn is_said(&self, flag: &str) -> bool {
        self.matches.value_source(flag) == Some(clap::parser::ValueSource::CommandLine)
    }

    fn said_values(&self, flag: &str) -> impl Iterator<Item = &str> {
        self.matches.get_many::<String>(flag).into_iter().flatten().map(String::as_str)
    }
}

/// The failure for a value that does not parse.
pub(crate) fn bad_value(flag: &str, text: &str, error: &dyn std::fmt::Display) -> Failure {
    let message = format!("invalid value {text:?} for --{flag}: {error}");
    // What can be filtered by is decided by the daemon, in docker: a filter that is none is no mistake in a flag.
    if flag == "filter" {
        return Failure::usage(message);
    }
    Failure::line(message, "lighter VERB --help tells what a verb takes", BAD_FLAG)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ffi::OsString;

    use super::*;
    use crate::verbs::VERBS;

    fn line(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn every_command_is_sound() {
        let mut names = BTreeSet::new();
        for verb in VERBS {
            verb.command().debug_assert();
            assert!(names.insert(verb.name), "{} is there twice", verb.name);
            assert!(verb.about.ends_with(|c: char| c.is_alphanumeric() || c == ')'), "{}", verb.about);
            for flag in verb.all_flags().filter(|flag| !matches!(flag.kind, Kind::Later { .. })) {
                assert!(!flag.help.is_empty(), "{} --{} has no help", verb.name, flag.long);
            }
        }
    }

    #[test]
    fn every_flag_is_read() {
        for verb in VERBS {
            let words = ["alpha", "beta", "gamma"];
            let args = Args::for_test(verb, &words[..verb.words.min.max(verb.words.max.unwrap_or(1).min(1))]);
            assert!((verb.parse)(&args).is_ok(), "{}", verb.name);
            let read = args.read.borrow();
            for flag in verb.all_flags() {
                let later = matches!(flag.kind, Kind::Later { .. });
                assert!(later || read.contains(flag.long), "{} ignores --{}", verb.name, flag.long);
            }
            for name in read.iter() {
                assert!(verb.all_flags().any(|flag| flag.long == name), "{} reads unknown --{name}", verb.name);
            }
        }
    }

    #[test]
    fn flags_of_later_rooms_are_refused_by_name() {
        for verb in VERBS {
            for flag in verb.all_flags() {
                let Kind::Later { value, with } = flag.kind else { continue };
                let said = format!("--{}", flag.long);
                let mut words = vec![said.as_str()];
                if value {
                    words.push("8080:80");
                }
                words.extend(["alpha", "beta"].iter().take(verb.words.min));
                match verb.read(line(&words)) {
                    Err(Failure::Line { message, hint, code: BAD_FLAG }) => {
                        assert_eq!(message, format!("--{} is not available yet", flag.long));
                        assert!(hint.contains(with), "{hint}");
                    }
                    _ => panic!("{} --{} is not refused", verb.name, flag.long),
                }
            }
        }
    }

    #[test]
    fn flags_end_where_the_containers_command_begins() {
        let run = VERBS.iter().find(|verb| verb.name == "run").expect("there");
        let args = Args::for_test(run, &["-it", "--rm", "-eA=b", "--env", "-c", "busybox", "sh", "-c", "--rm", "-x"]);
        assert!(args.on("interactive") && args.on("tty") && args.on("rm"));
        assert_eq!(args.list("env"), ["A=b", "-c"]);
        assert_eq!(args.word_list(), ["busybox", "sh", "-c", "--rm", "-x"]);
    }

    #[test]
    fn switches_take_true_and_false_and_the_last_value_counts() {
        let run = VERBS.iter().find(|verb| verb.name == "run").expect("there");
        let args = Args::for_test(run, &["--rm=false", "--sig-proxy=0", "--name=a", "--name", "b", "-d", "i"]);
        assert_eq!(
            (args.switch("rm"), args.switch("sig-proxy"), args.switch("init")),
            (Some(false), Some(false), None)
        );
        assert_eq!(args.one("name"), Some("b"));
        assert!(args.on("detach"));
    }

    #[test]
    fn wrong_lines_are_told_in_one_sentence() {
        for (words, part) in [
            (vec!["run"], "at least one argument"),
            (vec!["run", "--bogus", "img"], "--bogus"),
            (vec!["run", "--rm=maybe", "img"], "maybe"),
            (vec!["run", "-m", "12q", "img"], "--memory"),
            (vec!["version", "x"], "no arguments"),
            (vec!["tag", "x"], "takes 2 arguments"),
        ] {
            let verb = VERBS.iter().find(|verb| verb.name == words[0]).expect("there");
            match verb.read(line(&words[1..])) {
                Err(Failure::Line { message, .. }) => {
                    assert!(message.contains(part) && !message.contains('\n'), "{message}");
                }
                _ => panic!("{words:?} is taken"),
            }
        }
    }
}
