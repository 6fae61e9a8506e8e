//! `orlop-shim run` and `resume`: the supervisor, by what the kernel and its own records say.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Bundle, Outcome, Running, alive, begin, outcome, soon, value, wait};
use serde_json::{Value, json};

const SHIM: &str = env!("CARGO_BIN_EXE_orlop-shim");

/// A bundle with what it wants of its supervisor.
struct Supervised {
    bundle: Bundle,
}

impl Supervised {
    /// What ends by no signal is not waited for as long as elsewhere.
    fn new(script: &str, mut health: Value) -> Self {
        let bundle = Bundle::script(script);
        if health.get("stop").is_none() {
            health["stop"] = json!({"timeoutSeconds": 0.1});
        }
        fs::write(bundle.dir.join("health.json"), health.to_string()).expect("health.json");
        Self { bundle }
    }

    /// `orlop-shim --directory DIR WORDS...`
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(SHIM);
        command.arg("--directory").arg(self.bundle.dir.join("shims")).args(words).stdin(Stdio::null());
        command
    }

    fn running(&self, words: &[&str]) -> Command {
        let mut command = self.command(&["run", "--root"]);
        command.arg(&self.bundle.store).args(words).arg(&self.bundle.dir).arg(&self.bundle.id);
        command
    }

    fn run(&self) -> Outcome {
        outcome(self.running(&[]))
    }

    /// Supervised by a child of this process; it is asked to stop when it is dropped.
    fn begin(&self) -> Shim {
        Shim(Some(begin(self.running(&[]))))
    }

    fn directory(&self) -> PathBuf {
        self.bundle.dir.join("shims").join(&self.bundle.id)
    }

    /// The data of all events of a kind.
    fn events(&self, kind: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.directory().join("events.ndjson")).unwrap_or_default();
        let events = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("an event is JSON"));
        let kind = format!("org.orlop.container.{kind}");
        events.filter(|event| event["type"] == kind.as_str()).map(|event| event["data"].clone()).collect()
    }

    /// Waits until the summary becomes this.
    fn await_summary(&self, summary: &str) {
        wait(|| self.events("summary").last().is_some_and(|last| last["to"] == summary));
    }

    /// The pid of the container's first process, by the last start that there was.
    fn pid(&self) -> u32 {
        self.events("start").last().and_then(|start| start["pid"].as_u64()).expect("a start") as u32
    }

    /// One request over a socket of the supervisor's: its status and its body.
    fn ask(&self, socket: &str, request: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(self.directory().join(socket)).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
        write!(stream, "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("ask");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    }

    fn view(&self) -> Value {
        let (status, body) = self.ask("read.sock", &format!("GET /v1/containers/{}", self.bundle.id));
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).expect("a view")
    }
}

impl Supervised {
    /// With a hook that waits until the file `gate` is in the bundle; it writes `waits` before.
    fn gated(self, hook: &str) -> Self {
        let dir = self.bundle.dir.display();
        let wait = format!("touch {dir}/waits; while [ -e {dir}/waits -a ! -e {dir}/gate ]; do sleep 0.05; done");
        let bundle = self.bundle.edit(|config| {
            config["hooks"] = json!({ hook: [{"path": "/bin/sh", "args": ["sh", "-c", wait]}] });
        });
        Self { bundle }
    }

    fn await_gate(&self) {
        wait(|| self.bundle.dir.join("waits").exists());
    }

    fn open_gate(&self) {
        fs::write(self.bundle.dir.join("gate"), "").expect("gate");
    }

    fn resume(&self) -> Shim {
        Shim(Some(begin(self.command(&["resume", &self.bundle.id]))))
    }

    fn post(&self, verb: &str) {
        let (status, body) = self.ask("control.sock", &format!("POST /v1/containers/{}/{verb}", self.bundle.id));
        assert_eq!(status, 200, "{body}");
    }
}

struct Shim(Option<Running>);

impl Shim {
    fn pid(&self) -> u32 {
        self.0.as_ref().expect("running").child.id()
    }

    fn signal(&self, name: &str) {
        assert!(
            Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status().expect("kill").success()
        );
    }

    fn end(mut self) -> Outcome {
        self.0.take().expect("running").end()
    }

    fn stop(self) -> Outcome {
        self.signal("TERM");
        self.end()
    }

    fn kill(self) {
        self.signal("KILL");
        self.end();
    }

    /// Its children that are no containers: the processes of the same program.
    fn workers(&self) -> Vec<u32> {
        let pid = self.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let name = |pid: &str| value(format!("/proc/{pid}/comm")).ok();
        let own = name(&pid.to_string());
        children.split_whitespace().filter(|child| name(child) == own).filter_map(|child| child.parse().ok()).collect()
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        if let Some(running) = self.0.take() {
            let _ = Command::new("kill").arg(running.child.id().to_string()).status();
            running.end();
        }
    }
}

/// Nothing is left of a container, and of its supervisor nothing that anybody could take for one that lives.
#[track_caller]
fn nothing_left(supervised: &Supervised) {
    assert_eq!(supervised.bundle.status(), "none");
    for name in ["supervisor.json", "read.sock", "control.sock"] {
        assert!(!supervised.directory().join(name).exists(), "{name} is left");
    }
}

#[test]
fn a_program_ends_with_its_own_status() {
    let supervised = Supervised::new("echo out; echo err >&2; exit 7", json!({}));
    let said = supervised.run();
    assert_eq!((said.code, said.stdout().as_str(), said.stderr().as_str()), (Some(7), "out\n", "err\n"));
    let exit = &supervised.events("exit")[0]["exit"];
    assert_eq!((&exit["kind"], &exit["code"]), (&json!("code"), &json!(7)));
    let last: Value =
        serde_json::from_str(&value(supervised.directory().join("last.json")).expect("last.json")).expect("JSON");
    assert_eq!((&last["summary"], &last["reason"]), (&json!("failed"), &json!("exit-code")));
    nothing_left(&supervised);
}

#[test]
fn a_signal_is_told_from_a_status() {
    let supervised = Supervised::new("kill -9 $$; sleep 1", json!({}));
    // The first process of a pid namespace ignores its own signals: this one has the host's.
    let supervised = Supervised {
        bundle: supervised.bundle.edit(|config| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
            namespaces.retain(|namespace| namespace["type"] != "pid");
        }),
    };
    assert_eq!(supervised.run().code, Some(137));
    let exit = &supervised.events("exit")[0]["exit"];
    assert_eq!((&exit["kind"], &exit["signal"], &exit["code"]), (&json!("signal"), &json!(9), &Value::Null));
}

