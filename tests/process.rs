//! `process`: ids, limits, directory, environment, as the kernel has them for the container's first process.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use serde_json::json;

mod common;
use common::{Bundle, ORLOP, mapped, outcome, proc_status, wait};

/// `orlop run` by a shell that does something first.
fn run_after(bundle: &Bundle, before: &str) -> common::Outcome {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{before}; exec \"$@\"")).arg("sh").arg(ORLOP).stdin(Stdio::null());
    command.args(bundle.making("run", &[]).get_args());
    outcome(command)
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

#[test]
fn ids_and_groups_are_exact() {
    let bundle = Bundle::sleeper().edit(|config| {
        config["process"]["user"] = json!({ "uid": 1234, "gid": 567, "additionalGids": [10, 4_000_000_000u32] });
    });
    bundle.up();
    let pid = bundle.pid();
    assert_eq!(words(&proc_status(pid, "Uid")), ["1234"; 4]);
    assert_eq!(words(&proc_status(pid, "Gid")), ["567"; 4]);
    assert_eq!(words(&proc_status(pid, "Groups")), ["10", "4000000000"]);
}

#[test]
fn the_callers_groups_do_not_come_along() {
    let bundle = Bundle::script("grep ^Groups /proc/self/status");
    let mut command = Command::new("setpriv");
    command.args(["--groups", "77,78", ORLOP]).args(bundle.making("run", &[]).get_args()).stdin(Stdio::null());
    assert_eq!(words(&outcome(command).well()), ["Groups:"]);
}

#[test]
fn umask_is_as_given_or_else_the_callers() {
    let bundle = Bundle::script("umask; touch /tmp/file; stat -c %a /tmp/file");
    assert_eq!(run_after(&bundle, "umask 0135").well(), "0135\n642");
    let bundle = Bundle::script("umask").edit(|config| config["process"]["user"]["umask"] = json!(0o27));
    assert_eq!(run_after(&bundle, "umask 0135").well(), "0027");
}

#[test]
fn set_up_does_not_depend_on_the_callers_umask() {
    let bundle = Bundle::script("stat -c '%n %a' /made /made/below /dev/null").edit(|config| {
        config["process"]["cwd"] = json!("/made/below");
    });
    assert_eq!(run_after(&bundle, "umask 0077").well(), "/made 755\n/made/below 755\n/dev/null 666");
}

#[test]
fn the_working_directory_is_made_and_entered() {
    let bundle = Bundle::script("pwd; readlink /proc/self/cwd").edit(|config| {
        config["process"]["cwd"] = json!("/a/b/c");
        config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    });
    assert_eq!(bundle.run().well(), "/a/b/c\n/a/b/c");
    assert!(bundle.rootfs("/a/b/c").is_dir());
}

/// CVE-2024-21626: a directory that a magic link leads to may be the host's.
#[test]
fn a_working_directory_behind_a_magic_link_is_refused() {
    for cwd in ["/proc/self/cwd", "/proc/self/root", "/proc/1/cwd/..", "/proc/self/fd/3", "/proc/self/fd/7", "/link"] {
        let bundle = Bundle::script("pwd").edit(|config| config["process"]["cwd"] = json!(cwd));
        std::os::unix::fs::symlink("/proc/self/fd/4", bundle.rootfs("/link")).expect("a link");
        let said = bundle.run().fails("chdir");
        assert!(said.contains("/process/cwd"), "{said}");
    }
}

/// CVE-2026-55686: a missing directory behind a link of the image is not made outside.
#[test]
fn a_working_directory_behind_a_link_stays_inside() {
    let bundle = Bundle::new().edit(|config| config["process"]["cwd"] = json!("/escape/made"));
    let decoy = bundle.dir.join("decoy");
    fs::create_dir(&decoy).expect("a decoy");
    std::os::unix::fs::symlink(&decoy, bundle.rootfs("/escape")).expect("a link");
    bundle.run();
    assert_eq!(fs::read_dir(&decoy).expect("the decoy").count(), 0);
}

#[test]
fn a_working_directory_that_the_user_may_not_enter_is_told() {
    let bundle = Bundle::new().edit(|config| {
        config["process"]["cwd"] = json!("/etc/passwd");
    });
    fs::write(bundle.rootfs("/etc/passwd"), "").expect("a file");
    bundle.run().fails("not a directory");
}

