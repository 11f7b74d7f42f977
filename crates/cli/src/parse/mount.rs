//! `-v`, `--mount` and `--tmpfs`.

use std::path::{Path, PathBuf};

use engine::spec::{MountSpec, VolumeMount, VolumeOrigin};

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

/// `INSIDE`, `NAME:INSIDE[:OPTIONS]`, `HOST:INSIDE[:OPTIONS]`.
///
/// # Errors
/// Too many parts, an unknown option, one that the kind of mount does not have, two that contradict each other.
pub(crate) fn volume(text: &str, host: &Host) -> Result<MountSpec, String> {
    const GRAMMAR: &str = "expected INSIDE, NAME:INSIDE[:OPTIONS] or HOST:INSIDE[:OPTIONS]";
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, mode) = match parts.as_slice() {
        [target] if !target.is_empty() => ("", *target, ""),
        [source, target] if !source.is_empty() => (*source, *target, ""),
        [source, target, mode] if !source.is_empty() => (*source, *target, *mode),
        _ => return Err(GRAMMAR.into()),
    };
    if target.is_empty() {
        return Err(GRAMMAR.into());
    }
    let is_path = source.starts_with('/') || source.starts_with('.');
    let said = options(mode, is_path, host)?;
    let target = inside(target)?;
    if !is_path {
        return Ok(MountSpec::Volume(VolumeMount {
            name: source.to_owned(),
            target,
            read_only: said.read_only,
            no_copy: said.no_copy,
            mode: mode.to_owned(),
            ..VolumeMount::default()
        }));
    }
    Ok(MountSpec::Bind {
        source: host.absolute(source)?,
        target,
        read_only: said.read_only,
        propagation: said.propagation,
        create_source: true,
        recursive: true,
    })
}

/// Options of `-v`.
#[derive(Default)]
struct Options {
    read_only: bool,
    no_copy: bool,
    propagation: String,
}

fn options(mode: &str, is_path: bool, host: &Host) -> Result<Options, String> {
    let mut said = Options::default();
    // One of each kind: docker refuses "ro,rw" and "shared,slave" alike.
    let (mut access, mut label) = (false, false);
    let twice = || Err(format!("invalid mode: {mode}"));
    for option in mode.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" | "rw" => {
                if std::mem::replace(&mut access, true) {
                    return twice();
                }
                said.read_only = option == "ro";
            }
            // Docker Desktop's words about caches say nothing on Linux.
            "cached" | "delegated" | "consistent" | "default" => {}
            "nocopy" => said.no_copy = true,
            "z" | "Z" if host.selinux => return Err("SELinux labels are not available yet".into()),
            "z" | "Z" => {
                if std::mem::replace(&mut label, true) {
                    return twice();
                }
            }
            option if PROPAGATIONS.contains(&option) && is_path => {
                if !said.propagation.is_empty() {
                    return twice();
                }
                option.clone_into(&mut said.propagation);
            }
            option if PROPAGATIONS.contains(&option) => {
                return Err(format!("invalid mode: {option}: a volume has no propagation"));
            }
            other => return Err(format!("unknown option {other:?}")),
        }
    }
    Ok(said)
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

