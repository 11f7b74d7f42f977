//! From what was said to what is meant: a [`ContainerSpec`] and an image, resolved on a host into a [`Config`].
//!
//! Everything that can be refused is refused here, before anything exists on disk. Nothing is looked up inside the
//! container's file system: users and groups stay words until the process starts.
//!
//! Volumes have their names and places already: what an image declares as `VOLUME`, and what other containers use, is
//! among the mounts.

mod devices;
pub(crate) mod mounts;
mod posture;
mod process;
mod resources;
mod said;
mod security;
mod signal;
mod sysctl;

use std::collections::BTreeMap;
use std::path::Path;

use container::capability::{Capabilities, CapabilitySet, resolve};
use container::record::{self, Config, ImageRef, UsernsPosture};
use container::{ContainerId, ContainerName, seccomp};
use oci::image::ContainerConfig;
use oci::runtime::{Linux, LinuxSeccomp, Process, Root, Spec, User};

use crate::host::Host;
use crate::spec::{ContainerSpec, Source};
use crate::{Error, ErrorKind, Result};

pub use mounts::FILES;
pub use security::{MASKED_PATHS, READONLY_PATHS};
pub use signal::parse_signal;

/// Seconds that `stop` waits when nobody says otherwise (docker's).
const STOP_TIMEOUT: i64 = 10;
/// Bytes of a log file and number of files by default: a container can never fill the disk with its log.
const LOG: (u64, u32) = (10 << 20, 3);

/// What a container is made of, besides what the user said.
pub(crate) struct Inputs<'a> {
    pub(crate) spec: &'a ContainerSpec,
    pub(crate) id: &'a ContainerId,
    pub(crate) name: ContainerName,
    /// The image's part of the configuration; empty with `--rootfs`.
    pub(crate) image: &'a ContainerConfig,
    pub(crate) image_ref: Option<ImageRef>,
    /// Highest user or group id in the image's layers; `None` with `--rootfs`.
    pub(crate) highest_id: Option<u32>,
    /// The container gets a copy of the image's root, since its file system can hold no overlay.
    pub(crate) copied: bool,
    /// The container's directory, where the generated files will be.
    pub(crate) dir: &'a Path,
    pub(crate) host: &'a dyn Host,
}

/// The result: the record, and what the user should hear.
pub(crate) struct Meant {
    pub(crate) config: Config,
    pub(crate) warnings: Vec<String>,
}

