//! `linux.seccomp` as the container feels it.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde_json::{Value, json};

#[path = "common/caller.rs"]
mod caller;
mod common;
use caller::caller;
use common::{Bundle, proc_status};

const MKDIR: u32 = 83;
const GETPPID: u32 = 110;
const CLONE3: u32 = 435;

/// A bundle whose program is `caller(number)`, under this section.
fn calling(number: u32, section: Value) -> Bundle {
    let bundle = Bundle::new().args(&["/bin/caller"]).edit(|config| config["linux"]["seccomp"] = section);
    bundle.program("/bin/caller", caller(number));
    bundle
}

fn rule(names: &[&str], action: &str, errno: Option<u32>) -> Value {
    json!({ "names": names, "action": action, "errnoRet": errno })
}

/// Everything is allowed but what the rule says.
fn allow_but(rule: Value) -> Value {
    json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [rule] })
}

/// Nothing but execve and exit_group is allowed, and close_range, which is newer than all that anybody may want to call
/// here: so these calls are refused as the profile says and not as ones that it has never heard of.
fn only_execve(default: &str) -> Value {
    json!({
        "defaultAction": default,
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [rule(&["execve", "exit_group", "close_range"], "SCMP_ACT_ALLOW", None)],
    })
}

#[test]
fn the_mode_is_filter_with_a_section_and_off_without() {
    let script = "grep -E '^Seccomp' /proc/self/status | tr -d '\\n\\t'";
    assert_eq!(Bundle::script(script).run().well(), "Seccomp:0Seccomp_filters:0");
    let bundle = Bundle::script(script)
        .edit(|config| config["linux"]["seccomp"] = allow_but(rule(&["mkdir"], "SCMP_ACT_ERRNO", None)));
    assert_eq!(bundle.run().well(), "Seccomp:2Seccomp_filters:1");
}

#[test]
fn an_exec_is_under_the_containers_filter() {
    let bundle = Bundle::sleeper()
        .edit(|config| config["linux"]["seccomp"] = allow_but(rule(&["mkdir"], "SCMP_ACT_ERRNO", Some(18))));
    bundle.up();
    bundle.program("/bin/caller", caller(MKDIR));
    assert_eq!(bundle.on("exec", &["/bin/caller"]).code, Some(18));
    assert_eq!(bundle.inside("grep ^Seccomp: /proc/self/status"), "Seccomp:\t2");
}

#[test]
fn a_rule_has_its_own_errno() {
    for (errno, expected) in [(Some(18), 18), (None, libc::EPERM)] {
        let bundle = calling(MKDIR, allow_but(rule(&["mkdir"], "SCMP_ACT_ERRNO", errno)));
        assert_eq!(bundle.run().code, Some(expected));
    }
    assert_eq!(calling(MKDIR, allow_but(rule(&["rmdir"], "SCMP_ACT_ERRNO", None))).run().code, Some(libc::EFAULT));
}

#[test]
fn a_kill_is_reported_as_sigsys() {
    for action in ["SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL", "SCMP_ACT_TRAP"] {
        let bundle = calling(GETPPID, allow_but(rule(&["getppid"], action, None)));
        assert_eq!(bundle.run().code, Some(128 + libc::SIGSYS), "{action}");
    }
}

#[test]
fn a_call_newer_than_the_profile_is_enosys() {
    let profile = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [rule(&["execve", "exit_group", "getppid", "clone"], "SCMP_ACT_ALLOW", None)],
    });
    assert_eq!(calling(CLONE3, profile.clone()).run().code, Some(libc::ENOSYS));
    assert_eq!(calling(MKDIR, profile).run().code, Some(libc::EPERM), "an older one is refused as the profile says");
}

