//! checkpoint and restore, through criu. What needs one that works here runs in the machine of tests/vm: criu 3.17 does not on
//! newer kernels than that one's.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use common::{Bundle, Outcome, alive, outcome, received, wait};
use serde_json::json;

/// A container that counts, in a file of its root.
fn counter() -> Bundle {
    Bundle::script("i=0; while :; do i=$((i+1)); echo $i >/tmp/count; sleep 0.05; done")
}

fn count(bundle: &Bundle) -> u64 {
    let read = || fs::read_to_string(bundle.rootfs("/tmp/count")).ok()?.trim().parse::<u64>().ok();
    wait(|| read().is_some());
    // Between truncation and write it is empty.
    std::iter::repeat_with(read).flatten().next().expect("a number")
}

/// It counts on from where it was, and does not begin again.
fn goes_on_from(bundle: &Bundle, before: u64) {
    let after = count(bundle);
    assert!(after >= before, "{after} after {before}");
    wait(|| count(bundle) > after);
}

fn image(bundle: &Bundle) -> PathBuf {
    bundle.dir.join("image")
}

/// `orlop run --detach`, with the standard streams that a test has given.
fn run(bundle: &Bundle, args: &[&str]) {
    let mut command = bundle.making("run", &["--detach"]);
    command.args(args).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().expect("run").success());
}

fn checkpoint(bundle: &Bundle, args: &[&str]) -> Outcome {
    let mut command = bundle.command(&["checkpoint", "--image-path"]);
    command.arg(image(bundle)).args(args).arg(&bundle.id);
    outcome(command)
}

fn restoring(bundle: &Bundle, args: &[&str]) -> Command {
    let mut command = bundle.command(&["restore", "--detach", "--bundle"]);
    command.arg(&bundle.dir).arg("--image-path").arg(image(bundle)).arg("--work-path").arg(bundle.dir.join("work"));
    command.args(args).arg(&bundle.id);
    command
}

/// Restores, with what criu said when it fails.
fn restore(bundle: &Bundle, args: &[&str]) {
    let mut command = restoring(bundle, args);
    let said = bundle.dir.join("said");
    command.stdout(Stdio::null()).stderr(fs::File::create(&said).expect("a file"));
    let status = command.status().expect("restore");
    assert!(status.success(), "{}", fs::read_to_string(&said).expect("what it said"));
}

#[test]
fn a_criu_that_is_missing_is_one_clear_error_and_nothing_changes() {
    let bundle = Bundle::sleeper();
    bundle.up();
    let pid = bundle.pid();
    let mut command = bundle.command(&["checkpoint", "--image-path"]);
    command.arg(image(&bundle)).arg(&bundle.id).env("PATH", "/nowhere");
    let said = outcome(command).fails("checkpoint and restore need criu, and there is no program criu");
    assert!(said.contains("hint: install criu"), "{said}");
    assert_eq!((bundle.status().as_str(), bundle.pid()), ("running", pid));
}