#[test]
fn home_comes_from_passwd_unless_it_is_given() {
    let home = |uid: u32, env: &[&str]| {
        let bundle = Bundle::script("echo $HOME").edit(|config| {
            config["process"]["user"] = json!({ "uid": uid, "gid": 0 });
            config["process"]["env"] = json!(env);
        });
        let passwd = "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:a user:/home/user:/bin/sh\n";
        fs::write(bundle.rootfs("/etc/passwd"), passwd).expect("passwd");
        bundle.run().well()
    };
    assert_eq!(home(0, &[]), "/root");
    assert_eq!(home(1000, &["A=b"]), "/home/user");
    assert_eq!(home(1000, &["HOME="]), "/home/user");
    assert_eq!(home(1001, &[]), "/");
    assert_eq!(home(1000, &["HOME=/mine"]), "/mine");
}

#[test]
fn the_environment_is_what_is_asked_for_and_nothing_else() {
    // Of those of one name the last: a program would take the first.
    let env = ["A=0", "PATH=/nowhere", "B=x y=z", "EMPTY=", "A=1", "PATH=/bin"];
    let bundle =
        Bundle::new().args(&["cat", "/proc/self/environ"]).edit(|config| config["process"]["env"] = json!(env));
    let shown = run_after(&bundle, "export LEAK=leaked").well();
    let mut expected = env[2..].to_vec();
    expected.push("HOME=/");
    assert_eq!(shown.trim_end_matches('\0').split('\0').collect::<Vec<_>>(), expected);
}

#[test]
fn arguments_are_passed_as_they_are() {
    let bundle = Bundle::new().args(&["sh", "-c", "for a; do echo \"[$a]\"; done", "sh", "", "a b", "*", "ä\n"]);
    assert_eq!(bundle.run().well(), "[]\n[a b]\n[*]\n[ä\n]");
}

/// Set-up opens files until its end, and the limit is the program's: run, create and start, exec, with and without a user
/// namespace, new and joined.
#[test]
fn a_limit_of_three_open_files_is_the_programs() {
    let limits = json!([{"type": "RLIMIT_NOFILE", "soft": 3, "hard": 3}, {"type": "RLIMIT_NPROC", "soft": 500, "hard": 600},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}, {"type": "RLIMIT_STACK", "soft": 1 << 20, "hard": 1 << 21}]);
    let script = "ulimit -Sn; ulimit -Hn; ulimit -Su; ulimit -Hu; ulimit -Sc; ulimit -Ss; ulimit -Hs; (exec 3</dev/null) || echo full";
    let expected = "3 3 500 600 0 1024 2048 full";
    let holder = mapped(Bundle::sleeper());
    holder.up();
    for userns in ["none", "new", "joined"] {
        let limited = |bundle: Bundle| bundle.edit(|config| config["process"]["rlimits"] = limits.clone());
        let user = |bundle: Bundle| match userns {
            "none" => bundle,
            "new" => mapped(bundle),
            _ => mapped(bundle).edit(|config| {
                let list = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
                list.last_mut().expect("user")["path"] = json!(format!("/proc/{}/ns/user", holder.pid()));
                for ids in ["uidMappings", "gidMappings"] {
                    config["linux"].as_object_mut().expect("linux").remove(ids);
                }
            }),
        };
        let bundle = user(limited(Bundle::script(script)));
        let said = bundle.run_with(&[]);
        assert_eq!(words(&said.stdout()).join(" "), expected, "run, userns {userns}: {}", said.stderr());
        let bundle = user(limited(Bundle::script(&format!("{script}; exec sleep 1000"))));
        let said = bundle.up();
        wait(|| said.stdout().contains("full"));
        assert_eq!(words(&said.stdout()).join(" "), expected, "start, userns {userns}");
        let said = bundle.on("exec", &["sh", "-c", script]);
        assert_eq!(words(&said.stdout()).join(" "), expected, "exec, userns {userns}: {}", said.stderr());
    }
}

/// A runtime with lower limits than those of the configuration, and the right to raise them.
#[test]
#[ignore = "needs CAP_SYS_RESOURCE: run in the VM by tests/run"]
fn hard_limits_are_raised_for_every_process() {
    let limits = json!([{"type": "RLIMIT_NOFILE", "soft": 200, "hard": 400}, {"type": "RLIMIT_CORE", "soft": 1024, "hard": 4096}]);
    for userns in [false, true] {
        let bundle = Bundle::sleeper().edit(|config| config["process"]["rlimits"] = limits.clone());
        let bundle = if userns { mapped(bundle) } else { bundle };
        let lower = |command: Command| {
            let mut lower = Command::new("prlimit");
            lower.args(["--nofile=100:100", "--core=0:0"]).arg(command.get_program()).args(command.get_args());
            outcome(lower).well()
        };
        lower(bundle.making("create", &[]));
        lower(bundle.command(&["start", &bundle.id]));
        let show = "grep -E 'open files|core file' /proc/1/limits /proc/self/limits";
        let said = lower(bundle.command(&["exec", &bundle.id, "sh", "-c", show]));
        let pair = |line: &str| words(line).iter().rev().skip(1).take(2).rev().copied().collect::<Vec<_>>().join(":");
        let numbers: Vec<_> = said.lines().map(pair).collect();
        assert_eq!(numbers, ["1024:4096", "200:400", "1024:4096", "200:400"], "userns {userns}: {said}");
    }
}

