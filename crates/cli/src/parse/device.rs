//! `--device` and the per-device limits of block I/O.

use std::path::PathBuf;

use engine::spec::DeviceSpec;

use super::size;

fn is_access(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| matches!(c, 'r' | 'w' | 'm'))
}

/// `HOST[:INSIDE[:ACCESS]]` or `HOST:ACCESS`.
///
/// # Errors
/// Too many parts, a relative path, an access that is not of `rwm`.
pub(crate) fn parse(text: &str) -> Result<DeviceSpec, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, access) = match parts.as_slice() {
        [source] => (*source, *source, "rwm"),
        [source, access] if is_access(access) => (*source, *source, *access),
        [source, target] => (*source, *target, "rwm"),
        [source, target, access] => (*source, if target.is_empty() { *source } else { *target }, *access),
        _ => return Err("expected HOST[:INSIDE[:rwm]]".into()),
    };
    if !source.starts_with('/') {
        let by_name = source.contains('/') && source.contains('=');
        return Err(if by_name {
            "devices by the Container Device Interface are not available yet".into()
        } else {
            format!("{source:?} is no absolute path")
        });
    }
    if !target.starts_with('/') {
        return Err(format!("{target:?} is neither an absolute path nor an access of r, w and m"));
    }
    if !is_access(access) {
        return Err(format!("{access:?} is no access of r, w and m"));
    }
    Ok(DeviceSpec { source: source.into(), target: target.into(), access: access.into() })
}

fn split(text: &str) -> Result<(PathBuf, &str), String> {
    let (path, value) = text.rsplit_once(':').ok_or("expected DEVICE:VALUE")?;
    if path.starts_with("/dev/") { Ok((path.into(), value)) } else { Err(format!("{path:?} is not below /dev")) }
}

/// `DEVICE:RATE` with a size for the rate: bytes per second.
///
/// # Errors
/// As for [`size::bytes`]; a path outside `/dev`.
pub(crate) fn bytes_per_second(text: &str) -> Result<(PathBuf, u64), String> {
    let (path, rate) = split(text)?;
    Ok((path, size::unsigned(rate)?))
}

/// `DEVICE:RATE`: operations per second.
///
/// # Errors
/// No number; a path outside `/dev`.
pub(crate) fn operations_per_second(text: &str) -> Result<(PathBuf, u64), String> {
    let (path, rate) = split(text)?;
    Ok((path, size::number(rate)?))
}

/// `DEVICE:WEIGHT`.
///
/// # Errors
/// No weight of 10 to 1000; a path outside `/dev`.
pub(crate) fn weight(text: &str) -> Result<(PathBuf, u16), String> {
    let (path, weight) = split(text)?;
    let weight = size::number(weight)?;
    if weight == 0 || (10..=1000).contains(&weight) {
        return Ok((path, weight));
    }
    Err("the weight is not within 10 to 1000".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_parse() {
        let spec = |source: &str, target: &str, access: &str| {
            Ok(DeviceSpec { source: source.into(), target: target.into(), access: access.into() })
        };
        assert_eq!(parse("/dev/fuse"), spec("/dev/fuse", "/dev/fuse", "rwm"));
        assert_eq!(parse("/dev/fuse:r"), spec("/dev/fuse", "/dev/fuse", "r"));
        assert_eq!(parse("/dev/fuse:/dev/f"), spec("/dev/fuse", "/dev/f", "rwm"));
        assert_eq!(parse("/dev/fuse:/dev/f:rw"), spec("/dev/fuse", "/dev/f", "rw"));
        assert_eq!(parse("/dev/fuse::rw"), spec("/dev/fuse", "/dev/fuse", "rw"));
        for bad in ["", "fuse", "/dev/fuse:x", "/dev/a:/dev/b:q", "/dev/a:/b:r:w", "vendor.com/gpu=0"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rates_parse() {
        assert_eq!(bytes_per_second("/dev/sda:1mb"), Ok(("/dev/sda".into(), 1 << 20)));
        assert_eq!(operations_per_second("/dev/sda:100"), Ok(("/dev/sda".into(), 100)));
        assert_eq!(weight("/dev/sda:500"), Ok(("/dev/sda".into(), 500)));
        assert!(weight("/dev/sda:5").is_err());
        assert!(bytes_per_second("/etc/x:1mb").is_err());
        assert!(bytes_per_second("/dev/sda").is_err());
        assert!(operations_per_second("/dev/sda:1mb").is_err());
    }
}
