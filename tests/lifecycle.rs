//! A container's life, from create to delete, as its callers and the kernel see it.

mod common;
#[path = "common/rounds.rs"]
mod rounds;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::{Bundle, Outcome, alive, begin, cgroup_of, outcome, proc_status, received, value, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rounds::rounds;
use serde_json::{Value, json};

#[test]
fn run_returns_the_programs_exit_status_and_output() {
    let outcome = Bundle::script("echo out; echo err >&2; exit 42").run();
    assert_eq!((outcome.code, outcome.stdout().as_str(), outcome.stderr().as_str()), (Some(42), "out\n", "err\n"));
}

#[test]
fn run_returns_128_and_the_signal_of_a_killed_program() {
    // process 1 of a pid namespace ignores signals that come from inside
    let bundle = Bundle::sleeper();
    let running = begin(bundle.making("run", &[]));
    bundle.await_status("running");
    bundle.on("kill", &["KILL"]).well();
    assert_eq!(running.end().code, Some(128 + 9));
}

#[test]
fn run_leaves_nothing_and_keep_leaves_a_stopped_container() {
    let bundle = Bundle::new();
    bundle.run().well();
    assert!(!bundle.state_dir().exists());
    bundle.run_with(&["--keep"]).well();
    assert_eq!(bundle.status(), "stopped");
}

#[test]
fn run_passes_standard_input_on() {
    let bundle = Bundle::new().args(&["cat"]);
    let mut command = bundle.making("run", &[]);
    let (reader, mut writer) = std::io::pipe().expect("pipe");
    command.stdin(reader);
    let running = begin(command);
    writer.write_all(b"through\n").expect("write");
    drop(writer);
    let outcome = running.end();
    // the command above holds no reader once it is dropped, so cat saw the end of the pipe
    assert_eq!(outcome.well(), "through");
}

#[test]
fn create_leaves_the_program_waiting_and_start_runs_it() {
    let bundle = Bundle::script("echo started; exec sleep 1000");
    let output = bundle.create();
    let pid = bundle.pid();
    assert_eq!(bundle.status(), "created");
    assert!(bundle.state_dir().join("exec.fifo").exists());
    let program = || fs::read_link(format!("/proc/{pid}/exe")).expect("exe");
    assert!(program().to_string_lossy().contains("orlop"), "{:?}", program());
    thread::sleep(Duration::from_millis(50));
    assert_eq!(output.stdout(), "");
    bundle.start();
    assert_eq!(program().file_name().expect("a name"), "busybox");
    assert_eq!(bundle.status(), "running");
    assert!(!bundle.state_dir().join("exec.fifo").exists());
    wait(|| output.stdout() == "started\n");
    assert_eq!(bundle.pid(), pid);
}

#[test]
fn a_container_is_started_once() {
    let bundle = Bundle::sleeper();
    bundle.up();
    bundle.on("start", &[]).fails("cannot start an already running container");
    bundle.on("kill", &["KILL"]).well();
    bundle.await_status("stopped");
    bundle.on("start", &[]).fails("cannot start a container that has stopped");
}

#[test]
fn state_has_runcs_fields() {
    let bundle = Bundle::sleeper().edit(|config| config["annotations"] = json!({"org.example.b": "2", "a": "1"}));
    bundle.up();
    let state = bundle.state();
    // CRI-O decodes it into a structure of its own, where other names would mean something else.
    let keys: Vec<_> =
        state.as_object().expect("an object").keys().map(String::as_str).collect::<BTreeSet<_>>().into_iter().collect();
    let runcs = ["annotations", "bundle", "created", "id", "ociVersion", "owner", "pid", "rootfs", "status"];
    assert_eq!(keys, runcs);
    assert_eq!(state["ociVersion"], bundle.config["ociVersion"]);
    assert_eq!(state["id"], bundle.id);
    assert_eq!(state["status"], "running");
    assert_eq!(state["bundle"], bundle.dir.to_str().unwrap());
    assert_eq!(state["rootfs"], bundle.rootfs("").to_str().unwrap().trim_end_matches('/'));
    assert_eq!(state["annotations"], json!({"a": "1", "org.example.b": "2"}));
    assert_eq!(state["owner"], "");
    let created = state["created"].as_str().expect("a time");
    assert!(created.ends_with('Z') && created.as_bytes()[10] == b'T', "{created}");
    // the process that the kernel has under this number is in a pid namespace in which it is 1
    let pid = state["pid"].as_u64().expect("a pid") as u32;
    assert_eq!(proc_status(pid, "NSpid").split_whitespace().last(), Some("1"));
}

#[test]
fn a_stopped_container_has_no_pid() {
    let bundle = Bundle::new();
    bundle.up();
    bundle.await_status("stopped");
    assert_eq!(bundle.state()["pid"], 0);
}

#[test]
fn list_shows_what_there_is_in_each_form() {
    let bundle = Bundle::sleeper();
    assert_eq!(outcome(bundle.command(&["list", "--format", "json"])).well(), "null");
    bundle.up();
    let pid = bundle.pid().to_string();
    let table = outcome(bundle.command(&["list"])).well();
    let (title, line) = table.split_once('\n').expect("two lines");
    // Byte for byte as Go's tabwriter has it: at least twelve wide, three spaces after the widest, none at the end.
    let (cell, state) =
        (|key: &str| bundle.state()[key].as_str().expect("text").to_owned(), bundle.dir.to_str().unwrap());
    let row =
        [bundle.id.clone(), pid.clone(), "running".to_owned(), state.to_owned(), cell("created"), "root".to_owned()];
    let titles = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"];
    let padded = |words: [&str; 6]| -> String {
        let width = |at: usize| if at == 5 { 0 } else { row[at].len().max(9) + 3 };
        words.iter().enumerate().map(|(at, word)| format!("{word:<0$}", width(at))).collect()
    };
    assert_eq!((title.to_owned(), line.to_owned()), (padded(titles), padded(row.each_ref().map(String::as_str))));
    assert_eq!(title.split_whitespace().collect::<Vec<_>>(), ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
    let cells: Vec<_> = line.split_whitespace().collect();
    assert_eq!(&cells[..4], [&bundle.id, &pid, "running", bundle.dir.to_str().unwrap()]);
    assert_eq!(cells[5], "root");
    assert_eq!(outcome(bundle.command(&["list", "-q"])).well(), bundle.id);
    let all: Value = serde_json::from_str(&outcome(bundle.command(&["list", "-f", "json"])).well()).expect("JSON");
    assert_eq!(all[0]["id"], bundle.id);
    assert_eq!(all[0]["pid"], bundle.pid());
    assert_eq!(all[0]["owner"], "root");
}

/// Who inherits the orphans of a container in the foreground that has no pid namespace.
#[test]
fn orphans_are_the_runtimes_unless_it_is_told_otherwise() {
    for (options, ours) in [(&[][..], true), (&["--no-subreaper"], false)] {
        let bundle = Bundle::script("(sleep 1000 & echo $! >/orphan.new; mv /orphan.new /orphan); exec sleep 1000");
        let bundle = bundle.edit(|config| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
            namespaces.retain(|namespace| namespace["type"] != "pid");
        });
        let running = begin(bundle.making("run", options));
        wait(|| bundle.rootfs("orphan").exists());
        let orphan = fs::read_to_string(bundle.rootfs("orphan")).expect("its pid");
        let parent = || proc_status(orphan.trim().parse().expect("a pid"), "PPid");
        // Until the subshell has ended it is the parent.
        let runtime = running.child.id().to_string();
        let settled = || {
            parent() == runtime
                || fs::read_to_string(format!("/proc/{}/comm", parent())).is_ok_and(|comm| comm != "sh\n")
        };
        wait(settled);
        assert_eq!(parent() == runtime, ours, "{options:?}");
        bundle.on("delete", &["--force"]).well();
        running.end();
    }
}

#[test]
fn kill_takes_names_numbers_and_real_time_signals() {
    let bundle =
        Bundle::script("for s in 10 12 15 36 64; do trap \"exit $s\" $s; done; echo up; while :; do sleep 0.02; done");
    for (signal, code) in [("TERM", 15), ("SIGUSR1", 10), ("12", 12), ("usr2", 12), ("RTMIN+2", 36), ("SIGRTMAX", 64)] {
        let running = begin(bundle.making("run", &[]));
        wait(|| running.stdout() == "up\n");
        bundle.on("kill", &[signal]).well();
        assert_eq!(running.end().code, Some(code), "{signal}");
    }
}

fn comm(pid: &str) -> String {
    value(format!("/proc/{pid}/comm")).unwrap_or_default()
}

/// As a supervisor leaves it that dies between the kill and the removal.
#[test]
fn a_container_starts_in_a_cgroup_that_was_killed_before() {
    let bundle = Bundle::script("echo it runs");
    let path = format!("/{}", bundle.id);
    let cgroup = Path::new("/sys/fs/cgroup").join(&bundle.id);
    let bundle = bundle.edit(|config| config["linux"]["cgroupsPath"] = path.into());
    fs::create_dir(&cgroup).unwrap();
    fs::write(cgroup.join("cgroup.kill"), "1").unwrap();
    let said = bundle.run();
    let _ = fs::remove_dir(&cgroup);
    assert_eq!(said.well(), "it runs");
}

#[test]
fn kill_all_reaches_every_process() {
    let bundle = Bundle::script("trap : TERM; sleep 1000 & sleep 1000 & echo up; while :; do wait; done");
    let path = format!("/{}-all", bundle.id);
    let bundle = bundle.edit(|config| config["linux"]["cgroupsPath"] = json!(path));
    let output = bundle.up();
    wait(|| output.stdout() == "up\n");
    let cgroup = bundle.cgroup();
    let count = || value(cgroup.join("cgroup.procs")).expect("cgroup.procs").lines().count();
    wait(|| count() == 3);
    // Until its execve a child of the shell has the shell's handler.
    let names = || value(cgroup.join("cgroup.procs")).expect("cgroup.procs").lines().map(comm).collect::<Vec<_>>();
    wait(|| names().iter().filter(|name| *name == "sleep").count() == 2);
    // init has a handler and reaps the others
    bundle.on("kill", &["--all", "TERM"]).well();
    wait(|| count() == 1);
    bundle.on("kill", &["--all", "KILL"]).well();
    bundle.await_status("stopped");
    assert_eq!(count(), 0);
}

#[test]
fn a_stopped_container_takes_no_signal() {
    let bundle = Bundle::new();
    bundle.up();
    bundle.await_status("stopped");
    bundle.on("kill", &["TERM"]).fails("container not running");
}

#[test]
fn delete_refuses_a_running_container_but_by_force() {
    let bundle = Bundle::sleeper();
    bundle.up();
    let (pid, cgroup) = (bundle.pid(), bundle.cgroup());
    bundle.on("delete", &[]).fails("that is not stopped: running");
    assert!(alive(pid) && cgroup.exists());
    bundle.on("delete", &["--force"]).well();
    assert!(!alive(pid) && !cgroup.exists() && !bundle.state_dir().exists());
}

#[test]
fn delete_ends_a_created_container() {
    let bundle = Bundle::new();
    bundle.create();
    let pid = bundle.pid();
    bundle.on("delete", &[]).well();
    assert!(!alive(pid) && !bundle.state_dir().exists());
}

#[test]
fn an_unknown_id_is_an_error_for_all_but_forced_delete() {
    let bundle = Bundle::new();
    for verb in ["start", "state", "kill", "delete"] {
        bundle.on(verb, &[]).fails("container does not exist");
    }
    assert_eq!(bundle.on("exec", &["true"]).code, Some(255));
    bundle.on("delete", &["--force"]).well();
}

#[test]
fn an_id_is_taken_until_it_is_deleted() {
    let bundle = Bundle::sleeper();
    bundle.create();
    let pid = bundle.pid();
    outcome(bundle.making("create", &[])).fails("container with given ID already exists");
    assert!(alive(pid) && bundle.status() == "created");
    bundle.on("delete", &["--force"]).well();
    bundle.create();
}

#[test]
fn what_is_unknown_or_for_other_platforms_is_ignored() {
    let bundle = Bundle::script("echo $UNKNOWN ran").edit(|config| {
        let places = [
            "",
            "/process",
            "/process/user",
            "/root",
            "/mounts/0",
            "/linux",
            "/linux/resources",
            "/linux/namespaces/0",
        ];
        for place in places {
            let place = config.pointer_mut(place).expect("a place");
            place["org.example.unknown"] = json!({ "of": ["any", 1, null] });
        }
        config["annotations"] = json!({ "org.example.unknown": "value" });
        config["solaris"] = json!({ "milestone": "svc:/milestone/container:default" });
        config["windows"] = json!({ "layerFolders": ["C:\\layer"], "network": { "allowUnqualifiedDNSQuery": true } });
        config["vm"] = json!({ "kernel": { "path": "/boot/kernel" } });
        config["zos"] = json!({ "namespaces": [] });
        config["freebsd"] = json!({ "jail": { "parent": "other" } });
        config["process"]["commandLine"] = json!("cmd /c echo");
    });
    assert_eq!(bundle.run().well(), "ran");
}

#[test]
fn options_come_before_or_after_the_id() {
    let bundle = Bundle::sleeper();
    let pid_file = bundle.dir.join("pid");
    let mut command = bundle.command(&["run", &bundle.id, "-d", "--pid-file"]);
    command.arg(&pid_file).arg("--bundle").arg(&bundle.dir);
    outcome(command).well();
    assert_eq!(value(pid_file).expect("the pid file"), bundle.pid().to_string());
}

#[test]
fn long_options_with_one_dash_and_repeated_global_ones_are_taken() {
    let bundle = Bundle::sleeper();
    let mut command = Command::new(common::ORLOP);
    command.args(["--root", "/nonexistent", "-root"]).arg(&bundle.store);
    command.args(["run", "-detach", "-no-subreaper", "-bundle"]).arg(&bundle.dir).arg(&bundle.id);
    outcome(command).well();
    assert_eq!(bundle.status(), "running");
}

/// conmon-rs gives both of these twice.
#[test]
fn global_options_are_repeated_before_the_verb_and_after_it() {
    let bundle = Bundle::sleeper();
    bundle.create();
    let dir = bundle.dir.to_str().expect("UTF-8");
    let own = format!("--root={}", bundle.store.display());
    // As clap has them by itself: there is no `--debug=true` here, for which every boolean option may have a value.
    let twice = ["--systemd-cgroup", "--root=/nonexistent", "--systemd-cgroup", &own];
    let none: &[&str] = &[];
    for (before, after) in
        [(&twice[..], none), (&twice[..2], &twice[2..]), (&twice[..], &twice[..]), (none, &twice[..])]
    {
        let with = |verb: &str, of: &str| {
            let mut command = Command::new(common::ORLOP);
            command.args(before).arg(verb).args(after).arg(of);
            outcome(command).well()
        };
        let plan = with("plan", dir);
        assert!(plan.contains("StartTransientUnit runc-ID.scope"), "{before:?} {after:?}: {plan}");
        let state: Value = serde_json::from_str(&with("state", &bundle.id)).expect("the last root has it");
        assert_eq!(state["status"], "created");
    }
}

#[test]
fn boolean_options_take_the_values_that_go_takes() {
    let bundle = Bundle::sleeper();
    let with = |arguments: &[&str]| outcome(bundle.command(arguments));
    with(&["--systemd-cgroup=false", "-debug=F", "--rootless", "false", "list", "-q=true"]).well();
    outcome(bundle.making("run", &["--debug", "--debug=0", "--detach=T", "-keep=1"])).well();
    assert_eq!(bundle.status(), "running");
    assert_eq!(with(&["list", "-q=True"]).well(), bundle.id);
    assert!(with(&["list", "--quiet", "-quiet=FALSE"]).well().starts_with("ID "));
    // What follows the id is the program's, whatever it looks like.
    let echo = ["exec", "--tty=false", "-t=f", &bundle.id, "echo", "--force=true", "-tty=false", "--rootless", "true"];
    assert_eq!(with(&echo).well(), "--force=true -tty=false --rootless true");
    with(&["delete", "--force=f", &bundle.id]).fails("is not stopped");
    with(&["delete", "-f=maybe", &bundle.id]).fails("a boolean is true or false");
    with(&["delete", "--force=true", &bundle.id]).well();
    assert!(!bundle.state_dir().exists());
}

#[test]
fn kill_all_of_a_stopped_container_is_no_error() {
    let bundle = Bundle::new();
    bundle.up();
    bundle.await_status("stopped");
    bundle.on("kill", &["--all", "KILL"]).well();
}

#[test]
fn features_say_nothing_on_standard_error() {
    let features = outcome(Bundle::new().command(&["features"]));
    assert_eq!((features.code, features.stderr().as_str()), (Some(0), ""));
    let features: Value = serde_json::from_str(&features.stdout()).expect("JSON");
    assert!(
        ["ociVersionMin", "ociVersionMax"]
            .iter()
            .all(|key| features[key].as_str().is_some_and(|text| !text.is_empty()))
    );
}

#[test]
fn an_unknown_command_has_runcs_status() {
    for (arguments, status) in [(&["foo"] as &[&str], 3), (&["exec"], 1), (&["list", "--foo"], 1), (&["--foo"], 1)] {
        assert_eq!(outcome(Bundle::new().command(arguments)).code, Some(status), "{arguments:?}");
    }
}

#[test]
fn the_log_gets_exactly_one_json_object() {
    let bundle = Bundle::new().args(&["/nonexistent"]);
    let log = bundle.dir.join("log.json");
    let mut command = bundle.command(&["--log-format", "json", "--log"]);
    command.arg(&log).args(["run", "--bundle"]).arg(&bundle.dir).arg(&bundle.id);
    let failed = outcome(command);
    failed.fails("/nonexistent");
    let text = value(&log).expect("the log");
    let record: Value = serde_json::from_str(&text).expect("one object");
    assert_eq!(record["level"], "error");
    assert!(record["msg"].as_str().is_some_and(|msg| msg.contains("/nonexistent")), "{record}");
    assert!(record["time"].is_string());
}

/// podman reads the whole log as one object, which a warning before the error would break.
#[test]
fn an_error_is_the_only_record_where_there_would_be_a_warning() {
    let warned = |program: &str| {
        Bundle::new().args(&[program]).edit(|config| {
            let set = config["process"]["capabilities"]["bounding"].as_array_mut().expect("a set");
            set.push(json!("CAP_OF_TOMORROW"));
        })
    };
    for (verb, program, level, words) in [
        ("run", "/nonexistent", "error", "/nonexistent"),
        ("create", "/nonexistent", "error", "/nonexistent"),
        ("run", "true", "warning", "CAP_OF_TOMORROW"),
    ] {
        let bundle = warned(program);
        let log = bundle.dir.join("log.json");
        let mut command = bundle.command(&["--log-format", "json", "--log"]);
        command.arg(&log).args([verb, "--bundle"]).arg(&bundle.dir).arg(&bundle.id);
        assert_eq!(outcome(command).code == Some(0), level == "warning", "{verb} {program}");
        let text = value(&log).expect("the log");
        let record: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{verb}: {error}: {text}"));
        assert_eq!(record["level"], level, "{verb}: {text}");
        assert!(record["msg"].as_str().is_some_and(|msg| msg.contains(words)), "{verb}: {text}");
    }
}

#[test]
fn detached_run_returns_while_the_program_runs() {
    let bundle = Bundle::script("while ! [ -e /go ]; do sleep 0.01; done; echo went");
    let output = bundle.run_with(&["-d"]);
    output.well();
    assert_eq!(bundle.status(), "running");
    assert_eq!(proc_status(bundle.pid(), "State").chars().next().map(|state| "SR".contains(state)), Some(true));
    fs::write(bundle.rootfs("go"), "").expect("go");
    wait(|| output.stdout() == "went\n");
    bundle.await_status("stopped");
}

#[test]
fn the_pid_file_holds_digits_only() {
    let bundle = Bundle::sleeper();
    let pid_file = bundle.dir.join("pid");
    fs::write(&pid_file, "what was there before, and longer than a number").expect("pid file");
    outcome(bundle.making("create", &["--pid-file", pid_file.to_str().unwrap()])).well();
    assert_eq!(fs::read(&pid_file).expect("the pid file"), bundle.pid().to_string().into_bytes());
}

#[test]
fn a_pid_file_that_cant_be_written_leaves_no_container() {
    let bundle = Bundle::sleeper();
    for verb in ["create", "run"] {
        outcome(bundle.making(verb, &["--pid-file", "/nonexistent/pid"])).fails("no such file or directory");
        assert!(!bundle.state_dir().exists(), "{verb}");
    }
}

/// `orlop run` with the descriptors 3, 4, 5, 9 open.
fn run_with_descriptors(bundle: &Bundle, args: &str) -> common::Outcome {
    with_descriptors(bundle, "", args)
}

/// The same after this in the shell that becomes the runtime.
fn with_descriptors(bundle: &Bundle, before: &str, args: &str) -> common::Outcome {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!(
        "{before} exec 3</etc/passwd 4</etc/group 5</etc/hostname 9</etc/fstab; exec '{}' --root '{}' run {args} --bundle '{}' {}",
        common::ORLOP,
        bundle.store.display(),
        bundle.dir.display(),
        bundle.id
    ));
    command.stdin(std::process::Stdio::null());
    outcome(command)
}

