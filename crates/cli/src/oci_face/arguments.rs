//! Flags as runc's and crun's callers write them: one dash or two, `--flag value` or `--flag=value`, before or after
//! the container's id.

/// How a flag is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Alone, or with `=true` or `=false`.
    Switch,
    /// With a value, the last of which counts.
    Value,
}

/// A flag: its name, its one-letter name (or nothing), its kind.
type Flag = (&'static str, &'static str, Kind);

use Kind::{Switch, Value};

const GLOBAL: &[Flag] = &[
    ("root", "", Value),
    ("log", "", Value),
    ("log-format", "", Value),
    ("log-level", "", Value),
    ("cgroup-manager", "", Value),
    ("rootless", "", Value),
    ("criu", "", Value),
    ("systemd-cgroup", "", Switch),
    ("debug", "", Switch),
    ("version", "v", Switch),
    ("version", "V", Switch),
    ("help", "h", Switch),
];

/// Where a bundle is.
const BUNDLE: &[Flag] = &[("bundle", "b", Value)];

/// What is announced about a new process, and how.
const PROCESS: &[Flag] = &[("console-socket", "", Value), ("pid-file", "", Value), ("no-subreaper", "", Switch)];

/// What only a process of ours has.
const MADE: &[Flag] = &[("pidfd-socket", "", Value), ("preserve-fds", "", Value)];

/// Whether the program stays until the process ends.
const DETACH: &[Flag] = &[("detach", "d", Switch)];

/// How a first process is made.
const CREATE: &[Flag] = &[("config", "f", Value), ("no-pivot", "", Switch), ("no-new-keyring", "", Switch)];

const KEEP: &[Flag] = &[("keep", "", Switch)];

const EXEC: &[Flag] = &[
    ("process", "p", Value),
    ("cwd", "", Value),
    ("env", "e", Value),
    ("tty", "t", Switch),
    ("user", "u", Value),
    ("additional-gids", "g", Value),
    ("process-label", "", Value),
    ("apparmor", "", Value),
    ("no-new-privs", "", Switch),
    ("cap", "c", Value),
    ("cgroup", "", Value),
    ("ignore-paused", "", Switch),
];

/// What criu is told in both directions.
const CRIU: &[Flag] = &[
    ("image-path", "", Value),
    ("work-path", "", Value),
    ("tcp-established", "", Switch),
    ("ext-unix-sk", "", Switch),
    ("shell-job", "", Switch),
    ("file-locks", "", Switch),
    ("manage-cgroups-mode", "", Value),
    ("network-lock", "", Value),
    ("empty-ns", "", Value),
    ("auto-dedup", "", Switch),
    ("lazy-pages", "", Switch),
];

const CHECKPOINT: &[Flag] = &[
    ("parent-path", "", Value),
    ("leave-running", "", Switch),
    ("pre-dump", "", Switch),
    ("tcp-skip-in-flight", "", Switch),
    ("link-remap", "", Switch),
    ("page-server", "", Value),
    ("status-fd", "", Value),
];

const RESTORE: &[Flag] = &[
    ("no-pivot", "", Switch),
    ("tcp-close", "", Switch),
    ("lsm-profile", "", Value),
    ("lsm-mount-context", "", Value),
];

const UPDATE: &[Flag] = &[
    ("resources", "r", Value),
    ("blkio-weight", "", Value),
    ("cpu-period", "", Value),
    ("cpu-quota", "", Value),
    ("cpu-burst", "", Value),
    ("cpu-share", "", Value),
    ("cpu-shares", "", Value),
    ("cpu-rt-period", "", Value),
    ("cpu-rt-runtime", "", Value),
    ("cpu-idle", "", Value),
    ("cpuset-cpus", "", Value),
    ("cpuset-mems", "", Value),
    ("memory", "", Value),
    ("memory-reservation", "", Value),
    ("memory-swap", "", Value),
    ("kernel-memory", "", Value),
    ("kernel-memory-tcp", "", Value),
    ("pids-limit", "", Value),
];

const KILL: &[Flag] = &[("all", "a", Switch), ("regex", "r", Switch)];
const DELETE: &[Flag] = &[("force", "f", Switch), ("regex", "r", Switch)];
const LIST: &[Flag] = &[("format", "f", Value), ("quiet", "q", Switch)];
const PS: &[Flag] = &[("format", "f", Value)];
const EVENTS: &[Flag] = &[("stats", "", Switch), ("interval", "", Value)];
const SPEC: &[Flag] = &[("config", "f", Value), ("file", "", Value), ("rootless", "", Switch)];

