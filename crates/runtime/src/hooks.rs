//! Life-cycle hooks (`config.md`, "POSIX-platform Hooks"): programs the configuration asks for, with the container's
//! state on standard input.

use std::collections::BTreeMap;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use oci::runtime::{Hook, Hooks};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use serde::Serialize;
use sys::Context as _;

use crate::error::{Doing, Error, ErrorKind, Result};
use crate::plan::wrong;

/// How long a hook without a timeout of its own may take.
const LONGEST: Duration = Duration::from_secs(3600);

/// How much of a failed hook's standard error is repeated.
const LONGEST_WORDS: u64 = 2000;

/// Annotations, crun's, that name the file which the hooks outside the container write their output to.
const STDOUT: &str = "run.oci.hooks.stdout";
const STDERR: &str = "run.oci.hooks.stderr";

/// The container's state as hooks read it (`runtime.md`, "State").
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State<'a> {
    /// Version of the specification the configuration is written for.
    pub oci_version: &'a str,
    /// The container.
    pub id: &'a str,
    /// `creating`, `created`, `running` or `stopped`.
    pub status: &'a str,
    /// Its first process; absent when it is stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The bundle's directory.
    pub bundle: &'a Path,
    /// The configuration's annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: &'a BTreeMap<String, String>,
}

/// Runs `hooks`, called `name` in the configuration, one after the other; stops at the first that fails. A hook without
/// an environment of its own gets `environment`, and without that one the caller's, as runc and crun have it.
///
/// # Errors
/// [`ErrorKind::System`] with the hook's path and its standard error when it exits with another code than 0 or takes
/// longer than its timeout (it is killed then).
pub fn run(name: &str, hooks: &[Hook], state: &State<'_>, environment: Option<&[String]>) -> Result<()> {
    if hooks.is_empty() {
        return Ok(());
    }
    let what = || format!("cannot run the {name} hooks");
    let text = serde_json::to_vec(state).map_err(|error| Error::new(ErrorKind::System, format!("{name}: {error}")))?;
    for hook in hooks {
        let input = memory_file("hook-state").doing(what)?;
        sys::fs::write_all(&input, &text, "hook-state").doing(what)?;
        rustix::fs::seek(&input, rustix::fs::SeekFrom::Start(0)).at("lseek", "hook-state").doing(what)?;
        run_one(name, hook, input, state, environment)?;
    }
    Ok(())
}

/// Checks the hooks of a configuration before anything is made.
pub(crate) fn check(hooks: &Hooks) -> Result<()> {
    let kinds = [
        ("prestart", &hooks.prestart),
        ("createRuntime", &hooks.create_runtime),
        ("createContainer", &hooks.create_container),
        ("startContainer", &hooks.start_container),
        ("poststart", &hooks.poststart),
        ("poststop", &hooks.poststop),
    ];
    for (name, list) in kinds {
        for (at, hook) in list.iter().enumerate() {
            if !hook.path.is_absolute() {
                return Err(wrong(
                    &format!("hooks.{name}[{at}].path"),
                    format_args!("{:?} is not absolute", hook.path),
                ));
            }
            if hook.timeout.is_some_and(|seconds| seconds <= 0) {
                return Err(wrong(&format!("hooks.{name}[{at}].timeout"), "is not above 0"));
            }
        }
    }
    Ok(())
}

