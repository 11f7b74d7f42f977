//! How a command fails: the table of exit codes, and the one place that prints an error.

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};

use engine::ErrorKind;

use crate::format::escape;

/// Why a command did not do what was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line is wrong.
    Usage {
        /// What is wrong with it.
        message: String,
        /// What to write instead.
        hint: Option<String>,
    },
    /// The words of the command line cannot be read: an unknown flag, a value that is none, too few words.
    Line {
        /// What is wrong.
        message: String,
        /// What to write instead.
        hint: String,
        /// Exit code, whatever the verb.
        code: u8,
    },
    /// The engine refused or failed.
    Engine(engine::Error),
    /// A file or stream of the caller failed.
    Io {
        /// What was being done.
        doing: String,
        /// The failure.
        error: io::Error,
    },
}

/// The result of a step of a command.
pub(crate) type Outcome<T> = Result<T, Failure>;

/// Which column of the table of exit codes a verb uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Verbs that run a process and hand on its code: failures of their own are 125 to 127.
    Process,
    /// All others: 1.
    Plain,
}

impl Failure {
    /// A wrong command line.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: None }
    }

    /// A wrong command line, and what to write instead.
    pub(crate) fn usage_hint(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: Some(hint.into()) }
    }

    /// A command line that cannot be read.
    pub(crate) fn line(message: impl Into<String>, hint: impl Into<String>, code: u8) -> Self {
        Self::Line { message: message.into(), hint: hint.into(), code }
    }

    /// `error` happened while `doing`.
    pub(crate) fn io(doing: impl Into<String>, error: impl Into<io::Error>) -> Self {
        Self::Io { doing: doing.into(), error: error.into() }
    }

    /// The exit code for a verb of `class`.
    pub(crate) fn code(&self, class: Class) -> u8 {
        match (self, class) {
            (Self::Engine(error), _) => engine_code(error.kind(), class),
            (Self::Line { code, .. }, _) => *code,
            // Whoever reads our output went away: as if SIGPIPE had ended us.
            (Self::Io { error, .. }, _) if error.kind() == io::ErrorKind::BrokenPipe => 141,
            (Self::Usage { .. } | Self::Io { .. }, Class::Process) => 125,
            (Self::Usage { .. } | Self::Io { .. }, Class::Plain) => 1,
        }
    }

    /// Prints `Error:`, `Caused by:` and `Hint:` on standard error, once; a broken pipe says nothing.
    pub(crate) fn report(&self) {
        if let Self::Io { error, .. } = self
            && error.kind() == io::ErrorKind::BrokenPipe
        {
            return;
        }
        let stderr = io::stderr();
        let colour = stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let text = self.render(colour);
        // Standard error is the last resort: a failure to write there has nowhere to go.
        let _ = stderr.lock().write_all(text.as_bytes());
    }

    /// The text of [`report`](Self::report).
    pub(crate) fn render(&self, colour: bool) -> String {
        let (message, causes) = match self {
            Self::Usage { message, .. } | Self::Line { message, .. } => (message.clone(), Vec::new()),
            Self::Engine(error) => (error.to_string(), causes(error)),
            Self::Io { doing, error } => (doing.clone(), vec![sentence(error)]),
        };
        let paint = |label: &str, code: &str| if colour { format!("\x1b[{code}m{label}\x1b[0m") } else { label.into() };
        let mut text = String::new();
        let _ = writeln!(text, "{} {}", paint("Error:", "1;31"), escape::lines(&message));
        for cause in causes {
            let _ = writeln!(text, "{} {}", paint("Caused by:", "1"), escape::lines(&cause));
        }
        let _ = writeln!(text, "{} {}", paint("Hint:", "1;36"), escape::lines(self.hint()));
        text
    }

    /// What to do about it: the failure's own words where it has some, its kind's otherwise.
    fn hint(&self) -> &str {
        match self {
            Self::Usage { hint, .. } => hint.as_deref().unwrap_or("lighter VERB --help tells what a verb takes"),
            Self::Line { hint, .. } => hint,
            Self::Engine(error) => error.hint_text().unwrap_or_else(|| engine_hint(error.kind())),
            Self::Io { .. } => "see that the file or stream is there and may be used",
        }
    }
}

impl From<engine::Error> for Failure {
    fn from(error: engine::Error) -> Self {
        Self::Engine(error)
    }
}

