//! `exec`: one more process in a running container, a child of the caller.

use std::os::fd::OwnedFd;
use std::time::Duration;

use container::capability::{Capabilities, CapabilitySet};
use container::lifecycle::{Event, Refused, step};
use container::record::{Config, UsernsPosture, process_start};
use container::{ContainerId, Exec, Identity, Stdio};
use oci::runtime::Process;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::pipe::PipeFlags;
use sys::Context;

use super::ExecSession;
use crate::spec::ExecSpec;
use crate::{Engine, Error, ErrorKind, Result};

/// How long one look at a process waits before it looks again; the process may run for ever.
const TURN: Duration = Duration::from_secs(3600);

impl Engine {
    /// Whether the container's root is the host's, so that a program which enters it must run from a protected copy of
    /// itself (CVE-2019-5736).
    ///
    /// # Errors
    /// The container's record cannot be read.
    pub fn shares_host_users(&self, id: &ContainerId) -> Result<bool> {
        Ok(matches!(self.config_of(&self.container_dir(id)?)?.userns, UsernsPosture::Host { .. }))
    }

    /// Runs a process in a running container; returns when its command was executed. The caller must have one thread.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when the container does not run; [`ErrorKind::CommandNotFound`] and
    /// [`ErrorKind::CommandNotExecutable`].
    pub fn exec(&self, id: &ContainerId, spec: &ExecSpec) -> Result<ExecSession> {
        let dir = self.container_dir(id)?;
        let config = self.config_of(&dir)?;
        let observed = dir.observe()?;
        let refuse = |refused: Refused| Error::of_container(refused.into(), config.name.as_str());
        step(observed.state(), &Event::Exec).map_err(refuse)?;
        let status = observed.status;
        let init = sys::process::open_pid(status.pid).map_err(|_| refuse(Refused::NotRunning))?;
        // Compared with the descriptor open: from here on the number cannot become another process's unseen.
        if process_start(status.pid) != Some(status.pid_start) {
            return Err(refuse(Refused::NotRunning));
        }
        let process = process(&config, spec)?;
        let linux = config.spec.linux.as_ref();
        let cgroup = linux.map(|linux| linux.cgroups_path.as_str()).unwrap_or_default();
        let (stdio, ends) = streams(spec)?;
        let user = spec.user.clone().unwrap_or_else(|| config.user.clone());
        let joined = container::exec(&Exec {
            id: id.as_str(),
            init: &init,
            spec: &config.spec,
            bundle: std::path::Path::new(""),
            process: &process,
            stdio,
            identity: Identity::Lookup { user, groups: config.groups.clone() },
            cgroup: Some(cgroup),
            ordinary: false,
            preserve: Vec::new(),
            seccomp_cache: Some(self.paths.seccomp_cache()),
        })
        .map_err(Error::from)?;
        let Ends { stdin, stdout, stderr } = ends;
        Ok(ExecSession { pid: joined.pid, pidfd: joined.pidfd, stdin, stdout, stderr, terminal: joined.terminal })
    }
}

/// The container's process, with what `exec` said over it. What confines the container confines this process too.
fn process(config: &Config, spec: &ExecSpec) -> Result<Process> {
    if spec.command.first().is_none_or(String::is_empty) {
        return Err(Error::new(ErrorKind::Invalid, "no command specified"));
    }
    let own = config.spec.process.clone().unwrap_or_default();
    let mut env = own.env;
    let defaults: &[String] = if spec.tty { &["TERM=xterm".to_owned()] } else { &[] };
    for entry in defaults.iter().chain(&spec.env) {
        let name = entry.split('=').next().unwrap_or_default();
        if name.is_empty() || entry.contains('\0') {
            return Err(Error::new(ErrorKind::Invalid, format!("invalid environment variable {entry:?}")));
        }
        env.retain(|old| old.split('=').next() != Some(name));
        if entry.contains('=') {
            env.push(entry.clone());
        }
    }
    let cwd = match spec.workdir.as_deref().filter(|dir| !dir.is_empty()) {
        None => own.cwd,
        Some(dir) if dir.starts_with('/') && !dir.contains('\0') => dir.into(),
        Some(dir) => {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("the working directory '{dir}' is not an absolute path"),
            ));
        }
    };
    let capabilities = if spec.privileged {
        Some(Capabilities::starting_with(CapabilitySet::of_kernel()?).to_oci())
    } else {
        own.capabilities
    };
    Ok(Process { terminal: spec.tty, args: spec.command.clone(), env, cwd, capabilities, console_size: None, ..own })
}

