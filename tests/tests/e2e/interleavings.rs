//! Several processes on one store, killed at any moment: whatever they do to it, `store check` calls it sound.
//!
//! `LIGHTER_SOAK` says how many rounds (default 12), `LIGHTER_SEED` which ones.

use std::time::Duration;

use rustix::process::Signal;
use testkit::image::Packing;
use testkit::process::{DEADLINE, Running};
use testkit::{Host, Image};

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

fn command(random: &mut Random, archives: &[String]) -> Vec<String> {
    let n = random.below(IMAGES);
    let image = format!("image-{n}:latest");
    let words: &[&str] = match random.below(9) {
        0..=2 => &["load", "-q", "-i", &archives[n]],
        3 => &["run", "--rm", "--pull", "never", &image, "true"],
        4 => &["run", "--pull", "never", &image, "true"],
        5 => &["rmi", "-f", &image],
        6 => &["image", "prune", "-af"],
        7 => &["container", "prune", "-f"],
        _ => &["system", "prune", "-af"],
    };
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn whatever_is_killed_the_store_is_sound() {
    let host = Host::new();
    let dir = host.scratch("archives");
    let archives: Vec<String> = (0..IMAGES)
        .map(|n| {
            // One layer that all share, one of each.
            let own = vec![u8::try_from(n).expect("small"); 300_000];
            let image = Image::busybox(&format!("image-{n}:latest"))
                .layer(testkit::Tar::new().file("own", 0o644, &own).finish());
            let path = dir.join(format!("{n}.tar"));
            let packing = if n == 0 { Packing::Plain } else { Packing::Gzip };
            std::fs::write(&path, image.oci_layout(packing).tar()).expect("an archive");
            path.display().to_string()
        })
        .collect();
    let (rounds, seed) = (number("LIGHTER_SOAK", 12), number("LIGHTER_SEED", 1));
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
            let words = command(&mut random, &archives);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let (process, killed) = (host.spawn(&words), random.below(3) == 0);
            said.push(words.join(" "));
            std::thread::sleep(Duration::from_millis(random.below(60) as u64));
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
    // What stayed works, and all of it can go.
    host.lighter(&["load", "-q", "-i", &archives[0]]).ok();
    assert_eq!(host.lighter(&["run", "--rm", "image-0", "echo", "works"]).ok().out(), "works");
    host.lighter(&["system", "prune", "-af"]).ok();
    let report = host.lighter(&["store", "check", "--format", "json"]).ok().json();
    let of = |key: &str| report[key].as_u64();
    assert_eq!((of("Images"), of("Blobs"), of("Layers")), (Some(0), Some(0), Some(0)), "{report}");
    assert_eq!(report["Leftovers"].as_array().map(Vec::len), Some(0), "{report}");
}
