//! `orlop-shim node`: several supervisors of real containers at one port.

mod common;
#[path = "common/node.rs"]
mod node;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Bundle, alive, begin, free_port, outcome, wait};
use node::{Place, ask, get, secret};
use serde_json::Value;

const STOP: &str = r#"{"stop": {"timeoutSeconds": 0.1}, "restart": "always"}"#;
const TOKEN: &str = "zq81-5vXk-token-of-this-test-0123456789";

fn listen(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

#[track_caller]
fn clean(metrics: &str) {
    let mut promtool =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).spawn().expect("promtool");
    promtool.stdin.take().expect("a pipe").write_all(metrics.as_bytes()).expect("write");
    assert!(promtool.wait().expect("wait").success(), "{metrics}");
}

/// The value of a sample, by its line up to there.
fn sample(port: u16, start: &str) -> Option<String> {
    let (_, text) = get(port, "/metrics");
    text.lines().find_map(|line| line.strip_prefix(start)).map(|rest| rest.trim().to_owned())
}

#[test]
fn all_containers_of_a_node_answer_at_one_port() {
    let place = Place::new("node-all");
    let (one, two) = (Bundle::sleeper(), Bundle::sleeper());
    let (_first, second) = (place.supervise(&one, STOP, &[]), place.supervise(&two, STOP, &[]));
    let port = free_port();
    let manager = std::os::unix::net::UnixDatagram::bind(place.base.join("notify")).expect("a socket");
    let node = place.node_of(&place.base.join("notify"), &["--listen", &listen(port)]);
    let mut heard = [0; 64];
    manager.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let length = manager.recv(&mut heard).expect("a message");
    assert_eq!(&heard[..length], b"READY=1");
    let line = |id: &str| ask(port, &format!("GET /readyz?id={id}"), "").unwrap_or_default();
    let said = |id: &str, status, text: &str| line(id) == (status, format!("{text}\n"));
    wait(|| said(&one.id, 200, "healthy ok") && said(&two.id, 200, "healthy ok"));
    assert_eq!(get(port, &format!("/livez?id={}", one.id)).0, 200);
    assert_eq!(get(port, "/readyz?id=other").0, 404);
    assert_eq!(get(port, "/healthz"), (200, "ok containers=2 unknown=0\n".to_owned()));
    let (status, all) = get(port, "/v1/containers");
    let all: Vec<Value> = serde_json::from_str(&all).expect("JSON");
    let pids: Vec<_> = all.iter().map(|view| view["pid"].as_u64()).collect();
    let mut wanted = [&one, &two].map(|bundle| (bundle.id.clone(), Some(u64::from(bundle.pid()))));
    wanted.sort();
    assert_eq!((status, pids), (200, wanted.map(|(_, pid)| pid).to_vec()));
    assert!(get(port, &format!("/v1/containers/{}", two.id)).1.contains(&format!("\"pid\":{}", two.pid())));
    // One exposition: each family once, with both.
    let (_, metrics) = get(port, "/metrics");
    clean(&metrics);
    let states = metrics.lines().filter(|line| line.contains("state=\"healthy\"} 1")).count();
    assert_eq!((states, metrics.matches("# TYPE orlop_container_state ").count()), (2, 1), "{metrics}");
    // Nothing can be changed, and what is not there is not.
    assert_eq!(ask(port, &format!("POST /v1/containers/{}/stop", one.id), "").expect("an answer").0, 403);
    assert_eq!((get(port, "/v1/events").0, get(port, "/none").0), (404, 404));

    // It is stopped: its last good value is not repeated, and the other one's is as new as before.
    second.signal("STOP");
    wait(|| said(&two.id, 503, "unknown no-supervisor"));
    assert!(said(&one.id, 200, "healthy ok") && alive(two.pid()));
    assert_eq!(get(port, "/healthz").1, "ok containers=2 unknown=1\n");
    let age: f64 = sample(port, &format!("orlop_container_health_age_seconds{{id=\"{0}\",name=\"{0}\"}}", one.id))
        .and_then(|age| age.parse().ok())
        .expect("an age");
    assert!(age < 2.0, "{age}");
    let (_, metrics) = get(port, "/metrics");
    clean(&metrics);
    // Nothing is counted of it: a count of nothing would look like a new start.
    let silent: Vec<_> = metrics.lines().filter(|line| line.contains(&two.id)).collect();
    assert!(
        silent.iter().all(|line| line.starts_with("orlop_container_state{") || line.contains("_reason_info{")),
        "{silent:?}"
    );
    second.signal("CONT");
    wait(|| said(&two.id, 200, "healthy ok"));

    // It is dead, and its container runs; then that has ended, too.
    let pid = two.pid();
    second.end("KILL");
    wait(|| said(&two.id, 503, "unknown no-supervisor"));
    let view: Value = serde_json::from_str(&get(port, &format!("/v1/containers/{}", two.id)).1).expect("JSON");
    assert_eq!((view["pid"].as_u64(), alive(pid)), (Some(pid.into()), true));
    assert!(Command::new("kill").arg("-KILL").arg(pid.to_string()).status().expect("kill").success());
    wait(|| said(&two.id, 503, "stopped no-supervisor"));
    assert_eq!(node.end("TERM").0, Some(0));
}

