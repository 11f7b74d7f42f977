//! Flags as runc's callers write them: one dash or two, `--flag value` or `--flag=value`.

use std::path::PathBuf;

/// Flags before the command.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Global {
    /// `--root`: where running containers are registered.
    pub(crate) root: Option<PathBuf>,
}

/// `run`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Run {
    /// `--bundle`, `-b`.
    pub(crate) bundle: Option<PathBuf>,
    /// `--pid-file`.
    pub(crate) pid_file: Option<PathBuf>,
    /// The container's id.
    pub(crate) id: String,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// `--version`.
    Version,
    /// `run`.
    Run(Run),
    /// A command of the interface that is not there yet.
    Later(String),
}

const LATER: [&str; 17] = [
    "checkpoint",
    "create",
    "delete",
    "events",
    "exec",
    "features",
    "kill",
    "list",
    "mounts",
    "pause",
    "ps",
    "restore",
    "resume",
    "spec",
    "start",
    "state",
    "update",
];

pub(crate) fn parse(args: &[String]) -> Result<(Global, Command), String> {
    let mut args = args.iter();
    let mut global = Global::default();
    while let Some(argument) = args.next() {
        let Some((name, value)) = flag(argument) else {
            return command(argument, args).map(|command| (global, command));
        };
        match name {
            "version" | "v" => return Ok((global, Command::Version)),
            "root" => global.root = Some(PathBuf::from(needed(name, value, &mut args)?)),
            "debug" => {}
            other => return Err(format!("the global flag --{other} is not known or not available yet")),
        }
    }
    Err("no command given: lighter-runtime [--root DIR] run [--bundle DIR] [--pid-file FILE] ID".to_owned())
}

fn command<'a>(name: &str, mut args: impl Iterator<Item = &'a String>) -> Result<Command, String> {
    if LATER.contains(&name) {
        return Ok(Command::Later(name.to_owned()));
    }
    if name != "run" {
        return Err(format!("unknown command {name:?}"));
    }
    let mut run = Run::default();
    let mut ids = Vec::new();
    while let Some(argument) = args.next() {
        match flag(argument) {
            Some(("bundle" | "b", value)) => run.bundle = Some(PathBuf::from(needed("bundle", value, &mut args)?)),
            Some(("pid-file", value)) => run.pid_file = Some(PathBuf::from(needed("pid-file", value, &mut args)?)),
            Some((other, _)) => return Err(format!("run: the flag --{other} is not known or not available yet")),
            None => ids.push(argument),
        }
    }
    match ids[..] {
        [id] if is_id(id) => Ok(Command::Run(Run { id: id.clone(), ..run })),
        [id] => Err(format!("invalid container id {id:?}: letters, digits and _+-. are allowed, 1024 characters")),
        _ => Err("run needs exactly one container id".to_owned()),
    }
}

/// runc's grammar of ids; safe as a file name.
fn is_id(id: &str) -> bool {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
    !id.is_empty() && id.len() <= 1024 && id != "." && id != ".." && id.bytes().all(valid)
}

fn flag(argument: &str) -> Option<(&str, Option<&str>)> {
    let name = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')).filter(|name| !name.is_empty())?;
    Some(match name.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (name, None),
    })
}

fn needed<'a>(name: &str, value: Option<&str>, args: &mut impl Iterator<Item = &'a String>) -> Result<String, String> {
    let value = value.map(str::to_owned).or_else(|| args.next().cloned());
    value.ok_or_else(|| format!("the flag --{name} needs a value"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str) -> Result<(Global, Command), String> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn flags_have_one_dash_or_two() {
        for line in ["--root /r run --bundle /b --pid-file /p c1", "-root=/r run -b /b -pid-file=/p c1"] {
            let (global, command) = check(line).expect(line);
            assert_eq!(global.root, Some("/r".into()));
            let expected = Run { bundle: Some("/b".into()), pid_file: Some("/p".into()), id: "c1".to_owned() };
            assert_eq!(command, Command::Run(expected));
        }
        assert_eq!(check("--version").expect("valid").1, Command::Version);
        assert_eq!(check("state c1").expect("valid").1, Command::Later("state".to_owned()));
    }

    #[test]
    fn mistakes_are_said() {
        for line in
            ["", "run", "run a b", "run ../x", "run .", "nope x", "--frob run x", "run --frob x", "run --bundle"]
        {
            assert!(check(line).is_err(), "{line:?}");
        }
    }
}
