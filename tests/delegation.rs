//! Who owns a container's cgroup (config-linux.md, Cgroup ownership): seen by stat outside, and by what its root may do inside.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::{Value, json};

mod common;
use common::Bundle;

/// The bundle with a user namespace, root of which is 100000 outside, and a cgroup2 that can be written to.
fn delegating(bundle: Bundle) -> Bundle {
    bundle.with_user().edit(|config| {
        cgroup_options(config, json!(["nosuid", "noexec", "nodev"]));
    })
}

fn cgroup_options(config: &mut Value, options: Value) {
    let mounts = config["mounts"].as_array_mut().expect("mounts");
    let mount = mounts.iter_mut().find(|mount| mount["destination"] == "/sys/fs/cgroup").expect("a cgroup mount");
    mount["options"] = options;
}

fn without(config: &mut Value, kind: &str) {
    config["linux"]["namespaces"].as_array_mut().expect("namespaces").retain(|namespace| namespace["type"] != kind);
}

fn owner(path: impl AsRef<Path>) -> u32 {
    fs::metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display())).uid()
}

#[test]
fn the_directory_and_the_delegated_files_are_the_containers_root_and_nothing_else_is() {
    let bundle = delegating(Bundle::sleeper());
    bundle.up();
    let cgroup = bundle.cgroup();
    let list = fs::read_to_string("/sys/kernel/cgroup/delegate").expect("a kernel of 4.15");
    assert!(list.lines().any(|file| file == "cgroup.procs"), "{list}");
    assert_eq!(owner(&cgroup), 100_000);
    let mut others = 0;
    for entry in fs::read_dir(&cgroup).expect("the cgroup") {
        let entry = entry.expect("an entry");
        let delegated = list.lines().any(|file| entry.file_name() == file);
        assert_eq!(owner(entry.path()), if delegated { 100_000 } else { 0 }, "{entry:?}");
        others += u32::from(!delegated);
    }
    assert!(others > 3, "{others}");
    assert_eq!(owner(cgroup.parent().expect("a parent")), 0);
}

/// A name is bytes, and none of them may keep the container from being removed; nor may a threaded cgroup keep its processes
/// from being listed.
#[test]
fn what_the_container_makes_of_its_cgroup_goes_with_it() {
    let bundle = delegating(Bundle::sleeper());
    bundle.up();
    bundle.inside("cd /sys/fs/cgroup && mkdir \"$(printf '\\377x')\" t && echo threaded >t/cgroup.type");
    bundle.processes();
    let cgroup = bundle.cgroup();
    bundle.on("delete", &["--force"]).well();
    assert!(!cgroup.exists() && !bundle.state_dir().exists());
}

#[test]
fn root_of_the_container_makes_cgroups_and_moves_processes() {
    let script = "cd /sys/fs/cgroup && mkdir one && echo $$ >one/cgroup.procs && cat /proc/self/cgroup; echo 1 >cgroup.max.depth";
    let run = delegating(Bundle::script(script)).run();
    assert!(run.stdout().lines().any(|line| line == "0::/one"), "{}{}", run.stdout(), run.stderr());
    assert!(run.code != Some(0) && run.stderr().to_lowercase().contains("permission denied"), "{}", run.stderr());
}

#[test]
fn the_process_may_be_another_user_of_the_container() {
    let bundle = delegating(Bundle::sleeper()).edit(|config| config["process"]["user"] = json!({"uid": 7, "gid": 7}));
    bundle.up();
    assert_eq!(owner(bundle.cgroup()), 100_007);
}

#[test]
fn without_a_user_namespace_it_is_the_process_user() {
    let bundle = Bundle::sleeper().edit(|config| {
        cgroup_options(config, json!([]));
        config["process"]["user"] = json!({"uid": 1234, "gid": 0});
    });
    bundle.up();
    assert_eq!(owner(bundle.cgroup().join("cgroup.procs")), 1234);
}

#[test]
fn without_one_of_the_conditions_nothing_changes() {
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 5] = [
        ("a read-only mount", |config| cgroup_options(config, json!(["nosuid", "ro"]))),
        ("the last word is ro", |config| cgroup_options(config, json!(["rw", "ro"]))),
        ("no cgroup namespace", |config| without(config, "cgroup")),
        ("a joined cgroup namespace", |config| {
            without(config, "cgroup");
            let joined = json!({ "type": "cgroup", "path": "/proc/self/ns/cgroup" });
            config["linux"]["namespaces"].as_array_mut().expect("namespaces").push(joined);
        }),
        ("no cgroup mount", |config| {
            config["mounts"].as_array_mut().expect("mounts").retain(|mount| mount["destination"] != "/sys/fs/cgroup");
        }),
    ];
    for (what, change) in changes {
        let bundle = delegating(Bundle::sleeper()).edit(change);
        bundle.up();
        let cgroup = bundle.cgroup();
        assert_eq!((owner(&cgroup), owner(cgroup.join("cgroup.procs"))), (0, 0), "{what}");
    }
}