/// The descriptors of the shell itself; ls would have its own.
const DESCRIPTORS: &str = "for f in /proc/$$/fd/*; do echo ${f##*/}; done";

#[test]
fn no_descriptor_but_the_standard_ones_gets_inside() {
    let said = run_with_descriptors(&Bundle::script(DESCRIPTORS), "").well();
    let mut fds: Vec<_> = said.lines().collect();
    fds.sort_unstable();
    // busybox reads the directory by a descriptor of its own, the lowest that is free
    assert_eq!(fds, ["0", "1", "2", "3"]);
}

#[test]
fn preserved_descriptors_are_exactly_those_asked_for() {
    let bundle = Bundle::script(
        "head -1 <&3 | cut -c1-5; [ -e /proc/self/fd/4 ] && echo four; readlink /proc/$$/fd/5; readlink /proc/$$/fd/9; :",
    );
    let said = run_with_descriptors(&bundle, "--preserve-fds 2").well();
    assert_eq!(said, "root:\nfour");
    run_with_descriptors(&bundle, "--preserve-fds 4").fails("unable to stat preserved-fd");
}

#[test]
fn sockets_of_the_service_manager_come_first_and_are_announced() {
    let script = "echo $LISTEN_FDS $LISTEN_PID $OTHER; head -1 <&3 | cut -c1-5; [ -e /proc/self/fd/4 ] && echo four; [ -e /proc/self/fd/5 ] || echo no five";
    let bundle = Bundle::script(script).edit(|config| config["process"]["env"] = json!(["LISTEN_FDS=7", "OTHER=o"]));
    let announced = "LISTEN_FDS=1 LISTEN_PID=$$; export LISTEN_FDS LISTEN_PID;";
    assert_eq!(with_descriptors(&bundle, announced, "--preserve-fds 1").well(), "1 1 o\nroot:\nfour\nno five");
    let others = "LISTEN_FDS=1 LISTEN_PID=1; export LISTEN_FDS LISTEN_PID;";
    let said = with_descriptors(&bundle, others, "--preserve-fds 1").well();
    assert_eq!(said, "7 o\nroot:\nno five", "they were handed to another process");
}

