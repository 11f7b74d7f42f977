//! `-t`: a terminal inside, handled right outside.

use rustix::process::Signal;
use testkit::Host;
use testkit::terminal::Terminal;

#[test]
fn t_gives_a_terminal_of_the_callers_size_that_follows_it() {
    let host = Host::with_busybox();
    let mut terminal = Terminal::start(&host.command(&["run", "--rm", "-it", "busybox", "sh"]));
    terminal.expect("# ");
    terminal.send(b"tty; stty size; echo TERM=$TERM\n");
    terminal.expect("/dev/pts/0");
    terminal.expect("24 80");
    terminal.expect("TERM=xterm");
    terminal.resize(50, 132);
    terminal.send(b"sleep 0.3; stty size\n");
    terminal.expect("50 132");
    terminal.send(b"exit 5\n");
    assert_eq!(terminal.finish(), 5);
    assert!(terminal.echoes(), "the terminal is given back as it was");
    host.assert_clean();
}

#[test]
fn keys_are_the_commands_business() {
    let host = Host::with_busybox();
    let mut terminal = Terminal::start(&host.command(&["run", "--rm", "-it", "busybox", "sh"]));
    terminal.expect("# ");
    assert!(!terminal.echoes(), "the caller's terminal is raw while the container has it");
    terminal.send(b"sleep 1000\n");
    terminal.expect("sleep 1000");
    std::thread::sleep(std::time::Duration::from_millis(300));
    terminal.send(b"\x03");
    terminal.expect("# ");
    terminal.send(b"echo status $?\n");
    terminal.expect("status 130");
    // Typed before the prompt, the end of input could be taken for text.
    terminal.expect("# ");
    terminal.send(b"\x04");
    terminal.finish();
}

#[test]
fn detach_keys_leave_it_running_and_start_comes_back() {
    let host = Host::with_busybox();
    let mut terminal = Terminal::start(&host.command(&["run", "-it", "--name", "long", "busybox", "sh"]));
    terminal.expect("# ");
    terminal.send(b"\x10");
    std::thread::sleep(std::time::Duration::from_millis(50));
    terminal.send(b"\x11");
    assert_eq!(terminal.finish(), 0);
    assert!(terminal.echoes(), "the terminal is given back as it was");
    assert_eq!(host.inspect("long")["State"]["Status"], "running");
    host.lighter(&["exec", "long", "true"]).ok();
    host.lighter(&["stop", "-t", "0", "long"]).ok();

    let mut terminal = Terminal::start(&host.command(&["start", "-ai", "long"]));
    terminal.send(b"echo ba''ck\n");
    terminal.expect("back");
    terminal.send(b"exit 6\n");
    assert_eq!(terminal.finish(), 6);
}

#[test]
fn exec_has_a_terminal_too() {
    let host = Host::with_busybox();
    host.detached(&["--name", "box"], &["sleep", "1000"]);
    let mut terminal = Terminal::start(&host.command(&["exec", "-it", "box", "sh"]));
    terminal.expect("# ");
    terminal.send(b"tty; stty size\n");
    terminal.expect("/dev/pts/");
    terminal.expect("24 80");
    terminal.send(b"exit 8\n");
    assert_eq!(terminal.finish(), 8);
    assert!(terminal.echoes());
}

#[test]
fn a_terminal_is_refused_where_the_caller_has_none() {
    let host = Host::with_busybox();
    host.lighter(&["run", "--rm", "-it", "busybox", "true"]).rejected("terminal");
    // -t alone needs no terminal outside: output comes with the terminal's line ends.
    assert_eq!(host.lighter(&["run", "--rm", "-t", "busybox", "echo", "x"]).ok().stdout, b"x\r\n");
}

#[test]
fn a_lost_terminal_ends_the_caller_but_not_the_container() {
    let host = Host::with_busybox();
    let mut terminal = Terminal::start(&host.command(&["run", "-it", "--name", "lost", "busybox", "sh"]));
    terminal.expect("# ");
    drop(terminal);
    host.lighter(&["exec", "lost", "true"]).ok();
    host.lighter(&["kill", "-s", &Signal::KILL.as_raw().to_string(), "lost"]).ok();
    host.wait_status("lost", "exited");
}
