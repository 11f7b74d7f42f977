//! Any bytes as a bus's messages, and as what names a scope.

use oci::runtime::LinuxResources;

use super::wire::{FIXED, Reader, parse, total};
use super::{Scope, own_group, properties, wire};

/// A message, and the values in its body.
pub(crate) fn message(bytes: &[u8]) {
    if let Some(fixed) = bytes.first_chunk::<FIXED>() {
        let _ = total(fixed);
    }
    let Some(message) = parse(bytes) else { return };
    assert_eq!(bytes.first_chunk::<FIXED>().and_then(total), Some(bytes.len()));
    assert!(message.body.len() <= bytes.len());
    for first_is_number in [true, false] {
        let mut reader = Reader::new(&message.body);
        if first_is_number {
            let _ = reader.u32();
        }
        while reader.text().is_some() {}
    }
}

/// `linux.cgroupsPath` in systemd's form, `/proc/PID/cgroup`, and limits as properties.
pub(crate) fn scope(bytes: &[u8]) {
    if let Ok(resources) = serde_json::from_slice::<LinuxResources>(bytes) {
        for v2 in [true, false] {
            let mut out = wire::Writer::default();
            out.properties(&properties::of(&resources, v2));
            out.properties(&properties::devices(&resources.devices));
        }
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = own_group(text);
    if let Ok(scope) = Scope::parse(text, "id") {
        assert!(scope.unit.ends_with(".scope") && !scope.unit.contains('/'), "{scope:?}");
        assert!(scope.slice.ends_with(".slice") && !scope.slice.contains('/'), "{scope:?}");
    }
}
