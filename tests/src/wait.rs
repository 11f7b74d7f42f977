//! Waiting for a fact, never for a time.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// `time` as this machine needs it: `LIGHTER_TEST_SLOW` says how many times slower than a machine of today it is, as an
/// emulated one may be.
#[must_use]
pub fn patient(time: Duration) -> Duration {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    let said = || std::env::var("LIGHTER_TEST_SLOW").ok().and_then(|text| text.parse().ok());
    time * *FACTOR.get_or_init(|| said().filter(|factor| *factor > 0).unwrap_or(1))
}

/// Polls `probe` until it gives a value, and gives it. `limit` is that of a fast machine.
///
/// # Panics
/// With `what` when `limit` passes first.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let limit = patient(limit);
    let start = Instant::now();
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Polls `probe` until it is true or `limit`, that of a fast machine, passes, and says which.
pub fn becomes_true(limit: Duration, mut probe: impl FnMut() -> bool) -> bool {
    let limit = patient(limit);
    let start = Instant::now();
    loop {
        if probe() {
            return true;
        }
        if start.elapsed() >= limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_first_value() {
        let mut left = 3;
        let value = until("three probes", Duration::from_secs(5), || {
            left -= 1;
            (left == 0).then_some("done")
        });
        assert_eq!(value, "done");
        assert!(!becomes_true(Duration::from_millis(10), || false));
    }

    #[test]
    #[should_panic(expected = "waited 10ms in vain: the moon")]
    fn says_what_it_waited_for() {
        until::<()>("the moon", Duration::from_millis(10), || None);
    }
}
