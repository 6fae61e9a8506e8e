//! What outlives the runtime: its state, whoever dies and whoever comes at the same time.

mod common;
#[path = "common/rounds.rs"]
mod rounds;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use common::{Bundle, alive, begin, outcome, value, wait};
use rounds::rounds;
use serde_json::json;

/// `orlop create` that is killed at the `when`th of these system calls of the runtime, before the call is made; its threads
/// and children are not traced. True when it came to that call.
fn create_killed_at(bundle: &Bundle, call: &str, when: u32) -> bool {
    let mut command = Command::new("strace");
    command.arg("-qq").args(["-o", "/dev/null", "-e", &format!("trace={call}")]);
    command.args(["-e", &format!("inject={call}:signal=KILL:when={when}"), common::ORLOP, "--root"]);
    command.arg(&bundle.store).args(["create", "--bundle"]).arg(&bundle.dir).arg(&bundle.id);
    command.stdin(std::process::Stdio::null());
    outcome(command).code != Some(0)
}

/// Where the container of `named` has its cgroup.
fn cgroup(bundle: &Bundle) -> PathBuf {
    PathBuf::from(format!("/sys/fs/cgroup/{}", bundle.id))
}

fn named() -> Bundle {
    let bundle = Bundle::sleeper();
    let path = format!("/{}", bundle.id);
    bundle.edit(|config| config["linux"]["cgroupsPath"] = json!(path))
}

/// Nobody is left in the cgroup but, perhaps, one that waits for `start`.
fn processes(bundle: &Bundle) -> Vec<u32> {
    let procs = value(cgroup(bundle).join("cgroup.procs")).unwrap_or_default();
    procs.lines().filter_map(|pid| pid.parse().ok()).filter(|pid| alive(*pid)).collect()
}

/// Kills `create` before each call of this name in turn, until it comes to its end; after each, forced delete and a create
/// of the same id must find nothing in their way.
fn sweep_kills_at(call: &str) {
    let bundle = named();
    let mut rounds = 0;
    for when in 1..40 {
        if !create_killed_at(&bundle, call, when) {
            bundle.on("delete", &["--force"]).well();
            break;
        }
        rounds += 1;
        // the process dies with its runtime, unless everything was set up
        let status = bundle.status();
        if status != "created" {
            wait(|| processes(&bundle).is_empty());
        }
        if when % 2 == 0 || status == "created" || status == "stopped" {
            bundle.on("delete", &["--force"]).well();
            assert!(!cgroup(&bundle).exists(), "{call} {when}: the cgroup is left");
            assert!(!bundle.state_dir().exists(), "{call} {when}: the state is left");
        }
        bundle.up();
        assert_eq!(bundle.status(), "running", "{call} {when}");
        assert_eq!(processes(&bundle), [bundle.pid()], "{call} {when}");
        bundle.on("delete", &["--force"]).well();
    }
    assert!(rounds > 0, "{call} is never called");
}

fn survives_kills_at(call: &str) {
    (0..rounds(1)).for_each(|_| sweep_kills_at(call));
}

#[test]
fn a_create_killed_at_a_directory_leaves_nothing_in_the_way() {
    survives_kills_at("mkdir,mkdirat");
}

#[test]
fn a_create_killed_at_a_lock_leaves_nothing_in_the_way() {
    survives_kills_at("flock");
}

#[test]
fn a_create_killed_at_a_rename_leaves_nothing_in_the_way() {
    survives_kills_at("rename,renameat,renameat2");
}

#[test]
fn a_create_killed_at_the_clone_leaves_nothing_in_the_way() {
    survives_kills_at("clone3,socketpair");
}

#[test]
fn a_create_killed_at_a_write_leaves_nothing_in_the_way() {
    survives_kills_at("write,fdatasync");
}

#[test]
fn a_create_killed_at_a_poll_leaves_nothing_in_the_way() {
    survives_kills_at("poll,ppoll,exit_group");
}

