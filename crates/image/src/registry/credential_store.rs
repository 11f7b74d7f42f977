//! Credential helpers: programs called `docker-credential-NAME` that keep logins in a system's own store.
//!
//! The protocol is one word (`get`, `store`, `erase`), one document on standard input, one on standard output.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Login, Secret};
use crate::content::read_bounded;
use crate::{Error, Result};

/// Largest answer read, in bytes.
const ANSWER_MAX: u64 = 1 << 20;
/// A helper may ask its user for a passphrase.
const DEADLINE: Duration = Duration::from_secs(120);
const TICK: Duration = Duration::from_millis(5);
/// What helpers say when they have no login; part of their protocol.
const NOT_FOUND: &str = "credentials not found in native keychain";
/// A user name that says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// The helper that docker's configuration calls `name`.
#[derive(Clone, Debug)]
pub(super) struct Helper {
    program: String,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(rename = "ServerURL", default)]
    server_url: String,
    username: String,
    secret: String,
}

impl Helper {
    /// # Errors
    /// A name that could be anything else than the end of a program's name.
    pub(super) fn new(name: &str) -> Result<Self> {
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
            return Err(Error::malformed(
                "docker's config.json",
                format!("{name:?} is no name of a credential helper"),
            ));
        }
        Ok(Self { program: format!("docker-credential-{name}") })
    }

    /// The login for `server`, if there is one. A helper that is not installed has none.
    ///
    /// # Errors
    /// The helper fails, or answers with something else.
    pub(super) fn get(&self, server: &str) -> Result<Option<Login>> {
        let Some(answer) = self.run("get", server.as_bytes())? else { return Ok(None) };
        let entry: Entry = match (answer.success, serde_json::from_slice(&answer.output)) {
            (false, _) if answer.words().contains(NOT_FOUND) => return Ok(None),
            (false, _) => return Err(self.failed(&answer.words())),
            (true, Ok(entry)) => entry,
            // The reason is not repeated: it could quote a password.
            (true, Err(_)) => return Err(self.failed("its answer is not what helpers say")),
        };
        if entry.username == TOKEN_USER {
            return Ok(Some(Login { username: String::new(), secret: Secret::IdentityToken(entry.secret) }));
        }
        Ok(Some(Login { username: entry.username, secret: Secret::Password(entry.secret) }))
    }

    /// Keeps `login` for `server`.
    ///
    /// # Errors
    /// The helper is not installed, or fails.
    pub(super) fn store(&self, server: &str, login: &Login) -> Result<()> {
        let (username, secret) = match &login.secret {
            Secret::Password(password) => (login.username.as_str(), password),
            Secret::IdentityToken(token) | Secret::RegistryToken(token) => (TOKEN_USER, token),
        };
        let entry = Entry { server_url: server.to_owned(), username: username.to_owned(), secret: secret.clone() };
        let input = serde_json::to_vec(&entry).map_err(|_| self.failed("the login cannot be written"))?;
        self.demand("store", &input)
    }

    /// Forgets the login for `server`.
    ///
    /// # Errors
    /// The helper is not installed, or fails.
    pub(super) fn erase(&self, server: &str) -> Result<()> {
        self.demand("erase", server.as_bytes())
    }

    fn demand(&self, word: &str, input: &[u8]) -> Result<()> {
        match self.run(word, input)? {
            None => Err(self.failed("it is not installed")),
            Some(answer) if answer.success || answer.words().contains(NOT_FOUND) => Ok(()),
            Some(answer) => Err(self.failed(&answer.words())),
        }
    }

    fn failed(&self, reason: &str) -> Error {
        Error::Helper { program: self.program.clone(), reason: reason.to_owned() }
    }

    /// Runs the helper to its end; `None` when there is no such program.
    fn run(&self, word: &str, input: &[u8]) -> Result<Option<Answer>> {
        let mut command = Command::new(&self.program);
        command.arg(word).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed(&error.to_string())),
        };
        let (sender, receiver) = channel();
        let until = Instant::now() + DEADLINE;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let input = input.to_vec();
        // On a thread of its own, which is left behind when something the helper started keeps the pipe open.
        std::thread::spawn(move || {
            if let Some(mut stdin) = stdin {
                // A helper may know enough without reading all of it.
                let _ = stdin.write_all(&input);
            }
            let read = stdout.map(|mut stdout| read_bounded(&mut stdout as &mut dyn Read, ANSWER_MAX, "helper"));
            // Nobody waits any more after the deadline.
            let _ = sender.send(read.unwrap_or_else(|| Ok(Vec::new())));
        });
        let output = match receiver.recv_timeout(DEADLINE) {
            Ok(output) => output,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Err(self.failed("it does not end")),
        };
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break Some(status),
                Ok(None) if output.is_ok() && Instant::now() < until => std::thread::sleep(TICK),
                _ => break None,
            }
        };
        if status.is_none() {
            // It ends by itself or by this; its code does not matter any more.
            let _ = child.kill();
            let _ = child.wait();
        }
        let success = status.ok_or_else(|| self.failed("it does not end"))?.success();
        Ok(Some(Answer { success, output: output? }))
    }
}

struct Answer {
    success: bool,
    output: Vec<u8>,
}

impl Answer {
    /// What a failed helper says, fit to be printed. (A helper that succeeds says secrets.)
    fn words(&self) -> String {
        let text = String::from_utf8_lossy(&self.output);
        text.trim().chars().filter(|c| !c.is_control()).take(400).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ends_of_program_names() {
        for bad in ["", "../x", "a/b", "a b", "a\0"] {
            assert!(Helper::new(bad).is_err(), "{bad:?}");
        }
        let absent = Helper::new("no-such-helper.here").expect("a name");
        assert!(absent.get("reg.example").expect("no login").is_none());
        let login = Login { username: "u".to_owned(), secret: Secret::Password("p".to_owned()) };
        assert!(absent.store("reg.example", &login).expect_err("absent").to_string().contains("not installed"));
    }
}
