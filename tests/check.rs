//! `check`: each kind of finding in a bundle that has it, and none in one that has not; and nothing is made.

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use common::{Bundle, ORLOP, outcome, value};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

/// Not in /etc/passwd, so nothing else on this machine runs as it.
const USER: u32 = 54321;

/// The findings of `orlop check`, which `with` may start in its own way: PREFIX... orlop check ...
fn check_with(bundle: &Bundle, prefix: &[&str]) -> Vec<Value> {
    let words: Vec<&str> = prefix.iter().copied().chain([ORLOP]).collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).args(["check", "--format", "json", "--bundle"]).arg(&bundle.dir);
    let outcome = outcome(command);
    let said = outcome.stdout();
    let report: Value =
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}{}", outcome.stderr()));
    let findings = report["findings"].as_array().expect("findings").clone();
    let count = |severity: &str| findings.iter().filter(|finding| finding["severity"] == severity).count();
    assert_eq!(report["errors"], count("error"), "{report}");
    assert_eq!(report["warnings"], count("warning"), "{report}");
    assert_eq!(outcome.code, Some(i32::from(count("error") > 0)), "{report}");
    findings
}

fn check(bundle: &Bundle) -> Vec<Value> {
    check_with(bundle, &[])
}

fn as_user() -> [&'static str; 4] {
    ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"]
}

/// All of a finding that is text.
fn text(finding: &Value) -> String {
    ["message", "call", "hint"].iter().filter_map(|key| finding[key].as_str()).collect::<Vec<_>>().join("; ")
}

#[track_caller]
fn has(findings: &[Value], severity: &str, pointer: &str, words: &str) {
    let fits = |finding: &&Value| {
        finding["severity"] == severity && finding["pointer"] == pointer && text(finding).contains(words)
    };
    assert!(findings.iter().any(|finding| fits(&finding)), "no {severity} at {pointer}: {words}: {findings:#?}");
}

#[track_caller]
fn has_not(findings: &[Value], pointer: &str) {
    let at = |finding: &&Value| finding["pointer"].as_str().is_some_and(|place| place.starts_with(pointer));
    assert!(!findings.iter().any(|finding| at(&finding)), "something at {pointer}: {findings:#?}");
}

/// Gives the value at `pointer` a new value; objects on the way are made, `-` appends to an array.
fn set(config: &mut Value, pointer: &str, value: Value) {
    let mut at = config;
    for key in pointer.split('/').skip(1) {
        let key = key.replace("~1", "/").replace("~0", "~");
        at = match at {
            Value::Array(elements) => {
                let index = key.parse().unwrap_or(elements.len());
                elements.resize(elements.len().max(index + 1), Value::Null);
                &mut elements[index]
            }
            _ => &mut at[key],
        };
    }
    *at = value;
}

fn with(changes: &[(&str, Value)]) -> Bundle {
    Bundle::new().edit(|config| changes.iter().for_each(|(pointer, value)| set(config, pointer, value.clone())))
}

/// Each row: a change of a bundle without findings, and the finding that it makes.
#[track_caller]
fn each(rows: Vec<(&str, Value, &str, &str, &str)>) {
    for (at, value, severity, pointer, words) in rows {
        has(&check(&with(&[(at, value)])), severity, pointer, words);
    }
}

/// What `orlop spec --rootless` writes for the user, who owns the bundle.
fn users_bundle(changes: &[(&str, Value)]) -> Bundle {
    let bundle = Bundle::new();
    let owner = format!("{USER}:{USER}");
    assert!(Command::new("chown").args(["-hR", &owner]).arg(&bundle.dir).status().expect("chown").success());
    chown(&bundle.dir, Some(USER), Some(USER)).expect("chown");
    bundle.edit(|config| {
        *config = orlop::spec::default_spec(true);
        for ids in ["uidMappings", "gidMappings"] {
            config["linux"][ids][0]["hostID"] = json!(USER);
        }
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["true"]);
        changes.iter().for_each(|(pointer, value)| set(config, pointer, value.clone()));
    })
}

fn check_as_user(bundle: &Bundle) -> Vec<Value> {
    check_with(bundle, &as_user())
}

#[test]
fn a_good_bundle_has_no_findings() {
    let bundle = Bundle::new();
    assert_eq!(check(&bundle), [Value::Null; 0]);
    let mut command = bundle.command(&["check"]);
    command.arg(&bundle.dir);
    assert_eq!(outcome(command).well(), "no findings");
    let errors = check_as_user(&users_bundle(&[])).into_iter().filter(|finding| finding["severity"] == "error");
    assert_eq!(errors.collect::<Vec<_>>(), [Value::Null; 0]);
}

