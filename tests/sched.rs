//! When and where a process runs: scheduler, I/O priority, processors, memory policy, execution domain.

mod common;

use std::fs;
use std::process::Command;

use common::{Bundle, begin, outcome, proc_status};
use serde_json::{Value, json};

/// policy, real-time priority and nice value of a process (proc(5), stat fields 41, 40 and 19).
fn scheduled(pid: u32) -> (u32, u32, i32) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let fields: Vec<_> = stat[stat.rfind(')').expect("a name") + 2..].split(' ').collect();
    let field = |number: usize| fields[number - 3].parse::<i32>().expect("a number");
    (field(41) as u32, field(40) as u32, field(19))
}

/// runtime, deadline and period of a process, from sched_getattr(2): no file of /proc has them.
fn times(pid: u32) -> [u64; 3] {
    // struct sched_attr: the three follow 24 bytes of others
    let mut attr = [0u64; 7];
    // SAFETY: the kernel writes no more than the size that it is told.
    let done = unsafe { libc::syscall(libc::SYS_sched_getattr, pid, attr.as_mut_ptr(), size_of_val(&attr), 0) };
    assert_eq!(done, 0, "sched_getattr: {}", std::io::Error::last_os_error());
    [attr[3], attr[4], attr[5]]
}

fn with(place: &str, value: Value) -> Bundle {
    let (parent, key) = place.rsplit_once('/').expect("a pointer");
    Bundle::sleeper().edit(|config| config.pointer_mut(parent).expect("a parent")[key] = value)
}

/// The pid of a `sleep 1000` that was started in the container by `exec`.
fn exec_sleep(bundle: &Bundle, process: Option<Value>) -> u32 {
    let pid_file = bundle.dir.join("exec.pid");
    let mut command = bundle.command(&["exec", "--detach", "--pid-file"]);
    command.arg(&pid_file);
    match process {
        Some(process) => {
            let file = bundle.dir.join("process.json");
            fs::write(&file, process.to_string()).expect("process.json");
            command.arg("--process").arg(file).arg(&bundle.id);
        }
        None => {
            command.args([&bundle.id, "sleep", "1000"]);
        }
    }
    outcome(command).well();
    fs::read_to_string(pid_file).expect("a pid file").parse().expect("a pid")
}

fn process(members: Value) -> Value {
    let mut process = json!({"cwd": "/", "args": ["sleep", "1000"], "user": {"uid": 0, "gid": 0}});
    process.as_object_mut().expect("an object").extend(members.as_object().expect("an object").clone());
    process
}

#[test]
fn the_scheduler_is_the_one_that_was_asked_for() {
    for (scheduler, expected) in [
        (json!({"policy": "SCHED_OTHER", "nice": 7}), (0, 0, 7)),
        (json!({"policy": "SCHED_BATCH", "nice": -3}), (3, 0, -3)),
        (json!({"policy": "SCHED_FIFO", "priority": 5}), (1, 5, 0)),
        (json!({"policy": "SCHED_RR", "priority": 9}), (2, 9, 0)),
        (json!({"policy": "SCHED_IDLE"}), (5, 0, 0)),
        (
            json!({"policy": "SCHED_DEADLINE", "runtime": 100_000, "deadline": 8_000_000, "period": 9_000_000}),
            (6, 0, 0),
        ),
    ] {
        let bundle = with("/process/scheduler", scheduler.clone());
        bundle.up();
        let seen = scheduled(bundle.pid());
        assert_eq!((seen.0, seen.1), (expected.0, expected.1), "{scheduler}");
        // only the policies of the fair class have a nice value
        assert!(expected.0 != 0 && expected.0 != 3 || seen.2 == expected.2, "{scheduler}: {seen:?}");
        if expected.0 == 6 {
            assert_eq!(
                times(bundle.pid()),
                ["runtime", "deadline", "period"].map(|key| scheduler[key].as_u64().unwrap())
            );
        }
    }
}

