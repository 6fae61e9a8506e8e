//! A kernel that lacks a call, and an outer profile that forbids it: the runtime goes on by another way that is as good
//! (docs/kernel-features.md), or ends in one error that names the call and leaves nothing behind. Never is a container
//! taken for something that it is not.

#[path = "../common/builds.rs"]
mod builds;
#[path = "../common/mod.rs"]
mod common;
mod launcher;
mod matrix;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use common::{Bundle, Outcome, alive, outcome, wait};
use libtest_mimic::{Arguments, Trial};
use serde_json::json;

/// A call, and the errnos with which it may fail and all goes on.
type Call = (&'static str, &'static [&'static str]);

/// The calls that docs/kernel-features.md speaks of, and those whose failure could be mistaken for an answer.
const CALLS: &[Call] = &[
    // the device filter can't be loaded
    ("bpf", &[]),
    ("clone3", &[]),
    ("close_range", &[]),
    // the binary can't be sealed
    ("execveat", &[]),
    ("faccessat2", &[]),
    ("fsconfig", &[]),
    ("fsmount", &[]),
    ("fsopen", &[]),
    // no keyrings, none to leak
    ("keyctl", &["ENOSYS"]),
    // only a hint to the kernel
    ("madvise", &["ENOSYS", "EPERM", "EINVAL"]),
    ("mount_setattr", &[]),
    ("move_mount", &[]),
    ("open_tree", &[]),
    ("openat2", &[]),
    // who has no listener fetches none
    ("pidfd_getfd", &["ENOSYS", "EPERM"]),
    ("pivot_root", &[]),
    ("seccomp", &[]),
    // who asks for no policy sets none
    ("set_mempolicy", &["ENOSYS", "EPERM"]),
    ("statx", &[]),
    ("unshare", &[]),
    ("waitid", &[]),
];

/// The other calls of the document, each with a test of its own.
const APART: &[&str] = &["memfd_create", "pidfd_open", "pidfd_send_signal", "setns"];

/// The names of system calls in the first column of the document's table. What it says of namespaces for the time is no
/// time(2).
fn documented() -> Vec<&'static str> {
    let everything =
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_LOG"}]});
    let section = serde_json::from_value(everything).expect("a section");
    let known = orlop::seccomp::meaning(&section).expect("the calls of this machine").remove(0).answers;
    let document = include_str!("../../docs/kernel-features.md");
    let rows = document.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let words = rows.flat_map(|cell| cell.split(|c: char| !c.is_ascii_alphanumeric() && !"_.".contains(c)));
    words.filter(|word| *word != "time" && known.contains_key(word)).collect()
}

/// A call that gets into the document gets into these lists, and so is denied.
fn every_call_of_the_document_is_denied() {
    let documented = documented();
    assert!(documented.len() >= 17, "{documented:?}");
    for call in documented {
        let denied = APART.contains(&call) || CALLS.iter().any(|(name, _)| *name == call);
        assert!(denied, "{call} is denied by no test here");
        assert!(matrix::CALLS.contains(&call), "{call} is not denied to the integration tests");
    }
}

/// `orlop ARGS...` for which `call` fails with `errno`.
fn without(bundle: &Bundle, call: &str, errno: &str, args: &[&str]) -> Outcome {
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command.args(["deny", call, errno, common::ORLOP, "--root"]).arg(&bundle.store).args(args).stdin(Stdio::null());
    outcome(command)
}

/// What the runtime says of an errno.
fn words(errno: &str) -> &'static str {
    match errno {
        "ENOSYS" => "function not implemented",
        "EPERM" => "operation not permitted",
        "EMFILE" => "too many open files",
        _ => "invalid argument",
    }
}

/// It failed with one error that names the call and what the kernel said.
#[track_caller]
fn says_so(said: &Outcome, call: &str, errno: &str) {
    let text = said.fails(words(errno));
    assert!(text.contains(call), "{call} {errno}: not named in {text:?}");
    assert_eq!(text.matches("orlop: ").count(), 1, "{call} {errno}: one error, not {text:?}");
}

/// This is the machine of tests/vm.
fn emulated() -> bool {
    std::env::var_os("ORLOP_MACHINE").is_some()
}

/// The runtime's binary lies where nobody can write to it, so that it needs no execveat(2) to seal itself.
fn sealed_already() -> bool {
    use nix::sys::statvfs::{FsFlags, statvfs};
    statvfs(common::ORLOP).expect("statvfs").flags().contains(FsFlags::ST_RDONLY)
}

fn named(script: &str) -> Bundle {
    let bundle = Bundle::script(script);
    let path = format!("/{}", bundle.id);
    bundle.edit(|config| {
        config["linux"]["cgroupsPath"] = json!(path);
        config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["reboot"], "action": "SCMP_ACT_ERRNO"}]});
    })
}

