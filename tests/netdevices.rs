//! Network devices that a container gets: veth pairs in a network namespace of the test's own, one end of which moves in, as the
//! kernel shows them on both sides.

use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use serde_json::json;

mod common;
use common::{Bundle, wait};

/// A network namespace of this test's thread, in which it and what it starts live; it ends with the thread. In it the pair
/// `out` (10.9.0.1, fd09::1) and `in0`.
fn pair() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: root is needed");
    ip("link add out type veth peer name in0");
    ip("addr add 10.9.0.1/24 dev out");
    ip("addr add fd09::1/64 dev out nodad");
    ip("link set out up");
}

/// `ip ARGUMENTS` in the namespace of the test: its output.
#[track_caller]
fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("iproute2");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Has the namespace of the test a device of this name?
fn here(name: &str) -> bool {
    Command::new("ip").args(["link", "show", name]).output().expect("iproute2").status.success()
}

/// The bundle with these devices, and with the right to ping(8).
fn devices(bundle: Bundle, devices: serde_json::Value) -> Bundle {
    bundle.edit(|config| {
        config["linux"]["netDevices"] = devices;
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set].as_array_mut().expect("capabilities").push(json!("CAP_NET_RAW"));
        }
    })
}

#[test]
fn a_device_moves_with_its_addresses_and_carries_traffic() {
    pair();
    ip("addr add 10.9.0.2/24 brd 10.9.0.255 dev in0 label in0:x");
    ip("addr add 10.9.0.3/24 dev in0");
    ip("addr add 169.254.9.9/16 scope link dev in0");
    ip("addr add 10.8.0.1/24 valid_lft 1000 preferred_lft 1000 dev in0");
    ip("addr add fd09::2/64 dev in0 nodad");
    ip("link set in0 mtu 1400 address 02:00:00:00:00:09");
    let script = "ip addr show net1; ping -c 1 -W 5 10.9.0.1 && ping -6 -c 1 -W 5 fd09::1";
    let run = devices(Bundle::script(script), json!({"in0": {"name": "net1"}})).run();
    let said = run.well();
    for words in [
        "net1@",
        ",UP,",
        "mtu 1400",
        "link/ether 02:00:00:00:00:09",
        "inet 10.9.0.2/24 brd 10.9.0.255 scope global net1:x",
        "inet 10.9.0.3/24 scope global secondary net1",
        "inet6 fd09::2/64 scope global",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!said.contains("169.254.9.9") && !said.contains("10.8.0.1"), "neither global nor permanent: {said}");
    assert_eq!(said.matches(" 0% packet loss").count(), 2, "{said}");
    // It dies with the container's namespace, and its peer with it.
    wait(|| !here("out"));
}

#[test]
fn without_a_name_it_keeps_its_own_and_sysctls_find_it() {
    pair();
    let bundle = devices(
        Bundle::script("cat /sys/class/net/in0/flags /proc/sys/net/ipv4/conf/in0/log_martians; ls /sys/class/net"),
        json!({"in0": {}}),
    )
    .edit(|config| config["linux"]["sysctl"] = json!({"net.ipv4.conf.in0.log_martians": "1"}));
    let said = bundle.run().well();
    let words: Vec<_> = said.split_whitespace().collect();
    let flags = u32::from_str_radix(words[0].trim_start_matches("0x"), 16).expect("flags");
    assert_eq!(flags & libc::IFF_UP as u32, 1, "{said}");
    assert_eq!(words[1..], ["1", "in0", "lo"]);
}

#[test]
fn hooks_of_the_runtime_find_it_in_the_container() {
    pair();
    let mut bundle = devices(Bundle::new(), json!({"in0": {"name": "net1"}}));
    let program = bundle.dir.join("hook");
    std::fs::write(
        &program,
        "#!/bin/sh\npid=$(grep -o '\"pid\":[0-9]*' | cut -d: -f2)\ngrep -q net1: /proc/$pid/net/dev\n",
    )
    .expect("a hook");
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    for hook in ["prestart", "createRuntime"] {
        bundle = bundle.edit(|config| config["hooks"] = json!({ hook: [{ "path": program }] }));
        bundle.run().well();
        wait(|| !here("out"));
        ip("link add out type veth peer name in0");
    }
}

