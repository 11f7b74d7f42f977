//! `checkpoint` and `restore`: a container's processes written to files by criu, and made again from them.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use oci::runtime::Spec;
use runtime::ErrorKind;
use runtime::criu::{CgroupMode, Checkpoint, NetworkLock, Options, Restore, Step};

use super::arguments::Flags;
use super::failure::Failure;
use super::store::{Container, ProcessId, Record, Status, Store, group, write_file};
use super::{console, create, remove, run};

/// The directory of the images when `--image-path` does not say, below the current one: runc's and crun's.
const IMAGES: &str = "checkpoint";

/// `checkpoint`. The container is gone afterwards, unless it is left running.
pub(super) fn checkpoint(global: &Flags, flags: &Flags) -> Result<i32, Failure> {
    // Before any file is opened: the number would be one of ours.
    let number = flags.number::<i32>("status-fd")?.filter(|number| *number >= 0);
    let inherited = |number| {
        sys::process::inherited(number).map_err(|error| Failure::from(error).within(&format!("--status-fd {number}")))
    };
    let ready: Option<OwnedFd> = number.map(inherited).transpose()?;
    refuse_ordinary()?;
    let options = options(global, flags)?;
    let container = Store::new(global).open(flags.id())?;
    let lock = container.lock()?;
    let record = container.whole_record()?;
    let (status, _) = container.status(&record)?;
    let process = match (status, record.process) {
        (Status::Running | Status::Paused, Some(process)) => process,
        (Status::Stopped, _) => {
            return Err(Failure::new("cannot checkpoint a stopped container: container not running"));
        }
        (other, _) => return Err(Failure::new(format!("cannot checkpoint a container that is {}", other.word()))),
    };
    let spec = container.spec()?;
    let spec = from_bundle(spec, &record.bundle);
    let cgroup = group(&record)?
        .ok_or_else(|| Failure::new("cannot checkpoint a container without a control group of its own"))?;
    let (leave_running, pre_dump) = (flags.is("leave-running"), flags.is("pre-dump"));
    let page_server = flags.get("page-server").map(page_server).transpose()?;
    if options.lazy_pages && page_server.is_none() {
        return Err(Failure::new("--lazy-pages needs --page-server ADDRESS:PORT, where the memory is fetched from"));
    }
    let checkpoint = Checkpoint {
        options: &options,
        spec: &spec,
        pid: process.pid,
        cgroup: &cgroup,
        leave_running,
        pre_dump,
        parent: flags.get("parent-path").filter(|path| !path.is_empty()).map(Path::new),
        tcp_skip_in_flight: flags.is("tcp-skip-in-flight"),
        link_remap: flags.is("link-remap"),
        page_server: page_server.as_ref().map(|(address, port)| (address.as_str(), *port)),
        status: ready.as_ref().map(|file| file.as_fd()),
    };
    runtime::criu::checkpoint(&checkpoint).map_err(explain)?;
    if leave_running || pre_dump {
        return Ok(0);
    }
    remove::take_down(global, container, lock, &record, Some(&spec))?;
    Ok(0)
}

