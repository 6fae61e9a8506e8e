//! Limits bite: shown in the machine, where cgroup v2 has every controller.

mod common;

use std::fs;
use std::process::Command;
use std::time::Duration;

use common::{Bundle, outcome, value};
use serde_json::{Value, json};

fn limited(script: &str, resources: Value) -> Bundle {
    Bundle::script(script).edit(|config| {
        let all = config["linux"]["resources"].as_object_mut().expect("resources");
        all.extend(resources.as_object().expect("an object").clone());
    })
}

/// A field of a flat keyed file of cgroup v2.
fn field(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {key}: {text}"))
}

#[test]
#[ignore = "needs pure cgroup v2 with all controllers: run in the VM by tests/run"]
fn an_allocation_over_memory_max_is_killed() {
    // tail keeps what it reads until a line ends
    let script = "head -c 16777216 /dev/zero | tail -c 16777216 | wc -c; (head -c 268435456 /dev/zero | tail; echo $?) | tail -1";
    let bundle = limited("exec sleep 1000", json!({"memory": {"limit": 64 << 20, "swap": 64 << 20}}));
    bundle.up();
    let cgroup = bundle.cgroup();
    assert_eq!(value(cgroup.join("memory.max")).unwrap(), (64 << 20).to_string());
    assert_eq!(value(cgroup.join("memory.swap.max")).unwrap(), "0");
    let said = bundle.on("exec", &["sh", "-c", script]).stdout();
    assert!(said.starts_with("16777216"), "below the limit: {said}");
    let events = value(cgroup.join("memory.events")).unwrap();
    assert!(field(&events, "oom_kill") >= 1, "{events}");
}

/// With `memory.oom.group` nothing of the container is left to go on without what was killed.
#[test]
#[ignore = "needs pure cgroup v2 with all controllers: run in the VM by tests/run"]
fn a_container_that_runs_out_of_memory_ends_as_a_whole() {
    for (group, survives) in [("0", true), ("1", false)] {
        let limits = json!({"memory": {"limit": 64 << 20, "swap": 64 << 20}, "unified": {"memory.oom.group": group}});
        let bundle = limited("exec sleep 1000", limits);
        bundle.up();
        let (pid, cgroup) = (bundle.pid(), bundle.cgroup());
        assert_eq!(value(cgroup.join("memory.oom.group")).unwrap(), group);
        let killed = bundle.on("exec", &["sh", "-c", "head -c 268435456 /dev/zero | tail >/dev/null; exit 3"]);
        assert_eq!(killed.code, Some(if survives { 3 } else { 137 }), "{}", killed.stderr());
        common::wait(|| common::alive(pid) == survives);
        let events = value(cgroup.join("memory.events")).unwrap();
        assert_eq!(field(&events, "oom_group_kill"), u64::from(!survives), "{events}");
        assert_eq!(bundle.status(), if survives { "running" } else { "stopped" });
    }
}

#[test]
#[ignore = "needs pure cgroup v2 with all controllers: run in the VM by tests/run"]
fn a_fork_bomb_stops_at_pids_max() {
    let bundle = limited("exec sleep 1000", json!({"pids": {"limit": 16}}));
    bundle.up();
    let cgroup = bundle.cgroup();
    let bomb = "i=0; while [ $i -lt 64 ]; do sleep 1000 & i=$((i+1)); done";
    bundle.on("exec", &["sh", "-c", bomb]);
    let current: u64 = value(cgroup.join("pids.current")).unwrap().parse().unwrap();
    assert!(current > 8 && current <= 16, "{current}");
    assert!(field(&value(cgroup.join("pids.events")).unwrap(), "max") >= 1);
    let pids: Vec<u32> = serde_json::from_str(&bundle.processes()).expect("JSON");
    bundle.on("delete", &["--force"]).well();
    assert!(!pids.into_iter().any(common::alive) && !cgroup.exists());
}

#[test]
#[ignore = "needs pure cgroup v2 with all controllers: run in the VM by tests/run"]
fn cpu_max_holds_usage_down() {
    let bundle = limited("while :; do :; done", json!({"cpu": {"quota": 10_000, "period": 100_000}}));
    bundle.up();
    let stat = || fs::read_to_string(bundle.cgroup().join("cpu.stat")).expect("cpu.stat");
    let start = std::time::Instant::now();
    let before = field(&stat(), "usage_usec");
    std::thread::sleep(Duration::from_secs(2));
    let used = field(&stat(), "usage_usec") - before;
    let share = used as f64 / start.elapsed().as_micros() as f64;
    assert!(share < 0.2, "{share} of a processor");
    assert!(field(&stat(), "nr_throttled") > 0);
}

