//! An image as `docker inspect` shows it.

use std::collections::BTreeMap;

use engine::ImageDetails;
use oci::image::ContainerConfig;
use serde::Serialize;
use serde_json::{Value, json};

use super::moment;

/// The root object.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Image {
    id: String,
    repo_tags: Vec<String>,
    repo_digests: Vec<String>,
    parent: &'static str,
    comment: String,
    created: String,
    docker_version: String,
    author: String,
    config: Value,
    architecture: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    variant: String,
    os: String,
    size: u64,
    graph_driver: GraphDriver,
    #[serde(rename = "RootFS")]
    root_fs: RootFs,
    metadata: Metadata,
    descriptor: Descriptor,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct GraphDriver {
    data: BTreeMap<&'static str, String>,
    name: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Metadata {
    last_tag_time: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct RootFs {
    #[serde(rename = "Type")]
    kind: &'static str,
    layers: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
}

impl From<&ImageDetails> for Image {
    fn from(details: &ImageDetails) -> Self {
        let config = &details.config;
        Self {
            id: details.id.to_string(),
            repo_tags: details.repo_tags.clone(),
            repo_digests: details.repo_digests.clone(),
            // Docker's builder of old kept one; what is said of it is always nothing now.
            parent: "",
            comment: config.comment.clone(),
            created: moment(config.created.as_deref().unwrap_or_default()),
            docker_version: config.docker_version.clone(),
            author: config.author.clone(),
            config: shown(&config.config),
            architecture: config.platform.architecture.clone(),
            variant: config.platform.variant.clone(),
            os: config.platform.os.clone(),
            size: details.size,
            graph_driver: graph_driver(&details.layers),
            root_fs: RootFs {
                kind: "layers",
                layers: config.rootfs.diff_ids.iter().map(ToString::to_string).collect(),
            },
            metadata: Metadata { last_tag_time: moment(&details.tagged) },
            descriptor: Descriptor {
                media_type: details.media_type.clone(),
                digest: details.id.to_string(),
                size: details.target_size,
            },
        }
    }
}

/// The configuration with every field that docker shows, `null` where the image says nothing.
fn shown(config: &ContainerConfig) -> Value {
    let mut shown = json!({
        "Cmd": null, "Entrypoint": null, "Env": null, "Labels": null, "OnBuild": null, "User": "", "Volumes": null,
        "WorkingDir": "",
    });
    if let (Some(shown), Ok(Value::Object(said))) = (shown.as_object_mut(), serde_json::to_value(config)) {
        shown.extend(said);
    }
    shown
}

/// Where the unpacked layers are, the topmost apart, as docker's overlay2 says it.
fn graph_driver(layers: &[std::path::PathBuf]) -> GraphDriver {
    let shown = |layer: &std::path::PathBuf| layer.display().to_string();
    let mut data = BTreeMap::new();
    if let Some((top, below)) = layers.split_first() {
        data.insert("UpperDir", shown(top));
        if !below.is_empty() {
            data.insert("LowerDir", below.iter().map(shown).collect::<Vec<_>>().join(":"));
        }
    }
    GraphDriver { data, name: "overlayfs" }
}

#[cfg(test)]
mod tests {
    use oci::Digest;
    use oci::image::ImageConfig;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_shape_is_dockers() {
        let digest = Digest::sha256_of(b"x");
        let document = json!({
            "architecture": "amd64", "os": "linux",
            "config": {"Cmd": ["sh"], "Env": ["A=b"]},
            "rootfs": {"type": "layers", "diff_ids": [digest.to_string()]},
        });
        let config: ImageConfig = serde_json::from_value(document).expect("a configuration");
        let details = ImageDetails {
            id: digest.clone(),
            repo_tags: vec!["busybox:latest".into()],
            repo_digests: Vec::new(),
            manifest: digest.clone(),
            media_type: "m".into(),
            target_size: 3,
            config,
            size: 7,
            layers: vec!["/l/2/diff".into(), "/l/1/diff".into()],
            tagged: "2026-01-01T00:00:00Z".into(),
        };
        let shown = serde_json::to_value(Image::from(&details)).expect("serialises");
        for (pointer, expected) in [
            ("/Id", json!(digest.to_string())),
            ("/RepoTags", json!(["busybox:latest"])),
            ("/RepoDigests", json!([])),
            ("/Created", json!("0001-01-01T00:00:00Z")),
            ("/Config/Cmd", json!(["sh"])),
            ("/Config/Env", json!(["A=b"])),
            ("/Architecture", json!("amd64")),
            ("/RootFS/Layers/0", json!(digest.to_string())),
            ("/Descriptor/mediaType", json!("m")),
            ("/Size", json!(7)),
            ("/Config/Labels", json!(null)),
            ("/Config/WorkingDir", json!("")),
            ("/GraphDriver/Data/LowerDir", json!("/l/1/diff")),
            ("/Metadata/LastTagTime", json!("2026-01-01T00:00:00Z")),
        ] {
            assert_eq!(shown.pointer(pointer), Some(&expected), "{pointer}");
        }
    }
}
