//! `start`, and everything said to a monitor afterwards.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use container::client::{self, Ended, Received, Session};
use container::lifecycle::{Event, step};
use container::protocol::{self, Notice, Request};
use container::record::{Config, Status, UsernsPosture};
use container::recover::{Recovered, recover};
use container::request::{LogRequest, RootfsRequest, StartRequest};
use container::{ContainerDir, ContainerId, monitor};
use oci::runtime::{IdMapping, Spec};
use storage::ranges::Ranges;
use sys::fs::{Durability, Lock};

use super::{StartOptions, files, make_dirs};
use crate::{Engine, Error, ErrorKind, Result};

/// How long a command waits for another one to let go of a container.
pub(super) const LOCK_LIMIT: Duration = Duration::from_secs(10);
/// How long it waits before it looks again at who holds the lock.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How long a monitor may take to answer a request that needs no waiting.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// How long beyond its timeout a stop may take: killing, draining of output, removal of the control group.
const STOP_GRACE: Duration = Duration::from_secs(60);
/// How long a container may take from being prepared to running.
const START_LIMIT: Duration = Duration::from_secs(120);

impl Engine {
    /// Prepares a run of a container and gives the conversation with its monitor. The caller attaches to the streams it
    /// wants ([`Session::attach`]) and then lets the command go ([`Session::start`]); whoever drops the session before
    /// that gives the start up. With `reap_here` the caller promises to call [`Engine::reap`] after the end, when
    /// [`Session::must_reap`] says so.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when it runs already. A failure of the start itself comes as
    /// [`Notice::Failed`](container::protocol::Notice::Failed), which converts into [`Error`].
    pub fn start(&self, id: &ContainerId, options: StartOptions) -> Result<Session> {
        self.ensure_run()?;
        let dir = self.container_dir(id)?;
        let config = self.config_of(&dir)?;
        let (lock, before) = self.lock_at_rest(&dir, &config)?;
        let name = config.name.as_str();
        let (state, _) =
            step(before.state, &Event::Start).map_err(|refused| Error::of_container(refused.into(), name))?;
        let durability = durability_of(&config);
        let spawned =
            self.prepare(&dir, &config, before.started.is_empty(), options).and_then(|(request, host_ids)| {
                let status = Status { started: before.started.clone(), host_ids, ..Status::new(state) };
                dir.write_status(&status, durability)?;
                Ok(monitor::spawn(&request, lock)?)
            });
        match spawned {
            Ok(mut session) => {
                if options.reap_here {
                    unless_gone(session.take_over_reaping())?;
                }
                Ok(session)
            }
            Err(error) => {
                // The lock went with the failed spawn; nobody else can have started what still says it is starting.
                if let Ok(_lock) = dir.lock(LOCK_LIMIT) {
                    let _ = dir.write_status(&before, durability);
                    let _ = self.release(id);
                }
                Err(error)
            }
        }
    }

    /// Starts a container nobody attaches to, and returns when its command runs.
    ///
    /// # Errors
    /// As [`Engine::start`], and why the command could not be executed.
    pub fn start_detached(&self, id: &ContainerId) -> Result<()> {
        let mut session = self.start(id, StartOptions::default())?;
        unless_gone(session.start())?;
        let deadline = std::time::Instant::now() + START_LIMIT;
        loop {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            match session.recv(Some(left))? {
                Received::Event(protocol::Event::Notice(Notice::Started { .. } | Notice::Exited { .. })) => {
                    return Ok(());
                }
                Received::Event(protocol::Event::Notice(Notice::Failed(failure))) => return Err(failure.into()),
                Received::Event(_) => {}
                Received::Nothing if left.is_zero() => {
                    return Err(Error::new(ErrorKind::System, "timed out waiting for the container to start"));
                }
                Received::Nothing => {}
                Received::Closed => return Err(lost_monitor()),
            }
        }
    }

