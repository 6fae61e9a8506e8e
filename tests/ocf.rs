//! `ocf:orlop:shim`, a resource agent for Pacemaker: its actions as the cluster manager calls them.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Bundle, Outcome, alive, begin, outcome, wait};
use serde_json::{Value, json};

const SUCCESS: Option<i32> = Some(0);
const GENERIC: Option<i32> = Some(1);
const INSTALLED: Option<i32> = Some(5);
const CONFIGURED: Option<i32> = Some(6);
const NOT_RUNNING: Option<i32> = Some(7);
const DEGRADED: Option<i32> = Some(190);

struct Resource {
    bundle: Bundle,
    agent: PathBuf,
}

impl Resource {
    fn new(script: &str, health: Value) -> Self {
        let bundle = Bundle::script(script);
        fs::write(bundle.dir.join("health.json"), health.to_string()).expect("health.json");
        let agent = bundle.dir.join("shim");
        symlink(env!("CARGO_BIN_EXE_orlop-shim"), &agent).expect("a link to the agent");
        Self { bundle, agent }
    }

    /// An action, which Pacemaker gives so many milliseconds.
    fn command(&self, action: &str, timeout: u32) -> Command {
        let mut command = Command::new(&self.agent);
        command.arg(action).stdin(Stdio::null()).env("OCF_ROOT", "/usr/lib/ocf");
        command.env("OCF_RESKEY_CRM_meta_timeout", timeout.to_string());
        for (name, value) in self.parameters() {
            command.env(format!("OCF_RESKEY_{name}"), value);
        }
        command
    }

    fn parameters(&self) -> [(&'static str, String); 4] {
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        [
            ("bundle", text(self.bundle.dir.clone())),
            ("id", self.bundle.id.clone()),
            ("directory", text(self.bundle.dir.join("shims"))),
            ("root", text(self.bundle.store.clone())),
        ]
    }

    fn call(&self, action: &str) -> Outcome {
        outcome(self.command(action, 20_000))
    }

    fn monitor(&self) -> Option<i32> {
        self.call("monitor").code
    }

    /// The supervisor's process.
    fn supervisor(&self) -> u32 {
        common::proc_status(self.bundle.pid(), "PPid").parse().expect("a number")
    }
}

impl Drop for Resource {
    fn drop(&mut self) {
        self.call("stop");
    }
}

fn kill(pid: u32, signal: &str) {
    assert!(Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string()).status().expect("kill").success());
}

const QUICK: &str = "sleep 1000";

fn file_probe(name: &str) -> Value {
    json!({"exec": {"command": ["test", "-e", name]}, "periodSeconds": 0.1, "failureThreshold": 1, "timeoutSeconds": 5})
}

#[test]
fn a_start_waits_until_the_container_is_ready_and_starts_it_once() {
    let resource = Resource::new(QUICK, json!({ "readiness": file_probe("/tmp/ready") }));
    assert_eq!(resource.monitor(), NOT_RUNNING);
    let mut start = begin(resource.command("start", 60_000));
    wait(|| resource.bundle.status() == "running");
    std::thread::sleep(Duration::from_millis(300));
    assert!(start.child.try_wait().expect("wait").is_none(), "it has not waited");
    // It runs, and takes no work: nobody may start it elsewhere.
    assert_eq!(resource.monitor(), DEGRADED);
    fs::write(resource.bundle.rootfs("tmp/ready"), "").expect("write");
    assert_eq!(start.end().code, SUCCESS);
    assert_eq!(resource.monitor(), SUCCESS);
    let pid = resource.bundle.pid();
    assert_eq!(resource.call("start").code, SUCCESS);
    assert_eq!(resource.bundle.pid(), pid);
    assert_eq!(resource.call("stop").code, SUCCESS);
    assert!(!alive(pid));
    assert_eq!(resource.monitor(), NOT_RUNNING);
    assert_eq!(resource.call("stop").code, SUCCESS);
}

#[test]
fn a_start_that_is_not_ready_in_its_time_has_failed() {
    let resource = Resource::new(QUICK, json!({ "readiness": file_probe("/tmp/never") }));
    let said = outcome(resource.command("start", 6_500));
    assert_eq!(said.code, GENERIC);
    assert!(said.stderr().contains("ocf-exit-reason:not ready in its time: notready not-ready"), "{}", said.stderr());
    assert_eq!(resource.call("stop").code, SUCCESS);
    assert_eq!(resource.bundle.status(), "none");
}

