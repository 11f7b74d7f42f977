//! What flags that are not available yet wait for, and the values of them that say nothing new.

/// Rooms to come, as their flags' answers name them.
pub(crate) const NETWORKS: &str = "networks";
/// Health checks.
pub(crate) const HEALTH: &str = "health checks";
/// Restart policies.
pub(crate) const RESTART: &str = "restart policies";
/// Other runtimes, storage options.
pub(crate) const RUNTIMES: &str = "the choice of runtimes and storage";
/// GPUs.
pub(crate) const GPUS: &str = "devices by the Container Device Interface";
/// Real-time scheduling.
pub(crate) const REALTIME: &str = "real-time scheduling";
/// The Docker API server.
pub(crate) const API: &str = "the API server";
/// Checkpoints.
pub(crate) const CHECKPOINTS: &str = "checkpoints";
/// Signed images, all tags and the like.
pub(crate) const REGISTRY: &str = "the rest of the registry client";

/// Whether every value given is what happens anyway, so that there is nothing to refuse.
pub(crate) fn is_default<'a>(flag: &str, values: impl Iterator<Item = &'a str>) -> bool {
    let nothing_new: &[&str] = match flag {
        "restart" => &["no", ""],
        "isolation" => &["default", ""],
        _ => &[],
    };
    let mut values = values.peekable();
    values.peek().is_some() && values.all(|value| nothing_new.contains(&value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_happens_anyway_passes() {
        assert!(is_default("restart", ["no"].into_iter()));
        assert!(!is_default("restart", ["no", "always"].into_iter()));
        assert!(!is_default("publish", ["80"].into_iter()));
        assert!(!is_default("restart", [].into_iter()));
    }
}
