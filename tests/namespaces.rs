//! Namespaces, new and joined by path, and what is set in them: as the kernel shows it inside and outside.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

mod common;
use common::{Bundle, outcome, value, wait};

const ALL: &[(&str, &str)] = &[
    ("pid", "pid"),
    ("network", "net"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("mount", "mnt"),
    ("cgroup", "cgroup"),
    ("user", "user"),
    ("time", "time"),
];

/// Prints the namespaces of the container's first process, one `name value` each.
const SHOW: &str = "for n in pid net ipc uts mnt cgroup user time; do echo $n $(readlink /proc/self/ns/$n); done";

fn namespace(of: impl std::fmt::Display, file: &str) -> String {
    fs::read_link(format!("/proc/{of}/ns/{file}")).expect("a namespace").to_string_lossy().into_owned()
}

fn of(shown: &str, file: &str) -> String {
    let line = shown.lines().find_map(|line| line.strip_prefix(file)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {file}: {shown}")).to_owned()
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

#[test]
fn all_eight_are_new() {
    let bundle = Bundle::script(SHOW).with_user().edit(|config| {
        config["linux"]["namespaces"] = ALL.iter().map(|(kind, _)| json!({ "type": kind })).collect();
    });
    let shown = bundle.run().well();
    for (_, file) in ALL {
        assert_ne!(of(&shown, file), namespace("self", file), "{file} is the host's");
    }
}

#[test]
fn what_is_not_listed_is_shared() {
    let bundle = Bundle::script(SHOW).edit(|config| {
        config["linux"]["namespaces"] = json!([{ "type": "mount" }, { "type": "pid" }]);
        config["hostname"] = Value::Null;
        config["mounts"] = json!([{ "destination": "/proc", "type": "proc" }]);
    });
    let shown = bundle.run().well();
    for (_, file) in ALL {
        let new = *file == "mnt" || *file == "pid";
        assert_eq!(of(&shown, file) != namespace("self", file), new, "{file}");
    }
}

/// A process in namespaces of its own, made by unshare(1); it dies with us.
struct Holder(Child);

impl Holder {
    fn new(flags: &[&str]) -> Self {
        let mut command = Command::new("unshare");
        let child = command.args(flags).args(["sleep", "1000"]).stdin(Stdio::null()).spawn().expect("unshare");
        let holder = Self(child);
        wait(|| value(format!("/proc/{}/comm", holder.0.id())).is_ok_and(|name| name == "sleep"));
        holder
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn each_is_joined_by_its_path() {
    let holder = Holder::new(&["-n", "-i", "-u", "-C", "-m"]);
    let pid = holder.0.id();
    for (kind, file) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("cgroup", "cgroup"), ("mount", "mnt")] {
        let bundle = Bundle::script(SHOW).edit(|config| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
            namespaces.retain(|namespace| namespace["type"] != kind);
            namespaces.push(json!({ "type": kind, "path": format!("/proc/{pid}/ns/{file}") }));
        });
        let shown = bundle.run().well();
        for (_, other) in ALL.iter().filter(|(_, other)| *other != "user" && *other != "time") {
            let expected = *other == file;
            assert_eq!(of(&shown, other) == namespace(pid, other), expected, "{other}, joined: {kind}");
        }
    }
}

#[test]
fn pid_and_time_are_joined_through_a_stage() {
    let first = Bundle::sleeper().edit(|config| {
        config["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({ "type": "time" }));
        config["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 7 * 86_400 } });
    });
    first.up();
    let pid = first.pid();
    let second =
        Bundle::script(&format!("{SHOW}; echo me $$; echo one $(cat /proc/1/comm); cat /proc/uptime")).edit(|config| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
            namespaces.retain(|namespace| namespace["type"] != "pid");
            namespaces.push(json!({ "type": "pid", "path": format!("/proc/{pid}/ns/pid") }));
            namespaces.push(json!({ "type": "time", "path": format!("/proc/{pid}/ns/time") }));
        });
    let shown = second.run().well();
    assert_eq!(of(&shown, "pid"), namespace(pid, "pid"));
    assert_eq!(of(&shown, "time"), namespace(pid, "time"));
    assert_ne!(of(&shown, "me"), "1");
    assert_eq!(of(&shown, "one"), "sleep", "its /proc is that of the joined namespace");
    let uptime: f64 = words(shown.lines().last().expect("uptime"))[0].parse().expect("seconds");
    assert!(uptime > 7.0 * 86_400.0, "{uptime}");
}

#[test]
fn a_user_namespace_is_joined() {
    let first = Bundle::sleeper().with_user();
    first.up();
    let pid = first.pid();
    let second = Bundle::script(&format!("{SHOW}; id -u; cat /proc/self/uid_map")).with_user().edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
        namespaces.retain(|namespace| namespace["type"] != "user" && namespace["type"] != "network");
        for (kind, file) in [("user", "user"), ("network", "net")] {
            namespaces.push(json!({ "type": kind, "path": format!("/proc/{pid}/ns/{file}") }));
        }
        let linux = config["linux"].as_object_mut().expect("linux");
        linux.remove("uidMappings");
        linux.remove("gidMappings");
    });
    let shown = second.run().well();
    assert_eq!(of(&shown, "user"), namespace(pid, "user"));
    assert_eq!(of(&shown, "net"), namespace(pid, "net"));
    assert_ne!(of(&shown, "mnt"), namespace(pid, "mnt"));
    assert_eq!(words(shown.lines().last().expect("a map")), ["0", "100000", "65536"]);
    assert!(shown.lines().any(|line| line == "0"), "root inside: {shown}");
}

#[test]
fn a_path_of_another_type_is_refused() {
    for (kind, path) in [("ipc", "/proc/self/ns/net"), ("uts", "/etc/passwd"), ("network", "/nowhere")] {
        let bundle = Bundle::new().edit(|config| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
            namespaces.retain(|namespace| namespace["type"] != kind);
            namespaces.push(json!({ "type": kind, "path": path }));
        });
        bundle.run().fails("/linux/namespaces/");
    }
}

#[test]
fn id_maps_are_as_written() {
    let bundle = Bundle::sleeper().with_user().edit(|config| {
        config["linux"]["uidMappings"] = json!([
            { "containerID": 0, "hostID": 100_000, "size": 1000 },
            { "containerID": 5000, "hostID": 300_000, "size": 7 },
        ]);
        config["process"]["user"] = json!({ "uid": 5003, "gid": 12, "additionalGids": [13] });
    });
    bundle.up();
    let pid = bundle.pid();
    let file = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).expect("a map");
    assert_eq!(words(&file("uid_map")), ["0", "100000", "1000", "5000", "300000", "7"]);
    assert_eq!(words(&file("gid_map")), ["0", "100000", "65536"]);
    assert_eq!(file("setgroups").trim(), "allow");
    assert_eq!(words(&common::proc_status(pid, "Uid")), ["300003"; 4]);
    assert_eq!(words(&common::proc_status(pid, "Gid")), ["100012"; 4]);
    assert_eq!(words(&common::proc_status(pid, "Groups")), ["100013"]);
}