/// A service manager's socket, and the environment that leads there.
fn manager(bundle: &Bundle) -> (UnixDatagram, (&'static str, PathBuf)) {
    let path = bundle.dir.join("manager.sock");
    let socket = UnixDatagram::bind(&path).expect("bind");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a bound");
    (socket, ("NOTIFY_SOCKET", path))
}

fn heard(socket: &UnixDatagram) -> String {
    let mut text = [0; 256];
    let length = socket.recv(&mut text).expect("a message in time");
    String::from_utf8_lossy(&text[..length]).into_owned()
}

/// A message and its descriptor.
fn barrier(socket: &UnixDatagram) -> (String, OwnedFd) {
    common::message(socket)
}

/// Says this on the socket that the container finds where its environment says, as its own program would.
fn say(pid: u32, messages: &[&str]) {
    let path = PathBuf::from(format!("/proc/{pid}/root/run/notify/notify.sock"));
    let socket = UnixDatagram::unbound().expect("socket");
    wait(|| socket.connect(&path).is_ok());
    for message in messages {
        socket.send(message.as_bytes()).expect("send");
    }
}

#[test]
fn start_waits_until_the_program_is_ready_and_the_service_manager_has_heard_it() {
    let bundle = Bundle::script("echo $NOTIFY_SOCKET; test -S $NOTIFY_SOCKET && : >/tmp/there; exec sleep 1000");
    let (socket, (name, path)) = manager(&bundle);
    let mut command = bundle.making("create", &[]);
    command.env(name, &path);
    let created = outcome(command);
    created.well();
    let mut command = bundle.command(&["start", &bundle.id]);
    command.env(name, &path);
    let mut start = begin(command);
    let pid = bundle.pid();
    wait(|| bundle.rootfs("/tmp/there").exists());
    say(pid, &["STATUS=nearly", "NOT_READY=1", "STATUS=now\nREADY=1\nMAINPID=1"]);
    assert_eq!(heard(&socket), format!("READY=1\nMAINPID={pid}\n"), "and nothing else of the container's");
    let (text, open) = barrier(&socket);
    assert_eq!((text.as_str(), start.child.try_wait().expect("wait")), ("BARRIER=1", None));
    assert_eq!(bundle.status(), "running", "nothing is locked");
    drop(open);
    start.end().well();
    assert_eq!(created.stdout(), "/run/notify/notify.sock\n");
    assert_eq!(bundle.inside("echo $NOTIFY_SOCKET"), "", "a process of exec is not the service");
}

#[test]
fn a_detached_run_waits_and_ends_with_a_container_that_never_says_so() {
    let bundle = Bundle::new();
    let (_socket, (name, path)) = manager(&bundle);
    let mut command = bundle.making("run", &["-d"]);
    command.env(name, &path);
    outcome(command).well();
    let bundle = Bundle::sleeper();
    let (socket, (name, path)) = manager(&bundle);
    let mut command = bundle.making("run", &["-d"]);
    command.env(name, &path);
    let run = begin(command);
    bundle.await_status("running");
    say(bundle.pid(), &["READY=1"]);
    assert_eq!(heard(&socket), format!("READY=1\nMAINPID={}\n", bundle.pid()));
    drop(barrier(&socket));
    run.end().well();
}

/// `start` or `run --detach`, once its container is ready, and the descriptor whose end it waits for.
fn at_the_barrier(bundle: &Bundle, verb: &str) -> (common::Running, OwnedFd) {
    let (socket, (name, path)) = manager(bundle);
    let told = |mut command: Command| {
        command.env(name, &path);
        command
    };
    let command = if verb == "start" {
        outcome(told(bundle.making("create", &[]))).well();
        bundle.command(&["start", &bundle.id])
    } else {
        bundle.making(verb, &["--detach"])
    };
    let waiting = begin(told(command));
    bundle.await_status("running");
    say(bundle.pid(), &["READY=1"]);
    assert_eq!(heard(&socket), format!("READY=1\nMAINPID={}\n", bundle.pid()));
    let (text, open) = barrier(&socket);
    assert_eq!(text, "BARRIER=1");
    (waiting, open)
}

/// It takes the half minute that the manager has, so both wait at the same time.
#[test]
fn a_service_manager_that_never_passes_the_barrier_is_a_warning_in_time() {
    let begun = Instant::now();
    let bundles = ["start", "run"].map(|verb| (verb, Bundle::sleeper()));
    let waiting: Vec<_> = bundles.iter().map(|(verb, bundle)| (verb, bundle, at_the_barrier(bundle, verb))).collect();
    for (verb, bundle, (command, open)) in waiting {
        let ended = command.end();
        assert!((30..90).contains(&begun.elapsed().as_secs()), "{verb}: {:?}", begun.elapsed());
        ended.well();
        let said = ended.stderr();
        assert!(said.starts_with("orlop: warning: tell NOTIFY_SOCKET "), "{verb}: {said}");
        assert!(said.contains("it has not answered BARRIER=1 for 30 seconds"), "{verb}: {said}");
        assert_eq!(bundle.status(), "running", "{verb}");
        drop(open);
    }
}

#[test]
fn a_foreground_run_is_the_process_to_watch() {
    let bundle = Bundle::sleeper();
    let (socket, (name, path)) = manager(&bundle);
    let mut command = bundle.making("run", &[]);
    command.env(name, &path);
    let run = begin(command);
    bundle.await_status("running");
    say(bundle.pid(), &["READY=1"]);
    assert_eq!(heard(&socket), format!("READY=1\nMAINPID={}\n", run.child.id()));
    bundle.on("kill", &["KILL"]).well();
    assert_eq!(run.end().code, Some(137));
}

#[test]
fn created_containers_hold_no_descriptor_of_the_host_after_start() {
    let bundle = Bundle::sleeper();
    bundle.up();
    let dir = fs::read_dir(format!("/proc/{}/fd", bundle.pid())).expect("fd");
    let mut fds: Vec<_> = dir.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    fds.sort();
    assert_eq!(fds, ["0", "1", "2"]);
}

fn read_until(file: &mut fs::File, end: &str) -> String {
    let mut text = String::new();
    let mut byte = [0u8; 64];
    while !text.contains(end) {
        match file.read(&mut byte) {
            Ok(length) if length > 0 => text.push_str(&String::from_utf8_lossy(&byte[..length])),
            other => panic!("{other:?} after {text:?}"),
        }
    }
    text
}

#[test]
fn the_console_socket_gets_a_working_master() {
    let bundle = Bundle::script(
        "tty; stty size; readlink /dev/console; ls -l /dev/console | cut -c1; read line; echo got $line",
    )
    .edit(|config| {
        config["process"]["terminal"] = json!(true);
        config["process"]["consoleSize"] = json!({"height": 33, "width": 101});
    });
    let socket = bundle.dir.join("console.sock");
    let listener = UnixListener::bind(&socket).expect("bind");
    outcome(bundle.making("run", &["-d", "--console-socket", socket.to_str().unwrap()])).well();
    let mut master = fs::File::from(received(&listener).1);
    let said = read_until(&mut master, "c\r\n");
    assert!(said.starts_with("/dev/pts/0\r\n33 101\r\n"), "{said:?}");
    master.write_all(b"hello\n").expect("write");
    let said = read_until(&mut master, "got hello");
    assert!(said.contains("hello\r\n"), "echoed by the line discipline: {said:?}");
}

/// The process that a pidfd stands for.
fn process_of(pidfd: &OwnedFd) -> u32 {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).expect("fdinfo");
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")).expect("a pidfd");
    pid.trim().parse().expect("a number")
}

