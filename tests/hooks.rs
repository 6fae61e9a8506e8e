//! The six kinds of hooks: when, where, with what on their standard input, and what their failure does.

mod common;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::{Bundle, alive, outcome, value, wait};
use serde_json::{Value, json};

const KINDS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// A hook that runs a script of the host's shell; `startContainer` finds one in the container.
fn hook(script: &str) -> Value {
    json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]})
}

fn with(mut bundle: Bundle, kind: &str, hook: Value) -> Bundle {
    bundle = bundle.edit(|config| {
        if config["hooks"][kind].is_null() {
            config["hooks"][kind] = json!([]);
        }
        config["hooks"][kind].as_array_mut().expect("a list").push(hook);
    });
    bundle
}

/// A bundle whose hooks each add a line with their kind and `more` to the file that is returned: /log in the container.
fn logged(program: &str, more: &str) -> (Bundle, PathBuf) {
    let bundle = Bundle::script(program);
    let log = bundle.rootfs("log");
    let mut bundle = bundle;
    for kind in KINDS {
        let file = if kind == "startContainer" { "/log".to_owned() } else { log.display().to_string() };
        bundle = with(bundle, kind, hook(&format!("echo {kind} {more} >> {file}")));
    }
    (bundle, log)
}

fn lines(log: &PathBuf) -> Vec<String> {
    value(log).unwrap_or_default().lines().map(|line| line.trim().to_owned()).collect()
}

#[test]
fn each_kind_runs_at_its_time_and_in_order() {
    let (bundle, log) = logged("echo program >> /log; exec sleep 1000", "");
    bundle.create();
    assert_eq!(lines(&log), ["prestart", "createRuntime", "createContainer"]);
    bundle.start();
    wait(|| lines(&log).len() == 6);
    let mut after = lines(&log).split_off(3);
    assert_eq!(after[0], "startContainer");
    // the program and the hook after its start run at the same time
    after[1..].sort();
    assert_eq!(after[1..], ["poststart", "program"]);
    bundle.on("kill", &["KILL"]).well();
    bundle.await_status("stopped");
    assert_eq!(lines(&log).len(), 6);
    bundle.on("delete", &[]).well();
    assert_eq!(lines(&log)[6], "poststop");
}

#[test]
fn run_runs_them_all() {
    let (bundle, log) = logged("echo program >> /log; sleep 0.2", "");
    bundle.run().well();
    let mut all = lines(&log);
    all[4..6].sort();
    let order = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "program", "poststop"];
    assert_eq!(all, order);
}

#[test]
fn those_of_one_list_run_in_its_order() {
    let mut bundle = Bundle::new();
    let log = bundle.rootfs("log");
    for number in 0..4 {
        bundle = with(
            bundle,
            "createRuntime",
            hook(&format!("sleep 0.0{}; echo {number} >> {}", 4 - number, log.display())),
        );
    }
    bundle.run().well();
    assert_eq!(lines(&log), ["0", "1", "2", "3"]);
}

#[test]
fn the_state_is_on_standard_input() {
    let mut bundle = Bundle::sleeper().edit(|config| config["annotations"] = json!({"org.example": "x y"}));
    let states = |bundle: &Bundle, kind: &str| bundle.rootfs(&format!("state.{kind}"));
    for kind in KINDS {
        let file = match kind {
            "startContainer" => PathBuf::from("/state.startContainer"),
            _ => states(&bundle, kind),
        };
        bundle = with(bundle, kind, hook(&format!("cat > {}", file.display())));
    }
    bundle.up();
    let pid = bundle.pid();
    bundle.on("delete", &["--force"]).well();
    for (kind, status) in KINDS.iter().zip(["creating", "creating", "creating", "created", "running", "stopped"]) {
        let text = fs::read(states(&bundle, kind)).expect(kind);
        let state: Value = serde_json::from_slice(&text).expect("JSON");
        assert_eq!(state["status"], status, "{kind}");
        assert_eq!(state["id"], bundle.id, "{kind}");
        assert_eq!(state["ociVersion"], bundle.config["ociVersion"], "{kind}");
        assert_eq!(state["bundle"], bundle.dir.to_str().unwrap(), "{kind}");
        assert_eq!(state["annotations"], json!({"org.example": "x y"}), "{kind}");
        let expected = if *kind == "poststop" { Value::Null } else { json!(pid) };
        assert_eq!(state["pid"], expected, "{kind}");
    }
}

