//! One more process in a container: where it is, and what it may.

mod common;

use std::fs;
use std::process::Command;

use common::{Bundle, alive, outcome, proc_status, value, wait};
use serde_json::{Value, json};

fn up() -> Bundle {
    let bundle = Bundle::sleeper();
    bundle.up();
    bundle
}

#[test]
fn it_returns_the_programs_exit_status() {
    let bundle = up();
    assert_eq!(bundle.on("exec", &["sh", "-c", "echo o; echo e >&2; exit 7"]).code, Some(7));
    assert_eq!(bundle.on("exec", &["sh", "-c", "kill -9 $$"]).code, Some(137));
}

#[test]
fn its_own_failures_are_255() {
    let bundle = up();
    let failed = bundle.on("exec", &["nonexistent"]);
    failed.fails("executable file not found in $PATH");
    assert_eq!(failed.code, Some(255));
    assert_eq!(bundle.on("exec", &["--cwd", "/nonexistent", "true"]).code, Some(255));
    assert_eq!(bundle.on("exec", &[]).code, Some(255));
}

#[test]
fn it_joins_every_namespace_of_the_container() {
    let bundle = Bundle::sleeper().edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
        namespaces.push(json!({"type": "user"}));
        for ids in ["uidMappings", "gidMappings"] {
            config["linux"][ids] = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
        }
    });
    bundle.up();
    let pid = bundle.pid();
    for kind in ["pid", "net", "ipc", "uts", "mnt", "cgroup", "user"] {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("a namespace");
        let inside = bundle.inside(&format!("readlink /proc/self/ns/{kind}"));
        assert_eq!(inside, of(&pid.to_string()).to_str().unwrap(), "{kind}");
        assert_ne!(of("self"), of(&pid.to_string()), "{kind}: the container has its own");
    }
    assert_eq!(bundle.inside("id -u"), "0");
}

#[test]
fn it_is_in_the_containers_cgroup() {
    let bundle = up();
    let pid_file = bundle.dir.join("pid");
    bundle.on("exec", &["-d", "--pid-file", pid_file.to_str().unwrap(), "sleep", "1000"]).well();
    let pid: u32 = value(pid_file).expect("the pid file").parse().expect("digits only");
    assert_eq!(common::cgroup_of(pid), bundle.cgroup());
    assert_eq!(proc_status(pid, "Name"), "sleep");
    let inside: u32 = proc_status(pid, "NSpid").split_whitespace().last().unwrap().parse().unwrap();
    assert!(inside > 1, "in the container's pid namespace");
    bundle.on("delete", &["--force"]).well();
    assert!(!alive(pid), "it ends with the container");
}

#[test]
fn cwd_env_and_user_are_what_the_command_line_says() {
    let bundle = up();
    let args = ["--cwd", "/tmp", "-e", "A=b c", "--env", "D=", "-u", "7:8", "-g", "9", "sh", "-c"];
    let script = "pwd; echo \"$A,${D-unset},$PATH\"; id -u; id -g; grep Groups /proc/self/status | xargs";
    let said = bundle.on("exec", &[&args[..], &[script]].concat()).well();
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines[0], "/tmp");
    assert!(lines[1].starts_with("b c,,/usr/local/sbin:"), "{said}");
    assert_eq!(&lines[2..4], ["7", "8"]);
    assert_eq!(lines[4].split_whitespace().collect::<Vec<_>>(), ["Groups:", "9"]);
}

#[test]
fn a_user_is_never_looked_up_by_name() {
    let bundle = up();
    fs::write(bundle.rootfs("etc/passwd"), "evil:x:0:0::/:/bin/sh\n").expect("passwd");
    assert_eq!(bundle.on("exec", &["-u", "evil", "id"]).code, Some(255));
}

fn capabilities(of: &str) -> Vec<u64> {
    let sets = of.lines().filter(|line| line.starts_with("Cap"));
    sets.map(|line| u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()).collect()
}

