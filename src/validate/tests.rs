//! One broken configuration per rule, and what must not be taken for broken.

use serde_json::{Value, json};

use super::*;
use crate::bundle::Bundle;
use crate::spec::default_spec;

const ROOT: Context = Context {
    rootless: false,
    host_network: false,
    no_selinux: false,
    unknown_label: false,
    unknown_mount_label: false,
    no_apparmor: false,
};
const ROOTLESS: Context = Context { rootless: true, ..ROOT };

/// Gives the value at `pointer` a new value; objects on the way are made, `-` appends to an array.
fn set(config: &mut Value, pointer: &str, value: Value) {
    let mut at = config;
    for key in pointer.split('/').skip(1) {
        let key = key.replace("~1", "/").replace("~0", "~");
        if at.is_array() {
            let elements = at.as_array_mut().unwrap();
            let index = key.parse().unwrap_or(elements.len());
            elements.resize(elements.len().max(index + 1), Value::Null);
            at = &mut elements[index];
        } else {
            at = &mut at[key];
        }
    }
    *at = value;
}

fn check(mut config: Value, context: &Context, changes: &[(&str, Value)]) -> Result<()> {
    for (pointer, value) in changes {
        set(&mut config, pointer, value.clone());
    }
    let bundle = Bundle::parse("/".into(), config.to_string().into_bytes()).unwrap();
    validate(&bundle.spec, context)
}

/// A configuration of root's with a user namespace.
fn with_user_namespace() -> Value {
    let mut config = default_spec(false);
    set(&mut config, "/linux/namespaces/-", json!({"type": "user"}));
    for ids in ["/linux/uidMappings", "/linux/gidMappings"] {
        set(&mut config, ids, json!([{"containerID": 0, "hostID": 100000, "size": 1000}]));
    }
    config
}

#[track_caller]
fn breaks(config: Value, context: &Context, changes: &[(&str, Value)], pointer: &str, text: &str) {
    let error = check(config, context, changes).expect_err(text);
    assert_eq!((error.pointer.as_deref(), error.message.contains(text)), (Some(pointer), true), "{error}");
}

/// Each row: what is changed in the default configuration, the pointer of the error, and a part of its text.
#[track_caller]
fn each_breaks(config: fn() -> Value, context: &Context, rows: Vec<(&str, Value, &str, &str)>) {
    check(config(), context, &[]).expect("the configuration without a change is valid");
    for (at, value, pointer, text) in rows {
        breaks(config(), context, &[(at, value)], pointer, text);
    }
}

fn root_config() -> Value {
    default_spec(false)
}

fn rootless_config() -> Value {
    default_spec(true)
}

#[test]
fn the_default_configurations_are_valid() {
    check(default_spec(false), &ROOT, &[]).unwrap();
    check(default_spec(true), &ROOTLESS, &[]).unwrap();
    check(with_user_namespace(), &ROOT, &[]).unwrap();
}

#[test]
fn the_top_level() {
    let hook = |hook: Value| json!({"poststop": [{"path": "/bin/true"}, hook]});
    each_breaks(
        root_config,
        &ROOT,
        vec![
            ("/ociVersion", json!(""), "/ociVersion", "ociVersion is missing"),
            ("/ociVersion", json!("invalid"), "/ociVersion", "not a semantic version"),
            ("/ociVersion", json!("1.0"), "/ociVersion", "not a semantic version"),
            ("/ociVersion", json!("1.01.0"), "/ociVersion", "not a semantic version"),
            ("/ociVersion", json!("1.0.0-"), "/ociVersion", "not a semantic version"),
            ("/ociVersion", json!("2.0.0"), "/ociVersion", "major version must be 1"),
            ("/root", Value::Null, "/root", "root must be specified"),
            ("/root/path", json!(""), "/root/path", "must not be empty"),
            ("/root/path", json!("a\0b"), "/root/path", "NUL"),
            ("/process", Value::Null, "/process", "process property must not be empty"),
            ("/hostname", json!("h".repeat(65)), "/hostname", "65 bytes"),
            ("/hostname", json!("a\0"), "/hostname", "NUL"),
            ("/annotations", json!({"": "x"}), "/annotations/", "empty key"),
            ("/hooks", hook(json!({"path": "true"})), "/hooks/poststop/1/path", "not an absolute path"),
            ("/hooks", hook(json!({"path": "/a\0"})), "/hooks/poststop/1/path", "NUL"),
            ("/hooks", hook(json!({"path": "/a", "timeout": 0})), "/hooks/poststop/1/timeout", "not above 0"),
            ("/hooks", hook(json!({"path": "/a", "env": ["A"]})), "/hooks/poststop/1/env/0", "environment variable"),
            ("/hooks", hook(json!({"path": "/a", "args": ["a\0"]})), "/hooks/poststop/1/args/0", "NUL"),
        ],
    );
    for kind in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] {
        let hooks = json!({kind: [{"path": "x"}]});
        breaks(default_spec(false), &ROOT, &[("/hooks", hooks)], &format!("/hooks/{kind}/0/path"), "absolute");
    }
}

