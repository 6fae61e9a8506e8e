//! The units and commands of docs/systemd.md, in the machine with systemd.

mod common;

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{ORLOP, alive, cgroup_of, outcome, wait};

const PAGE: &str = include_str!("../docs/systemd.md");

/// A block of the page, and the file that it is, if the line above it names one.
struct Block<'a> {
    file: Option<&'a str>,
    language: &'a str,
    text: &'a str,
}

fn blocks(page: &str) -> Vec<Block<'_>> {
    let parts: Vec<&str> = page.split("```").collect();
    parts
        .chunks_exact(2)
        .map(|pair| {
            let (language, text) = pair[1].split_once('\n').expect("a language");
            let above = pair[0].trim_end().lines().last().unwrap_or_default();
            let file = above.strip_prefix('`').and_then(|rest| rest.strip_suffix("`:"));
            Block { file, language, text }
        })
        .collect()
}

/// Writes the files of a part of the page, runs its commands as one script, and looks for each text that it shows.
fn follow(part: &str, home: &str, runner: &[&str]) {
    let blocks = blocks(part);
    for block in &blocks {
        if let Some(file) = block.file {
            let path = file.replace('~', home);
            fs::create_dir_all(Path::new(&path).parent().expect("a directory")).expect(file);
            fs::write(path, block.text).expect(file);
        }
    }
    let of = |language| blocks.iter().filter(move |block| block.file.is_none() && block.language == language);
    let script: String = of("sh").map(|block| block.text).collect();
    let mut command = Command::new(runner[0]);
    command.args(&runner[1..]).args(["sh", "-euc", &script]).env("HOME", home).stdin(Stdio::null());
    let done = outcome(command);
    let said = format!("{}{}", done.stdout(), done.stderr());
    let (texts, failed) = (of("text").map(|block| block.text), done.code != Some(0));
    let missing: Vec<_> = texts.filter(|text| !said.contains(text)).collect();
    if failed || !missing.is_empty() {
        panic!("exit status {:?}, without {missing:?}: {said}{}", done.code, journal());
    }
}

/// Both programs, each in one step: another test may execute the one that is there.
fn install() {
    for program in [ORLOP, env!("CARGO_BIN_EXE_orlop-shim")] {
        let name = Path::new(program).file_name().expect("a name").to_str().expect("UTF-8");
        let draft = format!("/usr/local/bin/.{name}.{}", std::process::id());
        fs::copy(program, &draft).expect("a copy");
        fs::rename(draft, format!("/usr/local/bin/{name}")).expect("install");
    }
}

fn systemctl(args: &[&str]) -> String {
    let mut command = Command::new("systemctl");
    command.args(args);
    let done = outcome(command);
    if done.code != Some(0) {
        println!("{}", journal());
    }
    done.well()
}

fn journal() -> String {
    let journal =
        Command::new("journalctl").args(["--lines", "60", "--output", "short-precise"]).output().expect("journalctl");
    String::from_utf8_lossy(&journal.stdout).into_owned()
}

#[test]
#[ignore = "needs systemd, which its machine has"]
fn units_and_commands_of_systemd_md_do_what_it_says() {
    // What an attempt that failed has left.
    let _ = Command::new("systemctl")
        .args(["stop", "hello", "own", "orlop@hello", "orlop-keep@hello", "words.socket", "words"])
        .output();
    for directory in ["/var/lib/hello", "/home/user/mine"] {
        let _ = fs::remove_dir_all(directory);
    }
    install();
    let (machine, user) = PAGE.split_once("## As an ordinary user").expect("two parts");
    follow(machine, "/root", &["env"]);
    let left = || ["hello", "own", "words"].iter().any(|id| Path::new("/run/orlop").join(id).exists());
    assert!(!left());

    // What ends the container when orlop can't.
    systemctl(&["start", "hello"]);
    let pid = systemctl(&["show", "hello", "--property", "MainPID", "--value"]);
    let mut command = Command::new("orlop");
    command.args(["state", "hello"]);
    let state: serde_json::Value = serde_json::from_str(&outcome(command).well()).expect("JSON");
    let program = state["pid"].as_u64().expect("a pid") as u32;
    assert_ne!(pid, program.to_string());
    let scope = cgroup_of(program);
    systemctl(&["kill", "--kill-who", "main", "--signal", "KILL", "hello"]);
    wait(|| !alive(program) && !left());
    assert!(!scope.exists());

    // What systemd's journal doubts.
    systemctl(&["start", "own"]);
    let mut command = Command::new("orlop");
    command.args(["kill", "own"]);
    outcome(command).well();
    wait(|| systemctl(&["show", "own", "--property", "ActiveState"]) == "ActiveState=inactive");
    assert!(!left());

    // Who watches the supervisor: one that is stopped is ended with its container, and both begin anew.
    systemctl(&["start", "orlop@hello"]);
    let main = || systemctl(&["show", "orlop@hello", "--property", "MainPID", "--value"]);
    let before = main();
    let mut command = Command::new("orlop");
    command.args(["state", "hello"]);
    let state: serde_json::Value = serde_json::from_str(&outcome(command).well()).expect("JSON");
    let program = state["pid"].as_u64().expect("a pid") as u32;
    systemctl(&["kill", "--kill-who", "main", "--signal", "STOP", "orlop@hello"]);
    let restarts = || systemctl(&["show", "orlop@hello", "--property", "NRestarts", "--value"]);
    let begun = std::time::Instant::now();
    while restarts() == "0" {
        assert!(begun.elapsed().as_secs() < 120, "the watchdog says nothing");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    assert!(!alive(program));
    wait(|| main() != before && systemctl(&["show", "orlop@hello", "--property", "SubState"]) == "SubState=running");
    systemctl(&["stop", "orlop@hello"]);
    assert!(!left());

    // One that outlives it, and whose pidfd is kept meanwhile.
    systemctl(&["start", "orlop-keep@hello"]);
    let pid = || {
        let mut command = Command::new("orlop");
        command.args(["state", "hello"]);
        serde_json::from_str::<serde_json::Value>(&outcome(command).well()).expect("JSON")["pid"].clone()
    };
    let keep = |property| systemctl(&["show", "orlop-keep@hello", "--property", property, "--value"]);
    let (before, supervisor) = (pid(), keep("MainPID"));
    assert_eq!(keep("NFileDescriptorStore"), "1");
    systemctl(&["kill", "--kill-who", "main", "--signal", "KILL", "orlop-keep@hello"]);
    wait(|| keep("MainPID") != supervisor && keep("SubState") == "running");
    assert_eq!((pid(), keep("NFileDescriptorStore").as_str()), (before, "1"));
    systemctl(&["stop", "orlop-keep@hello"]);
    assert!(!left());

    let mut command = Command::new("loginctl");
    command.args(["enable-linger", "user"]);
    outcome(command).well();
    systemctl(&["start", "user@1000.service"]);
    let home = Path::new("/home/user");
    for directory in ["", ".config", ".config/systemd", ".config/systemd/user"] {
        fs::create_dir_all(home.join(directory)).expect("the user's directory");
        chown(home.join(directory), Some(1000), Some(1000)).expect("chown");
    }
    let run = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "env", "XDG_RUNTIME_DIR=/run/user/1000"];
    follow(user, "/home/user", &run);
}

