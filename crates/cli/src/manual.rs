//! Shell completions and manual pages, made from the tables of flags.

use std::ffi::OsString;
use std::path::Path;

use clap::Command;

use crate::failure::{Failure, Outcome};
use crate::output;
use crate::verbs::{GROUPS, VERBS};

/// Runs `completions SHELL` or `man DIR`.
///
/// # Errors
/// An unknown shell; a directory that cannot be written.
pub(crate) fn main(word: &str, mut args: impl Iterator<Item = OsString>) -> Outcome<u8> {
    let Some(argument) = args.next() else {
        let usage = if word == "man" { "lighter man DIR" } else { "lighter completions bash|fish|zsh" };
        return Err(Failure::usage_hint(format!("{word} takes one argument"), usage));
    };
    if word == "man" {
        pages(Path::new(&argument))?;
    } else {
        output::bytes(&completions(&argument.to_string_lossy())?)?;
    }
    Ok(0)
}

/// Every verb in one tree: what nothing but help needs.
fn tree() -> Command {
    let mut root = Command::new("lighter")
        .about("lighter runs containers: isolated, limited, and cleaned up after, with no daemon")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg(clap::Arg::new("root").long("root").value_name("DIR").help("Images, layers, containers"))
        .arg(clap::Arg::new("run").long("run").value_name("DIR").help("State until the next reboot"));
    for verb in VERBS.iter().filter(|verb| !verb.hidden) {
        root = root.subcommand(verb.command());
    }
    for group in GROUPS {
        let mut command = Command::new(group.name).about(group.about).subcommand_required(true);
        for (word, target) in group.words {
            let verb = VERBS.iter().find(|verb| verb.name == *target);
            command = command.subcommands(verb.map(|verb| verb.command().name(word).hide(false)));
        }
        root = root.subcommand(command);
    }
    root
}

fn completions(shell: &str) -> Outcome<Vec<u8>> {
    let shell: clap_complete::Shell = shell.parse().map_err(|_| {
        Failure::usage_hint(format!("no completions for {shell:?}"), "there are bash, elvish, fish, powershell and zsh")
    })?;
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut tree(), "lighter", &mut script);
    Ok(script)
}

fn pages(dir: &Path) -> Outcome<()> {
    let failed = |error| Failure::io(format!("cannot write manual pages to {}", dir.display()), error);
    let write = |name: &str, command: Command| {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        std::fs::write(dir.join(format!("{name}.1")), page)
    };
    std::fs::create_dir_all(dir).map_err(failed)?;
    write("lighter", tree()).map_err(failed)?;
    for verb in VERBS.iter().filter(|verb| !verb.hidden) {
        let name = format!("lighter-{}", verb.name);
        write(&name, verb.command().display_name(name.clone())).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_tree_is_sound() {
        tree().debug_assert();
    }

    #[test]
    fn completions_know_the_flags() {
        for shell in ["bash", "zsh", "fish"] {
            let script = String::from_utf8(completions(shell).expect("made")).expect("UTF-8");
            assert!(script.contains("cpuset-cpus") && script.contains("inspect"), "{shell}");
        }
        assert!(completions("tcsh").is_err());
    }

    #[test]
    fn every_command_has_its_page() {
        let dir = std::env::temp_dir().join(format!("lighter-cli-man-{}", std::process::id()));
        pages(&dir).expect("written");
        let page = std::fs::read_to_string(dir.join("lighter-run.1")).expect("there");
        assert!(page.contains("cap\\-drop") || page.contains("cap-drop"), "{page}");
        let count = std::fs::read_dir(&dir).expect("listed").count();
        assert_eq!(count, 1 + VERBS.iter().filter(|verb| !verb.hidden).count());
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
