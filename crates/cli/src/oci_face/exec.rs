//! `exec`: a further process in a container.

use std::path::{Path, PathBuf};

use oci::runtime::{LinuxCapabilities, Process, Spec};
use runtime::Exec;
use rustix::fs::{Mode, OFlags};
use sys::Context as _;

use super::arguments::Flags;
use super::failure::Failure;
use super::store::{LONGEST_CONFIG, Status, Store, write_file};
use super::{console, create, run};

/// `exec`. Failures of the runtime itself exit with 255, as runc's do, to be told from the command's own codes.
pub(super) fn exec(global: &Flags, flags: &Flags) -> Result<i32, Failure> {
    execute(global, flags).map_err(|failure| failure.with_code(255))
}

fn execute(global: &Flags, flags: &Flags) -> Result<i32, Failure> {
    let handed = create::handed_on(flags, 0)?;
    let store = Store::new(global);
    let container = store.open(flags.id())?;
    let record = container.whole_record()?;
    let (status, pidfd) = container.status(&record)?;
    let Some(init) = pidfd else {
        return Err(Failure::new("cannot exec in a stopped container: container not running"));
    };
    if status == Status::Paused && !flags.is("ignore-paused") {
        return Err(Failure::new("cannot exec in a paused container (use --ignore-paused to override)"));
    }
    let spec = container.spec()?;
    create::seal_if_needed(&spec)?;
    let preserve = create::preserved(&handed)?;
    let process = process(flags, &spec)?;
    let leaves = flags.is("detach");
    let stdio = create::stdio(&process, flags.get("console-socket"), leaves)?;
    // What is root's in the store only root reaches.
    let ordinary = record.owner != 0 && !rustix::process::geteuid().is_root();
    let cgroup = match (record.cgroup.clone(), flags.get("cgroup")) {
        (None, Some(_)) => return Err(Failure::new("--cgroup: the container has no control group of its own")),
        (Some(group), Some(below)) => {
            Some(format!("{}/{}", group.trim_end_matches('/'), below.trim_start_matches('/')))
        }
        (group, None) => group,
    };
    let signals = if leaves { None } else { Some(run::take_signals()?) };
    let mut joined = runtime::exec(&Exec {
        id: flags.id(),
        init: &init,
        spec: &spec,
        bundle: &record.bundle,
        process: &process,
        stdio,
        identity: create::identity(&spec),
        cgroup: cgroup.as_deref(),
        ordinary,
        preserve,
        seccomp_cache: Some(store.seccomp_cache()),
    })?;
    let announced = || -> Result<(), Failure> {
        if let Some(path) = flags.get("pidfd-socket") {
            console::send_file(Path::new(path), "pidfd", &joined.pidfd)?;
        }
        if let (Some(path), Some(master)) = (flags.get("console-socket"), &joined.terminal) {
            console::send_file(Path::new(path), "/dev/ptmx", master)?;
        }
        match flags.get("pid-file") {
            Some(path) => write_file(Path::new(path), &joined.pid.to_string()),
            None => Ok(()),
        }
    };
    if let Err(failure) = announced() {
        // Nobody would know of it: it may have ended this very moment.
        let _ = sys::process::send_signal(&joined.pidfd, rustix::process::Signal::KILL.as_raw());
        return Err(failure);
    }
    let Some(signals) = signals else { return Ok(0) };
    let terminal = joined.terminal.take().filter(|_| flags.get("console-socket").is_none());
    run::attend(&joined.pidfd, terminal, &signals)
}

fn process(flags: &Flags, spec: &Spec) -> Result<Process, Failure> {
    let mut process = match flags.get("process") {
        Some(path) => read_process(Path::new(path))?,
        None => {
            let process = spec.process.clone().ok_or_else(|| Failure::new("the container has no process"))?;
            let args = flags.words[1..].to_vec();
            if args.is_empty() {
                return Err(Failure::new("exec needs a command, or --process"));
            }
            // The terminal and its size are the first process's own.
            Process { args, terminal: flags.is("tty"), console_size: None, ..process }
        }
    };
    adjust(&mut process, flags)?;
    Ok(process)
}