#[test]
fn several_in_a_joined_namespace_get_free_names_of_a_template() {
    pair();
    ip("link add more type veth peer name in1");
    let name = format!("orlop-test-{}", std::process::id());
    let mut holder = Command::new("unshare").args(["-n", "sleep", "1000"]).spawn().expect("unshare");
    wait(|| common::value(format!("/proc/{}/comm", holder.id())).is_ok_and(|name| name == "sleep"));
    let inside = |command: &str| {
        let output = Command::new("nsenter")
            .args(["-n", "-t", &holder.id().to_string()])
            .args(command.split(' '))
            .output()
            .expect("nsenter");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    inside(&format!("ip link add eth1 type veth peer name {}", &name[..10]));
    let bundle = devices(Bundle::new(), json!({"in0": {"name": "eth%d"}, "in1": {"name": "eth%d"}})).edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({ "type": "network", "path": format!("/proc/{}/ns/net", holder.id()) }));
    });
    bundle.run().well();
    let links = inside("ip -o link");
    // The name that is taken is an error, and the device is still here.
    ip("link add third type veth peer name in2");
    let taken = devices(bundle, json!({"in2": {"name": "eth1"}}));
    let said = taken.run().fails("/linux/netDevices/in2");
    holder.kill().and_then(|()| holder.wait()).expect("the holder's end");
    for name in ["eth0@", "eth1@", "eth2@"] {
        assert!(links.contains(name), "{name}: {links}");
    }
    assert!(said.contains("has a device of that name"), "{said}");
    assert!(here("in2"));
}

/// A user namespace owns the container's network namespace, so it is the runtime's rights that count.
#[test]
fn a_container_with_a_user_namespace_gets_it_as_well() {
    pair();
    ip("addr add 10.9.0.2/24 dev in0");
    let bundle =
        devices(Bundle::script("ip addr show net1; ping -c 1 -W 5 10.9.0.1"), json!({"in0": {"name": "net1"}}));
    let bundle = bundle.with_user().edit(|config| {
        config["mounts"].as_array_mut().expect("mounts").retain(|mount| mount["destination"] != "/sys/fs/cgroup");
    });
    let said = bundle.run().well();
    assert!(said.contains("inet 10.9.0.2/24") && said.contains(" 0% packet loss"), "{said}");
}

#[test]
fn what_fails_later_gives_the_devices_back() {
    pair();
    ip("link add more type veth peer name in1");
    ip("addr add 10.9.0.2/24 dev in0 label in0:x");
    ip("addr add fd09::2/64 dev in0 nodad");
    ip("link set in0 up");
    let wanted = json!({"in0": {"name": "net1"}, "in1": {}});
    type Change = fn(Bundle) -> Bundle;
    let failures: [(&str, Change); 3] = [
        ("createRuntime hook #0", |bundle| {
            bundle.edit(|config| config["hooks"] = json!({"createRuntime": [{"path": "/bin/false"}]}))
        }),
        ("no-such-program", |bundle| bundle.args(&["no-such-program"])),
        ("poststart hook #0", |bundle| {
            bundle
                .args(&["sleep", "100"])
                .edit(|config| config["hooks"] = json!({"poststart": [{"path": "/bin/false"}]}))
        }),
    ];
    for (words, broken) in failures {
        broken(devices(Bundle::new(), wanted.clone())).run().fails(words);
        given_back(words);
    }
    // The second one can't be had: the first goes back.
    ip("link del in1");
    let said = devices(Bundle::new(), wanted).run().fails("/linux/netDevices/in1");
    assert!(said.contains("no such device") && said.contains("hint"), "{said}");
    given_back("in1");
}

/// Its name in the container is the container's to change.
#[test]
fn a_device_that_the_container_has_renamed_is_given_back() {
    pair();
    ip("addr add 10.9.0.2/24 dev in0 label in0:x");
    ip("addr add fd09::2/64 dev in0 nodad");
    ip("link set in0 up");
    let script = "ip link set net1 down && ip link set net1 name other && sleep 100";
    let hook = "pid=$(jq .pid); for i in $(seq 200); do
        nsenter -t $pid -n ip link show other && exit 7; sleep 0.05; done; exit 8";
    let bundle = devices(Bundle::script(script), json!({"in0": {"name": "net1"}})).edit(|config| {
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set].as_array_mut().expect("capabilities").push(json!("CAP_NET_ADMIN"));
        }
        let path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
        config["hooks"] = json!({"poststart": [{"path": "/bin/sh", "args": ["sh", "-c", hook], "env": [path]}]});
    });
    bundle.run().fails("exit status 7");
    given_back("a rename");
}

#[track_caller]
fn given_back(after: &str) {
    let shown = ip("addr show in0");
    for words in ["inet 10.9.0.2/24 scope global in0:x", "inet6 fd09::2/64 scope global", ",UP,"] {
        assert!(shown.contains(words), "{words} after {after}: {shown}");
    }
}

#[test]
fn what_can_not_be_moved_is_said_in_place() {
    pair();
    let said = devices(Bundle::new(), json!({"lo": {"name": "net1"}})).run().fails("/linux/netDevices/lo");
    assert!(said.contains("bound to its namespace"), "{said}");
    let own = devices(Bundle::new(), json!({"in0": {}})).edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({ "type": "network", "path": "/proc/self/ns/net" }));
    });
    own.run().fails("/linux/netDevices");
    assert!(here("in0"));
}
