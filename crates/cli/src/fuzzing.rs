//! Entry points of the fuzz targets (`/fuzz`): each takes any bytes, and panics when something that must hold does not.

use std::collections::BTreeMap;

use engine::{ContainerFilter, ImageFilter, PruneFilter, VolumeFilter};
use jiff::Timestamp;
use serde_json::json;

use crate::format::template::Template;
use crate::parse::env::Surroundings;
use crate::parse::{csv, device, env, filter, moment, mount, signal, size, ulimit};
use crate::ui::keys::{Detach, Typed};
use crate::verbs::VERBS;
use crate::{hello, oci_face};

/// `--format`: a template that parses is rendered or refused, and the same text gives the same.
pub fn template(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(template) = Template::parse(text) else { return };
    let value = json!({
        "ID": "abc", "N": 3, "Zero": 0, "Flag": true, "Empty": "", "Null": null, "List": ["a", "b"], "None": [],
        "Map": {"x": {"IP": "1.2.3.4"}, "y": {"IP": "5.6.7.8"}}, "State": {"Pid": 42, "Status": "running"},
    });
    let methods = json!({"Label": {"a": "1"}});
    let first = template.render_with(&value, &methods);
    assert_eq!(first, template.render_with(&value, &methods));
    if !text.contains("{{") {
        assert_eq!(first.as_deref(), Ok(text));
    }
}

/// No variable is set but one.
struct OneVariable;

impl Surroundings for OneVariable {
    fn get(&self, name: &str) -> Option<String> {
        (name == "A").then(|| "b=c".to_owned())
    }
}

/// The values of flags: each grammar on the same text.
pub fn values(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let now = Timestamp::UNIX_EPOCH;
    let host = mount::Host { cwd: "/home/u".into(), selinux: false };
    for mounted in [mount::volume(text, &host), mount::mount(text, &host), mount::tmpfs(text)].into_iter().flatten() {
        use engine::spec::MountSpec;
        if let MountSpec::Bind { source, target, .. } = &mounted {
            assert!(source.is_absolute() && target.is_absolute(), "{mounted:?}");
        }
    }
    if let Ok(size) = size::unsigned(text) {
        assert_eq!(size::bytes(text).map(u64::try_from), Ok(Ok(size)));
    }
    let _ = (size::bytes_or_unlimited(text), size::nano_cpus(text), size::number::<u16>(text));
    if let Ok((_, soft, hard)) = ulimit::parse(text) {
        assert!(hard == -1 || (soft != -1 && soft <= hard), "{soft} {hard}");
    }
    if let Ok(number) = signal::parse(text) {
        assert_eq!(signal::parse(&signal::name(number)), Ok(number));
    }
    let _ = (device::parse(text), device::bytes_per_second(text), device::operations_per_second(text));
    let _ = (device::weight(text), moment::parse(text, now), moment::age(text, now), crate::parse::pair(text));
    if let Ok(fields) = csv::fields(text) {
        let quoted: Vec<_> = fields.iter().map(|field| format!("\"{}\"", field.replace('"', "\"\""))).collect();
        assert_eq!(csv::fields(&quoted.join(",")).as_ref(), Ok(&fields));
    }
    if let Ok(variable) = env::variable(text, &OneVariable) {
        assert!(!variable.starts_with('=') && !variable.contains('\0'), "{variable:?}");
    }
    for variable in env::file_lines(text, &OneVariable).unwrap_or_default() {
        assert!(variable.contains('=') && !variable.contains(['\n', '\0']), "{variable:?}");
    }
    let _ = env::label(text, &mut BTreeMap::new());
    let _ = filter::container(text, &mut ContainerFilter::default());
    let _ = filter::image(text, now, &mut ImageFilter::default());
    let _ = filter::volume(text, &mut VolumeFilter::default());
    let _ = filter::prune(text, now, &mut PruneFilter::default());
}

/// The detach keys, NUL, and what is typed: nothing typed is lost.
pub fn keys(bytes: &[u8]) {
    let split = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let (keys, typed) = bytes.split_at(split);
    let Ok(keys) = std::str::from_utf8(keys) else { return };
    let Ok(mut detach) = Detach::parse(keys) else { return };
    let mut out = Vec::new();
    for piece in typed.chunks(3) {
        match detach.feed(piece) {
            Typed::Pass(pass) => out.extend(pass),
            Typed::Leave(pass) => {
                out.extend(pass);
                break;
            }
        }
    }
    assert!(typed.starts_with(&out), "{out:?}");
}

/// A command line: the verb and its words, separated by NUL. No job is done, and flags that read a file are left out.
pub fn command_line(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut words = text.split('\0');
    let verb = words.next().unwrap_or_default();
    let words: Vec<_> = words.map(std::ffi::OsString::from).collect();
    let touches = |word: &std::ffi::OsString| {
        let word = word.to_string_lossy();
        ["file", "help", "-h", "security-opt"].iter().any(|part| word.contains(part))
    };
    if words.iter().any(touches) {
        return;
    }
    if let Some(verb) = VERBS.iter().find(|known| known.name == verb) {
        let _ = verb.read(words);
    }
}

/// The OCI runtime's command line.
pub fn runtime_arguments(bytes: &[u8]) {
    oci_face::fuzz(bytes);
}

/// The kernel's files, as the built-in image reads them.
pub fn hello(bytes: &[u8]) {
    hello::fuzz(bytes);
}

/// A target.
pub type Target = fn(&[u8]);

/// The targets by name.
pub const TARGETS: [(&str, Target); 6] = [
    ("template", template),
    ("values", values),
    ("keys", keys),
    ("command_line", command_line),
    ("runtime_arguments", runtime_arguments),
    ("hello", hello),
];

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::{TARGETS, replay};

    #[test]
    fn what_the_fuzzers_found_is_read_without_fault() {
        replay::all(&TARGETS);
    }
}
