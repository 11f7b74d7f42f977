//! The image specification's documents: descriptors, manifests, indexes and configurations, as read and as written.
//!
//! Both families of media types are understood, the OCI ones and Docker's; the documents are the same otherwise.
//! `null` reads as absent everywhere, because Go's encoder writes it for empty lists and maps. A document's digest is
//! over the bytes that were received, so those are stored, never a second serialisation.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::digest::Digest;
use crate::platform::Platform;

/// Media types, by what they are.
pub mod media_type {
    /// An OCI image index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// An OCI image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An OCI image configuration.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// An uncompressed OCI layer.
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// A gzip-compressed OCI layer.
    pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// A zstd-compressed OCI layer.
    pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// A Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// A Docker manifest, schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// A Docker image configuration.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// A Docker layer.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// The prefix of Docker's obsolete manifests, schema 1, signed or not.
    pub const DOCKER_SCHEMA1_PREFIX: &str = "application/vnd.docker.distribution.manifest.v1+";

    /// Whether `media_type` is an index or a manifest list.
    #[must_use]
    pub fn is_index(media_type: &str) -> bool {
        matches!(media_type, OCI_INDEX | DOCKER_LIST)
    }

    /// Whether `media_type` is a layer that may not be sent to registries (`layer.md`, deprecated; Docker's "foreign").
    #[must_use]
    pub fn is_foreign(media_type: &str) -> bool {
        media_type.starts_with("application/vnd.oci.image.layer.nondistributable.v1.tar")
            || media_type == "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    }

    /// Whether `media_type` is a manifest of one image.
    #[must_use]
    pub fn is_manifest(media_type: &str) -> bool {
        matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
    }
}

/// Annotation that names an image in an OCI layout's index.
pub const ANNOTATION_REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Annotation in which containerd and docker keep an image's full reference.
pub const ANNOTATION_CONTAINERD_NAME: &str = "io.containerd.image.name";

fn lenient<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// A list of words that old documents write as one string (Docker's `StrSlice`).
fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        One(String),
        Many(Vec<String>),
    }
    Ok(Option::<Words>::deserialize(deserializer)?.map(|words| match words {
        Words::One(word) => vec![word],
        Words::Many(words) => words,
    }))
}

/// `descriptor.md`: what a blob is, how large, and its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the blob.
    #[serde(default, deserialize_with = "lenient")]
    pub media_type: String,
    /// Digest of the blob.
    pub digest: Digest,
    /// Size of the blob, in bytes.
    pub size: u64,
    /// Where else the blob may be had (deprecated, for non-distributable layers).
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Arbitrary metadata.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The blob itself in base64, for small ones; not verified.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "String::is_empty")]
    pub data: String,
    /// What the blob, a manifest, runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Kind of artifact, when the blob is one.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "String::is_empty")]
    pub artifact_type: String,
}

impl Descriptor {
    /// A descriptor of `bytes`.
    #[must_use]
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::sha256_of(bytes), bytes.len() as u64)
    }

    /// A descriptor without annotations.
    #[must_use]
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            data: String::new(),
            platform: None,
            artifact_type: String::new(),
        }
    }
}

/// `manifest.md`: one image for one platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Media type of this document; may be absent in OCI manifests.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// Kind of artifact, when it is not an image.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "String::is_empty")]
    pub artifact_type: String,
    /// The configuration.
    pub config: Descriptor,
    /// The layers, bottom first.
    #[serde(default, deserialize_with = "lenient")]
    pub layers: Vec<Descriptor>,
    /// The manifest this one is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Arbitrary metadata.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// `image-index.md`: manifests of one image for several platforms; also the `index.json` of an image layout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// Media type of this document; may be absent in OCI indexes.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// The manifests, in order of preference.
    #[serde(default, deserialize_with = "lenient")]
    pub manifests: Vec<Descriptor>,
    /// Arbitrary metadata.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A manifest or an index: what a tag can name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Box<Manifest>),
    /// Images for several platforms.
    Index(Index),
}