/// systemd ends a supervisor that is stopped with its container, while the lease still lasts.
#[test]
#[ignore = "needs systemd, which its machine has"]
fn a_supervisor_that_can_not_fence_is_ended_with_its_container() {
    let page = include_str!("../docs/cluster/etcd.md");
    let unit = blocks(page).into_iter().find(|block| block.language == "ini").expect("a unit");
    // An emulated machine beside others is slower than the page's two seconds.
    let text = unit.text.replace("WatchdogSec=2", "WatchdogSec=10");
    assert_ne!(text, unit.text);
    fs::write(unit.file.expect("its name"), text).expect("the unit");
    // What an attempt that failed has left.
    let _ = Command::new("systemctl").args(["kill", "--signal", "KILL", "leased"]).output();
    let _ = Command::new("systemctl").args(["stop", "leased", "leasing"]).output();
    let home = Path::new("/var/lib/leased");
    for directory in [home, Path::new("/var/lib/leasing"), Path::new("/run/orlop-shim/leased")] {
        let _ = fs::remove_dir_all(directory);
    }
    install();
    let bundle = common::Bundle::sleeper().edit(|config| {
        config["linux"]["cgroupsPath"] = "/system.slice/leased.service/container".into();
        config["linux"]["resources"] = serde_json::json!({});
    });
    let health = serde_json::json!({"lease": {"etcd": "http://127.0.0.1:2379", "key": "/leased", "ttlSeconds": 60}});
    fs::write(bundle.dir.join("health.json"), health.to_string()).expect("health.json");
    let mut command = Command::new("cp");
    command.args(["-a"]).arg(&bundle.dir).arg(home);
    outcome(command).well();
    let mut command = Command::new("systemd-run");
    command.args(["--unit", "leasing", "etcd", "--data-dir", "/var/lib/leasing", "--unsafe-no-fsync"]);
    outcome(command).well();
    let ask = |path: &str, body: &str| {
        let mut command = Command::new("curl");
        command.args(["-s", "-m", "10", "-d", body, &format!("http://127.0.0.1:2379/v3/{path}")]);
        serde_json::from_str::<serde_json::Value>(&outcome(command).stdout()).unwrap_or_default()
    };
    systemctl(&["daemon-reload"]);
    systemctl(&["start", "leased"]);
    let main = || systemctl(&["show", "leased", "--property", "MainPID", "--value"]);
    let before = main();
    let mut command = Command::new("orlop");
    command.args(["state", "leased"]);
    let state: serde_json::Value = serde_json::from_str(&outcome(command).well()).expect("JSON");
    let program = state["pid"].as_u64().expect("a pid") as u32;
    assert!(cgroup_of(program).starts_with("/sys/fs/cgroup/system.slice/leased.service"));
    systemctl(&["kill", "--kill-who", "main", "--signal", "STOP", "leased"]);
    let begun = std::time::Instant::now();
    while alive(program) {
        assert!(begun.elapsed().as_secs() < 60, "nobody ends it");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    // Its own lease, to the last second: /leased in base64.
    let key = ask("kv/range", r#"{"key": "L2xlYXNlZA=="}"#);
    assert_eq!(key["count"], "1", "the lease has ended before: {key}");
    assert_ne!(main(), before);
    systemctl(&["stop", "leased", "leasing"]);
}
