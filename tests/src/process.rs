//! A command with a deadline: its exit code and its two streams, kept apart.

use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::wait::patient;

/// How long a command may take when the test says nothing else.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// How long after a command's exit its streams may stay open: longer means that something it left behind holds them.
const STREAMS_LINGER: Duration = Duration::from_secs(5);

/// What a finished command gave.
pub struct Output {
    /// The exit code, or 128 + n after signal n.
    pub status: i32,
    /// Standard output, all of it.
    pub stdout: Vec<u8>,
    /// Standard error, all of it.
    pub stderr: Vec<u8>,
    /// From spawn to exit.
    pub took: Duration,
    command: String,
}

impl Output {
    /// Standard output as text, without white space at its end.
    #[must_use]
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    /// Standard error as text, without white space at its end.
    #[must_use]
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim_end().to_owned()
    }

    /// Asserts success.
    ///
    /// # Panics
    /// When the exit code is not 0.
    #[track_caller]
    pub fn ok(&self) -> &Self {
        self.exits(0)
    }

    /// Asserts the exit code.
    ///
    /// # Panics
    /// When the exit code is another one.
    #[track_caller]
    pub fn exits(&self, code: i32) -> &Self {
        assert_eq!(self.status, code, "{self}");
        assert!(!self.err().contains("panicked at"), "{self}");
        self
    }

    /// Asserts a refusal as a user must see it: this exit code, one `Error:` line, a `Hint:` line, and `word`
    /// somewhere in the message (case is ignored).
    ///
    /// # Panics
    /// When any of these is missing.
    #[track_caller]
    pub fn refused(&self, code: i32, word: &str) -> &Self {
        self.exits(code).explains(word)
    }

    /// As [`Output::refused`] for verbs whose failures docker ends with 1 and run-like verbs with 125.
    ///
    /// # Panics
    /// When the exit code is neither, or the message is not whole.
    #[track_caller]
    pub fn rejected(&self, word: &str) -> &Self {
        assert!(matches!(self.status, 1 | 125), "{self}");
        self.explains(word)
    }

    /// Asserts that standard error holds exactly one error with a hint, and `word`.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn explains(&self, word: &str) -> &Self {
        let text = self.err();
        assert!(!text.contains("panicked at"), "{self}");
        assert_eq!(text.lines().filter(|line| line.starts_with("Error:")).count(), 1, "one Error: line\n{self}");
        assert!(text.lines().any(|line| line.starts_with("Hint:")), "a Hint: line\n{self}");
        assert!(text.to_lowercase().contains(&word.to_lowercase()), "mentions {word:?}\n{self}");
        self
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        match serde_json::from_slice(&self.stdout) {
            Ok(value) => value,
            Err(error) => panic!("not JSON: {error}\n{self}"),
        }
    }
}

/// The longest piece of a stream that is shown when an assertion fails.
const SHOWN: usize = 4000;

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stream = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]).into_owned();
        write!(
            f,
            "$ {}\n[exit {} after {:?}]\n--- stdout\n{}\n--- stderr\n{}",
            self.command,
            self.status,
            self.took,
            stream(&self.stdout),
            stream(&self.stderr)
        )
    }
}

/// The code a shell would give: 128 + n after signal n.
#[must_use]
pub fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// A command that is running, its streams being read.
pub struct Running {
    child: Child,
    stdout: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
    seen: Vec<u8>,
    started: Instant,
    command: String,
}

fn reader(mut stream: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        while let Ok(count) = stream.read(&mut buffer) {
            if count == 0 || send.send(buffer[..count].to_vec()).is_err() {
                break;
            }
        }
    });
    receive
}

