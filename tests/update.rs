//! Other limits for a container that is there: in the kernel's files, in what is saved, and never half of them.

mod common;

use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::process::Stdio;

use common::{Bundle, value};
use serde_json::{Value, json};

const NEEDS: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

fn hugepages() -> bool {
    fs::metadata(NEEDS).is_ok()
}

/// A sleeping container with this `linux.resources` over the default one.
fn limited(resources: Value) -> Bundle {
    let bundle = Bundle::sleeper().edit(|config| {
        let all = config["linux"]["resources"].as_object_mut().expect("resources");
        all.extend(resources.as_object().expect("an object").clone());
    });
    bundle.up();
    bundle
}

fn hugetlb(limit: u64) -> Value {
    json!({"hugepageLimits": [{"pageSize": "2MB", "limit": limit}]})
}

/// `update --resources -` with this on standard input.
fn update(bundle: &Bundle, resources: &Value) -> common::Outcome {
    let mut command = bundle.command(&["update", "--resources", "-", &bundle.id]);
    command.stdin(Stdio::piped());
    let mut running = common::begin(command);
    let mut stdin = running.child.stdin.take().expect("a pipe");
    stdin.write_all(resources.to_string().as_bytes()).expect("write");
    drop(stdin);
    running.end()
}

fn held(bundle: &Bundle, file: &str) -> String {
    value(bundle.cgroup().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// A value of the saved configuration.
fn saved(bundle: &Bundle, pointer: &str) -> Value {
    let text = fs::read_to_string(bundle.state_dir().join("config.json")).expect("the saved configuration");
    let config: Value = serde_json::from_str(&text).expect("JSON");
    config["linux"]["resources"].pointer(pointer).cloned().unwrap_or_default()
}

#[test]
fn a_limit_changes_in_the_kernel_and_in_what_is_saved() {
    assert!(hugepages(), "this test needs huge pages of 2 MiB");
    let bundle = limited(hugetlb(4 << 20));
    let file = bundle.dir.join("resources.json");
    fs::write(&file, hugetlb(8 << 20).to_string()).expect("resources.json");
    bundle.on("update", &["-r", file.to_str().expect("UTF-8")]).well();
    assert_eq!(held(&bundle, "hugetlb.2MB.max"), (8 << 20).to_string());
    assert_eq!(saved(&bundle, "/hugepageLimits"), json!([{"pageSize": "2MB", "limit": 8 << 20}]));
    assert_eq!(saved(&bundle, "/devices"), bundle.config["linux"]["resources"]["devices"], "the rest is as it was");
    update(&bundle, &json!({"unified": {"hugetlb.2MB.max": "6291456"}})).well();
    assert_eq!(held(&bundle, "hugetlb.2MB.max"), "6291456");
    update(&bundle, &hugetlb(2 << 20)).well();
    assert_eq!(saved(&bundle, "/unified"), json!({}), "a file has one value");
    bundle.inside("true");
}

#[test]
fn what_is_refused_half_way_leaves_all_as_it_was() {
    let bundle = limited(hugetlb(4 << 20));
    let change = json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 8 << 20}], "unified": {"none.max": "1"}});
    let said = update(&bundle, &change).fails("the limits are as they were before");
    assert!(said.contains("/linux/resources/unified/none.max"), "{said}");
    assert_eq!(held(&bundle, "hugetlb.2MB.max"), (4 << 20).to_string());
    assert_eq!(saved(&bundle, "/hugepageLimits/0/limit"), 4 << 20);
    assert_eq!(saved(&bundle, "/unified"), Value::Null);
}

#[test]
fn created_and_paused_containers_too_and_no_others() {
    let bundle = Bundle::sleeper();
    bundle.create();
    update(&bundle, &hugetlb(8 << 20)).well();
    assert_eq!(bundle.status(), "created");
    bundle.start();
    bundle.on("pause", &[]).well();
    update(&bundle, &hugetlb(4 << 20)).well();
    assert_eq!((bundle.status().as_str(), held(&bundle, "hugetlb.2MB.max").as_str()), ("paused", "4194304"));
    bundle.on("resume", &[]).well();
    bundle.on("kill", &["KILL"]).well();
    bundle.await_status("stopped");
    update(&bundle, &hugetlb(8 << 20)).fails("container not running");
    common::outcome(bundle.command(&["update", "nobody"])).fails("container does not exist");
}