#[test]
fn the_pidfd_socket_gets_the_process() {
    let bundle = Bundle::sleeper();
    let socket = bundle.dir.join("pidfd.sock");
    let listener = UnixListener::bind(&socket).expect("bind");
    let option = ["--pidfd-socket", socket.to_str().expect("UTF-8")];
    outcome(bundle.making("create", &option)).well();
    let (word, pidfd) = received(&listener);
    assert_eq!((word.as_str(), process_of(&pidfd)), ("standard", bundle.pid()));
    bundle.start();
    let pid_file = bundle.dir.join("pid");
    let options = ["-d", option[0], option[1], "--pid-file", pid_file.to_str().expect("UTF-8"), "sleep", "1000"];
    bundle.on("exec", &options).well();
    let (word, pidfd) = received(&listener);
    assert_eq!((word.as_str(), process_of(&pidfd).to_string()), ("setns", value(pid_file).expect("the pid file")));
    drop(listener);
    let other = Bundle::sleeper();
    outcome(other.making("create", &option)).fails("connect to pidfd socket");
    outcome(other.making("run", &option)).fails("connection refused");
    assert!(!other.state_dir().exists());
}

#[test]
fn a_terminal_needs_a_console_socket_when_detached() {
    let bundle = Bundle::new().edit(|config| config["process"]["terminal"] = json!(true));
    outcome(bundle.making("create", &[])).fails("without setting console socket");
    assert!(!bundle.state_dir().exists());
    let plain = Bundle::new();
    plain.run_with(&["--console-socket", "/nonexistent"]).fails("console socket");
}

