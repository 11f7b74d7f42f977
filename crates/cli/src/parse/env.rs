//! Variables and labels, from flags and files.

use std::collections::BTreeMap;
use std::io::Read as _;

use crate::failure::{Failure, Outcome};

/// The longest file of variables or labels, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// The caller's environment: what a bare `NAME` takes its value from.
pub(crate) trait Surroundings {
    /// The value of a variable, when set.
    fn get(&self, name: &str) -> Option<String>;
}

/// This process's environment.
pub(crate) struct Process;

impl Surroundings for Process {
    fn get(&self, name: &str) -> Option<String> {
        std::env::var_os(name).and_then(|value| value.into_string().ok())
    }
}

/// `-e NAME=value` as it is; `-e NAME` with the caller's value, or alone when there is none, which removes it.
///
/// # Errors
/// An empty name.
pub(crate) fn variable(text: &str, from: &impl Surroundings) -> Result<String, String> {
    let name = text.split_once('=').map_or(text, |(name, _)| name);
    if name.is_empty() {
        return Err("a variable has no name".into());
    }
    if text.contains('\0') {
        return Err("a NUL byte".into());
    }
    match (text.contains('='), from.get(name)) {
        (false, Some(value)) => Ok(format!("{name}={value}")),
        _ => Ok(text.to_owned()),
    }
}

/// The lines of a file of variables: blank lines and those that begin with `#` are left out; a bare name takes the
/// caller's value and is left out when there is none.
///
/// # Errors
/// The number of a line whose name is empty or has blanks in it.
pub(crate) fn file_lines(text: &str, from: &impl Surroundings) -> Result<Vec<String>, String> {
    let mut variables = Vec::new();
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let number = index + 1;
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (line.trim_end(), None),
        };
        if name.is_empty() {
            return Err(format!("line {number}: a variable has no name"));
        }
        if name.contains(char::is_whitespace) {
            return Err(format!("line {number}: the name {name:?} contains blanks"));
        }
        if line.contains('\0') {
            return Err(format!("line {number}: a NUL byte"));
        }
        if let Some(value) = value.or_else(|| from.get(name)) {
            variables.push(format!("{name}={value}"));
        }
    }
    Ok(variables)
}

/// The text of a file the user named for `flag`, bounded.
///
/// # Errors
/// It cannot be read, is too long, or is not UTF-8.
pub(crate) fn read_file(flag: &str, path: &str) -> Outcome<String> {
    let doing = || format!("cannot read {path:?} for --{flag}");
    let file = std::fs::File::open(path).map_err(|error| Failure::io(doing(), error))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|error| Failure::io(doing(), error))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Failure::usage(format!("{path:?} for --{flag} has more than {} MiB", MAX_FILE >> 20)));
    }
    String::from_utf8(bytes).map_err(|_| Failure::usage(format!("{path:?} for --{flag} is not UTF-8")))
}

/// `KEY[=VALUE]`, later ones over earlier ones.
///
/// # Errors
/// An empty key.
pub(crate) fn label(text: &str, labels: &mut BTreeMap<String, String>) -> Result<(), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() {
        return Err("a label has no key".into());
    }
    labels.insert(key.to_owned(), value.to_owned());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Only(&'static str, &'static str);

    impl Surroundings for Only {
        fn get(&self, name: &str) -> Option<String> {
            (name == self.0).then(|| self.1.to_owned())
        }
    }

    #[test]
    fn bare_names_take_the_callers_value() {
        let from = Only("HOME", "/root");
        assert_eq!(variable("A=b=c", &from), Ok("A=b=c".into()));
        assert_eq!(variable("HOME", &from), Ok("HOME=/root".into()));
        assert_eq!(variable("HOME=", &from), Ok("HOME=".into()));
        assert_eq!(variable("OTHER", &from), Ok("OTHER".into()));
        assert!(variable("=x", &from).is_err());
        assert!(variable("", &from).is_err());
    }

    #[test]
    fn files_follow_dockers_rules() {
        let from = Only("TAKEN", "yes");
        let text = "\u{feff}# note\n\nA=1\n  B= two words \nTAKEN\nMISSING\nC=\"quoted\"#not a note\r\nD=\n";
        let expected = ["A=1", "B= two words ", "TAKEN=yes", "C=\"quoted\"#not a note", "D="];
        assert_eq!(file_lines(text, &from).expect("fits"), expected);
        assert!(file_lines("A=1\nb c=1\n", &from).expect_err("blank").starts_with("line 2"));
        assert!(file_lines("=x\n", &from).is_err());
    }

    #[test]
    fn labels_overwrite() {
        let mut labels = BTreeMap::new();
        for text in ["a=1", "b", "a=2=3"] {
            label(text, &mut labels).expect("fits");
        }
        assert_eq!(labels["a"], "2=3");
        assert_eq!(labels["b"], "");
        assert!(label("=x", &mut labels).is_err());
    }
}