#[test]
fn what_fails_is_started_again_until_its_retries_are_used() {
    let policy = json!({"policy": "on-failure", "retries": 3, "firstDelaySeconds": 0.01, "longestDelaySeconds": 0.05});
    let supervised = Supervised::new("exit 3", json!({ "restart": policy }));
    assert_eq!(supervised.run().code, Some(3));
    let numbers: Vec<_> = supervised.events("start").iter().map(|start| start["restarts"].as_u64()).collect();
    assert_eq!(numbers, [Some(0), Some(1), Some(2), Some(3)]);
    assert_eq!(supervised.events("exit").len(), 4);
    nothing_left(&supervised);
}

#[test]
fn what_ends_again_and_again_is_a_crash_loop_and_can_be_stopped_while_it_waits() {
    let policy = json!({"policy": "always", "firstDelaySeconds": 0.01, "longestDelaySeconds": 60});
    let supervised = Supervised::new("exit 0", json!({ "restart": policy }));
    let shim = supervised.begin();
    soon(|| supervised.events("exit").len() >= 5);
    supervised.await_summary("crashloop");
    let said = shim.stop();
    assert_eq!(said.code, Some(0), "{}", said.stderr());
    nothing_left(&supervised);
}

#[test]
fn a_program_that_is_not_there_is_said_and_nothing_is_left() {
    let supervised = Supervised::new("", json!({}));
    let supervised = Supervised { bundle: supervised.bundle.args(&["/no/such/program"]) };
    let said = supervised.run();
    said.fails("/no/such/program");
    nothing_left(&supervised);
    let said = outcome(supervised.running(&["--detach"]));
    said.fails("/no/such/program");
    assert_eq!(said.code, Some(1));
}

#[test]
fn a_wrong_wish_is_one_error_before_anything_starts() {
    let supervised = Supervised::new("touch /tmp/ran", json!({"liveness": {"exec": {"command": []}}}));
    supervised.run().fails("health.json /liveness/exec/command");
    let supervised = Supervised::new("touch /tmp/ran", json!({"stop": {"signal": "SIGNOPE"}}));
    supervised.run().fails("health.json /stop/signal");
    assert!(!supervised.bundle.rootfs("tmp/ran").exists());
    assert!(!supervised.directory().exists());
}

#[test]
fn who_is_asked_to_stop_gets_its_signal_and_then_its_end() {
    let polite = "trap 'echo asked; exit 0' USR1; echo up; while :; do sleep 0.05; done";
    let supervised = Supervised::new(polite, json!({"stop": {"signal": "USR1", "timeoutSeconds": 9}}));
    let shim = supervised.begin();
    supervised.await_summary("healthy");
    std::thread::sleep(Duration::from_millis(200));
    let said = shim.stop();
    assert_eq!((said.code, said.stdout().contains("asked")), (Some(0), true), "{}", said.stderr());
    let last = &supervised.events("exit")[0]["exit"];
    assert_eq!(last["kind"], "asked");

    let deaf = "trap '' TERM; sleep 1000 & sleep 1001";
    let supervised = Supervised::new(deaf, json!({"restart": "always", "stop": {"timeoutSeconds": 0.2}}));
    let shim = supervised.begin();
    supervised.await_summary("healthy");
    let cgroup = common::cgroup_of(supervised.pid());
    assert_eq!(shim.stop().code, Some(0));
    assert!(!cgroup.exists());
    let exit = &supervised.events("exit")[0]["exit"];
    assert_eq!((&exit["kind"], &exit["signal"]), (&json!("asked"), &json!(9)));
    nothing_left(&supervised);
}

#[test]
fn a_probe_by_exec_is_made_in_the_container_and_its_answer_counts() {
    let probe = json!({"exec": {"command": ["sh", "-c", "cat /tmp/state; test $(cat /tmp/state) = good"]},
        "periodSeconds": 0.1, "failureThreshold": 2, "timeoutSeconds": 5});
    let supervised = Supervised::new("echo good > /tmp/state; sleep 1000", json!({ "liveness": probe }));
    let _shim = supervised.begin();
    supervised.await_summary("healthy");
    fs::write(supervised.bundle.rootfs("tmp/state"), "bad\n").expect("write");
    supervised.await_summary("unhealthy");
    let view = supervised.view();
    assert_eq!((&view["summary"], &view["reason"]), (&json!("unhealthy"), &json!("probe-failed")));
    assert_eq!(view["probes"][0]["output"], "status 1: bad");
    // Nobody restarts it: there is no policy, and so another has that right.
    assert!(alive(supervised.pid()));
    fs::write(supervised.bundle.rootfs("tmp/state"), "good\n").expect("write");
    supervised.await_summary("healthy");
}

#[test]
fn a_probe_that_hangs_is_ended_in_its_time_and_says_so() {
    let probe = json!({"exec": {"command": ["sleep", "777"]}, "periodSeconds": 0.1, "timeoutSeconds": 0.6, "failureThreshold": 1});
    let supervised = Supervised::new("sleep 1000", json!({ "liveness": probe }));
    let _shim = supervised.begin();
    // Everything in the container sleeps, and nothing answers.
    supervised.await_summary("hung");
    assert_eq!(supervised.view()["reason"], "deadlock");
    wait(|| supervised.events("probe").iter().any(|probes| probes[0]["output"] == "nothing was said in its time"));
    let left = || {
        let procs = fs::read_to_string(common::cgroup_of(supervised.pid()).join("cgroup.procs")).unwrap_or_default();
        procs.lines().count()
    };
    // One that is being made, at most: none of those before.
    wait(|| left() <= 2);
}

/// It has a full pipe to wait for, and the supervisor's loop is for all others.
#[test]
fn a_probe_that_writes_without_a_pause_is_not_read_without_an_end() {
    let probe = json!({"exec": {"command": ["yes"]}, "periodSeconds": 60, "timeoutSeconds": 30});
    let supervised = Supervised::new("sleep 1000", json!({"liveness": probe}));
    let shim = supervised.begin();
    let written = |pid: u32| {
        let io = value(format!("/proc/{pid}/io")).unwrap_or_default();
        let wrote = io.lines().find_map(|line| line.strip_prefix("wchar: ")?.parse::<u64>().ok());
        wrote.unwrap_or(0)
    };
    let yes = || {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", shim.pid())).unwrap_or_default();
        let mut pids = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        pids.find(|pid| value(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "yes"))
    };
    wait(|| yes().is_some_and(|pid| written(pid) >= 1 << 20));
    let pid = yes().expect("the probe");
    wait(|| {
        let before = written(pid);
        std::thread::sleep(Duration::from_millis(200));
        written(pid) == before
    });
    assert!(written(pid) < 2 << 20, "{}", written(pid));
    assert_eq!(shim.stop().code, Some(0));
    assert!(!alive(pid));
    nothing_left(&supervised);
}