#[test]
fn a_foreground_terminal_is_relayed() {
    let bundle = Bundle::script("tty; stty size; exit 5").edit(|config| config["process"]["terminal"] = json!(true));
    let mut command = Command::new("script");
    let line = format!(
        "stty rows 21 cols 66; '{}' --root '{}' run --bundle '{}' {}",
        common::ORLOP,
        bundle.store.display(),
        bundle.dir.display(),
        bundle.id
    );
    command.args(["-qec", &line, "/dev/null"]).stdin(std::process::Stdio::null());
    let outcome = outcome(command);
    assert_eq!(outcome.code, Some(5), "{}", outcome.stdout());
    // script passes the end of its own input on, which the terminal shows in between
    let said = outcome.stdout();
    assert!(said.contains("/dev/pts/0\r\n") && said.contains("21 66\r\n"), "{said:?}");
}

#[test]
fn run_forwards_signals() {
    let bundle = Bundle::script("trap 'exit 33' TERM; echo up; while :; do sleep 0.02; done");
    let running = begin(bundle.making("run", &[]));
    wait(|| running.stdout() == "up\n");
    kill(Pid::from_raw(running.child.id() as i32), Signal::SIGTERM).expect("kill");
    assert_eq!(running.end().code, Some(33));
}

#[test]
fn version_has_the_shape_that_go_runc_parses() {
    let mut command = Command::new(common::ORLOP);
    command.arg("--version");
    let said = outcome(command).well();
    assert!(said.starts_with("runc version "), "{said}");
    assert!(said.lines().any(|line| line.starts_with("spec: 1.")), "{said}");
}