/// Why bytes are neither a manifest nor an index.
#[derive(Debug, thiserror::Error)]
pub enum InvalidDocument {
    /// Not the JSON of the kind it says it is.
    #[error("not a valid manifest: {0}")]
    Json(#[from] serde_json::Error),
    /// It could be read as a manifest and as an index (CVE-2021-41190).
    #[error("a manifest that has both layers and manifests is ambiguous")]
    Ambiguous,
    /// It says one media type and was delivered, or is built, as another.
    #[error("the document says it is {said:?} but is {found:?}")]
    MediaType {
        /// What its `mediaType` or its transport says.
        said: String,
        /// What it is.
        found: String,
    },
    /// Schema 1, which carries no verifiable configuration.
    #[error("manifest schema 1 is obsolete and not supported; the image has to be pushed again by a current tool")]
    Schema1,
    /// `schemaVersion` is not 2.
    #[error("schemaVersion is {0}, not 2")]
    SchemaVersion(u64),
    /// It has neither `config` nor `manifests`.
    #[error("the document is neither an image manifest nor an index")]
    Unknown,
}

impl Document {
    /// Reads a manifest or an index. `media_type` is what its descriptor or its transport said; empty when nothing did.
    ///
    /// # Errors
    /// See [`InvalidDocument`].
    pub fn parse(bytes: &[u8], media_type: &str) -> Result<Self, InvalidDocument> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Probe {
            #[serde(default, deserialize_with = "lenient")]
            schema_version: u64,
            #[serde(default, deserialize_with = "lenient")]
            media_type: String,
            #[serde(default)]
            config: Option<serde::de::IgnoredAny>,
            #[serde(default)]
            layers: Option<serde::de::IgnoredAny>,
            #[serde(default)]
            manifests: Option<serde::de::IgnoredAny>,
            #[serde(default)]
            fs_layers: Option<serde::de::IgnoredAny>,
        }
        let probe: Probe = serde_json::from_slice(bytes)?;
        let schema1 = media_type.starts_with(media_type::DOCKER_SCHEMA1_PREFIX);
        if schema1 || (probe.schema_version == 1 && probe.fs_layers.is_some()) {
            return Err(InvalidDocument::Schema1);
        }
        if probe.manifests.is_some() && (probe.layers.is_some() || probe.config.is_some()) || probe.fs_layers.is_some()
        {
            return Err(InvalidDocument::Ambiguous);
        }
        if probe.schema_version != 2 {
            return Err(InvalidDocument::SchemaVersion(probe.schema_version));
        }
        let is_index = probe.manifests.is_some() || media_type::is_index(&probe.media_type);
        if !is_index && probe.config.is_none() {
            return Err(InvalidDocument::Unknown);
        }
        for said in [media_type, &probe.media_type] {
            let wrong = if is_index { media_type::is_manifest(said) } else { media_type::is_index(said) };
            if wrong {
                let found = if is_index { "an index" } else { "a manifest" };
                return Err(InvalidDocument::MediaType { said: said.to_owned(), found: found.to_owned() });
            }
        }
        let known = |said: &str| media_type::is_index(said) || media_type::is_manifest(said);
        if known(media_type) && known(&probe.media_type) && media_type != probe.media_type {
            return Err(InvalidDocument::MediaType { said: media_type.to_owned(), found: probe.media_type });
        }
        Ok(if is_index {
            Self::Index(serde_json::from_slice(bytes)?)
        } else {
            Self::Manifest(Box::new(serde_json::from_slice(bytes)?))
        })
    }

    /// The document's media type: its own word, or OCI's for its kind.
    #[must_use]
    pub fn media_type(&self) -> &str {
        let (own, default) = match self {
            Self::Manifest(manifest) => (&manifest.media_type, media_type::OCI_MANIFEST),
            Self::Index(index) => (&index.media_type, media_type::OCI_INDEX),
        };
        if own.is_empty() { default } else { own }
    }
}

