//! A command on a pseudo-terminal, as a person sits before it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::process::code;

/// A terminal with a command on it.
pub struct Terminal {
    master: File,
    /// The terminal's other end, kept open so that its modes can be looked at after the command's end.
    slave: File,
    child: Child,
    output: Receiver<Vec<u8>>,
    seen: Vec<u8>,
}

impl Terminal {
    /// Starts `command` in a session of its own, with a new terminal of 24 rows and 80 columns as the controlling one.
    ///
    /// # Panics
    /// When the machine has no pseudo-terminals or the command does not start.
    #[must_use]
    pub fn start(command: &Command) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a pseudo-terminal");
        grantpt(&master).expect("grantpt");
        unlockpt(&master).expect("unlockpt");
        let name = ptsname(&master, Vec::new()).expect("ptsname").into_string().expect("a plain name");
        let slave = File::options().read(true).write(true).open(&name).expect("open the terminal");
        let copy = || OwnedFd::from(slave.try_clone().expect("another descriptor"));
        // setsid(1) makes the terminal on its standard input the controlling one, then becomes the command.
        let mut wrapped = Command::new("setsid");
        wrapped.arg("--ctty").arg(command.get_program()).args(command.get_args()).env_clear();
        for (key, value) in command.get_envs() {
            if let Some(value) = value {
                wrapped.env(key, value);
            }
        }
        if let Some(dir) = command.get_current_dir() {
            wrapped.current_dir(dir);
        }
        wrapped.stdin(copy()).stdout(copy()).stderr(copy());
        let master = File::from(master);
        // Before anything runs that could ask for it.
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).expect("set the window's size");
        let child = wrapped.spawn().expect("setsid of util-linux");
        let output = read_all(master.try_clone().expect("another descriptor"));
        Self { master, slave, child, output, seen: Vec::new() }
    }

    /// Sets the window's size; the foreground process is told by SIGWINCH.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn resize(&mut self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.master, size).expect("set the window's size");
    }

    /// Types.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn send(&mut self, bytes: &[u8]) {
        self.master.write_all(bytes).expect("type into the terminal");
    }

    /// Waits until `text` has been shown, and forgets everything up to its end.
    ///
    /// # Panics
    /// After twenty seconds, with what was shown.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        let end = Instant::now() + crate::wait::patient(Duration::from_secs(20));
        loop {
            let found = self.seen.windows(text.len()).position(|piece| piece == text.as_bytes());
            if let Some(at) = found {
                self.seen.drain(..at + text.len());
                return;
            }
            let left = end.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.seen.extend(bytes),
                Err(_) => panic!("{text:?} was not shown; shown was {:?}", String::from_utf8_lossy(&self.seen)),
            }
        }
    }

    /// Whether the terminal echoes: a program that makes it raw must give it back as it was.
    ///
    /// # Panics
    /// When the terminal is gone.
    #[must_use]
    pub fn echoes(&self) -> bool {
        tcgetattr(&self.slave).expect("the terminal's modes").local_modes.contains(LocalModes::ECHO)
    }

    /// Waits for the command's end and gives its exit code.
    ///
    /// # Panics
    /// After twenty seconds.
    #[track_caller]
    pub fn finish(&mut self) -> i32 {
        let status = crate::wait::until("the command on the terminal ends", Duration::from_secs(20), || {
            self.child.try_wait().expect("wait for a child")
        });
        code(status)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

fn read_all(mut master: File) -> Receiver<Vec<u8>> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        // EIO: the last process on the other end is gone.
        while let Ok(count @ 1..) = master.read(&mut buffer) {
            if send.send(buffer[..count].to_vec()).is_err() {
                break;
            }
        }
    });
    receive
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_controlling_terminal() {
        let mut command = Command::new("sh");
        command.args(["-c", "tty >/dev/tty; read line; echo got-$line; stty size; exit 3"]);
        command.env("PATH", "/usr/bin:/bin");
        let mut terminal = Terminal::start(&command);
        terminal.expect("/dev/pts/");
        assert!(terminal.echoes());
        terminal.resize(10, 20);
        terminal.send(b"word\n");
        terminal.expect("got-word");
        terminal.expect("10 20");
        assert_eq!(terminal.finish(), 3);
    }
}