#[test]
fn the_process() {
    let limit = |soft: u64| json!({"type": "RLIMIT_CORE", "soft": soft, "hard": 1});
    each_breaks(
        root_config,
        &ROOT,
        vec![
            ("/process/cwd", json!(""), "/process/cwd", "Cwd property must not be empty"),
            ("/process/cwd", json!("home"), "/process/cwd", "Cwd must be an absolute path"),
            ("/process/cwd", json!("/\0"), "/process/cwd", "NUL"),
            ("/process/args", Value::Null, "/process/args", "args must not be empty"),
            ("/process/args", json!([]), "/process/args", "args must not be empty"),
            ("/process/args/-", json!("a\0"), "/process/args/1", "NUL"),
            ("/process/env/-", json!("A"), "/process/env/2", "invalid environment variable: \"A\""),
            ("/process/env/-", json!("=b"), "/process/env/2", "name can't be empty"),
            ("/process/env/-", json!("a\0=b"), "/process/env/2", "name can't contain null"),
            ("/process/env/-", json!("a=\0"), "/process/env/2", "value can't contain null"),
            ("/process/user/uid", json!(u32::MAX), "/process/user/uid", "unchanged"),
            ("/process/user/gid", json!(u32::MAX), "/process/user/gid", "unchanged"),
            ("/process/user/additionalGids", json!([1, u32::MAX]), "/process/user/additionalGids/1", "unchanged"),
            ("/process/user/umask", json!(0o1000), "/process/user/umask", "above 511"),
            (
                "/process/rlimits",
                json!([limit(1), limit(0)]),
                "/process/rlimits/1/type",
                "duplicate rlimit RLIMIT_CORE",
            ),
            ("/process/rlimits", json!([limit(2)]), "/process/rlimits/0/soft", "above the hard limit"),
            ("/process/oomScoreAdj", json!(1001), "/process/oomScoreAdj", "-1000 and 1000"),
            ("/process/oomScoreAdj", json!(-1001), "/process/oomScoreAdj", "-1000 and 1000"),
            ("/process/apparmorProfile", json!("a\0"), "/process/apparmorProfile", "NUL"),
            ("/process/selinuxLabel", json!("a\0"), "/process/selinuxLabel", "NUL"),
            ("/process/consoleSize", json!({"height": 65536, "width": 1}), "/process/consoleSize/height", "65535"),
            (
                "/process/ioPriority",
                json!({"class": "IOPRIO_CLASS_BE", "priority": 8}),
                "/process/ioPriority/priority",
                "8",
            ),
            (
                "/process/ioPriority",
                json!({"class": "IOPRIO_CLASS_IDLE", "priority": 99}),
                "/process/ioPriority/priority",
                "99",
            ),
        ],
    );
}

#[test]
fn the_scheduler() {
    let policy = |policy: &str, more: Value| {
        let mut scheduler = json!({"policy": policy});
        scheduler.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        scheduler
    };
    let deadline = |runtime, deadline, period| {
        policy("SCHED_DEADLINE", json!({"runtime": runtime, "deadline": deadline, "period": period}))
    };
    for (scheduler, pointer) in [
        (policy("SCHED_OTHER", json!({"nice": 20})), "/process/scheduler/nice"),
        (policy("SCHED_OTHER", json!({"nice": -21})), "/process/scheduler/nice"),
        (policy("SCHED_OTHER", json!({"priority": 1})), "/process/scheduler/priority"),
        (policy("SCHED_FIFO", json!({})), "/process/scheduler/priority"),
        (policy("SCHED_RR", json!({"priority": 100})), "/process/scheduler/priority"),
        (policy("SCHED_FIFO", json!({"priority": 1, "deadline": 5})), "/process/scheduler/deadline"),
        (deadline(0, 5, 5), "/process/scheduler/runtime"),
        (deadline(6, 5, 5), "/process/scheduler/runtime"),
        (deadline(5, 6, 5), "/process/scheduler/runtime"),
    ] {
        breaks(default_spec(false), &ROOT, &[("/process/scheduler", scheduler)], pointer, "");
    }
    for scheduler in [deadline(1, 2, 0), deadline(2, 2, 2), policy("SCHED_RR", json!({"priority": 99, "nice": -20}))] {
        check(default_spec(false), &ROOT, &[("/process/scheduler", scheduler)]).unwrap();
    }
}

