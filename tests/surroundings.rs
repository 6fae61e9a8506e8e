//! What surrounds the runtime: the state in which its caller leaves it, the files that it is told to write, what it says and
//! where, and its own binary.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use common::{Bundle, ORLOP, Outcome, outcome, value};
use serde_json::{Value, json};

/// `orlop run` by a shell that does something first.
fn run_after(bundle: &Bundle, before: &str) -> Outcome {
    let mut command = Command::new("timeout");
    command.args(["-k", "2", "30", "sh", "-c", &format!("{before}\nexec \"$@\""), "sh", ORLOP]);
    command.args(bundle.making("run", &[]).get_args()).stdin(Stdio::null());
    outcome(command)
}

/// No file of the runtime takes the place of a standard stream that the caller has closed.
#[test]
fn closed_standard_streams_are_no_files_of_the_runtime() {
    for closed in [&[0][..], &[1], &[2], &[0, 1], &[0, 1, 2]] {
        let bundle = Bundle::script("said=$(for n in 0 1 2; do readlink /proc/$$/fd/$n; done); echo \"$said\" >/said");
        let redirections: String = closed.iter().map(|number| format!(" {number}>&-")).collect();
        let ran = run_after(&bundle, &format!("exec{redirections}"));
        assert_eq!(ran.code, Some(0), "{closed:?}: {}", ran.stderr());
        let said = value(bundle.rootfs("said")).expect("what it found");
        let found = |number| match closed.contains(&number) || number == 0 {
            true => "/dev/null",
            false => "/memfd:output (deleted)",
        };
        assert_eq!(said, [0, 1, 2].map(found).join("\n"), "{closed:?}");
    }
}

#[test]
fn an_odd_caller_changes_nothing() {
    let status =
        "grep -E '^(SigBlk|SigIgn|Umask)' /proc/self/status; ulimit -n; ulimit -s; pwd; env | cut -d= -f1 | sort";
    let bundle = Bundle::script(status).edit(|config| config["process"]["user"]["umask"] = json!(0o22));
    let usual = bundle.run().well() + "\n";
    for line in ["Umask:\t0022", "SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000", "/"] {
        assert!(usual.lines().any(|other| other == line), "{line}: {usual}");
    }
    let gone = format!("mkdir {0}/gone && cd {0}/gone && rmdir {0}/gone", bundle.dir.display());
    for before in [
        gone.as_str(),
        "umask 000",
        "umask 077",
        "trap '' HUP INT TERM PIPE USR1",
        // A shell ignores no SIGCHLD, and blocks no signal.
        "exec env --ignore-signal=CHLD --block-signal=CHLD,TERM,USR1 \"$@\"",
        "ulimit -S -s unlimited 2>/dev/null || :; ulimit -S -s 1024",
        "export LD_PRELOAD=/nonexistent LD_LIBRARY_PATH=/nonexistent",
        "export HUGE=$(head -c 100000 /dev/zero | tr '\\0' x)",
    ] {
        let ran = run_after(&bundle, before);
        assert_eq!(ran.code, Some(0), "{before}: {}", ran.stderr());
        let stack = |said: &str| {
            said.lines().filter(|line| !before.contains("-s ") || line.parse::<u64>().is_err()).collect::<String>()
        };
        assert_eq!(stack(&ran.stdout()), stack(&usual), "{before}: {}", ran.stderr());
    }
}

/// Not even a name of its own (execve(2), argv[0] of no length), or too few descriptors: it works, or says why.
#[test]
fn a_caller_without_a_name_or_descriptors() {
    use std::os::unix::process::CommandExt;
    let bundle = Bundle::script("echo ran");
    let mut command = Command::new(ORLOP);
    command.arg0("").args(bundle.making("run", &[]).get_args()).stdin(Stdio::null());
    assert_eq!(outcome(command).well(), "ran");
    let bundle = bundle.edit(|config| config["linux"]["cgroupsPath"] = json!("/of-a-poor-caller"));
    for limit in 4..12 {
        let said = run_after(&bundle, &format!("ulimit -S -n {limit}")).fails("too many open files");
        assert!(said.matches("orlop: ").count() == 1 && !said.contains("panicked"), "{limit}: {said}");
        assert!(!bundle.state_dir().exists(), "{limit}");
        assert!(!fs::exists("/sys/fs/cgroup/of-a-poor-caller").expect("a look"), "{limit}: a cgroup is left");
    }
    assert_eq!(run_after(&bundle, "ulimit -S -n 32").well(), "ran");
}