#[test]
fn spec_writes_a_config_that_runs_and_overwrites_none() {
    let bundle = Bundle::new();
    let config = bundle.dir.join("config.json");
    let mut command = bundle.command(&["spec", "--bundle"]);
    command.arg(&bundle.dir);
    outcome(command).fails("config.json");
    fs::remove_file(&config).expect("remove");
    let mut command = bundle.command(&["spec", "--bundle"]);
    command.arg(&bundle.dir);
    outcome(command).well();
    let mut written: Value = serde_json::from_slice(&fs::read(&config).expect("config.json")).expect("JSON");
    assert_eq!(written["process"]["args"], json!(["sh"]));
    assert_eq!(written["process"]["terminal"], true);
    written["process"]["terminal"] = json!(false);
    fs::write(&config, written.to_string()).expect("write");
    bundle.run().well();
}

/// What a profile closes, as the process sees it.
#[test]
fn spec_writes_a_config_of_a_profile() {
    let script =
        "grep -E '^(Uid|CapBnd|Seccomp):' /proc/self/status; touch /tmp/x && ln -s x /tmp/link && cat /tmp/link";
    for (profile, user, capabilities) in [("default", "0", "0000000020000420"), ("strict", "65534", "0000000000000000")]
    {
        let bundle = Bundle::new();
        fs::remove_file(bundle.dir.join("config.json")).expect("remove");
        let mut command = bundle.command(&["spec", "--profile", profile, "--bundle"]);
        command.arg(&bundle.dir);
        outcome(command).well();
        let written = fs::read(bundle.dir.join("config.json")).expect("config.json");
        let bundle = bundle.edit(|config| {
            *config = serde_json::from_slice(&written).expect("JSON");
            config["process"]["terminal"] = json!(false);
            config["process"]["args"] = json!(["sh", "-c", script]);
        });
        let ran = bundle.run();
        let said = ran.stdout();
        assert!(said.contains(&format!("Uid:\t{user}\t")), "{said}");
        assert!(said.contains(&format!("CapBnd:\t{capabilities}\n")) && said.contains("Seccomp:\t2\n"), "{said}");
        // default: / is read-only; strict: /tmp is there, and no link in it leads anywhere
        let denied = if profile == "default" { "Read-only file system" } else { "Too many levels of symbolic links" };
        assert!(ran.stderr().contains(denied), "{}", ran.stderr());
    }
}

