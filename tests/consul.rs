//! A TTL check of Consul's, with the files in examples/consul, against a server here that speaks the agent's documented API.

mod common;

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{Bundle, Outcome, Running, alive, begin, outcome, soon, value};
use serde_json::{Value, json};

const SHIM: &str = env!("CARGO_BIN_EXE_orlop-shim");
const TOKEN: &str = "0123-secret";
/// Long against a heartbeat's period, on a slow machine too.
const TTL: Duration = Duration::from_secs(5);

/// A check as `GET /v1/agent/checks` has it.
struct Check {
    status: String,
    output: String,
    ttl: Duration,
    /// When it was updated, or has expired.
    at: Instant,
    /// Times that no update came in time.
    expired: u32,
}

impl Check {
    /// What has become of it meanwhile.
    fn look(&mut self) {
        if self.status != "critical" && self.at.elapsed() > self.ttl {
            self.status = "critical".to_owned();
            self.output = "TTL expired".to_owned();
            self.expired += 1;
        }
    }
}

/// The agent: checks by their ids.
#[derive(Clone)]
struct Agent {
    address: SocketAddr,
    checks: Arc<Mutex<HashMap<String, Check>>>,
}

impl Agent {
    /// Its thread ends with the test's process.
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let agent = Self { address: listener.local_addr().expect("an address"), checks: Arc::default() };
        let serving = agent.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = serving.answer(&stream);
            }
        });
        agent
    }

    fn answer(&self, mut stream: &TcpStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut reader = BufReader::new(stream);
        let (mut first, mut length, mut token) = (String::new(), 0, String::new());
        reader.read_line(&mut first)?;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, text)) = line.trim_end().split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = text.parse().unwrap_or(0),
                "x-consul-token" => token = text.to_owned(),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let words: Vec<&str> = first.split(' ').collect();
        let status = if token == TOKEN { self.act(words[0], words[1], &body) } else { 403 };
        write!(stream, "HTTP/1.1 {status} It\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    }

    /// The status of a request, as Consul has it.
    fn act(&self, method: &str, path: &str, body: &[u8]) -> u16 {
        if method != "PUT" {
            return 405;
        }
        let Ok(body) = serde_json::from_slice::<Value>(body) else { return 400 };
        let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
        let mut checks = self.checks.lock().expect("checks");
        if path == "/v1/agent/check/register" {
            let ttl = text("TTL").strip_suffix('s').and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
            let Some(ttl) = ttl.filter(|_| !text("Name").is_empty()) else { return 400 };
            let check =
                Check { status: "critical".to_owned(), output: String::new(), ttl, at: Instant::now(), expired: 0 };
            checks.insert(text("ID"), check);
            return 200;
        }
        let Some(id) = path.strip_prefix("/v1/agent/check/update/") else { return 404 };
        let Some(check) = checks.get_mut(id) else { return 404 };
        if !["passing", "warning", "critical"].contains(&text("Status").as_str()) {
            return 400;
        }
        check.look();
        (check.status, check.output, check.at) = (text("Status"), text("Output"), Instant::now());
        200
    }

    /// A check's status and output.
    fn says(&self, id: &str) -> (String, String) {
        let mut checks = self.checks.lock().expect("checks");
        let check = checks.get_mut(id).expect("a check");
        check.look();
        (check.status.clone(), check.output.clone())
    }

    fn expired(&self, id: &str) -> u32 {
        self.checks.lock().expect("checks")[id].expired
    }
}

/// A container whose file tells Consul's agent, and the agent.
struct Watched {
    bundle: Bundle,
    agent: Agent,
    token: PathBuf,
}

impl Watched {
    fn new() -> Self {
        let bundle = Bundle::script("touch /tmp/alive; exec sleep 1000");
        let token = bundle.dir.join("consul-token");
        fs::write(&token, format!("X-Consul-Token: {TOKEN}\n")).expect("write");
        fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).expect("chmod");
        let watched = Self { bundle, agent: Agent::new(), token };
        let mut health: Value = serde_json::from_str(&watched.example("health.json")).expect("health.json");
        let probe = |file: &str| json!({"exec": {"command": ["test", file, "/tmp/alive"]}, "periodSeconds": 0.2, "failureThreshold": 1, "timeoutSeconds": 10});
        health["liveness"] = probe("-e");
        health["readiness"] = probe("-f");
        health["stop"] = json!({"timeoutSeconds": 0.1});
        health["heartbeat"]["periodSeconds"] = json!(0.2);
        fs::write(watched.bundle.dir.join("health.json"), health.to_string()).expect("health.json");
        watched
    }

    /// A file of examples/consul, with the agent's address and the token's file.
    fn example(&self, name: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/consul").join(name);
        let text = fs::read_to_string(path).expect(name);
        let text = text.replace("127.0.0.1:8500", &self.agent.address.to_string());
        text.replace("/etc/orlop/consul-token", &self.token.to_string_lossy())
    }

    fn shim(&self, words: &[&str]) -> Command {
        let mut command = Command::new(SHIM);
        command.arg("--directory").arg(self.bundle.dir.join("shims")).args(words).stdin(Stdio::null());
        command
    }

    fn supervised(&self) -> Running {
        let mut command = self.shim(&["run", "--root"]);
        command.arg(&self.bundle.store).arg(&self.bundle.dir).arg(&self.bundle.id);
        begin(command)
    }

    fn register(&self) -> Outcome {
        let script = self.example("register").replace("30s", &format!("{}s", TTL.as_secs()));
        let mut command = Command::new("sh");
        command.args(["-c", &script, "register", &self.bundle.id]).stdin(Stdio::null());
        outcome(command)
    }

    #[track_caller]
    fn soon(&self, status: &str, said: &str) {
        soon(|| self.agent.says(&format!("ctr:{}", self.bundle.id)) == (status.to_owned(), said.to_owned()));
    }

    /// What the supervisor has said of its heartbeat: null is heard.
    fn heartbeats(&self) -> Vec<Value> {
        let events = self.bundle.dir.join("shims").join(&self.bundle.id).join("events.ndjson");
        let text = fs::read_to_string(events).unwrap_or_default();
        let events = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("an event"));
        events.filter_map(|event| event["data"].get("heartbeat").cloned()).collect()
    }
}

