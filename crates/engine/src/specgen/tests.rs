use std::path::PathBuf;

use oci::runtime::NamespaceKind;

use super::*;
use crate::host::tests::Table;
use crate::spec::{NetworkMode, UsernsMode};

fn image() -> ContainerConfig {
    ContainerConfig {
        entrypoint: Some(vec!["/entry".into()]),
        cmd: Some(vec!["serve".into()]),
        env: vec!["LANG=C".into()],
        user: "app".into(),
        working_dir: "/srv".into(),
        stop_signal: "SIGQUIT".into(),
        labels: [("a".to_owned(), "image".to_owned()), ("b".to_owned(), "image".to_owned())].into(),
        ..ContainerConfig::default()
    }
}

fn meant(spec: &ContainerSpec) -> Result<Meant> {
    let id = ContainerId::from_random(&[0xab; 32]);
    generate(Inputs {
        spec,
        id: &id,
        name: "web".parse().expect("a name"),
        image: &image(),
        image_ref: None,
        copied: false,
        highest_id: Some(1000),
        dir: &PathBuf::from("/var/lib/lighter/containers/x"),
        host: &Table::default(),
    })
}

fn config(spec: &ContainerSpec) -> Config {
    meant(spec).expect("valid").config
}

#[test]
fn the_default_posture() {
    let config = config(&ContainerSpec::default());
    let process = config.spec.process.as_ref().expect("present");
    let linux = config.spec.linux.as_ref().expect("present");
    assert_eq!(config.userns, UsernsPosture::Private);
    assert_eq!(linux.namespaces.len(), 8);
    assert_eq!(process.args, ["/entry", "serve"]);
    assert_eq!(process.cwd, PathBuf::from("/srv"));
    assert_eq!(config.user, "app");
    assert_eq!(config.stop_signal, 3);
    assert_eq!(config.spec.hostname, "abababababab");
    assert!(process.env.contains(&"HOSTNAME=abababababab".to_owned()));
    assert!(!process.no_new_privileges);
    assert_eq!(linux.masked_paths.len(), MASKED_PATHS.len());
    assert_eq!(linux.readonly_paths.len(), READONLY_PATHS.len());
    assert!(linux.seccomp.is_some());
    assert_eq!(linux.cgroups_path, format!("/lighter-{}", config.id));
    assert_eq!(config.log, Some((10 << 20, 3)));
    let sets = process.capabilities.as_ref().expect("present");
    assert_eq!(sets.bounding.len(), 11);
    assert!(sets.inheritable.is_empty() && sets.ambient.is_empty());
    for absent in ["CAP_MKNOD", "CAP_NET_RAW", "CAP_AUDIT_WRITE", "CAP_SYS_ADMIN"] {
        assert!(!sets.bounding.contains(&absent.to_owned()), "{absent}");
    }
}

#[test]
fn privileged_is_everything() {
    let config = config(&ContainerSpec { privileged: true, ..ContainerSpec::default() });
    let process = config.spec.process.as_ref().expect("present");
    let linux = config.spec.linux.as_ref().expect("present");
    assert!(matches!(&config.userns, UsernsPosture::Host { reason } if reason.contains("--privileged")));
    assert!(!linux.namespaces.iter().any(|namespace| namespace.kind == NamespaceKind::User));
    assert_eq!(process.capabilities.as_ref().expect("present").bounding.len(), 41);
    assert!(linux.seccomp.is_none() && linux.masked_paths.is_empty() && linux.readonly_paths.is_empty());
    assert!(!linux.devices.is_empty());
}

#[test]
fn capabilities_as_said() {
    let of = |add: &[&str], drop: &[&str]| {
        let strings = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        let spec = ContainerSpec { cap_add: strings(add), cap_drop: strings(drop), ..ContainerSpec::default() };
        meant(&spec).map(|meant| {
            let process = meant.config.spec.process.expect("present");
            process.capabilities.expect("present").effective
        })
    };
    assert_eq!(of(&["NET_BIND_SERVICE"], &["ALL"]).expect("valid"), ["CAP_NET_BIND_SERVICE"]);
    assert_eq!(of(&["ALL"], &["SYS_ADMIN"]).expect("valid").len(), 40);
    assert_eq!(of(&[], &["all"]).expect("valid").len(), 0);
    let error = of(&["NO_SUCH"], &[]).expect_err("unknown");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("NO_SUCH"));
}

