//! A container that takes all it can get: the runtime's own memory and time stay bounded, and it can be ended.

mod common;
#[path = "common/mountinfo.rs"]
mod mountinfo;

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Bundle, alive, begin, outcome, proc_status, value, wait};
use mountinfo::HostMount;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

/// `VmRSS` of a process in kilobytes.
fn resident(pid: u32) -> u64 {
    let text = proc_status(pid, "VmRSS");
    text.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{text}"))
}

/// The bytes that a process has read so far (proc_pid_io(5)).
fn bytes_read(pid: u32) -> u64 {
    let text = value(format!("/proc/{pid}/io")).expect("io");
    let count = text.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse().ok());
    count.unwrap_or_else(|| panic!("{text}"))
}

/// Waits until a runtime whose output nobody reads takes no more of what its container says; looks at it meanwhile.
fn until_it_stops_reading(run: u32, mut look: impl FnMut()) {
    const PIPE: u64 = 1 << 16;
    let deadline = Instant::now() + Duration::from_secs(20);
    let (mut count, mut since) = (0, Instant::now());
    while count < PIPE || since.elapsed() < Duration::from_millis(300) {
        assert!(Instant::now() < deadline, "{count} bytes were read, and nobody has taken them");
        look();
        let now = bytes_read(run);
        if now != count {
            (count, since) = (now, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What nobody reads in time stays with the container, which waits: no line is too long, and no buffer grows.
#[test]
fn a_flood_of_output_takes_no_memory_of_the_runtime() {
    for flood in ["cat /dev/zero", "yes"] {
        let bundle = Bundle::script(flood).edit(|config| config["process"]["terminal"] = json!(true));
        let mut command = bundle.making("run", &[]);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut run = command.spawn().expect("orlop");
        let mut output = run.stdout.take().expect("a pipe");
        let mut bytes = vec![0; 64 << 10];
        bundle.await_status("running");
        let (mut seen, least, mut most) = (0, resident(run.id()), 0);
        until_it_stops_reading(run.id(), || {
            let now = resident(run.id());
            assert!(now < least + 2048, "{flood}: from {least} to {now} kB, and nobody reads");
        });
        let deadline = Instant::now() + Duration::from_secs(60);
        while seen < 1 << 18 {
            assert!(Instant::now() < deadline, "{flood}: only {seen} bytes came");
            seen += output.read(&mut bytes).expect("read");
            most = most.max(resident(run.id()));
            std::thread::sleep(Duration::from_millis(1));
        }
        bundle.on("kill", &["KILL"]).well();
        drop(output);
        assert_eq!(run.wait().expect("wait").code(), Some(137), "{flood}");
        assert!(most < least + 2048, "{flood}: from {least} to {most} kB while {seen} bytes went through");
    }
}

/// CVE-2026-53495: what stays behind holds the output of exec, and not exec.
#[test]
fn an_exec_ends_with_its_process_whoever_holds_its_output() {
    let bundle = Bundle::sleeper();
    bundle.up();
    for tty in [false, true] {
        let script = "trap '' HUP; sleep 1000 & echo stays";
        let options: &[&str] = if tty { &["exec", "-t", &bundle.id] } else { &["exec", &bundle.id] };
        let mut command = bundle.command(&[options, &["sh", "-c", script]].concat());
        command.stdout(Stdio::piped());
        let mut exec = command.spawn().expect("orlop");
        let mut said = [0; 5];
        exec.stdout.as_mut().expect("a pipe").read_exact(&mut said).expect("read");
        assert_eq!(&said, b"stays");
        let deadline = Instant::now() + Duration::from_secs(10);
        let status = loop {
            match exec.try_wait().expect("wait") {
                Some(status) => break status,
                None => assert!(Instant::now() < deadline, "tty {tty}: exec waits for what it has started"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(status.code(), Some(0), "tty {tty}");
    }
    let pids: Vec<u32> = serde_json::from_str(&bundle.processes()).expect("JSON");
    assert_eq!(pids.len(), 3, "both stay behind");
    bundle.on("delete", &["--force"]).well();
    assert!(!pids.into_iter().any(alive));
}

/// Four loops on what processors there are: paused at once, and killed while paused.
#[test]
fn processes_that_never_wait_are_paused_and_killed() {
    let bundle = Bundle::script("for i in 1 2 3; do while :; do :; done & done; while :; do :; done");
    bundle.up();
    let pids = || serde_json::from_str::<Vec<u32>>(&bundle.processes()).expect("JSON");
    wait(|| pids().len() == 4);
    let pids = pids();
    bundle.on("pause", &[]).well();
    let ticks = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
        stat.rsplit(')')
            .next()
            .expect("fields")
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let used = || pids.iter().map(ticks).collect::<Vec<_>>();
    let before = used();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(used(), before, "paused, and they run");
    bundle.on("kill", &["KILL"]).well();
    bundle.await_status("stopped");
    wait(|| !pids.iter().any(|pid| alive(*pid)));
}

/// More than execve(2) takes (its page, MAX_ARG_STRLEN and ARG_MAX): one clear error.
#[test]
fn arguments_and_variables_beyond_the_kernels_limit() {
    let one = "x".repeat(140_000);
    let many: Vec<_> = (0..40_000).map(|number| format!("V{number}={}", "y".repeat(80))).collect();
    for (what, bundle) in [
        ("argument", Bundle::new().args(&["true", &one])),
        ("variables", Bundle::new().edit(|config| config["process"]["env"] = json!(many))),
    ] {
        let said = bundle.run().fails("argument list too long");
        assert_eq!(said.matches("orlop: ").count(), 1, "{what}: {}", said.chars().take(300).collect::<String>());
        assert!(said.len() < 4096, "{what}: {} bytes", said.len());
        assert!(!bundle.state_dir().exists());
    }
}

/// As many file systems as an engine will ever ask for, and as many again.
#[test]
fn a_thousand_mounts_are_made_and_gone() {
    let bundle = Bundle::script("grep -c ' /many/' /proc/self/mountinfo").edit(|config| {
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        mounts.extend((0..1000).map(|number| {
            let options = json!(["size=4k", "nr_inodes=2"]);
            json!({"destination": format!("/many/{number}"), "type": "tmpfs", "source": "tmpfs", "options": options})
        }));
    });
    // As a host has it under systemd: what the container mounts would be seen there.
    let gone_first = HostMount::bind(&bundle.rootfs(""), MsFlags::empty());
    gone_first.change(MsFlags::MS_SHARED);
    let before = value("/proc/self/mountinfo").expect("mountinfo");
    let mut run = Command::new("timeout");
    run.arg("60").arg(common::ORLOP).args(bundle.making("run", &[]).get_args()).stdin(Stdio::null());
    assert_eq!(outcome(run).well(), "1000");
    assert_eq!(value("/proc/self/mountinfo").expect("mountinfo"), before);
}

/// A host whose table of mounts is long, and whose cgroup2 is where only that table says, after all of them.
#[test]
fn thousands_of_mounts_of_the_host_hide_nothing() {
    let bundle = Bundle::script("cat /proc/self/cgroup").edit(|config| {
        config["linux"]["cgroupsPath"] = json!("/of-many");
        // In a namespace of its own every cgroup is the root.
        config["linux"]["namespaces"].as_array_mut().expect("namespaces").retain(|one| one["type"] != "cgroup");
    });
    let place = bundle.dir.join("many");
    let _gone_first = HostMount::tmpfs(&place, MsFlags::empty());
    let (below, elsewhere) = (place.join("below"), place.join("elsewhere"));
    for directory in [&below, &elsewhere] {
        fs::create_dir(directory).expect("a directory");
    }
    for _ in 0..3000 {
        mount(Some(&below), &below, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("bind");
    }
    let script = "mount --bind /sys/fs/cgroup $0 && mount -t tmpfs none /sys/fs/cgroup && exec timeout 60 \"$@\"";
    let mut run = Command::new("unshare");
    run.args(["--mount", "sh", "-c", script]).arg(&elsewhere).arg(common::ORLOP);
    run.args(bundle.making("run", &[]).get_args()).stdin(Stdio::null());
    let said = outcome(run).well();
    assert!(said.lines().any(|line| line == "0::/of-many"), "{said}");
}

/// It blocks no other command, not even one on the same container, and its runtime hears signals.
#[test]
fn a_reader_that_never_reads_holds_up_its_container_alone() {
    let script = "trap ': >/tmp/heard' USR1; yes & while :; do wait; done";
    let flooding = Bundle::script(script).edit(|config| config["process"]["terminal"] = json!(true));
    let mut command = flooding.making("run", &[]);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut run = command.spawn().expect("orlop");
    flooding.await_status("running");
    until_it_stops_reading(run.id(), || ());
    let other = Bundle::script("echo free");
    assert_eq!(begin(other.making("run", &[])).end().well(), "free");
    assert_eq!(flooding.inside("echo in"), "in");
    // These change the container, and so want its lock.
    for verb in ["pause", "resume"] {
        flooding.on(verb, &[]).well();
    }
    kill(Pid::from_raw(run.id() as i32), Signal::SIGUSR1).expect("kill");
    wait(|| flooding.rootfs("tmp/heard").exists());
    flooding.on("kill", &["KILL"]).well();
    // The one who never reads goes away at last.
    drop(run.stdout.take());
    assert_eq!(run.wait().expect("wait").code(), Some(137));
}