/// What a command's words are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Words {
    /// None.
    Nothing,
    /// A container's id.
    Id,
    /// A container's id, and as many more as said.
    More(usize),
    /// A word of the command's own, a container's id, a file. The id is put first.
    Action,
    /// A container's id; all that follows is the container's own, flags included.
    Verbatim,
}

/// A command: its name, its flags, its words as its help shows them, and what they are.
struct Shape {
    name: &'static str,
    flags: &'static [&'static [Flag]],
    usage: &'static str,
    words: Words,
}

impl Shape {
    fn flags(&self) -> impl Iterator<Item = &'static Flag> {
        self.flags.iter().copied().flatten()
    }
}

const fn shape(name: &'static str, flags: &'static [&'static [Flag]], usage: &'static str, words: Words) -> Shape {
    Shape { name, flags, usage, words }
}

const COMMANDS: &[Shape] = &[
    shape("checkpoint", &[CRIU, CHECKPOINT], "ID", Words::Id),
    shape("create", &[BUNDLE, PROCESS, MADE, CREATE], "ID", Words::Id),
    shape("delete", &[DELETE], "ID", Words::Id),
    shape("events", &[EVENTS], "ID", Words::Id),
    shape("exec", &[PROCESS, MADE, DETACH, EXEC], "ID COMMAND [ARG...]", Words::Verbatim),
    shape("features", &[], "", Words::Nothing),
    shape("kill", &[KILL], "ID [SIGNAL]", Words::More(1)),
    shape("list", &[LIST], "", Words::Nothing),
    shape("mounts", &[], "add|remove ID FILE", Words::Action),
    shape("pause", &[], "ID", Words::Id),
    shape("ps", &[PS], "ID", Words::Verbatim),
    shape("restore", &[BUNDLE, PROCESS, DETACH, CRIU, RESTORE], "ID", Words::Id),
    shape("resume", &[], "ID", Words::Id),
    shape("run", &[BUNDLE, PROCESS, MADE, DETACH, CREATE, KEEP], "ID", Words::Id),
    shape("spec", &[BUNDLE, SPEC], "", Words::Nothing),
    shape("start", &[], "ID", Words::Id),
    shape("state", &[], "ID", Words::Id),
    shape("update", &[UPDATE], "ID", Words::Id),
];

/// Flags and words, read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Flags {
    values: Vec<(&'static str, String)>,
    /// What is no flag, the container's id first.
    pub(super) words: Vec<String>,
}

impl Flags {
    /// Whether a switch is on.
    pub(super) fn is(&self, name: &str) -> bool {
        self.get(name) == Some("true")
    }

    /// A flag's value: the last, when it was given more than once.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.values.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// All values of a flag, in order.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.values.iter().filter(move |(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// A flag's value as a number.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, String> {
        let read = |value: &str| value.parse().map_err(|_| format!("--{name}: {value:?} is not a valid number"));
        self.get(name).map(read).transpose()
    }

    /// The container's id.
    pub(super) fn id(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// `--version`.
    Version,
    /// `--help`, of the program or of the command named.
    Help(Option<&'static str>),
    /// A command with its flags.
    Run(&'static str, Flags),
}

/// Reads the flags before the command, then the command with its own. The first are given even when the rest is wrong:
/// they say where to report it.
pub(super) fn parse(args: &[String]) -> (Flags, Result<Command, String>) {
    let mut args = args.iter();
    let mut global = Flags::default();
    let name = loop {
        let Some(argument) = args.next() else { break None };
        let Some(flag) = split(argument) else { break Some(argument) };
        match read(flag, GLOBAL.iter(), &mut args) {
            Ok(read) => global.values.push(read),
            Err(error) => return (global, Err(error)),
        }
    };
    let command = if global.is("version") {
        Ok(Command::Version)
    } else if global.is("help") {
        Ok(Command::Help(None))
    } else if name.is_some_and(|name| name == "help" || name == "h") {
        match args.next() {
            None => Ok(Command::Help(None)),
            Some(name) => find(name).map(|shape| Command::Help(Some(shape.name))),
        }
    } else {
        name.map_or_else(|| Err("no command given; --help lists them".to_owned()), |name| command(name, args))
    };
    (global, command)
}

fn find(name: &str) -> Result<&'static Shape, String> {
    COMMANDS.iter().find(|shape| shape.name == name).ok_or_else(|| format!("unknown command {name:?}"))
}

fn command<'a>(name: &str, mut args: impl Iterator<Item = &'a String>) -> Result<Command, String> {
    let shape = find(name)?;
    let mut flags = Flags::default();
    while let Some(argument) = args.next() {
        if argument == "--" {
            flags.words.extend(args.by_ref().cloned());
            break;
        }
        match split(argument) {
            Some(("help" | "h" | "?" | "usage", None)) => return Ok(Command::Help(Some(shape.name))),
            Some(flag) => {
                let read = read(flag, shape.flags(), &mut args).map_err(|error| format!("{name}: {error}"))?;
                flags.values.push(read);
            }
            None => {
                flags.words.push(argument.clone());
                if shape.words == Words::Verbatim {
                    flags.words.extend(args.by_ref().cloned());
                }
            }
        }
    }
    let (fewest, most) = match shape.words {
        Words::Nothing => (0, 0),
        Words::Id => (1, 1),
        Words::Action => (3, 3),
        Words::More(more) => (1, 1 + more),
        Words::Verbatim => (1, usize::MAX),
    };
    if flags.words.len() < fewest || flags.words.len() > most {
        return Err(match most {
            0 => format!("{name} takes no argument"),
            _ if flags.words.is_empty() => format!("{name} needs a container id"),
            _ if flags.words.len() < fewest => format!("{name} needs {}", shape.usage),
            _ => format!("{name}: too many arguments: {:?}", &flags.words[most..]),
        });
    }
    if shape.words == Words::Action {
        flags.words.swap(0, 1);
    }
    if fewest > 0 && !flags.is("regex") && !is_id(flags.id()) {
        return Err(format!(
            "invalid character in container ID {:?}: letters, digits and _+-. are allowed",
            flags.id()
        ));
    }
    Ok(Command::Run(shape.name, flags))
}

/// runc's grammar of ids; safe as a file name.
pub(super) fn is_id(id: &str) -> bool {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
    !id.is_empty() && id.len() <= 255 && !id.starts_with('.') && id.bytes().all(valid)
}

fn split(argument: &str) -> Option<(&str, Option<&str>)> {
    let name = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')).filter(|name| !name.is_empty())?;
    Some(match name.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (name, None),
    })
}