#[test]
fn an_image_that_is_not_there_is_one_clear_error_and_leaves_nothing() {
    let bundle = Bundle::sleeper();
    let said = outcome(restoring(&bundle, &[])).fails("open the directory");
    assert!(said.contains("no such file or directory") && said.contains("--image-path names"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    fs::create_dir(image(&bundle)).expect("mkdir");
    let said = outcome(restoring(&bundle, &[])).fails("read descriptors.json of the image");
    assert!(said.contains("--image-path names"), "{said}");
    assert!(!bundle.state_dir().exists());
}

#[test]
fn only_a_container_that_runs_is_dumped() {
    let bundle = Bundle::sleeper();
    bundle.create();
    checkpoint(&bundle, &[]).fails("Container cannot be checkpointed in created state");
    bundle.start();
    bundle.on("kill", &["KILL"]).well();
    bundle.await_status("stopped");
    checkpoint(&bundle, &[]).fails("Container cannot be checkpointed in stopped state");
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let bundle = Bundle::sleeper();
    bundle.up();
    checkpoint(&bundle, &["--empty-ns", "pid"]).fails("namespace \"pid\" is not supported");
    checkpoint(&bundle, &["--page-server", "nowhere"]).fails("Use --page-server ADDRESS:PORT");
    checkpoint(&bundle, &["--parent-path", "/image"]).fails("--parent-path must be relative");
    checkpoint(&bundle, &["--parent-path", "none"]).fails("invalid --parent-path");
    checkpoint(&bundle, &["--lazy-pages", "--status-fd", "99"]).fails("invalid --status-fd argument 99");
    assert_eq!(bundle.status(), "running");
}

#[test]
fn engines_find_out_what_there_is() {
    let bundle = Bundle::new();
    outcome(bundle.command(&["checkpoint", "--help"])).well();
    outcome(bundle.command(&["restore", "--lsm-profile"])).fails("flag needs an argument");
}

#[test]
#[ignore = "needs criu on a kernel that it knows"]
fn a_counter_goes_on_after_its_restore() {
    let bundle = counter();
    run(&bundle, &[]);
    let (pid, cgroup) = (bundle.pid(), bundle.cgroup());
    checkpoint(&bundle, &[]).well();
    let before = count(&bundle);
    assert_eq!((bundle.status().as_str(), alive(pid), cgroup.exists()), ("none", false, false));
    let pid_file = bundle.dir.join("pid");
    restore(&bundle, &["--pid-file", pid_file.to_str().expect("a path")]);
    assert_eq!(bundle.status(), "running");
    assert_eq!(fs::read_to_string(&pid_file).expect("the pid file"), bundle.pid().to_string());
    goes_on_from(&bundle, before);
    assert_eq!(bundle.cgroup(), cgroup);
    let entries = |dir: PathBuf| -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(entries(bundle.state_dir()), ["config.json", "state.json"]);
    let ours = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    assert!(!ours.contains(bundle.id.as_str()), "{ours}");
    // And once more, from what was restored.
    checkpoint(&bundle, &[]).well();
    let before = count(&bundle);
    restore(&bundle, &[]);
    goes_on_from(&bundle, before);
    assert_eq!(bundle.inside("echo still here"), "still here");
}

#[test]
#[ignore = "needs criu on a kernel that it knows"]
fn leave_running_lets_the_container_go_on() {
    let bundle = counter();
    run(&bundle, &[]);
    let pid = bundle.pid();
    checkpoint(&bundle, &["--leave-running"]).well();
    assert_eq!((bundle.status().as_str(), bundle.pid()), ("running", pid));
    let now = count(&bundle);
    wait(|| count(&bundle) > now);
    assert!(image(&bundle).join("inventory.img").exists());
}

#[test]
#[ignore = "needs criu on a kernel that it knows"]
fn an_image_on_top_of_a_pre_dump_holds_what_has_changed_since() {
    let bundle = counter();
    run(&bundle, &[]);
    let parent = bundle.dir.join("parent");
    let mut command = bundle.command(&["checkpoint", "--pre-dump", "--image-path"]);
    command.arg(&parent).arg(&bundle.id);
    outcome(command).well();
    assert_eq!(bundle.status(), "running");
    let now = count(&bundle);
    wait(|| count(&bundle) > now);
    checkpoint(&bundle, &["--parent-path", "../parent"]).well();
    assert_eq!(fs::read_link(image(&bundle).join("parent")).expect("a link"), PathBuf::from("../parent"));
    let before = count(&bundle);
    restore(&bundle, &[]);
    goes_on_from(&bundle, before);
}

#[test]
#[ignore = "needs criu on a kernel that it knows"]
fn bind_mounts_are_made_again_from_their_sources() {
    let bundle = counter();
    for dir in ["outer", "inner"] {
        fs::create_dir(bundle.dir.join(dir)).expect("mkdir");
    }
    fs::write(bundle.dir.join("inner/file"), "from outside").expect("write");
    fs::create_dir(bundle.rootfs("/real")).expect("mkdir");
    std::os::unix::fs::symlink("/real", bundle.rootfs("/link")).expect("symlink");
    let bind = |source: &str, target: &str| json!({ "type": "bind", "source": bundle.dir.join(source), "destination": target, "options": ["bind", "ro"] });
    let mounts = [bind("outer", "/link"), bind("inner", "/data")];
    let bundle = bundle.edit(|config| config["mounts"].as_array_mut().expect("mounts").extend(mounts));
    run(&bundle, &[]);
    checkpoint(&bundle, &[]).well();
    fs::write(bundle.dir.join("inner/file"), "changed since").expect("write");
    // A restore makes the places for mounts, as create does.
    fs::remove_dir(bundle.rootfs("/data")).expect("rmdir");
    restore(&bundle, &[]);
    assert_eq!(bundle.inside("cat /data/file"), "changed since");
    let mounts = bundle.inside("cat /proc/self/mounts");
    for target in ["/data", "/real"] {
        let line = mounts.lines().find(|line| line.split(' ').nth(1) == Some(target));
        let options = line.and_then(|line| line.split(' ').nth(3)).unwrap_or_else(|| panic!("no {target} in {mounts}"));
        assert!(options.split(',').any(|option| option == "ro"), "{target}: {options}");
    }
    // Masked files still are.
    assert_eq!(bundle.inside("wc -c </proc/kcore"), "0");
}

#[test]
#[ignore = "needs criu on a kernel that it knows"]
fn the_console_socket_gets_the_terminal_again() {
    let bundle = Bundle::script("while read line; do echo got $line; done").edit(|config| {
        config["process"]["terminal"] = json!(true);
    });
    let path = bundle.dir.join("console");
    let socket = path.to_str().expect("a path").to_owned();
    let listener = UnixListener::bind(&path).expect("bind");
    run(&bundle, &["--console-socket", &socket]);
    // Held until then: without a master the program would be hung up on.
    let before = received(&listener);
    checkpoint(&bundle, &[]).well();
    drop(before);
    restore(&bundle, &["--console-socket", &socket]);
    let (_, master) = received(&listener);
    let mut master = fs::File::from(master);
    master.write_all(b"hello\n").expect("write");
    let mut said = String::new();
    let mut bytes = [0; 256];
    while !said.contains("got hello") {
        let length = master.read(&mut bytes).unwrap_or_else(|error| panic!("{error} after {said:?}"));
        said.push_str(&String::from_utf8_lossy(&bytes[..length]));
    }
}

#[test]
#[ignore = "needs criu on a kernel that it knows"]
fn limits_are_there_again() {
    let bundle = counter().edit(|config| {
        config["linux"]["resources"]["memory"] = json!({ "limit": 64 << 20 });
        config["linux"]["resources"]["pids"] = json!({ "limit": 77 });
    });
    run(&bundle, &[]);
    checkpoint(&bundle, &[]).well();
    restore(&bundle, &[]);
    let file = |name| fs::read_to_string(bundle.cgroup().join(name)).expect("a file of the cgroup");
    assert_eq!((file("memory.max").trim(), file("pids.max").trim()), ("67108864", "77"));
    // The filter of devices was attached to the cgroup, not to the processes.
    let refused = bundle.on("exec", &["sh", "-c", "mknod /tmp/sda b 8 0 && cat /tmp/sda"]);
    refused.fails("peration not permitted");
}

#[test]
#[ignore = "needs criu on a kernel that it knows"]
fn a_container_is_restored_into_the_cgroup_that_its_configuration_names_now() {
    let bundle = counter();
    run(&bundle, &[]);
    let old = bundle.cgroup();
    checkpoint(&bundle, &[]).well();
    let name = format!("{}-moved", bundle.id);
    let bundle = bundle.edit(|config| config["linux"]["cgroupsPath"] = json!(format!("/{name}")));
    restore(&bundle, &[]);
    assert_eq!(bundle.cgroup().file_name().expect("a name").to_string_lossy(), name);
    assert!(!old.exists());
    assert!(bundle.inside("cat /proc/self/cgroup").ends_with("::/"));
}

#[test]
#[ignore = "needs criu on a kernel that it knows"]
fn the_filter_and_the_loopback_interface_are_there_again() {
    let bundle = counter().edit(|config| {
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["swapon"], "action": "SCMP_ACT_ERRNO" }],
        });
    });
    run(&bundle, &[]);
    checkpoint(&bundle, &[]).well();
    restore(&bundle, &[]);
    assert_eq!(common::proc_status(bundle.pid(), "Seccomp"), "2");
    assert!(bundle.inside("ip link show lo").contains("UP"));
}