#[test]
fn a_run_that_is_killed_leaves_a_container_that_others_see() {
    let bundle = named();
    let mut running = begin(bundle.making("run", &[]));
    bundle.await_status("running");
    running.child.kill().expect("kill");
    running.end();
    assert_eq!(bundle.status(), "running");
    assert_eq!(bundle.inside("echo in"), "in");
    bundle.on("delete", &["--force"]).well();
    assert!(!cgroup(&bundle).exists() && !bundle.state_dir().exists());
}

#[test]
fn of_creates_at_once_exactly_one_gets_the_id() {
    let bundle = Bundle::sleeper();
    for round in 0..rounds(8) {
        let creates: Vec<_> = (0..4).map(|_| begin(bundle.making("create", &[]))).collect();
        let ends: Vec<_> = creates.into_iter().map(common::Running::end).collect();
        let won = ends.iter().filter(|end| end.code == Some(0)).count();
        let said: Vec<_> = ends.iter().map(common::Outcome::stderr).collect();
        assert_eq!(won, 1, "round {round}: {said:?}");
        assert!(
            said.iter().filter(|text| text.contains("container with given ID already exists")).count() == 3,
            "{said:?}"
        );
        assert_eq!(bundle.status(), "created");
        bundle.start();
        bundle.on("delete", &["--force"]).well();
    }
}

#[test]
fn of_creates_at_once_exactly_one_takes_what_a_dead_one_left() {
    let bundle = Bundle::sleeper();
    for round in 0..rounds(8) {
        fs::create_dir_all(bundle.state_dir()).expect("an empty state directory");
        let creates: Vec<_> = (0..4).map(|_| begin(bundle.making("create", &[]))).collect();
        let ends: Vec<_> = creates.into_iter().map(common::Running::end).collect();
        let said: Vec<_> = ends.iter().map(common::Outcome::stderr).collect();
        assert_eq!(ends.iter().filter(|end| end.code == Some(0)).count(), 1, "round {round}: {said:?}");
        assert_eq!(bundle.status(), "created");
        bundle.on("delete", &["--force"]).well();
    }
}

#[test]
fn a_directory_without_state_is_no_container() {
    let bundle = Bundle::new();
    fs::create_dir_all(bundle.state_dir()).expect("an empty state directory");
    assert_eq!(bundle.status(), "none");
    assert_eq!(outcome(bundle.command(&["list", "-q"])).well(), "");
    bundle.run().well();
    fs::create_dir_all(bundle.state_dir()).expect("an empty state directory");
    bundle.on("delete", &["--force"]).well();
    assert!(!bundle.state_dir().exists());
}

#[test]
fn a_damaged_state_is_an_error_until_it_is_deleted_by_force() {
    let bundle = named();
    bundle.up();
    let pid = bundle.pid();
    fs::write(bundle.state_dir().join("state.json"), "{\"version\":").expect("damage it");
    bundle.on("state", &[]).fails("state.json is damaged");
    bundle.on("delete", &[]).fails("state.json is damaged");
    outcome(bundle.making("create", &[])).fails("container with given ID already exists");
    assert!(alive(pid));
    bundle.on("delete", &["--force"]).well();
    assert!(!bundle.state_dir().exists());
    // the saved configuration still tells the cgroup, and so every process in it
    wait(|| !alive(pid));
    assert!(!cgroup(&bundle).exists());
}

#[test]
fn a_state_of_another_boot_or_of_a_reused_pid_is_stopped() {
    let bundle = Bundle::sleeper();
    bundle.up();
    let file = bundle.state_dir().join("state.json");
    let saved = value(&file).expect("state.json");
    let boot = value("/proc/sys/kernel/random/boot_id").expect("boot_id");
    // start times are told apart by clock ticks of 10 ms
    std::thread::sleep(Duration::from_millis(30));
    let mut child = Command::new("sleep").arg("1000").spawn().expect("sleep");
    let (ours, reused) = (format!("\"pid\":{}", bundle.pid()), format!("\"pid\":{}", child.id()));
    for (from, to) in [(&boot, &"another".to_owned()), (&ours, &reused)] {
        let changed = saved.replace(from.as_str(), to);
        assert_ne!(changed, saved);
        fs::write(&file, changed).expect("change it");
        assert_eq!(bundle.status(), "stopped", "{to} for {from}");
        bundle.on("kill", &["KILL"]).fails("container not running");
    }
    assert!(child.try_wait().expect("wait").is_none(), "a stranger was killed");
    fs::write(&file, saved).expect("restore it");
    assert_eq!(bundle.status(), "running");
    child.kill().and_then(|()| child.wait()).expect("kill");
}

