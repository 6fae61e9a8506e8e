//! The configuration that `orlop spec` writes: what `runc spec` (1.2) writes on a host with cgroups v2.

use nix::unistd::{getegid, geteuid};
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};
use serde_json::{Value, json};

/// The version of the runtime specification that this runtime implements.
pub const OCI_VERSION: &str = "1.3.0";

/// The default configuration, with its properties in runc's order. For `rootless` it has a user namespace in which the
/// effective user and group of the caller are root, and asks for nothing that an ordinary user can't have: no network
/// namespace, no fresh sysfs (which needs one), no group 5 for terminals, no limits.
pub fn default_spec(rootless: bool) -> Value {
    json!({
        "ociVersion": OCI_VERSION,
        "process": process(),
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "runc",
        "mounts": mounts(rootless),
        "linux": linux(rootless),
    })
}

/// How much a new configuration gives away. Nothing of it is ever added to a configuration that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// `seccomp-profiles/default.json`, and a limit of processes.
    Default,
    /// `seccomp-profiles/strict.json`, no capability, an ordinary user, and nothing to execute or to follow on what can be
    /// written to.
    Strict,
}

/// The default configuration with what `profile` closes. `pids`: the host's cgroups can limit processes.
pub fn hardened_spec(profile: Profile, rootless: bool, pids: bool) -> Value {
    let (seccomp, processes) = match profile {
        Profile::Default => (include_str!("../seccomp-profiles/default.json"), 4096),
        Profile::Strict => (include_str!("../seccomp-profiles/strict.json"), 256),
    };
    let mut spec = default_spec(rootless);
    spec["linux"]["seccomp"] = serde_json::from_str(seccomp).expect("a profile is JSON");
    // What an engine masks beyond runc's list: power meters tell what other processes compute (CVE-2020-8694).
    let masked = spec["linux"]["maskedPaths"].as_array_mut().expect("maskedPaths is a list");
    masked.extend(["/proc/interrupts", "/sys/devices/virtual/powercap"].map(Value::from));
    if pids && !rootless {
        spec["linux"]["resources"]["pids"] = json!({"limit": processes});
    }
    if profile == Profile::Strict {
        strict(&mut spec, rootless);
    }
    spec
}

fn strict(spec: &mut Value, rootless: bool) {
    let process = &mut spec["process"];
    process["capabilities"] = json!({});
    process["rlimits"] =
        json!([{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}, {"type": "RLIMIT_CORE", "hard": 0, "soft": 0}]);
    if !rootless {
        process["user"] = json!({"uid": 65534, "gid": 65534});
    }
    let mounts = spec["mounts"].as_array_mut().expect("mounts is a list");
    let options = json!(["nosuid", "noexec", "nodev", "nosymfollow", "mode=1777", "size=65536k"]);
    for mount in mounts.iter_mut() {
        match mount["destination"].as_str() {
            Some("/proc") => mount["options"] = json!(["nosuid", "noexec", "nodev"]),
            Some("/dev") => mount["options"] = json!(["nosuid", "noexec", "strictatime", "mode=755", "size=64k"]),
            Some("/dev/shm") => mount["options"] = options.clone(),
            _ => {}
        }
    }
    mounts.push(json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": options}));
}

/// `spec` as the text of a `config.json`: indented by tabs, with a newline at the end.
pub fn to_text(spec: &Value) -> String {
    let mut text = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b"\t"));
    spec.serialize(&mut serializer).expect("a JSON value has string keys, and a Vec takes every write");
    text.push(b'\n');
    String::from_utf8(text).expect("serde_json writes UTF-8")
}

fn process() -> Value {
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    json!({
        "terminal": true,
        "user": {"uid": 0, "gid": 0},
        "args": ["sh"],
        "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
        "cwd": "/",
        "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        "noNewPrivileges": true,
    })
}

fn mounts(rootless: bool) -> Value {
    let mut pts = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    let mut sys = json!({
        "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"],
    });
    if rootless {
        sys = json!({
            "destination": "/sys", "type": "none", "source": "/sys",
            "options": ["rbind", "nosuid", "noexec", "nodev", "ro"],
        });
    } else {
        pts.push("gid=5");
    }
    let dev = ["nosuid", "strictatime", "mode=755", "size=65536k"];
    let shm = ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"];
    let cgroup = ["nosuid", "noexec", "nodev", "relatime", "ro"];
    json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": dev},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": pts},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": shm},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
        sys,
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": cgroup},
    ])
}

fn linux(rootless: bool) -> Value {
    let mut linux = match rootless {
        true => json!({
            "uidMappings": [{"containerID": 0, "hostID": geteuid().as_raw(), "size": 1}],
            "gidMappings": [{"containerID": 0, "hostID": getegid().as_raw(), "size": 1}],
        }),
        false => json!({"resources": {"devices": [{"allow": false, "access": "rwm"}]}}),
    };
    let namespaces: &[&str] = match rootless {
        true => &["pid", "ipc", "uts", "mount", "cgroup", "user"],
        false => &["pid", "network", "ipc", "uts", "mount", "cgroup"],
    };
    linux["namespaces"] = namespaces.iter().map(|kind| json!({"type": kind})).collect();
    linux["maskedPaths"] = json!([
        "/proc/acpi",
        "/proc/asound",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/proc/sched_debug",
        "/sys/firmware",
        "/proc/scsi",
    ]);
    linux["readonlyPaths"] = json!(["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]);
    linux
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::Bundle;

    #[test]
    fn both_are_valid_configurations() {
        for rootless in [false, true] {
            let bundle = Bundle::parse("/".into(), to_text(&default_spec(rootless)).into_bytes()).unwrap();
            assert_eq!(bundle.warnings, Vec::<String>::new());
            assert_eq!(bundle.spec.mounts().as_ref().unwrap().len(), 7);
        }
    }

    #[test]
    fn a_profile_only_takes_away() {
        for (profile, rootless) in [(Profile::Default, false), (Profile::Strict, false), (Profile::Strict, true)] {
            let spec = hardened_spec(profile, rootless, true);
            let bundle = Bundle::parse("/".into(), to_text(&spec).into_bytes()).unwrap();
            assert_eq!(bundle.warnings, Vec::<String>::new());
            assert_eq!(spec["linux"].get("resources").is_some(), !rootless);
            let given = spec["process"]["capabilities"].as_object().unwrap().len();
            assert_eq!(given == 0, profile == Profile::Strict);
        }
    }

    #[test]
    fn the_order_of_properties_is_runcs() {
        let text = to_text(&default_spec(false));
        assert!(
            text.starts_with("{\n\t\"ociVersion\": \"1.3.0\",\n\t\"process\": {\n\t\t\"terminal\": true,\n"),
            "{text}"
        );
        assert!(text.ends_with("\t\t]\n\t}\n}\n"));
        let top: Vec<_> = default_spec(false).as_object().unwrap().keys().cloned().collect();
        assert_eq!(top, ["ociVersion", "process", "root", "hostname", "mounts", "linux"]);
    }

    #[test]
    fn rootless_asks_for_nothing_that_only_root_has() {
        let spec = default_spec(true);
        assert_eq!(spec["linux"]["uidMappings"][0]["hostID"], geteuid().as_raw());
        assert_eq!(spec["linux"]["gidMappings"][0]["hostID"], getegid().as_raw());
        assert!(spec["linux"].get("resources").is_none());
        let text = to_text(&spec);
        assert!(!text.contains("\"network\"") && !text.contains("gid=5"), "{text}");
        assert!(text.contains("\"user\"\n"), "{text}");
    }
}
