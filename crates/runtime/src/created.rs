//! A container between create and start, and its process after that.

use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::cgroup::Cgroup;
use crate::error::Result;
use crate::link::{self, Link};
use crate::notify::{self, Agent};

/// A first process that is ready and waits for [`Created::start`]. When it is dropped before that, the process notices
/// and ends; the control group stays for the owner to remove.
#[derive(Debug)]
pub struct Created {
    /// Process id as the caller sees it.
    pub pid: u32,
    /// The process's descriptor: readable when it ended.
    pub pidfd: OwnedFd,
    /// Master of the terminal, when one was asked for.
    pub terminal: Option<OwnedFd>,
    /// The container's control group, if it has one of its own.
    pub cgroup: Option<Cgroup>,
    /// Directories of the resource control file system that were made, to be given to
    /// [`resctrl::remove`](crate::resctrl::remove) with the container.
    pub resctrl: Vec<String>,
    pub(crate) link: Option<Link>,
    pub(crate) agent: Option<Agent>,
}

impl Created {
    /// Lets the process execute its command; returns when it did. A second call does nothing.
    ///
    /// # Errors
    /// Why the command could not be executed; the process has ended or is about to.
    pub fn start(&mut self) -> Result<()> {
        let Some(link) = self.link.take() else { return Ok(()) };
        link.send_start()?;
        notify::await_executed(&link, link::PATIENCE, self.agent.as_ref())
    }

    /// Sends the process to the gate it was given, where it waits for [`open_gate`](crate::open_gate) however long its
    /// caller lives. Until then it ends when the caller does, so the caller registers it first.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn release(&mut self) -> Result<()> {
        let Some(link) = self.link.take() else { return Ok(()) };
        link.send_release()
    }

    /// Kills the process and collects it: for a caller that will not start it. The control group stays.
    pub fn abandon(&mut self) {
        self.link = None;
        crate::parent::put_down(&self.pidfd, Duration::from_secs(10));
    }
}