#[test]
fn several_mistakes_are_all_listed_in_the_order_of_the_configuration() {
    let bundle = with(&[
        ("/linux/maskedPaths/0", json!("proc/acpi")),
        ("/mounts/1/options/-", json!("=x")),
        ("/process/cwd", json!("tmp")),
        ("/process/capabilities/bounding/-", json!("CAP_NEW")),
        ("/mounts/-", json!({"destination": "/data", "type": "bind", "source": "/nonexistent", "options": ["bind"]})),
        ("/process/args/0", json!("nothing")),
    ]);
    let findings = check(&bundle);
    let pointers: Vec<_> = findings.iter().map(|finding| finding["pointer"].as_str().expect("a pointer")).collect();
    let wanted = [
        "/process/args/0",
        "/process/cwd",
        "/process/capabilities/bounding/3",
        "/mounts/1/options/4",
        "/mounts/7/source",
        "/linux/maskedPaths/0",
    ];
    assert_eq!(pointers, wanted, "{findings:#?}");
    let mut command = bundle.command(&["check", "--bundle"]);
    command.arg(&bundle.dir);
    let outcome = outcome(command);
    let said = outcome.stdout();
    assert_eq!((outcome.code, said.lines().last()), (Some(1), Some("4 errors, 2 warnings")), "{said}");
    assert!(said.contains("error: Cwd must be an absolute path\n  at /process/cwd\n"), "{said}");
    assert!(said.contains("\n  at /mounts/7/source\n  stat: no such file or directory\n"), "{said}");
}

#[test]
fn what_can_not_be_read_is_one_finding_and_the_end() {
    let bundle = with(&[("/hostname", json!(5)), ("/process/cwd", json!("tmp"))]);
    let findings = check(&bundle);
    assert_eq!(findings.len(), 1, "{findings:#?}");
    has(&findings, "error", "/hostname", "expected a string");
    fs::write(bundle.dir.join("config.json"), "{").expect("config.json");
    has(&check(&bundle), "error", "", "line 1 column 1");
    fs::remove_file(bundle.dir.join("config.json")).expect("remove");
    has(&check(&bundle), "error", "", "config.json not found");
}

#[test]
fn what_planning_refuses_or_warns_of() {
    let rule = |names: &[&str], more: Value| {
        let mut rule = json!({"names": names, "action": "SCMP_ACT_ERRNO"});
        rule.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        rule
    };
    let filter = |rules: Vec<Value>| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules});
    each(vec![
        (
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_NOTIFY"}),
            "error",
            "/linux/seccomp/defaultAction",
            "default action",
        ),
        (
            "/linux/seccomp",
            filter(vec![rule(&["nosuchcall"], json!({}))]),
            "warning",
            "/linux/seccomp/syscalls/0/names",
            "nosuchcall",
        ),
        ("/linux/cgroupsPath", json!("../../x"), "error", "/linux/cgroupsPath", "leaves"),
        ("/linux/cgroupsPath", json!("a:b:c"), "error", "/linux/cgroupsPath", "systemd"),
        (
            "/linux/resources/devices/-",
            json!({"allow": true, "access": "x"}),
            "error",
            "/linux/resources/devices/1/access",
            "r, w and m",
        ),
        (
            "/linux/resources/memory",
            json!({"disableOOMKiller": true}),
            "warning",
            "/linux/resources/memory/disableOOMKiller",
            "has no effect",
        ),
        ("/mounts/-", json!({"destination": "/x"}), "error", "/mounts/7", "neither a type nor the option bind"),
        (
            "/mounts/-",
            json!({"destination": "x", "type": "tmpfs", "source": "tmpfs"}),
            "warning",
            "/mounts/7/destination",
            "not absolute",
        ),
        (
            "/mounts/-",
            json!({"destination": "/dev", "options": ["remount", "size=1m"]}),
            "warning",
            "/mounts/7",
            "a remount changes",
        ),
        (
            "/mounts/-",
            json!({"destination": "/x", "source": "/etc", "options": ["bind", "idmap"]}),
            "error",
            "/mounts/7",
            "uidMappings and gidMappings",
        ),
    ]);
    let several = check(&with(&[
        (
            "/linux/resources",
            json!({"cpu": {"idle": 2, "cpus": "x"}, "hugepageLimits": [{"pageSize": "2M", "limit": 1}],
            "unified": {"a/b": "1", "cgroup.procs": "1"}, "network": {"classID": 1}}),
        ),
        ("/linux/seccomp", filter(vec![rule(&[], json!({})), rule(&["read"], json!({"errnoRet": 70000}))])),
        ("/mounts/-", json!({"destination": "/x"})),
        ("/mounts/-", json!({"destination": "/y"})),
    ]));
    for pointer in [
        "/linux/resources/cpu/idle",
        "/linux/resources/cpu/cpus",
        "/linux/resources/hugepageLimits/0/pageSize",
        "/linux/resources/unified/a~1b",
        "/linux/resources/unified/cgroup.procs",
        "/linux/resources/network/classID",
        "/linux/seccomp/syscalls/0/names",
        "/linux/seccomp/syscalls/1/errnoRet",
        "/mounts/7",
        "/mounts/8",
    ] {
        has(&several, "error", pointer, "");
    }
}

