//! The runtime in the hands of a user without any right: here one that no name belongs to.

#[allow(dead_code)] // another one is for others
#[path = "common/caller.rs"]
mod caller;
mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

use common::{Bundle, Outcome, begin, outcome, value};
use serde_json::{Value, json};

/// Not in /etc/passwd, so nothing else on this machine runs as it.
const USER: u32 = 54321;

/// A bundle of that user, with its state in its own XDG_RUNTIME_DIR, made from what `orlop spec --rootless` writes there.
struct Mine {
    bundle: Bundle,
    runtime: std::path::PathBuf,
}

fn chown_all(path: &std::path::Path) {
    let status = Command::new("chown").arg("-hR").arg(format!("{USER}:{USER}")).arg(path).status();
    assert!(status.expect("chown").success());
}

impl Mine {
    fn new(args: &[&str]) -> Self {
        let bundle = Bundle::new();
        let runtime = bundle.dir.join("runtime");
        fs::create_dir(&runtime).expect("XDG_RUNTIME_DIR");
        fs::set_permissions(&runtime, fs::Permissions::from_mode(0o700)).expect("chmod");
        chown_all(&bundle.dir);
        chown(&bundle.dir, Some(USER), Some(USER)).expect("chown");
        let mut mine = Self { bundle, runtime };
        fs::remove_file(mine.bundle.dir.join("config.json")).expect("remove");
        let dir = mine.bundle.dir.to_str().expect("UTF-8").to_owned();
        outcome(mine.command(&["spec", "--rootless", "--bundle", &dir])).well();
        let written = value(mine.bundle.dir.join("config.json")).expect("config.json");
        mine.bundle.config = serde_json::from_str(&written).expect("JSON");
        mine.edit(|config| {
            config["process"]["terminal"] = json!(false);
            config["process"]["args"] = json!(args);
            config["root"]["readonly"] = json!(false);
        })
    }

    fn edit(mut self, change: impl FnOnce(&mut Value)) -> Self {
        self.bundle = std::mem::replace(&mut self.bundle, Bundle::new()).edit(change);
        self
    }

    fn command(&self, args: &[&str]) -> Command {
        self.program(&[&[common::ORLOP], args].concat())
    }

    /// Any program in the user's hands.
    fn program(&self, args: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        let ids = [format!("--reuid={USER}"), format!("--regid={USER}"), "--clear-groups".to_owned()];
        command.args(ids).args(args).env("XDG_RUNTIME_DIR", &self.runtime);
        command.stdin(std::process::Stdio::null());
        command
    }

    fn making(&self, verb: &str, args: &[&str]) -> Command {
        let mut command = self.command(&[verb, "--bundle"]);
        command.arg(&self.bundle.dir).args(args).arg(&self.bundle.id);
        command
    }

    fn run(&self) -> Outcome {
        outcome(self.making("run", &[]))
    }

    fn on(&self, verb: &str, args: &[&str]) -> Outcome {
        outcome(self.command(&[&[verb, &self.bundle.id], args].concat()))
    }
}

/// What is the user's is not where the bundle's own end looks.
impl Drop for Mine {
    fn drop(&mut self) {
        outcome(self.command(&["delete", "--force", &self.bundle.id]));
    }
}

#[test]
fn an_ordinary_user_is_root_inside_by_one_id() {
    let mine = Mine::new(&[
        "sh",
        "-c",
        "id -u; cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups; echo $$; touch /made",
    ]);
    let run = mine.run();
    let said = run.well();
    let words: Vec<_> = said.split_whitespace().collect();
    let user = USER.to_string();
    assert_eq!(words, ["0", "0", &user, "1", "0", &user, "1", "deny", "1"], "{said}");
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(mine.bundle.rootfs("made")).expect("made").uid(), USER);
}

#[test]
fn without_rights_over_cgroups_it_goes_on_and_says_nothing_as_runc() {
    let mine = Mine::new(&["true"]);
    let run = mine.run();
    run.well();
    assert_eq!(run.stderr(), "");
    assert!(!std::path::Path::new("/sys/fs/cgroup").join(&mine.bundle.id).exists());
}