#[test]
fn a_container_that_does_not_live_is_a_failure_with_its_reason() {
    let resource = Resource::new("touch /tmp/well; sleep 1000", json!({ "liveness": file_probe("/tmp/well") }));
    assert_eq!(resource.call("start").code, SUCCESS);
    fs::remove_file(resource.bundle.rootfs("tmp/well")).expect("remove");
    wait(|| resource.monitor() == GENERIC);
    let said = resource.call("monitor");
    assert!(said.stderr().contains("ocf-exit-reason:unhealthy probe-failed"), "{}", said.stderr());
    // A recovery is a stop and a start.
    assert_eq!(resource.call("stop").code, SUCCESS);
    assert_eq!(resource.call("start").code, SUCCESS);
    assert_eq!(resource.monitor(), SUCCESS);
}

#[test]
fn an_end_is_a_failure_and_a_start_begins_anew() {
    let resource = Resource::new("while [ ! -e /tmp/end ]; do sleep 0.05; done; rm /tmp/end; exit 3", json!({}));
    assert_eq!(resource.call("start").code, SUCCESS);
    fs::write(resource.bundle.rootfs("tmp/end"), "").expect("write");
    wait(|| resource.monitor() == GENERIC);
    assert!(resource.call("monitor").stderr().contains("failed exit-code"));
    assert_eq!(resource.call("start").code, SUCCESS);
    assert_eq!(resource.monitor(), SUCCESS);
}

#[test]
fn a_frozen_container_is_stopped_and_nothing_is_left() {
    let resource = Resource::new(QUICK, json!({}));
    assert_eq!(resource.call("start").code, SUCCESS);
    let (pid, cgroup) = (resource.bundle.pid(), resource.bundle.cgroup());
    resource.bundle.on("pause", &[]).well();
    wait(|| resource.monitor() == DEGRADED);
    assert_eq!(outcome(resource.command("stop", 6_500)).code, SUCCESS);
    assert!(!alive(pid) && !cgroup.exists());
}

/// A container whose supervisor is gone runs all the same: who took it for stopped would have it on two nodes.
#[test]
fn without_its_supervisor_it_is_never_said_to_be_stopped() {
    let resource = Resource::new(QUICK, json!({}));
    assert_eq!(resource.call("start").code, SUCCESS);
    let pid = resource.bundle.pid();
    kill(resource.supervisor(), "KILL");
    wait(|| resource.monitor() == DEGRADED);
    assert!(alive(pid));
    assert_eq!(resource.call("stop").code, SUCCESS);
    assert!(!alive(pid));
    assert_eq!(resource.monitor(), NOT_RUNNING);

    // One that does not answer is no other case.
    assert_eq!(resource.call("start").code, SUCCESS);
    let supervisor = resource.supervisor();
    kill(supervisor, "STOP");
    assert_eq!(resource.monitor(), DEGRADED);
    let pid = resource.bundle.pid();
    let stopped = outcome(resource.command("stop", 8_000));
    kill(supervisor, "CONT");
    assert_eq!(stopped.code, SUCCESS);
    assert!(!alive(pid));
    wait(|| !alive(supervisor));
}

#[test]
fn what_is_wrong_is_told_from_what_is_not_here() {
    let resource = Resource::new(QUICK, json!({ "restart": "always" }));
    let said = resource.call("validate-all");
    assert_eq!(said.code, CONFIGURED);
    assert!(said.stderr().contains("Pacemaker restarts"), "{}", said.stderr());
    assert_eq!(resource.call("start").code, CONFIGURED);
    assert_eq!(resource.bundle.status(), "none");
    let elsewhere = |action: &str| {
        let mut command = resource.command(action, 20_000);
        command.env("OCF_RESKEY_bundle", "/nowhere");
        outcome(command).code
    };
    assert_eq!(elsewhere("validate-all"), INSTALLED);
    assert_eq!(elsewhere("start"), INSTALLED);
    assert_eq!(elsewhere("monitor"), NOT_RUNNING);
    assert_eq!(resource.call("promote").code, Some(3));
    let mut without = resource.command("monitor", 20_000);
    without.env_remove("OCF_RESKEY_bundle");
    assert_eq!(outcome(without).code, CONFIGURED);
}

/// With a program that the virtual machine does not have.
mod native {
    use super::*;

    /// The distribution's own test of agents (resource-agents).
    #[test]
    fn ocf_tester_finds_nothing() {
        let resource = Resource::new(QUICK, json!({"stop": {"timeoutSeconds": 1}}));
        let mut command = Command::new("ocf-tester");
        command.args(["-n", "orlop-test"]).stdin(Stdio::null());
        for (name, value) in resource.parameters() {
            command.arg("-o").arg(format!("{name}={value}"));
        }
        command.arg(&resource.agent);
        let said = outcome(command);
        assert_eq!(said.code, Some(0), "{}{}", said.stdout(), said.stderr());
        assert!(said.stdout().contains("passed all tests"), "{}", said.stdout());
    }
}