/// More supervisors than are asked at once take what they are sent and say nothing.
#[test]
fn supervisors_that_hang_hold_up_no_other() {
    let place = Place::new("node-hang");
    let bundle = Bundle::sleeper();
    let _shim = place.supervise(&bundle, STOP, &[]);
    let mute: Vec<_> = (0..150)
        .map(|number| {
            // Before and after it by name.
            let path = place.base.join("shims").join(format!("{}{number}", if number % 2 == 0 { "a" } else { "z" }));
            fs::create_dir_all(&path).expect("a directory");
            std::os::unix::net::UnixListener::bind(path.join("read.sock")).expect("a socket")
        })
        .collect();
    let port = free_port();
    let _node = place.node(&["--listen", &listen(port)]);
    let ready = || ask(port, &format!("GET /readyz?id={}", bundle.id), "").is_some_and(|(status, _)| status == 200);
    wait(ready);
    let frozen = || bundle.on("pause", &[]).well();
    // It is heard of within the patience for one, not for all of them.
    for _ in 0..5 {
        frozen();
        wait(|| !ready());
        bundle.on("resume", &[]).well();
        wait(ready);
    }
    let (_, metrics) = get(port, "/metrics");
    assert_eq!(metrics.matches("state=\"unknown\"} 1").count(), mute.len());
}