#[test]
fn added_capabilities_are_never_inheritable_nor_ambient() {
    let bundle = up();
    let plain = capabilities(&bundle.inside("cat /proc/self/status"));
    let more = capabilities(&bundle.on("exec", &["-c", "CAP_NET_RAW", "cat", "/proc/self/status"]).well());
    let own = fs::read_to_string(format!("/proc/{}/status", bundle.pid())).expect("status");
    assert_eq!(plain, capabilities(&own), "without -c as the container's init");
    const NET_RAW: u64 = 1 << 13;
    // inheritable, permitted, effective, bounding, ambient
    assert_eq!(more, [0, plain[1] | NET_RAW, plain[2] | NET_RAW, plain[3] | NET_RAW, 0]);
}

#[test]
fn it_has_inits_seccomp_filter_and_no_new_privs() {
    let bundle = Bundle::sleeper().edit(|config| {
        config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 84}]});
    });
    bundle.up();
    let said = bundle.inside("grep -E 'Seccomp:|NoNewPrivs' /proc/self/status; mkdir /tmp/x; echo $?");
    let mut lines = said.lines().map(|line| line.split_whitespace().last().unwrap());
    assert_eq!([lines.next(), lines.next()], [Some("1"), Some("2")], "{said}");
    assert_ne!(lines.next(), Some("0"));
    assert!(!bundle.rootfs("tmp/x").exists());
    assert_eq!(proc_status(bundle.pid(), "Seccomp"), "2");
}

#[test]
fn it_has_inits_limits_and_oom_score() {
    let bundle = Bundle::sleeper().edit(|config| {
        config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 55, "hard": 66},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
        config["process"]["oomScoreAdj"] = json!(123);
    });
    bundle.up();
    assert_eq!(bundle.inside("ulimit -Sn; ulimit -Hn; ulimit -c; cat /proc/self/oom_score_adj"), "55\n66\n0\n123");
    let limits = fs::read_to_string(format!("/proc/{}/limits", bundle.pid())).expect("limits");
    assert!(limits.lines().any(|line| line.split_whitespace().eq(["Max", "open", "files", "55", "66", "files"])));
}

#[test]
fn a_terminal_is_one_of_the_containers() {
    let bundle = up();
    let line = format!(
        "'{}' --root '{}' exec -t {} sh -c 'tty; [ -t 0 ] && echo tty; exit 9'",
        common::ORLOP,
        bundle.store.display(),
        bundle.id
    );
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).stdin(std::process::Stdio::null());
    let said = outcome(command);
    assert_eq!(said.code, Some(9), "{}", said.stdout());
    // script(1) passes the end of its own input on, and its echo may stand anywhere
    let shown = said.stdout().replace("^@", "").replace("^D\u{8}\u{8}", "");
    for words in ["/dev/pts/0\r\n", "tty\r\n"] {
        assert!(shown.contains(words), "{shown:?}");
    }
}

#[test]
fn a_process_file_says_all() {
    let bundle = up();
    let mut process: Value = bundle.config["process"].clone();
    process["args"] = json!(["sh", "-c", "pwd; id -u; echo $X; grep CapEff /proc/self/status | xargs; ulimit -n"]);
    process["cwd"] = json!("/tmp");
    process["user"] = json!({"uid": 5, "gid": 5});
    process["env"] = json!(["PATH=/bin", "X=y"]);
    process["capabilities"] = json!({});
    process["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 44, "hard": 44}]);
    let file = bundle.dir.join("process.json");
    fs::write(&file, process.to_string()).expect("process.json");
    let mut command = bundle.command(&["exec", "--process"]);
    command.arg(&file).arg(&bundle.id);
    assert_eq!(outcome(command).well(), "/tmp\n5\ny\nCapEff: 0000000000000000\n44");
}

/// What confines a process and is not in the file is as the container has it.
#[test]
fn a_process_file_leaves_the_rest_as_the_container_has_it() {
    let bundle = Bundle::sleeper().edit(|config| {
        config["process"]["oomScoreAdj"] = json!(77);
        config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 55, "hard": 66}]);
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = json!(["CAP_KILL"]);
        }
    });
    bundle.create();
    bundle.start();
    let file = bundle.dir.join("process.json");
    let script = "grep CapEff /proc/self/status | xargs; ulimit -n; cat /proc/self/oom_score_adj";
    let process = json!({"args": ["sh", "-c", script], "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"]});
    fs::write(&file, process.to_string()).expect("process.json");
    let said = bundle.on("exec", &["--process", file.to_str().expect("UTF-8")]).well();
    assert_eq!(said, "CapEff: 0000000000000020\n55\n77");
}

