//! What every way of bringing an image in needs.

use std::sync::atomic::AtomicU64;

use oci::Platform;

use crate::assemble::{Assembly, Source};
use crate::{ContentStore, ImageStore, LayerSink, Limits, Progress};

/// Layers worked on at a time, unless said otherwise.
const PARALLEL: usize = 3;

/// Brings images in: [`Inbound::load`], [`Inbound::load_layout`], [`Inbound::import`], [`Inbound::pull`].
///
/// Each holds a lease on the content store for its duration, and writes records last.
pub struct Inbound<'a> {
    pub(crate) content: &'a ContentStore,
    pub(crate) images: &'a ImageStore,
    pub(crate) sink: &'a dyn LayerSink,
    pub(crate) progress: &'a dyn Progress,
    pub(crate) limits: Limits,
    pub(crate) platform: Option<Platform>,
    pub(crate) parallel: usize,
}

impl<'a> Inbound<'a> {
    /// Into these stores, with layers unpacked by `sink`. `images` is the store whose blobs `content` holds.
    #[must_use]
    pub fn new(
        content: &'a ContentStore,
        images: &'a ImageStore,
        sink: &'a dyn LayerSink,
        progress: &'a dyn Progress,
    ) -> Self {
        Self { content, images, sink, progress, limits: Limits::default(), platform: None, parallel: PARALLEL }
    }

    /// With other bounds on decompression.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// For `platform` only. Without one, the host's is chosen from an index, and an image that is offered for a single
    /// platform is taken whatever that is.
    #[must_use]
    pub fn platform(mut self, platform: Option<Platform>) -> Self {
        self.platform = platform;
        self
    }

    /// With `parallel` layers at a time.
    #[must_use]
    pub fn parallel(mut self, parallel: usize) -> Self {
        self.parallel = parallel;
        self
    }

    pub(crate) fn assembly(&'a self, source: &'a dyn Source) -> Assembly<'a> {
        Assembly {
            content: self.content,
            sink: self.sink,
            progress: self.progress,
            source,
            limits: self.limits,
            platform: self.platform.clone(),
            parallel: self.parallel,
            unpacked: AtomicU64::new(0),
        }
    }
}
