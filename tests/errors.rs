//! Bad input: one clear error that names the place, and nothing left behind.

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use common::{Bundle, Outcome, outcome};
use serde_json::{Value, json};

/// Nothing is left of a container that was not made: no state, no cgroup, no mount, no process.
#[track_caller]
fn nothing_left(bundle: &Bundle) {
    assert!(!bundle.state_dir().exists(), "state");
    assert!(!PathBuf::from(format!("/sys/fs/cgroup/{}", bundle.id)).exists(), "cgroup");
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    assert!(!mounts.contains(bundle.dir.to_str().unwrap()), "mount");
    let root = fs::canonicalize(bundle.rootfs("")).unwrap_or_default();
    for process in fs::read_dir("/proc").expect("/proc").flatten() {
        let of = fs::read_link(process.path().join("root")).unwrap_or_default();
        assert!(of != root || root == Path::new("/"), "process {:?}", process.file_name());
    }
}

/// `run` and `create` of the bundle fail with this text and, if it is given, this JSON pointer.
#[track_caller]
fn refused(bundle: &Bundle, text: &str, pointer: &str) -> String {
    let mut said = String::new();
    for verb in ["create", "run"] {
        let failed: Outcome = outcome(bundle.making(verb, &[]));
        assert_eq!(failed.code, Some(1), "{verb}: {}", failed.stderr());
        said = failed.fails(text);
        assert!(pointer.is_empty() || said.contains(pointer), "{verb}: no {pointer} in {said}");
        assert_eq!(said.matches("orlop: ").count(), 1, "one error: {said}");
        assert!(!said.contains("panicked"), "{said}");
        nothing_left(bundle);
    }
    check_finds(bundle, text, pointer);
    said
}

/// `check` has a finding at this pointer, above it or below it, or with this text.
#[track_caller]
fn check_finds(bundle: &Bundle, text: &str, pointer: &str) {
    let mut command = bundle.command(&["check", "--format", "json", "--bundle"]);
    command.arg(&bundle.dir);
    let said = outcome(command).stdout();
    let report: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    let all = report["findings"].as_array().expect("findings");
    let found = all.iter().filter(|finding| finding["severity"] != "note").any(|finding| {
        let at = finding["pointer"].as_str().expect("a pointer");
        let near = !pointer.is_empty() && !at.is_empty() && (at.starts_with(pointer) || pointer.starts_with(at));
        near || pointer.is_empty()
            && finding.to_string().contains(&json!(text).to_string().trim_matches('"').to_owned())
    });
    assert!(found, "check does not find {text:?} at {pointer:?}: {said}");
}

fn raw(config: &[u8]) -> Bundle {
    let bundle = Bundle::new();
    fs::write(bundle.dir.join("config.json"), config).expect("config.json");
    bundle
}

fn edited(change: impl FnOnce(&mut Value)) -> Bundle {
    Bundle::new().edit(change)
}

#[test]
fn a_config_that_is_missing_or_no_file() {
    let bundle = Bundle::new();
    let config = bundle.dir.join("config.json");
    fs::remove_file(&config).expect("remove");
    refused(&bundle, "config.json", "");
    fs::create_dir(&config).expect("a directory");
    refused(&bundle, "directory", "");
    fs::remove_dir(&config).expect("remove");
    nix::unistd::mkfifo(&config, nix::sys::stat::Mode::S_IRUSR).expect("mkfifo");
    refused(&bundle, "FIFO", "");
    fs::remove_file(&config).expect("remove");
    symlink("config.json", &config).expect("a loop");
    refused(&bundle, "config.json", "");
}

#[test]
fn a_bundle_that_is_missing() {
    let bundle = Bundle::new();
    let mut command = bundle.command(&["run", "--bundle", "/nonexistent/bundle"]);
    command.arg(&bundle.id);
    outcome(command).fails("/nonexistent/bundle");
    nothing_left(&bundle);
}

#[test]
fn a_huge_config() {
    let bundle = Bundle::new();
    let file = fs::OpenOptions::new().write(true).open(bundle.dir.join("config.json")).expect("open");
    file.set_len(64 << 20).expect("64 MiB");
    refused(&bundle, "the limit is", "");
}