#[test]
#[ignore = "needs pure cgroup v2 with all controllers: run in the VM by tests/run"]
fn cpuset_is_the_programs_affinity() {
    let bundle = limited("grep Cpus_allowed_list /proc/self/status", json!({"cpu": {"cpus": "0", "mems": "0"}}));
    assert_eq!(bundle.run().well().split_whitespace().last(), Some("0"));
}

/// A disk of this machine, and its number.
fn disk() -> (&'static str, String) {
    let disks = ["nullb0", "loop0", "vda"].into_iter();
    let number = |disk| value(format!("/sys/block/{disk}/dev")).ok().map(|number| (disk, number));
    disks.filter_map(number).next().expect("a block device")
}

/// `{"major": ..., "minor": ..., KEY: VALUE}`.
fn of_device(number: &str, key: &str, value: u64) -> Value {
    let (major, minor) = number.split_once(':').expect("a device number");
    let number = |text: &str| text.parse::<u64>().expect("a number");
    json!([{ "major": number(major), "minor": number(minor), key: value }])
}

#[test]
#[ignore = "needs pure cgroup v2 with all controllers: run in the VM by tests/run"]
fn throttles_are_the_kernels_for_that_device() {
    let (_, number) = disk();
    let throttles = json!({
        "throttleReadBpsDevice": of_device(&number, "rate", 1 << 20),
        "throttleWriteBpsDevice": of_device(&number, "rate", 2 << 20),
        "throttleReadIOPSDevice": of_device(&number, "rate", 55),
        "throttleWriteIOPSDevice": of_device(&number, "rate", 77),
    });
    let bundle = limited("exec sleep 1000", json!({ "blockIO": throttles }));
    bundle.up();
    let io = value(bundle.cgroup().join("io.max")).expect("io.max");
    assert_eq!(io, format!("{number} rbps=1048576 wbps=2097152 riops=55 wiops=77"));
}

/// `io.bfq.weight` is there with the module, and knows a disk that has this scheduler.
#[test]
#[ignore = "needs bfq and a disk of nobody's: run in the VM by tests/run"]
fn weights_are_bfqs_for_all_disks_and_for_one() {
    assert!(Command::new("modprobe").arg("bfq").status().expect("modprobe").success());
    let (disk, number) = disk();
    fs::write(format!("/sys/block/{disk}/queue/scheduler"), "bfq").expect("the scheduler");
    let weights = json!({ "weight": 500, "weightDevice": of_device(&number, "weight", 20) });
    let bundle = limited("exec sleep 1000", json!({ "blockIO": weights }));
    bundle.up();
    let held = || value(bundle.cgroup().join("io.bfq.weight")).expect("io.bfq.weight");
    assert_eq!(held(), format!("default 500\n{number} 20"));
    bundle.on("update", &["--blkio-weight", "300"]).well();
    assert_eq!(held(), format!("default 300\n{number} 20"));

    let change = bundle.dir.join("change.json");
    let refused = json!({ "blockIO": { "weight": 200 }, "unified": { "none.max": "1" } });
    fs::write(&change, refused.to_string()).expect("change.json");
    let mut update = bundle.command(&["update", "--resources"]);
    update.arg(change).arg(&bundle.id);
    outcome(update).fails("the limits are as they were before");
    assert_eq!(held(), format!("default 300\n{number} 20"));
}

#[test]
#[ignore = "needs huge pages and their controller: run in the VM by tests/run"]
fn huge_pages_in_use_and_reserved_are_limited() {
    let bundle = limited("exec sleep 1000", json!({ "hugepageLimits": [{ "pageSize": "2MB", "limit": 4 << 20 }] }));
    bundle.up();
    for file in ["hugetlb.2MB.max", "hugetlb.2MB.rsvd.max"] {
        assert_eq!(value(bundle.cgroup().join(file)).expect(file), (4 << 20).to_string());
    }
}

/// No machine of the tests has an RDMA device: the kernel says that it knows none of this name.
#[test]
#[ignore = "needs the rdma controller: run in the VM by tests/run"]
fn limits_of_rdma_reach_the_kernel() {
    for key in ["hcaHandles", "hcaObjects"] {
        let bundle = limited("exec sleep 1000", json!({ "rdma": { "mlx5_9": { key: 3 } } }));
        let said = outcome(bundle.making("create", &[])).fails("/linux/resources/rdma/mlx5_9");
        assert!(said.contains("rdma.max") && said.contains("no such device"), "{said}");
        assert!(!bundle.state_dir().exists());
    }
}
