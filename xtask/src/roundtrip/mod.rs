//! `roundtrip`: what we write, docker and podman read, and the reverse, and nothing is lost on the way.
//!
//! An image with everything in it that is known to get lost goes between the engines as an archive and through a
//! registry, in both directions. After each step both must have the same configuration, names, history and trees: each
//! layer as either unpacked it is compared file by file. Peers are found as the bench finds them; those that are not there
//! are said to be skipped.

mod engines;
mod nasty;

use testkit::image::Packing;
use testkit::{Host, Image, Registry};

use crate::bench::peers::Peers;
use crate::{Outcome, checks, packages, say};
use engines::{Engine, Ours, Theirs};

/// Goes through every way between lighter and each peer.
pub(crate) fn run() -> Outcome {
    packages::install()?;
    checks::build()?;
    let host = Host::alone();
    let peers = Peers::find(&host)?;
    let mut failed = Vec::new();
    for name in ["docker", "podman"] {
        if peers.command(name).is_none() {
            say(&format!("SKIPPED: {name} is not here: neither on this machine nor in the tree of the peers' script"));
            continue;
        }
        let registry = Registry::start();
        let trip = Trip {
            host: &host,
            peers: &peers,
            ours: Ours(&host),
            theirs: Theirs { name, peers: &peers },
            archived: format!("lighter-roundtrip-{}:1", std::process::id()),
            pushed: PACKINGS.map(|packing| registry.reference(&format!("packed-{packing:?}:1").to_lowercase())),
            again: registry.reference("again:1"),
        };
        failed.extend(trip.all().into_iter().map(|line| format!("{name}: {line}")));
    }
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) }
}

/// How layers are packed that go through a registry.
const PACKINGS: [Packing; 3] = [Packing::Plain, Packing::Gzip, Packing::Zstd];

/// The ways between lighter and one peer.
struct Trip<'a> {
    host: &'a Host,
    peers: &'a Peers,
    ours: Ours<'a>,
    theirs: Theirs<'a>,
    /// The name of an image that goes in archives.
    archived: String,
    /// The names of one that goes through a registry, for each way of packing.
    pushed: [String; 3],
    /// The name by which the peer pushes it.
    again: String,
}

