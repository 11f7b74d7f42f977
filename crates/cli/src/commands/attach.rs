//! `attach`.

use container::record::State;
use engine::{ContainerId, Engine, Error, ErrorKind};

use super::run::{conclude, detach_keys};
use crate::failure::Outcome;
use crate::flags::{Args, Job};
use crate::ui::relay::{self, Plan};
use crate::ui::terminal;

/// Reads `attach`'s flags.
///
/// # Errors
/// What does not fit.
pub(crate) fn parse(args: &Args) -> Outcome<Job> {
    let name = args.word(0).to_owned();
    let stdin = !args.on("no-stdin");
    let forward_signals = args.switch("sig-proxy").unwrap_or(true);
    let detach = detach_keys(args)?;
    Ok(Box::new(move |app| {
        let engine = app.engine()?;
        let id = engine.lookup(&name)?;
        let details = engine.inspect(&id, false)?;
        if details.state == State::Paused {
            let error = Error::new(ErrorKind::Conflict, format!("container {name:?} is paused"));
            return Err(error.hint(format!("lighter unpause {name}")).into());
        }
        let stdin = stdin && details.open_stdin;
        let plan = Plan {
            stdin,
            stdout: true,
            stderr: !details.tty,
            tty: details.tty,
            // Others may attach after us: our input's end is not the container's.
            forward_eof: false,
            close_stdin: false,
            forward_signals,
            detach,
        };
        plan.check()?;
        join(&engine, &id, plan)
    }))
}

/// Takes part in the streams of a running container until it ends.
///
/// # Errors
/// It does not run, or our own streams fail.
pub(crate) fn join(engine: &Engine, id: &ContainerId, mut plan: Plan) -> Outcome<u8> {
    let stage = plan.prepare()?;
    let mut session = engine.attach(id)?;
    let raw = stage.raw()?;
    session.attach(plan.attach()).map_err(|error| relay::conversation(&error))?;
    if plan.tty
        && let Some((rows, columns)) = terminal::size()
    {
        // Two different sizes make a full-screen program draw itself again.
        let begun = session.resize(rows.saturating_add(1), columns).and_then(|()| session.resize(rows, columns));
        begun.map_err(|error| relay::conversation(&error))?;
    }
    let end = relay::session(&mut session, &mut plan, &stage.signals, true, || {});
    drop(raw);
    conclude(engine, id, &session, end?)
}
