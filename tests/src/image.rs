//! Images without a network: busybox from Debian's package, and the two archive formats they travel in.

use std::path::Path;
use std::sync::OnceLock;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::Tar;

/// How a layer is stored in an OCI layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// As it is.
    Plain,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

impl Packing {
    /// Packs `bytes`.
    ///
    /// # Panics
    /// Never in practice: both encoders write to memory.
    #[must_use]
    pub fn pack(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Plain => bytes.to_vec(),
            Self::Gzip => {
                let mut out = Vec::new();
                let mut encoder = flate2::read::GzEncoder::new(bytes, flate2::Compression::fast());
                std::io::Read::read_to_end(&mut encoder, &mut out).expect("gzip into memory");
                out
            }
            Self::Zstd => zstd::encode_all(bytes, 1).expect("zstd into memory"),
        }
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::Plain => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// `sha256:` and 64 hex digits.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

/// The SHA-256 of `bytes` in hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An image in the making.
#[derive(Clone, Debug)]
pub struct Image {
    name: String,
    layers: Vec<Vec<u8>>,
    config: Value,
    architecture: String,
    variant: Option<String>,
    history: Option<Value>,
}

impl Image {
    /// An image of no layers.
    #[must_use]
    pub fn empty(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            layers: Vec::new(),
            config: json!({"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}),
            architecture: "amd64".to_owned(),
            variant: None,
            history: None,
        }
    }

    /// busybox with users `alice` (1000, also in group `staff`) and `bob` (1001), command `sh`.
    #[must_use]
    pub fn busybox(name: &str) -> Self {
        Self::empty(name).layer(busybox_layer().to_vec()).set("Cmd", json!(["sh"]))
    }

    /// Another name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// One more layer: the bytes of an uncompressed tar archive, well-formed or not.
    #[must_use]
    pub fn layer(mut self, tar: Vec<u8>) -> Self {
        self.layers.push(tar);
        self
    }

    /// One more layer of one file.
    #[must_use]
    pub fn file(self, name: &str, mode: u32, data: &[u8]) -> Self {
        self.layer(Tar::new().file(name, mode, data).finish())
    }

    /// Sets a field of the image's container configuration.
    #[must_use]
    pub fn set(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    /// For another architecture.
    #[must_use]
    pub fn platform(mut self, architecture: &str, variant: Option<&str>) -> Self {
        architecture.clone_into(&mut self.architecture);
        self.variant = variant.map(str::to_owned);
        self
    }

    /// With this history: a list with one entry for each layer, and those without one.
    #[must_use]
    pub fn history(mut self, entries: Value) -> Self {
        self.history = Some(entries);
        self
    }

    fn config_blob(&self) -> Vec<u8> {
        let ids: Vec<String> = self.layers.iter().map(|layer| digest(layer)).collect();
        let mut config = json!({
            "architecture": self.architecture, "os": "linux", "created": "2020-01-01T00:00:00Z",
            "config": self.config, "rootfs": {"type": "layers", "diff_ids": ids},
        });
        if let Some(variant) = &self.variant {
            config["variant"] = json!(variant);
        }
        if let Some(history) = &self.history {
            config["history"] = history.clone();
        }
        config.to_string().into_bytes()
    }

    /// The members of a docker-archive, as `docker save` of old wrote it.
    #[must_use]
    pub fn docker_archive(&self) -> Members {
        let config = self.config_blob();
        let config_name = format!("{}.json", hex(&config));
        let names: Vec<String> = (0..self.layers.len()).map(|n| format!("layer{n}/layer.tar")).collect();
        let manifest = json!([{"Config": config_name, "RepoTags": [self.name], "Layers": names}]);
        let mut members = Members::default();
        members.put("manifest.json", manifest.to_string().into_bytes());
        members.put(&config_name, config);
        for (name, layer) in names.iter().zip(&self.layers) {
            members.put(name, layer.clone());
        }
        members
    }

    /// The members of an OCI layout whose index names this image.
    #[must_use]
    pub fn oci_layout(&self, packing: Packing) -> Members {
        Self::oci_index(std::slice::from_ref(self), packing)
    }

    /// The members of an OCI layout that holds `images`. More than one of the same name become one nested index, one
    /// manifest for each platform.
    #[must_use]
    pub fn oci_index(images: &[Self], packing: Packing) -> Members {
        let mut members = Members::default();
        members.put("oci-layout", json!({"imageLayoutVersion": "1.0.0"}).to_string().into_bytes());
        let mut manifests: Vec<Value> = images.iter().map(|image| image.put_blobs(&mut members, packing)).collect();
        let name = images.first().map_or("", |image| image.name.as_str());
        if images.len() > 1 {
            let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).to_string();
            manifests = vec![members.put_blob(INDEX, index.as_bytes())];
        }
        for manifest in &mut manifests {
            manifest["annotations"] =
                json!({"org.opencontainers.image.ref.name": name, "io.containerd.image.name": name});
        }
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        members.put("index.json", index.to_string().into_bytes());
        members
    }

    fn put_blobs(&self, members: &mut Members, packing: Packing) -> Value {
        let config = members.put_blob("application/vnd.oci.image.config.v1+json", &self.config_blob());
        let layers: Vec<Value> =
            self.layers.iter().map(|layer| members.put_blob(packing.media_type(), &packing.pack(layer))).collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        let mut descriptor = members.put_blob(MANIFEST, manifest.to_string().as_bytes());
        descriptor["platform"] = json!({"architecture": self.architecture, "os": "linux"});
        if let Some(variant) = &self.variant {
            descriptor["platform"]["variant"] = json!(variant);
        }
        descriptor
    }
}

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The files of an archive, to be changed before they are written.
#[derive(Clone, Debug, Default)]
pub struct Members(Vec<(String, Vec<u8>)>);

impl Members {
    /// Adds or replaces a file.
    pub fn put(&mut self, name: &str, bytes: Vec<u8>) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = bytes,
            None => self.0.push((name.to_owned(), bytes)),
        }
    }

