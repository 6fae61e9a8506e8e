//! `/dev`: the default nodes and links, the ones that are asked for, and where none are made.

use std::fs;

use serde_json::{Value, json};

mod common;
#[path = "common/mountinfo.rs"]
mod mountinfo;
use common::Bundle;
use mountinfo::at;

const NODES: &[(&str, &str)] =
    &[("null", "1:3"), ("zero", "1:5"), ("full", "1:7"), ("random", "1:8"), ("urandom", "1:9"), ("tty", "5:0")];

const STAT: &str = "cd /dev; stat -c '%n %t:%T %a %u:%g' null zero full random urandom tty";

fn expected(owner: &str) -> Vec<String> {
    NODES.iter().map(|(name, number)| format!("{name} {number} 666 {owner}")).collect()
}

#[test]
fn the_default_nodes_are_there_with_their_modes() {
    let shown = Bundle::script(STAT).run().well();
    assert_eq!(shown.lines().collect::<Vec<_>>(), expected("0:0"));
}

#[test]
fn the_default_nodes_work() {
    let script = "echo gone > /dev/null && head -c 3 /dev/zero | wc -c; head -c 5 /dev/urandom | wc -c; \
                  (echo x > /dev/full) 2>/dev/null; echo $?";
    assert_eq!(Bundle::script(script).run().well(), "3\n5\n1");
}

#[test]
fn the_links_lead_to_the_process() {
    let shown = Bundle::script("cd /dev; for l in fd stdin stdout stderr ptmx; do readlink $l; done; ls").run().well();
    let links = ["/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2", "pts/ptmx"];
    let all = "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero";
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines[..5], links);
    assert_eq!(lines[5..].join(" "), all, "nothing else is there");
}

#[test]
fn devices_have_the_type_number_owner_and_mode_that_are_asked_for() {
    let bundle = Bundle::script(
        "stat -c '%n %F %t:%T %a %u:%g' /dev/mychar /dev/sub/myblock /dev/myfifo /other/mynull /dev/plain; \
         stat -c '%t:%T %a' /dev/zero",
    )
    .edit(|config| {
        config["linux"]["devices"] = json!([
            { "path": "/dev/mychar", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 5, "gid": 6 },
            { "path": "/dev/sub/myblock", "type": "b", "major": 7, "minor": 300, "fileMode": 0o600, "uid": 1 },
            { "path": "/dev/myfifo", "type": "p", "fileMode": 0o622, "gid": 9 },
            { "path": "/other/mynull", "type": "u", "major": 1, "minor": 3, "fileMode": 0o1777 },
            { "path": "/dev/plain", "type": "c", "major": 1, "minor": 3 },
            { "path": "/dev/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o444 },
        ]);
    });
    let shown = bundle.run().well();
    let expected = [
        "/dev/mychar character special file a:e5 640 5:6",
        "/dev/sub/myblock block special file 7:12c 600 1:0",
        "/dev/myfifo fifo 0:0 622 0:9",
        "/other/mynull character special file 1:3 1777 0:0",
        "/dev/plain character special file 1:3 666 0:0",
        "1:5 444",
    ];
    assert_eq!(shown.lines().collect::<Vec<_>>(), expected);
}

/// A link of the image in a device's path must not lead out.
#[test]
fn a_device_behind_a_link_stays_inside() {
    let bundle = Bundle::new().edit(|config| {
        config["linux"]["devices"] = json!([{ "path": "/escape/mine", "type": "c", "major": 1, "minor": 3 }]);
    });
    let decoy = bundle.dir.join("decoy");
    fs::create_dir(&decoy).expect("a decoy");
    std::os::unix::fs::symlink(&decoy, bundle.rootfs("/escape")).expect("a link");
    bundle.run();
    assert_eq!(fs::read_dir(&decoy).expect("the decoy").count(), 0);
}

#[test]
fn in_a_user_namespace_the_hosts_nodes_are_bound() {
    let bundle = Bundle::script(&format!("{STAT}; echo gone > null && echo works; cat /proc/self/mountinfo"));
    let bundle = bundle.with_user();
    let shown = bundle.run().well();
    for ((name, number), line) in NODES.iter().zip(shown.lines()) {
        assert!(line.starts_with(&format!("{name} {number} 666 ")), "{line}");
        let mount = at(&shown, &format!("/dev/{name}"));
        assert_eq!(mount.root.rsplit('/').next(), Some(*name), "{mount:?}");
    }
    assert!(shown.contains("\nworks\n"), "{shown}");
}

#[test]
fn a_dev_that_is_bound_is_left_as_it_is() {
    let bundle = Bundle::script("ls -A /dev");
    let dev = bundle.dir.join("dev");
    fs::create_dir(&dev).expect("a directory");
    fs::write(dev.join("marker"), "").expect("a file");
    let bundle = bundle.edit(|config| {
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        mounts.retain(|mount: &Value| !mount["destination"].as_str().is_some_and(|path| path.starts_with("/dev")));
        mounts.push(json!({ "destination": "/dev", "type": "bind", "source": dev, "options": ["rbind"] }));
        config["linux"]["maskedPaths"] = json!([]);
    });
    assert_eq!(bundle.run().well(), "marker");
}

/// The nodes are made before `ro` comes into force.
#[test]
fn a_readonly_dev_has_its_nodes() {
    for ro in ["ro", "rro"] {
        let bundle = Bundle::script("touch /dev/new 2>/dev/null; echo $?; test -c /dev/null; echo $?").edit(|config| {
            let dev = config["mounts"]
                .as_array_mut()
                .expect("mounts")
                .iter_mut()
                .find(|mount| mount["destination"] == "/dev");
            dev.expect("/dev")["options"].as_array_mut().expect("options").push(json!(ro));
        });
        assert_eq!(bundle.run().well(), "1\n0", "{ro}");
    }
}
