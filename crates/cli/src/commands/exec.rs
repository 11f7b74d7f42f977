//! `exec`.

use engine::ErrorKind;
use engine::spec::ExecSpec;

use super::run::detach_keys;
use crate::failure::Outcome;
use crate::flags::{Args, Job, bad_value};
use crate::parse::env::{self, Process};
use crate::ui;
use crate::ui::relay::{End, Plan};
use crate::ui::terminal;

/// Reads `exec`'s flags.
///
/// # Errors
/// What does not fit.
pub(crate) fn parse(args: &Args) -> Outcome<Job> {
    let mut words = args.word_list();
    let name = words.remove(0);
    let mut spec = ExecSpec {
        command: words,
        env: Vec::new(),
        workdir: args.owned("workdir"),
        user: args.owned("user"),
        tty: args.on("tty"),
        open_stdin: args.on("interactive"),
        detach: args.on("detach"),
        privileged: args.on("privileged"),
        terminal_size: None,
    };
    for path in args.many("env-file") {
        let lines = env::file_lines(&env::read_file("env-file", path)?, &Process);
        spec.env.extend(lines.map_err(|error| bad_value("env-file", path, &error))?);
    }
    spec.env.extend(args.each("env", |text| env::variable(text, &Process))?);
    let stdin = spec.open_stdin && !spec.detach;
    let mut plan = Plan {
        stdin,
        stdout: true,
        stderr: !spec.tty,
        tty: spec.tty && !spec.detach,
        forward_eof: stdin,
        close_stdin: stdin,
        forward_signals: !spec.detach,
        detach: detach_keys(args)?,
    };
    Ok(Box::new(move |app| {
        let engine = app.engine()?;
        let id = engine.lookup(&name)?;
        if engine.shares_host_users(&id)? {
            sys::sealed::execute_again().map_err(|error| {
                engine::Error::new(ErrorKind::Unsupported, "cannot protect lighter's own program from the container")
                    .because(error)
            })?;
        }
        if spec.detach {
            drop(engine.exec(&id, &spec)?);
            return Ok(0);
        }
        plan.check()?;
        let stage = plan.prepare()?;
        if plan.tty {
            spec.terminal_size = terminal::size();
        }
        let process = engine.exec(&id, &spec)?;
        let raw = stage.raw()?;
        let end = ui::exec::exec(process, &mut plan, &stage);
        drop(raw);
        match end? {
            End::Exited(code) => Ok(u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
            End::Signalled(signal) => Ok(u8::try_from(128 + signal).unwrap_or(u8::MAX)),
            End::Detached(_) => Ok(0),
            End::OutputClosed => Ok(141),
            End::Failed(_) | End::GivenUp | End::Lost => {
                Err(engine::Error::new(ErrorKind::System, "lost the process").into())
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::testing;

    #[test]
    fn the_command_keeps_its_flags() {
        let args = testing::args("exec", &["-it", "-w", "/x", "-eA=b", "web", "ls", "-l", "--env"]);
        assert_eq!(args.word_list(), ["web", "ls", "-l", "--env"]);
        assert!(args.on("interactive") && args.on("tty"));
        assert!(parse(&args).is_ok());
        assert!(parse(&testing::args("exec", &["-e=", "web", "ls"])).is_err());
    }
}
