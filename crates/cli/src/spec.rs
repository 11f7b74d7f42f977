//! The flags of `run` and `create` to what the engine takes.

use std::collections::BTreeMap;

use engine::spec::{ContainerSpec, NamespaceMode, NetworkMode, PullPolicy, Resources, Source, UsernsMode};

use crate::failure::{Failure, Outcome};
use crate::flags::{Args, bad_value};
use crate::parse::env::{self, Surroundings};
use crate::parse::{device, mount, pair, size, ulimit};

/// Reads the container's flags and words.
///
/// # Errors
/// The first value that does not fit, by its flag.
pub(crate) fn container(args: &Args, from: &impl Surroundings) -> Outcome<ContainerSpec> {
    let mut words = args.words().map(str::to_owned);
    let first = words.next().unwrap_or_default();
    if first.is_empty() {
        return Err(Failure::usage("the image's name is empty"));
    }
    let rootfs = args.on("rootfs");
    let source = if rootfs { Source::Rootfs(absolute(&first)) } else { Source::Image(first) };
    let tty = args.on("tty");
    Ok(ContainerSpec {
        name: args.owned("name"),
        source,
        platform: args.owned("platform"),
        pull: args.parsed("pull", pull_policy)?.unwrap_or_default(),
        command: words.collect(),
        entrypoint: args.owned("entrypoint").map(|command| vec![command]),
        env: environment(args, from)?,
        workdir: args.owned("workdir"),
        user: args.owned("user"),
        groups: args.list("group-add"),
        labels: labels(args)?,
        annotations: args.each("annotation", pair)?.into_iter().collect(),
        hostname: args.owned("hostname"),
        domainname: args.owned("domainname"),
        extra_hosts: args.each("add-host", extra_host)?,
        dns: args.list("dns"),
        dns_search: args.list("dns-search"),
        dns_options: args.list("dns-option"),
        tty,
        open_stdin: args.on("interactive"),
        init: args.on("init"),
        auto_remove: args.on("rm"),
        read_only: args.on("read-only"),
        mounts: mounts(args)?,
        volumes_from: args.list("volumes-from"),
        volume_driver: args.owned("volume-driver"),
        shm_size: args.parsed("shm-size", size::unsigned)?,
        devices: args.each("device", device::parse)?,
        device_rules: args.list("device-cgroup-rule"),
        resources: resources(args)?,
        ulimits: args.each("ulimit", ulimit::parse)?,
        sysctls: args.each("sysctl", pair)?.into_iter().collect(),
        cap_add: args.list("cap-add"),
        cap_drop: args.list("cap-drop"),
        security_opts: security_options(args)?,
        privileged: args.on("privileged"),
        userns: args.parsed("userns", userns)?.unwrap_or_default(),
        network: args.one("network").map(network).unwrap_or_default(),
        pid: args.parsed("pid", namespace)?.unwrap_or_default(),
        ipc: args.parsed("ipc", ipc)?.unwrap_or_default(),
        uts: args.parsed("uts", namespace)?.unwrap_or_default(),
        cgroupns: args.parsed("cgroupns", namespace)?.unwrap_or_default(),
        cgroup_parent: args.owned("cgroup-parent"),
        stop_signal: args.owned("stop-signal"),
        stop_timeout: args.parsed("stop-timeout", size::number)?,
        oom_score_adj: args.parsed("oom-score-adj", score)?,
        log_driver: args.parsed("log-driver", log_driver)?,
        log_opts: args.each("log-opt", pair)?.into_iter().collect(),
    })
}

fn absolute(path: &str) -> std::path::PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.into())
}

fn pull_policy(text: &str) -> Result<PullPolicy, &'static str> {
    match text {
        "missing" | "" => Ok(PullPolicy::Missing),
        "always" => Ok(PullPolicy::Always),
        "never" => Ok(PullPolicy::Never),
        _ => Err("expected always, missing or never"),
    }
}

/// Files first, then flags: a flag wins.
fn environment(args: &Args, from: &impl Surroundings) -> Outcome<Vec<String>> {
    let mut variables = Vec::new();
    for path in args.many("env-file") {
        let text = env::read_file("env-file", path)?;
        let lines = env::file_lines(&text, from).map_err(|error| bad_value("env-file", path, &error))?;
        variables.extend(lines);
    }
    variables.extend(args.each("env", |text| env::variable(text, from))?);
    Ok(variables)
}

