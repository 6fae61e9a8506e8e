//! The container's cgroup: where it is, what is in it before there is a process, and what the device filter denies.

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use common::{Bundle, begin, outcome, value, wait};
use serde_json::json;

fn cgroup(path: &str) -> PathBuf {
    PathBuf::from("/sys/fs/cgroup").join(path.trim_start_matches('/'))
}

/// The bundle with `linux.cgroupsPath`.
fn at(bundle: Bundle, path: &str) -> Bundle {
    bundle.edit(|config| config["linux"]["cgroupsPath"] = json!(path))
}

#[test]
fn the_process_is_in_the_cgroup_that_the_configuration_names() {
    let bundle = Bundle::sleeper();
    let path = format!("/{}/inner", bundle.id);
    let bundle = at(bundle, &path);
    bundle.up();
    assert_eq!(bundle.cgroup(), cgroup(&path));
    assert_eq!(value(cgroup(&path).join("cgroup.procs")).expect("cgroup.procs"), bundle.pid().to_string());
    bundle.on("delete", &["--force"]).well();
    assert!(!cgroup(&path).exists());
    let _ = fs::remove_dir(cgroup(&bundle.id));
}

#[test]
fn a_relative_path_and_none_lie_beside_our_own_cgroup() {
    let own = common::cgroup_of(std::process::id());
    let beside = if own == cgroup("") { own } else { own.parent().expect("a parent").to_owned() };
    for path in [None, Some(format!("orlop-test-relative-{}", std::process::id()))] {
        let bundle = Bundle::sleeper();
        let name = path.clone().unwrap_or(bundle.id.clone());
        let bundle = if let Some(path) = &path { at(bundle, path) } else { bundle };
        bundle.up();
        assert_eq!(bundle.cgroup(), beside.join(name));
    }
}

#[test]
fn the_cgroup_namespace_begins_at_the_containers_cgroup() {
    let bundle = Bundle::script(
        "cat /proc/self/cgroup; ls -d /sys/fs/cgroup/cgroup.procs; cat /sys/fs/cgroup/cgroup.procs | head -1",
    );
    let said = bundle.run().well();
    assert!(said.lines().any(|line| line == "0::/"), "{said}");
    assert!(said.contains("/sys/fs/cgroup/cgroup.procs\n1"), "{said}");
}

#[test]
fn limits_are_written_before_there_is_a_process() {
    // a hook of the earliest kind sees them, with the process in the cgroup already
    let bundle = Bundle::new();
    let log = bundle.dir.join("log");
    let path = format!("/{}", bundle.id);
    let dir = cgroup(&path);
    let script = format!(
        "cat {0}/hugetlb.2MB.max {0}/hugetlb.2MB.rsvd.max {0}/cgroup.procs > {1}",
        dir.display(),
        log.display()
    );
    let bundle = at(bundle, &path).edit(|config| {
        config["linux"]["resources"]["hugepageLimits"] = json!([{"pageSize": "2MB", "limit": 4 << 20}]);
        config["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
    });
    bundle.run().well();
    let log = value(log).expect("the log");
    let lines: Vec<_> = log.lines().collect();
    assert_eq!(lines[..2], ["4194304", "4194304"]);
    assert_eq!(lines.len(), 3, "one process: {log}");
}

/// A key of `unified` and the typed property of the same file: `unified` is what the file holds in the end.
#[test]
fn unified_wins_over_the_typed_limit() {
    let bundle = Bundle::sleeper();
    let path = format!("/{}", bundle.id);
    let bundle = at(bundle, &path).edit(|config| {
        config["linux"]["resources"]["hugepageLimits"] = json!([{"pageSize": "2MB", "limit": 4 << 20}]);
        config["linux"]["resources"]["unified"] = json!({"hugetlb.2MB.max": "6291456"});
    });
    bundle.up();
    assert_eq!(value(cgroup(&path).join("hugetlb.2MB.max")).expect("max"), "6291456");
    assert_eq!(value(cgroup(&path).join("hugetlb.2MB.rsvd.max")).expect("rsvd.max"), "4194304");
}

#[test]
fn a_limit_that_cant_be_set_is_an_error_in_place_and_leaves_nothing() {
    let bundle = Bundle::sleeper();
    let path = format!("/{}", bundle.id);
    let bundle = at(bundle, &path).edit(|config| {
        config["linux"]["resources"]["unified"] = json!({"cgroup.nonsense": "1"});
    });
    outcome(bundle.making("create", &[])).fails("/linux/resources/unified/cgroup.nonsense");
    assert!(!cgroup(&path).exists() && !bundle.state_dir().exists());
}

#[test]
fn devices_are_denied_but_those_of_every_container() {
    // no driver has this number: an open that the filter lets through is ENXIO
    let script = "mknod /tmp/none c 121 9 && echo made; head -c1 /tmp/none; echo none $?; \
                  mknod /tmp/null c 1 3; echo x > /tmp/null; echo null $?; head -c1 /dev/zero | wc -c";
    let bundle = Bundle::script(script).edit(|config| {
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set].as_array_mut().expect("a set").push(json!("CAP_MKNOD"));
        }
    });
    let run = bundle.run();
    assert_eq!(run.well(), "made\nnone 1\nnull 0\n1");
    assert!(run.stderr().contains("Operation not permitted"), "{}", run.stderr());
    let allowed = bundle.edit(|config| {
        let devices = config["linux"]["resources"]["devices"].as_array_mut().expect("devices");
        devices.push(json!({"allow": true, "type": "c", "major": 121, "minor": 9, "access": "r"}));
    });
    fs::remove_file(allowed.rootfs("tmp/none")).expect("remove");
    fs::remove_file(allowed.rootfs("tmp/null")).expect("remove");
    let said = allowed.run().stderr();
    assert!(said.contains("No such device or address") && !said.contains("not permitted"), "{said}");
}