#[test]
fn exec_has_the_containers_scheduler_or_its_own() {
    let bundle = with("/process/scheduler", json!({"policy": "SCHED_RR", "priority": 2}));
    bundle.up();
    assert_eq!(scheduled(exec_sleep(&bundle, None)).0, 2);
    let own = process(json!({"scheduler": {"policy": "SCHED_BATCH"}}));
    assert_eq!(scheduled(exec_sleep(&bundle, Some(own))).0, 3);
}

/// A child of a process with this flag is back at the default.
#[test]
fn flags_of_the_scheduler_reach_the_kernel_by_both_of_their_names() {
    for name in ["SCHED_FLAG_RESET_ON_FORK", "SCHED_RESET_ON_FORK"] {
        let scheduler = json!({"policy": "SCHED_FIFO", "priority": 3, "flags": [name]});
        let bundle = Bundle::script("sleep 1000 & echo $! >/tmp/child; wait").edit(|config| {
            config["process"]["scheduler"] = scheduler;
        });
        bundle.up();
        let pid = bundle.pid();
        assert_eq!(scheduled(pid), (1, 3, 0), "{name}");
        let children = format!("/proc/{pid}/task/{pid}/children");
        common::wait(|| fs::read_to_string(&children).is_ok_and(|text| !text.trim().is_empty()));
        let child = fs::read_to_string(&children).expect("children").trim().parse().expect("a pid");
        assert_eq!(scheduled(child).0, 0, "{name}");
    }
}

/// What the kernel is asked, since not every kernel has all of them: it says so, and then there is no container.
#[test]
fn each_flag_of_the_scheduler_is_asked_of_the_kernel() {
    let times = json!({"policy": "SCHED_DEADLINE", "runtime": 100_000, "deadline": 9_000_000, "period": 9_000_000});
    for (name, mut scheduler) in [
        ("SCHED_FLAG_RESET_ON_FORK", json!({"policy": "SCHED_OTHER"})),
        ("SCHED_FLAG_RECLAIM", times.clone()),
        ("SCHED_FLAG_DL_OVERRUN", times),
        ("SCHED_FLAG_KEEP_POLICY", json!({"policy": "SCHED_OTHER"})),
        ("SCHED_FLAG_KEEP_PARAMS", json!({"policy": "SCHED_OTHER"})),
        ("SCHED_FLAG_UTIL_CLAMP_MIN", json!({"policy": "SCHED_OTHER"})),
        ("SCHED_FLAG_UTIL_CLAMP_MAX", json!({"policy": "SCHED_OTHER"})),
    ] {
        scheduler["flags"] = json!([name]);
        let bundle = with("/process/scheduler", scheduler).args(&["true"]);
        let log = bundle.dir.join("trace");
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-e", "trace=sched_setattr", "-o"]).arg(&log).arg(common::ORLOP).arg("--root");
        command.arg(&bundle.store).args(["run", "--bundle"]).arg(&bundle.dir).arg(&bundle.id);
        command.stdin(std::process::Stdio::null());
        outcome(command);
        let trace = fs::read_to_string(log).expect("a trace");
        assert!(trace.contains(&format!("sched_flags={name}")), "{name}: {trace}");
    }
}

#[test]
fn a_scheduler_that_the_kernel_refuses_is_one_error_with_a_hint() {
    let bundle = with("/process/scheduler", json!({"policy": "SCHED_ISO"}));
    let said = outcome(bundle.making("create", &[])).fails("sched_setattr SCHED_ISO");
    assert!(said.contains("from /process/scheduler") && said.contains("SCHED_ISO everywhere"), "{said}");
    assert_eq!(bundle.status(), "none");
}