/// As with runc: to nobody they would not be the container's to change.
#[test]
fn message_queues_belong_to_root_of_a_user_namespace() {
    let bundle = Bundle::script("stat -c %u /dev/mqueue").with_user();
    assert_eq!(bundle.run().well(), "0");
}

#[test]
fn sysctls_are_the_containers_own() {
    let files = ["net/ipv4/ip_unprivileged_port_start", "kernel/shmmni"];
    let host = files.map(|file| value(Path::new("/proc/sys").join(file)).expect("a sysctl"));
    let bundle = Bundle::script("cd /proc/sys; cat net/ipv4/ip_unprivileged_port_start kernel/shmmni").edit(|config| {
        config["linux"]["sysctl"] = json!({ "net.ipv4.ip_unprivileged_port_start": "77", "kernel.shmmni": "4321" });
    });
    assert_eq!(bundle.run().well(), "77\n4321");
    assert_eq!(files.map(|file| value(Path::new("/proc/sys").join(file)).expect("a sysctl")), host);
}

#[test]
fn a_sysctl_that_is_not_there_is_named() {
    let bundle = Bundle::new().edit(|config| config["linux"]["sysctl"] = json!({ "net.ipv4.not_there": "1" }));
    let said = bundle.run().fails("net.ipv4.not_there");
    assert!(said.contains("no such file or directory"), "{said}");
}