/// Orphans of a container without a pid namespace come to the supervisor: others have their turn in between.
#[test]
fn orphans_without_a_pause_do_not_hold_the_loop() {
    let supervised = Supervised::new("while :; do (: &) & done", json!({}));
    let bundle = supervised.bundle.edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
        namespaces.retain(|namespace| namespace["type"] != "pid");
    });
    let supervised = Supervised { bundle };
    let shim = supervised.begin();
    supervised.await_summary("healthy");
    for _ in 0..20 {
        assert_eq!(supervised.ask("read.sock", "GET /livez").0, 200);
    }
    assert_eq!(shim.stop().code, Some(0));
    nothing_left(&supervised);
}

#[test]
fn a_startup_probe_holds_the_others_back() {
    let probes = json!({
        "startup": {"exec": {"command": ["test", "-e", "/tmp/started"]}, "periodSeconds": 0.1, "failureThreshold": 1000, "timeoutSeconds": 5},
        "liveness": {"exec": {"command": ["sh", "-c", "echo x >> /tmp/alive"]}, "periodSeconds": 0.1, "timeoutSeconds": 5},
        "readiness": {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 0.1, "timeoutSeconds": 5},
    });
    let supervised = Supervised::new("sleep 1000", probes);
    let _shim = supervised.begin();
    wait(|| supervised.events("start").len() == 1);
    wait(|| supervised.view()["probes"][0]["count"].as_u64() > Some(2));
    let view = supervised.view();
    assert_eq!((&view["summary"], &view["reason"]), (&json!("starting"), &json!("startup-probe")));
    assert!(!supervised.bundle.rootfs("tmp/alive").exists());
    fs::write(supervised.bundle.rootfs("tmp/started"), "").expect("write");
    supervised.await_summary("notready");
    wait(|| supervised.bundle.rootfs("tmp/alive").exists());
    assert_eq!(supervised.ask("read.sock", "GET /livez").0, 200);
    assert_eq!(supervised.ask("read.sock", "GET /readyz").0, 503);
    fs::write(supervised.bundle.rootfs("tmp/ready"), "").expect("write");
    supervised.await_summary("healthy");
    assert_eq!(supervised.ask("read.sock", "GET /readyz").0, 200);
    assert_eq!(supervised.view()["probes"][0]["verdict"], "pass");
}

#[test]
fn what_does_not_live_is_started_again_where_the_policy_says_so() {
    let health = json!({
        "liveness": {"exec": {"command": ["test", "-e", "/tmp/well"]}, "periodSeconds": 0.1, "failureThreshold": 2, "timeoutSeconds": 5},
        "restart": {"policy": "on-failure", "firstDelaySeconds": 0.01},
        "stop": {"timeoutSeconds": 0.1},
    });
    let supervised = Supervised::new("sleep 1000", health);
    let _shim = supervised.begin();
    wait(|| !supervised.events("exit").is_empty());
    assert_eq!(supervised.events("exit")[0]["exit"]["kind"], "unhealthy");
    fs::write(supervised.bundle.rootfs("tmp/well"), "").expect("write");
    wait(|| supervised.events("start").len() >= 2);
    supervised.await_summary("healthy");
}

/// The container's network has no address but its own loopback.
#[test]
fn probes_by_tcp_and_http_are_made_in_the_containers_network() {
    let script = "mkdir -p /tmp/www; echo ok > /tmp/www/index.html; while [ ! -e /tmp/go ]; do sleep 0.05; done; \
        httpd -f -p 127.0.0.1:8080 -h /tmp/www";
    let probes = json!({
        "liveness": {"tcpSocket": {"port": 8080}, "periodSeconds": 0.1, "failureThreshold": 1},
        "readiness": {"httpGet": {"port": 8080, "path": "/index.html"}, "periodSeconds": 0.1, "failureThreshold": 1},
    });
    let supervised = Supervised::new(script, probes);
    let shim = supervised.begin();
    supervised.await_summary("unhealthy");
    wait(|| supervised.view()["probes"][0]["output"] == "connection refused");
    fs::write(supervised.bundle.rootfs("tmp/go"), "").expect("write");
    supervised.await_summary("healthy");
    assert_eq!(supervised.view()["probes"][1]["output"], "HTTP status 200");
    fs::remove_file(supervised.bundle.rootfs("tmp/www/index.html")).expect("remove");
    supervised.await_summary("notready");
    assert_eq!(supervised.view()["probes"][1]["output"], "HTTP status 404");
    // The supervisor itself is where it was.
    let own = fs::read_link("/proc/self/ns/net").expect("a namespace");
    assert_eq!(fs::read_link(format!("/proc/{}/ns/net", shim.pid())).expect("a namespace"), own);
}

#[test]
fn a_program_says_itself_that_it_is_ready_and_alive() {
    // busybox has no client of datagram sockets: perl's would be too large, so the test speaks for the program.
    let probes = json!({
        "readiness": {"notify": {}},
        "liveness": {"notify": {}, "periodSeconds": 1, "failureThreshold": 1},
    });
    let supervised = Supervised::new("echo $NOTIFY_SOCKET > /tmp/name; sleep 1000", probes);
    let _shim = supervised.begin();
    wait(|| value(supervised.bundle.rootfs("tmp/name")).is_ok_and(|name| !name.is_empty()));
    wait(|| !supervised.events("start").is_empty());
    let name = value(supervised.bundle.rootfs("tmp/name")).expect("a name");
    let root = format!("/proc/{}/root", supervised.pid());
    let socket = std::os::unix::net::UnixDatagram::unbound().expect("socket");
    let say = |message: &str| socket.send_to(message.as_bytes(), format!("{root}{name}")).map(drop).expect("send");
    say("WATCHDOG=1");
    say("STATUS=warming up\nREADY=1");
    supervised.await_summary("healthy");
    let probes = supervised.view()["probes"].clone();
    let ready =
        probes.as_array().expect("probes").iter().find(|probe| probe["name"] == "readiness").expect("readiness");
    assert_eq!(ready["output"], "warming up");
    // Nothing more is said: it does not live.
    wait(|| supervised.events("summary").iter().any(|summary| summary["to"] == "hung" || summary["to"] == "unhealthy"));
    say("WATCHDOG=1");
    supervised.await_summary("healthy");
}