#[test]
fn namespaces_that_this_host_lacks_or_forbids() {
    let good = with(&[("/linux/namespaces/0/path", json!("/proc/self/ns/pid"))]);
    has_not(&check(&good), "/linux/namespaces");
    each(vec![
        (
            "/linux/namespaces/0/path",
            json!("/nonexistent"),
            "error",
            "/linux/namespaces/0/path",
            "no such file or directory",
        ),
        (
            "/linux/namespaces/0/path",
            json!("/proc/self/ns/net"),
            "error",
            "/linux/namespaces/0/path",
            "another type than pid",
        ),
        (
            "/linux/namespaces/0/path",
            json!("/etc/hostname"),
            "error",
            "/linux/namespaces/0/path",
            "must lead to a namespace",
        ),
    ]);
    // The limits are of a user namespace, which is one of the test's own here.
    let bundle = users_bundle(&[]);
    let script = "echo 0 >/proc/sys/user/max_uts_namespaces && exec \"$@\"";
    let mut prefix = as_user().to_vec();
    prefix.extend(["unshare", "--user", "--map-root-user", "sh", "-ec", script, "sh"]);
    let bundle = bundle.edit(|config| {
        for ids in ["uidMappings", "gidMappings"] {
            config["linux"][ids][0]["hostID"] = json!(0);
        }
    });
    let findings = check_with(&bundle, &prefix);
    has(&findings, "error", "/linux/namespaces/2", "max_uts_namespaces is 0");
    has_not(&findings, "/linux/namespaces/1");
}

#[test]
fn namespaces_take_a_right() {
    let prefix = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"];
    has(&check_with(&Bundle::new(), &prefix), "error", "/linux/namespaces", "CAP_SYS_ADMIN");
}

/// What needs a covered file of the host has a mount namespace of its own.
fn covering(covers: &[(&Path, &str)], user: bool) -> Vec<String> {
    let mut script = String::new();
    for (from, to) in covers {
        script += &format!("mount --bind '{}' {to} && ", from.display());
    }
    script += "exec \"$@\"";
    let mut words =
        ["unshare", "--mount", "--propagation", "private", "sh", "-ec", &script, "sh"].map(str::to_owned).to_vec();
    if user {
        words.extend(as_user().map(str::to_owned));
    }
    words
}

#[test]
fn id_maps_that_the_user_may_not_write() {
    let maps = |first: u32| json!([{"containerID": 0, "hostID": USER, "size": 1}, {"containerID": 1, "hostID": first, "size": 1000}]);
    let bundle = users_bundle(&[("/linux/uidMappings", maps(700_000)), ("/linux/gidMappings", maps(700_001))]);
    let ranges = bundle.dir.join("subids");
    fs::write(&ranges, format!("{USER}:700000:1000\n")).expect("ranges");
    let prefix = covering(&[(&ranges, "/etc/subuid"), (&ranges, "/etc/subgid")], true);
    let prefix: Vec<&str> = prefix.iter().map(String::as_str).collect();
    let findings = check_with(&bundle, &prefix);
    has_not(&findings, "/linux/uidMappings");
    has(&findings, "error", "/linux/gidMappings/1/hostID", "/etc/subgid");

    let mut without: Vec<&str> = prefix.clone();
    without.extend(["env", "PATH=/nonexistent"]);
    has(&check_with(&bundle, &without), "error", "/linux/uidMappings", "newuidmap is not installed");
    has_not(&check_as_user(&users_bundle(&[])), "/linux/uidMappings");

    // Root of a user namespace has what that one maps.
    let mut inside = as_user().to_vec();
    inside.extend(["unshare", "--user", "--map-root-user"]);
    has(&check_with(&users_bundle(&[]), &inside), "error", "/linux/uidMappings/0/hostID", "own user namespace");
}

