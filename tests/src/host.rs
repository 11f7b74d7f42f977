//! A host of a test's own: data root, run directory, home, and the real binary.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use serde_json::Value;

use crate::canary::Canary;
use crate::process::{DEADLINE, Output, Running, run, tool};
use crate::{Image, leak, wait};

/// Tests that measure time or count things of the whole machine run alone; all others share.
static MACHINE: RwLock<()> = RwLock::new(());

enum Turn {
    Shared { _guard: RwLockReadGuard<'static, ()> },
    Alone { _guard: RwLockWriteGuard<'static, ()> },
}

/// How long teardown may take before what is still there counts as leaked.
const SETTLE: Duration = Duration::from_secs(10);

/// A host. Dropped, it removes its containers and asserts that nothing is left and that no canary changed.
///
/// A test makes one host only: two would wait for each other's turn.
pub struct Host {
    dir: PathBuf,
    root: PathBuf,
    run: PathBuf,
    bundles: PathBuf,
    bin: PathBuf,
    ids: Mutex<BTreeSet<String>>,
    before: Canary,
    _turn: Turn,
}

impl Host {
    /// A host with nothing on it.
    ///
    /// # Panics
    /// When there is no binary to test.
    #[must_use]
    pub fn new() -> Self {
        Self::with_turn(Turn::Shared { _guard: MACHINE.read().unwrap_or_else(PoisonError::into_inner) })
    }

    /// A host that has the machine to itself as far as this test program goes: for measurements.
    ///
    /// # Panics
    /// As [`Host::new`].
    #[must_use]
    pub fn alone() -> Self {
        Self::with_turn(Turn::Alone { _guard: MACHINE.write().unwrap_or_else(PoisonError::into_inner) })
    }

    /// A host with the image `busybox`.
    ///
    /// # Panics
    /// As [`Host::new`], and when the image cannot be loaded.
    #[must_use]
    #[track_caller]
    pub fn with_busybox() -> Self {
        let host = Self::new();
        host.load(&Image::busybox("busybox:latest"));
        host
    }

    fn with_turn(turn: Turn) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // Of one width, so that no host's name is the beginning of another's: leftovers are found, and killed, by it.
        let name = format!("lighter-e2e-{}-{:04}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(dir.join("bait")).expect("make the test's directory");
        std::fs::create_dir_all(dir.join("home")).expect("make the test's home");
        std::fs::write(dir.join("bait/file"), "bait").expect("put up bait");
        let before = Canary::look(&[dir.join("bait")]);
        let (root, run, bundles) = (dir.join("root"), dir.join("run"), dir.join("bundles"));
        Self { dir, root, run, bundles, bin: binary(), ids: Mutex::default(), before, _turn: turn }
    }

    /// Uses a copy of the binary of this test's own, so that an attack that succeeds spoils nothing else.
    ///
    /// # Panics
    /// When it cannot be copied.
    pub fn use_own_binary(&mut self) {
        let own = self.dir.join("lighter");
        std::fs::copy(&self.bin, &own).expect("copy the binary");
        self.bin = own;
    }

    /// Puts the data root somewhere else, for file systems with faults. The caller removes it.
    pub fn set_root(&mut self, root: PathBuf) {
        self.root = root;
    }

    /// Puts what describes running containers somewhere else: `/run` is a file system in memory on a real machine. The
    /// caller removes it.
    pub fn set_state(&mut self, dir: &Path) {
        (self.run, self.bundles) = (dir.join("run"), dir.join("bundles"));
    }

    /// The binary under test.
    #[must_use]
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// The data root.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The run directory.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        &self.run
    }

    /// The home directory that `lighter` sees.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.dir.join("home")
    }