/// Without a cgroup namespace there is no new mount to be had, and the container's own cgroup is not there.
#[test]
fn without_a_cgroup_of_its_own_it_sees_the_callers_and_can_not_write_there() {
    let mine = Mine::new(&[
        "sh",
        "-c",
        "cd /sys/fs/cgroup; cat cgroup.freeze; echo 1 >cgroup.freeze; cat cgroup.procs; touch sub/made",
    ])
    .edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("a list");
        namespaces.retain(|namespace| namespace["type"] != "cgroup");
    });
    let group = std::path::Path::new("/sys/fs/cgroup").join(format!("{}-caller", mine.bundle.id));
    fs::create_dir(&group).expect("a cgroup");
    // What is mounted below comes along, and is read-only as well.
    let sub = group.join("sub");
    fs::create_dir(&sub).expect("a cgroup below");
    let mount = |program: &str, args: &[&str]| {
        assert!(Command::new(program).args(args).arg(&sub).status().expect(program).success());
    };
    mount("mount", &["-t", "tmpfs", "-o", "mode=777", "tmpfs"]);
    let run = mine.making("run", &[]);
    let mut command = Command::new("sh");
    command.args(["-c", "echo 0 >\"$0\" && exec \"$@\""]).arg(group.join("cgroup.procs"));
    command.arg(run.get_program()).args(run.get_args()).env("XDG_RUNTIME_DIR", &mine.runtime);
    let run = {
        command.stdin(std::process::Stdio::null());
        outcome(command)
    };
    assert_eq!(run.code, Some(1), "{}", run.stderr());
    let said = run.stdout();
    // The root of the hierarchy has no such file. The runtime is there as well, in another pid namespace.
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines[..2], ["0", "0"], "{said}");
    assert!(lines.contains(&"1"), "{said}");
    assert_eq!(run.stderr().matches("Read-only file system").count(), 2, "{}", run.stderr());
    assert!(!sub.join("made").exists());
    mount("umount", &[]);
    fs::remove_dir(&sub).expect("rmdir");
    assert_eq!(value(group.join("cgroup.freeze")).expect("a cgroup").trim(), "0");
    fs::remove_dir(&group).expect("rmdir");
}

#[test]
fn a_limit_that_it_may_not_set_is_an_error() {
    let mine = Mine::new(&["true"]).edit(|config| {
        config["linux"]["resources"] = json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}]});
    });
    let said = mine.run().fails("rootless needs no limits + no cgrouppath when no permission is granted for cgroups");
    assert!(said.contains("unable to apply cgroup configuration: ") && said.contains("permission denied"), "{said}");
    assert_eq!(fs::read_dir(mine.runtime.join("orlop")).expect("the root").count(), 0);
}

/// A cgroup that root has given to the user (Delegation Containment of cgroup-v2.rst), and one in it for who calls orlop.
struct Delegated(std::path::PathBuf);

