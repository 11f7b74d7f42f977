//! What the unpacking process says at its end: JSON, once, on a pipe.

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, lossy};
use crate::extract::{Outcome, Trusted};

/// Longest text of an error that is passed on, in bytes: the names of two entries.
const TEXT_MOST: usize = 16 << 10;

#[derive(Serialize, Deserialize)]
pub(super) enum Report {
    /// The archive is unpacked.
    Done {
        bytes: u64,
        inodes: u64,
        max_uid: u32,
        max_gid: u32,
        implicit: Vec<Vec<u8>>,
        opaque: Vec<Vec<u8>>,
        trusted: Vec<Trusted>,
    },
    /// A system call failed.
    System { call: String, object: String, errno: i32 },
    /// Something is wrong with the archive.
    Archive(String),
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_MOST)].to_owned()
}

/// Whether a component of the path is `.` or `..`: no real path has one, and whoever follows such a path component by
/// component, with the host's privilege, would leave the layer.
fn climbs(path: &[u8]) -> bool {
    path.split(|&byte| byte == b'/').any(|name| matches!(name, b"." | b".."))
}

impl From<Result<Outcome>> for Report {
    fn from(result: Result<Outcome>) -> Self {
        match result {
            Ok(outcome) => Self::Done {
                bytes: outcome.bytes,
                inodes: outcome.inodes,
                max_uid: outcome.max_uid,
                max_gid: outcome.max_gid,
                implicit: outcome.implicit,
                opaque: outcome.opaque,
                trusted: outcome.trusted,
            },
            Err(Error::Sys(error)) => Self::System {
                call: cut(error.call()),
                object: cut(error.object()),
                errno: error.errno().raw_os_error(),
            },
            Err(error) => Self::Archive(cut(&error.to_string())),
        }
    }
}

impl Report {
    pub(super) fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }

    pub(super) fn into_outcome(self) -> Result<Outcome> {
        match self {
            Self::Done { bytes, inodes, max_uid, max_gid, implicit, opaque, trusted } => {
                let mut paths = implicit.iter().chain(&opaque).chain(trusted.iter().map(|found| &found.path));
                if let Some(path) = paths.find(|path| climbs(path)) {
                    return Err(Error::Jail(format!("reports a path that leads out of the layer: {}", lossy(path))));
                }
                Ok(Outcome {
                    bytes,
                    inodes,
                    max_uid,
                    max_gid,
                    implicit,
                    root_opaque: opaque.iter().any(Vec::is_empty),
                    opaque,
                    trusted,
                })
            }
            Self::System { call, object, errno } => {
                // What the kernel never answers is not taken from a process that may not be itself any more.
                let errno = if (1..4096).contains(&errno) { Errno::from_raw_os_error(errno) } else { Errno::IO };
                Err(sys::Error::new(cut(&call), cut(&object), errno).into())
            }
            Self::Archive(reason) => Err(Error::Unpack(cut(&reason))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::archive::testing::Scratch;
    use crate::extract::finish;
    use crate::xattr::is_opaque;

    #[test]
    fn reports_arrive_as_they_were_meant() {
        let trusted = Trusted { path: b"f".to_vec(), inode: 7, name: b"trusted.x".to_vec(), value: vec![0, 255] };
        let outcome = || Outcome {
            bytes: 1,
            inodes: 2,
            max_uid: 3,
            max_gid: 4,
            implicit: vec![b"a\xff".to_vec()],
            root_opaque: true,
            opaque: vec![Vec::new(), b"d".to_vec()],
            trusted: vec![trusted.clone()],
        };
        let passed = |result| Report::parse(&Report::from(result).bytes()).unwrap().into_outcome();
        assert_eq!(format!("{:?}", passed(Ok(outcome())).unwrap()), format!("{:?}", outcome()));
        let full = Error::Sys(sys::Error::new("pwrite", "etc/x", Errno::NOSPC));
        let Err(Error::Sys(error)) = passed(Err(full)) else { panic!("another error") };
        assert_eq!((error.call(), error.object(), error.errno()), ("pwrite", "etc/x", Errno::NOSPC));
        let Err(Error::Unpack(text)) = passed(Err(Error::Truncated)) else { panic!("another error") };
        assert_eq!(text, "the layer archive is truncated");
    }

    #[test]
    fn a_lying_process_is_bounded() {
        let long = "x".repeat(1 << 20);
        let report = Report::System { call: long.clone(), object: long, errno: -7 };
        let error = report.into_outcome().unwrap_err();
        assert!(error.to_string().len() < 64 << 10);
        for bad in [&b""[..], b"{}", b"null", b"{\"Done\":{}}"] {
            assert!(Report::parse(bad).is_err());
        }
    }

    #[test]
    fn a_lying_process_names_nothing_outside_the_layer() {
        let report = |implicit: &[&[u8]], opaque: &[&[u8]], trusted: &[&[u8]]| {
            let owned = |paths: &[&[u8]]| paths.iter().map(|path| path.to_vec()).collect();
            let attribute = |path: &&[u8]| Trusted {
                path: path.to_vec(),
                inode: 2,
                name: b"trusted.x".to_vec(),
                value: Vec::new(),
            };
            let (implicit, opaque) = (owned(implicit), owned(opaque));
            let trusted = trusted.iter().map(attribute).collect();
            let report = Report::Done { bytes: 0, inodes: 0, max_uid: 0, max_gid: 0, implicit, opaque, trusted };
            report.into_outcome()
        };
        let real: &[&[u8]] = &[b"", b"a", b"a/..b/...", b"a/.c"];
        assert_eq!(report(real, real, real).unwrap().opaque.len(), 4);
        for path in [&b".."[..], b"../etc", b"a/../../etc", b"a/..", b"./a", b"."] {
            for lie in [report(&[path], &[], &[]), report(&[], &[path], &[]), report(&[], &[], &[path])] {
                assert!(matches!(lie, Err(Error::Jail(_))), "{}", lossy(path));
            }
        }
    }

    #[test]
    fn what_a_lying_process_reports_marks_nothing_of_the_hosts() {
        let scratch = Scratch::new("report");
        let outside = scratch.path().join("outside");
        let layer = scratch.path().join("layer");
        std::fs::create_dir(&outside).unwrap();
        std::fs::create_dir(&layer).unwrap();
        let opaque = vec![b"../outside".to_vec()];
        let report = Report::Done {
            bytes: 0,
            inodes: 0,
            max_uid: 0,
            max_gid: 0,
            implicit: Vec::new(),
            opaque,
            trusted: Vec::new(),
        };
        let root = std::fs::File::open(&layer).unwrap();
        let finished = report.into_outcome().and_then(|outcome| finish(root.as_fd(), &outcome));
        assert!(matches!(finished, Err(Error::Jail(_))), "{finished:?}");
        assert!(!is_opaque(std::fs::File::open(&outside).unwrap()).unwrap());
    }
}
