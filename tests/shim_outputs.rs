//! What a supervisor of a real container tells: over its sockets, by `check`, and by `top` on a terminal.

mod common;

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Bundle, Outcome, Running, alive, begin, outcome, value, wait};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::termios::{LocalFlags, tcgetattr};
use orlop::shim::metrics;
use serde_json::Value;

const SHIM: &str = env!("CARGO_BIN_EXE_orlop-shim");

/// A container and its supervisor, which is a child of ours.
struct Supervised {
    bundle: Bundle,
    supervisor: Option<Running>,
    port: SocketAddr,
}

impl Supervised {
    fn new(script: &str, health: &str) -> Self {
        let bundle = Bundle::script(script);
        fs::write(bundle.dir.join("health.json"), health).expect("health.json");
        // Free a moment ago.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a port");
        let mut supervised = Self { bundle, supervisor: None, port };
        let mut command = supervised.shim(&["run", "--listen", &port.to_string(), "--root"]);
        command.arg(&supervised.bundle.store).arg(&supervised.bundle.dir).arg(&supervised.bundle.id);
        supervised.supervisor = Some(begin(command));
        wait(|| supervised.check("bool").stdout() == "healthy ok\n");
        supervised
    }

    fn shim(&self, words: &[&str]) -> Command {
        let mut command = Command::new(SHIM);
        command.arg("--directory").arg(self.bundle.dir.join("shims")).args(words).stdin(Stdio::null());
        command
    }

    fn check(&self, words: &str) -> Outcome {
        outcome(self.shim(&["check", &self.bundle.id, "--as", words]))
    }

    fn signal(&self, name: &str) {
        signal(self.supervisor.as_ref().expect("a supervisor").child.id(), name);
    }

    /// A request to the port: its status and its body.
    fn ask(&self, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.port).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        write!(stream, "{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("ask");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, answer.split_once("\r\n\r\n").expect("a body").1.to_owned())
    }

    /// The value of a metric of the container.
    fn metric(&self, name: &str) -> Option<f64> {
        let (status, text) = self.ask("GET /metrics");
        assert_eq!(status, 200);
        let start = format!("{name}{{id=\"{}\"", self.bundle.id);
        let line = text.lines().find(|line| line.starts_with(&start))?;
        line.rsplit(' ').next().and_then(|value| value.parse().ok())
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        if let Some(running) = self.supervisor.take() {
            let pid = running.child.id();
            for name in ["CONT", "TERM"] {
                let _ = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
            }
            running.end();
        }
    }
}

fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().expect("kill").success());
}

const STOP: &str = r#"{"stop": {"timeoutSeconds": 0.1}}"#;

/// A supervisor that is stopped, and then one that is dead: a manager must not start the container elsewhere.
#[test]
fn a_container_that_runs_is_never_said_not_to() {
    let mut supervised = Supervised::new("exec sleep 1000", STOP);
    let pid = supervised.bundle.pid();
    assert_eq!(supervised.check("ocf").code, Some(0));
    supervised.signal("STOP");
    let said = supervised.check("ocf");
    assert_eq!((said.code, said.stdout().as_str()), (Some(190), "unknown no-supervisor\n"));
    assert_eq!(said.stderr(), "ocf-exit-reason:unknown: no-supervisor\n");
    let table = outcome(supervised.shim(&["status"])).well();
    let row: Vec<&str> = table.lines().nth(1).expect("a row").split_ascii_whitespace().collect();
    assert_eq!(row[..4], [&supervised.bundle.id, &pid.to_string(), "unknown", "no-supervisor"], "{table}");
    supervised.signal("CONT");
    assert_eq!(supervised.check("ocf").code, Some(0));

    supervised.signal("KILL");
    supervised.supervisor.take().expect("a supervisor").end();
    assert!(alive(pid));
    for (words, status) in [("ocf", 190), ("nagios", 3), ("lsb", 4), ("bool", 1)] {
        assert_eq!(supervised.check(words).code, Some(status), "{words}");
    }
    signal(pid, "KILL");
    wait(|| !alive(pid));
    for (words, status) in [("ocf", 7), ("nagios", 2), ("lsb", 3), ("bool", 1)] {
        assert_eq!(supervised.check(words).code, Some(status), "{words}");
    }
    supervised.bundle.on("delete", &[]).well();
    // Its supervisor's record is there, and nothing else.
    assert_eq!(supervised.check("ocf").code, Some(7));
}