    /// A directory of the test's own on the host, made if need be; gone with the host.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn scratch(&self, name: &str) -> PathBuf {
        let path = self.dir.join(name);
        std::fs::create_dir_all(&path).expect("make a directory for the test");
        path
    }

    /// The directory of an OCI bundle, with busybox in its `rootfs`. The configuration is the test's.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn bundle(&self, name: &str) -> PathBuf {
        let dir = self.scratch(name);
        let rootfs = dir.join("rootfs");
        std::fs::create_dir_all(&rootfs).expect("make the root file system");
        let tar = dir.join("rootfs.tar");
        std::fs::write(&tar, crate::image::busybox_layer()).expect("write the layer");
        tool("tar", &["-C", &rootfs.to_string_lossy(), "-xf", &tar.to_string_lossy()]);
        dir
    }

    /// A file on the host that nothing may change.
    #[must_use]
    pub fn bait(&self) -> PathBuf {
        self.dir.join("bait/file")
    }

    /// The command `lighter ARGS`, not started.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.bin);
        self.prepare(&mut command);
        command.arg("--root").arg(&self.root).arg("--run").arg(&self.run).args(args);
        command
    }

    /// The command `lighter-runtime ARGS`, not started: the face for OCI bundles.
    ///
    /// # Panics
    /// When the second name of the binary cannot be made.
    #[must_use]
    pub fn runtime(&self, args: &[&str]) -> Command {
        let face = self.dir.join("lighter-runtime");
        if !face.exists() {
            std::os::unix::fs::symlink(&self.bin, &face).expect("name the binary lighter-runtime");
        }
        let mut command = Command::new(face);
        self.prepare(&mut command);
        command.arg("--root").arg(&self.bundles).args(args);
        command
    }

    fn prepare(&self, command: &mut Command) {
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        command.env_clear().env("PATH", path).env("HOME", self.home()).env("TERM", "xterm").stdin(Stdio::null());
        command.current_dir(&self.dir);
    }

    /// Runs `lighter ARGS` to its end.
    ///
    /// # Panics
    /// At the deadline, with what was printed until then.
    #[track_caller]
    pub fn lighter(&self, args: &[&str]) -> Output {
        self.finish(self.command(args), None, DEADLINE)
    }

    /// Runs `lighter ARGS` with `input` on its standard input.
    ///
    /// # Panics
    /// As [`Host::lighter`].
    #[track_caller]
    pub fn lighter_reading(&self, args: &[&str], input: &[u8]) -> Output {
        self.finish(self.command(args), Some(input), DEADLINE)
    }

    /// Runs a prepared command to its end.
    ///
    /// # Panics
    /// At the deadline.
    #[track_caller]
    pub fn finish(&self, command: Command, input: Option<&[u8]>, deadline: Duration) -> Output {
        let output = run(command, input, deadline);
        self.remember();
        output
    }

    /// Starts `lighter ARGS` with its standard input open.
    #[must_use]
    #[track_caller]
    pub fn spawn(&self, args: &[&str]) -> Running {
        let mut command = self.command(args);
        command.stdin(Stdio::piped());
        Running::start(command)
    }

    /// `run --rm FLAGS busybox sh -c SCRIPT`.
    ///
    /// # Panics
    /// As [`Host::lighter`].
    #[track_caller]
    pub fn sh(&self, flags: &[&str], script: &str) -> Output {
        self.lighter(&[&["run", "--rm"], flags, &["busybox", "sh", "-c", script]].concat())
    }

    /// `run -d FLAGS busybox COMMAND`: the new container's id.
    ///
    /// # Panics
    /// When it does not start, or prints something else than an id.
    #[track_caller]
    pub fn detached(&self, flags: &[&str], command: &[&str]) -> String {
        let output = self.lighter(&[&["run", "-d"], flags, &["busybox"], command].concat());
        let id = output.ok().out();
        assert!(crate::cgroup::is_id(&id), "an id\n{output}");
        id
    }

    /// Loads an image from a docker-archive.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn load(&self, image: &Image) {
        self.lighter_reading(&["load"], &image.docker_archive().tar()).ok();
    }

    /// What `inspect NAME` says of one object.
    ///
    /// # Panics
    /// When it fails or gives another number of objects.
    #[must_use]
    #[track_caller]
    pub fn inspect(&self, name: &str) -> Value {
        let Value::Array(mut all) = self.lighter(&["inspect", name]).ok().json() else {
            panic!("inspect gives a list")
        };
        assert_eq!(all.len(), 1, "one object called {name}");
        all.remove(0)
    }

    /// Asserts that `exec` in container `name` does not see this machine's root directory. To be called before anything
    /// is executed that would do harm there.
    ///
    /// # Panics
    /// When it does, or cannot be told.
    #[track_caller]
    pub fn assert_exec_is_inside(&self, name: &str) {
        let root = std::fs::metadata("/").expect("this machine has a root directory");
        let outside = format!("{}:{}", root.dev(), root.ino());
        let inside = self.lighter(&["exec", name, "stat", "-c", "%d:%i", "/"]);
        assert_ne!(inside.ok().out(), outside, "exec ended up on the host\n{inside}");
        assert!(inside.out().contains(':'), "{inside}");
    }

    /// Waits until container `name` has this status.
    ///
    /// # Panics
    /// After twenty seconds.
    #[track_caller]
    pub fn wait_status(&self, name: &str, status: &str) {
        wait::until(&format!("{name} is {status}"), Duration::from_secs(20), || {
            (self.inspect(name)["State"]["Status"] == status).then_some(())
        });
    }

    /// The ids of the containers on disk now.
    #[must_use]
    pub fn containers(&self) -> BTreeSet<String> {
        let entries = std::fs::read_dir(self.root.join("containers")).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| crate::cgroup::is_id(name))
            .collect()
    }

    fn remember(&self) {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).extend(self.containers());
    }

    /// Asserts that there is no container, and that none ever was as far as the machine can tell.
    ///
    /// # Panics
    /// With a list of what is left.
    #[track_caller]
    pub fn assert_clean(&self) {
        let left = self.leftovers();
        assert!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
    }

    /// What is left once everything had time to settle.
    fn leftovers(&self) -> Vec<String> {
        self.remember();
        let ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let look = || {
            let mut left = leak::find(&self.dir, &self.run, &ids);
            left.extend(self.containers().iter().map(|id| format!("container {id}")));
            let names = std::fs::read_dir(self.root.join("names")).into_iter().flatten().flatten();
            left.extend(names.map(|name| format!("name {}", name.file_name().to_string_lossy())));
            left
        };
        wait::becomes_true(SETTLE, || look().is_empty());
        look()
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let mut complaints = Vec::new();
        if !std::thread::panicking() {
            self.remember();
            let list = run(self.command(&["ps", "-aq", "--no-trunc"]), None, DEADLINE);
            let mut ids = self.containers();
            ids.extend(list.out().lines().filter(|line| crate::cgroup::is_id(line)).map(str::to_owned));
            if !ids.is_empty() {
                let args: Vec<&str> = ["rm", "-f"].into_iter().chain(ids.iter().map(String::as_str)).collect();
                let output = run(self.command(&args), None, DEADLINE);
                if output.status != 0 {
                    complaints.push(output.to_string());
                }
            }
            complaints.extend(self.leftovers());
            complaints.extend(self.before.changes(&Canary::look(&[self.dir.join("bait")])));
        }
        self.remember();
        leak::sweep(&self.dir, &self.ids.lock().unwrap_or_else(PoisonError::into_inner));
        // Never delete below what may still be a mount of something else.
        if leak::mounts(&self.dir).is_empty() {
            drop(std::fs::remove_dir_all(&self.dir));
        } else {
            complaints.push(format!("still mounted below {}", self.dir.display()));
        }
        let quiet = std::thread::panicking();
        assert!(quiet || complaints.is_empty(), "left behind:\n  {}", complaints.join("\n  "));
    }
}

/// The directory that cargo builds into.
#[must_use]
pub fn target_dir() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let dir = std::env::var_os("CARGO_TARGET_DIR").map_or_else(default, PathBuf::from);
    dir.canonicalize().unwrap_or(dir)
}

/// The release binary: `LIGHTER_BIN`, or where cargo puts it.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn binary() -> PathBuf {
    let built = || target_dir().join("x86_64-unknown-linux-gnu/release/lighter");
    let path = std::env::var_os("LIGHTER_BIN").map_or_else(built, PathBuf::from);
    assert!(path.exists(), "no {}: `cargo build --release` makes it, `cargo xtask test` does all", path.display());
    path
}
