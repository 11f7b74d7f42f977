//! What ends the program, and where it is said: standard error, and the log that the caller named.

use std::io::Write as _;
use std::path::Path;

use super::arguments::Flags;

/// A sentence with its causes, on one line.
#[derive(Debug)]
pub(super) struct Failure {
    sentence: String,
    /// The exit code.
    pub(super) code: i32,
}

impl Failure {
    pub(super) fn new(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), code: 1 }
    }

    /// The same failure under another exit code.
    pub(super) fn with_code(mut self, code: i32) -> Self {
        self.code = code;
        self
    }

    /// The same failure, said in a wider context.
    pub(super) fn within(mut self, context: &str) -> Self {
        self.sentence = format!("{context}: {}", self.sentence);
        self
    }

    /// Says it on standard error and in the log. A log that cannot be written is said on standard error as well.
    pub(super) fn report(&self, global: &Flags) {
        let mut stderr = std::io::stderr().lock();
        // Standard error is the last resort: a failure to write there has nowhere to go.
        let _ = writeln!(stderr, "lighter-runtime: {}", self.sentence);
        log(global, "error", &self.sentence, &mut stderr);
    }
}

/// Says what went wrong and was got over: on standard error, and in the log.
pub(super) fn warn(global: &Flags, sentence: &str) {
    let mut stderr = std::io::stderr().lock();
    // As for failures: standard error is the last resort.
    let _ = writeln!(stderr, "lighter-runtime: warning: {sentence}");
    log(global, "warning", sentence, &mut stderr);
}

/// Appends to the log that the caller named. A log that cannot be written is said on standard error.
fn log(global: &Flags, level: &str, sentence: &str, stderr: &mut impl std::io::Write) {
    if let Some(path) = global.get("log").filter(|path| !path.is_empty())
        && let Err(error) = append(Path::new(path), &line(global.get("log-format"), level, sentence))
    {
        let _ = writeln!(stderr, "lighter-runtime: cannot write the log {path}: {error}");
    }
}

/// One line of the log: as logrus writes JSON and text, which containerd, Docker and Podman read back.
fn line(format: Option<&str>, level: &str, sentence: &str) -> String {
    let time = jiff::Timestamp::now().to_string();
    if format == Some("json") {
        format!("{}\n", serde_json::json!({"level": level, "msg": sentence, "time": time}))
    } else {
        format!("time={time:?} level={level} msg={sentence:?}\n")
    }
}

/// Opens the log that the caller named: one that cannot be written is refused before anything is done, as by runc and
/// crun, and whoever reads it afterwards finds it there.
pub(super) fn open_log(global: &Flags) -> Result<(), Failure> {
    let Some(path) = global.get("log").filter(|path| !path.is_empty()) else { return Ok(()) };
    append(Path::new(path), "").map_err(|error| Failure::new(format!("cannot write the log {path}: {error}")))
}

fn append(path: &Path, line: &str) -> std::io::Result<()> {
    std::fs::OpenOptions::new().append(true).create(true).open(path)?.write_all(line.as_bytes())
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl From<String> for Failure {
    fn from(sentence: String) -> Self {
        Self::new(sentence)
    }
}

impl From<runtime::Error> for Failure {
    fn from(error: runtime::Error) -> Self {
        match error.cause() {
            Some(cause) => Self::new(format!("{error}: {cause}")),
            None => Self::new(error.to_string()),
        }
    }
}

impl From<runtime::cgroup::Error> for Failure {
    fn from(error: runtime::cgroup::Error) -> Self {
        Self::new(error.to_string())
    }
}

impl From<runtime::systemd::Error> for Failure {
    fn from(error: runtime::systemd::Error) -> Self {
        Self::new(error.to_string())
    }
}

impl From<sys::Error> for Failure {
    fn from(error: sys::Error) -> Self {
        Self::new(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_are_what_callers_parse() {
        let json: serde_json::Value = serde_json::from_str(&line(Some("json"), "error", "a \"b\"")).expect("JSON");
        assert_eq!((&json["level"], &json["msg"]), (&"error".into(), &"a \"b\"".into()));
        assert!(json["time"].as_str().expect("text").ends_with('Z'));
        assert!(line(None, "error", "a \"b\"").ends_with("level=error msg=\"a \\\"b\\\"\"\n"));
    }

    #[test]
    fn causes_follow_the_sentence() {
        let cause = sys::Error::new("open", "/x", sys::Errno::ACCESS);
        let failure = Failure::from(runtime::Error::system("cannot begin", cause)).within("create");
        assert_eq!(failure.sentence, "create: cannot begin: open /x: Permission denied");
    }
}
