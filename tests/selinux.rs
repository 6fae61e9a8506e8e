//! SELinux labels in a kernel that enforces a policy, tests/vm/policy.conf, in a machine of their own.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

mod common;
use common::{Bundle, Outcome, outcome};

const CONTAINER: &str = "system_u:system_r:container_t:s0:c0,c1";
const OTHER: &str = "system_u:system_r:other_t:s0:c0,c1";
const RUNTIME: &str = "system_u:system_r:runtime_t:s0-s0:c0.c2";
const FILES: &str = "system_u:object_r:container_file_t:s0:c0,c1";
const PLAIN: &str = "system_u:object_r:file_t:s0";
const UNKNOWN: &str = "system_u:object_r:nosuch_t:s0";
const LABELS: &str = "cat /proc/self/attr/current; echo; cat /open; cat /secret; cat /others; echo end";

/// The label of a process, as the kernel has it.
fn label(pid: u32) -> String {
    let label = fs::read_to_string(format!("/proc/{pid}/attr/current")).expect("a label");
    label.trim_end_matches('\0').to_owned()
}

/// The label of a file.
fn context(path: impl AsRef<Path>) -> String {
    let mut stat = Command::new("stat");
    stat.arg("--format=%C").arg(path.as_ref());
    outcome(stat).well()
}

/// A file with a label, in the root file system.
fn file(bundle: &Bundle, name: &str, label: &str) {
    fs::write(bundle.rootfs(name), format!("{name} was read\n")).expect("a file");
    let mut chcon = Command::new("chcon");
    chcon.arg(label).arg(bundle.rootfs(name));
    outcome(chcon).well();
}

/// A bundle with files for all, for other types, and for other categories than those of [`CONTAINER`].
fn with_files() -> Bundle {
    let bundle = Bundle::sleeper();
    file(&bundle, "open", FILES);
    file(&bundle, "secret", "system_u:object_r:secret_t:s0:c0,c1");
    file(&bundle, "others", "system_u:object_r:file_t:s0:c2");
    bundle
}

fn labelled(bundle: Bundle, label: &str) -> Bundle {
    bundle.edit(|config| config["process"]["selinuxLabel"] = json!(label))
}

/// `orlop exec OPTIONS ID sh -c LABELS`.
fn exec(bundle: &Bundle, options: &[&str]) -> Outcome {
    let mut command = bundle.command(&["exec"]);
    command.args(options).args([&bundle.id, "sh", "-c", LABELS]);
    outcome(command)
}

/// It had this label, and of the files it read these.
#[track_caller]
fn read(outcome: &Outcome, label: &str, files: &[&str]) {
    let said = outcome.well();
    let lines: Vec<_> = said.lines().map(|line| line.trim_end_matches('\0')).collect();
    let files = files.iter().map(|name| format!("{name} was read"));
    let expected: Vec<_> = [label.to_owned()].into_iter().chain(files).chain(["end".to_owned()]).collect();
    assert_eq!(lines, expected, "{}", outcome.stderr());
}

#[test]
#[ignore = "needs SELinux, which a machine of its own has"]
fn the_policy_holds_a_program_that_has_a_label() {
    let bundle = with_files();
    bundle.up();
    assert_eq!(label(bundle.pid()), RUNTIME);
    read(&exec(&bundle, &[]), RUNTIME, &["open", "secret", "others"]);

    let bundle = labelled(with_files(), CONTAINER);
    bundle.up();
    assert_eq!(label(bundle.pid()), CONTAINER);
    read(&labelled(with_files(), CONTAINER).args(&["sh", "-c", LABELS]).run(), CONTAINER, &["open"]);
}

#[test]
#[ignore = "needs SELinux, which a machine of its own has"]
fn what_is_executed_beside_it_has_its_label_or_another() {
    let bundle = labelled(with_files(), CONTAINER);
    bundle.up();
    read(&exec(&bundle, &[]), CONTAINER, &["open"]);
    read(&exec(&bundle, &["--process-label", OTHER]), OTHER, &["open", "secret"]);

    let mut process = bundle.config["process"].clone();
    process["selinuxLabel"] = json!(OTHER);
    process["args"] = json!(["sh", "-c", LABELS]);
    let file = bundle.dir.join("process.json");
    fs::write(&file, process.to_string()).expect("process.json");
    let mut command = bundle.command(&["exec", "--process"]);
    command.arg(file).arg(&bundle.id);
    read(&outcome(command), OTHER, &["open", "secret"]);
}

/// keyctl(2) `KEYCTL_GET_SECURITY` of the container's session keyring, found by its name.
fn label_of_keyring(id: &str) -> String {
    const GET_SECURITY: libc::c_long = 17;
    let keys = fs::read_to_string("/proc/keys").expect("keys");
    let line = keys.lines().find(|line| line.contains(&format!("_ses.{id}:"))).expect("the session keyring");
    let serial = u32::from_str_radix(line.split(' ').next().expect("a number"), 16).expect("a number");
    let mut text = [0u8; 256];
    // SAFETY: the buffer can be written to, is as long as said, and lives through the call.
    let length =
        unsafe { libc::syscall(libc::SYS_keyctl, GET_SECURITY, serial as libc::c_long, text.as_mut_ptr(), text.len()) };
    assert!(length > 0, "{}", std::io::Error::last_os_error());
    String::from_utf8_lossy(&text[..length as usize]).trim_end_matches('\0').to_owned()
}

#[test]
#[ignore = "needs SELinux, which a machine of its own has"]
fn the_session_keyring_has_the_programs_label() {
    for (bundle, expected) in [(Bundle::sleeper(), RUNTIME), (labelled(Bundle::sleeper(), CONTAINER), CONTAINER)] {
        bundle.up();
        assert_eq!(label_of_keyring(&bundle.id), expected);
    }
}