impl Trip<'_> {
    /// Every way; gives those on which something was lost.
    fn all(&self) -> Vec<String> {
        let mut failed = Vec::new();
        let name = self.archived.clone();
        let both = [("every kind of file", nasty::image(&name)), ("a sparse file", nasty::sparse(&name))];
        for (what, image) in both.iter().rev() {
            failed.extend(self.report(&format!("{what}: one archive, loaded by both"), self.one_archive(image, &name)));
        }
        failed.extend(self.report("saved by lighter", self.saved(&self.ours, &self.theirs, &name, "")));
        for format in self.theirs.formats() {
            let told = format!("saved by the peer {format}");
            failed.extend(self.report(told.trim_end(), self.saved(&self.theirs, &self.ours, &name, format)));
        }
        failed.extend(self.report("removed", self.ours.remove(&name).and_then(|()| self.theirs.remove(&name))));
        for (packing, name) in PACKINGS.into_iter().zip(&self.pushed) {
            let layout = nasty::image(name).oci_layout(packing).tar();
            let told = format!("{packing:?} layers, pushed by lighter");
            failed.extend(self.report(&told, self.pushed_by_us(&layout, name)));
            let told = format!("{packing:?} layers, pushed by the peer");
            failed.extend(self.report(&told, self.pushed_by_them(name, &self.again)));
        }
        failed.extend(self.report("cleaned up", self.ours.run(&["image", "prune", "-af"])));
        failed
    }

    fn report(&self, step: &str, outcome: Result<(), String>) -> Option<String> {
        let name = self.theirs.name;
        if outcome.is_err() {
            // What stays would give the same image more names than it should have in the next step.
            drop(self.ours.run(&["image", "prune", "-af"]));
            for name in self.pushed.iter().chain([&self.archived, &self.again]) {
                drop(self.theirs.remove(name));
            }
        }
        match outcome {
            Ok(()) => {
                say(&format!("{name}: {step}: the same"));
                None
            }
            Err(error) => {
                say(&format!("{name}: {step}: DIFFERS\n{error}"));
                Some(step.to_owned())
            }
        }
    }

    /// An archive as docker of old wrote them, read by both.
    fn one_archive(&self, image: &Image, name: &str) -> Outcome {
        let file = self.peers.shared().join("made.tar");
        std::fs::write(&file, image.docker_archive().tar()).map_err(|error| format!("{}: {error}", file.display()))?;
        self.ours.load(&file)?;
        self.theirs.load(&file)?;
        self.compare(name, false)
    }

    /// What `from` saves, `to` has after loading it as the only one that knows the image.
    fn saved(&self, from: &dyn Engine, to: &dyn Engine, name: &str, format: &str) -> Outcome {
        let file = self.peers.shared().join("saved.tar");
        from.save(name, format, &file)?;
        to.remove(name)?;
        to.load(&file)?;
        std::fs::remove_file(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        self.compare(name, false)
    }

    fn pushed_by_us(&self, layout: &[u8], name: &str) -> Outcome {
        let loaded = self.host.lighter_reading(&["load"], layout);
        if loaded.status != 0 {
            return Err(loaded.to_string());
        }
        let id = self.ours.facts(name)?.id;
        self.ours.push(name)?;
        self.theirs.pull(name)?;
        self.ours.remove(name)?;
        self.ours.pull(name)?;
        if self.ours.facts(name)?.id != id {
            return Err("the image has another id after it went through the registry".to_owned());
        }
        self.compare(name, true)
    }

    fn pushed_by_them(&self, name: &str, other: &str) -> Outcome {
        self.theirs.tag(name, other)?;
        self.theirs.push(other)?;
        self.ours.remove(name)?;
        self.ours.pull(other)?;
        // Some engines learn the digest of what they push by pulling it.
        self.theirs.remove(other)?;
        self.theirs.remove(name)?;
        self.theirs.pull(other)?;
        let outcome = self.compare(other, true);
        self.ours.remove(other)?;
        self.theirs.remove(other)?;
        outcome
    }

    /// What both engines have under the name.
    fn compare(&self, name: &str, registry: bool) -> Outcome {
        let (ours, theirs) = (self.ours.facts(name)?, self.theirs.facts(name)?);
        let mut told = Vec::new();
        let mut same = |what: &str, ours: String, theirs: String| {
            if ours != theirs {
                told.push(format!("  {what}: lighter {ours}\n  {what}: {} {theirs}", self.theirs.name));
            }
        };
        same("configuration's digest", ours.config, theirs.config);
        same("names", ours.tags, theirs.tags);
        same("history", ours.history, theirs.history);
        same("layers", format!("{:#?}", ours.layers), format!("{:#?}", theirs.layers));
        same("container's configuration", ours.container, theirs.container);
        if registry {
            same("digests", ours.digests, theirs.digests);
        }
        for (number, (ours, theirs)) in ours.trees.iter().zip(&theirs.trees).enumerate() {
            let list = |dir| testkit::listing::of(dir).map_err(|error| format!("{}: {error}", dir.display()));
            let (mut ours, mut theirs) = (list(ours)?, list(theirs)?);
            for listing in [&mut ours, &mut theirs] {
                for (_, path) in nasty::IMPLIED.iter().filter(|(layer, _)| *layer == number) {
                    if let Some(line) = listing.get_mut(*path) {
                        line.truncate("directory".len());
                    }
                }
            }
            told.extend(
                testkit::listing::differences(&ours, &theirs)
                    .into_iter()
                    .map(|line| format!("  layer {number}, lighter's first: {line}")),
            );
        }
        if told.is_empty() { Ok(()) } else { Err(told.join("\n")) }
    }
}
