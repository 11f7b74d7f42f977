//! Temporary roots for tests.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use container::record::{Config, UsernsPosture, VERSION, now};
use container::{ContainerId, ContainerName};
use oci::runtime::{Process, Spec};

use crate::{Engine, Paths};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A directory that is removed with the value.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("lighter-engine-{name}-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&path).expect("made");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// An engine on this directory.
    pub(crate) fn engine(&self) -> Engine {
        Engine::open(Paths { root: self.0.join("root"), run: self.0.join("run"), logins: None }).expect("root")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A container's configuration with nothing in it but a process.
pub(crate) fn config(process: Process) -> Config {
    let name: ContainerName = "test".parse().expect("a name");
    Config {
        version: VERSION,
        id: ContainerId::from_random(&[0x5a; 32]),
        name,
        created: now(),
        image: None,
        rootfs_dir: Some("/".into()),
        spec: Spec { process: Some(process), ..Spec::default() },
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
