//! `orlop audit`: what is found of bundles and of running containers, and that it is so.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

mod common;
use common::{Bundle, ORLOP, Outcome, outcome};

/// `orlop audit SUBJECT ARGS...`.
fn audit(bundle: &Bundle, subject: &str, args: &[&str]) -> Outcome {
    let mut command = Command::new(ORLOP);
    command.arg("--root").arg(&bundle.store).args(["audit", subject]).args(args);
    outcome(command)
}

fn of_bundle(bundle: &Bundle) -> Value {
    let said = audit(bundle, bundle.dir.to_str().expect("UTF-8"), &["--format", "json"]).stdout();
    serde_json::from_str(&said).expect("JSON")
}

fn of_container(bundle: &Bundle) -> Value {
    let outcome = audit(bundle, &bundle.id, &["--format", "json"]);
    serde_json::from_str(&outcome.stdout()).unwrap_or_else(|_| panic!("{}", outcome.stderr()))
}

fn findings(report: &Value) -> Vec<Value> {
    report["findings"].as_array().expect("findings").clone()
}

/// The one finding of a rule, at the pointer.
#[track_caller]
fn found(report: &Value, rule: &str, pointer: &str, words: &str) -> Value {
    let fits = |finding: &&Value| {
        finding["rule"] == rule
            && finding["pointer"] == pointer
            && finding["message"].as_str().is_some_and(|message| message.contains(words))
    };
    findings(report).iter().find(fits).cloned().unwrap_or_else(|| panic!("{rule} at {pointer}: {words}: {report:#}"))
}