fn nothing_is_left(bundle: &Bundle, what: &str) {
    let cgroup = PathBuf::from(format!("/sys/fs/cgroup/{}", bundle.id));
    assert!(!bundle.state_dir().exists(), "{what}: the state is left");
    assert!(!cgroup.exists(), "{what}: the cgroup is left");
}

fn run_without(call: &str, errno: &str, good: bool) {
    let what = format!("{call} {errno}");
    let bundle = named("echo it runs");
    let dir = bundle.dir.to_str().expect("a path").to_owned();
    let said = without(&bundle, call, errno, &["run", "--bundle", &dir, &bundle.id]);
    if good || call == "execveat" && sealed_already() {
        assert_eq!(said.well(), "it runs", "{what}");
    } else {
        says_so(&said, call, errno);
    }
    nothing_is_left(&bundle, &what);
}

/// `run` of this bundle, which needs the call.
fn run_without_on(bundle: &Bundle, call: &str, errno: &str) {
    let dir = bundle.dir.to_str().expect("a path");
    says_so(&without(bundle, call, errno, &["run", "--bundle", dir, &bundle.id]), call, errno);
    nothing_is_left(bundle, &format!("{call} {errno}"));
}

/// A copy of the binary in memory is wanted only where no overlay can be mounted, as in a machine whose root is one.
fn a_run_without_memfd_create_is_as_good_or_one_error() {
    let bundle = named("echo it runs");
    let dir = bundle.dir.to_str().expect("a path").to_owned();
    for errno in ["ENOSYS", "EPERM"] {
        let said = without(&bundle, "memfd_create", errno, &["run", "--bundle", &dir, &bundle.id]);
        if said.code != Some(0) {
            says_so(&said, "memfd_create", errno);
        }
        nothing_is_left(&bundle, errno);
    }
}

fn a_run_without_a_call_is_as_good_or_one_error() {
    for (call, good) in CALLS {
        for errno in ["ENOSYS", "EPERM"] {
            run_without(call, errno, good.contains(&errno));
        }
    }
}

/// With a stage process, id maps, an id-mapped mount, a hook inside, a copied-up tmpfs, a terminal's namespace: more calls.
fn rich() -> Bundle {
    let bundle = named("echo it runs");
    let data = bundle.dir.join("data");
    std::fs::create_dir(&data).expect("mkdir");
    let ids = json!([{"containerID": 0, "hostID": 0, "size": 65_536}]);
    let hook = json!([{"path": "/bin/true", "args": ["true"]}]);
    bundle.edit(|config| {
        let linux = &mut config["linux"];
        for kind in ["user", "time"] {
            linux["namespaces"].as_array_mut().expect("a list").push(json!({"type": kind}));
        }
        linux["uidMappings"] = ids.clone();
        linux["gidMappings"] = ids;
        linux["timeOffsets"] = json!({"boottime": {"secs": 1000}});
        linux["memoryPolicy"] = json!({"mode": "MPOL_LOCAL"});
        config["hooks"] = json!({"createContainer": hook, "startContainer": hook});
        let mounts = config["mounts"].as_array_mut().expect("a list");
        mounts.push(json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}));
        // the file system of the machine's /tmp has id-mapped mounts from Linux 6.3 on
        let mapped = if emulated() { "rslave" } else { "ridmap" };
        let options = json!(["rbind", "rro", mapped]);
        mounts.push(json!({"destination": "/data", "type": "bind", "source": data, "options": options}));
    })
}

fn a_rich_container_without_a_call_is_as_good_or_one_error() {
    let bundle = rich();
    let dir = bundle.dir.to_str().expect("a path").to_owned();
    outcome(bundle.making("run", &[])).well();
    for (call, _) in CALLS {
        // once each where all is emulated
        let errnos: &[&str] = if emulated() { &["ENOSYS"] } else { &["ENOSYS", "EPERM", "EINVAL"] };
        for errno in errnos {
            let said = without(&bundle, call, errno, &["run", "--bundle", &dir, &bundle.id]);
            if said.code == Some(0) {
                assert_eq!(said.stdout().trim(), "it runs", "{call} {errno}");
            } else {
                says_so(&said, call, errno);
            }
            nothing_is_left(&bundle, &format!("{call} {errno}"));
        }
    }
}

/// It is asked for, so there is no container without it.
fn a_memory_policy_without_set_mempolicy_is_an_error() {
    let bundle = named("echo it runs").edit(|config| config["linux"]["memoryPolicy"] = json!({"mode": "MPOL_LOCAL"}));
    outcome(bundle.making("run", &[])).well();
    for errno in ["ENOSYS", "EPERM"] {
        run_without_on(&bundle, "set_mempolicy", errno);
    }
}