#[test]
fn the_io_priority_is_the_one_that_was_asked_for() {
    for (class, level, expected) in [
        ("IOPRIO_CLASS_BE", 6, "best-effort: prio 6"),
        ("IOPRIO_CLASS_RT", 1, "realtime: prio 1"),
        ("IOPRIO_CLASS_IDLE", 0, "idle"),
    ] {
        let bundle = with("/process/ioPriority", json!({"class": class, "priority": level}));
        bundle.up();
        for pid in [bundle.pid(), exec_sleep(&bundle, None)] {
            let said = Command::new("ionice").args(["-p", &pid.to_string()]).output().expect("ionice").stdout;
            assert_eq!(String::from_utf8_lossy(&said).trim(), expected);
        }
    }
}

#[test]
fn a_memory_policy_holds_for_the_container_and_for_exec() {
    for (policy, expected) in [
        (json!({"mode": "MPOL_BIND", "nodes": "0"}), "bind:0"),
        (json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}), "bind=static:0"),
        (json!({"mode": "MPOL_INTERLEAVE", "nodes": "0", "flags": ["MPOL_F_RELATIVE_NODES"]}), "interleave=relative:0"),
        (json!({"mode": "MPOL_PREFERRED", "nodes": "0"}), "prefer:0"),
        (json!({"mode": "MPOL_PREFERRED_MANY", "nodes": "0"}), "prefer (many):0"),
        (json!({"mode": "MPOL_LOCAL"}), "local"),
        (json!({"mode": "MPOL_DEFAULT"}), "default"),
    ] {
        let bundle = with("/linux/memoryPolicy", policy.clone());
        bundle.up();
        for pid in [bundle.pid(), exec_sleep(&bundle, None)] {
            let maps = fs::read_to_string(format!("/proc/{pid}/numa_maps")).expect("numa_maps");
            let stack = maps.lines().find(|line| line.contains(" stack")).expect("a stack");
            assert!(stack.contains(&format!(" {expected} ")), "{policy}: {stack}");
        }
    }
}

#[test]
fn a_memory_policy_of_nodes_that_are_not_there_is_an_error() {
    let bundle = with("/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "63"}));
    let said = outcome(bundle.making("create", &[])).fails("set_mempolicy MPOL_BIND nodes 63");
    assert!(said.contains("not online"), "{said}");
    assert_eq!(bundle.status(), "none");
}

/// runc's suite looks for the first words. A mode that nobody knows does not come as far as the rules.
#[test]
fn a_memory_policy_that_is_none_is_refused_in_place() {
    for (policy, words, place) in [
        (json!({"mode": "MPOL_BIND"}), "invalid memory policy: MPOL_BIND needs nodes", "nodes"),
        (json!({"mode": "MPOL_LOCAL", "nodes": "0"}), "invalid memory policy: MPOL_LOCAL takes no nodes", "nodes"),
        (json!({"mode": "MPOL_X", "nodes": "0"}), "unknown value `MPOL_X`", "mode"),
    ] {
        let bundle = with("/linux/memoryPolicy", policy);
        let said = outcome(bundle.making("create", &[])).fails(words);
        assert!(said.contains(&format!("from /linux/memoryPolicy/{place}")), "{said}");
        assert_eq!(bundle.status(), "none");
    }
}

#[test]
fn the_personality_is_a_32_bit_one_inside() {
    let bundle = with("/linux/personality", json!({"domain": "LINUX32"}));
    bundle.up();
    assert_eq!(bundle.inside("uname -m"), "i686");
    for pid in [bundle.pid(), exec_sleep(&bundle, None)] {
        let persona = fs::read_to_string(format!("/proc/{pid}/personality")).expect("personality");
        assert_eq!(persona.trim(), "00000008");
    }
    let plain = with("/linux/personality", json!({"domain": "LINUX"}));
    plain.up();
    assert_eq!(plain.inside("uname -m"), std::env::consts::ARCH);
}

#[test]
fn an_exec_runs_on_the_processors_that_were_asked_for() {
    let bundle = Bundle::sleeper();
    bundle.up();
    let before = proc_status(bundle.pid(), "Cpus_allowed_list");
    let own = |affinity: Value| {
        let pid = exec_sleep(&bundle, Some(process(json!({"execCPUAffinity": affinity}))));
        proc_status(pid, "Cpus_allowed_list")
    };
    assert_eq!(own(json!({"final": "0"})), "0");
    // Without a final one the kernel decides: entering a cpuset gives back what that allows, up to Linux 6.1 at least.
    assert!(["1", before.as_str()].contains(&own(json!({"initial": "1"})).as_str()));
    assert_eq!(own(json!({"initial": "0", "final": "1"})), "1");
    assert_eq!(own(json!({"initial": "", "final": ""})), before);
    assert_eq!(proc_status(bundle.pid(), "Cpus_allowed_list"), before, "the container's own is left alone");
}

/// Entering a cpuset may give back what was set before, so that the kernel is watched: first the mask, then the clone.
#[test]
fn the_initial_processors_are_set_before_the_process_is_cloned() {
    let bundle = Bundle::sleeper();
    bundle.up();
    let (file, log) = (bundle.dir.join("process.json"), bundle.dir.join("trace"));
    let mut asked = process(json!({"execCPUAffinity": {"initial": "1"}}));
    asked["args"] = json!(["true"]);
    fs::write(&file, asked.to_string()).expect("process.json");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "trace=sched_setaffinity,clone3", "-e", "signal=none", "-o"]).arg(&log);
    command.arg(common::ORLOP).arg("--root").arg(&bundle.store).args(["exec", "--process"]).arg(file).arg(&bundle.id);
    command.stdin(std::process::Stdio::null());
    outcome(command).well();
    let trace = fs::read_to_string(log).expect("a trace");
    let line = |words: [&str; 3]| {
        let found = trace.lines().position(|line| words.iter().all(|word| line.contains(word)));
        found.unwrap_or_else(|| panic!("no {words:?}: {trace}"))
    };
    assert!(line(["sched_setaffinity(", ", [1])", "= 0"]) < line(["clone3(", "CLONE_INTO_CGROUP", "= "]), "{trace}");
}

