//! The process: command, environment, working directory, resource limits.

use std::path::{Component, Path, PathBuf};

use oci::image::ContainerConfig;
use oci::runtime::Rlimit;
use rustix::process::Resource;

use super::{invalid, refusal};
use crate::Result;
use crate::host::Host;
use crate::spec::ContainerSpec;

/// docker's default search path.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Entrypoint and command after merging: an entrypoint given by the user sets the image's command aside, because that
/// was written for the image's own entrypoint.
pub(super) fn command(spec: &ContainerSpec, image: &ContainerConfig) -> Result<(Vec<String>, Vec<String>)> {
    let (entrypoint, image_cmd) = match &spec.entrypoint {
        Some(said) => (said.iter().filter(|word| !word.is_empty()).cloned().collect(), &None),
        None => (image.entrypoint.clone().unwrap_or_default(), &image.cmd),
    };
    let cmd = if spec.command.is_empty() { image_cmd.clone().unwrap_or_default() } else { spec.command.clone() };
    if entrypoint.is_empty() && cmd.is_empty() {
        return invalid("no command specified: the image has none, so name one after the image");
    }
    for word in entrypoint.iter().chain(&cmd) {
        no_nul("an argument", word)?;
    }
    if entrypoint.first().or(cmd.first()).is_some_and(String::is_empty) {
        return invalid("the command is an empty string");
    }
    Ok((entrypoint, cmd))
}

/// The image's environment with what the user said laid over it: `NAME=value` sets, `NAME` alone removes.
pub(super) fn environment(spec: &ContainerSpec, image: &ContainerConfig) -> Result<Vec<String>> {
    let mut merged: Vec<String> = Vec::with_capacity(image.env.len() + spec.env.len());
    for entry in image.env.iter().chain(&spec.env) {
        no_nul("an environment variable", entry)?;
        let name = entry.split('=').next().unwrap_or_default();
        if name.is_empty() {
            return invalid(format!("environment variable {entry:?} has no name"));
        }
        let place = merged.iter().position(|old| old.split('=').next() == Some(name));
        match (place, entry.contains('=')) {
            (Some(place), true) => merged[place].clone_from(entry),
            (None, true) => merged.push(entry.clone()),
            (Some(place), false) => {
                merged.remove(place);
            }
            (None, false) => {}
        }
    }
    Ok(merged)
}

/// The process's whole environment: defaults first, where `merged` does not replace them.
pub(super) fn with_defaults(merged: &[String], host_name: &str, tty: bool) -> Vec<String> {
    let mut all = Vec::with_capacity(merged.len() + 3);
    let mut default = |entry: String| {
        let name = entry.split('=').next().unwrap_or_default();
        if !merged.iter().any(|other| other.split('=').next() == Some(name)) {
            all.push(entry);
        }
    };
    default(PATH.to_owned());
    default(format!("HOSTNAME={host_name}"));
    if tty {
        default("TERM=xterm".to_owned());
    }
    all.extend_from_slice(merged);
    all
}

/// The working directory, cleaned of `.`, `..` and doubled slashes.
pub(super) fn working_dir(spec: &ContainerSpec, image: &ContainerConfig) -> Result<PathBuf> {
    let said = spec.workdir.as_deref().filter(|dir| !dir.is_empty()).unwrap_or(&image.working_dir);
    if said.is_empty() {
        return Ok(PathBuf::from("/"));
    }
    no_nul("the working directory", said)?;
    if !said.starts_with('/') {
        return invalid(format!("the working directory '{said}' is invalid, it needs to be an absolute path"));
    }
    Ok(clean(Path::new(said)))
}

/// An absolute path without `.`, `..` and doubled slashes; `..` at the top stays there.
pub(super) fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => {
                cleaned.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    cleaned
}

/// The user as said or as the image has it; whether it exists is only known inside.
pub(super) fn user(spec: &ContainerSpec, image: &ContainerConfig) -> Result<(String, Vec<String>)> {
    let user = spec.user.clone().unwrap_or_else(|| image.user.clone());
    for word in std::iter::once(&user).chain(&spec.groups) {
        if word.bytes().any(|byte| byte < b' ' || byte == 0x7f) || word.len() > 256 || word.matches(':').count() > 1 {
            return invalid(format!("{word:?} is not a user or group"));
        }
    }
    if let Some(group) = spec.groups.iter().find(|group| group.is_empty() || group.contains(':')) {
        return invalid(format!("{group:?} is not a group"));
    }
    Ok((user, spec.groups.clone()))
}