/// `type=bind|volume|tmpfs,KEY=VALUE,…`; the type is `volume` when left out.
///
/// # Errors
/// An unknown key, a key of another type, a missing source or target.
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
    let mut volume = VolumeMount { origin: VolumeOrigin::Mount, ..VolumeMount::default() };
    let mut strict = false;
    let fields = csv::fields(text)?;
    for field in &fields {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), Some(value)),
            None => (field.to_ascii_lowercase(), None),
        };
        let needed = || value.filter(|v| !v.is_empty()).ok_or_else(|| format!("{key:?} needs a value"));
        match key.as_str() {
            "type" => kind = needed()?.to_ascii_lowercase(),
            "source" | "src" => source = value.filter(|value| !value.is_empty()).map(str::to_owned),
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
                    // Mounts below a read-only one are read-only by default; this insists.
                    "readonly" => {
                        strict = true;
                        true
                    }
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
            "volume-nocopy" => {
                volume.no_copy = switch(&key, value)?;
                of_type.push(("volume", "volume-nocopy"));
            }
            "volume-subpath" => {
                needed()?.clone_into(&mut volume.subpath);
                of_type.push(("volume", "volume-subpath"));
            }
            "volume-driver" => {
                needed()?.clone_into(&mut volume.driver);
                of_type.push(("volume", "volume-driver"));
            }
            "volume-label" => {
                let (key, value) = needed()?.split_once('=').unwrap_or((needed()?, ""));
                volume.labels.insert(key.to_owned(), value.to_owned());
                of_type.push(("volume", "volume-label"));
            }
            "volume-opt" => {
                let (key, value) = needed()?.split_once('=').unwrap_or((needed()?, ""));
                volume.options.insert(key.to_owned(), value.to_owned());
                of_type.push(("volume", "volume-opt"));
            }
            "image-subpath" => of_type.push(("image", "image-subpath")),
            other => return Err(format!("unknown key {other:?}")),
        }
    }
    if let Some((wanted, key)) = of_type.iter().find(|(wanted, _)| *wanted != kind) {
        return Err(format!("{key:?} is for type={wanted}, not type={kind}"));
    }
    let target = inside(&target.ok_or("target= is missing")?)?;
    if strict && (!read_only || propagation != "rprivate") {
        return Err("bind-recursive=readonly requires readonly and bind-propagation=rprivate".into());
    }
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
        "volume" => {
            let name = source.unwrap_or_default();
            if name.is_empty() && !volume.subpath.is_empty() {
                return Err("volume-subpath needs the name of a volume: source= is missing".into());
            }
            Ok(MountSpec::Volume(VolumeMount { name, target, read_only, ..volume }))
        }
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
        for bad in [
            "",
            ":/a",
            "a",
            "name:/b:shared",
            "/a:/b:ro,rw",
            "/a:/b:slave,shared",
            "/a:b",
            "/a:/b:bogus",
            "/a:/b:ro:x",
            ":/b",
            "/a:",
            ".hidden:/b",
        ] {
            assert!(volume(bad, &host()).is_err(), "{bad}");
        }
        let named = |name: &str, mode: &str, read_only, no_copy| {
            let (name, mode) = (name.to_owned(), mode.to_owned());
            let target = "/b".into();
            MountSpec::Volume(VolumeMount { name, mode, target, read_only, no_copy, ..VolumeMount::default() })
        };
        for (text, expected) in [
            ("/b", named("", "", false, false)),
            ("db:/b", named("db", "", false, false)),
            ("db:/b:ro,nocopy", named("db", "ro,nocopy", true, true)),
        ] {
            assert_eq!(volume(text, &host()), Ok(expected), "{text}");
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
        let text = "source=db,target=/b,ro,volume-nocopy,volume-subpath=x/y,volume-label=a=b,volume-label=c,\
                    volume-driver=local,\"volume-opt=o=bind,ro\"";
        let pairs = |all: &[(&str, &str)]| all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let expected = VolumeMount {
            name: "db".into(),
            target: "/b".into(),
            read_only: true,
            no_copy: true,
            subpath: "x/y".into(),
            driver: "local".into(),
            labels: pairs(&[("a", "b"), ("c", "")]),
            options: pairs(&[("o", "bind,ro")]),
            origin: VolumeOrigin::Mount,
            ..VolumeMount::default()
        };
        assert_eq!(mount(text, &host()), Ok(MountSpec::Volume(expected)));
        for bad in [
            "type=volume,target=/b,volume-subpath=x",
            "type=volume,source=db,target=/b,bind-propagation=shared",
            "type=image,source=x,target=/b",
            "type=bind,source=/a,target=/b,volume-nocopy",
            "type=bind,source=/a,target=/b,bind-recursive=readonly",
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