#[test]
fn controllers_that_are_not_there_or_not_delegated() {
    each(vec![(
        "/linux/resources/unified",
        json!({"nosuch.max": "1"}),
        "error",
        "/linux/resources/unified/nosuch.max",
        "does not offer: nosuch",
    )]);
    let cgroups = value("/proc/self/cgroup").expect("cgroup");
    let v1 = cgroups.lines().any(|line| line.contains(":memory:"));
    let memory = check(&with(&[("/linux/resources/memory", json!({"limit": 100_000_000}))]));
    match v1 {
        true => has(&memory, "error", "/linux/resources/memory/limit", "cgroup v1 holds on this host: memory"),
        false => has_not(&memory, "/linux/resources"),
    }
    let limit = json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}]});
    has_not(&check(&with(&[("/linux/resources/hugepageLimits", limit["hugepageLimits"].clone())])), "/linux/resources");
    let findings = check_as_user(&users_bundle(&[("/linux/resources", limit)]));
    has(&findings, "error", "/linux/resources/hugepageLimits/0/limit", "no permission is granted for cgroups");
    let findings = check_as_user(&users_bundle(&[("/linux/cgroupsPath", json!("/orlop-nosuch/x"))]));
    has(&findings, "error", "/linux/cgroupsPath", "create cgroup /orlop-nosuch/x");
    has(&check_as_user(&users_bundle(&[])), "warning", "", "runs without a cgroup of its own");
}

#[test]
fn devices_of_the_network_policies_and_resctrl() {
    let devices = |name: &str| json!({ name: {} });
    each(vec![
        ("/linux/netDevices", devices("orlop-nosuch"), "error", "/linux/netDevices/orlop-nosuch", "no network device"),
        ("/linux/netDevices", devices("lo"), "error", "/linux/netDevices/lo", "cannot move"),
        ("/process/scheduler", json!({"policy": "SCHED_ISO"}), "error", "/process/scheduler/policy", "no kernel has"),
    ]);
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: root is needed");
    let made = Command::new("ip").args(["link", "add", "there", "type", "veth", "peer", "name", "peer0"]).status();
    assert!(made.expect("iproute2").success());
    has_not(&check(&with(&[("/linux/netDevices", devices("there"))])), "/linux/netDevices");
    let findings = check(&with(&[("/linux/intelRdt", json!({"closID": "x"}))]));
    let mounted = fs::read_to_string("/proc/self/mounts").expect("mounts").contains(" resctrl ");
    match mounted {
        true => has_not(&findings, "/linux/intelRdt"),
        false => has(&findings, "error", "/linux/intelRdt", "Intel RDT is not enabled"),
    }
}

#[test]
fn cgroups_that_are_in_use() {
    let name = format!("orlop-test-check-{}", std::process::id());
    let cgroup = Path::new("/sys/fs/cgroup").join(&name);
    fs::create_dir(&cgroup).expect("a cgroup");
    let mut inside = Command::new("sleep").arg("1000").spawn().expect("sleep");
    fs::write(cgroup.join("cgroup.procs"), inside.id().to_string()).expect("cgroup.procs");
    let limit = json!([{"pageSize": "2MB", "limit": 4 << 20}]);
    let of_path = |path: String| {
        check(&with(&[("/linux/cgroupsPath", json!(path)), ("/linux/resources/hugepageLimits", limit.clone())]))
    };
    let (same, below) = (of_path(format!("/{name}")), of_path(format!("/{name}/c")));
    inside.kill().and_then(|()| inside.wait()).expect("its end");
    let free = of_path(format!("/{name}"));
    common::wait(|| fs::remove_dir(&cgroup).is_ok());
    has(&same, "error", "/linux/cgroupsPath", "container's cgroup is not empty: 1 process(es) found");
    has(&below, "error", "/linux/resources/hugepageLimits/0/limit", "has processes of its own");
    has_not(&free, "/linux");
}