/// Resolves `inputs`.
///
/// # Errors
/// [`ErrorKind::Invalid`] for what can never be, [`ErrorKind::Unsupported`] for what cannot be here.
pub(crate) fn generate(inputs: Inputs<'_>) -> Result<Meant> {
    let Inputs { spec, id, name, image, image_ref, highest_id, copied, dir, host } = inputs;
    let mut warnings = Vec::new();
    let userns = posture::userns(spec, highest_id, host)?;
    let private = userns == UsernsPosture::Private;
    let namespaces = posture::namespaces(spec, &userns, host)?;
    let attachment = posture::attachment(spec, &mut warnings);
    let host_name = posture::host_name(spec, id.short(), host)?;
    let (entrypoint, cmd) = process::command(spec, image)?;
    let env = process::environment(spec, image)?;
    let (user, groups) = process::user(spec, image)?;
    let options = security::options(spec, host, &mut warnings)?;
    let capabilities = capabilities(spec, host)?;
    let mut devices = devices::devices(spec, host)?;
    let mut mounts = mounts::mounts(spec, dir, host)?;
    for device in devices.mounts.drain(..) {
        if mounts.iter().any(|other| other.destination == device.destination) {
            return invalid(format!("duplicate mount point: {}", device.destination.display()));
        }
        mounts.push(device);
    }
    let mut resources = resources::resources(&spec.resources, host, &mut warnings)?;
    resources.devices = devices.rules;
    let said = said::said(spec, image, &entrypoint, &cmd, &env)?;
    let linux = Linux {
        sysctl: sysctl::sysctls(spec, attachment, private)?,
        resources: Some(resources),
        cgroups_path: posture::cgroup_path(spec, id.as_str())?,
        namespaces,
        devices: devices.nodes,
        seccomp: filter(&options.seccomp, capabilities, host)?,
        masked_paths: paths(&MASKED_PATHS, options.paths_unconfined),
        readonly_paths: paths(&READONLY_PATHS, options.paths_unconfined),
        ..Linux::default()
    };
    let process = Process {
        terminal: spec.tty,
        user: User::default(),
        args: entrypoint.into_iter().chain(cmd).collect(),
        env: process::with_defaults(&env, &host_name, spec.tty),
        cwd: process::working_dir(spec, image)?,
        capabilities: Some(Capabilities::starting_with(capabilities).to_oci()),
        rlimits: process::limits(spec, host, &mut warnings)?,
        no_new_privileges: options.no_new_privileges,
        apparmor_profile: options.apparmor,
        oom_score_adj: oom_score_adj(spec, host)?,
        ..Process::default()
    };
    let shared_uts = spec.uts == crate::spec::NamespaceMode::Host;
    let domain_name = spec.domainname.clone().unwrap_or_default();
    if !domain_name.is_empty() && (shared_uts || network::files::check_host_name(&domain_name).is_err()) {
        return invalid(format!("invalid --domainname {domain_name:?}"));
    }
    let oci = Spec {
        oci_version: oci::runtime::VERSION.to_owned(),
        root: Some(Root { path: "rootfs".into(), readonly: spec.read_only }),
        mounts,
        process: Some(process),
        hostname: if shared_uts { String::new() } else { host_name },
        domainname: domain_name,
        annotations: words("annotation", &spec.annotations)?,
        linux: Some(linux),
        ..Spec::default()
    };
    let rootfs_dir = match &spec.source {
        Source::Image(_) => copied.then(|| dir.join(storage::flat::ROOT)),
        Source::Rootfs(dir) => Some(dir.clone()),
    };
    if copied {
        warnings.push(
            "the data root's file system cannot hold an overlay: the container gets a copy of the image".to_owned(),
        );
    }
    let mut labels = image.labels.clone();
    labels.extend(words("label", &spec.labels)?);
    let config = Config {
        version: record::VERSION,
        id: id.clone(),
        name,
        created: record::now(),
        image: image_ref,
        rootfs_dir,
        spec: oci,
        user,
        groups,
        tty: spec.tty,
        open_stdin: spec.open_stdin,
        init: spec.init,
        auto_remove: spec.auto_remove,
        userns,
        stop_signal: stop_signal(spec, image)?,
        stop_timeout: stop_timeout(spec)?,
        log: log(spec)?,
        labels,
        said,
    };
    Ok(Meant { config, warnings })
}

fn capabilities(spec: &ContainerSpec, host: &dyn Host) -> Result<CapabilitySet> {
    if spec.privileged {
        return host.capabilities();
    }
    let unknown = |error: container::capability::UnknownCapability| {
        refusal(format!("invalid capability: {:?}", error.0))
            .hint("names are as in capabilities(7): NET_ADMIN, SYS_PTRACE")
    };
    let set = resolve(CapabilitySet::DEFAULT, &spec.cap_add, &spec.cap_drop).map_err(unknown)?;
    // Every kernel supported here knows the default ones; only what was added can be too new.
    if set.without(CapabilitySet::DEFAULT).is_empty() { Ok(set) } else { Ok(set & host.capabilities()?) }
}

fn filter(said: &security::Seccomp, capabilities: CapabilitySet, host: &dyn Host) -> Result<Option<LinuxSeccomp>> {
    match said {
        security::Seccomp::Unconfined => Ok(None),
        security::Seccomp::Default => Ok(Some(seccomp::default_profile(capabilities, host.kernel()))),
        security::Seccomp::Profile(text) => {
            let profile = seccomp::read_profile(text.as_bytes(), capabilities, host.kernel())
                .map_err(|error| refusal("the seccomp profile cannot be used").because(error))?;
            if let Some(profile) = &profile {
                // Compiled once here, so that a wrong word in it is an error of create and not of the start.
                seccomp::compile(profile)
                    .map_err(|error| refusal("the seccomp profile cannot be used").because(error))?;
            }
            Ok(profile)
        }
    }
}

