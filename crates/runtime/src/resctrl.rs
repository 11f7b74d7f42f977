//! `linux.intelRdt`: the container's group of the resource control file system (resctrl; `config-linux.md`, "IntelRdt";
//! the kernel's Documentation/filesystems/resctrl.rst).
//!
//! What exists already is used and left; what is made here is removed with the container.

use std::path::{Path, PathBuf};

use oci::runtime::{IntelRdt, Spec};
use rustix::fs::{AtFlags, Mode, OFlags};
use sys::{Context as _, Errno};

use crate::error::{Doing, Error, ErrorKind, Result};
use crate::plan::wrong;

/// Where the file system is mounted.
const ROOT: &str = "/sys/fs/resctrl";
/// Its magic number (`RDTGROUP_SUPER_MAGIC`, linux/magic.h).
const MAGIC: i64 = 0x0765_5821;
/// The longest `schemata` file read, in bytes; a large machine's is a few hundred.
const LONGEST: usize = 1 << 20;

/// What the configuration asks for, checked.
#[derive(Debug, PartialEq)]
struct Request {
    /// The group's directory below the root; empty for the root group.
    group: String,
    /// The monitoring group's directory below the root.
    monitoring: Option<String>,
    schemata: Vec<String>,
    /// Whether the group has to exist: it is named, and nothing says what would be in it.
    named_only: bool,
}

/// The groups of one container.
#[derive(Debug)]
pub(crate) struct Groups {
    root: PathBuf,
    request: Request,
    /// Directories below the root that were made, in the order in which they are to be removed.
    pub(crate) made: Vec<String>,
}

/// Makes the groups that `spec` asks for; none when it asks for none.
///
/// # Errors
/// [`ErrorKind::Config`] for a mistake in `linux.intelRdt`, [`ErrorKind::Unsupported`] without the file system; nothing
/// is left then.
pub(crate) fn make(spec: &Spec, id: &str) -> Result<Option<Groups>> {
    let Some(rdt) = spec.linux.as_ref().and_then(|linux| linux.intel_rdt.as_ref()) else { return Ok(None) };
    let request = Request::new(rdt, id)?;
    check_mounted(Path::new(ROOT))?;
    make_in(Path::new(ROOT), request).map(Some)
}

/// The directories that [`create_bundle`](crate::create_bundle) would make, in the order in which they are to be removed:
/// for a record that is written before, so that they are found again should the maker be killed.
///
/// # Errors
/// [`ErrorKind::Config`] for a mistake in `linux.intelRdt`.
pub fn to_be_made(spec: &Spec, id: &str) -> Result<Vec<String>> {
    let Some(rdt) = spec.linux.as_ref().and_then(|linux| linux.intel_rdt.as_ref()) else { return Ok(Vec::new()) };
    Ok(missing_in(Path::new(ROOT), Request::new(rdt, id)?))
}

fn missing_in(root: &Path, request: Request) -> Vec<String> {
    let group = Some(request.group).filter(|group| !group.is_empty() && !request.named_only);
    request.monitoring.into_iter().chain(group).filter(|name| !root.join(name).exists()).collect()
}

/// The groups of a container that was made before, for a further process of its.
pub(crate) fn existing(spec: &Spec, id: &str) -> Result<Option<Groups>> {
    let Some(rdt) = spec.linux.as_ref().and_then(|linux| linux.intel_rdt.as_ref()) else { return Ok(None) };
    Ok(Some(Groups { root: ROOT.into(), request: Request::new(rdt, id)?, made: Vec::new() }))
}

/// Removes directories that were made for a container, as [`Created::resctrl`](crate::Created::resctrl) named them. Goes
/// on past failures; gives the first.
///
/// # Errors
/// rmdir(2)'s, other than that a directory is gone.
pub fn remove(made: &[String]) -> Result<()> {
    remove_in(Path::new(ROOT), made)
}

fn remove_in(root: &Path, made: &[String]) -> Result<()> {
    let mut outcome = Ok(());
    for name in made {
        let path = root.join(name);
        match rustix::fs::unlinkat(rustix::fs::CWD, &path, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => {
                let failed =
                    Err(errno).at("rmdir", path.display()).doing(|| "cannot remove a resctrl group".to_owned());
                outcome = outcome.and(failed);
            }
        }
    }
    outcome
}

fn check_mounted(root: &Path) -> Result<()> {
    match rustix::fs::statfs(root) {
        Ok(stat) if stat.f_type == MAGIC => Ok(()),
        Ok(_) | Err(Errno::NOENT) => {
            let sentence = format!("linux.intelRdt: no resctrl file system is mounted at {}", root.display());
            Err(Error::new(ErrorKind::Unsupported, sentence))
        }
        Err(errno) => Err(errno).at("statfs", root.display()).doing(|| "cannot look for resctrl".to_owned()),
    }
}

