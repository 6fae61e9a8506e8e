//! `orlop seccomp`: what is told of profiles, and profiles that are written from what a program does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

mod common;
use common::{Bundle, ORLOP, Outcome, outcome};

/// `orlop seccomp ARGS...`.
fn tool(args: &[&str]) -> Outcome {
    let mut command = Command::new(ORLOP);
    command.arg("seccomp").args(args);
    outcome(command)
}

fn profile(name: &str) -> String {
    format!("{}/seccomp-profiles/{name}.json", env!("CARGO_MANIFEST_DIR"))
}

/// A file with this section, in the bundle's directory.
fn written(bundle: &Bundle, name: &str, section: &Value) -> PathBuf {
    let path = bundle.dir.join(name);
    fs::write(&path, section.to_string()).expect("a profile");
    path
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn explain_names_the_rule_and_decides_by_arguments() {
    let said = tool(&["explain", &profile("default"), "clone"]).well();
    assert!(said.contains("clone SCMP_ARCH_X86_64, number 56"), "{said}");
    assert!(said.contains("if (arg0 & 0x7e020000) == 0x0 allow") && said.contains("/syscalls/13"), "{said}");
    assert!(said.contains("EPERM") && said.contains("/defaultAction"), "{said}");
    let exact = |flags: &str| -> Value {
        let said = tool(&["explain", "--format", "json", &profile("default"), "clone", flags]).well();
        serde_json::from_str::<Value>(&said).expect("JSON")["answers"][0]["cases"].clone()
    };
    assert_eq!(exact("17")[0]["action"], "allow");
    assert_eq!(exact("0x10000000")[0]["action"], "EPERM");
    assert_eq!(exact("17").as_array().map(Vec::len), Some(1));
    let said = tool(&["explain", &profile("default"), "clone3"]).well();
    assert!(said.contains("ENOSYS"), "{said}");
    tool(&["explain", &profile("default"), "nosuchcall"]).fails("no ABI of this profile has a system call");
}

#[test]
fn a_configuration_and_a_bundle_are_profiles_too() {
    let section = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 17}]});
    let bundle = Bundle::new().edit(|config| config["linux"]["seccomp"] = section);
    for path in [bundle.dir.clone(), bundle.dir.join("config.json")] {
        let said = tool(&["explain", text(&path), "mkdir"]).well();
        assert!(said.contains("EEXIST") && said.contains("/linux/seccomp/syscalls/0"), "{said}");
    }
    tool(&["lint", text(&Bundle::new().dir)]).fails("no seccomp profile");
    let docker = written(&bundle, "docker.json", &json!({"defaultAction": "SCMP_ACT_ERRNO", "archMap": []}));
    tool(&["lint", text(&docker)]).fails("in the form of Docker's own profiles");
}

/// A profile without a finding, for one change each.
fn clean() -> Value {
    json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["execve", "exit_group", "rt_sigreturn", "read", "dup"], "action": "SCMP_ACT_ALLOW"}]})
}

fn allow(names: &[&str], args: Value) -> Value {
    json!({"names": names, "action": "SCMP_ACT_ALLOW", "args": args})
}