fn labels(args: &Args) -> Outcome<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    for path in args.many("label-file") {
        let text = env::read_file("label-file", path)?;
        for line in text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            env::label(line, &mut labels).map_err(|error| bad_value("label-file", path, &error))?;
        }
    }
    args.each("label", |text| env::label(text, &mut labels))?;
    Ok(labels)
}

/// `HOST:IP`, `HOST=IP`, with IPv6 addresses bare or in brackets.
fn extra_host(text: &str) -> Result<(String, String), String> {
    let at = text.find(['=', ':']).ok_or("expected HOST:IP")?;
    let (name, address) = (&text[..at], &text[at + 1..]);
    let address = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    if name.is_empty() {
        return Err("expected HOST:IP".into());
    }
    if address == "host-gateway" {
        return Err("host-gateway is not available yet: it comes with networks".into());
    }
    address.parse::<std::net::IpAddr>().map_err(|_| format!("{address:?} is no address"))?;
    Ok((name.to_owned(), address.to_owned()))
}

fn mounts(args: &Args) -> Outcome<Vec<engine::spec::MountSpec>> {
    // Asked of the kernel only when there is a host path to read.
    let host = std::cell::LazyCell::new(mount::Host::current);
    let mut mounts = args.each("volume", |text| mount::volume(text, &host))?;
    mounts.extend(args.each("mount", |text| mount::mount(text, &host))?);
    mounts.extend(args.each("tmpfs", mount::tmpfs)?);
    Ok(mounts)
}

fn resources(args: &Args) -> Outcome<Resources> {
    Ok(Resources {
        memory: args.parsed("memory", size::bytes)?.filter(|bytes| *bytes != 0),
        memory_reservation: args.parsed("memory-reservation", size::bytes)?.filter(|bytes| *bytes != 0),
        memory_swap: args.parsed("memory-swap", size::bytes_or_unlimited)?.filter(|bytes| *bytes != 0),
        memory_swappiness: args.parsed("memory-swappiness", swappiness)?.flatten(),
        oom_kill_disable: args.on("oom-kill-disable"),
        nano_cpus: args.parsed("cpus", size::nano_cpus)?.filter(|nanos| *nanos != 0),
        cpu_shares: args.parsed("cpu-shares", size::number)?.filter(|shares| *shares != 0),
        cpu_period: args.parsed("cpu-period", size::number)?.filter(|period| *period != 0),
        cpu_quota: args.parsed("cpu-quota", size::number)?.filter(|quota| *quota != 0),
        cpuset_cpus: args.owned("cpuset-cpus").filter(|list| !list.is_empty()),
        cpuset_mems: args.owned("cpuset-mems").filter(|list| !list.is_empty()),
        pids_limit: args.parsed("pids-limit", size::number)?,
        blkio_weight: args.parsed("blkio-weight", size::number)?.filter(|weight| *weight != 0),
        blkio_weight_devices: args.each("blkio-weight-device", device::weight)?,
        device_read_bps: args.each("device-read-bps", device::bytes_per_second)?,
        device_write_bps: args.each("device-write-bps", device::bytes_per_second)?,
        device_read_iops: args.each("device-read-iops", device::operations_per_second)?,
        device_write_iops: args.each("device-write-iops", device::operations_per_second)?,
    })
}

/// −1 leaves the host's.
fn swappiness(text: &str) -> Result<Option<u64>, String> {
    match size::number::<i64>(text)? {
        -1 => Ok(None),
        number => u64::try_from(number)
            .ok()
            .filter(|number| *number <= 100)
            .map(Some)
            .ok_or_else(|| "expected 0 to 100, or -1".into()),
    }
}

fn score(text: &str) -> Result<i32, String> {
    size::number(text).and_then(|score| {
        if (-1000..=1000).contains(&score) { Ok(score) } else { Err("expected -1000 to 1000".into()) }
    })
}

/// `seccomp=FILE` becomes the file's text: the engine opens no file on the caller's behalf.
fn security_options(args: &Args) -> Outcome<Vec<String>> {
    args.many("security-opt")
        .map(|option| match option.split_once('=') {
            Some(("seccomp", "unconfined" | "builtin" | "default")) => Ok(option.to_owned()),
            Some(("seccomp", path)) => Ok(format!("seccomp={}", env::read_file("security-opt", path)?)),
            _ => Ok(option.to_owned()),
        })
        .collect()
}