/// Nothing said keeps the caller's own score: without privilege it can only be raised.
fn oom_score_adj(spec: &ContainerSpec, host: &dyn Host) -> Result<Option<i32>> {
    match spec.oom_score_adj {
        Some(score) if !(-1000..=1000).contains(&score) => {
            invalid(format!("invalid value {score}, range for oom score adj is [-1000, 1000]"))
        }
        Some(score) if score < 0 && !host.may_raise_limits() => Err(Error::new(
            ErrorKind::Unsupported,
            format!("--oom-score-adj {score}: a score below 0 needs CAP_SYS_RESOURCE, which is missing here"),
        )),
        score => Ok(score),
    }
}

fn paths(all: &[&str], unconfined: bool) -> Vec<String> {
    if unconfined { Vec::new() } else { all.iter().map(|&path| path.to_owned()).collect() }
}

/// Labels and annotations: words of the user's, shown line by line, so that each must stay on its own.
fn words(what: &str, said: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
    for (key, value) in said {
        if key.is_empty() || key.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
            return invalid(format!("invalid {what} {key:?}: the name is empty or holds control characters"));
        }
        process::no_nul(what, value)?;
    }
    Ok(said.clone())
}

fn stop_signal(spec: &ContainerSpec, image: &ContainerConfig) -> Result<i32> {
    let said = spec.stop_signal.as_deref().filter(|said| !said.is_empty());
    let Some(said) = said.or(Some(image.stop_signal.as_str()).filter(|of_image| !of_image.is_empty())) else {
        return Ok(15);
    };
    parse_signal(said)
        .ok_or_else(|| refusal(format!("invalid signal: {said}")).hint("a name such as SIGTERM, or 1 to 64"))
}

fn stop_timeout(spec: &ContainerSpec) -> Result<i64> {
    match spec.stop_timeout {
        None => Ok(STOP_TIMEOUT),
        Some(seconds) if (-1..=i64::from(i32::MAX)).contains(&seconds) => Ok(seconds),
        Some(seconds) => invalid(format!("invalid --stop-timeout {seconds}: seconds, or -1 to wait for ever")),
    }
}

fn log(spec: &ContainerSpec) -> Result<Option<(u64, u32)>> {
    match spec.log_driver.as_deref().unwrap_or("json-file") {
        "none" => return Ok(None),
        "json-file" | "local" | "" => {}
        other => {
            return Err(Error::new(ErrorKind::Unsupported, format!("log driver {other} is not available"))
                .hint("drivers: json-file, none"));
        }
    }
    let (mut size, mut files) = LOG;
    for (key, value) in &spec.log_opts {
        match key.as_str() {
            "max-size" => size = log_size(value)?,
            "max-file" => {
                files =
                    value.parse().ok().filter(|files| (1..=1000).contains(files)).ok_or_else(|| {
                        refusal(format!("invalid value for log option max-file: {value:?} (1 to 1000)"))
                    })?;
            }
            _ => {
                return invalid(format!(
                    "unknown log opt '{key}' for json-file log driver: known are max-size, max-file"
                ));
            }
        }
    }
    Ok(Some((size, files)))
}

fn log_size(said: &str) -> Result<u64> {
    let wrong = || refusal(format!("invalid value for log option max-size: {said:?} (at least 4k; units k, m, g)"));
    let digits = said.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match said[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1 << 10,
        "m" | "mb" => 1 << 20,
        "g" | "gb" => 1 << 30,
        _ => return Err(wrong()),
    };
    let size: u64 = digits.parse().map_err(|_| wrong())?;
    size.checked_mul(unit).filter(|&size| size >= 4096).ok_or_else(wrong)
}

/// A refusal of what the user said.
fn refusal(sentence: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, sentence)
}

fn invalid<T>(sentence: impl Into<String>) -> Result<T> {
    Err(refusal(sentence))
}

#[cfg(test)]
mod tests;