/// After a reboot another container may have the cgroup's name.
#[test]
fn a_state_of_another_boot_is_deleted_and_its_cgroup_left_to_who_has_it_now() {
    let bundle = Bundle::sleeper();
    bundle.up();
    let (pid, cgroup) = (bundle.pid(), bundle.cgroup());
    let file = bundle.state_dir().join("state.json");
    let saved = value(&file).expect("state.json");
    let boot = value("/proc/sys/kernel/random/boot_id").expect("boot_id");
    let keep = bundle.dir.join("kept");
    let kept = |from: &std::path::Path, to: &std::path::Path| Command::new("cp").arg("-a").args([from, to]).status();
    assert!(kept(&bundle.state_dir(), &keep).expect("cp").success());
    fs::write(&file, saved.replace(&boot, "another")).expect("change it");
    bundle.on("delete", &[]).well();
    assert!(!bundle.state_dir().exists() && common::alive(pid) && cgroup.exists());
    // And its own state still finds it.
    assert!(kept(&keep, &bundle.state_dir()).expect("cp").success());
    bundle.on("delete", &["--force"]).well();
    assert!(!common::alive(pid) && !cgroup.exists());
}

#[test]
fn who_finds_a_state_of_another_boot_is_told_of_the_reboot() {
    let bundle = Bundle::sleeper();
    bundle.up();
    let file = bundle.state_dir().join("state.json");
    let saved = value(&file).expect("state.json");
    let words = format!(
        "the host was rebooted since the container was made, so nothing of it runs: orlop delete {}",
        bundle.id
    );
    let said = |command: Command| {
        let said = outcome(command);
        assert_ne!(said.code, Some(0));
        said.stderr().contains(&words)
    };
    let image = bundle.dir.join("image");
    let with_image = ["checkpoint", "--image-path", image.to_str().expect("UTF-8"), &bundle.id];
    let id = bundle.id.as_str();
    let of_stopped = |rebooted: bool| {
        for args in [
            &["start", id][..],
            &["exec", id, "true"],
            &["kill", id, "KILL"],
            &["pause", id],
            &["resume", id],
            &["update", "--pids-limit", "9", id],
            &["events", "--stats", id],
            &with_image,
        ] {
            assert_eq!(said(bundle.command(args)), rebooted, "{args:?}");
        }
        assert_eq!(said(bundle.making("create", &[])), rebooted, "create");
    };
    let boot = value("/proc/sys/kernel/random/boot_id").expect("boot_id");
    fs::write(&file, saved.replace(&boot, "another")).expect("change it");
    of_stopped(true);
    // A create that a power cut has ended is taken for none by the next one; before it nobody can start it.
    let creating = saved.replace(&boot, "another").replace("\"creating\":false", "\"creating\":true");
    assert!(creating.contains("\"creating\":true"), "{creating}");
    fs::write(&file, creating).expect("change it");
    assert!(said(bundle.command(&["start", id])));
    fs::write(&file, saved).expect("restore it");
    bundle.on("kill", &["KILL"]).well();
    bundle.await_status("stopped");
    of_stopped(false);
}

#[test]
fn the_state_is_roots_alone_and_ids_cant_leave_it() {
    use std::os::unix::fs::PermissionsExt;
    let bundle = Bundle::sleeper();
    bundle.up();
    for file in ["state.json", "config.json"] {
        let mode = fs::metadata(bundle.state_dir().join(file)).expect(file).permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file}: {mode:o}");
    }
    for id in ["..", ".", "a/b", "../x", "", "a b", "ä"] {
        outcome(bundle.command(&["state", id])).fails("container");
        outcome(bundle.command(&["delete", "--force", id])).fails("container");
    }
    assert_eq!(bundle.status(), "running");
}

