//! The design's figures, measured against whichever peers this machine has: whole processes, interleaved, in one run.
//!
//! Peers are found on the path, or in the tree of the script that `PEERS_SCRIPT` names (or that lies beside the
//! checkout as `shared/bench/peers`). Programs of the tree are entered with chroot(8); then every other contestant of
//! the row goes through chroot(8) too, so that its cost cancels out.

mod memory;
pub(crate) mod peers;
mod report;
mod rows;
mod stores;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Outcome, checks, images, packages};
use peers::Peers;
use report::{Contestant, Row};

/// How often each command of a row runs, unless the command line says another number.
const ROUNDS: usize = 20;

/// Longer than any command here takes on a machine that works.
const DEADLINE: Duration = Duration::from_secs(120);

/// Measures every row, prints the table, and writes `target/bench.json`. The word `pull` measures instead what takes
/// minutes: a large image from the registry that the peers' script fills.
pub(crate) fn run(words: &[&str]) -> Outcome {
    let rounds = match words {
        ["pull"] => None,
        [] => Some(ROUNDS),
        [number] => Some(number.parse().map_err(|_| format!("not a number of rounds: {number}"))?),
        _ => return Err("cargo xtask bench [ROUNDS|pull]".to_owned()),
    };
    packages::install()?;
    packages::install_measures()?;
    checks::build()?;
    images::make()?;
    let mut host = testkit::Host::alone();
    let peers = Peers::find(&host)?;
    let state = peers.state();
    if let Some(state) = &state {
        host.set_state(state);
    }
    let rows = match rounds {
        Some(rounds) => rows::measure(&host, &peers, rounds)?,
        None => vec![stores::pull(&host, &peers)],
    };
    let text = report::table(&rows);
    crate::say(&text);
    report::write(&rows, &peers.described())?;
    drop((peers, host));
    // Nothing runs any more; a directory that resists is in memory only.
    drop(state.map(std::fs::remove_dir_all));
    Ok(())
}

/// A command of a row, made anew for every round (the number makes names unique), and its name.
struct Entry<'a> {
    name: &'static str,
    make: Box<dyn Fn(usize) -> Command + 'a>,
    /// Runs after each round, not timed.
    after: Option<Box<dyn Fn(usize) -> Command + 'a>>,
}

impl<'a> Entry<'a> {
    fn new(name: &'static str, make: impl Fn(usize) -> Command + 'a) -> Self {
        Self { name, make: Box::new(make), after: None }
    }

    fn after(mut self, make: impl Fn(usize) -> Command + 'a) -> Self {
        self.after = Some(Box::new(make));
        self
    }
}

/// Times the entries of a row in turn: one round to warm up, then `rounds` that count. An entry whose command fails is
/// left out of the row, and said so.
fn race(name: &'static str, entries: &[Entry<'_>], rounds: usize) -> Row {
    let mut times: Vec<Option<Vec<f64>>> = vec![Some(Vec::new()); entries.len()];
    for round in 0..=rounds {
        for (entry, samples) in entries.iter().zip(&mut times) {
            let Some(all) = samples else { continue };
            match timed((entry.make)(round)) {
                Ok(time) if round > 0 => all.push(time.as_secs_f64() * 1e3),
                Ok(_) => {}
                Err(error) => {
                    crate::complain(&format!("{name}: {}: {error}", entry.name));
                    *samples = None;
                }
            }
            if let Some(after) = &entry.after {
                // Clean-up of something that failed fails, too.
                drop(timed(after(round)));
            }
        }
    }
    let contestants = entries
        .iter()
        .zip(times)
        .filter_map(|(entry, samples)| Some(Contestant { name: entry.name, samples: samples? }))
        .collect();
    Row { name, unit: "ms", contestants }
}

/// From spawn to exit, with both streams thrown away.
fn timed(mut command: Command) -> Result<Duration, String> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let start = Instant::now();
    let mut child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
    // A blocking wait: polling would round every figure up to its own period.
    let (send, receive) = std::sync::mpsc::channel::<()>();
    let status = std::thread::scope(|scope| {
        let pid = child.id();
        scope.spawn(move || {
            if receive.recv_timeout(DEADLINE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                drop(Command::new("kill").args(["-9", &pid.to_string()]).status());
            }
        });
        let status = child.wait();
        let took = start.elapsed();
        drop(send);
        status.map(|status| (status, took))
    });
    match status {
        Ok((status, took)) if status.success() => Ok(took),
        Ok((status, _)) => Err(format!("{command:?}: {status}")),
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}

/// Runs a command to its end and gives its standard output.
pub(crate) fn output(mut command: Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    Err(format!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_each_entry_and_leaves_out_what_fails() {
        let entries = [
            Entry::new("true", |_| Command::new("true")),
            Entry::new("false", |_| Command::new("false")),
            Entry::new("nothing", |_| Command::new("/no/such/program")),
        ];
        let row = race("a row", &entries, 3);
        assert_eq!(row.contestants.len(), 1);
        assert_eq!((row.contestants[0].name, row.contestants[0].samples.len()), ("true", 3));
    }
}