    /// The container's lock and its status under it, after what a dead monitor left is put right. A monitor that has
    /// just announced the end may hold the lock for another moment.
    fn lock_at_rest(&self, dir: &ContainerDir, config: &Config) -> Result<(Lock, Status)> {
        let deadline = Instant::now() + LOCK_LIMIT;
        let lock = loop {
            match dir.lock(LOOK_AGAIN) {
                // Another start may have it, and keeps it for as long as the container runs.
                Err(container::Error::Locked) => {
                    if let Err(refused) = step(dir.observe()?.state(), &Event::Start) {
                        return Err(Error::of_container(refused.into(), config.name.as_str()));
                    }
                    if Instant::now() >= deadline {
                        return Err(container::Error::Locked.into());
                    }
                }
                lock => break lock?,
            }
        };
        let status = dir.status()?;
        if !container::dir::is_active(status.state) {
            return Ok((lock, status));
        }
        // Active by the record, and nobody held the lock: it was lost.
        drop(lock);
        self.recover(dir, config)?;
        let lock = dir.lock(LOCK_LIMIT)?;
        Ok((lock, dir.status()?))
    }

    /// Puts right a container whose monitor died, and releases what it held; true when there was something to do.
    pub(super) fn recover(&self, dir: &ContainerDir, config: &Config) -> Result<bool> {
        self.recover_at(dir, &config.id, config.spec.linux.as_ref().map(|linux| linux.cgroups_path.as_str()))
    }

    /// The same, with the control group as it is known: the configuration may be unreadable.
    pub(super) fn recover_at(&self, dir: &ContainerDir, id: &ContainerId, cgroup: Option<&str>) -> Result<bool> {
        match recover(dir, &self.paths.run_container(id), cgroup)? {
            Recovered::Nothing => Ok(false),
            Recovered::Lost { lock, left, .. } => {
                let released = self.release(id);
                drop(lock);
                released?;
                match left.is_empty() {
                    true => Ok(true),
                    false => Err(Error::new(
                        ErrorKind::System,
                        format!("what container {} left could not all be taken down", id.short()),
                    )
                    .because(left.join("; "))),
                }
            }
        }
    }

    /// Gives back what a run held outside the container's directory: its range of ids, its runtime directory.
    pub(super) fn release(&self, id: &ContainerId) -> Result<()> {
        let ids = Ranges::open(&self.paths.run).and_then(|ranges| ranges.release(id.as_str()));
        let run_dir = self.clear_run(id);
        ids?;
        run_dir
    }

