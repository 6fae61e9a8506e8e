//! Whatever call of the runtime is its last, or fails: one error, nothing left behind, and a container that was there
//! before is unharmed.
//!
//! strace(1) kills the runtime before a call, or lets a call fail. `ORLOP_ROUNDS` greater than 1 takes every call in
//! turn; else some of them, evenly spread.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

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
    assert!(all.len() > 20, "{all:?}");
    for (index, (name, when)) in chosen(&all).into_iter().enumerate() {
        for what in with.iter().skip(index % with.len()).take(if rounds() > 1 { with.len() } else { 1 }) {
            prepare();
            let inject = format!("inject={name}:{what}:when={when}");
            let traced = traced(bundle, &command(), followed, Some(&inject));
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

const ALL: &[&str] = &["error=EIO", "error=ENOSPC", "error=EPERM"];
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
    hit_everywhere(bundle, with, &|| bundle.making("run", &[]), &|| (), &check);
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
