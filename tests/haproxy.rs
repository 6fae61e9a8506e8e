//! HAProxy itself, with the configuration in examples/haproxy: whom it sends work to.

mod common;
#[path = "common/node.rs"]
mod node;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Bundle, begin, free_port};
use node::{Place, Process, without_network};
use orlop::shim::health::{Reason, Summary};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use serde_json::json;

struct Proxy {
    child: Child,
    stats: PathBuf,
    port: u16,
}

fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/haproxy").join(name);
    fs::read_to_string(path).expect(name)
}

impl Proxy {
    /// By an example's text, with another port and another socket.
    fn new(directory: &Path, config: &str) -> Self {
        let (port, stats) = (free_port(), directory.join("haproxy.sock"));
        let config = config.replace("/run/haproxy/orlop.sock", &stats.to_string_lossy());
        let config = config.replace(":8000", &format!(":{port}"));
        let path = directory.join("haproxy.cfg");
        fs::write(&path, config).expect("haproxy.cfg");
        let child =
            Command::new("haproxy").arg("-db").arg("-f").arg(path).stdin(Stdio::null()).spawn().expect("haproxy");
        Self { child, stats, port }
    }

    /// What is counted of a server, by the names of the columns; None: it does not answer yet.
    fn stat(&self, server: &str) -> Option<BTreeMap<String, String>> {
        let mut socket = UnixStream::connect(&self.stats).ok()?;
        socket.write_all(b"show stat\n").ok()?;
        let mut text = String::new();
        socket.read_to_string(&mut text).ok()?;
        let names = text.lines().next()?.trim_start_matches("# ").split(',').map(str::to_owned);
        let line = text.lines().find(|line| line.starts_with(&format!("containers,{server},")))?;
        Some(names.zip(line.split(',').map(str::to_owned)).collect())
    }

    /// The status of a server, whose weight must be what the configuration says: one.
    fn status(&self, server: &str) -> Option<String> {
        let stat = self.stat(server)?;
        assert_eq!(stat["weight"], "1", "{stat:?}");
        Some(stat["status"].clone())
    }

    fn is(&self, server: &str, status: &str) -> bool {
        self.status(server).is_some_and(|found| found.split(' ').next() == Some(status))
    }

    /// It is sent work. A server that nobody but an agent speaks of has no status of a check.
    fn up(&self, server: &str) -> bool {
        self.status(server).is_some_and(|found| found == "UP" || found == "no check")
    }