#[test]
fn each_kind_runs_in_its_namespaces() {
    let (bundle, log) = logged("exec sleep 1000", "$(readlink /proc/self/ns/mnt) $(readlink /proc/self/ns/net)");
    bundle.up();
    let of = |pid: &str, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("ns").display().to_string();
    let host = format!("{} {}", of("self", "mnt"), of("self", "net"));
    let pid = bundle.pid().to_string();
    let container = format!("{} {}", of(&pid, "mnt"), of(&pid, "net"));
    bundle.on("delete", &["--force"]).well();
    for line in lines(&log) {
        let (kind, namespaces) = line.split_once(' ').expect("two parts");
        let inside = ["createContainer", "startContainer"].contains(&kind);
        assert_eq!(namespaces, if inside { &container } else { &host }, "{kind}");
    }
    assert_eq!(lines(&log).len(), 6);
}

#[test]
fn create_container_sees_the_hosts_root_and_start_container_the_containers() {
    let bundle = Bundle::new();
    fs::write(bundle.rootfs("only-inside"), "").expect("a file");
    let outside = bundle.dir.join("config.json");
    let bundle =
        with(bundle, "createContainer", hook(&format!("test -e {} && ! test -e /only-inside", outside.display())));
    let bundle =
        with(bundle, "startContainer", hook(&format!("! test -e {} && test -e /only-inside", outside.display())));
    bundle.run().well();
}

#[test]
fn they_have_their_own_arguments_and_environment() {
    for kind in KINDS {
        let bundle = Bundle::new();
        let log = bundle.rootfs("log");
        let file = if kind == "startContainer" { PathBuf::from("/log") } else { log.clone() };
        let script = format!("echo $0,$1,$A,${{HOME-none}} > {}", file.display());
        // the container's shell goes by the first argument, as the many programs that it is
        let first = if kind == "startContainer" { "sh" } else { "ignored" };
        let entry = json!({"path": "/bin/sh", "args": [first, "-c", script, "zero", "one"], "env": ["A=b=c"]});
        let bundle = with(bundle, kind, entry);
        bundle.run().well();
        assert_eq!(value(&log).expect("the log"), "zero,one,b=c,none", "{kind}");
    }
}

#[test]
fn a_hook_in_the_container_may_mount_there() {
    // what createContainer is for: the container's mount namespace, with the host's paths still there
    let bundle = Bundle::script("cat /etc/mounted");
    let (source, target) = (bundle.dir.join("source"), bundle.rootfs("etc/mounted"));
    fs::write(&source, "by a hook\n").expect("source");
    fs::write(&target, "").expect("target");
    let line = format!("mount --bind {} {}", source.display(), target.display());
    let bundle = with(bundle, "createContainer", hook(&line));
    assert_eq!(bundle.run().well(), "by a hook");
}

/// A failed hook of the kinds before the program: nothing is left, and the error names it and what it said.
#[test]
fn a_failure_before_the_program_undoes_everything() {
    for kind in &KINDS[..4] {
        let bundle = Bundle::script("touch /ran");
        let path = format!("/{}", bundle.id);
        let bundle = bundle.edit(|config| config["linux"]["cgroupsPath"] = json!(path));
        let bundle = with(bundle, kind, hook("true"));
        let bundle = with(bundle, kind, hook("echo to stdout; echo to stderr >&2; exit 3"));
        let after = bundle.dir.join("after");
        let tell = format!("echo $PWD > {}; grep -o '\"status\":\"[a-z]*\"' >> {0}", after.display());
        let bundle = with(with(bundle, "poststop", hook("exit 6")), "poststop", hook(&tell));
        let said = bundle.run().fails(&format!("{kind} hook #1: exit status 3"));
        assert!(said.contains("to stdout") && said.contains("to stderr"), "{kind}: {said}");
        assert!(said.contains(&format!("/hooks/{kind}/1")), "{kind}: {said}");
        assert!(!bundle.rootfs("ran").exists(), "{kind}");
        assert!(!bundle.state_dir().exists(), "{kind}");
        assert!(!PathBuf::from(format!("/sys/fs/cgroup{path}")).exists(), "{kind}");
        // What the hooks before have made is poststop's to take away.
        let expected = format!("{}\n\"status\":\"stopped\"", bundle.dir.display());
        assert_eq!(value(&after).expect("poststop"), expected, "{kind}");
        assert!(said.contains("; error running poststop hook #0: exit status 6"), "{said}");
    }
}