#[test]
fn what_needs_a_namespace() {
    let ids = json!([{"containerID": 0, "hostID": 1, "size": 1}]);
    let without_namespaces = || {
        let mut config = default_spec(false);
        let linux = config["linux"].as_object_mut().unwrap();
        linux.retain(|key, _| key == "resources");
        config.as_object_mut().unwrap().remove("hostname");
        config
    };
    each_breaks(
        without_namespaces,
        &ROOT,
        vec![
            ("/hostname", json!("h"), "/hostname", "unable to set hostname without a private UTS namespace"),
            ("/domainname", json!("d"), "/domainname", "unable to set domainname without a private UTS namespace"),
            ("/linux/maskedPaths", json!(["/proc/kcore"]), "/linux/maskedPaths", "without a private MNT namespace"),
            ("/linux/readonlyPaths", json!(["/proc/sys"]), "/linux/readonlyPaths", "without a private MNT namespace"),
            ("/linux/uidMappings", ids.clone(), "/linux/uidMappings", "user namespace isn't enabled"),
            ("/linux/gidMappings", ids, "/linux/gidMappings", "user namespace isn't enabled"),
            (
                "/linux/timeOffsets",
                json!({"boottime": {"secs": 1}}),
                "/linux/timeOffsets",
                "time namespace isn't enabled",
            ),
        ],
    );
}

#[test]
fn linux_properties() {
    let device = |device: Value| json!([{"path": "/dev/x", "type": "c", "major": 1, "minor": 2}, device]);
    each_breaks(
        root_config,
        &ROOT,
        vec![
            ("/linux/namespaces/-", json!({"type": "uts"}), "/linux/namespaces/6/type", "duplicated ns \"uts\""),
            ("/linux/namespaces/0/path", json!("ns/pid"), "/linux/namespaces/0/path", "not an absolute path"),
            ("/linux/namespaces/0/path", json!("/a\0"), "/linux/namespaces/0/path", "NUL"),
            ("/linux/maskedPaths/-", json!("proc/x"), "/linux/maskedPaths/10", "not an absolute path"),
            ("/linux/maskedPaths/-", json!("/a\0"), "/linux/maskedPaths/10", "NUL"),
            ("/linux/readonlyPaths/-", json!("x"), "/linux/readonlyPaths/5", "not an absolute path"),
            (
                "/linux/rootfsPropagation",
                json!("x"),
                "/linux/rootfsPropagation",
                "rootfsPropagation=x is not supported",
            ),
            ("/linux/devices", device(json!({"path": "dev/y", "type": "c"})), "/linux/devices/1/path", "absolute"),
            ("/linux/devices", device(json!({"path": "/dev/../y", "type": "c"})), "/linux/devices/1/path", "\"..\""),
            ("/linux/devices", device(json!({"path": "/dev/\0", "type": "c"})), "/linux/devices/1/path", "NUL"),
            (
                "/linux/devices",
                device(json!({"path": "/y", "type": "a"})),
                "/linux/devices/1/type",
                "device type \"a\"",
            ),
            (
                "/linux/devices",
                device(json!({"path": "/y", "type": "b", "major": 4096})),
                "/linux/devices/1/major",
                "4095",
            ),
            ("/linux/devices", device(json!({"path": "/y", "type": "b", "minor": -1})), "/linux/devices/1/minor", "-1"),
            (
                "/linux/devices",
                device(json!({"path": "/y", "type": "p", "major": 1})),
                "/linux/devices/1/major",
                "FIFO",
            ),
            (
                "/linux/personality",
                json!({"domain": "LINUX", "flags": ["X"]}),
                "/linux/personality/flags",
                "not supported",
            ),
            ("/linux/memoryPolicy", json!({"mode": "MPOL_BIND"}), "/linux/memoryPolicy/nodes", "needs nodes"),
            (
                "/linux/memoryPolicy",
                json!({"mode": "MPOL_LOCAL", "nodes": "0"}),
                "/linux/memoryPolicy/nodes",
                "takes no nodes",
            ),
            (
                "/linux/memoryPolicy",
                json!({"mode": "MPOL_BIND", "nodes": "1-0"}),
                "/linux/memoryPolicy/nodes",
                "not a range",
            ),
            (
                "/linux/memoryPolicy",
                json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"]}),
                "/linux/memoryPolicy/flags",
                "exclude each other",
            ),
            (
                "/linux/memoryPolicy",
                json!({"mode": "MPOL_INTERLEAVE", "nodes": "0", "flags": ["MPOL_F_NUMA_BALANCING"]}),
                "/linux/memoryPolicy/flags",
                "not with MPOL_INTERLEAVE",
            ),
        ],
    );
}

