//! What clients ask of a monitor.

use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use sys::fs::Durability;

use super::{Monitor, Phase, SIGKILL};
use crate::lifecycle::{self, Effect};
use crate::monitor::process::Process;
use crate::monitor::sessions::{MAX_SESSIONS, Peer, TURN};
use crate::protocol::{Message, Notice, Request, STDIN_WINDOW};
use crate::record::State;

impl<P: Process> Monitor<P> {
    pub(super) fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        while let Some(socket) = listener.accept() {
            if self.sessions.len() >= MAX_SESSIONS {
                continue;
            }
            self.sessions.push(Peer::new(self.next_session, socket, false));
            self.next_session += 1;
        }
    }

    pub(super) fn tell_all(&mut self, notice: &Notice) {
        let packet = notice.encode();
        for peer in &mut self.sessions {
            peer.post(&packet);
        }
    }

    pub(super) fn peer(&mut self, id: u64) -> Option<&mut Peer> {
        self.sessions.iter_mut().find(|peer| peer.id == id)
    }

    pub(super) fn serve(&mut self, id: u64, flags: PollFlags) {
        let Some(peer) = self.peer(id) else { return };
        if flags.contains(PollFlags::OUT) && peer.flush() && self.phase == Phase::Lingering {
            self.deadline = Some(Instant::now() + self.limits.linger);
        }
        if !flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            return;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..TURN {
            let Some(message) = self.peer(id).and_then(|peer| peer.receive(&mut buffer)) else { break };
            self.handle(id, message);
        }
        self.buffer = buffer;
    }

    fn handle(&mut self, id: u64, message: Message) {
        let request = match message {
            Message::Stdin(bytes) => return self.take_input(id, bytes),
            Message::Request(request) => request,
        };
        let answered = request.is_answered();
        let result = match request {
            Request::Start => {
                self.go();
                Ok(())
            }
            Request::Attach(attach) => {
                if let Some(peer) = self.peer(id) {
                    peer.attach = Some(attach);
                }
                Ok(())
            }
            Request::StdinEof => {
                if self.may_write(id) {
                    self.streams.close_input();
                    self.write_input();
                }
                Ok(())
            }
            Request::Resize { rows, cols } => {
                if let Some(terminal) = self.streams.terminal() {
                    // A terminal that nobody has open any more takes no size, and needs none.
                    let _ = sys::pty::resize(terminal, rows, cols);
                }
                Ok(())
            }
            Request::Signal(signal) => self.step(&lifecycle::Event::Kill, Some(signal), None),
            Request::Stop { signal, timeout } => self.step(&lifecycle::Event::Stop, signal, timeout),
            Request::Pause => self.step(&lifecycle::Event::Pause, None, None),
            Request::Unpause => self.step(&lifecycle::Event::Unpause, None, None),
            Request::TakeOverReaping => {
                if let Some(peer) = self.peer(id) {
                    peer.reaper = true;
                }
                Ok(())
            }
            Request::Reaping => {
                // Kept here, since the client may be gone before it is asked about.
                self.confirmed |= self.phase == Phase::Lingering && self.peer(id).is_some_and(|peer| peer.reaper);
                Ok(())
            }
        };
        if answered && let Some(peer) = self.peer(id) {
            match result {
                Ok(()) => peer.tell(&Notice::Done),
                Err(reason) => peer.tell(&Notice::Refused(reason)),
            }
        }
    }

    pub(super) fn drop_closed(&mut self) {
        let mut starter_left = false;
        let mut closes_stdin = false;
        self.sessions.retain(|peer| {
            starter_left |= peer.closed && peer.starter;
            closes_stdin |= peer.closed && peer.attach.is_some_and(|attach| attach.stdin && attach.close_stdin);
            !peer.closed
        });
        if closes_stdin {
            self.streams.close_input();
            self.write_input();
        }
        if starter_left && self.phase == Phase::Prepared {
            self.abandon("the command that asked for the start went away");
        }
    }

    fn may_write(&mut self, id: u64) -> bool {
        self.peer(id).is_some_and(|peer| peer.attach.is_some_and(|attach| attach.stdin))
    }

    fn take_input(&mut self, id: u64, bytes: Vec<u8>) {
        if !self.may_write(id) || self.phase == Phase::Lingering {
            let length = bytes.len();
            if let Some(peer) = self.peer(id) {
                peer.tell(&Notice::StdinTaken(length));
            }
            return;
        }
        if self.streams.waiting(id) + bytes.len() > STDIN_WINDOW {
            if let Some(peer) = self.peer(id) {
                peer.closed = true;
            }
            return;
        }
        self.streams.push_input(id, bytes);
        self.write_input();
    }

    pub(super) fn step(
        &mut self,
        event: &lifecycle::Event,
        signal: Option<i32>,
        timeout: Option<i64>,
    ) -> Result<(), String> {
        let (next, effects) =
            lifecycle::step(self.status.state, event).map_err(|refused| refused.sentence(self.request.id.short()))?;
        let before = self.status.state;
        if self.phase == Phase::Prepared && next == State::Stopping {
            self.abandon("the container was stopped before its command was executed");
            return Ok(());
        }
        self.status.state = next;
        for effect in effects {
            let done = match effect {
                Effect::Record | Effect::RecordDurably => {
                    self.write_status(Durability::Volatile);
                    Ok(())
                }
                Effect::Signal => self.signal(signal.unwrap_or(SIGKILL)),
                Effect::StopSignal => self.stop(signal, timeout),
                Effect::KillAll => self.kill(),
                Effect::Freeze => self.process.as_mut().map_or(Ok(()), Process::freeze),
                Effect::Thaw => self.process.as_mut().map_or(Ok(()), Process::thaw),
                Effect::SpawnMonitor | Effect::Announce | Effect::TearDown | Effect::Delete => Ok(()),
            };
            if let Err(reason) = done {
                // What was recorded for the refused transition is taken back.
                self.status.state = before;
                self.write_status(Durability::Volatile);
                return Err(reason);
            }
        }
        Ok(())
    }

    fn signal(&mut self, signal: i32) -> Result<(), String> {
        let Some(process) = &mut self.process else { return Ok(()) };
        match sys::process::send_signal(process.pidfd(), signal) {
            // It has ended, and the loop is about to see it.
            Err(error) if error.errno() == sys::Errno::SRCH => return Ok(()),
            other => other.map_err(|error| error.to_string())?,
        }
        if signal == SIGKILL && self.status.state == State::Paused {
            // A frozen process of a v1 group dies when it is thawed.
            process.kill_all()?;
        }
        Ok(())
    }

    fn stop(&mut self, signal: Option<i32>, timeout: Option<i64>) -> Result<(), String> {
        self.signal(signal.unwrap_or(self.request.stop_signal))?;
        let timeout = timeout.unwrap_or(self.request.stop_timeout);
        self.kill_at =
            u64::try_from(timeout).ok().and_then(|limit| Instant::now().checked_add(Duration::from_secs(limit)));
        Ok(())
    }

    pub(super) fn kill(&mut self) -> Result<(), String> {
        let Some(process) = &mut self.process else { return Ok(()) };
        let first = sys::process::send_signal(process.pidfd(), SIGKILL);
        let all = process.kill_all();
        // The first process is what ends the container; the others are swept after it in any case.
        match first {
            Err(error) if error.errno() != sys::Errno::SRCH => all.map_err(|_| error.to_string()),
            _ => Ok(()),
        }
    }
}