/// With and without no_new_privs, as root and as a user that has no capability: the filter is there, and what its load
/// needed is not.
#[test]
fn the_filter_leaves_no_capability_behind() {
    for (no_new_privileges, uid) in [(true, 0), (true, 1000), (false, 0), (false, 1000)] {
        let bundle = Bundle::sleeper().edit(|config| {
            config["linux"]["seccomp"] = allow_but(rule(&["mkdir"], "SCMP_ACT_ERRNO", None));
            config["process"]["noNewPrivileges"] = json!(no_new_privileges);
            config["process"]["user"] = json!({ "uid": uid, "gid": uid });
            let sets = json!(["CAP_KILL"]);
            config["process"]["capabilities"] = json!({ "bounding": sets, "permitted": sets, "effective": sets });
        });
        bundle.up();
        let pid = bundle.pid();
        let case = format!("no_new_privs {no_new_privileges}, uid {uid}");
        let kill = if uid == 0 { "0000000000000020" } else { "0000000000000000" };
        assert_eq!(proc_status(pid, "Seccomp"), "2", "{case}");
        assert_eq!(proc_status(pid, "NoNewPrivs"), u8::from(no_new_privileges).to_string(), "{case}");
        assert_eq!(proc_status(pid, "CapEff"), kill, "{case}");
        assert_eq!(proc_status(pid, "CapPrm"), kill, "{case}");
        assert_eq!(proc_status(pid, "CapBnd"), "0000000000000020", "{case}");
        assert_eq!(proc_status(pid, "CapInh"), "0000000000000000", "{case}");
    }
}

/// The set-up is over when the filter is loaded: not even a write or a close is needed after it.
#[test]
fn a_filter_that_allows_the_execve_alone_starts() {
    for no_new_privileges in [true, false] {
        for (default, expected) in [("SCMP_ACT_ERRNO", libc::EPERM), ("SCMP_ACT_KILL_PROCESS", 128 + libc::SIGSYS)] {
            let bundle = calling(GETPPID, only_execve(default))
                .edit(|config| config["process"]["noNewPrivileges"] = json!(no_new_privileges));
            assert_eq!(bundle.run().code, Some(expected), "run under {default}");
            bundle.create();
            bundle.start();
            bundle.await_status("stopped");
        }
    }
}

/// The page in which failures lie is written to without a system call.
#[test]
fn a_failing_execve_is_reported_under_any_filter() {
    for default in ["SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS"] {
        let bundle =
            Bundle::new().args(&["/bin/garbage"]).edit(|config| config["linux"]["seccomp"] = only_execve(default));
        bundle.program("/bin/garbage", "no program");
        bundle.run().fails("exec format error");
        assert_eq!(bundle.status(), "none");
        bundle.create();
        bundle.on("start", &[]).fails("exec format error");
    }
}

#[test]
fn a_filter_that_forbids_execve_is_told() {
    let bundle =
        Bundle::new().edit(|config| config["linux"]["seccomp"] = allow_but(rule(&["execve"], "SCMP_ACT_ERRNO", None)));
    bundle.run().fails("operation not permitted");
}

/// A seccomp agent for one listener and one notification, which it answers with `errno`; what it was told.
fn agent(bundle: &Bundle, errno: i32) -> JoinHandle<(Value, i32)> {
    let listener = UnixListener::bind(bundle.dir.join("agent.sock")).expect("bind");
    std::thread::spawn(move || {
        let (message, listener) = heard(&listener);
        let number = answer(&listener, errno);
        (message, number)
    })
}

/// The next message for the agent, and the listener that comes with it.
fn heard(agent: &UnixListener) -> (Value, OwnedFd) {
    let stream = common::accepted(agent);
    let mut text = vec![0u8; 65_536];
    let mut space = nix::cmsg_space!([i32; 4]);
    let mut slices = [IoSliceMut::new(&mut text)];
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::empty()).expect("recvmsg");
    let fds: Vec<i32> = message
        .cmsgs()
        .expect("control messages")
        .flat_map(|part| match part {
            ControlMessageOwned::ScmRights(fds) => fds,
            _ => Vec::new(),
        })
        .collect();
    let length = message.bytes;
    assert_eq!(fds.len(), 1, "one listener");
    // SAFETY: the descriptor came with the message and belongs to nobody else.
    let listener = unsafe { OwnedFd::from_raw_fd(fds[0]) };
    (serde_json::from_slice(&text[..length]).expect("JSON"), listener)
}