#[test]
fn values_are_refused_by_name() {
    let bundle = Bundle::sleeper();
    bundle.up();
    bundle.on("update", &["--cpu-period", "x"]).fails("invalid value for cpu-period: \"x\"");
    bundle.on("update", &["--memory", "5q"]).fails("invalid value for memory: \"5q\"");
    for (option, key) in [("--cpu-rt-runtime", "realtimeRuntime"), ("--cpu-rt-period", "realtimePeriod")] {
        let said = bundle.on("update", &[option, "5"]).fails("cgroup v2 has no realtime limits");
        assert!(said.contains(&format!("/linux/resources/cpu/{key}")), "{said}");
    }
    bundle.on("update", &["--kernel-memory-tcp", "5q"]).fails("invalid value for kernel-memory-tcp: \"5q\"");
    bundle.on("update", &["--blkio-weight", "5"]).fails("it is between 10 and 1000");
    update(&bundle, &json!([])).fails("standard input is not a JSON object");
    update(&bundle, &json!({"memory": {"limit": "much"}})).fails("from /memory/limit");
    bundle.on("update", &["-r", "/nonexistent"]).fails("no such file or directory");
    bundle.on("update", &["--l3-cache-schema", "L3:0=f"]).fails("Intel RDT/CAT: l3 cache schema is not enabled");
    bundle.on("update", &["--mem-bw-schema", "MB:0=50"]).fails("Intel RDT/MBA: memory bandwidth schema is not enabled");
    for option in ["--kernel-memory", "--kernel-memory-tcp"] {
        let updated = bundle.on("update", &[option, "1g"]);
        updated.well();
        assert!(updated.stderr().contains("Kernel memory settings are ignored"), "{option}: {}", updated.stderr());
    }
}

/// The ids of the device filters attached to the container's cgroup.
fn filters(bundle: &Bundle) -> Vec<u32> {
    let mut ids = [0; orlop::sys::bpf::MAX_PROGS];
    let cgroup = fs::File::open(bundle.cgroup()).expect("the cgroup");
    let count = orlop::sys::bpf::prog_query(cgroup.as_fd(), &mut ids).expect("BPF_PROG_QUERY");
    ids[..count].to_vec()
}

#[test]
fn a_list_of_devices_replaces_the_filter_and_the_saved_one_does_not() {
    let bundle = Bundle::sleeper().edit(|config| {
        config["linux"]["devices"] = json!([{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}]);
    });
    bundle.up();
    let opened = || bundle.on("exec", &["sh", "-c", ": >/dev/kmsg"]).code == Some(0);
    let before = filters(&bundle);
    assert!(!opened() && before.len() == 1, "{before:?}");
    let list = &bundle.config["linux"]["resources"]["devices"];
    update(&bundle, &json!({"devices": list})).well();
    assert_eq!(filters(&bundle), before, "what others have added stays");
    let allowed = json!([list[0], {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "w"}]);
    update(&bundle, &json!({"devices": allowed})).well();
    assert!(opened() && filters(&bundle).len() == 1);
    assert_eq!(saved(&bundle, "/devices"), allowed);
    update(&bundle, &hugetlb(8 << 20)).well();
    assert!(opened(), "no list leaves the filter as it is");
}