/// The table of exit codes: what the engine says, per class of verb.
fn engine_code(kind: ErrorKind, class: Class) -> u8 {
    match class {
        Class::Plain => 1,
        Class::Process => match kind {
            ErrorKind::CommandNotFound => 127,
            ErrorKind::CommandNotExecutable => 126,
            ErrorKind::Invalid
            | ErrorKind::NoSuchContainer
            | ErrorKind::NoSuchImage
            | ErrorKind::NoSuchVolume
            | ErrorKind::Conflict
            | ErrorKind::Unsupported
            | ErrorKind::Registry
            | ErrorKind::BadImage
            | ErrorKind::NoSpace
            | ErrorKind::Damaged
            | ErrorKind::System => 125,
        },
    }
}

/// The table of hints, for errors that bring none of their own.
fn engine_hint(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Invalid => "lighter VERB --help tells what a verb takes",
        ErrorKind::NoSuchContainer => "lighter ps -a lists the containers that are here",
        ErrorKind::NoSuchVolume => "lighter volume ls lists the volumes that are here",
        ErrorKind::NoSuchImage => {
            "lighter images lists the images that are here; lighter pull, load and import bring more"
        }
        ErrorKind::Conflict => "lighter ps -a shows names and states; lighter stop or lighter rm makes way",
        ErrorKind::CommandNotFound => "see that the command, and the interpreter or loader it names, are in the image",
        ErrorKind::CommandNotExecutable => {
            "see that the command is a program for this machine with its execute permission set"
        }
        ErrorKind::Unsupported => "lighter info shows what this host offers",
        ErrorKind::Registry => "see that the name is right and the registry can be reached, then try again",
        ErrorKind::BadImage => "get or make the image again; nothing of this one was kept",
        ErrorKind::NoSpace => "free some space: lighter rm and lighter rmi remove what is not needed",
        ErrorKind::Damaged => "lighter rm -f or lighter rmi removes what is damaged; everything else still works",
        ErrorKind::System => "the kernel refused; lighter info shows what this host offers",
    }
}

/// The chain below an error, outermost first; a link that only repeats the one above is left out.
fn causes(error: &dyn StdError) -> Vec<String> {
    let mut seen = error.to_string();
    let mut list = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !seen.contains(&text) {
            list.push(text.clone());
        }
        seen = text;
        next = cause.source();
    }
    list
}

/// std's sentence without its trailing number.
fn sentence(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [ErrorKind; 13] = [
        ErrorKind::Invalid,
        ErrorKind::NoSuchContainer,
        ErrorKind::NoSuchImage,
        ErrorKind::NoSuchVolume,
        ErrorKind::Conflict,
        ErrorKind::CommandNotFound,
        ErrorKind::CommandNotExecutable,
        ErrorKind::Unsupported,
        ErrorKind::Registry,
        ErrorKind::BadImage,
        ErrorKind::NoSpace,
        ErrorKind::Damaged,
        ErrorKind::System,
    ];

    #[test]
    fn codes_follow_the_table() {
        for kind in KINDS {
            let failure = Failure::from(engine::Error::new(kind, "x"));
            assert_eq!(failure.code(Class::Plain), 1, "{kind:?}");
            let expected = match kind {
                ErrorKind::CommandNotFound => 127,
                ErrorKind::CommandNotExecutable => 126,
                _ => 125,
            };
            assert_eq!(failure.code(Class::Process), expected, "{kind:?}");
        }
        assert_eq!(Failure::usage("x").code(Class::Process), 125);
        assert_eq!(Failure::usage("x").code(Class::Plain), 1);
        for class in [Class::Plain, Class::Process] {
            assert_eq!(Failure::line("x", "y", 125).code(class), 125);
        }
        let gone = Failure::io("write", io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(gone.code(Class::Plain), 141);
    }

    #[test]
    fn errors_are_told_once_with_cause_and_hint() {
        let error = engine::Error::new(ErrorKind::NoSuchImage, "no such image: a\x1b[2Jb")
            .because(io::Error::other("cause"))
            .hint("lighter pull a");
        let text = Failure::from(error).render(false);
        assert_eq!(text, "Error: no such image: a\\x1b[2Jb\nCaused by: cause\nHint: lighter pull a\n");
        assert!(Failure::usage("x").render(true).starts_with("\x1b[1;31mError:\x1b[0m x"));
        for kind in KINDS {
            let text = Failure::from(engine::Error::new(kind, "x")).render(false);
            assert!(text.lines().last().is_some_and(|line| line.len() > "Hint: ".len()), "{text}");
        }
    }
}