#[test]
fn lint_finds_each_mistake_at_its_place() {
    let bundle = Bundle::new();
    let errno = |names: &[&str], number: u32| json!({"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": number});
    let masked = json!([{"index": 0, "value": 0x7e02_0000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]);
    let cases: Vec<(Value, &str, &str, &str)> = vec![
        (allow(&["opennat"], json!([])), "warning", "/syscalls/1/names/0", "no kernel has a system call \"opennat\""),
        (allow(&["dup2", "dup2"], json!([])), "note", "/syscalls/1/names/1", "named twice"),
        (errno(&["read"], 5), "warning", "/syscalls/1/names/0", "read: this rule never decides"),
        (allow(&["read"], json!([])), "note", "/syscalls/1/names/0", "read: this rule never decides"),
        (errno(&["mkdir"], 0), "warning", "/syscalls/1/errnoRet", "the caller takes the call for done"),
        (allow(&["mount", "umount2"], json!([])), "warning", "/syscalls/1", "mount, umount2 are let through"),
        (allow(&["ptrace"], json!([])), "note", "/syscalls/1", "ptrace is let through"),
        (allow(&["clone"], json!([])), "warning", "/syscalls/1", "CLONE_NEW flags"),
        (allow(&["ioctl"], json!([])), "note", "/syscalls/1", "TIOCSTI"),
        (
            allow(&["socket"], json!([{"index": 0, "value": 40, "op": "SCMP_CMP_NE"}])),
            "warning",
            "/defaultAction",
            "socket: arg0 0x28 is denied, and 0x100000028, which is the same to the kernel, is not",
        ),
        (allow(&["clone3"], json!([])), "warning", "/syscalls/1", "clone3 is let through, and makes the namespaces"),
    ];
    for (rule, severity, pointer, words) in cases {
        let mut section = clean();
        let rules = section["syscalls"].as_array_mut().expect("rules");
        rules.push(rule.clone());
        if words.starts_with("clone3") {
            rules.push(allow(&["clone"], masked.clone()));
        }
        let found = findings(&written(&bundle, "profile.json", &section));
        let fits = |finding: &&Value| {
            finding["severity"] == severity
                && finding["pointer"] == pointer
                && finding["message"].as_str().is_some_and(|message| message.contains(words))
        };
        assert_eq!(found.iter().filter(fits).count(), 1, "{rule}: {found:#?}");
        assert_eq!(found.len(), 1, "{rule}: {found:#?}");
    }
    assert!(findings(&written(&bundle, "profile.json", &clean())).is_empty());
}

fn findings(path: &Path) -> Vec<Value> {
    let said = tool(&["lint", "--format", "json", text(path)]).stdout();
    serde_json::from_str::<Value>(&said).expect("JSON")["findings"].as_array().expect("findings").clone()
}

/// The same bypass by a rule that denies: the flag that a filter sees is not the one that the kernel reads.
#[test]
fn lint_finds_a_denied_ioctl_that_a_higher_bit_lets_through() {
    let deny = |op: Value| {
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["ioctl"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": [op]}]})
    };
    let bundle = Bundle::new();
    let words = "ioctl: arg1 0x5412 is denied, and 0x100005412";
    for (op, bypassed) in [
        (json!({"index": 1, "value": 0x5412, "op": "SCMP_CMP_EQ"}), true),
        (json!({"index": 1, "value": 0xffff_ffffu32, "valueTwo": 0x5412, "op": "SCMP_CMP_MASKED_EQ"}), false),
    ] {
        let said = tool(&["lint", text(&written(&bundle, "profile.json", &deny(op)))]).well();
        assert_eq!(said.contains(words), bypassed, "{said}");
    }
}

#[test]
fn lint_has_errors_for_what_does_not_compile() {
    let mut section = clean();
    section["syscalls"][0]["args"] = json!([{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]);
    let bundle = Bundle::new();
    let said = tool(&["lint", text(&written(&bundle, "profile.json", &section))]);
    assert_eq!(said.code, Some(1));
    assert!(said.stdout().contains("error: system calls have no argument 6\n  at /syscalls/0/args/0/index"));
}

#[test]
fn the_projects_own_profiles_have_no_warning() {
    for name in ["default", "strict"] {
        let found = findings(Path::new(&profile(name)));
        assert!(found.iter().all(|finding| finding["severity"] == "note"), "{name}: {found:#?}");
    }
}

#[test]
fn diff_is_of_answers_and_not_of_words() {
    let bundle = Bundle::new();
    let old = written(&bundle, "old.json", &clean());
    let other = json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "syscalls": [
        allow(&["dup"], json!([])), allow(&["exit_group", "execve"], json!([])), allow(&["read", "rt_sigreturn"], json!([]))]});
    let new = written(&bundle, "new.json", &other);
    assert_eq!(tool(&["diff", text(&old), text(&new)]).well(), "no difference");
    let mut changed = clean();
    changed["syscalls"][0]["names"] = json!(["execve", "exit_group", "rt_sigreturn", "dup", "openat"]);
    changed["architectures"] = json!(["SCMP_ARCH_X86"]);
    let new = written(&bundle, "new.json", &changed);
    let said = tool(&["diff", text(&old), text(&new)]);
    assert_eq!(said.code, Some(1));
    let said = said.stdout();
    assert!(said.contains("SCMP_ARCH_X86\n  listed by the new profile alone"), "{said}");
    assert!(said.contains("  allow -> EPERM\n    read\n"), "{said}");
    // It is newer than all that the old one names.
    assert!(said.contains("  EPERM -> allow\n") || said.contains("  ENOSYS -> allow\n"), "{said}");
    assert!(said.contains("    openat"), "{said}");
}

/// `orlop seccomp record` of the bundle into `output`.
fn record(bundle: &Bundle, output: &Path, args: &[&str]) -> Outcome {
    let mut command = Command::new(ORLOP);
    command.arg("--root").arg(&bundle.store).args(["seccomp", "record", "--id", &bundle.id, "--output"]).arg(output);
    command.args(args).arg(&bundle.dir).stdin(std::process::Stdio::null());
    outcome(command)
}

fn under(bundle: Bundle, profile: &Path) -> Bundle {
    let section: Value = serde_json::from_slice(&fs::read(profile).expect("a profile")).expect("JSON");
    bundle.edit(|config| config["linux"]["seccomp"] = section)
}

#[test]
fn a_recording_lets_through_what_it_saw_and_nothing_else() {
    let script = "mkdir /made && (echo in a child) && exit 3";
    let bundle = Bundle::script(script);
    let profile = bundle.dir.join("recorded.json");
    let run = record(&bundle, &profile, &[]);
    assert_eq!((run.code, run.stdout().trim()), (Some(3), "in a child"), "{}", run.stderr());
    assert!(bundle.rootfs("made").is_dir() && !bundle.state_dir().exists());
    fs::remove_dir(bundle.rootfs("made")).expect("made");

    let again = under(Bundle::script(script), &profile).run();
    assert_eq!((again.code, again.stdout().trim()), (Some(3), "in a child"), "{}", again.stderr());
    let other = under(Bundle::script("mkdir /made; rmdir /made; echo $?"), &profile).run();
    assert_eq!(other.stdout().trim(), "1", "{}", other.stderr());
    assert!(other.stderr().contains("Operation not permitted"), "{}", other.stderr());
    // It has no more than its family of calls: no namespaces by clone, and clone3 falls back.
    let said = tool(&["lint", text(&profile)]).well();
    assert!(!said.contains("warning"), "{said}");
}

#[test]
fn recordings_add_up() {
    let bundle = Bundle::script("mkdir /made && true");
    let profile = bundle.dir.join("recorded.json");
    record(&bundle, &profile, &[]).well();
    let second = Bundle::script("rmdir /made && true");
    fs::create_dir(second.rootfs("made")).expect("a directory");
    record(&second, &profile, &["--merge"]).well();
    under(Bundle::script("mkdir /made && rmdir /made"), &profile).run().well();
    let foreign = written(
        &bundle,
        "foreign.json",
        &json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["read"], "action": "SCMP_ACT_KILL"}]}),
    );
    record(&Bundle::new(), &foreign, &["--merge"]).fails("was not written by a recording");
}

