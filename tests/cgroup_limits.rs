//! Limits that bite. They need pure cgroup v2 with all controllers, which `tests/run` has in its VM.

mod cgroup_common;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use cgroup_common::{Ground, ground, runs, shell, value, wait};
use oci_spec::runtime::{LinuxMemory, LinuxResources};
use orlop::cgroup::{Cgroup, wanted_controllers, writes};
use orlop::error::{Error, Result};

/// A cgroup with the limits of `json`.
fn limited(ground: &Ground, json: &str) -> Result<Cgroup> {
    let writes = writes(&serde_json::from_str::<LinuxResources>(json).unwrap())?;
    let cgroup = Cgroup::create(&ground.hierarchy, &ground.below("a/limited"), &wanted_controllers(&writes))?;
    writes.iter().try_for_each(|write| cgroup.write(write))?;
    Ok(cgroup)
}

fn number(cgroup: &Cgroup, file: &str, key: &str) -> u64 {
    let text = value(cgroup.path(), file);
    let line = text.lines().find_map(|line| line.strip_prefix(key)).expect(key);
    line.trim().parse().unwrap()
}

/// A block device of the machine; a loop device serves, and the module brings some.
fn disk() -> String {
    let _ = std::process::Command::new("modprobe").arg("loop").status();
    let disk = fs::read_dir("/sys/block").unwrap().next().expect("a block device, or the loop module").unwrap();
    value(&disk.path(), "dev")
}

#[test]
#[ignore = "needs pure cgroup v2 with all controllers: run in the VM by tests/run"]
fn vm_every_limit_lands_in_its_file() {
    let ground = ground();
    let cgroup = limited(
        &ground,
        r#"{
            "memory": {"limit": 67108864, "swap": 134217728, "reservation": 33554432},
            "cpu": {"shares": 2048, "quota": 50000, "period": 200000, "burst": 10000, "cpus": "0", "mems": "0"},
            "pids": {"limit": 20},
            "unified": {"memory.high": "50331648", "cgroup.max.descendants": "3"}
        }"#,
    )
    .unwrap();
    for (file, expected) in [
        ("memory.max", "67108864"),
        ("memory.low", "33554432"),
        ("memory.high", "50331648"),
        ("cpu.weight", "174"),
        ("cpu.max", "50000 200000"),
        ("cpu.max.burst", "10000"),
        ("cpuset.cpus", "0"),
        ("cpuset.mems", "0"),
        ("pids.max", "20"),
        ("cgroup.max.descendants", "3"),
    ] {
        assert_eq!(value(cgroup.path(), file), expected, "{file}");
    }
    if cgroup.path().join("memory.swap.max").exists() {
        assert_eq!(value(cgroup.path(), "memory.swap.max"), "67108864");
    }
}

#[test]
#[ignore = "needs pure cgroup v2 with all controllers: run in the VM by tests/run"]
fn vm_all_controllers_come_down_without_limits() {
    let ground = ground();
    let cgroup = limited(&ground, "{}").unwrap();
    let present = value(cgroup.path(), "cgroup.controllers");
    for controller in ["cpu", "cpuset", "io", "memory", "pids"] {
        assert!(present.split(' ').any(|name| name == controller), "{controller} in {present:?}");
    }
}

