//! `org.orlop.landlock.*` (landlock(7)): what the container's process, and one of `exec`, can still do.

mod common;

use std::fs;

use common::{Bundle, outcome};
use orlop::sys::landlock;
use serde_json::json;

/// `sh -c SCRIPT` under these annotations, in a root file system with a directory `/data`.
fn under(annotations: &[(&str, &str)], script: &str) -> Bundle {
    let bundle = Bundle::script(script);
    fs::create_dir(bundle.rootfs("/data")).expect("mkdir");
    fs::write(bundle.rootfs("/data/kept"), "kept\n").expect("a file");
    fs::write(bundle.rootfs("/etc/secret"), "secret\n").expect("a file");
    bundle.edit(|config| {
        for (name, value) in annotations {
            config["annotations"][format!("org.orlop.landlock.{name}")] = json!(value);
        }
    })
}

/// The kernel has this ABI. Without it there is one clear error, with `words`.
fn known(abi: u32, bundle: &Bundle, words: &str) -> bool {
    let known = landlock::abi().unwrap_or(0) >= abi;
    if !known {
        bundle.run().fails(words);
    }
    known
}

const TRIES: &str = "cat /data/kept
cat /etc/secret
echo x >/data/new && echo made && rm /data/new && echo removed
mv /data/kept /data/moved && mv /data/moved /data/kept && echo moved
echo x >/tmp/new
cp /bin/busybox /data/busybox && echo copied
/data/busybox true";

#[test]
fn what_is_not_named_is_closed() {
    let bundle = under(&[("execute", "/bin"), ("write", "/data:/dev/null")], TRIES);
    let ran = bundle.run();
    assert_eq!(ran.stdout(), "kept\nmade\nremoved\nmoved\ncopied\n");
    let denied = ran.stderr();
    for what in ["/etc/secret", "/tmp/new", "/data/busybox"] {
        let line = denied.lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("{what}: {denied}"));
        assert!(line.contains("ermission denied"), "{line}");
    }
    assert!(!bundle.rootfs("/tmp/new").exists());
}

#[test]
fn an_exec_is_under_the_same_rules() {
    let bundle = under(&[("execute", "/bin"), ("write", "/data")], "sleep 1000");
    bundle.up();
    assert_eq!(bundle.inside("cat /data/kept; echo x >/data/new"), "kept");
    let denied = bundle.on("exec", &["cat", "/etc/secret"]);
    assert_eq!(denied.code, Some(1));
    assert!(denied.stderr().contains("ermission denied"), "{}", denied.stderr());
}

#[test]
fn reading_is_not_writing() {
    let bundle = under(&[("execute", "/bin"), ("read", "/data/kept")], "cat /data/kept; echo x >>/data/kept");
    let ran = bundle.run();
    assert_eq!((ran.stdout().as_str(), ran.code), ("kept\n", Some(1)));
    assert!(ran.stderr().contains("ermission denied"), "{}", ran.stderr());
    assert_eq!(fs::read_to_string(bundle.rootfs("/data/kept")).expect("the file"), "kept\n");
}

/// With the capabilities that make root, too.
#[test]
fn a_file_is_not_truncated_from_abi_3_on() {
    let bundle = under(&[("execute", "/bin"), ("read", "/data")], "truncate -s 0 /data/kept");
    let (abi, ran) = (landlock::abi().unwrap_or(0), bundle.run());
    if abi < 3 {
        let warned = "does not restrict truncate(2)";
        assert!(ran.stderr().contains(warned), "{}", ran.stderr());
        return;
    }
    assert_eq!(ran.code, Some(1));
    assert_eq!(fs::read_to_string(bundle.rootfs("/data/kept")).expect("the file"), "kept\n");
}

