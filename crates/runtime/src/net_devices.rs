//! `linux.netDevices` (`config-linux.md`, "Network Devices", 1.3): devices of the host's that become the container's.
//!
//! A device is moved and renamed in one call, loses its addresses by that, and gets back those that are permanent and
//! valid everywhere. It does not come back: the kernel returns physical devices to the host when the namespace ends and
//! removes the others.

use std::os::fd::{AsFd, OwnedFd};

use oci::runtime::Linux;
use rustix::fs::{Mode, OFlags};
use sys::process::Namespaces;
use sys::route::{LONGEST_NAME, Route};
use sys::{Context as _, Errno};

use crate::error::{Doing, Error, ErrorKind, Result};
use crate::namespaces::{self, Chosen};
use crate::plan::{Plan, wrong};

const OWN: &str = "/proc/self/ns/net";

/// Checks what can be checked before anything is made.
///
/// # Errors
/// A mistake in `linux.netDevices`, by name.
pub(crate) fn check(linux: &Linux, chosen: &Chosen) -> Result<()> {
    if linux.net_devices.is_empty() {
        return Ok(());
    }
    let joined = chosen.all_joins().find(|(flag, _)| *flag == Namespaces::NETWORK);
    let own = match joined {
        Some((_, file)) => !namespaces::is_own(file, OWN)?,
        None => chosen.new.contains(Namespaces::NETWORK),
    };
    if !own {
        return Err(wrong("linux.netDevices", "needs a network namespace other than the runtime's"));
    }
    let mut inside = Vec::new();
    for (name, device) in &linux.net_devices {
        let new = if device.name.is_empty() { name } else { &device.name };
        // A name of the host's is one device; one of the container's may be a pattern.
        for (text, pattern) in [(name, false), (new, !device.name.is_empty())] {
            if !is_name(text, pattern) {
                return Err(field(name, format_args!("{text:?} is no name of a network device")));
            }
        }
        if inside.contains(&new) && !new.contains('%') {
            return Err(field(name, format_args!("another device is called {new:?} too")));
        }
        inside.push(new);
    }
    Ok(())
}

fn field(name: &str, what: impl std::fmt::Display) -> Error {
    wrong(&format!("linux.netDevices[{name:?}]"), what)
}

/// What the kernel takes (`dev_valid_name`, net/core/dev.c); a pattern has one `%d`.
fn is_name(name: &str, pattern: bool) -> bool {
    let odd = |c: char| c == '/' || c == ':' || c.is_ascii_whitespace() || c == '\0';
    let plain = name.replacen("%d", "", usize::from(pattern));
    !name.is_empty()
        && name.len() <= LONGEST_NAME
        && name != "."
        && name != ".."
        && !name.contains(odd)
        && !plain.contains('%')
}

/// Moves the devices into the network namespace of the container, whose first process is `pid`.
///
/// # Errors
/// The first device that is not there or cannot be moved, by its field. Those before it are the container's by then.
pub(crate) fn move_all(plan: &Plan<'_>, pid: u32) -> Result<()> {
    let devices = &plan.linux.net_devices;
    if devices.is_empty() {
        return Ok(());
    }
    let what = || "linux.netDevices: cannot reach the container's network namespace".to_owned();
    let open = |path: &str| {
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).at("open", path).doing(what)
    };
    let own = open(OWN)?;
    // One that the process joins by itself it may not have joined yet.
    let joined = plan.joins.iter().find(|(flag, _)| *flag == Namespaces::NETWORK).map(|(_, file)| file.as_fd());
    let opened: OwnedFd;
    let namespace = match joined {
        Some(namespace) => namespace,
        None => {
            opened = open(&format!("/proc/{pid}/ns/net"))?;
            opened.as_fd()
        }
    };
    let here = Route::open().doing(what)?;
    let there = Route::open_in(namespace, &own).doing(what)?;
    let mut found = Vec::new();
    for (name, device) in devices {
        let index = here.index(name).map_err(|cause| absent(name, cause))?;
        let new = if device.name.is_empty() { name } else { &device.name };
        // The move itself would be made before the kernel finds that, and cannot be taken back.
        if !new.contains('%') && there.index(new).is_ok() {
            return Err(field(name, format_args!("the container has a device {new:?} already")));
        }
        found.push((name, new, index));
    }
    for (name, new, index) in found {
        let failed = |cause: sys::Error| {
            let sentence = format!("linux.netDevices[{name:?}]: cannot move the device into the container as {new:?}");
            Error::system(sentence, cause)
        };
        let addresses = here.addresses(index).map_err(failed)?;
        let before = there.indexes().map_err(failed)?;
        here.move_to(index, namespace, new).map_err(failed)?;
        let inside = match there.index(new) {
            Ok(index) => index,
            // The kernel has chosen a name.
            Err(cause) if cause.errno() == Errno::NODEV || new.contains('%') => {
                let after = there.indexes().map_err(failed)?;
                after.into_iter().find(|index| !before.contains(index)).ok_or_else(|| failed(cause))?
            }
            Err(cause) => return Err(failed(cause)),
        };
        for address in addresses.iter().filter(|address| address.is_permanent_and_global()) {
            there.add_address(inside, address).map_err(failed)?;
        }
        there.set_up(inside).map_err(failed)?;
    }
    Ok(())
}

fn absent(name: &str, cause: sys::Error) -> Error {
    if cause.errno() == Errno::NODEV {
        return Error::system(format!("linux.netDevices[{name:?}]: there is no such device"), cause)
            .with_kind(ErrorKind::Config);
    }
    Error::system(format!("linux.netDevices[{name:?}]: cannot look for the device"), cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(namespaces: &str, devices: &str) -> std::result::Result<(), String> {
        let json = format!(
            r#"{{"ociVersion": "1.3.0", "linux": {{"namespaces": [{namespaces}], "netDevices": {{{devices}}}}}}}"#
        );
        let spec = oci::runtime::Spec::from_json(json.as_bytes()).expect("valid JSON");
        let linux = spec.linux.as_ref().expect("linux");
        check(linux, &namespaces::plan(linux).expect("valid")).map_err(|error| error.to_string())
    }

    #[test]
    fn mistakes_name_the_device() {
        const NEW: &str = r#"{"type": "network"}"#;
        assert_eq!(checked(NEW, r#""eth1": {}, "eth2": {"name": "net%d"}, "eth3": {"name": "net%d"}"#), Ok(()));
        assert_eq!(checked("", ""), Ok(()));
        for namespaces in ["", r#"{"type": "network", "path": "/proc/self/ns/net"}"#] {
            let error = checked(namespaces, r#""eth1": {}"#).expect_err("the host's");
            assert!(error.starts_with("linux.netDevices: needs a network namespace"), "{error}");
        }
        for devices in [
            r#""": {}"#,
            r#""a/b": {}"#,
            r#""net%d": {}"#,
            r#""a": {"name": "b c"}"#,
            r#""a": {"name": "sixteen-letters-"}"#,
            r#""a": {"name": "%d%d"}"#,
            r#""a": {"name": "%s"}"#,
            r#""a": {"name": ".."}"#,
            r#""a": {"name": "c"}, "b": {"name": "c"}"#,
            r#""a": {}, "b": {"name": "a"}"#,
        ] {
            let error = checked(NEW, devices).expect_err(devices);
            assert!(error.starts_with("linux.netDevices[\""), "{error}");
        }
    }
}