impl Delegated {
    fn new(name: &str, controllers: &[&str]) -> Self {
        let (top, group) = (std::path::Path::new("/sys/fs/cgroup"), Self(format!("/sys/fs/cgroup/{name}").into()));
        let enable: String = controllers.iter().map(|controller| format!("+{controller} ")).collect();
        fs::write(top.join("cgroup.subtree_control"), enable).expect("controllers");
        fs::create_dir_all(group.0.join("caller")).expect("cgroups");
        for owned in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads", "caller", "caller/cgroup.procs"] {
            chown(group.0.join(owned), Some(USER), Some(USER)).expect("chown");
        }
        group
    }

    /// The command in the hands of who is there.
    fn command(&self, command: &Command) -> Command {
        let mut inside = Command::new("sh");
        inside.args(["-c", "echo 0 >\"$0\" && exec \"$@\""]).arg(self.0.join("caller/cgroup.procs"));
        inside.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            inside.env(name, value.expect("a variable that is set"));
        }
        inside.stdin(std::process::Stdio::null());
        inside
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        let _ = fs::remove_dir(self.0.join("caller"));
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn limits_hold_in_a_cgroup_that_is_delegated_to_it() {
    let there = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").expect("cgroup2");
    let controllers: Vec<_> =
        ["hugetlb", "memory", "pids"].into_iter().filter(|one| there.split_whitespace().any(|it| it == *one)).collect();
    assert!(!controllers.is_empty(), "{there}");
    let mine = Mine::new(&["sleep", "1000"]);
    let name = format!("{}-users", mine.bundle.id);
    let group = Delegated::new(&name, &controllers);
    let limits = |factor: u64| {
        let mut resources = json!({});
        for controller in &controllers {
            match *controller {
                "hugetlb" => resources["hugepageLimits"] = json!([{"pageSize": "2MB", "limit": factor << 21}]),
                "memory" => resources["memory"] = json!({"limit": factor << 26}),
                _ => resources["pids"] = json!({"limit": factor * 10}),
            }
        }
        resources
    };
    let mine = mine.edit(|config| {
        config["linux"]["resources"] = limits(1);
        config["linux"]["cgroupsPath"] = json!(format!("/{name}/container"));
    });
    let cgroup = group.0.join("container");
    let has = |factor: u64| {
        for controller in &controllers {
            let (file, limit) = match *controller {
                "hugetlb" => ("hugetlb.2MB.max", factor << 21),
                "memory" => ("memory.max", factor << 26),
                _ => ("pids.max", factor * 10),
            };
            assert_eq!(value(cgroup.join(file)).expect(file).trim(), limit.to_string(), "{file}");
        }
    };
    let on = |verb: &str, args: &[&str]| {
        outcome(group.command(&mine.command(&[&[verb, &mine.bundle.id], args].concat()))).well()
    };

    outcome(group.command(&mine.making("run", &["--detach"]))).well();
    has(1);
    let pid: Value = serde_json::from_str(&on("state", &[])).expect("JSON");
    assert_eq!(value(cgroup.join("cgroup.procs")).expect("processes").trim(), pid["pid"].to_string());
    let path = mine.bundle.dir.join("resources.json");
    fs::write(&path, limits(2).to_string()).expect("write");
    on("update", &["--resources", path.to_str().expect("UTF-8")]);
    has(2);
    on("exec", &["--detach", "sleep", "1000"]);
    assert_eq!(value(cgroup.join("cgroup.procs")).expect("processes").lines().count(), 2);
    let frozen = || value(cgroup.join("cgroup.events")).expect("events").contains("frozen 1");
    on("pause", &[]);
    assert!(frozen());
    on("resume", &[]);
    assert!(!frozen());
    on("delete", &["--force"]);
    assert!(!cgroup.exists());
}

#[test]
fn a_cgroup_that_it_may_not_make_is_an_error() {
    let mine = Mine::new(&["true"]).edit(|config| config["linux"]["cgroupsPath"] = json!("/orlop-not-mine/container"));
    let said = mine.run().fails("unable to apply cgroup configuration: create cgroup /orlop-not-mine/container: ");
    assert!(said.contains("permission denied") && !said.contains("rootless needs no"), "{said}");
    assert_eq!(fs::read_dir(mine.runtime.join("orlop")).expect("the root").count(), 0);
}

#[test]
fn its_containers_are_in_its_runtime_directory() {
    let mine = Mine::new(&["sleep", "1000"]);
    outcome(mine.making("create", &[])).well();
    assert!(mine.runtime.join("orlop").join(&mine.bundle.id).join("state.json").exists());
    // The sticky bit keeps what is old there from being cleaned away (XDG base directory specification).
    let root = fs::metadata(mine.runtime.join("orlop")).expect("the root");
    assert_eq!(format!("{:o}", root.permissions().mode() & 0o7777), "1700");
    mine.on("start", &[]).well();
    let state: Value = serde_json::from_str(&mine.on("state", &[]).well()).expect("JSON");
    assert_eq!(state["status"], "running");
    assert_eq!(state["owner"], USER.to_string());
    let pid = state["pid"].as_u64().expect("a pid") as u32;
    assert_eq!(common::proc_status(pid, "Uid").split_whitespace().next(), Some(USER.to_string().as_str()));
    assert_eq!(mine.on("exec", &["sh", "-c", "id -u; hostname"]).well(), "0\nrunc");
    mine.on("kill", &["KILL"]).well();
    common::wait(|| !common::alive(pid));
    mine.on("delete", &[]).well();
    assert!(!mine.runtime.join("orlop").join(&mine.bundle.id).exists());
}