#[test]
fn a_variable_takes_the_place_of_the_containers_own() {
    let bundle = up();
    let said = bundle.on("exec", &["-e", "PATH=/nowhere", "-e", "PATH=/bin:/usr/bin", "env"]).well();
    let path: Vec<_> = said.lines().filter(|line| line.starts_with("PATH=")).collect();
    assert_eq!(path, ["PATH=/bin:/usr/bin"]);
}

/// As one in a configuration.
#[test]
fn an_unknown_capability_is_a_warning() {
    let bundle = up();
    let run = bundle.on("exec", &["-c", "CAP_OF_TOMORROW", "true"]);
    run.well();
    assert!(run.stderr().contains("unknown capability CAP_OF_TOMORROW"), "{}", run.stderr());
}

#[test]
fn a_wrong_process_file_is_refused_in_place() {
    let bundle = up();
    let file = bundle.dir.join("process.json");
    for (process, place) in [
        (json!({"args": ["true"], "cwd": "relative", "user": {"uid": 0, "gid": 0}}), "/cwd"),
        (json!({"args": [], "cwd": "/", "user": {"uid": 0, "gid": 0}}), "/args"),
        (json!({"args": ["true"], "cwd": "/", "user": {"uid": "zero", "gid": 0}}), "/user/uid"),
    ] {
        fs::write(&file, process.to_string()).expect("process.json");
        let failed = bundle.on("exec", &["-p", file.to_str().unwrap()]);
        failed.fails(place);
        assert_eq!(failed.code, Some(255));
    }
}

#[test]
fn a_stopped_container_is_not_entered() {
    let bundle = Bundle::new();
    bundle.up();
    bundle.await_status("stopped");
    let failed = bundle.on("exec", &["true"]);
    failed.fails("cannot exec in a stopped container");
    assert_eq!(failed.code, Some(255));
}

#[test]
fn a_paused_container_is_entered_only_when_asked() {
    let bundle = up();
    let freeze = bundle.cgroup().join("cgroup.freeze");
    fs::write(&freeze, "1").expect("freeze");
    bundle.await_status("paused");
    bundle.on("exec", &["true"]).fails("cannot exec in a paused container");
    let waiting = common::begin({
        let mut command = bundle.command(&["exec", "--ignore-paused", &bundle.id]);
        command.args(["echo", "thawed"]);
        command
    });
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(waiting.stdout(), "");
    fs::write(&freeze, "0").expect("thaw");
    assert_eq!(waiting.end().well(), "thawed");
}

#[test]
fn sigkill_ends_a_paused_container() {
    let bundle = up();
    fs::write(bundle.cgroup().join("cgroup.freeze"), "1").expect("freeze");
    bundle.await_status("paused");
    bundle.on("kill", &["KILL"]).well();
    bundle.await_status("stopped");
}

#[test]
fn a_created_container_is_entered_before_its_start() {
    let bundle = Bundle::sleeper();
    bundle.create();
    assert_eq!(bundle.inside("echo in"), "in");
    assert_eq!(bundle.status(), "created");
}

#[test]
fn it_goes_to_inits_cgroup_when_controllers_are_handed_out_inside() {
    let bundle = Bundle::sleeper();
    bundle.up();
    let cgroup = bundle.cgroup();
    let inner = cgroup.join("inner");
    fs::create_dir(&inner).expect("a cgroup of the container's own");
    fs::write(inner.join("cgroup.procs"), bundle.pid().to_string()).expect("move init");
    let available = value(cgroup.join("cgroup.controllers")).expect("controllers");
    let Some(controller) = available.split_whitespace().find(|name| ["hugetlb", "pids", "memory"].contains(name))
    else {
        panic!("no controller: {available}");
    };
    fs::write(cgroup.join("cgroup.subtree_control"), format!("+{controller}")).expect("hand it out");
    let pid_file = bundle.dir.join("pid");
    bundle.on("exec", &["-d", "--pid-file", pid_file.to_str().unwrap(), "sleep", "1000"]).well();
    let pid: u32 = value(pid_file).expect("the pid file").parse().expect("digits");
    assert_eq!(common::cgroup_of(pid), inner);
    bundle.on("delete", &["--force"]).well();
    assert!(!cgroup.exists());
}