#[test]
fn delete_removes_the_cgroup_with_what_the_container_made_in_it() {
    let bundle = Bundle::sleeper();
    bundle.up();
    let dir = bundle.cgroup();
    fs::create_dir_all(dir.join("a/b/c")).expect("cgroups");
    let mut stray = Command::new("sleep").arg("1000").spawn().expect("sleep");
    fs::write(dir.join("a/b/c/cgroup.procs"), stray.id().to_string()).expect("move it");
    bundle.on("delete", &["--force"]).well();
    assert!(!dir.exists());
    assert!(!stray.wait().expect("wait").success(), "it was killed with the container");
}

#[test]
fn what_the_program_leaves_ends_with_it() {
    // without a pid namespace nothing but the cgroup holds the processes together
    let bundle = Bundle::script("sleep 1000 & echo $!").edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
        namespaces.retain(|namespace| namespace["type"] != "pid");
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        mounts.retain(|mount| mount["destination"] != "/proc");
    });
    let pid = bundle.run().well().parse().expect("a pid");
    wait(|| !common::alive(pid));
}

#[test]
fn a_cgroup_that_is_in_use_is_refused() {
    let first = Bundle::sleeper();
    let path = format!("/{}", first.id);
    let first = at(first, &path);
    first.up();
    let second = at(Bundle::sleeper(), &path);
    outcome(second.making("create", &[])).fails("container's cgroup is not empty");
    assert!(!second.state_dir().exists());
    assert_eq!(first.status(), "running");
    assert!(cgroup(&path).exists());
}

/// `orlop run` in a mount namespace of its own, after `prepare` has been run there by a shell.
fn run_after(prepare: &str, bundle: &Bundle) -> common::Outcome {
    let mut command = Command::new("unshare");
    let line = format!(
        "{prepare} && exec '{}' --root '{}' run --bundle '{}' {}",
        common::ORLOP,
        bundle.store.display(),
        bundle.dir.display(),
        bundle.id
    );
    command.args(["--mount", "--propagation", "private", "sh", "-c", &line]).stdin(std::process::Stdio::null());
    begin(command).end()
}

#[test]
fn without_rights_over_cgroups_it_goes_on_and_says_so_once() {
    let bundle = Bundle::script("echo ran");
    let run = run_after("mount -o remount,bind,ro /sys/fs/cgroup", &bundle);
    assert_eq!(run.well(), "ran");
    let said = run.stderr();
    assert_eq!(said.matches("warning").count(), 1, "{said}");
    assert!(said.contains("without a cgroup of its own"), "{said}");
}

#[test]
fn without_rights_over_cgroups_a_limit_is_an_error() {
    let bundle = Bundle::new().edit(|config| {
        config["linux"]["resources"]["hugepageLimits"] = json!([{"pageSize": "2MB", "limit": 4 << 20}]);
    });
    run_after("mount -o remount,bind,ro /sys/fs/cgroup", &bundle).fails("read-only file system");
    assert!(!bundle.state_dir().exists());
}

#[test]
fn without_a_cgroup2_mount_it_goes_on_and_a_limit_is_an_error() {
    // the machine itself may be hybrid, with a cgroup2 of its own below: a tmpfs covers them all
    let cover = "mount -t tmpfs tmpfs /sys/fs/cgroup";
    let bundle = Bundle::script("echo ran").edit(|config| {
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        mounts.retain(|mount| mount["type"] != "cgroup");
    });
    let run = run_after(cover, &bundle);
    assert_eq!(run.well(), "ran");
    assert_eq!(run.stderr().matches("warning").count(), 1, "{}", run.stderr());
    let bundle = bundle.edit(|config| config["linux"]["resources"]["pids"] = json!({"limit": 5}));
    let said = run_after(cover, &bundle).fails("no cgroup v2 file system is mounted");
    assert!(said.contains("/linux/resources/pids/limit") && said.contains("hint: "), "{said}");
}

#[test]
fn on_a_hybrid_host_a_limit_names_the_controller_that_v1_holds() {
    let v1 = fs::read_to_string("/proc/self/cgroup").expect("cgroup");
    let memory =
        v1.lines().any(|line| line.split(':').nth(1).is_some_and(|names| names.split(',').any(|c| c == "memory")));
    let bundle =
        Bundle::script("echo ran").edit(|config| config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20}));
    let run = bundle.run();
    if !memory {
        // pure cgroup v2: the same bundle just runs
        assert_eq!(run.well(), "ran");
        return;
    }
    let said = run.fails("memory");
    assert!(said.contains("/linux/resources/memory") && said.contains("v1") && said.contains("hint: "), "{said}");
    assert!(!bundle.state_dir().exists() && !cgroup(&bundle.id).exists());
    let plain = bundle.edit(|config| {
        config["linux"]["resources"].as_object_mut().expect("an object").remove("memory");
    });
    assert_eq!(plain.run().well(), "ran");
}