    /// A request through the proxy: its status.
    fn ask(&self) -> Option<u16> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
        stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.split(' ').nth(1)?.parse().ok()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A container that serves `/index.html` at a port of the network that the proxy is in.
fn server(port: u16) -> Bundle {
    without_network(Bundle::script(&format!(
        "mkdir /tmp/www; echo it works > /tmp/www/index.html; exec httpd -f -p 127.0.0.1:{port} -h /tmp/www"
    )))
}

#[track_caller]
fn soon(done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(30), "not within half a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn work_goes_to_a_container_that_is_ready_and_to_no_other() {
    let (program, supervisor) = (free_port(), free_port());
    let bundle = server(program);
    let readiness = json!({"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 0.1, "failureThreshold": 1, "timeoutSeconds": 5});
    let health = json!({"readiness": readiness, "stop": {"timeoutSeconds": 0.1}});
    fs::write(bundle.dir.join("health.json"), health.to_string()).expect("health.json");
    let config = example("haproxy.cfg").replace("inter 500ms", "inter 50ms");
    let config = config.replace(":8080", &format!(":{program}")).replace("9180", &supervisor.to_string());
    let proxy = Proxy::new(&bundle.dir, &config);
    soon(|| proxy.is("web", "DOWN"));

    let mut shim = Command::new(env!("CARGO_BIN_EXE_orlop-shim"));
    shim.arg("--directory").arg(bundle.dir.join("shims")).args([
        "run",
        "--listen",
        &format!("127.0.0.1:{supervisor}"),
        "--root",
    ]);
    shim.arg(&bundle.store).arg(&bundle.dir).arg(&bundle.id).stdin(Stdio::null());
    let shim = begin(shim);
    // Its program answers, and it is not ready: no work, whoever asks.
    soon(|| TcpStream::connect(("127.0.0.1", program)).is_ok() && bundle.status() == "running");
    std::thread::sleep(Duration::from_millis(300));
    assert!(proxy.is("web", "DOWN"));
    assert_eq!(proxy.ask(), Some(503));
    fs::write(bundle.rootfs("tmp/ready"), "").expect("write");
    soon(|| proxy.is("web", "UP"));
    assert_eq!(proxy.ask(), Some(200));
    fs::remove_file(bundle.rootfs("tmp/ready")).expect("remove");
    soon(|| proxy.is("web", "DOWN"));
    fs::write(bundle.rootfs("tmp/ready"), "").expect("write");
    soon(|| proxy.is("web", "UP"));
    // What is frozen takes none, and what goes on does.
    bundle.on("pause", &[]).well();
    soon(|| proxy.is("web", "DOWN"));
    bundle.on("resume", &[]).well();
    soon(|| proxy.is("web", "UP"));
    let _ = Command::new("kill").arg(shim.child.id().to_string()).status();
    shim.end();
    soon(|| proxy.is("web", "DOWN"));
    assert_eq!(proxy.ask(), Some(503));
}

/// The pair of node.cfg, of one container, and beside it a server of which the agent alone speaks.
fn pair(place: &Place, id: &str, program: u16, supervisor: u16, agent: u16) -> Proxy {
    let config = example("node.cfg").replace("inter 500ms", "inter 50ms");
    let config = config.replace(":8080", &format!(":{program}")).replace("9180", &supervisor.to_string());
    let config = config.replace("9182", &agent.to_string()).replace("\"web\\n\"", &format!("\"{id}\\n\""));
    let second = config.lines().find(|line| line.contains("server web2 ")).expect("the second server").to_owned();
    let alone = format!("    server alone 127.0.0.1:{program} no-check agent-send \"{id}\\n\"");
    Proxy::new(&place.base, &config.replace(&second, &alone))
}

#[test]
fn an_agent_speaks_for_a_container_and_another_check_beside_it() {
    let place = Place::new("haproxy-pair");
    let (program, supervisor, agent) = (free_port(), free_port(), free_port());
    let bundle = server(program);
    let health = json!({
        "readiness": {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 0.1, "failureThreshold": 1, "timeoutSeconds": 5},
        "stop": {"timeoutSeconds": 0.1},
    });
    let shim = place.supervise(&bundle, &health.to_string(), &["--listen", &format!("127.0.0.1:{supervisor}")]);
    let listens = format!("127.0.0.1:{agent}");
    let node = place.node(&["--agent", &listens]);
    let proxy = pair(&place, &bundle.id, program, supervisor, agent);
    let ready = |is: bool| match is {
        true => fs::write(bundle.rootfs("tmp/ready"), "").expect("write"),
        false => fs::remove_file(bundle.rootfs("tmp/ready")).expect("remove"),
    };
    let both = |status: &str, alone: &str| soon(|| proxy.is("web", status) && proxy.is("alone", alone));
    both("DOWN", "DOWN");
    ready(true);
    both("UP", "no");
    assert_eq!(proxy.ask(), Some(200));
    bundle.on("pause", &[]).well();
    both("DOWN", "DRAIN");
    bundle.on("resume", &[]).well();
    both("UP", "no");

    // Without the node HAProxy keeps what it has heard last: the other check decides, and where there is none, nobody does.
    node.end("KILL");
    ready(false);
    soon(|| proxy.is("web", "DOWN"));
    assert!(proxy.up("alone"), "{:?}", proxy.status("alone"));
    ready(true);
    soon(|| proxy.up("web"));
    let _node = place.node(&["--agent", &listens]);
    both("UP", "no");

    // The program answers all the same, and nobody knows how it is.
    shim.end("KILL");
    both("DOWN", "DOWN");
    assert!(TcpStream::connect(("127.0.0.1", program)).is_ok());
    assert!(proxy.stat("alone").expect("a server")["last_agt"].contains("no-supervisor"));
}

/// A supervisor that says what the test wants.
fn pretend(place: &Place, id: &str) -> Arc<Mutex<String>> {
    let path = place.base.join("shims").join(id);
    fs::create_dir_all(&path).expect("a directory");
    let listener = UnixListener::bind(path.join("read.sock")).expect("a socket");
    let said = Arc::new(Mutex::new(String::new()));
    let says = said.clone();
    // It ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(&stream).lines();
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            let body = says.lock().expect("what is said").clone();
            let _ = write!(&stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        }
    });
    said
}

fn says(id: &str, summary: &str, reason: &str) -> String {
    let view = json!([{
        "id": id, "bundle": "/b", "summary": summary, "reason": reason, "since": "", "seq": 1, "lifecycle": reason, "pressure": reason,
        "crash": reason, "restarts": 0, "ageSeconds": 0.0, "lagSeconds": 0.0, "probes": [],
    }]);
    view.to_string()
}

/// The words of all bad states, and what a supervisor that has lost its mind could say, through the node and to HAProxy itself.
#[test]
fn no_bad_state_leaves_a_server_up_or_changes_its_weight() {
    let place = Place::new("haproxy-fuzz");
    let mut runner = TestRunner::default();
    let mut any = |pattern: &str| {
        let strategy = proptest::string::string_regex(pattern).expect("a pattern");
        strategy.new_tree(&mut runner).expect("a text").current()
    };
    let bad = Summary::ALL.into_iter().filter(|summary| !matches!(summary, Summary::Healthy | Summary::Degraded));
    let reasons = Reason::ALL.into_iter().cycle();
    let known = bad.zip(reasons).map(|(summary, reason)| (summary.to_string(), reason.to_string()));
    let mut cases: Vec<(String, String)> = known.collect();
    for _ in 0..12 {
        // Words that HAProxy would take for its own, wherever they come to stand.
        cases.push((
            "healthy".to_owned(),
            any("[#\n\r\t ,%a-z]{0,8}(up|ready|up ready 100%|50%|maxconn:1)[#\n\r ,]{0,3}"),
        ));
        cases.push((any("(healthy|up|ready)[ #\n,]{1,3}[0-9]{1,3}%"), "ok".to_owned()));
    }
    let ids: Vec<String> = (0..cases.len()).map(|number| format!("c{number}")).collect();
    let said: Vec<_> = ids.iter().map(|id| pretend(&place, id)).collect();
    let well = || ids.iter().zip(&said).for_each(|(id, said)| *said.lock().expect("said") = says(id, "healthy", "ok"));
    well();
    let agent = free_port();
    let _node: Process = place.node(&["--agent", &format!("127.0.0.1:{agent}")]);
    let mut config = example("node.cfg");
    config.truncate(config.find("    option httpchk").expect("the check"));
    let mut server = |name: &str, sent: &str| {
        config += &format!(
            "    server {name} 127.0.0.1:1 agent-check agent-addr 127.0.0.1 agent-port {agent} agent-inter 50ms agent-send \"{sent}\"\n"
        );
    };
    ids.iter().for_each(|id| server(id, &format!("{id}\\n")));
    // Who asks for what is none is told nothing good: an id that is no container's, two, a path, a command, nothing.
    let wrong = ["up\\n", "ready\\n", "c0 c1\\n", "../c0\\n", "c0 100%\\n", "\\n", "c0#\\n"];
    wrong.iter().enumerate().for_each(|(number, sent)| server(&format!("wrong{number}"), sent));
    server("long", &format!("{}\\n", "x".repeat(1500)));
    let proxy = Proxy::new(&place.base, &config);
    soon(|| ids.iter().all(|id| proxy.up(id)));
    soon(|| (0..wrong.len()).all(|number| proxy.is(&format!("wrong{number}"), "DOWN")));
    soon(|| proxy.is("long", "DOWN"));
    for ((id, said), (summary, reason)) in ids.iter().zip(&said).zip(&cases) {
        *said.lock().expect("said") = says(id, summary, reason);
    }
    let begun = Instant::now();
    while let Some(number) = ids.iter().position(|id| proxy.up(id)) {
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?} leaves it up", cases[number]);
        std::thread::sleep(Duration::from_millis(50));
    }
    // It was heard, and not only by some accident: all come back.
    well();
    soon(|| ids.iter().all(|id| proxy.up(id)));
}