#[test]
fn later_commands_read_the_config_as_create_read_it() {
    let bundle = Bundle::sleeper();
    bundle.up();
    fs::write(bundle.dir.join("config.json"), "gone").expect("overwrite it");
    assert_eq!(bundle.inside("echo in"), "in");
    bundle.on("delete", &["--force"]).well();
}

#[test]
fn state_needs_no_lock() {
    let bundle = Bundle::sleeper().edit(|config| {
        config["hooks"] = json!({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "0.5"]}]});
    });
    let creating = begin(bundle.making("create", &[]));
    wait(|| bundle.status() == "creating");
    creating.end().well();
    assert_eq!(bundle.status(), "created");
}

/// A text that no power cut or full disk leaves, but somebody may: cut off, or with one bit turned.
#[test]
fn a_state_that_is_damaged_anywhere_is_one_error_or_the_state() {
    let bundle = named();
    bundle.up();
    let pid = bundle.pid();
    let file = bundle.state_dir().join("state.json");
    let saved = fs::read(&file).expect("state.json");
    let step = if rounds(1) > 1 { 1 } else { saved.len() / 24 };
    for at in (0..saved.len()).step_by(step) {
        fs::write(&file, &saved[..at]).expect("cut it off");
        bundle.on("state", &[]).fails("state.json is damaged");
        bundle.on("kill", &["KILL"]).fails("state.json is damaged");
        let mut turned = saved.clone();
        turned[at] ^= 1 << (at % 8);
        fs::write(&file, turned).expect("turn a bit");
        let said = bundle.on("state", &[]);
        match said.code {
            Some(0) => assert!(serde_json::from_str::<serde_json::Value>(&said.stdout()).is_ok(), "byte {at}"),
            _ => assert_eq!(said.fails("").matches("orlop: ").count(), 1, "byte {at}"),
        }
        assert!(!said.stderr().contains("panicked") && alive(pid), "byte {at}: {}", said.stderr());
    }
    fs::write(&file, &saved[..saved.len() / 2]).expect("cut it off");
    bundle.on("delete", &["--force"]).well();
    wait(|| !alive(pid));
    assert!(!cgroup(&bundle).exists() && !bundle.state_dir().exists());
}

/// Links in the place of the directory and of each file: nothing is read, written or removed where they lead.
#[test]
fn planted_links_lead_nowhere() {
    use std::os::unix::fs::symlink;
    let bundle = named();
    let decoy = bundle.dir.join("decoy");
    let is_kept = |place: &str| {
        let names: Vec<_> = fs::read_dir(&decoy).expect("the decoy").flatten().map(|entry| entry.file_name()).collect();
        assert_eq!((names.len(), value(decoy.join("file")).ok().as_deref()), (1, Some("kept")), "{place}");
    };
    fs::create_dir(&decoy).expect("a decoy");
    fs::write(decoy.join("file"), "kept").expect("a file");
    fs::create_dir(&bundle.store).expect("the root");
    symlink(&decoy, bundle.state_dir()).expect("a link");
    outcome(bundle.making("create", &[])).fails("container with given ID already exists");
    bundle.on("state", &[]).fails("container");
    bundle.on("delete", &["--force"]);
    is_kept("the directory");
    fs::remove_file(bundle.state_dir()).expect("the link");
    for name in ["state.json", ".state.json.new", "config.json", ".config.json.new", "exec.fifo", "report", "output"] {
        bundle.create();
        let planted = bundle.state_dir().join(name);
        let _ = fs::remove_file(&planted);
        symlink(decoy.join("file"), &planted).expect("a link");
        for verb in ["state", "start", "pause", "resume", "kill"] {
            assert_ne!(bundle.on(verb, &[]).code, None, "{name}: {verb}");
        }
        bundle.on("delete", &["--force"]).well();
        is_kept(name);
        assert!(!cgroup(&bundle).exists() && !bundle.state_dir().exists(), "{name}");
    }
}

