//! What the kernel's security modules know a process by: its SELinux label, its AppArmor profile, its session keyring.

use std::ffi::CString;
use std::os::fd::BorrowedFd;

use oci::runtime::{Linux, Process, Spec};
use rustix::fs::{Mode, OFlags};
use sys::Errno;

use crate::error::{Doing, Error, ErrorKind, Result};
use crate::plan::{Confinement, wrong};

/// Where SELinux' own file system is when the module is in force, and its magic number (linux/magic.h).
const SELINUX: (&str, i64) = ("/sys/fs/selinux", 0xf97c_ff8c);
/// Says `Y` when AppArmor is in force.
const APPARMOR: &str = "/sys/module/apparmor/parameters/enabled";

/// `linux.mountLabel`, where SELinux is in force. Elsewhere it says nothing, and is passed over as crun does.
///
/// # Errors
/// For a label that is none.
pub(crate) fn mount_label(linux: &Linux) -> Result<Option<&str>> {
    let label = &linux.mount_label[..];
    if label.contains(['\0', '\n', '"']) {
        return Err(wrong("linux.mountLabel", format_args!("{label:?} is no label")));
    }
    Ok(Some(label).filter(|label| !label.is_empty() && has_selinux()))
}

/// What there is to say of `linux.mountLabel` where SELinux is not in force.
#[must_use]
pub fn unused_label(spec: &Spec) -> Option<&'static str> {
    let linux = spec.linux.as_ref()?;
    let unused = !linux.mount_label.is_empty() && !has_selinux();
    unused.then_some("linux.mountLabel is passed over: SELinux is not enabled on this host")
}

/// Refuses a label or profile that the host could not enforce: the process would run without it.
///
/// # Errors
/// [`ErrorKind::Unsupported`] with the field's name.
pub(crate) fn check(process: &Process) -> Result<()> {
    let absent = |field: &str, module: &str| {
        Err(Error::new(ErrorKind::Unsupported, format!("{field} is set, but {module} is not enabled on this host")))
    };
    for (field, text) in
        [("process.selinuxLabel", &process.selinux_label), ("process.apparmorProfile", &process.apparmor_profile)]
    {
        if text.contains(['\0', '\n']) {
            return Err(wrong(field, format_args!("{text:?} is more than one line")));
        }
    }
    if !process.selinux_label.is_empty() && !has_selinux() {
        return absent("process.selinuxLabel", "SELinux");
    }
    if !process.apparmor_profile.is_empty() && !has_apparmor() {
        return absent("process.apparmorProfile", "AppArmor");
    }
    Ok(())
}

fn has_selinux() -> bool {
    rustix::fs::statfs(SELINUX.0).is_ok_and(|stat| stat.f_type == SELINUX.1)
}