#[test]
fn the_cgroup_may_be_one_below_the_containers() {
    let bundle = up();
    let cgroup = bundle.cgroup();
    fs::create_dir(cgroup.join("sub")).expect("a cgroup of the container's own");
    let pid_file = bundle.dir.join("pid");
    let options = ["-d", "--cgroup", "/a/../sub", "--pid-file", pid_file.to_str().unwrap(), "sleep", "1000"];
    bundle.on("exec", &options).well();
    let pid: u32 = value(pid_file).expect("the pid file").parse().expect("digits");
    assert_eq!(common::cgroup_of(pid), cgroup.join("sub"));
    bundle.on("exec", &["--cgroup", "..", "true"]).fails(".. is not a sub cgroup path");
    bundle.on("exec", &["--cgroup", "cpu:sub", "true"]).fails("unknown controller cpu");
    let said = bundle.on("exec", &["--cgroup", "none", "true"]).fails("adding pid of the process to cgroups");
    assert!(said.contains("/none/cgroup.procs: no such file or directory"), "{said}");
}

#[test]
fn a_cgroup_that_is_named_is_not_replaced_by_inits() {
    let bundle = with_cgroups_of_its_own();
    bundle.on("exec", &["true"]).well();
    let said = bundle.on("exec", &["--cgroup", "/", "true"]).fails("adding pid of the process to cgroups");
    assert!(said.contains("/cgroup.procs: device or resource busy"), "{said}");
    bundle.on("exec", &["--cgroup", "init/scope", "true"]).well();
}

/// As systemd and Docker do inside: init makes a cgroup below its own, goes there, and hands all controllers out.
fn with_cgroups_of_its_own() -> Bundle {
    let bundle = Bundle::script(
        "cd /sys/fs/cgroup && mkdir -p init/scope && echo 1 >init/scope/cgroup.procs && \
         for c in $(cat cgroup.controllers); do echo +$c >cgroup.subtree_control || exit; done && \
         : >/ready && exec sleep 1000",
    )
    .edit(|config| {
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        let cgroup = mounts.iter_mut().find(|mount| mount["type"] == "cgroup").expect("a cgroup mount");
        cgroup["options"] = json!(["rw", "nosuid", "noexec", "nodev"]);
    });
    bundle.up();
    wait(|| bundle.rootfs("ready").exists());
    bundle
}

/// The kernel takes no process into a cgroup that hands controllers out: a test of the test.
fn refuses_processes(cgroup: &std::path::Path) -> bool {
    let mut child = Command::new("sleep").arg("1000").spawn().expect("sleep");
    let moved = fs::write(cgroup.join("cgroup.procs"), child.id().to_string());
    child.kill().and_then(|()| child.wait()).expect("kill");
    moved.is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY))
}