/// The same for each id, all at once.
fn at_once<T: Send>(ids: &[String], work: impl Fn(&str) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let all: Vec<_> = ids.iter().map(|id| scope.spawn(|| work(id))).collect();
        all.into_iter().map(|one| one.join().expect("a thread")).collect()
    })
}

/// `run --detach` and `exec`: what both said, and the process and its cgroup, if there is one.
fn run_and_exec(bundle: &Bundle, id: &str) -> (Outcome, Outcome, Option<(u32, PathBuf)>) {
    let pid_file = bundle.dir.join(format!("pid.{id}"));
    let mut run = bundle.command(&["run", "--detach", "--pid-file"]);
    run.arg(&pid_file).arg("--bundle").arg(&bundle.dir).arg(id);
    let run = outcome(run);
    let exec = outcome(bundle.command(&["exec", id, "cat", "/proc/1/comm"]));
    let pid = value(pid_file).ok().and_then(|pid| pid.parse().ok());
    (run, exec, pid.map(|pid| (pid, cgroup_of(pid))))
}

#[test]
fn lives_at_once_leave_nothing_behind() {
    let bundle = Bundle::sleeper();
    let ids: Vec<_> = (0..rounds(20)).map(|number| format!("{}-{number}", bundle.id)).collect();
    let mounts = value("/proc/self/mountinfo").expect("mountinfo");
    let lives = at_once(&ids, |id| run_and_exec(&bundle, id));
    let listed = outcome(bundle.command(&["list", "-q"]));
    // before any assertion: what has failed leaves nothing behind either
    let deleted = at_once(&ids, |id| outcome(bundle.command(&["delete", "--force", id])));
    assert_eq!(listed.well().lines().count(), ids.len());
    for ((run, exec, process), deleted) in lives.into_iter().zip(deleted) {
        run.well();
        assert_eq!(exec.well(), "sleep");
        deleted.well();
        let (pid, cgroup) = process.expect("a pid file");
        assert!(!alive(pid) && !cgroup.exists(), "{pid} in {}", cgroup.display());
    }
    assert_eq!(fs::read_dir(&bundle.store).expect("the store").count(), 0);
    assert_eq!(value("/proc/self/mountinfo").expect("mountinfo"), mounts);
}