/// The agent would never hear of the calls that wait for it.
fn a_filter_that_notifies_without_pidfd_getfd_is_an_error() {
    let bundle = named("echo it runs");
    let socket = bundle.dir.join("agent");
    let agent = std::os::unix::net::UnixListener::bind(&socket).expect("the agent's socket");
    let bundle = bundle.edit(|config| {
        config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": socket, "syscalls": [
            {"names": ["reboot"], "action": "SCMP_ACT_NOTIFY"}]});
    });
    outcome(bundle.making("run", &[])).well();
    drop(common::accepted(&agent));
    for errno in ["ENOSYS", "EPERM"] {
        run_without_on(&bundle, "pidfd_getfd", errno);
    }
}

/// What the runtime asks about a container that is there: it must never be answered wrongly, since who hears `stopped`
/// deletes.
fn a_container_that_cannot_be_looked_at_is_not_taken_for_one_that_has_stopped() {
    let bundle = named("sleep 1000");
    bundle.up();
    let pid = bundle.pid();
    for (call, errno) in [("pidfd_open", "EMFILE"), ("pidfd_open", "EPERM"), ("pidfd_open", "ENOSYS")] {
        for verb in [&["state"][..], &["kill"], &["delete"], &["delete", "--force"], &["pause"], &["resume"]] {
            let args: Vec<_> = verb[..1].iter().chain([&bundle.id.as_str()]).chain(&verb[1..]).copied().collect();
            says_so(&without(&bundle, call, errno, &args), call, errno);
            assert!(alive(pid), "{call} {errno} {verb:?}");
        }
        says_so(&without(&bundle, call, errno, &["exec", &bundle.id, "true"]), call, errno);
        says_so(&without(&bundle, call, errno, &["list"]), call, errno);
    }
    assert_eq!(bundle.status(), "running");
    assert_eq!(bundle.inside("echo well"), "well");
}

fn a_signal_that_cannot_be_sent_is_an_error_and_the_container_goes_on() {
    let bundle = named("sleep 1000");
    bundle.up();
    for errno in ["ENOSYS", "EPERM"] {
        let said = without(&bundle, "pidfd_send_signal", errno, &["kill", &bundle.id, "KILL"]);
        said.fails(words(errno));
        let said = without(&bundle, "pidfd_send_signal", errno, &["delete", "--force", &bundle.id]);
        says_so(&said, "pidfd_send_signal", errno);
        assert_eq!(bundle.status(), "running");
    }
    bundle.on("kill", &["KILL"]).well();
    wait(|| bundle.status() == "stopped");
}

fn an_exec_without_a_call_is_as_good_or_one_error_and_the_container_goes_on() {
    let bundle = named("sleep 1000");
    bundle.up();
    for call in ["clone3", "setns", "openat2", "close_range", "execveat", "faccessat2", "pidfd_open", "seccomp"] {
        for errno in ["ENOSYS", "EPERM"] {
            let said = without(&bundle, call, errno, &["exec", &bundle.id, "echo", "it runs"]);
            if call == "execveat" && sealed_already() {
                assert_eq!(said.well(), "it runs", "{call} {errno}");
                continue;
            }
            says_so(&said, call, errno);
            assert_eq!(said.code, Some(255), "{call} {errno}");
            assert_eq!(bundle.inside("echo well"), "well", "{call} {errno}");
        }
    }
}

fn main() {
    launcher::in_place_of_the_runtime();
    let mut words = std::env::args_os().skip(1);
    match words.next() {
        Some(word) if word == "deny" => launcher::deny(words),
        Some(word) if word == "matrix" => std::process::exit(matrix::run(words)),
        _ => {}
    }
    let case = |name: &str, run: fn()| {
        Trial::test(name, move || {
            run();
            Ok(())
        })
    };
    let cases = vec![
        case("every_call_of_the_document_is_denied", every_call_of_the_document_is_denied),
        case("a_memory_policy_without_set_mempolicy_is_an_error", a_memory_policy_without_set_mempolicy_is_an_error),
        case(
            "a_filter_that_notifies_without_pidfd_getfd_is_an_error",
            a_filter_that_notifies_without_pidfd_getfd_is_an_error,
        ),
        case("a_run_without_a_call_is_as_good_or_one_error", a_run_without_a_call_is_as_good_or_one_error),
        case("a_run_without_memfd_create_is_as_good_or_one_error", a_run_without_memfd_create_is_as_good_or_one_error),
        case(
            "a_rich_container_without_a_call_is_as_good_or_one_error",
            a_rich_container_without_a_call_is_as_good_or_one_error,
        ),
        case(
            "a_container_that_cannot_be_looked_at_is_not_taken_for_one_that_has_stopped",
            a_container_that_cannot_be_looked_at_is_not_taken_for_one_that_has_stopped,
        ),
        case(
            "a_signal_that_cannot_be_sent_is_an_error_and_the_container_goes_on",
            a_signal_that_cannot_be_sent_is_an_error_and_the_container_goes_on,
        ),
        case(
            "an_exec_without_a_call_is_as_good_or_one_error_and_the_container_goes_on",
            an_exec_without_a_call_is_as_good_or_one_error_and_the_container_goes_on,
        ),
    ];
    libtest_mimic::run(&Arguments::from_args(), cases).exit();
}