/// What was put there by another user is not believed.
#[test]
fn a_directory_of_another_user_is_no_container() {
    let bundle = named();
    bundle.up();
    let pid = bundle.pid();
    std::os::unix::fs::chown(bundle.state_dir(), Some(1234), None).expect("chown");
    for verb in ["state", "kill", "exec", "start", "delete"] {
        bundle.on(verb, &[]).fails("belongs to uid 1234");
    }
    assert!(alive(pid));
    std::os::unix::fs::chown(bundle.state_dir(), Some(0), None).expect("chown");
}

/// The fifo of a container that waits is gone, or is something else: one error, at once, and it can be deleted.
#[test]
fn a_start_without_the_containers_own_fifo_fails() {
    for other in ["none", "file", "fifo", "directory"] {
        let bundle = named();
        bundle.create();
        let (pid, fifo) = (bundle.pid(), bundle.state_dir().join("exec.fifo"));
        fs::remove_file(&fifo).expect("the fifo");
        match other {
            "file" => fs::write(&fifo, "").expect("a file"),
            "fifo" => nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a fifo"),
            "directory" => fs::create_dir(&fifo).expect("a directory"),
            _ => {}
        }
        let mut start = Command::new("timeout");
        start.arg("20").arg(common::ORLOP).args(bundle.command(&["start", &bundle.id]).get_args());
        let started = outcome(start);
        assert_ne!(started.code, Some(124), "{other}: it waits");
        assert_eq!(started.fails("").matches("orlop: ").count(), 1, "{other}");
        bundle.on("delete", &["--force"]).well();
        assert!(!alive(pid) && !cgroup(&bundle).exists() && !bundle.state_dir().exists(), "{other}");
    }
}

/// A store that has become read-only does not protect a container from being killed.
#[test]
fn a_container_is_killed_where_its_state_cant_be_written() {
    let bundle = named();
    bundle.up();
    let (pid, store) = (bundle.pid(), bundle.store.display().to_string());
    let read_only = |args: &[&str]| {
        let line = format!("mount --bind {store} {store} && mount -o remount,bind,ro {store} && exec \"$@\"");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &line, "sh", common::ORLOP]);
        outcome({
            command.args(bundle.command(args).get_args()).stdin(std::process::Stdio::null());
            command
        })
    };
    assert_eq!(read_only(&["exec", &bundle.id, "echo", "in"]).well(), "in");
    read_only(&["kill", &bundle.id, "KILL"]).well();
    wait(|| !alive(pid));
    read_only(&["delete", "--force", &bundle.id]).fails("read-only file system");
    bundle.on("delete", &["--force"]).well();
    assert!(!cgroup(&bundle).exists() && !bundle.state_dir().exists());
}

/// Whichever comes first: the other one fails or has done its work, and at the end there is nothing.
#[test]
fn of_a_delete_and_another_command_at_once_nothing_is_left() {
    let others: [&[&str]; 6] = [&["start"], &["exec", "true"], &["kill", "KILL"], &["pause"], &["state"], &["ps"]];
    for _ in 0..rounds(2) {
        for other in others {
            let bundle = named();
            bundle.create();
            if other[0] != "start" {
                bundle.start();
            }
            let pid = bundle.pid();
            let command = bundle.command(&[&[other[0], &bundle.id], &other[1..]].concat());
            let deletes = [0, 1].map(|_| begin(bundle.command(&["delete", "--force", &bundle.id])));
            let other = begin(command).end();
            deletes.into_iter().for_each(|delete| drop(delete.end().well()));
            assert!(!other.stderr().contains("panicked"), "{}", other.stderr());
            wait(|| !alive(pid));
            assert!(processes(&bundle).is_empty() && !cgroup(&bundle).exists() && !bundle.state_dir().exists());
        }
    }
}