/// The initial processors are those of the runtime only until its process is there.
#[test]
fn a_foreground_exec_itself_is_not_bound_to_the_initial_processors() {
    let bundle = Bundle::sleeper();
    bundle.up();
    let file = bundle.dir.join("process.json");
    fs::write(&file, process(json!({"execCPUAffinity": {"initial": "0"}})).to_string()).expect("process.json");
    let mut command = bundle.command(&["exec", "--process"]);
    command.arg(file).arg(&bundle.id);
    let mut running = begin(command);
    let pid = running.child.id();
    let children = format!("/proc/{pid}/task/{pid}/children");
    common::wait(|| {
        let children = fs::read_to_string(&children).unwrap_or_default();
        let Some(child) = children.split_whitespace().next().and_then(|child| child.parse::<u32>().ok()) else {
            return false;
        };
        fs::read_to_string(format!("/proc/{child}/comm")).is_ok_and(|comm| comm.trim() == "sleep")
    });
    let own = proc_status(std::process::id(), "Cpus_allowed_list");
    assert_eq!(proc_status(pid, "Cpus_allowed_list"), own);
    bundle.on("delete", &["--force"]).well();
    running.child.wait().expect("wait");
}

#[test]
fn processors_that_are_not_there_are_an_error_that_says_which() {
    let bundle = Bundle::sleeper();
    bundle.up();
    for (affinity, place, words) in [
        (json!({"initial": "4000"}), "/process/execCPUAffinity/initial", "sched_setaffinity"),
        (json!({"final": "4000"}), "/process/execCPUAffinity/final", "sched_setaffinity 4000"),
        (json!({"final": "3-1"}), "/process/execCPUAffinity/final", "not a range"),
    ] {
        let file = bundle.dir.join("process.json");
        fs::write(&file, process(json!({"execCPUAffinity": affinity})).to_string()).expect("process.json");
        let mut command = bundle.command(&["exec", "--process"]);
        command.arg(file).arg(&bundle.id);
        let said = outcome(command).fails(words);
        assert!(said.contains(place), "{said}");
    }
    assert_eq!(bundle.status(), "running");
}
