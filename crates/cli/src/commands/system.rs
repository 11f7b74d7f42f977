//! `version` and `info`.

use std::fmt::Write as _;

use engine::Info;
use serde_json::{Value, json};

use crate::failure::{Failure, Outcome};
use crate::flags::{Args, Job};
use crate::format::template::Template;
use crate::format::units;
use crate::output;

/// The template of `--format`; `json` prints the whole value.
pub(crate) fn template(args: &Args) -> Outcome<Option<Template>> {
    let text = match args.one("format") {
        None | Some("") => return Ok(None),
        Some("json") => "{{json .}}",
        Some(text) => text,
    };
    Template::parse(text).map(Some).map_err(|error| Failure::usage(format!("--format: {error}")))
}

pub(crate) fn show(template: &Template, value: &Value) -> Outcome<u8> {
    let text = template
        .render(value)
        .map_err(|error| Failure::usage_hint(format!("--format: {error}"), "--format json shows every field"))?;
    output::line(&text)?;
    Ok(0)
}

/// Reads `version`'s flags.
///
/// # Errors
/// A template that does not parse.
pub(crate) fn parse_version(args: &Args) -> Outcome<Job> {
    let template = template(args)?;
    Ok(Box::new(move |_| {
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        let arch = architecture();
        let version = env!("CARGO_PKG_VERSION");
        match &template {
            Some(template) => {
                let part = json!({
                    "Version": version, "Os": "linux", "Arch": arch, "KernelVersion": kernel, "Name": "lighter",
                });
                // Client and engine are one program; docker's scripts ask for either.
                show(template, &json!({"Client": part, "Server": part}))
            }
            None => {
                output::print(&format!(
                    "lighter: client and engine in one, no daemon\n Version:    {version}\n OS/Arch:    linux/{arch}\n \
                     Kernel:     {kernel}\n"
                ))?;
                Ok(0)
            }
        }
    }))
}

/// Docker's name of this machine's architecture.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Reads `info`'s flags.
///
/// # Errors
/// A template that does not parse.
pub(crate) fn parse_info(args: &Args) -> Outcome<Job> {
    let template = template(args)?;
    Ok(Box::new(move |app| {
        let engine = app.engine()?;
        drop(engine.reconcile());
        let info = engine.info()?;
        match &template {
            Some(template) => show(template, &value(&info)),
            None => {
                output::print(&text(&info))?;
                info.warnings.iter().for_each(|warning| output::warning(warning));
                Ok(0)
            }
        }
    }))
}

fn value(info: &Info) -> Value {
    json!({
        "Containers": info.containers,
        "ContainersRunning": info.running,
        "ContainersPaused": info.paused,
        "ContainersStopped": info.stopped,
        "Images": info.images,
        "Driver": info.storage,
        "DriverStatus": [["Backing Filesystem", info.filesystem]],
        "CgroupVersion": info.cgroup_version,
        "KernelVersion": info.kernel,
        "OperatingSystem": info.operating_system,
        "OSType": "linux",
        "Architecture": info.architecture,
        "NCPU": info.cpus,
        "MemTotal": info.memory,
        "Name": info.name,
        "DockerRootDir": info.root,
        "RunDir": info.run,
        "ServerVersion": info.version,
        "SecurityOptions": info.security_options,
        "DefaultRuntime": "lighter",
        "Warnings": info.warnings,
    })
}

fn text(info: &Info) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: &str| {
        let _ = writeln!(text, "{label}: {}", crate::format::escape::line(value));
    };
    line("Containers", &info.containers.to_string());
    line(" Running", &info.running.to_string());
    line(" Paused", &info.paused.to_string());
    line(" Stopped", &info.stopped.to_string());
    line("Images", &info.images.to_string());
    line("Server Version", &info.version);
    line("Storage Driver", &info.storage);
    line(" Backing Filesystem", &info.filesystem);
    line("Cgroup Version", &info.cgroup_version);
    line("Default Runtime", "lighter");
    line("Security Options", &info.security_options.join(", "));
    line("Kernel Version", &info.kernel);
    line("Operating System", &info.operating_system);
    line("OSType", "linux");
    line("Architecture", &info.architecture);
    line("CPUs", &info.cpus.to_string());
    line("Total Memory", &units::binary(info.memory));
    line("Name", &info.name);
    line("Root Dir", &info.root.display().to_string());
    line("Run Dir", &info.run.display().to_string());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_has_dockers_lines_and_fields() {
        let info = Info {
            containers: 3,
            running: 1,
            paused: 0,
            stopped: 2,
            images: 4,
            root: "/r".into(),
            run: "/n".into(),
            version: "1".into(),
            kernel: "6.18".into(),
            operating_system: "Debian".into(),
            architecture: "x86_64".into(),
            name: "host".into(),
            cpus: 2,
            memory: 4 << 30,
            cgroup_version: "1 (hybrid)".into(),
            storage: "overlayfs".into(),
            filesystem: "ext4".into(),
            security_options: vec!["seccomp".into()],
            warnings: Vec::new(),
        };
        let text = text(&info);
        for line in ["Containers: 3", " Running: 1", "Total Memory: 4GiB", "Cgroup Version: 1 (hybrid)"] {
            assert!(text.lines().any(|shown| shown == line), "{line}");
        }
        let template = Template::parse("{{.NCPU}} {{.CgroupVersion}}").expect("parses");
        assert_eq!(template.render(&value(&info)), Ok("2 1 (hybrid)".into()));
    }
}