#[test]
fn metrics_are_the_kernels_numbers() {
    let supervised = Supervised::new("sleep 1000 & i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; wait", STOP);
    let cgroup = supervised.bundle.cgroup();
    let used = || {
        let stat = fs::read_to_string(cgroup.join("cpu.stat")).expect("cpu.stat");
        let line = stat.lines().find_map(|line| line.strip_prefix("usage_usec ")).expect("usage_usec");
        line.parse::<f64>().expect("a number") / 1e6
    };
    wait(|| supervised.metric("container_processes") == Some(2.0));
    let before = used();
    let told = supervised.metric("container_cpu_usage_seconds_total").expect("a metric");
    assert!(before > 0.0 && before <= told && told <= used(), "{before} {told}");
    let pressure = fs::read_to_string(cgroup.join("cpu.pressure")).is_ok();
    assert_eq!(supervised.metric("container_pressure_cpu_waiting_seconds_total").is_some(), pressure);
    // Controllers that are not there (natively) count nothing.
    for (name, file) in [
        ("container_memory_usage_bytes", "memory.current"),
        ("container_memory_working_set_bytes", "memory.stat"),
        ("container_oom_events_total", "memory.events"),
        ("container_threads", "pids.current"),
    ] {
        assert_eq!(supervised.metric(name).is_some(), cgroup.join(file).exists(), "{name}");
    }
    let start = supervised.metric("container_start_time_seconds").expect("a start");
    assert_eq!(supervised.metric("container_start_time_seconds"), Some(start), "it is not counted anew");
    let stat = fs::read_to_string(format!("/proc/{}/stat", supervised.bundle.pid())).expect("stat");
    let ticks: f64 = stat.rsplit(')').next().and_then(|rest| rest.split(' ').nth(20)?.parse().ok()).expect("a start");
    let boot = fs::read_to_string("/proc/stat").expect("/proc/stat");
    let boot: f64 = boot.lines().find_map(|line| line.strip_prefix("btime ")?.parse().ok()).expect("btime");
    // Whole seconds, and a clock that is set meanwhile: another minute would be a wrong unit or another process.
    assert!((start - boot - ticks / 100.0).abs() < 60.0, "{start} {boot} {ticks}");

    let (_, text) = supervised.ask("GET /metrics");
    let mut child =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).spawn().expect("promtool");
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("write");
    assert!(child.wait().expect("wait").success(), "{text}");
}

#[test]
fn a_port_is_for_reading_and_tells_nothing_that_the_container_has_said() {
    let health = r#"{"stop": {"timeoutSeconds": 0.1}, "log": {"path": "/tmp/orlop-outputs.log"},
        "liveness": {"exec": {"command": ["sh", "-c", "echo secret"]}, "periodSeconds": 0.1}}"#;
    let log = std::env::temp_dir().join(format!("orlop-outputs-{}.log", std::process::id()));
    let health = health.replace("/tmp/orlop-outputs.log", log.to_str().expect("UTF-8"));
    let supervised = Supervised::new("echo secret >&2; exec sleep 1000", &health);
    let id = &supervised.bundle.id;
    let json = || supervised.check("json").stdout();
    wait(|| json().contains("\"output\":\"secret"));
    let (status, view) = supervised.ask(&format!("GET /v1/containers/{id}"));
    assert!(status == 200 && view.contains("\"liveness\"") && !view.contains("secret"), "{view}");
    for verb in ["stop", "kill", "restart"] {
        assert_eq!(supervised.ask(&format!("POST /v1/containers/{id}/{verb}")).0, 403, "{verb}");
    }
    assert_eq!((supervised.ask("GET /livez").0, supervised.ask("GET /readyz?id=other").0), (200, 404));
    // A container that was made anew has an exit in its record, with the end of what it wrote.
    outcome(supervised.shim(&["restart", id])).well();
    let events = || supervised.ask("GET /v1/events").1;
    wait(|| events().contains("org.orlop.container.exit"));
    let record = supervised.bundle.dir.join("shims").join(id).join("events.ndjson");
    assert!(fs::read_to_string(record).expect("a record").contains("secret"));
    assert!(!events().contains("secret"), "{}", events());
    let _ = fs::remove_file(log);
}

/// Words of a query, and the character before each.
fn words(text: &str) -> Vec<&str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty()).collect()
}

/// Each query of the example for Grafana, by its panel.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let panels = dashboard["panels"].as_array().expect("panels");
    let query = |panel: &Value| -> Vec<(String, String)> {
        let title = panel["title"].as_str().expect("a title").to_owned();
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        let targets = panel["targets"].as_array().expect("targets");
        let text = |target: &Value, field: &str| target[field].as_str().unwrap_or_default().to_owned();
        assert!(targets.iter().all(|target| target["datasource"]["uid"] == "${datasource}"), "{title}");
        // What is shown of a label is a query of it, too.
        let legend = |target: &Value| words(&text(target, "legendFormat").replace("{{", " by(")).join(" ");
        targets.iter().map(|target| (text(target, "expr"), legend(target))).collect()
    };
    panels.iter().flat_map(query).collect()
}

