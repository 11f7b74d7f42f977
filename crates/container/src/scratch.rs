//! Directories and records for tests, gone when the test ends.

use std::path::{Path, PathBuf};

use crate::ContainerId;
use crate::record::{Config, UsernsPosture, VERSION};

/// A directory of one test.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// An empty directory named after the test.
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("lighter-container-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).expect("made");
        Self(path)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).expect("removed");
    }
}

/// A configuration with an id and a name made from `seed`.
pub(crate) fn config(seed: u8) -> Config {
    Config {
        version: VERSION,
        id: ContainerId::from_random(&[seed; 32]),
        name: format!("name-{seed}").parse().expect("a name"),
        created: crate::record::now(),
        image: None,
        rootfs_dir: None,
        spec: oci::runtime::Spec::default(),
        user: String::new(),
        groups: Vec::new(),
        tty: false,
        open_stdin: false,
        init: false,
        auto_remove: false,
        userns: UsernsPosture::Private,
        stop_signal: 15,
        stop_timeout: 10,
        log: None,
        labels: std::collections::BTreeMap::new(),
        said: serde_json::Value::Null,
    }
}
