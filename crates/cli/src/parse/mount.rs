//! `-v`, `--mount` and `--tmpfs`.

use std::path::{Path, PathBuf};

use engine::spec::MountSpec;

use super::{csv, size};

const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];

/// What a mount's text is read against.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// The caller's working directory, for relative host paths.
    pub(crate) cwd: PathBuf,
    /// Whether SELinux is on, so that `z` and `Z` would mean something.
    pub(crate) selinux: bool,
}

impl Host {
    /// The caller's.
    pub(crate) fn current() -> Self {
        let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        Self { cwd, selinux: Path::new("/sys/fs/selinux/enforce").exists() }
    }

    /// The absolute form of a host path: `.` and `..` at its front are taken from the working directory by their text,
    /// links are left to the kernel.
    fn absolute(&self, path: &str) -> Result<PathBuf, String> {
        if path.starts_with('/') {
            return Ok(path.into());
        }
        if path != "." && path != ".." && !path.starts_with("./") && !path.starts_with("../") {
            return Err(format!("{path:?} is no path: write /… or ./…"));
        }
        let mut absolute = self.cwd.clone();
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    absolute.pop();
                }
                name => absolute.push(name),
            }
        }
        Ok(absolute)
    }
}

/// `HOST:INSIDE[:OPTIONS]`.
///
/// # Errors
/// A volume name (volumes are not available yet), too many parts, an unknown option.
pub(crate) fn volume(text: &str, host: &Host) -> Result<MountSpec, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [_] => return Err("anonymous volumes are not available yet: write HOST:INSIDE, or use --tmpfs".into()),
        [source, target] => (*source, *target, ""),
        [source, target, options] => (*source, *target, *options),
        _ => return Err("expected HOST:INSIDE[:OPTIONS]".into()),
    };
    if source.is_empty() || target.is_empty() {
        return Err("expected HOST:INSIDE[:OPTIONS]".into());
    }
    let is_path = source.starts_with('/') || source.starts_with('.');
    if !is_path {
        return Err(format!("volumes by name are not available yet: for the directory {source:?} write ./{source}"));
    }
    let mut read_only = false;
    let mut propagation = String::new();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            // Docker Desktop's words about caches say nothing on Linux; "nocopy" concerns volumes.
            "rw" | "cached" | "delegated" | "consistent" | "default" | "nocopy" => {}
            "z" | "Z" if !host.selinux => {}
            "z" | "Z" => return Err("SELinux labels are not available yet".into()),
            option if PROPAGATIONS.contains(&option) => option.clone_into(&mut propagation),
            other => return Err(format!("unknown option {other:?}")),
        }
    }
    let source = host.absolute(source)?;
    let target = inside(target)?;
    Ok(MountSpec::Bind { source, target, read_only, propagation, create_source: true, recursive: true })
}

/// `PATH[:OPTIONS]`.
///
/// # Errors
/// A relative path.
pub(crate) fn tmpfs(text: &str) -> Result<MountSpec, String> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    Ok(MountSpec::Tmpfs { target: inside(target)?, options: options.to_owned() })
}

fn inside(path: &str) -> Result<PathBuf, String> {
    if path.starts_with('/') {
        return Ok(path.into());
    }
    Err(format!("{path:?} is no absolute path inside the container"))
}

/// `type=bind|tmpfs,KEY=VALUE,…`.
///
/// # Errors
/// An unknown key, a key of another type, a missing source or target, volumes.
pub(crate) fn mount(text: &str, host: &Host) -> Result<MountSpec, String> {
    let mut kind = String::from("volume");
    let mut source = None;
    let mut target = None;
    let mut read_only = false;
    let mut recursive = true;
    let mut create_source = false;
    let mut propagation = String::new();
    let mut tmpfs_options = Vec::new();
    let mut of_type: Vec<(&str, &str)> = Vec::new();
    let fields = csv::fields(text)?;
    for field in &fields {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), Some(value)),
            None => (field.to_ascii_lowercase(), None),
        };
        let needed = || value.filter(|v| !v.is_empty()).ok_or_else(|| format!("{key:?} needs a value"));
        match key.as_str() {
            "type" => kind = needed()?.to_ascii_lowercase(),
            "source" | "src" => source = Some(needed()?.to_owned()),
            "target" | "dst" | "destination" => target = Some(needed()?.to_owned()),
            "readonly" | "ro" => read_only = switch(&key, value)?,
            "consistency" => drop(needed()?),
            "bind-propagation" => {
                let value = needed()?;
                if !PROPAGATIONS.contains(&value) {
                    return Err(format!("{value:?} is no propagation"));
                }
                value.clone_into(&mut propagation);
                of_type.push(("bind", "bind-propagation"));
            }
            "bind-nonrecursive" => {
                recursive = !switch(&key, value)?;
                of_type.push(("bind", "bind-nonrecursive"));
            }
            "bind-recursive" => {
                recursive = match needed()? {
                    "enabled" | "writable" => true,
                    "disabled" => false,
                    "readonly" => return Err("\"bind-recursive=readonly\" is not available yet".into()),
                    other => return Err(format!("{other:?} is no value of \"bind-recursive\"")),
                };
                of_type.push(("bind", "bind-recursive"));
            }
            "bind-create-src" => {
                create_source = switch(&key, value)?;
                of_type.push(("bind", "bind-create-src"));
            }
            "tmpfs-size" => {
                tmpfs_options.push(format!("size={}", size::unsigned(needed()?)?));
                of_type.push(("tmpfs", "tmpfs-size"));
            }
            "tmpfs-mode" => {
                let mode = u32::from_str_radix(needed()?, 8).ok().filter(|mode| *mode <= 0o7777);
                let mode = mode.ok_or("\"tmpfs-mode\" is no octal mode")?;
                tmpfs_options.push(format!("mode={mode:o}"));
                of_type.push(("tmpfs", "tmpfs-mode"));
            }
            key if key.starts_with("volume-") || key.starts_with("image-") => {
                return Err(format!("{key:?} is not available yet: it comes with volumes"));
            }
            other => return Err(format!("unknown key {other:?}")),
        }
    }
    if let Some((wanted, key)) = of_type.iter().find(|(wanted, _)| *wanted != kind) {
        return Err(format!("{key:?} is for type={wanted}, not type={kind}"));
    }
    let target = inside(&target.ok_or("target= is missing")?)?;
    match kind.as_str() {
        "bind" => {
            let source = host.absolute(&source.ok_or("source= is missing")?)?;
            Ok(MountSpec::Bind { source, target, read_only, propagation, create_source, recursive })
        }
        "tmpfs" if source.is_some() => Err("type=tmpfs has no source".into()),
        "tmpfs" => {
            if read_only {
                tmpfs_options.insert(0, "ro".into());
            }
            Ok(MountSpec::Tmpfs { target, options: tmpfs_options.join(",") })
        }
        "volume" => Err("volumes are not available yet: write type=bind or type=tmpfs".into()),
        "image" | "npipe" | "cluster" => Err(format!("type={kind} is not available yet")),
        other => Err(format!("there is no type={other}")),
    }
}

