//! What a container uses, told in runc's shape, and its end.

mod common;

use common::{Bundle, begin, wait};
use serde_json::{Value, json};

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[test]
fn stats_are_one_line_with_what_the_kernel_has_counted() {
    let bundle = Bundle::script("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; touch /tmp/done; exec sleep 1000");
    bundle.up();
    wait(|| bundle.rootfs("/tmp/done").exists());
    let said = bundle.on("events", &["--stats"]).well();
    assert!(said.starts_with(&format!("{{\"type\":\"stats\",\"id\":\"{}\",\"data\":{{", bundle.id)), "{said}");
    let [line] = &lines(&said)[..] else { panic!("{said}") };
    let data = &line["data"];
    let usage = common::value(bundle.cgroup().join("cpu.stat")).expect("cpu.stat");
    let usage: u64 = usage.lines().next().unwrap().strip_prefix("usage_usec ").unwrap().parse().unwrap();
    let total = data["cpu"]["usage"]["total"].as_u64().expect("nanoseconds");
    assert!(total > 0 && total <= usage * 1000, "{total} of {usage} us");
    assert!(data["cpu"]["usage"]["user"].is_u64() && data["cpu"]["usage"]["kernel"].is_u64());
    assert_eq!(data["pids"]["current"], 1);
    assert_eq!(data["cpu"]["psi"].is_object(), bundle.cgroup().join("cpu.pressure").exists());
    assert_eq!(data["hugetlb"]["2MB"], json!({"usage": 0, "failcnt": 0}));
}

#[test]
fn lines_come_at_the_interval_until_the_container_ends() {
    let bundle = Bundle::sleeper();
    bundle.up();
    let events = begin(bundle.command(&["events", "--interval", "50ms", &bundle.id]));
    wait(|| events.stdout().lines().count() >= 3);
    bundle.on("kill", &["KILL"]).well();
    let events = events.end();
    events.well();
    assert!(lines(&events.stdout()).iter().all(|line| line["type"] == "stats" && line["id"] == json!(bundle.id)));
    bundle.await_status("stopped");
    bundle.on("events", &["--stats"]).fails(&format!("container with id {} is not running", bundle.id));
}

#[test]
fn an_interval_is_a_duration_of_go() {
    let bundle = Bundle::sleeper();
    bundle.up();
    for interval in ["0", "-1s"] {
        bundle.on("events", &["--interval", interval]).fails("duration interval must be greater than 0");
    }
    bundle.on("events", &["--interval", "5"]).fails("invalid duration \"5\"");
    bundle.on("events", &["--interval", "1m30s", "--stats"]).well();
}

#[test]
#[ignore = "needs pure cgroup v2 with all controllers: run in the VM by tests/run"]
fn every_controller_has_its_part() {
    let bundle = Bundle::sleeper().edit(|config| {
        let resources = config["linux"]["resources"].as_object_mut().expect("resources");
        resources.insert("memory".into(), json!({"limit": 64 << 20, "swap": 96 << 20}));
        resources.insert("pids".into(), json!({"limit": 16}));
        resources.insert("cpu".into(), json!({"quota": 50_000, "period": 100_000, "cpus": "0", "mems": "0"}));
    });
    bundle.up();
    let line = &lines(&bundle.on("events", &["--stats"]).well())[0]["data"];
    assert_eq!(line["pids"], json!({"current": 1, "limit": 16}));
    assert_eq!(line["memory"]["usage"]["limit"], 64 << 20);
    assert_eq!(line["memory"]["swap"]["limit"], 96 << 20);
    let (usage, file) = (&line["memory"]["usage"]["usage"], &line["memory"]["raw"]["file"]);
    assert!(usage.as_u64() > Some(0) && line["memory"]["cache"] == *file, "{line}");
    assert_eq!(line["cpuset"], json!({"cpus": [0], "mems": [0]}));
    assert!(line["cpu"]["throttling"]["periods"].is_u64() && line["blkio"]["ioServiceBytesRecursive"].is_array());
    for part in ["cpu", "memory", "blkio"] {
        assert!(line[part]["psi"]["some"]["total"].is_u64(), "{part}: {line}");
    }
}

#[test]
#[ignore = "needs pure cgroup v2 with all controllers: run in the VM by tests/run"]
fn a_kill_for_want_of_memory_is_told() {
    let bundle = Bundle::sleeper().edit(|config| {
        config["linux"]["resources"]["memory"] = json!({"limit": 32 << 20, "swap": 32 << 20});
    });
    bundle.up();
    let events = begin(bundle.command(&["events", "--interval", "100ms", &bundle.id]));
    wait(|| events.stdout().contains("stats"));
    // tail keeps what it reads until a line ends
    bundle.on("exec", &["sh", "-c", "head -c 134217728 /dev/zero | tail"]);
    let oom = format!("{{\"type\":\"oom\",\"id\":\"{}\"}}\n", bundle.id);
    wait(|| events.stdout().contains(&oom));
    bundle.on("kill", &["KILL"]).well();
    let events = events.end();
    events.well();
}