/// `restore`: in the foreground until the container ends, as `run`.
pub(super) fn restore(global: &Flags, flags: &Flags) -> Result<i32, Failure> {
    if flags.is("no-pivot") {
        return Err(Failure::new("--no-pivot is not supported: criu always changes the root by pivot_root"));
    }
    refuse_ordinary()?;
    let options = options(global, flags)?;
    let bundle = create::bundle_directory(flags.get("bundle"))?;
    let (bytes, spec) = create::read_config(&bundle.join("config.json"))?;
    let spec = from_bundle(spec, &bundle);
    let detach = flags.is("detach");
    let terminal = spec.process.as_ref().is_some_and(|process| process.terminal);
    match (terminal, flags.get("console-socket")) {
        (false, Some(_)) => return Err(Failure::new("--console-socket is given, but process.terminal is false")),
        (true, None) if detach => {
            return Err(Failure::new("process.terminal is true, so --console-socket has to be given"));
        }
        _ => {}
    }
    let scope = create::scope(global, &spec, flags.id())?;
    let path = runtime::group_path(&spec, flags.id(), false);
    let groups = create::groups(global, scope.as_ref(), &path);
    let mut record = create::new_record(flags.id(), &spec, bundle, groups)?;
    let (container, lock) = Store::new(global).reserve(flags.id())?;
    let signals = if detach { None } else { Some(run::take_signals()?) };
    let rootfs = record.rootfs.clone();
    let unit = scope.as_ref().map(|scope| scope.unit.clone());
    let made = container.write_config(&bytes).and_then(|()| container.write_record(&record)).and_then(|()| {
        let restore = Restore {
            options: &options,
            id: flags.id(),
            spec: &spec,
            rootfs: &rootfs,
            groups,
            tcp_close: flags.is("tcp-close"),
            lsm_profile: flags.get("lsm-profile").filter(|profile| !profile.is_empty()),
            lsm_mount_context: flags.get("lsm-mount-context").filter(|context| !context.is_empty()),
        };
        let mut each = |step: Step<'_>| match step {
            Step::Namespaces { pid } => prepare(&record, &spec, pid),
            Step::Restored { pid, cgroup, resctrl } => {
                record.resctrl = resctrl.to_vec();
                record.cgroup = Some(cgroup.path());
                record.unit.clone_from(&unit);
                register(flags, &container, &mut record, pid)
                    .map_err(|failure| runtime::Error::new(ErrorKind::System, failure.to_string()))
            }
        };
        runtime::criu::restore(&restore, &mut each).map_err(explain)
    });
    let mut created = match made {
        Ok(created) => created,
        Err(failure) => {
            // The first failure is the one to report; what stays is found by `list` and `delete --force`.
            let _ = container.remove(Some(lock));
            return Err(failure);
        }
    };
    let handed = match (flags.get("console-socket"), &created.terminal) {
        (Some(path), Some(master)) => console::send_file(Path::new(path), "/dev/ptmx", master),
        _ => Ok(()),
    };
    if let Err(failure) = handed {
        created.abandon();
        let _ = remove::take_down(global, container, lock, &record, Some(&spec));
        return Err(failure);
    }
    drop(lock);
    let Some(signals) = signals else { return Ok(0) };
    let terminal = created.terminal.take().filter(|_| flags.get("console-socket").is_none());
    let ended = run::attend(&created.pidfd, terminal, &signals);
    if ended.is_err() {
        created.abandon();
    }
    // Somebody's `delete --force` may have been faster.
    let removed = match container.lock() {
        Ok(lock) => remove::take_down(global, container, lock, &record, Some(&spec)),
        Err(_) => Ok(()),
    };
    let code = ended?;
    removed?;
    Ok(code)
}

/// The hooks that make a network, once the restored namespaces are there (runc runs the same two).
fn prepare(record: &Record, spec: &Spec, pid: u32) -> runtime::Result<()> {
    let Some(hooks) = &spec.hooks else { return Ok(()) };
    let state = runtime::hooks::State {
        oci_version: &record.oci_version,
        id: &record.id,
        status: "creating",
        pid: Some(pid),
        bundle: &record.bundle,
        annotations: &record.annotations,
    };
    runtime::hooks::run("prestart", &hooks.prestart, &state, None)?;
    runtime::hooks::run("createRuntime", &hooks.create_runtime, &state, None)
}

/// Makes the process known, before anything in it runs.
fn register(flags: &Flags, container: &Container, record: &mut Record, pid: u32) -> Result<(), Failure> {
    record.process = Some(ProcessId::of(pid)?);
    container.write_record(record)?;
    match flags.get("pid-file") {
        Some(path) => write_file(Path::new(path), &pid.to_string()),
        None => Ok(()),
    }
}

fn from_bundle(mut spec: Spec, bundle: &Path) -> Spec {
    create::bind_from_bundle(&mut spec, bundle);
    create::allow_tunnels(&mut spec);
    spec
}

fn refuse_ordinary() -> Result<(), Failure> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Failure::new("checkpoint and restore are done by criu, which needs to be run by root"))
}

/// What criu needs that is missing, with what helps.
fn explain(error: runtime::Error) -> Failure {
    let missing = error.kind() == ErrorKind::Unsupported;
    let failure = Failure::from(error);
    if missing { failure.within("checkpoint and restore are done by criu") } else { failure }
}

fn options(global: &Flags, flags: &Flags) -> Result<Options, Failure> {
    let path = |name: &str| -> Result<Option<PathBuf>, Failure> {
        flags.get(name).filter(|path| !path.is_empty()).map(|path| create::bundle_directory(Some(path))).transpose()
    };
    let empty_network = match flags.all("empty-ns").find(|kind| *kind != "network") {
        Some(other) => {
            return Err(Failure::new(format!("--empty-ns: {other:?} cannot be restored empty; only network can")));
        }
        None => flags.get("empty-ns").is_some(),
    };
    Ok(Options {
        images: path("image-path")?.map_or_else(|| create::bundle_directory(Some(IMAGES)), Ok)?,
        work: path("work-path")?,
        tcp_established: flags.is("tcp-established"),
        ext_unix_sk: flags.is("ext-unix-sk"),
        shell_job: flags.is("shell-job"),
        file_locks: flags.is("file-locks"),
        auto_dedup: flags.is("auto-dedup"),
        lazy_pages: flags.is("lazy-pages"),
        cgroups: cgroup_mode(flags.get("manage-cgroups-mode"))?,
        empty_network,
        network_lock: network_lock(flags.get("network-lock"))?,
        criu: find_criu(global.get("criu").filter(|name| !name.is_empty()).unwrap_or("criu"))?,
    })
}