#[test]
#[ignore = "needs criu on a kernel that it knows"]
fn hooks_of_the_runtime_run_when_the_namespaces_are_there() {
    let bundle = counter();
    let seen = bundle.dir.join("seen");
    let script = format!("cat >{}", seen.display());
    let hook = json!([{ "path": "/bin/sh", "args": ["sh", "-c", script] }]);
    run(&bundle, &[]);
    checkpoint(&bundle, &[]).well();
    let bundle = bundle.edit(|config| config["hooks"] = json!({ "createRuntime": hook }));
    restore(&bundle, &[]);
    let state: serde_json::Value = serde_json::from_slice(&fs::read(&seen).expect("the hook ran")).expect("JSON");
    assert_eq!(state["pid"].as_u64(), Some(u64::from(bundle.pid())));
}

#[test]
#[ignore = "needs criu on a kernel that it knows"]
fn a_restore_that_fails_leaves_nothing() {
    let bundle = counter();
    run(&bundle, &[]);
    let cgroup = bundle.cgroup();
    checkpoint(&bundle, &[]).well();
    // A hook fails when the container's first process is there already.
    let hook = json!([{ "path": "/bin/sh", "args": ["sh", "-c", "exit 3"] }]);
    let bundle = bundle.edit(|config| config["hooks"] = json!({ "createRuntime": hook }));
    outcome(restoring(&bundle, &[])).fails("error running createRuntime hook #0: exit status 3");
    assert!(!bundle.state_dir().exists() && !cgroup.exists());
    // An image with a part missing: criu's own words are in the error, and where its log is.
    let bundle = bundle.edit(|config| config["hooks"] = json!({}));
    fs::remove_file(image(&bundle).join("core-1.img")).expect("an image file");
    let said = outcome(restoring(&bundle, &[])).fails("criu failed: type RESTORE");
    assert!(said.contains("Error (criu/") && said.contains("log file: ") && said.contains("restore.log"), "{said}");
    assert!(!bundle.state_dir().exists() && !cgroup.exists());
    let left = Command::new("pgrep").arg("-f").arg(&bundle.id).output().expect("pgrep");
    assert_eq!(String::from_utf8_lossy(&left.stdout), "");
}