/// Paths of the host on the command line, and what the caller's environment holds, are nothing for the container.
#[test]
fn a_process_that_waits_for_start_tells_nothing_of_its_caller() {
    let bundle = Bundle::sleeper();
    let mut command = bundle.making("create", &[]);
    command.env("ORLOP_TEST_SECRET", "of the caller");
    outcome(command).well();
    let seen = bundle.inside("tr '\\0' ' ' </proc/1/cmdline");
    assert_eq!(seen.trim(), "orlop init");
    let environ = std::fs::read(format!("/proc/{}/environ", bundle.pid())).expect("as root of the host");
    assert!(environ.iter().all(|byte| *byte == 0), "{}", String::from_utf8_lossy(&environ));
}

#[test]
fn a_process_that_waits_for_start_holds_nothing_of_the_hosts_open() {
    let bundle = Bundle::sleeper();
    bundle.create();
    let open = fs::read_dir(format!("/proc/{}/fd", bundle.pid())).expect("fd").flatten();
    let files = open.filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok_and(|fd| fd > 2));
    let mut files: Vec<_> = files.map(|entry| fs::read_link(entry.path()).expect("a link")).collect();
    files.retain(|file| !file.ends_with("exec.fifo") && !file.to_string_lossy().starts_with("socket:"));
    assert!(files.is_empty(), "{files:?}");
}
