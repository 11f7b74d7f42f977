//! Any bytes as an image archive's members, their names, and instructions of `import`.

use std::io::Read as _;

use oci::image::ContainerConfig;

use super::members::{Kind, Members};
use super::{changes, spool};

/// Members: what is read of one is as long as it says.
pub(crate) fn members(bytes: &[u8]) {
    let mut members = Members::new(bytes);
    let mut count = 0;
    while let Ok(Some(member)) = members.next() {
        count += 1;
        assert!(count * 512 <= bytes.len(), "more members than blocks");
        let mut data = Vec::new();
        match members.read_to_end(&mut data) {
            Ok(length) if member.kind == Kind::File => assert_eq!(length as u64, member.size, "{member:?}"),
            Ok(_) => {}
            Err(_) => return,
        }
        inside(&member.name);
        if let Kind::Symlink(target) | Kind::Hardlink(target) = &member.kind
            && let Ok(joined) = spool::join(&member.name, target)
        {
            let _ = spool::clean(&joined);
        }
    }
}

fn inside(name: &str) {
    if let Ok(clean) = spool::clean(name) {
        assert!(!clean.starts_with('/') && clean.split('/').all(|part| !matches!(part, "" | "." | "..")), "{name:?}");
    }
}

/// `oci-layout`, and one instruction of `import --change` a line.
pub(crate) fn change(bytes: &[u8]) {
    let _ = spool::check_layout(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut config = ContainerConfig::default();
    for line in text.lines() {
        let _ = changes::apply(&mut config, line);
    }
    assert!(config.env.iter().all(|variable| variable.contains('=')), "{:?}", config.env);
}