/// It says so once, and not again to the next supervisor.
#[test]
fn what_was_said_and_waited_for_is_known_to_the_next_supervisor() {
    let probes = json!({
        "startup": {"exec": {"command": ["test", "-e", "/tmp/started"]}, "periodSeconds": 0.1, "failureThreshold": 1000, "timeoutSeconds": 5},
        "readiness": {"notify": {}},
    });
    let supervised = Supervised::new("echo $NOTIFY_SOCKET > /tmp/name; touch /tmp/started; sleep 1000", probes);
    let shim = supervised.begin();
    wait(|| supervised.events("start").len() == 1);
    wait(|| supervised.view()["probes"][0]["verdict"] == "pass");
    let name = value(supervised.bundle.rootfs("tmp/name")).expect("a name");
    let socket = std::os::unix::net::UnixDatagram::unbound().expect("socket");
    let root = format!("/proc/{}/root", supervised.pid());
    socket.send_to(b"READY=1", format!("{root}{name}")).expect("send");
    supervised.await_summary("healthy");
    fs::remove_file(supervised.bundle.rootfs("tmp/started")).expect("remove");
    let summaries = supervised.events("summary").len();
    assert_eq!(supervised.ask("control.sock", "POST /v1/upgrade").0, 200);
    wait(|| supervised.events("supervisor").iter().any(|event| event.get("resumed").is_some()));
    assert_eq!(supervised.view()["summary"], "healthy");
    shim.signal("KILL");
    shim.end();
    let resumed = Shim(Some(begin(supervised.command(&["resume", &supervised.bundle.id]))));
    wait(|| supervised.events("supervisor").iter().filter(|event| event.get("resumed").is_some()).count() == 2);
    assert_eq!(supervised.view()["summary"], "healthy");
    let later: Vec<_> = supervised.events("summary").split_off(summaries);
    assert!(later.iter().all(|summary| summary["to"] == "healthy"), "{later:?}");
    assert_eq!(resumed.stop().code, Some(0));
}

#[test]
fn a_frozen_container_is_paused_and_not_asked() {
    let probe =
        json!({"exec": {"command": ["true"]}, "periodSeconds": 0.1, "failureThreshold": 1, "timeoutSeconds": 5});
    let supervised = Supervised::new("sleep 1000", json!({ "liveness": probe, "restart": "always" }));
    let _shim = supervised.begin();
    supervised.await_summary("healthy");
    supervised.bundle.on("pause", &[]).well();
    supervised.await_summary("paused");
    let count = || supervised.view()["probes"][0]["count"].as_u64();
    // One may have been on its way.
    std::thread::sleep(Duration::from_millis(300));
    let before = count();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(count(), before);
    supervised.bundle.on("resume", &[]).well();
    supervised.await_summary("healthy");
    assert!(supervised.events("exit").is_empty());
}

/// What was asked before it was frozen could not be answered in its time.
#[test]
fn a_probe_that_is_being_made_when_it_is_frozen_does_not_count() {
    // Two seconds of it are for a machine that has other work.
    let probe =
        json!({"exec": {"command": ["sleep", "1"]}, "periodSeconds": 0.1, "failureThreshold": 1, "timeoutSeconds": 3});
    let supervised = Supervised::new("sleep 1000", json!({ "liveness": probe }));
    let _shim = supervised.begin();
    supervised.await_summary("healthy");
    for _ in 0..3 {
        supervised.bundle.on("pause", &[]).well();
        supervised.await_summary("paused");
        std::thread::sleep(Duration::from_millis(3200));
        supervised.bundle.on("resume", &[]).well();
        supervised.await_summary("healthy");
    }
    let failed = supervised.events("summary");
    assert!(
        !failed.iter().any(|summary| ["hung", "unhealthy"].contains(&summary["to"].as_str().expect("a word"))),
        "{failed:?}"
    );
}

#[test]
fn who_does_not_start_is_not_well() {
    let probe =
        json!({"exec": {"command": ["false"]}, "periodSeconds": 0.1, "failureThreshold": 2, "timeoutSeconds": 5});
    let supervised = Supervised::new("sleep 1000", json!({ "startup": probe }));
    let _shim = supervised.begin();
    supervised.await_summary("unhealthy");
}

#[test]
fn a_frozen_container_that_is_asked_to_stop_hears_it() {
    let polite = "trap 'echo asked; exit 0' TERM; echo up; while :; do sleep 0.05; done";
    let supervised = Supervised::new(polite, json!({"stop": {"timeoutSeconds": 9}}));
    let shim = supervised.begin();
    supervised.await_summary("healthy");
    std::thread::sleep(Duration::from_millis(200));
    supervised.bundle.on("pause", &[]).well();
    supervised.await_summary("paused");
    let said = shim.stop();
    assert!(said.stdout().contains("asked"), "{}", said.stdout());
    assert_eq!(supervised.events("exit")[0]["exit"]["code"], 0);
}