impl Request {
    fn new(rdt: &IntelRdt, id: &str) -> Result<Self> {
        let group = match rdt.clos_id.as_str() {
            "" => id,
            "/" => "",
            name => name,
        };
        // The kernel's own directories are no groups.
        let reserved = [".", "..", "info", "mon_groups", "mon_data"].contains(&group);
        if reserved || group.contains(['/', '\0', '\n']) {
            return Err(wrong("linux.intelRdt.closID", format_args!("{:?} is no name of a group", rdt.clos_id)));
        }
        let mut schemata = rdt.schemata.clone();
        if let Some(line) = schemata.iter().find(|line| line.contains('\n')) {
            return Err(wrong("linux.intelRdt.schemata", format_args!("{line:?} is more than one line")));
        }
        // Bandwidth is said in one place only: there, when there is one.
        let l3 = rdt.l3_cache_schema.lines().filter(|line| rdt.mem_bw_schema.is_empty() || !line.starts_with("MB:"));
        schemata.extend(l3.filter(|line| !line.trim().is_empty()).map(str::to_owned));
        if !rdt.mem_bw_schema.is_empty() {
            if !rdt.mem_bw_schema.starts_with("MB:") || rdt.mem_bw_schema.contains('\n') {
                let why = format!("{:?} is no line that begins with \"MB:\"", rdt.mem_bw_schema);
                return Err(wrong("linux.intelRdt.memBwSchema", why));
            }
            schemata.push(rdt.mem_bw_schema.clone());
        }
        let monitoring = rdt.enable_monitoring.then(|| Path::new(group).join("mon_groups").join(id));
        Ok(Self {
            group: group.to_owned(),
            monitoring: monitoring.map(|path| path.to_string_lossy().into_owned()),
            named_only: !rdt.clos_id.is_empty() && schemata.is_empty(),
            schemata,
        })
    }
}

fn make_in(root: &Path, request: Request) -> Result<Groups> {
    let mut groups = Groups { root: root.to_owned(), request, made: Vec::new() };
    match groups.fill() {
        Ok(()) => Ok(groups),
        Err(error) => {
            // The first error is the one to report.
            let _ = remove_in(root, &groups.made);
            Err(error)
        }
    }
}

impl Groups {
    fn fill(&mut self) -> Result<()> {
        let group = self.request.group.clone();
        if self.request.named_only {
            let path = self.root.join(&group);
            if !path.is_dir() {
                let why = format!("there is no group {:?}, and no schemata to make one", path.display());
                return Err(wrong("linux.intelRdt.closID", why));
            }
        } else if !group.is_empty() {
            self.make(&group)?;
        }
        if !self.request.schemata.is_empty() {
            let mut text = self.request.schemata.join("\n");
            text.push('\n');
            self.write(&group, "schemata", &text).map_err(|error| self.explain(error))?;
        }
        match self.request.monitoring.clone() {
            Some(monitoring) => self.make(&monitoring),
            None => Ok(()),
        }
    }

    fn make(&mut self, name: &str) -> Result<()> {
        let path = self.root.join(name);
        match rustix::fs::mkdir(&path, Mode::from_raw_mode(0o755)) {
            Ok(()) => {
                self.made.insert(0, name.to_owned());
                Ok(())
            }
            Err(Errno::EXIST) => Ok(()),
            Err(Errno::NOSPC) => {
                let sentence = format!("linux.intelRdt: the processor has no further group for {}", path.display());
                Err(Error::system(sentence, sys::Error::new("mkdir", path.display(), Errno::NOSPC))
                    .with_kind(ErrorKind::Limit))
            }
            Err(errno) => Err(errno).at("mkdir", path.display()).doing(|| "cannot make a resctrl group".to_owned()),
        }
    }

    fn write(&self, group: &str, name: &str, text: &str) -> Result<()> {
        let path = self.root.join(group).join(name);
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::open(&path, flags, Mode::empty())
            .at("open", path.display())
            .and_then(|file| sys::fs::write_all(file, text.as_bytes(), path.display()))
            .doing(|| "cannot set linux.intelRdt".to_owned())
    }

    /// The kernel says in a file of its own why it refused.
    fn explain(&self, error: Error) -> Error {
        let path = self.root.join("info/last_cmd_status");
        let said = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .at("open", path.display())
            .and_then(|file| sys::fs::read_bounded(file, LONGEST, path.display()));
        match (said, error.cause()) {
            (Ok(said), Some(cause)) if !said.is_empty() => {
                let said = String::from_utf8_lossy(&said);
                Error::system(format!("{}: {}", error.doing(), said.trim()), cause.clone()).with_kind(ErrorKind::Config)
            }
            _ => error,
        }
    }

    /// Puts process `pid` into the groups.
    pub(crate) fn enter(&self, pid: u32) -> Result<()> {
        self.write(&self.request.group, "tasks", &pid.to_string())?;
        match &self.request.monitoring {
            Some(monitoring) => self.write(monitoring, "tasks", &pid.to_string()),
            None => Ok(()),
        }
    }
}

