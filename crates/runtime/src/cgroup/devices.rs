//! Device rules: what the specification's ordered list means, and how cgroup v1 is told.
//!
//! The last rule that covers an access decides it; a rule for all devices and all accesses wipes the slate. v2 gets the
//! rules as they are, compiled into a program (`ebpf`). v1 knows one default and exceptions to it, so the list is
//! reduced to that form, and a list that cannot be (a hole in an exception) is refused rather than misread.

use oci::runtime::LinuxDeviceCgroup;
use sys::Errno;

use super::error::{Error, Result};
use super::file::{self, Dir};
use super::limits::{DEVICES, invalid, unsupported};

/// The accesses a rule is about.
pub(super) mod access {
    /// mknod(2).
    pub(in super::super) const MKNOD: u8 = 1;
    /// open(2) for reading.
    pub(in super::super) const READ: u8 = 2;
    /// open(2) for writing.
    pub(in super::super) const WRITE: u8 = 4;
    /// All of them.
    pub(in super::super) const ALL: u8 = MKNOD | READ | WRITE;
}

/// Block or character device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Block,
    Char,
}

impl Kind {
    fn letter(self) -> char {
        match self {
            Self::Block => 'b',
            Self::Char => 'c',
        }
    }
}

/// One rule about devices of one kind; an absent number is any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) allow: bool,
    pub(super) kind: Kind,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    pub(super) access: u8,
}

const fn allow(major: u32, minor: Option<u32>) -> Rule {
    Rule { allow: true, kind: Kind::Char, major: Some(major), minor, access: access::ALL }
}

const fn allow_mknod(kind: Kind) -> Rule {
    Rule { allow: true, kind, major: None, minor: None, access: access::MKNOD }
}

/// What every container may use whatever its list says: the devices the specification requires to exist
/// (`config-linux.md`, "Default Devices"), and making device nodes, which is of no use without opening them.
const DEFAULTS: [Rule; 10] = [
    allow_mknod(Kind::Char),
    allow_mknod(Kind::Block),
    allow(1, Some(3)), // null
    allow(1, Some(5)), // zero
    allow(1, Some(7)), // full
    allow(1, Some(8)), // random
    allow(1, Some(9)), // urandom
    allow(5, Some(0)), // tty
    allow(5, Some(2)), // ptmx
    allow(136, None),  // pts
];

/// The meaning of a list of rules: rules in order over a default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    /// What holds where no rule applies.
    pub(super) allow: bool,
    /// The rules, the last that covers an access deciding.
    pub(super) rules: Vec<Rule>,
}

impl Policy {
    /// Reads the rules of a configuration over "nothing is allowed", and appends the defaults.
    ///
    /// # Errors
    /// A rule with an unknown type, an unknown access or a number out of range.
    pub(super) fn new(list: &[LinuxDeviceCgroup]) -> Result<Self> {
        let mut policy = Self { allow: false, rules: Vec::with_capacity(list.len() + DEFAULTS.len()) };
        for entry in list {
            policy.push(entry)?;
        }
        if !(policy.allow && policy.rules.is_empty()) {
            policy.rules.extend(DEFAULTS);
        }
        Ok(policy)
    }

    fn push(&mut self, entry: &LinuxDeviceCgroup) -> Result<()> {
        let number = |value: Option<i64>| match value {
            None | Some(-1) => Ok(None),
            Some(value) => u32::try_from(value)
                .map(Some)
                .map_err(|_| invalid(DEVICES, value, "it is not a device number; -1 means any")),
        };
        let (major, minor) = (number(entry.major)?, number(entry.minor)?);
        let mut mask = if entry.access.is_empty() { access::ALL } else { 0 };
        for letter in entry.access.chars() {
            mask |= match letter {
                'r' => access::READ,
                'w' => access::WRITE,
                'm' => access::MKNOD,
                _ => return Err(invalid(DEVICES, format_args!("{:?}", entry.access), "accesses are r, w and m")),
            };
        }
        let kinds: &[Kind] = match entry.kind.as_str() {
            "" | "a" => &[Kind::Char, Kind::Block],
            "c" | "u" => &[Kind::Char],
            "b" => &[Kind::Block],
            other => return Err(invalid(DEVICES, format_args!("{other:?}"), "types are a, b and c")),
        };
        if kinds.len() == 2 && major.is_none() && minor.is_none() && mask == access::ALL {
            self.allow = entry.allow;
            self.rules.clear();
        } else {
            self.rules.extend(kinds.iter().map(|&kind| Rule { allow: entry.allow, kind, major, minor, access: mask }));
        }
        Ok(())
    }
}

/// An exception to a v1 default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exception {
    pub(super) kind: Kind,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    pub(super) access: u8,
}