/// Prints which ways into the first process of the container are open to who runs it: its memory, its environment, its files
/// and its program, and ptrace(2) itself.
const WAYS: &str = "(exec 3</proc/1/mem) && echo mem; (exec 3</proc/1/auxv && cat <&3 >/dev/null) && echo auxv; \
    cat /proc/1/environ >/dev/null && echo environ; readlink /proc/1/fd/0 && echo fd; readlink /proc/1/exe && echo exe; \
    (exec 3</proc/1/ns/mnt) && echo ns; /seize && echo ptrace; :";

/// The user's exec enters a container that waits for its start, and what it executes there can't look into the runtime's
/// process, although it is of the same user and has every capability of the configuration.
#[test]
fn exec_enters_a_container_that_waits_and_sees_nothing_of_the_runtime() {
    let mine = Mine::new(&["sleep", "1000"]);
    // ptrace(PTRACE_SEIZE, 1, 0, 0)
    mine.bundle.program("/seize", caller::caller_with(libc::SYS_ptrace as u32, 0x4206, 1));
    outcome(mine.making("create", &[])).well();
    let said = mine.on("exec", &["sh", "-c", WAYS]);
    assert_eq!(said.well(), "", "{}", said.stderr());
    // Nor one with all capabilities but that one.
    let others = caps::all().into_iter().filter(|cap| *cap != caps::Capability::CAP_SYS_PTRACE);
    let mut command = mine.command(&["exec"]);
    for capability in others {
        command.args(["--cap", &capability.to_string()]);
    }
    command.args([&mine.bundle.id, "sh", "-c", WAYS]);
    let said = outcome(command);
    assert_eq!(said.well(), "", "{}", said.stderr());
    let command = mine.command(&["exec", "--cap", "CAP_SYS_PTRACE", &mine.bundle.id, "true"]);
    outcome(command).fails("CAP_SYS_PTRACE can't enter a container that waits for its start");

    // Then it is the container's own program, and holds no more than any other there.
    mine.on("start", &[]).well();
    common::wait(|| mine.on("exec", &["cat", "/proc/1/comm"]).well() == "sleep");
    let state: Value = serde_json::from_str(&mine.on("state", &[]).well()).expect("JSON");
    let pid = state["pid"].as_u64().expect("a pid") as u32;
    assert_eq!(common::proc_status(pid, "CapPrm"), common::proc_status(pid, "CapBnd"));
    let said = mine.on("exec", &["sh", "-c", WAYS]).well();
    // Where Yama lets only descendants be traced these two show nothing.
    let limited = value("/proc/sys/kernel/yama/ptrace_scope").is_ok_and(|scope| scope != "0");
    let ways = ["auxv", "environ", "fd", "exe", "ns", "mem", "ptrace"];
    for way in &ways[..if limited { 5 } else { 7 }] {
        assert!(said.lines().any(|line| line == *way), "no {way}, so this shows nothing: {said}");
    }
}

/// With CAP_SYS_PTRACE in the container nothing would hold its processes back, so that the owner can't look either.
#[test]
fn a_process_that_waits_for_start_can_not_be_traced_where_the_container_may_trace() {
    let mine = Mine::new(&["sleep", "1000"]).edit(|config| {
        config["process"]["capabilities"]["bounding"].as_array_mut().expect("a set").push(json!("CAP_SYS_PTRACE"));
    });
    outcome(mine.making("create", &[])).well();
    mine.on("exec", &["true"]).fails("CAP_SYS_PTRACE can't enter a container that waits for its start");
    let state: Value = serde_json::from_str(&mine.on("state", &[]).well()).expect("JSON");
    let memory = format!("/proc/{}/mem", state["pid"]);
    outcome(mine.program(&["sh", "-c", "exec 3<\"$0\"", &memory])).fails("ermission denied");
    mine.on("start", &[]).well();
    assert_eq!(mine.on("exec", &["cat", "/proc/1/comm"]).well(), "sleep");
}