/// A metric that is not exported, or a label that a sample has not, would be an empty panel.
#[test]
fn the_dashboard_asks_for_what_a_container_has() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/grafana/orlop.json");
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(path).expect("orlop.json")).expect("JSON");
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    assert!(variables.iter().any(|variable| variable["name"] == "datasource" && variable["type"] == "datasource"));
    let health = r#"{"stop": {"timeoutSeconds": 0.1}, "liveness": {"exec": {"command": ["true"]}, "timeoutSeconds": 5, "periodSeconds": 0.1}}"#;
    let supervised = Supervised::new("exec sleep 1000", health);
    wait(|| supervised.ask("GET /metrics").1.contains("orlop_probe_duration_seconds{"));
    let (_, exposition) = supervised.ask("GET /metrics");
    let cgroup = supervised.bundle.cgroup();
    let queries = queries(&dashboard);
    assert!(queries.len() > 12, "{queries:?}");
    let mut rules = "groups: [{name: dashboard, rules: [".to_owned();
    for (expr, legend) in &queries {
        let expr = expr.replace("$__rate_interval", "1m").replace("$job", "orlop").replace("$id", ".*");
        let names =
            words(&expr).into_iter().filter(|word| word.starts_with("container_") || word.starts_with("orlop_"));
        let names: Vec<&str> = names.collect();
        assert!(!names.is_empty(), "{expr}");
        for name in names {
            let Some(sample) = exposition.lines().find(|line| line.starts_with(&format!("{name}{{"))) else {
                // A limit that is not set, a controller that is not there (natively).
                let family =
                    metrics::FAMILIES.iter().find(|family| format!("{}{}", family.name, family.kind.suffix()) == name);
                let family = family.unwrap_or_else(|| panic!("nothing exports {name}"));
                let (file, key) =
                    family.file().map_or(("memory.current", ""), |file| file.split_once(' ').unwrap_or((file, "")));
                let there = value(cgroup.join(file)).is_ok_and(|text| text != "max" && text.contains(key));
                assert!(!there, "{name} has no sample");
                continue;
            };
            // Prometheus itself adds the job.
            let has = |label: &str| label == "job" || sample.contains(&format!("{label}=\""));
            let matched = expr.split(['{', '}']).skip(1).step_by(2).flat_map(|inside| inside.split(','));
            let matched = matched.filter_map(|matcher| words(matcher).first().copied());
            let grouped = expr.split("by (").nth(1).and_then(|rest| rest.split(')').next()).into_iter().flat_map(words);
            let shown = legend.split("by ").skip(1).filter_map(|rest| rest.split(' ').next());
            for label in matched.chain(grouped).chain(shown) {
                assert!(has(label), "{name} has no label {label}: {sample}");
            }
        }
        rules += &format!("{{record: a, expr: {}}},", serde_json::json!(expr));
    }
    // Its own syntax is Prometheus' affair.
    let path = supervised.bundle.dir.join("rules.yml");
    fs::write(&path, rules + "]}]\n").expect("write");
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "rules"]).arg(path);
    outcome(promtool).well();
}

/// The other side of `top`'s terminal.
struct Terminal {
    master: File,
    seen: String,
}

impl Terminal {
    /// Reads until this has been written.
    #[track_caller]
    fn until(&mut self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut bytes = [0; 4096];
        while !self.seen.contains(text) {
            assert!(Instant::now() < deadline, "no {text:?} in {:?}", self.seen);
            match self.master.read(&mut bytes) {
                Ok(count) => self.seen.push_str(&String::from_utf8_lossy(&bytes[..count])),
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(5)),
                Err(error) => panic!("{error}: {:?}", self.seen),
            }
        }
    }
}

#[test]
fn top_shows_all_containers_and_leaves_the_terminal_as_it_was() {
    let supervised = Supervised::new("exec sleep 1000", STOP);
    for end in ["q", "\u{3}", "TERM"] {
        let pty = nix::pty::openpty(None, None).expect("openpty");
        let size = libc::winsize { ws_row: 10, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };
        orlop::sys::ioctl::tiocswinsz(pty.master.as_fd(), &size).expect("a size");
        fcntl(&pty.master, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK)).expect("fcntl");
        let before = tcgetattr(&pty.slave).expect("tcgetattr");
        let side = || Stdio::from(pty.slave.try_clone().expect("dup"));
        let mut top = supervised.shim(&["top"]).stdin(side()).stdout(side()).spawn().expect("top");
        let mut terminal = Terminal { master: pty.master.into(), seen: String::new() };
        terminal.until("\x1b[?1049h");
        terminal.until(&supervised.bundle.id);
        terminal.until("healthy");
        // The second look has something to compare with.
        terminal.until("%");
        let local = tcgetattr(&pty.slave).expect("tcgetattr").local_flags;
        assert!(!local.intersects(LocalFlags::ICANON | LocalFlags::ECHO));
        match end {
            "TERM" => signal(top.id(), "TERM"),
            key => terminal.master.write_all(key.as_bytes()).expect("a key"),
        }
        terminal.until("\x1b[?1049l");
        assert_eq!(top.wait().expect("wait").code(), Some(0), "{end:?}");
        assert_eq!(tcgetattr(&pty.slave).expect("tcgetattr"), before, "{end:?}");
    }
    // On no terminal it prints once, and ends.
    assert!(outcome(supervised.shim(&["top"])).well().contains("healthy"));
}