#[test]
fn labels_for_a_kernel_without_them() {
    let without = Context { no_selinux: true, no_apparmor: true, ..ROOT };
    each_breaks(
        root_config,
        &without,
        vec![
            (
                "/process/selinuxLabel",
                json!("a:b:c:s0"),
                "/process/selinuxLabel",
                "selinux is disabled or not supported",
            ),
            ("/linux/mountLabel", json!("a:b:c:s0"), "/linux/mountLabel", "selinux is disabled or not supported"),
            ("/process/apparmorProfile", json!("a"), "/process/apparmorProfile", "apparmor not supported"),
        ],
    );
    breaks(default_spec(false), &ROOT, &[("/linux/mountLabel", json!("a\0"))], "/linux/mountLabel", "NUL");
    for place in ["/process/selinuxLabel", "/linux/mountLabel", "/process/apparmorProfile"] {
        check(default_spec(false), &ROOT, &[(place, json!("a"))]).unwrap();
        check(default_spec(false), &without, &[(place, json!(""))]).unwrap();
    }
}

#[test]
fn intel_rdt() {
    let rdt = |members: Value| [("/linux/intelRdt", members)];
    let all = json!({"closID": "a", "l3CacheSchema": "L3:0=f\nMB:0=5", "memBwSchema": "MB:0=5", "schemata": ["L2:0=f"],
        "enableMonitoring": true});
    for good in [json!({}), json!({"closID": ""}), json!({"closID": "/"}), all] {
        check(default_spec(false), &ROOT, &rdt(good)).unwrap();
    }
    for clos in [".", "..", "a/b", "/a", "a\n", "a\0"] {
        let wanted = rdt(json!({ "closID": clos }));
        breaks(default_spec(false), &ROOT, &wanted, "/linux/intelRdt/closID", "invalid intelRdt.ClosID");
    }
    for (member, value, place) in [
        ("memBwSchema", json!("L3:0=f"), "memBwSchema"),
        ("memBwSchema", json!("MB:0=5\nMB:1=5"), "memBwSchema"),
        ("schemata", json!(["L3:0=f", "L3:0=f\nL3:1=f"]), "schemata/1"),
    ] {
        let wanted = rdt(json!({ member: value }));
        breaks(default_spec(false), &ROOT, &wanted, &format!("/linux/intelRdt/{place}"), "");
    }
}