fn has_apparmor() -> bool {
    let file = rustix::fs::open(APPARMOR, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let text = file.ok().and_then(|file| sys::fs::read_bounded(file, 16, APPARMOR).ok());
    text.is_some_and(|text| text.starts_with(b"Y"))
}

/// Has execve put the process under its label and profile, through a `/proc` of the set-up: what is at that name in the
/// container may be anything (CVE-2019-16884).
pub(crate) fn set_labels(proc: Option<BorrowedFd<'_>>, confinement: &Confinement) -> Result<()> {
    let label = &confinement.selinux_label;
    if !label.is_empty() {
        let what = || format!("cannot apply the SELinux label {label:?}");
        write(proc, "process.selinuxLabel", &["thread-self/attr/exec"], label)?.doing(what)?;
    }
    let profile = &confinement.apparmor_profile;
    if !profile.is_empty() {
        let what = || format!("cannot apply the AppArmor profile {profile:?}");
        // The module's own file is of kernel 5.8; the older one is shared with SELinux.
        let files = ["thread-self/attr/apparmor/exec", "thread-self/attr/exec"];
        write(proc, "process.apparmorProfile", &files, &format!("exec {profile}"))?.doing(what)?;
    }
    Ok(())
}

/// Writes to the first of `files` that there is.
fn write(proc: Option<BorrowedFd<'_>>, field: &str, files: &[&str], text: &str) -> Result<sys::Result<()>> {
    let Some(proc) = proc else { return Err(wrong(field, "needs a /proc in the container")) };
    let mut outcome = Err(sys::Error::new("openat2", field, Errno::NOENT));
    for path in files {
        outcome = sys::fs::open_beneath_proc(proc, path, OFlags::WRONLY)
            .and_then(|file| sys::fs::write_all(file, text.as_bytes(), path));
        if !outcome.as_ref().is_err_and(|cause| cause.errno() == Errno::NOENT) {
            break;
        }
    }
    Ok(outcome)
}

/// Joins the session keyring of container `id`, made when missing and, with a label, under that label.
///
/// The process must not keep its caller's keys. Where the name belongs to somebody else, or may not be taken, a keyring
/// without a name does as well. When keys are used up there is none, and the container does not start: starting would
/// leave it the caller's. Only where the kernel has no keys, or whoever confines us has closed keyctl(2) to us and so to
/// the container too, is there nothing to hide.
pub(crate) fn join_keyring(id: &str, label: &str) -> Result<()> {
    let name = CString::new(format!("_ses.{id}")).map_err(|_| wrong("id", "has a NUL byte"))?;
    if !label.is_empty() {
        label_keys(label)?;
    }
    let joined = match sys::process::new_session_keyring(Some(&name)) {
        Err(cause) if cause.errno() == Errno::ACCESS => sys::process::new_session_keyring(None),
        other => other,
    };
    if !label.is_empty() {
        label_keys("")?;
    }
    match joined {
        Ok(()) => Ok(()),
        Err(cause) if matches!(cause.errno(), Errno::NOSYS | Errno::PERM) => Ok(()),
        Err(cause) if cause.errno() == Errno::DQUOT => {
            let sentence = "cannot make a session keyring: the user has too many keys (kernel.keys.maxkeys); \
                            lighter-runtime --no-new-keyring does without";
            Err(Error::system(sentence, cause).with_kind(ErrorKind::Limit))
        }
        Err(cause) => Err(Error::system("cannot make a session keyring", cause)),
    }
}

/// Sets the label of keys made from here on; an empty one is the default again. The host's `/proc` is still there.
fn label_keys(label: &str) -> Result<()> {
    const PATH: &str = "/proc/thread-self/attr/keycreate";
    let what = || format!("cannot set the label {label:?} for the session keyring");
    let file = rustix::fs::open(PATH, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    let file = sys::Context::at(file, "open", PATH).doing(what)?;
    sys::fs::write_all(file, label.as_bytes(), PATH).doing(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_cannot_enforce_is_refused() {
        let label = Process { selinux_label: "system_u:system_r:container_t:s0".into(), ..Process::default() };
        let profile = Process { apparmor_profile: "docker-default".into(), ..Process::default() };
        for (process, field, enforced) in
            [(label, "process.selinuxLabel", has_selinux()), (profile, "process.apparmorProfile", has_apparmor())]
        {
            match check(&process) {
                Ok(()) => assert!(enforced, "{field}"),
                Err(error) => {
                    assert!(!enforced && error.kind() == ErrorKind::Unsupported, "{error}");
                    assert!(error.to_string().starts_with(field), "{error}");
                }
            }
        }
        assert_eq!(check(&Process::default()), Ok(()));
        let lines = Process { apparmor_profile: "a\nb".into(), ..Process::default() };
        assert_eq!(check(&lines).expect_err("two lines").kind(), ErrorKind::Config);
    }

    #[test]
    fn the_session_keyring_is_another_one() {
        // Joined by a thread, it is the thread's.
        let joined = std::thread::spawn(|| {
            join_keyring("lsm-test", "")?;
            Ok::<_, Error>(std::fs::read_to_string("/proc/keys").unwrap_or_default())
        });
        let keys = joined.join().expect("joined").expect("made");
        assert!(keys.is_empty() || keys.contains("_ses.lsm-test"), "{keys}");
    }
}