    /// Removes a run's directory, and before it what the run had mounted on the host.
    fn clear_run(&self, id: &ContainerId) -> Result<()> {
        let dir = self.paths.run_container(id);
        let cleared = || -> std::io::Result<()> {
            for entry in std::fs::read_dir(&dir)? {
                let entry = entry?;
                if entry.file_name() == super::volumes::MARKS {
                    self.let_go_of_volumes(id).map_err(std::io::Error::other)?;
                }
                if entry.file_type()?.is_dir() {
                    std::fs::remove_dir_all(entry.path())?;
                } else {
                    std::fs::remove_file(entry.path())?;
                }
            }
            std::fs::remove_dir(&dir)
        };
        match cleared() {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::from(error)),
            _ => Ok(()),
        }
    }

    fn prepare(
        &self,
        dir: &ContainerDir,
        config: &Config,
        first: bool,
        options: StartOptions,
    ) -> Result<(StartRequest, Option<u32>)> {
        let id = &config.id;
        let run_dir = self.paths.run_container(id);
        make_dirs(&run_dir)?;
        files::write(dir, &files::texts(config)?)?;
        if let Some(image) = config.image.as_ref().filter(|_| first) {
            match config.rootfs_dir {
                None => drop(self.layers()?.create_upper(dir.path(), &image.chain)?),
                Some(_) => self.layers()?.copy_root(dir.path(), &image.chain)?,
            }
        }
        let subpaths = self.ready_volumes(config, first)?;
        let mut spec = config.spec.clone();
        let host_ids = match config.userns {
            UsernsPosture::Host { .. } => None,
            UsernsPosture::Private => {
                let range = Ranges::open(&self.paths.run)?.acquire(id.as_str())?;
                map(&mut spec, range.start, range.len);
                Some(range.start)
            }
        };
        let rootfs = match (&config.rootfs_dir, &config.image) {
            (Some(path), _) => RootfsRequest::Directory(path.clone()),
            (None, Some(image)) => RootfsRequest::Overlay {
                layers_dir: self.paths.layers(),
                lowers: image.chain.iter().rev().map(|layer| format!("{}/diff", layer.hex())).collect(),
                writable_dir: dir.path().to_owned(),
                volatile: config.auto_remove,
            },
            (None, None) => {
                return Err(Error::new(
                    ErrorKind::Damaged,
                    "the container has neither an image nor a root file system",
                ));
            }
        };
        let request = StartRequest {
            id: id.clone(),
            dir: dir.path().to_owned(),
            run_dir,
            spec,
            rootfs,
            subpaths,
            user: config.user.clone(),
            groups: config.groups.clone(),
            open_stdin: config.open_stdin,
            terminal_size: options.terminal_size,
            init: config.init,
            log: config.log.map(|(max_size, max_files)| LogRequest { path: dir.log_path(), max_size, max_files }),
            durable: !config.auto_remove,
            stop_signal: config.stop_signal,
            stop_timeout: config.stop_timeout,
            seccomp_cache: Some(self.paths.seccomp_cache()),
            reap: self.reap_command(id)?,
        };
        Ok((request, host_ids))
    }

    fn reap_command(&self, id: &ContainerId) -> Result<Vec<String>> {
        let text = |path: PathBuf| {
            path.into_os_string()
                .into_string()
                .map_err(|path| Error::new(ErrorKind::Invalid, format!("{} is not UTF-8", path.to_string_lossy())))
        };
        let program = std::env::current_exe()?;
        Ok(vec![
            text(program)?,
            "--root".to_owned(),
            text(std::path::absolute(&self.paths.root)?)?,
            "--run".to_owned(),
            text(std::path::absolute(&self.paths.run)?)?,
            "reap".to_owned(),
            id.to_string(),
        ])
    }

    /// Joins a running container's conversation as one more client.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when it does not run.
    pub fn attach(&self, id: &ContainerId) -> Result<Session> {
        self.talk(id, Event::Attach)
    }

    /// A conversation with the monitor of a container whose state allows `event`.
    fn talk(&self, id: &ContainerId, event: Event) -> Result<Session> {
        let dir = self.container_dir(id)?;
        let observed = dir.observe()?;
        let refuse = |refused: container::lifecycle::Refused| -> Error {
            let name = dir.config().map_or_else(|_| id.to_string(), |config| config.name.to_string());
            Error::of_container(refused.into(), &name)
        };
        step(observed.state(), &event).map_err(refuse)?;
        match client::connect(&self.paths.run_container(id)) {
            Err(container::Error::MonitorGone) => Err(refuse(container::lifecycle::Refused::NotRunning)),
            session => Ok(session?),
        }
    }

    /// Stops a container: its stop signal (or `signal`), and SIGKILL after its timeout (or `timeout` seconds; negative
    /// waits for ever). One that does not run is stopped already.
    ///
    /// # Errors
    /// It does not end.
    pub fn stop(&self, id: &ContainerId, timeout: Option<i64>, signal: Option<i32>) -> Result<()> {
        let dir = self.container_dir(id)?;
        let observed = dir.observe()?;
        if observed.is_lost() {
            let config = self.config_of(&dir)?;
            self.recover(&dir, &config)?;
            return Ok(());
        }
        if !container::dir::is_active(observed.status.state) {
            return Ok(());
        }
        let seconds = match timeout {
            Some(seconds) => seconds,
            None => self.config_of(&dir)?.stop_timeout,
        };
        let limit = u64::try_from(seconds).ok().map(|seconds| Duration::from_secs(seconds).saturating_add(STOP_GRACE));
        let mut session = match client::connect(&self.paths.run_container(id)) {
            Err(container::Error::MonitorGone) => return Ok(()),
            session => session?,
        };
        match session.stop(signal, timeout, limit) {
            Ok(_) | Err(container::Error::MonitorGone) => Ok(()),
            Err(error) => {
                Err(Error::new(ErrorKind::System, format!("cannot stop container {}", id.short())).because(error))
            }
        }
    }

    /// Sends a signal, by number, to a container's first process.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when it does not run.
    pub fn kill(&self, id: &ContainerId, signal: i32) -> Result<()> {
        let mut session = self
            .talk(id, Event::Kill)
            .map_err(|error| Error::new(error.kind(), format!("Cannot kill container: {}: {error}", id.short())))?;
        Ok(session.ask(&Request::Signal(signal), ANSWER_LIMIT)?)
    }

    /// Waits until a container does not run, and gives its last exit code.
    ///
    /// # Errors
    /// No such container.
    pub fn wait(&self, id: &ContainerId) -> Result<i32> {
        let dir = self.container_dir(id)?;
        let observed = dir.observe()?;
        if container::dir::is_active(observed.status.state) && !observed.is_lost() {
            match client::connect(&self.paths.run_container(id)) {
                Ok(mut session) => match session.wait(None) {
                    Ok(Ended::Exited { code, .. }) => return Ok(code),
                    Ok(Ended::Failed(failure)) => return Ok(failure.code),
                    Err(container::Error::MonitorGone) => {}
                    Err(error) => return Err(error.into()),
                },
                Err(container::Error::MonitorGone) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if dir.observe()?.is_lost() {
            let config = self.config_of(&dir)?;
            self.recover(&dir, &config)?;
        }
        Ok(dir.status()?.exit_code)
    }

    /// Freezes all processes of a container.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when it does not run or is frozen already.
    pub fn pause(&self, id: &ContainerId) -> Result<()> {
        Ok(self.talk(id, Event::Pause)?.ask(&Request::Pause, ANSWER_LIMIT)?)
    }

    /// Lets the processes of a frozen container go on.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when it is not frozen.
    pub fn unpause(&self, id: &ContainerId) -> Result<()> {
        Ok(self.talk(id, Event::Unpause)?.ask(&Request::Unpause, ANSWER_LIMIT)?)
    }

    /// Stops a container, as [`Engine::stop`] does, and starts it again.
    ///
    /// # Errors
    /// As [`Engine::stop`] and [`Engine::start`].
    pub fn restart(&self, id: &ContainerId, timeout: Option<i64>, signal: Option<i32>) -> Result<()> {
        self.stop(id, timeout, signal)?;
        self.start_detached(id)
    }
}

/// Puts the range in force into a configuration. Mounts of host files are mapped alike by the runtime.
fn map(spec: &mut Spec, start: u32, len: u32) {
    let mappings = vec![IdMapping { container_id: 0, host_id: start, size: len }];
    if let Some(linux) = &mut spec.linux {
        linux.uid_mappings.clone_from(&mappings);
        linux.gid_mappings = mappings;
    }
}

pub(super) fn durability_of(config: &Config) -> Durability {
    if config.auto_remove { Durability::Volatile } else { Durability::Durable }
}

/// What was said to a monitor that has ended already: its last words, why nothing runs, are still to be heard.
fn unless_gone(said: container::Result<()>) -> Result<()> {
    match said {
        Ok(()) | Err(container::Error::MonitorGone) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn lost_monitor() -> Error {
    Error::new(ErrorKind::System, "the container's monitor has gone away")
        .hint("it was killed or could not begin; lighter inspect shows what it recorded")
}