#[test]
fn a_deep_config() {
    let deep = format!("{{\"ociVersion\": {}", "[".repeat(1 << 20));
    refused(&raw(deep.as_bytes()), "config.json", "");
    let closed = format!("{{\"ociVersion\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    refused(&raw(closed.as_bytes()), "config.json", "");
}

#[test]
fn a_truncated_config_names_line_and_column() {
    let text = Bundle::new().config.to_string();
    refused(&raw(&text.as_bytes()[..text.len() / 2]), "line 1", "");
    refused(&raw(b""), "config.json", "");
    refused(&raw(b"[]"), "not a JSON object", "");
    refused(&raw(b"null"), "config.json", "");
}

#[test]
fn a_config_that_is_not_utf8() {
    let mut text = Bundle::new().config.to_string().into_bytes();
    let at = text.windows(4).position(|word| word == b"runc").expect("the hostname");
    text[at] = 0xff;
    refused(&raw(&text), "UTF-8", "");
}

#[test]
fn values_of_the_wrong_type() {
    for (pointer, new) in [
        ("/ociVersion", json!(1)),
        ("/process", json!([])),
        ("/process/args", json!("sh")),
        ("/process/args/0", json!(5)),
        ("/process/user/uid", json!("root")),
        ("/process/user/uid", json!(-1)),
        ("/process/terminal", json!("yes")),
        ("/root/path", json!(7)),
        ("/mounts", json!({})),
        ("/mounts/1/options", json!("ro")),
        ("/linux/namespaces/0/type", json!("pids")),
        ("/linux/resources/devices/0/allow", json!("no")),
        ("/process/rlimits/0/soft", json!(-5)),
        ("/hostname", json!(["a"])),
    ] {
        let bundle = edited(|config| *config.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = new);
        refused(&bundle, "", pointer);
    }
}

#[test]
fn what_must_be_there() {
    for (pointer, key, place) in [
        ("", "ociVersion", "/ociVersion"),
        ("", "process", "/process"),
        ("", "root", "/root"),
        ("/process", "args", "/process/args"),
        ("/process", "cwd", "/process/cwd"),
    ] {
        let bundle = edited(|config| {
            config.pointer_mut(pointer).and_then(Value::as_object_mut).expect("an object").remove(key);
        });
        refused(&bundle, "", place);
    }
    refused(&edited(|config| config["process"]["args"] = json!([])), "", "/process/args");
    refused(&edited(|config| config["process"]["cwd"] = json!("tmp")), "", "/process/cwd");
    refused(&edited(|config| config["process"]["cwd"] = json!("")), "", "/process/cwd");
    refused(&edited(|config| config["root"]["path"] = json!("")), "", "/root/path");
}

#[test]
fn a_root_file_system_that_is_missing() {
    let bundle = edited(|config| config["root"]["path"] = json!("nothing"));
    refused(&bundle, "no such file or directory", "/root/path");
    let bundle = edited(|config| config["root"]["path"] = json!("config.json"));
    refused(&bundle, "not a directory", "/root/path");
}

#[test]
fn paths_that_lead_out() {
    refused(&edited(|c| c["linux"]["cgroupsPath"] = json!("../../x")), "leaves", "/linux/cgroupsPath");
    refused(&edited(|c| c["linux"]["cgroupsPath"] = json!("/../x")), "leaves", "/linux/cgroupsPath");
    for sysctl in
        ["net/../../kernel/hostname", "net..ipv4", "net.ipv4/../../../etc/x", "../x", "kernel.shm_rmid_forced/x"]
    {
        refused(&edited(|c| c["linux"]["sysctl"] = json!({sysctl: "1"})), "", "/linux/sysctl/");
    }
    for hook in ["hook", "../hook", ""] {
        let bundle = edited(|c| c["hooks"] = json!({"prestart": [{"path": hook}]}));
        refused(&bundle, "absolute", "/hooks/prestart/0/path");
    }
    let bundle = Bundle::new();
    for id in ["../x", "a/b", "..", "/etc", "", "x\ny"] {
        let mut command = bundle.command(&["run", "--bundle"]);
        command.arg(&bundle.dir).arg(id);
        outcome(command).fails("container");
    }
    nothing_left(&bundle);
}

#[test]
fn mount_targets_stay_inside() {
    let bundle = Bundle::new();
    let outside = bundle.dir.join("outside");
    symlink("../../../../../../../../../../", bundle.rootfs("up")).expect("a link");
    let target = format!("/up{}", outside.display());
    let bundle = bundle.edit(|config| {
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        mounts.push(json!({"destination": target, "type": "tmpfs", "source": "tmpfs"}));
    });
    bundle.run().well();
    assert!(!outside.exists(), "a mount target was made outside");
    assert!(bundle.rootfs(outside.to_str().unwrap()).is_dir(), "made inside");
}

#[test]
fn a_mount_that_fails_is_named() {
    let bundle = edited(|config| {
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        mounts
            .push(json!({"destination": "/data", "type": "bind", "source": "/nonexistent/data", "options": ["bind"]}));
    });
    refused(&bundle, "/nonexistent/data", "/mounts/7");
    let bundle = edited(|config| {
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        mounts.push(json!({"destination": "/data", "type": "nosuchfs", "source": "none"}));
    });
    refused(&bundle, "nosuchfs", "/mounts/7");
}

#[test]
fn a_working_directory_that_cant_be_entered() {
    let bundle = Bundle::new().edit(|config| config["process"]["cwd"] = json!("/etc/passwd/x"));
    fs::write(bundle.rootfs("etc/passwd"), "").expect("passwd");
    refused(&bundle, "not a directory", "/process/cwd");
}

fn executing(args: &[&str]) -> Bundle {
    Bundle::new().args(args)
}

#[test]
fn a_program_that_is_not_found() {
    refused(&executing(&["nonexistent"]), "exec: \"nonexistent\": executable file not found in $PATH", "/process/args");
    refused(&executing(&["/nonexistent"]), "exec: \"/nonexistent\": stat /nonexistent: no such file or directory", "");
    refused(&executing(&["/etc"]), "exec: \"/etc\": is a directory: permission denied", "");
}

/// One directory is a search as well, whatever it is.
#[test]
fn a_program_that_is_not_in_the_only_directory_of_path() {
    for directory in ["/bin", "/bin/busybox"] {
        let bundle =
            executing(&["nonexistent"]).edit(|config| config["process"]["env"] = json!([format!("PATH={directory}")]));
        refused(&bundle, "exec: \"nonexistent\": executable file not found in $PATH", "/process/args");
    }
}

/// podman shows its user the one line of this in which it finds its words.
#[test]
fn an_error_is_one_line_where_no_terminal_is() {
    let said = executing(&["/etc"]).run().fails("is a directory");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn a_program_without_an_execute_bit() {
    let bundle = executing(&["/program"]);
    bundle.program("program", "#!/bin/sh\n");
    fs::set_permissions(bundle.rootfs("program"), fs::Permissions::from_mode(0o644)).expect("chmod");
    refused(&bundle, "exec: \"/program\": permission denied", "/process/args");
}

/// An execve that fails is an error of `run`, and of `start` when it comes to that only then.
#[track_caller]
fn execve_fails(bundle: &Bundle, texts: &[&str]) {
    let ran = outcome(bundle.making("run", &[]));
    texts.iter().for_each(|text| drop(ran.fails(text)));
    nothing_left(bundle);
    texts.iter().for_each(|text| check_finds(bundle, text, ""));
    bundle.create();
    let started = bundle.on("start", &[]);
    texts.iter().for_each(|text| drop(started.fails(text)));
    bundle.await_status("stopped");
    bundle.on("delete", &[]).well();
    nothing_left(bundle);
}

#[test]
fn a_missing_interpreter_of_a_script_is_named() {
    let bundle = executing(&["/program"]);
    bundle.program("program", "#!/usr/bin/nonexistent -x\n");
    execve_fails(&bundle, &["exec /program: no such file or directory", "/usr/bin/nonexistent does not exist"]);
}

#[test]
fn exec_names_a_missing_interpreter_too() {
    let bundle = Bundle::sleeper();
    bundle.program("program", "#!/usr/bin/nonexistent -x\n");
    bundle.up();
    let failed = bundle.on("exec", &["/program"]);
    let said = failed.fails("exec /program: no such file or directory");
    assert!(said.contains("/usr/bin/nonexistent does not exist"), "{said}");
    assert_eq!(failed.code, Some(255), "the status of exec's own failures, not the program's");
    assert_eq!(bundle.status(), "running");
}

/// `start` knows create's configuration, and not its options: they change how many steps come before the failed one.
#[test]
fn start_says_what_failed_after_a_create_with_options() {
    for options in
        [&["--no-new-keyring"][..], &["--no-pivot"], &["--preserve-fds", "0", "--no-new-keyring", "--no-pivot"]]
    {
        let bundle = executing(&["/program"]);
        bundle.program("program", "#!/usr/bin/nonexistent -x\n");
        outcome(bundle.making("create", options)).well();
        let said = bundle.on("start", &[]).fails("exec /program: no such file or directory");
        assert!(said.contains("/process/args"), "{options:?}: {said}");
    }
}

#[test]
fn a_script_with_dos_line_ends_is_told() {
    let bundle = executing(&["/program"]);
    bundle.program("program", "#!/bin/sh\r\necho\r\n");
    execve_fails(&bundle, &["no such file or directory", "CR LF", "/bin/sh\\r"]);
}

#[test]
fn a_missing_loader_is_named() {
    // the host's own, which is dynamically linked; the root file system has no loader
    let bundle = executing(&["/program"]);
    bundle.program("program", fs::read("/usr/bin/env").expect("a dynamic program"));
    execve_fails(&bundle, &["no such file or directory", "/lib64/ld-linux-x86-64.so.2 does not exist"]);
}

#[test]
fn a_file_that_is_no_program_is_told() {
    let bundle = executing(&["/program"]);
    bundle.program("program", "");
    execve_fails(&bundle, &["exec format error", "the file is empty"]);
    bundle.program("program", "echo no first line\n");
    execve_fails(&bundle, &["exec format error", "neither an ELF program nor a script"]);
    let mut elf = fs::read("/usr/bin/env").expect("a program");
    elf[18] = 0xf3; // e_machine: EM_RISCV
    bundle.program("program", elf);
    execve_fails(&bundle, &["exec format error", "another architecture"]);
}

#[test]
fn a_noexec_mount_is_told() {
    let bundle = executing(&["/data/program"]);
    let source = bundle.dir.join("data");
    fs::create_dir(&source).expect("data");
    fs::copy(bundle.rootfs("bin/busybox"), source.join("program")).expect("copy");
    let bundle = bundle.edit(|config| {
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        mounts.push(json!({"destination": "/data", "type": "bind", "source": source, "options": ["bind", "noexec"]}));
    });
    let said = bundle.run().fails("permission denied");
    assert!(said.contains("noexec"), "{said}");
    nothing_left(&bundle);
}

#[test]
fn a_program_that_is_replaced_before_start_is_an_error_of_start() {
    let bundle = executing(&["/program"]);
    bundle.program("program", "#!/bin/sh\n");
    bundle.create();
    fs::remove_file(bundle.rootfs("program")).expect("remove");
    bundle.on("start", &[]).fails("no such file or directory");
    bundle.await_status("stopped");
}

#[test]
fn the_runtime_itself_cant_be_the_program() {
    // CVE-2019-5736: before the execve /proc/self/exe is the runtime
    let bundle = executing(&["/proc/self/exe"]);
    refused(&bundle, "magic link", "");
    let bundle = executing(&["/program"]);
    symlink("/proc/self/exe", bundle.rootfs("program")).expect("a link");
    refused(&bundle, "magic link", "");
}

#[test]
fn control_characters_do_not_reach_the_terminal() {
    let said = executing(&["/\u{1b}[31mred"]).run().stderr();
    assert!(!said.contains('\u{1b}'), "{said:?}");
    assert!(said.contains("[31mred"), "{said:?}");
}

#[test]
fn an_unknown_option_is_refused() {
    let bundle = Bundle::new();
    bundle.run_with(&["--nonsense"]).fails("--nonsense");
    outcome(bundle.command(&["--log-format", "xml", "list"])).fails("xml");
    nothing_left(&bundle);
}

/// containerd's shim shows its user what stands there.
#[test]
fn a_command_line_that_is_none_is_in_the_log() {
    let bundle = Bundle::new();
    let (log, other) = (bundle.dir.join("log"), bundle.dir.join("other"));
    let (log, other) = (log.to_str().expect("UTF-8"), other.to_str().expect("UTF-8"));
    // What stands after the verb may be the words of a program.
    for options in [&["--log", log, "--log-format", "json"][..], &[&format!("-log={log}"), "-log-format", "json"]] {
        let words = [options, &["exec", "--nonsense", &bundle.id, "true", "--log", other]].concat();
        outcome(bundle.command(&words)).fails("--nonsense");
        let written = std::fs::read_to_string(log).expect("a log");
        std::fs::remove_file(log).expect("rm");
        let record: serde_json::Value = serde_json::from_str(&written).expect("one object");
        assert_eq!(record["level"], "error");
        assert!(record["msg"].as_str().is_some_and(|text| text.contains("--nonsense")), "{written}");
        assert!(!std::path::Path::new(other).exists());
    }
    outcome(bundle.command(&["--log", log, "--log-format", "json", "create"])).fails("required");
    let written = std::fs::read_to_string(log).expect("a log");
    assert!(written.contains("not provided: <ID>"), "{written}");
}
