//! Who the process is: docker's `USER[:GROUP]` against the container's own `/etc/passwd` and `/etc/group`.
//!
//! A number is a `u32` or an error, never a name (CVE-2016-3697 and its returns); a malformed line is skipped, never
//! read as uid 0 (CVE-2026-30892's kind); the files are regular, bounded, and resolved inside the root.

use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};
use sys::Errno;

use crate::error::{Error, ErrorKind, Result};

/// Longest passwd or group file read, in bytes. Debian's are 2 KiB; a large directory export is a few MiB.
const LONGEST_FILE: usize = 16 << 20;

/// Most supplementary groups (`NGROUPS_MAX`, limits.h).
const MOST_GROUPS: usize = 65536;

/// The ids a process runs with, and its home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups, the primary one first: a group must not be droppable from the list alone (CVE-2022-36109).
    pub(crate) groups: Vec<u32>,
    pub(crate) home: Option<String>,
}

/// One word of `USER[:GROUP]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word<'a> {
    Number(u32),
    Name(&'a str),
}

impl<'a> Word<'a> {
    /// What begins with a sign or consists of digits is meant as a number.
    fn parse(text: &'a str, what: &str) -> Result<Self> {
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(Self::Name(text));
        }
        // u32::MAX is "no change" to setresuid(2).
        match text.parse::<u32>() {
            Ok(number) if number != u32::MAX && !text.starts_with('+') => Ok(Self::Number(number)),
            _ => Err(unknown(format!("{what} id {text:?} is not between 0 and 4294967294"))),
        }
    }
}

fn unknown(sentence: String) -> Error {
    Error::new(ErrorKind::UnknownUser, sentence)
}

/// Looks `user` and `extra` groups up in the files below `root`.
pub(crate) fn look_up(root: impl AsFd, user: &str, extra: &[String]) -> Result<Credentials> {
    let said = Said::parse(user)?;
    let passwd = read(&root, "etc/passwd")?;
    let group = read(&root, "etc/group")?;
    resolve(said, extra, &passwd, &group)
}

/// `USER[:GROUP]`, taken apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said<'a> {
    user: Word<'a>,
    group: Option<&'a str>,
}

impl<'a> Said<'a> {
    /// No user at all is root.
    pub(crate) fn parse(text: &'a str) -> Result<Self> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let user = if user.is_empty() { Word::Number(0) } else { Word::parse(user, "user")? };
        Ok(Self { user, group })
    }
}

fn read(root: impl AsFd, path: &str) -> Result<String> {
    let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::NONBLOCK;
    let file = match sys::fs::open_in_root(root, path, flags, Mode::empty()) {
        Ok(file) => file,
        Err(cause) if matches!(cause.errno(), Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(String::new()),
        Err(cause) => return Err(Error::system(format!("cannot open the image's /{path}"), cause)),
    };
    let bytes = sys::fs::read_regular(file, LONGEST_FILE, path).map_err(|cause| {
        Error::system(format!("cannot read the image's /{path}"), cause).with_kind(ErrorKind::UnknownUser)
    })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A line of passwd(5): name, uid, gid, home.
fn passwd_lines(text: &str) -> impl Iterator<Item = (&str, u32, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        fields.next()?;
        let uid = number(fields.next()?)?;
        let gid = number(fields.next()?)?;
        fields.next()?;
        Some((name, uid, gid, fields.next()?))
    })
}

/// A line of group(5): name, gid, members.
fn group_lines(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        fields.next()?;
        let gid = number(fields.next()?)?;
        Some((name, gid, fields.next().unwrap_or("")))
    })
}

fn number(field: &str) -> Option<u32> {
    let valid = !field.is_empty() && field.bytes().all(|byte| byte.is_ascii_digit());
    if valid { field.parse().ok().filter(|number| *number != u32::MAX) } else { None }
}

