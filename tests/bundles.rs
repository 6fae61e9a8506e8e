//! The bundles that come with the project run, and agree with what they were made from.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const BUNDLES: &[&str] = &["hello", "shell", "limits", "rootless"];

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn json(path: &str) -> Value {
    serde_json::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn every_bundle_has_the_default_seccomp_profile() {
    let profile = json("seccomp-profiles/default.json");
    for bundle in BUNDLES {
        assert_eq!(
            json(&format!("bundles/{bundle}/config.json"))["linux"]["seccomp"],
            profile,
            "run bundles/make: {bundle}"
        );
    }
}

#[test]
fn every_bundle_differs_from_the_template_only_where_it_means_to() {
    let template = json("bundles/template.json");
    for bundle in BUNDLES {
        let config = json(&format!("bundles/{bundle}/config.json"));
        assert_eq!(config["mounts"], template["mounts"], "run bundles/make: {bundle}");
        assert_eq!(
            config["process"]["capabilities"], template["process"]["capabilities"],
            "run bundles/make: {bundle}"
        );
        assert_eq!(config["hostname"], *bundle);
    }
}

#[test]
fn every_hello_is_the_same() {
    for bundle in ["limits", "rootless"] {
        assert_eq!(
            read(&format!("bundles/{bundle}/rootfs/hello")),
            read("bundles/hello/rootfs/hello"),
            "run bundles/make"
        );
    }
}

/// `orlop run` of a copy of `bundle`, its config changed by `change`. The copy lies where the machine can write.
fn run(bundle: &str, user: Option<u32>, change: impl Fn(&mut Value)) -> Output {
    let directory = std::env::temp_dir().join(format!("orlop-bundles-{bundle}-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("a directory");
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let copied =
        Command::new("cp").arg("-R").arg(project.join("bundles").join(bundle).join("rootfs")).arg(&directory).status();
    assert!(copied.expect("cp").success());
    let mut config = json(&format!("bundles/{bundle}/config.json"));
    change(&mut config);
    fs::write(directory.join("config.json"), config.to_string()).expect("config.json");

    let mut command = match user {
        None => Command::new(env!("CARGO_BIN_EXE_orlop")),
        Some(user) => {
            let owned = Command::new("chown").arg("-R").arg(format!("{user}:{user}")).arg(&directory).status();
            assert!(owned.expect("chown").success());
            let mut command = Command::new("setpriv");
            command.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups"]);
            command.arg(env!("CARGO_BIN_EXE_orlop")).env("XDG_RUNTIME_DIR", &directory);
            command
        }
    };
    let id = format!("bundles-{bundle}-{}", std::process::id());
    let output =
        command.arg("--root").arg(directory.join("state")).args(["run", "--bundle"]).arg(&directory).arg(id).output();
    fs::remove_dir_all(&directory).expect("the copy goes");
    output.expect("orlop")
}

/// What the container said, when it ended well: each line's label and value.
fn said(output: &Output, label: &str) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    let line = stdout.lines().find_map(|line| line.trim_start().strip_prefix(label));
    line.unwrap_or_else(|| panic!("no {label}: {stdout}")).trim().to_owned()
}

#[test]
fn hello_says_who_and_where_it_is() {
    let output = run("hello", None, |_| ());
    assert_eq!(said(&output, "process"), "1 of 1 in this pid namespace");
    assert_eq!(said(&output, "host name"), "hello");
    assert_eq!(said(&output, "root"), "ro");
    assert_eq!(said(&output, "capabilities"), "KILL NET_BIND_SERVICE AUDIT_WRITE");
    assert_eq!(said(&output, "new privs"), "never");
    assert_eq!(said(&output, "seccomp"), "filter");
}

#[test]
fn rootless_runs_for_an_ordinary_user() {
    let user = 65534;
    let output = run("rootless", Some(user), |config| {
        config["linux"]["uidMappings"][0]["hostID"] = user.into();
        config["linux"]["gidMappings"][0]["hostID"] = user.into();
    });
    assert_eq!(said(&output, "user"), format!("0; 1 ids from 0 stand for the host's from {user}"));
    assert_eq!(said(&output, "seccomp"), "filter");
}

#[test]
#[ignore = "needs the memory, cpu and pids controllers: runs in the machine (vm::bundles)"]
fn limits_are_the_containers_own() {
    let output = run("limits", None, |_| ());
    assert_eq!(said(&output, "memory.max"), "67108864");
    assert_eq!(said(&output, "cpu.max"), "50000 100000");
    assert_eq!(said(&output, "pids.max"), "32");
}
