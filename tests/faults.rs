//! Whatever call of the runtime is its last, or fails: one error, nothing left behind, and a container that was there
//! before is unharmed.
//!
//! strace(1) kills the runtime before a call, or lets a call fail. `ORLOP_ROUNDS` greater than 1 takes every call in
//! turn; else some of them, evenly spread.

mod common;
#[path = "common/mountinfo.rs"]
mod mountinfo;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Bundle, Outcome, alive, outcome, value, wait};
use serde_json::json;

/// How many places of a sweep are tried when not all are.
const SOME: usize = 8;
/// Calls that change nothing outside of the process and can't wait. The C library makes most of them on its own.
const EFFECTLESS: &[&str] = &[
    "access",
    "arch_prctl",
    "brk",
    "close",
    "dup",
    "execve",
    "exit",
    "exit_group",
    "faccessat2",
    "fcntl",
    "fstatfs",
    "futex",
    "getcwd",
    "getdents64",
    "getegid",
    "geteuid",
    "getgid",
    "getpid",
    "getrandom",
    "getuid",
    "lseek",
    "madvise",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    "newfstatat",
    "prlimit64",
    "readlink",
    "readlinkat",
    "restart_syscall",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "set_robust_list",
    "set_tid_address",
    "statfs",
    "statx",
    "umask",
    "uname",
];

