//! `run` and `create`.

use std::io::Write as _;

use container::client::Session;
use engine::spec::{ContainerSpec, PullPolicy, Source};
use engine::{ContainerId, CreatedContainer, Engine, ErrorKind, Progress, Quiet, RemoveOptions, StartOptions};

use crate::failure::{Failure, Outcome};
use crate::flags::{Args, Job, bad_value};
use crate::output;
use crate::parse::env::Process;
use crate::ui::keys::{DEFAULT, Detach};
use crate::ui::progress::{Lines, Shown};
use crate::ui::relay::{self, End, Plan};
use crate::ui::terminal;
use crate::verbs::App;

/// Where the container's id is written.
struct CidFile {
    path: String,
    file: std::fs::File,
}

/// The container's streams that the caller named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Streams {
    stdin: bool,
    stdout: bool,
    stderr: bool,
}

/// What `create` and `run` share.
struct Create {
    spec: ContainerSpec,
    quiet: bool,
    cidfile: Option<String>,
}

impl Create {
    fn read(args: &Args) -> Outcome<Self> {
        Ok(Self {
            spec: crate::spec::container(args, &Process)?,
            quiet: args.on("quiet"),
            cidfile: args.owned("cidfile"),
        })
    }

    fn make(self, app: &App, engine: &Engine) -> Outcome<CreatedContainer> {
        let mut spec = self.spec;
        let cidfile = self.cidfile.map(reserve).transpose()?;
        let mut quiet = self.quiet;
        let headline = match &spec.source {
            Source::Image(name) if is_hello(name) => {
                spec.env.push(format!("LIGHTER_RUN_STARTED={}", app.started));
                quiet = true;
                None
            }
            Source::Image(name) if spec.pull != PullPolicy::Always => {
                Some(format!("Unable to find image '{name}' locally"))
            }
            _ => None,
        };
        let shown = Shown::new(Lines::Stderr, headline);
        let progress: &dyn Progress = if quiet { &Quiet } else { &shown };
        let created = match engine.create(&spec, progress) {
            Ok(created) => created,
            Err(error) => {
                if let Some(cidfile) = cidfile {
                    // An empty file of ours: what matters is the error above.
                    let _ = std::fs::remove_file(&cidfile.path);
                }
                return Err(error.into());
            }
        };
        created.warnings.iter().for_each(|warning| output::warning(warning));
        if let Some(mut cidfile) = cidfile {
            let written = cidfile.file.write_all(created.id.as_str().as_bytes());
            written.map_err(|error| Failure::io(format!("cannot write {:?}", cidfile.path), error))?;
        }
        Ok(created)
    }
}

fn is_hello(name: &str) -> bool {
    let rest = name.strip_prefix(engine::hello::REFERENCE);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':') || rest.starts_with('@'))
}

fn reserve(path: String) -> Outcome<CidFile> {
    match std::fs::File::create_new(&path) {
        Ok(file) => Ok(CidFile { path, file }),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(Failure::usage_hint(
            format!("the file {path:?} for the container's id exists"),
            "another container may use it; remove the file, or name another",
        )),
        Err(error) => Err(Failure::io(format!("cannot make {path:?} for the container's id"), error)),
    }
}

/// `-a`.
fn streams(args: &Args) -> Outcome<Option<Streams>> {
    let mut streams = None;
    for name in args.many("attach") {
        let named: &mut Streams = streams.get_or_insert_default();
        match name.to_ascii_lowercase().as_str() {
            "stdin" => named.stdin = true,
            "stdout" => named.stdout = true,
            "stderr" => named.stderr = true,
            _ => return Err(bad_value("attach", name, &"expected stdin, stdout or stderr")),
        }
    }
    Ok(streams)
}

/// `--detach-keys`.
///
/// # Errors
/// Keys that do not exist.
pub(crate) fn detach_keys(args: &Args) -> Outcome<Detach> {
    Ok(match args.parsed("detach-keys", Detach::parse)? {
        Some(keys) => keys,
        None => Detach::parse(DEFAULT).map_err(Failure::usage)?,
    })
}

/// Reads `create`'s flags.
///
/// # Errors
/// What does not fit.
pub(crate) fn parse_create(args: &Args) -> Outcome<Job> {
    let create = Create::read(args)?;
    if let Some(named) = streams(args)? {
        if named.stdin && !create.spec.open_stdin {
            return Err(Failure::usage_hint("-a stdin needs an open standard input", "add -i"));
        }
        return Err(Failure::usage_hint("create attaches nothing", "use lighter start -a, or -ai, when you start it"));
    }
    Ok(Box::new(move |app| {
        let created = create.make(app, &app.engine()?)?;
        output::line(created.id.as_str())?;
        Ok(0)
    }))
}

/// Reads `run`'s flags.
///
/// # Errors
/// What does not fit.
pub(crate) fn parse_run(args: &Args) -> Outcome<Job> {
    let create = Create::read(args)?;
    let detach = args.on("detach");
    let named = streams(args)?;
    if detach && named.is_some() {
        return Err(Failure::usage("-d and -a exclude each other"));
    }
    let keys = detach_keys(args)?;
    let spec = &create.spec;
    let named = named.unwrap_or(Streams { stdin: true, stdout: true, stderr: true });
    let stdin = named.stdin && spec.open_stdin;
    let plan = Plan {
        stdin,
        stdout: named.stdout,
        stderr: named.stderr && !spec.tty,
        tty: spec.tty,
        forward_eof: stdin,
        close_stdin: stdin && !spec.tty,
        forward_signals: args.switch("sig-proxy").unwrap_or(true),
        detach: keys,
    };
    Ok(Box::new(move |app| if detach { background(create, app) } else { foreground(create, plan, app) }))
}