#[test]
fn pressure_is_seen_and_passes() {
    let probe = json!({"psi": {"resource": "cpu", "percent": 30}, "periodSeconds": 0.2, "failureThreshold": 1});
    // More than there are processors, all of them busy, until the file is there.
    let script = "for i in 1 2 3 4 5 6 7 8; do while [ ! -e /tmp/enough ]; do :; done & done; wait; sleep 1000";
    let supervised = Supervised::new(script, json!({ "readiness": probe }));
    let _shim = supervised.begin();
    wait(|| supervised.events("summary").iter().any(|summary| summary["to"] == "notready"));
    assert!(supervised.view()["probes"][0]["output"].as_str().expect("text").starts_with("cpu.pressure some avg10="));
    fs::write(supervised.bundle.rootfs("tmp/enough"), "").expect("write");
    let begun = std::time::Instant::now();
    while supervised.view()["summary"] != "healthy" {
        assert!(begun.elapsed() < Duration::from_secs(60), "the pressure does not pass");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_log_is_kept_and_its_end_goes_into_the_record() {
    let supervised = Supervised::new("", json!({}));
    let log = supervised.bundle.dir.join("out.log");
    let health = json!({"log": {"path": log, "maxBytes": 4096, "keep": 1}});
    fs::write(supervised.bundle.dir.join("health.json"), health.to_string()).expect("health.json");
    let script = "i=0; while [ $i -lt 400 ]; do echo line $i of many; i=$((i+1)); done; echo the last word >&2; exit 1";
    let supervised = Supervised { bundle: supervised.bundle.args(&["sh", "-c", script]) };
    let said = supervised.run();
    assert_eq!((said.code, said.stdout().as_str()), (Some(1), ""));
    let (new, old) = (value(&log).expect("the log"), value(log.with_extension("log.1")).expect("the older log"));
    assert!(new.len() <= 4096 && old.len() <= 4096 && (old + "\n" + &new).contains("line 399 of many"));
    assert_eq!(supervised.events("exit")[0]["stderr"], "the last word\n");
}

/// Where the kernel tells who is not the parent (6.15), the status is the true one.
#[test]
fn another_supervisor_goes_on_after_the_death_of_one() {
    let supervised = Supervised::new("while [ ! -e /tmp/end ]; do sleep 0.05; done; exit 5", json!({}));
    let shim = supervised.begin();
    supervised.await_summary("healthy");
    let pid = supervised.pid();
    shim.signal("KILL");
    shim.end();
    assert!(alive(pid));
    let resume = supervised.command(&["resume", &supervised.bundle.id]);
    let resumed = Shim(Some(begin(resume)));
    wait(|| supervised.events("supervisor").iter().any(|event| event["resumed"] == pid));
    assert_eq!(supervised.view()["pid"], pid);
    fs::write(supervised.bundle.rootfs("tmp/end"), "").expect("write");
    let said = resumed.end();
    let exit = supervised.events("exit")[0]["exit"].clone();
    if kernel() >= (6, 15) {
        assert_eq!((said.code, &exit["code"]), (Some(5), &json!(5)), "{exit}");
    } else {
        assert_eq!(exit["kind"], "unknown");
    }
    nothing_left(&supervised);
}

#[test]
fn an_end_that_nobody_has_seen_is_unknown_and_counts_as_a_failure() {
    let health = json!({"restart": {"policy": "on-failure", "firstDelaySeconds": 0.01}});
    let supervised = Supervised::new("sleep 1000", health);
    let shim = supervised.begin();
    supervised.await_summary("healthy");
    let pid = supervised.pid();
    shim.signal("KILL");
    shim.end();
    supervised.bundle.on("kill", &["KILL"]).well();
    // As long as its parent has not waited for it the kernel still knows.
    wait(|| !PathBuf::from(format!("/proc/{pid}")).exists());
    let resumed = Shim(Some(begin(supervised.command(&["resume", &supervised.bundle.id]))));
    wait(|| supervised.events("start").len() == 2);
    assert_eq!(supervised.events("exit")[0]["exit"]["kind"], "unknown");
    supervised.await_summary("healthy");
    assert_eq!(resumed.stop().code, Some(0));
}

/// The service manager is this test: it keeps what it is given, and passes it to the next supervisor (sd_listen_fds(3)).
#[test]
fn an_end_that_nobody_has_seen_is_known_to_who_kept_its_process() {
    let supervised = Supervised::new("while [ ! -e /tmp/end ]; do sleep 0.05; done; exit 5", json!({}));
    let path = supervised.bundle.dir.join("manager.sock");
    let manager = UnixDatagram::bind(&path).expect("bind");
    manager.set_read_timeout(Some(Duration::from_secs(10))).expect("a bound");
    let mut command = supervised.running(&[]);
    command.env("NOTIFY_SOCKET", &path);
    let shim = Shim(Some(begin(command)));
    let (name, kept) = loop {
        let (text, file) = common::any_message(&manager);
        if let Some(name) = text.strip_prefix("FDSTORE=1\nFDPOLL=0\nFDNAME=") {
            break (name.to_owned(), file.expect("a descriptor"));
        }
    };
    supervised.await_summary("healthy");
    let pid = supervised.pid();
    shim.kill();
    fs::write(supervised.bundle.rootfs("tmp/end"), "").expect("write");
    wait(|| !PathBuf::from(format!("/proc/{pid}")).exists());

    let again = supervised.running(&["--resume"]);
    let mut command = Command::new("sh");
    command.args(["-c", r#"LISTEN_PID=$$; export LISTEN_PID; exec "$@" 3<&0 </dev/null"#, "sh"]);
    command.arg(again.get_program()).args(again.get_args()).stdin(kept).env("NOTIFY_SOCKET", &path);
    command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", &name);
    let said = outcome(command);
    let exit = &supervised.events("exit")[0];
    if kernel() >= (6, 15) {
        assert_eq!((said.code, &exit["exit"]["code"], &exit["missed"]), (Some(5), &json!(5), &json!(true)), "{exit}");
    } else {
        assert_eq!((said.code, &exit["exit"]["kind"]), (Some(1), &json!("unknown")));
    }
    let heard = |wanted: &str| while common::any_message(&manager).0 != wanted {};
    heard(&format!("FDSTOREREMOVE=1\nFDNAME={name}"));
    nothing_left(&supervised);
}

#[test]
fn a_run_goes_on_where_a_supervisor_was_and_begins_where_none_was() {
    let supervised = Supervised::new("sleep 1000", json!({}));
    let shim = Shim(Some(begin(supervised.running(&["--resume"]))));
    supervised.await_summary("healthy");
    let pid = supervised.pid();
    shim.kill();
    let shim = Shim(Some(begin(supervised.running(&["--resume"]))));
    wait(|| supervised.events("supervisor").iter().any(|event| event["resumed"] == pid));
    assert_eq!(supervised.events("start").len(), 1);
    assert_eq!(supervised.view()["pid"], pid);
    shim.kill();
    let other = Bundle::script("true");
    let mut command = supervised.command(&["run", "--resume", "--root"]);
    command.arg(&supervised.bundle.store).arg(&other.dir).arg(&supervised.bundle.id);
    outcome(command).fails("had the bundle");
    assert!(alive(pid));
    let shim = supervised.resume();
    wait(|| supervised.events("supervisor").iter().filter(|event| event["resumed"] == pid).count() == 2);
    assert_eq!(shim.stop().code, Some(0));
    nothing_left(&supervised);
}

#[test]
fn a_supervisor_is_replaced_in_its_place() {
    let supervised = Supervised::new("while [ ! -e /tmp/end ]; do sleep 0.05; done; exit 6", json!({}));
    let shim = supervised.begin();
    supervised.await_summary("healthy");
    let pid = supervised.pid();
    // A client that has connected before stays in the queue of the same socket.
    assert_eq!(supervised.ask("control.sock", "POST /v1/upgrade").0, 200);
    wait(|| supervised.events("supervisor").iter().any(|event| event["resumed"] == pid));
    assert!(supervised.events("supervisor").iter().any(|event| event["child"] == true));
    assert_eq!(supervised.view()["pid"], pid);
    let parent = common::proc_status(pid, "PPid");
    assert_eq!(parent, shim.pid().to_string());
    fs::write(supervised.bundle.rootfs("tmp/end"), "").expect("write");
    assert_eq!(shim.end().code, Some(6));
    nothing_left(&supervised);
}

#[test]
fn a_detached_supervisor_stays_and_is_asked_over_its_socket() {
    let supervised = Supervised::new("sleep 1000", json!({"stop": {"timeoutSeconds": 0.1}}));
    outcome(supervised.running(&["--detach"])).well();
    let pid = supervised.pid();
    assert!(alive(pid));
    outcome(supervised.running(&["--detach"])).fails("has a supervisor already");
    assert!(alive(pid));
    // What changes something is not for the socket that is read.
    let stop = format!("POST /v1/containers/{}/stop", supervised.bundle.id);
    assert_eq!(supervised.ask("read.sock", &stop).0, 403);
    assert_eq!(supervised.ask("control.sock", &stop).0, 200);
    wait(|| supervised.directory().join("last.json").exists());
    assert!(!alive(pid));
    nothing_left(&supervised);
}

/// It goes to the root directory, and all that it writes later lies where its caller meant.
#[test]
fn a_directory_is_the_callers_also_for_a_detached_supervisor() {
    let supervised = Supervised::new("sleep 1000", json!({"stop": {"timeoutSeconds": 0.1}}));
    let mut command = Command::new(SHIM);
    command.current_dir(&supervised.bundle.dir).args(["--directory", "shims", "run", "--detach", "--root"]);
    command.arg(&supervised.bundle.store).arg(&supervised.bundle.dir).arg(&supervised.bundle.id);
    outcome(command).well();
    let stop = format!("POST /v1/containers/{}/stop", supervised.bundle.id);
    assert_eq!(supervised.ask("control.sock", &stop).0, 200);
    wait(|| supervised.directory().join("last.json").exists());
    nothing_left(&supervised);
}

#[test]
fn a_restart_is_asked_for_and_counts_as_none() {
    let supervised = Supervised::new("sleep 1000", json!({"stop": {"timeoutSeconds": 0.1}}));
    let shim = supervised.begin();
    supervised.await_summary("healthy");
    let before = supervised.pid();
    let restart = format!("POST /v1/containers/{}/restart", supervised.bundle.id);
    assert_eq!(supervised.ask("control.sock", &restart).0, 200);
    wait(|| supervised.events("start").len() == 2);
    assert!(!alive(before) && alive(supervised.pid()));
    supervised.await_summary("healthy");
    assert_eq!(supervised.view()["restarts"], 0);
    assert_eq!(shim.stop().code, Some(0));
}

#[test]
fn an_event_is_waited_for() {
    let supervised = Supervised::new("sleep 1000", json!({}));
    let _shim = supervised.begin();
    supervised.await_summary("healthy");
    let (_, seen) = supervised.ask("read.sock", "GET /v1/events");
    let seq = supervised.view()["seq"].as_u64().expect("a number");
    assert_eq!(seen.lines().count() as u64, seq);
    assert_eq!(supervised.ask("read.sock", &format!("GET /v1/events?since={seq}&wait=0.1")), (200, String::new()));
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| supervised.ask("read.sock", &format!("GET /v1/events?since={seq}&wait=9")).1);
        std::thread::sleep(Duration::from_millis(300));
        assert!(!waits.is_finished(), "there is none yet");
        supervised.bundle.on("pause", &[]).well();
        let answer = waits.join().expect("an answer");
        let first: Value = serde_json::from_str(answer.lines().next().expect("an event")).expect("JSON");
        assert_eq!(first["data"]["to"], "paused", "{answer}");
    });
    supervised.bundle.on("resume", &[]).well();
}

#[test]
fn one_thread_and_no_descriptor_of_the_supervisors_in_the_container() {
    let supervised = Supervised::new("ls -l /proc/self/fd > /tmp/fds; sleep 1000", json!({}));
    let shim = supervised.begin();
    supervised.await_summary("healthy");
    assert_eq!(common::proc_status(shim.pid(), "Threads"), "1");
    wait(|| value(supervised.bundle.rootfs("tmp/fds")).is_ok_and(|fds| fds.contains(" 2 -> ")));
    let fds = value(supervised.bundle.rootfs("tmp/fds")).expect("fds");
    let numbers: Vec<_> = fds.lines().filter_map(|line| line.split(" -> ").next()?.split(' ').next_back()).collect();
    // 3 is the directory that ls reads.
    assert!(numbers.iter().all(|number| ["0", "1", "2", "3"].contains(number) || *number == "total"), "{fds}");
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", shim.pid())).unwrap_or_default();
    assert_eq!(children.split_whitespace().collect::<Vec<_>>(), [supervised.pid().to_string()]);
}

fn kernel() -> (u32, u32) {
    let release = value("/proc/sys/kernel/osrelease").expect("the kernel's release");
    let mut numbers = release.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[test]
fn a_program_is_told_of_changes_in_a_cgroup_of_its_own() {
    let supervised = Supervised::new("sleep 1000", json!({}));
    let told = supervised.bundle.dir.join("told");
    let script = supervised.bundle.dir.join("hook");
    // What it leaves running is none of the container's, and ends with the supervisor at the latest.
    let text = format!(
        "#!/bin/sh\n(echo \"$*\"; cat; echo; grep ^0:: /proc/self/cgroup; env | sort | xargs) >> {}\nsleep 1001 &\n",
        told.display()
    );
    fs::write(&script, text).expect("hook");
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let health = json!({
        "push": [{"on": ["healthy", "stopped"], "exec": [script, "{id}", "{summary}", "{reason}", "{status}"]}],
        "stop": {"timeoutSeconds": 0.1},
    });
    fs::write(supervised.bundle.dir.join("health.json"), health.to_string()).expect("health.json");
    let mut command = supervised.running(&[]);
    let shim = Shim(Some(begin({
        command.env("SECRET", "x");
        command
    })));
    let id = &supervised.bundle.id;
    wait(|| value(&told).is_ok_and(|text| text.lines().count() >= 4));
    // The next supervisor has the same cgroup.
    shim.kill();
    let shim = supervised.resume();
    wait(|| value(&told).is_ok_and(|text| text.lines().count() >= 8));
    assert_eq!(shim.stop().code, Some(0));
    let text = value(&told).expect("what was told");
    let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(supervised.directory()).expect("its directory"));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        (lines[0], lines[8]),
        (format!("{id} healthy ok 0").as_str(), format!("{id} stopped exited 2").as_str())
    );
    let event: Value = serde_json::from_str(lines[1]).expect("an event");
    assert_eq!((&event["type"], &event["data"]["to"]), (&json!("org.orlop.container.summary"), &json!("healthy")));
    assert!(lines[2].ends_with(&format!("/{id}.{inode:x}.told")) && lines[6] == lines[2], "{}", lines[6]);
    assert!(lines[3].starts_with("PATH=") && !lines[3].contains("SECRET"), "{}", lines[3]);
    let cgroup = PathBuf::from("/sys/fs/cgroup").join(lines[2].trim_start_matches("0::/"));
    assert!(!cgroup.exists(), "{} is left", cgroup.display());
}