fn rounds() -> usize {
    std::env::var("ORLOP_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// All of them in a full sweep, else [`SOME`], spread evenly, with the first and the last.
fn chosen<T: Clone>(all: &[T]) -> Vec<T> {
    if rounds() > 1 || all.len() <= SOME {
        return all.to_vec();
    }
    (0..SOME).map(|at| all[at * (all.len() - 1) / (SOME - 1)].clone()).collect()
}

/// A container with its own cgroup path, which uses a good part of what there is.
fn named(args: &[&str]) -> Bundle {
    let bundle = Bundle::new().args(args);
    let path = format!("/{}", bundle.id);
    bundle.edit(|config| config["linux"]["cgroupsPath"] = json!(path))
}

/// The same with a user namespace and an ordinary user.
fn mapped(args: &[&str]) -> Bundle {
    common::mapped(named(args)).edit(|config| config["process"]["user"] = json!({"uid": 1000, "gid": 1000}))
}

fn cgroup(bundle: &Bundle) -> PathBuf {
    PathBuf::from(format!("/sys/fs/cgroup/{}", bundle.id))
}

/// The living processes of the container's cgroup.
fn processes(bundle: &Bundle) -> Vec<u32> {
    let procs = value(cgroup(bundle).join("cgroup.procs")).unwrap_or_default();
    procs.lines().filter_map(|pid| pid.parse().ok()).filter(|pid| alive(*pid)).collect()
}

/// Processes of the runtime that have to do with this container, by their command line, which a child wipes, by what they hold
/// open, or by their mounts.
fn strays(bundle: &Bundle) -> Vec<u32> {
    let pids =
        fs::read_dir("/proc").expect("procfs").flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let named = |file: String| fs::read(file).is_ok_and(|text| String::from_utf8_lossy(&text).contains(&bundle.id));
    let holds = |pid: &u32| {
        let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        links.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|path| path.to_string_lossy().contains(&bundle.id))
    };
    let ours = |pid: &u32| {
        let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        exe.file_name().is_some_and(|name| name == "orlop" || name == "memfd:orlop (deleted)")
            && (named(format!("/proc/{pid}/cmdline")) || named(format!("/proc/{pid}/mountinfo")) || holds(pid))
    };
    pids.filter(ours).filter(|pid| alive(*pid)).collect()
}

#[track_caller]
fn nothing_is_left(bundle: &Bundle, place: &str) {
    wait(|| strays(bundle).is_empty());
    assert!(!bundle.state_dir().exists(), "{place}: the state is left");
    assert!(!cgroup(bundle).exists(), "{place}: the cgroup is left, with {:?}", processes(bundle));
    let mounts = value("/proc/self/mountinfo").expect("mountinfo");
    assert!(!mounts.contains(&bundle.id), "{place}: a mount is left");
}

/// The container runs as before, alone, and takes another process.
#[track_caller]
fn unharmed(bundle: &Bundle, pid: u32, place: &str) {
    wait(|| strays(bundle).is_empty());
    assert_eq!((bundle.status().as_str(), bundle.pid()), ("running", pid), "{place}");
    assert_eq!(bundle.inside("echo in"), "in", "{place}");
    wait(|| processes(bundle) == [pid]);
}

/// Another container of the same store, which must not notice anything. Dropped before the store is.
struct Neighbour(Bundle, u32);

impl Neighbour {
    fn of(bundle: &Bundle) -> Self {
        let mut neighbour = named(&["sleep", "1000"]);
        neighbour.store = bundle.store.clone();
        neighbour.up();
        let pid = neighbour.pid();
        Self(neighbour, pid)
    }

    #[track_caller]
    fn is_unharmed(&self) {
        unharmed(&self.0, self.1, "another container");
    }
}

/// What strace(1) has seen and done.
struct Traced {
    outcome: Outcome,
    log: String,
}

/// Runs a command of the runtime under strace. `follow`: with the processes that it clones, to the end of all of them.
fn traced(bundle: &Bundle, command: &Command, follow: bool, inject: Option<&str>) -> Traced {
    let log = bundle.dir.join("strace");
    let mut strace = Command::new("strace");
    strace.args(["-q", "-o"]).arg(&log).args(follow.then_some("-f"));
    strace.args(inject.map(|inject| ["-e", inject]).iter().flatten());
    strace.arg(command.get_program()).args(command.get_args()).stdin(std::process::Stdio::null());
    let outcome = outcome(strace);
    Traced { outcome, log: fs::read_to_string(log).expect("strace's log") }
}

/// A call to be hit: its name, and which one of that name in its process.
type Place = (String, u32);

/// How often each process makes each call until it is another program, the runtime itself first.
fn calls(log: &str, followed: bool) -> Vec<BTreeMap<String, u32>> {
    let mut order = Vec::new();
    let mut counts: Vec<BTreeMap<String, u32>> = Vec::new();
    for line in log.lines() {
        let (pid, call) = if followed { line.split_once(' ').unwrap_or_default() } else { ("", line) };
        let call = call.trim_start();
        let Some((name, _)) = call.split_once('(').filter(|_| !call.starts_with(['<', '+', '-'])) else { continue };
        let at = order.iter().position(|other| *other == pid).unwrap_or_else(|| {
            order.push(pid);
            counts.push(BTreeMap::new());
            order.len() - 1
        });
        if at == 0 || !counts[at].contains_key("execve") {
            *counts[at].entry(name.to_owned()).or_default() += 1;
        }
    }
    counts
}

/// Every call that has an effect or waits. `child`: only those that the runtime itself does not come to first.
fn places(log: &str, followed: bool, child: bool) -> Vec<Place> {
    let counts = calls(log, followed);
    let own = counts[0].clone();
    let mut most = BTreeMap::<String, u32>::new();
    for (name, count) in counts.into_iter().flatten().filter(|(name, _)| !EFFECTLESS.contains(&name.as_str())) {
        let known = most.entry(name).or_default();
        *known = (*known).max(count);
    }
    let first = |name: &String| if child { own.get(name).copied().unwrap_or(0) + 1 } else { 1 };
    most.into_iter().flat_map(|(name, count)| (first(&name)..=count).map(move |when| (name.clone(), when))).collect()
}

/// Kills the runtime before each of its calls in turn.
fn kill_everywhere(bundle: &Bundle, command: &dyn Fn() -> Command, prepare: &dyn Fn(), check: &dyn Fn(&str)) {
    prepare();
    let whole = traced(bundle, &command(), false, None);
    assert!(whole.outcome.code.is_some(), "{}", whole.log);
    check("not killed");
    let all = places(&whole.log, false, false);
    assert!(all.len() > 10, "{}", whole.log);
    let mut killed = 0;
    for (name, when) in chosen(&all) {
        prepare();
        let inject = format!("inject={name}:signal=KILL:when={when}");
        let traced = traced(bundle, &command(), false, Some(&inject));
        // how often it polls and reads depends on time
        killed += usize::from(traced.log.ends_with("+++ killed by SIGKILL +++\n"));
        check(&inject);
    }
    assert!(killed > SOME / 2, "{killed} of {}", all.len());
}

/// A run that is killed leaves nothing that the next command, whichever it is, would stumble over.
fn run_killed_everywhere(bundle: &Bundle, verb: &str, args: &[&str]) {
    let again = std::cell::Cell::new(false);
    let neighbour = Neighbour::of(bundle);
    let check = |place: &str| {
        // what is not finished dies with its runtime
        if !matches!(bundle.status().as_str(), "created" | "running") {
            wait(|| processes(bundle).is_empty());
        }
        again.set(!again.get());
        if again.get() && matches!(bundle.status().as_str(), "none" | "creating") {
            outcome(bundle.making("run", &["--detach"])).well();
        }
        bundle.on("delete", &["--force"]).well();
        nothing_is_left(bundle, place);
    };
    kill_everywhere(bundle, &|| bundle.making(verb, args), &|| (), &check);
    neighbour.is_unharmed();
}

#[test]
fn a_detached_run_that_is_killed_leaves_nothing_in_the_way() {
    run_killed_everywhere(&named(&["sleep", "1000"]), "run", &["--detach"]);
}

#[test]
fn a_foreground_run_that_is_killed_leaves_nothing_in_the_way() {
    run_killed_everywhere(&named(&["true"]), "run", &[]);
}

#[test]
fn a_create_that_is_killed_leaves_nothing_in_the_way() {
    run_killed_everywhere(&mapped(&["sleep", "1000"]), "create", &[]);
}

/// Kills a command on a running container everywhere.
fn unharmed_everywhere(bundle: &Bundle, verb: &str, args: &[&str]) {
    bundle.up();
    let pid = bundle.pid();
    let command = || bundle.command(&[&[verb, &bundle.id], args].concat());
    kill_everywhere(bundle, &command, &|| (), &|place| unharmed(bundle, pid, place));
    bundle.on("delete", &["--force"]).well();
    nothing_is_left(bundle, verb);
}

#[test]
fn an_exec_that_is_killed_leaves_its_container_unharmed() {
    unharmed_everywhere(&named(&["sleep", "1000"]), "exec", &["true"]);
}

#[test]
fn a_detached_exec_that_is_killed_leaves_its_container_unharmed() {
    let bundle = mapped(&["sleep", "1000"]);
    bundle.up();
    let pid = bundle.pid();
    let command = || bundle.command(&["exec", "--detach", &bundle.id, "true"]);
    kill_everywhere(&bundle, &command, &|| (), &|place| unharmed(&bundle, pid, place));
}

#[test]
fn a_kill_that_is_killed_leaves_its_container_unharmed() {
    unharmed_everywhere(&named(&["sleep", "1000"]), "kill", &["CONT"]);
}

/// Ends a pause, once the kernel has come to its end with what was asked of it.
fn thawed(bundle: &Bundle, looked: impl Fn(&str)) {
    let file = |name: &str| value(cgroup(bundle).join(name)).expect("a file of the cgroup");
    wait(|| file("cgroup.events").contains(&format!("frozen {}", file("cgroup.freeze"))));
    let status = bundle.status();
    looked(&status);
    if status == "paused" {
        bundle.on("resume", &[]).well();
    }
}

#[test]
fn a_pause_or_resume_that_is_killed_leaves_its_container_unharmed() {
    let bundle = named(&["sleep", "1000"]);
    bundle.up();
    let pid = bundle.pid();
    let check = |place: &str| {
        thawed(&bundle, |_| ());
        unharmed(&bundle, pid, place);
    };
    kill_everywhere(&bundle, &|| bundle.command(&["pause", &bundle.id]), &|| (), &check);
    let paused = || drop(bundle.on("pause", &[]).well());
    kill_everywhere(&bundle, &|| bundle.command(&["resume", &bundle.id]), &paused, &check);
}

/// Other rules for devices, which need no controller.
fn updating(bundle: &Bundle) -> Command {
    let file = bundle.dir.join("resources.json");
    let devices = json!([{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"}]);
    fs::write(&file, json!({"devices": devices}).to_string()).expect("resources.json");
    bundle.command(&["update", "-r", file.to_str().expect("UTF-8"), &bundle.id])
}

#[test]
fn an_update_that_is_killed_or_fails_can_be_done_again() {
    let bundle = named(&["sleep", "1000"]);
    bundle.up();
    let pid = bundle.pid();
    let again = |place: &str| {
        unharmed(&bundle, pid, place);
        outcome(updating(&bundle)).well();
    };
    kill_everywhere(&bundle, &|| updating(&bundle), &|| (), &again);
    let check = |_: &Traced, place: &str| again(place);
    hit_everywhere(&bundle, (ALL, Follow::Runtime), &|| updating(&bundle), &|| (), &check);
}

#[test]
fn a_start_that_is_killed_has_started_its_container_or_not() {
    let bundle = named(&["sleep", "1000"]);
    let check = |place: &str| {
        let status = bundle.status();
        let program = || fs::read_to_string(format!("/proc/{}/comm", bundle.pid())).expect("comm");
        match status.as_str() {
            "created" => assert!(program().starts_with("orlop"), "{place}: {}", program()),
            "running" => assert_eq!(program(), "sleep\n", "{place}"),
            other => panic!("{place}: {other}"),
        }
        if status == "created" {
            bundle.start();
        }
        unharmed(&bundle, bundle.pid(), place);
        bundle.on("delete", &["--force"]).well();
        nothing_is_left(&bundle, place);
    };
    kill_everywhere(&bundle, &|| bundle.command(&["start", &bundle.id]), &|| drop(bundle.create()), &check);
}

#[test]
fn a_delete_that_is_killed_can_be_done_again() {
    let bundle = named(&["sleep", "1000"]);
    let check = |place: &str| {
        bundle.on("delete", &["--force"]).well();
        nothing_is_left(&bundle, place);
    };
    let stopped = || {
        bundle.up();
        let pid = bundle.pid();
        bundle.on("kill", &["KILL"]).well();
        wait(|| !alive(pid));
    };
    kill_everywhere(&bundle, &|| bundle.command(&["delete", &bundle.id]), &stopped, &check);
    let up = || drop(bundle.up());
    kill_everywhere(&bundle, &|| bundle.command(&["delete", "--force", &bundle.id]), &up, &check);
}

/// It said one error, unless that is what could not be written; a warning beside it is no error.
#[track_caller]
fn one_error(traced: &Traced, place: &str) {
    let said = traced.outcome.stderr();
    if traced.log.lines().any(|line| line.contains(" write(2,") && line.ends_with("(INJECTED)")) {
        return assert_eq!(said, "", "{place}");
    }
    let errors = said.lines().filter(|line| line.starts_with("orlop: ") && !line.starts_with("orlop: warning: "));
    assert!(!matches!(traced.outcome.code, Some(0) | None), "{place}: {:?}, {said}", traced.outcome.code);
    assert_eq!(errors.count(), 1, "{place}: {said}");
    assert!(!said.contains("panicked"), "{place}: {said}");
}

/// What the programs of the following tests end with, so that strace's log shows that they ran. They make no
/// call that is hit.
const RAN: i32 = 7;
const PROGRAM: &[&str] = &["sh", "-c", "exit 7"];

impl Traced {
    fn ran(&self) -> bool {
        self.log.contains(&format!("+++ exited with {RAN} +++"))
    }
}

/// Hits each call of a command and of its processes: `with` one of these in turn. Whatever fails says one error;
/// then `check`.
fn hit_everywhere(
    bundle: &Bundle,
    (with, follow): (&[&str], Follow),
    command: &dyn Fn() -> Command,
    prepare: &dyn Fn(),
    check: &dyn Fn(&Traced, &str),
) {
    prepare();
    let followed = follow != Follow::Runtime;
    let all = places(&traced(bundle, &command(), followed, None).log, followed, follow == Follow::Child);
    assert!(all.len() > 10, "{all:?}");
    for (index, (name, when)) in chosen(&all).into_iter().enumerate() {
        for what in with.iter().skip(index % with.len()).take(if rounds() > 1 { with.len() } else { 1 }) {
            // It says that another holds the lock, and is left to him.
            if (name.as_str(), *what) == ("flock", "error=EAGAIN") {
                continue;
            }
            prepare();
            let inject = format!("inject={name}:{what}:when={when}");
            let traced = traced(bundle, &command(), followed, Some(&inject));
            if follow == Follow::Child && traced.outcome.code.is_none() {
                // The runtime itself has come to that call, on its way to an error: not what is asked here.
                if bundle.status() != "running" {
                    bundle.on("delete", &["--force"]).well();
                }
                continue;
            }
            if !matches!(traced.outcome.code, Some(0 | RAN)) {
                one_error(&traced, &inject);
            }
            check(&traced, &inject);
        }
    }
}

/// Whose calls are hit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Follow {
    Runtime,
    RuntimeAndChild,
    Child,
}

const ALL: &[&str] =
    &["error=EIO", "error=ENOSPC", "error=EPERM", "error=EINTR", "error=EAGAIN", "error=ENOMEM", "error=EMFILE"];
const ERRORS: (&[&str], Follow) = (ALL, Follow::RuntimeAndChild);
const KILL: (&[&str], Follow) = (&["signal=KILL"], Follow::Child);

fn run_hit_everywhere(bundle: &Bundle, with: (&[&str], Follow)) {
    let check = |run: &Traced, place: &str| {
        if run.ran() {
            // its removal may have failed
            bundle.on("delete", &["--force"]).well();
        } else {
            assert_eq!(run.outcome.code, Some(1), "{place}: {}", run.outcome.stderr());
        }
        nothing_is_left(bundle, place);
    };
    let neighbour = Neighbour::of(bundle);
    hit_everywhere(bundle, with, &|| bundle.making("run", &[]), &|| (), &check);
    neighbour.is_unharmed();
}

#[test]
fn a_run_that_fails_leaves_nothing() {
    run_hit_everywhere(&named(PROGRAM), ERRORS);
    run_hit_everywhere(&mapped(PROGRAM), ERRORS);
}

#[test]
fn a_container_that_is_killed_on_its_way_leaves_nothing() {
    run_hit_everywhere(&named(PROGRAM), KILL);
    run_hit_everywhere(&mapped(PROGRAM), KILL);
}

#[test]
fn a_create_that_fails_leaves_nothing() {
    let bundle = mapped(&["sleep", "1000"]);
    let check = |create: &Traced, place: &str| {
        if create.outcome.code == Some(0) {
            assert_eq!(bundle.status(), "created", "{place}");
            bundle.on("delete", &["--force"]).well();
        }
        nothing_is_left(&bundle, place);
    };
    let none_before = || drop(bundle.on("delete", &["--force"]));
    hit_everywhere(&bundle, (ALL, Follow::Runtime), &|| bundle.making("create", &[]), &none_before, &check);
}

fn exec_hit_everywhere(bundle: &Bundle, with: (&[&str], Follow)) {
    bundle.up();
    let pid = bundle.pid();
    let check = |exec: &Traced, place: &str| {
        let failed = exec.outcome.code == Some(255);
        assert!(failed || exec.ran() && exec.outcome.code == Some(RAN), "{place}: {}", exec.outcome.stderr());
        unharmed(bundle, pid, place);
    };
    let command = || bundle.command(&[&["exec", bundle.id.as_str()], PROGRAM].concat());
    hit_everywhere(bundle, with, &command, &|| (), &check);
}

#[test]
fn an_exec_that_fails_leaves_its_container_unharmed() {
    exec_hit_everywhere(&named(&["sleep", "1000"]), ERRORS);
    exec_hit_everywhere(&mapped(&["sleep", "1000"]), ERRORS);
}

#[test]
fn a_process_that_is_killed_on_its_way_leaves_its_container_unharmed() {
    exec_hit_everywhere(&named(&["sleep", "1000"]), KILL);
    exec_hit_everywhere(&mapped(&["sleep", "1000"]), KILL);
}

#[test]
fn a_delete_that_fails_can_be_done_again() {
    let bundle = named(&["sleep", "1000"]);
    let up = || {
        // what the last one has left
        bundle.on("delete", &["--force"]).well();
        bundle.up();
    };
    let check = |delete: &Traced, place: &str| {
        if delete.outcome.code == Some(0) {
            nothing_is_left(&bundle, place);
        }
        bundle.on("delete", &["--force"]).well();
        nothing_is_left(&bundle, place);
    };
    hit_everywhere(&bundle, ERRORS, &|| bundle.command(&["delete", "--force", &bundle.id]), &up, &check);
}

#[test]
fn a_start_that_fails_leaves_a_container_that_can_be_deleted() {
    let bundle = named(&["sleep", "1000"]);
    let created = || {
        bundle.on("delete", &["--force"]).well();
        bundle.create();
    };
    let check = |start: &Traced, place: &str| {
        if start.outcome.code == Some(0) {
            let program = fs::read_to_string(format!("/proc/{}/comm", bundle.pid())).expect("comm");
            assert_eq!((bundle.status().as_str(), program.as_str()), ("running", "sleep\n"), "{place}");
        }
        bundle.on("delete", &["--force"]).well();
        nothing_is_left(&bundle, place);
    };
    hit_everywhere(&bundle, (ALL, Follow::Runtime), &|| bundle.command(&["start", &bundle.id]), &created, &check);
}

#[test]
fn what_fails_on_a_running_container_leaves_it_unharmed() {
    let bundle = named(&["sleep", "1000"]);
    bundle.up();
    let pid = bundle.pid();
    let check = |_: &Traced, place: &str| {
        thawed(&bundle, |_| ());
        unharmed(&bundle, pid, place);
    };
    let with = (ALL, Follow::Runtime);
    hit_everywhere(&bundle, with, &|| bundle.command(&["kill", &bundle.id, "CONT"]), &|| (), &check);
    let taken_back = |pause: &Traced, place: &str| {
        let failed = pause.outcome.code != Some(0);
        thawed(&bundle, |was| {
            assert!(!(failed && was == "paused"), "{place}: it has failed, and the container is paused")
        });
        check(pause, place);
    };
    let running = || thawed(&bundle, |_| ());
    hit_everywhere(&bundle, with, &|| bundle.command(&["pause", &bundle.id]), &running, &taken_back);
    let paused = || drop(bundle.on("pause", &[]).well());
    hit_everywhere(&bundle, with, &|| bundle.command(&["resume", &bundle.id]), &paused, &check);
}

/// Calls that put a guard up, or take something away.
const GUARDS: &[&str] = &[
    "bpf",
    "capset",
    "close_range",
    "fsconfig",
    "fsmount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "openat2",
    "pivot_root",
    "prctl",
    "prlimit64",
    "seccomp",
    "setgroups",
    "setresgid",
    "setresuid",
    "setsid",
    "umount2",
    "write",
];

/// A bundle that asks for every guard that is seen from outside.
fn guarded() -> Bundle {
    let profile = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/seccomp-profiles/default.json")).expect("a profile");
    let profile: serde_json::Value = serde_json::from_slice(&profile).expect("JSON");
    named(&["sleep", "1000"]).edit(|config| {
        config["process"]["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [5, 6], "umask": 0o77});
        config["process"]["noNewPrivileges"] = json!(true);
        config["process"]["oomScoreAdj"] = json!(77);
        config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 55, "hard": 66}]);
        config["root"]["readonly"] = json!(true);
        config["linux"]["seccomp"] = profile;
        config["linux"]["maskedPaths"] = json!(["/proc/keys", "/proc/timer_list", "/sys/firmware"]);
        config["linux"]["readonlyPaths"] = json!(["/proc/sys", "/proc/irq", "/proc/bus"]);
        config["linux"]["rootfsPropagation"] = json!("rprivate");
    })
}

/// What the kernel has of a process and its mounts, without what differs from one container to the next.
fn posture(pid: u32) -> String {
    const STATUS: &[&str] =
        &["Umask", "Uid", "Gid", "Groups", "Cap", "NoNewPrivs", "Seccomp", "SigBlk", "SigIgn", "SigCgt"];
    let file = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).expect("a file of the process");
    let link = |of: &str, name: &str| fs::read_link(format!("/proc/{of}/{name}")).expect("a link of the process");
    let status = file("status");
    let status = status.lines().filter(|line| STATUS.iter().any(|field| line.starts_with(field))).map(str::to_owned);
    let mounts = file("mountinfo");
    let mounts = mounts.lines().filter_map(mountinfo::line).map(|mount| format!("{mount:?}"));
    let kinds = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
    let own = kinds.iter().filter(|kind| {
        let name = format!("ns/{kind}");
        link(&pid.to_string(), &name) != link("self", &name)
    });
    let own = own.map(|kind| format!("its own {kind}"));
    let mut open: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd")).expect("fd").flatten().collect();
    open.sort_by_key(fs::DirEntry::file_name);
    let open = open.iter().map(|entry| format!("open {:?}", entry.file_name()));
    let others = ["limits", "oom_score_adj", "cgroup", "uid_map", "gid_map", "environ", "personality"].map(file);
    status.chain(mounts).chain(own).chain(open).chain(others).collect::<Vec<_>>().join("\n")
}