#[test]
fn numbers_of_things_that_the_machine_does_not_have() {
    let throttle = |major: u32| json!([{"major": major, "minor": 7, "rate": 1000}]);
    each(vec![
        ("/linux/resources/cpu", json!({"cpus": "0,8000"}), "error", "/linux/resources/cpu/cpus", "no CPU 8000"),
        ("/linux/resources/cpu", json!({"mems": "99"}), "error", "/linux/resources/cpu/mems", "no NUMA node 99"),
        (
            "/process/execCPUAffinity",
            json!({"initial": "0", "final": "8000-8001"}),
            "error",
            "/process/execCPUAffinity/final",
            "8000-8001",
        ),
        (
            "/linux/resources/hugepageLimits",
            json!([{"pageSize": "3MB", "limit": 1}]),
            "error",
            "/linux/resources/hugepageLimits/0/pageSize",
            "3MB",
        ),
        (
            "/linux/resources/blockIO",
            json!({"throttleReadBpsDevice": throttle(4095)}),
            "error",
            "/linux/resources/blockIO/throttleReadBpsDevice/0",
            "4095:7",
        ),
    ]);
    let good = check(&with(&[("/linux/resources/cpu", json!({"cpus": "0", "mems": "0"}))]));
    has_not(&good, "/linux/resources/cpu/mems");
    assert!(!good.iter().any(|finding| text(finding).contains("machine")), "{good:#?}");
}

#[test]
fn sysctls_that_do_not_exist() {
    each(vec![
        ("/linux/sysctl", json!({"net.ipv4.nonsense": "1"}), "error", "/linux/sysctl/net.ipv4.nonsense", "no sysctl"),
        (
            "/linux/sysctl",
            json!({"net.ipv4.conf.eth9.forwarding": "1"}),
            "warning",
            "/linux/sysctl/net.ipv4.conf.eth9.forwarding",
            "eth9",
        ),
    ]);
    let good = json!({"net.ipv4.ip_forward": "1", "kernel.shmmax": "1", "net.ipv4.conf.lo.forwarding": "1"});
    has_not(&check(&with(&[("/linux/sysctl", good)])), "/linux/sysctl");
}

#[test]
fn security_modules_that_are_off() {
    let apparmor = value("/sys/module/apparmor/parameters/enabled").is_ok_and(|on| on == "Y");
    let words = if apparmor { "is not loaded" } else { "apparmor not supported" };
    each(vec![("/process/apparmorProfile", json!("orlop-nosuch"), "error", "/process/apparmorProfile", words)]);
    if !Path::new("/sys/fs/selinux/enforce").exists() {
        each(vec![(
            "/process/selinuxLabel",
            json!("a:b:c:s0"),
            "error",
            "/process/selinuxLabel",
            "selinux is disabled",
        )]);
    }
}

#[test]
fn seccomp_as_the_kernel_knows_it() {
    use nix::errno::Errno;
    assert_eq!(orlop::sys::seccomp_action_available(libc::SECCOMP_RET_USER_NOTIF), Ok(()));
    assert_eq!(orlop::sys::seccomp_action_available(0x0123_0000), Err(Errno::EOPNOTSUPP));
    for flag in
        [libc::SECCOMP_FILTER_FLAG_LOG, libc::SECCOMP_FILTER_FLAG_TSYNC, libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV]
    {
        assert_eq!(orlop::sys::seccomp_flag_known(flag), Ok(()), "{flag:#x}");
    }
    assert_eq!(orlop::sys::seccomp_flag_known(1 << 20), Err(Errno::EINVAL));
    assert_eq!(common::proc_status(std::process::id(), "Seccomp_filters"), "0", "nothing was loaded");
    let notify = |path: &str| {
        json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path,
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]})
    };
    each(vec![("/linux/seccomp", notify("/nonexistent"), "error", "/linux/seccomp/listenerPath", "agent")]);
    has_not(&check(&with(&[("/linux/seccomp", notify("/dev/null"))])), "/linux/seccomp");
}

#[test]
fn mounts_that_this_host_can_not_make() {
    let bind = |source: &str| json!({"destination": "/data", "source": source, "options": ["bind"]});
    each(vec![
        (
            "/mounts/-",
            json!({"destination": "/data", "type": "nosuchfs"}),
            "error",
            "/mounts/7/type",
            "no file system of type \"nosuchfs\"",
        ),
        ("/mounts/-", bind("/nonexistent/data"), "error", "/mounts/7/source", "no such file or directory"),
        ("/mounts/-", bind("nothing"), "error", "/mounts/7/source", "no such file or directory"),
    ]);
    has_not(&check(&with(&[("/mounts/-", bind("/etc")), ("/mounts/-", bind("rootfs"))])), "/mounts");
    let device = json!([{"path": "/dev/nosuch", "type": "c", "major": 1, "minor": 3}]);
    has_not(&check(&with(&[("/linux/devices", device.clone())])), "/linux/devices");
    let findings = check_as_user(&users_bundle(&[("/linux/devices", device)]));
    has(&findings, "error", "/linux/devices/0/path", "/dev/nosuch");
}