    /// Adds a blob under its digest and gives its descriptor.
    fn put_blob(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        self.put(&format!("blobs/sha256/{}", hex(bytes)), bytes.to_vec());
        json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
    }

    /// A file's bytes.
    ///
    /// # Panics
    /// When there is no such file.
    #[must_use]
    pub fn get(&self, name: &str) -> &[u8] {
        &self.0.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("no member {name}")).1
    }

    /// A file's bytes, if there is one.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, bytes)| bytes.as_slice())
    }

    /// Takes a file out.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(known, _)| known != name);
    }

    /// Changes a JSON file.
    ///
    /// # Panics
    /// When there is no such file or it is not JSON.
    pub fn edit(&mut self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut value = serde_json::from_slice(self.get(name)).expect("a JSON member");
        change(&mut value);
        self.put(name, value.to_string().into_bytes());
    }

    /// The name and bytes of the largest file: the first image's layer.
    ///
    /// # Panics
    /// When there is no file.
    #[must_use]
    pub fn largest(&self) -> (&str, &[u8]) {
        let (name, bytes) = self.0.iter().max_by_key(|(_, bytes)| bytes.len()).expect("an archive has files");
        (name, bytes)
    }

    /// The archive as a tar.
    #[must_use]
    pub fn tar(&self) -> Vec<u8> {
        self.0.iter().fold(Tar::new(), |tar, (name, bytes)| tar.file(name, 0o644, bytes)).finish()
    }

    /// Writes the files below `dir`, as an unpacked layout.
    ///
    /// # Panics
    /// When they cannot be written.
    pub fn write_below(&self, dir: &Path) {
        for (name, bytes) in &self.0 {
            let path = dir.join(name);
            std::fs::create_dir_all(path.parent().unwrap_or(dir)).expect("make a layout's directories");
            std::fs::write(path, bytes).expect("write a layout's file");
        }
    }
}

/// Where Debian's busybox-static puts its program, by release.
const BUSYBOX: [&str; 2] = ["/bin/busybox", "/usr/bin/busybox"];