#[test]
fn a_heartbeat_says_the_state_and_its_secret_to_nobody_else() {
    let supervised = Supervised::new("sleep 1000", json!({}));
    let server = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let secret = supervised.bundle.dir.join("token");
    fs::write(&secret, "X-Consul-Token: 0123-secret\n").expect("write");
    fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("chmod");
    let health = json!({
        "heartbeat": {
            "url": format!("http://{}/v1/agent/check/update/ctr:{{id}}", server.local_addr().expect("an address")),
            "body": "{\"Status\":\"{consul}\",\"Output\":\"{reason}\"}",
            "headerFile": secret, "periodSeconds": 0.2,
        },
        "stop": {"timeoutSeconds": 0.1},
    });
    fs::write(supervised.bundle.dir.join("health.json"), health.to_string()).expect("health.json");
    let shim = supervised.begin();
    let heard = |status: &str| {
        let (mut stream, _) = server.accept().expect("accept");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
        let mut text = String::new();
        let mut buffer = [0; 1024];
        while !text.contains("\"}") {
            let length = stream.read(&mut buffer).expect("a request");
            assert!(length > 0, "{text}");
            text.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").expect("answer");
        text
    };
    let mut text = heard("200 OK");
    while !text.contains("passing") {
        text = heard("200 OK");
    }
    assert!(
        text.starts_with(&format!("PUT /v1/agent/check/update/ctr:{} HTTP/1.1\r\n", supervised.bundle.id)),
        "{text}"
    );
    assert!(
        text.contains("\r\nX-Consul-Token: 0123-secret\r\n")
            && text.ends_with("{\"Status\":\"passing\",\"Output\":\"ok\"}")
    );
    let said = |error: Value| {
        wait(|| supervised.events("supervisor").iter().any(|event| event.get("heartbeat") == Some(&error)))
    };
    heard("403 No");
    said(json!("HTTP status 403"));
    heard("200 OK");
    said(Value::Null);
    for file in ["events.ndjson", "supervisor.json"] {
        assert!(!value(supervised.directory().join(file)).expect(file).contains("0123-secret"), "{file}");
    }
    let cmdline = value(format!("/proc/{}/cmdline", shim.pid())).expect("cmdline");
    assert!(!cmdline.contains("0123-secret"));
    shim.signal("TERM");
    while !heard("200 OK").contains("critical") {}
    shim.end();
}

#[test]
#[ignore = "needs pure cgroup v2 with all controllers: run in the VM by tests/run"]
fn an_end_for_want_of_memory_is_told_from_a_signal() {
    // tail keeps what it reads until a line ends
    let supervised = Supervised::new("exec tail /dev/zero", json!({}));
    let supervised = Supervised {
        bundle: supervised.bundle.edit(|config| {
            config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20, "swap": 64 << 20});
        }),
    };
    assert_eq!(supervised.run().code, Some(137));
    let exit = supervised.events("exit")[0].clone();
    assert_eq!((&exit["exit"]["kind"], &exit["exit"]["signal"]), (&json!("oom"), &json!(9)));
    assert!(exit["counters"]["memory.events oom_kill"].as_f64() >= Some(1.0), "{exit}");
    assert_eq!(supervised.events("summary").last().expect("a summary")["reason"], "oom-kill");
}