/// That of the runtime, or in the container of the program, and the bundle as the directory while the runtime is at it, as with
/// runc; but a program of the host has no word of the image's, such as LD_PRELOAD (CVE-2025-23266).
#[test]
fn one_without_an_environment_has_that_of_its_side() {
    for kind in KINDS {
        let bundle = Bundle::new();
        let log = bundle.rootfs("log");
        let file = if kind == "startContainer" { PathBuf::from("/log") } else { log.clone() };
        let script = format!("echo ${{OF_THE_RUNTIME-none}},${{OF_THE_PROGRAM-none}},$PWD > {}", file.display());
        let bundle = with(bundle, kind, json!({"path": "/bin/sh", "args": ["sh", "-c", script]})).edit(|config| {
            config["process"]["env"] = json!(["PATH=/bin", "OF_THE_PROGRAM=2"]);
        });
        let mut command = bundle.making("run", &[]);
        command.env("OF_THE_RUNTIME", "1").current_dir("/");
        outcome(command).well();
        let directory = match kind {
            "prestart" | "createRuntime" | "poststart" | "poststop" => bundle.dir.display().to_string(),
            "createContainer" => bundle.rootfs("").display().to_string().trim_end_matches('/').to_owned(),
            _ => "/".to_owned(),
        };
        let variables = match kind {
            "createContainer" => "none,none",
            "startContainer" => "none,2",
            _ => "1,none",
        };
        let expected = format!("{variables},{directory}");
        assert_eq!(value(&log).expect("the log"), expected, "{kind}");
    }
}

#[test]
fn a_failed_start_container_hook_is_an_error_of_start() {
    let bundle = with(Bundle::script("touch /ran"), "startContainer", hook("echo why not; exit 4"));
    bundle.create();
    let pid = bundle.pid();
    let said = bundle.on("start", &[]).fails("startContainer hook #0: exit status 4");
    assert!(said.contains("why not"), "{said}");
    wait(|| !alive(pid));
    assert_eq!(bundle.status(), "stopped");
    assert!(!bundle.rootfs("ran").exists());
}

/// What a hook in the container says is kept nowhere but for its end.
#[test]
fn a_hook_that_floods_fills_nothing_and_its_last_words_are_shown() {
    for kind in ["createContainer", "startContainer"] {
        let flood = "i=0; while [ $i -lt 5 ]; do head -c 200000 /dev/zero | tr '\\0' x; i=$((i+1)); done; echo; echo last words";
        let bundle = with(Bundle::sleeper(), kind, hook(flood));
        bundle.up().well();
        let size = fs::metadata(bundle.state_dir().join("output")).expect("the file").len();
        assert_eq!(size, 0, "{kind}");
        let bundle = with(Bundle::new(), kind, hook(&format!("{flood}; exit 7")));
        let said = bundle.run().fails(&format!("{kind} hook #0: exit status 7"));
        assert!(said.contains("last words") && said.len() < 5000, "{kind}: {} bytes", said.len());
    }
}

/// What a hook has started may hold its output, and does not hold the container.
#[test]
fn a_hook_ends_with_its_first_process() {
    let bundle = with(Bundle::script("echo ran"), "createContainer", hook("sleep 5 & exit 0"));
    let start = Instant::now();
    assert_eq!(bundle.run().well(), "ran");
    assert!(start.elapsed() < Duration::from_secs(4));
}

#[test]
fn start_container_has_the_programs_limit_of_open_files() {
    let bundle =
        with(Bundle::script("ulimit -n; ulimit -Hn"), "startContainer", hook("(ulimit -n; ulimit -Hn) >/limits"));
    let limit = json!([{"type": "RLIMIT_NOFILE", "soft": 57, "hard": 60}]);
    let bundle = bundle.edit(|config| config["process"]["rlimits"] = limit);
    assert_eq!(bundle.run().well(), "57\n60");
    assert_eq!(value(bundle.rootfs("limits")).expect("the limits"), "57\n60");
}