fn read_process(path: &Path) -> Result<Process, Failure> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).at("open", path.display())?;
    let bytes = sys::fs::read_bounded(&file, LONGEST_CONFIG, path.display())?;
    serde_json::from_slice(&bytes).map_err(|error| Failure::new(format!("{}: {error}", path.display())))
}

fn adjust(process: &mut Process, flags: &Flags) -> Result<(), Failure> {
    if let Some(cwd) = flags.get("cwd") {
        process.cwd = PathBuf::from(cwd);
    }
    for variable in flags.all("env") {
        let name = variable.split('=').next().unwrap_or_default();
        process.env.retain(|known| known.split('=').next() != Some(name));
        process.env.push(variable.to_owned());
    }
    if flags.is("tty") {
        process.terminal = true;
    }
    if flags.is("no-new-privs") {
        process.no_new_privileges = true;
    }
    if let Some(profile) = flags.get("apparmor") {
        process.apparmor_profile = profile.to_owned();
    }
    if let Some(label) = flags.get("process-label") {
        process.selinux_label = label.to_owned();
    }
    if let Some(user) = flags.get("user") {
        let (uid, gid) = user.split_once(':').map_or((user, None), |(uid, gid)| (uid, Some(gid)));
        let number = |text: &str| text.parse().map_err(|_| Failure::new(format!("--user: {text:?} is not a number")));
        process.user.uid = number(uid)?;
        if let Some(gid) = gid {
            process.user.gid = number(gid)?;
        }
        // HOME is looked up again for the other user.
        process.env.retain(|variable| !variable.starts_with("HOME="));
    }
    for gid in flags.all("additional-gids") {
        let gid = gid.parse().map_err(|_| Failure::new(format!("--additional-gids: {gid:?} is not a number")))?;
        process.user.additional_gids.push(gid);
    }
    let wanted: Vec<&str> = flags.all("cap").collect();
    if !wanted.is_empty() {
        let sets = process.capabilities.get_or_insert_with(LinuxCapabilities::default);
        for name in wanted {
            runtime::capability::Capability::parse(name).map_err(|error| Failure::new(format!("--cap: {error}")))?;
            for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
                if !set.iter().any(|held| held == name) {
                    set.push(name.to_owned());
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci_face::arguments::{Command, parse};

    fn adjusted(line: &str) -> Result<Process, Failure> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let (_, Ok(Command::Run("exec", flags))) = parse(&words) else { panic!("{line}") };
        let env = ["PATH=/bin", "A=0", "HOME=/root"].map(str::to_owned).to_vec();
        let spec = Spec { process: Some(Process { env, terminal: true, ..Process::default() }), ..Spec::default() };
        process(&flags, &spec)
    }

    #[test]
    fn flags_change_the_containers_process() {
        let process =
            adjusted("exec -e A=1 -e B=2 -u 5:6 -g 7 --cap CAP_KILL --cwd /x --no-new-privs --process-label l --apparmor a c1 ls -l").expect("ok");
        assert_eq!(process.env, ["PATH=/bin", "A=1", "B=2"]);
        assert_eq!((process.user.uid, process.user.gid), (5, 6));
        assert_eq!(process.user.additional_gids, [7]);
        assert_eq!(process.args, ["ls", "-l"]);
        assert_eq!(process.cwd, Path::new("/x"));
        assert_eq!((process.selinux_label.as_str(), process.apparmor_profile.as_str()), ("l", "a"));
        assert!(process.no_new_privileges && !process.terminal);
        assert_eq!(process.capabilities.expect("some").bounding, ["CAP_KILL"]);
        assert!(adjusted("exec -t c1 ls").expect("ok").terminal);
    }

    #[test]
    fn mistakes_are_said() {
        for line in ["exec c1", "exec -u root c1 ls", "exec -u 1:x c1 ls", "exec --cap CAP_X c1 ls"] {
            assert!(adjusted(line).is_err(), "{line}");
        }
    }
}