#[test]
#[ignore = "needs pure cgroup v2 with all controllers: run in the VM by tests/run"]
fn processor_limits_that_are_written_together_keep_the_other_half() {
    let bundle = limited(json!({"cpu": {"shares": 100, "quota": 500_000, "period": 1_000_000}}));
    for (options, max) in [
        (&["--cpu-period", "900000"][..], "500000 900000"),
        (&["--cpu-quota", "600000"], "600000 900000"),
        (&["--cpu-quota", "-1"], "max 900000"),
        (&["--cpu-quota", "30000", "--cpu-period", "100000", "--cpu-burst", "10000"], "30000 100000"),
    ] {
        bundle.on("update", options).well();
        assert_eq!(held(&bundle, "cpu.max"), max);
    }
    assert_eq!((saved(&bundle, "/cpu/quota"), saved(&bundle, "/cpu/burst")), (json!(30_000), json!(10_000)));
    assert_eq!((held(&bundle, "cpu.max.burst").as_str(), held(&bundle, "cpu.weight").as_str()), ("10000", "17"));
    bundle.on("update", &["--cpu-idle", "1"]).well();
    assert_eq!((saved(&bundle, "/cpu/idle"), held(&bundle, "cpu.idle").as_str()), (json!(1), "1"));
    bundle.on("update", &["--cpu-shares", "200"]).fails("where cpu.idle is 1 there is no weight");
    bundle.on("update", &["--cpu-idle", "0"]).well();
    assert_eq!(held(&bundle, "cpu.weight"), "17", "the weight that it had");
    bundle.on("update", &["--cpu-quota", "1000"]).fails("at least the burst");
    assert_eq!(held(&bundle, "cpu.max"), "30000 100000");
    bundle.on("update", &["--cpuset-cpus", "0", "--cpuset-mems", "0"]).well();
    assert!(bundle.inside("grep Cpus_allowed_list /proc/self/status").ends_with("\t0"));
}

/// runc's own spelling of the option, and what docker has for it; of the weight for disks, too.
#[test]
#[ignore = "needs pure cgroup v2 with all controllers: run in the VM by tests/run"]
fn weights_are_set_by_both_spellings() {
    let bundle = limited(json!({"cpu": {"shares": 1024}, "blockIO": {"weight": 100}}));
    let before = held(&bundle, "cpu.weight");
    bundle.on("update", &["--cpu-share", "2048"]).well();
    let twice = held(&bundle, "cpu.weight");
    bundle.on("update", &["--cpu-shares", "1024"]).well();
    assert_eq!(held(&bundle, "cpu.weight"), before);
    assert!(twice.parse::<u32>().expect("a number") > before.parse().expect("a number"), "{twice} after {before}");
    bundle.on("update", &["--blkio-weight", "500"]).well();
    assert_eq!(saved(&bundle, "/blockIO/weight"), 500);
    let weight = ["io.bfq.weight", "io.weight"].into_iter().find(|file| bundle.cgroup().join(file).exists());
    assert!(held(&bundle, weight.expect("a file for the weight")).starts_with("default "));
    assert_ne!(held(&bundle, weight.expect("a file for the weight")), "default 100");
}

#[test]
#[ignore = "needs pure cgroup v2 with all controllers: run in the VM by tests/run"]
fn memory_and_swap_are_counted_together_and_limited_apart() {
    let bundle = limited(json!({"memory": {"limit": 64 << 20, "swap": 96 << 20, "reservation": 32 << 20}}));
    let limits = || ["memory.max", "memory.swap.max", "memory.low"].map(|file| held(&bundle, file));
    bundle.on("update", &["--memory", "128m"]).well();
    assert_eq!(limits(), [128 << 20, 32 << 20, 32 << 20].map(|bytes: u64| bytes.to_string()));
    assert_eq!(saved(&bundle, "/memory/swap"), 160 << 20, "swap alone is as it was");
    bundle.on("update", &["--memory-swap", "192m", "--memory-reservation", "16M"]).well();
    assert_eq!(limits(), [128 << 20, 64 << 20, 16 << 20].map(|bytes: u64| bytes.to_string()));
    bundle.on("update", &["--memory-swap", "64m"]).fails("memory+swap limit should be >= memory limit");
    bundle.on("update", &["--memory", "-1"]).well();
    assert_eq!(limits()[..2], ["max", "max"]);
    bundle.on("update", &["--memory-swap", "1g"]).fails("unable to set swap limit without memory limit");
    update(&bundle, &json!({"memory": {"limit": 4096, "checkBeforeUpdate": true}}))
        .fails("rejecting memory limit 4096");
    assert_eq!(bundle.status(), "running");
    bundle.on("update", &["--pids-limit", "9"]).well();
    bundle.on("update", &["--pids-limit", "0"]).well();
    assert_eq!(held(&bundle, "pids.max"), "9", "0 is not given");
    bundle.on("update", &["--pids-limit", "-1"]).well();
    assert_eq!(held(&bundle, "pids.max"), "max");
}