#[test]
fn a_failed_poststart_hook_is_an_error() {
    let bundle = with(Bundle::sleeper(), "poststart", hook("echo late; exit 5"));
    bundle.create();
    let said = bundle.on("start", &[]).fails("poststart hook #0: exit status 5");
    assert!(said.contains("late"), "{said}");
    // It is an error, and the end of the container, which waits to be deleted.
    assert_eq!(bundle.status(), "stopped");
    bundle.on("delete", &[]).well();
    let cgroup = PathBuf::from(format!("/sys/fs/cgroup/{}", bundle.id));
    outcome(bundle.making("run", &[])).fails("poststart hook #0");
    assert!(!bundle.state_dir().exists() && !cgroup.exists());
}

#[test]
fn a_failed_poststop_hook_is_said_and_the_rest_run() {
    let bundle = Bundle::new();
    let log = bundle.rootfs("log");
    let bundle = with(bundle, "poststop", hook("echo no; exit 6"));
    let bundle = with(bundle, "poststop", hook(&format!("echo second > {}", log.display())));
    let outcome = bundle.run();
    outcome.well();
    assert!(outcome.stderr().contains("poststop hook #0: exit status 6"), "{}", outcome.stderr());
    assert_eq!(value(&log).expect("the second one"), "second");
    assert!(!bundle.state_dir().exists());
}

#[test]
fn a_timeout_kills() {
    for kind in KINDS {
        let mut slow = hook("echo $$ > /proc/self/fd/1; exec sleep 60");
        slow["timeout"] = json!(1);
        let bundle = with(Bundle::new(), kind, slow);
        let start = Instant::now();
        let said = match kind {
            // the container has ended well by then, and what its end could not do is a warning
            "poststop" => {
                let run = bundle.run();
                run.well();
                run.stderr()
            }
            _ => bundle.run().fails(""),
        };
        assert!(said.contains(&format!("{kind} hook #0")), "{kind}: {said}");
        let took = start.elapsed();
        assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(30), "{kind}: {took:?}");
        assert!(!bundle.state_dir().exists(), "{kind}");
    }
}

/// setpgid(2) into the runtime's own group: the group that it was made to lead is nobody's then.
#[test]
fn a_timeout_kills_who_has_left_its_group() {
    let bundle = Bundle::new();
    let pid = bundle.dir.join("pid");
    let script =
        "open(my $file, '>', $ARGV[0]); print $file $$; close($file); setpgrp(0, getpgrp(getppid())); sleep 60";
    let hook = json!({ "path": "/usr/bin/perl", "args": ["perl", "-e", script, pid], "timeout": 1 });
    let bundle = with(bundle, "createRuntime", hook);
    let start = Instant::now();
    bundle.run().fails("killed after 1 s");
    assert!(start.elapsed() < Duration::from_secs(30));
    let pid = value(pid).expect("it ran").parse().expect("a pid");
    assert!(!alive(pid) && !bundle.state_dir().exists());
}

#[test]
fn a_hook_that_is_not_there_is_named() {
    for kind in &KINDS[..4] {
        let bundle = with(Bundle::new(), kind, json!({"path": "/nonexistent/hook"}));
        let said = bundle.run().fails("/nonexistent/hook");
        assert!(said.contains(&format!("{kind} hook #0")), "{said}");
        assert!(!bundle.state_dir().exists(), "{kind}");
    }
}

#[test]
fn no_descriptor_of_the_runtime_gets_into_a_hook() {
    for kind in KINDS {
        let bundle = Bundle::new();
        let file = if kind == "startContainer" { PathBuf::from("/fds") } else { bundle.rootfs("fds") };
        let bundle = with(
            bundle,
            kind,
            hook(&format!("ls -l /proc/self/fd | sed -n 's/.* \\([0-9]*\\) -> /\\1 /p' > {}", file.display())),
        );
        bundle.run().well();
        let fds = value(bundle.rootfs("fds")).expect("the list");
        // and the directory that ls reads
        let lines = fds.lines().filter(|line| !line.contains(" /proc/"));
        let numbers: Vec<_> = lines.filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(numbers, ["0", "1", "2"], "{kind}: {fds}");
    }
}