#[test]
fn the_agent_gets_the_listener_of_a_users_container() {
    for no_new_privileges in [false, true] {
        let mine = Mine::new(&["mkdir", "/tmp/made"]);
        let path = mine.bundle.dir.join("agent.sock");
        let agent = std::os::unix::net::UnixListener::bind(&path).expect("bind");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("chmod");
        let mine = mine.edit(|config| {
            config["process"]["noNewPrivileges"] = json!(no_new_privileges);
            config["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "listenerPath": path,
                "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY" }],
            });
        });
        let run = begin(mine.making("run", &[]));
        let (_, listener) = common::message(&common::accepted(&agent));
        // Without a listener the call fails with ENOSYS.
        drop(listener);
        run.end().fails("Function not implemented");
    }
}

#[test]
fn a_source_that_the_user_cant_reach_stays_out_of_reach() {
    let mine = Mine::new(&["true"]);
    let secret = mine.bundle.dir.join("secret");
    fs::create_dir_all(secret.join("dir")).expect("a directory");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o700)).expect("chmod");
    let mine = mine.edit(|config| {
        let mount = json!({"destination": "/data", "source": secret.join("dir"), "options": ["bind"]});
        config["mounts"].as_array_mut().expect("mounts").push(mount);
    });
    let said = mine.run().fails("permission denied");
    assert!(said.contains("must be passable for the ids of the user namespace"), "{said}");
}

#[test]
fn a_listed_ptmx_is_the_one_of_its_own_devpts() {
    let mine = Mine::new(&["readlink", "/dev/ptmx"]).edit(|config| {
        config["linux"]["devices"] = json!([{"path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2}]);
    });
    assert_eq!(mine.run().well(), "pts/ptmx");
}

/// The user as podman has it: root of a user namespace already, where the containers need none of their own.
#[test]
fn root_of_a_user_namespace_needs_no_other_one() {
    let mine = Mine::new(&["sh", "-c", "readlink /proc/self/ns/user; id -u; sleep 1000"]).edit(|config| {
        let linux = config["linux"].as_object_mut().expect("linux");
        linux.remove("uidMappings");
        linux.remove("gidMappings");
        linux["namespaces"].as_array_mut().expect("namespaces").retain(|namespace| namespace["type"] != "user");
    });
    let script = r#"
        store=$XDG_RUNTIME_DIR/orlop/$3
        "$1" create --bundle "$2" --pid-file "$2/pid" "$3" >"$2/output" && test -e "$store/state.json" && "$1" start "$3" &&
            "$1" exec "$3" readlink /proc/self/ns/user && readlink /proc/self/ns/user
        status=$?
        "$1" delete --force "$3"
        cat "$2/output"
        exit $status"#;
    let mut command = mine.program(&["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh", common::ORLOP]);
    command.arg(&mine.bundle.dir).arg(&mine.bundle.id).env_remove("USER");
    let said = outcome(command).well();
    let lines: Vec<_> = said.lines().collect();
    let ([exec, caller, container, uid], true) = (lines.as_slice(), lines.len() == 4) else { panic!("{said}") };
    assert_eq!([exec, container], [caller, caller], "the user namespaces of exec, container and caller");
    assert_eq!(*uid, "0");
}

#[test]
fn root_of_a_users_namespace_has_the_users_own_systemd() {
    let mine = Mine::new(&["true"]).edit(|config| config["linux"]["cgroupsPath"] = json!("user.slice:p:n"));
    let inside = |verb: &[&str], name: &str| {
        let mut command = mine.program(&["unshare", "--user", "--map-root-user", common::ORLOP, "--systemd-cgroup"]);
        command.args(verb).env("USER", name).env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/of-the-user");
        command.env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/of-the-system");
        outcome(command)
    };
    let dir = mine.bundle.dir.to_str().expect("UTF-8");
    let instance = format!("/user.slice/user-{USER}.slice/user@{USER}.service");
    let user = ("somebody", format!("the user's systemd: cgroup {instance}"), "/of-the-user");
    for (name, words, bus) in [user, ("root", "systemd: cgroup ".to_owned(), "/of-the-system")] {
        let plan = inside(&["plan", dir], name).well();
        assert!(plan.contains(&format!(" {words}/user.slice/p-n.scope ")), "{name}: {plan}");
        let root = mine.runtime.join(name);
        inside(&["--root", root.to_str().expect("UTF-8"), "run", "--bundle", dir, &mine.bundle.id], name).fails(bus);
    }
}

#[test]
fn root_may_not_be_had_by_a_map_of_the_users_making() {
    let mine = Mine::new(&["true"]).edit(|config| config["linux"]["uidMappings"][0]["hostID"] = json!(0));
    let run = begin(mine.making("run", &[])).end();
    assert!(run.code != Some(0), "{}", run.stdout());
    run.fails("/linux/uidMappings");
    assert_eq!(fs::read_dir(mine.runtime.join("orlop")).map_or(0, Iterator::count), 0);
}

#[test]
fn another_users_container_is_out_of_reach() {
    let bundle = Bundle::sleeper();
    bundle.up();
    let mine = Mine::new(&["true"]);
    for verb in ["state", "kill", "delete"] {
        let mut command = mine.command(&["--root"]);
        command.arg(&bundle.store).args([verb, &bundle.id]);
        assert!(outcome(command).code != Some(0), "{verb}");
    }
    assert_eq!(bundle.status(), "running");
}

/// More than one id comes from /etc/subuid by newuidmap; the file is covered in a mount namespace of this test's own.
#[test]
fn subordinate_ids_are_mapped_by_newuidmap() {
    let mine = Mine::new(&["sh", "-c", "cat /proc/self/uid_map; id -u; touch /tmp/by-5"]).edit(|config| {
        for ids in ["uidMappings", "gidMappings"] {
            config["linux"][ids] = json!([{"containerID": 0, "hostID": USER, "size": 1},
                {"containerID": 1, "hostID": 700_000, "size": 1000}]);
        }
        config["process"]["user"] = json!({"uid": 5, "gid": 5});
    });
    let said = by_newuidmap(&mine, &format!("{USER}:700000:1000\n"), PATH).well();
    let words: Vec<_> = said.split_whitespace().collect();
    assert_eq!(words, ["0", &USER.to_string(), "1", "1", "700000", "1000", "5"], "{said}");
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(mine.bundle.rootfs("tmp/by-5")).expect("made").uid(), 700_004);
    // Others than are asked for.
    for others in [format!("{USER}:800000:1000\n"), String::new(), "somebody:700000:1000\n".to_owned()] {
        let said = by_newuidmap(&mine, &others, PATH).fails("map the ids by newgidmap: gid range");
        assert!(said.contains("/etc/subgid") && said.contains("/linux/gidMappings"), "{others}: {said}");
        nothing_left(&mine);
    }
    // Groups need none here, so that users are the first.
    let mine = mine.edit(|config| {
        config["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": USER, "size": 1}]);
        config["process"]["user"] = json!({"uid": 5, "gid": 0});
    });
    let said = by_newuidmap(&mine, "", PATH).fails("map the ids by newuidmap: uid range");
    assert!(said.contains("/etc/subuid") && said.contains("/linux/uidMappings"), "{said}");
    nothing_left(&mine);
}