impl Exception {
    fn covers(&self, other: &Self) -> bool {
        let within = |mine: Option<u32>, theirs: Option<u32>| mine.is_none() || mine == theirs;
        self.kind == other.kind && within(self.major, other.major) && within(self.minor, other.minor)
    }

    fn overlaps(&self, other: &Self) -> bool {
        let meets = |mine: Option<u32>, theirs: Option<u32>| mine.is_none() || theirs.is_none() || mine == theirs;
        self.kind == other.kind
            && meets(self.major, other.major)
            && meets(self.minor, other.minor)
            && self.access & other.access != 0
    }

    pub(super) fn line(&self) -> String {
        let number = |value: Option<u32>| value.map_or_else(|| "*".to_owned(), |value| value.to_string());
        let mut line = format!("{} {}:{} ", self.kind.letter(), number(self.major), number(self.minor));
        for (bit, letter) in [(access::READ, 'r'), (access::WRITE, 'w'), (access::MKNOD, 'm')] {
            if self.access & bit != 0 {
                line.push(letter);
            }
        }
        line
    }

    /// Reads a line of `devices.list`.
    pub(super) fn parse(line: &str) -> Option<(char, Self)> {
        let mut fields = line.split_ascii_whitespace();
        let (kind, numbers, letters) = (fields.next()?, fields.next()?, fields.next()?);
        let (major, minor) = numbers.split_once(':')?;
        let number = |text: &str| if text == "*" { Some(None) } else { text.parse().ok().map(Some) };
        let mut mask = 0;
        for letter in letters.chars() {
            mask |= match letter {
                'r' => access::READ,
                'w' => access::WRITE,
                'm' => access::MKNOD,
                _ => return None,
            };
        }
        let letter = kind.chars().next()?;
        let kind = if letter == 'b' { Kind::Block } else { Kind::Char };
        Some((letter, Self { kind, major: number(major)?, minor: number(minor)?, access: mask }))
    }
}

/// A default and exceptions to it: all that v1 can hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Exceptions {
    pub(super) allow: bool,
    pub(super) list: Vec<Exception>,
}

impl Exceptions {
    pub(super) fn from_policy(policy: &Policy) -> Result<Self> {
        let mut list: Vec<Exception> = Vec::with_capacity(policy.rules.len());
        for rule in &policy.rules {
            let new = Exception { kind: rule.kind, major: rule.major, minor: rule.minor, access: rule.access };
            if rule.allow != policy.allow {
                if list.iter().any(|old| old.covers(&new) && old.access & new.access == new.access) {
                    continue;
                }
                match list.iter_mut().find(|old| (old.kind, old.major, old.minor) == (new.kind, new.major, new.minor)) {
                    Some(old) => old.access |= new.access,
                    None => list.push(new),
                }
                continue;
            }
            for old in &mut list {
                if new.covers(old) {
                    old.access &= !new.access;
                }
            }
            list.retain(|old| old.access != 0);
            if let Some(old) = list.iter().find(|old| old.overlaps(&new)) {
                let (verb, other) = if rule.allow { ("allow", "deny") } else { ("deny", "allow") };
                let reason = format_args!(
                    "cgroup v1 cannot {verb} \"{}\" within \"{}\", which an earlier rule says to {other}",
                    new.line(),
                    old.line()
                )
                .to_string();
                return Err(unsupported(DEVICES, reason));
            }
        }
        Ok(Self { allow: policy.allow, list })
    }

    /// What `devices.list` says is in force. It shows allowed devices; a default of "allow" is shown without its
    /// exceptions.
    fn in_force(dir: Dir<'_>) -> Result<Self> {
        let text = dir.read("devices.list")?;
        let mut list = Vec::new();
        for line in text.lines() {
            match Exception::parse(line) {
                Some(('a', _)) => return Ok(Self { allow: true, list: Vec::new() }),
                Some((_, exception)) => list.push(exception),
                None => return Err(dir.malformed("devices.list", line)),
            }
        }
        Ok(Self { allow: false, list })
    }
}

/// Whether a v1 group is new, and so as its parent is, or in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    New,
    InUse,
}

/// Puts `policy` in force in a v1 group. In a group in use nothing that stays allowed is denied in between.
pub(super) fn apply_v1(policy: &Policy, dir: Dir<'_>, state: State) -> Result<()> {
    let target = Exceptions::from_policy(policy)?;
    let (denied, allowed) = (Control::new(dir, "devices.deny"), Control::new(dir, "devices.allow"));
    if target.allow {
        // A new group inherits what its parent may, and cannot be given more.
        if state == State::InUse {
            allowed.write("a")?;
        }
        return target.list.iter().try_for_each(|exception| denied.write(&exception.line()));
    }
    let present = match state {
        State::New => Exceptions { allow: true, list: Vec::new() },
        State::InUse => Exceptions::in_force(dir)?,
    };
    if present.allow {
        denied.write("a")?;
    }
    for exception in present.list.iter().filter(|exception| !target.list.contains(exception)) {
        denied.write(&exception.line())?;
    }
    target
        .list
        .iter()
        .filter(|exception| !present.list.contains(exception))
        .try_for_each(|exception| allowed.write(&exception.line()))
}