/// The posture of the container, once its program runs; None when it does not come to that.
fn posture_of_a_run(bundle: &Bundle, inject: &str) -> Option<String> {
    let mut strace = Command::new("strace");
    strace.args(["-qq", "-f", "-o", "/dev/null", "-e", inject]);
    let run = bundle.making("run", &[]);
    strace.arg(run.get_program()).args(run.get_args()).stdin(std::process::Stdio::null());
    let mut running = common::begin(strace);
    let deadline = Instant::now() + Duration::from_secs(30);
    // In its own call, and so past its execve.
    let sleeps = [libc::SYS_nanosleep, libc::SYS_clock_nanosleep].map(|number| format!("{number} "));
    let is_program = |pid: &u32| {
        value(format!("/proc/{pid}/syscall")).is_ok_and(|call| sleeps.iter().any(|number| call.starts_with(number)))
    };
    let posture = loop {
        if let Some(pid) = processes(bundle).into_iter().find(is_program) {
            break Some(posture(pid));
        }
        if running.child.try_wait().expect("wait").is_some() {
            break None;
        }
        assert!(Instant::now() < deadline, "{inject}: it neither runs nor ends");
        std::thread::sleep(Duration::from_millis(2));
    };
    bundle.on("delete", &["--force"]).well();
    running.end();
    posture
}