fn userns(text: &str) -> Result<UsernsMode, &'static str> {
    match text {
        "" | "auto" => Ok(UsernsMode::Auto),
        "private" => Ok(UsernsMode::Require),
        "host" => Ok(UsernsMode::Host),
        _ => Err("expected private, host or auto"),
    }
}

fn network(text: &str) -> NetworkMode {
    match text {
        "" | "default" => NetworkMode::Default,
        "none" => NetworkMode::None,
        "host" => NetworkMode::Host,
        name => NetworkMode::Named(name.to_owned()),
    }
}

fn namespace(text: &str) -> Result<NamespaceMode, &'static str> {
    match text {
        "" | "private" => Ok(NamespaceMode::Private),
        "host" => Ok(NamespaceMode::Host),
        other => match other.strip_prefix("container:") {
            Some(name) if !name.is_empty() => Ok(NamespaceMode::Container(name.to_owned())),
            _ => Err("expected private, host or container:NAME"),
        },
    }
}

fn ipc(text: &str) -> Result<NamespaceMode, &'static str> {
    match text {
        // Sharing is decided by the container that joins; there is nothing to prepare.
        "shareable" => Ok(NamespaceMode::Private),
        "none" => Err("none is not available yet"),
        other => namespace(other),
    }
}

fn log_driver(text: &str) -> Result<String, &'static str> {
    match text {
        "json-file" | "none" => Ok(text.to_owned()),
        _ => Err("only json-file and none are available yet"),
    }
}

#[cfg(test)]
mod tests {
    use engine::spec::MountSpec;

    use super::*;
    use crate::parse::env::Process;
    use crate::verbs::testing;

    fn spec(words: &[&str]) -> Result<ContainerSpec, String> {
        container(&testing::args("run", words), &Process).map_err(|failure| failure.render(false))
    }

    #[test]
    fn a_bare_run_asks_for_nothing() {
        let expected = ContainerSpec { source: Source::Image("busybox".into()), ..ContainerSpec::default() };
        assert_eq!(spec(&["busybox"]), Ok(expected));
    }

    #[test]
    fn every_flag_changes_the_spec() {
        let plain = spec(&["img"]).expect("fits");
        for flags in [
            "--name=n",
            "--platform=linux/arm64",
            "--pull=always",
            "--entrypoint=/x",
            "-eA=b",
            "-w/x",
            "-u1:2",
            "--group-add=g",
            "-la=b",
            "--annotation=a=b",
            "-hx",
            "--domainname=x",
            "--add-host=a:1.2.3.4",
            "--dns=1.1.1.1",
            "--dns-search=x",
            "--dns-option=x",
            "--dns-opt=x",
            "-t",
            "-i",
            "--init",
            "--rm",
            "--read-only",
            "-v/a:/b",
            "--mount=type=tmpfs,dst=/x",
            "--tmpfs=/x",
            "--shm-size=1m",
            "--device=/dev/null",
            "--device-cgroup-rule=c 1:1 r",
            "-m1g",
            "--memory-reservation=1g",
            "--memory-swap=-1",
            "--memory-swappiness=0",
            "--oom-kill-disable",
            "--cpus=.5",
            "-c2",
            "--cpu-period=1000",
            "--cpu-quota=1000",
            "--cpuset-cpus=0",
            "--cpuset-mems=0",
            "--pids-limit=9",
            "--blkio-weight=10",
            "--blkio-weight-device=/dev/sda:10",
            "--device-read-bps=/dev/sda:1m",
            "--device-write-bps=/dev/sda:1m",
            "--device-read-iops=/dev/sda:1",
            "--device-write-iops=/dev/sda:1",
            "--ulimit=core=0",
            "--sysctl=a=b",
            "--cap-add=x",
            "--cap-drop=x",
            "--security-opt=no-new-privileges",
            "--privileged",
            "--userns=host",
            "--network=none",
            "--net=web",
            "--pid=host",
            "--ipc=host",
            "--uts=host",
            "--cgroupns=host",
            "--cgroup-parent=/x",
            "--stop-signal=9",
            "--stop-timeout=-1",
            "--oom-score-adj=1",
            "--log-driver=none",
            "--log-opt=max-size=1m",
            "--rootfs",
        ] {
            let changed = spec(&[flags, "img"]).unwrap_or_else(|error| panic!("{flags}: {error}"));
            assert_ne!(changed, plain, "{flags} is ignored");
        }
    }