#[test]
fn who_does_not_know_the_token_is_told_nothing() {
    let place = Place::new("node-bearer");
    let bundle = Bundle::sleeper();
    let _shim = place.supervise(&bundle, STOP, &[]);
    let (port, file) = (free_port(), place.base.join("token"));
    let path = file.to_str().expect("UTF-8");
    // Without one, and with one that others can read, it does not begin.
    let all = format!("0.0.0.0:{port}");
    outcome(place.shim(&["node", "--listen", &all])).fails("--bearer-file");
    fs::write(&file, TOKEN).expect("write");
    outcome(place.shim(&["node", "--listen", &all, "--bearer-file", path])).fails("can be read by others");
    fs::remove_file(&file).expect("remove");
    secret(&file, TOKEN);

    let node = place.node(&["--listen", &listen(port), "--bearer-file", path]);
    let told =
        |token: &str| ask(port, "GET /metrics", &format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    wait(|| told(TOKEN).1.contains(&bundle.id));
    // Who knows it may name the host as he likes.
    let named = format!("Host: node.example:1\r\nAuthorization: Bearer {TOKEN}\r\n");
    assert_eq!(ask(port, "GET /healthz", &named).expect("an answer").0, 200);
    for target in ["/metrics", "/healthz", "/none", &format!("/readyz?id={}", bundle.id)] {
        assert_eq!(get(port, target), (401, "Unauthorized\n".to_owned()), "{target}");
    }
    assert_eq!((told(&TOKEN[1..]).0, told(&format!("{TOKEN}0")).0), (401, 401));
    let words = fs::read_to_string(format!("/proc/{}/cmdline", node.pid())).expect("cmdline");
    assert!(words.contains("token") && !words.contains(TOKEN));
    // Another one is read when it is told so; what is none does not open the port.
    let other = TOKEN.replace("test", "next");
    secret(&file, &other);
    node.signal("HUP");
    wait(|| told(&other).0 == 200 && told(TOKEN).0 == 401);
    secret(&file, "short");
    node.signal("HUP");
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!((told(&other).0, told("short").0), (200, 401));
    let (status, said) = node.end("TERM");
    assert!(status == Some(0) && said.contains("the old one counts") && !said.contains("next"), "{said}");
}

/// From another network namespace's address, which is none of the loopback interface.
#[test]
fn another_machine_asks_with_the_token() {
    let place = Place::new("node-far");
    let file = place.base.join("token");
    secret(&file, TOKEN);
    let script = format!(
        "ip link set lo up && ip addr add 192.0.2.1/32 dev lo
         '{shim}' --directory '{dir}/shims' node --listen 192.0.2.1:9181 --bearer-file '{dir}/token' & node=$!
         trap 'kill $node' EXIT
         for try in $(seq 100); do
             said=$(curl -s -o /dev/null -w '%{{http_code}}' -H 'Authorization: Bearer {TOKEN}' http://192.0.2.1:9181/healthz) && break
             sleep 0.1
         done
         echo \"$said\"; curl -s -o /dev/null -w '%{{http_code}}' http://192.0.2.1:9181/healthz",
        shim = env!("CARGO_BIN_EXE_orlop-shim"),
        dir = place.base.display(),
    );
    let mut command = Command::new("unshare");
    command.args(["-n", "bash", "-c", &script]).stdin(Stdio::null());
    assert_eq!(outcome(command).stdout(), "200\n401");
}

#[test]
fn a_client_that_says_too_much_or_nothing_is_cut_off() {
    let place = Place::new("node-limits");
    let port = free_port();
    let _node = place.node(&["--listen", &listen(port)]);
    wait(|| TcpStream::connect(("127.0.0.1", port)).is_ok());
    assert_eq!(ask(port, &format!("GET /{}", "x".repeat(9000)), "").expect("an answer").0, 431);
    // More than there may be: one is turned away, and none is left over.
    let mut held: Vec<_> = (0..257).map(|_| TcpStream::connect(("127.0.0.1", port)).expect("connect")).collect();
    let mut last = held.pop().expect("a client");
    last.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let mut said = String::new();
    let _ = last.read_to_string(&mut said);
    assert!(said.starts_with("HTTP/1.1 503 "), "{said}");
    drop(held);
    wait(|| ask(port, "GET /healthz", "").is_some_and(|(status, _)| status == 200));
}

/// A line to the agent's port, and what comes back.
fn agent(port: u16, line: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream.write_all(line.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

#[test]
fn one_agent_has_a_line_for_each_container() {
    let place = Place::new("node-agent");
    let bundle = Bundle::sleeper();
    let shim = place.supervise(&bundle, STOP, &[]);
    let port = free_port();
    outcome(place.shim(&["node", "--agent", &format!("0.0.0.0:{port}")])).fails("--agent-from");
    let node = place.node(&["--agent", &listen(port)]);
    wait(|| agent(port, &format!("{}\n", bundle.id)).as_deref() == Some("ready up\n"));
    assert_eq!(agent(port, &format!("{}\r\n", bundle.id)).as_deref(), Some("ready up\n"));
    bundle.on("pause", &[]).well();
    wait(|| agent(port, &format!("{}\n", bundle.id)).as_deref() == Some("drain #paused\n"));
    assert_eq!(agent(port, "other\n").as_deref(), Some("down #no-such-container\n"));
    for line in ["../etc\n", "\n", "a b\n", &"x".repeat(1026)] {
        assert_eq!(agent(port, line).as_deref(), Some("down #invalid-id\n"), "{line}");
    }
    // Who says nothing, or never ends a line, is told so and hung up on; meanwhile the others are answered.
    let silent = std::thread::spawn(move || agent(port, ""));
    assert_eq!(agent(port, "other\n").as_deref(), Some("down #no-such-container\n"));
    assert_eq!(silent.join().expect("a thread").as_deref(), Some("down #invalid-id\n"));
    node.end("TERM");
    // A new one says nothing of those that it has not asked: HAProxy would take all of them down.
    bundle.on("resume", &[]).well();
    shim.signal("STOP");
    let node = place.node(&["--agent", &listen(port)]);
    wait(|| TcpStream::connect(("127.0.0.1", port)).is_ok());
    let line = format!("{}\n", bundle.id);
    let waits = std::thread::spawn(move || agent(port, &line));
    std::thread::sleep(Duration::from_millis(200));
    shim.signal("CONT");
    assert_eq!(waits.join().expect("a thread").as_deref(), Some("ready up\n"));
    node.end("TERM");
    // HAProxy asks from elsewhere, says this one.
    let _node = place.node(&["--agent", &listen(port), "--agent-from", "192.0.2.7", "--listen", &listen(free_port())]);
    wait(|| {
        agent(port, "other\n").is_none_or(|said| said.is_empty()) && TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
}

#[test]
fn a_stop_with_drain_tells_everybody_before_it_sends_the_signal() {
    let place = Place::new("node-drain");
    let script = "trap 'echo > /tmp/term; exit 0' TERM; echo > /tmp/up; while :; do sleep 0.05; done";
    let (port, line) = (free_port(), free_port());
    let _node = place.node(&["--listen", &listen(port), "--agent", &listen(line)]);
    for drain in [500.0, 0.3] {
        let bundle = Bundle::script(script);
        let health = format!(r#"{{"stop": {{"timeoutSeconds": 600, "drainSeconds": {drain}}}}}"#);
        let shim = place.supervise(&bundle, &health, &[]);
        let (id, signalled) = (&bundle.id, || bundle.rootfs("tmp/term").exists());
        let ready = || ask(port, &format!("GET /readyz?id={id}"), "").unwrap_or_default();
        wait(|| bundle.rootfs("tmp/up").exists() && ready().0 == 200);
        let stop = begin(place.shim(&["stop", id]));
        if drain > 1.0 {
            wait(|| ready() == (503, "stopping stopping\n".to_owned()));
            wait(|| agent(line, &format!("{id}\n")).as_deref() == Some("drain #stopping\n"));
            assert!(alive(bundle.pid()) && !signalled());
            // Who gives it less time than that has it end now, and not be killed then.
            outcome(place.shim(&["stop", "--timeout", "300", id])).well();
        }
        stop.end().well();
        assert!(signalled());
        drop(shim);
        let _ = fs::remove_file(bundle.rootfs("tmp/term"));
    }
}

#[test]
fn a_drained_container_goes_on_and_gets_no_work() {
    let place = Place::new("node-drained");
    let bundle = Bundle::sleeper();
    let shim = place.supervise(&bundle, STOP, &[]);
    let (port, line) = (free_port(), free_port());
    let _node = place.node(&["--listen", &listen(port), "--agent", &listen(line)]);
    let id = &bundle.id;
    let says = |status, text: &str| {
        wait(|| ask(port, &format!("GET /readyz?id={id}"), "") == Some((status, format!("{text}\n"))));
    };
    let verb = |verb: &str| outcome(place.shim(&[verb, id])).well();
    says(200, "healthy ok");
    let pid = bundle.pid();
    verb("drain");
    says(503, "notready drained");
    assert_eq!(agent(line, &format!("{id}\n")).as_deref(), Some("drain #drained\n"));
    assert_eq!((get(port, &format!("/livez?id={id}")).0, alive(pid)), (200, true));
    assert_eq!(sample(port, &format!("orlop_container_ready{{id=\"{id}\",name=\"{id}\"}}")).as_deref(), Some("0"));
    // It stays so through another start of its own, and under another program of its supervisor's.
    verb("restart");
    wait(|| !alive(pid) && bundle.status() == "running");
    verb("upgrade");
    let record = || fs::read_to_string(place.base.join("shims").join(id).join("events.ndjson")).expect("a record");
    wait(|| record().contains("\"resumed\""));
    says(503, "notready drained");
    verb("undrain");
    says(200, "healthy ok");
    assert_eq!(shim.end("TERM").0, Some(0));
}