#[test]
fn network_devices() {
    let devices = |devices: Value| [("/linux/netDevices", devices)];
    for good in [json!({}), json!({"eth0": {}, "eth1": {"name": "eth%d"}, "eth2": {"name": "eth%d"}})] {
        check(default_spec(false), &ROOT, &devices(good)).unwrap();
    }
    check(default_spec(false), &ROOT, &devices(json!({"a-name-of-15byt": {"name": ""}}))).unwrap();
    for name in ["", ".", "..", "a/b", "a:1", "a b", "a\tb", "a\0", "0123456789abcdef"] {
        breaks(
            default_spec(false),
            &ROOT,
            &devices(json!({ name: {} })),
            &format!("/linux/netDevices/{}", crate::bundle::escape(name)),
            "invalid network device name",
        );
    }
    for name in ["a/b", "..", "0123456789abcdef", "%", "eth%s", "%d%d"] {
        let wanted = devices(json!({"eth0": {"name": name}}));
        breaks(default_spec(false), &ROOT, &wanted, "/linux/netDevices/eth0/name", "invalid network device name");
    }
    let twice = devices(json!({"eth0": {"name": "eth1"}, "eth1": {}}));
    breaks(default_spec(false), &ROOT, &twice, "/linux/netDevices/eth1/name", "two network devices");
    let alone =
        [("/linux/namespaces", json!([{"type": "mount"}, {"type": "uts"}])), devices(json!({"eth0": {}}))[0].clone()];
    breaks(default_spec(false), &ROOT, &alone, "/linux/netDevices", "without a NET namespace");
    let host = Context { host_network: true, ..ROOT };
    breaks(default_spec(false), &host, &devices(json!({"eth0": {}})), "/linux/netDevices", "without a NET namespace");
    let user = Context { rootless: true, ..ROOT };
    breaks(
        default_spec(true),
        &user,
        &[("/linux/namespaces/-", json!({"type": "network"})), devices(json!({"eth0": {}}))[0].clone()],
        "/linux/netDevices",
        "network devices are not supported for rootless containers",
    );
}

#[test]
fn time_offsets() {
    let time = |path: &str, offsets: Value| {
        [("/linux/namespaces/-", json!({"type": "time", "path": path})), ("/linux/timeOffsets", offsets)]
    };
    let offsets = || json!({"monotonic": {"secs": -5}, "boottime": {"nanosecs": 999_999_999}});
    check(default_spec(false), &ROOT, &time("", offsets())).unwrap();
    breaks(default_spec(false), &ROOT, &time("/ns", offsets()), "/linux/timeOffsets", "existing time namespace");
    for (offsets, pointer) in [
        (json!({"realtime": {"secs": 1}}), "/linux/timeOffsets/realtime"),
        (json!({"boottime": {"nanosecs": 1_000_000_000}}), "/linux/timeOffsets/boottime/nanosecs"),
    ] {
        breaks(default_spec(false), &ROOT, &time("", offsets), pointer, "");
    }
}

#[test]
fn mounts() {
    let at = |destination: &str| json!({"destination": destination, "type": "tmpfs", "source": "tmpfs"});
    let bind = |destination: &str, source: &str| json!({"destination": destination, "type": "bind", "source": source, "options": ["rbind"]});
    let ids = json!([{"containerID": 0, "hostID": 1, "size": 1}]);
    let mapped = |options: Value, gids: Value| {
        let source = "/srv";
        json!({"destination": "/m", "source": source, "options": options, "uidMappings": ids, "gidMappings": gids})
    };
    let rows = vec![
        (at(""), "destination", "must not be empty"),
        (at("/a\0"), "destination", "NUL"),
        (json!({"destination": "/a", "type": "t\0"}), "type", "NUL"),
        (json!({"destination": "/a", "source": "s\0"}), "source", "NUL"),
        (json!({"destination": "/a", "options": ["ro", "=x"]}), "options/1", "no name"),
        (bind("/a", ""), "source", "needs a source"),
        (at("/proc"), "destination", "\"/proc\" cannot be mounted because it is not of type proc"),
        (bind("/proc", "/proc/sys"), "destination", "not of type proc"),
        (at("/proc/self/attr"), "destination", "\"/proc/self/attr\" cannot be mounted because it is inside /proc"),
        (at("/tmp/..//proc/./sys"), "destination", "inside /proc"),
        (at("proc/sys"), "destination", "inside /proc"),
        (bind("/proc/1", "/srv"), "destination", "inside /proc"),
        (mapped(json!(["nosuid"]), ids.clone()), "uidMappings", "only supported for bind-mounts"),
        (mapped(json!(["bind"]), json!([])), "gidMappings", "needs both"),
        (mapped(json!(["bind"]), json!([{"containerID": 0, "hostID": 1, "size": 0}])), "gidMappings/0/size", "size 0"),
        (
            json!({"destination": "/a", "type": "tmpfs", "options": ["idmap"]}),
            "options",
            "only supported for bind-mounts",
        ),
    ];
    for (mount, member, text) in rows {
        breaks(default_spec(false), &ROOT, &[("/mounts/-", mount)], &format!("/mounts/7/{member}"), text);
    }
    let idmap = json!({"destination": "/a", "source": "/srv", "options": ["bind", "idmap"]});
    breaks(default_spec(true), &ROOTLESS, &[("/mounts/-", idmap.clone())], "/mounts/7/options", "rootless");
    let good = [at("relative"), at("/processes"), bind("/proc/uptime", "/srv/uptime"), bind("/proc", "/proc"), idmap];
    for mount in good.into_iter().chain([mapped(json!(["bind"]), ids.clone())]) {
        check(default_spec(false), &ROOT, &[("/mounts/-", mount)]).unwrap();
    }
}