#[test]
fn root_file_systems() {
    each(vec![
        ("/root/path", json!("nothing"), "error", "/root/path", "no such file or directory"),
        ("/root/path", json!("config.json"), "error", "/root/path", "not a directory"),
    ]);
    let bundle = Bundle::new();
    symlink("rootfs", bundle.dir.join("link")).expect("a link");
    let bundle = bundle.edit(|config| config["root"]["path"] = json!("link"));
    has(&check(&bundle), "note", "/root/path", "is a link to rootfs");

    let bundle = Bundle::new();
    let root = bundle.rootfs("").display().to_string();
    let script = format!("mount --bind '{root}' '{root}' && mount -o remount,bind,noexec '{root}' && exec \"$@\"");
    let prefix = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", &script, "sh"];
    let findings = check_with(&bundle, &prefix);
    has(&findings, "warning", "/root/path", "noexec");
    has(&findings, "warning", "/process/args/0", "noexec");
}

#[test]
fn programs_that_would_not_run() {
    let program = |name: &str, text: &[u8], mode: u32| {
        let bundle = Bundle::new().args(&[name]);
        if !text.is_empty() {
            bundle.program("program", text);
            fs::set_permissions(bundle.rootfs("program"), fs::Permissions::from_mode(mode)).expect("chmod");
        }
        check(&bundle)
    };
    for (name, text, mode, words) in [
        ("nonexistent", "", 0, "executable file not found in $PATH"),
        ("/nonexistent", "", 0, "stat /nonexistent: no such file or directory"),
        ("/etc", "", 0, "is a directory"),
        ("/program", "#!/bin/sh\n", 0o644, "permission denied"),
        ("/program", "#!/nonexistent -x\n", 0o755, "the script's interpreter /nonexistent does not exist"),
        ("/program", "#!/bin/sh\r\n", 0o755, "CR LF"),
        ("/program", "echo\n", 0o755, "neither an ELF program nor a script"),
        ("/proc/self/exe", "", 0, "magic link"),
    ] {
        has(&program(name, text.as_bytes(), mode), "warning", "/process/args/0", words);
    }
    has_not(&program("/program", b"#!/bin/sh\n", 0o755), "/process");
    has(&program("/dev/shm/x", b"", 0), "note", "/process/args/0", "/mounts/3");
    let mut elf = fs::read("/usr/bin/env").expect("a program");
    has(&program("/program", &elf, 0o755), "warning", "/process/args/0", "ld-linux");
    elf[18] = 0xf3; // e_machine: EM_RISCV
    has(&program("/program", &elf, 0o755), "warning", "/process/args/0", "another architecture");
}

#[test]
fn what_comes_by_a_bind_mount_is_found_there() {
    let bundle = Bundle::new().args(&["/data/program"]);
    let source = bundle.dir.join("data");
    fs::create_dir(&source).expect("data");
    fs::write(source.join("program"), "#!/data/sh\n").expect("a program");
    fs::set_permissions(source.join("program"), fs::Permissions::from_mode(0o755)).expect("chmod");
    symlink("/bin/sh", source.join("sh")).expect("a link");
    let with = |options: Value| {
        let mut config = bundle.config.clone();
        set(&mut config, "/mounts/-", json!({"destination": "/data", "source": source, "options": options}));
        fs::write(bundle.dir.join("config.json"), config.to_string()).expect("config.json");
        check(&bundle)
    };
    has(&check(&bundle), "warning", "/process/args/0", "no such file or directory");
    assert_eq!(with(json!(["bind"])), [Value::Null; 0]);
    has(&with(json!(["bind", "noexec"])), "warning", "/process/args/0", "/mounts/7 is mounted noexec");
}

#[test]
fn working_directories() {
    let bundle = Bundle::new();
    fs::write(bundle.rootfs("etc/passwd"), "").expect("passwd");
    let bundle = bundle.edit(|config| config["process"]["cwd"] = json!("/etc/passwd"));
    has(&check(&bundle), "warning", "/process/cwd", "not a directory");
    has_not(&check(&with(&[("/process/cwd", json!("/made/later"))])), "/process/cwd");
}