#[test]
#[ignore = "needs pure cgroup v2 with all controllers: run in the VM by tests/run"]
fn vm_an_allocation_over_memory_max_is_killed() {
    let ground = ground();
    let cgroup = limited(&ground, r#"{"memory": {"limit": 16777216, "swap": 16777216}}"#).unwrap();
    let grow = "x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done";
    assert_eq!(shell(cgroup.path(), grow).wait().unwrap().signal(), Some(9));
    assert_eq!(number(&cgroup, "memory.events", "oom_kill "), 1);
}

#[test]
#[ignore = "needs pure cgroup v2 with all controllers: run in the VM by tests/run"]
fn vm_forks_stop_at_pids_max() {
    let ground = ground();
    let cgroup = limited(&ground, r#"{"pids": {"limit": 4}}"#).unwrap();
    assert!(runs(cgroup.path(), "true & true & wait"));
    assert!(!runs(cgroup.path(), "for i in 1 2 3 4 5 6; do sleep 0.2 & done; wait"));
    assert!(number(&cgroup, "pids.events", "max ") > 0);
    assert!(number(&cgroup, "pids.peak", "") <= 4);
}

#[test]
#[ignore = "needs pure cgroup v2 with all controllers: run in the VM by tests/run"]
fn vm_cpu_max_holds_usage_down() {
    let ground = ground();
    let cgroup = limited(&ground, r#"{"cpu": {"quota": 20000, "period": 100000}}"#).unwrap();
    let mut child = shell(cgroup.path(), "while :; do :; done");
    wait(|| number(&cgroup, "cpu.stat", "nr_throttled ") > 0);
    let before = number(&cgroup, "cpu.stat", "usage_usec ");
    std::thread::sleep(Duration::from_secs(2));
    let used = number(&cgroup, "cpu.stat", "usage_usec ") - before;
    assert!((100_000..1_000_000).contains(&used), "{used} us in 2 s at a limit of 20 %");
    cgroup.kill().unwrap();
    child.wait().unwrap();
}

#[test]
#[ignore = "needs pure cgroup v2 with all controllers: run in the VM by tests/run"]
fn vm_cpuset_binds_to_its_cpu() {
    let ground = ground();
    let cgroup = limited(&ground, r#"{"cpu": {"cpus": "0"}}"#).unwrap();
    assert!(runs(cgroup.path(), "grep -q '^Cpus_allowed_list:[[:space:]]*0$' /proc/self/status"));
    let error = limited(&ground, r#"{"cpu": {"cpus": "4095"}}"#).unwrap_err();
    assert_eq!(error.pointer.as_deref(), Some("/linux/resources/cpu/cpus"));
}

#[test]
#[ignore = "needs pure cgroup v2 with all controllers: run in the VM by tests/run"]
fn vm_cpu_idle_and_burst_follow_updates_in_both_directions() {
    let ground = ground();
    let set = |json: &str| limited(&ground, json).unwrap();
    set(r#"{"cpu": {"idle": 1, "shares": 1024}}"#);
    set(r#"{"cpu": {"idle": 0, "shares": 2048}}"#);
    set(r#"{"cpu": {"quota": 50000, "burst": 40000}}"#);
    set(r#"{"cpu": {"quota": 30000, "burst": 10000}}"#);
    let cgroup = set(r#"{"cpu": {"quota": 90000, "burst": 80000}}"#);
    assert_eq!(value(cgroup.path(), "cpu.max"), "90000 100000");
    assert_eq!(value(cgroup.path(), "cpu.max.burst"), "80000");
    assert_eq!(value(cgroup.path(), "cpu.idle"), "0");
    assert_eq!(value(cgroup.path(), "cpu.weight"), "174");
    set(r#"{"cpu": {"idle": 1}}"#);
    assert_eq!(value(cgroup.path(), "cpu.idle"), "1");
}

#[test]
#[ignore = "needs pure cgroup v2 with all controllers: run in the VM by tests/run"]
fn vm_io_max_takes_the_throttles_of_one_disk_together() {
    let ground = ground();
    let disk = disk();
    let (major, minor) = disk.split_once(':').unwrap();
    let device = |rate| format!(r#"[{{"major": {major}, "minor": {minor}, "rate": {rate}}}]"#);
    let json = format!(
        r#"{{"blockIO": {{"throttleReadBpsDevice": {}, "throttleWriteBpsDevice": {},
            "throttleReadIOPSDevice": {}, "throttleWriteIOPSDevice": {}}}}}"#,
        device(1_048_576),
        device(2_097_152),
        device(55),
        device(77)
    );
    let cgroup = limited(&ground, &json).unwrap();
    assert_eq!(value(cgroup.path(), "io.max"), format!("{disk} rbps=1048576 wbps=2097152 riops=55 wiops=77"));
}

#[test]
#[ignore = "needs pure cgroup v2 with all controllers: run in the VM by tests/run"]
fn vm_check_before_update_refuses_what_is_used_up() {
    let ground = ground();
    let cgroup = limited(&ground, r#"{"memory": {"limit": 67108864}}"#).unwrap();
    let check = |json: &str| cgroup.check_memory(&serde_json::from_str::<LinuxMemory>(json).unwrap());
    let mut child = shell(cgroup.path(), "exec sleep 1000");
    wait(|| value(cgroup.path(), "memory.current") != "0");
    let error: Error = check(r#"{"limit": 1, "checkBeforeUpdate": true}"#).unwrap_err();
    assert!(error.message.starts_with("rejecting memory limit 1 <= usage "), "{error}");
    check(r#"{"limit": 1}"#).unwrap();
    check(r#"{"limit": 67108864, "checkBeforeUpdate": true}"#).unwrap();
    cgroup.kill().unwrap();
    child.wait().unwrap();
}

#[test]
#[ignore = "needs pure cgroup v2 with all controllers: run in the VM by tests/run"]
fn vm_a_parent_with_processes_is_an_obstacle_for_memory_too() {
    let ground = ground();
    let parent = ground.create("a");
    let mut child = cgroup_common::sleeper(parent.path());
    for (limits, from) in
        [(r#""memory": {"limit": 67108864}"#, "memory/limit"), (r#""pids": {"limit": 9}"#, "pids/limit")]
    {
        let error = limited(&ground, &format!("{{{limits}}}")).unwrap_err();
        assert_eq!(error.pointer, Some(format!("/linux/resources/{from}")));
        assert!(error.hint.unwrap().contains(&format!("pid {}", child.id())));
        assert_eq!(value(parent.path(), "cgroup.type"), "domain", "it has not become threaded");
    }
    parent.kill().unwrap();
    child.wait().unwrap();
}