#[test]
fn rlimits_are_in_the_kernels_table() {
    let limits = [
        ("RLIMIT_NOFILE", 100, 200),
        ("RLIMIT_CORE", 0, 0),
        ("RLIMIT_STACK", 1 << 20, 1 << 21),
        ("RLIMIT_FSIZE", 4096, u64::MAX),
        ("RLIMIT_NPROC", 500, 600),
        ("RLIMIT_SIGPENDING", 3, 5),
        ("RLIMIT_RTTIME", 7_000_000, 8_000_000),
    ];
    let rows = [
        ("Max open files", "100", "200"),
        ("Max core file size", "0", "0"),
        ("Max stack size", "1048576", "2097152"),
        ("Max file size", "4096", "unlimited"),
        ("Max processes", "500", "600"),
        ("Max pending signals", "3", "5"),
        ("Max realtime timeout", "7000000", "8000000"),
    ];
    for userns in [false, true] {
        let bundle = Bundle::sleeper().edit(|config| {
            let entry = |(kind, soft, hard): (&str, u64, u64)| json!({ "type": kind, "soft": soft, "hard": hard });
            config["process"]["rlimits"] = limits.map(entry).to_vec().into();
            config["process"]["oomScoreAdj"] = json!(321);
            if userns {
                config["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({ "type": "user" }));
                let map = json!([{ "containerID": 0, "hostID": 0, "size": 1000 }]);
                config["linux"]["uidMappings"] = map.clone();
                config["linux"]["gidMappings"] = map;
            }
        });
        bundle.up();
        let pid = bundle.pid();
        let table = fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
        for (name, soft, hard) in rows {
            let row = table.lines().find_map(|line| line.strip_prefix(name)).expect("a row");
            assert_eq!(words(row)[..2], [soft, hard], "{name} userns {userns}");
        }
        let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("oom_score_adj");
        assert_eq!(score.trim(), "321", "userns {userns}");
    }
}

#[test]
fn no_new_privs_is_as_asked() {
    for (asked, has) in [(json!(true), "1"), (json!(false), "0"), (json!(null), "0")] {
        let bundle = Bundle::script("grep ^NoNewPrivs /proc/self/status")
            .edit(|config| config["process"]["noNewPrivileges"] = asked.clone());
        assert_eq!(words(&bundle.run().well()), ["NoNewPrivs:", has], "{asked}");
    }
}

#[test]
fn the_session_keyring_is_the_containers_own() {
    let keys = || Bundle::script("cat /proc/keys").edit(|config| config["linux"]["maskedPaths"] = json!([]));
    let (own, callers) = (keys(), keys());
    let named = |bundle: &Bundle, shown: &str| shown.contains(&format!("_ses.{}:", bundle.id));
    let shown = own.run().well();
    assert!(named(&own, &shown), "{shown}");
    let shown = callers.run_with(&["--no-new-keyring"]).well();
    assert!(!named(&callers, &shown), "{shown}");
}

/// What the caller ignores or blocks is the process's own again.
#[test]
fn signals_are_as_a_new_process_has_them() {
    let bundle = Bundle::new().args(&["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]);
    let shown = run_after(&bundle, "trap '' HUP INT TERM USR1 PIPE").well();
    assert_eq!(words(&shown), ["SigBlk:", "0000000000000000", "SigIgn:", "0000000000000000"]);
}

/// CVE-2024-21626: nothing of the runtime or its caller is open in the container.
#[test]
fn no_descriptor_comes_along() {
    let bundle = Bundle::new().args(&["ls", "/proc/self/fd"]);
    // The fourth is the directory that ls reads.
    assert_eq!(run_after(&bundle, "exec 3</ 5</etc/passwd 9</proc").well(), "0\n1\n2\n3");
    let bundle = Bundle::script("readlink /proc/$$/fd/3; readlink /proc/$$/fd/4; readlink /proc/$$/fd/5; true");
    let mut command = Command::new("sh");
    let open = "exec 3</etc 4</proc 5</tmp; exec \"$@\"";
    command.args(["-c", open, "sh", ORLOP]).args(bundle.making("run", &["--preserve-fds", "2"]).get_args());
    let shown = outcome(command).well();
    assert_eq!(shown.lines().count(), 2, "{shown}");
}

/// What `command` says whose stdout and stderr are one socket.
fn to_a_socket(mut command: Command) -> String {
    let (mut ours, theirs) = UnixStream::pair().expect("socketpair");
    let theirs = OwnedFd::from(theirs);
    command.stdin(Stdio::null()).stderr(theirs.try_clone().expect("dup")).stdout(theirs);
    let mut child = command.spawn().expect("spawn");
    drop(command);
    let mut said = String::new();
    ours.read_to_string(&mut said).expect("read");
    assert!(child.wait().expect("wait").success(), "{said}");
    said
}

/// What `command` says whose stdout is a file of root's.
fn to_a_file(bundle: &Bundle, mut command: Command) -> String {
    let path = bundle.dir.join("said");
    assert!(
        command.stdin(Stdio::null()).stdout(File::create(&path).expect("create")).status().expect("spawn").success()
    );
    fs::read_to_string(path).expect("read")
}

/// What `command` says whose stdout is a pipe of root's.
fn to_a_pipe(mut command: Command) -> String {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().expect("spawn");
    assert!(output.status.success());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Images link their log files to /dev/stdout.
#[test]
fn stdout_can_be_opened_by_name_whatever_the_caller_has() {
    let script = "echo said >/dev/stdout; echo blamed >/dev/stderr; echo again";
    let once = "echo said >/dev/stdout";
    let plain = || Bundle::script(script);
    let user = |bundle: Bundle, uid: u32| bundle.edit(|config| config["process"]["user"]["uid"] = uid.into());
    for (what, bundle) in [
        ("root", plain()),
        ("a user", user(plain(), 1000)),
        ("root of a user namespace", plain().with_user()),
        ("a user of a user namespace", user(plain().with_user(), 1000)),
    ] {
        let said = to_a_socket(bundle.making("run", &[]));
        assert!(said.ends_with("said\nblamed\nagain\n"), "{what}: {said}");
        let bundle = bundle.args(&["sh", "-c", once]);
        assert_eq!(to_a_file(&bundle, bundle.making("run", &[])), "said\n", "{what}");
        assert_eq!(to_a_pipe(bundle.making("run", &[])), "said\n", "{what}");
        let bundle = bundle.args(&["sleep", "1000"]);
        bundle.up();
        let exec = |script| bundle.command(&["exec", &bundle.id, "sh", "-c", script]);
        assert_eq!(to_a_socket(exec(script)), "said\nblamed\nagain\n", "{what}: exec");
        assert_eq!(to_a_file(&bundle, exec(once)), "said\n", "{what}: exec");
        assert_eq!(to_a_pipe(exec(once)), "said\n", "{what}: exec");
    }
}

/// More than a pipe holds, and the hook waits for the program.
#[test]
fn a_program_goes_on_while_a_hook_waits_for_it() {
    let bundle = Bundle::script("seq 1 100000; touch /ready");
    let waits = format!("until test -e {}; do sleep 0.05; done", bundle.rootfs("ready").display());
    let bundle = bundle.edit(|config| {
        config["root"]["readonly"] = json!(false);
        config["hooks"] = json!({"poststart": [{"path": "/bin/sh", "args": ["sh", "-c", waits], "timeout": 20}]});
    });
    assert!(to_a_socket(bundle.making("run", &[])).ends_with("\n100000\n"));
}

/// A caller's descriptors are the program's own where it could open them, and always of one that is detached.
#[test]
fn no_pipe_is_where_none_is_needed() {
    let (_ours, theirs) = UnixStream::pair().expect("socketpair");
    let bundle = Bundle::sleeper();
    let mut command = bundle.making("run", &["--detach"]);
    assert!(command.stdout(OwnedFd::from(theirs)).stderr(Stdio::null()).status().expect("spawn").success());
    let leads_to = fs::read_link(format!("/proc/{}/fd/1", bundle.pid())).expect("readlink");
    assert!(leads_to.to_string_lossy().starts_with("socket:"), "{leads_to:?}");
    let bundle = Bundle::script("readlink /proc/$$/fd/1");
    let said = to_a_file(&bundle, bundle.making("run", &[]));
    assert!(said.trim_end().ends_with("/said"), "{said}");
}

#[test]
fn the_process_leads_its_own_session() {
    let bundle = Bundle::script("cut -d' ' -f5,6 /proc/$$/stat");
    assert_eq!(bundle.run().well(), "1 1");
}