#[test]
fn every_verb_works_where_init_has_made_cgroups_of_its_own() {
    let bundle = with_cgroups_of_its_own();
    let inner = bundle.cgroup();
    let outer = inner.ancestors().nth(2).expect("the container's").to_owned();
    assert!(inner.ends_with("init/scope") && refuses_processes(&outer), "{}", inner.display());
    assert_ne!(value(outer.join("cgroup.subtree_control")).expect("subtree_control"), "");
    assert_eq!(bundle.inside("grep ^0:: /proc/self/cgroup"), "0::/init/scope");
    let pid_file = bundle.dir.join("pid");
    bundle.on("exec", &["-d", "--pid-file", pid_file.to_str().unwrap(), "sleep", "1000"]).well();
    let pid: u32 = value(&pid_file).expect("the pid file").parse().expect("digits");
    assert_eq!(common::cgroup_of(pid), inner);
    let mut pids: Vec<u32> = serde_json::from_str(&bundle.processes()).expect("JSON");
    pids.sort();
    let mut expected = [bundle.pid(), pid];
    expected.sort();
    assert_eq!(pids, expected);
    bundle.on("pause", &[]).well();
    assert_eq!(bundle.status(), "paused");
    assert!(fs::read_to_string(inner.join("cgroup.events")).expect("events").contains("frozen 1"));
    bundle.on("exec", &["true"]).fails("cannot exec in a paused container");
    bundle.on("resume", &[]).well();
    assert_eq!(bundle.inside("echo in"), "in");
    bundle.on("kill", &["--all", "KILL"]).well();
    wait(|| !common::alive(pid) && bundle.status() == "stopped");
    bundle.on("delete", &[]).well();
    assert!(!outer.exists());
}

#[test]
fn delete_by_force_takes_the_cgroups_that_init_has_made() {
    let bundle = with_cgroups_of_its_own();
    let outer = bundle.cgroup().ancestors().nth(2).expect("the container's").to_owned();
    bundle.inside("cd /sys/fs/cgroup; mkdir -p a/b/c; sleep 1000 >/dev/null 2>&1 & echo $! >a/b/c/cgroup.procs");
    let pids: Vec<u32> = serde_json::from_str(&bundle.processes()).expect("JSON");
    assert_eq!(pids.len(), 2);
    bundle.on("delete", &["--force"]).well();
    assert!(!outer.exists() && !pids.into_iter().any(common::alive));
}

#[test]
fn no_descriptor_of_the_runtime_gets_inside() {
    let bundle = up();
    let pid_file = bundle.dir.join("pid");
    bundle.on("exec", &["-d", "--pid-file", pid_file.to_str().unwrap(), "sleep", "1000"]).well();
    let pid = value(pid_file).expect("the pid file");
    wait(|| proc_status(pid.parse().unwrap(), "Name") == "sleep");
    let dir = fs::read_dir(format!("/proc/{pid}/fd")).expect("fd");
    let mut fds: Vec<_> = dir.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    fds.sort();
    assert_eq!(fds, ["0", "1", "2"]);
}

#[test]
fn without_a_umask_of_its_own_it_has_the_callers() {
    let bundle = up();
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "umask 027 && exec \"$@\"", "sh", common::ORLOP, "--root"]);
    command.arg(&bundle.store).args(["exec", &bundle.id, "sh", "-c", "umask"]);
    assert_eq!(outcome(command).well(), "0027");
}

#[test]
fn a_descriptor_of_the_runtime_is_never_one_of_those_to_preserve() {
    let bundle = up();
    let mut command = std::process::Command::new("sh"); // whoever runs the tests may have left one open
    command.args(["-c", "exec \"$@\" 3>&-", "sh", common::ORLOP, "--root"]).arg(&bundle.store);
    command.args(["exec", "--preserve-fds", "1", &bundle.id, "true"]);
    outcome(command).fails("unable to stat preserved-fd 0");
}

/// The container's ids 0 to 65535 are the host's from 100000 on.
fn in_a_user_namespace() -> Bundle {
    Bundle::sleeper().with_user().edit(|config| config["process"]["oomScoreAdj"] = json!(123))
}

#[test]
fn oom_score_adj_is_set_in_a_user_namespace_too() {
    let bundle = in_a_user_namespace();
    bundle.up();
    assert_eq!(bundle.inside("id -u; cat /proc/1/oom_score_adj /proc/self/oom_score_adj"), "0\n123\n123");
}

#[test]
fn oom_score_adj_is_set_in_a_user_namespace_that_is_joined() {
    let owner = in_a_user_namespace();
    owner.up();
    let pid = owner.pid();
    let bundle = Bundle::script("cat /proc/self/oom_score_adj").edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
        namespaces.push(json!({"type": "user", "path": format!("/proc/{pid}/ns/user")}));
        config["process"]["oomScoreAdj"] = json!(321);
    });
    outcome({
        let mut command = Command::new("chown");
        command.args(["-R", "100000:100000"]).arg(bundle.rootfs("/"));
        command
    })
    .well();
    assert_eq!(bundle.run().well(), "321");
}