/// `config.md`: an image's configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// When the image was made, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Architecture, operating system and variant.
    #[serde(flatten)]
    pub platform: Platform,
    /// How containers of the image run by default.
    #[serde(deserialize_with = "lenient")]
    pub config: ContainerConfig,
    /// The layers' uncompressed digests.
    #[serde(deserialize_with = "lenient")]
    pub rootfs: RootFs,
    /// How the image was made, one entry a step.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
    /// Docker's free-form remark.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// The docker that made it, as images of old say.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "String::is_empty")]
    pub docker_version: String,
}

/// `rootfs` of an image configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", deserialize_with = "lenient")]
    pub kind: String,
    /// Digests of the uncompressed layers, bottom first.
    #[serde(deserialize_with = "lenient")]
    pub diff_ids: Vec<Digest>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self { kind: "layers".to_owned(), diff_ids: Vec::new() }
    }
}

/// One step of an image's history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// When, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The command that made the step.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// Who.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Remark.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Whether the step made no layer.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// `config` of an image configuration: how containers of the image run by default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ContainerConfig {
    /// `USER`: user and group, by name or number.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `EXPOSE`: ports, `80/tcp`.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// `ENV`: `NAME=value`.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// `ENTRYPOINT`.
    #[serde(deserialize_with = "words", skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// `CMD`.
    #[serde(deserialize_with = "words", skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// `VOLUME`: paths inside the container.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, Empty>,
    /// `WORKDIR`.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// `LABEL`.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// `STOPSIGNAL`.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// `HEALTHCHECK`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// `SHELL`.
    #[serde(deserialize_with = "words", skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    /// `ONBUILD`.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// Whether the command is already escaped (Windows).
    #[serde(deserialize_with = "lenient", skip_serializing_if = "std::ops::Not::not")]
    pub args_escaped: bool,
}

/// The value of Go's sets, `map[string]struct{}`: an object nobody reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Empty {}

impl<'de> Deserialize<'de> for Empty {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer)?;
        Ok(Self {})
    }
}

/// `Healthcheck`: durations are nanoseconds; 0 means the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `NONE`, or `CMD` and arguments, or `CMD-SHELL` and one string.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Time between checks.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// Time after which a check has failed.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// Time during which failures do not count.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Time between checks during the start period.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row until the container is unhealthy.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_zero")]
    pub retries: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands the field by reference")]
fn is_zero(n: &i64) -> bool {
    *n == 0
}