/// Takes one notification and answers it: the number of the call.
fn answer(listener: &OwnedFd, errno: i32) -> i32 {
    const SECCOMP_IOCTL_NOTIF_RECV: libc::Ioctl = 0xc050_2100;
    const SECCOMP_IOCTL_NOTIF_SEND: libc::Ioctl = 0xc018_2101;
    // SAFETY: all-zero is a valid seccomp_notif, and the kernel wants it zeroed.
    let mut heard: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is writable and as large as the number of the ioctl says.
    let done = unsafe { libc::ioctl(listener.as_raw_fd(), SECCOMP_IOCTL_NOTIF_RECV, &raw mut heard) };
    assert_eq!(done, 0, "SECCOMP_IOCTL_NOTIF_RECV: {}", std::io::Error::last_os_error());
    let mut said = libc::seccomp_notif_resp { id: heard.id, val: 0, error: -errno, flags: 0 };
    // SAFETY: as above.
    let done = unsafe { libc::ioctl(listener.as_raw_fd(), SECCOMP_IOCTL_NOTIF_SEND, &raw mut said) };
    assert_eq!(done, 0, "SECCOMP_IOCTL_NOTIF_SEND: {}", std::io::Error::last_os_error());
    heard.data.nr
}

fn notifying() -> Bundle {
    let bundle = calling(MKDIR, allow_but(rule(&["mkdir"], "SCMP_ACT_NOTIFY", None)));
    let socket = bundle.dir.join("agent.sock");
    bundle.edit(|config| {
        config["annotations"] = json!({"org.example": "x y"});
        config["linux"]["seccomp"]["listenerPath"] = json!(socket);
        config["linux"]["seccomp"]["listenerMetadata"] = json!("some metadata");
    })
}

fn check_message(message: &Value, bundle: &Bundle, status: &str) {
    assert_eq!(message["fds"], json!(["seccompFd"]), "{message}");
    assert_eq!(message["metadata"], "some metadata");
    assert_eq!(message["state"]["id"], json!(bundle.id));
    assert_eq!(message["state"]["status"], status);
    assert_eq!(message["state"]["bundle"], json!(bundle.dir));
    assert_eq!(message["state"]["annotations"], json!({"org.example": "x y"}));
    for version in [&message["ociVersion"], &message["state"]["ociVersion"]] {
        assert_eq!(*version, bundle.config["ociVersion"], "{message}");
    }
    assert!(message["state"]["pid"].as_i64().is_some_and(|pid| pid > 0), "{message}");
}

#[test]
fn an_agent_answers_for_run() {
    let bundle = notifying();
    let agent = agent(&bundle, libc::ENOTEMPTY);
    assert_eq!(bundle.run().code, Some(libc::ENOTEMPTY));
    let (message, number) = agent.join().expect("the agent");
    assert_eq!(number, MKDIR as i32);
    check_message(&message, &bundle, "creating");
    assert_eq!(message["pid"], message["state"]["pid"]);
}

#[test]
fn an_agent_answers_for_start() {
    let bundle = notifying();
    let agent = agent(&bundle, 0);
    bundle.create();
    let state = bundle.state();
    bundle.start();
    let (message, number) = agent.join().expect("the agent");
    assert_eq!(number, MKDIR as i32);
    assert_eq!(message["pid"], state["pid"]);
    check_message(&message, &bundle, "created");
    assert_eq!(message["state"]["pid"], state["pid"]);
    bundle.await_status("stopped");
}

/// Each process has its own filter, and so its own listener: the pid is its own, and the state that of the container.
#[test]
fn an_agent_answers_for_exec() {
    let bundle = notifying().args(&["sleep", "1000"]);
    let socket = UnixListener::bind(bundle.dir.join("agent.sock")).expect("bind");
    bundle.create();
    let starting = common::begin(bundle.command(&["start", &bundle.id]));
    // held, for without it the calls of the first process would fail
    let (_, _listener) = heard(&socket);
    starting.end().well();
    let agent = std::thread::spawn(move || {
        let (message, listener) = heard(&socket);
        let pid = message["pid"].as_u64().expect("a pid");
        let inside = common::proc_status(pid as u32, "NSpid");
        (message, inside, answer(&listener, libc::ENOTEMPTY))
    });
    assert_eq!(bundle.on("exec", &["/bin/caller"]).code, Some(libc::ENOTEMPTY));
    let (message, inside, number) = agent.join().expect("the agent");
    assert_eq!(number, MKDIR as i32);
    check_message(&message, &bundle, "running");
    assert_eq!(message["state"]["pid"], json!(bundle.pid()));
    let own = message["pid"].to_string();
    assert!(
        message["pid"] != message["state"]["pid"] && inside.starts_with(&own) && inside != own,
        "{inside}: {message}"
    );
}

#[test]
fn an_agent_that_is_not_there_is_told() {
    let bundle = notifying();
    bundle.run().fails("/linux/seccomp/listenerPath");
    assert_eq!(bundle.status(), "none");
}
