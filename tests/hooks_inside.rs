//! Hooks that run in the container's namespaces: with its confinement, and with nothing of the runtime's.

mod common;

use common::Bundle;
use serde_json::json;

fn with_hook(kind: &str, script: &str) -> Bundle {
    let hook = json!([{ "path": "/bin/sh", "args": ["sh", "-c", script] }]);
    Bundle::new().edit(|config| config["hooks"] = json!({ kind: hook }))
}

#[test]
fn a_create_container_hook_begins_in_the_root_file_system() {
    let bundle = with_hook("createContainer", "echo here >made-by-hook");
    bundle.run().well();
    assert_eq!(std::fs::read_to_string(bundle.rootfs("made-by-hook")).expect("the hook's file"), "here\n");
}

#[test]
fn a_start_container_hook_has_three_descriptors() {
    // and the one that ls reads the directory by
    let bundle =
        with_hook("startContainer", "[ \"$(ls /proc/self/fd | wc -l)\" = 4 ] || { ls -l /proc/self/fd; exit 1; }");
    let mut command = bundle.making("run", &[]);
    let (left_open, _writer) = nix::unistd::pipe().expect("a pipe");
    nix::unistd::dup(&left_open).map(std::mem::forget).expect("a descriptor that the runtime inherits");
    command.stdin(std::process::Stdio::null());
    common::outcome(command).well();
}

#[test]
fn a_start_container_hook_is_under_the_containers_filter() {
    for no_new_privileges in [true, false] {
        let bundle = with_hook("startContainer", "mkdir /tmp/by-hook").edit(|config| {
            config["process"]["noNewPrivileges"] = json!(no_new_privileges);
            config["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77 }],
            });
        });
        bundle.run().fails("error running startContainer hook #0");
        assert!(!bundle.rootfs("tmp/by-hook").exists());
    }
}

#[test]
fn a_start_container_hook_has_no_capability_that_the_program_has_not() {
    let bundle = with_hook(
        "startContainer",
        "grep -q 'CapEff:.0000000000000020$' /proc/self/status || { grep Cap /proc/self/status; exit 1; }",
    )
    .edit(|config| {
        config["process"]["noNewPrivileges"] = json!(false);
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = json!(["CAP_KILL"]);
        }
        config["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            { "names": ["swapon"], "action": "SCMP_ACT_ERRNO" },
        ]});
    });
    bundle.run().well();
}

#[test]
fn a_create_container_hook_has_the_callers_umask() {
    let bundle = with_hook("createContainer", "[ $(umask) = 0037 ] || { umask; exit 1; }");
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "umask 037 && exec \"$@\"", "sh", common::ORLOP, "--root"]).arg(&bundle.store);
    command.args(["run", "--bundle"]).arg(&bundle.dir).arg(&bundle.id).stdin(std::process::Stdio::null());
    common::outcome(command).well();
}