impl ImageConfig {
    /// Reads a configuration.
    ///
    /// # Errors
    /// The position and kind of the first mistake, as serde_json words it.
    pub fn from_json(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

/// The ChainIDs of layers with `diff_ids`, bottom first (`config.md`, "Layer ChainID"): each names a layer together
/// with all layers below it.
#[must_use]
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.clone(),
            Some(below) => Digest::sha256_of(format!("{below} {diff_id}").as_bytes()),
        };
        chain.push(next);
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn manifest(extra: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{}","digest":"{EMPTY}","size":0}},"layers":null{extra}}}"#,
            media_type::OCI_CONFIG
        )
    }

    #[test]
    fn documents_are_what_they_say() {
        let parsed = Document::parse(manifest("").as_bytes(), media_type::OCI_MANIFEST).expect("valid");
        assert_eq!(parsed.media_type(), media_type::OCI_MANIFEST);
        assert!(matches!(&parsed, Document::Manifest(m) if m.layers.is_empty() && m.config.size == 0));

        let index = br#"{"schemaVersion":2,"manifests":[]}"#;
        assert!(matches!(Document::parse(index, ""), Ok(Document::Index(_))));

        let both = manifest(r#","manifests":[]"#);
        assert!(matches!(Document::parse(both.as_bytes(), ""), Err(InvalidDocument::Ambiguous)));
        let layers_and_manifests = br#"{"schemaVersion":2,"layers":[],"manifests":[]}"#;
        assert!(matches!(Document::parse(layers_and_manifests, ""), Err(InvalidDocument::Ambiguous)));
        assert!(matches!(
            Document::parse(manifest("").as_bytes(), media_type::OCI_INDEX),
            Err(InvalidDocument::MediaType { .. })
        ));
        assert!(matches!(Document::parse(index, media_type::DOCKER_MANIFEST), Err(InvalidDocument::MediaType { .. })));
        let said_otherwise = manifest(&format!(r#","mediaType":"{}""#, media_type::DOCKER_MANIFEST));
        assert!(matches!(
            Document::parse(said_otherwise.as_bytes(), media_type::OCI_MANIFEST),
            Err(InvalidDocument::MediaType { .. })
        ));
        assert!(matches!(
            Document::parse(br#"{"schemaVersion":1,"fsLayers":[],"history":[]}"#, ""),
            Err(InvalidDocument::Schema1)
        ));
        assert!(matches!(Document::parse(b"{}", ""), Err(InvalidDocument::SchemaVersion(0))));
        assert!(matches!(Document::parse(br#"{"schemaVersion":2}"#, ""), Err(InvalidDocument::Unknown)));
        for hostile in [
            manifest("").replace(EMPTY, "sha256:../../etc/passwd"),
            manifest("").replace(r#""size":0"#, r#""size":-1"#),
            manifest("").replace(r#""size":0"#, r#""size":99999999999999999999999"#),
            manifest(r#","config":{}"#),
            "[".repeat(100_000),
        ] {
            assert!(Document::parse(hostile.as_bytes(), "").is_err(), "{}", &hostile[..80]);
        }
    }

    #[test]
    fn configurations_tolerate_what_go_writes() {
        let json = format!(
            r#"{{"architecture":"arm64","os":"linux","variant":"v8","created":"2020-01-01T00:00:00Z","container":"x",
            "config":{{"Env":["A=1"],"Cmd":null,"Entrypoint":"sh","Volumes":{{"/data":{{}}}},"ExposedPorts":{{"80/tcp":null}},
            "Labels":null,"Healthcheck":{{"Test":["NONE"],"Interval":5}},"OnBuild":null,"Memory":0}},
            "rootfs":{{"type":"layers","diff_ids":["{EMPTY}"]}},"history":[{{"created_by":"x","empty_layer":true}}]}}"#
        );
        let config = ImageConfig::from_json(json.as_bytes()).expect("valid");
        assert_eq!(config.platform, Platform { variant: "v8".to_owned(), ..Platform::new("linux", "arm64", "") });
        assert_eq!(config.config.entrypoint.as_deref(), Some(&["sh".to_owned()][..]));
        assert_eq!(config.config.cmd, None);
        assert!(config.config.volumes.contains_key("/data") && config.config.exposed_ports.contains_key("80/tcp"));
        assert!(config.history[0].empty_layer);
        let again = ImageConfig::from_json(&serde_json::to_vec(&config).expect("serialisable")).expect("valid");
        assert_eq!(again, config);
        assert_eq!(ImageConfig::from_json(br#"{"config":null,"rootfs":null}"#).expect("valid"), ImageConfig::default());
    }

    #[test]
    fn chains_follow_the_specification() {
        let of = |byte: &str| Digest::sha256_of(byte.as_bytes());
        let chain = chain_ids(&[of("a"), of("b"), of("c")]);
        assert_eq!(chain[0], of("a"));
        assert_eq!(chain[1], of(&format!("{} {}", of("a"), of("b"))));
        assert_eq!(chain[2], of(&format!("{} {}", chain[1], of("c"))));
        assert!(chain_ids(&[]).is_empty());
    }
}