fn cgroup_mode(word: Option<&str>) -> Result<CgroupMode, Failure> {
    Ok(match word {
        None | Some("" | "soft") => CgroupMode::Soft,
        Some("full") => CgroupMode::Full,
        Some("strict") => CgroupMode::Strict,
        Some("ignore") => CgroupMode::Ignore,
        Some(other) => {
            return Err(Failure::new(format!(
                "--manage-cgroups-mode: {other:?} is none of soft, full, strict and ignore"
            )));
        }
    })
}

fn network_lock(word: Option<&str>) -> Result<Option<NetworkLock>, Failure> {
    Ok(match word {
        None | Some("") => None,
        Some("iptables") => Some(NetworkLock::Iptables),
        Some("nftables") => Some(NetworkLock::Nftables),
        Some("skip") => Some(NetworkLock::Skip),
        Some(other) => {
            return Err(Failure::new(format!("--network-lock: {other:?} is none of iptables, nftables and skip")));
        }
    })
}

fn page_server(text: &str) -> Result<(String, u16), Failure> {
    let wrong = || Failure::new(format!("--page-server: {text:?} is not ADDRESS:PORT"));
    let (address, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    if address.is_empty() { Err(wrong()) } else { Ok((address.to_owned(), port)) }
}

/// A path, or a name looked for where the caller's programs are and where system programs are.
fn find_criu(name: &str) -> Result<PathBuf, Failure> {
    if name.contains('/') {
        return create::bundle_directory(Some(name));
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let places = path.split(':').chain(["/usr/local/sbin", "/usr/sbin", "/sbin"]);
    let mut files = places.filter(|place| place.starts_with('/')).map(|place| Path::new(place).join(name));
    files.find(|file| file.is_file()).ok_or_else(|| {
        Failure::new(format!(
            "checkpoint and restore are done by criu, and there is no program {name:?}: install criu, or name it by --criu"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci_face::arguments::{Command, parse};

    fn read(line: &str) -> Result<Options, Failure> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let (global, Ok(Command::Run(_, flags))) = parse(&words) else { panic!("{line}") };
        options(&global, &flags)
    }

    #[test]
    fn callers_lines_are_options() {
        let line = "--criu /x/criu checkpoint --image-path /i --work-path /w --tcp-established --ext-unix-sk --shell-job \
                    --file-locks --empty-ns network --manage-cgroups-mode strict --network-lock skip c1";
        let read_options = read(line).expect("valid");
        assert_eq!(
            (read_options.images.as_path(), read_options.work.as_deref()),
            (Path::new("/i"), Some(Path::new("/w")))
        );
        assert_eq!(read_options.criu, Path::new("/x/criu"));
        assert!(read_options.tcp_established && read_options.ext_unix_sk && read_options.shell_job);
        assert!(read_options.file_locks && read_options.empty_network && !read_options.lazy_pages);
        assert_eq!((read_options.cgroups, read_options.network_lock), (CgroupMode::Strict, Some(NetworkLock::Skip)));
        let plain = read("--criu /x restore -no-subreaper --bundle /b c1").expect("valid");
        assert!(plain.images.ends_with(IMAGES) && plain.images.is_absolute());
        assert_eq!((plain.cgroups, plain.network_lock, plain.empty_network), (CgroupMode::Soft, None, false));
    }

    #[test]
    fn mistakes_are_said() {
        for flag in ["--manage-cgroups-mode none", "--network-lock x", "--empty-ns pid"] {
            assert!(read(&format!("--criu /x checkpoint {flag} c1")).is_err(), "{flag}");
        }
        let absent = read("--criu no-such-criu checkpoint c1").expect_err("absent").to_string();
        assert!(absent.contains("no-such-criu") && absent.contains("install criu"), "{absent}");
        assert_eq!(page_server("[::1]:80").expect("valid"), ("::1".to_owned(), 80));
        for bad in ["", "x", "x:", ":1", "x:0", "x:70000"] {
            assert!(page_server(bad).is_err(), "{bad:?}");
        }
    }
}
