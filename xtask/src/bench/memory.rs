//! Memory that an engine keeps for each idle container, beside the container's own process, and what a runtime holds
//! at its peak.

use std::path::Path;
use std::process::Command;

use testkit::{Host, leak};

use super::peers::Peers;
use super::report::{Contestant, Row};
use super::rows::{Idle, runtimes, unique};
use super::{Entry, output};

/// Containers that are up at the same time: shared pages count in proportion.
const CONTAINERS: usize = 5;

/// When a container counts as idle: an engine may give back what the start needed a little later.
const SETTLED: std::time::Duration = std::time::Duration::from_millis(2500);

/// The row of the design's table, in kilobytes a container: proportional set size of every process that the engine
/// keeps for it, without daemons that serve all.
pub(super) fn idle(host: &Host, peers: &Peers, engines: &[&'static str], image: &str) -> Result<Row, String> {
    let mut contestants = Vec::new();
    for name in ["lighter"].into_iter().chain(engines.iter().copied()) {
        let up: Vec<Idle<'_>> =
            (0..CONTAINERS).map(|_| Idle::start(host, peers, name, image)).collect::<Result<_, _>>()?;
        std::thread::sleep(SETTLED);
        let keepers = if name == "lighter" { own(host) } else { by_id(&up) };
        let kilobytes = keepers.into_iter().map(proportional).sum::<u64>();
        let each = u32::try_from(kilobytes).unwrap_or(u32::MAX) / u32::try_from(CONTAINERS).unwrap_or(1);
        contestants.push(Contestant { name, samples: vec![f64::from(each)] });
    }
    Ok(Row { name: "memory per idle container (PSS, daemons not counted)", unit: "kB", contestants })
}

/// How often each runtime runs for its peak.
const PEAKS: usize = 5;

/// The largest resident set of each runtime's `run` of the bundle, its pages of the program's file among them: what
/// `time(1)` reports of the process and of those it waited for.
pub(super) fn peak(host: &Host, peers: &Peers, bundle: &Path) -> Result<Row, String> {
    let own =
        |round| peers.alike(host.runtime(&["run", "--bundle", &bundle.to_string_lossy(), &unique("peak", round)]));
    let mut entries = vec![Entry::new("lighter-runtime", own)];
    entries.extend(runtimes(peers, bundle));
    let report = peers.shared().join("peak");
    let mut contestants = Vec::new();
    for entry in &entries {
        let samples: Result<Vec<f64>, String> =
            (0..PEAKS).map(|round| resident((entry.make)(round), &report)).collect();
        contestants.push(Contestant { name: entry.name, samples: samples? });
    }
    Ok(Row { name: "OCI run of /bin/true, peak resident memory", unit: "kB", contestants })
}

/// Runs `command` to its end; the largest resident set of it or of a child that it waited for, in kilobytes.
fn resident(command: Command, report: &Path) -> Result<f64, String> {
    let mut timed = Command::new("time");
    timed.args(["-f", "%M", "-o"]).arg(report).arg(command.get_program()).args(command.get_args());
    timed.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    output(timed)?;
    let text = std::fs::read_to_string(report).map_err(|error| format!("{}: {error}", report.display()))?;
    text.trim().parse().map_err(|_| format!("time -f %M wrote {text:?}"))
}

/// Processes of the engine under test: they hold on to its directories, but do not run the image's program.
fn own(host: &Host) -> Vec<i32> {
    let dir = host.root().parent().unwrap_or(host.root());
    let contained = |pid: &i32| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.starts_with("/bin"));
    leak::processes(dir).into_iter().filter(|pid| !contained(pid)).collect()
}

/// Processes that were started with one of these containers' ids among their arguments.
fn by_id(up: &[Idle<'_>]) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).into_owned();
        if up.iter().any(|idle| words.contains(&idle.id)) {
            found.push(pid);
        }
    }
    found
}

/// A process's proportional set size in kilobytes; 0 once it is gone.
fn proportional(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap_or_default();
    value.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_timed_is_said_so() {
        let missing = Command::new("/no/such/program");
        assert!(resident(missing, Path::new("/nonexistent/report")).is_err());
    }

    #[test]
    fn this_process_uses_memory() {
        assert!(proportional(i32::try_from(std::process::id()).expect("a pid")) > 100);
        assert_eq!(proportional(i32::MAX), 0);
    }
}
