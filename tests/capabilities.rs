//! `process.capabilities`: the five sets in /proc/PID/status.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

mod common;
use common::{Bundle, ORLOP, outcome, proc_status};

const CHOWN: u64 = 1;
const KILL: u64 = 1 << 5;
const NET_BIND_SERVICE: u64 = 1 << 10;

/// Bounding, permitted, effective, inheritable, ambient.
fn sets(pid: u32) -> [u64; 5] {
    ["CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"]
        .map(|field| u64::from_str_radix(&proc_status(pid, field), 16).expect("a mask"))
}

fn sleeper(uid: u32, capabilities: Value) -> Bundle {
    Bundle::sleeper().edit(|config| {
        config["process"]["user"] = json!({ "uid": uid, "gid": uid });
        config["process"]["capabilities"] = capabilities;
    })
}

fn given(uid: u32, capabilities: Value) -> [u64; 5] {
    let bundle = sleeper(uid, capabilities);
    bundle.up();
    sets(bundle.pid())
}

/// An execve as root makes the bounding set permitted (capabilities(7)), so that one decides.
#[test]
fn root_has_the_bounding_set() {
    let all = json!(["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let bits = CHOWN | KILL | NET_BIND_SERVICE;
    assert_eq!(given(0, json!({ "bounding": all, "permitted": all, "effective": all })), [bits, bits, bits, 0, 0]);
    let inheritable = json!({ "bounding": all, "permitted": all, "effective": all, "inheritable": ["CAP_KILL"] });
    assert_eq!(given(0, inheritable), [bits, bits, bits, KILL, 0]);
}

#[test]
fn a_user_has_none_but_the_ambient_ones() {
    let all = json!(["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let bits = CHOWN | KILL | NET_BIND_SERVICE;
    assert_eq!(given(1000, json!({ "bounding": all, "permitted": all, "effective": all })), [bits, 0, 0, 0, 0]);
    let ambient =
        json!({ "bounding": all, "permitted": all, "effective": all, "inheritable": all, "ambient": ["CAP_KILL"] });
    assert_eq!(given(1000, ambient), [bits, KILL, KILL, bits, KILL]);
}

/// The kernel has no ambient capability that is not inheritable: it is left out, with no error.
#[test]
fn ambient_without_inheritable_is_nothing() {
    let kill = json!(["CAP_KILL"]);
    let without = json!({ "bounding": kill, "permitted": kill, "effective": kill, "ambient": kill });
    assert_eq!(given(1000, without), [KILL, 0, 0, 0, 0]);
}

#[test]
fn without_the_property_there_is_none() {
    assert_eq!(given(0, Value::Null), [0; 5]);
    assert_eq!(given(0, json!({})), [0; 5]);
    assert_eq!(given(1000, json!({ "bounding": [] })), [0; 5]);
}

#[test]
fn each_capability_that_the_kernel_has_can_be_given() {
    let names: Vec<String> = caps::all().into_iter().map(|capability| capability.to_string()).collect();
    let last: u32 =
        std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").expect("a number").trim().parse().expect("a number");
    let bounding = std::fs::read_to_string("/proc/self/status").expect("status");
    let own = bounding.lines().find_map(|line| line.strip_prefix("CapBnd:")).expect("CapBnd").trim().to_owned();
    let own = u64::from_str_radix(&own, 16).expect("a mask");
    let all = u64::MAX >> (63 - last) & own;
    let sets = given(0, json!({ "bounding": names, "permitted": names, "effective": names }));
    assert_eq!(sets, [all, all, all, 0, 0]);
}

/// What the caller does not have is left out, and the container runs (config.md).
#[test]
fn what_the_caller_lacks_is_left_out() {
    let names = json!(["CAP_KILL", "CAP_NET_RAW"]);
    let bundle = Bundle::script("grep ^Cap /proc/self/status").edit(|config| {
        config["process"]["capabilities"] =
            json!({ "bounding": names, "permitted": names, "effective": names, "inheritable": names, "ambient": names });
    });
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-net_raw", "--inh-caps=-net_raw", ORLOP]).stdin(Stdio::null());
    command.args(bundle.making("run", &[]).get_args());
    let shown = outcome(command).well();
    for line in shown.lines() {
        let (name, mask) = line.split_once(':').expect("a field");
        assert_eq!(u64::from_str_radix(mask.trim(), 16).expect("a mask"), KILL, "{name}");
    }
}

#[test]
fn an_unknown_capability_is_no_error() {
    let names = json!(["CAP_KILL", "CAP_OF_TOMORROW"]);
    assert_eq!(
        given(0, json!({ "bounding": names, "permitted": names, "effective": names })),
        [KILL, KILL, KILL, 0, 0]
    );
}

/// config.md, Linux Process: it MUST be warned of. With a log it is there, where the program's standard error is none of ours.
#[test]
fn an_unknown_capability_is_said() {
    let names = json!(["CAP_KILL", "CAP_OF_TOMORROW"]);
    let bundle = sleeper(0, json!({ "bounding": names }));
    let log = bundle.dir.join("log");
    let create = |options: &[&str]| {
        let mut command = bundle.command(options);
        command.args(["create", "--bundle"]).arg(&bundle.dir).arg(&bundle.id);
        let made = outcome(command);
        made.well();
        bundle.on("delete", &["--force"]).well();
        made.stderr()
    };
    let path = log.to_str().expect("a path");
    assert_eq!(create(&["--log", path, "--log-format", "json"]), "");
    let record: serde_json::Value = serde_json::from_slice(&std::fs::read(&log).expect("the log")).expect("one record");
    assert_eq!(record["level"], "warning");
    assert!(record["msg"].as_str().expect("a text").contains("CAP_OF_TOMORROW"), "{record}");
    let said = create(&[]);
    assert!(said.starts_with("orlop: warning: ") && said.contains("CAP_OF_TOMORROW"), "{said}");

    let bundle = sleeper(0, json!({}));
    bundle.up();
    let file = bundle.dir.join("process.json");
    let process =
        json!({ "args": ["true"], "cwd": "/", "user": { "uid": 0, "gid": 0 }, "capabilities": { "bounding": names } });
    std::fs::write(&file, process.to_string()).expect("a file");
    let mut command = bundle.command(&["exec", "--process"]);
    command.arg(&file).arg(&bundle.id);
    let said = outcome(command);
    said.well();
    assert!(said.stderr().contains("CAP_OF_TOMORROW"), "{}", said.stderr());
}

/// They are enforced, not only listed.
#[test]
fn a_capability_decides_what_root_may_do() {
    let mounts = |names: Value| {
        let bundle = Bundle::script("mkdir /m; mount -t tmpfs none /m 2>&1").edit(|config| {
            config["process"]["capabilities"] = json!({ "bounding": names, "permitted": names, "effective": names });
        });
        bundle.run().code
    };
    assert_ne!(mounts(json!(["CAP_KILL"])), Some(0));
    assert_eq!(mounts(json!(["CAP_SYS_ADMIN"])), Some(0));
}

/// Capabilities of a user namespace: full there, and nothing on the host.
#[test]
fn in_a_user_namespace_they_are_the_namespaces() {
    let names = json!(["CAP_CHOWN", "CAP_KILL"]);
    let bundle = sleeper(0, json!({ "bounding": names, "permitted": names, "effective": names }));
    let bundle = bundle.with_user();
    bundle.up();
    assert_eq!(sets(bundle.pid()), [CHOWN | KILL, CHOWN | KILL, CHOWN | KILL, 0, 0]);
}
