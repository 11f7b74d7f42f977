//! Waiting for a fact, never for a time.

use std::time::{Duration, Instant};

/// Polls `probe` until it gives a value, and gives it.
///
/// # Panics
/// With `what` when `limit` passes first.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Polls `probe` until it is true or `limit` passes, and says which.
pub fn becomes_true(limit: Duration, mut probe: impl FnMut() -> bool) -> bool {
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
