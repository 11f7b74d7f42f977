//! Entry points of the fuzz targets (`/fuzz`): each takes any bytes, and panics when something that must hold does not.

use crate::protocol::{Event, Message};
use crate::record::{Config, Status, start_in};
use crate::{ContainerId, ContainerName};

/// What a client and a monitor say to each other.
pub fn packet(bytes: &[u8]) {
    if let Ok(message) = Message::decode(bytes) {
        assert_eq!(Message::decode(&message.encode()).ok().as_ref(), Some(&message));
    }
    if let Ok(Event::Notice(notice)) = Event::decode(bytes) {
        let again = Event::decode(&notice.encode()).ok();
        assert_eq!(again, Some(Event::Notice(notice)));
    }
}

/// A container's records.
pub fn container_record(bytes: &[u8]) {
    if let Ok(status) = serde_json::from_slice::<Status>(bytes) {
        let text = serde_json::to_vec(&status).expect("what was read can be written");
        assert_eq!(serde_json::from_slice::<Status>(&text).ok().as_ref(), Some(&status));
        let _ = status.is_of_this_boot();
    }
    if let Ok(config) = serde_json::from_slice::<Config>(bytes) {
        let text = serde_json::to_vec(&config).expect("what was read can be written");
        assert!(serde_json::from_slice::<Config>(&text).is_ok());
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = start_in(text);
    if let Ok(id) = text.parse::<ContainerId>() {
        assert_eq!(id.short().len(), 12);
    }
    if let Ok(name) = text.parse::<ContainerName>() {
        assert!(!name.as_str().contains('/') && !name.as_str().starts_with('.'), "{name:?}");
    }
}

/// A container's output and its log.
pub fn log(bytes: &[u8]) {
    crate::log::fuzzing::log(bytes);
}

/// A target.
pub type Target = fn(&[u8]);

/// The targets by name.
pub const TARGETS: [(&str, Target); 3] = [("packet", packet), ("container_record", container_record), ("log", log)];

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::{TARGETS, replay};

    #[test]
    fn what_the_fuzzers_found_is_read_without_fault() {
        replay::all(&TARGETS);
    }
}
