//! `login` and `logout`.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};

use engine::{Engine, LoginKept};
use oci::reference::DEFAULT_DOMAIN;

use crate::failure::{Failure, Outcome};
use crate::flags::{Args, Job};
use crate::output;
use crate::ui::terminal::Raw;

/// Most bytes of a name or password.
const LINE_MAX: u64 = 64 << 10;
/// How docker shows its own registry.
const DOCKER_SHOWN: &str = "https://index.docker.io/v1/";

/// Host and port of what people call a registry: a host, or a URL.
fn registry(said: &str) -> String {
    let rest = said.strip_prefix("https://").or_else(|| said.strip_prefix("http://")).unwrap_or(said);
    match rest.split('/').next().unwrap_or_default() {
        "" | "index.docker.io" | "registry-1.docker.io" => DEFAULT_DOMAIN.to_owned(),
        host => host.to_ascii_lowercase(),
    }
}

fn shown(registry: &str) -> &str {
    if registry == DEFAULT_DOMAIN { DOCKER_SHOWN } else { registry }
}

/// Where a password comes from.
enum Source {
    Ask,
    Said(String),
    Stdin,
}

/// Reads `login`'s flags.
///
/// # Errors
/// Flags that exclude each other.
pub(crate) fn parse_login(args: &Args) -> Outcome<Job> {
    let registry = registry(args.word(0));
    let username = args.owned("username").filter(|name| !name.is_empty());
    let source = match (args.owned("password"), args.on("password-stdin")) {
        (Some(_), true) => return Err(Failure::usage("--password and --password-stdin are mutually exclusive")),
        (Some(password), false) if !password.is_empty() => Source::Said(password),
        (None, true) if username.is_none() => {
            return Err(Failure::usage("Must provide --username with --password-stdin"));
        }
        (None, true) => Source::Stdin,
        (None | Some(_), false) => Source::Ask,
    };
    Ok(Box::new(move |app| {
        let engine = app.engine()?;
        if username.is_none() && matches!(source, Source::Ask) && again(&engine, &registry)? {
            return Ok(0);
        }
        let password = match &source {
            Source::Said(password) => {
                output::warning("--password on the command line is seen by others: use --password-stdin");
                Some(password.clone())
            }
            Source::Stdin => Some(from_stdin()?),
            Source::Ask => None,
        };
        let username = username.map_or_else(|| ask("Username: "), Ok)?;
        let password = password.map_or_else(ask_secretly, Ok)?;
        if username.is_empty() || password.is_empty() {
            return Err(Failure::usage("a login needs a user name and a password"));
        }
        if let LoginKept::File(path) = engine.login(&registry, &username, &password)? {
            output::warning(&format!(
                "your credentials are stored unencrypted in {}; a credential helper (credsStore) keeps them better",
                path.display()
            ));
        }
        output::line("Login Succeeded")?;
        Ok(0)
    }))
}

/// Tries the login that is kept already; false when there is none, or it is not accepted and a person can be asked.
fn again(engine: &Engine, registry: &str) -> Outcome<bool> {
    let Some(name) = engine.login_name(registry)? else { return Ok(false) };
    output::line(&format!("Authenticating with existing credentials... [Username: {name}]"))?;
    match engine.check_login(registry) {
        Ok(()) => output::line("Login Succeeded").map(|()| true),
        Err(error) if io::stdin().is_terminal() => {
            Failure::from(error).report();
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

fn from_stdin() -> Outcome<String> {
    let mut text = String::new();
    let read = io::stdin().lock().take(LINE_MAX).read_to_string(&mut text);
    read.map_err(|error| Failure::io("cannot read the password", error))?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

fn prompt(text: &str) -> Outcome<()> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage_hint(
            "cannot ask for a login: standard input is no terminal",
            "lighter login -u NAME --password-stdin < FILE",
        ));
    }
    output::bytes(text.as_bytes())
}

fn ask(text: &str) -> Outcome<String> {
    prompt(text)?;
    let mut line = String::new();
    let read = io::stdin().lock().take(LINE_MAX).read_line(&mut line);
    read.map_err(|error| Failure::io("cannot read from the terminal", error))?;
    Ok(line.trim().to_owned())
}

/// A line from the terminal that is not shown.
fn ask_secretly() -> Outcome<String> {
    prompt("Password: ")?;
    let mut bytes = Vec::new();
    let raw = Raw::enter()?;
    for byte in io::stdin().lock().take(LINE_MAX).bytes() {
        match byte.map_err(|error| Failure::io("cannot read from the terminal", error))? {
            b'\r' | b'\n' | 4 => break,
            3 => {
                drop(raw);
                output::bytes(b"\n")?;
                return Err(Failure::usage("the login was cancelled"));
            }
            // Backspace takes a whole character.
            8 | 127 => while bytes.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {},
            21 => bytes.clear(),
            byte => bytes.push(byte),
        }
    }
    drop(raw);
    // The terminal shows none of it, not even the end of the line.
    let _ = io::stdout().lock().write_all(b"\n");
    String::from_utf8(bytes).map_err(|_| Failure::usage("the password is not UTF-8"))
}

/// Reads `logout`'s word.
///
/// # Errors
/// None.
pub(crate) fn parse_logout(args: &Args) -> Outcome<Job> {
    let registry = registry(args.word(0));
    Ok(Box::new(move |app| {
        let was_there = app.engine()?.logout(&registry)?;
        let words = if was_there { "Removing login credentials for" } else { "Not logged in to" };
        output::line(&format!("{words} {}", shown(&registry)))?;
        Ok(0)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::testing;

    #[test]
    fn registries_are_hosts() {
        for (said, expected) in [
            ("", "docker.io"),
            ("docker.io", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("http://Reg.example:5000/v2/", "reg.example:5000"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(registry(said), expected, "{said}");
        }
        assert_eq!(shown("docker.io"), DOCKER_SHOWN);
    }

    #[test]
    fn flags_that_exclude_each_other_are_refused() {
        assert!(parse_login(&testing::args("login", &["--password-stdin"])).is_err());
        assert!(parse_login(&testing::args("login", &["-u", "a", "-p", "b", "--password-stdin"])).is_err());
        assert!(parse_login(&testing::args("login", &["-u", "a", "--password-stdin", "reg.example"])).is_ok());
    }
}