/// Names that the caller gives, and that others may have planted: no link is followed, and no reader waited for.
#[test]
fn files_that_the_runtime_is_told_to_write() {
    let bundle = Bundle::sleeper();
    let decoy = bundle.dir.join("decoy");
    fs::write(&decoy, "kept").expect("a decoy");
    let pid_file = bundle.dir.join("pid");
    symlink(&decoy, &pid_file).expect("a link");
    outcome(bundle.making("create", &["--pid-file", pid_file.to_str().expect("UTF-8")])).well();
    assert_eq!(value(&pid_file).expect("the pid file"), bundle.pid().to_string());
    bundle.on("delete", &["--force"]).well();

    let failing = |log: &std::path::Path| {
        let mut command = Command::new("timeout");
        command.args(["20", ORLOP, "--log"]).arg(log).args(["--root", "/nonexistent", "state", "none"]);
        outcome(command).fails("container does not exist")
    };
    let log = bundle.dir.join("log");
    symlink(&decoy, &log).expect("a link");
    assert!(failing(&log).contains("write the log"));
    fs::remove_file(&log).expect("the link");
    nix::unistd::mkfifo(&log, nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    assert!(failing(&log).contains("write the log"));
    assert!(failing(&bundle.dir).contains("write the log"), "a directory");
    assert_eq!(value(&decoy).expect("the decoy"), "kept");
}

/// One record for each event, whatever is in it.
#[test]
fn a_log_has_no_lines_of_others() {
    let forged = "/x\n{\"level\":\"error\",\"msg\":\"forged\"}\u{1b}[2J\u{202e}";
    let bundle = Bundle::new().args(&[forged]);
    for format in ["json", "text"] {
        let log = bundle.dir.join(format!("log.{format}"));
        let mut command = bundle.command(&["--debug", "--log-format", format, "--log"]);
        command.arg(&log).args(["run", "--bundle"]).arg(&bundle.dir).arg(&bundle.id);
        let said = outcome(command).fails("forged");
        let text = fs::read_to_string(&log).expect("the log");
        for line in text.lines() {
            match format {
                "json" => {
                    assert!(serde_json::from_str::<Value>(line).is_ok_and(|record| record["msg"] != "forged"), "{line}")
                }
                _ => assert!(line.starts_with("time=\""), "{line}"),
            }
        }
        for shown in [&said, &text] {
            assert!(!shown.contains(['\u{1b}', '\u{202e}']), "{shown:?}");
        }
    }
}

/// A bundle's path is its maker's to choose, and `list` has a line per container.
#[test]
fn a_list_has_no_escapes_and_no_lines_of_others() {
    let bundle = Bundle::sleeper();
    let odd = bundle.dir.join("a\u{1b}[31m\u{202e}\nforged 1 running");
    fs::create_dir(&odd).expect("a directory");
    let mut config = bundle.config.clone();
    config["root"]["path"] = json!(bundle.rootfs(""));
    fs::write(odd.join("config.json"), config.to_string()).expect("config.json");
    let mut create = bundle.command(&["create", "--bundle"]);
    create.arg(&odd).arg(&bundle.id);
    outcome(create).well();
    let table = outcome(bundle.command(&["list"])).well();
    assert_eq!(table.lines().count(), 2, "{table:?}");
    assert!(!table.contains(['\u{1b}', '\u{202e}']), "{table:?}");
    let all: Value = serde_json::from_str(&outcome(bundle.command(&["list", "-f", "json"])).well()).expect("JSON");
    assert_eq!(all[0]["bundle"], odd.to_str().expect("UTF-8"), "JSON has it as it is");
}

/// A warning has words of the configuration, too.
#[test]
fn a_warning_has_no_escapes() {
    let unknown = "CAP_\u{1b}[31m\u{202e}";
    let bundle = Bundle::new().edit(|config| config["process"]["capabilities"]["bounding"] = json!([unknown]));
    let said = bundle.run().stderr();
    assert!(said.contains("orlop: warning: ") && !said.contains(['\u{1b}', '\u{202e}']), "{said:?}");
}

/// Values of the environment are secrets more often than not.
#[test]
fn no_value_of_the_environment_is_said() {
    let secret = "hunter2-of-the-test";
    let bundle = Bundle::new().args(&["/nonexistent"]).edit(|config| {
        config["process"]["env"] = json!(["PATH=/bin", format!("TOKEN={secret}")]);
    });
    let log = bundle.dir.join("log");
    let mut command = bundle.command(&["--debug", "--log"]);
    command.arg(&log).args(["run", "--bundle"]).arg(&bundle.dir).arg(&bundle.id).env("CALLERS_TOKEN", secret);
    let said = outcome(command).fails("/nonexistent");
    assert!(!said.contains(secret), "{said}");
    assert!(!fs::read_to_string(&log).expect("the log").contains(secret));
    // Wrong in a place beside it, so that a part of the configuration is quoted.
    let bundle = bundle.edit(|config| config["process"]["env"].as_array_mut().expect("env").push(json!(7)));
    assert!(!bundle.run().fails("/process/env/2").contains(secret));
}

/// An abstract socket belongs to a network namespace, and a container may have its host's (CVE-2020-15257).
#[test]
fn the_runtime_has_no_abstract_socket_and_the_container_not_the_hosts() {
    use std::os::linux::net::SocketAddrExt;
    let name = format!("orlop-canary-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).expect("a name");
    let _canary = UnixListener::bind_addr(&address).expect("bind");
    let sockets = |text: &str| text.lines().filter(|line| line.contains('@')).map(str::to_owned).collect::<Vec<_>>();
    let bundle = Bundle::sleeper();
    bundle.create();
    let host = sockets(&fs::read_to_string("/proc/net/unix").expect("the host's sockets"));
    assert!(host.iter().any(|line| line.contains(&name)), "{host:?}");
    // Whatever their names: those that are open in the process that waits, by their inodes (proc_net_unix(5)).
    let links = fs::read_dir(format!("/proc/{}/fd", bundle.pid())).expect("descriptors").flatten();
    let held: Vec<_> =
        links.filter_map(|entry| fs::read_link(entry.path()).ok()?.to_str().map(str::to_owned)).collect();
    assert!(held.iter().any(|file| file.starts_with("socket:[")), "{held:?}");
    let inode = |line: &String| format!("socket:[{}]", line.split_whitespace().nth(6).unwrap_or_default());
    assert!(!host.iter().any(|line| held.contains(&inode(line))), "{host:?}");
    let inside = sockets(&bundle.inside("cat /proc/net/unix"));
    assert!(inside.is_empty(), "{inside:?}");
}

/// By readelf(1): no interpreter and no library paths, position independent, nothing both written and executed, and what the
/// loader has written is read-only afterwards.
#[test]
fn the_binary_is_static_and_hardened() {
    use std::os::unix::fs::PermissionsExt;
    let mut readelf = Command::new("readelf");
    readelf.args(["--wide", "--file-header", "--program-headers", "--dynamic", ORLOP]);
    let said = outcome(readelf).well();
    let headers = |kind: &str| said.lines().filter(|line| line.trim_start().starts_with(kind)).collect::<Vec<_>>();
    assert!(headers("Type:")[0].contains("DYN"), "{said}");
    assert!(headers("INTERP").is_empty() && !headers("GNU_RELRO").is_empty(), "{said}");
    for absent in ["(NEEDED)", "(RPATH)", "(RUNPATH)", "(TEXTREL)"] {
        assert!(!said.contains(absent), "{absent}");
    }
    let flags = |line: &&str| line.split_whitespace().skip(6).collect::<String>();
    for header in headers("LOAD").iter().chain(&headers("GNU_STACK")) {
        assert!(!(flags(header).contains('W') && flags(header).contains('E')), "{header}");
    }
    assert_eq!(fs::metadata(ORLOP).expect("the binary").permissions().mode() & 0o6000, 0);
}

/// Other users list neither the containers nor what belongs to one.
#[test]
fn the_state_is_out_of_the_sight_of_other_users() {
    let bundle = Bundle::sleeper();
    bundle.create();
    let (root, own) = (bundle.store.display(), bundle.state_dir());
    let own = own.display();
    let files = ["config.json", "state.json", "report"].map(|name| format!("cat {own}/{name}"));
    for look in [format!("ls {root}"), format!("ls {own}"), format!(": >>{own}/exec.fifo")].into_iter().chain(files) {
        let mut other = Command::new("setpriv");
        other.args(["--reuid", "1234", "--regid", "1234", "--clear-groups", "sh", "-c", &look]);
        outcome(other).fails("ermission denied");
    }
}

/// Hooks that do not read, end by a signal, or close what they have.
#[test]
fn hooks_that_behave_badly() {
    let hook = |script: &str| json!({"path": "/bin/sh", "args": ["sh", "-c", script]});
    // More than a pipe holds: who does not read it must not hold up the runtime.
    let long: Value = (0..2000)
        .map(|number| (format!("a{number}"), json!("x".repeat(100))))
        .collect::<serde_json::Map<_, _>>()
        .into();
    for (kind, script, why) in [
        ("createRuntime", "exit 0", None),
        ("createRuntime", "exec <&- >&- 2>&-; exit 0", None),
        ("createContainer", "exec <&- >&- 2>&-; exit 0", None),
        ("createRuntime", "kill -SEGV $$", Some("hook #0: signal 11")),
        ("prestart", "kill -KILL $$", Some("hook #0: signal 9")),
        ("createContainer", "kill -KILL $$", Some("hook #0: signal 9")),
    ] {
        let bundle = Bundle::script("echo ran").edit(|config| {
            config["annotations"] = long.clone();
            config["hooks"] = json!({kind: [hook(script)]});
        });
        let ran = bundle.run();
        match why {
            None => assert_eq!(ran.well(), "ran", "{kind} {script}"),
            Some(why) => drop(ran.fails(why)),
        }
        assert!(!bundle.state_dir().exists(), "{kind} {script}");
    }
}

/// Devices, options and a config.json that are odd: refused in place, or made inside.
#[test]
fn odd_values_of_a_configuration() {
    let device =
        |path: &str, major: i64| json!([{"path": path, "type": "c", "major": major, "minor": 3, "fileMode": 438}]);
    let decoy = |bundle: &Bundle| bundle.dir.join("decoy");
    let climbing = Bundle::new();
    let out = format!("/dev/../../../../../../..{}", decoy(&climbing).display());
    let climbing = climbing.edit(|config| config["linux"]["devices"] = device(&out, 1));
    climbing.run().fails("contains \"..\", from /linux/devices/0/path");
    assert!(!decoy(&climbing).exists(), "a device was made outside");
    for (path, major, why) in [
        ("dev/x", 1, "is not an absolute path, from /linux/devices/0/path"),
        ("", 1, "is not an absolute path, from /linux/devices/0/path"),
        ("/dev/x", -1, "is not between 0 and 4095, from /linux/devices/0/major"),
        ("/dev/x", 1 << 40, "is not between 0 and 4095, from /linux/devices/0/major"),
        ("/dev", 1, "the file that is there is another one: mknodat: file exists, from /linux/devices/0"),
        ("/", 1, "not a file name: /: openat2: invalid argument, from /linux/devices/0"),
    ] {
        Bundle::new().edit(|config| config["linux"]["devices"] = device(path, major)).run().fails(why);
    }
    for (option, why) in [
        ("x".repeat(5000), "invalid argument, from /mounts/7"),
        ("size=1m,bogus=1".into(), "Unknown parameter 'bogus'"),
        ("size=\u{1b}".into(), "Bad value for 'size'"),
        ("=".into(), "has no name before its value, from /mounts/7/options/0"),
        ("size".into(), "Bad value for 'size'"),
    ] {
        let bundle = Bundle::new().edit(|config| {
            let mount = json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": [option]});
            config["mounts"].as_array_mut().expect("mounts").push(mount);
        });
        assert!(bundle.run().fails(why).contains("from /mounts/7"), "{option:?}");
    }
    let zero = Bundle::new();
    fs::remove_file(zero.dir.join("config.json")).expect("config.json");
    symlink("/dev/zero", zero.dir.join("config.json")).expect("a link");
    zero.run().fails("config.json is a device, not a regular file");
}