/// The bytes of the static busybox.
///
/// # Panics
/// When it is not installed, or is the dynamic one.
#[must_use]
pub fn busybox_program() -> Vec<u8> {
    let bytes = BUSYBOX
        .iter()
        .find_map(|path| std::fs::read(path).ok())
        .expect("no busybox: install Debian's busybox-static (`cargo xtask test` does)");
    assert!(!is_dynamic(&bytes), "the installed busybox is dynamic: install Debian's busybox-static");
    bytes
}

/// Whether an x86-64 ELF program names an interpreter: a program header of type PT_INTERP (3).
fn is_dynamic(elf: &[u8]) -> bool {
    let half = |at: usize| elf.get(at..at + 2).map_or(0, |two| usize::from(u16::from_le_bytes([two[0], two[1]])));
    // e_phoff, e_phentsize and e_phnum of the file header; the offset fits its low half in any real program.
    let (start, size, count) = (half(32), half(54), half(56));
    (0..count).any(|n| elf.get(start + n * size).is_some_and(|kind| *kind == 3))
}

/// The busybox image's one layer, an uncompressed tar.
///
/// # Panics
/// As [`busybox_program`].
#[must_use]
pub fn busybox_layer() -> &'static [u8] {
    static LAYER: OnceLock<Vec<u8>> = OnceLock::new();
    LAYER.get_or_init(|| {
        let applets =
            BUSYBOX.iter().find(|path| Path::new(path).exists()).map(|path| crate::process::tool(path, &["--list"]));
        let mut tar = Tar::new();
        for dir in ["bin/", "dev/", "etc/", "home/", "proc/", "root/", "srv/", "sys/", "usr/", "usr/bin/", "var/"] {
            tar = tar.dir(dir, 0o755);
        }
        tar = tar.dir("tmp/", 0o1777).file("bin/busybox", 0o755, &busybox_program());
        for applet in applets.unwrap_or_default().lines().filter(|name| *name != "busybox") {
            tar = tar.symlink(&format!("bin/{applet}"), "busybox");
        }
        tar.file("etc/passwd", 0o644, PASSWD.as_bytes())
            .file("etc/group", 0o644, GROUP.as_bytes())
            .entry(&crate::tarball::Entry {
                mode: 0o755,
                uid: 1000,
                gid: 1000,
                ..crate::tarball::Entry::new(b'5', "home/alice/")
            })
            .finish()
    })
}

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh
alice:x:1000:1000:Alice:/home/alice:/bin/sh
bob:x:1001:1001:Bob:/home/bob:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
";

const GROUP: &str = "root:x:0:
staff:x:50:alice
alice:x:1000:
bob:x:1001:
nogroup:x:65534:
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_consistent() {
        let image = Image::busybox("t:1").file("x", 0o644, b"y");
        let docker = image.docker_archive();
        let manifest: Value = serde_json::from_slice(docker.get("manifest.json")).expect("JSON");
        let config = docker.get(manifest[0]["Config"].as_str().expect("a name"));
        let config: Value = serde_json::from_slice(config).expect("JSON");
        let layer = docker.get(manifest[0]["Layers"][1].as_str().expect("a name"));
        assert_eq!(config["rootfs"]["diff_ids"][1], digest(layer));

        let oci = Image::oci_index(&[image.clone(), image.platform("arm64", Some("v8"))], Packing::Gzip);
        let index: Value = serde_json::from_slice(oci.get("index.json")).expect("JSON");
        let nested = index["manifests"][0]["digest"].as_str().expect("a digest").replace(':', "/");
        let nested: Value = serde_json::from_slice(oci.get(&format!("blobs/{nested}"))).expect("JSON");
        assert_eq!(nested["manifests"][1]["platform"]["variant"], "v8");
    }

    #[test]
    fn packing_round_trips() {
        let text = b"lighter".repeat(1000);
        let mut out = Vec::new();
        let packed = Packing::Gzip.pack(&text);
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(packed.as_slice()), &mut out).expect("gzip");
        assert_eq!(out, text);
        assert_eq!(zstd::decode_all(Packing::Zstd.pack(&text).as_slice()).expect("zstd"), text);
    }
}
