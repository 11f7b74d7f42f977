//! Runs the inputs that the fuzzers kept (`corpus/TARGET`) through the targets, in the unit tests of each crate.

/// Runs each target on all of its inputs.
///
/// # Panics
/// When a target has none, and when one of them has a fault.
pub(super) fn all(targets: &[(&str, super::Target)]) {
    for (name, target) in targets {
        let corpus = format!("{}/../../fuzz/corpus/{name}", env!("CARGO_MANIFEST_DIR"));
        let mut count = 0;
        for entry in std::fs::read_dir(&corpus).expect(&corpus) {
            let path = entry.expect("an entry").path();
            target(&std::fs::read(&path).expect("an input"));
            count += 1;
        }
        assert!(count > 0, "{corpus} is empty");
    }
}