/// Who maps one group must give up setgroups(2), so that more groups can't be had; newgidmap keeps it.
#[test]
fn more_groups_take_several_mapped_ones() {
    let mine = Mine::new(&["sleep", "1000"]);
    let alone = mine.edit(|config| config["process"]["user"]["additionalGids"] = json!([0]));
    let said = alone.run().fails("cannot set any additional groups in a rootless container");
    assert!(said.contains("/process/user/additionalGids/0") && said.contains("/etc/subgid"), "{said}");
    nothing_left(&alone);
    let alone = alone.edit(|config| config["process"]["user"]["additionalGids"] = json!([]));
    outcome(alone.making("create", &[])).well();
    alone.on("start", &[]).well();
    let exec = outcome(alone.command(&["exec", "--additional-gids", "0", &alone.bundle.id, "true"]));
    exec.fails("cannot set any additional groups in a rootless container");
    alone.on("delete", &["--force"]).well();

    let several = alone.edit(|config| {
        for ids in ["uidMappings", "gidMappings"] {
            config["linux"][ids] = json!([{"containerID": 0, "hostID": USER, "size": 1},
                {"containerID": 1, "hostID": 700_000, "size": 1000}]);
        }
        config["process"]["user"]["additionalGids"] = json!([5, 7]);
    });
    newuidmap(&several, "create", &format!("{USER}:700000:1000\n"), PATH).well();
    several.on("start", &[]).well();
    let state: Value = serde_json::from_str(&several.on("state", &[]).well()).expect("JSON");
    let pid = state["pid"].as_u64().expect("a pid") as u32;
    assert_eq!(common::proc_status(pid, "Groups"), "700004 700006");
    let exec = ["exec", "--additional-gids", "9", &several.bundle.id, "grep", "Groups", "/proc/self/status"];
    let said = outcome(several.command(&exec)).well();
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["Groups:", "5", "7", "9"]);
    several.on("delete", &["--force"]).well();
}