#[test]
fn sysctls() {
    let with = |key: &str, value: &str| [("/linux/sysctl", json!({key: value}))];
    for (key, value, text) in [
        ("kernel.core_pattern", "x", "sysctl \"kernel.core_pattern\" is not in a separate kernel namespace"),
        ("kernel/core_pattern", "x", "not in a separate kernel namespace"),
        ("kernel.hostname", "x", "conflicts with the OCI \"hostname\" field"),
        ("user.max_user_namespaces", "1", "not in a separate kernel namespace"),
        ("vm.swappiness", "1", "not in a separate kernel namespace"),
        ("net", "1", "not in a separate kernel namespace"),
        ("net/../kernel/panic", "1", "not a name below /proc/sys"),
        ("net.//.kernel.panic", "1", "not a name below /proc/sys"),
        ("net..ipv4", "1", "not a name below /proc/sys"),
        ("/net/ipv4/ip_forward", "1", "not a name below /proc/sys"),
        ("", "1", "not a name below /proc/sys"),
        ("net.ipv4.ip_forward\0", "1", "not a name below /proc/sys"),
        ("net.ipv4.ip_forward", "1\n2", "newline"),
        ("net.ipv4.ip_forward", "1\0", "NUL"),
    ] {
        let pointer = format!("/linux/sysctl/{}", escape(key));
        breaks(default_spec(false), &ROOT, &with(key, value), &pointer, text);
    }
    let good = ["net.ipv4.ip_forward", "net/ipv4/conf/eth0.1/forwarding", "net.ipv4.conf.eth0/1.forwarding"];
    for key in good.into_iter().chain(["kernel.shmmax", "kernel/sem", "fs.mqueue.msg_max", "kernel.domainname"]) {
        check(default_spec(false), &ROOT, &with(key, "1\n")).unwrap();
    }
    check(with_user_namespace(), &ROOT, &with("user.max_user_namespaces", "1")).unwrap();
    let host = Context { host_network: true, ..ROOT };
    let pointer = "/linux/sysctl/net.ipv4.ip_forward";
    breaks(
        default_spec(false),
        &host,
        &with("net.ipv4.ip_forward", "1"),
        pointer,
        "not allowed in host network namespace",
    );
    for (key, text) in [("net.core.somaxconn", "host network namespace"), ("kernel.sem", "hosts ipc namespace")] {
        let none =
            [("/linux/namespaces", json!([{"type": "mount"}, {"type": "uts"}])), ("/linux/sysctl", json!({key: "1"}))];
        breaks(default_spec(false), &ROOT, &none, &format!("/linux/sysctl/{key}"), text);
    }
}

#[test]
fn both_ways_to_write_a_sysctl_are_one_path() {
    for key in ["net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"] {
        assert_eq!(sysctl_path(key), "net/ipv4/conf/eth0.1/forwarding");
    }
    assert_eq!(sysctl_path("kernel.sem"), "kernel/sem");
}

