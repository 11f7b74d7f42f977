//! The façade: everything a front-end can ask of lighter, as blocking calls on files, locks and monitors.
//!
//! The engine knows no terminal and no protocol. It has no background threads and no memory that counts: the file
//! system is the truth, so any number of processes may hold an [`Engine`] on one root at once.
//!
//! - [`spec`] is what a front-end says; [`specgen`] resolves it against image and host into what is meant.
//! - [`containers`] and [`images`] hold the verbs; [`hello`] the built-in image; [`info`] what the host offers.

pub mod containers;
pub mod error;
mod failure;
pub mod hello;
mod host;
pub mod images;
pub mod info;
mod paths;
pub mod spec;
pub mod specgen;
#[cfg(test)]
mod testing;
pub mod volumes;

pub use container::client::Session;
pub use container::{ContainerId, ContainerName};
pub use containers::{
    ContainerDetails, ContainerFilter, ContainerSummary, CreatedContainer, ExecSession, LogEntry, LogOptions, Posture,
    RemoveOptions, Repair, SizeInfo, StartOptions, Stream,
};
pub use error::{Error, ErrorKind, Result};
pub use image::{LayerRecord, Phase, Progress, Quiet};
pub use images::{
    DiskUsage, HistoryStep, ImageDetails, ImageFilter, ImageSummary, ImageTree, ImportOptions, LayerShare, Loaded,
    LoginKept, ManifestAnnotation, ManifestDetails, ManifestFound, ManifestListPushed, MountedImage, Problem,
    ProblemKind, PruneFilter, Pruned, PullOptions, PushOptions, Pushed, Removed, RepairReport, Repaired, SearchHit,
    SearchOptions, StoreReport,
};
pub use info::Info;
pub use paths::Paths;
/// What the program has to enter when it is called by [`jail::ARGUMENT`].
pub use storage::jail;
pub use volumes::{NewVolume, VolumeDetails, VolumeFilter};

use std::fmt;
use std::sync::{Mutex, OnceLock};

/// One data root and its runtime directory. Cheap to open; holds no lock.
pub struct Engine {
    paths: Paths,
    /// The configuration this process made last: `run` starts it at once, and it never changes.
    made: Mutex<Option<container::record::Config>>,
    /// Opened when first needed.
    layers: OnceLock<storage::LayerStore>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("paths", &self.paths).finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine on `paths`. Directories are made when first needed.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when the caller is not root.
    pub fn open(paths: Paths) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::new(ErrorKind::Unsupported, "lighter needs root privileges to run containers")
                .hint("run it as root, for example with sudo; rootless containers are not available yet"));
        }
        Ok(Self { paths, made: Mutex::new(None), layers: OnceLock::new() })
    }

    pub(crate) fn layers(&self) -> Result<&storage::LayerStore> {
        match self.layers.get() {
            Some(layers) => Ok(layers),
            None => {
                let opened = storage::LayerStore::open(&self.paths.root)?;
                Ok(self.layers.get_or_init(|| opened))
            }
        }
    }

    /// Where this engine keeps its state.
    #[must_use]
    pub fn paths(&self) -> &Paths {
        &self.paths
    }
}