/// A control file that takes many writes, opened at the first.
struct Control<'a> {
    dir: Dir<'a>,
    name: &'static str,
    fd: std::cell::OnceCell<std::os::fd::OwnedFd>,
}

impl<'a> Control<'a> {
    fn new(dir: Dir<'a>, name: &'static str) -> Self {
        Self { dir, name, fd: std::cell::OnceCell::new() }
    }

    fn write(&self, line: &str) -> Result<()> {
        let fd = match self.fd.get() {
            Some(fd) => fd,
            None => {
                let fd = file::open_for_writing(self.dir.fd, self.name)
                    .map_err(|errno| sys::Error::new("openat", self.dir.label(self.name), errno))?;
                self.fd.get_or_init(|| fd)
            }
        };
        file::write_fd(fd, line).map_err(|errno| match errno {
            Errno::PERM => {
                let reason = format_args!("the group above does not allow \"{line}\"").to_string();
                unsupported(DEVICES, reason)
            }
            errno => {
                Error::from(sys::Error::new("write", format_args!("{} ({line})", self.dir.label(self.name)), errno))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(json: &str) -> Result<Policy> {
        Policy::new(&serde_json::from_str::<Vec<LinuxDeviceCgroup>>(json).expect("valid JSON"))
    }

    fn lines(json: &str) -> Vec<String> {
        let exceptions = Exceptions::from_policy(&policy(json).expect("accepted")).expect("expressible");
        std::iter::once(format!("allow={}", exceptions.allow))
            .chain(exceptions.list.iter().map(Exception::line))
            .collect()
    }

    const DEFAULT_LINES: [&str; 11] = [
        "allow=false",
        "c *:* m",
        "b *:* m",
        "c 1:3 rwm",
        "c 1:5 rwm",
        "c 1:7 rwm",
        "c 1:8 rwm",
        "c 1:9 rwm",
        "c 5:0 rwm",
        "c 5:2 rwm",
        "c 136:* rwm",
    ];

    #[test]
    fn no_rules_and_deny_all_are_the_defaults() {
        assert_eq!(lines("[]"), DEFAULT_LINES);
        assert_eq!(lines(r#"[{"allow": false, "access": "rwm"}]"#), DEFAULT_LINES);
        assert_eq!(lines(r#"[{"allow": true}, {"allow": false, "type": "a"}]"#), DEFAULT_LINES);
    }

    #[test]
    fn allow_all_needs_nothing_else() {
        assert_eq!(policy(r#"[{"allow": true}]"#).expect("accepted"), Policy { allow: true, rules: Vec::new() });
    }

    #[test]
    fn rules_are_merged_and_taken_back() {
        let lines = lines(
            r#"[{"allow": false},
                {"allow": true, "type": "b", "major": 8, "minor": 0, "access": "r"},
                {"allow": true, "type": "b", "major": 8, "minor": 0, "access": "w"},
                {"allow": true, "type": "c", "major": 10, "minor": 200, "access": "rw"},
                {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
                {"allow": false, "type": "c", "major": 10, "minor": -1, "access": "w"},
                {"allow": true, "major": 9, "minor": 1, "access": "r"}]"#,
        );
        assert_eq!(lines[1..6], ["b 8:0 rw", "c 10:200 r", "c 10:229 r", "c 9:1 r", "b 9:1 r"]);
    }

    #[test]
    fn a_hole_is_refused_on_v1() {
        let holed = r#"[{"allow": false}, {"allow": true, "type": "c", "major": 10, "access": "rw"},
                        {"allow": false, "type": "c", "major": 10, "minor": 1, "access": "r"}]"#;
        let error = Exceptions::from_policy(&policy(holed).expect("accepted")).expect_err("not expressible");
        assert!(error.to_string().contains("c 10:1 r"), "{error}");
    }

    #[test]
    fn malformed_rules_are_refused() {
        for bad in [
            r#"[{"allow": true, "type": "p"}]"#,
            r#"[{"allow": true, "access": "x"}]"#,
            r#"[{"allow": true, "major": -2}]"#,
            r#"[{"allow": true, "minor": 4294967296}]"#,
        ] {
            assert!(policy(bad).is_err(), "{bad}");
        }
    }
}