fn run_one(name: &str, hook: &Hook, input: OwnedFd, state: &State<'_>, environment: Option<&[String]>) -> Result<()> {
    let failed = |why: String| Error::new(ErrorKind::System, format!("{name} hook {}: {why}", hook.path.display()));
    let what = || format!("cannot run the {name} hook {}", hook.path.display());
    let words = memory_file("hook-stderr").doing(what)?;
    let stderr = words.try_clone().at("dup", "hook-stderr").doing(what)?;
    let mut command = Command::new(&hook.path);
    if let Some((zeroth, rest)) = hook.args.split_first() {
        command.arg0(zeroth).args(rest);
    }
    if let Some(environment) = if hook.env.is_empty() { environment } else { Some(&hook.env[..]) } {
        command.env_clear().envs(environment.iter().filter_map(|variable| variable.split_once('=')));
    }
    // Standard output is often the container's own by now, so it is not the hook's to write to.
    command.stdin(Stdio::from(input)).stdout(Stdio::null()).stderr(Stdio::from(stderr));
    // The files of a hook that runs inside would be the container's.
    if name != "startContainer" {
        if let Some(path) = state.annotations.get(STDOUT) {
            command.stdout(open_output(path).doing(what)?);
        }
        if let Some(path) = state.annotations.get(STDERR) {
            command.stderr(open_output(path).doing(what)?);
        }
    }
    let mut child = command.spawn().at("execve", hook.path.display()).doing(what)?;
    let limit = hook.timeout.and_then(|seconds| u64::try_from(seconds).ok()).map_or(LONGEST, Duration::from_secs);
    let pidfd = sys::process::open_pid(child.id()).doing(what)?;
    let mut entries = [PollFd::new(&pidfd, PollFlags::IN)];
    let in_time = sys::process::poll_until(&mut entries, Some(limit)).doing(what)? > 0;
    if !in_time {
        // It may end this very moment.
        let _ = child.kill();
    }
    let status = child.wait().at("wait4", hook.path.display()).doing(what)?;
    if !in_time {
        return Err(failed(format!("took longer than {} s", limit.as_secs())));
    }
    if status.success() {
        return Ok(());
    }
    let path = hook.path.display();
    let said = said(words);
    Err(Error::new(
        ErrorKind::System,
        match status.code() {
            Some(code) => format!("{name} hook failed with exit code {code}: {path}{said}"),
            None => format!("{name} hook failed: {path}: {status}{said}"),
        },
    ))
}

/// A file that hooks add their output to. A fifo that nobody reads is `ENXIO`: nobody would end a wait here.
fn open_output(path: &str) -> sys::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600)).at("open", path)?;
    rustix::fs::fcntl_setfl(&file, OFlags::APPEND).at("fcntl", "F_SETFL")?;
    Ok(file)
}

/// What a hook wrote to its standard error, for the end of a sentence.
fn said(words: OwnedFd) -> String {
    let mut file = std::fs::File::from(words);
    let mut bytes = Vec::new();
    // Only an explanation is lost when this fails; the failure itself is reported all the same.
    let _ = file.flush();
    let _ = file.rewind();
    let _ = file.take(LONGEST_WORDS).read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    if text.is_empty() { text } else { format!(": {text}") }
}

fn memory_file(name: &str) -> sys::Result<OwnedFd> {
    rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC).at("memfd_create", name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, timeout: Option<i64>) -> Hook {
        let args = ["sh", "-c", script].map(str::to_owned).to_vec();
        Hook { path: "/bin/sh".into(), args, env: vec!["WORD=yes".to_owned()], timeout }
    }

    #[test]
    fn hooks_get_the_state_and_their_environment() {
        let annotations = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let state = State {
            oci_version: "1.3.0",
            id: "c1",
            status: "creating",
            pid: Some(7),
            bundle: Path::new("/b"),
            annotations: &annotations,
        };
        let run = |script: &str, timeout| run("prestart", &[shell(script, timeout)], &state, None);
        let script = r#"read -r s; case $s in *'"id":"c1","status":"creating","pid":7,"bundle":"/b"'*) test $WORD = yes;;
                        *) exit 9;; esac"#;
        run(script, Some(30)).expect("succeeds");
        let error = run("echo because >&2; exit 3", None).expect_err("fails").to_string();
        assert!(error.contains("exit code 3: /bin/sh: because"), "{error}");
        let error = run("sleep 20", Some(1)).expect_err("is late").to_string();
        assert!(error.contains("longer than 1 s"), "{error}");
    }

    #[test]
    fn output_is_added_to_files_and_waits_for_no_reader() {
        let path = std::env::temp_dir().join(format!("lighter-hook-output-{}", std::process::id()));
        let text = path.to_str().expect("text");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .expect("made");
        assert_eq!(open_output(text).expect_err("nobody reads").errno(), sys::Errno::NXIO);
        std::fs::remove_file(&path).expect("removed");
        let flags = rustix::fs::fcntl_getfl(open_output(text).expect("made")).expect("asked");
        assert!(flags.contains(OFlags::APPEND) && !flags.contains(OFlags::NONBLOCK), "{flags:?}");
        std::fs::remove_file(&path).expect("removed");
    }

    #[test]
    fn mistakes_are_found_first() {
        let relative = Hook { path: "x".into(), ..Hook::default() };
        let late = Hook { path: "/x".into(), timeout: Some(0), ..Hook::default() };
        for (hook, field) in [(relative, "hooks.poststop[0].path"), (late, "hooks.poststop[0].timeout")] {
            let hooks = Hooks { poststop: vec![hook], ..Hooks::default() };
            let error = check(&hooks).expect_err(field).to_string();
            assert!(error.starts_with(field), "{error}");
        }
    }
}