#[test]
fn id_mappings() {
    let map = |container: u32, host: u32, size: u32| json!({"containerID": container, "hostID": host, "size": size});
    let first = map(0, 1000, 10);
    each_breaks(
        with_user_namespace,
        &ROOT,
        vec![
            ("/linux/uidMappings", json!([]), "/linux/uidMappings", "no uid mappings found"),
            ("/linux/gidMappings", json!([]), "/linux/gidMappings", "no gid mappings found"),
            ("/linux/uidMappings", json!([map(0, 1, 0)]), "/linux/uidMappings/0/size", "size 0"),
            (
                "/linux/uidMappings",
                json!([first, map(9, 5, 1)]),
                "/linux/uidMappings/1/containerID",
                "overlaps one from 0",
            ),
            (
                "/linux/uidMappings",
                json!([first, map(10, 1009, 1)]),
                "/linux/uidMappings/1/hostID",
                "overlaps one from 1000",
            ),
            ("/linux/gidMappings", json!([map(u32::MAX, 0, 1)]), "/linux/gidMappings/0/containerID", "ends above"),
            ("/linux/gidMappings", json!([map(0, 1, u32::MAX)]), "/linux/gidMappings/0/hostID", "ends above"),
            (
                "/process/user/uid",
                json!(1000),
                "/process/user/uid",
                "cannot set uid to unmapped user in user namespace",
            ),
            (
                "/process/user/gid",
                json!(1000),
                "/process/user/gid",
                "cannot set gid to unmapped user in user namespace",
            ),
            ("/process/user/additionalGids", json!([5, 1000]), "/process/user/additionalGids/1", "unmapped group 1000"),
        ],
    );
    let many: Vec<_> = (0..341).map(|number| map(number, number, 1)).collect();
    breaks(with_user_namespace(), &ROOT, &[("/linux/uidMappings", json!(many))], "/linux/uidMappings/340", "takes 340");
    let last = [("/linux/uidMappings", json!([map(0, 0, u32::MAX)])), ("/process/user/uid", json!(u32::MAX - 1))];
    check(with_user_namespace(), &ROOT, &last).unwrap();
    check(with_user_namespace(), &ROOT, &[("/linux/uidMappings", json!([first, map(10, 1010, 1)]))]).unwrap();
}

#[test]
fn a_user_namespace_that_is_joined_has_its_own_mappings() {
    let joined = ("/linux/namespaces/6/path", json!("/proc/1/ns/user"));
    let unmapped = ("/process/user/uid", json!(5000));
    check(with_user_namespace(), &ROOT, &[joined.clone(), unmapped, ("/linux/uidMappings", json!([]))]).unwrap();
    check(with_user_namespace(), &ROOTLESS, &[joined, ("/linux/gidMappings", Value::Null)]).unwrap();
}

#[test]
fn rootless() {
    each_breaks(
        rootless_config,
        &ROOTLESS,
        vec![
            ("/linux", json!({}), "/linux/namespaces", "rootless container requires user namespaces"),
            ("/linux/namespaces", json!([]), "/linux/namespaces", "rootless container requires user namespaces"),
            ("/linux/uidMappings", json!([]), "/linux/uidMappings", "at least one UID mapping"),
            ("/linux/gidMappings", json!([]), "/linux/gidMappings", "at least one GID mapping"),
            ("/mounts/1/options/-", json!("uid=5"), "/mounts/1/options/4", "unmapped uid in rootless containers"),
            (
                "/mounts/1/options/-",
                json!("mode=1,gid=5"),
                "/mounts/1/options/4",
                "unmapped gid in rootless containers",
            ),
            (
                "/process/user/additionalGids",
                json!([0]),
                "/process/user/additionalGids/0",
                "cannot set any additional groups",
            ),
        ],
    );
    let several = json!([{"containerID": 0, "hostID": 0, "size": 1}, {"containerID": 1, "hostID": 100000, "size": 10}]);
    let changes = [
        ("/linux/gidMappings", several),
        ("/process/user/additionalGids", json!([5])),
        ("/mounts/1/options/-", json!("gid=5")),
    ];
    check(default_spec(true), &ROOTLESS, &changes).unwrap();
}

#[test]
fn ids_of_containers() {
    for id in ["a", "A.b_c+d-9", "...", "node1.root.42.0.-1", &"x".repeat(1024)] {
        container_id(id).unwrap();
    }
    assert_eq!(container_id("").unwrap_err().message, "container id cannot be empty");
    for id in [".", "..", "a/b", "../a", "a b", "a\0", "ä", "a\n"] {
        assert_eq!(container_id(id).unwrap_err().message, format!("invalid container ID format: {id:?}"));
    }
    assert!(container_id(&"x".repeat(1025)).is_err());
}

#[test]
fn versions() {
    for good in ["1.0.0", "1.0.2-dev", "1.3.0-rc.1", "1.1.0+dev", "1.1.0-rc.2+build.5", "1.99.0"] {
        check(default_spec(false), &ROOT, &[("/ociVersion", json!(good))]).unwrap();
    }
}

