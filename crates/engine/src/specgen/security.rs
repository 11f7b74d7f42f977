//! `--security-opt` and the paths that are hidden or read-only inside.

use super::invalid;
use crate::Result;
use crate::host::Host;
use crate::spec::ContainerSpec;

/// Hidden inside: kernel memory, keys, hardware and timing that is the host's (docker's list; CVE-2018-10892 and kin).
pub const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Read-only inside: switches that concern the host (docker's list).
pub const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Which system call filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Seccomp {
    /// Ours.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// The text of the user's profile.
    Profile(String),
}

/// `--security-opt`, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) no_new_privileges: bool,
    pub(super) seccomp: Seccomp,
    pub(super) apparmor: String,
    pub(super) paths_unconfined: bool,
}

pub(super) fn options(spec: &ContainerSpec, host: &dyn Host, warnings: &mut Vec<String>) -> Result<Options> {
    let mut options = Options::default();
    for said in &spec.security_opts {
        // docker's older spelling separates with a colon.
        let (key, value) = match said.find(['=', ':']) {
            Some(place) => (&said[..place], Some(&said[place + 1..])),
            None => (said.as_str(), None),
        };
        match (key, value) {
            ("no-new-privileges", None | Some("true")) => options.no_new_privileges = true,
            ("no-new-privileges", Some("false")) => options.no_new_privileges = false,
            ("seccomp", Some("unconfined")) => options.seccomp = Seccomp::Unconfined,
            ("seccomp", Some("builtin" | "default")) => options.seccomp = Seccomp::Default,
            ("seccomp", Some(text)) if !text.is_empty() => options.seccomp = Seccomp::Profile(text.to_owned()),
            ("apparmor", Some(profile)) if !profile.is_empty() => options.apparmor = apparmor(profile, host, warnings)?,
            ("systempaths", Some("unconfined")) => options.paths_unconfined = true,
            ("label", Some("disable")) => {}
            ("label", Some(_)) => {
                warnings.push(format!("SELinux labels are not applied yet: --security-opt {said} is ignored"));
            }
            _ => {
                return Err(super::refusal(format!("invalid --security-opt: {said:?}")).hint(
                    "known options: seccomp=FILE|unconfined, no-new-privileges, apparmor=PROFILE, \
                     systempaths=unconfined, label=disable",
                ));
            }
        }
    }
    if spec.privileged {
        options.seccomp = match options.seccomp {
            Seccomp::Default => Seccomp::Unconfined,
            said => said,
        };
        options.paths_unconfined = true;
    }
    Ok(options)
}

fn apparmor(profile: &str, host: &dyn Host, warnings: &mut Vec<String>) -> Result<String> {
    if profile.len() > 255 || profile.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return invalid(format!("{profile:?} is not the name of an AppArmor profile"));
    }
    if profile == "unconfined" {
        return Ok(String::new());
    }
    if !host.apparmor() {
        warnings.push(format!("AppArmor is not active on this host: profile {profile} is not applied"));
        return Ok(String::new());
    }
    Ok(profile.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::Table;

    fn of(said: &[&str], privileged: bool, active: bool) -> Result<(Options, usize)> {
        let spec = ContainerSpec {
            security_opts: said.iter().map(|&said| said.to_owned()).collect(),
            privileged,
            ..ContainerSpec::default()
        };
        let mut warnings = Vec::new();
        let host = Table { apparmor: active, ..Table::default() };
        options(&spec, &host, &mut warnings).map(|options| (options, warnings.len()))
    }

    #[test]
    fn every_option_is_taken_or_refused() {
        let default = Options::default();
        let rows = [
            (vec![], default.clone()),
            (vec!["no-new-privileges"], Options { no_new_privileges: true, ..default.clone() }),
            (vec!["no-new-privileges:true"], Options { no_new_privileges: true, ..default.clone() }),
            (vec!["no-new-privileges=false"], default.clone()),
            (vec!["seccomp=unconfined"], Options { seccomp: Seccomp::Unconfined, ..default.clone() }),
            (vec!["seccomp={\"a\":1}"], Options { seccomp: Seccomp::Profile("{\"a\":1}".into()), ..default.clone() }),
            (vec!["systempaths=unconfined"], Options { paths_unconfined: true, ..default.clone() }),
            (vec!["label=disable", "apparmor=unconfined"], default.clone()),
            (vec!["apparmor=web"], Options { apparmor: "web".into(), ..default }),
        ];
        for (said, expected) in rows {
            assert_eq!(of(&said, false, true).expect("valid"), (expected, 0), "{said:?}");
        }
        for bad in ["", "seccomp", "seccomp=", "apparmor=", "apparmor=a b", "no-new-privileges=1", "foo=bar"] {
            assert!(of(&[bad], false, true).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn absent_security_modules_are_said() {
        assert_eq!(of(&["apparmor=web"], false, false).expect("valid"), (Options::default(), 1));
        assert_eq!(of(&["label=type:x_t"], false, false).expect("valid").1, 1);
    }

    #[test]
    fn privileged_lifts_the_filter_unless_one_is_named() {
        let (options, _) = of(&[], true, false).expect("valid");
        assert_eq!((options.seccomp, options.paths_unconfined), (Seccomp::Unconfined, true));
        let (options, _) = of(&["seccomp={}"], true, false).expect("valid");
        assert_eq!(options.seccomp, Seccomp::Profile("{}".into()));
    }
}