/// A call that fails is the end of the start, or something else does the same: no guard is left out.
#[test]
fn a_start_with_an_error_on_its_way_has_every_guard() {
    let bundle = guarded();
    let log = bundle.dir.join("strace");
    let mut all = Vec::new();
    let usual = posture_of_a_run(&bundle, "trace=all").expect("it runs");
    let run = bundle.edit(|config| config["process"]["args"] = json!(["true"]));
    let bundle = run;
    let whole = traced(&bundle, &bundle.making("run", &[]), true, None);
    assert_eq!(whole.outcome.code, Some(0), "{}", whole.outcome.stderr());
    for name in GUARDS {
        let most = calls(&whole.log, true).iter().filter_map(|process| process.get(*name).copied()).max().unwrap_or(0);
        all.extend((1..=most).map(|when| (*name, when)));
    }
    assert!(all.len() > 60, "{}", log.display());
    let bundle = bundle.edit(|config| config["process"]["args"] = json!(["sleep", "1000"]));
    let errors = ["EPERM", "EINVAL", "ENOSYS", "EINTR"];
    let step = if rounds() > 1 { 1 } else { all.len() / 24 };
    let mut ran = 0;
    for (index, (name, when)) in all.iter().enumerate().step_by(step) {
        for error in errors.iter().skip(index % errors.len()).take(if rounds() > 1 { errors.len() } else { 1 }) {
            let inject = format!("inject={name}:error={error}:when={when}");
            if let Some(posture) = posture_of_a_run(&bundle, &inject) {
                assert!(posture == usual, "{inject}:\n{}", difference(&usual, &posture));
                ran += 1;
            }
            nothing_is_left(&bundle, &inject);
        }
    }
    println!("{ran} could start");
}

