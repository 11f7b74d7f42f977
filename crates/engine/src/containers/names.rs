//! Names for containers whose user gave none: how a boat behaves, and a boat.

use container::ContainerName;

const MANNERS: [&str; 64] = [
    "able", "amber", "ample", "apt", "azure", "balmy", "beamy", "bold", "brave", "breezy", "brisk", "bright", "broad",
    "calm", "clear", "coastal", "crisp", "daring", "deft", "eager", "early", "easy", "even", "fair", "fleet", "fresh",
    "gallant", "gentle", "glad", "golden", "hardy", "hearty", "keen", "laden", "light", "lively", "lucky", "mellow",
    "merry", "mild", "nimble", "noble", "patient", "placid", "plain", "proud", "quick", "quiet", "ready", "river",
    "sandy", "silver", "smooth", "snug", "sober", "sound", "steady", "stout", "sunny", "swift", "tidy", "trim",
    "trusty", "upright",
];

const BOATS: [&str; 64] = [
    "ark",
    "barge",
    "barque",
    "bilander",
    "brig",
    "canoe",
    "caravel",
    "carrack",
    "catboat",
    "clipper",
    "cob",
    "cog",
    "coracle",
    "corvette",
    "currach",
    "cutter",
    "dhow",
    "dinghy",
    "dogger",
    "dory",
    "dredger",
    "drifter",
    "felucca",
    "ferry",
    "flatboat",
    "flyboat",
    "frigate",
    "galiot",
    "galleon",
    "gig",
    "gondola",
    "hooker",
    "hoy",
    "hulk",
    "jolly",
    "junk",
    "kayak",
    "keelboat",
    "ketch",
    "koff",
    "launch",
    "lugger",
    "narrowboat",
    "packet",
    "pinnace",
    "pontoon",
    "praam",
    "punt",
    "raft",
    "sampan",
    "schooner",
    "scow",
    "skiff",
    "sloop",
    "smack",
    "tartane",
    "tender",
    "tjalk",
    "trawler",
    "tug",
    "wherry",
    "xebec",
    "yacht",
    "yawl",
];

/// A name from eight random bytes; `attempt` counts those that were taken, and lengthens the name after a few.
pub(super) fn made_up(random: u64, attempt: u32) -> Option<ContainerName> {
    let pick = |list: &[&'static str; 64], bits: u64| usize::try_from(bits % 64).ok().map(|index| list[index]);
    let (manner, boat) = (pick(&MANNERS, random)?, pick(&BOATS, random >> 8)?);
    let name = if attempt < 4 {
        format!("{manner}_{boat}")
    } else {
        format!("{manner}_{boat}_{:x}", (random >> 16) & 0xff_ffff)
    };
    name.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_word_is_used_once_and_makes_a_name() {
        for list in [MANNERS, BOATS] {
            assert_eq!(list.iter().collect::<BTreeSet<_>>().len(), 64);
        }
        for index in 0..64_u64 {
            for attempt in [0, 9] {
                let name = made_up(index | (63 - index) << 8 | 7 << 16, attempt).expect("a name");
                assert_eq!(name.as_str().split('_').count(), if attempt == 0 { 2 } else { 3 });
            }
        }
        assert_ne!(made_up(1 << 16, 5), made_up(2 << 16, 5));
    }
}