    #[test]
    fn values_arrive_as_written() {
        let spec = spec(&[
            "-m",
            "64m",
            "--memory-swap",
            "-1",
            "--cpus",
            "1.5",
            "--ulimit",
            "nofile=1:2",
            "-v",
            "/a:/b:ro",
            "--tmpfs",
            "/t:size=1k",
            "--add-host",
            "six:[::1]",
            "--pid",
            "container:web",
            "--device-write-bps",
            "/dev/sda:1mb",
            "--label",
            "k",
            "--entrypoint",
            "",
            "--network",
            "web",
            "--userns",
            "private",
            "img",
            "sh",
            "-c",
            "x",
        ])
        .expect("fits");
        assert_eq!(spec.resources.memory, Some(64 << 20));
        assert_eq!(spec.resources.memory_swap, Some(-1));
        assert_eq!(spec.resources.nano_cpus, Some(1_500_000_000));
        assert_eq!(spec.resources.device_write_bps, [("/dev/sda".into(), 1 << 20)]);
        assert_eq!(spec.ulimits, [("nofile".to_owned(), 1, 2)]);
        assert_eq!(spec.extra_hosts, [("six".to_owned(), "::1".to_owned())]);
        assert_eq!(spec.pid, NamespaceMode::Container("web".into()));
        assert_eq!(spec.network, NetworkMode::Named("web".into()));
        assert_eq!(spec.userns, UsernsMode::Require);
        assert_eq!(spec.entrypoint, Some(vec![String::new()]));
        assert_eq!(spec.labels["k"], "");
        assert_eq!(spec.command, ["sh", "-c", "x"]);
        assert_eq!(spec.mounts.len(), 2);
        assert!(matches!(&spec.mounts[0], MountSpec::Bind { read_only: true, .. }));
    }

    #[test]
    fn wrong_values_name_their_flag() {
        for (flag, value) in [
            ("memory", "lots"),
            ("cpus", "-1"),
            ("pids-limit", "x"),
            ("memory-swappiness", "101"),
            ("oom-score-adj", "1001"),
            ("ulimit", "nofile"),
            ("volume", "name:x"),
            ("mount", "type=volume"),
            ("tmpfs", "x"),
            ("device", "x"),
            ("add-host", "x"),
            ("add-host", "x:host-gateway"),
            ("sysctl", "x"),
            ("pull", "sometimes"),
            ("userns", "odd"),
            ("pid", "container:"),
            ("ipc", "none"),
            ("log-driver", "syslog"),
            ("env", "=x"),
            ("label", "=x"),
        ] {
            let error = spec(&[&format!("--{flag}={value}"), "img"]).expect_err(value);
            assert!(error.contains(&format!("--{flag}")), "{flag}: {error}");
        }
        assert!(spec(&["--security-opt", "seccomp=/does/not/exist", "img"]).is_err());
    }

    #[test]
    fn files_are_read_here() {
        let dir = std::env::temp_dir().join(format!("lighter-cli-spec-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("made");
        let path = |name: &str, text: &str| {
            let path = dir.join(name);
            std::fs::write(&path, text).expect("written");
            path.to_str().expect("UTF-8").to_owned()
        };
        let env = path("env", "A=1\nB=2\n");
        let labels = path("labels", "# note\nx=1\ny\n");
        let seccomp = path("seccomp", "{}");
        let seccomp = format!("seccomp={seccomp}");
        let words =
            ["--env-file", &env, "-e", "B=3", "--label-file", &labels, "-lx=2", "--security-opt", &seccomp, "img"];
        let spec = spec(&words).expect("fits");
        assert_eq!(spec.env, ["A=1", "B=2", "B=3"]);
        assert_eq!((spec.labels["x"].as_str(), spec.labels["y"].as_str()), ("2", ""));
        assert_eq!(spec.security_opts, ["seccomp={}"]);
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
