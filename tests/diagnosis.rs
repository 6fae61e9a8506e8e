//! Why a container does not start, where the kernel's errno alone misleads: each cause is made, and must be named.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

mod common;
use common::{Bundle, ORLOP, begin, outcome, wait};

/// `orlop run` of the bundle by `command`, which ends in the words of a program to execute.
fn run_by(bundle: &Bundle, mut command: Command) -> common::Outcome {
    command.arg(ORLOP).arg("--root").arg(&bundle.store).args(["run", "--bundle"]).arg(&bundle.dir).arg(&bundle.id);
    command.stdin(Stdio::null());
    outcome(command)
}

#[test]
fn a_capability_that_the_runtime_itself_lacks_is_named() {
    for (capability, place) in [
        ("sys_admin", "/linux/namespaces"),
        ("net_admin", "/linux/namespaces"),
        ("setgid", "/process/user"),
        ("setpcap", "/process/capabilities/bounding"),
    ] {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", &format!("-{capability}")]);
        let said = run_by(&Bundle::new(), command).fails(place);
        let name = capability.to_uppercase();
        assert!(said.contains(&format!("the runtime itself has no CAP_{name}")), "{said}");
    }
}

/// In its own user namespace the process has them all over what is its own: the reason is another.
#[test]
fn with_a_user_namespace_the_runtimes_capabilities_are_not_blamed() {
    let bundle = Bundle::new().with_user().edit(|config| config["hostname"] = json!("x".repeat(65)));
    let said = bundle.run().fails("/hostname");
    assert!(!said.contains("the runtime itself has no"), "{said}");
}

/// The kernel gives nobody a procfs that shows more than the one that is there (mount_too_revealing).
#[test]
fn a_masked_outer_procfs_is_named_when_a_new_one_is_refused() {
    let script = "mount --bind /dev/null /proc/version && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-mpf", "--mount-proc", "sh", "-c", script, "sh"]);
    let said = run_by(&Bundle::new().with_user(), command).fails("/mounts/0");
    assert!(said.contains("something masked in the outer /proc or /sys forbids it"), "{said}");
}

/// `command` by a process for which this call fails with EPERM, as an outer runtime's seccomp profile has it.
fn under_a_filter(call: i64, run: impl FnOnce() -> common::Outcome + Send) -> common::Outcome {
    let instruction = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let filter = [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, call as u32),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    // It is the filter of one thread, and of whom that thread starts.
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
            orlop::sys::seccomp(libc::SECCOMP_SET_MODE_FILTER, 0, &program).expect("load the filter");
            run()
        });
        thread.join().expect("the thread")
    })
}

#[test]
fn a_seccomp_filter_on_the_runtime_itself_is_named() {
    const WORDS: &str = "the runtime itself runs under a seccomp filter";
    for (call, place) in [(libc::SYS_fsopen, "/mounts/0"), (libc::SYS_pivot_root, "operation not permitted")] {
        let bundle = Bundle::new();
        let said = under_a_filter(call, || bundle.run()).fails(place);
        assert!(said.contains(WORDS) && !said.contains("user namespace"), "{said}");
    }
    // A reason that is known comes first.
    let said = under_a_filter(libc::SYS_fsopen, || Bundle::new().with_user().run()).fails("/mounts/0");
    assert!(said.contains("in a user namespace"), "{said}");
}

/// The quota is the kernel's, for the whole host, so strace(1) answers in its place.
#[test]
fn a_keyring_quota_that_is_used_up_is_named() {
    let bundle = Bundle::new();
    let log = bundle.dir.join("trace");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "trace=keyctl", "-e", "inject=keyctl:error=EDQUOT", "-o"]).arg(log);
    let said = run_by(&bundle, command).fails("keyring");
    assert!(said.contains("kernel.keys.maxkeys") && said.contains("--no-new-keyring"), "{said}");
}

#[test]
#[ignore = "needs the memory controller, which the machine has"]
fn a_memory_limit_too_low_to_start_with_is_named() {
    let bundle = Bundle::new().edit(|config| {
        config["linux"]["resources"]["memory"] = json!({"limit": 65536, "swap": 65536});
    });
    let said = bundle.run().fails("container init was OOM-killed (memory limit too low?)");
    assert!(!bundle.state_dir().exists(), "{said}");
}