/// A program of the container that is started meanwhile is recorded as well; ^C ends the program and not the recording.
#[test]
fn what_is_executed_meanwhile_is_recorded_and_a_signal_loses_nothing() {
    let bundle = Bundle::sleeper();
    let profile = bundle.dir.join("recorded.json");
    let mut command = Command::new(ORLOP);
    command.arg("--root").arg(&bundle.store).args(["seccomp", "record", "--id", &bundle.id, "--output"]).arg(&profile);
    command.arg(&bundle.dir);
    let recording = common::begin(command);
    common::wait(|| bundle.on("state", &[]).stdout().contains("\"running\""));
    bundle.on("exec", &["mkdir", "/made"]).well();
    bundle.on("kill", &["KILL"]).well();
    assert_eq!(recording.end().code, Some(137));
    let section: Value = serde_json::from_slice(&fs::read(&profile).expect("a profile")).expect("JSON");
    let names = section["syscalls"][0]["names"].as_array().expect("names");
    assert!(names.contains(&json!("mkdir")), "{section}");
}

#[test]
fn a_recording_that_sees_nothing_writes_nothing() {
    let bundle = Bundle::new().args(&["nosuchprogram"]);
    let profile = bundle.dir.join("recorded.json");
    record(&bundle, &profile, &[]).fails("no system call was seen");
    assert!(!profile.exists());
}

#[test]
fn a_call_that_the_profile_denies_at_the_start_is_named() {
    let section = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["execve"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]});
    let bundle = Bundle::new().edit(|config| config["linux"]["seccomp"] = section);
    let said = bundle.run().fails("the seccomp profile answers execve so");
    assert!(said.contains("orlop seccomp explain"), "{said}");
    bundle.create();
    bundle.on("start", &[]).fails("the seccomp profile answers execve so");
    // The same errno by the kernel itself is none of the profile's.
    let bundle = Bundle::new().args(&["/plain"]);
    bundle.program("/plain", "no program");
    let said = bundle.run().fails("exec /plain");
    assert!(!said.contains("seccomp"), "{said}");
}

#[test]
fn another_file_stands_for_config_json() {
    let bundle = Bundle::script("echo by config.json");
    let mut config = bundle.config.clone();
    config["process"]["args"] = json!(["echo", "by the other"]);
    let other = bundle.dir.join("other.json");
    fs::write(&other, config.to_string()).expect("a configuration");
    assert_eq!(bundle.run_with(&["--config", text(&other)]).well(), "by the other");
    bundle.run_with(&["--config", "/nonexistent.json"]).fails("/nonexistent.json");
}