#[test]
fn only_named_ports_are_bound() {
    let script = "timeout 1 nc -l -p 8080; echo $?; timeout 1 nc -l -p 8081; echo $?; timeout 1 nc 127.0.0.1 8082";
    let bundle = under(&[("bind", "8080")], script);
    if known(4, &bundle, "knows nothing of the ports of TCP") {
        let ran = bundle.run();
        // 143: it has listened until timeout(1) ended it.
        assert_eq!(ran.stdout(), "143\n1\n", "{}", ran.stderr());
        let said = ran.stderr();
        assert!(said.contains("bind: Permission denied") && said.contains("Connection refused"), "{said}");
    }
    let bundle = under(&[("connect", "8080")], "nc 127.0.0.1 8080; nc 127.0.0.1 8082");
    if known(4, &bundle, "knows nothing of the ports of TCP") {
        let said = bundle.run().stderr();
        assert!(said.contains("Connection refused") && said.contains("Permission denied"), "{said}");
    }
}

/// Who is restricted anew by `exec` is in a domain beside that of the container's first process.
#[test]
fn a_signal_does_not_leave_its_scope() {
    let free = under(&[("execute", "/bin")], "sleep 1000");
    free.up();
    free.on("exec", &["kill", "-0", "1"]).well();
    let bundle = under(&[("scope", "signal,abstract-unix-socket")], "sleep 1000");
    if known(6, &bundle, "knows nothing of scopes") {
        bundle.up();
        bundle.on("exec", &["kill", "-0", "1"]).fails("not permitted");
        assert_eq!(bundle.inside("sleep 100 & kill $! && echo own"), "own");
    }
}

#[test]
fn a_link_does_not_lead_a_rule_elsewhere() {
    let bundle = under(&[("execute", "/bin"), ("write", "/data/link")], "true");
    std::os::unix::fs::symlink("/", bundle.rootfs("/data/link")).expect("symlink");
    let said = bundle.run().fails("allow writing on /data/link");
    assert!(said.contains("/annotations/org.orlop.landlock.write"), "{said}");
    assert!(said.contains("name what it leads to"), "{said}");
    let said = under(&[("read", "/none")], "true").run().fails("allow reading on /none");
    assert!(said.contains("must be there"), "{said}");
}

#[test]
fn what_is_not_understood_is_refused() {
    for (annotation, words) in [
        (("writes", "/"), "unknown annotation org.orlop.landlock.writes"),
        (("write", "data"), "\"data\" is not an absolute path"),
        (("bind", "http"), "\"http\" is not a port"),
        (("bind", "65536"), "\"65536\" is not a port"),
        (("scope", "signals"), "\"signals\" is not a scope"),
    ] {
        let bundle = under(&[annotation], "true");
        let known = ["bind", "scope"].contains(&annotation.0);
        let old = known && landlock::abi().unwrap_or(0) < 6;
        let said = bundle.run().fails(if old { "knows nothing of" } else { words });
        assert!(said.contains(&format!("/annotations/org.orlop.landlock.{}", annotation.0)), "{said}");
    }
    let bundle = under(&[("read", "/")], "true").edit(|config| config["process"]["noNewPrivileges"] = json!(false));
    bundle.run().fails("Landlock needs process.noNewPrivileges");
}

/// A program that may not be executed is told so by the rule that is missing.
#[test]
fn a_program_that_is_not_named_is_not_executed() {
    let bundle = under(&[("read", "/")], "true");
    let said = bundle.run().fails("exec sh: permission denied");
    assert!(said.contains("org.orlop.landlock.execute"), "{said}");
}

/// criu knows nothing of Landlock: what comes back would be free of it.
#[test]
fn such_a_container_is_not_dumped() {
    let bundle = under(&[("execute", "/bin")], "sleep 1000");
    bundle.up();
    let mut command = bundle.command(&["checkpoint", "--image-path"]);
    command.arg(bundle.dir.join("image")).arg(&bundle.id);
    let said = outcome(command).fails("a container with Landlock rules cannot be checkpointed");
    assert!(said.contains("/annotations"), "{said}");
    assert_eq!(bundle.status(), "running");
}
