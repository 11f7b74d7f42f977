//! Verbs that change containers and say which: `stop`, `kill`, `restart`, `pause`, `unpause`, `wait`, `rm`, `reap`.

use engine::{ContainerId, Engine, ErrorKind, RemoveOptions};

use super::for_each;
use crate::failure::{Failure, Outcome};
use crate::flags::{Args, Job};
use crate::output;
use crate::parse::{signal, size};

/// A job that does `act` for each named container and prints the name as it was said.
fn named(args: &Args, act: impl Fn(&Engine, &ContainerId) -> engine::Result<()> + 'static) -> Job {
    let names = args.word_list();
    Box::new(move |app| {
        let engine = app.engine()?;
        drop(engine.reconcile());
        for_each(&names, |name| {
            act(&engine, &engine.lookup(name)?)?;
            output::line(name)
        })
    })
}

fn stop_flags(args: &Args) -> Outcome<(Option<i64>, Option<i32>)> {
    Ok((args.parsed("timeout", size::number)?, args.parsed("signal", signal::parse)?))
}

/// Reads `stop`'s flags.
///
/// # Errors
/// What does not fit.
pub(crate) fn parse_stop(args: &Args) -> Outcome<Job> {
    let (timeout, signal) = stop_flags(args)?;
    Ok(named(args, move |engine, id| engine.stop(id, timeout, signal)))
}

/// Reads `restart`'s flags.
///
/// # Errors
/// What does not fit.
pub(crate) fn parse_restart(args: &Args) -> Outcome<Job> {
    let (timeout, signal) = stop_flags(args)?;
    Ok(named(args, move |engine, id| engine.restart(id, timeout, signal)))
}

/// Reads `kill`'s flags.
///
/// # Errors
/// What does not fit.
pub(crate) fn parse_kill(args: &Args) -> Outcome<Job> {
    const KILL: i32 = 9;
    let signal = args.parsed("signal", signal::parse)?.unwrap_or(KILL);
    Ok(named(args, move |engine, id| engine.kill(id, signal)))
}

/// Reads `pause`'s words.
///
/// # Errors
/// None.
pub(crate) fn parse_pause(args: &Args) -> Outcome<Job> {
    Ok(named(args, Engine::pause))
}

/// Reads `unpause`'s words.
///
/// # Errors
/// None.
pub(crate) fn parse_unpause(args: &Args) -> Outcome<Job> {
    Ok(named(args, Engine::unpause))
}

/// Reads `wait`'s words.
///
/// # Errors
/// None.
pub(crate) fn parse_wait(args: &Args) -> Outcome<Job> {
    let names = args.word_list();
    Ok(Box::new(move |app| {
        let engine = app.engine()?;
        for_each(&names, |name| {
            let code = engine.wait(&engine.lookup(name)?)?;
            output::line(&code.to_string())
        })
    }))
}

/// Reads `rm`'s flags.
///
/// # Errors
/// What does not fit.
pub(crate) fn parse_rm(args: &Args) -> Outcome<Job> {
    let names = args.word_list();
    let options = RemoveOptions { force: args.on("force"), volumes: args.on("volumes") };
    Ok(Box::new(move |app| {
        let engine = app.engine()?;
        drop(engine.reconcile());
        for_each(&names, |name| {
            match engine.lookup(name).and_then(|id| engine.remove(&id, options)) {
                Ok(()) => output::line(name),
                // With -f, what is not there is as it should be: told, but no failure, as docker.
                Err(error) if options.force && error.kind() == ErrorKind::NoSuchContainer => {
                    Failure::from(error).report();
                    Ok(())
                }
                Err(error) => Err(error.into()),
            }
        })
    }))
}

/// Reads `reap`'s word: what a monitor executes last.
///
/// # Errors
/// A word that is no full id.
pub(crate) fn parse_reap(args: &Args) -> Outcome<Job> {
    let id = args.word(0).to_owned();
    Ok(Box::new(move |app| {
        let id: ContainerId =
            id.parse().map_err(|error: container::id::InvalidId| Failure::usage(error.to_string()))?;
        app.engine()?.reap(&id)?;
        Ok(0)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::testing;

    #[test]
    fn values_are_checked_before_anything_is_touched() {
        for (verb, words) in
            [("stop", ["-t", "soon", "a"]), ("stop", ["--signal", "BOGUS", "a"]), ("restart", ["--time", "x", "a"])]
        {
            let args = testing::args(verb, &words);
            assert!(parse_stop(&args).is_err(), "{verb} {words:?}");
        }
        assert!(parse_kill(&testing::args("kill", &["-s", "0", "a"])).is_err());
        let (timeout, signal) = stop_flags(&testing::args("stop", &["-t", "-1", "-s", "INT", "a"])).expect("fits");
        assert_eq!((timeout, signal), (Some(-1), Some(2)));
    }
}