fn end(shim: Running, signal: &str) -> Outcome {
    let _ = Command::new("kill").arg(format!("-{signal}")).arg(shim.child.id().to_string()).status();
    shim.end()
}

#[test]
fn a_check_follows_its_container_and_expires_without_a_supervisor() {
    let watched = Watched::new();
    let id = format!("ctr:{}", watched.bundle.id);
    let shim = watched.supervised();
    // The agent knows nothing of it yet.
    soon(|| watched.heartbeats().contains(&json!("HTTP status 404")));
    watched.register().well();
    watched.soon("passing", "ok");
    soon(|| watched.heartbeats().last() == Some(&Value::Null));
    sleep(TTL + Duration::from_secs(1));
    assert_eq!((watched.agent.says(&id).0.as_str(), watched.agent.expired(&id)), ("passing", 0));

    let file = watched.bundle.rootfs("tmp/alive");
    fs::remove_file(&file).expect("remove");
    watched.soon("critical", "probe-failed");
    fs::create_dir(&file).expect("a directory is no file");
    watched.soon("warning", "not-ready");
    fs::remove_dir(&file).expect("remove");
    fs::write(&file, "").expect("write");
    watched.soon("passing", "ok");
    assert_eq!(watched.agent.expired(&id), 0, "it was told, and has not run out");

    end(shim, "KILL");
    watched.soon("critical", "TTL expired");
    let pid = watched.bundle.pid();
    assert!(alive(pid));
    let shim = begin(watched.shim(&["resume", &watched.bundle.id]));
    watched.soon("passing", "ok");
    assert_eq!(watched.bundle.pid(), pid);
    // Its last word is its end.
    end(shim, "TERM");
    watched.soon("critical", "exited");
}

#[test]
fn the_token_is_in_its_file_alone_and_read_for_each_heartbeat() {
    let watched = Watched::new();
    watched.register().well();
    let shim = watched.supervised();
    watched.soon("passing", "ok");
    // Another token is refused, and said to be.
    fs::write(&watched.token, "X-Consul-Token: wrong-secret\n").expect("write");
    soon(|| watched.heartbeats().contains(&json!("HTTP status 403")));
    watched.register().fails("403");
    fs::write(&watched.token, format!("X-Consul-Token: {TOKEN}\n")).expect("write");
    soon(|| watched.heartbeats().last() == Some(&Value::Null));

    let pid = shim.child.id();
    let view = outcome(watched.shim(&["check", &watched.bundle.id, "--as", "json"])).well();
    let mut said = vec![view, value(format!("/proc/{pid}/environ")).expect("environ")];
    said.push(value(format!("/proc/{pid}/cmdline")).expect("cmdline"));
    let left = fs::read_dir(watched.bundle.dir.join("shims").join(&watched.bundle.id)).expect("its directory");
    let files = left.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    said.extend(files.map(|entry| String::from_utf8_lossy(&fs::read(entry.path()).expect("a file")).into_owned()));
    let ended = end(shim, "TERM");
    said.extend([ended.stdout(), ended.stderr()]);
    for text in said {
        assert!(!text.contains(TOKEN) && !text.contains("wrong-secret"), "{text}");
    }
}

#[test]
fn the_page_shows_the_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/cluster/consul.md")).expect("consul.md");
    let mut shown = page.split("```").skip(1).step_by(2).map(|block| block.trim_start_matches("json").trim());
    for file in ["health.json", "register"] {
        let written = fs::read_to_string(root.join("examples/consul").join(file)).expect(file);
        let shown = shown.next().expect("a block");
        assert!(written.trim_end().ends_with(shown), "{file} is not {shown}");
    }
}
