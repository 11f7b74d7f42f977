//! An image as `docker inspect` shows it.

use engine::ImageDetails;
use oci::image::ContainerConfig;
use serde::Serialize;

use super::moment;

/// The root object.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Image {
    id: String,
    repo_tags: Vec<String>,
    repo_digests: Vec<String>,
    comment: String,
    created: String,
    author: String,
    config: ContainerConfig,
    architecture: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    variant: String,
    os: String,
    size: u64,
    #[serde(rename = "RootFS")]
    root_fs: RootFs,
    descriptor: Descriptor,
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
            comment: config.comment.clone(),
            created: moment(config.created.as_deref().unwrap_or_default()),
            author: config.author.clone(),
            config: config.config.clone(),
            architecture: config.platform.architecture.clone(),
            variant: config.platform.variant.clone(),
            os: config.platform.os.clone(),
            size: details.size,
            root_fs: RootFs {
                kind: "layers",
                layers: config.rootfs.diff_ids.iter().map(ToString::to_string).collect(),
            },
            descriptor: Descriptor {
                media_type: details.media_type.clone(),
                digest: details.id.to_string(),
                size: details.target_size,
            },
        }
    }
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
        ] {
            assert_eq!(shown.pointer(pointer), Some(&expected), "{pointer}");
        }
    }
}