/// The caller's ends of the process's streams.
#[derive(Default)]
struct Ends {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

fn streams(spec: &ExecSpec) -> Result<(Stdio, Ends)> {
    if spec.tty {
        return Ok((Stdio::Terminal { size: spec.terminal_size }, Ends::default()));
    }
    let null = || {
        rustix::fs::openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).at("openat", "/dev/null")
    };
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).at("pipe2", "");
    let mut ends = Ends::default();
    let stdin = if spec.open_stdin && !spec.detach {
        let (read, write) = pipe()?;
        ends.stdin = Some(write);
        read
    } else {
        null()?
    };
    let (stdout, stderr) = if spec.detach {
        (null()?, null()?)
    } else {
        let ((out_read, out_write), (err_read, err_write)) = (pipe()?, pipe()?);
        (ends.stdout, ends.stderr) = (Some(out_read), Some(err_read));
        (out_write, err_write)
    };
    Ok((Stdio::Fds { stdin, stdout, stderr }, ends))
}

impl ExecSession {
    /// Waits for the process's end and gives its exit code: its own, or 128 + signal.
    ///
    /// # Errors
    /// The kernel's.
    pub fn wait(&mut self) -> Result<i32> {
        loop {
            if let Some(exit) = sys::process::wait_for(&self.pidfd, TURN)? {
                return Ok(exit.shell_code());
            }
        }
    }

    /// Tells the terminal's new size, in characters. Without a terminal nothing happens.
    ///
    /// # Errors
    /// The kernel's.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        match &self.terminal {
            Some(terminal) => Ok(sys::pty::resize(terminal, rows, columns)?),
            None => Ok(()),
        }
    }

    /// Sends a signal, by number. A process that has ended gets none.
    ///
    /// # Errors
    /// The kernel's.
    pub fn signal(&self, signal: i32) -> Result<()> {
        match sys::process::send_signal(&self.pidfd, signal) {
            Err(error) if error.errno() == sys::Errno::SRCH => Ok(()),
            sent => Ok(sent?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_and_directory_are_laid_over_the_containers() {
        let own = Process {
            args: vec!["serve".into()],
            env: vec!["A=1".into(), "B=2".into()],
            cwd: "/srv".into(),
            no_new_privileges: true,
            ..Process::default()
        };
        let config = crate::testing::config(own);
        let of = |change: fn(&mut ExecSpec)| {
            let mut spec = ExecSpec { command: vec!["sh".into()], ..ExecSpec::default() };
            change(&mut spec);
            process(&config, &spec)
        };
        let plain = of(|_| {}).expect("valid");
        assert_eq!((plain.args.as_slice(), plain.cwd.to_str()), (&["sh".to_owned()][..], Some("/srv")));
        assert!(plain.no_new_privileges && !plain.terminal);
        let changed = of(|spec| {
            spec.env = vec!["A=3".into(), "B".into()];
            spec.workdir = Some("/tmp".into());
            spec.tty = true;
        });
        let changed = changed.expect("valid");
        assert_eq!(changed.env, ["TERM=xterm", "A=3"]);
        assert_eq!((changed.cwd.to_str(), changed.terminal), (Some("/tmp"), true));
        assert!(of(|spec| spec.command.clear()).is_err());
        assert!(of(|spec| spec.workdir = Some("tmp".into())).is_err());
        assert!(of(|spec| spec.env = vec!["=x".into()]).is_err());
        assert_eq!(
            of(|spec| spec.privileged = true).expect("valid").capabilities.map(|c| c.inheritable.len()),
            Some(0)
        );
    }

    #[test]
    fn streams_are_pipes_or_nothing() {
        let ends = |open_stdin, detach| {
            let (_, ends) = streams(&ExecSpec { open_stdin, detach, ..ExecSpec::default() }).expect("made");
            (ends.stdin.is_some(), ends.stdout.is_some(), ends.stderr.is_some())
        };
        assert_eq!(ends(true, false), (true, true, true));
        assert_eq!(ends(false, false), (false, true, true));
        assert_eq!(ends(true, true), (false, false, false));
    }
}
