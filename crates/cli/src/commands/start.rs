//! `start`.

use std::time::{Duration, Instant};

use container::record::State;
use engine::{ContainerId, Engine, ErrorKind, StartOptions};

use super::run::{attend, detach_keys};
use crate::failure::{Class, Failure, Outcome};
use crate::flags::{Args, Job};
use crate::output;
use crate::ui::keys::Detach;
use crate::ui::relay::Plan;
use crate::ui::terminal;

/// How long another command's start may take; the engine's own bound on one.
const OTHER_START_LIMIT: Duration = Duration::from_secs(120);
/// How often to look how far it is.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Reads `start`'s flags.
///
/// # Errors
/// What does not fit.
pub(crate) fn parse(args: &Args) -> Outcome<Job> {
    let names = args.word_list();
    let interactive = args.on("interactive");
    let attached = args.on("attach") || interactive;
    let keys = detach_keys(args)?;
    let forward_signals = args.switch("sig-proxy").unwrap_or(true);
    if attached && names.len() > 1 {
        return Err(Failure::usage("only one container can be started and attached to at once"));
    }
    Ok(Box::new(move |app| {
        let engine = app.engine()?;
        if attached {
            return foreground(&engine, names.first().map_or("", String::as_str), interactive, forward_signals, keys);
        }
        let mut code = 0;
        for name in &names {
            if let Err(failure) = background(&engine, name) {
                failure.report();
                code = code.max(failure.code(Class::Plain));
            }
        }
        Ok(code)
    }))
}

fn background(engine: &Engine, name: &str) -> Outcome<()> {
    let id = engine.lookup(name)?;
    let details = engine.inspect(&id, false)?;
    // Docker's start of a running container is no error and no change.
    if !matches!(details.state, State::Running | State::Stopping)
        && let Err(error) = engine.start_detached(&id)
    {
        let lost_a_race = error.kind() == ErrorKind::Conflict && started_by_another(engine, &id)?;
        if !lost_a_race {
            return Err(error.into());
        }
    }
    output::line(name)
}

/// Whether another command's start is what ours collided with, and has come to its end: the container runs, or ran.
fn started_by_another(engine: &Engine, id: &ContainerId) -> Outcome<bool> {
    let deadline = Instant::now() + OTHER_START_LIMIT;
    loop {
        match engine.inspect(id, false)?.state {
            State::Starting if Instant::now() < deadline => std::thread::sleep(LOOK_AGAIN),
            state => return Ok(matches!(state, State::Running | State::Stopping | State::Exited)),
        }
    }
}

fn foreground(engine: &Engine, name: &str, interactive: bool, forward_signals: bool, detach: Detach) -> Outcome<u8> {
    let id = engine.lookup(name)?;
    let details = engine.inspect(&id, false)?;
    let stdin = interactive && details.open_stdin;
    let mut plan = Plan {
        stdin,
        stdout: true,
        stderr: !details.tty,
        tty: details.tty,
        forward_eof: stdin,
        close_stdin: stdin && !details.tty,
        forward_signals,
        detach,
    };
    plan.check()?;
    if matches!(details.state, State::Running | State::Stopping) {
        return super::attach::join(engine, &id, plan);
    }
    let stage = plan.prepare()?;
    let terminal_size = if plan.tty { terminal::size() } else { None };
    let mut session = engine.start(&id, StartOptions { terminal_size, reap_here: true })?;
    attend(engine, &id, &mut session, &mut plan, &stage)
}