#[test]
fn without_a_mount_namespace_it_is_in_the_containers_root_all_the_same() {
    let bundle = Bundle::sleeper().edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
        namespaces.retain(|namespace| namespace["type"] != "mount");
        config["mounts"] = json!([]);
        for paths in ["maskedPaths", "readonlyPaths"] {
            config["linux"].as_object_mut().expect("linux").remove(paths);
        }
    });
    bundle.up();
    fs::write(bundle.rootfs("only-inside"), "").expect("a file");
    assert_eq!(bundle.inside("ls -d /only-inside; cd ..; ls -d only-inside"), "/only-inside\nonly-inside");
}

#[test]
fn no_group_of_a_rootless_caller_comes_along_where_groups_can_be_dropped() {
    let bundle = in_a_user_namespace().args(&["grep", "Groups", "/proc/self/status"]).edit(|config| {
        config["process"].as_object_mut().expect("process").remove("oomScoreAdj");
        config["process"].as_object_mut().expect("process").remove("rlimits");
    });
    let mut command = Command::new("setpriv");
    command.args(["--groups", "4242", common::ORLOP, "--rootless=true", "--root"]).arg(&bundle.store);
    command.args(["run", "--bundle"]).arg(&bundle.dir).arg(&bundle.id).stdin(std::process::Stdio::null());
    assert_eq!(outcome(command).well().trim_start_matches("Groups:").trim(), "");
}

/// What set-up writes to procfs goes through one of its own: a container that may mount can put what it wants over its /proc.
#[test]
fn what_is_mounted_on_proc_inside_changes_nothing() {
    let bundle = Bundle::sleeper().edit(|config| {
        config["process"]["oomScoreAdj"] = json!(123);
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set].as_array_mut().expect("a set").push(json!("CAP_SYS_ADMIN"));
        }
    });
    bundle.up();
    bundle.inside("mount -t tmpfs none /proc && mkdir -p /proc/self/attr /proc/sys && : >/proc/self/oom_score_adj");
    let (pid_file, log) = (bundle.dir.join("pid"), bundle.dir.join("trace"));
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-e", "trace=open,openat,openat2", "-o"]).arg(&log).arg(common::ORLOP).arg("--root");
    strace.arg(&bundle.store).args(["exec", "-d", "--pid-file"]).arg(&pid_file).args([&bundle.id, "sleep", "1000"]);
    let traced = common::begin(strace);
    wait(|| value(&pid_file).is_ok_and(|pid| proc_status(pid.parse().expect("digits"), "Name") == "sleep"));
    let pid: u32 = value(&pid_file).expect("the pid file").parse().expect("digits");
    assert_eq!(value(format!("/proc/{pid}/oom_score_adj")).expect("as root of the host"), "123");
    bundle.on("delete", &["--force"]).well();
    traced.end();
    let log = fs::read_to_string(log).expect("the trace");
    let runtime = log.split(' ').next().expect("a pid");
    let inside: Vec<_> = log.lines().filter(|line| !line.starts_with(runtime)).collect();
    assert!(!inside.is_empty(), "{log}");
    let by_path = inside.iter().find(|line| line.contains("\"/proc") && !line.contains("O_RDONLY"));
    assert_eq!(by_path, None, "{log}");
}

#[test]
fn no_new_privs_is_set_where_it_is_asked_for() {
    let bundle = Bundle::sleeper().edit(|config| config["process"]["noNewPrivileges"] = false.into());
    bundle.up().well();
    let inside = |options: &[&str]| {
        let arguments = [&["exec"], options, &[&bundle.id, "grep", "NoNewPrivs", "/proc/self/status"]].concat();
        common::outcome(bundle.command(&arguments)).well()
    };
    assert_eq!(inside(&[]), "NoNewPrivs:\t0");
    assert_eq!(inside(&["--no-new-privs"]), "NoNewPrivs:\t1");
}