#[test]
fn seccomp_profiles_are_tried_at_create() {
    let with = |text: &str| {
        let security_opts = vec![format!("seccomp={text}")];
        meant(&ContainerSpec { security_opts, ..ContainerSpec::default() })
            .map(|meant| meant.config.spec.linux.expect("present").seccomp)
    };
    assert_eq!(with("unconfined").expect("valid"), None);
    let profile =
        with(r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ERRNO"}]}"#);
    assert_eq!(profile.expect("valid").expect("present").default_action, "SCMP_ACT_ALLOW");
    assert!(with("not json").is_err());
    assert!(with(r#"{"defaultAction":"SCMP_ACT_SOMETHING"}"#).is_err());
}

#[test]
fn labels_merge_and_stay_on_their_line() {
    let spec = ContainerSpec { labels: [("b".into(), "user".into())].into(), ..ContainerSpec::default() };
    let labels = config(&spec).labels;
    assert_eq!((labels["a"].as_str(), labels["b"].as_str()), ("image", "user"));
    for bad in ["", "a\nb", "a\0"] {
        let spec = ContainerSpec { labels: [(bad.into(), String::new())].into(), ..ContainerSpec::default() };
        assert!(meant(&spec).is_err(), "{bad:?}");
    }
}

#[test]
fn logs_and_stop() {
    let of = |driver: Option<&str>, opts: &[(&str, &str)]| {
        let spec = ContainerSpec {
            log_driver: driver.map(str::to_owned),
            log_opts: opts.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect(),
            ..ContainerSpec::default()
        };
        meant(&spec).map(|meant| meant.config.log)
    };
    assert_eq!(of(Some("none"), &[]).expect("valid"), None);
    assert_eq!(of(None, &[("max-size", "1m"), ("max-file", "5")]).expect("valid"), Some((1 << 20, 5)));
    for (key, value) in [("max-size", "x"), ("max-size", "1"), ("max-size", "-1"), ("max-file", "0"), ("tag", "x")] {
        assert!(of(None, &[(key, value)]).is_err(), "{key}={value}");
    }
    assert!(of(Some("syslog"), &[]).is_err());
    for (said, valid) in [("TERM", true), ("99", false), ("", true), ("X", false)] {
        let spec = ContainerSpec { stop_signal: Some(said.into()), ..ContainerSpec::default() };
        assert_eq!(meant(&spec).is_ok(), valid, "{said:?}");
    }
    for (seconds, valid) in [(-1, true), (0, true), (-2, false), (i64::MAX, false)] {
        let spec = ContainerSpec { stop_timeout: Some(seconds), ..ContainerSpec::default() };
        assert_eq!(meant(&spec).is_ok(), valid, "{seconds}");
    }
}

#[test]
fn the_missing_network_is_said_once_and_only_when_not_asked_for() {
    for (mode, warned) in [(NetworkMode::Default, 1), (NetworkMode::None, 0), (NetworkMode::Host, 0)] {
        let meant = meant(&ContainerSpec { network: mode.clone(), ..ContainerSpec::default() }).expect("valid");
        assert_eq!(meant.warnings.iter().filter(|warning| warning.starts_with("Note:")).count(), warned, "{mode:?}");
    }
}

#[test]
fn a_required_namespace_is_an_error_where_it_cannot_be() {
    let spec = ContainerSpec { userns: UsernsMode::Require, privileged: true, ..ContainerSpec::default() };
    assert_eq!(meant(&spec).err().map(|error| error.kind()), Some(ErrorKind::Unsupported));
}

#[test]
fn what_was_said_comes_back() {
    let spec =
        ContainerSpec { cap_add: vec!["NET_RAW".into()], network: NetworkMode::None, ..ContainerSpec::default() };
    let said: crate::containers::Said = serde_json::from_value(config(&spec).said).expect("its own record");
    assert_eq!(said.version, 1);
    assert_eq!(said.cap_add, ["NET_RAW"]);
    assert_eq!((said.network.as_str(), said.ipc.as_str()), ("none", "private"));
    assert_eq!(said.env, ["LANG=C"]);
}

#[test]
fn scores_below_zero_need_the_privilege() {
    for (score, may_raise, kind) in [
        (None, false, None),
        (Some(500), false, None),
        (Some(-1), true, None),
        (Some(-1), false, Some(ErrorKind::Unsupported)),
        (Some(1001), true, Some(ErrorKind::Invalid)),
    ] {
        let spec = ContainerSpec { oom_score_adj: score, ..ContainerSpec::default() };
        let host = Table { may_raise, ..Table::default() };
        assert_eq!(oom_score_adj(&spec, &host).err().map(|error| error.kind()), kind, "{score:?}");
    }
}