fn background(create: Create, app: &App) -> Outcome<u8> {
    let engine = app.engine()?;
    let auto_remove = create.spec.auto_remove;
    let created = create.make(app, &engine)?;
    engine.start_detached(&created.id).inspect_err(|_| give_up(&engine, &created.id, auto_remove))?;
    output::line(created.id.as_str())?;
    Ok(0)
}

/// The monitor ended without a word.
pub(crate) fn lost() -> Failure {
    engine::Error::new(ErrorKind::System, "the container's monitor is gone, and with it the exit code")
        .hint("lighter ps -a shows the container's state; something may have killed the monitor")
        .into()
}

/// A container that could not be started is not kept when it was to be removed anyway.
fn give_up(engine: &Engine, id: &ContainerId, auto_remove: bool) {
    if auto_remove {
        // It may be removed already; the failure to start is what is told.
        let _ = engine.remove(id, RemoveOptions { force: true, volumes: true });
    }
}

fn foreground(create: Create, mut plan: Plan, app: &App) -> Outcome<u8> {
    plan.check()?;
    let engine = app.engine()?;
    let auto_remove = create.spec.auto_remove;
    let created = create.make(app, &engine)?;
    let id = created.id;
    let stage = plan.prepare().inspect_err(|_| give_up(&engine, &id, auto_remove))?;
    let terminal_size = if plan.tty { terminal::size() } else { None };
    let mut session = engine
        .start(&id, StartOptions { terminal_size, reap_here: true })
        .inspect_err(|_| give_up(&engine, &id, auto_remove))?;
    attend(&engine, &id, &mut session, &mut plan, &stage)
}

/// Attaches to a prepared container, lets it go, and stays until it ends.
///
/// # Errors
/// It does not start, or our own streams fail.
pub(crate) fn attend(
    engine: &Engine,
    id: &ContainerId,
    session: &mut Session,
    plan: &mut Plan,
    stage: &relay::Stage,
) -> Outcome<u8> {
    let raw = stage.raw()?;
    let begun = session.attach(plan.attach()).and_then(|()| session.start());
    match begun {
        // A start that fails at once may have ended the monitor before we spoke; its last words are heard below.
        Ok(()) | Err(container::Error::MonitorGone) => {}
        Err(error) => return Err(relay::conversation(&error)),
    }
    let end = relay::session(session, plan, &stage.signals, false, || {
        // Whatever could not be repaired is found again by the next command.
        drop(engine.reconcile());
    });
    drop(raw);
    conclude(engine, id, session, end?)
}

/// Reaps when it is ours to do, and turns the end of the loop into an exit code.
///
/// # Errors
/// The container did not start or was lost; reaping failed.
pub(crate) fn conclude(engine: &Engine, id: &ContainerId, session: &Session, end: End) -> Outcome<u8> {
    let reaped = if session.must_reap() { engine.reap(id) } else { Ok(()) };
    match end {
        End::Exited(code) => {
            // The command's own code matters more than what could not be cleaned up, but both are told.
            if let Err(error) = reaped {
                Failure::from(error).report();
            }
            Ok(u8::try_from(code & 0xff).unwrap_or(u8::MAX))
        }
        End::Failed(failure) => Err(engine::Error::from(failure).into()),
        End::Detached(None) => Ok(0),
        End::Detached(Some(reason)) => {
            let message = format!("detached from the container: {reason}");
            Err(engine::Error::new(ErrorKind::System, message).into())
        }
        End::Signalled(signal) => Ok(u8::try_from(128 + signal).unwrap_or(u8::MAX)),
        End::GivenUp => {
            let message = "got 3 SIGTERM/SIGINTs, forcefully exiting: the container goes on";
            Err(Failure::line(message, "lighter stop or lighter kill ends it", 1))
        }
        End::OutputClosed => Ok(141),
        End::Lost => {
            drop(engine.reconcile());
            Err(lost())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::testing;

    #[test]
    fn attached_streams_are_chosen() {
        let chosen = |words: &[&str]| streams(&testing::args("run", words)).map_err(|failure| failure.render(false));
        assert_eq!(chosen(&["img"]), Ok(None));
        let both = Streams { stdin: false, stdout: true, stderr: true };
        assert_eq!(chosen(&["-a", "STDOUT", "-a", "stderr", "img"]), Ok(Some(both)));
        assert!(chosen(&["-a", "stdlog", "img"]).is_err());
        assert!(parse_run(&testing::args("run", &["-d", "-a", "stdout", "img"])).is_err());
        assert!(parse_run(&testing::args("run", &["--detach-keys", "bogus", "img"])).is_err());
    }

    #[test]
    fn the_built_in_image_is_known_by_its_names() {
        for name in ["lighter.local/hello", "lighter.local/hello:latest"] {
            assert!(is_hello(name), "{name}");
        }
        for name in ["hello", "lighter.local/hello2", "lighter.local"] {
            assert!(!is_hello(name), "{name}");
        }
    }

    #[test]
    fn an_id_file_is_never_overwritten() {
        let path = std::env::temp_dir().join(format!("lighter-cli-cid-{}", std::process::id()));
        let path = path.to_str().expect("UTF-8").to_owned();
        assert!(reserve(path.clone()).is_ok());
        assert!(matches!(reserve(path.clone()), Err(Failure::Usage { .. })));
        std::fs::remove_file(path).expect("removed");
    }
}