#[test]
fn host_and_domain_name_are_the_containers_own() {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("hostname");
    let bundle = Bundle::script("hostname; cat /proc/sys/kernel/domainname").edit(|config| {
        config["hostname"] = json!("a-host");
        config["domainname"] = json!("a.domain");
    });
    assert_eq!(bundle.run().well(), "a-host\na.domain");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/hostname").expect("hostname"), host);
}

#[test]
fn loopback_is_up_in_a_new_network_namespace_alone() {
    const IFF_UP: u32 = 1;
    let flags = |bundle: &Bundle| {
        let shown = bundle.run().well();
        u32::from_str_radix(shown.trim_start_matches("0x"), 16).expect("a number")
    };
    let bundle = Bundle::script("cat /sys/class/net/lo/flags");
    assert_eq!(flags(&bundle) & IFF_UP, IFF_UP);

    let holder = Holder::new(&["-n"]);
    let bundle = bundle.edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({ "type": "network", "path": format!("/proc/{}/ns/net", holder.0.id()) }));
    });
    assert_eq!(flags(&bundle) & IFF_UP, 0, "a joined one is its owner's business");
}

#[test]
fn time_offsets_are_seen_inside() {
    let bundle = Bundle::script("cat /proc/self/timens_offsets; cut -d' ' -f1 /proc/uptime").edit(|config| {
        config["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({ "type": "time" }));
        let offsets =
            json!({ "monotonic": { "secs": 1000, "nanosecs": 5 }, "boottime": { "secs": 172_800, "nanosecs": 7 } });
        config["linux"]["timeOffsets"] = offsets;
    });
    let shown = bundle.run().well();
    assert_eq!(words(&shown)[..6], ["monotonic", "1000", "5", "boottime", "172800", "7"]);
    let inside: f64 = shown.lines().last().expect("uptime").parse().expect("seconds");
    let outside: f64 = words(&fs::read_to_string("/proc/uptime").expect("uptime"))[0].parse().expect("seconds");
    assert!((172_700.0..172_900.0).contains(&(inside - outside)), "{inside} {outside}");
}

/// By clone3(2), and by unshare(2) of what root of the new user namespace makes.
#[test]
fn a_limit_of_namespaces_that_is_reached_is_named() {
    for kind in ["uts", "ipc"] {
        let bundle = Bundle::new().edit(|config| {
            config["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({ "type": "user" }));
            for ids in ["uidMappings", "gidMappings"] {
                config["linux"][ids] = json!([{ "containerID": 0, "hostID": 0, "size": 1 }]);
            }
        });
        // The limit is of a user namespace, which is one of the test's own here.
        let script = format!("echo 0 >/proc/sys/user/max_{kind}_namespaces && exec \"$@\"");
        let run = bundle.making("run", &[]);
        let mut command = Command::new("unshare");
        command
            .args(["--user", "--map-root-user", "sh", "-ec", &script, "sh"])
            .arg(run.get_program())
            .args(run.get_args());
        let said = outcome(command).fails("a limit of user.max_*_namespaces is reached");
        assert!(said.contains("no space left on device"), "{said}");
    }
}