pub(super) fn no_nul(what: &str, word: &str) -> Result<()> {
    if word.contains('\0') { invalid(format!("{what} holds a NUL byte: {word:?}")) } else { Ok(()) }
}

const LIMITS: [(&str, Resource); 15] = [
    ("core", Resource::Core),
    ("cpu", Resource::Cpu),
    ("data", Resource::Data),
    ("fsize", Resource::Fsize),
    ("locks", Resource::Locks),
    ("memlock", Resource::Memlock),
    ("msgqueue", Resource::Msgqueue),
    ("nice", Resource::Nice),
    ("nofile", Resource::Nofile),
    ("nproc", Resource::Nproc),
    ("rss", Resource::Rss),
    ("rtprio", Resource::Rtprio),
    ("rttime", Resource::Rttime),
    ("sigpending", Resource::Sigpending),
    ("stack", Resource::Stack),
];

/// Open files a process gets by default: a soft limit that keeps `select` and close loops cheap, a hard limit that
/// servers can raise themselves to.
const DEFAULT_NOFILE: (u64, u64) = (1024, 524_288);

/// Resource limits: what the user said over `nofile` 1024:524288 and `core` 0, never above what may be set here.
pub(super) fn limits(spec: &ContainerSpec, host: &dyn Host, warnings: &mut Vec<String>) -> Result<Vec<Rlimit>> {
    let may_raise = host.may_raise_limits();
    let highest = |resource| match host.limit(resource).maximum {
        Some(own) if !may_raise => own,
        _ => u64::MAX,
    };
    let mut limits = Vec::with_capacity(2 + spec.ulimits.len());
    let said = |name: &str| spec.ulimits.iter().any(|(other, ..)| other == name);
    if !said("core") {
        limits.push(Rlimit { kind: "RLIMIT_CORE".to_owned(), soft: 0, hard: 0 });
    }
    if !said("nofile") {
        let highest = highest(Resource::Nofile);
        let (soft, hard) = (DEFAULT_NOFILE.0.min(highest), DEFAULT_NOFILE.1.min(highest));
        limits.push(Rlimit { kind: "RLIMIT_NOFILE".to_owned(), soft, hard });
    }
    for (index, (name, soft, hard)) in spec.ulimits.iter().enumerate() {
        let Some(&(_, resource)) = LIMITS.iter().find(|(known, _)| known == name) else {
            return invalid(format!("invalid ulimit type: {name}"));
        };
        if spec.ulimits[..index].iter().any(|(other, ..)| other == name) {
            return invalid(format!("ulimit {name} is given twice"));
        }
        let number = |value: i64| match value {
            -1 => Ok(u64::MAX),
            value => u64::try_from(value).map_err(|_| refusal(format!("ulimit {name}: {value} is negative"))),
        };
        let (mut soft, mut hard) = (number(*soft)?, number(*hard)?);
        if soft > hard {
            return invalid(format!(
                "ulimit {name}: the soft limit must not be above the hard limit ({soft} > {hard})"
            ));
        }
        let highest = highest(resource);
        if hard > highest {
            warnings.push(format!(
                "ulimit {name} is lowered to {highest}: without CAP_SYS_RESOURCE it cannot be set above that here"
            ));
            (soft, hard) = (soft.min(highest), highest);
        }
        limits.push(Rlimit { kind: format!("RLIMIT_{}", name.to_ascii_uppercase()), soft, hard });
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::Table;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    fn image(entrypoint: Option<&[&str]>, cmd: Option<&[&str]>) -> ContainerConfig {
        ContainerConfig { entrypoint: entrypoint.map(strings), cmd: cmd.map(strings), ..ContainerConfig::default() }
    }

    #[test]
    fn entrypoint_and_command_merge_as_dockers() {
        type Row = (Option<&'static [&'static str]>, &'static [&'static str], Option<&'static str>);
        let image = image(Some(&["/entry"]), Some(&["serve"]));
        let rows: [Row; 6] = [
            (None, &[], Some("/entry serve")),
            (None, &["x", "y"], Some("/entry x y")),
            (Some(&["sh"]), &[], Some("sh")),
            (Some(&["sh"]), &["-c", "true"], Some("sh -c true")),
            (Some(&[""]), &["x"], Some("x")),
            (Some(&[""]), &[], None),
        ];
        for (entrypoint, cmd, expected) in rows {
            let spec = ContainerSpec {
                entrypoint: entrypoint.map(strings),
                command: strings(cmd),
                ..ContainerSpec::default()
            };
            let got = command(&spec, &image).ok().map(|(entrypoint, cmd)| [entrypoint, cmd].concat().join(" "));
            assert_eq!(got.as_deref(), expected, "{entrypoint:?} {cmd:?}");
        }
    }

    #[test]
    fn environment_is_laid_over_the_images() {
        let image = ContainerConfig { env: strings(&["A=1", "B=2", "PATH=/x"]), ..ContainerConfig::default() };
        let spec = ContainerSpec { env: strings(&["B=3", "C=a=b", "A", "D="]), ..ContainerSpec::default() };
        let merged = environment(&spec, &image).expect("valid");
        assert_eq!(merged, strings(&["B=3", "PATH=/x", "C=a=b", "D="]));
        let all = with_defaults(&merged, "web", true);
        assert_eq!(all, strings(&["HOSTNAME=web", "TERM=xterm", "B=3", "PATH=/x", "C=a=b", "D="]));
        assert_eq!(with_defaults(&[], "web", false), strings(&[PATH, "HOSTNAME=web"]));
        for bad in ["=x", "", "A=\0"] {
            let spec = ContainerSpec { env: strings(&[bad]), ..ContainerSpec::default() };
            assert!(environment(&spec, &ContainerConfig::default()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn working_directories() {
        for (said, of_image, expected) in [
            (None, "", Some("/")),
            (None, "/srv", Some("/srv")),
            (Some("/a/../b//c/."), "/srv", Some("/b/c")),
            (Some("/../.."), "", Some("/")),
            (Some(""), "/srv", Some("/srv")),
            (Some("relative"), "", None),
            (None, "relative", None),
            (Some("/a\0"), "", None),
        ] {
            let spec = ContainerSpec { workdir: said.map(str::to_owned), ..ContainerSpec::default() };
            let image = ContainerConfig { working_dir: of_image.to_owned(), ..ContainerConfig::default() };
            let got = working_dir(&spec, &image).ok();
            assert_eq!(got, expected.map(PathBuf::from), "{said:?} {of_image:?}");
        }
    }

    #[test]
    fn users_are_words() {
        for (user_said, groups, valid) in [
            ("", vec![], true),
            ("1000:1000", vec!["audio", "27"], true),
            ("a:b:c", vec![], false),
            ("root\nx", vec![], false),
            ("0", vec![""], false),
            ("0", vec!["a:b"], false),
        ] {
            let spec =
                ContainerSpec { user: Some(user_said.to_owned()), groups: strings(&groups), ..Default::default() };
            assert_eq!(user(&spec, &ContainerConfig::default()).is_ok(), valid, "{user_said:?} {groups:?}");
        }
    }

    #[test]
    fn limits_stay_below_what_may_be_set() {
        let spec = ContainerSpec {
            ulimits: vec![("nproc".into(), 10, 30_000), ("memlock".into(), -1, -1)],
            ..ContainerSpec::default()
        };
        let all = |host: &Table| {
            let mut warnings = Vec::new();
            let limits = limits(&spec, host, &mut warnings).expect("valid");
            (limits.into_iter().map(|l| (l.kind, l.soft, l.hard)).collect::<Vec<_>>(), warnings)
        };
        let (free, warnings) = all(&Table::default());
        assert!(warnings.is_empty());
        assert_eq!(free[1], ("RLIMIT_NOFILE".to_owned(), 1024, 524_288));
        assert_eq!(free[3], ("RLIMIT_MEMLOCK".to_owned(), u64::MAX, u64::MAX));
        let (bounded, warnings) = all(&Table { may_raise: false, ..Table::default() });
        assert_eq!(warnings.len(), 2);
        assert_eq!(bounded[1], ("RLIMIT_NOFILE".to_owned(), 1024, 20_000));
        assert_eq!(bounded[2], ("RLIMIT_NPROC".to_owned(), 10, 20_000));
        assert_eq!(bounded[3], ("RLIMIT_MEMLOCK".to_owned(), 20_000, 20_000));
        for bad in [("nofiles", 1, 1), ("nofile", 2, 1), ("nofile", -2, 1), ("nofile", -1, 5)] {
            let spec = ContainerSpec { ulimits: vec![(bad.0.into(), bad.1, bad.2)], ..ContainerSpec::default() };
            assert!(limits_of(&spec).is_err(), "{bad:?}");
        }
        let twice = vec![("nproc".into(), 1, 1), ("nproc".into(), 2, 2)];
        assert!(limits_of(&ContainerSpec { ulimits: twice, ..ContainerSpec::default() }).is_err());
    }

    fn limits_of(spec: &ContainerSpec) -> Result<Vec<Rlimit>> {
        limits(spec, &Table::default(), &mut Vec::new())
    }
}
