//! What a container uses, told in runc's shape, and its end.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Bundle, begin, outcome, soon, value, wait};
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
    let usage = value(bundle.cgroup().join("cpu.stat")).expect("cpu.stat");
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
}

/// `total` of a file of pressure, in microseconds: that of `some`, and that of `full`.
fn totals(cgroup: &Path, file: &str) -> [u64; 2] {
    let text = value(cgroup.join(file)).expect(file);
    ["some", "full"].map(|name| {
        let line = text.lines().find(|line| line.starts_with(name)).expect(name);
        line.rsplit('=').next().and_then(|total| total.parse().ok()).expect("a total")
    })
}

#[test]
#[ignore = "needs pure cgroup v2 with all controllers: run in the VM by tests/run"]
fn pressure_is_what_the_kernel_has_measured() {
    // One waits for the processor, one for memory and next to nobody for a disk: no file can be taken for another.
    let bundle = Bundle::script("tail /dev/zero & while :; do :; done").edit(|config| {
        let resources = config["linux"]["resources"].as_object_mut().expect("resources");
        resources.insert("cpu".into(), json!({"quota": 50_000, "period": 100_000}));
        resources.insert("memory".into(), json!({"limit": 64 << 20, "swap": 64 << 20}));
        resources.insert("unified".into(), json!({"memory.high": "16777216"}));
    });
    bundle.up();
    let cgroup = bundle.cgroup();
    soon(|| ["cpu.pressure", "memory.pressure"].iter().all(|file| totals(&cgroup, file)[0] > 0));
    // Averages come every two seconds.
    soon(|| !value(cgroup.join("cpu.pressure")).expect("cpu.pressure").starts_with("some avg10=0.00 "));
    let files = [("cpu", "cpu.pressure"), ("memory", "memory.pressure"), ("blkio", "io.pressure")];
    let before = files.map(|(_, file)| totals(&cgroup, file));
    let line = &lines(&bundle.on("events", &["--stats"]).well())[0]["data"];
    for ((part, file), before) in files.into_iter().zip(before) {
        let after = totals(&cgroup, file);
        for (index, name) in ["some", "full"].into_iter().enumerate() {
            let total = line[part]["psi"][name]["total"].as_u64().unwrap_or_else(|| panic!("no {part}: {line}"));
            let range = before[index]..=after[index];
            assert!(range.contains(&total), "{part}, {name}: {total} is not in {range:?}");
        }
    }
    assert!(line["cpu"]["psi"]["some"]["avg10"].as_f64() > Some(0.0), "{line}");
}

const POOL: &str = "/proc/sys/vm/nr_hugepages";

/// The kernel's pool of huge pages, which is again what it was before when this is dropped.
struct Pool(String);

impl Pool {
    fn of(pages: &str) -> Self {
        let pool = Self(value(POOL).expect(POOL));
        fs::write(POOL, pages).expect("root is needed");
        assert_eq!(value(POOL).expect(POOL), pages, "the machine's memory has no room for huge pages");
        pool
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = fs::write(POOL, &self.0);
    }
}

#[test]
#[ignore = "needs huge pages and their controller: run in the VM by tests/run"]
fn huge_pages_in_use_and_refused_are_counted() {
    // As many as are asked for: so the second is refused by the limit.
    let _gone_last = Pool::of("2");
    let bundle = Bundle::sleeper().edit(|config| {
        let mount =
            json!({"destination": "/huge", "type": "hugetlbfs", "source": "hugetlbfs", "options": ["pagesize=2M"]});
        config["mounts"].as_array_mut().expect("mounts").push(mount);
        config["linux"]["resources"]["hugepageLimits"] = json!([{"pageSize": "2MB", "limit": 2 << 20}]);
    });
    bundle.up();
    let told = || lines(&bundle.on("events", &["--stats"]).well())[0]["data"]["hugetlb"]["2MB"].clone();
    bundle.inside("fallocate -l 2097152 /huge/a");
    assert_eq!(told(), json!({"usage": 2 << 20, "failcnt": 0}));
    bundle.on("exec", &["fallocate", "-l", "2097152", "/huge/b"]).fails("No space left on device");
    let now = told();
    assert!(now["usage"] == 2 << 20 && now["failcnt"].as_u64() > Some(0), "{now}");
    let counted = value(bundle.cgroup().join("hugetlb.2MB.events")).expect("hugetlb.2MB.events");
    assert_eq!(counted, format!("max {}", now["failcnt"]));
}

/// What runc prints of cgroup v1, of resctrl and of a network that are not there. A key that is missing says the same.
const NOTHING: [&str; 13] = [
    "/cpuset/cpu_exclusive",
    "/cpuset/mem_hardwall",
    "/cpuset/mem_exclusive",
    "/cpuset/memory_migrate",
    "/cpuset/memory_spread_page",
    "/cpuset/memory_spread_slab",
    "/cpuset/memory_pressure",
    "/cpuset/sched_load_balance",
    "/cpuset/sched_relax_domain_level",
    "/memory/kernel",
    "/memory/kernelTCP",
    "/intel_rdt",
    "/network_interfaces",
];

/// The places of `theirs` that `ours` has not.
fn missing(theirs: &Value, ours: &Value, at: &str) -> Vec<String> {
    let Value::Object(members) = theirs else { return Vec::new() };
    let below = |(key, theirs): (&String, &Value)| {
        let at = format!("{at}/{key}");
        ours.get(key).map_or_else(|| vec![at.clone()], |ours| missing(theirs, ours, &at))
    };
    members.iter().flat_map(below).collect()
}

/// Zero, or zeros alone.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Object(members) => members.values().all(is_nothing),
        _ => false,
    }
}

#[test]
#[ignore = "needs pure cgroup v2 with all controllers: run in the VM by tests/run"]
fn every_key_of_runcs_is_there() {
    let bundle = Bundle::sleeper();
    let path = format!("/{}", bundle.id);
    let bundle = bundle.edit(|config| {
        config["linux"]["cgroupsPath"] = json!(path);
        let resources = config["linux"]["resources"].as_object_mut().expect("resources");
        resources.insert("memory".into(), json!({"limit": 64 << 20, "swap": 96 << 20}));
        resources.insert("pids".into(), json!({"limit": 16}));
        resources.insert("cpu".into(), json!({"quota": 50_000, "period": 100_000}));
    });
    let data = |said: &str| lines(said)[0]["data"].clone();
    bundle.up();
    let ours = data(&bundle.on("events", &["--stats"]).well());
    bundle.on("delete", &["--force"]).well();
    let runc = |args: &[&str]| {
        let mut command = Command::new("runc");
        command.arg("--root").arg(bundle.dir.join("runc")).args(args).current_dir(&bundle.dir).stdin(Stdio::null());
        outcome(command)
    };
    runc(&["run", "--detach", &bundle.id]).well();
    let theirs = runc(&["events", "--stats", &bundle.id]);
    runc(&["delete", "--force", &bundle.id]).well();
    let theirs = data(&theirs.well());
    for place in missing(&theirs, &ours, "") {
        let value = theirs.pointer(&place).expect("a key of runc's");
        assert!(NOTHING.contains(&place.as_str()) && is_nothing(value), "{place}: {value}");
    }
    for place in ["/memory/usage/limit", "/pids/limit", "/pids/current"] {
        assert!(ours.pointer(place).is_some(), "{place}");
        assert_eq!(ours.pointer(place), theirs.pointer(place), "{place}");
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