fn switch(key: &str, value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("1" | "true") => Ok(true),
        Some("0" | "false") => Ok(false),
        Some(other) => Err(format!("{other:?} is no value of {key:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Host {
        Host { cwd: "/home/u".into(), selinux: false }
    }

    fn bind(source: &str, target: &str, read_only: bool, propagation: &str) -> MountSpec {
        MountSpec::Bind {
            source: source.into(),
            target: target.into(),
            read_only,
            propagation: propagation.into(),
            create_source: true,
            recursive: true,
        }
    }

    #[test]
    fn volumes_are_host_paths() {
        for (text, expected) in [
            ("/a:/b", bind("/a", "/b", false, "")),
            ("/a:/b:ro", bind("/a", "/b", true, "")),
            ("/a:/b:rw,rslave", bind("/a", "/b", false, "rslave")),
            ("/a:/b:z,cached", bind("/a", "/b", false, "")),
            ("./x:/b", bind("/home/u/x", "/b", false, "")),
            (".:/b", bind("/home/u", "/b", false, "")),
            ("../x/../y:/b", bind("/home/y", "/b", false, "")),
        ] {
            assert_eq!(volume(text, &host()), Ok(expected), "{text}");
        }
        for bad in ["", "/a", "name:/b", "/a:b", "/a:/b:bogus", "/a:/b:ro:x", ":/b", "/a:", ".hidden:/b"] {
            assert!(volume(bad, &host()).is_err(), "{bad}");
        }
        assert!(volume("/a:/b:Z", &Host { selinux: true, ..host() }).is_err());
    }

    #[test]
    fn mounts_are_key_value_lists() {
        let tmpfs = |target: &str, options: &str| MountSpec::Tmpfs { target: target.into(), options: options.into() };
        let strict = |source: &str, read_only: bool, recursive: bool, propagation: &str| MountSpec::Bind {
            source: source.into(),
            target: "/b".into(),
            read_only,
            propagation: propagation.into(),
            create_source: false,
            recursive,
        };
        for (text, expected) in [
            ("type=bind,source=/a,target=/b", strict("/a", false, true, "")),
            ("type=bind,src=./a,dst=/b,readonly", strict("/home/u/a", true, true, "")),
            ("type=bind,src=/a,dst=/b,ro=false,bind-nonrecursive", strict("/a", false, false, "")),
            ("type=bind,src=/a,dst=/b,bind-propagation=shared,consistency=cached", strict("/a", false, true, "shared")),
            ("type=bind,src=/a,dst=/b,bind-recursive=disabled", strict("/a", false, false, "")),
            ("type=bind,\"src=/a,b\",dst=/b", strict("/a,b", false, true, "")),
            ("type=tmpfs,target=/t", tmpfs("/t", "")),
            ("type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1770,readonly", tmpfs("/t", "ro,size=1048576,mode=1770")),
        ] {
            assert_eq!(mount(text, &host()), Ok(expected), "{text}");
        }
        for bad in [
            "source=/a,target=/b",
            "type=volume,target=/b",
            "type=bind,target=/b",
            "type=bind,source=/a",
            "type=bind,source=a,target=/b",
            "type=bind,source=/a,target=b",
            "type=bind,source=/a,target=/b,bogus=1",
            "type=bind,source=/a,target=/b,tmpfs-size=1",
            "type=tmpfs,source=/a,target=/b",
            "type=tmpfs,target=/b,tmpfs-mode=9",
            "type=bind,source=/a,target=/b,readonly=maybe",
            "type=odd,target=/b",
            "type=bind,source=,target=/b",
        ] {
            assert!(mount(bad, &host()).is_err(), "{bad}");
        }
    }

    #[test]
    fn tmpfs_keeps_its_options() {
        let expected = MountSpec::Tmpfs { target: "/run".into(), options: "size=64k,mode=755".into() };
        assert_eq!(tmpfs("/run:size=64k,mode=755"), Ok(expected));
        assert!(tmpfs("run").is_err());
    }
}
