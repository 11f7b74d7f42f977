//! What lighter and its peers do with images, in each one's words, and what they say of an image.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use testkit::Host;
use testkit::image::digest;

use crate::Outcome;
use crate::bench::output;
use crate::bench::peers::Peers;

/// How a step of an image's history is printed.
const STEP: &str = "{{.CreatedBy}} {{.Comment}}";

/// What an engine says of an image. Lists are sorted and printed, for they are compared only.
pub(super) struct Facts {
    /// The engine's own name for it.
    pub(super) id: String,
    /// Digest of the configuration.
    pub(super) config: String,
    pub(super) tags: String,
    pub(super) digests: String,
    pub(super) history: String,
    /// Digests of the uncompressed layers, bottom first.
    pub(super) layers: Vec<String>,
    /// How containers are to be started, without what is empty.
    pub(super) container: String,
    /// Where each layer is unpacked, bottom first.
    pub(super) trees: Vec<PathBuf>,
}

/// An engine.
pub(super) trait Engine {
    /// A command of it.
    fn command(&self, words: &[&str]) -> Command;

    /// A file as the engine sees it.
    fn file(&self, path: &Path) -> String;

    /// What it says of an image.
    fn facts(&self, name: &str) -> Result<Facts, String>;

    /// Flags for a registry without TLS.
    fn insecure(&self) -> &'static [&'static str] {
        &[]
    }

    fn run(&self, words: &[&str]) -> Outcome {
        output(self.command(words)).map(drop)
    }

    fn load(&self, file: &Path) -> Outcome {
        self.run(&["load", "-q", "-i", &self.file(file)])
    }

    fn save(&self, name: &str, format: &str, file: &Path) -> Outcome {
        let format: Vec<&str> = format.split_whitespace().collect();
        self.run(&[&["save"], &format[..], &["-o", &self.file(file), name]].concat())
    }

    fn push(&self, name: &str) -> Outcome {
        self.run(&[&["push", "-q"], self.insecure(), &[name]].concat())
    }

    fn pull(&self, name: &str) -> Outcome {
        self.run(&[&["pull", "-q"], self.insecure(), &[name]].concat())
    }

    fn tag(&self, name: &str, other: &str) -> Outcome {
        self.run(&["tag", name, other])
    }

    fn remove(&self, name: &str) -> Outcome {
        self.run(&["rmi", "-f", name])
    }

    fn inspect(&self, name: &str) -> Result<Value, String> {
        let text = output(self.command(&["image", "inspect", name]))?;
        let mut value: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
        Ok(value[0].take())
    }

    fn history(&self, name: &str) -> Result<String, String> {
        output(self.command(&["history", "--no-trunc", "--format", STEP, name]))
    }
}

/// The binary under test.
pub(super) struct Ours<'a>(pub(super) &'a Host);

impl Engine for Ours<'_> {
    fn command(&self, words: &[&str]) -> Command {
        self.0.command(words)
    }

    fn file(&self, path: &Path) -> String {
        path.display().to_string()
    }

    fn facts(&self, name: &str) -> Result<Facts, String> {
        let said = self.inspect(name)?;
        let root = self.0.root();
        let blob = root.join("content/blobs").join(text(&said["Id"]).replace(':', "/"));
        let manifest = std::fs::read(&blob).map_err(|error| format!("{}: {error}", blob.display()))?;
        let manifest: Value = serde_json::from_slice(&manifest).map_err(|error| error.to_string())?;
        let layers = strings(&said["RootFS"]["Layers"]);
        let trees = chain(&layers).into_iter().map(|id| root.join("layers").join(&id["sha256:".len()..]).join("diff"));
        Ok(Facts {
            id: text(&said["Id"]),
            config: text(&manifest["config"]["digest"]),
            tags: sorted(&said["RepoTags"]),
            digests: sorted(&said["RepoDigests"]),
            history: self.history(name)?,
            trees: trees.collect(),
            layers,
            container: container(&said["Config"]),
        })
    }
}

/// Docker or podman.
pub(super) struct Theirs<'a> {
    pub(super) name: &'static str,
    pub(super) peers: &'a Peers,
}

impl Theirs<'_> {
    /// The forms it saves in.
    pub(super) fn formats(&self) -> &'static [&'static str] {
        match self.name {
            "podman" => &["--format docker-archive", "--format oci-archive"],
            _ => &[""],
        }
    }
}

impl Engine for Theirs<'_> {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.peers.command(self.name).unwrap_or_else(|| Command::new(self.name));
        command.args(words);
        command
    }

    fn file(&self, path: &Path) -> String {
        self.peers.seen_by(self.name, path).display().to_string()
    }

    fn insecure(&self) -> &'static [&'static str] {
        if self.name == "podman" { &["--tls-verify=false"] } else { &[] }
    }

    fn facts(&self, name: &str) -> Result<Facts, String> {
        let said = self.inspect(name)?;
        let data = &said["GraphDriver"]["Data"];
        let mut trees = vec![text(&data["UpperDir"])];
        trees.extend(text(&data["LowerDir"]).split(':').filter(|dir| !dir.is_empty()).map(str::to_owned));
        trees.reverse();
        let id = text(&said["Id"]);
        Ok(Facts {
            config: if id.contains(':') { id.clone() } else { format!("sha256:{id}") },
            id,
            tags: sorted(&said["RepoTags"]),
            digests: sorted(&said["RepoDigests"]),
            history: self.history(name)?,
            layers: strings(&said["RootFS"]["Layers"]),
            container: container(&said["Config"]),
            trees: trees.iter().map(|dir| self.peers.seen_here(self.name, Path::new(dir))).collect(),
        })
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(text).collect()
}

/// Names in order. Podman puts a registry before a name that has none: this machine, or docker's.
fn sorted(value: &Value) -> String {
    let mut all = strings(value);
    for one in &mut all {
        let short = ["localhost/", "docker.io/library/"].iter().find_map(|prefix| one.strip_prefix(prefix));
        *one = short.unwrap_or(one).to_owned();
    }
    all.sort();
    all.join(" ")
}

/// A container's configuration without what says nothing: engines differ in whether they print that.
fn container(value: &Value) -> String {
    let empty = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    };
    let fields = value.as_object().into_iter().flatten().filter(|(_, value)| !empty(value));
    let fields: serde_json::Map<String, Value> = fields.map(|(key, value)| (key.clone(), value.clone())).collect();
    Value::Object(fields).to_string()
}

/// The names of layers with all below them (image-spec, "Layer ChainID").
fn chain(layers: &[String]) -> Vec<String> {
    let mut ids: Vec<String> = Vec::new();
    for layer in layers {
        let id = ids.last().map_or_else(|| layer.clone(), |below| digest(format!("{below} {layer}").as_bytes()));
        ids.push(id);
    }
    ids
}