fn read<'a>(
    (name, value): (&str, Option<&str>),
    mut flags: impl Iterator<Item = &'static Flag>,
    args: &mut impl Iterator<Item = &'a String>,
) -> Result<(&'static str, String), String> {
    let known = flags.find(|(long, short, _)| *long == name || (*short == name && !short.is_empty()));
    let Some((long, _, kind)) = known else { return Err(format!("the flag --{name} is not known")) };
    let value = match (kind, value) {
        (Kind::Switch, None) => "true".to_owned(),
        (Kind::Switch, Some(value @ ("true" | "false"))) => value.to_owned(),
        (Kind::Switch, Some(value)) => return Err(format!("--{long}: {value:?} is neither true nor false")),
        (Kind::Value, Some(value)) => value.to_owned(),
        (Kind::Value, None) => args.next().cloned().ok_or_else(|| format!("the flag --{long} needs a value"))?,
    };
    Ok((long, value))
}

/// What `--help` prints.
pub(super) fn help(command: Option<&str>) -> String {
    let list = |flags: &mut dyn Iterator<Item = &'static Flag>| {
        let mut text = String::new();
        for (name, short, kind) in flags {
            let short = if short.is_empty() { String::new() } else { format!(", -{short}") };
            text += &format!("  --{name}{short}{}\n", if *kind == Value { " VALUE" } else { "" });
        }
        text
    };
    match command.and_then(|name| COMMANDS.iter().find(|shape| shape.name == name)) {
        Some(shape) => {
            let line = format!("lighter-runtime [GLOBAL FLAGS] {} [FLAGS] {}", shape.name, shape.usage);
            format!("Usage: {}\n\nFlags:\n{}  --help, -h\n", line.trim_end(), list(&mut shape.flags()))
        }
        None => {
            let names: Vec<&str> = COMMANDS.iter().map(|shape| shape.name).collect();
            let names = names.join(", ");
            format!(
                "Usage: lighter-runtime [GLOBAL FLAGS] COMMAND [FLAGS] [ID]\n\nCommands: {names}\n\nGlobal flags:\n{}",
                list(&mut GLOBAL.iter())
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str) -> (Flags, Result<Command, String>) {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    fn flags(line: &str) -> (Flags, &'static str, Flags) {
        match check(line) {
            (global, Ok(Command::Run(name, flags))) => (global, name, flags),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn flags_have_one_dash_or_two() {
        for line in ["--root /r run --bundle /b --pid-file /p c1", "-root=/r run -b /b c1 -pid-file=/p"] {
            let (global, name, flags) = flags(line);
            assert_eq!((global.get("root"), name, flags.id()), (Some("/r"), "run", "c1"));
            assert_eq!((flags.get("bundle"), flags.get("pid-file")), (Some("/b"), Some("/p")));
        }
        assert_eq!(check("--version").1, Ok(Command::Version));
        assert_eq!(check("-v").1, Ok(Command::Version));
        assert_eq!(check("state --help").1, Ok(Command::Help(Some("state"))));
        // Podman asks whether a runtime can do it by this.
        assert_eq!(check("checkpoint --help").1, Ok(Command::Help(Some("checkpoint"))));
        assert_eq!(check("help restore").1, Ok(Command::Help(Some("restore"))));
        for shape in COMMANDS {
            let text = help(Some(shape.name));
            assert!(text.contains(shape.name) && shape.flags().all(|(name, ..)| text.contains(name)), "{text}");
            let mut names: Vec<&str> =
                shape.flags().flat_map(|(name, short, _)| [*name, *short]).filter(|name| !name.is_empty()).collect();
            names.sort_unstable();
            let count = names.len();
            names.dedup();
            assert_eq!(names.len(), count, "{} has a flag twice", shape.name);
        }
    }

    #[test]
    fn the_callers_lines_are_read() {
        let (global, name, given) = flags(
            "--root /run/containerd/runc/ns --log /b/log.json --log-format json create --bundle /b --pid-file /p \
             --console-socket /s --no-new-keyring --preserve-fds 2 c1",
        );
        assert_eq!(
            (name, global.get("log-format"), given.number("preserve-fds")),
            ("create", Some("json"), Ok(Some(2)))
        );
        assert!(given.is("no-new-keyring") && !given.is("no-pivot"));
        let (_, _, given) = flags("exec -d --env A=1 -e B=2 --cap CAP_KILL c1 ls -l --all");
        assert_eq!(given.all("env").collect::<Vec<_>>(), ["A=1", "B=2"]);
        assert_eq!(given.words, ["c1", "ls", "-l", "--all"]);
        assert!(given.is("detach"));
        let (_, _, given) = flags("kill -a c1 9");
        assert!(given.is("all"));
        assert_eq!(given.words, ["c1", "9"]);
        assert_eq!(flags("update --resources=- c1").2.get("resources"), Some("-"));
        assert_eq!(flags("update --memory-swap -1 c1").2.get("memory-swap"), Some("-1"));
        assert_eq!(flags("list --format=json").2.get("format"), Some("json"));
        assert!(!flags("run --detach=false c1").2.is("detach"));
        let (global, name, given) = flags(
            "--criu /c restore --image-path /i --work-path=/w --detach --pid-file /p -no-subreaper --bundle /b c1",
        );
        assert_eq!((name, global.get("criu"), given.get("image-path")), ("restore", Some("/c"), Some("/i")));
        assert!(given.is("detach") && given.is("no-subreaper") && !given.is("shell-job"));
        assert_eq!(flags("mounts add c1 f").2.words, ["c1", "add", "f"]);
        assert!(flags("kill --regex ^e2e.*$ KILL").2.is("regex"));
    }

    #[test]
    fn mistakes_are_said() {
        for line in [
            "",
            "run",
            "run a b",
            "run ../x",
            "run .",
            "run .x",
            "nope x",
            "--frob run x",
            "run --frob x",
            "run --bundle",
            "list x",
            "kill a b c",
            "run --detach=maybe x",
            "help nope",
            "kill ^a x y",
            "delete ^a",
            "mounts add c1",
            "mounts add c1 f x",
        ] {
            assert!(check(line).1.is_err(), "{line:?}");
        }
        assert_eq!(check("--log /l nope").0.get("log"), Some("/l"));
        assert!(flags("run --preserve-fds x c").2.number::<u32>("preserve-fds").is_err());
    }
}