/// What `said` and `extra` groups are by the texts of the two files.
pub(crate) fn resolve(said: Said<'_>, extra: &[String], passwd: &str, groups: &str) -> Result<Credentials> {
    let Said { user, group } = said;
    let entry = passwd_lines(passwd).find(|(name, uid, ..)| match user {
        Word::Number(number) => *uid == number,
        Word::Name(wanted) => *name == wanted,
    });
    let (name, uid, mut gid, home) = match (entry, user) {
        (Some((name, uid, gid, home)), _) => (Some(name), uid, gid, Some(home.to_owned())),
        (None, Word::Number(uid)) => (None, uid, 0, None),
        (None, Word::Name(wanted)) => {
            return Err(unknown(format!(
                "unable to find user {wanted}: no matching entries in the image's /etc/passwd"
            )));
        }
    };
    let find_group = |text: &str| match Word::parse(text, "group")? {
        Word::Number(number) => Ok(number),
        Word::Name(wanted) => {
            group_lines(groups).find(|(name, ..)| *name == wanted).map(|(_, gid, _)| gid).ok_or_else(|| {
                unknown(format!("unable to find group {wanted}: no matching entries in the image's /etc/group"))
            })
        }
    };
    let mut list = Vec::new();
    match group.filter(|text| !text.is_empty()) {
        // A group that was named replaces the ones the user is a member of, as in docker.
        Some(text) => {
            gid = find_group(text)?;
            list.push(gid);
        }
        None => {
            list.push(gid);
            let member_of = group_lines(groups)
                .filter(|(_, _, members)| name.is_some_and(|name| members.split(',').any(|member| member == name)));
            list.extend(member_of.map(|(_, gid, _)| gid));
        }
    }
    for text in extra {
        list.push(find_group(text)?);
    }
    let mut seen = std::collections::HashSet::new();
    list.retain(|gid| seen.insert(*gid));
    if list.len() > MOST_GROUPS {
        return Err(unknown(format!("{} supplementary groups are more than {MOST_GROUPS}", list.len())));
    }
    Ok(Credentials { uid, gid, groups: list, home })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\n:x:0:0::/:\nevil:x:notanumber:0::/:\n\
                          big:x:4294967296:0::/:\nmax:x:4294967295:0::/:\n1000x:x:7:7::/x:\n4294967296:x:0:0::/:\n\
                          -1:x:0:0::/:\n00:x:0:0::/:\napp:x:1000:1001:App:/home/app:/bin/sh\nshort:x:5:5\n";
    const GROUP: &str = "root:x:0:\napp:x:1001:\nwheel:x:10:app,other\nbad:x:zz:app\naudio:x:29:other,app\n1001:x:0:\n";

    fn check(user: &str, extra: &[&str]) -> Result<(u32, u32, Vec<u32>)> {
        let extra: Vec<String> = extra.iter().map(|text| (*text).to_owned()).collect();
        resolve(Said::parse(user)?, &extra, PASSWD, GROUP).map(|found| (found.uid, found.gid, found.groups))
    }

    #[test]
    fn users_and_groups_as_in_docker() {
        assert_eq!(check("", &[]), Ok((0, 0, vec![0])));
        assert_eq!(check("root", &[]), Ok((0, 0, vec![0])));
        assert_eq!(check("app", &[]), Ok((1000, 1001, vec![1001, 10, 29])));
        assert_eq!(check("1000", &[]), Ok((1000, 1001, vec![1001, 10, 29])));
        assert_eq!(check("app:wheel", &[]), Ok((1000, 10, vec![10])));
        assert_eq!(check("app:1001", &["audio", "77"]), Ok((1000, 1001, vec![1001, 29, 77])));
        assert_eq!(check("4242", &[]), Ok((4242, 0, vec![0])));
        assert_eq!(check("4242:4343", &[]), Ok((4242, 4343, vec![4343])));
        assert_eq!(check("1000x", &[]), Ok((7, 7, vec![7])));
    }

    #[test]
    fn numbers_are_never_names_and_broken_lines_never_root() {
        for user in
            ["4294967295", "4294967296", "-1", "+1", "99999999999999999999", "evil", "big", "max", "broken", "short"]
        {
            assert_eq!(check(user, &[]).map_err(|error| error.kind()), Err(ErrorKind::UnknownUser), "{user}");
        }
        for group in ["app:-1", "app:4294967295", "app:bad", "app:nobody"] {
            assert!(check(group, &[]).is_err(), "{group}");
        }
        assert!(check("app", &["-1"]).is_err());
    }
}