/// Checks a request, for the fuzz target: what is accepted names one directory.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn check(rdt: &IntelRdt) {
    if let Ok(request) = Request::new(rdt, "id") {
        assert!(!request.group.contains('/') && request.group != "..", "{request:?}");
        assert!(request.schemata.iter().all(|line| !line.contains('\n')), "{request:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(json: &str) -> std::result::Result<Request, String> {
        let rdt: IntelRdt = serde_json::from_str(json).expect("valid JSON");
        Request::new(&rdt, "c1").map_err(|error| error.to_string())
    }

    #[test]
    fn requests_are_checked() {
        let own = request(r#"{"l3CacheSchema": "L3:0=f\nMB:0=50", "memBwSchema": "MB:0=20", "schemata": ["L2:0=1"]}"#);
        let own = own.expect("valid");
        assert_eq!((own.group.as_str(), own.named_only), ("c1", false));
        assert_eq!(own.schemata, ["L2:0=1", "L3:0=f", "MB:0=20"]);
        let root = request(r#"{"closID": "/", "enableMonitoring": true}"#).expect("valid");
        assert_eq!(
            (root.group.as_str(), root.monitoring.as_deref(), root.named_only),
            ("", Some("mon_groups/c1"), true)
        );
        for (json, field) in [
            (r#"{"closID": "a/b"}"#, "linux.intelRdt.closID"),
            (r#"{"closID": ".."}"#, "linux.intelRdt.closID"),
            (r#"{"closID": "info"}"#, "linux.intelRdt.closID"),
            (r#"{"schemata": ["a\nb"]}"#, "linux.intelRdt.schemata"),
            (r#"{"memBwSchema": "L3:0=1"}"#, "linux.intelRdt.memBwSchema"),
            (r#"{"memBwSchema": "MB:0=1\nL3:0=1"}"#, "linux.intelRdt.memBwSchema"),
        ] {
            let error = request(json).expect_err(json);
            assert!(error.starts_with(field), "{error}");
        }
    }

    /// A tree like resctrl's; the kernel makes a group's files with its directory, here a group "there" has them.
    fn tree(name: &str) -> PathBuf {
        let root = std::env::temp_dir().join(format!("lighter-resctrl-{name}-{}", std::process::id()));
        for group in ["", "there"] {
            std::fs::create_dir_all(root.join(group).join("mon_groups")).expect("made");
            for file in ["schemata", "tasks"] {
                std::fs::write(root.join(group).join(file), "").expect("made");
            }
        }
        root
    }

    #[test]
    fn only_what_was_made_is_removed() {
        let root = tree("made");
        let json = r#"{"closID": "there", "schemata": ["L3:0=3"], "enableMonitoring": true}"#;
        assert_eq!(missing_in(&root, request(json).expect("valid")), ["there/mon_groups/c1"]);
        let groups = make_in(&root, request(json).expect("valid")).expect("made");
        assert_eq!(groups.made, ["there/mon_groups/c1"]);
        assert_eq!(missing_in(&root, request(json).expect("valid")), Vec::<String>::new(), "it is somebody's");
        assert_eq!(std::fs::read_to_string(root.join("there/schemata")).expect("read"), "L3:0=3\n");
        std::fs::write(root.join("there/mon_groups/c1/tasks"), "").expect("the kernel's file");
        groups.enter(42).expect("entered");
        assert_eq!(std::fs::read_to_string(root.join("there/tasks")).expect("read"), "42");
        assert_eq!(std::fs::read_to_string(root.join("there/mon_groups/c1/tasks")).expect("read"), "42");
        std::fs::remove_file(root.join("there/mon_groups/c1/tasks")).expect("the kernel's file");
        remove_in(&root, &groups.made).expect("removed");
        remove_in(&root, &groups.made).expect("gone is as good");
        assert!(root.join("there").is_dir() && !root.join("there/mon_groups/c1").exists());
        std::fs::remove_dir_all(root).expect("removed");
    }

    #[test]
    fn what_is_going_to_be_made_is_known_before() {
        let root = tree("before");
        let missing = |json: &str| missing_in(&root, request(json).expect("valid"));
        assert_eq!(missing(r#"{"schemata": ["L3:0=3"], "enableMonitoring": true}"#), ["c1/mon_groups/c1", "c1"]);
        assert_eq!(missing(r#"{"closID": "/", "enableMonitoring": true}"#), ["mon_groups/c1"]);
        for json in [r#"{"closID": "/"}"#, r#"{"closID": "absent"}"#, r#"{"closID": "there", "schemata": ["x"]}"#] {
            assert_eq!(missing(json), Vec::<String>::new(), "{json}");
        }
        std::fs::remove_dir_all(root).expect("removed");
    }

    #[test]
    fn a_failure_leaves_nothing() {
        let root = tree("failure");
        // Without the kernel the new group has no schemata file, so writing it fails.
        let error = make_in(&root, request(r#"{"schemata": ["L3:0=3"]}"#).expect("valid")).expect_err("no file");
        assert_eq!(error.cause().map(sys::Error::errno), Some(Errno::NOENT));
        assert!(!root.join("c1").exists());
        let error = make_in(&root, request(r#"{"closID": "absent"}"#).expect("valid")).expect_err("no group");
        assert!(error.to_string().starts_with("linux.intelRdt.closID"), "{error}");
        let error = check_mounted(&root).expect_err("no resctrl");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        std::fs::remove_dir_all(root).expect("removed");
    }
}
