//! Why a container does not start, where the kernel's errno alone misleads: each cause is made, and must be named.

use std::process::{Command, Stdio};

use serde_json::json;

mod common;
use common::{Bundle, ORLOP, outcome};

/// `orlop run` of the bundle by `command`, which ends in the words of a program to execute.
fn run_by(bundle: &Bundle, mut command: Command) -> common::Outcome {
    command.arg(ORLOP).arg("--root").arg(&bundle.store).args(["run", "--bundle"]).arg(&bundle.dir).arg(&bundle.id);
    command.stdin(Stdio::null());
    outcome(command)
}

#[test]
fn a_capability_that_the_runtime_itself_lacks_is_named() {
    for (capability, place) in [
        ("sys_admin", "/linux/namespaces"),
        ("net_admin", "/linux/namespaces"),
        ("setgid", "/process/user"),
        ("setpcap", "/process/capabilities/bounding"),
    ] {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", &format!("-{capability}")]);
        let said = run_by(&Bundle::new(), command).fails(place);
        let name = capability.to_uppercase();
        assert!(said.contains(&format!("the runtime itself has no CAP_{name}")), "{said}");
    }
}

/// In its own user namespace the process has them all over what is its own: the reason is another.
#[test]
fn with_a_user_namespace_the_runtimes_capabilities_are_not_blamed() {
    let bundle = Bundle::new().with_user().edit(|config| config["hostname"] = json!("x".repeat(65)));
    let said = bundle.run().fails("/hostname");
    assert!(!said.contains("the runtime itself has no"), "{said}");
}

/// The kernel gives nobody a procfs that shows more than the one that is there (mount_too_revealing).
#[test]
fn a_masked_outer_procfs_is_named_when_a_new_one_is_refused() {
    let script = "mount --bind /dev/null /proc/version && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-mpf", "--mount-proc", "sh", "-c", script, "sh"]);
    let said = run_by(&Bundle::new().with_user(), command).fails("/mounts/0");
    assert!(said.contains("something masked in the outer /proc or /sys forbids it"), "{said}");
}

/// The quota is the kernel's, for the whole host, so strace(1) answers in its place.
#[test]
fn a_keyring_quota_that_is_used_up_is_named() {
    let bundle = Bundle::new();
    let log = bundle.dir.join("trace");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "trace=keyctl", "-e", "inject=keyctl:error=EDQUOT", "-o"]).arg(log);
    let said = run_by(&bundle, command).fails("keyring");
    assert!(said.contains("kernel.keys.maxkeys") && said.contains("--no-new-keyring"), "{said}");
}

#[test]
#[ignore = "needs the memory controller, which the machine has"]
fn a_memory_limit_too_low_to_start_with_is_named() {
    let bundle = Bundle::new().edit(|config| {
        config["linux"]["resources"]["memory"] = json!({"limit": 65536, "swap": 65536});
    });
    let said = bundle.run().fails("container init was OOM-killed (memory limit too low?)");
    assert!(!bundle.state_dir().exists(), "{said}");
}

#[test]
#[ignore = "needs the pids controller, which the machine has"]
fn a_limit_of_processes_that_leaves_none_for_a_hook_is_named() {
    let bundle = Bundle::new().edit(|config| {
        config["linux"]["resources"]["pids"] = json!({"limit": 1});
        config["hooks"]["startContainer"] = json!([{"path": "/bin/true"}]);
    });
    let said = bundle.run().fails("startContainer hook #0");
    assert!(said.contains("pids.max"), "{said}");
}