/// Two containers behind HAProxy under a load, of which one is stopped: what became of the requests, by the load and by HAProxy.
fn stopped_under_load(name: &str, stop: &str) -> (String, BTreeMap<&'static str, u64>) {
    let place = Place::new(name);
    let agent = free_port();
    let mut config = example("node.cfg").replace("9182", &agent.to_string());
    let mut containers = Vec::new();
    for (name, program, supervisor) in [("web", "8080", "9180"), ("web2", "8081", "9190")] {
        let (own, told) = (free_port(), free_port());
        let bundle = server(own);
        let health = format!(r#"{{"stop": {stop}}}"#);
        let shim = place.supervise(&bundle, &health, &["--listen", &format!("127.0.0.1:{told}")]);
        config = config.replace(&format!(":{program} "), &format!(":{own} ")).replace(supervisor, &told.to_string());
        config = config.replace(&format!("\"{name}\\n\""), &format!("\"{}\\n\"", bundle.id));
        soon(|| TcpStream::connect(("127.0.0.1", own)).is_ok());
        containers.push((shim, bundle));
    }
    let _node = place.node(&["--agent", &format!("127.0.0.1:{agent}")]);
    let proxy = Proxy::new(&place.base, &config);
    // The agent has said so: nothing else has been heard that would take them down.
    let heard =
        |server: &str| proxy.stat(server).is_some_and(|stat| stat["agent_status"] == "L7OK" && stat["status"] == "UP");
    soon(|| heard("web") && heard("web2"));

    let mut wrk = Command::new("wrk");
    wrk.args(["-t", "1", "-c", "4", "-d", "60s"]).arg(format!("http://127.0.0.1:{}/index.html", proxy.port));
    let load = begin(wrk);
    let count = |server: &str, what: &str| -> u64 {
        proxy.stat(server).and_then(|stat| stat[what].parse().ok()).expect("a number")
    };
    soon(|| count("web", "stot") > 100 && count("web2", "stot") > 100);
    common::outcome(place.shim(&["stop", &containers[0].1.id])).well();
    soon(|| proxy.is("web", "DOWN") || proxy.is("web", "DRAIN"));
    let (after, other) = (count("web", "stot"), count("web2", "stot"));
    soon(|| count("web2", "stot") > other + 100);
    let late = count("web", "stot") - after;
    let running = Command::new("kill").args(["-INT", &load.child.id().to_string()]).status();
    assert!(running.is_ok_and(|status| status.success()), "the load has ended before");
    let said = load.end().well();
    let columns = ["econ", "eresp", "wretr", "wredis", "srv_abrt", "hrsp_5xx"];
    let lost = columns.map(|what| (what, count("web", what) + count("web2", what)));
    (said, lost.into_iter().chain([("late", late)]).collect())
}

#[test]
fn a_container_that_is_drained_loses_no_request() {
    let (said, lost) =
        stopped_under_load("haproxy-drain", r#"{"signal": "KILL", "timeoutSeconds": 60, "drainSeconds": 4}"#);
    assert!(said.contains("requests in") && !said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
    assert!(lost.values().all(|count| *count == 0), "{lost:?}\n{said}");
    // Without it HAProxy hears too late.
    let (_, lost) = stopped_under_load("haproxy-cut", r#"{"signal": "KILL", "timeoutSeconds": 60}"#);
    assert!(lost["econ"] + lost["eresp"] + lost["wretr"] > 0, "{lost:?}");
}