/// A bundle in which nothing of what is known is open.
fn closed() -> Bundle {
    let profile = concat!(env!("CARGO_MANIFEST_DIR"), "/seccomp-profiles/strict.json");
    let profile: Value = serde_json::from_slice(&fs::read(profile).expect("strict.json")).expect("JSON");
    Bundle::sleeper().with_user().edit(|config| {
        config["process"]["noNewPrivileges"] = json!(true);
        config["process"]["capabilities"] = json!({});
        config["root"]["readonly"] = json!(true);
        config["linux"]["seccomp"] = profile;
        config["linux"]["resources"] = json!({
            "devices": [{"allow": false, "access": "rwm"}],
            "memory": {"limit": 1 << 26},
            "pids": {"limit": 64},
        });
        config["linux"]["maskedPaths"] = json!([
            "/proc/acpi",
            "/proc/kcore",
            "/proc/keys",
            "/proc/timer_list",
            "/proc/sched_debug",
            "/proc/scsi",
            "/proc/interrupts",
            "/sys/firmware",
            "/sys/devices/virtual/powercap"
        ]);
        config["linux"]["readonlyPaths"] =
            json!(["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]);
    })
}

type Change = fn(&mut Value);

#[test]
fn a_closed_bundle_has_nothing_and_each_opening_is_found_at_its_place() {
    let report = of_bundle(&closed());
    // Where a security module runs, the bundle names no profile of it.
    let open: Vec<_> = findings(&report).into_iter().filter(|finding| finding["rule"] != "unconfined").collect();
    assert!(open.is_empty() && report["score"].as_u64() >= Some(98), "{report:#}");
    let openings: &[(&str, &str, &str, &str, Change)] = &[
        ("host-namespace", "critical", "/linux/namespaces", "mount", |config| without(config, "mount")),
        ("host-namespace", "high", "/linux/namespaces", "pid", |config| without(config, "pid")),
        ("host-namespace", "high", "/linux/namespaces", "network", |config| without(config, "network")),
        ("host-namespace", "medium", "/linux/namespaces", "ipc", |config| without(config, "ipc")),
        ("host-root", "medium", "/linux/namespaces", "root of the host", |config| without(config, "user")),
        ("host-root", "medium", "/linux/namespaces", "root of the host", |config| {
            config["linux"]["uidMappings"][0]["hostID"] = json!(0);
        }),
        ("new-privileges", "low", "/process/noNewPrivileges", "image", |config| {
            config["process"]["noNewPrivileges"] = json!(false);
        }),
        ("inheritable", "low", "/process/capabilities/inheritable", "CAP_CHOWN", |config| {
            config["process"]["capabilities"]["inheritable"] = json!(["CAP_CHOWN"]);
        }),
        // In a user namespace it is not the host's.
        ("capability", "medium", "/process/capabilities", "CAP_SYS_ADMIN", |config| {
            config["process"]["capabilities"]["bounding"] = json!(["CAP_SYS_ADMIN"]);
        }),
        ("capability", "critical", "/process/capabilities", "CAP_SYS_ADMIN", |config| {
            config["process"]["capabilities"]["bounding"] = json!(["CAP_SYS_ADMIN"]);
            without(config, "user");
        }),
        ("no-seccomp", "high", "/linux/seccomp", "every system call", |config| {
            config["linux"]["seccomp"] = Value::Null;
        }),
        ("seccomp-open", "medium", "/linux/seccomp/syscalls/0", "mount is let through", |config| {
            config["linux"]["seccomp"]["syscalls"][0]["names"].as_array_mut().expect("names").push(json!("mount"));
        }),
        ("host-path", "critical", "/mounts/7", "docker.sock", |config| {
            bind(config, "/run/docker.sock", &["rbind", "ro"])
        }),
        ("host-path", "high", "/mounts/7", "/etc of the host", |config| bind(config, "/etc", &["bind"])),
        ("host-path", "medium", "/mounts/7", "/etc of the host", |config| bind(config, "/etc/", &["bind", "rw", "ro"])),
        ("shared-propagation", "high", "/mounts/7", "appear on the host", |config| {
            bind(config, "/mnt", &["rbind", "rshared"]);
        }),
        ("shared-propagation", "high", "/linux/rootfsPropagation", "shared", |config| {
            config["linux"]["rootfsPropagation"] = json!("shared");
        }),
        ("writable-kernel", "low", "/linux/readonlyPaths", "/proc/sys can", |config| {
            config["linux"]["readonlyPaths"] = json!(["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sysrq-trigger"]);
        }),
        ("writable-kernel", "critical", "/linux/readonlyPaths", "/proc/sys can", |config| {
            config["linux"]["readonlyPaths"] = json!([]);
            without(config, "user");
        }),
        ("readable-kernel", "low", "/linux/maskedPaths", "/proc/kcore", |config| {
            config["linux"]["maskedPaths"] = json!([]);
        }),
        ("writable-root", "low", "/root/readonly", "stays", |config| config["root"]["readonly"] = json!(false)),
        ("all-devices", "medium", "/linux/resources/devices", "every device", |config| {
            config["linux"]["resources"]["devices"] = json!([{"allow": true, "access": "rwm"}]);
            without(config, "user");
        }),
        ("host-device", "critical", "/linux/devices/0", "a disk", |config| {
            config["linux"]["devices"] = json!([{"path": "/dev/sda", "type": "b", "major": 8, "minor": 0}]);
        }),
        ("no-limit", "medium", "/linux/resources/memory/limit", "memory", |config| {
            config["linux"]["resources"]["memory"] = Value::Null;
        }),
        ("no-limit", "medium", "/linux/resources/pids/limit", "processes", |config| {
            config["linux"]["resources"]["pids"] = json!({"limit": -1});
        }),
        ("oom-last", "low", "/process/oomScoreAdj", "-500", |config| config["process"]["oomScoreAdj"] = json!(-500)),
    ];
    for (rule, severity, pointer, words, open) in openings {
        let report = of_bundle(&closed().edit(open));
        let finding = found(&report, rule, pointer, words);
        assert_eq!(finding["severity"], *severity, "{finding}");
        assert!(finding["close"].as_str().is_some_and(|close| !close.is_empty()));
    }
}

fn without(config: &mut Value, kind: &str) {
    config["linux"]["namespaces"].as_array_mut().expect("namespaces").retain(|namespace| namespace["type"] != kind);
}

fn bind(config: &mut Value, source: &str, options: &[&str]) {
    let mounts = config["mounts"].as_array_mut().expect("mounts");
    mounts.truncate(7);
    mounts.push(json!({"destination": "/mnt", "type": "bind", "source": source, "options": options}));
}

/// What the kernel says of a container is what was planned, and no path or capability is missed.
#[test]
fn a_running_container_is_looked_at_in_the_kernel() {
    let bundle = Bundle::sleeper().edit(|config| {
        bind(config, "/etc", &["bind", "ro"]);
        config["process"]["capabilities"]["bounding"] = json!(["CAP_SYS_PTRACE"]);
    });
    fs::create_dir_all(bundle.rootfs("mnt")).expect("a mount point");
    bundle.up().well();
    let report = of_container(&bundle);
    assert_eq!(report["container"], json!(bundle.id));
    found(&report, "host-path", "/mounts/7", "/mnt is /etc of the host");
    found(&report, "capability", "/process/capabilities", "CAP_SYS_PTRACE");
    found(&report, "no-seccomp", "/linux/seccomp", "no seccomp filter");
    found(&report, "host-root", "/linux/namespaces", "root of the host");
    assert!(findings(&report).iter().all(|finding| finding["rule"] != "drift"), "{report:#}");
}

#[test]
fn a_closed_container_is_closed_in_the_kernel_too() {
    // No controllers here: the limits are left out.
    let bundle = closed().edit(|config| {
        config["linux"]["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
    });
    bundle.up().well();
    let report = of_container(&bundle);
    let known = |finding: &Value| finding["rule"] == "no-limit" || finding["rule"] == "unconfined";
    let open: Vec<_> = findings(&report).into_iter().filter(|finding| !known(finding)).collect();
    assert!(open.is_empty(), "{open:#?}");
}

/// Whoever has the host's rights changes what a container is: the audit tells.
#[test]
fn what_has_changed_since_is_a_difference() {
    let bundle = Bundle::sleeper().edit(|config| {
        config["root"]["readonly"] = json!(true);
        config["linux"]["maskedPaths"] = json!(["/proc/version", "/sys/kernel"]);
    });
    bundle.up().well();
    let pid = bundle.pid().to_string();
    let drift = || -> Vec<String> {
        let report = of_container(&bundle);
        let all = findings(&report).into_iter().filter(|finding| finding["rule"] == "drift");
        all.map(|finding| format!("{}: {}", finding["pointer"], finding["message"])).collect()
    };
    assert_eq!(drift(), Vec::<String>::new());
    let inside = |script: &str| {
        let done =
            Command::new("nsenter").args(["-t", &pid, "-m", "-p", "sh", "-c", script]).status().expect("nsenter");
        assert!(done.success(), "{script}");
    };
    inside("umount /proc/version && mount -o remount,bind,rw /");
    let mut said = drift();
    said.sort();
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("/linux/maskedPaths") && said[0].contains("/proc/version is not masked"), "{said:?}");
    assert!(said[1].contains("/root/readonly"), "{said:?}");
    let own = bundle.cgroup();
    let other = own.with_file_name(format!("{}-other", bundle.id));
    fs::create_dir(&other).expect("a cgroup");
    fs::write(other.join("cgroup.procs"), &pid).expect("a move");
    let said = drift();
    assert!(said.iter().any(|one| one.contains("/linux/cgroupsPath") && one.contains("-other")), "{said:?}");
    fs::write(own.join("cgroup.procs"), &pid).expect("the way back");
    fs::remove_dir(other).expect("the cgroup");
}

#[test]
fn the_exit_status_is_for_programs() {
    let (open, shut) = (Bundle::new(), closed());
    let status = |bundle: &Bundle, args: &[&str]| audit(bundle, bundle.dir.to_str().expect("UTF-8"), args).code;
    assert_eq!(status(&open, &[]), Some(1));
    assert_eq!(status(&open, &["--fail-on", "critical"]), Some(0));
    assert_eq!(status(&open, &["--fail-on", "never"]), Some(0));
    assert_eq!(status(&shut, &["--fail-on", "medium"]), Some(0));
    audit(&open, "no-such-container", &[]).fails("no-such-container");
    open.create();
    open.on("kill", &["KILL"]).well();
    open.await_status("stopped");
    audit(&open, &open.id, &[]).fails("does not run");
}

#[test]
fn sarif_has_what_scanners_look_for() {
    let bundle = Bundle::new();
    let said = audit(&bundle, bundle.dir.to_str().expect("UTF-8"), &["--format", "sarif"]).stdout();
    let sarif: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(sarif["version"], "2.1.0");
    let run = &sarif["runs"][0];
    let rules = run["tool"]["driver"]["rules"].as_array().expect("rules");
    let results = run["results"].as_array().expect("results");
    assert!(!results.is_empty());
    for result in results {
        let index = result["ruleIndex"].as_u64().expect("an index") as usize;
        assert_eq!(rules[index]["id"], result["ruleId"]);
        assert!(["error", "warning", "note"].contains(&result["level"].as_str().unwrap_or_default()));
        let place = &result["locations"][0];
        let uri = place["physicalLocation"]["artifactLocation"]["uri"].as_str().expect("a URI");
        assert!(uri.starts_with("file:///") && uri.ends_with("/config.json"), "{uri}");
        assert!(place["logicalLocations"][0]["fullyQualifiedName"].as_str().is_some_and(|name| name.starts_with('/')));
    }
}

/// Every rule has a line in the page.
#[test]
fn each_rule_is_in_audit_md() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/audit.md")).expect("audit.md");
    for rule in orlop::audit::RULES {
        assert!(page.contains(&format!("| `{}` | {} |", rule.id, rule.class)), "{}", rule.id);
    }
}