/// The lines that only one of two texts has.
fn difference(usual: &str, other: &str) -> String {
    let only = |sign: char, of: &str, not: &str| -> String {
        of.lines()
            .filter(|line| !not.lines().any(|other| other == *line))
            .map(|line| format!("{sign} {line}\n"))
            .collect()
    };
    only('-', usual, other) + &only('+', other, usual)
}

/// A command in a mount namespace of its own, in which `mount` has been done.
fn with_mount(bundle: &Bundle, mount: &str, verb: &str, args: &[&str]) -> Outcome {
    let line = format!("{mount} && exec \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &line, "sh"]);
    let own = bundle.making(verb, args);
    command.arg(own.get_program()).args(own.get_args()).stdin(std::process::Stdio::null());
    outcome(command)
}

#[test]
fn a_state_directory_that_cant_be_written_to_is_one_error() {
    let bundle = named(&["true"]);
    fs::create_dir(&bundle.store).expect("the root");
    let store = bundle.store.display();
    for verb in ["create", "run"] {
        let said = with_mount(&bundle, &format!("mount -t tmpfs -o ro none {store}"), verb, &[])
            .fails("read-only file system");
        assert!(said.contains("--root"), "{said}");
        nothing_is_left(&bundle, verb);
    }
}

/// Full at each step: the directory, the configuration, the state, the page of the report, the fifo.
#[test]
fn a_full_state_directory_is_one_error() {
    let bundle = named(&["true"]);
    fs::create_dir(&bundle.store).expect("the root");
    let store = bundle.store.display();
    for (limit, verb) in [("size=4k", "create"), ("size=8k", "create"), ("size=12k", "create"), ("size=4k", "run")] {
        let said = with_mount(&bundle, &format!("mount -t tmpfs -o {limit} none {store}"), verb, &[]);
        said.fails("no space left on device");
        nothing_is_left(&bundle, limit);
    }
    for inodes in 1..7 {
        let mount = format!("mount -t tmpfs -o nr_inodes={inodes} none {store}");
        let said = with_mount(&bundle, &mount, "create", &[]);
        said.fails("no space left on device");
        nothing_is_left(&bundle, &mount);
    }
}