#[test]
#[ignore = "needs pure cgroup v2 with all controllers: run in the VM by tests/run"]
fn a_childs_end_for_want_of_memory_is_an_event_and_no_exit() {
    let supervised = Supervised::new("tail /dev/zero; sleep 1000", json!({}));
    let supervised = Supervised {
        bundle: supervised.bundle.edit(|config| {
            config["linux"]["resources"]["memory"] = json!({"limit": 16 << 20, "swap": 16 << 20});
        }),
    };
    let _shim = supervised.begin();
    // The machine is an emulated one.
    let begun = std::time::Instant::now();
    while supervised.events("oom").is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(60), "no event");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(supervised.events("exit").is_empty());
    let view = supervised.view();
    let kills = view["counters"].as_array().expect("counters").iter().find(|pair| pair[0] == "memory.events oom_kill");
    assert!(kills.expect("a count")[1].as_f64() >= Some(1.0), "{view}");
}

/// Without a probe that would wake the supervisor up.
#[test]
#[ignore = "needs pure cgroup v2 with all controllers: run in the VM by tests/run"]
fn own_limits_that_are_hit_are_told() {
    let cases = [
        ("while :; do sleep 5 & sleep 0.2; done", json!({"pids": {"limit": 3}}), "pids-limit"),
        ("while :; do :; done", json!({"cpu": {"quota": 5000, "period": 50000}}), "throttled"),
    ];
    for (script, resources, reason) in cases {
        let supervised = Supervised::new(script, json!({}));
        let bundle = supervised.bundle.edit(|config| config["linux"]["resources"] = resources);
        let supervised = Supervised { bundle };
        let _shim = supervised.begin();
        let begun = std::time::Instant::now();
        while supervised.events("summary").last().is_none_or(|last| last["reason"] != reason) {
            assert!(begun.elapsed() < Duration::from_secs(60), "{reason}: {:?}", supervised.events("summary"));
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn a_container_of_somebody_elses_is_left_alone() {
    let supervised = Supervised::new("sleep 1000", json!({"restart": "always"}));
    supervised.bundle.run_with(&["--detach"]).well();
    supervised.run().fails("container with given ID already exists");
    assert_eq!(supervised.bundle.status(), "running");
    supervised.bundle.on("delete", &["--force"]).well();
}

/// Whoever has asked for it hears why, once, and has nothing to look for afterwards.
#[test]
fn a_first_start_that_fails_is_final() {
    let supervised = Supervised::new("", json!({"restart": "always"}));
    let supervised = Supervised { bundle: supervised.bundle.args(&["/no/such/program"]) };
    for words in [&[][..], &["--detach"]] {
        let said = outcome(supervised.running(words));
        said.fails("/no/such/program");
        assert_eq!(said.stderr().matches("unable to start").count(), 1, "{}", said.stderr());
        nothing_left(&supervised);
    }
}

#[test]
fn a_stop_counts_while_it_is_made_and_while_it_is_taken_away() {
    for hook in ["createRuntime", "poststart"] {
        let supervised = Supervised::new("sleep 1000", json!({"restart": "always"})).gated(hook);
        let shim = supervised.begin();
        supervised.await_gate();
        assert_eq!(shim.stop().code, Some(0), "{hook}");
        nothing_left(&supervised);
    }
    let health = json!({"restart": {"policy": "always", "firstDelaySeconds": 0.01}});
    let supervised = Supervised::new("exit 1", health).gated("poststop");
    let shim = supervised.begin();
    supervised.await_gate();
    shim.signal("TERM");
    supervised.open_gate();
    assert_eq!(shim.end().code, Some(0));
    assert_eq!(supervised.events("start").len(), 1);
    nothing_left(&supervised);
}

#[test]
fn a_restart_that_is_asked_for_while_it_is_made_is_no_stop() {
    let supervised = Supervised::new("sleep 1000", json!({})).gated("createRuntime");
    let shim = supervised.begin();
    supervised.await_gate();
    supervised.post("restart");
    supervised.open_gate();
    supervised.await_summary("healthy");
    assert_eq!(shim.stop().code, Some(0));
}

#[test]
fn a_supervisor_that_died_in_any_phase_is_gone_on_from_there() {
    // Being made, being started: it is made anew, and nothing is left of the first attempt.
    for hook in ["createRuntime", "poststart"] {
        let supervised = Supervised::new("echo x >> /tmp/ran; sleep 1000", json!({})).gated(hook);
        let shim = supervised.begin();
        supervised.await_gate();
        shim.kill();
        supervised.open_gate();
        let resumed = supervised.resume();
        supervised.await_summary("healthy");
        assert_eq!(supervised.bundle.status(), "running", "{hook}");
        assert_eq!(resumed.stop().code, Some(0), "{hook}");
        nothing_left(&supervised);
    }
    // Being taken away: it was over, and is.
    let supervised = Supervised::new("exit 3", json!({})).gated("poststop");
    let shim = supervised.begin();
    supervised.await_gate();
    shim.kill();
    supervised.open_gate();
    let said = supervised.resume().end();
    assert_eq!((said.code, supervised.events("start").len()), (Some(3), 1), "{}", said.stderr());
    nothing_left(&supervised);
    // Between two starts: it waits for the rest of the time.
    let supervised = Supervised::new("exit 3", json!({"restart": {"policy": "always", "firstDelaySeconds": 60}}));
    let shim = supervised.begin();
    supervised.await_summary("failed");
    shim.kill();
    let resumed = supervised.resume();
    wait(|| !supervised.events("supervisor").is_empty());
    assert_eq!(supervised.view()["lifecycle"], "exited");
    assert_eq!(resumed.stop().code, Some(0));
    assert_eq!(supervised.events("start").len(), 1);
}

#[test]
fn a_restart_goes_on_over_the_death_of_the_supervisor() {
    let supervised =
        Supervised::new("trap '' TERM; while :; do sleep 0.1; done", json!({"stop": {"timeoutSeconds": 60}}));
    let shim = supervised.begin();
    supervised.await_summary("healthy");
    let pid = supervised.pid();
    supervised.post("restart");
    shim.kill();
    let resumed = supervised.resume();
    supervised.await_summary("stopping");
    supervised.bundle.on("kill", &["KILL"]).well();
    wait(|| supervised.events("start").len() == 2);
    assert_ne!(supervised.pid(), pid);
    supervised.post("stop?timeout=0.1");
    assert_eq!(resumed.end().code, Some(0));
}

/// Each start, exec and removal is a worker's. One that is killed takes nothing with it.
#[test]
fn a_worker_that_is_killed_is_a_failure_and_no_more() {
    let again = json!({"policy": "on-failure", "firstDelaySeconds": 0.01});
    let kill = |shim: &Shim| {
        let workers = shim.workers();
        assert_eq!(workers.len(), 1, "{workers:?}");
        assert!(Command::new("kill").args(["-KILL", &workers[0].to_string()]).status().expect("kill").success());
    };
    for hook in ["createRuntime", "poststart"] {
        let supervised = Supervised::new("sleep 1000", json!({ "restart": again })).gated(hook);
        let shim = supervised.begin();
        supervised.await_gate();
        kill(&shim);
        shim.end().fails("killed by signal 9");
        nothing_left(&supervised);
    }
    let supervised =
        Supervised::new("test -e /tmp/again && sleep 1000; touch /tmp/again; exit 1", json!({ "restart": again }));
    let supervised = supervised.gated("poststop");
    let shim = supervised.begin();
    supervised.await_gate();
    kill(&shim);
    supervised.open_gate();
    wait(|| supervised.events("start").len() == 2);
    supervised.await_summary("healthy");
    assert_eq!(shim.stop().code, Some(0));
    nothing_left(&supervised);
}

/// It is not the parent of the container, before the upgrade and after it.
#[test]
fn a_supervisor_that_went_on_can_be_replaced() {
    let supervised = Supervised::new("while [ ! -e /tmp/end ]; do sleep 0.05; done; exit 5", json!({}));
    let shim = supervised.begin();
    supervised.await_summary("healthy");
    shim.kill();
    let resumed = supervised.resume();
    wait(|| supervised.events("supervisor").len() == 1);
    resumed.signal("USR2");
    wait(|| supervised.events("supervisor").len() == 2);
    fs::write(supervised.bundle.rootfs("tmp/end"), "").expect("write");
    let said = resumed.end();
    assert_eq!(supervised.events("exit").len(), 1);
    if kernel() >= (6, 15) {
        assert_eq!(said.code, Some(5));
    }
    nothing_left(&supervised);
}

#[test]
fn an_upgrade_ends_probes_that_are_being_made_and_waits_for_a_good_configuration() {
    let probe = json!({"exec": {"command": ["sleep", "777"]}, "periodSeconds": 300, "timeoutSeconds": 600});
    let supervised = Supervised::new("sleep 1000", json!({ "liveness": probe }));
    let shim = supervised.begin();
    let probes = || {
        let procs = fs::read_to_string(common::cgroup_of(supervised.pid()).join("cgroup.procs")).unwrap_or_default();
        procs.lines().filter(|pid| value(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("777"))).count()
    };
    wait(|| !supervised.events("start").is_empty() && probes() == 1);
    let health = supervised.bundle.dir.join("health.json");
    let good = fs::read(&health).expect("health.json");
    fs::write(&health, "{").expect("health.json");
    shim.signal("USR2");
    wait(|| supervised.events("supervisor").iter().any(|event| event["upgrade"].to_string().contains("health.json")));
    assert_eq!((supervised.view()["lifecycle"].as_str(), probes()), (Some("running"), 1));
    fs::write(&health, good).expect("health.json");
    shim.signal("USR2");
    wait(|| supervised.events("supervisor").iter().any(|event| event["child"] == true));
    // The new program's own, after the old one's has ended.
    wait(|| supervised.view()["probes"][0]["count"] == 0 && probes() == 1);
    assert_eq!(shim.stop().code, Some(0));
}