impl Running {
    /// Starts `command` with both streams read; standard input as the command says.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn start(mut command: Command) -> Self {
        let shown = format!("{command:?}");
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{shown}: {error}"));
        let stdout = reader(child.stdout.take().expect("stdout is piped"));
        let stderr = reader(child.stderr.take().expect("stderr is piped"));
        Self { child, stdout, stderr, seen: Vec::new(), started: Instant::now(), command: shown }
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or(i32::MAX)
    }

    /// Writes to standard input, which must be piped and not yet closed.
    ///
    /// # Panics
    /// When it is not.
    pub fn write(&mut self, bytes: &[u8]) {
        let stdin = self.child.stdin.as_mut().expect("stdin is piped");
        stdin.write_all(bytes).and_then(|()| stdin.flush()).expect("the command reads its stdin");
    }

    /// Closes standard input.
    pub fn close_stdin(&mut self) {
        self.child.stdin = None;
    }

    /// Sends a signal to the command itself.
    ///
    /// # Panics
    /// When the process is gone already.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid()).expect("a child has a pid");
        rustix::process::kill_process(pid, signal).expect("the command is still there to be signalled");
    }

    /// Waits until standard output contains `text`.
    ///
    /// # Panics
    /// When that does not happen within `limit`.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str, limit: Duration) {
        let limit = patient(limit);
        let end = Instant::now() + limit;
        while !String::from_utf8_lossy(&self.seen).contains(text) {
            let left = end.saturating_duration_since(Instant::now());
            match self.stdout.recv_timeout(left) {
                Ok(bytes) => self.seen.extend(bytes),
                Err(_) => panic!(
                    "{text:?} was not printed within {limit:?}\n$ {}\n--- stdout\n{}\n--- stderr\n{}",
                    self.command,
                    String::from_utf8_lossy(&self.seen),
                    String::from_utf8_lossy(&drain(&self.stderr, Duration::from_millis(100)).0)
                ),
            }
        }
    }

    /// Whether the command has ended.
    ///
    /// # Panics
    /// When the kernel does not know the child any more.
    pub fn ended(&mut self) -> bool {
        self.child.try_wait().expect("wait for a child").is_some()
    }

    /// Waits for the end; kills the command at the deadline.
    ///
    /// # Panics
    /// When the deadline passes, or when something still holds the streams open seconds after the exit.
    #[track_caller]
    pub fn finish(mut self, deadline: Duration) -> Output {
        let deadline = patient(deadline);
        self.child.stdin = None;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("wait for a child") {
                break status;
            }
            // Readers run beside this loop, so a command that prints a lot is not held up by it.
            if self.started.elapsed() > deadline {
                drop(self.child.kill());
                drop(self.child.wait());
                let out = drain(&self.stdout, Duration::from_millis(200)).0;
                let err = drain(&self.stderr, Duration::from_millis(200)).0;
                panic!(
                    "not done after {deadline:?}\n$ {}\n--- stdout\n{}\n--- stderr\n{}",
                    self.command,
                    String::from_utf8_lossy(&out[..out.len().min(SHOWN)]),
                    String::from_utf8_lossy(&err[..err.len().min(SHOWN)])
                );
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        let took = self.started.elapsed();
        let (rest, out_closed) = drain(&self.stdout, patient(STREAMS_LINGER));
        let (stderr, err_closed) = drain(&self.stderr, patient(STREAMS_LINGER));
        let mut stdout = std::mem::take(&mut self.seen);
        stdout.extend(rest);
        let output = Output { status: code(status), stdout, stderr, took, command: self.command.clone() };
        assert!(out_closed && err_closed, "something still holds the command's streams open\n{output}");
        output
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// Reads until the stream closes or nothing came for `limit`; says whether it closed.
fn drain(stream: &Receiver<Vec<u8>>, limit: Duration) -> (Vec<u8>, bool) {
    let mut all = Vec::new();
    loop {
        match stream.recv_timeout(limit) {
            Ok(bytes) => all.extend(bytes),
            Err(RecvTimeoutError::Disconnected) => return (all, true),
            Err(RecvTimeoutError::Timeout) => return (all, false),
        }
    }
}

/// Runs `command` to its end with `input` on standard input (none: an empty stream).
///
/// # Panics
/// As [`Running::finish`].
#[track_caller]
pub fn run(mut command: Command, input: Option<&[u8]>, deadline: Duration) -> Output {
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut running = Running::start(command);
    if let Some(bytes) = input {
        let bytes = bytes.to_vec();
        let mut stdin = running.child.stdin.take().expect("stdin is piped");
        // A command that ends without reading its input is no failure of this writer: its exit code tells.
        std::thread::spawn(move || drop(stdin.write_all(&bytes)));
    }
    running.finish(deadline)
}

/// Runs a program of this machine and gives its standard output.
///
/// # Panics
/// When it fails: the message holds both of its streams.
#[track_caller]
pub fn tool(program: &str, args: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(args);
    run(command, None, Duration::from_secs(300)).ok().out()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn keeps_streams_apart_and_gives_the_code() {
        let output = run(sh("cat; echo err >&2; exit 7"), Some(b"in"), DEADLINE);
        output.exits(7);
        assert_eq!((output.out().as_str(), output.err().as_str()), ("in", "err"));
        assert_eq!(run(sh("kill -9 $$"), None, DEADLINE).status, 137);
    }

    #[test]
    fn knows_a_whole_refusal() {
        let good = "echo 'Error: no such image: x' >&2; echo 'Hint: pull it' >&2; exit 125";
        run(sh(good), None, DEADLINE).refused(125, "No Such Image");
        let bare = run(sh("echo 'Error: x' >&2; exit 125"), None, DEADLINE);
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(bare.refused(125, "x").out()))).is_err());
    }

    #[test]
    #[should_panic(expected = "not done after")]
    fn ends_a_command_that_hangs() {
        run(sh("exec sleep 100"), None, Duration::from_millis(100));
    }
}
