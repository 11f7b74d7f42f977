//! AppArmor profiles of bundles, where the kernel has AppArmor.

use serde_json::{Value, json};
use testkit::Host;
use testkit::process::tool;

use crate::runtime_face::{bundle, path, runtime, unique};

/// Whether the kernel enforces profiles.
fn enforced() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.trim() == "Y")
}

#[test]
fn an_apparmor_profile_confines_the_process_and_every_exec() {
    let host = Host::new();
    let id = unique("apparmor");
    let profile = format!("lighter-{id}");
    let dir =
        bundle(&host, "b", &["sh", "-c", "cat /proc/self/attr/current; echo x >/allowed; echo x >/denied; exit 7"]);
    let file = dir.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file).expect("readable")).expect("JSON");
    config["process"]["apparmorProfile"] = json!(profile);
    std::fs::write(&file, config.to_string()).expect("writable");
    let run = ["run", "--bundle", &path(&dir), &id];
    if !enforced() {
        let output = runtime(&host, &run);
        assert_ne!(output.status, 0, "a profile that nobody enforces is no protection\n{output}");
        assert!(output.err().contains("AppArmor"), "{output}");
        host.assert_clean();
        return;
    }
    let missing = runtime(&host, &run);
    assert!(missing.status != 0 && missing.err().contains(&profile), "no such profile yet\n{missing}");
    let text = format!(
        "profile {profile} flags=(attach_disconnected) {{\n  file,\n  capability,\n  signal,\n  deny /denied w,\n}}\n"
    );
    let source = dir.join("profile");
    std::fs::write(&source, text).expect("writable");
    tool("apparmor_parser", &["-r", "-K", &path(&source)]);
    let output = runtime(&host, &run);
    assert_eq!(output.exits(7).out(), format!("{profile} (enforce)"), "{output}");
    assert!(output.err().contains("/denied") && !output.err().contains("/allowed"), "{output}");
    config["process"]["args"] = json!(["sleep", "1000"]);
    std::fs::write(&file, config.to_string()).expect("writable");
    let mut command = host.runtime(&["run", "--detach", "--bundle", &path(&dir), &id]);
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    assert!(command.status().expect("lighter-runtime runs").success());
    let exec = runtime(&host, &["exec", "--apparmor", &profile, &id, "cat", "/proc/self/attr/current"]);
    assert_eq!(exec.ok().out(), format!("{profile} (enforce)"), "{exec}");
    runtime(&host, &["delete", "--force", &id]).ok();
    tool("apparmor_parser", &["-R", &path(&source)]);
    host.assert_clean();
}