#[test]
fn without_newuidmap_the_package_that_has_it_is_named() {
    let one = json!([{"containerID": 0, "hostID": USER, "size": 1}]);
    let two = json!([one[0], {"containerID": 1, "hostID": 700_000, "size": 1000}]);
    for (program, uids, gids, place) in
        [("newuidmap", &two, &one, "/linux/uidMappings"), ("newgidmap", &one, &two, "/linux/gidMappings")]
    {
        let mine = Mine::new(&["true"]).edit(|config| {
            config["linux"]["uidMappings"] = uids.clone();
            config["linux"]["gidMappings"] = gids.clone();
        });
        let said =
            by_newuidmap(&mine, &format!("{USER}:700000:1000\n"), "/nonexistent").fails(&format!("run {program}"));
        assert!(said.contains("package uidmap") && said.contains(place), "{said}");
        nothing_left(&mine);
    }
}

#[test]
fn a_newgidmap_that_does_not_end_is_ended() {
    let ids =
        json!([{"containerID": 0, "hostID": USER, "size": 1}, {"containerID": 1, "hostID": 700_000, "size": 1000}]);
    let mine = Mine::new(&["true"]).edit(|config| {
        config["linux"]["uidMappings"] = ids.clone();
        config["linux"]["gidMappings"] = ids.clone();
    });
    let pid = mine.runtime.join("pid");
    let script = format!("#!/bin/sh\necho $$ >{}\nexec /bin/sleep 1000\n", pid.display());
    let program = mine.bundle.dir.join("newgidmap");
    fs::write(&program, script).expect("a program");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
    let path = mine.bundle.dir.to_str().expect("a path");
    let said = by_newuidmap(&mine, &format!("{USER}:700000:1000\n"), path).fails("did not end in 10 s");
    assert!(said.contains("/linux/gidMappings") && said.contains("nsswitch.conf"), "{said}");
    assert!(!common::alive(value(&pid).expect("it ran").parse().expect("a pid")));
    nothing_left(&mine);
}

/// Where newuidmap is.
const PATH: &str = "/usr/bin";

fn nothing_left(mine: &Mine) {
    assert_eq!(fs::read_dir(mine.runtime.join("orlop")).map_or(0, Iterator::count), 0);
}

fn by_newuidmap(mine: &Mine, subids: &str, path: &str) -> common::Outcome {
    newuidmap(mine, "run", subids, path)
}

/// `orlop VERB` by an ordinary user where the files of subordinate ids are `subids`, and programs are found by `path`.
fn newuidmap(mine: &Mine, verb: &str, subids: &str, path: &str) -> common::Outcome {
    let ranges = mine.bundle.dir.join("subids");
    fs::write(&ranges, subids).expect("ranges");
    let passwd = mine.bundle.dir.join("passwd");
    let known = value("/etc/passwd").expect("passwd") + &format!("\norlop-test:x:{USER}:{USER}::/:/bin/sh\n");
    fs::write(&passwd, known).expect("passwd");
    let mut binds = String::new();
    for (from, to) in [(&ranges, "/etc/subuid"), (&ranges, "/etc/subgid"), (&passwd, "/etc/passwd")] {
        binds += &format!("mount --bind {} {to} && ", from.display());
    }
    let line = format!(
        "{binds} exec setpriv --reuid={USER} --regid={USER} --clear-groups env PATH={path} '{}' {verb} --bundle '{}' {}",
        common::ORLOP,
        mine.bundle.dir.display(),
        mine.bundle.id
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &line]);
    command.env("XDG_RUNTIME_DIR", &mine.runtime).stdin(std::process::Stdio::null());
    outcome(command)
}