/// A container whose process is killed by a hook of its runtime, before its program.
fn killed_by_a_hook(bundle: Bundle) -> Bundle {
    let script = r#"kill -9 "$(sed 's/.*"pid":\([0-9]*\).*/\1/')""#;
    bundle.edit(|config| {
        config["hooks"]["createRuntime"] = json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
    })
}

fn not_blamed_on_memory(said: &str) {
    assert!(!said.contains("OOM-killed") && !said.contains("limit"), "{said}");
}

#[test]
fn a_process_that_somebody_kills_is_not_called_oom_killed() {
    for verb in ["run", "create"] {
        let bundle = killed_by_a_hook(Bundle::new());
        not_blamed_on_memory(&outcome(bundle.making(verb, &[])).fails("the process was ended by signal 9"));
    }
    let bundle = waits_in_start(Bundle::new());
    let mut start = begin(bundle.command(&["start", &bundle.id]));
    wait(|| in_a_hook(&bundle));
    let killed = bundle.on("kill", &["KILL"]);
    if killed.code != Some(0) {
        // It would wait, and keep the container from being deleted.
        start.child.kill().expect("kill");
    }
    killed.well();
    not_blamed_on_memory(&start.end().fails("the process ended before its execve"));
}

/// Its first process waits for another one.
fn in_a_hook(bundle: &Bundle) -> bool {
    let pid = bundle.pid();
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).is_ok_and(|children| !children.is_empty())
}

/// Created, and by a hook long before its program when it is started.
fn waits_in_start(bundle: Bundle) -> Bundle {
    let bundle = bundle.edit(|config| {
        config["hooks"]["startContainer"] = json!([{"path": "/bin/sleep", "args": ["sleep", "1000"]}]);
    });
    bundle.create().well();
    bundle
}

/// What the cgroup has counted of others before is not this container's.
#[test]
#[ignore = "needs the memory controller, which the machine has"]
fn only_an_oom_kill_of_the_container_itself_is_named() {
    let bundle = Bundle::new();
    let cgroup = Path::new("/sys/fs/cgroup").join(&bundle.id);
    fs::create_dir(&cgroup).expect("a cgroup");
    let path = format!("/{}", bundle.id);
    let bundle = bundle.edit(|config| {
        config["linux"]["cgroupsPath"] = json!(path);
        config["linux"]["resources"]["memory"] = json!({"limit": 65536, "swap": 65536});
    });
    bundle.run().fails("container init was OOM-killed");
    let events = fs::read_to_string(cgroup.join("memory.events")).expect("memory.events");
    assert!(!events.lines().any(|line| line == "oom_kill 0"), "nothing was counted, so this shows nothing: {events}");
    let bundle = killed_by_a_hook(bundle).edit(|config| config["linux"]["resources"] = json!({}));
    fs::write(cgroup.join("memory.max"), "max").expect("memory.max");
    not_blamed_on_memory(&bundle.run().fails("the process was ended by signal 9"));
    fs::remove_dir(&cgroup).expect("rmdir");
}

#[test]
#[ignore = "needs the memory controller, which the machine has"]
fn an_oom_kill_between_create_and_the_program_is_named() {
    // Both at once: the hook's end alone would be another failure.
    let bundle = waits_in_start(Bundle::new().edit(|config| {
        config["linux"]["resources"] = json!({"memory": {"limit": 67108864}, "unified": {"memory.oom.group": "1"}});
    }));
    let start = begin(bundle.command(&["start", &bundle.id]));
    wait(|| in_a_hook(&bundle));
    fs::write(bundle.cgroup().join("memory.max"), "0").expect("memory.max");
    let said = start.end().fails("the process ended before its execve");
    assert!(said.contains("of the container's processes for want of memory (memory.events)"), "{said}");
}

#[test]
#[ignore = "needs the pids controller, which the machine has"]
fn a_limit_of_processes_that_leaves_none_for_a_hook_is_named() {
    let bundle = Bundle::new().edit(|config| {
        config["linux"]["resources"]["pids"] = json!({"limit": 1});
        config["hooks"]["startContainer"] = json!([{"path": "/bin/true"}]);
    });
    let said = bundle.run().fails("startContainer hook #0");
    assert!(said.contains("pids.max"), "{said}");
}