#[test]
fn hooks_that_are_missing_or_can_not_be_executed() {
    let hook = |kind: &str, path: &str| json!({kind: [{"path": "/bin/true"}, {"path": path}]});
    for kind in ["prestart", "createRuntime", "createContainer", "poststart"] {
        let pointer = format!("/hooks/{kind}/1/path");
        has(&check(&with(&[("/hooks", hook(kind, "/nonexistent"))])), "error", &pointer, "no such file or directory");
    }
    each(vec![
        ("/hooks", hook("prestart", "/proc/version"), "error", "/hooks/prestart/1/path", "not an executable file"),
        ("/hooks", hook("poststop", "/nonexistent"), "warning", "/hooks/poststop/1/path", "no such file"),
        ("/hooks", hook("startContainer", "/usr/bin/env"), "warning", "/hooks/startContainer/1/path", "no such file"),
    ]);
    has_not(&check(&with(&[("/hooks", hook("startContainer", "/bin/busybox"))])), "/hooks");
    has_not(&check(&with(&[("/hooks", hook("prestart", "/usr/bin/env"))])), "/hooks");
}

/// Root has CAP_SYS_RESOURCE, which some machines keep to themselves.
fn may_raise() -> bool {
    let mine = common::proc_status(std::process::id(), "CapEff");
    u64::from_str_radix(&mine, 16).expect("a mask") & (1 << 24) != 0
}

#[test]
fn limits_above_the_callers() {
    let limit = |hard: u64| json!([{"type": "RLIMIT_NOFILE", "soft": 1, "hard": hard}]);
    each(vec![("/process/rlimits", limit(u64::MAX), "error", "/process/rlimits/0/hard", "fs.nr_open")]);
    let mut prefix = vec!["prlimit", "--nofile=500:500"];
    prefix.extend(as_user());
    let of_user = |hard: u64| check_with(&users_bundle(&[("/process/rlimits", limit(hard))]), &prefix);
    has(&of_user(501), "error", "/process/rlimits/0/hard", "above the caller's own, 500");
    has_not(&of_user(500), "/process/rlimits");
    if may_raise() {
        let of_root = check_with(&with(&[("/process/rlimits", limit(501))]), &["prlimit", "--nofile=500:500"]);
        has_not(&of_root, "/process/rlimits");
    }
}

#[test]
fn an_oom_score_that_is_lowered_without_a_right() {
    let of_user = |score: i32| check_as_user(&users_bundle(&[("/process/oomScoreAdj", json!(score))]));
    has(&of_user(-500), "error", "/process/oomScoreAdj", "CAP_SYS_RESOURCE");
    has_not(&of_user(1000), "/process/oomScoreAdj");
    if may_raise() {
        has_not(&check(&with(&[("/process/oomScoreAdj", json!(-500))])), "/process/oomScoreAdj");
    }
}

#[test]
fn capabilities_that_can_not_be_given() {
    let bundle = with(&[
        ("/process/capabilities/bounding/-", json!("CAP_SYS_PTRACE")),
        ("/process/capabilities/permitted/-", json!("CAP_SYS_PTRACE")),
    ]);
    has_not(&check(&bundle), "/process/capabilities");
    let findings = check_with(&bundle, &["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"]);
    has(&findings, "warning", "/process/capabilities/bounding", "the caller does not have CAP_SYS_PTRACE");
    has(&findings, "warning", "/process/capabilities/permitted", "the caller does not have CAP_SYS_PTRACE");
    each(vec![
        (
            "/process/capabilities/effective/-",
            json!("CAP_CHOWN"),
            "warning",
            "/process/capabilities/effective",
            "CAP_CHOWN",
        ),
        (
            "/process/capabilities/ambient",
            json!(["CAP_KILL"]),
            "warning",
            "/process/capabilities/ambient",
            "inheritable",
        ),
        (
            "/process/capabilities/bounding/-",
            json!("CAP_NEW"),
            "warning",
            "/process/capabilities/bounding/3",
            "CAP_NEW",
        ),
    ]);
    // In a new user namespace there are all of them.
    has_not(&check_as_user(&users_bundle(&[])), "/process/capabilities");
}

#[test]
fn terminals() {
    each(vec![
        ("/process/terminal", json!(true), "note", "/process/terminal", "--console-socket"),
        ("/process/consoleSize", json!({"height": 1, "width": 1}), "note", "/process/consoleSize", "no effect"),
    ]);
    let bundle = with(&[("/process/terminal", json!(true))]);
    let bundle = bundle.edit(|config| drop(config["mounts"].as_array_mut().expect("mounts").remove(2)));
    has(&check(&bundle), "warning", "/process/terminal", "/dev/pts");
}

