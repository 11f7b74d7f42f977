//! Several processes on one store, killed at any moment: whatever they do to it, `store check` calls it sound.
//!
//! `LIGHTER_SOAK` says how many rounds (default a few), `LIGHTER_SEED` which ones.

use std::time::Duration;

use rustix::process::Signal;
use testkit::image::Packing;
use testkit::process::{DEADLINE, Running};
use testkit::{Host, Image, Registry};

/// Commands at a time.
const AT_A_TIME: usize = 4;
/// How many images there are.
const IMAGES: usize = 3;

/// Numbers that look random and are the same for the same seed (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).expect("31 bits") % bound
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// The commands, by weight: each of these is as likely as the others.
fn choose(random: &mut Random, choices: &[&[&str]]) -> Vec<String> {
    choices[random.below(choices.len())].iter().map(|&word| word.to_owned()).collect()
}

/// Does `LIGHTER_SOAK` rounds of commands at once, some of them killed within `patience` milliseconds of their start, and
/// has the store checked after each.
fn interleave(host: &Host, rounds: u64, patience: usize, command: impl Fn(&mut Random) -> Vec<String>) {
    let (rounds, seed) = (number("LIGHTER_SOAK", rounds), number("LIGHTER_SEED", 1));
    let mut kills = 0;
    for round in 0..rounds {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (round + 1));
        // Neighbouring beginnings give neighbouring first numbers.
        for _ in 0..8 {
            random.below(1);
        }
        let mut said = Vec::new();
        let mut running: Vec<(Running, bool)> = Vec::new();
        for _ in 0..AT_A_TIME {
            let words = command(&mut random);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let (process, killed) = (host.spawn(&words), random.below(3) == 0);
            said.push(words.join(" "));
            std::thread::sleep(Duration::from_millis(random.below(patience) as u64));
            if killed {
                process.signal(Signal::KILL);
            }
            running.push((process, killed));
        }
        let mut outputs = Vec::new();
        for (process, killed) in running {
            let output = process.finish(DEADLINE);
            // An image that is not there, or in use, is no fault; a store that cannot be understood is.
            kills += usize::from(output.status == 137);
            assert!(killed || !output.err().contains("damaged"), "round {round} of seed {seed}: {said:#?}\n{output}");
            outputs.push(output.to_string());
        }
        let check = host.lighter(&["store", "check"]);
        assert_eq!(check.status, 0, "round {round} of seed {seed}: {said:#?}\n{check}\n{}", outputs.join("\n"));
    }
    assert!(kills > 0, "nobody was killed before its end");
}

/// Everything can go, and nothing is left then.
fn empties(host: &Host) {
    let pruned = host.lighter(&["system", "prune", "-af"]);
    let report = host.lighter(&["store", "check", "--format", "json"]).ok().json();
    let of = |key: &str| report[key].as_u64();
    let left = host.lighter(&["ps", "-a"]);
    assert_eq!((of("Images"), of("Blobs"), of("Layers")), (Some(0), Some(0), Some(0)), "{report}\n{pruned}\n{left}");
    assert_eq!(report["Leftovers"].as_array().map(Vec::len), Some(0), "{report}");
}

#[test]
fn whatever_is_killed_the_store_is_sound() {
    let host = Host::new();
    let dir = host.scratch("archives");
    let archives: Vec<String> = (0..IMAGES)
        .map(|n| {
            // One layer that all share, one of each.
            let own = vec![u8::try_from(n).expect("small"); 300_000];
            let image = Image::busybox(&format!("image-{n}:latest")).file("own", 0o644, &own);
            let path = dir.join(format!("{n}.tar"));
            let packing = if n == 0 { Packing::Plain } else { Packing::Gzip };
            std::fs::write(&path, image.oci_layout(packing).tar()).expect("an archive");
            path.display().to_string()
        })
        .collect();
    interleave(&host, 12, 60, |random| {
        let n = random.below(IMAGES);
        let image = format!("image-{n}:latest");
        let load: &[&str] = &["load", "-q", "-i", &archives[n]];
        choose(
            random,
            &[
                load,
                load,
                load,
                &["run", "--rm", "--pull", "never", &image, "true"],
                &["run", "--pull", "never", &image, "true"],
                &["rmi", "-f", &image],
                &["image", "prune", "-af"],
                &["container", "prune", "-f"],
                &["system", "prune", "-af"],
            ],
        )
    });
    // What stayed works.
    host.lighter(&["load", "-q", "-i", &archives[0]]).ok();
    assert_eq!(host.lighter(&["run", "--rm", "image-0", "echo", "works"]).ok().out(), "works");
    empties(&host);
}

#[test]
fn whatever_is_killed_while_pulling_the_store_is_sound() {
    let host = Host::new();
    let registry = Registry::start();
    let mut noise = Random(1);
    let names: Vec<String> = (0..IMAGES)
        .map(|n| {
            // One layer that all share, and of each a small one and one that is large enough to be taken up again.
            let large: Vec<u8> = (0..2 << 20).map(|_| u8::try_from(noise.below(256)).expect("a byte")).collect();
            let packing = if n == 0 { Packing::Zstd } else { Packing::Gzip };
            let image = Image::busybox("any").file("large", 0o644, &large).file("own", 0o644, &[b'n'; 1000]);
            registry.push_layout(&image.oci_layout(packing), &format!("image-{n}:1"));
            registry.reference(&format!("image-{n}:1"))
        })
        .collect();
    interleave(&host, 8, 120, |random| {
        let image = names[random.below(IMAGES)].as_str();
        let pull: &[&str] = &["pull", "-q", image];
        choose(
            random,
            &[
                pull,
                pull,
                pull,
                &["run", "--rm", image, "true"],
                &["run", image, "true"],
                &["run", "--pull", "always", image, "true"],
                &["rmi", "-f", image],
                &["image", "prune", "-af"],
                &["container", "prune", "-f"],
                &["system", "prune", "-af"],
            ],
        )
    });
    // What stayed works, and what was not finished is taken up.
    for name in &names {
        assert_eq!(host.lighter(&["run", "--rm", name, "echo", "works"]).ok().out(), "works");
        assert_eq!(
            host.lighter(&["run", "--rm", name, "stat", "-c", "%s", "/large"]).ok().out(),
            (2 << 20).to_string()
        );
    }
    empties(&host);
}
