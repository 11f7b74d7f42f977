//! What the verbs on images take and give.

use jiff::Timestamp;
use oci::Digest;
use oci::image::ImageConfig;

/// How to pull.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullOptions {
    /// `OS/ARCH[/VARIANT]`; the host's when absent.
    pub platform: Option<String>,
    /// Whether plain HTTP is allowed to a registry that is not on this machine.
    pub insecure: bool,
}

/// How to push.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PushOptions {
    /// `OS/ARCH[/VARIANT]`: push the image for this platform alone, without its index.
    pub platform: Option<String>,
    /// Whether plain HTTP is allowed to a registry that is not on this machine.
    pub insecure: bool,
}

/// How to search.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SearchOptions {
    /// At most so many results, 1 to 100; 25 when absent.
    pub limit: Option<u64>,
    /// Only official images, or only others.
    pub official: Option<bool>,
    /// Only images that are built automatically, or only others.
    pub automated: Option<bool>,
    /// Only images with at least so many stars.
    pub stars: u64,
}

/// One repository that a search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchHit {
    /// Its name, as the registry says it.
    pub name: String,
    /// What it says of itself.
    pub description: String,
    /// How many like it.
    pub stars: u64,
    /// Whether it is an official image.
    pub official: bool,
    /// Whether it is built automatically.
    pub automated: bool,
}

/// What `push` did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Digest of what the tag stands for on the registry now.
    pub digest: Digest,
    /// Bytes of the document with that digest.
    pub size: u64,
    /// The index that the local name stands for, when only one platform's manifest was pushed because not everything
    /// the index names is here.
    pub left_out: Option<Digest>,
}

/// Where `login` put what it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginKept {
    /// In this file, not encrypted.
    File(std::path::PathBuf),
    /// With a credential helper.
    Helper,
}

/// One line of `history`: a step in which the image was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryStep {
    /// The image's id for its last step; `None` for those before, which have no image of their own.
    pub id: Option<Digest>,
    /// RFC 3339; empty when the image does not say.
    pub created: String,
    /// The command.
    pub created_by: String,
    /// Bytes of the unpacked layer the step made; 0 when it made none.
    pub size: u64,
    /// Free-form remark.
    pub comment: String,
}

/// How to import.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// `-c`: Dockerfile instructions.
    pub changes: Vec<String>,
    /// `-m`.
    pub message: Option<String>,
    /// `OS/ARCH[/VARIANT]`; the host's when absent.
    pub platform: Option<String>,
    /// Name of the new image; it stays untagged when absent.
    pub reference: Option<String>,
}

/// What `load` brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Familiar name; `None` for an image without one.
    pub reference: Option<String>,
    /// Image id.
    pub id: Digest,
}

/// Which images to list. Values of one key are alternatives; keys (and labels) must all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageFilter {
    /// Patterns of names (`repo`, `repo:tag`, `*` within a component).
    pub reference: Vec<String>,
    /// Only untagged ones, or only tagged ones.
    pub dangling: Option<bool>,
    /// `KEY` or `KEY=VALUE`.
    pub label: Vec<String>,
    /// Only those made before this image.
    pub before: Option<String>,
    /// Only those made after this image.
    pub since: Option<String>,
    /// Only those made before this moment.
    pub until: Option<Timestamp>,
}

/// One line of `images`: one name of one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSummary {
    /// Image id.
    pub id: Digest,
    /// Familiar name with tag or digest; `None` when untagged.
    pub reference: Option<String>,
    /// Familiar repository; `<none>` when untagged.
    pub repository: String,
    /// Tag; `<none>` when untagged.
    pub tag: String,
    /// Digest of what the name stands for.
    pub digest: Digest,
    /// RFC 3339; empty when the image does not say.
    pub created: String,
    /// Bytes of its unpacked layers.
    pub size: u64,
    /// Labels of its configuration.
    pub labels: std::collections::BTreeMap<String, String>,
    /// `OS/ARCH[/VARIANT]`.
    pub platform: String,
    /// How many containers are made from it.
    pub containers: usize,
    /// Whether an existing image was replaced or newly fetched (`pull`), as opposed to already up to date.
    pub changed: bool,
}

/// Everything about one image.
#[derive(Clone, Debug)]
pub struct ImageDetails {
    /// Image id.
    pub id: Digest,
    /// Familiar names with tags.
    pub repo_tags: Vec<String>,
    /// Familiar names with digests.
    pub repo_digests: Vec<String>,
    /// Digest of the manifest chosen for this platform.
    pub manifest: Digest,
    /// Media type of what the name stands for.
    pub media_type: String,
    /// Bytes of what the name stands for.
    pub target_size: u64,
    /// The image's own configuration document.
    pub config: ImageConfig,
    /// Bytes of its unpacked layers.
    pub size: u64,
    /// Where its unpacked layers are, topmost first.
    pub layers: Vec<std::path::PathBuf>,
    /// When it got the name it was found by, RFC 3339; empty when that is not known.
    pub tagged: String,
}

/// What `rmi` did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// A name is gone.
    Untagged(String),
    /// An image or a layer is gone.
    Deleted(String),
}

impl From<image::store::Removed> for Removed {
    fn from(removed: image::store::Removed) -> Self {
        match removed {
            image::store::Removed::Untagged(name) => Self::Untagged(name),
            image::store::Removed::Deleted(id) => Self::Deleted(id.to_string()),
        }
    }
}