/// Changes by which each part of the check has something to look at.
fn rich() -> Vec<(&'static str, Value)> {
    vec![
        (
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_ERRNO", "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [{"names": ["read", "nosuch"], "action": "SCMP_ACT_ALLOW"}]}),
        ),
        (
            "/linux/resources",
            json!({"memory": {"limit": 1}, "cpu": {"cpus": "0"}, "pids": {"limit": 5},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 1}]}),
        ),
        ("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"})),
        ("/linux/namespaces/1/path", json!("/proc/self/ns/net")),
        ("/linux/namespaces/-", json!({"type": "time"})),
        ("/process/apparmorProfile", json!("x")),
        ("/process/rlimits/0/hard", json!(u64::MAX)),
        ("/process/cwd", json!("/not/there")),
        ("/hooks", json!({"prestart": [{"path": "/bin/true"}], "startContainer": [{"path": "/bin/true"}]})),
        ("/mounts/-", json!({"destination": "/new/place", "source": "/etc", "options": ["bind"]})),
        ("/mounts/-", json!({"destination": "/other", "type": "nosuchfs"})),
    ]
}

/// Calls that make or change something, but for open, write, execve, prctl and seccomp, which are looked at one by one.
const MAKING: &str = "mkdir mknod symlink link unlink rename renameat2 rmdir truncate ftruncate chmod fchmod chown lchown fchown
    mount umount2 fsopen fspick fsconfig fsmount open_tree move_mount mount_setattr pivot_root chroot unshare setns clone clone3
    fork vfork kill tgkill pidfd_send_signal setxattr fsetxattr capset setrlimit setuid setresuid setgroups bpf socket
    sethostname setdomainname utime utimens keyctl";

#[test]
fn nothing_is_made_and_nothing_changed() {
    changes_nothing(&with(&rich()), &[]);
}

/// There is more that an ordinary user can't ask for, and other ways to find out.
#[test]
fn nothing_is_made_and_nothing_changed_for_an_ordinary_user() {
    changes_nothing(&users_bundle(&rich()), &as_user());
}

/// Every call of PREFIX... orlop check, and the bundle before and after it.
fn changes_nothing(bundle: &Bundle, prefix: &[&str]) {
    let trace = bundle.dir.join("trace");
    let before = tree(&bundle.dir);
    let outcome = {
        let words: Vec<&str> = prefix.iter().copied().chain(["strace"]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args(["-f", "-qq", "-e", "signal=none", "-o"]).arg(&trace).arg(ORLOP);
        command.arg("--root").arg(bundle.dir.join("state")).args(["check", "--bundle"]).arg(&bundle.dir);
        outcome(command)
    };
    assert_eq!(outcome.code, Some(1), "{}{}", outcome.stdout(), outcome.stderr());
    let calls = fs::read_to_string(&trace).expect("the trace");
    fs::remove_file(&trace).expect("remove");
    assert_eq!(tree(&bundle.dir), before);
    let mut seen = 0;
    for line in calls.lines() {
        let call = line.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start();
        let name = call.split('(').next().unwrap_or_default();
        seen += usize::from(name == "openat2");
        let changes = MAKING.split_whitespace().any(|made| name == made || name.strip_suffix("at") == Some(made));
        assert!(!changes, "{call}");
        let writing = ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC"].iter().any(|flag| call.contains(flag));
        let own = call.contains("\"/dev/null\"");
        assert!(!writing || own, "{call}");
        assert!(!name.starts_with("write") && !name.starts_with("pwrite") || call.starts_with("write(1,"), "{call}");
        assert!(name != "execve" || call.contains(ORLOP), "{call}");
        assert!(name != "prctl" || !call.contains("SECCOMP") && !call.contains("_DROP"), "{call}");
        assert!(name != "seccomp" || call.contains("GET_ACTION_AVAIL") || call.contains("EFAULT"), "{call}");
    }
    assert!(seen > 5, "the root file system was looked at: {calls}");
    assert!(!bundle.dir.join("state").exists(), "no state");
}

/// The names below a directory with what changes of them show in.
fn tree(dir: &Path) -> Vec<String> {
    let find = Command::new("find").arg(dir).args(["-printf", "%p %m %U %s %T@ %C@\n"]).output().expect("find");
    let mut lines: Vec<String> = String::from_utf8_lossy(&find.stdout).lines().map(ToOwned::to_owned).collect();
    // The trace lies in the bundle while it is written.
    lines.retain(|line| !line.starts_with(&format!("{} ", dir.display())));
    lines.sort();
    lines
}

#[test]
fn control_characters_do_not_reach_the_terminal() {
    let bundle = with(&[("/process/args", json!(["/\u{1b}[31mred"]))]);
    let mut command = bundle.command(&["check"]);
    command.arg(&bundle.dir);
    let said = outcome(command).stdout();
    assert!(!said.contains('\u{1b}') && said.contains("[31mred"), "{said:?}");
}
