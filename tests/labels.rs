//! LSM labels: what they do where the machine has the module, and that they are an error where it has not.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use orlop::exec::explain;
use orlop::exec::protocol::Failure;
use orlop::host::Rootless;
use orlop::plan::op::Op;
use orlop::plan::{self, HostFacts, Options};
use serde_json::json;

mod common;
use common::{Bundle, value};

fn apparmor() -> bool {
    value("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text == "Y")
}

/// A profile that allows everything but one directory, loaded under this name.
struct Profile(String);

impl Profile {
    fn load(bundle: &Bundle) -> Self {
        Self::with(bundle, "mount,\n  deny /secret/** rwklx,")
    }

    /// One that allows all but mounts, and these rules.
    fn with(bundle: &Bundle, rules: &str) -> Self {
        let name = bundle.id.clone();
        let text = format!(
            "profile {name} flags=(attach_disconnected,mediate_deleted) {{\n  file,\n  capability,\n  network,\n  signal,\n  \
             ptrace,\n  unix,\n  {rules}\n}}\n"
        );
        let file = bundle.dir.join("profile");
        fs::write(&file, text).expect("a profile");
        Self::parser(&["--replace", "--skip-cache"], &file);
        Self(name)
    }

    fn parser(arguments: &[&str], file: &Path) {
        let output =
            Command::new("apparmor_parser").args(arguments).arg(file).output().expect("Debian's package apparmor");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
#[ignore = "needs AppArmor, which the machine has"]
fn a_profile_holds_the_program_and_what_is_executed_beside_it() {
    let script = "cat /proc/self/attr/current; cat /open/file; cat /secret/file; echo status $?";
    let bundle = Bundle::new();
    let profile = Profile::load(&bundle);
    let name = &profile.0;
    for (directory, text) in [("open", "may be read"), ("secret", "must not be read")] {
        fs::create_dir(bundle.rootfs(directory)).expect("a directory");
        fs::write(bundle.rootfs(directory).join("file"), text).expect("a file");
    }
    let without = bundle.args(&["sh", "-c", script]);
    let run = without.run();
    assert!(run.well().contains("must not be read"), "{}{}", run.stdout(), run.stderr());

    let bundle = without.edit(|config| config["process"]["apparmorProfile"] = json!(name));
    let confined = |said: &str, errors: &str| {
        assert!(said.starts_with(&format!("{name} (enforce)")), "{said}");
        assert!(said.contains("may be read") && said.ends_with("status 1"), "{said}");
        assert!(!said.contains("must not be read") && errors.contains("Permission denied"), "{said}{errors}");
    };
    let run = bundle.run();
    confined(&run.well(), &run.stderr());

    let bundle = bundle.args(&["sleep", "1000"]);
    bundle.up();
    assert_eq!(value(format!("/proc/{}/attr/current", bundle.pid())).expect("a label"), format!("{name} (enforce)"));
    let exec = bundle.on("exec", &["sh", "-c", script]);
    confined(&exec.well(), &exec.stderr());
}

#[test]
#[ignore = "needs AppArmor, which the machine has"]
fn a_profile_for_exec_alone() {
    let bundle = Bundle::sleeper();
    let profile = Profile::load(&bundle);
    bundle.up();
    assert_eq!(value(format!("/proc/{}/attr/current", bundle.pid())).expect("a label"), "unconfined");
    let mut command = bundle.command(&["exec", "--apparmor", &profile.0, &bundle.id]);
    command.args(["cat", "/proc/self/attr/current"]);
    assert_eq!(common::outcome(command).well(), format!("{} (enforce)", profile.0));
}

/// podman tells its user that it is the LSM by a match of `/proc/[a-z0-9-].+/attr.*`, backticks and all.
fn podman_finds(said: &str) -> bool {
    let is_attribute = |path: &str| {
        path.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            && path.find("/attr").is_some_and(|at| at > 1)
    };
    said.split('`').skip(1).step_by(2).filter_map(|quoted| quoted.strip_prefix("/proc/")).any(is_attribute)
}

#[test]
#[ignore = "needs AppArmor, which the machine has"]
fn a_profile_that_is_not_loaded_is_an_error() {
    let bundle = Bundle::new().edit(|config| config["process"]["apparmorProfile"] = json!("no-such-profile"));
    let said = bundle.run().fails("/process/apparmorProfile");
    assert!(said.contains("no profile of this name is loaded"), "{said}");
    assert!(podman_finds(&said), "{said}");
}

/// The same words where no kernel with the module is at hand: what becomes of its answer.
#[test]
fn a_label_that_the_kernel_refuses_is_told_in_words_that_podman_finds() {
    let facts = HostFacts::find(Rootless::False, false).expect("the host");
    let options = Options { id: "ID".into(), ..Options::default() };
    for (property, file) in [("apparmorProfile", "apparmor/exec"), ("selinuxLabel", "exec")] {
        let mut config = orlop::spec::default_spec(false);
        config["process"][property] = json!("a:b:c:s0");
        let bundle = orlop::bundle::Bundle::parse("/".into(), config.to_string().into_bytes()).expect("a bundle");
        let plan = plan::create(&bundle.spec, &bundle.dir, &facts, &options).expect("a plan");
        // The last one: SELinux has one for the keyring before it.
        let op = plan.child.iter().rposition(|step| matches!(step.op, Op::ExecLabel { .. })).expect("a label");
        for errno in [Errno::ENOENT, Errno::EINVAL, Errno::EACCES] {
            let failure = Failure { op, stage: false, call: "write".into(), errno, detail: String::new() };
            let said = explain::failure(&plan, &failure).to_string();
            assert!(said.contains(&format!("to `/proc/self/attr/{file}`")) && podman_finds(&said), "{said}");
        }
    }
}

/// As a runtime in a container of another one: it may mount by its capabilities, and may not by its label.
#[test]
#[ignore = "needs AppArmor, which the machine has"]
fn a_profile_that_keeps_the_runtime_itself_from_mounts_is_named() {
    let bundle = Bundle::new();
    let profile = Profile::with(&bundle, "deny mount,\n  deny pivot_root,");
    let mut command = Command::new("sh");
    command.args(["-c", "printf 'exec %s' \"$0\" >/proc/self/attr/apparmor/exec && exec \"$@\"", &profile.0]);
    let run = bundle.making("run", &[]);
    command.arg(run.get_program()).args(run.get_args()).stdin(std::process::Stdio::null());
    let said = common::outcome(command).fails("permission denied");
    assert!(said.contains(&format!("LSM label \"{} (enforce)\"", profile.0)), "{said}");
    assert!(!said.contains("user namespace"), "{said}");
}

#[test]
fn without_apparmor_a_profile_is_an_error() {
    if apparmor() {
        return;
    }
    let bundle = Bundle::new().edit(|config| config["process"]["apparmorProfile"] = json!("a-profile"));
    let said = bundle.run().fails("apparmor: config provided but apparmor not supported");
    assert!(said.contains("/process/apparmorProfile"), "{said}");
    let bundle = Bundle::sleeper();
    bundle.up();
    let mut command = bundle.command(&["exec", "--apparmor", "a-profile", &bundle.id]);
    command.arg("true");
    common::outcome(command).fails("apparmor: config provided but apparmor not supported");
}

#[test]
fn without_selinux_its_labels_are_errors() {
    assert!(!Path::new("/sys/fs/selinux/enforce").exists(), "this test needs a machine without SELinux");
    const WORDS: &str = "selinux label is specified in config, but selinux is disabled or not supported";
    for (section, member) in [("process", "selinuxLabel"), ("linux", "mountLabel")] {
        let bundle =
            Bundle::new().edit(|config| config[section][member] = json!("system_u:object_r:container_file_t:s0"));
        let said = bundle.run().fails(WORDS);
        assert!(said.contains(&format!("/{section}/{member}")), "{said}");
        assert!(!bundle.state_dir().exists());
    }
    let bundle = Bundle::sleeper();
    bundle.up();
    let mut command = bundle.command(&["exec", "--process-label", "a:b:c:s0", &bundle.id]);
    command.arg("true");
    common::outcome(command).fails(WORDS);
}