/// All kinds of mounts that are new, and some that are not.
fn with_mounts(bundle: Bundle) -> Bundle {
    for name in ["copied", "masked", "bound"] {
        fs::create_dir(bundle.rootfs(name)).expect("a directory");
    }
    file(&bundle, "copied/file", "system_u:object_r:secret_t:s0");
    let source = bundle.rootfs("bound");
    bundle.edit(|config| {
        config["linux"]["mountLabel"] = json!(FILES);
        config["linux"]["maskedPaths"] = json!(["/masked"]);
        config["mounts"].as_array_mut().expect("mounts").extend([
            json!({ "destination": "/copied", "type": "tmpfs", "options": ["tmpcopyup"] }),
            json!({ "destination": "/bound", "source": source, "options": ["bind"] }),
            json!({ "destination": "/own", "type": "tmpfs",
                "options": ["context=\"system_u:object_r:container_file_t:s0:c0,c2\""] }),
        ]);
    })
}

/// Devices are the container's own, or in a user namespace the host's.
#[track_caller]
fn has_labels(bundle: &Bundle, devices: &str) {
    bundle.up();
    let inside = |path: &str| context(format!("/proc/{}/root{path}", bundle.pid()));
    bundle.inside("echo >/dev/shm/new");
    for path in ["/dev", "/dev/pts", "/dev/shm", "/dev/shm/new", "/dev/mqueue", "/copied", "/copied/file", "/masked"] {
        assert_eq!(inside(path), FILES, "{path}");
    }
    assert_eq!(inside("/dev/null"), devices);
    assert_eq!(inside("/own"), "system_u:object_r:container_file_t:s0:c0,c2");
    for path in ["/", "/bound", "/proc", "/sys"] {
        assert_eq!(inside(path), PLAIN, "{path}");
    }
}

#[test]
#[ignore = "needs SELinux, which a machine of its own has"]
fn new_file_systems_have_the_mount_label() {
    has_labels(&with_mounts(labelled(Bundle::sleeper(), CONTAINER)), FILES);
}

#[test]
#[ignore = "needs SELinux, which a machine of its own has"]
fn in_a_user_namespace_they_have_it_too() {
    has_labels(&with_mounts(labelled(Bundle::sleeper().with_user(), CONTAINER)), PLAIN);
}

/// The findings of `orlop check`.
fn check(bundle: &Bundle) -> Vec<Value> {
    let mut command = bundle.command(&["check", "--format", "json", "--bundle"]);
    command.arg(&bundle.dir);
    let report: Value = serde_json::from_str(&outcome(command).stdout()).expect("JSON");
    report["findings"].as_array().expect("findings").clone()
}

#[test]
#[ignore = "needs SELinux, which a machine of its own has"]
fn a_label_that_the_policy_does_not_know_is_an_error_in_its_place() {
    const WORDS: &str = "the SELinux policy that is loaded does not know the label";
    for (section, member) in [("process", "selinuxLabel"), ("linux", "mountLabel")] {
        let pointer = format!("/{section}/{member}");
        let bundle = Bundle::new().edit(|config| config[section][member] = json!(UNKNOWN));
        let said = bundle.run().fails(WORDS);
        assert!(said.contains(&format!("from {pointer}; hint: ")), "{said}");
        assert!(!bundle.state_dir().exists());
        let found = check(&bundle);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0]["pointer"] == pointer && found[0]["severity"] == "error", "{found:?}");
    }
    let bundle = Bundle::sleeper();
    bundle.up();
    let said = exec(&bundle, &["--process-label", UNKNOWN]).fails(WORDS);
    assert!(said.contains("/process/selinuxLabel"), "{said}");
    assert_eq!(bundle.status(), "running");

    let option = format!("context={UNKNOWN}");
    let bundle = Bundle::new().edit(|config| {
        config["mounts"] = json!([{ "destination": "/own", "type": "tmpfs", "options": [option] }]);
    });
    let said = bundle.run().fails("parameter context");
    assert!(said.contains("from /mounts/0; hint: the SELinux policy"), "{said}");
}

#[test]
#[ignore = "needs SELinux, which a machine of its own has"]
fn a_change_of_label_that_the_policy_forbids_is_told_from_a_missing_right_to_execute() {
    let bundle = labelled(Bundle::new(), "system_u:system_r:foreign_t:s0");
    let said = bundle.run().fails("exec true: permission denied");
    assert!(said.contains("must let the runtime's own label change to process.selinuxLabel"), "{said}");
    assert!(!bundle.state_dir().exists());
}

#[test]
#[ignore = "needs SELinux, which a machine of its own has"]
fn a_host_with_selinux_is_known_for_one() {
    let unconfined = |bundle: &Bundle, subject: &str| {
        let report = outcome(bundle.command(&["audit", subject, "--format", "json"])).stdout();
        let report: Value = serde_json::from_str(&report).expect("JSON");
        let is = |rule: &str| report["findings"].as_array().expect("findings").iter().any(|one| one["rule"] == rule);
        assert!(!is("drift"), "{report:#}");
        is("unconfined")
    };
    for (bundle, open) in [(Bundle::sleeper(), true), (with_mounts(labelled(Bundle::sleeper(), CONTAINER)), false)] {
        assert_eq!(check(&bundle), [Value::Null; 0]);
        assert_eq!(unconfined(&bundle, bundle.dir.to_str().expect("UTF-8")), open);
        bundle.up();
        assert_eq!(unconfined(&bundle, &bundle.id), open);
    }
    let features: Value = serde_json::from_str(&outcome(Bundle::new().command(&["features"])).well()).expect("JSON");
    assert_eq!(features["linux"]["selinux"]["enabled"], true);
}