/// The pointers of all findings.
fn pointers(mut config: Value, context: &Context, changes: &[(&str, Value)]) -> Vec<String> {
    changes.iter().for_each(|(pointer, value)| set(&mut config, pointer, value.clone()));
    let bundle = Bundle::parse("/".into(), config.to_string().into_bytes()).unwrap();
    let all = findings(&bundle.spec, context);
    assert_eq!(
        validate(&bundle.spec, context).err().and_then(|error| error.pointer),
        all.first().cloned().and_then(|error| error.pointer)
    );
    all.into_iter().map(|error| error.pointer.unwrap()).collect()
}

#[test]
fn everything_that_is_wrong_is_found() {
    let mount = json!({"destination": "", "type": "t\0", "options": ["=a", "ro", "=b"]});
    let changes = [
        ("/ociVersion", json!("2.0.0")),
        ("/root/path", json!("")),
        ("/process/args", json!([])),
        ("/process/env", json!(["A", "B=1", "=c"])),
        ("/process/user", json!({"uid": u32::MAX, "gid": u32::MAX, "umask": 1000})),
        ("/process/oomScoreAdj", json!(2000)),
        ("/mounts/-", mount),
        ("/hooks", json!({"poststop": [{"path": "a", "env": ["x"], "timeout": 0}]})),
        ("/linux/sysctl", json!({"vm.b": "1", "vm.a": "1"})),
        ("/linux/devices", json!([{"path": "a", "type": "c"}, {"path": "b", "type": "c"}])),
        ("/annotations", json!({"": "x"})),
    ];
    let found = [
        "/ociVersion",
        "/root/path",
        "/linux/sysctl/vm.a",
        "/linux/sysctl/vm.b",
        "/linux/devices/0/path",
        "/linux/devices/1/path",
        "/process/args",
        "/process/env/0",
        "/process/env/2",
        "/process/user/uid",
        "/process/user/gid",
        "/process/user/umask",
        "/process/oomScoreAdj",
        "/mounts/7/destination",
        "/mounts/7/type",
        "/mounts/7/options/0",
        "/mounts/7/options/2",
        "/hooks/poststop/0/path",
        "/hooks/poststop/0/env/0",
        "/hooks/poststop/0/timeout",
        "/annotations/",
    ];
    assert_eq!(pointers(default_spec(false), &ROOT, &changes), found);
    assert_eq!(pointers(default_spec(false), &ROOT, &[("/process", Value::Null)]), ["/process"]);
    assert_eq!(pointers(default_spec(false), &ROOT, &[]), [""; 0]);
}

#[test]
fn one_mistake_is_one_finding() {
    let none = ("/linux/namespaces", json!([{"type": "pid"}]));
    let bundle = |changes: &[(&str, Value)]| pointers(default_spec(false), &ROOT, changes);
    let domain = ("/domainname", json!("d"));
    assert_eq!(bundle(&[none.clone(), domain.clone()]), ["/linux/maskedPaths", "/hostname"]);
    let mut config = default_spec(false);
    [none, domain].iter().for_each(|(pointer, value)| set(&mut config, pointer, value.clone()));
    let bundle = Bundle::parse("/".into(), config.to_string().into_bytes()).unwrap();
    let hints: Vec<_> = findings(&bundle.spec, &ROOT).into_iter().filter_map(|error| error.hint).collect();
    assert!(hints[0].ends_with("; it is needed at /linux/readonlyPaths"), "{hints:?}");
    assert!(hints[1].ends_with("; it is needed at /domainname"), "{hints:?}");

    let of_user = |changes: &[(&str, Value)]| pointers(with_user_namespace(), &ROOT, changes);
    let groups = ("/process/user/additionalGids", json!([5]));
    assert_eq!(of_user(&[("/linux/uidMappings", json!([]))]), ["/linux/uidMappings"]);
    assert_eq!(of_user(&[("/linux/gidMappings/0/size", json!(0)), groups]), ["/linux/gidMappings/0/size"]);
    assert_eq!(
        pointers(default_spec(true), &ROOTLESS, &[("/linux/namespaces/5/type", json!("network"))]),
        ["/linux/namespaces"]
    );
    let past_the_end =
        json!([{"containerID": 0, "hostID": 5, "size": u32::MAX}, {"containerID": 0, "hostID": 1, "size": 1}]);
    assert_eq!(of_user(&[("/linux/uidMappings", past_the_end)])[0], "/linux/uidMappings/0/hostID");
}
